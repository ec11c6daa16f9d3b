//! Peers written here, from the protocol's description alone: an honest one, to test the lab itself, and bad ones that
//! the program under test must survive.

use crate::{content::Content, daemon::SWARM_PORT, namespace::Node};
use std::{
    fs::File,
    io::{self, ErrorKind, Read, Write},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

const PROTOCOL_NAME: &[u8; 14] = b"Swarm protocol";
const VERSION: [u8; 8] = [0, 0, 0, 1, 0, 0, 0, 0];
const HANDSHAKE_BYTES: usize = 75;
const SWARM_HASH_AT: usize = 23;
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Message ids.
const UNCHOKE: u8 = 1;
const INTERESTED: u8 = 2;
const BITFIELD: u8 = 5;
const REQUEST: u8 = 6;
const PIECE: u8 = 7;
const EXTENSION: u8 = 20;
/// What an extension message begins with that offers pieces.
const OFFER: &[u8] = b"dosvc\x05";

/// How a peer behaves once it is connected. Each says that it has every piece.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Answers every request with the right bytes.
    Honest,
    /// Answers every request with wrong bytes.
    Wrong,
    /// Answers nothing.
    Silent,
    /// Right bytes, and then a message that does not exist.
    Babbling,
}

/// A peer that listens on a machine.
pub(crate) struct Peer {
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
    address: SocketAddr,
}

struct Shared {
    manner: Manner,
    swarm_hash: [u8; 32],
    piece_bytes: u64,
    piece_count: u32,
    file: File,
    stop: AtomicBool,
    connections: AtomicU64,
    requests: AtomicU64,
    bytes_sent: AtomicU64,
}

impl Peer {
    /// Listens on the swarm port of `node` for those who want `content`.
    pub(crate) fn start(node: &Node, content: &Content, manner: Manner) -> Self {
        let lengths = content.hash_file.lengths();
        let shared = Arc::new(Shared {
            manner,
            swarm_hash: *content.swarm_hash().as_bytes(),
            piece_bytes: lengths.piece_size().into(),
            piece_count: lengths.piece_count(),
            file: File::open(content.path()).expect("the content exists"),
            stop: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
        });
        let listener = node
            .enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, SWARM_PORT)))
            .expect("the port is free");
        listener
            .set_nonblocking(true)
            .expect("a listener can be polled");
        let accepting = thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept_all(&listener, &shared)
        });
        Self {
            shared,
            accepting: Some(accepting),
            address: node.address(SWARM_PORT),
        }
    }

    /// What `--peer` takes.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Requests that it has received.
    pub(crate) fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Connections that were made to it.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Bytes of content, right or wrong, that it has sent.
    pub(crate) fn bytes_sent(&self) -> u64 {
        self.shared.bytes_sent.load(Ordering::Relaxed)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(accepting) = self.accepting.take() {
            let _panicked = accepting.join();
        }
    }
}

fn accept_all(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut connections = Vec::new();
    while !shared.stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                shared.connections.fetch_add(1, Ordering::Relaxed);
                let shared = Arc::clone(shared);
                // A connection that ends in an error ends as any other does.
                connections.push(thread::spawn(move || drop(serve(&stream, &shared))));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(POLL_INTERVAL),
            Err(error) => panic!("accept: {error}"),
        }
    }
    for connection in connections {
        let _panicked = connection.join();
    }
}

fn serve(mut stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(POLL_INTERVAL))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    let mut handshake_read = [0; HANDSHAKE_BYTES];
    shared.read_exact(stream, &mut handshake_read)?;
    if handshake_read[SWARM_HASH_AT..][..32] != shared.swarm_hash {
        return Ok(());
    }
    stream.write_all(&handshake(&shared.swarm_hash))?;
    // A capture can be read only when the handshake is alone in its segment.
    thread::sleep(POLL_INTERVAL);
    stream.write_all(&message(BITFIELD, &[&shared.full_bitfield()]))?;
    stream.write_all(&message(UNCHOKE, &[]))?;
    loop {
        let mut length = [0; 4];
        shared.read_exact(stream, &mut length)?;
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        shared.read_exact(stream, &mut body)?;
        if body.first() == Some(&REQUEST) {
            shared.requests.fetch_add(1, Ordering::Relaxed);
            shared.answer(stream, &body[1..])?;
        }
    }
}

impl Shared {
    fn full_bitfield(&self) -> Vec<u8> {
        let mut bits = vec![0xff; self.piece_count.div_ceil(8) as usize];
        if let (Some(last), 1..) = (bits.last_mut(), self.piece_count % 8) {
            *last = 0xff << (8 - self.piece_count % 8);
        }
        bits
    }

