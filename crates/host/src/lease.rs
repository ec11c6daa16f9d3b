//! What DHCP told this machine, as its DHCP client wrote it down: the group id (option 234), cache hosts (235) and
//! the domain's name.
//!
//! | client | file | how options 234 and 235 look |
//! |---|---|---|
//! | systemd-networkd | `run/systemd/netif/leases/INDEX` | `OPTION_234=` hexadecimal (with `RequestOptions=234 235`) |
//! | NetworkManager, own client | `run/NetworkManager/devices/INDEX`, `var/lib/NetworkManager/internal-*-NAME.lease` | `private_234=` text, or `OPTION_234=` |
//! | NetworkManager, dhclient | `var/lib/NetworkManager/dhclient-*-NAME.lease` | as dhclient |
//! | dhclient | `var/lib/dhcp/dhclient*.leases` | `option unknown-234 "text";` or bytes in hexadecimal |

use crate::{Root, adapter::default_adapter};
use std::path::Path;

/// The group id's option; the other is the next one.
const OPTION_GROUP: u8 = 234;
const OPTION_CACHE_HOSTS: u8 = 235;
/// Cache hosts of one lease that count.
const CACHE_HOSTS_MAX: usize = 64;

/// The folders in which leases appear.
pub(crate) const FOLDERS: [&str; 4] = [NETWORKD, NM_RUN, NM_STATE, DHCLIENT];
const NETWORKD: &str = "run/systemd/netif/leases";
const NM_RUN: &str = "run/NetworkManager/devices";
const NM_STATE: &str = "var/lib/NetworkManager";
const DHCLIENT: &str = "var/lib/dhcp";

/// What DHCP said on one adapter.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lease {
    /// Option 234: the group's id, as text.
    pub group: Option<String>,
    /// Option 235: names or addresses of cache hosts.
    pub cache_hosts: Vec<String>,
    /// Option 15: the domain's name.
    pub domain: Option<String>,
}

impl Lease {
    /// What another client knows of the same lease.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            group: self.group.or(other.group),
            cache_hosts: match self.cache_hosts.is_empty() {
                true => other.cache_hosts,
                false => self.cache_hosts,
            },
            domain: self.domain.or(other.domain),
        }
    }

    fn take(&mut self, option: u8, text: &str) {
        // A server may end the text with a NUL.
        let text = text.trim_end_matches('\0').trim();
        if text.is_empty() || text.chars().any(char::is_control) {
            return;
        }
        match option {
            OPTION_GROUP => self.group = Some(text.to_owned()),
            OPTION_CACHE_HOSTS => {
                let hosts = text.split(',').map(str::trim).filter(|h| !h.is_empty());
                self.cache_hosts = hosts.take(CACHE_HOSTS_MAX).map(str::to_owned).collect();
            }
            _ => {}
        }
    }
}

/// The lease of the adapter that the default route leads over. `now` in seconds since 1970: leases that dhclient
/// leaves behind after their time do not count.
pub fn lease(root: &Root, now: i64) -> Lease {
    let Some((name, index)) = default_adapter(root) else {
        return Lease::default();
    };
    let of_index = |folder: &str| {
        let text = root.read(Path::new(folder).join(index.to_string()));
        text.map_or_else(Lease::default, |text| key_values(&text))
    };
    let mut found = of_index(NETWORKD).or(of_index(NM_RUN));
    for file in root.names(NM_STATE) {
        let is_ours = file
            .to_str()
            .is_some_and(|file| file.ends_with(&format!("-{name}.lease")));
        if let Some(text) = is_ours
            .then(|| root.read(Path::new(NM_STATE).join(&file)))
            .flatten()
        {
            let lease = match text.contains("lease {") {
                true => dhclient(&text, &name, now),
                false => key_values(&text),
            };
            found = found.or(lease);
        }
    }
    for file in root.names(DHCLIENT) {
        let is_lease = file
            .to_str()
            .is_some_and(|f| f.starts_with("dhclient") && f.contains(".lease"));
        if let Some(text) = is_lease
            .then(|| root.read(Path::new(DHCLIENT).join(&file)))
            .flatten()
        {
            found = found.or(dhclient(&text, &name, now));
        }
    }
    found
}

/// Lines of `KEY=VALUE`, as systemd and NetworkManager write them.
fn key_values(text: &str) -> Lease {
    let mut lease = Lease::default();
    for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
        match key.trim().to_ascii_lowercase().as_str() {
            "domainname" | "domain_name" => lease.domain = domain(value),
            "option_234" => lease.take(OPTION_GROUP, &bytes_text(value, "")),
            "option_235" => lease.take(OPTION_CACHE_HOSTS, &bytes_text(value, "")),
            "private_234" => lease.take(OPTION_GROUP, &bytes_text(value, ":")),
            "private_235" => lease.take(OPTION_CACHE_HOSTS, &bytes_text(value, ":")),
            _ => {}
        }
    }
    lease
}

