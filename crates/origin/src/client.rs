//! The connections: configuration, TLS, proxies, and one request with its redirects.

use std::collections::HashSet;
use std::error::Error;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use dosvc_polite::Unlimited;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION,
    PROXY_AUTHORIZATION, USER_AGENT,
};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::Verifier;
use tokio::sync::OnceCell;
use url::Url;

use crate::address;
use crate::answer;
use crate::body::Reader;
use crate::connector::{ConnectError, Connector, Parts};
use crate::error::{OriginError, RedirectRefusal, cut};
use crate::limits::{LOOKED_AT_BYTES, LOOKUP_TIMEOUT, PAGE_BYTES_MAX};
use crate::line::Limits;
use crate::origin::Origin;
use crate::redirect::{RedirectPolicy, Trail};
use crate::resolver::{NotPublic, Resolver, environment_proxies};
use crate::shown::ShownUrl;
use crate::validator::Validator;

/// How an [`OriginClient`] behaves. The defaults are right for an origin; [`Self::cache_host`] has those for a
/// cache host.
#[derive(Debug, Clone)]
pub struct OriginConfig {
    /// What requests call themselves. Default: `dosvc/VERSION`, naming the Linux agent that it is compatible with.
    pub user_agent: String,
    /// How long a connection may take, name resolution and TLS included. Default 15 s; a cache host has 3 s.
    pub connect_timeout: Duration,
    /// How long a server may send nothing, before its answer or in it. Default 20 s.
    pub idle_timeout: Duration,
    /// Redirects that one request follows at most. Default 10.
    pub redirects_max: u8,
    /// Whether a redirect from https to http is followed. Default no; content that is checked by its hashes loses
    /// only its privacy by it.
    pub allow_downgrade: bool,
    /// Idle connections that are kept per host. Default 8; more costs a socket each.
    pub pool_idle_per_host: usize,
    /// Whether `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` are honoured. Default yes.
    pub env_proxies: bool,
    /// Certificates that are trusted beside the system's (or those of `SSL_CERT_FILE`, `SSL_CERT_DIR`). Default none.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// The wait after a first failure. Default 1 s.
    pub backoff_min: Duration,
    /// The longest wait after failures. Default 30 s.
    pub backoff_max: Duration,
    /// What limits the connections. Default nothing.
    pub limits: Arc<dyn Limits>,
}

/// The head of an answer with its body to come.
pub(crate) type Response = hyper::Response<Incoming>;

type Client = legacy::Client<Connector, Full<Bytes>>;

impl Default for OriginConfig {
    fn default() -> Self {
        Self {
            user_agent: concat!(
                "dosvc/",
                env!("CARGO_PKG_VERSION"),
                " (compatible; Microsoft-Delivery-Optimization-Lite/10.0.0.1)"
            )
            .to_owned(),
            connect_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(20),
            redirects_max: 10,
            allow_downgrade: false,
            pool_idle_per_host: 8,
            env_proxies: true,
            extra_roots: Vec::new(),
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(30),
            limits: Arc::new(Unlimited),
        }
    }
}

impl OriginConfig {
    /// The defaults for a cache host: it is near or it is not there, so a connection has 3 s.
    pub fn cache_host() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            ..Self::default()
        }
    }
}

/// Pools of connections to origins, one for what somebody waits for and one for what is in the background. Cheap to
/// clone; one per process and kind (origin, cache host) is enough.
#[derive(Debug, Clone)]
pub struct OriginClient {
    inner: Arc<Inner>,
    background: bool,
}

#[derive(Debug)]
struct Inner {
    config: OriginConfig,
    matcher: Arc<Matcher>,
    /// Host names of the environment's proxies.
    proxies: Arc<HashSet<String>>,
    // What follows is made when it is needed first: who never asks a server has neither its memory nor its start.
    tls: OnceCell<ClientConfig>,
    foreground: Lane,
    background: Lane,
}

/// The connections of one priority: none ever serves both, for each has its limits.
#[derive(Debug, Default)]
struct Lane {
    /// For URLs that the caller gave.
    open: OnceCell<Client>,
    /// For redirects of public servers: connects to public addresses only.
    guarded: OnceCell<Client>,
}

/// A small file, whole.
#[derive(Debug, Clone)]
pub struct Small {
    /// The file.
    pub bytes: Bytes,
    /// What the server says that it is.
    pub content_type: Option<String>,
    /// Where it came from after redirects.
    pub final_url: Url,
}

