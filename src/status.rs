//! `dosvc status`: the daemon, its files and their peers.

mod record;

use crate::{
    cli::{Global, StatusArgs},
    client,
    client::Client,
    show,
};
use dosvc_content::format_bytes;
use dosvc_engine::api::{
    CloudStatus, EngineStatus, LimitStatus, MembershipStatus, PeerInfo, PortMappingStatus,
    SourceBytes,
};
use record::{FileRecord, records};
use serde::Serialize;
use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

/// Time between two looks with `--watch`.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Everything that is shown, as `--json` has it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Status {
    service: EngineStatus,
    files: Vec<FileRecord>,
    /// With `--peer-info`.
    #[serde(skip_serializing_if = "Option::is_none")]
    peers: Option<Vec<PeerRecord>>,
}

/// One peer of one file (`-PeerInfo`).
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PeerRecord {
    file_id: String,
    #[serde(rename = "IP")]
    ip: String,
    peer_type: String,
    connection_established: bool,
    bytes_sent: u64,
    bytes_received: u64,
    upload_rate_bytes: u64,
    download_rate_bytes: u64,
    pieces: u32,
    pieces_of: u32,
}

/// Runs the command.
pub(crate) async fn run(global: &Global, args: StatusArgs) -> anyhow::Result<()> {
    let StatusArgs {
        peer_info,
        select_peer_count,
        watch,
        json,
    } = args;
    let client = client(global)?;
    let peer_count = peer_info.then_some(select_peer_count);
    let redraw = watch && !json && io::stdout().is_terminal();
    if redraw {
        write!(io::stdout(), "\x1b[2J")?;
    }
    loop {
        let status = Status::ask(&client, peer_count).await?;
        if redraw {
            redraw_lines(&status.text())?;
        } else if json && watch {
            show::json(&status)?;
        } else if json {
            show::pretty_json(&status)?;
        } else {
            show::line(status.text())?;
        }
        if !watch {
            return Ok(());
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// Draws over what is there, without the flicker of an empty screen.
fn redraw_lines(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    write!(stdout, "\x1b[H")?;
    for line in text.lines() {
        writeln!(stdout, "{line}\x1b[K")?;
    }
    write!(stdout, "\x1b[J")?;
    stdout.flush()
}

impl Status {
    async fn ask(client: &Client, peer_count: Option<usize>) -> anyhow::Result<Self> {
        let (service, jobs, cache) =
            tokio::try_join!(client.status(), client.downloads(), client.cache())?;
        let peers = match peer_count {
            Some(count) => Some(peer_records(client.peers().await?, count)),
            None => None,
        };
        Ok(Self {
            service,
            files: records(jobs, cache),
            peers,
        })
    }

    fn text(&self) -> String {
        let mut parts = vec![service_text(&self.service)];
        parts.push(if self.files.is_empty() {
            "no downloads, nothing in the cache".into()
        } else {
            record::table_text(&self.files)
        });
        parts.extend(self.peers.as_ref().map(|peers| peers_text(peers)));
        parts.join("\n\n")
    }
}

fn service_text(status: &EngineStatus) -> String {
    let EngineStatus {
        version,
        pid,
        uptime_s,
        peer_id: _,
        download_mode,
        listening,
        state_dir,
        cache_dir,
        cache_bytes,
        cache_bytes_max,
        disk_total_bytes,
        disk_available_bytes,
        gates,
        downloaded,
        uploaded,
        bandwidth,
        month,
        cloud,
        membership,
        port_mapping,
    } = status;
    let listening: Vec<String> = listening.iter().map(ToString::to_string).collect();
    let listening = if listening.is_empty() {
        "no peer port".into()
    } else {
        listening.join(", ")
    };
    let mut lines = vec![
        format!(
            "dosvc {version}, mode {}, process {pid}, up {}",
            show::mode(*download_mode),
            show::duration(Duration::from_secs(*uptime_s))
        ),
        format!("  peers reach us at  {listening}"),
        format!("  state              {}", state_dir.display()),
        format!("  cache in           {}", cache_dir.display()),
        format!(
            "  cache              {} of at most {}; {} of {} disk free",
            format_bytes(*cache_bytes),
            format_bytes(*cache_bytes_max),
            format_bytes(*disk_available_bytes),
            format_bytes(*disk_total_bytes)
        ),
        format!("  downloaded         {}", bytes_text(downloaded)),
        format!("  uploaded           {}", bytes_text(uploaded)),
    ];
    lines.push(format!(
        "  limits             foreground {}; background {}",
        limit_text(&bandwidth.foreground),
        limit_text(&bandwidth.background)
    ));
    if let Some(bps) = bandwidth.upload_bps {
        lines.push(format!(
            "                     uploads to Internet peers {}",
            show::rate(bps)
        ));
    }
    if month.internet_bytes > 0 || month.upload_limit_reached {
        let reached = match month.upload_limit_reached {
            true => ": monthly_upload_data_cap is reached",
            false => "",
        };
        lines.push(format!(
            "  this month         {} to Internet peers{reached}",
            format_bytes(month.internet_bytes)
        ));
    }
    lines.extend(port_mapping.iter().flat_map(port_mapping_text));
    lines.extend(cloud.iter().flat_map(cloud_text));
    lines.extend(membership.iter().map(membership_text));
    for gate in gates {
        lines.push(format!(
            "  closed now         {} ({})",
            gate.message, gate.code
        ));
    }
    lines.join("\n")
}

/// What the machine proves to be of its group with.
fn membership_text(membership: &MembershipStatus) -> String {
    let MembershipStatus {
        proof,
        not_after,
        failure,
    } = membership;
    let until = not_after.map(|end| format!(", until {}", show::time(end)));
    let failure = failure.as_ref().map(|why| format!("; last attempt: {why}"));
    format!(
        "  member by          {proof}{}{}",
        until.unwrap_or_default(),
        failure.unwrap_or_default()
    )
}

/// What the gateway does for the peer port.
fn port_mapping_text(mapping: &PortMappingStatus) -> Vec<String> {
    let PortMappingStatus {
        state,
        method,
        gateway,
        mappings,
        failure,
        granted: _,
        failed: _,
    } = mapping;
    let gateway = gateway.map_or_else(String::new, |ip| format!(" at the gateway {ip}"));
    let mut lines: Vec<String> = mappings
        .iter()
        .map(|mapped| {
            let method = method.as_deref().unwrap_or("being renewed");
            let nested = match mapped.public {
                true => "",
                false => "; behind another NAT, not reached from the Internet",
            };
            format!(
                "  mapped port        {} {} is {}{gateway} ({method}{nested})",
                mapped.protocol, mapped.port, mapped.external
            )
        })
        .collect();
    if lines.is_empty() {
        let what = match (state.as_str(), failure) {
            (_, Some(why)) => format!("none: {why}"),
            ("no_gateway", _) => "none: there is no gateway".to_owned(),
            _ => format!("asking{gateway}"),
        };
        lines.push(format!("  mapped port        {what}"));
    }
    lines
}

/// Where the fleet's cloud stands: the whole of it in a line, then what does not answer.
fn cloud_text(cloud: &CloudStatus) -> Vec<String> {
    let CloudStatus {
        geo_url,
        external_ip,
        joined,
        contents,
        services,
    } = cloud;
    let seen = external_ip.as_ref();
    let seen = seen.map_or_else(String::new, |ip| format!(", which sees us as {ip}"));
    let mut lines = vec![format!(
        "  cloud              {geo_url}{seen}; {joined} of {contents} contents joined"
    )];
    for service in services {
        let Some(failure) = &service.failure else {
            continue;
        };
        let next = service.next_ms.map(|ms| {
            let wait = show::duration(Duration::from_millis(ms));
            format!("; asked again in {wait}")
        });
        lines.push(format!(
            "    {:<16} {}: {} ({}){}",
            service.service,
            service.state,
            failure.message,
            failure.code,
            next.unwrap_or_default()
        ));
    }
    lines
}

/// `10.0 MiB/s (absolute)`
pub(crate) fn limit_text(limit: &LimitStatus) -> String {
    let rate = limit.bps.map_or_else(|| "none now".into(), show::rate);
    format!("{rate} ({})", limit.source)
}

/// `4.00 GiB (LAN peers 3.00 GiB, HTTP origin 1.00 GiB)`
fn bytes_text(bytes: &SourceBytes) -> String {
    let parts: Vec<String> = show::kinds(bytes)
        .into_iter()
        .filter(|(.., bytes)| *bytes > 0)
        .map(|(_, name, bytes)| format!("{name} {}", format_bytes(bytes)))
        .collect();
    let total = format_bytes(bytes.total());
    if parts.is_empty() {
        total
    } else {
        format!("{total} ({})", parts.join(", "))
    }
}

/// Those of each file that gave most, most first.
fn peer_records(mut peers: Vec<PeerInfo>, count: usize) -> Vec<PeerRecord> {
    peers.sort_by(|a, b| {
        a.file_id
            .cmp(&b.file_id)
            .then(b.bytes_received.cmp(&a.bytes_received))
    });
    let groups = peers.chunk_by(|a, b| a.file_id == b.file_id);
    groups
        .flat_map(|group| group.iter().take(count))
        .map(PeerRecord::of)
        .collect()
}

impl PeerRecord {
    fn of(peer: &PeerInfo) -> Self {
        Self {
            file_id: peer.file_id.clone(),
            ip: peer.ip.to_string(),
            peer_type: peer.peer_type.clone(),
            connection_established: peer.connection_established,
            bytes_sent: peer.bytes_sent,
            bytes_received: peer.bytes_received,
            upload_rate_bytes: peer.upload_rate_bytes,
            download_rate_bytes: peer.download_rate_bytes,
            pieces: peer.pieces.0,
            pieces_of: peer.pieces.1,
        }
    }
}

fn peers_text(peers: &[PeerRecord]) -> String {
    if peers.is_empty() {
        return "no peers".into();
    }
    let headings = [
        "file id",
        "peer",
        "type",
        "connected",
        "has",
        "received",
        "sent",
        "down",
        "up",
    ];
    let mut table = show::table(&headings, &[4, 5, 6, 7, 8]);
    for peer in peers {
        table.add_row([
            show::short_id(&peer.file_id).to_owned(),
            peer.ip.clone(),
            peer.peer_type.clone(),
            if peer.connection_established {
                "yes"
            } else {
                ""
            }
            .to_owned(),
            format!("{}/{}", peer.pieces, peer.pieces_of),
            format_bytes(peer.bytes_received),
            format_bytes(peer.bytes_sent),
            show::rate(peer.download_rate_bytes),
            show::rate(peer.upload_rate_bytes),
        ]);
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Config, LoadOptions},
        local::{Local as _, fake},
    };

    #[tokio::test]
    async fn peers_that_gave_most_come_first_and_are_cut_to_the_count() {
        let peers = fake::Engine::start(&Config::load(LoadOptions::default()).unwrap())
            .await
            .peers()
            .await;
        let records = peer_records(peers.clone(), 5);
        assert!(records.is_sorted_by(|a, b| a.bytes_received >= b.bytes_received));
        assert_eq!(records.len(), 2);
        assert_eq!(peer_records(peers, 1)[0].ip, "192.0.2.2:7680");
    }
}
