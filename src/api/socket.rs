//! The Unix socket: who may use it, and the bounded accept loop.
//!
//! The socket never exists under its name with wider permissions than it shall have: it is made in a private folder
//! beside, given its mode and group, and renamed into place. That also replaces a stale one atomically.

use anyhow::{Context as _, bail};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown},
        net::UnixStream as BlockingStream,
    },
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Connections at one time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 128;
/// Headers of one request.
const HEADERS_MAX: usize = 32;
/// Bytes of buffer a connection may take, headers included.
const BUFFER_BYTES_MAX: usize = 32 << 10;
/// Time for a request's headers to arrive; an idle connection is closed after it.
const HEADER_TIME_MAX: Duration = Duration::from_secs(10);
/// Bytes of a socket's path that the kernel takes (108 with the NUL); the private folder's name needs some of them.
const PATH_BYTES_MAX: usize = 107;

/// The listening socket; its file goes when this is dropped, unless another daemon has replaced it.
pub(crate) struct ApiSocket {
    listener: UnixListener,
    path: PathBuf,
    identity: (u64, u64),
}

impl ApiSocket {
    /// Binds the socket: mode 0600, or 0660 with `group`.
    ///
    /// # Errors
    /// When a live daemon answers there, the path is something else than a socket, or it cannot be made.
    pub(crate) fn bind(path: &Path, group: Option<&str>) -> anyhow::Result<Self> {
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        make_folder(folder, group.is_some())?;
        refuse_live(path)?;
        let private = tempfile_in(folder)?;
        let bound = bind_private(&private.join("s"), path, group);
        // Empty after the rename; after an error it may still hold the socket.
        let _ = fs::remove_dir_all(&private);
        let listener = bound?;
        let metadata =
            fs::symlink_metadata(path).with_context(|| format!("look at {}", path.display()))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            identity: (metadata.dev(), metadata.ino()),
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Serves until `stop`; then requests under way are finished, for as long as the caller lets this run.
    pub(crate) async fn serve(self, router: Router, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let connections = TaskTracker::new();
        loop {
            let next = async {
                let place = places
                    .clone()
                    .acquire_owned()
                    .await
                    .expect("the semaphore is never closed");
                (self.listener.accept().await, place)
            };
            let (accepted, place) = tokio::select! {
                next = next => next,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (router, stop) = (router.clone(), stop.clone());
                    connections.spawn(async move {
                        let _place = place;
                        serve_connection(stream, router, stop).await;
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: give others time to free some.
                    tracing::warn!(%error, "local API cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        connections.close();
        connections.wait().await;
    }
}

impl Drop for ApiSocket {
    fn drop(&mut self) {
        let ours =
            fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.identity);
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

async fn serve_connection(stream: UnixStream, router: Router, stop: CancellationToken) {
    if let Ok(peer) = stream.peer_cred() {
        tracing::debug!(
            uid = peer.uid(),
            gid = peer.gid(),
            pid = peer.pid(),
            "local API connection"
        );
    }
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME_MAX)
        .max_headers(HEADERS_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades();
    let mut connection = pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "local API connection ended");
    }
}

/// Makes the socket's folder if it is missing: open to look into when a group is to reach the socket.
fn make_folder(folder: &Path, for_group: bool) -> anyhow::Result<()> {
    let root = rustix::process::geteuid().is_root();
    let mode = if root || for_group { 0o755 } else { 0o700 };
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(folder)
        .with_context(|| {
            format!(
                "make the folder {} for the local API's socket",
                folder.display()
            )
        })
}

/// Leaves a stale socket to be replaced; anything that lives or is no socket stays.
fn refuse_live(path: &Path) -> anyhow::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("look at {}", path.display())),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            bail!(
                "{} exists and is no socket; name another api_socket or move it away",
                path.display()
            )
        }
        Ok(_) => {}
    }
    match BlockingStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(socket = %path.display(), "replacing a stale socket");
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error)
            .with_context(|| format!("find out whether a daemon answers at {}", path.display())),
        Ok(_) => bail!(
            "a daemon already answers at {}; stop it first, or give this one another api_socket and state_dir",
            path.display()
        ),
    }
}

