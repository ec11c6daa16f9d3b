//! Who can talk to whom.

use super::*;

/// Both clients have qualified; the first one says something, and the second one answers: the time until the answer.
fn talk(
    a: Option<Kind>,
    b: Option<Kind>,
    change: impl Fn(ClientConfig) -> ClientConfig,
) -> Option<Duration> {
    let mut net = Net::new(1);
    let nats = [a, b].map(|kind| kind.map(|kind| net.nat(kind)));
    let [a, b] = nats.map(|nat| net.client_with(nat, &change));
    net.run(Duration::from_secs(1));
    exchange(&mut net, a, b)
}

fn exchange(net: &mut Net, a: usize, b: usize) -> Option<Duration> {
    let (to_a, to_b) = (net.address(a), net.address(b));
    let start = net.now;
    assert_eq!(net.send(a, to_b, b"hello"), Sent::Queued);
    while net.now < start + PATIENCE {
        net.run(Duration::from_millis(1));
        if net.has(b, b"hello") {
            net.send(b, to_a, b"welcome");
            net.run(Duration::from_millis(25));
            return net.has(a, b"welcome").then(|| net.now - start);
        }
    }
    None
}

/// RFC 6081, figure 1, with symmetric NAT support and the port-preserving extension.
fn can(a: Kind, b: Kind) -> bool {
    use Kind::{Port, PortPreservingSymmetric, PortShift, Symmetric};
    let restricted = |kind| matches!(kind, Port | PortShift | Kind::Leaky);
    match (a, b) {
        (Symmetric, Symmetric | PortPreservingSymmetric) => false,
        (PortPreservingSymmetric, Symmetric) => false,
        (Symmetric, other) | (other, Symmetric) => !restricted(other),
        _ => true,
    }
}

#[test]
fn every_pair_that_rfc_6081_promises_can_talk_and_no_other() {
    for a in nat::ALL {
        for b in nat::ALL {
            let time = talk(Some(a), Some(b), |config| config);
            assert_eq!(time.is_some(), can(a, b), "{a:?} to {b:?}");
        }
    }
}

#[test]
fn without_a_nat_everybody_can_talk_to_everybody() {
    for kind in nat::ALL {
        assert!(
            talk(None, Some(kind), |config| config).is_some(),
            "to {kind:?}"
        );
        assert!(
            talk(Some(kind), None, |config| config).is_some(),
            "from {kind:?}"
        );
    }
    assert!(talk(None, None, |config| config).is_some());
}

#[test]
fn the_first_packet_takes_no_second_try() {
    for a in nat::ALL {
        for b in nat::ALL.into_iter().filter(|&b| can(a, b)) {
            let time = talk(Some(a), Some(b), |config| config).unwrap();
            // A trip through the server has two legs of 10 ms, each direct one another; then the answer.
            assert!(
                time < Duration::from_millis(160),
                "{a:?} to {b:?}: {time:?}"
            );
        }
    }
}

#[test]
fn two_that_start_at_once_meet() {
    for a in nat::ALL {
        for b in nat::ALL.into_iter().filter(|&b| can(a, b)) {
            let mut net = Net::new(2);
            let nats = [a, b].map(|kind| Some(net.nat(kind)));
            let [left, right] = nats.map(|nat| net.client(nat));
            net.run(Duration::from_secs(1));
            let addresses = [left, right].map(|node| net.address(node));
            net.send(left, addresses[1], b"from left");
            net.send(right, addresses[0], b"from right");
            net.run_until(&format!("{a:?} and {b:?}"), |net| {
                net.has(left, b"from right") && net.has(right, b"from left")
            });
        }
    }
}

#[test]
fn a_leaky_gateway_needs_bubbles_that_die_on_the_way() {
    let usual = |config| ClientConfig {
        opening_ttl: None,
        ..config
    };
    assert!(talk(Some(Kind::Port), Some(Kind::Leaky), usual).is_none());
    assert!(talk(Some(Kind::Port), Some(Kind::Leaky), |config| config).is_some());
}

