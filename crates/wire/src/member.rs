//! Proof that a peer is a member of a group: that it knows the group's secret, or has a certificate and its key.
//!
//! What is proved names the swarm, both peers, both nonces and the address that was dialled, so that a proof counts for
//! one connection between those two only. The address is there against strangers who have themselves dialled and hand
//! everything on to a member: the member then hears of an address that is not its own.
//!
//! | offset | size | field of the message |
//! |---|---|---|
//! | 0 | 1 | kind: 1 secret, 2 certificate |
//! | 1 | 18 | address that was dialled: IPv6 (IPv4 mapped), port; zeros where the transport has proved the peers |
//! | 19 | 32 | HMAC-SHA256 of the transcript, keyed with the group's key |
//! | 51 | 2 | kind 2: bytes of the certificate, 1 to 2048 |
//! | 53 | | kind 2: the certificate (X.509, DER) |
//! | | 1 | kind 2: bytes of the signature, 1 to 128 |
//! | | | kind 2: signature of the transcript and the group's hash |

use crate::{
    group::{Demand, GroupKey},
    limits::{MEMBER_CERTIFICATE_MAX, MEMBER_SIGNATURE_MAX},
};
use bytes::{Buf as _, BufMut};
use dosvc_content::{HashOfHashes, PeerId};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use std::net::SocketAddr;

const LABEL: &[u8] = b"dosvc member proof 1\0";
const SIGNED_LABEL: &[u8] = b"dosvc member signature 1\0";

const KIND_SECRET: u8 = 1;
const KIND_CERTIFICATE: u8 = 2;

/// Bytes of a proof without a certificate.
const PLAIN_LEN: usize = 1 + 18 + 32;
/// Bytes of the longest proof.
pub(crate) const PROOF_BODY_MAX: usize =
    PLAIN_LEN + 3 + MEMBER_CERTIFICATE_MAX + MEMBER_SIGNATURE_MAX;

/// The address that the connecting side dialled, as both proofs name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DialledAddress([u8; 18]);

impl DialledAddress {
    /// None: the transport itself has proved who the peers are.
    pub const NONE: Self = Self([0; 18]);

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8; 18] {
        &self.0
    }
}

impl From<SocketAddr> for DialledAddress {
    fn from(address: SocketAddr) -> Self {
        let ip = match address.ip() {
            std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            std::net::IpAddr::V6(v6) => v6,
        };
        let mut bytes = [0; 18];
        bytes[..16].copy_from_slice(&ip.octets());
        bytes[16..].copy_from_slice(&address.port().to_be_bytes());
        Self(bytes)
    }
}

impl From<DialledAddress> for SocketAddr {
    fn from(DialledAddress(bytes): DialledAddress) -> Self {
        let mut bytes = &bytes[..];
        let ip = std::net::Ipv6Addr::from_bits(bytes.get_u128());
        Self::new(ip.to_canonical(), bytes.get_u16())
    }
}

/// A certificate, and what its key has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// X.509 in DER; at most [`MEMBER_CERTIFICATE_MAX`] bytes.
    pub certificate: Vec<u8>,
    /// At most [`MEMBER_SIGNATURE_MAX`] bytes.
    pub signature: Vec<u8>,
}

/// The body of an [`Extension::MemberProof`](crate::Extension::MemberProof).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberProof {
    /// The address that the connecting side dialled.
    pub dialled: DialledAddress,
    /// See [`MemberTranscript::mac`].
    pub mac: [u8; 32],
    /// Where the group demands certificates.
    pub signed: Option<Signed>,
}

impl MemberProof {
    /// Whether a body of so many bytes can be one.
    pub(crate) fn fits(body: usize) -> bool {
        body == PLAIN_LEN || (PLAIN_LEN + 5..=PROOF_BODY_MAX).contains(&body)
    }

    /// Reads a body; `None`: it is none.
    pub(crate) fn decode(mut body: &[u8]) -> Option<Self> {
        let kind = body.try_get_u8().ok()?;
        let (dialled, rest) = body.split_first_chunk()?;
        let (mac, mut rest) = rest.split_first_chunk()?;
        let signed = match kind {
            KIND_SECRET if rest.is_empty() => None,
            KIND_CERTIFICATE => {
                let length = usize::from(rest.try_get_u16().ok()?);
                let (certificate, mut signature) = rest.split_at_checked(length)?;
                let signature_len = usize::from(signature.try_get_u8().ok()?);
                let fits = (1..=MEMBER_CERTIFICATE_MAX).contains(&length)
                    && (1..=MEMBER_SIGNATURE_MAX).contains(&signature_len)
                    && signature.len() == signature_len;
                fits.then(|| Signed {
                    certificate: certificate.to_vec(),
                    signature: signature.to_vec(),
                })?
                .into()
            }
            _ => return None,
        };
        Some(Self {
            dialled: DialledAddress(*dialled),
            mac: *mac,
            signed,
        })
    }

    pub(crate) fn encoded_len(&self) -> usize {
        let signed = self.signed.as_ref();
        PLAIN_LEN + signed.map_or(0, |s| 3 + s.certificate.len() + s.signature.len())
    }

