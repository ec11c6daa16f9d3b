//! Ports mapped at a gateway that real miniupnpd runs on.

use crate::{
    PATIENCE,
    gateway::{End, Kind, home_with_router},
    machine::{Internet, Machine, Running, wait_for},
    peer::Program,
    router::{MINIUPNPD_CHAINS, MINIUPNPD_EXTERNAL as EXTERNAL, miniupnpd},
};
use dosvc_nat::portmap::{Method, Port, PortMapper, PortMapperConfig, Protocol, State, Status};
use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    num::NonZeroU16,
    path::Path,
    sync::mpsc,
    time::{Duration, Instant},
};
use tokio::sync::watch;

const PORT: u16 = 7680;
/// Short, so that a renewal is seen.
const LEASE: Duration = Duration::from_secs(4);

/// What the gateway speaks.
#[derive(Clone, Copy, Debug)]
struct Speaks {
    upnp: bool,
    pcp: bool,
    natpmp: bool,
}

const ALL: Speaks = Speaks {
    upnp: true,
    pcp: true,
    natpmp: true,
};

/// A gateway with miniupnpd, and the machine behind it.
struct Site {
    internet: Internet,
    router: Machine,
    machine: Machine,
    outside: Machine,
    dir: tempfile::TempDir,
    speaks: Speaks,
}

impl Site {
    fn new(speaks: Speaks) -> Self {
        let mut internet = Internet::new();
        let (router, machine) = home_with_router(&mut internet, End::Left, Kind::Port, 10);
        let outside = internet.machine("outside");
        internet.plug(&outside, Ipv4Addr::new(198, 51, 100, 60));
        router.ip(&[&format!("addr add {EXTERNAL}/32 dev wan")]);
        internet
            .router()
            .ip(&[&format!("route add {EXTERNAL}/32 dev br0")]);
        router.nft(MINIUPNPD_CHAINS);
        // A gateway that speaks one of the two on UDP 5351 alone: the other's version is dropped.
        for (version, spoken) in [(0, speaks.natpmp), (2, speaks.pcp)] {
            if !spoken && (speaks.pcp || speaks.natpmp) {
                router.nft(&format!(
                    "table ip deaf{version} {{ chain input {{ type filter hook input priority -1; udp dport 5351 @th,64,8 {version} drop; }}; }}\n"
                ));
            }
        }
        Self {
            internet,
            router,
            machine,
            outside,
            dir: tempfile::tempdir().unwrap(),
            speaks,
        }
    }

    /// Another machine of the same network.
    fn neighbour(&mut self) -> Machine {
        let machine = self.internet.machine("neighbour");
        let name = machine.name();
        self.router.ip(&[
            "link set lan down",
            "link set lan name port0",
            "addr del 192.168.10.1/24 dev port0",
            "link add lan type bridge mcast_snooping 0",
            "addr add 192.168.10.1/24 dev lan",
            "link set port0 master lan up",
            &format!("link add port1 master lan type veth peer name eth0 netns {name}"),
            "link set port1 up",
            "link set lan up",
        ]);
        machine.ip(&[
            "addr add 192.168.10.3/24 dev eth0",
            "link set eth0 up",
            "route add default via 192.168.10.1",
        ]);
        machine
    }

    fn gateway(&self) -> Running {
        self.gateway_with(EXTERNAL)
    }

    fn gateway_with(&self, external: Ipv4Addr) -> Running {
        let config = self.dir.path().join("miniupnpd.conf");
        let Speaks { upnp, pcp, natpmp } = self.speaks;
        let text = miniupnpd(external, "192.168.10.0/24", upnp, pcp || natpmp);
        std::fs::write(&config, text).unwrap();
        let mut command = self.router.command("miniupnpd");
        command.arg("-d").arg("-f").arg(&config).arg("-P");
        command.arg(self.dir.path().join("pid"));
        let running = Running::start(&mut command);
        let port = match self.speaks.upnp {
            true => 1900,
            false => 5351,
        };
        wait_for("miniupnpd's port", PATIENCE, || {
            let read = || std::fs::read_to_string("/proc/thread-self/net/udp");
            let table = self.router.enter(read).unwrap();
            table.contains(&format!(":{port:04X} ")).then_some(())
        });
        running
    }

