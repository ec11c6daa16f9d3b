//! Addresses where peers of this content may be, and when to dial which. Of a peer with several addresses one is
//! dialled at a time, and none while the peer is connected.

use super::Established;
use dosvc_content::PeerId;
use std::{
    borrow::Cow,
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
/// A discovered address that failed so often in a row is forgotten; discovery names it again if it comes back.
const FAILURES_MAX: u32 = 8;
/// How long a peer's other addresses wait for the one that is being dialled.
const NEXT_ADDRESS: Duration = Duration::from_secs(2);

/// How an address became known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finder {
    /// Named by configuration or by the caller.
    Configured,
    /// Found by DNS-SD on the link.
    LinkLocal,
    /// Named by the fleet's array.
    Array,
}

#[derive(Debug)]
struct Known {
    finder: Finder,
    /// Who is there, as far as anybody has said.
    peer: Option<PeerId>,
    state: State,
    failures: u32,
    /// Why the last dial led to nothing.
    last_error: Option<DialError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Due(Instant),
    Dialling,
    /// The peer is connected, by this address or another.
    Connected,
}

/// What a dial came to.
#[derive(Debug)]
pub(super) struct Dialled {
    pub(super) address: SocketAddr,
    pub(super) result: Result<Box<Established>, DialError>,
}

/// Why a dial led to no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DialError {
    /// Try again later.
    #[error("cannot {step}: {error}")]
    Failed {
        /// What was tried.
        step: &'static str,
        /// What came of it.
        error: String,
    },
    /// Nothing was sent: the peer is none of ours, as things are.
    #[error("{0}")]
    Refused(Cow<'static, str>),
    /// The address is our own.
    #[error("this machine itself")]
    Ourselves,
}

impl DialError {
    /// Refused because it is banned.
    pub(crate) const BANNED: Self = Self::Refused(Cow::Borrowed(
        "it is banned: it gave wrong bytes or broke the protocol",
    ));
    /// Refused because this content has no peers.
    pub(crate) const NO_PEERS: Self = Self::Refused(Cow::Borrowed("the content has no peers"));
    /// Refused because it proved another group than the one that the content is for.
    pub(crate) const OTHER_GROUP: Self = Self::Refused(Cow::Borrowed(
        "it is of another group than the content is for",
    ));
    /// Refused for want of a place.
    pub(crate) const NO_PLACE: Self = Self::Refused(Cow::Borrowed(
        "there are too many connections, or too many with its address",
    ));
}

/// An address that nobody is connected at.
#[derive(Debug)]
pub(super) struct Unconnected<'a> {
    pub(super) address: SocketAddr,
    /// When it is dialled next; `None`: it is being dialled.
    pub(super) due: Option<Instant>,
    /// Dials and connections in a row that came to nothing.
    pub(super) failures: u32,
    pub(super) last_error: Option<&'a DialError>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Dials {
    known: HashMap<SocketAddr, Known>,
    own: HashSet<SocketAddr>,
    running: JoinSet<Dialled>,
    next_due: Option<Instant>,
}

impl Dials {
    /// Remembers an address; due at once, unless its peer is connected.
    pub(super) fn add(
        &mut self,
        address: SocketAddr,
        peer: Option<PeerId>,
        finder: Finder,
        connected: bool,
        now: Instant,
    ) {
        if self.own.contains(&address) {
            return;
        }
        if let Some(known) = self.known.get_mut(&address) {
            if finder == Finder::LinkLocal {
                known.finder = finder;
            }
            known.peer = peer.or(known.peer);
            return;
        }
        if self.known.len() >= KNOWN_MAX && !self.forget_worst() {
            return;
        }
        let state = if connected {
            State::Connected
        } else {
            self.next_due = Some(self.next_due.map_or(now, |at| at.min(now)));
            State::Due(now)
        };
        let known = Known {
            finder,
            peer,
            state,
            failures: 0,
            last_error: None,
        };
        self.known.insert(address, known);
    }

    /// Makes room: the discovered address that failed most often goes.
    fn forget_worst(&mut self) -> bool {
        let worst = self
            .known
            .iter()
            .filter(|(_, k)| {
                k.failures > 0 && k.finder != Finder::Configured && matches!(k.state, State::Due(_))
            })
            .max_by_key(|(_, k)| k.failures)
            .map(|(address, _)| *address);
        worst.is_some_and(|address| self.known.remove(&address).is_some())
    }

