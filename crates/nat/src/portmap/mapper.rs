//! When a gateway is asked for what.

use super::{Failure, Granted, Mapping, Method, PORTS_MAX, Port, Ports, Route, State, Status};
use crate::teredo::random::Random;
use std::{
    net::SocketAddrV4,
    time::{Duration, Instant},
};

/// How long after a failure the gateway is asked again; each time twice as long.
const RETRY: Duration = Duration::from_secs(10 * 60);
/// The longest such time.
const RETRY_MAX: Duration = Duration::from_secs(4 * 3600);
/// Renewals are at least this part of a lease apart, whatever a gateway grants.
const RENEWAL_PART_MIN: u32 = 60;
/// A restart of the gateway is believed at most once in this part of a lease.
const RESTART_PART_MIN: u32 = 120;
/// A lease longer than this counts as this long.
const LEASE_MAX: Duration = Duration::from_secs(24 * 3600);

/// What the owner of a [`Mapper`] is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the gateway to map these ports, or to keep them mapped, and tell [`Mapper::handle_answer`]. What was asked
    /// before doesn't matter any more.
    Map {
        /// What the answer is to be known by.
        id: u64,
        /// The gateway.
        route: Route,
        /// The ports.
        ports: Ports,
        /// For how long.
        lease: Duration,
        /// Whether it is not known how this gateway is asked, or no longer.
        search: bool,
    },
    /// Have the gateway remove these. Nobody waits for an answer.
    Unmap(Vec<Port>),
    /// Forget the gateway: there is another one.
    Forget,
}

#[derive(Debug)]
enum Phase {
    Idle,
    Asking { id: u64, search: bool },
    Mapped { renew_at: Instant },
    Failed { why: Failure, retry_at: Instant },
}

/// What is held, how it was asked for, and until when.
#[derive(Debug, Default)]
struct Held {
    mappings: Vec<Mapping>,
    method: Option<Method>,
    until: Option<Instant>,
}

/// The state machine. After every call, [`poll_action`](Self::poll_action), [`poll_timeout`](Self::poll_timeout) and
/// [`status`](Self::status) are to be asked.
#[derive(Debug)]
pub struct Mapper {
    lease: Duration,
    random: Random,
    ports: Ports,
    route: Option<Route>,
    phase: Phase,
    held: Held,
    asked: u64,
    failures: u32,
    restart_at: Option<Instant>,
    actions: std::collections::VecDeque<Action>,
    granted: u64,
    failed: u64,
}

impl Mapper {
    /// Knows no gateway and wants nothing yet. Leases of this length are asked for.
    pub fn new(lease: Duration, seed: [u8; 32]) -> Self {
        Self {
            lease: lease.clamp(Duration::from_secs(1), LEASE_MAX),
            random: Random::new(seed),
            ports: Ports::new(),
            route: None,
            phase: Phase::Idle,
            held: Held::default(),
            asked: 0,
            failures: 0,
            restart_at: None,
            actions: std::collections::VecDeque::new(),
            granted: 0,
            failed: 0,
        }
    }

    /// These ports are wanted from now on, the first [`PORTS_MAX`] of them.
    pub fn handle_ports(&mut self, ports: Ports) {
        let ports: Ports = ports.into_iter().take(PORTS_MAX).collect();
        if ports == self.ports {
            return;
        }
        let gone = self.ports.difference(&ports).copied().collect();
        self.held.mappings.retain(|m| ports.contains(&m.port));
        self.ports = ports;
        self.unmap(gone);
        self.begin();
    }

    /// This is the gateway now; `None`: there is none.
    pub fn handle_route(&mut self, route: Option<Route>) {
        if route == self.route {
            return;
        }
        self.route = route;
        self.forget();
        self.begin();
    }

    /// What a gateway held is lost; another one may speak something else.
    fn forget(&mut self) {
        self.held = Held::default();
        self.failures = 0;
        self.actions.clear();
        self.actions.push_back(Action::Forget);
    }

    /// The gateway says that it has started anew, or has another address: what it had mapped may be gone.
    pub fn handle_restart(&mut self, now: Instant) {
        let spacing = self.lease / RESTART_PART_MIN;
        let lately = self.restart_at.is_some_and(|at| now < at + spacing);
        if lately || matches!(self.phase, Phase::Idle | Phase::Asking { .. }) {
            return;
        }
        self.restart_at = Some(now);
        let search = !matches!(self.phase, Phase::Mapped { .. });
        self.ask(search);
    }

    /// The gateway's answer to what was asked under this number.
    pub fn handle_answer(&mut self, now: Instant, id: u64, answer: Result<Granted, Failure>) {
        let Phase::Asking { id: asked, search } = self.phase else {
            return;
        };
        if asked != id {
            return;
        }
        match answer.and_then(|granted| self.believable(granted)) {
            Ok(granted) => self.hold(now, granted),
            Err(_) if !search => {
                self.failed += 1;
                // The gateway may be another one, with the same address.
                self.ask(true);
            }
            Err(why) => self.fail(now, why),
        }
    }

