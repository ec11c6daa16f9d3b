//! What of the bandwidth downloads and uploads may take at one moment (policies, section 5).
//!
//! LAN peers are exempt from all of it; telling them apart is the caller's business.

use crate::{Hours, Percent, Policies};
use dosvc_content::ByteRate;
use std::fmt;

/// The share of what is available that foreground downloads take unless configured otherwise ("dynamic").
pub const DYNAMIC_FOREGROUND: Percent = Percent::of(90);
/// The same for background downloads.
pub const DYNAMIC_BACKGROUND: Percent = Percent::of(45);

/// No share is less than this, however little is available: a download must be able to show that there is more.
const SHARE_MIN_BPS: u64 = 16 << 10;

/// Whose limit is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Priority {
    /// Somebody waits for the download.
    Foreground,
    /// Nobody does.
    Background,
}

/// Where a limit comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LimitSource {
    /// An absolute rate.
    Absolute,
    /// A share that somebody configured, for always or for these hours.
    Share(Percent),
    /// Nobody configured anything: the share that holds then. It spares HTTP servers in the LAN, too.
    Dynamic(Percent),
    /// A share of 100 %: no limit.
    None,
}

/// What all downloads of one priority together may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DownloadLimit {
    /// Bytes a second; `None`: no limit, or what is available is being measured.
    pub rate: Option<ByteRate>,
    /// Why.
    pub source: LimitSource,
}

/// The limit of one priority at this hour of the day (local time, 0 to 23), with so much available toward the sources;
/// `None`: not measured yet.
///
/// Business hours go before the percentage policy while they name a share. With an absolute limit as well, a share is
/// one of what is available under that limit; without either the dynamic share holds.
pub fn download_limit(
    policies: &Policies,
    priority: Priority,
    hour: u8,
    available: Option<ByteRate>,
) -> DownloadLimit {
    let (hours, percentage, absolute, dynamic) = match priority {
        Priority::Foreground => (
            policies.set_hours_to_limit_foreground_download_bandwidth(),
            policies.percentage_max_foreground_bandwidth(),
            policies.max_foreground_download_bandwidth(),
            DYNAMIC_FOREGROUND,
        ),
        Priority::Background => (
            policies.set_hours_to_limit_background_download_bandwidth(),
            policies.percentage_max_background_bandwidth(),
            policies.max_background_download_bandwidth(),
            DYNAMIC_BACKGROUND,
        ),
    };
    let configured = hours
        .and_then(|hours: Hours| hours.share_at(hour))
        .or(percentage);
    let (share, source) = match (configured, absolute) {
        (None, Some(rate)) => {
            return DownloadLimit {
                rate: Some(rate),
                source: LimitSource::Absolute,
            };
        }
        (None, None) => (dynamic, LimitSource::Dynamic(dynamic)),
        (Some(share), None) if share.get() == 100 => {
            return DownloadLimit {
                rate: None,
                source: LimitSource::None,
            };
        }
        (Some(share), _) => (share, LimitSource::Share(share)),
    };
    let whole = match (available, absolute) {
        (Some(available), Some(absolute)) => Some(available.min(absolute)),
        (Some(available), None) => Some(available),
        // Not measured yet: nothing to have a share of but the absolute limit, which must hold from the first byte.
        (None, absolute) => {
            return DownloadLimit {
                rate: absolute,
                source,
            };
        }
    };
    let rate = whole.and_then(|whole| {
        ByteRate::from_bps(
            share
                .part_of(whole.bps())
                .max(SHARE_MIN_BPS.min(whole.bps())),
        )
    });
    DownloadLimit { rate, source }
}

impl DownloadLimit {
    /// The limit where what is available was measured by what peers sent (`of_peers`). That is what they had to give, not
    /// what there is: the dynamic share of it, taken by all of them, would make it less each time. Somebody waits for a
    /// foreground download, so it takes what comes.
    #[must_use]
    pub fn in_swarm(self, priority: Priority, of_peers: bool) -> Self {
        let dynamic = matches!(self.source, LimitSource::Dynamic(_));
        let lifted = of_peers && dynamic && priority == Priority::Foreground;
        Self {
            rate: self.rate.filter(|_| !lifted),
            ..self
        }
    }
}

impl fmt::Display for LimitSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absolute => f.write_str("absolute"),
            Self::Share(share) => write!(f, "{share} of what is available"),
            Self::Dynamic(share) => write!(f, "dynamic: {share} of what is available"),
            Self::None => f.write_str("no limit"),
        }
    }
}

#[cfg(test)]
mod tests;
