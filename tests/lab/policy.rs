//! Limits of bandwidth, as the counters of the interfaces see them: what the daemon says of itself is not asked.

use crate::{
    content::{self, Content},
    daemon::{Daemon, SWARM_PORT},
    harness::curl,
    namespace::{Lab, Node},
    nginx::Nginx,
    process::wait_for,
};
use std::{
    fs,
    ops::RangeInclusive,
    thread,
    time::{Duration, Instant},
};

const MIB: u64 = 1 << 20;
/// KB/s, as policies have it.
const KBPS: f64 = 1024.0;
/// Over which limits are exact.
const WINDOW: Duration = Duration::from_secs(10);
/// How exact: three per cent, and at the lower end the headers (4.6 %), which a limit may count and which packets of a
/// virtual link, up to 64 KiB long, hardly have.
const EXACT: RangeInclusive<f64> = 0.93..=1.03;
/// Time to measure what is available, for what had piled up to go, and for limits to follow.
const PATIENCE: Duration = Duration::from_secs(30);

/// What crosses a machine's link.
#[derive(Debug)]
struct Flow {
    /// Bytes a second over the whole window.
    mean: f64,
    /// The most in any second of it.
    peak: f64,
}

/// Watches a counter for ten seconds.
fn flow(counter: impl Fn() -> u64) -> Flow {
    const STEP: Duration = Duration::from_millis(50);
    let started = Instant::now();
    let mut seen = vec![(Duration::ZERO, counter())];
    while started.elapsed() < WINDOW {
        thread::sleep(STEP);
        seen.push((started.elapsed(), counter()));
    }
    let rate = |from: (Duration, u64), to: (Duration, u64)| {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
        let bytes = (to.1 - from.1) as f64;
        bytes / (to.0 - from.0).as_secs_f64()
    };
    let seconds = seen.iter().flat_map(|from| {
        let to = seen
            .iter()
            .find(|to| to.0 >= from.0 + Duration::from_secs(1))?;
        Some(rate(*from, *to))
    });
    Flow {
        mean: rate(seen[0], seen[seen.len() - 1]),
        peak: seconds.fold(0.0, f64::max),
    }
}

fn received(node: &Node) -> Flow {
    flow(|| node.traffic().received)
}

/// A machine whose origin lies beyond the router, and the origin.
struct Distant {
    nginx: Nginx,
    lab: Lab,
}

impl Distant {
    fn new(machines: u8, rate: Option<&str>) -> Self {
        let mut lab = Lab::new(machines, rate);
        let outsider = lab.outsider();
        // What a sender without any distance puts into these buffers at once is megabytes by default, and a limit is
        // seen on the link only when they are full.
        for node in lab.nodes() {
            node.enter(|| fs::write("/proc/sys/net/ipv4/tcp_rmem", "4096 16384 32768"))
                .expect("the namespace's own sysctls can be written");
        }
        Self {
            nginx: Nginx::start(&outsider, &content::folder()),
            lab,
        }
    }

    /// What of a content's download crosses the link in ten seconds, from when `ready` is so.
    fn download(
        &self,
        policies: &str,
        arguments: &[&str],
        ready: impl Fn(&Daemon) -> bool,
    ) -> Flow {
        let content = Content::sparse(1, 2048 * MIB, MIB);
        let daemon = Daemon::start(self.lab.at(0), policies);
        let mut get = daemon.start_get(&self.nginx.url(&content.name), arguments);
        daemon.wait_for_bytes(&mut get, MIB);
        wait_for("the limit to be in force", PATIENCE, || {
            ready(&daemon).then_some(())
        });
        // What lay in the system's buffers before.
        thread::sleep(Duration::from_secs(1));
        received(self.lab.at(0))
    }
}

/// The rate of a plain download over the same link, in bytes of content a second.
fn plain_rate(node: &Node, nginx: &Nginx) -> f64 {
    let content = Content::random(1, 64 * MIB);
    let elapsed = curl(node, &nginx.url(&content.name), &content);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
    let bytes = content.bytes as f64;
    bytes / elapsed.as_secs_f64()
}

/// Whether what is available has been measured.
fn measured(daemon: &Daemon) -> bool {
    let bandwidth = daemon.status().bandwidth;
    bandwidth.available_bps.is_some() && bandwidth.background.bps.is_some()
}

