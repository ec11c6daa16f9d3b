//! Home routers: the kernel's NAT, made to behave in the ways that routers do.

pub(crate) use crate::router::{CLIENT_PORT, Kind};
use crate::{
    machine::{Internet, Machine},
    router::rules,
};
use std::net::Ipv4Addr;

/// Which end of a pair a router stands at: they are in different networks, a router apart.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Left,
    Right,
}

/// A router at `203.0.113.N` or `192.0.2.N`, and the machine behind it.
pub(crate) fn home(internet: &mut Internet, end: End, kind: Kind, number: u8) -> Machine {
    home_with_router(internet, end, kind, number).1
}

/// The same, router first: its interfaces are `wan` and `lan`.
pub(crate) fn home_with_router(
    internet: &mut Internet,
    end: End,
    kind: Kind,
    number: u8,
) -> (Machine, Machine) {
    let (side, wan) = match end {
        End::Left => ("l", Ipv4Addr::new(203, 0, 113, number)),
        End::Right => ("r", Ipv4Addr::new(192, 0, 2, number)),
    };
    let router = internet.machine(&format!("{side}{number}-router"));
    let machine = internet.machine(&format!("{side}{number}"));
    internet.plug(&router, wan);
    router.forward();
    let name = machine.name();
    router.ip(&[
        &format!("link add lan type veth peer name eth0 netns {name}"),
        &format!("addr add 192.168.{number}.1/24 dev lan"),
        "link set lan up",
    ]);
    machine.ip(&[
        &format!("addr add 192.168.{number}.2/24 dev eth0"),
        "link set eth0 up",
        &format!("route add default via 192.168.{number}.1"),
    ]);
    router.nft(&rules(kind, wan));
    (router, machine)
}
