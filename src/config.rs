//! The configuration: `/etc/dosvc/dosvc.toml`, then `conf.d/*.toml` beside it in the order of their names, then the
//! environment, then the file of the fleet's management ([`managed`]), then the command line; later ones win, key by
//! key. With none of them the daemon runs in LAN mode.
//!
//! Every layer is checked whole before anything counts: unknown keys, wrong types and values out of range are all
//! reported at once, each with its place. The policies' keys come from the table of `dosvc_policy`, all others from
//! the one in [`keys`].
//!
//! The environment: `DOSVC_<TABLE>__<KEY>`, such as `DOSVC_DAEMON__LISTEN` or
//! `DOSVC_DELIVERY_OPTIMIZATION__DOWNLOAD_MODE`; for policies the short `DOSVC_<KEY>`, such as `DOSVC_DOWNLOAD_MODE`, too.
//! Other variables without `__` are left alone: container platforms make some of their own for a service of
//! this name.

mod changes;
mod error;
pub(crate) mod keys;
mod layer;
mod managed;
mod sample;
mod watch;

pub(crate) use changes::{Change, Changes, diff};
pub(crate) use error::{ConfigError, ConfigErrors, Mistake, Place};
pub(crate) use managed::{DEFAULT_FILE as MANAGED_FILE, PublicKey};
pub(crate) use sample::sample_file;
pub(crate) use watch::Watch;

use dosvc_cloud_protocol::HttpUrl;
use dosvc_control_plane::ControlPlaneConfig;
use dosvc_engine::{Demand, QuicUse, ServerAddresses};
use dosvc_policy::{KEEP_FREE_DEFAULT, Percent, Policies, Provider, RawValue};
use keys::Setting;
use layer::{Layer, Numbered};
use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

/// The file that is read when no other is named; it need not exist.
pub(crate) const DEFAULT_FILE: &str = "/etc/dosvc/dosvc.toml";

/// The swarm's port (TCP and UDP).
pub(crate) const SWARM_PORT: u16 = 7680;

/// Everything that can be configured, checked.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Config {
    /// The Delivery Optimization policies.
    pub(crate) policies: Policies,
    /// The daemon itself.
    pub(crate) daemon: DaemonConfig,
    /// How peers are found.
    pub(crate) discovery: DiscoveryConfig,
    /// What the members of a group prove to each other.
    pub(crate) group: GroupConfig,
    /// How peers are reached beyond what TCP reaches.
    pub(crate) nat: NatConfig,
    /// The cache, beside its policies.
    pub(crate) cache: CacheConfig,
    /// How much is done at once.
    pub(crate) transfers: TransferConfig,
    /// Where the fleet's management has its say.
    pub(crate) managed: ManagedConfig,
    /// The fleet's own cloud services; their state lies below the daemon's.
    pub(crate) control_plane: ControlPlaneConfig,
    /// The files that were read, in order.
    pub(crate) files: Vec<PathBuf>,
    /// What whoever wrote the configuration should know; nothing here keeps it from working.
    pub(crate) warnings: Vec<String>,
    /// Who set which key, policies left out (they know themselves); keys at their default are missing.
    providers: BTreeMap<&'static str, Provider>,
}

