//! A small stand-in for the fleet's cloud: all five services on one machine, with the protocol's own types.

use crate::{content::Content, namespace::Node};
use axum::{
    Router,
    body::Bytes,
    extract::{ConnectInfo, State},
    http::{StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
};
use dosvc_cloud_protocol::{
    ArrayPeer, CollectiveArray, ContentPolicies, ContentPolicy, CountryCode, DiscoveryAnswer,
    GeoAnswer, GeoVersionAnswer, HttpUrl, JoinAnswer, JoinEvent, JoinRequest, JoinToken,
    KeyValueAnswer, Scope, Text,
};
use dosvc_content::{ContentId, PeerId};
use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, mpsc},
    thread,
};
use tokio::sync::oneshot;

const PORT: u16 = 8080;
/// The least that the protocol allows.
const NEXT_JOIN_SECONDS: u32 = 10;
/// The address that everybody behind the one NAT is seen at.
const NAT: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));

/// The service; dropping it ends it.
pub(crate) struct Tracker {
    state: Arc<Service>,
    address: SocketAddr,
    _end: oneshot::Sender<()>,
}

/// What each peer said last, and where it was seen.
type Swarm = BTreeMap<PeerId, (JoinRequest, IpAddr)>;

struct Service {
    base: String,
    /// Whether everybody is seen at the same address.
    behind_nat: bool,
    policies: Mutex<BTreeMap<String, ContentPolicy>>,
    swarms: Mutex<HashMap<ContentId, Swarm>>,
    joins: Mutex<Vec<JoinRequest>>,
    asked: Mutex<Vec<String>>,
}

impl Tracker {
    /// Starts it on a machine. `behind_nat`: it sees all machines at one address.
    pub(crate) fn start(node: &Node, behind_nat: bool) -> Self {
        let address = node.address(PORT);
        let state = Arc::new(Service {
            base: format!("http://{address}"),
            behind_nat,
            policies: Mutex::default(),
            swarms: Mutex::default(),
            joins: Mutex::default(),
            asked: Mutex::default(),
        });
        let (end, ended) = oneshot::channel::<()>();
        let (bound, is_bound) = mpsc::channel();
        let (service, node) = (Arc::clone(&state), node.clone());
        thread::spawn(move || {
            node.enter(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime");
                runtime.block_on(async move {
                    let listener = tokio::net::TcpListener::bind(address).await;
                    let listener = listener.expect("the port is free");
                    bound.send(()).expect("somebody waits for it");
                    let router = Router::new().fallback(answer).with_state(service);
                    let router = router.into_make_service_with_connect_info::<SocketAddr>();
                    tokio::select! {
                        _ = axum::serve(listener, router) => {}
                        _ = ended => {}
                    }
                });
            });
        });
        is_bound.recv().expect("it listens");
        Self {
            state,
            address,
            _end: end,
        }
    }

    /// The table `[discovery]` of a machine that goes by this service alone.
    pub(crate) fn table(&self) -> String {
        table(self.address)
    }

    /// Makes the content known.
    pub(crate) fn publish(&self, content: &Content, url: &str) {
        let hash = content.swarm_hash();
        let policy = ContentPolicy {
            content_id: ContentId::derived(&hash),
            hash_of_hashes: hash,
            pieces_hash_file_cdn_urls: vec![format!("{url}.phf").parse().expect("an address")],
            content_cdn_urls: None,
            is_secure: false,
            is_internal: false,
            policies: ContentPolicies::default(),
            rank: 0,
            publisher_signature: None,
        };
        let mut policies = self.state.policies.lock().expect("no handler panics");
        // Clients write an address as URLs are written: without the scheme's own port.
        policies.insert(url.replacen(":80/", "/", 1), policy);
    }

    /// Every join so far.
    pub(crate) fn joins(&self) -> Vec<JoinRequest> {
        self.state.joins.lock().expect("no handler panics").clone()
    }

    /// Every path that was asked.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.state.asked.lock().expect("no handler panics").clone()
    }
}

/// The table `[discovery]` of a machine whose cloud is at this machine.
pub(crate) fn table_for(node: &Node) -> String {
    table(node.address(PORT))
}

