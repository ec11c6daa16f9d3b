//! A control plane over real sockets.

#![allow(clippy::unwrap_used, reason = "tests")]

use dosvc_cloud_protocol::{
    ContentPolicy, ContentPolicyRequest, DiscoveryAnswer, DiscoveryRequest, GeoAnswer, GeoRequest,
    GeoVersionAnswer, JoinAnswer, JoinRequest, KeyValueAnswer, KeyValueRequest, PublishRequest,
    Rollout, Scope, join_url,
};
use dosvc_content::{ContentId, GroupId};
use dosvc_control_plane::{
    Contents, ControlPlane, ControlPlaneConfig, Figures, Service, client::ControlPlaneClient,
};
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

fn config(state_dir: &Path) -> ControlPlaneConfig {
    ControlPlaneConfig {
        listen: vec![([127, 0, 0, 1], 0).into()],
        admin_listen: Some(([127, 0, 0, 1], 0).into()),
        state_dir: state_dir.to_owned(),
        ..ControlPlaneConfig::default()
    }
}

/// Status, media type and body of an answer.
async fn fetch(url: &str) -> (u16, String, Vec<u8>) {
    let response = reqwest::get(url).await.unwrap();
    let media_type = response.headers().get("content-type");
    let media_type = media_type.map_or(String::new(), |v| v.to_str().unwrap().to_owned());
    (
        response.status().as_u16(),
        media_type,
        response.bytes().await.unwrap().to_vec(),
    )
}

async fn send_join(url: &str, body: Vec<u8>) -> (u16, Vec<u8>) {
    let response = reqwest::Client::new()
        .post(url)
        .body(body)
        .send()
        .await
        .unwrap();
    (
        response.status().as_u16(),
        response.bytes().await.unwrap().to_vec(),
    )
}

fn policy(id: &str) -> ContentPolicy {
    ContentPolicy {
        content_id: id.parse().unwrap(),
        hash_of_hashes: [7; 32].into(),
        pieces_hash_file_cdn_urls: vec!["http://a.example/x.phf".parse().unwrap()],
        content_cdn_urls: Some(vec!["http://a.example/x".parse().unwrap()]),
        is_secure: false,
        is_internal: false,
        policies: Default::default(),
        rank: 0,
        publisher_signature: None,
    }
}

