//! Loads from the stack, as operands of the instructions that use what was loaded.
//!
//! What the allocator of registers puts on the stack is loaded into a register wherever it is needed, though many instructions could have
//! the place on the stack as an operand. Where nobody else uses what was loaded, they get it, and the load goes:
//!
//! ```text
//! mov rcx, [rsp + 0x98]; mov rdx, rsi; xor rax, rcx      mov rdx, rsi; xor rax, [rsp + 0x98]
//! ```
//!
//! That is a read of the same bytes, a little later. One instruction may be in between, if it has nothing to do with the register and
//! writes to no memory. Neither it nor the one that gets the operand is led to by anything else. Behind that, the register is written to before it
//! is read, on the only way that control can take.

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, OpAccess,
    OpKind, Register, UsedRegister,
};

use super::forms::Form;

/// How many instructions may be between a load and what uses it. With more, there is next to nothing more to find.
const BETWEEN: usize = 1;

/// How many instructions behind that are looked at for one that writes to the register.
const REACH: usize = 100;

/// An instruction that gets a place on the stack as an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct User {
    /// Where it begins.
    pub(super) offset: u32,
    /// What it becomes.
    pub(super) form: Form,
}

/// Finds loads that can go.
pub(super) struct Operands {
    factory: InstructionInfoFactory,
}

impl Operands {
    pub(super) fn new() -> Self {
        Self { factory: InstructionInfoFactory::new() }
    }

    /// What gets the operand of an instruction, if that is a load that can go. `is_entry` tells whether anything leads to an offset, or says something of what is there.
    pub(super) fn user_of(
        &mut self,
        load: &Instruction,
        code: &[u8],
        is_entry: impl Fn(u32) -> bool,
    ) -> Option<User> {
        let start = usize::try_from(load.ip()).ok()?;
        let slot = Slot::of(load, code.get(start..start.checked_add(load.len())?)?)?;
        let mut decoder = decoder(code, load)?;
        for _ in 0..=BETWEEN {
            let position = decoder.position();
            let offset = u32::try_from(position).ok()?;
            let instruction = next(&mut decoder).filter(|_| !is_entry(offset))?;
            let bytes = code.get(position..decoder.position())?;
            if let Some(form) = slot.as_operand_of(&instruction, bytes) {
                let is_over = self.is_over(slot.register, &instruction, code)?;
                return is_over.then_some(User { offset, form });
            }
            if !self.leaves_alone(slot.register, &instruction) {
                return None;
            }
        }
        None
    }

    /// Whether an instruction has nothing to do with a register, and writes neither to memory nor to what refers to the stack.
    fn leaves_alone(&mut self, register: Register, instruction: &Instruction) -> bool {
        let info = self.factory.info(instruction);
        let is_alone = |used: &UsedRegister| match used.register().full_register() {
            Register::RSP | Register::RBP => only_reads(used.access()),
            other => other != register,
        };
        info.used_registers().iter().all(is_alone)
            && info.used_memory().iter().all(|used| only_reads(used.access()))
    }

    /// Whether an instruction that reads a register is the last one that does, before another writes to it.
    fn is_over(&mut self, register: Register, reader: &Instruction, code: &[u8]) -> Option<bool> {
        if reader.op0_register().full_register() == register {
            // As its result. What was read is an operand in another place.
            return Some(true);
        }
        let mut decoder = decoder(code, reader)?;
        for _ in 0..REACH {
            let Some(instruction) = next(&mut decoder) else { return Some(false) };
            let used = self.factory.info(&instruction).used_registers();
            let of = used.iter().filter(|used| used.register().full_register() == register);
            let mut is_written = false;
            for used in of {
                // What has 32 bits clears the others.
                is_written = used.access() == OpAccess::Write && used.register().size() >= 4;
                if !is_written {
                    return Some(false);
                }
            }
            if is_written {
                return Some(true);
            }
        }
        Some(false)
    }
}

fn only_reads(access: OpAccess) -> bool {
    matches!(access, OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess)
}

/// Reads what comes behind an instruction.
fn decoder<'a>(code: &'a [u8], instruction: &Instruction) -> Option<Decoder<'a>> {
    let mut decoder = Decoder::new(64, code, DecoderOptions::NONE);
    decoder.set_position(usize::try_from(instruction.next_ip()).ok()?).ok()?;
    decoder.set_ip(instruction.next_ip());
    Some(decoder)
}

