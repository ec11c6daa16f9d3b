//! What a swarm is told by its owner.

use crate::{Limits, SourceKind};
use dosvc_content::PeerId;
use std::time::Duration;

/// Settings of one swarm; all but `self_id` and `seed` may change while it runs.
#[derive(Clone, Debug)]
pub struct SwarmConfig {
    /// Our own id: it seeds this machine's order of pieces and stands in the agreement about HTTP.
    pub self_id: PeerId,
    /// Somebody waits for the content.
    pub foreground: bool,
    /// No content over HTTP before this much time since the start (the delay policies). Default 0.
    pub http_delay: Duration,
    /// How long the origin waits for failing cache hosts, from the moment that HTTP may be used (the fallback delays).
    /// Default 0: the origin stands in at once. A source that is down for good is waited for in no case.
    pub cache_fallback_delay: Duration,
    /// While discovery may still find peers, HTTP fetches nothing for 20 to 100 ms, then only one piece, and more only for
    /// who comes before all downloaders that it knows. Default 500 ms; costs at most this
    /// much time when there are no peers.
    pub discovery_grace: Duration,
    /// When peers give at least this many bytes a second, HTTP is not used for what they have (DOMinBackgroundQos,
    /// or a foreground target). `None`: no such floor, HTTP helps whenever it is faster than the peers.
    pub qos_bps: Option<u64>,
    /// Which peers are given anything. Default: all.
    pub giving: Giving,
    /// Caps on what others can make grow.
    pub limits: Limits,
    /// Seed of every random choice.
    pub seed: u64,
}

impl SwarmConfig {
    /// The defaults for a machine with this id.
    pub fn new(self_id: PeerId, seed: u64) -> Self {
        Self {
            self_id,
            foreground: false,
            http_delay: Duration::ZERO,
            cache_fallback_delay: Duration::ZERO,
            discovery_grace: Duration::from_millis(500),
            qos_bps: None,
            giving: Giving::ALL,
            limits: Limits::default(),
            seed,
        }
    }
}

/// Which peers are given anything: what battery, caps and other contents that want to be given leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Giving {
    /// Peers in the LAN, those found on the link included.
    pub lan: bool,
    /// Peers of the group beyond it.
    pub group: bool,
    /// Internet peers.
    pub internet: bool,
}

impl Giving {
    /// To everybody.
    pub const ALL: Self = Self {
        lan: true,
        group: true,
        internet: true,
    };
    /// To nobody.
    pub const NONE: Self = Self {
        lan: false,
        group: false,
        internet: false,
    };

    /// To those that both permit.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            lan: self.lan && other.lan,
            group: self.group && other.group,
            internet: self.internet && other.internet,
        }
    }

    /// Whether to a source of this kind.
    pub fn includes(self, kind: SourceKind) -> bool {
        match kind {
            SourceKind::LanPeer | SourceKind::LinkLocalPeer => self.lan,
            SourceKind::GroupPeer => self.group,
            SourceKind::InternetPeer => self.internet,
            SourceKind::CacheHost | SourceKind::Origin => false,
        }
    }
}
