//! The one table of keys that are no policies. The parser, the sample and the reload come from it.

mod control_plane;
mod values;

use super::{Config, LogFormat, PublicKey, SWARM_PORT};
use dosvc_content::GroupId;
use dosvc_engine::{Demand, QuicUse};
use dosvc_policy::{POLICIES, Percent, Policy, RawValue, nearest};
use std::sync::LazyLock;
use values::{
    absolute_path, address, addresses, count, group_name, list, log_level, optional_path, quoted,
    teredo_server_text, teredo_servers,
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
    (
        "nat",
        "How peers beyond the LAN are reached, where NATs are in the way.",
    ),
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
/// The longest path of a Unix socket on Linux, without its NUL.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// One key that is no policy.
#[derive(Clone, Copy)]
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

/// Every key that is no policy, in the order of the sample.
pub(crate) static KEYS: LazyLock<Vec<KeySpec>> =
    LazyLock::new(|| [DAEMON_KEYS, control_plane::KEYS].concat());

/// Those of the daemon.
const DAEMON_KEYS: &[KeySpec] = &[
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
        doc: "Addresses for peers (TCP, and UDP for QUIC); port 0 takes a free one. No port is opened in modes without peers.",
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
        path: "nat.quic",
        default: Some("\"distant\""),
        example: "",
        allowed: "off, distant, everywhere",
        doc: "Speak QUIC, with TCP where that fails: not at all (nor in a tunnel), with peers beyond the LAN, or with all. Every connection is encrypted then, and peers prove their ids.",
        restart: false,
        set: |config, raw| {
            config.nat.quic = match raw.text()?.trim() {
                "off" => QuicUse::Off,
                "distant" => QuicUse::Distant,
                "everywhere" => QuicUse::Everywhere,
                _ => return None,
            };
            Some(())
        },
        show: |config| {
            quoted(match config.nat.quic {
                QuicUse::Off => "off",
                QuicUse::Distant => "distant",
                QuicUse::Everywhere => "everywhere",
            })
        },
    },
    KeySpec {
        path: "nat.teredo_servers",
        default: Some("[]"),
        example: "",
        allowed: "up to 8 public IPv4 addresses, or pairs of them: 198.51.100.10+198.51.100.20",
        doc: "Teredo servers (dosvc teredo server), best first: with one, peers behind other NATs are reached in modes 2 and 3. The second address is the one after the first unless it is given.",
        restart: false,
        set: |config, raw| {
            config.nat.teredo_servers = teredo_servers(raw)?;
            Some(())
        },
        show: |config| {
            let servers = config.nat.teredo_servers.iter();
            let servers: Vec<String> = servers.map(teredo_server_text).collect();
            list(&servers)
        },
    },
    KeySpec {
        path: "nat.teredo_port",
        default: Some("3544"),
        example: "",
        allowed: "0 to 65535",
        doc: "The UDP port that the tunnel uses on this machine; 0 takes a free one.",
        restart: false,
        set: |config, raw| {
            config.nat.teredo_port = u16::try_from(raw.number(0, 65_535)?).ok()?;
            Some(())
        },
        show: |config| config.nat.teredo_port.to_string(),
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
        path: "transfers.pass_on_early",
        default: Some("true"),
        example: "",
        allowed: "true, false",
        doc: "Pass a piece on while it arrives, to dosvc's own kind: it is verified before its last 64 KiB go out, so nobody gets a whole piece that wasn't. Without it nothing of a piece goes out before: fleets that all download at once take longer.",
        restart: false,
        set: |config, raw| {
            config.transfers.pass_on_early = raw.flag()?;
            Some(())
        },
        show: |config| config.transfers.pass_on_early.to_string(),
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
