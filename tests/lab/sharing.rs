//! Machines that share: what the second and third take from the first, and eight that start at once.

use crate::{
    capture::{Capture, Dissection},
    content::{self, Content},
    daemon::{Daemon, GetResult},
    harness::curl,
    namespace::Lab,
    nginx::Nginx,
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
    let (results, sent_by_origin, _) = all_at_once(MACHINES, &content, false);
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
    let (_, _, dissection) = all_at_once(4, &content, true);
    let dissection = dissection.expect("it was captured");
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

/// Machines on shaped links that start a download in the same moment: their results, the bytes that left the origin's
/// link, headers included, and what a capture of the first machine's traffic shows.
fn all_at_once(
    machines: u8,
    content: &Content,
    captured: bool,
) -> (Vec<GetResult>, u64, Option<Dissection>) {
    let lab = Lab::new(machines + 1, Some("200mbit"));
    let nginx = Nginx::start(lab.at(0), &content::folder());
    let url = nginx.url(&content.name);
    let daemons: Vec<Daemon> = lab.nodes()[1..]
        .iter()
        .map(|node| Daemon::start(node, ""))
        .collect();
    let capture = captured.then(|| Capture::start(lab.at(1), "swarm", "tcp port 7680"));
    let before = lab.at(0).traffic().sent;
    let results = thread::scope(|scope| {
        let gets: Vec<_> = daemons
            .iter()
            .map(|daemon| scope.spawn(|| daemon.start_get(&url, &[]).finish()))
            .collect();
        gets.into_iter()
            .map(|get| get.join().expect("the download succeeds"))
            .collect::<Vec<_>>()
    });
    let sent = lab.at(0).traffic().sent - before;
    for result in &results {
        content.assert_same(&result.output);
    }
    let dissection = capture.map(Capture::dissect);
    (results, sent, dissection)
}
