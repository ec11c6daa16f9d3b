//! The receiving loop.

use super::{Driver, OUTBOX_MAX, lost, tally::Tally};
use crate::codec::Header;
use crate::connection::Payload;
use crate::extension::EXTENSION_PREFIX_LEN;
use crate::net::{BlockBuf, CloseReason, Event, ReadHalf};
use dosvc_content::Block;
use dosvc_polite::{Intake, Leave};
use std::future::Future;
use std::io;
use std::pin::pin;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// Bytes read at once where messages are expected. What of a block lands here is copied once more, so it is
/// short against a block.
const INBOX_LEN: usize = 2048;

/// A block's progress is told after this many bytes, but not so soon: a fast block is here before anybody could act on
/// a part of it, and each telling wakes the swarm.
const PROGRESS_BYTES: u32 = 128 << 10;
const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(20);
/// However few they are, bytes are told after this long.
const PROGRESS_INTERVAL_MAX: Duration = Duration::from_millis(100);
/// How often a block that is there and waits for the rate limit tells that it has not fallen silent.
const HELD_INTERVAL: Duration = Duration::from_secs(1);
/// Once so many are here, the block may be passed on: that is told the sooner, ...
const RELAY_BYTES: u32 = 64 << 10;
/// ... if the block is not as fast as to be here before anybody would have asked for it.
const RELAY_INTERVAL: Duration = Duration::from_millis(2);

impl Driver {
    pub(super) async fn read_loop(&self, half: impl ReadHalf) -> CloseReason {
        let mut reader = Reader {
            driver: self,
            half,
            inbox: Box::new([0; INBOX_LEN]),
            start: 0,
            end: 0,
            partial: None,
            intake: Intake::default(),
            tally: Tally::default(),
        };
        reader.half.set_rate(self.params.down.rate());
        loop {
            if let Err(reason) = reader.read_message().await {
                return reason;
            }
        }
    }

    /// Waits for something of our own; the peer's silence does not count meanwhile.
    async fn hold_receive<T>(&self, wait: impl Future<Output = T>) -> T {
        let hold = |held| {
            let mut state = self.state();
            state.connection.hold_receive(Instant::now(), held);
        };
        hold(true);
        let value = wait.await;
        hold(false);
        value
    }

    async fn wait_for_room(&self) {
        while self.state().outbox.len() >= OUTBOX_MAX {
            self.hold_receive(self.outbox_room.notified()).await;
        }
    }
}

struct Reader<'a, R> {
    driver: &'a Driver,
    half: R,
    inbox: Box<[u8; INBOX_LEN]>,
    /// The inbox holds bytes not looked at yet in `start..end`.
    start: usize,
    end: usize,
    /// The block of which a part is here.
    partial: Option<Partial>,
    /// What the rate limit lets in.
    intake: Intake,
    tally: Tally,
}

struct Partial {
    data: BlockBuf,
    filled: usize,
    progress: Progress,
}

impl Partial {
    /// Waits for a buffer.
    async fn begin(driver: &Driver, block: Block) -> Self {
        let buffer = driver.params.pool.acquire(block.len() as usize);
        Self {
            data: driver.hold_receive(buffer).await,
            filled: 0,
            progress: Progress::new(block),
        }
    }
}

