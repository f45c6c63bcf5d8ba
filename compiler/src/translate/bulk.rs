//! Bulk operations of linear memory: copying, filling, and initialising from segments.
//!
//! The loader does them, in builtins. But where compilers copy a structure or clear one, the length is a small constant, and a
//! call takes longer than the work: these become loads and stores. Such an operation has one check, or none, that
//! [`super::bounds`] emits for all of its bytes.

use cranelift_codegen::ir::{self, InstBuilder as _, Opcode, Value, ValueDef, types};
use cwasm_artifact::abi::builtins::Builtin;
use cwasm_artifact::abi::traps::Trap;
use cwasm_artifact::types::IndexType;
use target_lexicon::Architecture;
use wasmparser::Operator;

use super::Translator;
use super::bounds::{Address, MAX_ACCESS};
use crate::module::MemoryIndex;

/// A part of a small operation that one instruction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    /// Where it begins.
    at: u32,
    /// How many bytes it has: a power of two, at most 16.
    size: u32,
}

/// The pieces of so many bytes, the one with the last byte first. They may overlap.
///
/// The last byte is outside of a memory if any is. So when the first piece is inside, all are; and when it
/// is not, it faults before the others have written anything (specification, 4.6.10).
fn pieces(length: u32, largest: u32) -> Vec<Piece> {
    let size = largest.min(1 << length.ilog2());
    let last = length - size;
    let rest = last.div_ceil(size);
    let before = (0..rest).rev().map(|number| Piece { at: number * size, size });
    std::iter::once(Piece { at: last, size }).chain(before).collect()
}

impl Translator<'_, '_> {
    /// Translates the operator if it is one of these.
    pub(super) fn bulk(&mut self, operator: &Operator<'_>) -> bool {
        match operator {
            Operator::MemoryCopy { dst_mem, src_mem } => self.memory_copy(*dst_mem, *src_mem),
            Operator::MemoryFill { mem } => self.memory_fill(*mem),
            Operator::MemoryInit { data_index, mem } => {
                let (src, len) = self.stack.pop2();
                let dst = self.pop_index(self.memory_index_type(*mem));
                let (memory, data) = (self.u32_constant(*mem), self.u32_constant(*data_index));
                self.bulk_builtin(Builtin::MemoryInit, &[memory, data, dst, src, len]);
            }
            Operator::DataDrop { data_index } => {
                let data = self.u32_constant(*data_index);
                self.builtin(Builtin::DataDrop, &[data]);
            }
            _ => return false,
        }
        true
    }

    fn memory_copy(&mut self, dst_mem: u32, src_mem: u32) {
        let target = self.memory_index_type(dst_mem);
        let source = self.memory_index_type(src_mem);
        let (dst, src, len) = self.stack.pop3();
        if let Some(length) = self.small_constant(len) {
            let from = self.whole(src_mem, src, length);
            let to = self.whole(dst_mem, dst, length);
            return self.copy_pieces(&to, &from, length);
        }
        let len = self.extend(len, shorter(target, source));
        let (src, dst) = (self.extend(src, source), self.extend(dst, target));
        if !self.is_shared(dst_mem) && !self.is_shared(src_mem) {
            let to = self.range(MemoryIndex::from_u32(dst_mem), dst, len);
            let from = self.range(MemoryIndex::from_u32(src_mem), src, len);
            return self.bulk_builtin(Builtin::MemoryMove, &[to, from, len]);
        }
        let (to, from) = (self.u32_constant(dst_mem), self.u32_constant(src_mem));
        self.bulk_builtin(Builtin::MemoryCopy, &[to, from, dst, src, len]);
    }

    fn memory_fill(&mut self, mem: u32) {
        let index = self.memory_index_type(mem);
        let (dst, byte, len) = self.stack.pop3();
        if let Some(length) = self.small_constant(len) {
            let to = self.whole(mem, dst, length);
            return self.fill_pieces(&to, byte, length);
        }
        let (dst, len) = (self.extend(dst, index), self.extend(len, index));
        if !self.is_shared(mem) {
            return self.fill(MemoryIndex::from_u32(mem), dst, byte, len);
        }
        let memory = self.u32_constant(mem);
        self.bulk_builtin(Builtin::MemoryFill, &[memory, dst, byte, len]);
    }

    /// Fills a range of a memory that is not shared, as [`Translator::range`] takes it.
    pub(super) fn fill(&mut self, memory: MemoryIndex, index: Value, byte: Value, count: Value) {
        let to = self.range(memory, index, count);
        self.bulk_builtin(Builtin::MemorySet, &[to, byte, count]);
    }

