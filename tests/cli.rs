//! The command as people and scripts meet it: what it prints, what it leaves behind, how it exits.

#![allow(clippy::unwrap_used, reason = "tests")]

mod place;

use place::{Place, code, json, mode, stderr, stdout, wait_until};
use serde_json::Value;
use std::{
    fs,
    net::TcpListener,
    os::unix::fs::MetadataExt as _,
    process::{Child, Command, Stdio},
    thread,
};

#[test]
fn bad_usage_exits_with_64_and_help_with_0() {
    let place = Place::new();
    for arguments in [
        &["fly"][..],
        &["get"],
        &["get", "http://h/"],
        &["mode", "7"],
        &["publish", "x", "--piece-size", "3MB"],
        &["teredo"],
        &["teredo", "server", "--primary", "2001::1"],
        &["teredo", "server", "--primary", "10.0.0.1"],
        &["teredo", "server", "--primary", "223.255.255.255"],
        &[
            "teredo",
            "server",
            "--primary",
            "198.51.100.10",
            "--secondary",
            "198.51.100.10",
        ],
        &["teredo", "relay", "--address", "127.0.0.1"],
        &["teredo", "client"],
        &["teredo", "client", "--server", "192.168.1.1"],
        &["teredo", "ping", "198.51.100.10"],
    ] {
        let output = place.run(arguments);
        assert_eq!(code(&output), 64, "{arguments:?}: {}", stderr(&output));
    }
    for arguments in [&["--help"][..], &["get", "--help"], &["--version"]] {
        assert_eq!(code(&place.run(arguments)), 0, "{arguments:?}");
    }
}

#[test]
fn who_asks_a_teredo_client_that_is_not_there_is_told_how_to_start_one() {
    let place = Place::new();
    for arguments in [
        &["teredo", "ping", "2001:0:c633:640a::1"][..],
        &["teredo", "status", "--control", "none.sock"],
    ] {
        let output = place.run(arguments);
        assert_eq!(code(&output), 1, "{arguments:?}");
        let text = stderr(&output);
        let told = text.contains("no `dosvc teredo client` answers") && text.contains("--control");
        assert!(told && !text.contains("dosvc run"), "{text}");
    }
}

#[test]
fn check_names_every_mistake_at_once_and_exits_with_64() {
    let place = Place::new();
    assert_eq!(code(&place.run(&["run", "--check"])), 0);
    fs::write(
        place.path("dosvc.toml"),
        "[daemon]\nlisten = 7\nno_such_key = 1\n[discovery]\ndns_sd = 3\n",
    )
    .unwrap();
    let output = place.run(&["run", "--check"]);
    assert_eq!(code(&output), 64);
    let text = stderr(&output);
    for place in ["dosvc.toml:2:", "dosvc.toml:3:", "dosvc.toml:5:"] {
        assert!(text.contains(place), "{text}");
    }
    assert_eq!(code(&place.run(&["run"])), 64);
}

