//! Costs of the daemon, from outside: it holds contents, and peers connect to it.

use crate::{Point, Result, status_kib};
use dosvc_content::{HashOfHashes, PeerId, PieceHash, PieceLengths, PiecesHashFile};
use dosvc_piece_store::{AddInfo, Store, StoreConfig};
use dosvc_wire::{Handshake, Header, RawBlock};
use socket2::{Domain, Socket, Type};
use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

const PIECE: u32 = 64 << 10;
/// Connections of one address; the daemon takes eight of one content.
const PER_ADDRESS: u32 = 8;
/// Connections of one content; the daemon takes two hundred.
const PER_CONTENT: u32 = 160;
/// Over how long wake-ups are counted.
const IDLE: Duration = Duration::from_secs(5);

/// A running daemon; it ends with this.
struct Daemon {
    child: Child,
    dir: tempfile::TempDir,
    port: u16,
    ready: Duration,
}

impl Daemon {
    /// Starts it on a state folder inside `dir`.
    fn start(dir: tempfile::TempDir) -> Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let root = dir.path().display();
        let text = format!(
            "[delivery_optimization]\ndownload_mode = 1\nmin_file_size_to_cache = 1\n\
             min_disk_size_allowed_to_peer = 1\nmin_ram_allowed_to_peer = 1\n\
             [daemon]\nstate_dir = \"{root}/state\"\napi_socket = \"{root}/api\"\n\
             listen = [\"127.0.0.1:{port}\"]\nlog_level = \"error\"\n[discovery]\ndns_sd = false\n\
             [cache]\nkeep_free_percent = 0\n"
        );
        fs::write(dir.path().join("dosvc.toml"), text)?;
        let begun = Instant::now();
        let child = command(dir.path())
            .arg("run")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut daemon = Self {
            child,
            dir,
            port,
            ready: Duration::ZERO,
        };
        while UnixStream::connect(daemon.dir.path().join("api")).is_err() {
            if daemon.child.try_wait()?.is_some() || begun.elapsed() > Duration::from_secs(60) {
                return Err("the daemon does not start".into());
            }
            thread::sleep(Duration::from_micros(200));
        }
        daemon.ready = begun.elapsed();
        Ok(daemon)
    }

    fn memory_kib(&self) -> Result<f64> {
        status_kib(self.child.id(), "VmRSS")
    }

    /// One figure of every thread, added up.
    fn of_threads(&self, of: impl Fn(&Path) -> Result<f64>) -> Result<f64> {
        let mut sum = 0.0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            // Threads come and go.
            sum += of(&thread?.path()).unwrap_or(0.0);
        }
        Ok(sum)
    }

    /// Processor time of the threads that live, in seconds.
    fn cpu(&self) -> Result<f64> {
        self.of_threads(|thread| {
            let text = fs::read_to_string(thread.join("schedstat"))?;
            let first = text.split_whitespace().next().ok_or("empty")?;
            Ok(first.parse::<f64>()? / 1e9)
        })
    }

    fn wake_ups(&self) -> Result<f64> {
        self.of_threads(|thread| {
            let text = fs::read_to_string(thread.join("status"))?;
            let line = text
                .lines()
                .find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
            Ok(line.ok_or("the kernel does not say")?.trim().parse()?)
        })
    }

    /// Waits until it has had nothing to do for a while: the processor time that it has taken then.
    fn settled(&self) -> Result<f64> {
        let mut before = -1.0;
        loop {
            let now = self.cpu()?;
            if now - before < 1e-4 {
                return Ok(now);
            }
            before = now;
            thread::sleep(Duration::from_millis(250));
        }
    }

    /// How long a command takes, the start of its process included: the median of five.
    fn ask_ms(&self, args: &[&str]) -> Result<f64> {
        let mut times = Vec::new();
        for _ in 0..5 {
            let begun = Instant::now();
            let asked = command(self.dir.path()).args(args).output()?;
            if !asked.status.success() {
                return Err(String::from_utf8_lossy(&asked.stderr).into_owned().into());
            }
            times.push(begun.elapsed());
        }
        times.sort_unstable();
        Ok(times[2].as_secs_f64() * 1e3)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(dir: &Path) -> Command {
    let beside = || -> Option<PathBuf> {
        let here = env::current_exe().ok()?;
        Some(here.parent()?.parent()?.join("dosvc"))
    };
    let binary = env::var_os("CURVES_DOSVC")
        .map(PathBuf::from)
        .or_else(beside);
    let mut command = Command::new(binary.unwrap_or_else(|| "dosvc".into()));
    command.arg("--config").arg(dir.join("dosvc.toml"));
    command
}

/// A content of so many pieces that is different from every other number's.
fn content(number: u32, pieces: u64) -> Result<(PiecesHashFile, Vec<u8>)> {
    let data: Vec<u8> = number.to_le_bytes().repeat(PIECE as usize / 4);
    let lengths = PieceLengths::new(pieces * u64::from(PIECE), PIECE.into())?;
    let hashes = vec![PieceHash::of(&data); usize::try_from(pieces)?];
    Ok((PiecesHashFile::new(lengths, hashes)?, data))
}

fn put(store: &Arc<Store>, number: u32, pieces: u64) -> Result<HashOfHashes> {
    let (file, data) = content(number, pieces)?;
    let info = AddInfo {
        urls: Vec::new(),
        content_id: None,
        now: SystemTime::now(),
    };
    let content = store.add(&file, info)?;
    for piece in file.lengths().pieces() {
        content.accept_piece(piece, &data)?;
    }
    Ok(file.hash_of_hashes())
}

/// A state folder with `n` contents; how long the last one took.
fn filled(n: u32) -> Result<(tempfile::TempDir, Duration)> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(StoreConfig::new(dir.path().join("state")))?;
    for number in 1..n {
        put(&store, number, 1)?;
    }
    store.sync_all()?;
    let begun = Instant::now();
    put(&store, n, 1)?;
    store.sync_all()?;
    Ok((dir, begun.elapsed()))
}

