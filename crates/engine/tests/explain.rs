//! What `explain` says of a download while it waits, while it runs and when it is over.

#[allow(unreachable_pub, reason = "a module of tests")]
#[allow(dead_code, reason = "each test program uses a part of it")]
mod support;

use dosvc_content::{DownloadMode, HResult};
use dosvc_engine::{
    Engine,
    api::{Explanation, GetRequest, JobId, JobState, SourceExplanation, SourceStanding},
};
use std::{net::SocketAddr, time::Duration};
use support::{Node, Origin, config, content};

const MIB: usize = 1 << 20;

/// An address where nobody listens any more.
fn gone() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address")
}

/// Asks until the answer is as wanted.
async fn explained(node: &Node, id: JobId, what: impl Fn(&Explanation) -> bool) -> Explanation {
    let ask = async {
        loop {
            let answer = node
                .engine
                .explain(&id.to_string())
                .await
                .expect("a download");
            if what(&answer) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let answered = tokio::time::timeout(Duration::from_secs(30), ask).await;
    match answered {
        Ok(answer) => answer,
        Err(_) => panic!("not so: {:#?}", node.engine.explain(&id.to_string()).await),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_download_is_explained_by_its_delay_and_by_each_source_that_fails() {
    let origin = Origin::start().await;
    let url = origin.publish("a.bin", &content(1, 12 * MIB));
    let gone = gone();
    // Nothing of the LAN, so never dialled.
    let outside: SocketAddr = "203.0.113.7:7680".parse().expect("an address");
    let node = Node::start(
        &[("delay_background_download_from_http", "600")],
        &[gone, outside],
    )
    .await;
    let job = node.get(&url).await;
    let down = |e: &Explanation, address: SocketAddr| {
        let found = e.sources.iter().find(|s| s.address == address.to_string());
        found.map(|s| (s.state, s.why.clone()))
    };
    let answer = explained(&node, job, |e| {
        down(e, gone).is_some_and(|(_, why)| why.contains("cannot connect"))
            && down(e, outside).is_some_and(|(state, _)| state == SourceStanding::Refused)
    })
    .await;
    assert_eq!(answer.mode.configured, 1);
    assert_eq!(answer.mode.effective, 1);
    assert_eq!(answer.mode.reasons, Vec::<String>::new());
    assert_eq!(answer.no_peers, Vec::<String>::new());
    let delay = answer
        .delays
        .iter()
        .find(|d| d.policy == "delay_background_download_from_http")
        .expect("the delay that holds HTTP back");
    assert_eq!(delay.total_ms, 600_000);
    assert!((1..600_000).contains(&delay.left_ms), "{delay:?}");
    let waiting = answer.waiting.as_deref().expect("why");
    assert!(waiting.contains("held back by policy"), "{waiting}");
    let http = answer.sources.iter().find(|s| s.kind == "Http");
    let http = http.expect("the origin");
    assert_eq!(http.state, SourceStanding::Idle);
    assert!(http.why.contains("delay policy"), "{}", http.why);
    assert!(url.starts_with(&http.address), "{} {url}", http.address);
    let (_, why) = down(&answer, outside).expect("asked above");
    assert!(why.contains("none of this machine's subnets"), "{why}");
    let (state, why) = down(&answer, gone).expect("asked above");
    assert_eq!(state, SourceStanding::Down);
    assert!(why.contains("next attempt"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn finished_download_is_explained_by_number_and_by_file_id() {
    let origin = Origin::start().await;
    let url = origin.publish("a.bin", &content(2, 12 * MIB));
    let node = Node::start(&[], &[]).await;
    let request = GetRequest {
        urls: vec![url],
        mode: Some(DownloadMode::CdnOnly.number()),
        ..GetRequest::default()
    };
    let job = node.request(request).await;
    let status = node.finish(job).await;
    let by_number = node
        .engine
        .explain(&job.to_string())
        .await
        .expect("a download");
    assert_eq!(by_number.file_id, status.file_id);
    assert_eq!(
        (by_number.mode.configured, by_number.mode.effective),
        (1, 0)
    );
    assert!(by_number.no_peers[0].contains("the caller asked for mode"));
    node.engine.release(job).await;
    // The download is forgotten; what its caller wanted of the content is not.
    let by_id = node
        .engine
        .explain(&status.file_id[..8])
        .await
        .expect("a content");
    assert_eq!(by_id.download, None);
    assert_eq!(by_id.mode.effective, 0);
    // Nor is where it came from.
    assert!(by_id.sources_are_past);
    assert_eq!(by_id.sources[0].delivered_bytes, 12 * MIB as u64);
    let cache = by_id.cache.expect("in the cache");
    assert_eq!(cache.file_size_in_cache, 12 * MIB as u64);
    assert!(!cache.shared);
    for unknown in ["ffffffff", "77"] {
        let error = node.engine.explain(unknown).await.expect_err("nothing");
        assert_eq!(error.code, HResult::NOT_FOUND.to_string());
    }
}

/// Its caller has left nothing behind but a download that was given up, which is not what became of the content.
#[tokio::test(flavor = "multi_thread")]
async fn download_that_was_given_up_explains_nothing_once_another_has_brought_everything() {
    let origin = Origin::start().await;
    let url = origin.publish("a.bin", &content(3, 12 * MIB));
    let node = Node::start(&[], &[]).await;
    origin.limit(1 << 20);
    let given_up = node.get(&url).await;
    let file_id = node.until(given_up, |s| s.bytes_done > 0).await.file_id;
    node.engine.cancel(given_up).await.expect("it runs");
    let state = |e: &Explanation| e.download.as_ref().map(|download| download.state);
    explained(&node, given_up, |e| state(e) == Some(JobState::Cancelled)).await;
    let by_id = node.engine.explain(&file_id).await.expect("a content");
    assert_eq!(state(&by_id), Some(JobState::Cancelled));
    origin.limit(1 << 30);
    let job = node.get(&url).await;
    node.finish(job).await;
    node.engine.release(job).await;
    let by_id = node.engine.explain(&file_id).await.expect("a content");
    assert_eq!(by_id.download, None);
    assert_eq!(by_id.advice, Vec::<String>::new());
    let number = given_up.to_string();
    let by_number = node.engine.explain(&number).await.expect("a download");
    assert_eq!(state(&by_number), Some(JobState::Cancelled));
}

fn source<'a>(answer: &'a Explanation, address: &str) -> &'a SourceExplanation {
    let found = answer.sources.iter().find(|s| s.address.contains(address));
    found.unwrap_or_else(|| panic!("{address}: {:#?}", answer.sources))
}

#[tokio::test(flavor = "multi_thread")]
async fn search_for_the_hash_file_names_each_address_that_was_asked_and_its_answer() {
    let (origin, down) = (Origin::start().await, Origin::start().await);
    down.set_down(true);
    let node = Node::start(&[], &[]).await;
    let job = node
        .request(GetRequest {
            urls: vec![origin.url("nothing.bin"), down.url("nothing.bin")],
            ..GetRequest::default()
        })
        .await;
    let (refused, lost) = (
        format!("{}/nothing.bin.phf", origin.address),
        format!("{}/nothing.bin.phf", down.address),
    );
    let answer = explained(&node, job, |e| {
        let has = |address: &String| e.sources.iter().any(|s| s.address.contains(address));
        has(&refused) && has(&lost)
    })
    .await;
    assert_eq!(source(&answer, &refused).state, SourceStanding::Refused);
    let why = &source(&answer, &refused).why;
    assert!(why.contains("404") && why.contains("no hash file"), "{why}");
    assert_eq!(source(&answer, &lost).state, SourceStanding::Down);
    let waiting = node.until(job, |s| s.waiting.is_some()).await.waiting;
    assert!(waiting.is_some_and(|why| why.contains("trying again in")));
}

#[tokio::test(flavor = "multi_thread")]
async fn download_that_failed_keeps_its_sources_and_says_what_to_do() {
    let origin = Origin::start().await;
    let node = Node::start(&[], &[]).await;
    let job = node.get(&origin.url("nothing.bin")).await;
    node.until(job, |s| s.state.is_final()).await;
    let answer = explained(&node, job, |_| true).await;
    assert!(answer.sources_are_past);
    let content = answer
        .sources
        .iter()
        .find(|s| s.address == origin.url("nothing.bin"))
        .expect("the content's own address");
    assert!(content.why.contains("404"), "{}", content.why);
    assert!(
        answer.advice[0].contains("dosvc get"),
        "{:?}",
        answer.advice
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_of_one_content_are_explained_one_by_one_also_afterwards() {
    let (origin, broken) = (Origin::start().await, Origin::start().await);
    let bytes = content(3, 12 * MIB);
    let url = origin.publish("a.bin", &bytes);
    let node = Node::start(&[], &[]).await;
    let job = node
        .request(GetRequest {
            urls: vec![broken.url("a.bin"), url.clone()],
            hash_file_url: Some(format!("{url}.phf")),
            ..GetRequest::default()
        })
        .await;
    node.finish(job).await;
    let answer = explained(&node, job, |e| e.sources_are_past).await;
    let (good, bad) = (source(&answer, &url), source(&answer, &broken.url("a.bin")));
    assert_eq!(good.delivered_bytes, bytes.len() as u64, "{good:?}");
    assert_eq!(bad.state, SourceStanding::Down);
    assert!(bad.why.contains("404"), "{}", bad.why);
}

#[tokio::test(flavor = "multi_thread")]
async fn cache_hosts_say_why_they_are_passed_over_and_left_alone() {
    let (origin, spare) = (Origin::start().await, Origin::start().await);
    let url = origin.publish("a.bin", &content(21, 12 * MIB));
    origin.limit(MIB as u64);
    let gone = gone();
    let hosts = format!("{gone},{}", spare.address);
    let node = Node::start(&[("cache_host", &hosts)], &[]).await;
    let job = node.get(&url).await;
    let down = |e: &Explanation| {
        let hosts = e.sources.iter().filter(|s| s.kind == "CacheServer");
        hosts.filter(|s| s.state == SourceStanding::Down).count() == 2
    };
    let answer = explained(&node, job, down).await;
    let why = &source(&answer, &format!("{gone}/a.bin")).why;
    assert!(why.contains("no connection"), "{why}");
    let why = &source(&answer, &format!("{}/a.bin", spare.address)).why;
    assert!(why.contains("the cache host before it failed"), "{why}");
    // The next download does not even ask it.
    let other = node
        .get(&origin.publish("b.bin", &content(23, 12 * MIB)))
        .await;
    let listed = |e: &Explanation| e.sources.iter().any(|s| s.address == gone.to_string());
    let answer = explained(&node, other, listed).await;
    let why = &source(&answer, &gone.to_string()).why;
    assert!(why.contains("left alone for 15 min"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fallback_delay_is_named_where_it_makes_the_origin_wait() {
    let origin = Origin::start().await;
    let url = origin.publish("a.bin", &content(13, 12 * MIB));
    let policy = "delay_cache_server_fallback_background";
    let hosts = gone().to_string();
    let node = Node::start(&[("cache_host", &hosts), (policy, "600")], &[]).await;
    let job = node.get(&url).await;
    let waits = |e: &Explanation| e.waiting.as_ref().is_some_and(|why| why.contains(policy));
    let answer = explained(&node, job, waits).await;
    assert!(
        answer
            .delays
            .iter()
            .any(|d| d.policy == policy && d.left_ms > 0)
    );
    assert!(
        answer.advice.iter().any(|text| text.contains(policy)),
        "{:?}",
        answer.advice
    );
    assert_eq!(source(&answer, &url).state, SourceStanding::Idle);
}

#[tokio::test(flavor = "multi_thread")]
async fn queued_and_paused_downloads_say_what_they_wait_for() {
    let origin = Origin::start().await;
    origin.limit(MIB as u64);
    let dir = tempfile::tempdir().expect("temporary folder");
    let mut config = config(&dir, &[], &[]);
    config.active_background_max = 1;
    let engine = Engine::start(config).await.expect("starts");
    let node = Node { engine, dir };
    let first = node
        .get(&origin.publish("a.bin", &content(7, 12 * MIB)))
        .await;
    node.until(first, |s| s.bytes_done > 0).await;
    let second = node
        .get(&origin.publish("b.bin", &content(11, 12 * MIB)))
        .await;
    let answer = explained(&node, second, |e| e.waiting.is_some()).await;
    let why = answer.waiting.expect("asked for");
    assert!(why.contains("1 downloads") && why.contains("turn"), "{why}");
    node.engine.pause(first).await.expect("it runs");
    let paused = |e: &Explanation| {
        e.download
            .as_ref()
            .is_some_and(|d| d.state == JobState::Paused)
    };
    let answer = explained(&node, first, paused).await;
    assert!(
        answer.advice[0].contains(&format!("dosvc resume {first}")),
        "{:?}",
        answer.advice
    );
    assert_eq!(answer.limit, None, "nothing is downloaded");
    assert_eq!(node.finish(second).await.waiting, None);
}

/// A download whose caller asked for more than the device's mode permits by now is narrowed, and explained all the same.
#[tokio::test(flavor = "multi_thread")]
async fn download_in_a_mode_that_the_device_has_left_is_explained() {
    let origin = Origin::start().await;
    origin.limit(MIB as u64);
    let url = origin.publish("a.bin", &content(9, 12 * MIB));
    let node = Node::start(&[], &[]).await;
    let job = node
        .request(GetRequest {
            urls: vec![url],
            mode: Some(DownloadMode::Lan.number()),
            ..GetRequest::default()
        })
        .await;
    node.until(job, |s| s.bytes_done > 0).await;
    let narrower = config(&node.dir, &[("download_mode", "0")], &[]);
    let restart = node.engine.reconfigure(narrower).await;
    assert_eq!(restart, Vec::<String>::new());
    let answer = explained(&node, job, |e| e.mode.configured == 0).await;
    assert_eq!(answer.mode.effective, 0);
    assert!(
        answer.no_peers[0].contains("does not"),
        "{:?}",
        answer.no_peers
    );
    assert!(
        answer
            .advice
            .iter()
            .any(|text| text.contains("download_mode")),
        "{:?}",
        answer.advice
    );
}
