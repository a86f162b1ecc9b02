//! The connection between the agent and its helper: whole messages, of which some bring a descriptor.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};

/// No message is larger. What Linux lets wait in a socket by default is more.
pub(super) const MOST_BYTES: usize = 128 << 10;
/// Received, so that more than one is noticed; the kernel closes the others.
const DESCRIPTORS: usize = 4;

/// One end.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

/// One message.
#[derive(Debug, Default)]
pub(super) struct Message {
    pub(super) bytes: Vec<u8>,
    pub(super) descriptors: Vec<OwnedFd>,
    /// The bytes or the descriptors aren't all of it.
    pub(super) truncated: bool,
}

impl Channel {
    /// Both ends.
    pub(super) fn pair() -> io::Result<(Self, Self)> {
        let flags = SocketFlags::CLOEXEC;
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self(one), Self(other)))
    }

    /// Waits no longer than this for the other end.
    pub(super) fn set_patience(&self, patience: Duration) -> io::Result<()> {
        set_socket_timeout(&self.0, Timeout::Recv, Some(patience))?;
        Ok(set_socket_timeout(&self.0, Timeout::Send, Some(patience))?)
    }

    /// Sends a message, as soon as there is room.
    pub(super) fn send(&self, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = descriptor.as_slice();
        if descriptor.is_some() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let parts = [IoSlice::new(bytes)];
        loop {
            match sendmsg(&self.0, &parts, &mut control, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                result => return Ok(result.map(|_| ())?),
            }
        }
    }

    /// The next message; `None`: the other end is closed.
    pub(super) fn receive(&self) -> io::Result<Option<Message>> {
        let mut bytes = vec![0; MOST_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            match recvmsg(&self.0, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                result => break result?,
            }
        };
        if received.bytes == 0 {
            return Ok(None);
        }
        bytes.truncate(received.bytes);
        let descriptors = control.drain().filter_map(|part| match part {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        let cut = ReturnFlags::TRUNC | ReturnFlags::CTRUNC;
        Ok(Some(Message {
            descriptors: descriptors.flatten().collect(),
            bytes,
            truncated: received.flags.intersects(cut),
        }))
    }

    /// Whether the other end is closed.
    pub(super) fn is_closed(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut set = [PollFd::new(&self.0, PollFlags::RDHUP)];
        let asked = poll(&mut set, Some(&Timespec::default()));
        let closed = PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR;
        asked.is_ok() && set[0].revents().intersects(closed)
    }

    /// Nothing is received any more, and the other end hears that this one is closed.
    pub(super) fn close(&self) {
        // It may be already.
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Both);
    }
}
