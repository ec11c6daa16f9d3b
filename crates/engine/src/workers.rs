//! Threads for disk work: as many at once as there may be hashing threads, the rest in order of arrival.
//!
//! Pieces that wait are taken together, because several are hashed at once for less than one after the other
//! ([`PieceHash::of_each`]). So a thread is not started for each piece: one works alone until a whole batch waits
//! behind it, and a thread beside others does not take less than what is worth hashing together; whoever is done next
//! finds more. Under load there are few threads with full batches. When nobody works, pieces wait for a batch to fill only
//! where that takes no time, or on a machine that is busy with other things, and not for long ([`company`]).

mod company;

use crate::shared::lock;
use company::Company;
use dosvc_content::PieceHash;
use dosvc_piece_store::{Accepted, Arrival, StoreError, accept_pieces, processor_time};
use dosvc_wire::net::{BlockBuf, BlockPool};
use std::{
    collections::VecDeque,
    fmt,
    num::NonZeroUsize,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Mutex},
    thread,
    time::Instant,
};

/// A whole piece to be hashed, and written if it is good.
pub(crate) struct ArrivedPiece {
    pub(crate) arrival: Arrival<BlockBuf>,
    /// Hears what became of it.
    pub(crate) done: Box<dyn FnOnce(Result<Accepted, StoreError>) + Send>,
}

enum Work {
    Piece(ArrivedPiece),
    Other(Box<dyn FnOnce() + Send>),
}

/// What a thread does before it looks at the queue again.
enum Turn {
    Pieces(Vec<ArrivedPiece>),
    Other(Box<dyn FnOnce() + Send>),
}

/// How many pieces are hashed together.
#[derive(Clone, Copy, Debug)]
struct Batch {
    /// As many as can be. Half of them take two thirds of their time.
    full: usize,
    /// From as many on a full batch is faster than half a one and the rest one by one.
    worth_full: usize,
    /// From as many on it is faster than one by one.
    worth: usize,
}

impl Batch {
    fn half(self) -> usize {
        self.full.div_ceil(2)
    }

    /// How many of so many are best taken at a time.
    fn best_of(self, waiting: usize) -> usize {
        if waiting < self.worth_full {
            self.half()
        } else {
            self.full
        }
    }
}

/// A bound on what runs of the blocking pool. What waits is bounded by who asks: blocks by the buffers that hold them,
/// pieces that are read back by a few for each swarm.
pub(crate) struct Workers {
    max: usize,
    /// Pieces that are taken together.
    batch: Batch,
    /// Where the bytes of pieces lie.
    pool: BlockPool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: usize,
    waiting: VecDeque<Work>,
    company: Company,
    /// Pieces wait for company, with nobody at work; the number tells one such time from another.
    gathering: Option<u64>,
    gatherings: u64,
    /// What waits has waited long enough.
    is_due: bool,
}

impl Workers {
    /// `max`: threads at once; `None`: one for each processor. `pool`: where pieces come from.
    pub(crate) fn new(max: Option<NonZeroUsize>, pool: BlockPool) -> Self {
        let batch = Batch {
            full: PieceHash::at_once(),
            worth_full: PieceHash::worth_all_at_once(),
            worth: PieceHash::worth_at_once(),
        };
        Self::with_batches(max, batch, pool)
    }

    fn with_batches(max: Option<NonZeroUsize>, batch: Batch, pool: BlockPool) -> Self {
        let processors = || thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self {
            max: max.unwrap_or_else(processors).get(),
            batch,
            pool,
            state: Mutex::default(),
        }
    }

    /// Does the work on a thread of the runtime's blocking pool, as soon as it is its turn.
    pub(crate) fn run(self: &Arc<Self>, work: impl FnOnce() + Send + 'static) {
        self.add(Work::Other(Box::new(work)));
    }

    /// Hashes a piece and writes it, as soon as it is its turn.
    pub(crate) fn accept(self: &Arc<Self>, piece: ArrivedPiece) {
        self.add(Work::Piece(piece));
    }

