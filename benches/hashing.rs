//! What verifying costs: hashing one piece, several together, a whole file on several cores, and reading its hash file.
//! `cargo bench --bench hashing`; throughput is content bytes, except for the hash file, where it is pieces.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dosvc_content::{PieceHash, PieceLengths, PiecesHashFile};
use std::{fs, hint::black_box};

const MIB: usize = 1 << 20;
/// As large as fits into the page cache of any machine.
const FILE_BYTES: usize = 128 * MIB;
const PIECES: u32 = 100_000;

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 % 251).to_le_bytes()[0]).collect()
}

fn piece(c: &mut Criterion) {
    let mut group = c.benchmark_group("hash one piece");
    for len in [64 << 10, MIB, 16 * MIB] {
        let bytes = bytes(len);
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::from_parameter(len), |b| {
            b.iter(|| PieceHash::of(black_box(&bytes)));
        });
    }
    group.finish();
}

/// Pieces that wait together are hashed together; from five on that is faster than one by one, with AVX-512.
fn pieces(c: &mut Criterion) {
    let bytes: Vec<Vec<u8>> = (0..16).map(|_| bytes(MIB)).collect();
    let pieces: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
    let mut group = c.benchmark_group("hash pieces of 1 MiB together");
    for count in [1, 4, 6, 8, 12, 16] {
        group.throughput(Throughput::Bytes((count * MIB) as u64));
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| PieceHash::of_each(black_box(&pieces[..count])));
        });
    }
    group.finish();
}

fn file(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("content");
    fs::write(&path, bytes(FILE_BYTES)).expect("room for it");
    let mut group = c.benchmark_group("hash a file");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(FILE_BYTES as u64));
    for threads in [1, 2, 4] {
        group.bench_function(BenchmarkId::new("threads", threads), |b| {
            b.iter(|| {
                dosvc_piece_store::hash_file_of(&path, 1 << 20, threads, &mut |_| {})
                    .expect("it does not change")
            });
        });
    }
    group.finish();
}

fn hash_file(c: &mut Criterion) {
    let lengths = PieceLengths::new(u64::from(PIECES) << 20, 1 << 20).expect("100 GB");
    let hashes: Vec<_> = lengths
        .pieces()
        .map(|piece| PieceHash::of(&piece.get().to_be_bytes()))
        .collect();
    let file = PiecesHashFile::new(lengths, hashes).expect("consistent");
    let json = file.to_json();
    let mut group = c.benchmark_group("hash file");
    group.sample_size(20);
    group.throughput(Throughput::Elements(PIECES.into()));
    group.bench_function("read and verify", |b| {
        b.iter(|| PiecesHashFile::from_json(black_box(&json)).expect("just written"));
    });
    group.bench_function("write", |b| b.iter(|| black_box(&file).to_json()));
    group.finish();
}

criterion_group!(benches, piece, pieces, file, hash_file);
criterion_main!(benches);
