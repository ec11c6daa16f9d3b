//! Fleets of real schedulers: what the product promises, in virtual time. Every failure prints scenario and seed.

use dosvc_sim::{Change, Link, Machine, Outcome, Role, Scenario, run};
use std::time::Duration;

fn show(scenario: &Scenario) -> Outcome {
    let outcome = run(scenario);
    println!("{}\n{outcome}", Outcome::HEAD);
    outcome
}

fn over_seeds(make: impl Fn() -> Scenario, check: impl Fn(&Outcome)) {
    for seed in 1..=3 {
        let mut scenario = make();
        scenario.seed = seed;
        check(&show(&scenario));
    }
}

fn from_peers(outcome: &Outcome) -> f64 {
    outcome.sum(|s| s.downloaded.peers()) as f64 / outcome.sum(|s| s.downloaded.total()) as f64
}

#[test]
fn one_seed_and_sixteen_leeches_finish_near_the_bound() {
    over_seeds(
        || Scenario::seed_and_leeches(128, 16, 200),
        |o| {
            // Six seeds reach 1.21 to 1.26; this guards what is reached, the aim is 1.15.
            assert!(o.ratio() <= 1.28, "{o}");
            assert!(o.seed_copies <= 1.2, "{o}");
        },
    );
}

fn large_fleet(leeches: usize, pieces: u32) -> Outcome {
    let mut scenario = Scenario::seed_and_leeches(pieces, leeches, 200);
    scenario.neighbours = 24;
    scenario.check_every = 99_991;
    show(&scenario)
}

#[test]
fn sixty_four_leeches_finish_near_the_bound() {
    let o = large_fleet(64, 128);
    assert!(o.ratio() <= 1.6, "{o}");
    assert!(o.seed_copies <= 1.4, "{o}");
}

#[test]
fn more_leeches_than_upload_slots_all_finish() {
    let o = large_fleet(256, 64);
    assert!(o.ratio() <= 2.5, "{o}");
    assert!(o.seed_copies <= 2.0, "{o}");
}

#[test]
fn eight_machines_at_once_take_about_one_copy_from_the_origin() {
    over_seeds(
        || Scenario::origin_and_leeches(128, 8, 200, Duration::ZERO),
        |o| {
            assert!(o.origin_copies <= 1.3, "{o}");
            assert!(o.ratio() <= 1.5, "{o}");
        },
    );
}

#[test]
fn machines_that_arrive_one_by_one_take_about_one_copy_from_the_origin() {
    over_seeds(
        || Scenario::origin_and_leeches(128, 8, 200, Duration::from_secs(1)),
        |o| assert!(o.origin_copies <= 1.3, "{o}"),
    );
}

#[test]
fn a_lone_machine_is_as_fast_as_the_origin() {
    let o = show(&Scenario::origin_and_leeches(128, 1, 200, Duration::ZERO));
    assert!(
        o.last <= o.bound.mul_f64(1.03) + Duration::from_millis(500),
        "{o}"
    );
    assert!(o.origin_copies <= 1.001, "{o}");
}

#[test]
fn a_silent_peer_costs_at_most_a_few_seconds() {
    let make = |silent: bool| {
        let mut scenario = Scenario::seed_and_leeches(64, 4, 200);
        if silent {
            scenario
                .machines
                .push(Machine::new(Role::Silent, Link::mbit(200)));
        }
        scenario
    };
    let without = show(&make(false));
    let with = show(&make(true));
    assert!(with.last <= without.last + Duration::from_secs(4), "{with}");
}

#[test]
fn a_corrupting_peer_is_banned_and_all_finish() {
    over_seeds(
        || {
            let mut scenario = Scenario::seed_and_leeches(64, 4, 200);
            scenario
                .machines
                .push(Machine::new(Role::Corrupt, Link::mbit(200)));
            scenario
        },
        |o| {
            assert_eq!(o.banned, [5], "{o}");
            assert!(o.leeches.iter().all(|m| m.took.is_some()), "{o}");
        },
    );
}

#[test]
fn peers_go_on_when_the_origin_goes() {
    let mut scenario = Scenario::origin_and_leeches(64, 4, 200, Duration::ZERO);
    scenario
        .machines
        .push(Machine::new(Role::Seed, Link::mbit(50)));
    scenario.changes.push((0.5, Change::Leave(Role::Origin)));
    assert!(show(&scenario).leeches.iter().all(|m| m.took.is_some()));
}

#[test]
fn the_origin_goes_on_when_peers_go() {
    let mut scenario = Scenario::origin_and_leeches(64, 2, 200, Duration::ZERO);
    scenario
        .machines
        .push(Machine::new(Role::Seed, Link::mbit(200)));
    scenario.changes.push((0.5, Change::Leave(Role::Seed)));
    let o = show(&scenario);
    assert!(o.last <= o.bound * 2 + Duration::from_secs(5), "{o}");
}

fn second_machine(delay: Duration) -> Outcome {
    let mut scenario = Scenario::origin_and_leeches(256, 1, 200, Duration::ZERO);
    scenario
        .machines
        .push(Machine::new(Role::Seed, Link::mbit(200)));
    scenario.http_delay = delay;
    show(&scenario)
}

#[test]
fn second_machine_takes_its_bytes_from_the_peer() {
    let o = second_machine(Duration::ZERO);
    assert!(from_peers(&o) >= 0.95, "{} {o}", from_peers(&o));
}

#[test]
fn second_machine_takes_no_byte_over_http_while_that_is_delayed() {
    let o = second_machine(Duration::from_secs(60));
    assert!(from_peers(&o) >= 0.999, "{} {o}", from_peers(&o));
}

#[test]
fn slow_peers_do_not_make_a_download_slower_than_the_origin() {
    for mbit in [1, 5, 20] {
        let mut scenario = Scenario::origin_and_leeches(128, 1, 200, Duration::ZERO);
        let alone = run(&scenario).last;
        for _ in 0..3 {
            scenario
                .machines
                .push(Machine::new(Role::Seed, Link::mbit(mbit)));
        }
        let o = show(&scenario);
        assert!(
            o.last <= alone.mul_f64(1.1) + Duration::from_secs(1),
            "{mbit} Mbit/s: alone {alone:?}\n{o}"
        );
    }
}

#[test]
fn same_seed_gives_the_same_trace() {
    let make = |seed| {
        let mut scenario = Scenario::seed_and_leeches(32, 6, 200);
        scenario
            .machines
            .push(Machine::new(Role::Origin, Link::mbit(50)));
        scenario.seed = seed;
        run(&scenario).trace
    };
    assert_eq!(make(7), make(7));
    assert_ne!(make(7), make(8));
}
