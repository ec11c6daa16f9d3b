//! Exchanging handshakes over a fresh connection.

use super::ByteStream;
use crate::handshake::{Handshake, HandshakeDecodeError};
use crate::limits::HANDSHAKE_LEN;
use dosvc_content::HResult;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Why no handshake came.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// What came is no handshake.
    #[error(transparent)]
    Malformed(#[from] HandshakeDecodeError),
    /// The peer closed; a Windows peer does so when it does not hold the content.
    #[error("closed after {0} bytes of a handshake")]
    Closed(usize),
    /// The peer took too long.
    #[error("no handshake in time")]
    TimedOut,
    /// The connection failed.
    #[error("connection lost: {0}")]
    Lost(#[from] io::Error),
}

impl HandshakeError {
    /// The code that Windows reports for it.
    pub fn hresult(&self) -> HResult {
        match self {
            Self::Malformed(error) => error.hresult(),
            Self::Closed(0) => HResult::SOCKET_CLOSED,
            Self::Closed(_) => HResult::HANDSHAKE_LENGTH,
            Self::TimedOut | Self::Lost(_) => HResult::CONNECTION_LOST,
        }
    }
}

/// Sends a handshake. Over TCP, as [`dial`](super::dial) and [`Listener`](super::Listener) set it up, it has a segment of
/// its own: Wireshark's dissector knows it only when it is alone there.
///
/// # Errors
/// What the connection says.
pub async fn send_handshake(stream: &mut impl ByteStream, handshake: &Handshake) -> io::Result<()> {
    stream.write_all(&handshake.encode()).await?;
    stream.flush().await
}

/// Receives a handshake and not one byte more. A stranger is refused at its first wrong byte.
///
/// # Errors
/// [`HandshakeError`].
pub async fn receive_handshake(
    stream: &mut impl ByteStream,
    timeout: Duration,
) -> Result<Handshake, HandshakeError> {
    let receive = async {
        let mut bytes = [0; HANDSHAKE_LEN];
        let mut filled = 0;
        while filled < HANDSHAKE_LEN {
            match stream.read(&mut bytes[filled..]).await? {
                0 => return Err(HandshakeError::Closed(filled)),
                n => filled += n,
            }
            Handshake::check_prefix(&bytes[..filled])?;
        }
        Ok(Handshake::decode(&bytes)?)
    };
    tokio::time::timeout(timeout, receive)
        .await
        .unwrap_or(Err(HandshakeError::TimedOut))
}
