//! What a daemon costs that holds much and does nothing.

use crate::{
    content::{self, Content, is_full},
    daemon::Daemon,
    namespace::Lab,
    nginx::Nginx,
};
use std::{fs, thread, time::Duration};

const CONTENTS: u64 = 10;
const RESIDENT_KIB_MAX: u64 = 30 << 10;
/// Work that downloads and a start leave behind may take a while; it has to come to an end.
const SETTLE: Duration = Duration::from_secs(15);
const IDLE: Duration = Duration::from_secs(20);
/// Clock ticks of 10 ms in that time: a thousandth of a processor.
const TICKS_MAX: u64 = 2;

#[test]
#[ignore = "needs root and network namespaces"]
fn ten_large_contents_held_cost_little_memory_and_no_time() {
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
        "{after_downloads} KiB after the downloads, {after_start} KiB after a start; {ticks} ticks in {IDLE:?}"
    );
    assert!(
        after_start <= RESIDENT_KIB_MAX,
        "{after_start} KiB resident after a start"
    );
    assert!(
        after_downloads <= RESIDENT_KIB_MAX,
        "{after_downloads} KiB resident after the downloads"
    );
    assert!(
        ticks <= TICKS_MAX,
        "{ticks} clock ticks in {IDLE:?} of doing nothing"
    );
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
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
