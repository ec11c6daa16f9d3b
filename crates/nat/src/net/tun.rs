//! A network interface for the tunnel: the machine's own programs reach Teredo peers, and are reached. Linux, with
//! `CAP_NET_ADMIN`.
//!
//! Everything on the machine that listens on IPv6 can be reached by peers then (RFC 4380 §7.1): it wants a firewall.

use super::{DATAGRAM_MAX, Incoming, State, Tunnel};
use crate::teredo::MTU;
use std::{io, net::Ipv6Addr};
use tun_rs::{AsyncDevice, DeviceBuilder};

/// Bits of Teredo's prefix: an address with it makes the interface the way to all of Teredo.
const PREFIX_LEN: u8 = 32;

/// A TUN interface; it goes away with this.
pub struct Device {
    device: AsyncDevice,
    name: String,
    address: Option<Ipv6Addr>,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Device({}, {:?})", self.name, self.address)
    }
}

impl Device {
    /// Makes an interface without address. It is down until it has one: others on this machine, such as a daemon that looks
    /// for VPNs, tell by the address what it is.
    ///
    /// # Errors
    /// Without the privilege or `/dev/net/tun`, or when there is an interface with that name.
    pub fn open(name: &str) -> io::Result<Self> {
        let builder = DeviceBuilder::new().name(name).mtu(MTU).enable(false);
        let device = builder
            .build_async()
            .map_err(|error| io::Error::new(error.kind(), format!("interface {name}: {error}")))?;
        Ok(Self {
            device,
            name: name.to_owned(),
            address: None,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives it this address alone, with a route to `2001::/32`; or none.
    ///
    /// # Errors
    /// What the system says.
    pub fn set_address(&mut self, address: Option<Ipv6Addr>) -> io::Result<()> {
        if address == self.address {
            return Ok(());
        }
        if let Some(new) = address {
            self.device.add_address_v6(new, PREFIX_LEN)?;
            self.device.enabled(true)?;
        }
        // The new one first, so that there is no moment without.
        if let Some(old) = std::mem::replace(&mut self.address, address) {
            self.device.remove_address_v6(old, PREFIX_LEN)?;
        }
        Ok(())
    }

    /// The next packet that the machine sends.
    ///
    /// # Errors
    /// What the system says.
    pub async fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.device.recv(buffer).await
    }

    /// Hands a packet to the machine, unless its queue is full.
    pub fn send(&self, packet: &[u8]) {
        if let Err(error) = self.device.try_send(packet) {
            tracing::trace!(%error, "a packet could not be handed to the machine");
        }
    }
}

/// Joins a tunnel and an interface, for ever: the interface has the tunnel's address whenever there is one. Packets that
/// `takes` wants are not for the machine.
///
/// # Errors
/// When the interface fails.
pub async fn join(
    tunnel: Tunnel,
    mut incoming: Incoming,
    mut device: Device,
    takes: impl Fn(&[u8]) -> bool,
) -> io::Result<()> {
    let mut state = tunnel.state();
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let address = match *state.borrow_and_update() {
            State::Qualified(own) => Some(own.address.to_ipv6()),
            State::Starting | State::Offline(_) => None,
        };
        device.set_address(address)?;
        let out = async {
            loop {
                let length = device.recv(&mut buffer).await?;
                // The kernel sends what is no business of a tunnel (multicast), too.
                if let Err(why) = tunnel.send(&buffer[..length]) {
                    tracing::trace!(%why, "a packet of the machine was not sent");
                }
            }
        };
        let inward = async {
            loop {
                let packet = incoming.recv().await;
                if !takes(packet) {
                    device.send(packet);
                }
            }
        };
        tokio::select! {
            failed = out => {
                let never: io::Result<std::convert::Infallible> = failed;
                never.map(|never| match never {})?;
            }
            never = inward => match never {},
            changed = state.changed() => if changed.is_err() { return Ok(()) },
        }
    }
}
