//! Pieces that are passed on while they arrive: a real engine between a giver and takers that a test plays.

#[allow(
    dead_code,
    unreachable_pub,
    reason = "shared by test programs, each of which uses a part of it"
)]
mod support;

use dosvc_content::PeerId;
use dosvc_engine::{Engine, EngineConfig, api::GetRequest};
use dosvc_wire::{
    CAPABILITY_PARTS, CAPABILITY_RELAYS, EXTENSION_VERSION, Extension, Handshake, Header, Message,
    RELAY_HELD, RawBlock, net,
};
use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};
use support::{Node, Origin, PATIENCE, config, content, hash_file};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Barrier,
    task::JoinSet,
};

const MIB: usize = 1 << 20;
const PIECES: usize = 12;
/// The giver sends so much at a time, and then rests.
const GIVEN: usize = 32 << 10;
const GIVER_RESTS: Duration = Duration::from_millis(2);
/// Takers are faster, but a piece takes so long to go out that it is worth passing on early, on a busy machine too.
const TAKEN: usize = 64 << 10;
const TAKER_RESTS: Duration = Duration::from_millis(1);

fn hello() -> Message {
    let hello = Extension::Hello {
        version: EXTENSION_VERSION,
        capabilities: CAPABILITY_PARTS | CAPABILITY_RELAYS,
        listen_port: 0,
        nonce: [0; 16],
    };
    let mut payload = Vec::new();
    hello.encode(&mut payload);
    Message::Extension(payload.into())
}

async fn say(stream: &mut OwnedWriteHalf, messages: &[Message]) -> Option<()> {
    let mut bytes = Vec::new();
    messages.iter().for_each(|m| m.encode(&mut bytes));
    stream.write_all(&bytes).await.ok()
}

/// The next header and what follows it, a block's bytes included.
async fn hear(stream: &mut OwnedReadHalf) -> Option<(Header, Vec<u8>)> {
    let mut head = Vec::new();
    loop {
        head.push(stream.read_u8().await.ok()?);
        if let Some((header, _)) = Header::decode(&head).expect("ours are valid") {
            let mut payload = vec![0; header.payload_len() as usize];
            for part in payload.chunks_mut(TAKEN) {
                stream.read_exact(part).await.ok()?;
                if part.len() == TAKEN {
                    tokio::time::sleep(TAKER_RESTS).await;
                }
            }
            return Some((header, payload));
        }
    }
}

/// Has everything, and sends block after block once there are two takers; of those after the first `right` the last byte
/// is wrong, so that nothing is known to be wrong before all of it is here.
async fn giver(right: usize, takers: Arc<Barrier>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(give(stream, right, Arc::clone(&takers)));
        }
    });
    address
}

async fn give(mut stream: TcpStream, right: usize, takers: Arc<Barrier>) -> Option<()> {
    let theirs = net::receive_handshake(&mut stream, PATIENCE).await.ok()?;
    let ours = Handshake::new(theirs.swarm, PeerId::from_random([1; 16]));
    net::send_handshake(&mut stream, &ours).await.ok()?;
    let (mut read, mut write) = stream.into_split();
    let all = Message::Bitfield(vec![0xff, 0xf0].into());
    say(&mut write, &[hello(), all, Message::Unchoke]).await?;
    takers.wait().await;
    let bytes = expected();
    let mut given = 0;
    loop {
        let (Header::Request(asked), _) = hear(&mut read).await? else {
            continue;
        };
        let from = asked.piece as usize * MIB + asked.offset as usize;
        let mut block = bytes[from..from + asked.length as usize].to_vec();
        if given >= right {
            *block.last_mut()? ^= 1;
        }
        given += 1;
        let mut offset = asked.offset;
        for data in block.chunks(GIVEN) {
            let part = Message::Piece {
                piece: asked.piece,
                offset,
                data: data.to_vec().into(),
            };
            say(&mut write, &[part]).await?;
            offset += u32::try_from(data.len()).expect("short");
            tokio::time::sleep(GIVER_RESTS).await;
        }
    }
}

/// A connection that takes little before it is read.
async fn dial(node: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(u32::try_from(TAKEN).expect("little"))?;
    socket.connect(node).await
}

/// What came to a taker.
#[derive(Default)]
struct Taken {
    /// Blocks of which something came before the engine had their piece.
    early: usize,
    whole: usize,
    abandoned: usize,
}

