//! Addresses where peers of this content may be, and when to dial which.

use super::Established;
use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// Addresses remembered for one content.
const KNOWN_MAX: usize = 1000;
/// Dials of one content under way at once.
const DIALLING_MAX: usize = 16;
/// Wait after the first failed dial; doubles with each further one.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The longest wait between two dials of one address.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// How an address became known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Named by configuration or by the caller.
    Configured,
    /// Found by DNS-SD on the link.
    LinkLocal,
}

#[derive(Debug)]
struct Known {
    origin: Origin,
    state: State,
    failures: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Due(Instant),
    Dialling,
    Connected,
}

/// What a dial came to.
#[derive(Debug)]
pub(super) struct Dialled {
    pub(super) address: SocketAddr,
    pub(super) result: Result<Box<Established>, DialError>,
}

/// Why a dial led to no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DialError {
    /// Try again later.
    Failed,
    /// The address is our own.
    Ourselves,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Dials {
    known: HashMap<SocketAddr, Known>,
    banned: HashSet<SocketAddr>,
    running: JoinSet<Dialled>,
    next_due: Option<Instant>,
}

impl Dials {
    /// Remembers an address; due at once.
    pub(super) fn add(&mut self, address: SocketAddr, origin: Origin, now: Instant) {
        if self.banned.contains(&address) || self.known.len() >= KNOWN_MAX {
            return;
        }
        let known = self.known.entry(address).or_insert(Known {
            origin,
            state: State::Due(now),
            failures: 0,
        });
        if origin == Origin::LinkLocal {
            known.origin = origin;
        }
        self.refresh();
    }

    /// The next address to dial now, if any; it counts as being dialled from here on.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<(SocketAddr, Origin)> {
        if self.running.len() >= DIALLING_MAX || self.next_due.is_none_or(|at| at > now) {
            return None;
        }
        let (address, known) = self
            .known
            .iter_mut()
            .find(|(_, k)| matches!(k.state, State::Due(at) if at <= now))?;
        known.state = State::Dialling;
        let due = (*address, known.origin);
        self.refresh();
        Some(due)
    }

    pub(super) fn start(&mut self, dial: impl Future<Output = Dialled> + Send + 'static) {
        self.running.spawn(dial);
    }

    /// The outcome of the next dial; `None` at once when none is under way.
    pub(super) async fn next(&mut self) -> Option<Dialled> {
        self.running.join_next().await?.ok()
    }

    /// When [`Self::take_due`] will have something.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.next_due.filter(|_| self.running.len() < DIALLING_MAX)
    }

    pub(super) fn failed(&mut self, address: SocketAddr, now: Instant) {
        if let Some(known) = self.known.get_mut(&address) {
            let wait = RETRY_FIRST
                .saturating_mul(1 << known.failures.min(6))
                .min(RETRY_MAX);
            known.failures += 1;
            known.state = State::Due(now + wait);
        }
        self.refresh();
    }

    pub(super) fn connected(&mut self, address: SocketAddr) {
        if let Some(known) = self.known.get_mut(&address) {
            known.state = State::Connected;
            known.failures = 0;
        }
        self.refresh();
    }

    /// The connection to this address has ended; it may be tried again after a while.
    pub(super) fn closed(&mut self, address: SocketAddr, now: Instant) {
        if let Some(known) = self.known.get_mut(&address) {
            known.state = State::Due(now + RETRY_FIRST);
        }
        self.refresh();
    }

    /// Never dials this address again for this content.
    pub(super) fn ban(&mut self, address: SocketAddr) {
        self.known.remove(&address);
        if self.banned.len() < KNOWN_MAX {
            self.banned.insert(address);
        }
        self.refresh();
    }

    pub(super) fn is_banned(&self, address: &SocketAddr) -> bool {
        self.banned.contains(address)
    }

    /// Forgets every address that is not connected, and ends dials under way.
    pub(super) fn clear(&mut self) {
        self.running.abort_all();
        self.known.retain(|_, k| k.state == State::Connected);
        self.refresh();
    }

    pub(super) fn known_count(&self) -> u32 {
        u32::try_from(self.known.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.known.keys().copied()
    }

    fn refresh(&mut self) {
        self.next_due = self
            .known
            .values()
            .filter_map(|k| match k.state {
                State::Due(at) => Some(at),
                State::Dialling | State::Connected => None,
            })
            .min();
    }
}
