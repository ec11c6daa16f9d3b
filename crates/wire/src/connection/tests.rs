use super::*;
use crate::codec::Message;
use crate::limits::REQUESTS_MAX;
use bytes::Bytes;
use proptest::prelude::*;

const MIB: u32 = 1 << 20;

fn lengths() -> PieceLengths {
    PieceLengths::new(10 * u64::from(MIB) + 5, u64::from(MIB)).expect("valid")
}

fn block(piece: u32, offset: u32, length: u32) -> Block {
    lengths().block(piece, offset, length).expect("inside")
}

fn new(now: Instant) -> Connection {
    Connection::new(Some(lengths()), Limits::default(), now)
}

/// Feeds whole messages the way a driver does.
fn feed(
    connection: &mut Connection,
    now: Instant,
    message: &Message,
) -> Result<Payload, Violation> {
    let payload = connection.handle_header(now, message.header())?;
    match (payload, message) {
        (Payload::Bitfield(_), Message::Bitfield(bits)) => {
            connection.handle_bitfield(bits.to_vec())?;
        }
        (Payload::Extension(len), Message::Extension(bytes)) => {
            let prefix = &bytes[..bytes.len().min(6)];
            if connection.handle_extension_prefix(prefix, len)? {
                connection.handle_extension(bytes)?;
            }
        }
        _ => {}
    }
    Ok(payload)
}

fn events(connection: &mut Connection) -> Vec<PeerEvent> {
    std::iter::from_fn(|| connection.poll_event()).collect()
}

fn sent(connection: &mut Connection) -> Vec<Message> {
    let mut out = Vec::new();
    connection.poll_transmit(&mut out);
    let mut out = Bytes::from(out);
    std::iter::from_fn(|| Message::decode(&mut out).expect("ours are valid")).collect()
}

fn extension(extension: &Extension) -> Message {
    let mut out = Vec::new();
    extension.encode(&mut out);
    Message::Extension(out.into())
}

/// A connection on which both sides may request.
fn open(now: Instant) -> Connection {
    let mut c = new(now);
    c.unchoke();
    feed(&mut c, now, &Message::Unchoke).expect("allowed");
    events(&mut c);
    sent(&mut c);
    c
}

#[test]
fn both_sides_start_choked_and_not_interested() {
    let now = Instant::now();
    let mut c = new(now);
    assert!(c.is_choked() && c.is_choking() && !c.is_peer_interested());
    assert!(!c.request(block(0, 0, MIB)), "choked");
    for same in [Message::Choke, Message::NotInterested, Message::KeepAlive] {
        feed(&mut c, now, &same).expect("allowed");
    }
    c.choke();
    c.set_interested(false);
    assert_eq!(events(&mut c), [], "nothing changed");
    assert_eq!(sent(&mut c), []);
    c.set_interested(true);
    c.unchoke();
    c.unchoke();
    assert_eq!(sent(&mut c), [Message::Interested, Message::Unchoke]);
    feed(&mut c, now, &Message::Interested).expect("allowed");
    assert_eq!(events(&mut c), [PeerEvent::Interested(true)]);
}

#[test]
fn a_bitfield_is_the_first_message_or_an_error() {
    let now = Instant::now();
    let field = Message::Bitfield(Bytes::from_static(&[0x80, 0x20]));
    let mut c = new(now);
    feed(&mut c, now, &Message::KeepAlive).expect("allowed");
    feed(&mut c, now, &extension(&Extension::GroupProof([0; 32]))).expect("allowed before it");
    feed(&mut c, now, &field).expect("first");
    let told = events(&mut c);
    assert!(
        matches!(&told[1], PeerEvent::Bitfield(f) if f.count() == 2),
        "{told:?}"
    );
    assert_eq!(feed(&mut c, now, &field), Err(Violation::LateBitfield));
    let mut c = new(now);
    feed(&mut c, now, &Message::Have(1)).expect("allowed");
    assert_eq!(feed(&mut c, now, &field), Err(Violation::LateBitfield));
}

#[test]
fn a_bitfield_that_does_not_fit_is_refused_by_its_length() {
    let now = Instant::now();
    let wrong = Header::Bitfield { length: 3 };
    assert_eq!(
        new(now).handle_header(now, wrong),
        Err(BitfieldError::WrongLength { got: 3, want: 2 }.into())
    );
    let spare = Message::Bitfield(Bytes::from_static(&[0, 0x10]));
    assert_eq!(
        feed(&mut new(now), now, &spare),
        Err(BitfieldError::SpareBits.into())
    );
}