/// Where a request goes, and under which guard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hop {
    pub(crate) url: Url,
    /// Whether only public addresses are allowed: the URL was chosen by a redirect of a public server.
    pub(crate) guarded: bool,
}

impl Hop {
    /// A URL that the caller gave.
    pub(crate) fn given(url: Url) -> Self {
        Self {
            url,
            guarded: false,
        }
    }

    /// The server, as validators name it.
    pub(crate) fn server(&self) -> String {
        self.url.origin().ascii_serialization()
    }
}

impl OriginClient {
    /// Makes a client. Reads the environment's proxies now, and the system's root certificates with the first request;
    /// without any root certificate only http works, and https fails with [`OriginError::Tls`]. With an unusable user
    /// agent or extra root certificate, every request fails with [`OriginError::Setup`].
    pub fn new(config: OriginConfig) -> Self {
        let (matcher, proxies) = match config.env_proxies {
            true => (Matcher::from_env(), environment_proxies()),
            false => (Matcher::builder().build(), HashSet::new()),
        };
        let inner = Inner {
            config,
            matcher: Arc::new(matcher),
            proxies: Arc::new(proxies),
            tls: OnceCell::new(),
            foreground: Lane::default(),
            background: Lane::default(),
        };
        Self {
            inner: Arc::new(inner),
            background: false,
        }
    }

