//! Asking a gateway, in whichever protocol it speaks.

use super::{Failure, Granted, Mapping, Method, Port, Ports, Protocol, Route, ssdp};
use crab_nat::{InternetProtocol, PortMapping, PortMappingOptions, TimeoutConfig, natpmp, pcp};
use igd_next::{
    AddPortError, PortMappingProtocol, SearchOptions,
    aio::{Gateway, tokio::Tokio},
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    time::Duration,
};
use tokio::task::JoinSet;

/// Longest time that a search over UPnP takes, description and all.
const SEARCH_MAX: Duration = Duration::from_secs(5);
/// Longest time for one answer over UPnP.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// When a question over PCP or NAT-PMP is asked again, and how often: 1.75 s in all.
const UDP_TIMES: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 2,
    max_retry_timeout: Some(Duration::from_secs(1)),
};
/// What the gateway's list of mappings shows.
const DESCRIPTION: &str = "dosvc";
/// Bytes of a gateway's words that are kept.
const WORDS_MAX: usize = 120;

/// A gateway, and how it is asked.
pub(super) enum Client {
    Pcp(BTreeMap<Port, PortMapping>),
    NatPmp(BTreeMap<Port, PortMapping>),
    Upnp {
        gateway: Box<Gateway<Tokio>>,
        local: Ipv4Addr,
        /// The external ports.
        held: BTreeMap<Port, u16>,
    },
}

/// Finds out how the gateway is asked, by asking it to map the ports: PCP, then NAT-PMP; it is looked for over UPnP
/// meanwhile, which takes longer, and asked that way when it understands nothing else.
pub(super) async fn search(
    route: Route,
    ports: &Ports,
    lease: Duration,
) -> Result<(Client, Granted), Failure> {
    let mut upnp = JoinSet::new();
    upnp.spawn(tokio::time::timeout(SEARCH_MAX, find(route)));
    let mut refusal = None;
    for mut client in [
        Client::Pcp(BTreeMap::new()),
        Client::NatPmp(BTreeMap::new()),
    ] {
        match client.map(route, ports, lease).await {
            Ok(granted) => return Ok((client, granted)),
            Err(Failure::Silent) => {}
            Err(failure) => refusal = refusal.or(Some(failure)),
        }
    }
    let Some(Ok(Ok(Some(gateway)))) = upnp.join_next().await else {
        return Err(refusal.unwrap_or(Failure::Silent));
    };
    let mut client = Client::Upnp {
        gateway: Box::new(gateway),
        local: route.local,
        held: BTreeMap::new(),
    };
    let granted = client.map(route, ports, lease).await?;
    Ok((client, granted))
}

/// The gateway, if it speaks UPnP.
async fn find(route: Route) -> Option<Gateway<Tokio>> {
    let filter = ssdp::Filter::start(route)
        .await
        .inspect_err(|error| tracing::debug!(%error, "no search over UPnP"))
        .ok()?;
    let mut options = SearchOptions::default();
    options.bind_addr = (Ipv4Addr::LOCALHOST, 0).into();
    options.broadcast_address = filter.address();
    options.allowed_gateway_ips = vec![IpAddr::V4(route.gateway)];
    options.timeout = Some(SEARCH_MAX);
    let found = igd_next::aio::tokio::search_gateway(options).await;
    found
        .inspect_err(|error| tracing::debug!(%error, "no gateway over UPnP"))
        .ok()
}

impl Client {
    fn method(&self) -> Method {
        match self {
            Self::Pcp(_) => Method::Pcp,
            Self::NatPmp(_) => Method::NatPmp,
            Self::Upnp { .. } => Method::Upnp,
        }
    }

