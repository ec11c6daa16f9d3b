//! Machines far apart. Each has a line of its own to a network that holds up what crosses it: a TUN interface per machine, and a
//! thread that passes packets on between them, no faster than the lines are and as much later as they are long.
//!
//! The kernel has queueing disciplines for that, but not every machine that runs tests has them.

use crate::namespace::{Lab, Node};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::setpriority_process,
};
use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io::ErrorKind,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tun_rs::{DeviceBuilder, SyncDevice};

/// The bytes of the longest packet.
const MTU: u16 = 1500;
/// What Ethernet adds to a packet: preamble, header, checksum and the gap to the next.
const FRAMING: usize = 38;
/// Packets of one machine that are read before the others' turn.
const READ_AT_ONCE: usize = 64;
/// How long the thread leaves packets alone between two looks at them: a look costs as much as several packets.
const PACE: Duration = Duration::from_micros(100);
/// How long the thread sleeps at most: whatever it overslept is known then.
const NAP: Duration = Duration::from_millis(1);
/// Later than this a packet makes a line look longer than it is.
const LATE: Duration = Duration::from_millis(5);
/// Where more of the packets are late nothing that was measured counts. Single pauses change nothing.
const LATE_SHARE_MAX: f64 = 0.01;
/// The highest priority that there is: all others are what is measured.
const NICE: i32 = -20;

/// How a machine is connected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    /// Bits a second that the machine sends, Ethernet's framing included.
    pub(crate) up_bps: u64,
    /// Bits a second that it receives.
    pub(crate) down_bps: u64,
    /// One way, to the middle of the network: the way between two machines is as long as both their lines.
    pub(crate) delay: Duration,
    /// What finds more than this waiting, in either direction, is dropped.
    pub(crate) queue: Duration,
}

/// A network of machines far apart. Dropping it removes it; whatever runs on the machines must be gone by then.
pub(crate) struct Distance {
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    lab: Lab,
}

/// What has crossed the network so far.
#[derive(Default)]
struct Counts {
    carried: AtomicU64,
    lost: AtomicU64,
    late: AtomicU64,
    worst_us: AtomicU64,
}

impl Distance {
    /// A machine at the end of each line.
    pub(crate) fn new(lines: &[Line]) -> Self {
        let mut lab = Lab::empty();
        let devices: Vec<SyncDevice> = (0..lines.len())
            .map(|i| plug(&lab.machine(&format!("n{i}"), address(i).into())))
            .collect();
        let (counts, stop) = (Arc::<Counts>::default(), Arc::<AtomicBool>::default());
        let mut network = Network::new(lines);
        let thread = thread::spawn({
            let (counts, stop) = (Arc::clone(&counts), Arc::clone(&stop));
            move || carry(&devices, &mut network, &counts, &stop)
        });
        Self {
            counts,
            stop,
            thread: Some(thread),
            lab,
        }
    }

    /// Machine number `i`.
    pub(crate) fn at(&self, i: usize) -> &Node {
        self.lab.at(i)
    }

    /// All machines.
    pub(crate) fn nodes(&self) -> &[Node] {
        self.lab.nodes()
    }

    /// Asserts that what was measured is the lines' doing, and not the doing of a machine that was too slow to be them.
    pub(crate) fn assert_in_time(&self) {
        let is_running = self.thread.as_ref().is_some_and(|t| !t.is_finished());
        assert!(is_running, "nobody carries packets any more");
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (carried, late) = (of(&self.counts.carried), of(&self.counts.late));
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52 packets")]
        let share = late as f64 / carried.max(1) as f64;
        let worst = Duration::from_micros(of(&self.counts.worst_us));
        let said = format!(
            "{carried} packets, {} lost in queues, {late} later than {LATE:?}, at most {worst:?}",
            of(&self.counts.lost)
        );
        println!("{said}");
        assert!(
            share <= LATE_SHARE_MAX,
            "this machine was too slow to carry packets in time, so nothing measured here counts: {said}"
        );
    }
}

impl Drop for Distance {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        // A panic has said what it was already.
        assert!(
            thread::panicking() || matches!(ended, Some(Ok(()))),
            "the thread that carries packets has failed"
        );
    }
}

impl Counts {
    /// A packet that came so much later than it should have.
    fn carried(&self, late: Duration) {
        self.carried.fetch_add(1, Ordering::Relaxed);
        if late > LATE {
            self.late.fetch_add(1, Ordering::Relaxed);
        }
        let us = u64::try_from(late.as_micros()).unwrap_or(u64::MAX);
        self.worst_us.fetch_max(us, Ordering::Relaxed);
    }
}

fn address(i: usize) -> Ipv4Addr {
    let i = u8::try_from(i).expect("fewer than 200 machines");
    Ipv4Addr::new(10, 79, 0, 10 + i)
}

/// The machine that has an address.
fn machine_at(address: Ipv4Addr) -> Option<usize> {
    match address.octets() {
        [10, 79, 0, number] => number.checked_sub(10).map(usize::from),
        _ => None,
    }
}

