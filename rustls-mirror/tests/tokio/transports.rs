//! Transports that take and give little, pause, and fail.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use mirror_hook::event::CloseReason;
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex,
};

use crate::support::{Random, assert_exchanged, connected_on, recorded, soon, text};

/// A transport that does a part of what it is asked for, or pauses, or fails, at random.
#[derive(Debug)]
struct Rough {
    io: DuplexStream,
    random: Random,
    /// Of 100 calls of a write, how many fail, and how.
    failures: usize,
    kind: ErrorKind,
    failed: usize,
}

impl Rough {
    fn new(io: DuplexStream, seed: u64) -> Self {
        Self {
            io,
            random: Random(seed),
            failures: 0,
            kind: ErrorKind::TimedOut,
            failed: 0,
        }
    }

    /// How much is to be done now.
    fn some(&mut self, context: &Context<'_>, most: usize) -> Poll<usize> {
        if self.random.below(3) == 0 {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let little = 1 + self.random.below(50);
        let much = 1 + self.random.below(most.max(1));
        Poll::Ready(most.min([little, much][self.random.below(2)]))
    }
}

impl AsyncRead for Rough {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Poll::Ready(most) = self.some(context, buffer.remaining()) else {
            return Poll::Pending;
        };
        let mut part = vec![0; most];
        let mut part = ReadBuf::new(&mut part);
        let result = Pin::new(&mut self.io).poll_read(context, &mut part);
        buffer.put_slice(part.filled());
        result
    }
}

