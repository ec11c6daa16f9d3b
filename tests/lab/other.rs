//! Somebody else at a bottleneck.

use crate::namespace::Node;
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// What most of the world's senders are: they fill queues, and every kernel knows them.
pub(crate) const CUBIC: &str = "cubic";
/// What many servers are: it keeps queues short, and not every kernel knows it.
pub(crate) const BBR: &str = "bbr";

/// Somebody else's download: one flow, as fast as it goes.
pub(crate) struct Other {
    bytes: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Other {
    /// A cubic flow until this is dropped.
    pub(crate) fn start(from: &Node, to: &Node) -> Self {
        Self::start_as(CUBIC, from, to).expect("every kernel has it, and the suite runs as root")
    }

    /// A flow with another congestion control, if the kernel has it.
    pub(crate) fn start_as(congestion: &str, from: &Node, to: &Node) -> Option<Self> {
        let listener = from
            .enter(|| TcpListener::bind(from.address(0)))
            .expect("the machine has the address");
        // Connections inherit it.
        socket2::SockRef::from(&listener)
            .set_tcp_congestion(congestion.as_bytes())
            .ok()?;
        let address = listener.local_addr().expect("it is bound");
        let stop = Arc::new(AtomicBool::new(false));
        let bytes = Arc::new(AtomicU64::new(0));
        let sender = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("the other end connects");
            // Ends when the other end closes.
            while stream.write_all(&[0; 64 << 10]).is_ok() {}
        });
        let mut stream = connect(to, address);
        let receiver = thread::spawn({
            let (stop, bytes) = (Arc::clone(&stop), Arc::clone(&bytes));
            move || {
                let mut buffer = vec![0; 256 << 10];
                while !stop.load(Ordering::Relaxed) {
                    let n = stream.read(&mut buffer).expect("the sender goes on");
                    bytes.fetch_add(n as u64, Ordering::Relaxed);
                }
            }
        });
        Some(Self {
            bytes,
            stop,
            threads: vec![sender, receiver],
        })
    }

    /// What has arrived so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn connect(from: &Node, to: SocketAddr) -> TcpStream {
    from.enter(|| TcpStream::connect(to))
        .expect("the other end listens")
}

/// Bytes a second over a time that is part of what is measured, not a wait for something.
pub(crate) fn rate(bytes: impl Fn() -> u64, time: Duration) -> f64 {
    let (before, began) = (bytes(), Instant::now());
    thread::sleep(time);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
    let moved = (bytes() - before) as f64;
    moved / began.elapsed().as_secs_f64()
}