    fn add(self: &Arc<Self>, work: Work) {
        {
            let mut state = lock(&self.state);
            let is_piece = matches!(work, Work::Piece(_));
            state.waiting.push_back(work);
            if is_piece {
                state.company.came(Instant::now());
                let wanted = state.company.wanted(self.batch);
                if state.waiting.len() < wanted && (state.running > 0 || self.gathers(&mut state)) {
                    return;
                }
            }
            if state.running == self.max {
                return;
            }
            state.running += 1;
        }
        self.start();
    }

    /// A thread for one that was counted as running.
    fn start(self: &Arc<Self>) {
        let workers = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            while let Some(turn) = workers.next() {
                let is_batch = matches!(turn, Turn::Pieces(_));
                let (begun, before) = (Instant::now(), processor_time());
                // Work that panics must not take the place of a thread with it; the panic was printed.
                let _ = panic::catch_unwind(AssertUnwindSafe(|| turn.take()));
                if is_batch {
                    let processor = processor_time().saturating_sub(before);
                    lock(&workers.state)
                        .company
                        .worked(begun.elapsed(), processor);
                }
            }
        });
    }

    /// Whether what waits is left alone for now, with nobody at work, because it is to be hashed together with what
    /// comes soon. Somebody comes back for it then.
    fn gathers(self: &Arc<Self>, state: &mut State) -> bool {
        let waiting = state.waiting.len();
        // Without a buffer nothing more can come.
        if waiting == 0
            || state.is_due
            || self.pool.is_exhausted()
            || !state.are_few_pieces(state.company.wanted(self.batch))
        {
            return false;
        }
        if state.gathering.is_some() {
            return true;
        }
        let Some(wait) = state.company.wait(waiting, self.batch) else {
            return false;
        };
        state.gatherings += 1;
        let number = state.gatherings;
        state.gathering = Some(number);
        let workers = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            workers.end_gathering(number);
        });
        true
    }

    /// What has waited for company waits no longer, if it is still there.
    fn end_gathering(self: &Arc<Self>, number: u64) {
        {
            let mut state = lock(&self.state);
            if state.gathering != Some(number) {
                return;
            }
            state.gathering = None;
            state.is_due = true;
            if state.running > 0 {
                // Whoever it is takes them next.
                return;
            }
            state.running += 1;
        }
        self.start();
    }

    /// The next work for one of those that run, which ends when there is none for it.
    fn next(self: &Arc<Self>) -> Option<Turn> {
        let mut state = lock(&self.state);
        let leaves = if state.running > 1 {
            // Somebody who is done later takes them, with those that come until then.
            state.are_few_pieces(self.batch.worth)
        } else {
            self.gathers(&mut state)
        };
        if leaves {
            state.running -= 1;
            return None;
        }
        let best = self.batch.best_of(state.waiting.len());
        match state.waiting.pop_front() {
            None => {
                state.running -= 1;
                None
            }
            Some(Work::Other(work)) => Some(Turn::Other(work)),
            Some(Work::Piece(first)) => {
                state.is_due = false;
                state.gathering = None;
                let mut pieces = vec![first];
                while pieces.len() < best {
                    match state.waiting.pop_front() {
                        Some(Work::Piece(piece)) => pieces.push(piece),
                        Some(other) => {
                            state.waiting.push_front(other);
                            break;
                        }
                        None => break,
                    }
                }
                Some(Turn::Pieces(pieces))
            }
        }
    }
}

impl State {
    /// Whether nothing waits but pieces, and those are fewer than are worth hashing together.
    fn are_few_pieces(&self, worth: usize) -> bool {
        let is_piece = |work: &Work| matches!(work, Work::Piece(_));
        self.waiting.len() < worth && self.waiting.iter().all(is_piece)
    }
}

impl Turn {
    fn take(self) {
        match self {
            Self::Other(work) => work(),
            Self::Pieces(pieces) => accept(pieces),
        }
    }
}

fn accept(pieces: Vec<ArrivedPiece>) {
    let (arrivals, mut heirs): (Vec<_>, Vec<_>) = pieces
        .into_iter()
        .map(|p| (p.arrival, Some(p.done)))
        .unzip();
    accept_pieces(arrivals, |number, accepted| {
        if let Some(done) = heirs[number].take() {
            done(accepted);
        }
    });
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").field("max", &self.max).finish()
    }
}

#[cfg(test)]
mod tests;
