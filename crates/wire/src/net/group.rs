//! The exchange that lets only members of a group in, before [`drive`](super::drive).
//!
//! After both handshakes each side sends a Hello. Then the connecting side proves first; the accepting side
//! answers with its own proof, which says at the same time that it serves the content, only when it wants to.
//! A side that is not convinced closes and has told nothing but its peer id and a random number.

use super::ByteStream;
use crate::codec::Header;
use crate::connection::Violation;
use crate::extension::{EXTENSION_PREFIX_LEN, EXTENSION_VERSION, Extension, Prefix};
use crate::group::{group_proof, verify_group_proof};
use dosvc_content::{GroupHash, HResult, HashOfHashes, PeerId};
use std::future::Future;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Bytes of other extensions that a peer may send before its Hello and its proof; they are skipped.
const SKIPPED_MAX: u32 = 64 << 10;

/// The longest payload of the two messages that are expected here.
const PROOF_LEN_MAX: usize = PREFIX_LEN + 32;
const PREFIX_LEN: usize = EXTENSION_PREFIX_LEN as usize;

/// Which side of the connection we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// We dialed: prove first.
    Connecting,
    /// We accepted: verify first.
    Accepting,
}

/// What both proofs are about, and our Hello.
#[derive(Debug, Clone)]
pub struct GroupParams {
    /// The group that both sides must know.
    pub group: GroupHash,
    /// The swarm of the handshakes.
    pub swarm: HashOfHashes,
    /// Our peer id, as in our handshake.
    pub local: PeerId,
    /// The peer's, as in its handshake.
    pub remote: PeerId,
    /// Our capabilities.
    pub capabilities: u32,
    /// The TCP port that we accept peers on; 0 for none.
    pub listen_port: u16,
    /// Fresh random bytes, never used for another connection.
    pub nonce: [u8; 16],
}

/// What the peer's Hello says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerHello {
    /// The version of the peer's extensions.
    pub version: u8,
    /// The peer's capabilities.
    pub capabilities: u32,
    /// The TCP port that the peer accepts peers on; 0 for none.
    pub listen_port: u16,
    nonce: [u8; 16],
}

/// Why a peer was not let in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// The proof is wrong: the peer does not know the group.
    #[error("the peer is not of the group")]
    WrongProof,
    /// The peer has our own peer id.
    #[error("connected to self")]
    ConnectedToSelf,
    /// The peer speaks of other things before it proved anything: not one of ours.
    #[error("the peer sends other messages instead of a proof")]
    NoProof,
    /// The peer's bytes are no messages.
    #[error("protocol error: {0}")]
    Misbehaved(#[from] Violation),
    /// The peer closed: it is not of the group, or it does not serve the content.
    #[error("closed by the peer")]
    Closed,
    /// The peer took too long.
    #[error("no proof in time")]
    TimedOut,
    /// The connection failed.
    #[error("connection lost: {0}")]
    Lost(io::Error),
}

impl GroupError {
    /// The code that Windows reports for the like.
    pub fn hresult(&self) -> HResult {
        match self {
            Self::WrongProof | Self::NoProof => HResult(0x80D0_680C),
            Self::ConnectedToSelf => HResult::CONNECTED_TO_SELF,
            Self::Misbehaved(violation) => violation.hresult(),
            Self::Closed => HResult::SOCKET_CLOSED,
            Self::TimedOut | Self::Lost(_) => HResult::CONNECTION_LOST,
        }
    }
}

impl From<io::Error> for GroupError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Lost(error),
        }
    }
}

/// Runs the whole exchange for either side; the accepting side proves itself to every member. Use
/// [`verify_group`] where that is to be decided in between.
///
/// # Errors
/// [`GroupError`]; the stream is to be closed.
pub async fn exchange_group_proof(
    stream: &mut impl ByteStream,
    role: Role,
    params: &GroupParams,
    timeout: Duration,
) -> Result<PeerHello, GroupError> {
    match role {
        Role::Connecting => prove_group(stream, params, timeout).await,
        Role::Accepting => {
            let verified = verify_group(stream, params, timeout).await?;
            verified.prove(stream, timeout).await
        }
    }
}

/// The connecting side: proves itself, then verifies the peer.
///
/// # Errors
/// [`GroupError`]; the stream is to be closed.
pub async fn prove_group(
    stream: &mut impl ByteStream,
    params: &GroupParams,
    timeout: Duration,
) -> Result<PeerHello, GroupError> {
    with_timeout(timeout, async {
        let (peer, mut skipped) = hello(stream, params).await?;
        send(stream, &params.our_proof(&peer)).await?;
        params.verify(&peer, receive(stream, &mut skipped).await?)?;
        Ok(peer)
    })
    .await
}

/// The accepting side's first half: learns whether the peer is a member.
///
/// Then either [`VerifiedPeer::prove`], or close the stream: the peer does not learn whether it was its proof
/// or the content that was missing.
///
/// # Errors
/// [`GroupError`]; the stream is to be closed.
pub async fn verify_group(
    stream: &mut impl ByteStream,
    params: &GroupParams,
    timeout: Duration,
) -> Result<VerifiedPeer, GroupError> {
    with_timeout(timeout, async {
        let (peer, mut skipped) = hello(stream, params).await?;
        params.verify(&peer, receive(stream, &mut skipped).await?)?;
        Ok(VerifiedPeer {
            hello: peer,
            proof: params.our_proof(&peer),
        })
    })
    .await
}

