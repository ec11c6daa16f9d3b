//! Blocks that are passed on while they arrive.

use crate::rig::*;
use dosvc_content::Block;
use dosvc_wire::net::*;
use dosvc_wire::{
    CAPABILITY_PARTS, CAPABILITY_RELAYS, EXTENSION_VERSION, Extension, Header, Message, RELAY_HELD,
    RawBlock, Violation,
};
use std::ops::Range;

const HELD: usize = RELAY_HELD as usize;
const LEN: usize = MIB as usize;

fn hello() -> Extension {
    Extension::Hello {
        version: EXTENSION_VERSION,
        capabilities: CAPABILITY_PARTS | CAPABILITY_RELAYS,
        listen_port: 0,
        nonce: [0; 16],
    }
}

fn extension(extension: &Extension) -> Message {
    let mut payload = Vec::new();
    extension.encode(&mut payload);
    Message::Extension(payload.into())
}

fn abandon(block: Block) -> Message {
    extension(&Extension::Abandon(block.into()))
}

/// A machine in the middle with a connection to each side; a test plays who gives to it and who takes of it.
struct Chain {
    giver: Raw,
    inward: Driven,
    outward: Driven,
    taker: Raw,
    feeds: Feeds,
    bytes: Vec<u8>,
}

impl Chain {
    async fn new() -> Self {
        let feeds = Feeds::default();
        let options = || Options {
            feeds: feeds.clone(),
            ..Options::default()
        };
        let (mut inward, mut giver) = against_raw(options()).await;
        inward.send(Command::Extension(hello()));
        giver.extension().await;
        giver.send(&Message::Unchoke).await;
        assert!(matches!(inward.next().await, Event::Unchoked));
        let (mut outward, mut taker) = against_raw(options()).await;
        taker.send(&extension(&hello())).await;
        assert!(matches!(outward.next().await, Event::Extension(_)));
        outward.send(Command::Unchoke);
        assert_eq!(taker.header().await, Header::Unchoke);
        Self {
            giver,
            inward,
            outward,
            taker,
            feeds,
            bytes: content(LEN),
        }
    }

    /// The middle asks for the block, and passes on what comes of it.
    async fn relay(&mut self, block: Block) {
        self.inward.send(Command::Request(block));
        assert_eq!(self.giver.header().await, Header::Request(block.into()));
        self.ask(block).await;
        let feed = self.feeds.open(KEY, block);
        self.outward.send(Command::Relay { block, feed });
    }

    async fn ask(&mut self, block: Block) {
        self.taker.send(&Message::Request(block.into())).await;
        let asked = self.outward.next().await;
        assert!(matches!(asked, Event::Requested(b) if b == block));
    }

    /// The giver sends these bytes of the block.
    async fn give(&mut self, block: Block, range: Range<usize>) {
        let mut message = Vec::new();
        let length = range.len() as u32;
        Header::Piece(part(block, range.start as u32, length)).encode(&mut message);
        message.extend(&self.bytes[range]);
        self.giver.bytes(&message).await;
    }