/// The table `[daemon]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct DaemonConfig {
    /// Cache, state and peer id lie here.
    pub(crate) state_dir: PathBuf,
    /// The folder under which the machine's own files are seen.
    pub(crate) host_root: PathBuf,
    /// Addresses for peers (TCP, and UDP for QUIC); port 0 takes a free one; empty: no peer can connect to us.
    pub(crate) listen: Vec<SocketAddr>,
    /// The Unix socket of the local API.
    pub(crate) api_socket: PathBuf,
    /// The group that may use the local API beside the owner.
    pub(crate) api_group: Option<String>,
    /// How log lines look.
    pub(crate) log_format: LogFormat,
    /// What is logged: a level, or targets with levels, separated by commas.
    pub(crate) log_level: String,
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The table `[discovery]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct DiscoveryConfig {
    /// Announce and look for contents by DNS-SD over multicast DNS, in the modes that permit it.
    pub(crate) dns_sd: bool,
    /// Peers to try for every content.
    pub(crate) peers: Vec<SocketAddr>,
    /// The Entra tenant's id, a source of the group's id.
    pub(crate) tenant_id: Option<String>,
    /// Geo's address (`Geo_EndpointFullUri`); `None`: the fleet has no cloud.
    pub(crate) geo_url: Option<HttpUrl>,
    /// Where geo's version is asked (`GeoVersion_EndpointFullUri`).
    pub(crate) geo_version_url: Option<HttpUrl>,
    /// Certificates that the cloud's may be signed by.
    pub(crate) cloud_ca_file: Option<PathBuf>,
    /// Whose signature content policies must carry.
    pub(crate) publisher_key: Option<PublicKey>,
}

/// The table `[group]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct GroupConfig {
    /// What is demanded.
    pub(crate) membership: Demand,
    /// The file with the group's secret.
    pub(crate) secret_file: Option<PathBuf>,
    /// The certificates of those whose members count.
    pub(crate) authority_file: Option<PathBuf>,
    /// Where certificates are issued; `None`: beside geo.
    pub(crate) enrolment_url: Option<HttpUrl>,
    /// The file with an enrolment token.
    pub(crate) enrolment_token_file: Option<PathBuf>,
    /// Where others reach this machine.
    pub(crate) public_addresses: Vec<SocketAddr>,
}

/// The table `[nat]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NatConfig {
    /// Whether QUIC is spoken, on the UDP ports of the numbers of `daemon.listen`.
    pub(crate) quic: QuicUse,
    /// Teredo servers, best first; without any there is no tunnel.
    pub(crate) teredo_servers: Vec<ServerAddresses>,
    /// The UDP port of the tunnel.
    pub(crate) teredo_port: u16,
    /// Whether the peer port is mapped at the gateway, in the modes with peers beyond the LAN.
    pub(crate) port_mapping: bool,
}

/// The table `[cache]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CacheConfig {
    /// The part of the disk's capacity that is never taken.
    pub(crate) keep_free: Percent,
}

/// The table `[transfers]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TransferConfig {
    /// The most foreground downloads that run at once; others wait.
    pub(crate) max_active_foreground: usize,
    /// The most background downloads that run at once; others wait.
    pub(crate) max_active_background: usize,
    /// The most contents that are uploaded at once; they take turns when there are more.
    pub(crate) max_active_uploads: usize,
    /// Whether pieces are passed on to peers while they arrive.
    pub(crate) pass_on_early: bool,
    /// Threads that hash pieces; `None`: one for each processor.
    pub(crate) hash_threads: Option<usize>,
}

/// The table `[managed]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ManagedConfig {
    /// The file that the fleet's management writes; it need not exist.
    pub(crate) file: PathBuf,
    /// Whose signature the file must carry; `None`: it must be root's instead.
    pub(crate) public_key: Option<PublicKey>,
}

/// Where the configuration comes from.
#[derive(Clone, Debug, Default)]
pub(crate) struct LoadOptions {
    /// The file that the caller named: it must exist. `None`: `default_file`, which need not.
    pub(crate) config_file: Option<PathBuf>,
    /// The file that is read when the caller named none.
    pub(crate) default_file: PathBuf,
    /// The file of the fleet's management unless another one is configured.
    pub(crate) managed_file: PathBuf,
    /// The environment; those variables that matter are enough.
    pub(crate) environment: BTreeMap<OsString, OsString>,
    /// What the command line sets (`run --set`): a policy's name or a key with its table, and a value.
    pub(crate) overrides: Vec<(String, String)>,
    /// Whether the process is root's: it decides the default places.
    pub(crate) is_root: bool,
}

