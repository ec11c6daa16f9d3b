//! One battery for every store of swarms: the embedded one, and Redis with a real server.
//!
//! ```text
//! cargo test -p dosvc-control-plane --test stores -- --include-ignored
//! ```
//!
//! What needs `redis-server` (Debian: redis-server) is ignored without being asked for; `.ci/run` asks.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "stores/authority.rs"]
mod authority;
#[path = "stores/battery.rs"]
mod battery;
#[path = "stores/failover.rs"]
mod failover;
#[path = "stores/server.rs"]
mod server;

use battery::{Store, Stores};
use dosvc_cloud_protocol::{JoinAnswer, JoinRequest};
use dosvc_content::ContentId;
use dosvc_control_plane::{
    array::{Array, ArrayLimits, ArrayStats, Draw, GroupView, Seconds, Seen, SwarmView},
    remote::{RedisArray, RedisConfig},
};
use server::Redis;
use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

struct Embedded;

impl Stores for Embedded {
    fn open(&self, limits: ArrayLimits) -> Box<dyn Store> {
        Box::new(Array::new(limits))
    }

    fn cases(&self) -> u32 {
        300
    }
}

impl Store for Array {
    fn limits(&self) -> &ArrayLimits {
        self.limits()
    }

    fn join(&self, now: Seconds, draw: Draw, seen: Seen, request: &JoinRequest) -> JoinAnswer {
        self.join(now, draw, seen, request)
    }

    fn expire(&self, now: Seconds) {
        self.expire(now);
    }

    fn stats(&self) -> ArrayStats {
        self.stats()
    }

    fn swarm(&self, id: &ContentId) -> Option<SwarmView> {
        self.swarm(id)
    }

    fn largest_swarms(&self, count: usize) -> Vec<SwarmView> {
        self.largest_swarms(count)
    }

    fn largest_groups(&self, count: usize) -> Vec<GroupView> {
        self.largest_groups(count)
    }

    fn is_bare(&self) -> bool {
        let fixed = Self::new(self.limits().clone()).stats().memory_bytes;
        // Tables keep room for a few.
        self.stats().memory_bytes - fixed < 100_000
    }
}

/// One server; every store in it has a prefix of its own.
struct Remote {
    server: Redis,
    opened: AtomicU32,
}

impl Remote {
    fn start() -> Self {
        Self {
            server: Redis::start(&[]),
            opened: AtomicU32::new(0),
        }
    }
}

impl Stores for Remote {
    fn open(&self, limits: ArrayLimits) -> Box<dyn Store> {
        let number = self.opened.fetch_add(1, Relaxed);
        let config = RedisConfig {
            servers: vec![self.server.url().parse().unwrap()],
            prefix: format!("store {number}:"),
            ..RedisConfig::default()
        };
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let opening = RedisArray::open(&config, limits, CancellationToken::new());
        let array = runtime.block_on(opening).unwrap();
        Box::new(RemoteStore {
            array,
            runtime,
            keys: format!("store {number}:*"),
            socket: self.server.socket(),
        })
    }

    fn cases(&self) -> u32 {
        100
    }
}

struct RemoteStore {
    array: RedisArray,
    runtime: Runtime,
    /// What all of its keys look like.
    keys: String,
    socket: PathBuf,
}

impl Store for RemoteStore {
    fn limits(&self) -> &ArrayLimits {
        self.array.limits()
    }

    fn join(&self, now: Seconds, draw: Draw, seen: Seen, request: &JoinRequest) -> JoinAnswer {
        let joining = self.array.join(now, draw, seen, request);
        self.runtime.block_on(joining).unwrap()
    }

    fn expire(&self, now: Seconds) {
        self.runtime.block_on(self.array.expire(now)).unwrap();
    }

    fn stats(&self) -> ArrayStats {
        self.runtime.block_on(self.array.stats()).unwrap()
    }

    fn swarm(&self, id: &ContentId) -> Option<SwarmView> {
        self.runtime.block_on(self.array.swarm(id)).unwrap()
    }

    fn largest_swarms(&self, count: usize) -> Vec<SwarmView> {
        let looking = self.array.largest_swarms(count);
        self.runtime.block_on(looking).unwrap()
    }

    fn largest_groups(&self, count: usize) -> Vec<GroupView> {
        let looking = self.array.largest_groups(count);
        self.runtime.block_on(looking).unwrap()
    }

    fn is_bare(&self) -> bool {
        server::cli(&self.socket, &["keys", &self.keys]).is_empty()
    }
}

macro_rules! embedded {
    ($($name:ident)*) => {
        mod embedded {
            $(#[test]
            fn $name() {
                super::battery::$name(&super::Embedded);
            })*
        }
    };
}

macro_rules! redis {
    ($($name:ident)*) => {
        mod redis {
            $(#[test]
            #[ignore = "needs redis-server"]
            fn $name() {
                super::battery::$name(&super::Remote::start());
            })*
        }
    };
}

battery!(embedded);
battery!(redis);
