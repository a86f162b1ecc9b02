//! A small agent: frames on a bare connection, right or wrong.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use agent::clock::wall_now;
use agent::event::{Binding, FlowId, FlowInfo, ProcessInfo, Side, Tuple};
use agent::tunnel::batch::{BatchWriter, Begin, TunnelChange, TunnelEvent, partition};
use agent::tunnel::frame::{Batch, Frame, Hello, Instance, Message, Resume, VERSION};
use bytes::BytesMut;
use mirror_hook::event::{Announcement, EarlyData, Role, Transport};

use crate::world::PATIENCE;

pub(crate) struct SmallAgent<S = TcpStream> {
    stream: S,
    incoming: BytesMut,
}

pub(crate) fn hello(instance: u8, connection: u64) -> Hello {
    Hello {
        version: VERSION,
        instance: Instance([instance; 16]),
        connection,
        epoch: Some(Instance([9; 16])),
        oldest: 1,
        clock_ns: wall_now().0,
        software: "test".into(),
    }
}

/// A flow of which this end is mirrored.
pub(crate) fn info(id: u8, role: Role) -> FlowInfo {
    FlowInfo {
        id: FlowId([id; 16]),
        tuple: Tuple {
            client: ([10, 0, 0, 1], 40_000).into(),
            server: ([10, 0, 0, 2], 443).into(),
        },
        binding: Binding::Socket,
        proof: None,
        process: Arc::new(ProcessInfo {
            pid: 7,
            uid: 33,
            name: "nginx".into(),
            ..ProcessInfo::default()
        }),
        role,
        announcement: Announcement::New,
        transport: Transport::Tcp,
        sni: None,
        alpn: None,
        tls_version: None,
        cipher: None,
        resumed: false,
        early: EarlyData::None,
        clear_prefix: None,
        continued: None,
        ja4: None,
        agent: None,
        real_client: None,
        left_out: None,
        http1: None,
    }
}

pub(crate) fn begin(id: u8, role: Role) -> TunnelChange<'static> {
    TunnelChange::Begin(Box::new(Begin {
        info: info(id, role),
        base: (0, 0),
        finished: (false, false),
    }))
}

pub(crate) fn data(from: Side, offset: u64, bytes: &[u8]) -> TunnelChange<'_> {
    TunnelChange::Data {
        from,
        offset,
        bytes,
    }
}

pub(crate) fn finish(client: u64, server: u64) -> [TunnelChange<'static>; 2] {
    [(Side::Client, client), (Side::Server, server)]
        .map(|(from, offset)| TunnelChange::Finish { from, offset })
}

/// A batch of events of the flow that has its id as its number.
pub(crate) fn batch<'a>(
    seq: u64,
    id: u8,
    changes: impl IntoIterator<Item = TunnelChange<'a>>,
) -> Batch {
    let mut writer = BatchWriter::default();
    for change in changes {
        assert!(writer.push(&TunnelEvent {
            flow: id.into(),
            at: wall_now(),
            change,
        }));
    }
    let events = writer.take();
    Batch {
        seq,
        partition: partition(&FlowId([id; 16])),
        event_bytes: events.len().try_into().unwrap(),
        compressed: false,
        events,
    }
}

impl SmallAgent {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::over(connect(address))
    }

    /// Connects, says hello, and tells of no flows if it has to.
    pub(crate) fn welcomed(address: SocketAddr, hello: Hello) -> (Self, Resume) {
        let mut agent = Self::connect(address);
        agent.say(Message::Hello(hello));
        let Some(Message::Welcome(welcome)) = agent.hear() else {
            panic!("no welcome");
        };
        if welcome.resume == Resume::Anew {
            agent.say(Message::PreambleEnd);
        }
        (agent, welcome.resume)
    }
}

/// Waits for answers only so long.
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

impl<S: Read + Write> SmallAgent<S> {
    pub(crate) fn over(stream: S) -> Self {
        Self {
            stream,
            incoming: BytesMut::new(),
        }
    }

    pub(crate) fn say(&mut self, message: Message) {
        self.frame(&Frame::Message(message));
    }

    pub(crate) fn send(&mut self, batch: Batch) {
        self.frame(&Frame::Batch(batch));
    }

    fn frame(&mut self, frame: &Frame) {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes);
        self.raw(&bytes);
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        // The other side may have closed already, and have said why.
        let _ = self.stream.write_all(bytes);
    }

    /// The next message but pings; `None`: the connection has ended.
    pub(crate) fn hear(&mut self) -> Option<Message> {
        loop {
            match Frame::decode(&mut self.incoming).unwrap() {
                Some(Frame::Message(Message::Ping { .. })) => continue,
                Some(Frame::Message(message)) => return Some(message),
                Some(other) => panic!("{other:?}"),
                None => {}
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(read) => self.incoming.extend_from_slice(&bytes[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("waited in vain for a message: {error}"),
            }
        }
    }

    /// Until all up to this batch are acknowledged.
    pub(crate) fn acknowledged(&mut self, wanted: u64) {
        loop {
            match self.hear() {
                Some(Message::Ack { through }) if through >= wanted => return,
                Some(Message::Ack { .. }) => {}
                other => panic!("{other:?} instead of an acknowledgement of {wanted}"),
            }
        }
    }

    /// Until it is refused.
    pub(crate) fn refused(&mut self) -> agent::tunnel::frame::Reason {
        loop {
            match self.hear() {
                Some(Message::Refused(refused)) => {
                    assert!(!refused.text.is_empty());
                    return refused.reason;
                }
                Some(Message::Ack { .. } | Message::Welcome(_)) => {}
                other => panic!("{other:?} instead of a refusal"),
            }
        }
    }
}
