//! A process that is killed at any moment: `kill -9`, page cache intact. Power cuts are in the crate's own tests.

use crate::rig::{Random, Sample, child, child_dir, open};
use dosvc_content::BLOCK_LENGTH_MAX;
use dosvc_piece_store::{Deliver, PieceCheck, Store, StoreConfig};
use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    process::Stdio,
    time::{Duration, Instant},
};

fn samples() -> [Sample; 2] {
    [
        Sample::new(1, (24 << 20) + 77, 64 << 10),
        Sample::new(2, (24 << 20) + 77, 4 << 20),
    ]
}

/// The child stores what is missing, in a random order, and says so after every piece.
#[test]
fn child_downloads() {
    let Some(dir) = child_dir() else { return };
    let config = StoreConfig {
        sync_bytes: 2 << 20,
        sync_interval: Duration::from_millis(20),
        ..StoreConfig::new(dir)
    };
    let store = Store::open(config).unwrap();
    let mut random = Random(std::process::id().into());
    let mut out = std::io::stdout();
    for (number, sample) in samples().iter().enumerate() {
        let content = sample.add(&store);
        content.recover(&mut |_| {}).unwrap();
        let mut missing: Vec<_> = content.have().zeros().collect();
        while !missing.is_empty() {
            let at = usize::try_from(random.below(missing.len() as u64)).unwrap();
            let piece = missing.swap_remove(at);
            if sample.lengths().block_count(piece) == 1 {
                content.accept_piece(piece, sample.piece(piece)).unwrap();
            } else {
                for (i, block) in sample.lengths().blocks(piece).enumerate() {
                    let from = i * BLOCK_LENGTH_MAX as usize;
                    let bytes = &sample.piece(piece)[from..from + block.len() as usize];
                    content.accept_block(block, bytes).unwrap();
                }
                content.finish_piece(piece).unwrap();
            }
            writeln!(out, "\nstored {number} {piece}").unwrap();
            store.sync_due(Instant::now()).unwrap();
        }
    }
    writeln!(out, "\nall done").unwrap();
}

#[test]
fn a_killed_download_loses_no_piece_and_claims_no_false_one() {
    let dir = tempfile::tempdir().unwrap();
    let samples = samples();
    let mut random = Random(3);
    let mut had = [Vec::new(), Vec::new()];
    let mut kills = 0;
    loop {
        let mut running = child("crash::child_downloads", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut patience = 1 + random.below(120);
        let mut done = false;
        for line in BufReader::new(running.stdout.take().unwrap()).lines() {
            let Ok(line) = line else { break };
            if line == "all done" {
                done = true;
            }
            if let Some((number, piece)) =
                line.strip_prefix("stored ").and_then(|l| l.split_once(' '))
            {
                let number: usize = number.parse().unwrap();
                had[number].push(samples[number].nth(piece.parse().unwrap()));
                patience = patience.saturating_sub(1);
                if patience == 0 {
                    running.kill().unwrap();
                }
            }
        }
        running.wait().unwrap();
        let store = open(dir.path());
        for (sample, had) in samples.iter().zip(&had) {
            let Some(content) = store.content(&sample.hash_file.hash_of_hashes()).unwrap() else {
                assert!(had.is_empty());
                continue;
            };
            for piece in content.have().ones() {
                assert_eq!(
                    content.check_piece(piece).unwrap(),
                    PieceCheck::Good,
                    "a false claim"
                );
            }
            content.recover(&mut |_| {}).unwrap();
            for &piece in had {
                assert!(
                    content.have().has(piece),
                    "piece {piece} was stored and is gone"
                );
            }
        }
        if done {
            break;
        }
        kills += 1;
    }
    assert!(kills >= 3, "killed only {kills} times");
    let store = open(dir.path());
    for sample in &samples {
        let out = dir.path().join("out");
        let content = sample.add(&store);
        content
            .deliver(
                &out,
                Deliver {
                    progress: &mut Deliver::quiet(),
                },
            )
            .unwrap();
        assert_eq!(fs::read(&out).unwrap(), sample.bytes);
    }
}