#[test]
fn pieces_told_before_the_lengths_are_known_are_judged_later() {
    let now = Instant::now();
    let unknown = || Connection::new(None, Limits::default(), now);
    let mut c = unknown();
    feed(
        &mut c,
        now,
        &Message::Bitfield(Bytes::from_static(&[0x80, 0])),
    )
    .expect("kept");
    feed(&mut c, now, &Message::Have(10)).expect("kept");
    assert_eq!(
        feed(&mut c, now, &Message::Have(16)),
        Err(Violation::NoSuchPiece(16)),
        "past the bitfield's end"
    );
    c.set_lengths(lengths()).expect("fits");
    let told = events(&mut c);
    let [PeerEvent::Bitfield(field)] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(
        field.ones().map(PieceIndex::get).collect::<Vec<_>>(),
        [0, 10]
    );

    let mut c = unknown();
    feed(&mut c, now, &Message::Have(3)).expect("kept");
    c.set_lengths(lengths()).expect("fits");
    assert!(matches!(&events(&mut c)[..], [PeerEvent::Bitfield(f)] if f.count() == 1));

    let mut c = unknown();
    c.set_lengths(lengths()).expect("nothing was said");
    assert_eq!(events(&mut c), []);

    let mut c = unknown();
    feed(&mut c, now, &Message::Have(11)).expect("kept");
    assert!(
        c.set_lengths(lengths()).is_err(),
        "a bit past the last piece"
    );
    assert_eq!(
        feed(&mut unknown(), now, &Message::Have(1 << 24)),
        Err(Violation::NoSuchPiece(1 << 24))
    );
}

#[test]
fn each_request_is_answered_once() {
    let now = Instant::now();
    let mut c = open(now);
    let wanted = block(0, 0, MIB);
    assert!(c.request(wanted));
    assert!(!c.request(wanted), "asked for already");
    assert_eq!(sent(&mut c), [Message::Request(wanted.into())]);
    let piece = Header::Piece(wanted.into());
    let whole = Ok(Payload::Block {
        block: wanted,
        part: MIB,
    });
    assert_eq!(c.handle_header(now, piece), whole);
    assert_eq!(
        c.handle_header(now, piece),
        Err(Violation::Unrequested(wanted.into()))
    );
    assert_eq!(c.stats().payload_received, u64::from(MIB));
}

#[test]
fn a_block_with_another_offset_or_length_is_unrequested() {
    let now = Instant::now();
    for other in [block(0, 1, 100), block(0, 0, 99), block(1, 0, 100)] {
        let mut c = open(now);
        c.request(block(0, 0, 100));
        assert_eq!(
            c.handle_header(now, Header::Piece(other.into())),
            Err(Violation::Unrequested(other.into()))
        );
    }
}

#[test]
fn the_late_answer_to_a_withdrawn_request_is_waste() {
    let now = Instant::now();
    let mut c = open(now);
    let wanted = block(2, 0, MIB);
    c.request(wanted);
    assert!(c.cancel(now, wanted) && !c.cancel(now, wanted));
    assert_eq!(sent(&mut c)[1], Message::Cancel(wanted.into()));
    let piece = Header::Piece(wanted.into());
    c.request(wanted);
    let whole = Ok(Payload::Block {
        block: wanted,
        part: MIB,
    });
    assert_eq!(c.handle_header(now, piece), whole, "asked again");
    assert_eq!(c.handle_header(now, piece), Ok(Payload::Drain(MIB)));
    assert_eq!(c.stats().payload_wasted, u64::from(MIB));
    assert!(c.handle_header(now, piece).is_err(), "once only");

    c.request(wanted);
    c.cancel(now, wanted);
    let late = now + WITHDRAWN + Duration::from_secs(1);
    assert!(c.handle_header(late, piece).is_err(), "not for ever");
}

fn hello(capabilities: u32) -> Extension {
    Extension::Hello {
        version: 1,
        capabilities,
        listen_port: 0,
        nonce: [0; 16],
    }
}

fn part(of: Block, from: u32, length: u32) -> Header {
    Header::Piece(block(of.piece().get(), of.offset() + from, length).into())
}

/// A connection whose peer knows that blocks may come in parts.
fn open_for_parts(now: Instant) -> Connection {
    let mut c = open(now);
    c.extension(&hello(CAPABILITY_PARTS));
    sent(&mut c);
    c
}

