//! Rate limits, buffers, silence.

use crate::rig::*;
use dosvc_wire::net::*;
use dosvc_wire::{Expired, Header, Limits, Message};
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;

/// Both ends limited: what was let through is what moved, with its headers.
#[tokio::test]
async fn a_limit_is_drawn_from_for_the_bytes_of_blocks_and_what_they_weigh() {
    let (up, down) = (Gate::new(), Gate::new());
    let (a, b) = streams().await;
    let mut seeder = Driven::new(
        a,
        Options {
            up: up.clone(),
            ..Options::default()
        },
    );
    let mut leecher = Driven::new(
        b,
        Options {
            down: down.clone(),
            ..Options::default()
        },
    );
    seeder.send(Command::Unchoke);
    assert!(matches!(leecher.next().await, Event::Unchoked));
    let asked = block(0, 0, 100_001);
    leecher.send(Command::Request(asked));
    assert!(matches!(seeder.next().await, Event::Requested(_)));
    let bytes = content(100_001);
    let body = Body::File {
        file: file_of(&bytes),
        offset: 0,
    };
    seeder.send(Command::Serve { block: asked, body });
    up.open(1 << 20);
    assert!(matches!(seeder.next().await, Event::Served { .. }));
    let weighs = 100_001..=110_000;
    assert!(weighs.contains(&up.taken()), "{}", up.taken());
    down.open(1 << 20);
    assert!(matches!(leecher.next().await, Event::Received { data, .. } if data[..] == bytes));
    // What came along with the header was in memory already.
    // What is read makes room for more, which the seeder might send.
    let weighs = 90_000..=220_000;
    assert!(weighs.contains(&down.taken()), "{}", down.taken());
}

#[tokio::test]
async fn without_a_free_buffer_a_connection_waits_and_goes_on() {
    let pool = BlockPool::new(MIB as usize, 1);
    let kept = pool.acquire(1).await;
    let (mut driven, mut raw) = against_raw(Options {
        pool: pool.clone(),
        ..Options::default()
    })
    .await;
    raw.send(&Message::Unchoke).await;
    assert!(matches!(driven.next().await, Event::Unchoked));
    driven.send(Command::Request(block(0, 0, 7)));
    assert_eq!(raw.header().await, Header::Request(block(0, 0, 7).into()));
    let data = bytes::Bytes::from_static(b"seven b");
    raw.send(&Message::Piece {
        piece: 0,
        offset: 0,
        data,
    })
    .await;
    driven.send(Command::Interested(true));
    assert_eq!(raw.header().await, Header::Interested, "it still sends");
    drop(kept);
    assert!(matches!(driven.next().await, Event::Received { data, .. } if data[..] == *b"seven b"));
}

fn impatient() -> Options {
    Options {
        limits: Limits {
            keep_alive_interval: Duration::from_millis(100),
            idle_timeout: Duration::from_millis(300),
            ..Limits::default()
        },
        ..Options::default()
    }
}

#[tokio::test]
async fn a_quiet_connection_is_kept_alive() {
    let (_driven, mut raw) = against_raw(Options {
        limits: Limits {
            keep_alive_interval: Duration::from_millis(20),
            ..Limits::default()
        },
        ..Options::default()
    })
    .await;
    for _ in 0..3 {
        assert_eq!(raw.header().await, Header::KeepAlive);
    }
}

#[tokio::test]
async fn half_a_message_and_then_silence_ends_the_connection() {
    for cut in [0, 3, 4, 8] {
        let (driven, mut raw) = against_raw(impatient()).await;
        raw.bytes(&[0, 0, 0, 5, 4, 0, 0, 0, 1][..cut]).await;
        assert_eq!(driven.closed().await, CloseReason::Expired(Expired::Silent));
    }
}

#[tokio::test]
async fn half_a_block_and_then_silence_gives_the_buffer_back() {
    let (mut driven, mut raw) = against_raw(impatient()).await;
    raw.send(&Message::Unchoke).await;
    assert!(matches!(driven.next().await, Event::Unchoked));
    driven.send(Command::Request(block(0, 0, MIB)));
    let mut half = Vec::new();
    Header::Piece(block(0, 0, MIB).into()).encode(&mut half);
    half.extend([0; 5000]);
    raw.bytes(&half).await;
    assert_eq!(driven.closed().await, CloseReason::Expired(Expired::Silent));
}

/// A peer that asks and never reads, but keeps itself alive, is found out all the same.
#[tokio::test]
async fn a_peer_that_takes_nothing_ends_the_connection() {
    let (mut driven, raw) = against_raw(impatient()).await;
    driven.send(Command::Unchoke);
    let (_unread, mut write) = raw.0.into_split();
    let file = file_of(&content(MIB as usize));
    let closing = async {
        loop {
            match driven.next().await {
                Event::Requested(block) => {
                    let body = Body::File {
                        file: file.clone(),
                        offset: 0,
                    };
                    driven.send(Command::Serve { block, body });
                }
                Event::Closed(reason) => return reason,
                _ => {}
            }
        }
    };
    let asking = async {
        loop {
            for piece in 0..10 {
                let mut request = Vec::new();
                Header::Request(block(piece, 0, MIB).into()).encode(&mut request);
                if write.write_all(&request).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let reason = tokio::select! {
        reason = closing => reason,
        () = asking => unreachable!("it asks for ever"),
    };
    assert_eq!(reason, CloseReason::Expired(Expired::Stalled));
}

/// While we hold the peer back ourselves, its silence is ours, and so is a standstill of what we send.
#[tokio::test]
async fn waiting_for_a_rate_limit_is_no_silence() {
    let (up, down) = (Gate::new(), Gate::new());
    let limits = Limits {
        keep_alive_interval: Duration::from_millis(100),
        idle_timeout: Duration::from_secs(1),
        ..Limits::default()
    };
    let (mut driven, mut raw) = against_raw(Options {
        limits,
        up: up.clone(),
        down: down.clone(),
        ..Options::default()
    })
    .await;
    driven.send(Command::Unchoke);
    raw.send(&Message::Unchoke).await;
    raw.send(&Message::Request(block(0, 0, 9).into())).await;
    assert!(matches!(driven.next().await, Event::Unchoked));
    assert!(matches!(driven.next().await, Event::Requested(_)));
    assert_eq!(raw.header().await, Header::Unchoke);
    driven.send(Command::Request(block(1, 0, 50_000)));
    assert_eq!(
        raw.header().await,
        Header::Request(block(1, 0, 50_000).into())
    );
    let body = Body::Bytes(vec![0; 9].into());
    driven.send(Command::Serve {
        block: block(0, 0, 9),
        body,
    });
    raw.send(&Message::Piece {
        piece: 1,
        offset: 0,
        data: vec![3; 50_000].into(),
    })
    .await;
    // Longer than either patience: this is the one thing here that can only be waited out.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    up.open(9);
    assert!(matches!(driven.next().await, Event::Served { .. }));
    down.open(50_000);
    assert!(matches!(driven.next().await, Event::Received { data, .. } if data[..] == [3; 50_000]));
}
