//! What we ask: searches, the peers they have found, and answers to others' questions that came by a moment ago.
//! Pure: no clock, no socket.

use crate::{
    label::Label,
    limits::{
        ADDRS_PER_PEER_MAX, HEARD_AGE_MAX, HEARD_MAX, PEERS_PER_SEARCH_MAX, TTL_MAX,
        UNRESOLVED_ASKED_MAX,
    },
    link::Link,
    packet::{Holder, Response},
    schedule::Schedule,
};
use dosvc_content::PeerId;
use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr, SocketAddrV6},
    time::{Duration, Instant},
};

/// Names one search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SearchId(u64);

/// A peer that holds the searched content, or is downloading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Who it is, as it says.
    pub peer_id: PeerId,
    /// Where it listens, never empty; every address is on the link that the answer came over. Link-local IPv6
    /// addresses have their scope id.
    pub addrs: Vec<SocketAddr>,
}

/// All searches that live.
#[derive(Debug)]
pub(crate) struct Searches {
    us: PeerId,
    next_id: u64,
    searches: BTreeMap<SearchId, Search>,
    heard: VecDeque<Heard>,
}

#[derive(Debug)]
struct Search {
    label: Label,
    schedule: Schedule,
    asked_at: Option<Instant>,
    peers: BTreeMap<PeerId, Known>,
    /// Peers that the searcher is to be told of, each once.
    ready: VecDeque<PeerId>,
    answered: bool,
}

/// What is known of a peer.
#[derive(Debug)]
struct Known {
    heard_at: Instant,
    ttl: Duration,
    port: Option<u16>,
    /// Addresses, each with the interface that it is on.
    addrs: Vec<(u32, IpAddr)>,
    /// What the searcher has been told.
    told: Vec<SocketAddr>,
}

/// A peer's answer to somebody else's question.
#[derive(Debug)]
struct Heard {
    at: Instant,
    index: u32,
    holder: Holder,
    port: u16,
    addrs: Vec<IpAddr>,
}

/// A question to be sent to every link.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) label: Label,
    /// Peers that are known to hold the content, but not how to reach them.
    pub(crate) unresolved: Vec<PeerId>,
    /// Peers that need not answer.
    pub(crate) known: Vec<Holder>,
}

impl Searches {
    pub(crate) fn new(us: PeerId) -> Self {
        Self {
            us,
            next_id: 0,
            searches: BTreeMap::new(),
            heard: VecDeque::new(),
        }
    }

    /// Begins a search; answers of the last seconds count.
    pub(crate) fn begin(&mut self, now: Instant, label: Label) -> SearchId {
        let id = SearchId(self.next_id);
        self.next_id += 1;
        let mut search = Search {
            label,
            schedule: Schedule::new(now),
            asked_at: None,
            peers: BTreeMap::new(),
            ready: VecDeque::new(),
            answered: false,
        };
        for heard in &self.heard {
            if heard.holder.label == label && now < heard.at + HEARD_AGE_MAX {
                search.hold(heard.at, &heard.holder);
                search.port(heard.holder.peer, heard.port);
                search.addrs(heard.holder.peer, heard.index, &heard.addrs);
            }
        }
        self.searches.insert(id, search);
        id
    }

    pub(crate) fn end(&mut self, id: SearchId) {
        self.searches.remove(&id);
    }

    pub(crate) fn end_all(&mut self) {
        self.searches.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.searches.is_empty()
    }

    /// The next peer that a search has found.
    pub(crate) fn take_found(&mut self, id: SearchId) -> Option<Found> {
        let search = self.searches.get_mut(&id)?;
        while let Some(peer_id) = search.ready.pop_front() {
            if let Some(known) = search.peers.get_mut(&peer_id) {
                let addrs = known.endpoints();
                known.told.clone_from(&addrs);
                return Some(Found { peer_id, addrs });
            }
        }
        None
    }

    /// Whether a search has found anything yet.
    pub(crate) fn is_answered(&self, id: SearchId) -> bool {
        self.searches.get(&id).is_some_and(|search| search.answered)
    }

    /// When [`Self::poll`] has a question next.
    pub(crate) fn timeout(&self) -> Option<Instant> {
        self.searches.values().map(|s| s.schedule.next()).min()
    }

    /// The links have changed: everybody asks anew.
    pub(crate) fn restart(&mut self, now: Instant) {
        for search in self.searches.values_mut() {
            search.schedule.restart(now, search.asked_at);
        }
    }

