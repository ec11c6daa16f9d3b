//! Machines that share: what the second and third take from the first, and eight that start at once.

use crate::{
    capture::Capture,
    content::{self, Content},
    daemon::{Daemon, GetResult, SWARM_PORT, finish_all},
    harness::curl,
    namespace::Lab,
    nginx::Nginx,
    peer::fetch,
    turns::Turn,
};
use std::thread;

const MIB: u64 = 1 << 20;

#[test]
#[ignore = "needs root and network namespaces"]
fn later_machines_take_all_from_peers_when_http_is_delayed() {
    later_machines_take_from_peers(
        "delay_background_download_from_http = 60\ndelay_foreground_download_from_http = 60",
        0.999,
    );
}

#[test]
#[ignore = "needs root and network namespaces"]
fn later_machines_take_nearly_all_from_peers_by_default() {
    later_machines_take_from_peers("", 0.95);
}

/// The test guide of the original: three machines on a link, one after the other, nothing configured but the delay.
fn later_machines_take_from_peers(policies: &str, least_share: f64) {
    let lab = Lab::new(4, None);
    let content = Content::real_or_random(1, 64);
    let nginx = Nginx::start(lab.at(0), &content::folder());
    let url = nginx.url(&content.name);
    let first = Daemon::start(lab.at(1), "");
    let _from_origin = first.get(&url, &content, &[]);
    first.wait_until_shared(&content);
    let mut sharing = vec![first];
    for node in [lab.at(2), lab.at(3)] {
        let daemon = Daemon::start(node, policies);
        let result = daemon.get(&url, &content, &[]);
        let share = result.peer_share(&content);
        assert!(
            share >= least_share,
            "{share} from peers: {:?}\n{}",
            result.status,
            daemon.log()
        );
        // What the program says of itself must agree with what the origin counted.
        let from_origin = nginx.bytes_sent(&content.name, Some(node));
        assert!(
            from_origin <= content.share(1.0 - least_share),
            "the origin sent {from_origin} bytes"
        );
        println!(
            "{}: {share:.5} from peers in {:?}",
            node.ip(),
            result.elapsed
        );
        daemon.wait_until_shared(&content);
        sharing.push(daemon);
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn machines_on_a_link_without_ipv4_share() {
    let lab = Lab::ipv6_only(3);
    let content = Content::real_or_random(1, 64);
    let nginx = Nginx::start(lab.at(0), &content::folder());
    let url = nginx.url(&content.name);
    let first = Daemon::start(lab.at(1), "");
    let _from_origin = first.get(&url, &content, &[]);
    first.wait_until_shared(&content);
    let second = Daemon::start(lab.at(2), "");
    let result = second.get(&url, &content, &[]);
    assert!(
        result.peer_share(&content) >= 0.95,
        "{:?}\n{}",
        result.status,
        second.log()
    );
}

#[test]
#[ignore = "needs root and network namespaces"]
fn eight_machines_at_once_need_about_one_copy_and_a_quarter_of_the_time() {
    let _alone = Turn::alone();
    const MACHINES: u8 = 8;
    let content = Content::real_or_random(2, 128);
    let plain = {
        let lab = Lab::new(MACHINES + 1, Some("200mbit"));
        let nginx = Nginx::start(lab.at(0), &content::folder());
        let url = nginx.url(&content.name);
        thread::scope(|scope| {
            let curls: Vec<_> = lab.nodes()[1..]
                .iter()
                .map(|node| scope.spawn(|| curl(node, &url, &content)))
                .collect();
            curls
                .into_iter()
                .map(|curl| curl.join().expect("curl succeeds"))
                .max()
                .expect("eight")
        })
    };
    let swarm = Swarm::new(MACHINES);
    let before = swarm.lab.at(0).traffic().sent;
    let results = swarm.get(&swarm.daemons, &content);
    // From the link's counter: headers count, too.
    let sent_by_origin = swarm.lab.at(0).traffic().sent - before;
    let slowest = results
        .iter()
        .map(|result| result.elapsed)
        .max()
        .expect("eight");
    println!(
        "curl {plain:?}, dosvc {slowest:?}, the origin sent {sent_by_origin} of {} bytes",
        content.bytes
    );
    assert!(
        sent_by_origin <= content.share(1.3),
        "the origin sent {sent_by_origin} of {} bytes",
        content.bytes
    );
    assert!(
        slowest <= plain.mul_f64(0.25),
        "{slowest:?} where curl needs {plain:?}"
    );
}

#[test]
#[ignore = "needs root and network namespaces"]
fn traffic_of_machines_that_share_is_read_whole_by_wireshark() {
    let content = Content::random(3, 64 * MIB);
    let swarm = Swarm::new(9);
    let capture = Capture::start(swarm.lab.at(1), "swarm", "tcp port 7680");
    let (early, late) = swarm.daemons.split_at(8);
    swarm.get(early, &content);
    swarm.get(late, &content);
    let dissection = capture.dissect();
    println!(
        "{} connections, {} segments: {:?}",
        dissection.connections, dissection.segments, dissection.messages
    );
    assert!(
        dissection.capture_gaps.is_empty(),
        "the capture has holes: {dissection:?}"
    );
    assert!(
        dissection.unread.is_empty(),
        "unread segments: {dissection:?}"
    );
    assert!(dissection.ok, "{dissection:?}");
    let pieces = u64::from(content.hash_file.lengths().piece_count());
    assert!(dissection.messages["Piece"] >= pieces / 2, "{dissection:?}");
    for name in [
        "Handshake",
        "BitField",
        "Interested",
        "Unchoke",
        "Request",
        "Have",
    ] {
        assert!(
            dissection.messages.contains_key(name),
            "no {name} in {:?}",
            dissection.messages
        );
    }
}

/// Between machines of this project blocks go in parts and pieces are offered; a Windows machine knows neither.
#[test]
#[ignore = "needs root and network namespaces"]
fn peer_without_extensions_gets_whole_blocks_and_no_offers_beside_peers_with_them() {
    let content = Content::random(3, 64 * MIB);
    let lab = Lab::new(5, Some("200mbit"));
    let nginx = Nginx::start(lab.at(0), &content::folder());
    let url = nginx.url(&content.name);
    let seed = Daemon::start(lab.at(1), "");
    let _from_origin = seed.get(&url, &content, &[]);
    seed.wait_until_shared(&content);
    let others = [lab.at(2), lab.at(3)]
        .map(|node| Daemon::start(node, "delay_background_download_from_http = 60"));
    let gets = others.each_ref().map(|daemon| daemon.start_get(&url, &[]));
    fetch(lab.at(4), lab.at(1).address(SWARM_PORT), &content, 16).expect("a seed serves everybody");
    for get in gets {
        content.assert_same(&get.finish().output);
    }
}

/// An origin and machines on links of 200 Mbit/s, each with its daemon. The network is dropped last.
struct Swarm {
    daemons: Vec<Daemon>,
    nginx: Nginx,
    lab: Lab,
}

impl Swarm {
    fn new(machines: u8) -> Self {
        let lab = Lab::new(machines + 1, Some("200mbit"));
        let nginx = Nginx::start(lab.at(0), &content::folder());
        let daemons = lab.nodes()[1..]
            .iter()
            .map(|node| Daemon::start(node, ""))
            .collect();
        Self {
            daemons,
            nginx,
            lab,
        }
    }

    /// All of these download the content, and begin in the same moment.
    fn get(&self, daemons: &[Daemon], content: &Content) -> Vec<GetResult> {
        let url = self.nginx.url(&content.name);
        let gets: Vec<_> = daemons
            .iter()
            .map(|daemon| daemon.start_get(&url, &[]))
            .collect();
        let results = finish_all(gets);
        results
            .iter()
            .for_each(|result| content.assert_same(&result.output));
        results
    }
}