/// A new folder that only we can enter.
fn tempfile_in(folder: &Path) -> anyhow::Result<PathBuf> {
    let path = folder.join(format!(".{}", std::process::id()));
    match DirBuilder::new().mode(0o700).create(&path) {
        // Left behind by a process with our id that died between two steps.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_dir_all(&path)
                .and_then(|()| DirBuilder::new().mode(0o700).create(&path))
                .with_context(|| format!("make {} anew", path.display()))?;
        }
        made => made.with_context(|| format!("make a folder in {}", folder.display()))?,
    }
    Ok(path)
}

fn bind_private(private: &Path, path: &Path, group: Option<&str>) -> anyhow::Result<UnixListener> {
    for path in [private, path] {
        let bytes = path.as_os_str().len();
        if bytes > PATH_BYTES_MAX {
            bail!(
                "the path {} has {bytes} bytes, the kernel takes {PATH_BYTES_MAX} for a socket; choose a shorter api_socket",
                path.display()
            );
        }
    }
    let listener = UnixListener::bind(private)
        .with_context(|| format!("make the socket {}", path.display()))?;
    let mode = match group {
        None => 0o600,
        Some(group) => {
            let gid = group_id(group)?;
            chown(private, None, Some(gid)).with_context(|| {
                format!("give the socket to the group {group} (api_group); the daemon must be root or a member of it")
            })?;
            0o660
        }
    };
    fs::set_permissions(private, Permissions::from_mode(mode)).context("set the socket's mode")?;
    fs::rename(private, path).with_context(|| format!("put the socket at {}", path.display()))?;
    Ok(listener)
}

/// A group's number, from /etc/group; a number stands for itself.
fn group_id(name: &str) -> anyhow::Result<u32> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let text = fs::read_to_string("/etc/group").context("read /etc/group to find api_group")?;
    parse_group(&text, name).with_context(|| {
        format!("there is no group {name} (api_group) in /etc/group; name another, or its number")
    })
}

/// `name:password:gid:members`
fn parse_group(text: &str, name: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name)
            .then(|| fields.nth(1))??
            .parse()
            .ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn socket_is_for_its_owner_alone_and_goes_with_the_daemon() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/api.sock");
        let socket = ApiSocket::bind(&path, None).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(
            fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "nothing but the socket is left"
        );
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn socket_with_a_group_lets_the_group_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let gid = rustix::process::getegid().as_raw();
        let _socket = ApiSocket::bind(&path, Some(&gid.to_string())).unwrap();
        assert_eq!(mode(&path), 0o660);
        assert_eq!(fs::metadata(&path).unwrap().gid(), gid);
    }

    #[tokio::test]
    async fn live_socket_stays_and_a_stale_one_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let first = ApiSocket::bind(&path, None).unwrap();
        let refused = ApiSocket::bind(&path, None).err().unwrap().to_string();
        assert!(refused.contains("already answers"), "{refused}");
        drop(first);
        // A daemon that is killed leaves its file behind.
        let stale = folder.path().join("stale.sock");
        drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
        let _second = ApiSocket::bind(&stale, None).unwrap();
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious");
        fs::write(&path, "data").unwrap();
        assert!(ApiSocket::bind(&path, None).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "data");
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_is_named_as_such() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x".repeat(120));
        let error = ApiSocket::bind(&path, None).err().unwrap().to_string();
        assert!(error.contains("shorter"), "{error}");
    }

    #[test]
    fn groups_are_found_by_name() {
        let text = "root:x:0:\nfleet:x:990:a,b\nbroken\n";
        assert_eq!(parse_group(text, "fleet"), Some(990));
        assert_eq!(parse_group(text, "fle"), None);
        assert_eq!(parse_group(text, "broken"), None);
    }
}
