//! Pooled buffers for blocks.
//!
//! All buffers of a pool are parts of one piece of memory that is made when the first is asked for: the system gives
//! its pages as they are first written to, and takes all of them back at once when the pool is told to shrink. Buffers
//! of their own would be left in the allocator's heap, between whatever else lives there, for the rest of the
//! process's life. A buffer goes from hand to hand with whatever was in it.

use bytes::BytesMut;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// From this size on, glibc's allocator gives a piece of memory straight back to the system, whatever was freed before.
/// What of it is never touched costs nothing.
const OWN_MAPPING_BYTES: usize = (32 << 20) + 1;

/// A bounded set of buffers of one size. Clones share it.
#[derive(Clone)]
pub struct BlockPool {
    shared: Arc<Shared>,
    /// Bounds what this one and its clones may have out, beside the bound of the whole.
    share: Option<Arc<Semaphore>>,
}

struct Shared {
    block_len_max: usize,
    buffers_max: usize,
    permits: Arc<Semaphore>,
    spare: Mutex<Spare>,
}

#[derive(Default)]
struct Spare {
    /// The most recently used one is taken first: it may still be in the processor's cache, and what a small load
    /// never needs is never touched.
    buffers: Vec<BytesMut>,
    /// The memory is to go when the last buffer is back.
    shrink: bool,
}

impl Shared {
    fn spare(&self) -> MutexGuard<'_, Spare> {
        // Nothing is done under the lock that could leave it half done.
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All buffers, in memory of their own.
    fn make(&self) -> Vec<BytesMut> {
        let bytes = self.block_len_max * self.buffers_max;
        let mut memory = BytesMut::zeroed(bytes.max(OWN_MAPPING_BYTES));
        (0..self.buffers_max)
            .map(|_| memory.split_to(self.block_len_max))
            .collect()
    }
}

impl BlockPool {
    /// A pool of at most `buffers_max` buffers for blocks of up to `block_len_max` bytes. No memory is taken yet; the
    /// most that it will hold is the product.
    pub fn new(block_len_max: usize, buffers_max: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                block_len_max,
                buffers_max,
                permits: Arc::new(Semaphore::new(buffers_max)),
                spare: Mutex::default(),
            }),
            share: None,
        }
    }

    /// The same pool for somebody who may have at most `buffers_max` of its buffers out at a time. So one fast user
    /// neither takes all of them nor makes the pool touch more memory than it needs to stay fast.
    #[must_use]
    pub fn share(&self, buffers_max: usize) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            share: Some(Arc::new(Semaphore::new(buffers_max))),
        }
    }

    /// The longest block, in bytes.
    pub fn block_len_max(&self) -> usize {
        self.shared.block_len_max
    }

    /// Buffers in use now.
    pub fn in_use(&self) -> usize {
        self.shared.buffers_max - self.shared.permits.available_permits()
    }

    /// Whether all buffers are in use: who needs another one waits.
    pub fn is_exhausted(&self) -> bool {
        self.shared.permits.available_permits() == 0
    }

    /// A buffer of `len` bytes with arbitrary content. Waits, in order, while all are out.
    ///
    /// # Panics
    /// When `len` is past [`Self::block_len_max`]: a mistake of the caller.
    pub async fn acquire(&self, len: usize) -> BlockBuf {
        assert!(len <= self.shared.block_len_max, "block of {len} bytes");
        let share = match &self.share {
            Some(share) => Some(permit_of(share).await),
            None => None,
        };
        let permit = permit_of(&self.shared.permits).await;
        let mut spare = self.shared.spare();
        spare.shrink = false;
        if spare.buffers.is_empty() {
            // With a permit in hand, none being here means that there is no memory yet.
            spare.buffers = self.shared.make();
        }
        let data = spare.buffers.pop().expect("as many as there are permits");
        drop(spare);
        BlockBuf {
            data,
            len,
            shared: Arc::clone(&self.shared),
            permit: Some(permit),
            _share: share,
        }
    }

    /// Gives the memory back: now, or when the last buffer in use comes back, unless more are asked for before.
    pub fn shrink(&self) {
        let mut spare = self.shared.spare();
        spare.shrink = true;
        let memory = spare.take_if_done(self.shared.buffers_max);
        drop(spare);
        drop(memory);
    }
}

