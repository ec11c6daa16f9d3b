//! What is known of each peer, within bounds.

use super::{LocalPort, Path};
use crate::teredo::limits::{
    BUBBLE_INTERVAL, BUBBLE_SILENCE, BUBBLES_MAX, LOCAL_PEER_FOR, PATH_VALID_FOR, PEER_IDLE_MAX,
    PEERS_MAX, QUEUE_MAX,
};
use std::{
    collections::{BTreeMap, VecDeque},
    net::{Ipv6Addr, SocketAddrV4},
    time::Instant,
};

/// One peer.
#[derive(Debug)]
pub(super) struct Peer {
    path: Option<Path>,
    /// When something last came on the path.
    heard_at: Option<Instant>,
    /// When it last mattered: something came, or was to be sent.
    used_at: Instant,
    /// It doesn't know yet that what comes from us on the path is ours.
    pub(super) unheard: bool,
    /// Whether we ever wanted to send something to it.
    pub(super) wanted: bool,
    /// Bubbles through its server without anything from itself.
    pub(super) bubbles: u8,
    bubble_at: Option<Instant>,
    /// The nonce that it shall say.
    pub(super) nonce_sent: Option<[u8; 4]>,
    /// The end of a link-local address of ours that only it can know.
    pub(super) cookie: Option<[u8; 8]>,
    /// The nonce that we shall say.
    pub(super) nonce_received: Option<[u8; 4]>,
    pub(super) queue: VecDeque<Vec<u8>>,
    /// When it is tried again.
    pub(super) retry_at: Option<Instant>,
    /// Where it was seen in our own network.
    local: Option<(SocketAddrV4, Instant)>,
    /// Where it says that it is in our own network.
    pub(super) alternates: Vec<SocketAddrV4>,
    /// Our additional port for it.
    pub(super) extra_port: Option<u16>,
    /// The port that its NAT will use for it.
    pub(super) random_port: Option<u16>,
}

impl Peer {
    fn new(now: Instant) -> Self {
        Self {
            path: None,
            heard_at: None,
            used_at: now,
            unheard: false,
            wanted: false,
            bubbles: 0,
            bubble_at: None,
            nonce_sent: None,
            cookie: None,
            nonce_received: None,
            queue: VecDeque::new(),
            retry_at: None,
            local: None,
            alternates: Vec::new(),
            extra_port: None,
            random_port: None,
        }
    }

    /// The path, while it is good.
    pub(super) fn path(&self, now: Instant) -> Option<Path> {
        let heard = self.heard_at?;
        (now.saturating_duration_since(heard) < PATH_VALID_FOR)
            .then_some(self.path)
            .flatten()
    }

    /// The path, while it is good and the peer takes what comes on it.
    pub(super) fn open_path(&self, now: Instant) -> Option<Path> {
        self.path(now).filter(|_| !self.unheard)
    }

    /// Something came on this path, and from this peer.
    pub(super) fn heard(&mut self, now: Instant, path: Path) {
        self.path = Some(path);
        self.heard_at = Some(now);
        self.used_at = now;
        self.bubbles = 0;
    }

    pub(super) fn touch(&mut self, now: Instant) {
        self.used_at = now;
    }

    /// Whether a bubble may go through its server now; `Err` says that none may for long.
    pub(super) fn may_bubble(&mut self, now: Instant) -> Result<bool, ()> {
        let Some(last) = self.bubble_at else {
            return Ok(true);
        };
        let since = now.saturating_duration_since(last);
        if since >= BUBBLE_SILENCE {
            self.bubbles = 0;
        }
        if self.bubbles >= BUBBLES_MAX {
            return Err(());
        }
        Ok(since >= BUBBLE_INTERVAL)
    }

    /// A bubble goes through its server.
    pub(super) fn bubbled(&mut self, now: Instant) {
        self.bubbles = self.bubbles.saturating_add(1);
        self.bubble_at = Some(now);
    }

