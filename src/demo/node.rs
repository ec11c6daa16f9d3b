//! One machine of the demo: a daemon of its own in a process of its own, with a state folder and ports of its own.

use crate::client::{Client, ClientError};
use anyhow::{Context as _, bail};
use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::process::{Child, Command};

/// Longest time a daemon may take to answer.
const START_MAX: Duration = Duration::from_secs(20);
/// Longest time it may take to stop before it is killed.
const STOP_MAX: Duration = Duration::from_secs(5);
/// Lines of a daemon's log that are shown when it fails.
const LOG_LINES_SHOWN: usize = 20;

/// A running daemon. When it is dropped its process is killed.
pub(super) struct Node {
    pub(super) name: String,
    pub(super) client: Client,
    pub(super) folder: PathBuf,
    child: Child,
}

impl Node {
    /// Starts the daemon in a new folder; it is not ready yet.
    pub(super) fn start(root: &Path, name: &str) -> anyhow::Result<Self> {
        let folder = root.join(name.replace(' ', ""));
        fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        let socket = folder.join("api.sock");
        let configuration = folder.join("dosvc.toml");
        fs::write(&configuration, configuration_text(&folder, &socket))
            .context("write the daemon's configuration")?;
        let log = File::create(folder.join("log")).context("make the daemon's log")?;
        let program = std::env::current_exe().context("find this program")?;
        let mut command = Command::new(program);
        command
            .args(["run", "--until-stdin-ends", "--config"])
            .arg(configuration)
            // Its standard input ends when this process does, however it does: no daemon is left behind.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C reaches this process only, which then stops the daemons in order.
            .process_group(0)
            .kill_on_drop(true);
        // What is set for this machine's daemon is not meant for these; nor is its service manager.
        for (variable, _) in std::env::vars_os() {
            let text = variable.to_string_lossy();
            if (text.starts_with("DOSVC_") && text != "DOSVC_LOG")
                || text == "NOTIFY_SOCKET"
                || text == "STATE_DIRECTORY"
            {
                command.env_remove(&variable);
            }
        }
        Ok(Self {
            name: name.to_owned(),
            client: Client::new(socket),
            child: command.spawn().context("start a daemon")?,
            folder,
        })
    }

    /// Waits for the daemon to answer; tells where its peers reach it.
    pub(super) async fn ready(&mut self) -> anyhow::Result<Vec<SocketAddr>> {
        let started = Instant::now();
        loop {
            match self.client.status().await {
                Ok(status) => return Ok(status.listening),
                Err(ClientError::NoDaemon(_)) => {}
                Err(error) => return Err(error.into()),
            }
            if let Some(status) = self.child.try_wait().context("look after a daemon")? {
                bail!(
                    "{} ended at once ({status})\n{}",
                    self.name,
                    self.log_tail()
                );
            }
            if started.elapsed() > START_MAX {
                bail!("{} does not answer\n{}", self.name, self.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The end of the daemon's log.
    pub(super) fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }

    /// Stops the daemon in order; kills it when that takes too long.
    pub(super) async fn stop(mut self) {
        drop(self.child.stdin.take());
        if tokio::time::timeout(STOP_MAX, self.child.wait())
            .await
            .is_err()
        {
            let _ = self.child.kill().await;
        }
    }
}

/// Loopback alone, no discovery beyond the peers that are named, and none of the gates that protect real machines.
fn configuration_text(folder: &Path, socket: &Path) -> String {
    let text = |path: &Path| toml::Value::String(path.display().to_string()).to_string();
    format!(
        "[delivery_optimization]\n\
         download_mode = 1\n\
         min_file_size_to_cache = 1\n\
         min_ram_allowed_to_peer = 1\n\
         min_disk_size_allowed_to_peer = 1\n\
         min_battery_percentage_allowed_to_upload = 1\n\
         allow_vpn_peer_caching = 1\n\
         max_cache_size = 100\n\
         [daemon]\n\
         host_root = {}\n\
         state_dir = {}\n\
         api_socket = {}\n\
         listen = [\"127.0.0.1:0\"]\n\
         [discovery]\n\
         dns_sd = false\n\
         [cache]\n\
         keep_free_percent = 0\n",
        // Nothing is there: nothing is known that could close a gate.
        text(&folder.join("no-host")),
        text(&folder.join("state")),
        text(socket),
    )
}
