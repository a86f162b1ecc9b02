//! Programs with many connections, simulated: who has which socket is known there.

use std::collections::HashMap;

use mirror_hook::event::{CarriedBy, LookWriter};
use proptest::prelude::*;

use super::*;
use crate::flow::counters::Sample;
use crate::flow::counters::history::{MOST_CONTRADICTED, MOST_STOOD};

/// Every handshake carries that much, as it does at one server.
const HANDSHAKE: Counts = Counts {
    sent: 2,
    received: 3,
};

/// A connection of the simulated program: its socket, and, if it is TLS of the library with the hook, its session.
#[derive(Clone, Debug, Default)]
struct Connection {
    /// What the socket has carried.
    socket: Counts,
    /// What the library has written and read.
    library: Counts,
    /// The socket is there.
    open: bool,
    /// Nobody tells of it: no TLS, or another library's.
    silent: bool,
    announced: bool,
    ended: bool,
    /// Something has grown that wasn't told.
    untold: bool,
    /// Written to a BIO in memory, and not sent yet.
    held_back: u64,
    /// Received by the program, and not read by the library yet.
    ahead: u64,
    /// Somebody else goes on with it, as a child that was forked: the library here carries nothing any more.
    handed: bool,
}

#[derive(Clone, Debug)]
enum Op {
    /// With clear text in front of TLS, sent and received.
    Connect {
        silent: bool,
        prefix: (u64, u64),
    },
    Announce(usize),
    Write(usize, u64),
    Read(usize, u64),
    /// The call returns.
    Return(usize),
    EndSession(usize),
    CloseSocket(usize),
    /// The call returns, and has looked at all sockets, while other threads did these.
    ReturnLooking(usize, Vec<Op>),
    /// What was carried isn't told: the ring was full, or it isn't told each time.
    LoseWord(usize),
    HandOver(usize),
    /// A look, in the course of which these happen, one behind each socket.
    Look(Vec<Op>),
    /// So many words of the sessions arrive, and it is decided.
    Decide(usize),
}

#[derive(Debug)]
enum Word {
    Open(usize, Counts),
    Tell(usize, Counts),
    End(usize),
    Look(usize, Vec<Vec<u8>>),
}

#[derive(Default)]
struct Program {
    connections: Vec<Connection>,
    process: Process,
    now: u64,
    /// So many things have the same time.
    coarse: u64,
    words: std::collections::VecDeque<(MonotonicTime, Word)>,
    found: HashMap<usize, u64>,
    /// BIOs in memory: what is written is sent after the call, what is read was received before it.
    memory: bool,
    /// Whose is sent next.
    to_send: Vec<usize>,
    /// Those whose calls are at their looks.
    looking: Vec<usize>,
}

fn key(connection: usize) -> SessionKey {
    SessionKey {
        ring: 1,
        connection: connection as u64,
    }
}

fn ends(connection: usize) -> Ends {
    let port = u16::try_from(connection).unwrap();
    Ends {
        local: ([127, 0, 0, 1], 10_000 + port).into(),
        peer: ([127, 0, 0, 1], 443).into(),
    }
}

fn cookie(connection: usize) -> u64 {
    1000 + connection as u64
}

impl Program {
    fn time(&mut self) -> MonotonicTime {
        self.now += 1;
        MonotonicTime(self.now / self.coarse.max(1))
    }

    /// The `number`th of the connections for which this holds.
    fn pick(&self, number: usize, which: impl Fn(&Connection) -> bool) -> Option<usize> {
        let all: Vec<_> = (0..self.connections.len())
            .filter(|at| !self.looking.contains(at) && which(&self.connections[*at]))
            .collect();
        all.get(number.checked_rem(all.len())?).copied()
    }

    fn say(&mut self, word: Word) {
        let at = self.time();
        self.words.push_back((at, word));
    }

    fn tell(&mut self, at: usize) {
        let connection = &mut self.connections[at];
        if std::mem::take(&mut connection.untold) && connection.announced && !connection.ended {
            let counts = connection.library;
            self.say(Word::Tell(at, counts));
        }
    }

