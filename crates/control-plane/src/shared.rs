//! What every request of a control plane sees.

use crate::{
    array::{Array, Draw, Seconds},
    config::{ControlPlaneConfig, Service},
    contents::Contents,
    metrics::Metrics,
    networks::{Networks, Place},
    pace::Pace,
    swarms::Swarms,
};
use dosvc_cloud_protocol::HttpUrl;
use dosvc_membership::Authority;
use std::{
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock, atomic::AtomicBool},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// State of one process.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: ControlPlaneConfig,
    pub(crate) swarms: Swarms,
    pub(crate) contents: Contents,
    /// Who signs members' certificates; it is where contents are published, too.
    pub(crate) authority: Option<Authority>,
    pub(crate) metrics: Metrics,
    pub(crate) pace: Pace,
    pub(crate) networks: RwLock<Arc<Networks>>,
    pub(crate) started: Instant,
    /// Whether it answers, and is not about to stop.
    pub(crate) ready: AtomicBool,
    /// Whether clients come by TLS.
    pub(crate) is_tls: bool,
}

impl Shared {
    /// What is known of an address.
    pub(crate) fn place(&self, address: IpAddr) -> Place {
        let networks = self.networks.read().unwrap_or_else(PoisonError::into_inner);
        networks.place(address)
    }

    /// Where a client that asked this host finds the other services.
    pub(crate) fn base(&self, host: Option<&str>) -> Option<HttpUrl> {
        if let Some(url) = &self.config.public_url {
            return Some(url.clone());
        }
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}", host?).parse().ok()
    }

    /// The swarms of an array that has them in this process.
    pub(crate) fn own_swarms(&self) -> Option<Arc<Array>> {
        let swarms = self.swarms.embedded().filter(|_| self.has(Service::Array));
        swarms.cloned()
    }

    /// Whether a service runs here.
    pub(crate) fn has(&self, service: Service) -> bool {
        self.config.has(service)
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// The same, as the array counts them.
pub(crate) fn seconds() -> Seconds {
    Seconds::try_from(now()).unwrap_or(Seconds::MAX)
}

/// An address below a base, whether or not that ends in a slash. `path` begins with one.
pub(crate) fn below(base: &HttpUrl, path: &str) -> String {
    format!("{}{path}", base.as_str().trim_end_matches('/'))
}

/// Randomness that nobody can guess.
pub(crate) fn draw() -> Option<Draw> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).ok()?;
    let (token, seed) = bytes.split_at(8);
    Some(Draw {
        token: u64::from_le_bytes(token.try_into().ok()?),
        seed: u64::from_le_bytes(seed.try_into().ok()?),
    })
}

/// The system's generator, through the TLS library that is here anyway.
mod rand {
    pub(super) fn fill(bytes: &mut [u8]) -> Result<(), aws_lc_rs::error::Unspecified> {
        aws_lc_rs::rand::fill(bytes)
    }
}
