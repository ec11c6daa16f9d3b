use super::*;

const WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
const MONDAY: &str = "Mon, 16 Nov 2026 12:00:00 GMT";
const FRIDAY: &str = "Fri, 20 Nov 2026 12:00:00 GMT";

fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

fn sources(urls: &[&str]) -> Sources {
    Sources::new(
        urls.iter().map(|text| url(text)).collect(),
        Validator::default(),
        WAIT,
        1,
    )
}

fn hop(text: &str) -> Hop {
    Hop::given(url(text))
}

fn answer(etag: Option<&str>, last_modified: Option<&str>, total: Option<u64>) -> Answer {
    Answer {
        whole: false,
        total,
        etag: etag.map(str::to_owned),
        last_modified: last_modified.map(str::to_owned),
    }
}

fn shown() -> ShownUrl {
    ShownUrl::from(&url("http://a/"))
}

fn lost() -> OriginError {
    OriginError::Lost {
        url: shown(),
        cause: "reset".to_owned(),
    }
}

fn not_found() -> OriginError {
    OriginError::NotFound {
        url: shown(),
        status: 404,
    }
}

fn busy(seconds: u64) -> OriginError {
    OriginError::Status {
        url: shown(),
        status: 503,
        retry_after: Some(Duration::from_secs(seconds)),
    }
}

fn pick(sources: &Sources, now: Instant) -> Ticket {
    sources.pick(now, Tried::default()).expect("a URL is due")
}

#[test]
fn preferred_url_is_asked_first_and_the_next_after_it() {
    let sources = sources(&["http://a/", "ftp://x/", "http://b/", "http://a/"]);
    let now = Instant::now();
    let mut tried = Tried::default();
    let mut asked = Vec::new();
    while let Some(ticket) = sources.pick(now, tried) {
        tried.add(ticket);
        asked.push(sources.start(ticket).0.url);
    }
    assert_eq!(asked, [url("http://a/"), url("http://b/")]);
}

#[test]
fn more_urls_than_the_cap_are_left_out() {
    let many = (0..100).map(|n| url(&format!("http://h/{n}"))).collect();
    let sources = Sources::new(many, Validator::default(), WAIT, 1);
    assert_eq!(sources.sources.len(), URLS_MAX);
}

#[test]
fn url_without_ranges_comes_last() {
    let mut sources = sources(&["http://a/", "http://b/"]);
    let now = Instant::now();
    let first = pick(&sources, now);
    let whole = Answer {
        whole: true,
        ..answer(None, None, Some(9))
    };
    sources
        .accept(first, &hop("http://a/"), false, &whole)
        .unwrap();
    assert_eq!(pick(&sources, now).at, 1);
}

#[test]
fn failures_in_a_row_wait_longer_and_success_ends_that() {
    let mut sources = sources(&["http://a/"]);
    let mut now = Instant::now();
    let mut waits = Vec::new();
    for _ in 0..8 {
        let ticket = pick(&sources, now);
        sources.failed(ticket, now, &lost(), false);
        let next = sources.next_attempt(now).unwrap();
        waits.push(next - now);
        assert!(sources.pick(now, Tried::default()).is_none());
        assert!(
            matches!(sources.idle_error(now), OriginError::BackingOff { until, .. } if until == next)
        );
        now = next;
    }
    assert!(
        waits[0] <= Duration::from_secs(1) && waits[7] >= Duration::from_secs(15),
        "{waits:?}"
    );

    sources.succeeded(pick(&sources, now));
    assert_eq!(sources.next_attempt(now), None);
    sources.failed(pick(&sources, now), now, &lost(), false);
    assert!(sources.next_attempt(now).unwrap() - now <= Duration::from_secs(1));
}

#[test]
fn requests_that_fail_together_are_one_failure() {
    let mut sources = sources(&["http://a/"]);
    let now = Instant::now();
    let tickets = [
        pick(&sources, now),
        pick(&sources, now),
        pick(&sources, now),
    ];
    for ticket in tickets {
        sources.failed(ticket, now, &lost(), false);
    }
    assert!(sources.next_attempt(now).unwrap() - now <= Duration::from_secs(1));
}

