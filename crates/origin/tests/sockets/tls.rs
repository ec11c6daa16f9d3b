//! TLS, with HTTP/1.1 and HTTP/2 over it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use dosvc_content::HResult;
use dosvc_origin::{CertificateDer, OriginClient, OriginConfig, OriginError, RedirectRefusal, Url};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::server::{Reply, Server, config, content, open, read, serve_stream};

/// An https server with a certificate of its own for `localhost`.
pub(crate) struct TlsServer {
    pub(crate) address: SocketAddr,
    certificate: CertificateDer<'static>,
    pem: String,
    connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl TlsServer {
    /// Speaks the protocol named by `alpn`: `h2` serves [`content`] of 100 000 bytes by ranges, `http/1.1` what the
    /// script says.
    pub(crate) async fn start(
        alpn: &str,
        script: impl Fn(&str) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (certificate, pem) = (own.cert.der().clone(), own.cert.pem());
        let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key.into())
            .unwrap();
        tls.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let script = Arc::new(script);
        let h2 = alpn == "h2";
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                let (acceptor, script) = (acceptor.clone(), Arc::clone(&script));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    if h2 {
                        serve_h2(stream).await;
                    } else {
                        serve_stream(stream, |request| {
                            script(&request.target).unwrap_or_else(|| {
                                Reply::range(request, &content(1000), &["ETag: \"a\""])
                            })
                        })
                        .await;
                    }
                });
            }
        });
        Self {
            address,
            certificate,
            pem,
            connections,
            accepting,
        }
    }

    pub(crate) fn url(&self, host: &str, path: &str) -> Url {
        Url::parse(&format!("https://{host}:{}{path}", self.address.port())).unwrap()
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    fn trusting(&self) -> OriginConfig {
        OriginConfig {
            extra_roots: vec![self.certificate.clone()],
            ..config()
        }
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve_h2(stream: TlsStream<TcpStream>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        assert_eq!(request.version(), http::Version::HTTP_2);
        let range = request.headers()["range"]
            .to_str()
            .unwrap()
            .strip_prefix("bytes=")
            .unwrap();
        let (first, last) = range.split_once('-').unwrap();
        let range = first.parse::<usize>().unwrap()..last.parse::<usize>().unwrap() + 1;
        let response = http::Response::builder()
            .status(206)
            .header(
                "content-range",
                format!("bytes {}-{}/100000", range.start, range.end - 1),
            )
            .header("content-length", range.len())
            .header("etag", "\"a\"")
            .body(())
            .unwrap();
        let mut body = respond.send_response(response, false).unwrap();
        body.send_data(Bytes::copy_from_slice(&content(100_000)[range]), true)
            .unwrap();
    }
}

#[tokio::test]
async fn ranges_come_over_tls_with_a_trusted_certificate() {
    let server = TlsServer::start("http/1.1", |_| None).await;
    let client = OriginClient::new(server.trusting());
    let origin = client.open(vec![server.url("localhost", "/file")], None);
    for _ in 0..3 {
        assert_eq!(
            read(origin.fetch(10..500).await.unwrap()).await.unwrap(),
            content(1000)[10..500]
        );
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn ranges_side_by_side_share_one_http2_connection() {
    let server = TlsServer::start("h2", |_| None).await;
    let client = OriginClient::new(server.trusting());
    let origin = client.open(vec![server.url("localhost", "/file")], None);
    origin.probe().await.unwrap();
    let mut lanes = tokio::task::JoinSet::new();
    for n in 0..50u64 {
        let origin = origin.clone();
        lanes.spawn(async move {
            let body = origin.fetch(n * 2000..(n + 1) * 2000).await.unwrap();
            (n, read(body).await.unwrap())
        });
    }
    while let Some(lane) = lanes.join_next().await {
        let (n, bytes) = lane.unwrap();
        let at = usize::try_from(n).unwrap() * 2000;
        assert_eq!(bytes, content(100_000)[at..at + 2000]);
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn certificate_that_is_not_trusted_or_for_another_name_is_refused() {
    let server = TlsServer::start("http/1.1", |_| None).await;
    for (config, host) in [(config(), "localhost"), (server.trusting(), "127.0.0.1")] {
        let client = OriginClient::new(config);
        let origin = client.open(vec![server.url(host, "/file")], None);
        let error = origin.fetch(0..10).await.unwrap_err();
        assert!(
            matches!(
                error,
                OriginError::Tls {
                    certificate: true,
                    ..
                }
            ),
            "{error}"
        );
        assert_eq!(error.hresult(), HResult::CERTIFICATE_INVALID);
        assert!(origin.is_dead().is_some());
    }
}

#[tokio::test]
async fn server_that_does_not_speak_tls_is_a_tls_error() {
    let plain = Server::start(|_| Reply::status("200 OK", &[])).await;
    let url = Url::parse(&format!("https://localhost:{}/", plain.address.port())).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let garbage = Url::parse(&format!(
        "https://localhost:{}/",
        listener.local_addr().unwrap().port()
    ))
    .unwrap();
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        while let Ok((mut stream, _)) = listener.accept().await {
            stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                .await
                .unwrap();
        }
    });
    let error = open(garbage).fetch(0..10).await.unwrap_err();
    assert!(
        matches!(
            error,
            OriginError::Tls {
                certificate: false,
                ..
            }
        ),
        "{error}"
    );
    assert!(!error.is_permanent());
    // One that waits for a line that TLS never sends is a timeout.
    let quick = OriginConfig {
        connect_timeout: std::time::Duration::from_millis(300),
        ..config()
    };
    let origin = OriginClient::new(quick).open(vec![url], None);
    let error = origin.fetch(0..10).await.unwrap_err();
    assert!(matches!(error, OriginError::Timeout { .. }), "{error}");
}

#[tokio::test]
async fn redirect_from_https_to_http_is_refused_unless_allowed() {
    let plain = Server::start(|request| Reply::range(request, &content(100), &[])).await;
    let location = format!("Location: {}", plain.url("/file"));
    let server = TlsServer::start("http/1.1", move |_| {
        Some(Reply::status("302 Found", &[&location]))
    })
    .await;
    for allow_downgrade in [false, true] {
        let config = OriginConfig {
            allow_downgrade,
            ..server.trusting()
        };
        let client = OriginClient::new(config);
        let origin = client.open(vec![server.url("localhost", "/file")], None);
        match origin.fetch(0..10).await {
            Ok(body) => {
                assert!(allow_downgrade);
                assert_eq!(read(body).await.unwrap(), content(100)[..10]);
            }
            Err(error) => {
                assert!(!allow_downgrade, "{error}");
                assert!(
                    matches!(
                        error,
                        OriginError::Redirect {
                            refusal: RedirectRefusal::Downgrade,
                            ..
                        }
                    ),
                    "{error}"
                );
                assert_eq!(error.hresult(), HResult(0x8007_2F08));
            }
        }
    }
}

#[tokio::test]
async fn root_that_is_no_certificate_is_refused() {
    let broken = OriginConfig {
        extra_roots: vec![CertificateDer::from(vec![1, 2, 3])],
        ..config()
    };
    // Nobody is asked then.
    let url = Url::parse("https://localhost:1/").unwrap();
    let fetched = OriginClient::new(broken).fetch_small(&url, 1).await;
    assert!(matches!(fetched, Err(OriginError::Setup { .. })));
}