    /// Maps the ports, or renews what is mapped. One that is granted is a success.
    pub(super) async fn map(
        &mut self,
        route: Route,
        ports: &Ports,
        lease: Duration,
    ) -> Result<Granted, Failure> {
        let external = self.external_ip(route).await?;
        let (mut mappings, mut failure) = (Vec::new(), None);
        for &port in ports {
            match self.map_one(route, port, lease).await {
                Ok((address, number, lease)) => {
                    let external = SocketAddrV4::new(
                        address.or(external).unwrap_or(Ipv4Addr::UNSPECIFIED),
                        number,
                    );
                    mappings.push((Mapping { port, external }, lease));
                }
                // Who is silent once would let every port wait as long.
                Err(Failure::Silent) => return Err(Failure::Silent),
                Err(why) => failure = failure.or(Some(why)),
            }
        }
        match failure {
            Some(why) if mappings.is_empty() => Err(why),
            _ => Ok(Granted {
                method: self.method(),
                mappings,
            }),
        }
    }

    /// Where that does not come with every mapping.
    async fn external_ip(&self, route: Route) -> Result<Option<Ipv4Addr>, Failure> {
        match self {
            Self::Pcp(_) => Ok(None),
            Self::NatPmp(_) => natpmp::external_address(route.gateway.into(), Some(UDP_TIMES))
                .await
                .map(Some)
                .map_err(|error| natpmp_failure(&error)),
            Self::Upnp { gateway, .. } => match in_time(gateway.get_external_ip()).await? {
                IpAddr::V4(ip) => Ok(Some(ip)),
                IpAddr::V6(_) => Err(Failure::Nonsense),
            },
        }
    }

    async fn map_one(
        &mut self,
        route: Route,
        port: Port,
        lease: Duration,
    ) -> Result<(Option<Ipv4Addr>, u16, Duration), Failure> {
        let seconds = u32::try_from(lease.as_secs()).unwrap_or(u32::MAX);
        let options = PortMappingOptions {
            external_port: Some(port.number),
            lifetime_seconds: Some(seconds),
            timeout_config: Some(UDP_TIMES),
        };
        match self {
            Self::Pcp(held) => {
                let (nonce, address, options) = match held.get(&port).map(|m| (m.mapping_type(), m))
                {
                    Some((
                        crab_nat::PortMappingType::Pcp {
                            nonce, external_ip, ..
                        },
                        mapping,
                    )) => {
                        let external_port = Some(mapping.external_port());
                        (
                            Some(nonce),
                            Some(external_ip),
                            PortMappingOptions {
                                external_port,
                                ..options
                            },
                        )
                    }
                    _ => (None, None, options),
                };
                let request = pcp::BaseMapRequest::new(
                    route.gateway.into(),
                    route.local.into(),
                    internet(port.protocol),
                    port.number,
                );
                let mapping = pcp::port_mapping(request, nonce, address, options)
                    .await
                    .map_err(|error| pcp_failure(&error))?;
                let crab_nat::PortMappingType::Pcp {
                    external_ip: IpAddr::V4(ip),
                    ..
                } = mapping.mapping_type()
                else {
                    return Err(Failure::Nonsense);
                };
                let granted = granted(&mapping);
                held.insert(port, mapping);
                Ok((Some(ip), granted.0, granted.1))
            }
            Self::NatPmp(held) => {
                let external_port = held.get(&port).map(PortMapping::external_port);
                let options = PortMappingOptions {
                    external_port: external_port.or(options.external_port),
                    ..options
                };
                let mapping = natpmp::port_mapping(
                    route.gateway.into(),
                    internet(port.protocol),
                    port.number,
                    options,
                )
                .await
                .map_err(|error| natpmp_failure(&error))?;
                let granted = granted(&mapping);
                held.insert(port, mapping);
                Ok((None, granted.0, granted.1))
            }
            Self::Upnp {
                gateway,
                local,
                held,
            } => {
                let number = held.get(&port).copied();
                let (number, lease) = add(gateway, *local, port, number, seconds).await?;
                held.insert(port, number);
                Ok((None, number, lease))
            }
        }
    }

    /// Has the gateway forget a port; whether it does, nobody can help.
    pub(super) async fn unmap(&mut self, port: Port) {
        let failed = match self {
            Self::Pcp(held) | Self::NatPmp(held) => match held.remove(&port) {
                Some(mapping) => mapping.try_drop().await.map_err(|(why, _)| why.to_string()),
                None => Ok(()),
            },
            Self::Upnp { gateway, held, .. } => match held.remove(&port) {
                Some(number) => in_time(gateway.remove_port(upnp(port.protocol), number))
                    .await
                    .map_err(|why| why.to_string()),
                None => Ok(()),
            },
        };
        if let Err(why) = failed {
            tracing::debug!(port = port.number, why, "a mapping could not be removed");
        }
    }

