//! How many joins a second an array answers over HTTP, from connections that stay open. Bounded in time and peers.
//!
//! ```text
//! dosvc control-plane --set control_plane.requests_per_second=0 --set control_plane.admin_listen= &
//! cargo run --release -p dosvc-control-plane --example load -- 127.0.0.1:7681 --seconds 10
//! ```
//!
//! First every peer joins once; then, for so many seconds, peers in random order say that they are still here, and want
//! so many peers. `--tracker PATH` asks a BitTorrent tracker's `announce` instead, with the same swarms and counts, for a
//! look at both side by side; `--close yes` opens a connection for each request, for servers that don't keep them open.

#[path = "../benches/support/peer_id.rs"]
mod peer_id;

use peer_id::peer_id;

use dosvc_cloud_protocol::{JoinEvent, JoinRequest, JoinToken, Scope};
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

/// The most peers and seconds of a run.
const PEERS_MAX: u32 = 4_000_000;
const SECONDS_MAX: u64 = 120;

struct Load {
    address: SocketAddr,
    tracker: Option<String>,
    close: bool,
    connections: u32,
    seconds: u64,
    peers: u32,
    swarms: u32,
    wanted: u16,
    threads: usize,
}

impl Load {
    fn from_args() -> Result<Self, String> {
        let mut this = Self {
            address: ([127, 0, 0, 1], 7681).into(),
            tracker: None,
            close: false,
            connections: 64,
            seconds: 10,
            peers: 1_000_000,
            swarms: 1000,
            wanted: 30,
            threads: 2,
        };
        let mut args = std::env::args().skip(1);
        while let Some(name) = args.next() {
            if !name.starts_with("--") {
                this.address = name.parse().map_err(|e| format!("{name}: {e}"))?;
                continue;
            }
            let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
            let number = || value.parse::<u32>().map_err(|e| format!("{name}: {e}"));
            match name.as_str() {
                "--tracker" => this.tracker = Some(value),
                "--close" => this.close = value == "yes",
                "--connections" => this.connections = number()?.clamp(1, 10_000),
                "--seconds" => this.seconds = u64::from(number()?).min(SECONDS_MAX),
                "--peers" => this.peers = number()?.clamp(1, PEERS_MAX),
                "--swarms" => this.swarms = number()?.max(1),
                "--wanted" => this.wanted = u16::try_from(number()?).map_err(|e| e.to_string())?,
                "--threads" => this.threads = number()?.clamp(1, 64) as usize,
                _ => return Err(format!("unknown option {name}")),
            }
        }
        Ok(this)
    }

    /// A request of a peer, ready to be sent.
    fn request(&self, number: u32, token: u64, wanted: u16) -> Vec<u8> {
        match &self.tracker {
            Some(path) => self.announce(path, number, wanted),
            None => self.join(number, token, wanted),
        }
    }

