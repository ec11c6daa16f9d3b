//! The origin: a real nginx.

use crate::{
    namespace::Node,
    process::{Process, wait_for},
};
use std::{
    fs,
    net::{IpAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

const PORT: u16 = 80;

/// nginx on one machine, serving a folder with ranges and sendfile.
pub(crate) struct Nginx {
    process: Process,
    node: Node,
    config: PathBuf,
    access_log: PathBuf,
}

/// A line of the access log.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) client: IpAddr,
    pub(crate) path: String,
    /// What stands behind the question mark.
    pub(crate) query: String,
    /// Bytes of the body that nginx sent.
    pub(crate) body_bytes: u64,
}

impl Nginx {
    pub(crate) fn start(node: &Node, docroot: &Path) -> Self {
        let dir = node.dir().join("nginx");
        fs::create_dir_all(&dir).expect("the node's folder can be written");
        let config = dir.join("nginx.conf");
        let access_log = dir.join("access.log");
        fs::write(&config, configuration(node.ip(), &dir, docroot))
            .expect("the node's folder can be written");
        Self {
            process: launch(node, &config),
            node: node.clone(),
            config,
            access_log,
        }
    }

    /// The address of a file in the served folder.
    pub(crate) fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.node.address(PORT))
    }

    /// Takes the origin away.
    pub(crate) fn stop(&mut self) {
        self.process.stop();
    }

    /// Brings it back.
    pub(crate) fn restart(&mut self) {
        self.process = launch(&self.node, &self.config);
    }

    /// What was asked for so far. nginx writes a line when it has finished with a request.
    pub(crate) fn requests(&self) -> Vec<Request> {
        let log = fs::read_to_string(&self.access_log).unwrap_or_default();
        log.lines()
            .map(|line| parse(line).unwrap_or_else(|| panic!("strange log line: {line}")))
            .collect()
    }

    /// Bytes of one file that went to one machine, or to all.
    pub(crate) fn bytes_sent(&self, name: &str, to: Option<&Node>) -> u64 {
        let path = format!("/{name}");
        let wanted = |request: &Request| {
            request.path == path && to.is_none_or(|node| node.ip() == request.client)
        };
        self.requests()
            .iter()
            .filter(|request| wanted(request))
            .map(|request| request.body_bytes)
            .sum()
    }
}

fn launch(node: &Node, config: &Path) -> Process {
    let errors = config.with_file_name("error.log");
    let mut command = node.command("nginx");
    command.arg("-e").arg(&errors).arg("-c").arg(config);
    let mut process = Process::start(&mut command, &config.with_file_name("nginx.log"));
    let address = node.address(PORT);
    wait_for("nginx", Duration::from_secs(10), || {
        let errors = fs::read_to_string(&errors).unwrap_or_default();
        assert!(
            process.is_running(),
            "nginx has ended: {}{errors}",
            process.printed()
        );
        node.enter(|| TcpStream::connect(address)).ok()
    });
    process
}

fn configuration(ip: IpAddr, dir: &Path, docroot: &Path) -> String {
    let address = match ip {
        IpAddr::V4(ip) => format!("{ip}:{PORT}"),
        IpAddr::V6(ip) => format!("[{ip}]:{PORT}"),
    };
    let (dir, docroot) = (dir.display(), docroot.display());
    format!(
        "daemon off;
user root;
worker_processes 2;
pid {dir}/pid;
events {{ worker_connections 1024; }}
http {{
  log_format lab '$remote_addr $status $body_bytes_sent $uri $args';
  access_log {dir}/access.log lab;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  sendfile on;
  sendfile_max_chunk 1m;
  keepalive_requests 100000;
  server {{ listen {address}; root {docroot}; }}
}}
"
    )
}

fn parse(line: &str) -> Option<Request> {
    let mut fields = line.split(' ');
    let client = fields.next()?.parse().ok()?;
    let _status = fields.next()?;
    let body_bytes = fields.next()?.parse().ok()?;
    Some(Request {
        client,
        path: fields.next()?.to_owned(),
        // nginx writes a dash for none.
        query: fields.next()?.trim_start_matches('-').to_owned(),
        body_bytes,
    })
}
