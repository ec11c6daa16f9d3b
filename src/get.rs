//! `dosvc get`: one download, watched to its end, its file put in place with the caller's own rights.

mod destination;
pub(crate) mod progress;
pub(crate) mod service;
pub(crate) mod summary;

use crate::{
    Interrupted, Usage,
    cli::{GetArgs, Global},
    show,
};
use anyhow::{Context as _, bail};
use destination::Destination;
use dosvc_content::PiecesHashFile;
use dosvc_engine::api::{GetRequest, JobId, JobState, JobStatus};
use dosvc_piece_store::Durability;
use progress::Progress;
use service::{Service, Update};
use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};
use summary::Summary;
use tokio::signal::unix::{SignalKind, signal};

/// Largest hash file that is read: 2^24 pieces, 47 bytes each, and some air.
const HASH_FILE_BYTES_MAX: u64 = 900 << 20;
/// What asks, in status.
const CALLER: &str = "dosvc get";

/// Runs the command.
pub(crate) async fn run(global: &Global, args: GetArgs) -> anyhow::Result<()> {
    let GetArgs {
        urls,
        output,
        hash_file,
        hash_of_hashes,
        content_id,
        foreground,
        mode,
        sync,
        peers,
        json,
        quiet,
    } = args;
    let output = match output {
        Some(output) => output,
        None => default_output(&urls)?,
    };
    let destination = Destination::check(&output)?;
    let (hash_file_url, hash_file) = match hash_file {
        Some(url) if url.starts_with("http://") || url.starts_with("https://") => (Some(url), None),
        Some(path) => (None, Some(read_hash_file(Path::new(&path))?)),
        None => (None, None),
    };
    if let (Some(file), Some(trusted)) = (&hash_file, &hash_of_hashes) {
        file.clone()
            .expect(trusted)
            .context("check --hash-file against --hash-of-hashes")?;
    }
    let request = GetRequest {
        urls,
        hash_file_url,
        hash_file_json: hash_file
            .as_ref()
            .map(|file| String::from_utf8(file.to_json()).context("write the hash file as JSON"))
            .transpose()?,
        hash_of_hashes: hash_of_hashes.map(|hash| hash.to_string()),
        content_id: content_id.map(|id| id.as_str().to_owned()),
        foreground,
        mode: mode.map(dosvc_content::DownloadMode::number),
        peers,
        caller: CALLER.into(),
    };
    let name = destination
        .path()
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let service = Service::open(global, json || quiet).await?;
    let durability = if sync {
        Durability::Now
    } else {
        Durability::Later
    };
    let mut progress = Progress::new(&name, json, quiet);
    let done = fetch(&service, &request, &destination, durability, &mut progress).await;
    progress.finish();
    service.close().await;
    let summary = done?;
    if json {
        show::json(&summary)?;
    } else if !quiet {
        show::line(summary.text())?;
    }
    Ok(())
}

/// The last part of the first URL, in this folder.
fn default_output(urls: &[String]) -> anyhow::Result<PathBuf> {
    let name = urls.first().and_then(|url| show::name_of_url(url));
    name.map(PathBuf::from).ok_or_else(|| {
        Usage("the URL ends without a file name; say where the file goes with -o FILE".into())
            .into()
    })
}

/// Reads and checks a local hash file.
pub(crate) fn read_hash_file(path: &Path) -> anyhow::Result<PiecesHashFile> {
    let read = || -> anyhow::Result<PiecesHashFile> {
        let mut json = Vec::new();
        File::open(path)?
            .take(HASH_FILE_BYTES_MAX)
            .read_to_end(&mut json)?;
        Ok(PiecesHashFile::from_json(&json)?)
    };
    read().with_context(|| format!("read the hash file {}", path.display()))
}

/// From the request to the file at its destination.
async fn fetch(
    service: &Service,
    request: &GetRequest,
    destination: &Destination,
    durability: Durability,
    progress: &mut Progress,
) -> anyhow::Result<Summary> {
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let mut id = service.begin(request).await?;
    let interrupted = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let done = async {
        let status = watch(service, request, &mut id, progress).await?;
        progress.waiting("placing the file");
        place(service, status, destination, durability).await
    };
    tokio::select! {
        summary = done => summary,
        () = interrupted => {
            tokio::spawn(async move {
                interrupt.recv().await;
                std::process::exit(Interrupted::EXIT_CODE.into());
            });
            Err(leave(service, id).await)
        }
    }
}

/// Puts a complete download's file at its destination.
async fn place(
    service: &Service,
    status: JobStatus,
    destination: &Destination,
    durability: Durability,
) -> anyhow::Result<Summary> {
    let (file, length) = service.take_file(status.id).await?;
    let path = destination.path().to_owned();
    // The file was verified whole before it was given out, and cannot be changed by anyone but the cache's owner.
    let delivered = tokio::task::spawn_blocking(move || {
        dosvc_piece_store::place(&file, length, None, &path, durability, &mut |_| {})
    })
    .await
    .context("place the file")??;
    // The file is there: a daemon that keeps the download in its list a little longer is no failure.
    let _ = service.release(status.id).await;
    Ok(Summary {
        status,
        path: destination.path().to_owned(),
        placed: summary::placed(delivered.method),
    })
}

/// Watches a download until it is complete; anything else that ends it is an error.
async fn watch(
    service: &Service,
    request: &GetRequest,
    id: &mut JobId,
    progress: &mut Progress,
) -> anyhow::Result<JobStatus> {
    let mut updates = service.updates(*id)?;
    loop {
        let status = match updates.next().await? {
            Update::Status(status) => *status,
            Update::Silence => {
                progress.waiting("waiting: the daemon does not answer");
                continue;
            }
            Update::Forgotten => {
                // What was fetched is in the daemon's cache: asking again goes on with it.
                *id = service.begin(request).await?;
                updates = service.updates(*id)?;
                continue;
            }
        };
        progress.update(&status)?;
        match status.state {
            JobState::Complete => return Ok(status),
            JobState::Failed => {
                let error = status
                    .error
                    .context("the download failed, and nobody says why")?;
                return Err(service::job_error(error));
            }
            JobState::Cancelled => bail!("the download was cancelled"),
            JobState::Queued | JobState::Metadata | JobState::Downloading | JobState::Paused => {}
        }
    }
}

/// Leaves a state that the same command goes on with. A download that cannot be paused is over, or its daemon is; what
/// was fetched is in the cache either way.
async fn leave(service: &Service, id: JobId) -> anyhow::Error {
    let _ = service.pause(id).await;
    Interrupted("interrupted; the same command goes on where this one stopped".into()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_defaults_to_the_name_in_the_url() {
        assert_eq!(
            default_output(&["https://h/a/b.iso?t=1".into()]).unwrap(),
            Path::new("b.iso")
        );
        assert!(
            default_output(&["https://h/".into()])
                .unwrap_err()
                .is::<Usage>()
        );
    }

    #[test]
    fn a_broken_hash_file_is_refused_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.phf");
        std::fs::write(&path, "{}").unwrap();
        assert!(format!("{:#}", read_hash_file(&path).unwrap_err()).contains("x.phf"));
    }
}
