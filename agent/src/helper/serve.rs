//! The helper's end: every request is checked against what the helper was told, and answered or refused.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use rustix::net::{SocketAddrUnix, getsockname};

use super::channel::{Channel, Message};
use super::duties::{Duties, Duty};
use super::request::{MOST_QUESTIONS, Refusal, Reply, Request, encode};
use crate::flow::proof;
use crate::intake::kin::{self, Questions};
use crate::intake::peer::{Peer, Watch, is_over};
use crate::intake::seen::Seen;

/// So many refusals are said; more are only counted.
const SAID: u64 = 10;
/// Processes that are known before it is looked which of them have ended.
const KNOWN_AT_FIRST: usize = 4096;

/// What both connections of a helper have in common.
#[derive(Debug)]
pub(super) struct Shared {
    /// The process that asks.
    agent: u32,
    known: Mutex<Known>,
    refused: AtomicU64,
}

/// Processes that have connected: the id of each, and when it was started; 0 where it was gone when it was looked at.
#[derive(Debug)]
struct Known {
    processes: BTreeSet<(u32, u64)>,
    /// With so many it is looked which have ended.
    most: usize,
}

/// What one of the connections is for.
#[derive(Debug)]
pub(super) enum Desk {
    /// For requests that are answered at once.
    Lookups(Duties),
    /// For [`Request::Relations`], which may take longer.
    Scans,
}

impl Shared {
    /// For an agent with this id, and those processes whose rings it was given when it started.
    pub(super) fn new(agent: u32, kept: impl IntoIterator<Item = u32>) -> Self {
        let known = kept.into_iter().map(|pid| (pid, start_of(pid)));
        Self {
            agent,
            known: Mutex::new(Known {
                processes: known.collect(),
                most: KNOWN_AT_FIRST,
            }),
            refused: AtomicU64::new(0),
        }
    }

    /// How many requests were refused.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Answers until the other end is closed.
    pub(super) fn serve(&self, channel: &Channel, mut desk: Desk) {
        while let Ok(Some(message)) = channel.receive() {
            let (reply, descriptor) = match self.answer(message, &mut desk) {
                Ok(answer) => answer,
                Err(refusal) => {
                    self.note(&refusal);
                    (Reply::Refused(refusal), None)
                }
            };
            let bytes = encode(&reply).unwrap_or_default();
            let descriptor = descriptor.as_ref().map(AsFd::as_fd);
            if channel.send(&bytes, descriptor).is_err() {
                return;
            }
        }
    }

    fn note(&self, refusal: &Refusal) {
        if self.refused.fetch_add(1, Relaxed) < SAID {
            say(&format!("refused: {refusal}"));
        }
    }

    fn answer(
        &self,
        mut message: Message,
        desk: &mut Desk,
    ) -> Result<(Reply, Option<OwnedFd>), Refusal> {
        let count = message.descriptors.len() as u64;
        let request = Request::decode(&message.bytes).filter(|_| !message.truncated);
        let request = request.ok_or(Refusal::Malformed(message.bytes.len() as u64))?;
        let brings = u64::from(request == Request::Peer);
        if count != brings {
            return Err(Refusal::Descriptors(count));
        }
        let duties = match (desk, &request) {
            (Desk::Scans, Request::Relations(questions)) => {
                return self.relations(questions).map(|reply| (reply, None));
            }
            (Desk::Lookups(_), Request::Relations(_)) | (Desk::Scans, _) => {
                return Err(Refusal::WrongDesk);
            }
            (Desk::Lookups(duties), _) => duties,
        };
        let reply = match request {
            Request::Peer => {
                let connection = message.descriptors.pop().ok_or(Refusal::Connection)?;
                self.peer(&connection, duties.socket.as_deref())?
            }
            Request::Process { pid } => self.process(pid)?,
            Request::NextFile { output } => match duty(duties, output)? {
                Duty::Files(next) => match next() {
                    Ok(file) => return Ok((Reply::File, Some(file.into()))),
                    Err(error) => failed(&error),
                },
                _ => return Err(Refusal::Output(output)),
            },
            Request::MakeInterface { output } => match duty(duties, output)? {
                Duty::Interface(make) => match make() {
                    Ok(made) => Reply::Made(made),
                    Err(words) => Reply::Failed { errno: None, words },
                },
                _ => return Err(Refusal::Output(output)),
            },
            Request::Diag { pid } => {
                let opened = self.of_known(pid, || proof::process::open_in(pid))?;
                match opened.unwrap_or_else(|| Err(io::ErrorKind::NotFound.into())) {
                    Ok(socket) => return Ok((Reply::File, Some(socket))),
                    Err(error) => failed(&error),
                }
            }
            Request::HoldsSocket { pid, inode } => {
                let holds = || proof::process::holds(pid, inode);
                Reply::Holds(self.of_known(pid, holds)?.flatten())
            }
            Request::RemoveSocket { device, inode } => {
                remove_socket(duties.socket.as_deref(), device, inode)?
            }
            Request::Relations(_) => return Err(Refusal::WrongDesk),
        };
        Ok((reply, None))
    }

