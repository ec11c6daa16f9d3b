//! What the array is told, and when.

use super::*;

#[test]
fn a_download_is_joined_at_once_with_what_is_known_of_it() {
    let mut world = World::new();
    world.announce(Announcement {
        url: Announcement::catalog_id(&"http://u:p@a.test/x?sig=1#f".parse().unwrap()),
        uploaded: 3,
        downloaded: 4,
        downloaded_cdn: 5,
        downloaded_doinc: 6,
        foreground: true,
        ..wanted(9)
    });
    let id = ContentId::derived(&content(9));
    assert_eq!(
        world.settle(),
        [
            Question::Geo,
            Question::KeyValue,
            Question::Discovery(content(9)),
            Question::Join(content(9), JoinEvent::Join)
        ]
    );
    assert_eq!(world.asked.last().unwrap().url, "http://a1.test/join/");
    let sent = world.join_sent();
    assert_eq!((sent.content_id, sent.peer_id), (id, peer(1)));
    assert_eq!(sent.alt_catalog_id.unwrap().as_str(), "http://a.test/x");
    assert_eq!((sent.scope, sent.group_id), (Scope::Group, Some(group(1))));
    assert_eq!(
        (sent.port, sent.left, sent.is_background),
        (7680, 100, false)
    );
    assert_eq!(sent.reported_ip, Some([10, 0, 1, 1].into()));
    assert_eq!(
        [
            sent.uploaded,
            sent.downloaded,
            sent.downloaded_cdn,
            sent.downloaded_doinc
        ],
        [3, 4, 5, 6]
    );
    assert_eq!(sent.token, None);
}

#[test]
fn the_array_says_when_to_come_again_and_knows_us_by_its_token() {
    let mut world = World::new();
    world.announce(wanted(1));
    world.settle();
    let first = world.now;
    let again = world.next();
    assert_eq!(
        again.question,
        Question::Join(content(1), JoinEvent::Update)
    );
    let waited = world.now - first;
    assert!((480..=600).contains(&waited.as_secs()), "{waited:?}");
    assert_eq!(
        world.join_sent().token,
        Some("00000000000000aa".parse().unwrap())
    );
    // An answer without a token: not listed, and the old one is shown again.
    world
        .core
        .handle(world.now, again.question, joined(None, &[], 600));
    assert!(
        !world
            .core
            .member_status(world.now, &content(1))
            .unwrap()
            .listed
    );
    world.next();
    assert_eq!(
        world.join_sent().token,
        Some("00000000000000aa".parse().unwrap())
    );
}

#[test]
fn peers_are_named_but_never_ourselves() {
    let mut world = World::new();
    world.announce(wanted(1));
    let mut found = None;
    while found.is_none() {
        let ask = world.poll().remove(0);
        found = world.answer(&ask);
    }
    let (of, peers) = found.unwrap();
    assert_eq!(of, content(1));
    let ids: Vec<PeerId> = peers.iter().map(|p| p.peer_id).collect();
    assert_eq!(ids, [peer(2)]);
}

#[test]
fn peers_of_the_lan_are_neighbours_for_two_joins() {
    let mut world = World::new();
    world.announce(wanted(1));
    world.settle();
    let address: IpAddr = [10, 0, 0, 2].into();
    assert!(!world.core.is_neighbour(world.now, address));
    let again = world.next();
    let Ok(mut lan) = joined(Some("00000000000000aa"), &[2], 600) else {
        unreachable!("it is an answer");
    };
    let text = String::from_utf8(lan.body).unwrap();
    lan.body = text
        .replace("\"Scope\":\"2\"", "\"Scope\":\"1\"")
        .into_bytes();
    world.core.handle(world.now, again.question, Ok(lan));
    assert!(world.core.is_neighbour(world.now, address));
    assert!(
        world
            .core
            .is_neighbour(world.now, "::ffff:10.0.0.2".parse().unwrap())
    );
    assert!(!world.core.is_neighbour(world.now, [10, 0, 0, 3].into()));
    let end = Duration::from_secs(1200);
    assert!(!world.core.is_neighbour(world.now + end, address));
    world.core.withdraw_all(world.now);
    assert!(!world.core.is_neighbour(world.now, address));
}