impl AsyncWrite for Rough {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.random.below(100) < self.failures {
            self.failed += 1;
            return Poll::Ready(Err(self.kind.into()));
        }
        match self.some(context, bytes.len()) {
            Poll::Ready(most) => Pin::new(&mut self.io).poll_write(context, &bytes[..most]),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all: Vec<u8> = buffers
            .iter()
            .flat_map(|part| part.iter().copied())
            .collect();
        self.poll_write(context, &all)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.some(context, 1) {
            Poll::Ready(_) => Pin::new(&mut self.io).poll_flush(context),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// Writes all of `text` in random ways, and says that this is all.
async fn say<S: AsyncWrite + Unpin>(stream: &mut S, text: &[u8], random: &mut Random) {
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let size = rest.len().min(1 + random.below(30_000));
        at += match random.below(4) {
            0 => {
                let (one, two) = rest[..size].split_at(random.below(size));
                let parts = [IoSlice::new(one), IoSlice::new(two)];
                stream.write_vectored(&parts).await.unwrap()
            }
            1 => {
                stream.write_all(&rest[..size]).await.unwrap();
                stream.flush().await.unwrap();
                size
            }
            _ => stream.write(&rest[..size]).await.unwrap(),
        };
    }
    stream.shutdown().await.unwrap();
}

/// Reads all that comes, in random sizes.
async fn hear<S: AsyncRead + Unpin>(stream: &mut S, random: &mut Random) -> Vec<u8> {
    let mut heard = Vec::new();
    loop {
        let mut buffer = vec![0; 1 + random.below(20_000)];
        match stream.read(&mut buffer).await.unwrap() {
            0 => return heard,
            count => heard.extend(&buffer[..count]),
        }
    }
}

#[tokio::test]
async fn little_by_little() {
    for seed in 0..12 {
        let name = format!("rough-{seed}");
        let mut random = Random(seed);
        let (near, far) = duplex(1 + random.below(40_000));
        let (near, far) = (Rough::new(near, seed), Rough::new(far, seed + 100));
        let (client, server) = connected_on(&name, near, far).await;
        let asked = text(seed, random.below(150_000));
        let answered = text(seed + 1, random.below(150_000));
        let (mut client_reads, mut client_writes) = tokio::io::split(client);
        let (mut server_reads, mut server_writes) = tokio::io::split(server);
        let mut randoms = [seed, seed + 1, seed + 2, seed + 3].map(Random);
        let [one, two, three, four] = &mut randoms;
        let ((), (), at_server, at_client) = soon("all text", async {
            tokio::join!(
                say(&mut client_writes, &asked, one),
                say(&mut server_writes, &answered, two),
                hear(&mut server_reads, three),
                hear(&mut client_reads, four),
            )
        })
        .await;
        assert!(at_server == asked && at_client == answered);
        assert_exchanged(&name, &asked, &answered);
        let (by_client, by_server) = recorded(&name);
        for recorded in [by_client, by_server] {
            assert!(recorded.ended_by(CloseReason::SentEnd));
            assert!(recorded.ended_by(CloseReason::ReceivedEnd));
        }
    }
}

/// What the peer gets of writes that fail in the transport, and of those behind them. rustls has taken
/// some of the text of a write that failed, and sends it later.
async fn written_through_failures(name: &str, limit: Option<usize>, vectored: bool) -> Vec<u8> {
    let (near, far) = duplex(10_000_000);
    let (mut client, mut server) = connected_on(name, Rough::new(near, 7), far).await;
    let (transport, mut connection) = client.get_mut();
    transport.failures = 10;
    connection.set_buffer_limit(limit);
    for round in 0..60 {
        let part = text(round, 90_000);
        // Behind a flush, rustls takes text before it meets the transport.
        while client.flush().await.is_err() {}
        let parts = [IoSlice::new(&part[..20_000]), IoSlice::new(&part[20_000..])];
        // What became of it is told by the peer.
        let _written_or_failed = match vectored {
            true => client.write_vectored(&parts).await,
            false => client.write(&part).await,
        };
    }
    while client.flush().await.is_err() {}
    assert!(client.get_ref().0.failed > 20);
    client.get_mut().0.failures = 0;
    client.shutdown().await.unwrap();
    let mut truth = Vec::new();
    soon("the end", server.read_to_end(&mut truth))
        .await
        .unwrap();
    truth
}

#[tokio::test]
async fn a_transport_that_fails_and_recovers() {
    for (number, limit) in [Some(64 * 1024), Some(5000), None].into_iter().enumerate() {
        for vectored in [false, true] {
            let name = format!("recovers-{number}-{vectored}");
            let truth = written_through_failures(&name, limit, vectored).await;
            assert!(truth.len() > 100_000);
            assert_exchanged(&name, &truth, b"");
        }
    }
}

/// Records wait, the transport fails, and it can't be known what rustls took: the mirror ends, exactly.
#[tokio::test]
async fn a_count_that_is_lost() {
    let (near, far) = duplex(20_000);
    let (mut client, mut server) = connected_on("lost-count", Rough::new(near, 8), far).await;
    let first = text(1, 50_000);
    tokio::select! {
        biased;
        result = client.write_all(&first) => result.unwrap(),
        _ = tokio::task::yield_now() => {}
    }
    client.get_mut().0.failures = 100;
    assert_eq!(
        client.write(&first).await.unwrap_err().kind(),
        ErrorKind::TimedOut
    );
    let said = recorded("lost-count").0;
    assert_eq!(said.closes.last().unwrap().0, CloseReason::Abort);
    client.get_mut().0.failures = 0;
    let (shut, truth) = tokio::join!(client.shutdown(), async {
        let mut truth = Vec::new();
        soon("the end", server.read_to_end(&mut truth))
            .await
            .map(|_| truth)
    });
    shut.unwrap();
    let truth = truth.unwrap();
    let said = recorded("lost-count").0;
    assert!(!said.sent().is_empty() && said.sent().len() < truth.len());
    assert!(truth.starts_with(said.sent()));
}

#[tokio::test]
async fn a_transport_that_is_reset() {
    let (near, far) = duplex(1_000_000);
    let (mut client, mut server) = connected_on("reset", Rough::new(near, 9), far).await;
    client.write_all(b"before").await.unwrap();
    client.flush().await.unwrap();
    let transport = client.get_mut().0;
    transport.kind = ErrorKind::ConnectionReset;
    transport.failures = 100;
    let result = client.write(b"too late").await;
    assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionReset);
    drop(client);
    let mut truth = [0; 6];
    server.read_exact(&mut truth).await.unwrap();
    // It went to the transport as far as rustls knows.
    let (said, heard) = recorded("reset");
    assert_eq!(said.sent(), b"beforetoo late");
    assert!(said.ended_by(CloseReason::Abort));
    assert_eq!(heard.received(), b"before");
}