/// Gives a machine its end of a line; the other end.
fn plug(node: &Node) -> SyncDevice {
    let device = node.enter(|| {
        let device = DeviceBuilder::new()
            .name("eth0")
            .mtu(MTU)
            .enable(false)
            .build_sync()?;
        device.set_nonblocking(true).map(|()| device)
    });
    node.ip_commands(&[
        // What waits here waits for the thread alone: lines have their own queues.
        "link set eth0 txqueuelen 1000 up",
        &format!("addr add {}/32 dev eth0", node.ip()),
        "route add default dev eth0",
    ]);
    node.send_as_most();
    leave_receiving_to_all_processors(node);
    device.expect("the machine has /dev/net/tun, and root may use it")
}

/// What a packet causes in the machine that receives it is done by whoever hands it over: that would be half of the time of the
/// thread that carries packets.
fn leave_receiving_to_all_processors(node: &Node) {
    let processors = thread::available_parallelism().map_or(1, |n| n.get().min(32));
    let mask = u32::MAX >> (32 - processors);
    let command = format!("echo {mask:x} > /sys/class/net/eth0/queues/rx-0/rps_cpus");
    // Where that can't be had the counts show what comes of it.
    let _done = node.command("sh").args(["-c", &command]).output();
}

/// Carries packets until it is told to stop.
fn carry(devices: &[SyncDevice], network: &mut Network, counts: &Counts, stop: &AtomicBool) {
    // Where it is not allowed the counts show what comes of it, too.
    let _as_it_was = setpriority_process(None, NICE);
    let began = Instant::now();
    let mut polls: Vec<_> = devices
        .iter()
        .map(|device| PollFd::new(device, PollFlags::IN))
        .collect();
    let mut looked_at = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        while let Some((at, packet)) = network.next(began.elapsed()) {
            // As on a real line nobody hears of a packet that the machine has no room for.
            let _handed_over = devices[packet.to].send(&packet.bytes);
            counts.carried(began.elapsed().saturating_sub(at) + packet.late);
            network.spare.push(packet.bytes);
        }
        counts.lost.store(network.lost, Ordering::Relaxed);
        thread::sleep(PACE);
        let nap = network
            .next_at()
            .map_or(NAP, |at| at.saturating_sub(began.elapsed()).min(NAP));
        let nap = Timespec::try_from(nap).expect("a nap is short");
        poll(&mut polls, Some(&nap)).expect("its own devices");
        // What comes during a nap is seen at once, what came before may have waited.
        let now = began.elapsed();
        let late = now.saturating_sub(looked_at + NAP);
        looked_at = now;
        let readable = polls.iter().map(|poll| !poll.revents().is_empty());
        for (from, _) in readable.enumerate().filter(|(_, readable)| *readable) {
            for _ in 0..READ_AT_ONCE {
                let mut bytes = network.buffer();
                match devices[from].recv(&mut bytes) {
                    Ok(length) => bytes.truncate(length),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        network.spare.push(bytes);
                        break;
                    }
                    Err(error) => panic!("the line of machine {from}: {error}"),
                }
                network.send(began.elapsed(), from, bytes, late);
            }
        }
    }
}

/// Where packets are on their way between the machines. It knows no clock: times are since its beginning.
struct Network {
    ends: Vec<End>,
    /// What happens first is the first.
    under_way: BinaryHeap<Reverse<Step>>,
    number: u64,
    lost: u64,
    /// Buffers of packets that are gone: as many as were ever under way at once, which the queues bound.
    spare: Vec<Vec<u8>>,
}

/// A machine's end of the network.
struct End {
    up: Lane,
    down: Lane,
    delay: Duration,
}

/// One direction of a line.
struct Lane {
    bps: u64,
    queue: Duration,
    /// When the last of what waits will have left.
    free_at: Duration,
}

/// What happens to a packet next. Of two at the same time the one that was sent first is the first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Step {
    at: Duration,
    number: u64,
    stage: Stage,
    packet: Packet,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// It comes to the queue of the receiver's line.
    Queues,
    /// The receiver has it.
    Arrives,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Packet {
    to: usize,
    bytes: Vec<u8>,
    /// How much too late it may have been sent already.
    late: Duration,
}

impl Network {
    fn new(lines: &[Line]) -> Self {
        let end = |line: &Line| End {
            up: Lane::new(line.up_bps, line.queue),
            down: Lane::new(line.down_bps, line.queue),
            delay: line.delay,
        };
        Self {
            ends: lines.iter().map(end).collect(),
            under_way: BinaryHeap::new(),
            number: 0,
            lost: 0,
            spare: Vec::new(),
        }
    }

    /// A buffer for a packet.
    fn buffer(&mut self) -> Vec<u8> {
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.resize(usize::from(MTU), 0);
        bytes
    }

