//! What a client can't do to a running control plane: hold it, fill it, or ask faster than it may.

#![allow(clippy::unwrap_used, reason = "tests")]

use dosvc_cloud_protocol::{ContentPolicy, JoinRequest, PublishRequest, Rollout, Scope};
use dosvc_control_plane::{Contents, ControlPlane, ControlPlaneConfig, client::ControlPlaneClient};
use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};

fn config(state_dir: &Path) -> ControlPlaneConfig {
    ControlPlaneConfig {
        listen: vec![([127, 0, 0, 1], 0).into()],
        admin_listen: None,
        state_dir: state_dir.to_owned(),
        ..ControlPlaneConfig::default()
    }
}

async fn plane(config: ControlPlaneConfig) -> (ControlPlane, SocketAddr) {
    let plane = ControlPlane::start(config).await.unwrap();
    let address = plane.listening()[0];
    (plane, address)
}

/// Runs what blocks while the control plane goes on.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// How long a client keeps its connection that says this, and then a little more every so often.
fn held(address: SocketAddr, begin: &[u8], more: &[u8]) -> Duration {
    let began = Instant::now();
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    stream.write_all(begin).unwrap();
    while began.elapsed() < Duration::from_secs(60) {
        if stream.write_all(more).is_err() {
            break;
        }
        match stream.read(&mut [0; 4096]) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    began.elapsed()
}

const JOIN_HEAD: &[u8] = b"POST /array/join/ HTTP/1.1\r\nhost: x\r\ncontent-length: 8000\r\n\r\n";

/// Headers, bodies and pauses that never end: each loses its connection after ten seconds, and others are answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_slow_loses_the_connection() {
    let folder = tempfile::tempdir().unwrap();
    let (plane, address) = plane(config(folder.path())).await;
    let kinds: [(&[u8], &[u8]); 4] = [
        (b"", b""),
        (b"GET /geo HTTP/1.1\r\n", b"x: y\r\n"),
        (JOIN_HEAD, b"x"),
        // Answered once, and silent from then on.
        (b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n", b""),
    ];
    let slow: Vec<_> = kinds
        .into_iter()
        .map(|(begin, more)| thread::spawn(move || held(address, begin, more)))
        .collect();
    let mut answered = 0;
    while !slow.iter().all(thread::JoinHandle::is_finished) {
        let url = format!("http://{address}/geo");
        assert_eq!(reqwest::get(&url).await.unwrap().status(), 200);
        answered += 1;
    }
    assert!(answered > 10, "others were answered meanwhile");
    for (slow, (begin, _)) in slow.into_iter().zip(kinds) {
        let held = slow.join().unwrap().as_secs();
        let name = String::from_utf8_lossy(begin);
        assert!((9..25).contains(&held), "{name:?} held it for {held} s");
    }
    plane.stop().await;
}

#[tokio::test]
async fn a_handshake_that_is_not_begun_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("c.pem"), folder.path().join("k.pem"));
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let (plane, address) = plane(ControlPlaneConfig {
        certificate: Some(certificate),
        key: Some(key),
        ..config(folder.path())
    })
    .await;
    let held = aside(move || held(address, b"", b"")).await.as_secs();
    assert!((9..25).contains(&held), "{held} s");
    plane.stop().await;
}

/// The status of the answer to this; 0 when the connection was closed without one.
fn status(address: SocketAddr, parts: &[&[u8]]) -> u16 {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    for part in parts {
        // Who is refused early is not read to the end.
        if stream.write_all(part).is_err() {
            break;
        }
    }
    let mut head = [0; 12];
    match stream.read_exact(&mut head) {
        Ok(()) => std::str::from_utf8(&head[9..]).unwrap().parse().unwrap(),
        Err(_) => 0,
    }
}

