//! Daemons on one machine find each other over loopback multicast.
#![expect(clippy::unwrap_used, reason = "tests")]

use dosvc_content::{GroupId, HashOfHashes, PeerId};
use dosvc_discovery::{Discovery, DiscoveryConfig, Found, InterfaceFilter, Search};
use std::{net::UdpSocket, time::Duration};

/// Longer than anything here takes on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(20);

/// A UDP port that nobody uses.
fn free_port() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

fn content(n: u8) -> HashOfHashes {
    HashOfHashes::from([n; 32])
}

fn peer(n: u8) -> PeerId {
    PeerId::from_random([n; 16])
}

fn config(n: u8, mdns_port: u16) -> DiscoveryConfig {
    DiscoveryConfig {
        peer_id: peer(n),
        port: 7680 + u16::from(n),
        group: None,
        interfaces: InterfaceFilter::Loopback,
        mdns_port,
    }
}

async fn start(n: u8, mdns_port: u16) -> Discovery {
    Discovery::start(config(n, mdns_port)).await.unwrap()
}

async fn next(search: &mut Search) -> Found {
    tokio::time::timeout(PATIENCE, search.next())
        .await
        .expect("a peer is found")
        .expect("discovery runs")
}

/// What is found in a time in which everything that answers has answered, once the search is settled.
async fn found_soon(search: &mut Search) -> Vec<PeerId> {
    search.settled().await;
    let mut found = Vec::new();
    while let Ok(Some(peer)) = tokio::time::timeout(Duration::from_millis(400), search.next()).await
    {
        found.push(peer.peer_id);
    }
    found
}

#[tokio::test]
async fn a_holder_is_found_with_port_and_address() {
    let port = free_port();
    let holder = start(1, port).await;
    let seeker = start(2, port).await;
    holder.announce(content(1), false);
    let mut search = seeker.find(content(1));
    let found = next(&mut search).await;
    assert_eq!(found.peer_id, peer(1));
    assert!(
        found.addrs.contains(&"127.0.0.1:7681".parse().unwrap()),
        "{found:?}"
    );
    holder.stop().await;
    seeker.stop().await;
}

#[tokio::test]
async fn a_content_is_found_only_from_who_holds_it() {
    let port = free_port();
    let (a, b, c) = (
        start(1, port).await,
        start(2, port).await,
        start(3, port).await,
    );
    a.announce(content(1), false);
    b.announce(content(2), false);
    c.announce(content(2), false);
    assert_eq!(found_soon(&mut c.find(content(1))).await, [peer(1)]);
    assert_eq!(found_soon(&mut c.find(content(2))).await, [peer(2)]);
    assert_eq!(found_soon(&mut a.find(content(3))).await, []);
}

#[tokio::test]
async fn machines_of_another_group_find_nothing() {
    let port = free_port();
    let in_group = |n, group: &str| DiscoveryConfig {
        group: Some(group.parse::<GroupId>().unwrap().hash()),
        ..config(n, port)
    };
    let holder = Discovery::start(in_group(1, "contoso.example"))
        .await
        .unwrap();
    let friend = Discovery::start(in_group(2, "contoso.example"))
        .await
        .unwrap();
    let stranger = Discovery::start(in_group(3, "fabrikam.example"))
        .await
        .unwrap();
    let outsider = start(4, port).await;
    holder.announce(content(1), true);
    assert_eq!(next(&mut friend.find(content(1))).await.peer_id, peer(1));
    assert_eq!(found_soon(&mut stranger.find(content(1))).await, []);
    assert_eq!(found_soon(&mut outsider.find(content(1))).await, []);
}

#[tokio::test]
async fn a_download_that_begins_is_known_to_who_searches_already() {
    let port = free_port();
    let seeker = start(1, port).await;
    let mut search = seeker.find(content(1));
    assert_eq!(found_soon(&mut search).await, []);
    let downloader = start(2, port).await;
    downloader.announce(content(1), true);
    assert_eq!(next(&mut search).await.peer_id, peer(2));
}

#[tokio::test]
async fn two_that_begin_at_once_find_each_other_and_not_themselves() {
    let port = free_port();
    let (a, b) = (start(1, port).await, start(2, port).await);
    a.announce(content(1), true);
    b.announce(content(1), true);
    let (mut of_a, mut of_b) = (a.find(content(1)), b.find(content(1)));
    let (found_by_a, found_by_b) = tokio::join!(found_soon(&mut of_a), found_soon(&mut of_b));
    assert_eq!(found_by_a, [peer(2)]);
    assert_eq!(found_by_b, [peer(1)]);
}

#[tokio::test]
async fn what_is_withdrawn_is_not_found_and_its_return_is_noticed() {
    let port = free_port();
    let (holder, seeker) = (start(1, port).await, start(2, port).await);
    holder.announce(content(1), true);
    let mut search = seeker.find(content(1));
    assert_eq!(next(&mut search).await.peer_id, peer(1));
    holder.withdraw(&content(1));
    assert_eq!(found_soon(&mut seeker.find(content(1))).await, []);
    // The old search has forgotten the peer too: it names it again.
    holder.announce(content(1), true);
    assert_eq!(next(&mut search).await.peer_id, peer(1));
}

#[tokio::test]
async fn who_stops_is_found_no_more_and_ends_its_searches() {
    let port = free_port();
    let (holder, seeker) = (start(1, port).await, start(2, port).await);
    holder.announce(content(1), true);
    assert_eq!(next(&mut seeker.find(content(1))).await.peer_id, peer(1));
    let mut search = holder.find(content(9));
    holder.stop().await;
    assert_eq!(search.next().await, None);
    assert_eq!(found_soon(&mut seeker.find(content(1))).await, []);
}

#[tokio::test]
async fn ten_thousand_contents_are_held_and_one_of_them_is_found() {
    let port = free_port();
    let (holder, seeker) = (start(1, port).await, start(2, port).await);
    for n in 0..10_000u32 {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&n.to_be_bytes());
        holder.announce(HashOfHashes::from(hash), false);
    }
    let mut hash = [0; 32];
    hash[..4].copy_from_slice(&7777u32.to_be_bytes());
    let mut search = seeker.find(HashOfHashes::from(hash));
    assert_eq!(next(&mut search).await.peer_id, peer(1));
}

#[tokio::test]
async fn a_port_that_is_not_shared_is_an_error_that_names_it() {
    let taken = UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = Discovery::start(config(1, port)).await.unwrap_err();
    assert!(error.to_string().contains(&port.to_string()), "{error}");
}

#[tokio::test]
async fn a_search_settles_with_the_first_answer_or_after_300_ms() {
    let port = free_port();
    let (holder, seeker) = (start(1, port).await, start(2, port).await);
    let begun = std::time::Instant::now();
    let unanswered = seeker.find(content(2));
    unanswered.settled().await;
    assert!(begun.elapsed() >= Duration::from_millis(300));
    holder.announce(content(1), true);
    let mut search = seeker.find(content(1));
    next(&mut search).await;
    search.settled().await;
}

#[tokio::test]
async fn dropping_discovery_ends_its_searches() {
    let discovery = start(1, free_port()).await;
    let mut search = discovery.find(content(1));
    drop(discovery);
    let end = tokio::time::timeout(PATIENCE, search.next()).await;
    assert_eq!(end.unwrap(), None);
}
