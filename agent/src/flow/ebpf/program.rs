//! The hello filter as an eBPF program.
//!
//! ```text
//! link header ─> VLAN tags ─> IPv4 | IPv6, extensions ─> TCP ─┬─ SYN ─────────────────────────────────────────> pass
//!                                                             ├─ in the window of a hello that has begun ─────> pass
//!                                                             ├─ begins like a hello ─ whole in here? ────────> pass
//!                                                             │                      └ no: its window begins ─> pass
//!                                                             └─ anything else ───────────────────────────────> drop
//! ```
//!
//! A hello's window are the sequence numbers of its record, from its first segment to its end. Where the first
//! segment hasn't even the message's length, or the message goes on in other records, it is [`UNKNOWN_BYTES`] long. It
//! passes what is said in it, as often as it is said and in any order, but not before it begins. What passes is cut
//! behind the hello. A segment's first record may be a ChangeCipherSpec, in front of it.

use super::assembler::Register::{R0, R1, R2, R3, R4, R6, R7, R8, R9, R10};
use super::assembler::{Assembler, Do, If, Instruction, Label, Register, Size};
use crate::flow::reading::{CHANGE_CIPHER_SPEC, MESSAGE_HEADER, RECORD_HEADER, WITH_RANDOM};
use crate::flow::wire::{EXTENSION_HEADERS, EXTENSIONS, LinkType};

/// Bytes of a key: addresses (IPv4's with zeros behind), ports, zeros.
pub(super) const KEY_BYTES: u32 = 40;
/// Bytes of a value: first sequence number, length of the window.
pub(super) const VALUE_BYTES: u32 = 8;

/// The window of a hello of which it isn't known where it ends.
const UNKNOWN_BYTES: i32 = 4096;
/// What a record may hold (RFC 8446 5.1, 5.2).
const MAX_RECORD: i32 = 16_384 + 256;
/// So far behind a window it is forgotten: else it were there again when the sequence numbers have gone round.
const FORGET_BEHIND: i32 = 64 * 1024;

/// Helpers of the kernel, by their numbers in <linux/bpf.h>.
const MAP_LOOKUP: i32 = 1;
const MAP_UPDATE: i32 = 2;
const MAP_DELETE: i32 = 3;
const LOAD_BYTES: i32 = 26;

/// Fields of `struct __sk_buff`.
const SKB_LEN: i16 = 0;
const SKB_PROTOCOL: i16 = 16;

/// Places on the stack.
const KEY: i16 = -40;
const DESTINATION_V4: i16 = KEY + 16;
const PORTS: i16 = KEY + 32;
const VALUE: i16 = -48;
const BUFFER: i16 = -72;
const NEXT_KIND: i16 = -80;

const IPV4: i32 = 0x0800;
const IPV6: i32 = 0x86dd;
const VLAN: [i32; 3] = [0x8100, 0x88a8, 0x9100];
/// Tags of a frame at most.
const TAGS: usize = 2;
const TCP: i32 = 6;

/// The program for frames of this kind, with the map of windows of this descriptor.
pub(super) fn program(link: LinkType, map: i32) -> Vec<Instruction> {
    let mut program = Assembler::default();
    let drop = program.label();
    let mut writer = Writer { program, drop, map };
    writer.whole(link);
    writer.program.finish()
}

struct Writer {
    program: Assembler,
    /// Lets nothing through.
    drop: Label,
    map: i32,
}

impl Writer {
    /// `R6` is the packet throughout, `R7` the place in it, `R8` the end of its IP packet.
    fn whole(&mut self, link: LinkType) {
        let (v4, v6, tcp) = (self.label(), self.label(), self.label());
        self.program.alu_register(Do::Move, R6, R1);
        for at in (KEY..0).step_by(8) {
            self.program.store_value(Size::Double, R10, at, 0);
        }
        self.link(link);
        self.read(0, 1);
        self.buffer(Size::Byte, R1, 0);
        self.program.alu(Do::ShiftRight, R1, 4);
        self.program.jump_if(If::Equal, R1, 4, v4);
        self.program.jump_if(If::Equal, R1, 6, v6);
        self.program.jump(self.drop);
        self.program.place(v4);
        self.ipv4(tcp);
        self.program.place(v6);
        self.ipv6(tcp);
        self.program.place(tcp);
        self.tcp();
        self.program.place(self.drop);
        self.program.alu(Do::Move, R0, 0);
        self.program.exit();
    }

