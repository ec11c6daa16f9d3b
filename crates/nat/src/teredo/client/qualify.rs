//! Getting an address and keeping it (RFC 4380 §5.2.1, §5.2.5, without the cone phase as RFC 5991 has it).

use super::{Client, Dropped, Event, LocalPort, Nat, Offline, Path, Qualified, native::Natives};
use crate::teredo::{
    Datagram, PORT, TeredoAddress,
    icmp::{RouterAdvertisement, RouterSolicitation, SOLICITING},
    is_global,
    limits::{OFFLINE_RETRY, REFRESH_INTERVAL, SOLICITATION_TIMEOUT, SOLICITATIONS_MAX},
};
use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Instant,
};

/// A question to a server that has not been answered yet.
#[derive(Debug)]
pub(super) struct Solicitation {
    to: Ipv4Addr,
    pub(super) nonce: [u8; 8],
    sent: u8,
    deadline: Instant,
}

/// How far we are.
#[derive(Debug)]
pub(super) enum Phase {
    /// No server has answered.
    Offline { retry_at: Option<Instant> },
    /// Where are we seen?
    Primary(Solicitation),
    /// Are we seen there by everybody?
    Secondary { first: Seen, asked: Solicitation },
    /// We have an address. Now and then: is it still ours?
    Qualified {
        qualified: Qualified,
        refresh_at: Instant,
        asked: Option<Solicitation>,
    },
}

/// What the primary address of a server has said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    mapped: SocketAddrV4,
    mtu: u16,
}

impl Phase {
    pub(super) fn off(now: Instant) -> Self {
        Self::Offline {
            retry_at: Some(now),
        }
    }

    pub(super) fn asked(&mut self) -> Option<&mut Solicitation> {
        match self {
            Self::Offline { .. } => None,
            Self::Primary(asked) | Self::Secondary { asked, .. } => Some(asked),
            Self::Qualified { asked, .. } => asked.as_mut(),
        }
    }

    pub(super) fn timeout(&self) -> Option<Instant> {
        match self {
            Self::Offline { retry_at } => *retry_at,
            Self::Primary(asked) | Self::Secondary { asked, .. } => Some(asked.deadline),
            Self::Qualified {
                refresh_at, asked, ..
            } => Some(asked.as_ref().map_or(*refresh_at, |asked| asked.deadline)),
        }
    }
}

impl Client {
    /// Asks the server in use, as if nothing were known.
    pub(super) fn start(&mut self, now: Instant) {
        self.phase = match self.server() {
            Some(server) => Phase::Primary(self.solicit(now, server.primary)),
            None => Phase::Offline { retry_at: None },
        };
    }

    fn solicit(&mut self, now: Instant, to: Ipv4Addr) -> Solicitation {
        let nonce = self.random.bytes();
        let mut asked = Solicitation {
            to,
            nonce,
            sent: 0,
            deadline: now,
        };
        self.ask(now, &mut asked);
        asked
    }

    fn ask(&mut self, now: Instant, asked: &mut Solicitation) {
        asked.sent += 1;
        asked.deadline = now + SOLICITATION_TIMEOUT;
        let solicitation = RouterSolicitation { source: SOLICITING };
        let bytes = solicitation.encode(asked.nonce, self.config.secret.as_ref());
        let path = Path {
            port: LocalPort::Service,
            to: SocketAddrV4::new(asked.to, PORT),
        };
        self.stats.solicitations += 1;
        self.transmit(path, None, bytes);
    }

    pub(super) fn phase_timeout(&mut self, now: Instant) {
        if self.phase.timeout().is_none_or(|at| at > now) {
            return;
        }
        let mut phase = std::mem::replace(&mut self.phase, Phase::Offline { retry_at: None });
        match phase.asked() {
            Some(asked) if asked.sent < SOLICITATIONS_MAX => {
                asked.nonce = self.random.bytes();
                self.ask(now, asked);
                self.phase = phase;
            }
            Some(_) => self.no_answer(now),
            None => match (phase, self.server()) {
                (
                    Phase::Qualified {
                        qualified,
                        refresh_at,
                        ..
                    },
                    Some(server),
                ) => {
                    self.forget_idle_peers(now);
                    self.phase = Phase::Qualified {
                        qualified,
                        refresh_at,
                        asked: Some(self.solicit(now, server.primary)),
                    };
                }
                _ => self.start(now),
            },
        }
    }

