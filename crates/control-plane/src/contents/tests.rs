//! One battery for both databases. PostgreSQL is a real server, which `--include-ignored` asks for; it needs the programs of
//! Debian's postgresql package.

use super::*;
use crate::{database::PostgresConfig, devices::tests as devices};
use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

#[path = "../../tests/stores/authority.rs"]
mod authority;
use authority::Authority;

/// A database that can be opened any number of times.
enum Stores {
    File(TempDir),
    Server(Server),
}

impl Stores {
    fn file() -> Self {
        Self::File(tempfile::tempdir().unwrap())
    }

    async fn open(&self) -> Contents {
        match self {
            Self::File(folder) => Contents::open(folder.path()).await.unwrap(),
            Self::Server(server) => {
                let contents = Contents::of(&server.config("dosvc")).await.unwrap();
                contents.check().await.unwrap();
                contents
            }
        }
    }

    /// Whether this text stands anywhere in it.
    fn holds(&self, text: &str) -> bool {
        let holds = |bytes: &[u8]| {
            bytes
                .windows(text.len())
                .any(|part| part == text.as_bytes())
        };
        match self {
            Self::File(folder) => {
                let files = fs::read_dir(folder.path()).unwrap();
                files
                    .into_iter()
                    .any(|file| holds(&fs::read(file.unwrap().path()).unwrap()))
            }
            Self::Server(server) => holds(&server.psql("SELECT * FROM token, content").stdout),
        }
    }
}

/// How long a server may take to do what it is told.
const PATIENCE: Duration = Duration::from_secs(20);

/// A PostgreSQL at a Unix socket. It dies with this value, and with the thread that started it.
struct Server {
    folder: TempDir,
    process: Child,
    args: Vec<String>,
}

impl Server {
    fn start() -> Self {
        Self::start_with(|_| Vec::new())
    }

    /// With arguments of its own, and what they need in its folder.
    fn start_with(prepare: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let args = prepare(folder.path());
        // It refuses to run as root, and its folder must be its own.
        if is_root() {
            let owned = Command::new("chown")
                .args(["-R", "nobody"])
                .arg(folder.path())
                .status();
            assert!(owned.unwrap().success());
        }
        let data = folder.path().join("data");
        let made = program(
            "initdb",
            &[
                "-A",
                "trust",
                "-U",
                "dosvc",
                "--no-sync",
                "--locale=C",
                "-E",
                "UTF8",
                "-D",
            ],
        )
        .arg(&data)
        .stdout(Stdio::null())
        .status();
        assert!(made.unwrap().success(), "initdb");
        let process = Self::spawn(&folder, &args);
        let this = Self {
            folder,
            process,
            args,
        };
        this.wait();
        assert!(
            this.psql_in("postgres", "CREATE DATABASE dosvc")
                .status
                .success()
        );
        this
    }

    fn spawn(folder: &TempDir, args: &[String]) -> Child {
        program(
            "postgres",
            &["-c", "listen_addresses=", "-c", "fsync=off", "-k"],
        )
        .arg(folder.path())
        .args(args)
        .arg("-D")
        .arg(folder.path().join("data"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
    }

    fn wait(&self) {
        let began = Instant::now();
        while !self.psql_in("postgres", "SELECT 1").status.success() {
            assert!(began.elapsed() < PATIENCE, "PostgreSQL does not answer");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn url(&self, database: &str) -> String {
        let host = self.folder.path().display().to_string().replace('/', "%2F");
        // The socket is named after the port, whether that is listened at or not.
        let port = self.args.iter().find_map(|arg| arg.strip_prefix("port="));
        let port = port.unwrap_or("5432");
        format!("postgresql://dosvc@{host}:{port}/{database}")
    }

    fn config(&self, database: &str) -> ControlPlaneConfig {
        ControlPlaneConfig {
            postgres: PostgresConfig {
                url: Some(self.url(database).parse().unwrap()),
                ..PostgresConfig::default()
            },
            ..ControlPlaneConfig::default()
        }
    }

    fn psql(&self, sql: &str) -> std::process::Output {
        self.psql_in("dosvc", sql)
    }

    fn psql_in(&self, database: &str, sql: &str) -> std::process::Output {
        let mut psql = program("psql", &["-qAt", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        psql.arg(self.url(database)).output().unwrap()
    }

    /// As a power cut does it: what was committed and not yet written stays in the log.
    fn kill(&mut self) {
        let pid = self.process.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-QUIT", &pid])
                .status()
                .unwrap()
                .success()
        );
        self.process.wait().unwrap();
    }

    fn restart(&mut self) {
        self.process = Self::spawn(&self.folder, &self.args);
        self.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0)
}

/// A program of PostgreSQL, as a user that may run it.
fn program(name: &str, args: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "QUIT"]);
    if is_root() {
        command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]);
    }
    command.arg(folder_of_programs().join(name)).args(args);
    command
}

/// Debian keeps them outside of everybody's path, in a folder for each version.
fn folder_of_programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let folders = versions.map(|version| version.path().join("bin"));
    folders
        .max()
        .expect("the programs of PostgreSQL are installed")
}

