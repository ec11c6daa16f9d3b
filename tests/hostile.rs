//! Peers, servers and local callers that do their worst, against the real daemon. After each of them the daemon lives,
//! its memory is bounded, its open files are back, and an honest download beside it completes.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod place;

use place::{PATIENCE, Place, wait_until};
use serde_json::Value;
use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};
const MIB: usize = 1 << 20;
/// An honest download beside an attack, the start of its process included.
const AT_ONCE: Duration = Duration::from_secs(20);
/// What the daemon may hold under attack.
const RESIDENT_MAX: u64 = 160 << 20;
/// Where attackers come from: loopback, but not the address of honest peers.
const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// A place where contents of any size are shared, whatever the machine has.
fn place() -> Place {
    Place::with(
        "[delivery_optimization]\nmin_file_size_to_cache = 1\nmin_ram_allowed_to_peer = 1\n\
         min_disk_size_allowed_to_peer = 1\n",
    )
}

/// A daemon that shares one content.
struct Daemon {
    place: Place,
    child: Child,
    content: Vec<u8>,
    address: SocketAddr,
    files: usize,
}

impl Daemon {
    fn sharing(len: usize) -> Self {
        let place = place();
        let log = File::create(place.path("log")).unwrap();
        let child = place.command(&["run"]).stderr(log).spawn().unwrap();
        let mut daemon = Self {
            place,
            child,
            content: noise(len as u64, len),
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
            files: 0,
        };
        wait_until("the daemon answers", || {
            daemon.place.run(&["status"]).status.success()
        });
        fs::write(daemon.place.path("f"), &daemon.content).unwrap();
        let seeded = daemon.place.run(&["publish", "f", "--seed"]);
        assert!(seeded.status.success(), "{seeded:?}");
        let log = daemon.log();
        let at = log.find("listening=\"").expect("said") + "listening=\"".len();
        let text = &log[at..];
        let end = text.find(['"', ',']).unwrap();
        daemon.address = text[..end].parse().unwrap_or_else(|e| panic!("{e}: {log}"));
        daemon.files = daemon.open_files();
        daemon
    }

    fn log(&self) -> String {
        let text = fs::read(self.place.path("log")).unwrap();
        let text = String::from_utf8_lossy(&text).into_owned();
        // Colours are for people.
        text.replace("\u{1b}[3m", "")
            .replace("\u{1b}[0m", "")
            .replace("\u{1b}[2m", "")
    }

    fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.child.id()))
    }

    fn open_files(&self) -> usize {
        fs::read_dir(self.proc("fd")).unwrap().count()
    }

    fn resident_peak(&self) -> u64 {
        let status = fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
            << 10
    }

    /// Times that each thread of the daemon has gone to sleep so far.
    fn sleeps(&self) -> HashMap<PathBuf, u64> {
        let tasks = fs::read_dir(self.proc("task")).unwrap();
        let of = |path: PathBuf| -> Option<(PathBuf, u64)> {
            let status = fs::read_to_string(path.join("status")).ok()?;
            let line = status.lines().find(|l| l.starts_with("voluntary"))?;
            let count = line.split_whitespace().nth(1)?.parse().ok()?;
            Some((path, count))
        };
        tasks.filter_map(|task| of(task.unwrap().path())).collect()
    }

    fn swarm_hash(&self) -> [u8; 32] {
        let list = self.place.run(&["cache", "list", "--json"]);
        let list: Value = serde_json::from_slice(&list.stdout).unwrap();
        let hex = list[0]["file_id"].as_str().unwrap().to_owned();
        let byte = |i: usize| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap();
        std::array::from_fn(byte)
    }

    /// Somebody else, on this machine, fetches the content from this daemon alone.
    fn gives_an_honest_download(&self) {
        let place = place();
        let started = Instant::now();
        let hash_file = self.place.path("f.phf");
        let output = place.run(&[
            "get",
            "--hash-file",
            hash_file.to_str().unwrap(),
            "--peer",
            &self.address.to_string(),
            "-o",
            "out",
            "--quiet",
        ]);
        assert!(output.status.success(), "{output:?}\n{}", self.log());
        assert!(fs::read(place.path("out")).unwrap() == self.content);
        assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
    }

    /// Everything is as it was before the attack.
    fn is_well(&mut self) {
        assert!(self.child.try_wait().unwrap().is_none(), "{}", self.log());
        let peak = self.resident_peak();
        assert!(
            peak < RESIDENT_MAX,
            "{} MiB were resident",
            peak / MIB as u64
        );
        self.gives_an_honest_download();
        // A content that was opened stays open for a while, and so does a connection of the command's.
        let (files, pid) = (self.files + 12, self.child.id());
        wait_until("open files are back", || {
            fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() <= files
        });
        assert!(!self.log().contains("panicked"), "{}", self.log());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((ATTACKER, 0)).into())?;
    socket.connect_timeout(&to.into(), Duration::from_secs(5))?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(stream)
}

