//! One direction of a TCP connection that gives way while it is in the background.
//!
//! Nothing here waits or has a timer: who moves bytes calls [`Receiving::moved`] or [`Sending::moved`] as they move, and
//! every 10 to 50 ms the socket is looked at and its knobs are set.
//!
//! Who receives steers by the window that it offers, as rLEDBAT does (draft-irtf-iccrg-rledbat): works with every
//! sender. Who sends steers by the kernel's pacing, at a window for each round trip. Both leave a connection alone until
//! delay shows for the first time.

use crate::ledbat::{Ack, Ledbat};
use crate::socket::{self, BorrowedSocket, TcpFacts};
use std::io;
use std::time::{Duration, Instant};

/// The socket is looked at every half round trip, but …
const INTERVAL_MIN: Duration = Duration::from_millis(10);
/// … and …
const INTERVAL_MAX: Duration = Duration::from_millis(50);

/// Round trip times below this are not measured well, and how long an end takes to answer counts as much: bytes under
/// way are counted as if it were this.
const RTT_EXACT: Duration = Duration::from_millis(1);

/// So few segments under way the other end may acknowledge late …
const UNACKED_ACKED_LATE: u32 = 2;
/// … by so much, which is no queue's delay (Linux' shortest, and about everybody's).
const ACK_DELAY_MAX: Duration = Duration::from_millis(40);

/// So much of a limited rate, and a quarter of what a round trip brings, may wait to be read at each connection, for
/// readers that wake late …
const READ_AHEAD: Duration = Duration::from_millis(4);
/// … and so many segments at least, so that acknowledgements flow.
const READ_AHEAD_PACKETS: u64 = 4;
/// A new connection has room for a rate's [`READ_AHEAD`], but for so much at least and at most.
const FIRST_ROOM_MIN: u32 = 8 << 10;
const FIRST_ROOM_MAX: u32 = 64 << 10;
/// A connection whose share is so much may have as much under way as fills its path with a multiple of that, for the
/// others may rest, …
const SHARES_ON_PATH: u32 = 2;
/// … and for this long beyond it: as short as it can be without that a busy machine reads too late. Whatever is said to
/// us, and by those who send to us at once, waits as long in the queues of both ends …
const QUEUE: Duration = Duration::from_millis(4);
/// … but so many bytes at least, more than half of the burst that a sender's hardware makes packets of, …
const QUEUE_MIN: u64 = 40 << 10;
/// … and so many segments, which on a machine's own loopback are larger than that: a sender that is offered less than one
/// waits until a timer fires (RFC 1122, section 4.2.3.4).
const QUEUE_PACKETS_MIN: u64 = 2;
/// No path is taken for longer than this: a queue of one's own must not make room for more of it.
const RTT_MAX: Duration = Duration::from_millis(500);
/// Memory that a byte takes while it waits to be read, with what the system needs around it: more than segments of any
/// size come to but the smallest, which the system packs when it runs out of room.
const MEMORY_PER_BYTE: u32 = 2;
/// A bound is moved when it is off by more than one part in so many.
const ROOM_SLACK: u32 = 8;

/// The kernel sends no longer bursts, in bytes …
const BURST_MAX: u32 = 64 << 10;
/// … and shorter ones than this would only cost.
const BURST_MIN: u32 = 2 << 10;

/// Segments out of order that make a loss: fewer may only have overtaken each other (RFC 5681, section 3.2).
const REORDERED_MAX: u32 = 3;

/// What both directions have in common.
#[derive(Debug, Default)]
struct Flow {
    ledbat: Option<Ledbat>,
    looked_at: Option<Instant>,
    bytes: u64,
    losses: u32,
    round: Round,
    /// Whether the socket carries the lower-effort mark.
    marked: bool,
    /// The knob's setting, if it is set.
    limit: Option<u64>,
    /// There while what waits to be read is bounded.
    room: Option<Room>,
    /// Something waits in the socket, as far as is known.
    waiting: bool,
    /// The system does not let us.
    broken: bool,
}

