//! HTTP sources of a swarm: one task per fetch, which turns a response body into blocks.

use crate::{bandwidth::HttpGate, limiter::SwarmPriority, shared::Shared};
use dosvc_content::{Block, PieceIndex, PieceLengths};
use dosvc_origin::{Origin, OriginError};
use dosvc_scheduler::{FetchId, SourceKind};
use dosvc_wire::net::{BlockBuf, BlockPool, Feeds};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, time::timeout};

/// What a fetch tells its swarm.
#[derive(Debug)]
pub(super) enum HttpEvent {
    /// The server sends the whole content whatever range is asked.
    NoRanges,
    /// `bytes` more of the block arrived, `here` in all, that do not make it whole yet. None: more is there, and waits
    /// for our own limit.
    Progress { block: Block, bytes: u32, here: u32 },
    /// A whole block is here; `news` bytes of it have not been reported before.
    Block {
        block: Block,
        data: BlockBuf,
        news: u32,
    },
    /// The fetch is over; always the last event of its fetch.
    Ended(Result<(), OriginError>),
}

/// A fetch's place in its swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FetchKey {
    pub(super) source: u32,
    pub(super) kind: SourceKind,
    pub(super) fetch: FetchId,
}

/// What a fetch needs.
pub(super) struct Fetch {
    pub(super) key: FetchKey,
    pub(super) origin: Origin,
    pub(super) lengths: PieceLengths,
    pub(super) first: PieceIndex,
    pub(super) count: u32,
    pub(super) pool: BlockPool,
    pub(super) feeds: Feeds,
    pub(super) priority: SwarmPriority,
    pub(super) shared: Arc<Shared>,
    pub(super) events: mpsc::Sender<(FetchKey, HttpEvent)>,
}

/// Bytes between two progress reports …
const PROGRESS_BYTES: u32 = 128 << 10;
/// … unless so much time has passed: who sends slowly does send.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// How often a fetch says that it waits for our own limit.
const HELD_INTERVAL: Duration = Duration::from_secs(1);

impl Fetch {
    /// Runs the fetch to its end. Dropping the future ends it too (nothing is reported then).
    pub(super) async fn run(self) {
        let result = self.transfer().await;
        let _ = self.events.send((self.key, HttpEvent::Ended(result))).await;
    }

    async fn transfer(&self) -> Result<(), OriginError> {
        let start = self.lengths.offset(self.first);
        let last = self.first.get() + self.count - 1;
        let last = self.lengths.piece(last).unwrap_or(self.first);
        let end = self.lengths.offset(last) + u64::from(self.lengths.len(last));
        self.origin.set_background(!self.priority.is_foreground());
        let mut body = self.origin.fetch(start..end).await?;
        // The swarm's priority may change meanwhile: its own gate follows.
        body.limit(Arc::new(HttpGate::new(
            &self.shared,
            self.priority.clone(),
            body.server().map(|server| server.ip()),
        )));
        let mut pieces = (self.first.get()..=last.get()).filter_map(|i| self.lengths.piece(i));
        let mut all = self.lengths.pieces();
        let whole = body.whole;
        if whole {
            self.send(HttpEvent::NoRanges).await;
        }
        let mut rest = bytes::Bytes::new();
        let next = || if whole { all.next() } else { pieces.next() };
        for piece in std::iter::from_fn(next) {
            for block in self.lengths.blocks(piece) {
                let mut data = self.pool.acquire(block.len() as usize).await;
                let mut filled = 0;
                let mut reported = 0;
                let mut reported_at = Instant::now();
                while filled < data.len() {
                    let mut is_due = false;
                    if rest.is_empty() {
                        // The body ends with an error when it is short, so `None` cannot come here early.
                        match timeout(HELD_INTERVAL, body.chunk()).await {
                            Ok(Ok(Some(chunk))) => rest = chunk,
                            Ok(Ok(None)) => return Ok(()),
                            Ok(Err(error)) => return Err(error),
                            Err(_) => is_due = body.is_held(),
                        }
                    }
                    let n = rest.len().min(data.len() - filled);
                    data[filled..filled + n].copy_from_slice(&rest.split_to(n));
                    filled += n;
                    self.feeds.arrived(self.key.source, block, &data[..filled]);
                    let news = count(filled - reported);
                    is_due |= news >= PROGRESS_BYTES
                        || news > 0 && reported_at.elapsed() >= PROGRESS_INTERVAL;
                    if is_due && filled < data.len() {
                        reported = filled;
                        reported_at = Instant::now();
                        let progress = HttpEvent::Progress {
                            block,
                            bytes: news,
                            here: count(filled),
                        };
                        self.send(progress).await;
                    }
                }
                let news = count(data.len() - reported);
                self.send(HttpEvent::Block { block, data, news }).await;
            }
        }
        // Reading to the end lets the connection be used again, and finds a body that is too long.
        while body.chunk().await?.is_some() {}
        Ok(())
    }

    async fn send(&self, event: HttpEvent) {
        // A swarm that has ended needs no events.
        let _ = self.events.send((self.key, event)).await;
    }
}

/// Bytes of a block.
fn count(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
