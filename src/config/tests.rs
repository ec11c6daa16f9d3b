use super::*;
use dosvc_content::DownloadMode;
use dosvc_policy::{POLICIES, Policy};
use proptest::prelude::*;
use std::{fs, time::Duration};

/// A folder for files, and options that read nothing but what is put there.
struct Rig {
    folder: tempfile::TempDir,
    options: LoadOptions,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = LoadOptions {
            config_file: None,
            default_file: folder.path().join("dosvc.toml"),
            managed_file: "/nowhere/managed.toml".into(),
            environment: BTreeMap::new(),
            overrides: Vec::new(),
            is_root: true,
        };
        Self { folder, options }
    }

    fn file(self, name: &str, text: &str) -> Self {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn managed(mut self, text: &str) -> Self {
        self.options.managed_file = self.folder.path().join("managed.toml");
        self.file("managed.toml", text)
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.options.environment.insert(name.into(), value.into());
        self
    }

    fn option(mut self, key: &str, value: &str) -> Self {
        self.options.overrides.push((key.into(), value.into()));
        self
    }

    fn user(mut self) -> Self {
        self.options.is_root = false;
        self
    }

    fn load(&self) -> Config {
        match Config::load(self.options.clone()) {
            Ok(config) => config,
            Err(errors) => panic!("{errors}"),
        }
    }

    /// The errors' text, with the folder cut off.
    fn errors(&self) -> String {
        let errors = Config::load(self.options.clone()).expect_err("it must be refused");
        let folder = format!("{}/", self.folder.path().display());
        errors.to_string().replace(&folder, "")
    }
}

#[test]
fn without_anything_the_daemon_runs_in_lan_mode() {
    let config = Rig::new().load();
    assert_eq!(config.policies, Policies::default());
    assert_eq!(config.policies.download_mode(), DownloadMode::Lan);
    assert_eq!(
        config.daemon,
        DaemonConfig {
            state_dir: "/var/lib/dosvc".into(),
            listen: vec![
                "[::]:7680".parse().unwrap(),
                "0.0.0.0:7680".parse().unwrap()
            ],
            api_socket: "/run/dosvc/api.sock".into(),
            api_group: None,
            host_root: "/".into(),
            log_format: LogFormat::Text,
            log_level: "info".to_owned(),
        }
    );
    assert!(config.discovery.dns_sd && config.discovery.peers.is_empty());
    assert_eq!(config.cache.keep_free, Percent::of(10));
    assert!(config.files.is_empty() && config.warnings.is_empty());
}

#[test]
fn later_layers_win_key_by_key() {
    let rig = Rig::new()
        .file(
            "dosvc.toml",
            "[delivery_optimization]\nDODownloadMode = 2\nmax_cache_age = 10\nmax_cache_size = 30\nmin_background_qos = 500\n",
        )
        .file(
            "conf.d/20-site.toml",
            "[delivery_optimization]\nmax_cache_age = 30\n",
        )
        .file(
            "conf.d/10-fleet.toml",
            "[delivery_optimization]\nmax_cache_age = 20\nDOMaxCacheSize = 40\n",
        )
        .file("conf.d/.hidden.toml", "nonsense")
        .file("conf.d/readme.txt", "nonsense")
        .variable("DOSVC_DELIVERY_OPTIMIZATION__MIN_BACKGROUND_QOS", "600")
        .variable("DOSVC_CACHE_HOST", "a.example, b.example")
        .option("cache_host", "c.example")
        .option("daemon.listen", "127.0.0.1:0,[::1]:0");
    let config = rig.load();
    let names: Vec<_> = config
        .files
        .iter()
        .map(|file| file.file_name().unwrap())
        .collect();
    assert_eq!(names, ["dosvc.toml", "10-fleet.toml", "20-site.toml"]);
    let policies = &config.policies;
    assert_eq!(policies.download_mode(), DownloadMode::Group);
    assert_eq!(policies.max_cache_age(), Some(Duration::from_secs(30)));
    assert_eq!(policies.max_cache_size(), Percent::of(40));
    assert_eq!(policies.min_background_qos().bps(), 600 * 1024);
    assert_eq!(policies.cache_host().unwrap(), ["c.example"]);
    let file = |name: &str| Provider::File(rig.folder.path().join(name));
    for (policy, provider) in [
        (Policy::DownloadMode, file("dosvc.toml")),
        (Policy::MaxCacheAge, file("conf.d/20-site.toml")),
        (Policy::MaxCacheSize, file("conf.d/10-fleet.toml")),
        (Policy::MinBackgroundQos, Provider::Environment),
        (Policy::CacheHost, Provider::Command),
        (Policy::MaxCacheSize, file("conf.d/10-fleet.toml")),
        (Policy::GroupId, Provider::Default),
    ] {
        assert_eq!(*policies.provider(policy), provider, "{policy:?}");
    }
    assert_eq!(config.daemon.listen.len(), 2);
    let providers: Vec<_> = config
        .rows()
        .filter(|(_, _, provider)| **provider != Provider::Default)
        .collect();
    assert_eq!(
        providers,
        [(
            "daemon.listen",
            "[\"127.0.0.1:0\", \"[::1]:0\"]".to_owned(),
            &Provider::Command
        )]
    );
}

