//! Who set a value.

use std::{fmt, path::PathBuf};

/// Who set a policy's value. A later one in this list wins over an earlier one; among files, the one read last.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum Provider {
    /// Nobody: the platform's default.
    #[default]
    Default,
    /// A configuration file: what Group Policy in the registry is on Windows.
    File(PathBuf),
    /// A `DOSVC_…` variable.
    Environment,
    /// The file that the fleet's management writes: what MDM is on Windows.
    Managed,
    /// A command or a command-line option: what the cmdlets are on Windows.
    Command,
}

impl Provider {
    /// The number that Get-DOConfig uses for the provider (monitoring, section 1): Registry 5, Mdm 7, Admin 9,
    /// Default 99. Windows has nothing like the environment.
    pub fn number(&self) -> Option<u8> {
        match self {
            Self::Default => Some(99),
            Self::File(_) => Some(5),
            Self::Environment => None,
            Self::Managed => Some(7),
            Self::Command => Some(9),
        }
    }

    /// What wins over what: a value is replaced by one of the same or a higher rank.
    pub(crate) fn rank(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::File(_) => 1,
            Self::Environment => 2,
            Self::Managed => 3,
            Self::Command => 4,
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("Default Provider"),
            Self::File(path) => write!(f, "File Provider ({})", path.display()),
            Self::Environment => f.write_str("Environment Provider"),
            Self::Managed => f.write_str("Mdm Provider"),
            Self::Command => f.write_str("Admin Provider"),
        }
    }
}
