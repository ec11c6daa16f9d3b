//! The Internet and its machines: a router with a bridge, and a namespace for each machine.

use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use std::{
    fs::{self, File},
    io::Write as _,
    net::Ipv4Addr,
    os::fd::AsFd as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const PREFIX: &str = "dosvcnat";

/// The server's two addresses.
pub(crate) const PRIMARY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
pub(crate) const SECONDARY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 11);

/// Networks of the Internet, each with the router at `.1`.
const NETWORKS: [&str; 3] = ["198.51.100", "203.0.113", "192.0.2"];

/// A machine, or a router, by its namespace.
#[derive(Clone, Debug)]
pub(crate) struct Machine(String);

/// All of it; dropping it removes the namespaces, with what runs in them.
pub(crate) struct Internet {
    name: String,
    machines: Vec<Machine>,
}

impl Internet {
    /// A router and a machine for the server.
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        static CLEAN: Once = Once::new();
        CLEAN.call_once(remove_leftovers);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}-{}-{number}", std::process::id());
        let mut internet = Self {
            name,
            machines: Vec::new(),
        };
        let router = internet.machine("router");
        router.forward();
        router.ip(&[
            // Else it has the least of its ports' addresses, and a port that comes later changes it: then everybody sends
            // to nobody until their neighbour tables have grown old.
            "link add br0 address 02:77:00:00:01:00 type bridge mcast_snooping 0",
            "link set br0 up",
        ]);
        for network in NETWORKS {
            router.ip(&[&format!("addr add {network}.1/24 dev br0")]);
        }
        let server = internet.machine("server");
        internet.plug(&server, PRIMARY);
        server.ip(&[&format!("addr add {SECONDARY}/24 dev wan")]);
        internet
    }

    pub(crate) fn router(&self) -> &Machine {
        &self.machines[0]
    }

    pub(crate) fn server(&self) -> &Machine {
        &self.machines[1]
    }

    /// A machine that is connected to nothing yet.
    pub(crate) fn machine(&mut self, name: &str) -> Machine {
        let machine = Machine(format!("{}-{name}", self.name));
        run(Command::new("ip").args(["netns", "add", &machine.0]));
        self.machines.push(machine.clone());
        machine.ip(&["link set lo up"]);
        machine
    }

    /// Gives a machine an address of the Internet, on the interface `wan`.
    pub(crate) fn plug(&self, machine: &Machine, address: Ipv4Addr) {
        let [a, b, c, _] = address.octets();
        let port = format!("p{}", self.position(machine));
        self.router().ip(&[
            &format!(
                "link add {port} type veth peer name wan netns {}",
                machine.0
            ),
            &format!("link set {port} master br0 up"),
        ]);
        machine.ip(&[
            &format!("addr add {address}/24 dev wan"),
            "link set wan up",
            &format!("route add default via {a}.{b}.{c}.1"),
        ]);
    }

    fn position(&self, machine: &Machine) -> usize {
        self.machines
            .iter()
            .position(|other| other.0 == machine.0)
            .unwrap()
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        for machine in &self.machines {
            remove(&machine.0);
        }
    }
}

impl Machine {
    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// Commands of iproute2, one a line.
    pub(crate) fn ip(&self, commands: &[&str]) {
        let mut ip = Command::new("ip");
        feed(
            ip.args(["-n", &self.0, "-batch", "-"]),
            &(commands.join("\n") + "\n"),
        );
    }

    /// Rules of nftables.
    pub(crate) fn nft(&self, rules: &str) {
        let mut nft = self.command("nft");
        feed(nft.args(["-f", "-"]), rules);
    }

    /// Passes packets on.
    pub(crate) fn forward(&self) {
        self.enter(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap());
    }

    /// A command that runs on this machine.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]);
        command
    }

    /// Runs something on this machine: sockets that it opens belong to the machine's network.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.move_in();
                work()
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves this thread to the machine, for good.
    pub(crate) fn move_in(&self) {
        let file = File::open(Path::new("/run/netns").join(&self.0)).unwrap();
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }
}

/// A program that ends with the test.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let quiet = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self(
            quiet
                .spawn()
                .unwrap_or_else(|error| panic!("{command:?}: {error}")),
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _ended = self.0.wait();
    }
}

/// Asks again and again until there is an answer.
pub(crate) fn wait_for<T>(what: &str, timeout: Duration, mut poll: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + timeout;
    loop {
        if let Some(answer) = poll() {
            return answer;
        }
        assert!(
            Instant::now() < end,
            "waited {timeout:?} in vain for {what}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
}

fn feed(command: &mut Command, input: &str) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?} with {input}: {errors}"
    );
}

/// Ends what runs in a namespace, and removes it. Programs that split themselves, as miredo does, leave their other half
/// behind when they are killed, and with it the namespace.
fn remove(name: &str) {
    let ip = |action: &str| {
        let mut ip = Command::new("ip");
        ip.args(["netns", action, name]).output()
    };
    let listed = ip("pids").map(|output| output.stdout).unwrap_or_default();
    let listed = String::from_utf8_lossy(&listed);
    for id in listed.lines().filter_map(|line| line.trim().parse().ok()) {
        let _ended_already = Pid::from_raw(id).map(|id| kill_process(id, Signal::KILL));
    }
    let _gone_already = ip("del");
}

/// Removes namespaces of earlier runs that were killed before they could clean up.
fn remove_leftovers() {
    let listed = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    for name in listed.filter_map(|entry| entry.file_name().into_string().ok()) {
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').nth(1));
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(&name);
        }
    }
}
