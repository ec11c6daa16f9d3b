//! Policies as an administrator meets them: who wins, and what a running daemon makes of a change.

#![allow(clippy::unwrap_used, reason = "tests")]

mod place;

use place::{Place, code, json, stderr, wait_until};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// The longest that a change may take to be in force.
const SOON: Duration = Duration::from_secs(2);

/// A configuration that says where the managed file is, and whose it must be.
fn manage(place: &Place, key: &str) {
    let path = place.path("dosvc.toml");
    let text = fs::read_to_string(&path).unwrap();
    let table = format!(
        "[managed]\nfile = {:?}\npublic_key = {key:?}\n",
        place.path("managed.toml")
    );
    fs::write(path, text + &table).unwrap();
}

fn key_pair() -> (aws_lc_rs::signature::Ed25519KeyPair, String) {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    let pair = Ed25519KeyPair::from_seed_unchecked(&[3; 32]).unwrap();
    let key = BASE64_STANDARD.encode(pair.public_key().as_ref());
    (pair, key)
}

fn sign(place: &Place, pair: &aws_lc_rs::signature::Ed25519KeyPair, text: &str) {
    let signature = pair.sign(text.as_bytes());
    fs::write(place.path("managed.toml.sig"), signature.as_ref()).unwrap();
    fs::write(place.path("managed.toml"), text).unwrap();
}

/// Value and provider of a policy, as the running daemon has it.
fn setting(place: &Place, key: &str) -> (Value, Value) {
    let settings = json(&place.run(&["config", "--verbose", "--json", "--socket", "api.sock"]));
    let name = format!("delivery_optimization.{key}");
    let setting = settings
        .as_array()
        .unwrap()
        .iter()
        .find(|setting| setting["name"] == *name)
        .unwrap();
    (setting["value"].clone(), setting["provider"].clone())
}

#[test]
fn each_provider_wins_over_those_before_it() {
    let place = Place::new();
    let (pair, key) = key_pair();
    manage(&place, &key);
    let keys = [
        "min_background_qos",
        "max_cache_age",
        "max_cache_size",
        "monthly_upload_data_cap",
        "min_file_size_to_cache",
        "min_ram_allowed_to_peer",
    ];
    // Each provider sets one key less than the one before it; the first key keeps its default.
    let lines = |from: usize, value: u32| -> String {
        keys[from..]
            .iter()
            .map(|key| format!("{key} = {value}\n"))
            .collect()
    };
    let table = |from, value| format!("[delivery_optimization]\n{}", lines(from, value));
    let main = fs::read_to_string(place.path("dosvc.toml")).unwrap() + &table(1, 11);
    fs::write(place.path("dosvc.toml"), main).unwrap();
    fs::create_dir(place.path("conf.d")).unwrap();
    fs::write(place.path("conf.d/50.toml"), table(2, 12)).unwrap();
    sign(&place, &pair, &table(4, 14));
    let mut command = place.command(&["run", "--set", "min_ram_allowed_to_peer=15"]);
    for key in &keys[3..] {
        command.env(format!("DOSVC_{}", key.to_uppercase()), "13");
    }
    let log = fs::File::create(place.path("run.log")).unwrap();
    let daemon = place::Running::new(command.stderr(log).spawn().unwrap(), place.path("run.log"));
    wait_until("the daemon answers", || {
        place.run(&["status"]).status.success()
    });
    let file = |name: &str| format!("File Provider ({})", place.path(name).display());
    for (key, value, provider) in [
        (keys[0], "20480 KB/s", "Default Provider".to_owned()),
        (keys[1], "11 s", file("dosvc.toml")),
        (keys[2], "12 %", file("conf.d/50.toml")),
        (keys[3], "13 GB", "Environment Provider".to_owned()),
        (keys[4], "14 MB", "Mdm Provider".to_owned()),
        (keys[5], "15 GB", "Admin Provider".to_owned()),
    ] {
        assert_eq!(
            setting(&place, key),
            (value.into(), provider.into()),
            "{key}"
        );
    }
    let text = place.run(&["config", "--verbose", "--socket", "api.sock"]);
    let text = place::stdout(&text);
    let row = text
        .lines()
        .find(|line| line.contains("min_file_size_to_cache"))
        .unwrap();
    assert!(
        row.contains("14 MB") && row.contains("Mdm Provider"),
        "{row}"
    );
    drop(daemon);
}

