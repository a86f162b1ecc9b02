//! What is mirrored is what passed: each byte once, in order, at its offset.

use std::future::poll_fn;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::Poll;

use rustls_mirror::tokio::TlsStream;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, duplex, split};

use crate::support::{Random, assert_exchanged, connected, connected_on, recorded, soon, text};

#[tokio::test]
async fn many_sizes_both_ways() {
    let (mut client, mut server) = connected("sizes").await;
    let mut random = Random(1);
    let (mut asked, mut answered) = (Vec::new(), Vec::new());
    for round in 0..60 {
        let size = [0, 1, 2, 1000, 16_383, 16_384, 16_385, 70_000, 300_000][random.below(9)];
        let question = text(round, size);
        let answer = text(round + 1000, random.below(20_000));
        let (wrote, read) = tokio::join!(
            async {
                client.write_all(&question).await.unwrap();
                client.flush().await
            },
            async {
                let mut read = vec![0; question.len()];
                server.read_exact(&mut read).await.map(|_| read)
            }
        );
        wrote.unwrap();
        assert!(read.unwrap() == question);
        server.write_all(&answer).await.unwrap();
        server.flush().await.unwrap();
        let mut read = vec![0; answer.len()];
        client.read_exact(&mut read).await.unwrap();
        assert!(read == answer);
        asked.extend(question);
        answered.extend(answer);
    }
    assert_exchanged("sizes", &asked, &answered);
}

#[tokio::test]
async fn vectored_writes() {
    let (mut client, mut server) = connected("vectored").await;
    assert!(client.is_write_vectored());
    let all = text(2, 200_000);
    let reading = tokio::spawn(async move {
        let mut read = Vec::new();
        server.read_to_end(&mut read).await.unwrap();
        (server, read)
    });
    let mut random = Random(3);
    let mut at = 0;
    let mut written_short = false;
    while at < all.len() {
        let mut parts = Vec::new();
        let mut end = at;
        for _ in 0..random.below(20) {
            let next = all.len().min(end + random.below(9000));
            parts.push(IoSlice::new(&all[end..next]));
            end = next;
        }
        let written = client.write_vectored(&parts).await.unwrap();
        written_short |= written < end - at;
        at += written;
    }
    assert!(written_short, "no write that rustls took in part");
    client.shutdown().await.unwrap();
    let (_server, read) = soon("the end", reading).await.unwrap();
    assert!(read == all);
    assert_exchanged("vectored", &all, b"");
}

#[tokio::test]
async fn text_that_is_shown_isnt_received_until_it_is_consumed() {
    let (mut client, mut server) = connected("shown").await;
    client.write_all(b"some words here").await.unwrap();
    client.flush().await.unwrap();
    for _ in 0..3 {
        assert_eq!(server.fill_buf().await.unwrap(), b"some words here");
    }
    assert_eq!(recorded("shown").1.received(), b"");
    server.consume(5);
    server.consume(0);
    assert_eq!(recorded("shown").1.received(), b"some ");
    let mut word = Vec::new();
    server.read_until(b' ', &mut word).await.unwrap();
    assert_eq!(word, b"words ");
    let mut here = [0; 4];
    server.read_exact(&mut here).await.unwrap();
    assert_exchanged("shown", b"some words here", b"");
    client.shutdown().await.unwrap();
    assert_eq!(server.fill_buf().await.unwrap(), b"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn halves_on_two_tasks() {
    let (client, server) = connected("halves").await;
    let (asked, answered) = (text(4, 1_000_000), text(5, 900_000));
    let ends = [
        (TlsStream::from(client), asked.clone(), answered.clone()),
        (TlsStream::from(server), answered.clone(), asked.clone()),
    ];
    let mut tasks = Vec::new();
    for (end, says, hears) in ends {
        let (mut read, mut write) = split(end);
        tasks.push(tokio::spawn(async move {
            for part in says.chunks(33_333) {
                write.write_all(part).await.unwrap();
            }
            write.shutdown().await.unwrap();
        }));
        tasks.push(tokio::spawn(async move {
            let mut heard = Vec::new();
            read.read_to_end(&mut heard).await.unwrap();
            assert!(heard == hears);
        }));
    }
    for task in tasks {
        soon("the end of a half", task).await.unwrap();
    }
    assert_exchanged("halves", &asked, &answered);
}

/// The transport takes some of a write, and the future of the rest is dropped: what the peer gets is the
/// truth.
#[tokio::test]
async fn futures_that_are_dropped_in_the_middle() {
    let (near, far) = duplex(3000);
    let (mut client, mut server) = connected_on("dropped", near, far).await;
    let mut truth = Vec::new();
    let mut cut = 0;
    for round in 0..50 {
        let wanted = text(round, 150_000);
        tokio::select! {
            biased;
            result = client.write_all(&wanted) => panic!("nobody reads: {result:?}"),
            _ = tokio::task::yield_now() => cut += 1,
        }
        // Some of it, and the reading is dropped, too.
        let mut read = vec![0; 40_000];
        for _ in 0..3 {
            tokio::select! {
                biased;
                count = server.read(&mut read) => truth.extend(&read[..count.unwrap()]),
                _ = tokio::task::yield_now() => {}
            }
        }
    }
    assert_eq!(cut, 50);
    let (shut, rest) = tokio::join!(client.shutdown(), async {
        let mut rest = Vec::new();
        soon("the rest", server.read_to_end(&mut rest))
            .await
            .map(|_| rest)
    });
    shut.unwrap();
    truth.extend(rest.unwrap());
    assert!(truth.len() > 100_000);
    assert_exchanged("dropped", &truth, b"");
}

/// A pending write has accepted nothing: the next may be of other text.
#[tokio::test]
async fn a_pending_write_is_tried_again_with_other_text() {
    let (near, far) = duplex(3000);
    let (mut client, mut server) = connected_on("pending", near, far).await;
    let mut truth = Vec::new();
    let (mut full, mut offered) = (0, 0);
    for round in 0..200 {
        let wanted = text(round, 7000);
        let parts = [IoSlice::new(&wanted[..10]), IoSlice::new(&wanted[10..])];
        let accepted = poll_fn(|context| {
            let client = Pin::new(&mut client);
            let result = if round % 2 == 0 {
                client.poll_write(context, &wanted)
            } else {
                client.poll_write_vectored(context, &parts)
            };
            Poll::Ready(match result {
                Poll::Ready(result) => result.unwrap(),
                Poll::Pending => 0,
            })
        })
        .await;
        offered += wanted.len();
        truth.extend(&wanted[..accepted]);
        if accepted == 0 {
            full += 1;
            let mut read = vec![0; 20_000];
            let reading = async { while server.read(&mut read).await.unwrap() > 0 {} };
            tokio::select! {
                result = soon("room", client.flush()) => result.unwrap(),
                () = reading => panic!("nothing ended"),
            }
        }
        assert!(recorded("pending").0.sent() == truth);
    }
    assert!(
        full > 10 && truth.len() < offered,
        "the transport was never full"
    );
}