fn handshake(swarm: [u8; 32], id: u16) -> Vec<u8> {
    let mut bytes = vec![14];
    bytes.extend(b"Swarm protocol");
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 0]);
    bytes.extend(swarm);
    bytes.extend(b"an attacker's ");
    bytes.extend(id.to_be_bytes());
    bytes.extend([0; 4]);
    bytes
}

fn message(id: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len() + 1)
        .unwrap()
        .to_be_bytes()
        .to_vec();
    bytes.push(id);
    bytes.extend(payload);
    bytes
}

fn extension(kind: u8, body: &[u8]) -> Vec<u8> {
    message(20, &[b"dosvc".as_slice(), &[kind], body].concat())
}

/// A connection that has been let in.
fn introduced(daemon: &Daemon, swarm: [u8; 32], id: u16) -> io::Result<TcpStream> {
    let mut stream = connect(daemon.address)?;
    stream.write_all(&handshake(swarm, id))?;
    stream.read_exact(&mut [0; 75])?;
    Ok(stream)
}

/// Writes the same again and again until the other side closes or takes no more, at most so often.
fn repeat(stream: &mut TcpStream, bytes: &[u8], times: usize) -> usize {
    (0..times)
        .take_while(|_| stream.write_all(bytes).is_ok())
        .count()
}

#[test]
fn a_thousand_sockets_that_say_nothing_and_slow_handshakes_hold_nobody_up() {
    let mut daemon = Daemon::sharing(4 * MIB);
    let mut sockets: Vec<TcpStream> = (0..1000)
        .filter_map(|_| connect(daemon.address).ok())
        .collect();
    // One byte after the other, without end.
    let hello = handshake(daemon.swarm_hash(), 1);
    for byte in hello.iter().take(3) {
        for socket in &mut sockets {
            let _ = socket.write_all(&[*byte]);
        }
    }
    let files = daemon.open_files();
    assert!(files < 300, "{files} open files under a flood");
    daemon.gives_an_honest_download();
    drop(sockets);
    daemon.is_well();
}

#[test]
fn floods_of_requests_questions_and_changes_of_mind_take_no_memory() {
    let mut daemon = Daemon::sharing(32 * MIB);
    let swarm = daemon.swarm_hash();
    let piece = |index: u32| [index, 0, 1 << 20].map(u32::to_be_bytes).concat();
    let metainfo_question = extension(3, &[0u32, 32_768].map(u32::to_be_bytes).concat());
    let many_requests: Vec<u8> = (0..32).flat_map(|i| message(6, &piece(i))).collect();
    let mind_changes = [message(2, &[]), message(3, &[])].concat().repeat(64);
    let haves: Vec<u8> = (0..32u32)
        .flat_map(|i| message(4, &i.to_be_bytes()))
        .collect();
    let fetching = {
        let mut body = vec![0x10, 0x00, 0x10, 0x00];
        body.extend((0..8192u32).flat_map(|i| (i % 40).to_be_bytes()));
        extension(2, &body)
    };
    let floods = [
        [message(2, &[]), many_requests].concat(),
        metainfo_question,
        mind_changes,
        haves,
        fetching,
    ];
    thread::scope(|scope| {
        for id in 0..30u16 {
            let (daemon, flood) = (&daemon, &floods[usize::from(id) % floods.len()]);
            scope.spawn(move || {
                // Nothing of what comes back is read.
                let mut stream = introduced(daemon, swarm, id).unwrap();
                repeat(&mut stream, flood, 3000);
            });
        }
        scope.spawn(|| daemon.gives_an_honest_download());
    });
    daemon.is_well();
}

