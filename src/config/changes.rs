//! What a reload changes.

use super::{
    Config,
    keys::{KEYS, Setting},
};
use dosvc_policy::Policy;

/// One key whose value differs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Change {
    /// Table and key.
    pub(crate) key: String,
    /// The value before.
    pub(crate) from: String,
    /// The value now.
    pub(crate) to: String,
}

/// What differs between two configurations.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Changes {
    /// What a running daemon can take over.
    pub(crate) live: Vec<Change>,
    /// What needs a restart and stays as it was until then.
    pub(crate) restart: Vec<Change>,
}

impl Changes {
    /// Whether nothing differs.
    pub(crate) fn is_empty(&self) -> bool {
        self.live.is_empty() && self.restart.is_empty()
    }
}

/// What a reload from `old` to `new` changes. Who set a value does not matter.
pub(crate) fn diff(old: &Config, new: &Config) -> Changes {
    let mut changes = Changes::default();
    for policy in old.policies.changed(&new.policies) {
        let text = |config: &Config| {
            let value = config.policies.value_text(policy);
            value.unwrap_or_else(|| "not set".to_owned())
        };
        let change = Change {
            key: Setting::Policy(policy).path(),
            from: text(old),
            to: text(new),
        };
        // Contents in it are open.
        if policy == Policy::ModifyCacheDrive {
            changes.restart.push(change);
        } else {
            changes.live.push(change);
        }
    }
    for spec in KEYS.iter() {
        let (from, to) = ((spec.show)(old), (spec.show)(new));
        if from == to {
            continue;
        }
        let change = Change {
            key: spec.path.to_owned(),
            from,
            to,
        };
        if spec.restart {
            changes.restart.push(change);
        } else {
            changes.live.push(change);
        }
    }
    changes
}
