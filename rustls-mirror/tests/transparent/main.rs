#![allow(clippy::unwrap_used, reason = "a test stops at what it doesn't expect")]
//! Random conversations over a transport that takes and gives what it likes: the mirrored connections
//! do what bare ones do, call by call, and what is mirrored is what was exchanged.
//!
//! ```text
//!   Plan ──┬── bare::run      on rustls ─────────> Outcome ─┐
//!          │                                                ├── equal, call by call
//!          └── mirrored::run  on rustls_mirror ──> Outcome ─┘
//!                                │                    │
//!                             recorder ────────────── equal, byte by byte
//! ```
//!
//! 256 of them; `PROPTEST_CASES=20000` for more.

#[path = "../common/mod.rs"]
mod common;
mod plan;
mod transport;

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use common::recorder::{self, Recorded};
use common::tls;
use mirror_hook::event::{CloseReason, Role};
use plan::{Outcome, Plan, Side};
use proptest::prelude::*;
use rustls::client::Resumption;
use rustls::{ClientConfig, ServerConfig};

/// The same program on either library.
macro_rules! library {
    ($name:ident, $tls:ident) => {
        mod $name {
            use std::io::{BufRead, IoSlice, Read, Write};
            use std::ops::DerefMut;
            use std::sync::Arc;

            use $tls::{
                ClientConfig, ClientConnection, ConnectionCommon, ServerConfig, ServerConnection,
                SideData, Stream,
            };

            use crate::common::tls;
            use crate::plan::{Call, End, Op, Outcome, Plan, Side, outcome_of, text};
            use crate::transport::Transport;

            pub(crate) fn run(
                plan: &Plan,
                client: Arc<ClientConfig>,
                server: Arc<ServerConfig>,
                name: &str,
            ) -> Outcome {
                let mut client = ClientConnection::new(client, tls::name(name)).unwrap();
                let mut server = ServerConnection::new(server).unwrap();
                let (mut client_io, mut server_io) = Transport::pair(&plan.faults);
                let mut outcome = Outcome::default();
                for (side, op) in &plan.steps {
                    match side {
                        Side::Client => {
                            step(&mut client, &mut client_io, *op, &mut outcome.client);
                        }
                        Side::Server => {
                            step(&mut server, &mut server_io, *op, &mut outcome.server);
                        }
                    }
                }
                outcome.client.handshaken = !client.is_handshaking();
                outcome.server.handshaken = !server.is_handshaking();
                // What rustls knows of a fatal error.
                outcome.client.failed = client.writer().flush().is_err();
                outcome.server.failed = server.writer().flush().is_err();
                outcome.transport = client_io.log();
                outcome
            }

            fn step<C, S>(conn: &mut C, io: &mut Transport, op: Op, end: &mut End)
            where
                C: DerefMut<Target = ConnectionCommon<S>>,
                S: SideData + 'static,
            {
                let result = match op {
                    Op::Write(call, length) => {
                        let bytes = text(end.accepted.len(), length);
                        let result = match call {
                            Call::Stream => Stream::new(conn, io).write(&bytes),
                            Call::Raw => conn.writer().write(&bytes),
                        };
                        end.take_accepted(&bytes, result)
                    }
                    Op::WriteVectored(call, lengths) => {
                        let bytes = text(end.accepted.len(), lengths.iter().sum());
                        let mut rest = &bytes[..];
                        let parts = lengths.map(|length| {
                            let (part, later) = rest.split_at(length);
                            rest = later;
                            IoSlice::new(part)
                        });
                        let result = match call {
                            Call::Stream => Stream::new(conn, io).write_vectored(&parts),
                            Call::Raw => conn.writer().write_vectored(&parts),
                        };
                        end.take_accepted(&bytes, result)
                    }
                    Op::Read(call, length) => {
                        let mut buf = vec![0; length];
                        let result = match call {
                            Call::Stream => Stream::new(conn, io).read(&mut buf),
                            Call::Raw => conn.reader().read(&mut buf),
                        };
                        end.take_read(&buf, result)
                    }
                    Op::Consume(call, most) => {
                        let shown = match call {
                            Call::Stream => Stream::new(conn, io).fill_buf().map(<[u8]>::to_vec),
                            Call::Raw => conn.reader().fill_buf().map(<[u8]>::to_vec),
                        };
                        let shown = shown.map(|mut shown| {
                            shown.truncate(most);
                            match call {
                                Call::Stream => Stream::new(conn, io).consume(shown.len()),
                                Call::Raw => conn.reader().consume(shown.len()),
                            }
                            shown
                        });
                        end.take_consumed(shown)
                    }
                    Op::Flush(Call::Stream) => Stream::new(conn, io).flush().map(|()| 0),
                    Op::Flush(Call::Raw) => conn.writer().flush().map(|()| 0),
                    Op::CompleteIo => conn.complete_io(io).map(|(read, written)| read + written),
                    Op::ReadTls => conn.read_tls(io),
                    Op::WriteTls => conn.write_tls(io),
                    Op::Process => conn
                        .process_new_packets()
                        .map(|state| state.plaintext_bytes_to_read())
                        .map_err(std::io::Error::other),
                    // rustls' debug assertions don't bear a failure behind a close_notify.
                    Op::SendCloseNotify => {
                        if !conn.is_handshaking() && !io.is_corrupt() {
                            conn.send_close_notify();
                            end.take_close_notify();
                        }
                        Ok(0)
                    }
                    Op::RefreshKeys => conn
                        .refresh_traffic_keys()
                        .map(|()| 0)
                        .map_err(std::io::Error::other),
                    Op::Limit(limit) => {
                        conn.set_buffer_limit(Some(limit));
                        Ok(0)
                    }
                    Op::Corrupt => {
                        if !conn.is_handshaking() && end.closed_at.is_none() {
                            io.corrupt();
                        }
                        Ok(0)
                    }
                    Op::EndTransport => {
                        io.end();
                        Ok(0)
                    }
                    Op::ResetTransport => {
                        io.reset();
                        Ok(0)
                    }
                };
                let wants = (conn.wants_read(), conn.wants_write(), conn.is_handshaking());
                end.calls.push((outcome_of(&result), wants));
            }
        }
    };
}

