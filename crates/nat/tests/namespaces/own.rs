//! Our clients with our server.

use crate::{
    PATIENCE,
    gateway::{CLIENT_PORT, End, Kind, home},
    machine::{Internet, PRIMARY},
    peer::{Client, server},
};
use dosvc_nat::teredo::client::Nat;

#[test]
#[ignore = "needs root and nftables"]
fn every_pair_of_nats_that_can_talk_does() {
    let mut internet = Internet::new();
    let _server = server(internet.server());
    let mut sides = [End::Left, End::Right].map(|end| {
        let machines: Vec<_> = (10..)
            .zip(Kind::ALL)
            .map(|(number, kind)| home(&mut internet, end, kind, number))
            .collect();
        machines
    });
    let right = Client::start_all(&std::mem::take(&mut sides[1]), CLIENT_PORT);
    let left = Client::start_all(&std::mem::take(&mut sides[0]), CLIENT_PORT);
    for (kind, client) in Kind::ALL.iter().zip(&left) {
        let symmetric = *kind == Kind::Symmetric;
        let expected = if symmetric {
            Nat::Symmetric
        } else {
            Nat::Consistent
        };
        assert_eq!(client.own.nat, expected, "{kind:?}");
        let keeps_port = !symmetric && *kind != Kind::PortShift;
        assert_eq!(client.own.keeps_port, keeps_port, "{kind:?}");
        assert_eq!(client.own.address.server(), PRIMARY);
    }
    // All at once: what one pair does must not disturb another.
    let mut pings = Vec::new();
    for (a, from) in Kind::ALL.into_iter().zip(&left) {
        for (b, to) in Kind::ALL.into_iter().zip(&right) {
            pings.push((a, b, from.ping(to.address())));
        }
    }
    let wrong: Vec<_> = pings
        .into_iter()
        .map(|(a, b, answer)| (a, b, answer.recv_timeout(2 * PATIENCE).unwrap()))
        .filter(|&(a, b, came)| came != a.reaches(b))
        .collect();
    assert!(wrong.is_empty(), "from, to, answered: {wrong:?}");
    // The paths that were opened from the left serve both directions.
    let back: Vec<_> = (Kind::ALL.into_iter().zip(&right))
        .flat_map(|(b, to)| {
            Kind::ALL
                .into_iter()
                .zip(&left)
                .map(move |(a, from)| (a, b, from, to))
        })
        .filter(|&(a, b, ..)| a.reaches(b))
        .map(|(a, b, from, to)| (a, b, to.ping(from.address())))
        .collect();
    for (a, b, answer) in back {
        assert!(
            answer.recv_timeout(2 * PATIENCE).unwrap(),
            "back from {b:?} to {a:?}"
        );
    }
}

#[test]
#[ignore = "needs root and nftables"]
fn a_machine_without_nat_knows_it_and_talks_to_one_behind_a_symmetric_nat() {
    let mut internet = Internet::new();
    let _server = server(internet.server());
    let hidden = home(&mut internet, End::Left, Kind::Symmetric, 10);
    let public = internet.machine("public");
    internet.plug(&public, "198.51.100.50".parse().unwrap());
    let clients = Client::start_all(&[hidden, public], CLIENT_PORT);
    let [hidden, public] = &clients[..] else {
        panic!("two clients")
    };
    assert_eq!(public.own.nat, Nat::Open);
    assert!(
        hidden
            .ping(public.address())
            .recv_timeout(PATIENCE)
            .unwrap()
    );
    assert!(
        public
            .ping(hidden.address())
            .recv_timeout(PATIENCE)
            .unwrap()
    );
}
