//! Dialling and accepting.

use super::{Identity, IdentityError, LedbatConfig, identity, socket::TunnelSocket};
use crate::net::{ConnectError, Incoming, Tunnel};
use dosvc_content::PeerId;
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, MtuDiscoveryConfig, ServerConfig,
    TokioRuntime, TransportConfig, VarInt,
    crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig},
};
use rustls::pki_types::CertificateDer;
use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
    sync::Arc,
    time::Duration,
};

/// Bytes of the largest QUIC datagram inside a tunnel: 1280 less the headers of IPv6 and UDP.
const TUNNEL_DATAGRAM_MAX: u16 = 1232;
/// QUIC's least (RFC 9000 §14).
const DATAGRAM_MIN: u16 = 1200;
/// Less than the 30 s for which a path of a tunnel is good.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// A connection on which nothing came for so long is dead.
const IDLE_MAX: Duration = Duration::from_secs(45);
/// Streams that a peer may have open.
const STREAMS_MAX: u32 = 16;
/// Bytes of one stream that may wait to be read: 1 Gbit/s over 32 ms.
const STREAM_WINDOW: u32 = 4 << 20;
/// The same for a whole connection.
const WINDOW: u32 = 8 << 20;

/// How a connection treats others on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Takes its share.
    Foreground,
    /// Takes what others leave (LEDBAT++).
    Background,
}

/// Why a peer could not be dialled.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No path opened.
    #[error("no path: {0}")]
    Path(#[from] ConnectError),
    /// The address can't be dialled from here.
    #[error(transparent)]
    Connect(#[from] quinn::ConnectError),
    /// The connection failed; also when the peer is another one than expected.
    #[error(transparent)]
    Connection(#[from] quinn::ConnectionError),
    /// The other end is an endpoint of QUIC, and no peer.
    #[error("the other end has no certificate")]
    NoIdentity,
}

/// An end of QUIC connections, over UDP or through a tunnel.
#[derive(Clone)]
pub struct QuicEndpoint {
    endpoint: Endpoint,
    tls: Arc<QuicClientConfig>,
    /// What is needed to open paths, for an end inside a tunnel.
    tunnel: Option<Tunnel>,
}

impl std::fmt::Debug for QuicEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QuicEndpoint")
            .field("endpoint", &self.endpoint)
            .field("tunnel", &self.tunnel)
            .finish_non_exhaustive()
    }
}

impl QuicEndpoint {
    /// Over UDP, straight. Port 0 takes a free one.
    ///
    /// # Errors
    /// When the port can't be had, or the identity can't be used.
    pub fn direct(identity: &Identity, bind: SocketAddr) -> io::Result<Self> {
        let (server, tls) = configs(identity, None)?;
        Ok(Self {
            endpoint: Endpoint::server(server, bind)?,
            tls,
            tunnel: None,
        })
    }

    /// Through a tunnel, on a port of the tunnel's address.
    ///
    /// # Errors
    /// When the tunnel's socket, or the identity, can't be used.
    pub fn tunnelled(
        identity: &Identity,
        tunnel: Tunnel,
        incoming: Incoming,
        port: u16,
    ) -> io::Result<Self> {
        let (server, tls) = configs(identity, Some(&tunnel))?;
        let socket = TunnelSocket::new(tunnel.clone(), incoming, port)?;
        let endpoint = Endpoint::new_with_abstract_socket(
            EndpointConfig::default(),
            Some(server),
            Arc::new(socket),
            Arc::new(TokioRuntime),
        )?;
        Ok(Self {
            endpoint,
            tls,
            tunnel: Some(tunnel),
        })
    }

    /// Where it can be dialled.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Dials a peer: `expected`, or whoever is there. Inside a tunnel the path is opened first, which fails sooner than
    /// QUIC would.
    ///
    /// # Errors
    /// [`DialError`]
    pub async fn dial(
        &self,
        address: SocketAddr,
        expected: Option<PeerId>,
        manner: Manner,
    ) -> Result<Connection, DialError> {
        if let (Some(tunnel), IpAddr::V6(peer)) = (&self.tunnel, address.ip()) {
            tunnel.connect(peer).await?;
        }
        let mut config = ClientConfig::new(self.tls.clone());
        config.transport_config(Arc::new(transport(self.tunnel.is_some(), manner)));
        let name = identity::name(expected);
        Ok(self.endpoint.connect_with(config, address, &name)?.await?)
    }

    /// Dials a peer by its Teredo address, on a port inside the tunnel.
    ///
    /// # Errors
    /// [`DialError`]
    pub async fn dial_teredo(
        &self,
        peer: Ipv6Addr,
        port: u16,
        expected: Option<PeerId>,
        manner: Manner,
    ) -> Result<Connection, DialError> {
        let address = SocketAddrV6::new(peer, port, 0, 0);
        self.dial(address.into(), expected, manner).await
    }

    /// The next connection that somebody else has opened; its handshake has to be waited for. `None` when closed.
    pub async fn accept(&self) -> Option<quinn::Incoming> {
        self.endpoint.accept().await
    }

    /// Closes all connections, and waits until their ends know.
    pub async fn close(&self) {
        self.endpoint.close(VarInt::from_u32(0), b"");
        self.endpoint.wait_idle().await;
    }
}

/// Who the other end of a connection is.
///
/// # Errors
/// [`DialError::NoIdentity`]: never with an end of ours, which asks for a certificate.
pub fn peer_of(connection: &Connection) -> Result<PeerId, DialError> {
    let identity = connection.peer_identity().ok_or(DialError::NoIdentity)?;
    let certificates = identity
        .downcast::<Vec<CertificateDer<'static>>>()
        .map_err(|_| DialError::NoIdentity)?;
    let first = certificates.first().ok_or(DialError::NoIdentity)?;
    identity::peer_id(first).map_err(|_| DialError::NoIdentity)
}

fn configs(
    identity: &Identity,
    tunnel: Option<&Tunnel>,
) -> io::Result<(ServerConfig, Arc<QuicClientConfig>)> {
    let unusable = |error: IdentityError| io::Error::new(io::ErrorKind::InvalidInput, error);
    let no_suite = |error: NoInitialCipherSuite| io::Error::new(io::ErrorKind::InvalidInput, error);
    let server = identity.server().map_err(|error| unusable(error.into()))?;
    let client = identity.client().map_err(|error| unusable(error.into()))?;
    let server = QuicServerConfig::try_from(server).map_err(no_suite)?;
    let client = QuicClientConfig::try_from(client).map_err(no_suite)?;
    let mut server = ServerConfig::with_crypto(Arc::new(server));
    server.transport_config(Arc::new(transport(tunnel.is_some(), Manner::Foreground)));
    Ok((server, Arc::new(client)))
}

fn transport(in_tunnel: bool, manner: Manner) -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_concurrent_bidi_streams(STREAMS_MAX.into())
        .max_concurrent_uni_streams(0_u32.into())
        .datagram_receive_buffer_size(None)
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(WINDOW.into())
        .send_window(WINDOW.into());
    if let Ok(idle) = IDLE_MAX.try_into() {
        config.max_idle_timeout(Some(idle));
    }
    if in_tunnel {
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(TUNNEL_DATAGRAM_MAX);
        config
            .initial_mtu(DATAGRAM_MIN)
            .min_mtu(DATAGRAM_MIN)
            .mtu_discovery_config(Some(discovery));
    }
    if manner == Manner::Background {
        config.congestion_controller_factory(Arc::new(LedbatConfig));
    }
    config
}

#[cfg(test)]
mod tests;
