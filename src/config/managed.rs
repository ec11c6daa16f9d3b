//! The file of the fleet's management: what MDM is on Windows. Its values win over what the machine's own files and
//! environment say, so it counts only when nobody but the management can have written it: either it is root's, in a
//! folder of root's, and nobody else may write either; or, with a public key configured, a detached Ed25519 signature
//! lies beside it. A signature says nothing of time: who can write the file can put an older signed one back.

use super::{
    ConfigError, ManagedConfig, Mistake, Place,
    layer::{folder_of, read_open},
};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use std::{
    fmt,
    fs::{self, File, Metadata},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// Where the file lies unless configured otherwise.
pub(crate) const DEFAULT_FILE: &str = "/etc/dosvc/managed.toml";

/// An Ed25519 signature, in bytes.
const SIGNATURE_BYTES: usize = 64;
/// What is read of a signature's file: base64 with line ends is shorter.
const SIGNATURE_FILE_BYTES_MAX: u64 = 256;
/// What stands before the key in a `SubjectPublicKeyInfo` (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// An Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PublicKey([u8; 32]);

impl PublicKey {
    /// Reads base64 of the key's 32 bytes, or of the 44 that a PEM file has. `None`: it is neither.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let bytes = BASE64_STANDARD.decode(text).ok()?;
        let key = bytes.strip_prefix(&SPKI_PREFIX).unwrap_or(&bytes);
        key.try_into().ok().map(Self)
    }

    /// The 32 bytes.
    pub(crate) fn bytes(&self) -> [u8; 32] {
        self.0
    }

    fn has_signed(&self, text: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0)
            .verify(text, signature)
            .is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0))
    }
}

/// Where the signature of a file lies.
pub(super) fn signature_file(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".sig");
    name.into()
}

/// The managed file's text. `None`: there is no such file, or what is wrong with it is said among the errors.
pub(super) fn read(managed: &ManagedConfig, errors: &mut Vec<ConfigError>) -> Option<String> {
    let ManagedConfig { file, public_key } = managed;
    let read = match public_key {
        Some(key) => read_signed(file, key),
        None => read_roots(file),
    };
    read.unwrap_or_else(|mistake| {
        errors.push(ConfigError {
            place: Place::File(file.clone()),
            mistake,
        });
        None
    })
}

fn unreadable(error: &io::Error) -> Mistake {
    Mistake::Unreadable(error.to_string())
}

/// Opens a regular file; `None`: there is none.
fn open(file: &Path) -> Result<Option<(File, Metadata)>, Mistake> {
    let opened = match File::open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(&error)),
    };
    let metadata = opened.metadata().map_err(|e| unreadable(&e))?;
    if !metadata.is_file() {
        return Err(Mistake::Unreadable("it is no file".to_owned()));
    }
    Ok(Some((opened, metadata)))
}

fn read_roots(file: &Path) -> Result<Option<String>, Mistake> {
    let folder = folder_of(file);
    match fs::metadata(folder) {
        Ok(metadata) if fs::exists(file).unwrap_or(true) => {
            if let Some(fault) = fault_of(&metadata) {
                return Err(Mistake::Untrusted(format!(
                    "its folder {} {fault}",
                    folder.display()
                )));
            }
        }
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(&error)),
    }
    // The open file is looked at, not its name: nobody can swap one for the other in between.
    let Some((opened, metadata)) = open(file)? else {
        return Ok(None);
    };
    if let Some(fault) = fault_of(&metadata) {
        return Err(Mistake::Untrusted(format!("it {fault}")));
    }
    read_open(opened).map(Some).map_err(|e| unreadable(&e))
}

/// Why others than root may have written something.
fn fault_of(metadata: &Metadata) -> Option<String> {
    let mode = metadata.mode() & 0o7777;
    if metadata.uid() != 0 {
        Some(format!(
            "belongs to user {}; it must be root's, or be signed (managed.public_key)",
            metadata.uid()
        ))
    } else if mode & 0o022 != 0 {
        Some(format!(
            "has mode {mode:o}; only its owner may write it (chmod go-w)"
        ))
    } else {
        None
    }
}

fn read_signed(file: &Path, key: &PublicKey) -> Result<Option<String>, Mistake> {
    let Some((opened, _)) = open(file)? else {
        return Ok(None);
    };
    let text = read_open(opened).map_err(|e| unreadable(&e))?;
    let beside = signature_file(file);
    let untrusted =
        |what: String| Mistake::Untrusted(format!("the signature {} {what}", beside.display()));
    let (signature, _) = open(&beside)
        .map_err(|mistake| untrusted(mistake.to_string()))?
        .ok_or_else(|| untrusted("is missing".to_owned()))?;
    let signature = read_signature(signature).map_err(|error| untrusted(error.to_string()))?;
    if !key.has_signed(text.as_bytes(), &signature) {
        return Err(untrusted(format!("is not that of key {key}")));
    }
    Ok(Some(text))
}

/// The signature's bytes as they are, or their base64.
fn read_signature(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(SIGNATURE_FILE_BYTES_MAX)
        .read_to_end(&mut bytes)?;
    if bytes.len() == SIGNATURE_BYTES {
        return Ok(bytes);
    }
    std::str::from_utf8(&bytes)
        .ok()
        .map(|text| text.split_whitespace().collect::<String>())
        .and_then(|text| BASE64_STANDARD.decode(text).ok())
        .filter(|decoded| decoded.len() == SIGNATURE_BYTES)
        .ok_or_else(|| io::Error::other("is neither 64 bytes nor their base64"))
}
