//! An assembler for the kernel's eBPF instructions (RFC 9669): as many of them as the hello filter needs.

/// A register. The kernel gives the packet in `R1`, takes the result and gives that of calls in `R0`, arguments of calls in
/// `R1` to `R4`; calls leave only `R6` to `R10` as they are. `R10` is the end of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Register {
    R0,
    R1,
    R2,
    R3,
    R4,
    R6 = 6,
    R7,
    R8,
    R9,
    R10,
}

/// Bytes of a load or a store.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Size {
    Word = 0x00,
    Half = 0x08,
    Byte = 0x10,
    Double = 0x18,
}

/// Arithmetic on 64 bits.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Do {
    Add = 0x00,
    Sub = 0x10,
    And = 0x50,
    ShiftLeft = 0x60,
    ShiftRight = 0x70,
    Move = 0xb0,
}

/// Comparisons of 64 bits; without sign but for the last.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum If {
    Equal = 0x10,
    Above = 0x20,
    AtLeast = 0x30,
    NotEqual = 0x50,
    Below = 0xa0,
    SignedAtMost = 0xd0,
}

/// A place to jump to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label(usize);

/// `struct bpf_insn`, in the machine's byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Instruction {
    code: u8,
    /// Destination in the lower half, source in the upper one; the other way round on big-endian machines.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const _: () = assert!(size_of::<Instruction>() == 8);

/// Classes and modes of instructions (RFC 9669 3).
const LDX_MEM: u8 = 0x61;
const ST_MEM: u8 = 0x62;
const STX_MEM: u8 = 0x63;
const ALU: u8 = 0x04;
const JUMP: u8 = 0x05;
const ALU64: u8 = 0x07;
const FROM_REGISTER: u8 = 0x08;
const LOAD_MAP: u8 = 0x18;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const TO_BIG_ENDIAN: u8 = 0xdc;
/// The source of [`LOAD_MAP`] that says that the value is a map's descriptor.
const PSEUDO_MAP_FD: u8 = 1;

