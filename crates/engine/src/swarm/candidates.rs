//! Ways to peers: which is tried when, which one is kept. Pure: `now` is an argument, nothing is sent from here.
//!
//! A way is an address and what is spoken there ([`Route`]). The ways to one peer are rivals. Of all that are due the best
//! begins; the others follow a head start later each ([`HEAD_START`]), or at once when one has failed. The first that
//! opens is the one on which the peer is spoken to; those that are no better end. A tunnel is worse than any other way, and
//! TCP in it, where nobody proves who it is, worse than QUIC: what is better and was begun goes on beside it, and takes its
//! place if it opens after all.
//!
//! A peer that is connected is not dialled. When its connection ends all of its ways are due again, so a path that dies
//! is replaced by whichever way still leads there.

use super::dials::{DialError, Finder};
use crate::route::{Route, Transport};
use dosvc_content::PeerId;
use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Ways remembered for one content.
const KNOWN_MAX: usize = 1000;
/// How long a way has before its next rival begins (RFC 8305, section 5).
pub(crate) const HEAD_START: Duration = Duration::from_millis(250);
/// However many ways there are, a tunnel need not wait for longer: it is the one that leads through most NATs, and opening
/// it takes several round trips.
const TUNNEL_WAIT_MAX: Duration = Duration::from_millis(500);
/// Wait after the first failed dial; doubles with each further one.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The longest wait between two dials of one way.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// A discovered way that failed so often in a row is forgotten; discovery names it again if it comes back.
const FAILURES_MAX: u32 = 8;
/// Rivals of a way that has opened begin when the introduction on it has failed, or has hung for so long.
const INTRODUCTION_MAX: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct Known {
    finder: Finder,
    /// Who is there, as far as anybody has said.
    peer: Option<PeerId>,
    /// In the LAN, or on this machine.
    near: bool,
    state: State,
    failures: u32,
    /// After its last failure it is not tried before.
    rests_until: Option<Instant>,
    /// Why the last dial led to nothing.
    last_error: Option<DialError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Due(Instant),
    /// Due later only because a rival has a head start.
    Behind(Instant),
    /// Is being opened.
    Opening,
    /// Is open; the peer is being spoken to.
    Introducing,
    /// The peer is connected, by that way.
    Connected(Route),
}

impl State {
    fn is_connected(self) -> bool {
        matches!(self, Self::Connected(_))
    }
}

impl Known {
    fn due(&self) -> Option<Instant> {
        match self.state {
            State::Due(at) | State::Behind(at) => Some(at),
            State::Opening | State::Introducing | State::Connected(_) => None,
        }
    }

    /// The better, the smaller.
    fn rank(&self, route: &Route) -> u8 {
        match (route.transport, self.near, route.address.is_ipv6()) {
            (Transport::Quic, true, _) => 0,
            (Transport::Tcp, true, _) => 1,
            (Transport::Quic, false, true) => 2,
            (Transport::Quic, false, false) => 3,
            (Transport::Tcp, false, true) => 4,
            (Transport::Tcp, false, false) => 5,
            (Transport::Teredo, ..) => 6,
            (Transport::TeredoTcp, ..) => 7,
        }
    }
}

/// A way to be tried now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) route: Route,
    pub(super) finder: Finder,
    /// Who is expected there.
    pub(super) peer: Option<PeerId>,
}

/// A way that nobody is connected by.
#[derive(Debug)]
pub(super) struct Unconnected<'a> {
    pub(super) route: Route,
    /// When it is tried next; `None`: it is being tried.
    pub(super) due: Option<Instant>,
    /// Dials and connections in a row that came to nothing.
    pub(super) failures: u32,
    pub(super) last_error: Option<&'a DialError>,
}

/// What is known of a way when it is named.
#[derive(Debug, Clone, Copy)]
pub(super) struct Named {
    pub(super) route: Route,
    pub(super) peer: Option<PeerId>,
    pub(super) finder: Finder,
    /// In the LAN, or on this machine.
    pub(super) near: bool,
    /// By which way the peer is connected, if it is.
    pub(super) connected: Option<Route>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    known: HashMap<Route, Known>,
    own: HashSet<SocketAddr>,
    next_due: Option<Instant>,
}

impl Candidates {
    /// Remembers a way; due at once, unless its peer is connected.
    pub(super) fn add(&mut self, named: Named, now: Instant) {
        let Named { route, peer, .. } = named;
        if self.own.contains(&route.address) {
            return;
        }
        if let Some(known) = self.known.get_mut(&route) {
            if named.finder == Finder::LinkLocal {
                known.finder = named.finder;
            }
            known.peer = peer.or(known.peer);
            return;
        }
        if self.known.len() >= KNOWN_MAX && !self.forget_worst() {
            return;
        }
        let state = named.connected.map_or(State::Due(now), State::Connected);
        let known = Known {
            finder: named.finder,
            peer,
            near: named.near,
            state,
            failures: 0,
            rests_until: None,
            last_error: None,
        };
        self.known.insert(route, known);
        // Others may be on their way to the same peer.
        self.hold_back_new(route, now);
        self.refresh();
    }

