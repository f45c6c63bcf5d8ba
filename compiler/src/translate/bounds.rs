//! SANDBOX-CRITICAL: every address in a linear memory is computed here.
//!
//! A mistake in this file lets a guest read or write the host's memory. Each
//! case states the inequality that it relies on. Notation: `index` is the
//! operand as an unsigned number of 64 bits (below 2^32 if the memory's addresses have
//! 32 bits), `offset` the constant of the instruction (in the same range, by
//! validation), `size` the number of bytes accessed (at most `MAX_ACCESS`), `reach` their
//! sum `offset + size`, `length` the memory's current size in bytes, `base` the address
//! of its first byte. An access is inside its memory if `index + reach <= length`,
//! computed without overflow.
//!
//! A memory never shrinks. A shared one may grow between the check and the access,
//! which makes no checked access wrong.

use cranelift_codegen::FxHashMap;
use cranelift_codegen::cursor::{Cursor as _, FuncCursor};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::function::FunctionStencil;
use cranelift_codegen::ir::{
    self, Endianness, Inst, InstBuilder as _, MemFlagsData, Value, ValueDef, types,
};
use cwasm_artifact::abi::memory::{MemoryStyle, base_is_constant};
use cwasm_artifact::abi::traps::Trap;
use cwasm_artifact::abi::vmctx::{GUARD_SIZE, GUARDED_SPACE, memory_definition, memory_slot};
use cwasm_artifact::types::IndexType;
use wasmparser::{MemArg, MemArgTarget};

use super::Translator;
use super::runtime::{constant_field, field, offset32};
use super::trap_code;
use crate::module::MemoryIndex;
use crate::settings::MemoryBounds;

/// The most bytes that have an address together: those of a small bulk operation.
pub(crate) const MAX_ACCESS: u32 = 64;

/// Where to access: the address is `base + offset`.
pub(super) struct Address {
    pub(super) base: Value,
    pub(super) offset: i32,
}

/// The memory that an instruction accesses. Arrays are not validated, and an
/// index outside the module cannot pass validation either.
pub(super) fn memory_of(memarg: &MemArg) -> MemoryIndex {
    match memarg.target {
        MemArgTarget::Memory(index) | MemArgTarget::Array(index) => MemoryIndex::from_u32(index),
    }
}

/// The addresses that operands lead to, in memories whose base never changes: `base + index`. The fields of a structure have that in
/// common.
pub(super) type Places = FxHashMap<(MemoryIndex, Value), Value>;

impl Translator<'_, '_> {
    /// The address of an access to `size` bytes at the index. Emits whatever
    /// check makes the access safe: the access itself must use
    /// [`Translator::heap_flags`], so that a fault in the guard is a trap. If it is made of several instructions,
    /// the one with the last byte must come first, or the others have an effect before the trap.
    pub(super) fn address(&mut self, memarg: &MemArg, index: Value, size: u32) -> Address {
        self.address_in(memory_of(memarg), index, memarg.offset, size)
    }

    /// The same, in a memory and at an offset that are given apart.
    pub(super) fn address_in(
        &mut self,
        memory: MemoryIndex,
        index: Value,
        offset: u64,
        size: u32,
    ) -> Address {
        let near = offset.checked_add(size.into()).is_some_and(|reach| reach <= GUARD_SIZE);
        match self.memory_style(memory) {
            MemoryStyle::Reserved if near => {
                // index < 2^32 and reach <= GUARD_SIZE, therefore
                // index + reach < 2^32 + GUARD_SIZE = GUARDED_SPACE:
                // the access is inside the memory, or faults in the guard.
                self.place(memory, index, offset)
            }
            MemoryStyle::Fenced if near => {
                let index = self.extend(index, self.env.module.memories[memory].index);
                // index < length and reach <= GUARD_SIZE, therefore
                // index + reach < length + GUARD_SIZE: the access is inside
                // the memory, or faults in the guard behind its end.
                let length = self.memory_length(memory);
                let outside =
                    self.builder.ins().icmp(IntCC::UnsignedGreaterThanOrEqual, index, length);
                self.builder.ins().trapnz(outside, trap_code(Trap::MemoryOutOfBounds));
                let base = self.memory_base(memory);
                self.checked_place(outside, base, index, offset)
            }
            // The guard is too small for this offset, or there is none.
            MemoryStyle::Reserved | MemoryStyle::Fenced | MemoryStyle::Checked => {
                let index = self.extend(index, self.env.module.memories[memory].index);
                let outside = self.check(memory, index, offset, size);
                let base = self.memory_base(memory);
                self.checked_place(outside, base, index, offset)
            }
        }
    }