/// Instructions in the making.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    instructions: Vec<Instruction>,
    /// Where each label stands.
    places: Vec<Option<usize>>,
    /// Jumps, and whereto.
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    pub(super) fn label(&mut self) -> Label {
        self.places.push(None);
        Label(self.places.len() - 1)
    }

    /// The label stands here.
    pub(super) fn place(&mut self, label: Label) {
        self.places[label.0] = Some(self.instructions.len());
    }

    fn push(&mut self, code: u8, to: Register, from: u8, offset: i16, immediate: i32) {
        let to = to as u8;
        let registers = if cfg!(target_endian = "little") {
            from << 4 | to
        } else {
            to << 4 | from
        };
        self.instructions.push(Instruction {
            code,
            registers,
            offset,
            immediate,
        });
    }

    /// `to = value`, and the like.
    pub(super) fn alu(&mut self, what: Do, to: Register, value: i32) {
        self.push(ALU64 | what as u8, to, 0, 0, value);
    }

    /// `to = from`, and the like.
    pub(super) fn alu_register(&mut self, what: Do, to: Register, from: Register) {
        self.push(ALU64 | FROM_REGISTER | what as u8, to, from as u8, 0, 0);
    }

    /// `to -= from` of 32 bits; the upper ones become 0.
    pub(super) fn subtract32(&mut self, to: Register, from: Register) {
        self.push(ALU | FROM_REGISTER | Do::Sub as u8, to, from as u8, 0, 0);
    }

    /// What was read from the network, as a number of so many bits.
    pub(super) fn network_to_host(&mut self, register: Register, bits: i32) {
        self.push(TO_BIG_ENDIAN, register, 0, 0, bits);
    }

    /// `to = *(from + offset)`.
    pub(super) fn load(&mut self, size: Size, to: Register, from: Register, offset: i16) {
        self.push(LDX_MEM | size as u8, to, from as u8, offset, 0);
    }

    /// `*(to + offset) = from`.
    pub(super) fn store(&mut self, size: Size, to: Register, offset: i16, from: Register) {
        self.push(STX_MEM | size as u8, to, from as u8, offset, 0);
    }

    /// `*(to + offset) = value`.
    pub(super) fn store_value(&mut self, size: Size, to: Register, offset: i16, value: i32) {
        self.push(ST_MEM | size as u8, to, 0, offset, value);
    }

    /// The map with this descriptor.
    pub(super) fn load_map(&mut self, to: Register, descriptor: i32) {
        self.push(LOAD_MAP, to, PSEUDO_MAP_FD, 0, descriptor);
        self.push(0, Register::R0, 0, 0, 0);
    }

    pub(super) fn jump(&mut self, label: Label) {
        self.jumps.push((self.instructions.len(), label));
        self.push(JUMP, Register::R0, 0, 0, 0);
    }

    pub(super) fn jump_if(&mut self, what: If, register: Register, value: i32, label: Label) {
        self.jumps.push((self.instructions.len(), label));
        self.push(JUMP | what as u8, register, 0, 0, value);
    }

    pub(super) fn jump_if_register(
        &mut self,
        what: If,
        left: Register,
        right: Register,
        label: Label,
    ) {
        self.jumps.push((self.instructions.len(), label));
        self.push(JUMP | FROM_REGISTER | what as u8, left, right as u8, 0, 0);
    }

    /// Calls a helper of the kernel, by its number.
    pub(super) fn call(&mut self, helper: i32) {
        self.push(CALL, Register::R0, 0, 0, helper);
    }

    pub(super) fn exit(&mut self) {
        self.push(EXIT, Register::R0, 0, 0, 0);
    }

    /// The program.
    ///
    /// # Panics
    /// A label that is jumped to stands nowhere, or too far away: a mistake in the program, which is always the same.
    pub(super) fn finish(mut self) -> Vec<Instruction> {
        for (at, label) in self.jumps {
            let place = self.places[label.0].map(|place| place.cast_signed());
            let distance = place.map(|place| place - at.cast_signed() - 1);
            let distance = distance.and_then(|distance| i16::try_from(distance).ok());
            #[allow(
                clippy::expect_used,
                reason = "see above; a test assembles each program"
            )]
            let distance = distance.expect("a label within reach");
            self.instructions[at].offset = distance;
        }
        self.instructions
    }
}

#[cfg(test)]
mod tests {
    use super::Register::{R0, R1, R2};
    use super::*;

    #[test]
    fn jumps_reach_their_labels_in_both_directions() {
        let mut program = Assembler::default();
        let (back, on) = (program.label(), program.label());
        program.place(back);
        program.jump_if(If::Equal, R1, 7, on);
        program.jump(back);
        program.place(on);
        program.exit();
        let program = program.finish();
        assert_eq!(program[0].offset, 1);
        assert_eq!(program[1].offset, -2);
    }

    /// Bytes as in RFC 9669's tables.
    #[cfg(target_endian = "little")]
    #[test]
    fn instructions_are_encoded_as_the_kernel_reads_them() {
        let mut program = Assembler::default();
        program.alu(Do::Move, R0, -1);
        program.alu_register(Do::Add, R1, R2);
        program.load(Size::Half, R1, R2, -4);
        program.store(Size::Word, R2, 8, R1);
        program.store_value(Size::Double, R2, 0, 5);
        program.subtract32(R1, R2);
        program.network_to_host(R1, 16);
        program.load_map(R1, 9);
        let at = |n: usize, program: &[Instruction]| {
            let Instruction {
                code,
                registers,
                offset,
                immediate,
            } = program[n];
            (code, registers, offset, immediate)
        };
        let program = program.finish();
        let expected = [
            (0xb7, 0x00, 0, -1),
            (0x0f, 0x21, 0, 0),
            (0x69, 0x21, -4, 0),
            (0x63, 0x12, 8, 0),
            (0x7a, 0x02, 0, 5),
            (0x1c, 0x21, 0, 0),
            (0xdc, 0x01, 0, 16),
            (0x18, 0x11, 0, 9),
            (0x00, 0x00, 0, 0),
        ];
        assert_eq!(program.len(), expected.len());
        for (n, expected) in expected.into_iter().enumerate() {
            assert_eq!(at(n, &program), expected, "instruction {n}");
        }
    }
}
