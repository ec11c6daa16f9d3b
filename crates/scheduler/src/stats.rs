//! Counters of one swarm.

use crate::SourceKind;

/// Bytes of content by kind of source.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KindBytes {
    /// Peers on the LAN.
    pub lan: u64,
    /// Peers found on the link.
    pub link_local: u64,
    /// Peers of the group.
    pub group: u64,
    /// Peers anywhere.
    pub internet: u64,
    /// Connected Cache.
    pub cache_host: u64,
    /// HTTP origin.
    pub origin: u64,
}

impl KindBytes {
    /// The counter of one kind.
    pub fn of(&self, kind: SourceKind) -> u64 {
        match kind {
            SourceKind::LanPeer => self.lan,
            SourceKind::LinkLocalPeer => self.link_local,
            SourceKind::GroupPeer => self.group,
            SourceKind::InternetPeer => self.internet,
            SourceKind::CacheHost => self.cache_host,
            SourceKind::Origin => self.origin,
        }
    }

    pub(crate) fn add(&mut self, kind: SourceKind, bytes: u64) {
        *match kind {
            SourceKind::LanPeer => &mut self.lan,
            SourceKind::LinkLocalPeer => &mut self.link_local,
            SourceKind::GroupPeer => &mut self.group,
            SourceKind::InternetPeer => &mut self.internet,
            SourceKind::CacheHost => &mut self.cache_host,
            SourceKind::Origin => &mut self.origin,
        } += bytes;
    }

    /// Bytes of all peers.
    pub fn peers(&self) -> u64 {
        self.lan + self.link_local + self.group + self.internet
    }

    /// Bytes over HTTP.
    pub fn http(&self) -> u64 {
        self.cache_host + self.origin
    }

    /// Bytes of all sources.
    pub fn total(&self) -> u64 {
        self.peers() + self.http()
    }
}

/// What a swarm has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Bytes of whole blocks that were wanted, by kind of source; those of pieces that later failed included.
    pub downloaded: KindBytes,
    /// Bytes of whole blocks sent to peers.
    pub uploaded: u64,
    /// Bytes of blocks that arrived and were not wanted.
    pub duplicate_bytes: u64,
    /// Bytes of pieces that failed verification.
    pub corrupt_bytes: u64,
    /// Pieces that failed verification.
    pub corrupt_pieces: u64,
    /// Requests sent to peers.
    pub requests: u64,
    /// HTTP fetches begun.
    pub fetches: u64,
    /// Blocks moved to another source before they had begun to arrive.
    pub moved: u64,
    /// Blocks asked of a second source while the first was still expected to send them.
    pub doubled: u64,
    /// Blocks that peers passed on to us while they arrived there, and abandoned.
    pub abandoned: u64,
    /// Times that a source was demoted for silence.
    pub demotions: u64,
    /// Sources given up for bad pieces.
    pub bans: u64,
}

/// What moves at one moment.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Activity {
    /// Blocks asked of peers.
    pub asked: usize,
    /// Of those, how many have begun to arrive.
    pub arriving: usize,
    /// HTTP fetches.
    pub fetches: usize,
    /// Blocks that peers asked for and that are not begun.
    pub queued: usize,
    /// Blocks being sent.
    pub serving: usize,
}
