//! What the machine is: its network interfaces and the subnets they stand in, its memory and power, the disk under a
//! folder, VPNs, what DHCP and the directory told it, its local time; and when that changes. Facts only; what follows
//! from them is decided in `dosvc-policy` and above.
//!
//! Files of the kernel and of other services are read below a [`Root`].
//!
//! Entry types: [`Host`] (the facts that policies ask for), [`Changes`] (when they change), [`Interface`] and
//! [`interfaces`], [`Links`], [`Disk`] and [`disk`], [`local_time`].

mod adapter;
mod directory;
mod disk;
mod interface;
mod lease;
mod links;
mod memory;
mod network_manager;
mod power;
mod root;
mod watch;

pub use adapter::{adapters, default_router};
pub use directory::{Directory, directory};
pub use disk::{Disk, disk};
pub use interface::{Interface, interfaces};
pub use lease::{Lease, lease};
pub use links::Links;
pub use memory::{memory_available, memory_total};
pub use network_manager::Connectivity;
pub use power::power;
pub use root::Root;
pub use watch::Changes;

use dosvc_policy::{Adapter, AdapterKind, Device};
use std::path::Path;

/// The time of day, the date and the zone as a person at this machine reads them: what timetables (business
/// hours, throttling hours) are written in.
pub fn local_time() -> jiff::Zoned {
    jiff::Zoned::now()
}

/// The machine as policies see it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Host {
    root: Root,
}

impl Host {
    /// The machine whose files are seen below this folder.
    pub fn new(root: Root) -> Self {
        Self { root }
    }

    /// Where its files are.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// What gates ask for, with the cache in this folder. Reads a few small files; what cannot be read is not known.
    pub fn device(&self, cache: &Path, connectivity: &Connectivity) -> Device {
        let declared = connectivity.vpn.iter().map(|name| Adapter {
            name: name.clone(),
            description: String::new(),
            kind: AdapterKind::Declared,
        });
        Device {
            ram_total: memory_total(&self.root).ok(),
            disk_total: disk(cache).ok().map(|disk| disk.total),
            power: power(&self.root),
            adapters: adapters(&self.root).into_iter().chain(declared).collect(),
            metered: connectivity.metered,
            internet_bytes_this_month: None,
        }
    }

    /// What DHCP told: the files that its clients leave, then NetworkManager's word.
    pub fn lease(&self, connectivity: &Connectivity) -> Lease {
        let now = jiff::Timestamp::now().as_second();
        lease(&self.root, now).or(connectivity.lease.clone())
    }

    /// The connection's DNS suffix: what DHCP said, else the first name that the resolver searches in.
    pub fn dns_suffix(&self, lease: &Lease) -> Option<String> {
        lease::dns_suffix(&self.root, lease)
    }
}
