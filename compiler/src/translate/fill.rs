//! Loops that fill memory, as one fill in front of them.
//!
//! Such a loop stays as it is. Before it begins, the code asks how many turns are certain to be followed by another, and whether
//! all that they store is inside the memory and away from the cell that they load. If so, one fill does what they do,
//! locals become what they are after these turns, and the loop goes on from there: it has one
//! turn left as a rule. If not, it begins where it did, and traps, wraps around or goes wherever the cell leads.
//!
//! Nothing in here keeps the fill inside the memory: it is checked where `memory.fill` is ([`super::bounds`]), again.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder as _, Opcode, Value, types};
use cwasm_artifact::types::IndexType;
use wasmparser::BinaryReader;

use super::Translator;
use crate::constants::{integer, with_constant};
use crate::filling::{self, Byte, Cell, Filling, MINUS_ONE, Sum, Term};
use crate::module::MemoryIndex;

/// Fewer bytes are left to the loop: to call takes as long.
const LEAST: u32 = 32;

/// How many bytes a cell has.
const CELL_SIZE: u32 = 4;

impl Translator<'_, '_> {
    /// Emits a fill, if the operator is a loop that is known to fill memory.
    ///
    /// Code that counts fuel counts each turn, and code that watches the epoch stops between two turns.
    pub(super) fn fill_ahead(&mut self) {
        if self.env.fuel || self.env.epoch {
            return;
        }
        let loop_place = self.start + u64::from(self.offset);
        let rest = self.locals.body_from(self.offset);
        let Some(filling) = filling::recognise(BinaryReader::new(rest, loop_place)) else { return };
        if self.can_fill(&filling) && !self.is_short(&filling) {
            self.fill_turns(&filling, loop_place);
        }
    }

    /// Whether what the loop depends on is what it is taken for. Of a body that is not valid behind this place, it may not be.
    ///
    /// Other threads may see the order in which bytes of a shared memory are stored, and change its cells in between.
    fn can_fill(&mut self, filling: &Filling) -> bool {
        let memory = self.env.module.memories.get(MemoryIndex::from_u32(filling.memory));
        memory.is_some_and(|memory| !memory.shared && memory.index == IndexType::I32)
            && filling.locals().all(|local| self.is_i32(local as usize))
    }

    fn is_i32(&mut self, local: usize) -> bool {
        if local >= self.locals.len() {
            return false;
        }
        let value = self.local_value(local);
        self.builder.func.dfg.value_type(value) == types::I32
    }

    /// Whether the loop is known to have too few turns, as what is left over by a loop in front of it.
    fn is_short(&mut self, filling: &Filling) -> bool {
        let Sum { terms, constant } = &filling.turns;
        let most = match terms[..] {
            [] => Some(*constant),
            [(Term::Local(local), 1)] => {
                let local = self.local_value(local as usize);
                self.at_most(local).map(|most| most.saturating_add_signed(constant.cast_signed()))
            }
            _ => None,
        };
        most.is_some_and(|most| most >> filling.shift < least_turns(filling))
    }

    /// A number that a value is not above, if it is plain to see. Wrong only if a loop's turns are less certain than they look.
    fn at_most(&self, value: Value) -> Option<u32> {
        let dfg = &self.builder.func.dfg;
        let number = integer(dfg, value).or_else(|| {
            let inst = dfg.value_def(dfg.resolve_aliases(value)).inst()?;
            let [a, b] = *dfg.inst_args(inst) else { return None };
            let mask = with_constant(dfg, a, b)?.2;
            (dfg.insts[inst].opcode() == Opcode::Band).then_some(mask)
        });
        u32::try_from(number?).ok()
    }

