use super::*;
use crate::{
    link::tests::link,
    packet::{Packet, Response},
};
use dosvc_content::HashOfHashes;
use hickory_proto::rr::RecordType;

const MS: Duration = Duration::from_millis(1);
const PORT: u16 = 5353;

fn label(n: u32) -> Label {
    let mut hash = [0; 32];
    hash[..4].copy_from_slice(&n.to_be_bytes());
    Label::of(&HashOfHashes::from(hash), None)
}

fn peer(n: u8) -> PeerId {
    PeerId::from_random([n; 16])
}

fn eth() -> Link {
    link(2, false, &[("192.0.2.1", 24), ("fe80::1", 64)])
}

fn asker(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], PORT))
}

fn responder() -> Responder {
    Responder::new(peer(1), 7680, PORT, Random::new(7))
}

fn ask(label: Label) -> Query {
    question(Subject::Content(label), false)
}

fn question(subject: Subject, unicast: bool) -> Query {
    Query {
        questions: vec![Question {
            subject,
            record_type: RecordType::ANY,
            unicast,
        }],
        ..Query::default()
    }
}

fn known(label: Label, peer: PeerId, ttl_s: u32) -> Holder {
    Holder { label, peer, ttl_s }
}

fn read(packet: &Transmit) -> Response {
    match packet::read(&packet.bytes) {
        Ok(Some(Packet::Response(response))) => response,
        other => panic!("{other:?}"),
    }
}

/// The labels that are named in what is sent until `end`, with the time in ms.
fn sent_until(responder: &mut Responder, start: Instant, end: Duration) -> Vec<(u128, Label)> {
    let links = [eth()];
    let mut sent = Vec::new();
    while let Some(at) = responder.timeout().filter(|at| *at <= start + end) {
        for packet in responder.poll(at, &links) {
            for holder in read(&packet).holders {
                sent.push(((at - start).as_millis(), holder.label));
            }
        }
    }
    sent
}

#[test]
fn a_held_content_is_answered_to_the_link_after_20_to_120_ms() {
    let start = Instant::now();
    let mut responder = responder();
    responder.announce(start, label(1), false);
    assert_eq!(responder.timeout(), None, "holding sends nothing");
    assert!(responder.handle_query(start, eth().id, asker(9), ask(label(1))));
    let due = responder.timeout().unwrap();
    assert!((start + 20 * MS..=start + 120 * MS).contains(&due));
    assert_eq!(responder.poll(due - MS, &[eth()]), []);
    let sent = responder.poll(due, &[eth()]);
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].to.to_string(), "224.0.0.251:5353");
    let response = read(&sent[0]);
    assert_eq!(response.holders, [known(label(1), peer(1), 120)]);
    assert_eq!(response.addresses.len(), 2);
    assert_eq!(responder.timeout(), None);
}

#[test]
fn what_is_not_held_is_not_answered() {
    let start = Instant::now();
    let mut responder = responder();
    responder.announce(start, label(1), false);
    assert!(!responder.handle_query(start, eth().id, asker(9), ask(label(2))));
    let other = question(Subject::Instance(peer(2)), false);
    assert!(!responder.handle_query(start, eth().id, asker(9), other));
    assert_eq!(responder.timeout(), None);
}

#[test]
fn who_holds_nothing_does_not_even_say_that_the_service_is_there() {
    let mut responder = responder();
    for subject in [
        Subject::Service,
        Subject::ServiceTypes,
        Subject::Instance(peer(1)),
        Subject::Host(peer(1)),
    ] {
        let query = question(subject, false);
        assert!(!responder.handle_query(Instant::now(), eth().id, asker(9), query));
    }
}

#[test]
fn what_only_we_can_answer_is_answered_at_once() {
    let start = Instant::now();
    let mut responder = responder();
    responder.announce(start, label(1), false);
    let query = question(Subject::Instance(peer(1)), false);
    responder.handle_query(start, eth().id, asker(9), query);
    assert_eq!(responder.timeout(), Some(start));
}

#[test]
fn who_knows_us_well_enough_is_not_told_again() {
    let start = Instant::now();
    for (ttl_s, answered) in [(120, false), (60, false), (59, true)] {
        let mut responder = responder();
        responder.announce(start, label(1), false);
        let query = Query {
            known: vec![known(label(1), peer(1), ttl_s)],
            ..ask(label(1))
        };
        let waits = responder.handle_query(start, eth().id, asker(9), query);
        assert_eq!(waits, answered, "{ttl_s}");
    }
}