/// The memory that what waits to be read may take.
#[derive(Debug, Clone, Copy)]
struct Room {
    /// As it was without a bound.
    before: u32,
    /// The most that the system lets us ask for.
    most: u32,
}

impl Room {
    /// Whether the system grants what is asked for.
    fn is_bounded(self) -> bool {
        self.most == u32::MAX
    }
}

/// The receiving direction.
#[derive(Debug, Default)]
pub struct Receiving(Flow);

/// The sending direction.
#[derive(Debug, Default)]
pub struct Sending(Flow);

/// What a connection is to be at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Manner {
    /// It gives way.
    pub background: bool,
    /// It is read at no more than so many bytes a second, so no more than this needs to be under way and to wait in the
    /// socket. (What it is limited to is up to its reader; this keeps the kernel from taking in more.)
    pub rate: Option<u64>,
    /// Its share of what can come by all connections together, in bytes a second. No more of it than fills the path, and
    /// a short queue, need be under way: what several senders have under way at once is what overflows the queue before
    /// us, and what everything else that is said to us waits behind.
    pub share: Option<u64>,
}

impl Manner {
    fn is_plain(self) -> bool {
        self == Self::default()
    }
}

impl Receiving {
    /// Bytes have arrived. Answers with what the socket said, if it was asked.
    pub fn moved(
        &mut self,
        socket: BorrowedSocket<'_>,
        now: Instant,
        manner: Manner,
    ) -> Option<TcpFacts> {
        self.0.moved(socket, now, manner, look_received, offer)
    }

    /// The window that is offered at most, in bytes, while it is bounded.
    pub fn window(&self) -> Option<u64> {
        self.0.limit
    }

    /// Whether what may wait to be read is bounded.
    pub fn is_bounded(&self) -> bool {
        self.0.room.is_some_and(Room::is_bounded)
    }
}

/// The memory that what waits at a new connection may take, so that a limited reader is not overrun before it has looked
/// at the connection for the first time. Its round trip is not known then; as soon as it is the room follows.
pub fn first_room(rate: u64) -> u32 {
    let bytes = u128::from(rate) * READ_AHEAD.as_nanos() / 1_000_000_000;
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    let bytes = bytes.clamp(FIRST_ROOM_MIN, FIRST_ROOM_MAX);
    bytes * MEMORY_PER_BYTE
}

impl Sending {
    /// Bytes have been sent or wait for room. `background`: whether the connection is to give way at this moment.
    pub fn moved(
        &mut self,
        socket: BorrowedSocket<'_>,
        now: Instant,
        background: bool,
    ) -> Option<TcpFacts> {
        let manner = Manner {
            background,
            ..Manner::default()
        };
        self.0.moved(socket, now, manner, look_sent, pace)
    }

    /// How often to call [`Self::moved`] at least, even if nothing moves, for what is held back may wait for long in the
    /// socket; `None`: with the next bytes is enough.
    pub fn interval(&self) -> Option<Duration> {
        let held_back = self.0.limit.is_some() && self.0.waiting;
        held_back.then(|| self.0.interval())
    }

    /// How many bytes to hand to the kernel at once, while that matters; a power of two. Where round trips are short it
    /// sends up to 64 KiB in one burst, however slow the pace is, and what comes next waits for as long as all of that
    /// takes at this pace: more than a second at the least one.
    pub fn burst(&self) -> Option<u32> {
        let half = u32::try_from(self.0.limit? / 2).unwrap_or(u32::MAX);
        (half < BURST_MAX).then(|| half.next_power_of_two().max(BURST_MIN))
    }
}

/// What a look at the socket found.
struct Look {
    packet: u32,
    /// Bytes that have been delivered, ever.
    bytes: u64,
    /// Segments lost, ever.
    losses: u32,
    rtt: Option<Duration>,
    base: Option<Duration>,
    in_flight: u64,
    /// Whether the socket holds something that has not been sent.
    waiting: bool,
}

impl Look {
    /// The window that a limited rate needs, and the round trip time that it is for.
    fn window_at(&self, rate: u64) -> (u64, Duration) {
        let least = READ_AHEAD_PACKETS * u64::from(self.packet);
        self.window_for(rate, READ_AHEAD + self.path() / 4, least)
    }

