//! The array's swarms in a file, so that a restart does not begin with nobody.

use crate::array::{Array, RestoreError, Seconds};
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// The file's name in the state folder.
const NAME: &str = "array.snapshot";

/// What a snapshot begins with; another version is another magic.
const MAGIC: &[u8; 16] = b"dosvc array  1\r\n";

/// The most bytes of a snapshot that is read back.
const BYTES_MAX: u64 = 4 << 30;

/// Why a snapshot is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is no snapshot of this version, or not whole")]
    Damaged,
    #[error("{0}")]
    Content(#[from] RestoreError),
}

pub(crate) fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(NAME)
}

/// Writes all swarms: the file appears whole or not at all, and survives a crash. Each shard is locked for as long as it
/// takes to copy it.
pub(crate) fn save(array: &Array, state_dir: &Path) -> io::Result<u64> {
    fs::create_dir_all(state_dir)?;
    let mut file = tempfile::NamedTempFile::new_in(state_dir)?;
    let mut hash = Sha256::new();
    let mut bytes = 0;
    let mut put = |part: &[u8]| {
        hash.update(part);
        bytes += part.len() as u64;
        file.write_all(part)
    };
    put(MAGIC)?;
    for shard in array.export() {
        put(&shard)?;
    }
    let digest = hash.finalize();
    file.write_all(&digest)?;
    file.as_file().sync_all()?;
    file.persist(path(state_dir))?;
    fs::File::open(state_dir)?.sync_all()?;
    Ok(bytes)
}

/// Reads the snapshot back, if there is one; answers how many entries are still good.
pub(crate) fn restore(array: &Array, state_dir: &Path, now: Seconds) -> Result<u64, SnapshotError> {
    let path = path(state_dir);
    match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error.into()),
        Ok(metadata) if metadata.len() > BYTES_MAX => return Err(SnapshotError::Damaged),
        Ok(_) => {}
    }
    let bytes = fs::read(&path)?;
    let (body, digest) = bytes
        .split_last_chunk::<32>()
        .ok_or(SnapshotError::Damaged)?;
    if Sha256::digest(body).as_slice() != digest {
        return Err(SnapshotError::Damaged);
    }
    let swarms = body.strip_prefix(MAGIC).ok_or(SnapshotError::Damaged)?;
    Ok(array.restore(swarms, now)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::{ArrayLimits, Draw, Seen};
    use dosvc_cloud_protocol::{CountryCode, JoinRequest, Scope};

    fn join(
        array: &Array,
        number: u8,
        now: Seconds,
        token: Option<dosvc_cloud_protocol::JoinToken>,
    ) -> dosvc_cloud_protocol::JoinAnswer {
        let content = format!("content {}", number % 3).parse().unwrap();
        let mut request = JoinRequest::new(content, [number; 20].into(), Scope::Internet);
        request.group_id = Some([number % 2 + 1; 32].into());
        request.left = 1;
        request.token = token;
        let seen = Seen {
            address: [192, 0, 2, number].into(),
            country: CountryCode::UNKNOWN,
        };
        array.join(
            now,
            Draw {
                token: number.into(),
                seed: 5,
            },
            seen,
            &request,
        )
    }

    #[test]
    fn swarms_survive_with_their_tokens() {
        let folder = tempfile::tempdir().unwrap();
        let array = Array::new(ArrayLimits::default());
        assert_eq!(restore(&array, folder.path(), 1000).unwrap(), 0);
        let answers: Vec<_> = (1..=100)
            .map(|n| join(&array, n, 1000 + u32::from(n), None))
            .collect();
        save(&array, folder.path()).unwrap();
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "nothing else is left"
        );

        let again = Array::new(ArrayLimits::default());
        assert_eq!(restore(&again, folder.path(), 1200).unwrap(), 100);
        assert_eq!(again.largest_swarms(9), array.largest_swarms(9));
        let renewed = join(&again, 7, 1200, answers[6].token);
        assert_eq!(renewed.token, answers[6].token);
        let stolen = join(&again, 8, 1200, Some(dosvc_cloud_protocol::JoinToken(1)));
        assert_eq!(stolen.token, None);
        assert_eq!(
            renewed.peers.len(),
            join(&array, 7, 1200, answers[6].token).peers.len()
        );
        // What has expired meanwhile stays away.
        let late = Array::new(ArrayLimits::default());
        let left = restore(&late, folder.path(), 1000 + 50 + 720).unwrap();
        assert_eq!(left, 50);
    }

    #[test]
    fn damaged_snapshots_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let array = Array::new(ArrayLimits::default());
        for number in 1..=5 {
            join(&array, number, 1000, None);
        }
        save(&array, folder.path()).unwrap();
        let good = fs::read(path(folder.path())).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(path(folder.path()), bad).unwrap();
            let fresh = Array::new(ArrayLimits::default());
            assert!(restore(&fresh, folder.path(), 1000).is_err());
            assert_eq!(fresh.stats().entries, 0);
        }
        fs::write(path(folder.path()), &good[..20]).unwrap();
        assert!(restore(&array, folder.path(), 1000).is_err());
    }
}
