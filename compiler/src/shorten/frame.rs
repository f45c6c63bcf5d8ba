//! How far the stack pointer is below the frame pointer, in all of a function but its ends.
//!
//! The code generator refers to what is on the stack by the stack pointer, which takes a byte more than by the frame
//! pointer, and three more where it is farther away than the other. They say the same where the distance between the
//! two is known. Where size counts more than speed, the shorter form is used:
//!
//! ```text
//! push rbp; mov rbp, rsp; ...; sub rsp, SIZE      once, before control goes anywhere else
//! ...                                             nothing that changes one of them
//! add rsp, SIZE; mov rsp, rbp; pop rbp; ret       or a jump to another function; any number of times
//! ```
//!
//! In the last line, the first instruction is of no use before the second, and goes.
//!
//! Calls come back with both as they were, or with the stack pointer above the arguments that were on the stack, which
//! `sub rsp` then makes room for again: frames of wasm are linked by frame pointers, and the host's conventions preserve
//! them. Handlers begin with both as they were during the call: the loader sets them.

use iced_x86::{Code, FlowControl, Instruction, Mnemonic, OpKind, Register};

/// What is known at a place in the code, as its instructions are read one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    state: State,
    /// How many bytes the stack pointer is below the frame pointer while the frame is open, and where the instruction ends
    /// that opened it.
    open: Option<(i32, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The function begins.
    Start,
    /// The caller's frame pointer is saved.
    Saved,
    /// The frame pointer is set.
    Set,
    /// The stack pointer is below it by the size of the frame.
    Open,
    /// So it is, unless the function that was just called took its arguments from the stack. Then what comes next makes room for
    /// them again.
    Called,
    /// The frame is given up; what follows is expected to restore the caller's frame pointer.
    Closing,
    /// The caller's frame pointer is restored; what follows is expected to leave.
    Closed,
    /// The function does something else.
    Unknown,
}

impl Frame {
    /// At the start of a function.
    pub(super) const START: Self = Self { state: State::Start, open: None };

    /// Nothing is known, and nothing will be.
    pub(super) const UNKNOWN: Self = Self { state: State::Unknown, open: None };

    /// How many bytes the stack pointer is below the frame pointer.
    pub(super) fn size(self) -> Option<i32> {
        let (size, _) = self.open.filter(|_| self.is_open())?;
        Some(size)
    }

    fn is_open(self) -> bool {
        matches!(self.state, State::Open | State::Called)
    }

    /// Whether, at the end of a function, what was known in between holds for all of it. `first` is the first place but the start that
    /// control leads to in another way than from the instruction before: nothing may lead to before the frame is open.
    pub(super) fn holds(self, first: Option<u32>) -> bool {
        match (self.state, self.open) {
            (State::Start | State::Saved | State::Set, None) => true,
            (State::Open | State::Called, Some((_, from))) => {
                first.is_none_or(|first| first >= from)
            }
            _ => false,
        }
    }

    /// What is known behind an instruction that ends at `end`.
    pub(super) fn after(self, instruction: &Instruction, end: u32) -> Self {
        use Register::{RBP, RSP};
        let registers = (instruction.op0_register(), instruction.op1_register());
        let to = |state| Self { state, ..self };
        match (self.state, instruction.code()) {
            (State::Unknown, _) => self,
            (State::Start, Code::Push_r64) if registers.0 == RBP => to(State::Saved),
            (State::Saved, Code::Mov_rm64_r64) if registers == (RBP, RSP) => to(State::Set),
            (State::Set, Code::Sub_rm64_imm8 | Code::Sub_rm64_imm32) if registers.0 == RSP => {
                match amount(instruction) {
                    Some(size) => Self { state: State::Open, open: Some((size, end)) },
                    None => Self::UNKNOWN,
                }
            }
            (State::Called, Code::Sub_rm64_imm8 | Code::Sub_rm64_imm32)
                if registers.0 == RSP && amount(instruction).is_some() =>
            {
                to(State::Open)
            }
            (State::Open | State::Called, Code::Add_rm64_imm8 | Code::Add_rm64_imm32)
                if registers.0 == RSP && amount(instruction) == self.size() =>
            {
                to(State::Closing)
            }
            (State::Set | State::Open | State::Called | State::Closing, Code::Mov_rm64_r64)
                if registers == (RSP, RBP) =>
            {
                to(State::Closing)
            }
            (State::Closing, Code::Pop_r64) if registers.0 == RBP => to(State::Closed),
            (State::Closed, _) => match (instruction.flow_control(), self.open) {
                (
                    FlowControl::Return
                    | FlowControl::UnconditionalBranch
                    | FlowControl::IndirectBranch,
                    open,
                ) => to(if open.is_some() { State::Open } else { State::Set }),
                _ => Self::UNKNOWN,
            },
            (State::Open | State::Called, _) if is_call(instruction) => to(State::Called),
            (State::Open | State::Called, _) if leaves_both(instruction) => to(State::Open),
            (State::Set, _) if leaves_both(instruction) => self,
            _ => Self::UNKNOWN,
        }
    }
}

/// Whether the instruction between, which adds the frame's size to the stack pointer, is of no use: what follows sets that
/// pointer, and looks at no flag.
pub(super) fn closes_anyway(before: Frame, after: Frame, following: &[u8]) -> bool {
    // mov rsp, rbp; pop rbp; ret
    before.is_open()
        && after.state == State::Closing
        && following.starts_with(&[0x48, 0x89, 0xec, 0x5d, 0xc3])
}

