//! Joins of the array whose swarms are in Redis, without HTTP: against a redis-server of its own at a Unix socket. Many
//! joins are under way at once, as they are in a service, so that it is the server that is measured and not the way to it.

#[path = "support/peer_id.rs"]
mod peer_id;

use peer_id::peer_id;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dosvc_cloud_protocol::{CountryCode, JoinRequest, Scope};
use dosvc_control_plane::{
    array::{ArrayLimits, Draw, Seen},
    remote::{RedisArray, RedisConfig},
};
use std::{
    net::Ipv4Addr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

const PEERS: u32 = 200_000;
const SWARMS: u32 = 200;
/// Joins that are under way at once.
const AT_ONCE: u32 = 64;

/// A server that goes with this value, and with the thread that started it.
struct Server(Child);

impl Server {
    fn start(folder: &Path, socket: &Path) -> std::io::Result<Self> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "redis-server", "--port", "0"]);
        command.args(["--save", "", "--dir"]).arg(folder);
        command.arg("--unixsocket").arg(socket);
        command.stdout(Stdio::null()).spawn().map(Self)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // What can't be ended has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn has_redis() -> bool {
    let mut version = Command::new("redis-server");
    version.arg("--version").stdout(Stdio::null());
    version.status().is_ok_and(|status| status.success())
}

fn request(number: u32, scope: Scope) -> (Seen, JoinRequest) {
    let id = peer_id(number);
    let content = format!("content {}", number % SWARMS);
    let mut request = JoinRequest::new(content.parse().expect("an id"), id.into(), scope);
    request.left = u64::from(!(number / SWARMS).is_multiple_of(4));
    request.reported_ip = Some(Ipv4Addr::from(0x0a00_0001 + number));
    // Groups of 250 in each swarm.
    request.group_id = Some([(number / SWARMS / 250 % 4) as u8 + 1; 32].into());
    request.peers_wanted = 30;
    // Sites of fifty.
    let address = Ipv4Addr::from(0x0b00_0000 + number / SWARMS / 50 * 251);
    let seen = Seen {
        address: address.into(),
        country: CountryCode::UNKNOWN,
    };
    (seen, request)
}

async fn ask(array: &RedisArray, number: u32, scope: Scope, wanted: u16) -> usize {
    let (seen, mut request) = request(number, scope);
    request.peers_wanted = wanted;
    let draw = Draw {
        token: number.into(),
        seed: u64::from(number) << 20 | 7,
    };
    let answer = array.join(1, draw, seen, &request).await;
    answer.expect("Redis answers").peers.len()
}

/// So many joins, always `AT_ONCE` of them under way; answers how many peers were named.
async fn ask_all(array: &Arc<RedisArray>, count: u32, scope: Scope, wanted: u16) -> usize {
    let mut asking = JoinSet::new();
    for lane in 0..AT_ONCE {
        let array = array.clone();
        asking.spawn(async move {
            let mut named = 0;
            for number in (lane..count).step_by(AT_ONCE as usize) {
                let number = match wanted {
                    0 => number,
                    _ => number.wrapping_mul(7919) % PEERS,
                };
                named += ask(&array, number, scope, wanted).await;
            }
            named
        });
    }
    asking.join_all().await.into_iter().sum()
}

fn open(runtime: &Runtime, socket: &Path, prefix: &str) -> Arc<RedisArray> {
    let url = format!("unix://{}", socket.display());
    let config = RedisConfig {
        servers: vec![url.parse().expect("an address")],
        prefix: prefix.to_owned(),
        ..RedisConfig::default()
    };
    let limits = ArrayLimits {
        entries_per_address_max: u32::MAX,
        entries_per_network_max: u32::MAX,
        ..ArrayLimits::default()
    };
    let array = runtime.block_on(RedisArray::open(&config, limits, CancellationToken::new()));
    Arc::new(array.expect("a Redis of this bench's own"))
}

fn joins(c: &mut Criterion) {
    if !has_redis() {
        eprintln!("nothing is measured: there is no redis-server (Debian: redis-server)");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("s");
    let server = Server::start(folder.path(), &socket).expect("redis-server and setpriv start");
    let waits = Instant::now();
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        assert!(waits.elapsed() < Duration::from_secs(20), "Redis listens");
        std::thread::sleep(Duration::from_millis(5));
    }
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let mut group = c.benchmark_group("array in redis");
    group.throughput(Throughput::Elements(1)).sample_size(10);
    for (name, scope) in [
        ("lan", Scope::Lan),
        ("group", Scope::Group),
        ("internet", Scope::Internet),
    ] {
        let array = open(&runtime, &socket, &format!("{name}:"));
        runtime.block_on(ask_all(&array, PEERS, scope, 0));
        let named = runtime.block_on(ask_all(&array, 100, scope, 30));
        assert!(named > 100 * 20, "answers are full: {named} of 3000");
        group.bench_function(
            format!("renew at {PEERS} peers in {SWARMS} swarms, {name}"),
            |b| {
                b.iter_custom(|count| {
                    let began = Instant::now();
                    let count = u32::try_from(count).unwrap_or(u32::MAX);
                    runtime.block_on(ask_all(&array, count, scope, 30));
                    began.elapsed()
                });
            },
        );
    }
    group.finish();
    drop(server);
}

criterion_group!(benches, joins);
criterion_main!(benches);