/// A peer that proved to be a member and waits for our proof.
#[derive(Debug)]
#[must_use = "prove ourselves or close the stream"]
pub struct VerifiedPeer {
    hello: PeerHello,
    proof: Extension,
}

impl VerifiedPeer {
    /// What the peer said about itself.
    pub fn hello(&self) -> &PeerHello {
        &self.hello
    }

    /// Proves that we are a member too (and serve the content).
    ///
    /// # Errors
    /// [`GroupError`]; the stream is to be closed.
    pub async fn prove(
        self,
        stream: &mut impl ByteStream,
        timeout: Duration,
    ) -> Result<PeerHello, GroupError> {
        with_timeout(timeout, async {
            send(stream, &self.proof).await?;
            Ok(self.hello)
        })
        .await
    }
}

impl GroupParams {
    fn our_proof(&self, peer: &PeerHello) -> Extension {
        Extension::GroupProof(group_proof(
            &self.group,
            &self.swarm,
            &self.local,
            &self.remote,
            &peer.nonce,
            &self.nonce,
        ))
    }

    fn verify(&self, peer: &PeerHello, answer: Extension) -> Result<(), GroupError> {
        let Extension::GroupProof(proof) = answer else {
            return Err(GroupError::NoProof);
        };
        let holds = verify_group_proof(
            &proof,
            &self.group,
            &self.swarm,
            &self.remote,
            &self.local,
            &self.nonce,
            &peer.nonce,
        );
        if holds {
            Ok(())
        } else {
            Err(GroupError::WrongProof)
        }
    }
}

async fn with_timeout<T>(
    timeout: Duration,
    exchange: impl Future<Output = Result<T, GroupError>>,
) -> Result<T, GroupError> {
    tokio::time::timeout(timeout, exchange)
        .await
        .unwrap_or(Err(GroupError::TimedOut))
}

/// Sends our Hello and waits for the peer's.
async fn hello(
    stream: &mut impl ByteStream,
    params: &GroupParams,
) -> Result<(PeerHello, u32), GroupError> {
    // A proof for ourselves could be played back to us.
    if params.local == params.remote {
        return Err(GroupError::ConnectedToSelf);
    }
    let ours = Extension::Hello {
        version: EXTENSION_VERSION,
        capabilities: params.capabilities,
        listen_port: params.listen_port,
        nonce: params.nonce,
    };
    send(stream, &ours).await?;
    let mut skipped = 0;
    match receive(stream, &mut skipped).await? {
        Extension::Hello {
            version,
            capabilities,
            listen_port,
            nonce,
        } => Ok((
            PeerHello {
                version,
                capabilities,
                listen_port,
                nonce,
            },
            skipped,
        )),
        _ => Err(GroupError::NoProof),
    }
}

async fn send(stream: &mut impl ByteStream, extension: &Extension) -> Result<(), GroupError> {
    let mut bytes = Vec::with_capacity(5 + extension.encoded_len());
    let length = u32::try_from(extension.encoded_len()).expect("a Hello or a proof is short");
    Header::Extension { length }.encode(&mut bytes);
    extension.encode(&mut bytes);
    stream.write_all(&bytes).await?;
    Ok(stream.flush().await?)
}

/// Receives the next message of ours, and not one byte more. Others' extensions are skipped; `skipped` counts
/// their bytes.
async fn receive(stream: &mut impl ByteStream, skipped: &mut u32) -> Result<Extension, GroupError> {
    loop {
        let mut head = [0; 5];
        stream.read_exact(&mut head[..4]).await?;
        let keep_alive = Header::decode(&head[..4])
            .map_err(Violation::from)?
            .is_some();
        let mut payload = [0; PROOF_LEN_MAX];
        if !keep_alive {
            stream.read_exact(&mut head[4..]).await?;
            let header = Header::decode(&head).map_err(Violation::from)?;
            let Some((Header::Extension { length }, _)) = header else {
                return Err(GroupError::NoProof);
            };
            let prefix = &mut payload[..PREFIX_LEN.min(length as usize)];
            stream.read_exact(prefix).await?;
            let known = Extension::check_prefix(prefix, length).map_err(Violation::from)?;
            let rest = length as usize - prefix.len();
            if known == Prefix::Known {
                let payload = payload
                    .get_mut(..length as usize)
                    .ok_or(GroupError::NoProof)?;
                stream.read_exact(&mut payload[PREFIX_LEN..]).await?;
                let extension = Extension::decode(payload).map_err(Violation::from)?;
                return extension.ok_or(GroupError::NoProof);
            }
            skip(stream, rest).await?;
            *skipped += length;
        }
        *skipped += 5;
        if *skipped > SKIPPED_MAX {
            return Err(GroupError::NoProof);
        }
    }
}

async fn skip(stream: &mut impl ByteStream, mut len: usize) -> Result<(), GroupError> {
    let mut waste = [0; 1024];
    while len > 0 {
        let part = len.min(waste.len());
        stream.read_exact(&mut waste[..part]).await?;
        len -= part;
    }
    Ok(())
}
