use crate::rig::*;
use bytes::Bytes;
use dosvc_content::{Bitfield, Block, PieceIndex, PieceLengths};
use dosvc_wire::net::*;
use dosvc_wire::{CAPABILITY_PARTS, EXTENSION_VERSION, Extension, Header, Message};
use std::collections::HashMap;
use std::sync::Arc;

const PIECES: u32 = 64;
/// Requests open at once.
const PIPELINE: usize = 40;

fn lengths() -> PieceLengths {
    PieceLengths::new(u64::from(PIECES * MIB), u64::from(MIB)).expect("valid")
}

/// Every other piece whole, the others cut at random into blocks of up to 64 KiB.
fn cut(seed: u64) -> Vec<Block> {
    println!("seed {seed}");
    let mut seed = seed;
    let mut blocks = Vec::new();
    for piece in 0..PIECES {
        let mut at = 0;
        while at < MIB {
            let most = if piece % 2 == 0 {
                MIB
            } else {
                1 + (next(&mut seed) as u32 & 0xffff)
            };
            let len = most.min(MIB - at);
            blocks.push(lengths().block(piece, at, len).expect("inside"));
            at += len;
        }
    }
    blocks
}

/// One side: serves what is asked for, half of it from the file, and fetches every block of `wanted`.
async fn exchange(
    mut side: Driven,
    bytes: Bytes,
    mut wanted: Vec<Block>,
    done: Arc<tokio::sync::Barrier>,
) {
    let file = file_of(&bytes);
    let mut progress: HashMap<Block, u32> = HashMap::new();
    let (mut open, mut requested, mut served) = (0, 0, 0);
    // What is asked for before that is not sent.
    let mut unchoked = false;
    side.send(Command::Bitfield(Bitfield::full(PIECES)));
    side.send(Command::Interested(true));
    side.send(Command::Unchoke);
    let place = |b: Block| {
        let at = usize::try_from(lengths().block_offset(b)).expect("fits");
        at..at + b.len() as usize
    };
    while !wanted.is_empty() || open > 0 {
        let (_, event) = side.events.recv().await.expect("open until all is there");
        match event {
            Event::Bitfield(field) => assert!(field.is_full()),
            Event::Requested(block) => {
                requested += 1;
                let body = if requested % 2 == 0 {
                    let offset = lengths().block_offset(block);
                    Body::File {
                        file: Arc::clone(&file),
                        offset,
                    }
                } else {
                    Body::Bytes(bytes.slice(place(block)))
                };
                side.send(Command::Serve { block, body });
            }
            Event::Progress { block, bytes } => *progress.entry(block).or_default() += bytes,
            Event::Received { block, data } => {
                assert!(data[..] == bytes[place(block)], "{block:?} differs");
                assert!(progress.remove(&block).unwrap_or(0) <= block.len());
                open -= 1;
            }
            Event::Served { .. } => served += 1,
            Event::Unchoked => unchoked = true,
            Event::Interested(true) | Event::Extension(_) => {}
            other => panic!("{other:?}"),
        }
        while unchoked
            && open < PIPELINE
            && let Some(block) = wanted.pop()
        {
            side.send(Command::Request(block));
            open += 1;
        }
    }
    assert!(progress.is_empty(), "progress of a block that never came");
    // The other side may still fetch: serve until it is done too.
    let mut waiting = Box::pin(done.wait());
    loop {
        tokio::select! {
            // The other side may be gone as soon as both are done.
            biased;
            _ = &mut waiting => break,
            event = side.events.recv() => match event.expect("open").1 {
                Event::Requested(block) => {
                    requested += 1;
                    side.send(Command::Serve { block, body: Body::Bytes(bytes.slice(place(block))) });
                }
                Event::Served { .. } => served += 1,
                _ => {}
            },
        }
    }
    side.send(Command::Close);
    while let Some((_, event)) = side.events.recv().await {
        served += u32::from(matches!(event, Event::Served { .. }));
    }
    assert_eq!(requested, served);
    assert!(matches!(
        side.task.await,
        Ok(CloseReason::Local | CloseReason::Peer)
    ));
    assert_eq!(side.pool.in_use(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_peers_exchange_64_mib_both_ways_at_once() {
    let bytes = Bytes::from(content((PIECES * MIB) as usize));
    let (a, b) = streams().await;
    let options = || Options {
        lengths: Some(lengths()),
        ..Options::default()
    };
    let done = Arc::new(tokio::sync::Barrier::new(2));
    let (a, b) = (Driven::new(a, options()), Driven::new(b, options()));
    // One way whole blocks, the other way parts.
    a.send(Command::Extension(hello(CAPABILITY_PARTS)));
    let run = async {
        tokio::join!(
            exchange(a, bytes.clone(), cut(0xfeed), Arc::clone(&done)),
            exchange(b, bytes.clone(), cut(0xbeef), Arc::clone(&done)),
        )
    };
    tokio::time::timeout(PATIENCE, run)
        .await
        .expect("no deadlock");
}

/// A driven side that has unchoked the raw one, and the other way round.
async fn open(options: Options) -> (Driven, Raw) {
    let (mut driven, mut raw) = against_raw(options).await;
    driven.send(Command::Unchoke);
    assert_eq!(raw.header().await, Header::Unchoke);
    raw.send(&Message::Unchoke).await;
    assert!(matches!(driven.next().await, Event::Unchoked));
    (driven, raw)
}

#[tokio::test]
async fn a_cancel_takes_an_unbegun_block_out_of_the_queue() {
    let gate = Gate::new();
    let (mut driven, mut raw) = open(Options {
        up: gate.clone(),
        ..Options::default()
    })
    .await;
    let blocks = [0, 1, 2, 3].map(|piece| block(piece, 0, 100_000));
    for asked in blocks {
        raw.send(&Message::Request(asked.into())).await;
        assert!(matches!(driven.next().await, Event::Requested(b) if b == asked));
        let body = Body::Bytes(vec![asked.piece().get() as u8; 100_000].into());
        driven.send(Command::Serve { block: asked, body });
    }
    assert_eq!(raw.header().await, Header::Piece(blocks[0].into()));
    // The first is under way: its cancel comes too late. The others are not.
    for cancelled in [blocks[0], blocks[1], blocks[2]] {
        raw.send(&Message::Cancel(cancelled.into())).await;
    }
    for cancelled in [blocks[1], blocks[2]] {
        assert!(matches!(driven.next().await, Event::Cancelled(b) if b == cancelled));
    }
    gate.open(1 << 20);
    assert_eq!(raw.payload(100_000).await, vec![0; 100_000]);
    assert_eq!(raw.header().await, Header::Piece(blocks[3].into()));
    assert_eq!(raw.payload(100_000).await, vec![3; 100_000]);
    for served in [blocks[0], blocks[3]] {
        assert!(matches!(driven.next().await, Event::Served { block } if block == served));
    }
}

/// Who gave up on a peer for that would throw away what is there, and under a low limit get no further ever.
#[tokio::test]
async fn a_block_that_waits_for_the_limit_goes_on_telling_and_no_peer_is_told_silent() {
    let gate = Gate::new();
    let (mut driven, mut raw) = open(Options {
        down: gate.clone(),
        ..Options::default()
    })
    .await;
    let wanted = block(0, 0, 10_000);
    driven.send(Command::Request(wanted));
    raw.header().await;
    raw.send(&Message::Piece {
        piece: 0,
        offset: 0,
        data: vec![1; 10_000].into(),
    })
    .await;
    let begun = std::time::Instant::now();
    // The beginning comes with the header, which nobody has to pay for.
    let mut here = 0;
    for _ in 0..3 {
        let told = tokio::time::timeout(PATIENCE, driven.events.recv()).await;
        let Ok(Some((_, Event::Progress { block, bytes }))) = told else {
            panic!("{told:?}");
        };
        assert_eq!(block, wanted);
        here += bytes;
    }
    assert!(here < 10_000, "{here} bytes passed a shut gate");
    assert!(begun.elapsed() > std::time::Duration::from_secs(1));
    gate.open(10_000);
    let event = driven.next().await;
    assert!(
        matches!(&event, Event::Received { block, data } if *block == wanted && data[..] == [1; 10_000]),
        "{event:?}"
    );
}

#[tokio::test]
async fn a_block_that_comes_after_its_cancel_is_dropped() {
    let (mut driven, mut raw) = open(Options::default()).await;
    let (late, wanted) = (block(0, 0, 300_000), block(10, 0, 5));
    for command in [
        Command::Request(late),
        Command::Cancel(late),
        Command::Request(wanted),
    ] {
        driven.send(command);
        raw.header().await;
    }
    for (sent, byte) in [(late, 1), (wanted, 2)] {
        let data = vec![byte; sent.len() as usize].into();
        let (piece, offset) = (sent.piece().get(), sent.offset());
        raw.send(&Message::Piece {
            piece,
            offset,
            data,
        })
        .await;
    }
    let event = driven.next().await;
    assert!(
        matches!(&event, Event::Received { block, data } if *block == wanted && data[..] == [2; 5]),
        "{event:?}"
    );
}

#[tokio::test]
async fn what_our_choke_makes_void_is_not_served() {
    let gate = Gate::new();
    let (mut driven, mut raw) = open(Options {
        up: gate.clone(),
        ..Options::default()
    })
    .await;
    for piece in [0, 1] {
        let asked = block(piece, 0, 1000);
        raw.send(&Message::Request(asked.into())).await;
        assert!(matches!(driven.next().await, Event::Requested(_)));
        let body = Body::Bytes(vec![0; 1000].into());
        driven.send(Command::Serve { block: asked, body });
    }
    assert_eq!(raw.header().await, Header::Piece(block(0, 0, 1000).into()));
    driven.send(Command::Choke);
    // Who commanded the second answer hears that it is not sent.
    let void = block(1, 0, 1000);
    assert!(matches!(driven.next().await, Event::Cancelled(b) if b == void));
    gate.open(1000);
    raw.payload(1000).await;
    assert!(matches!(driven.next().await, Event::Served { .. }));
    assert_eq!(raw.header().await, Header::Choke);
    // The same with one that is commanded too late.
    let body = Body::Bytes(vec![0; 1000].into());
    driven.send(Command::Serve { block: void, body });
    assert!(matches!(driven.next().await, Event::Cancelled(b) if b == void));
    driven.send(Command::Unchoke);
    assert_eq!(raw.header().await, Header::Unchoke, "and no second block");
}

#[tokio::test]
async fn messages_go_between_two_blocks() {
    let gate = Gate::new();
    let (mut driven, mut raw) = open(Options {
        up: gate.clone(),
        ..Options::default()
    })
    .await;
    let blocks = [block(0, 0, 50_000), block(1, 0, 50_000)];
    for asked in blocks {
        raw.send(&Message::Request(asked.into())).await;
        assert!(matches!(driven.next().await, Event::Requested(_)));
        let body = Body::Bytes(vec![0; 50_000].into());
        driven.send(Command::Serve { block: asked, body });
    }
    assert_eq!(raw.header().await, Header::Piece(blocks[0].into()));
    let piece: PieceIndex = small_content().piece(4).expect("inside");
    driven.send(Command::Have(piece));
    driven.send(Command::Request(block(5, 0, 9)));
    driven.send(Command::Extension(Extension::MetainfoRequest {
        first: 0,
        count: 1,
    }));
    gate.open(100_000);
    raw.payload(50_000).await;
    assert_eq!(raw.header().await, Header::Have(4));
    assert_eq!(raw.header().await, Header::Request(block(5, 0, 9).into()));
    assert_eq!(raw.header().await, Header::Extension { length: 14 });
    raw.payload(14).await;
    assert_eq!(raw.header().await, Header::Piece(blocks[1].into()));
}

fn hello(capabilities: u32) -> Extension {
    Extension::Hello {
        version: EXTENSION_VERSION,
        capabilities,
        listen_port: 0,
        nonce: [0; 16],
    }
}

/// On a slow link a whole block takes long; a Have must not wait for its end.
#[tokio::test]
async fn messages_go_between_the_parts_of_one_block() {
    let gate = Gate::new();
    let (mut driven, mut raw) = open(Options {
        up: gate.clone(),
        ..Options::default()
    })
    .await;
    let mut payload = Vec::new();
    hello(CAPABILITY_PARTS).encode(&mut payload);
    raw.send(&Message::Extension(payload.into())).await;
    assert!(matches!(driven.next().await, Event::Extension(_)));
    let asked = block(0, 0, MIB);
    raw.send(&Message::Request(asked.into())).await;
    assert!(matches!(driven.next().await, Event::Requested(_)));
    let bytes = content(MIB as usize);
    let body = Body::Bytes(bytes.clone().into());
    driven.send(Command::Serve { block: asked, body });
    let mut got = Vec::new();
    let mut have_after = None;
    while got.len() < bytes.len() {
        match raw.header().await {
            Header::Have(4) => have_after = Some(got.len()),
            Header::Piece(part) => {
                assert_eq!(part.offset as usize, got.len());
                if got.is_empty() {
                    driven.send(Command::Have(small_content().piece(4).expect("inside")));
                }
                gate.open(part.length as usize);
                got.extend(raw.payload(part.length as usize).await);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(got == bytes);
    assert!(have_after.is_some_and(|at| at < bytes.len() / 2));
    assert!(matches!(driven.next().await, Event::Served { block } if block == asked));
}

/// A swarm task that is busy for a while stops this connection's reading, not its writing.
#[tokio::test]
async fn it_still_sends_while_nobody_takes_its_events() {
    let (mut driven, mut raw) = open(Options {
        events_max: 1,
        ..Options::default()
    })
    .await;
    let asked = block(0, 0, MIB);
    raw.send(&Message::Request(asked.into())).await;
    assert!(matches!(driven.next().await, Event::Requested(_)));
    let mut flood = Vec::new();
    for _ in 0..5000 {
        Message::Have(3).encode(&mut flood);
    }
    raw.bytes(&flood).await;
    let file = file_of(&content(MIB as usize));
    let body = Body::File { file, offset: 0 };
    driven.send(Command::Serve { block: asked, body });
    assert_eq!(raw.header().await, Header::Piece(asked.into()));
    assert_eq!(raw.payload(MIB as usize).await, content(MIB as usize));
    driven.send(Command::Interested(true));
    assert_eq!(raw.header().await, Header::Interested);
    let mut haves = 0;
    while haves < 5000 {
        match driven.next().await {
            Event::Have(_) => haves += 1,
            Event::Served { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn both_directions_move_while_the_other_stands_still() {
    let (up, down) = (Gate::new(), Gate::new());
    let (mut driven, mut raw) = open(Options {
        up: up.clone(),
        down: down.clone(),
        ..Options::default()
    })
    .await;
    let (theirs, ours) = (block(0, 0, 200_000), block(1, 0, 200_000));
    raw.send(&Message::Request(theirs.into())).await;
    assert!(matches!(driven.next().await, Event::Requested(_)));
    let body = Body::Bytes(vec![1; 200_000].into());
    driven.send(Command::Serve {
        block: theirs,
        body,
    });
    assert_eq!(raw.header().await, Header::Piece(theirs.into()));
    // The upload waits for its limit, and messages are still read.
    raw.send(&Message::Have(5)).await;
    assert!(matches!(driven.next().await, Event::Have(_)));
    assert_eq!(up.taken(), 0);
    driven.send(Command::Request(ours));
    up.open(200_000);
    raw.payload(200_000).await;
    assert_eq!(raw.header().await, Header::Request(ours.into()));
    // The download waits for its limit, and messages are still sent.
    let data = Bytes::from(vec![2; 200_000]);
    raw.send(&Message::Piece {
        piece: 1,
        offset: 0,
        data,
    })
    .await;
    raw.send(&Message::Request(theirs.into())).await;
    assert!(matches!(driven.next().await, Event::Served { .. }));
    driven.send(Command::Have(small_content().piece(0).expect("inside")));
    assert_eq!(raw.header().await, Header::Have(0));
    down.open(200_000);
    assert!(
        matches!(driven.next().await, Event::Received { data, .. } if data[..] == [2; 200_000])
    );
    assert!(matches!(driven.next().await, Event::Requested(_)));
}

#[tokio::test]
async fn lengths_that_come_later_judge_what_was_said_before() {
    let (mut driven, mut raw) = against_raw(Options {
        lengths: None,
        ..Options::default()
    })
    .await;
    raw.send(&Message::Bitfield(vec![0x80, 0x20].into())).await;
    raw.send(&Message::Unchoke).await;
    assert!(matches!(driven.next().await, Event::Unchoked));
    driven.send(Command::Lengths(small_content()));
    assert!(matches!(driven.next().await, Event::Bitfield(f) if f.count() == 2));
    driven.send(Command::Request(block(0, 0, 3)));
    assert_eq!(raw.header().await, Header::Request(block(0, 0, 3).into()));
}

#[tokio::test]
async fn a_file_that_is_too_short_ends_the_connection_and_sends_no_garbage() {
    let (mut driven, mut raw) = open(Options::default()).await;
    let asked = block(0, 0, 1000);
    raw.send(&Message::Request(asked.into())).await;
    assert!(matches!(driven.next().await, Event::Requested(_)));
    let body = Body::File {
        file: file_of(&[7; 600]),
        offset: 0,
    };
    driven.send(Command::Serve { block: asked, body });
    let error = std::io::ErrorKind::UnexpectedEof;
    assert_eq!(
        driven.closed().await,
        CloseReason::Body {
            block: asked,
            error
        }
    );
    assert_eq!(raw.header().await, Header::Piece(asked.into()));
    let mut got = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut raw.0, &mut got)
        .await
        .expect("closed");
    assert_eq!(got, [7; 600]);
}

#[tokio::test]
async fn when_all_command_senders_are_gone_the_connection_ends() {
    let (driven, _raw) = open(Options::default()).await;
    let Driven {
        commands,
        task,
        events: _events,
        ..
    } = driven;
    drop(commands);
    assert_eq!(task.await.expect("no panic"), CloseReason::Local);
}

#[tokio::test]
async fn when_nobody_is_left_to_take_events_the_connection_ends() {
    let (driven, mut raw) = open(Options::default()).await;
    let Driven {
        commands,
        task,
        events,
        ..
    } = driven;
    drop(events);
    raw.send(&Message::Have(1)).await;
    assert_eq!(task.await.expect("no panic"), CloseReason::Abandoned);
    assert!(commands.is_closed());
    assert_eq!(commands.send(Command::Unchoke), Ok(()), "nothing happens");
}

#[tokio::test]
async fn impossible_commands_are_refused() {
    for command in [
        Command::Request(
            PieceLengths::new(1 << 30, 16 << 20)
                .expect("valid")
                .block(0, 0, MIB + 1)
                .expect("inside"),
        ),
        Command::Serve {
            block: block(0, 0, 5),
            body: Body::Bytes(Bytes::from_static(b"four")),
        },
    ] {
        let (driven, _raw) = open(Options::default()).await;
        driven.send(command);
        assert!(matches!(driven.closed().await, CloseReason::BadCommand(_)));
    }
}

/// A kind of connection that files cannot be sent to directly, as a QUIC stream will be.
struct Copying(tokio::net::TcpStream);
struct CopyingWrite(tokio::net::tcp::OwnedWriteHalf);

impl Transport for Copying {
    type Read = tokio::net::tcp::OwnedReadHalf;
    type Write = CopyingWrite;

    fn into_halves(self) -> (Self::Read, CopyingWrite) {
        let (read, write) = self.0.into_split();
        (read, CopyingWrite(write))
    }
}

impl WriteHalf for CopyingWrite {
    async fn write(&mut self, bytes: &[u8], _more: bool) -> std::io::Result<usize> {
        tokio::io::AsyncWriteExt::write(&mut self.0, bytes).await
    }
}

#[tokio::test]
async fn a_file_goes_also_over_what_it_must_be_copied_to() {
    let (a, b) = streams().await;
    let (mut driven, mut raw) = (Driven::new(Copying(a), Options::default()), Raw(b));
    driven.send(Command::Unchoke);
    assert_eq!(raw.header().await, Header::Unchoke);
    let bytes = content(MIB as usize);
    let file = file_of(&bytes);
    for asked in [block(0, 0, MIB), block(0, 77, 700_000), block(1, 0, 9)] {
        raw.send(&Message::Request(asked.into())).await;
        assert!(matches!(driven.next().await, Event::Requested(_)));
        let body = Body::File {
            file: Arc::clone(&file),
            offset: small_content().block_offset(asked),
        };
        driven.send(Command::Serve { block: asked, body });
        assert_eq!(raw.header().await, Header::Piece(asked.into()));
        if asked.piece().get() == 0 {
            let from = asked.offset() as usize;
            let got = raw.payload(asked.len() as usize).await;
            assert!(got == bytes[from..from + got.len()]);
            assert!(matches!(driven.next().await, Event::Served { .. }));
        }
    }
    let asked = block(1, 0, 9);
    let error = std::io::ErrorKind::UnexpectedEof;
    let reason = driven.closed().await;
    assert_eq!(
        reason,
        CloseReason::Body {
            block: asked,
            error
        },
        "past the file's end"
    );
}