    /// Only what was asked for, and what can be.
    fn believable(&self, granted: Granted) -> Result<Granted, Failure> {
        let Granted { method, mappings } = granted;
        let mut kept: Vec<(Mapping, Duration)> = Vec::new();
        for (mapping, lease) in mappings {
            let known = kept.iter().any(|(kept, _)| kept.port == mapping.port);
            if self.ports.contains(&mapping.port) && !known {
                kept.push((mapping, lease));
            }
        }
        let address = |(mapping, _): &(Mapping, Duration)| *mapping.external.ip();
        if kept.iter().map(address).any(|ip| ip.is_unspecified()) {
            return Err(Failure::NoExternalAddress);
        }
        let possible = |mapping: &Mapping| is_address(mapping.external);
        match !kept.is_empty() && kept.iter().all(|(mapping, _)| possible(mapping)) {
            true => Ok(Granted {
                method,
                mappings: kept,
            }),
            false => Err(Failure::Nonsense),
        }
    }

    fn hold(&mut self, now: Instant, granted: Granted) {
        let shortest = granted.mappings.iter().map(|(_, lease)| *lease).min();
        let least = self.lease / RENEWAL_PART_MIN;
        let lease = shortest.unwrap_or(self.lease).clamp(least, LEASE_MAX);
        self.held = Held {
            mappings: granted.mappings.into_iter().map(|(m, _)| m).collect(),
            method: Some(granted.method),
            until: Some(now + lease),
        };
        // RFC 6887 §11.2.1.
        let half = [lease / 2, lease * 5 / 8];
        let renew_at = now + self.random.between(half).max(least);
        self.failures = 0;
        self.granted += 1;
        self.phase = Phase::Mapped { renew_at };
    }

    fn fail(&mut self, now: Instant, why: Failure) {
        self.failed += 1;
        let doubled = RETRY
            .saturating_mul(1 << self.failures.min(8))
            .min(RETRY_MAX);
        self.failures = self.failures.saturating_add(1);
        let mut wait = self.random.between([doubled, doubled * 5 / 4]);
        // While something is held it is worth more tries (RFC 6887 §11.2.1).
        if let Some(left) = self
            .held
            .until
            .and_then(|at| at.checked_duration_since(now))
        {
            wait = (left / 2).max(self.lease / RENEWAL_PART_MIN);
        }
        let retry_at = now + wait;
        self.phase = Phase::Failed { why, retry_at };
    }

    /// The time that [`poll_timeout`](Self::poll_timeout) named has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.held.until.is_some_and(|at| at <= now) {
            self.held = Held::default();
        }
        match self.phase {
            Phase::Mapped { renew_at } if renew_at <= now => self.ask(false),
            Phase::Failed { retry_at, .. } if retry_at <= now => self.ask(true),
            _ => {}
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let next = match self.phase {
            Phase::Idle | Phase::Asking { .. } => None,
            Phase::Mapped { renew_at } => Some(renew_at),
            Phase::Failed { retry_at, .. } => Some(retry_at),
        };
        [next, self.held.until].into_iter().flatten().min()
    }

    /// What is to be done next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// How things stand.
    pub fn status(&self) -> Status {
        let state = match (&self.phase, self.held.method) {
            (Phase::Idle, _) if self.ports.is_empty() => State::Off,
            (Phase::Idle, _) => State::NoGateway,
            (Phase::Failed { why, .. }, _) => State::Failed(why.clone()),
            // Renewals are nobody's business.
            (_, Some(method)) => State::Mapped(method),
            (_, None) => State::Asking,
        };
        Status {
            state,
            route: self.route,
            mappings: self.held.mappings.clone(),
            granted: self.granted,
            failed: self.failed,
        }
    }

    fn begin(&mut self) {
        match self.ports.is_empty() || self.route.is_none() {
            true => {
                self.phase = Phase::Idle;
                self.held = Held::default();
            }
            // How the gateway is asked stays known while there is anything.
            false => self.ask(!matches!(self.phase, Phase::Mapped { .. })),
        }
    }

    fn ask(&mut self, search: bool) {
        let Some(route) = self.route else { return };
        self.asked += 1;
        self.phase = Phase::Asking {
            id: self.asked,
            search,
        };
        self.actions.push_back(Action::Map {
            id: self.asked,
            route,
            ports: self.ports.clone(),
            lease: self.lease,
            search,
        });
    }

    fn unmap(&mut self, ports: Vec<Port>) {
        if !ports.is_empty() {
            self.actions.push_back(Action::Unmap(ports));
        }
    }
}

/// Whether this can lead anywhere at all.
fn is_address(external: SocketAddrV4) -> bool {
    let ip = external.ip();
    let special = ip.is_loopback() || ip.is_multicast() || ip.is_broadcast() || ip.is_link_local();
    external.port() != 0 && !special && ip.octets()[0] != 0 && ip.octets()[0] < 240
}

#[cfg(test)]
mod tests;