    /// What the gateway has mapped, as its rules say.
    fn rules(&self) -> usize {
        let mut list = self.router.command("nft");
        let list = list.args(["list", "chain", "inet", "miniupnpd", "prerouting_miniupnpd"]);
        let text = String::from_utf8(list.output().unwrap().stdout).unwrap();
        text.matches("dnat").count()
    }

    fn mapper(&self, ports: &[Port]) -> Keeper {
        Keeper::start(&self.machine, self.dir.path(), ports.to_vec())
    }
}

/// Who keeps ports mapped on a machine.
struct Keeper {
    status: watch::Receiver<Status>,
    ended: mpsc::Receiver<Duration>,
    program: Option<Program>,
}

impl Keeper {
    fn start(machine: &Machine, dir: &Path, ports: Vec<Port>) -> Self {
        // Threads have networks of their own here; `/proc/net` is the process's.
        let root = dir.join("root");
        std::fs::create_dir_all(root.join("proc")).unwrap();
        let _there_already =
            std::os::unix::fs::symlink("/proc/thread-self/net", root.join("proc/net"));
        let (give, status) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        let program = Program::start(machine, move |stopped| async move {
            let config = PortMapperConfig {
                lease: LEASE,
                root: dosvc_host::Root::new(root),
            };
            let mapper = PortMapper::start(config, ports.into_iter().collect()).unwrap();
            give.send(mapper.status()).unwrap();
            let _stopped = stopped.await;
            let start = Instant::now();
            mapper.shutdown().await;
            let _nobody_asks = end.send(start.elapsed());
        });
        Self {
            status: status.recv_timeout(PATIENCE).unwrap(),
            ended,
            program: Some(program),
        }
    }

    fn wait(&self, what: &str, is: impl Fn(&Status) -> bool) -> Status {
        wait_for(what, PATIENCE, || {
            let status = self.status.borrow().clone();
            is(&status).then_some(status)
        })
    }

    /// Ends it; how long that took.
    fn end(mut self) -> Duration {
        drop(self.program.take());
        self.ended.recv_timeout(PATIENCE).unwrap()
    }
}

fn port(protocol: Protocol) -> Port {
    Port {
        protocol,
        number: NonZeroU16::new(PORT).unwrap(),
    }
}

fn both() -> [Port; 2] {
    [port(Protocol::Tcp), port(Protocol::Udp)]
}

fn is_mapped(status: &Status) -> bool {
    matches!(status.state, State::Mapped(_)) && status.mappings.len() == 2
}

/// Whether somebody outside reaches the machine at these addresses, over TCP and UDP.
fn is_reached(site: &Site, status: &Status) {
    let inside = |protocol| status.public(protocol, PORT).unwrap();
    let (tcp, udp) = (inside(Protocol::Tcp), inside(Protocol::Udp));
    assert_eq!((*tcp.ip(), *udp.ip()), (EXTERNAL, EXTERNAL));
    let (listener, socket) = site.machine.enter(|| {
        let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT);
        (
            TcpListener::bind(any).unwrap(),
            UdpSocket::bind(any).unwrap(),
        )
    });
    site.outside.enter(|| {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::V4(tcp), PATIENCE).unwrap();
        stream.write_all(b"hello").unwrap();
        let ours = UdpSocket::bind("0.0.0.0:0").unwrap();
        ours.send_to(b"hello", udp).unwrap();
    });
    let mut came = [0; 5];
    listener.accept().unwrap().0.read_exact(&mut came).unwrap();
    assert_eq!(&came, b"hello");
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(socket.recv(&mut came).unwrap(), 5);
}

