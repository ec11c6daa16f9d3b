use super::*;
use dosvc_content::{GroupHash, GroupId, PeerId};

const NOW: u64 = 1_800_000_000;
const LIFETIME: u64 = 24 * 3600;

fn group(name: &str) -> GroupHash {
    name.parse::<GroupId>().unwrap().hash()
}

fn peer(n: u8) -> PeerId {
    PeerId::from([n; 20])
}

struct Scene {
    authority: Authority,
    trust: Trust,
    key: DeviceKey,
}

impl Scene {
    fn new() -> Self {
        let authority = Authority::generate(NOW, [1; 8]).unwrap();
        Self {
            trust: Trust::from_pem(authority.certificate_pem().as_bytes()).unwrap(),
            key: DeviceKey::generate().unwrap(),
            authority,
        }
    }

    fn issue(&self, groups: &[GroupHash]) -> Vec<u8> {
        let request = Request::from_der(&self.key.request(&peer(1)).unwrap()).unwrap();
        assert_eq!(request.public_key(), self.key.public_key());
        let times = (NOW, LIFETIME);
        self.authority
            .issue(&request, &peer(1), groups, times, [7; 16])
            .unwrap()
    }
}

#[test]
fn a_certificate_says_who_and_of_which_groups_and_until_when() {
    let scene = Scene::new();
    let groups = [group("a"), group("b")];
    let certificate = scene.issue(&groups);
    let verified = scene.trust.verify(&certificate, NOW).unwrap();
    assert_eq!(
        verified,
        Verified {
            peer: peer(1),
            groups: groups.to_vec(),
            not_after: NOW + LIFETIME,
            public_key: scene.key.public_key(),
        }
    );
    let most: Vec<_> = (0..GROUPS_MAX).map(|n| group(&n.to_string())).collect();
    assert!(scene.issue(&most).len() <= CERTIFICATE_BYTES_MAX);
}

#[test]
fn membership_is_of_one_peer_one_group_one_message_and_one_time() {
    let scene = Scene::new();
    let certificate = scene.issue(&[group("a")]);
    let signature = scene.key.sign(b"message").unwrap();
    let check = |signature: &[u8], message: &[u8], p: u8, g: &str, now: u64| {
        let whose = (&peer(p), &group(g));
        scene
            .trust
            .verify_member((&certificate, signature), message, whose, now)
            .map(|verified| verified.not_after)
    };
    assert_eq!(
        check(&signature, b"message", 1, "a", NOW),
        Ok(NOW + LIFETIME)
    );
    let another = DeviceKey::generate().unwrap().sign(b"message").unwrap();
    for (signature, message, p, g, now, error) in [
        (
            &signature,
            &b"massage"[..],
            1,
            "a",
            NOW,
            CertificateError::Signature,
        ),
        (
            &another,
            b"message",
            1,
            "a",
            NOW,
            CertificateError::Signature,
        ),
        (
            &vec![],
            b"message",
            1,
            "a",
            NOW,
            CertificateError::Signature,
        ),
        (&signature, b"message", 2, "a", NOW, CertificateError::Peer),
        (&signature, b"message", 1, "b", NOW, CertificateError::Group),
        (
            &signature,
            b"message",
            1,
            "a",
            NOW + LIFETIME + 5,
            CertificateError::Expired(5),
        ),
        (
            &signature,
            b"message",
            1,
            "a",
            NOW - 605,
            CertificateError::NotYet(5),
        ),
    ] {
        assert_eq!(check(signature, message, p, g, now), Err(error));
    }
}

#[test]
fn others_authorities_do_not_count_and_several_may() {
    let (ours, theirs) = (Scene::new(), Scene::new());
    let certificate = theirs.issue(&[group("a")]);
    let found = ours.trust.verify(&certificate, NOW);
    assert_eq!(found, Err(CertificateError::Authority));
    let both = ours.authority.certificate_pem() + &theirs.authority.certificate_pem();
    let both = Trust::from_pem(both.as_bytes()).unwrap();
    assert!(both.verify(&certificate, NOW).is_ok());
    assert!(both.verify(&ours.issue(&[group("a")]), NOW).is_ok());
    assert!(Trust::from_pem(b"").is_err());
    let many = ours.authority.certificate_pem().repeat(AUTHORITIES_MAX + 1);
    assert!(Trust::from_pem(many.as_bytes()).is_err());
}

#[test]
fn a_device_can_issue_nothing() {
    let scene = Scene::new();
    let certificate = scene.issue(&[group("a")]);
    let pem = format!(
        "{}{}",
        pem::encode(&pem::Pem::new("CERTIFICATE", certificate)),
        scene.key.to_pem()
    );
    // Even one that takes itself for an authority.
    let rogue = Authority::from_pem(&pem).unwrap();
    let request = Request::from_der(&scene.key.request(&peer(2)).unwrap()).unwrap();
    let forged = rogue
        .issue(&request, &peer(2), &[group("a")], (NOW, LIFETIME), [8; 16])
        .unwrap();
    assert!(scene.trust.verify(&forged, NOW).is_err());
}

#[test]
fn the_authoritys_own_certificate_is_no_members() {
    let scene = Scene::new();
    let own = pem::parse(scene.authority.certificate_pem()).unwrap();
    assert!(scene.trust.verify(own.contents(), NOW).is_err());
}

#[test]
fn what_was_kept_is_the_same() {
    let scene = Scene::new();
    let authority = Authority::from_pem(&scene.authority.to_pem()).unwrap();
    assert_eq!(
        authority.certificate_pem(),
        scene.authority.certificate_pem()
    );
    let key = DeviceKey::from_pem(&scene.key.to_pem()).unwrap();
    assert_eq!(key.public_key(), scene.key.public_key());
    assert!(!scene.authority.certificate_pem().contains("PRIVATE"));
    assert!(Authority::from_pem(&scene.authority.certificate_pem()).is_err());
    assert!(DeviceKey::from_pem("nothing").is_err());
    assert_eq!(
        format!("{:?}{:?}", scene.key, authority),
        "DeviceKeyAuthority"
    );
}

#[test]
fn spoilt_requests_and_certificates_are_refused_whole() {
    let scene = Scene::new();
    let request = scene.key.request(&peer(1)).unwrap();
    let certificate = scene.issue(&[group("a")]);
    for at in 0..request.len() {
        let mut spoilt = request.clone();
        spoilt[at] ^= 0x11;
        // Of the outermost shell some bits mean nothing; what is signed can't be changed.
        let found = Request::from_der(&spoilt);
        assert!(
            !found.is_ok_and(|read| read.public_key() != scene.key.public_key()),
            "byte {at}"
        );
    }
    for at in 0..certificate.len() {
        let mut spoilt = certificate.clone();
        spoilt[at] ^= 0x11;
        assert!(scene.trust.verify(&spoilt, NOW).is_err(), "byte {at}");
        assert!(scene.trust.verify(&certificate[..at], NOW).is_err());
    }
    assert!(Request::from_der(&[0; REQUEST_BYTES_MAX + 1]).is_err());
    assert!(
        scene
            .trust
            .verify(&[0; CERTIFICATE_BYTES_MAX + 1], NOW)
            .is_err()
    );
    let parsed = Request::from_der(&request).unwrap();
    for groups in [vec![], vec![group("a"); GROUPS_MAX + 1]] {
        let times = (NOW, LIFETIME);
        let issued = scene
            .authority
            .issue(&parsed, &peer(1), &groups, times, [7; 16]);
        assert!(matches!(issued, Err(IssueError::Groups)));
    }
}
