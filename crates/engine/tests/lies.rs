//! What lies may cost. Alone in its process, for memory is measured.

#[allow(dead_code, unreachable_pub, reason = "a module of tests")]
mod support;

use dosvc_content::{PeerId, PieceHash, PieceLengths};
use dosvc_engine::api::GetRequest;
use dosvc_wire::{
    Extension, Handshake, Limits,
    net::{self, BlockPool, Command, DriveParams, Event, Listener, Unlimited},
};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use support::{Node, Origin, PATIENCE, content, eventually, hash_file};

const MIB: usize = 1 << 20;

/// A peer that claims the largest content there is, and answers every question about its hashes.
async fn lying_peer(asked: Arc<AtomicU64>) -> SocketAddr {
    let listener = Listener::bind(&["127.0.0.1:0".parse().expect("address")]).expect("free port");
    let address = listener.local_addrs()[0];
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await;
            let asked = Arc::clone(&asked);
            tokio::spawn(async move {
                let theirs = net::receive_handshake(&mut stream, PATIENCE).await.ok()?;
                let ours = Handshake::new(theirs.swarm, PeerId::from_random([66; 16]));
                net::send_handshake(&mut stream, &ours).await.ok()?;
                let (commands, receiver) = net::command_channel();
                let (sender, mut events) = tokio::sync::mpsc::channel(16);
                let params = DriveParams {
                    key: 0,
                    lengths: None,
                    limits: Limits::default(),
                    pool: BlockPool::new(1 << 16, 1),
                    events: sender,
                    down: Arc::new(Unlimited),
                    up: Arc::new(Unlimited),
                    feeds: net::Feeds::default(),
                };
                let answer = async {
                    while let Some((_, event)) = events.recv().await {
                        let Event::Extension(Extension::MetainfoRequest { first, count }) = event
                        else {
                            continue;
                        };
                        asked.fetch_max(u64::from(first), Ordering::Relaxed);
                        let lengths = PieceLengths::new(1 << 40, 1 << 16).expect("valid");
                        let left = lengths.piece_count() - first;
                        let hashes = vec![PieceHash::of(b"lie"); left.min(count) as usize];
                        let _ = commands.send(Command::Extension(Extension::Metainfo {
                            content_length: lengths.content_length(),
                            piece_size: lengths.piece_size(),
                            first,
                            hashes,
                        }));
                    }
                };
                tokio::select! {
                    _ = net::drive(stream, params, receiver) => {}
                    () = answer => {}
                }
                Some(())
            });
        }
    });
    address
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status
        .lines()
        .find(|l| l.starts_with("VmHWM"))
        .expect("peak");
    let kib: u64 = line
        .split_whitespace()
        .nth(1)
        .expect("number")
        .parse()
        .expect("number");
    kib << 10
}

/// A stranger's claim of 2^24 pieces took 512 MiB of memory before it was found to be a lie.
#[tokio::test(flavor = "multi_thread")]
async fn lie_about_the_number_of_pieces_takes_no_memory_and_an_honest_peer_is_heard() {
    let origin = Origin::start().await;
    let bytes = content(12, 3 * MIB);
    let url = origin.publish("a", &bytes);
    let seed = Node::start(&[], &[]).await;
    seed.finish(seed.get(&url).await).await;
    let asked = Arc::new(AtomicU64::new(0));
    let liar = lying_peer(Arc::clone(&asked)).await;
    let hash = hash_file(&bytes, 1 << 20).hash_of_hashes().to_string();
    let from = |peers: Vec<SocketAddr>| GetRequest {
        hash_of_hashes: Some(hash.clone()),
        peers,
        ..GetRequest::default()
    };

    let node = Node::start(&[], &[]).await;
    let before = resident_bytes();
    let job = node.request(from(vec![liar])).await;
    eventually("the liar has told much", async || {
        asked.load(Ordering::Relaxed) > 2_000_000
    })
    .await;
    let grown = resident_bytes() - before;
    assert!(
        grown < 48 * MIB as u64,
        "{grown} bytes for a lie of {} MiB",
        2_000_000 * 32 / MIB
    );
    node.engine.cancel(job).await.expect("runs");

    let job = node.request(from(vec![liar, seed.address()])).await;
    node.finish(job).await;
    assert!(node.bytes(job).await == bytes);
}
