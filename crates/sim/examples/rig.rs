//! Runs topology files and prints a table; see `--help` and the crate's documentation.

use clap::Parser;
use dosvc_sim::{Idleness, Outcome, STEP, Scenario, plot, run};
use std::{
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, ExitCode},
    time::Instant,
};

/// Runs fleets of real cores in virtual time.
///
/// A row of the table is one run: own times of the finishers, the time of the last one against the least possible
/// max(F/u_s, F/d_min, N·F/(u_s + Σ u_i)), copies of the content that left seeds and origins, and Jain's index of
/// uploaded bytes over uplink. Files are described in crates/sim/src/topology.rs; examples are in
/// crates/sim/scenarios. A run that breaks an invariant panics and prints its seed.
#[derive(Parser)]
#[command(name = "rig")]
struct Args {
    /// Topology files.
    #[arg(required = true, value_name = "FILE.toml")]
    files: Vec<PathBuf>,
    /// The first seed, instead of the file's.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Runs of each file, with seeds in a row.
    #[arg(long, value_name = "K", default_value_t = 1)]
    seeds: u64,
    /// Writes plots into this folder: completion, use of links, copies of pieces over time.
    #[arg(long, value_name = "DIR")]
    plot: Option<PathBuf>,
    /// Prints one JSON object for each run instead of the table.
    #[arg(long)]
    json: bool,
    /// Prints what links did in each quarter of a second, and why the leeches' idled.
    #[arg(long)]
    timeline: bool,
    /// Ideal links instead of the file's network model.
    #[arg(long)]
    ideal: bool,
}

/// The allocator's setting for large pages, which the C library reads when a process starts.
const ALLOCATOR: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");

/// Begins anew with large pages, unless whoever called chose something: a fleet's state is looked at here and there, and a
/// tenth of the time went to finding out where its pages are.
fn take_large_pages() {
    let (name, value) = ALLOCATOR;
    if std::env::var_os(name).is_some() {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        let arguments = std::env::args_os().skip(1);
        let error = Command::new(program)
            .args(arguments)
            .env(name, value)
            .exec();
        eprintln!("goes on with small pages: {error}");
    }
}

fn main() -> ExitCode {
    take_large_pages();
    let Args {
        files,
        seed,
        seeds,
        plot: folder,
        json,
        timeline,
        ideal,
    } = Args::parse();
    if let Some(folder) = &folder
        && let Err(error) = std::fs::create_dir_all(folder)
    {
        eprintln!("{}: {error}", folder.display());
        return ExitCode::FAILURE;
    }
    if !json {
        println!("{}", Outcome::HEAD);
    }
    let mut failed = false;
    for file in &files {
        for more in 0..seeds {
            let mut scenario = match Scenario::load(file, seed) {
                Ok(scenario) => scenario,
                Err(error) => {
                    eprintln!("{error}");
                    return ExitCode::from(64);
                }
            };
            if more > 0 {
                let next = scenario.seed + more;
                scenario = match Scenario::load(file, Some(next)) {
                    Ok(scenario) => scenario,
                    Err(error) => {
                        eprintln!("{error}");
                        return ExitCode::from(64);
                    }
                };
            }
            if ideal {
                scenario.network = dosvc_sim::Network::ideal();
            }
            scenario.look = timeline;
            let begun = Instant::now();
            let outcome = run(&scenario);
            if json {
                println!("{}", outcome.to_json());
            } else {
                println!("{outcome}");
            }
            eprintln!(
                "{} events in {:.2} s; first copy out at {:?}; trace {:016x}",
                outcome.events,
                begun.elapsed().as_secs_f64(),
                outcome.seed_first_copy,
                outcome.trace
            );
            if !outcome.unfinished.is_empty() {
                eprintln!("not all are done; {}", scenario.repeat());
                failed = true;
            }
            if timeline {
                print_timeline(&outcome);
            }
            if let Some(folder) = &folder
                && let Err(error) = plot(&outcome, folder)
            {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::from(u8::from(failed))
}

fn print_timeline(outcome: &Outcome) {
    let step = STEP.as_secs_f64();
    for (slot, bytes) in outcome.timeline.iter().enumerate() {
        let share =
            |role: usize| 100.0 * bytes[role] as f64 / (outcome.uplinks[role].max(1) as f64 * step);
        let copies = outcome.spread.get(slot).copied().unwrap_or_default();
        eprintln!(
            "{:6.2} s: seeds {:5.1} %, origins {:5.1} %, leeches {:5.1} %; copies {} to {}{}",
            slot as f64 * step,
            share(0),
            share(1),
            share(2),
            copies.least,
            copies.most,
            outcome.idleness.get(slot).map_or(String::new(), idle)
        );
    }
}

fn idle(i: &Idleness) -> String {
    let share = |n: u64| 100.0 * n as f64 / i.looks.max(1) as f64;
    let mean = |n: u64| n as f64 / i.looks.max(1) as f64;
    format!(
        "; up idle: unasked {:4.1} %, held {:4.1} %; down idle: asks nothing {:4.1} %, waits {:4.1} %; asked {:4.1} arriving {:3.1} queued {:4.1} serving {:3.1}",
        share(i.up_unasked),
        share(i.up_held),
        share(i.down_unasking),
        share(i.down_waiting),
        mean(i.asked),
        mean(i.arriving),
        mean(i.queued),
        mean(i.serving)
    )
}
