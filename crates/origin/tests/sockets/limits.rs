//! Limits of connections.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use dosvc_origin::{Limits, OriginClient, OriginConfig};
use dosvc_polite::Throttle;
use tokio::sync::Semaphore;

use crate::server::{Reply, Server, config, content, read};

const LENGTH: usize = 200_000;
const LENGTH_U64: u64 = 200_000;

/// How long a server may be silent.
const IDLE_TIMEOUT: Duration = Duration::from_millis(500);

/// Lets through what the test says, and counts.
#[derive(Debug)]
struct Gate {
    open: Semaphore,
    taken: AtomicU64,
    background: AtomicBool,
}

impl Gate {
    fn new(background: bool) -> Arc<Self> {
        Arc::new(Self {
            open: Semaphore::new(0),
            taken: AtomicU64::new(0),
            background: AtomicBool::new(background),
        })
    }

    fn open(&self) {
        self.open.add_permits(1 << 30);
    }

    fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Throttle for Gate {
    fn take(&self, bytes: u32) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            let permits = self.open.acquire_many(bytes).await;
            permits.expect("never closed").forget();
            self.charge(bytes.into());
        })
    }

    fn charge(&self, bytes: u64) {
        self.taken.fetch_add(bytes, Ordering::Relaxed);
    }

    fn is_unlimited(&self) -> bool {
        false
    }

    fn slice(&self) -> u32 {
        4096
    }

    fn rate(&self) -> Option<u64> {
        Some(1_000_000)
    }

    fn is_background(&self) -> bool {
        self.background.load(Ordering::Relaxed)
    }
}

/// A gate for each priority.
#[derive(Debug)]
struct Gates {
    foreground: Arc<Gate>,
    background: Arc<Gate>,
}

impl Limits for Gates {
    fn gate(&self, server: Option<IpAddr>, background: bool) -> Arc<dyn Throttle> {
        assert!(server.is_some_and(|ip| ip.is_loopback()), "{server:?}");
        match background {
            true => Arc::clone(&self.background) as _,
            false => Arc::clone(&self.foreground) as _,
        }
    }
}

async fn rig() -> (Server, Arc<Gates>, OriginClient) {
    let server = Server::start(|request| Reply::range(request, &content(LENGTH), &[])).await;
    let gates = Arc::new(Gates {
        foreground: Gate::new(false),
        background: Gate::new(true),
    });
    let client = OriginClient::new(OriginConfig {
        limits: Arc::clone(&gates) as _,
        idle_timeout: IDLE_TIMEOUT,
        ..config()
    });
    (server, gates, client)
}

#[tokio::test]
async fn each_priority_has_connections_and_a_limit_of_its_own() {
    let (server, gates, client) = rig().await;
    gates.background.open();
    // Nothing is let through in the foreground, and that keeps no other from anything.
    let waiting = client.open(vec![server.url("/file")], None);
    let waiting = tokio::spawn(async move { read(waiting.fetch(0..LENGTH_U64).await?).await });
    let origin = client
        .in_background(true)
        .open(vec![server.url("/file")], None);
    let body = origin.fetch(0..LENGTH_U64).await.unwrap();
    assert_eq!(read(body).await.unwrap(), content(LENGTH));
    // Answer and headers, and room for a few segments more, which are large on loopback.
    let taken = gates.background.taken();
    let most = LENGTH_U64 * 11 / 10 + 4 * (64 << 10);
    assert!((LENGTH_U64..most).contains(&taken), "{taken} for {LENGTH}");
    // The same content, now somebody waits for it.
    gates.foreground.open();
    assert_eq!(waiting.await.unwrap().unwrap(), content(LENGTH));
    origin.set_background(false);
    let body = origin.fetch(0..LENGTH_U64).await.unwrap();
    assert_eq!(read(body).await.unwrap(), content(LENGTH));
    assert!(gates.foreground.taken() >= LENGTH_U64);
    assert!(server.connections() >= 2);
}

#[tokio::test]
async fn body_is_read_through_the_gate_that_its_reader_brings() {
    let (server, gates, client) = rig().await;
    let origin = client.open(vec![server.url("/file")], None);
    // The head needs no leave.
    let mut body = origin.fetch(0..LENGTH_U64).await.unwrap();
    let own = Gate::new(true);
    body.limit(Arc::clone(&own) as _);
    let before = gates.foreground.taken();
    let reading = tokio::spawn(read(body));
    // That it is we who wait is not held against the server: this can only be waited out.
    tokio::time::sleep(IDLE_TIMEOUT * 3).await;
    assert!(!reading.is_finished(), "nothing was let through");
    own.open();
    assert_eq!(reading.await.unwrap().unwrap(), content(LENGTH));
    assert!(own.taken() >= LENGTH_U64 / 2, "{}", own.taken());
    let more = gates.foreground.taken() - before;
    assert!(more < LENGTH_U64 / 2, "{more} through the other gate");
}