/// Mapped, reached, renewed, mapped again when the gateway has forgotten everything, removed.
fn lives(speaks: Speaks, method: Method) {
    let site = Site::new(speaks);
    let gateway = site.gateway();
    let start = Instant::now();
    let mapper = site.mapper(&both());
    let status = mapper.wait("the mapping", is_mapped);
    eprintln!("{method}: mapped after {:?}", start.elapsed());
    assert_eq!(status.state, State::Mapped(method));
    assert_eq!(site.rules(), 2);
    is_reached(&site, &status);

    let granted = status.granted;
    let status = mapper.wait("a renewal", |status| status.granted > granted);
    assert!(start.elapsed() >= LEASE / 2, "not before half of the lease");
    assert_eq!(status.state, State::Mapped(method));
    is_reached(&site, &status);

    drop(gateway);
    site.router
        .nft("flush chain inet miniupnpd prerouting_miniupnpd\nflush chain inet miniupnpd miniupnpd\nflush chain inet miniupnpd postrouting_miniupnpd\n");
    assert_eq!(site.rules(), 0);
    let _gateway = site.gateway();
    wait_for("a mapping after the restart", PATIENCE, || {
        (site.rules() == 2).then_some(())
    });
    let status = mapper.wait("the mapping", is_mapped);
    is_reached(&site, &status);

    let took = mapper.end();
    assert!(took < Duration::from_secs(3), "{took:?} to end");
    wait_for("the removal", PATIENCE, || {
        (site.rules() == 0).then_some(())
    });
}

#[test]
#[ignore = "needs root, nftables and miniupnpd"]
fn pcp_maps_renews_and_removes() {
    lives(ALL, Method::Pcp);
}

#[test]
#[ignore = "needs root, nftables and miniupnpd"]
fn natpmp_maps_renews_and_removes() {
    let speaks = Speaks {
        pcp: false,
        upnp: false,
        ..ALL
    };
    lives(speaks, Method::NatPmp);
}

#[test]
#[ignore = "needs root, nftables and miniupnpd"]
fn upnp_maps_renews_and_removes() {
    let speaks = Speaks {
        pcp: false,
        natpmp: false,
        ..ALL
    };
    lives(speaks, Method::Upnp);
}

#[test]
#[ignore = "needs root, nftables and miniupnpd"]
fn a_taken_number_gives_another_one_and_nobody_elses_mapping_goes() {
    for speaks in [
        ALL,
        Speaks {
            pcp: false,
            natpmp: false,
            ..ALL
        },
    ] {
        let mut site = Site::new(speaks);
        let neighbour = site.neighbour();
        let _gateway = site.gateway();
        let other = Keeper::start(&neighbour, site.dir.path(), both().into());
        let first = other.wait("the first mapping", is_mapped);
        let mapper = site.mapper(&both());
        let second = mapper.wait("the second mapping", is_mapped);
        assert_eq!(site.rules(), 4);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let [a, b] = [&first, &second].map(|status| status.public(protocol, PORT).unwrap());
            assert_ne!(a, b, "{speaks:?}");
        }
        mapper.end();
        wait_for("the removal", PATIENCE, || {
            (site.rules() == 2).then_some(())
        });
    }
}

#[test]
#[ignore = "needs root and nftables"]
fn without_an_answer_it_is_known_soon_and_nothing_hangs_at_the_end() {
    let site = Site::new(ALL);
    let start = Instant::now();
    let mapper = site.mapper(&both());
    let status = mapper.wait("the failure", |status| {
        matches!(status.state, State::Failed(_))
    });
    eprintln!("{:?} after {:?}", status.state, start.elapsed());
    assert!(mapper.end() < Duration::from_secs(3));
}

