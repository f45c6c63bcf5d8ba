//! 128-bit vectors, a file per kind of operator:
//!
//! * [`memory`]: loads and stores, of whole vectors and of single lanes;
//! * [`lane`]: constants, splats, single lanes, and choosing among bits;
//! * [`shuffle`]: moving bytes within and between vectors; [`rotate`]: lanes rotated by that;
//! * [`integer`] and [`float`]: arithmetic; [`neighbours`]: products that are added, in one instruction; [`compare`]: comparisons;
//! * [`convert`]: between lanes of different widths and kinds;
//! * [`relaxed`]: operators whose result the specification leaves to the implementation.
//!
//! An operand is always sixteen bytes on the stack, in locals, and at block and
//! function boundaries. An operator sees it with the lanes that it needs; where
//! one follows another with the same lanes, nothing comes between them.
//!
//! What a processor has no instruction for is spelled out here in simpler
//! instructions: an artifact cannot call a library.

mod compare;
mod convert;
mod float;
mod integer;
mod lane;
mod memory;
mod neighbours;
mod relaxed;
mod rotate;
mod shuffle;

use cranelift_codegen::ir::{
    DataFlowGraph, Endianness, InstBuilder as _, InstructionData, MemFlagsData, Opcode, Type,
    Value, types,
};
use cranelift_frontend::FuncInstBuilder;
use target_lexicon::Architecture;
use wasmparser::Operator;

use super::Translator;

impl Translator<'_, '_> {
    /// Translates the operator if it belongs to this family.
    pub(super) fn vector(&mut self, operator: &Operator<'_>) -> bool {
        self.vector_memory(operator)
            || self.vector_lane(operator)
            || self.vector_integer(operator)
            || self.vector_float(operator)
            || self.vector_compare(operator)
            || self.vector_convert(operator)
            || self.vector_relaxed(operator)
    }

    /// Takes a vector from the stack, with lanes of this type.
    fn pop_vector(&mut self, ty: Type) -> Value {
        let value = self.stack.pop();
        self.with_lanes(ty, value)
    }

    fn pop2_vectors(&mut self, ty: Type) -> (Value, Value) {
        let b = self.pop_vector(ty);
        (self.pop_vector(ty), b)
    }

    /// Takes three vectors, the lowest first.
    fn pop3_vectors(&mut self, ty: Type) -> (Value, Value, Value) {
        let c = self.pop_vector(ty);
        let (a, b) = self.pop2_vectors(ty);
        (a, b, c)
    }

    /// Puts a vector on the stack, whatever lanes it has.
    fn push_vector(&mut self, value: Value) {
        let value = self.with_lanes(types::I8X16, value);
        self.stack.push(value);
    }

    /// The same bits, seen as other lanes.
    pub(super) fn with_lanes(&mut self, ty: Type, value: Value) -> Value {
        let dfg = &self.builder.func.dfg;
        // Changes that cancel out are none.
        for same in [value, without_lanes(dfg, value)] {
            if dfg.value_type(same) == ty {
                return same;
            }
        }
        // Lane 0 has the lowest address, whatever the order of bytes of the target.
        let flags = MemFlagsData::new().with_endianness(Endianness::Little);
        self.builder.ins().bitcast(ty, flags, value)
    }

    /// Replaces a vector by a function of its lanes.
    fn map_vector(&mut self, ty: Type, emit: impl FnOnce(FuncInstBuilder<'_, '_>, Value) -> Value) {
        let a = self.pop_vector(ty);
        let value = emit(self.builder.ins(), a);
        self.push_vector(value);
    }

    /// Replaces two vectors by a function of their lanes.
    fn map_vectors(
        &mut self,
        ty: Type,
        emit: impl FnOnce(FuncInstBuilder<'_, '_>, Value, Value) -> Value,
    ) {
        let (a, b) = self.pop2_vectors(ty);
        let value = emit(self.builder.ins(), a, b);
        self.push_vector(value);
    }

    /// A vector of these bytes, the first of which has the lowest address.
    pub(super) fn vector_constant(&mut self, ty: Type, bytes: [u8; 16]) -> Value {
        let constant = self.builder.func.dfg.constants.insert(bytes.as_slice().into());
        self.builder.ins().vconst(ty, constant)
    }

    fn is_x86(&self) -> bool {
        self.env.isa.triple().architecture == Architecture::X86_64
    }
}

/// A vector, however its lanes are seen.
fn without_lanes(dfg: &DataFlowGraph, value: Value) -> Value {
    let mut value = dfg.resolve_aliases(value);
    while let Some(inst) = dfg.value_def(value).inst()
        && let InstructionData::LoadNoOffset { opcode: Opcode::Bitcast, arg, .. } = dfg.insts[inst]
        && dfg.value_type(arg).is_vector()
    {
        value = dfg.resolve_aliases(arg);
    }
    value
}
