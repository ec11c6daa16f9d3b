//! The lab itself: what the scenarios rely on without saying so.

use crate::{
    capture::Capture,
    content::Content,
    daemon::SWARM_PORT,
    distance::{Distance, Line},
    namespace::{Lab, Node, OpenPort},
    nginx::Nginx,
    other::{Other, rate},
    peer::{Manner, Peer, fetch, knock},
    process::{run, wait_for},
    turns::Turn,
};
use std::{
    io::ErrorKind,
    net::{
        IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket,
    },
    time::{Duration, Instant},
};

const MIB: u64 = 1 << 20;

/// The time that plain curl needs.
pub(crate) fn curl(node: &Node, url: &str, content: &Content) -> Duration {
    let output = node.dir().join("curl.bin");
    let started = Instant::now();
    run(node
        .command("curl")
        .args(["--silent", "--show-error", "--fail", "-o"])
        .arg(&output)
        .arg(url));
    let elapsed = started.elapsed();
    content.assert_same(&output);
    std::fs::remove_file(&output).expect("curl wrote it");
    elapsed
}

#[test]
#[ignore = "needs root and network namespaces"]
fn links_are_shaped_and_counted_and_the_origin_counts_too() {
    let _alone = Turn::alone();
    let lab = Lab::new(2, Some("200mbit"));
    let content = Content::random(1, 16 * MIB);
    let nginx = Nginx::start(lab.at(0), &crate::content::folder());
    let elapsed = curl(lab.at(1), &nginx.url(&content.name), &content).as_secs_f64();
    let at_full_rate = 16.0 * 1.048_576 * 8.0 / 200.0;
    assert!(
        (at_full_rate * 0.9..at_full_rate * 1.5).contains(&elapsed),
        "{elapsed} s for 16 MiB at 200 Mbit/s"
    );
    let bytes = 16 * MIB..17 * MIB;
    assert!(
        bytes.contains(&lab.at(1).traffic().received),
        "{:?}",
        lab.at(1).traffic()
    );
    assert!(
        bytes.contains(&lab.at(0).traffic().sent),
        "{:?}",
        lab.at(0).traffic()
    );
    wait_for("the access log", Duration::from_secs(5), || {
        (nginx.bytes_sent(&content.name, Some(lab.at(1))) == content.bytes).then_some(())
    });
    assert_eq!(nginx.bytes_sent(&content.name, Some(lab.at(0))), 0);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn lines_of_machines_far_apart_are_as_long_and_as_wide_as_asked_for() {
    let _alone = Turn::alone();
    let line = |up_mbit: u64, delay_ms: u64| Line {
        up_bps: up_mbit * 1_000_000,
        down_bps: 40_000_000,
        delay: Duration::from_millis(delay_ms),
        queue: Duration::from_millis(100),
    };
    let distance = Distance::new(&[line(10, 5), line(80, 25)]);
    let (near, far) = (distance.at(0), distance.at(1));
    let listener = near.enter(|| TcpListener::bind(near.address(0)));
    let listener = listener.expect("the machine has the address");
    let address = listener.local_addr().expect("it is bound");
    let round_trips = (0..5).map(|_| {
        let began = Instant::now();
        far.enter(|| TcpStream::connect(address))
            .map(|_| began.elapsed())
    });
    let least = round_trips
        .map(|time| time.expect("it listens"))
        .min()
        .expect("five");
    let expected = Duration::from_millis(60)..Duration::from_millis(65);
    assert!(expected.contains(&least), "{least:?} there and back");
    for (from, to, mbit) in [(near, far, 10.0), (far, near, 40.0)] {
        let other = Other::start(from, to);
        std::thread::sleep(Duration::from_secs(1));
        let payload = mbit * 1e6 / 8.0 * 1448.0 / 1538.0;
        let share = rate(|| other.bytes(), Duration::from_secs(3)) / payload;
        println!("{share:.3} of {mbit} Mbit/s, {least:?} there and back");
        assert!((0.9..1.05).contains(&share), "{share} of {mbit} Mbit/s");
    }
    distance.assert_in_time();
}

#[test]
#[ignore = "needs root and network namespaces"]
fn multicast_crosses_the_link_but_not_the_router() {
    let mut lab = Lab::new(2, None);
    let outsider = lab.outsider();
    let ipv4: IpAddr = Ipv4Addr::new(224, 0, 0, 251).into();
    let ipv6: IpAddr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb).into();
    for group in [ipv4, ipv6] {
        assert!(
            hears(lab.at(0), lab.at(1), group),
            "{group} between machines of one link"
        );
        assert!(
            !hears(lab.at(0), &outsider, group),
            "{group} across the router"
        );
    }
}