    /// A question that is due.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Ask> {
        let search = self
            .searches
            .values_mut()
            .find(|search| search.schedule.next() <= now)?;
        search.schedule.asked(now);
        search.asked_at = Some(now);
        Some(search.ask(now))
    }

    /// Takes in what a packet says that came over `link`; whether a search has found something.
    pub(crate) fn handle_response(
        &mut self,
        now: Instant,
        link: &Link,
        response: &Response,
    ) -> bool {
        let index = link.id.index;
        let us = self.us;
        for holder in response.holders.iter().filter(|h| h.peer != us) {
            let mut searched = false;
            for search in self.searches.values_mut() {
                if search.label == holder.label {
                    searched = true;
                    search.hold(now, holder);
                }
            }
            if !searched {
                self.overhear(now, link, holder, response);
            }
        }
        for service in response.services.iter().filter(|s| s.peer != us) {
            if service.ttl_s == 0 {
                self.heard.retain(|heard| heard.holder.peer != service.peer);
            }
            for search in self.searches.values_mut() {
                if service.ttl_s == 0 {
                    search.forget(&service.peer);
                } else {
                    search.port(service.peer, service.port);
                }
            }
        }
        for search in self.searches.values_mut() {
            let known: Vec<PeerId> = search.peers.keys().copied().collect();
            for peer in known {
                let addrs = addrs_of(response, peer, link);
                if !addrs.is_empty() {
                    search.addrs(peer, index, &addrs);
                }
            }
        }
        self.searches
            .values()
            .any(|search| !search.ready.is_empty())
    }

    /// Keeps an answer that nobody here has asked for, for somebody may ask in a moment.
    fn overhear(&mut self, now: Instant, link: &Link, holder: &Holder, response: &Response) {
        self.heard.retain(|heard| {
            let same = heard.holder.peer == holder.peer
                && heard.holder.label == holder.label
                && (heard.index == link.id.index || holder.ttl_s == 0);
            !same && now < heard.at + HEARD_AGE_MAX
        });
        let service = response
            .services
            .iter()
            .find(|s| s.peer == holder.peer && s.ttl_s > 0);
        let addrs = addrs_of(response, holder.peer, link);
        if let Some(service) = service
            && holder.ttl_s > 0
            && !addrs.is_empty()
            && self.heard.len() < HEARD_MAX
        {
            self.heard.push_back(Heard {
                at: now,
                index: link.id.index,
                holder: *holder,
                port: service.port,
                addrs,
            });
        }
    }
}

/// What a packet says of a peer's addresses, as far as they can be on the link that it came over.
fn addrs_of(response: &Response, peer: PeerId, link: &Link) -> Vec<IpAddr> {
    response
        .addresses
        .iter()
        .filter(|address| address.peer == peer && link.holds(address.ip))
        .map(|address| address.ip)
        .take(ADDRS_PER_PEER_MAX)
        .collect()
}

impl Search {
    /// Whether a peer holds the content, as it says itself.
    fn hold(&mut self, now: Instant, holder: &Holder) {
        if holder.ttl_s == 0 {
            return self.forget(&holder.peer);
        }
        let ttl = TTL_MAX.min(Duration::from_secs(holder.ttl_s.into()));
        if let Some(known) = self.peers.get_mut(&holder.peer) {
            known.heard_at = now;
            known.ttl = ttl;
            return;
        }
        if self.peers.len() >= PEERS_PER_SEARCH_MAX {
            let oldest = self
                .peers
                .iter()
                .min_by_key(|(_, known)| known.heard_at)
                .map(|(&peer, _)| peer);
            oldest.inspect(|peer| self.forget(peer));
        }
        let known = Known {
            heard_at: now,
            ttl,
            port: None,
            addrs: Vec::new(),
            told: Vec::new(),
        };
        self.peers.insert(holder.peer, known);
    }

    fn port(&mut self, peer: PeerId, port: u16) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.port = Some(port);
            self.tell(peer);
        }
    }

    /// The peer's addresses on an interface; those that it had there before are forgotten.
    fn addrs(&mut self, peer: PeerId, index: u32, addrs: &[IpAddr]) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.addrs.retain(|&(other, _)| other != index);
            known.addrs.extend(addrs.iter().map(|&ip| (index, ip)));
            known.addrs.truncate(ADDRS_PER_PEER_MAX);
            self.tell(peer);
        }
    }

    /// Queues a peer for the searcher if it can be reached in a way that the searcher has not heard of.
    fn tell(&mut self, peer: PeerId) {
        let Some(known) = self.peers.get(&peer) else {
            return;
        };
        let news = known
            .endpoints()
            .iter()
            .any(|endpoint| !known.told.contains(endpoint));
        if news && !self.ready.contains(&peer) {
            self.ready.push_back(peer);
            self.answered = true;
        }
    }

    fn forget(&mut self, peer: &PeerId) {
        self.peers.remove(peer);
        self.ready.retain(|ready| ready != peer);
    }

    fn ask(&mut self, now: Instant) -> Ask {
        let expired: Vec<PeerId> = self
            .peers
            .iter()
            .filter(|(_, known)| now >= known.heard_at + known.ttl)
            .map(|(&peer, _)| peer)
            .collect();
        for peer in expired {
            self.forget(&peer);
        }
        let (resolved, unresolved): (Vec<_>, Vec<_>) = self
            .peers
            .iter()
            .partition(|(_, known)| !known.endpoints().is_empty());
        Ask {
            label: self.label,
            unresolved: unresolved
                .iter()
                .map(|&(&peer, _)| peer)
                .take(UNRESOLVED_ASKED_MAX)
                .collect(),
            known: resolved
                .iter()
                .filter_map(|(peer, known)| known.as_answer(now, self.label, **peer))
                .collect(),
        }
    }
}

impl Known {
    fn endpoints(&self) -> Vec<SocketAddr> {
        let Some(port) = self.port else {
            return Vec::new();
        };
        let endpoint = |&(index, ip): &(u32, IpAddr)| match ip {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => {
                SocketAddrV6::new(v6, port, 0, index).into()
            }
            _ => SocketAddr::new(ip, port),
        };
        self.addrs.iter().map(endpoint).collect()
    }

    /// The known answer that spares the peer its own; none once half of its life is over (RFC 6762, 7.1).
    fn as_answer(&self, now: Instant, label: Label, peer: PeerId) -> Option<Holder> {
        let left = (self.heard_at + self.ttl).checked_duration_since(now)?;
        let ttl_s = u32::try_from(left.as_secs()).unwrap_or(u32::MAX);
        (left >= self.ttl / 2).then_some(Holder { label, peer, ttl_s })
    }
}

#[cfg(test)]
mod tests;
