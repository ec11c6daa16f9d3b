//! What a control plane is told before it starts.

use crate::{
    array::ArrayLimits,
    database::{PostgresConfig, PostgresUrl},
    remote::{RedisConfig, RedisUrl},
};
use dosvc_cloud_protocol::{HttpUrl, Text, limits::TAG_BYTES_MAX};
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
};

/// One of the five services.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Service {
    /// Where am I, and whom do I ask.
    Geo,
    /// Addresses of the others, and settings.
    KeyValue,
    /// May this content be shared, and what is its hash.
    ContentPolicy,
    /// Which array holds a swarm.
    Discovery,
    /// The tracker.
    Array,
}

impl Service {
    /// All of them, in the order in which a client asks.
    pub const ALL: [Self; 5] = [
        Self::Geo,
        Self::KeyValue,
        Self::ContentPolicy,
        Self::Discovery,
        Self::Array,
    ];

    /// The name in configuration, metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Geo => "geo",
            Self::KeyValue => "key-value",
            Self::ContentPolicy => "content-policy",
            Self::Discovery => "discovery",
            Self::Array => "array",
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Text that names no service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected geo, key-value, content-policy, discovery or array")]
pub struct ParseServiceError;

impl FromStr for Service {
    type Err = ParseServiceError;

    fn from_str(text: &str) -> Result<Self, ParseServiceError> {
        Self::ALL
            .into_iter()
            .find(|service| service.name() == text)
            .ok_or(ParseServiceError)
    }
}

/// Everything that a control plane needs to know; the table `[control_plane]` of the configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControlPlaneConfig {
    /// The services that this process has.
    pub services: Vec<Service>,
    /// Where clients connect.
    pub listen: Vec<SocketAddr>,
    /// The certificate chain in PEM, the server's own first. Without it, and the key, it is HTTP.
    pub certificate: Option<PathBuf>,
    /// The certificate's private key in PEM.
    pub key: Option<PathBuf>,
    /// Plain HTTP on other addresses than loopback.
    pub allow_http: bool,
    /// Where the page, the metrics and `status` are: HTTP, for loopback or a network of administrators.
    pub admin_listen: Option<SocketAddr>,
    /// Where clients find key-value, content policy and discovery; `None`: where they found geo.
    pub public_url: Option<HttpUrl>,
    /// Array services among which discovery spreads contents; empty: the one below [`Self::public_url`].
    pub arrays: Vec<HttpUrl>,
    /// Snapshot and administration data.
    pub state_dir: PathBuf,
    /// The database of administration data, when that is no file in [`Self::state_dir`].
    pub postgres: PostgresConfig,
    /// Which network is in which country; see [`crate::Networks`].
    pub networks: Option<PathBuf>,
    /// Callers that may use peers; empty: all.
    pub registered_callers: Vec<Text<TAG_BYTES_MAX>>,
    /// Cache hosts that geo names.
    pub cache_hosts: Vec<String>,
    /// Bounds of the array.
    pub array: ArrayLimits,
    /// Where its swarms are, when not in this process.
    pub redis: RedisConfig,
    /// Proxies in front of this process: a request of theirs comes from whom `X-Forwarded-For` names last.
    pub trusted_proxies: Vec<IpAddr>,
    /// Requests of one address a second, on average over some seconds; 0: no limit.
    pub requests_per_second: u32,
    /// The same for one API token.
    pub token_requests_per_second: u32,
    /// Connections at one time.
    pub connections_max: usize,
    /// Connections of one address at one time.
    pub connections_per_address_max: u32,
    /// The file with the key that members' certificates are signed with; `None`: in [`Self::state_dir`].
    pub group_authority: Option<PathBuf>,
    /// How long a device's certificate counts, in seconds.
    pub device_certificate_lifetime: u32,
}

/// The port of clients.
pub const CONTROL_PLANE_PORT: u16 = 7681;

/// The port of administrators.
pub const ADMIN_PORT: u16 = 7682;

impl Default for ControlPlaneConfig {
    fn default() -> Self {
        Self {
            services: Service::ALL.to_vec(),
            listen: vec![([127, 0, 0, 1], CONTROL_PLANE_PORT).into()],
            certificate: None,
            key: None,
            allow_http: false,
            admin_listen: Some(([127, 0, 0, 1], ADMIN_PORT).into()),
            public_url: None,
            arrays: Vec::new(),
            state_dir: "/var/lib/dosvc/control-plane".into(),
            postgres: PostgresConfig::default(),
            networks: None,
            registered_callers: Vec::new(),
            cache_hosts: Vec::new(),
            array: ArrayLimits::default(),
            redis: RedisConfig::default(),
            trusted_proxies: Vec::new(),
            requests_per_second: 2000,
            token_requests_per_second: 20,
            connections_max: 20_000,
            connections_per_address_max: 2000,
            group_authority: None,
            device_certificate_lifetime: 24 * 3600,
        }
    }
}

impl ControlPlaneConfig {
    /// What in it can't work together.
    ///
    /// # Errors
    /// A sentence that says what to change.
    pub fn check(&self) -> Result<(), String> {
        if self.certificate.is_some() != self.key.is_some() {
            return Err("certificate and key belong together: one of them is not set".to_owned());
        }
        let open = self.listen.iter().find(|a| !a.ip().is_loopback());
        if let (Some(open), None, false) = (open, &self.certificate, self.allow_http) {
            return Err(format!(
                "{open} would be plain HTTP beyond this machine: set certificate and key, or allow_http"
            ));
        }
        if self.redis.sentinel.is_some() && self.redis.servers.is_empty() {
            return Err("redis_sentinel names a primary, but redis names no Sentinels".to_owned());
        }
        if self.redis.ca_file.is_some() && !self.redis.servers.iter().any(RedisUrl::is_tls) {
            return Err(
                "redis_ca_file is for TLS, and no address in redis is rediss://".to_owned(),
            );
        }
        let plain = |url: &PostgresUrl| url.is_plain();
        if self.postgres.ca_file.is_some() && self.postgres.url.as_ref().is_none_or(plain) {
            return Err(
                "postgres_ca_file is for TLS: postgres names no server, or rules TLS out"
                    .to_owned(),
            );
        }
        if self.services.is_empty() {
            return Err("no service is to run".to_owned());
        }
        Ok(())
    }

    /// Certificate and key, if clients come by TLS.
    pub fn tls(&self) -> Option<(&Path, &Path)> {
        Some((self.certificate.as_deref()?, self.key.as_deref()?))
    }

    /// Where the authority of groups is kept.
    pub fn authority_file(&self) -> PathBuf {
        let own = || self.state_dir.join("group-authority.pem");
        self.group_authority.clone().unwrap_or_else(own)
    }

    /// Whether this address is one of the proxies in front.
    pub fn is_proxy(&self, address: IpAddr) -> bool {
        self.trusted_proxies.contains(&address)
    }

    /// Whether a service runs here.
    pub fn has(&self, service: Service) -> bool {
        self.services.contains(&service)
    }
}
