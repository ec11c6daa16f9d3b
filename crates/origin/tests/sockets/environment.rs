//! What the environment decides: proxies and root certificates. A process can't change its own environment safely, so
//! each test starts this test program once more for [`child`] with the environment it wants.

use std::env;
use std::process::Command;

use dosvc_origin::{OriginClient, OriginConfig, Url};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::server::{Reply, Server, config, content, read};
use crate::tls::TlsServer;

/// Fetches bytes 0..10 of `DOSVC_TEST_URL` and says what came of it.
#[tokio::test]
#[ignore = "started by the other tests here, with an environment"]
async fn child() {
    let Ok(url) = env::var("DOSVC_TEST_URL") else {
        return;
    };
    let config = OriginConfig {
        env_proxies: true,
        ..config()
    };
    let client = OriginClient::new(config);
    let origin = client.open(vec![Url::parse(&url).unwrap()], None);
    let result = match origin.fetch(0..10).await {
        Ok(body) => read(body).await,
        Err(error) => Err(error),
    };
    match result {
        Ok(bytes) => println!("CHILD: {} bytes", bytes.len()),
        Err(error) => println!("CHILD: {error}"),
    }
}

/// What [`child`] says in this environment.
async fn child_says(url: Url, environment: &[(&str, &str)]) -> String {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "environment::child", "--ignored", "--nocapture"]);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command
        .env("DOSVC_TEST_URL", url.as_str())
        .envs(environment.iter().copied());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let said = text
        .split_once("CHILD: ")
        .unwrap_or_else(|| panic!("{text}"))
        .1;
    said.lines().next().unwrap().to_owned()
}

fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

/// A proxy, named rather than numbered so that the guarded resolver meets it too.
fn named(proxy: &Server) -> String {
    format!("http://localhost:{}", proxy.address.port())
}

#[tokio::test]
async fn proxy_of_the_environment_is_asked() {
    let proxy = Server::start(|request| Reply::range(request, &content(100), &[])).await;
    let said = child_says(
        url("http://public.invalid/file"),
        &[("http_proxy", &named(&proxy))],
    )
    .await;
    assert_eq!(said, "10 bytes");
    assert_eq!(proxy.requests()[0].target, "http://public.invalid/file");
}

#[tokio::test]
async fn https_goes_through_a_tunnel_of_the_proxy() {
    let server = TlsServer::start("http/1.1", |_| None).await;
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("own.pem");
    std::fs::write(&own, server.pem()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let to = server.address;
    let head = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await.unwrap());
        }
        let mut server = TcpStream::connect(to).await.unwrap();
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let _over = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        String::from_utf8(head).unwrap().to_lowercase()
    });
    let proxy = format!("http://someone:secret@localhost:{port}");
    let environment = [
        ("https_proxy", proxy.as_str()),
        ("SSL_CERT_FILE", own.to_str().unwrap()),
        ("SSL_CERT_DIR", ""),
    ];
    let said = child_says(server.url("localhost", "/file"), &environment).await;
    assert_eq!(said, "10 bytes");
    let head = head.await.unwrap();
    let asked = format!("connect localhost:{} http/1.1\r\n", to.port());
    assert!(head.starts_with(&asked), "{head}");
    // someone:secret
    assert!(
        head.contains("proxy-authorization: basic c29tzw9uztpzzwnyzxq="),
        "{head}"
    );
}

#[tokio::test]
async fn no_proxy_goes_straight() {
    let proxy = Server::start(|_| Reply::status("500 Internal Server Error", &[])).await;
    let server = Server::start(|request| Reply::range(request, &content(100), &[])).await;
    let environment = [
        ("http_proxy", named(&proxy)),
        ("NO_PROXY", "127.0.0.1".to_owned()),
    ];
    let environment = environment
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    assert_eq!(
        child_says(server.url("/file"), &environment).await,
        "10 bytes"
    );
    assert_eq!(proxy.requests().len(), 0);
}

#[tokio::test]
async fn public_host_may_redirect_to_another_but_not_into_our_network() {
    for (location, said) in [
        ("http://other.invalid/file", "10 bytes"),
        (
            "http://127.0.0.1:1/file",
            "http://public.invalid/file redirects where it may not: from a public server to a private address",
        ),
        (
            "http://169.254.169.254/latest",
            "http://public.invalid/file redirects where it may not: from a public server to a private address",
        ),
        (
            "http://localhost/file",
            "http://public.invalid/file redirects where it may not: from a public server to a private address",
        ),
    ] {
        let proxy = Server::start(move |request| match request.target.as_str() {
            "http://public.invalid/file" => {
                Reply::status("302 Found", &[&format!("Location: {location}")])
            }
            _ => Reply::range(request, &content(100), &[]),
        })
        .await;
        let environment = [("HTTP_PROXY", named(&proxy)), ("http_proxy", named(&proxy))];
        let environment = environment
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        assert_eq!(
            child_says(url("http://public.invalid/file"), &environment).await,
            said,
            "{location}"
        );
    }
}

#[tokio::test]
async fn certificates_of_ssl_cert_file_are_trusted_and_no_others() {
    let server = TlsServer::start("http/1.1", |_| None).await;
    let dir = tempfile::tempdir().unwrap();
    let (own, empty) = (dir.path().join("own.pem"), dir.path().join("empty.pem"));
    std::fs::write(&own, server.pem()).unwrap();
    std::fs::write(&empty, "").unwrap();
    let fetch = async |file: &std::path::Path| {
        let environment = [
            ("SSL_CERT_FILE", file.to_str().unwrap()),
            ("SSL_CERT_DIR", ""),
        ];
        child_says(server.url("localhost", "/file"), &environment).await
    };
    assert_eq!(fetch(&own).await, "10 bytes");
    let said = fetch(&empty).await;
    assert!(
        said.contains("TLS with https://localhost") && said.contains("UnknownIssuer"),
        "{said}"
    );
}

#[tokio::test]
async fn http_works_without_any_root_certificate() {
    let server = Server::start(|request| Reply::range(request, &content(100), &[])).await;
    let environment = [
        ("SSL_CERT_FILE", "/nonexistent"),
        ("SSL_CERT_DIR", "/nonexistent"),
    ];
    assert_eq!(
        child_says(server.url("/file"), &environment).await,
        "10 bytes"
    );
}
