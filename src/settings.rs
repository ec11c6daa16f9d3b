//! Settings as `dosvc config` shows them: name, value, and who provided it.

use crate::config::Config;
use dosvc_content::DownloadMode;
use dosvc_policy::{Provider, RawValue};
use serde::{Deserialize, Serialize};

/// The table of the policies in the configuration.
const POLICY_TABLE: &str = "delivery_optimization";

/// One setting in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Setting {
    /// Table and key, as in the configuration file.
    pub(crate) name: String,
    /// A policy's original name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) policy: Option<String>,
    /// The value as text, with its unit; nothing when it is not set.
    pub(crate) value: Option<String>,
    /// Who set it.
    pub(crate) provider: String,
    /// Windows' number for it, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) provider_number: Option<u8>,
    /// Nobody set it.
    pub(crate) is_default: bool,
}

/// Every setting, in the order of the sample configuration.
pub(crate) fn all(config: &Config) -> Vec<Setting> {
    let default = Provider::Default.to_string();
    let policies = config.policies.rows().map(|row| Setting {
        name: format!("{POLICY_TABLE}.{}", row.key),
        policy: Some(row.name.to_owned()),
        value: row
            .value
            .map(|value| format!("{value} {}", row.unit).trim_end().to_owned()),
        is_default: row.provider == default,
        provider: row.provider,
        provider_number: row.provider_number,
    });
    let others = config.rows().map(|(path, value, provider)| Setting {
        name: path.to_owned(),
        policy: None,
        value: Some(value),
        provider: provider.to_string(),
        provider_number: provider.number(),
        is_default: *provider == Provider::Default,
    });
    policies.chain(others).collect()
}

/// Sets the download mode as the cmdlet does it.
pub(crate) fn set_mode(config: &mut Config, mode: DownloadMode) {
    let value = RawValue::Integer(mode.number().into());
    config
        .policies
        .set("download_mode", &value, &Provider::Command)
        .expect("every mode is allowed by the policies' table");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LoadOptions;

    #[test]
    fn a_mode_that_is_set_shows_with_its_provider() {
        let mut config = Config::load(LoadOptions::default()).unwrap();
        let find = |config: &Config| {
            all(config)
                .into_iter()
                .find(|setting| setting.name == "delivery_optimization.download_mode")
                .unwrap()
        };
        assert!(find(&config).is_default);
        for mode in DownloadMode::ALL {
            set_mode(&mut config, mode);
            let setting = find(&config);
            assert_eq!(
                (setting.is_default, setting.provider.as_str()),
                (false, "Admin Provider")
            );
            assert_eq!(config.policies.download_mode(), mode);
        }
    }
}
