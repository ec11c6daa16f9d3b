use super::*;
use dosvc_content::HashOfHashes;
use proptest::prelude::*;

fn label(n: u8) -> Label {
    Label::of(&HashOfHashes::from([n; 32]), None)
}

fn peer(n: u8) -> PeerId {
    PeerId::from_random([n; 16])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn read_query(bytes: &[u8]) -> Query {
    match read(bytes) {
        Ok(Some(Packet::Query(query))) => query,
        other => panic!("{other:?}"),
    }
}

fn read_response(bytes: &[u8]) -> Response {
    match read(bytes) {
        Ok(Some(Packet::Response(response))) => response,
        other => panic!("{other:?}"),
    }
}

const ADDRS: [&str; 2] = ["192.0.2.1", "fe80::1"];

fn addrs() -> Vec<IpAddr> {
    ADDRS.iter().map(|a| a.parse().unwrap()).collect()
}

fn us(addrs: &[IpAddr]) -> Us<'_> {
    Us {
        peer: peer(0xab),
        port: 7680,
        addrs,
    }
}

/// Bytes that other versions of this program send and expect.
#[test]
fn packets_are_these_bytes() {
    let known = Holder {
        label: label(1),
        peer: peer(2),
        ttl_s: 100,
    };
    let packets = query(label(1), &[], &[known]);
    assert_eq!(packets.len(), 1);
    assert_eq!(
        hex(&packets[0]),
        concat!(
            "000000000001000100000000215f6235333431376364333964616566323334623333656233326263396163653165045f7375",
            "62065f646f737663045f746370056c6f63616c00000c0001c00c000c000100000064002b2830323032303230323032303234",
            "323032383230323032303230323032303230323030303030303030c033",
        )
    );
    assert_eq!(
        hex(&response(us(&addrs()), &[Subject::Content(label(1))])),
        concat!(
            "000084000000000100000004215f6235333431376364333964616566323334623333656233326263396163653165045f7375",
            "62065f646f737663045f746370056c6f63616c00000c000100000078002b2861626162616261626162616234626162616261",
            "626162616261626162616261623030303030303030c033c05000218001000000780036000000001e00286162616261626162",
            "6162616234626162616261626162616261626162616261623030303030303030056c6f63616c00c050001080010000007800",
            "1609747874766572733d310b70726f746f766572733d31c08d00018001000000780004c0000201c08d001c80010000007800",
            "10fe800000000000000000000000000001",
        )
    );
    assert_eq!(
        hex(&goodbye(us(&[]), &[label(1)], true)),
        concat!(
            "000084000000000300000000215f6235333431376364333964616566323334623333656233326263396163653165045f7375",
            "62065f646f737663045f746370056c6f63616c00000c000100000000002b2861626162616261626162616234626162616261",
            "626162616261626162616261623030303030303030c033c05000218001000000000036000000001e00286162616261626162",
            "6162616234626162616261626162616261626162616261623030303030303030056c6f63616c00c050001080010000000000",
            "1609747874766572733d310b70726f746f766572733d31",
        )
    );
}

#[test]
fn queries_read_back() {
    let known: Vec<Holder> = (0..3)
        .map(|n| Holder {
            label: label(1),
            peer: peer(n),
            ttl_s: 60 + u32::from(n),
        })
        .collect();
    let packets = query(label(1), &[peer(9)], &known);
    assert_eq!(packets.len(), 1);
    let read = read_query(&packets[0]);
    let subjects: Vec<_> = read.questions.iter().map(|q| q.subject).collect();
    assert_eq!(
        subjects,
        [
            Subject::Content(label(1)),
            Subject::Instance(peer(9)),
            Subject::Host(peer(9)),
        ]
    );
    assert!(read.questions.iter().all(|q| !q.unicast));
    assert_eq!(read.known, known);
    assert!(!read.truncated);
    assert_eq!(read.id, 0);
}

