//! Gates and group ids from facts about the machine, which is a tree of files here: they change while the daemon runs.

use crate::{
    content::Content,
    daemon::{Daemon, GetResult},
    namespace::{Lab, Node},
    nginx::Nginx,
    origin::Origin,
    process::wait_for,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

const CONTENT_BYTES: u64 = (24 << 20) + 12_345;
/// A change is noticed within half a second; machines that run tests may be slow.
const PATIENCE: Duration = Duration::from_secs(20);
const GUID: &str = "b3b1c2d4-5e6f-4a7b-8c9d-0e1f2a3b4c5d";
/// As worked out in the reference.
const HASH: &str = "f1wUYWDcIiHiqG8I3oGVvf5M2sifiOBuVBqt+Eo9Ako=";

/// A machine on loopback whose own files are a tree that the test writes.
struct Machine {
    node: Node,
    _folder: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .expect("the target folder can be written");
        Self {
            node: Node::here(folder.path()),
            _folder: folder,
        }
    }

    fn root(&self) -> PathBuf {
        self.node.dir().join("host")
    }

    fn write(&self, file: &str, text: &str) {
        write(&self.root().join(file), text);
    }

    fn daemon(&self, policies: &str) -> Daemon {
        let daemon = format!(
            "listen = [\"127.0.0.1:0\"]\nhost_root = {:?}\nlog_level = \"debug\"",
            self.root()
        );
        let tables = format!(
            "[delivery_optimization]\nmin_file_size_to_cache = 10\n{policies}\n[discovery]\ndns_sd = false"
        );
        Daemon::start_with(&self.node, &daemon, &tables)
    }

    /// Mains or battery, and how full it is.
    fn power(&self, on_mains: bool, percent: u8) {
        let supplies = "sys/class/power_supply";
        let (online, status) = if on_mains {
            ("1", "Charging")
        } else {
            ("0", "Discharging")
        };
        self.write(&format!("{supplies}/BAT0/type"), "Battery");
        self.write(&format!("{supplies}/AC/type"), "Mains");
        self.write(&format!("{supplies}/BAT0/capacity"), &percent.to_string());
        self.write(&format!("{supplies}/BAT0/status"), status);
        self.write(&format!("{supplies}/AC/online"), online);
    }

    /// What DHCP says on the adapter of the default route.
    fn lease(&self, group: &str) {
        let route = "Iface Destination Gateway Flags RefCnt Use Metric Mask\neth0 00000000 0100A8C0 0003 0 0 100 00000000\n";
        self.write("proc/net/route", route);
        self.write("sys/class/net/eth0/ifindex", "2");
        let option: String = group.bytes().map(|b| format!("{b:02x}")).collect();
        self.write(
            "run/systemd/netif/leases/2",
            &format!("OPTION_234={option}\n"),
        );
    }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a file")).expect("the folder can be written");
    fs::write(path, format!("{text}\n")).expect("the folder can be written");
}

/// Waits until exactly these gates are closed.
fn wait_for_gates(daemon: &Daemon, expected: &[(&str, &str)]) {
    let what = format!("the gates {expected:?}");
    wait_for(&what, PATIENCE, || {
        let gates = daemon.status().gates;
        let closed = gates
            .iter()
            .map(|gate| (gate.name.as_str(), gate.code.as_str()));
        closed.eq(expected.iter().copied()).then_some(())
    });
}

fn peer_address(daemon: &Daemon) -> String {
    daemon.status().listening[0].to_string()
}

fn from_peers(result: &GetResult) -> u64 {
    result.status.downloaded.peers()
}

