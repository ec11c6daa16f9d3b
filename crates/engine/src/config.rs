//! What an engine is told to be.

use crate::{quic::QuicUse, tunnel::TeredoSettings};
use dosvc_discovery::cloud::HttpUrl;
use dosvc_membership::Trust;
use dosvc_policy::{KEEP_FREE_DEFAULT, Percent, Policies};
use dosvc_wire::Demand;
use std::{fmt, net::SocketAddr, num::NonZeroUsize, path::PathBuf, sync::Arc};

/// Settings of an engine. Everything but `state_dir`, `cache_dir`, `listen`, `host_root`, `dns_sd` and
/// `hash_threads` may change while it runs.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The Delivery Optimization policies.
    pub policies: Policies,
    /// Where cache, state and peer id lie; created when missing, used by one engine at a time.
    pub state_dir: PathBuf,
    /// Where the cache lies if not in `state_dir` (`modify_cache_drive`); it must exist.
    pub cache_dir: Option<PathBuf>,
    /// Addresses to listen on for peers, while the mode permits peers: TCP, and UDP for QUIC. Port 0: any free one.
    pub listen: Vec<SocketAddr>,
    /// The folder under which the machine's own files (`proc`, `sys`, `run`, `var`, `etc`) are seen.
    pub host_root: PathBuf,
    /// The Entra tenant's id, a source of the group's id.
    pub tenant_id: Option<String>,
    /// Whether peers are looked for by DNS-SD on the link, while the mode permits peers.
    pub dns_sd: bool,
    /// The fleet's cloud: content policies and peers beyond the link; `None`: none is asked.
    pub cloud: Option<CloudSettings>,
    /// What the members of a group prove to each other.
    pub membership: MembershipSettings,
    /// How peers are reached beyond what TCP reaches.
    pub nat: NatSettings,
    /// Whether the peer port is mapped at the machine's gateway, in the modes with peers beyond the LAN (2 and 3).
    pub port_mapping: bool,
    /// Peers to try for every content.
    pub static_peers: Vec<SocketAddr>,
    /// Foreground downloads that run at once; further ones wait.
    pub active_foreground_max: usize,
    /// Background downloads that run at once; further ones wait.
    pub active_background_max: usize,
    /// Contents that are uploaded at once; further ones wait, and all take turns.
    pub active_uploads_max: usize,
    /// Whether pieces are passed on to peers while they arrive, all but their ends before they are verified.
    pub pass_on_early: bool,
    /// The part of the disk's capacity that the cache leaves free.
    pub keep_free: Percent,
    /// Threads that hash pieces as they come, and that one reading of a whole file hashes on; `None`: one for each
    /// processor.
    pub hash_threads: Option<NonZeroUsize>,
}

/// Where the fleet's cloud is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CloudSettings {
    /// Geo's address (`Geo_EndpointFullUri`); all other services are learnt from it.
    pub geo_url: HttpUrl,
    /// Where geo's version is asked (`GeoVersion_EndpointFullUri`); `None`: beside geo.
    pub geo_version_url: Option<HttpUrl>,
    /// A PEM file of certificates that its services' certificates may be signed by, beside the system's.
    pub ca_file: Option<PathBuf>,
    /// The Ed25519 key of who publishes contents: a content policy without its signature does not count. `None`: the
    /// service's word is enough.
    pub publisher_key: Option<[u8; 32]>,
}

/// A group's secret. It is shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct GroupSecret(Arc<[u8]>);

impl GroupSecret {
    /// The least bytes: what is shorter can be guessed.
    pub const BYTES_MIN: usize = 16;

    /// A secret of at least [`Self::BYTES_MIN`] bytes.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (bytes.len() >= Self::BYTES_MIN).then(|| Self(bytes.into()))
    }

    /// The secret itself.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for GroupSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GroupSecret")
    }
}

/// What the members of a group prove to each other, and with what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MembershipSettings {
    /// What is demanded. Who proves something else gets nothing.
    pub demand: Demand,
    /// What only members know; with certificates it may be demanded beside them.
    pub secret: Option<GroupSecret>,
    /// Whose certificates count.
    pub trust: Option<Arc<Trust>>,
    /// Who issues certificates.
    pub enrolment: Option<EnrolmentSettings>,
    /// Addresses that others reach this machine at, beside its own and the one that the fleet's cloud sees.
    pub public_addresses: Vec<SocketAddr>,
    /// What of the above is configured and can't be used; then nobody is a member.
    pub problem: Option<String>,
}

impl Default for MembershipSettings {
    /// The group's id is enough.
    fn default() -> Self {
        Self {
            demand: Demand::Id,
            secret: None,
            trust: None,
            enrolment: None,
            public_addresses: Vec::new(),
            problem: None,
        }
    }
}

/// Where certificates are issued.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EnrolmentSettings {
    /// The service's address.
    pub url: HttpUrl,
    /// A PEM file of certificates that the service's own may be signed by, beside the system's.
    pub ca_file: Option<PathBuf>,
    /// The file with the enrolment token, for the first time.
    pub token_file: Option<PathBuf>,
}

/// How peers are reached beyond what TCP reaches.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NatSettings {
    /// Whether QUIC is spoken, on the UDP ports of the numbers that TCP is listened on.
    pub quic: QuicUse,
    /// The tunnel through NATs, in modes 2 and 3.
    pub teredo: TeredoSettings,
}

impl EngineConfig {
    /// The defaults for a state folder: port 7680 on IPv4 and IPv6, DNS-SD on.
    pub fn new(state_dir: PathBuf, policies: Policies) -> Self {
        Self {
            cache_dir: policies.modify_cache_drive().map(Into::into),
            policies,
            state_dir,
            listen: vec![
                SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, 7680)),
                SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 7680)),
            ],
            host_root: PathBuf::from("/"),
            tenant_id: None,
            dns_sd: true,
            cloud: None,
            membership: MembershipSettings::default(),
            nat: NatSettings::default(),
            port_mapping: true,
            static_peers: Vec::new(),
            active_foreground_max: 8,
            active_background_max: 4,
            active_uploads_max: 4,
            pass_on_early: true,
            keep_free: KEEP_FREE_DEFAULT,
            hash_threads: None,
        }
    }
}