    /// # Panics
    /// When certificate or signature are empty or too long: a mistake of the caller.
    pub(crate) fn encode(&self, out: &mut impl BufMut) {
        out.put_u8(match &self.signed {
            None => KIND_SECRET,
            Some(_) => KIND_CERTIFICATE,
        });
        out.put_slice(&self.dialled.0);
        out.put_slice(&self.mac);
        if let Some(Signed {
            certificate,
            signature,
        }) = &self.signed
        {
            assert!(
                (1..=MEMBER_CERTIFICATE_MAX).contains(&certificate.len())
                    && (1..=MEMBER_SIGNATURE_MAX).contains(&signature.len()),
                "a certificate and a signature of a length that a message may have"
            );
            let short = "it was just compared";
            out.put_u16(u16::try_from(certificate.len()).expect(short));
            out.put_slice(certificate);
            out.put_u8(u8::try_from(signature.len()).expect(short));
            out.put_slice(signature);
        }
    }

    /// What kind of proof it is.
    pub fn demand(&self) -> Demand {
        match &self.signed {
            None => Demand::Secret,
            Some(_) => Demand::Certificate,
        }
    }
}

/// What a proof is about. Every part has a fixed size, so no two transcripts run into one another.
#[derive(Debug, Clone, Copy)]
pub struct MemberTranscript<'a> {
    /// The group, what it demands, and its key.
    pub group: &'a GroupKey,
    /// The swarm of the handshakes.
    pub swarm: &'a HashOfHashes,
    /// Who proves.
    pub prover: &'a PeerId,
    /// To whom.
    pub verifier: &'a PeerId,
    /// The nonce of the verifier's Hello.
    pub verifier_nonce: &'a [u8; 16],
    /// The nonce of the prover's Hello.
    pub prover_nonce: &'a [u8; 16],
    /// The address that the connecting side dialled.
    pub dialled: DialledAddress,
}

impl MemberTranscript<'_> {
    /// The proof that its maker knows the group's key.
    pub fn mac(&self) -> [u8; 32] {
        self.keyed().finalize().into_bytes().into()
    }

    /// Whether `mac` is [`Self::mac`]; takes the same time for every wrong one.
    pub fn verify_mac(&self, mac: &[u8; 32]) -> bool {
        self.keyed().verify_slice(mac).is_ok()
    }

    fn keyed(&self) -> Hmac<Sha256> {
        let key = self.group.key();
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
        mac.update(&self.bytes(LABEL));
        mac
    }

    /// What the certificate's key signs.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut bytes = self.bytes(SIGNED_LABEL);
        bytes.extend(self.group.group().as_bytes());
        bytes
    }

    fn bytes(&self, label: &[u8]) -> Vec<u8> {
        let kind = match self.group.demand() {
            Demand::Id | Demand::Secret => KIND_SECRET,
            Demand::Certificate => KIND_CERTIFICATE,
        };
        [
            label,
            &[kind],
            self.swarm.as_bytes(),
            self.prover.as_bytes(),
            self.verifier.as_bytes(),
            self.verifier_nonce,
            self.prover_nonce,
            self.dialled.as_bytes(),
        ]
        .concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dosvc_content::GroupId;

    fn group(name: &str) -> dosvc_content::GroupHash {
        name.parse::<GroupId>().unwrap().hash()
    }

    #[test]
    fn a_proof_holds_only_for_its_own_transcript() {
        let key = GroupKey::of_secret(group("a"), Demand::Secret, b"secret");
        let (swarm, other_swarm) = ([1; 32].into(), [2; 32].into());
        let [a, b, c] = [[1; 20], [2; 20], [3; 20]].map(PeerId::from);
        let (n, m) = ([3; 16], [4; 16]);
        let here = SocketAddr::from(([10, 0, 0, 1], 7680));
        let own = MemberTranscript {
            group: &key,
            swarm: &swarm,
            prover: &a,
            verifier: &b,
            verifier_nonce: &n,
            prover_nonce: &m,
            dialled: here.into(),
        };
        let mac = own.mac();
        assert!(own.verify_mac(&mac));
        let there = SocketAddr::from(([10, 0, 0, 1], 7681));
        let keys = [
            GroupKey::of_secret(group("a"), Demand::Secret, b"secreu"),
            GroupKey::of_secret(group("b"), Demand::Secret, b"secret"),
            GroupKey::of_secret(group("a"), Demand::Certificate, b"secret"),
            GroupKey::of_id(group("a"), Demand::Secret),
        ];
        let mut others = vec![
            MemberTranscript {
                swarm: &other_swarm,
                ..own
            },
            MemberTranscript { prover: &c, ..own },
            MemberTranscript {
                verifier: &c,
                ..own
            },
            MemberTranscript {
                prover: &b,
                verifier: &a,
                ..own
            },
            MemberTranscript {
                verifier_nonce: &m,
                prover_nonce: &n,
                ..own
            },
            MemberTranscript {
                dialled: there.into(),
                ..own
            },
            MemberTranscript {
                dialled: DialledAddress::NONE,
                ..own
            },
        ];
        others.extend(keys.iter().map(|group| MemberTranscript { group, ..own }));
        for other in others {
            assert!(!other.verify_mac(&mac), "{other:?}");
        }
        // What is signed is never what is authenticated by the key alone.
        assert_ne!(own.signed_bytes()[..20], own.bytes(LABEL)[..20]);
    }

    #[test]
    fn addresses_are_the_same_in_both_notations() {
        let plain = SocketAddr::from(([10, 0, 0, 1], 7680));
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:7680".parse().unwrap();
        assert_eq!(DialledAddress::from(plain), DialledAddress::from(mapped));
        assert_eq!(SocketAddr::from(DialledAddress::from(mapped)), plain);
    }

    #[test]
    fn neither_secret_nor_key_is_shown() {
        let key = GroupKey::of_secret(group("a"), Demand::Secret, b"secret");
        assert_eq!(format!("{key:?}"), "GroupKey(secret)");
    }
}
