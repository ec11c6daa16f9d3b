//! Background downloads give way to others at a bottleneck, and use it when nobody else does.

use crate::{
    content::{Content, folder},
    daemon::{Daemon, Get},
    namespace::Lab,
    nginx::Nginx,
    other::{Other, rate},
    process::wait_for,
    turns::Turn,
};
use std::{thread, time::Duration};

const MIB: u64 = 1 << 20;
const RATE: &str = "50mbit";
/// Content that RATE carries in a second: 1448 bytes of every 1514 that cross the link.
const PAYLOAD_PER_SECOND: f64 = 50e6 / 8.0 * 1448.0 / 1514.0;
/// A queue as home routers have it, long enough to be seen and to hurt.
const QUEUE: &str = "150ms";
/// All of the bandwidth is to be used, however much is thought to be available.
const POLICIES: &str = "percentage_max_background_bandwidth = 100\n";

const WARM_UP: Duration = Duration::from_secs(3);
const MEASURED: Duration = Duration::from_secs(8);

/// What each has of the bottleneck, as a share of what it carries.
#[derive(Debug)]
struct Shares {
    other_alone: f64,
    background_alone: f64,
    other_beside: f64,
    #[expect(dead_code, reason = "printed")]
    background_beside: f64,
}

/// `get` is a background download to machine 1 behind the bottleneck; others download from machine 0.
fn measure(lab: &Lab, daemon: &Daemon, get: impl FnOnce() -> Get) -> Shares {
    let (server, client) = (lab.at(0), lab.at(1));
    let share = |bytes: &dyn Fn() -> u64| rate(bytes, MEASURED) / PAYLOAD_PER_SECOND;
    let other = Other::start(server, client);
    thread::sleep(WARM_UP);
    let other_alone = share(&|| other.bytes());
    drop(other);

    let mut get = get();
    daemon.wait_for_bytes(&mut get, MIB);
    thread::sleep(WARM_UP);
    let received = || client.traffic().received * 1448 / 1514;
    let background_alone = share(&received);
    let other = Other::start(server, client);
    thread::sleep(WARM_UP);
    let before = received();
    let other_beside = share(&|| other.bytes());
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
    let both = (received() - before) as f64 / MEASURED.as_secs_f64() / PAYLOAD_PER_SECOND;
    let shares = Shares {
        other_alone,
        background_alone,
        other_beside,
        background_beside: both - other_beside,
    };
    println!("{shares:.3?}");
    shares
}

impl Shares {
    fn assert_polite(&self, log: &str) {
        assert!(
            self.background_alone >= 0.9,
            "an idle link is not used: {self:?}\n{log}"
        );
        assert!(
            self.other_beside >= 0.9 * self.other_alone,
            "others are in its way: {self:?}\n{log}"
        );
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn background_download_over_http_gives_way_and_uses_an_idle_link() {
    let _alone = Turn::alone();
    let lab = Lab::new(2, None);
    lab.narrow(1, RATE, QUEUE);
    let content = Content::random(4, 256 * MIB);
    let nginx = Nginx::start(lab.at(0), &folder());
    let url = nginx.url(&content.name);
    let daemon = Daemon::start(lab.at(1), POLICIES);
    let shares = measure(&lab, &daemon, || daemon.start_get(&url, &["--mode", "0"]));
    shares.assert_polite(&daemon.log());
}

#[test]
#[ignore = "needs root and network namespaces"]
fn background_download_from_a_peer_gives_way_and_uses_an_idle_link() {
    let _alone = Turn::alone();
    let lab = Lab::new(3, None);
    let content = Content::random(4, 256 * MIB);
    let nginx = Nginx::start(lab.at(0), &folder());
    let url = nginx.url(&content.name);
    let seed = Daemon::start(lab.at(2), "");
    seed.get(&url, &content, &[]);
    seed.wait_until_shared(&content);
    lab.narrow(1, RATE, QUEUE);
    let policies = format!("{POLICIES}delay_background_download_from_http = 600\n");
    let daemon = Daemon::start(lab.at(1), &policies);
    let shares = measure(&lab, &daemon, || daemon.start_get(&url, &[]));
    assert_eq!(nginx.bytes_sent(&content.name, Some(lab.at(1))), 0);
    shares.assert_polite(&daemon.log());
}

/// Counted where an administrator counts: at the machine's interface, headers included.
#[test]
#[ignore = "needs root and network namespaces"]
fn bandwidth_limit_holds_at_the_interface_and_a_new_one_at_once() {
    let _alone = Turn::alone();
    let lab = Lab::new(2, None);
    lab.narrow(1, "1gbit", "50ms");
    let content = Content::random(4, 256 * MIB);
    let nginx = Nginx::start(lab.at(0), &folder());
    let limit =
        |kilobytes: u32| format!("{POLICIES}max_background_download_bandwidth = {kilobytes}\n");
    let mut daemon = Daemon::start(lab.at(1), &limit(4000));
    let mut get = daemon.start_get(&nginx.url(&content.name), &["--mode", "0"]);
    daemon.wait_for_bytes(&mut get, 2 * MIB);
    let received = || lab.at(1).traffic().received;
    let assert_rate = |kilobytes: u32| {
        let measured = rate(received, Duration::from_secs(10)) / f64::from(kilobytes) / 1024.0;
        println!("{measured:.4} of {kilobytes} KB/s");
        assert!((0.97..=1.03).contains(&measured), "{measured} of the limit");
    };
    assert_rate(4000);
    daemon.configure(&limit(1000));
    wait_for("the new limit", Duration::from_secs(5), || {
        (rate(received, Duration::from_millis(500)) < 2e6).then_some(())
    });
    thread::sleep(WARM_UP);
    assert_rate(1000);
}
