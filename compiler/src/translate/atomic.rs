//! Atomic accesses, fences, and waiting.
//!
//! Unlike other accesses they must be aligned, which is checked first. Their order is
//! sequentially consistent, as is that of Cranelift's instructions.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{self, AtomicRmwOp, InstBuilder as _, MemFlagsData, Value, types};
use cwasm_artifact::abi::builtins::Builtin;
use cwasm_artifact::abi::memory::wait_result;
use cwasm_artifact::abi::traps::Trap;
use cwasm_artifact::types::IndexType;
use wasmparser::{MemArg, Operator};

use super::bounds::{Address, memory_of};
use super::{Translator, trap_code};

/// What an operator does to the memory.
enum Access {
    Load,
    Store,
    Update(AtomicRmwOp),
    CompareExchange,
}

impl Translator<'_, '_> {
    /// Translates the operator if it belongs to this family.
    pub(super) fn atomic(&mut self, operator: &Operator<'_>) -> bool {
        match operator {
            Operator::AtomicFence { .. } => {
                self.builder.ins().fence();
            }
            Operator::MemoryAtomicNotify { memarg } => self.notify(memarg),
            Operator::MemoryAtomicWait32 { memarg } => {
                self.wait(Builtin::MemoryWait32, memarg, 4);
            }
            Operator::MemoryAtomicWait64 { memarg } => {
                self.wait(Builtin::MemoryWait64, memarg, 8);
            }
            _ => {
                let Some((access, memarg, value, narrow)) = decode(operator) else { return false };
                self.atomic_access(access, memarg, value, narrow);
            }
        }
        true
    }

    /// An access to a number of type `narrow`, which the stack holds as a `value`.
    fn atomic_access(
        &mut self,
        access: Access,
        memarg: &MemArg,
        value: ir::Type,
        narrow: ir::Type,
    ) {
        let reduce = |this: &mut Self| {
            let operand = this.stack.pop();
            if value == narrow { operand } else { this.builder.ins().ireduce(narrow, operand) }
        };
        let result = match access {
            Access::Load => {
                let (address, flags) = self.atomic_address(memarg, narrow);
                self.builder.ins().atomic_load(narrow, flags, address)
            }
            Access::Store => {
                let operand = reduce(self);
                let (address, flags) = self.atomic_address(memarg, narrow);
                self.builder.ins().atomic_store(flags, operand, address);
                return;
            }
            Access::Update(op) => {
                let operand = reduce(self);
                let (address, flags) = self.atomic_address(memarg, narrow);
                self.builder.ins().atomic_rmw(narrow, flags, op, address, operand)
            }
            Access::CompareExchange => {
                let replacement = reduce(self);
                let expected = reduce(self);
                let (address, flags) = self.atomic_address(memarg, narrow);
                self.builder.ins().atomic_cas(flags, address, expected, replacement)
            }
        };
        let result =
            if value == narrow { result } else { self.builder.ins().uextend(value, result) };
        self.stack.push(result);
    }

    /// Takes an index from the stack: the address of an atomic access to a number of
    /// this type, which traps if it is not aligned or not inside the memory.
    fn atomic_address(&mut self, memarg: &MemArg, ty: ir::Type) -> (Value, MemFlagsData) {
        let index = self.stack.pop();
        self.check_alignment(memarg, index, ty.bytes());
        let Address { base, offset } = self.address(memarg, index, ty.bytes());
        let address = self.builder.ins().iadd_imm_s(base, i64::from(offset));
        (address, self.heap_flags())
    }

    /// Traps unless `index + offset` is a multiple of `size`. A memory begins at a page
    /// boundary, and the sum may wrap: a power of two divides 2^64.
    fn check_alignment(&mut self, memarg: &MemArg, index: Value, size: u32) {
        if size == 1 {
            return;
        }
        let index = self.extend(index, self.env.module.memories[memory_of(memarg)].index);
        let address = self.builder.ins().iadd_imm_u(index, memarg.offset.cast_signed());
        let low = self.builder.ins().band_imm_u(address, i64::from(size - 1));
        self.builder.ins().trapnz(low, trap_code(Trap::UnalignedAtomic));
    }