#[test]
fn hours_of_a_later_layer_replace_those_of_an_earlier_one_in_either_form() {
    let key = "set_hours_to_limit_background_download_bandwidth";
    let table =
        format!("[delivery_optimization]\n{key} = {{ from = 8, to = 17, in = 20, out = 80 }}\n");
    let rig = Rig::new().file("dosvc.toml", &table);
    let hours = |rig: &Rig| {
        rig.load()
            .policies
            .set_hours_to_limit_background_download_bandwidth()
            .unwrap()
            .to_string()
    };
    assert_eq!(hours(&rig), "8,17,20,80");
    let rig = rig.file(
        "conf.d/1.toml",
        &format!("[delivery_optimization]\n{key} = \"9,18,1,2\"\n"),
    );
    assert_eq!(hours(&rig), "9,18,1,2");
    let rig = rig.file("conf.d/2.toml", &table);
    assert_eq!(hours(&rig), "8,17,20,80");
    let policy = Policy::SetHoursToLimitBackgroundDownloadBandwidth;
    assert_eq!(
        *rig.load().policies.provider(policy),
        Provider::File(rig.folder.path().join("conf.d/2.toml"))
    );
}

#[test]
fn every_mistake_of_every_layer_is_reported_at_once() {
    let rig = Rig::new()
        .file(
            "dosvc.toml",
            r#"# a comment
download_mode = 1
[delivery_optimization]
downlod_mode = 2
max_cache_size = 250
DOMaxCacheAge = "long"
max_cache_age = 5
group_id = "b3b1c2d4-secret"
min_file_size_to_cache = 1.5
listen = ["[::]:1"]

[daemn]
state_dir = "/x"

[daemon]
state_dir = "relative"
listen = [
  "127.0.0.1",
]
log_format = 2021-01-01

[discovery]
dns_sd = 2
colour = "red"
"a\nb" = { "c\nd" = 1 }
peers = { "c\nd" = 1 }
"#,
        )
        .file(
            "conf.d/50.toml",
            "cache = 5\n[transfers]\nhash_threads = -1\n",
        )
        .variable("DOSVC_DELIVERY_OPTIMIZATION__DOWNLOAD_MOD", "1")
        .variable("DOSVC_DAEMON__LISTEN", "nowhere")
        .variable("DOSVC_MAX_CACHE_SIZE", "0")
        .variable("DOSVC_PORT_7680_TCP_PORT", "7680")
        .option("download_mode", "everything")
        .option("daemon.stat_dir", "/x");
    assert_eq!(
        rig.errors(),
        r#"dosvc.toml:2: unknown key download_mode; did you mean delivery_optimization.download_mode?
dosvc.toml:4: unknown key delivery_optimization.downlod_mode; did you mean download_mode?
dosvc.toml:5: delivery_optimization.max_cache_size = 250 is not allowed; allowed: 1 to 100 %
dosvc.toml:6: delivery_optimization.max_cache_age = "long" is not allowed; allowed: 0 to 4294967295 s
dosvc.toml:7: delivery_optimization.max_cache_age is set twice here: as DOMaxCacheAge and as max_cache_age
dosvc.toml:8: delivery_optimization.group_id = (hidden) is not allowed; allowed: a GUID (8-4-4-4-12 hex digits)
dosvc.toml:9: delivery_optimization.min_file_size_to_cache = 1.5 is not allowed; allowed: 1 to 100000 MB
dosvc.toml:10: unknown key delivery_optimization.listen; did you mean daemon.listen?
dosvc.toml:12: unknown key daemn; did you mean [daemon]?
dosvc.toml:16: daemon.state_dir = "relative" is not allowed; allowed: an absolute folder
dosvc.toml:17: daemon.listen = ["127.0.0.1"] is not allowed; allowed: up to 16 IP addresses with port
dosvc.toml:20: daemon.log_format = 2021-01-01 is not allowed; allowed: text, json
dosvc.toml:23: discovery.dns_sd = 2 is not allowed; allowed: true, false
dosvc.toml:24: unknown key discovery.colour
dosvc.toml:25: unknown key discovery."a\nb"
dosvc.toml:26: discovery.peers = { "c\nd" = 1 } is not allowed; allowed: up to 4096 IP addresses, with port or for port 7680
conf.d/50.toml:1: cache = 5 is not allowed; allowed: a table
conf.d/50.toml:3: transfers.hash_threads = -1 is not allowed; allowed: 0 to 256
environment variable DOSVC_DAEMON__LISTEN: daemon.listen = "nowhere" is not allowed; allowed: up to 16 IP addresses with port
environment variable DOSVC_DELIVERY_OPTIMIZATION__DOWNLOAD_MOD: unknown key delivery_optimization.download_mod; did you mean DOSVC_DELIVERY_OPTIMIZATION__DOWNLOAD_MODE?
environment variable DOSVC_MAX_CACHE_SIZE: delivery_optimization.max_cache_size = "0" is not allowed; allowed: 1 to 100 %
command line: delivery_optimization.download_mode = "everything" is not allowed; allowed: 0 (CdnOnly), 1 (Lan), 2 (Group), 3 (Internet), 99 (Simple), 100 (Bypass)
command line: unknown key daemon.stat_dir; did you mean state_dir?
the configuration has 23 errors"#
    );
}