/// A daemon that holds `n` contents.
pub(crate) fn contents(n: u32) -> Result<Point> {
    let (dir, one_more) = filled(n)?;
    let mut daemon = Daemon::start(dir)?;
    // What a crash leaves costs a repair of the database at the next start.
    daemon.child.kill()?;
    daemon.child.wait()?;
    let dir = std::mem::replace(&mut daemon.dir, tempfile::tempdir()?);
    drop(daemon);
    let daemon = Daemon::start(dir)?;
    let start_cpu = daemon.settled()?;
    thread::sleep(Duration::from_secs(3));
    let before = daemon.wake_ups()?;
    thread::sleep(IDLE);
    let woken = daemon.wake_ups()? - before;
    Ok(Point::from([
        (
            "one more content, ms".to_owned(),
            one_more.as_secs_f64() * 1e3,
        ),
        (
            "ready after a crash, ms".to_owned(),
            daemon.ready.as_secs_f64() * 1e3,
        ),
        (
            "processor time of the start, ms".to_owned(),
            start_cpu * 1e3,
        ),
        ("resident, MiB".to_owned(), daemon.memory_kib()? / 1024.0),
        ("wake-ups a second".to_owned(), woken / IDLE.as_secs_f64()),
        (
            "dosvc status, ms".to_owned(),
            daemon.ask_ms(&["status", "--json"])?,
        ),
        (
            "dosvc cache list, ms".to_owned(),
            daemon.ask_ms(&["cache", "list", "--json"])?,
        ),
    ]))
}

/// A peer's side of a connection.
struct Peer {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Peer {
    /// Connects, again when the daemon has too much to do just then.
    fn connect(daemon: &Daemon, swarm: HashOfHashes, number: u32) -> Result<Self> {
        let mut tries = 0;
        loop {
            match Self::try_connect(daemon, swarm, number) {
                Err(_) if tries < 20 => tries += 1,
                result => return result,
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Connects from an address of its own, says that it wants something and hears what there is.
    fn try_connect(daemon: &Daemon, swarm: HashOfHashes, number: u32) -> Result<Self> {
        let host = number / PER_ADDRESS;
        let [_, _, high, low] = (host + 1).to_be_bytes();
        let from = SocketAddr::from((Ipv4Addr::new(127, 1, high, low), 0));
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, daemon.port));
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&from.into())?;
        socket.connect(&to.into())?;
        let mut stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut id = [0; 16];
        id[..4].copy_from_slice(&(number + 1).to_be_bytes());
        let ours = Handshake::new(swarm, PeerId::from_random(id)).encode();
        stream.write_all(&ours)?;
        let mut theirs = ours;
        stream.read_exact(&mut theirs)?;
        let bytes = Vec::new();
        let mut peer = Self { stream, bytes };
        peer.send(Header::Interested)?;
        peer.read_until(|h| matches!(h, Header::Bitfield { .. }))?;
        Ok(peer)
    }

