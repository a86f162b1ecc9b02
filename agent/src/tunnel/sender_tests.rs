//! The sender over loopback, against a collector that does what a test says.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tokio_rustls::TlsAcceptor;

use super::batch::tests::info;
use super::batch::{BatchReader, TunnelChange};
use super::frame::{
    Batch, Frame, Hello, Instance, Message, Reason, Refused, Resume, VERSION, Welcome,
};
use super::outbox::Outbox;
use super::window::Window;
use super::{Collector, Security, Sender, SenderConfig, SharedWindow};
use crate::event::{FlowChange, FlowEvent, FlowSink, ResetCause, Side, WallTime};
use crate::identity::{
    Address, Administration, AgentIdentity, CollectorIdentity, Membership, NewToken, join,
};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const EPOCH: Instance = Instance([5; 16]);

struct Agent {
    outbox: Outbox,
    sender: Sender,
    said: u64,
}

fn address(listener: &TcpListener) -> Address {
    let address = listener.local_addr().unwrap();
    Address::new(&address.ip().to_string(), Some(address.port()))
}

impl Agent {
    fn start(listeners: &[&TcpListener], compression: Option<i32>) -> Self {
        let collector = |listener: &&TcpListener| Collector {
            address: address(listener),
            security: Security::Plaintext,
        };
        Self::start_with(listeners.iter().map(collector).collect(), compression)
    }

    fn start_with(collectors: Vec<Collector>, compression: Option<i32>) -> Self {
        let config = SenderConfig {
            collectors,
            compression,
            instance: Instance([1; 16]),
        };
        let window = SharedWindow::new(Window::new(64 << 20));
        let mut agent = Self {
            outbox: Outbox::new(vec![window.clone()]),
            sender: Sender::start(config, window).unwrap(),
            said: 0,
        };
        agent.tell(FlowChange::Begin(&info(3)));
        agent
    }

    fn tell(&mut self, change: FlowChange<'_>) {
        let event = FlowEvent {
            flow: 1,
            at: WallTime(1_000),
            change,
        };
        self.outbox.flow_event(event);
        self.outbox.flush();
    }

    fn say(&mut self, text: &[u8]) {
        let data = FlowChange::Data {
            from: Side::Client,
            offset: self.said,
            bytes: text,
        };
        self.said += text.len() as u64;
        self.tell(data);
    }

    fn await_line(&self, part: &str) {
        let begun = Instant::now();
        let mut lines = Vec::new();
        while !lines.iter().any(|line: &String| line.contains(part)) {
            assert!(
                begun.elapsed() < PATIENCE,
                "no line with {part:?}: {lines:?}"
            );
            std::thread::yield_now();
            lines.extend(self.sender.take_complaints());
        }
    }

    /// Until nothing waits for an acknowledgement.
    fn await_acknowledged(&self) {
        let begun = Instant::now();
        while !self.sender.window().lock().is_empty() {
            assert!(begun.elapsed() < PATIENCE, "batches aren't acknowledged");
            std::thread::yield_now();
        }
    }
}

fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let begun = Instant::now();
    let stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                assert!(begun.elapsed() < PATIENCE, "no agent comes");
                std::thread::yield_now();
            }
            Err(error) => panic!("{error}"),
        }
    };
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The collector's end of a connection.
struct Peer {
    stream: Box<dyn Stream>,
    buffer: BytesMut,
    hello: Hello,
    pings: u32,
}

impl Peer {
    fn accept(listener: &TcpListener) -> Self {
        Self::greet(Box::new(accept(listener)))
    }

    fn accept_tls(listener: &TcpListener, config: Arc<ServerConfig>) -> Self {
        let connection = ServerConnection::new(config).unwrap();
        Self::greet(Box::new(StreamOwned::new(connection, accept(listener))))
    }

    fn greet(stream: Box<dyn Stream>) -> Self {
        let mut peer = Self {
            stream,
            buffer: BytesMut::new(),
            hello: Hello {
                version: 0,
                instance: EPOCH,
                connection: 0,
                epoch: None,
                oldest: 0,
                clock_ns: 0,
                software: String::new(),
            },
            pings: 0,
        };
        match peer.message() {
            Some(Message::Hello(hello)) => peer.hello = hello,
            other => panic!("no hello: {other:?}"),
        }
        peer
    }

    fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = Frame::decode(&mut self.buffer).unwrap() {
                return Some(frame);
            }
            let mut bytes = [0; 65536];
            let read = self.stream.read(&mut bytes).expect("a frame in time");
            if read == 0 {
                return None;
            }
            self.buffer.extend_from_slice(&bytes[..read]);
        }
    }

    /// The next frame that is no ping.
    fn next(&mut self) -> Option<Frame> {
        loop {
            match self.frame()? {
                Frame::Message(Message::Ping { sent_ns }) => self.answer(sent_ns),
                frame => return Some(frame),
            }
        }
    }

    /// By a clock that is 50 minutes ahead.
    fn answer(&mut self, sent_ns: u64) {
        self.pings += 1;
        self.send(&Message::Pong {
            sent_ns,
            answered_ns: sent_ns + 3_000_000_000_000,
        });
    }

    fn await_ping(&mut self) {
        while self.pings == 0 {
            match self.frame() {
                Some(Frame::Message(Message::Ping { sent_ns })) => self.answer(sent_ns),
                other => panic!("no ping: {other:?}"),
            }
        }
    }

    fn message(&mut self) -> Option<Message> {
        match self.next()? {
            Frame::Message(message) => Some(message),
            Frame::Batch(batch) => panic!("batch {}, no message", batch.seq),
        }
    }

    fn batch(&mut self) -> Batch {
        match self.next() {
            Some(Frame::Batch(batch)) => batch,
            other => panic!("no batch: {other:?}"),
        }
    }

    fn send(&mut self, message: &Message) {
        let mut bytes = BytesMut::new();
        message.encode(&mut bytes);
        self.stream.write_all(&bytes).unwrap();
        self.stream.flush().unwrap();
    }

    fn welcome(&mut self, resume: Resume) {
        self.send(&Message::Welcome(Welcome {
            version: VERSION,
            epoch: EPOCH,
            resume,
            clock_ns: 0,
        }));
    }

    /// Reads until so much of the client has come, and returns it with the number of the last batch.
    fn hear(&mut self, length: usize) -> (Vec<u8>, u64) {
        let (mut text, mut last) = (Vec::new(), 0);
        while text.len() < length {
            let batch = self.batch();
            last = batch.seq;
            text.extend(text_of(&batch));
        }
        (text, last)
    }
}

fn text_of(batch: &Batch) -> Vec<u8> {
    let events = match batch.compressed {
        true => zstd::bulk::decompress(&batch.events, batch.event_bytes as usize).unwrap(),
        false => batch.events.to_vec(),
    };
    let text = BatchReader::new(&events).filter_map(|event| match event.unwrap().change {
        TunnelChange::Data { bytes, .. } => Some(bytes.to_vec()),
        _ => None,
    });
    text.flatten().collect()
}

fn numbers(length: u32) -> Vec<u8> {
    (0..length / 4).flat_map(u32::to_le_bytes).collect()
}

#[test]
fn what_is_said_arrives_and_ends_with_a_goodbye() {
    let listener = listen();
    let mut agent = Agent::start(&[&listener], None);
    let text = numbers(3_000_000);
    text.chunks(16_384).for_each(|chunk| agent.say(chunk));
    let mut collector = Peer::accept(&listener);
    let hello = &collector.hello;
    assert_eq!(
        (hello.version, hello.connection, hello.epoch),
        (VERSION, 1, None)
    );
    collector.welcome(Resume::Anew);
    assert_eq!(collector.message(), Some(Message::PreambleEnd));
    let (heard, last) = collector.hear(text.len());
    assert_eq!(heard, text);
    collector.send(&Message::Ack { through: last });
    agent.await_acknowledged();
    collector.await_ping();
    agent.await_line("s ahead");
    assert!(agent.sender.status().connected.is_some());
    agent.tell(FlowChange::Reset {
        by: Side::Client,
        cause: ResetCause::Abort,
    });
    agent.sender.finish(Instant::now() + PATIENCE);
    let last = collector.batch().seq;
    assert_eq!(collector.message(), Some(Message::Goodbye));
    collector.send(&Message::Ack { through: last });
    assert_eq!(collector.message(), None);
    agent.sender.join();
    let stats = agent.sender.window().lock().stats();
    assert_eq!((stats.waiting_batches, stats.resent_batches), (0, 0));
}

