//! Peers behind the same NAT.

use super::*;

/// Two clients behind one box.
fn neighbours(hairpin: bool, multicast: bool, kind: Kind) -> (Net, usize, usize) {
    let mut net = Net::new(1);
    net.multicast = multicast;
    let nat = net.nat(kind);
    net.nats[nat].hairpin = hairpin;
    let [a, b] = [net.client(Some(nat)), net.client(Some(nat))];
    net.run(Duration::from_secs(1));
    (net, a, b)
}

fn talk(net: &mut Net, a: usize, b: usize) {
    let (to_a, to_b) = (net.address(a), net.address(b));
    net.send(a, to_b, b"hello");
    net.run_until("the neighbour to hear", |net| net.has(b, b"hello"));
    net.send(b, to_a, b"welcome");
    net.run_until("the answer", |net| net.has(a, b"welcome"));
}

#[test]
fn without_hairpin_the_alternate_addresses_help() {
    for kind in [Kind::Cone, Kind::Port, Kind::Symmetric] {
        let (mut net, a, b) = neighbours(false, false, kind);
        talk(&mut net, a, b);
        let path = net.nodes[a]
            .client
            .peers(net.now)
            .next()
            .unwrap()
            .path
            .unwrap();
        assert!(path.to.ip().is_private(), "{kind:?}: {path:?}");
    }
}

#[test]
fn with_hairpin_they_meet_outside_or_inside() {
    for kind in [Kind::Cone, Kind::Address, Kind::Port] {
        let (mut net, a, b) = neighbours(true, false, kind);
        talk(&mut net, a, b);
    }
}

#[test]
fn multicast_finds_neighbours_without_the_server() {
    let (mut net, a, b) = neighbours(false, true, Kind::Port);
    net.server_up[0] = false;
    talk(&mut net, a, b);
}

#[test]
fn an_alternate_address_of_somebody_behind_another_nat_is_ignored() {
    let mut net = Net::new(1);
    let nats = [Kind::Port, Kind::Port].map(|kind| Some(net.nat(kind)));
    let [a, b] = nats.map(|nat| net.client(nat));
    net.run(Duration::from_secs(1));
    let (victim, attacker) = (net.address(a), net.address(b));
    let inside = Alternates::new(["192.168.0.77:53".parse().unwrap()]).unwrap();
    let trailers = [Trailer::Nonce([1; 4]), Trailer::AlternateAddress(inside)];
    let lie = bubble((attacker, victim), 255, &trailers);
    let from = TeredoAddress::from_ipv6(attacker).unwrap().mapped();
    net.forge(from, SocketAddrV4::new(PRIMARY, PORT), lie);
    net.run(Duration::from_secs(1));
    assert!(
        net.sent
            .iter()
            .all(|(_, _, to, _)| *to.ip() != Ipv4Addr::new(192, 168, 0, 77))
    );
    // It was heard, and answered where it came from.
    assert!(
        net.sent
            .iter()
            .any(|(_, own, to, _)| own.ip().octets()[2] == 0 && *to == from)
    );
}

#[test]
fn a_discovery_bubble_counts_only_by_multicast_from_our_own_network_and_nat() {
    let (mut net, a, b) = neighbours(false, false, Kind::Port);
    let own = net.address(a);
    let now = net.now;
    let neighbour = net.address(b);
    let near: SocketAddrV4 = "192.168.0.9:3546".parse().unwrap();
    let hello = |source| bubble((source, ALL_NODES), 1, &[]);
    let client = &mut net.nodes[a].client;
    let native = "2001:db8::53".parse().unwrap();
    let elsewhere = TeredoAddress::new(PRIMARY, "203.0.113.99:3546".parse().unwrap(), 0).to_ipv6();
    for (from, source, why) in [
        (near, native, Dropped::NotTeredo),
        (near, own, Dropped::NotForUs),
        (near, elsewhere, Dropped::Spoofed),
        (
            "192.168.7.9:3546".parse().unwrap(),
            neighbour,
            Dropped::Spoofed,
        ),
        (
            "203.0.113.9:3546".parse().unwrap(),
            neighbour,
            Dropped::Spoofed,
        ),
        (
            "192.168.0.255:3546".parse().unwrap(),
            neighbour,
            Dropped::Spoofed,
        ),
    ] {
        assert_eq!(
            client.handle_multicast(now, from, &hello(source)),
            Err(why),
            "{from} {source}"
        );
    }
    let known = hello(neighbour);
    let by_unicast = client.handle_datagram(now, LocalPort::Service, near, &known);
    assert_eq!(by_unicast, Err(Dropped::NotForUs));
    assert_eq!(
        client.handle_multicast(now, near, &hello(neighbour)),
        Ok(())
    );
}

#[test]
fn discovery_is_repeated_at_random_times_and_not_at_all_when_it_is_off() {
    for on in [true, false] {
        let mut net = Net::new(1);
        let nat = net.nat(Kind::Port);
        net.client_with(Some(nat), |config| ClientConfig {
            discovery: on,
            ..config
        });
        net.run(Duration::from_secs(1000));
        let count = net
            .sent
            .iter()
            .filter(|(_, _, to, _)| *to.ip() == DISCOVERY_GROUP)
            .count();
        assert!(
            if on {
                (4..=6).contains(&count)
            } else {
                count == 0
            },
            "{count}"
        );
    }
}