    fn label(&mut self) -> Label {
        self.program.label()
    }

    /// Reads `length` bytes of the packet, `R7 + offset` on, to a place on the stack.
    fn read_to(&mut self, place: i16, offset: i32, length: i32) {
        self.program.alu_register(Do::Move, R1, R6);
        self.program.alu_register(Do::Move, R2, R7);
        self.program.alu(Do::Add, R2, offset);
        self.program.alu_register(Do::Move, R3, R10);
        self.program.alu(Do::Add, R3, place.into());
        self.program.alu(Do::Move, R4, length);
        self.program.call(LOAD_BYTES);
        self.program.jump_if(If::NotEqual, R0, 0, self.drop);
    }

    fn read(&mut self, offset: i32, length: i32) {
        self.read_to(BUFFER, offset, length);
    }

    /// A number of what was read last.
    fn buffer(&mut self, size: Size, to: Register, offset: i16) {
        self.program.load(size, to, R10, BUFFER + offset);
        match size {
            Size::Half => self.program.network_to_host(to, 16),
            Size::Word => self.program.network_to_host(to, 32),
            Size::Byte | Size::Double => {}
        }
    }

    /// `R7` becomes the place of the IP header.
    fn link(&mut self, link: LinkType) {
        let ip = self.label();
        match link {
            LinkType::Raw => return self.program.alu(Do::Move, R7, 0),
            LinkType::Ethernet => self.program.alu(Do::Move, R7, 12),
            // The kernel has taken the header off; libpcap makes another one later.
            LinkType::LinuxSll | LinkType::LinuxSll2 => {
                self.program.alu(Do::Move, R7, 0);
                self.program.load(Size::Word, R1, R6, SKB_PROTOCOL);
                self.program.network_to_host(R1, 16);
                self.program.jump_if(If::Equal, R1, IPV4, ip);
                self.program.jump_if(If::Equal, R1, IPV6, ip);
                self.needs(&VLAN);
                self.program.alu(Do::Move, R7, 2);
            }
        }
        let packet = self.label();
        let tags = match link {
            LinkType::Ethernet => TAGS,
            _ => TAGS - 1,
        };
        for _ in 0..=tags {
            self.read(0, 2);
            self.buffer(Size::Half, R1, 0);
            self.program.jump_if(If::Equal, R1, IPV4, packet);
            self.program.jump_if(If::Equal, R1, IPV6, packet);
            self.needs(&VLAN);
            self.program.alu(Do::Add, R7, 4);
        }
        self.program.jump(self.drop);
        self.program.place(packet);
        self.program.alu(Do::Add, R7, 2);
        self.program.place(ip);
    }

    /// Goes on if `R1` is one of these.
    fn needs(&mut self, values: &[i32]) {
        let is = self.label();
        for value in values {
            self.program.jump_if(If::Equal, R1, *value, is);
        }
        self.program.jump(self.drop);
        self.program.place(is);
    }

    /// Segmentation offload leaves a length of 0 for what is larger than 64 KiB.
    fn end_of_packet(&mut self, header: i32) {
        let (known, end) = (self.label(), self.label());
        self.program.jump_if(If::NotEqual, R8, 0, known);
        self.program.load(Size::Word, R8, R6, SKB_LEN);
        self.program.jump(end);
        self.program.place(known);
        self.program.alu_register(Do::Add, R8, R7);
        self.program.alu(Do::Add, R8, header);
        self.program.place(end);
    }

    fn ipv4(&mut self, tcp: Label) {
        self.read(0, 20);
        self.buffer(Size::Byte, R1, 9);
        self.program.jump_if(If::NotEqual, R1, TCP, self.drop);
        self.buffer(Size::Half, R1, 6);
        self.program.alu(Do::And, R1, 0x3fff); // more fragments, or not the first
        self.program.jump_if(If::NotEqual, R1, 0, self.drop);
        self.buffer(Size::Half, R8, 2);
        self.end_of_packet(0);
        for (from, to) in [(12, KEY), (16, DESTINATION_V4)] {
            self.program.load(Size::Word, R1, R10, BUFFER + from);
            self.program.store(Size::Word, R10, to, R1);
        }
        self.buffer(Size::Byte, R1, 0);
        self.program.alu(Do::And, R1, 15);
        self.program.alu(Do::ShiftLeft, R1, 2);
        self.program.jump_if(If::Below, R1, 20, self.drop);
        self.program.alu_register(Do::Add, R7, R1);
        self.program.jump(tcp);
    }