    /// The server in use is dead, to us: the next one is asked, and when all were, there is a pause.
    fn no_answer(&mut self, now: Instant) {
        self.lose_address(Offline::NoAnswer);
        self.server += 1;
        if self.server < self.config.servers.len() {
            self.start(now);
        } else {
            self.server = 0;
            let retry_at = Some(now + OFFLINE_RETRY);
            self.phase = Phase::Offline { retry_at };
        }
    }

    pub(super) fn lose_address(&mut self, why: Offline) {
        self.discover_at = None;
        if let Some(natives) = &mut self.natives {
            *natives = Natives::default();
        }
        for port in self.peers.clear() {
            self.event(Event::PortClosed(port));
        }
        self.event(Event::Offline(why));
    }

    /// An advertisement: the answer to what we asked last, or nothing.
    pub(super) fn receive_advertisement(
        &mut self,
        now: Instant,
        from: SocketAddrV4,
        datagram: &Datagram<'_>,
    ) -> Result<(), Dropped> {
        let server = self.server().ok_or(Dropped::Advertisement)?;
        let asked = self.phase.asked().ok_or(Dropped::Advertisement)?;
        let said = datagram.authentication.ok_or(Dropped::Advertisement)?;
        let answers = from == SocketAddrV4::new(asked.to, PORT)
            && said.nonce == asked.nonce
            && said.confirmation == 0;
        let secret = self.config.secret.as_ref();
        let proven = secret.is_none_or(|secret| secret.verifies(datagram));
        let advertisement = RouterAdvertisement::parse(datagram.packet)
            .filter(|said| said.destination == SOLICITING && said.server == server.primary);
        let (Some(advertisement), Some(mapped)) = (advertisement, datagram.origin) else {
            return Err(Dropped::Advertisement);
        };
        if !answers || !proven {
            return Err(Dropped::Advertisement);
        }
        if !is_global(*mapped.ip()) || mapped.port() == 0 {
            return Err(Dropped::Inward);
        }
        let seen = Seen {
            mapped,
            mtu: advertisement.mtu,
        };
        self.answered(now, seen);
        Ok(())
    }

    fn answered(&mut self, now: Instant, seen: Seen) {
        self.answered_at = Some(now);
        let secondary = self.server().and_then(|server| server.secondary);
        match &mut self.phase {
            Phase::Offline { .. } => {}
            Phase::Primary(_) => self.seen_by_primary(now, seen, secondary),
            Phase::Secondary { first, .. } => {
                let first = *first;
                let same = first.mapped == seen.mapped;
                self.qualify(
                    now,
                    first,
                    if same {
                        Nat::Consistent
                    } else {
                        Nat::Symmetric
                    },
                );
            }
            Phase::Qualified {
                qualified,
                refresh_at,
                asked,
            } => {
                if qualified.address.mapped() == seen.mapped {
                    *asked = None;
                    let interval = [REFRESH_INTERVAL * 3 / 4, REFRESH_INTERVAL];
                    *refresh_at = now + self.random.between(interval);
                } else {
                    self.lose_address(Offline::MappingChanged);
                    self.seen_by_primary(now, seen, secondary);
                }
            }
        }
    }

    fn seen_by_primary(&mut self, now: Instant, first: Seen, secondary: Option<Ipv4Addr>) {
        match secondary {
            Some(secondary) => {
                let asked = self.solicit(now, secondary);
                self.phase = Phase::Secondary { first, asked };
            }
            None => self.qualify(now, first, Nat::Unknown),
        }
    }

    fn qualify(&mut self, now: Instant, seen: Seen, nat: Nat) {
        let Some(server) = self.server() else { return };
        let mapped = seen.mapped;
        let mut networks = self.config.networks.iter();
        let open = networks.any(|network| network.address == *mapped.ip());
        let keeps_port = mapped.port() == self.config.local_port;
        let qualified = Qualified {
            address: TeredoAddress::new(server.primary, mapped, self.random.u16()),
            nat: if open && keeps_port { Nat::Open } else { nat },
            keeps_port,
            mtu: seen.mtu,
        };
        let interval = [REFRESH_INTERVAL * 3 / 4, REFRESH_INTERVAL];
        self.phase = Phase::Qualified {
            qualified,
            refresh_at: now + self.random.between(interval),
            asked: None,
        };
        self.event(Event::Qualified(qualified));
        self.discover(now);
    }
}