/// From the one address that a client is configured with to its peers, each step by what the step before answered.
#[tokio::test]
async fn client_finds_its_peers_from_geo_on() {
    let folder = tempfile::tempdir().unwrap();
    let networks = folder.path().join("networks");
    std::fs::write(&networks, "127.0.0.0/8 DE vpn\n").unwrap();
    let plane = ControlPlane::start(ControlPlaneConfig {
        networks: Some(networks),
        registered_callers: ["WU Client Download", "BeginLoadRange.*"]
            .map(|name| dosvc_cloud_protocol::Text::new(name).unwrap())
            .to_vec(),
        ..config(folder.path())
    })
    .await
    .unwrap();
    let root = format!("http://{}", plane.listening()[0]);

    let request = GeoRequest {
        profile: Some(768),
        ..GeoRequest::default()
    };
    let (status, media_type, body) = fetch(&format!("{root}/geo?{}", request.to_query())).await;
    assert_eq!((status, media_type.as_str()), (200, "text/json"));
    let geo = GeoAnswer::from_json(&body).unwrap();
    assert_eq!((geo.country_code.as_str(), geo.is_vpn), ("DE", true));
    assert!(geo.external_ip_address.is_loopback());
    let (_, _, body) = fetch(&format!("{root}/geoversion")).await;
    assert_eq!(
        GeoVersionAnswer::from_json(&body).unwrap().version,
        geo.version
    );

    let query = KeyValueRequest {
        country_code: Some(geo.country_code),
        ..KeyValueRequest::default()
    };
    let (status, media_type, body) = fetch(
        &geo.key_value_endpoint_full_uri
            .with_query(&query.to_query()),
    )
    .await;
    assert_eq!((status, media_type.as_str()), (200, "application/json"));
    let key_value = KeyValueAnswer::from_json(&body).unwrap();
    assert_eq!(key_value.registered_callers.unwrap().len(), 2);

    let id: ContentId = "a content/with=odd signs".parse().unwrap();
    let at = key_value.content_policy_endpoint_full_uri.fill(&id);
    let (status, _, _) = fetch(&at).await;
    assert_eq!(status, 404, "nobody has published it");
    let store = Contents::open(folder.path()).await.unwrap();
    let token = store.add_token("ci", 1).await.unwrap();
    let publisher = ControlPlaneClient::new(root.parse().unwrap()).unwrap();
    let published = PublishRequest {
        policy: policy(id.as_str()),
        rollout: Rollout::default(),
        hash_file: None,
    };
    publisher.publish(&token, &published).await.unwrap();
    let (status, _, body) = fetch(&format!(
        "{at}?{}",
        ContentPolicyRequest::default().to_query()
    ))
    .await;
    assert_eq!(status, 200);
    assert_eq!(ContentPolicy::from_json(&body).unwrap(), published.policy);

    let at = key_value.discovery_endpoint_full_uri.fill(&id);
    let (status, _, body) =
        fetch(&format!("{at}?{}", DiscoveryRequest::default().to_query())).await;
    assert_eq!(status, 200);
    let array = &DiscoveryAnswer::from_json(&body).unwrap().0[0].collective_array;
    assert!(array.as_str().ends_with('/'));

    let mut join = JoinRequest::new(id, [1; 20].into(), Scope::Lan);
    join.left = 1;
    join.reported_ip = Some([10, 0, 0, 1].into());
    let (status, body) = send_join(&join_url(array), join.to_json()).await;
    assert_eq!(status, 200);
    let first = JoinAnswer::from_json(&body).unwrap();
    assert!(first.peers.is_empty() && first.token.is_some());
    join.peer_id = [2; 20].into();
    let (_, body) = send_join(&join_url(array), join.to_json()).await;
    let second = JoinAnswer::from_json(&body).unwrap();
    assert_eq!(second.peers.len(), 1);
    assert_eq!(second.peers[0].lan_ip, Some([10, 0, 0, 1].into()));
    plane.stop().await;
}

#[tokio::test]
async fn what_is_malformed_or_too_large_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let plane = ControlPlane::start(config(folder.path())).await.unwrap();
    let root = format!("http://{}", plane.listening()[0]);
    let long = "x".repeat(9000);
    for (path, status) in [
        ("/geo?profile=x".to_owned(), 400),
        ("/geo?profile=1&profile=2".to_owned(), 400),
        (format!("/geo?callId={long}"), 413),
        ("/all?countryCode=Germany".to_owned(), 400),
        ("/content/x/contentpolicy?PeerId=1".to_owned(), 400),
        ("/content/%00/contentpolicy".to_owned(), 400),
        ("/content/x/discovery?partitionId=-1".to_owned(), 400),
        ("/array/join/".to_owned(), 405),
        ("/nothing".to_owned(), 404),
    ] {
        let (got, ..) = fetch(&format!("{root}{path}")).await;
        assert_eq!(got, status, "{path}");
    }
    let join = format!("{root}/array/join/");
    for (body, status) in [
        (b"{}".to_vec(), 400),
        (b"[".to_vec(), 400),
        (Vec::new(), 400),
        (vec![b' '; 100_000], 413),
    ] {
        assert_eq!(send_join(&join, body).await.0, status);
    }
    plane.stop().await;
}

#[tokio::test]
async fn an_address_that_asks_too_fast_is_told_to_wait() {
    let folder = tempfile::tempdir().unwrap();
    let plane = ControlPlane::start(ControlPlaneConfig {
        requests_per_second: 1,
        ..config(folder.path())
    })
    .await
    .unwrap();
    let url = format!("http://{}/geo", plane.listening()[0]);
    let mut statuses = Vec::new();
    for _ in 0..30 {
        statuses.push(fetch(&url).await.0);
    }
    assert_eq!(statuses[..4], [200; 4]);
    assert!(statuses.contains(&429), "{statuses:?}");
    plane.stop().await;
}

