//! Linear memory: loads, stores and sizes.

use cranelift_codegen::ir::{self, InstBuilder as _, MemFlagsData, Value, types};
use cwasm_artifact::abi::builtins::Builtin;
use cwasm_artifact::types::IndexType;
use wasmparser::{MemArg, Operator};

use super::Translator;
use super::bounds::Address;
use crate::module::MemoryIndex;

/// How a load widens what it reads.
#[derive(Clone, Copy)]
enum Widen {
    Signed,
    Unsigned,
}

impl Translator<'_, '_> {
    /// Translates the operator if it belongs to this family.
    pub(super) fn memory(&mut self, operator: &Operator<'_>) -> bool {
        use Widen::{Signed, Unsigned};
        match operator {
            Operator::I32Load { memarg } => self.load(memarg, types::I32),
            Operator::I64Load { memarg } => self.load(memarg, types::I64),
            Operator::F32Load { memarg } => self.load(memarg, types::F32),
            Operator::F64Load { memarg } => self.load(memarg, types::F64),
            Operator::I32Load8S { memarg } => self.load_narrow(memarg, types::I32, 1, Signed),
            Operator::I32Load8U { memarg } => self.load_narrow(memarg, types::I32, 1, Unsigned),
            Operator::I32Load16S { memarg } => self.load_narrow(memarg, types::I32, 2, Signed),
            Operator::I32Load16U { memarg } => self.load_narrow(memarg, types::I32, 2, Unsigned),
            Operator::I64Load8S { memarg } => self.load_narrow(memarg, types::I64, 1, Signed),
            Operator::I64Load8U { memarg } => self.load_narrow(memarg, types::I64, 1, Unsigned),
            Operator::I64Load16S { memarg } => self.load_narrow(memarg, types::I64, 2, Signed),
            Operator::I64Load16U { memarg } => self.load_narrow(memarg, types::I64, 2, Unsigned),
            Operator::I64Load32S { memarg } => self.load_narrow(memarg, types::I64, 4, Signed),
            Operator::I64Load32U { memarg } => self.load_narrow(memarg, types::I64, 4, Unsigned),
            Operator::I32Store { memarg }
            | Operator::F32Store { memarg }
            | Operator::I64Store32 { memarg } => self.store(memarg, 4),
            Operator::I64Store { memarg } | Operator::F64Store { memarg } => {
                self.store(memarg, 8);
            }
            Operator::I32Store8 { memarg } | Operator::I64Store8 { memarg } => {
                self.store(memarg, 1);
            }
            Operator::I32Store16 { memarg } | Operator::I64Store16 { memarg } => {
                self.store(memarg, 2);
            }
            Operator::MemorySize { mem } => {
                let pages = self.memory_pages(*mem);
                let pages = self.reduce(pages, self.memory_index_type(*mem));
                self.stack.push(pages);
            }
            Operator::MemoryGrow { mem } => {
                let index = self.memory_index_type(*mem);
                let delta = self.pop_index(index);
                let old = self.memory_grow(*mem, delta);
                let old = self.reduce(old, index);
                self.stack.push(old);
            }
            _ => return self.bulk(operator),
        }
        true
    }

    /// The size of a memory in pages, as a 64-bit number.
    fn memory_pages(&mut self, memory: u32) -> Value {
        let memory = MemoryIndex::from_u32(memory);
        let length = self.memory_length(memory);
        let page_size_log2 = self.env.module.memories[memory].page_size_log2;
        self.builder.ins().ushr_imm_u(length, i64::from(page_size_log2))
    }

    /// Grows a memory; gives its old size in pages, or -1. To grow by zero pages is how
    /// programs ask for the size, and needs no call.
    fn memory_grow(&mut self, memory: u32, delta: Value) -> Value {
        let size = self.memory_pages(memory);
        let calling = self.builder.create_block();
        let done = self.builder.create_block();
        let old = self.builder.append_block_param(done, types::I64);
        self.builder.ins().brif(delta, calling, &[], done, &[size.into()]);
        self.builder.seal_block(calling);
        self.builder.switch_to_block(calling);
        let number = self.u32_constant(memory);
        let grown = self.builtin_value(Builtin::MemoryGrow, &[number, delta]);
        self.builder.ins().jump(done, &[grown.into()]);
        self.builder.seal_block(done);
        self.builder.switch_to_block(done);
        old
    }

    pub(super) fn memory_index_type(&self, memory: u32) -> IndexType {
        self.env.module.memories[MemoryIndex::from_u32(memory)].index
    }

    /// Takes an operand of this type as an unsigned 64-bit number.
    pub(super) fn pop_index(&mut self, ty: IndexType) -> Value {
        let value = self.stack.pop();
        self.extend(value, ty)
    }

    /// An index or size as an unsigned 64-bit number.
    pub(super) fn extend(&mut self, value: Value, ty: IndexType) -> Value {
        match ty {
            IndexType::I32 => self.builder.ins().uextend(types::I64, value),
            IndexType::I64 => value,
        }
    }

    /// A 64-bit number, which is small enough or -1, as an index or size.
    pub(super) fn reduce(&mut self, value: Value, ty: IndexType) -> Value {
        match ty {
            IndexType::I32 => self.builder.ins().ireduce(types::I32, value),
            IndexType::I64 => value,
        }
    }

    fn load(&mut self, memarg: &MemArg, ty: ir::Type) {
        let (Address { base, offset }, flags) = self.access(memarg, ty.bytes());
        let value = self.builder.ins().load(ty, flags, base, offset);
        self.stack.push(value);
    }

    fn load_narrow(&mut self, memarg: &MemArg, ty: ir::Type, size: u32, widen: Widen) {
        let (Address { base, offset }, flags) = self.access(memarg, size);
        let ins = self.builder.ins();
        let value = match (size, widen) {
            (1, Widen::Signed) => ins.sload8(ty, flags, base, offset),
            (1, Widen::Unsigned) => ins.uload8(ty, flags, base, offset),
            (2, Widen::Signed) => ins.sload16(ty, flags, base, offset),
            (2, Widen::Unsigned) => ins.uload16(ty, flags, base, offset),
            (_, Widen::Signed) => ins.sload32(flags, base, offset),
            (_, Widen::Unsigned) => ins.uload32(flags, base, offset),
        };
        self.stack.push(value);
    }

    fn store(&mut self, memarg: &MemArg, size: u32) {
        let value = self.stack.pop();
        let (Address { base, offset }, flags) = self.access(memarg, size);
        let wide = self.builder.func.dfg.value_type(value).bytes() > size;
        let ins = self.builder.ins();
        match size {
            1 => ins.istore8(flags, value, base, offset),
            2 => ins.istore16(flags, value, base, offset),
            4 if wide => ins.istore32(flags, value, base, offset),
            _ => ins.store(flags, value, base, offset),
        };
    }

    pub(super) fn access(&mut self, memarg: &MemArg, size: u32) -> (Address, MemFlagsData) {
        let index = self.stack.pop();
        (self.address(memarg, index, size), self.heap_flags())
    }
}
