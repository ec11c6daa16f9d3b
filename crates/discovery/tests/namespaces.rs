//! Two machines on a real link: network namespaces joined by a pair of virtual Ethernet interfaces. Needs root:
//!
//! ```text
//! cargo test -p dosvc-discovery --test namespaces -- --ignored --nocapture
//! ```
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "tests")]

use dosvc_content::{HashOfHashes, PeerId};
use dosvc_discovery::{Discovery, DiscoveryConfig, Found, InterfaceFilter, MDNS_PORT, Search};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    fs::{self, File},
    future::Future,
    net::SocketAddr,
    os::fd::AsFd as _,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// Longer than anything here takes on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a command of iproute2, words split at spaces; what it prints.
fn ip(words: &str) -> String {
    let output = Command::new("ip")
        .args(words.split(' '))
        .output()
        .expect("iproute2 is there");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {words}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Two namespaces; each has the interface `eth0`, which is the other end of the other's.
struct Pair([String; 2]);

/// Addresses that the interfaces have.
#[derive(PartialEq)]
enum Has {
    Ipv4,
    Ipv6LinkLocal,
    Ipv6Global,
}

impl Pair {
    fn new(has: &[Has]) -> Self {
        let ipv4 = has.contains(&Has::Ipv4);
        let global = has.contains(&Has::Ipv6Global);
        let ipv6 = global || has.contains(&Has::Ipv6LinkLocal);
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = COUNT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let names = ["a", "b"].map(|side| format!("dosvc-sd-{pid}-{unique}-{side}"));
        for name in &names {
            ip(&format!("netns add {name}"));
        }
        let pair = Self(names);
        let [a, b] = &pair.0;
        for name in [a, b] {
            // Without duplicate detection addresses can be used at once.
            for setting in [
                "net.ipv6.conf.default.accept_dad=0".to_owned(),
                format!("net.ipv6.conf.default.disable_ipv6={}", u8::from(!ipv6)),
            ] {
                ip(&format!("netns exec {name} sysctl -qw {setting}"));
            }
            ip(&format!("-n {name} link set lo up"));
        }
        ip(&format!(
            "link add eth0 netns {a} type veth peer name eth0 netns {b}"
        ));
        for (name, host) in [(a, 1), (b, 2)] {
            ip(&format!("-n {name} link set eth0 up"));
            if ipv4 {
                ip(&format!("-n {name} addr add 192.0.2.{host}/24 dev eth0"));
            }
            if global {
                ip(&format!(
                    "-n {name} addr add 2001:db8::{host}/64 dev eth0 nodad"
                ));
            }
        }
        if ipv6 {
            for name in [a, b] {
                pair.wait_for_link_local(name);
            }
        }
        pair
    }

    /// The kernel gives an interface its link-local address once the other end is up.
    fn wait_for_link_local(&self, name: &str) {
        let end = Instant::now() + PATIENCE;
        while ip(&format!("-n {name} -6 addr show dev eth0 scope link")).is_empty() {
            assert!(Instant::now() < end, "no link-local address");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Runs work in a namespace, on a thread of its own.
    fn run<T: Send + 'static, F: Future<Output = T>>(
        &self,
        side: usize,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let namespace = File::open(format!("/run/netns/{}", self.0[side])).unwrap();
        thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(work())
        })
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

fn content(n: u8) -> HashOfHashes {
    HashOfHashes::from([n; 32])
}

fn config(n: u8) -> DiscoveryConfig {
    DiscoveryConfig {
        peer_id: PeerId::from_random([n; 16]),
        port: 7680,
        group: None,
        interfaces: InterfaceFilter::Lan,
        mdns_port: MDNS_PORT,
    }
}

async fn next(search: &mut Search) -> Found {
    tokio::time::timeout(PATIENCE, search.next())
        .await
        .expect("a peer is found")
        .expect("discovery runs")
}

/// Machine 1 holds a content, machine 2 looks for it; what it finds, and after how long.
fn find_over(pair: &Pair) -> (Found, Duration) {
    let (ready, is_ready) = oneshot::channel();
    let (done, is_done) = oneshot::channel::<()>();
    let holder = pair.run(0, || async move {
        let discovery = Discovery::start(config(1)).await.unwrap();
        discovery.announce(content(1), false);
        while !listens() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        ready.send(()).unwrap();
        is_done.await.unwrap();
        discovery.stop().await;
    });
    let seeker = pair.run(1, || async move {
        is_ready.await.unwrap();
        let discovery = Discovery::start(config(2)).await.unwrap();
        let begun = Instant::now();
        let mut search = discovery.find(content(1));
        let found = next(&mut search).await;
        let took = begun.elapsed();
        done.send(()).unwrap();
        (found, took)
    });
    holder.join().unwrap();
    seeker.join().unwrap()
}

/// Whether anybody in this thread's namespace is a member of multicast DNS's group.
fn listens() -> bool {
    let read =
        |file| fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
    read("igmp").contains("FB0000E0") || read("igmp6").contains("ff0200000000000000000000000000fb")
}

/// Packets that this thread's namespace has sent over `eth0`.
fn packets_sent() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("eth0:"))
        .unwrap();
    line.split_whitespace().nth(9).unwrap().parse().unwrap()
}