    /// The window that a share of what can come needs, and the round trip time that it is for.
    fn window_of_share(&self, rate: u64) -> (u64, Duration) {
        let ahead = QUEUE + self.path() * (SHARES_ON_PATH - 1);
        let least = QUEUE_MIN.max(QUEUE_PACKETS_MIN * u64::from(self.packet));
        self.window_for(rate, ahead, least)
    }

    /// The window that lets so many bytes a second through, and the round trip time that it is for.
    fn window_for(&self, rate: u64, ahead: Duration, least: u64) -> (u64, Duration) {
        let rtt = self.path();
        let bytes = u128::from(rate) * (rtt + ahead).as_nanos() / 1_000_000_000;
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        (bytes.max(least), rtt)
    }

    /// The round trip of the path: the least there was, as what waits to be read counts in the others.
    fn path(&self) -> Duration {
        self.base.or(self.rtt).unwrap_or_default().min(RTT_MAX)
    }
}

fn look_received(facts: &TcpFacts) -> Look {
    let rtt = if facts.timestamps {
        facts.receive_rtt
    } else {
        // Of our requests: few samples, but they wait in the same queue on their way back.
        facts.rtt
    };
    Look {
        packet: facts.receive_segment,
        bytes: facts.bytes_received,
        losses: facts.out_of_order / REORDERED_MAX,
        rtt: known(rtt),
        base: known(facts.min_rtt),
        // The receiver can't see it.
        in_flight: 0,
        waiting: false,
    }
}

fn look_sent(facts: &TcpFacts) -> Look {
    let mut rtt = facts.rtt;
    if facts.unacked <= UNACKED_ACKED_LATE {
        rtt = rtt.saturating_sub(ACK_DELAY_MAX).max(facts.min_rtt);
    }
    Look {
        packet: facts.send_segment,
        bytes: facts.bytes_acked,
        losses: facts.retransmitted,
        rtt: known(rtt),
        base: known(facts.min_rtt),
        in_flight: u64::from(facts.unacked) * u64::from(facts.send_segment),
        waiting: facts.unsent > 0,
    }
}

fn known(time: Duration) -> Option<Duration> {
    (!time.is_zero()).then_some(time)
}

/// The window to offer, in bytes.
fn offer(
    socket: BorrowedSocket<'_>,
    window: Option<(u64, Duration)>,
    room: Option<Room>,
) -> io::Result<()> {
    let bytes = window.map(|(bytes, _)| u32::try_from(bytes).unwrap_or(u32::MAX));
    socket::set_window_clamp(socket, bytes)?;
    let kept = match (room, bytes) {
        (Some(room), _) if room.is_bounded() => true,
        // The room is as large as it needs to be for that.
        (_, Some(bytes)) => {
            socket::receive_memory(socket)?.room >= bytes.saturating_mul(MEMORY_PER_BYTE)
        }
        (_, None) => false,
    };
    socket::set_room_kept(socket, kept);
    Ok(())
}

/// The rate at which a window goes out in a round trip.
fn pace(
    socket: BorrowedSocket<'_>,
    window: Option<(u64, Duration)>,
    _: Option<Room>,
) -> io::Result<()> {
    let rate = window.map(|(bytes, rtt)| {
        let rate = u128::from(bytes) * 1_000_000_000 / rtt.as_nanos().max(1);
        u64::try_from(rate).unwrap_or(u64::MAX)
    });
    socket::set_pacing_rate(socket, rate)
}

