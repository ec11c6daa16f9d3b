//! Encoding and decoding messages: `cargo bench --bench codec`.

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use dosvc_content::{HashOfHashes, PeerId, PieceHash};
use dosvc_wire::{Extension, Handshake, Header, Message, RawBlock};
use std::hint::black_box;

const MESSAGES: u32 = 1000;

fn request(piece: u32) -> Header {
    Header::Request(RawBlock {
        piece,
        offset: 0,
        length: 1 << 20,
    })
}

fn headers(c: &mut Criterion) {
    let mut group = c.benchmark_group("header");
    group.throughput(Throughput::Elements(u64::from(MESSAGES)));
    group.bench_function("encode 1000 requests", |b| {
        let mut out = Vec::with_capacity(17 * MESSAGES as usize);
        b.iter(|| {
            out.clear();
            (0..MESSAGES).for_each(|piece| request(piece).encode(&mut out));
            black_box(&out);
        });
    });
    let mut bytes = Vec::new();
    (0..MESSAGES).for_each(|piece| request(piece).encode(&mut bytes));
    group.bench_function("decode 1000 requests", |b| {
        b.iter(|| {
            let mut rest = black_box(&bytes[..]);
            while let Ok(Some((header, used))) = Header::decode(rest) {
                black_box(header);
                rest = &rest[used..];
            }
        });
    });
    group.finish();
}

fn long_messages(c: &mut Criterion) {
    let hashes: [PieceHash; 1] = [[7; 32].into()];
    let metainfo = Extension::Metainfo {
        content_length: 1 << 35,
        piece_size: 1 << 20,
        first: 0,
        hashes: hashes.repeat(32_768),
    };
    let mut payload = Vec::new();
    metainfo.encode(&mut payload);
    let mut group = c.benchmark_group("long");
    group.throughput(Throughput::Bytes(payload.len() as u64));
    group.bench_function("decode metainfo of 32768 hashes", |b| {
        b.iter(|| Extension::decode(black_box(&payload)));
    });
    let mut piece = Vec::new();
    let data = Bytes::from(vec![0; 1 << 20]);
    Message::Piece {
        piece: 0,
        offset: 0,
        data,
    }
    .encode(&mut piece);
    let piece = Bytes::from(piece);
    group.throughput(Throughput::Bytes(1 << 20));
    group.bench_function("decode a piece of 1 MiB", |b| {
        b.iter_batched(
            || piece.clone(),
            |mut bytes| Message::decode(&mut bytes),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn handshake(c: &mut Criterion) {
    let ours = Handshake::new(HashOfHashes::from([1; 32]), PeerId::from_random([2; 16]));
    c.bench_function("handshake there and back", |b| {
        b.iter(|| Handshake::decode(&black_box(&ours).encode()));
    });
}

criterion_group!(benches, headers, long_messages, handshake);
criterion_main!(benches);