/// Takes each offer, until it was offered everything and has it, or so many blocks were abandoned.
async fn taker(node: SocketAddr, id: u8, takers: Arc<Barrier>, abandoned_max: usize) -> Taken {
    let bytes = expected();
    let mut stream = dial(node).await.expect("listening");
    let swarm = hash_file(&bytes, 1 << 20).hash_of_hashes();
    let ours = Handshake::new(swarm, PeerId::from_random([id; 16]));
    net::send_handshake(&mut stream, &ours)
        .await
        .expect("accepted");
    net::receive_handshake(&mut stream, PATIENCE)
        .await
        .expect("it serves this");
    let (mut read, mut write) = stream.into_split();
    say(&mut write, &[hello(), Message::Interested])
        .await
        .expect("open");
    takers.wait().await;
    let mut taken = Taken::default();
    let mut had = [false; PIECES];
    let mut here: HashMap<u32, usize> = HashMap::new();
    while taken.whole < PIECES && taken.abandoned < abandoned_max {
        let (header, payload) = hear(&mut read).await.expect("not cut off");
        match header {
            Header::Have(piece) => had[piece as usize] = true,
            Header::Bitfield { .. } => {
                for (piece, had) in had.iter_mut().enumerate() {
                    *had |= payload[piece / 8] & 0x80 >> (piece % 8) != 0;
                }
            }
            Header::Piece(RawBlock { piece, offset, .. }) => {
                let got = here.entry(piece).or_default();
                assert_eq!(*got, offset as usize, "in order");
                taken.early += usize::from(*got == 0 && !had[piece as usize]);
                let from = piece as usize * MIB + *got;
                assert!(payload == bytes[from..from + payload.len()]);
                *got += payload.len();
                assert!(
                    had[piece as usize] || *got <= MIB - RELAY_HELD as usize,
                    "the end of piece {piece} before it is verified"
                );
                if *got == MIB {
                    taken.whole += 1;
                    say(&mut write, &[Message::Have(piece)])
                        .await
                        .expect("open");
                }
            }
            Header::Extension { .. } => {
                match Extension::decode(&payload).expect("ours are valid") {
                    Some(Extension::Offer { pieces, .. }) => {
                        let ask = |piece| {
                            let (offset, length) = (0, 1 << 20);
                            Message::Request(RawBlock {
                                piece,
                                offset,
                                length,
                            })
                        };
                        let asks: Vec<Message> = pieces.into_iter().map(ask).collect();
                        say(&mut write, &asks).await.expect("open");
                    }
                    Some(Extension::Abandon(block)) => {
                        here.remove(&block.piece);
                        taken.abandoned += 1;
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
    taken
}

fn expected() -> Vec<u8> {
    content(77, PIECES * MIB)
}

/// An engine that downloads from the giver alone, whose first `right` blocks are right, and two takers, so that it offers.
async fn passed_on(right: usize, pass_on_early: bool, abandoned_max: usize) -> Vec<Taken> {
    let origin = Origin::start().await;
    let url = origin.publish("a.bin", &expected());
    let all_there = Arc::new(Barrier::new(3));
    let giver = giver(right, Arc::clone(&all_there)).await;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let engine = Engine::start(EngineConfig {
        pass_on_early,
        ..config(&dir, &[("delay_background_download_from_http", "600")], &[])
    });
    let node = Node {
        engine: engine.await.expect("starts"),
        dir,
    };
    let at = node.address();
    let request = GetRequest {
        urls: vec![url],
        peers: vec![giver],
        ..GetRequest::default()
    };
    let job = node.request(request).await;
    // It knows the content by now, and has nothing yet.
    node.until(job, |s| s.num_peers > 0).await;
    let mut takers: JoinSet<Taken> = [2, 3]
        .map(|id| taker(at, id, Arc::clone(&all_there), abandoned_max))
        .into_iter()
        .collect();
    let mut taken: Vec<Taken> = Vec::new();
    // One to whom a block was abandoned is enough: the other one may not have asked for it.
    while taken.iter().all(|t| t.abandoned == 0) {
        let next = tokio::time::timeout(PATIENCE * 2, takers.join_next());
        let Some(next) = next.await.expect("in time") else {
            break;
        };
        taken.push(next.expect("no panic"));
    }
    taken
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_go_on_while_they_arrive_and_end_when_they_are_verified() {
    let taken = passed_on(PIECES, true, usize::MAX).await;
    let took: Vec<_> = taken.iter().map(|t| (t.whole, t.abandoned)).collect();
    assert_eq!(took, [(PIECES, 0); 2]);
    let early: usize = taken.iter().map(|t| t.early).sum();
    assert!(early >= PIECES / 2, "{early} began before they were here");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_piece_goes_on_before_it_is_verified_where_that_is_wanted() {
    let taken = passed_on(PIECES, false, usize::MAX).await;
    let took: Vec<_> = taken.iter().map(|t| (t.whole, t.early)).collect();
    assert_eq!(took, [(PIECES, 0); 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_that_were_passed_on_are_abandoned_before_their_end() {
    // By then it knows how long a piece takes to go out.
    let right = PIECES / 2;
    let taken = passed_on(right, true, 1).await;
    assert!(taken.iter().any(|t| t.abandoned == 1));
    assert!(taken.iter().all(|t| t.whole <= right));
}
