//! What peers are told of whether somebody waits for a download.

#[allow(
    dead_code,
    unreachable_pub,
    reason = "shared by test programs, each of which uses a part of it"
)]
mod support;

use dosvc_content::PeerId;
use dosvc_engine::api::GetRequest;
use dosvc_wire::{CAPABILITY_WAITS, Extension, Handshake, Header, Message, net};
use std::net::SocketAddr;
use support::{Node, Origin, PATIENCE, content, soon};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

const MIB: usize = 1 << 20;

/// A peer that has everything and gives nothing, and whether each Hello that it hears says that somebody waits.
async fn listener() -> (SocketAddr, mpsc::UnboundedReceiver<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (told, hellos) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(listen(stream, told.clone()));
        }
    });
    (address, hellos)
}

async fn listen(mut stream: TcpStream, told: mpsc::UnboundedSender<bool>) -> Option<()> {
    let theirs = net::receive_handshake(&mut stream, PATIENCE).await.ok()?;
    let ours = Handshake::new(theirs.swarm, PeerId::from_random([1; 16]));
    net::send_handshake(&mut stream, &ours).await.ok()?;
    let mut all = Vec::new();
    Message::Bitfield(vec![0xff].into()).encode(&mut all);
    stream.write_all(&all).await.ok()?;
    let mut head = Vec::new();
    loop {
        head.push(stream.read_u8().await.ok()?);
        let Some((header, _)) = Header::decode(&head).expect("ours are valid") else {
            continue;
        };
        head.clear();
        let mut payload = vec![0; header.payload_len() as usize];
        stream.read_exact(&mut payload).await.ok()?;
        if let Header::Extension { .. } = header
            && let Some(Extension::Hello { capabilities, .. }) =
                Extension::decode(&payload).expect("ours are valid")
        {
            told.send(capabilities & CAPABILITY_WAITS != 0).ok()?;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_hear_when_somebody_begins_to_wait_and_when_nobody_does_any_more() {
    let origin = Origin::start().await;
    let url = origin.publish("a", &content(5, 8 * MIB));
    origin.limit(MIB as u64 / 8);
    let (peer, mut hellos) = listener().await;
    let node = Node::start(&[("download_mode", "1")], &[]).await;
    let request = |foreground| GetRequest {
        urls: vec![url.clone()],
        peers: vec![peer],
        foreground,
        ..GetRequest::default()
    };
    let _in_background = node.request(request(false)).await;
    let mut said = async || soon("a Hello", hellos.recv()).await.expect("it is told");
    assert!(!said().await, "nobody waits");
    let waited_for = node.request(request(true)).await;
    assert!(said().await, "somebody waits");
    let cancelled = soon("cancelling", node.engine.cancel(waited_for)).await;
    cancelled.expect("it runs");
    assert!(!said().await, "nobody waits any more");
}
