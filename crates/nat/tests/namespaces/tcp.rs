//! TCP through the tunnel in user space: between two of ours, and with a kernel's TCP behind miredo.

use crate::{
    PATIENCE,
    foreign::{folder, miredo},
    gateway::{CLIENT_PORT, End, Kind, home},
    machine::{Internet, Machine, PRIMARY, SECONDARY},
    peer::{Program, server},
};
use dosvc_nat::{
    net::{State, Tunnel, TunnelConfig},
    quic::PORT,
    tcp::{TcpStack, TunnelStream},
    teredo::client::ServerAddresses,
};
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6, TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Bytes of one transfer; more with `DOSVC_LAB_SIZE`.
fn size() -> usize {
    let asked = std::env::var("DOSVC_LAB_SIZE").ok();
    asked.map_or(16 << 20, |size| {
        size.parse().expect("DOSVC_LAB_SIZE is a number")
    })
}

fn pattern() -> Vec<u8> {
    (0..65_521_u32)
        .map(|n| n.wrapping_mul(0x9E37_79B9).to_be_bytes()[0])
        .collect()
}

/// Checks bytes as they come.
struct Check(Vec<u8>, usize);

impl Check {
    fn new() -> Self {
        Self(pattern(), 0)
    }

    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let at = self.1 % self.0.len();
            let length = bytes.len().min(self.0.len() - at);
            assert!(
                bytes[..length] == self.0[at..at + length],
                "other bytes at {}",
                self.1
            );
            bytes = &bytes[length..];
            self.1 += length;
        }
    }
}

async fn stack() -> (TcpStack, Ipv6Addr) {
    let config = TunnelConfig {
        servers: vec![ServerAddresses {
            primary: PRIMARY,
            secondary: Some(SECONDARY),
        }],
        bind: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT),
        discovery: false,
        native: false,
    };
    let (tunnel, incoming) = Tunnel::bind(config).await.unwrap();
    let mut state = tunnel.state();
    let stack = TcpStack::alone(tunnel, incoming, Some(PORT)).unwrap();
    let qualified = state.wait_for(|state| matches!(state, State::Qualified(_)));
    let State::Qualified(own) = *qualified.await.unwrap() else {
        unreachable!("it is waited for")
    };
    (stack, own.address.to_ipv6())
}

async fn give(mut stream: TunnelStream) {
    let part = pattern();
    let mut left = size();
    while left > 0 {
        let length = left.min(part.len());
        stream.write_all(&part[..length]).await.unwrap();
        left -= length;
    }
    stream.shutdown().await.unwrap();
    // The other end has read everything when it ends, too.
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
}

async fn take(mut stream: TunnelStream) {
    let (mut check, mut buffer) = (Check::new(), vec![0; 256 << 10]);
    loop {
        match stream.read(&mut buffer).await.unwrap() {
            0 => break,
            length => check.take(&buffer[..length]),
        }
    }
    assert_eq!(check.1, size());
}

/// A machine of ours that gives whoever dials its port what they want.
fn giver(machine: &Machine) -> (Program, Ipv6Addr) {
    let (ready, is_ready) = mpsc::channel();
    let program = Program::start(machine, move |stopped| async move {
        let (stack, address) = stack().await;
        ready.send(address).unwrap();
        let serve = async {
            loop {
                give(stack.accept().await).await;
            }
        };
        tokio::select! {
            () = serve => {}
            _ = stopped => {}
        }
    });
    (
        program,
        is_ready
            .recv_timeout(PATIENCE)
            .expect("the giver has an address"),
    )
}

fn show(what: &str, time: Duration) {
    #[expect(clippy::cast_precision_loss, reason = "it is printed")]
    let rate = size() as f64 * 8e-6 / time.as_secs_f64();
    eprintln!("{what}: {rate:.0} Mbit/s");
}

/// One of ours fetches from there; how long that took.
fn fetch(machine: &Machine, from: Ipv6Addr, port: u16) -> Duration {
    let (done, is_done) = mpsc::channel();
    let _program = Program::start(machine, move |_| async move {
        let (stack, _) = stack().await;
        let start = Instant::now();
        take(stack.dial(from, port).await.unwrap()).await;
        done.send(start.elapsed()).unwrap();
    });
    is_done
        .recv_timeout(3 * PATIENCE)
        .expect("the transfer ends")
}

#[test]
#[ignore = "needs root and nftables"]
fn two_of_ours_speak_tcp_without_privileges() {
    let mut internet = Internet::new();
    let _server = server(internet.server());
    let left = home(&mut internet, End::Left, Kind::Port, 10);
    let right = home(&mut internet, End::Right, Kind::Port, 11);
    let (_giver, address) = giver(&right);
    show("ours to ours", fetch(&left, address, PORT));
}

#[test]
#[ignore = "needs root, nftables, miredo and a TUN device"]
fn foreign_kernels_speak_tcp_with_ours_in_both_directions() {
    let dir = folder();
    let mut internet = Internet::new();
    let _server = server(internet.server());
    let theirs = home(&mut internet, End::Left, Kind::Port, 10);
    let ours = home(&mut internet, End::Right, Kind::Port, 11);
    let (_miredo, address) = miredo(&theirs, dir.path());

    let listener = theirs.enter(|| TcpListener::bind(("::", PORT)).unwrap());
    let kernel = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let part = pattern();
        let mut left = size();
        while left > 0 {
            let length = left.min(part.len());
            stream.write_all(&part[..length]).unwrap();
            left -= length;
        }
    });
    show("kernel to ours", fetch(&ours, address, PORT));
    kernel.join().unwrap();

    let (_giver, address) = giver(&ours);
    let time = theirs.enter(|| {
        let to = SocketAddrV6::new(address, PORT, 0, 0);
        let mut stream = TcpStream::connect_timeout(&to.into(), PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let start = Instant::now();
        let (mut check, mut buffer) = (Check::new(), vec![0; 256 << 10]);
        loop {
            match stream.read(&mut buffer).unwrap() {
                0 => break,
                length => check.take(&buffer[..length]),
            }
        }
        assert_eq!(check.1, size());
        let time = start.elapsed();
        // Nothing else of the machine can be reached.
        let other = SocketAddrV6::new(address, 22, 0, 0);
        assert!(TcpStream::connect_timeout(&other.into(), PATIENCE).is_err());
        time
    });
    show("ours to kernel", time);
}