    /// These bytes of the block come to the taker, in parts, and nothing beyond.
    async fn take(&mut self, block: Block, range: Range<usize>) {
        let mut at = range.start;
        while at < range.end {
            match self.taker.header().await {
                Header::Piece(raw) => {
                    assert_eq!(raw, part(block, at as u32, raw.length));
                    let bytes = self.taker.payload(raw.length as usize).await;
                    assert!(bytes == self.bytes[at..at + bytes.len()]);
                    at += bytes.len();
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(at, range.end);
    }

    /// What comes next to the taker is a message, as nothing more of a block may.
    async fn have(&mut self) {
        let piece = small_content().piece(3).expect("inside");
        self.outward.send(Command::Have(piece));
        assert_eq!(self.taker.header().await, Header::Have(3));
    }

    fn release(&self, block: Block) {
        let (file, offset) = (file_of(&self.bytes), 0);
        let body = Body::File { file, offset };
        self.outward.send(Command::Release { block, body });
    }

    async fn served(&mut self, block: Block) {
        let served = self.outward.next().await;
        assert!(matches!(served, Event::Served { block: of } if of == block));
    }

    async fn abandoned(&mut self, block: Block) {
        let payload = self.taker.extension().await;
        let message = Extension::decode(&payload).expect("ours are valid");
        assert_eq!(message, Some(Extension::Abandon(block.into())));
    }
}

fn part(block: Block, offset: u32, length: u32) -> RawBlock {
    RawBlock {
        offset,
        length,
        ..block.into()
    }
}

#[tokio::test]
async fn what_has_come_goes_on_at_once_and_the_end_once_it_is_verified() {
    let mut chain = Chain::new().await;
    let block = block(0, 0, MIB);
    chain.relay(block).await;
    chain.give(block, 0..LEN / 2).await;
    chain.take(block, 0..LEN / 2).await;
    // Nothing more comes for a while, and messages go out all the same.
    chain.have().await;
    chain.give(block, LEN / 2..LEN).await;
    let received = chain.inward.next().await;
    assert!(matches!(received, Event::Received { .. }));
    chain.take(block, LEN / 2..LEN - HELD).await;
    chain.have().await;
    chain.release(block);
    chain.take(block, LEN - HELD..LEN).await;
    chain.served(block).await;
}

#[tokio::test]
async fn verified_before_it_began_it_goes_like_any_other() {
    let mut chain = Chain::new().await;
    let (first, second) = (block(0, 0, MIB), block(1, 0, MIB));
    chain.relay(first).await;
    chain.relay(second).await;
    chain.release(second);
    chain.release(first);
    for block in [first, second] {
        chain.take(block, 0..LEN).await;
        chain.served(block).await;
    }
}

#[tokio::test]
async fn what_is_abandoned_is_told_and_may_be_asked_for_again() {
    let mut chain = Chain::new().await;
    let (block, behind) = (block(0, 0, MIB), block(1, 0, MIB));
    chain.relay(block).await;
    chain.relay(behind).await;
    chain.give(block, 0..LEN / 2).await;
    chain.take(block, 0..LEN / 2).await;
    // One that has not begun, between the parts of the other.
    chain.outward.send(Command::Abandon(behind));
    chain.abandoned(behind).await;
    chain.outward.send(Command::Abandon(block));
    chain.abandoned(block).await;
    let body = Body::Bytes(chain.bytes.clone().into());
    chain.ask(block).await;
    chain.outward.send(Command::Serve { block, body });
    chain.take(block, 0..LEN).await;
    chain.served(block).await;
}

#[tokio::test]
async fn a_source_that_stops_ends_nothing_before_a_command_does() {
    let mut chain = Chain::new().await;
    let block = block(0, 0, MIB);
    chain.relay(block).await;
    chain.give(block, 0..LEN / 2).await;
    chain.take(block, 0..LEN / 2).await;
    chain.feeds.close(KEY, block);
    chain.have().await;
    chain.release(block);
    chain.take(block, LEN / 2..LEN).await;
    chain.served(block).await;
}

#[tokio::test]
async fn a_block_that_its_giver_abandons_leaves_nothing_and_may_come_again() {
    let mut chain = Chain::new().await;
    let block = block(0, 0, MIB);
    for _ in 0..2 {
        chain.inward.send(Command::Request(block));
        assert_eq!(chain.giver.header().await, Header::Request(block.into()));
        chain.give(block, 0..LEN / 2).await;
        chain.giver.send(&abandon(block)).await;
        let abandoned = chain.inward.next().await;
        assert!(matches!(abandoned, Event::Abandoned(b) if b == block));
    }
    chain.inward.send(Command::Request(block));
    assert_eq!(chain.giver.header().await, Header::Request(block.into()));
    chain.give(block, 0..LEN).await;
    match chain.inward.next().await {
        Event::Received { data, .. } => assert!(data[..] == chain.bytes[..]),
        other => panic!("{other:?}"),
    }
    assert_eq!(chain.inward.pool.in_use(), 0);
}

#[tokio::test]
async fn abandoning_what_nobody_asked_for_changes_nothing() {
    let (mut driven, mut peer) = against_raw(Options::default()).await;
    driven.send(Command::Extension(hello()));
    peer.extension().await;
    peer.send(&Message::Unchoke).await;
    assert!(matches!(driven.next().await, Event::Unchoked));
    let (asked, other) = (block(0, 0, 100), block(1, 0, 100));
    driven.send(Command::Request(asked));
    assert_eq!(peer.header().await, Header::Request(asked.into()));
    let mut part: RawBlock = asked.into();
    part.length = 50;
    let mut message = Vec::new();
    Header::Piece(part).encode(&mut message);
    peer.bytes(&message).await;
    peer.bytes(&[7; 50]).await;
    // Between the parts of the one that was asked for.
    peer.send(&abandon(other)).await;
    message.clear();
    part.offset = 50;
    Header::Piece(part).encode(&mut message);
    peer.bytes(&message).await;
    peer.bytes(&[7; 50]).await;
    let received = driven.next().await;
    assert!(matches!(received, Event::Received { data, .. } if data[..] == [7; 100]));
    // It is here: too late.
    peer.send(&abandon(asked)).await;
    peer.send(&Message::Have(2)).await;
    assert!(matches!(driven.next().await, Event::Have(_)));

    let outside = RawBlock {
        piece: 99,
        ..asked.into()
    };
    peer.send(&extension(&Extension::Abandon(outside))).await;
    let violation = CloseReason::Misbehaved(Violation::BadRange(outside));
    assert_eq!(driven.closed().await, violation);
}