    fn join(&self, number: u32, token: u64, wanted: u16) -> Vec<u8> {
        let id = peer_id(number);
        let content = format!("content {}", number % self.swarms).parse();
        let mut join = JoinRequest::new(content.expect("an id"), id.into(), Scope::Lan);
        join.left = u64::from(!(number / self.swarms).is_multiple_of(4));
        join.peers_wanted = wanted;
        join.reported_ip = Some((0x0a00_0001 + number).into());
        if token != 0 {
            join.token = Some(JoinToken(token));
            join.event = JoinEvent::Update;
        }
        let body = join.to_json();
        let mut request = format!(
            "POST /array/join/ HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(&body);
        request
    }

    fn announce(&self, path: &str, number: u32, wanted: u16) -> Vec<u8> {
        let swarm = number % self.swarms;
        let left = u32::from(!(number / self.swarms).is_multiple_of(4));
        // A tracker tells peers apart by address and port.
        let port = 1024 + number / self.swarms % 60_000;
        format!(
            "GET {path}?info_hash=swarm-{swarm:014}&peer_id=-XX0001-{number:012}&port={port}&uploaded=0&downloaded=0&left={left}&compact=1&numwant={wanted} HTTP/1.1\r\nHost: {}\r\n\r\n",
            self.address
        )
        .into_bytes()
    }
}

/// What all connections count together.
struct Counts {
    next: AtomicU32,
    answers: AtomicU64,
    bytes: AtomicU64,
    tokens: Vec<AtomicU64>,
    /// Answers that took less than 2ⁿ microseconds.
    times: [AtomicU64; 32],
}

fn main() -> io::Result<()> {
    let load = Arc::new(Load::from_args().map_err(io::Error::other)?);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(load.threads)
        .enable_all()
        .build()?
        .block_on(run(load))
}

async fn run(load: Arc<Load>) -> io::Result<()> {
    let counts = Arc::new(Counts {
        next: AtomicU32::new(0),
        answers: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        tokens: (0..load.peers).map(|_| AtomicU64::new(0)).collect(),
        times: Default::default(),
    });
    let began = Instant::now();
    phase(&load, &counts, None).await?;
    let filled = began.elapsed().as_secs_f64();
    println!(
        "{} peers in {} swarms joined in {filled:.1} s: {:.0} a second",
        load.peers,
        load.swarms,
        f64::from(load.peers) / filled
    );
    for counter in [&counts.answers, &counts.bytes]
        .into_iter()
        .chain(&counts.times)
    {
        counter.store(0, Relaxed);
    }
    let began = Instant::now();
    phase(
        &load,
        &counts,
        Some(began + Duration::from_secs(load.seconds)),
    )
    .await?;
    let took = began.elapsed().as_secs_f64();
    let answers = counts.answers.load(Relaxed);
    #[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
    let per_second = |count: u64| count as f64 / took;
    println!(
        "{:.0} joins a second, {} peers wanted, over {took:.1} s; {:.0} MB/s of answers; half within {} µs, 99 % within {} µs",
        per_second(answers),
        load.wanted,
        per_second(counts.bytes.load(Relaxed)) / 1e6,
        within(&counts, answers / 2),
        within(&counts, answers / 100 * 99)
    );
    Ok(())
}

/// The power of two of microseconds that so many answers took less than.
fn within(counts: &Counts, answers: u64) -> u64 {
    let mut sum = 0;
    for (power, count) in counts.times.iter().enumerate() {
        sum += count.load(Relaxed);
        if sum >= answers {
            return 1 << power;
        }
    }
    u64::MAX
}

/// Lets every connection ask until the peers have all joined, or until the end.
async fn phase(load: &Arc<Load>, counts: &Arc<Counts>, end: Option<Instant>) -> io::Result<()> {
    counts.next.store(0, Relaxed);
    let mut asking = JoinSet::new();
    for connection in 0..load.connections {
        let (load, counts) = (load.clone(), counts.clone());
        asking.spawn(async move { ask(&load, &counts, connection, end).await });
    }
    while let Some(done) = asking.join_next().await {
        done.map_err(io::Error::other)??;
    }
    Ok(())
}

async fn ask(
    load: &Load,
    counts: &Counts,
    connection: u32,
    end: Option<Instant>,
) -> io::Result<()> {
    let mut stream = None;
    let mut answer = vec![0; 1 << 17];
    let mut state = connection.wrapping_mul(0x9e37_79b9) | 1;
    loop {
        let number = match end {
            None => counts.next.fetch_add(1, Relaxed),
            Some(end) if Instant::now() >= end => return Ok(()),
            Some(_) => {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 4) % load.peers
            }
        };
        if number >= load.peers {
            return Ok(());
        }
        let slot = &counts.tokens[number as usize];
        let wanted = if end.is_some() { load.wanted } else { 0 };
        let request = load.request(number, slot.load(Relaxed), wanted);
        let began = Instant::now();
        let connected = match &mut stream {
            Some(stream) => stream,
            None => {
                let fresh = TcpStream::connect(load.address).await?;
                fresh.set_nodelay(true)?;
                stream.insert(fresh)
            }
        };
        connected.write_all(&request).await?;
        let (bytes, stays) = read_answer(connected, &mut answer).await?;
        if load.close || !stays {
            stream = None;
        }
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        counts.times[(64 - micros.leading_zeros() as usize).min(31)].fetch_add(1, Relaxed);
        counts.answers.fetch_add(1, Relaxed);
        counts.bytes.fetch_add(bytes as u64, Relaxed);
        if end.is_none() && load.tracker.is_none() {
            slot.store(token_of(&answer[..bytes])?, Relaxed);
        }
    }
}

/// Reads one answer; says how long it is and whether the connection stays open.
async fn read_answer(stream: &mut TcpStream, answer: &mut [u8]) -> io::Result<(usize, bool)> {
    let mut have = 0;
    loop {
        let read = stream.read(&mut answer[have..]).await?;
        have += read;
        let text = &answer[..have];
        let head = text.windows(4).position(|part| part == b"\r\n\r\n");
        let Some(head) = head else {
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            continue;
        };
        if !text.starts_with(b"HTTP/1.1 200") && !text.starts_with(b"HTTP/1.0 200") {
            let text = String::from_utf8_lossy(text).into_owned();
            return Err(io::Error::other(format!("refused: {text}")));
        }
        match content_length(&text[..head]) {
            Some(length) if have >= head + 4 + length => return Ok((have, true)),
            Some(_) if read > 0 => {}
            None if read == 0 => return Ok((have, false)),
            None => {}
            Some(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn content_length(head: &[u8]) -> Option<usize> {
    let head = std::str::from_utf8(head).ok()?;
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let named = name.eq_ignore_ascii_case("content-length");
        named.then(|| value.trim().parse().ok())?
    })
}

/// The token is the last field of an answer.
fn token_of(answer: &[u8]) -> io::Result<u64> {
    let digits = answer
        .len()
        .checked_sub(18)
        .and_then(|from| std::str::from_utf8(&answer[from..from + 16]).ok());
    digits
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .ok_or_else(|| io::Error::other("a peer was not listed"))
}
