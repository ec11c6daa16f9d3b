//! The machines: a hub namespace with a bridge, and a namespace for each node.

use crate::{process::run, turns::Turn};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    fs::{self, File},
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
    panic::resume_unwind,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

/// Namespaces are called `dosvclab-PID-NUMBER-NODE`.
const PREFIX: &str = "dosvclab";
const OUTSIDER_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, 2);
const TBF_BURST: &str = "128kb";
const TBF_LATENCY: &str = "50ms";

/// A network of machines on one link. Dropping it removes the namespaces; whatever runs in them must be gone by then,
/// which declaring the lab first in a test sees to.
pub(crate) struct Lab {
    name: String,
    nodes: Vec<Node>,
    outsider: Option<Node>,
    dir: PathBuf,
    sockets: tempfile::TempDir,
    _turn: Turn,
}

/// One machine, or this one.
#[derive(Clone)]
pub(crate) struct Node {
    /// `None`: this machine, without a network of its own.
    namespace: Option<String>,
    ip: IpAddr,
    ipv6: Ipv6Addr,
    dir: PathBuf,
    socket_dir: PathBuf,
}

/// Bytes that crossed a machine's link, headers included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traffic {
    pub(crate) received: u64,
    pub(crate) sent: u64,
}

/// A socket of the kernel's table that has a local port.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OpenPort {
    pub(crate) protocol: &'static str,
    pub(crate) port: u16,
}

impl Lab {
    /// `n` machines with IPv4 and IPv6 addresses on one link; `rate` (as tc writes it, `200mbit`) shapes every
    /// machine's link in both directions.
    pub(crate) fn new(n: u8, rate: Option<&str>) -> Self {
        Self::build(n, rate, |n| ipv4(n).into())
    }

    /// `n` machines on one link where there is no IPv4.
    pub(crate) fn ipv6_only(n: u8) -> Self {
        Self::build(n, None, |n| ipv6(n).into())
    }

    fn build(n: u8, rate: Option<&str>, address: impl Fn(u8) -> IpAddr) -> Self {
        let mut lab = Self::empty();
        let hub = lab.hub();
        ip(&hub, &["addr add 10.77.0.1/16 dev br0"]);
        ip(&hub, &["addr add fd77::1/64 dev br0 nodad"]);
        for i in 0..n {
            let node = lab.node(&format!("n{i}"), address(i), ipv6(i));
            lab.nodes.push(node.clone());
            lab.add_namespace(node.namespace());
            lab.plug(i, &node, rate);
        }
        lab.set_neighbours();
        lab
    }

