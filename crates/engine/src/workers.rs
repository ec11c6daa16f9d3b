//! Threads for disk work: as many jobs at once as there may be hashing threads, the others in order of arrival.

use crate::shared::lock;
use std::{
    collections::VecDeque,
    fmt,
    num::NonZeroUsize,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Mutex},
    thread,
};

type Work = Box<dyn FnOnce() + Send>;

/// A bound on what runs of the blocking pool. What waits is bounded by who asks: blocks by the buffers that hold them,
/// pieces that are read back by a few for each swarm.
pub(crate) struct Workers {
    max: usize,
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
        let processors = || thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self {
            max: max.unwrap_or_else(processors).get(),
            state: Mutex::default(),
        }
    }

    /// Does the work on a thread of the runtime's blocking pool, as soon as it is its turn.
    pub(crate) fn run(self: &Arc<Self>, work: impl FnOnce() + Send + 'static) {
        {
            let mut state = lock(&self.state);
            state.waiting.push_back(Box::new(work));
            if state.running == self.max {
                return;
            }
            state.running += 1;
        }
        let workers = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            while let Some(work) = workers.next() {
                // Work that panics must not take the place of a thread with it; the panic was printed.
                let _ = panic::catch_unwind(AssertUnwindSafe(work));
            }
        });
    }

    /// The next work for one of those that run, which ends when there is none.
    fn next(&self) -> Option<Work> {
        let mut state = lock(&self.state);
        let next = state.waiting.pop_front();
        if next.is_none() {
            state.running -= 1;
        }
        next
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").field("max", &self.max).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn no_more_run_at_once_than_may_and_all_are_done() {
        let workers = Arc::new(Workers::new(NonZeroUsize::new(3)));
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (done, mut all_done) = mpsc::channel(1000);
        for n in 0..200 {
            let (running, most, done) = (running.clone(), most.clone(), done.clone());
            workers.run(move || {
                let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                thread::sleep(Duration::from_micros(200));
                running.fetch_sub(1, Ordering::SeqCst);
                done.blocking_send(n).expect("somebody counts");
                assert!(n != 50, "work may panic");
            });
        }
        drop(done);
        let mut count = 0;
        while all_done.recv().await.is_some() {
            count += 1;
        }
        assert_eq!(count, 200);
        assert!((1..=3).contains(&most.load(Ordering::SeqCst)), "{most:?}");
    }
}