macro_rules! battery {
    ($($name:ident)*) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name(&super::Stores::file()).await;
            })*
        }
        mod postgres {
            $(#[tokio::test]
            #[ignore = "needs PostgreSQL's programs"]
            async fn $name() {
                super::$name(&super::Stores::Server(super::Server::start())).await;
            })*
        }
    };
}

battery! {
    contents_are_found_by_id_and_by_url_after_a_restart_too
    a_revoked_content_stays_known_as_such
    tokens_are_known_by_their_hash_alone
    everybody_who_publishes_at_once_is_heard
    a_device_enrols_renews_and_is_revoked
    enrolment_tokens_end_by_time_by_use_and_by_removal
}

fn request(id: &str, urls: &[&str]) -> PublishRequest {
    let policy = ContentPolicy {
        content_id: id.parse().unwrap(),
        hash_of_hashes: [7; 32].into(),
        pieces_hash_file_cdn_urls: vec!["http://a/x.phf".parse().unwrap()],
        content_cdn_urls: Some(urls.iter().map(|url| url.parse().unwrap()).collect()),
        is_secure: false,
        is_internal: false,
        policies: Default::default(),
        rank: 0,
        publisher_signature: Some([9; 64]),
    };
    PublishRequest {
        policy,
        rollout: Rollout {
            percent: 20,
            groups: vec![[1; 32].into()],
            ..Rollout::default()
        },
        hash_file: Some("{}".to_owned()),
    }
}

async fn url_of(contents: &Contents, url: &str) -> Option<String> {
    let none = "nobody".parse().unwrap();
    let found = contents.find(&none, Some(url)).await.unwrap();
    found.map(|found| found.policy.content_id.to_string())
}

async fn contents_are_found_by_id_and_by_url_after_a_restart_too(stores: &Stores) {
    let asked = request("one", &["HTTP://A:80/x/../1?token=5", "http://b/1"]);
    let id: ContentId = "one".parse().unwrap();
    {
        let contents = stores.open().await;
        contents
            .publish(asked.clone(), "ci".to_owned(), 5)
            .await
            .unwrap();
    }
    let contents = stores.open().await;
    let found = contents.find(&id, None).await.unwrap().unwrap();
    assert_eq!((found.policy, found.rollout), (asked.policy, asked.rollout));
    assert_eq!(
        url_of(&contents, "http://a/1").await.as_deref(),
        Some("one")
    );
    assert_eq!(url_of(&contents, "http://a/2").await, None);
    assert_eq!(contents.hash_file(&id).await.unwrap().unwrap(), b"{}");
    // Published anew: what it was known by before is forgotten.
    contents
        .publish(request("one", &["http://c/1"]), "ci".to_owned(), 6)
        .await
        .unwrap();
    assert_eq!(url_of(&contents, "http://a/1").await, None);
    assert_eq!(
        url_of(&contents, "http://c/1").await.as_deref(),
        Some("one")
    );
    assert_eq!(contents.count().await.unwrap(), 1);
}

async fn a_revoked_content_stays_known_as_such(stores: &Stores) {
    let contents = stores.open().await;
    let id: ContentId = "one".parse().unwrap();
    contents
        .publish(request("one", &[]), "ci".to_owned(), 5)
        .await
        .unwrap();
    assert!(contents.revoke("one").await.unwrap());
    assert!(!contents.revoke("two").await.unwrap());
    assert!(
        contents
            .find(&id, None)
            .await
            .unwrap()
            .unwrap()
            .rollout
            .revoked
    );
    assert_eq!(contents.hash_file(&id).await.unwrap(), None);
    let latest = contents.latest(5).await.unwrap();
    assert_eq!(
        (
            latest[0].revoked,
            latest[0].percent,
            latest[0].publisher.as_str()
        ),
        (true, 20, "ci")
    );
}

