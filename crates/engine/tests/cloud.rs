//! What the fleet's content policy says of a content, with the control plane that fleets run: addresses, and how
//! long it is kept; and by whose certificates its services are trusted.

#[allow(unreachable_pub, reason = "a module of tests")]
#[allow(dead_code, reason = "each test program uses a part of it")]
mod support;

use dosvc_cloud_protocol::{ContentPolicies, ContentPolicy, HttpUrl, PublishRequest, Rollout};
use dosvc_content::ContentId;
use dosvc_control_plane::{Contents, ControlPlane, ControlPlaneConfig, client::ControlPlaneClient};
use dosvc_engine::{CloudSettings, Engine};
use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};
use support::{Node, Origin, config, content, eventually, hash_file};
use tempfile::TempDir;

const MIB: usize = 1 << 20;

/// A control plane, and a token for it.
struct Plane {
    plane: ControlPlane,
    token: String,
    is_tls: bool,
    dir: TempDir,
}

impl Plane {
    async fn start() -> Self {
        Self::start_with(None).await
    }

    /// With a certificate (PEM) and its key: HTTPS.
    async fn start_with(tls: Option<(String, String)>) -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let file = |name: &str, text: String| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("it can be written");
            path
        };
        let tls =
            tls.map(|(certificate, key)| (file("tls.pem", certificate), file("tls.key", key)));
        let (certificate, key) = tls.unzip();
        let is_tls = certificate.is_some();
        let contents = Contents::open(dir.path()).await.expect("it is empty");
        let token = contents.add_token("tests", 1).await.expect("a new name");
        let config = ControlPlaneConfig {
            listen: vec!["127.0.0.1:0".parse().expect("address")],
            admin_listen: None,
            certificate,
            key,
            state_dir: dir.path().to_owned(),
            ..ControlPlaneConfig::default()
        };
        Self {
            plane: ControlPlane::start(config).await.expect("it starts"),
            token,
            is_tls,
            dir,
        }
    }

    fn base(&self) -> HttpUrl {
        let address = self.plane.listening()[0];
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{address}").parse().expect("an address")
    }

    /// Registers a content with these policies at these addresses.
    async fn publish(&self, bytes: &[u8], urls: &[String], policies: ContentPolicies) {
        let file = hash_file(bytes, 1 << 20);
        let content_id = ContentId::derived(&file.hash_of_hashes());
        let base = self.base();
        let base = base.as_str().trim_end_matches('/');
        let hashes = format!("{base}/content/{content_id}/pieceshash");
        let url = |text: &String| text.parse().expect("an address");
        let request = PublishRequest {
            policy: ContentPolicy {
                content_id,
                hash_of_hashes: file.hash_of_hashes(),
                pieces_hash_file_cdn_urls: vec![url(&hashes)],
                content_cdn_urls: Some(urls.iter().map(url).collect()),
                is_secure: false,
                is_internal: false,
                policies,
                rank: 0,
                publisher_signature: None,
            },
            rollout: Rollout::default(),
            hash_file: Some(String::from_utf8(file.to_json()).expect("JSON")),
        };
        let client = ControlPlaneClient::new(self.base()).expect("no TLS");
        client
            .publish(&self.token, &request)
            .await
            .expect("published");
    }

    /// A machine of the fleet.
    async fn node(&self, settings: &[(&str, &str)], peers: &[SocketAddr]) -> Node {
        self.node_that_trusts(None, settings, peers).await
    }

    /// The same; it trusts this file's certificates, beside the system's.
    async fn node_that_trusts(
        &self,
        ca_file: Option<PathBuf>,
        settings: &[(&str, &str)],
        peers: &[SocketAddr],
    ) -> Node {
        let dir = tempfile::tempdir().expect("temporary folder");
        let mut config = config(&dir, settings, peers);
        config.cloud = Some(CloudSettings {
            geo_url: self.base(),
            geo_version_url: None,
            ca_file,
            publisher_key: None,
        });
        Node {
            engine: Engine::start(config).await.expect("starts"),
            dir,
        }
    }
}

fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_secs()
}

/// When the only content in the cache expires, in seconds since 1970.
async fn expiry(node: &Node) -> Option<i64> {
    let cache = node.engine.cache().await;
    assert_eq!(cache.len(), 1);
    cache[0].expire_on
}

#[tokio::test(flavor = "multi_thread")]
async fn another_address_of_the_policy_stands_in_for_a_dead_one() {
    let (first, second) = (Origin::start().await, Origin::start().await);
    let bytes = content(11, 5 * MIB);
    let urls = [first.url("a.bin"), second.publish("other.bin", &bytes)];
    let plane = Plane::start().await;
    plane
        .publish(&bytes, &urls, ContentPolicies::default())
        .await;
    first.set_down(true);
    let node = plane.node(&[], &[]).await;
    let job = node.get(&urls[0]).await;
    let status = node.finish(job).await;
    assert!(status.verified_by_hash_file, "{status:?}");
    assert!(node.bytes(job).await == bytes);
    assert_eq!(second.sent(), bytes.len() as u64);
    assert_eq!(node.engine.cache().await[0].urls, urls);
}

