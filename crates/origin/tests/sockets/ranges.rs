//! What comes back for a range, from servers that do it right and from others.

use dosvc_content::HResult;
use dosvc_origin::{Origin, OriginError};

use crate::server::{After, Reply, Request, Server, client, content, open, read};

async fn serving(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> (Server, Origin) {
    let server = Server::start(script).await;
    let origin = open(server.url("/file?sig=SECRET"));
    (server, origin)
}

/// The error of one fetch of bytes 10..20, head or body.
async fn failure(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> OriginError {
    let (_server, origin) = serving(script).await;
    let error = match origin.fetch(10..20).await {
        Ok(body) => read(body).await.unwrap_err(),
        Err(error) => error,
    };
    assert!(!error.to_string().contains("SECRET"), "{error}");
    error
}

#[tokio::test]
async fn range_is_exactly_the_bytes_asked_for() {
    let (server, origin) = serving(|request| Reply::range(request, &content(1000), &[])).await;
    let body = origin.fetch(100..357).await.unwrap();
    assert_eq!(
        (body.start, body.whole, body.total),
        (100, false, Some(1000))
    );
    assert_eq!(body.remaining(), Some(257));
    assert_eq!(read(body).await.unwrap(), content(1000)[100..357]);
    let request = &server.requests()[0];
    assert_eq!(request.header("range"), Some("bytes=100-356"));
    assert_eq!(request.header("accept-encoding"), Some("identity"));
    assert_eq!(request.header("if-range"), None);
    assert!(request.header("user-agent").unwrap().starts_with("dosvc/"));
}

#[tokio::test]
async fn fifty_ranges_need_few_connections() {
    let (server, origin) =
        serving(|request| Reply::range(request, &content(100_000), &["ETag: \"a\""])).await;
    let mut lanes = tokio::task::JoinSet::new();
    for lane in 0..4u64 {
        let origin = origin.clone();
        lanes.spawn(async move {
            for n in (lane..50).step_by(4) {
                let start = n * 2000;
                let body = origin.fetch(start..start + 2000).await.unwrap();
                let at = usize::try_from(start).unwrap();
                assert_eq!(read(body).await.unwrap(), content(100_000)[at..at + 2000]);
            }
        });
    }
    while let Some(lane) = lanes.join_next().await {
        lane.unwrap();
    }
    assert_eq!(server.requests().len(), 50);
    assert!(
        server.connections() <= 4,
        "{} connections",
        server.connections()
    );
}

#[tokio::test]
async fn connection_is_kept_when_the_caller_stops_at_the_last_byte() {
    let (server, origin) = serving(|request| Reply::range(request, &content(1000), &[])).await;
    for _ in 0..5 {
        let mut body = origin.fetch(0..100).await.unwrap();
        while body.remaining() > Some(0) {
            body.chunk().await.unwrap();
        }
        drop(body);
    }
    // A connection that was just used may not be back in the pool yet.
    assert!(
        server.connections() <= 2,
        "{} connections",
        server.connections()
    );
}

#[tokio::test]
async fn server_without_ranges_sends_the_whole() {
    let (_server, origin) = serving(|_| Reply::whole(&content(1000), &["ETag: \"a\""])).await;
    assert_eq!(origin.has_ranges(), None);
    for _ in 0..2 {
        let body = origin.fetch(100..200).await.unwrap();
        assert_eq!(origin.has_ranges(), Some(false));
        assert_eq!((body.start, body.whole, body.total), (0, true, Some(1000)));
        assert_eq!(read(body).await.unwrap(), content(1000));
    }
}

#[tokio::test]
async fn whole_without_length_is_read_to_its_end() {
    let chunked = b"5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n";
    let (_server, origin) =
        serving(|_| Reply::raw("200 OK", &["Transfer-Encoding: chunked"], chunked)).await;
    let body = origin.fetch(0..5).await.unwrap();
    assert_eq!(
        (body.whole, body.total, body.remaining()),
        (true, None, None)
    );
    assert_eq!(read(body).await.unwrap(), b"0123456789");
}

#[tokio::test]
async fn chunked_whole_that_is_cut_is_an_error() {
    let error = failure(|_| {
        Reply::raw(
            "200 OK",
            &["Transfer-Encoding: chunked"],
            b"5\r\n01234\r\n5\r\n56",
        )
        .then(After::Close)
    })
    .await;
    assert!(matches!(error, OriginError::Lost { .. }), "{error}");
}

#[tokio::test]
async fn chunked_range_is_checked_to_the_byte() {
    let head = [
        "Content-Range: bytes 10-19/100",
        "Transfer-Encoding: chunked",
    ];
    let (_server, origin) = serving(move |_| {
        Reply::raw(
            "206 Partial Content",
            &head,
            b"a\r\n0123456789\r\n0\r\n\r\n",
        )
    })
    .await;
    assert_eq!(
        read(origin.fetch(10..20).await.unwrap()).await.unwrap(),
        b"0123456789"
    );

    let long = failure(move |_| {
        Reply::raw(
            "206 Partial Content",
            &head,
            b"b\r\n01234567890\r\n0\r\n\r\n",
        )
    })
    .await;
    assert!(
        matches!(long, OriginError::LongBody { expected: 10, .. }),
        "{long}"
    );
    let later = failure(move |_| {
        Reply::raw(
            "206 Partial Content",
            &head,
            b"a\r\n0123456789\r\n1\r\n0\r\n0\r\n\r\n",
        )
    })
    .await;
    assert!(
        matches!(later, OriginError::LongBody { expected: 10, .. }),
        "{later}"
    );
    let short =
        failure(move |_| Reply::raw("206 Partial Content", &head, b"9\r\n012345678\r\n0\r\n\r\n"))
            .await;
    assert!(
        matches!(
            short,
            OriginError::ShortBody {
                expected: 10,
                got: 9,
                ..
            }
        ),
        "{short}"
    );
}

#[tokio::test]
async fn other_range_than_asked_for_is_refused() {
    let error = failure(|_| {
        Reply::raw(
            "206 Partial Content",
            &["Content-Range: bytes 0-9/100", "Content-Length: 10"],
            b"0123456789",
        )
    })
    .await;
    assert!(
        matches!(error, OriginError::BadContentRange { .. }),
        "{error}"
    );
    let none = failure(|_| {
        Reply::raw(
            "206 Partial Content",
            &["Content-Length: 10"],
            b"0123456789",
        )
    })
    .await;
    assert!(
        matches!(none, OriginError::BadContentRange { answered: None, .. }),
        "{none}"
    );
}

#[tokio::test]
async fn body_cut_in_the_middle_is_short_and_what_came_is_kept() {
    let (_server, origin) = serving(|request| {
        let mut reply = Reply::range(request, &content(1000), &[]);
        reply.bytes.truncate(reply.bytes.len() - 40);
        reply.then(After::Close)
    })
    .await;
    let mut body = origin.fetch(0..100).await.unwrap();
    let mut got = Vec::new();
    let error = loop {
        match body.chunk().await {
            Ok(chunk) => got.extend_from_slice(&chunk.expect("the end is an error")),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(
            error,
            OriginError::ShortBody {
                expected: 100,
                got: 60,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(got, content(1000)[..60]);
    assert!(matches!(
        body.chunk().await,
        Err(OriginError::ShortBody { .. })
    ));
    assert!(origin.next_attempt().is_some());
}

#[tokio::test]
async fn length_that_contradicts_the_range_is_refused() {
    let head = |length| ["Content-Range: bytes 10-19/100", length];
    let short = failure(move |_| {
        Reply::raw(
            "206 Partial Content",
            &head("Content-Length: 9"),
            b"012345678",
        )
    })
    .await;
    assert!(matches!(short, OriginError::ShortBody { .. }), "{short}");
    let long = failure(move |_| {
        Reply::raw(
            "206 Partial Content",
            &head("Content-Length: 11"),
            b"01234567890",
        )
    })
    .await;
    assert!(matches!(long, OriginError::LongBody { .. }), "{long}");
}

#[tokio::test]
async fn compressed_answer_is_refused() {
    let error =
        failure(|request| Reply::range(request, &content(1000), &["Content-Encoding: gzip"])).await;
    assert!(matches!(error, OriginError::Encoded { .. }), "{error}");
    assert!(error.is_permanent());
}

#[tokio::test]
async fn silent_server_is_a_timeout_and_silent_body_a_stall() {
    let timeout = failure(|_| Reply {
        bytes: Vec::new(),
        after: After::Stall,
    })
    .await;
    assert!(matches!(timeout, OriginError::Timeout { .. }), "{timeout}");
    let stalled = failure(|request| {
        let mut reply = Reply::range(request, &content(1000), &[]);
        reply.bytes.truncate(reply.bytes.len() - 5);
        reply.then(After::Stall)
    })
    .await;
    assert!(matches!(stalled, OriginError::Stalled { .. }), "{stalled}");
    for error in [timeout, stalled] {
        assert_eq!(error.hresult(), HResult(0x8007_2EE2));
        assert!(!error.is_permanent());
    }
}

#[tokio::test]
async fn body_that_trickles_is_a_stall() {
    let (_server, origin) = serving(|_| {
        let headers = ["Content-Range: bytes 0-9999/10000", "Content-Length: 10000"];
        Reply::raw("206 Partial Content", &headers, b"").then(After::Trickle)
    })
    .await;
    let error = read(origin.fetch(0..10_000).await.unwrap())
        .await
        .unwrap_err();
    assert!(
        matches!(error, OriginError::Stalled { received: 1.., .. }),
        "{error}"
    );
}

#[tokio::test]
async fn statuses_that_bring_nothing_have_their_codes() {
    for (status, code) in [
        ("204 No Content", HResult::UNEXPECTED_STATUS),
        ("201 Created", HResult::UNEXPECTED_STATUS),
        ("304 Not Modified", HResult::UNEXPECTED_STATUS),
        ("401 Unauthorized", HResult(0x8019_0191)),
        ("403 Forbidden", HResult(0x8019_0193)),
        ("404 Not Found", HResult(0x8019_0194)),
        ("410 Gone", HResult(0x8019_019A)),
        ("416 Range Not Satisfiable", HResult::INVALID_RANGE),
    ] {
        let error = failure(move |_| {
            Reply::raw(&format!("{status}\r\nConnection: close"), &[], b"").then(After::Close)
        })
        .await;
        assert_eq!(error.hresult(), code, "{status}: {error}");
        assert!(error.is_permanent(), "{status}");
    }
}

#[tokio::test]
async fn range_outside_what_is_known_is_not_asked_for() {
    let (server, origin) = serving(|request| Reply::range(request, &content(100), &[])).await;
    origin.probe().await.unwrap();
    for range in [50..101, 10..10] {
        let error = origin.fetch(range).await.unwrap_err();
        assert!(
            matches!(
                error,
                OriginError::InvalidRange {
                    total: Some(100),
                    ..
                }
            ),
            "{error}"
        );
    }
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn probe_finds_length_ranges_and_version() {
    let (server, origin) =
        serving(|request| Reply::range(request, &content(1000), &["ETag: \"a\""])).await;
    let facts = origin.probe().await.unwrap();
    assert_eq!((facts.total, facts.ranges), (1000, true));
    assert_eq!(facts.validator.etag.as_deref(), Some("\"a\""));
    assert_eq!(facts.url, server.url("/file?sig=SECRET"));
    read(origin.fetch(0..10).await.unwrap()).await.unwrap();
    assert_eq!(
        server.connections(),
        1,
        "the connection of the probe is used again"
    );

    let (_server, whole) = serving(|_| Reply::whole(&content(1000), &[])).await;
    let facts = whole.probe().await.unwrap();
    assert_eq!((facts.total, facts.ranges), (1000, false));
}

#[tokio::test]
async fn probe_of_an_empty_content_finds_zero() {
    let (_server, origin) =
        serving(|_| Reply::status("416 Range Not Satisfiable", &["Content-Range: bytes */0"]))
            .await;
    assert_eq!(origin.probe().await.unwrap().total, 0);
    let (_server, origin) = serving(|request| match request.range() {
        Some(_) => Reply::status("416 Range Not Satisfiable", &[]),
        None => Reply::whole(b"", &[]),
    })
    .await;
    assert_eq!(origin.probe().await.unwrap().total, 0);
}

#[tokio::test]
async fn probe_without_a_length_says_so() {
    let (_server, origin) =
        serving(|_| Reply::raw("200 OK", &["Transfer-Encoding: chunked"], b"0\r\n\r\n")).await;
    assert_eq!(
        origin.probe().await.unwrap_err().hresult(),
        HResult::SIZE_UNKNOWN_200
    );
    assert!(origin.is_dead().is_some());
    let (_server, origin) = serving(|_| {
        Reply::raw(
            "206 Partial Content",
            &["Content-Range: bytes 0-0/*", "Content-Length: 1"],
            b"x",
        )
    })
    .await;
    assert_eq!(
        origin.probe().await.unwrap_err().hresult(),
        HResult::SIZE_UNKNOWN_206
    );
}

#[tokio::test]
async fn probe_asks_the_next_url_when_one_does_not_tell_the_length() {
    let untold =
        Server::start(|_| Reply::raw("200 OK", &["Transfer-Encoding: chunked"], b"0\r\n\r\n"))
            .await;
    let told = Server::start(|request| Reply::range(request, &content(100), &[])).await;
    let origin = client().open(vec![untold.url("/file"), told.url("/file")], None);
    assert_eq!(origin.probe().await.unwrap().total, 100);
    assert_eq!(origin.has_ranges(), Some(true));
}

#[tokio::test]
async fn content_longer_than_any_may_be_is_refused() {
    let error = failure(|_| {
        Reply::raw(
            "206 Partial Content",
            &[
                "Content-Range: bytes 10-19/99999999999999",
                "Content-Length: 10",
            ],
            b"0123456789",
        )
    })
    .await;
    assert!(matches!(error, OriginError::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn what_is_not_http_is_an_error() {
    let error = failure(|_| Reply {
        bytes: b"SSH-2.0-x\r\n\r\n".to_vec(),
        after: After::Close,
    })
    .await;
    assert!(matches!(error, OriginError::Lost { .. }), "{error}");
}

#[tokio::test]
async fn headers_without_end_are_an_error() {
    let endless = "X-Filler: 0123456789012345678901234567890123456789\r\n".repeat(50_000);
    let error = failure(move |_| Reply {
        bytes: format!("HTTP/1.1 206 Partial Content\r\n{endless}").into_bytes(),
        after: After::Stall,
    })
    .await;
    assert!(matches!(error, OriginError::Lost { .. }), "{error}");
}