    /// The ports that the gateway may hold for us.
    pub(super) fn held(&self) -> Vec<Port> {
        match self {
            Self::Pcp(held) | Self::NatPmp(held) => held.keys().copied().collect(),
            Self::Upnp { held, .. } => held.keys().copied().collect(),
        }
    }
}

/// Maps a port over UPnP: to the same number outside if that is free, else to any.
async fn add(
    gateway: &Gateway<Tokio>,
    local: Ipv4Addr,
    port: Port,
    number: Option<u16>,
    mut seconds: u32,
) -> Result<(u16, Duration), Failure> {
    let (protocol, inside) = (
        upnp(port.protocol),
        SocketAddr::from((local, port.number.get())),
    );
    let number = number.unwrap_or_else(|| port.number.get());
    let asked = Duration::from_secs(seconds.into());
    let mut result =
        limit(gateway.add_port(protocol, number, inside, seconds, DESCRIPTION)).await?;
    if matches!(result, Err(AddPortError::OnlyPermanentLeasesSupported)) {
        // It is removed at the end, and renewed as if it had one.
        seconds = 0;
        result = limit(gateway.add_port(protocol, number, inside, seconds, DESCRIPTION)).await?;
    }
    match result {
        Ok(()) => Ok((number, asked)),
        Err(AddPortError::PortInUse) => {
            let any = gateway.add_any_port(protocol, inside, seconds, DESCRIPTION);
            Ok((in_time(any).await?, asked))
        }
        Err(error) => Err(Failure::Refused(words(&error))),
    }
}

async fn limit<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let answer = tokio::time::timeout(ANSWER_MAX, work).await;
    answer.map_err(|_| Failure::Silent)
}

async fn in_time<T, E: std::error::Error>(
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, Failure> {
    limit(work)
        .await?
        .map_err(|error| Failure::Refused(words(&error)))
}

fn granted(mapping: &PortMapping) -> (u16, Duration) {
    let lease = Duration::from_secs(mapping.lifetime().into());
    (mapping.external_port().get(), lease)
}

fn internet(protocol: Protocol) -> InternetProtocol {
    match protocol {
        Protocol::Tcp => InternetProtocol::Tcp,
        Protocol::Udp => InternetProtocol::Udp,
    }
}

fn upnp(protocol: Protocol) -> PortMappingProtocol {
    match protocol {
        Protocol::Tcp => PortMappingProtocol::TCP,
        Protocol::Udp => PortMappingProtocol::UDP,
    }
}

fn pcp_failure(error: &pcp::Failure) -> Failure {
    match error {
        // A port that is closed says so.
        pcp::Failure::Timeout | pcp::Failure::Socket(_) | pcp::Failure::UnsupportedVersion(_) => {
            Failure::Silent
        }
        pcp::Failure::Nonce | pcp::Failure::InvalidResponse(_) => Failure::Nonsense,
        refused => Failure::Refused(words(refused)),
    }
}

fn natpmp_failure(error: &natpmp::Failure) -> Failure {
    match error {
        natpmp::Failure::Timeout
        | natpmp::Failure::Socket(_)
        | natpmp::Failure::UnsupportedVersion(_) => Failure::Silent,
        natpmp::Failure::InvalidResponse(_) => Failure::Nonsense,
        refused => Failure::Refused(words(refused)),
    }
}

/// What a gateway says, fit to be shown: it may be a megabyte of anything.
fn words(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    let shown = text.chars().filter(|c| !c.is_control());
    shown.take(WORDS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn a_gateways_words_are_cut_and_have_no_control_characters() {
        let long = format!("\u{1b}[2J{}\n", "x".repeat(1 << 20));
        let shown = words(&long);
        assert!(shown.starts_with("[2Jxx") && shown.len() == super::WORDS_MAX);
    }
}