    /// Whether other threads may have a memory. Then to copy takes more than to move bytes.
    fn is_shared(&self, memory: u32) -> bool {
        self.env.module.memories[MemoryIndex::from_u32(memory)].shared
    }

    fn bulk_builtin(&mut self, builtin: Builtin, arguments: &[Value]) {
        self.builtin_or_trap(builtin, arguments, Trap::MemoryOutOfBounds);
    }

    /// The length of an operation, if it is a constant for which instructions are better than a call.
    fn small_constant(&self, len: Value) -> Option<u32> {
        let dfg = &self.builder.func.dfg;
        let ValueDef::Result(inst, 0) = dfg.value_def(len) else { return None };
        let ir::InstructionData::UnaryImm { opcode: Opcode::Iconst, imm } = dfg.insts[inst] else {
            return None;
        };
        u32::try_from(imm.bits()).ok().filter(|length| (1..=MAX_ACCESS).contains(length))
    }

    /// Where the operation begins in a memory. All of its bytes are checked, or fault.
    fn whole(&mut self, memory: u32, index: Value, length: u32) -> Address {
        self.address_in(MemoryIndex::from_u32(memory), index, 0, length)
    }

    /// The largest piece that the target has an instruction for.
    fn largest_piece(&self) -> u32 {
        match self.env.isa.triple().architecture {
            Architecture::X86_64 | Architecture::Aarch64(_) => 16,
            _ => 8,
        }
    }

    /// Everything is read before anything is written, so that the ranges may overlap.
    fn copy_pieces(&mut self, to: &Address, from: &Address, length: u32) {
        let flags = self.heap_flags();
        let pieces = pieces(length, self.largest_piece());
        let values: Vec<Value> = pieces
            .iter()
            .map(|piece| {
                let at = from.offset + at(*piece);
                self.builder.ins().load(piece_type(*piece), flags, from.base, at)
            })
            .collect();
        for (piece, value) in pieces.into_iter().zip(values) {
            self.builder.ins().store(flags, value, to.base, to.offset + at(piece));
        }
    }

    fn fill_pieces(&mut self, to: &Address, byte: Value, length: u32) {
        let flags = self.heap_flags();
        let byte = self.builder.ins().ireduce(types::I8, byte);
        let pieces = pieces(length, self.largest_piece());
        let value = match pieces.first().map(|piece| piece.size) {
            Some(16) => self.builder.ins().splat(types::I8X16, byte),
            Some(1) | None => byte,
            Some(size) => {
                let wide = self.builder.ins().uextend(types::I64, byte);
                let all = self.builder.ins().imul_imm_u(wide, 0x0101_0101_0101_0101);
                match size {
                    8 => all,
                    size => self.builder.ins().ireduce(piece_type(Piece { at: 0, size }), all),
                }
            }
        };
        for piece in pieces {
            self.builder.ins().store(flags, value, to.base, to.offset + at(piece));
        }
    }
}

/// Where a piece begins, as instructions take it.
fn at(piece: Piece) -> i32 {
    // At most `MAX_ACCESS`.
    piece.at.cast_signed()
}

fn piece_type(piece: Piece) -> ir::Type {
    match piece.size {
        16 => types::I8X16,
        8 => types::I64,
        4 => types::I32,
        2 => types::I16,
        _ => types::I8,
    }
}

/// The type of the length of a copy between memories or tables (specification, 3.4.10).
pub(super) fn shorter(a: IndexType, b: IndexType) -> IndexType {
    if a == IndexType::I64 { b } else { a }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_every_byte_and_no_other_and_the_last_byte_comes_first() {
        for largest in [8, 16] {
            for length in 1..=MAX_ACCESS {
                let pieces = pieces(length, largest);
                let mut covered = vec![false; length as usize];
                for Piece { at, size } in &pieces {
                    assert!(size.is_power_of_two() && *size <= largest);
                    covered[*at as usize..(at + size) as usize].fill(true);
                }
                assert!(covered.iter().all(|covered| *covered), "{length}: {pieces:?}");
                assert_eq!(pieces[0].at + pieces[0].size, length);
                let least =
                    length.div_ceil(largest).max(if length.is_power_of_two() { 1 } else { 2 });
                assert_eq!(pieces.len(), least as usize, "{length}: {pieces:?}");
            }
        }
    }
}
