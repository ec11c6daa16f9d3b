//! Gates and group ids from facts about the machine, which is a tree of files here: they change while the daemon runs.

use crate::{
    content::Content,
    daemon::{Daemon, Get, GetResult, write_config},
    machine,
    namespace::{Lab, Node},
    nginx::Nginx,
    origin::Origin,
    process::wait_for,
};
use dosvc_engine::api::{JobStatus, SourceStanding};
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
struct Machine(machine::Machine);

impl Machine {
    fn new() -> Self {
        Self(machine::Machine::new())
    }

    fn node(&self) -> &Node {
        &self.0.node
    }

    fn root(&self) -> PathBuf {
        self.node().dir().join("host")
    }

    fn write(&self, file: &str, text: &str) {
        write(&self.root().join(file), text);
    }

    fn daemon(&self, policies: &str) -> Daemon {
        // What is watched must be there when watching begins.
        self.changed();
        let (daemon, tables) = self.configuration(policies);
        Daemon::start_with(self.node(), &daemon, &tables)
    }

    /// Puts other policies in force in the machine's running daemon, which watches the file.
    fn configure(&self, policies: &str) {
        let (daemon, tables) = self.configuration(policies);
        write_config(self.node(), &daemon, &tables);
    }

    fn configuration(&self, policies: &str) -> (String, String) {
        let daemon = format!(
            "listen = [\"127.0.0.1:0\"]\nhost_root = {:?}\nlog_level = \"debug\"",
            self.root()
        );
        let least = match policies.contains("min_file_size_to_cache") {
            true => "",
            false => "min_file_size_to_cache = 10\n",
        };
        let tables =
            format!("[delivery_optimization]\n{least}{policies}\n[discovery]\ndns_sd = false");
        (daemon, tables)
    }

    /// Has the machine looked at: of the kernel's own files nobody hears when they change, but of this one.
    fn changed(&self) {
        self.write("sys/class/net/changed", "");
    }

    fn memory(&self, gib: u64) {
        self.write("proc/meminfo", &format!("MemTotal: {} kB", gib << 20));
        self.changed();
    }

