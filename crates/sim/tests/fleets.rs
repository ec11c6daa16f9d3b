//! What the scheduler promises, on ideal links in virtual time. Every failure prints scenario and seed.

use dosvc_policy::{Provider, RawValue};
use dosvc_sim::{Change, Link, Machine, Network, Outcome, Role, Scenario};
use std::{sync::Arc, time::Duration};

fn run(scenario: &Scenario) -> Outcome {
    let mut scenario = scenario.clone();
    scenario.network = Network::ideal();
    let outcome = dosvc_sim::run(&scenario);
    assert!(outcome.unfinished.is_empty(), "{outcome}");
    outcome
}

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
            // The targets.
            assert!(o.ratio() <= 1.15, "{o}");
            assert!(o.seed_copies <= 1.10, "{o}");
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
    assert!(o.ratio() <= 1.4, "{o}");
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
    let mut scenario = Scenario::origin_and_leeches(128, 1, 200, Duration::ZERO);
    // In the foreground discovery may take half a second.
    scenario.machines[1].foreground = true;
    let o = show(&scenario);
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

/// Wrong bytes are passed on before anybody can know that they are wrong, but nobody gets a whole piece of them but from
/// their author.
#[test]
fn who_passes_wrong_bytes_on_while_they_arrive_is_not_blamed_for_them() {
    over_seeds(
        || {
            let mut scenario = Scenario::seed_and_leeches(64, 16, 200);
            scenario
                .machines
                .push(Machine::new(Role::Corrupt, Link::mbit(200)));
            scenario
        },
        |o| {
            assert!(o.sum(|s| s.abandoned) > 0, "nothing was passed on: {o}");
            assert_eq!(o.banned, [17], "{o}");
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
    for machine in &mut scenario.machines {
        let policies = Arc::make_mut(&mut machine.policies);
        let seconds = RawValue::Integer(delay.as_secs() as i64);
        let key = "delay_background_download_from_http";
        policies
            .set(key, &seconds, &Provider::Command)
            .expect("allowed");
    }
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

/// The most time by which peers may be later than the origin or the seed alone would be.
const BUDGET: Duration = Duration::from_millis(500);

fn alone(scenario: &Scenario) -> Duration {
    let leeches = scenario.machines.iter().filter(|m| m.role == Role::Leech);
    let up = scenario.machines[0].link.up as f64;
    Duration::from_secs_f64(scenario.length() as f64 * leeches.count() as f64 / up)
}

fn assert_never_later_than_alone(scenario: &Scenario, o: &Outcome) {
    assert!(o.last <= alone(scenario) + BUDGET, "{o}");
}

#[test]
fn an_uplink_a_quarter_of_the_downlink_costs_little() {
    for seed in 11..=13 {
        let mut scenario = Scenario::seed_and_leeches(64, 16, 200);
        scenario.seed = seed;
        for machine in &mut scenario.machines[1..] {
            machine.link = Link::mbit_up_down(50, 200);
        }
        let o = show(&scenario);
        assert!(o.ratio() <= 1.3, "{o}");
        assert_never_later_than_alone(&scenario, &o);
    }
}

#[test]
fn unequal_links_cost_little() {
    for seed in 11..=13 {
        let mut scenario = Scenario::seed_and_leeches(64, 16, 200);
        scenario.seed = seed;
        for (machine, mbit) in scenario.machines[1..]
            .iter_mut()
            .zip([100, 200, 400, 1000].into_iter().cycle())
        {
            machine.link = Link::mbit(mbit);
        }
        let o = show(&scenario);
        assert!(o.ratio() <= 1.3, "{o}");
        assert_never_later_than_alone(&scenario, &o);
    }
}

#[test]
fn a_slow_tenth_costs_the_others_little() {
    for seed in 11..=13 {
        let mut scenario = Scenario::seed_and_leeches(64, 20, 200);
        scenario.seed = seed;
        for machine in &mut scenario.machines[1..3] {
            machine.link = Link::mbit(20);
        }
        let o = show(&scenario);
        // The bound is that of the slow ones; it must not become that of the others. Target: 1.6 × their own.
        assert!(o.ratio() <= 1.3, "{o}");
        let quick = o.leeches[2..].iter().filter_map(|m| m.took).max();
        let bound = Duration::from_secs_f64(scenario.length() as f64 / 25e6);
        assert!(
            quick.is_some_and(|q| q <= bound.mul_f64(2.1)),
            "{quick:?} {o}"
        );
    }
}

/// Chance may make the slowest machine the one that asks the origin for all. What it has fetched the others get from it, and
/// of six runs one ends with a wait for that: 10 of the seeds 1 to 60 took over 1.6 × the bound of the others, one 2.9 ×.
#[test]
fn a_slow_machine_does_not_keep_the_origin_from_the_others() {
    const SEEDS: u64 = 24;
    let (mut sum, mut late) = (0.0, Vec::new());
    for seed in 1..=SEEDS {
        let mut scenario = Scenario::origin_and_leeches(64, 8, 200, Duration::ZERO);
        scenario.seed = seed;
        scenario.machines[1].link = Link::mbit(10);
        let o = show(&scenario);
        let quick = o.leeches[1..].iter().filter_map(|m| m.took).max();
        let bound = scenario.length() as f64 / 25e6;
        let ratio = quick.expect("all are done").as_secs_f64() / bound;
        assert!(ratio <= 3.2, "{ratio} {o}");
        sum += ratio;
        if ratio > 1.6 {
            late.push((seed, ratio));
        }
    }
    let mean = sum / SEEDS as f64;
    assert!(mean <= 1.6, "{mean}");
    // The target is none.
    assert!(late.len() <= 4, "{late:?}");
}

#[test]
fn those_who_arrive_later_finish_soon_after() {
    for seed in 11..=13 {
        let mut scenario = Scenario::seed_and_leeches(64, 16, 200);
        scenario.seed = seed;
        for (machine, i) in scenario.machines[1..].iter_mut().zip(0u32..) {
            machine.joins = Duration::from_millis(300) * i;
        }
        let o = show(&scenario);
        let own = scenario.length() as f64 / 25e6;
        let slowest = o.spread_of_times()[2].as_secs_f64();
        assert!(slowest <= own * 1.6, "{slowest} {o}");
        assert_never_later_than_alone(&scenario, &o);
    }
}

#[test]
fn a_third_that_leaves_when_done_harms_nobody() {
    for seed in 11..=13 {
        let mut scenario = Scenario::seed_and_leeches(64, 18, 200);
        scenario.seed = seed;
        for machine in scenario.machines[1..].iter_mut().step_by(3) {
            machine.leaves_when_done = Some(Duration::ZERO);
        }
        let o = show(&scenario);
        assert!(o.ratio() <= 1.35, "{o}");
        assert!(o.leeches.iter().all(|m| m.took.is_some()), "{o}");
    }
}

#[test]
fn a_seed_that_leaves_after_little_more_than_one_copy_is_not_missed() {
    for seed in 11..=13 {
        let mut scenario = Scenario::seed_and_leeches(64, 16, 200);
        scenario.seed = seed;
        // 1.2 copies at its rate.
        scenario.machines[0].leaves = Some(scenario.bound().mul_f64(1.2));
        let o = show(&scenario);
        assert!(o.leeches.iter().all(|m| m.took.is_some()), "{o}");
        assert!(o.seed_copies <= 1.2, "{o}");
    }
}
