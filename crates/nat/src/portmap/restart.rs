//! What gateways say when they have started anew, or got another address: PCP and NAT-PMP announce it to all hosts of the
//! link (RFC 6887 §14.1, RFC 6886 §3.2.1).

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
};
use tokio::net::UdpSocket;

/// Where it is said.
const ANNOUNCED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 1), 5350);

/// Hears announcements.
pub(super) struct Restarts(Option<UdpSocket>);

impl Restarts {
    /// Begins to listen. Without it, a restart shows with the next renewal.
    pub(super) fn listen(local: Ipv4Addr) -> Self {
        let socket = bind(local);
        Self(
            socket
                .inspect_err(|error| tracing::debug!(%error, "a gateway's restart is not heard"))
                .ok(),
        )
    }

    /// Waits until this gateway says something. What it says is not believed: it is a reason to ask.
    pub(super) async fn of(&self, gateway: Ipv4Addr) {
        let Self(Some(socket)) = self else {
            return std::future::pending().await;
        };
        let mut buffer = [0; 64];
        loop {
            match socket.recv_from(&mut buffer).await {
                Ok((_, from)) if from.ip() == IpAddr::V4(gateway) => return,
                Ok(_) => {}
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }
}

fn bind(local: Ipv4Addr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    // Linux gives a socket with a group's address only what was sent to the group.
    socket.bind(&SockAddr::from(ANNOUNCED))?;
    // Every host is a member already; the kernel may say so.
    let _member_already = socket.join_multicast_v4(ANNOUNCED.ip(), &local);
    UdpSocket::from_std(socket.into())
}
