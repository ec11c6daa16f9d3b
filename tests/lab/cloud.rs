//! Peers beyond the link, through the fleet's cloud: two routed networks that share no link.

use crate::{
    content::{self, Content, scenario_bytes},
    daemon::{Daemon, GetResult, SWARM_PORT},
    namespace::{Lab, Node},
    nginx::Nginx,
    plane::Plane,
    process::wait_for,
    tracker::{Tracker, table_for},
};
use dosvc_cloud_protocol::JoinEvent;
use dosvc_engine::api::SourceBytes;
use std::{fs, thread, time::Duration};

const GROUP: &str = "group_id = \"11111111-2222-3333-4444-555555555555\"";
const OTHER_GROUP: &str = "group_id = \"99999999-2222-3333-4444-555555555555\"";
/// HTTP waits for peers longer than any test.
const PEERS_ONLY: &str = "delay_background_download_from_http = 3600";
const PATIENCE: Duration = Duration::from_secs(60);

/// A machine on the link with nginx and the services, one with the content, and one beyond the router.
struct Scene {
    content: Content,
    url: String,
    tracker: Tracker,
    inside: Daemon,
    outsider: Node,
    _nginx: Nginx,
    _lab: Lab,
}

impl Scene {
    fn new(policies: &str, behind_nat: bool) -> Self {
        let mut lab = Lab::new(2, None);
        let outsider = lab.outsider();
        let content = Content::random(1, scenario_bytes(64));
        let nginx = Nginx::start(lab.at(0), &content::folder());
        let url = nginx.url(&content.name);
        let tracker = Tracker::start(lab.at(0), behind_nat);
        tracker.publish(&content, &url);
        let inside = start(lab.at(1), &tracker, policies);
        let first = inside.get(&url, &content, &[]);
        assert!(first.status.verified_by_hash_file, "{:?}", first.status);
        inside.wait_until_shared(&content);
        Self {
            content,
            url,
            tracker,
            inside,
            outsider,
            _nginx: nginx,
            _lab: lab,
        }
    }

    /// What a machine beyond the router downloads, and how.
    fn outside(&self, policies: &str) -> (Daemon, GetResult) {
        let outside = start(&self.outsider, &self.tracker, policies);
        let result = outside.get(&self.url, &self.content, &[]);
        (outside, result)
    }
}

fn start(node: &Node, tracker: &Tracker, policies: &str) -> Daemon {
    let tables = format!("{}[delivery_optimization]\n{policies}", tracker.table());
    Daemon::start_with(node, "", &tables)
}

#[test]
#[ignore = "needs root and network namespaces"]
fn group_peers_find_each_other_across_two_networks() {
    let policies = format!("download_mode = 2\n{GROUP}");
    let scene = Scene::new(&policies, false);
    let (outside, result) = scene.outside(&format!("{policies}\n{PEERS_ONLY}"));
    let expected = SourceBytes {
        group: scene.content.bytes,
        ..SourceBytes::default()
    };
    assert_eq!(result.status.downloaded, expected, "{:?}", result.status);
    // Who has everything tells the array.
    wait_for("both to be known as seeds", PATIENCE, || {
        let joins = scene.tracker.joins();
        let seed = |node: &Node| {
            joins
                .iter()
                .any(|join| Some(node.ip()) == join.reported_ip.map(Into::into) && join.left == 0)
        };
        (seed(scene.inside.node()) && seed(outside.node())).then_some(())
    });
    let join = scene.tracker.joins().pop().expect("there were some");
    assert_eq!(join.port, SWARM_PORT);
    assert!(join.group_id.is_some());
    let cloud = outside.status().cloud.expect("it is configured");
    assert_eq!((cloud.joined, cloud.contents), (1, 1), "{cloud:?}");
}

