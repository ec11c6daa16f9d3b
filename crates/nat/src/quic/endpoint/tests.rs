use super::*;
use std::net::Ipv4Addr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn here() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// Answers what comes on every connection, turned round.
async fn echo(endpoint: QuicEndpoint) {
    while let Some(arrival) = endpoint.accept().await {
        tokio::spawn(async move {
            let link = arrival.establish(Manner::Foreground).await.unwrap();
            let mut stream = link.accept().await.unwrap();
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).await.unwrap();
            bytes.reverse();
            stream.write_all(&bytes).await.unwrap();
            stream.shutdown().await.unwrap();
            // The other end closes when it has everything.
            stream.connection().clone().closed().await;
        });
    }
}

async fn ask(link: Link, bytes: &[u8]) -> Vec<u8> {
    let mut stream = link.open().await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    answer
}

fn ends() -> (QuicEndpoint, QuicEndpoint, PeerId, PeerId) {
    let [ours, theirs] = [(); 2].map(|()| Identity::generate().unwrap());
    let client = QuicEndpoint::direct(&ours, here()).unwrap();
    let server = QuicEndpoint::direct(&theirs, here()).unwrap();
    (client, server, ours.peer_id(), theirs.peer_id())
}

#[tokio::test]
async fn each_end_knows_who_the_other_is() {
    let (client, server, ours, theirs) = ends();
    let address = server.local_addr().unwrap();
    let accepted = tokio::spawn(async move {
        let arrival = server.accept().await.unwrap();
        arrival.establish(Manner::Background).await.unwrap().peer()
    });
    let dialled = client.dial(address, Some(theirs), Manner::Foreground).await;
    assert_eq!(dialled.unwrap().peer(), theirs);
    assert_eq!(accepted.await.unwrap(), ours);
    assert_ne!(ours, theirs);
}

#[tokio::test]
async fn another_peer_than_the_expected_one_is_refused() {
    let (client, server, ours, _) = ends();
    let address = server.local_addr().unwrap();
    tokio::spawn(async move {
        while let Some(arrival) = server.accept().await {
            let _refused = arrival.establish(Manner::Foreground).await;
        }
    });
    let refused = client.dial(address, Some(ours), Manner::Foreground).await;
    assert!(
        matches!(refused, Err(DialError::Connection(_))),
        "{refused:?}"
    );
    let anybody = client.dial(address, None, Manner::Foreground).await;
    assert!(anybody.is_ok(), "{anybody:?}");
}

#[tokio::test]
async fn who_must_show_where_it_is_comes_back_with_proof() {
    let (client, server, _, theirs) = ends();
    let address = server.local_addr().unwrap();
    let accepted = tokio::spawn(async move {
        let first = server.accept().await.unwrap();
        assert!(!first.is_validated());
        first.validate();
        let second = server.accept().await.unwrap();
        assert!(second.is_validated());
        second.establish(Manner::Foreground).await.unwrap()
    });
    let dialled = client.dial(address, Some(theirs), Manner::Foreground).await;
    assert_eq!(dialled.unwrap().peer(), theirs);
    accepted.await.unwrap();
}

#[tokio::test]
async fn a_peer_has_one_stream_and_little_room_until_it_was_introduced() {
    let (client, server, _, theirs) = ends();
    let address = server.local_addr().unwrap();
    let accepted = tokio::spawn(async move {
        let arrival = server.accept().await.unwrap();
        let link = arrival.establish(Manner::Foreground).await.unwrap();
        (link.accept().await.unwrap(), server)
    });
    let link = client.dial(address, Some(theirs), Manner::Foreground).await;
    let connection = link.unwrap().connection().clone();
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    let flood = vec![7; 4 << 20];
    let mut sent = 0;
    loop {
        let wait = Duration::from_millis(300);
        match tokio::time::timeout(wait, send.write(&flood[sent..])).await {
            Ok(n) => sent += n.unwrap(),
            // Nobody reads.
            Err(_) => break,
        }
    }
    let (mut theirs, _server) = accepted.await.unwrap();
    // What is under way and waits with us is QUIC's own business; what reaches the other end is bounded.
    let came = theirs.connection().stats().udp_rx.bytes;
    assert!(came <= u64::from(2 * FIRST_WINDOW), "{came} of {sent}");
    let second = tokio::time::timeout(Duration::from_millis(100), connection.open_bi());
    assert!(second.await.is_err(), "a second stream waits for ever");
    let datagram = connection.send_datagram(bytes::Bytes::from_static(b"x"));
    assert!(datagram.is_err(), "{datagram:?}");
    let mut first = [0; 10];
    theirs.read_exact(&mut first).await.unwrap();
    assert_eq!(first, [7; 10]);
}

#[test]
fn a_kept_key_is_the_same_peer() {
    let one = Identity::generate().unwrap();
    let again = Identity::from_key(one.key()).unwrap();
    assert_eq!(one.peer_id(), again.peer_id());
    assert!(Identity::from_key(b"no key").is_err());
}

#[tokio::test]
async fn background_connections_move_bytes_too() {
    let (client, server, _, theirs) = ends();
    let address = server.local_addr().unwrap();
    tokio::spawn(echo(server));
    let link = client.dial(address, Some(theirs), Manner::Background).await;
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let mut answer = ask(link.unwrap(), &bytes).await;
    answer.reverse();
    assert!(answer == bytes);
}

#[tokio::test]
async fn a_limited_reader_bounds_what_is_under_way() {
    let (client, server, _, theirs) = ends();
    let address = server.local_addr().unwrap();
    let accepted = tokio::spawn(async move {
        let arrival = server.accept().await.unwrap();
        let link = arrival.establish(Manner::Foreground).await.unwrap();
        (link.accept().await.unwrap(), server)
    });
    let link = client.dial(address, Some(theirs), Manner::Foreground).await;
    let mut stream = link.unwrap().open().await.unwrap();
    tokio::spawn(async move {
        let bytes = vec![1; 1 << 20];
        while stream.write_all(&bytes).await.is_ok() {}
    });
    let (stream, _server) = accepted.await.unwrap();
    let (mut reader, _writer) = stream.into_halves();
    let mut buffer = vec![0; 64 << 10];
    // What was allowed at first.
    let mut first = 0;
    while first < FIRST_WINDOW as usize {
        reader.set_rate(Some(1_000_000));
        first += reader.read(&mut buffer).await.unwrap();
    }
    // Until nothing more comes, for nothing more may.
    let mut came = 0;
    while came != reader.counted() {
        came = reader.counted();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let waits = reader.read(&mut buffer).await.unwrap();
    assert!(
        waits <= 32 << 10,
        "1 MB/s on loopback needs no more: {waits}"
    );
}
