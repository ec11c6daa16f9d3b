//! What a publisher says of a content, as a machine of the fleet takes it: `dosvc publish --to`, the control plane, a daemon
//! and `dosvc get`, each a process of its own.

#![allow(clippy::unwrap_used, reason = "tests")]

mod place;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use dosvc_cloud_protocol::{ContentPolicy, PublishRequest, Rollout};
use dosvc_control_plane::client::ControlPlaneClient;
use place::{Place, Running, code, json, stderr, stdout, wait_until};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    thread,
};

const GROUP: &str = "11111111-2222-3333-4444-555555555555";
const OTHER_GROUP: &str = "99999999-2222-3333-4444-555555555555";
/// Enough to be shared.
const LENGTH: usize = 11 << 20;

/// A control plane, and an origin with what is published.
struct Fleet {
    place: Place,
    to: String,
    origin: String,
    _plane: Running,
}

impl Fleet {
    fn new() -> Self {
        let place = Place::with("[control_plane]\nlisten = [\"127.0.0.1:0\"]\nadmin_listen = []\n");
        let plane = place.start(&["control-plane"]);
        let mut to = None;
        wait_until("the control plane is ready", || {
            let log = plane.log();
            let at = log.find("listening=\"").map(|at| at + 11);
            to = at.and_then(|at| Some(format!("http://{}", log[at..].split('"').next()?)));
            to.is_some()
        });
        let token = place.run(&["control-plane", "token", "add", "build"]);
        fs::write(place.path("token"), stdout(&token)).unwrap();
        let www = place.path("www");
        fs::create_dir(&www).unwrap();
        Self {
            origin: serve_folder(www),
            to: to.unwrap(),
            place,
            _plane: plane,
        }
    }

    fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.origin)
    }

    /// Publishes a content of this many bytes; answers its id.
    fn publish(&self, name: &str, bytes: usize, more: &[&str]) -> String {
        let file = format!("www/{name}");
        self.place.file(&file, bytes);
        // Nobody finds the hashes beside the content.
        let hashes = format!("{name}.hashes");
        let url = self.url(name);
        let mut arguments = vec!["publish", &file, "--url", &url, "--to", &self.to];
        arguments.extend(["--token-file", "token", "--out", &hashes, "--json"]);
        arguments.extend(more);
        let published = self.place.run(&arguments);
        assert_eq!(code(&published), 0, "{}", stderr(&published));
        let published = json(&published);
        published["content_id"].as_str().unwrap().to_owned()
    }

    /// A machine that asks this control plane, with more lines of its table `discovery`.
    fn machine(&self, discovery: &str) -> Machine {
        let policies = format!(
            "[delivery_optimization]\ndownload_mode = 2\nmin_file_size_to_cache = 1\ngroup_id = \"{GROUP}\"\n"
        );
        let place = Place::with(&policies);
        let text = fs::read_to_string(place.path("dosvc.toml")).unwrap();
        let known = format!(
            "[discovery]\ngeo_endpoint_full_uri = \"{}/geo\"\n{discovery}\n",
            self.to
        );
        let text = text.replacen("[discovery]\n", &known, 1);
        fs::write(place.path("dosvc.toml"), text).unwrap();
        Machine {
            daemon: place.daemon(),
            place,
        }
    }

    /// What a machine makes of a content: it has all of it in the end, whatever it is told.
    fn get(&self, machine: &Machine, name: &str) -> Value {
        let url = self.url(name);
        let got = machine.place.run(&["get", &url, "-o", name, "--json"]);
        assert_eq!(code(&got), 0, "{}", stderr(&got));
        let [got_file, file] = [
            &machine.place.path(name),
            &self.place.path("www").join(name),
        ]
        .map(|path| fs::read(path).unwrap());
        assert!(got_file == file, "{name}");
        let printed = stdout(&got);
        let last = printed.lines().rfind(|line| line.starts_with('{'));
        serde_json::from_str(last.unwrap()).unwrap()
    }

    fn is_shared(&self, machine: &Machine, name: &str) {
        let status = self.get(machine, name);
        assert_eq!(status["verified_by_hash_file"], true, "{name}: {status}");
        assert_eq!(status["download_mode"], 2, "{name}: {status}");
    }

    /// Plain HTTP, with a note that says why.
    fn is_simple(&self, machine: &Machine, name: &str, why: &str) {
        let status = self.get(machine, name);
        assert_eq!(status["verified_by_hash_file"], false, "{name}: {status}");
        assert_eq!(status["download_mode"], 99, "{name}: {status}");
        let notes = status["notes"].to_string();
        assert!(notes.contains(why), "{name}: {notes}");
    }
}

struct Machine {
    place: Place,
    daemon: Running,
}

/// A key pair: its file in PEM, and the public key as the configuration has it.
fn key_pair(folder: &Path, name: &str) -> (PathBuf, String) {
    let key = Ed25519KeyPair::generate().unwrap();
    let pem = BASE64_STANDARD.encode(key.to_pkcs8v1().unwrap());
    let file = folder.join(name);
    let text = format!("-----BEGIN PRIVATE KEY-----\n{pem}\n-----END PRIVATE KEY-----\n");
    fs::write(&file, text).unwrap();
    (file, BASE64_STANDARD.encode(key.public_key()))
}

