use crate::rig::{Driven, Options, PATIENCE, streams};
use dosvc_content::{Bitfield, HResult, PeerId};
use dosvc_wire::net::*;
use dosvc_wire::{HANDSHAKE_LEN, Handshake, HandshakeDecodeError};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn handshake() -> Handshake {
    Handshake::new([5; 32].into(), PeerId::from_random([6; 16]))
}

#[tokio::test]
async fn a_handshake_leaves_before_anything_else_is_written() {
    let (mut ours, mut theirs) = streams().await;
    assert!(
        ours.nodelay().expect("open"),
        "delayed sending would hold it back"
    );
    send_handshake(&mut ours, &handshake()).await.expect("sent");
    let mut bytes = [0; 200];
    assert_eq!(theirs.read(&mut bytes).await.expect("open"), HANDSHAKE_LEN);
    assert_eq!(bytes[..HANDSHAKE_LEN], handshake().encode());
}

#[tokio::test]
async fn nothing_behind_a_handshake_is_lost() {
    let (mut ours, mut theirs) = streams().await;
    let mut bytes = handshake().encode().to_vec();
    bytes.extend([0, 0, 0, 3, 5, 0xff, 0xe0]);
    theirs.write_all(&bytes).await.expect("sent");
    let got = receive_handshake(&mut ours, PATIENCE).await;
    assert_eq!(got.expect("a handshake"), handshake());
    let mut driven = Driven::new(ours, Options::default());
    let first = driven.next().await;
    assert!(
        matches!(&first, Event::Bitfield(f) if *f == Bitfield::full(11)),
        "{first:?}"
    );
}

#[tokio::test]
async fn a_stranger_is_refused_at_its_first_wrong_byte() {
    let (mut ours, mut theirs) = streams().await;
    theirs.write_all(b"GET / HTTP/1.1\r\n").await.expect("sent");
    let error = receive_handshake(&mut ours, PATIENCE)
        .await
        .expect_err("stranger");
    assert!(
        matches!(
            error,
            HandshakeError::Malformed(HandshakeDecodeError::NameLength(b'G'))
        ),
        "{error:?}"
    );
    assert_eq!(error.hresult(), HResult::HANDSHAKE_LENGTH);

    let (mut ours, mut theirs) = streams().await;
    theirs.write_all(b"\x0eSwarm protocoL").await.expect("sent");
    let error = receive_handshake(&mut ours, PATIENCE)
        .await
        .expect_err("stranger");
    assert!(
        matches!(error, HandshakeError::Malformed(HandshakeDecodeError::Name)),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_short_handshake_is_told_from_none() {
    for len in [0, 1, 15, HANDSHAKE_LEN - 1] {
        let (mut ours, mut theirs) = streams().await;
        theirs
            .write_all(&handshake().encode()[..len])
            .await
            .expect("sent");
        drop(theirs);
        let error = receive_handshake(&mut ours, PATIENCE)
            .await
            .expect_err("short");
        assert!(
            matches!(error, HandshakeError::Closed(n) if n == len),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_not_waited_for() {
    let (mut ours, mut theirs) = streams().await;
    theirs
        .write_all(&handshake().encode()[..70])
        .await
        .expect("sent");
    let error = receive_handshake(&mut ours, Duration::from_millis(50)).await;
    assert!(matches!(error, Err(HandshakeError::TimedOut)), "{error:?}");
}
