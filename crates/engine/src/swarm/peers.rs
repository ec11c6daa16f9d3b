//! A swarm's peer connections: taking them in, greeting, messages that are not about blocks, letting them go.

use super::{
    DialError, Established, Finder, Swarm,
    candidates::Named,
    dials::{Dialled, Step},
    numbers,
};
use crate::{
    api::PeerInfo,
    cloud,
    counters::RateMeter,
    dial::{self, Target},
    limiter::{LanGate, UploadGate},
    month::Taken,
    quic,
    route::Route,
    stream::manner,
};
use dosvc_content::{Bitfield, Block, PeerId, PieceIndex};
use dosvc_discovery::cloud::ArrayPeer;
use dosvc_policy::PeerClass;
use dosvc_scheduler::{SourceId, SourceInfo, SourceKind};
use dosvc_wire::{
    CAPABILITY_PARTS, CAPABILITY_RELAYS, Extension, GroupKey, Lead, Limits,
    net::{self, CloseReason},
};
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

/// Connections of one content.
const PEERS_MAX: usize = 200;
/// Of them those with one address, loopback left out: a machine needs one, a few may share an address.
const PEERS_PER_ADDRESS: usize = 8;
/// How long a new peer may take to say Hello before it is taken for one without extensions (a Windows machine).
const GREETING_TIME: Duration = Duration::from_millis(150);
/// What a peer must be capable of so that pieces are passed on to it, and taken of it, while they arrive.
const RELAYS: u32 = CAPABILITY_PARTS | CAPABILITY_RELAYS;
/// A peer that dials us again within this time has tried several ways at once, and not lost the first.
const TRIED_TOGETHER: Duration = Duration::from_secs(5);
/// Pieces in one answer to a request for the hash file, 128 KiB: what waits for a peer that does not read is small.
const METAINFO_PIECES_MAX: u32 = 4096;

/// One connection.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) route: Route,
    pub(super) peer_id: PeerId,
    pub(super) class: PeerClass,
    pub(super) kind: SourceKind,
    outgoing: bool,
    since: Instant,
    /// The group that it proved to be of.
    group: Option<GroupKey>,
    pub(super) commands: net::CommandSender,
    /// Until when a Hello is awaited; the scheduler does not know the peer before.
    greeting: Option<Instant>,
    /// Pieces that the peer has.
    pieces: u32,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) rate_in: RateMeter,
    pub(super) rate_out: RateMeter,
    /// The block under way, and its bytes that were reported already.
    pub(super) receiving: Option<Block>,
    pub(super) partial: u32,
    /// What was handed over to be sent and has not ended, as the month counts it.
    pub(super) promised: HashMap<Block, Taken>,
}

impl Peer {
    pub(super) fn address(&self) -> SocketAddr {
        self.route.address
    }

    pub(super) fn is_greeting(&self) -> bool {
        self.greeting.is_some()
    }
}

/// How often the clock is looked at that certificates go by: it may be set.
const CLOCK_INTERVAL: Duration = Duration::from_secs(60);

/// Waits until a certificate ends; for ever without one.
async fn ends(proven_until: Option<SystemTime>) {
    let Some(until) = proven_until else {
        return std::future::pending().await;
    };
    while let Ok(left) = until.duration_since(SystemTime::now()) {
        tokio::time::sleep(left.min(CLOCK_INTERVAL) + Duration::from_millis(1)).await;
    }
}

pub(super) fn source_kind(class: PeerClass) -> SourceKind {
    match class {
        PeerClass::Lan => SourceKind::LanPeer,
        PeerClass::LinkLocal => SourceKind::LinkLocalPeer,
        PeerClass::Group => SourceKind::GroupPeer,
        PeerClass::Internet => SourceKind::InternetPeer,
    }
}

