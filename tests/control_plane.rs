//! `dosvc control-plane` and `dosvc publish --to` as people and scripts meet them.

#![allow(clippy::unwrap_used, reason = "tests")]

mod place;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use dosvc_cloud_protocol::ContentPolicy;
use dosvc_content::{ContentId, PiecesHashFile};
use place::{Place, Running, code, json, stderr, stdout, wait_until};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
};

/// A control plane on free ports, and where clients and administrators find it.
fn start(place: &Place) -> (Running, String, String) {
    let text = fs::read_to_string(place.path("dosvc.toml")).unwrap();
    if !text.contains("control_plane") {
        let table =
            "[control_plane]\nlisten = [\"127.0.0.1:0\"]\nadmin_listen = [\"127.0.0.1:0\"]\n";
        fs::write(place.path("dosvc.toml"), format!("{text}{table}")).unwrap();
    }
    let plane = place.start(&["control-plane"]);
    let address = |log: &str, name: &str| {
        let at = log.find(&format!("{name}=\""))? + name.len() + 2;
        Some(log[at..].split('"').next()?.to_owned())
    };
    let mut addresses = None;
    wait_until("the control plane is ready", || {
        let log = plane.log();
        addresses = address(&log, "listening").zip(address(&log, "admin"));
        addresses.is_some()
    });
    let (clients, admin) = addresses.unwrap();
    (plane, clients, admin)
}

/// Status and body of a GET.
fn fetch(address: &str, path: &str) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let head = answer
        .windows(4)
        .position(|part| part == b"\r\n\r\n")
        .unwrap();
    let status = std::str::from_utf8(&answer[9..12])
        .unwrap()
        .parse()
        .unwrap();
    (status, answer[head + 4..].to_vec())
}

#[test]
fn a_content_is_published_signed_seen_and_revoked() {
    let place = Place::new();
    let (plane, clients, admin) = start(&place);
    place.file("f.bin", 3_000_000);
    let to = format!("http://{clients}");

    // Without a token nothing happens, and it says how to get one.
    let refused = place.run(&["publish", "f.bin", "--to", &to]);
    assert_eq!(code(&refused), 1);
    assert!(
        stderr(&refused).contains("token add"),
        "{}",
        stderr(&refused)
    );
    let token = place.run(&["control-plane", "token", "add", "build"]);
    assert_eq!(code(&token), 0, "{}", stderr(&token));
    fs::write(place.path("token"), stdout(&token)).unwrap();
    assert_eq!(
        code(&place.run(&["control-plane", "token", "add", "build"])),
        1,
        "the name is taken"
    );

    let key = Ed25519KeyPair::generate().unwrap();
    let pem = BASE64_STANDARD.encode(key.to_pkcs8v1().unwrap());
    fs::write(
        place.path("key.pem"),
        format!("-----BEGIN PRIVATE KEY-----\n{pem}\n-----END PRIVATE KEY-----\n"),
    )
    .unwrap();
    let published = place.run(&[
        "publish",
        "f.bin",
        "--url",
        "http://o.example/f.bin",
        "--to",
        &to,
        "--token-file",
        "token",
        "--sign",
        "key.pem",
        "--max-cache-age",
        "3600",
        "--json",
    ]);
    assert_eq!(code(&published), 0, "{}", stderr(&published));
    let published = json(&published);
    let id: ContentId = published["content_id"].as_str().unwrap().parse().unwrap();

    let (status, body) = fetch(&clients, &format!("/content/{id}/contentpolicy"));
    assert_eq!(status, 200);
    let policy = ContentPolicy::from_json(&body).unwrap();
    assert_eq!(
        policy.hash_of_hashes.to_string(),
        published["hash_of_hashes"].as_str().unwrap()
    );
    assert_eq!(policy.policies.max_cache_age_secs, Some(3600));
    let checked = UnparsedPublicKey::new(&ED25519, key.public_key().as_ref())
        .verify(&policy.signed_bytes(), &policy.publisher_signature.unwrap());
    assert!(checked.is_ok());
    // The hash file is where the policy says, and is the right one.
    let path = policy.pieces_hash_file_cdn_urls[0]
        .to_url()
        .path()
        .to_owned();
    let (status, file) = fetch(&clients, &path);
    assert_eq!(status, 200);
    assert_eq!(
        PiecesHashFile::from_json(&file).unwrap().hash_of_hashes(),
        policy.hash_of_hashes
    );

    let status = json(&place.run(&[
        "control-plane",
        "status",
        "--json",
        "--url",
        &format!("http://{admin}"),
    ]));
    assert_eq!(status["contents"], 1);
    let list = json(&place.run(&["control-plane", "content", "list", "--json"]));
    assert_eq!(
        (list[0]["publisher"].as_str(), list[0]["revoked"].as_bool()),
        (Some("build"), Some(false))
    );
    assert_eq!(
        code(&place.run(&["control-plane", "content", "revoke", id.as_str()])),
        0
    );
    assert_eq!(
        fetch(&clients, &format!("/content/{id}/contentpolicy")).0,
        404
    );
    assert_eq!(
        code(&place.run(&["control-plane", "token", "remove", "build"])),
        0
    );
    let refused = place.run(&["publish", "f.bin", "--to", &to, "--token-file", "token"]);
    assert!(stderr(&refused).contains("401"), "{}", stderr(&refused));

    plane.signal("TERM");
    let (code, log) = plane.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(place.path("state/control-plane/array.snapshot").exists());
}

