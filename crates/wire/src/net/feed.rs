//! Blocks that are passed on while they arrive.
//!
//! Whoever fills a block's buffer says after each step what is there ([`Feeds::arrived`]), and copies go to those who
//! opened a [`Feed`] of it. The last [`RELAY_HELD`] bytes never do: they come from the file once the piece is verified.

use crate::limits::{RELAY_HELD, RELAY_PART_MIN};
use bytes::Bytes;
use dosvc_content::Block;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

/// The feeds of one content, shared by all of its sources. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Feeds(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// How many there are: mostly none, which must cost nothing where blocks arrive.
    open: AtomicUsize,
    sinks: Mutex<Vec<Sink>>,
}

#[derive(Debug)]
struct Sink {
    source: u32,
    block: Block,
    /// Bytes that were passed on.
    passed: usize,
    to: mpsc::UnboundedSender<Bytes>,
}

/// What there is of a block, as it arrives; all in all no more than the block less [`RELAY_HELD`].
#[derive(Debug)]
pub struct Feed(mpsc::UnboundedReceiver<Bytes>);

impl Feed {
    /// The bytes that come next. `None`: no more will.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        self.0.recv().await
    }
}

impl Feeds {
    /// From now on gives what arrives of this block from this source (as it is called in events), and what is here
    /// already, with the next byte that arrives.
    pub fn open(&self, source: u32, block: Block) -> Feed {
        let (to, feed) = mpsc::unbounded_channel();
        let mut sinks = self.sinks();
        sinks.push(Sink {
            source,
            block,
            passed: 0,
            to,
        });
        self.0.open.store(sinks.len(), Ordering::Release);
        Feed(feed)
    }

    /// The bytes of the block from its beginning that are here by now.
    pub fn arrived(&self, source: u32, block: Block, bytes: &[u8]) {
        if self.0.open.load(Ordering::Acquire) == 0 {
            return;
        }
        let end = (block.len() as usize).saturating_sub(RELAY_HELD as usize);
        let ready = &bytes[..bytes.len().min(end)];
        let mut sinks = self.sinks();
        sinks.retain_mut(|sink| {
            if (sink.source, sink.block) != (source, block) {
                // Who gave up listening is forgotten all the same.
                return !sink.to.is_closed();
            }
            let fresh = &ready[sink.passed.min(ready.len())..];
            if fresh.len() >= RELAY_PART_MIN as usize || ready.len() == end {
                sink.passed = ready.len();
                let heard = fresh.is_empty() || sink.to.send(Bytes::copy_from_slice(fresh)).is_ok();
                return heard && sink.passed < end;
            }
            true
        });
        self.0.open.store(sinks.len(), Ordering::Release);
    }

    /// Nothing of this block comes from this source any more.
    pub fn close(&self, source: u32, block: Block) {
        let mut sinks = self.sinks();
        sinks.retain(|sink| (sink.source, sink.block) != (source, block));
        self.0.open.store(sinks.len(), Ordering::Release);
    }

    fn sinks(&self) -> MutexGuard<'_, Vec<Sink>> {
        // Nothing is done under the lock that could leave it half done.
        self.0.sinks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dosvc_content::PieceLengths;

    const LEN: usize = 1 << 20;

    fn block() -> Block {
        let lengths = PieceLengths::new(4 << 20, 1 << 20).expect("valid");
        lengths.block(2, 0, 1 << 20).expect("inside")
    }

    fn taken(feed: &mut Feed) -> Vec<u8> {
        let mut all = Vec::new();
        while let Ok(bytes) = feed.0.try_recv() {
            all.extend_from_slice(&bytes);
        }
        all
    }

    #[test]
    fn what_arrives_is_passed_on_but_for_its_end() {
        let bytes: Vec<u8> = (0..=250).cycle().take(LEN).collect();
        let feeds = Feeds::default();
        let mut early = feeds.open(1, block());
        let mut other = feeds.open(2, block());
        let mut all = Vec::new();
        let mut late = None;
        for filled in (0..=LEN).step_by(10_000).chain([LEN]) {
            if filled == 500_000 {
                late = Some(feeds.open(1, block()));
            }
            feeds.arrived(1, block(), &bytes[..filled]);
            all.extend(taken(&mut early));
            assert!(
                all.len() <= filled
                    && all.len() + (2 * RELAY_PART_MIN + RELAY_HELD) as usize > filled
            );
        }
        let held = LEN - RELAY_HELD as usize;
        assert_eq!(all, bytes[..held]);
        assert_eq!(taken(&mut late.expect("opened")), bytes[..held]);
        assert!(taken(&mut other).is_empty(), "nothing came from there");
        assert!(matches!(
            early.0.try_recv(),
            Err(mpsc::error::TryRecvError::Disconnected)
        ));
        assert_eq!(feeds.sinks().len(), 1);
        feeds.close(2, block());
        assert!(feeds.sinks().is_empty());
    }

    #[test]
    fn who_has_gone_is_forgotten() {
        let feeds = Feeds::default();
        drop(feeds.open(1, block()));
        drop(feeds.open(2, block()));
        feeds.arrived(1, block(), &vec![0; LEN / 2]);
        assert!(feeds.sinks().is_empty());
    }
}
