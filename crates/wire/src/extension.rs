//! Our own messages, inside id 20. A Windows peer reads and drops id 20, so they disturb nobody; what others
//! put there we skip in turn.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 5 | magic `dosvc` |
//! | 5 | 1 | type |
//! | 6 | | body |
//!
//! | type | body |
//! |---|---|
//! | 0 Hello | u8 version, u32 capabilities, u16 listen port, 16 bytes nonce |
//! | 1 GroupProof | 32 bytes |
//! | 2 Fetching | u16 count of additions, u16 count of withdrawals, then that many u32 piece indices of each |
//! | 3 MetainfoRequest | u32 first, u32 count |
//! | 4 Metainfo | u64 content length, u32 piece size, u32 first, then 32 bytes per hash |
//! | 5 Offer | u8 flags (bit 0: ask freely), then u32 piece indices |
//! | 6 MemberProof | see [`member`](crate::member) |
//! | 7 Lead | u8 hops (255: nobody), u64 rank |
//! | 8 Abandon | u32 piece, u32 offset, u32 length |

use crate::codec::{DecodeError, RawBlock};
use crate::limits::{FETCHING_MAX, METAINFO_HASHES_MAX, OFFER_MAX};
use crate::member::MemberProof;
use bytes::{Buf as _, BufMut};
use dosvc_content::PieceHash;

/// What every extension message of ours begins with.
pub const EXTENSION_MAGIC: &[u8; 5] = b"dosvc";
/// Bytes before the body: magic and type.
pub const EXTENSION_PREFIX_LEN: u32 = 6;
/// The version that a Hello of this implementation names.
pub const EXTENSION_VERSION: u8 = 1;
/// Capability of a Hello: its sender puts together a block that comes in several Piece messages.
pub const CAPABILITY_PARTS: u32 = 1;
/// Capability of a Hello: its sender takes pieces while they arrive at the other side, and understands
/// [`Extension::Abandon`]. With [`CAPABILITY_PARTS`] only.
pub const CAPABILITY_RELAYS: u32 = 2;
/// Capability of a Hello: somebody waits for what its sender fetches. It may change, by another Hello.
pub const CAPABILITY_WAITS: u32 = 4;
/// The longest extension message of ours that is read, in bytes of payload.
pub const EXTENSION_LEN_MAX: u32 = EXTENSION_PREFIX_LEN + METAINFO_HEAD + 32 * METAINFO_HASHES_MAX;

mod kind {
    pub(super) const HELLO: u8 = 0;
    pub(super) const GROUP_PROOF: u8 = 1;
    pub(super) const FETCHING: u8 = 2;
    pub(super) const METAINFO_REQUEST: u8 = 3;
    pub(super) const METAINFO: u8 = 4;
    pub(super) const OFFER: u8 = 5;
    pub(super) const MEMBER_PROOF: u8 = 6;
    pub(super) const LEAD: u8 = 7;
    pub(super) const ABANDON: u8 = 8;
}

const HELLO_LEN: u32 = 23;
const LEAD_LEN: u32 = 9;
const ABANDON_LEN: u32 = 12;
/// Instead of a distance: the sender knows nobody.
const LEAD_NOBODY: u8 = u8::MAX;
const METAINFO_HEAD: u32 = 16;
/// The bit of an offer's flags that says that the receiver may ask for anything.
const OFFER_FREE: u8 = 1;

/// A message between two daemons of this project.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Extension {
    /// The first extension message of each side: what it can do.
    Hello {
        /// [`EXTENSION_VERSION`] of the sender.
        version: u8,
        /// One bit per ability; unknown bits mean nothing.
        capabilities: u32,
        /// The TCP port that the sender accepts peers on; 0 for none.
        listen_port: u16,
        /// Random, for this connection only; the receiver's group proof covers it.
        nonce: [u8; 16],
    },
    /// The sender knows the group's id; see [`group_proof`](crate::group_proof).
    GroupProof([u8; 32]),
    /// Pieces on their way to the sender, so that others fetch different ones and serve whom nobody serves. At most
    /// [`FETCHING_MAX`] of each kind per message. The indices are not checked against the content.
    Fetching {
        /// Now being fetched.
        add: Vec<u32>,
        /// No longer being fetched: arrived or given up.
        drop: Vec<u32>,
    },
    /// Asks for a part of the hash file.
    MetainfoRequest {
        /// Index of the first piece.
        first: u32,
        /// Hashes wanted, at most [`METAINFO_HASHES_MAX`].
        count: u32,
    },
    /// Answers a [`Extension::MetainfoRequest`] with as many hashes as there are, at most those asked for.
    Metainfo {
        /// Bytes of the content.
        content_length: u64,
        /// Bytes of a piece.
        piece_size: u32,
        /// Index of the first piece.
        first: u32,
        /// The hashes from there on.
        hashes: Vec<PieceHash>,
    },
    /// What the sender would send next to the receiver, and whether the receiver may ask for other pieces as well. At
    /// most [`OFFER_MAX`] pieces per message. The indices are not checked against the content.
    Offer {
        /// The receiver may ask for anything; otherwise it waits for offers. Other bits of the flags mean nothing.
        free: bool,
        /// Pieces that the receiver may ask for now.
        pieces: Vec<u32>,
    },
    /// The sender is a member of the group, by its secret or by a certificate.
    MemberProof(MemberProof),
    /// Who ranks first at the HTTP server of all that the sender heard of; `None`: it knows nobody.
    Lead(Option<Lead>),
    /// The receiver asked for this block, which was on its way to the sender, and it will not come: what has come of
    /// it is void.
    Abandon(RawBlock),
}

