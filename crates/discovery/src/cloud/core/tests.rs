use super::*;
use crate::cloud::{
    limits::{FILE_BYTES_MAX, GEO_FRESH, HURRY_GAP, JOIN_GAP},
    member::Part,
    question::Reply,
};
use dosvc_cloud_protocol::{JoinRequest, Text};
use dosvc_content::{ContentId, GroupHash};
use proptest::prelude::*;
use std::time::SystemTime;

mod joins;

const GEO: &str = r#"{"ExternalIpAddress":"203.0.113.7","CountryCode":"DE",
    "KeyValue_EndpointFullUri":"http://kv.test/all","Version":"1","CacheId":"7"}"#;
const KEY_VALUE: &str = r#"{"ContentPolicy_EndpointFullUri":"http://cp.test/content/{contentId}/contentpolicy",
    "Discovery_EndpointFullUri":"http://disc.test/content/{contentId}/discovery"}"#;
const ARRAYS: &str =
    r#"[{"CollectiveArray":"http://a1.test/"},{"CollectiveArray":"http://a2.test/"}]"#;
const POLICY: &str = r#"{"ContentId":"x","HashOfHashes":"pnfBh6zEGx3sxf6WBId825S6VQpwJTWIaAWU/cBsHD0=",
    "PiecesHashFileCdnUrls":["http://a.test/x.phf"]}"#;

fn peer(n: u8) -> PeerId {
    PeerId::from([n; 20])
}

fn content(n: u8) -> HashOfHashes {
    [n; 32].into()
}

fn json(body: &str) -> Outcome {
    Ok(Reply {
        status: 200,
        media_type: Some("text/json".to_owned()),
        body: body.as_bytes().to_vec(),
        ..Reply::default()
    })
}

fn status(status: u16) -> Outcome {
    Ok(Reply {
        status,
        ..Reply::default()
    })
}