    fn send(&mut self, header: Header) -> Result<()> {
        self.bytes.clear();
        header.encode(&mut self.bytes);
        Ok(self.stream.write_all(&self.bytes)?)
    }

    /// Reads messages up to the one that is wanted; what follows a header is dropped.
    fn read_until(&mut self, wanted: impl Fn(&Header) -> bool) -> Result<()> {
        let mut begun = Vec::new();
        let mut sink = vec![0; PIECE as usize];
        loop {
            let mut byte = [0];
            self.stream.read_exact(&mut byte)?;
            begun.push(byte[0]);
            let Some((header, _)) = Header::decode(&begun)? else {
                continue;
            };
            begun.clear();
            let follows = match header {
                Header::Bitfield { length } | Header::Extension { length } => length,
                Header::Piece(block) => block.length,
                _ => 0,
            };
            let mut left = follows as usize;
            while left > 0 {
                let part = left.min(sink.len());
                self.stream.read_exact(&mut sink[..part])?;
                left -= part;
            }
            if wanted(&header) {
                return Ok(());
            }
        }
    }
}

/// A daemon with `n` connected peers that want contents that it holds.
pub(crate) fn connections(n: u32) -> Result<Point> {
    const PIECES: u32 = 256;
    const HAVES: u32 = 50;
    let dir = tempfile::tempdir()?;
    let store = Store::open(StoreConfig::new(dir.path().join("state")))?;
    let contents = 1..=n.div_ceil(PER_CONTENT);
    let swarms = contents.map(|number| put(&store, number, PIECES.into()));
    let swarms = swarms.collect::<Result<Vec<_>>>()?;
    drop(store);
    let daemon = Daemon::start(dir)?;
    // The first peer warms up what is there once: the swarm; and every piece is checked.
    let mut first = Peer::connect(&daemon, swarms[0], 0)?;
    first.read_until(|h| *h == Header::Unchoke)?;
    let mut fetch = |piece: u32| -> Result<()> {
        let length = PIECE;
        let block = RawBlock {
            piece,
            offset: 0,
            length,
        };
        first.send(Header::Request(block))?;
        first.read_until(|h| matches!(h, Header::Piece(_)))
    };
    (0..PIECES).try_for_each(&mut fetch)?;
    let cpu_before = daemon.settled()?;
    let memory = daemon.memory_kib()?;
    let mut peers = Vec::new();
    for number in 1..=n {
        let swarm = swarms[((number - 1) / PER_CONTENT) as usize];
        peers.push(Peer::connect(&daemon, swarm, number)?);
    }
    let joined = daemon.settled()?;
    let memory = daemon.memory_kib()? - memory;
    for piece in 0..HAVES {
        for peer in &mut peers {
            peer.send(Header::Have(piece))?;
        }
    }
    let told = daemon.settled()?;
    (0..PIECES).try_for_each(&mut fetch)?;
    let served = daemon.settled()?;
    let micros = |seconds: f64, events: u32| seconds * 1e6 / f64::from(events);
    Ok(Point::from([
        (
            "resident for each peer, KiB".to_owned(),
            memory / f64::from(n),
        ),
        (
            "a peer joins, µs of processor time".to_owned(),
            micros(joined - cpu_before, n),
        ),
        (
            "one more Have, µs".to_owned(),
            micros(told - joined, n * HAVES),
        ),
        (
            "one more block of 64 KiB served, µs".to_owned(),
            micros(served - told, PIECES),
        ),
    ]))
}