    /// Takes an index from the stack: the effective address in the memory, as a builtin
    /// takes it. The builtin compares it with the length.
    fn effective_address(&mut self, memarg: &MemArg, size: u32) -> Value {
        let index = self.stack.pop();
        self.check_alignment(memarg, index, size);
        let ty = self.env.module.memories[memory_of(memarg)].index;
        let index = self.extend(index, ty);
        let offset = memarg.offset.cast_signed();
        match ty {
            // Both are below 2^32.
            IndexType::I32 => self.builder.ins().iadd_imm_u(index, offset),
            IndexType::I64 => {
                let offset = self.builder.ins().iconst(types::I64, offset);
                let code = trap_code(Trap::MemoryOutOfBounds);
                self.builder.ins().uadd_overflow_trap(index, offset, code)
            }
        }
    }

    fn notify(&mut self, memarg: &MemArg) {
        let count = self.stack.pop();
        let address = self.effective_address(memarg, 4);
        let memory = self.u32_constant(memory_of(memarg).as_u32());
        let woken = self.builtin_value(Builtin::MemoryNotify, &[memory, address, count]);
        let outside = self.builder.ins().icmp_imm_s(IntCC::SignedLessThan, woken, 0);
        self.builder.ins().trapnz(outside, trap_code(Trap::MemoryOutOfBounds));
        let woken = self.builder.ins().ireduce(types::I32, woken);
        self.stack.push(woken);
    }

    fn wait(&mut self, builtin: Builtin, memarg: &MemArg, size: u32) {
        let memory = memory_of(memarg);
        if !self.env.module.memories[memory].shared {
            // Nobody could ever notify it.
            self.save_fuel();
            self.builder.ins().trap(trap_code(Trap::UnsharedWait));
            self.reachable = false;
            return;
        }
        let (expected, timeout) = self.stack.pop2();
        let address = self.effective_address(memarg, size);
        let memory = self.u32_constant(memory.as_u32());
        let result = self.builtin_value(builtin, &[memory, address, expected, timeout]);
        for (code, trap) in [
            (wait_result::OUT_OF_BOUNDS, Trap::MemoryOutOfBounds),
            (wait_result::INTERRUPTED, Trap::Interrupted),
        ] {
            let failed = self.builder.ins().icmp_imm_u(IntCC::Equal, result, i64::from(code));
            self.builder.ins().trapnz(failed, trap_code(trap));
        }
        self.stack.push(result);
    }
}