#[test]
fn a_value_that_a_later_layer_would_hide_is_refused_all_the_same() {
    let rig = Rig::new()
        .file("dosvc.toml", "[daemon]\nlog_level = \"loud\"\n")
        .option("daemon.log_level", "debug");
    assert_eq!(
        rig.errors(),
        "dosvc.toml:2: daemon.log_level = \"loud\" is not allowed; allowed: off, error, warn, info, debug or trace, \
         also for parts of the program: \"info,dosvc_wire=debug\"\nthe configuration has 1 error"
    );
}

#[test]
fn errors_of_syntax_have_their_line_and_hide_nothing_else() {
    let rig = Rig::new().file(
        "dosvc.toml",
        "[delivery_optimization]\ndownload_mode =\nmax_cache_size = 250\nmax_cache_size = 30\n[daemon]\nlisten = [\n",
    );
    assert_eq!(
        rig.errors(),
        "dosvc.toml:2: string values must be quoted, expected literal string\n\
         dosvc.toml:3: delivery_optimization.max_cache_size = 250 is not allowed; allowed: 1 to 100 %\n\
         dosvc.toml:4: duplicate key\n\
         dosvc.toml:6: unclosed array, expected `]`\n\
         the configuration has 4 errors"
    );
}

#[test]
fn a_named_file_must_be_there_and_be_a_file() {
    let mut rig = Rig::new();
    rig.options.config_file = Some(rig.folder.path().join("other.toml"));
    assert_eq!(
        rig.errors(),
        "other.toml: cannot be read: No such file or directory (os error 2)\nthe configuration has 1 error"
    );
    rig.options.config_file = Some(rig.folder.path().join("."));
    assert!(rig.errors().contains("Is a directory"), "{}", rig.errors());
    rig.options.config_file = Some("/dev/null".into());
    assert_eq!(rig.load().policies, Policies::default());
    let rig = rig.file("large.toml", &"#".repeat((1 << 20) + 1));
    let mut rig = rig.file("latin1.toml", "");
    fs::write(rig.folder.path().join("latin1.toml"), b"# \xe9\n").unwrap();
    rig.options.config_file = Some(rig.folder.path().join("large.toml"));
    assert!(rig.errors().contains("it is larger than 1 MiB"));
    rig.options.config_file = Some(rig.folder.path().join("latin1.toml"));
    assert!(rig.errors().contains("valid UTF-8"), "{}", rig.errors());
}