/// The same with the control plane that fleets run: published there, found there, left and expired there.
#[test]
#[ignore = "needs root and network namespaces"]
fn the_control_plane_brings_two_networks_together_and_forgets_who_goes() {
    for (policies, expected) in [
        (format!("download_mode = 2\n{GROUP}"), "group"),
        ("download_mode = 3".to_owned(), "internet"),
    ] {
        let mut lab = Lab::new(2, None);
        let outsider = lab.outsider();
        let content = Content::random(1, scenario_bytes(64));
        let nginx = Nginx::start(lab.at(0), &content::folder());
        let url = nginx.url(&content.name).replacen(":80/", "/", 1);
        let mut plane = Plane::start(lab.at(0));
        plane.publish(&content, &url);
        let start = |node: &Node, more: &str| {
            let tables = format!(
                "{}[delivery_optimization]\n{policies}\n{more}",
                plane.table()
            );
            Daemon::start_with(node, "", &tables)
        };
        let mut inside = start(lab.at(1), "");
        let first = inside.get(&url, &content, &[]).status;
        assert!(first.verified_by_hash_file, "{first:?}");
        inside.wait_until_shared(&content);
        let mut outside = start(&outsider, PEERS_ONLY);
        let status = outside.get(&url, &content, &[]).status;
        let (bytes, all) = match expected {
            "group" => (status.downloaded.group, status.downloaded.total()),
            _ => (status.downloaded.internet, status.downloaded.total()),
        };
        assert_eq!((bytes, all), (content.bytes, content.bytes), "{status:?}");
        wait_for("both to be listed", PATIENCE, || {
            (plane.peers() == 2).then_some(())
        });

        // Who ends says so; who is gone without a word is forgotten.
        inside.end();
        wait_for("the one to have left", PATIENCE, || {
            (plane.peers() == 1).then_some(())
        });
        // What the array gave out is still ours after it was away.
        plane.restart();
        wait_for("the other to come back", PATIENCE, || {
            let cloud = outside.status().cloud?;
            (plane.peers() == 1 && cloud.joined == 1).then_some(())
        });
        // Two joins and a minute: once is enough.
        if expected == "internet" {
            continue;
        }
        outside.kill();
        wait_for("the other to be forgotten", 2 * PATIENCE, || {
            (plane.peers() == 0).then_some(())
        });
    }
}

