//! Limits of bandwidth and of uploads, as the counters of the interfaces see them: what the daemon says of itself is not
//! asked.

use crate::{
    content::{self, Content},
    daemon::{Daemon, SWARM_PORT},
    harness::curl,
    meter::Flow,
    namespace::{Lab, Node},
    nginx::Nginx,
    process::wait_for,
    turns::Turn,
};
use dosvc_engine::api::{JobStatus, SourceExplanation, SourceStanding};
use std::{fs, ops::RangeInclusive, thread, time::Duration};

const MIB: u64 = 1 << 20;
/// KB/s, as policies have it.
const KBPS: f64 = 1024.0;
/// How exact limits are over ten seconds.
const EXACT: RangeInclusive<f64> = 0.97..=1.03;
/// What may come beyond a limit at once: what the limiter's bucket holds, a part, and what waits to be read, in seconds of
/// the rate …
const BUCKET: f64 = 0.020 + 0.004 + 0.002;
/// … and at least so many segments for each connection …
const SEGMENTS: f64 = 12.0 * 1514.0;
/// … of which each download over HTTP has so many.
const CONNECTIONS: f64 = 4.0;
/// Time to measure what is available, for what had piled up to go, and for limits to follow.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a machine with a shaped link gets.
const LINK: &str = "40mbit";
const LINK_BPS: f64 = 40e6 / 8.0;

/// Asserts that what was seen is the limit, in bytes a second, with no burst above one bucket and what lies in so many
/// connections.
fn assert_limited(what: &str, flow: &Flow, limit: f64, connections: f64) {
    assert_exact(what, flow, limit);
    let burst = flow.burst(limit);
    let bucket = limit * BUCKET + SEGMENTS * connections;
    println!("{what}: bursts of {burst:.0} where {bucket:.0} may be");
    assert!(burst <= bucket, "{what}: a burst of {burst}, not {bucket}");
}

fn assert_exact(what: &str, flow: &Flow, limit: f64) {
    let share = flow.mean() / limit;
    println!("{what}: {share:.4} of the limit");
    assert!(EXACT.contains(&share), "{what}: {share} of the limit");
}

/// Ten seconds of a flow. Another load on the computer that runs the tests can take a flow below its limit for a while, so
/// one that is too slow is watched again, twice at most; one that is too fast is not.
fn watch(limit: f64, flow: impl Fn() -> Flow) -> Flow {
    let mut seen = flow();
    for _ in 0..2 {
        let share = seen.mean() / limit;
        if share >= *EXACT.start() {
            break;
        }
        println!("{share:.4} of the limit: watched again");
        seen = flow();
    }
    seen
}

/// A machine whose origin lies beyond the router, and the origin.
struct Distant {
    nginx: Nginx,
    lab: Lab,
}

impl Distant {
    /// `rate` shapes what the machine receives.
    fn new(rate: Option<&str>) -> Self {
        let mut lab = Lab::new(1, None);
        let outsider = lab.outsider();
        lab.segment();
        if let Some(rate) = rate {
            lab.reshape(0, rate, "50ms");
        }
        Self {
            nginx: Nginx::start(&outsider, &content::folder()),
            lab,
        }
    }

    fn node(&self) -> &Node {
        self.lab.at(0)
    }

    /// What of some downloads at once crosses the link, from when the limit is in force.
    fn download(&self, row: &Row) -> Flow {
        let daemon = Daemon::start(self.node(), &row.policies);
        let _gets: Vec<_> = CONTENTS[..usize::from(row.downloads)]
            .iter()
            .map(|number| {
                let content = Content::sparse(*number, 256 * MIB, MIB);
                daemon.start_get(&self.nginx.url(&content.name), row.arguments)
            })
            .collect();
        // When all connections are there.
        wait_for("the downloads to get on", PATIENCE, || {
            let on = |job: &JobStatus| job.bytes_done >= 3 * MIB;
            let jobs = daemon.jobs();
            (jobs.len() == usize::from(row.downloads) && jobs.iter().all(on)).then_some(())
        });
        wait_for("the limit to be in force", PATIENCE, || {
            (!row.measured || measured(&daemon)).then_some(())
        });
        if row.measured {
            // What servers had been told that they may send before the limit was in force is paid for first.
            thread::sleep(Duration::from_secs(3));
        }
        watch(row.limit, || Flow::received(self.node()))
    }
}