#[test]
fn conf_d_beside_a_named_file_is_read() {
    let mut rig = Rig::new()
        .file("dosvc.toml", "nonsense that is not read")
        .file("mine/my.toml", "[cache]\nkeep_free_percent = 20\n")
        .file("mine/conf.d/a.toml", "[cache]\nkeep_free_percent = 30\n");
    rig.options.config_file = Some(rig.folder.path().join("mine/my.toml"));
    assert_eq!(rig.load().cache.keep_free, Percent::of(30));
}

#[test]
fn places_follow_the_service_manager_and_the_user() {
    let places = |rig: &Rig| {
        let daemon = rig.load().daemon;
        (
            daemon.state_dir.display().to_string(),
            daemon.api_socket.display().to_string(),
        )
    };
    let expect = |rig: Rig, state: &str, socket: &str| {
        assert_eq!(places(&rig), (state.to_owned(), socket.to_owned()));
    };
    expect(Rig::new(), "/var/lib/dosvc", "/run/dosvc/api.sock");
    expect(
        Rig::new()
            .user()
            .variable("STATE_DIRECTORY", "/var/lib/dosvc2:/var/lib/x")
            .variable("RUNTIME_DIRECTORY", "/run/dosvc2"),
        "/var/lib/dosvc2",
        "/run/dosvc2/api.sock",
    );
    expect(
        Rig::new()
            .user()
            .variable("HOME", "/home/a")
            .variable("XDG_RUNTIME_DIR", "/run/user/7"),
        "/home/a/.local/share/dosvc",
        "/run/user/7/dosvc/api.sock",
    );
    expect(
        Rig::new()
            .user()
            .variable("HOME", "/home/a")
            .variable("XDG_DATA_HOME", "/data"),
        "/data/dosvc",
        "/data/dosvc/api.sock",
    );
    // The socket moves with a state folder that is configured, when it is in there by default.
    expect(
        Rig::new().user().option("daemon.state_dir", "/s"),
        "/s",
        "/s/api.sock",
    );
    expect(
        Rig::new()
            .option("daemon.state_dir", "/s")
            .option("daemon.api_socket", "/t/sock"),
        "/s",
        "/t/sock",
    );
}

#[test]
fn addresses_of_peers_may_leave_out_the_swarms_port() {
    let config = Rig::new()
        .option(
            "discovery.peers",
            "10.0.0.1,10.0.0.2:99,fd00::1,[fd00::2],[fd00::3]:5",
        )
        .load();
    let peers: Vec<String> = config
        .discovery
        .peers
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        peers,
        [
            "10.0.0.1:7680",
            "10.0.0.2:99",
            "[fd00::1]:7680",
            "[fd00::2]:7680",
            "[fd00::3]:5"
        ]
    );
}

