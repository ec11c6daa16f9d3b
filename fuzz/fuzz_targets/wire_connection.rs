//! A whole conversation with a hostile peer, and with commands of our own in between: no panic, and no event that the
//! protocol's state forbids.
#![no_main]

use arbitrary::Arbitrary;
use dosvc_content::PieceLengths;
use dosvc_wire::{
    Connection, EXTENSION_PREFIX_LEN, Header, Limits, Payload, PeerEvent, REQUESTS_MAX,
};
use libfuzzer_sys::fuzz_target;
use std::time::Instant;

const PIECE_SIZE: u64 = 64 << 10;

#[derive(Arbitrary, Debug)]
struct Input {
    pieces: u16,
    lengths_known: bool,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Receive(Vec<u8>),
    Choke,
    Unchoke,
    Interested(bool),
    Have(u16),
    Request(u16, u16),
    Cancel(u16, u16),
    LearnLengths,
}

fuzz_target!(|input: Input| {
    // A last piece of one byte less than a whole one.
    let bytes = u64::from(input.pieces) * PIECE_SIZE + PIECE_SIZE - 1;
    let lengths = PieceLengths::new(bytes, PIECE_SIZE).expect("within the bounds");
    let now = Instant::now();
    let mut connection = Connection::new(
        input.lengths_known.then_some(lengths),
        Limits::default(),
        now,
    );
    let mut sent = Vec::new();
    for step in &input.steps {
        let block = |piece: u16, offset: u16| lengths.block(piece.into(), offset.into(), 1 << 14);
        match step {
            Step::Receive(bytes) => {
                if receive(&mut connection, now, bytes).is_none() {
                    return;
                }
            }
            Step::Choke => connection.choke(),
            Step::Unchoke => connection.unchoke(),
            Step::Interested(interested) => connection.set_interested(*interested),
            Step::Have(piece) => {
                if let Some(piece) = lengths
                    .piece((*piece).into())
                    .filter(|_| connection.lengths().is_some())
                {
                    connection.have(piece);
                }
            }
            Step::Request(piece, offset) => {
                if let Some(block) =
                    block(*piece, *offset).filter(|_| connection.lengths().is_some())
                {
                    let _asked = connection.request(block);
                }
            }
            Step::Cancel(piece, offset) => {
                if let Some(block) =
                    block(*piece, *offset).filter(|_| connection.lengths().is_some())
                {
                    let _cancelled = connection.cancel(now, block);
                }
            }
            Step::LearnLengths => {
                if connection.lengths().is_none() && connection.set_lengths(lengths).is_err() {
                    return;
                }
            }
        }
        look_at_events(&mut connection);
        connection.poll_transmit(&mut sent);
        sent.clear();
    }
});

/// Feeds bytes as a driver does; `None` when the connection is to be closed.
fn receive(connection: &mut Connection, now: Instant, mut bytes: &[u8]) -> Option<()> {
    while let Some((header, used)) = Header::decode(bytes).ok()? {
        bytes = &bytes[used..];
        connection.handle_received(now, used);
        let payload = connection.handle_header(now, header).ok()?;
        let length = header.payload_len() as usize;
        // A payload that is not all there: the driver would wait for the rest.
        let data = bytes.get(..length)?;
        bytes = &bytes[length..];
        connection.handle_received(now, length);
        match payload {
            Payload::None => assert_eq!(length, 0),
            Payload::Block { block, part } => {
                assert_eq!(part as usize, length);
                assert!(part <= block.len());
            }
            Payload::Drain(drained) => assert_eq!(drained as usize, length),
            Payload::Bitfield(length) => {
                assert_eq!(data.len(), length as usize);
                connection.handle_bitfield(data.to_vec()).ok()?;
            }
            Payload::Extension(length) => {
                let prefix = &data[..data.len().min(EXTENSION_PREFIX_LEN as usize)];
                if connection.handle_extension_prefix(prefix, length).ok()? {
                    connection.handle_extension(data).ok()?;
                }
            }
        }
    }
    Some(())
}

fn look_at_events(connection: &mut Connection) {
    let mut requested = 0;
    while let Some(event) = connection.poll_event() {
        let lengths = connection.lengths();
        match event {
            PeerEvent::Bitfield(field) => {
                assert_eq!(
                    Some(field.piece_count()),
                    lengths.map(PieceLengths::piece_count)
                );
            }
            PeerEvent::Have(piece) => {
                assert!(lengths.is_some_and(|lengths| lengths.piece(piece.get()).is_some()))
            }
            PeerEvent::Requested(block) => {
                requested += 1;
                let lengths = lengths.expect("no request without a content");
                assert!(
                    lengths
                        .block(block.piece().get(), block.offset(), block.len())
                        .is_some()
                );
            }
            _ => {}
        }
    }
    assert!(requested <= REQUESTS_MAX, "{requested} requests are kept");
}