fn is_scoped_link_local(addr: &SocketAddr) -> bool {
    matches!(addr, SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() && v6.scope_id() != 0)
}

fn assert_quick(took: Duration) {
    eprintln!("from find() to Found: {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_link_with_ipv4_and_ipv6_gives_both_kinds_of_addresses() {
    let (found, took) = find_over(&Pair::new(&[Has::Ipv4, Has::Ipv6Global]));
    assert_quick(took);
    let addrs = &found.addrs;
    for expected in ["192.0.2.1:7680", "[2001:db8::1]:7680"] {
        let expected: SocketAddr = expected.parse().unwrap();
        assert!(addrs.contains(&expected), "{addrs:?}");
    }
    assert!(addrs.iter().any(is_scoped_link_local), "{addrs:?}");
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_link_with_ipv4_only_is_enough() {
    let (found, took) = find_over(&Pair::new(&[Has::Ipv4]));
    assert_quick(took);
    assert_eq!(found.addrs, ["192.0.2.1:7680".parse().unwrap()]);
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_link_with_ipv6_link_local_addresses_only_is_enough() {
    let (found, took) = find_over(&Pair::new(&[Has::Ipv6LinkLocal]));
    assert_quick(took);
    assert_eq!(found.addrs.len(), 1, "{found:?}");
    assert!(is_scoped_link_local(&found.addrs[0]), "{found:?}");
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn without_anything_held_or_searched_nothing_is_sent_and_no_group_joined() {
    let pair = Pair::new(&[Has::Ipv4]);
    let work = pair.run(0, || async {
        let discovery = Discovery::start(config(1)).await.unwrap();
        let before = packets_sent();
        // There is no condition to wait for: that nothing happens takes time to see.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(packets_sent(), before);
        assert!(!listens());
        let search = discovery.find(content(1));
        search.settled().await;
        assert!(listens());
        assert!(packets_sent() > before);
        drop(search);
        let end = Instant::now() + PATIENCE;
        while listens() {
            assert!(Instant::now() < end, "the group is left");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        discovery.stop().await;
    });
    work.join().unwrap();
}

/// An interface that appears while a search runs takes part without a restart.
#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_link_that_comes_up_during_a_search_is_used() {
    let pair = Pair::new(&[Has::Ipv4]);
    ip(&format!("-n {} link set eth0 down", pair.0[1]));
    let name = pair.0[1].clone();
    let (up, is_up) = oneshot::channel::<()>();
    let seeker = pair.run(1, || async move {
        let discovery = Discovery::start(config(2)).await.unwrap();
        let mut search = discovery.find(content(1));
        search.settled().await;
        assert!(!listens(), "no link");
        up.send(()).unwrap();
        next(&mut search).await
    });
    is_up.blocking_recv().unwrap();
    ip(&format!("-n {name} link set eth0 up"));
    let (done, is_done) = oneshot::channel::<()>();
    let holder = pair.run(0, || async move {
        let discovery = Discovery::start(config(1)).await.unwrap();
        discovery.announce(content(1), false);
        is_done.await.unwrap();
        discovery.stop().await;
    });
    let found = seeker.join().unwrap();
    assert_eq!(found.addrs, ["192.0.2.1:7680".parse().unwrap()]);
    done.send(()).unwrap();
    holder.join().unwrap();
}

/// A machine that moves to another network, and holds contents only, would look at its interfaces once a minute:
/// the first question that comes over the new network makes it look.
#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_machine_that_has_moved_is_found_at_its_new_address() {
    let pair = Pair::new(&[Has::Ipv4]);
    let (listening, is_listening) = oneshot::channel();
    let (done, is_done) = oneshot::channel::<()>();
    let holder = pair.run(0, || async move {
        let discovery = Discovery::start(config(1)).await.unwrap();
        discovery.announce(content(1), false);
        while !listens() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        listening.send(()).unwrap();
        is_done.await.unwrap();
        discovery.stop().await;
    });
    is_listening.blocking_recv().unwrap();
    for (name, host) in pair.0.iter().zip([1, 2]) {
        ip(&format!("-n {name} addr flush dev eth0"));
        ip(&format!("-n {name} addr add 198.51.100.{host}/24 dev eth0"));
    }
    let seeker = pair.run(1, || async move {
        let discovery = Discovery::start(config(2)).await.unwrap();
        let begun = Instant::now();
        let found = next(&mut discovery.find(content(1))).await;
        done.send(()).unwrap();
        (found, begun.elapsed())
    });
    let (found, took) = seeker.join().unwrap();
    holder.join().unwrap();
    assert_eq!(found.addrs, ["198.51.100.1:7680".parse().unwrap()]);
    assert!(took < Duration::from_secs(10), "{took:?}");
}