impl<R: ReadHalf> Reader<'_, R> {
    async fn read_message(&mut self) -> Result<(), CloseReason> {
        let header = self.read_header().await?;
        let payload = self
            .driver
            .with(|state| state.connection.handle_header(Instant::now(), header))?;
        match payload {
            Payload::None => {}
            Payload::Block { block, part } => self.read_block(block, part as usize).await?,
            Payload::Drain(len) => self.drain(len, true).await?,
            Payload::Bitfield(len) => {
                let bits = self.collect(Vec::new(), len).await?;
                self.driver
                    .with(|state| state.connection.handle_bitfield(bits))?;
            }
            Payload::Extension(len) => self.read_extension(len).await?,
        }
        self.driver.wait_for_room().await;
        Ok(())
    }

    async fn read_header(&mut self) -> Result<Header, CloseReason> {
        loop {
            let bytes = &self.inbox[self.start..self.end];
            let decoded =
                Header::decode(bytes).map_err(|error| CloseReason::Misbehaved(error.into()))?;
            if let Some((header, used)) = decoded {
                self.start += used;
                return Ok(header);
            }
            let between_messages = bytes.is_empty();
            self.fill_inbox().await.map_err(|reason| match reason {
                CloseReason::Truncated if between_messages => CloseReason::Peer,
                other => other,
            })?;
        }
    }

    /// Reads more into the inbox, behind what is there.
    async fn fill_inbox(&mut self) -> Result<(), CloseReason> {
        self.inbox.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let n = self.half.read(&mut self.inbox[self.end..], &mut []).await;
        self.end += self.arrived(n)?;
        Ok(())
    }

    fn arrived(&mut self, n: io::Result<usize>) -> Result<usize, CloseReason> {
        match n {
            Ok(0) => Err(CloseReason::Truncated),
            Ok(n) => {
                let now = Instant::now();
                self.driver.state().connection.handle_received(now, n);
                let down = &*self.driver.params.down;
                self.intake.moved(self.half.socket(), down, n, now);
                self.tally.moved(self.half.counted(), down, n);
                self.half.set_rate(down.rate());
                Ok(n)
            }
            Err(error) => Err(lost(error)),
        }
    }

    /// Takes up to `max` bytes out of the inbox.
    fn take_inbox(&mut self, max: usize) -> &[u8] {
        let from = self.start;
        self.start += max.min(self.end - from);
        &self.inbox[from..self.start]
    }

    /// Reads a block, or the next `part` bytes of it.
    async fn read_block(&mut self, block: Block, part: usize) -> Result<(), CloseReason> {
        let mut partial = match self.partial.take() {
            Some(partial) => partial,
            None => Partial::begin(self.driver, block).await,
        };
        let end = partial.filled + part;
        let ready = self.take_inbox(part);
        let mut n = ready.len();
        partial.data[partial.filled..partial.filled + n].copy_from_slice(ready);
        loop {
            partial.filled += n;
            let params = &self.driver.params;
            let here = &partial.data[..partial.filled];
            params.feeds.arrived(params.key, block, here);
            partial.progress.add(self.driver, n);
            if partial.filled == end {
                break;
            }
            n = self.read_part(&mut partial, end).await?;
        }
        if end < block.len() as usize {
            self.partial = Some(partial);
            return Ok(());
        }
        let data = partial.data;
        self.driver.with(|state| {
            state.outbox.push_back(Event::Received { block, data });
        });
        Ok(())
    }

    /// Reads more of a block, up to its byte `end`: with one system call all of that, if it is there, and the
    /// beginning of what follows.
    async fn read_part(&mut self, partial: &mut Partial, end: usize) -> Result<usize, CloseReason> {
        debug_assert_eq!(self.start, self.end, "the inbox is empty inside a block");
        let (data, filled) = (&mut partial.data, partial.filled);
        let rest = end - filled;
        if !self.driver.params.down.is_unlimited() {
            let progress = Some(&mut partial.progress);
            let max = self.draw(rest, progress).await.map_err(lost)?;
            let n = self
                .half
                .read(&mut data[filled..filled + max], &mut [])
                .await;
            return self.arrived(n);
        }
        let n = self
            .half
            .read(&mut data[filled..end], &mut self.inbox[..])
            .await;
        let n = self.arrived(n)?;
        let into_block = n.min(rest);
        self.start = 0;
        self.end = n - into_block;
        Ok(into_block)
    }

    /// How many of `wanted` bytes the rate limit lets in now; waits until it is at least one, and something is there to
    /// be read. While the limit is waited for within a block, that is told as its progress.
    async fn draw(
        &mut self,
        wanted: usize,
        mut progress: Option<&mut Progress>,
    ) -> io::Result<usize> {
        loop {
            self.half.ready().await?;
            let down = &*self.driver.params.down;
            let bytes = match self.intake.ask(self.half.socket(), down, wanted) {
                Leave::Move(bytes) => return Ok(bytes),
                Leave::Pay(bytes) => bytes,
            };
            let mut paid = pin!(self.driver.hold_receive(down.take(bytes)));
            while timeout(HELD_INTERVAL, paid.as_mut()).await.is_err() {
                if let Some(progress) = progress.as_deref_mut() {
                    progress.tell(self.driver);
                }
            }
        }
    }

    /// Reads and drops. What a block weighs counts towards the rate limit, wanted or not.
    async fn drain(&mut self, len: u32, is_block: bool) -> Result<(), CloseReason> {
        let mut rest = len as usize;
        rest -= self.take_inbox(rest).len();
        while rest > 0 {
            // Nothing is left in the inbox, so what is dropped can go there.
            let mut max = rest.min(INBOX_LEN);
            let limited = is_block && !self.driver.params.down.is_unlimited();
            if limited {
                max = max.min(self.draw(rest, None).await.map_err(lost)?);
            }
            let n = self.half.read(&mut self.inbox[..max], &mut []).await;
            rest -= self.arrived(n)?;
        }
        Ok(())
    }

    /// Reads `len` more bytes behind those of `bytes`. Memory is taken as they arrive, not as they are
    /// announced.
    async fn collect(&mut self, mut bytes: Vec<u8>, len: u32) -> Result<Vec<u8>, CloseReason> {
        let mut rest = len as usize;
        loop {
            let part = self.take_inbox(rest);
            bytes.extend_from_slice(part);
            rest -= part.len();
            if rest == 0 {
                return Ok(bytes);
            }
            self.fill_inbox().await?;
        }
    }

    async fn read_extension(&mut self, len: u32) -> Result<(), CloseReason> {
        let prefix_len = len.min(EXTENSION_PREFIX_LEN);
        let payload = self.collect(Vec::new(), prefix_len).await?;
        let rest = len - prefix_len;
        let ours = self
            .driver
            .with(|state| state.connection.handle_extension_prefix(&payload, len))?;
        if !ours {
            return self.drain(rest, false).await;
        }
        let payload = self.collect(payload, rest).await?;
        let arriving = self.driver.with(|state| {
            state.connection.handle_extension(&payload)?;
            Ok::<_, CloseReason>(state.connection.arriving())
        })?;
        if arriving.is_none() {
            // Of a block that was abandoned.
            self.partial = None;
        }
        Ok(())
    }
}

