//! Connections: accepted within bounds, with TLS or without, served until they are told to stop.

use crate::{services::Client, shared::Shared};
use axum::{Router, extract::Request};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

/// Time for a request's headers to arrive, and for the next request: an idle connection is closed after it.
const HEADER_TIME_MAX: Duration = Duration::from_secs(10);
/// Time for a TLS handshake.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// Time of a connection in all; its client opens another. So that nobody keeps one for ever, however slowly it reads.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(600);
/// Time for what is under way when the process stops.
pub(crate) const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);
/// Headers of one request.
const HEADERS_MAX: usize = 64;
/// Bytes of buffer a connection may take, headers included.
const BUFFER_BYTES_MAX: usize = 32 << 10;

/// Who may connect, and how.
pub(crate) struct Door {
    pub(crate) shared: Arc<Shared>,
    pub(crate) router: Router,
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) places: Arc<Semaphore>,
    pub(crate) guests: Guests,
    pub(crate) stop: CancellationToken,
}

/// Connections by address.
#[derive(Debug, Default)]
pub(crate) struct Guests(Mutex<HashMap<IpAddr, u32>>);

impl Guests {
    fn enter(&self, address: IpAddr, max: u32) -> bool {
        let mut guests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = guests.entry(address).or_default();
        if *count >= max {
            return false;
        }
        *count += 1;
        true
    }

    fn leave(&self, address: IpAddr) {
        let mut guests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = guests.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                guests.remove(&address);
            }
        }
    }
}

/// An address as a guest: a network of 64 bits of IPv6 is one.
fn guest(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

impl Door {
    /// Serves until the process stops and what is under way has ended.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener) {
        let connections = TaskTracker::new();
        loop {
            let next = async {
                let place = self.places.clone().acquire_owned().await;
                (listener.accept().await, place)
            };
            let (accepted, place) = tokio::select! {
                next = next => next,
                () = self.stop.cancelled() => break,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: give others time to free some.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let max = self.shared.config.connections_per_address_max;
            if !self.guests.enter(guest(address.ip()), max) {
                self.shared
                    .metrics
                    .connections_refused
                    .fetch_add(1, Relaxed);
                continue;
            }
            let door = self.clone();
            connections.spawn(async move {
                let _place = place;
                let _count = Count::new(&door.shared.metrics.connections);
                door.greet(stream, address).await;
                door.guests.leave(guest(address.ip()));
            });
        }
        drop(listener);
        connections.close();
        let _ = tokio::time::timeout(DRAIN_TIME_MAX, connections.wait()).await;
    }

    async fn greet(&self, stream: TcpStream, address: SocketAddr) {
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else {
            return self.talk(stream, address).await;
        };
        match tokio::time::timeout(HANDSHAKE_TIME_MAX, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.talk(stream, address).await,
            failed => {
                self.shared.metrics.handshakes_failed.fetch_add(1, Relaxed);
                if let Ok(Err(error)) = failed {
                    tracing::debug!(client = %address, %error, "TLS handshake");
                }
            }
        }
    }

    async fn talk(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        address: SocketAddr,
    ) {
        let client = Client(address.ip().to_canonical());
        let service = self
            .router
            .clone()
            .map_request(move |mut request: Request<_>| {
                request.extensions_mut().insert(client);
                request
            });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIME_MAX)
            .max_headers(HEADERS_MAX)
            .max_buf_size(BUFFER_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        let mut connection = pin!(connection);
        let served = tokio::select! {
            served = connection.as_mut() => served,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = tokio::time::sleep(CONNECTION_TIME_MAX) => {
                connection.as_mut().graceful_shutdown();
                let _ = tokio::time::timeout(DRAIN_TIME_MAX, connection).await;
                Ok(())
            }
        };
        if let Err(error) = served {
            tracing::debug!(client = %address, %error, "connection ended");
        }
    }
}

/// Counts something for as long as it is there.
struct Count<'a>(&'a AtomicU64);

impl<'a> Count<'a> {
    fn new(counter: &'a AtomicU64) -> Self {
        counter.fetch_add(1, Relaxed);
        Self(counter)
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_are_counted_by_address() {
        let guests = Guests::default();
        let address = guest("2001:db8::1".parse().unwrap());
        let neighbour = guest("2001:db8::2".parse().unwrap());
        assert!(guests.enter(address, 2) && guests.enter(neighbour, 2));
        assert!(!guests.enter(address, 2));
        assert!(guests.enter(guest("192.0.2.1".parse().unwrap()), 2));
        guests.leave(address);
        assert!(guests.enter(address, 2));
        for _ in 0..2 {
            guests.leave(address);
        }
        assert_eq!(guests.0.lock().unwrap().len(), 1, "nobody is remembered");
    }
}