#[test]
fn known_answers_that_come_late_take_the_answer_back_unless_another_wants_it() {
    let start = Instant::now();
    for another in [false, true] {
        let mut responder = responder();
        responder.announce(start, label(1), false);
        let query = Query {
            truncated: true,
            ..ask(label(1))
        };
        responder.handle_query(start, eth().id, asker(9), query);
        let due = responder.timeout().unwrap();
        assert!((start + 400 * MS..=start + 500 * MS).contains(&due));
        if another {
            responder.handle_query(start + MS, eth().id, asker(8), ask(label(1)));
        }
        let rest = Query {
            known: vec![known(label(1), peer(1), 100)],
            ..Query::default()
        };
        responder.handle_query(start + 10 * MS, eth().id, asker(9), rest);
        let sent = sent_until(&mut responder, start, Duration::from_secs(1));
        assert_eq!(sent.len(), usize::from(another));
    }
}

#[test]
fn a_record_is_multicast_once_a_second_and_then_for_all_that_asked() {
    let start = Instant::now();
    let mut responder = responder();
    responder.announce(start, label(1), false);
    responder.handle_query(start, eth().id, asker(9), ask(label(1)));
    let first = sent_until(&mut responder, start, 200 * MS)[0].0;
    for n in 10..20 {
        let now = start + 300 * MS;
        responder.handle_query(now, eth().id, asker(n), ask(label(1)));
    }
    let sent = sent_until(&mut responder, start, Duration::from_secs(5));
    assert_eq!(sent, [(first + 1000, label(1))]);
}

#[test]
fn another_interface_has_its_own_second() {
    let start = Instant::now();
    let mut responder = responder();
    let links = [eth(), link(3, false, &[("198.51.100.1", 24)])];
    responder.announce(start, label(1), false);
    for link in &links {
        responder.handle_query(start, link.id, asker(9), ask(label(1)));
    }
    let sent = responder.poll(start + 120 * MS, &links);
    assert_eq!(sent.len(), 2);
    for packet in sent {
        let link = links.iter().find(|l| l.id == packet.link).unwrap();
        let named: Vec<IpAddr> = read(&packet).addresses.iter().map(|a| a.ip).collect();
        assert_eq!(named, own_addrs(link), "each link hears its own addresses");
    }
}

#[test]
fn questions_at_the_same_time_are_answered_in_one_packet() {
    let start = Instant::now();
    let mut responder = responder();
    for n in 0..5 {
        responder.announce(start, label(n), false);
    }
    let mut query = ask(label(0));
    query.questions = (0..5).flat_map(|n| ask(label(n)).questions).collect();
    responder.handle_query(start, eth().id, asker(9), query);
    let sent = responder.poll(start + 120 * MS, &[eth()]);
    assert_eq!(sent.len(), 1);
    assert_eq!(read(&sent[0]).holders.len(), 5);
}

#[test]
fn who_wants_the_answer_alone_gets_it_alone() {
    let start = Instant::now();
    let mut responder = responder();
    responder.announce(start, label(1), false);
    let query = question(Subject::Content(label(1)), true);
    responder.handle_query(start, eth().id, asker(9), query);
    let sent = responder.poll(start + 120 * MS, &[eth()]);
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].to, asker(9));
}

#[test]
fn an_asker_on_another_port_gets_an_answer_it_understands() {
    let start = Instant::now();
    let mut responder = responder();
    responder.announce(start, label(1), false);
    let from = SocketAddr::from(([192, 0, 2, 9], 40_000));
    let query = Query {
        id: 99,
        ..ask(label(1))
    };
    responder.handle_query(start, eth().id, from, query);
    let sent = responder.poll(start + 120 * MS, &[eth()]);
    assert_eq!(sent[0].to, from);
    assert_eq!(sent[0].bytes[..2], [0, 99]);
    assert_eq!(read(&sent[0]).holders, [known(label(1), peer(1), 10)]);
}

#[test]
fn a_download_that_begins_is_announced_twice_a_second_apart_on_every_link() {
    let start = Instant::now();
    let mut responder = responder();
    let links = [eth(), link(2, true, &[("192.0.2.1", 24), ("fe80::1", 64)])];
    responder.announce(start, label(1), true);
    assert_eq!(responder.timeout(), Some(start));
    assert_eq!(responder.poll(start, &links).len(), 2);
    let again = responder.timeout().unwrap();
    assert_eq!(again, start + ANNOUNCE_GAP);
    let sent = responder.poll(again, &links);
    let to: Vec<String> = sent.iter().map(|p| p.to.to_string()).collect();
    assert_eq!(to, ["224.0.0.251:5353", "[ff02::fb%2]:5353"]);
    assert_eq!(responder.timeout(), None);
}