impl Swarm {
    /// Takes in a connection whose handshakes are done, unless the same peer is connected already.
    pub(super) fn add_peer(&mut self, peer: Established) {
        let now = Instant::now();
        if peer.outgoing {
            self.dials.is_at(peer.peer_id, peer.route);
        }
        // Settings may have changed, and bans been spoken, while it introduced itself.
        let is_found = self.is_found(source_kind(peer.class), peer.outgoing);
        let refused = if let Err(why) = self.check_scope(peer.route.address, peer.group, is_found) {
            Some(why)
        } else if self.shared.is_banned(peer.peer_id, self.content.key()) {
            Some(DialError::BANNED)
        } else if !self.has_room_for(peer.route.address.ip()) {
            Some(DialError::NO_PLACE)
        } else {
            None
        };
        if let Some(why) = refused {
            self.dials.failed(peer.route, why, now);
            return;
        }
        let known = peer.peer_id;
        if let Some(stays) = self.wins_over_duplicate(&peer, now) {
            self.dials.connected(known, stays);
            return;
        }
        self.dials.connected(known, peer.route);
        let key = self.next_source();
        let (commands, receiver) = net::command_channel();
        let class = peer.class;
        let kind = source_kind(class);
        let open = matches!(kind, SourceKind::LanPeer | SourceKind::LinkLocalPeer);
        let params = net::DriveParams {
            key,
            lengths: Some(self.content.lengths()),
            limits: Limits::default(),
            pool: self.shared.pool.clone(),
            feeds: self.relays.feeds(),
            events: self.peer_events.0.clone(),
            down: if open {
                Arc::new(self.lan_gate())
            } else {
                Arc::clone(&self.download_gate) as _
            },
            up: if class == PeerClass::Internet {
                Arc::new(UploadGate {
                    budgets: Arc::clone(&self.shared.budgets),
                    priority: self.priority.clone(),
                })
            } else {
                Arc::new(self.lan_gate())
            },
        };
        let Established {
            stream,
            route,
            peer_id,
            outgoing,
            group,
            proven_until,
            places,
            ..
        } = peer;
        let events = self.peer_events.0.clone();
        self.shared.tasks.spawn(async move {
            let reason = tokio::select! {
                reason = net::drive(stream, params, receiver) => reason,
                () = ends(proven_until) => {
                    tracing::debug!(%route, "the peer's certificate has ended");
                    let reason = CloseReason::Local;
                    let _ = events.send((key, net::Event::Closed(reason.clone()))).await;
                    reason
                }
            };
            drop(events);
            tracing::debug!(%route, ?reason, "peer connection ended");
            drop(places);
        });
        tracing::debug!(%route, %peer_id, ?kind, outgoing, "peer connected");
        let greeting = now + GREETING_TIME;
        self.greetings.insert((greeting, key));
        self.peers.insert(
            key,
            Peer {
                route,
                peer_id,
                class,
                kind,
                outgoing,
                since: now,
                group,
                commands,
                greeting: Some(greeting),
                pieces: 0,
                bytes_in: 0,
                bytes_out: 0,
                rate_in: RateMeter::default(),
                rate_out: RateMeter::default(),
                receiving: None,
                partial: 0,
                promised: HashMap::new(),
            },
        );
        // A member of the group has said Hello with its proof; what we can do is said to the connection here.
        self.greet(key);
        self.changed = true;
    }

    fn greet(&mut self, key: u32) {
        let hello = self.shared.hello(self.is_foreground());
        self.tell(SourceId(key), net::Command::Extension(hello));
    }

    /// Tells all that have been greeted that somebody waits now, or not any more.
    pub(super) fn greet_again(&mut self) {
        let keys: Vec<u32> = self.peers.keys().copied().collect();
        for key in keys {
            self.greet(key);
        }
    }

    fn lan_gate(&self) -> LanGate {
        LanGate {
            priority: self.priority.clone(),
            inflow: self.inflow.clone(),
        }
    }