#[test]
fn success_of_an_older_request_does_not_end_a_wait() {
    let mut sources = sources(&["http://a/"]);
    let now = Instant::now();
    let (older, newer) = (pick(&sources, now), pick(&sources, now));
    sources.failed(newer, now, &lost(), false);
    sources.succeeded(older);
    assert!(sources.next_attempt(now).is_some());
}

#[test]
fn failure_after_progress_starts_the_waits_anew() {
    let mut sources = sources(&["http://a/"]);
    let mut now = Instant::now();
    for _ in 0..6 {
        sources.failed(pick(&sources, now), now, &lost(), true);
        let next = sources.next_attempt(now).unwrap();
        assert!(next - now <= Duration::from_secs(1));
        now = next;
    }
}

#[test]
fn retry_after_is_kept_even_if_longer_than_the_back_off() {
    let mut sources = sources(&["http://a/"]);
    let now = Instant::now();
    sources.failed(pick(&sources, now), now, &busy(600), false);
    assert_eq!(
        sources.next_attempt(now),
        Some(now + Duration::from_secs(600))
    );
}

#[test]
fn retry_after_is_no_shorter_than_the_back_off() {
    let mut sources = sources(&["http://a/"]);
    let now = Instant::now();
    sources.failed(pick(&sources, now), now, &busy(0), false);
    assert!(sources.next_attempt(now).unwrap() >= now + Duration::from_millis(500));
}

#[test]
fn content_is_dead_once_every_url_is() {
    let mut sources = sources(&["http://a/", "http://b/"]);
    let now = Instant::now();
    let a = pick(&sources, now);
    sources.failed(a, now, &not_found(), false);
    assert!(sources.dead().is_none());
    let b = pick(&sources, now);
    assert_ne!(a.at, b.at);
    sources.failed(b, now, &lost(), false);
    assert!(sources.dead().is_none());
    sources.failed(b, now, &not_found(), false);
    assert!(matches!(sources.dead(), Some(OriginError::NotFound { .. })));
    assert_eq!(sources.next_attempt(now), None);
    assert!(matches!(
        sources.idle_error(now),
        OriginError::NotFound { .. }
    ));
}

#[test]
fn content_without_a_url_is_dead() {
    assert!(matches!(sources(&[]).dead(), Some(OriginError::NoUrl)));
}

#[test]
fn other_tag_date_or_length_is_a_change() {
    let first = answer(Some("\"a\""), Some(MONDAY), Some(9));
    for (other, what) in [
        (answer(Some("\"b\""), Some(MONDAY), Some(9)), "ETag"),
        (answer(None, Some(FRIDAY), Some(9)), "Last-Modified"),
        (answer(Some("\"a\""), Some(MONDAY), Some(8)), "length"),
    ] {
        let mut sources = sources(&["http://a/"]);
        let ticket = pick(&sources, Instant::now());
        sources
            .accept(ticket, &hop("http://a/"), false, &first)
            .unwrap();
        sources
            .accept(ticket, &hop("http://a/"), true, &first)
            .unwrap();
        let changed = sources.accept(ticket, &hop("http://a/"), true, &other);
        assert!(
            matches!(changed, Err(OriginError::Changed { what: w, .. }) if w == what),
            "{what}"
        );
    }
}

#[test]
fn whole_content_after_if_range_is_a_change_unless_it_is_the_same_version() {
    let mut sources = sources(&["http://a/"]);
    let ticket = pick(&sources, Instant::now());
    let first = answer(Some("\"a\""), None, Some(9));
    sources
        .accept(ticket, &hop("http://a/"), false, &first)
        .unwrap();
    let same = Answer {
        whole: true,
        ..first
    };
    sources
        .accept(ticket, &hop("http://a/"), true, &same)
        .unwrap();
    let silent = Answer {
        whole: true,
        ..answer(None, None, Some(9))
    };
    assert!(
        sources
            .accept(ticket, &hop("http://a/"), true, &silent)
            .is_err()
    );
}