#[tokio::test]
async fn publishing_needs_a_token_and_can_be_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let plane = ControlPlane::start(config(folder.path())).await.unwrap();
    let root = format!("http://{}", plane.listening()[0]);
    let publisher = ControlPlaneClient::new(root.parse().unwrap()).unwrap();
    let group: GroupId = "b3b1c2d4-5e6f-4a7b-8c9d-0e1f2a3b4c5d".parse().unwrap();
    let request = PublishRequest {
        policy: policy("x"),
        rollout: Rollout {
            groups: vec![group.hash()],
            ..Rollout::default()
        },
        hash_file: None,
    };
    let error = publisher
        .publish("dosvc_nothing", &request)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("401"), "{error}");
    let store = Contents::open(folder.path()).await.unwrap();
    let token = store.add_token("ci", 1).await.unwrap();
    publisher.publish(&token, &request).await.unwrap();

    let asks = |group: Option<&GroupId>| {
        let request = ContentPolicyRequest {
            e_id: group.map(|g| dosvc_cloud_protocol::Text::new(g.hash().to_string()).unwrap()),
            ..ContentPolicyRequest::default()
        };
        format!("{root}/content/x/contentpolicy?{}", request.to_query())
    };
    assert_eq!(fetch(&asks(Some(&group))).await.0, 200);
    assert_eq!(fetch(&asks(None)).await.0, 404, "not for everybody");
    // Known by its URL, too, as for callers that have no id.
    let by_url =
        asks(Some(&group)).replace("/x/", "/unknown/") + "&altCatalogId=http%3A%2F%2Fa.example%2Fx";
    assert_eq!(fetch(&by_url).await.0, 200);

    publisher.revoke(&token, "x").await.unwrap();
    assert_eq!(fetch(&asks(Some(&group))).await.0, 404);
    let error = publisher.revoke(&token, "y").await.unwrap_err().to_string();
    assert!(error.contains("404"), "{error}");
    plane.stop().await;
}

/// Behind a proxy clients are told apart by what the proxy says of them, and by nothing that they say themselves.
#[tokio::test]
async fn a_trusted_proxy_names_the_client() {
    let folder = tempfile::tempdir().unwrap();
    for (trusted, header, seen) in [
        (true, Some("198.51.100.9, 192.0.2.7"), "192.0.2.7"),
        (true, Some("nonsense"), "127.0.0.1"),
        (true, None, "127.0.0.1"),
        (false, Some("192.0.2.7"), "127.0.0.1"),
    ] {
        let plane = ControlPlane::start(ControlPlaneConfig {
            trusted_proxies: trusted
                .then_some([127, 0, 0, 1].into())
                .into_iter()
                .collect(),
            ..config(folder.path())
        })
        .await
        .unwrap();
        let url = format!("http://{}/geo", plane.listening()[0]);
        let mut request = reqwest::Client::new().get(&url);
        if let Some(header) = header {
            request = request.header("X-Forwarded-For", header);
        }
        let body = request.send().await.unwrap().bytes().await.unwrap();
        let geo = GeoAnswer::from_json(&body).unwrap();
        assert_eq!(geo.external_ip_address.to_string(), seen);
        plane.stop().await;
    }
}

#[tokio::test]
async fn swarms_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let join = |number: u8| {
        let mut join = JoinRequest::new("x".parse().unwrap(), [number; 20].into(), Scope::Lan);
        join.left = 1;
        join.to_json()
    };
    for round in 0..3 {
        let plane = ControlPlane::start(config(folder.path())).await.unwrap();
        let url = format!("http://{}/array/join/", plane.listening()[0]);
        let (_, body) = send_join(&url, join(round)).await;
        let answer = JoinAnswer::from_json(&body).unwrap();
        assert_eq!(answer.peers.len(), usize::from(round));
        plane.stop().await;
    }
}

#[tokio::test]
async fn services_that_do_not_run_here_are_not_answered() {
    let folder = tempfile::tempdir().unwrap();
    let plane = ControlPlane::start(ControlPlaneConfig {
        services: vec![Service::Geo],
        public_url: Some("https://do.example/base/".parse().unwrap()),
        ..config(folder.path())
    })
    .await
    .unwrap();
    let root = format!("http://{}", plane.listening()[0]);
    let (_, _, body) = fetch(&format!("{root}/geo")).await;
    let geo = GeoAnswer::from_json(&body).unwrap();
    assert_eq!(
        geo.key_value_endpoint_full_uri.as_str(),
        "https://do.example/base/all"
    );
    for path in [
        "/all",
        "/content/x/contentpolicy",
        "/content/x/discovery",
        "/array/join/",
    ] {
        assert_eq!(fetch(&format!("{root}{path}")).await.0, 404, "{path}");
    }
    assert_eq!(fetch(&format!("{root}/readyz")).await.0, 200);
    plane.stop().await;
}

