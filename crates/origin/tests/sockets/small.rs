//! Small files: whole, bounded, not compressed.

use dosvc_origin::OriginError;

use crate::server::{Reply, Server, client, content};

#[tokio::test]
async fn small_file_comes_whole_with_its_type() {
    let server = Server::start(|request| match request.target.as_str() {
        "/old" => Reply::status("301 Moved Permanently", &["Location: /new"]),
        _ => Reply::whole(&content(5000), &["Content-Type: application/json"]),
    })
    .await;
    let small = client()
        .fetch_small(&server.url("/old"), 5000)
        .await
        .unwrap();
    assert_eq!(small.bytes, content(5000));
    assert_eq!(small.content_type.as_deref(), Some("application/json"));
    assert_eq!(small.final_url, server.url("/new"));
    assert_eq!(server.requests()[1].header("range"), None);
    assert_eq!(
        server.requests()[1].header("accept-encoding"),
        Some("identity")
    );
}

#[tokio::test]
async fn file_past_the_limit_is_refused_by_its_length_and_while_reading() {
    let server = Server::start(|request| match request.target.as_str() {
        "/told" => Reply::whole(&content(101), &[]),
        _ => Reply::raw(
            "200 OK",
            &["Transfer-Encoding: chunked"],
            &[b"65\r\n", content(101).as_slice(), b"\r\n0\r\n\r\n"].concat(),
        ),
    })
    .await;
    for target in ["/told", "/untold"] {
        let error = client()
            .fetch_small(&server.url(target), 100)
            .await
            .unwrap_err();
        assert!(
            matches!(error, OriginError::TooLarge { bytes_max: 100, .. }),
            "{error}"
        );
        assert!(client().fetch_small(&server.url(target), 101).await.is_ok());
    }
}

#[tokio::test]
async fn anything_but_a_plain_200_is_refused() {
    let server = Server::start(|request| match request.target.as_str() {
        "/gzip" => Reply::whole(&content(10), &["Content-Encoding: gzip"]),
        "/part" => Reply::raw(
            "206 Partial Content",
            &["Content-Range: bytes 0-4/10", "Content-Length: 5"],
            b"01234",
        ),
        _ => Reply::status("404 Not Found", &[]),
    })
    .await;
    let gzip = client()
        .fetch_small(&server.url("/gzip"), 100)
        .await
        .unwrap_err();
    assert!(matches!(gzip, OriginError::Encoded { .. }), "{gzip}");
    let part = client()
        .fetch_small(&server.url("/part"), 100)
        .await
        .unwrap_err();
    assert!(
        matches!(part, OriginError::Status { status: 206, .. }),
        "{part}"
    );
    let gone = client()
        .fetch_small(&server.url("/gone"), 100)
        .await
        .unwrap_err();
    assert!(
        matches!(gone, OriginError::NotFound { status: 404, .. }),
        "{gone}"
    );
}

#[tokio::test]
async fn every_request_can_be_spawned() {
    let server = Server::start(|request| match request.header("range") {
        Some(_) => Reply::range(request, &content(10), &[]),
        None => Reply::whole(&content(10), &[]),
    })
    .await;
    let (client, url) = (client(), server.url("/file"));
    let origin = client.open(vec![url.clone()], None);
    let probe = tokio::spawn(async move { origin.probe().await.map(|facts| facts.total) });
    let small = tokio::spawn(async move { client.fetch_small(&url, 10).await.map(|s| s.bytes) });
    assert_eq!(probe.await.unwrap().unwrap(), 10);
    assert_eq!(small.await.unwrap().unwrap(), content(10));
}
