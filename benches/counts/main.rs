//! Instructions that the hot paths take, counted by valgrind and held against a baseline.
//!
//! ```text
//! cargo run --profile ci --example counts               # fails when a path takes > 10 % more than the baseline
//! cargo run --profile ci --example counts -- --update   # makes what is measured the baseline
//! ```
//!
//! Counts do not depend on what else the machine does, so they can decide in CI where times can't. Each path runs at
//! two sizes, twice each with different numbers of operations: the difference is what the operations take, without
//! set-up. The ratio of the two sizes shows how the cost grows; faster than n log n fails whatever the baseline says.
//!
//! Another compiler makes other code. When the baseline is another compiler's, only the growth is judged.

mod baseline;
mod paths;

use baseline::{Baseline, Cost, MACHINE, rustc};
use paths::{PATHS, Path};
use std::{
    env,
    process::{Command, ExitCode},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How much worse than the baseline is too much.
const WORSE_MAX: f64 = 1.10;
/// What a cost may grow beyond n log n: constant parts, caches of the allocator, other levels of a tree.
const GROWTH_SLACK: f64 = 1.25;

fn main() -> Result<ExitCode> {
    let args: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        // Inside valgrind.
        ["run", path, size, times] => {
            let path = PATHS.iter().find(|p| p.name == path);
            let path = path.ok_or("there is no such path")?;
            (path.run)(size.parse()?, times.parse()?);
            Ok(ExitCode::SUCCESS)
        }
        [] => check(),
        ["--update"] => {
            let costs = measure_all()?;
            let file = Baseline::of(&costs).write()?;
            println!("wrote {}", file.display());
            Ok(ExitCode::SUCCESS)
        }
        _ => Err("usage: counts [--update]".into()),
    }
}

/// Every path at both sizes, as many at once as there are processors.
fn measure_all() -> Result<Vec<[Cost; 2]>> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    let work = || {
        loop {
            let job = next.fetch_add(1, Ordering::Relaxed);
            let Some(path) = PATHS.get(job / 2) else {
                return;
            };
            let result = measure(path, path.sizes[job % 2]);
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            results.push((job, result));
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let mut costs = vec![[0.0; 2]; PATHS.len()];
    for (job, result) in results.into_inner().unwrap_or_else(PoisonError::into_inner) {
        costs[job / 2][job % 2] = result?;
    }
    Ok(costs)
}

/// Instructions for one unit of a path's work at this size.
fn measure(path: &Path, size: u32) -> Result<Cost> {
    let less = instructions(path, size, path.times)?;
    let more = instructions(path, size, 2 * path.times)?;
    let units = u64::from(path.times) * u64::from((path.units)(size));
    Ok(more.saturating_sub(less) as f64 / units as f64)
}

fn instructions(path: &Path, size: u32, times: u32) -> Result<u64> {
    let run = Command::new("valgrind")
        // The callgrind of a count alone: nothing about caches, nothing written to a file.
        .args(["--tool=cachegrind", "--cache-sim=no"])
        .arg("--cachegrind-out-file=/dev/null")
        .arg(env::current_exe()?)
        .args(["run", path.name, &size.to_string(), &times.to_string()])
        .output()
        .map_err(|e| format!("valgrind cannot be run ({e}); install it"))?;
    let text = String::from_utf8_lossy(&run.stderr);
    if !run.status.success() {
        return Err(format!("{} at {size}: {}\n{text}", path.name, run.status).into());
    }
    // "==123== I   refs:      1,234,567"
    let line = text.lines().find(|line| line.contains("refs:"));
    let digits: String = line
        .and_then(|line| line.rsplit(':').next())
        .ok_or_else(|| format!("valgrind says no count:\n{text}"))?
        .chars()
        .filter(char::is_ascii_digit)
        .collect();
    Ok(digits.parse()?)
}

/// Measures, compares, prints the table.
fn check() -> Result<ExitCode> {
    let costs = measure_all()?;
    let baseline = Baseline::read()?;
    let same_compiler = baseline.rustc == rustc() && baseline.machine == MACHINE;
    if !same_compiler {
        println!(
            "The baseline is of {} on {}, this is {} on {MACHINE}: only the growth between the sizes is judged.\n",
            baseline.rustc,
            baseline.machine,
            rustc()
        );
    }
    println!(
        "{:<44} {:>14} {:>9} {:>9} {:>8} {:>8} {:>8}",
        "instructions for", "at sizes", "small", "large", "change", "growth", "at most"
    );
    let mut bad = 0;
    for (path, cost) in PATHS.iter().zip(&costs) {
        let known = baseline.costs.get(path.name);
        let change = known.filter(|_| same_compiler).map(|known| {
            let one = |i: usize| cost[i] / known[i];
            one(0).max(one(1))
        });
        let growth = cost[1] / cost[0];
        let most = growth_max(path, known.filter(|_| !same_compiler));
        let why = match change {
            None if known.is_none() => "not in the baseline",
            Some(change) if change > WORSE_MAX => "WORSE",
            _ if growth > most => "GROWS TOO FAST",
            Some(change) if change < 1.0 / WORSE_MAX => "better: update the baseline",
            _ => "",
        };
        bad += u32::from(why.chars().any(char::is_uppercase) || known.is_none());
        let [small, large] = path.sizes;
        let change = change.map_or(String::new(), |c| format!("{:+.1} %", (c - 1.0) * 100.0));
        println!(
            "{:<44} {:>14} {:>9.1} {:>9.1} {:>8} {:>8.2} {:>8.2}  {why}",
            path.name,
            format!("{small}, {large}"),
            cost[0],
            cost[1],
            change,
            growth,
            most
        );
    }
    if bad == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "\n{bad} of {} paths are out of bounds. If that is the price of something worth it, make it the baseline:\n    \
         cargo run --profile ci --example counts -- --update",
        PATHS.len()
    );
    Ok(ExitCode::FAILURE)
}

/// The cost of one unit may grow as log n: n units take n log n then. Another compiler's ratio bounds it as well.
fn growth_max(path: &Path, known: Option<&[Cost; 2]>) -> f64 {
    let [small, large] = path.sizes.map(|n| f64::from(n).log2());
    let law = large / small * GROWTH_SLACK;
    known.map_or(law, |known| {
        law.min((known[1] / known[0]).max(1.0) * WORSE_MAX * GROWTH_SLACK)
    })
}
