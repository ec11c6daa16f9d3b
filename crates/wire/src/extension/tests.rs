use super::*;
use crate::limits::{MEMBER_CERTIFICATE_MAX, MEMBER_SIGNATURE_MAX, MESSAGE_LEN_MAX};
use crate::member::{DialledAddress, Signed};
use proptest::prelude::*;
use std::net::SocketAddr;

fn encoded(extension: &Extension) -> Vec<u8> {
    let mut out = Vec::new();
    extension.encode(&mut out);
    assert_eq!(out.len(), extension.encoded_len());
    out
}

fn golden() -> Vec<(Extension, Vec<u8>)> {
    let with = |head: &[u8], tail: &[u8]| [b"dosvc", head, tail].concat();
    vec![
        (
            Extension::Hello {
                version: 1,
                capabilities: 0x0102_0304,
                listen_port: 7680,
                nonce: [9; 16],
            },
            with(&[0, 1, 1, 2, 3, 4, 0x1e, 0x00], &[9; 16]),
        ),
        (Extension::GroupProof([7; 32]), with(&[1], &[7; 32])),
        (
            Extension::Fetching {
                add: vec![1, 2],
                drop: vec![3],
            },
            with(&[2, 0, 2, 0, 1], &[0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3]),
        ),
        (
            Extension::MemberProof(MemberProof {
                dialled: SocketAddr::from(([10, 0, 0, 1], 7680)).into(),
                mac: [8; 32],
                signed: None,
            }),
            with(
                &[
                    6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1, 0x1e, 0,
                ],
                &[8; 32],
            ),
        ),
        (
            Extension::MemberProof(MemberProof {
                dialled: DialledAddress::NONE,
                mac: [8; 32],
                signed: Some(Signed {
                    certificate: vec![0x30, 0x80],
                    signature: vec![5],
                }),
            }),
            with(
                &[[6, 2].as_slice(), &[0; 18], &[8; 32]].concat(),
                &[0, 2, 0x30, 0x80, 1, 5],
            ),
        ),
        (
            Extension::Offer {
                free: false,
                pieces: vec![1, 2],
            },
            with(&[5, 0], &[0, 0, 0, 1, 0, 0, 0, 2]),
        ),
        (
            Extension::Offer {
                free: true,
                pieces: vec![],
            },
            with(&[5], &[1]),
        ),
        (
            Extension::Lead(Some(Lead {
                rank: 0x0102_0304_0506_0708,
                hops: 3,
            })),
            with(&[7, 3], &[1, 2, 3, 4, 5, 6, 7, 8]),
        ),
        (Extension::Lead(None), with(&[7, 255], &[0; 8])),
        (
            Extension::Abandon(RawBlock {
                piece: 1,
                offset: 2,
                length: 3,
            }),
            with(&[8], &[0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3]),
        ),
        (
            Extension::MetainfoRequest {
                first: 5,
                count: 0x8000,
            },
            with(&[3], &[0, 0, 0, 5, 0, 0, 0x80, 0]),
        ),
        (
            Extension::Metainfo {
                content_length: 0x01_0000_0001,
                piece_size: 0x10_0000,
                first: 2,
                hashes: vec![[4; 32].into()],
            },
            with(
                &[4, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0x10, 0, 0, 0, 0, 0, 2],
                &[4; 32],
            ),
        ),
    ]
}

#[test]
fn golden_bytes_of_every_extension() {
    for (extension, bytes) in golden() {
        assert_eq!(encoded(&extension), bytes, "{extension:?}");
        assert_eq!(Extension::decode(&bytes), Ok(Some(extension)));
    }
}

#[test]
fn what_others_put_into_id_20_is_skipped() {
    for payload in [
        &b""[..],
        b"dosv",
        b"dosvc",
        b"d1:md11:ut_metadatai3ee",
        b"DOSVC\x00",
        b"dosvc\x09later version",
        b"dosvc\xff",
    ] {
        assert_eq!(Extension::decode(payload), Ok(None), "{payload:?}");
    }
}

#[test]
fn a_known_type_with_a_wrong_body_is_an_error() {
    for (extension, bytes) in golden() {
        let mut long = bytes.clone();
        long.push(0);
        assert!(Extension::decode(&long).is_err(), "{extension:?}");
        let short = &bytes[..bytes.len() - 1];
        assert!(Extension::decode(short).is_err(), "{extension:?}");
        assert!(Extension::decode(&bytes[..6]).is_err(), "{extension:?}");
    }
    let many = [&b"dosvc\x02"[..], &[0x10, 0x01, 0, 0], &[0; 4 * 4097]].concat();
    assert_eq!(
        Extension::decode(&many),
        Err(DecodeError::ExtensionCount {
            kind: 2,
            count: 4097
        })
    );
    assert_eq!(
        Extension::decode(b"dosvc\x03\0\0\0\0\0\0\x80\x01"),
        Err(DecodeError::ExtensionCount {
            kind: 3,
            count: 0x8001
        })
    );
}