    /// The same for requests that nobody waits for, or for those that somebody does.
    #[must_use]
    pub fn in_background(&self, background: bool) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            background,
        }
    }

    pub(crate) fn is_in_background(&self) -> bool {
        self.background
    }

    /// Whether requests may go through a proxy.
    pub(crate) fn uses_proxies(&self) -> bool {
        !self.inner.proxies.is_empty()
    }

    /// One content, to be fetched from `urls` in this order of preference; those that are neither http nor https are
    /// left out. `validator` is what an earlier run ended with, or says the length if that is known.
    pub fn open(&self, urls: Vec<Url>, validator: Option<Validator>) -> Origin {
        let seed = RandomState::new().build_hasher().finish();
        Origin::new(self.clone(), urls, validator.unwrap_or_default(), seed)
    }

    /// Fetches a small file, such as a hash file, whole; never more than `bytes_max` bytes of it.
    ///
    /// # Errors
    /// [`OriginError::TooLarge`] past `bytes_max`; else what a request can fail with. One attempt, no back-off.
    pub async fn fetch_small(&self, url: &Url, bytes_max: usize) -> Result<Small, OriginError> {
        self.fetch_small_if(url, bytes_max, |_| true).await
    }

    /// The same, given up as soon as what has come does not look right to `fits`, which is asked until
    /// `LOOKED_AT_BYTES` are here: whatever a server answers with instead of the file costs next to nothing.
    ///
    /// # Errors
    /// [`OriginError::Unexpected`] when it does not fit; else as [`Self::fetch_small`].
    pub async fn fetch_small_if(
        &self,
        url: &Url,
        bytes_max: usize,
        fits: impl Fn(&[u8]) -> bool,
    ) -> Result<Small, OriginError> {
        let (response, hop) = self
            .follow(Hop::given(url.clone()), |_| HeaderMap::new())
            .await?;
        let shown = ShownUrl::from(&hop.url);
        let (status, headers) = (response.status(), response.headers());
        if status != StatusCode::OK {
            return Err(answer::refusal(
                &shown,
                status,
                headers,
                &(0..0),
                SystemTime::now(),
            ));
        }
        answer::identity(&shown, headers)?;
        let content_type = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .map(|value| cut(value.to_owned()));
        let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX);
        let too_large = || OriginError::TooLarge {
            url: shown.clone(),
            bytes_max: limit,
        };
        if answer::length(headers).is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let mut reader = Reader::new(response, shown.clone(), self.config().idle_timeout);
        let mut bytes = BytesMut::new();
        while let Some(chunk) = reader.next().await? {
            if chunk.len() > bytes_max - bytes.len() {
                return Err(too_large());
            }
            let looked_at = bytes.len() >= LOOKED_AT_BYTES;
            bytes.extend_from_slice(&chunk);
            if !looked_at && !fits(&bytes) {
                return Err(OriginError::Unexpected { url: shown });
            }
        }
        Ok(Small {
            bytes: bytes.freeze(),
            content_type,
            final_url: hop.url,
        })
    }

    pub(crate) fn config(&self) -> &OriginConfig {
        &self.inner.config
    }

    /// One GET with its redirects; `headers` says what is asked of each hop.
    pub(crate) async fn follow(
        &self,
        start: Hop,
        headers: impl Fn(&Hop) -> HeaderMap + Send,
    ) -> Result<(Response, Hop), OriginError> {
        let policy = RedirectPolicy {
            hops_max: self.config().redirects_max,
            allow_downgrade: self.config().allow_downgrade,
        };
        let mut hop = start;
        let mut trail = Trail::new(policy, hop.url.clone());
        let mut judged = hop.guarded;
        loop {
            let response = self.send(&hop, headers(&hop), None).await?;
            if !is_redirect(response.status()) {
                return Ok((response, hop));
            }
            if !judged {
                hop.guarded = !self.is_private(&hop.url).await;
                judged = true;
            }
            let location = response.headers().get(LOCATION).map(HeaderValue::as_bytes);
            trail
                .follow(location, hop.guarded)
                .map_err(|refusal| OriginError::Redirect {
                    url: ShownUrl::from(&hop.url),
                    refusal,
                })?;
            self.drain(response, &hop).await;
            hop.url = trail.current().clone();
            tracing::debug!(to = %ShownUrl::from(&hop.url), "redirected");
        }
    }

    /// Reads the page that comes with a redirect, if it is small, so that the connection can be used again.
    async fn drain(&self, response: Response, hop: &Hop) {
        if answer::length(response.headers()).is_some_and(|length| length <= PAGE_BYTES_MAX) {
            let idle_timeout = self.config().idle_timeout;
            let mut reader = Reader::new(response, ShownUrl::from(&hop.url), idle_timeout);
            while let Ok(Some(_)) = reader.next().await {}
        }
    }

    /// Sends one request: GET, or POST of a body. It must be safe to repeat: when a kept connection turns out to be
    /// closed, it is sent once more on a new one.
    pub(crate) async fn send(
        &self,
        hop: &Hop,
        headers: HeaderMap,
        body: Option<Bytes>,
    ) -> Result<Response, OriginError> {
        match self.send_once(hop, headers.clone(), body.clone()).await {
            Err(OriginError::Lost { .. }) => self.send_once(hop, headers, body).await,
            other => other,
        }
    }

    async fn send_once(
        &self,
        hop: &Hop,
        headers: HeaderMap,
        body: Option<Bytes>,
    ) -> Result<Response, OriginError> {
        let request = self.request(&hop.url, headers, body)?;
        let client = self.connections(hop.guarded).await?;
        let after = self.config().connect_timeout + self.config().idle_timeout;
        let answer = client.request(request);
        match tokio::time::timeout(after, answer).await {
            Ok(answer) => answer.map_err(|error| self.classify(&hop.url, &error)),
            Err(_) => Err(OriginError::Timeout {
                url: ShownUrl::from(&hop.url),
                after,
            }),
        }
    }

    fn request(
        &self,
        url: &Url,
        mut headers: HeaderMap,
        body: Option<Bytes>,
    ) -> Result<Request<Full<Bytes>>, OriginError> {
        let bad = |cause: String| OriginError::BadUrl {
            url: ShownUrl::from(url),
            cause: cut(cause),
        };
        if let Some(value) = authorization(url) {
            headers.insert(AUTHORIZATION, value);
        }
        let mut bare = url.clone();
        // Neither fails for URLs that have a host; one without is refused below.
        let _ = (bare.set_username(""), bare.set_password(None));
        bare.set_fragment(None);
        let uri = Uri::try_from(bare.as_str()).map_err(|error| bad(error.to_string()))?;
        let proxy = self.inner.matcher.intercept(&uri);
        let auth = proxy.as_ref().and_then(|proxy| proxy.basic_auth());
        if let Some(auth) = auth.filter(|_| uri.scheme_str() == Some("http")) {
            headers.insert(PROXY_AUTHORIZATION, auth.clone());
        }
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let user_agent = HeaderValue::try_from(&self.config().user_agent);
        let user_agent = user_agent.map_err(|error| OriginError::Setup {
            cause: cut(error.to_string()),
        })?;
        headers.insert(USER_AGENT, user_agent);
        let method = match body {
            Some(_) => Method::POST,
            None => Method::GET,
        };
        let mut request = Request::new(Full::new(body.unwrap_or_default()));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Ok(request)
    }

    async fn connections(&self, guarded: bool) -> Result<&Client, OriginError> {
        let inner = &self.inner;
        let lane = match self.background {
            true => &inner.background,
            false => &inner.foreground,
        };
        let (cell, resolver) = match guarded {
            true => {
                let proxies = Arc::clone(&inner.proxies);
                (&lane.guarded, Resolver::PublicOnly(proxies))
            }
            false => (&lane.open, Resolver::Open),
        };
        let make = || async {
            let tls = inner.tls.get_or_try_init(|| self.read_roots()).await?;
            let connector = Connector::new(Parts {
                resolver,
                proxies: Arc::clone(&inner.matcher),
                tls: tls.clone(),
                timeout: inner.config.connect_timeout,
                limits: Arc::clone(&inner.config.limits),
                background: self.background,
            });
            Ok(http_client(&inner.config, connector))
        };
        cell.get_or_try_init(make).await
    }

    /// Files are read for that, so it is not done on the runtime's threads.
    async fn read_roots(&self) -> Result<ClientConfig, OriginError> {
        let inner = Arc::clone(&self.inner);
        let read = tokio::task::spawn_blocking(move || tls_config(&inner.config));
        read.await.unwrap_or_else(|error| {
            Err(OriginError::Setup {
                cause: error.to_string(),
            })
        })
    }

    /// Whether a host that the caller named is on no public address at all, so that its redirects may stay there.
    /// A name that does not resolve here (behind a proxy) counts as public: the strict side.
    async fn is_private(&self, url: &Url) -> bool {
        if let Some(public) = address::host_is_public(url) {
            return !public;
        }
        let Some(host) = url.host_str() else {
            return false;
        };
        let lookup = tokio::net::lookup_host((host, 0));
        match tokio::time::timeout(LOOKUP_TIMEOUT, lookup).await {
            Ok(Ok(mut found)) => {
                let first = found.next();
                first.is_some_and(|first| {
                    !address::is_public(first.ip())
                        && found.all(|next| !address::is_public(next.ip()))
                })
            }
            _ => false,
        }
    }

    /// Says what a failed request is.
    fn classify(&self, url: &Url, error: &legacy::Error) -> OriginError {
        let url = ShownUrl::from(url);
        let mut connecting = None;
        let mut is_late = false;
        for cause in Causes::of(error) {
            if cause.is::<NotPublic>() {
                return OriginError::Redirect {
                    url,
                    refusal: RedirectRefusal::PrivateAddress,
                };
            }
            if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
                let certificate = matches!(
                    tls,
                    rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented
                );
                return OriginError::Tls {
                    url,
                    cause: cut(tls.to_string()),
                    certificate,
                };
            }
            connecting = connecting.or_else(|| cause.downcast_ref::<ConnectError>());
            is_late |= is_timeout(cause);
        }
        let cause = cause_text(error);
        match connecting {
            Some(ConnectError::NoHost) => OriginError::BadUrl { url, cause },
            Some(ConnectError::Name(_)) => OriginError::Dns { url, cause },
            Some(ConnectError::Timeout) => OriginError::Timeout {
                url,
                after: self.config().connect_timeout,
            },
            _ if is_late => OriginError::Timeout {
                url,
                after: self.config().idle_timeout,
            },
            Some(_) => OriginError::Connect { url, cause },
            None => OriginError::Lost { url, cause },
        }
    }
}