#[test]
fn warnings_name_deprecated_policies_and_misspelt_variables() {
    let config = Rig::new()
        .file(
            "dosvc.toml",
            "[delivery_optimization]\nDOMaxUploadBandwidth = 100\n",
        )
        .variable("DOSVC_DOWNLOAD_MOD", "2")
        .variable("DOSVC_SOCKET", "/x")
        .variable("DOSVC_CONFIG", "/x")
        .variable("DOSVC_SERVICE_HOST", "10.96.0.1")
        .load();
    assert_eq!(
        config.warnings,
        [
            "environment variable DOSVC_DOWNLOAD_MOD sets nothing; did you mean DOSVC_DOWNLOAD_MODE?",
            "max_upload_bandwidth is deprecated; it still works"
        ]
    );
    assert_eq!(config.policies.download_mode(), DownloadMode::Lan);
}

#[test]
fn a_reload_tells_what_is_live_from_what_needs_a_restart() {
    let old = Rig::new().load();
    assert!(diff(&old, &Rig::new().option("download_mode", "1").load()).is_empty());
    let new = Rig::new()
        .option("download_mode", "group")
        .option("group_id", "b3b1c2d4-5e6f-4a7b-8c9d-0e1f2a3b4c5d")
        .option("modify_cache_drive", "/srv/cache")
        .option("discovery.peers", "10.0.0.1")
        .option("daemon.log_level", "debug")
        .option("daemon.listen", "127.0.0.1:0")
        .option("daemon.state_dir", "/srv/dosvc")
        .load();
    let changes = diff(&old, &new);
    let shown = |changes: &[Change]| -> Vec<String> {
        changes
            .iter()
            .map(|c| format!("{}: {} -> {}", c.key, c.from, c.to))
            .collect()
    };
    assert_eq!(
        shown(&changes.live),
        [
            "delivery_optimization.download_mode: 1 (Lan) -> 2 (Group)",
            "delivery_optimization.group_id: not set -> (set)",
            "daemon.log_level: \"info\" -> \"debug\"",
            "discovery.peers: [] -> [\"10.0.0.1:7680\"]",
        ]
    );
    assert_eq!(
        shown(&changes.restart),
        [
            "delivery_optimization.modify_cache_drive: not set -> /srv/cache",
            "daemon.state_dir: \"/var/lib/dosvc\" -> \"/srv/dosvc\"",
            "daemon.listen: [\"[::]:7680\", \"0.0.0.0:7680\"] -> [\"127.0.0.1:0\"]",
        ]
    );
}

#[test]
fn table_of_keys_agrees_with_the_defaults() {
    let mut rig = Rig::new();
    rig.options.managed_file = MANAGED_FILE.into();
    let config = rig.load();
    for spec in keys::KEYS.iter() {
        let (table, key) = spec.path.split_once('.').unwrap();
        assert!(keys::TABLES.iter().any(|(known, _)| *known == table));
        assert!(Policy::find(key).is_none(), "{key} is a policy's name too");
        if let Some(default) = spec.default {
            assert_eq!((spec.show)(&config), default, "{}", spec.path);
        }
        // What is shown is read back as the same.
        let value = spec.default.unwrap_or(spec.example);
        let rig = Rig::new().file("dosvc.toml", &format!("[{table}]\n{key} = {value}\n"));
        assert_eq!((spec.show)(&rig.load()), value, "{}", spec.path);
    }
}

/// A key pair, and the managed file signed with it.
fn sign(rig: Rig, text: &str) -> (Rig, String) {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let rig = rig.managed(text);
    let signature = pair.sign(text.as_bytes());
    fs::write(
        rig.folder.path().join("managed.toml.sig"),
        signature.as_ref(),
    )
    .unwrap();
    let key = BASE64_STANDARD.encode(pair.public_key().as_ref());
    (rig, key)
}

