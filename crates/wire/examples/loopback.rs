//! Measures the driver: `cargo run --release -p dosvc-wire --example loopback -- [GiB] [DIR]` sends a file
//! from the page cache over loopback in blocks of 1 MiB, without hashing, each side on one thread of its own.

use dosvc_content::{Block, PieceLengths};
use dosvc_wire::Limits;
use dosvc_wire::net::*;
use std::error::Error;
use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

const MIB: u64 = 1 << 20;
const BLOCK_LEN: usize = 1 << 20;
/// Blocks asked for at once.
const PIPELINE: usize = 16;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let gib: u64 = args.next().map_or(Ok(4), |text| text.parse())?;
    let dir = args.next().unwrap_or_else(|| "/tmp".to_owned());
    let lengths = PieceLengths::new(gib << 30, MIB)?;
    let file = warm_file(&dir, lengths.content_length())?;
    for round in 1..=3 {
        let file = Arc::clone(&file);
        let (port, listening) = std::sync::mpsc::channel();
        let sender = std::thread::spawn(move || {
            on_this_thread(async move {
                let any: SocketAddr = ([127, 0, 0, 1], 0).into();
                let listener = Listener::bind(&[any])?;
                port.send(listener.local_addrs()[0])?;
                serve(listener.accept().await.0, lengths, file).await
            })
        });
        let addr = listening.recv()?;
        let (received, wall) = on_this_thread(async move {
            let start = Instant::now();
            fetch(dial(addr, Duration::from_secs(5)).await?, lengths).await?;
            Ok(start.elapsed())
        })?;
        let (sent, ()) = sender.join().map_err(|_| "the sender panicked")??;
        println!(
            "round {round}: {:.2} GB/s, CPU s/GiB: sender {:.3}, receiver {:.3}",
            lengths.content_length() as f64 / wall.as_secs_f64() / 1e9,
            sent.as_secs_f64() / gib as f64,
            received.as_secs_f64() / gib as f64,
        );
    }
    Ok(())
}

/// Runs to the end on this thread alone: the processor time it took, and the result.
fn on_this_thread<T>(run: impl Future<Output = Result<T>>) -> Result<(Duration, T)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let before = thread_cpu()?;
    let value = runtime.block_on(run)?;
    Ok((thread_cpu()? - before, value))
}

fn thread_cpu() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos = text.split(' ').next().ok_or("no times")?.parse()?;
    Ok(Duration::from_nanos(nanos))
}

fn warm_file(dir: &str, len: u64) -> Result<Arc<File>> {
    let mut file = tempfile::tempfile_in(dir)?;
    let chunk: Vec<u8> = (0..MIB).map(|i| (i % 251) as u8).collect();
    for _ in 0..len / MIB {
        file.write_all(&chunk)?;
    }
    file.sync_all()?;
    Ok(Arc::new(file))
}

fn params(lengths: PieceLengths) -> (DriveParams, mpsc::Receiver<(u32, Event)>) {
    let (events, receiver) = mpsc::channel(256);
    let params = DriveParams {
        key: 0,
        lengths: Some(lengths),
        limits: Limits::default(),
        pool: BlockPool::new(BLOCK_LEN, 32),
        down: Arc::new(Unlimited),
        feeds: Feeds::default(),
        up: Arc::new(Unlimited),
        events,
    };
    (params, receiver)
}

async fn serve(stream: TcpStream, lengths: PieceLengths, file: Arc<File>) -> Result<()> {
    let (commands, receiver) = command_channel();
    let (params, mut events) = params(lengths);
    let driver = drive(stream, params, receiver);
    commands.send(Command::Unchoke)?;
    let swarm = async {
        while let Some((_, event)) = events.recv().await {
            if let Event::Requested(block) = event {
                let offset = lengths.block_offset(block);
                let body = Body::File {
                    file: Arc::clone(&file),
                    offset,
                };
                commands.send(Command::Serve { block, body })?;
            }
        }
        Ok(())
    };
    tokio::join!(driver, swarm).1
}

async fn fetch(stream: TcpStream, lengths: PieceLengths) -> Result<()> {
    let (commands, receiver) = command_channel();
    let (params, mut events) = params(lengths);
    let driver = drive(stream, params, receiver);
    let mut wanted = lengths
        .pieces()
        .filter_map(|piece| lengths.block(piece.get(), 0, lengths.len(piece)));
    let mut request = |n| {
        wanted
            .by_ref()
            .take(n)
            .try_for_each(|block: Block| commands.send(Command::Request(block)))
    };
    let swarm = async {
        let mut left = lengths.piece_count();
        while let Some((_, event)) = events.recv().await {
            match event {
                Event::Unchoked => request(PIPELINE)?,
                Event::Received { .. } => {
                    left -= 1;
                    request(1)?;
                    if left == 0 {
                        commands.send(Command::Close)?;
                    }
                }
                Event::Closed(reason) if left > 0 => return Err(reason.into()),
                _ => {}
            }
        }
        Ok(())
    };
    tokio::join!(driver, swarm).1
}
