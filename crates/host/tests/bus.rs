//! NetworkManager over a real bus, and changes as they happen.

#![allow(clippy::unwrap_used, reason = "tests")]

use dosvc_host::{Changes, Connectivity, Root};
use std::{
    collections::HashMap,
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;
use zbus::{Connection, ObjectPath, Variant, interface};

const PATIENCE: Duration = Duration::from_secs(20);

/// A bus of its own, in a tree that stands for a machine.
struct Bus {
    daemon: Child,
    tree: TempDir,
}

impl Bus {
    /// `None` where there is no dbus-daemon.
    fn start() -> Option<Self> {
        let tree = tempfile::tempdir().unwrap();
        let socket = tree.path().join("run/dbus/system_bus_socket");
        fs::create_dir_all(socket.parent().unwrap()).unwrap();
        fs::create_dir_all(tree.path().join("sys/class/power_supply/BAT0")).unwrap();
        let config = format!(
            "<busconfig><type>system</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>\
             <policy context=\"default\"><allow send_destination=\"*\" eavesdrop=\"true\"/><allow eavesdrop=\"true\"/><allow own=\"*\"/></policy></busconfig>",
            socket.display()
        );
        fs::write(tree.path().join("bus.conf"), config).unwrap();
        let mut daemon = Command::new("dbus-daemon")
            .arg("--nofork")
            .arg("--print-address")
            .arg(format!(
                "--config-file={}",
                tree.path().join("bus.conf").display()
            ))
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut line = String::new();
        BufReader::new(daemon.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert!(line.starts_with("unix:"), "{line}");
        Some(Self { daemon, tree })
    }

    fn root(&self) -> Root {
        Root::new(self.tree.path())
    }

    fn path(&self) -> &Path {
        self.tree.path()
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

struct Manager {
    metered: u32,
}

#[interface(name = "org.freedesktop.NetworkManager")]
impl Manager {
    #[zbus(property)]
    fn metered(&self) -> u32 {
        self.metered
    }

    #[zbus(property)]
    fn set_metered(&mut self, metered: u32) {
        self.metered = metered;
    }

    #[zbus(property)]
    fn primary_connection_type(&self) -> &str {
        "vpn"
    }

    #[zbus(property)]
    fn primary_connection(&self) -> ObjectPath<'_> {
        ObjectPath::try_from("/org/freedesktop/NetworkManager/ActiveConnection/1").unwrap()
    }
}

struct Active;

#[interface(name = "org.freedesktop.NetworkManager.Connection.Active")]
impl Active {
    #[zbus(property)]
    fn id(&self) -> &str {
        "Contoso"
    }

    #[zbus(property)]
    fn dhcp4_config(&self) -> ObjectPath<'_> {
        ObjectPath::try_from("/org/freedesktop/NetworkManager/DHCP4Config/1").unwrap()
    }
}

struct Dhcp;

#[interface(name = "org.freedesktop.NetworkManager.DHCP4Config")]
impl Dhcp {
    #[zbus(property)]
    fn options(&self) -> HashMap<String, Variant<'_>> {
        HashMap::from([
            ("private_235".to_owned(), Variant::from("cache.example.com")),
            ("dhcp_lease_time".to_owned(), Variant::from(3600_u32)),
        ])
    }
}

async fn manager(bus: &Bus, metered: u32) -> Connection {
    let address = format!(
        "unix:path={}/run/dbus/system_bus_socket",
        bus.path().display()
    );
    let base = "/org/freedesktop/NetworkManager";
    zbus::connection::Builder::address(address.as_str())
        .serve_at(base, Manager { metered })
        .serve_at(format!("{base}/ActiveConnection/1"), Active)
        .serve_at(format!("{base}/DHCP4Config/1"), Dhcp)
        .name("org.freedesktop.NetworkManager")
        .build()
        .await
        .unwrap()
}

async fn changed(changes: &mut Changes) {
    tokio::time::timeout(PATIENCE, changes.changed())
        .await
        .expect("the change is noticed");
}

#[tokio::test]
async fn network_manager_is_asked_and_its_changes_are_noticed() {
    let Some(bus) = Bus::start() else {
        eprintln!("no dbus-daemon here");
        return;
    };
    let mut changes = Changes::listen(&bus.root()).await;
    assert_eq!(
        changes.connectivity().await,
        Connectivity::default(),
        "nobody has the name"
    );
    let served = manager(&bus, 4).await;
    let found = changes.connectivity().await;
    assert_eq!(found.metered, Some(false));
    assert_eq!(found.vpn.as_deref(), Some("Contoso"));
    assert_eq!(found.lease.cache_hosts, ["cache.example.com"]);
    for (number, metered) in [
        (1, Some(true)),
        (0, None),
        (3, Some(true)),
        (2, Some(false)),
    ] {
        let interface = served
            .object_server()
            .interface::<_, Manager>("/org/freedesktop/NetworkManager")
            .await
            .unwrap();
        interface.get_mut().await.metered = number;
        interface
            .get()
            .await
            .metered_changed(interface.signal_emitter())
            .await
            .unwrap();
        changed(&mut changes).await;
        assert_eq!(changes.connectivity().await.metered, metered, "{number}");
    }
}

#[tokio::test]
async fn files_that_are_written_are_noticed_and_a_lost_bus_is_survived() {
    let Some(mut bus) = Bus::start() else {
        eprintln!("no dbus-daemon here");
        return;
    };
    let mut changes = Changes::listen(&bus.root()).await;
    fs::write(
        bus.path().join("sys/class/power_supply/BAT0/status"),
        "Discharging\n",
    )
    .unwrap();
    changed(&mut changes).await;
    bus.daemon.kill().unwrap();
    changed(&mut changes).await;
    assert_eq!(changes.connectivity().await, Connectivity::default());
    fs::write(
        bus.path().join("sys/class/power_supply/BAT0/status"),
        "Charging\n",
    )
    .unwrap();
    changed(&mut changes).await;
}

#[tokio::test]
async fn machine_without_a_bus_costs_nothing_and_knows_nothing() {
    let tree = tempfile::tempdir().unwrap();
    let changes = Changes::listen(&Root::new(tree.path())).await;
    assert_eq!(changes.connectivity().await, Connectivity::default());
}
