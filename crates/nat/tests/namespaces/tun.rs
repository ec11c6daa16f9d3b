//! The tunnel as a network interface: the kernel's own ping and TCP through it, between ours and miredo, and through a
//! relay with hosts that have native IPv6.

use crate::{
    PATIENCE,
    foreign::{folder, kernel_pings, miredo, miredo_server},
    gateway::{CLIENT_PORT, End, Kind, home},
    machine::{Internet, Machine, PRIMARY, SECONDARY, wait_for},
    peer::{Program, server},
};
use dosvc_nat::{
    net::{
        self, State, Tunnel, TunnelConfig,
        tun::{self, Device},
    },
    teredo::client::ServerAddresses,
};
use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6, TcpListener, TcpStream},
    sync::mpsc,
    thread,
};

const TCP_PORT: u16 = 7777;
/// Bytes of one transfer.
const SIZE: usize = 4 << 20;

const HOST: &str = "2a02:db8::2";

/// A client of ours with an interface; its address.
fn tunnelled(machine: &Machine, native: bool) -> (Program, Ipv6Addr) {
    let (ready, is_ready) = mpsc::channel();
    let program = Program::start(machine, move |stopped| async move {
        let config = TunnelConfig {
            servers: vec![ServerAddresses {
                primary: PRIMARY,
                secondary: Some(SECONDARY),
            }],
            bind: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT),
            discovery: false,
            native,
        };
        let (tunnel, incoming) = Tunnel::bind(config).await.unwrap();
        let mut state = tunnel.state();
        let device = Device::open("teredo").unwrap();
        let joined = tun::join(tunnel, incoming, device, |_| false);
        let told = async {
            let qualified = state.wait_for(|state| matches!(state, State::Qualified(_)));
            if let State::Qualified(own) = *qualified.await.unwrap() {
                ready.send(own.address.to_ipv6()).unwrap();
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = joined => ended.unwrap(),
            () = told => {}
            _ = stopped => {}
        }
    });
    let address = is_ready
        .recv_timeout(PATIENCE)
        .expect("the client qualifies");
    has_address(machine, address);
    (program, address)
}

/// Waits until an interface has the address, and it is no longer tentative.
fn has_address(machine: &Machine, address: Ipv6Addr) {
    let digits = format!("{:032x}", u128::from(address));
    wait_for("the interface's address", PATIENCE, || {
        let read = || std::fs::read_to_string("/proc/thread-self/net/if_inet6");
        let table = machine.enter(read).unwrap();
        let line = table.lines().find(|line| line.starts_with(&digits))?;
        let flags = u8::from_str_radix(line.split_whitespace().nth(4)?, 16).ok()?;
        (flags & 0x40 == 0).then_some(())
    });
}

/// Bytes over TCP from one machine to the other, through their kernels.
fn tcp(from: &Machine, to: &Machine, address: Ipv6Addr) {
    let listener = to.enter(|| TcpListener::bind(("::", TCP_PORT)).unwrap());
    let pattern = |n: usize| u8::try_from(n % 251).unwrap();
    let receiver = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all
    });
    from.enter(|| {
        let to = SocketAddrV6::new(address, TCP_PORT, 0, 0);
        let mut stream = TcpStream::connect_timeout(&to.into(), PATIENCE).unwrap();
        let bytes: Vec<u8> = (0..SIZE).map(pattern).collect();
        stream.write_all(&bytes).unwrap();
    });
    let came = receiver.join().unwrap();
    assert_eq!(came.len(), SIZE);
    assert!(came.iter().enumerate().all(|(n, &byte)| byte == pattern(n)));
}

#[test]
#[ignore = "needs root, nftables and a TUN device"]
fn two_machines_ping_and_speak_tcp_through_their_interfaces() {
    let mut internet = Internet::new();
    let _server = server(internet.server());
    let one = home(&mut internet, End::Left, Kind::Port, 10);
    let other = home(&mut internet, End::Right, Kind::Port, 11);
    let (_one, first) = tunnelled(&one, false);
    let (_other, second) = tunnelled(&other, false);
    assert!(kernel_pings(&one, second));
    assert!(kernel_pings(&other, first));
    tcp(&one, &other, second);
    tcp(&other, &one, first);
}

