//! Control planes in front of one Redis: processes and primaries that die, and what peers notice of it.

use crate::{
    authority::Authority,
    server::{Redis, free_port, until},
};
use dosvc_cloud_protocol::{JoinAnswer, JoinRequest, JoinToken, Scope};
use dosvc_control_plane::{
    ControlPlane, ControlPlaneConfig,
    array::ArrayLimits,
    remote::{RedisArray, RedisConfig},
};
use reqwest::{StatusCode, header::RETRY_AFTER};
use std::{
    fs,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

struct Plane {
    plane: ControlPlane,
    _folder: TempDir,
}

async fn try_plane(redis: RedisConfig) -> Result<Plane, String> {
    let folder = tempfile::tempdir().unwrap();
    let starting = ControlPlane::start(ControlPlaneConfig {
        listen: vec![([127, 0, 0, 1], 0).into()],
        admin_listen: None,
        state_dir: folder.path().to_owned(),
        redis,
        ..ControlPlaneConfig::default()
    });
    Ok(Plane {
        plane: starting.await.map_err(|error| error.to_string())?,
        _folder: folder,
    })
}

fn redis(servers: &[&Redis]) -> RedisConfig {
    RedisConfig {
        servers: servers.iter().map(|s| s.url().parse().unwrap()).collect(),
        ..RedisConfig::default()
    }
}

impl Plane {
    async fn of(servers: &[&Redis]) -> Self {
        try_plane(redis(servers)).await.unwrap()
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.plane.listening()[0])
    }

    /// What a peer is answered, or the status and when to come back.
    async fn join(
        &self,
        number: u8,
        token: Option<JoinToken>,
    ) -> Result<JoinAnswer, (StatusCode, Option<u64>)> {
        let mut join = JoinRequest::new("x".parse().unwrap(), [number; 20].into(), Scope::Lan);
        join.left = 1;
        join.token = token;
        join.reported_ip = Some([10, 0, 0, number].into());
        let asking = reqwest::Client::new().post(self.url("/array/join/"));
        let answer = asking.body(join.to_json()).send().await.unwrap();
        let retry = answer.headers().get(RETRY_AFTER);
        let retry = retry.map(|value| value.to_str().unwrap().parse().unwrap());
        match answer.status() {
            StatusCode::OK => Ok(JoinAnswer::from_json(&answer.bytes().await.unwrap()).unwrap()),
            status => Err((status, retry)),
        }
    }

    /// Joins until it is answered: what a peer does that comes back.
    async fn join_at_last(&self, number: u8, token: Option<JoinToken>) -> JoinAnswer {
        let began = Instant::now();
        loop {
            match self.join(number, token).await {
                Ok(answer) => return answer,
                Err(refused) => assert!(began.elapsed().as_secs() < 30, "{refused:?}"),
            }
        }
    }

    async fn is_ready(&self) -> bool {
        let answer = reqwest::get(self.url("/readyz")).await.unwrap();
        answer.status().is_success()
    }

    /// A join is refused soon, with a time to come back at.
    async fn refuses(&self) {
        let began = Instant::now();
        let (status, retry) = self.join(200, None).await.unwrap_err();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        let retry = retry.expect("when to come back");
        assert!((10..=40).contains(&retry), "{retry}");
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "the wait is bounded"
        );
    }
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn processes_share_their_swarms_and_one_may_die() {
    let server = Redis::start(&[]);
    let (first, second) = (Plane::of(&[&server]).await, Plane::of(&[&server]).await);
    let token = first.join(1, None).await.unwrap().token;
    assert_eq!(second.join(2, None).await.unwrap().peers.len(), 1);
    first.plane.stop().await;
    let again = second.join(1, token).await.unwrap();
    assert_eq!((again.token, again.peers.len()), (token, 1));
    // Nobody else may say so in the second process either.
    let stolen = second.join(1, Some(JoinToken(7))).await.unwrap();
    assert_eq!(stolen.token, None);
    second.plane.stop().await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_killed_primary_costs_peers_a_late_join() {
    let mut server = Redis::start(&[]);
    let plane = Plane::of(&[&server]).await;
    let token = plane.join(1, None).await.unwrap().token;
    assert!(plane.is_ready().await);
    server.kill();
    plane.refuses().await;
    assert!(!plane.is_ready().await, "balancers send peers elsewhere");
    server.restart();
    // It has forgotten everybody: whoever comes back is listed, under a token of its own again.
    let back = plane.join_at_last(1, token).await;
    assert!(back.token.is_some() && back.peers.is_empty());
    assert_eq!(plane.join(2, None).await.unwrap().peers.len(), 1);
    assert!(plane.is_ready().await);
    plane.plane.stop().await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_promoted_replica_has_the_swarms_of_the_killed_primary() {
    let mut primary = Redis::start_on_tcp(&[]);
    let replica = Redis::start_on_tcp(&["--replicaof", "127.0.0.1", &primary.port()]);
    let plane = Plane::of(&[&primary, &replica]).await;
    let mut tokens = Vec::new();
    for number in 1..=5 {
        tokens.push(plane.join(number, None).await.unwrap().token);
    }
    let everybody = |of: &Redis| of.cli(&["hlen", "dosvc:record:x"]) == "5";
    until("the replica has everybody", || everybody(&replica));
    primary.kill();
    plane.refuses().await;
    replica.cli(&["replicaof", "no", "one"]);
    let back = plane.join_at_last(1, tokens[0]).await;
    assert_eq!((back.token, back.peers.len()), (tokens[0], 4));
    // The old primary comes back, knows nobody, and says that it is the primary: nobody believes it.
    primary.restart();
    let late = Plane::of(&[&primary, &replica]).await;
    for (plane, number) in [(&plane, 2), (&late, 3)] {
        let token = tokens[usize::from(number) - 1];
        let answer = plane.join(number, token).await.unwrap();
        assert_eq!((answer.token, answer.peers.len()), (token, 4));
    }
    plane.plane.stop().await;
    late.plane.stop().await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn sentinel_says_where_the_primary_is_now() {
    let mut primary = Redis::start_on_tcp(&[]);
    let replica = Redis::start_on_tcp(&["--replicaof", "127.0.0.1", &primary.port()]);
    let sentinel = Redis::sentinel("swarms", &primary);
    until("the Sentinel knows the replica", || {
        sentinel
            .cli(&["sentinel", "replicas", "swarms"])
            .contains(&replica.port())
    });
    let config = |name: &str| RedisConfig {
        sentinel: Some(name.to_owned()),
        ..redis(&[&sentinel])
    };
    let lost = try_plane(config("others")).await.unwrap();
    lost.refuses().await;
    lost.plane.stop().await;

    let plane = try_plane(config("swarms")).await.unwrap();
    let token = plane.join(1, None).await.unwrap().token;
    let known = || replica.cli(&["hlen", "dosvc:record:x"]) == "1";
    until("the replica knows the peer", known);
    primary.kill();
    let back = plane.join_at_last(1, token).await;
    assert_eq!(back.token, token);
    plane.plane.stop().await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_store_that_does_not_answer_is_not_waited_for() {
    let server = Redis::start(&[]);
    let plane = Plane::of(&[&server]).await;
    plane.join(1, None).await.unwrap();
    server.cli(&["client", "pause", "6000"]);
    plane.refuses().await;
    plane.join_at_last(1, None).await;
    plane.plane.stop().await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_store_that_comes_later_is_found() {
    let mut server = Redis::start(&[]);
    server.kill();
    let plane = Plane::of(&[&server]).await;
    plane.refuses().await;
    server.restart();
    plane.join_at_last(1, None).await;
    plane.plane.stop().await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_store_that_can_never_do_is_said_at_the_start() {
    let guarded = Redis::start(&["--requirepass", "open sesame"]);
    let why = async |config| try_plane(config).await.map(|_| ()).unwrap_err();
    let error = why(redis(&[&guarded])).await;
    assert!(
        error.contains("NOAUTH") && error.contains("unix:///"),
        "{error}"
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    let with_password = || RedisConfig {
        password_file: Some(file.clone()),
        ..redis(&[&guarded])
    };
    fs::write(&file, "wrong\n").unwrap();
    let error = why(with_password()).await;
    assert!(
        error.contains("WRONGPASS") || error.contains("uthentication"),
        "{error}"
    );
    assert!(!error.contains("wrong\n"), "{error}");
    fs::write(&file, "open sesame\n").unwrap();
    let plane = try_plane(with_password()).await.unwrap();
    plane.join(1, None).await.unwrap();
    plane.plane.stop().await;

    let cluster = Redis::start(&["--cluster-enabled", "yes"]);
    let error = why(redis(&[&cluster])).await;
    assert!(error.contains("cluster mode"), "{error}");
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn tls_is_spoken_with_a_server_whose_certificate_is_trusted_alone() {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let folder = tempfile::tempdir().unwrap();
    let [certificate, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
    ours.sign("localhost", &certificate, &key);
    let port = free_port();
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let _server = Redis::start(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &text(&certificate),
        "--tls-key-file",
        &text(&key),
        "--tls-ca-cert-file",
        &text(&ours.file()),
        "--tls-auth-clients",
        "no",
    ]);
    let config = |host: &str, ca_file: Option<std::path::PathBuf>| RedisConfig {
        servers: vec![format!("rediss://{host}:{port}").parse().unwrap()],
        ca_file,
        ..RedisConfig::default()
    };
    let plane = try_plane(config("localhost", Some(ours.file()))).await;
    let plane = plane.unwrap();
    assert!(plane.join(1, None).await.unwrap().token.is_some());
    plane.plane.stop().await;

    let why = async |config| try_plane(config).await.map(|_| ()).unwrap_err();
    // Another authority's, the system's, another name, and a file that is none.
    for (config, reason) in [
        (config("localhost", Some(others.file())), "UnknownIssuer"),
        (config("localhost", None), "UnknownIssuer"),
        (config("127.0.0.1", Some(ours.file())), "not valid for name"),
        (config("localhost", Some(key.clone())), "no certificate"),
        (
            config("localhost", Some("/nonexistent".into())),
            "No such file",
        ),
    ] {
        let error = why(config).await;
        assert!(
            error.contains(reason) && error.contains("rediss://"),
            "{reason}: {error}"
        );
    }
}

/// The commands that docs/control-plane.md says an ACL needs.
const COMMANDS: &str = "eval evalsha script hget hset hdel hmget hincrby exists zadd zrem zincrby zcard zscore zrange zrevrange zrangebyscore zlexcount role info ping select";

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_user_with_few_rights_is_enough() {
    let server = Redis::start_on_tcp(&[]);
    let mut acl = vec!["acl", "setuser", "do", "on", ">pw", "~dosvc:*"];
    let commands: Vec<_> = COMMANDS.split(' ').map(|c| format!("+{c}")).collect();
    acl.extend(commands.iter().map(String::as_str));
    assert_eq!(server.cli(&acl), "OK");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    fs::write(&file, "pw").unwrap();
    let url = server.url().replace("redis://", "redis://do@") + "/3";
    let config = RedisConfig {
        servers: vec![url.parse().unwrap()],
        password_file: Some(file),
        ..RedisConfig::default()
    };
    let plane = try_plane(config.clone()).await.unwrap();
    let mut token = None;
    for number in [1, 2, 1] {
        token = plane.join(number, token).await.unwrap().token;
    }
    plane.plane.stop().await;
    let stop = CancellationToken::new();
    let array = RedisArray::open(&config, ArrayLimits::default(), stop);
    let array = array.await.unwrap();
    assert_eq!(array.stats().await.unwrap().entries, 2);
    assert_eq!(array.largest_swarms(5).await.unwrap().len(), 1);
    assert!(array.largest_groups(5).await.unwrap().is_empty());
    array.expire(u32::MAX).await.unwrap();
    assert_eq!(array.stats().await.unwrap().entries, 0);
}
