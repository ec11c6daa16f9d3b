//! `dosvc control-plane`: the fleet's own cloud services, and what looks after them.

use crate::{
    Usage,
    cli::{
        ContentAction, ControlPlaneAction, ControlPlaneArgs, DeviceAction, EnrolmentAction, Global,
        TokenAction,
    },
    config::{Config, LoadOptions},
    load, load_config,
    run::{Signals, log, stdin_ends},
    show::{self, time},
};
use anyhow::{Context as _, bail};
use dosvc_content::{GroupId, format_bytes};
use dosvc_control_plane::{
    Contents, ControlPlane, ControlPlaneConfig, Figures, StoreError, client::ControlPlaneClient,
    open_authority,
};
use rustix::process::{Resource, getrlimit, setrlimit};
use sd_notify::NotifyState;
use std::{
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Contents that `content list` shows.
const CONTENTS_SHOWN: usize = 1000;

/// Runs the command.
pub(crate) async fn run(global: Global, args: ControlPlaneArgs) -> anyhow::Result<()> {
    let ControlPlaneArgs {
        action,
        services,
        set,
        check,
        until_stdin_ends,
    } = args;
    match action {
        Some(ControlPlaneAction::Status { url, json }) => {
            let url = match url {
                Some(url) => url,
                None => {
                    let config = settings(&load_config(&global)?);
                    let address = config
                        .admin_listen
                        .context("control_plane.admin_listen is empty: use --url")?;
                    format!("http://{address}").parse()?
                }
            };
            status(
                ControlPlaneClient::new(url.clone())?
                    .figures()
                    .await
                    .with_context(|| format!("ask {url}"))?,
                json,
            )
        }
        Some(ControlPlaneAction::Token(action)) => token(&contents(&global).await?, action).await,
        Some(ControlPlaneAction::Content(action)) => {
            content(&contents(&global).await?, action).await
        }
        Some(ControlPlaneAction::Enrolment(action)) => {
            enrolment(&contents(&global).await?, action).await
        }
        Some(ControlPlaneAction::Device(action)) => device(&contents(&global).await?, action).await,
        Some(ControlPlaneAction::Authority) => {
            let authority = open_authority(&settings(&load_config(&global)?).authority_file())?;
            Ok(show::text(authority.certificate_pem())?)
        }
        None => {
            let config = load(LoadOptions::from_process(global.config.clone(), set))?;
            let mut plane = settings(&config);
            if !services.is_empty() {
                plane.services = services;
            }
            plane.check().map_err(Usage)?;
            if check {
                return Ok(show::line("the configuration is right")?);
            }
            log::start(&config.daemon, global.no_color)?;
            serve(plane, until_stdin_ends).await
        }
    }
}

/// The table `[control_plane]`, with its data below the daemon's.
fn settings(config: &Config) -> ControlPlaneConfig {
    ControlPlaneConfig {
        state_dir: config.daemon.state_dir.join("control-plane"),
        ..config.control_plane.clone()
    }
}

/// The administration data of the control plane that this machine is configured for.
async fn contents(global: &Global) -> anyhow::Result<Contents> {
    let config = settings(&load_config(global)?);
    let place = match &config.postgres.url {
        Some(_) => "PostgreSQL".to_owned(),
        None => config.state_dir.display().to_string(),
    };
    let opening = async {
        let contents = Contents::of(&config).await?;
        contents.check().await?;
        Ok::<_, StoreError>(contents)
    };
    let opened = opening.await;
    opened.with_context(|| format!("open the administration data in {place}"))
}

async fn serve(config: ControlPlaneConfig, until_stdin_ends: bool) -> anyhow::Result<()> {
    let connections = config.connections_max;
    let services: Vec<_> = config.services.iter().map(ToString::to_string).collect();
    raise_descriptors(connections);
    // Before anything is started: a signal that comes early must not be lost.
    let mut signals = Signals::new()?;
    let plane = ControlPlane::start(config)
        .await
        .context("start the control plane")?;
    let addresses = |addresses: &[SocketAddr]| {
        let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        texts.join(", ")
    };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        services = services.join(", "),
        listening = addresses(plane.listening()),
        admin = addresses(plane.admin().as_slice()),
        "control plane is ready"
    );
    tell(&[NotifyState::Ready]);
    let mut parent_gone = std::pin::pin!(async {
        if until_stdin_ends {
            let _ = stdin_ends().await;
        } else {
            std::future::pending().await
        }
    });
    let reason = loop {
        tokio::select! {
            _ = signals.hangup.recv() => {
                tracing::info!("reading certificate and networks again");
                plane.reload();
            }
            _ = signals.terminate.recv() => break "SIGTERM",
            _ = signals.interrupt.recv() => break "SIGINT",
            () = &mut parent_gone => break "standard input ended",
        }
    };
    tracing::info!(reason, "draining");
    tell(&[NotifyState::Stopping]);
    plane.stop().await;
    tracing::info!("stopped");
    Ok(())
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}

/// Every connection is a file descriptor; the soft limit is a thousand in most places, and the hard one is ours to use.
fn raise_descriptors(connections: usize) {
    let wanted = u64::try_from(connections)
        .unwrap_or(u64::MAX)
        .saturating_add(256);
    let mut limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    if limit.current.is_some_and(|soft| soft < wanted) {
        limit.current = Some(wanted.min(hard));
        let raised = setrlimit(Resource::Nofile, limit);
        if raised.is_err() || hard < wanted {
            tracing::warn!(
                wanted,
                hard,
                "fewer file descriptors than connections_max needs"
            );
        }
    }
}