#[test]
fn a_block_in_parts_counts_as_one_answer() {
    let now = Instant::now();
    let mut c = open_for_parts(now);
    let (wanted, other) = (block(0, 7, 100), block(1, 0, 100));
    c.request(wanted);
    c.request(other);
    for (from, length) in [(0, 60), (60, 1), (61, 39)] {
        let next = Ok(Payload::Block {
            block: wanted,
            part: length,
        });
        assert_eq!(c.handle_header(now, part(wanted, from, length)), next);
        feed(&mut c, now, &Message::Have(3)).expect("messages may come between parts");
    }
    let whole = Ok(Payload::Block {
        block: other,
        part: 100,
    });
    assert_eq!(c.handle_header(now, part(other, 0, 100)), whole);
    assert_eq!(c.stats().payload_received, 200);
    assert!(c.handle_header(now, part(wanted, 0, 60)).is_err(), "once");
}

#[test]
fn parts_come_in_turn_and_only_to_who_said_that_it_takes_them() {
    let now = Instant::now();
    let (wanted, other) = (block(0, 0, 100), block(1, 0, 100));
    let second = [
        part(wanted, 0, 60),
        part(wanted, 59, 41),
        part(wanted, 61, 39),
        part(wanted, 60, 41),
        part(other, 0, 100),
    ];
    for out_of_turn in second {
        let mut c = open_for_parts(now);
        c.request(wanted);
        c.request(other);
        c.handle_header(now, part(wanted, 0, 60)).expect("begun");
        assert!(matches!(
            c.handle_header(now, out_of_turn),
            Err(Violation::OutOfTurn(_))
        ));
    }
    let mut c = open(now);
    c.extension(&hello(0));
    c.request(wanted);
    assert!(matches!(
        c.handle_header(now, part(wanted, 0, 60)),
        Err(Violation::Unrequested(_))
    ));
}

#[test]
fn the_parts_of_a_withdrawn_block_are_waste_and_of_a_begun_one_are_not() {
    let now = Instant::now();
    let mut c = open_for_parts(now);
    let (late, begun) = (block(0, 0, 100), block(1, 0, 100));
    c.request(late);
    c.request(begun);
    assert!(c.cancel(now, late));
    assert_eq!(
        c.handle_header(now, part(late, 0, 60)),
        Ok(Payload::Drain(60))
    );
    assert_eq!(
        c.handle_header(now, part(late, 60, 40)),
        Ok(Payload::Drain(40))
    );
    c.handle_header(now, part(begun, 0, 60)).expect("begun");
    assert!(!c.cancel(now, begun), "too late");
    feed(&mut c, now, &Message::Choke).expect("allowed");
    let rest = Ok(Payload::Block {
        block: begun,
        part: 40,
    });
    assert_eq!(c.handle_header(now, part(begun, 60, 40)), rest);
    assert_eq!(
        (c.stats().payload_wasted, c.stats().payload_received),
        (100, 100)
    );
}

#[test]
fn answers_are_parted_for_peers_that_said_so_with_messages_between() {
    let now = Instant::now();
    let mut c = open(now);
    assert!(!c.may_part_answers());
    feed(&mut c, now, &extension(&hello(CAPABILITY_PARTS))).expect("allowed");
    assert!(c.may_part_answers());
    let mut out = Vec::new();
    c.have(lengths().piece(4).expect("inside"));
    c.answer_part(block(2, 8, 9), 3, 6, &mut out);
    assert_eq!(
        out,
        b"\0\0\0\x05\x04\0\0\0\x04\0\0\0\x0f\x07\0\0\0\x02\0\0\0\x0b"
    );
}

fn abandon(block: Block) -> Message {
    extension(&Extension::Abandon(block.into()))
}

