//! Scenarios on the model's bottleneck, and histories.

use super::*;
use crate::bottleneck::*;
use proptest::prelude::*;
use std::{cell::RefCell, ops::Range, rc::Rc};

fn members(n: usize, active: Range<Duration>) -> Vec<Flow> {
    let line = Rc::new(RefCell::new(Line::new(PACKET)));
    (0..n)
        .map(|_| Flow::member(&line, active.clone()))
        .collect()
}

/// What machines' lines add that fetch and pass on: 0 to 80 ms, another every 50 ms, each its own.
fn busy(flow: usize, at: Duration) -> Duration {
    let step = at.as_millis() / 50 + 1000 * flow as u128;
    let mixed = step.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
    ms(u64::try_from(mixed % 81).expect("less"))
}

fn sum(shares: &[f64]) -> f64 {
    shares.iter().sum()
}

#[test]
fn any_number_of_connections_uses_the_line_and_keeps_its_queue_short() {
    for (base, n) in [(ms(5), 1), (ms(20), 1), (ms(40), 4), (ms(80), 16)] {
        let mut link = Link::new(base, ms(300), members(n, ALWAYS));
        link.run_until(s(10));
        let (mut used, mut long, mut looks) = (0.0, 0, 0);
        for tenth in 101..=400 {
            used += sum(&link.run_until(ms(100 * tenth))) / 300.0;
            looks += 1;
            long += usize::from(link.queue() > 2 * TARGET);
        }
        println!("{n} at {base:?}: {used:.3}, {long} of {looks} long");
        assert!(used >= 0.85, "{used} with {n} at {base:?}");
        assert!(long <= looks / 6, "{long} of {looks} with {n} at {base:?}");
    }
}

/// What one machine has and many wait for begins to go out.
#[test]
fn the_first_seconds_are_used() {
    for (base, n, least) in [(ms(5), 1, 0.98), (ms(20), 1, 0.95), (ms(40), 4, 0.93)] {
        let mut link = Link::new(base, ms(100), members(n, ALWAYS));
        let used = sum(&link.run_until(s(2)));
        println!("{n} at {base:?}: {used:.3}");
        assert!(used >= least, "{used} with {n} at {base:?}");
    }
}

#[test]
fn one_flow_of_somebody_else_keeps_the_line_however_many_connections_there_are() {
    for (n, queue) in [(1, ms(100)), (4, ms(60)), (4, ms(100)), (4, ms(200))] {
        let mut flows = members(n, ALWAYS);
        flows.push(Flow::reno(s(20)..s(60)));
        let mut link = Link::new(ms(40), queue, flows);
        let alone = sum(&link.run_until(s(20)));
        link.run_until(s(25));
        let together = link.run_until(s(60));
        link.run_until(s(65));
        let again = sum(&link.run_until(s(85)));
        println!(
            "{n} with {queue:?}: {alone:.3}, other {:.3}, {again:.3}",
            together[n]
        );
        assert!(alone >= 0.8, "{alone} with {n}");
        assert!(together[n] >= 0.9, "{together:?} with {n} and {queue:?}");
        assert!(again >= 0.85, "{again} with {n}");
    }
}

#[test]
fn queues_elsewhere_do_not_keep_the_line_idle() {
    for (n, least) in [(4, 0.8), (16, 0.85)] {
        let flows = members(n, ALWAYS);
        let flows = flows.into_iter().map(|flow| flow.elsewhere(busy)).collect();
        let mut link = Link::new(ms(40), ms(100), flows);
        link.run_until(s(5));
        let used = sum(&link.run_until(s(65)));
        println!("{n}: {used:.3}");
        assert!(used >= least, "{used} with {n}");
    }
}

/// The same connections, and somebody else on the line: what is elsewhere hides nothing.
#[test]
fn queues_elsewhere_do_not_hide_the_lines_own() {
    let mut flows = members(4, ALWAYS);
    flows = flows.into_iter().map(|flow| flow.elsewhere(busy)).collect();
    flows.push(Flow::reno(s(10)..s(60)));
    let mut link = Link::new(ms(40), ms(100), flows);
    link.run_until(s(15));
    let together = link.run_until(s(60));
    println!("{together:.3?}");
    assert!(together[4] >= 0.9, "{together:?}");
}

/// A slow start ends with a loss. Where the queue runs full all the time it ends too soon, and its flow would be small for long.
#[test]
fn whoever_begins_has_the_line_soon_whenever_that_is() {
    let mut shares: Vec<f64> = (0..60)
        .map(|step| {
            let from = s(20) + ms(100 * step);
            let flows = members(4, ALWAYS).into_iter();
            let mut flows: Vec<_> = flows.map(|flow| flow.elsewhere(busy)).collect();
            flows.push(Flow::reno(from..s(60)));
            let mut link = Link::new(ms(20), ms(100), flows);
            link.bytes_per_second = 6_250_000;
            link.run_until(from + s(3));
            link.run_until(from + s(11))[4]
        })
        .collect();
    shares.sort_by(f64::total_cmp);
    let mean = sum(&shares) / 60.0;
    println!("{mean:.3}, at worst {:.3?}", &shares[..4]);
    assert!(mean >= 0.95, "{mean}");
    assert!(shares[0] >= 0.6, "{shares:?}");
}