    /// The call returns; what it has written to a BIO in memory is sent behind that.
    fn leave(&mut self, at: usize) {
        let connection = &mut self.connections[at];
        connection.library.received += std::mem::take(&mut connection.ahead);
        self.tell(at);
        self.to_send.push(at);
    }

    fn send(&mut self) {
        for at in std::mem::take(&mut self.to_send) {
            if self.looking.contains(&at) {
                self.to_send.push(at);
                continue;
            }
            let connection = &mut self.connections[at];
            connection.socket.sent += std::mem::take(&mut connection.held_back);
        }
    }

    fn play(&mut self, op: &Op) {
        self.now += 1;
        self.send();
        let alive = |connection: &Connection| connection.open && !connection.ended;
        match op {
            Op::Connect { silent, prefix } => {
                let socket = Counts {
                    sent: HANDSHAKE.sent + prefix.0,
                    received: HANDSHAKE.received + prefix.1,
                };
                self.connections.push(Connection {
                    socket,
                    library: HANDSHAKE,
                    open: true,
                    silent: *silent,
                    ..Connection::default()
                });
            }
            Op::Announce(number) => {
                let new = |connection: &Connection| !connection.announced && !connection.silent;
                if let Some(at) = self.pick(*number, |one| alive(one) && new(one)) {
                    self.connections[at].announced = true;
                    self.connections[at].untold = false;
                    let counts = self.connections[at].library;
                    self.say(Word::Open(at, counts));
                }
            }
            Op::Write(number, bytes) => {
                if let Some(at) = self.pick(*number, alive) {
                    self.leave(at);
                    self.send();
                    let memory = self.memory;
                    let connection = &mut self.connections[at];
                    // It may be announced midstream.
                    if memory && !connection.announced && !connection.silent {
                        return;
                    }
                    if connection.handed {
                        connection.socket.sent += bytes;
                        return;
                    }
                    connection.library.sent += bytes;
                    connection.untold = true;
                    match memory {
                        true => connection.held_back += bytes,
                        false => connection.socket.sent += bytes,
                    }
                }
            }
            Op::Read(number, bytes) => {
                if let Some(at) = self.pick(*number, alive) {
                    self.leave(at);
                    self.send();
                    let memory = self.memory;
                    let connection = &mut self.connections[at];
                    if memory && !connection.announced && !connection.silent {
                        return;
                    }
                    connection.socket.received += bytes;
                    if connection.handed {
                        return;
                    }
                    match memory {
                        true => connection.ahead += bytes,
                        false => connection.library.received += bytes,
                    }
                    connection.untold = true;
                }
            }
            Op::Return(number) => {
                if let Some(at) = self.pick(*number, |one| one.untold) {
                    self.leave(at);
                }
            }
            Op::EndSession(number) => {
                let has = |one: &Connection| one.announced && !one.ended;
                if let Some(at) = self.pick(*number, has) {
                    self.leave(at);
                    self.connections[at].ended = true;
                    self.say(Word::End(at));
                }
            }
            Op::CloseSocket(number) => {
                if let Some(at) = self.pick(*number, |one| one.open) {
                    // Not in the middle of a call.
                    self.leave(at);
                    self.connections[at].open = false;
                }
            }
            Op::Look(meanwhile) => self.look(meanwhile),
            Op::ReturnLooking(number, meanwhile) => {
                if let Some(at) = self.pick(*number, |one| one.untold && one.announced) {
                    self.leave(at);
                    if !self.connections[at].ended {
                        self.looking.push(at);
                        self.look_inside(at, meanwhile);
                        self.looking.pop();
                    }
                }
            }
            Op::LoseWord(number) => {
                if let Some(at) = self.pick(*number, |one| one.untold && one.announced) {
                    self.connections[at].untold = false;
                    self.leave(at);
                }
            }
            Op::HandOver(number) => {
                if let Some(at) = self.pick(*number, |one| one.announced && alive(one)) {
                    self.leave(at);
                    self.connections[at].handed = true;
                }
            }
            Op::Decide(words) => self.decide(*words),
        }
    }

