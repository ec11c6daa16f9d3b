//! What `explain` says of a download while it waits, while it runs and when it is over.

#[allow(unreachable_pub, reason = "a module of tests")]
#[allow(dead_code, reason = "each test program uses a part of it")]
mod support;

use dosvc_content::{DownloadMode, HResult};
use dosvc_engine::api::{Explanation, GetRequest, JobId, SourceStanding};
use std::{net::SocketAddr, time::Duration};
use support::{Node, Origin, content};

const MIB: usize = 1 << 20;

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
    tokio::time::timeout(Duration::from_secs(30), ask)
        .await
        .expect("the explanation gets there")
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_download_is_explained_by_its_delay_and_by_each_source_that_fails() {
    let origin = Origin::start().await;
    let url = origin.publish("a.bin", &content(1, 12 * MIB));
    // Nobody listens there any more.
    let gone: SocketAddr = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address")
    };
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
    let cache = by_id.cache.expect("in the cache");
    assert_eq!(cache.file_size_in_cache, 12 * MIB as u64);
    assert!(!cache.shared);
    for unknown in ["ffffffff", "77"] {
        let error = node.engine.explain(unknown).await.expect_err("nothing");
        assert_eq!(error.code, HResult::NOT_FOUND.to_string());
    }
}
