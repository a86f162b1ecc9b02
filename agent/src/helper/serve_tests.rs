use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use rustix::net::socket_with;
use rustix::net::{AddressFamily, SocketFlags, SocketType, accept, bind, connect, listen};

use super::*;
use crate::helper::Helper;
use crate::intake::kin::{Answer, Owner, Question};

/// A helper in threads of this process.
struct Served {
    helper: Helper,
    shared: Arc<Shared>,
    /// The other ends of its connections.
    raw: Channel,
    threads: Vec<thread::JoinHandle<()>>,
    _directory: tempfile::TempDir,
    socket: PathBuf,
}

fn served() -> Served {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent.sock");
    let file = directory.path().join("next");
    let duties = || Duties {
        socket: Some(socket.clone()),
        outputs: vec![
            Duty::Nothing,
            Duty::Files(Box::new({
                let file = file.clone();
                move || fs::File::create_new(&file)
            })),
            Duty::Interface(Box::new(|| Err("no room for it".to_owned()))),
        ],
    };
    let shared = Arc::new(Shared::new(std::process::id(), [std::process::id()]));
    let mut threads = Vec::new();
    let mut begin = |desk: Desk| {
        let (ours, theirs) = Channel::pair().unwrap();
        let shared = Arc::clone(&shared);
        threads.push(thread::spawn(move || shared.serve(&theirs, desk)));
        ours
    };
    let lookups = begin(Desk::Lookups(duties()));
    let raw = begin(Desk::Lookups(duties()));
    let scans = begin(Desk::Scans);
    Served {
        helper: Helper::new(lookups, scans, None).unwrap(),
        shared,
        raw,
        threads,
        _directory: directory,
        socket,
    }
}

impl Served {
    /// Both have said their last.
    fn end(self) -> u64 {
        drop((self.helper, self.raw));
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.shared.refused()
    }

    fn answer(&self, bytes: &[u8], with: Option<&OwnedFd>) -> Reply {
        self.raw.send(bytes, with.map(AsFd::as_fd)).unwrap();
        let message = self.raw.receive().unwrap().unwrap();
        Reply::decode(&message.bytes).unwrap()
    }

    fn refused(&self, request: &Request, with: Option<&OwnedFd>) -> Refusal {
        match self.answer(&encode(request).unwrap(), with) {
            Reply::Refused(refusal) => refusal,
            other => panic!("{request:?}: {other:?}"),
        }
    }
}

/// A connection to a socket at this path, as the one that listens has it, and as the one that asks.
fn connected(path: &Path) -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC;
    let socket = || socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    let address = SocketAddrUnix::new(path).unwrap();
    let (listening, asking) = (socket(), socket());
    bind(&listening, &address).unwrap();
    listen(&listening, 1).unwrap();
    connect(&asking, &address).unwrap();
    (accept(&listening).unwrap(), asking)
}

#[test]
fn what_it_was_told_to_do() {
    let served = served();
    let (connection, _asking) = connected(&served.socket);
    let seen = served.helper.peer(connection.as_fd()).unwrap();
    assert_eq!(seen, Seen::of(std::process::id()));
    assert_eq!(served.helper.process(std::process::id()), Some(seen));

    assert!(served.helper.next_file(1).is_ok());
    let again = served.helper.next_file(1).unwrap_err();
    assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
    let made = served.helper.make_interface(2).unwrap_err();
    assert_eq!(made.to_string(), "no room for it");

    let owner = Owner {
        pid: std::process::id(),
        started: Seen::of(std::process::id()).started,
        inode: 1,
    };
    // More than go into one request.
    let questions: Questions = (0..5000)
        .map(|ring| (ring, owner, Question::Mapped))
        .collect();
    let answers = served.helper.relations(&questions).unwrap();
    assert_eq!(answers.len(), 5000);
    assert!(answers.iter().all(|(_, answer)| *answer == Answer::Mapped));

    let file = fs::metadata(&served.socket).unwrap();
    served.helper.remove_socket(file.dev(), file.ino());
    assert!(!served.socket.exists());
    assert!(!served.helper.is_gone());
    assert_eq!(served.end(), 0);
}