    fn look(&mut self, meanwhile: &[Op]) {
        let began = self.time();
        let mut meanwhile = meanwhile.iter();
        let there: Vec<_> = (0..self.connections.len())
            .filter(|at| self.connections[*at].open)
            .collect();
        let mut samples = Vec::new();
        for at in there {
            let connection = &self.connections[at];
            if connection.open {
                let counts = connection.socket;
                let (from, to) = (self.time(), self.time());
                samples.push(Sample {
                    socket: cookie(at),
                    ends: Some(ends(at)),
                    counts,
                    from,
                    to,
                });
            }
            if let Some(op) = meanwhile.next() {
                self.play(op);
            }
        }
        let ended = self.time();
        self.process.seen(Look {
            began,
            ended,
            complete: true,
            told: false,
            samples,
        });
    }

    /// The process looks itself, before what it has written to a BIO in memory is sent. Now and then a part finds no room.
    fn look_inside(&mut self, own: usize, meanwhile: &[Op]) {
        let began = self.time();
        let mut writer = LookWriter::new(began.0);
        let mut parts = Vec::new();
        let mut meanwhile = meanwhile.iter();
        for at in 0..self.connections.len() {
            let connection = &self.connections[at];
            if !connection.open {
                continue;
            }
            if writer.is_full() {
                parts.push(writer.part(false).to_vec());
                writer.next();
            }
            let Ends { local, peer } = ends(at);
            let alike = connection.socket == self.connections[own].library;
            writer.push(&CarriedBy {
                cookie: cookie(at),
                sent: connection.socket.sent,
                received: connection.socket.received,
                addresses: alike.then_some((local, peer)),
            });
            if let Some(op) = meanwhile.next() {
                self.play(op);
            }
        }
        parts.push(writer.part(true).to_vec());
        if self.now.is_multiple_of(7) {
            parts.remove(self.connections.len() % parts.len());
        }
        let at = self.time();
        self.words.push_back((at, Word::Look(own, parts)));
    }

    fn decide(&mut self, words: usize) {
        for _ in 0..words {
            let Some((at, word)) = self.words.pop_front() else {
                break;
            };
            match word {
                Word::Open(session, counts) => self.process.open(key(session), at, Some(counts)),
                Word::Tell(session, counts) => self.process.tell(key(session), at, counts),
                Word::End(session) => self.process.end(key(session)),
                Word::Look(session, parts) => parts.iter().for_each(|part| {
                    let part = LookPart::parse(part).unwrap();
                    self.process.told_look(key(session), at, &part);
                }),
            }
        }
        for (session, socket) in self.process.decide() {
            let session = usize::try_from(session.connection).unwrap();
            assert_eq!(
                socket,
                cookie(session),
                "session {session} got another's socket"
            );
            let found = self.process.found(key(session)).map(Found::ends);
            assert_eq!(found, Some(ends(session)));
            assert_eq!(self.found.insert(session, socket), None);
        }
        self.process.forget();
    }
}

