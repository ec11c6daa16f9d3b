//! Scenarios from text files.
//!
//! A file is TOML; unknown keys, missing units and values out of range are refused with line and column. Sizes, rates
//! and times are texts with a unit (`"128 MiB"`, `"200 Mbit/s"`, `"50 ms"`).
//!
//! | key | what it is | default |
//! |---|---|---|
//! | `name` | names the row of the table | file name |
//! | `about` | one line on what the scenario is for | |
//! | `seed` | of everything random | 1 |
//! | `neighbours` | peers that a machine looks for among those that were there before it | all |
//! | `discovery` | two peers find each other within this time | `"50 ms"` |
//! | `limit` | the run fails when it is not done by then | `"1 h"` |
//! | `check_every` | events between two checks of the cores' own invariants; 0: only at the end | 20 000 |
//! | `content.size`, `content.piece` | the content | piece: `"1 MiB"` |
//! | `network.model` | `"tcp"` or `"ideal"`, see [`Network`](crate::Network) | `"tcp"` |
//! | `network.queue`, `.burst`, `.send_buffer`, `.notsent_lowat`, `.receive_queue`, `.overhead_percent`, `.cell` | of that model | see [`Network`](crate::Network) |
//! | `network.verify` | rate at which a machine checks pieces | `"1 GB/s"` |
//! | `class` | machines of one kind, any number of tables | |
//!
//! A `[[class]]`:
//!
//! | key | what it is | default |
//! |---|---|---|
//! | `name` | names the class in the output | |
//! | `role` | `"seed"`, `"peer"`, `"origin"`, `"cache-host"`, `"silent"`, `"corrupt"` | `"peer"` |
//! | `count` | machines | 1 |
//! | `rate`, or `up` and `down` | the access link | |
//! | `latency` | one way, from the machine to the middle of the network | `"0.25 ms"` |
//! | `site` | machines of one site are on each other's LAN | `""` |
//! | `group` | machines of one group can prove it to each other | none |
//! | `policies` | Delivery Optimization policies as in the daemon's configuration | mode 1, small machines and files allowed |
//! | `foreground` | somebody waits for the content | false |
//! | `extended` | speaks our extensions; false: as a Windows machine | true |
//! | `arrive` | `{ at = T }`, `{ every = T }`, `{ over = T }` (at random within it) or `{ poisson = per second }` | all at once |
//! | `leave` | `{ when_done = share, after = T }` (that share of the class, `after` that much time), `{ after_copies = X }` (an uploader, once so many copies left it) or `{ at = T }` | stays |

mod values;

use crate::{
    Link, Machine, Network, NetworkModel, Role, Scenario,
    scenario::{default_policies, uniform},
};
use dosvc_content::PieceLengths;
use dosvc_policy::{Policies, PolicyError, Provider, RawValue};
use serde::Deserialize;
use std::{path::Path, sync::Arc, time::Duration};
use values::{Rate, Size, Time};

/// The most machines of one scenario.
pub const MACHINES_MAX: usize = 100_000;

