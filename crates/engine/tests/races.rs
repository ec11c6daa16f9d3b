//! Callers, peers and administrators who want different things of one content at the same moment, and a disk that is
//! full for a while.

#[allow(unreachable_pub, dead_code, reason = "a module of tests")]
mod support;

use dosvc_content::HResult;
use dosvc_engine::{
    Engine,
    api::{GetRequest, JobId, JobState},
};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use support::{Node, Origin, config, content, hash_file, soon};

const MIB: usize = 1 << 20;

/// Plain content leaves the cache with the job that was handed it. A second job of the same address was cut off by
/// that: its swarm ended under it.
#[tokio::test(flavor = "multi_thread")]
async fn releasing_plain_content_leaves_another_get_of_it_alone() {
    let origin = Origin::start().await;
    let bytes = content(20, 3 * MIB + 1);
    origin.add("plain.bin", bytes.clone());
    let url = origin.url("plain.bin");
    let node = Node::start(&[], &[]).await;
    let mut job = node.get(&url).await;
    node.finish(job).await;
    for _ in 0..30 {
        let release = node.engine.release(job);
        let (next, ()) = tokio::join!(node.get(&url), release);
        node.finish(next).await;
        assert!(node.bytes(next).await == bytes);
        job = next;
    }
    node.engine.release(job).await;
    assert!(node.engine.cache().await.is_empty());
    node.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_content_that_two_gets_hold_goes_with_the_last() {
    let origin = Origin::start().await;
    let bytes = content(21, 2 * MIB + 1);
    origin.add("plain.bin", bytes.clone());
    let url = origin.url("plain.bin");
    let node = Node::start(&[], &[]).await;
    let (first, second) = tokio::join!(node.get(&url), node.get(&url));
    node.finish(first).await;
    node.finish(second).await;
    soon("the first release", node.engine.release(first)).await;
    assert!(node.bytes(second).await == bytes);
    node.engine.release(second).await;
    assert!(node.engine.cache().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn gets_releases_and_hand_overs_of_one_content_do_not_disturb_each_other() {
    let origin = Origin::start().await;
    let bytes = content(22, 4 * MIB + 1);
    let url = origin.publish("a.bin", &bytes);
    let node = Node::start(&[], &[]).await;
    let caller = async |n: u32| {
        for round in 0..8 {
            let job = node.get(&url).await;
            node.finish(job).await;
            let (file, len) = node.engine.open_file(job).await.expect("complete");
            let dest = node.dir.path().join(format!("{n}-{round}"));
            let placed = tokio::task::spawn_blocking(move || {
                let placed = dosvc_piece_store::place(
                    &file,
                    len,
                    None,
                    &dest,
                    dosvc_piece_store::Durability::Now,
                    &mut |_| {},
                );
                placed.map(|_| std::fs::read(&dest).expect("placed"))
            });
            let placed = placed.await.expect("no panic").expect("placed");
            assert!(placed == bytes);
            node.engine.release(job).await;
        }
    };
    tokio::join!(caller(0), caller(1), caller(2), caller(3));
    assert_eq!(origin.sent(), bytes.len() as u64, "one copy");
}

/// Whatever a cancel is answered with is what became of the download.
#[tokio::test(flavor = "multi_thread")]
async fn a_download_is_cancelled_or_complete_but_never_both() {
    let origin = Origin::start().await;
    let bytes = content(23, MIB + 1);
    let url = origin.publish("a.bin", &bytes);
    let node = Node::start(&[], &[]).await;
    let (mut cancelled, mut completed) = (0, 0);
    for round in 0..60u64 {
        let job = node.get(&url).await;
        // All of it is in the cache after the first time: the end is near from the beginning.
        tokio::time::sleep(Duration::from_micros(round * 100)).await;
        let cancel = node.engine.cancel(job).await;
        let status = node.until(job, |s| s.state.is_final()).await;
        match cancel {
            Ok(()) => {
                assert_eq!(status.state, JobState::Cancelled);
                let refused = node.engine.open_file(job).await.expect_err("cancelled");
                assert_eq!(refused.code, HResult::INVALID_STATE.to_string());
                cancelled += 1;
            }
            Err(_) => {
                assert_eq!(status.state, JobState::Complete);
                assert!(node.bytes(job).await == bytes);
                completed += 1;
            }
        }
        node.engine.release(job).await;
    }
    println!("{cancelled} cancelled, {completed} completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_while_the_file_is_handed_over_changes_nothing() {
    let origin = Origin::start().await;
    let bytes = content(24, 8 * MIB);
    let url = origin.publish("a.bin", &bytes);
    let node = Node::start(&[], &[]).await;
    let job = node.get(&url).await;
    node.finish(job).await;
    let (taken, cancel) = tokio::join!(node.bytes(job), node.engine.cancel(job));
    assert!(taken == bytes);
    let refused = cancel.expect_err("complete");
    assert_eq!(refused.code, HResult::INVALID_STATE.to_string());
    assert!(node.bytes(job).await == bytes, "it can be taken again");
}

#[tokio::test(flavor = "multi_thread")]
async fn content_is_deleted_while_a_peer_downloads_it_and_the_peer_finishes_elsewhere() {
    let origin = Origin::start().await;
    let bytes = content(25, 48 * MIB);
    let url = origin.publish("a.bin", &bytes);
    let seed = Node::start(&[], &[]).await;
    let job = seed.get(&url).await;
    seed.finish(job).await;
    soon("the release", seed.engine.release(job)).await;
    let id = soon("the list", seed.engine.cache()).await[0]
        .file_id
        .clone();
    origin.set_down(true);
    let peer = Node::start(&[], &[seed.address()]).await;
    let hash_file = String::from_utf8(hash_file(&bytes, 1 << 20).to_json()).expect("text");
    let job = peer
        .request(GetRequest {
            urls: vec![url],
            hash_file_json: Some(hash_file),
            ..GetRequest::default()
        })
        .await;
    peer.until(job, |s| s.downloaded.lan > 0).await;
    let deleted = soon("deleting", seed.engine.delete(Some(&id), false)).await;
    assert_eq!(deleted, Ok(1));
    assert!(soon("the list", seed.engine.cache()).await.is_empty());
    origin.set_down(false);
    peer.finish(job).await;
    assert!(peer.bytes(job).await == bytes);
    let cached = soon("the list", seed.engine.cache()).await;
    assert!(cached.is_empty(), "it stays deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_file_can_be_deleted_before_it_is_taken() {
    let origin = Origin::start().await;
    let bytes = content(26, 2 * MIB);
    let url = origin.publish("a.bin", &bytes);
    let node = Node::start(&[], &[]).await;
    let job = node.get(&url).await;
    node.finish(job).await;
    let id = node.engine.cache().await[0].file_id.clone();
    assert_eq!(node.engine.delete(None, false).await, Ok(0), "in use");
    // What can't be deleted can still be taken.
    node.engine.pin(&id, true).await.expect("pinned");
    let refused = node.engine.delete(Some(&id), false).await;
    assert_eq!(
        refused.expect_err("pinned").code,
        HResult::DELETE_PINNED.to_string()
    );
    assert!(node.bytes(job).await == bytes);
    assert_eq!(node.engine.delete(Some(&id), true).await, Ok(1));
    let gone = node.engine.open_file(job).await.expect_err("deleted");
    assert_eq!(gone.code, HResult::NOT_FOUND.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_that_comes_while_its_content_is_deleted_completes() {
    let origin = Origin::start().await;
    let bytes = content(27, 2 * MIB + 1);
    let url = origin.publish("a.bin", &bytes);
    let node = Node::start(&[], &[]).await;
    let mut job = node.get(&url).await;
    node.finish(job).await;
    node.engine.release(job).await;
    for round in 0..20u64 {
        let delete = async {
            tokio::time::sleep(Duration::from_micros(round * 150)).await;
            node.engine.delete(None, false).await.expect("answers")
        };
        let (next, _) = tokio::join!(node.get(&url), delete);
        job = next;
        node.finish(job).await;
        assert!(node.bytes(job).await == bytes);
        node.engine.release(job).await;
    }
}

/// This test program again, on a small disk of its own; `None` when that takes rights that we don't have.
fn on_a_small_disk(test: &str, dir: &Path) -> Option<String> {
    let mount = "mount -t tmpfs -o size=12m tmpfs \"$DOSVC_ENGINE_DISK\" || exit 77; exec \"$@\"";
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", mount, "sh"])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture"])
        .env("DOSVC_ENGINE_DISK", dir)
        .output()
        .ok()?;
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    if output.status.code() == Some(77) || text.contains("unshare failed") {
        return None;
    }
    assert!(output.status.success(), "{text}");
    Some(text)
}

/// The swarm that had failed kept its error for as long as it lived, and every further get of the content got it.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_full_disk_the_next_get_goes_on() {
    let Some(disk) = std::env::var_os("DOSVC_ENGINE_DISK").map(PathBuf::from) else {
        let dir = tempfile::tempdir().expect("folder");
        match on_a_small_disk("after_a_full_disk_the_next_get_goes_on", dir.path()) {
            Some(text) => assert!(text.contains("went on"), "{text}"),
            None => eprintln!("skipped: mounting a small file system takes root"),
        }
        return;
    };
    let origin = Origin::start().await;
    let bytes = content(28, 8 * MIB);
    let url = origin.publish("a.bin", &bytes);
    let ballast = disk.join("ballast");
    std::fs::write(&ballast, vec![1; 7 * MIB]).expect("fits");
    let dir = tempfile::tempdir_in(&disk).expect("folder");
    let engine = Engine::start(config(&dir, &[], &[])).await.expect("starts");
    let node = Node { engine, dir };
    for _ in 0..2 {
        let job = node.get(&url).await;
        let status = node.until(job, |s| s.state.is_final()).await;
        assert_eq!(status.state, JobState::Failed, "{status:#?}");
        let error = status.error.expect("says why");
        assert_eq!(error.code, "0x80070070", "{error}");
        assert!(error.message.contains("no space left"), "{error}");
    }
    let before = origin.sent();
    assert!(
        before > 0,
        "something was downloaded before the disk was full"
    );
    std::fs::remove_file(&ballast).expect("was written");
    // At once, while the swarm that failed may still be there.
    let job: JobId = node.get(&url).await;
    let status = node.finish(job).await;
    assert!(node.bytes(job).await == bytes);
    assert!(
        status.bytes_from_cache > 0,
        "what fitted was kept: {status:#?}"
    );
    node.engine.shutdown().await;
    println!("went on");
}