/// A machine that fetches over HTTP, as others tell of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lead {
    /// Who has the highest fetches.
    pub rank: u64,
    /// How many connections it is away from the sender, up to 254; 0: the sender itself.
    pub hops: u8,
}

/// What the first bytes of an id 20 payload tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prefix {
    /// Not ours, or of a later version: skip it.
    Unknown,
    /// Ours, and its length is one that its type can have.
    Known,
}

impl Extension {
    /// Reads the payload of id 20. `None` when it is not one of ours or of a type that this version does not
    /// know.
    ///
    /// # Errors
    /// [`DecodeError`] when the type is known and the body is none of that type.
    pub fn decode(payload: &[u8]) -> Result<Option<Self>, DecodeError> {
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let Some((prefix, mut body)) = payload.split_at_checked(EXTENSION_PREFIX_LEN as usize)
        else {
            return Ok(None);
        };
        if Self::check_prefix(prefix, length)? == Prefix::Unknown {
            return Ok(None);
        }
        let wrong = DecodeError::ExtensionLength {
            kind: prefix[5],
            length: length - EXTENSION_PREFIX_LEN,
        };
        Ok(Some(match prefix[5] {
            kind::HELLO => Self::Hello {
                version: body.get_u8(),
                capabilities: body.get_u32(),
                listen_port: body.get_u16(),
                nonce: body.try_into().map_err(|_| wrong)?,
            },
            kind::GROUP_PROOF => Self::GroupProof(body.try_into().map_err(|_| wrong)?),
            kind::FETCHING => {
                let counts = [body.get_u16(), body.get_u16()].map(usize::from);
                if let Some(count) = counts.iter().find(|n| **n > FETCHING_MAX) {
                    return Err(DecodeError::ExtensionCount {
                        kind: kind::FETCHING,
                        count: u32::try_from(*count).unwrap_or(u32::MAX),
                    });
                }
                if body.len() != 4 * (counts[0] + counts[1]) {
                    return Err(wrong);
                }
                let mut indices = |n| (0..n).map(|_| body.get_u32()).collect();
                Self::Fetching {
                    add: indices(counts[0]),
                    drop: indices(counts[1]),
                }
            }
            kind::METAINFO_REQUEST => {
                let (first, count) = (body.get_u32(), body.get_u32());
                if count > METAINFO_HASHES_MAX {
                    return Err(DecodeError::ExtensionCount {
                        kind: kind::METAINFO_REQUEST,
                        count,
                    });
                }
                Self::MetainfoRequest { first, count }
            }
            kind::OFFER => Self::Offer {
                free: body.get_u8() & OFFER_FREE != 0,
                pieces: body
                    .as_chunks::<4>()
                    .0
                    .iter()
                    .map(|index| u32::from_be_bytes(*index))
                    .collect(),
            },
            kind::MEMBER_PROOF => Self::MemberProof(MemberProof::decode(body).ok_or(wrong)?),
            kind::ABANDON => Self::Abandon(RawBlock {
                piece: body.get_u32(),
                offset: body.get_u32(),
                length: body.get_u32(),
            }),
            kind::LEAD => {
                let (hops, rank) = (body.get_u8(), body.get_u64());
                Self::Lead((hops != LEAD_NOBODY).then_some(Lead { rank, hops }))
            }
            _ => Self::Metainfo {
                content_length: body.get_u64(),
                piece_size: body.get_u32(),
                first: body.get_u32(),
                hashes: body
                    .as_chunks::<32>()
                    .0
                    .iter()
                    .map(|hash| PieceHash::from(*hash))
                    .collect(),
            },
        }))
    }

