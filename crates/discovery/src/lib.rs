//! Finding peers on the link without any service: DNS-SD (RFC 6763) over multicast DNS (RFC 6762).
//!
//! Entry types: [`Discovery`], [`DiscoveryConfig`], [`Search`], [`Found`].

use dosvc_content::{GroupHash, HashOfHashes, PeerId};
use std::net::SocketAddr;

/// The UDP port of multicast DNS.
pub const MDNS_PORT: u16 = 5353;

/// Which interfaces take part. Interfaces that are down never do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum InterfaceFilter {
    /// Every interface that can multicast and is neither loopback nor point to point.
    #[default]
    Lan,
    /// Only loopback: daemons on this machine find each other, nothing leaves it.
    Loopback,
    /// Only interfaces of these names, whatever their kind.
    Named(Vec<String>),
}

/// What a machine says about itself, and where it says so.
#[derive(Debug, Clone)]
pub struct DiscoveryConfig {
    /// Our own id: names the service instance and the host; answers that carry it are our own and ignored.
    pub peer_id: PeerId,
    /// The TCP port that peers shall connect to.
    pub port: u16,
    /// Mixed into the names that contents are asked by, so that machines of other groups cannot even ask.
    pub group: Option<GroupHash>,
    /// Where to listen and ask.
    pub interfaces: InterfaceFilter,
    /// The UDP port, [`MDNS_PORT`] everywhere but in tests.
    pub mdns_port: u16,
}

/// Why discovery could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoveryError {
    /// The machine's interfaces could not be listed.
    #[error("cannot list the network interfaces: {0}")]
    Interfaces(#[source] std::io::Error),
    /// The multicast DNS port could not be shared with whoever else uses it.
    #[error("cannot use UDP port {port} for multicast DNS: {source}")]
    Bind {
        /// The port that was asked for.
        port: u16,
        /// What the operating system says.
        source: std::io::Error,
    },
}

/// A peer that holds the searched content, or is downloading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Who it is.
    pub peer_id: PeerId,
    /// Where it listens, never empty; every address is on the link that the answer came from. Link-local IPv6
    /// addresses have their scope id.
    pub addrs: Vec<SocketAddr>,
}

/// The machine's presence on its links. Dropping it ends its tasks without goodbye; see [`Discovery::stop`].
#[derive(Debug)]
pub struct Discovery;

impl Discovery {
    /// Starts, silently: no packet is sent and no group is joined before the first announcement or search.
    ///
    /// # Errors
    /// [`DiscoveryError`] when interfaces or the port are out of reach.
    pub async fn start(_config: DiscoveryConfig) -> Result<Self, DiscoveryError> {
        Ok(Self)
    }

    /// Answers for this content from now on; with `now_downloading` also tells the link at once.
    pub fn announce(&self, _content: HashOfHashes, _now_downloading: bool) {}

    /// Answers no more for this content, and says goodbye where somebody may remember it.
    pub fn withdraw(&self, _content: &HashOfHashes) {}

    /// Asks the link who holds this content, now and again for as long as the search lives.
    pub fn find(&self, _content: HashOfHashes) -> Search {
        Search
    }

    /// Says goodbye and ends.
    pub async fn stop(self) {}
}

/// A search for the holders of one content; dropping it ends it.
#[derive(Debug)]
pub struct Search;

impl Search {
    /// The next holder, or one that is known with new addresses; `None` once discovery has stopped.
    pub async fn next(&mut self) -> Option<Found> {
        None
    }

    /// Resolves when the first answers could have arrived: 300 ms after the question, or with the first answer.
    pub async fn settled(&self) {}
}