/// The next instruction, if control goes on from there to what is behind it only.
fn next(decoder: &mut Decoder<'_>) -> Option<Instruction> {
    let instruction = decoder.decode();
    let goes_on = instruction.flow_control() == FlowControl::Next;
    (!instruction.is_invalid() && goes_on).then_some(instruction)
}

/// A place on the stack that is loaded.
#[derive(Debug)]
struct Slot<'a> {
    /// Where to, all of it.
    register: Register,
    /// Whether it has 64 bits, or 32.
    is_wide: bool,
    /// The byte that says how the place is addressed, without the register.
    mode: u8,
    /// What is behind that.
    address: &'a [u8],
}

impl<'a> Slot<'a> {
    fn of(load: &Instruction, bytes: &'a [u8]) -> Option<Self> {
        let is_wide = match load.code() {
            Code::Mov_r64_rm64 => true,
            Code::Mov_r32_rm32 => false,
            _ => return None,
        };
        if load.op1_kind() != OpKind::Memory
            || !matches!(load.memory_base(), Register::RSP | Register::RBP)
            || load.memory_index() != Register::None
        {
            return None;
        }
        let ([0x40..=0x4f, 0x8b, mode, address @ ..] | [0x8b, mode, address @ ..]) = bytes else {
            return None;
        };
        let register = load.op0_register().full_register();
        Some(Self { register, is_wide, mode: mode & 0b1100_0111, address })
    }

    /// An instruction with this place as the operand for which it has the register.
    fn as_operand_of(&self, instruction: &Instruction, bytes: &[u8]) -> Option<Form> {
        let (opcode, is_wide): (&[u8], bool) = match instruction.code() {
            Code::Add_rm32_r32 | Code::Add_r32_rm32 => (&[0x03], false),
            Code::Add_rm64_r64 | Code::Add_r64_rm64 => (&[0x03], true),
            Code::Or_rm32_r32 | Code::Or_r32_rm32 => (&[0x0b], false),
            Code::Or_rm64_r64 | Code::Or_r64_rm64 => (&[0x0b], true),
            Code::And_rm32_r32 | Code::And_r32_rm32 => (&[0x23], false),
            Code::And_rm64_r64 | Code::And_r64_rm64 => (&[0x23], true),
            Code::Sub_rm32_r32 | Code::Sub_r32_rm32 => (&[0x2b], false),
            Code::Sub_rm64_r64 | Code::Sub_r64_rm64 => (&[0x2b], true),
            Code::Xor_rm32_r32 | Code::Xor_r32_rm32 => (&[0x33], false),
            Code::Xor_rm64_r64 | Code::Xor_r64_rm64 => (&[0x33], true),
            Code::Cmp_rm32_r32 | Code::Cmp_r32_rm32 => (&[0x3b], false),
            Code::Cmp_rm64_r64 | Code::Cmp_r64_rm64 => (&[0x3b], true),
            Code::Imul_r32_rm32 => (&[0x0f, 0xaf], false),
            Code::Imul_r64_rm64 => (&[0x0f, 0xaf], true),
            Code::VEX_Andn_r32_r32_rm32 => {
                return self.as_operand_of_andn(instruction, bytes, false);
            }
            Code::VEX_Andn_r64_r64_rm64 => {
                return self.as_operand_of_andn(instruction, bytes, true);
            }
            _ => return None,
        };
        let other = instruction.op0_register();
        if (instruction.op0_kind(), instruction.op1_kind()) != (OpKind::Register, OpKind::Register)
            || instruction.op1_register().full_register() != self.register
            || other.full_register() == self.register
            || is_wide && !self.is_wide
        {
            return None;
        }
        let number = u8::try_from(other.number()).ok()?;
        let prefix = 0x40 | u8::from(is_wide) << 3 | number >> 3 << 2;
        let prefix: &[u8] = if prefix == 0x40 { &[] } else { &[prefix] };
        Form::new(&[prefix, opcode, &[self.mode | (number & 7) << 3], self.address])
    }

