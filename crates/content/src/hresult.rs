//! Delivery Optimization's error codes (monitoring, section 11).

use std::fmt;

/// An error code as Windows reports it; shown as `0x80D03002`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct HResult(pub u32);

impl HResult {
    /// DO service unavailable.
    pub const SERVICE_UNAVAILABLE: Self = Self(0x80D0_1001);
    /// No progress within the time allowed.
    pub const NO_PROGRESS: Self = Self(0x80D0_2002);
    /// Job not found.
    pub const JOB_NOT_FOUND: Self = Self(0x80D0_2003);
    /// File not available.
    pub const FILE_NOT_AVAILABLE: Self = Self(0x80D0_2010);
    /// Call not valid in the current state.
    pub const INVALID_STATE: Self = Self(0x80D0_2013);
    /// Integrity check mandatory but no info given.
    pub const INTEGRITY_MANDATORY: Self = Self(0x80D0_2016);
    /// Integrity info couldn't be fetched.
    pub const INTEGRITY_UNAVAILABLE: Self = Self(0x80D0_2017);
    /// Size unknown from a 200 reply.
    pub const SIZE_UNKNOWN_200: Self = Self(0x80D0_201A);
    /// Size unknown from a 206 reply.
    pub const SIZE_UNKNOWN_206: Self = Self(0x80D0_201C);
    /// Unexpected 2xx.
    pub const UNEXPECTED_2XX: Self = Self(0x80D0_201D);
    /// No URI.
    pub const NO_URI: Self = Self(0x80D0_2200);
    /// Content id invalid.
    pub const BAD_CONTENT_ID: Self = Self(0x80D0_2202);
    /// Ranges expected.
    pub const RANGES_EXPECTED: Self = Self(0x80D0_2204);
    /// Participation throttled.
    pub const PARTICIPATION_THROTTLED: Self = Self(0x80D0_3001);
    /// Blocked by user or admin settings (typical: Bypass mode).
    pub const BLOCKED_BY_SETTINGS: Self = Self(0x80D0_3002);
    /// Cost policy (metered).
    pub const COST_POLICY: Self = Self(0x80D0_3801);
    /// Mode not allowed by content policy.
    pub const MODE_NOT_ALLOWED_BY_CONTENT: Self = Self(0x80D0_3802);
    /// Power state.
    pub const POWER_STATE: Self = Self(0x80D0_3804);
    /// No network.
    pub const NO_NETWORK: Self = Self(0x80D0_3805);
    /// Mode not allowed by device policy.
    pub const MODE_NOT_ALLOWED_BY_DEVICE: Self = Self(0x80D0_3806);
    /// VPN.
    pub const VPN: Self = Self(0x80D0_3807);
    /// Memory critically low.
    pub const MEMORY_LOW: Self = Self(0x80D0_3808);
    /// Cache folder missing.
    pub const CACHE_FOLDER_MISSING: Self = Self(0x80D0_3809);
    /// A DO cloud service is unreachable.
    pub const CLOUD_UNREACHABLE: Self = Self(0x80D0_380A);
    /// Unexpected HTTP status (e.g. 204).
    pub const UNEXPECTED_STATUS: Self = Self(0x80D0_380D);
    /// Block size doesn't match.
    pub const BLOCK_SIZE_MISMATCH: Self = Self(0x80D0_5001);
    /// Certificate validation failed.
    pub const CERTIFICATE_INVALID: Self = Self(0x80D0_5002);
    /// Invalid range.
    pub const INVALID_RANGE: Self = Self(0x80D0_5010);
    /// Server doesn't support Range.
    pub const RANGE_UNSUPPORTED: Self = Self(0x80D0_5011);
    /// Too many bad pieces in an upload.
    pub const TOO_MANY_BAD_PIECES: Self = Self(0x80D0_6800);
    /// Piece data bad or incomplete.
    pub const PIECE_DATA_BAD: Self = Self(0x80D0_6804);
    /// Piece hash check failed.
    pub const PIECE_HASH_MISMATCH: Self = Self(0x80D0_6805);
    /// Hash check failed, source not banned yet.
    pub const HASH_MISMATCH_NOT_BANNED: Self = Self(0x80D0_6806);
    /// Piece no longer available.
    pub const PIECE_GONE: Self = Self(0x80D0_6808);
    /// Metainfo invalid.
    pub const METAINFO_INVALID: Self = Self(0x80D0_6809);
    /// Metainfo version invalid.
    pub const METAINFO_VERSION: Self = Self(0x80D0_680A);
    /// Swarm not running.
    pub const SWARM_NOT_RUNNING: Self = Self(0x80D0_680B);
    /// Peer banned.
    pub const PEER_BANNED: Self = Self(0x80D0_680D);
    /// Connected to self.
    pub const CONNECTED_TO_SELF: Self = Self(0x80D0_680E);
    /// Already connected.
    pub const ALREADY_CONNECTED: Self = Self(0x80D0_680F);
    /// Connection maximum reached.
    pub const CONNECTION_MAXIMUM: Self = Self(0x80D0_6810);
    /// Connection lost.
    pub const CONNECTION_LOST: Self = Self(0x80D0_6811);
    /// Swarm id not recognised.
    pub const SWARM_UNKNOWN: Self = Self(0x80D0_6812);
    /// Handshake length invalid.
    pub const HANDSHAKE_LENGTH: Self = Self(0x80D0_6813);
    /// Socket closed.
    pub const SOCKET_CLOSED: Self = Self(0x80D0_6814);
    /// Message too long.
    pub const MESSAGE_TOO_LONG: Self = Self(0x80D0_6815);
    /// Message invalid.
    pub const MESSAGE_INVALID: Self = Self(0x80D0_6816);
    /// Can't pin: file isn't peered.
    pub const PIN_NOT_PEERED: Self = Self(0x80D0_6818);
    /// Can't delete a pinned file without force.
    pub const DELETE_PINNED: Self = Self(0x80D0_6819);
    /// Element (file) not found.
    pub const NOT_FOUND: Self = Self(0x8007_0490);

