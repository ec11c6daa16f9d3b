use crate::rig::{Driven, Options, PATIENCE, streams};
use dosvc_content::{GroupHash, GroupId, PeerId};
use dosvc_wire::member::Signed;
use dosvc_wire::net::*;
use dosvc_wire::{Demand, Extension, GroupKey, Header, Message, Violation};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn group(name: &str) -> GroupHash {
    name.parse::<GroupId>().expect("valid").hash()
}

fn params(group: GroupHash, local: u8, remote: u8) -> GroupParams {
    GroupParams {
        group: GroupKey::of_id(group, Demand::Id),
        credentials: None,
        reached: Reached::Authenticated,
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

/// Certificates that are their peer's id and a signature that repeats the message; `spoilt` ones are refused.
#[derive(Debug)]
struct Paper(PeerId);

const UNTIL: SystemTime = SystemTime::UNIX_EPOCH;

impl Credentials for Paper {
    fn certificate(&self) -> &[u8] {
        self.0.as_bytes()
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, String> {
        Ok(message[message.len() - 100..].to_vec())
    }

    fn verify(
        &self,
        signed: &Signed,
        message: &[u8],
        peer: &PeerId,
        _: &GroupHash,
    ) -> Result<SystemTime, String> {
        let own = signed.certificate == peer.as_bytes();
        let signs = message.ends_with(&signed.signature);
        (own && signs)
            .then_some(UNTIL)
            .ok_or_else(|| "spoilt".to_owned())
    }
}

fn dialled() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 7680))
}

/// Both sides of a connection from 1 to 2, at the address that 1 has dialled.
fn members(key: GroupKey) -> (GroupParams, GroupParams) {
    let side = |local, remote, reached| {
        let params = params(*key.group(), local, remote);
        GroupParams {
            group: key,
            credentials: Some(Arc::new(Paper(params.local))),
            reached,
            ..params
        }
    };
    let at = vec![SocketAddr::from(([10, 0, 0, 1], 7680)), dialled()];
    (
        side(1, 2, Reached::Dialled(dialled())),
        side(2, 1, Reached::At(at)),
    )
}

async fn meet(
    ours: &GroupParams,
    theirs: &GroupParams,
) -> (Result<PeerHello, GroupError>, Result<PeerHello, GroupError>) {
    let (mut a, mut b) = streams().await;
    let accepting = async {
        let result = exchange_group_proof(&mut b, Role::Accepting, theirs, PATIENCE).await;
        drop(b);
        result
    };
    let connecting = async {
        let result = exchange_group_proof(&mut a, Role::Connecting, ours, PATIENCE).await;
        drop(a);
        result
    };
    tokio::join!(connecting, accepting)
}

fn secret(text: &[u8], demand: Demand) -> GroupKey {
    GroupKey::of_secret(group("g"), demand, text)
}

#[tokio::test]
async fn members_by_secret_and_by_certificate_let_one_another_in() {
    for (key, until) in [
        (secret(b"s", Demand::Secret), None),
        (secret(b"s", Demand::Certificate), Some(UNTIL)),
        (
            GroupKey::of_id(group("g"), Demand::Certificate),
            Some(UNTIL),
        ),
    ] {
        let (ours, theirs) = members(key);
        let (x, y) = meet(&ours, &theirs).await;
        assert_eq!(x.expect("a member").proven_until, until);
        assert_eq!(y.expect("a member").proven_until, until);
    }
}

#[tokio::test]
async fn every_mixture_of_proofs_fails_and_says_which() {
    let keys = [
        GroupKey::of_id(group("g"), Demand::Id),
        secret(b"s", Demand::Secret),
        secret(b"s", Demand::Certificate),
    ];
    for (i, dialling) in keys.iter().enumerate() {
        for (k, accepting) in keys.iter().enumerate() {
            let (ours, _) = members(*dialling);
            let (_, theirs) = members(*accepting);
            let (x, y) = meet(&ours, &theirs).await;
            assert_eq!((x.is_ok(), y.is_ok()), (i == k, i == k));
            let Err(error) = y else { continue };
            assert!(
                matches!(error, GroupError::OtherProof { theirs, ours }
                    if theirs == dialling.demand() && ours == accepting.demand()),
                "{error}"
            );
            assert!(matches!(x, Err(GroupError::Closed)), "{x:?}");
        }
    }
}

#[tokio::test]
async fn who_knows_the_id_and_not_the_secret_learns_nothing() {
    for stranger in [
        GroupKey::of_id(group("g"), Demand::Secret),
        secret(b"t", Demand::Secret),
    ] {
        let (ours, _) = members(stranger);
        let (_, theirs) = members(secret(b"s", Demand::Secret));
        let (x, y) = meet(&ours, &theirs).await;
        assert!(matches!(x, Err(GroupError::Closed)), "{x:?}");
        assert!(matches!(y, Err(GroupError::WrongProof)), "{y:?}");
    }
}

/// A stranger announces itself, is dialled by a member, and dials another member to hand everything on.
#[tokio::test]
async fn a_stranger_in_between_is_noticed_by_the_address() {
    for demand in [Demand::Secret, Demand::Certificate] {
        let (ours, theirs) = members(secret(b"s", demand));
        let theirs = GroupParams {
            reached: Reached::At(vec![SocketAddr::from(([10, 0, 0, 1], 7680))]),
            ..theirs
        };
        let (x, y) = meet(&ours, &theirs).await;
        assert!(matches!(x, Err(GroupError::Closed)), "{x:?}");
        assert!(
            matches!(y, Err(GroupError::OtherAddress(address)) if address == dialled()),
            "{y:?}"
        );
    }
}

#[tokio::test]
async fn a_certificate_of_somebody_else_is_no_proof() {
    let key = secret(b"s", Demand::Certificate);
    let (mut ours, theirs) = members(key);
    ours.credentials = Some(Arc::new(Paper(PeerId::from([9; 20]))));
    let (_, y) = meet(&ours, &theirs).await;
    assert!(
        matches!(&y, Err(GroupError::Certificate(why)) if why == "spoilt"),
        "{y:?}"
    );
    ours.credentials = None;
    let (x, _) = meet(&ours, &theirs).await;
    assert!(matches!(x, Err(GroupError::OwnCertificate(_))), "{x:?}");
}
