use super::*;
use crate::teredo::{Trailer, bubble, icmp};
use proptest::prelude::*;
use serde_json::Value;
use std::net::Ipv6Addr;

const PRIMARY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
const SECONDARY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 11);
const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 10), 40_000);
const OTHER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 20), 50_001);

fn server() -> Server {
    Server::new(ServerConfig::new(PRIMARY, SECONDARY), 7)
}

fn address(server: Ipv4Addr, mapped: SocketAddrV4) -> Ipv6Addr {
    TeredoAddress::new(server, mapped, 0x2c5a).to_ipv6()
}

fn ask(from: SocketAddrV4, bytes: &[u8]) -> Result<Answer, Refused> {
    server().handle(Instant::now(), Side::Primary, from, bytes)
}

#[test]
fn vectors_that_a_server_must_drop_are_dropped() {
    let all: Value =
        serde_json::from_str(include_str!("../../../tests/teredo-vectors.json")).unwrap();
    let mut count = 0;
    for vector in all["vectors"].as_array().unwrap() {
        if vector["kind"] != "drop" || vector["expect"]["layer"] != "server" {
            continue;
        }
        let hex = vector["hex"].as_str().unwrap();
        let bytes: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect();
        let from = vector["ipv4"]["src"].as_str().unwrap().parse().unwrap();
        assert!(ask(from, &bytes).is_err(), "{}", vector["name"]);
        count += 1;
    }
    assert_eq!(count, 5);
}

#[test]
fn a_solicitation_is_answered_from_where_it_was_asked_and_with_the_cone_bit_from_the_other_side() {
    for (source, cone) in [
        ("fe80::ffff:ffff:fffe", false),
        ("fe80::8000:ffff:ffff:fffe", true),
    ] {
        for side in [Side::Primary, Side::Secondary] {
            let asked = RouterSolicitation {
                source: source.parse().unwrap(),
            };
            let answer = server()
                .handle(Instant::now(), side, CLIENT, &asked.encode([7; 8], None))
                .unwrap();
            assert_eq!(answer.from == side, !cone);
            assert_eq!(answer.to, CLIENT);
            let said = Datagram::parse(&answer.bytes).unwrap();
            assert_eq!(said.origin, Some(CLIENT));
            assert_eq!(said.authentication.unwrap().nonce, [7; 8]);
            let advertisement = RouterAdvertisement::parse(said.packet).unwrap();
            assert_eq!(advertisement.server, PRIMARY);
            assert_eq!(advertisement.destination, asked.source);
        }
    }
}

#[test]
fn without_authentication_none_comes_back() {
    let asked = RouterSolicitation {
        source: icmp::SOLICITING,
    }
    .encode([7; 8], None);
    let answer = ask(CLIENT, &asked[13..]).unwrap();
    assert_eq!(Datagram::parse(&answer.bytes).unwrap().authentication, None);
}

#[test]
fn with_a_secret_only_those_who_know_it_are_answered() {
    let secret = Secret::new(b"fleet", b"key");
    let config = ServerConfig {
        secret: secret.clone(),
        ..ServerConfig::new(PRIMARY, SECONDARY)
    };
    let mut server = Server::new(config, 7);
    let asked = RouterSolicitation {
        source: icmp::SOLICITING,
    };
    let mut ask = |secret: Option<Secret>| {
        let bytes = asked.encode([7; 8], secret.as_ref());
        server.handle(Instant::now(), Side::Primary, CLIENT, &bytes)
    };
    let answer = ask(secret.clone()).unwrap();
    assert!(
        secret
            .unwrap()
            .verifies(&Datagram::parse(&answer.bytes).unwrap())
    );
    for wrong in [
        None,
        Secret::new(b"fleet", b"other"),
        Secret::new(b"other", b"key"),
    ] {
        assert_eq!(ask(wrong), Err(Refused::Unauthenticated));
    }
}

#[test]
fn a_bubble_goes_on_with_its_trailers_and_the_senders_address() {
    let trailers = [Trailer::Nonce([1, 2, 3, 4])];
    let sent = bubble(
        (address(PRIMARY, CLIENT), address(PRIMARY, OTHER)),
        255,
        &trailers,
    );
    let answer = ask(CLIENT, &sent).unwrap();
    assert_eq!((answer.from, answer.to), (Side::Primary, OTHER));
    let read = Datagram::parse(&answer.bytes).unwrap();
    assert_eq!(read.origin, Some(CLIENT));
    assert_eq!(read.trailers.nonce(), Some([1, 2, 3, 4]));
    assert_eq!(&answer.bytes[8..], sent);
}