    /// The next address to dial now, if any, those that failed least first; it counts as being dialled from here on.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<(SocketAddr, Finder)> {
        if self.running.len() >= DIALLING_MAX || self.next_due.is_none_or(|at| at > now) {
            return None;
        }
        let (address, known) = self
            .known
            .iter_mut()
            .filter(|(_, k)| matches!(k.state, State::Due(at) if at <= now))
            .min_by_key(|(_, k)| k.failures)?;
        known.state = State::Dialling;
        let due = (*address, known.finder);
        if let Some(peer) = known.peer {
            self.put_off(peer, now + NEXT_ADDRESS);
        }
        self.refresh();
        Some(due)
    }

    /// The peer's other addresses are not due before `at`.
    fn put_off(&mut self, peer: PeerId, at: Instant) {
        for known in self.known.values_mut().filter(|k| k.peer == Some(peer)) {
            if let State::Due(due) = &mut known.state {
                *due = (*due).max(at);
            }
        }
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

    /// A dial came to nothing. That is no news of a peer that has dialled us meanwhile.
    pub(super) fn failed(&mut self, address: SocketAddr, error: DialError, now: Instant) {
        let known = self.known.get_mut(&address);
        if let Some(known) = known.filter(|k| k.state != State::Connected) {
            known.state = State::Due(now + wait_after(known.failures));
            known.failures += 1;
            known.last_error = Some(error);
            if known.failures >= FAILURES_MAX && known.finder != Finder::Configured {
                self.known.remove(&address);
            }
        }
        self.refresh();
    }

    /// This peer answers at the address, whether or not the connection is the one that stays.
    pub(super) fn is_at(&mut self, peer: PeerId, address: SocketAddr) {
        if let Some(known) = self.known.get_mut(&address) {
            known.peer = Some(peer);
        }
    }

    /// A peer that has dialled us says that it listens there. Whoever is known to be there already stays, as anybody
    /// behind the same address can say so.
    pub(super) fn listens_at(&mut self, peer: PeerId, address: SocketAddr) {
        if let Some(known) = self.known.get_mut(&address)
            && known.peer.is_none()
        {
            known.peer = Some(peer);
            known.state = State::Connected;
            self.refresh();
        }
    }

    /// The peer is connected: none of its addresses is dialled.
    pub(super) fn connected(&mut self, peer: PeerId) {
        for known in self.known.values_mut().filter(|k| k.peer == Some(peer)) {
            known.state = State::Connected;
        }
        self.refresh();
    }

    /// The peer's connection has ended; its addresses may be tried again after a while, which gets longer each time
    /// that nothing came of it.
    pub(super) fn closed(&mut self, peer: PeerId, was_of_use: bool, now: Instant) {
        for known in self.known.values_mut().filter(|k| k.peer == Some(peer)) {
            if was_of_use {
                known.failures = 0;
            }
            known.last_error = None;
            known.state = State::Due(now + wait_after(known.failures));
            known.failures += 1;
        }
        self.refresh();
    }

    /// The address is our own: never dialled again for this content.
    pub(super) fn is_ours(&mut self, address: SocketAddr) {
        self.known.remove(&address);
        if self.own.len() < KNOWN_MAX {
            self.own.insert(address);
        }
        self.refresh();
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

    /// Every address that nobody is connected at, and how it stands.
    pub(super) fn unconnected(&self) -> impl Iterator<Item = Unconnected<'_>> {
        self.known
            .iter()
            .filter(|(_, k)| k.state != State::Connected)
            .map(|(address, k)| Unconnected {
                address: *address,
                due: match k.state {
                    State::Due(at) => Some(at),
                    State::Dialling | State::Connected => None,
                },
                failures: k.failures,
                last_error: k.last_error.as_ref(),
            })
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

fn wait_after(failures: u32) -> Duration {
    RETRY_FIRST
        .saturating_mul(1 << failures.min(6))
        .min(RETRY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], n))
    }

    fn unreachable() -> DialError {
        DialError::Refused("nobody there".into())
    }

    fn peer(n: u8) -> PeerId {
        PeerId::from_random([n; 16])
    }

    fn found(dials: &mut Dials, n: u16, who: u8, now: Instant) {
        dials.add(address(n), Some(peer(who)), Finder::LinkLocal, false, now);
    }

    fn take_all(dials: &mut Dials, now: Instant) -> Vec<u16> {
        std::iter::from_fn(|| dials.take_due(now).map(|(a, _)| a.port())).collect()
    }

    #[test]
    fn of_one_peer_one_address_is_dialled_at_a_time_and_none_once_it_is_connected() {
        let now = Instant::now();
        let mut dials = Dials::default();
        for port in [1, 2, 3] {
            found(&mut dials, port, 1, now);
        }
        found(&mut dials, 9, 2, now);
        let first = take_all(&mut dials, now);
        assert_eq!(first.len(), 2, "one of each peer: {first:?}");
        dials.connected(peer(1));
        let later = now + Duration::from_secs(3600);
        assert!(take_all(&mut dials, later).is_empty());
        assert_eq!(dials.next_due(), None, "and nothing wakes for them");
        dials.closed(peer(1), true, later);
        assert_eq!(dials.next_due(), Some(later + RETRY_FIRST));
        assert_eq!(take_all(&mut dials, later + RETRY_FIRST).len(), 1);
    }

    #[test]
    fn peer_that_closes_without_giving_anything_is_tried_ever_more_seldom() {
        let mut now = Instant::now();
        let mut dials = Dials::default();
        dials.add(address(1), None, Finder::Configured, false, now);
        let mut waits = Vec::new();
        for _ in 0..8 {
            assert_eq!(take_all(&mut dials, now), [1]);
            dials.is_at(peer(1), address(1));
            dials.connected(peer(1));
            dials.closed(peer(1), false, now);
            let due = dials.next_due().expect("tried again");
            waits.push((due - now).as_secs());
            now = due;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn dead_addresses_are_forgotten_and_fresh_ones_go_first() {
        let mut now = Instant::now();
        let mut dials = Dials::default();
        for port in 1..=1000 {
            dials.add(address(port), None, Finder::LinkLocal, false, now);
        }
        for port in take_all(&mut dials, now) {
            dials.failed(address(port), unreachable(), now);
        }
        found(&mut dials, 2000, 1, now);
        assert_eq!(dials.known_count(), 1000, "a dead one made room");
        assert!(take_all(&mut dials, now).contains(&2000));
        for _ in 0..FAILURES_MAX {
            now += RETRY_MAX;
            for port in take_all(&mut dials, now) {
                dials.failed(address(port), unreachable(), now);
            }
        }
        let left = dials.known_count();
        assert!(left <= 1, "{left}");
    }

    #[test]
    fn peer_that_has_dialled_us_is_not_dialled_while_it_is_connected() {
        let now = Instant::now();
        let mut dials = Dials::default();
        for port in [1, 2, 3] {
            dials.add(address(port), None, Finder::Configured, false, now);
        }
        found(&mut dials, 4, 4, now);
        assert_eq!(take_all(&mut dials, now).len(), 4);
        dials.failed(address(1), unreachable(), now);
        // One whose dial has failed, one whose dial still runs, one that says it is where another is.
        dials.listens_at(peer(1), address(1));
        dials.listens_at(peer(2), address(2));
        dials.listens_at(peer(3), address(4));
        for port in [2, 3, 4] {
            dials.failed(address(port), unreachable(), now);
        }
        let mut again = take_all(&mut dials, now + RETRY_MAX);
        again.sort_unstable();
        assert_eq!(again, [3, 4]);
        dials.closed(peer(1), true, now);
        dials.closed(peer(2), true, now);
        assert_eq!(take_all(&mut dials, now + RETRY_MAX).len(), 2);
    }

    #[test]
    fn configured_addresses_are_never_forgotten() {
        let mut now = Instant::now();
        let mut dials = Dials::default();
        dials.add(address(1), None, Finder::Configured, false, now);
        for _ in 0..20 {
            now += RETRY_MAX;
            assert_eq!(take_all(&mut dials, now), [1]);
            dials.failed(address(1), unreachable(), now);
        }
    }
}