/// Numbers of the contents that are downloaded at once.
const CONTENTS: [u64; 3] = [1, 2, 3];

/// Whether what is available has been measured.
fn measured(daemon: &Daemon) -> bool {
    let bandwidth = daemon.status().bandwidth;
    bandwidth.available_bps.is_some()
        && (bandwidth.background.bps.is_some() || bandwidth.foreground.bps.is_some())
}

/// Policies and what they come to.
struct Row {
    policies: String,
    arguments: &'static [&'static str],
    downloads: u8,
    /// What is available is measured before the limit is in force.
    measured: bool,
    /// Bytes a second.
    limit: f64,
}

impl Row {
    /// An absolute limit, in KB/s.
    fn absolute(key: &str, kbps: f64, arguments: &'static [&'static str]) -> Self {
        Self {
            policies: format!("{key} = {kbps}"),
            arguments,
            downloads: 1,
            measured: false,
            limit: kbps * KBPS,
        }
    }

    /// A share of the shaped link.
    fn share(policies: &str, arguments: &'static [&'static str], share: f64) -> Self {
        Self {
            policies: policies.to_owned(),
            arguments,
            downloads: 1,
            measured: true,
            limit: LINK_BPS * share,
        }
    }
}

/// Checks all rows side by side, each in a network of its own.
fn check_rows(rate: Option<&str>, rows: &[Row]) {
    let networks: Vec<Distant> = rows.iter().map(|_| Distant::new(rate)).collect();
    thread::scope(|scope| {
        for (row, network) in rows.iter().zip(&networks) {
            scope.spawn(|| {
                let what = format!("{:?} {:?}", row.policies, row.arguments);
                let connections = CONNECTIONS * f64::from(row.downloads);
                let flow = network.download(row);
                if row.measured {
                    // What is left of the time without a limit comes in bursts.
                    assert_exact(&what, &flow, row.limit);
                } else {
                    assert_limited(&what, &flow, row.limit, connections);
                }
            });
        }
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn absolute_limits_are_exact_and_without_bursts() {
    const BACKGROUND: &str = "max_background_download_bandwidth";
    let together = Row {
        downloads: 3,
        ..Row::absolute(BACKGROUND, 3000.0, &[])
    };
    check_rows(
        None,
        &[
            Row::absolute(BACKGROUND, 2000.0, &[]),
            Row::absolute(
                "max_foreground_download_bandwidth",
                6000.0,
                &["--foreground"],
            ),
            Row::absolute("DOMaxDownloadBandwidth", 1000.0, &[]),
            together,
        ],
    );
}

#[test]
#[ignore = "needs root and network namespaces"]
fn shares_are_of_what_the_way_to_the_source_gives() {
    check_rows(
        Some(LINK),
        &[
            Row::share("percentage_max_background_bandwidth = 60", &[], 0.60),
            Row::share("DOPercentageMaxDownloadBandwidth = 30", &[], 0.30),
            Row::share("", &[], 0.45),
            Row::share("", &["--foreground"], 0.90),
        ],
    );
}

/// A background download under an absolute limit shows only that limit: no foreground download is held to a share of it.
#[test]
#[ignore = "needs root and network namespaces"]
fn what_a_limited_download_takes_is_not_what_is_available() {
    let distant = Distant::new(Some(LINK));
    let daemon = Daemon::start(distant.node(), "max_background_download_bandwidth = 500");
    let get = |number: u64, arguments: &[&str]| {
        let content = Content::sparse(number, 256 * MIB, MIB);
        daemon.start_get(&distant.nginx.url(&content.name), arguments)
    };
    let mut background = get(1, &[]);
    // Longer than a measurement takes at most.
    daemon.wait_for_bytes(&mut background, 5 * MIB);
    assert_eq!(daemon.status().bandwidth.available_bps, None);
    let mut foreground = get(2, &["--foreground"]);
    daemon.wait_for_bytes(&mut foreground, MIB);
    wait_for("the foreground to be measured", PATIENCE, || {
        let bandwidth = daemon.status().bandwidth;
        bandwidth.foreground.bps.filter(|bps| *bps > MIB)
    });
    let share = Flow::received(distant.node()).mean() / LINK_BPS;
    println!("both together: {share:.4} of the link");
    assert!(share > 0.9, "{share} of the link");
}

#[test]
#[ignore = "needs root and network namespaces"]
fn hours_decide_by_the_local_time() {
    const KEY: &str = "set_hours_to_limit_background_download_bandwidth";
    let hour = jiff::Zoned::now().hour();
    let at = |hours: i8| (hour + hours) % 24;
    // Three hours from now on, and all the hours but these: one of the two crosses midnight.
    let row = |from: i8, to: i8, share: f64| {
        let hours = format!("{KEY} = {{ from = {from}, to = {to}, in = 25, out = 75 }}");
        Row::share(&hours, &[], share)
    };
    check_rows(
        Some(LINK),
        &[row(at(0), at(3), 0.25), row(at(3), at(0), 0.75)],
    );
}

#[test]
#[ignore = "needs root and network namespaces"]
fn limit_holds_from_the_first_byte_and_a_new_one_at_once() {
    const IN_FORCE: Duration = Duration::from_secs(2);
    let distant = Distant::new(None);
    let limit = |kbps: f64| format!("max_background_download_bandwidth = {kbps}");
    let (before, after) = (4000.0, 1000.0);
    let mut daemon = Daemon::start(distant.node(), &limit(before));
    let content = Content::sparse(1, 256 * MIB, MIB);
    let _get = daemon.start_get(&distant.nginx.url(&content.name), &[]);
    let first = Flow::received_for(distant.node(), Duration::from_secs(4));
    let burst = first.burst(before * KBPS);
    println!("at the beginning: bursts of {burst:.0}");
    let bucket = before * KBPS * BUCKET + SEGMENTS * CONNECTIONS;
    assert!(
        burst <= bucket,
        "a burst of {burst} at the beginning, not {bucket}"
    );
    daemon.configure(&limit(after));
    thread::sleep(IN_FORCE);
    let flow = watch(after * KBPS, || Flow::received(distant.node()));
    // What the daemon says of itself is content, without headers, of the last moments: they vary with other loads.
    let said = (0..10).map(|_| {
        thread::sleep(Duration::from_millis(300));
        daemon.jobs()[0].rate_bps
    });
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
    let said = said.sum::<u64>() as f64 / 10.0 / (after * KBPS);
    assert!((0.8..1.05).contains(&said), "{said} of the limit, it says");
    assert_limited("the new limit", &flow, after * KBPS, CONNECTIONS);
}

/// Four pieces at once, each slower than what a silent server or peer is given up for.
#[test]
#[ignore = "needs root and network namespaces"]
fn low_limit_is_met_and_the_download_gets_there() {
    const LIMIT: f64 = 30.0;
    let policies = format!(
        "download_mode = 3\nmax_background_download_bandwidth = {LIMIT}\n\
         min_file_size_to_cache = 1\ndelay_background_download_from_http = 600"
    );
    let mut lab = Lab::new(4, None);
    let outsider = lab.outsider();
    lab.segment();
    let nginx = Nginx::start(&outsider, &content::folder());
    let content = Content::sparse(5, MIB, 256 << 10);
    let url = nginx.url(&content.name);
    let seeds: Vec<Daemon> = (0..3)
        .map(|i| Daemon::start(lab.at(i), "download_mode = 3\nmin_file_size_to_cache = 1"))
        .collect();
    for seed in &seeds {
        seed.get(&url, &content, &[]);
        seed.wait_until_shared(&content);
    }
    let peers: Vec<String> = seeds
        .iter()
        .flat_map(|seed| ["--peer".into(), seed.node().address(SWARM_PORT).to_string()])
        .collect();
    let peers: Vec<&str> = peers.iter().map(String::as_str).collect();
    let (from_server, from_peers) = thread::scope(|scope| {
        let by_http = policies.replace("download_mode = 3", "download_mode = 0");
        let (lab, url, content) = (&lab, &url, &content);
        let from_server = scope.spawn(move || {
            let daemon = Daemon::start(lab.at(3), &by_http);
            daemon.get(url, content, &[])
        });
        let daemon = Daemon::start(&outsider, &policies);
        let from_peers = daemon.get(url, content, &peers);
        (from_server.join().expect("it gets there"), from_peers)
    });
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
    let least = Duration::from_secs_f64(MIB as f64 / (LIMIT * KBPS));
    for (name, result) in [("server", from_server), ("peers", from_peers)] {
        println!(
            "{name}: {:?}, {least:?} at least, {:.2} from peers",
            result.elapsed,
            result.peer_share(&content)
        );
        // What is on its way when a limit is met for the first time is paid for, too.
        assert!(
            result.elapsed < least.mul_f64(1.4),
            "{name}: {:?}",
            result.status
        );
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn lan_is_exempt_from_limits() {
    let _alone = Turn::alone();
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
    let distant = Distant::new(None);
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
    let limit = 1500.0 * KBPS;
    let flow = watch(limit, || Flow::sent(distant.node()));
    assert_limited("uploads", &flow, limit, 1.0);
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
    let job = taker.jobs()[0].id.to_string();
    wait_for("the peer to be there again, and refuse", PATIENCE, || {
        let sources = taker.explain(&job).sources;
        let refuses = |s: &SourceExplanation| s.state == SourceStanding::Choking;
        sources.iter().any(refuses).then_some(())
    });
    let sent = distant.lab.at(0).traffic().sent - before;
    println!("{sent} bytes where {LEFT} were left");
    // The cap counts content: 1448 bytes of every 1514 on the link; and there are acknowledgements and greetings.
    assert!(
        sent < LEFT * 1514 / 1448 * 102 / 100,
        "{sent} bytes went out"
    );
    assert_eq!(taker.status().uploaded.total(), 0);

    // In another month than the one that the file tells of there is room again.
    seed.end();
    let file = seed.node().dir().join("state/uploads-this-month");
    let text = fs::read_to_string(&file).expect("the daemon has written it");
    fs::write(&file, text.replace(&month, "2001-01")).expect("the state folder can be written");
    seed.restart();
    taker.wait_for_bytes(&mut get, LEFT + 8 * MIB);
    assert!(!seed.status().month.upload_limit_reached);
}

/// `min_background_qos`: HTTP helps while the peers give less than this, and no longer.
#[test]
#[ignore = "needs root and network namespaces"]
fn http_joins_slow_peers_and_leaves_when_they_give_enough() {
    const SOME: Duration = Duration::from_secs(4);
    // Between what the peer gives at first, beside HTTP at most its limit, and what it gives then.
    const POLICIES: &str = "min_background_qos = 5000\nmax_background_download_bandwidth = 2000\n\
                            delay_background_download_from_http = 1";
    let lab = Lab::new(3, None);
    let content = Content::sparse(1, 256 * MIB, MIB);
    let nginx = Nginx::start(lab.at(0), &content::folder());
    let url = nginx.url(&content.name);
    let seed = Daemon::start(lab.at(1), "");
    seed.get(&url, &content, &[]);
    seed.wait_until_shared(&content);
    lab.segment();
    // On its own port: the peer's link. What the origin sends does not pass there.
    lab.shape_sending(1, "6mbit");
    let daemon = Daemon::start(lab.at(2), POLICIES);
    let mut get = daemon.start_get(&url, &[]);
    let by_http = || lab.at(0).traffic().sent;
    let by_peer = || lab.at(1).traffic().sent;
    daemon.wait_for_bytes(&mut get, 2 * MIB);
    let before = (by_http(), by_peer());
    thread::sleep(SOME);
    let slow = (by_http() - before.0, by_peer() - before.1);
    println!(
        "from a slow peer: {} by HTTP, {} by the peer",
        slow.0, slow.1
    );
    assert!(slow.0 > 4 * MIB, "HTTP does not help: {} bytes", slow.0);
    assert!(slow.1 > MIB, "the peer is left: {} bytes", slow.1);

    lab.shape_sending(1, "80mbit");
    wait_for("HTTP to leave", PATIENCE, || {
        let before = by_http();
        thread::sleep(Duration::from_millis(500));
        (by_http() - before < MIB / 16).then_some(())
    });
    let before = (by_http(), by_peer());
    thread::sleep(SOME);
    let fast = (by_http() - before.0, by_peer() - before.1);
    println!(
        "from a fast one: {} by HTTP, {} by the peer",
        fast.0, fast.1
    );
    assert!(fast.0 < MIB / 2, "HTTP has not left: {} bytes", fast.0);
    assert!(fast.1 > 20 * MIB, "the peer gives {} bytes", fast.1);
}

/// All contents are offered, four are uploaded at a time, and all have their turn.
#[test]
#[ignore = "needs root and network namespaces"]
fn four_contents_are_uploaded_at_a_time_and_others_take_turns() {
    const CONTENTS: u64 = 6;
    const AT_A_TIME: usize = 4;
    // More than two turns of ten seconds.
    const SECONDS: usize = 24;
    let lab = Lab::new(3, None);
    let contents: Vec<Content> = (1..=CONTENTS)
        .map(|number| Content::sparse(number, 96 * MIB, MIB))
        .collect();
    let nginx = Nginx::start(lab.at(0), &content::folder());
    let seed = Daemon::start(lab.at(1), "");
    for content in &contents {
        seed.get(&nginx.url(&content.name), content, &[]);
        seed.wait_until_shared(content);
    }
    lab.shape_sending(1, "100mbit");
    let taker = Daemon::start(lab.at(2), "delay_background_download_from_http = 600");
    let _gets: Vec<_> = contents
        .iter()
        .map(|content| taker.start_get(&nginx.url(&content.name), &[]))
        .collect();
    let progress = || -> Vec<u64> {
        let mut jobs = taker.jobs();
        jobs.sort_by_key(|job| job.id);
        jobs.iter().map(|job| job.bytes_done).collect()
    };
    wait_for("the uploads to begin", PATIENCE, || {
        let bytes = progress();
        (bytes.len() == contents.len() && bytes.iter().sum::<u64>() > MIB).then_some(())
    });
    let mut moving = Vec::new();
    let mut last = progress();
    for _ in 0..SECONDS {
        thread::sleep(Duration::from_secs(1));
        let now = progress();
        let grew = |(now, last): (&u64, &u64)| now > last;
        moving.push(now.iter().zip(&last).filter(|pair| grew(*pair)).count());
        last = now;
    }
    println!("contents that got on in each second: {moving:?}; bytes: {last:?}");
    assert!(
        last.iter().all(|bytes| *bytes > MIB),
        "without a turn: {last:?}"
    );
    // In the second of a change those that go and those that come get on.
    let few = moving.iter().filter(|n| **n <= AT_A_TIME).count();
    let four = moving.iter().filter(|n| **n == AT_A_TIME).count();
    assert!(few * 8 >= SECONDS * 7 && four * 2 >= SECONDS, "{moving:?}");
}
