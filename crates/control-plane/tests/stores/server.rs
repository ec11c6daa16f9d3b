//! A Redis of its own for a test: in a folder that goes with it, without a network.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How long a server may take to do what it is told.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until something holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// What `redis-cli` is answered; nothing when it can't connect.
pub(crate) fn cli(socket: &Path, args: &[&str]) -> String {
    let mut cli = Command::new("redis-cli");
    let output = cli.arg("-s").arg(socket).args(args).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A redis-server of its own, at a Unix socket and, where replicas or Sentinels are to find it, at a port. It dies with
/// this value, and with the thread that started it.
pub(crate) struct Redis {
    folder: TempDir,
    process: Child,
    args: Vec<String>,
    port: u16,
}

impl Redis {
    /// At a socket alone.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_at(0, args)
    }

    /// At a port of the loopback interface, too.
    pub(crate) fn start_on_tcp(args: &[&str]) -> Self {
        Self::start_at(free_port(), args)
    }

    fn start_at(port: u16, args: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let process = spawn(folder.path(), port, &args);
        let this = Self {
            folder,
            process,
            args,
            port,
        };
        this.wait();
        this
    }

    /// A Sentinel that watches a primary and takes it for gone after half a second.
    pub(crate) fn sentinel(name: &str, primary: &Self) -> Self {
        let port = free_port();
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("sentinel.conf");
        let lines = [
            format!("port {port}"),
            format!("unixsocket {}", socket(folder.path()).display()),
            format!("sentinel monitor {name} 127.0.0.1 {} 1", primary.port),
            format!("sentinel down-after-milliseconds {name} 500"),
            format!("sentinel failover-timeout {name} 3000"),
        ];
        fs::write(&config, lines.join("\n")).unwrap();
        let process = server(&[config.to_str().unwrap(), "--sentinel"]);
        let this = Self {
            folder,
            process,
            args: Vec::new(),
            port,
        };
        this.wait();
        this
    }

    pub(crate) fn port(&self) -> String {
        self.port.to_string()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        socket(self.folder.path())
    }

    pub(crate) fn url(&self) -> String {
        match self.port {
            0 => format!("unix://{}", self.socket().display()),
            port => format!("redis://127.0.0.1:{port}"),
        }
    }

    pub(crate) fn cli(&self, args: &[&str]) -> String {
        cli(&self.socket(), args)
    }

    /// As the kernel does it to a process, or a power cut to a machine.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// The same server again, with nothing in it.
    pub(crate) fn restart(&mut self) {
        self.process = spawn(self.folder.path(), self.port, &self.args);
        self.wait();
    }

    fn wait(&self) {
        until("Redis answers", || {
            let answer = self.cli(&["ping"]);
            answer == "PONG" || answer.starts_with("NOAUTH")
        });
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("s")
}

/// A port that nobody has at this moment.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

fn spawn(folder: &Path, port: u16, args: &[String]) -> Child {
    let (port, socket) = (port.to_string(), socket(folder));
    let mut all = vec!["--save", "", "--bind", "127.0.0.1", "--port", &port];
    all.extend(["--unixsocket", socket.to_str().unwrap()]);
    all.extend(["--dir", folder.to_str().unwrap()]);
    all.extend(args.iter().map(String::as_str));
    server(&all)
}

fn server(args: &[&str]) -> Child {
    // A server that lost its test would stay for ever.
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "redis-server"])
        .args(args)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server and setpriv are installed")
}
