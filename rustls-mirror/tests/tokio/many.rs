//! A thousand connections at once, whose tasks go from thread to thread.

use std::collections::HashSet;
use std::sync::Arc;
use std::thread::{self, ThreadId};

use mirror_hook::event::CloseReason;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls_mirror::tokio::{TlsAcceptor, TlsConnector, TlsStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;

use crate::common::tls;
use crate::support::{Random, both_ends, recorded, soon, text};

const CONNECTIONS: usize = 1000;
const ROUNDS: u64 = 4;

/// What the client of connection `number` says in all, or its server.
fn says(number: usize, client: bool) -> Vec<u8> {
    let seed = number as u64 * 2 + u64::from(client);
    text(seed, 1 + Random(seed).below(20_000))
}

/// One end, a round a task: speaks and listens at once. Gives back on which threads it was.
async fn converse(
    mut stream: TlsStream<TcpStream>,
    says: Vec<u8>,
    hears: Vec<u8>,
) -> HashSet<ThreadId> {
    let mut threads = HashSet::new();
    let (says, hears) = (Arc::new(says), Arc::new(hears));
    for round in 0..ROUNDS {
        let (says, hears) = (says.clone(), hears.clone());
        let task = tokio::spawn(async move {
            let part = |of: &[u8], round: u64| of.len() * usize::try_from(round).unwrap() / 4;
            let now = &says[part(&says, round)..part(&says, round + 1)];
            let expected = &hears[part(&hears, round)..part(&hears, round + 1)];
            let mut ids = HashSet::from([thread::current().id()]);
            for words in now.chunks(3000) {
                stream.write_all(words).await.unwrap();
                tokio::task::yield_now().await;
                ids.insert(thread::current().id());
            }
            stream.flush().await.unwrap();
            let mut heard = vec![0; expected.len()];
            stream.read_exact(&mut heard).await.unwrap();
            assert!(heard == expected);
            (stream, ids)
        });
        let (back, ids) = task.await.unwrap();
        stream = back;
        threads.extend(ids);
    }
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    threads
}

async fn client(
    connector: TlsConnector,
    number: usize,
    address: std::net::SocketAddr,
    all_there: Arc<Barrier>,
) -> HashSet<ThreadId> {
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = tls::name(&format!("many-{number}"));
    let stream = connector.connect(name, tcp).await.unwrap();
    all_there.wait().await;
    converse(stream.into(), says(number, true), says(number, false)).await
}

async fn server(acceptor: TlsAcceptor, tcp: TcpStream) -> HashSet<ThreadId> {
    let stream = acceptor.accept(tcp).await.unwrap();
    let name = stream.get_ref().1.server_name().unwrap();
    let number = name.trim_start_matches("many-").split('.').next();
    let number: usize = number.unwrap().parse().unwrap();
    converse(stream.into(), says(number, false), says(number, true)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_connections() {
    // Two descriptors each.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let limit = Rlimit {
        current: maximum.or(Some(100_000)).map(|most| most.min(100_000)),
        maximum,
    };
    setrlimit(Resource::Nofile, limit).unwrap();

    let (connector, acceptor) = both_ends();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let all_there = Arc::new(Barrier::new(CONNECTIONS));
    let mut tasks = Vec::new();
    for number in 0..CONNECTIONS {
        let all_there = all_there.clone();
        tasks.push(tokio::spawn(client(
            connector.clone(),
            number,
            address,
            all_there,
        )));
    }
    for _ in 0..CONNECTIONS {
        let (tcp, _) = soon("a connection", listener.accept()).await.unwrap();
        tasks.push(tokio::spawn(server(acceptor.clone(), tcp)));
    }
    let mut migrated = 0;
    for task in tasks {
        migrated += usize::from(soon("an end", task).await.unwrap().len() > 1);
    }
    assert!(
        migrated > CONNECTIONS / 10,
        "only {migrated} went to another thread"
    );

    for number in 0..CONNECTIONS {
        let (asked, answered) = (says(number, true), says(number, false));
        let (by_client, by_server) = recorded(&format!("many-{number}"));
        let of_client = (asked.len() as u64, answered.len() as u64);
        for (said, sent, received, (out, back)) in [
            (&by_client, &asked, &answered, of_client),
            (&by_server, &answered, &asked, (of_client.1, of_client.0)),
        ] {
            assert!(
                said.sent() == sent && said.received() == received,
                "{number}"
            );
            assert!(said.ended_by(CloseReason::SentEnd) && said.ended_by(CloseReason::ReceivedEnd));
            assert_eq!(said.closes.last(), Some(&(CloseReason::Free, out, back)));
        }
        let (of_client, of_server) = (by_client.meta(), by_server.meta());
        assert_eq!(of_client.client_random, of_server.client_random);
        assert_eq!(
            of_client.addresses.map(|(local, peer)| (peer, local)),
            of_server.addresses
        );
    }
}
