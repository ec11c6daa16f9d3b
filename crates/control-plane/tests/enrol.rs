//! Enrolment as devices see it.

#![allow(clippy::unwrap_used, reason = "tests")]

use dosvc_cloud_protocol::{ENROL_BYTES_MAX, EnrolAnswer, EnrolRequest};
use dosvc_content::{GroupHash, PeerId};
use dosvc_control_plane::{Contents, ControlPlane, ControlPlaneConfig, open_authority};
use dosvc_membership::{DeviceKey, Trust};
use std::time::{SystemTime, UNIX_EPOCH};

struct Scene {
    contents: Contents,
    trust: Trust,
    plane: ControlPlane,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = ControlPlaneConfig {
            listen: vec![([127, 0, 0, 1], 0).into()],
            admin_listen: None,
            state_dir: folder.path().to_owned(),
            ..ControlPlaneConfig::default()
        };
        let authority = open_authority(&config.authority_file()).unwrap();
        Self {
            contents: Contents::open(folder.path()).await.unwrap(),
            trust: Trust::from_pem(authority.certificate_pem().as_bytes()).unwrap(),
            plane: ControlPlane::start(config).await.unwrap(),
            _folder: folder,
        }
    }

    async fn send(&self, body: Vec<u8>) -> (u16, Vec<u8>) {
        let url = format!("http://{}/enrol", self.plane.listening()[0]);
        let sent = reqwest::Client::new().post(url).body(body).send();
        let response = sent.await.unwrap();
        let status = response.status().as_u16();
        (status, response.bytes().await.unwrap().to_vec())
    }

    async fn ask(&self, key: &DeviceKey, peer: PeerId, token: Option<&str>) -> (u16, Vec<u8>) {
        let request = EnrolRequest {
            token: token.map(str::to_owned),
            peer_id: peer,
            request: key.request(&peer).unwrap(),
        };
        self.send(request.to_json()).await
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

#[tokio::test]
async fn a_device_gets_certificates_until_it_is_revoked() {
    let scene = Scene::new().await;
    let groups = [GroupHash::from([1; 32]), GroupHash::from([2; 32])];
    let made = scene.contents.add_enrolment("x", &groups, (None, None), 1);
    let token = made.await.unwrap();
    let (key, peer) = (DeviceKey::generate().unwrap(), PeerId::from([9; 20]));

    let (status, body) = scene.ask(&key, peer, None).await;
    assert_eq!(status, 403);
    assert_eq!(body, br#"{"error":"this device has not enrolled"}"#);
    for token in [Some(token.as_str()), None] {
        let (status, body) = scene.ask(&key, peer, token).await;
        assert_eq!(status, 200);
        let answer = EnrolAnswer::from_json(&body).unwrap();
        let verified = scene.trust.verify(&answer.certificate, now()).unwrap();
        assert_eq!(
            (verified.peer, verified.groups.as_slice()),
            (peer, &groups[..])
        );
        assert_eq!(verified.public_key, key.public_key());
        let left = verified.not_after - now();
        assert!((86_390..=86_400).contains(&left), "{left}");
        assert_eq!(answer.renew_in_seconds, 43_200);
    }
    // Another key does not become this device.
    let other = DeviceKey::generate().unwrap();
    for token in [Some(token.as_str()), None] {
        assert_eq!(scene.ask(&other, peer, token).await.0, 403);
    }
    assert!(scene.contents.revoke_device(&peer).await.unwrap());
    for token in [Some(token.as_str()), None] {
        let (status, body) = scene.ask(&key, peer, token).await;
        assert_eq!(status, 403);
        assert_eq!(body, br#"{"error":"this device has been revoked"}"#);
    }
}

#[tokio::test]
async fn requests_that_are_none_are_refused() {
    let scene = Scene::new().await;
    let key = DeviceKey::generate().unwrap();
    let peer = PeerId::from([9; 20]);
    assert_eq!(scene.ask(&key, peer, Some("guessed")).await.0, 403);
    let spoilt = EnrolRequest {
        token: None,
        peer_id: peer,
        request: vec![0x30; 100],
    };
    assert_eq!(scene.send(spoilt.to_json()).await.0, 400);
    assert_eq!(scene.send(b"{}".to_vec()).await.0, 400);
    assert_eq!(scene.send(vec![b' '; ENROL_BYTES_MAX + 1]).await.0, 413);
}
