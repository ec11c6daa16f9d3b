//! Dialling and accepting.

use super::{
    Identity, IdentityError, Link, Manner,
    background::{OwnLine, Switch},
    identity,
    inner::HEADERS_LEN,
    socket::TunnelSocket,
    stream::{FIRST_WINDOW, WINDOW},
};
use crate::net::{ConnectError, Incoming, SOCKET_BUFFER, Tunnel};
use dosvc_content::PeerId;
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, MtuDiscoveryConfig, ServerConfig,
    TokioRuntime, TransportConfig, VarInt,
    crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig},
};
use rustls::pki_types::CertificateDer;
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

/// Bytes of the largest QUIC datagram inside a tunnel: 1280 less the headers of IPv6 and UDP.
const TUNNEL_DATAGRAM_MAX: u16 = 1232;
/// QUIC's least (RFC 9000 §14).
const DATAGRAM_MIN: u16 = 1200;
/// Less than the 30 s for which a path of a tunnel is good, and often enough that a path that is dead shows soon.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// A connection on which nothing came for so long is dead.
const IDLE_MAX: Duration = Duration::from_secs(16);
/// Streams that a peer may have open: the one that carries the swarm protocol.
const STREAMS_MAX: u32 = 1;
/// Connections that wait to be accepted or turned away …
const INCOMING_MAX: usize = 256;
/// … and bytes that come for one of them meanwhile, and for all.
const INCOMING_BYTES_MAX: u64 = 8 << 10;
const INCOMING_BYTES_TOTAL: u64 = 1 << 20;

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
    server: ServerConfig,
    /// What is needed to open paths, for an end inside a tunnel.
    tunnel: Option<Tunnel>,
    line: OwnLine,
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
    /// Over UDP, straight. An IPv6 address takes IPv6 only, so that `0.0.0.0` and `[::]` go together; port 0 is any free
    /// port.
    ///
    /// # Errors
    /// When the port can't be had, or the identity can't be used.
    pub fn direct(identity: &Identity, bind: SocketAddr) -> io::Result<Self> {
        let (server, tls) = configs(identity)?;
        let endpoint = Endpoint::new(
            EndpointConfig::default(),
            Some(server.clone()),
            socket(bind)?,
            Arc::new(TokioRuntime),
        )?;
        Ok(Self {
            endpoint,
            tls,
            server,
            tunnel: None,
            line: OwnLine::default(),
        })
    }

    /// Its connections share the line by which they leave with those of other endpoints, the tunnel's for example.
    /// Otherwise it has one of its own.
    #[must_use]
    pub fn on_line(mut self, line: OwnLine) -> Self {
        self.line = line;
        self
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
        let (server, tls) = configs(identity)?;
        let socket = TunnelSocket::new(tunnel.clone(), incoming, port)?;
        let endpoint = Endpoint::new_with_abstract_socket(
            EndpointConfig::default(),
            Some(server.clone()),
            Arc::new(socket),
            Arc::new(TokioRuntime),
        )?;
        Ok(Self {
            endpoint,
            tls,
            server,
            tunnel: Some(tunnel),
            line: OwnLine::default(),
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
    ) -> Result<Link, DialError> {
        if let (Some(tunnel), IpAddr::V6(peer)) = (&self.tunnel, address.ip()) {
            tunnel.connect(peer).await?;
        }
        let switch = Switch::new(manner, &self.line);
        let mut config = ClientConfig::new(self.tls.clone());
        config.transport_config(Arc::new(self.transport(&switch)));
        let name = identity::name(expected);
        let connection = self.endpoint.connect_with(config, address, &name)?.await?;
        self.link(connection, switch)
    }

    /// The next connection that somebody else wants. `None` when closed.
    pub async fn accept(&self) -> Option<Arrival> {
        let incoming = self.endpoint.accept().await?;
        let endpoint = self.clone();
        Some(Arrival { incoming, endpoint })
    }

    fn link(&self, connection: Connection, switch: Switch) -> Result<Link, DialError> {
        Ok(Link {
            peer: peer_of(&connection)?,
            connection,
            switch,
            tunnel_headers: match self.tunnel {
                Some(_) => HEADERS_LEN as u64,
                None => 0,
            },
        })
    }

    fn transport(&self, switch: &Switch) -> TransportConfig {
        transport(self.tunnel.is_some(), switch)
    }

    /// Closes all connections, and waits until their ends know.
    pub async fn close(&self) {
        self.endpoint.close(VarInt::from_u32(0), b"");
        self.endpoint.wait_idle().await;
    }
}

/// Somebody wants a connection. Nothing was sent to it yet; dropped, it is told so.
#[derive(Debug)]
pub struct Arrival {
    incoming: quinn::Incoming,
    endpoint: QuicEndpoint,
}

impl Arrival {
    /// Where it says that it is.
    pub fn remote_address(&self) -> SocketAddr {
        self.incoming.remote_address()
    }

    /// Whether it has shown that it is there.
    pub fn is_validated(&self) -> bool {
        self.incoming.remote_address_validated()
    }

    /// Has it show that it is there, with one packet that is no longer than its own and remembers nothing here.
    pub fn validate(self) {
        // One that was asked before is told to go away.
        let _ = self.incoming.retry();
    }

    /// Says nothing.
    pub fn ignore(self) {
        self.incoming.ignore();
    }

    /// Completes the handshake. To be bounded in time by the caller.
    ///
    /// # Errors
    /// [`DialError`], as for who dials.
    pub async fn establish(self, manner: Manner) -> Result<Link, DialError> {
        let switch = Switch::new(manner, &self.endpoint.line);
        let mut config = self.endpoint.server.clone();
        config.transport_config(Arc::new(self.endpoint.transport(&switch)));
        let connection = self.incoming.accept_with(Arc::new(config))?.await?;
        self.endpoint.link(connection, switch)
    }
}

/// Who the other end of a connection is.
///
/// # Errors
/// [`DialError::NoIdentity`]: never with an end of ours, which asks for a certificate.
fn peer_of(connection: &Connection) -> Result<PeerId, DialError> {
    let identity = connection.peer_identity().ok_or(DialError::NoIdentity)?;
    let certificates = identity
        .downcast::<Vec<CertificateDer<'static>>>()
        .map_err(|_| DialError::NoIdentity)?;
    let first = certificates.first().ok_or(DialError::NoIdentity)?;
    identity::peer_id(first).map_err(|_| DialError::NoIdentity)
}

fn configs(identity: &Identity) -> io::Result<(ServerConfig, Arc<QuicClientConfig>)> {
    let unusable = |error: IdentityError| io::Error::new(io::ErrorKind::InvalidInput, error);
    let no_suite = |error: NoInitialCipherSuite| io::Error::new(io::ErrorKind::InvalidInput, error);
    let server = identity.server().map_err(|error| unusable(error.into()))?;
    let client = identity.client().map_err(|error| unusable(error.into()))?;
    let server = QuicServerConfig::try_from(server).map_err(no_suite)?;
    let client = QuicClientConfig::try_from(client).map_err(no_suite)?;
    let mut server = ServerConfig::with_crypto(Arc::new(server));
    server
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BYTES_MAX)
        .incoming_buffer_size_total(INCOMING_BYTES_TOTAL);
    Ok((server, Arc::new(client)))
}

fn socket(bind: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(bind), Type::DGRAM, Some(Protocol::UDP))?;
    if bind.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // As much as the system gives; it is only slower with less.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.bind(&bind.into())?;
    Ok(socket.into())
}

fn transport(in_tunnel: bool, switch: &Switch) -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_concurrent_bidi_streams(STREAMS_MAX.into())
        .max_concurrent_uni_streams(0_u32.into())
        .datagram_receive_buffer_size(None)
        .stream_receive_window(WINDOW.into())
        // Until the other end has introduced itself.
        .receive_window(FIRST_WINDOW.into())
        .send_window(WINDOW.into())
        .congestion_controller_factory(Arc::new(switch.clone()));
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
    config
}

#[cfg(test)]
mod tests;
