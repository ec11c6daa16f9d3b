//! An Internet of machines behind home routers: the kernel's NAT, made to behave in the ways that routers do.

use crate::{
    daemon::{dosvc, write_config},
    namespace::{Lab, Node},
    process::{Process, wait_for},
};
use std::{net::Ipv4Addr, time::Duration};

/// The Teredo server's addresses; the services are on the same machine.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
const SECOND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 11);

/// The networks of the Internet, each with the hub at `.1`.
const NETWORKS: [&str; 3] = ["198.51.100", "203.0.113", "192.0.2"];

/// The UDP port of tunnels; [`Kind::PortShift`] makes another one of it.
pub(crate) const TUNNEL_PORT: u16 = 3545;

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

impl Kind {
    pub(crate) const ALL: [Self; 6] = [
        Self::Cone,
        Self::Address,
        Self::Port,
        Self::PortShift,
        Self::Leaky,
        Self::Symmetric,
    ];

    /// RFC 6081, figure 1, for Teredo with support of symmetric NATs.
    pub(crate) fn reaches(self, other: Self) -> bool {
        let open = |kind| matches!(kind, Self::Cone | Self::Address);
        match (self, other) {
            (Self::Symmetric, other) | (other, Self::Symmetric) => open(other),
            _ => true,
        }
    }
}

/// A machine behind a router.
pub(crate) struct Home {
    pub(crate) node: Node,
    pub(crate) router: Node,
    /// The router's address on the Internet.
    pub(crate) wan: Ipv4Addr,
}

/// A network of networks with a machine for the services, where `dosvc teredo server` runs.
pub(crate) struct Internet {
    _teredo: Process,
    pub(crate) services: Node,
    ports: u8,
    pub(crate) lab: Lab,
}

impl Internet {
    pub(crate) fn new() -> Self {
        let mut lab = Lab::empty();
        lab.hub_forward();
        for network in NETWORKS {
            lab.hub_ip(&[&format!("addr add {network}.1/24 dev br0")]);
        }
        let services = lab.machine("services", SERVER.into());
        let mut ports = 0;
        plug(&lab, &mut ports, &services, SERVER);
        services.ip_commands(&[&format!("addr add {SECOND}/24 dev wan")]);
        let log = services.dir().join("teredo.log");
        let config = write_config(&services, "", "");
        let mut command = dosvc(&services, &config);
        command.args(["teredo", "server", "--primary", &SERVER.to_string()]);
        let teredo = Process::start(&mut command, &log);
        wait_for("the Teredo server", Duration::from_secs(10), || {
            let ports = services.open_ports();
            let bound = ports
                .iter()
                .filter(|p| p.protocol == "udp" && p.port == 3544);
            (bound.count() == 2).then_some(())
        });
        Self {
            _teredo: teredo,
            services,
            ports,
            lab,
        }
    }

    /// A machine of the Internet itself.
    pub(crate) fn public(&mut self, name: &str, address: Ipv4Addr) -> Node {
        let node = self.lab.machine(name, address.into());
        plug(&self.lab, &mut self.ports, &node, address);
        node
    }

    /// A router on one of the networks, and the machine behind it. Two homes are never in one network: between them is
    /// the hub.
    pub(crate) fn home(&mut self, wan: Ipv4Addr, kind: Kind) -> Home {
        let [.., net, number] = wan.octets();
        let name = format!("h{net}x{number}");
        let inside = format!("192.168.{number}");
        let router = self.public(&format!("{name}r"), wan);
        let address = format!("{inside}.2").parse().expect("an address");
        let node = self.lab.machine(&name, address);
        router.forward();
        router.ip_commands(&[
            &format!(
                "link add lan type veth peer name eth0 netns {}",
                node.namespace_name()
            ),
            &format!("addr add {inside}.1/24 dev lan"),
            "link set lan up",
        ]);
        node.ip_commands(&[
            &format!("addr add {inside}.2/24 dev eth0"),
            "link set eth0 up",
            &format!("route add default via {inside}.1"),
        ]);
        router.nft(&rules(kind, wan));
        Home { node, router, wan }
    }
}

impl Home {
    /// The router lets everybody in on this UDP port, as an administrator may tell it to.
    pub(crate) fn forward_port(&self, port: u16) {
        let inside = self.node.ip();
        self.router.nft(&format!(
            "table ip forwarded {{ chain inbound {{ type nat hook prerouting priority dstnat - 1;
  iifname wan udp dport {port} dnat to {inside}
 }}
}}
"
        ));
    }

    /// Nothing passes the router on this port any more, whatever began before.
    pub(crate) fn block_port(&self, port: u16) {
        self.router.nft(&format!(
            "table ip blocked {{ chain through {{ type filter hook forward priority -20;
  meta l4proto {{ tcp, udp }} th dport {port} drop
  meta l4proto {{ tcp, udp }} th sport {port} drop
 }}
}}
"
        ));
    }
}

fn plug(lab: &Lab, ports: &mut u8, node: &Node, address: Ipv4Addr) {
    let [a, b, c, _] = address.octets();
    let port = format!("w{ports}");
    *ports += 1;
    lab.hub_ip(&[
        &format!(
            "link add {port} type veth peer name wan netns {}",
            node.namespace_name()
        ),
        &format!("link set {port} master br0 up"),
    ]);
    node.ip_commands(&[
        &format!("addr add {address}/24 dev wan"),
        "link set wan up",
        &format!("route add default via {a}.{b}.{c}.1"),
    ]);
}

fn rules(kind: Kind, wan: Ipv4Addr) -> String {
    let shifted = TUNNEL_PORT + 10_000;
    let (track, inbound, outbound) = match kind {
        Kind::Cone => (
            "iifname lan meta l4proto udp update @inner { udp sport : ip saddr }",
            "iifname wan meta l4proto udp dnat to udp dport map @inner",
            String::new(),
        ),
        Kind::Address => (
            "iifname lan meta l4proto udp update @inner { udp sport : ip saddr } update @asked { ip daddr . udp sport }",
            "iifname wan meta l4proto udp ip saddr . udp dport @asked dnat to udp dport map @inner",
            String::new(),
        ),
        Kind::Port | Kind::Leaky => ("", "", String::new()),
        Kind::PortShift => (
            "",
            "",
            format!("oifname wan udp sport {TUNNEL_PORT} snat to {wan}:{shifted}"),
        ),
        Kind::Symmetric => (
            "",
            "",
            "oifname wan masquerade random,fully-random".to_owned(),
        ),
    };
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
  {outbound}
  oifname wan masquerade persistent
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
