//! A bitfield from a peer: whatever is accepted has no piece past the last one and is written as it was read.
#![no_main]

use dosvc_content::{Bitfield, PieceLengths};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, &[u8])| {
    let (piece_count, bytes) = (u32::from(input.0), input.1);
    let Ok(bitfield) = Bitfield::from_wire(piece_count, bytes) else {
        return;
    };
    assert_eq!(bitfield.to_wire(), bytes);
    assert_eq!(bitfield.piece_count(), piece_count);
    let ones: Vec<_> = bitfield.ones().collect();
    assert_eq!(ones.len(), bitfield.count() as usize);
    assert_eq!(ones.len() + bitfield.zeros().count(), piece_count as usize);
    assert!(ones.iter().all(|&piece| bitfield.has(piece)));

    let lengths =
        PieceLengths::new(u64::from(piece_count) << 16, 1 << 16).expect("within the bounds");
    let mut rebuilt = Bitfield::new(piece_count);
    for piece in ones {
        assert!(rebuilt.insert(lengths.piece(piece.get()).expect("inside the content")));
    }
    assert_eq!(rebuilt.to_wire(), bytes);
    assert!(!rebuilt.lacks_any_of(&bitfield));
});
