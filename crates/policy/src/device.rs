//! What a machine is, as far as policies ask: plain facts, which somebody else finds out. What is not known closes
//! no gate.

use crate::Percent;
use std::fmt;

/// What is known about the machine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Device {
    /// Memory in all, as the kernel reports it, in bytes.
    pub ram_total: Option<u64>,
    /// Capacity of the disk that the cache lies on, in bytes.
    pub disk_total: Option<u64>,
    /// Where its power comes from; `None`: it has no battery, or nobody knows.
    pub power: Option<Power>,
    /// Its network adapters that are up.
    pub adapters: Vec<Adapter>,
    /// Whether what crosses its Internet connection is paid for by the byte.
    pub metered: Option<bool>,
    /// Bytes sent to Internet peers in this calendar month.
    pub internet_bytes_this_month: Option<u64>,
}

/// The power supply of a machine with a battery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Power {
    /// It runs on its battery.
    pub on_battery: bool,
    /// How full the battery is.
    pub charge: Option<Percent>,
}

/// A network adapter that is up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Adapter {
    /// Its name, `tun0`.
    pub name: String,
    /// What an administrator calls it (`ip link set … alias`); may be empty.
    pub description: String,
    /// Its kind.
    pub kind: AdapterKind,
}

/// What an adapter is, as far as VPNs go.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AdapterKind {
    /// A TUN device: OpenVPN, most user-space VPNs. (TAP devices mostly belong to virtual machines: [`Self::Other`].)
    Tun,
    /// WireGuard.
    WireGuard,
    /// PPP: L2TP, PPTP, SSTP. A line that is dialled by PPPoE looks the same.
    Ppp,
    /// IPsec (XFRM or VTI).
    Ipsec,
    /// A connection that the network's management says is a VPN.
    Declared,
    /// Anything else.
    Other,
}

impl AdapterKind {
    /// Whether an adapter of this kind is a VPN whatever it is called.
    pub fn is_vpn(self) -> bool {
        self != Self::Other
    }
}

impl fmt::Display for AdapterKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tun => "TUN",
            Self::WireGuard => "WireGuard",
            Self::Ppp => "PPP",
            Self::Ipsec => "IPsec",
            Self::Declared => "VPN",
            Self::Other => "adapter",
        })
    }
}
