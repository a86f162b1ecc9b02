use super::*;
use crate::event::{MonotonicTime, ProcessInfo, SessionKey};
use mirror_hook::event::Role;
use mirror_hook::shm::MapError;
use std::sync::Arc;

fn identity() -> Identity {
    Identity {
        message: AttachMessage {
            data_bytes: 1 << 20,
            instance: 77,
            parent_instance: Some(76),
            parent_fork: 2,
            silent_forks: 0,
            name: *b"curl\0\0\0\0\0\0\0\0\0\0\0\0",
        },
        granted_bytes: 1 << 16,
        number: 5,
        process: ProcessInfo {
            pid: 4711,
            uid: 1000,
            name: "curl".into(),
            executable: Some("/usr/bin/curl".into()),
            cgroup: Some("/user.slice".into()),
            network_namespace: Some(4_026_531_840),
            network_name: None,
        },
    }
}

fn note(table: &mut Table, connection: u64, change: SessionChange<'_>) {
    table.note(&SessionEvent {
        session: SessionKey {
            ring: 5,
            connection,
        },
        at: MonotonicTime(99),
        change,
    });
}

fn open(table: &mut Table, connection: u64, sni: &[u8]) {
    let process = Arc::new(identity().process);
    let meta = Meta {
        sni,
        offsets: (10, 20),
        client_random: Some([1; 32]),
        ..Meta::new(Role::Client)
    };
    let change = SessionChange::Open {
        process: &process,
        meta: &meta,
        policy: None,
    };
    note(table, connection, change);
}

fn sent(offset: u64, bytes: &[u8]) -> SessionChange<'_> {
    let direction = Direction::Sent;
    SessionChange::Data {
        direction,
        offset,
        bytes,
    }
}

fn loaded(memfd: &OwnedFd) -> (Table, Saved) {
    Table::load(memfd.as_fd()).unwrap()
}

#[test]
fn the_next_agent_knows_what_this_one_knew() {
    let (mut table, memfd) = Table::new(&identity()).unwrap();
    open(&mut table, 1, b"one.example");
    open(&mut table, 2, b"two.example");
    open(&mut table, 3, b"");
    note(&mut table, 1, sent(10, b"hello"));
    let found = Some((
        Tuple {
            client: "192.0.2.1:5000".parse().unwrap(),
            server: "192.0.2.2:443".parse().unwrap(),
        },
        Binding::Wire,
    ));
    let settled = Settled {
        flow: Some(9),
        found,
    };
    table.settle(1, &settled);
    let update = Meta {
        handshake_done: true,
        client_random: Some([2; 32]),
        ..Meta::new(Role::Client)
    };
    note(&mut table, 1, SessionChange::Update { meta: &update });
    let reason = CloseReason::Free;
    note(&mut table, 2, SessionChange::Close { reason });
    let reason = CloseReason::ReceivedEnd;
    note(&mut table, 3, SessionChange::Close { reason });
    drop(table);

    let (mut table, mut saved) = loaded(&memfd);
    assert_eq!(saved.identity, identity());
    assert_eq!((saved.highest, saved.last_ns), (3, 99));
    saved.sessions.sort_by_key(|session| session.connection);
    let [one, three] = &saved.sessions[..] else {
        panic!("{:?}", saved.sessions);
    };
    assert_eq!((one.connection, one.next), (1, (15, 20)));
    assert_eq!(one.settled, settled);
    let meta = one.meta().unwrap();
    assert_eq!(meta.sni, b"one.example");
    assert!(meta.handshake_done);
    assert_eq!(meta.client_random, Some([1; 32]), "the first ones");
    assert_eq!((three.connection, three.ended), (3, (false, true)));

    // It goes on in the same slots.
    note(&mut table, 1, sent(15, b"!"));
    open(&mut table, 4, b"four.example");
    drop(table);
    let (table, saved) = loaded(&memfd);
    assert_eq!(table.used, 3);
    let next: HashMap<_, _> = saved
        .sessions
        .iter()
        .map(|s| (s.connection, s.next))
        .collect();
    assert_eq!(next[&1], (16, 20));
    assert_eq!(next[&4], (10, 20));
}

#[test]
fn rejected_early_data_is_forgotten_once() {
    let (mut table, memfd) = Table::new(&identity()).unwrap();
    open(&mut table, 1, b"");
    let rejected = Meta {
        early: EarlyData::Rejected,
        ..Meta::new(Role::Client)
    };
    note(&mut table, 1, SessionChange::Update { meta: &rejected });
    assert_eq!(loaded(&memfd).1.sessions[0].next, (0, 20));
    note(&mut table, 1, sent(0, b"abc"));
    note(&mut table, 1, SessionChange::Update { meta: &rejected });
    assert_eq!(loaded(&memfd).1.sessions[0].next, (3, 20));
}

#[test]
fn anything_else_is_no_table() {
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(matches!(
        Table::load(file.as_fd()),
        Err(TableError::Memory(MapError::NotSealed))
    ));
    let (table, memfd) = Table::new(&identity()).unwrap();
    table
        .memory
        .store_u64(header::VERSION, VERSION + 1, Ordering::Relaxed);
    assert!(matches!(
        Table::load(memfd.as_fd()),
        Err(TableError::NotOne)
    ));
    // Damaged in every word: nothing worse than other sessions.
    table
        .memory
        .store_u64(header::VERSION, VERSION, Ordering::Relaxed);
    let numbers = header::HIGHEST..header::MESSAGE;
    let slots = place(0)..place(4);
    for at in numbers.chain(slots).filter(|at| at % 8 == 0) {
        table.memory.store_u64(at, u64::MAX - 3, Ordering::Relaxed);
    }
    let (_, saved) = loaded(&memfd);
    assert!(saved.sessions.is_empty());
}
