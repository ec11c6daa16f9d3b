//! Who this machine is to its peers: a key, and the peer id that follows from it. Kept for good.

use crate::engine::EngineError;
use dosvc_nat::quic::Identity;
use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// The file in the state folder that holds the key (PKCS #8).
const KEY_FILE: &str = "peer-key";
/// What earlier versions kept there: a random id, which nobody could prove to be its own.
const OLD_ID_FILE: &str = "peer-id";
/// A key has some hundred bytes.
const KEY_BYTES_MAX: u64 = 4096;

/// Reads our key, or makes one. Who had a random id before has another from then on.
pub(crate) fn load(state_dir: &Path) -> Result<Identity, EngineError> {
    let path = state_dir.join(KEY_FILE);
    let failed = |source: io::Error| EngineError::PeerKey {
        path: path.clone(),
        source,
    };
    match read(&path) {
        Ok(key) => match Identity::from_key(&key) {
            Ok(identity) => return Ok(identity),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "not a peer's key; making a new one");
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let identity = Identity::generate().map_err(|error| failed(io::Error::other(error)))?;
    write(&path, identity.key()).map_err(failed)?;
    let old = state_dir.join(OLD_ID_FILE);
    match fs::remove_file(&old) {
        Ok(()) => {
            let peer_id = identity.peer_id();
            tracing::info!(%peer_id, "the peer id follows from a key now; the old one is gone");
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::warn!(path = %old.display(), %error, "cannot remove the old peer id");
        }
    }
    Ok(identity)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.len() > KEY_BYTES_MAX {
        return Ok(Vec::new());
    }
    fs::read(path)
}

/// Nobody else may read it, at no time; it is there as a whole, or not at all.
fn write(path: &Path, key: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(key)?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_machine_stays_who_it_is_and_its_key_is_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let first = load(dir.path()).unwrap().peer_id();
        assert_eq!(load(dir.path()).unwrap().peer_id(), first);
        let mode = fs::metadata(dir.path().join(KEY_FILE))
            .unwrap()
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
    }

    #[test]
    fn a_random_id_of_earlier_times_gives_way_to_the_keys() {
        let dir = tempfile::tempdir().unwrap();
        let old = dir.path().join(OLD_ID_FILE);
        fs::write(&old, "ab".repeat(20)).unwrap();
        let identity = load(dir.path()).unwrap();
        assert!(!old.exists());
        assert_eq!(load(dir.path()).unwrap().peer_id(), identity.peer_id());
    }

    #[test]
    fn what_is_no_key_is_replaced() {
        for junk in [&b""[..], b"junk", &[0; 5000]] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(KEY_FILE), junk).unwrap();
            let made = load(dir.path()).unwrap();
            assert_eq!(load(dir.path()).unwrap().peer_id(), made.peer_id());
        }
    }
}
