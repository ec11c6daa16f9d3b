//! The cache on a small disk of its own (`modify_cache_drive`): its limits, and the part of the disk that stays free.

use crate::{
    content::Content,
    daemon::Daemon,
    machine,
    origin::Origin,
    process::{run, wait_for},
    turns::Turn,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

const MIB: u64 = 1 << 20;
const CONTENT_BYTES: u64 = 96 * MIB;
/// Limits are looked at ten seconds after something was written; machines that run tests may be slow.
const PATIENCE: Duration = Duration::from_secs(60);
const DISK_FULL: &str = "0x80070070";

/// A machine on loopback with a file system in memory for its cache; unmounted when dropped.
struct Machine(machine::Machine, #[expect(dead_code, reason = "held")] Turn);

impl Machine {
    fn new(disk_mib: u64) -> Self {
        let machine = Self(machine::Machine::new(), Turn::beside_others());
        fs::create_dir(machine.disk()).expect("the folder can be written");
        let size = format!("size={disk_mib}m,mode=700");
        let mut mount = Command::new("mount");
        run(mount
            .args(["-t", "tmpfs", "-o", &size, "dosvc-lab"])
            .arg(machine.disk()));
        machine
    }

    fn disk(&self) -> PathBuf {
        self.0.folder().join("disk")
    }

    fn daemon(&self, keep_free_percent: u8, policies: &str) -> Daemon {
        let tables = format!(
            "[cache]\nkeep_free_percent = {keep_free_percent}\n[discovery]\ndns_sd = false\n\
             [delivery_optimization]\nmodify_cache_drive = {:?}\n{policies}",
            self.disk()
        );
        Daemon::start_with(&self.0.node, "listen = [\"127.0.0.1:0\"]", &tables)
    }

    /// Bytes that are free, as the file system says.
    fn free(&self) -> u64 {
        let disk = rustix::fs::statvfs(self.disk()).expect("it is mounted");
        disk.f_bavail * disk.f_frsize
    }

    /// Somebody else's file on the disk.
    fn fill(&self, bytes: u64) -> PathBuf {
        let path = self.disk().join("somebody-elses");
        let length = usize::try_from(bytes).expect("it fits into memory");
        fs::write(&path, vec![1; length]).expect("there is room");
        path
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.disk()).status();
    }
}

fn held(daemon: &Daemon, content: &Content) -> Option<u64> {
    let file_id = content.swarm_hash().to_hex();
    let cache = daemon.cache();
    let entry = cache.iter().find(|entry| entry.file_id == file_id);
    entry.map(|entry| entry.file_size_in_cache)
}

fn wait_until_gone(daemon: &Daemon, content: &Content) {
    wait_for("the content to leave the cache", PATIENCE, || {
        held(daemon, content).is_none().then_some(())
    });
}

fn contents(seed: u64) -> [Content; 3] {
    [0, 1, 2].map(|n| Content::random(seed + n, CONTENT_BYTES))
}

fn refused(daemon: &Daemon, url: &str) -> String {
    let printed = daemon.start_get(url, &[]).fail();
    assert!(printed.contains(DISK_FULL), "{printed}");
    printed
}

#[test]
#[ignore = "needs root to mount a file system"]
fn last_part_of_a_disk_stays_free_and_the_oldest_content_goes_for_a_new_one() {
    let (machine, origin) = (Machine::new(256), Origin::start());
    let [first, second, _] = contents(40);
    let huge = Content::sparse(40, 300 * MIB, MIB);
    // 192 MiB may be taken: one content, not two.
    let daemon = machine.daemon(25, "");
    daemon.get(&origin.url(&first.name), &first, &[]);
    assert_eq!(held(&daemon, &first), Some(first.bytes));
    let in_cache = machine.disk().join(first.swarm_hash().to_hex());
    assert!(in_cache.join("data").exists(), "the cache lies on the disk");
    daemon.get(&origin.url(&second.name), &second, &[]);
    assert!(machine.free() >= 64 * MIB, "{}", machine.free());
    assert_eq!(held(&daemon, &first), None, "it made room");
    // What can never fit drives nothing out.
    let printed = refused(&daemon, &origin.url(&huge.name));
    assert!(printed.contains("cache.keep_free_percent"), "{printed}");
    assert_eq!(held(&daemon, &second), Some(second.bytes));
    assert_eq!(origin.bytes_sent(&huge.name), 0);
}

#[test]
#[ignore = "needs root to mount a file system"]
fn two_downloads_that_begin_together_do_not_count_on_the_same_room() {
    let machine = Machine::new(256);
    let origin = Origin::with_gate(16 * MIB);
    let [first, second, _] = contents(40);
    let daemon = machine.daemon(25, "");
    let mut running = daemon.start_get(&origin.url(&first.name), &[]);
    daemon.wait_for_bytes(&mut running, 1);
    let printed = refused(&daemon, &origin.url(&second.name));
    assert!(printed.contains("the downloads that run"), "{printed}");
    origin.open_gate();
    first.assert_same(&running.finish().output);
    assert!(machine.free() >= 64 * MIB, "{}", machine.free());
}

#[test]
#[ignore = "needs root to mount a file system"]
fn others_that_fill_the_disk_stop_a_download_in_time_and_it_goes_on_later() {
    let machine = Machine::new(256);
    let origin = Origin::with_gate(16 * MIB);
    let [content, ..] = contents(40);
    let daemon = machine.daemon(25, "");
    let mut running = daemon.start_get(&origin.url(&content.name), &[]);
    daemon.wait_for_bytes(&mut running, 8 * MIB);
    let file = machine.fill(120 * MIB);
    let printed = running.fail();
    assert!(printed.contains(DISK_FULL), "{printed}");
    assert!(machine.free() >= 64 * MIB, "{}", machine.free());
    fs::remove_file(file).expect("it was just written");
    origin.open_gate();
    let result = daemon.get(&origin.url(&content.name), &content, &[]);
    assert!(
        result.status.bytes_from_cache >= 8 * MIB,
        "{:?}",
        result.status
    );
}

/// Nothing is downloaded then: whoever needs the space gets it all the same.
#[test]
#[ignore = "needs root to mount a file system"]
fn cache_gives_way_when_others_fill_the_disk_of_an_idle_daemon() {
    let (machine, origin) = (Machine::new(256), Origin::start());
    let [content, pinned, _] = contents(40);
    let small = Content::random(43, 24 * MIB);
    let daemon = machine.daemon(25, "min_file_size_to_cache = 10");
    for content in [&content, &small] {
        daemon.get(&origin.url(&content.name), content, &[]);
    }
    // Pinned content is outside of every quota, but not of the disk: nothing new is taken for it.
    daemon.command(&["cache", "pin", &small.swarm_hash().to_hex()]);
    let file = machine.fill(100 * MIB);
    wait_until_gone(&daemon, &content);
    assert!(machine.free() >= 64 * MIB, "{}", machine.free());
    assert_eq!(held(&daemon, &small), Some(small.bytes), "it is pinned");
    refused(&daemon, &origin.url(&pinned.name));
    fs::remove_file(file).expect("it was just written");
    // A pin lasts a year at most.
    let entry = daemon.cache().into_iter().find(|e| e.is_pinned);
    let until = entry.and_then(|e| e.expire_on).expect("it ends");
    let year = jiff::Timestamp::now().as_second() + 366 * 86_400;
    assert!(until < year, "{until}");
}

#[test]
#[ignore = "needs root to mount a file system"]
fn import_takes_no_more_than_there_is_room_for() {
    let (machine, origin) = (Machine::new(256), Origin::start());
    let [first, second, third] = contents(40);
    let daemon = machine.daemon(25, "max_cache_size = 60");
    daemon.get(&origin.url(&first.name), &first, &[]);
    let import = |content: &Content| {
        let path = crate::content::folder().join(&content.name);
        let path = path.to_str().expect("its name is plain");
        let hash_file = machine.0.folder().join(format!("{}.phf", content.name));
        let hash_file = hash_file.to_str().expect("its name is plain");
        daemon.output(&["publish", path, "--seed", "--out", hash_file])
    };
    // There is room for one: the older content goes.
    let output = import(&second);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(held(&daemon, &second), Some(second.bytes));
    wait_until_gone(&daemon, &first);
    assert!(machine.free() >= 64 * MIB, "{}", machine.free());
    // Now there is none, and nothing that goes for it.
    let file = machine.fill(64 * MIB);
    daemon.command(&["cache", "pin", &second.swarm_hash().to_hex()]);
    let output = import(&third);
    assert!(!output.status.success(), "{output:?}");
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(printed.contains(DISK_FULL), "{printed}");
    assert_eq!(held(&daemon, &third), None);
    fs::remove_file(file).expect("it was just written");
    // Larger than the cache may ever be.
    let output = import(&Content::sparse(44, 160 * MIB, MIB));
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(printed.contains("max_cache_size"), "{printed}");
}

#[test]
#[ignore = "needs root to mount a file system"]
fn nothing_kept_free_means_that_the_disk_says_when_it_is_full() {
    let (machine, origin) = (Machine::new(64), Origin::start());
    let [content, ..] = contents(40);
    let small = Content::random(43, 24 * MIB);
    let daemon = machine.daemon(0, "min_file_size_to_cache = 10");
    refused(&daemon, &origin.url(&content.name));
    let kept = held(&daemon, &content).expect("what fitted is kept");
    assert!(kept >= 32 * MIB, "{kept}");
    // It makes room for what fits.
    daemon.get(&origin.url(&small.name), &small, &[]);
}

#[test]
#[ignore = "needs root to mount a file system"]
fn share_of_the_available_space_and_age_bound_the_cache() {
    let (machine, origin) = (Machine::new(512), Origin::start());
    let [first, second, _] = contents(40);
    // 150 MiB: one content, and not two.
    let mut daemon = machine.daemon(10, "max_cache_size = 30");
    let bytes_max = daemon.status().cache_bytes_max;
    assert!(bytes_max.abs_diff(153 * MIB) < 4 * MIB, "{bytes_max}");
    for content in [&first, &second] {
        daemon.get(&origin.url(&content.name), content, &[]);
    }
    wait_until_gone(&daemon, &first);
    assert_eq!(held(&daemon, &second), Some(second.bytes));
    // What the cache takes itself counts as available.
    assert!(daemon.status().cache_bytes_max.abs_diff(bytes_max) < MIB);
    daemon.end();
    let daemon = machine.daemon(10, "max_cache_age = 1");
    wait_until_gone(&daemon, &second);
}

#[test]
#[ignore = "needs root to mount a file system"]
fn size_in_gigabytes_stands_for_the_share() {
    let (machine, origin) = (Machine::new(2048), Origin::start());
    let [first, second] = [50, 51].map(|n| Content::sparse(n, 600 * MIB, MIB));
    let policies = "max_cache_size = 100\nabsolute_max_cache_size = 1";
    let daemon = machine.daemon(10, policies);
    assert_eq!(daemon.status().cache_bytes_max, 1024 * MIB);
    for content in [&first, &second] {
        let output = daemon.get(&origin.url(&content.name), content, &[]).output;
        remove(&output);
    }
    wait_until_gone(&daemon, &first);
    assert_eq!(held(&daemon, &second), Some(second.bytes));
}

#[test]
#[ignore = "needs root to mount a file system"]
fn cache_that_moves_takes_effect_at_the_next_start_and_leaves_what_it_had() {
    let (machine, origin) = (Machine::new(256), Origin::start());
    let [content, ..] = contents(40);
    let mut daemon = Daemon::start_with(
        &machine.0.node,
        "listen = [\"127.0.0.1:0\"]",
        "[discovery]\ndns_sd = false",
    );
    daemon.get(&origin.url(&content.name), &content, &[]);
    daemon.configure(&format!("modify_cache_drive = {:?}", machine.disk()));
    wait_for("the change to be noticed", PATIENCE, || {
        let log = daemon.log();
        log.contains("takes effect after a restart").then_some(())
    });
    assert_eq!(held(&daemon, &content), Some(content.bytes));
    daemon.end();
    daemon.restart();
    assert_eq!(daemon.status().cache_dir, machine.disk());
    assert!(
        daemon.log().contains("stay there, unused"),
        "{}",
        daemon.log()
    );
    assert_eq!(held(&daemon, &content), None);
    let old = machine.0.node.dir().join("state/cache");
    assert!(old.join(content.swarm_hash().to_hex()).exists());
}

fn remove(path: &Path) {
    fs::remove_file(path).expect("it was just written");
}
