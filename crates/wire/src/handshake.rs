//! The 75 bytes that each side sends first.

use crate::limits::HANDSHAKE_LEN;
use dosvc_content::{HResult, HashOfHashes, PeerId};

const NAME: &[u8; 14] = b"Swarm protocol";

/// What each side says first: which content it wants to exchange, and who it is. The connecting side speaks
/// first; the other answers only when it serves that swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handshake {
    /// The content's hash of hashes.
    pub swarm: HashOfHashes,
    /// Who sends this.
    pub peer_id: PeerId,
    /// The eight bytes after the name; [`Self::VERSION`] is what Windows sends. Any value is accepted.
    pub version: [u8; 8],
}

/// Why 75 bytes, or the beginning of them, are no handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeDecodeError {
    /// The first byte is not the length of the protocol's name.
    #[error("handshake names a protocol of {0} bytes instead of 14")]
    NameLength(u8),
    /// The name is not `Swarm protocol`.
    #[error("handshake names another protocol")]
    Name,
}

impl HandshakeDecodeError {
    /// The code that Windows reports for it.
    pub fn hresult(self) -> HResult {
        match self {
            Self::NameLength(_) => HResult::HANDSHAKE_LENGTH,
            Self::Name => HResult::MESSAGE_INVALID,
        }
    }
}

impl Handshake {
    /// The version bytes that Windows sends.
    pub const VERSION: [u8; 8] = [0, 0, 0, 1, 0, 0, 0, 0];

    /// A handshake with the version that Windows sends.
    pub fn new(swarm: HashOfHashes, peer_id: PeerId) -> Self {
        Self {
            swarm,
            peer_id,
            version: Self::VERSION,
        }
    }

    /// The bytes on the wire.
    pub fn encode(&self) -> [u8; HANDSHAKE_LEN] {
        let mut out = [0; HANDSHAKE_LEN];
        out[0] = 14;
        out[1..15].copy_from_slice(NAME);
        out[15..23].copy_from_slice(&self.version);
        out[23..55].copy_from_slice(self.swarm.as_bytes());
        out[55..].copy_from_slice(self.peer_id.as_bytes());
        out
    }

    /// Reads the bytes of the wire.
    ///
    /// # Errors
    /// [`HandshakeDecodeError`] when the protocol's name is another.
    pub fn decode(bytes: &[u8; HANDSHAKE_LEN]) -> Result<Self, HandshakeDecodeError> {
        Self::check_prefix(bytes)?;
        let mut version = [0; 8];
        let mut swarm = [0; 32];
        let mut peer_id = [0; 20];
        version.copy_from_slice(&bytes[15..23]);
        swarm.copy_from_slice(&bytes[23..55]);
        peer_id.copy_from_slice(&bytes[55..]);
        Ok(Self {
            swarm: swarm.into(),
            peer_id: peer_id.into(),
            version,
        })
    }

    /// Checks what has arrived so far, so that a stranger is turned away at its first byte and not after a
    /// timeout.
    ///
    /// # Errors
    /// [`HandshakeDecodeError`] when no bytes that follow could make this a handshake.
    pub fn check_prefix(bytes: &[u8]) -> Result<(), HandshakeDecodeError> {
        let Some((&length, rest)) = bytes.split_first() else {
            return Ok(());
        };
        if usize::from(length) != NAME.len() {
            return Err(HandshakeDecodeError::NameLength(length));
        }
        let got = &rest[..rest.len().min(NAME.len())];
        if !NAME.starts_with(got) {
            return Err(HandshakeDecodeError::Name);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Handshake {
        let swarm: [u8; 32] = std::array::from_fn(|i| u8::try_from(i).expect("32 fits"));
        Handshake::new(swarm.into(), PeerId::from_random([0xab; 16]))
    }

    #[test]
    fn golden_bytes() {
        let mut want = b"\x0eSwarm protocol\0\0\0\x01\0\0\0\0".to_vec();
        want.extend(0..32u8);
        want.extend([0xab; 6]);
        want.extend([0x4b, 0xab, 0xab]);
        want.extend([0xab; 7]);
        want.extend([0; 4]);
        assert_eq!(sample().encode().to_vec(), want);
        assert_eq!(Handshake::decode(&sample().encode()), Ok(sample()));
    }

    #[test]
    fn another_name_is_refused_at_its_first_wrong_byte() {
        assert_eq!(
            Handshake::check_prefix(b"GET "),
            Err(HandshakeDecodeError::NameLength(b'G'))
        );
        assert_eq!(
            Handshake::check_prefix(b"\x0eSwarn"),
            Err(HandshakeDecodeError::Name)
        );
        assert_eq!(Handshake::check_prefix(b"\x0eSwa"), Ok(()));
        assert_eq!(Handshake::check_prefix(b""), Ok(()));
        let mut bytes = sample().encode();
        bytes[0] = 19;
        assert_eq!(
            Handshake::decode(&bytes),
            Err(HandshakeDecodeError::NameLength(19))
        );
    }

    proptest! {
        #[test]
        fn any_ids_round_trip(swarm: [u8; 32], guid: [u8; 20], version: [u8; 8]) {
            let handshake = Handshake { swarm: swarm.into(), peer_id: guid.into(), version };
            prop_assert_eq!(Handshake::decode(&handshake.encode()), Ok(handshake));
        }
    }
}
