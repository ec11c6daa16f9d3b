//! A tunnel as a socket for QUIC: each datagram is wrapped in UDP and IPv6 and sent as Teredo, a whole batch with one call
//! (segmentation offload of the outer UDP), and the same the other way.

use super::inner::{HEADERS_LEN, unwrap, wrap};
use crate::{
    net::{Incoming, Tunnel},
    teredo::client::{Client, LocalPort, Sent},
};
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit, UdpSocketState},
};
use std::{
    collections::VecDeque,
    fmt,
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Instant,
};
use tokio::io::Interest;

/// Datagrams that came in one batch with others and don't fit into the same buffer as they do.
type LeftOver = VecDeque<(SocketAddrV6, Vec<u8>)>;

pub(super) struct TunnelSocket {
    tunnel: Tunnel,
    incoming: Mutex<Incoming>,
    state: UdpSocketState,
    /// The port inside the tunnel.
    port: u16,
    left_over: Mutex<LeftOver>,
    /// Where a batch is put together.
    out: Mutex<Vec<u8>>,
}

impl fmt::Debug for TunnelSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TunnelSocket({:?})", self.tunnel.address())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TunnelSocket {
    pub(super) fn new(tunnel: Tunnel, incoming: Incoming, port: u16) -> io::Result<Self> {
        let state = UdpSocketState::new(tunnel.service().into())?;
        Ok(Self {
            tunnel,
            incoming: Mutex::new(incoming),
            state,
            port,
            left_over: Mutex::default(),
            out: Mutex::default(),
        })
    }

    /// Sends a batch of wrapped datagrams to one peer, or lets each of them wait for the path.
    fn send_wrapped(&self, wrapped: &[u8], segment: usize) -> io::Result<()> {
        let mut packets = wrapped.chunks(segment);
        let Some(first) = packets.next() else {
            return Ok(());
        };
        match self.tunnel.route(first) {
            Sent::Now(path) if path.port == LocalPort::Service => {
                let transmit = Transmit {
                    destination: SocketAddr::V4(path.to),
                    ecn: None,
                    contents: wrapped,
                    segment_size: (wrapped.len() > segment).then_some(segment),
                    src_ip: None,
                };
                let io = self.tunnel.service();
                let _usual_ttl = self.tunnel.usual_ttl();
                // Any error but this one would end the connection: what can't be sent is lost.
                match io.try_io(Interest::WRITABLE, || self.state.send(io.into(), &transmit)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
                    _ => Ok(()),
                }
            }
            Sent::Now(path) => {
                for packet in wrapped.chunks(segment) {
                    self.tunnel.send_on(path, packet);
                }
                Ok(())
            }
            Sent::Queued => {
                for packet in packets {
                    let _lost = self.tunnel.send(packet);
                }
                Ok(())
            }
            Sent::Refused(why) => {
                tracing::trace!(%why, "a datagram could not be sent through the tunnel");
                Ok(())
            }
        }
    }

    /// Unwraps a batch in place. What is left at its beginning: whose, how many bytes, how many each but the last.
    fn unwrap_batch(
        &self,
        core: &mut Client,
        from: SocketAddrV4,
        bytes: &mut [u8],
        stride: usize,
    ) -> Option<(SocketAddrV6, usize, usize)> {
        let now = Instant::now();
        let mut batch: Option<(SocketAddrV6, usize, usize)> = None;
        let mut open = true;
        let end = bytes.len();
        for start in (0..end).step_by(stride.max(1)) {
            let segment = &bytes[start..end.min(start + stride)];
            let packet = core.handle_datagram(now, LocalPort::Service, from, segment);
            let Some(packet) = packet.ok().flatten() else {
                continue;
            };
            let Some((source, range)) = unwrap(packet, self.port) else {
                self.tunnel.leave(packet.bytes());
                continue;
            };
            let range = start + range.start..start + range.end;
            let length = range.len();
            match &mut batch {
                None => {
                    bytes.copy_within(range, 0);
                    batch = Some((source, length, length));
                }
                Some((of, filled, size)) if open && *of == source && length <= *size => {
                    bytes.copy_within(range, *filled);
                    *filled += length;
                    // Only the last one may be shorter.
                    open = length == *size;
                }
                Some(_) => {
                    let apart = (source, bytes[range].to_vec());
                    lock(&self.left_over).push_back(apart);
                }
            }
        }
        batch
    }

    /// Hands out what did not fit before.
    fn take_left_over(&self, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> usize {
        let mut left_over = lock(&self.left_over);
        let count = left_over.len().min(bufs.len()).min(meta.len());
        for ((source, bytes), (buf, meta)) in left_over
            .drain(..count)
            .zip(bufs.iter_mut().zip(meta.iter_mut()))
        {
            let length = bytes.len().min(buf.len());
            buf[..length].copy_from_slice(&bytes[..length]);
            self.describe(meta, source, length, length);
        }
        count
    }

    fn describe(&self, meta: &mut RecvMeta, source: SocketAddrV6, len: usize, stride: usize) {
        meta.addr = SocketAddr::V6(source);
        meta.len = len;
        meta.stride = stride;
        meta.ecn = None;
        meta.dst_ip = self.tunnel.address().map(IpAddr::V6);
    }

    /// Unwraps what came, and puts what is for us to the front.
    fn sort(&self, count: usize, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> usize {
        let mut kept = 0;
        self.tunnel.with_core(|core| {
            for n in 0..count {
                let SocketAddr::V4(from) = meta[n].addr else {
                    continue;
                };
                let (length, stride) = (meta[n].len, meta[n].stride);
                let bytes = &mut bufs[n][..length];
                if let Some((source, length, stride)) = self.unwrap_batch(core, from, bytes, stride)
                {
                    self.describe(&mut meta[n], source, length, stride);
                    bufs.swap(kept, n);
                    meta.swap(kept, n);
                    kept += 1;
                }
            }
        });
        kept
    }
}

impl AsyncUdpSocket for TunnelSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller {
            socket: self,
            writable: None,
        })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let (SocketAddr::V6(to), Some(own)) = (transmit.destination, self.tunnel.address()) else {
            return Ok(());
        };
        let size = transmit.segment_size.unwrap_or(transmit.contents.len());
        let mut out = lock(&self.out);
        out.clear();
        for datagram in transmit.contents.chunks(size.max(1)) {
            wrap(&mut out, (own, self.port), to, datagram);
        }
        self.send_wrapped(&out, size + HEADERS_LEN)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            let count = self.take_left_over(bufs, meta);
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
            if let Poll::Ready(Some((source, range, bytes))) = self.poll_extra(cx) {
                if let Some(source) = source {
                    lock(&self.left_over).push_back((source, bytes[range].to_vec()));
                }
                continue;
            }
            let io = self.tunnel.service();
            ready!(io.poll_recv_ready(cx))?;
            // Errors tell of datagrams that were sent earlier.
            let received = io.try_io(Interest::READABLE, || {
                self.state.recv(io.into(), bufs, meta)
            });
            if let Ok(count) = received {
                let kept = self.sort(count, bufs, meta);
                if kept > 0 {
                    return Poll::Ready(Ok(kept));
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        let own = self
            .tunnel
            .address()
            .unwrap_or(std::net::Ipv6Addr::UNSPECIFIED);
        Ok(SocketAddr::V6(SocketAddrV6::new(own, self.port, 0, 0)))
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

impl TunnelSocket {
    /// The next datagram of an additional port: from whom, and where in it the payload is.
    #[expect(clippy::type_complexity, reason = "used once")]
    fn poll_extra(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<(Option<SocketAddrV6>, std::ops::Range<usize>, Vec<u8>)>> {
        let mut incoming = lock(&self.incoming);
        incoming.poll_extra(cx).map(|came| {
            came.map(|(port, from, bytes)| {
                let inner = self.tunnel.with_core(|core| {
                    let packet = core.handle_datagram(Instant::now(), port, from, &bytes);
                    let packet = packet.ok().flatten()?;
                    let inner = unwrap(packet, self.port);
                    if inner.is_none() {
                        self.tunnel.leave(packet.bytes());
                    }
                    inner
                });
                match inner {
                    Some((source, range)) => (Some(source), range, bytes),
                    None => (None, 0..0, bytes),
                }
            })
        })
    }
}

type Writable = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

/// Each poller has a waker of its own.
struct Poller {
    socket: Arc<TunnelSocket>,
    writable: Option<Writable>,
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Poller")
    }
}

impl UdpPoller for Poller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.socket.clone();
        let writable = self.writable.get_or_insert_with(|| {
            Box::pin(async move { socket.tunnel.service().writable().await })
        });
        let result = ready!(writable.as_mut().poll(cx));
        self.writable = None;
        Poll::Ready(result)
    }
}
