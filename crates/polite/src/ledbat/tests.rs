//! Scenarios on the model's bottleneck, and histories.

use super::*;
use crate::bottleneck::*;
use proptest::prelude::*;
use std::collections::VecDeque;

#[test]
fn sole_flow_uses_nine_tenths_of_the_link_and_keeps_the_queue_near_the_target() {
    for base in [ms(1), ms(10), ms(30), ms(80)] {
        let mut link = Link::new(base, ms(300), vec![Flow::ledbat(ALWAYS)]);
        link.run_until(s(10));
        let mut longest = Duration::ZERO;
        let mut got = 0.0;
        for second in 11..=70 {
            got += link.run_until(s(second))[0] / 60.0;
            longest = longest.max(link.queue());
        }
        assert!(got >= 0.9, "{got} at {base:?}");
        assert!(longest <= TARGET + ms(30), "{longest:?} at {base:?}");
    }
}

#[test]
fn gives_way_to_a_flow_that_fills_the_queue_and_comes_back_after_it() {
    let flows = vec![Flow::ledbat(ALWAYS), Flow::reno(s(20)..s(60))];
    let mut link = Link::new(ms(20), ms(150), flows);
    let alone = link.run_until(s(20))[0];
    link.run_until(s(25));
    let together = link.run_until(s(60));
    link.run_until(s(65));
    let again = link.run_until(s(85))[0];
    assert!(alone >= 0.85, "{alone}");
    assert!(together[1] >= 0.9 && together[0] <= 0.1, "{together:?}");
    assert!(again >= 0.85, "{again}");
}

#[test]
fn gives_way_when_the_other_was_there_first() {
    let flows = vec![Flow::ledbat(s(20)..s(60)), Flow::reno(ALWAYS)];
    let mut link = Link::new(ms(20), ms(150), flows);
    link.run_until(s(25));
    let together = link.run_until(s(60));
    assert!(together[1] >= 0.85, "{together:?}");
}

#[test]
fn takes_less_than_its_share_where_the_queue_is_too_short_to_show() {
    let flows = vec![Flow::ledbat(s(5)..s(65)), Flow::reno(ALWAYS)];
    let mut link = Link::new(ms(20), ms(20), flows);
    link.run_until(s(10));
    let together = link.run_until(s(65));
    assert!(together[1] > 1.3 * together[0], "{together:?}");
}

#[test]
fn two_flows_share_even_if_one_came_late() {
    let flows = vec![Flow::ledbat(ALWAYS), Flow::ledbat(s(15)..Duration::MAX)];
    let mut link = Link::new(ms(20), ms(300), flows);
    link.run_until(s(40));
    let shares = link.run_until(s(160));
    assert!(shares[0] + shares[1] >= 0.85, "{shares:?}");
    let (less, more) = (shares[0].min(shares[1]), shares[0].max(shares[1]));
    assert!(less / more >= 0.4, "{shares:?}");
}

#[test]
fn longer_path_is_learnt_within_the_base_history() {
    let mut link = Link::new(ms(20), ms(300), vec![Flow::ledbat(ALWAYS)]);
    link.base.push((s(30), ms(120)));
    link.run_until(s(30));
    // The old base makes the new path look like a queue past the target.
    link.run_until(s(30 + 11 * 60));
    let got = link.run_until(s(30 + 13 * 60))[0];
    assert!(got >= 0.8, "{got}");
}

#[test]
fn shorter_path_is_learnt_at_once() {
    let mut link = Link::new(ms(120), ms(300), vec![Flow::ledbat(ALWAYS)]);
    link.base.push((s(30), ms(20)));
    link.run_until(s(40));
    let got = link.run_until(s(70))[0];
    assert!(got >= 0.85, "{got}");
}

/// A flow at its working point: 50 ms of base delay, past its first slowdown.
fn steady(start: Instant) -> (Ledbat, Instant) {
    let mut flow = Ledbat::new(PACKET, 1 << 20);
    let mut now = start;
    for i in 0..200u64 {
        now += ms(50);
        let rtt = Some(if i % 20 < 10 { ms(50) } else { ms(105) });
        let in_flight = flow.window().unwrap_or(0);
        let bytes = in_flight;
        flow.on_ack(
            now,
            Ack {
                bytes,
                rtt,
                in_flight,
            },
        );
    }
    (flow, now)
}