#[tokio::test]
async fn plain_http_beyond_this_machine_must_be_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let open = ControlPlaneConfig {
        listen: vec![([0, 0, 0, 0], 0).into()],
        ..config(folder.path())
    };
    let error = ControlPlane::start(open.clone())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("allow_http"), "{error}");
    let asked = ControlPlaneConfig {
        allow_http: true,
        ..open
    };
    ControlPlane::start(asked).await.unwrap().stop().await;
}

#[tokio::test]
async fn administrators_see_figures_metrics_and_a_page_that_needs_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let plane = ControlPlane::start(config(folder.path())).await.unwrap();
    let url = format!("http://{}/array/join/", plane.listening()[0]);
    let mut join = JoinRequest::new("<b>x</b>".parse().unwrap(), [1; 20].into(), Scope::Group);
    join.group_id = Some([9; 32].into());
    send_join(&url, join.to_json()).await;
    let admin = format!("http://{}", plane.admin().unwrap());
    let figures: Figures = ControlPlaneClient::new(admin.parse().unwrap())
        .unwrap()
        .figures()
        .await
        .unwrap();
    assert_eq!((figures.entries, figures.swarms, figures.joins), (1, 1, 1));
    assert_eq!(figures.largest_swarms[0].content_id, "<b>x</b>");
    assert_eq!(figures.largest_groups[0].group, "0909090909090909");
    let (_, _, text) = fetch(&format!("{admin}/metrics")).await;
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.contains("dosvc_control_plane_requests_total{service=\"array\",code=\"2xx\"} 1"),
        "{text}"
    );
    let (status, media_type, page) = fetch(&admin).await;
    assert_eq!(
        (status, media_type.as_str()),
        (200, "text/html; charset=utf-8")
    );
    let page = String::from_utf8(page).unwrap();
    for foreign in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    // Clients have no business there.
    assert_eq!(
        fetch(&format!("http://{}/metrics", plane.listening()[0]))
            .await
            .0,
        404
    );
    plane.stop().await;
}

#[tokio::test]
async fn connections_of_one_address_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let plane = ControlPlane::start(ControlPlaneConfig {
        connections_per_address_max: 2,
        ..config(folder.path())
    })
    .await
    .unwrap();
    let address = plane.listening()[0];
    let served = tokio::task::spawn_blocking(move || {
        let ask = |stream: &mut TcpStream| {
            stream
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            let asked = stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n");
            let mut answer = [0; 12];
            asked.is_ok() && stream.read_exact(&mut answer).is_ok()
        };
        let mut streams: Vec<_> = (0..3)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        streams.iter_mut().map(ask).collect::<Vec<_>>()
    });
    assert_eq!(served.await.unwrap(), [true, true, false]);
    plane.stop().await;
}

/// The certificate that a server shows, by trusting no other one.
async fn shows(address: SocketAddr, certificate: &rcgen::CertifiedKey<rcgen::KeyPair>) -> bool {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.cert.der().clone()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let name = "localhost".try_into().unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(tls));
    connector.connect(name, stream).await.is_ok()
}

#[tokio::test]
async fn certificate_is_replaced_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("c.pem"), folder.path().join("k.pem"));
    let make = || rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let write = |made: &rcgen::CertifiedKey<rcgen::KeyPair>| {
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    };
    let (first, second) = (make(), make());
    write(&first);
    let plane = ControlPlane::start(ControlPlaneConfig {
        certificate: Some(certificate.clone()),
        key: Some(key.clone()),
        ..config(folder.path())
    })
    .await
    .unwrap();
    let address = plane.listening()[0];
    assert!(shows(address, &first).await && !shows(address, &second).await);
    // A key that does not fit changes nothing.
    std::fs::write(&key, second.signing_key.serialize_pem()).unwrap();
    plane.reload();
    assert!(shows(address, &first).await);
    write(&second);
    plane.reload();
    assert!(shows(address, &second).await && !shows(address, &first).await);
    plane.stop().await;
}
