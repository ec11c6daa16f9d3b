//! Redirects, hop by hop. (From a public host: see the environment tests, where a proxy plays it.)

use dosvc_content::HResult;
use dosvc_origin::{OriginError, RedirectRefusal};

use crate::server::{Reply, Server, content, fetch_patiently, open, read};

fn to(location: &str) -> Reply {
    Reply::status("302 Found", &[&format!("Location: {location}")])
}

fn refusal(error: &OriginError) -> RedirectRefusal {
    match error {
        OriginError::Redirect { refusal, .. } => *refusal,
        other => panic!("not a redirect error: {other}"),
    }
}

#[tokio::test]
async fn chain_is_followed_with_the_range_and_remembered() {
    let server = Server::start(|request| match request.target.as_str() {
        "/0" => to("1"),
        "/1" => Reply::status("308 Permanent Redirect", &["Location: /2?sig=x"]),
        _ => Reply::range(request, &content(100), &["ETag: \"a\""]),
    })
    .await;
    let origin = open(server.url("/0"));
    for start in [0, 10] {
        read(origin.fetch(start..start + 10).await.unwrap())
            .await
            .unwrap();
    }
    let targets: Vec<_> = server
        .requests()
        .into_iter()
        .map(|request| request.target)
        .collect();
    assert_eq!(targets, ["/0", "/1", "/2?sig=x", "/2?sig=x"]);
    assert_eq!(origin.current_url(), Some(server.url("/2?sig=x")));
    assert_eq!(server.requests()[3].header("range"), Some("bytes=10-19"));
    assert_eq!(server.requests()[3].header("if-range"), Some("\"a\""));
}

#[tokio::test]
async fn expired_target_is_asked_for_anew() {
    let server = Server::start(|request| match (request.target.as_str(), request.before) {
        ("/file", 0) => to("/signed?1"),
        ("/file", _) => to("/signed?2"),
        ("/signed?1", 2..) => Reply::status("403 Forbidden", &[]),
        _ => Reply::range(request, &content(100), &["ETag: \"a\""]),
    })
    .await;
    let origin = open(server.url("/file"));
    read(origin.fetch(0..10).await.unwrap()).await.unwrap();
    read(origin.fetch(10..20).await.unwrap()).await.unwrap();
    let targets: Vec<_> = server
        .requests()
        .into_iter()
        .map(|request| request.target)
        .collect();
    assert_eq!(
        targets,
        ["/file", "/signed?1", "/signed?1", "/file", "/signed?2"]
    );
}

#[tokio::test]
async fn circle_and_endless_chain_are_refused() {
    let server = Server::start(|request| match request.target.as_str() {
        "/a" => to("/b"),
        "/b" => to("/a"),
        target => to(&format!("{target}x")),
    })
    .await;
    let circle = open(server.url("/a")).fetch(0..1).await.unwrap_err();
    assert_eq!(refusal(&circle), RedirectRefusal::Loop);
    let before = server.requests().len();
    let endless = open(server.url("/x")).fetch(0..1).await.unwrap_err();
    assert_eq!(refusal(&endless), RedirectRefusal::TooMany { hops_max: 10 });
    assert_eq!(server.requests().len() - before, 11);
    assert_eq!(endless.hresult(), HResult(0x8007_2F7C));
    assert!(endless.is_permanent());
}

#[tokio::test]
async fn redirect_without_or_to_nowhere_is_refused() {
    let server = Server::start(|request| match request.target.as_str() {
        "/none" => Reply::status("302 Found", &[]),
        "/file" => to("file:///etc/passwd"),
        _ => to("http://"),
    })
    .await;
    for (target, expected) in [
        ("/none", RedirectRefusal::NoLocation),
        ("/file", RedirectRefusal::Scheme),
        ("/bad", RedirectRefusal::BadLocation),
    ] {
        let error = open(server.url(target)).fetch(0..1).await.unwrap_err();
        assert_eq!(refusal(&error), expected, "{target}");
    }
}

#[tokio::test]
async fn private_origin_may_redirect_to_its_neighbour() {
    let neighbour = Server::start(|request| Reply::range(request, &content(100), &[])).await;
    let location = neighbour.url("/file").to_string();
    let server = Server::start(move |_| to(&location)).await;
    let origin = open(server.url("/file"));
    assert_eq!(
        fetch_patiently(&origin, 0..10).await.unwrap(),
        content(100)[..10]
    );
}

#[tokio::test]
async fn credentials_of_the_url_do_not_leave_its_server() {
    let neighbour = Server::start(|request| Reply::range(request, &content(100), &[])).await;
    let location = neighbour.url("/file").to_string();
    let server = Server::start(move |_| to(&location)).await;
    let mut url = server.url("/file");
    url.set_username("me").unwrap();
    url.set_password(Some("pw")).unwrap();
    fetch_patiently(&open(url), 0..10).await.unwrap();
    assert!(
        server.requests()[0]
            .header("authorization")
            .unwrap()
            .starts_with("Basic ")
    );
    assert_eq!(neighbour.requests()[0].header("authorization"), None);
}