    fn answer(&self, mut stream: &TcpStream, request: &[u8]) -> io::Result<()> {
        let number =
            |at: usize| u32::from_be_bytes(request[at..at + 4].try_into().expect("four bytes"));
        let (piece, offset, length) = (number(0), number(4), number(8));
        if self.manner == Manner::Silent {
            return Ok(());
        }
        let mut data = vec![0; length as usize];
        self.file.read_exact_at(
            &mut data,
            u64::from(piece) * self.piece_bytes + u64::from(offset),
        )?;
        if self.manner == Manner::Wrong {
            data[length as usize / 2] ^= 1;
        }
        stream.write_all(&message(PIECE, &[&request[..8], &data]))?;
        self.bytes_sent.fetch_add(length.into(), Ordering::Relaxed);
        if self.manner == Manner::Babbling {
            const NO_SUCH_MESSAGE: u8 = 99;
            stream.write_all(&message(NO_SUCH_MESSAGE, &[b"?"]))?;
        }
        Ok(())
    }

    /// As `Read::read_exact`, but ends when the peer is stopped.
    fn read_exact(&self, mut stream: &TcpStream, buffer: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            match stream.read(&mut buffer[filled..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => filled += n,
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    if self.stop.load(Ordering::Relaxed) {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Connects to `address` from `node`, asks for a swarm and returns whatever comes until the other side closes or
/// nothing has come for `patience`.
pub(crate) fn knock(
    node: &Node,
    address: SocketAddr,
    content: &Content,
    patience: Duration,
) -> io::Result<Knock> {
    node.enter(|| {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        let mut answer = Vec::new();
        // A peer that closes at once may do so before it has read all.
        let closed = stream
            .write_all(&handshake(content.swarm_hash().as_bytes()))
            .is_err()
            || match stream.read_to_end(&mut answer) {
                Ok(_) => true,
                Err(error) => error.kind() == ErrorKind::ConnectionReset,
            };
        Ok(Knock { answer, closed })
    })
}

/// What came of a knock.
#[derive(Debug)]
pub(crate) struct Knock {
    pub(crate) answer: Vec<u8>,
    /// The other side has closed the connection.
    pub(crate) closed: bool,
}

/// Fetches the first pieces of a content from one peer, one after the other, as a machine that knows the published
/// protocol alone: anything but a whole block for each request is an error, and so is an offer.
pub(crate) fn fetch(
    node: &Node,
    address: SocketAddr,
    content: &Content,
    pieces: u32,
) -> io::Result<()> {
    node.enter(|| {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.write_all(&handshake(content.swarm_hash().as_bytes()))?;
        stream.read_exact(&mut [0; HANDSHAKE_BYTES])?;
        stream.write_all(&message(INTERESTED, &[]))?;
        let lengths = content.hash_file.lengths();
        let mut asked: Option<[[u8; 4]; 3]> = None;
        let mut wanted = (0..pieces).map(|index| {
            lengths
                .piece(index)
                .expect("the content has so many pieces")
        });
        loop {
            let body = read_message(&mut stream)?;
            match body[0] {
                UNCHOKE if asked.is_none() => {}
                PIECE => {
                    let [piece, offset, length] = asked.ok_or(ErrorKind::InvalidData)?;
                    let head = [&[PIECE], piece.as_slice(), &offset].concat();
                    if !body.starts_with(&head) || body.len() - head.len() != length_of(length) {
                        let got = body.len() - head.len();
                        return Err(io::Error::other(format!("{got} bytes for one block")));
                    }
                }
                EXTENSION if body[1..].starts_with(OFFER) => {
                    return Err(io::Error::other("an offer to who speaks no extensions"));
                }
                _ => continue,
            }
            let Some(piece) = wanted.next() else {
                return Ok(());
            };
            let fields = [piece.get(), 0, lengths.len(piece)].map(u32::to_be_bytes);
            stream.write_all(&message(REQUEST, &[fields.as_flattened()]))?;
            asked = Some(fields);
        }
    })
}

fn length_of(field: [u8; 4]) -> usize {
    u32::from_be_bytes(field) as usize
}

/// The next message that is not a keep-alive: its id, then its payload.
fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut body = vec![0; length_of(length)];
        stream.read_exact(&mut body)?;
        if !body.is_empty() {
            return Ok(body);
        }
    }
}

fn handshake(swarm_hash: &[u8; 32]) -> Vec<u8> {
    const PEER_ID: [u8; 16] = *b"a peer of a test";
    let mut bytes = vec![14];
    bytes.extend(PROTOCOL_NAME);
    bytes.extend(VERSION);
    bytes.extend(swarm_hash);
    bytes.extend(PEER_ID);
    bytes.extend([0; 4]);
    assert_eq!(bytes.len(), HANDSHAKE_BYTES, "the handshake's fields");
    bytes
}

fn message(id: u8, payload: &[&[u8]]) -> Vec<u8> {
    let payload = payload.concat();
    let length = u32::try_from(1 + payload.len()).expect("messages are short");
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.push(id);
    bytes.extend(payload);
    bytes
}
