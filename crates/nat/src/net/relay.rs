//! A relay: a UDP socket on one side, a network interface on the other.

use super::{DATAGRAM_MAX, seed, sockets, tun::Device, tunnel::networks};
use crate::teredo::relay::{Relay, RelayConfig, RelayStats, Relayed};
use std::{
    io,
    net::{Ipv6Addr, SocketAddrV4},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::net::UdpSocket;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How often idle clients are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// A relay that runs.
pub struct RelayHandle {
    shared: Arc<Shared>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

struct Shared {
    core: Mutex<Relay>,
    socket: UdpSocket,
    device: Device,
}

/// Starts a relay on this UDP address. The interface becomes the machine's way to `2001::/32`; its own address is one of
/// that prefix that is nobody's. The machine must forward IPv6.
///
/// # Errors
/// When the port can't be had, or the interface can't get its address.
pub async fn relay(bind: SocketAddrV4, mut device: Device) -> io::Result<RelayHandle> {
    let config = RelayConfig {
        networks: networks()?,
    };
    let socket = UdpSocket::bind(bind)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("UDP {bind}: {error}")))?;
    device.set_address(Some(OWN))?;
    let shared = Arc::new(Shared {
        core: Mutex::new(Relay::new(config, seed()?)),
        socket,
        device,
    });
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let running = (shared.clone(), stop.clone());
    tasks.spawn(async move {
        let (shared, stop) = running;
        let all = async {
            tokio::select! {
                failed = shared.serve_native() => tracing::error!(error = ?failed, "the interface has failed"),
                () = shared.serve_clients() => {}
                () = shared.forget() => {}
            }
        };
        stop.run_until_cancelled(all).await
    });
    tasks.close();
    Ok(RelayHandle {
        shared,
        stop,
        tasks,
    })
}

/// The interface's address: with a server and a mapped address of 0.0.0.0 no client can have it.
const OWN: Ipv6Addr = Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0xFFFF, 0xFFFF, 0xFFFF);

impl RelayHandle {
    /// What it has counted.
    pub fn stats(&self) -> RelayStats {
        self.shared.core().stats().clone()
    }

    /// Clients that are known, and those of them that have answered lately.
    pub fn clients(&self) -> (usize, usize) {
        self.shared.core().clients(Instant::now())
    }

    /// Waits until it has ended by itself: the interface is gone.
    pub async fn ended(&self) {
        self.tasks.wait().await;
    }

    /// Ends it.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

impl Shared {
    fn core(&self) -> MutexGuard<'_, Relay> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve_native(&self) -> io::Result<std::convert::Infallible> {
        let mut buffer = [0; DATAGRAM_MAX];
        loop {
            let length = self.device.recv(&mut buffer).await?;
            let packet = &buffer[..length];
            let mut core = self.core();
            match core.handle_native(Instant::now(), packet) {
                Ok(Relayed::Now(to)) => self.send(to, packet),
                Ok(Relayed::Queued) => self.carry_out(&mut core),
                Err(why) => tracing::trace!(%why, "a packet was not relayed"),
            }
        }
    }

    async fn serve_clients(&self) {
        let mut buffer = [0; DATAGRAM_MAX];
        loop {
            let (length, from) = sockets::receive(&self.socket, &mut buffer).await;
            let mut core = self.core();
            match core.handle_datagram(Instant::now(), from, &buffer[..length]) {
                Ok(Some(packet)) => self.device.send(packet.bytes()),
                Ok(None) => self.carry_out(&mut core),
                Err(why) => tracing::trace!(%from, %why, "a datagram was not relayed"),
            }
        }
    }

    async fn forget(&self) {
        loop {
            tokio::time::sleep(FORGET_EVERY).await;
            self.core().forget_idle(Instant::now());
        }
    }

    fn carry_out(&self, core: &mut Relay) {
        while let Some(out) = core.poll_transmit() {
            self.send(out.to, &out.bytes);
        }
    }

    /// As the network does: what can't be sent is lost.
    fn send(&self, to: SocketAddrV4, bytes: &[u8]) {
        if let Err(error) = sockets::send_now(&self.socket, to, bytes) {
            tracing::trace!(%to, %error, "a datagram could not be sent");
        }
    }
}