#[test]
fn an_origin_that_a_client_invents_is_replaced() {
    let sent = bubble(
        (address(PRIMARY, CLIENT), address(PRIMARY, OTHER)),
        255,
        &[],
    );
    let lie = [&origin_bytes(OTHER)[..], &sent].concat();
    let answer = ask(CLIENT, &lie).unwrap();
    assert_eq!(Datagram::parse(&answer.bytes).unwrap().origin, Some(CLIENT));
    assert_eq!(&answer.bytes[8..], sent);
}

#[test]
fn what_is_no_bubble_but_looks_like_one_is_data() {
    let between = (address(PRIMARY, CLIENT), address(PRIMARY, OTHER));
    let long_tail = [bubble(between, 255, &[]), vec![0x80; 100]].concat();
    assert_eq!(ask(CLIENT, &long_tail), Err(Refused::Data));
    let ping = icmp::encode(between, 64, (icmp::ECHO_REQUEST, 0), &[0; 84]);
    assert!(ask(CLIENT, &ping).is_ok());
    let large = icmp::encode(between, 64, (icmp::ECHO_REQUEST, 0), &[0; 85]);
    assert_eq!(ask(CLIENT, &large), Err(Refused::Data));
}

#[test]
fn nothing_goes_inward_or_to_the_server_itself() {
    for ip in [
        "10.0.0.1",
        "127.0.0.1",
        "192.168.10.2",
        "172.16.0.1",
        "169.254.1.1",
        "224.0.0.253",
        "255.255.255.255",
        "0.0.0.0",
        "192.88.99.1",
        "100.64.0.1",
        "198.51.100.10",
        "198.51.100.11",
    ] {
        let inside = SocketAddrV4::new(ip.parse().unwrap(), 3545);
        let sent = bubble(
            (address(PRIMARY, CLIENT), address(PRIMARY, inside)),
            255,
            &[],
        );
        assert_eq!(ask(CLIENT, &sent), Err(Refused::Inward), "{ip}");
        if ![PRIMARY, SECONDARY].contains(inside.ip()) {
            let sent = bubble(
                (address(PRIMARY, inside), address(PRIMARY, OTHER)),
                255,
                &[],
            );
            assert_eq!(ask(inside, &sent), Err(Refused::Sender), "{ip}");
        }
    }
    let itself = SocketAddrV4::new(SECONDARY, PORT);
    let sent = bubble(
        (address(PRIMARY, itself), address(PRIMARY, OTHER)),
        255,
        &[],
    );
    assert_eq!(ask(itself, &sent), Err(Refused::Sender));
}

#[test]
fn one_sender_is_answered_so_often_and_no_more() {
    let mut server = server();
    let asked = RouterSolicitation {
        source: icmp::SOLICITING,
    }
    .encode([7; 8], None);
    let now = Instant::now();
    let answered = (0..1000)
        .filter(|_| server.handle(now, Side::Primary, CLIENT, &asked).is_ok())
        .count();
    assert_eq!(answered, REQUESTS_PER_SECOND_MAX as usize);
    assert_eq!(server.stats().refused[&Refused::Limit], 800);
    assert!(server.handle(now, Side::Primary, OTHER, &asked).is_ok());
}

proptest! {
    /// Whatever comes from anywhere, the answer is bounded, and never goes to where nothing may go.
    #[test]
    fn answers_are_small_and_go_outward(
        tail in prop::collection::vec(any::<u8>(), 0..120),
        kind in 0_u8..4,
        target: [u8; 16],
        from: u32,
        port: u16,
    ) {
        let from = SocketAddrV4::new(from.into(), port);
        let mut target = target;
        target[..8].copy_from_slice(&[0x20, 1, 0, 0, 198, 51, 100, 10]);
        let between = (address(PRIMARY, from), target.into());
        let sent = match kind {
            0 => RouterSolicitation { source: icmp::SOLICITING }.encode([7; 8], None),
            1 => [bubble(between, 255, &[]), tail].concat(),
            2 => icmp::encode(between, 64, (icmp::ECHO_REQUEST, 0), &tail),
            _ => tail,
        };
        if let Ok(answer) = ask(from, &sent) {
            prop_assert!(is_global(*answer.to.ip()));
            prop_assert!(![PRIMARY, SECONDARY].contains(answer.to.ip()));
            // 28 bytes of IPv4 and UDP are around both.
            prop_assert!(2 * (sent.len() + 28) > answer.bytes.len() + 28);
        }
    }
}
