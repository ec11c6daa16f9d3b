//! Captures of a machine's traffic, and what Wireshark's dissector says of them.

use crate::{
    namespace::Node,
    process::{Process, wait_for},
};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

/// How long the kernel keeps a frame before tcpdump sees it, and some.
const KERNEL_DELAY: Duration = Duration::from_millis(1500);

/// tcpdump on a machine's link.
pub(crate) struct Capture {
    process: Process,
    file: PathBuf,
}

/// What `tests/dissect/dissect.mjs` prints.
#[derive(Debug, Deserialize)]
pub(crate) struct Dissection {
    /// Every segment was read and nothing is wrong.
    pub(crate) ok: bool,
    pub(crate) connections: u64,
    /// Segments with data on the port.
    pub(crate) segments: u64,
    /// Of those, how many were read.
    pub(crate) read: u64,
    /// Of those, how many TCP sent again.
    pub(crate) repeated: u64,
    /// Messages by name.
    pub(crate) messages: BTreeMap<String, u64>,
    pub(crate) unread: Vec<Oddity>,
    pub(crate) wrong: Vec<Oddity>,
    /// Segments that the capture lacks: then it proves nothing.
    pub(crate) capture_gaps: Vec<Oddity>,
}

/// A frame that something is odd about.
#[derive(Debug, Deserialize)]
#[expect(
    dead_code,
    reason = "read by people, in the message of a failed assertion"
)]
pub(crate) struct Oddity {
    pub(crate) frame: u64,
    pub(crate) info: String,
}

impl Capture {
    /// Captures whole frames that match `filter` (as tcpdump writes it) until it is finished.
    pub(crate) fn start(node: &Node, name: &str, filter: &str) -> Self {
        let file = node.dir().join(format!("{name}.pcap"));
        let mut command = node.command("tcpdump");
        // 256 MiB for the kernel's ring: a capture that loses frames proves nothing.
        command
            .args([
                "-i", "eth0", "-n", "-s", "0", "-B", "262144", "-U", "-Z", "root", "-w",
            ])
            .arg(&file)
            .arg(filter);
        let mut process = Process::start(&mut command, &node.dir().join(format!("{name}.log")));
        wait_for("tcpdump", Duration::from_secs(10), || {
            assert!(
                process.is_running(),
                "tcpdump has ended: {}",
                process.printed()
            );
            process.printed().contains("listening on").then_some(())
        });
        Self { process, file }
    }

    /// Ends the capture; the file is complete.
    pub(crate) fn finish(mut self) -> PathBuf {
        self.wait_until_quiet();
        self.process.stop();
        let printed = self.process.printed();
        assert!(
            printed.contains("0 packets dropped by kernel"),
            "the capture has holes: {printed}"
        );
        self.file.clone()
    }

    /// tcpdump gets frames from the kernel a second late, and drops those still to come when it is stopped.
    fn wait_until_quiet(&self) {
        let length = || fs::metadata(&self.file).map_or(0, |metadata| metadata.len());
        let mut last = (length(), Instant::now());
        wait_for("the end of the traffic", Duration::from_secs(60), || {
            if length() != last.0 {
                last = (length(), Instant::now());
            }
            (last.1.elapsed() > KERNEL_DELAY).then_some(())
        });
    }

    /// Ends the capture and reads the swarm traffic in it.
    pub(crate) fn dissect(self) -> Dissection {
        let file = self.finish();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dissect/dissect.mjs");
        let output = Command::new("node")
            .arg(script)
            .arg(&file)
            .output()
            .expect("Node.js is installed");
        let errors = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}; was `npm ci` run in tests/dissect? {errors}"))
    }

    /// Ends the capture and counts the frames in it.
    pub(crate) fn count_frames(self) -> usize {
        const FILE_HEADER_BYTES: usize = 24;
        const RECORD_HEADER_BYTES: usize = 16;
        let bytes = fs::read(self.finish()).expect("tcpdump has written its file");
        let mut at = FILE_HEADER_BYTES;
        let mut frames = 0;
        while let Some(length) = bytes.get(at + 8..at + 12) {
            let length = u32::from_ne_bytes(length.try_into().expect("four bytes"));
            at += RECORD_HEADER_BYTES + usize::try_from(length).expect("frames are short");
            frames += 1;
        }
        frames
    }
}
