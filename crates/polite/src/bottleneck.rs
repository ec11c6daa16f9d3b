//! A bottleneck of a model: one link with a queue, packets one by one, in virtual time.

use crate::{
    ledbat::{Ack, Ledbat},
    line::{Line, Member},
};
use std::{
    cell::RefCell,
    collections::BinaryHeap,
    rc::Rc,
    time::{Duration, Instant},
};

pub(crate) const PACKET: u32 = 1448;

/// What steers a flow of the model.
enum Control {
    Ledbat(Box<Ledbat>),
    Member {
        line: Rc<RefCell<Line>>,
        member: Box<Member>,
    },
    /// Grows by a packet a round trip, halves at a loss: what Reno does after its slow start.
    Reno {
        window: u64,
        slow_start: bool,
        halved_at: Option<Instant>,
    },
}

pub(crate) struct Flow {
    control: Control,
    /// Sends only within this time.
    active: std::ops::Range<Duration>,
    in_flight: u64,
    delivered: u64,
    /// What queues elsewhere add to its round trips.
    elsewhere: fn(usize, Duration) -> Duration,
}

impl Flow {
    pub(crate) fn ledbat(active: std::ops::Range<Duration>) -> Self {
        Self::new(
            Control::Ledbat(Box::new(Ledbat::new(PACKET, 10 * u64::from(PACKET)))),
            active,
        )
    }

    pub(crate) fn reno(active: std::ops::Range<Duration>) -> Self {
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
            elsewhere: |_, _| Duration::ZERO,
        }
    }

    /// One of several that share their sender's line.
    pub(crate) fn member(line: &Rc<RefCell<Line>>, active: std::ops::Range<Duration>) -> Self {
        let (line, member) = (Rc::clone(line), Box::default());
        Self::new(Control::Member { line, member }, active)
    }

    /// Queues elsewhere, by the flow's number and the time.
    pub(crate) fn elsewhere(mut self, delay: fn(usize, Duration) -> Duration) -> Self {
        self.elsewhere = delay;
        self
    }

    fn window(&self) -> u64 {
        match &self.control {
            Control::Ledbat(ledbat) => ledbat.window().unwrap_or(u64::MAX),
            Control::Member { line, member } => line.borrow().window(member),
            Control::Reno { window, .. } => *window,
        }
    }

    fn sent(&mut self, now: Instant) {
        self.in_flight += u64::from(PACKET);
        if let Control::Member { line, member } = &mut self.control {
            line.borrow_mut().on_sent(now, member, PACKET.into());
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
            Control::Member { line, member } => {
                let mut line = line.borrow_mut();
                line.on_ack(now, member, PACKET.into(), Some(rtt), self.in_flight);
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
            Control::Member { line, member } => {
                line.borrow_mut().on_loss(now, member, PACKET.into());
            }
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
pub(crate) struct Link {
    pub(crate) bytes_per_second: u64,
    /// There and back with an empty queue, from a time on.
    pub(crate) base: Vec<(Duration, Duration)>,
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
    pub(crate) fn new(base: Duration, queue_max: Duration, flows: Vec<Flow>) -> Self {
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
    pub(crate) fn run_until(&mut self, end: Duration) -> Vec<f64> {
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
                flow.sent(self.start + self.now);
                let queue = self.free_at.saturating_sub(self.now);
                let arrived = queue + service <= self.queue_max;
                if arrived {
                    self.free_at = self.free_at.max(self.now) + service;
                }
                let at = self.free_at.max(self.now) + base + (flow.elsewhere)(i, self.now);
                self.news
                    .push((std::cmp::Reverse(at), i, self.now, arrived));
            }
            if !sent {
                break;
            }
        }
    }

    pub(crate) fn queue(&self) -> Duration {
        self.free_at.saturating_sub(self.now)
    }
}

pub(crate) const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(crate) const fn s(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(crate) const ALWAYS: std::ops::Range<Duration> = Duration::ZERO..Duration::MAX;
