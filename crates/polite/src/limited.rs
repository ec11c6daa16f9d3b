//! A connection that is read or written through a [`Throttle`]: what may move when, and what it costs.
//!
//! How a limit becomes exact on the wire:
//!
//! 1. *The kernel takes in no more than was asked for.* What may wait to be read is bounded, from before a connection is
//!    made ([`first_room`](crate::flow::first_room)), to little more than what the rate
//!    brings in a round trip. When that much
//!    waits, the other end may send a byte only for a byte that is read.
//! 2. *Bytes are asked for when they are paid for.* A part is read, or given to the kernel to be sent, once the limiter
//!    has given way for it.
//! 3. *What is charged is what the kernel counted*, content, headers and segments that went twice, not what reading or
//!    writing looked like ([`Account`]).
//!
//! 1 bounds what a moment can bring beyond the limit, 2 paces it, 3 makes it exact in the long run. Messages and all else
//! that moves without asking are owed in the same way.

use crate::account::{Account, on_wire};
use crate::flow::{Receiving, Sending};
use crate::socket::{self, BorrowedSocket, TcpFacts};
use crate::throttle::Throttle;
use std::time::{Duration, Instant};

/// TCP's option with timestamps, padded.
const TIMESTAMPS: u32 = 12;

/// What a reader or writer may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// Move so many bytes.
    Move(usize),
    /// Take so many of the limit first, and ask again.
    Pay(u32),
}

/// The receiving direction of one connection.
#[derive(Debug, Default)]
pub struct Intake {
    flow: Receiving,
    meter: Meter,
    /// The kernel was told to acknowledge what comes while the limit is waited for.
    acknowledging: bool,
}

impl Intake {
    /// How many of `wanted` bytes may be read now. To be asked when something is there to read, so that nothing is paid
    /// for long before it is of use.
    pub fn ask(
        &mut self,
        socket: Option<BorrowedSocket<'_>>,
        gate: &dyn Throttle,
        wanted: usize,
    ) -> Leave {
        let most = self.flow.window().map_or(u64::MAX, on_wire);
        let leave = self.meter.ask(socket, gate, wanted, |facts, headers| Seen {
            counted: received(facts, headers),
            most,
        });
        let waits = matches!(leave, Leave::Pay(_)) && self.flow.is_bounded();
        if let Some(socket) = socket.filter(|_| waits != self.acknowledging) {
            self.acknowledging = waits;
            if let Err(error) = socket::set_acknowledging(socket, waits) {
                tracing::debug!(%error, "a limited connection's acknowledgements are late");
            }
        }
        leave
    }

    /// So many bytes have been read.
    pub fn moved(
        &mut self,
        socket: Option<BorrowedSocket<'_>>,
        gate: &dyn Throttle,
        bytes: usize,
        now: Instant,
    ) {
        let facts = socket.and_then(|socket| self.flow.moved(socket, now, gate.manner()));
        self.meter.moved(facts.as_ref(), gate, bytes, received);
        if !gate.is_unlimited() && self.meter.counter.is_none() {
            self.begin(socket, gate, now);
        }
    }

    /// Begins to count, before anything is read: else counting begins with the first bytes, which are not counted.
    pub fn begin(&mut self, socket: Option<BorrowedSocket<'_>>, gate: &dyn Throttle, now: Instant) {
        if gate.is_unlimited() {
            return;
        }
        self.meter.look(socket, gate, |facts, headers| Seen {
            counted: received(facts, headers),
            most: 0,
        });
        if let Some(socket) = socket {
            self.flow.moved(socket, now, gate.manner());
        }
    }
}

/// The sending direction of one connection.
#[derive(Debug, Default)]
pub struct Outlet {
    flow: Sending,
    meter: Meter,
}

impl Outlet {
    /// How many of `wanted` bytes may be given to the kernel now.
    pub fn ask(
        &mut self,
        socket: Option<BorrowedSocket<'_>>,
        gate: &dyn Throttle,
        wanted: usize,
    ) -> Leave {
        self.meter.ask(socket, gate, wanted, |facts, headers| Seen {
            counted: sent(facts, headers),
            most: on_wire(u64::from(facts.unsent) + u64::from(gate.slice())),
        })
    }

    /// So many bytes have been given to the kernel.
    pub fn moved(
        &mut self,
        socket: Option<BorrowedSocket<'_>>,
        gate: &dyn Throttle,
        bytes: usize,
        now: Instant,
    ) {
        let facts = self.give_way(socket, gate, now);
        self.meter.moved(facts.as_ref(), gate, bytes, sent);
    }

