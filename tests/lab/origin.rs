//! A small HTTP server for tests on loopback that need no root: ranges, kept connections, and a gate that lets only so
//! many bytes through.

use crate::content;
use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::FileExt,
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
};

const CHUNK_BYTES: u64 = 64 << 10;

/// The server; it goes on until the test process ends, but sends nothing once this value is dropped.
pub(crate) struct Origin {
    address: SocketAddr,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    open_until: u64,
    sent: HashMap<String, u64>,
    closed: bool,
}

impl Origin {
    /// Serves the folder of contents; of all contents together only so many bytes, until the gate is opened.
    pub(crate) fn with_gate(bytes: u64) -> Self {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let gate = Arc::new(Gate::default());
        gate.open(bytes);
        let of_connections = Arc::clone(&gate);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let gate = Arc::clone(&of_connections);
                // A client may go away at any time.
                thread::spawn(move || drop(converse(&stream, &gate)));
            }
        });
        Self { address, gate }
    }

    /// Serves the folder of contents.
    pub(crate) fn start() -> Self {
        Self::with_gate(u64::MAX)
    }

    pub(crate) fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    /// Address and port, as a cache host is configured.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    /// Lets everything through.
    pub(crate) fn open_gate(&self) {
        self.gate.open(u64::MAX);
    }

    /// Lets nothing more through: whoever asks from now on waits.
    pub(crate) fn shut_gate(&self) {
        let mut state = self.gate.state.lock().expect("no handler panics");
        state.open_until = state.contents_sent();
    }

    /// Bytes of a file that were sent.
    pub(crate) fn bytes_sent(&self, name: &str) -> u64 {
        self.gate
            .state
            .lock()
            .expect("no handler panics")
            .sent
            .get(name)
            .copied()
            .unwrap_or(0)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.gate.state.lock().expect("no handler panics").closed = true;
        self.gate.changed.notify_all();
    }
}

impl Gate {
    fn open(&self, bytes: u64) {
        self.state.lock().expect("no handler panics").open_until = bytes;
        self.changed.notify_all();
    }

    /// Waits until a byte may pass; how many may, at most `wanted`.
    fn pass(&self, name: &str, wanted: u64) -> io::Result<u64> {
        let state = self.state.lock().expect("no handler panics");
        let is_shut =
            |state: &mut GateState| !state.closed && state.contents_sent() >= state.open_until;
        let mut state = self
            .changed
            .wait_while(state, is_shut)
            .expect("no handler panics");
        if state.closed {
            return Err(ErrorKind::ConnectionAborted.into());
        }
        let now = wanted.min(state.open_until - state.contents_sent());
        *state.sent.entry(name.to_owned()).or_default() += now;
        Ok(now)
    }
}

impl GateState {
    fn contents_sent(&self) -> u64 {
        self.sent.values().sum()
    }
}

struct Request {
    is_head: bool,
    name: String,
    range: Option<(u64, Option<u64>)>,
}

fn converse(stream: &TcpStream, gate: &Gate) -> io::Result<()> {
    stream.set_write_timeout(Some(Duration::from_secs(60)))?;
    let mut reader = BufReader::new(stream.take(u64::MAX));
    while let Some(request) = read_request(&mut reader)? {
        answer(stream, gate, &request)?;
    }
    Ok(())
}

fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split(' ');
    let (method, path) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let mut request = Request {
        is_head: method == "HEAD",
        name: path
            .split('?')
            .next()
            .unwrap_or_default()
            .trim_start_matches('/')
            .to_owned(),
        range: None,
    };
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            return Ok(Some(request));
        }
        let (name, value) = line.split_once(':').ok_or(ErrorKind::InvalidData)?;
        if name.eq_ignore_ascii_case("range") {
            let (first, last) = value
                .trim()
                .trim_start_matches("bytes=")
                .split_once('-')
                .ok_or(ErrorKind::InvalidData)?;
            request.range = first.parse().ok().map(|first| (first, last.parse().ok()));
        }
    }
}

fn answer(mut stream: &TcpStream, gate: &Gate, request: &Request) -> io::Result<()> {
    let is_plain_name = !request.name.contains('/') && !request.name.is_empty();
    let file = File::open(content::folder().join(&request.name))
        .ok()
        .filter(|_| is_plain_name);
    let Some(file) = file else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    };
    let length = file.metadata()?.len();
    let (first, end) = match request.range {
        Some((first, last)) => (first, last.map_or(length, |last| length.min(last + 1))),
        None => (0, length),
    };
    if first >= end && length > 0 {
        let head = format!(
            "HTTP/1.1 416 Nope\r\nContent-Range: bytes */{length}\r\nContent-Length: 0\r\n\r\n"
        );
        return stream.write_all(head.as_bytes());
    }
    let status = match request.range {
        Some(_) => format!(
            "206 Partial Content\r\nContent-Range: bytes {first}-{}/{length}",
            end - 1
        ),
        None => "200 OK".to_owned(),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nETag: \"{length}\"\r\nAccept-Ranges: bytes\r\n\r\n",
        end - first
    );
    stream.write_all(head.as_bytes())?;
    if request.is_head {
        return Ok(());
    }
    // Hash files are small and always come through.
    let is_gated = !request.name.ends_with(".phf");
    let mut chunk = vec![0; usize::try_from(CHUNK_BYTES).expect("small")];
    let mut at = first;
    while at < end {
        let wanted = CHUNK_BYTES.min(end - at);
        let now = if is_gated {
            gate.pass(&request.name, wanted)?
        } else {
            wanted
        };
        let chunk = &mut chunk[..usize::try_from(now).expect("at most a chunk")];
        file.read_exact_at(chunk, at)?;
        stream.write_all(chunk)?;
        at += now;
    }
    Ok(())
}