impl LoadOptions {
    /// This process' environment and user, with what its command line says.
    pub(crate) fn from_process(
        config_file: Option<PathBuf>,
        overrides: Vec<(String, String)>,
    ) -> Self {
        Self {
            config_file,
            default_file: DEFAULT_FILE.into(),
            managed_file: MANAGED_FILE.into(),
            environment: env::vars_os().collect(),
            overrides,
            is_root: rustix::process::geteuid().is_root(),
        }
    }

    /// The file that is read first.
    pub(crate) fn main_file(&self) -> &Path {
        self.config_file.as_ref().unwrap_or(&self.default_file)
    }

    /// A variable that is set and not empty.
    fn variable(&self, name: &str) -> Option<&OsString> {
        self.environment
            .get(std::ffi::OsStr::new(name))
            .filter(|value| !value.is_empty())
    }

    /// Where state lies by default: `$STATE_DIRECTORY` (systemd; the first of several), `/var/lib/dosvc` for root,
    /// else the user's data folder.
    fn state_dir(&self) -> PathBuf {
        let system = PathBuf::from("/var/lib/dosvc");
        if let Some(folders) = self.variable("STATE_DIRECTORY") {
            return env::split_paths(folders).next().unwrap_or(system);
        }
        if self.is_root {
            return system;
        }
        let data = self
            .variable("XDG_DATA_HOME")
            .map(PathBuf::from)
            .or_else(|| {
                self.variable("HOME")
                    .map(|home| Path::new(home).join(".local/share"))
            });
        data.map_or(system, |data| data.join("dosvc"))
    }

    /// Where the local API listens by default: in `$RUNTIME_DIRECTORY` (systemd), in `/run/dosvc` for root, in the
    /// user's runtime folder, else in the state folder.
    fn api_socket(&self, state_dir: &Path) -> PathBuf {
        if let Some(folder) = self
            .variable("RUNTIME_DIRECTORY")
            .and_then(|folders| env::split_paths(folders).next())
        {
            return folder.join("api.sock");
        }
        if self.is_root {
            return "/run/dosvc/api.sock".into();
        }
        match self.variable("XDG_RUNTIME_DIR") {
            Some(folder) => Path::new(folder).join("dosvc/api.sock"),
            None => state_dir.join("api.sock"),
        }
    }
}

impl Config {
    /// Reads and checks everything.
    ///
    /// # Errors
    ///
    /// All mistakes of all layers, in the order in which the layers are read.
    pub(crate) fn load(options: LoadOptions) -> Result<Self, ConfigErrors> {
        let mut errors = Vec::new();
        let mut config = Self::defaults(&options);
        let mut layers = Vec::new();
        for path in layer::files(&options, &mut errors) {
            layers.extend(Layer::from_file(&path, &mut errors));
            config.files.push(path);
        }
        let environment = Layer::from_environment(&options.environment, &mut errors);
        config
            .warnings
            .extend(layer::misspelt(&options.environment));
        layers.push(environment);
        let command = Layer::from_overrides(&options.overrides, &mut errors);
        // Where the managed file lies, and whom to trust, is for everybody but that file to say.
        let mut without = config.clone();
        let others: Vec<Layer> = layers.iter().chain([&command]).cloned().collect();
        if let Err(error) = without.merge(&others) {
            errors.push(error);
        }
        if let Some(text) = managed::read(&without.managed, &mut errors) {
            let file = without.managed.file;
            layers.push(Layer::from_text(
                &file,
                &text,
                Provider::Managed,
                &mut errors,
            ));
            config.files.push(file);
        }
        layers.push(command);
        if !errors.is_empty() {
            return Err(ConfigErrors(errors));
        }
        config.merge(&layers).map_err(|e| ConfigErrors(vec![e]))?;
        if !config.providers.contains_key("daemon.api_socket") {
            config.daemon.api_socket = options.api_socket(&config.daemon.state_dir);
        }
        config.warnings.extend(config.policies.warnings());
        Ok(config)
    }