    /// Steers what is in the socket already; see [`Self::interval`].
    pub fn give_way(
        &mut self,
        socket: Option<BorrowedSocket<'_>>,
        gate: &dyn Throttle,
        now: Instant,
    ) -> Option<TcpFacts> {
        self.flow.moved(socket?, now, gate.is_background())
    }

    /// As [`Sending::burst`].
    pub fn burst(&self) -> Option<u32> {
        self.flow.burst()
    }

    /// As [`Sending::interval`].
    pub fn interval(&self) -> Option<Duration> {
        self.flow.interval()
    }
}

/// What both directions have in common.
#[derive(Debug, Default)]
struct Meter {
    /// There while the connection is limited and the system lets us look at it.
    counter: Option<Counter>,
    /// Bytes that may move.
    credit: u32,
}

/// An account with the kernel's counters.
#[derive(Debug)]
struct Counter {
    account: Account,
    /// Headers of each segment, TCP's options left out.
    headers: u32,
}

/// What a look at a connection found, in bytes as the interface counts them.
struct Seen {
    /// What has moved, ever.
    counted: u64,
    /// What may be asked for and not have moved.
    most: u64,
}

impl Meter {
    fn ask(
        &mut self,
        socket: Option<BorrowedSocket<'_>>,
        gate: &dyn Throttle,
        wanted: usize,
        look: impl FnOnce(&TcpFacts, u32) -> Seen,
    ) -> Leave {
        if gate.is_unlimited() {
            *self = Self::default();
            return Leave::Move(wanted);
        }
        if self.credit == 0 {
            let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
            self.credit = gate.slice().min(wanted).max(1);
            let cost = on_wire(self.credit.into());
            let due = match self.look(socket, gate, look) {
                Some((account, most)) => account.ask(cost, most),
                // Where nothing counts, what content usually comes to is all there is.
                None => cost,
            };
            if due > 0 {
                return Leave::Pay(u32::try_from(due).unwrap_or(u32::MAX));
            }
        }
        Leave::Move(wanted.min(self.credit as usize))
    }

    fn moved(
        &mut self,
        facts: Option<&TcpFacts>,
        gate: &dyn Throttle,
        bytes: usize,
        counted: fn(&TcpFacts, u32) -> u64,
    ) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if gate.is_unlimited() {
            *self = Self::default();
        }
        self.credit = self.credit.saturating_sub(bytes);
        match (&mut self.counter, facts) {
            (Some(counter), Some(facts)) => {
                let counted = counted(facts, counter.headers);
                counter.count(counted, gate);
            }
            (Some(_), None) => {}
            (None, _) => gate.count(on_wire(bytes.into())),
        }
    }

    /// Looks at the counters, from the first time on that there is a limit: what came before is not its business.
    fn look(
        &mut self,
        socket: Option<BorrowedSocket<'_>>,
        gate: &dyn Throttle,
        look: impl FnOnce(&TcpFacts, u32) -> Seen,
    ) -> Option<(&mut Account, u64)> {
        let facts = socket.and_then(|socket| Some((socket, socket::facts(socket).ok()?)));
        let Some((socket, facts)) = facts else {
            self.counter = None;
            return None;
        };
        let seen = match &mut self.counter {
            Some(counter) => {
                let seen = look(&facts, counter.headers);
                counter.count(seen.counted, gate);
                seen
            }
            None => {
                let headers = socket::headers(socket).ok()?;
                let seen = look(&facts, headers);
                let account = Account::new(seen.counted);
                self.counter = Some(Counter { account, headers });
                seen
            }
        };
        let counter = self.counter.as_mut()?;
        Some((&mut counter.account, seen.most))
    }
}

impl Counter {
    fn count(&mut self, counted: u64, gate: &dyn Throttle) {
        let found = self.account.count(counted);
        if found.owed > 0 {
            gate.charge(found.owed);
        }
        if found.news > 0 {
            gate.count(found.news);
        }
    }
}

fn received(facts: &TcpFacts, headers: u32) -> u64 {
    facts.bytes_received + u64::from(facts.segments_received) * segment_headers(facts, headers)
}

fn sent(facts: &TcpFacts, headers: u32) -> u64 {
    facts.bytes_sent + u64::from(facts.segments_sent) * segment_headers(facts, headers)
}

fn segment_headers(facts: &TcpFacts, headers: u32) -> u64 {
    let options = if facts.timestamps { TIMESTAMPS } else { 0 };
    u64::from(headers + options)
}