#[test]
fn what_nobody_told_it_is_refused_and_counted() {
    let served = served();
    let outputs = [0, 2, 3, u32::MAX].map(|output| {
        let refused = served.refused(&Request::NextFile { output }, None);
        assert_eq!(refused, Refusal::Output(output));
    });
    for output in [0, 1, 3] {
        let refused = served.refused(&Request::MakeInterface { output }, None);
        assert_eq!(refused, Refusal::Output(output));
    }
    // Processes that never came to the agent's socket.
    for pid in [0, 1, u32::MAX] {
        let refused = served.refused(&Request::Process { pid }, None);
        assert_eq!(refused, Refusal::Stranger(pid));
    }
    let (pair, _other): (OwnedFd, OwnedFd) = {
        let (one, other) = UnixStream::pair().unwrap();
        (one.into(), other.into())
    };
    let elsewhere = served.socket.with_file_name("other.sock");
    let (to_another, _asking) = connected(&elsewhere);
    let (_accepted, asking) = connected(&served.socket);
    let file = OwnedFd::from(fs::File::open("/proc/self/exe").unwrap());
    let foreign = [&pair, &to_another, &asking, &file];
    for connection in foreign {
        let refused = served.refused(&Request::Peer, Some(connection));
        assert_eq!(refused, Refusal::Connection);
    }
    let refused = served.refused(&Request::Peer, None);
    assert_eq!(refused, Refusal::Descriptors(0));
    let refused = served.refused(&Request::NextFile { output: 1 }, Some(&file));
    assert_eq!(refused, Refusal::Descriptors(1));
    let refused = served.refused(&Request::Relations(Vec::new()), None);
    assert_eq!(refused, Refusal::WrongDesk);

    // Of others' rings nothing is said, and of ours nothing with them.
    let (ours, stranger) = [std::process::id(), 1]
        .map(|pid| Owner {
            pid,
            started: Seen::of(pid).started,
            inode: 1,
        })
        .into();
    let asked = |owners: &[Owner]| {
        let questions = owners.iter().map(|owner| (1, *owner, Question::Shared));
        served.helper.relations(&questions.collect())
    };
    assert!(asked(&[ours]).is_some());
    assert_eq!(asked(&[ours, stranger]), None);
    // An id that somebody else has had.
    let before = Owner {
        started: ours.started - 1,
        ..ours
    };
    assert_eq!(asked(&[before]), None);

    // What lies at the path may be somebody else's.
    let device = fs::metadata(&served.socket).unwrap().dev();
    let request = Request::RemoveSocket { device, inode: 1 };
    assert_eq!(served.refused(&request, None), Refusal::Socket);
    assert!(served.socket.exists());

    let large = vec![0xff; super::super::channel::MOST_BYTES + 1];
    let malformed = [&[0xff][..], &[4, 0xff], &[1, 7, 7], &large];
    for bytes in malformed {
        let answer = served.answer(bytes, None);
        let Reply::Refused(Refusal::Malformed(_)) = answer else {
            panic!("{bytes:?}: {answer:?}");
        };
    }
    let refused = outputs.len() + 3 + 3 + foreign.len() + 3 + 2 + 1 + malformed.len();
    // It goes on all the same.
    assert!(served.helper.next_file(1).is_ok());
    assert_eq!(served.end(), refused as u64);
}

/// Whoever waits for it goes on.
#[test]
fn one_that_is_gone_is_missed_once() {
    let (lookups, lookups_served) = Channel::pair().unwrap();
    let (scans, scans_served) = Channel::pair().unwrap();
    let helper = Helper::new(lookups, scans, None).unwrap();
    assert!(!helper.is_gone() && helper.take_complaint().is_none());
    drop((lookups_served, scans_served));
    assert_eq!(helper.process(1), None);
    assert!(helper.is_gone());
    assert!(helper.next_file(0).is_err());
    assert!(helper.take_complaint().is_some());
    assert!(helper.take_complaint().is_none());
}

/// Bytes of the corpus, and bytes close to them.
#[test]
fn made_up_requests() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/helper_request");
    let owner = Owner {
        pid: 0,
        started: 3,
        inode: 4,
    };
    let requests = [
        ("peer", Request::Peer),
        ("process", Request::Process { pid: 77 }),
        (
            "relations",
            Request::Relations(vec![
                (9, owner, Question::Mapped),
                (8, owner, Question::Shared),
            ]),
        ),
        ("diag", Request::Diag { pid: 77 }),
        (
            "holds_socket",
            Request::HoldsSocket {
                pid: 77,
                inode: 300,
            },
        ),
        ("next_file", Request::NextFile { output: 1 }),
        ("make_interface", Request::MakeInterface { output: 300 }),
        (
            "remove_socket",
            Request::RemoveSocket {
                device: 1 << 40,
                inode: 5,
            },
        ),
    ];
    for (name, request) in requests {
        let bytes = encode(&request).unwrap();
        let file = corpus.join(name);
        if std::env::var_os("UPDATE_CORPUS").is_some() {
            fs::create_dir_all(&corpus).unwrap();
            fs::write(&file, &bytes).unwrap();
        }
        let committed = fs::read(&file).unwrap_or_default();
        assert_eq!(committed, bytes, "{name}: UPDATE_CORPUS=1 writes it anew");
        assert_eq!(Request::decode(&bytes), Some(request));
        for at in 0..bytes.len() {
            refused(&bytes[..at]);
            for flip in [1, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= flip;
                refused(&changed);
            }
        }
    }
}
