//! What is simulated: machines, links, and what happens when.

use crate::Network;
use dosvc_content::{Bitfield, PieceLengths};
use dosvc_policy::{Policies, Provider, RawValue};
use std::{sync::Arc, time::Duration};

/// A machine's access link.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Uplink, bytes a second.
    pub up: u64,
    /// Downlink, bytes a second.
    pub down: u64,
    /// One way, from the machine to the middle of the network.
    pub latency: Duration,
}

impl Link {
    /// The same rate both ways, in Mbit/s, and a quarter of a millisecond to the middle.
    pub fn mbit(rate: u64) -> Self {
        Self::mbit_up_down(rate, rate)
    }

    /// Rates in Mbit/s, and a quarter of a millisecond to the middle.
    pub fn mbit_up_down(up: u64, down: u64) -> Self {
        Self {
            up: up * 125_000,
            down: down * 125_000,
            latency: Duration::from_micros(250),
        }
    }
}

/// What a machine does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Has everything from the start.
    Seed,
    /// Wants everything.
    Leech,
    /// Claims to have everything, takes requests and never says a word again.
    Silent,
    /// Has everything and sends wrong bytes.
    Corrupt,
    /// The content's HTTP server; every machine whose mode permits HTTP knows it.
    Origin,
    /// A Connected Cache that holds the content; every machine whose mode permits it knows it.
    CacheHost,
}

impl Role {
    /// An HTTP server.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Origin | Self::CacheHost)
    }

    /// Which of seeds (0), origins (1) and leeches (2) it is counted with.
    pub(crate) fn number(self) -> usize {
        match self {
            Self::Seed | Self::Silent | Self::Corrupt => 0,
            Self::Origin | Self::CacheHost => 1,
            Self::Leech => 2,
        }
    }
}

/// The policies of a machine that nothing is said about: LAN mode, and neither its size nor the content's keeps it
/// from peers.
pub(crate) fn default_policies() -> Policies {
    let mut policies = Policies::default();
    for key in [
        "download_mode",
        "min_file_size_to_cache",
        "min_ram_allowed_to_peer",
        "min_disk_size_allowed_to_peer",
    ] {
        policies
            .set(key, &RawValue::Integer(1), &Provider::Default)
            .expect("1 is allowed for each of them");
    }
    policies
}

/// The next number from 0 to 1, 1 left out.
pub(crate) fn uniform(state: &mut u64) -> f64 {
    (next(state) >> 11) as f64 / (1u64 << 53) as f64
}

/// The next 64 random bits (splitmix64).
pub(crate) fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// One machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// What it does.
    pub role: Role,
    /// Which of [`Scenario::classes`] it belongs to.
    pub class: usize,
    /// Its link.
    pub link: Link,
    /// When it starts.
    pub joins: Duration,
    /// When it leaves, if it does.
    pub leaves: Option<Duration>,
    /// Leaves this long after it is complete.
    pub leaves_when_done: Option<Duration>,
    /// Leaves once so many copies of the content have left it.
    pub leaves_after_copies: Option<f64>,
    /// Speaks our extensions.
    pub extended: bool,
    /// Machines of one site are on each other's LAN.
    pub site: Arc<str>,
    /// Machines of one group can prove it to each other.
    pub group: Option<Arc<str>>,
    /// Its policies: they decide who may be its peer, and its delays.
    pub policies: Arc<Policies>,
    /// Somebody waits for the content.
    pub foreground: bool,
}

impl Machine {
    /// A machine that is there from the start and stays.
    pub fn new(role: Role, link: Link) -> Self {
        Self {
            role,
            class: 0,
            link,
            joins: Duration::ZERO,
            leaves: None,
            leaves_when_done: None,
            leaves_after_copies: None,
            extended: true,
            site: "".into(),
            group: None,
            policies: Arc::new(default_policies()),
            foreground: false,
        }
    }
}

/// Something that happens when the fleet has come this far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Every machine of this role leaves.
    Leave(Role),
}

