//! A folder with a configuration of its own, and `dosvc` in it.

#![allow(dead_code, reason = "each test program uses a part")]

use serde_json::Value;
use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with a configuration that touches nothing outside of it.
pub(crate) struct Place {
    pub(crate) folder: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::with("")
    }

    /// With further tables of the configuration.
    pub(crate) fn with(tables: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "[daemon]\nstate_dir = {:?}\napi_socket = {:?}\nhost_root = {:?}\nlisten = [\"127.0.0.1:0\"]\n[discovery]\ndns_sd = false\n[cache]\nkeep_free_percent = 0\n{tables}",
            folder.path().join("state"),
            folder.path().join("api.sock"),
            // Whether this machine runs on battery or over a VPN does not matter.
            folder.path().join("no-host"),
        );
        fs::write(folder.path().join("dosvc.toml"), text).unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command in this folder, with its configuration and nothing of this machine's.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dosvc"));
        command
            .current_dir(self.folder.path())
            .env_clear()
            .args(arguments)
            .arg("--config")
            .arg(self.path("dosvc.toml"))
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        let log = self.path(&format!("{}.log", arguments[0]));
        let stderr = File::create(&log).unwrap();
        let child = self
            .command(arguments)
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        Running::new(child, log)
    }

    /// A daemon that answers.
    pub(crate) fn daemon(&self) -> Running {
        let daemon = self.start(&["run"]);
        wait_until("the daemon answers", || {
            self.run(&["status"]).status.success()
        });
        daemon
    }

    pub(crate) fn file(&self, name: &str, bytes: usize) -> Vec<u8> {
        let content: Vec<u8> = (0..=250).cycle().take(bytes).collect();
        fs::write(self.path(name), &content).unwrap();
        content
    }
}

/// A process that is killed when the test ends, and what it writes to standard error, which a test that fails shows.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    pub(crate) fn new(child: Child, log: PathBuf) -> Self {
        Self { child, log }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Exit code and standard error.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let mut code = None;
        wait_until("the process ends", || {
            code = self.child.try_wait().unwrap();
            code.is_some()
        });
        (code.unwrap().code(), self.log())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_else(|e| e.to_string());
            eprintln!("-- {}:\n{log}", self.log.display());
        }
    }
}

pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(
            started.elapsed() < PATIENCE,
            "{what}: not within {PATIENCE:?}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub(crate) fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}{}", stdout(output), stderr(output)))
}

pub(crate) fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}