type Steer = fn(BorrowedSocket<'_>, Option<(u64, Duration)>, Option<Room>) -> io::Result<()>;

impl Flow {
    fn interval(&self) -> Duration {
        let rtt = self.ledbat.as_ref().and_then(Ledbat::rtt);
        (rtt.unwrap_or_default() / 2).clamp(INTERVAL_MIN, INTERVAL_MAX)
    }

    fn is_held(&self) -> bool {
        self.marked || self.limit.is_some() || self.room.is_some()
    }

    fn moved(
        &mut self,
        socket: BorrowedSocket<'_>,
        now: Instant,
        manner: Manner,
        look: fn(&TcpFacts) -> Look,
        steer: Steer,
    ) -> Option<TcpFacts> {
        if self.broken || (manner.is_plain() && !self.is_held()) {
            return None;
        }
        let turned = manner.background != self.marked || manner.is_plain();
        let due = self
            .looked_at
            .is_none_or(|at| now.saturating_duration_since(at) >= self.interval());
        // A limited reader reads the next part late.
        if !turned && !due && manner.rate.is_none() {
            // Somebody who sends: what was sent now may wait.
            self.waiting = true;
            return None;
        }
        let applied = socket::facts(socket).and_then(|facts| {
            self.apply(socket, now, manner, (&facts, look(&facts)), steer)?;
            Ok(facts)
        });
        match applied {
            Ok(facts) => Some(facts),
            Err(error) => {
                tracing::debug!(%error, "connection can't be made to give way");
                self.broken = true;
                None
            }
        }
    }

    fn apply(
        &mut self,
        socket: BorrowedSocket<'_>,
        now: Instant,
        manner: Manner,
        (facts, look): (&TcpFacts, Look),
        steer: Steer,
    ) -> io::Result<()> {
        if look.bytes < self.bytes {
            // Another connection between the same addresses.
            *self = Self::default();
        }
        if manner.background != self.marked {
            socket::set_lower_effort(socket, manner.background)?;
            self.marked = manner.background;
            self.ledbat = None;
            self.looked_at = None;
        }
        let polite = if manner.background {
            self.take_in(now, &look)
        } else {
            self.looked_at = Some(now);
            self.bytes = look.bytes;
            None
        };
        let needed = manner.rate.map(|rate| look.window_at(rate));
        let enough = manner.share.map(|rate| look.window_of_share(rate));
        let windows = [polite, needed, enough].into_iter().flatten();
        let limit = windows.min_by_key(|(bytes, _)| *bytes);
        self.bound_room(socket, needed.map(|(bytes, _)| bytes), facts.offered)?;
        if limit.is_some() || self.limit.is_some() {
            // Every time: the kernel moves the bound when it makes the receive buffer larger.
            steer(socket, limit, self.room)?;
        }
        self.limit = limit.map(|(bytes, _)| bytes);
        Ok(())
    }

    /// Lets no more wait to be read than is needed, or as much as there was before.
    ///
    /// What waits already, and what the other end was told that it may send, keeps its room until it is read: what finds
    /// none is dropped, and sent again much later.
    fn bound_room(
        &mut self,
        socket: BorrowedSocket<'_>,
        needed: Option<u64>,
        offered: Option<u32>,
    ) -> io::Result<()> {
        let Some(needed) = needed else {
            // The kernel would not make it larger by itself where it once was as large.
            if let Some(room) = self.room.take() {
                socket::set_receive_room(socket, room.before)?;
                socket::set_room_kept(socket, false);
            }
            return Ok(());
        };
        let memory = socket::receive_memory(socket)?;
        let room = self.room.get_or_insert(Room {
            before: memory.room,
            most: u32::MAX,
        });
        let needed = u32::try_from(needed).unwrap_or(u32::MAX);
        let needed = needed.saturating_mul(MEMORY_PER_BYTE);
        let offered = offered.map_or(memory.room, |bytes| bytes.saturating_mul(MEMORY_PER_BYTE));
        let held = memory.used.saturating_add(offered).min(memory.room);
        let wanted = needed.max(held);
        if wanted > room.most || wanted.abs_diff(memory.room) <= memory.room / ROOM_SLACK {
            // Where the system lets us ask for no more, it makes the room larger by itself as long as the window, which
            // is bounded, does not fit.
            return Ok(());
        }
        socket::set_receive_room(socket, wanted)?;
        let got = socket::receive_memory(socket)?.room;
        if got < wanted {
            room.most = got;
        }
        Ok(())
    }

    /// What the core makes of it: a window and the round trip time that it is for.
    fn take_in(&mut self, now: Instant, look: &Look) -> Option<(u64, Duration)> {
        let first = self.looked_at.is_none();
        self.looked_at = Some(now);
        self.waiting = look.waiting;
        let bytes = look.bytes.saturating_sub(self.bytes);
        let lost = look.losses > self.losses;
        (self.bytes, self.losses) = (look.bytes, look.losses);
        let ledbat = self
            .ledbat
            .get_or_insert_with(|| Ledbat::open(look.packet.max(536)));
        ledbat.on_packet(look.packet);
        if let Some(base) = look.base {
            ledbat.on_base_rtt(now, base);
        }
        if first {
            // What was before is no part of this.
            self.round = Round::new(now);
            return None;
        }
        let rtt = look.rtt.or_else(|| ledbat.rtt()).unwrap_or(INTERVAL_MIN);
        let measured = self.round.add(now, bytes, rtt.max(RTT_EXACT));
        let ack = Ack {
            bytes,
            rtt: look.rtt,
            in_flight: look.in_flight.max(measured),
        };
        if bytes > 0 {
            ledbat.on_ack(now, ack);
        }
        if lost {
            ledbat.on_loss(now);
        }
        ledbat.window().zip(ledbat.rtt())
    }
}

/// How much is delivered in a round trip: what was under way, as far as the receiver can tell.
#[derive(Debug, Default)]
struct Round {
    began: Option<Instant>,
    bytes: u64,
    /// Of the last whole round.
    last: u64,
}

impl Round {
    fn new(now: Instant) -> Self {
        Self {
            began: Some(now),
            ..Self::default()
        }
    }

    fn add(&mut self, now: Instant, bytes: u64, rtt: Duration) -> u64 {
        self.bytes = self.bytes.saturating_add(bytes);
        let began = *self.began.get_or_insert(now);
        let took = now.saturating_duration_since(began);
        if took >= rtt.max(INTERVAL_MIN) {
            let scaled = u128::from(self.bytes) * rtt.as_nanos() / took.as_nanos().max(1);
            self.last = u64::try_from(scaled).unwrap_or(u64::MAX);
            self.bytes = 0;
            self.began = Some(now);
        }
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_pace_goes_out_in_bursts_that_fit_it() {
        let burst = |limit| {
            let flow = Flow {
                limit,
                ..Flow::default()
            };
            Sending(flow).burst()
        };
        assert_eq!(burst(None), None);
        assert_eq!(burst(Some(1 << 20)), None, "the kernel's own are shorter");
        assert_eq!(burst(Some(40_000)), Some(32 << 10));
        assert_eq!(burst(Some(2 * 1448)), Some(2 << 10), "the least window");
    }

    #[test]
    fn windows_have_room_for_whole_segments_however_large_these_are() {
        for packet in [536, 1448, 8948, 65_483] {
            let look = Look {
                packet,
                bytes: 0,
                losses: 0,
                rtt: None,
                base: None,
                in_flight: 0,
                waiting: false,
            };
            for (window, _) in [look.window_of_share(1), look.window_at(1)] {
                assert!(window >= 2 * u64::from(packet), "{window} for {packet}");
            }
        }
    }

    #[test]
    fn windows_of_shares_let_a_connection_fill_its_path_and_all_of_them_make_a_short_queue() {
        let best = 25_000_000;
        for path in [0, 1, 5, 50].map(Duration::from_millis) {
            let look = Look {
                packet: 1448,
                bytes: 0,
                losses: 0,
                rtt: None,
                base: Some(path),
                in_flight: 0,
                waiting: false,
            };
            for sharers in 1..8 {
                let (window, rtt) = look.window_of_share(best / u64::from(sharers));
                assert_eq!(rtt, path);
                let lasts = |bytes| Duration::from_secs_f64(bytes as f64 / best as f64);
                let least = lasts(QUEUE_MIN * u64::from(sharers));
                let (one, all) = (lasts(window), lasts(window * u64::from(sharers)));
                assert!(one * sharers >= path * 2 + QUEUE - Duration::from_micros(1));
                assert!(
                    all <= least.max(path * 2 + QUEUE),
                    "{all:?} by {sharers}, {path:?}"
                );
            }
        }
    }
}