/// What answers every search over UPnP on this machine, from this address, as fast as it can: its description is there,
/// too, and this is what its web server sends. Whoever connects there is counted.
fn fake(machine: &Machine, address: Ipv4Addr, sends: &'static [u8], endless: bool) -> Fake {
    let (connections, counted) = mpsc::channel();
    let (ready, is_ready) = mpsc::channel();
    let program = Program::start(machine, move |stopped| async move {
        let web = tokio::net::TcpListener::bind((address, 0)).await.unwrap();
        let port = web.local_addr().unwrap().port();
        let search =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        search.set_reuse_address(true).unwrap();
        search.set_nonblocking(true).unwrap();
        let group = Ipv4Addr::new(239, 255, 255, 250);
        search.bind(&SocketAddrV4::new(group, 1900).into()).unwrap();
        search.join_multicast_v4(&group, &address).unwrap();
        let search = tokio::net::UdpSocket::from_std(search.into()).unwrap();
        let from = tokio::net::UdpSocket::bind((address, 0)).await.unwrap();
        ready.send(()).unwrap();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\nLOCATION: http://{address}:{port}/a.xml\r\n\r\n"
        );
        let lie = async {
            let mut buffer = [0; 2048];
            loop {
                let (_, asker) = search.recv_from(&mut buffer).await.unwrap();
                for _ in 0..1000 {
                    let _full = from.try_send_to(answer.as_bytes(), asker);
                }
            }
        };
        let serve = async {
            loop {
                let (mut stream, _) = web.accept().await.unwrap();
                connections.send(()).unwrap();
                tokio::spawn(async move {
                    use tokio::io::AsyncWriteExt as _;
                    while stream.write_all(sends).await.is_ok() && endless {}
                });
            }
        };
        tokio::select! {
            () = lie => {}
            () = serve => {}
            _ = stopped => {}
        }
    });
    is_ready.recv_timeout(PATIENCE).expect("the liar listens");
    Fake {
        connections: counted,
        _program: program,
    }
}

struct Fake {
    connections: mpsc::Receiver<()>,
    _program: Program,
}

#[test]
#[ignore = "needs root, nftables and miniupnpd"]
fn another_host_that_answers_first_is_not_even_looked_at() {
    let site = Site::new(Speaks {
        pcp: false,
        natpmp: false,
        ..ALL
    });
    let liar = Ipv4Addr::new(192, 168, 10, 9);
    site.router.ip(&[&format!("addr add {liar}/24 dev lan")]);
    let _gateway = site.gateway();
    let fake = fake(&site.router, liar, b"HTTP/1.1 200 OK\r\n\r\n<root>", true);
    let mapper = site.mapper(&both());
    let status = mapper.wait("the mapping", is_mapped);
    is_reached(&site, &status);
    assert_eq!(fake.connections.try_iter().count(), 0);
}

#[test]
#[ignore = "needs root and nftables"]
fn a_gateway_that_floods_or_sends_elsewhere_costs_a_few_seconds() {
    let speaks = Speaks {
        pcp: false,
        natpmp: false,
        ..ALL
    };
    let flood: &[u8] =
        b"HTTP/1.1 200 OK\r\n\r\n<a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a>";
    let elsewhere: &[u8] =
        b"HTTP/1.1 302 Found\r\nLocation: http://198.51.100.60:8080/\r\nContent-Length: 0\r\n\r\n";
    for (sends, endless) in [(flood, true), (elsewhere, false)] {
        let site = Site::new(speaks);
        let there = site.outside.enter(|| {
            let listener = TcpListener::bind("198.51.100.60:8080").unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        });
        let fake = fake(&site.router, Ipv4Addr::new(192, 168, 10, 1), sends, endless);
        let start = Instant::now();
        let mapper = site.mapper(&both());
        mapper.wait("the failure", |status| {
            matches!(status.state, State::Failed(_))
        });
        assert!(start.elapsed() < Duration::from_secs(15));
        let connections = fake.connections.try_iter().count();
        assert!((1..=16).contains(&connections), "{connections} connections");
        assert!(there.accept().is_err(), "it was not followed");
    }
}
