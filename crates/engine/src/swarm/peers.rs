//! A swarm's peer connections: taking them in, greeting, messages that are not about blocks, letting them go.

use super::{Established, Swarm, dials, dials::Dialled, numbers};
use crate::{
    api::PeerInfo,
    counters::RateMeter,
    dial,
    limiter::{OpenGate, UploadGate},
};
use dosvc_content::{Bitfield, Block, PeerId, PieceIndex};
use dosvc_policy::PeerClass;
use dosvc_scheduler::{SourceId, SourceInfo, SourceKind};
use dosvc_wire::{Extension, Limits, net};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

/// Connections of one content.
const PEERS_MAX: usize = 200;
/// How long a new peer may take to say Hello before it is taken for one without extensions (a Windows machine).
const GREETING_TIME: Duration = Duration::from_millis(150);
/// Pieces in one answer to a request for the hash file.
const METAINFO_PIECES_MAX: u32 = dosvc_wire::METAINFO_HASHES_MAX;

/// One connection.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    pub(super) peer_id: PeerId,
    pub(super) kind: SourceKind,
    outgoing: bool,
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
}

impl Peer {
    pub(super) fn is_greeting(&self) -> bool {
        self.greeting.is_some()
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
        if self.peers.len() >= PEERS_MAX
            || self.dials.is_banned(&peer.address)
            || !self.wins_over_duplicate(&peer, now)
        {
            return;
        }
        let key = self.next_source();
        let (commands, receiver) = net::command_channel();
        let kind = source_kind(peer.class);
        let open = matches!(kind, SourceKind::LanPeer | SourceKind::LinkLocalPeer);
        let params = net::DriveParams {
            key,
            lengths: Some(self.content.lengths()),
            limits: Limits::default(),
            pool: self.shared.pool.clone(),
            events: self.peer_events.0.clone(),
            down: if open {
                Arc::new(OpenGate)
            } else {
                Arc::clone(&self.download_gate) as _
            },
            up: if open {
                Arc::new(OpenGate)
            } else {
                Arc::new(UploadGate(Arc::clone(&self.shared.budgets)))
            },
        };
        let Established {
            stream,
            address,
            peer_id,
            outgoing,
            greeted,
            permit,
            ..
        } = peer;
        self.shared.tasks.spawn(async move {
            let reason = net::drive(stream, params, receiver).await;
            tracing::debug!(%address, ?reason, "peer connection ended");
            drop(permit);
        });
        tracing::debug!(%address, %peer_id, ?kind, outgoing, "peer connected");
        self.peers.insert(
            key,
            Peer {
                address,
                peer_id,
                kind,
                outgoing,
                commands,
                greeting: Some(now + GREETING_TIME),
                pieces: 0,
                bytes_in: 0,
                bytes_out: 0,
                rate_in: RateMeter::default(),
                rate_out: RateMeter::default(),
                receiving: None,
                partial: 0,
            },
        );
        if greeted {
            self.greeted(key, true, now);
        } else {
            self.tell(SourceId(key), net::Command::Extension(self.shared.hello()));
        }
        self.changed = true;
    }

    /// Two machines may dial each other at the same moment: the connection that the machine with the smaller id
    /// dialled stays, on both ends.
    fn wins_over_duplicate(&mut self, new: &Established, now: Instant) -> bool {
        let Some((&key, old)) = self.peers.iter().find(|(_, p)| p.peer_id == new.peer_id) else {
            return true;
        };
        let we_are_smaller = self.shared.peer_id < new.peer_id;
        if old.outgoing == new.outgoing || old.outgoing == we_are_smaller {
            // What was dialled later, or by the wrong side, goes.
            self.dials.connected(new.address);
            return false;
        }
        self.drop_peer(key, now);
        true
    }

    pub(super) fn tell(&mut self, source: SourceId, command: net::Command) {
        let Some(peer) = self.peers.get(&source.0) else {
            return;
        };
        if peer.commands.send(command).is_err() {
            tracing::debug!(address = %peer.address, "peer does not take what it is sent; disconnecting");
            self.drop_peer(source.0, Instant::now());
        }
    }

    /// A connection's first word decides whether it knows our extensions.
    pub(super) fn greeted(&mut self, key: u32, extended: bool, now: Instant) {
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        if peer.greeting.take().is_some() {
            let info = SourceInfo {
                kind: peer.kind,
                peer_id: Some(peer.peer_id),
                extended,
            };
            self.core.handle_source_added(SourceId(key), info, now);
            self.carry_out();
        }
    }

    pub(super) fn end_greetings(&mut self, now: Instant) {
        let silent: Vec<u32> = self
            .peers
            .iter()
            .filter(|(_, p)| p.greeting.is_some_and(|at| at <= now))
            .map(|(key, _)| *key)
            .collect();
        for key in silent {
            self.greeted(key, false, now);
        }
    }

    pub(super) fn next_greeting_end(&self) -> Option<Instant> {
        self.peers.values().filter_map(|p| p.greeting).min()
    }

