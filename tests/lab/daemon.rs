//! The program under test, as its users run it: `dosvc run` on each machine, `dosvc get` beside it. Its state is read
//! from the local API, as a script would do it.

use crate::{
    content::{Content, is_full},
    namespace::Node,
    process::{Process, run, wait_for},
};
use dosvc_engine::api::{CacheEntry, EngineStatus, Explanation, JobStatus};
use rustix::process::Signal;
use serde::de::DeserializeOwned;
use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output},
    thread,
    time::{Duration, Instant},
};

/// The port of the swarm protocol.
pub(crate) const SWARM_PORT: u16 = 7680;

/// design: "starts in under a second"; machines that run tests may be slow.
const START_TIMEOUT: Duration = Duration::from_secs(10);
const GET_TIMEOUT: Duration = Duration::from_secs(180);
/// For sizes that nobody can wait for in between.
const GET_TIMEOUT_FULL: Duration = Duration::from_secs(1800);

/// A machine's daemon.
pub(crate) struct Daemon {
    process: Process,
    node: Node,
    config: PathBuf,
    socket: PathBuf,
}

/// A running `dosvc get`.
pub(crate) struct Get {
    process: Process,
    output: PathBuf,
    started: Instant,
}

/// What a `dosvc get` came to.
#[derive(Debug)]
pub(crate) struct GetResult {
    /// The final state that it printed.
    pub(crate) status: JobStatus,
    /// The file that it wrote.
    pub(crate) output: PathBuf,
    pub(crate) elapsed: Duration,
}

impl Daemon {
    /// Starts the daemon and waits until it answers. `policies` are lines of the table `[delivery_optimization]`;
    /// none of them means the defaults.
    pub(crate) fn start(node: &Node, policies: &str) -> Self {
        Self::start_with(node, "", &format!("[delivery_optimization]\n{policies}"))
    }

    /// As [`Self::start`]; `daemon` are further lines of the table `[daemon]`, `tables` are the other tables.
    pub(crate) fn start_with(node: &Node, daemon: &str, tables: &str) -> Self {
        let config = write_config(node, daemon, tables);
        let socket = node.socket_dir().join("api");
        Self {
            process: launch(node, &config, &socket),
            node: node.clone(),
            config,
            socket,
        }
    }

    /// Ends it at once, as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again with the same configuration and state.
    pub(crate) fn restart(&mut self) {
        self.process = launch(&self.node, &self.config, &self.socket);
    }