    /// The address of the first of `count` bytes from the index on, all of which are inside the memory. `index` and `count`
    /// have 64 bits, and are below 2^32 if the memory's addresses have 32.
    pub(super) fn range(&mut self, memory: MemoryIndex, index: Value, count: Value) -> Value {
        let length = self.memory_length(memory);
        let ins = self.builder.ins();
        let (outside, end) = match self.env.module.memories[memory].index {
            IndexType::I32 => {
                // Both are below 2^32, so the sum does not overflow.
                let end = ins.iadd(index, count);
                (self.builder.ins().icmp(IntCC::UnsignedGreaterThan, end, length), Some(end))
            }
            IndexType::I64 => {
                // count <= length and index <= length - count. The difference does not wrap if the first holds, and does not
                // matter otherwise.
                let long = ins.icmp(IntCC::UnsignedGreaterThan, count, length);
                let last = self.builder.ins().isub(length, count);
                let late = self.builder.ins().icmp(IntCC::UnsignedGreaterThan, index, last);
                (self.builder.ins().bor(long, late), None)
            }
        };
        self.builder.ins().trapnz(outside, trap_code(Trap::MemoryOutOfBounds));
        let outside = match (self.memory_style(memory), end) {
            // What a processor does that guesses the check right of a wrong range: if end < GUARDED_SPACE, it finds nothing but the
            // memory and its guard. That is known without the length, which takes two loads, one after the other.
            (MemoryStyle::Reserved, Some(end)) => {
                const {
                    assert!(
                        GUARD_SIZE.is_power_of_two() && GUARDED_SPACE.is_multiple_of(GUARD_SIZE)
                    )
                };
                let guards = self.builder.ins().ushr_imm_u(end, i64::from(GUARD_SIZE.ilog2()));
                let most = (GUARDED_SPACE / GUARD_SIZE - 1).cast_signed();
                self.builder.ins().icmp_imm_u(IntCC::UnsignedGreaterThan, guards, most)
            }
            _ => outside,
        };
        let base = self.memory_base(memory);
        self.checked_place(outside, base, index, 0).base
    }

    /// Traps unless `index + reach <= length`. Returns whether it is outside, for
    /// [`Translator::checked_place`].
    fn check(&mut self, memory: MemoryIndex, index: Value, offset: u64, size: u32) -> Value {
        let ty = &self.env.module.memories[memory];
        let length = self.memory_length(memory);
        let outside = match (ty.index, offset.checked_add(size.into())) {
            // reach >= 2^64 > length: no index is inside.
            (_, None) => self.builder.ins().iconst(types::I8, 1),
            (IndexType::I32, Some(reach)) => {
                // index < 2^32 and reach < 2^32 + MAX_ACCESS, so the sum does not overflow.
                let end = self.builder.ins().iadd_imm_u(index, reach.cast_signed());
                self.builder.ins().icmp(IntCC::UnsignedGreaterThan, end, length)
            }
            (IndexType::I64, Some(reach)) => {
                // reach <= length and index <= length - reach. The difference does
                // not wrap if the first holds, and does not matter otherwise.
                let reach_value = self.builder.ins().iconst(types::I64, reach.cast_signed());
                let last = self.builder.ins().isub(length, reach_value);
                let outside = self.builder.ins().icmp(IntCC::UnsignedGreaterThan, index, last);
                // reach <= minimum <= length needs no comparison.
                if ty.bytes(ty.limits.min).is_some_and(|minimum| reach <= minimum) {
                    outside
                } else {
                    let short =
                        self.builder.ins().icmp(IntCC::UnsignedGreaterThan, reach_value, length);
                    self.builder.ins().bor(outside, short)
                }
            }
        };
        self.builder.ins().trapnz(outside, trap_code(Trap::MemoryOutOfBounds));
        outside
    }

    /// An address after a check. A processor that guesses the check right of a
    /// wrong index gets null, which nothing can be loaded from.
    fn checked_place(&mut self, outside: Value, base: Value, index: Value, offset: u64) -> Address {
        let base = self.builder.ins().iadd(base, index);
        let address = self.builder.ins().iadd_imm_u(base, offset.cast_signed());
        let null = self.builder.ins().iconst(types::I64, 0);
        let base = self.builder.ins().select_spectre_guard(outside, null, address);
        Address { base, offset: 0 }
    }