#[test]
fn what_can_not_work_is_bad_usage() {
    let place = Place::new();
    for arguments in [
        &["control-plane", "--services", "geo,tracker"][..],
        &["control-plane", "--set", "control_plane.listen=0.0.0.0:0"],
        &["control-plane", "--set", "control_plane.certificate=/x"],
        &[
            "control-plane",
            "--set",
            "control_plane.peers_per_answer=256",
        ],
        &["publish", "f.bin", "--percent", "10"],
        &["publish", "f.bin", "--to", "ftp://x"],
    ] {
        let output = place.run(arguments);
        assert_eq!(code(&output), 64, "{arguments:?}: {}", stderr(&output));
    }
    assert_eq!(code(&place.run(&["control-plane", "--check"])), 0);
    let nobody = place.run(&["control-plane", "status", "--url", "http://127.0.0.1:1"]);
    assert_eq!(code(&nobody), 1);
    assert!(stderr(&nobody).contains("refused"), "{}", stderr(&nobody));
}

/// A store that is away costs what it holds, and nothing else; whoever asks is told which one it is.
#[test]
fn stores_that_are_out_of_reach_are_named() {
    let place = Place::new();
    let text = fs::read_to_string(place.path("dosvc.toml")).unwrap();
    let table = "[control_plane]\nlisten = [\"127.0.0.1:0\"]\nadmin_listen = [\"127.0.0.1:0\"]\n\
                 redis = [\"unix:///nonexistent/redis\"]\n\
                 postgres = \"postgresql://do@%2Fnonexistent/do\"\n";
    fs::write(place.path("dosvc.toml"), format!("{text}{table}")).unwrap();
    let token = place.run(&["control-plane", "token", "list"]);
    assert_eq!(code(&token), 1);
    let said = stderr(&token);
    assert!(
        said.contains("PostgreSQL") && said.contains("nonexistent"),
        "{said}"
    );

    let (plane, clients, admin) = start(&place);
    assert_eq!(fetch(&clients, "/geo").0, 200);
    assert_eq!(fetch(&clients, "/readyz").0, 503);
    assert_eq!(fetch(&clients, "/content/x/contentpolicy").0, 503);
    let url = format!("http://{admin}");
    let status = place.run(&["control-plane", "status", "--url", &url]);
    assert!(
        stdout(&status).contains("OUT OF REACH"),
        "{}",
        stdout(&status)
    );
    let log = plane.log();
    assert!(log.contains("unix:///nonexistent/redis"), "{log}");
    plane.signal("TERM");
    assert_eq!(plane.end().0, Some(0));
}
