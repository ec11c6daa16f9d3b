//! What callers keep to themselves, what a reload opens and closes, and peers and servers that lie.

#[allow(dead_code, unreachable_pub, reason = "a module of tests")]
mod support;

use dosvc_content::PeerId;
use dosvc_engine::{
    Engine,
    api::{GetRequest, JobState},
};
use dosvc_wire::{Handshake, net};
use std::{net::SocketAddr, time::Duration};
use support::{Node, Origin, config, content, hash_file};
use tokio::net::TcpStream;

const MIB: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

/// Whether a handshake for this content is answered.
async fn answers(address: SocketAddr, bytes: &[u8]) -> bool {
    let swarm = hash_file(bytes, 1 << 20).hash_of_hashes();
    let Ok(mut stream) = TcpStream::connect(address).await else {
        return false;
    };
    let ours = Handshake::new(swarm, PeerId::from_random([9; 16]));
    net::send_handshake(&mut stream, &ours).await.is_ok()
        && net::receive_handshake(&mut stream, PATIENCE).await.is_ok()
}

async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let reached = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reached)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"));
}

fn with_mode(url: &str, mode: Option<u8>) -> GetRequest {
    GetRequest {
        urls: vec![url.to_owned()],
        mode,
        ..GetRequest::default()
    }
}

