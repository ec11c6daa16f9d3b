//! Sources that go away while they are needed.

use crate::{
    content::{self, Content, scenario_bytes},
    daemon::{Daemon, Get},
    namespace::Lab,
    nginx::Nginx,
    process::wait_for,
};
use dosvc_engine::api::JobState;
use std::time::Duration;

/// An origin, a machine that has the content, and one that is half done with fetching it. Fields are dropped in this
/// order: the network last.
struct HalfDone {
    get: Get,
    leech: Daemon,
    seed: Daemon,
    nginx: Nginx,
    content: Content,
    _lab: Lab,
}

impl HalfDone {
    fn new() -> Self {
        // Slow enough that what happens at half does happen before the end.
        let lab = Lab::new(3, Some("200mbit"));
        let content = Content::random(7, scenario_bytes(128));
        let nginx = Nginx::start(lab.at(0), &content::folder());
        let url = nginx.url(&content.name);
        let seed = Daemon::start(lab.at(1), "");
        let _from_origin = seed.get(&url, &content, &[]);
        seed.wait_until_shared(&content);
        let leech = Daemon::start(lab.at(2), "");
        let get = leech.start_get(&url, &[]);
        let job = leech.wait_for_bytes(content.bytes / 2);
        assert!(!job.state.is_final(), "too late for an outage: {job:?}");
        Self {
            get,
            leech,
            seed,
            nginx,
            content,
            _lab: lab,
        }
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn origin_gone_at_half_the_rest_comes_from_peers() {
    let mut half = HalfDone::new();
    half.nginx.stop();
    let result = half.get.finish();
    half.content.assert_same(&result.output);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn peers_gone_at_half_the_rest_comes_from_the_origin() {
    let mut half = HalfDone::new();
    half.seed.kill();
    let result = half.get.finish();
    half.content.assert_same(&result.output);
    assert!(result.status.downloaded.http > 0, "{:?}", result.status);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn with_every_source_gone_it_waits_says_so_and_goes_on_when_one_is_back() {
    let mut half = HalfDone::new();
    half.nginx.stop();
    half.seed.kill();
    let job = wait_for(
        "the download to say that it waits",
        Duration::from_secs(60),
        || {
            let job = half.leech.jobs().pop().expect("one download");
            job.waiting.is_some().then_some(job)
        },
    );
    println!("waiting: {:?}", job.waiting);
    assert_eq!(
        job.state,
        JobState::Downloading,
        "waiting is no end: {job:?}"
    );
    assert!(job.error.is_none(), "{job:?}");
    half.nginx.restart();
    let result = half.get.finish();
    half.content.assert_same(&result.output);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn with_every_source_gone_it_goes_on_when_a_peer_is_back() {
    let mut half = HalfDone::new();
    half.nginx.stop();
    half.seed.kill();
    wait_for(
        "the download to say that it waits",
        Duration::from_secs(60),
        || half.leech.jobs().pop().expect("one download").waiting,
    );
    half.seed.restart();
    let result = half.get.finish();
    half.content.assert_same(&result.output);
}