    /// Which connection of a peer stays when there are two; `None`: the new one, and the old one goes.
    ///
    /// Two machines may dial each other at the same moment: the connection that the machine with the smaller id dialled
    /// stays, on both ends. Who has dialled us twice keeps the better one, or the first when it tried several ways at once;
    /// later it wants the second, for the first has died. It must have proven its id for that, for others could cut it off
    /// with it.
    fn wins_over_duplicate(&mut self, new: &Established, now: Instant) -> Option<Route> {
        let (&key, old) = self.peers.iter().find(|(_, p)| p.peer_id == new.peer_id)?;
        let stays = match (old.outgoing, new.outgoing) {
            (true, true) => !new.route.is_better_than(&old.route),
            (false, false) => {
                let tried_together = now < old.since + TRIED_TOGETHER;
                let wanted = new.route.is_better_than(&old.route) || !tried_together;
                !(new.route.transport.proves_identity() && wanted)
            }
            (old_is_ours, _) => old_is_ours == (self.shared.peer_id < new.peer_id),
        };
        if stays {
            return Some(old.route);
        }
        self.drop_peer(key, now);
        None
    }

    fn has_room_for(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let same = |peer: &&Peer| peer.address().ip().to_canonical() == address;
        self.peers.len() < PEERS_MAX
            && (address.is_loopback()
                || self.peers.values().filter(same).count() < PEERS_PER_ADDRESS)
    }

    /// Whether a peer was found by DNS-SD, or may have found us so.
    fn is_found(&self, kind: SourceKind, outgoing: bool) -> bool {
        kind == SourceKind::LinkLocalPeer || (!outgoing && self.shared.may_be_found())
    }

    /// Whether a peer at this address, which proved this group, may have anything of this content; if not, why.
    fn check_scope(
        &self,
        address: SocketAddr,
        group: Option<GroupKey>,
        is_found: bool,
    ) -> Result<(), DialError> {
        let proven = self.scope.group.is_some();
        if proven && group != self.scope.group {
            return Err(DialError::OTHER_GROUP);
        }
        self.shared
            .peer_class(&self.scope, address.ip(), is_found, proven)?;
        if self.may_have_peers() {
            Ok(())
        } else {
            Err(DialError::NO_PEERS)
        }
    }

    /// After settings or the content's own limit have changed.
    pub(super) fn drop_out_of_scope(&mut self, now: Instant) {
        let out: Vec<u32> = self
            .peers
            .iter()
            .filter(|(_, p)| {
                let is_found = self.is_found(p.kind, p.outgoing);
                self.check_scope(p.address(), p.group, is_found).is_err()
            })
            .map(|(key, _)| *key)
            .collect();
        for key in out {
            self.drop_peer(key, now);
        }
    }

    pub(super) fn tell(&mut self, source: SourceId, command: net::Command) {
        let Some(peer) = self.peers.get(&source.0) else {
            return;
        };
        if peer.commands.send(command).is_err() {
            tracing::debug!(route = %peer.route, "peer does not take what it is sent; disconnecting");
            self.drop_peer(source.0, Instant::now());
        }
    }

    /// A connection's first word decides whether it knows our extensions, and which (`capabilities` of its Hello). Who has
    /// proved to be of the group knows them.
    pub(super) fn greeted(&mut self, key: u32, capabilities: Option<u32>, now: Instant) {
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        if let Some(at) = peer.greeting.take() {
            self.greetings.remove(&(at, key));
            let info = SourceInfo {
                kind: peer.kind,
                peer_id: Some(peer.peer_id),
                extended: capabilities.is_some() || peer.group.is_some(),
                relays: capabilities.is_some_and(|all| all & RELAYS == RELAYS),
            };
            self.core.handle_source_added(SourceId(key), info, now);
            self.carry_out();
        }
    }

    pub(super) fn end_greetings(&mut self, now: Instant) {
        while let Some(&(at, key)) = self.greetings.first()
            && at <= now
        {
            self.greetings.remove(&(at, key));
            self.greeted(key, None, now);
        }
    }

    pub(super) fn next_greeting_end(&self) -> Option<Instant> {
        self.greetings.first().map(|(at, _)| *at)
    }

