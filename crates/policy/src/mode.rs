//! What each download mode permits, and which mode one content really has.

use crate::{Gate, Gates, Policies};
use dosvc_content::{DownloadMode, HResult, format_bytes};
use std::fmt;

/// What a download mode permits (download-modes, section 1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Permits {
    /// Peers of any kind.
    pub peers: bool,
    /// Peers on the LAN. In mode 2 they must be of the group, too.
    pub lan: bool,
    /// Peers of the same group, wherever they are.
    pub group: bool,
    /// Peers anywhere.
    pub internet: bool,
    /// The peer port is open.
    pub listen: bool,
    /// Multicast DNS is sent and answered.
    pub multicast: bool,
    /// Delivery Optimization's own services are asked.
    pub cloud: bool,
    /// Hash files are looked for. A hash file that the caller gives is checked in every mode.
    pub hash_checks: bool,
    /// The origin is used.
    pub http: bool,
    /// Connected Cache servers are used.
    pub cache_host: bool,
    /// Cached files may be pinned.
    pub pin: bool,
}

/// What a mode permits. [`DownloadMode::Bypass`] permits nothing: see [`admit`].
pub const fn permits(mode: DownloadMode) -> Permits {
    const NOTHING: Permits = Permits {
        peers: false,
        lan: false,
        group: false,
        internet: false,
        listen: false,
        multicast: false,
        cloud: false,
        hash_checks: false,
        http: false,
        cache_host: false,
        pin: false,
    };
    const SIMPLE: Permits = Permits {
        http: true,
        cache_host: true,
        ..NOTHING
    };
    const CDN_ONLY: Permits = Permits {
        cloud: true,
        hash_checks: true,
        ..SIMPLE
    };
    const LAN: Permits = Permits {
        peers: true,
        lan: true,
        listen: true,
        multicast: true,
        pin: true,
        ..CDN_ONLY
    };
    match mode {
        DownloadMode::CdnOnly => CDN_ONLY,
        DownloadMode::Lan => LAN,
        DownloadMode::Group => Permits { group: true, ..LAN },
        DownloadMode::Internet => Permits {
            internet: true,
            ..LAN
        },
        DownloadMode::Simple => SIMPLE,
        DownloadMode::Bypass => NOTHING,
    }
}

/// Why a download is refused by its mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ModeRefused {
    /// Mode 100 hands downloads to BITS, which does not exist here.
    #[error(
        "download mode 100 (Bypass) hands downloads to BITS, which exists on Windows only; set download_mode to 0 (CdnOnly) to download without peers"
    )]
    Bypass,
    /// The caller asked for more than the device permits.
    #[error(
        "the requested download mode {requested} permits sources that the device's mode {device} does not"
    )]
    Wider {
        /// The device's mode.
        device: DownloadMode,
        /// The mode that the caller asked for.
        requested: DownloadMode,
    },
}

impl ModeRefused {
    /// The error code as Windows reports it.
    pub fn hresult(&self) -> HResult {
        match self {
            Self::Bypass => HResult::BLOCKED_BY_SETTINGS,
            Self::Wider { .. } => HResult::MODE_NOT_ALLOWED_BY_DEVICE,
        }
    }
}

/// What the mode permits; Bypass is refused with 0x80D03002.
pub fn admit(mode: DownloadMode) -> Result<Permits, ModeRefused> {
    match mode {
        DownloadMode::Bypass => Err(ModeRefused::Bypass),
        mode => Ok(permits(mode)),
    }
}

/// Whether everything that `inner` permits is permitted by `outer` as well.
///
/// Lan is not inside Group: it would give content to machines on the LAN that are not of the group.
pub fn is_within(inner: DownloadMode, outer: DownloadMode) -> bool {
    use DownloadMode::{Bypass, CdnOnly, Group, Internet, Lan, Simple};
    match (inner, outer) {
        (Bypass, _) | (_, Bypass) => inner == outer,
        (Simple, _) | (_, Internet) => true,
        (CdnOnly, outer) => outer != Simple,
        (Lan, outer) => outer == Lan,
        (Group, outer) => outer == Group,
        (Internet, _) => false,
    }
}

/// A content smaller than this is downloaded in Simple mode (download-modes, section 2.5: "10 MB"; binary as all
/// the policies' units), unless `min_file_size_to_cache` is configured to even less.
pub const SIMPLE_BELOW_BYTES: u64 = 10 << 20;

