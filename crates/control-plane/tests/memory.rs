//! What a million peers take, as the kernel counts it. Alone in its process.

#![allow(clippy::unwrap_used, reason = "tests")]

use dosvc_cloud_protocol::{CountryCode, JoinRequest, Scope};
use dosvc_control_plane::array::{Array, ArrayLimits, Draw, Seen};
use std::{fs, net::Ipv4Addr};

const PEERS: u32 = 1_000_000;

/// The most bytes of memory for a peer; docs/control-plane.md promises it.
const BYTES_PER_PEER_MAX: u64 = 200;

fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kilobytes * 1024
}

/// Everybody behind an address of its own, in Internet mode and in a group: the most that a peer can take.
fn join(array: &Array, number: u32, contents: u32) {
    let mut id = [7; 20];
    id[..4].copy_from_slice(&number.to_be_bytes());
    let content = format!("content {}", number % contents).parse().unwrap();
    let mut request = JoinRequest::new(content, id.into(), Scope::Internet);
    request.left = 1;
    request.peers_wanted = 10;
    request.group_id = Some([(number % 199) as u8 + 1; 32].into());
    let seen = Seen {
        address: Ipv4Addr::from(0x0b00_0000 + number * 13).into(),
        country: CountryCode::UNKNOWN,
    };
    let draw = Draw {
        token: number.into(),
        seed: number.into(),
    };
    assert!(array.join(1, draw, seen, &request).token.is_some());
}

#[test]
fn a_peer_takes_at_most_200_bytes() {
    for contents in [1000, 20] {
        let array = Array::new(ArrayLimits::default());
        let empty = resident();
        for number in 0..PEERS {
            join(&array, number, contents);
        }
        let stats = array.stats();
        assert_eq!(stats.entries, u64::from(PEERS));
        // Without the counters of addresses, whose size is fixed.
        let fixed = Array::new(ArrayLimits::default()).stats().memory_bytes;
        let counted = (stats.memory_bytes - fixed) / u64::from(PEERS);
        // The second array may get memory that the first one has left.
        let kernel = resident().saturating_sub(empty) / u64::from(PEERS);
        println!(
            "{contents} contents: {counted} bytes counted, {kernel} bytes resident for each peer"
        );
        assert!(counted <= BYTES_PER_PEER_MAX, "{counted}");
        assert!(kernel <= BYTES_PER_PEER_MAX, "{kernel}");
        array.expire(1_000_000);
        let left = array.stats().memory_bytes - fixed;
        assert!(
            left < 1 << 20,
            "what expires gives its memory back: {left} bytes stay"
        );
    }
}
