//! The exchange that lets only members of a group in, before [`drive`](super::drive).
//!
//! After both handshakes each side sends a Hello. Then the connecting side proves first; the accepting side
//! answers with its own proof, which says at the same time that it serves the content, only when it wants to.
//! A side that is not convinced closes and has told nothing but its peer id and a random number.

use crate::codec::Header;
use crate::connection::Violation;
use crate::extension::{EXTENSION_PREFIX_LEN, EXTENSION_VERSION, Extension, Prefix};
use crate::group::{Demand, GroupKey, group_proof, verify_group_proof};
use crate::member::{DialledAddress, MemberProof, MemberTranscript, PROOF_BODY_MAX, Signed};
use dosvc_content::{GroupHash, HResult, HashOfHashes, PeerId};
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Bytes of other extensions that a peer may send before its Hello and its proof; they are skipped.
const SKIPPED_MAX: u32 = 64 << 10;

/// The longest payload of the two messages that are expected here.
const PROOF_LEN_MAX: usize = PREFIX_LEN + PROOF_BODY_MAX;
const PREFIX_LEN: usize = EXTENSION_PREFIX_LEN as usize;

/// Which side of the connection we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// We dialed: prove first.
    Connecting,
    /// We accepted: verify first.
    Accepting,
}

/// Our certificate and its key, and what others' certificates are checked by.
pub trait Credentials: fmt::Debug + Send + Sync {
    /// Our certificate: X.509 in DER.
    fn certificate(&self) -> &[u8];

    /// Signs with the certificate's key.
    ///
    /// # Errors
    /// Why it can't.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, String>;

    /// Checks that the certificate is one of the group's authority and of this peer, counts now, and has a key that has
    /// signed the message. Answers until when it counts.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    fn verify(
        &self,
        signed: &Signed,
        message: &[u8],
        peer: &PeerId,
        group: &GroupHash,
    ) -> Result<SystemTime, String>;
}

/// How the connecting side came to the accepting one.
#[derive(Debug, Clone)]
pub enum Reached {
    /// We dialled this address.
    Dialled(SocketAddr),
    /// We were dialled, and these addresses are ours.
    At(Vec<SocketAddr>),
    /// The transport has proved to both sides whom they are connected to: nobody stands in between.
    Authenticated,
}

impl Reached {
    fn dialled(&self) -> DialledAddress {
        match self {
            Self::Dialled(address) => (*address).into(),
            Self::At(_) | Self::Authenticated => DialledAddress::NONE,
        }
    }

    fn admits(&self, dialled: DialledAddress) -> bool {
        match self {
            Self::At(ours) => ours.iter().any(|own| DialledAddress::from(*own) == dialled),
            Self::Dialled(_) | Self::Authenticated => self.dialled() == dialled,
        }
    }
}

/// What both proofs are about, and our Hello.
#[derive(Debug, Clone)]
pub struct GroupParams {
    /// The group that both sides must know, and what they are to prove.
    pub group: GroupKey,
    /// What certificates need; nothing else does.
    pub credentials: Option<Arc<dyn Credentials>>,
    /// How we came together; the proof of the group's id does not tell.
    pub reached: Reached,
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
    /// When the peer's certificate ends, and with it what it may have here; `None`: it has shown none.
    pub proven_until: Option<SystemTime>,
    nonce: [u8; 16],
}

