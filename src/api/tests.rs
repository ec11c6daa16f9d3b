//! Server and client against each other, over a real socket, with an engine that does what the test says.

use super::{router, socket::ApiSocket};
use crate::{
    client::{Client, ClientError},
    config::{Config, LoadOptions},
    control::Control,
    local::fake::{Engine, content},
};
use dosvc_content::{DownloadMode, HashFileBuilder, PieceHash, PieceLengths};
use dosvc_engine::api::{GetRequest, ImportRequest, JobId, JobState, JobStatus};
use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

struct Rig {
    client: Client,
    socket: PathBuf,
    stop: CancellationToken,
    server: JoinHandle<()>,
    folder: TempDir,
}

impl Rig {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("api.sock");
        let config = Config::load(LoadOptions::default()).unwrap();
        let engine = Engine::start(&config).await;
        let control = Arc::new(Control::new(engine, config));
        let stop = CancellationToken::new();
        let api = ApiSocket::bind(&socket, None).unwrap();
        let server = tokio::spawn(api.serve(router(control), stop.clone()));
        Self {
            client: Client::new(&socket),
            socket,
            stop,
            server,
            folder,
        }
    }

    async fn begin(&self, url: &str) -> JobId {
        let request = GetRequest {
            urls: vec![url.into()],
            ..GetRequest::default()
        };
        self.client.get(&request).await.unwrap()
    }

    async fn finish(&self, id: JobId) -> JobStatus {
        loop {
            let status = self
                .client
                .download(id, Duration::ZERO, Duration::from_secs(5))
                .await
                .unwrap();
            if status.state.is_final() {
                return status;
            }
        }
    }

    /// A file with known content, and its hash file.
    fn file(&self, bytes: usize) -> (PathBuf, String) {
        let path = self.folder.path().join("file");
        let content = content(bytes);
        std::fs::write(&path, &content).unwrap();
        let lengths = PieceLengths::new(bytes as u64, 64 << 10).unwrap();
        let mut builder = HashFileBuilder::new(lengths);
        content
            .chunks(64 << 10)
            .for_each(|piece| builder.push(PieceHash::of(piece)));
        (
            path,
            String::from_utf8(builder.finish().unwrap().to_json()).unwrap(),
        )
    }

    /// One request as bytes; the whole answer as text.
    async fn raw(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // The server closes before it has read all of a request that it refuses; what it said counts.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }
}

fn refusal(error: ClientError) -> String {
    match error {
        ClientError::Refused(error) => error.code,
        other => panic!("not refused: {other}"),
    }
}