async fn tokens_are_known_by_their_hash_alone(stores: &Stores) {
    let contents = stores.open().await;
    let token = contents.add_token("ci", 5).await.unwrap();
    assert!(token.starts_with(TOKEN_PREFIX) && token.len() == 49);
    assert_eq!(
        contents.token_name(&token).await.unwrap().as_deref(),
        Some("ci")
    );
    assert_eq!(contents.token_name("dosvc_x").await.unwrap(), None);
    for bad in ["ci", "", "a\nb"] {
        assert!(
            matches!(
                contents.add_token(bad, 5).await,
                Err(StoreError::Refused(_))
            ),
            "{bad}"
        );
    }
    assert!(!stores.holds(&token), "the secret is not written");
    assert!(contents.remove_token("ci").await.unwrap());
    assert_eq!(contents.token_name(&token).await.unwrap(), None);
    assert!(contents.tokens().await.unwrap().is_empty());
}

async fn a_device_enrols_renews_and_is_revoked(stores: &Stores) {
    devices::a_device_enrols_renews_and_is_revoked(&stores.open().await).await;
}

async fn enrolment_tokens_end_by_time_by_use_and_by_removal(stores: &Stores) {
    devices::enrolment_tokens_end_by_time_by_use_and_by_removal(&stores.open().await).await;
}

async fn everybody_who_publishes_at_once_is_heard(stores: &Stores) {
    // Two processes.
    let (here, there) = (stores.open().await, stores.open().await);
    let publishing = (0..40).map(|number| {
        let contents = if number % 2 == 0 {
            here.clone()
        } else {
            there.clone()
        };
        tokio::spawn(async move {
            // Every content is published twice, and all of them claim the same URL.
            let asked = request(&format!("content {}", number / 2), &["http://a/1"]);
            contents.publish(asked, format!("{number}"), number).await
        })
    });
    for published in publishing.collect::<Vec<_>>() {
        published.await.unwrap().unwrap();
    }
    assert_eq!(here.count().await.unwrap(), 20);
    assert_eq!(
        there.latest(50).await.unwrap(),
        here.latest(50).await.unwrap()
    );
    assert!(url_of(&there, "http://a/1").await.is_some());
    let adding = (0..20).map(|number| {
        let contents = if number % 2 == 0 {
            here.clone()
        } else {
            there.clone()
        };
        tokio::spawn(async move { contents.add_token("ci", 5).await })
    });
    let mut made = 0;
    for token in adding.collect::<Vec<_>>() {
        made += usize::from(token.await.unwrap().is_ok());
    }
    assert_eq!(made, 1, "a name is given once");
}

