//! The array's core without HTTP: joins into swarms that are full already, the case that a busy array has all day.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use dosvc_cloud_protocol::{CountryCode, JoinAnswer, JoinRequest, Scope};
use dosvc_control_plane::array::{Array, ArrayLimits, Draw, Seen};
use std::{hint::black_box, net::Ipv4Addr};

fn request(number: u32, contents: u32, scope: Scope) -> (Seen, JoinRequest) {
    let mut id = [7; 20];
    id[..4].copy_from_slice(&number.to_be_bytes());
    let content = format!("content {}", number % contents)
        .parse()
        .expect("an id");
    let mut request = JoinRequest::new(content, id.into(), scope);
    request.left = u64::from(!number.is_multiple_of(4));
    request.reported_ip = Some(Ipv4Addr::from(0x0a00_0001 + number));
    request.group_id = Some([(number % 97) as u8 + 1; 32].into());
    // Sites of fifty.
    let address = Ipv4Addr::from(0x0b00_0000 + number / contents / 50 * 251);
    let seen = Seen {
        address: address.into(),
        country: CountryCode::UNKNOWN,
    };
    (seen, request)
}

fn full(peers: u32, contents: u32, scope: Scope) -> Array {
    let array = Array::new(ArrayLimits {
        entries_per_address_max: u32::MAX,
        entries_per_network_max: u32::MAX,
        ..ArrayLimits::default()
    });
    for number in 0..peers {
        let (seen, mut request) = request(number, contents, scope);
        request.peers_wanted = 0;
        array.join(1, draw(number), seen, &request);
    }
    array
}

fn draw(number: u32) -> Draw {
    Draw {
        token: number.into(),
        seed: u64::from(number) << 20 | 7,
    }
}

fn joins(c: &mut Criterion) {
    let mut group = c.benchmark_group("array");
    group.throughput(Throughput::Elements(1));
    const PEERS: u32 = 1_000_000;
    for (name, contents, scope) in [
        ("lan, 1000 swarms", 1000, Scope::Lan),
        ("group, 1000 swarms", 1000, Scope::Group),
        ("internet, 1000 swarms", 1000, Scope::Internet),
        ("internet, 1 swarm", 1, Scope::Internet),
    ] {
        let array = full(PEERS, contents, scope);
        let mut number = 0_u32;
        group.bench_function(format!("renew at a million peers, {name}"), |b| {
            b.iter_batched(
                || {
                    number = number.wrapping_add(7919) % PEERS;
                    (draw(number), request(number, contents, scope))
                },
                |(draw, (seen, request))| black_box(array.join(2, draw, seen, &request)),
                BatchSize::SmallInput,
            );
        });
    }
    let array = full(PEERS, 1000, Scope::Internet);
    let mut number = PEERS;
    group.bench_function("new at a million peers, internet, 1000 swarms", |b| {
        b.iter_batched(
            || {
                number += 1;
                (draw(number), request(number, 1000, Scope::Internet))
            },
            |(draw, (seen, request))| black_box(array.join(2, draw, seen, &request)),
            BatchSize::SmallInput,
        );
    });
    let (seen, join) = request(5, 1000, Scope::Internet);
    let answer: JoinAnswer = array.join(2, draw(5), seen, &join);
    assert_eq!(answer.peers.len(), 50);
    group.bench_function("write an answer of 50 peers", |b| {
        b.iter(|| black_box(answer.to_json()))
    });
    let body = join.to_json();
    group.bench_function("read a join", |b| {
        b.iter(|| JoinRequest::from_json(black_box(&body)))
    });
    group.finish();
}

criterion_group!(benches, joins);
criterion_main!(benches);