#[test]
fn what_matters_to_others_is_told_early_and_counters_are_not() {
    let change = |changed: Announcement| {
        let mut world = World::new();
        world.announce(wanted(1));
        world.settle();
        world.pass(Duration::from_secs(1));
        world.announce(changed);
        let wait = world.core.timeout(world.now).unwrap() - world.now;
        (wait, world)
    };
    let (wait, _) = change(Announcement {
        left: 50,
        downloaded: 50,
        ..wanted(1)
    });
    assert!(wait > Duration::from_secs(400), "{wait:?}");
    for changed in [
        Announcement {
            part: Part::Some,
            ..wanted(1)
        },
        Announcement {
            group: Some(group(2)),
            ..wanted(1)
        },
        Announcement {
            scope: Scope::Internet,
            group: None,
            ..wanted(1)
        },
        Announcement {
            restricted_upload: true,
            ..wanted(1)
        },
    ] {
        let (wait, mut world) = change(changed.clone());
        assert!(wait <= JOIN_GAP, "{changed:?}: {wait:?}");
        world.next();
        let sent = world.join_sent();
        assert_eq!((sent.scope, sent.group_id), (changed.scope, changed.group));
    }
}

#[test]
fn another_address_is_told_and_geo_asked_anew() {
    let mut world = World::new();
    world.announce(wanted(1));
    world.settle();
    world.pass(Duration::from_secs(60));
    world.core.set_device(world.now, device(2));
    world.now = world.core.timeout(world.now).unwrap();
    let questions = world.settle();
    assert!(questions.contains(&Question::Geo), "{questions:?}");
    assert_eq!(world.join_sent().reported_ip, Some([10, 0, 2, 1].into()));
    world.core.set_device(world.now, device(2));
    assert_eq!(world.settle(), []);
}

#[test]
fn nothing_is_joined_without_a_port() {
    let mut world = World::new();
    world.core.set_device(world.now, Device::default());
    world.announce(wanted(1));
    assert_eq!(world.core.timeout(world.now), None);
    assert_eq!(world.poll(), []);
}

#[test]
fn a_content_that_goes_is_left_with_its_token_once() {
    let mut world = World::new();
    world.announce(wanted(1));
    world.announce(wanted(2));
    world.core.withdraw(world.now, &content(2));
    world.settle();
    assert!(
        !world
            .asked
            .iter()
            .any(|ask| ask.question == Question::Discovery(content(2)))
    );
    world.core.withdraw(world.now, &content(1));
    let ask = world.poll().remove(0);
    assert_eq!(ask.question, Question::Join(content(1), JoinEvent::Leave));
    let sent = world.join_sent();
    assert_eq!(
        (sent.event, sent.group_id),
        (JoinEvent::Leave, Some(group(1)))
    );
    assert_eq!(sent.token, Some("00000000000000aa".parse().unwrap()));
    world
        .core
        .handle(world.now, ask.question, Err("gone".to_owned()));
    assert_eq!(world.core.timeout(world.now), None);
    assert_eq!(world.core.status(world.now).members, 0);
    // Nobody has heard it: the token is still ours.
    world.announce(wanted(1));
    world.settle();
    assert_eq!(
        world.join_sent().token,
        Some("00000000000000aa".parse().unwrap())
    );
}

#[test]
fn a_content_wanted_again_while_it_is_left_is_joined_again() {
    let mut world = World::new();
    world.announce(wanted(1));
    world.settle();
    world.core.withdraw(world.now, &content(1));
    let leave = world.poll().remove(0);
    world.announce(wanted(1));
    world.answer(&leave);
    assert_eq!(
        world.settle(),
        [Question::Join(content(1), JoinEvent::Join)]
    );
}

