//! An agent, and an application to mirror: each application is this test binary started again, for
//! the hook has one state a process.

use std::io::{BufRead, BufReader, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use mirror_hook::attach::AttachMessage;
use mirror_hook::event::{Body, Direction, Meta};
use mirror_hook::layout::{CONTROL_BYTES, control};
use mirror_hook::ring::{Consumer, Memory, Next, RecordBuffer};
use mirror_hook::shm::Mapping;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix,
    SocketFlags, SocketType, accept, bind, listen, recvmsg, socket_with,
};

/// Names the part that this binary plays when it is started as an application.
pub(crate) const SCENARIO: &str = "MIRROR_HOOK_TEST_SCENARIO";

/// How long anything may take before the test is given up.
const PATIENCE: Timespec = Timespec {
    tv_sec: 30,
    tv_nsec: 0,
};

/// A listening agent.
pub(crate) struct Agent {
    pub(crate) directory: tempfile::TempDir,
    listener: OwnedFd,
}

/// A ring that an application has offered.
pub(crate) struct Attached {
    pub(crate) message: AttachMessage,
    pub(crate) consumer: Consumer<Mapping>,
    buffer: RecordBuffer,
}

/// A record's body, owned.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Owned {
    pub(crate) connection: u64,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) body: Vec<u8>,
}

impl Owned {
    pub(crate) fn body(&self) -> Body<'_> {
        Body::parse(self.kind, self.flags, &self.body).unwrap()
    }

    pub(crate) fn open(&self) -> Meta<'_> {
        match self.body() {
            Body::Open(meta) => meta,
            other => panic!("{other:?} in place of an OPEN"),
        }
    }

    pub(crate) fn data(&self) -> (Direction, u64, &[u8]) {
        match self.body() {
            Body::Data {
                direction,
                offset,
                bytes,
            } => (direction, offset, bytes),
            other => panic!("{other:?} in place of a DATA"),
        }
    }
}

fn wait_readable(fd: &impl AsFd, what: &str) {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    let ready = poll(&mut fds, Some(&PATIENCE)).unwrap();
    assert_eq!(ready, 1, "{what} never came");
}

impl Agent {
    pub(crate) fn listen() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let address = SocketAddrUnix::new(directory.path().join("agent")).unwrap();
        bind(&listener, &address).unwrap();
        listen(&listener, 8).unwrap();
        Self {
            directory,
            listener,
        }
    }

    /// Starts this binary as the application of `scenario`.
    pub(crate) fn start(&self, scenario: &str) -> Application {
        self.start_told(scenario, &[])
    }

    /// The same with something more in its environment.
    pub(crate) fn start_told(&self, scenario: &str, variables: &[(&str, &str)]) -> Application {
        let socket = self.directory.path().join("agent");
        Application::start_told(scenario, &socket, variables)
    }

    /// Takes the next ring that is offered; nothing is granted yet.
    pub(crate) fn accept(&self, capacity: u64) -> Attached {
        wait_readable(&self.listener, "an attach");
        let peer = accept(&self.listener).unwrap();
        wait_readable(&peer, "the attach message");
        let mut bytes = [0; 128];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &peer,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
        .unwrap();
        let message = AttachMessage::parse(&bytes[..received.bytes]).unwrap();
        let mut descriptors: Vec<OwnedFd> = control
            .drain()
            .flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
                _ => Vec::new(),
            })
            .collect();
        assert_eq!(descriptors.len(), 1);
        let memfd = descriptors.remove(0);
        let mapping = Mapping::of_sealed_memfd(memfd.as_fd(), message.data_bytes).unwrap();
        let word = |at| mapping.load_u64(at, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(word(control::INSTANCE), message.instance);
        assert_eq!(
            word(control::PARENT_INSTANCE),
            message.parent_instance.unwrap_or(0)
        );
        fallocate(
            &memfd,
            FallocateFlags::empty(),
            0,
            CONTROL_BYTES as u64 + capacity,
        )
        .unwrap();
        Attached {
            message,
            consumer: Consumer::new(mapping, capacity).unwrap(),
            buffer: RecordBuffer::new(),
        }
    }

    /// Whether nobody has asked for the agent (any more).
    pub(crate) fn is_idle(&self) -> bool {
        let mut fds = [PollFd::new(&self.listener, PollFlags::IN)];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut fds, Some(&at_once)).unwrap() == 0
    }

    /// Leaves no room in the backlog: whoever connects next gets EAGAIN.
    pub(crate) fn fill_backlog(&self) -> Vec<OwnedFd> {
        let address = SocketAddrUnix::new(self.directory.path().join("agent")).unwrap();
        let mut held = Vec::new();
        loop {
            let socket = socket_with(
                AddressFamily::UNIX,
                SocketType::SEQPACKET,
                SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
                None,
            )
            .unwrap();
            match rustix::net::connect(&socket, &address) {
                Ok(()) => held.push(socket),
                Err(rustix::io::Errno::AGAIN) => return held,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

impl Attached {
    /// The next record, if there is one.
    pub(crate) fn next(&mut self) -> Option<Owned> {
        match self.consumer.poll(&mut self.buffer).unwrap() {
            Next::Record(record) => Some(Owned {
                connection: record.connection,
                kind: record.kind,
                flags: record.flags,
                body: record.body.to_vec(),
            }),
            Next::Empty | Next::Pending => None,
            other => panic!("{other:?}"),
        }
    }

    /// All records up to the end of what is there.
    pub(crate) fn all(&mut self) -> Vec<Owned> {
        std::iter::from_fn(|| self.next()).collect()
    }
}

/// An application under test.
pub(crate) struct Application {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Application {
    pub(crate) fn start(scenario: &str, socket: &Path) -> Self {
        Self::start_told(scenario, socket, &[])
    }

    fn start_told(scenario: &str, socket: &Path, variables: &[(&str, &str)]) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "application", "--nocapture"])
            .env(SCENARIO, scenario)
            .env("SSLCOLLECTOR_SOCKET", socket)
            .envs(variables.iter().copied())
            .env(
                "SSLCOLLECTOR_AGENT_UID",
                rustix::process::getuid().as_raw().to_string(),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            stdin,
            stdout,
        }
    }

    /// Waits until the application says that it has reached `step`.
    pub(crate) fn reached(&mut self, step: &str) {
        assert_eq!(self.said(), step);
    }

    /// The next word that the application says.
    pub(crate) fn said(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            let count = self.stdout.read_line(&mut line).unwrap();
            assert_ne!(count, 0, "the application has ended");
            if let Some(found) = line.trim().strip_prefix('@') {
                return found.to_owned();
            }
        }
    }

    /// Lets it go on.
    pub(crate) fn go(&mut self) {
        self.stdin.write_all(b"go\n").unwrap();
    }

    /// Waits for its end, which must be good.
    pub(crate) fn end(mut self) {
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        // Of a test that has failed; one that ended is only reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In the application: tells the test where it is.
pub(crate) fn reach(step: &str) {
    println!("\n@{step}");
}

/// In the application: tells the test, and waits until it says `go`.
pub(crate) fn pause(step: &str) {
    reach(step);
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    assert_eq!(line, "go\n", "the test has ended");
}

/// What the clear text is at `offset`: no two places nearby are alike.
pub(crate) fn pattern(offset: u64, length: usize) -> Vec<u8> {
    (offset..)
        .take(length)
        .map(|at| {
            at.wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(8)
                .to_le_bytes()[0]
        })
        .collect()
}
