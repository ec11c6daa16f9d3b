//! The end-to-end suite, with the real `dosvc` binary. The tests in `loopback` run everywhere. The others are privileged:
//! machines of their own addresses, made of network namespaces on one bridge, and a real nginx as the origin.
//!
//! ```text
//! cargo test --release --test lab -- --ignored --test-threads=3        (as root)
//! ```
//!
//! Needed for these beside Rust: iproute2, nftables, nginx, curl, tcpdump, `/dev/net/tun` for machines that are far apart, and
//! Node.js with `npm ci` done in `tests/dissect`. Nothing is
//! changed outside the namespaces, and only processes that were started here are ended.
//!
//! | variable | meaning |
//! |---|---|
//! | `DOSVC_LAB_FULL=1` | the sizes of the acceptance test (4 GiB, ten contents of 4 GiB; sixteen machines far apart) in place of the quick ones |
//! | `DOSVC_LAB_SIZE=BYTES` | bytes of the content in every scenario |
//! | `DOSVC_LAB_BINARY=PATH` | another build of the program |
//! | `DOSVC_LAB_FILE=PATH` | a real file as the content of the sharing scenarios |
//! | `DOSVC_LAB_KEEP=1` | keep logs and captures of every run, not of failed ones alone |
#![cfg(target_os = "linux")]

mod capture;
mod content;
mod daemon;
mod distance;
mod homes;
mod machine;
mod meter;
mod namespace;
mod nginx;
mod origin;
mod other;
mod peer;
mod plane;
mod process;
#[path = "../../crates/nat/tests/namespaces/router.rs"]
mod router;
mod tracker;
mod turns;

mod cache;
mod cache_host;
mod cloud;
mod crash;
mod far;
mod gates;
mod harness;
mod hostile;
mod idle;
mod loopback;
mod members;
mod nats;
mod outage;
mod policy;
mod polite;
mod scope;
mod selection;
mod sharing;
