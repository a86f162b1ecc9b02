#![allow(unsafe_code, reason = "bpf(2) has no safe name in any crate in use")]
//! The two calls of bpf(2) that are needed here.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use super::assembler::Instruction;

/// Of <linux/bpf.h>.
const MAP_CREATE: libc::c_int = 0;
const PROG_LOAD: libc::c_int = 5;
const MAP_TYPE_LRU_HASH: u32 = 9;
const PROG_TYPE_SOCKET_FILTER: u32 = 1;

/// The beginning of `union bpf_attr` for [`MAP_CREATE`]; what isn't given counts as zeros.
#[repr(C)]
struct MapAttributes {
    map_type: u32,
    key_bytes: u32,
    value_bytes: u32,
    max_entries: u32,
    flags: u32,
}

/// The same for [`PROG_LOAD`].
#[repr(C)]
struct ProgramAttributes {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_bytes: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// A map that forgets its least recently used entry when it is full.
pub(super) fn create_map(key_bytes: u32, value_bytes: u32, entries: u32) -> io::Result<OwnedFd> {
    let attributes = MapAttributes {
        map_type: MAP_TYPE_LRU_HASH,
        key_bytes,
        value_bytes,
        max_entries: entries,
        flags: 0,
    };
    // SAFETY: plain numbers, without a pointer.
    unsafe { bpf(MAP_CREATE, &attributes) }
}

/// A program for a socket, as the kernel has checked it. What it objects to goes to `log`, where that isn't empty.
pub(super) fn load_socket_filter(
    instructions: &[Instruction],
    log: &mut [u8],
) -> io::Result<OwnedFd> {
    // It uses nothing that the kernel keeps for programs under the GPL.
    let license = c"MIT OR Apache-2.0";
    let attributes = ProgramAttributes {
        program_type: PROG_TYPE_SOCKET_FILTER,
        instruction_count: u32::try_from(instructions.len()).unwrap_or(u32::MAX),
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: u32::from(!log.is_empty()),
        log_bytes: u32::try_from(log.len()).unwrap_or(u32::MAX),
        log: if log.is_empty() {
            0
        } else {
            log.as_mut_ptr() as u64
        },
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: the pointers are to as many instructions as are told, to a string with its end, and to as many bytes as are
    // told, which may be written to; all live through the call.
    unsafe { bpf(PROG_LOAD, &attributes) }
}

/// # Safety
/// `attributes` are those of the command, and what they point to is valid for it.
unsafe fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    let (pointer, length) = (std::ptr::from_ref(attributes), size_of::<T>());
    // SAFETY: `pointer` is to `length` bytes; the rest is the caller's.
    let descriptor = unsafe { libc::syscall(libc::SYS_bpf, command, pointer, length) };
    let descriptor = libc::c_int::try_from(descriptor).unwrap_or(-1);
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both commands give a descriptor that is open and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::fd::{AsRawFd, OwnedFd};

    use super::*;

    const PROG_TEST_RUN: libc::c_int = 10;

    #[repr(C)]
    #[derive(Debug, Default)]
    struct RunAttributes {
        program: u32,
        result: u32,
        in_bytes: u32,
        out_bytes: u32,
        packet_in: u64,
        packet_out: u64,
        repeat: u32,
        duration: u32,
    }

    /// What the program says of a packet, which has an Ethernet header that the program doesn't see.
    pub(in super::super) fn run(program: &OwnedFd, packet: &[u8]) -> u32 {
        let mut attributes = RunAttributes {
            program: u32::try_from(program.as_raw_fd()).unwrap(),
            in_bytes: u32::try_from(packet.len()).unwrap(),
            packet_in: packet.as_ptr() as u64,
            repeat: 1,
            ..RunAttributes::default()
        };
        let (pointer, length) = (&raw mut attributes, size_of::<RunAttributes>());
        // SAFETY: `pointer` is to `length` bytes that may be written to, and the packet in them lives through the call.
        let done = unsafe { libc::syscall(libc::SYS_bpf, PROG_TEST_RUN, pointer, length) };
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
        attributes.result
    }
}
