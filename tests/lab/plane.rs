//! The fleet's own cloud as it is run: `dosvc control-plane` on a machine of the lab.

use crate::{
    content::{Content, folder},
    daemon::{dosvc, write_config},
    namespace::Node,
    process::{Process, run, wait_for},
};
use serde_json::Value;
use std::{fs, path::PathBuf, time::Duration};

const PORT: u16 = 7681;
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// A control plane; it ends with this value.
pub(crate) struct Plane {
    process: Process,
    node: Node,
    config: PathBuf,
    log: PathBuf,
}

impl Plane {
    /// Starts it and waits until it takes requests. Peers come back every ten seconds.
    pub(crate) fn start(node: &Node) -> Self {
        Self::start_with(node, "")
    }

    /// The same with more lines of its table.
    pub(crate) fn start_with(node: &Node, more: &str) -> Self {
        let tables = format!(
            "[control_plane]\nlisten = [\"{}\"]\nadmin_listen = [\"127.0.0.1:7682\"]\nallow_http = true\njoin_interval = 10\n{more}\n",
            node.address(PORT)
        );
        let config = write_config(node, "", &tables);
        let log = node.dir().join("control-plane.log");
        let mut plane = Self {
            process: launch(node, &config, &log),
            node: node.clone(),
            config,
            log,
        };
        plane.wait_until_ready();
        plane
    }

    /// Ends it and starts it again with the same state.
    pub(crate) fn restart(&mut self) {
        self.process.stop();
        self.process = launch(&self.node, &self.config, &self.log);
        self.wait_until_ready();
    }

    fn wait_until_ready(&mut self) {
        let url = format!("{}/readyz", self.base());
        wait_for("the control plane to be ready", START_TIMEOUT, || {
            assert!(self.process.is_running(), "{}", self.process.printed());
            let mut curl = self.node.command("curl");
            let answer = curl.args(["--silent", "--fail", &url]).output();
            answer
                .is_ok_and(|output| output.status.success())
                .then_some(())
        });
    }

    fn base(&self) -> String {
        format!("http://{}", self.node.address(PORT))
    }

    /// The table `[discovery]` of a machine that goes by this control plane alone.
    pub(crate) fn table(&self) -> String {
        let base = self.base();
        format!("[discovery]\ndns_sd = false\ngeo_endpoint_full_uri = \"{base}/geo\"\n")
    }

    /// What a command of its machine prints.
    pub(crate) fn command(&self, arguments: &[&str]) -> String {
        let mut command = dosvc(&self.node, &self.config);
        let output = run(command.arg("control-plane").args(arguments));
        String::from_utf8(output.stdout).expect("it prints text")
    }

    /// Registers a content, with its hash file.
    pub(crate) fn publish(&self, content: &Content, url: &str) {
        self.publish_as(content, url, &[]);
    }

    /// Registers contents, with their hash files.
    pub(crate) fn publish_all<'a>(
        &self,
        contents: impl IntoIterator<Item = (&'a Content, &'a str)>,
    ) {
        for (content, url) in contents {
            self.publish(content, url);
        }
    }

    /// Registers a content with more arguments of `dosvc publish`.
    pub(crate) fn publish_as(&self, content: &Content, url: &str, more: &[&str]) {
        let token = self.node.dir().join("token");
        if !token.exists() {
            let made = self.command(&["token", "add", "lab"]);
            fs::write(&token, made).expect("the node's folder can be written");
        }
        let hash_file = self.node.dir().join("published.phf");
        run(dosvc(&self.node, &self.config)
            .arg("publish")
            .arg(folder().join(&content.name))
            .args(["--url", url, "--to", &self.base(), "--token-file"])
            .arg(&token)
            .arg("--out")
            .arg(&hash_file)
            .args(more));
    }

    /// How many peers there are in all swarms.
    pub(crate) fn peers(&self) -> u64 {
        let mut curl = self.node.command("curl");
        let output = run(curl.args(["--silent", "--fail", "http://127.0.0.1:7682/status.json"]));
        let status: Value = serde_json::from_slice(&output.stdout).expect("it answers with JSON");
        status["entries"].as_u64().expect("a number")
    }
}

fn launch(node: &Node, config: &std::path::Path, log: &std::path::Path) -> Process {
    Process::start(dosvc(node, config).arg("control-plane"), log)
}