/// What an operator accesses, the type on the stack, and the type in memory.
fn decode<'a>(operator: &'a Operator<'_>) -> Option<(Access, &'a MemArg, ir::Type, ir::Type)> {
    use Access::{CompareExchange, Load, Store, Update};
    use AtomicRmwOp::{Add, And, Or, Sub, Xchg, Xor};
    use types::{I8, I16, I32, I64};
    Some(match operator {
        Operator::I32AtomicLoad { memarg } => (Load, memarg, I32, I32),
        Operator::I32AtomicLoad8U { memarg } => (Load, memarg, I32, I8),
        Operator::I32AtomicLoad16U { memarg } => (Load, memarg, I32, I16),
        Operator::I64AtomicLoad { memarg } => (Load, memarg, I64, I64),
        Operator::I64AtomicLoad8U { memarg } => (Load, memarg, I64, I8),
        Operator::I64AtomicLoad16U { memarg } => (Load, memarg, I64, I16),
        Operator::I64AtomicLoad32U { memarg } => (Load, memarg, I64, I32),
        Operator::I32AtomicStore { memarg } => (Store, memarg, I32, I32),
        Operator::I32AtomicStore8 { memarg } => (Store, memarg, I32, I8),
        Operator::I32AtomicStore16 { memarg } => (Store, memarg, I32, I16),
        Operator::I64AtomicStore { memarg } => (Store, memarg, I64, I64),
        Operator::I64AtomicStore8 { memarg } => (Store, memarg, I64, I8),
        Operator::I64AtomicStore16 { memarg } => (Store, memarg, I64, I16),
        Operator::I64AtomicStore32 { memarg } => (Store, memarg, I64, I32),
        Operator::I32AtomicRmwAdd { memarg } => (Update(Add), memarg, I32, I32),
        Operator::I32AtomicRmw8AddU { memarg } => (Update(Add), memarg, I32, I8),
        Operator::I32AtomicRmw16AddU { memarg } => (Update(Add), memarg, I32, I16),
        Operator::I64AtomicRmwAdd { memarg } => (Update(Add), memarg, I64, I64),
        Operator::I64AtomicRmw8AddU { memarg } => (Update(Add), memarg, I64, I8),
        Operator::I64AtomicRmw16AddU { memarg } => (Update(Add), memarg, I64, I16),
        Operator::I64AtomicRmw32AddU { memarg } => (Update(Add), memarg, I64, I32),
        Operator::I32AtomicRmwSub { memarg } => (Update(Sub), memarg, I32, I32),
        Operator::I32AtomicRmw8SubU { memarg } => (Update(Sub), memarg, I32, I8),
        Operator::I32AtomicRmw16SubU { memarg } => (Update(Sub), memarg, I32, I16),
        Operator::I64AtomicRmwSub { memarg } => (Update(Sub), memarg, I64, I64),
        Operator::I64AtomicRmw8SubU { memarg } => (Update(Sub), memarg, I64, I8),
        Operator::I64AtomicRmw16SubU { memarg } => (Update(Sub), memarg, I64, I16),
        Operator::I64AtomicRmw32SubU { memarg } => (Update(Sub), memarg, I64, I32),
        Operator::I32AtomicRmwAnd { memarg } => (Update(And), memarg, I32, I32),
        Operator::I32AtomicRmw8AndU { memarg } => (Update(And), memarg, I32, I8),
        Operator::I32AtomicRmw16AndU { memarg } => (Update(And), memarg, I32, I16),
        Operator::I64AtomicRmwAnd { memarg } => (Update(And), memarg, I64, I64),
        Operator::I64AtomicRmw8AndU { memarg } => (Update(And), memarg, I64, I8),
        Operator::I64AtomicRmw16AndU { memarg } => (Update(And), memarg, I64, I16),
        Operator::I64AtomicRmw32AndU { memarg } => (Update(And), memarg, I64, I32),
        Operator::I32AtomicRmwOr { memarg } => (Update(Or), memarg, I32, I32),
        Operator::I32AtomicRmw8OrU { memarg } => (Update(Or), memarg, I32, I8),
        Operator::I32AtomicRmw16OrU { memarg } => (Update(Or), memarg, I32, I16),
        Operator::I64AtomicRmwOr { memarg } => (Update(Or), memarg, I64, I64),
        Operator::I64AtomicRmw8OrU { memarg } => (Update(Or), memarg, I64, I8),
        Operator::I64AtomicRmw16OrU { memarg } => (Update(Or), memarg, I64, I16),
        Operator::I64AtomicRmw32OrU { memarg } => (Update(Or), memarg, I64, I32),
        Operator::I32AtomicRmwXor { memarg } => (Update(Xor), memarg, I32, I32),
        Operator::I32AtomicRmw8XorU { memarg } => (Update(Xor), memarg, I32, I8),
        Operator::I32AtomicRmw16XorU { memarg } => (Update(Xor), memarg, I32, I16),
        Operator::I64AtomicRmwXor { memarg } => (Update(Xor), memarg, I64, I64),
        Operator::I64AtomicRmw8XorU { memarg } => (Update(Xor), memarg, I64, I8),
        Operator::I64AtomicRmw16XorU { memarg } => (Update(Xor), memarg, I64, I16),
        Operator::I64AtomicRmw32XorU { memarg } => (Update(Xor), memarg, I64, I32),
        Operator::I32AtomicRmwXchg { memarg } => (Update(Xchg), memarg, I32, I32),
        Operator::I32AtomicRmw8XchgU { memarg } => (Update(Xchg), memarg, I32, I8),
        Operator::I32AtomicRmw16XchgU { memarg } => (Update(Xchg), memarg, I32, I16),
        Operator::I64AtomicRmwXchg { memarg } => (Update(Xchg), memarg, I64, I64),
        Operator::I64AtomicRmw8XchgU { memarg } => (Update(Xchg), memarg, I64, I8),
        Operator::I64AtomicRmw16XchgU { memarg } => (Update(Xchg), memarg, I64, I16),
        Operator::I64AtomicRmw32XchgU { memarg } => (Update(Xchg), memarg, I64, I32),
        Operator::I32AtomicRmwCmpxchg { memarg } => (CompareExchange, memarg, I32, I32),
        Operator::I32AtomicRmw8CmpxchgU { memarg } => (CompareExchange, memarg, I32, I8),
        Operator::I32AtomicRmw16CmpxchgU { memarg } => (CompareExchange, memarg, I32, I16),
        Operator::I64AtomicRmwCmpxchg { memarg } => (CompareExchange, memarg, I64, I64),
        Operator::I64AtomicRmw8CmpxchgU { memarg } => (CompareExchange, memarg, I64, I8),
        Operator::I64AtomicRmw16CmpxchgU { memarg } => (CompareExchange, memarg, I64, I16),
        Operator::I64AtomicRmw32CmpxchgU { memarg } => (CompareExchange, memarg, I64, I32),
        _ => return None,
    })
}