/// A whole run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Names the table's row.
    pub name: String,
    /// What it is for; may be empty.
    pub about: String,
    /// Names of the classes of machines; may be empty when there is one.
    pub classes: Vec<String>,
    /// The links' model.
    pub network: Network,
    /// Seed of everything random.
    pub seed: u64,
    /// The content.
    pub lengths: PieceLengths,
    /// Who takes part.
    pub machines: Vec<Machine>,
    /// How many neighbours a machine looks for among those that were there before it; seeds and the like always
    /// belong to them.
    pub neighbours: usize,
    /// Peers find each other within this time, each pair at a moment of its own.
    pub discovery: Duration,
    /// Changes, each at the moment when the leeches together have this share of what they want.
    pub changes: Vec<(f64, Change)>,
    /// The run fails when not done by then.
    pub limit: Duration,
    /// The cores' own invariants are checked after every so many events; 0: never.
    pub check_every: u64,
    /// The file that it was read from.
    pub file: Option<String>,
    /// Look at every link 100 times a second, for [`crate::Outcome::idleness`].
    pub look: bool,
}

impl Scenario {
    /// `pieces` pieces of 1 MiB, everybody a neighbour of everybody.
    ///
    /// # Panics
    /// When the content is too long.
    pub fn new(name: &str, pieces: u32, machines: Vec<Machine>) -> Self {
        Self {
            name: name.to_owned(),
            about: String::new(),
            classes: Vec::new(),
            network: Network::tcp(),
            seed: 1,
            lengths: PieceLengths::new(u64::from(pieces) << 20, 1 << 20)
                .expect("content of a sane length"),
            machines,
            neighbours: usize::MAX,
            discovery: Duration::from_millis(50),
            changes: Vec::new(),
            limit: Duration::from_secs(3600),
            check_every: 997,
            file: None,
            look: false,
        }
    }

    /// One seed and `leeches` leeches on links of `mbit` Mbit/s, all at once: W3 of the measurements.
    pub fn seed_and_leeches(pieces: u32, leeches: usize, mbit: u64) -> Self {
        let link = Link::mbit(mbit);
        let mut machines = vec![Machine::new(Role::Seed, link)];
        machines.extend((0..leeches).map(|_| Machine::new(Role::Leech, link)));
        Self::new(&format!("seed+{leeches}"), pieces, machines)
    }

    /// One HTTP origin and `leeches` leeches, `apart` from each other.
    pub fn origin_and_leeches(pieces: u32, leeches: u32, mbit: u64, apart: Duration) -> Self {
        let link = Link::mbit(mbit);
        let mut machines = vec![Machine::new(Role::Origin, link)];
        machines.extend((0..leeches).map(|i| Machine {
            joins: apart * i,
            ..Machine::new(Role::Leech, link)
        }));
        Self::new(&format!("origin+{leeches}"), pieces, machines)
    }

    /// The command that runs it again.
    pub fn repeat(&self) -> String {
        match &self.file {
            Some(file) => format!(
                "to repeat: cargo run --release -p dosvc-sim --example rig -- {file} --seed {}",
                self.seed
            ),
            None => format!("scenario {} with seed {}", self.name, self.seed),
        }
    }

    /// Bytes of the content.
    pub fn length(&self) -> u64 {
        self.lengths.content_length()
    }

    /// What a machine of this role begins with.
    pub(crate) fn have(&self, role: Role) -> Bitfield {
        let count = self.lengths.piece_count();
        match role {
            Role::Leech => Bitfield::new(count),
            Role::Seed | Role::Silent | Role::Corrupt => Bitfield::full(count),
            Role::Origin | Role::CacheHost => Bitfield::new(count),
        }
    }

    /// The least time in which all leeches can be done: max(F/u_s, F/d_min, N·F/(u_s + Σ u_i)).
    pub fn bound(&self) -> Duration {
        let of = |role| self.machines.iter().filter(move |m| m.role == role);
        let f = self.length() as f64;
        let giving = of(Role::Seed)
            .chain(of(Role::Origin))
            .chain(of(Role::CacheHost))
            .map(|m| m.link.up as f64)
            .sum::<f64>();
        let leeches = of(Role::Leech).count() as f64;
        let slowest = of(Role::Leech).map(|m| m.link.down).min().unwrap_or(1) as f64;
        let together = giving + of(Role::Leech).map(|m| m.link.up as f64).sum::<f64>();
        let bounds = [f / giving, f / slowest, leeches * f / together];
        Duration::from_secs_f64(bounds.into_iter().fold(0.0, f64::max))
    }
}