const MANAGED: &str =
    "[delivery_optimization]\nmax_cache_age = 40\nmax_cache_size = 50\nDOVpnKeywords = \"a,b\"\n";

#[test]
fn managed_file_wins_over_all_but_the_command_line() {
    let (rig, key) = sign(Rig::new(), MANAGED);
    let rig = rig
        .file(
            "dosvc.toml",
            "[delivery_optimization]\nmax_cache_age = 10\nmax_cache_size = 10\nmin_background_qos = 10\n",
        )
        .variable("DOSVC_MAX_CACHE_AGE", "20")
        .variable("DOSVC_MAX_CACHE_SIZE", "20")
        .variable("DOSVC_MANAGED__PUBLIC_KEY", &key)
        .option("max_cache_size", "60");
    let config = rig.load();
    let policies = &config.policies;
    assert_eq!(policies.max_cache_age(), Some(Duration::from_secs(40)));
    assert_eq!(*policies.provider(Policy::MaxCacheAge), Provider::Managed);
    assert_eq!(policies.max_cache_size(), Percent::of(60));
    assert_eq!(*policies.provider(Policy::MaxCacheSize), Provider::Command);
    assert_eq!(policies.min_background_qos().bps(), 10 * 1024);
    assert_eq!(policies.vpn_keywords(), ["a", "b"]);
    assert_eq!(
        config.files.last().unwrap(),
        &rig.folder.path().join("managed.toml")
    );
}

#[test]
fn managed_file_that_is_signed_wrongly_is_refused() {
    let (rig, key) = sign(Rig::new(), MANAGED);
    let rig = rig.option("managed.public_key", &key);
    rig.load();
    let path = rig.folder.path().join("managed.toml");
    let signature = fs::read(path.with_extension("toml.sig")).unwrap();
    // As `base64` prints it.
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    let text = BASE64_STANDARD.encode(&signature) + "\n";
    fs::write(path.with_extension("toml.sig"), text).unwrap();
    rig.load();

    let another = BASE64_STANDARD.encode([1; 32]);
    let (other_rig, _) = sign(Rig::new(), MANAGED);
    let refused = other_rig.option("managed.public_key", &another).errors();
    assert!(refused.contains("is not that of key AQEB"), "{refused}");

    fs::write(&path, MANAGED.replace("40", "41")).unwrap();
    let refused = rig.errors();
    assert!(
        refused.starts_with("managed.toml: not trusted: the signature managed.toml.sig is not"),
        "{refused}"
    );
    fs::write(path.with_extension("toml.sig"), "no signature").unwrap();
    let refused = rig.errors();
    assert!(refused.contains("neither 64 bytes"), "{refused}");
    fs::remove_file(path.with_extension("toml.sig")).unwrap();
    assert!(rig.errors().contains("managed.toml.sig is missing"));
    // Without the file there is nothing to refuse.
    fs::remove_file(&path).unwrap();
    assert_eq!(
        rig.load().policies.max_cache_age().unwrap().as_secs(),
        259_200
    );
}

#[test]
fn unsigned_managed_file_must_be_roots_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let rig = Rig::new().managed(MANAGED);
    let path = rig.folder.path().join("managed.toml");
    let chmod = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    if !rustix::process::geteuid().is_root() {
        let refused = rig.errors();
        assert!(
            refused.contains("it must be root's, or be signed"),
            "{refused}"
        );
        return;
    }
    chmod(&path, 0o644);
    assert_eq!(rig.load().policies.max_cache_size(), Percent::of(50));
    chmod(&path, 0o664);
    assert_eq!(
        rig.errors(),
        "managed.toml: not trusted: it has mode 664; only its owner may write it (chmod go-w)\nthe configuration has 1 error"
    );
    chmod(&path, 0o600);
    chmod(rig.folder.path(), 0o777);
    assert!(rig.errors().contains("has mode 777"), "{}", rig.errors());
    chmod(rig.folder.path(), 0o700);
    std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
    assert!(
        rig.errors()
            .contains("not trusted: it belongs to user 65534")
    );
}

