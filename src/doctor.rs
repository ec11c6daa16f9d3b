//! `dosvc doctor`: does everything that peers need work on this machine, and if not, why?

use crate::{
    SaidAlready,
    cli::{DoctorArgs, Global},
    client, show, teredo,
};
use dosvc_engine::api::{CloudStatus, EngineStatus, GateStatus, PortMappingStatus};
use serde::Serialize;

/// How a check went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// As it should be.
    Good,
    /// Not asked for, or of no use in this mode.
    Off,
    /// Works with less than there could be.
    Warning,
    /// Does not work.
    Bad,
}

/// One check.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Row {
    check: &'static str,
    outcome: Outcome,
    /// What was found, and what can be done.
    detail: String,
}

/// Runs the command.
pub(crate) async fn run(global: &Global, args: DoctorArgs) -> anyhow::Result<()> {
    let DoctorArgs { json } = args;
    let client = client(global)?;
    let (status, tunnel) = tokio::try_join!(client.status(), client.tunnel())?;
    let rows = rows(&status, tunnel.as_ref());
    if json {
        show::pretty_json(&rows)?;
    } else {
        rows.iter().try_for_each(|row| show::line(row.text()))?;
    }
    match rows.iter().any(|row| row.outcome == Outcome::Bad) {
        true => Err(SaidAlready.into()),
        false => Ok(()),
    }
}

impl Row {
    fn new(check: &'static str, outcome: Outcome, detail: impl Into<String>) -> Self {
        Self {
            check,
            outcome,
            detail: detail.into(),
        }
    }

    fn text(&self) -> String {
        let mark = match self.outcome {
            Outcome::Good => "good   ",
            Outcome::Off => "off    ",
            Outcome::Warning => "warning",
            Outcome::Bad => "bad    ",
        };
        format!("{mark}  {:<13} {}", self.check, self.detail)
    }
}

fn rows(status: &EngineStatus, tunnel: Option<&teredo::Status>) -> Vec<Row> {
    let mut rows = vec![
        Row::new(
            "daemon",
            Outcome::Good,
            format!("version {} answers", status.version),
        ),
        peer_port(status),
        gateway(status),
        tunnel_row(status, tunnel),
    ];
    rows.extend(status.cloud.as_ref().map(cloud));
    rows.extend(status.gates.iter().map(gate));
    rows
}

/// Whether the mode has peers beyond the LAN.
fn is_distant(status: &EngineStatus) -> bool {
    matches!(status.download_mode, 2 | 3)
}

fn peer_port(status: &EngineStatus) -> Row {
    let listening: Vec<String> = status.listening.iter().map(ToString::to_string).collect();
    let mode = show::mode(status.download_mode);
    match (listening.is_empty(), status.download_mode) {
        (false, _) => Row::new(
            "peer port",
            Outcome::Good,
            format!("open: {}", listening.join(", ")),
        ),
        (true, 1..=3) => Row::new(
            "peer port",
            Outcome::Bad,
            format!(
                "closed, though mode {mode} has peers: see what is closed below, and the daemon's log"
            ),
        ),
        (true, _) => Row::new(
            "peer port",
            Outcome::Off,
            format!("mode {mode} has no peers"),
        ),
    }
}

fn gateway(status: &EngineStatus) -> Row {
    const CHECK: &str = "port mapping";
    let Some(mapping) = &status.port_mapping else {
        let why = match is_distant(status) {
            true => "switched off ([nat] port_mapping), or no peer port to map",
            false => "only modes 2 and 3 have peers beyond the LAN",
        };
        return Row::new(CHECK, Outcome::Off, why);
    };
    let PortMappingStatus {
        state,
        method,
        gateway,
        mappings,
        failure,
        granted: _,
        failed: _,
    } = mapping;
    let gateway = gateway.map_or_else(|| "the gateway".to_owned(), |ip| ip.to_string());
    if let Some(mapped) = mappings.first() {
        let method = method.as_deref().unwrap_or("being renewed");
        let what = format!(
            "{} {} is {} at {gateway} ({method})",
            mapped.protocol, mapped.port, mapped.external
        );
        return match mapped.public {
            true => Row::new(CHECK, Outcome::Good, what),
            false => Row::new(
                CHECK,
                Outcome::Warning,
                format!(
                    "{what}: behind another NAT (double NAT), so the Internet does not reach it; map the port there, too"
                ),
            ),
        };
    }
    let why = match (state.as_str(), failure) {
        (_, Some(why)) => {
            format!("{gateway}: {why}; switch one of them on there, or forward the port by hand")
        }
        ("no_gateway", _) => "no IPv4 default route, so no gateway to ask".to_owned(),
        _ => format!("asking {gateway}"),
    };
    Row::new(CHECK, Outcome::Warning, why)
}

fn tunnel_row(status: &EngineStatus, tunnel: Option<&teredo::Status>) -> Row {
    const CHECK: &str = "Teredo";
    let Some(tunnel) = tunnel else {
        let why = match is_distant(status) {
            true if !status.gates.is_empty() => {
                "closed by what is named below, or no server is configured ([nat] teredo_servers)"
            }
            true => {
                "no server is configured ([nat] teredo_servers), or its UDP port is taken (see the daemon's log)"
            }
            false => "only modes 2 and 3 have peers beyond the LAN",
        };
        return Row::new(CHECK, Outcome::Off, why);
    };
    let outcome = match (tunnel.address(), tunnel.is_offline()) {
        (Some(_), _) => Outcome::Good,
        (None, true) => Outcome::Bad,
        (None, false) => Outcome::Warning,
    };
    Row::new(CHECK, outcome, tunnel.summary())
}