/// When to tell how far a block has come: that it has begun at once, the rest now and then.
struct Progress {
    block: Block,
    told: u32,
    untold: u32,
    told_at: Option<Instant>,
}

impl Progress {
    fn new(block: Block) -> Self {
        Self {
            block,
            told: 0,
            untold: 0,
            told_at: None,
        }
    }

    fn add(&mut self, driver: &Driver, bytes: usize) {
        self.untold += u32::try_from(bytes).unwrap_or(u32::MAX);
        if let Some(told_at) = self.told_at {
            let wait = match self.untold {
                RELAY_BYTES.. if self.told < RELAY_BYTES => RELAY_INTERVAL,
                PROGRESS_BYTES.. => PROGRESS_INTERVAL_MIN,
                _ => PROGRESS_INTERVAL_MAX,
            };
            if self.untold == 0 || told_at.elapsed() < wait {
                return;
            }
        }
        self.tell(driver);
    }

    fn tell(&mut self, driver: &Driver) {
        let bytes = std::mem::take(&mut self.untold);
        self.told += bytes;
        self.told_at = Some(Instant::now());
        let ours = self.block;
        driver.with(|state| match state.outbox.back_mut() {
            // Nobody has taken the last one yet.
            Some(Event::Progress { block, bytes: last }) if *block == ours => *last += bytes,
            _ => state
                .outbox
                .push_back(Event::Progress { block: ours, bytes }),
        });
    }
}