    /// Lets a packet wait; the oldest one makes room.
    pub(super) fn enqueue(&mut self, packet: &[u8]) {
        if self.queue.len() == QUEUE_MAX {
            self.queue.pop_front();
        }
        self.queue.push_back(packet.to_owned());
    }

    /// Where it was seen in our own network, not long ago.
    pub(super) fn local(&self, now: Instant) -> Option<SocketAddrV4> {
        let (address, seen) = self.local?;
        (now.saturating_duration_since(seen) < LOCAL_PEER_FOR).then_some(address)
    }

    pub(super) fn seen_locally(&mut self, now: Instant, address: SocketAddrV4) {
        self.local = Some((address, now));
    }

    fn is_kept(&self, now: Instant) -> bool {
        self.wanted && (self.path(now).is_some() || self.retry_at.is_some())
    }
}

/// All peers.
#[derive(Debug, Default)]
pub(super) struct Peers {
    all: BTreeMap<Ipv6Addr, Peer>,
}

/// What had to go, to make room.
#[derive(Debug, Default)]
pub(super) struct Evicted {
    pub(super) extra_port: Option<u16>,
}

impl Peers {
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Ipv6Addr, &Peer)> {
        self.all.iter()
    }

    pub(super) fn get(&mut self, address: Ipv6Addr) -> Option<&mut Peer> {
        self.all.get_mut(&address)
    }

    /// A peer that is known or made now. Where there are too many, the one goes that was of no use for longest; peers
    /// that we use stay, unless it is we who want the new one. `None` when nobody can go.
    pub(super) fn enter(
        &mut self,
        now: Instant,
        address: Ipv6Addr,
        wanted: bool,
    ) -> Option<(&mut Peer, Evicted)> {
        let mut evicted = Evicted::default();
        if !self.all.contains_key(&address) && self.all.len() >= PEERS_MAX {
            let (&least, peer) =
                (self.all.iter()).min_by_key(|(_, peer)| (peer.is_kept(now), peer.used_at))?;
            if peer.is_kept(now) && !wanted {
                return None;
            }
            evicted.extra_port = self.all.remove(&least).and_then(|peer| peer.extra_port);
        }
        let peer = self.all.entry(address).or_insert_with(|| Peer::new(now));
        peer.wanted |= wanted;
        Some((peer, evicted))
    }

    /// Additional ports in use.
    pub(super) fn extra_ports(&self) -> impl Iterator<Item = u16> {
        self.all.values().filter_map(|peer| peer.extra_port)
    }

    /// Peers to be tried again now.
    pub(super) fn due(&self, now: Instant) -> Vec<Ipv6Addr> {
        let due = |peer: &Peer| peer.retry_at.is_some_and(|at| at <= now);
        let all = self.all.iter().filter(|(_, peer)| due(peer));
        all.map(|(&address, _)| address).collect()
    }

    pub(super) fn timeout(&self) -> Option<Instant> {
        self.all.values().filter_map(|peer| peer.retry_at).min()
    }

    /// Forgets those with which nothing happens; answers with the additional ports that nobody needs then.
    pub(super) fn forget_idle(&mut self, now: Instant) -> Vec<u16> {
        let mut ports = Vec::new();
        self.all.retain(|_, peer| {
            let idle = now.saturating_duration_since(peer.used_at) >= PEER_IDLE_MAX;
            let stays = !idle || peer.local(now).is_some();
            if !stays {
                ports.extend(peer.extra_port);
            }
            stays
        });
        ports
    }

    /// Forgets all; answers with the additional ports that nobody needs then.
    pub(super) fn clear(&mut self) -> Vec<u16> {
        let ports = self.extra_ports().collect();
        self.all.clear();
        ports
    }
}

impl Path {
    /// From our own port.
    pub(super) fn from_service(to: SocketAddrV4) -> Self {
        Self {
            port: LocalPort::Service,
            to,
        }
    }
}