fn cloud(cloud: &CloudStatus) -> Row {
    let failing: Vec<String> = (cloud.services.iter())
        .filter_map(|service| {
            let failure = service.failure.as_ref()?;
            Some(format!("{}: {}", service.service, failure.message))
        })
        .collect();
    match failing.is_empty() {
        true => Row::new(
            "cloud",
            Outcome::Good,
            format!("{}: nothing fails", cloud.geo_url),
        ),
        false => Row::new("cloud", Outcome::Bad, failing.join("; ")),
    }
}

fn gate(gate: &GateStatus) -> Row {
    Row::new(
        "closed",
        Outcome::Warning,
        format!("{} ({})", gate.message, gate.code),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Config, LoadOptions},
        local::{Local as _, fake},
    };
    use dosvc_engine::api::MappedPort;

    fn daemon() -> EngineStatus {
        let config = Config::load(LoadOptions::default()).unwrap();
        let started = fake::Engine::start(&config);
        crate::small_runtime().unwrap().block_on(started).status()
    }

    fn status(mode: u8, mapping: Option<PortMappingStatus>) -> EngineStatus {
        EngineStatus {
            download_mode: mode,
            port_mapping: mapping,
            ..daemon()
        }
    }

    fn mapping(state: &str, external: Option<&str>, failure: Option<&str>) -> PortMappingStatus {
        let mapped = |external: &str| MappedPort {
            protocol: "TCP".to_owned(),
            port: 7680,
            external: external.parse().unwrap(),
            public: !external.starts_with("192.168."),
        };
        PortMappingStatus {
            state: state.to_owned(),
            method: external.map(|_| "PCP".to_owned()),
            gateway: Some([192, 168, 1, 1].into()),
            mappings: external.map(mapped).into_iter().collect(),
            failure: failure.map(ToOwned::to_owned),
            granted: 0,
            failed: 0,
        }
    }

    fn outcome(mode: u8, mapping: Option<PortMappingStatus>) -> Outcome {
        let rows = rows(&status(mode, mapping), None);
        let row = rows.iter().find(|row| row.check == "port mapping").unwrap();
        assert!(row.text().contains(&row.detail) && !row.detail.is_empty());
        row.outcome
    }

    #[test]
    fn every_state_of_the_gateway_is_told_from_the_others() {
        assert_eq!(outcome(1, None), Outcome::Off);
        assert_eq!(outcome(3, None), Outcome::Off);
        let mapped = |external| Some(mapping("mapped", Some(external), None));
        assert_eq!(outcome(3, mapped("203.0.113.10:7680")), Outcome::Good);
        assert_eq!(outcome(3, mapped("192.168.178.2:7680")), Outcome::Warning);
        assert_eq!(
            outcome(2, Some(mapping("failed", None, Some("silent")))),
            Outcome::Warning
        );
        assert_eq!(
            outcome(2, Some(mapping("no_gateway", None, None))),
            Outcome::Warning
        );
        assert_eq!(
            outcome(2, Some(mapping("asking", None, None))),
            Outcome::Warning
        );
    }

    #[test]
    fn every_state_of_the_tunnel_is_told_from_the_others() {
        use dosvc_nat::{
            net::{State, TunnelStatus},
            teredo::{
                TeredoAddress,
                client::{Nat, Offline, Qualified, Stats},
            },
        };
        let in_state = |state| {
            teredo::Status::of(&TunnelStatus {
                state,
                server: None,
                answered: None,
                local_port: 3544,
                peers: Vec::new(),
                stats: Stats::default(),
            })
        };
        let mapped = "203.0.113.10:3544".parse().unwrap();
        let own = Qualified {
            address: TeredoAddress::new([198, 51, 100, 10].into(), mapped, 0),
            nat: Nat::Consistent,
            keeps_port: true,
            mtu: 1280,
        };
        for (mode, state, wanted) in [
            (1, None, Outcome::Off),
            (3, None, Outcome::Off),
            (3, Some(State::Starting), Outcome::Warning),
            (3, Some(State::Qualified(own)), Outcome::Good),
            (3, Some(State::Offline(Offline::NoAnswer)), Outcome::Bad),
            (
                3,
                Some(State::Offline(Offline::Restarted)),
                Outcome::Warning,
            ),
        ] {
            let row = tunnel_row(&status(mode, None), state.map(in_state).as_ref());
            assert_eq!(row.outcome, wanted, "{row:?}");
        }
    }

    #[test]
    fn a_tunnel_that_a_gate_closes_is_not_said_to_lack_a_server_alone() {
        let gate = GateStatus {
            name: "vpn".to_owned(),
            code: "0x80D03807".to_owned(),
            message: "a VPN is active".to_owned(),
            closes: vec!["peers".to_owned()],
            remedy: String::new(),
        };
        let closed = EngineStatus {
            gates: vec![gate],
            ..status(3, None)
        };
        let row = tunnel_row(&closed, None);
        assert_eq!(row.outcome, Outcome::Off);
        assert!(row.detail.contains("below"), "{row:?}");
    }

    #[test]
    fn a_closed_peer_port_is_bad_only_where_there_should_be_one() {
        let closed = |mode| EngineStatus {
            listening: Vec::new(),
            ..status(mode, None)
        };
        for (mode, wanted) in [
            (1, Outcome::Bad),
            (3, Outcome::Bad),
            (0, Outcome::Off),
            (99, Outcome::Off),
        ] {
            assert_eq!(peer_port(&closed(mode)).outcome, wanted, "mode {mode}");
        }
    }
}
