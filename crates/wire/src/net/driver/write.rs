//! The sending loop.

use super::{Driver, RelayEnd, Source, Supply, lost, tally::Tally};
use crate::Pace;
use crate::net::transport::SendFileError;
use crate::net::{Body, CloseReason, Event, Feed, Loaded, WriteHalf};
use bytes::Bytes;
use dosvc_content::Block;
use dosvc_polite::{Leave, Outlet};
use std::fs::File;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// The most that is handed to the kernel at once; others get their turn in between.
const SLICE: u32 = 512 << 10;

/// A buffer of messages that grew past this is given back.
const MESSAGES_KEPT: usize = 16 << 10;

impl Driver {
    pub(super) async fn write_loop(&self, half: impl WriteHalf) -> CloseReason {
        let mut writer = Writer {
            driver: self,
            half,
            messages: Vec::new(),
            pace: Pace::default(),
            unsent_max: 0,
            outlet: Outlet::default(),
            tally: Tally::default(),
        };
        writer
            .half
            .set_background(self.params.up.is_background(), false);
        writer.bound_unsent();
        loop {
            if let Err(reason) = writer.write_next().await {
                return reason;
            }
        }
    }

    /// Waits for more of a block that arrives; `None`: something else is to be done before.
    async fn next_of(&self, feed: &mut Feed) -> Option<Bytes> {
        tokio::select! {
            biased;
            () = self.write_wake.notified() => None,
            // Once all that may be passed on is out, only that is waited for.
            Some(bytes) = feed.next() => Some(bytes),
        }
    }

    /// Waits for something of our own; that nothing goes out is not the peer's fault meanwhile.
    async fn hold_send<T>(&self, wait: impl Future<Output = T>) -> T {
        let hold = |held| {
            let mut state = self.state();
            state.connection.hold_send(Instant::now(), held);
        };
        hold(true);
        let value = wait.await;
        hold(false);
        value
    }
}

struct Writer<'a, W> {
    driver: &'a Driver,
    half: W,
    /// Messages on their way out; kept to be filled again.
    messages: Vec<u8>,
    pace: Pace,
    /// What the kernel was told that it may hold unsent, in bytes.
    unsent_max: u32,
    /// What the rate limit lets out, and what gives way.
    outlet: Outlet,
    tally: Tally,
}

