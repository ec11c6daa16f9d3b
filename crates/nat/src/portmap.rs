//! Ports of this machine, mapped at the gateway in front of it: by PCP (RFC 6887), NAT-PMP (RFC 6886) or UPnP-IGD,
//! whichever the gateway speaks.
//!
//! - [`Mapper`]: when to ask for what, as a state machine without socket, clock or randomness of its own;
//! - [`PortMapper`]: the same with the gateway and time. Who wants to know which addresses lead here watches its
//!   [`Status`].
//!
//! Nothing is asked of anybody but the gateway of the default route, and nothing that another host of the network says is
//! believed. What a gateway answers is bounded in size, time and number.

mod driver;
mod mapper;
mod protocols;
mod restart;
mod ssdp;

pub use driver::{PortMapper, PortMapperConfig};
pub use mapper::{Action, Mapper};

use crate::teredo::is_global;
use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddrV4},
    num::NonZeroU16,
    time::Duration,
};

/// For how long a mapping is asked for: if we vanish, the gateway forgets it then.
pub const LEASE: Duration = Duration::from_secs(30 * 60);

/// Ports that are mapped at most; more are left out.
pub const PORTS_MAX: usize = 8;

/// What a port carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// A port of this machine that is to be reached from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// What it carries.
    pub protocol: Protocol,
    /// Its number here.
    pub number: NonZeroU16,
}

/// The ports that are wanted.
pub type Ports = BTreeSet<Port>;

/// The gateway, and the address that we have towards it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The router of the default route.
    pub gateway: Ipv4Addr,
    /// Our own address.
    pub local: Ipv4Addr,
}

/// How a gateway is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Port Control Protocol.
    Pcp,
    /// NAT Port Mapping Protocol.
    NatPmp,
    /// Universal Plug and Play, Internet Gateway Device 1 or 2.
    Upnp,
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pcp => "PCP",
            Self::NatPmp => "NAT-PMP",
            Self::Upnp => "UPnP",
        })
    }
}

/// A port that the gateway has mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Which.
    pub port: Port,
    /// What leads to it, says the gateway. Whether the Internet sees it so, others can tell.
    pub external: SocketAddrV4,
}

impl Mapping {
    /// Whether this can be reached from the Internet: not when the gateway has a private address itself, behind another
    /// NAT.
    pub fn is_public(&self) -> bool {
        is_global(*self.external.ip())
    }
}

/// What a gateway granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// How it was asked.
    pub method: Method,
    /// What it mapped, and for how long.
    pub mappings: Vec<(Mapping, Duration)>,
}

/// Why nothing is mapped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The gateway answers in none of the protocols.
    #[error("the gateway speaks neither PCP nor NAT-PMP nor UPnP, or they are switched off there")]
    Silent,
    /// The gateway refuses.
    #[error("the gateway refuses: {0}")]
    Refused(String),
    /// The gateway has no address on its other side.
    #[error("the gateway has no address of the Internet")]
    NoExternalAddress,
    /// The gateway says what can't be.
    #[error("the gateway answers nonsense")]
    Nonsense,
}

/// How things stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// No port is wanted.
    #[default]
    Off,
    /// There is no router to ask.
    NoGateway,
    /// It is being asked.
    Asking,
    /// It has mapped something.
    Mapped(Method),
    /// It has not; it is asked again later.
    Failed(Failure),
}

/// What is known and held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// How things stand.
    pub state: State,
    /// The gateway.
    pub route: Option<Route>,
    /// What is mapped; while a renewal is under way, too.
    pub mappings: Vec<Mapping>,
    /// Times that ports were mapped or renewed.
    pub granted: u64,
    /// Times that it failed.
    pub failed: u64,
}

impl Status {
    /// Whether the gateway stands behind another NAT, so that what it maps is not reached from the Internet.
    pub fn is_nested(&self) -> bool {
        !self.mappings.is_empty() && !self.mappings.iter().any(Mapping::is_public)
    }

    /// What leads to a port from the Internet.
    pub fn public(&self, protocol: Protocol, number: u16) -> Option<SocketAddrV4> {
        let ours = |m: &&Mapping| m.port.protocol == protocol && m.port.number.get() == number;
        let mapping = self.mappings.iter().find(ours);
        mapping.filter(|m| m.is_public()).map(|m| m.external)
    }
}