/// What a peer abandons is waited for no longer, whether a part of it is here or nothing.
#[test]
fn an_abandoned_block_may_be_asked_for_again_and_comes_from_its_start() {
    let now = Instant::now();
    for begun in [false, true] {
        let mut c = open(now);
        c.extension(&hello(CAPABILITY_PARTS | CAPABILITY_RELAYS));
        let asked = block(0, 0, 100);
        assert!(c.request(asked));
        if begun {
            let first = Payload::Block {
                block: asked,
                part: 60,
            };
            assert_eq!(c.handle_header(now, part(asked, 0, 60)), Ok(first));
        }
        feed(&mut c, now, &abandon(asked)).expect("allowed");
        assert_eq!(events(&mut c), [PeerEvent::Abandoned(asked)]);
        assert_eq!(c.requests_open(), 0);
        let rest = c.handle_header(now, part(asked, 60, 40));
        assert!(rest.is_err(), "{rest:?}");

        let mut c = open(now);
        c.extension(&hello(CAPABILITY_PARTS | CAPABILITY_RELAYS));
        assert!(c.request(asked));
        feed(&mut c, now, &abandon(asked)).expect("allowed");
        assert!(c.request(asked), "begun: {begun}");
        let whole = Payload::Block {
            block: asked,
            part: 100,
        };
        assert_eq!(c.handle_header(now, part(asked, 0, 100)), Ok(whole));
    }
}

/// The peer abandoned the first request before it heard of the second.
#[test]
fn a_request_that_was_withdrawn_before_is_the_one_that_is_abandoned() {
    let now = Instant::now();
    let mut c = open(now);
    c.extension(&hello(CAPABILITY_PARTS | CAPABILITY_RELAYS));
    let asked = block(0, 0, 100);
    assert!(c.request(asked));
    assert!(c.cancel(now, asked));
    assert!(c.request(asked));
    feed(&mut c, now, &abandon(asked)).expect("allowed");
    assert_eq!((events(&mut c).len(), c.requests_open()), (0, 1));
}

#[test]
fn abandoning_what_nobody_asked_for_means_nothing_and_what_is_no_block_is_refused() {
    let now = Instant::now();
    let asked = block(0, 0, 100);
    let mut plain = open(now);
    assert!(plain.request(asked));
    feed(&mut plain, now, &abandon(asked)).expect("allowed");
    assert_eq!((events(&mut plain).len(), plain.requests_open()), (0, 1));

    let mut c = open(now);
    c.extension(&hello(CAPABILITY_PARTS | CAPABILITY_RELAYS));
    feed(&mut c, now, &abandon(asked)).expect("allowed");
    assert!(events(&mut c).is_empty());
    let outside = RawBlock {
        piece: u32::MAX,
        offset: 0,
        length: 1,
    };
    let refused = feed(&mut c, now, &extension(&Extension::Abandon(outside)));
    assert_eq!(refused, Err(Violation::BadRange(outside)));
}

const WITHDRAWN: Duration = crate::limits::WITHDRAWN_FOR;

#[test]
fn a_choke_voids_our_requests_but_not_what_is_on_its_way() {
    let now = Instant::now();
    let mut c = open(now);
    c.request(block(0, 0, 10));
    c.request(block(1, 0, 10));
    feed(&mut c, now, &Message::Choke).expect("allowed");
    assert_eq!(events(&mut c), [PeerEvent::Choked]);
    assert_eq!(c.requests_open(), 0);
    let piece = Header::Piece(block(0, 0, 10).into());
    assert_eq!(c.handle_header(now, piece), Ok(Payload::Drain(10)));
}

#[test]
fn requests_are_told_only_while_unchoked_and_inside_the_content() {
    let now = Instant::now();
    let wanted = block(3, 5, 100);
    let request = Message::Request(wanted.into());
    let mut c = new(now);
    feed(&mut c, now, &request).expect("ignored");
    assert_eq!(events(&mut c), []);
    c.unchoke();
    feed(&mut c, now, &request).expect("allowed");
    feed(&mut c, now, &request).expect("a second one is ignored");
    assert_eq!(events(&mut c), [PeerEvent::Requested(wanted)]);
    assert_eq!(c.stats().requests_ignored, 2);
    for (piece, offset, length) in [
        (11, 0, 1),
        (10, 0, 6),
        (0, MIB, 1),
        (0, 0, 0),
        (0, 1, u32::MAX),
    ] {
        let raw = RawBlock {
            piece,
            offset,
            length,
        };
        for message in [Message::Request(raw), Message::Cancel(raw)] {
            assert_eq!(feed(&mut c, now, &message), Err(Violation::BadRange(raw)));
        }
    }
    let big = PieceLengths::new(1 << 30, 16 << 20).expect("valid");
    let mut c = Connection::new(Some(big), Limits::default(), now);
    let raw = RawBlock {
        piece: 0,
        offset: 0,
        length: PIECE_PAYLOAD_MAX + 1,
    };
    assert_eq!(
        feed(&mut c, now, &Message::Request(raw)),
        Err(Violation::BadRange(raw)),
        "no message could carry the answer"
    );
}

