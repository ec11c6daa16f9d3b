//! A connection between two peers, and the one stream in it that carries the swarm protocol.

use super::background::{Manner, Switch};
use dosvc_content::PeerId;
use quinn::{Connection, ConnectionError, ReadError, RecvStream, SendStream, VarInt, WriteError};
use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that may wait to be read until the other end has introduced itself.
pub(super) const FIRST_WINDOW: u32 = 64 << 10;
/// The most that may wait to be read: 1 Gbit/s over 64 ms.
pub(super) const WINDOW: u32 = 8 << 20;
/// The least: some datagrams, so that acknowledgements flow.
const WINDOW_MIN: u32 = 16 << 10;
/// So much of a limited rate may wait to be read, beside what fills the path.
const READ_AHEAD: Duration = Duration::from_millis(8);
/// No path is taken for longer than this.
const RTT_MAX: Duration = Duration::from_millis(500);
/// Bytes that may wait to be sent until it is known how fast they go.
const FIRST_UNSENT: u32 = 64 << 10;
/// Headers of Ethernet, IP and UDP around each datagram; IPv4's are taken for all, 20 bytes less than IPv6's.
const HEADERS_LEN: u64 = 14 + 20 + 8;
/// A window is moved when it is off by more than one part in so many.
const SLACK: u64 = 8;

/// An open connection; whose, has been proven.
#[derive(Debug)]
pub struct Link {
    pub(super) connection: Connection,
    pub(super) peer: PeerId,
    pub(super) switch: Switch,
    /// Bytes of headers around each datagram beside UDP's own.
    pub(super) tunnel_headers: u64,
}

impl Link {
    /// Who the other end is.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Where the other end is.
    pub fn remote_address(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    /// The connection below.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Opens the stream. The other end hears of it with the first bytes.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn open(self) -> Result<PeerStream, ConnectionError> {
        let (send, receive) = self.connection.open_bi().await?;
        Ok(self.stream(send, receive))
    }

    /// Waits for the other end to open the stream.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn accept(self) -> Result<PeerStream, ConnectionError> {
        let (send, receive) = self.connection.accept_bi().await?;
        Ok(self.stream(send, receive))
    }

    fn stream(self, send: SendStream, receive: RecvStream) -> PeerStream {
        let headers = HEADERS_LEN + self.tunnel_headers;
        PeerStream {
            reader: Reader {
                receive,
                connection: self.connection.clone(),
                headers,
                window: FIRST_WINDOW,
            },
            writer: Writer {
                send,
                connection: self.connection,
                headers,
                switch: self.switch,
                unsent_max: FIRST_UNSENT,
                window: 0,
            },
        }
    }
}

/// The stream, in both directions. When both are dropped, the connection is closed.
#[derive(Debug)]
pub struct PeerStream {
    reader: Reader,
    writer: Writer,
}

impl PeerStream {
    /// The two directions, to be used at the same time.
    pub fn into_halves(self) -> (Reader, Writer) {
        (self.reader, self.writer)
    }

    /// The connection below.
    pub fn connection(&self) -> &Connection {
        &self.writer.connection
    }
}

/// The receiving direction.
#[derive(Debug)]
pub struct Reader {
    receive: RecvStream,
    connection: Connection,
    headers: u64,
    window: u32,
}

impl Reader {
    /// Reads what is there, at least a byte; 0 at the end. Cancelled, it has read nothing.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.receive.read(into).await {
            Ok(n) => Ok(n.unwrap_or(0)),
            Err(ReadError::ConnectionLost(error)) if is_end(&error) => Ok(0),
            Err(ReadError::ConnectionLost(error)) => Err(lost(error)),
            Err(error) => Err(error.into()),
        }
    }

    /// Bounds what may be under way and wait to be read to what a rate needs, in bytes a second. Nothing is read faster
    /// than QUIC lets come when there is none.
    pub fn set_rate(&mut self, rate: Option<u64>) {
        let window = rate.map_or(WINDOW, |rate| {
            let time = self.connection.rtt().min(RTT_MAX) + READ_AHEAD;
            let bytes = u128::from(rate) * time.as_micros() / 1_000_000;
            u32::try_from(bytes)
                .unwrap_or(WINDOW)
                .clamp(WINDOW_MIN, WINDOW)
        });
        if is_off(self.window.into(), window.into())
            || (window == WINDOW) != (self.window == WINDOW)
        {
            self.window = window;
            self.connection.set_receive_window(VarInt::from_u32(window));
        }
    }

    /// Bytes that came on the network for this connection, with all headers.
    pub fn counted(&self) -> u64 {
        let came = self.connection.stats().udp_rx;
        came.bytes + came.datagrams * self.headers
    }
}

/// The sending direction.
#[derive(Debug)]
pub struct Writer {
    send: SendStream,
    connection: Connection,
    headers: u64,
    switch: Switch,
    /// Bytes that may wait to be sent.
    unsent_max: u32,
    /// Bytes that may be under way or wait, as QUIC was told.
    window: u64,
}

impl Writer {
    /// Writes a part of `bytes`, at least a byte.
    ///
    /// # Errors
    /// When the connection is lost, or the other end does not want to hear more.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.follow_window();
        self.send.write(bytes).await.map_err(write_error)
    }

    /// Writes all of it, without copying.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn write_all(&mut self, bytes: bytes::Bytes) -> io::Result<()> {
        self.follow_window();
        self.send.write_chunk(bytes).await.map_err(write_error)
    }

    /// How many bytes may wait to be sent, beside those under way: what comes up later waits behind them.
    pub fn set_unsent_max(&mut self, bytes: u32) {
        self.unsent_max = bytes;
    }

    /// How what is sent treats others on the way.
    pub fn set_manner(&self, manner: Manner) {
        self.switch.set(manner);
    }

    /// Bytes that went out on the network for this connection, with all headers.
    pub fn counted(&self) -> u64 {
        let went = self.connection.stats().udp_tx;
        went.bytes + went.datagrams * self.headers
    }

    fn follow_window(&mut self) {
        let under_way = self.connection.stats().path.cwnd;
        let window = (under_way + u64::from(self.unsent_max)).min(WINDOW.into());
        if is_off(self.window, window) {
            self.window = window;
            self.connection.set_send_window(window);
        }
    }
}

fn is_off(now: u64, wanted: u64) -> bool {
    now.abs_diff(wanted) > wanted / SLACK
}

/// Whether the connection has ended as connections do, by somebody who wants no more.
fn is_end(error: &ConnectionError) -> bool {
    matches!(
        error,
        ConnectionError::ApplicationClosed(_) | ConnectionError::LocallyClosed
    )
}

fn lost(error: ConnectionError) -> io::Error {
    let kind = match error {
        ConnectionError::TimedOut => io::ErrorKind::TimedOut,
        ConnectionError::Reset => io::ErrorKind::ConnectionReset,
        _ => io::ErrorKind::ConnectionAborted,
    };
    io::Error::new(kind, error)
}

fn write_error(error: WriteError) -> io::Error {
    match error {
        WriteError::ConnectionLost(error) => lost(error),
        error => error.into(),
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.reader.receive), cx, into)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.writer.send), cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.writer.send), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(&mut self.writer.send), cx)
    }
}
