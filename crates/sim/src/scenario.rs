//! What is simulated: machines, links, and what happens when.

use dosvc_content::{Bitfield, PieceLengths};
use std::time::Duration;

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
    /// An HTTP server; every other machine knows it.
    Origin,
}

/// One machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// What it does.
    pub role: Role,
    /// Its link.
    pub link: Link,
    /// When it starts.
    pub joins: Duration,
    /// When it leaves, if it does.
    pub leaves: Option<Duration>,
    /// Leaves this long after it is complete.
    pub leaves_when_done: Option<Duration>,
    /// Speaks our extensions.
    pub extended: bool,
}

impl Machine {
    /// A machine that is there from the start and stays.
    pub fn new(role: Role, link: Link) -> Self {
        Self {
            role,
            link,
            joins: Duration::ZERO,
            leaves: None,
            leaves_when_done: None,
            extended: true,
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
    /// `delay policy` of every machine.
    pub http_delay: Duration,
    /// `qos_bps` of every machine.
    pub qos_bps: Option<u64>,
    /// Changes, each at the moment when the leeches together have this share of what they want.
    pub changes: Vec<(f64, Change)>,
    /// The run fails when not done by then.
    pub limit: Duration,
    /// The cores' own invariants are checked after every so many events; 0: never.
    pub check_every: u64,
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
            seed: 1,
            lengths: PieceLengths::new(u64::from(pieces) << 20, 1 << 20)
                .expect("content of a sane length"),
            machines,
            neighbours: usize::MAX,
            discovery: Duration::from_millis(50),
            http_delay: Duration::ZERO,
            qos_bps: None,
            changes: Vec::new(),
            limit: Duration::from_secs(3600),
            check_every: 997,
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

    /// Bytes of the content.
    pub fn length(&self) -> u64 {
        self.lengths.content_length()
    }

    /// What a machine of this role begins with.
    pub(crate) fn have(&self, role: Role) -> Bitfield {
        let count = self.lengths.piece_count();
        match role {
            Role::Leech => Bitfield::new(count),
            Role::Seed | Role::Silent | Role::Corrupt | Role::Origin => Bitfield::full(count),
        }
    }

    /// The least time in which all leeches can be done: max(F/u_s, F/d_min, N·F/(u_s + Σ u_i)).
    pub fn bound(&self) -> Duration {
        let of = |role| self.machines.iter().filter(move |m| m.role == role);
        let f = self.length() as f64;
        let giving = of(Role::Seed)
            .chain(of(Role::Origin))
            .map(|m| m.link.up as f64)
            .sum::<f64>();
        let leeches = of(Role::Leech).count() as f64;
        let slowest = of(Role::Leech).map(|m| m.link.down).min().unwrap_or(1) as f64;
        let together = giving + of(Role::Leech).map(|m| m.link.up as f64).sum::<f64>();
        let bounds = [f / giving, f / slowest, leeches * f / together];
        Duration::from_secs_f64(bounds.into_iter().fold(0.0, f64::max))
    }
}
