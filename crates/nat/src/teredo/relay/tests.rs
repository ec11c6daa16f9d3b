use super::*;
use crate::teredo::icmp;
use std::time::Duration;

const NATIVE: Ipv6Addr = Ipv6Addr::new(0x2a02, 0xdb8, 0, 0, 0, 0, 0, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 10), 40000);
const HERE: Network = Network {
    address: Ipv4Addr::new(198, 51, 100, 60),
    prefix_len: 24,
};

fn relay() -> Relay {
    let config = RelayConfig {
        networks: vec![HERE],
    };
    Relay::new(config, [3; 32])
}

fn client(mapped: SocketAddrV4) -> Ipv6Addr {
    TeredoAddress::new(SERVER, mapped, 0x1234).to_ipv6()
}

fn ping(from: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
    icmp::echo_request((from, to), b"hello")
}

/// What the relay sends, and the address that the bubble came from.
fn sent(relay: &mut Relay) -> Vec<Outgoing> {
    std::iter::from_fn(|| relay.poll_transmit()).collect()
}

fn cookie(bubble: &Outgoing) -> Ipv6Addr {
    let datagram = Datagram::parse(&bubble.bytes).unwrap();
    assert!(datagram.packet.is_bubble());
    datagram.packet.source()
}

/// A native host calls, and the client answers from here.
fn called(relay: &mut Relay, now: Instant, mapped: SocketAddrV4, from: SocketAddrV4) {
    let address = client(mapped);
    assert_eq!(
        relay.handle_native(now, &ping(NATIVE, address)),
        Ok(Relayed::Queued)
    );
    let out = sent(relay);
    assert_eq!((out.len(), out[0].to), (1, SocketAddrV4::new(SERVER, PORT)));
    let answer = bubble((address, cookie(&out[0])), 255, &[]);
    assert_eq!(relay.handle_datagram(now, from, &answer), Ok(None));
    let flushed = Outgoing {
        to: from,
        bytes: ping(NATIVE, address),
    };
    assert_eq!(sent(relay), [flushed]);
}

#[test]
fn a_client_that_was_called_is_relayed_in_both_directions() {
    let (mut relay, now) = (relay(), Instant::now());
    called(&mut relay, now, CLIENT, CLIENT);
    let address = client(CLIENT);
    assert_eq!(
        relay.handle_native(now, &ping(NATIVE, address)),
        Ok(Relayed::Now(CLIENT))
    );
    let answer = ping(address, NATIVE);
    let packet = relay
        .handle_datagram(now, CLIENT, &answer)
        .unwrap()
        .unwrap();
    assert_eq!(packet.bytes(), answer);
    assert_eq!(relay.clients(now), (1, 1));
    // The path grows old, and is heard of again.
    let later = now + PATH_VALID_FOR;
    assert_eq!(relay.clients(later), (1, 0));
    assert!(relay.handle_datagram(later, CLIENT, &answer).is_ok());
    assert_eq!(relay.clients(later), (1, 1));
    relay.forget_idle(later + PEER_IDLE_MAX);
    assert_eq!(relay.clients(later), (0, 0));
}

#[test]
fn a_client_behind_a_symmetric_nat_is_believed_where_it_answers_from() {
    let (mut relay, now) = (relay(), Instant::now());
    let elsewhere = SocketAddrV4::new(*CLIENT.ip(), 50123);
    called(&mut relay, now, CLIENT, elsewhere);
    let answer = ping(client(CLIENT), NATIVE);
    assert!(relay.handle_datagram(now, elsewhere, &answer).is_ok());
    let stranger = SocketAddrV4::new(*CLIENT.ip(), 50124);
    assert_eq!(
        relay.handle_datagram(now, stranger, &answer),
        Err(NotRelayed::Spoofed)
    );
}

#[test]
fn nobody_is_relayed_who_was_not_called_or_is_somebody_else() {
    let (mut relay, now) = (relay(), Instant::now());
    let packet = ping(client(CLIENT), NATIVE);
    assert_eq!(
        relay.handle_datagram(now, CLIENT, &packet),
        Err(NotRelayed::Uncalled)
    );
    let unasked = bubble((client(CLIENT), link_local([0; 8])), 255, &[]);
    assert_eq!(
        relay.handle_datagram(now, CLIENT, &unasked),
        Err(NotRelayed::Uncalled)
    );
    called(&mut relay, now, CLIENT, CLIENT);
    // The cookie is good for once.
    assert_eq!(
        relay.handle_datagram(now, CLIENT, &unasked),
        Err(NotRelayed::Uncalled)
    );
    let other = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 40000);
    assert_eq!(
        relay.handle_datagram(now, other, &packet),
        Err(NotRelayed::Spoofed)
    );
    for destination in [
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "2002:a00:1::1",
        "2002:7f00:1::1",
        "2002:c0a8:101::1",
        "4000::1",
    ] {
        let packet = ping(client(CLIENT), destination.parse().unwrap());
        assert_eq!(
            relay.handle_datagram(now, CLIENT, &packet),
            Err(NotRelayed::Destination),
            "{destination}"
        );
    }
    // From Teredo to Teredo.
    let packet = ping(client(CLIENT), client(other));
    assert_eq!(
        relay.handle_datagram(now, CLIENT, &packet),
        Err(NotRelayed::Destination)
    );
}