#[test]
fn a_search_alone_joins_and_leaves() {
    let mut world = World::new();
    world.core.begin_search(world.now, wanted(1));
    world.core.begin_search(world.now, wanted(1));
    assert!(
        world
            .settle()
            .contains(&Question::Join(content(1), JoinEvent::Join))
    );
    world.core.end_search(world.now, &content(1));
    assert_eq!(world.poll(), []);
    world.core.end_search(world.now, &content(1));
    assert_eq!(
        world.settle(),
        [Question::Join(content(1), JoinEvent::Leave)]
    );
}

#[test]
fn another_array_is_asked_after_a_failure_and_discovery_after_a_refusal() {
    let mut world = World::new();
    world.announce(wanted(1));
    for _ in 0..3 {
        let ask = world.poll().remove(0);
        world.answer(&ask);
    }
    let join = world.poll().remove(0);
    assert_eq!(join.url, "http://a1.test/join/");
    world
        .core
        .handle(world.now, join.question.clone(), Err("no route".to_owned()));
    let join = world.next();
    assert_eq!(join.url, "http://a2.test/join/");
    world.core.handle(world.now, join.question, status(410));
    assert_eq!(world.next().question, Question::Discovery(content(1)));
}

#[test]
fn a_stranger_brings_the_next_join_forward_but_not_often() {
    let mut world = World::new();
    world.announce(held(1));
    let mut joins = 0;
    for _ in 0..200 {
        world.now = world.core.timeout(world.now).unwrap();
        joins += world
            .settle()
            .iter()
            .filter(|q| matches!(q, Question::Join(..)))
            .count();
        if joins > 0 {
            break;
        }
    }
    let start = world.now;
    let mut early = 0;
    while world.now < start + Duration::from_secs(100) {
        world.pass(Duration::from_millis(100));
        world.core.stranger(world.now, &content(1));
        early += world.settle().len();
    }
    assert!((5..=11).contains(&early), "{early}");
}

/// What a daemon costs that holds much and does nothing.
#[test]
fn a_thousand_idle_contents_are_joined_one_after_the_other() {
    let mut world = World::new();
    let start = world.now;
    for n in 0..1000_u32 {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&n.to_be_bytes());
        world.announce(Announcement {
            content: hash.into(),
            ..held(0)
        });
    }
    let (mut wakes, mut joins) = (0, 0);
    let mut last: Option<Instant> = None;
    while world.now < start + Duration::from_secs(3600) {
        world.now = world.core.timeout(world.now).unwrap();
        wakes += 1;
        for question in world.settle() {
            if matches!(question, Question::Join(..)) {
                joins += 1;
                let since = last.replace(world.now).map(|last| world.now - last);
                assert!(
                    since.is_none_or(|since| since >= IDLE_JOIN_GAP),
                    "{since:?}"
                );
            }
        }
    }
    println!("{wakes} wake-ups by time, {joins} joins in an hour");
    assert!((1700..=1801).contains(&joins), "{joins}");
    assert!(wakes <= 3600, "{wakes}");
    let everybody = world.core.status(world.now);
    assert_eq!((everybody.joined, everybody.members), (1000, 1000));
    // A download does not wait for them.
    world.announce(wanted(200));
    assert!(
        world
            .settle()
            .contains(&Question::Join(content(200), JoinEvent::Join))
    );
}

/// Whatever is away: no content has a pace of its own.
#[test]
fn a_thousand_idle_contents_are_as_quiet_while_discovery_is_away() {
    let mut world = World::new();
    for n in 0..1000_u32 {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&n.to_be_bytes());
        world.announce(Announcement {
            content: hash.into(),
            ..held(0)
        });
    }
    let start = world.now;
    let mut asked = 0;
    while world.now < start + Duration::from_secs(600) {
        world.now = world.core.timeout(world.now).unwrap();
        for ask in world.poll() {
            asked += 1;
            match ask.question {
                Question::Discovery(_) => {
                    let away = Err("no route".to_owned());
                    world.core.handle(world.now, ask.question, away);
                }
                _ => _ = world.answer(&ask),
            }
        }
    }
    assert!(
        (200..=303).contains(&asked),
        "{asked} questions in ten minutes"
    );
}