/// A relay, a host with native IPv6 behind it, and IPv6 at the server: what its clients ping by it comes to the host.
struct Native {
    _relay: Program,
    host: Machine,
}

fn native(internet: &mut Internet) -> Native {
    let relay = internet.machine("relay");
    let host = internet.machine("host");
    internet.plug(&relay, Ipv4Addr::new(198, 51, 100, 70));
    relay.enter(|| {
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
    });
    let server = internet.server();
    for (there, interface, network) in [
        (&host, "native", "2a02:db8::"),
        (server, "plane", "2a02:db8:1::"),
    ] {
        let name = there.name();
        relay.ip(&[
            &format!("link add {interface} type veth peer name six0 netns {name}"),
            &format!("addr add {network}1/64 dev {interface} nodad"),
            &format!("link set {interface} up"),
        ]);
        there.ip(&[
            &format!("addr add {network}2/64 dev six0 nodad"),
            "link set six0 up",
            &format!("route add ::/0 via {network}1"),
        ]);
    }
    let (ready, is_ready) = mpsc::channel();
    let program = Program::start(&relay, move |stopped| async move {
        let device = Device::open("relay0").unwrap();
        let any = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 70), 0);
        let relay = net::relay(any, device).await.unwrap();
        ready.send(()).unwrap();
        let _stopped = stopped.await;
        eprintln!("{:?}", relay.stats());
        relay.shutdown().await;
    });
    is_ready.recv_timeout(PATIENCE).expect("the relay starts");
    Native {
        _relay: program,
        host,
    }
}

#[test]
#[ignore = "needs root, nftables and a TUN device"]
fn a_host_with_native_ipv6_and_our_client_reach_each_other_by_our_relay() {
    let mut internet = Internet::new();
    let _server = server(internet.server());
    let native = native(&mut internet);
    for (number, kind) in [(10, Kind::Port), (11, Kind::Symmetric)] {
        let machine = home(&mut internet, End::Left, kind, number);
        let (_client, address) = tunnelled(&machine, true);
        machine.ip(&["route replace ::/0 dev teredo metric 1"]);
        assert!(kernel_pings(&native.host, address), "{kind:?}");
        tcp(&native.host, &machine, address);
        // The path is open now, for the other direction too.
        assert!(kernel_pings(&machine, HOST.parse().unwrap()), "{kind:?}");
        tcp(&machine, &native.host, HOST.parse().unwrap());
    }
    // Who doesn't want that has nothing to do with it.
    let machine = home(&mut internet, End::Right, Kind::Port, 12);
    let (_client, address) = tunnelled(&machine, false);
    machine.ip(&["route replace ::/0 dev teredo metric 1"]);
    assert!(!kernel_pings(&native.host, address));
}

#[test]
#[ignore = "needs root, nftables, miredo and a TUN device"]
fn foreign_clients_ping_and_speak_tcp_with_our_interface() {
    let dir = folder();
    let mut internet = Internet::new();
    let _server = server(internet.server());
    let theirs = home(&mut internet, End::Left, Kind::Port, 10);
    let ours = home(&mut internet, End::Right, Kind::Port, 11);
    let (_miredo, first) = miredo(&theirs, dir.path());
    let (_ours, second) = tunnelled(&ours, false);
    assert!(kernel_pings(&ours, first));
    assert!(kernel_pings(&theirs, second));
    tcp(&ours, &theirs, first);
    tcp(&theirs, &ours, second);
}

#[test]
#[ignore = "needs root, nftables, miredo, miredo-server and a TUN device"]
fn foreign_clients_reach_native_ipv6_by_our_relay() {
    let dir = folder();
    let mut internet = Internet::new();
    let _server = miredo_server(internet.server(), dir.path());
    let native = native(&mut internet);
    let machine = home(&mut internet, End::Left, Kind::Port, 10);
    let (_miredo, address) = miredo(&machine, dir.path());
    machine.ip(&["route replace ::/0 dev teredo metric 1"]);
    assert!(kernel_pings(&machine, HOST.parse().unwrap()), "out");
    assert!(kernel_pings(&native.host, address), "in");
    tcp(&native.host, &machine, address);
    tcp(&machine, &native.host, HOST.parse().unwrap());
}
