//! What the program promises on one machine: no root, no network but loopback.

use crate::{
    content::Content,
    daemon::{Daemon, dosvc, write_config},
    machine,
    namespace::Node,
    origin::Origin,
    process::wait_for,
};
use dosvc_engine::api::JobStatus;
use rustix::process::Signal;
use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
    time::Duration,
};

const MIB: u64 = 1 << 20;
/// Above the size from which on contents are shared at all.
const CONTENT_BYTES: u64 = 24 * MIB + 12_345;
const PORT_OF_ITS_OWN: &str = "listen = [\"127.0.0.1:0\"]";
/// Small contents are shared, and multicast, which other tests would hear, is not used.
const TABLES: &str = "[delivery_optimization]\nmin_file_size_to_cache = 10\nmin_ram_allowed_to_peer = 1\n\
    min_disk_size_allowed_to_peer = 1\n[discovery]\ndns_sd = false";

/// A machine's folder, gone when the test is over.
struct Machine(machine::Machine);

impl Machine {
    fn new() -> Self {
        Self(machine::Machine::new())
    }

    fn node(&self) -> &Node {
        &self.0.node
    }

    fn daemon(&self) -> Daemon {
        Daemon::start_with(self.node(), PORT_OF_ITS_OWN, TABLES)
    }

    /// The program with a configuration of the machine's own, no daemon running.
    fn alone(&self, arguments: &[&str]) -> Command {
        let mut command = dosvc(
            self.node(),
            &write_config(self.node(), PORT_OF_ITS_OWN, TABLES),
        );
        command.args(arguments).current_dir(self.node().dir());
        command
    }

    fn file(&self, name: &str) -> PathBuf {
        self.node().dir().join(name)
    }
}

fn content(seed: u64) -> Content {
    Content::random(seed, CONTENT_BYTES)
}