#[test]
fn a_cut_connection_goes_on_where_it_was() {
    let listener = listen();
    let mut agent = Agent::start(&[&listener], None);
    let text = numbers(1_000_000);
    text.chunks(10_000).for_each(|chunk| agent.say(chunk));
    let mut collector = Peer::accept(&listener);
    collector.welcome(Resume::Anew);
    assert_eq!(collector.message(), Some(Message::PreambleEnd));
    let (mut heard, last) = collector.hear(400_000);
    drop(collector);
    let mut collector = Peer::accept(&listener);
    assert_eq!(collector.hello.epoch, Some(EPOCH));
    assert_eq!((collector.hello.connection, collector.hello.oldest), (2, 1));
    collector.welcome(Resume::From(last + 1));
    let (rest, last) = collector.hear(text.len() - heard.len());
    heard.extend(rest);
    assert!(heard == text, "the text is another");
    collector.send(&Message::Ack { through: last });
    agent.await_acknowledged();
    assert_eq!(agent.sender.status().connections, 2);
}

#[test]
fn who_knows_nothing_is_told_of_live_flows_first() {
    let listener = listen();
    let mut agent = Agent::start(&[&listener], None);
    agent.say(b"before");
    let mut collector = Peer::accept(&listener);
    collector.welcome(Resume::Anew);
    assert_eq!(collector.message(), Some(Message::PreambleEnd));
    let (_, last) = collector.hear(6);
    collector.send(&Message::Ack { through: last });
    agent.await_acknowledged();
    agent.say(b"after");
    drop(collector);
    let mut collector = Peer::accept(&listener);
    collector.welcome(Resume::Anew);
    let preamble = collector.batch();
    assert_eq!(preamble.seq, 0);
    let mut events = BatchReader::new(&preamble.events);
    match events.next().unwrap().unwrap().change {
        TunnelChange::Begin(begin) => assert_eq!(begin.base, (6, 0)),
        other => panic!("no beginning: {other:?}"),
    }
    assert!(events.next().is_none());
    assert_eq!(collector.message(), Some(Message::PreambleEnd));
    assert_eq!(collector.hear(5).0, b"after");
}

#[test]
fn a_refusal_is_told_with_its_words() {
    let listener = listen();
    let agent = Agent::start(&[&listener], None);
    let mut collector = Peer::accept(&listener);
    collector.send(&Message::Refused(Refused {
        reason: Reason::Revoked,
        text: "web1 was revoked\x1b[2J on Monday".into(),
    }));
    agent.await_line("web1 was revoked\\u{1b}[2J on Monday; trying again every half a minute");
    assert!(agent.sender.status().connected.is_none());
}

#[test]
fn where_one_collector_fails_another_gets_everything() {
    let (first, second) = (listen(), listen());
    let mut agent = Agent::start(&[&first, &second], None);
    agent.say(b"to whom it may concern");
    let mut collector = Peer::accept(&first);
    collector.welcome(Resume::Anew);
    assert_eq!(collector.message(), Some(Message::PreambleEnd));
    collector.hear(22);
    // Nobody is there any more.
    drop(first);
    drop(collector);
    let mut collector = Peer::accept(&second);
    collector.welcome(Resume::Anew);
    assert_eq!(collector.message(), Some(Message::PreambleEnd));
    assert_eq!(collector.hear(22).0, b"to whom it may concern");
}

#[test]
fn what_becomes_smaller_is_compressed() {
    let listener = listen();
    let mut agent = Agent::start(&[&listener], Some(1));
    let mut collector = Peer::accept(&listener);
    collector.welcome(Resume::Anew);
    assert_eq!(collector.message(), Some(Message::PreambleEnd));
    collector.batch();
    agent.say(&[b'a'; 10_000]);
    let batch = collector.batch();
    assert!(batch.compressed && batch.events.len() < 1_000);
    assert_eq!(text_of(&batch), [b'a'; 10_000]);
    // What can't be made smaller stays as it is.
    agent.say(b"x");
    let batch = collector.batch();
    assert!(!batch.compressed);
    assert_eq!(text_of(&batch), b"x");
}