#[tokio::test(flavor = "multi_thread")]
async fn content_is_kept_as_long_as_its_policy_and_the_devices_let_it() {
    let origin = Origin::start().await;
    let plane = Plane::start().await;
    let now = unix_now();
    let day = 24 * 3600;
    for (seed, age, expires, device, expected) in [
        (21, Some(day), None, "259200", Some(day)),
        (22, Some(9 * day), None, "259200", Some(3 * day)),
        (23, Some(day), None, "0", Some(day)),
        (24, None, Some(now + day / 2), "259200", Some(day / 2)),
        (25, Some(day), Some(now + 2 * day), "259200", Some(day)),
        (26, None, None, "0", None),
    ] {
        let bytes = content(seed, 2 * MIB);
        let url = origin.publish(&format!("{seed}.bin"), &bytes);
        let policies = ContentPolicies {
            max_cache_age_secs: age,
            expire_at_secs_since_epoch: expires,
            ..ContentPolicies::default()
        };
        plane
            .publish(&bytes, std::slice::from_ref(&url), policies)
            .await;
        let node = plane.node(&[("max_cache_age", device)], &[]).await;
        node.finish(node.get(&url).await).await;
        let found = expiry(&node).await;
        let left = found.map(|at| u64::try_from(at).expect("after 1970").saturating_sub(now));
        let near = match (left, expected) {
            (Some(left), Some(expected)) => (expected..expected + 60).contains(&left),
            (left, expected) => left == expected,
        };
        assert!(near, "{seed}: {left:?} instead of {expected:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_content_leaves_the_cache_and_is_shared_no_more() {
    let origin = Origin::start().await;
    let plane = Plane::start().await;
    let bytes = content(31, 2 * MIB);
    let url = origin.publish("a.bin", &bytes);
    let policies = ContentPolicies {
        max_cache_age_secs: Some(1),
        ..ContentPolicies::default()
    };
    plane
        .publish(&bytes, std::slice::from_ref(&url), policies)
        .await;
    let node = plane.node(&[], &[]).await;
    let job = node.get(&url).await;
    node.finish(job).await;
    node.engine.release(job).await;
    eventually("the content to go", async || {
        node.engine.cache().await.is_empty()
    })
    .await;

    let past = ContentPolicies {
        expire_at_secs_since_epoch: Some(unix_now() - 1),
        ..ContentPolicies::default()
    };
    plane
        .publish(&bytes, std::slice::from_ref(&url), past)
        .await;
    let late = plane.node(&[], &[]).await;
    let status = late.finish(late.get(&url).await).await;
    assert!(!status.verified_by_hash_file);
    assert!(status.notes[0].contains("has expired"), "{status:?}");
}

/// An authority, and a certificate of it for 127.0.0.1.
struct Issued {
    authority: String,
    certificate: String,
    key: String,
}

fn issue(name: &str) -> Issued {
    let authority_key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).expect("a certificate");
    let issuer = rcgen::Issuer::new(params, authority_key);
    let key = rcgen::KeyPair::generate().expect("a key");
    let host = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
    let certificate = host.signed_by(&key, &issuer).expect("a certificate");
    Issued {
        authority: authority.pem(),
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_trusted_by_the_authority_that_is_configured_and_by_no_other() {
    let (ours, theirs) = (issue("ours"), issue("theirs"));
    let origin = Origin::start().await;
    let bytes = content(51, 2 * MIB);
    let url = origin.publish("a.bin", &bytes);
    let plane = Plane::start_with(Some((ours.certificate, ours.key))).await;
    let file = |name: &str, text: &str| {
        let path = plane.dir.path().join(name);
        std::fs::write(&path, text).expect("it can be written");
        Some(path)
    };
    for (ca_file, trusted) in [
        (file("ours.pem", &ours.authority), true),
        (file("theirs.pem", &theirs.authority), false),
        (None, false),
    ] {
        let node = plane.node_that_trusts(ca_file, &[], &[]).await;
        let status = node.finish(node.get(&url).await).await;
        let cloud = node.engine.status().cloud.expect("it is configured");
        let geo = &cloud.services[0];
        if trusted {
            assert_eq!((geo.state.as_str(), &geo.failure), ("answered", &None));
            // Nothing is published there.
            assert!(
                status.notes[0].contains("does not know this content"),
                "{status:?}"
            );
        } else {
            let failure = geo.failure.as_ref().expect("it is said");
            assert_eq!(
                (geo.state.as_str(), failure.code.as_str()),
                ("failing", "0x80D0380A")
            );
            let says_why = failure.message.to_lowercase().contains("certificate");
            assert!(says_why, "{}", failure.message);
            assert!(status.notes[0].contains("0x80D0380A"), "{status:?}");
        }
    }
}
