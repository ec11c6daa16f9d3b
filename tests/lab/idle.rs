//! What a daemon costs that holds much and does nothing.

use crate::{
    content::{self, Content, is_full},
    daemon::Daemon,
    namespace::Lab,
    nginx::Nginx,
    turns::Turn,
};
use std::{fs, thread, time::Duration};

const CONTENTS: u64 = 10;
/// Memory that nothing but the daemon needs.
const OWN_KIB_MAX: u64 = 10 << 10;
/// With its code, which other processes share and the system takes back: a third less of it in a release build than in one
/// that is made quickly.
const RESIDENT_KIB_MAX: u64 = 30 << 10;
/// Work that downloads and a start leave behind may take a while; it has to come to an end.
const SETTLE: Duration = Duration::from_secs(15);
const IDLE: Duration = Duration::from_secs(20);
/// Clock ticks of 10 ms in that time: a thousandth of a processor.
const TICKS_MAX: u64 = 2;

#[test]
#[ignore = "needs root and network namespaces"]
fn ten_large_contents_held_cost_little_memory_and_no_time() {
    let _alone = Turn::alone();
    // The quick contents have as many pieces as the large ones: that is what memory depends on.
    let (bytes, piece_bytes) = if is_full() {
        (4 << 30, 1 << 20)
    } else {
        (256 << 20, 64 << 10)
    };
    let lab = Lab::new(2, None);
    let nginx = Nginx::start(lab.at(0), &content::folder());
    let mut daemon = Daemon::start(lab.at(1), "max_cache_size = 100");
    let contents: Vec<Content> = (0..CONTENTS)
        .map(|n| Content::sparse(n, bytes, piece_bytes))
        .collect();
    for content in &contents {
        let result = daemon.get(&nginx.url(&content.name), content, &[]);
        fs::remove_file(result.output).expect("it was just written");
    }
    contents
        .iter()
        .for_each(|content| daemon.wait_until_shared(content));
    thread::sleep(SETTLE);
    let after_downloads = resident_kib(daemon.pid());

    daemon.end();
    daemon.restart();
    contents
        .iter()
        .for_each(|content| daemon.wait_until_shared(content));
    thread::sleep(SETTLE);
    let before = ticks(daemon.pid());
    thread::sleep(IDLE);
    let ticks = ticks(daemon.pid()) - before;
    let after_start = resident_kib(daemon.pid());
    println!(
        "KiB, without and with code: {after_downloads:?} after the downloads, {after_start:?} after a start; {ticks} ticks in {IDLE:?}"
    );
    for [own, all] in [after_downloads, after_start] {
        assert!(own <= OWN_KIB_MAX, "{own} KiB of its own");
        assert!(all <= RESIDENT_KIB_MAX, "{all} KiB resident");
    }
    assert!(
        ticks <= TICKS_MAX,
        "{ticks} clock ticks in {IDLE:?} of doing nothing"
    );
}

/// Resident memory: of the program itself, and in all, its code included.
fn resident_kib(pid: u32) -> [u64; 2] {
    ["RssAnon:", "VmRSS:"].map(|field| status_kib(pid, field))
}

fn status_kib(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .expect("the kernel counts it");
    line.trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number")
}

/// User and system time of all threads.
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the daemon runs");
    // The name in parentheses may have spaces in it; time is the 14th and 15th field of all.
    let (_, fields) = stat.rsplit_once(") ").expect("the name's end");
    let fields: Vec<&str> = fields.split(' ').collect();
    [fields[11], fields[12]]
        .map(|field| field.parse::<u64>().expect("a number"))
        .iter()
        .sum()
}
