use super::*;
use proptest::prelude::*;

fn record() -> Record {
    Record {
        content_length: 5_000_000,
        piece_size: 1 << 20,
        content_id: Some("id".into()),
        urls: vec!["http://h/f".into()],
        validator: vec![1, 2],
        added_ms: 1_700_000_000_000,
        expires_ms: None,
        pinned_until_ms: Some(300),
        progress: Progress {
            have_count: 3,
            bytes_have: 3 << 20,
            completed_ms: None,
            last_used_ms: 7,
            scrubbed_ms: 0,
            stamp: Some((1, 2, 5_000_000, -4, 5)),
        },
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The bytes of today must be read by every later version, or the version must change.
#[test]
fn snapshots_keep_their_bytes() {
    let golden_record = concat!(
        "444f534e",
        "01",
        "01",
        "3e000000",
        "0d0d5b444f73b54d",
        "fc404b4c00",
        "fc00001000",
        "01026964",
        "010a687474703a2f2f682f66",
        "020102",
        "fd0068e5cf8b010000",
        "00",
        "01fb2c01",
        "03",
        "fc00003000",
        "00",
        "07",
        "00",
        "010102fc404b4c00070a",
    );
    assert_eq!(hex(&record().to_bytes()), golden_record);
    let mut have = Bitfield::new(10);
    let lengths = PieceLengths::new(10 << 16, 1 << 16).unwrap();
    have.insert(lengths.piece(0).unwrap());
    have.insert(lengths.piece(9).unwrap());
    let golden_claim = concat!(
        "444f534e",
        "01",
        "02",
        "04000000",
        "0b368f4573bde72a",
        "0a028040"
    );
    assert_eq!(hex(&Claim::new(&have).to_bytes()), golden_claim);
}

#[test]
fn snapshots_round_trip() {
    let bytes = record().to_bytes();
    assert_eq!(Record::from_bytes(&bytes), Ok(record()));
    let full = Bitfield::full(1 << 24);
    let claim = Claim::from_bytes(&Claim::new(&full).to_bytes()).unwrap();
    assert_eq!(claim.bitfield(1 << 24), Some(full));
    assert_eq!(claim.bitfield(1 << 23), None);
}

#[test]
fn kinds_are_not_confused() {
    assert_eq!(Claim::from_bytes(&record().to_bytes()), Err(BadSnapshot));
}

#[test]
fn times_survive_the_extremes() {
    assert_eq!(to_ms(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), 0);
    let _ = from_ms(u64::MAX);
    assert_eq!(to_ms(from_ms(1_700_000_000_123)), 1_700_000_000_123);
}

proptest! {
    #[test]
    fn any_change_is_noticed(at in 0usize..80, to in any::<u8>(), cut in 0usize..80) {
        let right = record().to_bytes();
        let mut bytes = right.clone();
        prop_assert!(Record::from_bytes(&bytes[..cut]).is_err());
        bytes[at] = to;
        if bytes != right {
            prop_assert_eq!(Record::from_bytes(&bytes), Err(BadSnapshot));
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Record::from_bytes(&bytes);
        let _ = Claim::from_bytes(&bytes);
    }
}