#[test]
fn nothing_goes_inward_or_comes_from_what_is_not_native() {
    let (mut relay, now) = (relay(), Instant::now());
    for ip in [
        "10.0.0.1",
        "127.0.0.1",
        "192.168.1.1",
        "224.0.0.1",
        "198.51.100.60",
        "198.51.100.255",
        "255.255.255.255",
        "0.0.0.0",
    ] {
        let ip: Ipv4Addr = ip.parse().unwrap();
        let mapped = client(SocketAddrV4::new(ip, 40000));
        let served = TeredoAddress::new(ip, CLIENT, 0).to_ipv6();
        for to in [mapped, served] {
            assert_eq!(
                relay.handle_native(now, &ping(NATIVE, to)),
                Err(NotRelayed::Destination),
                "{to}"
            );
        }
        assert!(
            relay
                .handle_datagram(now, CLIENT, &ping(mapped, NATIVE))
                .is_err()
        );
    }
    let no_port = client(SocketAddrV4::new(*CLIENT.ip(), 0));
    assert_eq!(
        relay.handle_native(now, &ping(NATIVE, no_port)),
        Err(NotRelayed::Destination)
    );
    for from in [
        "::1",
        "fe80::1",
        "fc00::1",
        "ff02::1",
        "2002:a00:1::1",
        "2001:0:c633:640a::1",
    ] {
        let packet = ping(from.parse().unwrap(), client(CLIENT));
        assert_eq!(
            relay.handle_native(now, &packet),
            Err(NotRelayed::Source),
            "{from}"
        );
    }
    assert_eq!(sent(&mut relay), []);
}

/// However much comes, from whom and for whom: what goes out is never more.
#[test]
fn nothing_is_amplified_and_nothing_grows() {
    let (mut relay, mut now) = (relay(), Instant::now());
    let (mut came, mut went) = (0, 0);
    for n in 0..50_000_u32 {
        // Each fourth is for the same client.
        let ip = Ipv4Addr::from(u32::from(*CLIENT.ip()) + if n % 4 == 0 { 0 } else { n });
        let packet = ping(NATIVE, client(SocketAddrV4::new(ip, 40000)));
        let _refused = relay.handle_native(now, &packet);
        came += packet.len();
        went += sent(&mut relay)
            .iter()
            .map(|out| out.bytes.len())
            .sum::<usize>();
        assert!(went <= came);
        assert!(relay.peers.len() <= RELAY_PEERS_MAX && relay.waiting <= RELAY_WAITING_MAX);
        let waiting: usize = relay.peers.values().map(|peer| peer.queue.len()).sum();
        assert_eq!(waiting, relay.waiting);
        now += Duration::from_micros(200);
    }
    // Ten seconds: a second's worth at once, and then the rate.
    let most = u64::from(RELAY_SERVER_BUBBLES_PER_SECOND_MAX) * 11;
    assert!(
        relay.stats().bubbles <= most,
        "{} bubbles",
        relay.stats().bubbles
    );
}

#[test]
fn a_client_that_does_not_answer_is_left_alone_after_four_calls() {
    let (mut relay, mut now) = (relay(), Instant::now());
    let packet = ping(NATIVE, client(CLIENT));
    let mut bubbles = 0;
    for _ in 0..200 {
        let _refused = relay.handle_native(now, &packet);
        bubbles += sent(&mut relay).len();
        now += Duration::from_secs(1);
    }
    assert_eq!(bubbles, usize::from(BUBBLES_MAX));
    assert_eq!(
        relay.handle_native(now, &packet),
        Err(NotRelayed::Unreachable)
    );
    assert_eq!(relay.waiting, 0);
}

#[test]
fn a_flood_of_unknown_clients_pushes_nobody_out_who_is_in_use() {
    let (mut relay, now) = (relay(), Instant::now());
    called(&mut relay, now, CLIENT, CLIENT);
    for n in 1..3 * u32::try_from(RELAY_PEERS_MAX).unwrap() {
        let ip = Ipv4Addr::from(u32::from(*CLIENT.ip()) + n);
        let _limited =
            relay.handle_native(now, &ping(NATIVE, client(SocketAddrV4::new(ip, 40000))));
    }
    assert_eq!(
        relay.handle_native(now, &ping(NATIVE, client(CLIENT))),
        Ok(Relayed::Now(CLIENT))
    );
}
