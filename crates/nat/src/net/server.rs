//! A server with its two sockets.

use super::{DATAGRAM_MAX, seed, sockets};
use crate::teredo::{
    PORT,
    server::{Server, ServerConfig, ServerStats, Side},
};
use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};
use tokio::net::UdpSocket;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A server that runs.
pub struct ServerHandle {
    shared: Arc<Shared>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

struct Shared {
    core: Mutex<Server>,
    primary: UdpSocket,
    secondary: UdpSocket,
}

/// Starts a server on UDP port 3544 of both addresses.
///
/// # Errors
/// When one of them is not this machine's, is the other, or has the port in use.
pub async fn serve(config: ServerConfig) -> io::Result<ServerHandle> {
    if config.primary == config.secondary {
        let why = "primary and secondary address of a Teredo server must differ";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let [primary, secondary] = [bind(config.primary).await?, bind(config.secondary).await?];
    let shared = Arc::new(Shared {
        core: Mutex::new(Server::new(config, u64::from_be_bytes(seed()?))),
        primary,
        secondary,
    });
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    for side in [Side::Primary, Side::Secondary] {
        let (shared, stop) = (shared.clone(), stop.clone());
        tasks.spawn(async move { stop.run_until_cancelled(shared.run(side)).await });
    }
    tasks.close();
    Ok(ServerHandle {
        shared,
        stop,
        tasks,
    })
}

async fn bind(ip: Ipv4Addr) -> io::Result<UdpSocket> {
    UdpSocket::bind(SocketAddrV4::new(ip, PORT))
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("UDP {ip}:{PORT}: {error}")))
}

impl ServerHandle {
    /// What it has counted.
    pub fn stats(&self) -> ServerStats {
        self.shared.core().stats().clone()
    }

    /// Ends it.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

impl Shared {
    fn core(&self) -> MutexGuard<'_, Server> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn socket(&self, side: Side) -> &UdpSocket {
        match side {
            Side::Primary => &self.primary,
            Side::Secondary => &self.secondary,
        }
    }

    async fn run(&self, side: Side) {
        let mut buffer = [0; DATAGRAM_MAX];
        loop {
            let (length, from) = sockets::receive(self.socket(side), &mut buffer).await;
            let handled = self
                .core()
                .handle(Instant::now(), side, from, &buffer[..length]);
            match handled {
                Ok(answer) => {
                    let socket = self.socket(answer.from);
                    // A client that gets no answer asks again.
                    if let Err(error) = sockets::send_now(socket, answer.to, &answer.bytes) {
                        tracing::debug!(to = %answer.to, %error, "an answer could not be sent");
                    }
                }
                Err(why) => tracing::trace!(%from, %why, "a datagram was dropped"),
            }
        }
    }
}
