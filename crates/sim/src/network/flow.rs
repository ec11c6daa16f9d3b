//! One direction of a connection: its send buffer, and its bytes on their way.

use super::{Node, tcp::Window};
use crate::queue::Nanos;
use smallvec::SmallVec;
use std::collections::VecDeque;

/// A part of a flow on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    pub(super) start: u64,
    pub(super) pushed: Nanos,
    /// Once it has landed: when its acknowledgement reaches the sender.
    pub(super) acked: Nanos,
    pub(super) len: u32,
}

/// Cells of a flow on their way, in the order in which they were sent: first those that have landed, until their
/// acknowledgements have come; then those in the downlink's queue; then those in the uplink's queue or between the links.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    cells: SmallVec<[Cell; 3]>,
    landed: usize,
    landing: usize,
}

impl UnderWay {
    pub(super) fn send(&mut self, cell: Cell) {
        self.cells.push(cell);
    }

    fn any(&self, before: usize) -> Option<Cell> {
        self.cells.get(before).copied()
    }

    pub(super) fn first_in_air(&self) -> Option<Cell> {
        self.any(self.landed + self.landing)
    }

    pub(super) fn any_in_air(&self) -> bool {
        self.landed + self.landing < self.cells.len()
    }

    /// The first one in the air is in the downlink's queue.
    pub(super) fn arrive(&mut self) {
        self.landing += 1;
    }

    pub(super) fn first_landing(&self) -> Option<Cell> {
        self.any(self.landed).filter(|_| self.landing > 0)
    }

    /// The first one in the downlink's queue has landed; its acknowledgement comes at this time, and not before others.
    pub(super) fn land(&mut self, acked: Nanos) {
        let last = self.landed.checked_sub(1).map(|at| self.cells[at].acked);
        self.cells[self.landed].acked = last.map_or(acked, |last| last.max(acked));
        self.landed += 1;
        self.landing -= 1;
    }

    pub(super) fn first_landed(&self) -> Option<Cell> {
        self.any(0).filter(|_| self.landed > 0)
    }

    /// The acknowledgement of the first one that has landed is there.
    fn end_first(&mut self) {
        self.cells.remove(0);
        self.landed -= 1;
    }
}

/// What was lost. Most flows never lose anything.
#[derive(Debug, Default)]
struct Losses {
    /// What must be sent again.
    again: VecDeque<Cell>,
    /// Dropped, and the sender does not know yet.
    dropped: VecDeque<Cell>,
    /// Arrived behind a gap: where, and how many bytes.
    late: Vec<(u64, u32)>,
}

/// One direction of a connection. Five cache lines, and most have no others: few cells are under way at once.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Flow {
    pub(crate) from: Node,
    pub(crate) to: Node,
    /// Bytes that the sender has put into its send buffer, ever.
    pub(super) written: u64,
    /// Bytes of them that went into the uplink's queue once.
    pub(super) sent: u64,
    /// Bytes that arrived without a gap.
    pub(super) delivered: u64,
    /// Bytes between the uplink's queue and the acknowledgement.
    pub(super) in_flight: u64,
    /// Bytes that must be sent again.
    pub(super) lost_bytes: u64,
    losses: Option<Box<Losses>>,
    pub(super) under_way: UnderWay,
    pub(super) window: Window,
    /// When the last message alone arrives.
    pub(super) message_at: Nanos,
    /// Bytes that may be in the send buffer and not sent, as its owner asked.
    pub(crate) unsent_max: u64,
    /// Cells in the uplink's queue.
    pub(super) queued: u32,
    pub(super) open: bool,
    /// It will hear of an acknowledgement.
    pub(super) armed: bool,
    /// The sender has more to write than there was room for.
    pub(crate) starving: bool,
    /// The receiver lets this one fill its window.
    pub(crate) unshared: bool,
}

impl Flow {
    pub(super) fn new(from: Node, to: Node, window: Window) -> Self {
        const { assert!(size_of::<Self>() <= 320, "five cache lines") };
        Self {
            from,
            to,
            written: 0,
            sent: 0,
            delivered: 0,
            in_flight: 0,
            lost_bytes: 0,
            losses: None,
            under_way: UnderWay::default(),
            window,
            message_at: 0,
            unsent_max: u64::MAX,
            queued: 0,
            open: true,
            armed: false,
            starving: false,
            unshared: false,
        }
    }

    /// Bytes that arrived without a gap.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Bytes that were written.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    pub(super) fn unsent(&self) -> u64 {
        self.written - self.sent
    }

    /// Whether content is on its way.
    pub(super) fn is_active(&self) -> bool {
        self.open && !self.unshared && self.delivered < self.written
    }

    /// Takes in the acknowledgements that have come.
    pub(super) fn absorb(&mut self, now: Nanos) {
        while let Some(cell) = self.under_way.first_landed()
            && cell.acked <= now
        {
            self.under_way.end_first();
            let used = self.in_flight * 2 >= self.window.bytes();
            self.in_flight -= u64::from(cell.len);
            self.window
                .acknowledged(cell.len, cell.pushed, used, cell.acked);
        }
    }

    /// Bytes arrive: those that close a gap free what arrived behind it.
    pub(super) fn take(&mut self, start: u64, len: u32) {
        if start != self.delivered {
            self.losses.get_or_insert_default().late.push((start, len));
            return;
        }
        self.delivered += u64::from(len);
        let Some(losses) = &mut self.losses else {
            return;
        };
        while let Some(at) = losses.late.iter().position(|(s, _)| *s == self.delivered) {
            let (_, len) = losses.late.swap_remove(at);
            self.delivered += u64::from(len);
        }
    }

    /// The first cell in the air is lost.
    pub(super) fn drop_first_in_air(&mut self) {
        let at = self.under_way.landed + self.under_way.landing;
        let cell = self.under_way.cells.remove(at);
        let dropped = &mut self.losses.get_or_insert_default().dropped;
        dropped.push_back(cell);
    }

    /// The sender notices a loss: of what.
    pub(super) fn notice_loss(&mut self) -> Option<Cell> {
        let losses = self.losses.as_mut()?;
        let cell = losses.dropped.pop_front()?;
        losses.again.push_back(cell);
        self.in_flight -= u64::from(cell.len);
        self.lost_bytes += u64::from(cell.len);
        Some(cell)
    }

    /// What must be sent again first.
    pub(super) fn first_lost(&self) -> Option<Cell> {
        self.losses.as_ref()?.again.front().copied()
    }

    /// So many bytes of that are sent.
    pub(super) fn send_again(&mut self, len: u32) {
        let losses = self.losses.as_mut().expect("only what was lost");
        let first = losses.again.front_mut().expect("only what was lost");
        self.lost_bytes -= u64::from(len);
        first.start += u64::from(len);
        first.len -= len;
        if first.len == 0 {
            losses.again.pop_front();
        }
    }

    /// Nothing of it is on its way any more.
    pub(super) fn forget(&mut self) {
        self.under_way = UnderWay::default();
        self.losses = None;
    }
}