#[test]
fn check_reads_every_file_the_managed_one_too() {
    let place = Place::new();
    let (pair, key) = key_pair();
    manage(&place, &key);
    fs::create_dir(place.path("conf.d")).unwrap();
    fs::write(
        place.path("conf.d/1.toml"),
        "[delivery_optimization]\nmax_cache_size = 0\n",
    )
    .unwrap();
    sign(
        &place,
        &pair,
        "[delivery_optimization]\ngroup_id_source = 6\n",
    );
    let output = place.run(&["run", "--check", "--set", "download_mode=7"]);
    assert_eq!(code(&output), 64);
    let text = stderr(&output);
    for mistake in [
        "1.toml:2: delivery_optimization.max_cache_size = 0 is not allowed; allowed: 1 to 100 %",
        "managed.toml:2: delivery_optimization.group_id_source = 6 is not allowed; allowed: 0 (NotSet)",
        "command line: delivery_optimization.download_mode = \"7\" is not allowed",
    ] {
        assert!(text.contains(mistake), "{mistake}: {text}");
    }
}

#[test]
fn managed_file_that_is_not_trusted_changes_nothing_in_a_running_daemon() {
    let place = Place::new();
    let (pair, key) = key_pair();
    manage(&place, &key);
    sign(
        &place,
        &pair,
        "[delivery_optimization]\nmax_cache_size = 31\n",
    );
    let daemon = place.daemon();
    let size = || setting(&place, "max_cache_size").0;
    assert_eq!(size(), "31 %");
    // Somebody else's hand.
    let forged = "[delivery_optimization]\nmax_cache_size = 99\n";
    fs::write(place.path("managed.toml"), forged).unwrap();
    wait_until("it is refused", || {
        daemon.log().contains("managed.toml.sig is not that of key")
    });
    assert!(daemon.log().contains("the old one stays in force"));
    assert_eq!(size(), "31 %");
    sign(&place, &pair, forged);
    wait_until("the signed one is taken", || size() == "99 %");
    // A daemon does not start on it either.
    fs::write(place.path("managed.toml"), "[cache]\n").unwrap();
    let output = place.run(&["run", "--check"]);
    assert_eq!(code(&output), 64);
    assert!(
        stderr(&output).contains("not trusted"),
        "{}",
        stderr(&output)
    );
}

/// A server of a file of zeros, which counts its connections.
struct Server {
    address: SocketAddr,
    opened: Arc<AtomicUsize>,
    broken: Arc<AtomicUsize>,
}

/// What a server has, and how it gives it.
#[derive(Clone, Copy)]
struct Served {
    length: u64,
    /// Bytes sent at once …
    part: usize,
    /// … and how long it waits after them.
    pause: Duration,
}

/// Endless-looking, at full speed.
const LARGE: Served = Served {
    length: 1 << 30,
    part: 64 << 10,
    pause: Duration::ZERO,
};

impl Server {
    fn start(served: Served) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (opened, broken) = (Arc::default(), Arc::default());
        let server = Self {
            address,
            opened: Arc::clone(&opened),
            broken: Arc::clone(&broken),
        };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                opened.fetch_add(1, Ordering::SeqCst);
                let broken = Arc::clone(&broken);
                thread::spawn(move || {
                    if serve(stream, served).is_err() {
                        broken.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        server
    }
}

/// Answers requests for ranges of zeros until the client goes; an answer that it does not take whole is an error.
fn serve(stream: TcpStream, served: Served) -> std::io::Result<()> {
    let whole = served.length;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let (mut range, mut found) = (0..whole, true);
        let mut lines = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if lines == 0 && !line.contains(" /f.bin ") {
                found = false;
            }
            lines += 1;
            if let Some(wanted) = line.strip_prefix("range: bytes=") {
                let (first, last) = wanted.split_once('-').unwrap();
                range = first.parse().unwrap()..last.parse::<u64>().unwrap() + 1;
            }
            if line.is_empty() {
                break;
            }
        }
        if !found {
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        }
        let (length, last) = (range.end - range.start, range.end - 1);
        write!(
            stream,
            "HTTP/1.1 206 Partial Content\r\nETag: \"1\"\r\nContent-Length: {length}\r\nContent-Range: bytes {}-{last}/{whole}\r\n\r\n",
            range.start
        )?;
        let zeros = vec![0; served.part];
        let mut left = length;
        while left > 0 {
            let now = usize::try_from(left).unwrap_or(usize::MAX).min(zeros.len());
            stream.write_all(&zeros[..now])?;
            left -= now as u64;
            thread::sleep(served.pause);
        }
    }
}