fn ops(prefixes: bool, silent: bool, sizes: u64) -> impl Strategy<Value = Vec<Op>> {
    let prefix = (0..3u64, 0..3u64, 0..3u8).prop_map(move |(sent, received, has)| {
        match prefixes && has == 0 {
            true => (sent, received),
            false => (0, 0),
        }
    });
    let number = 0..64usize;
    let connect = (0..4u8, prefix).prop_map(move |(is_silent, prefix)| Op::Connect {
        silent: silent && is_silent == 0,
        prefix,
    });
    let size = 1..=sizes;
    let simple = prop_oneof![
        2 => connect,
        3 => number.clone().prop_map(Op::Announce),
        8 => (number.clone(), size.clone()).prop_map(|(at, size)| Op::Write(at, size)),
        8 => (number.clone(), size).prop_map(|(at, size)| Op::Read(at, size)),
        8 => number.clone().prop_map(Op::Return),
        6 => number.clone().prop_map(|at| Op::ReturnLooking(at, Vec::new())),
        1 => number.clone().prop_map(Op::LoseWord),
        1 => number.clone().prop_map(Op::HandOver),
        1 => number.clone().prop_map(Op::EndSession),
        1 => number.clone().prop_map(Op::CloseSocket),
    ];
    let meanwhile = proptest::collection::vec(simple.clone(), 0..6);
    let look = meanwhile.clone().prop_map(Op::Look);
    let look_inside = (number, meanwhile).prop_map(|(at, ops)| Op::ReturnLooking(at, ops));
    let op = prop_oneof![
        8 => simple,
        3 => look,
        3 => look_inside,
        2 => (0..20usize).prop_map(Op::Decide),
    ];
    proptest::collection::vec(op, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    /// Connections that look alike, others in front of whose TLS there is clear text, sockets of which nobody tells and
    /// that carry what sessions do, words that arrive late or not at all, sessions announced midstream, several threads, clocks
    /// that stand, looks in the middle of calls, and looks of which a part is missing.
    #[test]
    fn no_session_gets_another_ones_socket(ops in ops(true, true, 2), coarse in 1..6u64) {
        let mut program = Program { coarse, ..Program::default() };
        ops.iter().for_each(|op| program.play(op));
        program.decide(usize::MAX);
    }

    /// BIOs in memory: sent is later than written, read later than received.
    #[test]
    fn nor_with_bios_in_memory(ops in ops(true, false, 20), coarse in 1..6u64) {
        let mut program = Program { memory: true, coarse, ..Program::default() };
        ops.iter().for_each(|op| program.play(op));
        program.decide(usize::MAX);
    }

    /// Where the amounts differ and everybody is looked at in between, each is found.
    #[test]
    fn sessions_that_part_are_all_found(sizes in proptest::collection::hash_set(1..1000u64, 1..50)) {
        let mut program = Program::default();
        let sizes: Vec<_> = sizes.into_iter().collect();
        for _ in &sizes {
            program.play(&Op::Connect { silent: false, prefix: (0, 0) });
            program.play(&Op::Announce(0));
        }
        // All ask for the same.
        for at in 0..sizes.len() {
            program.play(&Op::Write(at, 100));
            program.play(&Op::Return(0));
        }
        program.play(&Op::Look(Vec::new()));
        program.decide(usize::MAX);
        prop_assert!(program.found.is_empty());
        for (at, size) in sizes.iter().enumerate() {
            program.play(&Op::Read(at, *size));
            program.play(&Op::Return(0));
        }
        program.play(&Op::Look(Vec::new()));
        for at in 0..sizes.len() {
            program.play(&Op::Write(at, 24));
            program.play(&Op::Return(0));
        }
        program.decide(usize::MAX);
        prop_assert_eq!(program.found.len(), sizes.len());
    }
}

#[test]
fn equal_sessions_are_never_told_apart() {
    let mut program = Program::default();
    for _ in 0..2 {
        program.play(&Op::Connect {
            silent: false,
            prefix: (0, 0),
        });
        program.play(&Op::Announce(0));
    }
    for _ in 0..3 {
        for at in 0..2 {
            program.play(&Op::Write(at, 7));
            program.play(&Op::Return(0));
        }
        program.play(&Op::Look(Vec::new()));
        program.decide(usize::MAX);
    }
    assert!(program.found.is_empty());
    // Now they part.
    program.play(&Op::Read(0, 7));
    program.play(&Op::Return(0));
    program.play(&Op::Look(Vec::new()));
    for at in 0..2 {
        program.play(&Op::Write(at, 7));
        program.play(&Op::Return(0));
    }
    program.decide(usize::MAX);
    assert_eq!(program.found.len(), 2);
}

fn carried(sent: u64, received: u64) -> Counts {
    Counts { sent, received }
}

fn look(began: u64, ended: u64, told: bool, sockets: &[Counts]) -> Look {
    let sample = |(at, counts): (usize, &Counts)| Sample {
        socket: cookie(at),
        ends: Some(ends(at)),
        counts: *counts,
        from: MonotonicTime(began),
        to: MonotonicTime(ended),
    };
    Look {
        began: MonotonicTime(began),
        ended: MonotonicTime(ended),
        complete: true,
        told,
        samples: sockets.iter().enumerate().map(sample).collect(),
    }
}

/// Of two looks at a time nobody knows which saw a socket first: that one seems to go back says nothing of it.
#[test]
fn looks_that_overlap_exclude_nobody() {
    let mut process = Process::default();
    // The session's own socket carried a byte of clear text; another one, of which nobody tells, carries what the session does.
    process.open(key(0), MonotonicTime(1), Some(carried(2, 3)));
    process.seen(look(10, 30, false, &[carried(3, 13), carried(2, 3)]));
    process.seen(look(15, 20, true, &[carried(3, 3), carried(2, 3)]));
    process.tell(key(0), MonotonicTime(40), carried(2, 13));
    process.seen(look(50, 60, false, &[carried(3, 13), carried(2, 13)]));
    process.tell(key(0), MonotonicTime(70), carried(4, 13));
    assert_eq!(process.decide(), []);
}

/// What has the same time as a look may have been before it or behind it.
#[test]
fn words_at_the_time_of_a_look_exclude_nobody() {
    let mut process = Process::default();
    process.open(key(0), MonotonicTime(1), Some(carried(2, 3)));
    // It reads behind this look, and hears of that at the same time; another socket has read as much.
    process.seen(look(10, 10, false, &[carried(2, 3), carried(2, 13)]));
    process.tell(key(0), MonotonicTime(10), carried(2, 13));
    process.seen(look(20, 20, false, &[carried(2, 13), carried(2, 13)]));
    process.tell(key(0), MonotonicTime(30), carried(4, 13));
    assert_eq!(process.decide(), []);
    // And it writes before one; only its own has sent as much.
    process.seen(look(40, 40, false, &[carried(9, 13), carried(4, 13)]));
    process.tell(key(0), MonotonicTime(40), carried(9, 13));
    assert_eq!(process.decide(), []);
    // Nor is whoever speaks as a look ends known to have stood still for it.
    let mut process = Process::default();
    process.open(key(0), MonotonicTime(1), Some(carried(2, 3)));
    process.seen(look(10, 20, false, &[carried(2, 3)]));
    process.tell(key(0), MonotonicTime(20), carried(4, 3));
    assert_eq!(process.decide(), []);
}

/// Whatever a process tells: what is remembered of it is bounded, and so is what is compared at once.
#[test]
fn who_tells_too_much_gets_nothing_for_it() {
    let mut process = Process::default();
    for session in 0..MOST_SESSIONS {
        process.open(key(session), MonotonicTime(1), Some(carried(2, 3)));
    }
    for number in 0..2 * MOST_LOOKS as u64 {
        // All stand where all sessions do, or new ones where none can.
        let alike = vec![carried(2, 3); 64];
        let mut look = look(10 + number, 10 + number, true, &alike);
        if number % 2 == 1 {
            for sample in &mut look.samples {
                sample.socket += 64 * number;
                sample.counts.received = 1;
            }
        }
        process.seen(look);
        assert_eq!(process.decide(), []);
    }
    for session in 0..MOST_SESSIONS {
        process.tell(key(session), MonotonicTime(5000), carried(3, 3));
    }
    assert_eq!(process.decide(), []);
    let most = |of: fn(&Session) -> usize| process.sessions.values().map(of).max();
    assert!(most(|session| session.stood.len()) <= Some(MOST_STOOD));
    assert!(most(|session| session.contradicted.len()) <= Some(MOST_CONTRADICTED));
    assert!(most(|session| session.behind.len()) <= Some(MOST_CONTRADICTED));
    assert!(process.ends.len() <= 2 * MOST_SAMPLES);
}

/// What ended while its words waited in the ring may be found yet, and whoever asks before it was compared hears so.
#[test]
fn what_was_told_at_once_is_found() {
    let mut process = Process::default();
    process.open(key(0), MonotonicTime(1), Some(carried(2, 3)));
    process.seen(look(2, 3, true, &[carried(2, 3)]));
    process.tell(key(0), MonotonicTime(4), carried(4, 3));
    process.end(key(0));
    assert!(process.may_find(key(0)));
    assert_eq!(process.decide(), [(key(0), cookie(0))]);
}