#[test]
fn goodbye_is_said_only_to_who_may_remember() {
    let start = Instant::now();
    let mut responder = responder();
    for n in 1..=3 {
        responder.announce(start, label(n), false);
    }
    responder.withdraw(start, label(1));
    assert!(!responder.has_goodbye(), "nobody has ever heard of it");
    responder.handle_query(start, eth().id, asker(9), ask(label(2)));
    responder.handle_query(start, eth().id, asker(9), ask(label(3)));
    responder.poll(start + 120 * MS, &[eth()]);
    responder.withdraw(start + 119 * Duration::from_secs(1), label(2));
    let sent = responder.poll(start + 119 * Duration::from_secs(1), &[eth()]);
    assert_eq!(read(&sent[0]).holders, [known(label(2), peer(1), 0)]);
    responder.withdraw(start + 121 * Duration::from_secs(1), label(3));
    assert!(!responder.has_goodbye(), "its time to live is over");
    assert!(!responder.is_active());
}

#[test]
fn a_withdrawn_content_is_not_answered_even_if_asked_before() {
    let start = Instant::now();
    let mut responder = responder();
    responder.announce(start, label(1), false);
    responder.handle_query(start, eth().id, asker(9), ask(label(1)));
    responder.withdraw(start + MS, label(1));
    assert_eq!(responder.poll(start + 120 * MS, &[eth()]), []);
}

#[test]
fn leaving_takes_the_instance_back_in_one_packet_and_is_silent_if_nobody_knows() {
    let start = Instant::now();
    let mut silent = responder();
    silent.announce(start, label(1), false);
    silent.leave(start);
    assert!(!silent.has_goodbye() && !silent.is_active());

    let mut responder = responder();
    for n in 0..100 {
        responder.announce(start, label(n), true);
    }
    let announced = responder.poll(start, &[eth()]);
    assert_eq!(announced.len(), 7, "16 contents a packet");
    responder.leave(start + MS);
    let sent = responder.poll(start + MS, &[eth()]);
    assert_eq!(sent.len(), 1);
    let goodbye = read(&sent[0]);
    assert_eq!(goodbye.services[0].ttl_s, 0);
    assert!(goodbye.holders.iter().all(|h| h.ttl_s == 0));
    assert!(!responder.is_active());
}

/// A thousand holders on one link: each waits 20 to 120 ms, and who has heard enough others keeps quiet.
#[test]
fn answers_of_enough_others_make_ours_needless() {
    let start = Instant::now();
    let mut responder = responder();
    responder.announce(start, label(1), false);
    responder.handle_query(start, eth().id, asker(9), ask(label(1)));
    for n in 2..2 + ANSWERS_ENOUGH - 1 {
        responder.handle_holders(eth().id, &[known(label(1), peer(n), 120)]);
    }
    assert!(responder.timeout().is_some());
    responder.handle_holders(eth().id, &[known(label(2), peer(99), 120)]);
    responder.handle_holders(eth().id, &[known(label(1), peer(99), 0)]);
    assert!(responder.timeout().is_some(), "another content, a goodbye");
    responder.handle_holders(eth().id, &[known(label(1), peer(98), 120)]);
    assert_eq!(responder.timeout(), None);
}

#[test]
fn a_flood_of_questions_gets_a_bounded_number_of_answers() {
    let start = Instant::now();
    let mut responder = responder();
    for n in 0..20_000 {
        responder.announce(start, label(n), false);
    }
    let links = [eth()];
    let (mut sent, mut bytes) = (0, 0);
    for n in 0..20_000u32 {
        let now = start + Duration::from_micros(500) * n;
        let query = question(Subject::Content(label(n)), n % 2 == 0);
        responder.handle_query(now, eth().id, asker(9), query);
        assert!(responder.pending.len() <= PENDING_MAX);
        for packet in responder.poll(now, &links) {
            sent += 1;
            bytes += packet.bytes.len();
        }
    }
    // 20 000 questions in ten seconds.
    assert!(sent <= 20 * 12, "{sent}");
    assert!(bytes <= sent * 1400, "{bytes}");
    assert!(responder.told.len() <= RECENT_MAX && responder.multicast.len() <= RECENT_MAX);
}

#[test]
fn the_same_seed_gives_the_same_delays() {
    let start = Instant::now();
    let delays = |seed| {
        let mut responder = Responder::new(peer(1), 7680, PORT, Random::new(seed));
        for n in 0..20 {
            responder.announce(start, label(n), false);
            responder.handle_query(start + MS * n, eth().id, asker(9), ask(label(n)));
        }
        sent_until(&mut responder, start, Duration::from_secs(1))
    };
    assert_eq!(delays(3), delays(3));
    assert_ne!(delays(3), delays(4));
}