    pub(super) fn handle_extension(&mut self, key: u32, extension: Extension, now: Instant) {
        match extension {
            Extension::Hello { .. } => self.greeted(key, true, now),
            Extension::Fetching { add, drop } => {
                let lengths = self.content.lengths();
                let pieces = |list: Vec<u32>| -> Vec<PieceIndex> {
                    list.into_iter().filter_map(|i| lengths.piece(i)).collect()
                };
                let (add, drop) = (pieces(add), pieces(drop));
                self.core.handle_fetching(SourceId(key), &add, &drop, now);
            }
            Extension::MetainfoRequest { first, count } => self.send_metainfo(key, first, count),
            // A proof after the greeting, or hashes that nobody asked for here.
            _ => {}
        }
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
            self.dials.ban(peer.address);
            self.shared.ban(peer.peer_id, self.content.key());
        }
        self.drop_peer(key, now);
    }

    /// Ends a connection from our side.
    pub(super) fn drop_peer(&mut self, key: u32, now: Instant) {
        if let Some(peer) = self.peers.remove(&key) {
            let _ = peer.commands.send(net::Command::Close);
            self.peer_gone(key, &peer, now);
        }
    }

    /// A connection has ended by itself.
    pub(super) fn peer_closed(&mut self, key: u32, reason: &net::CloseReason, now: Instant) {
        if let Some(peer) = self.peers.remove(&key) {
            if reason.is_misbehaviour() {
                tracing::warn!(address = %peer.address, %reason, "peer broke the protocol; not dialled again");
                self.dials.ban(peer.address);
                self.shared.ban(peer.peer_id, self.content.key());
            }
            self.peer_gone(key, &peer, now);
        }
    }

    fn peer_gone(&mut self, key: u32, peer: &Peer, now: Instant) {
        self.wasted_bytes += u64::from(peer.partial);
        if !peer.is_greeting() {
            self.core.handle_source_removed(SourceId(key), now);
        }
        self.dials.closed(peer.address, now);
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
            self.search = None;
            return;
        };
        let now = Instant::now();
        let connected = self.peers.values().any(|p| p.peer_id == found.peer_id);
        if found.peer_id == self.shared.peer_id || connected {
            return;
        }
        // One address is enough to begin with; the others are there when it fails.
        for address in found.addrs {
            self.dials.add(address, dials::Origin::LinkLocal, now);
        }
        self.changed = true;
    }

    pub(super) fn dial_due(&mut self, now: Instant) {
        if !self.is_wanted() || !self.may_have_peers() || self.peers.len() >= PEERS_MAX {
            return;
        }
        let Some(swarm) = self.content.hash_file().map(|f| f.hash_of_hashes()) else {
            return;
        };
        while let Some((address, origin)) = self.dials.take_due(now) {
            if self.peers.values().any(|p| p.address == address) {
                self.dials.connected(address);
                continue;
            }
            let shared = Arc::clone(&self.shared);
            let discovered = origin == dials::Origin::LinkLocal;
            self.dials.start(async move {
                let result = dial::dial(&shared, address, swarm, discovered).await;
                Dialled { address, result }
            });
        }
    }

    pub(super) fn handle_dialled(&mut self, dialled: Dialled) {
        let now = Instant::now();
        match dialled.result {
            Ok(peer) if self.shared.is_banned(&peer.peer_id, self.content.key()) => {
                self.dials.ban(dialled.address);
            }
            Ok(peer) => {
                self.dials.connected(dialled.address);
                self.add_peer(*peer);
            }
            Err(dials::DialError::Ourselves) => self.dials.ban(dialled.address),
            Err(dials::DialError::Failed) => self.dials.failed(dialled.address, now),
        }
        self.changed = true;
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

    pub(super) fn peer_infos(&mut self, now: Instant) -> Vec<PeerInfo> {
        let pieces = self.content.lengths().piece_count();
        let file_id = self.content.key().to_string();
        let mut infos: Vec<PeerInfo> = self
            .peers
            .values_mut()
            .map(|p| PeerInfo {
                file_id: file_id.clone(),
                ip: p.address,
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
        infos.extend(
            self.dials
                .addresses()
                .filter(|a| !connected.contains(a))
                .map(|ip| PeerInfo {
                    file_id: file_id.clone(),
                    ip,
                    peer_type: String::new(),
                    connection_established: false,
                    bytes_sent: 0,
                    bytes_received: 0,
                    upload_rate_bytes: 0,
                    download_rate_bytes: 0,
                    pieces: (0, pieces),
                }),
        );
        infos.sort_by_key(|i| std::cmp::Reverse(i.bytes_received));
        infos
    }
}

/// The peer types of Get-DeliveryOptimizationStatus -PeerInfo (monitoring, section 3).
fn kind_name(kind: SourceKind) -> &'static str {
    match kind {
        SourceKind::LanPeer => "Lan",
        SourceKind::LinkLocalPeer => "LinkLocal",
        SourceKind::GroupPeer => "Group",
        SourceKind::InternetPeer => "Internet",
        SourceKind::CacheHost | SourceKind::Origin => "Cdn",
    }
}
