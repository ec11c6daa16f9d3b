use super::*;
use std::net::Ipv4Addr;

fn here() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// Answers every stream with what comes on it, turned round.
async fn echo(endpoint: QuicEndpoint) {
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            let connection = incoming.await.unwrap();
            while let Ok((mut send, mut receive)) = connection.accept_bi().await {
                let mut bytes = receive.read_to_end(64 << 20).await.unwrap();
                bytes.reverse();
                send.write_all(&bytes).await.unwrap();
                send.finish().unwrap();
            }
        });
    }
}

async fn ask(connection: &Connection, bytes: &[u8]) -> Vec<u8> {
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(bytes).await.unwrap();
    send.finish().unwrap();
    receive.read_to_end(64 << 20).await.unwrap()
}

#[tokio::test]
async fn each_end_knows_who_the_other_is() {
    let [ours, theirs] = [(); 2].map(|()| Identity::generate().unwrap());
    let server = QuicEndpoint::direct(&theirs, here()).unwrap();
    let client = QuicEndpoint::direct(&ours, here()).unwrap();
    let address = server.local_addr().unwrap();
    let accepted = tokio::spawn(async move { server.accept().await.unwrap().await.unwrap() });
    let dialled = client
        .dial(address, Some(theirs.peer_id()), Manner::Foreground)
        .await
        .unwrap();
    let accepted = accepted.await.unwrap();
    assert_eq!(peer_of(&dialled).unwrap(), theirs.peer_id());
    assert_eq!(peer_of(&accepted).unwrap(), ours.peer_id());
    assert_ne!(ours.peer_id(), theirs.peer_id());
}

#[tokio::test]
async fn another_peer_than_the_expected_one_is_refused() {
    let [ours, theirs, other] = [(); 3].map(|()| Identity::generate().unwrap());
    let server = QuicEndpoint::direct(&theirs, here()).unwrap();
    let client = QuicEndpoint::direct(&ours, here()).unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(echo(server));
    let refused = client
        .dial(address, Some(other.peer_id()), Manner::Foreground)
        .await;
    assert!(
        matches!(refused, Err(DialError::Connection(_))),
        "{refused:?}"
    );
    let anybody = client
        .dial(address, None, Manner::Foreground)
        .await
        .unwrap();
    assert_eq!(ask(&anybody, b"hello").await, b"olleh");
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
    let [ours, theirs] = [(); 2].map(|()| Identity::generate().unwrap());
    let server = QuicEndpoint::direct(&theirs, here()).unwrap();
    let client = QuicEndpoint::direct(&ours, here()).unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(echo(server));
    let connection = client
        .dial(address, None, Manner::Background)
        .await
        .unwrap();
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let mut answer = ask(&connection, &bytes).await;
    answer.reverse();
    assert_eq!(answer, bytes);
}