    /// What holds when nothing is configured.
    fn defaults(options: &LoadOptions) -> Self {
        let state_dir = options.state_dir();
        Self {
            policies: Policies::default(),
            daemon: DaemonConfig {
                listen: vec![
                    (Ipv6Addr::UNSPECIFIED, SWARM_PORT).into(),
                    (Ipv4Addr::UNSPECIFIED, SWARM_PORT).into(),
                ],
                api_socket: options.api_socket(&state_dir),
                api_group: None,
                host_root: "/".into(),
                log_format: LogFormat::Text,
                log_level: "info".to_owned(),
                state_dir,
            },
            discovery: DiscoveryConfig {
                dns_sd: true,
                peers: Vec::new(),
                tenant_id: None,
                geo_url: None,
                geo_version_url: None,
                cloud_ca_file: None,
                publisher_key: None,
            },
            group: GroupConfig {
                membership: Demand::Id,
                secret_file: None,
                authority_file: None,
                enrolment_url: None,
                enrolment_token_file: None,
                public_addresses: Vec::new(),
            },
            nat: NatConfig {
                quic: QuicUse::default(),
                teredo_servers: Vec::new(),
                teredo_port: dosvc_nat::teredo::PORT,
                port_mapping: true,
            },
            cache: CacheConfig {
                keep_free: KEEP_FREE_DEFAULT,
            },
            transfers: TransferConfig {
                max_active_foreground: 16,
                max_active_background: 8,
                max_active_uploads: 4,
                pass_on_early: true,
                hash_threads: None,
            },
            managed: ManagedConfig {
                file: options.managed_file.clone(),
                public_key: None,
            },
            control_plane: ControlPlaneConfig::default(),
            files: Vec::new(),
            warnings: Vec::new(),
            providers: BTreeMap::new(),
        }
    }

    /// Lays the layers over each other and takes what is on top. They have been checked: an error here would be one
    /// of this program.
    fn merge(&mut self, layers: &[Layer]) -> Result<(), ConfigError> {
        let fault = |message: String| ConfigError {
            place: Place::Whole,
            mistake: Mistake::Unreadable(message),
        };
        let merged = layers
            .iter()
            .enumerate()
            .fold(config::Config::builder(), |builder, (at, layer)| {
                builder.add_source(Numbered(at, layer.clone()))
            })
            .build()
            .map_err(|e| fault(e.to_string()))?;
        for (setting, raw, at) in layer::settings(&merged.cache, layers) {
            self.apply(setting, &raw, &layers[at].provider)
                .map_err(|mistake| fault(mistake.to_string()))?;
        }
        Ok(())
    }

    /// Takes one value.
    fn apply(
        &mut self,
        setting: Setting,
        raw: &RawValue,
        provider: &Provider,
    ) -> Result<(), Mistake> {
        match setting {
            Setting::Policy(policy) => self
                .policies
                .set(policy.spec().key, raw, provider)
                .map_err(|error| Mistake::of_policy(setting.path(), error)),
            Setting::Key(spec) => {
                (spec.set)(self, raw).ok_or_else(|| Mistake::NotAllowed {
                    key: spec.path.to_owned(),
                    value: raw.to_string(),
                    allowed: spec.allowed.to_owned(),
                })?;
                self.providers.insert(spec.path, provider.clone());
                Ok(())
            }
        }
    }

    /// Every key that is no policy, with its value as it would stand in a file, and who set it.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&'static str, String, &Provider)> {
        keys::KEYS.iter().map(|spec| {
            let provider = self.providers.get(spec.path);
            (
                spec.path,
                (spec.show)(self),
                provider.unwrap_or(&Provider::Default),
            )
        })
    }
}

#[cfg(test)]
mod tests;
