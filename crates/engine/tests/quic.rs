//! QUIC between engines, and what strangers can do with it.

#[allow(dead_code, unreachable_pub, reason = "a module of tests")]
mod support;

use dosvc_content::{HashOfHashes, PeerId};
use dosvc_engine::{
    Engine, EngineConfig, QuicUse,
    api::{SourceExplanation, Transport},
};
use dosvc_nat::quic::{Identity, Link, Manner, PeerStream, QuicEndpoint};
use dosvc_wire::{Handshake, net};
use std::{net::SocketAddr, time::Duration};
use support::{Node, Origin, PATIENCE, config, content, eventually, hash_file};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const MIB: usize = 1 << 20;

async fn start(quic: QuicUse, peers: &[SocketAddr]) -> Node {
    start_in("1", quic, peers).await
}

async fn start_in(mode: &str, quic: QuicUse, peers: &[SocketAddr]) -> Node {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let config = EngineConfig {
        nat: dosvc_engine::NatSettings {
            quic,
            ..Default::default()
        },
        ..config(&dir, &[("download_mode", mode)], peers)
    };
    let engine = Engine::start(config).await.expect("starts");
    Node { engine, dir }
}

/// Somebody with a key of its own.
struct Stranger {
    identity: Identity,
    end: QuicEndpoint,
}

impl Stranger {
    fn new() -> Self {
        let identity = Identity::generate().expect("a key");
        let here = "127.0.0.1:0".parse().expect("an address");
        let end = QuicEndpoint::direct(&identity, here).expect("a port");
        Self { identity, end }
    }

    fn id(&self) -> PeerId {
        self.identity.peer_id()
    }

    async fn link(&self, node: &Node) -> Link {
        let dial = self.end.dial(node.address(), None, Manner::Foreground);
        let link = tokio::time::timeout(PATIENCE, dial).await;
        link.expect("in time").expect("the engine listens")
    }

    async fn stream(&self, node: &Node) -> PeerStream {
        self.link(node).await.open().await.expect("one is allowed")
    }
}

/// Says to be this peer, and that it wants this content; whether it is answered.
async fn is_answered(stream: &mut PeerStream, swarm: HashOfHashes, id: PeerId) -> bool {
    let ours = Handshake::new(swarm, id);
    net::send_handshake(stream, &ours).await.is_ok()
        && net::receive_handshake(stream, PATIENCE).await.is_ok()
}

async fn seed() -> (Node, Vec<u8>, HashOfHashes, String, Origin) {
    let origin = Origin::start().await;
    let bytes = content(77, 5 * MIB);
    let url = origin.publish("a", &bytes);
    let node = start(QuicUse::Everywhere, &[]).await;
    node.finish(node.get(&url).await).await;
    let swarm = hash_file(&bytes, 1 << 20).hash_of_hashes();
    (node, bytes, swarm, url, origin)
}

