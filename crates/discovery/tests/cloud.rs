//! The client of the fleet's cloud against a service on loopback that misbehaves in every way.
#![expect(clippy::unwrap_used, reason = "tests")]

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::State,
    http::{StatusCode, Uri, header},
    response::{Html, IntoResponse as _, Redirect, Response},
};
use dosvc_cloud_protocol::JoinRequest;
use dosvc_content::{HashOfHashes, PeerId};
use dosvc_discovery::cloud::{
    Announcement, Cloud, CloudConfig, CloudError, Device, Failure, Scope, ServiceState,
};
use http_body_util::channel::Channel;
use serde_json::json;
use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::task::AbortHandle;

/// What the service does with questions whose path begins so.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Well,
    Html,
    Moved,
    Broken,
    Malformed,
    Huge,
    Endless,
    Silent,
}

struct World {
    address: SocketAddr,
    /// The service that misbehaves, and how.
    mood: Mutex<(&'static str, Mood)>,
    /// Paths that were asked, and bodies.
    asked: Mutex<Vec<(String, Bytes)>>,
}

struct Server {
    world: Arc<World>,
    task: AbortHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let world = Arc::new(World {
            address: listener.local_addr().unwrap(),
            mood: Mutex::new(("", Mood::Well)),
            asked: Mutex::default(),
        });
        let router = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&world));
        let serve = async move { axum::serve(listener, router).await.unwrap() };
        let task = tokio::spawn(serve).abort_handle();
        Self { world, task }
    }

    fn set(&self, service: &'static str, mood: Mood) {
        *self.world.mood.lock().unwrap() = (service, mood);
    }

    fn asked(&self) -> Vec<String> {
        let asked = self.world.asked.lock().unwrap();
        asked.iter().map(|(path, _)| path.clone()).collect()
    }

    fn joins(&self) -> Vec<JoinRequest> {
        let asked = self.world.asked.lock().unwrap();
        let joins = asked.iter().filter(|(path, _)| path == "/a/join/");
        joins
            .map(|(_, body)| JoinRequest::from_json(body).unwrap())
            .collect()
    }

    fn config(&self, folder: &Path) -> CloudConfig {
        CloudConfig {
            geo_url: format!("http://{}", self.world.address).parse().unwrap(),
            geo_version_url: None,
            ca_file: None,
            peer_id: PeerId::from([1; 20]),
            state_file: folder.join("cloud.json"),
        }
    }
}

