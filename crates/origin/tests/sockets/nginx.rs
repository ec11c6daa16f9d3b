//! Against a real nginx on loopback, where one is installed.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dosvc_origin::{OriginError, Url};

use crate::server::{client, content, open, read};

/// An nginx that serves a temporary folder; it ends when dropped.
struct Nginx {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Nginx {
    /// `None`, with a message, where nginx is not installed.
    fn start() -> Option<Self> {
        let Some(program) = program() else {
            eprintln!("skipped: nginx is not installed");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        // nginx can't choose a port itself. Somebody may take this one first, so try again.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port();
            write_config(dir.path(), port);
            let mut child = Command::new(&program)
                .args(["-e", "error.log", "-c", "nginx.conf", "-p"])
                .arg(dir.path())
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            if is_listening(&mut child, port) {
                return Some(Self { child, port, dir });
            }
        }
        panic!(
            "nginx does not start: {:?}",
            std::fs::read_to_string(dir.path().join("error.log"))
        );
    }

    fn write(&self, bytes: &[u8]) {
        // Replaced as a whole, as a publisher does.
        let new = self.dir.path().join("www/new");
        std::fs::write(&new, bytes).unwrap();
        std::fs::rename(new, self.dir.path().join("www/file.bin")).unwrap();
    }

    fn url(&self, path: &str) -> Url {
        Url::parse(&format!("http://127.0.0.1:{}{path}", self.port)).unwrap()
    }

    /// The connection number of each request so far.
    fn connections(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.dir.path().join("access.log")).unwrap();
        log.lines().map(str::to_owned).collect()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    places
        .map(|place| place.join("nginx"))
        .find(|program| program.is_file())
}

fn write_config(dir: &Path, port: u16) {
    std::fs::create_dir_all(dir.join("www")).unwrap();
    let config = format!(
        "daemon off; master_process off; pid nginx.pid; error_log error.log;
         events {{ worker_connections 64; }}
         http {{
           client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
           log_format connection '$connection'; access_log access.log connection;
           gzip on; gzip_types *; gzip_min_length 1;
           server {{ listen 127.0.0.1:{port}; root www;
             location /whole/ {{ alias www/; max_ranges 0; }}
             location /old {{ return 302 /file.bin; }} }} }}"
    );
    std::fs::write(dir.join("nginx.conf"), config).unwrap();
}

fn is_listening(child: &mut Child, port: u16) -> bool {
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until && child.try_wait().unwrap().is_none() {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

#[tokio::test]
async fn ranges_of_nginx_come_over_few_connections() {
    let Some(nginx) = Nginx::start() else { return };
    let bytes = content(8 << 20);
    nginx.write(&bytes);
    let origin = open(nginx.url("/old"));
    let facts = origin.probe().await.unwrap();
    assert_eq!((facts.total, facts.ranges), (8 << 20, true));
    assert!(facts.validator.etag.is_some() && facts.validator.last_modified.is_some());

    let step = (8 << 20) / 50 + 1;
    let mut lanes = tokio::task::JoinSet::new();
    for lane in 0..4u64 {
        let origin = origin.clone();
        lanes.spawn(async move {
            let mut parts = Vec::new();
            for n in (lane..50).step_by(4) {
                let range = n * step..((n + 1) * step).min(8 << 20);
                parts.push((n, read(origin.fetch(range).await.unwrap()).await.unwrap()));
            }
            parts
        });
    }
    let mut parts = lanes.join_all().await.concat();
    parts.sort();
    let got: Vec<u8> = parts.into_iter().flat_map(|(_, part)| part).collect();
    assert!(got == bytes, "the bytes are those of the file");

    // The last line is written after the last byte is sent.
    let until = Instant::now() + Duration::from_secs(5);
    while nginx.connections().len() < 52 && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut connections = nginx.connections();
    assert_eq!(connections.len(), 52, "50 ranges, the probe, one redirect");
    connections.sort();
    connections.dedup();
    // The redirect's own connection may be given up with its page unread.
    assert!(connections.len() <= 5, "{} connections", connections.len());
}

#[tokio::test]
async fn file_that_is_replaced_on_nginx_is_a_change() {
    let Some(nginx) = Nginx::start() else { return };
    nginx.write(&content(1000));
    let origin = open(nginx.url("/file.bin"));
    read(origin.fetch(0..10).await.unwrap()).await.unwrap();
    nginx.write(&content(1001));
    let error = origin.fetch(10..20).await.unwrap_err();
    assert!(matches!(error, OriginError::Changed { .. }), "{error}");
}

#[tokio::test]
async fn nginx_without_ranges_sends_the_whole() {
    let Some(nginx) = Nginx::start() else { return };
    nginx.write(&content(1000));
    let origin = open(nginx.url("/whole/file.bin"));
    for _ in 0..2 {
        let body = origin.fetch(10..20).await.unwrap();
        assert!(body.whole);
        assert_eq!(read(body).await.unwrap(), content(1000));
    }
}

#[tokio::test]
async fn nginx_that_compresses_does_not_for_us() {
    let Some(nginx) = Nginx::start() else { return };
    nginx.write(&content(1000));
    let small = client()
        .fetch_small(&nginx.url("/file.bin"), 1000)
        .await
        .unwrap();
    assert_eq!(small.bytes, content(1000));
}

#[tokio::test]
async fn empty_and_missing_files_of_nginx() {
    let Some(nginx) = Nginx::start() else { return };
    nginx.write(b"");
    assert_eq!(open(nginx.url("/file.bin")).probe().await.unwrap().total, 0);
    let error = open(nginx.url("/missing")).probe().await.unwrap_err();
    assert!(
        matches!(error, OriginError::NotFound { status: 404, .. }),
        "{error}"
    );
}