    /// Judges a payload of `length` bytes by its first [`EXTENSION_PREFIX_LEN`] (or all, if it is shorter),
    /// so that nothing is kept of a message that will be skipped or refused.
    pub(crate) fn check_prefix(prefix: &[u8], length: u32) -> Result<Prefix, DecodeError> {
        let Some((magic, [kind, ..])) = prefix.split_at_checked(EXTENSION_MAGIC.len()) else {
            return Ok(Prefix::Unknown);
        };
        if magic != EXTENSION_MAGIC {
            return Ok(Prefix::Unknown);
        }
        let body = length.saturating_sub(EXTENSION_PREFIX_LEN);
        let fits = match *kind {
            kind::HELLO => body == HELLO_LEN,
            kind::GROUP_PROOF => body == 32,
            kind::FETCHING => {
                body >= 4 && body.is_multiple_of(4) && body as usize <= 4 + 8 * FETCHING_MAX
            }
            kind::METAINFO_REQUEST => body == 8,
            kind::MEMBER_PROOF => MemberProof::fits(body as usize),
            kind::LEAD => body == LEAD_LEN,
            kind::ABANDON => body == ABANDON_LEN,
            kind::OFFER => body % 4 == 1 && body as usize <= 1 + 4 * OFFER_MAX,
            kind::METAINFO => {
                length <= EXTENSION_LEN_MAX
                    && body
                        .checked_sub(METAINFO_HEAD)
                        .is_some_and(|hashes| hashes.is_multiple_of(32))
            }
            _ => return Ok(Prefix::Unknown),
        };
        if fits {
            Ok(Prefix::Known)
        } else {
            Err(DecodeError::ExtensionLength {
                kind: *kind,
                length: body,
            })
        }
    }

    /// Whether a prefix of a message of ours begins a [`Self::Metainfo`].
    pub(crate) fn is_metainfo(prefix: &[u8]) -> bool {
        prefix.get(EXTENSION_MAGIC.len()) == Some(&kind::METAINFO)
    }

    /// Bytes of the payload.
    pub fn encoded_len(&self) -> usize {
        EXTENSION_PREFIX_LEN as usize
            + match self {
                Self::Hello { .. } => HELLO_LEN as usize,
                Self::GroupProof(_) => 32,
                Self::Fetching { add, drop } => 4 + 4 * (add.len() + drop.len()),
                Self::MetainfoRequest { .. } => 8,
                Self::Metainfo { hashes, .. } => METAINFO_HEAD as usize + 32 * hashes.len(),
                Self::Offer { pieces, .. } => 1 + 4 * pieces.len(),
                Self::MemberProof(proof) => proof.encoded_len(),
                Self::Lead(_) => LEAD_LEN as usize,
                Self::Abandon(_) => ABANDON_LEN as usize,
            }
    }

    /// Writes the payload of id 20.
    ///
    /// # Panics
    /// When a list is longer than one message may have: a mistake of the caller.
    pub fn encode(&self, out: &mut impl BufMut) {
        let count = |list: &[u32]| {
            assert!(
                list.len() <= FETCHING_MAX,
                "too many indices for one message"
            );
            u16::try_from(list.len()).expect("FETCHING_MAX fits 16 bits")
        };
        out.put_slice(EXTENSION_MAGIC);
        match self {
            Self::Hello {
                version,
                capabilities,
                listen_port,
                nonce,
            } => {
                out.put_u8(kind::HELLO);
                out.put_u8(*version);
                out.put_u32(*capabilities);
                out.put_u16(*listen_port);
                out.put_slice(nonce);
            }
            Self::GroupProof(proof) => {
                out.put_u8(kind::GROUP_PROOF);
                out.put_slice(proof);
            }
            Self::Fetching { add, drop } => {
                out.put_u8(kind::FETCHING);
                out.put_u16(count(add));
                out.put_u16(count(drop));
                add.iter().chain(drop).for_each(|index| out.put_u32(*index));
            }
            Self::MetainfoRequest { first, count } => {
                assert!(*count <= METAINFO_HASHES_MAX, "too many hashes asked for");
                out.put_u8(kind::METAINFO_REQUEST);
                out.put_u32(*first);
                out.put_u32(*count);
            }
            Self::Offer { free, pieces } => {
                assert!(pieces.len() <= OFFER_MAX, "too many pieces for one message");
                out.put_u8(kind::OFFER);
                out.put_u8(if *free { OFFER_FREE } else { 0 });
                pieces.iter().for_each(|index| out.put_u32(*index));
            }
            Self::MemberProof(proof) => {
                out.put_u8(kind::MEMBER_PROOF);
                proof.encode(out);
            }
            Self::Lead(lead) => {
                out.put_u8(kind::LEAD);
                let (hops, rank) = lead.map_or((LEAD_NOBODY, 0), |lead| (lead.hops, lead.rank));
                assert!(
                    lead.is_none() || hops != LEAD_NOBODY,
                    "too far away for a message"
                );
                out.put_u8(hops);
                out.put_u64(rank);
            }
            Self::Abandon(block) => {
                out.put_u8(kind::ABANDON);
                out.put_u32(block.piece);
                out.put_u32(block.offset);
                out.put_u32(block.length);
            }
            Self::Metainfo {
                content_length,
                piece_size,
                first,
                hashes,
            } => {
                assert!(
                    hashes.len() <= METAINFO_HASHES_MAX as usize,
                    "too many hashes for one message"
                );
                out.put_u8(kind::METAINFO);
                out.put_u64(*content_length);
                out.put_u32(*piece_size);
                out.put_u32(*first);
                hashes
                    .iter()
                    .for_each(|hash| out.put_slice(hash.as_bytes()));
            }
        }
    }
}

#[cfg(test)]
mod tests;