#[test]
fn a_path_stays_open_while_it_is_used_and_is_opened_again_after_silence() {
    let mut net = Net::new(3);
    let nats = [Kind::Port, Kind::Port].map(|kind| Some(net.nat(kind)));
    let [a, b] = nats.map(|nat| net.client(nat));
    net.run(Duration::from_secs(1));
    exchange(&mut net, a, b).unwrap();
    let (to_a, to_b) = (net.address(a), net.address(b));
    for _ in 0..10 {
        assert!(matches!(net.send(a, to_b, b"ping"), Sent::Now(_)));
        assert!(matches!(net.send(b, to_a, b"pong"), Sent::Now(_)));
        net.run(PATH_VALID_FOR * 2 / 3);
    }
    net.run(PATH_VALID_FOR);
    assert_eq!(net.send(a, to_b, b"still there?"), Sent::Queued);
    net.run_until("the path to open again", |net| net.has(b, b"still there?"));
}

#[test]
fn a_peer_that_is_not_there_is_tried_four_times_and_then_left_alone() {
    let mut net = Net::new(4);
    let nat = net.nat(Kind::Port);
    let a = net.client(Some(nat));
    net.run(Duration::from_secs(1));
    let nobody = TeredoAddress::new(PRIMARY, "203.0.113.77:4000".parse().unwrap(), 0).to_ipv6();
    assert_eq!(net.send(a, nobody, b"anybody?"), Sent::Queued);
    let sent = net.sent.len();
    net.run(PATIENCE);
    assert_eq!(
        net.nodes[a].events.last(),
        Some(&Event::Unreachable(nobody))
    );
    assert_eq!(net.sent.len() - sent, 2 * usize::from(BUBBLES_MAX) - 2);
    assert_eq!(
        net.send(a, nobody, b"really?"),
        Sent::Refused(Refusal::Unreachable)
    );
    net.run(BUBBLE_SILENCE);
    assert_eq!(net.send(a, nobody, b"now?"), Sent::Queued);
}

#[test]
fn a_peer_that_comes_back_is_heard_although_we_had_given_it_up() {
    let mut net = Net::new(5);
    let nats = [Kind::Port, Kind::Port].map(|kind| Some(net.nat(kind)));
    let [a, b] = nats.map(|nat| net.client(nat));
    net.run(Duration::from_secs(1));
    let (to_a, to_b) = (net.address(a), net.address(b));
    net.server_up[0] = false;
    net.send(a, to_b, b"lost");
    net.run(PATIENCE);
    assert_eq!(net.nodes[a].events.last(), Some(&Event::Unreachable(to_b)));
    net.server_up[0] = true;
    net.send(b, to_a, b"found");
    net.run_until("the other to find us", |net| net.has(a, b"found"));
    assert!(matches!(net.send(a, to_b, b"welcome"), Sent::Now(_)));
}

#[test]
fn what_waits_is_bounded_and_the_oldest_goes_first() {
    let mut net = Net::new(6);
    let nats = [Kind::Port, Kind::Port].map(|kind| Some(net.nat(kind)));
    let [a, b] = nats.map(|nat| net.client(nat));
    net.run(Duration::from_secs(1));
    let to_b = net.address(b);
    for n in 0..u8::try_from(QUEUE_MAX).unwrap() + 3 {
        assert_eq!(net.send(a, to_b, &[n]), Sent::Queued);
    }
    net.run(Duration::from_secs(1));
    let came: Vec<_> = net.nodes[b]
        .inbox
        .iter()
        .map(|(_, payload, _)| payload[0])
        .collect();
    assert_eq!(came, (3..11).collect::<Vec<_>>());
}

#[test]
fn additional_ports_are_closed_when_nobody_needs_them() {
    let mut net = Net::new(7);
    let nats = [Kind::PortPreservingSymmetric, Kind::Port].map(|kind| Some(net.nat(kind)));
    let [a, b] = nats.map(|nat| net.client(nat));
    net.run(Duration::from_secs(1));
    exchange(&mut net, a, b).unwrap();
    let open = |net: &Net| net.nodes[a].client.peers.extra_ports().count();
    assert_eq!(open(&net), 1);
    net.run(Duration::from_secs(400));
    assert_eq!(open(&net), 0);
    let closed = net.nodes[a]
        .events
        .iter()
        .filter(|event| matches!(event, Event::PortClosed(_)));
    assert_eq!(closed.count(), 1);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut net = Net::new(seed);
        let nats = [Kind::Symmetric, Kind::Cone].map(|kind| Some(net.nat(kind)));
        let [a, b] = nats.map(|nat| net.client(nat));
        net.run(Duration::from_secs(1));
        exchange(&mut net, a, b).unwrap();
        net.run(Duration::from_secs(100));
        net.log
    };
    assert_eq!(run(8), run(8));
    assert_ne!(run(8), run(9));
}
