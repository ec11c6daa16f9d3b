//! The shipped scenarios, on links like TCP's. What the product is to reach is asserted where it does; elsewhere what is
//! reached today, and a twentieth more, with the target beside it. Every failure prints scenario and seed.

use dosvc_sim::{Outcome, Role, STEP, Scenario, plot, run};
use std::{path::PathBuf, time::Duration};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scenarios")
}

fn load(name: &str, seed: Option<u64>) -> Scenario {
    let file = folder().join(format!("{name}.toml"));
    Scenario::load(&file, seed).unwrap_or_else(|error| panic!("{error}"))
}

fn show(scenario: &Scenario) -> Outcome {
    let outcome = run(scenario);
    println!("{}\n{outcome}", Outcome::HEAD);
    assert!(outcome.unfinished.is_empty(), "{outcome}");
    outcome
}

/// The time of the last one of a class.
fn last_of(outcome: &Outcome, class: &str) -> f64 {
    let of = outcome
        .leeches
        .iter()
        .filter(|m| outcome.classes[m.class] == class);
    let took = of.filter_map(|m| m.took).max();
    took.expect("somebody is done").as_secs_f64()
}

/// How long the origins or seeds alone would take to give everybody everything.
fn alone(scenario: &Scenario) -> Duration {
    let of = |leech: bool| {
        let machines = scenario.machines.iter();
        machines.filter(move |m| (m.role == Role::Leech) == leech)
    };
    let up: u64 = of(false).map(|m| m.link.up).sum();
    let bytes = scenario.length() as f64 * of(true).count() as f64;
    Duration::from_secs_f64(bytes / up as f64)
}

#[test]
fn every_shipped_file_is_a_scenario() {
    let mut count = 0;
    for entry in std::fs::read_dir(folder()).expect("the folder is there") {
        let path = entry.expect("readable").path();
        let scenario = Scenario::load(&path, None).unwrap_or_else(|error| panic!("{error}"));
        assert!(!scenario.about.is_empty(), "{}", path.display());
        count += 1;
    }
    assert!(count >= 15);
}

#[test]
fn sixteen_machines() {
    for seed in 1..=3 {
        let o = show(&load("w3-16", Some(seed)));
        // The targets.
        assert!(o.ratio() <= 1.15, "{o}");
        assert!(o.seed_copies <= 1.10, "{o}");
    }
}

/// What is in a send buffer can't be overtaken: namespaces measured 8.9 s with unlimited buffers where 7.7 s were reached
/// without, and the rig must see such a difference.
#[test]
fn large_send_buffers_cost_time() {
    let scenario = load("w3-16", None);
    let mut large = scenario.clone();
    large.network.notsent_lowat = Some(u64::MAX);
    let (bounded, large) = (show(&scenario), show(&large));
    assert!(large.last >= bounded.last.mul_f64(1.04), "{large}");
}

#[test]
fn sixty_four_machines() {
    let o = show(&load("w3-64", None));
    // The targets.
    assert!(o.ratio() <= 1.15, "{o}");
    assert!(o.seed_copies <= 1.10, "{o}");
}

#[test]
fn unequal_links() {
    let o = show(&load("unequal", None));
    assert!(o.ratio() <= 1.15, "{o}");
}

#[test]
fn uplinks_a_quarter_of_the_downlinks() {
    let o = show(&load("asymmetric", None));
    // The target: 1.3.
    assert!(o.ratio() <= 1.2, "{o}");
}

/// Where a piece takes long, or a round trip does, those that are sent alone leave most of the uplink unused.
#[test]
fn slow_and_distant_links() {
    for (name, most, target) in [
        ("far-10", 1.20, 1.15),
        ("far-50", 1.23, 1.15),
        ("far-200", 1.50, 1.15),
        ("far-origin", 1.40, 1.15),
        ("homes", 1.15, 1.3),
    ] {
        let o = show(&load(name, None));
        assert!(o.ratio() <= most, "the target is {target}: {o}");
    }
}

#[test]
fn arrivals_over_time() {
    let o = show(&load("arrivals", None));
    assert!(o.ratio() <= 1.3, "{o}");
    // Each machine's own time, too.
    assert!(o.quantile(1.0).as_secs_f64() <= 1.3 * 5.37, "{o}");
}

#[test]
fn a_seed_that_leaves_after_1_2_copies_is_not_missed() {
    let o = show(&load("seed-leaves", None));
    assert!(o.seed_copies <= 1.21, "{o}");
    assert!(o.ratio() <= 1.25, "{o}");
}