    fn ipv6(&mut self, tcp: Label) {
        self.read(0, 8);
        self.buffer(Size::Half, R8, 4);
        self.end_of_packet(40);
        self.buffer(Size::Byte, R1, 6);
        self.program.store(Size::Double, R10, NEXT_KIND, R1);
        self.read_to(KEY, 8, 32);
        self.program.alu(Do::Add, R7, 40);
        for headers in 0..=EXTENSION_HEADERS {
            self.program.load(Size::Double, R1, R10, NEXT_KIND);
            self.program.jump_if(If::Equal, R1, TCP, tcp);
            if headers == EXTENSION_HEADERS {
                break;
            }
            self.needs(&EXTENSIONS.map(i32::from));
            self.read(0, 2);
            self.buffer(Size::Byte, R1, 0);
            self.program.store(Size::Double, R10, NEXT_KIND, R1);
            self.buffer(Size::Byte, R1, 1);
            self.program.alu(Do::Add, R1, 1);
            self.program.alu(Do::ShiftLeft, R1, 3);
            self.program.alu_register(Do::Add, R7, R1);
        }
        self.program.jump(self.drop);
    }

    /// `R7` becomes the place of the payload, `R8` its length, `R9` its sequence number.
    fn tcp(&mut self) {
        let no_syn = self.label();
        self.read(0, 20);
        self.buffer(Size::Byte, R1, 13);
        self.program.alu(Do::And, R1, 0x12);
        self.program.jump_if(If::NotEqual, R1, 2, no_syn);
        self.program.alu_register(Do::Move, R0, R7);
        self.program.alu(Do::Add, R0, 20);
        self.program.exit();
        self.program.place(no_syn);
        self.program.alu(Do::And, R1, 2);
        self.program.jump_if(If::NotEqual, R1, 0, self.drop);
        self.program.load(Size::Word, R1, R10, BUFFER);
        self.program.store(Size::Word, R10, PORTS, R1);
        self.buffer(Size::Word, R9, 4);
        self.buffer(Size::Byte, R1, 12);
        self.program.alu(Do::ShiftRight, R1, 4);
        self.program.alu(Do::ShiftLeft, R1, 2);
        self.program.jump_if(If::Below, R1, 20, self.drop);
        self.program.alu_register(Do::Add, R7, R1);
        self.program.alu_register(Do::Sub, R8, R7);
        self.program.jump_if(If::SignedAtMost, R8, 0, self.drop);
        self.window();
        self.behind_change();
        self.beginning();
    }

    fn map_and_key(&mut self) {
        self.program.load_map(R1, self.map);
        self.program.alu_register(Do::Move, R2, R10);
        self.program.alu(Do::Add, R2, KEY.into());
    }

    /// Passes what is in the window of a hello that has begun.
    fn window(&mut self) {
        let (none, behind, far) = (self.label(), self.label(), self.label());
        self.map_and_key();
        self.program.call(MAP_LOOKUP);
        self.program.jump_if(If::Equal, R0, 0, none);
        self.program.load(Size::Word, R1, R0, 0);
        self.program.load(Size::Word, R2, R0, 4);
        // How far behind the window's beginning this one is.
        self.program.alu_register(Do::Move, R3, R9);
        self.program.subtract32(R3, R1);
        self.program.jump_if_register(If::AtLeast, R3, R2, behind);
        self.program.alu_register(Do::Sub, R2, R3);
        self.pass(R2);
        self.program.place(behind);
        // Or before it, and reaches into it.
        self.program.subtract32(R1, R9);
        self.program.jump_if_register(If::AtLeast, R1, R8, far);
        self.program.alu_register(Do::Add, R2, R1);
        self.pass(R2);
        self.program.place(far);
        self.program.jump_if(If::Above, R3, i32::MAX, none); // before it
        self.program.alu(Do::Add, R2, FORGET_BEHIND);
        self.program.jump_if_register(If::Below, R3, R2, none);
        self.map_and_key();
        self.program.call(MAP_DELETE);
        self.program.place(none);
    }

