use super::*;
use proptest::prelude::*;

/// A join as it was recorded, with documentation addresses.
const RECORDED: &str = r#"{"ContentId":"DO-pnfBh6zEGx3sxf6WBId825S6VQpwJTWIaAWU-cBsHD0=","AltCatalogId":"http://a.example/x",
    "PeerId":"B3B1C2D45E6F4A7B8C9D0E1F2A3B4C5D00000000","ReportedIp":"10.0.0.5","SubnetMask":"255.255.255.0","Ipv6":"",
    "IsBackground":"1","ClientDialectVersionMajor":"10","ClientDialectVersionMinor":"1","ClientDialectVersionBuild":"0",
    "ClientDialectVersionRevision":"12","Uploaded":"0","Downloaded":"0","DownloadedCdn":"1048576","DownloadedDoinc":"0",
    "Left":"5000000","JoinRequestEvent":"1","RestrictedUpload":"0","PeersWanted":"255","GroupId":"","Scope":"1",
    "UploadedBPS":"0","DownloadedBPS":"0","Profile":"768","Seq":"0"}"#;

#[test]
fn recorded_join_is_read() {
    let join = JoinRequest::from_json(RECORDED.as_bytes()).unwrap();
    assert_eq!(
        join.peer_id.to_string(),
        "b3b1c2d45e6f4a7b8c9d0e1f2a3b4c5d00000000"
    );
    assert_eq!(join.reported_ip, Some([10, 0, 0, 5].into()));
    assert_eq!(
        (join.scope, join.event, join.port),
        (Scope::Lan, JoinEvent::Join, SWARM_PORT)
    );
    assert_eq!(
        (join.peers_wanted, join.left, join.downloaded_cdn),
        (255, 5_000_000, 1 << 20)
    );
    assert_eq!(
        (join.is_background, join.restricted_upload, join.group_id),
        (true, false, None)
    );
    assert_eq!(JoinRequest::from_json(&join.to_json()).unwrap(), join);
}

/// Every field that was recorded is written under its name, as text.
#[test]
fn recorded_fields_are_written_as_text() {
    let join = JoinRequest::from_json(RECORDED.as_bytes()).unwrap();
    let written: serde_json::Value = serde_json::from_slice(&join.to_json()).unwrap();
    let recorded: serde_json::Value = serde_json::from_str(RECORDED).unwrap();
    for (name, value) in recorded.as_object().unwrap() {
        let same = written[name]
            .as_str()
            .unwrap()
            .eq_ignore_ascii_case(value.as_str().unwrap());
        assert!(same, "{name}: {}", written[name]);
    }
}

#[test]
fn malformed_joins_are_refused() {
    let long = "x".repeat(JOIN_BYTES_MAX);
    for (from, to) in [
        (
            "\"ContentId\":\"DO-pnfBh6zEGx3sxf6WBId825S6VQpwJTWIaAWU-cBsHD0=\"",
            "\"ContentId\":\"\"",
        ),
        ("B3B1C2D45E", "Z3B1C2D45E"),
        ("B3B1C2D45E", ""),
        ("10.0.0.5", "10.0.0.256"),
        ("10.0.0.5", "0.0.0.0"),
        ("10.0.0.5", "224.0.0.1"),
        ("10.0.0.5", "255.255.255.255"),
        ("\"Ipv6\":\"\"", "\"Ipv6\":\"ff02::1\""),
        ("\"Ipv6\":\"\"", "\"TeredoIpv6\":\"2001:db8::1\""),
        ("\"Ipv6\":\"\"", "\"Port\":\"0\""),
        ("\"Ipv6\":\"\"", "\"Port\":\"65536\""),
        ("\"Ipv6\":\"\"", "\"Token\":\"12\""),
        ("\"IsBackground\":\"1\"", "\"IsBackground\":\"yes\""),
        ("\"5000000\"", "\"-1\""),
        ("\"5000000\"", "5000000"),
        ("\"5000000\"", "\"18446744073709551616\""),
        ("\"Scope\":\"1\"", "\"Scope\":\"99\""),
        ("\"Scope\":\"1\"", "\"Scope\":\"\""),
        ("\"Seq\":\"0\"", "\"Scope\":\"2\""),
        ("\"GroupId\":\"\"", "\"GroupId\":\"\\u0000\""),
        ("http://a.example/x", &long),
        ("{", "[{"),
    ] {
        let text = RECORDED.replacen(from, to, 1);
        assert_ne!(text, RECORDED);
        assert!(
            JoinRequest::from_json(text.as_bytes()).is_err(),
            "{from} → {to}"
        );
    }
    for cut in 0..RECORDED.len() {
        assert!(JoinRequest::from_json(&RECORDED.as_bytes()[..cut]).is_err());
    }
}

#[test]
fn more_peers_than_anybody_gets_may_be_wanted() {
    let text = RECORDED.replace("\"PeersWanted\":\"255\"", "\"PeersWanted\":\"70000\"");
    assert_eq!(
        JoinRequest::from_json(text.as_bytes())
            .unwrap()
            .peers_wanted,
        u16::MAX
    );
    let none = RECORDED.replace("\"PeersWanted\":\"255\"", "\"PeersWanted\":\"\"");
    assert_eq!(
        JoinRequest::from_json(none.as_bytes())
            .unwrap()
            .peers_wanted,
        255
    );
}

