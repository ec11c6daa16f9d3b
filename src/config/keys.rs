//! The one table of keys that are no policies. The parser, the sample and the reload come from it.

use super::{Config, LogFormat, PublicKey, SWARM_PORT};
use dosvc_cloud_protocol::{HttpUrl, limits};
use dosvc_content::GroupId;
use dosvc_control_plane::Service;
use dosvc_engine::Demand;
use dosvc_policy::{POLICIES, Percent, Policy, RawValue, nearest};
use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

/// The table of the policies.
pub(crate) const POLICY_TABLE: &str = "delivery_optimization";

/// Tables of the configuration, in the order of the sample, with what each is about.
pub(crate) const TABLES: &[(&str, &str)] = &[
    (POLICY_TABLE, "The Delivery Optimization policies."),
    ("daemon", "The daemon itself."),
    ("discovery", "How peers are found."),
    (
        "group",
        "What the members of a group (download_mode 2) prove to each other.",
    ),
    ("nat", "Peers across NATs."),
    ("cache", "The cache, beside its policies above."),
    ("transfers", "How much is done at once."),
    (
        "managed",
        "The file of the fleet's management; its values win over all but the command line's.",
    ),
    (
        "control_plane",
        "The fleet's own cloud services (dosvc control-plane); the daemon doesn't read this.",
    ),
];

/// Caps of the configuration's own lists.
const LISTEN_ADDRESSES_MAX: usize = 16;
const PEERS_MAX: usize = 4096;
const ARRAYS_MAX: usize = 1024;
const REDIS_SERVERS_MAX: usize = 16;
/// The longest path of a Unix socket on Linux, without its NUL.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// One key that is no policy.
pub(crate) struct KeySpec {
    /// Table and key.
    pub(crate) path: &'static str,
    /// The default as it stands in a file; `None`: not set, and `example` is one that could stand there.
    pub(crate) default: Option<&'static str>,
    /// A value that is allowed, for keys that are not set by default.
    pub(crate) example: &'static str,
    /// What is allowed, in words.
    pub(crate) allowed: &'static str,
    /// What it does, in one line.
    pub(crate) doc: &'static str,
    /// Whether a change needs a restart of the daemon.
    pub(crate) restart: bool,
    /// Reads a value into the configuration; `None`: not allowed, and nothing is changed.
    pub(crate) set: fn(&mut Config, &RawValue) -> Option<()>,
    /// The value in effect as it would stand in a file.
    pub(crate) show: fn(&Config) -> String,
}

