//! Daemons behind NATs: what one has reaches the other, through whatever is between them, or comes from the origin.

use crate::{
    content::{self, Content, is_full, scenario_bytes},
    daemon::{Daemon, SWARM_PORT},
    homes::{Home, Internet, Kind, SERVER, TUNNEL_PORT},
    namespace::Node,
    nginx::Nginx,
    plane::Plane,
    process::wait_for,
    router::MINIUPNPD_EXTERNAL,
    turns::Turn,
};
use dosvc_engine::api::{Explanation, MappedPort, SourceExplanation, Transport};
use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);
/// Every content is for peers, and nothing but the limit that a test sets holds a download back.
const POLICIES: &str = "download_mode = 3
min_file_size_to_cache = 1
percentage_max_foreground_bandwidth = 100
percentage_max_background_bandwidth = 100
monthly_upload_data_cap = 0
";

/// A daemon that has a tunnel.
fn start(node: &Node, discovery: &str, policies: &str) -> Daemon {
    start_with(node, "", discovery, "", &format!("{POLICIES}{policies}"))
}

/// The same with all policies; `daemon` and `nat`: more settings of these tables.
fn start_with(node: &Node, daemon: &str, discovery: &str, nat: &str, policies: &str) -> Daemon {
    let tables = format!(
        "{discovery}
[nat]
teredo_servers = [\"{SERVER}\"]
teredo_port = {TUNNEL_PORT}
{nat}
[transfers]
max_active_uploads = 64
[delivery_optimization]
{policies}"
    );
    let daemon = Daemon::start_with(node, daemon, &tables);
    wait_for("an address in the tunnel", PATIENCE, || tunnel(&daemon));
    daemon
}

/// The daemon's address in the tunnel, while it has one.
fn tunnel(daemon: &Daemon) -> Option<Ipv6Addr> {
    let teredo = daemon.status().teredo.expect("a server is configured");
    teredo.split_whitespace().next()?.parse().ok()
}

fn by(explanation: &Explanation, transport: Transport) -> Vec<&SourceExplanation> {
    let sources = explanation.sources.iter();
    sources
        .filter(|source| source.transport == Some(transport))
        .collect()
}

/// For each pair of homes a content of its own: the right one has it, the left one wants it. Nobody is told of anybody but
/// by the control plane.
#[test]
#[ignore = "needs root, network namespaces and nftables"]
fn every_pair_of_nats_exchanges_what_it_can_and_the_origin_gives_the_rest() {
    const BYTES: u64 = 2 * MIB;
    let mut internet = Internet::new();
    let nginx = Nginx::start(&internet.services, &content::folder());
    let plane = Plane::start(&internet.services);
    let mut sides = [(203, 0, 113), (192, 0, 2)].map(|(a, b, c)| {
        let homes = Kind::ALL.iter().zip(10..);
        let homes = homes.map(|(kind, n)| (*kind, internet.home(Ipv4Addr::new(a, b, c, n), *kind)));
        homes.collect::<Vec<_>>()
    });
    let [left, right] = &mut sides;
    let contents: Vec<Vec<(Content, String)>> = (0..left.len())
        .map(|i| {
            let seeds = (0..right.len()).map(|j| 1000 + 10 * i as u64 + j as u64);
            let contents = seeds.map(|seed| Content::random(seed, BYTES));
            contents
                .map(|content| {
                    let url = nginx.url(&content.name).replacen(":80/", "/", 1);
                    (content, url)
                })
                .collect()
        })
        .collect();
    let all = contents.iter().flatten();
    plane.publish_all(all.map(|(content, url)| (content, url.as_str())));
    let seeds: Vec<_> = (right.iter())
        .map(|(kind, home)| (*kind, start(&home.node, &plane.table(), "")))
        .collect();
    for (j, (_, seed)) in seeds.iter().enumerate() {
        let gets = contents.iter().map(|of| seed.start_get(&of[j].1, &[]));
        for get in gets.collect::<Vec<_>>() {
            let _here = get.finish();
        }
    }
    let pairs = left.len() * right.len();
    wait_for("all seeds to be listed", PATIENCE, || {
        (plane.peers() >= pairs as u64).then_some(())
    });
    // Long enough for every path to open or to fail.
    let wait = "delay_background_download_from_http = 20";
    let leeches: Vec<_> = (left.iter())
        .map(|(kind, home)| (*kind, start(&home.node, &plane.table(), wait)))
        .collect();
    let mut gets = Vec::new();
    for (i, (a, leech)) in leeches.iter().enumerate() {
        for (j, (b, _)) in seeds.iter().enumerate() {
            let (content, url) = &contents[i][j];
            gets.push(((*a, *b), leech, leech.start_get(url, &[]), content));
        }
    }
    let mut wrong = Vec::new();
    for ((a, b), leech, get, content) in gets {
        let result = get.finish();
        content.assert_same(&result.output);
        let explanation = leech.explain(&content.swarm_hash().to_hex());
        let tunnels = by(&explanation, Transport::Teredo);
        let status = result.status;
        let right = if a.reaches(b) {
            // Both call each other straight as well, and who does so opens its own NAT: to everybody (cone), or to the
            // other one, whose port is the usual one where its NAT keeps numbers. Such a path is as good.
            let straight = by(&explanation, Transport::Quic);
            let mut ways = tunnels.iter().chain(&straight);
            status.downloaded.internet == BYTES
                && ways.any(|source| source.delivered_bytes == BYTES)
        } else {
            let failed = |source: &&SourceExplanation| source.why.contains("no path");
            status.downloaded.http == BYTES && tunnels.iter().any(failed)
        };
        if !right {
            wrong.push((a, b, status.downloaded, explanation.sources));
        }
    }
    assert!(wrong.is_empty(), "{} wrong: {wrong:#?}", wrong.len());
}

#[test]
#[ignore = "needs root, network namespaces and nftables"]
fn a_path_that_dies_is_replaced_and_the_download_goes_on() {
    let mut internet = Internet::new();
    let nginx = Nginx::start(&internet.services, &content::folder());
    let content = Content::random(1, 48 * MIB);
    let url = nginx.url(&content.name);
    let home = internet.home(Ipv4Addr::new(203, 0, 113, 10), Kind::Port);
    let public = internet.public("public", Ipv4Addr::new(192, 0, 2, 50));
    let seed = start(&public, "", "");
    let _here = seed.get(&url, &content, &[]);
    // Some fifteen seconds.
    let slow = "max_foreground_download_bandwidth = 3000
delay_foreground_download_from_http = 3600";
    let slow = POLICIES.replace("percentage_max_foreground_bandwidth = 100\n", "") + slow;
    let tables = format!(
        "[nat]\nteredo_servers = [\"{SERVER}\"]\nteredo_port = {TUNNEL_PORT}\n[delivery_optimization]\n{slow}"
    );
    let leech = Daemon::start_with(&home.node, "", &tables);
    wait_for("an address in the tunnel", PATIENCE, || tunnel(&leech));
    let straight = SocketAddr::new(public.ip(), SWARM_PORT).to_string();
    let tunnelled = tunnel(&seed).expect("it has one");
    let tunnelled = SocketAddr::new(tunnelled.into(), SWARM_PORT).to_string();
    let arguments = ["--foreground", "--peer", &straight, "--peer", &tunnelled];
    let mut get = leech.start_get(&url, &arguments);
    leech.wait_for_bytes(&mut get, 8 * MIB);
    let file_id = content.swarm_hash().to_hex();
    let delivering = |transport| {
        let explanation = leech.explain(&file_id);
        let sources = by(&explanation, transport);
        sources.iter().any(|source| source.delivered_bytes > 0)
    };
    assert!(delivering(Transport::Quic), "{:?}", leech.explain(&file_id));
    home.block_port(SWARM_PORT);
    let before = leech.jobs()[0].bytes_done;
    assert!(before < content.bytes, "too late");
    let result = get.finish();
    content.assert_same(&result.output);
    let status = &result.status;
    assert_eq!(
        status.downloaded.internet,
        status.downloaded.total(),
        "{status:?}"
    );
    assert!(status.downloaded.total() >= content.bytes);
    assert!(
        delivering(Transport::Teredo),
        "{:?}",
        leech.explain(&file_id)
    );
}

/// As a Windows machine is: it has a Teredo address, and TCP port 7680 there. Members of a group prove it there, too.
#[test]
#[ignore = "needs root, network namespaces and nftables"]
fn a_peer_that_knows_no_quic_gives_and_takes_by_tcp_through_the_tunnel() {
    let mut internet = Internet::new();
    let nginx = Nginx::start(&internet.services, &content::folder());
    let plane = Plane::start(&internet.services);
    let contents = [4, 5, 6, 7].map(|seed| Content::random(seed, 24 * MIB));
    let url = |content: &Content| nginx.url(&content.name).replacen(":80/", "/", 1);
    let urls = contents.each_ref().map(url);
    plane.publish_all(contents.iter().zip(urls.iter().map(String::as_str)));
    let in_group = POLICIES.replace(
        "download_mode = 3",
        "download_mode = 2\ngroup_id = \"6f1e0a52-0c5e-4d0c-9d0c-6f6a5f0f7a11\"",
    );
    let mut contents = contents.iter().zip(&urls);
    for (n, policies) in [(10, POLICIES), (20, &in_group)] {
        let mut daemon = |wan, kind, quic: &str| {
            let home = internet.home(wan, kind);
            let wait = "delay_background_download_from_http = 3600";
            let nat = format!("quic = \"{quic}\"");
            let daemon = start_with(
                &home.node,
                "",
                &plane.table(),
                &nat,
                &format!("{policies}{wait}"),
            );
            (home, daemon)
        };
        let (_home, knowing) = daemon([203, 0, 113, n].into(), Kind::Port, "distant");
        let (_other_home, plain) = daemon([192, 0, 2, n + 1].into(), Kind::PortShift, "off");
        for (giver, taker) in [(&plain, &knowing), (&knowing, &plain)] {
            let (content, url) = contents.next().expect("there are four");
            let listed = plane.peers();
            let _here = giver.get(url, content, &["--foreground"]);
            wait_for("the giver to be listed", PATIENCE, || {
                (plane.peers() > listed).then_some(())
            });
            let result = taker.get(url, content, &[]);
            content.assert_same(&result.output);
            let downloaded = result.status.downloaded;
            assert_eq!(downloaded.internet + downloaded.group, content.bytes);
            let explanation = taker.explain(&content.swarm_hash().to_hex());
            let by_tcp = by(&explanation, Transport::TeredoTcp);
            let delivered: u64 = by_tcp.iter().map(|s| s.delivered_bytes).sum();
            assert_eq!(delivered, content.bytes, "{:#?}", explanation.sources);
        }
        for (daemon, quic) in [(&knowing, true), (&plain, false)] {
            let shown = daemon.output(&["teredo", "status", "--json"]).stdout;
            let shown: serde_json::Value = serde_json::from_slice(&shown).expect("it is JSON");
            assert_eq!(
                shown["address"],
                tunnel(daemon).expect("it has one").to_string()
            );
            let speaks = &shown["speaks"];
            let count = |name: &str| speaks[name].as_u64().expect("a number");
            assert_eq!(speaks["quic"], quic);
            assert!(
                count("tcp_incoming") > 0 && count("tcp_outgoing") > 0,
                "{speaks}"
            );
            assert_eq!(count("tcp_refused"), 0);
        }
    }
}

/// Both download, so each is told of the other and dials it: what one sends opens its own router for what the other sends.
#[test]
#[ignore = "needs root, network namespaces and nftables"]
fn two_that_download_the_same_open_their_routers_for_each_other() {
    let mut internet = Internet::new();
    let nginx = Nginx::start(&internet.services, &content::folder());
    let plane = Plane::start(&internet.services);
    let content = Content::random(3, 24 * MIB);
    let url = nginx.url(&content.name).replacen(":80/", "/", 1);
    plane.publish(&content, &url);
    // So slow that they meet long before they have everything.
    let slow = POLICIES.replace("percentage_max_background_bandwidth = 100\n", "")
        + "max_background_download_bandwidth = 1000\n";
    let leeches = [[203, 0, 113, 10], [192, 0, 2, 11]].map(|wan| {
        let home = internet.home(wan.into(), Kind::Port);
        let tables = format!("{}[delivery_optimization]\n{slow}", plane.table());
        Daemon::start_with(&home.node, "", &tables)
    });
    let gets = leeches.each_ref().map(|leech| leech.start_get(&url, &[]));
    let results = gets.map(|get| get.finish());
    for result in &results {
        content.assert_same(&result.output);
    }
    let delivered = |leech: &Daemon| {
        let explanation = leech.explain(&content.swarm_hash().to_hex());
        let sources = by(&explanation, Transport::Quic);
        sources.iter().map(|s| s.delivered_bytes).sum::<u64>()
    };
    let by_quic: u64 = leeches.iter().map(delivered).sum();
    assert!(by_quic > 0, "{results:?}");
}

/// The one that has everything asks nobody, so its router lets nobody in: it hears of the other from the array, and calls it.
#[test]
#[ignore = "needs root, network namespaces and nftables"]
fn who_has_everything_calls_those_that_look_for_it_through_its_router() {
    let mut internet = Internet::new();
    let nginx = Nginx::start(&internet.services, &content::folder());
    let plane = Plane::start(&internet.services);
    let content = Content::random(8, 8 * MIB);
    let url = nginx.url(&content.name).replacen(":80/", "/", 1);
    plane.publish(&content, &url);
    let mut daemon = |wan: [u8; 4], policies: &str| {
        let home = internet.home(wan.into(), Kind::Port);
        let table = plane.table();
        let tables = format!("{table}[delivery_optimization]\n{POLICIES}{policies}");
        Daemon::start_with(&home.node, "", &tables)
    };
    let seed = daemon([192, 0, 2, 11], "");
    let leech = daemon(
        [203, 0, 113, 10],
        "delay_background_download_from_http = 3600",
    );
    let _here = seed.get(&url, &content, &[]);
    wait_for("the seed to be listed", PATIENCE, || {
        (plane.peers() > 0).then_some(())
    });
    let result = leech.get(&url, &content, &[]);
    content.assert_same(&result.output);
    assert_eq!(result.status.downloaded.internet, content.bytes);
    let explanation = leech.explain(&content.swarm_hash().to_hex());
    let sources = by(&explanation, Transport::Quic);
    let delivered: u64 = sources.iter().map(|s| s.delivered_bytes).sum();
    assert_eq!(delivered, content.bytes, "{:#?}", explanation.sources);
}

/// The least that the tunnel must give of what plain QUIC gives on the same path.
const RATIO_MIN: f64 = 0.55;
/// Pairs of rates of which the median counts, where the first one falls short: the machine has other things to do, too.
const TRIES: usize = 5;
/// Nobody but the peer gives anything.
const PEER_ONLY: &str = "delay_foreground_download_from_http = 3600";

/// The same content through the tunnel and straight, on the same path, by the same daemons. With `DOSVC_LAB_FULL=1`: 256 MiB
/// for every pair of routers that reach each other, and the tunnel must not be slower than [`RATIO_MIN`] of plain QUIC.
#[test]
#[ignore = "needs root, network namespaces and nftables"]
fn a_tunnel_is_not_much_slower_than_plain_quic_between_daemons() {
    let _alone = Turn::alone();
    let kinds = match is_full() {
        true => Kind::ALL.to_vec(),
        false => vec![Kind::Port],
    };
    let mut internet = Internet::new();
    let nginx = Nginx::start(&internet.services, &content::folder());
    let content = Content::random(2, measured_bytes());
    let url = nginx.url(&content.name);
    let mut home =
        |net: [u8; 3], kind, n| internet.home(Ipv4Addr::new(net[0], net[1], net[2], n), kind);
    let givers: Vec<(Kind, Home, Daemon)> = (kinds.iter().zip(10..))
        .map(|(kind, n)| {
            let home = home([192, 0, 2], *kind, n);
            home.forward_port(SWARM_PORT);
            let seed = start(&home.node, "", "");
            let _here = seed.get(&url, &content, &[]);
            (*kind, home, seed)
        })
        .collect();
    let mut slow = Vec::new();
    for (a, n) in kinds.iter().zip(10..) {
        let taker = home([203, 0, 113], *a, n);
        let leech = start(&taker.node, "", PEER_ONLY);
        for (b, giver, seed) in givers.iter().filter(|(b, ..)| a.reaches(*b)) {
            let ratio = ratio(&leech, seed, giver.wan, (&content, &url));
            eprintln!("{a:?} from {b:?}: {ratio:.2}");
            if ratio < RATIO_MIN {
                slow.push((*a, *b, ratio));
            }
        }
    }
    assert!(!is_full() || slow.is_empty(), "{slow:?}");
}

/// A symmetric router and a port-restricted one let nobody through, unless the daemon behind the latter has had its ports
/// mapped, which it does by itself.
#[test]
#[ignore = "needs root, nftables and miniupnpd"]
fn with_a_mapped_port_a_symmetric_nat_and_a_port_restricted_one_reach_each_other() {
    let _alone = is_full().then(Turn::alone);
    let mut internet = Internet::new();
    let nginx = Nginx::start(&internet.services, &content::folder());
    let contents = [6, 7].map(|seed| Content::random(seed, measured_bytes()));
    let urls = contents.each_ref().map(|content| nginx.url(&content.name));
    let port = internet.home(Ipv4Addr::new(203, 0, 113, 10), Kind::Port);
    let symmetric = internet.home(Ipv4Addr::new(192, 0, 2, 11), Kind::Symmetric);
    assert!(!Kind::Port.reaches(Kind::Symmetric));
    let _miniupnpd = port.map_ports(&internet);
    symmetric.forward_port(SWARM_PORT);
    let mapping = start_with(
        &port.node,
        "host_root = \"/\"",
        "",
        "",
        &format!("{POLICIES}{PEER_ONLY}"),
    );
    wait_for("the mapped ports", PATIENCE, || {
        let mapped = mapping.status().port_mapping?.mappings;
        let tunnel = |port: &MappedPort| port.protocol == "UDP" && port.port == TUNNEL_PORT;
        mapped.iter().any(tunnel).then_some(())
    });
    let hidden = start(&symmetric.node, "", PEER_ONLY);
    let pairs = [
        (&hidden, &mapping, MINIUPNPD_EXTERNAL),
        (&mapping, &hidden, symmetric.wan),
    ];
    for ((taker, giver, straight), (content, url)) in
        pairs.into_iter().zip(contents.iter().zip(&urls))
    {
        // In the background it has not to wait for peers.
        let _here = giver.get(url, content, &[]);
        let ratio = ratio(taker, giver, straight, (content, url));
        assert!(!is_full() || ratio >= RATIO_MIN, "{ratio}");
    }
}

fn measured_bytes() -> u64 {
    match is_full() {
        true => 256 * MIB,
        false => scenario_bytes(32),
    }
}

/// How fast the tunnel is against plain QUIC to the same peer: the median of [`TRIES`], or the first try when that will do.
fn ratio(
    leech: &Daemon,
    seed: &Daemon,
    straight: Ipv4Addr,
    (content, url): (&Content, &str),
) -> f64 {
    let straight = SocketAddr::new(straight.into(), SWARM_PORT);
    let mut ratios = Vec::new();
    while ratios.len() < if is_full() { TRIES } else { 1 } {
        let tunnelled = wait_for("an address in the tunnel", PATIENCE, || tunnel(seed));
        let tunnelled = SocketAddr::new(tunnelled.into(), SWARM_PORT);
        let plain = rate(leech, content, url, straight);
        let tunnel = rate(leech, content, url, tunnelled);
        eprintln!("plain {plain:.0} Mbit/s, tunnel {tunnel:.0} Mbit/s");
        ratios.push(tunnel / plain);
        if ratios[0] >= RATIO_MIN {
            break;
        }
    }
    ratios.sort_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}

/// Downloads it from there alone, and forgets it again; in Mbit/s.
fn rate(leech: &Daemon, content: &Content, url: &str, from: SocketAddr) -> f64 {
    let from = from.to_string();
    let result = leech.get(url, content, &["--foreground", "--peer", &from]);
    let status = &result.status;
    assert_eq!(status.downloaded.internet, content.bytes, "{status:?}");
    leech.command(&["cache", "delete", "--all"]);
    std::fs::remove_file(&result.output).expect("it was there");
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 bits")]
    let bits = (8 * content.bytes) as f64;
    bits * 1e-6 / result.elapsed.as_secs_f64()
}
