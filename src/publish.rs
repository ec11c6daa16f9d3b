//! `dosvc publish`: the hash file of a file, and what others need to fetch it.

pub(crate) mod register;

use crate::{
    api::BODY_BYTES_MAX,
    cli::{Global, PublishArgs},
    client, show,
};
use anyhow::{Context as _, bail};
use dosvc_content::{ContentId, PiecesHashFile, format_bytes, hash_file_urls};
use dosvc_engine::api::{CacheEntry, ImportRequest};
use indicatif::{ProgressBar, ProgressStyle};
use register::Register;
use serde::Serialize;
use std::{
    fs::{File, Permissions},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    thread::available_parallelism,
    time::Duration,
};

/// What was published.
#[derive(Serialize)]
struct Published {
    file: PathBuf,
    file_size: u64,
    piece_size: u32,
    pieces: u32,
    hash_file: PathBuf,
    hash_of_hashes: String,
    content_id: String,
    urls: Vec<String>,
    /// The cache's entry, with `--seed`.
    seeded: Option<CacheEntry>,
    /// The control plane that was told, with `--to`.
    control_plane: Option<String>,
}

/// Runs the command.
pub(crate) async fn run(global: &Global, args: PublishArgs) -> anyhow::Result<()> {
    let PublishArgs {
        file,
        urls,
        piece_size,
        out,
        seed,
        link,
        register,
        json,
    } = args;
    let register = Register::from_args(register)?;
    let metadata = std::fs::metadata(&file).with_context(|| format!("read {}", file.display()))?;
    if !metadata.is_file() {
        bail!("{} is not a regular file", file.display());
    }
    // Asked before the work, not after it.
    let daemon = if seed {
        let client = client(global)?;
        client.status().await?;
        Some(client)
    } else {
        None
    };
    let bar = bytes_bar("hashing", metadata.len());
    let hashes = dosvc_piece_store::hash_file_of(&file, piece_size, threads(), &mut |done| {
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    let out = out.unwrap_or_else(|| beside(&file));
    write_whole(&out, &hashes.to_json())
        .with_context(|| format!("write the hash file {}", out.display()))?;
    let seeded = match daemon {
        Some(client) => Some(hand_over(&client, &file, &hashes, &urls, link).await?),
        None => None,
    };
    let told = match register {
        Some(register) => Some(register.publish(&hashes, &urls).await?),
        None => None,
    };
    let published = Published {
        file,
        file_size: hashes.lengths().content_length(),
        piece_size: hashes.lengths().piece_size(),
        pieces: hashes.lengths().piece_count(),
        hash_file: out,
        hash_of_hashes: hashes.hash_of_hashes().to_string(),
        content_id: ContentId::derived(&hashes.hash_of_hashes())
            .as_str()
            .to_owned(),
        urls,
        seeded,
        control_plane: told,
    };
    if json {
        show::pretty_json(&published)?;
    } else {
        show::line(published.text())?;
    }
    Ok(())
}

impl Published {
    fn text(&self) -> String {
        let url = self.urls.first().map_or("URL", String::as_str);
        let name = self.file.file_name().unwrap_or_default().to_string_lossy();
        let mut lines = vec![
            format!(
                "{}: {} in {} pieces of {}",
                self.file.display(),
                format_bytes(self.file_size),
                self.pieces,
                format_bytes(self.piece_size.into())
            ),
            format!("  hash file        {}", self.hash_file.display()),
            format!("  hash of hashes   {}", self.hash_of_hashes),
            format!("  content id       {}", self.content_id),
        ];
        if let Some(entry) = &self.seeded {
            lines.push(format!(
                "  seeded           {} in the daemon's cache",
                show::short_id(&entry.file_id)
            ));
        }
        if let Some(to) = &self.control_plane {
            lines.push(format!("  published at     {to}"));
        }
        lines.push(String::new());
        let [beside, _] = hash_file_urls(url);
        // A query has characters that mean something to shells.
        let quoted = format!("'{url}'");
        if self.control_plane.is_some() {
            lines.push("Machines that ask this control plane get it by:".to_owned());
            lines.push(format!("  dosvc get {quoted} -o {name}"));
        } else {
            lines.push(format!(
                "Put the hash file beside the content, as {beside}; then, anywhere:"
            ));
            lines.push(format!(
                "  dosvc get {quoted} -o {name} --hash-of-hashes {}",
                self.hash_of_hashes
            ));
        }
        lines.join("\n")
    }
}

/// Hands the file to the daemon as an open file, so that only what we may read gets into its cache.
async fn hand_over(
    client: &client::Client,
    path: &Path,
    hashes: &PiecesHashFile,
    urls: &[String],
    link: bool,
) -> anyhow::Result<CacheEntry> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let hash_file_json =
        String::from_utf8(hashes.to_json()).context("write the hash file as JSON")?;
    if hash_file_json.len() > BODY_BYTES_MAX / 2 {
        bail!(
            "the hash file is too large for the daemon's API; publish with a larger --piece-size"
        );
    }
    let import = ImportRequest {
        hash_file_json,
        urls: urls.to_vec(),
        link,
    };
    client
        .import(&file, &import)
        .await
        .context("hand the file to the daemon")
}

/// `FILE.phf`
pub(crate) fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".phf");
    name.into()
}

/// Threads for hashing whole files.
pub(crate) fn threads() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// Progress in bytes on standard error; hidden where that is no terminal.
pub(crate) fn bytes_bar(verb: &'static str, bytes: u64) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{prefix} [{bar:28}] {percent:>3}%  {binary_bytes_per_sec}")
            .expect("the template is written here")
            .progress_chars("=> ");
    let bar = ProgressBar::new(bytes).with_style(style).with_prefix(verb);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Writes a file that appears whole or not at all, with the mode that the umask leaves.
fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_file_is_named_after_the_file() {
        assert_eq!(beside(Path::new("a/b.tar.gz")), Path::new("a/b.tar.gz.phf"));
    }

    #[test]
    fn written_file_replaces_the_old_one_and_can_be_read_by_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.phf");
        std::fs::write(&path, "old").unwrap();
        write_whole(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        let plain = folder.path().join("plain");
        File::create(&plain).unwrap();
        let mode = |path| std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&path), mode(&plain), "the umask decides");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