fn joined(token: Option<&str>, peers: &[u8], next: u32) -> Outcome {
    let peers: Vec<String> = peers
        .iter()
        .map(|n| {
            format!(
                r#"{{"PeerId":"{}","Scope":"2","LanIp":"10.0.0.{n}","Port":"7680"}}"#,
                peer(*n)
            )
        })
        .collect();
    let token = token.map_or(String::new(), |token| format!(r#","Token":"{token}""#));
    json(&format!(
        r#"{{"Peers":[{}],"NextJoinSeconds":"{next}","ExternalIp":"203.0.113.7"{token}}}"#,
        peers.join(",")
    ))
}

/// A core, its clock, and what it asked.
struct World {
    core: Core,
    now: Instant,
    asked: Vec<Ask>,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let url = |text: &str| text.parse::<HttpUrl>().unwrap();
        let mut core = Core::new(
            peer(1),
            url("http://geo.test/geo"),
            url("http://geo.test/geoversion"),
            7,
            now,
        );
        core.set_device(now, device(1));
        Self {
            core,
            now,
            asked: Vec::new(),
        }
    }

    /// What is asked now; nothing is left to ask, and it is known when to look again.
    fn poll(&mut self) -> Vec<Ask> {
        let mut asks = Vec::new();
        while let Some(ask) = self.core.poll(self.now) {
            asks.push(ask);
        }
        assert!(asks.len() <= QUESTIONS_MAX);
        if let Some(at) = self.core.timeout(self.now) {
            assert!(at > self.now, "the driver would turn without end");
        }
        self.asked.extend(asks.iter().cloned());
        asks
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    fn answer(&mut self, ask: &Ask) -> Option<(HashOfHashes, Vec<ArrayPeer>)> {
        let outcome = match &ask.question {
            Question::Geo => json(GEO),
            Question::GeoVersion => json(r#"{"Version":"1"}"#),
            Question::KeyValue => json(KEY_VALUE),
            Question::Policy(_) => json(POLICY),
            Question::Discovery(_) => json(ARRAYS),
            Question::Join(..) => joined(Some("00000000000000aa"), &[1, 2], 600),
        };
        self.core.handle(self.now, ask.question.clone(), outcome)
    }

    /// Answers everything until nothing more is asked at this moment; the questions.
    fn settle(&mut self) -> Vec<Question> {
        let mut questions = Vec::new();
        loop {
            let asks = self.poll();
            if asks.is_empty() {
                return questions;
            }
            for ask in asks {
                self.answer(&ask);
                questions.push(ask.question);
            }
        }
    }

    /// The next question, when its time has come.
    fn next(&mut self) -> Ask {
        self.now = self.core.timeout(self.now).expect("something is wanted");
        let mut asks = self.poll();
        assert_eq!(asks.len(), 1, "{asks:?}");
        asks.remove(0)
    }

    fn join_sent(&self) -> JoinRequest {
        let last = self.asked.last().unwrap();
        JoinRequest::from_json(last.body.as_ref().unwrap()).unwrap()
    }

    fn announce(&mut self, announcement: Announcement) {
        assert!(self.core.announce(self.now, announcement));
    }
}

fn device(n: u8) -> Device {
    Device {
        port: 7680,
        ipv4: Some(([10, 0, n, 1].into(), [255, 255, 255, 0].into())),
        ..Device::default()
    }
}

fn wanted(n: u8) -> Announcement {
    Announcement {
        wanted: true,
        left: 100,
        ..Announcement::new(content(n), Scope::Group, Some(group(1)))
    }
}

fn held(n: u8) -> Announcement {
    Announcement {
        part: Part::All,
        ..Announcement::new(content(n), Scope::Lan, None)
    }
}

fn group(n: u8) -> GroupHash {
    [n; 32].into()
}

fn key(url: &str) -> PolicyKey {
    PolicyKey {
        url: Text::new(url),
        content_id: None,
    }
}

#[test]
fn nothing_is_asked_before_anything_is_wanted() {
    let mut world = World::new();
    assert_eq!(world.core.timeout(world.now), None);
    assert_eq!(world.poll(), []);
    assert_eq!(world.core.status(world.now).members, 0);
}

#[test]
fn the_chain_is_asked_in_order_and_kept() {
    let mut world = World::new();
    let policy = key("http://a.test/x");
    assert!(world.core.want_policy(world.now, &policy));
    let since = world.now;
    for expected in [
        "http://geo.test/geo?doClientVersion=10.1.0.13&profile=768&callId=",
        "http://kv.test/all?doClientVersion=10.1.0.13&countryCode=DE&profile=768&CacheId=7",
        "http://cp.test/content/unknown/contentpolicy?altCatalogId=http%3A%2F%2Fa.test%2Fx&",
    ] {
        assert_eq!(
            world.core.policy(world.now, &policy, since),
            PolicyState::Pending
        );
        let asks = world.poll();
        assert_eq!(asks.len(), 1);
        assert!(asks[0].url.starts_with(expected), "{}", asks[0].url);
        world.answer(&asks[0]);
    }
    let state = world.core.policy(world.now, &policy, since);
    assert!(matches!(state, PolicyState::Known(Some(_))), "{state:?}");
    world.core.unwant_policy(&policy);
    assert_eq!(world.core.timeout(world.now), None);

    // Another content asks no more than its policy.
    let other = PolicyKey {
        content_id: Some("id-5".to_owned()),
        ..key("http://a.test/y")
    };
    assert!(world.core.want_policy(world.now, &other));
    assert_eq!(world.settle(), [Question::Policy(other)]);
    assert!(world.asked.last().unwrap().url.contains("/content/id-5/"));
}

#[test]
fn an_old_geo_answer_is_checked_by_its_version_only() {
    let mut world = World::new();
    world.core.want_policy(world.now, &key("http://a.test/1"));
    world.settle();
    world.pass(GEO_FRESH);
    world.core.want_policy(world.now, &key("http://a.test/2"));
    let asks = world.poll();
    assert_eq!(asks[0].question, Question::GeoVersion);
    assert!(asks[0].url.starts_with("http://geo.test/geoversion?"));
    // What is known is used meanwhile.
    assert!(matches!(asks[1].question, Question::Policy(_)));
    asks.iter().for_each(|ask| _ = world.answer(ask));
    assert_eq!(world.settle(), []);

    // Another version: all of it, and key-value too.
    world.pass(GEO_FRESH);
    world.core.want_policy(world.now, &key("http://a.test/3"));
    let asks = world.poll();
    world.answer(&asks[1]);
    world
        .core
        .handle(world.now, Question::GeoVersion, json(r#"{"Version":"2"}"#));
    world.core.want_policy(world.now, &key("http://a.test/4"));
    let asks = world.poll();
    assert_eq!(asks[0].question, Question::Geo);
    let newer = GEO.replace("\"Version\":\"1\"", "\"Version\":\"2\"");
    world.core.handle(world.now, Question::Geo, json(&newer));
    world.core.want_policy(world.now, &key("http://a.test/5"));
    assert!(
        world
            .poll()
            .iter()
            .any(|ask| ask.question == Question::KeyValue)
    );
}

#[test]
fn a_service_without_geoversion_is_asked_for_geo() {
    let mut world = World::new();
    world.core.want_policy(world.now, &key("http://a.test/1"));
    world.settle();
    world.pass(GEO_FRESH);
    world.core.want_policy(world.now, &key("http://a.test/2"));
    world.poll();
    world
        .core
        .handle(world.now, Question::GeoVersion, status(404));
    world.core.want_policy(world.now, &key("http://a.test/3"));
    assert_eq!(world.poll()[0].question, Question::Geo);
}

#[test]
fn failures_have_names_and_whoever_waits_hears_of_them() {
    let html = |status| {
        Ok(Reply {
            status,
            media_type: Some("text/html".to_owned()),
            ..Reply::default()
        })
    };
    let table: [(Outcome, &str); 7] = [
        (html(200), "captive_portal"),
        (html(302), "captive_portal"),
        (html(500), "status"),
        (status(503), "status"),
        (json("{}"), "malformed"),
        (json(&GEO.replace("203.0.113.7", "0.0.0.0")), "malformed"),
        (Err("no route".to_owned()), "unreachable"),
    ];
    for (outcome, name) in table {
        let mut world = World::new();
        let (policy, since) = (key("http://a.test/x"), world.now);
        world.core.want_policy(world.now, &policy);
        world.poll();
        world.core.handle(world.now, Question::Geo, outcome);
        match world.core.policy(world.now, &policy, since) {
            PolicyState::Failed(failure) => {
                assert_eq!(failure.name(), name);
                assert_eq!(failure.hresult().to_string(), "0x80D0380A");
            }
            other => panic!("{name}: {other:?}"),
        }
        assert_eq!(world.core.broken(world.now).unwrap().0, Link::Geo);
        world.core.unwant_policy(&policy);
        // Nobody waits any more: nothing is asked again.
        assert_eq!(world.core.timeout(world.now), None);
        // The next download asks again, soon, and what failed before is not its answer.
        world.pass(Duration::from_millis(10));
        let since = world.now;
        world.core.want_policy(world.now, &policy);
        assert_eq!(
            world.core.policy(world.now, &policy, since),
            PolicyState::Pending
        );
        let due = world.core.timeout(world.now).unwrap();
        assert!(due <= world.now + HURRY_GAP);
        world.now = due;
        world.settle();
        assert!(matches!(
            world.core.policy(world.now, &policy, since),
            PolicyState::Known(Some(_))
        ));
        assert_eq!(world.core.broken(world.now), None);
    }
}

#[test]
fn an_unknown_content_is_an_answer_that_counts_shortly() {
    let mut world = World::new();
    let (policy, since) = (key("http://a.test/x"), world.now);
    world.core.want_policy(world.now, &policy);
    for _ in 0..2 {
        let ask = world.poll().remove(0);
        world.answer(&ask);
    }
    world.poll();
    world
        .core
        .handle(world.now, Question::Policy(policy.clone()), status(404));
    let known = PolicyState::Known(None);
    assert_eq!(world.core.policy(world.now, &policy, since), known);
    world.pass(Duration::from_secs(61));
    assert_eq!(
        world.core.policy(world.now, &policy, since),
        PolicyState::Pending
    );
}

#[test]
fn a_restart_asks_nothing_anew_and_shows_its_tokens() {
    let mut world = World::new();
    world.announce(wanted(1));
    world.core.want_policy(world.now, &key("http://a.test/x"));
    world.settle();
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let save = |world: &mut World| world.core.save(world.now, wall, peer(1));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cloud.json");
    let mut saved = save(&mut world);
    crate::cloud::file::write(&path, &mut saved).unwrap();
    let restarted = |passed: u64, who: u8| {
        let mut next = World::new();
        let saved = crate::cloud::file::read(&path).unwrap();
        let wall = wall + Duration::from_secs(passed);
        next.core.restore(next.now, wall, peer(who), saved);
        next.announce(wanted(1));
        next.core.want_policy(next.now, &key("http://a.test/x"));
        let questions = next.settle();
        (questions, next.join_sent().token)
    };
    let join = Question::Join(content(1), JoinEvent::Join);
    let token = Some("00000000000000aa".parse().unwrap());
    assert_eq!(restarted(60, 1), (vec![join.clone()], token));
    // Half a day later some of it is old.
    let (questions, _) = restarted(12 * 3600, 1);
    assert_eq!(questions[0], Question::GeoVersion);
    assert!(questions.contains(&join), "{questions:?}");
    assert!(!questions.contains(&Question::Discovery(content(1))));
    // It was given to somebody else.
    let (questions, token) = restarted(60, 9);
    assert_eq!((&questions[0], token), (&Question::Geo, None));
}

#[test]
fn a_file_that_is_none_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cloud.json");
    assert!(crate::cloud::file::read(&path).is_none());
    for bytes in [
        &b"{"[..],
        b"[]",
        b"\xff\xfe",
        &vec![b' '; FILE_BYTES_MAX + 1],
    ] {
        std::fs::write(&path, bytes).unwrap();
        assert!(crate::cloud::file::read(&path).is_none());
    }
}

#[derive(Debug, Clone)]
enum Step {
    Pass(u64),
    Announce(u8, bool, u8),
    Withdraw(u8),
    Search(u8, bool),
    Policy(u8, bool),
    Device(u8),
    Network,
    Stranger(u8),
    Answer(u8, u8),
    Garbage(u16, Vec<u8>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..100_000_u64).prop_map(Step::Pass),
        (0..4_u8, any::<bool>(), 0..3_u8).prop_map(|(n, w, p)| Step::Announce(n, w, p)),
        (0..4_u8).prop_map(Step::Withdraw),
        (0..4_u8, any::<bool>()).prop_map(|(n, b)| Step::Search(n, b)),
        (0..4_u8, any::<bool>()).prop_map(|(n, b)| Step::Policy(n, b)),
        (0..3_u8).prop_map(Step::Device),
        Just(Step::Network),
        (0..4_u8).prop_map(Step::Stranger),
        (any::<u8>(), 0..6_u8).prop_map(|(n, k)| Step::Answer(n, k)),
        (100..600_u16, proptest::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(s, b)| Step::Garbage(s, b)),
    ];
    proptest::collection::vec(step, 0..80)
}

/// Carries the steps out; everything that was asked.
fn play(steps: &[Step]) -> Vec<Ask> {
    let mut world = World::new();
    let start = world.now;
    let mut under_way: Vec<Ask> = Vec::new();
    let mut searches = [0_u32; 4];
    let mut waits = [0_u32; 4];
    for step in steps {
        let now = world.now;
        match step {
            Step::Pass(ms) => world.pass(Duration::from_millis(*ms)),
            Step::Announce(n, want, part) => {
                let part = [Part::Nothing, Part::Some, Part::All][usize::from(*part)];
                let base = if *want { wanted(*n) } else { held(*n) };
                world.announce(Announcement { part, ..base });
            }
            Step::Withdraw(n) => world.core.withdraw(now, &content(*n)),
            Step::Search(n, true) => {
                searches[usize::from(*n)] += 1;
                assert!(world.core.begin_search(now, wanted(*n)));
            }
            Step::Search(n, false) => {
                if searches[usize::from(*n)] > 0 {
                    searches[usize::from(*n)] -= 1;
                    world.core.end_search(now, &content(*n));
                }
            }
            Step::Policy(n, true) => {
                waits[usize::from(*n)] += 1;
                assert!(world.core.want_policy(now, &key(&format!("http://a/{n}"))));
            }
            Step::Policy(n, false) => {
                if waits[usize::from(*n)] > 0 {
                    waits[usize::from(*n)] -= 1;
                    world.core.unwant_policy(&key(&format!("http://a/{n}")));
                }
            }
            Step::Device(n) => world.core.set_device(now, device(*n)),
            Step::Network => world.core.try_again(now),
            Step::Stranger(n) => world.core.stranger(now, &content(*n)),
            Step::Answer(which, kind) if !under_way.is_empty() => {
                let ask = under_way.remove(usize::from(*which) % under_way.len());
                match kind {
                    0 => _ = world.core.handle(now, ask.question, Err("no".to_owned())),
                    1 => _ = world.core.handle(now, ask.question, status(503)),
                    _ => _ = world.answer(&ask),
                }
            }
            Step::Garbage(code, bytes) if !under_way.is_empty() => {
                let ask = under_way.remove(0);
                let reply = Reply {
                    status: *code,
                    media_type: Some("application/json".to_owned()),
                    max_age: Some(Duration::from_secs(u64::MAX)),
                    retry_after: Some(Duration::from_secs(3600)),
                    body: bytes.clone(),
                };
                world.core.handle(now, ask.question, Ok(reply));
            }
            Step::Answer(..) | Step::Garbage(..) => {}
        }
        under_way.extend(world.poll());
        assert!(under_way.len() <= QUESTIONS_MAX);
        world.core.status(world.now);
    }
    // Services that answer again make everything well in the end.
    for ask in std::mem::take(&mut under_way) {
        world.answer(&ask);
    }
    for (n, wait) in waits.iter().enumerate() {
        (0..*wait).for_each(|_| world.core.unwant_policy(&key(&format!("http://a/{n}"))));
    }
    for _ in 0..2000 {
        world.settle();
        match world.core.timeout(world.now) {
            Some(at) if at < start + Duration::from_secs(40 * 3600) => world.now = at,
            _ => break,
        }
    }
    let status = world.core.status(world.now);
    assert_eq!(status.joined, status.members);
    world.asked
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_comes_nothing_spins_and_all_is_joined_in_the_end(steps in steps()) {
        let asked = play(&steps);
        let again = play(&steps);
        let questions = |asked: &[Ask]| asked.iter().map(|ask| (ask.url.clone(), ask.body.clone())).collect::<Vec<_>>();
        prop_assert_eq!(questions(&asked), questions(&again));
    }
}