    /// The address at an operand and an offset of a memory that needs no check. A constant that the instruction cannot hold
    /// (31 bits) is added before.
    ///
    /// An address is computed once, where its operand is: that is on the way to each use. The optimiser moves it to where it is needed; of
    /// one for each use it would make one as well, after looking at them all.
    fn place(&mut self, memory: MemoryIndex, operand: Value, offset: u64) -> Address {
        let operand = self.builder.func.dfg.resolve_aliases(operand);
        let base = match self.places.get(&(memory, operand)) {
            Some(place) => *place,
            None => {
                let base = self.memory_base(memory);
                let ty = self.env.module.memories[memory].index;
                let place = match self.behind(operand, base) {
                    Some(next) => {
                        let mut cursor = FuncCursor::new(self.builder.func).at_inst(next);
                        let index = match ty {
                            IndexType::I32 => cursor.ins().uextend(types::I64, operand),
                            IndexType::I64 => operand,
                        };
                        cursor.ins().iadd(base, index)
                    }
                    None => {
                        let index = self.extend(operand, ty);
                        self.builder.ins().iadd(base, index)
                    }
                };
                self.places.insert((memory, operand), place);
                place
            }
        };
        match i32::try_from(offset) {
            Ok(offset) => Address { base, offset },
            Err(_) => {
                let base = self.builder.ins().iadd_imm_u(base, offset.cast_signed());
                Address { base, offset: 0 }
            }
        }
    }

    /// The instruction before which two values are known, the second of which is loaded in the first block: the first place where that is so.
    /// `None` if it is at the end of what there is.
    fn behind(&self, value: Value, loaded: Value) -> Option<Inst> {
        let ir::Function { stencil: FunctionStencil { dfg, layout, .. }, .. } = &*self.builder.func;
        let loaded = dfg.value_def(loaded).inst()?;
        match dfg.value_def(value) {
            ValueDef::Result(inst, _) => {
                let in_first = layout.inst_block(inst) == layout.entry_block();
                let last = match in_first && layout.pp_cmp(inst, loaded).is_lt() {
                    true => loaded,
                    false => inst,
                };
                layout.next_inst(last)
            }
            ValueDef::Param(block, _) if Some(block) == layout.entry_block() => {
                layout.next_inst(loaded)
            }
            ValueDef::Param(block, _) => layout.first_inst(block),
            ValueDef::Union(..) => None,
        }
    }

    /// Flags of accesses to linear memory: unaligned, little-endian, and a
    /// fault is an out-of-bounds trap.
    pub(super) fn heap_flags(&self) -> MemFlagsData {
        MemFlagsData::new()
            .with_trap_code(Some(trap_code(Trap::MemoryOutOfBounds)))
            .with_endianness(Endianness::Little)
            .with_alias_region(Some(self.regions.heap))
    }

    /// How accesses to a memory are kept inside it.
    fn memory_style(&self, memory: MemoryIndex) -> MemoryStyle {
        MemoryStyle::of(&self.env.module.memories[memory], self.explicit_checks())
    }

    fn explicit_checks(&self) -> bool {
        self.env.memory_bounds == MemoryBounds::Explicit
    }

    /// The current size of a memory in bytes.
    pub(super) fn memory_length(&mut self, memory: MemoryIndex) -> Value {
        let ty = self.env.module.memories[memory];
        // One that can never grow. A memory that is imported with equal bounds has
        // exactly this size too.
        if let Some(size) = ty.bytes(ty.limits.min)
            && ty.limits.max == Some(ty.limits.min)
        {
            return self.builder.ins().iconst(types::I64, size.cast_signed());
        }
        let definition = self.memory_definition(memory);
        if !ty.shared {
            return self.definition_field(definition, memory_definition::BYTE_LENGTH);
        }
        // Other threads write it.
        let address =
            self.builder.ins().iadd_imm_u(definition, i64::from(memory_definition::BYTE_LENGTH));
        let flags = field().with_alias_region(Some(self.regions.definitions));
        self.builder.ins().atomic_load(types::I64, flags, address)
    }

    /// The address of a memory's first byte.
    fn memory_base(&mut self, memory: MemoryIndex) -> Value {
        let ty = &self.env.module.memories[memory];
        if base_is_constant(ty, self.explicit_checks()) {
            let slot = self.env.module.vmctx.memory(memory.as_u32());
            return self.vmctx_field(types::I64, slot + memory_slot::BASE);
        }
        let definition = self.memory_definition(memory);
        self.definition_field(definition, memory_definition::BASE)
    }

    fn memory_definition(&mut self, memory: MemoryIndex) -> Value {
        let slot = self.env.module.vmctx.memory(memory.as_u32());
        self.vmctx_field(types::I64, slot + memory_slot::DEFINITION)
    }

    /// Loads from the definition of a memory or table, which changes when it grows.
    pub(super) fn definition_field(&mut self, definition: Value, offset: u32) -> Value {
        let flags = field().with_alias_region(Some(self.regions.definitions));
        self.builder.ins().load(types::I64, flags, definition, offset32(offset))
    }

    /// Loads from the definition of a table that can never grow.
    pub(super) fn fixed_definition_field(&mut self, definition: Value, offset: u32) -> Value {
        self.builder.ins().load(types::I64, constant_field(), definition, offset32(offset))
    }
}
