//! Our clients and our server with those of miredo.

use crate::{
    PATIENCE,
    gateway::{CLIENT_PORT, End, Kind, home},
    machine::{Internet, Machine, PRIMARY, Running, SECONDARY, wait_for},
    peer::{Client, server},
};
use std::{net::Ipv6Addr, os::unix::fs::PermissionsExt as _, process::Command};

/// A folder that programs without privileges can look into.
pub(crate) fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// A server of miredo; it is ready when its ports are open.
pub(crate) fn miredo_server(machine: &Machine, dir: &std::path::Path) -> Running {
    let config = dir.join("server.conf");
    let text = format!("ServerBindAddress {PRIMARY}\nServerBindAddress2 {SECONDARY}\n");
    std::fs::write(&config, text).unwrap();
    let server = start(machine, "miredo-server", &config, dir);
    wait_for("miredo-server's ports", PATIENCE, || {
        let table = machine
            .enter(|| std::fs::read_to_string("/proc/thread-self/net/udp"))
            .unwrap();
        let ours = format!(":{:04X} ", dosvc_nat::teredo::PORT);
        (table.matches(&ours).count() >= 2).then_some(())
    });
    server
}

fn start(
    machine: &Machine,
    program: &str,
    config: &std::path::Path,
    dir: &std::path::Path,
) -> Running {
    let mut command = machine.command(program);
    command.args(["-f", "-u", "nobody", "-c"]).arg(config);
    command
        .arg("-p")
        .arg(dir.join(format!("{program}-{}.pid", machine.name())));
    Running::start(&mut command)
}

/// A client of miredo, and the address that it got.
pub(crate) fn miredo(machine: &Machine, dir: &std::path::Path) -> (Running, Ipv6Addr) {
    let config = dir.join(format!("{}.conf", machine.name()));
    let text = format!(
        "RelayType client\nInterfaceName teredo\nServerAddress {PRIMARY}\nServerAddress2 {SECONDARY}\nBindPort {CLIENT_PORT}\n"
    );
    std::fs::write(&config, text).unwrap();
    let client = start(machine, "miredo", &config, dir);
    let address = wait_for("miredo's address", PATIENCE, || {
        let table = machine
            .enter(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6"))
            .ok()?;
        let line = table.lines().find(|line| line.starts_with("20010000"))?;
        u128::from_str_radix(line.get(..32)?, 16)
            .ok()
            .map(Ipv6Addr::from)
    });
    (client, address)
}

/// The kernel of a machine pings, through miredo's tunnel.
pub(crate) fn kernel_pings(machine: &Machine, address: Ipv6Addr) -> bool {
    let mut ping: Command = machine.command("ping");
    let answer = ping
        .args(["-6", "-n", "-c", "1", "-w", "10", &address.to_string()])
        .output();
    answer.unwrap().status.success()
}

#[test]
#[ignore = "needs root, nftables and miredo-server"]
fn our_clients_talk_by_miredos_server() {
    let dir = folder();
    let mut internet = Internet::new();
    let _server = miredo_server(internet.server(), dir.path());
    let machines = [
        (End::Left, Kind::Port),
        (End::Right, Kind::Port),
        (End::Right, Kind::Cone),
        (End::Left, Kind::Symmetric),
    ];
    let machines: Vec<_> = (10..)
        .zip(machines)
        .map(|(number, (end, kind))| home(&mut internet, end, kind, number))
        .collect();
    let clients = Client::start_all(&machines, CLIENT_PORT);
    for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 0), (3, 2), (2, 3)] {
        let answer = clients[from].ping(clients[to].address());
        assert!(answer.recv_timeout(PATIENCE).unwrap(), "{from} to {to}");
    }
}

#[test]
#[ignore = "needs root, nftables and miredo"]
fn miredos_clients_talk_by_our_server_with_each_other_and_with_ours() {
    let dir = folder();
    let mut internet = Internet::new();
    let _server = server(internet.server());
    let machines: Vec<_> = [(10, End::Left), (11, End::Right), (12, End::Right)]
        .map(|(number, end)| home(&mut internet, end, Kind::Port, number))
        .into();
    let (_one, first) = miredo(&machines[0], dir.path());
    let (_other, second) = miredo(&machines[1], dir.path());
    let clients = Client::start_all(&machines[2..], CLIENT_PORT);
    assert!(kernel_pings(&machines[0], second));
    assert!(kernel_pings(&machines[1], first));
    assert!(kernel_pings(&machines[0], clients[0].address()));
    assert!(clients[0].ping(second).recv_timeout(PATIENCE).unwrap());
}

#[test]
#[ignore = "needs root, nftables and miredo"]
fn a_symmetric_nat_and_one_that_does_not_filter_ports_meet_with_miredo_at_one_end() {
    let dir = folder();
    let mut internet = Internet::new();
    let _server = server(internet.server());
    let ends = [
        (10, End::Left, Kind::Cone),
        (11, End::Left, Kind::Address),
        (12, End::Right, Kind::Symmetric),
        (13, End::Right, Kind::Symmetric),
    ];
    let theirs = ends.map(|(number, end, kind)| home(&mut internet, end, kind, number));
    let ours = [ends[0], ends[1], ends[2]];
    let ours = ours.map(|(number, end, kind)| home(&mut internet, end, kind, number + 10));
    let miredos = theirs.each_ref().map(|machine| miredo(machine, dir.path()));
    let clients = Client::start_all(&ours, CLIENT_PORT);
    // What ours can't: reach miredo from behind a symmetric NAT. It takes nothing from there before it has called.
    for open in 0..2 {
        let kind = ends[open].2;
        let calls = clients[open].ping(miredos[2].1);
        assert!(
            calls.recv_timeout(PATIENCE).unwrap(),
            "ours, {kind:?}, to miredo"
        );
        let hidden = clients[2].address();
        assert!(
            kernel_pings(&theirs[open], hidden),
            "miredo, {kind:?}, to ours"
        );
        let unknown = &theirs[3];
        let address = clients[open].address();
        assert!(kernel_pings(unknown, address), "miredo to ours, {kind:?}");
    }
}