    /// Puts other policies into the configuration and has it read again.
    pub(crate) fn configure(&mut self, policies: &str) {
        write_config(
            &self.node,
            "",
            &format!("[delivery_optimization]\n{policies}"),
        );
        self.process.signal(Signal::HUP);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    pub(crate) fn config(&self) -> &Path {
        &self.config
    }

    /// Asks it to end and says how it did.
    pub(crate) fn end(&mut self) -> ExitStatus {
        self.process.stop()
    }

    /// Runs a command beside the daemon that must succeed.
    pub(crate) fn command(&self, arguments: &[&str]) {
        let output = self.output(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }

    /// Runs a command beside the daemon.
    pub(crate) fn output(&self, arguments: &[&str]) -> Output {
        let mut command = dosvc(&self.node, &self.config);
        command.args(arguments).output().expect("it runs")
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.process.printed()
    }

    /// The engine as a whole.
    pub(crate) fn status(&self) -> EngineStatus {
        self.ask("status")
    }

    /// Every download, running or ended.
    pub(crate) fn jobs(&self) -> Vec<JobStatus> {
        self.ask("downloads")
    }

    /// What the cache holds.
    pub(crate) fn cache(&self) -> Vec<CacheEntry> {
        self.ask("cache")
    }

    /// Why a content is as it is: a download's number, or a file id.
    pub(crate) fn explain(&self, id: &str) -> Explanation {
        self.ask(&format!("explain/{id}"))
    }

    fn ask<T: DeserializeOwned>(&self, what: &str) -> T {
        let output = run(&mut question(&self.socket, what)).stdout;
        serde_json::from_slice(&output)
            .unwrap_or_else(|error| panic!("{what}: {error}: {}", String::from_utf8_lossy(&output)))
    }

    /// Makes the content known to the daemon, which offers it to peers from then on.
    pub(crate) fn seed(&self, content: &Content) {
        let mut command = dosvc(&self.node, &self.config);
        command.args(["publish", "--seed"]).arg(content.path());
        let hash_file = format!("{}.published.phf", content.name);
        run(command.arg("--out").arg(self.node.dir().join(hash_file)));
        self.wait_until_shared(content);
    }

    /// Starts `dosvc get URL` with the hash file that lies beside the content.
    pub(crate) fn start_get(&self, url: &str, arguments: &[&str]) -> Get {
        let name = url.rsplit('/').next().expect("a URL has a path");
        self.launch_get(name, |command| command.arg(url).args(arguments))
    }

    /// Starts `dosvc get` of a content that peers alone have.
    pub(crate) fn start_get_from_peers(&self, content: &Content, arguments: &[&str]) -> Get {
        self.launch_get(&content.name, |command| {
            let command = command.arg("--hash-file").arg(content.hash_file_path());
            command.args(arguments)
        })
    }

    fn launch_get(&self, name: &str, what: impl FnOnce(&mut Command) -> &mut Command) -> Get {
        let output = self.node.dir().join(name);
        let mut command = self.node.command(binary());
        command
            .args(["get", "--json", "--socket"])
            .arg(&self.socket);
        what(command.arg("-o").arg(&output));
        let process = Process::start(
            &mut command,
            &self.node.dir().join(format!("{name}.get.log")),
        );
        Get {
            process,
            output,
            started: Instant::now(),
        }
    }

    /// Downloads a content and checks every byte of the file.
    pub(crate) fn get(&self, url: &str, content: &Content, arguments: &[&str]) -> GetResult {
        let result = self.start_get(url, arguments).finish();
        content.assert_same(&result.output);
        result
    }

    /// Waits until a running download has at least so many bytes.
    pub(crate) fn wait_for_bytes(&self, get: &mut Get, bytes: u64) -> JobStatus {
        wait_for("the download to get on", get_timeout(), || {
            let found = self.jobs().into_iter().find(|job| job.bytes_done >= bytes);
            let has_ended = found.is_none() && !get.process.is_running();
            assert!(!has_ended, "dosvc get has ended: {}", get.process.printed());
            found
        })
    }

    /// Waits until the content is whole in the cache and offered to peers.
    pub(crate) fn wait_until_shared(&self, content: &Content) {
        wait_for("the content to be shared", Duration::from_secs(30), || {
            let file_id = content.swarm_hash().to_hex();
            let is_ours = |entry: &CacheEntry| {
                entry.file_id == file_id && entry.file_size_in_cache == content.bytes
            };
            self.cache()
                .iter()
                .any(|entry| is_ours(entry) && entry.shared)
                .then_some(())
        });
    }
}

/// Writes a machine's configuration: state and socket in its own folder, and whatever else is given. How full the
/// disk is that the suite runs on does not matter, nor what its machine is: it is looked at where `daemon` says.
pub(crate) fn write_config(node: &Node, daemon: &str, tables: &str) -> PathBuf {
    let (config, state) = (node.dir().join("dosvc.toml"), node.dir().join("state"));
    let socket = node.socket_dir().join("api");
    let host = match daemon.contains("host_root") {
        true => String::new(),
        false => format!("host_root = {:?}\n", node.dir().join("no-host")),
    };
    let cache = match tables.contains("[cache]") {
        true => "",
        false => "[cache]\nkeep_free_percent = 0\n",
    };
    let text = format!(
        "{cache}[daemon]\n{host}state_dir = {state:?}\napi_socket = {socket:?}\n{daemon}\n\n{tables}\n"
    );
    fs::write(&config, text).expect("the node's folder can be written");
    config
}

/// The program under test: what cargo has built, or what `DOSVC_LAB_BINARY` names.
fn binary() -> OsString {
    std::env::var_os("DOSVC_LAB_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_dosvc").into())
}

/// The program on a machine, with the machine's configuration.
pub(crate) fn dosvc(node: &Node, config: &Path) -> Command {
    let mut command = node.command(binary());
    command.arg("--config").arg(config);
    command
}

fn get_timeout() -> Duration {
    if is_full() {
        GET_TIMEOUT_FULL
    } else {
        GET_TIMEOUT
    }
}

fn launch(node: &Node, config: &Path, socket: &Path) -> Process {
    let mut command = dosvc(node, config);
    command.arg("run");
    let number = (0..)
        .find(|n| !node.dir().join(format!("dosvc.{n}.log")).exists())
        .expect("there is a next number");
    let mut process = Process::start(
        &mut command,
        &node.dir().join(format!("dosvc.{number}.log")),
    );
    wait_for("dosvc to answer", START_TIMEOUT, || {
        assert!(
            process.is_running(),
            "dosvc has ended: {}",
            process.printed()
        );
        let answer = question(socket, "status").output();
        answer
            .is_ok_and(|output| output.status.success())
            .then_some(())
    });
    process
}

fn question(socket: &Path, what: &str) -> Command {
    let mut command = Command::new("curl");
    command
        .args([
            "--silent",
            "--show-error",
            "--fail",
            "--max-time",
            "10",
            "--unix-socket",
        ])
        .arg(socket);
    command.arg(format!("http://localhost/v1/{what}"));
    command
}

impl Get {
    pub(crate) fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Waits for the end of a download that must fail; what it printed.
    pub(crate) fn fail(mut self) -> String {
        wait_for("dosvc get to end", get_timeout(), || {
            (!self.process.is_running()).then_some(())
        });
        let printed = self.process.printed();
        assert!(!self.output.exists(), "dosvc get succeeded: {printed}");
        printed
    }

    /// Waits for the end of a download that must succeed.
    pub(crate) fn finish(mut self) -> GetResult {
        wait_for("dosvc get to end", get_timeout(), || {
            (!self.process.is_running()).then_some(())
        });
        let elapsed = self.started.elapsed();
        let printed = self.process.printed();
        let last = printed.lines().rfind(|line| line.starts_with('{'));
        let status: JobStatus = last
            .and_then(|line| serde_json::from_str(line).ok())
            .unwrap_or_else(|| panic!("dosvc get printed no final state: {printed}"));
        assert!(
            status.error.is_none() && self.output.exists(),
            "dosvc get failed: {printed}"
        );
        GetResult {
            status,
            output: self.output.clone(),
            elapsed,
        }
    }
}

/// Waits for downloads that must all succeed; each has the time that it took itself.
pub(crate) fn finish_all(gets: Vec<Get>) -> Vec<GetResult> {
    thread::scope(|scope| {
        let ends: Vec<_> = gets
            .into_iter()
            .map(|get| scope.spawn(|| get.finish()))
            .collect();
        ends.into_iter()
            .map(|end| end.join().expect("the download succeeds"))
            .collect()
    })
}

impl GetResult {
    /// The share of the content that came from peers.
    pub(crate) fn peer_share(&self, content: &Content) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
        let share = self.status.downloaded.peers() as f64 / content.bytes as f64;
        share
    }
}
