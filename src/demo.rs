//! `dosvc demo`: an origin, a seed and several peers on loopback; one file, downloaded by all peers at once.
//!
//! Every peer is a daemon in a process of its own, started from this very program; nothing is simulated.

mod node;
mod origin;
mod view;

use crate::{
    Interrupted,
    cli::{DemoArgs, Global},
    publish, show,
};
use anyhow::{Context as _, bail};
use dosvc_content::{PIECE_SIZE_DEFAULT, PiecesHashFile, format_bytes};
use dosvc_engine::api::{GetRequest, ImportRequest, JobId, JobState, JobStatus, SourceBytes};
use dosvc_piece_store::Durability;
use node::Node;
use origin::Origin;
use serde::Serialize;
use std::{
    fs::File,
    io::Write as _,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use view::View;

/// The file's bytes follow from this, so that two demos move the same bytes.
const CONTENT_SEED: u64 = 0x646f_7376_6300_0001;
/// A peer that gets nothing for this long has failed.
const STALLED_AFTER: Duration = Duration::from_secs(60);
/// Time between two looks at a peer.
const POLL: Duration = Duration::from_millis(100);

/// How the demo went.
#[derive(Serialize)]
struct Outcome {
    file_size: u64,
    peers: Vec<PeerOutcome>,
    /// Content bytes that the origin sent, to everybody.
    origin_bytes: u64,
    /// The same, as copies of the file.
    origin_copies: f64,
    /// From the first request to the last peer's last byte.
    duration_ms: u64,
    verified: bool,
}

/// How it went for one peer.
#[derive(Serialize)]
struct PeerOutcome {
    name: String,
    downloaded: SourceBytes,
    duration_ms: u64,
    rate_bps: u64,
    verified: bool,
}

/// Runs the command.
pub(crate) async fn run(global: &Global, args: DemoArgs) -> anyhow::Result<()> {
    // The demo stands by itself: no socket, no configuration of this machine.
    let Global { .. } = global;
    let json = args.json;
    let folder = tempfile::Builder::new()
        .prefix("dosvc-demo-")
        .tempdir()
        .context("make a temporary folder")?;
    let mut nodes = Vec::new();
    let done = tokio::select! {
        done = play(&args, folder.path(), &mut nodes) => done,
        stopped = stop_signal() => Err(match stopped {
            Ok(()) => Interrupted("stopped; nothing is left behind".into()).into(),
            Err(error) => error,
        }),
    };
    let mut stopping: JoinSet<()> = nodes.into_iter().map(Node::stop).collect();
    while stopping.join_next().await.is_some() {}
    folder.close().context("remove the demo's folder")?;
    let outcome = done?;
    if json {
        show::pretty_json(&outcome)?;
    } else {
        show::line(outcome.text())?;
    }
    if !outcome.verified {
        bail!("a peer's file is not what was published");
    }
    Ok(())
}

/// Ctrl-C, a terminal that closes, or a polite kill.
async fn stop_signal() -> anyhow::Result<()> {
    let watch = |kind| signal(kind).context("watch for signals");
    let mut interrupt = watch(SignalKind::interrupt())?;
    let mut terminate = watch(SignalKind::terminate())?;
    let mut hangup = watch(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}

/// The whole demo; daemons that it started are in `nodes`, however it ends.
async fn play(args: &DemoArgs, folder: &Path, nodes: &mut Vec<Node>) -> anyhow::Result<Outcome> {
    let DemoArgs {
        size,
        peers,
        no_seed,
        json,
    } = *args;
    let say = |text: &str| {
        if !json {
            eprintln!("{text}");
        }
    };
    let seeds = usize::from(!no_seed);
    say(&format!(
        "dosvc demo: {}, an origin, {seeds} seed and {peers} peers on loopback, in {}",
        format_bytes(size),
        folder.display()
    ));
    // The origin's copy, the seed's, and one for each peer; what a peer hands over is the same file again.
    require_space(folder, size, u64::from(peers) + 2)?;
    let content = folder.join("content.bin");
    let hashes = make_content(&content, size).await?;
    say(&format!(
        "  hash file  {} pieces, hash of hashes {}",
        hashes.lengths().piece_count(),
        hashes.hash_of_hashes()
    ));
    let origin = Origin::start(&content, hashes.to_json()).await?;
    say(&format!("  origin     {}", origin.url()));

    if !no_seed {
        nodes.push(Node::start(folder, "seed")?);
    }
    for number in 1..=peers {
        nodes.push(Node::start(folder, &format!("peer {number}"))?);
    }
    let mut addresses = Vec::new();
    for node in &mut *nodes {
        addresses.push(node.ready().await?);
    }
    if !no_seed {
        give_copy(&nodes[0], &content, &hashes, &origin).await?;
        say("  seed       has the whole file");
    }
    say("  peers      start at the same time\n");
    let mut runs = begin(&nodes[seeds..], &addresses, seeds, &hashes, &origin).await?;
    let started = Instant::now();
    watch(&mut runs, size, json).await?;
    let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);

    let mut outcomes = Vec::new();
    for run in &runs {
        outcomes.push(run.hand_over(&hashes).await?);
    }
    Ok(Outcome {
        file_size: size,
        origin_bytes: origin.sent(),
        origin_copies: copies(origin.sent(), size),
        duration_ms,
        verified: outcomes.iter().all(|peer| peer.verified),
        peers: outcomes,
    })
}

/// One peer's download.
struct Run<'a> {
    node: &'a Node,
    id: JobId,
    status: Option<JobStatus>,
    moved: Instant,
}

