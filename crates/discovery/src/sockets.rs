//! Multicast sockets, one for each interface and address family, so that an answer leaves where its question came
//! in. The port is shared with other responders of the machine (avahi, other daemons).

use crate::link::{GROUP_V4, GROUP_V6, Link};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};
use tokio::net::UdpSocket;

/// Packets of multicast DNS are sent with this time to live or hop limit (RFC 6762, section 11).
const TTL: u32 = 255;

/// A socket that listens and sends on one link.
///
/// # Errors
/// What the operating system says: the interface may be gone, the port taken by a program that doesn't share it.
pub(crate) fn open(link: &Link, port: u16) -> io::Result<UdpSocket> {
    let socket = shared_socket(link.id.v6)?;
    // Keeps other interfaces' unicast out. Old kernels want a privilege for it; membership of one interface's group
    // does most of the same.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Err(error) = socket.bind_device(Some(link.interface.name.as_bytes())) {
        tracing::debug!(interface = link.interface.name, %error, "socket is not bound to its interface");
    }
    let index = link.id.index;
    if link.id.v6 {
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
        socket.join_multicast_v6(&GROUP_V6, index)?;
        socket.set_multicast_if_v6(index)?;
        socket.set_multicast_hops_v6(TTL)?;
        socket.set_unicast_hops_v6(TTL)?;
        socket.set_multicast_loop_v6(true)?;
        #[cfg(target_os = "linux")]
        socket.set_multicast_all_v6(false)?;
    } else {
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
        socket.join_multicast_v4_n(&GROUP_V4, &InterfaceIndexOrAddress::Index(index))?;
        let own = link.own_v4().unwrap_or(Ipv4Addr::UNSPECIFIED);
        socket.set_multicast_if_v4(&own)?;
        socket.set_multicast_ttl_v4(TTL)?;
        socket.set_ttl_v4(TTL)?;
        socket.set_multicast_loop_v4(true)?;
        #[cfg(target_os = "linux")]
        socket.set_multicast_all_v4(false)?;
    }
    UdpSocket::from_std(socket.into())
}

/// Whether the port can be had at all, over IPv4 or else over IPv6. Nothing is joined or sent.
///
/// # Errors
/// What the operating system says.
pub(crate) fn probe(port: u16) -> io::Result<()> {
    let v4 = shared_socket(false)
        .and_then(|s| s.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into()));
    match v4 {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => shared_socket(true)
            .and_then(|s| s.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into()))
            .map_err(|_| error),
        result => result,
    }
}

fn shared_socket(v6: bool) -> io::Result<Socket> {
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if v6 {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