    /// A way that is named while a rival is being tried begins no sooner than had it been known before.
    fn hold_back_new(&mut self, route: Route, now: Instant) {
        let busy = |k: &Known| matches!(k.state, State::Opening | State::Introducing);
        if self.rivals(route).any(|(_, k)| busy(k))
            && let Some(known) = self.known.get_mut(&route)
            && known.state == State::Due(now)
        {
            known.state = State::Behind(now + HEAD_START);
        }
    }

    /// Makes room: the discovered way that failed most often goes.
    fn forget_worst(&mut self) -> bool {
        let worst = self
            .known
            .iter()
            .filter(|(_, k)| k.failures > 0 && k.finder != Finder::Configured && k.due().is_some())
            .max_by_key(|(_, k)| k.failures)
            .map(|(route, _)| *route);
        worst.is_some_and(|route| self.known.remove(&route).is_some())
    }

    /// The other ways to who is there: of a known peer all of its ways, else what is spoken at the same address.
    fn rivals(&self, route: Route) -> impl Iterator<Item = (&Route, &Known)> {
        let peer = self.known.get(&route).and_then(|k| k.peer);
        self.known.iter().filter(move |(other, k)| {
            **other != route
                && match peer {
                    Some(_) => k.peer == peer,
                    None => other.address == route.address,
                }
        })
    }

