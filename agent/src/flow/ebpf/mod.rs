//! Lets through what a filter without memory can't: all segments of a hello, and nothing behind it. A socket filter in
//! eBPF, with the hellos that have begun in a map of the kernel's. Where it may not be loaded (bpf(2) asks for CAP_BPF or
//! CAP_SYS_ADMIN), the capture stays with [`super::filter`].

mod assembler;
mod program;
mod syscall;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::wire::LinkType;
use crate::output::packet_socket::attach_program;

/// Hellos of which something is missing, at a time; the kernel forgets the one that was asked for least recently.
const WINDOWS: u32 = 16 * 1024;

/// A program that the kernel has taken.
#[derive(Debug)]
pub(super) struct Program(OwnedFd);

impl Program {
    /// For frames that begin so. Its map can't be reached by this process any more when this returns.
    ///
    /// # Errors
    /// The kernel doesn't take it, or there is no right to.
    pub(super) fn load(link: LinkType) -> io::Result<Self> {
        let windows = syscall::create_map(program::KEY_BYTES, program::VALUE_BYTES, WINDOWS)?;
        let instructions = program::program(link, windows.as_raw_fd());
        syscall::load_socket_filter(&instructions, &mut []).map(Self)
    }

    /// Has the kernel run it on a packet socket, in place of its filter.
    ///
    /// # Errors
    /// The kernel doesn't; the socket's filter is as it was.
    pub(super) fn attach(self, socket: BorrowedFd<'_>) -> io::Result<()> {
        attach_program(socket, self.0.as_fd())
    }
}

#[cfg(test)]
mod tests;
