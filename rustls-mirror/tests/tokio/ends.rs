//! How streams end.

use std::io::ErrorKind;

use mirror_hook::event::CloseReason;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use crate::support::{assert_exchanged, connected, connected_on, recorded, soon, text};

#[tokio::test]
async fn one_direction_ends_and_the_other_goes_on() {
    let (mut client, mut server) = connected("half").await;
    client.write_all(b"all I have to say").await.unwrap();
    client.shutdown().await.unwrap();
    let mut asked = Vec::new();
    server.read_to_end(&mut asked).await.unwrap();
    assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
    let (by_client, by_server) = recorded("half");
    assert_eq!(by_client.closes, [(CloseReason::SentEnd, 17, 0)]);
    assert_eq!(by_server.closes, [(CloseReason::ReceivedEnd, 0, 17)]);

    let long = text(6, 50_000);
    server.write_all(&long).await.unwrap();
    server.shutdown().await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert!(answer == long);
    drop((client, server));
    assert_exchanged("half", b"all I have to say", &long);
    let (by_client, by_server) = recorded("half");
    for (recorded, sent, received) in [(by_client, 17, 50_000), (by_server, 50_000, 17)] {
        assert!(recorded.ended_by(CloseReason::SentEnd));
        assert!(recorded.ended_by(CloseReason::ReceivedEnd));
        assert_eq!(recorded.closes.len(), 3);
        assert_eq!(recorded.closes[2], (CloseReason::Free, sent, received));
    }
}

#[tokio::test]
async fn the_peer_goes_away_without_a_close_notify() {
    let (mut client, mut server) = connected("truncated").await;
    client.write_all(b"unfinis").await.unwrap();
    client.flush().await.unwrap();
    drop(client);
    let mut asked = Vec::new();
    let error = server.read_to_end(&mut asked).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    assert_eq!(asked, b"unfinis");
    assert_exchanged("truncated", b"unfinis", b"");
    let (by_client, by_server) = recorded("truncated");
    assert_eq!(by_client.closes, [(CloseReason::Free, 7, 0)]);
    assert_eq!(by_server.closes, [(CloseReason::ReceivedEnd, 0, 7)]);
}

#[tokio::test]
async fn a_shutdown_that_has_to_wait() {
    let (near, far) = duplex(1000);
    let (mut client, mut server) = connected_on("waits", near, far).await;
    let long = text(7, 60_000);
    assert_eq!(client.write(&long).await.unwrap(), long.len());
    tokio::select! {
        biased;
        result = client.shutdown() => panic!("nobody reads: {result:?}"),
        _ = tokio::task::yield_now() => {}
    }
    // The close_notify is on its way.
    assert_eq!(
        recorded("waits").0.closes,
        [(CloseReason::SentEnd, 60_000, 0)]
    );
    let mut heard = Vec::new();
    let (shut, read) = soon("the end", async {
        tokio::join!(client.shutdown(), server.read_to_end(&mut heard))
    })
    .await;
    shut.unwrap();
    assert_eq!(read.unwrap(), 60_000);
    assert_exchanged("waits", &long, b"");
}

/// What is written behind a close_notify the peer doesn't read.
#[tokio::test]
async fn text_behind_the_end() {
    let (mut client, mut server) = connected("behind").await;
    client.write_all(b"last words").await.unwrap();
    client.get_mut().1.send_close_notify();
    client.write_all(b", and more").await.unwrap();
    client.flush().await.unwrap();
    let mut heard = Vec::new();
    server.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"last words");
    drop(client);
    assert_exchanged("behind", b"last words", b"");
    let by_client = recorded("behind").0;
    assert_eq!(by_client.closes.last(), Some(&(CloseReason::Free, 10, 0)));
}

#[tokio::test]
async fn a_peer_that_breaks_the_protocol() {
    let (mut client, mut server) = connected("broken").await;
    client.write_all(b"good").await.unwrap();
    client.flush().await.unwrap();
    // A record that isn't encrypted by these keys, right behind a good one.
    let transport = client.get_mut().0;
    let bogus = [
        23, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0,
    ];
    transport.write_all(&bogus).await.unwrap();
    let mut heard = [0; 10];
    let error = soon("an error", server.read(&mut heard)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    // What came before it can be read all the same.
    assert_eq!(soon("text", server.read(&mut heard)).await.unwrap(), 4);
    assert_eq!(&heard[..4], b"good");
    // Nothing is taken any more.
    server.write_all(b"not accepted").await.unwrap_err();
    assert_exchanged("broken", b"good", b"");
    drop(server);
    let by_server = recorded("broken").1;
    assert_eq!(by_server.closes, [(CloseReason::Abort, 0, 4)]);
    // The peer gets the alert.
    client.read(&mut [0]).await.unwrap_err();
    drop(client);
    assert_eq!(recorded("broken").0.closes, [(CloseReason::Abort, 4, 0)]);
}
