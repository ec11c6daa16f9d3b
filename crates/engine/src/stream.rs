//! What carries a peer's bytes: TCP, or a stream of QUIC, each straight or through a tunnel.

use bytes::Bytes;
use dosvc_nat::{
    quic::{self, Manner},
    tcp::{SEND_BYTES, TunnelReader, TunnelStream, TunnelWriter},
};
use dosvc_polite::socket::BorrowedSocket;
use dosvc_wire::net::{Loaded, ReadHalf, SendFileError, Transport, WriteHalf, read_part};
use std::{
    fs::File,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// A connection to a peer.
#[derive(Debug)]
pub(crate) enum PeerStream {
    Tcp(TcpStream),
    Quic(Box<quic::PeerStream>),
    /// TCP that the daemon speaks by itself.
    TunnelTcp(TunnelStream),
}

impl From<TcpStream> for PeerStream {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(stream)
    }
}

impl From<quic::PeerStream> for PeerStream {
    fn from(stream: quic::PeerStream) -> Self {
        Self::Quic(Box::new(stream))
    }
}

impl From<TunnelStream> for PeerStream {
    fn from(stream: TunnelStream) -> Self {
        Self::TunnelTcp(stream)
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Quic(stream) => Pin::new(stream).poll_read(cx, into),
            Self::TunnelTcp(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Quic(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::TunnelTcp(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Quic(stream) => Pin::new(stream).poll_flush(cx),
            Self::TunnelTcp(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Quic(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::TunnelTcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl Transport for PeerStream {
    type Read = Reading;
    type Write = Writing;

    fn into_halves(self) -> (Reading, Writing) {
        match self {
            Self::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (Reading::Tcp(read), Writing::Tcp(write))
            }
            Self::Quic(stream) => {
                let (read, write) = stream.into_halves();
                (Reading::Quic(read), Writing::Quic(write))
            }
            Self::TunnelTcp(stream) => {
                let (read, write) = stream.into_halves();
                (Reading::TunnelTcp(read), Writing::TunnelTcp(write))
            }
        }
    }
}

/// The receiving direction.
#[derive(Debug)]
pub(crate) enum Reading {
    Tcp(OwnedReadHalf),
    Quic(quic::Reader),
    TunnelTcp(TunnelReader),
}

impl ReadHalf for Reading {
    async fn read(&mut self, first: &mut [u8], second: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => half.read(first, second).await,
            // What follows is there without another system call.
            Self::Quic(half) => half.read(first).await,
            Self::TunnelTcp(half) => half.read(first).await,
        }
    }

    async fn ready(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(half) => ReadHalf::ready(half).await,
            Self::Quic(_) => Ok(()),
            Self::TunnelTcp(half) => half.ready().await,
        }
    }

    fn socket(&self) -> Option<BorrowedSocket<'_>> {
        match self {
            Self::Tcp(half) => half.socket(),
            Self::Quic(_) | Self::TunnelTcp(_) => None,
        }
    }

    fn set_rate(&mut self, rate: Option<u64>) {
        match self {
            Self::Tcp(half) => half.set_rate(rate),
            Self::Quic(half) => half.set_rate(rate),
            // What may be under way is little, and a byte that is not read is none that may follow.
            Self::TunnelTcp(_) => {}
        }
    }

    fn counted(&self) -> Option<u64> {
        match self {
            Self::Tcp(half) => half.counted(),
            Self::Quic(half) => Some(half.counted()),
            Self::TunnelTcp(half) => Some(half.counted()),
        }
    }
}

/// The sending direction.
#[derive(Debug)]
pub(crate) enum Writing {
    Tcp(OwnedWriteHalf),
    Quic(quic::Writer),
    TunnelTcp(TunnelWriter),
}

impl WriteHalf for Writing {
    fn socket(&self) -> Option<BorrowedSocket<'_>> {
        match self {
            Self::Tcp(half) => half.socket(),
            Self::Quic(_) | Self::TunnelTcp(_) => None,
        }
    }

    async fn write(&mut self, bytes: &[u8], more: bool) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => WriteHalf::write(half, bytes, more).await,
            Self::Quic(half) => half.write(bytes).await,
            Self::TunnelTcp(half) => half.write(bytes).await,
        }
    }

    fn set_background(&mut self, background: bool, waited_for: bool) {
        match self {
            Self::Tcp(half) => half.set_background(background, waited_for),
            Self::Quic(half) => half.set_manner(match (background, waited_for) {
                (false, _) => Manner::Foreground,
                (true, false) => Manner::Background,
                (true, true) => Manner::WaitedFor,
            }),
            // It has one congestion control for all.
            Self::TunnelTcp(_) => {}
        }
    }

    fn counted(&self) -> Option<u64> {
        match self {
            Self::Tcp(half) => WriteHalf::counted(half),
            Self::Quic(half) => Some(half.counted()),
            Self::TunnelTcp(half) => Some(half.counted()),
        }
    }

    fn set_unsent_max(&mut self, bytes: u32) {
        match self {
            Self::Tcp(half) => half.set_unsent_max(bytes),
            Self::Quic(half) => half.set_unsent_max(bytes),
            Self::TunnelTcp(_) => {}
        }
    }

    async fn send_file(
        &mut self,
        file: &Arc<File>,
        offset: u64,
        len: usize,
        loaded: &mut Loaded,
    ) -> Result<usize, SendFileError> {
        match self {
            Self::Tcp(half) => half.send_file(file, offset, len, loaded).await,
            Self::Quic(half) => {
                let bytes = read_part(file, offset, len)
                    .await
                    .map_err(SendFileError::File)?;
                let bytes = Bytes::from(bytes);
                let n = bytes.len();
                let sent = half.write_all(bytes).await;
                sent.map_err(SendFileError::Connection)?;
                Ok(n)
            }
            Self::TunnelTcp(half) => {
                let bytes = read_part(file, offset, len.min(SEND_BYTES))
                    .await
                    .map_err(SendFileError::File)?;
                let mut sent = 0;
                while sent < bytes.len() {
                    let written = half.write(&bytes[sent..]).await;
                    sent += written.map_err(SendFileError::Connection)?;
                }
                Ok(sent)
            }
        }
    }
}

/// How a connection treats others on the way.
pub(crate) fn manner(foreground: bool) -> Manner {
    match foreground {
        true => Manner::Foreground,
        false => Manner::Background,
    }
}
