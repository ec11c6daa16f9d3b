//! An Internet of machines behind home routers: the kernel's NAT, made to behave in the ways that routers do.

pub(crate) use crate::router::{CLIENT_PORT as TUNNEL_PORT, Kind};
use crate::{
    daemon::{dosvc, write_config},
    namespace::{Lab, Node, OpenPort},
    process::{Process, wait_for},
    router::{MINIUPNPD_CHAINS, MINIUPNPD_EXTERNAL, miniupnpd, rules},
};
use std::{fs, net::Ipv4Addr, time::Duration};

/// The Teredo server's addresses; the services are on the same machine.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
const SECOND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 11);

/// The networks of the Internet, each with the hub at `.1`.
const NETWORKS: [&str; 3] = ["198.51.100", "203.0.113", "192.0.2"];

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

    /// The router takes wishes for ports, by PCP, NAT-PMP and UPnP: real miniupnpd, until this is dropped.
    pub(crate) fn map_ports(&self, internet: &Internet) -> Process {
        let external = MINIUPNPD_EXTERNAL;
        self.router
            .ip_commands(&[&format!("addr add {external}/32 dev wan")]);
        internet
            .lab
            .hub_ip(&[&format!("route add {external}/32 via {} dev br0", self.wan)]);
        self.router.nft(MINIUPNPD_CHAINS);
        let inside = format!("{}/32", self.node.ip());
        let config = self.router.dir().join("miniupnpd.conf");
        let text = miniupnpd(external, &inside, true, true);
        fs::write(&config, text).expect("the router's folder can be written");
        let mut command = self.router.command("miniupnpd");
        command.arg("-d").arg("-f").arg(&config).arg("-P");
        command.arg(self.router.dir().join("miniupnpd.pid"));
        let log = self.router.dir().join("miniupnpd.log");
        let process = Process::start(&mut command, &log);
        wait_for("miniupnpd's port", Duration::from_secs(10), || {
            let ports = self.router.open_ports();
            let open = |port: &OpenPort| port.protocol == "udp" && port.port == 5351;
            ports.iter().any(open).then_some(())
        });
        process
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
