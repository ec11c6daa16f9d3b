//! The keys of the table `control_plane`.

use super::{
    KeySpec, LISTEN_ADDRESSES_MAX,
    values::{absolute_path, addresses, count, count_32, list, optional_path, quoted, short_text},
};
use dosvc_cloud_protocol::{HttpUrl, limits};
use dosvc_control_plane::Service;
use std::net::IpAddr;

const ARRAYS_MAX: usize = 1024;
const REDIS_SERVERS_MAX: usize = 16;

/// See the module's documentation.
pub(super) const KEYS: &[KeySpec] = &[
    KeySpec {
        path: "control_plane.services",
        default: Some("[\"geo\", \"key-value\", \"content-policy\", \"discovery\", \"array\"]"),
        example: "",
        allowed: "geo, key-value, content-policy, discovery, array; one or more",
        doc: "The services of this process.",
        restart: true,
        set: |config, raw| {
            let services: Option<Vec<Service>> =
                raw.texts()?.iter().map(|t| t.parse().ok()).collect();
            config.control_plane.services =
                services.filter(|s| !s.is_empty() && s.len() <= Service::ALL.len())?;
            Some(())
        },
        show: |config| list(&config.control_plane.services),
    },
    KeySpec {
        path: "control_plane.listen",
        default: Some("[\"127.0.0.1:7681\"]"),
        example: "",
        allowed: "up to 16 IP addresses with port",
        doc: "Where clients connect (TCP); port 0 takes a free one.",
        restart: true,
        set: |config, raw| {
            config.control_plane.listen = addresses(raw, None, LISTEN_ADDRESSES_MAX)?;
            Some(())
        },
        show: |config| list(&config.control_plane.listen),
    },
    KeySpec {
        path: "control_plane.certificate",
        default: None,
        example: "\"/etc/dosvc/tls.pem\"",
        allowed: "an absolute path",
        doc: "The TLS certificate chain (PEM), the server's own first; a changed file is taken over by itself. Without one: HTTP.",
        restart: true,
        set: |config, raw| {
            config.control_plane.certificate = Some(absolute_path(raw, usize::MAX)?);
            Some(())
        },
        show: |config| optional_path(config.control_plane.certificate.as_ref()),
    },
    KeySpec {
        path: "control_plane.key",
        default: None,
        example: "\"/etc/dosvc/tls.key\"",
        allowed: "an absolute path",
        doc: "The certificate's private key (PEM).",
        restart: true,
        set: |config, raw| {
            config.control_plane.key = Some(absolute_path(raw, usize::MAX)?);
            Some(())
        },
        show: |config| optional_path(config.control_plane.key.as_ref()),
    },
    KeySpec {
        path: "control_plane.allow_http",
        default: Some("false"),
        example: "",
        allowed: "true, false",
        doc: "Plain HTTP on other addresses than loopback: in a network that is trusted, or behind a proxy of trusted_proxies that does TLS.",
        restart: true,
        set: |config, raw| {
            config.control_plane.allow_http = raw.flag()?;
            Some(())
        },
        show: |config| config.control_plane.allow_http.to_string(),
    },
    KeySpec {
        path: "control_plane.admin_listen",
        default: Some("[\"127.0.0.1:7682\"]"),
        example: "",
        allowed: "one IP address with port, or none",
        doc: "Page, metrics and status for administrators: HTTP, without a password.",
        restart: true,
        set: |config, raw| {
            config.control_plane.admin_listen = addresses(raw, None, 1)?.first().copied();
            Some(())
        },
        show: |config| list(config.control_plane.admin_listen.as_slice()),
    },
    KeySpec {
        path: "control_plane.public_url",
        default: None,
        example: "\"https://do.example.org\"",
        allowed: "an http or https address",
        doc: "Where clients find key-value, content policy and discovery. Without it: where they found geo.",
        restart: true,
        set: |config, raw| {
            config.control_plane.public_url = Some(raw.text()?.trim().parse().ok()?);
            Some(())
        },
        show: |config| {
            quoted(
                config
                    .control_plane
                    .public_url
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
            )
        },
    },
    KeySpec {
        path: "control_plane.arrays",
        default: Some("[]"),
        example: "",
        allowed: "up to 1024 http or https addresses that end in /array/",
        doc: "Array services that discovery spreads the contents over, the same in every process. Without any: public_url's own.",
        restart: true,
        set: |config, raw| {
            let arrays: Option<Vec<HttpUrl>> =
                raw.texts()?.iter().map(|t| t.parse().ok()).collect();
            config.control_plane.arrays = arrays.filter(|arrays| arrays.len() <= ARRAYS_MAX)?;
            Some(())
        },
        show: |config| list(&config.control_plane.arrays),
    },
    KeySpec {
        path: "control_plane.redis",
        default: Some("[]"),
        example: "",
        allowed: "up to 16 addresses: redis://[USER@]HOST[:PORT][/DATABASE], rediss://… (TLS) or unix:///PATH",
        doc: "Redis or Valkey for the array's swarms: the primary and its replicas. Any number of processes may share it. Without any: this process.",
        restart: true,
        set: |config, raw| {
            let servers: Option<Vec<_>> = raw.texts()?.iter().map(|t| t.parse().ok()).collect();
            config.control_plane.redis.servers =
                servers.filter(|servers| servers.len() <= REDIS_SERVERS_MAX)?;
            Some(())
        },
        show: |config| list(&config.control_plane.redis.servers),
    },
    KeySpec {
        path: "control_plane.redis_sentinel",
        default: None,
        example: "\"swarms\"",
        allowed: "the name of a primary, 1 to 128 printable bytes",
        doc: "The addresses in redis are Sentinels, and know where the primary of this name is.",
        restart: true,
        set: |config, raw| {
            config.control_plane.redis.sentinel = Some(short_text(raw)?);
            Some(())
        },
        show: |config| {
            quoted(
                config
                    .control_plane
                    .redis
                    .sentinel
                    .as_deref()
                    .unwrap_or_default(),
            )
        },
    },
    KeySpec {
        path: "control_plane.redis_password_file",
        default: None,
        example: "\"/etc/dosvc/redis.password\"",
        allowed: "an absolute path",
        doc: "The password for Redis, in the first line of this file.",
        restart: true,
        set: |config, raw| {
            config.control_plane.redis.password_file = Some(absolute_path(raw, usize::MAX)?);
            Some(())
        },
        show: |config| optional_path(config.control_plane.redis.password_file.as_ref()),
    },
    KeySpec {
        path: "control_plane.redis_ca_file",
        default: None,
        example: "\"/etc/dosvc/redis-ca.pem\"",
        allowed: "an absolute path",
        doc: "The certificates (PEM) of which one must have signed Redis's own, for rediss://. Without it: those that the system trusts.",
        restart: true,
        set: |config, raw| {
            config.control_plane.redis.ca_file = Some(absolute_path(raw, usize::MAX)?);
            Some(())
        },
        show: |config| optional_path(config.control_plane.redis.ca_file.as_ref()),
    },
    KeySpec {
        path: "control_plane.redis_prefix",
        default: Some("\"dosvc:\""),
        example: "",
        allowed: "1 to 128 printable bytes",
        doc: "What the names of all keys in Redis begin with: another one, another fleet.",
        restart: true,
        set: |config, raw| {
            config.control_plane.redis.prefix = short_text(raw)?;
            Some(())
        },
        show: |config| quoted(&config.control_plane.redis.prefix),
    },
    KeySpec {
        path: "control_plane.postgres",
        default: None,
        example: "\"postgresql://dosvc@db.example.org/dosvc\"",
        allowed: "postgresql://USER@HOST[:PORT]/DATABASE, without a password",
        doc: "PostgreSQL for contents and tokens, in a database of their own. Without it: SQLite in the state folder.",
        restart: true,
        set: |config, raw| {
            config.control_plane.postgres.url = Some(raw.text()?.trim().parse().ok()?);
            Some(())
        },
        show: |config| {
            let url = config.control_plane.postgres.url.as_ref();
            quoted(url.map(ToString::to_string).unwrap_or_default())
        },
    },
    KeySpec {
        path: "control_plane.postgres_password_file",
        default: None,
        example: "\"/etc/dosvc/postgres.password\"",
        allowed: "an absolute path",
        doc: "The password for PostgreSQL, in the first line of this file.",
        restart: true,
        set: |config, raw| {
            config.control_plane.postgres.password_file = Some(absolute_path(raw, usize::MAX)?);
            Some(())
        },
        show: |config| optional_path(config.control_plane.postgres.password_file.as_ref()),
    },
    KeySpec {
        path: "control_plane.postgres_ca_file",
        default: None,
        example: "\"/etc/dosvc/postgres-ca.pem\"",
        allowed: "an absolute path",
        doc: "The certificates (PEM) of which one must have signed PostgreSQL's own, for TLS, which is then demanded. Without it: those that the system trusts.",
        restart: true,
        set: |config, raw| {
            config.control_plane.postgres.ca_file = Some(absolute_path(raw, usize::MAX)?);
            Some(())
        },
        show: |config| optional_path(config.control_plane.postgres.ca_file.as_ref()),
    },
    KeySpec {
        path: "control_plane.networks",
        default: None,
        example: "\"/etc/dosvc/networks\"",
        allowed: "an absolute path",
        doc: "A file that says which network is in which country, a line for each: 10.1.0.0/16 DE, with vpn behind it for a VPN's.",
        restart: true,
        set: |config, raw| {
            config.control_plane.networks = Some(absolute_path(raw, usize::MAX)?);
            Some(())
        },
        show: |config| optional_path(config.control_plane.networks.as_ref()),
    },
    KeySpec {
        path: "control_plane.registered_callers",
        default: Some("[]"),
        example: "",
        allowed: "up to 256 names of up to 256 bytes",
        doc: "Callers whose downloads may use peers, by name or regular expression. Without any: all.",
        restart: true,
        set: |config, raw| {
            let names: Option<Vec<_>> = raw
                .texts()?
                .into_iter()
                .map(dosvc_cloud_protocol::Text::new)
                .collect();
            config.control_plane.registered_callers =
                names.filter(|n| n.len() <= limits::CALLERS_MAX)?;
            Some(())
        },
        show: |config| list(&config.control_plane.registered_callers),
    },
    KeySpec {
        path: "control_plane.cache_hosts",
        default: Some("[]"),
        example: "",
        allowed: "up to 16 host names or addresses of up to 60 bytes",
        doc: "Cache hosts that geo names to clients.",
        restart: true,
        set: |config, raw| {
            let good = |host: &&str| {
                (1..=60).contains(&host.len())
                    && !host.contains(|c: char| c == ',' || c.is_control())
            };
            let hosts = raw.texts()?;
            (hosts.len() <= 16 && hosts.iter().all(good)).then_some(())?;
            config.control_plane.cache_hosts = hosts.into_iter().map(str::to_owned).collect();
            Some(())
        },
        show: |config| list(&config.control_plane.cache_hosts),
    },
    KeySpec {
        path: "control_plane.trusted_proxies",
        default: Some("[]"),
        example: "",
        allowed: "up to 64 IP addresses",
        doc: "Proxies in front: a request of theirs comes from whom X-Forwarded-For names last. Without it, a proxy's clients all look like one LAN.",
        restart: true,
        set: |config, raw| {
            let proxies: Option<Vec<IpAddr>> =
                raw.texts()?.iter().map(|t| t.parse().ok()).collect();
            config.control_plane.trusted_proxies = proxies.filter(|proxies| proxies.len() <= 64)?;
            Some(())
        },
        show: |config| list(&config.control_plane.trusted_proxies),
    },
    KeySpec {
        path: "control_plane.join_interval",
        default: Some("300"),
        example: "",
        allowed: "10 to 43200 s",
        doc: "Seconds between two joins of a peer. Who misses two of them is forgotten.",
        restart: true,
        set: |config, raw| {
            config.control_plane.array.join_interval = count_32(raw, 10, 43_200)?;
            Some(())
        },
        show: |config| config.control_plane.array.join_interval.to_string(),
    },
    KeySpec {
        path: "control_plane.peers_per_answer",
        default: Some("50"),
        example: "",
        allowed: "1 to 255",
        doc: "The most peers that one join is answered with.",
        restart: true,
        set: |config, raw| {
            config.control_plane.array.peers_per_answer = count(raw, 1, 255)?;
            Some(())
        },
        show: |config| config.control_plane.array.peers_per_answer.to_string(),
    },
    KeySpec {
        path: "control_plane.entries_max",
        default: Some("4000000"),
        example: "",
        allowed: "1 to 1000000000",
        doc: "The most peers in swarms; a peer counts in each of its swarms. Each takes at most 200 bytes of memory.",
        restart: true,
        set: |config, raw| {
            config.control_plane.array.entries_max = count_32(raw, 1, 1_000_000_000)?;
            Some(())
        },
        show: |config| config.control_plane.array.entries_max.to_string(),
    },
    KeySpec {
        path: "control_plane.entries_per_address_max",
        default: Some("100000"),
        example: "",
        allowed: "1 to 1000000000",
        doc: "The same for one address (IPv6: 64 bits); a network of 24 bits (IPv6: 48) may have four times as many.",
        restart: true,
        set: |config, raw| {
            let entries = count_32(raw, 1, 1_000_000_000)?;
            config.control_plane.array.entries_per_address_max = entries;
            config.control_plane.array.entries_per_network_max = entries.saturating_mul(4);
            Some(())
        },
        show: |config| {
            config
                .control_plane
                .array
                .entries_per_address_max
                .to_string()
        },
    },
    KeySpec {
        path: "control_plane.requests_per_second",
        default: Some("2000"),
        example: "",
        allowed: "0 to 1000000",
        doc: "Requests of one address a second, over four seconds; more are answered with 429. 0: no limit.",
        restart: true,
        set: |config, raw| {
            config.control_plane.requests_per_second = count_32(raw, 0, 1_000_000)?;
            Some(())
        },
        show: |config| config.control_plane.requests_per_second.to_string(),
    },
    KeySpec {
        path: "control_plane.token_requests_per_second",
        default: Some("20"),
        example: "",
        allowed: "0 to 1000000",
        doc: "The same for one API token.",
        restart: true,
        set: |config, raw| {
            config.control_plane.token_requests_per_second = count_32(raw, 0, 1_000_000)?;
            Some(())
        },
        show: |config| config.control_plane.token_requests_per_second.to_string(),
    },
    KeySpec {
        path: "control_plane.group_authority",
        default: None,
        example: "\"/etc/dosvc/group-authority-key.pem\"",
        allowed: "an absolute path",
        doc: "The file with the key that certificates of groups' members are signed with; made when it is missing, the same for all processes. Not set: group-authority.pem with the service's data.",
        restart: true,
        set: |config, raw| {
            config.control_plane.group_authority = Some(absolute_path(raw, usize::MAX)?);
            Some(())
        },
        show: |config| optional_path(config.control_plane.group_authority.as_ref()),
    },
    KeySpec {
        path: "control_plane.device_certificate_lifetime",
        default: Some("86400"),
        example: "",
        allowed: "10 to 31536000 s",
        doc: "How long a device's certificate counts. Devices come for the next one after half of it; one that is revoked is a member for that long at most.",
        restart: true,
        set: |config, raw| {
            config.control_plane.device_certificate_lifetime = count_32(raw, 10, 31_536_000)?;
            Some(())
        },
        show: |config| config.control_plane.device_certificate_lifetime.to_string(),
    },
    KeySpec {
        path: "control_plane.connections_max",
        default: Some("20000"),
        example: "",
        allowed: "1 to 1000000",
        doc: "Connections at one time; more wait. One address may have a tenth of them.",
        restart: true,
        set: |config, raw| {
            let connections = count_32(raw, 1, 1_000_000)?;
            config.control_plane.connections_max = connections as usize;
            config.control_plane.connections_per_address_max = connections.div_ceil(10);
            Some(())
        },
        show: |config| config.control_plane.connections_max.to_string(),
    },
];