fn status(figures: Figures, json: bool) -> anyhow::Result<()> {
    if json {
        return Ok(show::pretty_json(&figures)?);
    }
    let mut lines = vec![
        format!(
            "control plane {}, up {}, {}",
            figures.version,
            show::duration(Duration::from_secs(figures.uptime_seconds)),
            if figures.tls { "HTTPS" } else { "HTTP" }
        ),
        format!(
            "  peers in swarms  {} in {} swarms, {}",
            figures.entries,
            figures.swarms,
            format_bytes(figures.memory_bytes)
        ),
        format!(
            "  swarms' store    {}",
            if figures.array_up {
                "up"
            } else {
                "OUT OF REACH: joins are refused"
            }
        ),
        format!(
            "  joins            {}, {} of them not listed",
            figures.joins, figures.unlisted
        ),
        format!("  contents         {}", figures.contents),
        format!(
            "  connections      {}; {} requests refused for their rate",
            figures.connections, figures.too_fast
        ),
        String::new(),
    ];
    let mut services = show::table(&["Service", "Requests"], &[1]);
    for service in &figures.services {
        services.add_row([service.name.clone(), service.requests.to_string()]);
    }
    lines.push(services.to_string());
    if !figures.largest_swarms.is_empty() {
        let mut swarms = show::table(
            &["Content", "Peers", "Seeds", "Groups", "Addresses"],
            &[1, 2, 3, 4],
        );
        for swarm in figures.largest_swarms.iter().take(10) {
            let counts =
                [swarm.peers, swarm.seeds, swarm.groups, swarm.sites].map(|n| n.to_string());
            swarms.add_row([vec![swarm.content_id.clone()], counts.to_vec()].concat());
        }
        lines.push(format!("\n{swarms}"));
    }
    Ok(show::line(lines.join("\n"))?)
}

async fn token(contents: &Contents, action: TokenAction) -> anyhow::Result<()> {
    match action {
        TokenAction::Add { name } => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
            show::line(contents.add_token(&name, now).await?)?;
        }
        TokenAction::List { json } => {
            let tokens = contents.tokens().await?;
            if json {
                show::pretty_json(&tokens)?;
            } else {
                let mut table = show::table(&["Token", "Made"], &[]);
                for token in tokens {
                    table.add_row([token.name, time(token.made)]);
                }
                show::line(table.to_string())?;
            }
        }
        TokenAction::Remove { name } => {
            if !contents.remove_token(&name).await? {
                bail!("there is no token {name}");
            }
        }
    }
    Ok(())
}

async fn content(contents: &Contents, action: ContentAction) -> anyhow::Result<()> {
    match action {
        ContentAction::List { json } => {
            let latest = contents.latest(CONTENTS_SHOWN).await?;
            if json {
                show::pretty_json(&latest)?;
            } else {
                let mut table =
                    show::table(&["Content", "Publisher", "Published", "%", "State"], &[3]);
                for content in latest {
                    let state = if content.revoked {
                        "revoked"
                    } else {
                        "in force"
                    };
                    let percent = content.percent.to_string();
                    table.add_row([
                        content.content_id,
                        content.publisher,
                        time(content.published),
                        percent,
                        state.to_owned(),
                    ]);
                }
                show::line(table.to_string())?;
            }
        }
        ContentAction::Revoke { id } => {
            if !contents.revoke(id.as_str()).await? {
                bail!("the content {id} is not known");
            }
        }
    }
    Ok(())
}

async fn enrolment(contents: &Contents, action: EnrolmentAction) -> anyhow::Result<()> {
    match action {
        EnrolmentAction::Add {
            name,
            groups,
            uses,
            expire,
        } => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
            let groups: Vec<_> = groups.iter().map(GroupId::hash).collect();
            let expires = expire.map(|time| u64::try_from(time.as_second()).unwrap_or(0));
            let added = contents.add_enrolment(&name, &groups, (expires, uses), now);
            show::line(added.await?)?;
        }
        EnrolmentAction::List { json } => {
            let tokens = contents.enrolments().await?;
            if json {
                show::pretty_json(&tokens)?;
            } else {
                let mut table =
                    show::table(&["Token", "Made", "Until", "Uses left", "Groups"], &[3]);
                for token in tokens {
                    let left = token.uses_left.map(|left| left.to_string());
                    table.add_row([
                        token.name,
                        time(token.made),
                        token.expires.map_or_else(|| "removed".to_owned(), time),
                        left.unwrap_or_else(|| "any".to_owned()),
                        token.groups.join("\n"),
                    ]);
                }
                show::line(table.to_string())?;
            }
        }
        EnrolmentAction::Remove { name } => {
            if !contents.remove_enrolment(&name).await? {
                bail!("there is no enrolment token {name}");
            }
        }
    }
    Ok(())
}

async fn device(contents: &Contents, action: DeviceAction) -> anyhow::Result<()> {
    match action {
        DeviceAction::List { json } => {
            let devices = contents.devices(CONTENTS_SHOWN).await?;
            if json {
                show::pretty_json(&devices)?;
            } else {
                let mut table =
                    show::table(&["Peer id", "Enrolled", "By", "Renewed", "State"], &[]);
                for device in devices {
                    let state = if device.revoked { "revoked" } else { "member" };
                    table.add_row([
                        device.peer_id,
                        time(device.enrolled),
                        device.enrolment,
                        time(device.renewed),
                        state.to_owned(),
                    ]);
                }
                show::line(table.to_string())?;
            }
        }
        DeviceAction::Revoke { peer } => {
            if !contents.revoke_device(&peer).await? {
                bail!("the device {peer} has not enrolled");
            }
        }
        DeviceAction::Remove { peer } => {
            if !contents.remove_device(&peer).await? {
                bail!("the device {peer} has not enrolled");
            }
        }
    }
    Ok(())
}