#[test]
fn a_cancelled_or_refused_request_is_not_answered() {
    let now = Instant::now();
    let (a, b, d) = (block(0, 0, 9), block(1, 0, 9), block(2, 0, 9));
    let mut c = open(now);
    for asked in [a, b, d] {
        feed(&mut c, now, &Message::Request(asked.into())).expect("allowed");
    }
    assert!(c.accept_answer(a) && !c.accept_answer(a), "queued once");
    feed(&mut c, now, &Message::Cancel(a.into())).expect("allowed");
    feed(&mut c, now, &Message::Cancel(a.into())).expect("a second one means nothing");
    c.refuse(b);
    assert!(!c.begin_answer(a) && !c.accept_answer(b));
    assert!(c.accept_answer(d) && c.begin_answer(d));
    let mut out = Vec::new();
    c.answer_part(d, 0, 9, &mut out);
    assert_eq!(out, b"\0\0\0\x12\x07\0\0\0\x02\0\0\0\0");
    c.end_answer(d);
    assert_eq!(c.stats().payload_sent, 9);
    assert_eq!(
        events(&mut c)[3..],
        [PeerEvent::Cancelled(a)],
        "after three requests"
    );
}

#[test]
fn our_choke_forgets_what_the_peer_asked_for() {
    let now = Instant::now();
    let mut c = open(now);
    let wanted = block(0, 0, 9);
    feed(&mut c, now, &Message::Request(wanted.into())).expect("allowed");
    assert!(c.accept_answer(wanted));
    c.choke();
    assert!(!c.begin_answer(wanted));
    c.unchoke();
    feed(&mut c, now, &Message::Request(wanted.into())).expect("allowed");
    assert!(c.accept_answer(wanted));
}

#[test]
fn requests_past_the_cap_are_ignored_and_a_flood_is_an_error() {
    let now = Instant::now();
    let mut c = open(now);
    let nth = |n: u32| Message::Request(block(0, n, 1).into());
    let cap = u32::try_from(REQUESTS_MAX).expect("small");
    for n in 0..cap + REQUESTS_IGNORED_MAX {
        feed(&mut c, now, &nth(n)).expect("kept or ignored");
    }
    assert_eq!(events(&mut c).len(), REQUESTS_MAX);
    assert_eq!(
        feed(&mut c, now, &nth(cap + REQUESTS_IGNORED_MAX)),
        Err(Violation::RequestFlood)
    );
}

#[test]
fn our_bitfield_goes_first_or_as_single_pieces() {
    let now = Instant::now();
    let mut field = Bitfield::new(11);
    let third = lengths().piece(2).expect("inside");
    let mut c = new(now);
    c.bitfield(&field);
    assert_eq!(sent(&mut c), [], "an empty one says nothing");
    field.insert(third);
    c.extension(&Extension::GroupProof([1; 32]));
    c.bitfield(&field);
    assert_eq!(
        sent(&mut c)[1],
        Message::Bitfield(Bytes::from_static(&[0x20, 0]))
    );
    let mut c = new(now);
    c.set_interested(true);
    c.bitfield(&field);
    c.have(third);
    assert_eq!(
        sent(&mut c),
        [Message::Interested, Message::Have(2), Message::Have(2)]
    );
}

#[test]
fn a_bitfield_that_no_message_can_carry_is_not_sent() {
    let huge = PieceLengths::new(1 << 40, 1 << 16).expect("valid");
    let mut c = Connection::new(Some(huge), Limits::default(), Instant::now());
    c.bitfield(&Bitfield::full(huge.piece_count()));
    assert_eq!(c.transmit_len(), 0);
}

#[test]
fn metainfo_comes_only_when_asked_for() {
    let now = Instant::now();
    let answer = |first, n: usize| {
        extension(&Extension::Metainfo {
            content_length: 1,
            piece_size: 1 << 20,
            first,
            hashes: vec![[0; 32].into(); n],
        })
    };
    let mut c = new(now);
    let refused = Err(Violation::UnrequestedMetainfo);
    assert_eq!(feed(&mut c, now, &answer(0, 1)), refused);
    c.extension(&Extension::MetainfoRequest { first: 0, count: 2 });
    assert_eq!(
        feed(&mut c, now, &answer(0, 3)),
        refused,
        "more than asked for"
    );
    assert_eq!(feed(&mut c, now, &answer(1, 1)), refused, "another part");
    feed(&mut c, now, &answer(0, 2)).expect("asked for");
    assert_eq!(
        feed(&mut c, now, &answer(0, 2)),
        refused,
        "answered already"
    );
    assert_eq!(events(&mut c).len(), 1);
}

