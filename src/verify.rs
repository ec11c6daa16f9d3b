//! `dosvc verify`: a file against its hash file.

use crate::{SaidAlready, cli::VerifyArgs, get::read_hash_file, publish, show};
use anyhow::Context as _;
use dosvc_content::{PieceIndex, PiecesHashFile, format_bytes};
use serde::Serialize;
use std::path::PathBuf;

/// Ranges of bad pieces that are named; a longer list tells nobody more.
const RANGES_SHOWN: usize = 20;

/// What was found.
#[derive(Serialize)]
struct Verified {
    file: PathBuf,
    ok: bool,
    file_size: u64,
    expected_size: u64,
    pieces: u32,
    bad_pieces: Vec<u32>,
}

/// Runs the command.
pub(crate) fn run(args: VerifyArgs) -> anyhow::Result<()> {
    let VerifyArgs {
        file,
        hash_file,
        hash_of_hashes,
        json,
    } = args;
    let mut hashes = read_hash_file(&hash_file.unwrap_or_else(|| publish::beside(&file)))?;
    if let Some(trusted) = &hash_of_hashes {
        hashes = hashes.expect(trusted).context("check the hash file")?;
    }
    let file_size = std::fs::metadata(&file)
        .with_context(|| format!("read {}", file.display()))?
        .len();
    let expected_size = hashes.lengths().content_length();
    // Of a file that has another length, the length is what is wrong; where it was cut or grew, nobody can tell.
    let bad = if file_size == expected_size {
        let bar = publish::bytes_bar("verifying", expected_size);
        let bad =
            dosvc_piece_store::verify_file(&file, &hashes, publish::threads(), &mut |done| {
                bar.set_position(done)
            })?;
        bar.finish_and_clear();
        bad
    } else {
        Vec::new()
    };
    let verified = Verified {
        ok: bad.is_empty() && file_size == expected_size,
        file,
        file_size,
        expected_size,
        pieces: hashes.lengths().piece_count(),
        bad_pieces: bad.iter().map(|piece| piece.get()).collect(),
    };
    if json {
        show::pretty_json(&verified)?;
    } else {
        show::line(verified.text(&hashes, &bad))?;
    }
    if verified.ok {
        Ok(())
    } else {
        Err(SaidAlready.into())
    }
}

impl Verified {
    fn text(&self, hashes: &PiecesHashFile, bad: &[PieceIndex]) -> String {
        let file = self.file.display();
        if self.ok {
            return format!(
                "{file}: right ({} pieces, {})",
                self.pieces,
                format_bytes(self.file_size)
            );
        }
        let mut lines = Vec::new();
        if self.file_size != self.expected_size {
            lines.push(format!(
                "{file}: has {} bytes where {} are expected",
                self.file_size, self.expected_size
            ));
        }
        if !bad.is_empty() {
            lines.push(format!(
                "{file}: {} of {} pieces are wrong:",
                bad.len(),
                self.pieces
            ));
        }
        let ranges = ranges(&self.bad_pieces);
        for &(first, last) in ranges.iter().take(RANGES_SHOWN) {
            lines.push(range_text(hashes, first, last));
        }
        if ranges.len() > RANGES_SHOWN {
            lines.push(format!(
                "  and {} more places (--json names every piece)",
                ranges.len() - RANGES_SHOWN
            ));
        }
        lines.join("\n")
    }
}

/// `  piece 3 (bytes 3145728 to 4194303)`
fn range_text(hashes: &PiecesHashFile, first: u32, last: u32) -> String {
    let lengths = hashes.lengths();
    let start = lengths
        .piece(first)
        .map_or(0, |piece| lengths.offset(piece));
    let end = lengths.piece(last).map_or(0, |piece| {
        lengths.offset(piece) + u64::from(lengths.len(piece))
    });
    let pieces = if first == last {
        format!("piece {first}")
    } else {
        format!("pieces {first} to {last}")
    };
    format!("  {pieces} (bytes {start} to {})", end.saturating_sub(1))
}

/// Neighbours joined: first and last of each run.
fn ranges(pieces: &[u32]) -> Vec<(u32, u32)> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for &piece in pieces {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == piece => *last = piece,
            _ => ranges.push((piece, piece)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_joined() {
        assert_eq!(ranges(&[0, 2, 3, 4, 9]), [(0, 0), (2, 4), (9, 9)]);
        assert_eq!(ranges(&[]), []);
    }
}