    /// A hub with a bridge that has no address, and no machine.
    pub(crate) fn empty() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let turn = Turn::beside_others();
        static CLEAN: Once = Once::new();
        CLEAN.call_once(remove_leftovers);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}-{}-{number}", std::process::id());
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&name);
        fs::create_dir_all(&dir).expect("the target folder can be written");
        // A Unix socket's path has at most 107 bytes: the target folder may be too deep for it.
        let sockets = tempfile::tempdir().expect("a temporary folder");
        let lab = Self {
            name,
            nodes: Vec::new(),
            outsider: None,
            dir,
            sockets,
            _turn: turn,
        };
        let hub = lab.hub();
        lab.add_namespace(&hub);
        ip(
            &hub,
            &[
                // Else it has the least of its ports' addresses, and a port that comes later changes it: then everybody sends
                // to nobody until their neighbour tables have grown old.
                "link add br0 address 02:77:00:00:01:00 type bridge mcast_snooping 0",
                "link set br0 up",
            ],
        );
        lab
    }

    /// A machine that is connected to nothing yet.
    pub(crate) fn machine(&mut self, name: &str, address: IpAddr) -> Node {
        let node = self.node(name, address, Ipv6Addr::UNSPECIFIED);
        self.add_namespace(node.namespace());
        self.nodes.push(node.clone());
        node
    }

    /// The hub as a machine of its own: what routes between the networks on its bridge.
    pub(crate) fn hub_ip(&self, commands: &[&str]) {
        ip(&self.hub(), commands);
    }

    /// Passes packets on between the hub's networks.
    pub(crate) fn hub_forward(&self) {
        forward(&self.hub());
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.name)
    }

    fn node(&self, name: &str, ip: IpAddr, ipv6: Ipv6Addr) -> Node {
        let dir = self.dir.join(name);
        let socket_dir = self.sockets.path().join(name);
        fs::create_dir_all(&dir).expect("the lab's folder can be written");
        fs::create_dir_all(&socket_dir).expect("the lab's folder can be written");
        Node {
            namespace: Some(format!("{}-{name}", self.name)),
            ip,
            ipv6,
            dir,
            socket_dir,
        }
    }

    fn add_namespace(&self, namespace: &str) {
        run(Command::new("ip").args(["netns", "add", namespace]));
        let result = enter(namespace, || {
            // Addresses must be there at once: no duplicate address detection, no waiting for routers.
            for (key, value) in [
                ("accept_dad", "0"),
                ("accept_ra", "0"),
                ("disable_ipv6", "0"),
            ] {
                for scope in ["all", "default"] {
                    fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/{key}"), value)?;
                }
            }
            Ok::<(), std::io::Error>(())
        });
        result.expect("the namespace's own sysctls can be written");
        ip(namespace, &["link set lo up"]);
    }

    fn plug(&self, i: u8, node: &Node, rate: Option<&str>) {
        let hub = self.hub();
        let ns = node.namespace();
        let mac = mac(i);
        ip(
            &hub,
            &[&format!(
                "link add p{i} type veth peer name eth0 address {mac} netns {ns}"
            )],
        );
        ip(&hub, &[&format!("link set p{i} master br0 up")]);
        ip(
            ns,
            &[
                "link set eth0 up",
                &format!("addr add {}/64 dev eth0 nodad", ipv6(i)),
            ],
        );
        ip(ns, &["route add default via fd77::1"]);
        if let IpAddr::V4(address) = node.ip {
            ip(
                ns,
                &[
                    &format!("addr add {address}/16 dev eth0"),
                    "route add default via 10.77.0.1",
                ],
            );
        }
        if let Some(rate) = rate {
            for (namespace, device) in [(ns, "eth0".to_owned()), (hub.as_str(), format!("p{i}"))] {
                run(Command::new("tc")
                    .args([
                        "-n", namespace, "qdisc", "replace", "dev", &device, "root", "tbf",
                    ])
                    .args(["rate", rate, "burst", TBF_BURST, "latency", TBF_LATENCY]));
            }
        }
    }

    /// Makes segments cross all links as they would cross real ones, one by one: else one packet of 64 KiB has the
    /// headers of one, and counters see hardly any.
    pub(crate) fn segment(&self) {
        const ALONE: &str = "gso_max_segs 1";
        for (number, node) in self.nodes.iter().enumerate() {
            ip(node.namespace(), &[&format!("link set eth0 {ALONE}")]);
            ip(&self.hub(), &[&format!("link set p{number} {ALONE}")]);
        }
        if let Some(outsider) = &self.outsider {
            ip(outsider.namespace(), &[&format!("link set eth0 {ALONE}")]);
            ip(&self.hub(), &[&format!("link set out {ALONE}")]);
        }
    }

    /// Makes what machine `i` receives go through a bottleneck with a queue of so much delay. Senders fill it, as
    /// most of the world's do, and segments cross the links one by one.
    pub(crate) fn narrow(&self, i: u8, rate: &str, queue: &str) {
        self.segment();
        for node in &self.nodes {
            node.send_as_most();
        }
        self.reshape(i, rate, queue);
    }

    /// Gives what machine `i` receives another bottleneck, at once.
    pub(crate) fn reshape(&self, i: u8, rate: &str, queue: &str) {
        run(Command::new("tc")
            .args([
                "-n",
                &self.hub(),
                "qdisc",
                "replace",
                "dev",
                &format!("p{i}"),
            ])
            .args([
                "root", "tbf", "rate", rate, "burst", "16kb", "latency", queue,
            ]));
    }

    /// Bounds what machine `i` sends, anew when it is bounded already.
    pub(crate) fn shape_sending(&self, i: usize, rate: &str) {
        run(Command::new("tc")
            .args(["-n", self.nodes[i].namespace()])
            .args(["qdisc", "replace", "dev", "eth0", "root", "tbf"])
            .args(["rate", rate, "burst", TBF_BURST, "latency", TBF_LATENCY]));
    }

    /// Permanent neighbour entries: many machines that ask for each other at once overflow the kernel's table, which
    /// all namespaces share, and stand still for seconds.
    fn set_neighbours(&self) {
        for node in &self.nodes {
            let others = self
                .nodes
                .iter()
                .enumerate()
                .filter(|(_, other)| other.namespace != node.namespace);
            let commands: Vec<String> = others
                .flat_map(|(i, other)| {
                    let i = u8::try_from(i).expect("a lab has fewer than 256 machines");
                    [other.ip, ipv6(i).into()].map(|ip| {
                        format!(
                            "neigh replace {ip} lladdr {} dev eth0 nud permanent",
                            mac(i)
                        )
                    })
                })
                .collect();
            ip(
                node.namespace(),
                &commands.iter().map(String::as_str).collect::<Vec<_>>(),
            );
        }
    }

    /// Machine number `i`.
    pub(crate) fn at(&self, i: usize) -> &Node {
        &self.nodes[i]
    }

    /// All machines on the link.
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A machine on another network, which the hub routes to and from the link.
    pub(crate) fn outsider(&mut self) -> Node {
        if let Some(outsider) = &self.outsider {
            return outsider.clone();
        }
        let hub = self.hub();
        let node = self.node("out", Ipv4Addr::new(10, 88, 0, 2).into(), OUTSIDER_IPV6);
        self.outsider = Some(node.clone());
        let ns = node.namespace();
        self.add_namespace(ns);
        ip(
            &hub,
            &[
                &format!("link add out type veth peer name eth0 netns {ns}"),
                "link set out up",
            ],
        );
        ip(
            &hub,
            &[
                "addr add 10.88.0.1/24 dev out",
                "addr add fd88::1/64 dev out nodad",
            ],
        );
        ip(
            ns,
            &[
                "link set eth0 up",
                "addr add 10.88.0.2/24 dev eth0",
                "route add default via 10.88.0.1",
            ],
        );
        ip(
            ns,
            &[
                &format!("addr add {OUTSIDER_IPV6}/64 dev eth0 nodad"),
                "route add default via fd88::1",
            ],
        );
        let forwarding = enter(&hub, || {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
        });
        forwarding.expect("the namespace's own sysctls can be written");
        node
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let nodes = self
            .nodes
            .iter()
            .chain(&self.outsider)
            .map(|node| node.namespace().to_owned());
        for namespace in nodes.chain([self.hub()]) {
            let _removed = Command::new("ip")
                .args(["netns", "del", &namespace])
                .stderr(Stdio::null())
                .status();
        }
        if thread::panicking() || std::env::var_os("DOSVC_LAB_KEEP").is_some() {
            eprintln!("logs and captures: {}", self.dir.display());
        } else {
            let _left_behind = fs::remove_dir_all(&self.dir);
        }
    }
}