#[test]
fn battery_closes_uploads_alone_and_opens_again_by_itself() {
    let (laptop, second, third) = (Machine::new(), Machine::new(), Machine::new());
    let (content, other) = (
        Content::random(30, CONTENT_BYTES),
        Content::random(31, CONTENT_BYTES),
    );
    // Enough for the two that have to have it from here, and for one copy of the other content.
    let origin = Origin::with_gate(2 * content.bytes + other.bytes);
    laptop.power(true, 30);
    let laptop_daemon = laptop.daemon("min_battery_percentage_allowed_to_upload = 40");
    laptop_daemon.get(&origin.url(&content.name), &content, &[]);
    laptop_daemon.wait_until_shared(&content);

    laptop.power(false, 30);
    wait_for_gates(&laptop_daemon, &[("battery", "0x80D03804")]);
    let log = laptop_daemon.log();
    assert!(
        log.contains("battery") && log.contains("0x80D03804"),
        "{log}"
    );
    let second_daemon = second.daemon("");
    let peer = peer_address(&laptop_daemon);
    let result = second_daemon.get(&origin.url(&content.name), &content, &["--peer", &peer]);
    assert_eq!(from_peers(&result), 0, "{:?}", result.status);
    assert_eq!(laptop_daemon.status().uploaded.total(), 0);

    // Downloading from peers goes on: the origin stands still by now.
    second_daemon.get(&origin.url(&other.name), &other, &[]);
    second_daemon.wait_until_shared(&other);
    let peer = peer_address(&second_daemon);
    let result = laptop_daemon.get(&origin.url(&other.name), &other, &["--peer", &peer]);
    assert_eq!(from_peers(&result), other.bytes, "{:?}", result.status);

    laptop.power(false, 41);
    wait_for_gates(&laptop_daemon, &[]);
    laptop_daemon.wait_until_shared(&content);
    let peer = peer_address(&laptop_daemon);
    let result = third
        .daemon("")
        .get(&origin.url(&content.name), &content, &["--peer", &peer]);
    assert_eq!(from_peers(&result), content.bytes, "{:?}", result.status);
}

#[test]
fn vpn_closes_peers_in_a_running_daemon_until_it_is_gone() {
    let (machine, content) = (Machine::new(), Content::random(30, CONTENT_BYTES));
    let origin = Origin::start();
    for (key, value) in [
        ("flags", "0x1003"),
        ("operstate", "up"),
        ("ifalias", "Contoso line"),
    ] {
        machine.write(&format!("sys/class/net/eth9/{key}"), value);
    }
    machine.write("sys/class/net/changed", "");
    let daemon = machine.daemon("vpn_keywords = \"contoso\"");
    wait_for_gates(&daemon, &[("vpn", "0x80D03807")]);
    assert_eq!(daemon.status().listening, [], "no peers, no port for them");
    let result = daemon.get(&origin.url(&content.name), &content, &[]);
    assert_eq!(result.status.download_mode, 0, "{:?}", result.status);
    assert!(
        result
            .status
            .notes
            .iter()
            .any(|note| note.contains("Contoso line"))
    );

    machine.write("sys/class/net/eth9/operstate", "down");
    machine.write("sys/class/net/changed", "");
    wait_for_gates(&daemon, &[]);
    daemon.wait_until_shared(&content);
    assert_eq!(daemon.status().listening.len(), 1);
}

/// A system's bus of its own; ended when dropped.
struct Bus(Child);