    fn as_operand_of_andn(
        &self,
        instruction: &Instruction,
        bytes: &[u8],
        is_wide: bool,
    ) -> Option<Form> {
        let &[0xc4, extensions, middle, 0xf2, mode] = bytes else { return None };
        if instruction.op2_kind() != OpKind::Register
            || instruction.op2_register().full_register() != self.register
            || instruction.op1_register().full_register() == self.register
            || is_wide && !self.is_wide
        {
            return None;
        }
        // Neither a base nor an index from r8 on: these bits are inverted.
        let mode = mode & 0b0011_1000 | self.mode;
        Form::new(&[&[0xc4, extensions | 0b0110_0000, middle, 0xf2, mode], self.address])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // mov rcx, [rbp - 8]; mov ecx, [rbp - 8]
    const WIDE: &[u8] = &[0x48, 0x8b, 0x4d, 0xf8];
    const NARROW: &[u8] = &[0x8b, 0x4d, 0xf8];
    // or eax, ecx; or rax, rcx
    const OR: &[u8] = &[0x09, 0xc8];
    const WIDE_OR: &[u8] = &[0x48, 0x09, 0xc8];
    // or eax, [rbp - 8]
    const FUSED: &[u8] = &[0x0b, 0x45, 0xf8];
    // mov ecx, 1
    const OVER: &[u8] = &[0xb9, 1, 0, 0, 0];
    // mov rdx, rsi
    const OTHER: &[u8] = &[0x48, 0x89, 0xf2];

    /// What the first instruction is loaded for, and what that becomes.
    fn found(parts: &[&[u8]], entry: u32) -> Option<(u32, Vec<u8>)> {
        let code = parts.concat();
        let load = Decoder::new(64, &code, DecoderOptions::NONE).decode();
        let user = Operands::new().user_of(&load, &code, |offset| offset == entry)?;
        Some((user.offset, user.form.bytes().to_vec()))
    }

    #[test]
    fn places_on_the_stack_become_operands() {
        for (load, user, fused) in [
            (WIDE, OR, FUSED),
            (NARROW, OR, FUSED),
            (WIDE, WIDE_OR, &[0x48, 0x0b, 0x45, 0xf8]),
            // mov r9, [rsp + 0x98]; xor r12, r9, in both forms; add r8d, r9d
            (
                &[0x4c, 0x8b, 0x8c, 0x24, 0x98, 0, 0, 0],
                &[0x4d, 0x31, 0xcc],
                &[0x4c, 0x33, 0xa4, 0x24, 0x98, 0, 0, 0],
            ),
            (
                &[0x4c, 0x8b, 0x8c, 0x24, 0x98, 0, 0, 0],
                &[0x4d, 0x33, 0xe1],
                &[0x4c, 0x33, 0xa4, 0x24, 0x98, 0, 0, 0],
            ),
            (&[0x4c, 0x8b, 0x4d, 0xf8], &[0x45, 0x01, 0xc8], &[0x44, 0x03, 0x45, 0xf8]),
            // sub esi, ecx; and rsi, rcx; cmp rdi, rcx; imul rdi, rcx
            (WIDE, &[0x29, 0xce], &[0x2b, 0x75, 0xf8]),
            (WIDE, &[0x48, 0x21, 0xce], &[0x48, 0x23, 0x75, 0xf8]),
            (WIDE, &[0x48, 0x39, 0xcf], &[0x48, 0x3b, 0x7d, 0xf8]),
            (WIDE, &[0x48, 0x0f, 0xaf, 0xf9], &[0x48, 0x0f, 0xaf, 0x7d, 0xf8]),
            // andn r12d, r11d, ecx
            (WIDE, &[0xc4, 0x62, 0x20, 0xf2, 0xe1], &[0xc4, 0x62, 0x20, 0xf2, 0x65, 0xf8]),
        ] {
            let over: &[u8] = match load[0] {
                // mov r9d, 1
                0x4c => &[0x41, 0xb9, 1, 0, 0, 0],
                _ => OVER,
            };
            let wanted = |offset: usize| Some((u32::try_from(offset).unwrap(), fused.to_vec()));
            assert_eq!(found(&[load, user, over], 99), wanted(load.len()), "{user:02x?}");
            let found = found(&[load, OTHER, user, OTHER, over], 99);
            assert_eq!(found, wanted(load.len() + OTHER.len()), "{user:02x?}");
        }
        // mov r9, [rbp - 8]; andn r9, rsi, r9, which nothing need follow
        let andn = &[0xc4, 0x42, 0xc8, 0xf2, 0xc9];
        let fused = vec![0xc4, 0x62, 0xc8, 0xf2, 0x4d, 0xf8];
        assert_eq!(found(&[&[0x4c, 0x8b, 0x4d, 0xf8], andn, &[0xc3]], 99), Some((4, fused)));
        // lea rdx, [rdi + 8], and mov rdx, [rdi], may be in between; xor ecx, ecx is the end
        for between in [&[0x48, 0x8d, 0x57, 8][..], &[0x48, 0x8b, 0x17]] {
            assert!(found(&[WIDE, between, OR, &[0x31, 0xc9]], 99).is_some());
        }
    }

    #[test]
    fn other_loads_stay() {
        let nops = [0x90; REACH];
        for (what, parts) in [
            ("too narrow", &[NARROW, WIDE_OR, OVER][..]),
            ("read behind", &[WIDE, OR, &[0x48, 0x89, 0xca], OVER]),
            ("read as an address behind", &[WIDE, OR, &[0x48, 0x8b, 0x11], OVER]),
            ("read by what writes to it", &[WIDE, OR, &[0x83, 0xc1, 1], OVER]),
            ("written in part: mov cl, 1", &[WIDE, OR, &[0xb1, 1], OVER]),
            ("written perhaps: cmovb rcx, rdx", &[WIDE, OR, &[0x48, 0x0f, 0x42, 0xca], OVER]),
            ("a way behind that leads elsewhere", &[WIDE, OR, &[0x72, 0], OVER]),
            ("an end behind", &[WIDE, OR, &[0xc3]]),
            ("too far", &[WIDE, OR, &nops, OVER]),
            ("two in between", &[WIDE, OTHER, OTHER, OR, OVER]),
            ("used in between: mov rdx, rcx", &[WIDE, &[0x48, 0x89, 0xca], OR, OVER]),
            ("written in between", &[WIDE, OVER, OR, OVER]),
            ("a store in between: mov [rdi], rdx", &[WIDE, &[0x48, 0x89, 0x17], OR, OVER]),
            ("a locked one: lock xor [rdi], rdx", &[WIDE, &[0xf0, 0x48, 0x31, 0x17], OR, OVER]),
            ("another stack: add rsp, 8", &[WIDE, &[0x48, 0x83, 0xc4, 8], OR, OVER]),
            ("pop rdx", &[WIDE, &[0x5a], OR, OVER]),
            ("another frame: mov rbp, rsp", &[WIDE, &[0x48, 0x89, 0xe5], OR, OVER]),
            ("a branch in between", &[WIDE, &[0x72, 0], OR, OVER]),
            ("a call in between", &[WIDE, &[0xff, 0xd0], OR, OVER]),
            ("what is written to: or rcx, rax", &[WIDE, &[0x48, 0x09, 0xc1], OVER]),
            ("twice: or ecx, ecx", &[WIDE, &[0x09, 0xc9], OVER]),
            ("in part: or al, cl", &[WIDE, &[0x08, 0xc8], OVER]),
            (
                "the other operand: andn rax, rcx, rdx",
                &[WIDE, &[0xc4, 0xe2, 0xf0, 0xf2, 0xc2], OVER],
            ),
            ("both: andn rax, rcx, rcx", &[WIDE, &[0xc4, 0xe2, 0xf0, 0xf2, 0xc1], OVER]),
            ("too narrow for andn rax, rsi, rcx", &[NARROW, &[0xc4, 0xe2, 0xc8, 0xf2, 0xc1], OVER]),
            ("no operand: test rdx, rcx", &[WIDE, &[0x48, 0x85, 0xca], OVER]),
            ("elsewhere: mov rcx, [rax + 8]", &[&[0x48, 0x8b, 0x48, 8], OR, OVER]),
            ("mov rcx, [rsp + rax + 8]", &[&[0x48, 0x8b, 0x4c, 0x04, 8], OR, OVER]),
            ("movzx ecx, word [rsp + 8]", &[&[0x0f, 0xb7, 0x4c, 0x24, 8], OR, OVER]),
            ("mov rcx, rbp", &[&[0x48, 0x8b, 0xcd], OR, OVER]),
            ("no load", &[OTHER, OR, OVER]),
            ("nothing", &[WIDE]),
        ] {
            assert_eq!(found(parts, 99), None, "{what}");
        }
        for entry in [4, 7] {
            assert!(found(&[WIDE, OTHER, OR, OVER], 0).is_some());
            assert_eq!(found(&[WIDE, OTHER, OR, OVER], entry), None, "{entry}");
        }
    }
}