/// Why a file is no scenario.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// It cannot be read.
    #[error("{file}: {error}")]
    Read {
        /// The file.
        file: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// Its text is no scenario; with line and column.
    #[error("{file}: {error}")]
    Syntax {
        /// The file.
        file: String,
        /// What does not fit.
        error: Box<toml::de::Error>,
    },
    /// Every value is right and together they make no sense.
    #[error("{file}: {problem}")]
    Sense {
        /// The file.
        file: String,
        /// What does not fit.
        problem: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: Option<String>,
    #[serde(default)]
    about: String,
    #[serde(default = "one")]
    seed: u64,
    neighbours: Option<usize>,
    discovery: Option<Time>,
    limit: Option<Time>,
    check_every: Option<u64>,
    content: Content,
    #[serde(default)]
    network: NetworkTable,
    class: Vec<Class>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    size: Size,
    piece: Option<Size>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct NetworkTable {
    model: Option<Model>,
    queue: Option<Time>,
    burst: Option<Size>,
    send_buffer: Option<Size>,
    notsent_lowat: Option<Size>,
    receive_queue: Option<Time>,
    overhead_percent: Option<f64>,
    cell: Option<Size>,
    verify: Option<Rate>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Model {
    Tcp,
    Ideal,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum RoleName {
    Seed,
    Peer,
    Origin,
    CacheHost,
    Silent,
    Corrupt,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Class {
    name: String,
    #[serde(default = "peer")]
    role: RoleName,
    #[serde(default = "one_machine")]
    count: usize,
    rate: Option<Rate>,
    up: Option<Rate>,
    down: Option<Rate>,
    latency: Option<Time>,
    #[serde(default)]
    site: String,
    group: Option<String>,
    #[serde(default)]
    policies: toml::Table,
    #[serde(default)]
    foreground: bool,
    #[serde(default = "yes")]
    extended: bool,
    arrive: Option<Arrive>,
    leave: Option<Leave>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum Arrive {
    At(Time),
    Every(Time),
    Over(Time),
    Poisson(f64),
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Leave {
    when_done: Option<f64>,
    after: Option<Time>,
    after_copies: Option<f64>,
    at: Option<Time>,
}

fn one() -> u64 {
    1
}

fn one_machine() -> usize {
    1
}

fn yes() -> bool {
    true
}

fn peer() -> RoleName {
    RoleName::Peer
}

impl Scenario {
    /// Reads a topology file. `seed`: instead of the file's.
    ///
    /// # Errors
    /// [`TopologyError`] tells what does not fit, and where.
    pub fn load(path: &Path, seed: Option<u64>) -> Result<Self, TopologyError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| TopologyError::Read {
            file: file.clone(),
            error,
        })?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let parsed = Self::parse(&name, &text, seed).map(|scenario| Self {
            file: Some(file.clone()),
            ..scenario
        });
        parsed.map_err(|problem| match problem {
            Problem::Syntax(error) => TopologyError::Syntax {
                file,
                error: Box::new(error),
            },
            Problem::Sense(problem) => TopologyError::Sense { file, problem },
        })
    }

    fn parse(name: &str, text: &str, seed: Option<u64>) -> Result<Self, Problem> {
        let file: File = toml::from_str(text).map_err(Problem::Syntax)?;
        let piece = file.content.piece.map_or(1 << 20, |p| p.0);
        let lengths = PieceLengths::new(file.content.size.0, piece)
            .map_err(|error| Problem::Sense(format!("content: {error}")))?;
        if lengths.piece_count() == 0 {
            return Err(Problem::Sense("content.size: no content".to_owned()));
        }
        let seed = seed.unwrap_or(file.seed);
        let mut scenario = Self::new(
            file.name.as_deref().unwrap_or(name),
            lengths.piece_count(),
            Vec::new(),
        );
        scenario.about = file.about;
        scenario.lengths = lengths;
        scenario.seed = seed;
        scenario.network = network(&file.network)?;
        scenario.neighbours = file.neighbours.unwrap_or(usize::MAX);
        scenario.check_every = file.check_every.unwrap_or(20_000);
        if let Some(Time(discovery)) = file.discovery {
            scenario.discovery = discovery;
        }
        if let Some(Time(limit)) = file.limit {
            scenario.limit = limit;
        }
        let mut random = seed ^ 0x746f_706f_6c6f_6779;
        for class in &file.class {
            class
                .add_to(&mut scenario, &mut random)
                .map_err(|problem| Problem::Sense(format!("class {}: {problem}", class.name)))?;
        }
        let of = |role| scenario.machines.iter().any(|m| m.role == role);
        if !of(Role::Leech) {
            return Err(Problem::Sense("nobody wants the content".to_owned()));
        }
        if !of(Role::Seed) && !of(Role::Origin) && !of(Role::CacheHost) {
            return Err(Problem::Sense("nobody has the content".to_owned()));
        }
        Ok(scenario)
    }
}

enum Problem {
    Syntax(toml::de::Error),
    Sense(String),
}

fn network(table: &NetworkTable) -> Result<Network, Problem> {
    let mut network = match table.model {
        None | Some(Model::Tcp) => Network::tcp(),
        Some(Model::Ideal) => Network::ideal(),
    };
    let NetworkTable {
        model: _,
        queue,
        burst,
        send_buffer,
        notsent_lowat,
        receive_queue,
        overhead_percent,
        cell,
        verify,
    } = table;
    let ideal = network.model == NetworkModel::Ideal;
    if ideal && (send_buffer.is_some() || notsent_lowat.is_some() || receive_queue.is_some()) {
        return Err(Problem::Sense(
            "network: ideal links have no send buffer to set".to_owned(),
        ));
    }
    if let Some(Time(queue)) = queue {
        network.queue = *queue;
    }
    if let Some(Size(burst)) = burst {
        network.burst = *burst;
    }
    network.send_buffer = send_buffer.map(|s| s.0);
    if let Some(queue) = receive_queue {
        network.receive_queue = Some(queue.0);
    }
    if let Some(lowat) = notsent_lowat {
        network.notsent_lowat = Some(lowat.0);
    }
    if let Some(percent) = overhead_percent {
        if !(0.0..=50.0).contains(percent) {
            return Err(Problem::Sense(
                "network.overhead_percent: 0 to 50 are allowed".to_owned(),
            ));
        }
        network.overhead = 1.0 + percent / 100.0;
    }
    if let Some(Size(cell)) = cell {
        let allowed = (4 << 10)..=(1 << 20);
        network.cell = u32::try_from(*cell)
            .ok()
            .filter(|c| allowed.contains(c))
            .ok_or_else(|| Problem::Sense("network.cell: 4 KiB to 1 MiB are allowed".to_owned()))?;
    }
    if let Some(Rate(verify)) = verify {
        network.verify_bps = *verify;
    }
    Ok(network)
}

impl Class {
    fn add_to(&self, scenario: &mut Scenario, random: &mut u64) -> Result<(), String> {
        if scenario.machines.len() + self.count > MACHINES_MAX {
            return Err(format!("more than {MACHINES_MAX} machines"));
        }
        if scenario.classes.contains(&self.name) {
            return Err("there is another one of this name".to_owned());
        }
        let class = scenario.classes.len();
        scenario.classes.push(self.name.clone());
        let link = self.link()?;
        let policies = self.policies()?;
        let role = match self.role {
            RoleName::Seed => Role::Seed,
            RoleName::Peer => Role::Leech,
            RoleName::Origin => Role::Origin,
            RoleName::CacheHost => Role::CacheHost,
            RoleName::Silent => Role::Silent,
            RoleName::Corrupt => Role::Corrupt,
        };
        let joins = self.arrivals(random)?;
        let leaving = self.leaving(role)?;
        for (i, joins) in joins.into_iter().enumerate() {
            let mut machine = Machine {
                class,
                joins,
                site: self.site.as_str().into(),
                group: self.group.as_deref().map(Into::into),
                policies: Arc::clone(&policies),
                foreground: self.foreground,
                extended: self.extended,
                leaves: leaving.at.map(|t| t.0),
                leaves_after_copies: leaving.after_copies,
                ..Machine::new(role, link)
            };
            // Spread evenly over the class, so that a share of few is that share.
            let upto = |n: usize| (leaving.when_done.unwrap_or(0.0) * n as f64 + 1e-9).floor();
            if upto(i + 1) > upto(i) {
                machine.leaves_when_done = Some(leaving.after.map_or(Duration::ZERO, |t| t.0));
            }
            scenario.machines.push(machine);
        }
        Ok(())
    }

    fn link(&self) -> Result<Link, String> {
        let (up, down) = match (self.rate, self.up, self.down) {
            (Some(rate), None, None) => (rate, rate),
            (None, Some(up), Some(down)) => (up, down),
            _ => return Err("either rate, or up and down".to_owned()),
        };
        let latency = self.latency.map_or(Duration::from_micros(250), |t| t.0);
        Ok(Link {
            up: up.0,
            down: down.0,
            latency,
        })
    }

    fn policies(&self) -> Result<Arc<Policies>, String> {
        let mut policies = default_policies();
        for (key, value) in &self.policies {
            let set = policies.set(key, &raw(value), &Provider::Command);
            set.map_err(|error: PolicyError| format!("policies: {error}"))?;
        }
        dosvc_policy::admit(policies.download_mode()).map_err(|error| error.to_string())?;
        Ok(Arc::new(policies))
    }

    fn arrivals(&self, random: &mut u64) -> Result<Vec<Duration>, String> {
        let mut last = 0.0;
        let mut next = |i: u32| match &self.arrive {
            None => Duration::ZERO,
            Some(Arrive::At(at)) => at.0,
            Some(Arrive::Every(every)) => every.0 * i,
            Some(Arrive::Over(over)) => over.0.mul_f64(uniform(random)),
            Some(Arrive::Poisson(rate)) => {
                last -= (1.0 - uniform(random)).ln() / rate;
                Duration::from_secs_f64(last)
            }
        };
        if matches!(self.arrive, Some(Arrive::Poisson(rate)) if !(1e-3..=1e6).contains(&rate)) {
            return Err("arrive.poisson: 0.001 to 1 000 000 a second are allowed".to_owned());
        }
        let count = u32::try_from(self.count).map_err(|_| "too many".to_owned())?;
        Ok((0..count).map(&mut next).collect())
    }

    fn leaving(&self, role: Role) -> Result<&Leave, String> {
        const STAYS: &Leave = &Leave {
            when_done: None,
            after: None,
            after_copies: None,
            at: None,
        };
        let leave = self.leave.as_ref().unwrap_or(STAYS);
        if leave.when_done.is_some_and(|s| !(0.0..=1.0).contains(&s)) {
            return Err("leave.when_done is a share, 0 to 1".to_owned());
        }
        if leave.when_done.is_some() && role != Role::Leech {
            return Err("leave.when_done is for peers".to_owned());
        }
        if leave.after.is_some() && leave.when_done.is_none() {
            return Err("leave.after goes with leave.when_done".to_owned());
        }
        if leave.after_copies.is_some_and(|c| !(c > 0.0 && c < 1e6)) {
            return Err("leave.after_copies is a number of copies".to_owned());
        }
        Ok(leave)
    }
}

fn raw(value: &toml::Value) -> RawValue {
    match value {
        toml::Value::Integer(n) => RawValue::Integer(*n),
        toml::Value::Boolean(b) => RawValue::Boolean(*b),
        toml::Value::String(s) => RawValue::Text(s.clone()),
        toml::Value::Array(list) => RawValue::List(list.iter().map(raw).collect()),
        toml::Value::Table(table) => {
            RawValue::Table(table.iter().map(|(k, v)| (k.clone(), raw(v))).collect())
        }
        other => RawValue::Other(other.to_string()),
    }
}

#[cfg(test)]
mod tests;