/// Every key that is no policy.
pub(crate) const KEYS: &[KeySpec] = &[
    KeySpec {
        path: "daemon.state_dir",
        default: Some("\"/var/lib/dosvc\""),
        example: "",
        allowed: "an absolute folder",
        doc: "Cache, state and peer id lie here. Without root: $XDG_DATA_HOME/dosvc; under systemd: $STATE_DIRECTORY.",
        restart: true,
        set: |config, raw| {
            config.daemon.state_dir = absolute_path(raw, usize::MAX)?;
            Some(())
        },
        show: |config| quoted(config.daemon.state_dir.display()),
    },
    KeySpec {
        path: "daemon.listen",
        default: Some("[\"[::]:7680\", \"0.0.0.0:7680\"]"),
        example: "",
        allowed: "up to 16 IP addresses with port",
        doc: "Addresses for peers (TCP); port 0 takes a free one. No port is opened in modes without peers.",
        restart: true,
        set: |config, raw| {
            config.daemon.listen = addresses(raw, None, LISTEN_ADDRESSES_MAX)?;
            Some(())
        },
        show: |config| list(&config.daemon.listen),
    },
    KeySpec {
        path: "daemon.api_socket",
        default: Some("\"/run/dosvc/api.sock\""),
        example: "",
        allowed: "an absolute path of at most 107 bytes",
        doc: "The Unix socket of the local API. Without root: $XDG_RUNTIME_DIR/dosvc/api.sock; under systemd: in $RUNTIME_DIRECTORY.",
        restart: true,
        set: |config, raw| {
            config.daemon.api_socket = absolute_path(raw, SOCKET_PATH_BYTES_MAX)?;
            Some(())
        },
        show: |config| quoted(config.daemon.api_socket.display()),
    },
    KeySpec {
        path: "daemon.api_group",
        default: None,
        example: "\"dosvc\"",
        allowed: "the name of a group",
        doc: "The group whose members may use the local API, beside the owner.",
        restart: true,
        set: |config, raw| {
            config.daemon.api_group = Some(group_name(raw)?);
            Some(())
        },
        show: |config| quoted(config.daemon.api_group.as_deref().unwrap_or_default()),
    },
    KeySpec {
        path: "daemon.host_root",
        default: Some("\"/\""),
        example: "",
        allowed: "an absolute folder",
        doc: "Where the machine's own files (proc, sys, run, var, etc) are seen: in a container, where the host's are mounted.",
        restart: true,
        set: |config, raw| {
            config.daemon.host_root = absolute_path(raw, usize::MAX)?;
            Some(())
        },
        show: |config| quoted(config.daemon.host_root.display()),
    },
    KeySpec {
        path: "daemon.log_format",
        default: Some("\"text\""),
        example: "",
        allowed: "text, json",
        doc: "How log lines look.",
        restart: true,
        set: |config, raw| {
            config.daemon.log_format = match raw.text()?.trim() {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                _ => return None,
            };
            Some(())
        },
        show: |config| match config.daemon.log_format {
            LogFormat::Text => quoted("text"),
            LogFormat::Json => quoted("json"),
        },
    },
    KeySpec {
        path: "daemon.log_level",
        default: Some("\"info\""),
        example: "",
        allowed: "off, error, warn, info, debug or trace, also for parts of the program: \"info,dosvc_wire=debug\"",
        doc: "What is logged.",
        restart: false,
        set: |config, raw| {
            config.daemon.log_level = log_level(raw)?;
            Some(())
        },
        show: |config| quoted(&config.daemon.log_level),
    },
    KeySpec {
        path: "discovery.dns_sd",
        default: Some("true"),
        example: "",
        allowed: "true, false",
        doc: "Announce contents and look for their holders by DNS-SD over multicast DNS, in modes with peers.",
        restart: true,
        set: |config, raw| {
            config.discovery.dns_sd = raw.flag()?;
            Some(())
        },
        show: |config| config.discovery.dns_sd.to_string(),
    },
    KeySpec {
        path: "discovery.peers",
        default: Some("[]"),
        example: "",
        allowed: "up to 4096 IP addresses, with port or for port 7680",
        doc: "Peers to try for every content, beside those that are found.",
        restart: false,
        set: |config, raw| {
            config.discovery.peers = addresses(raw, Some(SWARM_PORT), PEERS_MAX)?;
            Some(())
        },
        show: |config| list(&config.discovery.peers),
    },
    KeySpec {
        path: "discovery.tenant_id",
        default: None,
        example: "\"00000000-0000-0000-0000-000000000001\"",
        allowed: "a GUID",
        doc: "The Entra tenant's id: the group's id when group_id_source is 5, or when nothing else gives one.",
        restart: false,
        set: |config, raw| {
            let id = raw.text()?.trim();
            config.discovery.tenant_id = GroupId::is_guid(id).then(|| Some(id.to_owned()))?;
            Some(())
        },
        show: |config| quoted(config.discovery.tenant_id.as_deref().unwrap_or_default()),
    },
    KeySpec {
        path: "discovery.geo_endpoint_full_uri",
        default: None,
        example: "\"https://control.example/geo\"",
        allowed: "an http or https address, without user and password; without a path it is /geo",
        doc: "The fleet's cloud: where geo is asked, which names all other services. They give content policies, and peers beyond the link. Without it no cloud is asked.",
        restart: false,
        set: |config, raw| {
            config.discovery.geo_url = Some(raw.text()?.trim().parse().ok()?);
            Some(())
        },
        show: |config| quoted(address(&config.discovery.geo_url)),
    },
    KeySpec {
        path: "discovery.geo_version_endpoint_full_uri",
        default: None,
        example: "\"https://control.example/geoversion\"",
        allowed: "an http or https address, without user and password",
        doc: "Where geo's version is asked; not set: /geoversion beside geo.",
        restart: false,
        set: |config, raw| {
            config.discovery.geo_version_url = Some(raw.text()?.trim().parse().ok()?);
            Some(())
        },
        show: |config| quoted(address(&config.discovery.geo_version_url)),
    },
    KeySpec {
        path: "discovery.cloud_ca_file",
        default: None,
        example: "\"/etc/dosvc/cloud-ca.pem\"",
        allowed: "an absolute path",
        doc: "A PEM file of certificates that the cloud's may be signed by, beside the system's. A change of its contents counts after a restart.",
        restart: false,
        set: |config, raw| {
            config.discovery.cloud_ca_file = Some(absolute_path(raw, usize::MAX)?);
            Some(())
        },
        show: |config| {
            let path = config.discovery.cloud_ca_file.as_ref();
            quoted(
                path.map(|path| path.display().to_string())
                    .unwrap_or_default(),
            )
        },
    },
    KeySpec {
        path: "discovery.publisher_key",
        default: None,
        example: "\"11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\"",
        allowed: "an Ed25519 public key in base64: its 32 bytes, or the line of a PEM file",
        doc: "When set, content policies count only with the signature of this publisher (dosvc publish --sign).",
        restart: false,
        set: |config, raw| {
            config.discovery.publisher_key = Some(PublicKey::parse(raw.text()?.trim())?);
            Some(())
        },
        show: |config| {
            let key = config.discovery.publisher_key.as_ref();
            quoted(key.map(ToString::to_string).unwrap_or_default())
        },
    },
    KeySpec {
        path: "group.membership",
        default: Some("\"id\""),
        example: "",
        allowed: "id, secret, certificate",
        doc: "What a member must prove: to know the group's id, to know secret_file's secret, or to have a certificate (and the secret too, if one is set). The same on all machines: who proves something else gets nothing.",
        restart: false,
        set: |config, raw| {
            config.group.membership = match raw.text()?.trim() {
                "id" => Demand::Id,
                "secret" => Demand::Secret,
                "certificate" => Demand::Certificate,
                _ => return None,
            };
            Some(())
        },
        show: |config| quoted(config.group.membership),
    },
    KeySpec {
        path: "group.secret_file",
        default: None,
        example: "\"/etc/dosvc/group-secret\"",
        allowed: "an absolute path",
        doc: "A file with the group's secret, 16 to 4096 bytes, which the daemon's user owns and nobody else may read (mode 600). The same on all machines; read again on a reload.",
        restart: false,
        set: |config, raw| {
            config.group.secret_file = Some(absolute_path(raw, usize::MAX)?);
            Some(())
        },
        show: |config| optional_path(config.group.secret_file.as_ref()),
    },
    KeySpec {
        path: "group.authority_file",
        default: None,
        example: "\"/etc/dosvc/group-authority.pem\"",
        allowed: "an absolute path",
        doc: "The certificates (PEM) of up to 8 authorities whose members count: what `dosvc control-plane authority` prints. Read again on a reload.",
        restart: false,
        set: |config, raw| {
            config.group.authority_file = Some(absolute_path(raw, usize::MAX)?);
            Some(())
        },
        show: |config| optional_path(config.group.authority_file.as_ref()),
    },
    KeySpec {
        path: "group.enrolment_url",
        default: None,
        example: "\"https://control.example/enrol\"",
        allowed: "an http or https address, without user and password",
        doc: "Where this machine gets its certificates; not set: /enrol beside geo. cloud_ca_file counts here, too.",
        restart: false,
        set: |config, raw| {
            config.group.enrolment_url = Some(raw.text()?.trim().parse().ok()?);
            Some(())
        },
        show: |config| quoted(address(&config.group.enrolment_url)),
    },
    KeySpec {
        path: "group.enrolment_token_file",
        default: None,
        example: "\"/etc/dosvc/enrolment-token\"",
        allowed: "an absolute path",
        doc: "A file with an enrolment token: the daemon enrols by itself. Not needed once it has, nor after `dosvc enrol`.",
        restart: false,
        set: |config, raw| {
            config.group.enrolment_token_file = Some(absolute_path(raw, usize::MAX)?);
            Some(())
        },
        show: |config| optional_path(config.group.enrolment_token_file.as_ref()),
    },
    KeySpec {
        path: "group.public_addresses",
        default: Some("[]"),
        example: "",
        allowed: "up to 16 IP addresses, with port or for port 7680",
        doc: "Where others reach this machine when a port forward (NAT, container) stands in front, beside the address that the cloud sees. Proofs by secret and certificate name the address that was dialled.",
        restart: false,
        set: |config, raw| {
            config.group.public_addresses = addresses(raw, Some(SWARM_PORT), LISTEN_ADDRESSES_MAX)?;
            Some(())
        },
        show: |config| list(&config.group.public_addresses),
    },
    KeySpec {
        path: "nat.port_mapping",
        default: Some("true"),
        example: "",
        allowed: "true, false",
        doc: "Have the machine's gateway map the peer port (PCP, NAT-PMP or UPnP) while the mode is 2 (Group) or 3 (Internet); in other modes it is never asked.",
        restart: false,
        set: |config, raw| {
            config.nat.port_mapping = raw.flag()?;
            Some(())
        },
        show: |config| config.nat.port_mapping.to_string(),
    },
    KeySpec {
        path: "cache.keep_free_percent",
        default: Some("10"),
        example: "",
        allowed: "0 to 99",
        doc: "The part of the disk's capacity that is never taken.",
        restart: false,
        set: |config, raw| {
            config.cache.keep_free = Percent::new(raw.number(0, 99)?)?;
            Some(())
        },
        show: |config| config.cache.keep_free.get().to_string(),
    },
    KeySpec {
        path: "transfers.max_active_foreground",
        default: Some("16"),
        example: "",
        allowed: "1 to 1000",
        doc: "The most foreground downloads that run at once; others wait.",
        restart: false,
        set: |config, raw| {
            config.transfers.max_active_foreground = count(raw, 1, 1000)?;
            Some(())
        },
        show: |config| config.transfers.max_active_foreground.to_string(),
    },
    KeySpec {
        path: "transfers.max_active_background",
        default: Some("8"),
        example: "",
        allowed: "1 to 1000",
        doc: "The most background downloads that run at once; others wait.",
        restart: false,
        set: |config, raw| {
            config.transfers.max_active_background = count(raw, 1, 1000)?;
            Some(())
        },
        show: |config| config.transfers.max_active_background.to_string(),
    },
    KeySpec {
        path: "transfers.max_active_uploads",
        default: Some("4"),
        example: "",
        allowed: "1 to 1000",
        doc: "The most contents that are uploaded at once; they take turns of ten seconds when there are more. All are offered.",
        restart: false,
        set: |config, raw| {
            config.transfers.max_active_uploads = count(raw, 1, 1000)?;
            Some(())
        },
        show: |config| config.transfers.max_active_uploads.to_string(),
    },
    KeySpec {
        path: "transfers.hash_threads",
        default: Some("0"),
        example: "",
        allowed: "0 to 256",
        doc: "Threads that hash pieces; 0: one for each processor.",
        restart: true,
        set: |config, raw| {
            config.transfers.hash_threads = Some(count(raw, 0, 256)?).filter(|n| *n > 0);
            Some(())
        },
        show: |config| config.transfers.hash_threads.unwrap_or(0).to_string(),
    },
    KeySpec {
        path: "managed.file",
        default: Some("\"/etc/dosvc/managed.toml\""),
        example: "",
        allowed: "an absolute path",
        doc: "A configuration file that only root may write, nor anybody but root its folder; else it is refused. It need not exist.",
        restart: false,
        set: |config, raw| {
            config.managed.file = absolute_path(raw, usize::MAX)?;
            Some(())
        },
        show: |config| quoted(config.managed.file.display()),
    },
    KeySpec {
        path: "managed.public_key",
        default: None,
        example: "\"11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\"",
        allowed: "an Ed25519 public key in base64: its 32 bytes, or the line of a PEM file",
        doc: "When set, the file need not be root's but must be signed: FILE.sig holds the Ed25519 signature, 64 bytes or their base64.",
        restart: false,
        set: |config, raw| {
            config.managed.public_key = Some(PublicKey::parse(raw.text()?.trim())?);
            Some(())
        },
        show: |config| {
            let key = config.managed.public_key.as_ref();
            quoted(key.map(ToString::to_string).unwrap_or_default())
        },
    },
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

/// Anything that can be set.
#[derive(Clone, Copy)]
pub(crate) enum Setting {
    /// A policy.
    Policy(Policy),
    /// Any other key.
    Key(&'static KeySpec),
}

impl Setting {
    /// The setting with this key in this table; policies in any of their spellings.
    pub(crate) fn find(table: &str, key: &str) -> Option<Self> {
        if table == POLICY_TABLE {
            return Policy::find(key).map(Self::Policy);
        }
        KEYS.iter()
            .find(|spec| spec.path.split_once('.') == Some((table, key)))
            .map(Self::Key)
    }

    /// Table and key.
    pub(crate) fn path(self) -> String {
        match self {
            Self::Policy(policy) => format!("{POLICY_TABLE}.{}", policy.spec().key),
            Self::Key(spec) => spec.path.to_owned(),
        }
    }
}

/// The keys of a table; for policies, the original spelling too.
fn keys_of(table: &str) -> Vec<&'static str> {
    if table == POLICY_TABLE {
        return POLICIES.iter().flat_map(|s| [s.key, s.name]).collect();
    }
    KEYS.iter()
        .filter_map(|spec| spec.path.split_once('.'))
        .filter(|(of, _)| *of == table)
        .map(|(_, key)| key)
        .collect()
}

/// The key that may have been meant by an unknown one: the nearest of the same table, or else, with its table, the
/// same key or a near one in another.
pub(crate) fn meant(table: &str, key: &str) -> Option<String> {
    let elsewhere = || {
        let mut near = TABLES
            .iter()
            .filter_map(|(other, _)| Some(format!("{other}.{}", nearest(key, keys_of(other))?)));
        near.next()
    };
    nearest(key, keys_of(table))
        .map(str::to_owned)
        .or_else(|| table_of(key))
        .or_else(elsewhere)
}

/// The path of a key that is given without its table.
fn table_of(key: &str) -> Option<String> {
    TABLES
        .iter()
        .find_map(|(table, _)| Some(Setting::find(table, key)?.path()))
}

/// The table that may have been meant by an unknown one, or the table that a key without one belongs to.
pub(crate) fn table_meant(name: &str) -> Option<String> {
    let near = || nearest(name, TABLES.iter().map(|(table, _)| *table));
    table_of(name).or_else(|| Some(format!("[{}]", near()?)))
}

fn absolute_path(raw: &RawValue, bytes_max: usize) -> Option<PathBuf> {
    let text = raw.text()?;
    let path = PathBuf::from(text);
    (path.is_absolute() && text.len() <= bytes_max && !text.chars().any(char::is_control))
        .then_some(path)
}

/// Addresses, with this port where none is given; without one, each must have its own.
fn addresses(raw: &RawValue, port: Option<u16>, count_max: usize) -> Option<Vec<SocketAddr>> {
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

fn group_name(raw: &RawValue) -> Option<String> {
    let name = raw.text()?.trim();
    let good = |c: char| c.is_ascii_alphanumeric() || "._-@\\$".contains(c);
    ((1..=256).contains(&name.len()) && name.chars().all(good)).then(|| name.to_owned())
}

/// A name in one line.
fn short_text(raw: &RawValue) -> Option<String> {
    let text = raw.text()?;
    let good = (1..=128).contains(&text.len()) && !text.chars().any(char::is_control);
    good.then(|| text.to_owned())
}

fn log_level(raw: &RawValue) -> Option<String> {
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

fn count(raw: &RawValue, min: u64, max: u64) -> Option<usize> {
    usize::try_from(raw.number(min, max)?).ok()
}

fn address(url: &Option<HttpUrl>) -> &str {
    url.as_ref().map_or("", HttpUrl::as_str)
}

fn count_32(raw: &RawValue, min: u64, max: u64) -> Option<u32> {
    u32::try_from(raw.number(min, max)?).ok()
}

fn optional_path(path: Option<&PathBuf>) -> String {
    quoted(path.map_or_else(String::new, |path| path.display().to_string()))
}

/// As it stands in a TOML file.
fn quoted(text: impl ToString) -> String {
    format!("{:?}", text.to_string())
}

fn list(items: &[impl std::fmt::Display]) -> String {
    let items: Vec<String> = items.iter().map(quoted).collect();
    format!("[{}]", items.join(", "))
}