#[test]
#[ignore = "needs root and network namespaces"]
fn absolute_limits_are_exact_and_without_bursts() {
    let distant = Distant::new(1, None);
    for (key, kbps, arguments) in [
        ("max_background_download_bandwidth", 2000.0, &[][..]),
        (
            "max_foreground_download_bandwidth",
            6000.0,
            &["--foreground"],
        ),
        ("DOMaxDownloadBandwidth", 1000.0, &[]),
    ] {
        let flow = distant.download(&format!("{key} = {kbps}"), arguments, |_| true);
        println!("{key} = {kbps}: {flow:?}");
        let exact = flow.mean / (kbps * KBPS);
        assert!(EXACT.contains(&exact), "{key}: {exact} of the limit");
        // A bucket holds a tenth of a second.
        let peak = flow.peak / (kbps * KBPS);
        assert!(peak < 1.15, "{key}: {peak} of the limit in one second");
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn shares_are_of_what_the_way_to_the_source_gives() {
    let distant = Distant::new(1, Some("80mbit"));
    let plain = plain_rate(distant.lab.at(0), &distant.nginx);
    for (policies, share) in [
        ("percentage_max_background_bandwidth = 60", 0.60),
        ("", 0.45),
    ] {
        let flow = distant.download(policies, &[], measured);
        // Headers of 66 bytes for each 1448 of content.
        let payload = flow.mean * 1448.0 / 1514.0 / plain;
        println!("{policies:?}: {payload:.4} of what curl gets; {flow:?}");
        assert!(
            (share * 0.93..=share * 1.05).contains(&payload),
            "{policies:?}: {payload} of what curl gets"
        );
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn hours_decide_by_the_local_time() {
    const KEY: &str = "set_hours_to_limit_background_download_bandwidth";
    let distant = Distant::new(1, None);
    let hour = jiff::Zoned::now().hour();
    let at = |hours: i8| (hour + hours) % 24;
    for (from, to, share) in [(at(0), at(3), 0.25), (at(3), at(22), 0.75)] {
        let policies = format!(
            "max_background_download_bandwidth = 4000\n{KEY} = {{ from = {from}, to = {to}, in = 25, out = 75 }}"
        );
        let flow = distant.download(&policies, &[], measured);
        println!("{from} to {to}: {flow:?}");
        let exact = flow.mean / (4000.0 * KBPS * share);
        assert!(EXACT.contains(&exact), "{from} to {to}: {exact}");
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn lan_is_exempt_from_limits() {
    const LIMITS: &str = "max_foreground_download_bandwidth = 500\nmax_background_download_bandwidth = 500\n\
                          delay_background_download_from_http = 120";
    let lab = Lab::new(3, Some("100mbit"));
    let content = Content::random(1, 64 * MIB);
    let nginx = Nginx::start(lab.at(0), &content::folder());
    let url = nginx.url(&content.name);
    let seed = Daemon::start(lab.at(1), "");
    // A server on the link is no matter of the dynamic share: it takes no longer than plain HTTP.
    let plain = curl(lab.at(1), &url, &content);
    let from_origin = seed.get(&url, &content, &[]);
    println!("curl {plain:?}, dosvc {:?}", from_origin.elapsed);
    assert!(from_origin.elapsed < plain.mul_f64(1.2) + Duration::from_millis(1500));
    assert_eq!(seed.status().bandwidth.available_bps, None);
    seed.wait_until_shared(&content);
    let limited = Daemon::start(lab.at(2), LIMITS);
    let result = limited.get(&url, &content, &[]);
    println!("from a peer: {:?}", result.elapsed);
    assert!(result.peer_share(&content) > 0.99, "{:?}", result.status);
    // 131 s if the limit held.
    assert!(
        result.elapsed < Duration::from_secs(20),
        "{:?}",
        result.elapsed
    );
}

/// A machine that has a content and, beyond the router, one that wants it of it alone.
fn upload(seed_policies: &str, prepare: impl Fn(&Node)) -> (Distant, Daemon, Daemon, Content) {
    let distant = Distant::new(1, None);
    let content = Content::random(1, 128 * MIB);
    prepare(distant.lab.at(0));
    let seed = Daemon::start(
        distant.lab.at(0),
        &format!("download_mode = 3\npercentage_max_background_bandwidth = 100\n{seed_policies}"),
    );
    seed.get(&distant.nginx.url(&content.name), &content, &[]);
    seed.wait_until_shared(&content);
    let mut lab = distant;
    let outsider = lab.lab.outsider();
    let taker = Daemon::start(
        &outsider,
        "download_mode = 3\npercentage_max_background_bandwidth = 100\ndelay_background_download_from_http = 600",
    );
    (lab, seed, taker, content)
}

#[test]
#[ignore = "needs root and network namespaces"]
fn uploads_to_internet_peers_keep_their_limit() {
    let (distant, seed, taker, content) = upload("max_upload_bandwidth = 1500", |_| {});
    let peer = seed.node().address(SWARM_PORT).to_string();
    let mut get = taker.start_get(&distant.nginx.url(&content.name), &["--peer", &peer]);
    taker.wait_for_bytes(&mut get, MIB);
    let flow = flow(|| distant.lab.at(0).traffic().sent);
    println!("{flow:?}");
    let exact = flow.mean / (1500.0 * KBPS);
    assert!(EXACT.contains(&exact), "{exact} of the limit");
}

#[test]
#[ignore = "needs root and network namespaces"]
fn monthly_cap_ends_uploads_to_internet_peers_and_survives_a_crash() {
    const LEFT: u64 = 20 * MIB;
    let month = jiff::Zoned::now().strftime("%Y-%m").to_string();
    let (distant, mut seed, taker, content) = upload("monthly_upload_data_cap = 1", |node| {
        let state = node.dir().join("state");
        fs::create_dir_all(&state).expect("the node's folder can be written");
        let sent = (1 << 30) - LEFT;
        let text = format!("month {month}\nlan 0\nlink_local 0\ngroup 0\ninternet {sent}\n");
        fs::write(state.join("uploads-this-month"), text).expect("the state folder can be written");
    });
    let peer = seed.node().address(SWARM_PORT).to_string();
    let before = distant.lab.at(0).traffic().sent;
    let mut get = taker.start_get(&distant.nginx.url(&content.name), &["--peer", &peer]);
    taker.wait_for_bytes(&mut get, LEFT - 4 * MIB);
    wait_for("the cap", PATIENCE, || {
        seed.status().month.upload_limit_reached.then_some(())
    });
    assert_eq!(seed.status().month.internet_bytes, 1 << 30);
    seed.kill();
    seed.restart();
    assert!(seed.status().month.upload_limit_reached, "{}", seed.log());
    wait_for("the peer to be there again", PATIENCE, || {
        let job = taker.jobs().into_iter().next()?;
        (job.connections.internet > 0).then_some(())
    });
    thread::sleep(Duration::from_secs(3));
    let sent = distant.lab.at(0).traffic().sent - before;
    println!("{sent} bytes where {LEFT} were left");
    assert!(sent < LEFT + LEFT / 20, "{sent} bytes went out");
    assert_eq!(taker.status().uploaded.total(), 0);
}