/// What is known about a content.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ContentFacts {
    /// Its length in bytes, once known.
    pub length: Option<u64>,
    /// Whether there is a hash file that verifies; `None` while it is still being looked for.
    pub has_hash_file: Option<bool>,
}

/// Why a content's mode is not the one that the device is set to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ModeReason {
    /// The caller asked for it.
    Requested(DownloadMode),
    /// There is no hash file.
    NoHashFile,
    /// The content is smaller than the bound for Simple mode.
    SmallContent {
        /// The content's length.
        length: u64,
        /// The bound, in bytes.
        bound: u64,
    },
    /// The content is smaller than `min_file_size_to_cache`.
    BelowMinFileSize {
        /// The content's length.
        length: u64,
        /// The policy, in bytes.
        bound: u64,
    },
    /// The device may not use peers at all.
    Gate(Gate),
}

impl ModeReason {
    /// What can be done about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Requested(_) => "leave --mode out to download in the device's mode",
            Self::NoHashFile => {
                "`dosvc publish` writes the hash file; put it beside the content, or give it with --hash-file"
            }
            Self::SmallContent { .. } | Self::BelowMinFileSize { .. } => {
                "a lower min_file_size_to_cache shares smaller contents"
            }
            Self::Gate(gate) => gate.remedy(),
        }
    }
}

impl fmt::Display for ModeReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requested(mode) => write!(f, "the caller asked for mode {mode}"),
            Self::NoHashFile => {
                f.write_str("no hash file that verifies was found: plain HTTP, not shared")
            }
            Self::SmallContent { length, bound } => write!(
                f,
                "the content has {}, less than {}: plain HTTP, not shared",
                format_bytes(*length),
                format_bytes(*bound)
            ),
            Self::BelowMinFileSize { length, bound } => write!(
                f,
                "the content has {}, less than min_file_size_to_cache ({}): no peers, not shared",
                format_bytes(*length),
                format_bytes(*bound)
            ),
            Self::Gate(gate) => write!(f, "{gate}"),
        }
    }
}

/// The mode of one content, and why it is not the device's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EffectiveMode {
    /// The mode in effect (`DownloadMode` in the per-file status).
    pub mode: DownloadMode,
    /// Everything that narrowed it, widest step first; empty when it is the device's mode.
    pub reasons: Vec<ModeReason>,
}

impl EffectiveMode {
    /// What the mode in effect permits.
    pub fn permits(&self) -> Permits {
        permits(self.mode)
    }
}

/// The mode of one content: the device's, or the narrower one that the caller asks for, narrowed further by what
/// the content and the device are (download-modes, sections 2.5, 6 and 7). Facts that are not known yet narrow
/// nothing.
///
/// # Errors
///
/// Bypass on either side, and a requested mode that is not within the device's.
pub fn effective_mode(
    policies: &Policies,
    requested: Option<DownloadMode>,
    content: &ContentFacts,
    gates: &Gates,
) -> Result<EffectiveMode, ModeRefused> {
    let configured = policies.download_mode();
    let wanted = requested.unwrap_or(configured);
    admit(configured)?;
    admit(wanted)?;
    if !is_within(wanted, configured) {
        return Err(ModeRefused::Wider {
            device: configured,
            requested: wanted,
        });
    }
    let mut mode = wanted;
    let mut reasons = Vec::new();
    if wanted != configured {
        reasons.push(ModeReason::Requested(wanted));
    }
    if permits(mode).peers {
        let closed = gates.iter().filter(|gate| gate.closes().peers);
        reasons.extend(closed.cloned().map(ModeReason::Gate));
        let bound = policies.min_file_size_to_cache();
        if let Some(length) = content.length.filter(|&length| length < bound) {
            reasons.push(ModeReason::BelowMinFileSize { length, bound });
        }
        if reasons
            .iter()
            .any(|r| !matches!(r, ModeReason::Requested(_)))
        {
            mode = DownloadMode::CdnOnly;
        }
    }
    if mode != DownloadMode::Simple {
        let bound = SIMPLE_BELOW_BYTES.min(policies.min_file_size_to_cache());
        if let Some(length) = content.length.filter(|&length| length < bound) {
            reasons.push(ModeReason::SmallContent { length, bound });
            mode = DownloadMode::Simple;
        }
        if content.has_hash_file == Some(false) {
            reasons.push(ModeReason::NoHashFile);
            mode = DownloadMode::Simple;
        }
    }
    Ok(EffectiveMode { mode, reasons })
}

#[cfg(test)]
mod tests;
