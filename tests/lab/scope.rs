//! Who may see this machine at all.

use crate::{
    capture::Capture,
    content::{self, Content, scenario_bytes},
    daemon::{Daemon, SWARM_PORT},
    namespace::{Lab, OpenPort},
    nginx::Nginx,
    peer::knock,
    process::wait_for,
};
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(5);

#[test]
#[ignore = "needs root and network namespaces"]
fn modes_without_peers_open_no_port_and_send_no_multicast() {
    for mode in [0, 99] {
        let lab = Lab::new(2, None);
        let content = Content::random(1, scenario_bytes(64));
        let nginx = Nginx::start(lab.at(0), &content::folder());
        // What the kernel says by itself (neighbours, listeners of its own groups) is ICMPv6.
        let multicast = Capture::start(lab.at(1), "multicast", "multicast and (udp or igmp)");
        let swarm = Capture::start(lab.at(1), "swarm", "port 7680 or port 5353");
        let daemon = Daemon::start(lab.at(1), &format!("download_mode = {mode}"));
        assert_eq!(lab.at(1).open_ports(), [], "mode {mode} at the start");
        let result = daemon.get(&nginx.url(&content.name), &content, &[]);
        assert_eq!(
            result.status.downloaded.http, content.bytes,
            "mode {mode}: {:?}",
            result.status
        );
        assert_eq!(lab.at(1).open_ports(), [], "mode {mode} after a download");
        assert_eq!(daemon.status().listening, [], "mode {mode}");
        assert_eq!(
            multicast.count_frames(),
            0,
            "mode {mode} sends multicast: see multicast.pcap"
        );
        assert_eq!(
            swarm.count_frames(),
            0,
            "mode {mode} speaks to peers: see swarm.pcap"
        );
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn lan_mode_listens_and_sends_multicast() {
    // Without this the test above would prove little.
    let lab = Lab::new(2, None);
    let content = Content::random(1, scenario_bytes(64));
    let nginx = Nginx::start(lab.at(0), &content::folder());
    let multicast = Capture::start(lab.at(1), "multicast", "udp port 5353 and multicast");
    let daemon = Daemon::start(lab.at(1), "download_mode = 1");
    daemon.get(&nginx.url(&content.name), &content, &[]);
    daemon.wait_until_shared(&content);
    assert!(lab.at(1).open_ports().contains(&OpenPort {
        protocol: "tcp",
        port: SWARM_PORT
    }));
    assert!(multicast.count_frames() > 0);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn lan_mode_gives_nothing_to_an_address_outside() {
    let mut lab = Lab::new(3, None);
    let outsider = lab.outsider();
    let content = Content::random(1, scenario_bytes(64));
    let nginx = Nginx::start(lab.at(0), &content::folder());
    let daemon = Daemon::start(lab.at(1), "download_mode = 1");
    daemon.get(&nginx.url(&content.name), &content, &[]);
    daemon.wait_until_shared(&content);
    for address in [
        daemon.node().address(SWARM_PORT),
        daemon.node().ipv6_address(SWARM_PORT),
    ] {
        // The port may be closed to it, or the connection; but it must not hear a byte.
        if let Ok(knock) = knock(&outsider, address, &content, PATIENCE) {
            assert!(
                knock.answer.is_empty(),
                "{address} answered {} bytes to an outsider",
                knock.answer.len()
            );
            assert!(knock.closed, "{address} keeps an outsider's connection");
        }
        let inside = answer_within_the_link(&lab, address, &content);
        assert!(
            inside >= 75,
            "{address} answered {inside} bytes within the link"
        );
    }
    assert_eq!(daemon.status().uploaded.total(), 0);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn machine_outside_the_link_downloads_nothing_from_it() {
    let mut lab = Lab::new(2, None);
    let outsider = lab.outsider();
    let content = Content::random(1, scenario_bytes(64));
    let nginx = Nginx::start(lab.at(0), &content::folder());
    let url = nginx.url(&content.name);
    let inside = Daemon::start(lab.at(1), "download_mode = 1");
    inside.get(&url, &content, &[]);
    inside.wait_until_shared(&content);
    let peer = inside.node().address(SWARM_PORT).to_string();
    let outside = Daemon::start(&outsider, "download_mode = 1");
    let result = outside.get(&url, &content, &["--peer", &peer]);
    assert_eq!(result.status.downloaded.peers(), 0, "{:?}", result.status);
    assert_eq!(inside.status().uploaded.total(), 0);
}

fn answer_within_the_link(lab: &Lab, address: SocketAddr, content: &Content) -> usize {
    let node = lab.at(2);
    assert!(
        matches!(node.ip(), IpAddr::V4(_)),
        "the lab has both families"
    );
    wait_for("an answer within the link", PATIENCE, || {
        knock(node, address, content, Duration::from_millis(500))
            .ok()
            .map(|knock| knock.answer.len())
    })
}
