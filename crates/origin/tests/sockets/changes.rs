//! A content that changes under way is an error, never a mixed file.

use dosvc_origin::{OriginError, Validator};

use crate::server::{Reply, Server, client, content, fetch_patiently, open, read};

const MONDAY: &str = "Mon, 16 Nov 2026 12:00:00 GMT";
const FRIDAY: &str = "Fri, 20 Nov 2026 12:00:00 GMT";

fn is_change(error: &OriginError) -> bool {
    matches!(error, OriginError::Changed { .. })
}

#[tokio::test]
async fn strong_tag_goes_into_if_range_and_a_date_only_without() {
    let server = Server::start(|request| {
        let tag = match request.target.as_str() {
            "/strong" => "ETag: \"a\"",
            _ => "ETag: W/\"a\"",
        };
        let date = format!("Last-Modified: {MONDAY}");
        Reply::range(request, &content(100), &[tag, &date])
    })
    .await;
    for (target, if_range) in [("/strong", "\"a\""), ("/weak", MONDAY)] {
        let origin = open(server.url(target));
        for _ in 0..2 {
            read(origin.fetch(0..10).await.unwrap()).await.unwrap();
        }
        assert_eq!(
            server.requests().last().unwrap().header("if-range"),
            Some(if_range)
        );
    }
}

#[tokio::test]
async fn other_tag_date_or_length_ends_the_download() {
    let first = format!("Last-Modified: {MONDAY}");
    let second = format!("Last-Modified: {FRIDAY}");
    for (before, after, length) in [
        ("ETag: \"a\"", "ETag: \"b\"", 100),
        (first.as_str(), second.as_str(), 100),
        ("X-Nothing: 1", "X-Nothing: 1", 101),
    ] {
        let (before, after) = (before.to_owned(), after.to_owned());
        let server = Server::start(move |request| match request.before {
            0 => Reply::range(request, &content(100), &[&before]),
            _ => Reply::range(request, &content(length), &[&after]),
        })
        .await;
        let origin = open(server.url("/file"));
        read(origin.fetch(0..10).await.unwrap()).await.unwrap();
        let error = origin.fetch(10..20).await.unwrap_err();
        assert!(is_change(&error), "{error}");
        assert!(origin.is_dead().is_some_and(|error| is_change(&error)));
        assert!(is_change(&origin.fetch(20..30).await.unwrap_err()));
    }
}

#[tokio::test]
async fn whole_content_in_answer_to_if_range_is_a_change() {
    let server = Server::start(|request| match request.header("if-range") {
        None => Reply::range(request, &content(100), &["ETag: \"a\""]),
        Some(_) => Reply::whole(&content(100), &["ETag: \"b\""]),
    })
    .await;
    let origin = open(server.url("/file"));
    read(origin.fetch(0..10).await.unwrap()).await.unwrap();
    assert!(is_change(&origin.fetch(10..20).await.unwrap_err()));
}

#[tokio::test]
async fn refusal_of_a_range_that_names_another_length_is_a_change() {
    let server = Server::start(|request| match request.before {
        0 => Reply::range(request, &content(100), &[]),
        _ => Reply::status("416 Range Not Satisfiable", &["Content-Range: bytes */50"]),
    })
    .await;
    let origin = open(server.url("/file"));
    read(origin.fetch(0..10).await.unwrap()).await.unwrap();
    assert!(is_change(&origin.fetch(60..70).await.unwrap_err()));
}

#[tokio::test]
async fn version_of_an_earlier_run_is_asked_for_and_checked() {
    let server =
        Server::start(|request| Reply::range(request, &content(100), &["ETag: \"a\""])).await;
    let earlier = open(server.url("/file"));
    read(earlier.fetch(0..10).await.unwrap()).await.unwrap();
    let kept = earlier.validator().unwrap().to_bytes();

    let same = Validator::from_bytes(&kept).unwrap();
    let later = client().open(vec![server.url("/file")], Some(same.clone()));
    read(later.fetch(10..20).await.unwrap()).await.unwrap();
    assert_eq!(
        server.requests().last().unwrap().header("if-range"),
        Some("\"a\"")
    );

    let other = Validator {
        etag: Some("\"z\"".to_owned()),
        ..same
    };
    let later = client().open(vec![server.url("/file")], Some(other));
    assert!(is_change(&later.fetch(10..20).await.unwrap_err()));
}

#[tokio::test]
async fn server_with_another_length_is_left_and_the_others_serve() {
    let wrong = Server::start(|request| Reply::range(request, &content(99), &[])).await;
    let right =
        Server::start(|request| Reply::range(request, &content(100), &["ETag: \"own\""])).await;
    let known = Validator {
        total: Some(100),
        ..Validator::default()
    };
    let origin = client().open(vec![wrong.url("/file"), right.url("/file")], Some(known));
    for _ in 0..3 {
        assert_eq!(
            fetch_patiently(&origin, 0..10).await.unwrap(),
            content(100)[..10]
        );
    }
    assert_eq!(wrong.requests().len(), 1, "it is not asked again");
    assert!(origin.is_dead().is_none());
}

#[tokio::test]
async fn servers_with_tags_of_their_own_serve_one_content() {
    let one = Server::start(|request| match request.before {
        0 => Reply::range(request, &content(100), &["ETag: \"one\""]),
        _ => Reply::status("503 Service Unavailable", &[]),
    })
    .await;
    let two =
        Server::start(|request| Reply::range(request, &content(100), &["ETag: \"two\""])).await;
    let origin = client().open(vec![one.url("/file"), two.url("/file")], None);
    for start in [0, 10, 20] {
        let body = origin.fetch(start..start + 10).await.unwrap();
        let at = usize::try_from(start).unwrap();
        assert_eq!(read(body).await.unwrap(), content(100)[at..at + 10]);
    }
    assert_eq!(
        two.requests()[0].header("if-range"),
        None,
        "a tag means nothing to another server"
    );
}
