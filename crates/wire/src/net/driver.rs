//! Runs one connection: four loops over one shared state, all in one task.
//!
//! - the **reader** parses headers and fills block buffers straight from the socket;
//! - the **writer** sends what messages have gathered, then the next block, and so on;
//! - the **deliverer** moves events from the outbox to the swarm's channel;
//! - the **command loop** and the **clock** change the state and wake the others.
//!
//! Why nothing can deadlock: commands are always taken at once. The writer waits only for the peer and for its
//! rate limit; its events go to the outbox without waiting. The reader waits for the peer, its rate limit, a
//! buffer, and room in the outbox; buffers and room come back when the swarm takes events, and the swarm never
//! waits for a connection (commands are sent without waiting). So a swarm that takes no events stops this
//! connection's reading and nothing else.
//!
//! What is bounded: the outbox by [`OUTBOX_MAX`] plus one event per answer that the peer asked for, answers by
//! the requests that the core keeps, messages by [`CONTROL_BYTES_MAX`], block buffers by the pool.
//!
//! The lock is never held across an `.await`; only this task takes it.

mod read;
mod tally;
mod write;

use super::{
    BlockPool, Body, CloseReason, Command, CommandReceiver, Event, Feed, Feeds, Loaded, Throttle,
    Transport,
};
use crate::connection::Connection;
use crate::limits::{CONTROL_BYTES_MAX, Limits};
use dosvc_content::{Block, PieceLengths};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::{Notify, mpsc};

/// Events that may wait for the swarm before this connection stops reading.
const OUTBOX_MAX: usize = 32;

/// Buffers that one connection may have out: for a block that arrives, and for those before it until they are hashed and
/// written: as many as are hashed at once. A peer faster than that is waited for by TCP.
const BUFFERS_MAX: usize = 16;

/// What a connection needs beside its stream.
#[derive(Clone)]
pub struct DriveParams {
    /// What the connection is called in its events.
    pub key: u32,
    /// The content's dimensions, if they are known yet (else send [`Command::Lengths`] later).
    pub lengths: Option<PieceLengths>,
    /// Bounds on what the peer may do.
    pub limits: Limits,
    /// Where the buffers of received blocks come from; its block length bounds what can be requested.
    pub pool: BlockPool,
    /// Limit of blocks received.
    pub down: Arc<dyn Throttle>,
    /// Limit of blocks sent.
    pub up: Arc<dyn Throttle>,
    /// Where blocks of this content are passed on from while they arrive.
    pub feeds: Feeds,
    /// Where events go; one channel can serve all connections of a swarm.
    pub events: mpsc::Sender<(u32, Event)>,
}

impl fmt::Debug for DriveParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DriveParams")
            .field("key", &self.key)
            .field("lengths", &self.lengths)
            .field("limits", &self.limits)
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

/// Runs a connection, after the handshakes, until it ends. The socket is closed then, the last event is
/// [`Event::Closed`], and the reason is returned too.
///
/// If the future is dropped instead, the socket closes and no event tells so.
pub async fn drive<T: Transport>(
    stream: T,
    params: DriveParams,
    commands: CommandReceiver,
) -> CloseReason {
    let driver = Driver::new(params);
    let (read, write) = stream.into_halves();
    let reason = tokio::select! {
        biased;
        reason = driver.command_loop(commands) => reason,
        reason = driver.clock_loop() => reason,
        reason = driver.deliver_loop() => reason,
        reason = driver.write_loop(write) => reason,
        reason = driver.read_loop(read) => reason,
    };
    let stats = driver.state().connection.stats();
    tracing::debug!(key = driver.params.key, %reason, ?stats, "connection ended");
    driver.deliver_rest(reason.clone()).await;
    reason
}

struct Driver {
    params: DriveParams,
    state: Mutex<State>,
    /// There may be something to send.
    write_wake: Notify,
    /// There is something in the outbox.
    outbox_wake: Notify,
    /// The outbox got shorter.
    outbox_room: Notify,
}