impl<W: WriteHalf> Writer<'_, W> {
    /// Sends a block if one waits, with the messages that have gathered before and between its parts, else those
    /// messages.
    async fn write_next(&mut self) -> Result<(), CloseReason> {
        self.messages.clear();
        if self.messages.capacity() > MESSAGES_KEPT {
            self.messages = Vec::new();
        }
        let answer = {
            let mut state = self.driver.state();
            let answer = state.begin_answer();
            if answer.is_none() {
                state.connection.poll_transmit(&mut self.messages);
            }
            answer
        };
        match answer {
            Some((block, Source::Body(supply))) => self.write_block(block, supply).await,
            Some((block, Source::Feed(feed))) => self.relay(block, feed).await,
            None if self.messages.is_empty() => {
                self.wait().await;
                Ok(())
            }
            None => self.write_messages(false).await,
        }
    }

    async fn write_block(&mut self, block: Block, mut supply: Supply) -> Result<(), CloseReason> {
        let begun = Instant::now();
        let range = 0..block.len();
        self.write_range(block, &mut supply, range, 0).await?;
        self.pace.note(block.len(), begun.elapsed());
        self.bound_unsent();
        self.end_answer(block);
        Ok(())
    }

    fn end_answer(&self, block: Block) {
        self.driver.with(|state| {
            state.sending = None;
            state.connection.end_answer(block);
            state.outbox.push_back(Event::Served { block });
        });
    }

    /// Writes these bytes of the block; `supply` begins with its byte `first`.
    async fn write_range(
        &mut self,
        block: Block,
        supply: &mut Supply,
        range: Range<u32>,
        first: u32,
    ) -> Result<(), CloseReason> {
        let mut sent = range.start;
        while sent < range.end {
            let rest = range.end - sent;
            self.messages.clear();
            let part = {
                let connection = &mut self.driver.state().connection;
                let parted = connection.may_part_answers();
                let part = if parted { self.pace.part(rest) } else { rest };
                connection.answer_part(block, sent, part, &mut self.messages);
                part
            };
            // A header must not be kept back while its bytes wait for the rate limit.
            self.write_messages(self.driver.params.up.is_unlimited())
                .await?;
            let end = sent + part;
            while sent < end {
                let max = self.draw(end - sent).await.min(self.burst());
                sent += self.write_part(block, supply, sent - first, max).await?;
            }
        }
        Ok(())
    }

    /// Passes a block on as it arrives, messages between its parts, until it is verified: then its rest follows. How long
    /// that takes says nothing about the path.
    async fn relay(&mut self, block: Block, mut feed: Feed) -> Result<(), CloseReason> {
        let mut sent = 0;
        loop {
            let end = self.driver.state().relay_end();
            match end {
                Some(RelayEnd::Whole(body)) => {
                    let rest = sent..block.len();
                    self.write_range(block, &mut body.into(), rest, 0).await?;
                    self.end_answer(block);
                    return Ok(());
                }
                Some(RelayEnd::Abandoned) => {
                    let mut state = self.driver.state();
                    state.sending = None;
                    state.connection.abandon(block);
                    return Ok(());
                }
                None => {}
            }
            self.messages.clear();
            let driver = self.driver;
            driver.state().connection.poll_transmit(&mut self.messages);
            self.write_messages(false).await?;
            if let Some(bytes) = self.next_of(&mut feed).await {
                let end = sent + u32::try_from(bytes.len()).expect("a part of a block");
                let mut supply = Supply::from(Body::Bytes(bytes));
                self.write_range(block, &mut supply, sent..end, sent)
                    .await?;
                sent = end;
            }
        }
    }

    /// As the driver does it, looking after the pace of what is held back to give way.
    async fn next_of(&mut self, feed: &mut Feed) -> Option<Bytes> {
        let driver = self.driver;
        let next = driver.hold_send(driver.next_of(feed));
        let Some(interval) = self.outlet.interval() else {
            return next.await;
        };
        let waited = tokio::time::timeout(interval, next).await;
        if waited.is_err() {
            self.give_way(Instant::now());
            driver.state().connection.hold_send(Instant::now(), false);
        }
        waited.ok().flatten()
    }

    async fn write_messages(&mut self, more: bool) -> Result<(), CloseReason> {
        let mut at = 0;
        while at < self.messages.len() {
            let n = self.half.write(&self.messages[at..], more).await;
            at += self.moved(n.map_err(lost)?)?;
        }
        Ok(())
    }

    /// Sends some of the block's bytes from `from` on, at most `max` of them.
    async fn write_part(
        &mut self,
        block: Block,
        supply: &mut Supply,
        from: u32,
        max: u32,
    ) -> Result<u32, CloseReason> {
        let n = match &supply.body {
            Body::File { file, offset } => {
                let at = offset + u64::from(from);
                let loaded = &mut supply.loaded;
                let n = self.send_file(file, at, max as usize, loaded).await;
                n.map_err(|error| match error {
                    SendFileError::File(error) => CloseReason::Body {
                        block,
                        error: error.kind(),
                    },
                    SendFileError::Connection(error) => lost(error),
                })?
            }
            Body::Bytes(bytes) => {
                let part = &bytes[from as usize..(from + max) as usize];
                self.half.write(part, false).await.map_err(lost)?
            }
        };
        Ok(u32::try_from(self.moved(n)?).expect("no more than was asked for"))
    }

    /// Waits until there may be something to send. What was sent before may still be held back to give way: its pace is
    /// looked after meanwhile.
    async fn wait(&mut self) {
        let wake = self.driver.write_wake.notified();
        match self.outlet.interval() {
            None => wake.await,
            Some(interval) => {
                if tokio::time::timeout(interval, wake).await.is_err() {
                    self.give_way(Instant::now());
                }
            }
        }
    }

    /// As the half does it. What is held back to give way may wait for long: its pace is looked after meanwhile.
    async fn send_file(
        &mut self,
        file: &Arc<File>,
        at: u64,
        max: usize,
        loaded: &mut Loaded,
    ) -> Result<usize, SendFileError> {
        loop {
            let Some(interval) = self.outlet.interval() else {
                return self.half.send_file(file, at, max, loaded).await;
            };
            let send = self.half.send_file(file, at, max, loaded);
            match tokio::time::timeout(interval, send).await {
                Ok(result) => return result,
                Err(_) => self.give_way(Instant::now()),
            }
        }
    }

    fn give_way(&mut self, now: Instant) {
        let up = &*self.driver.params.up;
        self.outlet.give_way(self.half.socket(), up, now);
        self.bound_unsent();
    }

    /// The most that may leave in one burst, in bytes.
    fn burst(&self) -> u32 {
        self.outlet.burst().unwrap_or(u32::MAX)
    }

    /// Tells the kernel how much it may hold unsent, when that has changed.
    fn bound_unsent(&mut self) {
        let bytes = self.pace.unsent_max().min(self.burst());
        if std::mem::replace(&mut self.unsent_max, bytes) != bytes {
            self.half.set_unsent_max(bytes);
        }
    }

    fn moved(&mut self, n: usize) -> Result<usize, CloseReason> {
        if n == 0 {
            return Err(CloseReason::Lost(io::ErrorKind::WriteZero));
        }
        let now = Instant::now();
        let waited_for = {
            let mut state = self.driver.state();
            state.connection.handle_sent(now, n);
            state.connection.is_waited_for()
        };
        let up = &*self.driver.params.up;
        self.outlet.moved(self.half.socket(), up, n, now);
        self.tally.moved(self.half.counted(), up, n);
        self.half.set_background(up.is_background(), waited_for);
        self.bound_unsent();
        Ok(n)
    }

    /// How many of `wanted` bytes may go out now; waits for the rate limit if there is one.
    async fn draw(&mut self, wanted: u32) -> u32 {
        let up = &*self.driver.params.up;
        let most = wanted.min(SLICE);
        loop {
            match self.outlet.ask(self.half.socket(), up, most as usize) {
                Leave::Move(bytes) => return u32::try_from(bytes).unwrap_or(most),
                Leave::Pay(bytes) => self.driver.hold_send(up.take(bytes)).await,
            }
        }
    }
}