/// What NetworkManager says of a connection's DHCP options over D-Bus.
pub(crate) fn from_options<'a>(options: impl IntoIterator<Item = (&'a str, &'a str)>) -> Lease {
    let mut text = String::new();
    for (key, value) in options
        .into_iter()
        .filter(|(_, value)| !value.contains('\n'))
    {
        text += &format!("{key}={value}\n");
    }
    key_values(&text)
}

/// The newest lease of an adapter in dhclient's file that has not run out. Leases are appended: the last one counts.
fn dhclient(text: &str, adapter: &str, now: i64) -> Lease {
    let leases = text
        .split("lease {")
        .skip(1)
        .map(|rest| rest.split('}').next().unwrap_or(rest));
    let mut newest = Lease::default();
    for lease in leases {
        let mut found = Lease::default();
        let (mut is_ours, mut has_expired) = (false, false);
        for statement in lease.lines().map(|line| line.trim().trim_end_matches(';')) {
            let Some((word, rest)) = statement.split_once(' ') else {
                continue;
            };
            let rest = rest.trim();
            match word {
                "interface" => is_ours = rest.trim_matches('"') == adapter,
                "expire" => has_expired = expiry(rest).is_some_and(|at| at <= now),
                "option" => {
                    let (name, value) = rest.split_once(' ').unwrap_or((rest, ""));
                    match name {
                        "domain-name" => found.domain = domain(value),
                        "unknown-234" => found.take(OPTION_GROUP, &bytes_text(value, ":")),
                        "unknown-235" => found.take(OPTION_CACHE_HOSTS, &bytes_text(value, ":")),
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        if is_ours {
            newest = if has_expired { Lease::default() } else { found };
        }
    }
    newest
}

/// `2 2026/11/24 10:00:00` (UTC, after the day of the week), `epoch 1700000000; # …`, or `never`.
fn expiry(text: &str) -> Option<i64> {
    if let Some(rest) = text.strip_prefix("epoch ") {
        return rest.split([';', ' ']).next()?.parse().ok();
    }
    let (_, date) = text.split_once(' ')?;
    let date = jiff::civil::DateTime::strptime("%Y/%m/%d %H:%M:%S", date.trim()).ok()?;
    Some(jiff::tz::TimeZone::UTC.to_timestamp(date).ok()?.as_second())
}

/// An option as text: it may be quoted, or bytes in hexadecimal with this between them.
fn bytes_text(value: &str, separator: &str) -> String {
    let value = value.trim();
    if let Some(quoted) = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')) {
        return quoted.to_owned();
    }
    hexadecimal(value, separator).unwrap_or_else(|| value.to_owned())
}

fn hexadecimal(value: &str, separator: &str) -> Option<String> {
    let digits = match separator {
        "" => value.to_owned(),
        // Some write bytes below 16 with one digit.
        separator => {
            let bytes = value.split(separator).map(|byte| match byte.len() {
                1 | 2 => Some(format!("{byte:0>2}")),
                _ => None,
            });
            bytes.collect::<Option<String>>()?
        }
    };
    if digits.len() < 4 || digits.len() % 2 != 0 || !digits.is_ascii() {
        return None;
    }
    let bytes = (0..digits.len()).step_by(2);
    let bytes: Option<Vec<u8>> = bytes
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok())
        .collect();
    String::from_utf8(bytes?).ok()
}

fn domain(value: &str) -> Option<String> {
    // More than one name may stand here; the first is the connection's own.
    let name = value.trim().trim_matches('"').split_whitespace().next()?;
    Some(name.to_owned())
}

/// The connection's DNS suffix: what DHCP said, else the first name that the resolver searches in.
pub(crate) fn dns_suffix(root: &Root, lease: &Lease) -> Option<String> {
    lease.domain.clone().or_else(|| {
        let text = root.read("etc/resolv.conf")?;
        // Of several such lines the last counts (resolv.conf(5)).
        let mut lines = text.lines().rev();
        lines.find_map(|line| {
            let (word, rest) = line.trim().split_once(char::is_whitespace)?;
            let names = matches!(word, "search" | "domain").then_some(rest)?;
            let name = names.split_whitespace().next()?;
            // "." stands for no suffix.
            (name != ".").then(|| name.to_owned())
        })
    })
}

#[cfg(test)]
mod tests;