    fn peer(&self, connection: &OwnedFd, socket: Option<&Path>) -> Result<Reply, Refusal> {
        if !is_at(connection, socket.ok_or(Refusal::Connection)?) {
            return Err(Refusal::Connection);
        }
        let peer = Peer::of(connection.as_fd()).map_err(|_| Refusal::Connection)?;
        let watch = peer.watch(connection.as_fd());
        let Ok(Watch::Pidfd(pidfd)) = watch else {
            // Who has ended can't be looked at, nor who isn't seen from here.
            return Ok(self.introduce(&peer, Seen::default()));
        };
        let seen = Seen::of(peer.pid);
        Ok(match is_over(pidfd.as_fd()) {
            false => self.introduce(&peer, seen),
            // Somebody else may have had its id by now.
            true => self.introduce(&peer, Seen::default()),
        })
    }

    fn introduce(&self, peer: &Peer, seen: Seen) -> Reply {
        self.known().add(peer.pid, seen.started);
        Reply::Process(seen)
    }

    fn process(&self, pid: u32) -> Result<Reply, Refusal> {
        let known = self.known().last_started(pid);
        let known = known.ok_or(Refusal::Stranger(pid))?;
        let seen = Seen::of(pid);
        let same = seen.started == known && start_of(pid) == known;
        Ok(Reply::Process(if same { seen } else { Seen::default() }))
    }

    /// What `look` finds out of a process that has connected before; `None`: somebody else has its id by now.
    fn of_known<T>(&self, pid: u32, look: impl FnOnce() -> T) -> Result<Option<T>, Refusal> {
        let known = self.known().last_started(pid);
        let known = known.ok_or(Refusal::Stranger(pid))?;
        let same = || known != 0 && start_of(pid) == known;
        let found = same().then(look);
        Ok(found.filter(|_| same()))
    }

    fn relations(&self, questions: &Questions) -> Result<Reply, Refusal> {
        if questions.len() > MOST_QUESTIONS {
            return Err(Refusal::Questions(questions.len() as u64));
        }
        let known = self.known();
        // 0: nothing can be seen of it, and nothing is asked of /proc.
        let stranger = questions
            .iter()
            .map(|(_, owner, _)| owner)
            .find(|owner| owner.pid != 0 && !known.processes.contains(&(owner.pid, owner.started)));
        if let Some(owner) = stranger {
            return Err(Refusal::Stranger(owner.pid));
        }
        drop(known);
        let answers = kin::answer_for(questions, self.agent);
        Ok(Reply::Relations(answers.answers))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        // A map can't be left half changed.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn add(&mut self, pid: u32, started: u64) {
        if self.processes.len() >= self.most {
            // The agent waits: no more is looked at than has to be.
            self.processes
                .retain(|(pid, known)| start_of(*pid) == *known);
            self.most = (2 * self.processes.len()).max(KNOWN_AT_FIRST);
        }
        self.processes.insert((pid, started));
    }

    fn last_started(&self, pid: u32) -> Option<u64> {
        let mut same = self.processes.range((pid, 0)..=(pid, u64::MAX));
        same.next_back().map(|(_, started)| *started)
    }
}

/// When a process was started; 0: it is gone, or can't be seen.
fn start_of(pid: u32) -> u64 {
    kin::started(pid).unwrap_or(0)
}

fn duty(duties: &mut Duties, output: u32) -> Result<&mut Duty, Refusal> {
    let index = usize::try_from(output).map_err(|_| Refusal::Output(output))?;
    duties.outputs.get_mut(index).ok_or(Refusal::Output(output))
}

/// Whether a connection was made to the socket at this path, or to the one with the abstract name that is the same.
fn is_at(connection: &OwnedFd, socket: &Path) -> bool {
    let path = socket.as_os_str().as_bytes();
    let names = [
        SocketAddrUnix::new(path),
        SocketAddrUnix::new_abstract_name(path),
    ];
    let found = getsockname(connection).map(SocketAddrUnix::try_from);
    matches!(found, Ok(Ok(found)) if names.iter().flatten().any(|name| *name == found))
}

fn remove_socket(path: Option<&Path>, device: u64, inode: u64) -> Result<Reply, Refusal> {
    let path = path.ok_or(Refusal::Socket)?;
    let file = match fs::symlink_metadata(path) {
        Ok(file) => file,
        Err(error) => return Ok(failed(&error)),
    };
    if !file.file_type().is_socket() || (file.dev(), file.ino()) != (device, inode) {
        return Err(Refusal::Socket);
    }
    Ok(match fs::remove_file(path) {
        Ok(()) => Reply::Done,
        Err(error) => failed(&error),
    })
}

fn failed(error: &io::Error) -> Reply {
    Reply::Failed {
        errno: error.raw_os_error(),
        words: error.to_string(),
    }
}

/// On standard error, as the agent does.
pub(super) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "sslcollector: helper: {line}");
}

/// What a helper that was told nothing says to these bytes; `None`: it does what they ask for. For tests with
/// bytes that nobody thinks of.
pub fn refused(bytes: &[u8]) -> Option<Refusal> {
    let shared = Shared::new(std::process::id(), []);
    let desks = [Desk::Lookups(Duties::default()), Desk::Scans];
    let answers = desks.map(|mut desk| {
        let message = Message {
            bytes: bytes.to_vec(),
            ..Message::default()
        };
        shared.answer(message, &mut desk).err()
    });
    let [lookups, scans] = answers;
    lookups.and_then(|lookups| match scans {
        Some(Refusal::WrongDesk) => Some(lookups),
        scans => scans,
    })
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
