//! Getting an address and keeping it.

use super::*;

fn qualified(kind: Option<Kind>) -> Qualified {
    let mut net = Net::new(1);
    let nat = kind.map(|kind| net.nat(kind));
    let node = net.client(nat);
    net.run(Duration::from_secs(1));
    net.nodes[node].client.qualified().expect("it qualifies")
}

#[test]
fn every_kind_of_nat_is_told_as_far_as_it_can_be() {
    for (kind, nat, keeps_port) in [
        (None, Nat::Open, true),
        (Some(Kind::Cone), Nat::Consistent, true),
        (Some(Kind::Address), Nat::Consistent, true),
        (Some(Kind::Port), Nat::Consistent, true),
        (Some(Kind::Leaky), Nat::Consistent, true),
        (Some(Kind::PortShift), Nat::Consistent, false),
        (Some(Kind::Symmetric), Nat::Symmetric, false),
        (Some(Kind::PortPreservingSymmetric), Nat::Symmetric, true),
    ] {
        let found = qualified(kind);
        assert_eq!((found.nat, found.keeps_port), (nat, keeps_port), "{kind:?}");
        assert_eq!(found.address.server(), PRIMARY);
        assert_eq!(found.address.flags() & !0x3CFF, 0);
        assert_eq!(found.mtu, 1280);
    }
}

#[test]
fn without_a_secondary_address_the_kind_stays_unknown() {
    let mut net = Net::new(1);
    let nat = net.nat(Kind::Symmetric);
    let node = net.client_with(Some(nat), |mut config| {
        config.servers[0].secondary = None;
        config
    });
    net.run(Duration::from_secs(1));
    assert_eq!(
        net.nodes[node].client.qualified().unwrap().nat,
        Nat::Unknown
    );
}

#[test]
fn a_dead_server_is_asked_three_times_and_then_again_after_a_pause() {
    for dead in [0, 1] {
        let mut net = Net::new(1);
        net.server_up[dead] = false;
        let node = net.client(None);
        let asked = |net: &Net, ip| {
            net.sent
                .iter()
                .filter(|(_, _, to, _)| *to.ip() == ip)
                .count()
        };
        net.run(Duration::from_secs(13));
        assert_eq!(asked(&net, [PRIMARY, SECONDARY][dead]), 3);
        assert_eq!(net.nodes[node].events, [Event::Offline(Offline::NoAnswer)]);
        net.run(Duration::from_secs(80));
        assert_eq!(asked(&net, [PRIMARY, SECONDARY][dead]), 3);
        net.server_up = [true; 2];
        net.run(Duration::from_secs(20));
        assert!(net.nodes[node].client.qualified().is_some());
    }
}

#[test]
fn the_next_server_is_asked_when_one_is_dead() {
    let mut net = Net::new(1);
    let dead = ServerAddresses {
        primary: Ipv4Addr::new(192, 0, 2, 200),
        secondary: None,
    };
    let node = net.client_with(None, |mut config| {
        config.servers.insert(0, dead);
        config
    });
    net.run(Duration::from_secs(11));
    assert_eq!(net.nodes[node].client.qualified(), None);
    net.run(Duration::from_secs(2));
    assert_eq!(
        net.nodes[node].client.qualified().unwrap().address.server(),
        PRIMARY
    );
}

#[test]
fn without_a_server_nothing_happens() {
    let mut net = Net::new(1);
    let node = net.client_with(None, |config| ClientConfig {
        servers: Vec::new(),
        ..config
    });
    net.run(Duration::from_secs(1000));
    assert!(net.sent.is_empty());
    assert_eq!(net.nodes[node].client.poll_timeout(), None);
}

#[test]
fn the_mapping_is_refreshed_at_random_times_below_thirty_seconds() {
    let mut net = Net::new(1);
    let nat = net.nat(Kind::Port);
    net.client(Some(nat));
    net.run(Duration::from_secs(600));
    let asked: Vec<_> = (net.sent.iter())
        .filter(|(_, _, to, length)| *to.ip() == PRIMARY && *length == 61)
        .map(|(at, ..)| *at)
        .collect();
    let gaps: Vec<_> = asked
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .skip(1)
        .collect();
    assert!(gaps.len() >= 19);
    let allowed = Duration::from_millis(22_500)..Duration::from_millis(30_100);
    assert!(gaps.iter().all(|gap| allowed.contains(gap)), "{gaps:?}");
    let different: std::collections::BTreeSet<_> = gaps.iter().map(Duration::as_millis).collect();
    assert!(different.len() > 10, "they are not random: {gaps:?}");
}

#[test]
fn another_mapping_makes_another_address_and_forgets_the_peers() {
    let mut net = Net::new(1);
    let nat = net.nat(Kind::Port);
    let [node, peer] = [net.client(Some(nat)), net.client(None)];
    net.run(Duration::from_secs(1));
    let (before, to_peer) = (net.address(node), net.address(peer));
    net.send(node, to_peer, b"hello");
    net.run(Duration::from_secs(1));
    assert_eq!(net.nodes[node].client.peers(net.now).count(), 1);
    net.nats[nat].forget();
    net.run(Duration::from_secs(31));
    let after = net.address(node);
    assert_ne!(before, after);
    let last = &net.nodes[node].events[net.nodes[node].events.len() - 2..];
    assert_eq!(last[0], Event::Offline(Offline::MappingChanged));
    assert_eq!(
        last[1],
        Event::Qualified(net.nodes[node].client.qualified().unwrap())
    );
    assert_eq!(net.nodes[node].client.peers(net.now).count(), 0);
    net.send(node, to_peer, b"here again");
    net.run_until("the peer to hear", |net| net.has(peer, b"here again"));
}

#[test]
fn a_server_that_dies_takes_the_address_with_it() {
    let mut net = Net::new(1);
    let node = net.client(None);
    net.run(Duration::from_secs(1));
    net.server_up = [false; 2];
    net.run(Duration::from_secs(43));
    assert_eq!(net.nodes[node].client.qualified(), None);
    assert_eq!(
        net.nodes[node].events.last(),
        Some(&Event::Offline(Offline::NoAnswer))
    );
}

#[test]
fn another_network_means_a_new_start() {
    let mut net = Net::new(1);
    let node = net.client(None);
    net.run(Duration::from_secs(1));
    let before = net.address(node);
    net.restart(node, Vec::new());
    assert_eq!(net.nodes[node].client.qualified(), None);
    net.run(Duration::from_secs(1));
    assert_eq!(
        net.nodes[node].events[1],
        Event::Offline(Offline::Restarted)
    );
    // The flags are new, the mapping is not.
    assert_ne!(net.address(node), before);
}
