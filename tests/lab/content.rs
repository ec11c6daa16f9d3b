//! Content files: made once, the same in every run, with their hash files beside them.

use dosvc_content::{HashFileBuilder, HashOfHashes, PieceHash, PieceLengths, PiecesHashFile};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// The piece size of every published hash file.
pub(crate) const PIECE_BYTES: u64 = 1 << 20;
const MIB: u64 = 1 << 20;

/// A file in the folder that the origin serves. Its hash file lies beside it, as `.phf`.
pub(crate) struct Content {
    /// The file's name in [`folder`].
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) hash_file: PiecesHashFile,
    sha256: [u8; 32],
}

/// The size of a scenario's content: what the environment asks for, or 4 GiB, or a quick one.
pub(crate) fn scenario_bytes(quick_mib: u64) -> u64 {
    scenario_bytes_of(quick_mib, 4096)
}

/// As [`scenario_bytes`], where 4 GiB are not what the acceptance test asks for.
pub(crate) fn scenario_bytes_of(quick_mib: u64, full_mib: u64) -> u64 {
    match std::env::var("DOSVC_LAB_SIZE") {
        Ok(bytes) => bytes.parse().expect("DOSVC_LAB_SIZE is a number of bytes"),
        Err(_) if is_full() => full_mib * MIB,
        Err(_) => quick_mib * MIB,
    }
}

/// Whether the sizes of the acceptance test were asked for.
pub(crate) fn is_full() -> bool {
    std::env::var_os("DOSVC_LAB_FULL").is_some_and(|value| value != "0")
}

/// The folder with all contents, kept from run to run: what an origin serves.
pub(crate) fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("lab-cache");
    fs::create_dir_all(&folder).expect("the target folder can be written");
    folder
}

impl Content {
    /// Bytes that do not compress, the same for the same seed.
    pub(crate) fn random(seed: u64, bytes: u64) -> Self {
        let name = format!("random-{seed}-{bytes}.bin");
        Self::make(&name, bytes, PIECE_BYTES, |file| {
            write_random(file, seed, bytes)
        })
    }

    /// A sparse file of zeros but for the first bytes, which make it differ from others of its size.
    pub(crate) fn sparse(number: u64, bytes: u64, piece_bytes: u64) -> Self {
        let name = format!("sparse-{number}-{bytes}.bin");
        Self::make(&name, bytes, piece_bytes, |file| {
            file.write_all(&number.to_be_bytes())?;
            file.set_len(bytes)
        })
    }

    /// As [`Self::random`], but with no hash file where a client looks for it.
    pub(crate) fn without_hash_file(seed: u64, bytes: u64) -> Self {
        let published = Self::random(seed, bytes);
        let name = format!("plain-{seed}-{bytes}.bin");
        let path = folder().join(&name);
        let _copied_before = fs::hard_link(published.path(), &path);
        Self { name, ..published }
    }

    /// The real file that the environment names, or random bytes.
    pub(crate) fn real_or_random(seed: u64, quick_mib: u64) -> Self {
        let Some(source) = std::env::var_os("DOSVC_LAB_FILE") else {
            return Self::random(seed, scenario_bytes(quick_mib));
        };
        let bytes = fs::metadata(&source)
            .expect("DOSVC_LAB_FILE names a file")
            .len();
        let base = Path::new(&source)
            .file_name()
            .expect("DOSVC_LAB_FILE names a file")
            .to_string_lossy()
            .into_owned();
        Self::make(&base, bytes, PIECE_BYTES, |file| {
            io::copy(&mut File::open(&source)?, file).map(drop)
        })
    }

    fn make(
        name: &str,
        bytes: u64,
        piece_bytes: u64,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Self {
        // Tests run side by side and may want the same content.
        static MAKING: Mutex<()> = Mutex::new(());
        let _one_at_a_time = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        let path = folder().join(name);
        let hash_file_path = folder().join(format!("{name}.phf"));
        let is_there = fs::metadata(&path).is_ok_and(|metadata| metadata.len() == bytes)
            && hash_file_path.exists();
        if !is_there {
            let partial = folder().join(format!("{name}.partial"));
            let mut file = File::create(&partial).expect("the target folder can be written");
            write(&mut file).expect("the disk has room for the content");
            fs::rename(&partial, &path).expect("one folder");
            fs::write(
                &hash_file_path,
                hash_pieces(&path, bytes, piece_bytes).to_json(),
            )
            .expect("the disk has room");
        }
        let json = fs::read(&hash_file_path).expect("it was written");
        let hash_file = PiecesHashFile::from_json(&json).expect("it was written by this program");
        let sha256 = sha256(&path);
        Self {
            name: name.to_owned(),
            bytes,
            hash_file,
            sha256,
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        folder().join(&self.name)
    }

    /// Where its hash file lies, if it is published.
    pub(crate) fn hash_file_path(&self) -> PathBuf {
        folder().join(format!("{}.phf", self.name))
    }

    pub(crate) fn swarm_hash(&self) -> HashOfHashes {
        self.hash_file.hash_of_hashes()
    }

    /// Asserts that a file has exactly the content's bytes.
    pub(crate) fn assert_same(&self, path: &Path) {
        assert_eq!(
            fs::metadata(path).expect("the file is there").len(),
            self.bytes,
            "size of {}",
            path.display()
        );
        assert!(
            sha256(path) == self.sha256,
            "{} has wrong bytes",
            path.display()
        );
    }

    /// `part` of the content's bytes, for limits that are stated as a share of it.
    pub(crate) fn share(&self, part: f64) -> u64 {
        // Sizes here are far below 2^52, where a float is exact.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )]
        let bytes = (self.bytes as f64 * part) as u64;
        bytes
    }
}

fn write_random(file: &mut File, seed: u64, bytes: u64) -> io::Result<()> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut chunk = vec![0_u8; 1 << 20];
    let mut left = bytes;
    while left > 0 {
        for word in chunk.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let take = left.min(chunk.len() as u64);
        file.write_all(&chunk[..usize::try_from(take).expect("at most a chunk")])?;
        left -= take;
    }
    Ok(())
}

fn hash_pieces(path: &Path, bytes: u64, piece_bytes: u64) -> PiecesHashFile {
    let lengths =
        PieceLengths::new(bytes, piece_bytes).expect("sizes within the bounds of hash files");
    let mut builder = HashFileBuilder::new(lengths);
    for_each_chunk(path, piece_bytes, |piece| {
        builder.push(PieceHash::of(piece))
    });
    builder.finish().expect("every piece was hashed")
}

fn sha256(path: &Path) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for_each_chunk(path, 1 << 20, |chunk| hasher.update(chunk));
    hasher.finalize().into()
}

fn for_each_chunk(path: &Path, chunk_bytes: u64, mut each: impl FnMut(&[u8])) {
    let file = File::open(path).expect("the file is there");
    let mut chunk = Vec::new();
    loop {
        chunk.clear();
        (&file)
            .take(chunk_bytes)
            .read_to_end(&mut chunk)
            .expect("the file can be read");
        if chunk.is_empty() {
            return;
        }
        each(&chunk);
    }
}