#[test]
fn metainfo_requests_wait_in_a_short_queue() {
    let now = Instant::now();
    let mut c = new(now);
    let request = extension(&Extension::MetainfoRequest { first: 0, count: 1 });
    for _ in 0..5 {
        feed(&mut c, now, &request).expect("kept or ignored");
    }
    assert_eq!(events(&mut c).len(), METAINFO_REQUESTS_MAX as usize);
    c.extension(&Extension::Metainfo {
        content_length: 0,
        piece_size: 0,
        first: 0,
        hashes: Vec::new(),
    });
    // A peer that does not read the answer is owed no further one: they would gather here.
    feed(&mut c, now, &request).expect("ignored");
    assert_eq!(events(&mut c).len(), 0);
    sent(&mut c);
    feed(&mut c, now, &request).expect("room again");
    assert_eq!(events(&mut c).len(), 1);
}

#[test]
fn the_memory_of_a_long_message_is_not_kept() {
    let mut c = new(Instant::now());
    let mut out = Vec::with_capacity(100);
    c.extension(&Extension::Metainfo {
        content_length: 1,
        piece_size: 1 << 20,
        first: 0,
        hashes: vec![[0; 32].into(); 1000],
    });
    c.poll_transmit(&mut out);
    assert!(out.len() > 32_000);
    assert!(c.transmit.capacity() <= TRANSMIT_KEPT);
    // What comes behind it is kept apart.
    out.truncate(1);
    c.have(lengths().piece(0).expect("the first"));
    c.poll_transmit(&mut out);
    assert_eq!(out.len(), 1 + 9, "a Have behind what was there");
    assert!(c.transmit.capacity() <= TRANSMIT_KEPT);
}

#[test]
fn metainfo_that_nobody_asked_for_is_refused_by_its_first_bytes() {
    let mut c = new(Instant::now());
    let mut prefix = crate::EXTENSION_MAGIC.to_vec();
    prefix.push(4);
    assert_eq!(
        c.handle_extension_prefix(&prefix, 6 + 16 + 32),
        Err(Violation::UnrequestedMetainfo)
    );
    c.extension(&Extension::MetainfoRequest { first: 0, count: 1 });
    assert_eq!(c.handle_extension_prefix(&prefix, 6 + 16 + 32), Ok(true));
}

#[test]
fn a_long_list_of_fetched_pieces_goes_in_several_messages() {
    let mut c = new(Instant::now());
    c.extension(&Extension::Fetching {
        add: (0..5000).collect(),
        drop: vec![1],
    });
    let added: usize = sent(&mut c)
        .iter()
        .map(|message| {
            let Message::Extension(payload) = message else {
                panic!("{message:?}");
            };
            match Extension::decode(payload) {
                Ok(Some(Extension::Fetching { add, .. })) => add.len(),
                other => panic!("{other:?}"),
            }
        })
        .sum();
    assert_eq!(added, 5000);
}

#[test]
fn foreign_extensions_are_dropped_unseen() {
    let now = Instant::now();
    let mut c = new(now);
    for bytes in [&b""[..], b"\0", b"A".repeat(5000).leak()] {
        feed(&mut c, now, &Message::Extension(Bytes::from_static(bytes))).expect("skipped");
    }
    assert_eq!(events(&mut c), []);
}

#[test]
fn keep_alives_go_out_when_nothing_else_does() {
    let start = Instant::now();
    let secs = |s| start + Duration::from_secs(s);
    let mut c = new(start);
    assert_eq!(c.poll_timeout(), secs(60));
    c.handle_sent(secs(30), 5);
    assert_eq!(c.poll_timeout(), secs(90));
    c.handle_timeout(secs(89)).expect("early is harmless");
    assert_eq!(sent(&mut c), []);
    c.handle_timeout(secs(90)).expect("alive");
    assert_eq!(sent(&mut c), [Message::KeepAlive]);
    c.handle_sent(secs(90), 4);
    assert_eq!(c.poll_timeout(), secs(150));
}