#[test]
fn clock_that_jumps_ahead_or_back_does_no_harm() {
    let start = Instant::now() + s(10_000);
    let (mut flow, now) = steady(start);
    for now in [now + s(86_400 * 30), start - s(5000), now + s(1)] {
        for _ in 0..10 {
            let in_flight = flow.window().expect("it has left slow start");
            let bytes = in_flight;
            let rtt = Some(ms(50));
            flow.on_ack(
                now,
                Ack {
                    bytes,
                    rtt,
                    in_flight,
                },
            );
            assert_eq!(flow.rtt(), rtt);
        }
        flow.on_loss(now);
    }
    assert!(flow.window().expect("a window") >= flow.window_min());
}

#[test]
fn open_flow_has_no_window_until_delay_or_loss_shows() {
    let start = Instant::now();
    let ack = |ms| Ack {
        bytes: 1 << 20,
        rtt: Some(Duration::from_millis(ms)),
        in_flight: 1 << 20,
    };
    let mut flow = Ledbat::open(PACKET);
    for i in 0..1000 {
        flow.on_ack(start + ms(i * 10), ack(1 + i % 40));
    }
    assert_eq!(flow.window(), None);
    let mut lossy = flow.clone();
    lossy.on_loss(start + s(10));
    assert_eq!(lossy.window(), Some(1 << 19), "the queue is 30 ms long");
    let mut near = Ledbat::open(PACKET);
    near.on_ack(start, ack(1));
    near.on_loss(start);
    assert_eq!(near.window(), None, "there is no queue");
    for i in 0..8 {
        flow.on_ack(start + s(10) + ms(i), ack(100));
    }
    assert_eq!(flow.window(), Some(flow.window_min()), "a slowdown");
}

#[test]
fn known_base_shows_a_queue_that_was_there_first() {
    let start = Instant::now();
    let mut flow = Ledbat::open(PACKET);
    flow.on_base_rtt(start, ms(20));
    let rtt = Some(ms(150));
    flow.on_ack(
        start,
        Ack {
            bytes: 1,
            rtt,
            in_flight: 1 << 20,
        },
    );
    assert_eq!(flow.queueing_delay(), Some(ms(130)));
    assert!(flow.window().is_some());
}

#[test]
fn losses_within_a_round_trip_are_one() {
    let start = Instant::now();
    let mut flow = Ledbat::new(PACKET, 1 << 20);
    let ack = Ack {
        bytes: 1,
        rtt: Some(ms(20)),
        in_flight: 1 << 20,
    };
    flow.on_ack(start, ack);
    flow.on_loss(start + ms(1));
    flow.on_loss(start + ms(2));
    assert_eq!(flow.window(), Some(1 << 19));
    flow.on_loss(start + ms(30));
    assert_eq!(flow.window(), Some(1 << 18));
}

/// A machine that has everything serves a block now and then. Something of one is lost; the next look at the connection,
/// seconds later, finds three packets of the next one under way. A window by those took 10 s to become a useful one.
#[test]
fn loss_of_a_flow_that_rested_halves_what_it_had_under_way_when_it_sent() {
    let start = Instant::now();
    let mut flow = Ledbat::open(PACKET);
    let ack = |in_flight| Ack {
        bytes: 1 << 18,
        rtt: Some(ms(40)),
        in_flight,
    };
    flow.on_base_rtt(start, ms(1));
    for i in 0..4 {
        flow.on_ack(start + ms(i * 40), ack(1 << 18));
    }
    for in_flight in [3 * u64::from(PACKET), 2 * u64::from(PACKET)] {
        flow.on_ack(start + s(4) + ms(in_flight / 1000), ack(in_flight));
    }
    flow.on_loss(start + s(4) + ms(5));
    assert_eq!(flow.window(), Some(1 << 17));
}