#[test]
fn sample_configuration_is_right() {
    let place = Place::new();
    let sample = place.run(&["config", "--sample"]);
    fs::write(place.path("dosvc.toml"), sample.stdout).unwrap();
    let output = place.run(&["run", "--check"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
}

#[test]
fn published_file_verifies_until_a_byte_of_it_changes() {
    let place = Place::new();
    let mut content = place.file("f.bin", 300_000);
    let published = json(&place.run(&["publish", "f.bin", "--piece-size", "64KB", "--json"]));
    assert_eq!(
        (
            published["pieces"].as_u64(),
            published["file_size"].as_u64()
        ),
        (Some(5), Some(300_000))
    );
    let hash = published["hash_of_hashes"].as_str().unwrap();
    assert_eq!(
        code(&place.run(&["verify", "f.bin", "--hash-of-hashes", hash])),
        0
    );

    content[200_000] ^= 1;
    fs::write(place.path("f.bin"), &content).unwrap();
    let output = place.run(&["verify", "f.bin"]);
    assert_eq!(code(&output), 1);
    assert!(
        stdout(&output).contains("piece 3 (bytes 196608 to 262143)"),
        "{}",
        stdout(&output)
    );
    assert_eq!(
        json(&place.run(&["verify", "f.bin", "--json"]))["bad_pieces"],
        serde_json::json!([3])
    );

    content.truncate(1000);
    fs::write(place.path("f.bin"), &content).unwrap();
    let output = place.run(&["verify", "f.bin"]);
    assert_eq!(code(&output), 1);
    assert!(
        stdout(&output).contains("has 1000 bytes where 300000 are expected"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn without_a_daemon_the_commands_that_need_one_say_so() {
    let place = Place::new();
    for arguments in [
        &["status"][..],
        &["cache", "list"],
        &["mode"],
        &["pause", "1"],
    ] {
        let output = place.run(arguments);
        assert_eq!(code(&output), 1, "{arguments:?}");
        assert!(
            stderr(&output).contains("no daemon answers"),
            "{}",
            stderr(&output)
        );
    }
    assert_eq!(code(&place.run(&["config"])), 0);
}

#[test]
fn destination_is_checked_before_anything_else() {
    let place = Place::new();
    let output = place.run(&["get", "http://127.0.0.1:9/x", "-o", "no/such/folder/x"]);
    assert_eq!(code(&output), 1);
    assert!(
        stderr(&output).contains("does not exist"),
        "{}",
        stderr(&output)
    );
    assert!(!place.path("state").exists(), "nothing was started");
}

#[test]
fn daemon_guards_its_socket_serves_and_drains() {
    let place = Place::new();
    let daemon = place.daemon();
    assert_eq!(mode(&place.path("api.sock")), 0o600);
    let second = place.run(&["run"]);
    assert_eq!(code(&second), 1);
    assert!(
        stderr(&second).contains("in use by another dosvc"),
        "{}",
        stderr(&second)
    );

    let content = place.file("f.bin", 3_000_000);
    let seeded = json(&place.run(&["publish", "f.bin", "--seed", "--json"]));
    assert_eq!(seeded["seeded"]["file_size"], 3_000_000);
    // From the cache alone: no address was given.
    let output = place.run(&["get", "--hash-file", "f.bin.phf", "-o", "out.bin", "--json"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let last = stdout(&output).lines().last().map(str::to_owned).unwrap();
    let last: Value = serde_json::from_str(&last).unwrap();
    assert_eq!(
        (&last["state"], &last["bytes_done"]),
        (&"complete".into(), &3_000_000.into())
    );
    assert!(fs::read(place.path("out.bin")).unwrap() == content);
    assert_eq!(mode(&place.path("out.bin")), mode(&place.path("f.bin")));

    let status = json(&place.run(&["status", "--json", "--peer-info"]));
    assert_eq!(status["Files"][0]["Status"], "Caching");
    let file_id = status["Files"][0]["FileId"].as_str().unwrap().to_owned();
    assert_eq!(code(&place.run(&["cache", "pin", &file_id[..10]])), 0);
    let refused = place.run(&["cache", "delete", &file_id]);
    assert_eq!(code(&refused), 1);
    assert!(
        stderr(&refused).contains("0x80D06819"),
        "{}",
        stderr(&refused)
    );
    assert_eq!(
        code(&place.run(&["cache", "delete", &file_id, "--include-pinned"])),
        0
    );
    assert_eq!(
        json(&place.run(&["cache", "list", "--json"])),
        serde_json::json!([])
    );

    assert_eq!(
        json(&place.run(&["mode", "0", "--json"]))["Name"],
        "CdnOnly"
    );
    daemon.signal("TERM");
    let (code, log) = daemon.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(!place.path("api.sock").exists(), "{log}");
}

/// `api_socket` and `state_dir` are where every other test finds them.
#[test]
fn log_and_socket_are_as_configured() {
    let place = Place::new();
    let path = place.path("dosvc.toml");
    let text = fs::read_to_string(&path).unwrap();
    let own_group = fs::metadata(&path).unwrap().gid();
    let more = format!(
        "log_format = \"json\"\nlog_level = \"warn,dosvc_engine=info\"\napi_group = \"{own_group}\"\n"
    );
    fs::write(
        &path,
        text.replace("[discovery]", &format!("{more}[discovery]")),
    )
    .unwrap();
    let daemon = place.daemon();
    assert_eq!(mode(&place.path("api.sock")), 0o660);
    assert_eq!(
        fs::metadata(place.path("api.sock")).unwrap().gid(),
        own_group
    );
    daemon.signal("TERM");
    let (code, log) = daemon.end();
    assert_eq!(code, Some(0), "{log}");
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let said = |target: &str| {
        lines
            .iter()
            .any(|line| line["target"].as_str() == Some(target))
    };
    assert!(said("dosvc_engine::engine"), "{log}");
    assert!(!said("dosvc::run"), "{log}");
}

#[test]
fn reload_takes_a_right_configuration_and_refuses_a_faulty_one() {
    let place = Place::new();
    let daemon = place.daemon();
    let right = fs::read_to_string(place.path("dosvc.toml")).unwrap();
    let mode =
        || json(&place.run(&["mode", "--json", "--socket", "api.sock"]))["DownloadMode"].clone();
    fs::write(
        place.path("dosvc.toml"),
        format!("{right}[delivery_optimization]\ndownload_mode = 0\n"),
    )
    .unwrap();
    daemon.signal("HUP");
    wait_until("the new mode is in force", || mode() == 0);
    fs::write(
        place.path("dosvc.toml"),
        format!("{right}[delivery_optimization]\ndownload_mode = 7\n"),
    )
    .unwrap();
    daemon.signal("HUP");
    wait_until("the faulty one is refused", || {
        daemon.log().contains("the old one stays in force")
    });
    assert_eq!(mode(), 0);
}

#[test]
fn ctrl_c_leaves_no_file_under_the_final_name_and_exits_with_130() {
    let place = Place::new();
    for with_daemon in [false, true] {
        let daemon = with_daemon.then(|| place.daemon());
        // A server that takes requests and never answers.
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/x.bin", server.local_addr().unwrap());
        let get = place.start(&["get", &url, "-o", "x.bin"]);
        let (_connection, _) = server.accept().unwrap();
        get.signal("INT");
        let (code, text) = get.end();
        assert_eq!(code, Some(130), "{text}");
        assert!(text.contains("the same command goes on"), "{text}");
        assert!(!place.path("x.bin").exists());
        drop(daemon);
    }
}

#[test]
fn output_that_nobody_reads_any_more_is_no_error() {
    let place = Place::new();
    let mut command = place.command(&["config", "--sample"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn demo_moves_a_file_to_every_peer_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_dosvc"))
        .args(["demo", "--size", "4MB", "--peers", "2", "--json"])
        .env("TMPDIR", folder.path())
        .output()
        .unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let outcome = json(&output);
    assert_eq!(
        (
            &outcome["verified"],
            outcome["peers"].as_array().map(Vec::len)
        ),
        (&true.into(), Some(2))
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn json_ends_with_an_error_object_when_a_command_fails() {
    let place = Place::new();
    place.file("f.bin", 1000);
    fs::write(place.path("not-a-folder"), "x").unwrap();
    for arguments in [
        &["get", "http://127.0.0.1:9/x", "-o", "no/such/x", "--json"][..],
        &["get", "ftp://h/x", "-o", "x", "--json"],
        &[
            "get",
            "http://127.0.0.1:9/x",
            "-o",
            "x",
            "--mode",
            "3",
            "--json",
        ],
        &["publish", "missing", "--json"],
        &["publish", "/dev/zero", "--json"],
        &["publish", "f.bin", "--out", "not-a-folder/x", "--json"],
        &["verify", "f.bin", "--json"],
        &["verify", "f.bin", "--hash-file", "f.bin", "--json"],
        &["status", "--json"],
        &["cache", "list", "--json"],
        &["mode", "--json"],
    ] {
        let output = place.run(arguments);
        assert_eq!(code(&output), 1, "{arguments:?}: {}", stderr(&output));
        let last = stdout(&output).lines().last().map(str::to_owned);
        let last: Value = serde_json::from_str(&last.unwrap_or_default())
            .unwrap_or_else(|e| panic!("{arguments:?}: {e}: {}", stdout(&output)));
        let message = last["error"]["message"].as_str().unwrap_or_default();
        assert!(!message.is_empty(), "{arguments:?}: {last}");
        assert!(!stderr(&output).is_empty(), "{arguments:?}");
    }
}

/// Over plain HTTP with hard links one of two at once was told that somebody had changed the file.
#[test]
fn two_downloads_of_one_address_at_once_both_get_the_file() {
    let place = Place::new();
    let _daemon = place.daemon();
    let content = place.file("f.bin", 2_000_000);
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/f.bin", server.local_addr().unwrap());
    thread::spawn(move || {
        for stream in server.incoming() {
            let content = content.clone();
            thread::spawn(move || serve(&mut stream.unwrap(), &content));
        }
    });
    let names = ["one", "two", "three", "four"];
    let running: Vec<Child> = names
        .iter()
        .map(|name| {
            let mut command = place.command(&["get", &url, "-o", name, "--quiet"]);
            command.stderr(Stdio::inherit()).spawn().unwrap()
        })
        .collect();
    for (mut get, name) in running.into_iter().zip(names) {
        assert!(get.wait().unwrap().success(), "{name}");
        assert!(fs::read(place.path(name)).unwrap() == fs::read(place.path("f.bin")).unwrap());
    }
}

/// Answers requests for `/f.bin` on one connection, whole, and nothing else.
fn serve(stream: &mut std::net::TcpStream, content: &[u8]) {
    use std::io::{Read as _, Write as _};
    let mut head = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).unwrap_or(0) == 1 {
        head.push(byte[0]);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let found = head.starts_with(b"GET /f.bin HTTP");
        head.clear();
        let (status, body) = if found {
            ("200 OK", content)
        } else {
            ("404 Not Found", &[][..])
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\netag: \"1\"\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        if stream
            .write_all(answer.as_bytes())
            .and_then(|()| stream.write_all(body))
            .is_err()
        {
            return;
        }
    }
}

#[test]
fn empty_and_one_byte_files_are_published_seeded_and_fetched_under_any_name() {
    use std::os::unix::ffi::OsStrExt as _;
    let place = Place::new();
    let _daemon = place.daemon();
    for (name, bytes) in [("empty", 0), ("one byte", 1)] {
        let content = place.file(name, bytes);
        assert_eq!(code(&place.run(&["publish", name, "--seed"])), 0);
        assert_eq!(code(&place.run(&["verify", name])), 0);
        let out = std::ffi::OsStr::from_bytes(b"out \xff\xfe name");
        let hash_file = format!("{name}.phf");
        let mut get = place.command(&["get", "--hash-file", &hash_file, "--quiet"]);
        let output = get.arg("-o").arg(out).output().unwrap();
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert_eq!(fs::read(place.folder.path().join(out)).unwrap(), content);
        fs::remove_file(place.folder.path().join(out)).unwrap();
    }
}