/// Asks every peer for the file. Each is told of all the others, as discovery would.
async fn begin<'a>(
    peers: &'a [Node],
    addresses: &[Vec<SocketAddr>],
    seeds: usize,
    hashes: &PiecesHashFile,
    origin: &Origin,
) -> anyhow::Result<Vec<Run<'a>>> {
    let mut runs = Vec::new();
    for (index, node) in peers.iter().enumerate() {
        let others = addresses
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != index + seeds);
        let request = GetRequest {
            urls: vec![origin.url()],
            hash_of_hashes: Some(hashes.hash_of_hashes().to_string()),
            foreground: true,
            peers: others
                .flat_map(|(_, addresses)| addresses.clone())
                .collect(),
            caller: "dosvc demo".into(),
            ..GetRequest::default()
        };
        let id = node
            .client
            .get(&request)
            .await
            .with_context(|| format!("ask {} for the file", node.name))?;
        runs.push(Run {
            node,
            id,
            status: None,
            moved: Instant::now(),
        });
    }
    Ok(runs)
}

/// Watches until every peer has all of it.
async fn watch(runs: &mut [Run<'_>], size: u64, hidden: bool) -> anyhow::Result<()> {
    let names: Vec<String> = runs.iter().map(|run| run.node.name.clone()).collect();
    let view = View::new(&names, size, hidden);
    loop {
        for (index, run) in runs.iter_mut().enumerate() {
            if !run.is_complete() {
                run.look().await?;
                view.update(index, run.status.as_ref());
            }
        }
        if runs.iter().all(Run::is_complete) {
            view.finish();
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}

impl Run<'_> {
    fn is_complete(&self) -> bool {
        self.status
            .as_ref()
            .is_some_and(|status| status.state == JobState::Complete)
    }

    /// Asks how far the download is; one that has ended badly, or does not move, ends the demo.
    async fn look(&mut self) -> anyhow::Result<()> {
        let Node { name, client, .. } = self.node;
        let trouble = |what: String| anyhow::anyhow!("{name}: {what}\n{}", self.node.log_tail());
        let status = client
            .download(self.id, Duration::ZERO, Duration::ZERO)
            .await
            .map_err(|error| trouble(error.to_string()))?;
        match (status.state, &status.error) {
            (JobState::Failed, Some(error)) => {
                return Err(trouble(format!("{} ({})", error.message, error.code)));
            }
            (JobState::Failed | JobState::Cancelled, _) => {
                return Err(trouble("the download ended".into()));
            }
            _ => {}
        }
        if self
            .status
            .as_ref()
            .is_none_or(|last| last.bytes_done != status.bytes_done)
        {
            self.moved = Instant::now();
        } else if self.moved.elapsed() > STALLED_AFTER {
            let waiting = status.waiting.as_deref().unwrap_or("no reason given");
            return Err(trouble(format!(
                "nothing came for {} ({waiting})",
                show::duration(STALLED_AFTER)
            )));
        }
        self.status = Some(status);
        Ok(())
    }

    /// Takes the file as `dosvc get` does, and checks it once more from the outside.
    async fn hand_over(&self, hashes: &PiecesHashFile) -> anyhow::Result<PeerOutcome> {
        let Node {
            name,
            client,
            folder,
            ..
        } = self.node;
        let status = self
            .status
            .as_ref()
            .context("a complete download has a state")?;
        let (file, length) = client.take_file(self.id).await?;
        let (path, expect) = (folder.join("content.bin"), hashes.clone());
        let bad = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
            dosvc_piece_store::place(&file, length, None, &path, Durability::Later, &mut |_| {})?;
            Ok(dosvc_piece_store::verify_file(
                &path,
                &expect,
                publish::threads(),
                &mut |_| {},
            )?)
        })
        .await
        .context("check a file")?
        .with_context(|| format!("take the file from {name}"))?;
        Ok(PeerOutcome {
            name: name.clone(),
            downloaded: status.downloaded,
            duration_ms: status.duration_ms,
            rate_bps: show::average_rate(status.downloaded.total(), status.duration_ms)
                .unwrap_or(0),
            verified: bad.is_empty() && length == hashes.lengths().content_length(),
        })
    }
}