#[test]
fn known_answers_that_do_not_fit_follow_in_further_packets() {
    let known: Vec<Holder> = (0..64)
        .map(|n| Holder {
            label: label(1),
            peer: peer(n),
            ttl_s: 100,
        })
        .collect();
    let unresolved: Vec<PeerId> = (100..104).map(peer).collect();
    let packets = query(label(1), &unresolved, &known);
    assert!(packets.iter().all(|p| p.len() <= SENT_BYTES_MAX));
    let read: Vec<Query> = packets.iter().map(|p| read_query(p)).collect();
    let (last, rest) = read.split_last().unwrap();
    assert!(!last.truncated && rest.iter().all(|q| q.truncated));
    assert_eq!(read.iter().filter(|q| !q.questions.is_empty()).count(), 1);
    let all: Vec<Holder> = read.iter().flat_map(|q| q.known.clone()).collect();
    assert_eq!(all, known);
}

#[test]
fn one_response_has_all_that_is_needed_to_connect() {
    let read = read_response(&response(us(&addrs()), &[Subject::Content(label(1))]));
    let peer = peer(0xab);
    let label = label(1);
    let ttl_s = 120;
    assert_eq!(read.holders, [Holder { label, peer, ttl_s }]);
    let port = 7680;
    assert_eq!(read.services, [Service { peer, port, ttl_s }]);
    let addresses: Vec<IpAddr> = read.addresses.iter().map(|a| a.ip).collect();
    assert_eq!(addresses, addrs());
}

#[test]
fn a_full_response_fits_a_frame() {
    let subjects: Vec<Subject> = (0..LABELS_PER_PACKET_MAX)
        .map(|n| Subject::Content(label(u8::try_from(n).unwrap())))
        .collect();
    let addrs: Vec<IpAddr> = (0..crate::limits::OWN_ADDRS_MAX)
        .map(|n| format!("2001:db8::{n}").parse().unwrap())
        .collect();
    let bytes = response(us(&addrs), &subjects);
    assert!(bytes.len() <= SENT_BYTES_MAX, "{}", bytes.len());
    let labels: Vec<Label> = (0..LABELS_PER_PACKET_MAX)
        .map(|n| label(u8::try_from(n).unwrap()))
        .collect();
    let bytes = goodbye(us(&[]), &labels, true);
    assert!(bytes.len() <= SENT_BYTES_MAX, "{}", bytes.len());
}

#[test]
fn browsers_of_services_are_answered_in_their_way() {
    let records = |subject| {
        let bytes = response(us(&addrs()), &[subject]);
        let message = Message::from_vec(&bytes).unwrap();
        let types = |records: &[Record]| -> Vec<RecordType> {
            records.iter().map(Record::record_type).collect()
        };
        (types(&message.answers), types(&message.additionals))
    };
    use RecordType::{A, AAAA, PTR, SRV, TXT};
    assert_eq!(
        records(Subject::Service),
        (vec![PTR], vec![SRV, TXT, A, AAAA])
    );
    assert_eq!(
        records(Subject::Instance(peer(0xab))),
        (vec![SRV, TXT], vec![A, AAAA])
    );
    assert_eq!(records(Subject::Host(peer(0xab))), (vec![A, AAAA], vec![]));
}

#[test]
fn legacy_resolvers_get_their_id_and_question_back_and_short_lives() {
    let question = Question {
        subject: Subject::Content(label(1)),
        record_type: RecordType::PTR,
        unicast: false,
    };
    let bytes = legacy_response(us(&addrs()), 4711, &[question]);
    let message = Message::from_vec(&bytes).unwrap();
    assert_eq!(message.id, 4711);
    assert_eq!(message.queries.len(), 1);
    for record in message.all_sections() {
        assert!(record.ttl <= 10 && !record.mdns_cache_flush, "{record}");
    }
}

#[test]
fn goodbyes_have_no_time_to_live() {
    let read = read_response(&goodbye(us(&[]), &[label(1), label(2)], true));
    assert_eq!(read.holders.len(), 2);
    assert!(read.holders.iter().all(|h| h.ttl_s == 0));
    assert_eq!(read.services.len(), 1);
    assert_eq!(read.services[0].ttl_s, 0);
}