#[test]
fn messages_that_are_too_large_or_garbled_end_the_connection() {
    let mut daemon = Daemon::sharing(4 * MIB);
    let swarm = daemon.swarm_hash();
    let unasked = {
        let mut body = vec![0; 16 + 32 * 32_768];
        body[8..12].copy_from_slice(&(1u32 << 20).to_be_bytes());
        extension(4, &body)
    };
    let attacks = [
        u32::MAX.to_be_bytes().to_vec(),
        0x1F_4001u32.to_be_bytes().to_vec(),
        unasked,
        message(99, b"?"),
        message(5, &[0xff; 3000]),
        message(7, &[&[0; 8][..], &[1; 1000]].concat()),
        message(6, &[0xff; 12]),
        message(4, &[0xff; 4]),
        extension(0, b"short"),
        noise(1, 4096),
    ];
    for (id, attack) in (0u16..).zip(&attacks) {
        let mut stream = introduced(&daemon, swarm, 100 + id).unwrap();
        let _ = stream.write_all(attack);
        let mut rest = Vec::new();
        let closed = match stream.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        };
        assert!(closed, "attack {id} was put up with");
    }
    // A foreign extension of the largest size is skipped, and not kept.
    let mut stream = introduced(&daemon, swarm, 200).unwrap();
    let foreign = message(20, &vec![b'x'; 0x1F_4000 - 1]);
    assert_eq!(repeat(&mut stream, &foreign, 50), 50);
    daemon.is_well();
}

/// How a peer that is asked behaves.
#[derive(Clone, Copy)]
enum Manner {
    ServesNothing,
    OneByteASecond,
    WrongBytes,
}

/// A peer that says it has everything.
fn bad_peer(manner: Manner, pieces: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || serve_badly(stream?, manner, pieces));
        }
    });
    address
}

fn serve_badly(mut stream: TcpStream, manner: Manner, pieces: usize) -> io::Result<()> {
    let mut theirs = [0; 75];
    stream.read_exact(&mut theirs)?;
    stream.write_all(&handshake(
        theirs[23..55].try_into().unwrap(),
        manner as u16,
    ))?;
    stream.write_all(&message(5, &vec![0xff; pieces / 8]))?;
    stream.write_all(&message(1, &[]))?;
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut body)?;
        if body.first() != Some(&6) {
            continue;
        }
        let block = u32::from_be_bytes(body[9..13].try_into().unwrap()) as usize;
        let answer = message(7, &[&body[1..9], &vec![0; block]].concat());
        match manner {
            Manner::ServesNothing => {}
            Manner::WrongBytes => stream.write_all(&answer)?,
            Manner::OneByteASecond => {
                for byte in answer {
                    stream.write_all(&[byte])?;
                    thread::sleep(Duration::from_secs(1));
                }
            }
        }
    }
}

#[test]
fn peers_that_lie_stall_or_serve_nothing_do_not_hold_up_the_honest_one() {
    let mut daemon = Daemon::sharing(16 * MIB);
    let other = Daemon::sharing(MIB);
    let bad = [
        Manner::ServesNothing,
        Manner::OneByteASecond,
        Manner::WrongBytes,
    ]
    .map(|manner| bad_peer(manner, 16).to_string());
    let honest = daemon.address.to_string();
    let hash_file = daemon.place.path("f.phf");
    let mut arguments = vec![
        "get",
        "--hash-file",
        hash_file.to_str().unwrap(),
        "-o",
        "out",
        "--quiet",
    ];
    for peer in bad.iter().chain([&honest]) {
        arguments.extend(["--peer", peer]);
    }
    let started = Instant::now();
    let output = other.place.run(&arguments);
    assert!(output.status.success(), "{output:?}\n{}", other.log());
    assert!(
        started.elapsed() < AT_ONCE,
        "{:?}\n{}",
        started.elapsed(),
        other.log()
    );
    assert!(fs::read(other.place.path("out")).unwrap() == daemon.content);
    daemon.is_well();
}

/// While nobody had the bytes, the swarm of a download woke up a thousand times a second.
#[test]
fn download_that_waits_for_a_source_sleeps() {
    let mut daemon = Daemon::sharing(MIB);
    let hash_file = {
        let place = &daemon.place;
        fs::write(place.path("other"), noise(77, 3 * MIB)).unwrap();
        assert!(place.run(&["publish", "other"]).status.success());
        place.path("other.phf")
    };
    let mut get = daemon
        .place
        .command(&[
            "get",
            "--hash-file",
            hash_file.to_str().unwrap(),
            "-o",
            "out",
        ])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let waits = || {
        let status = daemon.place.run(&["status", "--json"]);
        String::from_utf8_lossy(&status.stdout).contains("no source")
    };
    wait_until("the download waits", waits);
    let _ = get.kill();
    get.wait().unwrap();
    let before = daemon.sleeps();
    thread::sleep(Duration::from_secs(3));
    // Threads of the blocking pool end when nothing is left for them.
    let sleeps: u64 = daemon
        .sleeps()
        .iter()
        .filter_map(|(thread, now)| Some(now - before.get(thread)?))
        .sum();
    assert!(sleeps < 300, "{sleeps} in three seconds");
    daemon.is_well();
}