impl Node {
    /// This machine: loopback, no root needed, and every port must be chosen by the kernel.
    pub(crate) fn here(dir: &Path) -> Self {
        let (dir, socket_dir) = (dir.to_owned(), dir.join("socket"));
        fs::create_dir_all(&socket_dir).expect("the folder can be written");
        let (ip, ipv6) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST);
        Self {
            namespace: None,
            ip,
            ipv6,
            dir,
            socket_dir,
        }
    }

    fn namespace(&self) -> &str {
        self.namespace
            .as_deref()
            .expect("machines of a lab have one")
    }

    /// The machine's address.
    pub(crate) fn ip(&self) -> IpAddr {
        self.ip
    }

    pub(crate) fn address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip, port)
    }

    pub(crate) fn ipv6_address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ipv6.into(), port)
    }

    /// A folder of the machine's own.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A folder whose path is short enough for sockets.
    pub(crate) fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// A command that runs on this machine, with no proxy from the environment.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = match &self.namespace {
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(program);
                command
            }
            None => Command::new(program),
        };
        for proxy in [
            "http_proxy",
            "https_proxy",
            "all_proxy",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "ALL_PROXY",
        ] {
            command.env_remove(proxy);
        }
        command
    }

    /// Runs a closure on this machine: sockets that it opens belong to the machine's network.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        enter(self.namespace(), work)
    }

    /// Commands of iproute2 on this machine.
    pub(crate) fn ip_commands(&self, commands: &[&str]) {
        ip(self.namespace(), commands);
    }

    /// The namespace's name, for commands that move interfaces.
    pub(crate) fn namespace_name(&self) -> &str {
        self.namespace()
    }

    /// Passes packets on between its networks.
    pub(crate) fn forward(&self) {
        forward(self.namespace());
    }

    /// Makes its TCP fill queues, as most of the world's does, whatever this machine's default is.
    pub(crate) fn send_as_most(&self) {
        let by_losses = self.enter(|| {
            // A namespace may choose only what the machine's administrator allows to all.
            let choose = |name| fs::write("/proc/sys/net/ipv4/tcp_congestion_control", name);
            choose("cubic").or_else(|_| choose("reno"))
        });
        by_losses.expect("reno is always allowed");
    }

    /// Rules of nftables on this machine.
    pub(crate) fn nft(&self, rules: &str) {
        let rules_file = self.dir.join("rules.nft");
        fs::write(&rules_file, rules).expect("the node's folder can be written");
        run(self.command("nft").arg("-f").arg(&rules_file));
    }

    /// Bytes that crossed the machine's link since the lab was made.
    pub(crate) fn traffic(&self) -> Traffic {
        let table = self
            .enter(|| fs::read_to_string("/proc/thread-self/net/dev"))
            .expect("the kernel has the table");
        let line = table
            .lines()
            .find_map(|line| line.trim().strip_prefix("eth0:"))
            .expect("a node has eth0");
        let numbers: Vec<u64> = line
            .split_whitespace()
            .map(|n| n.parse().expect("a number"))
            .collect();
        Traffic {
            received: numbers[0],
            sent: numbers[8],
        }
    }

    /// TCP ports that listen and UDP ports that are bound, loopback or not.
    pub(crate) fn open_ports(&self) -> Vec<OpenPort> {
        const LISTENING: &str = "0A";
        let mut ports = Vec::new();
        for (protocol, tables) in [("tcp", ["tcp", "tcp6"]), ("udp", ["udp", "udp6"])] {
            for table in tables {
                let path = format!("/proc/thread-self/net/{table}");
                let text = self
                    .enter(|| fs::read_to_string(&path))
                    .expect("the kernel has the table");
                for line in text.lines().skip(1) {
                    let fields: Vec<&str> = line.split_whitespace().collect();
                    let (_, port) = fields[1].rsplit_once(':').expect("address and port");
                    if protocol == "udp" || fields[3] == LISTENING {
                        ports.push(OpenPort {
                            protocol,
                            port: u16::from_str_radix(port, 16).expect("hexadecimal"),
                        });
                    }
                }
            }
        }
        ports
    }
}