    /// A machine sends a packet.
    fn send(&mut self, now: Duration, from: usize, bytes: Vec<u8>, late: Duration) {
        // Others than machines, such as multicast groups, are nowhere.
        let Some(to) = destination(&bytes).filter(|to| *to < self.ends.len()) else {
            self.spare.push(bytes);
            return;
        };
        let delay = self.ends[from].delay + self.ends[to].delay;
        let Some(sent_at) = self.ends[from].up.take(now, bytes.len()) else {
            self.lose(bytes);
            return;
        };
        self.number += 1;
        self.under_way.push(Reverse(Step {
            at: sent_at + delay,
            number: self.number,
            stage: Stage::Queues,
            packet: Packet { to, bytes, late },
        }));
    }

    /// The next packet that has arrived by now, and when it did.
    fn next(&mut self, now: Duration) -> Option<(Duration, Packet)> {
        while self.next_at().is_some_and(|at| at <= now) {
            let Reverse(step) = self.under_way.pop()?;
            let packet = step.packet;
            if step.stage == Stage::Arrives {
                return Some((step.at, packet));
            }
            match self.ends[packet.to].down.take(step.at, packet.bytes.len()) {
                Some(at) => self.under_way.push(Reverse(Step {
                    at,
                    number: step.number,
                    stage: Stage::Arrives,
                    packet,
                })),
                None => self.lose(packet.bytes),
            }
        }
        None
    }

    /// When something happens next, if nobody sends anything.
    fn next_at(&self) -> Option<Duration> {
        self.under_way.peek().map(|first| first.0.at)
    }

    fn lose(&mut self, bytes: Vec<u8>) {
        self.lost += 1;
        self.spare.push(bytes);
    }
}

impl Lane {
    fn new(bps: u64, queue: Duration) -> Self {
        Self {
            bps,
            queue,
            free_at: Duration::ZERO,
        }
    }

    /// When a packet that comes now has left, unless the queue is full.
    fn take(&mut self, now: Duration, bytes: usize) -> Option<Duration> {
        let begins_at = self.free_at.max(now);
        if begins_at - now > self.queue {
            return None;
        }
        let bits = 8 * (bytes + FRAMING) as u64;
        self.free_at = begins_at + Duration::from_nanos(bits * 1_000_000_000 / self.bps);
        Some(self.free_at)
    }
}

/// The machine that a packet is for.
fn destination(packet: &[u8]) -> Option<usize> {
    let is_ipv4 = packet.first()? >> 4 == 4;
    let address: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    is_ipv4.then(|| machine_at(address.into())).flatten()
}

/// A packet of 1212 bytes is 10 000 bits with its framing: 10 ms at a megabit a second.
#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const LINE: Line = Line {
        up_bps: 1_000_000,
        down_bps: 500_000,
        delay: Duration::from_millis(50),
        queue: Duration::from_millis(25),
    };

    fn packet(to: usize) -> Vec<u8> {
        let mut packet = vec![0; 1212];
        packet[0] = 0x45;
        packet[16..20].copy_from_slice(&address(to).octets());
        packet
    }

    /// When what is under way arrives, at which machine.
    fn arrivals(network: &mut Network) -> Vec<(u128, usize)> {
        std::iter::from_fn(|| network.next(Duration::MAX))
            .map(|(at, packet)| (at.as_millis(), packet.to))
            .collect()
    }

    #[test]
    fn packet_takes_as_long_as_both_lines_and_their_delays() {
        let mut network = Network::new(&[LINE; 2]);
        network.send(5 * MS, 0, packet(1), Duration::ZERO);
        assert_eq!(network.next_at(), Some(115 * MS));
        assert_eq!(network.next(134 * MS), None);
        assert_eq!(network.next_at(), Some(135 * MS));
        assert_eq!(arrivals(&mut network), [(135, 1)]);
    }

    #[test]
    fn what_finds_a_full_queue_is_lost() {
        let mut network = Network::new(&[LINE; 3]);
        for _ in 0..5 {
            network.send(Duration::ZERO, 0, packet(2), Duration::ZERO);
        }
        // Three may wait for 0, 10 and 20 ms before the line up.
        assert_eq!(network.lost, 2);
        // They come to the slower line down each 10 ms, and another's with the last.
        network.send(20 * MS, 1, packet(2), Duration::ZERO);
        assert_eq!(arrivals(&mut network), [(130, 2), (150, 2), (170, 2)]);
        assert_eq!(network.lost, 3);
        assert_eq!(network.spare.len(), 3);
    }

    #[test]
    fn machines_have_their_lines_to_themselves_and_packets_for_nobody_are_nothing() {
        let mut network = Network::new(&[LINE; 4]);
        network.send(Duration::ZERO, 0, packet(2), Duration::ZERO);
        network.send(Duration::ZERO, 1, packet(3), Duration::ZERO);
        network.send(Duration::ZERO, 1, packet(4), Duration::ZERO);
        network.send(Duration::ZERO, 1, vec![0x60; 40], Duration::ZERO);
        assert_eq!(arrivals(&mut network), [(130, 2), (130, 3)]);
        assert_eq!((network.lost, network.spare.len()), (0, 2));
    }
}