/// Why a peer was not let in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// The proof is wrong: the peer does not know the group's id, or its secret.
    #[error("the peer is not of the group")]
    WrongProof,
    /// The peer proves something else than what is demanded here.
    #[error("the peer proves its membership by {theirs}, group.membership is {ours} here")]
    OtherProof {
        /// What the peer goes by.
        theirs: Demand,
        /// What we go by.
        ours: Demand,
    },
    /// The peer's certificate does not count.
    #[error("the peer's certificate: {0}")]
    Certificate(String),
    /// The peer was on its way to another machine.
    #[error(
        "the peer has dialled {0}, which is not known to be this machine's (group.public_addresses): somebody may stand in between"
    )]
    OtherAddress(SocketAddr),
    /// We have no certificate, or can't sign.
    #[error("this machine's certificate: {0}")]
    OwnCertificate(String),
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
            Self::WrongProof
            | Self::NoProof
            | Self::OtherProof { .. }
            | Self::Certificate(_)
            | Self::OtherAddress(_)
            | Self::OwnCertificate(_) => HResult(0x80D0_680C),
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
    stream: &mut TcpStream,
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
    stream: &mut TcpStream,
    params: &GroupParams,
    timeout: Duration,
) -> Result<PeerHello, GroupError> {
    with_timeout(timeout, async {
        let (peer, mut skipped) = hello(stream, params).await?;
        let dialled = params.reached.dialled();
        send(stream, &params.our_proof(&peer, dialled)?).await?;
        let (_, proven_until) = params.verify(&peer, receive(stream, &mut skipped).await?)?;
        Ok(PeerHello {
            proven_until,
            ..peer
        })
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
    stream: &mut TcpStream,
    params: &GroupParams,
    timeout: Duration,
) -> Result<VerifiedPeer, GroupError> {
    with_timeout(timeout, async {
        let (peer, mut skipped) = hello(stream, params).await?;
        let (dialled, proven_until) = params.verify(&peer, receive(stream, &mut skipped).await?)?;
        Ok(VerifiedPeer {
            proof: params.our_proof(&peer, dialled)?,
            hello: PeerHello {
                proven_until,
                ..peer
            },
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
        stream: &mut TcpStream,
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
    /// What we send to show that we are a member; `dialled` is what both sides name.
    fn our_proof(
        &self,
        peer: &PeerHello,
        dialled: DialledAddress,
    ) -> Result<Extension, GroupError> {
        if self.group.demand() == Demand::Id {
            return Ok(Extension::GroupProof(group_proof(
                self.group.group(),
                &self.swarm,
                &self.local,
                &self.remote,
                &peer.nonce,
                &self.nonce,
            )));
        }
        let transcript = MemberTranscript {
            group: &self.group,
            swarm: &self.swarm,
            prover: &self.local,
            verifier: &self.remote,
            verifier_nonce: &peer.nonce,
            prover_nonce: &self.nonce,
            dialled,
        };
        let signed = match self.group.demand() {
            Demand::Id | Demand::Secret => None,
            Demand::Certificate => {
                let credentials = self.credentials()?;
                let signature = credentials.sign(&transcript.signed_bytes());
                Some(Signed {
                    certificate: credentials.certificate().to_vec(),
                    signature: signature.map_err(GroupError::OwnCertificate)?,
                })
            }
        };
        Ok(Extension::MemberProof(MemberProof {
            dialled,
            mac: transcript.mac(),
            signed,
        }))
    }

    fn credentials(&self) -> Result<&dyn Credentials, GroupError> {
        let none = || GroupError::OwnCertificate("there is none".to_owned());
        self.credentials.as_deref().ok_or_else(none)
    }

    /// Checks what the peer has sent; answers with the address that was dialled, and until when its certificate counts.
    fn verify(
        &self,
        peer: &PeerHello,
        answer: Extension,
    ) -> Result<(DialledAddress, Option<SystemTime>), GroupError> {
        let ours = self.group.demand();
        let other = |theirs| Err(GroupError::OtherProof { theirs, ours });
        match answer {
            Extension::GroupProof(proof) if ours == Demand::Id => {
                let holds = verify_group_proof(
                    &proof,
                    self.group.group(),
                    &self.swarm,
                    &self.remote,
                    &self.local,
                    &self.nonce,
                    &peer.nonce,
                );
                match holds {
                    true => Ok((self.reached.dialled(), None)),
                    false => Err(GroupError::WrongProof),
                }
            }
            Extension::GroupProof(_) => other(Demand::Id),
            Extension::MemberProof(proof) if proof.demand() != ours => other(proof.demand()),
            Extension::MemberProof(proof) => {
                let until = self.verify_member(peer, &proof)?;
                Ok((proof.dialled, until))
            }
            _ => Err(GroupError::NoProof),
        }
    }

    fn verify_member(
        &self,
        peer: &PeerHello,
        proof: &MemberProof,
    ) -> Result<Option<SystemTime>, GroupError> {
        let transcript = MemberTranscript {
            group: &self.group,
            swarm: &self.swarm,
            prover: &self.remote,
            verifier: &self.local,
            verifier_nonce: &self.nonce,
            prover_nonce: &peer.nonce,
            dialled: proof.dialled,
        };
        if !transcript.verify_mac(&proof.mac) {
            return Err(GroupError::WrongProof);
        }
        // Who knows the key has said so of this address: it is told to whom a wrong one belongs.
        if !self.reached.admits(proof.dialled) {
            return Err(GroupError::OtherAddress(proof.dialled.into()));
        }
        let Some(signed) = &proof.signed else {
            return Ok(None);
        };
        let message = transcript.signed_bytes();
        self.credentials()?
            .verify(signed, &message, &self.remote, self.group.group())
            .map(Some)
            .map_err(GroupError::Certificate)
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
    stream: &mut TcpStream,
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
                proven_until: None,
                nonce,
            },
            skipped,
        )),
        _ => Err(GroupError::NoProof),
    }
}

async fn send(stream: &mut TcpStream, extension: &Extension) -> Result<(), GroupError> {
    let mut bytes = Vec::with_capacity(5 + extension.encoded_len());
    let length = u32::try_from(extension.encoded_len()).expect("a Hello or a proof is short");
    Header::Extension { length }.encode(&mut bytes);
    extension.encode(&mut bytes);
    Ok(stream.write_all(&bytes).await?)
}

/// Receives the next message of ours, and not one byte more. Others' extensions are skipped; `skipped` counts
/// their bytes.
async fn receive(stream: &mut TcpStream, skipped: &mut u32) -> Result<Extension, GroupError> {
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

async fn skip(stream: &mut TcpStream, mut len: usize) -> Result<(), GroupError> {
    let mut waste = [0; 1024];
    while len > 0 {
        let part = len.min(waste.len());
        stream.read_exact(&mut waste[..part]).await?;
        len -= part;
    }
    Ok(())
}