impl Spare {
    /// All buffers, if they are to go and nobody uses one.
    fn take_if_done(&mut self, buffers_max: usize) -> Vec<BytesMut> {
        if self.shrink && self.buffers.len() == buffers_max {
            std::mem::take(&mut self.buffers)
        } else {
            Vec::new()
        }
    }
}

impl fmt::Debug for BlockPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockPool")
            .field("block_len_max", &self.shared.block_len_max)
            .field("buffers_max", &self.shared.buffers_max)
            .field("in_use", &self.in_use())
            .finish()
    }
}

/// The bytes of one block, in a buffer of a [`BlockPool`] that goes back when this is dropped.
pub struct BlockBuf {
    data: BytesMut,
    len: usize,
    shared: Arc<Shared>,
    permit: Option<OwnedSemaphorePermit>,
    _share: Option<OwnedSemaphorePermit>,
}

async fn permit_of(semaphore: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(semaphore)
        .acquire_owned()
        .await
        .expect("never closed")
}

impl Deref for BlockBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.data[..self.len]
    }
}

impl DerefMut for BlockBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.data[..self.len]
    }
}

impl AsRef<[u8]> for BlockBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for BlockBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockBuf({} bytes)", self.len)
    }
}

impl Drop for BlockBuf {
    fn drop(&mut self) {
        // The buffer is back before its permit is, so whoever waits for one finds it.
        let mut spare = self.shared.spare();
        spare.buffers.push(std::mem::take(&mut self.data));
        self.permit = None;
        let memory = spare.take_if_done(self.shared.buffers_max);
        drop(spare);
        drop(memory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_buffer_is_used_again_and_waited_for() {
        let pool = BlockPool::new(1 << 16, 1);
        let mut first = pool.acquire(10).await;
        first.fill(7);
        assert_eq!((first.len(), pool.in_use()), (10, 1));
        assert!(pool.is_exhausted());
        let second = tokio::spawn({
            let pool = pool.clone();
            async move { pool.acquire(20).await }
        });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        let second = second.await.expect("no panic");
        assert_eq!(second[..10], [7; 10], "not zeroed between uses");
        assert_eq!(second.len(), 20);
        drop(second);
        assert_eq!(pool.in_use(), 0);
        assert!(!pool.is_exhausted());
    }

    #[tokio::test]
    async fn a_share_is_a_bound_of_its_own() {
        let pool = BlockPool::new(1 << 16, 3);
        let share = pool.share(1);
        let first = share.acquire(1).await;
        let second = tokio::spawn({
            let share = share.clone();
            async move { share.acquire(1).await }
        });
        tokio::task::yield_now().await;
        assert!(!second.is_finished(), "its share is out");
        let others = [pool.acquire(1).await, pool.share(1).acquire(1).await];
        drop(first);
        drop(second.await.expect("no panic"));
        assert_eq!(pool.in_use(), 2);
        drop(others);
        assert_eq!(pool.in_use(), 0);
    }

    #[tokio::test]
    async fn memory_goes_when_the_last_buffer_is_back_if_it_is_to() {
        let pool = BlockPool::new(1 << 16, 4);
        let spares = |pool: &BlockPool| pool.shared.spare().buffers.len();
        assert_eq!(spares(&pool), 0, "none before the first is asked for");
        let first = pool.acquire(1).await;
        let second = pool.acquire(1).await;
        drop(first);
        assert_eq!(spares(&pool), 3, "kept for the next");
        pool.shrink();
        assert_eq!(spares(&pool), 3, "one is in use");
        drop(second);
        assert_eq!(spares(&pool), 0);

        let third = pool.acquire(1).await;
        pool.shrink();
        let fourth = pool.acquire(1).await;
        drop((third, fourth));
        assert_eq!(spares(&pool), 4, "in use again since");
        pool.shrink();
        assert_eq!(spares(&pool), 0);
    }
}
