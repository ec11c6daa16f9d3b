use super::*;
use proptest::prelude::*;

const BLOCK: RawBlock = RawBlock {
    piece: 1,
    offset: 0x10_0000,
    length: 0x4000,
};

fn encoded(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(&mut out);
    out
}

/// One of each, with its bytes as Wireshark's MS-DO dissector reads them.
fn golden() -> Vec<(Message, &'static [u8])> {
    vec![
        (Message::KeepAlive, b"\0\0\0\0"),
        (Message::Choke, b"\0\0\0\x01\x00"),
        (Message::Unchoke, b"\0\0\0\x01\x01"),
        (Message::Interested, b"\0\0\0\x01\x02"),
        (Message::NotInterested, b"\0\0\0\x01\x03"),
        (Message::Have(0x01020304), b"\0\0\0\x05\x04\x01\x02\x03\x04"),
        (
            Message::Bitfield(Bytes::from_static(b"\x80\x40")),
            b"\0\0\0\x03\x05\x80\x40",
        ),
        (Message::Bitfield(Bytes::new()), b"\0\0\0\x01\x05"),
        (
            Message::Request(BLOCK),
            b"\0\0\0\x0d\x06\0\0\0\x01\0\x10\0\0\0\0\x40\0",
        ),
        (
            Message::Piece {
                piece: 1,
                offset: 2,
                data: Bytes::from_static(b"abc"),
            },
            b"\0\0\0\x0c\x07\0\0\0\x01\0\0\0\x02abc",
        ),
        (
            Message::Cancel(BLOCK),
            b"\0\0\0\x0d\x08\0\0\0\x01\0\x10\0\0\0\0\x40\0",
        ),
        (
            Message::Extension(Bytes::from_static(b"dosvc\x01")),
            b"\0\0\0\x07\x14dosvc\x01",
        ),
    ]
}

#[test]
fn golden_bytes_of_every_message() {
    for (message, bytes) in golden() {
        assert_eq!(encoded(&message), bytes, "{message:?}");
        let mut input = Bytes::from_static(bytes);
        assert_eq!(Message::decode(&mut input), Ok(Some(message)));
        assert!(input.is_empty());
    }
}

#[test]
fn a_part_of_a_message_waits_for_the_rest() {
    for (message, bytes) in golden() {
        for end in 0..bytes.len() {
            let mut input = Bytes::from_static(&bytes[..end]);
            assert_eq!(Message::decode(&mut input), Ok(None), "{message:?} {end}");
            assert_eq!(input, bytes[..end], "nothing is taken");
        }
    }
}

#[test]
fn a_length_past_the_limit_is_refused_before_the_id_is_there() {
    assert_eq!(
        Header::decode(&0x1F_4001_u32.to_be_bytes()),
        Err(DecodeError::TooLong(0x1F_4001))
    );
    assert_eq!(
        Header::decode(&[0xff; 4]),
        Err(DecodeError::TooLong(u32::MAX))
    );
    assert_eq!(Header::decode(&0x1F_4000_u32.to_be_bytes()), Ok(None));
    assert_eq!(
        DecodeError::TooLong(0x1F_4001).hresult(),
        HResult::MESSAGE_TOO_LONG
    );
}

#[test]
fn an_unknown_id_is_refused() {
    for id in (9..20).chain(21..=255) {
        assert_eq!(
            Header::decode(&[0, 0, 0, 1, id]),
            Err(DecodeError::UnknownId(id))
        );
    }
}

#[test]
fn a_length_that_does_not_fit_its_id_is_refused() {
    for (id, right) in [(0, 1), (1, 1), (2, 1), (3, 1), (4, 5), (6, 13), (8, 13)] {
        for length in [right - 1, right + 1, MESSAGE_LEN_MAX] {
            if length == 0 {
                continue;
            }
            let mut bytes = length.to_be_bytes().to_vec();
            bytes.push(id);
            assert_eq!(
                Header::decode(&bytes),
                Err(DecodeError::WrongLength { id, length })
            );
        }
    }
    assert_eq!(
        Header::decode(&[0, 0, 0, 9, 7]),
        Err(DecodeError::WrongLength { id: 7, length: 9 }),
        "a block of no bytes"
    );
}

#[test]
fn the_largest_block_fits_a_message() {
    let mut out = Vec::new();
    let block = RawBlock {
        length: PIECE_PAYLOAD_MAX,
        ..BLOCK
    };
    Header::Piece(block).encode(&mut out);
    assert_eq!(Header::decode(&out), Ok(Some((Header::Piece(block), 13))));
}

fn raw() -> impl Strategy<Value = RawBlock> {
    any::<(u32, u32, u32)>().prop_map(|(piece, offset, length)| RawBlock {
        piece,
        offset,
        length,
    })
}

fn message() -> impl Strategy<Value = Message> {
    let data = || proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
    prop_oneof![
        Just(Message::KeepAlive),
        Just(Message::Choke),
        Just(Message::Unchoke),
        Just(Message::Interested),
        Just(Message::NotInterested),
        any::<u32>().prop_map(Message::Have),
        data().prop_map(Message::Bitfield),
        raw().prop_map(Message::Request),
        (
            any::<u32>(),
            any::<u32>(),
            data().prop_filter("a block has bytes", |d| !d.is_empty())
        )
            .prop_map(|(piece, offset, data)| Message::Piece {
                piece,
                offset,
                data
            }),
        raw().prop_map(Message::Cancel),
        data().prop_map(Message::Extension),
    ]
}

proptest! {
    #[test]
    fn messages_round_trip_one_behind_the_other(
        messages in proptest::collection::vec(message(), 0..20)
    ) {
        let mut out = Vec::new();
        messages.iter().for_each(|m| m.encode(&mut out));
        let mut input = Bytes::from(out);
        for message in messages {
            prop_assert_eq!(Message::decode(&mut input), Ok(Some(message)));
        }
        prop_assert!(input.is_empty());
    }

    #[test]
    fn what_decodes_encodes_to_the_same_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(Some((header, used))) = Header::decode(&bytes) {
            let mut out = Vec::new();
            header.encode(&mut out);
            prop_assert_eq!(&out[..], &bytes[..used]);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(id in 0u8..22, length in 0u32..64, rest: Vec<u8>) {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.push(id);
        bytes.extend(rest);
        let mut input = Bytes::from(bytes);
        while let Ok(Some(_)) = Message::decode(&mut input) {}
    }
}