#[tokio::test]
async fn whatever_is_too_large_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (plane, address) = plane(config(folder.path())).await;
    let store = Contents::open(folder.path()).await.unwrap();
    let token = store.add_token("ci", 1).await.unwrap();
    aside(move || {
        let long = format!("GET /geo HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(100_000));
        assert_eq!(status(address, &[long.as_bytes()]), 431);
        let many = format!("GET /geo HTTP/1.1\r\nhost: x\r\n{}\r\n", "x: y\r\n".repeat(100));
        assert_eq!(status(address, &[many.as_bytes()]), 431);
        let path = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "y".repeat(100_000));
        assert!([414, 431].contains(&status(address, &[path.as_bytes()])));
        // A length that is not said is counted.
        let chunk = format!("1000\r\n{}\r\n", " ".repeat(0x1000));
        let head = b"POST /array/join/ HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
        let chunks: Vec<&[u8]> = std::iter::once(&head[..])
            .chain(std::iter::repeat_n(chunk.as_bytes(), 100))
            .collect();
        assert_eq!(status(address, &chunks), 413);
        // One that is said is not waited for.
        let head = b"POST /array/join/ HTTP/1.1\r\nhost: x\r\ncontent-length: 10000000000\r\n\r\n";
        let began = Instant::now();
        assert_eq!(status(address, &[head]), 413);
        assert!(began.elapsed() < Duration::from_secs(5));
        // Who may not publish is refused before anything is read.
        let publish = |token: &str| {
            format!(
                "POST /publish/content HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 80000000\r\n\r\n"
            )
        };
        assert_eq!(status(address, &[publish("dosvc_no").as_bytes()]), 401);
        let mebibyte = vec![b' '; 1 << 20];
        let head = publish(&token);
        let parts: Vec<&[u8]> = std::iter::once(head.as_bytes())
            .chain(std::iter::repeat_n(mebibyte.as_slice(), 70))
            .collect();
        // The refusal can be lost where the client goes on sending; what counts is that it ends.
        assert!([0, 413].contains(&status(address, &parts)));
        assert_eq!(status(address, &[b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"]), 200);
    })
    .await;
    plane.stop().await;
}

/// An address is counted over all of its connections, and within one.
#[tokio::test]
async fn requests_of_one_connection_are_counted_too() {
    let folder = tempfile::tempdir().unwrap();
    let (plane, address) = plane(ControlPlaneConfig {
        requests_per_second: 1,
        ..config(folder.path())
    })
    .await;
    let mut join = JoinRequest::new("x".parse().unwrap(), [1; 20].into(), Scope::Lan);
    join.left = 1;
    let client = reqwest::Client::new();
    let mut refused = 0;
    for _ in 0..30 {
        let asking = client.post(format!("http://{address}/array/join/"));
        let answer = asking.body(join.to_json()).send().await.unwrap();
        if answer.status() == 429 {
            assert!(answer.headers().contains_key("retry-after"));
            refused += 1;
        }
    }
    assert!((10..=26).contains(&refused), "{refused}");
    plane.stop().await;
}

#[tokio::test]
async fn a_token_that_asks_too_fast_is_told_to_wait_and_others_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let (plane, address) = plane(ControlPlaneConfig {
        token_requests_per_second: 1,
        ..config(folder.path())
    })
    .await;
    let store = Contents::open(folder.path()).await.unwrap();
    let (fast, slow) = (
        store.add_token("fast", 1).await.unwrap(),
        store.add_token("slow", 1).await.unwrap(),
    );
    let client = ControlPlaneClient::new(format!("http://{address}").parse().unwrap()).unwrap();
    let request = PublishRequest {
        policy: ContentPolicy {
            content_id: "x".parse().unwrap(),
            hash_of_hashes: [7; 32].into(),
            pieces_hash_file_cdn_urls: vec!["http://a.example/x.phf".parse().unwrap()],
            content_cdn_urls: None,
            is_secure: false,
            is_internal: false,
            policies: Default::default(),
            rank: 0,
            publisher_signature: None,
        },
        rollout: Rollout::default(),
        hash_file: None,
    };
    let mut refusals = Vec::new();
    for _ in 0..20 {
        if let Err(error) = client.publish(&fast, &request).await {
            refusals.push(error.to_string());
        }
    }
    assert!(refusals.len() >= 5, "{refusals:?}");
    assert!(
        refusals.iter().all(|why| why.contains("429")),
        "{refusals:?}"
    );
    client.publish(&slow, &request).await.unwrap();
    plane.stop().await;
}
