//! The shorter form of an instruction, where it has one.

use iced_x86::{Code, ConstantOffsets, EncodingKind, Instruction, Register};

/// A branch to somewhere in its function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Branch {
    /// The condition, as the low bits of the opcode; `None` if there is none.
    pub(super) condition: Option<u8>,
    /// Where it leads to.
    pub(super) target: u32,
    /// Whether its displacement has 8 bits instead of 32.
    pub(super) short: bool,
}

impl Branch {
    /// The branch in these bytes, which leads to `target`. `None` if it has a form that the code generator does not use.
    pub(super) fn of(bytes: &[u8], target: u32) -> Option<Self> {
        let (condition, short) = match *bytes {
            [0xe9, _, _, _, _] => (None, false),
            [0xeb, _] => (None, true),
            [0x0f, opcode @ 0x80..=0x8f, _, _, _, _] => (Some(opcode & 0xf), false),
            [opcode @ 0x70..=0x7f, _] => (Some(opcode & 0xf), true),
            _ => return None,
        };
        Some(Self { condition, target, short })
    }

    /// How many bytes it has.
    pub(super) fn length(&self) -> u32 {
        match (self.short, self.condition) {
            (true, _) => 2,
            (false, None) => 5,
            (false, Some(_)) => 6,
        }
    }

    /// Appends it, with a displacement.
    pub(super) fn write(&self, distance: i32, bytes: &mut Vec<u8>) -> Option<()> {
        if self.short {
            bytes.push(self.condition.map_or(0xeb, |condition| 0x70 | condition));
            bytes.extend_from_slice(&i8::try_from(distance).ok()?.to_le_bytes());
        } else {
            match self.condition {
                None => bytes.push(0xe9),
                Some(condition) => bytes.extend_from_slice(&[0x0f, 0x80 | condition]),
            }
            bytes.extend_from_slice(&distance.to_le_bytes());
        }
        Some(())
    }
}

/// The bytes of an instruction, which has 15 at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    bytes: [u8; 15],
    length: u8,
}

impl Form {
    /// What has no effect where it is.
    pub(super) const NOTHING: Self = Self { bytes: [0; 15], length: 0 };

    /// The bytes of these parts, if they are not too many.
    pub(super) fn new(parts: &[&[u8]]) -> Option<Self> {
        let mut form = Self { bytes: [0; 15], length: 0 };
        for part in parts {
            let end = usize::from(form.length) + part.len();
            form.bytes.get_mut(form.length.into()..end)?.copy_from_slice(part);
            form.length = u8::try_from(end).ok()?;
        }
        Some(form)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length.into()).unwrap_or(&[])
    }

    /// How many bytes it has.
    pub(super) fn length(&self) -> u32 {
        self.length.into()
    }
}

/// The shortest form of an instruction that refers to nothing in the code. `size` is how many bytes the stack pointer is
/// below the frame pointer, if that is known; `offsets` tells where in the instruction its parts are.
pub(super) fn smaller(
    instruction: &Instruction,
    bytes: &[u8],
    size: Option<i32>,
    offsets: impl FnOnce(&Instruction) -> ConstantOffsets,
) -> Option<Form> {
    let small = with_small_operand(instruction, bytes);
    let in_frame = size.filter(|_| {
        instruction.memory_base() == Register::RSP && instruction.memory_index() == Register::None
    });
    let Some(size) = in_frame else { return small };
    // Behind the place on the stack is only the operand that got smaller.
    let bytes = small.as_ref().map_or(bytes, Form::bytes);
    by_frame_pointer(instruction, bytes, size, &offsets(instruction)).or(small)
}

/// The form of an instruction that refers to a place on the stack by the frame pointer, if that is shorter.
fn by_frame_pointer(
    instruction: &Instruction,
    bytes: &[u8],
    size: i32,
    offsets: &ConstantOffsets,
) -> Option<Form> {
    // In the encoding of the largest vectors, distances are in other units.
    if !matches!(instruction.encoding(), EncodingKind::Legacy | EncodingKind::VEX) {
        return None;
    }
    let distance = i32::try_from(instruction.memory_displacement64().cast_signed()).ok()?;
    let distance = i8::try_from(distance.checked_sub(size)?).ok()?;
    let (front, rest) = bytes.split_at_checked(offsets.displacement_offset())?;
    let (_, rest) = rest.split_at_checked(offsets.displacement_size())?;
    // A byte that has the register, one that says that the stack pointer is all of the address, and the distance.
    let (front, [mode, 0x24]) = front.split_last_chunk::<2>()? else { return None };
    match (mode & 0b1100_0111, offsets.displacement_size()) {
        (0b0100_0100, 1) | (0b1000_0100, 4) => {}
        _ => return None,
    }
    let mode = mode & 0b0011_1000 | 0b0100_0101;
    Form::new(&[front, &[mode], &distance.to_le_bytes(), rest])
}

