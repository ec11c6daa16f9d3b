//! Settings as `dosvc config` shows them: name, value, and what provided it.

use crate::config::Config;
use dosvc_content::DownloadMode;
use serde::{Deserialize, Serialize};

/// One setting in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Setting {
    /// Table and key, as in the configuration file.
    pub(crate) name: String,
    /// The value, as text.
    pub(crate) value: String,
    /// What set it: default, a file and line, an environment variable.
    pub(crate) provider: String,
    /// Nobody set it.
    pub(crate) is_default: bool,
}

/// Every setting, in the order of the sample configuration.
pub(crate) fn all(config: &Config) -> Vec<Setting> {
    vec![Setting {
        name: "delivery_optimization.download_mode".into(),
        value: config.policies.download_mode.to_string(),
        provider: "default".into(),
        is_default: true,
    }]
}

/// Sets the download mode as the local API does it.
pub(crate) fn set_mode(config: &mut Config, mode: DownloadMode) {
    config.policies.download_mode = mode.number();
}