#[test]
fn limit_that_changes_is_in_force_within_two_seconds_and_costs_no_connection() {
    let place = Place::new();
    let config = fs::read_to_string(place.path("dosvc.toml")).unwrap();
    let limit = |kbps: u64| {
        let text = format!(
            "{config}[delivery_optimization]\nmax_background_download_bandwidth = {kbps}\n"
        );
        fs::write(place.path("new"), text).unwrap();
        fs::rename(place.path("new"), place.path("dosvc.toml")).unwrap();
    };
    limit(500);
    let daemon = place.daemon();
    let server = Server::start(LARGE);
    let url = format!("http://{}/f.bin", server.address);
    let _get = place.start(&["get", &url, "-o", "f.bin"]);
    let status = || json(&place.run(&["status", "--json", "--socket", "api.sock"]));
    let done = || {
        status()["Files"][0]["TotalBytesDownloaded"]
            .as_u64()
            .unwrap_or(0)
    };
    let bps = || status()["Service"]["bandwidth"]["background"]["bps"].as_u64();
    wait_until("the download runs", || done() >= 1 << 20);
    let opened = server.opened.load(Ordering::SeqCst);

    for (kbps, by_signal) in [(8000, false), (2000, true)] {
        let changed = Instant::now();
        limit(kbps);
        if by_signal {
            daemon.signal("HUP");
        }
        wait_until("the limit is in force", || bps() == Some(kbps * 1024));
        assert!(changed.elapsed() < SOON, "{:?}", changed.elapsed());
        let (begun, before) = (Instant::now(), done());
        thread::sleep(Duration::from_secs(4));
        #[expect(clippy::cast_precision_loss, reason = "a few megabytes")]
        let rate = (done() - before) as f64 / begun.elapsed().as_secs_f64() / 1024.0;
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let part = rate / kbps as f64;
        // Whole pieces are counted, of several megabytes together.
        assert!((0.5..1.5).contains(&part), "{rate} KB/s of {kbps}");
    }
    assert_eq!(
        server.opened.load(Ordering::SeqCst),
        opened,
        "{}",
        daemon.log()
    );
    assert_eq!(server.broken.load(Ordering::SeqCst), 0, "{}", daemon.log());
}

/// A server is silent when nothing comes of it. It is not when it sends little, nor while what it sent waits for our
/// limit: who asked it again then would throw away what is on its way, and get no further ever.
#[test]
fn slow_server_and_low_limit_are_not_taken_for_silence() {
    let at_once = Served {
        length: 480 << 10,
        part: 480 << 10,
        pause: Duration::ZERO,
    };
    // Less than a server's five seconds of silence would let through at once.
    let slowly = Served {
        length: 120 << 10,
        part: 1 << 10,
        pause: Duration::from_millis(70),
    };
    let gets = [(at_once, 64), (slowly, 0)].map(|(served, kbps)| {
        thread::spawn(move || {
            let place = Place::with(&format!(
                "[delivery_optimization]\nmax_background_download_bandwidth = {kbps}\n"
            ));
            let daemon = place.daemon();
            let server = Server::start(served);
            let url = format!("http://{}/f.bin", server.address);
            let begun = Instant::now();
            let (code, said) = place.start(&["get", &url, "-o", "f.bin"]).end();
            assert_eq!(code, Some(0), "{said}{}", daemon.log());
            // Else it shows nothing.
            assert!(begun.elapsed() > Duration::from_secs(6));
            assert_eq!(server.broken.load(Ordering::SeqCst), 0, "{}", daemon.log());
            let length = fs::metadata(place.path("f.bin")).unwrap().len();
            assert_eq!(length, served.length);
        })
    });
    for get in gets {
        get.join().unwrap();
    }
}