/// The form of an instruction with an operand in itself that has 8 bits, if that has 32 bits and could.
fn with_small_operand(instruction: &Instruction, bytes: &[u8]) -> Option<Form> {
    match instruction.code() {
        Code::Add_rm32_imm32
        | Code::Add_rm64_imm32
        | Code::Or_rm32_imm32
        | Code::Or_rm64_imm32
        | Code::Adc_rm32_imm32
        | Code::Adc_rm64_imm32
        | Code::Sbb_rm32_imm32
        | Code::Sbb_rm64_imm32
        | Code::And_rm32_imm32
        | Code::And_rm64_imm32
        | Code::Sub_rm32_imm32
        | Code::Sub_rm64_imm32
        | Code::Xor_rm32_imm32
        | Code::Xor_rm64_imm32
        | Code::Cmp_rm32_imm32
        | Code::Cmp_rm64_imm32
        | Code::Imul_r32_rm32_imm32
        | Code::Imul_r64_rm64_imm32 => {}
        _ => return None,
    }
    let (front, operand) = bytes.split_last_chunk::<4>()?;
    let operand = i8::try_from(i32::from_le_bytes(*operand)).ok()?;
    let prefixes = front.iter().take_while(|byte| is_prefix(**byte)).count();
    let (prefixes, rest) = front.split_at_checked(prefixes)?;
    let (opcode, rest) = rest.split_first()?;
    let opcode = match opcode {
        0x81 => 0x83,
        0x69 => 0x6b,
        _ => return None,
    };
    Form::new(&[prefixes, &[opcode], rest, &operand.to_le_bytes()])
}