library!(bare, rustls);
library!(mirrored, rustls_mirror);

/// New ones for each run, so that no session is resumed.
fn configs(tls12: bool) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let mut client = match tls12 {
        true => tls::client_config_of(tls::ring(), &rustls::version::TLS12),
        false => tls::client_config(tls::ring()),
    };
    client.resumption = Resumption::disabled();
    (Arc::new(client), Arc::new(tls::server_config(tls::ring())))
}

/// The one session of this role, if there is one.
fn recorded(name: &str, role: Role) -> Option<Recorded> {
    let mut sessions = recorder::start().sessions(name, role);
    assert!(sessions.len() <= 1);
    sessions.pop()
}

fn check(plan: &Plan) -> Outcome {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    recorder::start();
    // As long as any other: the hello's length is part of what is compared.
    let name = format!("plan-{:06}", RUNS.fetch_add(1, Ordering::Relaxed));
    let (client, server) = configs(plan.tls12);
    let bare = bare::run(plan, client, server, &name);
    let (client, server) = configs(plan.tls12);
    let outcome = mirrored::run(plan, client, server, &name);
    assert_eq!(bare.client.calls, outcome.client.calls);
    assert_eq!(bare.server.calls, outcome.server.calls);
    assert_eq!(bare.transport, outcome.transport);
    assert!(bare == outcome);

    for (side, role) in [(Side::Client, Role::Client), (Side::Server, Role::Server)] {
        let (end, other) = match side {
            Side::Client => (&outcome.client, &outcome.server),
            Side::Server => (&outcome.server, &outcome.client),
        };
        // What is said behind a close_notify isn't heard.
        let said = end.said();
        assert!(other.read.len() <= said.len() && said.starts_with(&other.read));
        let Some(recorded) = recorded(&name, role) else {
            assert!(!end.handshaken, "{role:?} wasn't announced");
            continue;
        };
        assert!(
            end.handshaken,
            "{role:?} was announced before its handshake"
        );
        assert!(recorded.sent() == said);
        assert!(recorded.received() == end.read);
        assert!(recorded.is_closed());
        assert_eq!(
            recorded.ended_by(CloseReason::SentEnd),
            end.closed_at.is_some()
        );
        if end.saw_end {
            assert!(recorded.ended_by(CloseReason::ReceivedEnd));
        }
        let aborted = recorded.ended_by(CloseReason::Abort);
        let reset = outcome.transport.iter().any(|(_, who, _, result)| {
            *who == side as usize && *result == Err(ErrorKind::ConnectionReset)
        });
        assert_eq!(aborted, end.failed || reset);
        for (reason, sent, received) in &recorded.closes {
            let whole = (said.len() as u64, end.read.len() as u64);
            match reason {
                CloseReason::SentEnd => assert_eq!(*sent, whole.0),
                CloseReason::ReceivedEnd => assert_eq!(*received, whole.1),
                CloseReason::Free | CloseReason::Abort => assert_eq!((*sent, *received), whole),
            }
        }
    }
    outcome
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mirrored_is_as_bare(plan in plan::plans()) {
        check(&plan);
    }
}

/// The plans would prove little if nothing got through.
#[test]
fn plans_reach_what_they_are_about() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let (mut handshaken, mut read, mut ended, mut failed) = (0, 0, 0, 0);
    const PLANS: usize = 60;
    for _ in 0..PLANS {
        let plan = plan::plans().new_tree(&mut runner).unwrap().current();
        let outcome = check(&plan);
        for end in [&outcome.client, &outcome.server] {
            handshaken += usize::from(end.handshaken);
            read += end.read.len();
            ended += usize::from(end.saw_end);
            failed += usize::from(end.handshaken && end.failed);
        }
    }
    let seen = (handshaken, read, ended, failed);
    assert!(handshaken > PLANS && handshaken < 2 * PLANS, "{seen:?}");
    assert!(read > 100_000 && ended >= 10 && failed >= 3, "{seen:?}");
}
