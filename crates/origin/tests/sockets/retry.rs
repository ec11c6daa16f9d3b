//! What is tried again, when, and where.

use std::time::{Duration, Instant};

use dosvc_content::HResult;
use dosvc_origin::{OriginClient, OriginConfig, OriginError, Url};
use tokio::net::TcpListener;

use crate::server::{After, Reply, Server, client, config, content, fetch_patiently, open, read};

#[tokio::test]
async fn server_that_recovers_is_used_again() {
    let server = Server::start(|request| match request.before {
        0 => Reply::status("500 Internal Server Error", &[]),
        1 => Reply::status("429 Too Many Requests", &["Retry-After: 0"]),
        2 => Reply {
            bytes: Vec::new(),
            after: After::Stall,
        },
        _ => Reply::range(request, &content(100), &[]),
    })
    .await;
    let quick = OriginConfig {
        connect_timeout: Duration::from_millis(200),
        ..config()
    };
    let origin = OriginClient::new(quick).open(vec![server.url("/file")], None);
    assert_eq!(
        fetch_patiently(&origin, 0..10).await.unwrap(),
        content(100)[..10]
    );
    assert_eq!(server.requests().len(), 4);
    assert_eq!(origin.next_attempt(), None, "success ends the wait");
}

#[tokio::test]
async fn retry_after_is_waited_for() {
    let server =
        Server::start(|_| Reply::status("503 Service Unavailable", &["Retry-After: 7"])).await;
    let origin = open(server.url("/file"));
    let before = Instant::now();
    let error = origin.fetch(0..10).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    assert!(origin.next_attempt().unwrap() >= before + Duration::from_secs(7));
    let waiting = origin.fetch(0..10).await.unwrap_err();
    assert!(
        matches!(waiting, OriginError::BackingOff { .. }),
        "{waiting}"
    );
    assert_eq!(waiting.hresult(), HResult(0x8019_01F7));
    assert_eq!(server.requests().len(), 1, "nothing is sent while waiting");
}

#[tokio::test]
async fn retry_after_date_counts_from_the_servers_clock() {
    let server = Server::start(|_| {
        let headers = [
            "Date: Sat, 21 Nov 2026 12:00:00 GMT",
            "Retry-After: Sat, 21 Nov 2026 12:01:30 GMT",
        ];
        Reply::status("429 Too Many Requests", &headers)
    })
    .await;
    let error = open(server.url("/file")).fetch(0..10).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(90)));
}

#[tokio::test]
async fn next_url_takes_over_within_one_fetch() {
    let gone = Server::start(|_| Reply::status("404 Not Found", &[])).await;
    let good = Server::start(|request| Reply::range(request, &content(100), &[])).await;
    let origin = client().open(vec![gone.url("/file"), good.url("/file")], None);
    for _ in 0..3 {
        assert_eq!(
            read(origin.fetch(0..10).await.unwrap()).await.unwrap(),
            content(100)[..10]
        );
    }
    assert_eq!(gone.requests().len(), 1, "404 is for good");
    assert_eq!(origin.current_url(), Some(good.url("/file")));
}

#[tokio::test]
async fn url_without_ranges_is_passed_over_for_one_with() {
    let whole = Server::start(|_| Reply::whole(&content(100), &[])).await;
    let ranged = Server::start(|request| Reply::range(request, &content(100), &[])).await;
    let origin = client().open(vec![whole.url("/file"), ranged.url("/file")], None);
    for _ in 0..3 {
        let body = origin.fetch(10..20).await.unwrap();
        assert!(!body.whole);
        assert_eq!(read(body).await.unwrap(), content(100)[10..20]);
    }
    assert_eq!(whole.requests().len(), 1);
}

#[tokio::test]
async fn content_is_dead_when_every_url_has_failed_for_good() {
    let server = Server::start(|request| match request.target.as_str() {
        "/a" => Reply::status("404 Not Found", &[]),
        _ => Reply::status("403 Forbidden", &[]),
    })
    .await;
    let origin = client().open(vec![server.url("/a"), server.url("/b")], None);
    origin.fetch(0..10).await.unwrap_err();
    assert_eq!(origin.is_dead().unwrap().hresult(), HResult(0x8019_0194));
    assert_eq!(origin.next_attempt(), None);
    origin.fetch(0..10).await.unwrap_err();
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn kept_connection_that_the_server_closed_is_replaced_at_once() {
    let server = Server::start(|request| match request.before {
        1 => Reply {
            bytes: Vec::new(),
            after: After::Close,
        },
        _ => Reply::range(request, &content(100), &[]),
    })
    .await;
    let origin = open(server.url("/file"));
    for _ in 0..2 {
        read(origin.fetch(0..10).await.unwrap()).await.unwrap();
    }
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn nobody_listening_is_a_connect_error() {
    let port = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let origin = open(Url::parse(&format!("http://127.0.0.1:{port}/file")).unwrap());
    let error = origin.fetch(0..10).await.unwrap_err();
    assert!(matches!(error, OriginError::Connect { .. }), "{error}");
    assert_eq!(error.hresult(), HResult(0x8007_2EFD));
    assert!(origin.next_attempt().is_some());
}

#[tokio::test]
async fn unknown_name_is_a_dns_error() {
    let origin = open(Url::parse("http://no-such-host.invalid/file").unwrap());
    let error = origin.fetch(0..10).await.unwrap_err();
    assert!(matches!(error, OriginError::Dns { .. }), "{error}");
    assert_eq!(error.hresult(), HResult(0x8007_2EE7));
}

#[tokio::test]
async fn no_usable_url_is_said() {
    let origin = client().open(vec![Url::parse("ftp://h/file").unwrap()], None);
    let error = origin.fetch(0..10).await.unwrap_err();
    assert_eq!(error.hresult(), HResult::NO_URI);
    assert!(origin.is_dead().is_some());
}

#[tokio::test]
async fn body_that_is_dropped_is_no_failure() {
    let server =
        Server::start(|request| Reply::range(request, &content(1000), &[]).then(After::Stall))
            .await;
    let origin = open(server.url("/file"));
    drop(origin.fetch(0..1000).await.unwrap());
    assert_eq!(origin.next_attempt(), None);
}
