//! Pieces that are passed on while they arrive: a real engine between a giver and takers that a test plays.

#[allow(
    dead_code,
    unreachable_pub,
    reason = "shared by test programs, each of which uses a part of it"
)]
mod support;

use dosvc_content::PeerId;
use dosvc_engine::api::GetRequest;
use dosvc_wire::{
    CAPABILITY_PARTS, CAPABILITY_RELAYS, EXTENSION_VERSION, Extension, Handshake, Header, Message,
    RELAY_HELD, RawBlock, net,
};
use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};
use support::{Node, Origin, PATIENCE, content, hash_file};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Barrier,
};

const MIB: usize = 1 << 20;
const PIECES: usize = 12;
/// The giver sends so much at a time, and then rests.
const STEP: usize = 32 << 10;
const REST: Duration = Duration::from_millis(2);

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
            stream.read_exact(&mut payload).await.ok()?;
            return Some((header, payload));
        }
    }
}

/// Has everything, and sends each block slowly, one after the other, as `bytes` has it, once there are two takers: what
/// is held already goes out in no time, and then nothing is worth passing on early.
async fn giver(bytes: Arc<Vec<u8>>, takers: Arc<Barrier>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(give(stream, Arc::clone(&bytes), Arc::clone(&takers)));
        }
    });
    address
}

async fn give(mut stream: TcpStream, bytes: Arc<Vec<u8>>, takers: Arc<Barrier>) -> Option<()> {
    let theirs = net::receive_handshake(&mut stream, PATIENCE).await.ok()?;
    let ours = Handshake::new(theirs.swarm, PeerId::from_random([1; 16]));
    net::send_handshake(&mut stream, &ours).await.ok()?;
    let (mut read, mut write) = stream.into_split();
    let all = Message::Bitfield(vec![0xff, 0xf0].into());
    say(&mut write, &[hello(), all, Message::Unchoke]).await?;
    takers.wait().await;
    loop {
        let (Header::Request(asked), _) = hear(&mut read).await? else {
            continue;
        };
        let from = asked.piece as usize * MIB + asked.offset as usize;
        let block = &bytes[from..from + asked.length as usize];
        let mut offset = asked.offset;
        for data in block.chunks(STEP) {
            let part = Message::Piece {
                piece: asked.piece,
                offset,
                data: data.to_vec().into(),
            };
            say(&mut write, &[part]).await?;
            offset += u32::try_from(data.len()).expect("short");
            tokio::time::sleep(REST).await;
        }
    }
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
async fn taker(
    node: SocketAddr,
    id: u8,
    bytes: Arc<Vec<u8>>,
    takers: Arc<Barrier>,
    abandoned_max: usize,
) -> Taken {
    let mut stream = net::dial(node, PATIENCE).await.expect("listening");
    let swarm = hash_file(&expected(), 1 << 20).hash_of_hashes();
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

/// An engine that downloads from the giver alone, and two takers, so that it offers.
async fn passed_on(given: Vec<u8>, abandoned_max: usize) -> (Node, [Taken; 2]) {
    let origin = Origin::start().await;
    let url = origin.publish("a.bin", &expected());
    let given = Arc::new(given);
    let takers = Arc::new(Barrier::new(3));
    let giver = giver(Arc::clone(&given), Arc::clone(&takers)).await;
    let node = Node::start(&[("delay_background_download_from_http", "600")], &[]).await;
    let at = node.address();
    let request = GetRequest {
        urls: vec![url],
        peers: vec![giver],
        ..GetRequest::default()
    };
    let job = node.request(request).await;
    // It knows the content by now, and has nothing yet.
    node.until(job, |s| s.num_peers > 0).await;
    let taken = async {
        tokio::join!(
            taker(
                at,
                2,
                Arc::clone(&given),
                Arc::clone(&takers),
                abandoned_max
            ),
            taker(
                at,
                3,
                Arc::clone(&given),
                Arc::clone(&takers),
                abandoned_max
            ),
        )
    };
    let (one, other) = tokio::time::timeout(PATIENCE * 2, taken)
        .await
        .expect("in time");
    (node, [one, other])
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_go_on_while_they_arrive_and_end_when_they_are_verified() {
    let (_node, taken) = passed_on(expected(), usize::MAX).await;
    let early: usize = taken.iter().map(|t| t.early).sum();
    assert!(early >= PIECES / 2, "{early} began before they were here");
    let abandoned: usize = taken.iter().map(|t| t.abandoned).sum();
    assert_eq!(abandoned, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_that_were_passed_on_are_abandoned_before_their_end() {
    let mut wrong = expected();
    // The last byte of each piece: nothing is known to be wrong before all of it is here.
    (0..PIECES).for_each(|piece| wrong[(piece + 1) * MIB - 1] ^= 1);
    let (_node, taken) = passed_on(wrong, 1).await;
    assert!(taken.iter().all(|t| t.whole == 0 && t.abandoned == 1));
}