#[test]
fn a_message_too_long_for_its_type_is_refused_by_its_first_bytes() {
    for kind in 0..7 {
        let prefix = [&EXTENSION_MAGIC[..], &[kind]].concat();
        assert!(Extension::check_prefix(&prefix, MESSAGE_LEN_MAX - 1).is_err());
    }
    assert_eq!(
        Extension::check_prefix(b"dosvc\x04", EXTENSION_LEN_MAX),
        Ok(Prefix::Known)
    );
    assert!(Extension::check_prefix(b"dosvc\x04", EXTENSION_LEN_MAX + 32).is_err());
    assert_eq!(
        Extension::check_prefix(b"other!", MESSAGE_LEN_MAX - 1),
        Ok(Prefix::Unknown)
    );
}

#[test]
fn a_proof_is_bounded_in_every_part() {
    let proof = |certificate: usize, signature: usize| {
        let lengths = [
            u8::try_from(certificate >> 8),
            u8::try_from(certificate & 0xff),
        ];
        let [high, low] = lengths.map(|byte| byte.expect("a byte"));
        let mut bytes = b"dosvc\x06\x02".to_vec();
        bytes.extend([0; 50]);
        bytes.extend([high, low]);
        bytes.extend(vec![1; certificate]);
        bytes.push(u8::try_from(signature).expect("a byte"));
        bytes.extend(vec![1; signature]);
        Extension::decode(&bytes)
    };
    for (certificate, signature, fits) in [
        (MEMBER_CERTIFICATE_MAX, MEMBER_SIGNATURE_MAX, true),
        (1, 1, true),
        (MEMBER_CERTIFICATE_MAX + 1, 64, false),
        (64, MEMBER_SIGNATURE_MAX + 1, false),
        (0, 64, false),
        (64, 0, false),
    ] {
        let found = proof(certificate, signature);
        assert_eq!(
            matches!(found, Ok(Some(_))),
            fits,
            "{certificate} {signature}"
        );
    }
    for body in [0, 8, 10, 64] {
        let bytes = [&b"dosvc\x07"[..], &vec![0; body]].concat();
        assert!(Extension::decode(&bytes).is_err(), "a lead of {body} bytes");
    }
    for (kind, body) in [(0, 50), (1, 51), (1, 49), (2, 50), (3, 50)] {
        let bytes = [&b"dosvc\x06"[..], &[kind], &vec![0; body]].concat();
        assert!(Extension::decode(&bytes).is_err(), "{kind} {body}");
    }
}

proptest! {
    #[test]
    fn extensions_round_trip(
        version: u8, capabilities: u32, listen_port: u16, nonce: [u8; 16], proof: [u8; 32],
        add in proptest::collection::vec(any::<u32>(), 0..50),
        drop in proptest::collection::vec(any::<u32>(), 0..50),
        hashes in proptest::collection::vec(any::<[u8; 32]>(), 0..20),
        content_length: u64, first: u32, count in 0u32..=METAINFO_HASHES_MAX,
    ) {
        for extension in [
            Extension::Hello { version, capabilities, listen_port, nonce },
            Extension::GroupProof(proof),
            Extension::Fetching { add: add.clone(), drop: drop.clone() },
            Extension::MetainfoRequest { first, count },
            Extension::Offer { free: version % 2 == 0, pieces: add },
            Extension::Lead((version != u8::MAX).then_some(Lead { rank: content_length, hops: version })),
            Extension::Abandon(RawBlock { piece: first, offset: count, length: capabilities }),
            Extension::MemberProof(MemberProof {
                dialled: SocketAddr::from((nonce, listen_port)).into(),
                mac: proof,
                signed: Some(Signed {
                    certificate: vec![version; usize::from(version) + 1],
                    signature: vec![version; 1 + usize::from(version) / 2],
                }),
            }),
            Extension::Metainfo {
                content_length,
                piece_size: count,
                first,
                hashes: hashes.iter().map(|h| PieceHash::from(*h)).collect(),
            },
        ] {
            prop_assert_eq!(Extension::decode(&encoded(&extension)), Ok(Some(extension)));
        }
    }

    #[test]
    fn arbitrary_bodies_never_panic(kind in 0u8..8, body in proptest::collection::vec(any::<u8>(), 0..120)) {
        let mut payload = [&EXTENSION_MAGIC[..], &[kind], &body].concat();
        if let (5, Some(flags)) = (kind, payload.get_mut(6)) {
            // The other flags mean nothing and are not kept.
            *flags &= 1;
        }
        if let Ok(Some(extension)) = Extension::decode(&payload) {
            prop_assert_eq!(encoded(&extension), payload);
        }
    }
}
