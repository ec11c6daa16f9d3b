//! Dials of one content: carries out what [`Candidates`] decides.

use super::{
    Established,
    candidates::{Candidates, Due, Named, Unconnected},
};
use crate::{dial::Opened, route::Route};
use dosvc_content::PeerId;
use std::{borrow::Cow, collections::HashMap, net::SocketAddr, time::Instant};
use tokio::task::{AbortHandle, JoinSet};

/// Dials of one content under way at once.
const DIALLING_MAX: usize = 16;

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

/// What a dial came to.
#[derive(Debug)]
pub(super) struct Dialled {
    pub(super) route: Route,
    pub(super) result: Result<Step, DialError>,
}

/// How far a dial has come.
#[derive(Debug)]
pub(super) enum Step {
    /// There is a connection.
    Opened(Box<Opened>),
    /// The peer was spoken to.
    Established(Box<Established>),
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
    /// Refused because what leads there is not open here.
    pub(crate) const NO_WAY: Self = Self::Refused(Cow::Borrowed(
        "this machine has no such way to others at present",
    ));
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Dials {
    candidates: Candidates,
    running: JoinSet<Dialled>,
    handles: HashMap<Route, AbortHandle>,
}

impl Dials {
    /// As [`Candidates::add`].
    pub(super) fn add(&mut self, named: Named, now: Instant) {
        self.candidates.add(named, now);
    }

    /// As [`Candidates::take_due`].
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Due> {
        let room = self.running.len() < DIALLING_MAX;
        room.then(|| self.candidates.take_due(now)).flatten()
    }

    pub(super) fn start(
        &mut self,
        route: Route,
        dial: impl Future<Output = Result<Step, DialError>> + Send + 'static,
    ) {
        let handle = self.running.spawn(async move {
            let result = dial.await;
            Dialled { route, result }
        });
        self.handles.insert(route, handle);
    }

    /// The outcome of the next dial; `None` at once when none is under way.
    pub(super) async fn next(&mut self) -> Option<Dialled> {
        loop {
            // Those that were given up are only forgotten.
            if let Ok(dialled) = self.running.join_next().await? {
                self.handles.remove(&dialled.route);
                return Some(dialled);
            }
        }
    }

    /// When [`Self::take_due`] will have something.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let due = self.candidates.next_due();
        due.filter(|_| self.running.len() < DIALLING_MAX)
    }

    /// A way is open. Whether the peer is to be spoken to on it.
    pub(super) fn opened(&mut self, route: Route, now: Instant) -> bool {
        let (speak, given_up) = self.candidates.opened(route, now);
        self.give_up(given_up);
        speak
    }

    /// As [`Candidates::failed`].
    pub(super) fn failed(&mut self, route: Route, error: DialError, now: Instant) {
        self.candidates.failed(route, error, now);
    }

    /// As [`Candidates::is_at`].
    pub(super) fn is_at(&mut self, peer: PeerId, route: Route) {
        self.candidates.is_at(peer, route);
    }

    /// As [`Candidates::listens_at`].
    pub(super) fn listens_at(&mut self, peer: PeerId, address: SocketAddr, by: Route) {
        self.candidates.listens_at(peer, address, by);
    }

    /// The peer is connected by this way: what is no better is given up.
    pub(super) fn connected(&mut self, peer: PeerId, by: Route) {
        let given_up = self.candidates.connected(peer, by);
        self.give_up(given_up);
    }

    fn give_up(&mut self, routes: Vec<Route>) {
        for route in routes {
            if let Some(dial) = self.handles.remove(&route) {
                dial.abort();
            }
        }
    }

    /// As [`Candidates::closed`].
    pub(super) fn closed(&mut self, peer: PeerId, was_of_use: bool, now: Instant) {
        self.candidates.closed(peer, was_of_use, now);
    }

    /// As [`Candidates::is_ours`].
    pub(super) fn is_ours(&mut self, address: SocketAddr) {
        self.candidates.is_ours(address);
    }

    /// Forgets every way but those of connected peers, and ends dials under way.
    pub(super) fn clear(&mut self) {
        self.running.abort_all();
        self.handles.clear();
        self.candidates.clear();
    }

    pub(super) fn peer_count(&self) -> u32 {
        self.candidates.peer_count()
    }

    pub(super) fn routes(&self) -> impl Iterator<Item = Route> {
        self.candidates.routes()
    }

    /// As [`Candidates::unconnected`].
    pub(super) fn unconnected(&self) -> impl Iterator<Item = Unconnected<'_>> {
        self.candidates.unconnected()
    }
}
