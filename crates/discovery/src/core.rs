//! Responder and searches behind one door: packets in, packets out. Pure: no clock, no socket, `now` and the seed
//! are arguments; the same inputs give the same outputs.

use crate::{
    budget::Budget,
    label::Label,
    limits::{PACKETS_PER_SECOND_MAX, TTL},
    link::{Link, LinkId},
    packet::{self, Holder, Packet},
    random::Random,
    responder::{Responder, Transmit},
    searches::{Ask, Found, SearchId, Searches},
};
use dosvc_content::{GroupHash, HashOfHashes, PeerId};
use std::{collections::BTreeMap, net::SocketAddr, time::Instant};

/// One machine's discovery, without its sockets.
#[derive(Debug)]
pub(crate) struct Core {
    peer: PeerId,
    /// Our host's name as it stands in packets.
    host: String,
    group: Option<GroupHash>,
    mdns_port: u16,
    links: Vec<Link>,
    budgets: BTreeMap<LinkId, Budget>,
    responder: Responder,
    searches: Searches,
}

impl Core {
    pub(crate) fn new(
        peer: PeerId,
        port: u16,
        group: Option<GroupHash>,
        mdns_port: u16,
        seed: u64,
    ) -> Self {
        Self {
            peer,
            host: peer.to_string(),
            group,
            mdns_port,
            links: Vec::new(),
            budgets: BTreeMap::new(),
            responder: Responder::new(peer, port, mdns_port, Random::new(seed)),
            searches: Searches::new(peer),
        }
    }

    /// The links that packets go to from now on. Searches begin anew when there is another one.
    pub(crate) fn set_links(&mut self, now: Instant, links: Vec<Link>) {
        let is_new = |link: &Link| self.links.iter().all(|known| known.id != link.id);
        if links.iter().any(is_new) {
            self.searches.restart(now);
        }
        self.budgets
            .retain(|id, _| links.iter().any(|link| link.id == *id));
        self.links = links;
    }

    /// See [`crate::Discovery::announce`].
    pub(crate) fn announce(&mut self, now: Instant, content: &HashOfHashes, downloading: bool) {
        let label = self.label(content);
        self.responder.announce(now, label, downloading);
    }

    /// See [`crate::Discovery::withdraw`].
    pub(crate) fn withdraw(&mut self, now: Instant, content: &HashOfHashes) {
        let label = self.label(content);
        self.responder.withdraw(now, label);
    }

    /// See [`crate::Discovery::find`].
    pub(crate) fn find(&mut self, now: Instant, content: &HashOfHashes) -> SearchId {
        let label = self.label(content);
        self.searches.begin(now, label)
    }

    pub(crate) fn end_search(&mut self, id: SearchId) {
        self.searches.end(id);
    }

    pub(crate) fn take_found(&mut self, id: SearchId) -> Option<Found> {
        self.searches.take_found(id)
    }

    pub(crate) fn is_answered(&self, id: SearchId) -> bool {
        self.searches.is_answered(id)
    }

    /// Ends all searches, takes back all that is held; goodbyes are due.
    pub(crate) fn leave(&mut self, now: Instant) {
        self.searches.end_all();
        self.responder.leave(now);
    }

    /// Whether there is a reason to listen.
    pub(crate) fn is_active(&self) -> bool {
        self.is_searching() || self.responder.is_active()
    }

    pub(crate) fn is_searching(&self) -> bool {
        !self.searches.is_empty()
    }

    /// Takes in a packet that came over a link. What it says is used only if its sender stands on that link.
    pub(crate) fn handle_packet(
        &mut self,
        now: Instant,
        link: LinkId,
        from: SocketAddr,
        bytes: &[u8],
    ) -> Outcome {
        let Some(link) = self.links.iter().find(|known| known.id == link) else {
            return Outcome::default();
        };
        let budget = self
            .budgets
            .entry(link.id)
            .or_insert_with(|| Budget::new(now, PACKETS_PER_SECOND_MAX));
        if !packet::concerns(bytes, &self.host) || !budget.take(now) {
            return Outcome::default();
        }
        if !link.holds(from.ip()) {
            tracing::trace!(%from, "multicast DNS packet from off the link ignored");
            return Outcome {
                off_link: true,
                ..Outcome::default()
            };
        }
        match packet::read(bytes) {
            Ok(Some(Packet::Query(query))) => Outcome {
                output: self.responder.handle_query(now, link.id, from, query),
                ..Outcome::default()
            },
            // RFC 6762, section 6: answers from another port are not answers.
            Ok(Some(Packet::Response(response))) if from.port() == self.mdns_port => {
                self.responder.handle_holders(link.id, &response.holders);
                Outcome {
                    found: self.searches.handle_response(now, link, &response),
                    ..Outcome::default()
                }
            }
            Ok(_) => Outcome::default(),
            Err(error) => {
                tracing::debug!(%from, %error, "multicast DNS packet ignored");
                Outcome::default()
            }
        }
    }

    /// When [`Self::poll`] has packets next; in the past when it has some now.
    pub(crate) fn timeout(&self, now: Instant) -> Option<Instant> {
        if self.responder.has_goodbye() {
            return Some(now);
        }
        let timeouts = [self.responder.timeout(), self.searches.timeout()];
        timeouts.into_iter().flatten().min()
    }

    /// Every packet that is due.
    pub(crate) fn poll(&mut self, now: Instant) -> Vec<Transmit> {
        let mut out = self.responder.poll(now, &self.links);
        while let Some(ask) = self.searches.poll(now) {
            let packets = self.query(ask);
            for link in &self.links {
                out.extend(packets.iter().map(|bytes| Transmit {
                    link: link.id,
                    to: link.id.group(self.mdns_port),
                    bytes: bytes.clone(),
                }));
            }
        }
        out
    }

    fn query(&self, mut ask: Ask) -> Vec<Vec<u8>> {
        // Multicast comes back to its sender: what we hold ourselves counts as known, or we would answer ourselves.
        if self.responder.holds(&ask.label) {
            let ttl_s = u32::try_from(TTL.as_secs()).unwrap_or(u32::MAX);
            let (label, peer) = (ask.label, self.peer);
            ask.known.insert(0, Holder { label, peer, ttl_s });
        }
        packet::query(ask.label, &ask.unresolved, &ask.known)
    }

    fn label(&self, content: &HashOfHashes) -> Label {
        Label::of(content, self.group.as_ref())
    }
}

/// What a packet has led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Outcome {
    /// [`Core::timeout`] may be earlier now.
    pub(crate) output: bool,
    /// A search has found something.
    pub(crate) found: bool,
    /// The sender does not stand on the link, or we are no longer where we were: time to look at the interfaces.
    pub(crate) off_link: bool,
}

#[cfg(test)]
mod tests;