#[tokio::test]
async fn a_download_runs_to_its_end_and_its_file_is_handed_over() {
    let rig = Rig::new().await;
    let id = rig.begin("fake:300000").await;
    let status = rig.finish(id).await;
    assert_eq!(
        (status.state, status.bytes_done),
        (JobState::Complete, 300_000)
    );
    let (mut file, length) = rig.client.take_file(id).await.unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(length, 300_000);
    assert!(bytes == content(300_000));
    rig.client.steer(id, "release").await.unwrap();
    assert!(rig.client.downloads().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_file_that_is_not_complete_is_not_handed_over() {
    let rig = Rig::new().await;
    let id = rig.begin("fake:300000/stuck").await;
    assert_eq!(
        refusal(rig.client.take_file(id).await.unwrap_err()),
        "0x80D02013"
    );
    assert_eq!(
        refusal(rig.client.take_file(JobId(99)).await.unwrap_err()),
        "0x80D02003"
    );
}

#[tokio::test]
async fn long_poll_answers_when_the_download_changes() {
    let rig = Rig::new().await;
    let id = rig.begin("fake:1000/stuck").await;
    while rig
        .client
        .download(id, Duration::ZERO, Duration::ZERO)
        .await
        .unwrap()
        .waiting
        .is_none()
    {}
    let client = rig.client.clone();
    let poll = tokio::spawn(async move {
        client
            .download(id, Duration::ZERO, Duration::from_secs(30))
            .await
    });
    // Pausing and resuming until the poll has seen one of them: it may not have begun yet at first.
    while !poll.is_finished() {
        rig.client.steer(id, "pause").await.unwrap();
        tokio::task::yield_now().await;
        rig.client.steer(id, "resume").await.unwrap();
    }
    assert!(poll.await.unwrap().is_ok());
}

#[tokio::test]
async fn refusals_carry_code_message_and_a_fitting_status() {
    let rig = Rig::new().await;
    let none = rig.client.get(&GetRequest::default()).await.unwrap_err();
    assert_eq!(none.to_string(), "no address was given (0x80D02200)");
    assert_eq!(
        refusal(rig.client.steer(JobId(5), "pause").await.unwrap_err()),
        "0x80D02003"
    );
    for (request, status) in [
        ("GET /v1/nothing", 404),
        ("DELETE /v1/status", 405),
        ("GET /v1/downloads/x", 400),
        ("GET /v1/downloads/1?wait=x", 400),
        ("POST /v1/downloads/1/file", 400),
        ("POST /v1/downloads/1/explode", 404),
    ] {
        let answer = rig
            .raw(&format!(
                "{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
            ))
            .await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request}: {answer}"
        );
        assert!(
            answer.contains(r#"{"code":"0x80070057","message":""#),
            "{request}: {answer}"
        );
    }
}

#[tokio::test]
async fn unknown_fields_and_broken_bodies_are_refused() {
    let rig = Rig::new().await;
    for body in [r#"{"url":"x"}"#, "{", ""] {
        let length = body.len();
        let answer = rig
            .raw(&format!(
                "POST /v1/downloads HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
                 content-length: {length}\r\n\r\n{body}"
            ))
            .await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
        assert!(answer.contains(r#"{"code":"0x80070057""#), "{answer}");
    }
}

#[tokio::test]
async fn bodies_and_headers_are_bounded() {
    let rig = Rig::new().await;
    let answer = rig
        .raw(&format!(
            "PUT /v1/mode HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: 20000\r\n\r\n{}",
            " ".repeat(20_000)
        ))
        .await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let headers = (0..100)
        .map(|n| format!("x-{n}: y\r\n"))
        .collect::<String>();
    let answer = rig
        .raw(&format!("GET /v1/status HTTP/1.1\r\n{headers}\r\n"))
        .await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn a_callers_file_is_imported_and_steered() {
    let rig = Rig::new().await;
    let (path, hash_file_json) = rig.file(200_000);
    let import = ImportRequest {
        hash_file_json,
        urls: vec!["http://h/file".into()],
        link: false,
    };
    let entry = rig
        .client
        .import(&File::open(path).unwrap(), &import)
        .await
        .unwrap();
    assert_eq!((entry.file_size, entry.urls.len()), (200_000, 1));
    rig.client.pin(&entry.file_id, true).await.unwrap();
    assert!(rig.client.cache().await.unwrap()[0].is_pinned);
    assert_eq!(
        refusal(
            rig.client
                .delete(Some(&entry.file_id), false)
                .await
                .unwrap_err()
        ),
        "0x80D06819"
    );
    assert_eq!(rig.client.delete(None, false).await.unwrap(), 0);
    assert_eq!(
        rig.client.delete(Some(&entry.file_id), true).await.unwrap(),
        1
    );
    assert_eq!(
        refusal(rig.client.pin("00", false).await.unwrap_err()),
        "0x80070490"
    );
}

#[tokio::test]
async fn an_import_that_proves_no_right_to_read_is_refused() {
    let rig = Rig::new().await;
    let (path, hash_file_json) = rig.file(1000);
    let import = ImportRequest {
        hash_file_json,
        urls: Vec::new(),
        link: false,
    };
    let write_only = OpenOptions::new().write(true).open(path).unwrap();
    assert_eq!(
        refusal(rig.client.import(&write_only, &import).await.unwrap_err()),
        "0x80070057"
    );
    let folder = File::open(rig.folder.path()).unwrap();
    assert_eq!(
        refusal(rig.client.import(&folder, &import).await.unwrap_err()),
        "0x80070057"
    );
}

#[tokio::test]
async fn a_file_that_is_not_what_its_hash_file_says_is_refused() {
    let rig = Rig::new().await;
    let (path, hash_file_json) = rig.file(1000);
    OpenOptions::new()
        .append(true)
        .open(&path)
        .unwrap()
        .write_all(b"more")
        .unwrap();
    let import = ImportRequest {
        hash_file_json,
        urls: Vec::new(),
        link: false,
    };
    assert_eq!(
        refusal(
            rig.client
                .import(&File::open(path).unwrap(), &import)
                .await
                .unwrap_err()
        ),
        "0x80D06805"
    );
}

#[tokio::test]
async fn the_mode_is_set_and_shown() {
    let rig = Rig::new().await;
    rig.client.set_mode(DownloadMode::CdnOnly).await.unwrap();
    assert_eq!(rig.client.status().await.unwrap().download_mode, 0);
    rig.client.set_mode(DownloadMode::Lan).await.unwrap();
    assert_eq!(rig.client.status().await.unwrap().download_mode, 1);
    let settings = rig.client.settings().await.unwrap();
    let mode = settings
        .iter()
        .find(|setting| setting.name.ends_with("download_mode"))
        .unwrap();
    assert!(mode.value.as_deref() == Some("1 (Lan)"), "{mode:?}");
}

#[tokio::test]
async fn without_a_daemon_the_error_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let error = Client::new(folder.path().join("none"))
        .status()
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::NoDaemon(_)));
    assert!(error.to_string().contains("dosvc run"));
}

#[tokio::test]
async fn stopping_finishes_requests_under_way_and_takes_the_socket_away() {
    let rig = Rig::new().await;
    let id = rig.begin("fake:1000/stuck").await;
    let client = rig.client.clone();
    let poll = tokio::spawn(async move {
        client
            .download(id, Duration::ZERO, Duration::from_millis(300))
            .await
    });
    rig.client.status().await.unwrap();
    rig.stop.cancel();
    rig.server.await.unwrap();
    // Either it was answered, or the socket was gone before it was asked.
    assert!(matches!(
        poll.await.unwrap(),
        Ok(_) | Err(ClientError::NoDaemon(_))
    ));
    assert!(!rig.socket.exists());
}

#[tokio::test]
async fn explanation_of_a_download_comes_whole_and_of_nothing_is_refused() {
    let rig = Rig::new().await;
    let id = rig.begin("fake:1000/stuck").await;
    let explanation = rig.client.explain(&id.to_string()).await.unwrap();
    assert_eq!(explanation.download.unwrap().id, id);
    assert_eq!(explanation.sources.len(), 1);
    let error = rig.client.explain("77").await.unwrap_err();
    assert!(
        matches!(&error, ClientError::Refused(e) if e.message.contains("nothing is called")),
        "{error}"
    );
}
