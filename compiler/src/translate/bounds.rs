//! SANDBOX-CRITICAL: every address in a linear memory is computed here.
//!
//! A mistake in this file lets a guest read or write the host's memory. Each
//! case states the inequality that it relies on. Notation: `index` is the
//! unsigned 32-bit operand, `offset` the constant of the instruction (below
//! 2^32), `size` the number of bytes accessed (at most 16), `length` the
//! memory's current size in bytes, `base` the address of its first byte. An
//! access is inside its memory if `index + offset + size <= length`, computed
//! without overflow.

use cranelift_codegen::ir::{
    Endianness, InstBuilder as _, MemFlagsData, Value, condcodes::IntCC, types,
};
use cwasm_artifact::abi::traps::Trap;
use cwasm_artifact::abi::vmctx::{GUARD_SIZE, memory_definition, memory_slot};
use wasmparser::{MemArg, MemArgTarget};

use super::Translator;
use super::runtime::{constant_field, field, offset32};
use super::trap_code;
use crate::module::MemoryIndex;
use crate::settings::MemoryBounds;

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

impl Translator<'_, '_> {
    /// The address of an access to `size` bytes at the index. Emits whatever
    /// check makes the access safe: the access itself must use
    /// [`Translator::heap_flags`], so that a fault in the guard is a trap.
    pub(super) fn address(&mut self, memarg: &MemArg, index: Value, size: u32) -> Address {
        let memory = memory_of(memarg);
        // offset + size < 2^32 + 16, so there is no overflow in 64 bits.
        let reach = memarg.offset + u64::from(size);
        let index = self.builder.ins().uextend(types::I64, index);
        match self.env.memory_bounds {
            MemoryBounds::Guarded if reach <= GUARD_SIZE => {
                // index < 2^32 and offset + size <= GUARD_SIZE, therefore
                // index + offset + size < 2^32 + GUARD_SIZE = GUARDED_SPACE:
                // the access is inside the memory, or faults in the guard.
                let base = self.guarded_base(memory);
                self.place(base, index, memarg.offset)
            }
            MemoryBounds::Guarded => {
                // The guard is too small for this offset: compare, as below.
                let outside = self.check(memory, index, reach);
                let base = self.guarded_base(memory);
                self.checked_place(outside, base, index, memarg.offset)
            }
            MemoryBounds::Explicit => {
                let outside = self.check(memory, index, reach);
                let definition = self.memory_definition(memory);
                let base = self.definition_field(definition, memory_definition::BASE);
                self.checked_place(outside, base, index, memarg.offset)
            }
        }
    }

    /// Traps unless `index + reach <= length`. Returns whether it is outside, for
    /// [`Translator::checked_place`].
    fn check(&mut self, memory: MemoryIndex, index: Value, reach: u64) -> Value {
        // index < 2^32 and reach < 2^33, so the sum does not overflow.
        let end = self.builder.ins().iadd_imm_u(index, reach.cast_signed());
        let length = self.memory_length(memory);
        let outside = self.builder.ins().icmp(IntCC::UnsignedGreaterThan, end, length);
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

    /// Adds up an address. A constant that the instruction cannot hold (31 bits) is added before.
    fn place(&mut self, base: Value, index: Value, offset: u64) -> Address {
        let base = self.builder.ins().iadd(base, index);
        match i32::try_from(offset) {
            Ok(offset) => Address { base, offset },
            Err(_) => {
                let base = self.builder.ins().iadd_imm_u(base, offset.cast_signed());
                Address { base, offset: 0 }
            }
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

    /// The current size of a memory in bytes.
    pub(super) fn memory_length(&mut self, memory: MemoryIndex) -> Value {
        let definition = self.memory_definition(memory);
        self.definition_field(definition, memory_definition::BYTE_LENGTH)
    }

    /// The address of a guarded memory, which never moves.
    fn guarded_base(&mut self, memory: MemoryIndex) -> Value {
        let slot = self.env.module.vmctx.memory(memory.as_u32());
        self.vmctx_field(types::I64, slot + memory_slot::BASE)
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