fn ipv4(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 10 + n)
}

fn ipv6(n: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x10 + u16::from(n))
}

fn mac(n: u8) -> String {
    format!("02:77:00:00:00:{n:02x}")
}

fn ip(namespace: &str, commands: &[&str]) {
    let mut child = Command::new("ip")
        .args(["-n", namespace, "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("iproute2 is installed");
    let mut input = child.stdin.take().expect("stdin is a pipe");
    input
        .write_all((commands.join("\n") + "\n").as_bytes())
        .expect("ip reads its commands");
    drop(input);
    let output = child.wait_with_output().expect("ip ends");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "ip in {namespace}, root needed: {commands:?}: {errors}"
    );
}

fn forward(namespace: &str) {
    let forwarding = enter(namespace, || {
        fs::write("/proc/sys/net/ipv4/ip_forward", "1")
    });
    forwarding.expect("the namespace's own sysctls can be written");
}

fn enter<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            let file =
                File::open(Path::new("/run/netns").join(namespace)).expect("the namespace exists");
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("root may enter it");
            work()
        });
        inside.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// Removes namespaces of earlier runs that were killed before they could clean up.
fn remove_leftovers() {
    let listed = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    for name in listed.filter_map(|entry| entry.file_name().into_string().ok()) {
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').nth(1));
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            run(Command::new("ip").args(["netns", "del", &name]));
        }
    }
}
