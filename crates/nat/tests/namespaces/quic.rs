//! QUIC through a tunnel, and straight, on the same path.

use crate::{
    PATIENCE,
    gateway::{End, Kind, home},
    machine::{Internet, Machine, PRIMARY, SECONDARY},
    peer::{Program, server},
};
use dosvc_content::PeerId;
use dosvc_nat::{
    net::{State, Tunnel, TunnelConfig},
    quic::{Identity, Manner, PORT, QuicEndpoint, peer_of},
    teredo::client::ServerAddresses,
};
use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    sync::mpsc,
    time::{Duration, Instant},
};

/// Bytes of one transfer; more with `DOSVC_LAB_SIZE`.
const SIZE: u64 = 32 << 20;
/// How long one may take, in a build for tests on a busy machine.
const TRANSFER_MAX: Duration = Duration::from_secs(60);

fn size() -> u64 {
    let asked = std::env::var("DOSVC_LAB_SIZE").ok();
    asked.map_or(SIZE, |size| {
        size.parse().expect("DOSVC_LAB_SIZE is a number")
    })
}

/// How an end is reached.
#[derive(Clone, Copy, Debug)]
enum By {
    Tunnel,
    Udp(Ipv4Addr),
}

/// An end on this machine, once it can be dialled; where, if others are to do that.
async fn endpoint(identity: &Identity, by: By) -> (QuicEndpoint, SocketAddr) {
    if let By::Udp(ip) = by {
        let endpoint = QuicEndpoint::direct(identity, (ip, 0).into()).unwrap();
        let address = endpoint.local_addr().unwrap();
        return (endpoint, address);
    }
    let config = TunnelConfig {
        servers: vec![ServerAddresses {
            primary: PRIMARY,
            secondary: Some(SECONDARY),
        }],
        bind: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
        discovery: false,
        native: false,
    };
    let (tunnel, incoming) = Tunnel::bind(config).await.unwrap();
    let mut state = tunnel.state();
    let endpoint = QuicEndpoint::tunnelled(identity, tunnel, incoming, PORT).unwrap();
    let qualified = state.wait_for(|state| matches!(state, State::Qualified(_)));
    let State::Qualified(own) = *qualified.await.unwrap() else {
        unreachable!("it is waited for")
    };
    let address = SocketAddrV6::new(own.address.to_ipv6(), PORT, 0, 0);
    (endpoint, address.into())
}

/// What is sent, again and again. No size of a packet divides its length: what is in the wrong place is seen.
fn pattern() -> Vec<u8> {
    const LEN: u32 = 65_521;
    (0..LEN)
        .map(|n| n.wrapping_mul(0x9E37_79B9).to_be_bytes()[0])
        .collect()
}

/// A machine that sends what it is asked for.
fn giver(machine: &Machine, by: By) -> (Program, SocketAddr, PeerId) {
    let identity = Identity::generate().unwrap();
    let peer = identity.peer_id();
    let (ready, is_ready) = mpsc::channel();
    let program = Program::start(machine, move |stopped| async move {
        let (endpoint, address) = endpoint(&identity, by).await;
        ready.send(address).unwrap();
        let give = async {
            while let Some(incoming) = endpoint.accept().await {
                let connection = incoming.await.unwrap();
                let (mut send, mut receive) = connection.accept_bi().await.unwrap();
                let mut wanted = [0; 8];
                receive.read_exact(&mut wanted).await.unwrap();
                let wanted = u64::from_be_bytes(wanted);
                let part = pattern();
                let mut left = usize::try_from(wanted).unwrap();
                while left > 0 {
                    let length = left.min(part.len());
                    send.write_all(&part[..length]).await.unwrap();
                    left -= length;
                }
                send.finish().unwrap();
                let _taker_is_gone = send.stopped().await;
            }
        };
        tokio::select! {
            () = give => {}
            _ = stopped => {}
        }
    });
    let address = is_ready
        .recv_timeout(PATIENCE)
        .expect("the giver can be dialled");
    (program, address, peer)
}

/// Fetches from there; how long the handshake took, path included, and how long the bytes.
fn take(
    machine: &Machine,
    by: By,
    from: SocketAddr,
    peer: PeerId,
    manner: Manner,
) -> (Duration, Duration) {
    let (done, is_done) = mpsc::channel();
    let _program = Program::start(machine, move |_| async move {
        let identity = Identity::generate().unwrap();
        let (endpoint, _) = endpoint(&identity, by).await;
        let start = Instant::now();
        let connection = endpoint.dial(from, Some(peer), manner).await.unwrap();
        assert_eq!(peer_of(&connection).unwrap(), peer);
        let opened = start.elapsed();
        let start = Instant::now();
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        send.write_all(&size().to_be_bytes()).await.unwrap();
        let (part, mut came) = (pattern(), 0);
        while let Some(chunk) = receive.read_chunk(usize::MAX, true).await.unwrap() {
            let mut bytes = &chunk.bytes[..];
            while !bytes.is_empty() {
                let at = usize::try_from(came).unwrap() % part.len();
                let length = bytes.len().min(part.len() - at);
                assert!(
                    bytes[..length] == part[at..at + length],
                    "other bytes at {came}"
                );
                bytes = &bytes[length..];
                came += length as u64;
            }
        }
        assert_eq!(came, size());
        done.send((opened, start.elapsed())).unwrap();
        endpoint.close().await;
    });
    is_done
        .recv_timeout(TRANSFER_MAX)
        .expect("the transfer ends")
}

fn show(what: &str, (opened, time): (Duration, Duration)) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "it is printed")]
    let rate = size() as f64 * 8e-6 / time.as_secs_f64();
    eprintln!(
        "{what}: open after {:.1} ms, {rate:.0} Mbit/s",
        opened.as_secs_f64() * 1e3
    );
    rate
}

#[test]
#[ignore = "needs root and nftables"]
fn content_goes_through_two_nats_by_quic() {
    let mut internet = Internet::new();
    let _server = server(internet.server());
    let [left, right] = [(End::Left, 10), (End::Right, 11)]
        .map(|(end, number)| home(&mut internet, end, Kind::Port, number));
    let (_giver, address, peer) = giver(&right, By::Tunnel);
    show(
        "two NATs, tunnel",
        take(&left, By::Tunnel, address, peer, Manner::Foreground),
    );
    show(
        "two NATs, tunnel, background",
        take(&left, By::Tunnel, address, peer, Manner::Background),
    );
}

#[test]
#[ignore = "needs root and nftables"]
fn a_tunnel_is_as_right_as_plain_quic_on_the_same_path() {
    let mut internet = Internet::new();
    let _server = server(internet.server());
    let hidden = home(&mut internet, End::Left, Kind::Port, 10);
    let public = internet.machine("public");
    let ip = "198.51.100.50".parse().unwrap();
    internet.plug(&public, ip);
    let (_plain, plain_address, plain_peer) = giver(&public, By::Udp(ip));
    let (_giver, address, peer) = giver(&public, By::Tunnel);
    let any = By::Udp(Ipv4Addr::UNSPECIFIED);
    for _ in 0..3 {
        let plain = show(
            "plain QUIC",
            take(&hidden, any, plain_address, plain_peer, Manner::Foreground),
        );
        let tunnel = show(
            "tunnel",
            take(&hidden, By::Tunnel, address, peer, Manner::Foreground),
        );
        eprintln!("tunnel to plain: {:.2}", tunnel / plain);
    }
}