#[test]
fn a_silent_peer_expires_and_one_that_we_held_back_does_not() {
    let start = Instant::now();
    let secs = |s| start + Duration::from_secs(s);
    let mut c = new(start);
    c.handle_received(secs(100), 4);
    c.handle_sent(secs(249), 4);
    c.handle_timeout(secs(249)).expect("alive");
    assert_eq!(c.handle_timeout(secs(250)), Err(Expired::Silent));

    let mut c = new(start);
    c.handle_sent(secs(299), 4);
    c.hold_receive(secs(10), true);
    c.handle_timeout(secs(300)).expect("we do not read");
    c.hold_receive(secs(310), false);
    c.handle_sent(secs(459), 4);
    c.handle_timeout(secs(459)).expect("alive");
    assert_eq!(c.handle_timeout(secs(460)), Err(Expired::Silent));
}

#[test]
fn a_peer_that_takes_nothing_expires() {
    let start = Instant::now();
    let secs = |s| start + Duration::from_secs(s);
    let mut c = new(start);
    for at in (60..210).step_by(10) {
        c.handle_received(secs(at), 4);
        c.handle_timeout(secs(at)).expect("alive");
    }
    c.handle_received(secs(210), 4);
    assert_eq!(c.handle_timeout(secs(210)), Err(Expired::Stalled));
    assert_eq!(sent(&mut c), [Message::KeepAlive], "not one more each time");
}

fn any_message() -> impl Strategy<Value = Message> {
    let raw = || {
        (0u32..13, 0u32..3, 0u32..4).prop_map(|(piece, offset, length)| RawBlock {
            piece,
            offset,
            length,
        })
    };
    let data = || proptest::collection::vec(any::<u8>(), 0..4).prop_map(Bytes::from);
    prop_oneof![
        Just(Message::KeepAlive),
        Just(Message::Choke),
        Just(Message::Unchoke),
        Just(Message::Interested),
        (0u32..13).prop_map(Message::Have),
        data().prop_map(Message::Bitfield),
        raw().prop_map(Message::Request),
        raw().prop_map(Message::Cancel),
        (0u32..11, 0u32..3).prop_map(|(piece, offset)| Message::Piece {
            piece,
            offset,
            data: Bytes::from_static(b"x")
        }),
        (0u8..7, data())
            .prop_map(|(kind, d)| Message::Extension([&b"dosvc"[..], &[kind], &d].concat().into())),
    ]
}

/// What an observer sees of one run: results, events and bytes.
fn run(messages: &[Message], known: bool, start: Instant) -> String {
    let mut log = String::new();
    let mut c = Connection::new(known.then(lengths), Limits::default(), start);
    let mut now = start;
    for (n, message) in messages.iter().enumerate() {
        now += Duration::from_millis(1 + n as u64 * 700);
        match n % 5 {
            0 => c.unchoke(),
            1 => {
                c.request(block(u32::try_from(n % 11).expect("small"), 0, 1));
            }
            2 => {
                c.cancel(now, block(u32::try_from(n % 11).expect("small"), 0, 1));
            }
            3 => c.choke(),
            _ => log += &format!("{:?}", c.handle_timeout(now)),
        }
        let result = feed(&mut c, now, message);
        let (told, out) = (events(&mut c), sent(&mut c));
        log += &format!("{result:?} {told:?} {out:?}\n");
        if result.is_err() {
            break;
        }
        if n == 20 {
            log += &format!("{:?}", c.set_lengths(lengths()));
        }
    }
    log + &format!("{:?}", c.stats())
}

proptest! {
    #[test]
    fn any_messages_are_taken_or_refused_and_a_replay_is_the_same(
        messages in proptest::collection::vec(any_message(), 0..60), known: bool
    ) {
        let start = Instant::now();
        prop_assert_eq!(run(&messages, known, start), run(&messages, known, start));
    }
}

#[test]
fn the_last_hello_says_whether_somebody_waits() {
    let now = Instant::now();
    let mut c = open(now);
    assert!(!c.is_waited_for());
    for capabilities in [CAPABILITY_WAITS | CAPABILITY_PARTS, CAPABILITY_PARTS] {
        let mut payload = Vec::new();
        hello(capabilities).encode(&mut payload);
        c.handle_extension(&payload).expect("valid");
        assert_eq!(c.is_waited_for(), capabilities & CAPABILITY_WAITS != 0);
        assert!(c.may_part_answers());
    }
}
