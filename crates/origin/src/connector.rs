//! Makes connections: names, proxies, TLS.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use crate::line::{Limits, Line, LineInfo};
use crate::resolver::Resolver;

/// The next address is tried after this long when the one before has not answered (RFC 8305, section 5).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("the URL has no host that can be connected to")]
    NoHost,
    #[error("{0}")]
    Name(#[source] BoxError),
    #[error("{0}")]
    Tcp(#[source] io::Error),
    #[error("{0}")]
    Tls(#[source] io::Error),
    #[error("the proxy does not let through: {0}")]
    Proxy(#[source] BoxError),
    #[error("it took too long")]
    Timeout,
}

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Makes the connections of one lane of a client. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Connector(Arc<Parts>);

/// What a [`Connector`] is made of.
pub(crate) struct Parts {
    pub(crate) resolver: Resolver,
    pub(crate) proxies: Arc<Matcher>,
    pub(crate) tls: ClientConfig,
    pub(crate) timeout: Duration,
    pub(crate) limits: Arc<dyn Limits>,
    pub(crate) background: bool,
}

impl Connector {
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    async fn connect(&self, to: Uri) -> Result<Stream, ConnectError> {
        let is_tls = to.scheme_str() == Some("https");
        let Some(proxy) = self.0.proxies.intercept(&to) else {
            let stream = Stream::Plain(Box::new(self.dial(&to, false).await?));
            return match is_tls {
                true => self.secure(stream, &to, &self.0.tls).await,
                false => Ok(stream),
            };
        };
        if !is_tls {
            // Such a proxy is given whole requests.
            let stream = self.reach(proxy.uri()).await?;
            return Ok(Stream::Proxied(Box::new(stream)));
        }
        let stream = self.tunnel(&proxy, &to).await?;
        self.secure(stream, &to, &self.0.tls).await
    }

    /// A connection to a proxy.
    async fn reach(&self, proxy: &Uri) -> Result<Stream, ConnectError> {
        let stream = Stream::Plain(Box::new(self.dial(proxy, true).await?));
        if proxy.scheme_str() != Some("https") {
            return Ok(stream);
        }
        let mut tls = self.0.tls.clone();
        tls.alpn_protocols = vec![HTTP1.to_vec()];
        self.secure(stream, proxy, &tls).await
    }

    /// A connection through a proxy that only passes bytes on.
    async fn tunnel(&self, proxy: &Intercept, to: &Uri) -> Result<Stream, ConnectError> {
        let mut tunnel = Tunnel::new(proxy.uri().clone(), ToProxy(self.clone()));
        if let Some(auth) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(auth.clone());
        }
        match tunnel.call(to.clone()).await {
            Ok(stream) => Ok(stream.into_inner()),
            Err(error) => Err(ConnectError::Proxy(error.into())),
        }
    }

    async fn secure(
        &self,
        stream: Stream,
        to: &Uri,
        tls: &ClientConfig,
    ) -> Result<Stream, ConnectError> {
        let host = host(to)?.to_owned();
        let name = ServerName::try_from(host).map_err(|_| ConnectError::NoHost)?;
        let connector = TlsConnector::from(Arc::new(tls.clone()));
        let stream = connector.connect(name, stream).await;
        Ok(Stream::Tls(Box::new(stream.map_err(ConnectError::Tls)?)))
    }

    /// Connects to the first address of a host that answers.
    async fn dial(&self, to: &Uri, is_proxy: bool) -> Result<Line, ConnectError> {
        let host = host(to)?;
        let default = if to.scheme_str() == Some("https") {
            443
        } else {
            80
        };
        let port = to.port_u16().unwrap_or(default);
        let found = match host.parse::<IpAddr>() {
            Ok(ip) => vec![ip],
            Err(_) => {
                let found = self.0.resolver.resolve(host).await;
                found.map_err(ConnectError::Name)?
            }
        };
        let mut addresses = alternate(found).into_iter();
        let mut attempts = JoinSet::new();
        let mut last = None;
        loop {
            if let Some(ip) = addresses.next() {
                let server = (!is_proxy).then_some(ip);
                let gate = self.0.limits.gate(server, self.0.background);
                attempts.spawn(Line::connect(SocketAddr::new(ip, port), gate));
            }
            tokio::select! {
                result = attempts.join_next() => match result {
                    Some(Ok(Ok(line))) => return Ok(line),
                    Some(Ok(Err(error))) => last = Some(error),
                    Some(Err(error)) => last = Some(io::Error::other(error)),
                    None => {
                        let error = last.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into());
                        return Err(ConnectError::Tcp(error));
                    }
                },
                () = tokio::time::sleep(NEXT_ADDRESS_AFTER), if addresses.len() > 0 => {}
            }
        }
    }
}

/// The host of a URI, an IPv6 address without its brackets.
fn host(uri: &Uri) -> Result<&str, ConnectError> {
    let host = uri.host().filter(|host| !host.is_empty());
    let host = host.ok_or(ConnectError::NoHost)?;
    Ok(host.trim_start_matches('[').trim_end_matches(']'))
}

/// Addresses in the order in which they are tried: families take turns, the first one's first.
fn alternate(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let first_is_v6 = addresses.first().is_some_and(IpAddr::is_ipv6);
    let (these, those): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|ip| ip.is_ipv6() == first_is_v6);
    let longest = these.len().max(those.len());
    let turn = |n: usize| [these.get(n), those.get(n)].into_iter().flatten();
    (0..longest).flat_map(turn).copied().collect()
}

