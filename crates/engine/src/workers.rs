//! Threads for disk work: as many at once as there may be hashing threads, the rest in order of arrival.
//!
//! Pieces that wait are taken together, because several are hashed at once for less than one after the other
//! ([`PieceHash::of_each`]). So a thread is not started for each piece: one works alone until a whole batch waits
//! behind it, and a thread beside others does not take less than what is worth hashing together; whoever is done next
//! finds more. Under load there are few threads with full batches, and nothing waits for a batch to fill when nobody
//! works.

use crate::shared::lock;
use dosvc_content::PieceHash;
use dosvc_piece_store::{Accepted, Arrival, StoreError, accept_pieces};
use dosvc_wire::net::BlockBuf;
use std::{
    collections::VecDeque,
    fmt,
    num::NonZeroUsize,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Mutex},
    thread,
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
    /// As many as can be.
    full: usize,
    /// From as many on it is faster than one by one.
    worth: usize,
}

/// A bound on what runs of the blocking pool. What waits is bounded by who asks: blocks by the buffers that hold them,
/// pieces that are read back by a few for each swarm.
pub(crate) struct Workers {
    max: usize,
    /// Pieces that are taken together.
    batch: Batch,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: usize,
    waiting: VecDeque<Work>,
}

impl Workers {
    /// `max`: threads at once; `None`: one for each processor.
    pub(crate) fn new(max: Option<NonZeroUsize>) -> Self {
        let batch = Batch {
            full: PieceHash::at_once(),
            worth: PieceHash::worth_at_once(),
        };
        Self::with_batches(max, batch)
    }

    fn with_batches(max: Option<NonZeroUsize>, batch: Batch) -> Self {
        let processors = || thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self {
            max: max.unwrap_or_else(processors).get(),
            batch,
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
            let may_wait = matches!(work, Work::Piece(_));
            state.waiting.push_back(work);
            let is_enough = may_wait && state.running > 0 && state.waiting.len() < self.batch.full;
            if is_enough || state.running == self.max {
                return;
            }
            state.running += 1;
        }
        let workers = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            while let Some(turn) = workers.next() {
                // Work that panics must not take the place of a thread with it; the panic was printed.
                let _ = panic::catch_unwind(AssertUnwindSafe(|| turn.take()));
            }
        });
    }

    /// The next work for one of those that run, which ends when there is none for it.
    fn next(&self) -> Option<Turn> {
        let mut state = lock(&self.state);
        if state.running > 1 && state.are_few_pieces(self.batch.worth) {
            // Somebody who is done later takes them, with those that come until then.
            state.running -= 1;
            return None;
        }
        match state.waiting.pop_front() {
            None => {
                state.running -= 1;
                None
            }
            Some(Work::Other(work)) => Some(Turn::Other(work)),
            Some(Work::Piece(first)) => {
                let mut pieces = vec![first];
                while pieces.len() < self.batch.full {
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
