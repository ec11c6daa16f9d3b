//! Runs a scenario and prints the table.
//!
//! `cargo run --release -p dosvc-sim --example scenario -- KIND [COUNT] [PIECES] [MBIT] [SEEDS]`, KIND one of `seed`,
//! `origin`, `origin-apart`.

use dosvc_sim::{Idleness, Outcome, Scenario, run};
use std::{env, time::Duration, time::Instant};

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    let number = |i: usize, or: u32| args.get(i).map_or(or, |a| a.parse().expect("a number"));
    let kind = args.first().map_or("seed", String::as_str);
    let (count, pieces, mbit, seeds) =
        (number(1, 16), number(2, 128), number(3, 200), number(4, 3));
    println!("{}", Outcome::HEAD);
    for seed in 1..=seeds {
        let apart =
            |s| Scenario::origin_and_leeches(pieces, count, mbit.into(), Duration::from_secs(s));
        let mut scenario = match kind {
            "seed" => Scenario::seed_and_leeches(pieces, count as usize, mbit.into()),
            "origin" => apart(0),
            "origin-apart" => apart(1),
            other => panic!("no scenario {other}"),
        };
        scenario.seed = seed.into();
        scenario.neighbours = 64;
        if let Some(kib) = env::var("KIB").ok().and_then(|k| k.parse::<u32>().ok()) {
            scenario.lengths = dosvc_content::PieceLengths::new(
                (u64::from(pieces) * u64::from(kib)) << 10,
                u64::from(kib) << 10,
            )
            .expect("sane");
        }
        if env::var_os("NOCHECK").is_some() {
            scenario.check_every = 0;
        }
        scenario.look = env::var_os("TIMELINE").is_some();
        let begun = Instant::now();
        let outcome = run(&scenario);
        println!("{outcome}");
        if env::var_os("TIMELINE").is_some() {
            let link = f64::from(mbit) * 125_000.0 / 4.0;
            for (slot, [seeds, origins, leeches]) in outcome.timeline.iter().enumerate() {
                let share = |bytes: u64, of: f64| 100.0 * bytes as f64 / (link * of);
                let (s, o, l) = (
                    share(*seeds, 1.0),
                    share(*origins, 1.0),
                    share(*leeches, count.into()),
                );
                eprintln!(
                    "{:6.2} s: seed {s:5.1} %, origin {o:5.1} %, leeches {l:5.1} %{}",
                    slot as f64 / 4.0,
                    outcome.idleness.get(slot).map_or(String::new(), idle)
                );
            }
        }
        eprintln!(
            "{} events in {:.2} s; first copy out at {:?}; trace {:016x}",
            outcome.events,
            begun.elapsed().as_secs_f64(),
            outcome.seed_first_copy,
            outcome.trace
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