    pub(super) fn handle_extension(&mut self, key: u32, extension: Extension, now: Instant) {
        match extension {
            Extension::Hello {
                capabilities,
                listen_port,
                ..
            } => {
                self.note_listening(key, listen_port);
                self.greeted(key, Some(capabilities), now);
            }
            Extension::Fetching { add, drop } => {
                let (add, drop) = (self.pieces(&add), self.pieces(&drop));
                self.core.handle_fetching(SourceId(key), &add, &drop, now);
            }
            Extension::Offer { free, pieces } => {
                let pieces = self.pieces(&pieces);
                self.core.handle_offer(SourceId(key), &pieces, free, now);
            }
            Extension::Lead(lead) => {
                let lead = lead.map(|Lead { rank, hops }| dosvc_scheduler::Lead { rank, hops });
                self.core.handle_lead(SourceId(key), lead, now);
            }
            Extension::MetainfoRequest { first, count } => self.send_metainfo(key, first, count),
            // A proof after the greeting, or hashes that nobody asked for here.
            _ => {}
        }
    }

    /// Who has dialled us needs no dial: the second connection would cost one of them its blocks under way.
    fn note_listening(&mut self, key: u32, port: u16) {
        if let Some(peer) = self.peers.get(&key).filter(|p| !p.outgoing && port != 0) {
            let address = SocketAddr::new(peer.address().ip().to_canonical(), port);
            self.dials.listens_at(peer.peer_id, address, peer.route);
        }
    }

    /// Those of a peer's numbers that are pieces of this content.
    fn pieces(&self, numbers: &[u32]) -> Vec<PieceIndex> {
        let lengths = self.content.lengths();
        numbers.iter().filter_map(|i| lengths.piece(*i)).collect()
    }

    fn send_metainfo(&mut self, key: u32, first: u32, count: u32) {
        let Some(file) = self.content.hash_file() else {
            return;
        };
        let hashes = file.piece_hashes();
        let start = (first as usize).min(hashes.len());
        let end = start
            .saturating_add(count.min(METAINFO_PIECES_MAX) as usize)
            .min(hashes.len());
        let answer = Extension::Metainfo {
            content_length: file.lengths().content_length(),
            piece_size: file.lengths().piece_size(),
            first,
            hashes: hashes[start..end].to_vec(),
        };
        self.tell(SourceId(key), net::Command::Extension(answer));
    }