#[test]
fn managed_file_is_checked_as_every_other_and_cannot_say_whom_to_trust() {
    let (rig, key) = sign(
        Rig::new(),
        "[delivery_optimization]\nmax_cache_size = 0\n[managed]\nfile = \"/x\"\n",
    );
    let rig = rig
        .file("dosvc.toml", "[daemon]\ncolour = 1\n")
        .option("managed.public_key", &key);
    assert_eq!(
        rig.errors(),
        "dosvc.toml:2: unknown key daemon.colour\n\
         managed.toml:2: delivery_optimization.max_cache_size = 0 is not allowed; allowed: 1 to 100 %\n\
         managed.toml:4: managed.file cannot be set by the managed file itself\n\
         the configuration has 3 errors"
    );
}

#[test]
fn public_key_is_read_from_its_bytes_and_from_a_pem_line() {
    let bytes = PublicKey::parse("11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=").unwrap();
    let pem = "MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
    assert_eq!(PublicKey::parse(pem), Some(bytes));
    for bad in ["", "x", "AQEB", &pem[4..]] {
        assert_eq!(PublicKey::parse(bad), None, "{bad}");
    }
}

/// What a watch tells within a few seconds: `true`, a change.
async fn tells(watch: &mut Watch, within: Duration) -> bool {
    tokio::time::timeout(within, watch.changed()).await.is_ok()
}

#[tokio::test]
async fn watch_notices_files_that_come_change_and_go_and_nothing_else() {
    const SOON: Duration = Duration::from_secs(20);
    let rig = Rig::new().file("dosvc.toml", "");
    let at = |name: &str| rig.folder.path().join(name);
    let mut watch = Watch::new(&at("dosvc.toml"));
    // Its folder is not there yet.
    watch.follow(&at("fleet/deep/managed.toml")).unwrap();
    fs::write(at("dosvc.toml"), "# 1").unwrap();
    assert!(tells(&mut watch, SOON).await, "written in place");
    fs::write(at("new"), "# 2").unwrap();
    fs::rename(at("new"), at("dosvc.toml")).unwrap();
    assert!(tells(&mut watch, SOON).await, "replaced");
    fs::create_dir(at("conf.d")).unwrap();
    fs::write(at("conf.d/1.toml"), "").unwrap();
    assert!(tells(&mut watch, SOON).await, "a new file in a new folder");
    fs::remove_file(at("conf.d/1.toml")).unwrap();
    assert!(tells(&mut watch, SOON).await, "removed");
    fs::create_dir_all(at("fleet/deep")).unwrap();
    fs::write(at("fleet/deep/managed.toml"), "").unwrap();
    assert!(tells(&mut watch, SOON).await, "the managed file");
    fs::write(at("fleet/deep/managed.toml.sig"), "").unwrap();
    assert!(tells(&mut watch, SOON).await, "its signature");
    fs::write(at("conf.d/readme.txt"), "").unwrap();
    fs::write(at("other.toml"), "").unwrap();
    assert!(
        !tells(&mut watch, Duration::from_millis(1500)).await,
        "other files in the same folders"
    );
    // What is about to be read is no change.
    fs::write(at("dosvc.toml"), "# 3").unwrap();
    watch.mark();
    assert!(
        !tells(&mut watch, Duration::from_millis(1500)).await,
        "marked"
    );
}

#[test]
fn sample_file_is_what_the_tables_give() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/dosvc.toml");
    let generated = sample_file();
    if env::var_os("DOSVC_UPDATE_FILES").is_some() {
        fs::write(&path, &generated).unwrap();
    }
    let checked_in = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        checked_in == generated,
        "config/dosvc.toml is not what the tables give; write it anew with \
         DOSVC_UPDATE_FILES=1 cargo test -p dosvc --bin dosvc sample"
    );
}