#[test]
fn only_what_the_publishers_key_has_signed_counts() {
    let fleet = Fleet::new();
    let (ours, public) = key_pair(fleet.place.folder.path(), "ours.pem");
    let (others, _) = key_pair(fleet.place.folder.path(), "others.pem");
    let machine = fleet.machine(&format!("publisher_key = \"{public}\""));
    let sign = |key: &Path| ["--sign".to_owned(), key.display().to_string()];
    let publish = |name, bytes, key: &Path| {
        let sign = sign(key);
        fleet.publish(name, bytes, &[sign[0].as_str(), sign[1].as_str()])
    };
    publish("good", LENGTH, &ours);
    publish("foreign", LENGTH + 1, &others);
    fleet.publish("unsigned", LENGTH + 2, &[]);
    let id = publish("changed", LENGTH + 3, &ours);
    change(&fleet, &id);

    fleet.is_shared(&machine, "good");
    let why = "not signed by the publisher (discovery.publisher_key)";
    for name in ["foreign", "unsigned", "changed"] {
        fleet.is_simple(&machine, name, why);
    }
    assert!(machine.daemon.log().contains("not signed by the publisher"));
    // Who configures no key goes by the service's word.
    fleet.is_shared(&fleet.machine(""), "foreign");
}

/// Somebody who has a token, and not the key, lets a signed entry say something else.
fn change(fleet: &Fleet, id: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let changed = runtime.block_on(async {
        let client = ControlPlaneClient::new(fleet.to.parse().unwrap()).unwrap();
        let url = format!("{}/content/{id}/contentpolicy", fleet.to);
        let signed = ContentPolicy::from_json(&fetch(&url)).unwrap();
        assert!(signed.publisher_signature.is_some());
        let mut policy = signed.clone();
        policy.policies.max_cache_age_secs = Some(1);
        let request = PublishRequest {
            policy,
            rollout: Rollout::default(),
            hash_file: Some(fs::read_to_string(fleet.place.path("changed.hashes")).unwrap()),
        };
        let token = fs::read_to_string(fleet.place.path("token")).unwrap();
        client.publish(token.trim(), &request).await
    });
    changed.unwrap();
}

/// The body of an answer of at most so many bytes.
fn fetch(url: &str) -> Vec<u8> {
    let (address, path) = url.trim_start_matches("http://").split_once('/').unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut answer).unwrap();
    let head = answer.windows(4).position(|part| part == b"\r\n\r\n");
    answer[head.unwrap() + 4..].to_vec()
}

#[test]
fn a_rollout_reaches_whom_it_is_for_while_it_lasts() {
    let fleet = Fleet::new();
    for (number, (name, arguments)) in [
        ("everybody", &[][..]),
        ("ours", &["--allow-group", GROUP]),
        ("started", &["--start", "2020-01-01T00:00:00Z"]),
        ("lasting", &["--expire", "2100-01-01T00:00:00Z"]),
        ("others", &["--allow-group", OTHER_GROUP]),
        ("nobody", &["--percent", "0"]),
        ("later", &["--start", "2100-01-01T00:00:00Z"]),
        ("over", &["--expire", "2020-01-01T00:00:00Z"]),
    ]
    .into_iter()
    .enumerate()
    {
        fleet.publish(name, LENGTH + number, arguments);
    }
    let id = fleet.publish("revoked", LENGTH + 100, &[]);
    let machine = fleet.machine("");
    for name in ["everybody", "ours", "started", "lasting"] {
        fleet.is_shared(&machine, name);
    }
    let why = "does not know this content";
    for name in ["others", "nobody", "later", "over"] {
        fleet.is_simple(&machine, name, why);
    }
    fleet.is_shared(&machine, "revoked");
    let revoked = fleet
        .place
        .run(&["control-plane", "content", "revoke", &id]);
    assert_eq!(code(&revoked), 0, "{}", stderr(&revoked));
    // Who has asked before keeps the answer for some minutes.
    fleet.is_simple(&fleet.machine(""), "revoked", why);
}

/// Serves a folder until the process ends; answers where.
fn serve_folder(folder: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let folder = folder.clone();
            // A client that goes before it has everything is its own affair.
            thread::spawn(move || serve(&stream?, &folder));
        }
    });
    address
}

/// Answers requests for files, whole or in ranges, until the client goes.
fn serve(stream: &TcpStream, folder: &Path) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut out = stream;
    loop {
        let (mut name, mut range) = (String::new(), None);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end();
            if let Some(path) = line.strip_prefix("GET /") {
                name = path.split(' ').next().unwrap_or_default().to_owned();
            }
            if let Some(wanted) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
                range = wanted
                    .split_once('-')
                    .map(|(from, to)| (from.to_owned(), to.to_owned()));
            }
            if line.is_empty() {
                break;
            }
        }
        let Ok(file) = fs::read(folder.join(&name)) else {
            write!(out, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        };
        let last = file.len() - 1;
        let (status, first, last) = match range {
            Some((from, to)) => (
                "206 Partial Content",
                from.parse().unwrap(),
                to.parse().unwrap_or(last).min(last),
            ),
            None => ("200 OK", 0, last),
        };
        write!(
            out,
            "HTTP/1.1 {status}\r\nETag: \"1\"\r\nContent-Length: {}\r\nContent-Range: bytes {first}-{last}/{}\r\n\r\n",
            last + 1 - first,
            file.len()
        )?;
        out.write_all(&file[first..=last])?;
    }
}