/// Whether a byte in front of an opcode of one byte is a prefix.
fn is_prefix(byte: u8) -> bool {
    matches!(
        byte,
        0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64 | 0x65 | 0x66 | 0x67 | 0xf0 | 0xf2 | 0xf3
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions};

    fn small(bytes: &[u8]) -> Option<Vec<u8>> {
        let instruction = Decoder::new(64, bytes, DecoderOptions::NONE).decode();
        assert_eq!(instruction.len(), bytes.len());
        Some(with_small_operand(&instruction, bytes)?.bytes().to_vec())
    }

    #[test]
    fn small_operands_get_one_byte() {
        for (long, short) in [
            // add ecx, 127; and r9, -128; cmp dword [rsp + 0x200], 1
            (&[0x81, 0xc1, 0x7f, 0, 0, 0][..], &[0x83, 0xc1, 0x7f][..]),
            (&[0x49, 0x81, 0xe1, 0x80, 0xff, 0xff, 0xff], &[0x49, 0x83, 0xe1, 0x80]),
            (&[0x81, 0xbc, 0x24, 0, 2, 0, 0, 1, 0, 0, 0], &[0x83, 0xbc, 0x24, 0, 2, 0, 0, 1]),
            // lock or dword [rax], 1
            (&[0xf0, 0x81, 0x08, 1, 0, 0, 0], &[0xf0, 0x83, 0x08, 1]),
            // imul eax, ecx, 100; imul r8, [rbx], -1
            (&[0x69, 0xc1, 100, 0, 0, 0], &[0x6b, 0xc1, 100]),
            (&[0x4c, 0x69, 0x03, 0xff, 0xff, 0xff, 0xff], &[0x4c, 0x6b, 0x03, 0xff]),
        ] {
            assert_eq!(small(long).as_deref(), Some(short), "{long:02x?}");
        }
    }

    #[test]
    fn large_operands_and_other_instructions_stay() {
        for bytes in [
            // add ecx, 128; add ecx, -129; add ecx, 0x7f000000
            &[0x81, 0xc1, 0x80, 0, 0, 0][..],
            &[0x81, 0xc1, 0x7f, 0xff, 0xff, 0xff],
            &[0x81, 0xc1, 0, 0, 0, 0x7f],
            // add cx, 1; add ecx, 1; mov ecx, 1; test ecx, 1
            &[0x66, 0x81, 0xc1, 1, 0],
            &[0x83, 0xc1, 1],
            &[0xb9, 1, 0, 0, 0],
            &[0xf7, 0xc1, 1, 0, 0, 0],
        ] {
            assert_eq!(small(bytes), None, "{bytes:02x?}");
        }
    }

    fn on_stack(bytes: &[u8], size: i32) -> Option<Vec<u8>> {
        let mut decoder = Decoder::new(64, bytes, DecoderOptions::NONE);
        let instruction = decoder.decode();
        assert_eq!(instruction.len(), bytes.len());
        let offsets = |instruction: &Instruction| decoder.get_constant_offsets(instruction);
        Some(smaller(&instruction, bytes, Some(size), offsets)?.bytes().to_vec())
    }

    #[test]
    fn places_on_the_stack_are_reached_from_the_nearer_side() {
        for (size, long, short) in [
            // mov rax, [rsp + 8]; mov [rsp + 0x180], r9d
            (0x88, &[0x48, 0x8b, 0x44, 0x24, 8][..], &[0x48, 0x8b, 0x45, 0x80][..]),
            (0x190, &[0x44, 0x89, 0x8c, 0x24, 0x80, 1, 0, 0], &[0x44, 0x89, 0x4d, 0xf0]),
            // Behind the frame: movups xmm1, [rsp + 0x40]; vmovups ymm1, [rsp + 0x40]
            (0x30, &[0x0f, 0x10, 0x4c, 0x24, 0x40], &[0x0f, 0x10, 0x4d, 0x10]),
            (0x50, &[0xc5, 0xfc, 0x10, 0x4c, 0x24, 0x40], &[0xc5, 0xfc, 0x10, 0x4d, 0xf0]),
            // lea r15, [rsp + 0x20]; add dword [rsp + 0x80], 1, with four bytes for each number
            (0x20, &[0x4c, 0x8d, 0x7c, 0x24, 0x20], &[0x4c, 0x8d, 0x7d, 0]),
            (0x90, &[0x81, 0x84, 0x24, 0x80, 0, 0, 0, 1, 0, 0, 0], &[0x83, 0x45, 0xf0, 1]),
            // pinsrb xmm0, [rsp + 0x10], 3
            (
                0x20,
                &[0x66, 0x0f, 0x3a, 0x20, 0x44, 0x24, 0x10, 3],
                &[0x66, 0x0f, 0x3a, 0x20, 0x45, 0xf0, 3],
            ),
        ] {
            assert_eq!(on_stack(long, size).as_deref(), Some(short), "{long:02x?}");
        }
        for (size, bytes) in [
            // Too far away from the other side: mov rax, [rsp + 8]
            (0x89, &[0x48, 0x8b, 0x44, 0x24, 8][..]),
            (i32::MAX, &[0x48, 0x8b, 0x84, 0x24, 0, 0, 0, 0x80]),
            // mov rax, [rsp]: no shorter
            (0x10, &[0x48, 0x8b, 0x04, 0x24]),
            // With an index, or by another register: mov rax, [rsp + rax + 8]; mov rax, [r12 + 8]
            (0x10, &[0x48, 0x8b, 0x44, 0x04, 8]),
            (0x10, &[0x49, 0x8b, 0x44, 0x24, 8]),
            // vmovups zmm1, [rsp + 0x40]
            (0x50, &[0x62, 0xf1, 0x7c, 0x48, 0x10, 0x4c, 0x24, 1]),
            // mov rax, fs:[8]; mov eax, ecx
            (0x10, &[0x64, 0x48, 0x8b, 0x04, 0x25, 8, 0, 0, 0]),
            (0x10, &[0x89, 0xc8]),
        ] {
            assert_eq!(on_stack(bytes, size), None, "{bytes:02x?}");
        }
    }

    #[test]
    fn branches_come_back() {
        for bytes in [
            &[0xe9, 1, 2, 0, 0][..],
            &[0xeb, 0xfe],
            &[0x0f, 0x84, 1, 2, 0, 0],
            &[0x0f, 0x8f, 0xff, 0xff, 0xff, 0xff],
            &[0x72, 0x7f],
        ] {
            let branch = Branch::of(bytes, 7).unwrap();
            assert_eq!(branch.length() as usize, bytes.len());
            let distance = match *bytes {
                [.., a, b, c, d] => i32::from_le_bytes([a, b, c, d]),
                [_, distance] => i32::from(distance.cast_signed()),
                _ => unreachable!(),
            };
            let mut written = Vec::new();
            branch.write(distance, &mut written).unwrap();
            assert_eq!(written, bytes);
        }
        // loop, jrcxz, a branch with a prefix, a call
        for bytes in [&[0xe2, 0][..], &[0xe3, 0], &[0x3e, 0x74, 0], &[0xe8, 0, 0, 0, 0]] {
            assert_eq!(Branch::of(bytes, 7), None);
        }
        let short = Branch { condition: None, target: 0, short: true };
        assert_eq!(short.write(128, &mut Vec::new()), None);
    }
}
