//! The engine's ends of QUIC: straight ones beside the TCP port, and one through the Teredo tunnel.

use crate::{
    route::{Route, Transport},
    shared::Shared,
};
use dosvc_nat::quic::QuicEndpoint;
use std::{
    io,
    net::{IpAddr, SocketAddr},
};

/// How far QUIC is used beside TCP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum QuicUse {
    /// Not at all: no UDP port is opened.
    Off,
    /// For peers beyond the LAN, TCP where that fails.
    #[default]
    Distant,
    /// For all peers, TCP where that fails.
    Everywhere,
}

/// Opens an end on each of these addresses, or none.
///
/// # Errors
/// The first that fails, with its address in the text.
pub(crate) fn bind(shared: &Shared, addresses: &[SocketAddr]) -> io::Result<Vec<QuicEndpoint>> {
    let bind = |address: &SocketAddr| {
        let end = QuicEndpoint::direct(&shared.identity, *address);
        let end = end.map(|end| end.on_line(shared.line.clone()));
        end.map_err(|error| {
            let text = format!("cannot listen on UDP {address}: {error}");
            io::Error::new(error.kind(), text)
        })
    };
    addresses.iter().map(bind).collect()
}

/// The end that a way begins at.
pub(crate) fn end_for(shared: &Shared, route: Route) -> Option<QuicEndpoint> {
    match route.transport {
        Transport::Tcp | Transport::TeredoTcp => None,
        Transport::Teredo => shared.tunnel()?.end.clone(),
        Transport::Quic => {
            let ends = shared.quic.load();
            let fits = |end: &&QuicEndpoint| {
                let local = end.local_addr().map(|local| local.is_ipv6());
                local.is_ok_and(|ipv6| ipv6 == route.address.is_ipv6())
            };
            ends.iter().find(fits).cloned()
        }
    }
}

/// The ways to an address: what may be spoken there, as far as it is open here.
pub(crate) fn routes(shared: &Shared, address: SocketAddr) -> Vec<Route> {
    let address = SocketAddr::new(address.ip().to_canonical(), address.port());
    let of = |transport| Route { transport, address };
    if is_teredo(address.ip())
        && let Some(tunnel) = shared.tunnel()
    {
        return tunnel.transports().map(of).collect();
    }
    let wanted = match shared.settings().config.nat.quic {
        QuicUse::Off => false,
        QuicUse::Distant => !shared.is_in_lan(address.ip()),
        QuicUse::Everywhere => true,
    };
    let quic = Some(of(Transport::Quic)).filter(|_| wanted);
    let quic = quic.filter(|route| end_for(shared, *route).is_some());
    quic.into_iter().chain([of(Transport::Tcp)]).collect()
}

/// 2001::/32, RFC 4380.
pub(crate) fn is_teredo(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.segments()[..2] == [0x2001, 0])
}