/// A slow peer is enough where the content policy asks little, and HTTP helps where it asks more.
#[test]
#[ignore = "needs root and network namespaces"]
fn a_contents_own_qos_decides_whether_http_helps() {
    const MIB: u64 = 1 << 20;
    const SOME: Duration = Duration::from_secs(3);
    // HTTP is bounded, so that neither download ends before it was looked at.
    const SLOW: &str =
        "max_background_download_bandwidth = 4000\ndelay_background_download_from_http = 1";
    let lab = Lab::new(4, None);
    let contents = [1, 2].map(|number| Content::sparse(number, 256 * MIB, MIB));
    let nginx = Nginx::start(lab.at(0), &content::folder());
    let urls = [0, 1].map(|n: usize| nginx.url(&contents[n].name).replacen(":80/", "/", 1));
    let plane = Plane::start(lab.at(0));
    // In bytes a second; the peer gives 1.25 MB.
    for (n, qos) in ["200000", "50000000"].into_iter().enumerate() {
        plane.publish_as(&contents[n], &urls[n], &["--background-qos", qos]);
    }
    let start = |node: &Node, more: &str| {
        let policies = format!("download_mode = 2\n{GROUP}\n{more}");
        let tables = format!("{}[delivery_optimization]\n{policies}", plane.table());
        Daemon::start_with(node, "", &tables)
    };
    let seed = start(lab.at(1), "");
    for (content, url) in contents.iter().zip(&urls) {
        let status = seed.get(url, content, &[]).status;
        assert!(status.verified_by_hash_file, "{status:?}");
        seed.wait_until_shared(content);
    }
    lab.segment();
    lab.shape_sending(1, "10mbit");
    let by_http = || lab.at(0).traffic().sent;
    let by_peer = || lab.at(1).traffic().sent;
    let in_some_time = || {
        let before = (by_http(), by_peer());
        thread::sleep(SOME);
        (by_http() - before.0, by_peer() - before.1)
    };
    for (n, helps) in [(0, false), (1, true)] {
        let daemon = start(lab.at(2 + n), SLOW);
        let mut get = daemon.start_get(&urls[n], &[]);
        daemon.wait_for_bytes(&mut get, 2 * MIB);
        let as_it_should = |(http, peer): (u64, u64)| {
            println!("{http} bytes by HTTP, {peer} by the peer");
            let helped = if helps {
                http > 4 * MIB
            } else {
                http < MIB / 2
            };
            helped && peer > 2 * MIB
        };
        wait_for("sources as the content's QoS asks for", PATIENCE, || {
            as_it_should(in_some_time()).then_some(())
        });
        assert!(as_it_should(in_some_time()), "it stays so");
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn another_group_gets_nothing_from_beyond_the_router() {
    let scene = Scene::new(&format!("download_mode = 2\n{GROUP}"), false);
    let (_, result) = scene.outside(&format!("download_mode = 2\n{OTHER_GROUP}"));
    assert_eq!(result.status.downloaded.peers(), 0, "{:?}", result.status);
    assert_eq!(scene.inside.status().uploaded.total(), 0);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn internet_peers_find_each_other_across_two_networks() {
    let scene = Scene::new("download_mode = 3", false);
    let (_, result) = scene.outside(&format!("download_mode = 3\n{PEERS_ONLY}"));
    assert_eq!(
        result.status.downloaded.internet, scene.content.bytes,
        "{:?}",
        result.status
    );
    wait_for("the month to count it", PATIENCE, || {
        (scene.inside.status().month.internet_bytes >= scene.content.bytes).then_some(())
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn peers_behind_one_nat_are_of_the_lan_whatever_their_subnet() {
    for policies in [
        "download_mode = 1".to_owned(),
        format!("download_mode = 2\n{GROUP}"),
    ] {
        let scene = Scene::new(&policies, true);
        let (_, result) = scene.outside(&format!("{policies}\n{PEERS_ONLY}"));
        assert_eq!(
            result.status.downloaded.lan, scene.content.bytes,
            "{:?}",
            result.status
        );
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn lan_mode_keeps_to_its_own_nat_and_restrictions_to_the_subnet() {
    let scene = Scene::new("download_mode = 1", false);
    let (_, result) = scene.outside("download_mode = 1");
    assert_eq!(result.status.downloaded.peers(), 0, "{:?}", result.status);
    drop(scene);
    let restricted = "download_mode = 1\nrestrict_peer_selection_by = 1";
    let scene = Scene::new(restricted, true);
    let (_, result) = scene.outside(restricted);
    assert_eq!(result.status.downloaded.peers(), 0, "{:?}", result.status);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_daemon_that_ends_leaves_and_one_without_peers_never_joins() {
    let mut scene = Scene::new("download_mode = 3", false);
    assert!(!scene.tracker.joins().is_empty());
    scene.inside.end();
    let last = scene.tracker.joins().pop().expect("it joined");
    assert_eq!(last.event, JoinEvent::Leave);
    assert!(last.token.is_some());

    let before = scene.tracker.joins().len();
    let (_, result) = scene.outside("download_mode = 0");
    assert!(result.status.verified_by_hash_file, "{:?}", result.status);
    assert_eq!(scene.tracker.joins().len(), before);
    fs::remove_file(&result.output).expect("it was just written");
    let asked = scene.tracker.asked().len();
    let (_, result) = scene.outside("download_mode = 99");
    assert!(!result.status.verified_by_hash_file);
    assert_eq!(
        scene.tracker.asked().len(),
        asked,
        "mode 99 asks no service"
    );
}

#[test]
#[ignore = "needs root and network namespaces"]
fn without_its_cloud_a_download_is_simple_until_it_is_back() {
    let lab = Lab::new(2, None);
    let contents = [1, 2].map(|n| Content::random(n, scenario_bytes(64)));
    let nginx = Nginx::start(lab.at(0), &content::folder());
    let policies = "[delivery_optimization]\ndownload_mode = 3";
    let tables = format!("{}{policies}", table_for(lab.at(0)));
    let daemon = Daemon::start_with(lab.at(1), "", &tables);
    let url = |n: usize| nginx.url(&contents[n].name);
    let status = daemon.get(&url(0), &contents[0], &[]).status;
    assert_eq!(status.download_mode, 99, "{status:?}");
    assert!(
        status.notes.iter().any(|note| note.contains("0x80D0380A")),
        "{status:?}"
    );
    let geo = &daemon.status().cloud.expect("it is configured").services[0];
    assert_eq!(geo.state, "failing");
    assert!(daemon.log().contains("cloud service cannot be used"));

    let tracker = Tracker::start(lab.at(0), false);
    tracker.publish(&contents[1], &url(1));
    let status = daemon.get(&url(1), &contents[1], &[]).status;
    assert_eq!(status.download_mode, 3, "{status:?}");
    assert!(status.verified_by_hash_file);
    wait_for("the content to be joined", PATIENCE, || {
        (daemon.status().cloud?.joined == 1).then_some(())
    });
}