    /// The next way to try now, if any: those that failed least first, of them the best. It counts as being opened from
    /// here on.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Due> {
        if self.next_due.is_none_or(|at| at > now) {
            return None;
        }
        let (route, known) = self
            .known
            .iter_mut()
            .filter(|(_, k)| k.due().is_some_and(|at| at <= now))
            .min_by_key(|(route, k)| (k.failures, k.rank(route), **route))?;
        known.state = State::Opening;
        let due = Due {
            route: *route,
            finder: known.finder,
            peer: known.peer,
        };
        self.give_head_starts(due.route, now);
        self.refresh();
        Some(due)
    }

    /// Those that are due beside this one follow in turn.
    fn give_head_starts(&mut self, route: Route, now: Instant) {
        let mut behind: Vec<(u8, Route)> = self
            .rivals(route)
            .filter(|(_, k)| matches!(k.state, State::Due(at) if at <= now))
            .map(|(route, k)| (k.rank(route), *route))
            .collect();
        behind.sort_unstable();
        let mut wait = Duration::ZERO;
        for (_, route) in behind {
            wait += HEAD_START;
            let wait = match route.transport {
                Transport::Teredo | Transport::TeredoTcp => wait.min(TUNNEL_WAIT_MAX),
                Transport::Tcp | Transport::Quic => wait,
            };
            self.set(route, State::Behind(now + wait));
        }
    }

    fn set(&mut self, route: Route, state: State) {
        if let Some(known) = self.known.get_mut(&route) {
            known.state = state;
        }
    }

    /// A way is open. Whether the peer is to be spoken to on it, and the ways that are to be given up for it.
    pub(super) fn opened(&mut self, route: Route, now: Instant) -> (bool, Vec<Route>) {
        if self.known.get(&route).map(|k| k.state) != Some(State::Opening) {
            return (false, Vec::new());
        }
        let no_better = |other: &Route| !route.is_better_than(other);
        let first = self.rivals(route).find_map(|(other, k)| match k.state {
            State::Connected(by) if no_better(&by) => Some(k.state),
            State::Introducing if no_better(other) => Some(State::Behind(now + INTRODUCTION_MAX)),
            _ => None,
        });
        if let Some(state) = first {
            self.set(route, state);
            self.refresh();
            return (false, Vec::new());
        }
        let rivals: Vec<(Route, State)> = self.rivals(route).map(|(r, k)| (*r, k.state)).collect();
        // The peer may be connected by a tunnel: then nothing else begins, whatever comes of this.
        let connected = rivals.iter().find(|(_, state)| state.is_connected());
        let behind = State::Behind(now + INTRODUCTION_MAX);
        let held_back = connected.map_or(behind, |(_, state)| *state);
        let mut given_up = Vec::new();
        for (rival, state) in rivals {
            match state {
                State::Opening if !rival.is_better_than(&route) => given_up.push(rival),
                State::Due(_) | State::Behind(_) => {}
                State::Opening | State::Introducing | State::Connected(_) => continue,
            }
            self.set(rival, held_back);
        }
        self.set(route, State::Introducing);
        self.refresh();
        (true, given_up)
    }

    /// A dial came to nothing: the best of those that were held back for it begins. That is no news of a peer that is
    /// connected by another way.
    pub(super) fn failed(&mut self, route: Route, error: DialError, now: Instant) {
        let connected = self
            .rivals(route)
            .map(|(_, k)| k.state)
            .find(|state| state.is_connected());
        let Some(known) = self.known.get_mut(&route) else {
            return;
        };
        if !matches!(known.state, State::Opening | State::Introducing) {
            return;
        }
        known.failures += 1;
        known.last_error = Some(error);
        let again = now + wait_after(known.failures - 1);
        known.rests_until = Some(again);
        known.state = connected.unwrap_or(State::Due(again));
        let behind = self
            .rivals(route)
            .filter(|(_, k)| matches!(k.state, State::Behind(_)))
            .min_by_key(|(route, k)| (k.failures, k.rank(route), **route))
            .map(|(route, k)| (*route, k.rests_until));
        if let Some((next, rests_until)) = behind {
            // One that has failed itself rests all the same: two that fail at once would only take turns.
            let at = rests_until.map_or(now, |until| until.max(now));
            self.set(next, State::Due(at));
        }
        let dead = |k: &Known| k.failures >= FAILURES_MAX && k.finder != Finder::Configured;
        if self.known.get(&route).is_some_and(dead) {
            self.known.remove(&route);
        }
        self.refresh();
    }

    /// This peer answers there, whether or not the connection is the one that stays.
    pub(super) fn is_at(&mut self, peer: PeerId, route: Route) {
        if let Some(known) = self.known.get_mut(&route) {
            known.peer = Some(peer);
        }
        // What else is spoken at the address leads to it, too.
        let same =
            |(other, k): &(&Route, &mut Known)| other.address == route.address && k.peer.is_none();
        for (_, known) in self.known.iter_mut().filter(same) {
            known.peer = Some(peer);
        }
    }

    /// A peer that has dialled us says that it listens there. Whoever is known to be there already stays, as anybody
    /// behind the same address can say so.
    pub(super) fn listens_at(&mut self, peer: PeerId, address: SocketAddr, by: Route) {
        for transport in [Transport::Tcp, Transport::Quic] {
            let route = Route { transport, address };
            if let Some(known) = self.known.get_mut(&route)
                && known.peer.is_none()
            {
                known.peer = Some(peer);
                known.state = State::Connected(by);
            }
        }
        self.refresh();
    }

    /// The peer is connected, by this way if it is one of those known here: none is tried. Answers with those that are to
    /// be given up; what is better than a tunnel may go on.
    pub(super) fn connected(&mut self, peer: PeerId, by: Route) -> Vec<Route> {
        let mut given_up = Vec::new();
        for (route, known) in &mut self.known {
            if known.peer != Some(peer) {
                continue;
            }
            let under_way = known.state == State::Opening;
            if under_way && route.is_better_than(&by) {
                continue;
            }
            if under_way {
                given_up.push(*route);
            }
            known.state = State::Connected(by);
        }
        self.refresh();
        given_up
    }

    /// The peer's connection has ended; its ways may be tried again after a while, which gets longer each time that
    /// nothing came of it.
    pub(super) fn closed(&mut self, peer: PeerId, was_of_use: bool, now: Instant) {
        for known in self.known.values_mut().filter(|k| k.peer == Some(peer)) {
            if was_of_use {
                known.failures = 0;
            }
            if known.state == State::Opening {
                continue;
            }
            known.last_error = None;
            let again = now + wait_after(known.failures);
            known.rests_until = Some(again);
            known.state = State::Due(again);
            known.failures += 1;
        }
        self.refresh();
    }

    /// The address is our own: never tried again for this content.
    pub(super) fn is_ours(&mut self, address: SocketAddr) {
        self.known.retain(|route, _| route.address != address);
        if self.own.len() < KNOWN_MAX {
            self.own.insert(address);
        }
        self.refresh();
    }

    /// Forgets every way but those of peers that are connected.
    pub(super) fn clear(&mut self) {
        self.known.retain(|_, k| k.state.is_connected());
        self.refresh();
    }

    /// When [`Self::take_due`] will have something.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.next_due
    }

    /// How many machines there may be: each known peer is one, and each address of nobody known.
    pub(super) fn peer_count(&self) -> u32 {
        let mut peers = HashSet::new();
        let mut addresses = HashSet::new();
        for (route, known) in &self.known {
            match known.peer {
                Some(peer) => peers.insert(peer),
                None => addresses.insert(route.address),
            };
        }
        u32::try_from(peers.len() + addresses.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn routes(&self) -> impl Iterator<Item = Route> {
        self.known.keys().copied()
    }

    /// Every way that nobody is connected by, and how it stands.
    pub(super) fn unconnected(&self) -> impl Iterator<Item = Unconnected<'_>> {
        self.known
            .iter()
            .filter(|(_, k)| !k.state.is_connected())
            .map(|(route, k)| Unconnected {
                route: *route,
                due: k.due(),
                failures: k.failures,
                last_error: k.last_error.as_ref(),
            })
    }

    fn refresh(&mut self) {
        self.next_due = self.known.values().filter_map(Known::due).min();
    }
}

fn wait_after(failures: u32) -> Duration {
    RETRY_FIRST
        .saturating_mul(1 << failures.min(6))
        .min(RETRY_MAX)
}

#[cfg(test)]
mod tests;