type Connecting<T> = Pin<Box<dyn Future<Output = Result<T, ConnectError>> + Send>>;

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = ConnectError;
    type Future = Connecting<TokioIo<Stream>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let stream = tokio::time::timeout(this.0.timeout, this.connect(to)).await;
            stream.map_err(|_| ConnectError::Timeout)?.map(TokioIo::new)
        })
    }
}

/// Connects to proxies themselves.
#[derive(Clone)]
struct ToProxy(Connector);

impl Service<Uri> for ToProxy {
    type Response = TokioIo<Stream>;
    type Error = ConnectError;
    type Future = Connecting<TokioIo<Stream>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, proxy: Uri) -> Self::Future {
        let this = self.0.clone();
        Box::pin(async move { this.reach(&proxy).await.map(TokioIo::new) })
    }
}

/// A connection with what lies around TCP.
pub(crate) enum Stream {
    Plain(Box<Line>),
    Tls(Box<TlsStream<Self>>),
    /// To a proxy that is given whole requests.
    Proxied(Box<Self>),
}

impl Stream {
    fn info(&self) -> &LineInfo {
        match self {
            Self::Plain(line) => &line.info,
            Self::Tls(tls) => tls.get_ref().0.info(),
            Self::Proxied(stream) => stream.info(),
        }
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        let connected = Connected::new().extra(self.info().clone());
        match self {
            Self::Plain(_) => connected,
            Self::Proxied(_) => connected.proxy(true),
            Self::Tls(tls) if tls.get_ref().1.alpn_protocol() == Some(HTTP2) => {
                connected.negotiated_h2()
            }
            Self::Tls(_) => connected,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(line) => Pin::new(line).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
            Self::Proxied(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(line) => Pin::new(line).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
            Self::Proxied(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(line) => Pin::new(line).poll_write_vectored(cx, bufs),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
            Self::Proxied(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(line) => line.is_write_vectored(),
            Self::Tls(tls) => tls.is_write_vectored(),
            Self::Proxied(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(line) => Pin::new(line).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Self::Proxied(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(line) => Pin::new(line).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Self::Proxied(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let ips = |text: &str| -> Vec<IpAddr> {
            let parsed = text.split(' ').map(|ip| ip.parse().unwrap());
            parsed.collect()
        };
        assert_eq!(
            alternate(ips("fe80::1 fe80::2 fe80::3 10.0.0.1")),
            ips("fe80::1 10.0.0.1 fe80::2 fe80::3")
        );
        assert_eq!(alternate(ips("10.0.0.1")), ips("10.0.0.1"));
        assert_eq!(alternate(Vec::new()), Vec::<IpAddr>::new());
    }
}