#[test]
fn servers_of_one_content_may_have_tags_of_their_own_but_one_length() {
    let mut sources = sources(&["http://a/", "http://b/", "http://c/"]);
    let now = Instant::now();
    let mut tried = Tried::default();
    let a = sources.pick(now, tried).unwrap();
    tried.add(a);
    let b = sources.pick(now, tried).unwrap();
    tried.add(b);
    let c = sources.pick(now, tried).unwrap();
    sources
        .accept(
            a,
            &hop("http://a/"),
            false,
            &answer(Some("\"a\""), Some(MONDAY), Some(9)),
        )
        .unwrap();
    sources
        .accept(
            b,
            &hop("http://b/"),
            false,
            &answer(Some("\"b\""), Some(FRIDAY), Some(9)),
        )
        .unwrap();
    assert!(
        sources
            .accept(c, &hop("http://c/"), false, &answer(None, None, Some(10)))
            .is_err()
    );
}

#[test]
fn redirect_to_another_server_with_another_date_is_a_change() {
    let first = answer(Some("\"a\""), Some(MONDAY), Some(9));
    let mut sources = sources(&["http://a/"]);
    let ticket = pick(&sources, Instant::now());
    sources
        .accept(ticket, &hop("http://m1/"), false, &first)
        .unwrap();
    assert_eq!(sources.start(ticket).0, hop("http://m1/"));
    // Another mirror of the same file: a tag of its own, the same date.
    sources
        .accept(
            ticket,
            &hop("http://m2/"),
            false,
            &answer(Some("\"b\""), Some(MONDAY), Some(9)),
        )
        .unwrap();
    assert_eq!(sources.pin(ticket).etag.as_deref(), Some("\"b\""));
    let newer = answer(Some("\"c\""), Some(FRIDAY), Some(9));
    assert!(
        sources
            .accept(ticket, &hop("http://m3/"), false, &newer)
            .is_err()
    );
}

#[test]
fn failure_forgets_where_the_redirect_led() {
    let mut sources = sources(&["http://a/"]);
    let ticket = pick(&sources, Instant::now());
    sources
        .accept(
            ticket,
            &hop("http://m1/"),
            false,
            &answer(None, None, Some(9)),
        )
        .unwrap();
    sources.failed(ticket, Instant::now(), &lost(), false);
    assert_eq!(sources.start(ticket), (hop("http://a/"), false));
}

#[test]
fn validator_of_an_earlier_run_must_be_met() {
    let mut earlier = sources(&["http://a/"]);
    let ticket = pick(&earlier, Instant::now());
    earlier
        .accept(
            ticket,
            &hop("http://a/"),
            false,
            &answer(Some("\"a\""), None, Some(9)),
        )
        .unwrap();
    let kept = Validator::from_bytes(&earlier.validator().unwrap().to_bytes()).unwrap();

    let mut later = Sources::new(vec![url("http://a/")], kept.clone(), WAIT, 2);
    assert_eq!(later.validator(), Some(kept));
    assert!(
        later
            .accept(
                ticket,
                &hop("http://a/"),
                true,
                &answer(Some("\"b\""), None, Some(9))
            )
            .is_err()
    );
    assert!(
        later
            .accept(
                ticket,
                &hop("http://a/"),
                true,
                &answer(Some("\"a\""), None, Some(9))
            )
            .is_ok()
    );
}

#[test]
fn length_that_the_caller_knows_holds_for_every_server() {
    let known = Validator {
        total: Some(9),
        ..Validator::default()
    };
    let mut sources = Sources::new(vec![url("http://a/")], known, WAIT, 2);
    let ticket = pick(&sources, Instant::now());
    assert!(
        sources
            .accept(
                ticket,
                &hop("http://a/"),
                false,
                &answer(None, None, Some(8))
            )
            .is_err()
    );
    assert!(sources.length_differs(8).is_some());
    assert!(sources.length_differs(9).is_none());
}
