//! Pooled buffers for blocks.
//!
//! A buffer is zeroed once, when it is made; after that it goes from hand to hand with whatever was in it.
//! While blocks move, all buffers that come back are kept; when the last one comes back only a few stay.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Buffers that stay when none is in use.
const SPARE_IDLE: usize = 4;

/// A bounded set of buffers of one size. Clones share it.
#[derive(Clone)]
pub struct BlockPool {
    shared: Arc<Shared>,
}

struct Shared {
    block_len_max: usize,
    buffers_max: usize,
    permits: Arc<Semaphore>,
    /// The most recently used one is taken first: it may still be in the processor's cache.
    spare: Mutex<Vec<Vec<u8>>>,
}

impl Shared {
    fn spare(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        // Nothing is done under the lock that could leave it half done.
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlockPool {
    /// A pool of at most `buffers_max` buffers for blocks of up to `block_len_max` bytes. No buffer is made
    /// yet; the most memory it will hold is the product.
    pub fn new(block_len_max: usize, buffers_max: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                block_len_max,
                buffers_max,
                permits: Arc::new(Semaphore::new(buffers_max)),
                spare: Mutex::new(Vec::new()),
            }),
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

    /// A buffer of `len` bytes with arbitrary content. Waits, in order, while all are out.
    ///
    /// # Panics
    /// When `len` is past [`Self::block_len_max`]: a mistake of the caller.
    pub async fn acquire(&self, len: usize) -> BlockBuf {
        assert!(len <= self.shared.block_len_max, "block of {len} bytes");
        let permit = Arc::clone(&self.shared.permits)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let spare = self.shared.spare().pop();
        BlockBuf {
            data: spare.unwrap_or_else(|| vec![0; self.shared.block_len_max]),
            len,
            shared: Arc::clone(&self.shared),
            permit: Some(permit),
        }
    }

    /// Gives the memory of all spare buffers back.
    pub fn shrink(&self) {
        let spare = std::mem::take(&mut *self.shared.spare());
        drop(spare);
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
    data: Vec<u8>,
    len: usize,
    shared: Arc<Shared>,
    permit: Option<OwnedSemaphorePermit>,
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
        spare.push(std::mem::take(&mut self.data));
        self.permit = None;
        if self.shared.permits.available_permits() == self.shared.buffers_max
            && spare.len() > SPARE_IDLE
        {
            let surplus = spare.split_off(SPARE_IDLE);
            drop(spare);
            drop(surplus);
        }
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
    }

    #[tokio::test]
    async fn an_idle_pool_keeps_few_buffers_and_none_when_shrunk() {
        let pool = BlockPool::new(1 << 16, 32);
        let mut bufs = Vec::new();
        for _ in 0..32 {
            bufs.push(pool.acquire(1).await);
        }
        bufs.truncate(1);
        assert_eq!(pool.shared.spare().len(), 31, "kept while one is in use");
        drop(bufs);
        assert_eq!(pool.shared.spare().len(), SPARE_IDLE);
        pool.shrink();
        assert_eq!(pool.shared.spare().len(), 0);
    }
}