async fn answer(State(world): State<Arc<World>>, uri: Uri, body: Bytes) -> Response {
    let path = uri.path().to_owned();
    world.asked.lock().unwrap().push((path.clone(), body));
    let base = format!("http://{}", world.address);
    let (service, mood) = *world.mood.lock().unwrap();
    if path.starts_with(service) && mood != Mood::Well {
        return misbehave(mood).await;
    }
    let body = match path.split('/').nth(1).unwrap_or_default() {
        "geo" => json!({"ExternalIpAddress": "203.0.113.7", "CountryCode": "DE", "Version": "1",
            "KeyValue_EndpointFullUri": format!("{base}/all")}),
        "all" => json!({"ContentPolicy_EndpointFullUri": format!("{base}/cp/{{contentId}}"),
            "Discovery_EndpointFullUri": format!("{base}/disc/{{contentId}}")}),
        "cp" if uri.query().unwrap_or_default().contains("unknown.bin") => {
            return StatusCode::NOT_FOUND.into_response();
        }
        "cp" => {
            json!({"ContentId": "x", "HashOfHashes": "pnfBh6zEGx3sxf6WBId825S6VQpwJTWIaAWU/cBsHD0=",
            "PiecesHashFileCdnUrls": [format!("{base}/x.phf")]})
        }
        "disc" => json!([{"CollectiveArray": format!("{base}/a/")}]),
        "a" => {
            json!({"Peers": [{"PeerId": PeerId::from([2; 20]).to_string(), "Scope": "2", "LanIp": "10.0.0.2",
            "Port": "7681"}], "NextJoinSeconds": "600", "ExternalIp": "203.0.113.7", "Token": "00000000000000aa"})
        }
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    Json(body).into_response()
}

async fn misbehave(mood: Mood) -> Response {
    let json = [(header::CONTENT_TYPE, "application/json")];
    match mood {
        Mood::Well => unreachable!("it would answer"),
        Mood::Html => Html("<html>Please log in</html>").into_response(),
        Mood::Moved => Redirect::temporary("http://login.test/").into_response(),
        Mood::Broken => StatusCode::BAD_GATEWAY.into_response(),
        Mood::Malformed => (json, "{\"ExternalIpAddress\":").into_response(),
        Mood::Huge => (json, vec![b' '; 300 << 10]).into_response(),
        Mood::Endless => {
            let (mut sender, body) = Channel::<Bytes, std::io::Error>::new(1);
            tokio::spawn(async move {
                let spaces = Bytes::from_static(&[b' '; 4096]);
                while sender.send_data(spaces.clone()).await.is_ok() {}
            });
            (json, Body::new(body)).into_response()
        }
        Mood::Silent => std::future::pending().await,
    }
}

fn content(n: u8) -> HashOfHashes {
    [n; 32].into()
}

fn wanted(n: u8) -> Announcement {
    Announcement {
        wanted: true,
        left: 5,
        ..Announcement::new(content(n), Scope::Group, Some([3; 32].into()))
    }
}

fn device() -> Device {
    Device {
        port: 7680,
        ipv4: Some(([10, 0, 0, 1].into(), [255, 255, 255, 0].into())),
        ..Device::default()
    }
}

async fn policy(cloud: &Cloud, name: &str) -> Result<bool, Failure> {
    let url = format!("http://user:secret@a.test/{name}?sig=secret")
        .parse()
        .unwrap();
    let policy = cloud.content_policy(Some(&url), None).await?;
    Ok(policy.is_some())
}

#[tokio::test]
async fn a_policy_is_found_through_the_chain_and_kept() {
    let (server, folder) = (Server::start().await, tempfile::tempdir().unwrap());
    let cloud = Cloud::start(&server.config(folder.path())).unwrap();
    assert_eq!(server.asked(), [""; 0]);
    assert_eq!(policy(&cloud, "x").await, Ok(true));
    assert_eq!(policy(&cloud, "x").await, Ok(true));
    assert_eq!(policy(&cloud, "unknown.bin").await, Ok(false));
    assert_eq!(
        server.asked(),
        ["/geo", "/all", "/cp/unknown", "/cp/unknown"]
    );
    let status = cloud.status();
    assert!(
        status.services[..3]
            .iter()
            .all(|s| s.state == ServiceState::Answered),
        "{status:?}"
    );
    assert_eq!(status.external_ip, Some([203, 0, 113, 7].into()));
    cloud.stop().await;

    // A restart knows all of it.
    let cloud = Cloud::start(&server.config(folder.path())).unwrap();
    assert_eq!(policy(&cloud, "x").await, Ok(true));
    assert_eq!(server.asked().len(), 4);
}

#[tokio::test]
async fn every_way_to_misbehave_has_a_name_and_ends_well_when_it_ends() {
    let names = [
        (Mood::Html, "captive_portal"),
        (Mood::Moved, "captive_portal"),
        (Mood::Broken, "status"),
        (Mood::Malformed, "malformed"),
        (Mood::Huge, "unreachable"),
        (Mood::Endless, "unreachable"),
    ];
    for service in ["/geo", "/all", "/cp"] {
        let (server, folder) = (Server::start().await, tempfile::tempdir().unwrap());
        let cloud = Cloud::start(&server.config(folder.path())).unwrap();
        for (mood, name) in names {
            server.set(service, mood);
            let failure = policy(&cloud, name).await.unwrap_err();
            assert_eq!(failure.name(), name, "{service}: {failure}");
            assert_eq!(failure.hresult().to_string(), "0x80D0380A");
            // A redirect is not followed.
            assert!(!failure.to_string().contains("login.test"), "{failure}");
        }
        server.set("", Mood::Well);
        assert_eq!(policy(&cloud, "x").await, Ok(true), "{service}");
    }
}

#[tokio::test]
async fn a_service_that_says_nothing_is_given_up() {
    let (server, folder) = (Server::start().await, tempfile::tempdir().unwrap());
    let cloud = Cloud::start(&server.config(folder.path())).unwrap();
    server.set("/geo", Mood::Silent);
    let failure = policy(&cloud, "x").await.unwrap_err();
    assert_eq!(failure.name(), "unreachable");
}

#[tokio::test]
async fn nobody_there_is_unreachable_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let mut config = server.config(folder.path());
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    config.geo_url = format!("http://{}/geo", closed.local_addr().unwrap())
        .parse()
        .unwrap();
    drop(closed);
    let cloud = Cloud::start(&config).unwrap();
    let failure = policy(&cloud, "x").await.unwrap_err();
    assert_eq!(failure.name(), "unreachable");
    let status = cloud.status();
    assert_eq!(status.services[0].state, ServiceState::Failing);
    assert!(status.services[0].failure.is_some());
}

#[tokio::test]
async fn peers_come_from_the_array_and_it_is_told_when_we_leave() {
    let (server, folder) = (Server::start().await, tempfile::tempdir().unwrap());
    let cloud = Cloud::start(&server.config(folder.path())).unwrap();
    cloud.set_device(device());
    let mut search = cloud.find(wanted(1));
    let peers = tokio::time::timeout(Duration::from_secs(20), search.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(peers[0].lan_ip, Some([10, 0, 0, 2].into()));
    // Another search hears of them too, and nothing more is asked.
    let mut other = cloud.find(wanted(1));
    assert_eq!(other.next().await.unwrap(), peers);
    assert_eq!(server.joins().len(), 1);
    let member = cloud.member(&content(1)).unwrap();
    assert!(member.listed && member.peers == Some(1), "{member:?}");
    cloud.stop().await;
    let joins = server.joins();
    assert_eq!(joins.len(), 2);
    assert_eq!(joins[1].event, dosvc_cloud_protocol::JoinEvent::Leave);
    assert_eq!(joins[1].token, Some("00000000000000aa".parse().unwrap()));
    assert_eq!(search.next().await, None);
}

#[tokio::test]
async fn a_client_that_is_dropped_lets_go_of_who_waits() {
    let (server, folder) = (Server::start().await, tempfile::tempdir().unwrap());
    let cloud = Cloud::start(&server.config(folder.path())).unwrap();
    cloud.set_device(device());
    server.set("", Mood::Silent);
    let mut search = cloud.find(wanted(1));
    drop(cloud);
    let ended = tokio::time::timeout(Duration::from_secs(20), search.next()).await;
    assert_eq!(ended.unwrap(), None);
}

#[tokio::test]
async fn certificates_that_are_none_are_named() {
    let (server, folder) = (Server::start().await, tempfile::tempdir().unwrap());
    let path = folder.path().join("ca.pem");
    for text in [None, Some(""), Some("-----BEGIN CERTIFICATE-----\nAAAA")] {
        text.iter()
            .for_each(|text| std::fs::write(&path, text).unwrap());
        let config = CloudConfig {
            ca_file: Some(path.clone()),
            ..server.config(folder.path())
        };
        let error = Cloud::start(&config).unwrap_err();
        assert!(matches!(&error, CloudError::Certificates { .. }));
        assert!(error.to_string().contains("ca.pem"), "{error}");
    }
}