    fn fill_turns(&mut self, filling: &Filling, loop_place: u64) {
        let before: Vec<Value> =
            filling.steps.iter().map(|(local, _)| self.local_value(*local as usize)).collect();
        let turns = self.sum(&filling.turns, None);
        let turns = self.builder.ins().ushr_imm_u(turns, i64::from(filling.shift));
        let [asking, filled, go_on] = [(); 3].map(|()| self.new_block());
        for _ in &before {
            self.builder.append_block_param(go_on, types::I32);
        }
        let unchanged: Vec<_> = before.iter().copied().map(Into::into).collect();

        let least = i64::from(least_turns(filling));
        let many = self.builder.ins().icmp_imm_u(IntCC::UnsignedGreaterThanOrEqual, turns, least);
        self.builder.ins().brif(many, asking, &[], go_on, &unchanged);
        self.builder.seal_block(asking);

        self.builder.switch_to_block(asking);
        let range = self.range_of(filling, turns, loop_place);
        self.builder.ins().brif(range.fits, filled, &[], go_on, &unchanged);
        self.builder.seal_block(filled);

        self.builder.switch_to_block(filled);
        let byte = match &filling.byte {
            Byte::Constant(byte) => self.constant(types::I32, i64::from(*byte)),
            Byte::Sum(sum) => self.sum(sum, None),
        };
        self.fill(MemoryIndex::from_u32(filling.memory), range.start, byte, range.length);
        let after: Vec<_> = before
            .iter()
            .zip(&filling.steps)
            .map(|(before, (_, step))| {
                let more = self.builder.ins().imul_imm_u(turns, i64::from(*step));
                self.builder.ins().iadd(*before, more).into()
            })
            .collect();
        self.builder.ins().jump(go_on, &after);
        self.builder.seal_block(go_on);

        self.builder.switch_to_block(go_on);
        for (position, (local, _)) in filling.steps.iter().enumerate() {
            let value = self.builder.block_params(go_on)[position];
            self.assign(*local as usize, value);
        }
    }

    /// What so many turns fill. The loop is the next that happens, so loading the cell here may trap as it does there.
    fn range_of(&mut self, filling: &Filling, turns: Value, loop_place: u64) -> Range {
        let cell = filling.cell.as_ref().map(|cell| self.load_cell(cell, loop_place));
        let memory = MemoryIndex::from_u32(filling.memory);
        let first = self.sum(&filling.first, cell.as_ref().map(|cell| cell.content));
        let first = self.builder.ins().uextend(types::I64, first);
        let start = self.builder.ins().iadd_imm_u(first, i64::from(filling.offset));
        let turns = self.builder.ins().uextend(types::I64, turns);
        let length = self.builder.ins().imul_imm_u(turns, i64::from(filling.stride));
        // start < 2^33 and length < 2^32 * stride, so the sum does not overflow.
        let end = self.builder.ins().iadd(start, length);
        // A memory has at most 2^32 bytes, so that neither start nor length has more if end has fewer. One more turn follows, so there
        // is no need to allow for the last byte of the memory.
        let size = self.memory_length(memory);
        let inside = self.builder.ins().icmp(IntCC::UnsignedLessThan, end, size);
        let fits = match cell {
            None => inside,
            Some(cell) => {
                let before =
                    self.builder.ins().icmp(IntCC::UnsignedLessThanOrEqual, cell.end, start);
                let behind =
                    self.builder.ins().icmp(IntCC::UnsignedGreaterThanOrEqual, cell.start, end);
                let apart = self.builder.ins().bor(before, behind);
                self.builder.ins().band(inside, apart)
            }
        };
        Range { start, length, fits }
    }

    fn load_cell(&mut self, cell: &Cell, loop_place: u64) -> LoadedCell {
        self.locate(cell.place);
        let index = self.sum(&cell.index, None);
        let address = self.address(&cell.memarg, index, CELL_SIZE);
        let flags = self.heap_flags();
        let content = self.builder.ins().load(types::I32, flags, address.base, address.offset);
        self.locate(loop_place);
        // Its bytes are inside the memory, and so are these numbers.
        let index = self.builder.ins().uextend(types::I64, index);
        let start = self.builder.ins().iadd_imm_u(index, cell.memarg.offset.cast_signed());
        let end = self.builder.ins().iadd_imm_u(start, i64::from(CELL_SIZE));
        LoadedCell { start, end, content }
    }

    /// A sum of what locals are now. Those with a cell need what that holds.
    fn sum(&mut self, sum: &Sum, cell: Option<Value>) -> Value {
        let mut total = self.constant(types::I32, i64::from(sum.constant));
        for (term, factor) in &sum.terms {
            let value = match term {
                Term::Local(local) => self.local_value(*local as usize),
                Term::Cell => cell.expect("what depends on a cell is computed behind its load"),
            };
            total = match *factor {
                1 => self.builder.ins().iadd(total, value),
                MINUS_ONE => self.builder.ins().isub(total, value),
                factor => {
                    let value = self.builder.ins().imul_imm_u(value, i64::from(factor));
                    self.builder.ins().iadd(total, value)
                }
            };
        }
        total
    }
}

/// A cell, as numbers of 64 bits, and what it holds.
struct LoadedCell {
    start: Value,
    end: Value,
    content: Value,
}

/// What is filled, as numbers of 64 bits.
struct Range {
    start: Value,
    length: Value,
    /// Whether it is inside the memory and away from the cell. Otherwise the others mean nothing.
    fits: Value,
}

fn least_turns(filling: &Filling) -> u32 {
    LEAST.div_ceil(filling.stride)
}
