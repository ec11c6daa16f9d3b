//! Peers that lie and peers that do nothing.

use crate::{
    content::{self, Content, scenario_bytes},
    daemon::Daemon,
    namespace::Lab,
    nginx::Nginx,
    peer::{Manner, Peer},
    process::wait_for,
    turns::Turn,
};
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// HTTP is held back so that peers are what is tested.
const PEERS_FIRST: &str =
    "delay_background_download_from_http = 60\ndelay_foreground_download_from_http = 60";

#[test]
#[ignore = "needs root and network namespaces"]
fn peer_that_sends_wrong_bytes_is_banned_and_the_file_is_right() {
    let lab = Lab::new(4, Some("400mbit"));
    let content = Content::random(5, scenario_bytes(64));
    let nginx = Nginx::start(lab.at(0), &content::folder());
    let url = nginx.url(&content.name);
    let seed = Daemon::start(lab.at(1), "");
    let _from_origin = seed.get(&url, &content, &[]);
    seed.wait_until_shared(&content);
    let evil = Peer::start(lab.at(2), &content, Manner::Wrong);

    // Background downloads alone: the one in the foreground below has no peer to wait for.
    let daemon = Daemon::start(lab.at(3), "delay_background_download_from_http = 60");
    let result = daemon.get(&url, &content, &["--peer", &evil.address()]);
    println!(
        "{} wrong bytes in {} connections: {:?}",
        evil.bytes_sent(),
        evil.connections(),
        result.status
    );
    assert!(
        evil.bytes_sent() > 0,
        "the evil peer was never asked: {:?}\n{}",
        result.status,
        daemon.log()
    );
    // A few bad pieces prove it; what was already on its way comes on top.
    assert!(
        evil.bytes_sent() <= 16 * MIB,
        "{} wrong bytes were accepted\n{}",
        evil.bytes_sent(),
        daemon.log()
    );
    assert!(
        result.status.wasted_bytes > 0,
        "wrong bytes count as wasted: {:?}",
        result.status
    );

    // Banned means banned: another content, even, is not asked of it while it is remembered.
    let requests = evil.requests();
    let other = Content::random(6, 64 * MIB);
    daemon.get(
        &nginx.url(&other.name),
        &other,
        &["--foreground", "--peer", &evil.address()],
    );
    assert_eq!(
        evil.requests(),
        requests,
        "a banned peer was asked again\n{}",
        daemon.log()
    );
}

#[test]
#[ignore = "needs root and network namespaces"]
fn wrong_bytes_from_the_only_peer_do_not_spoil_a_download_from_the_origin() {
    let lab = Lab::new(3, Some("100mbit"));
    let content = Content::random(5, scenario_bytes(64));
    let nginx = Nginx::start(lab.at(0), &content::folder());
    let evil = Peer::start(lab.at(1), &content, Manner::Wrong);
    let daemon = Daemon::start(lab.at(2), "");
    let result = daemon.get(
        &nginx.url(&content.name),
        &content,
        &["--peer", &evil.address()],
    );
    assert_eq!(
        result.status.downloaded.peers(),
        0,
        "no byte of it can count: {:?}",
        result.status
    );
}

#[test]
#[ignore = "needs root and network namespaces"]
fn peer_that_goes_silent_costs_a_few_seconds_at_most() {
    let _alone = Turn::alone();
    let lab = Lab::new(5, Some("400mbit"));
    let content = Content::random(5, scenario_bytes(64));
    let nginx = Nginx::start(lab.at(0), &content::folder());
    let url = nginx.url(&content.name);
    let seed = Daemon::start(lab.at(1), "");
    let _from_origin = seed.get(&url, &content, &[]);
    seed.wait_until_shared(&content);
    let silent = Peer::start(lab.at(2), &content, Manner::Silent);

    let without = Daemon::start(lab.at(3), PEERS_FIRST)
        .get(&url, &content, &[])
        .elapsed;
    let daemon = Daemon::start(lab.at(4), PEERS_FIRST);
    let with = daemon
        .get(&url, &content, &["--peer", &silent.address()])
        .elapsed;
    println!(
        "{without:?} without, {with:?} with a silent peer, which was asked {} times",
        silent.requests()
    );
    wait_for(
        "the silent peer to be asked",
        Duration::from_secs(1),
        || (silent.requests() > 0).then_some(()),
    );
    assert!(
        with <= without + Duration::from_secs(5),
        "{without:?} without, {with:?} with\n{}",
        daemon.log()
    );
}

#[test]
#[ignore = "needs root and network namespaces"]
fn silent_peer_does_not_hold_up_the_origin() {
    let _alone = Turn::alone();
    let lab = Lab::new(4, Some("400mbit"));
    let content = Content::random(5, scenario_bytes(64));
    let nginx = Nginx::start(lab.at(0), &content::folder());
    let url = nginx.url(&content.name);
    let silent = Peer::start(lab.at(1), &content, Manner::Silent);
    let without = Daemon::start(lab.at(2), "download_mode = 0")
        .get(&url, &content, &[])
        .elapsed;
    let daemon = Daemon::start(lab.at(3), "");
    let with = daemon
        .get(&url, &content, &["--peer", &silent.address()])
        .elapsed;
    println!(
        "{without:?} without, {with:?} with a silent peer, which was asked {} times",
        silent.requests()
    );
    assert!(
        with <= without + Duration::from_secs(5),
        "{without:?} without, {with:?} with\n{}",
        daemon.log()
    );
}