#[test]
fn connections_share_the_line_evenly_and_leave_what_others_do_not_use() {
    let line = Rc::new(RefCell::new(Line::new(PACKET)));
    let mut flows: Vec<_> = (0..3).map(|_| Flow::member(&line, ALWAYS)).collect();
    flows.push(Flow::member(&line, s(20)..ALWAYS.end));
    let mut link = Link::new(ms(40), ms(100), flows);
    link.run_until(s(10));
    let three = link.run_until(s(20));
    link.run_until(s(25));
    let four = link.run_until(s(45));
    println!("{three:.3?} {four:.3?}");
    for share in &three[..3] {
        assert!((0.2..0.5).contains(share), "{three:?}");
    }
    for share in &four {
        assert!((0.12..0.4).contains(share), "{four:?}");
    }
}

#[test]
fn what_was_lost_in_others_queues_costs_nothing_here() {
    let start = Instant::now();
    let (mut line, mut near, mut far) = (Line::new(PACKET), Member::default(), Member::default());
    let mut heard = |member: &mut Member, rtt| {
        line.on_sent(start, member, 1 << 20);
        line.on_ack(start, member, 1 << 10, Some(rtt), 1 << 20);
    };
    heard(&mut near, ms(20));
    heard(&mut far, ms(20));
    heard(&mut far, ms(90));
    let before = line.window;
    line.on_loss(start + ms(1), &mut far, 1 << 10);
    assert_eq!(line.window, before, "its queue is elsewhere");
    line.on_loss(start + ms(2), &mut near, 1 << 10);
    assert_eq!(line.window, before / 2, "no queue, and lost here");
    line.on_loss(start + ms(3), &mut near, 1 << 10);
    assert_eq!(line.window, before / 2, "once in a round trip");
}

#[test]
fn what_was_lost_when_nothing_was_heard_lately_is_judged_by_what_was_heard_last() {
    let start = Instant::now();
    let (mut line, mut member) = (Line::new(PACKET), Member::default());
    for (at, rtt) in [(ms(0), ms(20)), (ms(300), ms(90))] {
        line.on_sent(start + at, &mut member, 1 << 20);
        line.on_ack(start + at, &mut member, 1 << 10, Some(rtt), 1 << 20);
    }
    let before = line.window;
    line.on_loss(start + ms(400), &mut member, 1 << 10);
    assert_eq!(line.window, before / 2, "the queue was here");
}

#[test]
fn after_a_rest_the_window_begins_small_and_what_it_was_is_reached_soon() {
    let start = Instant::now();
    let (mut line, mut member) = (Line::new(PACKET), Member::default());
    let (round, many) = (ms(20), 1 << 20);
    let mut now = start;
    let mut send = |line: &mut Line, now: Instant, rounds: u32| {
        for _ in 0..rounds {
            line.on_sent(now, &mut member, many);
            line.on_ack(now, &mut member, many, Some(round), many);
        }
        line.on_ack(now, &mut member, many, Some(round), 0);
    };
    for _ in 0..200 {
        now += round;
        send(&mut line, now, 1);
    }
    let before = line.window;
    assert!(before > 100 * u64::from(PACKET), "{before}");
    now += REST + ms(1);
    send(&mut line, now, 0);
    assert_eq!(line.window, before, "nothing was sent");
    now += REST + ms(1);
    send(&mut line, now, 1);
    assert!(line.window <= 40 * u64::from(PACKET), "{}", line.window);
    for _ in 0..12 {
        now += round;
        send(&mut line, now, 1);
    }
    assert!(line.window >= before / 2, "{} of {before}", line.window);
}

#[derive(Debug, Clone)]
enum Fact {
    Sent(u64),
    Acked {
        bytes: u64,
        rtt_us: Option<u64>,
        left: u64,
    },
    Lost(u64),
    Packet(u32),
    Left,
}

fn fact() -> impl Strategy<Value = (usize, i64, Fact)> {
    let any_size = || any::<u64>().prop_map(|n| n >> 20 >> (n % 44));
    let fact = prop_oneof![
        6 => any_size().prop_map(Fact::Sent),
        8 => (any_size(), proptest::option::of(0..10_000_000u64), any_size())
            .prop_map(|(bytes, rtt_us, left)| Fact::Acked { bytes, rtt_us, left }),
        2 => any_size().prop_map(Fact::Lost),
        1 => (0..10_000u32).prop_map(Fact::Packet),
        1 => Just(Fact::Left),
    ];
    (0..5usize, -100..5_000i64, fact)
}

proptest! {
    /// Whatever is told in whatever order: no panic, nobody without a window, and nothing counted once all have left.
    #[test]
    fn any_history_leaves_everybody_a_window_and_nothing_behind(
        facts in proptest::collection::vec(fact(), 1..400),
        packet in 0..10_000u32,
    ) {
        let start = Instant::now() + s(1000);
        let mut line = Line::new(packet);
        let mut members: [Member; 5] = Default::default();
        let mut at = 500_000i64;
        for (i, step, fact) in facts {
            at += step;
            let now = start + ms(at.unsigned_abs());
            let member = &mut members[i];
            match fact {
                Fact::Sent(bytes) => line.on_sent(now, member, bytes),
                Fact::Acked { bytes, rtt_us, left } => {
                    let rtt = rtt_us.map(Duration::from_micros);
                    let queue = line.on_ack(now, member, bytes, rtt, left);
                    prop_assert!(rtt.is_none_or(|rtt| queue <= rtt));
                }
                Fact::Lost(bytes) => line.on_loss(now, member, bytes),
                Fact::Packet(bytes) => line.on_packet(bytes),
                Fact::Left => line.leave(member),
            }
            let counted: u64 = members.iter().map(|member| member.counted).sum();
            prop_assert_eq!(line.on_line, counted);
            for member in &members {
                prop_assert!(line.window(member) >= line.window_min());
            }
        }
        for member in &mut members {
            line.leave(member);
        }
        prop_assert_eq!((line.on_line, line.active), (0, 0));
    }
}