#[test]
fn who_says_what_cannot_be_is_left() {
    let listener = listen();
    let agent = Agent::start(&[&listener], None);
    let mut collector = Peer::accept(&listener);
    collector.welcome(Resume::From(1));
    agent.await_line("says what only an agent may");
    let mut collector = Peer::accept(&listener);
    collector.welcome(Resume::Anew);
    collector.send(&Message::Ack { through: 7 });
    agent.await_line("batch 7 was acknowledged");
    // It isn't believed to know anything.
    let collector = Peer::accept(&listener);
    assert_eq!(collector.hello.epoch, None);
}

#[test]
fn nobody_is_waited_for_longer_than_was_said() {
    let listener = listen();
    let mut agent = Agent::start(&[&listener], None);
    agent.sender.finish(Instant::now());
    agent.sender.join();
    assert_eq!(agent.sender.window().lock().stats().waiting_batches, 1);
}

/// A collector's identity, and the agent's that has joined it.
fn joined(directory: &Path) -> (CollectorIdentity, Membership) {
    let (theirs, ours) = (directory.join("collector"), directory.join("agent"));
    CollectorIdentity::init(&theirs, &[Address::new("127.0.0.1", None)]).unwrap();
    let listener = listen();
    let new = NewToken {
        addresses: vec![address(&listener)],
        name: None,
        replaces: false,
        networks: Vec::new(),
        valid: PATIENCE,
    };
    let token = Administration::open(&theirs).unwrap().enroll(new).unwrap();
    let identity = CollectorIdentity::load(&theirs).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (stream, peer) = (accept(&listener), address(&listener).host.parse().unwrap());
            stream.set_nonblocking(true).unwrap();
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            runtime.enable_all().build().unwrap().block_on(async {
                let stream = tokio::net::TcpStream::from_std(stream).unwrap();
                let acceptor = TlsAcceptor::from(identity.server_config().unwrap());
                let stream = acceptor.accept(stream).await.unwrap();
                identity.serve_enrolment(stream, peer).await.unwrap();
            });
        });
        join(&ours, &token.encode(), false).unwrap();
    });
    let known = AgentIdentity::load(&ours).unwrap();
    let at = address(&listener);
    (identity, known.membership(&at.host, at.port).unwrap())
}

#[test]
fn the_same_by_tls() {
    let directory = tempfile::tempdir().unwrap();
    let (identity, membership) = joined(directory.path());
    let listener = listen();
    let collectors = vec![Collector {
        address: address(&listener),
        security: Security::Tls(Arc::new(membership)),
    }];
    let mut agent = Agent::start_with(collectors, None);
    let text = numbers(2_000_000);
    text.chunks(16_384).for_each(|chunk| agent.say(chunk));
    let mut collector = Peer::accept_tls(&listener, identity.server_config().unwrap());
    collector.welcome(Resume::Anew);
    assert_eq!(collector.message(), Some(Message::PreambleEnd));
    let (heard, last) = collector.hear(text.len());
    assert!(heard == text, "the text is another");
    collector.send(&Message::Ack { through: last });
    agent.await_acknowledged();
}

#[test]
fn another_collector_is_not_told_anything() {
    let directory = tempfile::tempdir().unwrap();
    let (_, membership) = joined(&directory.path().join("right"));
    let (other, _) = joined(&directory.path().join("wrong"));
    let listener = listen();
    let collectors = vec![Collector {
        address: address(&listener),
        security: Security::Tls(Arc::new(membership)),
    }];
    let agent = Agent::start_with(collectors, None);
    let connection = ServerConnection::new(other.server_config().unwrap()).unwrap();
    let mut stream = StreamOwned::new(connection, accept(&listener));
    assert!(stream.read(&mut [0; 100]).is_err());
    agent.await_line("was expected; trying again every half a minute");
}
