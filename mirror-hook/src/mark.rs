//! A mark in each program and library that this crate was linked into: an ELF note, by which `sslcollector
//! run` tells a program that mirrors by itself from one whose TLS nobody mirrors. Stripping and garbage
//! collection of sections leave notes alone; `readelf -n PROGRAM` shows it.
#![allow(unsafe_code, reason = "a static is put into a section of its own")]

/// The section's name.
pub const SECTION: &str = ".note.sslcollector";

/// See elf(5), "Notes (Nhdr)": without a description, each part a multiple of 4 bytes.
#[repr(C)]
#[derive(Debug)]
struct Note {
    name_bytes: u32,
    description_bytes: u32,
    kind: u32,
    name: [u8; 16],
}

/// Of the kinds, which are ours to number, the first: a hook is in here.
#[used]
// SAFETY: linkers merge the notes of one section, so that it must hold nothing but notes, which this is; the
// name is SECTION's, and no other linker input has it.
#[unsafe(link_section = ".note.sslcollector")]
static HOOK: Note = Note {
    name_bytes: 13,
    description_bytes: 0,
    kind: 1,
    name: *b"sslcollector\0\0\0\0",
};

#[cfg(test)]
mod tests {
    use super::*;

    /// The name and its NUL, then padding.
    #[test]
    fn the_name_has_the_length_that_it_says() {
        assert_eq!(HOOK.name.iter().position(|byte| *byte == 0), Some(12));
        assert_eq!(size_of::<Note>(), 12 + 13_usize.next_multiple_of(4));
        assert_eq!(SECTION, ".note.sslcollector");
    }
}