/// The number that an instruction adds or subtracts.
fn amount(instruction: &Instruction) -> Option<i32> {
    let amount = instruction.immediate(1).cast_signed();
    i32::try_from(amount).ok().filter(|amount| *amount >= 0)
}

fn is_call(instruction: &Instruction) -> bool {
    matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall)
}

/// Whether an instruction leaves stack pointer and frame pointer as they are.
fn leaves_both(instruction: &Instruction) -> bool {
    if instruction.is_stack_instruction() {
        return matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall);
    }
    let names = |kind, register: Register| {
        kind == OpKind::Register
            && matches!(register.full_register(), Register::RSP | Register::RBP)
    };
    // What an instruction changes is among its first two operands.
    let first = names(instruction.op0_kind(), instruction.op0_register());
    let second = names(instruction.op1_kind(), instruction.op1_register());
    match (first, second) {
        (false, false) => true,
        (true, _) => instruction.mnemonic() == Mnemonic::Cmp,
        (false, true) => matches!(instruction.mnemonic(), Mnemonic::Cmp | Mnemonic::Mov),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions};

    /// What is known behind each instruction.
    fn sizes(bytes: &[u8]) -> Vec<Option<i32>> {
        let mut frame = Frame::START;
        let decoder = Decoder::new(64, bytes, DecoderOptions::NONE);
        decoder
            .into_iter()
            .map(|instruction| {
                assert!(!instruction.is_invalid());
                frame = frame.after(&instruction, 0);
                frame.size()
            })
            .collect()
    }

    const OPEN: &[u8] = &[0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0x20];

    #[test]
    fn the_size_is_known_between_opening_and_closing() {
        // A stack check between; mov [rsp], rdi; call; add, pop, ret; cold code behind.
        let code = [
            &[0x55, 0x48, 0x89, 0xe5, 0x48, 0x3b, 0x27, 0x72, 0x10][..],
            &[0x48, 0x81, 0xec, 0, 1, 0, 0, 0x48, 0x89, 0x3c, 0x24, 0xe8, 0, 0, 0, 0],
            &[0x48, 0x81, 0xc4, 0, 1, 0, 0, 0x48, 0x89, 0xec, 0x5d, 0xc3, 0x0f, 0x0b],
        ]
        .concat();
        let (none, some) = (None, Some(256));
        assert_eq!(
            sizes(&code),
            [none, none, none, none, some, some, some, none, none, none, some, some]
        );
    }

    #[test]
    fn whatever_changes_a_pointer_ends_it_for_good() {
        for (what, instruction) in [
            ("push rax", &[0x50][..]),
            ("pop rax", &[0x58]),
            ("pop rbp", &[0x5d]),
            ("leave", &[0xc9]),
            ("ret", &[0xc3]),
            ("sub rsp, 8", &[0x48, 0x83, 0xec, 8]),
            ("call rax; nop; sub rsp, 8", &[0xff, 0xd0, 0x90, 0x48, 0x83, 0xec, 8]),
            ("call rax; sub rsp, rax", &[0xff, 0xd0, 0x48, 0x29, 0xc4]),
            ("add rsp, 8", &[0x48, 0x83, 0xc4, 8]),
            ("add esp, 32", &[0x83, 0xc4, 0x20]),
            ("mov rsp, rax", &[0x48, 0x89, 0xc4]),
            ("mov rbp, [rbp]", &[0x48, 0x8b, 0x6d, 0]),
            ("mov bpl, al", &[0x40, 0x88, 0xc5]),
            ("lea rsp, [rsp + 8]", &[0x48, 0x8d, 0x64, 0x24, 8]),
            ("xchg rax, rbp", &[0x48, 0x95]),
            ("mov rsp, rbp; nop", &[0x48, 0x89, 0xec, 0x90]),
            ("mov rsp, rbp; pop rbp; nop", &[0x48, 0x89, 0xec, 0x5d, 0x90]),
            ("add rsp, 32; nop", &[0x48, 0x83, 0xc4, 0x20, 0x90]),
            ("add rsp, 32; pop rbp; nop", &[0x48, 0x83, 0xc4, 0x20, 0x5d, 0x90]),
        ] {
            let code = [OPEN, instruction, &[0x90]].concat();
            assert_eq!(sizes(&code).last(), Some(&None), "{what}");
        }
        for (what, instruction) in [
            ("mov rax, rsp", &[0x48, 0x89, 0xe0][..]),
            ("mov [rax], rbp", &[0x48, 0x89, 0x28]),
            ("cmp rsp, rax", &[0x48, 0x39, 0xc4]),
            ("lea rax, [rsp + 8]", &[0x48, 0x8d, 0x44, 0x24, 8]),
            ("call rax", &[0xff, 0xd0]),
            ("call rax; sub rsp, 16", &[0xff, 0xd0, 0x48, 0x83, 0xec, 16]),
            ("jmp rax", &[0xff, 0xe0]),
        ] {
            let code = [OPEN, instruction, &[0x90]].concat();
            assert_eq!(sizes(&code).last(), Some(&Some(32)), "{what}");
        }
    }

    #[test]
    fn nothing_is_known_of_functions_that_begin_in_another_way() {
        for code in [
            &[0x90, 0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0x20][..],
            &[0x55, 0x90, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0x20],
            &[0x55, 0x48, 0x89, 0xe5, 0x50, 0x48, 0x83, 0xec, 0x20],
            &[0x53, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0x20],
            &[0x55, 0x48, 0x89, 0xe3, 0x48, 0x83, 0xec, 0x20],
            &[0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0xe0],
        ] {
            assert_eq!(sizes(code).last(), Some(&None), "{code:02x?}");
        }
    }
}
