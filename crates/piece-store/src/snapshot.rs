//! The values of the state database as bytes: the one place that knows bincode.
//!
//! A snapshot is a header and a bincode body: magic `DOSN`, version (1 byte), kind (1 byte), length of the body
//! (u32, little-endian), first 8 bytes of the body's SHA-256. What does not read back exactly is refused and treated
//! as absent: the data itself can always be found again by hashing.

use crate::{ContentInfo, ContentKey, limits::SNAPSHOT_BYTES_MAX, stamp::FileStamp};
use bincode::{Decode, Encode};
use dosvc_content::{Bitfield, PieceLengths};
use sha2::{Digest as _, Sha256};
use std::time::{Duration, SystemTime};

const MAGIC: [u8; 4] = *b"DOSN";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 18;

/// Why bytes are no snapshot of the wanted kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("damaged, or written by another version")]
pub(crate) struct BadSnapshot;

/// A value that the database keeps.
pub(crate) trait Snapshot: Encode + Decode<()> {
    /// Tells the kinds of values apart.
    const KIND: u8;

    /// The value as bytes.
    fn to_bytes(&self) -> Vec<u8> {
        let body = bincode::encode_to_vec(self, config())
            .expect("plain values within named limits always encode");
        let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[VERSION, Self::KIND]);
        let len = u32::try_from(body.len()).expect("named limits keep snapshots below 4 MiB");
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(&checksum(&body));
        bytes.extend_from_slice(&body);
        bytes
    }

    /// Reads [`Self::to_bytes`] back.
    fn from_bytes(bytes: &[u8]) -> Result<Self, BadSnapshot> {
        let (header, body) = bytes.split_at_checked(HEADER_BYTES).ok_or(BadSnapshot)?;
        let right = header[..4] == MAGIC
            && header[4..6] == [VERSION, Self::KIND]
            && body.len() <= SNAPSHOT_BYTES_MAX
            && header[6..10]
                == u32::try_from(body.len())
                    .map_err(|_| BadSnapshot)?
                    .to_le_bytes()
            && header[10..] == checksum(body);
        if !right {
            return Err(BadSnapshot);
        }
        match bincode::decode_from_slice(body, config()) {
            Ok((value, used)) if used == body.len() => Ok(value),
            _ => Err(BadSnapshot),
        }
    }
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<SNAPSHOT_BYTES_MAX>()
}

fn checksum(body: &[u8]) -> [u8; 8] {
    let mut sum = [0; 8];
    sum.copy_from_slice(&Sha256::digest(body)[..8]);
    sum
}

/// What is kept of one content beside its bitfield. Times are milliseconds since 1970.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub(crate) struct Record {
    pub(crate) content_length: u64,
    pub(crate) piece_size: u32,
    pub(crate) content_id: Option<String>,
    pub(crate) urls: Vec<String>,
    /// Plain content only: ETag or the like.
    pub(crate) validator: Vec<u8>,
    pub(crate) added_ms: u64,
    pub(crate) expires_ms: Option<u64>,
    pub(crate) pinned_until_ms: Option<u64>,
    pub(crate) progress: Progress,
}

/// The part of a [`Record`] that changes as pieces come and go; always committed together with the bitfield.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub(crate) struct Progress {
    pub(crate) have_count: u32,
    pub(crate) bytes_have: u64,
    pub(crate) completed_ms: Option<u64>,
    pub(crate) last_used_ms: u64,
    /// When the last round of scrubbing ended.
    pub(crate) scrubbed_ms: u64,
    /// Device, inode, size, mtime, ctime of the data file when this was committed.
    pub(crate) stamp: Option<(u64, u64, u64, i64, i64)>,
}

impl Snapshot for Record {
    const KIND: u8 = 1;
}

impl Record {
    /// The content's dimensions; `None` when they are out of bounds.
    pub(crate) fn lengths(&self) -> Option<PieceLengths> {
        PieceLengths::new(self.content_length, self.piece_size.into()).ok()
    }

    /// The record as callers see it; `None` when its dimensions are out of bounds.
    pub(crate) fn info(&self, key: ContentKey, in_use: bool) -> Option<ContentInfo> {
        Some(ContentInfo {
            key,
            lengths: self.lengths()?,
            content_id: self.content_id.clone(),
            urls: self.urls.clone(),
            have_count: self.progress.have_count,
            bytes_have: self.progress.bytes_have,
            added: from_ms(self.added_ms),
            completed: self.progress.completed_ms.map(from_ms),
            last_used: from_ms(self.progress.last_used_ms),
            expires: self.expires_ms.map(from_ms),
            pinned_until: self.pinned_until_ms.map(from_ms),
            in_use,
        })
    }
}

impl Progress {
    pub(crate) fn set_stamp(&mut self, stamp: &FileStamp) {
        self.stamp = Some((
            stamp.device,
            stamp.inode,
            stamp.size,
            stamp.mtime_ns,
            stamp.ctime_ns,
        ));
    }

    pub(crate) fn stamp_is(&self, stamp: &FileStamp) -> bool {
        let mut now = Self::default();
        now.set_stamp(stamp);
        self.stamp == now.stamp
    }
}

/// The committed bitfield of one content.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub(crate) struct Claim {
    piece_count: u32,
    bits: Vec<u8>,
}

impl Snapshot for Claim {
    const KIND: u8 = 2;
}

impl Claim {
    pub(crate) fn new(have: &Bitfield) -> Self {
        Self {
            piece_count: have.piece_count(),
            bits: have.to_wire(),
        }
    }

    /// The bitfield, if it is one for content of that many pieces.
    pub(crate) fn bitfield(&self, piece_count: u32) -> Option<Bitfield> {
        if self.piece_count != piece_count {
            return None;
        }
        Bitfield::from_wire(piece_count, &self.bits).ok()
    }
}

/// Milliseconds since 1970; 0 for times before.
pub(crate) fn to_ms(time: SystemTime) -> u64 {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The time that is so many milliseconds after 1970; far times end in the year 9999.
pub(crate) fn from_ms(ms: u64) -> SystemTime {
    const YEAR_9999_MS: u64 = 253_370_764_800_000;
    SystemTime::UNIX_EPOCH + Duration::from_millis(ms.min(YEAR_9999_MS))
}

#[cfg(test)]
mod tests;
