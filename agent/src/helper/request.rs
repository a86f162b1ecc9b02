//! What the agent may ask its helper for, and what that says: one message each, in postcard.

use serde::{Deserialize, Serialize};

use super::channel::MOST_BYTES;
use crate::intake::kin::{Answer, Questions};
use crate::intake::seen::Seen;

/// Rings in one request: with numbers of any size they fit into [`MOST_BYTES`].
pub(super) const MOST_QUESTIONS: usize = 2048;

/// All that can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Request {
    /// Which program is at the other end of the connection that comes along: one that was made to the agent's
    /// own socket.
    Peer,
    /// The same of a process that has connected before, or whose ring the service manager has kept.
    Process {
        /// Its id.
        pid: u32,
    },
    /// Who has these rings mapped; of such processes only.
    Relations(Questions),
    /// The next file of an output.
    NextFile {
        /// Its place among the outputs.
        output: u32,
    },
    /// The interface of an output, to be made if it isn't there.
    MakeInterface {
        /// Its place among the outputs.
        output: u32,
    },
    /// A socket that asks about sockets (sock_diag(7)) in the network namespace of a process that has connected before.
    Diag {
        /// Its id.
        pid: u32,
    },
    /// Whether such a process has a descriptor of a socket.
    HoldsSocket {
        /// Its id.
        pid: u32,
        /// The socket's inode.
        inode: u64,
    },
    /// The agent's socket file is to go, if it is the one with these numbers.
    RemoveSocket {
        /// Of its file system.
        device: u64,
        /// Its own.
        inode: u64,
    },
}

/// What the helper says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Reply {
    /// As far as it can be seen.
    Process(Seen),
    /// The answers, by the rings' instances.
    Relations(Vec<(u64, Answer)>),
    /// Whether it has it; nothing: that can't be seen.
    Holds(Option<bool>),
    /// A descriptor comes along.
    File,
    /// What was made, for people; nothing if the interface was there.
    Made(Option<String>),
    /// It is done.
    Done,
    /// It was tried.
    Failed {
        /// The kernel's number, if it is one of its errors.
        errno: Option<i32>,
        /// What people should know.
        words: String,
    },
    /// It was not.
    Refused(Refusal),
}

/// Why the helper doesn't do what it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// No request.
    #[error("{0} bytes that are no request")]
    Malformed(u64),
    /// Another number of descriptors than belongs to the request.
    #[error("{0} descriptors with a request that has another number of them")]
    Descriptors(u64),
    /// A connection that wasn't made to the agent's socket.
    #[error("a connection that is none of the agent's")]
    Connection,
    /// A process that has never connected to the agent.
    #[error("process {0} is none of those that are mirrored")]
    Stranger(u32),
    /// No output of the command line, or one of another kind.
    #[error("output {0} is none for which that can be done")]
    Output(u32),
    /// A file that isn't the agent's socket.
    #[error("a file that isn't the agent's socket")]
    Socket,
    /// More than one message may ask.
    #[error("{0} questions at once")]
    Questions(u64),
    /// On the connection for other requests.
    #[error("a request on the wrong connection")]
    WrongDesk,
}

impl Request {
    /// `None`: no helper's agent sends these bytes.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        decode(bytes)
    }
}

impl Reply {
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        decode(bytes)
    }
}

/// The message; `None`: larger than any may be.
pub(super) fn encode(message: &impl Serialize) -> Option<Vec<u8>> {
    let bytes = postcard::to_stdvec(message).ok()?;
    (bytes.len() <= MOST_BYTES).then_some(bytes)
}

fn decode<'b, T: Deserialize<'b>>(bytes: &'b [u8]) -> Option<T> {
    let (message, rest) = postcard::take_from_bytes(bytes).ok()?;
    rest.is_empty().then_some(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intake::kin::{Owner, Question};

    #[test]
    fn the_largest_request_fits() {
        let owner = Owner {
            pid: u32::MAX,
            started: u64::MAX,
            inode: u64::MAX,
        };
        let questions = vec![(u64::MAX, owner, Question::Mapped); MOST_QUESTIONS];
        let request = Request::Relations(questions);
        let bytes = encode(&request).unwrap();
        assert_eq!(Request::decode(&bytes), Some(request));
        assert_eq!(Request::decode(&bytes[1..]), None);
        assert_eq!(Request::decode(&[bytes, vec![0]].concat()), None);
    }
}
