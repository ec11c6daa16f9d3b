//! Swarm throughput on loopback: one seed and 1, 4, 8 downloaders that start at once, real engines with their store
//! on disk, every piece verified. Reported per downloaded byte, all downloaders together.
//!
//! `cargo bench --bench swarm`; `DOSVC_BENCH_MIB` sets the size of the content (default 256).

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dosvc_content::{PieceHash, PieceLengths, PiecesHashFile};
use dosvc_engine::{
    Engine, EngineConfig,
    api::{GetRequest, ImportRequest, JobState},
};
use dosvc_policy::{Policies, Provider, RawValue};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

fn size() -> usize {
    let mib: usize = std::env::var("DOSVC_BENCH_MIB")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(256);
    mib << 20
}

fn content(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(1).fill(&mut bytes);
    bytes
}

async fn engine(peers: Vec<SocketAddr>) -> (Engine, TempDir) {
    let dir = tempfile::tempdir().expect("temporary folder");
    let mut policies = Policies::default();
    for key in [
        "min_file_size_to_cache",
        "min_disk_size_allowed_to_peer",
        "min_ram_allowed_to_peer",
    ] {
        policies
            .set(key, &RawValue::Integer(1), &Provider::Command)
            .expect("valid");
    }
    let mut config = EngineConfig::new(dir.path().to_owned(), policies);
    config.listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
    config.dns_sd = false;
    config.static_peers = peers;
    (Engine::start(config).await.expect("starts"), dir)
}

/// Time from the first request until the last downloader has everything.
async fn spread(seed: SocketAddr, file: &PiecesHashFile, downloaders: usize) -> Duration {
    let mut nodes = Vec::new();
    let mut peers = vec![seed];
    for _ in 0..downloaders {
        let (engine, dir) = engine(peers.clone()).await;
        peers.push(engine.status().listening[0]);
        nodes.push((engine, dir));
    }
    let json = String::from_utf8(file.to_json()).expect("text");
    let start = Instant::now();
    let mut watches = Vec::new();
    for (engine, _) in &nodes {
        let request = GetRequest {
            hash_file_json: Some(json.clone()),
            ..GetRequest::default()
        };
        let job = engine.get(request).await.expect("accepted");
        watches.push(engine.watch(job).expect("job"));
    }
    for mut watch in watches {
        let status = watch
            .wait_for(|s| s.state.is_final())
            .await
            .expect("job lives");
        assert_eq!(status.state, JobState::Complete, "{:?}", status.error);
    }
    let elapsed = start.elapsed();
    for (engine, _) in &nodes {
        engine.shutdown().await;
    }
    elapsed
}

fn swarm(c: &mut Criterion) {
    let runtime = Runtime::new().expect("runtime");
    let bytes = content(size());
    let lengths = PieceLengths::new(bytes.len() as u64, 1 << 20).expect("valid");
    let hashes: Vec<PieceHash> = bytes.chunks(1 << 20).map(PieceHash::of).collect();
    let file = PiecesHashFile::new(lengths, hashes).expect("consistent");
    let (seed, _dir) = runtime.block_on(async {
        let (seed, dir) = engine(Vec::new()).await;
        let path = dir.path().join("content");
        std::fs::write(&path, &bytes).expect("written");
        let json = String::from_utf8(file.to_json()).expect("text");
        let request = ImportRequest {
            hash_file_json: json,
            ..ImportRequest::default()
        };
        let local = std::fs::File::open(path).expect("written just now");
        seed.import(local, request).await.expect("imported");
        (seed, dir)
    });
    let address = seed.status().listening[0];
    let mut group = c.benchmark_group("swarm");
    group.sample_size(10);
    for downloaders in [1, 4, 8] {
        group.throughput(Throughput::Bytes((bytes.len() * downloaders) as u64));
        group.bench_function(BenchmarkId::new("loopback", downloaders), |b| {
            b.iter_custom(|rounds| {
                (0..rounds)
                    .map(|_| runtime.block_on(spread(address, &file, downloaders)))
                    .sum()
            });
        });
    }
    group.finish();
    runtime.block_on(seed.shutdown());
}

criterion_group!(benches, swarm);
criterion_main!(benches);
