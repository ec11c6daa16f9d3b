//! Clients, servers and NATs on real kernels' networks: namespaces, with the kernel's own NAT between them. Needs root and
//! nftables; the tests of `foreign` need miredo and miredo-server too, those of `portmap` miniupnpd:
//!
//! ```text
//! cargo test -p dosvc-nat --test namespaces -- --ignored --test-threads=3
//! ```
//!
//! Nothing outside the namespaces is touched.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "tests")]

mod foreign;
mod gateway;
mod machine;
mod own;
mod peer;
mod portmap;
mod quic;
mod router;
mod tcp;
mod tun;

use std::time::Duration;

/// Longer than four tries two seconds apart, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(20);