struct State {
    connection: Connection,
    /// Answers that wait to be sent; each is one that the core has accepted.
    answers: VecDeque<(Block, Source)>,
    /// The answer that is being sent.
    sending: Option<Sending>,
    outbox: VecDeque<Event>,
}

/// Where an answer comes from.
enum Source {
    Body(Supply),
    Feed(Feed),
}

/// Bytes to be sent.
struct Supply {
    body: Body,
    /// What is known of the body's file.
    loaded: Loaded,
}

impl From<Body> for Supply {
    fn from(body: Body) -> Self {
        Self {
            body,
            loaded: Loaded::default(),
        }
    }
}

impl Supply {
    /// Asks the kernel to read the block's bytes from the disk, if they are not in memory, while others are still being
    /// sent.
    fn read_ahead(&mut self, len: u32, now: Instant) {
        #[cfg(target_os = "linux")]
        if let Body::File { file, offset } = &self.body {
            use rustix::fs::{Advice, fadvise};
            let part = *offset..*offset + u64::from(len);
            if !self.loaded.holds(file, part, now) {
                // Only advice.
                let len = u64::from(len).try_into().ok();
                let _ = fadvise(&**file, *offset, len, Advice::WillNeed);
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (len, now);
    }
}

/// An answer that has begun.
struct Sending {
    block: Block,
    /// How it ends, for one that is still arriving itself.
    end: Option<RelayEnd>,
}

/// How it ends.
enum RelayEnd {
    /// All of the block.
    Whole(Body),
    Abandoned,
}

impl Driver {
    fn new(mut params: DriveParams) -> Self {
        params.pool = params.pool.share(BUFFERS_MAX);
        let connection = Connection::new(params.lengths, params.limits, Instant::now());
        Self {
            params,
            state: Mutex::new(State {
                connection,
                answers: VecDeque::new(),
                sending: None,
                outbox: VecDeque::new(),
            }),
            write_wake: Notify::new(),
            outbox_wake: Notify::new(),
            outbox_room: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock ends the whole task, the only one that uses it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `change` on the state, then moves the core's events to the outbox and wakes who has work.
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let result = change(&mut state);
        state.collect_events();
        if !state.outbox.is_empty() {
            self.outbox_wake.notify_one();
        }
        result
    }

    async fn command_loop(&self, mut commands: CommandReceiver) -> CloseReason {
        let mut batch = Vec::new();
        while commands.receive(&mut batch).await {
            let applied = self.with(|state| {
                batch
                    .drain(..)
                    .try_for_each(|command| state.apply(command, &self.params.pool))?;
                if state.connection.transmit_len() > CONTROL_BYTES_MAX {
                    return Err(CloseReason::SendQueueFull);
                }
                Ok(())
            });
            if let Err(reason) = applied {
                return reason;
            }
            self.write_wake.notify_one();
        }
        CloseReason::Local
    }

    /// Deadlines mostly move away, so the clock looks again only when the one it knew has come.
    async fn clock_loop(&self) -> CloseReason {
        loop {
            let deadline = self.state().connection.poll_timeout();
            tokio::time::sleep_until(deadline.into()).await;
            let mut state = self.state();
            if let Err(expired) = state.connection.handle_timeout(Instant::now()) {
                return expired.into();
            }
            if state.connection.transmit_len() > 0 {
                self.write_wake.notify_one();
            }
        }
    }

    async fn deliver_loop(&self) -> CloseReason {
        loop {
            if self.state().outbox.is_empty() {
                self.outbox_wake.notified().await;
                continue;
            }
            let Ok(permit) = self.params.events.reserve().await else {
                return CloseReason::Abandoned;
            };
            if let Some(event) = self.state().outbox.pop_front() {
                permit.send((self.params.key, event));
                self.outbox_room.notify_one();
            }
        }
    }

    /// After the loops: what was complete is still delivered.
    async fn deliver_rest(&self, reason: CloseReason) {
        let rest = {
            let mut state = self.state();
            state.collect_events();
            state.answers.clear();
            std::mem::take(&mut state.outbox)
        };
        for event in rest.into_iter().chain([Event::Closed(reason)]) {
            if self
                .params
                .events
                .send((self.params.key, event))
                .await
                .is_err()
            {
                return;
            }
        }
    }
}

impl State {
    fn apply(&mut self, command: Command, pool: &BlockPool) -> Result<(), CloseReason> {
        let now = Instant::now();
        let connection = &mut self.connection;
        match command {
            Command::Choke => {
                connection.choke();
                let void = self.answers.drain(..).map(|(block, _)| block);
                self.outbox.extend(void.map(Event::Cancelled));
            }
            Command::Unchoke => connection.unchoke(),
            Command::Interested(interested) => connection.set_interested(interested),
            Command::Have(piece) => connection.have(piece),
            Command::Bitfield(field) => connection.bitfield(&field),
            Command::Request(block) => {
                if block.len() as usize > pool.block_len_max() {
                    return Err(CloseReason::BadCommand("request longer than a buffer"));
                }
                connection.request(block);
            }
            Command::Cancel(block) => {
                connection.cancel(now, block);
            }
            Command::Serve { block, body } => {
                if matches!(&body, Body::Bytes(bytes) if bytes.len() != block.len() as usize) {
                    return Err(CloseReason::BadCommand(
                        "body of another length than its block",
                    ));
                }
                let mut supply = Supply::from(body);
                supply.read_ahead(block.len(), now);
                self.answer(block, Source::Body(supply));
            }
            Command::Relay { block, feed } => self.answer(block, Source::Feed(feed)),
            Command::Release { block, body } => self.release(block, body),
            Command::Abandon(block) => self.abandon(block),
            Command::Refuse(block) => {
                connection.refuse(block);
                self.answers.retain(|(queued, _)| *queued != block);
            }
            Command::Extension(extension) => connection.extension(&extension),
            Command::Lengths(lengths) => connection.set_lengths(lengths)?,
            Command::Close => return Err(CloseReason::Local),
        }
        Ok(())
    }

    fn answer(&mut self, block: Block, source: Source) {
        if self.connection.accept_answer(block) {
            self.answers.push_back((block, source));
        } else {
            self.outbox.push_back(Event::Cancelled(block));
        }
    }

    /// What was to be passed on while it arrives is here.
    fn release(&mut self, block: Block, body: Body) {
        if let Some((_, source)) = self.answers.iter_mut().find(|(queued, _)| *queued == block) {
            *source = Source::Body(body.into());
        } else if let Some(sending) = self.sending_of(block) {
            sending.end = Some(RelayEnd::Whole(body));
        }
    }

    fn abandon(&mut self, block: Block) {
        if let Some(at) = self.answers.iter().position(|(queued, _)| *queued == block) {
            self.answers.remove(at);
            self.connection.abandon(block);
        } else if let Some(sending) = self.sending_of(block) {
            // One that is not arriving any more goes out whole.
            sending.end = Some(RelayEnd::Abandoned);
        } else {
            // It was never to be sent, and is waited for all the same.
            self.connection.abandon(block);
        }
    }

    fn collect_events(&mut self) {
        while let Some(event) = self.connection.poll_event() {
            let event = Event::from(event);
            if let Event::Cancelled(block) = event {
                self.answers.retain(|(queued, _)| *queued != block);
            }
            self.outbox.push_back(event);
        }
    }

    fn sending_of(&mut self, block: Block) -> Option<&mut Sending> {
        self.sending
            .as_mut()
            .filter(|sending| sending.block == block)
    }

    /// How the answer that is being passed on ends, if that is known.
    fn relay_end(&mut self) -> Option<RelayEnd> {
        self.sending.as_mut()?.end.take()
    }

    /// Takes the next answer that the peer still waits for.
    fn begin_answer(&mut self) -> Option<(Block, Source)> {
        while let Some((block, source)) = self.answers.pop_front() {
            if self.connection.begin_answer(block) {
                self.sending = Some(Sending { block, end: None });
                return Some((block, source));
            }
        }
        None
    }
}

#[expect(clippy::needless_pass_by_value, reason = "used with map_err")]
fn lost(error: io::Error) -> CloseReason {
    CloseReason::Lost(error.kind())
}
