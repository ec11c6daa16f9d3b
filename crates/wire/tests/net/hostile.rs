//! Peers that break every rule. Each must end its own connection, for its own reason, and nothing else.

use crate::rig::*;
use dosvc_content::{BitfieldError, HResult};
use dosvc_wire::net::*;
use dosvc_wire::{
    CAPABILITY_PARTS, DecodeError, EXTENSION_VERSION, Extension, Header, Message, RawBlock,
    Violation,
};
use tokio::io::AsyncWriteExt as _;

fn encoded(messages: &[Message]) -> Vec<u8> {
    let mut out = Vec::new();
    messages.iter().for_each(|m| m.encode(&mut out));
    out
}

fn raw(piece: u32, offset: u32, length: u32) -> RawBlock {
    RawBlock {
        piece,
        offset,
        length,
    }
}

fn piece(piece: u32, offset: u32, data: &'static [u8]) -> Message {
    Message::Piece {
        piece,
        offset,
        data: data.into(),
    }
}

fn bitfield(bits: &'static [u8]) -> Message {
    Message::Bitfield(bits.into())
}

fn extension(extension: &Extension) -> Message {
    let mut out = Vec::new();
    extension.encode(&mut out);
    Message::Extension(out.into())
}

/// What ends the connection of a peer that sends these bytes. We have unchoked it, it us, and we asked it for
/// the first hundred bytes of piece 0.
async fn verdict(bytes: &[u8]) -> CloseReason {
    let (mut driven, mut peer) = against_raw(Options::default()).await;
    driven.send(Command::Unchoke);
    peer.send(&Message::Extension(vec![1].into())).await;
    peer.bytes(bytes).await;
    // What follows is never looked at, or it would be told.
    peer.send(&Message::Have(9)).await;
    loop {
        match driven.next().await {
            Event::Unchoked => driven.send(Command::Request(block(0, 0, 100))),
            Event::Have(p) if p.get() == 9 => panic!("went on after the violation"),
            Event::Closed(reason) => {
                assert_eq!(driven.pool.in_use(), 0);
                return reason;
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn each_broken_rule_is_named() {
    let bad = DecodeError::ExtensionLength { kind: 1, length: 3 };
    let metainfo = extension(&Extension::Metainfo {
        content_length: 1,
        piece_size: 1 << 20,
        first: 0,
        hashes: Vec::new(),
    });
    let spare = Violation::BadBitfield(BitfieldError::SpareBits);
    let long = Violation::BadBitfield(BitfieldError::WrongLength { got: 3, want: 2 });
    let cases: Vec<(Vec<u8>, Violation)> = vec![
        (
            b"\x7f\xff\xff\xff\x07".to_vec(),
            DecodeError::TooLong(0x7fff_ffff).into(),
        ),
        (
            b"\0\x1f\x40\x01\x05".to_vec(),
            DecodeError::TooLong(0x1f_4001).into(),
        ),
        (b"\0\0\0\x01\x09".to_vec(), DecodeError::UnknownId(9).into()),
        (
            b"\0\0\0\x02\x00\0".to_vec(),
            DecodeError::WrongLength { id: 0, length: 2 }.into(),
        ),
        (
            encoded(&[piece(1, 0, b"x")]),
            Violation::Unrequested(raw(1, 0, 1)),
        ),
        (
            encoded(&[piece(11, 0, b"x")]),
            Violation::BadRange(raw(11, 0, 1)),
        ),
        (
            encoded(&[bitfield(b"\0\0"), bitfield(b"\0\0")]),
            Violation::LateBitfield,
        ),
        (
            encoded(&[Message::Unchoke, bitfield(b"\0\0")]),
            Violation::LateBitfield,
        ),
        (encoded(&[bitfield(b"\0\x01")]), spare),
        (encoded(&[bitfield(b"\0\0\0")]), long),
        (encoded(&[Message::Have(11)]), Violation::NoSuchPiece(11)),
        (
            encoded(&[Message::Request(raw(0, 0, MIB + 1))]),
            Violation::BadRange(raw(0, 0, MIB + 1)),
        ),
        (
            encoded(&[Message::Cancel(raw(10, 5, 1))]),
            Violation::BadRange(raw(10, 5, 1)),
        ),
        (
            encoded(&[Message::Extension(b"dosvc\x01abc".as_slice().into())]),
            bad.into(),
        ),
        (encoded(&[metainfo]), Violation::UnrequestedMetainfo),
    ];
    for (bytes, violation) in cases {
        let reason = verdict(&bytes).await;
        assert_eq!(reason, CloseReason::Misbehaved(violation));
        assert!(reason.is_misbehaviour());
        let too_long = matches!(violation, Violation::Malformed(DecodeError::TooLong(_)));
        let code = if too_long {
            HResult::MESSAGE_TOO_LONG
        } else {
            HResult::MESSAGE_INVALID
        };
        assert_eq!(reason.hresult(), code);
    }
}

#[tokio::test]
async fn the_right_block_at_another_offset_is_unrequested() {
    let (mut driven, mut peer) = against_raw(Options::default()).await;
    peer.send(&Message::Unchoke).await;
    assert!(matches!(driven.next().await, Event::Unchoked));
    driven.send(Command::Request(block(0, 100, 50)));
    assert_eq!(peer.header().await, Header::Request(raw(0, 100, 50)));
    peer.send(&piece(0, 99, &[0; 50])).await;
    let unrequested = Violation::Unrequested(raw(0, 99, 50));
    assert_eq!(driven.closed().await, CloseReason::Misbehaved(unrequested));
}

/// A driven end that takes parts and asked for 150 bytes, of which the first 50 are sent.
async fn with_a_part_here() -> (Driven, Raw) {
    let (mut driven, mut peer) = against_raw(Options::default()).await;
    let hello = Extension::Hello {
        version: EXTENSION_VERSION,
        capabilities: CAPABILITY_PARTS,
        listen_port: 0,
        nonce: [0; 16],
    };
    driven.send(Command::Extension(hello));
    peer.extension().await;
    peer.send(&Message::Unchoke).await;
    assert!(matches!(driven.next().await, Event::Unchoked));
    driven.send(Command::Request(block(0, 100, 150)));
    assert_eq!(peer.header().await, Header::Request(raw(0, 100, 150)));
    peer.send(&piece(0, 100, &[0; 50])).await;
    (driven, peer)
}

#[tokio::test]
async fn a_part_of_a_block_out_of_turn_ends_the_connection() {
    for (offset, data) in [(100, [0; 50].as_slice()), (151, &[0; 50]), (150, &[0; 101])] {
        let (driven, mut peer) = with_a_part_here().await;
        peer.send(&piece(0, offset, data)).await;
        let length = data.len() as u32;
        let violation = Violation::OutOfTurn(raw(0, offset, length));
        assert_eq!(driven.closed().await, CloseReason::Misbehaved(violation));
    }
}

#[tokio::test]
async fn a_peer_may_leave_between_the_parts_of_a_block() {
    let (driven, mut peer) = with_a_part_here().await;
    peer.send(&Message::Have(3)).await;
    drop(peer);
    assert_eq!(
        driven.closed().await,
        CloseReason::Peer,
        "no buffer is kept"
    );
}

#[tokio::test]
async fn a_flood_of_requests_ends_the_connection() {
    let requests: Vec<Message> = (0..10_000)
        .map(|n| Message::Request(raw(0, n, 1)))
        .collect();
    let reason = verdict(&encoded(&requests)).await;
    assert_eq!(reason, CloseReason::Misbehaved(Violation::RequestFlood));
}

/// Memory stays bounded because the socket's own flow control reaches the peer.
#[tokio::test]
async fn a_flood_that_nobody_takes_stops_at_the_peer() {
    let (driven, peer) = against_raw(Options {
        events_max: 4,
        ..Options::default()
    })
    .await;
    let flood = encoded(&vec![Message::Have(1); 100_000]);
    let mut stream = peer.0;
    let mut sent: u64 = 0;
    // Kernel buffers grow to some MiB on both ends; 256 MiB can only go if somebody takes them.
    while sent < 256 << 20 {
        let write =
            tokio::time::timeout(std::time::Duration::from_millis(500), stream.write(&flood));
        match write.await {
            Ok(n) => sent += n.expect("open") as u64,
            Err(_) => break,
        }
    }
    assert!(sent < 256 << 20, "{sent} bytes went somewhere");
    drop(stream);
    driven.send(Command::Close);
    driven.closed().await;
}

#[tokio::test]
async fn what_waits_for_a_peer_that_does_not_read_is_bounded() {
    let (driven, _peer) = against_raw(Options::default()).await;
    for _ in 0..100 {
        driven.send(Command::Extension(Extension::Metainfo {
            content_length: 1,
            piece_size: 1 << 20,
            first: 0,
            hashes: vec![[0; 32].into(); 32_768],
        }));
    }
    assert_eq!(driven.closed().await, CloseReason::SendQueueFull);
}

/// A session that touches every message, cut off after every byte.
#[tokio::test]
async fn a_peer_may_leave_at_any_byte() {
    let session = [
        bitfield(b"\xff\xe0"),
        extension(&Extension::Fetching {
            add: vec![1],
            drop: vec![],
        }),
        extension(&Extension::Lead(None)),
        Message::Interested,
        Message::Unchoke,
        Message::KeepAlive,
        Message::Have(3),
        Message::Request(raw(0, 0, 9)),
        Message::Cancel(raw(0, 0, 9)),
    ];
    let bytes = encoded(&session);
    let mut ends = vec![0];
    for message in &session {
        ends.push(ends[ends.len() - 1] + encoded(std::slice::from_ref(message)).len());
    }
    for cut in 0..=bytes.len() {
        let (driven, mut peer) = against_raw(Options::default()).await;
        peer.bytes(&bytes[..cut]).await;
        drop(peer);
        let want = if ends.contains(&cut) {
            CloseReason::Peer
        } else {
            CloseReason::Truncated
        };
        assert_eq!(driven.closed().await, want, "after {cut} bytes");
    }
}

#[tokio::test]
async fn a_peer_may_leave_in_the_middle_of_a_block() {
    for cut in [0, 1, 2000, 2048, 70_000, 99_999] {
        let (mut driven, mut peer) = against_raw(Options::default()).await;
        peer.send(&Message::Unchoke).await;
        assert!(matches!(driven.next().await, Event::Unchoked));
        driven.send(Command::Request(block(0, 0, 100_000)));
        peer.header().await;
        let mut bytes = Vec::new();
        Header::Piece(raw(0, 0, 100_000)).encode(&mut bytes);
        bytes.extend(vec![0; cut]);
        peer.bytes(&bytes).await;
        drop(peer);
        assert_eq!(driven.closed().await, CloseReason::Truncated);
    }
}

#[tokio::test]
async fn a_reset_is_a_lost_connection() {
    let (mut driven, mut peer) = against_raw(Options::default()).await;
    peer.send(&Message::Interested).await;
    assert!(matches!(driven.next().await, Event::Interested(true)));
    peer.0.set_zero_linger().expect("open");
    drop(peer);
    let lost = CloseReason::Lost(std::io::ErrorKind::ConnectionReset);
    assert_eq!(driven.closed().await, lost);
}

/// Mostly sensible messages with random parts, and plain noise: every connection ends, none panics.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_ends_in_a_reason() {
    let mut seed = 0x5eed_u64;
    println!("seed {seed}");
    for _ in 0..300 {
        let (driven, mut peer) = against_raw(Options::default()).await;
        driven.send(Command::Unchoke);
        let mut bytes = Vec::new();
        for _ in 0..next(&mut seed) % 50 {
            let a = next(&mut seed);
            let length = [1, 5, 13, 10 + (a >> 32) as u32 % 30][a as usize % 4];
            bytes.extend(length.to_be_bytes());
            bytes.push((a >> 8) as u8 % 24);
            bytes.extend((1..length).map(|_| (next(&mut seed) % 12) as u8 & (a >> 20) as u8));
        }
        peer.bytes(&bytes).await;
        drop(peer);
        driven.closed().await;
    }
}
