//! Stand-in until the configuration of branch `policy` is here.
use serde::Deserialize;
use std::{fmt, net::SocketAddr, path::PathBuf};

#[derive(Clone, Debug, Default)]
pub(crate) struct LoadOptions {
    pub(crate) file: Option<PathBuf>,
}
#[derive(Clone, Debug, Deserialize, Default)]
#[serde(default)]
pub(crate) struct Policies {
    pub(crate) download_mode: u8,
}
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(crate) struct DaemonConfig {
    pub(crate) state_dir: PathBuf,
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) api_socket: PathBuf,
    pub(crate) api_group: Option<String>,
    pub(crate) log_format: String,
    pub(crate) log_level: String,
}
impl Default for DaemonConfig {
    fn default() -> Self {
        Self {
            state_dir: "/tmp/dosvc-state".into(),
            listen: vec!["[::]:7680".parse().expect("address")],
            api_socket: "/tmp/dosvc-state/api.sock".into(),
            api_group: None,
            log_format: "text".into(),
            log_level: "info".into(),
        }
    }
}
#[derive(Clone, Debug, Deserialize, Default)]
#[serde(default)]
pub(crate) struct DiscoveryConfig {
    pub(crate) dns_sd: bool,
    pub(crate) peers: Vec<SocketAddr>,
}
#[derive(Clone, Debug, Deserialize, Default)]
#[serde(default)]
pub(crate) struct Config {
    #[serde(rename = "delivery_optimization")]
    pub(crate) policies: Policies,
    pub(crate) daemon: DaemonConfig,
    pub(crate) discovery: DiscoveryConfig,
    #[serde(skip)]
    pub(crate) files: Vec<PathBuf>,
}
#[derive(Debug)]
pub(crate) struct ConfigErrors(String);
impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for ConfigErrors {}
impl Config {
    pub(crate) fn load(options: LoadOptions) -> Result<Self, ConfigErrors> {
        let Some(file) = options.file else {
            return Ok(Self::default());
        };
        let text = std::fs::read_to_string(&file)
            .map_err(|e| ConfigErrors(format!("{}: {e}", file.display())))?;
        let mut config: Self = toml::from_str(&text).map_err(|e| ConfigErrors(e.to_string()))?;
        config.files.push(file);
        Ok(config)
    }
}