/// A server that answers every request in one way.
fn bad_origin(answer: impl Fn(&mut TcpStream) -> io::Result<()> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/f", listener.local_addr().unwrap());
    let answer = std::sync::Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let answer = answer.clone();
            thread::spawn(move || {
                let mut stream = stream?;
                let mut head = [0; 4096];
                while stream.read(&mut head)? > 0 {
                    answer(&mut stream)?;
                }
                io::Result::Ok(())
            });
        }
    });
    url
}

#[test]
fn servers_that_lie_stall_or_send_us_to_ourselves_are_survived() {
    let mut daemon = Daemon::sharing(8 * MIB);
    let own_port = daemon.address;
    let redirect =
        format!("HTTP/1.1 302 Found\r\nlocation: http://{own_port}/x\r\ncontent-length: 0\r\n\r\n");
    let origins = [
        bad_origin(|s| s.write_all(&noise(3, 1 << 20))),
        bad_origin(|_| Ok(())),
        bad_origin(|s| {
            s.write_all(b"HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 7-9/99\r\ncontent-length: 3\r\n\r\nabc")
        }),
        bad_origin(|s| {
            s.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551615\r\n\r\nabc")
        }),
        bad_origin(|s| {
            s.write_all(b"HTTP/1.1 200 OK\r\n")?;
            (0..100_000).try_for_each(|_| {
                s.write_all(b"x-header: 0123456789012345678901234567890123456789\r\n")
            })
        }),
        bad_origin(move |s| s.write_all(redirect.as_bytes())),
    ];
    let honest = daemon.address.to_string();
    let hash_file = daemon.place.path("f.phf");
    thread::scope(|scope| {
        for origin in &origins {
            let (honest, hash_file) = (&honest, &hash_file);
            let content = &daemon.content;
            scope.spawn(move || {
                let place = place();
                let hash_file = hash_file.to_str().unwrap();
                let started = Instant::now();
                let output = place.run(&[
                    "get",
                    origin,
                    "--hash-file",
                    hash_file,
                    "--peer",
                    honest,
                    "-o",
                    "out",
                    "--quiet",
                ]);
                assert!(output.status.success(), "{origin}: {output:?}");
                assert!(fs::read(place.path("out")).unwrap() == *content);
                assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
            });
        }
    });
    daemon.is_well();
}

fn api(daemon: &Daemon, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(daemon.place.path("api.sock")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.write_all(request);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn callers_that_send_garbage_too_much_or_too_slowly_hold_nobody_up() {
    let mut daemon = Daemon::sharing(2 * MIB);
    for garbage in [
        &b"\x16\x03\x01 not HTTP at all\r\n\r\n"[..],
        b"GET /v1/downloads/99999999999999999999 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /v1/downloads/1?wait=-1 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"PUT /v1/mode HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 12\r\n\r\n{\"mode\":777}",
        b"POST /v1/downloads HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n[]",
        b"POST /v1/import HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}",
        b"DELETE /v1/cache/%00%ff HTTP/1.1\r\nhost: x\r\n\r\n",
    ] {
        let answer = api(&daemon, garbage);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{}: {answer}",
            String::from_utf8_lossy(garbage)
        );
    }
    let head = b"PUT /v1/mode HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 500000000\r\n\r\n";
    let huge = [&head[..], &vec![b' '; 4 * MIB]].concat();
    assert!(
        api(&daemon, &huge).starts_with("HTTP/1.1 4"),
        "a body that is too large"
    );
    // Bodies that never come, of requests that may be large; there are places for a few of those only.
    let slow: Vec<UnixStream> = (0..20)
        .map(|_| {
            let mut stream = UnixStream::connect(daemon.place.path("api.sock")).unwrap();
            stream
                .write_all(b"POST /v1/downloads HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 60000000\r\n\r\n{")
                .unwrap();
            stream
        })
        .collect();
    let started = Instant::now();
    let output = daemon
        .place
        .run(&["get", "--hash-file", "f.phf", "-o", "out", "--quiet"]);
    assert!(output.status.success(), "{output:?}");
    assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
    drop(slow);
    daemon.is_well();
}
