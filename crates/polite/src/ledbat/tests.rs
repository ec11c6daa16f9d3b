//! Scenarios on a bottleneck of a model: one link with a queue, packets one by one, in virtual time.

use super::*;
use proptest::prelude::*;
use std::collections::{BinaryHeap, VecDeque};

const PACKET: u32 = 1448;

/// What steers a flow of the model.
enum Control {
    Ledbat(Box<Ledbat>),
    /// Grows by a packet a round trip, halves at a loss: what Reno does after its slow start.
    Reno {
        window: u64,
        slow_start: bool,
        halved_at: Option<Instant>,
    },
}

struct Flow {
    control: Control,
    /// Sends only within this time.
    active: std::ops::Range<Duration>,
    in_flight: u64,
    delivered: u64,
}

impl Flow {
    fn ledbat(active: std::ops::Range<Duration>) -> Self {
        Self::new(
            Control::Ledbat(Box::new(Ledbat::new(PACKET, 10 * u64::from(PACKET)))),
            active,
        )
    }

    fn reno(active: std::ops::Range<Duration>) -> Self {
        let window = 10 * u64::from(PACKET);
        let control = Control::Reno {
            window,
            slow_start: true,
            halved_at: None,
        };
        Self::new(control, active)
    }

    fn new(control: Control, active: std::ops::Range<Duration>) -> Self {
        Self {
            control,
            active,
            in_flight: 0,
            delivered: 0,
        }
    }

    fn window(&self) -> u64 {
        match &self.control {
            Control::Ledbat(ledbat) => ledbat.window().unwrap_or(OPEN),
            Control::Reno { window, .. } => *window,
        }
    }

    fn acked(&mut self, now: Instant, rtt: Duration) {
        let in_flight = self.in_flight;
        self.in_flight -= u64::from(PACKET);
        self.delivered += u64::from(PACKET);
        match &mut self.control {
            Control::Ledbat(ledbat) => {
                let bytes = PACKET.into();
                let rtt = Some(rtt);
                ledbat.on_ack(
                    now,
                    Ack {
                        bytes,
                        rtt,
                        in_flight,
                    },
                );
            }
            Control::Reno {
                window, slow_start, ..
            } => {
                let packet = u64::from(PACKET);
                *window += if *slow_start {
                    packet
                } else {
                    packet * packet / *window
                };
            }
        }
    }

    fn lost(&mut self, now: Instant, rtt: Duration) {
        self.in_flight -= u64::from(PACKET);
        match &mut self.control {
            Control::Ledbat(ledbat) => ledbat.on_loss(now),
            Control::Reno {
                window,
                slow_start,
                halved_at,
            } => {
                if halved_at.is_none_or(|at| now - at > rtt) {
                    *window = (*window / 2).max(2 * u64::from(PACKET));
                    *slow_start = false;
                    *halved_at = Some(now);
                }
            }
        }
    }
}

/// The link: 20 Mbit/s unless a test says otherwise.
struct Link {
    bytes_per_second: u64,
    /// There and back with an empty queue, from a time on.
    base: Vec<(Duration, Duration)>,
    queue_max: Duration,
    flows: Vec<Flow>,
    start: Instant,
    now: Duration,
    /// When the queue will be empty.
    free_at: Duration,
    /// Acks (`true`) and news of losses on their way: time (reversed), flow, sent at.
    news: BinaryHeap<(std::cmp::Reverse<Duration>, usize, Duration, bool)>,
}

impl Link {
    fn new(base: Duration, queue_max: Duration, flows: Vec<Flow>) -> Self {
        Self {
            bytes_per_second: 2_500_000,
            base: vec![(Duration::ZERO, base)],
            queue_max,
            flows,
            start: Instant::now(),
            now: Duration::ZERO,
            free_at: Duration::ZERO,
            news: BinaryHeap::new(),
        }
    }

    fn base_now(&self) -> Duration {
        let base = self.base.iter().rev().find(|(from, _)| *from <= self.now);
        base.expect("from zero on").1
    }

    /// Runs until then and says what each flow got meanwhile, as a share of the link.
    fn run_until(&mut self, end: Duration) -> Vec<f64> {
        let before: Vec<u64> = self.flows.iter().map(|flow| flow.delivered).collect();
        let begun = self.now;
        let step = Duration::from_micros(200);
        while self.now < end {
            while let Some((at, flow, sent, arrived)) = self.news.peek().copied() {
                if at.0 > self.now {
                    break;
                }
                self.news.pop();
                let (now, rtt) = (self.start + at.0, at.0 - sent);
                match arrived {
                    true => self.flows[flow].acked(now, rtt),
                    false => self.flows[flow].lost(now, rtt),
                }
            }
            self.send_all();
            self.now += step;
        }
        let possible = (end - begun).as_secs_f64() * self.bytes_per_second as f64;
        let flows = self.flows.iter().zip(before);
        flows
            .map(|(flow, before)| (flow.delivered - before) as f64 / possible)
            .collect()
    }

    fn send_all(&mut self) {
        let packet = u64::from(PACKET);
        let service = Duration::from_nanos(packet * 1_000_000_000 / self.bytes_per_second);
        let base = self.base_now();
        // In turn, so that none has the queue for itself.
        loop {
            let mut sent = false;
            for (i, flow) in self.flows.iter_mut().enumerate() {
                if !flow.active.contains(&self.now) || flow.in_flight + packet > flow.window() {
                    continue;
                }
                sent = true;
                flow.in_flight += packet;
                let queue = self.free_at.saturating_sub(self.now);
                let arrived = queue + service <= self.queue_max;
                if arrived {
                    self.free_at = self.free_at.max(self.now) + service;
                }
                let at = self.free_at.max(self.now) + base;
                self.news
                    .push((std::cmp::Reverse(at), i, self.now, arrived));
            }
            if !sent {
                break;
            }
        }
    }

    fn queue(&self) -> Duration {
        self.free_at.saturating_sub(self.now)
    }
}

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const fn s(n: u64) -> Duration {
    Duration::from_secs(n)
}

const ALWAYS: std::ops::Range<Duration> = Duration::ZERO..Duration::MAX;

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