impl Bus {
    /// `None` where there is no dbus-daemon.
    fn start(root: &Path) -> Option<Self> {
        let socket = root.join("run/dbus/system_bus_socket");
        let config = root.join("bus.conf");
        write(
            &config,
            &format!(
                "<busconfig><type>system</type><listen>unix:path={}</listen><auth>EXTERNAL</auth><policy context=\"default\">\
                 <allow send_destination=\"*\" eavesdrop=\"true\"/><allow eavesdrop=\"true\"/><allow own=\"*\"/></policy></busconfig>",
                socket.display()
            ),
        );
        fs::create_dir_all(socket.parent()?).expect("the folder can be written");
        let daemon = Command::new("dbus-daemon")
            .arg("--nofork")
            .arg(format!("--config-file={}", config.display()))
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let bus = Self(daemon);
        wait_for("the bus", PATIENCE, || socket.exists().then_some(()));
        Some(bus)
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// As much of NetworkManager as says that the connection is metered.
struct Manager {
    metered: u32,
}

#[zbus::interface(name = "org.freedesktop.NetworkManager")]
impl Manager {
    #[zbus(property)]
    fn metered(&self) -> u32 {
        self.metered
    }
}

const MANAGER: &str = "/org/freedesktop/NetworkManager";

async fn set_metered(connection: &zbus::Connection, metered: u32) -> zbus::Result<()> {
    let server = connection.object_server();
    let manager = server.interface::<_, Manager>(MANAGER).await?;
    manager.get_mut().await.metered = metered;
    let emitter = manager.signal_emitter();
    manager.get().await.metered_changed(emitter).await
}

#[test]
fn metered_connection_holds_back_background_downloads_and_lets_them_go() {
    let (machine, content) = (Machine::new(), Content::random(30, CONTENT_BYTES));
    let Some(_bus) = Bus::start(&machine.root()) else {
        eprintln!("no dbus-daemon here");
        return;
    };
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    let address = format!(
        "unix:path={}/run/dbus/system_bus_socket",
        machine.root().display()
    );
    let manager = runtime
        .block_on(
            zbus::connection::Builder::address(address.as_str())
                .serve_at(MANAGER, Manager { metered: 1 })
                .name("org.freedesktop.NetworkManager")
                .build(),
        )
        .expect("the bus takes it");
    let origin = Origin::start();
    let daemon = machine.daemon("");
    wait_for_gates(&daemon, &[("metered", "0x80D03801")]);
    let get = daemon.start_get(&origin.url(&content.name), &[]);
    wait_for("the download to say why it waits", PATIENCE, || {
        let jobs = daemon.jobs();
        let waiting = jobs.first()?.waiting.as_ref()?;
        waiting.contains("0x80D03801").then_some(())
    });
    assert_eq!(origin.bytes_sent(&content.name), 0);
    // Somebody waits for this one.
    let other = Content::random(31, CONTENT_BYTES);
    daemon.get(&origin.url(&other.name), &other, &["--foreground"]);
    assert_eq!(origin.bytes_sent(&content.name), 0);
    runtime
        .block_on(set_metered(&manager, 2))
        .expect("the bus takes it");
    let result = get.finish();
    assert_eq!(result.status.downloaded.http, content.bytes);
    content.assert_same(&result.output);
}

#[test]
fn group_id_comes_from_dhcp_and_is_logged_as_in_the_original() {
    let (first, second, stranger) = (Machine::new(), Machine::new(), Machine::new());
    let content = Content::random(30, CONTENT_BYTES);
    let origin = Origin::with_gate(content.bytes);
    let policies = "download_mode = 2\ngroup_id_source = 3";
    first.lease(GUID);
    second.lease(GUID);
    stranger.lease("00000000-0000-0000-0000-000000000001");
    let [seed, member, outsider] = [&first, &second, &stranger].map(|m| m.daemon(policies));
    for line in [
        format!("Using groupID = {GUID}"),
        format!("Hashed groupID = {HASH}"),
    ] {
        assert!(seed.log().contains(&line), "{line}: {}", seed.log());
    }
    let url = origin.url(&content.name);
    seed.get(&url, &content, &[]);
    seed.wait_until_shared(&content);
    let peer = peer_address(&seed);
    let result = member.get(&url, &content, &["--peer", &peer]);
    assert_eq!(from_peers(&result), content.bytes, "{:?}", result.status);

    let mut waiting = outsider.start_get(&url, &["--peer", &peer]);
    // It moves to the group's network: nothing else lets it have a byte.
    stranger.lease(GUID);
    wait_for("the new group", PATIENCE, || {
        let line = format!("Hashed groupID = {HASH}");
        outsider.log().contains(&line).then_some(())
    });
    let progress = outsider.wait_for_bytes(&mut waiting, 1);
    assert_eq!(progress.downloaded.http, 0, "{progress:?}");
    assert_eq!(from_peers(&waiting.finish()), content.bytes);
}

#[test]
fn group_mode_without_any_group_has_no_peers_and_says_so() {
    let machine = Machine::new();
    // The automatic order knows nothing of DHCP.
    machine.lease(GUID);
    let daemon = machine.daemon("download_mode = 2");
    wait_for_gates(&daemon, &[("group", "0x80D03806")]);
    assert_eq!(daemon.status().listening, []);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn adapter_of_a_vpn_closes_peers_as_soon_as_the_kernel_says_that_it_is_up() {
    let lab = Lab::new(3, None);
    let content = Content::random(1, CONTENT_BYTES);
    let nginx = Nginx::start(lab.at(0), &crate::content::folder());
    let tables = "[delivery_optimization]\nmin_file_size_to_cache = 10";
    let seed = Daemon::start_with(lab.at(1), "host_root = \"/\"", tables);
    let url = nginx.url(&content.name);
    seed.get(&url, &content, &[]);
    seed.wait_until_shared(&content);
    let vpn = |what: &str| {
        for command in what.split('\n') {
            let mut ip = lab.at(1).command("ip");
            crate::process::run(ip.args(command.split(' ')));
        }
    };
    // A TUN device would want a process behind it to be up; here its name tells it.
    vpn("link add vpn7 type veth peer name other7\nlink set other7 up\nlink set vpn7 up");
    wait_for_gates(&seed, &[("vpn", "0x80D03807")]);
    let leech = Daemon::start_with(lab.at(2), "", tables);
    let result = leech.get(&url, &content, &[]);
    assert_eq!(from_peers(&result), 0, "{:?}", result.status);
    assert_eq!(seed.status().uploaded.total(), 0);
    vpn("link del vpn7");
    wait_for_gates(&seed, &[]);
    seed.wait_until_shared(&content);
}
