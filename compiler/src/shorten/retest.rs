//! Tests of what was just computed, whose result the flags tell already.
//!
//! The code generator tests a number before it branches on whether that is zero, also behind the instruction that computed it:
//!
//! ```text
//! add ecx, -1; test ecx, ecx; jne loop
//! ```
//!
//! The addition sets the zero flag as the test does. Other flags differ, so the branch must not ask for more, and nobody may look at them
//! behind it. In loops of a dozen instructions, this is one of those that the processor has to get through in each turn.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// The register that an instruction computes, if its zero flag tells whether that is zero then.
pub(super) fn result(instruction: &Instruction) -> Option<Register> {
    let tells = matches!(
        instruction.mnemonic(),
        Mnemonic::Add | Mnemonic::Sub | Mnemonic::And | Mnemonic::Or | Mnemonic::Xor
    );
    (tells && instruction.op0_kind() == OpKind::Register).then(|| instruction.op0_register())
}

/// The register that an instruction tests, if it does nothing else.
pub(super) fn tested(instruction: &Instruction) -> Option<Register> {
    let is_test = instruction.mnemonic() == Mnemonic::Test
        && [instruction.op0_kind(), instruction.op1_kind()] == [OpKind::Register; 2]
        && instruction.op0_register() == instruction.op1_register();
    is_test.then(|| instruction.op0_register())
}

/// Where the branch ends that begins here, if it asks for the zero flag; and whether a jump follows.
pub(super) fn branch(code: &[u8], start: u32) -> Option<(u32, bool)> {
    // In the long form that the code generator writes.
    let [0x0f, 0x84 | 0x85, _, _, _, _, rest @ ..] = code.get(start as usize..)? else {
        return None;
    };
    Some((start.checked_add(6)?, rest.first() == Some(&0xe9)))
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions};

    use super::*;

    fn decode(bytes: &[u8]) -> Instruction {
        Decoder::new(64, bytes, DecoderOptions::NONE).decode()
    }

    #[test]
    fn what_sets_the_zero_flag_by_its_result_is_known() {
        // add ecx, -1; sub rax, r9; and sil, dil
        assert_eq!(result(&decode(&[0x83, 0xc1, 0xff])), Some(Register::ECX));
        assert_eq!(result(&decode(&[0x4c, 0x29, 0xc8])), Some(Register::RAX));
        assert_eq!(result(&decode(&[0x40, 0x20, 0xfe])), Some(Register::SIL));
        // add [rax], ecx; lea ecx, [rcx - 1]; shl ecx, cl; cmp ecx, 1; mov ecx, 1
        for other in [
            &[0x01, 0x08][..],
            &[0x8d, 0x49, 0xff],
            &[0xd3, 0xe1],
            &[0x83, 0xf9, 1],
            &[0xb9, 1, 0, 0, 0],
        ] {
            assert_eq!(result(&decode(other)), None, "{other:x?}");
        }
    }

    #[test]
    fn a_register_is_tested_with_itself() {
        // test ecx, ecx; test rcx, rcx; test ecx, eax; test ecx, 1; test [rcx], ecx
        assert_eq!(tested(&decode(&[0x85, 0xc9])), Some(Register::ECX));
        assert_eq!(tested(&decode(&[0x48, 0x85, 0xc9])), Some(Register::RCX));
        for other in [&[0x85, 0xc1][..], &[0xf7, 0xc1, 1, 0, 0, 0], &[0x85, 0x09]] {
            assert_eq!(tested(&decode(other)), None, "{other:x?}");
        }
    }

    #[test]
    fn only_whether_it_is_zero_is_asked_for() {
        // je, jne and jl to what follows, and je before a jump
        assert_eq!(branch(&[0x90, 0x0f, 0x84, 0, 0, 0, 0], 1), Some((7, false)));
        assert_eq!(branch(&[0x0f, 0x85, 0, 0, 0, 0, 0x90], 0), Some((6, false)));
        assert_eq!(branch(&[0x0f, 0x84, 0, 0, 0, 0, 0xe9], 0), Some((6, true)));
        assert_eq!(branch(&[0x0f, 0x8c, 0, 0, 0, 0], 0), None);
        assert_eq!(branch(&[0x0f, 0x84, 0, 0, 0], 0), None);
        assert_eq!(branch(&[], 3), None);
    }
}