#[test]
fn a_third_that_leaves_when_done_harms_nobody() {
    let o = show(&load("third-leaves", None));
    assert!(o.ratio() <= 1.25, "{o}");
}

#[test]
fn a_slow_tenth_does_not_hold_up_the_others() {
    let o = show(&load("slow-tenth", None));
    assert!(o.ratio() <= 1.3, "{o}");
    // The target: 1.3 × 5.37 s.
    assert!(last_of(&o, "peers") <= 6.98, "{o}");
}

#[test]
fn an_origin_alone_would_be_no_faster() {
    for (name, ratio) in [("origin-16", 1.15), ("origin-apart", 1.1)] {
        let scenario = load(name, None);
        let o = show(&scenario);
        assert!(o.last <= alone(&scenario), "{o}");
        // The targets where all come at once.
        assert!(o.ratio() <= ratio, "{o}");
        assert!(o.origin_copies <= 1.1, "{o}");
    }
}

#[test]
fn modes_and_sites_decide_who_is_whose_peer() {
    let o = show(&load("modes", None));
    for machine in &o.leeches {
        let got = machine.stats.downloaded;
        match o.classes[machine.class].as_str() {
            "HTTP only" => assert_eq!((got.peers(), machine.uploaded), (0, 0), "{o}"),
            "office" => assert_eq!(got.group + got.internet, 0, "{o}"),
            "branches" => assert_eq!(got.internet, 0, "{o}"),
            other => panic!("class {other}"),
        }
    }
    let from_peers = |m: &dosvc_sim::MachineOutcome| m.stats.downloaded.peers();
    assert!(o.leeches.iter().map(from_peers).sum::<u64>() > 0, "{o}");
}

#[test]
fn same_seed_gives_the_same_trace() {
    let trace = |seed| run(&load("third-leaves", Some(seed))).trace;
    assert_eq!(trace(5), trace(5));
    assert_ne!(trace(5), trace(6));
}

#[test]
fn courses_over_time_add_up_and_are_drawn() {
    let scenario = load("w3-16-ideal", None);
    let o = show(&scenario);
    let steps = usize::try_from(o.last.as_nanos() / STEP.as_nanos()).expect("short") + 1;
    assert_eq!((o.timeline.len(), o.spread.len()), (steps, steps));
    let sent: u64 = o.timeline.iter().map(|bytes| bytes[0]).sum();
    let copies = sent as f64 / scenario.length() as f64;
    assert!((copies - o.seed_copies).abs() < 1e-9, "{copies} {o}");
    assert!(o.fairness() > 0.5 && o.fairness() <= 1.0, "{o}");
    let json = o.to_json();
    assert_eq!(json["leeches"].as_array().map(Vec::len), Some(16));
    let folder = std::env::temp_dir().join(format!("dosvc-sim-plots-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for the plots");
    let files = plot(&o, &folder).expect("drawn");
    for file in &files {
        let text = std::fs::read_to_string(file).expect("written");
        assert!(text.contains("</svg>"), "{}", file.display());
    }
    assert_eq!(files.len(), 3);
    std::fs::remove_dir_all(folder).expect("ours to remove");
}

/// What large fleets reach today, and up to a tenth more: the last one's time against the bound, copies from seeds and
/// origins. Targets: 1.15 where links are equal, 1.3 elsewhere.
const LARGE: [(&str, f64, f64); 5] = [
    // The targets.
    ("w3-256", 1.15, 1.10),
    // Each knows a part of the others.
    ("origin-256", 1.25, 1.20),
    ("seed-leaves-256", 1.15, 1.10),
    // The targets.
    ("equal-1000", 1.15, 1.10),
    // Each knows twelve others.
    ("ten-thousand", 1.25, 1.20),
];

#[test]
#[ignore = "several minutes; see docs/benchmarks.md"]
fn large_fleets() {
    for (name, ratio, copies) in LARGE {
        let scenario = load(name, None);
        let o = show(&scenario);
        assert!(
            o.last <= alone(&scenario),
            "later than the origin alone: {o}"
        );
        assert!(o.ratio() <= ratio, "{o}");
        assert!(o.seed_copies + o.origin_copies <= copies, "{o}");
    }
}

/// The first is the target, the second a tenth more than what is reached (target: 16 s); published: 18 and 22 s.
#[test]
#[ignore = "several minutes; see docs/benchmarks.md"]
fn kraken() {
    let o = show(&load("kraken", None));
    assert!(o.quantile(0.99).as_secs_f64() <= 14.0, "{o}");
    assert!(o.quantile(0.999).as_secs_f64() <= 14.8, "{o}");
}