/// A content that its caller wanted over HTTP alone was shared with everybody, then and later: who was asked for it
/// looked at its size only.
#[tokio::test(flavor = "multi_thread")]
async fn content_requested_without_peers_is_not_served_then_later_or_after_a_restart() {
    let origin = Origin::start().await;
    let (kept, given) = (content(1, 3 * MIB), content(2, 3 * MIB));
    let kept_url = origin.publish("kept", &kept);
    let given_url = origin.publish("given", &given);
    let node = Node::start(&[], &[]).await;
    let job = node.request(with_mode(&kept_url, Some(0))).await;
    node.finish(job).await;
    node.finish(node.get(&given_url).await).await;
    assert!(answers(node.address(), &given).await);
    assert!(!answers(node.address(), &kept).await);
    let entries = node.engine.cache().await;
    let shared = entries.iter().filter(|e| e.shared).count();
    assert_eq!((entries.len(), shared), (2, 1), "{entries:#?}");

    // A caller that asks for nothing in particular does not give away what another keeps.
    node.finish(node.get(&kept_url).await).await;
    assert!(!answers(node.address(), &kept).await);

    let Node { engine, dir } = node;
    engine.shutdown().await;
    drop(engine);
    let engine = Engine::start(config(&dir, &[], &[]))
        .await
        .expect("starts again");
    let node = Node { engine, dir };
    assert!(answers(node.address(), &given).await);
    assert!(!answers(node.address(), &kept).await, "after a restart");

    let job = node.request(with_mode(&kept_url, Some(1))).await;
    node.finish(job).await;
    assert!(
        answers(node.address(), &kept).await,
        "asked for in so many words"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_becomes_private_is_cut_off_from_its_peers_at_once() {
    let origin = Origin::start().await;
    let bytes = content(3, 16 * MIB);
    let url = origin.publish("a", &bytes);
    let seed = Node::start(&[], &[]).await;
    seed.finish(seed.get(&url).await).await;
    // One that is connected, and wants nothing.
    let swarm = hash_file(&bytes, 1 << 20).hash_of_hashes();
    let mut stream = TcpStream::connect(seed.address()).await.expect("open");
    let ours = Handshake::new(swarm, PeerId::from_random([9; 16]));
    net::send_handshake(&mut stream, &ours).await.expect("sent");
    net::receive_handshake(&mut stream, PATIENCE)
        .await
        .expect("answered");
    let job = seed.request(with_mode(&url, Some(0))).await;
    seed.finish(job).await;
    let ended = async {
        let mut rest = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest).await;
    };
    tokio::time::timeout(PATIENCE, ended)
        .await
        .expect("the connection is closed");
}

/// Mode 0 left the listener open, accepting and closing; and a download that ran went on without peers for good when
/// they were permitted again.
#[tokio::test(flavor = "multi_thread")]
async fn peer_port_closes_and_opens_with_the_mode_and_downloads_follow() {
    let origin = Origin::start().await;
    let bytes = content(4, 24 * MIB);
    let url = origin.publish("a", &bytes);
    let seed = Node::start(&[], &[]).await;
    seed.finish(seed.get(&url).await).await;
    origin.limit(MIB as u64 / 4);

    let node = Node::start(&[("download_mode", "0")], &[seed.address()]).await;
    assert!(node.engine.status().listening.is_empty());
    let job = node.get(&url).await;
    node.until(job, |s| {
        s.bytes_done > 0 || s.downloaded.http > 0 || s.rate_bps > 0
    })
    .await;
    let lan = config(&node.dir, &[("download_mode", "1")], &[seed.address()]);
    assert!(node.engine.reconfigure(lan.clone()).await.is_empty());
    let open = node.engine.status().listening;
    assert!(TcpStream::connect(open[0]).await.is_ok());
    let status = node.finish(job).await;
    assert!(status.downloaded.lan > 0, "{status:#?}");

    let none = config(&node.dir, &[("download_mode", "0")], &[seed.address()]);
    assert!(node.engine.reconfigure(none).await.is_empty());
    assert!(node.engine.status().listening.is_empty());
    assert!(TcpStream::connect(open[0]).await.is_err(), "really closed");
    assert!(node.engine.reconfigure(lan).await.is_empty());
    let again = node.engine.status().listening[0];
    assert!(answers(again, &bytes).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_of_a_running_download_go_when_the_mode_forbids_them() {
    let origin = Origin::start().await;
    let bytes = content(5, 8 * MIB);
    let url = origin.publish("a", &bytes);
    let seed = Node::start(&[], &[]).await;
    seed.finish(seed.get(&url).await).await;
    origin.limit(MIB as u64);
    // Nothing of what the peer has is taken: it has to be there only.
    let node = Node::start(&[], &[]).await;
    let job = node
        .request(GetRequest {
            peers: vec![seed.address()],
            ..with_mode(&url, None)
        })
        .await;
    node.until(job, |s| s.num_peers > 0 || s.state.is_final())
        .await;
    let none = config(&node.dir, &[("download_mode", "0")], &[]);
    node.engine.reconfigure(none).await;
    eventually("no peer is left", async || {
        node.engine.peers().await.is_empty()
    })
    .await;
    node.finish(job).await;
    assert!(node.bytes(job).await == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn limit_that_is_raised_takes_effect_in_a_running_download() {
    let origin = Origin::start().await;
    let bytes = content(6, 4 * MIB);
    let url = origin.publish("a", &bytes);
    let slow = &[("max_background_download_bandwidth", "1")];
    let node = Node::start(slow, &[]).await;
    let job = node.get(&url).await;
    node.until(job, |s| {
        s.state == JobState::Downloading && s.connections.http > 0
    })
    .await;
    let fast = config(
        &node.dir,
        &[("max_background_download_bandwidth", "0")],
        &[],
    );
    node.engine.reconfigure(fast).await;
    // At one KB a second it would take an hour.
    node.finish(job).await;
}

/// The first of two to be handed its file took the content, and the swarm of the other, away.
#[tokio::test(flavor = "multi_thread")]
async fn two_downloads_of_one_plain_url_both_get_their_file() {
    let origin = Origin::start().await;
    let bytes = content(7, 12 * MIB);
    origin.add("plain", bytes.clone());
    let url = origin.url("plain");
    let node = Node::start(&[], &[]).await;
    let (one, other) = (node.get(&url).await, node.get(&url).await);
    node.finish(one).await;
    assert!(node.bytes(one).await == bytes);
    node.engine.release(one).await;
    node.finish(other).await;
    assert!(node.bytes(other).await == bytes);
    node.engine.release(other).await;
    assert!(
        node.engine.cache().await.is_empty(),
        "the last one took it away"
    );
}

/// A download met the error of the one before it, for as long as the swarm of their content lived.
#[tokio::test(flavor = "multi_thread")]
async fn failure_of_one_download_is_not_that_of_the_next() {
    let origin = Origin::start().await;
    let bytes = content(8, 3 * MIB);
    let url = origin.publish("a", &bytes);
    let json = String::from_utf8(hash_file(&bytes, 1 << 20).to_json()).expect("text");
    let node = Node::start(&[("download_mode", "0")], &[]).await;
    let request = |url: &str| GetRequest {
        hash_file_json: Some(json.clone()),
        ..with_mode(url, None)
    };
    let bad = node.request(request(&origin.url("nothing-here"))).await;
    let status = node.until(bad, |s| s.state.is_final()).await;
    assert_eq!(status.state, JobState::Failed);
    let good = node.request(request(&url)).await;
    node.finish(good).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_that_answers_every_address_with_a_page_has_no_hash_file() {
    let origin = Origin::start().await;
    let page = [b"<!DOCTYPE html>".as_slice(), &content(9, 48 * MIB)].concat();
    let bytes = content(10, 2 * MIB);
    origin.add("a", bytes.clone());
    origin.add("a.phf", page.clone());
    origin.add("a/pieceshash", page);
    let node = Node::start(&[], &[]).await;
    let status = node.finish(node.get(&origin.url("a")).await).await;
    assert!(!status.verified_by_hash_file);
    let pages_sent = origin.sent() - bytes.len() as u64;
    assert!(pages_sent < 16 * MIB as u64, "{pages_sent} bytes of a page");
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_in_addresses_are_not_shown() {
    let origin = Origin::start().await;
    let url = origin.publish("a", &content(11, MIB));
    let url = url.replace("http://", "http://me:secret@");
    let node = Node::start(&[], &[]).await;
    let status = node.finish(node.get(&url).await).await;
    let entries = node.engine.cache().await;
    assert!(!format!("{status:?}{entries:?}").contains("secret"));
    assert!(format!("{entries:?}").contains("me:***@"));
}

/// Without hashes only tag and date tell versions apart: bytes of another one are never mixed in.
#[tokio::test(flavor = "multi_thread")]
async fn cache_host_with_another_version_of_plain_content_is_not_used() {
    let table = [
        ("\"v1\"", true),
        ("W/\"v1\"", true),
        ("\"v2\"", false),
        ("", false),
    ];
    for (etag, is_used) in table {
        let (origin, cache) = (Origin::start().await, Origin::start().await);
        let (bytes, older) = (content(41, 3 * MIB), content(43, 3 * MIB));
        origin.add("a.bin", bytes.clone());
        cache.add("a.bin", if is_used { bytes.clone() } else { older });
        cache.set_etag(etag);
        let host = cache.address.to_string();
        let node = Node::start(&[("cache_host", &host)], &[]).await;
        let job = node.get(&origin.url("a.bin")).await;
        let status = node.finish(job).await;
        assert!(node.bytes(job).await == bytes, "{etag}");
        let from = status.downloaded;
        assert_eq!(from.cache_server > 0, is_used, "{etag}: {from:?}");
        assert_eq!(from.total(), bytes.len() as u64, "{etag}: {from:?}");
    }
}