#[tokio::test]
#[ignore = "needs PostgreSQL's programs"]
async fn postgres_may_go_and_come_back() {
    let mut server = Server::start();
    let contents = Contents::of(&server.config("dosvc")).await.unwrap();
    let asked = request("one", &["http://a/1"]);
    contents.publish(asked, "ci".to_owned(), 5).await.unwrap();
    server.kill();
    for _ in 0..20 {
        let began = Instant::now();
        let error = contents.count().await.unwrap_err();
        assert!(matches!(error, StoreError::OutOfReach(_)), "{error}");
        assert!(began.elapsed() < Duration::from_secs(3));
    }
    server.restart();
    let began = Instant::now();
    while contents.check().await.is_err() {
        assert!(began.elapsed() < PATIENCE, "it is found again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        url_of(&contents, "http://a/1").await.as_deref(),
        Some("one")
    );
    // A restart between two requests costs none of them anything.
    server.kill();
    server.restart();
    contents.0.age_connections();
    assert_eq!(contents.count().await.unwrap(), 1);
}

#[tokio::test]
#[ignore = "needs PostgreSQL's programs"]
async fn postgres_that_can_never_do_is_told_apart_from_one_that_is_away() {
    let server = Server::start();
    let why = async |config: ControlPlaneConfig| {
        let contents = Contents::of(&config).await.unwrap();
        contents.check().await.unwrap_err()
    };
    let missing = why(server.config("nothing")).await;
    assert!(
        matches!(&missing, StoreError::Postgres(why) if why.contains("\"nothing\" does not exist")),
        "{missing}"
    );
    let mut away = server.config("dosvc");
    away.postgres.url = Some("postgresql://dosvc@%2Fnonexistent/dosvc".parse().unwrap());
    let error = why(away).await;
    assert!(
        matches!(&error, StoreError::OutOfReach(why) if why.contains("nonexistent")),
        "{error}"
    );
    let stores = Stores::Server(server);
    drop(stores.open().await);
    let Stores::Server(server) = stores else {
        unreachable!()
    };
    assert!(
        server
            .psql("INSERT INTO schema_version VALUES (99)")
            .status
            .success()
    );
    assert!(matches!(
        why(server.config("dosvc")).await,
        StoreError::Newer
    ));
}

#[tokio::test]
#[ignore = "needs PostgreSQL's programs"]
async fn postgres_is_spoken_with_by_tls_if_its_certificate_is_trusted() {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let server = Server::start_with(|folder| {
        let [certificate, key] = ["cert.pem", "key.pem"].map(|name| folder.join(name));
        ours.sign("localhost", &certificate, &key);
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&key, private).unwrap();
        let set = |name: &str, value: &str| ["-c".to_owned(), format!("{name}={value}")];
        [
            set("listen_addresses", "127.0.0.1"),
            set("port", &port.to_string()),
            set("ssl", "on"),
            set("ssl_cert_file", certificate.to_str().unwrap()),
            set("ssl_key_file", key.to_str().unwrap()),
        ]
        .concat()
    });
    let check = async |host: &str, mode: &str, ca_file: Option<PathBuf>| {
        let mut config = server.config("dosvc");
        let url = format!("postgresql://dosvc@{host}:{port}/dosvc{mode}");
        config.postgres.url = Some(url.parse().unwrap());
        config.postgres.ca_file = ca_file;
        let contents = Contents::of(&config).await.unwrap();
        contents.check().await.map(|()| contents)
    };
    for mode in ["", "?sslmode=require", "?sslmode=verify-full"] {
        let contents = check("localhost", mode, Some(ours.file())).await.unwrap();
        assert_eq!(contents.count().await.unwrap(), 0, "{mode}");
    }
    let tls = "SELECT count(*) > 0 FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE ssl AND usename = 'dosvc'";
    let open = check("localhost", "", Some(ours.file())).await.unwrap();
    assert_eq!(server.psql(tls).stdout, b"t\n");
    drop(open);
    let required = "?sslmode=verify-full";
    for (host, mode, ca_file, reason) in [
        ("localhost", required, Some(others.file()), "UnknownIssuer"),
        ("localhost", "", Some(others.file()), "UnknownIssuer"),
        ("localhost", required, None, "UnknownIssuer"),
        (
            "127.0.0.1",
            required,
            Some(ours.file()),
            "not valid for name",
        ),
        ("localhost", "", Some("/nonexistent".into()), "No such file"),
    ] {
        let error = check(host, mode, ca_file).await.unwrap_err();
        assert!(
            matches!(&error, StoreError::Postgres(why) if why.contains(reason)),
            "{reason}: {error}"
        );
    }
}

#[test]
fn addresses_of_postgres_have_no_password_in_them() {
    use crate::PostgresUrl;
    let good = "postgresql://dosvc@db1.example:5433,db2.example/do?target_session_attrs=read-write";
    assert_eq!(good.parse::<PostgresUrl>().unwrap().to_string(), good);
    let checked = "postgresql://u@h/db?sslmode=verify-full&target_session_attrs=read-write";
    assert_eq!(checked.parse::<PostgresUrl>().unwrap().to_string(), checked);
    for bad in [
        "postgresql://u@h/db?sslmode=verify-fully",
        "postgresql://u:secret@host/db",
        "host=x user=y",
        "postgresql:///db",
        "postgresql://host/db",
        "mysql://u@h/db",
        "",
    ] {
        assert!(bad.parse::<PostgresUrl>().is_err(), "{bad}");
    }
}