/// Makes the seed hold the file.
async fn give_copy(
    seed: &Node,
    content: &Path,
    hashes: &PiecesHashFile,
    origin: &Origin,
) -> anyhow::Result<()> {
    let import = ImportRequest {
        hash_file_json: String::from_utf8(hashes.to_json())
            .context("write the hash file as JSON")?,
        urls: vec![origin.url()],
        link: false,
    };
    let file = File::open(content).context("open the demo's content")?;
    seed.client
        .import(&file, &import)
        .await
        .context("give the seed its copy")?;
    Ok(())
}

fn require_space(folder: &Path, size: u64, copies: u64) -> anyhow::Result<()> {
    let disk = rustix::fs::statvfs(folder)
        .with_context(|| format!("look at the disk of {}", folder.display()))?;
    let (free, needed) = (disk.f_bavail * disk.f_frsize, size.saturating_mul(copies));
    if free < needed {
        bail!(
            "{} has {} free where {} are needed; set TMPDIR to a larger disk, or use a smaller --size or fewer --peers",
            folder.display(),
            format_bytes(free),
            format_bytes(needed)
        );
    }
    Ok(())
}

/// Writes the file and hashes it.
async fn make_content(path: &Path, size: u64) -> anyhow::Result<PiecesHashFile> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || {
        write_noise(&path, size).context("write the demo's content")?;
        dosvc_piece_store::hash_file_of(&path, PIECE_SIZE_DEFAULT, publish::threads(), &mut |_| {})
            .context("hash the demo's content")
    })
    .await
    .context("make the demo's content")?
}

/// Bytes that nothing can compress, from a fixed seed.
fn write_noise(path: &Path, size: u64) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    let mut random = fastrand::Rng::with_seed(CONTENT_SEED);
    let mut buffer = vec![0; 1 << 20];
    let mut left = size;
    while left > 0 {
        random.fill(&mut buffer);
        let bytes = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        file.write_all(&buffer[..bytes])?;
        left -= bytes as u64;
    }
    file.sync_all()
}

fn copies(bytes: u64, size: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    let copies = bytes as f64 / size.max(1) as f64;
    copies
}

impl Outcome {
    fn text(&self) -> String {
        let mut table = show::table(
            &[
                "peer",
                "from peers",
                "from origin",
                "peers' share",
                "rate",
                "verified",
            ],
            &[1, 2, 3, 4],
        );
        let mut sum = SourceBytes::default();
        for peer in &self.peers {
            let SourceBytes { http, .. } = peer.downloaded;
            table.add_row([
                peer.name.clone(),
                format_bytes(peer.downloaded.peers()),
                format_bytes(http),
                format!(
                    "{:.1}%",
                    show::percent(peer.downloaded.peers(), peer.downloaded.total())
                ),
                show::rate(peer.rate_bps),
                if peer.verified { "yes" } else { "NO" }.to_owned(),
            ]);
            sum.http += http;
            sum.lan += peer.downloaded.peers();
        }
        table.add_row([
            "all".to_owned(),
            format_bytes(sum.lan),
            format_bytes(sum.http),
            format!("{:.1}%", show::percent(sum.lan, sum.total())),
            show::rate(show::average_rate(sum.total(), self.duration_ms).unwrap_or(0)),
            if self.verified { "yes" } else { "NO" }.to_owned(),
        ]);
        format!(
            "{}\n{} peers have {} each after {}; the origin sent {:.2} copies where plain downloads would have taken {}",
            table.trim_fmt(),
            self.peers.len(),
            format_bytes(self.file_size),
            show::duration(Duration::from_millis(self.duration_ms)),
            self.origin_copies,
            self.peers.len(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_the_same_each_time_and_as_long_as_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        write_noise(&a, 2_500_001).unwrap();
        write_noise(&b, 2_500_001).unwrap();
        let bytes = std::fs::read(a).unwrap();
        assert_eq!(bytes.len(), 2_500_001);
        assert_eq!(bytes, std::fs::read(b).unwrap());
        assert_ne!(bytes[..8], bytes[8..16]);
    }

    #[test]
    fn a_disk_that_is_too_small_is_named_before_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let error = require_space(folder.path(), 1 << 60, 6)
            .unwrap_err()
            .to_string();
        assert!(error.contains("TMPDIR"), "{error}");
        require_space(folder.path(), 1, 1).unwrap();
    }
}