#[test]
fn a_service_on_another_host_or_without_port_is_skipped() {
    let name = Subject::Instance(peer(1)).name();
    for (port, target) in [
        (7680, Subject::Host(peer(2)).name()),
        (7680, Name::from_ascii("router.local.").unwrap()),
        (0, Subject::Host(peer(1)).name()),
    ] {
        let mut message = Message::response(0, OpCode::Query);
        let srv = SRV::new(0, 0, port, target);
        message.add_answer(record(name.clone(), RData::SRV(srv)));
        assert_eq!(read_response(&encode(&message)), Response::default());
    }
}

#[test]
fn other_operations_errors_and_classes_are_ignored() {
    let mut message = Message::response(0, OpCode::Query);
    message.metadata.response_code = ResponseCode::ServFail;
    assert!(matches!(read(&encode(&message)), Ok(None)));
    let message = Message::new(0, MessageType::Query, OpCode::Notify);
    assert!(matches!(read(&encode(&message)), Ok(None)));
    let mut message = Message::response(0, OpCode::Query);
    let mut other = pointer(label(1), peer(1), 120);
    other.dns_class = DNSClass::CH;
    message.add_answer(other);
    assert_eq!(read_response(&encode(&message)), Response::default());
}

/// A header alone may claim 65535 questions: it is refused before anything is reserved for them.
#[test]
fn counts_beyond_the_limits_are_refused() {
    let mut bytes = vec![0; 12];
    bytes[4..6].copy_from_slice(&[0xff, 0xff]);
    assert!(matches!(read(&bytes), Err(PacketError::TooMany { .. })));
    let mut bytes = vec![0; 12];
    bytes[2] = 0x84;
    bytes[6..8].copy_from_slice(&257u16.to_be_bytes());
    assert!(matches!(read(&bytes), Err(PacketError::TooMany { .. })));
    assert!(matches!(
        read(&vec![0; PACKET_BYTES_MAX + 1]),
        Err(PacketError::TooLong(_))
    ));
}

#[test]
fn names_that_point_in_circles_are_refused() {
    // One question; its name is a pointer to itself, then one forward, then two that point at each other.
    for name in [
        &[0xc0, 0x0c][..],
        &[0xc0, 0x0e, 0xc0, 0x0c],
        &[0x01, b'a', 0xc0, 0x0c],
        &[0xc0, 0x10, 0x01, b'a', 0xc0, 0x0c],
    ] {
        let mut bytes = vec![0; 12];
        bytes[5] = 1;
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(&[0, 12, 0, 1]);
        assert!(
            matches!(read(&bytes), Err(PacketError::Malformed(_))),
            "{name:?}"
        );
    }
}

#[test]
fn a_packet_cut_anywhere_is_refused_or_says_less() {
    let whole = response(us(&addrs()), &[Subject::Content(label(1))]);
    for length in 0..whole.len() {
        assert!(read(&whole[..length]).is_err(), "{length}");
    }
}

#[test]
fn only_packets_with_our_names_concern_us() {
    let peer = peer(0xab);
    let host = peer.to_string();
    for subject in [
        Subject::Content(label(1)),
        Subject::Service,
        Subject::ServiceTypes,
        Subject::Instance(peer),
        Subject::Host(peer),
    ] {
        let mut message = Message::new(0, MessageType::Query, OpCode::Query);
        message.add_query(DnsQuery::query(subject.name(), RecordType::ANY));
        assert!(concerns(&encode(&message), &host), "{subject:?}");
        assert!(concerns(&encode(&message).to_ascii_uppercase(), &host));
    }
    let mut message = Message::new(0, MessageType::Query, OpCode::Query);
    let name = Name::from_ascii("_ipp._tcp.local.").unwrap();
    message.add_query(DnsQuery::query(name, RecordType::PTR));
    assert!(!concerns(&encode(&message), &host));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = read(&bytes);
        let _ = concerns(&bytes, &peer(1).to_string());
    }

    /// Few random bytes get past the header, so valid packets are damaged.
    #[test]
    fn damaged_packets_are_read_or_refused(
        which in 0..3,
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let known = Holder { label: label(1), peer: peer(2), ttl_s: 100 };
        let mut bytes = match which {
            0 => query(label(1), &[peer(3)], &[known]).remove(0),
            1 => response(us(&addrs()), &[Subject::Content(label(1)), Subject::Service]),
            _ => goodbye(us(&[]), &[label(1)], true),
        };
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = read(&bytes);
    }
}