    /// Skips a ChangeCipherSpec: a server's hello may come in one segment with the one behind its HelloRetryRequest.
    fn behind_change(&mut self) {
        let none = self.label();
        let bytes = small(CHANGE_CIPHER_SPEC);
        self.program.jump_if(If::Below, R8, bytes + 1, none);
        self.read(0, bytes);
        for (at, value) in [(0, 20), (1, 3), (3, 0), (4, 1), (5, 1)] {
            self.buffer(Size::Byte, R1, at);
            self.program.jump_if(If::NotEqual, R1, value, none);
        }
        self.program.alu(Do::Add, R7, bytes);
        self.program.alu(Do::Sub, R8, bytes);
        self.program.alu(Do::Add, R9, bytes);
        self.program.place(none);
    }

    /// Passes what begins like a hello.
    fn beginning(&mut self) {
        let (long, client, open) = (self.label(), self.label(), self.label());
        let (sized, begin) = (self.label(), self.label());
        let headers = small(RECORD_HEADER + MESSAGE_HEADER);
        self.program.jump_if(If::AtLeast, R8, headers, long);
        // Fewer bytes than tell what it is, and how long.
        self.read(0, 1);
        self.buffer(Size::Byte, R1, 0);
        self.program.jump_if(If::NotEqual, R1, 22, self.drop);
        self.program.jump_if(If::Below, R8, 2, open);
        self.read(1, 1);
        self.buffer(Size::Byte, R1, 0);
        self.program.jump_if(If::NotEqual, R1, 3, self.drop);
        self.program.jump(open);

        self.program.place(long);
        // The kernel wants numbers at places that their size divides: the lengths of record and message, here.
        self.read_to(BUFFER + 1, 0, headers);
        self.buffer(Size::Byte, R1, 1);
        self.program.jump_if(If::NotEqual, R1, 22, self.drop);
        self.buffer(Size::Byte, R1, 2);
        self.program.jump_if(If::NotEqual, R1, 3, self.drop);
        self.buffer(Size::Half, R2, 4);
        self.program.jump_if(If::Equal, R2, 0, self.drop);
        self.program.jump_if(If::Above, R2, MAX_RECORD, self.drop);
        self.program.alu(Do::Add, R2, small(RECORD_HEADER));
        self.buffer(Size::Byte, R1, 6);
        self.program.jump_if(If::Equal, R1, 1, client);
        self.program.jump_if(If::NotEqual, R1, 2, self.drop);
        // Of a server's hello only the random is wanted.
        let random_end = small(RECORD_HEADER + WITH_RANDOM);
        self.program.jump_if(If::Below, R2, random_end, open);
        self.program.alu(Do::Move, R2, random_end);
        self.program.jump(sized);

        self.program.place(client);
        self.buffer(Size::Byte, R1, 7);
        self.program.jump_if(If::NotEqual, R1, 0, open);
        self.buffer(Size::Half, R1, 8);
        self.program.alu(Do::Add, R1, headers);
        self.program.jump_if_register(If::AtLeast, R2, R1, sized);
        self.program.place(open);
        self.program.alu(Do::Move, R2, UNKNOWN_BYTES);
        self.program.place(sized);
        self.program.jump_if_register(If::Above, R2, R8, begin);
        self.pass(R2);

        self.program.place(begin);
        self.program.store(Size::Word, R10, VALUE, R9);
        self.program.store(Size::Word, R10, VALUE + 4, R2);
        self.map_and_key();
        self.program.alu_register(Do::Move, R3, R10);
        self.program.alu(Do::Add, R3, VALUE.into());
        self.program.alu(Do::Move, R4, 0); // whether it is there or not
        self.program.call(MAP_UPDATE);
        self.pass(R8);
    }

    /// Lets the packet through, with so many bytes of its payload.
    fn pass(&mut self, bytes: Register) {
        self.program.alu_register(Do::Move, R0, R7);
        self.program.alu_register(Do::Add, R0, bytes);
        self.program.exit();
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "some bytes of headers"
)]
const fn small(bytes: usize) -> i32 {
    bytes as i32
}