/// Whether `to` receives what `from` sends to the multicast group.
fn hears(from: &Node, to: &Node, group: IpAddr) -> bool {
    const PORT: u16 = 5354;
    // Every namespace has lo and eth0 alone, so the index is looked up once per machine.
    let index = |node: &Node| -> u32 {
        let text = node
            .command("cat")
            .arg("/sys/class/net/eth0/ifindex")
            .output()
            .expect("cat")
            .stdout;
        String::from_utf8_lossy(&text)
            .trim()
            .parse()
            .expect("a number")
    };
    let receiver = to.enter(|| match group {
        IpAddr::V4(group) => {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).expect("the port is free");
            let IpAddr::V4(own) = to.ip() else {
                panic!("the machine has IPv4")
            };
            socket.join_multicast_v4(&group, &own).map(|()| socket)
        }
        IpAddr::V6(group) => {
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)).expect("the port is free");
            socket.join_multicast_v6(&group, index(to)).map(|()| socket)
        }
    });
    let receiver = receiver.expect("the link does multicast");
    receiver
        .set_read_timeout(Some(Duration::from_millis(500)))
        .expect("not zero");
    let target = match group {
        IpAddr::V4(_) => SocketAddr::new(group, PORT),
        IpAddr::V6(group) => SocketAddrV6::new(group, PORT, 0, index(from)).into(),
    };
    from.enter(|| {
        UdpSocket::bind(SocketAddr::new(unspecified(group), 0))?.send_to(b"who is there", target)
    })
    .expect("the link does multicast");
    match receiver.recv(&mut [0; 64]) {
        Ok(_) => true,
        Err(error) => {
            assert!(
                matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
                "{error}"
            );
            false
        }
    }
}

fn unspecified(like: IpAddr) -> IpAddr {
    if like.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn capture_of_right_traffic_is_read_whole_and_a_wrong_message_is_seen() {
    let lab = Lab::new(3, Some("200mbit"));
    let content = Content::random(1, 16 * MIB);
    let _honest = Peer::start(lab.at(0), &content, Manner::Honest);
    let _babbling = Peer::start(lab.at(1), &content, Manner::Babbling);

    let capture = Capture::start(lab.at(2), "right", "tcp port 7680");
    fetch(lab.at(2), lab.at(0).address(SWARM_PORT), &content, 16).expect("the honest peer serves");
    let right = capture.dissect();
    assert!(right.ok, "{right:?}");
    assert_eq!(right.messages["Handshake"], 2);
    assert_eq!(right.messages["Piece"], 16);
    assert_eq!(right.read + right.repeated, right.segments);

    let capture = Capture::start(lab.at(2), "wrong", "tcp port 7680");
    fetch(lab.at(2), lab.at(1).address(SWARM_PORT), &content, 1)
        .expect("the babbling peer serves first");
    let wrong = capture.dissect();
    assert!(!wrong.ok && !wrong.wrong.is_empty(), "{wrong:?}");
}

#[test]
#[ignore = "needs root and network namespaces"]
fn outsider_reaches_machines_of_the_link() {
    let mut lab = Lab::new(1, None);
    let outsider = lab.outsider();
    let content = Content::random(1, 16 * MIB);
    let _honest = Peer::start(lab.at(0), &content, Manner::Honest);
    for address in [
        lab.at(0).address(SWARM_PORT),
        lab.at(0).ipv6_address(SWARM_PORT),
    ] {
        let knock = knock(&outsider, address, &content, Duration::from_millis(500));
        assert!(
            !knock.expect("the hub routes").answer.is_empty(),
            "{address}"
        );
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn open_ports_are_seen_on_the_machine_that_has_them() {
    let lab = Lab::new(2, None);
    let content = Content::random(1, 16 * MIB);
    let _peer = Peer::start(lab.at(0), &content, Manner::Honest);
    assert_eq!(
        lab.at(0).open_ports(),
        [OpenPort {
            protocol: "tcp",
            port: SWARM_PORT
        }]
    );
    assert_eq!(lab.at(1).open_ports(), []);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn link_without_ipv4_carries_http() {
    let lab = Lab::ipv6_only(2);
    let content = Content::random(1, 16 * MIB);
    let nginx = Nginx::start(lab.at(0), &crate::content::folder());
    curl(lab.at(1), &nginx.url(&content.name), &content);
}
