//! What can be wrong with a configuration, and where.

use dosvc_policy::PolicyError;
use std::{fmt, path::PathBuf};

/// Where a mistake is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// A line of a file, from 1.
    Line(PathBuf, usize),
    /// A file as a whole.
    File(PathBuf),
    /// A variable.
    Variable(String),
    /// The command line.
    CommandLine,
    /// All layers together.
    Whole,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(path, line) => write!(f, "{}:{line}", path.display()),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::CommandLine => f.write_str("command line"),
            Self::Whole => f.write_str("configuration"),
        }
    }
}

/// What is wrong.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Mistake {
    /// No key has this name.
    #[error("unknown key {key}{}", .nearest.as_ref().map_or_else(String::new, |n| format!("; did you mean {n}?")))]
    UnknownKey {
        /// The key with its table.
        key: String,
        /// What may have been meant.
        nearest: Option<String>,
    },
    /// The value has another type, or is out of range.
    #[error("{key} = {value} is not allowed; allowed: {allowed}")]
    NotAllowed {
        /// The key with its table.
        key: String,
        /// The value; never that of a secret.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// One key twice in one layer, under two spellings.
    #[error("{key} is set twice here: as {first} and as {second}")]
    Twice {
        /// The key with its table.
        key: String,
        /// Its first spelling.
        first: String,
        /// Its second spelling.
        second: String,
    },
    /// The text is not TOML.
    #[error("{0}")]
    Syntax(String),
    /// The managed file cannot say where it lies itself, nor whose signature it needs.
    #[error("{key} cannot be set by the managed file itself")]
    NotInManaged {
        /// The key with its table.
        key: String,
    },
    /// The managed file is not one that the fleet's management must have written.
    #[error("not trusted: {0}")]
    Untrusted(String),
    /// The layer cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(String),
}

impl Mistake {
    /// What a policy says about a value, with the key's path.
    pub(crate) fn of_policy(key: String, error: PolicyError) -> Self {
        match error {
            PolicyError::NotAllowed { value, allowed, .. } => Self::NotAllowed {
                key,
                value,
                allowed,
            },
            PolicyError::Unknown { nearest, .. } => Self::UnknownKey {
                key,
                nearest: nearest.map(str::to_owned),
            },
        }
    }
}

/// One mistake with its place.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{place}: {mistake}")]
pub(crate) struct ConfigError {
    /// Where.
    pub(crate) place: Place,
    /// What.
    pub(crate) mistake: Mistake,
}

/// Every mistake of a configuration, at least one. Shown as one line for each and a summary.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ConfigErrors(pub(crate) Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.0 {
            writeln!(f, "{error}")?;
        }
        match self.0.len() {
            1 => f.write_str("the configuration has 1 error"),
            n => write!(f, "the configuration has {n} errors"),
        }
    }
}

impl std::error::Error for ConfigErrors {}