#[test]
fn sample_configures_nothing_and_every_line_of_it_can_be_taken() {
    let sample = sample_file();
    let defaults = Rig::new().load();
    let config = Rig::new().file("dosvc.toml", &sample).load();
    assert!(diff(&defaults, &config).is_empty());

    let uncommented: Vec<&str> = sample
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) => rest,
            _ => line,
        })
        .collect();
    let config = Rig::new()
        .file("dosvc.toml", &uncommented.join("\n"))
        .load();
    for spec in POLICIES {
        assert!(config.policies.is_set(spec.policy), "{}", spec.key);
        if spec.default.is_some() {
            assert_eq!(
                config.policies.value_text(spec.policy),
                defaults.policies.value_text(spec.policy)
            );
        }
    }
    assert_eq!(config.providers.len(), keys::KEYS.len());
}

#[test]
fn every_sample_file_is_accepted() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut loaded = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "toml") {
            let mut rig = Rig::new();
            rig.options.config_file = Some(path);
            rig.load();
            loaded += 1;
        }
    }
    assert!(loaded >= 1);
}

/// Every key that can be set, with its table.
fn all_keys() -> Vec<String> {
    let policies = POLICIES
        .iter()
        .map(|spec| format!("{}.{}", keys::POLICY_TABLE, spec.key));
    policies
        .chain(keys::KEYS.iter().map(|spec| spec.path.to_owned()))
        .collect()
}

fn any_toml_value() -> impl Strategy<Value = toml::Value> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(toml::Value::Integer),
        (0i64..101).prop_map(toml::Value::Integer),
        any::<bool>().prop_map(toml::Value::Boolean),
        any::<f64>().prop_map(toml::Value::Float),
        any::<String>().prop_map(toml::Value::String),
        "[0-9a-z:.,/ ]{0,16}".prop_map(toml::Value::String),
        Just(toml::Value::Datetime(
            "1979-05-27T07:32:00Z".parse().unwrap()
        )),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(toml::Value::Array),
            prop::collection::btree_map("from|to|in|out|[a-z]{1,3}", inner, 0..5)
                .prop_map(|map| toml::Value::Table(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Any value of any key is accepted or refused at its line, whoever gives it.
    #[test]
    fn any_value_of_any_key_is_accepted_or_refused(
        at in 0..all_keys().len(),
        value in any_toml_value(),
        text in "\\PC*",
    ) {
        let path = &all_keys()[at];
        let (table, key) = path.split_once('.').unwrap();
        let file = format!("[{table}]\n{key} = {value}\n");
        let mut errors = Vec::new();
        Layer::from_text(Path::new("x.toml"), &file, Provider::Environment, &mut errors);
        prop_assert!(errors.len() <= 1, "{:?}", errors);
        if let Some(error) = errors.first() {
            prop_assert_eq!(&error.place, &Place::Line("x.toml".into(), 2));
            let not_allowed = matches!(error.mistake, Mistake::NotAllowed { .. });
            prop_assert!(not_allowed, "{}", error);
        }
        let mut from_file = Rig::new();
        from_file.options.overrides.push((path.clone(), text));
        let loaded = Config::load(from_file.options.clone());
        if let Ok(config) = loaded {
            prop_assert!(diff(&config, &config).is_empty());
        }
    }

    /// Whatever stands in a file, reading it ends with an answer.
    #[test]
    fn any_text_is_read_or_refused(text in "(\\PC|\n|=|\\[|\\]|\"|daemon|listen|[0-9]){0,60}") {
        let mut errors = Vec::new();
        Layer::from_text(Path::new("x.toml"), &text, Provider::Environment, &mut errors);
        for error in errors {
            prop_assert!(!error.to_string().contains('\n'), "{}", error);
        }
    }
}
