//! What the paths cost when somebody last looked: `benches/counts/baseline.toml`.

use crate::{Result, paths::PATHS};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, path::PathBuf, process::Command};

/// Instructions for one unit of work.
pub(crate) type Cost = f64;

/// Counts are of this kind of machine's instructions.
pub(crate) const MACHINE: &str = std::env::consts::ARCH;

/// The baseline.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Baseline {
    /// The compiler whose code was counted.
    pub(crate) rustc: String,
    pub(crate) machine: String,
    /// Instructions at the small and at the large size.
    pub(crate) costs: BTreeMap<String, [Cost; 2]>,
}

impl Baseline {
    pub(crate) fn of(costs: &[[Cost; 2]]) -> Self {
        let round = |cost: Cost| (cost * 10.0).round() / 10.0;
        let costs = PATHS.iter().zip(costs);
        Self {
            rustc: rustc(),
            machine: MACHINE.to_owned(),
            costs: costs
                .map(|(path, cost)| (path.name.to_owned(), cost.map(round)))
                .collect(),
        }
    }

    fn file() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/counts/baseline.toml")
    }

    pub(crate) fn read() -> Result<Self> {
        let file = Self::file();
        let text = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        Ok(toml::from_str(&text)?)
    }

    pub(crate) fn write(&self) -> Result<PathBuf> {
        let text = format!(
            "# Instructions per unit of work at the small and the large size; see main.rs. Written by\n\
             # cargo run --profile ci --example counts -- --update\n\n{}",
            toml::to_string(self)?
        );
        fs::write(Self::file(), text)?;
        Ok(Self::file())
    }
}

/// The compiler that is at hand, which cargo has just used.
pub(crate) fn rustc() -> String {
    let version = Command::new("rustc").arg("--version").output();
    version.map_or_else(
        |_| "an unknown compiler".to_owned(),
        |out| String::from_utf8_lossy(&out.stdout).trim().to_owned(),
    )
}