fn text(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn final_state(output: &Output) -> JobStatus {
    let printed = String::from_utf8_lossy(&output.stdout);
    let last = printed.lines().next_back().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {}", text(output)))
}

#[test]
fn get_without_a_daemon_writes_the_whole_file_and_says_where_it_came_from() {
    let (machine, origin, content) = (Machine::new(), Origin::start(), content(20));
    let output = machine
        .alone(&["get", &origin.url(&content.name), "-o", "file", "--json"])
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{}", text(&output));
    content.assert_same(&machine.file("file"));
    let state = final_state(&output);
    assert!(state.verified_by_hash_file, "{state:?}");
    assert_eq!(state.downloaded.http, content.bytes);
    assert_eq!(state.downloaded.total(), content.bytes);
    assert_eq!(
        origin.bytes_sent(&content.name),
        content.bytes,
        "nothing is fetched twice"
    );
}

#[test]
fn daemon_takes_the_content_from_a_peer_when_the_origin_stands_still() {
    let (first, second, content) = (Machine::new(), Machine::new(), content(20));
    let origin = Origin::start();
    let url = origin.url(&content.name);
    let seed = first.daemon();
    seed.get(&url, &content, &[]);
    seed.wait_until_shared(&content);
    origin.shut_gate();
    let peer = seed.status().listening[0].to_string();

    let leech = second.daemon();
    let result = leech.get(&url, &content, &["--peer", &peer]);
    assert_eq!(
        result.status.downloaded.peers(),
        content.bytes,
        "{:?}\n{}",
        result.status,
        leech.log()
    );
    let uploaded = seed.status().uploaded;
    assert_eq!(uploaded.total(), content.bytes, "{uploaded:?}");
}

#[test]
fn missing_content_fails_with_a_code_and_leaves_no_file() {
    let (machine, origin) = (Machine::new(), Origin::start());
    let output = machine
        .alone(&["get", &origin.url("no-such-file"), "-o", "file"])
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(
        text(&output).contains("0x80"),
        "an HRESULT is named: {}",
        text(&output)
    );
    assert!(!machine.file("file").exists());
}

#[test]
fn interrupted_get_leaves_no_half_file_and_goes_on_where_it_stopped() {
    let (machine, content) = (Machine::new(), content(21));
    let origin = Origin::with_gate(content.bytes / 2);
    let url = origin.url(&content.name);
    let before: Vec<_> = names_in(machine.node().dir());
    let mut get = crate::process::Process::start(
        &mut machine.alone(&["get", &url, "-o", "file"]),
        &machine.file("get.log"),
    );
    wait_for("half of the content", Duration::from_secs(60), || {
        (origin.bytes_sent(&content.name) == content.bytes / 2).then_some(())
    });
    get.signal(Signal::INT);
    wait_for(
        "the interrupted command to end",
        Duration::from_secs(30),
        || (!get.is_running()).then_some(()),
    );
    assert_eq!(get.kill().code(), Some(130), "{}", get.printed());
    let left: Vec<_> = names_in(machine.node().dir())
        .into_iter()
        .filter(|name| !before.contains(name))
        .collect();
    assert!(
        left.iter()
            .all(|name| ["dosvc.toml", "state", "get.log"].contains(&name.as_str())),
        "left: {left:?}"
    );

    origin.open_gate();
    let output = machine
        .alone(&["get", &url, "-o", "file", "--json"])
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{}", text(&output));
    content.assert_same(&machine.file("file"));
    // Pieces that were in flight are fetched again, whole ones are not.
    let state = final_state(&output);
    assert!(state.bytes_from_cache > 0, "nothing was kept: {state:?}");
    assert_eq!(
        state.bytes_from_cache + state.downloaded.http,
        content.bytes,
        "{state:?}"
    );
}

fn names_in(folder: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the folder is there");
    entries
        .map(|entry| {
            entry
                .expect("it can be read")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect()
}

#[test]
fn killed_daemon_goes_on_where_it_was_and_the_waiting_get_with_it() {
    let (machine, content) = (Machine::new(), content(22));
    let origin = Origin::with_gate(content.bytes / 2);
    let mut daemon = machine.daemon();
    let get = daemon.start_get(&origin.url(&content.name), &[]);
    wait_for("half of the content", Duration::from_secs(60), || {
        (origin.bytes_sent(&content.name) == content.bytes / 2).then_some(())
    });
    daemon.kill();
    origin.open_gate();
    daemon.restart();
    let result = get.finish();
    content.assert_same(&result.output);
}

#[test]
fn content_without_a_hash_file_comes_by_plain_http_and_is_not_shared() {
    let (machine, origin) = (Machine::new(), Origin::start());
    let content = Content::without_hash_file(23, CONTENT_BYTES);
    let daemon = machine.daemon();
    let result = daemon.get(&origin.url(&content.name), &content, &[]);
    let state = result.status;
    assert!(
        !state.verified_by_hash_file && state.download_mode == 99,
        "{state:?}"
    );
    assert!(!state.notes.is_empty(), "the caller is told: {state:?}");
    assert!(daemon.cache().iter().all(|entry| !entry.shared));
}

#[test]
fn bypass_mode_refuses_with_its_code() {
    let (machine, origin, content) = (Machine::new(), Origin::start(), content(20));
    let config = write_config(
        machine.node(),
        PORT_OF_ITS_OWN,
        "[delivery_optimization]\ndownload_mode = 100",
    );
    let mut command = dosvc(machine.node(), &config);
    let output = command
        .args(["get", &origin.url(&content.name), "-o"])
        .arg(machine.file("file"))
        .output();
    let output = output.expect("it runs");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("0x80D03002"), "{}", text(&output));
    assert!(!machine.file("file").exists());
}

#[test]
fn state_folder_has_one_daemon() {
    let machine = Machine::new();
    let daemon = machine.daemon();
    let output = dosvc(machine.node(), daemon.config())
        .arg("run")
        .output()
        .expect("it runs");
    assert!(!output.status.success(), "{}", text(&output));
    let pid = daemon.status().pid;
    assert!(pid > 0, "the first one is as before");
}

#[test]
fn sigterm_ends_the_daemon_well_and_what_it_held_is_there_again() {
    let (machine, origin, content) = (Machine::new(), Origin::start(), content(20));
    let mut daemon = machine.daemon();
    daemon.get(&origin.url(&content.name), &content, &[]);
    daemon.wait_until_shared(&content);
    let end = daemon.end();
    assert!(end.success(), "{end}\n{}", daemon.log());
    daemon.restart();
    daemon.wait_until_shared(&content);
    fs::remove_file(machine.file(&content.name)).expect("get wrote it");
    let again = daemon.get(&origin.url(&content.name), &content, &[]);
    assert_eq!(
        again.status.downloaded.total(),
        0,
        "all of it is in the cache: {:?}",
        again.status
    );
}

#[test]
fn same_content_asked_for_twice_is_fetched_once() {
    let (machine, origin, content) = (Machine::new(), Origin::start(), content(20));
    let daemon = machine.daemon();
    let url = origin.url(&content.name);
    let other = format!("{url}?again");
    let gets = [daemon.start_get(&url, &[]), daemon.start_get(&other, &[])];
    for get in gets {
        content.assert_same(&get.finish().output);
    }
    assert_eq!(origin.bytes_sent(&content.name), content.bytes);
}
