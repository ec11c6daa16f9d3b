//! Engines, an origin and peers on loopback: what a download does end to end.

#[allow(unreachable_pub, reason = "a module of tests")]
#[allow(dead_code, reason = "each test program uses a part of it")]
mod support;

use dosvc_content::{HResult, PiecesHashFile};
use dosvc_engine::{
    Engine,
    api::{GetRequest, ImportRequest, JobState},
};
use dosvc_piece_store::{AddInfo, Store, StoreConfig};
use dosvc_policy::Percent;
use std::{
    os::unix::fs::FileExt as _,
    time::{Duration, SystemTime},
};
use support::{Node, Origin, config, content, hash_file};

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn content_comes_whole_and_verified_from_the_origin_alone() {
    let origin = Origin::start().await;
    let bytes = content(1, 9 * MIB + 12_345);
    let url = origin.publish("a.bin", &bytes);
    let node = Node::start(&[], &[]).await;
    let job = node.get(&url).await;
    let status = node.finish(job).await;
    assert!(status.verified_by_hash_file);
    assert_eq!(status.downloaded.http, bytes.len() as u64);
    assert!(node.bytes(job).await == bytes);
    assert_eq!(origin.sent(), bytes.len() as u64, "one copy, nothing twice");
    node.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn second_machine_gets_nearly_everything_from_the_first() {
    let origin = Origin::start().await;
    let bytes = content(2, 64 * MIB);
    let url = origin.publish("a.bin", &bytes);
    let first = Node::start(&[], &[]).await;
    first.finish(first.get(&url).await).await;
    let second = Node::start(&[], &[first.address()]).await;
    let job = second.get(&url).await;
    let status = second.finish(job).await;
    assert!(
        status.downloaded.lan * 100 >= status.downloaded.total() * 95,
        "{status:#?}"
    );
    assert!(second.bytes(job).await == bytes);
    // The counter of uploads runs behind the last block by a message.
    let uploaded = async {
        while first.engine.status().uploaded.lan < status.downloaded.lan {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), uploaded)
        .await
        .expect("uploads are counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn delayed_http_leaves_everything_to_peers() {
    let origin = Origin::start().await;
    let bytes = content(3, 16 * MIB);
    let url = origin.publish("a.bin", &bytes);
    let first = Node::start(&[], &[]).await;
    first.finish(first.get(&url).await).await;
    let sent = origin.sent();
    let second = Node::start(
        &[("delay_background_download_from_http", "600")],
        &[first.address()],
    )
    .await;
    let status = second.finish(second.get(&url).await).await;
    assert_eq!(status.downloaded.lan, bytes.len() as u64);
    assert_eq!(origin.sent(), sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn hash_file_and_content_come_from_peers_when_the_origin_is_gone() {
    let origin = Origin::start().await;
    let bytes = content(4, 5 * MIB + 1);
    let url = origin.publish("a.bin", &bytes);
    let first = Node::start(&[], &[]).await;
    first.finish(first.get(&url).await).await;
    origin.set_down(true);
    let second = Node::start(&[], &[first.address()]).await;
    let hash = hash_file(&bytes, 1 << 20).hash_of_hashes();
    let job = second
        .request(GetRequest {
            urls: vec![url],
            hash_of_hashes: Some(hash.to_string()),
            ..GetRequest::default()
        })
        .await;
    let status = second.finish(job).await;
    assert_eq!(status.downloaded.lan, bytes.len() as u64);
    assert!(second.bytes(job).await == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_source_a_download_waits_says_so_and_goes_on() {
    let origin = Origin::start().await;
    let bytes = content(5, 3 * MIB);
    let url = origin.publish("a.bin", &bytes);
    let hash_file = String::from_utf8(hash_file(&bytes, 1 << 20).to_json()).expect("text");
    origin.set_down(true);
    let node = Node::start(&[], &[]).await;
    let job = node
        .request(GetRequest {
            urls: vec![url],
            hash_file_json: Some(hash_file),
            ..GetRequest::default()
        })
        .await;
    let status = node.until(job, |s| s.waiting.is_some()).await;
    assert_eq!(status.state, JobState::Downloading);
    origin.set_down(false);
    node.finish(job).await;
    assert!(node.bytes(job).await == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_hash_file_content_comes_over_plain_http_and_is_not_shared() {
    let origin = Origin::start().await;
    let bytes = content(6, 12 * MIB + 7);
    origin.add("plain.bin", bytes.clone());
    let first = Node::start(&[], &[]).await;
    let job = first.get(&origin.url("plain.bin")).await;
    let status = first.finish(job).await;
    assert_eq!(status.download_mode, 99);
    assert!(!status.verified_by_hash_file);
    assert!(status.notes[0].contains("not shared"), "{:?}", status.notes);
    assert!(first.bytes(job).await == bytes);
    first.engine.release(job).await;
    assert!(
        first.engine.cache().await.is_empty(),
        "handed over, nothing kept"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_part_of_the_disk_that_stays_free_is_live() {
    let origin = Origin::start().await;
    let url = origin.publish("a.bin", &content(18, 2 * MIB));
    let node = Node::start(&[("absolute_max_cache_size", "0")], &[]).await;
    let job = node.get(&url).await;
    node.finish(job).await;
    node.engine.release(job).await;
    let status = node.engine.status();
    assert!(status.cache_bytes_max >= status.cache_bytes, "{status:?}");
    let with = |keep_free| {
        let mut config = config(&node.dir, &[("absolute_max_cache_size", "0")], &[]);
        config.listen = vec!["127.0.0.1:0".parse().expect("address")];
        config.keep_free = Percent::of(keep_free);
        config
    };
    let share = 100 * status.disk_available_bytes / status.disk_total_bytes;
    let half = u8::try_from(share / 2).expect("a percentage");
    assert_eq!(node.engine.reconfigure(with(half)).await, [""; 0]);
    let kept = node.engine.status().cache_bytes_max;
    assert!(kept < status.cache_bytes_max, "{kept}");
    // Nobody has more than 99 % of a disk free for long, and then it is empty: nothing may stay.
    node.engine.reconfigure(with(99)).await;
    assert_eq!(node.engine.status().cache_bytes_max, 0);
    let empty = async {
        while !node.engine.cache().await.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), empty)
        .await
        .expect("the cache gives way, while it runs");
    // Nor does a file of this machine get in.
    let bytes = content(20, 2 * MIB);
    let path = node.dir.path().join("local.bin");
    std::fs::write(&path, &bytes).expect("written");
    for link in [false, true] {
        let request = ImportRequest {
            hash_file_json: String::from_utf8(hash_file(&bytes, 1 << 20).to_json()).expect("text"),
            link,
            ..ImportRequest::default()
        };
        let file = std::fs::File::open(&path).expect("readable");
        let refused = node.engine.import(file, request).await;
        let error = refused.expect_err("there is no room");
        assert_eq!(error.code, "0x80070070", "{error}");
        assert!(error.message.contains("max_cache_size"), "{error}");
        assert!(node.engine.cache().await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn download_that_would_take_the_last_part_of_the_disk_is_refused() {
    let origin = Origin::start().await;
    let url = origin.publish("a.bin", &content(19, 2 * MIB));
    let node = Node::start(&[], &[]).await;
    // More than is free: nothing at all may be written.
    let mut full = config(&node.dir, &[], &[]);
    full.keep_free = Percent::of(99);
    node.engine.reconfigure(full).await;
    let job = node.get(&url).await;
    let status = node.until(job, |s| s.state.is_final()).await;
    assert_eq!(status.state, JobState::Failed, "{status:?}");
    let error = status.error.expect("it failed");
    assert_eq!(error.code, "0x80070070");
    assert!(error.message.contains("keep_free_percent"), "{error}");
    assert_eq!(status.downloaded.total(), 0);
    node.engine.reconfigure(config(&node.dir, &[], &[])).await;
    node.finish(node.get(&url).await).await;
}

/// There are no peers to wait for.
#[tokio::test(flavor = "multi_thread")]
async fn content_that_is_not_shared_does_not_wait_for_peers() {
    let origin = Origin::start().await;
    origin.add("plain.bin", content(16, 12 * MIB));
    let small = origin.publish("small.bin", &content(17, MIB / 2));
    let delay = ("delay_background_download_from_http", "600");
    let node = Node::start(&[delay], &[]).await;
    for url in [origin.url("plain.bin"), small] {
        let status = node.finish(node.get(&url).await).await;
        assert_eq!(status.downloaded.http, status.bytes_done);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_ranges_still_delivers() {
    let origin = Origin::start().await;
    origin.without_ranges();
    origin.limit(50 << 20);
    let bytes = content(7, 6 * MIB + 99);
    let url = origin.publish("a.bin", &bytes);
    let node = Node::start(&[], &[]).await;
    let job = node.get(&url).await;
    node.finish(job).await;
    assert!(node.bytes(job).await == bytes);
    assert!(
        origin.sent() <= 2 * bytes.len() as u64,
        "at most one stream beside the first try"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_whose_bytes_are_wrong_never_completes() {
    let origin = Origin::start().await;
    let bytes = content(8, 4 * MIB);
    let mut wrong = bytes.clone();
    wrong[2 * MIB + 5] ^= 1;
    origin.add("a.bin", wrong);
    origin.add("a.bin.phf", hash_file(&bytes, 1 << 20).to_json());
    let node = Node::start(&[], &[]).await;
    let job = node.get(&origin.url("a.bin")).await;
    let status = node
        .until(job, |s| s.state.is_final() || s.waiting.is_some())
        .await;
    assert_ne!(status.state, JobState::Complete);
    assert!(status.bytes_done < bytes.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_anchor_is_an_error_not_an_unchecked_download() {
    let origin = Origin::start().await;
    let bytes = content(9, 2 * MIB);
    let url = origin.publish("a.bin", &bytes);
    let node = Node::start(&[("download_mode", "0")], &[]).await;
    let job = node
        .request(GetRequest {
            urls: vec![url],
            hash_of_hashes: Some(dosvc_content::HashOfHashes::from([9; 32]).to_string()),
            ..GetRequest::default()
        })
        .await;
    let status = node.until(job, |s| s.state.is_final()).await;
    assert_eq!(status.state, JobState::Failed);
    let error = status.error.expect("says why");
    assert_eq!(error.code, HResult::INTEGRITY_UNAVAILABLE.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_download_goes_on_where_it_was() {
    let origin = Origin::start().await;
    let bytes = content(10, 24 * MIB);
    let url = origin.publish("a.bin", &bytes);
    origin.limit(20 << 20);
    let node = Node::start(&[], &[]).await;
    let job = node.get(&url).await;
    node.until(job, |s| s.bytes_done > 6 << 20).await;
    node.engine.pause(job).await.expect("pauses");
    node.until(job, |s| s.state == JobState::Paused).await;
    origin.limit(u64::MAX);
    node.engine.resume(job).await.expect("resumes");
    let status = node.finish(job).await;
    assert!(node.bytes(job).await == bytes);
    assert!(
        origin.sent() < bytes.len() as u64 + (8 << 20),
        "little is fetched twice"
    );
    assert_eq!(status.downloaded.total(), bytes.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_engine_keeps_what_it_had_and_fetches_the_rest() {
    let origin = Origin::start().await;
    let bytes = content(11, 24 * MIB);
    let url = origin.publish("a.bin", &bytes);
    origin.limit(20 << 20);
    let Node { engine, dir } = Node::start(&[], &[]).await;
    let node = Node { engine, dir };
    let job = node.get(&url).await;
    node.until(job, |s| s.bytes_done > 8 << 20).await;
    node.engine.shutdown().await;
    let Node { engine, dir } = node;
    drop(engine);
    origin.limit(u64::MAX);
    let before = origin.sent();
    let engine = Engine::start(config(&dir, &[], &[]))
        .await
        .expect("starts again");
    let node = Node { engine, dir };
    let job = node.get(&url).await;
    let status = node.finish(job).await;
    assert!(node.bytes(job).await == bytes);
    assert!(status.bytes_from_cache >= 8 << 20, "{status:#?}");
    assert!(origin.sent() - before <= bytes.len() as u64 - (8 << 20));
}

/// What `kill -9` leaves: bytes in the file that the database does not claim, some of them wrong.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_unclaimed_is_fetched_again_only_where_it_is_wrong() {
    const LEFT: usize = 16;
    let origin = Origin::start().await;
    let bytes = content(17, 24 * MIB);
    let url = origin.publish("a.bin", &bytes);
    let dir = tempfile::tempdir().expect("folder");
    let file = hash_file(&bytes, MIB as u64);
    let store = Store::open(StoreConfig::new(dir.path())).expect("opens");
    let info = AddInfo {
        urls: Vec::new(),
        content_id: None,
        now: SystemTime::now(),
    };
    let held = store.add(&file, info).expect("room");
    for (piece, data) in file.lengths().pieces().zip(bytes.chunks(MIB)).take(LEFT) {
        held.accept_piece(piece, data).expect("right");
    }
    drop((held, store));
    std::fs::remove_file(dir.path().join("state.redb")).expect("was there");
    let folder = dir
        .path()
        .join("cache")
        .join(file.hash_of_hashes().to_hex());
    let data = std::fs::File::options()
        .write(true)
        .open(folder.join("data"));
    data.expect("the content's file")
        .write_all_at(b"spoilt", 3 * MIB as u64)
        .expect("writable");

    let engine = Engine::start(config(&dir, &[], &[])).await.expect("starts");
    let node = Node { engine, dir };
    let job = node.get(&url).await;
    let status = node.finish(job).await;
    assert!(node.bytes(job).await == bytes);
    let mib = |n: usize| (n * MIB) as u64;
    assert_eq!(status.bytes_from_cache, mib(LEFT - 1), "{status:#?}");
    assert_eq!(status.downloaded.http, mib(24 - LEFT + 1), "{status:#?}");
    assert_eq!(status.wasted_bytes, 0, "nobody sent anything wrong");
}

#[tokio::test(flavor = "multi_thread")]
async fn mode_zero_listens_nowhere_and_bypass_is_refused() {
    let node = Node::start(&[("download_mode", "0")], &[]).await;
    assert!(node.engine.status().listening.is_empty());
    let dir = tempfile::tempdir().expect("folder");
    let error = Engine::start(config(&dir, &[("download_mode", "100")], &[]))
        .await
        .expect_err("refused");
    assert!(error.to_string().contains("0x80D03002"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn group_members_share_and_strangers_get_nothing() {
    let origin = Origin::start().await;
    let bytes = content(12, 8 * MIB);
    let url = origin.publish("a.bin", &bytes);
    let group = "b3b1c2d4-5e6f-4a7b-8c9d-0e1f2a3b4c5d";
    let other = "00000000-0000-0000-0000-000000000001";
    let delay = ("delay_background_download_from_http", "600");
    let member = |id: &'static str| vec![("download_mode", "2"), ("group_id", id), delay];
    let seed = Node::start(&member(group)[..2], &[]).await;
    seed.finish(seed.get(&url).await).await;

    let friend = Node::start(&member(group), &[seed.address()]).await;
    let status = friend.finish(friend.get(&url).await).await;
    assert_eq!(status.downloaded.lan, bytes.len() as u64);

    let stranger = Node::start(&member(other), &[seed.address()]).await;
    let outsider = Node::start(&[delay], &[seed.address()]).await;
    for node in [&stranger, &outsider] {
        let job = node.get(&url).await;
        node.until(job, |s| s.waiting.is_some()).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let status = node.engine.job(job).expect("runs");
        assert_eq!(status.bytes_done, 0, "{status:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_state_folder_is_used_by_one_engine_only() {
    let node = Node::start(&[], &[]).await;
    let error = Engine::start(config(&node.dir, &[], &[]))
        .await
        .expect_err("in use");
    assert!(
        error.to_string().contains("in use") || error.to_string().contains("another"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_file_is_served_to_peers() {
    let bytes = content(13, 7 * MIB + 3);
    let file: PiecesHashFile = hash_file(&bytes, 1 << 20);
    let seed = Node::start(&[], &[]).await;
    let path = seed.dir.path().join("local.bin");
    std::fs::write(&path, &bytes).expect("written");
    let request = ImportRequest {
        hash_file_json: String::from_utf8(file.to_json()).expect("text"),
        ..ImportRequest::default()
    };
    let entry = seed
        .engine
        .import(std::fs::File::open(path).expect("readable"), request)
        .await
        .expect("imported");
    assert_eq!(entry.file_size_in_cache, bytes.len() as u64);
    let peer = Node::start(&[], &[seed.address()]).await;
    let job = peer
        .request(GetRequest {
            hash_of_hashes: Some(file.hash_of_hashes().to_string()),
            ..GetRequest::default()
        })
        .await;
    peer.finish(job).await;
    assert!(peer.bytes(job).await == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_of_several_blocks_work_too() {
    let bytes = content(14, 19 * MIB + 77);
    let origin = Origin::start().await;
    origin.add("big.bin", bytes.clone());
    origin.add("big.bin.phf", hash_file(&bytes, 4 << 20).to_json());
    let first = Node::start(&[], &[]).await;
    first.finish(first.get(&origin.url("big.bin")).await).await;
    let second = Node::start(
        &[("delay_background_download_from_http", "600")],
        &[first.address()],
    )
    .await;
    let job = second.get(&origin.url("big.bin")).await;
    second.finish(job).await;
    assert!(second.bytes(job).await == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn cached_content_can_be_pinned_and_deleted() {
    let origin = Origin::start().await;
    let bytes = content(15, 2 * MIB);
    let url = origin.publish("a.bin", &bytes);
    let node = Node::start(&[], &[]).await;
    let job = node.get(&url).await;
    node.finish(job).await;
    node.engine.release(job).await;
    let id = node.engine.cache().await[0].file_id.clone();
    node.engine.pin(&id, true).await.expect("pinned");
    let error = node
        .engine
        .delete(Some(&id), false)
        .await
        .expect_err("pinned");
    assert_eq!(error.code, HResult::DELETE_PINNED.to_string());
    assert_eq!(node.engine.delete(Some(&id), true).await, Ok(1));
    assert!(node.engine.cache().await.is_empty());
    assert_eq!(
        node.engine
            .delete(Some(&id), true)
            .await
            .expect_err("gone")
            .code,
        HResult::NOT_FOUND.to_string()
    );
}