    /// An adapter with a VPN's word in its alias, up or down.
    fn vpn(&self, up: bool) {
        let adapter = "sys/class/net/eth9";
        self.write(&format!("{adapter}/flags"), "0x1003");
        self.write(&format!("{adapter}/ifalias"), "Contoso VPN");
        let state = if up { "up" } else { "down" };
        self.write(&format!("{adapter}/operstate"), state);
        self.changed();
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

    /// What DHCP says on the adapter of the default route, of one of its private options.
    fn lease(&self, option: u8, text: &str) {
        let route = "Iface Destination Gateway Flags RefCnt Use Metric Mask\neth0 00000000 0100A8C0 0003 0 0 100 00000000\n";
        self.write("proc/net/route", route);
        self.write("sys/class/net/eth0/ifindex", "2");
        let bytes: String = text.bytes().map(|b| format!("{b:02x}")).collect();
        self.write(
            "run/systemd/netif/leases/2",
            &format!("OPTION_{option}={bytes}\n"),
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
    let origin = Origin::start();
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

    // Downloading from peers goes on when the origin stands still.
    second_daemon.get(&origin.url(&other.name), &other, &[]);
    second_daemon.wait_until_shared(&other);
    origin.shut_gate();
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

/// A download that stands still at half: its only peer has no more, the origin gives nothing.
struct Halfway {
    origin: Origin,
    content: Content,
    seed: Daemon,
    _seeding: Get,
    _machine: Machine,
}

impl Halfway {
    fn new() -> Self {
        let content = Content::random(30, CONTENT_BYTES);
        let origin = Origin::with_gate(content.bytes / 2);
        let machine = Machine::new();
        let seed = machine.daemon("");
        let seeding = seed.start_get(&origin.url(&content.name), &[]);
        wait_for("the peer's half", PATIENCE, || {
            (seed.jobs().first()?.bytes_done > content.bytes / 4).then_some(())
        });
        Self {
            origin,
            content,
            seed,
            _seeding: seeding,
            _machine: machine,
        }
    }

    /// Begins to download from the peer.
    fn start_get(&self, daemon: &Daemon) -> Get {
        let peer = peer_address(&self.seed);
        let url = self.origin.url(&self.content.name);
        let get = daemon.start_get(&url, &["--peer", &peer]);
        wait_for_peers(daemon, 1);
        get
    }
}

/// Waits until the daemon's only download is connected to so many peers.
fn wait_for_peers(daemon: &Daemon, peers: u64) -> JobStatus {
    wait_for(&format!("{peers} peers"), PATIENCE, || {
        let jobs = daemon.jobs();
        jobs.into_iter()
            .find(|job| job.connections.peers() == peers)
    })
}

/// Something that closes peers, and how it is undone.
struct Closing<'a> {
    /// The gate and its code; none where a policy says so itself.
    gate: Option<(&'a str, &'a str)>,
    /// What the explanation names.
    says: &'a str,
    close: &'a dyn Fn(),
    open: &'a dyn Fn(),
}

/// One after the other, in one running download: whatever closes peers takes them from it and leaves it HTTP, is named
/// in status, log and explanation, and gives the peers back.
#[test]
fn whatever_closes_peers_does_so_in_a_running_download_and_gives_them_back() {
    const OPEN: &str = "delay_background_download_from_http = 600";
    let (machine, other) = (Machine::new(), Halfway::new());
    machine.memory(8);
    let daemon = machine.daemon(OPEN);
    let get = other.start_get(&daemon);
    let set = |policy: &str| {
        machine.configure(&format!(
            "{OPEN}
{policy}"
        ))
    };
    let unset = || machine.configure(OPEN);
    let closings = [
        Closing {
            gate: Some(("ram", "0x80D03806")),
            says: "min_ram_allowed_to_peer",
            close: &|| machine.memory(2),
            open: &|| machine.memory(8),
        },
        Closing {
            gate: Some(("disk", "0x80D03806")),
            says: "min_disk_size_allowed_to_peer",
            close: &|| set("min_disk_size_allowed_to_peer = 100000"),
            open: &unset,
        },
        Closing {
            gate: Some(("vpn", "0x80D03807")),
            says: "Contoso VPN",
            close: &|| machine.vpn(true),
            open: &|| machine.vpn(false),
        },
        Closing {
            gate: Some(("group", "0x80D03806")),
            says: "group_id_source",
            close: &|| set("download_mode = 2"),
            open: &unset,
        },
        Closing {
            gate: None,
            says: "min_file_size_to_cache",
            close: &|| set("min_file_size_to_cache = 1000"),
            open: &unset,
        },
        Closing {
            gate: None,
            says: "download_mode 1, 2 or 3",
            close: &|| set("download_mode = 0"),
            open: &unset,
        },
        Closing {
            gate: None,
            says: "restrict_peer_selection_by = 2",
            close: &|| set("restrict_peer_selection_by = 2"),
            open: &unset,
        },
    ];
    for closing in closings {
        let before = daemon.log().len();
        (closing.close)();
        wait_for_gates(&daemon, closing.gate.as_slice());
        let job = wait_for_peers(&daemon, 0);
        let explained = wait_for(closing.says, PATIENCE, || {
            let explained = daemon.explain(&job.id.to_string());
            let text = serde_json::to_string(&explained).expect("it came as JSON");
            text.contains(closing.says).then_some(explained)
        });
        if let Some((name, code)) = closing.gate {
            let log = daemon.log().split_off(before);
            assert!(log.contains(name) && log.contains(code), "{log}");
            let gate = explained.gates.iter().find(|gate| gate.name == name);
            let remedy = &gate.expect("it is closed").remedy;
            assert!(explained.advice.contains(remedy), "{explained:?}");
        }
        if !explained.no_peers.is_empty() {
            // Without peers there is nobody to wait for.
            wait_for("HTTP to go on", PATIENCE, || {
                (daemon.jobs().first()?.connections.http > 0).then_some(())
            });
        }
        (closing.open)();
        wait_for_gates(&daemon, &[]);
        wait_for_peers(&daemon, 1);
    }
    other.origin.open_gate();
    other.content.assert_same(&get.finish().output);
}

/// A battery that gets low ends an upload under way; the connection and what the other way goes on it stay.
#[test]
fn battery_that_gets_low_ends_a_running_upload_and_mains_power_resumes_it() {
    let (laptop, taker) = (Machine::new(), Machine::new());
    let content = Content::random(30, CONTENT_BYTES);
    let origin = Origin::with_gate(content.bytes / 2);
    laptop.power(true, 30);
    let seed = laptop.daemon("");
    let url = origin.url(&content.name);
    let seeding = seed.start_get(&url, &[]);
    wait_for("the laptop's half", PATIENCE, || {
        (seed.jobs().first()?.bytes_done > content.bytes / 4).then_some(())
    });
    let daemon = taker.daemon("delay_background_download_from_http = 600");
    let mut get = daemon.start_get(&url, &["--peer", &peer_address(&seed)]);
    daemon.wait_for_bytes(&mut get, content.bytes / 4);

    laptop.power(false, 30);
    wait_for_gates(&seed, &[("battery", "0x80D03804")]);
    let given = seed.status().uploaded.total();
    origin.open_gate();
    // Its own download goes on, and the peer hears what it has.
    seeding.finish();
    let job = wait_for_peers(&daemon, 1).id.to_string();
    wait_for("the peer to be refused", PATIENCE, || {
        let sources = daemon.explain(&job).sources;
        let peer = sources.iter().find(|source| source.kind == "Lan")?;
        let has_more = peer.useful_pieces.is_some_and(|n| n > 0);
        (peer.state == SourceStanding::Choking && has_more).then_some(())
    });
    assert_eq!(seed.status().uploaded.total(), given);

    laptop.power(true, 30);
    wait_for_gates(&seed, &[]);
    assert_eq!(from_peers(&get.finish()), content.bytes);
}

#[test]
fn vpn_takes_the_cache_host_from_a_running_download_where_a_policy_says_so() {
    let (machine, origin) = (Machine::new(), Origin::start());
    let (content, next) = (
        Content::random(30, CONTENT_BYTES),
        Content::random(31, CONTENT_BYTES),
    );
    let cache = Origin::with_gate(content.bytes / 2);
    let host = cache.host();
    let daemon = machine.daemon(&format!(
        "download_mode = 0\ncache_host = \"{host}\"\ndisallow_cache_server_downloads_on_vpn = 1"
    ));
    let mut get = daemon.start_get(&origin.url(&content.name), &[]);
    let half = daemon.wait_for_bytes(&mut get, content.bytes / 4);
    assert_eq!(origin.bytes_sent(&content.name), 0);

    machine.vpn(true);
    wait_for_gates(&daemon, &[("vpn_cache_host", "0x80D03807")]);
    let result = get.finish();
    content.assert_same(&result.output);
    let from = result.status.downloaded;
    assert!(from.cache_server > 0 && from.http > 0, "{from:?}");
    let explained = daemon.explain(&half.file_id);
    let refused = explained.sources.iter().find(|s| s.address == host);
    let why = refused.map(|source| source.why.as_str());
    assert!(
        why.is_some_and(|why| why.contains("0x80D03807")),
        "{explained:?}"
    );

    machine.vpn(false);
    wait_for_gates(&daemon, &[]);
    cache.open_gate();
    let result = daemon.get(&origin.url(&next.name), &next, &[]);
    assert_eq!(result.status.downloaded.cache_server, next.bytes);
}

#[test]
fn vpn_closes_peers_in_a_running_daemon_until_it_is_gone() {
    let (machine, content) = (Machine::new(), Content::random(30, CONTENT_BYTES));
    let origin = Origin::start();
    machine.vpn(true);
    machine.write("sys/class/net/eth9/ifalias", "Contoso line");
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

    const ALLOWED: &str = "vpn_keywords = \"contoso\"\nallow_vpn_peer_caching = 1";
    machine.configure(ALLOWED);
    wait_for_gates(&daemon, &[]);
    machine.configure("vpn_keywords = \"contoso\"");
    wait_for_gates(&daemon, &[("vpn", "0x80D03807")]);

    machine.vpn(false);
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
    let set_metered = |metered| {
        let set = runtime.block_on(set_metered(&manager, metered));
        set.expect("the bus takes it");
    };
    let origin = Origin::with_gate(content.bytes / 2);
    let daemon = machine.daemon("");
    wait_for_gates(&daemon, &[("metered", "0x80D03801")]);
    let get = daemon.start_get(&origin.url(&content.name), &[]);
    let wait_until_held = || {
        wait_for("the download to say why it waits", PATIENCE, || {
            let job = daemon.jobs().into_iter().next()?;
            let waiting = job.waiting.as_ref()?;
            waiting.contains("0x80D03801").then_some(job)
        })
    };
    wait_until_held();
    assert_eq!(origin.bytes_sent(&content.name), 0);
    set_metered(2);
    wait_for("half of it", PATIENCE, || {
        (daemon.jobs().first()?.bytes_done > content.bytes / 4).then_some(())
    });
    // Under way it is held back as well.
    set_metered(1);
    wait_for_gates(&daemon, &[("metered", "0x80D03801")]);
    let held = wait_until_held();
    assert_eq!(held.connections.http, 0, "{held:?}");
    let explained = daemon.explain(&held.id.to_string());
    let idle = explained.sources.iter().find(|s| s.kind == "Http");
    let why = idle.map(|source| source.why.as_str());
    assert!(
        why.is_some_and(|why| why.contains("metered")),
        "{explained:?}"
    );
    origin.open_gate();
    // Somebody waits for this one.
    let other = Content::random(31, CONTENT_BYTES);
    daemon.get(&origin.url(&other.name), &other, &["--foreground"]);
    assert_eq!(wait_until_held().bytes_done, held.bytes_done);
    set_metered(2);
    let result = get.finish();
    assert_eq!(result.status.downloaded.http, content.bytes);
    content.assert_same(&result.output);
}

#[test]
fn cache_host_comes_from_dhcp() {
    let (machine, content) = (Machine::new(), Content::random(30, CONTENT_BYTES));
    let (origin, cache) = (Origin::start(), Origin::start());
    let host = cache.host();
    machine.lease(235, &host);
    let daemon = machine.daemon("download_mode = 0\ncache_host_source = 1");
    let result = daemon.get(&origin.url(&content.name), &content, &[]);
    assert_eq!(result.status.downloaded.cache_server, content.bytes);
    assert_eq!(result.status.cache_host, Some(host));
}

#[test]
fn group_id_comes_from_dhcp_and_is_logged_as_in_the_original() {
    let (first, second, stranger) = (Machine::new(), Machine::new(), Machine::new());
    let content = Content::random(30, CONTENT_BYTES);
    let origin = Origin::start();
    let policies = "download_mode = 2\ngroup_id_source = 3";
    first.lease(234, GUID);
    second.lease(234, GUID);
    stranger.lease(234, "00000000-0000-0000-0000-000000000001");
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
    origin.shut_gate();
    let peer = peer_address(&seed);
    let result = member.get(&url, &content, &["--peer", &peer]);
    assert_eq!(from_peers(&result), content.bytes, "{:?}", result.status);

    let waiting = outsider.start_get(&url, &["--peer", &peer]);
    // It moves to the group's network: nothing else lets it have a byte.
    stranger.lease(234, GUID);
    wait_for("the new group", PATIENCE, || {
        let line = format!("Hashed groupID = {HASH}");
        outsider.log().contains(&line).then_some(())
    });
    let result = waiting.finish();
    assert_eq!(from_peers(&result), content.bytes, "{:?}", result.status);
}

#[test]
fn group_mode_without_any_group_has_no_peers_and_says_so() {
    let machine = Machine::new();
    // The automatic order knows nothing of DHCP.
    machine.lease(234, GUID);
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