#[test]
fn group_may_come_as_hash_or_as_id() {
    let id = "b3b1c2d4-5e6f-4a7b-8c9d-0e1f2a3b4c5d";
    let hash = "f1wUYWDcIiHiqG8I3oGVvf5M2sifiOBuVBqt+Eo9Ako=";
    for text in [id, hash] {
        let text = RECORDED.replace("\"GroupId\":\"\"", &format!("\"GroupId\":\"{text}\""));
        let join = JoinRequest::from_json(text.as_bytes()).unwrap();
        assert_eq!(join.group_id.unwrap().to_string(), hash);
    }
}

#[test]
fn events_beyond_the_recorded_one() {
    for (number, event) in [
        ("0", JoinEvent::Update),
        ("2", JoinEvent::Leave),
        ("7", JoinEvent::Update),
        ("", JoinEvent::Join),
    ] {
        let text = RECORDED.replace(
            "\"JoinRequestEvent\":\"1\"",
            &format!("\"JoinRequestEvent\":\"{number}\""),
        );
        assert_eq!(
            JoinRequest::from_json(text.as_bytes()).unwrap().event,
            event,
            "{number}"
        );
    }
}

#[test]
fn joins_go_below_the_array() {
    for base in ["https://a.example/array/", "https://a.example/array"] {
        assert_eq!(
            join_url(&base.parse().unwrap()),
            "https://a.example/array/join/"
        );
    }
}

fn peer() -> ArrayPeer {
    ArrayPeer {
        peer_id: PeerId::from_random([1; 16]),
        scope: Scope::Group,
        lan_ip: Some([10, 0, 0, 5].into()),
        lan_ipv6: None,
        external_ip: Some([203, 0, 113, 7].into()),
        teredo_ipv6: None,
        port: 7680,
    }
}

#[test]
fn malformed_answers_are_refused() {
    let answer = JoinAnswer {
        peers: vec![peer()],
        next_join_seconds: 300,
        external_ip: [203, 0, 113, 9].into(),
        token: Some(JoinToken(0xab)),
    };
    let good = String::from_utf8(answer.to_json()).unwrap();
    assert_eq!(
        good,
        "{\"Peers\":[{\"PeerId\":\"0101010101014101810101010101010100000000\",\"Scope\":\"2\",\"LanIp\":\"10.0.0.5\",\
         \"ExternalIp\":\"203.0.113.7\",\"Port\":\"7680\"}],\"NextJoinSeconds\":\"300\",\"ExternalIp\":\"203.0.113.9\",\
         \"Token\":\"00000000000000ab\"}"
    );
    for (from, to) in [
        ("\"Port\":\"7680\"", "\"Port\":\"0\""),
        ("\"Port\":\"7680\"", "\"x\":\"\""),
        ("\"Scope\":\"2\"", "\"Scope\":\"0\""),
        ("\"LanIp\":\"10.0.0.5\",\"ExternalIp\":\"203.0.113.7\",", ""),
        ("203.0.113.9", "0.0.0.0"),
        ("\"300\"", "\"soon\""),
        ("00000000000000ab", "ab"),
        ("\"Peers\":[", "\"Peers\":[1,"),
    ] {
        let text = good.replacen(from, to, 1);
        assert_ne!(text, good);
        assert!(
            JoinAnswer::from_json(text.as_bytes()).is_err(),
            "{from} → {to}"
        );
    }
    let many = JoinAnswer {
        peers: vec![peer(); PEERS_MAX + 1],
        ..answer.clone()
    };
    assert!(JoinAnswer::from_json(&many.to_json()).is_err());
    // A service can't make a client call without a pause, or never again.
    for (seconds, clamped) in [(0, 10), (u32::MAX, 86_400)] {
        let text = JoinAnswer {
            next_join_seconds: seconds,
            ..answer.clone()
        }
        .to_json();
        assert_eq!(
            JoinAnswer::from_json(&text).unwrap().next_join_seconds,
            clamped
        );
    }
}

fn any_peer() -> impl Strategy<Value = ArrayPeer> {
    let id = any::<[u8; 20]>();
    let v4 = prop::option::of(1_u32..0xe000_0000);
    let v6 = prop::option::of(1_u128..u128::from(u64::MAX));
    let teredo = prop::option::of(any::<u64>());
    (id, 0_usize..3, v4, v6, teredo, 1_u16..).prop_map(|(id, scope, v4, v6, teredo, port)| {
        ArrayPeer {
            peer_id: id.into(),
            scope: Scope::ALL[scope],
            lan_ip: v4.map(Ipv4Addr::from),
            lan_ipv6: v6.map(Ipv6Addr::from),
            external_ip: Some([192, 0, 2, 1].into()),
            teredo_ipv6: teredo.map(|t| Ipv6Addr::from(0x2001_0000_u128 << 96 | u128::from(t))),
            port,
        }
    })
}

proptest! {
    #[test]
    fn answers_survive_being_written_and_read(
        peers in prop::collection::vec(any_peer(), 0..60),
        next in 10_u32..=86_400,
        token in prop::option::of(any::<u64>()),
    ) {
        let answer = JoinAnswer {
            peers,
            next_join_seconds: next,
            external_ip: [198, 51, 100, 1].into(),
            token: token.map(JoinToken),
        };
        prop_assert_eq!(JoinAnswer::from_json(&answer.to_json()).unwrap(), answer);
    }

    #[test]
    fn no_bytes_make_a_reader_fall_over(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = JoinRequest::from_json(&bytes);
        let _ = JoinAnswer::from_json(&bytes);
    }
}
