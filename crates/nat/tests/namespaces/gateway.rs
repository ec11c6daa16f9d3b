//! Home routers: the kernel's NAT, made to behave in the ways that routers do.

use crate::machine::{Internet, Machine};
use std::net::Ipv4Addr;

/// How a router translates and filters (RFC 4787).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One port towards everybody; everybody may send to it.
    Cone,
    /// One port towards everybody; who was sent something may send to it, from any port.
    Address,
    /// One port towards everybody; only what was asked for comes back.
    Port,
    /// As `Port`, with another number than inside.
    PortShift,
    /// As `Port`, but the router itself takes what was not asked for.
    Leaky,
    /// A random port for each destination.
    Symmetric,
}

pub(crate) const ALL: [Kind; 6] = [
    Kind::Cone,
    Kind::Address,
    Kind::Port,
    Kind::PortShift,
    Kind::Leaky,
    Kind::Symmetric,
];

/// The port that clients use; `PortShift` makes another one of it.
pub(crate) const CLIENT_PORT: u16 = 3545;

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

fn rules(kind: Kind, wan: Ipv4Addr) -> String {
    let shifted = CLIENT_PORT + 10_000;
    let (track, inbound, outbound) = match kind {
        Kind::Cone => (
            "update @inner { udp sport : ip saddr }",
            "dnat to udp dport map @inner",
            "masquerade persistent".to_owned(),
        ),
        Kind::Address => (
            "update @inner { udp sport : ip saddr } update @asked { ip daddr . udp sport }",
            "ip saddr . udp dport @asked dnat to udp dport map @inner",
            "masquerade persistent".to_owned(),
        ),
        Kind::Port | Kind::Leaky => ("", "", "masquerade persistent".to_owned()),
        Kind::PortShift => (
            "",
            "",
            format!("udp sport {CLIENT_PORT} snat to {wan}:{shifted}"),
        ),
        Kind::Symmetric => ("", "", "masquerade random,fully-random".to_owned()),
    };
    let rule = |condition: &str, action: &str| match action {
        "" => String::new(),
        action => format!("{condition} {action}"),
    };
    let (track, inbound) = (
        rule("iifname lan meta l4proto udp", track),
        rule("iifname wan meta l4proto udp", inbound),
    );
    let input = match kind {
        Kind::Leaky => "",
        _ => "iifname wan ct state established,related accept\n  iifname wan drop",
    };
    format!(
        "table ip gateway {{
 map inner {{ type inet_service : ipv4_addr; flags dynamic,timeout; timeout 120s; size 1024; }}
 set asked {{ type ipv4_addr . inet_service; flags dynamic,timeout; timeout 120s; size 1024; }}
 chain track {{ type filter hook forward priority -10;
  {track}
 }}
 chain inbound {{ type nat hook prerouting priority dstnat;
  {inbound}
 }}
 chain outbound {{ type nat hook postrouting priority srcnat;
  oifname wan {outbound}
 }}
 chain through {{ type filter hook forward priority 0;
  ct state established,related accept
  ct status dnat accept
  iifname wan drop
 }}
 chain own {{ type filter hook input priority 0;
  {input}
 }}
}}
"
    )
}