    pub(super) fn handle_bitfield(&mut self, key: u32, field: Bitfield, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.pieces = field.count();
        }
        self.core.handle_bitfield(SourceId(key), field, now);
        self.part_if_both_complete(key, now);
    }

    pub(super) fn handle_have(&mut self, key: u32, piece: PieceIndex, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.pieces = (peer.pieces + 1).min(self.content.lengths().piece_count());
        }
        self.core.handle_have(SourceId(key), piece, now);
        self.part_if_both_complete(key, now);
    }

    /// Two peers that both have everything have nothing more to say to each other.
    fn part_if_both_complete(&mut self, key: u32, now: Instant) {
        let complete = self.content.lengths().piece_count();
        if self.core.is_complete() && self.peers.get(&key).is_some_and(|p| p.pieces == complete) {
            self.drop_peer(key, now);
        }
    }

    /// After our own download ended: the same for every peer.
    pub(super) fn part_from_seeds(&mut self, now: Instant) {
        let keys: Vec<u32> = self.peers.keys().copied().collect();
        for key in keys {
            self.part_if_both_complete(key, now);
        }
    }

    pub(super) fn ban_peer(&mut self, key: u32, now: Instant) {
        if let Some(peer) = self.peers.get(&key) {
            self.shared
                .ban(peer.peer_id, peer.address().ip(), self.content.key());
        }
        self.drop_peer(key, now);
    }

    /// Ends a connection from our side.
    pub(super) fn drop_peer(&mut self, key: u32, now: Instant) {
        if let Some(peer) = self.peers.remove(&key) {
            let _ = peer.commands.send(net::Command::Close);
            self.peer_gone(key, peer, now);
        }
    }

    /// A connection has ended by itself.
    pub(super) fn peer_closed(&mut self, key: u32, reason: &CloseReason, now: Instant) {
        if let Some(peer) = self.peers.remove(&key) {
            if reason.is_misbehaviour() {
                tracing::warn!(route = %peer.route, %reason, "peer broke the protocol; banned");
                self.shared
                    .ban(peer.peer_id, peer.address().ip(), self.content.key());
            }
            self.peer_gone(key, peer, now);
        }
    }

    fn peer_gone(&mut self, key: u32, peer: Peer, now: Instant) {
        self.wasted_bytes += u64::from(peer.partial);
        match peer.greeting {
            Some(at) => _ = self.greetings.remove(&(at, key)),
            None => self.core.handle_source_removed(SourceId(key), now),
        }
        self.dials.closed(peer.peer_id, peer.bytes_in > 0, now);
        // What was promised may have gone out in part: it stays counted.
        drop(peer);
        self.review_month();
        self.review_uploads(now);
        self.changed = true;
    }

    pub(super) fn disconnect_all(&mut self, now: Instant) {
        let keys: Vec<u32> = self.peers.keys().copied().collect();
        for key in keys {
            self.drop_peer(key, now);
        }
    }

    pub(super) fn handle_found(&mut self, found: Option<dosvc_discovery::Found>) {
        let Some(found) = found else {
            // Discovery has stopped; another may have taken its place.
            self.search = None;
            self.start_search();
            return;
        };
        let now = Instant::now();
        if found.peer_id == self.shared.peer_id {
            return;
        }
        for address in found.addrs {
            self.add_address(address, Some(found.peer_id), Finder::LinkLocal, now);
        }
        self.changed = true;
    }

    /// Remembers every way to an address.
    pub(super) fn add_address(
        &mut self,
        address: SocketAddr,
        peer: Option<PeerId>,
        finder: Finder,
        now: Instant,
    ) {
        for route in quic::routes(&self.shared, address) {
            self.add_route(route, peer, finder, now);
        }
    }

    fn add_route(&mut self, route: Route, peer: Option<PeerId>, finder: Finder, now: Instant) {
        let connected = self.peers.values().find(|p| Some(p.peer_id) == peer);
        let named = Named {
            route,
            peer,
            finder,
            near: self.shared.is_in_lan(route.address.ip()),
            connected: connected.map(|p| p.route),
        };
        self.dials.add(named, now);
    }

    pub(super) fn handle_named(&mut self, named: Option<Vec<ArrayPeer>>) {
        let Some(named) = named else {
            // The client has ended; another may have taken its place.
            self.array = None;
            self.start_array_search();
            return;
        };
        let now = Instant::now();
        for peer in named {
            let id = Some(peer.peer_id);
            for route in cloud::routes(&self.shared, &peer) {
                self.add_route(route, id, Finder::Array, now);
            }
        }
        self.changed = true;
    }

    /// Whether there is any use in one more peer.
    pub(super) fn may_dial(&self) -> bool {
        self.is_wanted() && self.may_have_peers() && self.peers.len() < PEERS_MAX
    }

    pub(super) fn dial_due(&mut self, now: Instant) {
        if !self.may_dial() {
            return;
        }
        while let Some(due) = self.dials.take_due(now) {
            let shared = Arc::clone(&self.shared);
            let scope = self.scope;
            let target = Target {
                route: due.route,
                peer: due.peer,
                discovered: due.finder == Finder::LinkLocal,
                manner: manner(self.is_foreground()),
            };
            self.dials.start(due.route, async move {
                let opened = dial::open(&shared, scope, target).await?;
                Ok(Step::Opened(Box::new(opened)))
            });
        }
    }

    pub(super) fn handle_dialled(&mut self, dialled: Dialled) {
        let now = Instant::now();
        let Dialled { route, result } = dialled;
        match result {
            Ok(Step::Opened(opened)) => self.speak_on(route, *opened, now),
            Ok(Step::Established(peer)) => self.add_peer(*peer),
            Err(DialError::Ourselves) => self.dials.is_ours(route.address),
            Err(error) => self.dials.failed(route, error, now),
        }
        self.changed = true;
    }

    /// Introduces us on a way that is open, unless a rival was there first.
    fn speak_on(&mut self, route: Route, opened: dial::Opened, now: Instant) {
        let Some(swarm) = self.content.hash_file().map(|f| f.hash_of_hashes()) else {
            return;
        };
        if self.dials.opened(route, now) {
            let shared = Arc::clone(&self.shared);
            self.dials.start(route, async move {
                let peer = dial::introduce(&shared, opened, swarm).await?;
                Ok(Step::Established(peer))
            });
        }
    }

    pub(super) fn tell_fetching(
        &mut self,
        source: SourceId,
        add: &[PieceIndex],
        drop: &[PieceIndex],
    ) {
        let extension = Extension::Fetching {
            add: numbers(add),
            drop: numbers(drop),
        };
        self.tell(source, net::Command::Extension(extension));
    }

    pub(super) fn offer(&mut self, source: SourceId, pieces: &[PieceIndex], free: bool) {
        let pieces = numbers(pieces);
        let extension = Extension::Offer { free, pieces };
        self.tell(source, net::Command::Extension(extension));
    }

    pub(super) fn tell_lead(&mut self, source: SourceId, lead: Option<dosvc_scheduler::Lead>) {
        let lead = lead.map(|dosvc_scheduler::Lead { rank, hops }| Lead { rank, hops });
        self.tell(source, net::Command::Extension(Extension::Lead(lead)));
    }

    pub(super) fn peer_infos(&mut self, now: Instant) -> Vec<PeerInfo> {
        let pieces = self.content.lengths().piece_count();
        let file_id = self.content.key().to_string();
        let mut infos: Vec<PeerInfo> = self
            .peers
            .values_mut()
            .map(|p| PeerInfo {
                file_id: file_id.clone(),
                ip: p.address(),
                transport: p.route.transport,
                peer_type: kind_name(p.kind).to_owned(),
                connection_established: true,
                bytes_sent: p.bytes_out,
                bytes_received: p.bytes_in,
                upload_rate_bytes: p.rate_out.bps(now),
                download_rate_bytes: p.rate_in.bps(now),
                pieces: (p.pieces, pieces),
            })
            .collect();
        let connected: Vec<SocketAddr> = infos.iter().map(|i| i.ip).collect();
        let mut others: Vec<Route> = self.dials.routes().collect();
        // Of several ways to one address the one that is tried first.
        others.sort_unstable_by_key(|route| (route.address, std::cmp::Reverse(route.transport)));
        others.dedup_by_key(|route| route.address);
        let others = others.iter().filter(|r| !connected.contains(&r.address));
        infos.extend(others.map(|route| PeerInfo {
            file_id: file_id.clone(),
            ip: route.address,
            transport: route.transport,
            peer_type: String::new(),
            connection_established: false,
            bytes_sent: 0,
            bytes_received: 0,
            upload_rate_bytes: 0,
            download_rate_bytes: 0,
            pieces: (0, pieces),
        }));
        infos.sort_by_key(|i| std::cmp::Reverse(i.bytes_received));
        infos
    }
}

/// The peer types of Get-DeliveryOptimizationStatus -PeerInfo (monitoring, section 3).
pub(super) fn kind_name(kind: SourceKind) -> &'static str {
    match kind {
        SourceKind::LanPeer => "Lan",
        SourceKind::LinkLocalPeer => "LinkLocal",
        SourceKind::GroupPeer => "Group",
        SourceKind::InternetPeer => "Internet",
        SourceKind::CacheHost | SourceKind::Origin => "Cdn",
    }
}
