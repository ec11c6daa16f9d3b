use crate::rig::{Driven, Options, PATIENCE, streams};
use dosvc_content::{GroupHash, GroupId, PeerId};
use dosvc_wire::net::*;
use dosvc_wire::{Extension, Header, Message, Violation};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn group(name: &str) -> GroupHash {
    name.parse::<GroupId>().expect("valid").hash()
}

fn params(group: GroupHash, local: u8, remote: u8) -> GroupParams {
    GroupParams {
        group,
        swarm: [1; 32].into(),
        local: PeerId::from_random([local; 16]),
        remote: PeerId::from_random([remote; 16]),
        capabilities: u32::from(local),
        listen_port: 7680,
        nonce: [local ^ 0x55; 16],
    }
}

#[tokio::test]
async fn members_let_one_another_in_and_go_on() {
    let (mut a, mut b) = streams().await;
    let (ours, theirs) = (params(group("g"), 1, 2), params(group("g"), 2, 1));
    let (x, y) = tokio::join!(
        exchange_group_proof(&mut a, Role::Connecting, &ours, PATIENCE),
        exchange_group_proof(&mut b, Role::Accepting, &theirs, PATIENCE),
    );
    assert_eq!(x.expect("a member").capabilities, 2);
    assert_eq!(y.expect("a member").listen_port, 7680);
    let (mut a, b) = (
        Driven::new(a, Options::default()),
        Driven::new(b, Options::default()),
    );
    b.send(Command::Unchoke);
    assert!(matches!(a.next().await, Event::Unchoked));
}

#[tokio::test]
async fn a_member_of_another_group_gets_no_proof() {
    let (mut a, mut b) = streams().await;
    let (ours, theirs) = (params(group("g"), 1, 2), params(group("h"), 2, 1));
    let accepting = async {
        let result = verify_group(&mut b, &theirs, PATIENCE).await;
        drop(b);
        result
    };
    let (x, y) = tokio::join!(prove_group(&mut a, &ours, PATIENCE), accepting);
    assert!(matches!(x, Err(GroupError::Closed)), "{x:?}");
    assert!(matches!(y, Err(GroupError::WrongProof)), "{y:?}");
}

#[tokio::test]
async fn a_member_without_the_content_closes_without_its_proof() {
    let (mut a, mut b) = streams().await;
    let (ours, theirs) = (params(group("g"), 1, 2), params(group("g"), 2, 1));
    let accepting = async {
        let verified = verify_group(&mut b, &theirs, PATIENCE)
            .await
            .expect("a member");
        assert_eq!(verified.hello().capabilities, 1);
        drop(b);
    };
    let (x, ()) = tokio::join!(prove_group(&mut a, &ours, PATIENCE), accepting);
    assert!(matches!(x, Err(GroupError::Closed)), "{x:?}");
}

#[tokio::test]
async fn an_impostor_cannot_play_our_own_proof_back() {
    // It answers with the very Hello and proof that it was sent.
    let (mut a, b) = streams().await;
    let (mut read, mut write) = b.into_split();
    let echo = tokio::spawn(async move { tokio::io::copy(&mut read, &mut write).await });
    let result = prove_group(&mut a, &params(group("g"), 1, 2), PATIENCE).await;
    assert!(matches!(result, Err(GroupError::WrongProof)), "{result:?}");
    let result = prove_group(&mut a, &params(group("g"), 1, 1), PATIENCE).await;
    assert!(
        matches!(result, Err(GroupError::ConnectedToSelf)),
        "{result:?}"
    );
    drop(a);
    let _ = echo.await.expect("no panic");
}

/// What the accepting side makes of a peer that sends these bytes, and what it had told it by then.
async fn accepting(bytes: &[u8], timeout: Duration) -> (GroupError, Vec<u8>) {
    let (mut a, mut b) = streams().await;
    a.write_all(bytes).await.expect("sent");
    let error = verify_group(&mut b, &params(group("g"), 2, 1), timeout)
        .await
        .expect_err("no member");
    // Closed in an orderly way, so that the test reads all that was sent.
    b.shutdown().await.expect("open");
    let mut told = Vec::new();
    a.read_to_end(&mut told).await.expect("open");
    (error, told)
}

#[tokio::test]
async fn strangers_learn_nothing_but_a_hello() {
    let mut windows = Vec::new();
    Message::Bitfield(vec![0xff; 2].into()).encode(&mut windows);
    let mut have = Vec::new();
    Message::Have(1).encode(&mut have);
    let mut long = Vec::new();
    Header::Extension { length: 1_000_022 }.encode(&mut long);
    long.extend(b"dosvc\x04");
    let mut early_proof = Vec::new();
    Header::Extension { length: 38 }.encode(&mut early_proof);
    Extension::GroupProof([0; 32]).encode(&mut early_proof);
    for bytes in [&windows, &have, &long, &early_proof] {
        let (error, told) = accepting(bytes, PATIENCE).await;
        assert!(
            matches!(error, GroupError::NoProof | GroupError::Misbehaved(_)),
            "{error:?}"
        );
        assert_eq!(told.len(), 5 + 29, "one Hello");
    }
    let (error, _) = accepting(b"\xff\xff\xff\xff", PATIENCE).await;
    assert!(
        matches!(error, GroupError::Misbehaved(Violation::Malformed(_))),
        "{error:?}"
    );
    let (error, _) = accepting(b"\0\0\0\0", Duration::from_millis(50)).await;
    assert!(matches!(error, GroupError::TimedOut), "{error:?}");
}

#[tokio::test]
async fn foreign_extensions_in_front_are_skipped_but_not_without_end() {
    let mut foreign = Vec::new();
    Message::Extension(vec![0x0c; 5000].into()).encode(&mut foreign);
    let (mut a, mut b) = streams().await;
    a.write_all(&foreign).await.expect("sent");
    let (ours, theirs) = (params(group("g"), 1, 2), params(group("g"), 2, 1));
    let (x, y) = tokio::join!(
        exchange_group_proof(&mut a, Role::Connecting, &ours, PATIENCE),
        exchange_group_proof(&mut b, Role::Accepting, &theirs, PATIENCE),
    );
    assert!(x.is_ok() && y.is_ok(), "{x:?} {y:?}");

    let (error, _) = accepting(&foreign.repeat(14), PATIENCE).await;
    assert!(matches!(error, GroupError::NoProof), "{error:?}");
}