    /// An HTTP status that the server answered, as WinHTTP-based callers see it: `HTTP_E_STATUS_*`, facility 0x19.
    pub fn from_http_status(status: u16) -> Self {
        Self(0x8019_0000 | u32::from(status))
    }

    /// What the code means, in one phrase.
    pub fn description(self) -> &'static str {
        match TABLE.binary_search_by_key(&self.0, |(code, _)| *code) {
            Ok(at) => TABLE[at].1,
            Err(_) if self.0 & 0xffff_0000 == 0x8019_0000 => "the HTTP server refused the request",
            Err(_) => "unknown error",
        }
    }

    /// Whether the code is in the zone that Delivery Optimization takes for transient (0x3800 to 0x3fff).
    pub fn is_transient(self) -> bool {
        self.0 & 0xffff_0000 == 0x80D0_0000 && self.0 & 0xf800 == 0x3800
    }
}

impl fmt::Display for HResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:08X}", self.0)
    }
}

impl fmt::Debug for HResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HResult({self})")
    }
}

/// Codes and meanings, in the order of the codes.
const TABLE: &[(u32, &str)] = &[
    (0x8007_0490, "element (file) not found"),
    (0x80D0_1001, "DO service unavailable"),
    (0x80D0_2002, "no progress within the time allowed"),
    (0x80D0_2003, "job not found"),
    (0x80D0_2004, "job has no files"),
    (0x80D0_2005, "no downloads exist"),
    (0x80D0_200B, "memory-stream jobs unsupported here"),
    (0x80D0_200C, "job too old"),
    (0x80D0_200D, "no local path given"),
    (0x80D0_2010, "file not available"),
    (0x80D0_2011, "unknown property"),
    (0x80D0_2012, "property is read-only"),
    (0x80D0_2013, "call not valid in the current state"),
    (0x80D0_2014, "no error information available"),
    (0x80D0_2015, "property is write-only"),
    (0x80D0_2016, "integrity check mandatory but no info given"),
    (0x80D0_2017, "integrity info couldn't be fetched"),
    (0x80D0_2018, "no output sink"),
    (0x80D0_2019, "a sink is already set"),
    (0x80D0_201A, "size unknown from a 200 reply"),
    (0x80D0_201B, "decryption key given for unencrypted content"),
    (0x80D0_201C, "size unknown from a 206 reply"),
    (0x80D0_201D, "unexpected 2xx"),
    (0x80D0_201E, "user consent needed"),
    (0x80D0_2200, "no URI"),
    (0x80D0_2201, "no content id"),
    (0x80D0_2202, "content id invalid"),
    (0x80D0_2203, "ranges not expected"),
    (0x80D0_2204, "ranges expected"),
    (0x80D0_3001, "participation throttled"),
    (
        0x80D0_3002,
        "blocked by user or admin settings (typical: Bypass mode)",
    ),
    (0x80D0_3801, "cost policy (metered)"),
    (0x80D0_3802, "mode not allowed by content policy"),
    (0x80D0_3803, "cellular not allowed"),
    (0x80D0_3804, "power state"),
    (0x80D0_3805, "no network"),
    (0x80D0_3806, "mode not allowed by device policy"),
    (0x80D0_3807, "VPN"),
    (0x80D0_3808, "memory critically low"),
    (0x80D0_3809, "cache folder missing"),
    (0x80D0_380A, "a DO cloud service is unreachable"),
    (0x80D0_380B, "caller not registered"),
    (0x80D0_380C, "only simple ranges possible in Simple mode"),
    (0x80D0_380D, "unexpected HTTP status (e.g. 204)"),
    (0x80D0_5001, "block size doesn't match"),
    (0x80D0_5002, "certificate validation failed"),
    (0x80D0_5010, "invalid range"),
    (0x80D0_5011, "server doesn't support Range"),
    (0x80D0_5012, "overlapping ranges"),
    (0x80D0_6800, "too many bad pieces in an upload"),
    (0x80D0_6802, "fatal core error"),
    (0x80D0_6803, "services answered with empty JSON"),
    (0x80D0_6804, "piece data bad or incomplete"),
    (0x80D0_6805, "piece hash check failed"),
    (0x80D0_6806, "hash check failed, source not banned yet"),
    (0x80D0_6807, "piece already in cache"),
    (0x80D0_6808, "piece no longer available"),
    (0x80D0_6809, "metainfo invalid"),
    (0x80D0_680A, "metainfo version invalid"),
    (0x80D0_680B, "swarm not running"),
    (0x80D0_680C, "peer not recognised"),
    (0x80D0_680D, "peer banned"),
    (0x80D0_680E, "connected to self"),
    (0x80D0_680F, "already connected"),
    (0x80D0_6810, "connection maximum reached"),
    (0x80D0_6811, "connection lost"),
    (0x80D0_6812, "swarm id not recognised"),
    (0x80D0_6813, "handshake length invalid"),
    (0x80D0_6814, "socket closed"),
    (0x80D0_6815, "message too long"),
    (0x80D0_6816, "message invalid"),
    (0x80D0_6817, "peer is an upload"),
    (0x80D0_6818, "can't pin: file isn't peered"),
    (0x80D0_6819, "can't delete a pinned file without force"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_sorted_so_that_every_code_is_found() {
        assert!(TABLE.is_sorted_by_key(|(code, _)| *code));
        for (code, text) in TABLE {
            assert_eq!(HResult(*code).description(), *text);
        }
    }

    #[test]
    fn codes_are_shown_as_windows_shows_them() {
        assert_eq!(HResult::BLOCKED_BY_SETTINGS.to_string(), "0x80D03002");
        assert_eq!(HResult::from_http_status(404).to_string(), "0x80190194");
        assert!(HResult::CLOUD_UNREACHABLE.is_transient());
        assert!(!HResult::BLOCKED_BY_SETTINGS.is_transient());
    }
}