fn is_timeout(cause: &(dyn Error + 'static)) -> bool {
    let io = cause.downcast_ref::<io::Error>();
    let http = cause.downcast_ref::<hyper::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
        || http.is_some_and(hyper::Error::is_timeout)
}

/// What a URL's user name and password come to.
fn authorization(url: &Url) -> Option<HeaderValue> {
    use base64::Engine as _;
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let mut credentials: Vec<u8> = percent_encoding::percent_decode_str(url.username()).collect();
    credentials.push(b':');
    credentials.extend(percent_encoding::percent_decode_str(
        url.password().unwrap_or_default(),
    ));
    let credentials = base64::engine::general_purpose::STANDARD.encode(credentials);
    let mut value = HeaderValue::try_from(format!("Basic {credentials}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// An error and its causes, outermost first, also those that an `io::Error` wraps and does not name as its source.
struct Causes<'a>(Option<&'a (dyn Error + 'static)>);

impl<'a> Causes<'a> {
    fn of(error: &'a (dyn Error + 'static)) -> Self {
        Self(Some(error))
    }
}

impl<'a> Iterator for Causes<'a> {
    type Item = &'a (dyn Error + 'static);

    fn next(&mut self) -> Option<Self::Item> {
        let cause = self.0?;
        self.0 = match cause
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(inner) => Some(inner),
            None => cause.source(),
        };
        Some(cause)
    }
}

/// The innermost cause: the outer ones say only that a request failed.
pub(crate) fn cause_text(error: &(dyn Error + 'static)) -> String {
    let innermost = Causes::of(error).last().unwrap_or(error);
    cut(innermost.to_string())
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn http_client(config: &OriginConfig, connector: Connector) -> Client {
    legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(config.pool_idle_per_host)
        // Shorter than what servers and NATs keep (60 s and more), so that a kept connection is rarely dead.
        .pool_idle_timeout(Duration::from_secs(30))
        // All ranges share one HTTP/2 connection: 16 MiB in flight fill 1 Gbit/s at 130 ms.
        .http2_initial_stream_window_size(4 << 20)
        .http2_initial_connection_window_size(16 << 20)
        // A dead HTTP/2 connection would take every later request with it: ask it while it is in use.
        .http2_keep_alive_interval(Duration::from_secs(10))
        .http2_keep_alive_timeout(config.idle_timeout)
        .build(connector)
}

fn tls_config(config: &OriginConfig) -> Result<ClientConfig, OriginError> {
    let setup = |error: rustls::Error| OriginError::Setup {
        cause: cut(error.to_string()),
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(setup)?;
    let mut tls = match Verifier::new_with_extra_roots(config.extra_roots.clone(), provider) {
        Ok(verifier) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth(),
        // A machine without root certificates can still fetch over http, which needs none.
        Err(error) if config.extra_roots.is_empty() => {
            tracing::warn!(%error, "no root certificates: https will not work; install them or set SSL_CERT_FILE");
            builder
                .with_root_certificates(RootCertStore::empty())
                .with_no_client_auth()
        }
        Err(error) => return Err(setup(error)),
    };
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn client() -> OriginClient {
        let config = OriginConfig {
            env_proxies: false,
            ..OriginConfig::default()
        };
        OriginClient::new(config)
    }

    #[tokio::test]
    async fn name_that_resolves_to_a_private_address_is_refused_under_guard() {
        let hop = Hop {
            url: url("http://localhost:1/"),
            guarded: true,
        };
        let error = client()
            .follow(hop, |_| HeaderMap::new())
            .await
            .unwrap_err();
        let private = matches!(
            error,
            OriginError::Redirect {
                refusal: RedirectRefusal::PrivateAddress,
                ..
            }
        );
        assert!(private, "{error}");
    }

    #[tokio::test]
    async fn only_a_host_without_a_public_address_is_private() {
        for (text, private) in [
            ("http://localhost/", true),
            ("http://10.0.0.1/", true),
            ("http://[fd00::1]/", true),
            ("http://9.9.9.9/", false),
            ("http://no-such-host.invalid/", false),
        ] {
            assert_eq!(client().is_private(&url(text)).await, private, "{text}");
        }
    }

    #[test]
    fn cache_host_has_less_time_to_connect() {
        assert_eq!(OriginConfig::default().connect_timeout.as_secs(), 15);
        assert_eq!(OriginConfig::cache_host().connect_timeout.as_secs(), 3);
    }

    #[test]
    fn user_and_password_of_a_url_are_sent_apart_from_it() {
        let value = authorization(&url("http://some%40one:se%3Acret@host/")).unwrap();
        // some@one:se:cret
        assert_eq!(value, "Basic c29tZUBvbmU6c2U6Y3JldA==");
        assert_eq!(authorization(&url("http://host/")), None);
        let request = client().request(&url("http://a:b@host/p?q#f"), HeaderMap::new(), None);
        let request = request.unwrap();
        assert_eq!(request.uri(), "http://host/p?q");
        assert!(request.headers().contains_key(AUTHORIZATION));
    }
}
