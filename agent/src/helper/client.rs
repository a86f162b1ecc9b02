//! The agent's end.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, WaitOptions, waitpid};

use super::channel::Channel;
use super::request::{MOST_QUESTIONS, Reply, Request, encode};
use crate::intake::kin::{Answer, Questions};
use crate::intake::seen::Seen;

/// A helper that doesn't answer for so long is given up: the main loop waits for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Looking at all processes of a large machine takes longer, and has a thread of its own.
const PATIENCE_FOR_SCANS: Duration = Duration::from_secs(30);

/// A helper that answers.
#[derive(Clone, Debug)]
pub struct Helper(Arc<Ends>);

#[derive(Debug)]
struct Ends {
    lookups: Mutex<Channel>,
    scans: Mutex<Channel>,
    /// Its process, where it is a child of this one.
    pid: Option<Pid>,
    /// It is gone, or has been given up.
    gone: AtomicBool,
    told: AtomicBool,
}

/// There is no helper any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the privileged helper is gone")]
pub struct Gone;

impl Helper {
    pub(super) fn new(lookups: Channel, scans: Channel, pid: Option<Pid>) -> io::Result<Self> {
        lookups.set_patience(PATIENCE)?;
        scans.set_patience(PATIENCE_FOR_SCANS)?;
        Ok(Self(Arc::new(Ends {
            lookups: Mutex::new(lookups),
            scans: Mutex::new(scans),
            pid,
            gone: AtomicBool::new(false),
            told: AtomicBool::new(false),
        })))
    }

    /// Looks whether there is none any more.
    pub fn is_gone(&self) -> bool {
        if !self.0.gone.load(Relaxed) {
            // Who asks it right now finds out by itself.
            let closed = self
                .0
                .lookups
                .try_lock()
                .is_ok_and(|channel| channel.is_closed());
            if closed {
                self.give_up();
            }
        }
        self.0.gone.load(Relaxed)
    }

    /// What people should know if it is gone: once.
    pub fn take_complaint(&self) -> Option<String> {
        if !self.is_gone() || self.0.told.swap(true, Relaxed) {
            return None;
        }
        if let Some(pid) = self.0.pid {
            // Nobody else waits for it. One that only didn't answer may still be there.
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
        Some(
            "the privileged helper is gone: all goes on, but new programs of other users have the names that they \
             give themselves, rules with exe don't fit them, and no further capture file is begun; restart \
             sslcollector to mend that"
                .to_owned(),
        )
    }

    /// The program at the other end of a connection to the agent's socket.
    pub(crate) fn peer(&self, connection: BorrowedFd<'_>) -> Option<Seen> {
        self.seen(&Request::Peer, Some(connection))
    }

    /// A process that has connected before, or whose ring was kept.
    pub(crate) fn process(&self, pid: u32) -> Option<Seen> {
        self.seen(&Request::Process { pid }, None)
    }

    fn seen(&self, request: &Request, connection: Option<BorrowedFd<'_>>) -> Option<Seen> {
        match self.ask(&self.0.lookups, request, connection) {
            Ok((Reply::Process(seen), _)) => Some(seen),
            _ => None,
        }
    }

    /// A socket that asks about sockets in the network namespace of this process.
    pub(crate) fn diag(&self, pid: u32) -> Option<OwnedFd> {
        match self.ask(&self.0.lookups, &Request::Diag { pid }, None) {
            Ok((Reply::File, socket)) => socket,
            _ => None,
        }
    }

    /// Whether this process has a descriptor of the socket with this inode; `None`: can't be seen.
    pub(crate) fn holds_socket(&self, pid: u32, inode: u64) -> Option<bool> {
        let request = Request::HoldsSocket { pid, inode };
        match self.ask(&self.0.lookups, &request, None) {
            Ok((Reply::Holds(holds), _)) => holds,
            _ => None,
        }
    }

    /// Who has rings mapped; `None`: can't be asked.
    pub(crate) fn relations(&self, questions: &Questions) -> Option<Vec<(u64, Answer)>> {
        let mut answers = Vec::with_capacity(questions.len());
        for some in questions.chunks(MOST_QUESTIONS) {
            let request = Request::Relations(some.to_vec());
            match self.ask(&self.0.scans, &request, None) {
                Ok((Reply::Relations(found), _)) => answers.extend(found),
                _ => return None,
            }
        }
        Some(answers)
    }

    /// The next file of an output.
    ///
    /// # Errors
    /// It can't be made, or there is no helper any more ([`Gone`]).
    pub fn next_file(&self, output: u32) -> io::Result<File> {
        match self.ask(&self.0.lookups, &Request::NextFile { output }, None) {
            Ok((Reply::File, Some(file))) => Ok(file.into()),
            Ok((other, _)) => Err(failure(other)),
            Err(gone) => Err(io::Error::other(gone)),
        }
    }

    /// Has the interface of an output made if it isn't there; what was made, for people.
    ///
    /// # Errors
    /// As above.
    pub fn make_interface(&self, output: u32) -> io::Result<Option<String>> {
        match self.ask(&self.0.lookups, &Request::MakeInterface { output }, None) {
            Ok((Reply::Made(made), _)) => Ok(made),
            Ok((other, _)) => Err(failure(other)),
            Err(gone) => Err(io::Error::other(gone)),
        }
    }

    /// Has the agent's socket file removed, if it is the one with these numbers.
    pub(crate) fn remove_socket(&self, device: u64, inode: u64) {
        let request = Request::RemoveSocket { device, inode };
        // A file that stays is found to be stale by the next agent.
        let _ = self.ask(&self.0.lookups, &request, None);
    }

    fn ask(
        &self,
        channel: &Mutex<Channel>,
        request: &Request,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<(Reply, Option<OwnedFd>), Gone> {
        if self.0.gone.load(Relaxed) {
            return Err(Gone);
        }
        // Behind a panic in the middle of a request the answer would be another's.
        let channel = channel.lock().map_err(|_| Gone)?;
        let bytes = encode(request).ok_or(Gone)?;
        let sent = channel.send(&bytes, descriptor);
        let reply = sent.and_then(|()| channel.receive()).ok().flatten();
        let reply = reply.and_then(|mut message| {
            let reply = Reply::decode(&message.bytes)?;
            Some((reply, message.descriptors.pop()))
        });
        drop(channel);
        reply.ok_or_else(|| {
            // An answer that comes late would be taken for that to the next request.
            self.give_up();
            Gone
        })
    }

    fn give_up(&self) {
        self.0.gone.store(true, Relaxed);
        for channel in [&self.0.lookups, &self.0.scans] {
            if let Ok(channel) = channel.try_lock() {
                channel.close();
            }
        }
    }
}

fn failure(reply: Reply) -> io::Error {
    match reply {
        Reply::Failed {
            errno: Some(errno), ..
        } => io::Error::from_raw_os_error(errno),
        Reply::Failed { words, .. } => io::Error::other(words),
        Reply::Refused(refusal) => io::Error::other(format!("the helper refused: {refusal}")),
        _ => io::Error::other("the helper answered something else"),
    }
}