#[tokio::test(flavor = "multi_thread")]
async fn content_comes_from_a_peer_by_quic_and_each_knows_the_other() {
    let (seed, bytes, _, url, origin) = seed().await;
    let sent = origin.sent();
    origin.limit(MIB as u64 / 8);
    let node = start(QuicUse::Everywhere, &[seed.address()]).await;
    let job = node.get(&url).await;
    let status = node.finish(job).await;
    assert!(node.bytes(job).await == bytes);
    assert!(status.downloaded.lan > 0, "{status:?}");
    assert!(
        origin.sent() - sent < bytes.len() as u64,
        "not all from the origin"
    );
    let explanation = node.engine.explain(&status.file_id).await.expect("known");
    let by_quic = |s: &&SourceExplanation| s.transport == Some(Transport::Quic);
    assert!(explanation.sources_are_past);
    let peer = explanation.sources.iter().find(by_quic);
    let peer = peer.unwrap_or_else(|| panic!("{:#?}", explanation.sources));
    assert_eq!(peer.delivered_bytes, status.downloaded.lan);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_speaks_tcp_alone_is_reached_all_the_same() {
    let origin = Origin::start().await;
    let bytes = content(78, 5 * MIB);
    let url = origin.publish("a", &bytes);
    let seed = start(QuicUse::Off, &[]).await;
    seed.finish(seed.get(&url).await).await;
    origin.limit(MIB as u64 / 8);
    let node = start(QuicUse::Everywhere, &[seed.address()]).await;
    let status = node.finish(node.get(&url).await).await;
    assert!(status.downloaded.lan > 0, "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_udp_port_is_open_where_there_is_nobody_to_speak_quic_with() {
    for (quic, mode, open) in [
        (QuicUse::Off, "3", false),
        (QuicUse::Distant, "1", false),
        (QuicUse::Distant, "3", true),
        (QuicUse::Everywhere, "1", true),
    ] {
        let node = start_in(mode, quic, &[]).await;
        let here = SocketAddr::from(([127, 0, 0, 1], node.address().port()));
        let taken = std::net::UdpSocket::bind(here).is_err();
        assert_eq!(taken, open, "{quic:?} in mode {mode}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_can_say_to_be_somebody_else() {
    let (seed, _, swarm, ..) = seed().await;
    let stranger = Stranger::new();
    let mut honest = stranger.stream(&seed).await;
    assert!(is_answered(&mut honest, swarm, stranger.id()).await);
    let mut liar = stranger.stream(&seed).await;
    let other = Identity::generate().expect("a key").peer_id();
    assert!(!is_answered(&mut liar, swarm, other).await);
    let mut mirror = stranger.stream(&seed).await;
    let itself: PeerId = seed.engine.status().peer_id.parse().expect("an id");
    assert!(!is_answered(&mut mirror, swarm, itself).await);
}

/// A peer whose path has died dials again before we notice; nobody else can cut it off.
#[tokio::test(flavor = "multi_thread")]
async fn a_later_connection_of_a_proven_peer_takes_the_place_of_the_first() {
    let (seed, _, swarm, ..) = seed().await;
    let stranger = Stranger::new();
    let mut first = stranger.stream(&seed).await;
    assert!(is_answered(&mut first, swarm, stranger.id()).await);
    let connected = async || {
        let peers = seed.engine.peers().await;
        peers.iter().filter(|p| p.connection_established).count()
    };
    eventually("the first is connected", async || connected().await == 1).await;
    // By TCP anybody can say to be anybody.
    let mut thief = tokio::net::TcpStream::connect(seed.address())
        .await
        .expect("open");
    let stolen = Handshake::new(swarm, stranger.id());
    net::send_handshake(&mut thief, &stolen)
        .await
        .expect("sent");
    let mut rest = Vec::new();
    let _closed = tokio::time::timeout(PATIENCE, thief.read_to_end(&mut rest)).await;
    assert_eq!(seed.engine.peers().await[0].transport, Transport::Quic);
    // Soon after the first it may be one of several ways that were tried together.
    let ended = first.connection().clone();
    eventually("the first is closed", async || {
        let mut second = stranger.stream(&seed).await;
        let _answered = is_answered(&mut second, swarm, stranger.id()).await;
        let patience = Duration::from_millis(200);
        tokio::time::timeout(patience, ended.closed()).await.is_ok()
    })
    .await;
}

/// Whatever comes first on a stream, or doesn't, the engine goes on and answers who knows how to speak.
#[tokio::test(flavor = "multi_thread")]
async fn malformed_beginnings_are_turned_away() {
    let (seed, _, swarm, ..) = seed().await;
    let somebody = PeerId::from_random([9; 16]);
    let good = Handshake::new(swarm, somebody).encode();
    let mut other_content = good;
    other_content[23] ^= 1;
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = |len: usize| -> Vec<u8> {
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        };
        std::iter::repeat_with(next).take(len).collect()
    };
    let mut beginnings: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![14],
        good[..74].to_vec(),
        other_content.to_vec(),
        [&good[..], &[0xff; 4]].concat(),
        [&good[..], &[0, 0x1f, 0x40, 1, 20]].concat(),
        [&good[..], &[0, 0, 0, 13, 6], &[0xff; 12]].concat(),
    ];
    beginnings.extend((1..40).map(|n| random(7 * n)));
    beginnings.extend((1..40).map(|n| [&good[..], &random(3 * n)].concat()));
    for beginning in &mut beginnings {
        // Who was turned away may be banned.
        let stranger = Stranger::new();
        if beginning.len() >= good.len() {
            beginning[55..75].copy_from_slice(stranger.id().as_bytes());
        }
        let mut stream = stranger.stream(&seed).await;
        // It may be closed before all was said.
        let _ = stream.write_all(beginning).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(end.is_ok(), "{beginning:?} is waited for");
    }
    let newcomer = Stranger::new();
    let mut stream = newcomer.stream(&seed).await;
    assert!(is_answered(&mut stream, swarm, newcomer.id()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_is_let_go() {
    let (seed, _, swarm, ..) = seed().await;
    let stranger = Stranger::new();
    let silent = stranger.link(&seed).await.connection().clone();
    let mut stream = stranger.stream(&seed).await;
    assert!(is_answered(&mut stream, swarm, stranger.id()).await);
    let patience = Duration::from_secs(30);
    tokio::time::timeout(patience, silent.closed())
        .await
        .expect("no stream was opened");
    assert!(stream.connection().close_reason().is_none());
}