fn table(address: SocketAddr) -> String {
    format!("[discovery]\ndns_sd = false\ngeo_endpoint_full_uri = \"http://{address}\"\n")
}

async fn answer(
    State(service): State<Arc<Service>>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    uri: Uri,
    body: Bytes,
) -> Response {
    let seen = match service.behind_nat {
        true => NAT,
        false => from.ip().to_canonical(),
    };
    let path = uri.path();
    service
        .asked
        .lock()
        .expect("no handler panics")
        .push(path.to_owned());
    let json = match path.split('/').nth(1).unwrap_or_default() {
        "geo" => service.geo(seen).to_json(),
        "geoversion" => GeoVersionAnswer {
            version: Text::new("1").expect("short"),
        }
        .to_json(),
        "all" => service.key_value().to_json(),
        "content" => match service.policy(uri.query().unwrap_or_default()) {
            Some(policy) => policy.to_json(),
            None => return StatusCode::NOT_FOUND.into_response(),
        },
        "discovery" => DiscoveryAnswer(vec![CollectiveArray {
            collective_array: service.url("/array/"),
        }])
        .to_json(),
        "array" => match JoinRequest::from_json(&body) {
            Ok(join) => service.join(join, seen).to_json(),
            Err(_) => return StatusCode::BAD_REQUEST.into_response(),
        },
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    ([(header::CONTENT_TYPE, "application/json")], json).into_response()
}

impl Service {
    fn url(&self, path: &str) -> HttpUrl {
        format!("{}{path}", self.base).parse().expect("an address")
    }

    fn geo(&self, seen: IpAddr) -> GeoAnswer {
        GeoAnswer {
            external_ip_address: seen,
            country_code: CountryCode::UNKNOWN,
            key_value_endpoint_full_uri: self.url("/all"),
            version: Text::new("1").expect("short"),
            compact_version: Text::default(),
            cache_id: Text::default(),
            cache_host: None,
            cache_host_flag: 0,
            is_vpn: false,
            content_cert: false,
            download_mode_fail_safe: Text::default(),
        }
    }

    fn key_value(&self) -> KeyValueAnswer {
        let template = |path: &str| format!("{}{path}", self.base).parse().expect("a template");
        KeyValueAnswer {
            content_policy_endpoint_full_uri: template("/content/{contentId}"),
            discovery_endpoint_full_uri: template("/discovery/{contentId}"),
            registered_callers: None,
            settings: BTreeMap::new(),
        }
    }

    fn policy(&self, query: &str) -> Option<ContentPolicy> {
        let request = dosvc_cloud_protocol::ContentPolicyRequest::from_query(query).ok()?;
        let policies = self.policies.lock().expect("no handler panics");
        policies.get(request.alt_catalog_id?.as_str()).cloned()
    }

    fn join(&self, join: JoinRequest, seen: IpAddr) -> JoinAnswer {
        self.joins
            .lock()
            .expect("no handler panics")
            .push(join.clone());
        let mut swarms = self.swarms.lock().expect("no handler panics");
        let swarm = swarms.entry(join.content_id.clone()).or_default();
        if join.event == JoinEvent::Leave {
            swarm.remove(&join.peer_id);
        } else {
            swarm.insert(join.peer_id, (join.clone(), seen));
        }
        let others = swarm
            .values()
            .filter(|(other, _)| other.peer_id != join.peer_id);
        let peers = others.filter_map(|(other, at)| {
            let scope = match join.scope {
                _ if *at == seen && other.group_id == join.group_id => Scope::Lan,
                Scope::Group if other.group_id == join.group_id => Scope::Group,
                Scope::Internet => Scope::Internet,
                _ => return None,
            };
            Some(ArrayPeer {
                peer_id: other.peer_id,
                scope,
                lan_ip: other.reported_ip.filter(|_| scope != Scope::Internet),
                lan_ipv6: None,
                external_ip: Some(*at),
                teredo_ipv6: None,
                port: other.port,
            })
        });
        JoinAnswer {
            peers: peers.take(usize::from(join.peers_wanted)).collect(),
            next_join_seconds: NEXT_JOIN_SECONDS,
            external_ip: seen,
            token: Some(JoinToken(7)),
        }
    }
}