#[derive(Debug, Clone)]
enum Fact {
    Ack {
        bytes: u64,
        rtt_us: Option<u64>,
        in_flight: u64,
    },
    Loss,
    Base(u64),
}

fn fact() -> impl Strategy<Value = (i64, Fact)> {
    let fact = prop_oneof![
        8 => (any::<u64>(), proptest::option::of(0..10_000_000u64), any::<u64>())
            .prop_map(|(bytes, rtt_us, in_flight)| Fact::Ack { bytes: bytes >> (bytes % 64), rtt_us, in_flight: in_flight >> (in_flight % 64) }),
        1 => Just(Fact::Loss),
        1 => (0..10_000_000u64).prop_map(Fact::Base),
    ];
    (-1000..100_000i64, fact)
}

proptest! {
    /// Whatever is told in whatever order: no panic, no window below the least, and the same again for the same.
    #[test]
    fn any_history_keeps_the_window_in_its_bounds(
        facts in proptest::collection::vec(fact(), 1..300),
        packet in 0..100_000u32,
    ) {
        let start = Instant::now() + s(1000);
        let run = || {
            let mut flow = Ledbat::open(packet);
            let mut at = 500_000i64;
            let mut windows = VecDeque::new();
            for (step, fact) in &facts {
                at = (at + step).max(0);
                let now = start + ms(at.unsigned_abs());
                match *fact {
                    Fact::Ack { bytes, rtt_us, in_flight } => {
                        let rtt = rtt_us.map(Duration::from_micros);
                        flow.on_ack(now, Ack { bytes, rtt, in_flight });
                    }
                    Fact::Loss => flow.on_loss(now),
                    Fact::Base(us) => flow.on_base_rtt(now, Duration::from_micros(us)),
                }
                if let Some(window) = flow.window() {
                    assert!(window >= flow.window_min());
                }
                windows.push_back(flow.window());
            }
            windows
        };
        prop_assert_eq!(run(), run());
    }

    /// However a flow rests and sends, a loss takes half of what it lately had under way, and no more.
    #[test]
    fn loss_takes_half_of_what_was_lately_under_way(
        looks in proptest::collection::vec((0..3000u64, 1..1_000_000u64), 1..60),
    ) {
        let start = Instant::now();
        let mut now = start;
        let mut flow = Ledbat::new(PACKET, 1 << 30);
        let mut seen = Vec::new();
        for (pause, in_flight) in looks {
            now += ms(pause);
            flow.on_ack(now, Ack { bytes: 0, rtt: Some(ms(10)), in_flight });
            seen.push((now, in_flight));
        }
        let before = flow.window().expect("it began with one");
        let lately = |(at, bytes): &(Instant, u64)| (now - *at < FLIGHT_TIME).then_some(*bytes);
        let used = seen.iter().filter_map(lately).max().expect("the last").min(before);
        let most = seen.iter().map(|(_, bytes)| *bytes).max().expect("one").min(before);
        flow.on_loss(now + ms(1));
        let after = flow.window().expect("still");
        prop_assert!(after >= used / 2, "{after} of {used}");
        prop_assert!(after <= (most / 2).max(flow.window_min()), "{after} of {most}");
    }

    /// Under a delay past the target the window grows by its gain at most, and shrinks by half a round trip at most but
    /// for slowdowns.
    #[test]
    fn long_queue_does_not_let_the_window_grow(excess in 61..1000u64) {
        let (mut flow, mut now) = steady(Instant::now());
        for _ in 0..20 {
            let before = flow.window().expect("steady");
            now += ms(50 + excess);
            let ack = Ack { bytes: before, rtt: Some(ms(50 + excess)), in_flight: before };
            flow.on_ack(now, ack);
            let after = flow.window().expect("steady");
            prop_assert!(after <= before + u64::from(PACKET), "{before} -> {after}");
            let slowdown = after == flow.window_min();
            prop_assert!(slowdown || after >= before / 2, "{before} -> {after}");
        }
    }
}
