//! Every vector of `teredo-vectors.json`: parsed with the fields that it states, or refused. (What parses but must be
//! dropped by a role is in the tests of that role.)
#![expect(clippy::unwrap_used, reason = "tests")]

use dosvc_nat::teredo::{
    Datagram, Discovery, Secret, TeredoAddress, Trailer,
    icmp::{self, RouterAdvertisement, RouterSolicitation},
};
use serde_json::{Value, json};
use std::net::SocketAddrV4;

fn vectors() -> Value {
    serde_json::from_str(include_str!("teredo-vectors.json")).unwrap()
}

fn bytes(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A trailer as the vectors have it.
fn trailer(bytes: &[u8], trailer: Trailer) -> Value {
    match trailer {
        Trailer::Nonce(nonce) => json!({"type": 1, "nonce": hex(&nonce)}),
        Trailer::AlternateAddress(all) => json!({"type": 3, "addresses": all.as_slice()
            .iter().map(ToString::to_string).collect::<Vec<_>>()}),
        Trailer::NeighborDiscovery(what) => {
            json!({"type": 4, "discovery_type": u8::from(what == Discovery::Advertisement)})
        }
        // Both types are read as the same; which one it was is in the bytes, four from the end.
        Trailer::RandomPort(port) => json!({"type": bytes[bytes.len() - 4], "port": port}),
        Trailer::Unknown(kind) => json!({"type": kind, "skipped": true}),
        other => panic!("{other:?} in a valid vector"),
    }
}

/// A datagram as the vectors have it.
fn described(bytes: &[u8]) -> Value {
    let datagram = Datagram::parse(bytes).unwrap();
    let packet = datagram.packet;
    let mut ipv6 = json!({
        "src": packet.source().to_string(),
        "dst": packet.destination().to_string(),
        "next_header": packet.next_header(),
        "payload_length": packet.payload().len(),
        "hop_limit": packet.hop_limit(),
    });
    if packet.next_header() == icmp::ICMPV6 {
        ipv6["icmp_type"] = icmp::parse(packet).expect("the checksum is right").0.into();
    }
    if let Some(said) = RouterAdvertisement::parse(packet) {
        let prefix = TeredoAddress::new(said.server, SocketAddrV4::new([255; 4].into(), 65_535), 0);
        ipv6["prefix"] = format!("{prefix}/64").into();
        ipv6["mtu"] = said.mtu.into();
    }
    let mut all = json!({
        "auth": datagram.authentication.map(|said| json!({
            "client_id": hex(said.client_id),
            "auth_value": hex(said.value),
            "nonce": hex(&said.nonce),
            "confirmation": said.confirmation,
        })),
        "origin": datagram.origin.map(|origin| json!({"ip": origin.ip().to_string(), "port": origin.port()})),
        "trailers": datagram.trailers.map(|t| trailer(bytes, t)).collect::<Vec<_>>(),
        "ipv6": ipv6,
    });
    if packet.is_bubble() {
        all["bubble"] = true.into();
    }
    all
}

#[test]
fn valid_ones_have_the_fields_that_they_state() {
    let mut count = 0;
    for vector in vectors()["vectors"].as_array().unwrap() {
        if vector["kind"] != "valid" {
            continue;
        }
        let bytes = bytes(&vector["hex"]);
        let mut expected = vector["expect"].clone();
        let mut found = described(&bytes);
        // Where the MTU is not said, 1280 is assumed.
        if expected["ipv6"]["prefix"].is_string() && expected["ipv6"]["mtu"].is_null() {
            assert_eq!(found["ipv6"]["mtu"], 1280);
            found["ipv6"].as_object_mut().unwrap().remove("mtu");
        }
        if expected["bubble"] == false {
            expected.as_object_mut().unwrap().remove("bubble");
        }
        assert_eq!(found, expected, "{}", vector["name"]);
        count += 1;
    }
    assert_eq!(count, 27);
}

#[test]
fn malformed_ones_are_refused() {
    let mut count = 0;
    for vector in vectors()["vectors"].as_array().unwrap() {
        let parsed = Datagram::parse(&bytes(&vector["hex"])).map(|_| ()).ok();
        let refused = vector["kind"] == "malformed";
        assert_eq!(parsed.is_none(), refused, "{}", vector["name"]);
        count += usize::from(refused);
    }
    assert_eq!(count, 11);
}

#[test]
fn addresses_are_composed_and_read() {
    for vector in vectors()["addresses"].as_array().unwrap() {
        let text = |key: &str| vector[key].as_str().unwrap();
        let address = TeredoAddress::from_ipv6(text("address").parse().unwrap()).unwrap();
        let port = u16::try_from(vector["mapped_port"].as_u64().unwrap()).unwrap();
        let mapped = SocketAddrV4::new(text("mapped_ip").parse().unwrap(), port);
        assert_eq!(address.mapped(), mapped);
        assert_eq!(address.server().to_string(), text("server"));
        assert_eq!(format!("{:#06x}", address.flags()), text("flags"));
        let composed = TeredoAddress::new(address.server(), mapped, address.flags());
        // The cone bit is read, never composed.
        assert_eq!(composed == address, address.flags() & 0x8000 == 0);
        assert_eq!(address.to_string(), text("address"));
    }
}

#[test]
fn secrets_verify_and_sign_as_stated() {
    let all = vectors();
    let named = |name: &str| {
        let all = all["vectors"].as_array().unwrap();
        bytes(&all.iter().find(|vector| vector["name"] == name).unwrap()["hex"])
    };
    let key = bytes(&all["constants"]["hmac_secret_hex"]);
    let secret = Secret::new(b"client-1", &key).unwrap();
    for name in ["rs-secure-hmac-sha1", "ra-secure-hmac-sha1"] {
        assert!(
            secret.verifies(&Datagram::parse(&named(name)).unwrap()),
            "{name}"
        );
    }
    for name in ["ra-bad-hmac", "ra-auth-origin", "bubble-indirect"] {
        assert!(
            !secret.verifies(&Datagram::parse(&named(name)).unwrap()),
            "{name}"
        );
    }
    let nonce = [1, 2, 3, 4, 5, 6, 7, 8];
    let solicitation = RouterSolicitation {
        source: icmp::SOLICITING,
    };
    assert_eq!(
        solicitation.encode(nonce, Some(&secret)),
        named("rs-secure-hmac-sha1")
    );
    assert_eq!(solicitation.encode(nonce, None), named("rs-auth-nonce"));
    let advertisement = RouterAdvertisement {
        destination: "fe80::ffff:ffff:ffff".parse().unwrap(),
        server: "198.51.100.10".parse().unwrap(),
        mtu: 1280,
    };
    let origin = "203.0.113.10:3545".parse().unwrap();
    let nonce = [0x17, 0xa6, 0x87, 0xa1, 0xe3, 0xd6, 0x3e, 0x91];
    assert_eq!(
        advertisement.encode(Some(nonce), origin, None),
        named("miredo-ra")
    );
}
