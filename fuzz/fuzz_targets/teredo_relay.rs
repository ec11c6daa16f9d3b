//! Packets and datagrams from anybody at a relay: what goes out is never more than came, nor to where nothing may go, and
//! nothing that is kept grows past its limits.
#![no_main]

use dosvc_nat::teredo::{
    is_global,
    limits::RELAY_PEERS_MAX,
    relay::{Relay, RelayConfig, Relayed},
};
use libfuzzer_sys::fuzz_target;
use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

#[derive(Debug, arbitrary::Arbitrary)]
enum Fact {
    Native(Vec<u8>),
    Datagram {
        ip: u32,
        port: u16,
        bytes: Vec<u8>,
    },
    /// The last thing that was sent comes back, as a client's answer would.
    Answer {
        ip: u32,
        port: u16,
    },
    Later(u16),
}

fuzz_target!(|facts: Vec<Fact>| {
    let mut now = Instant::now();
    let mut relay = Relay::new(RelayConfig::default(), [1; 32]);
    let (mut came, mut went) = (0, 0);
    let mut last: Vec<u8> = Vec::new();
    for fact in facts {
        match fact {
            Fact::Native(packet) => {
                came += packet.len();
                if let Ok(Relayed::Now(to)) = relay.handle_native(now, &packet) {
                    went += packet.len();
                    assert!(is_global(*to.ip()));
                }
            }
            Fact::Datagram { ip, port, bytes } => {
                let from = SocketAddrV4::new(Ipv4Addr::from(ip), port);
                let _refused = relay.handle_datagram(now, from, &bytes);
            }
            Fact::Answer { ip, port } if last.len() >= 40 => {
                // Source and destination change places.
                let (source, destination) = (last[8..24].to_vec(), last[24..40].to_vec());
                last[8..24].copy_from_slice(&destination);
                last[24..40].copy_from_slice(&source);
                let from = SocketAddrV4::new(Ipv4Addr::from(ip), port);
                let _refused = relay.handle_datagram(now, from, &last);
            }
            Fact::Answer { .. } => {}
            Fact::Later(seconds) => {
                now += Duration::from_secs(seconds.into());
                relay.forget_idle(now);
            }
        }
        while let Some(out) = relay.poll_transmit() {
            assert!(is_global(*out.to.ip()), "{}", out.to);
            went += out.bytes.len();
            last = out.bytes;
        }
        // A packet that waits is sent once, and pays for a bubble of 40 bytes beside itself.
        assert!(went <= 2 * came);
        assert!(relay.clients(now).0 <= RELAY_PEERS_MAX);
    }
});
