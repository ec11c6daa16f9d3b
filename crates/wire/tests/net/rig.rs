//! Connections for tests: driven ones, and raw ones that a test plays itself.

use dosvc_content::{Block, PieceLengths};
use dosvc_wire::net::*;
use dosvc_wire::{Header, Limits, Message};
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Far longer than any step needs; only a failing test waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const MIB: u32 = 1 << 20;
/// What every driven connection is called.
pub(crate) const KEY: u32 = 7;

/// Two ends of a connection over loopback.
pub(crate) async fn streams() -> (TcpStream, TcpStream) {
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    let listener = Listener::bind(&[any]).expect("a free port");
    let out = dial(listener.local_addrs()[0], PATIENCE)
        .await
        .expect("listening");
    let (accepted, _) = listener.accept().await;
    (out, accepted)
}

/// Content of ten whole pieces of 1 MiB and a last one of 5 bytes.
pub(crate) fn small_content() -> PieceLengths {
    PieceLengths::new(10 * u64::from(MIB) + 5, u64::from(MIB)).expect("valid")
}

pub(crate) fn block(piece: u32, offset: u32, length: u32) -> Block {
    small_content()
        .block(piece, offset, length)
        .expect("inside")
}

/// The byte at each place of every test's content.
pub(crate) fn content(len: usize) -> Vec<u8> {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend(next(&mut seed).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// xorshift64: enough disorder for a test, the same every time.
pub(crate) fn next(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

pub(crate) fn file_of(bytes: &[u8]) -> Arc<std::fs::File> {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(bytes).expect("room");
    Arc::new(file)
}

pub(crate) struct Options {
    pub(crate) lengths: Option<PieceLengths>,
    pub(crate) limits: Limits,
    pub(crate) pool: BlockPool,
    pub(crate) down: Arc<dyn Throttle>,
    pub(crate) up: Arc<dyn Throttle>,
    pub(crate) feeds: Feeds,
    pub(crate) events_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            lengths: Some(small_content()),
            limits: Limits::default(),
            pool: BlockPool::new(MIB as usize, 16),
            down: Arc::new(Unlimited),
            up: Arc::new(Unlimited),
            feeds: Feeds::default(),
            events_max: 64,
        }
    }
}

/// A driven connection.
pub(crate) struct Driven {
    pub(crate) commands: CommandSender,
    pub(crate) events: mpsc::Receiver<(u32, Event)>,
    pub(crate) task: JoinHandle<CloseReason>,
    pub(crate) pool: BlockPool,
}

impl Driven {
    pub(crate) fn new(stream: impl Transport, options: Options) -> Self {
        let (commands, receiver) = command_channel();
        let (sender, events) = mpsc::channel(options.events_max);
        let params = DriveParams {
            key: KEY,
            lengths: options.lengths,
            limits: options.limits,
            pool: options.pool.clone(),
            down: options.down,
            up: options.up,
            feeds: options.feeds,
            events: sender,
        };
        Self {
            commands,
            events,
            task: tokio::spawn(drive(stream, params, receiver)),
            pool: options.pool,
        }
    }

    pub(crate) fn send(&self, command: Command) {
        self.commands.send(command).expect("room for a command");
    }

    /// The next event that is no progress.
    pub(crate) async fn next(&mut self) -> Event {
        loop {
            let (key, event) = tokio::time::timeout(PATIENCE, self.events.recv())
                .await
                .expect("an event in time")
                .expect("Closed is the last event");
            assert_eq!(key, KEY);
            if !matches!(event, Event::Progress { .. }) {
                return event;
            }
        }
    }

    /// Takes events up to the last one. The task is over then, every buffer is back and no event follows.
    pub(crate) async fn closed(mut self) -> CloseReason {
        let reason = loop {
            if let Event::Closed(reason) = self.next().await {
                break reason;
            }
        };
        assert!(
            self.events.recv().await.is_none(),
            "Closed is the last event"
        );
        assert_eq!(self.task.await.expect("no panic"), reason);
        assert_eq!(self.pool.in_use(), 0, "every buffer is back");
        reason
    }
}

/// A driven connection and the raw other end.
pub(crate) async fn against_raw(options: Options) -> (Driven, Raw) {
    let (out, accepted) = streams().await;
    (Driven::new(out, options), Raw(accepted))
}

/// An end that a test plays itself.
pub(crate) struct Raw(pub(crate) TcpStream);

impl Raw {
    pub(crate) async fn send(&mut self, message: &Message) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.bytes(&bytes).await;
    }

    pub(crate) async fn bytes(&mut self, bytes: &[u8]) {
        // A victim that has closed already is what some tests want.
        let _ = self.0.write_all(bytes).await;
    }

    pub(crate) async fn header(&mut self) -> Header {
        let mut bytes = Vec::new();
        loop {
            bytes.push(self.0.read_u8().await.expect("a message"));
            if let Some((header, used)) = Header::decode(&bytes).expect("ours are valid") {
                assert_eq!(used, bytes.len());
                return header;
            }
        }
    }

    /// The payload of the extension message that comes next.
    pub(crate) async fn extension(&mut self) -> Vec<u8> {
        match self.header().await {
            Header::Extension { length } => self.payload(length as usize).await,
            other => panic!("{other:?} instead of an extension"),
        }
    }

    pub(crate) async fn payload(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).await.expect("the payload");
        bytes
    }
}

/// A rate limit that lets through what the test says.
#[derive(Clone)]
pub(crate) struct Gate(
    Arc<tokio::sync::Semaphore>,
    Arc<std::sync::atomic::AtomicU64>,
);

impl Gate {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(
            Arc::new(tokio::sync::Semaphore::new(0)),
            Arc::default(),
        ))
    }

    /// Lets so many bytes of content through, with what they weigh beside it.
    pub(crate) fn open(&self, bytes: usize) {
        self.0.add_permits(bytes * 11 / 10 + 1000);
    }

    /// What was taken and what is owed.
    pub(crate) fn taken(&self) -> u64 {
        self.1.load(std::sync::atomic::Ordering::SeqCst)
    }
}

impl Throttle for Gate {
    fn take(&self, bytes: u32) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        assert!(bytes > 0 && bytes <= 18 << 10, "{bytes} at once");
        Box::pin(async move {
            let permits = self.0.acquire_many(bytes).await.expect("never closed");
            permits.forget();
            self.charge(bytes.into());
        })
    }

    fn charge(&self, bytes: u64) {
        self.1.fetch_add(bytes, std::sync::atomic::Ordering::SeqCst);
    }

    fn is_unlimited(&self) -> bool {
        false
    }
}
