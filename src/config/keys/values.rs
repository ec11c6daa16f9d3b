//! Values of keys: read from what stands in a file, and shown as they would stand there.

use dosvc_cloud_protocol::HttpUrl;
use dosvc_engine::ServerAddresses;
use dosvc_nat::teredo::is_global;
use dosvc_policy::RawValue;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

/// Servers that a tunnel may have.
const TEREDO_SERVERS_MAX: usize = 8;

pub(super) fn absolute_path(raw: &RawValue, bytes_max: usize) -> Option<PathBuf> {
    let text = raw.text()?;
    let path = PathBuf::from(text);
    (path.is_absolute() && text.len() <= bytes_max && !text.chars().any(char::is_control))
        .then_some(path)
}

/// Addresses, with this port where none is given; without one, each must have its own.
pub(super) fn addresses(
    raw: &RawValue,
    port: Option<u16>,
    count_max: usize,
) -> Option<Vec<SocketAddr>> {
    let texts = raw.texts()?;
    if texts.len() > count_max {
        return None;
    }
    texts
        .into_iter()
        .map(|text| {
            text.parse::<SocketAddr>().ok().or_else(|| {
                let ip = text
                    .strip_prefix('[')
                    .and_then(|rest| rest.strip_suffix(']'))
                    .unwrap_or(text);
                Some(SocketAddr::new(ip.parse::<IpAddr>().ok()?, port?))
            })
        })
        .collect()
}

pub(super) fn teredo_servers(raw: &RawValue) -> Option<Vec<ServerAddresses>> {
    let usable = |text: &str| {
        let address: Ipv4Addr = text.trim().parse().ok()?;
        is_global(address).then_some(address)
    };
    let server = |text: &str| {
        let (primary, secondary) = match text.split_once('+') {
            Some((primary, secondary)) => (usable(primary)?, usable(secondary)?),
            None => {
                let primary = usable(text)?;
                (primary, next_address(primary)?)
            }
        };
        Some(ServerAddresses {
            primary,
            secondary: Some(secondary),
        })
    };
    let texts = raw.texts()?;
    let servers: Vec<_> = texts.into_iter().map(server).collect::<Option<_>>()?;
    (servers.len() <= TEREDO_SERVERS_MAX).then_some(servers)
}

fn next_address(address: Ipv4Addr) -> Option<Ipv4Addr> {
    address.to_bits().checked_add(1).map(Ipv4Addr::from_bits)
}

/// As it stands in a file.
pub(super) fn teredo_server_text(server: &ServerAddresses) -> String {
    let primary = server.primary;
    match server.secondary {
        Some(second) if Some(second) != next_address(primary) => format!("{primary}+{second}"),
        _ => primary.to_string(),
    }
}

pub(super) fn group_name(raw: &RawValue) -> Option<String> {
    let name = raw.text()?.trim();
    let good = |c: char| c.is_ascii_alphanumeric() || "._-@\\$".contains(c);
    ((1..=256).contains(&name.len()) && name.chars().all(good)).then(|| name.to_owned())
}

/// A name in one line.
pub(super) fn short_text(raw: &RawValue) -> Option<String> {
    let text = raw.text()?;
    let good = (1..=128).contains(&text.len()) && !text.chars().any(char::is_control);
    good.then(|| text.to_owned())
}

pub(super) fn log_level(raw: &RawValue) -> Option<String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let text = raw.text()?.trim();
    let is_level = |word: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
    let is_target = |word: &str| {
        let good = |c: char| c.is_ascii_alphanumeric() || "_:-".contains(c);
        !word.is_empty() && word.chars().all(good)
    };
    let good = text.split(',').all(|part| match part.split_once('=') {
        Some((target, level)) => is_target(target.trim()) && is_level(level.trim()),
        None => is_level(part.trim()),
    });
    good.then(|| text.to_owned())
}

pub(super) fn count(raw: &RawValue, min: u64, max: u64) -> Option<usize> {
    usize::try_from(raw.number(min, max)?).ok()
}

pub(super) fn address(url: &Option<HttpUrl>) -> &str {
    url.as_ref().map_or("", HttpUrl::as_str)
}

pub(super) fn count_32(raw: &RawValue, min: u64, max: u64) -> Option<u32> {
    u32::try_from(raw.number(min, max)?).ok()
}

pub(super) fn optional_path(path: Option<&PathBuf>) -> String {
    quoted(path.map_or_else(String::new, |path| path.display().to_string()))
}

/// As it stands in a TOML file.
pub(super) fn quoted(text: impl ToString) -> String {
    format!("{:?}", text.to_string())
}

pub(super) fn list(items: &[impl std::fmt::Display]) -> String {
    let items: Vec<String> = items.iter().map(quoted).collect();
    format!("[{}]", items.join(", "))
}
