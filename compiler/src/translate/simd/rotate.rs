//! Rotations, which WebAssembly has for numbers and not for vectors: a program shifts lanes to
//! the left and to the right, and puts both together. Ciphers and hashes do little else.
//!
//! A rotation by whole bytes is one permutation of bytes, in place of three instructions.

use cranelift_codegen::ir::{DataFlowGraph, InstructionData, Opcode, Value, types};
use cranelift_frontend::FuncInstBuilder;

use super::shuffle::Pattern;
use super::{Translator, without_lanes};
use crate::constants::integer;

impl Translator<'_, '_> {
    /// Replaces two vectors by what `emit` makes of their bits, which is all of them where no bit is set in both.
    pub(super) fn join_vectors(
        &mut self,
        emit: impl FnOnce(FuncInstBuilder<'_, '_>, Value, Value) -> Value,
    ) {
        let (a, b) = self.pop2_vectors(types::I8X16);
        let rotation = Rotation::of(&self.builder.func.dfg, a, b);
        let rotated = rotation.and_then(|rotation| self.rotate(&rotation));
        let value = rotated.unwrap_or_else(|| emit(self.builder.ins(), a, b));
        self.push_vector(value);
    }

    /// `None` if shifts are as good.
    fn rotate(&mut self, rotation: &Rotation) -> Option<Value> {
        let pattern = rotation.pattern().filter(|pattern| self.permutes_well(pattern))?;
        let value = self.with_lanes(types::I8X16, rotation.operand);
        Some(self.shuffle(value, value, pattern))
    }
}

/// A vector whose lanes are rotated to the left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rotation {
    operand: Value,
    /// Of lanes with so many bits.
    width: u8,
    /// By so many bits, at least one, and fewer than a lane has.
    count: u8,
}

impl Rotation {
    /// What two shifts of the same vector are together, if they leave no bit out.
    fn of(dfg: &DataFlowGraph, a: Value, b: Value) -> Option<Self> {
        let (a, b) = (Shift::of(dfg, a)?, Shift::of(dfg, b)?);
        let (left, right) = match (a.opcode, b.opcode) {
            (Opcode::Ishl, Opcode::Ushr) => (a, b),
            (Opcode::Ushr, Opcode::Ishl) => (b, a),
            _ => return None,
        };
        // Each is less than the width, so that neither is nothing.
        let is_whole = left.count + right.count == left.width;
        (left.operand == right.operand && left.width == right.width && is_whole).then_some(Self {
            operand: left.operand,
            width: left.width,
            count: left.count,
        })
    }

    /// `None` if it is not by whole bytes.
    fn pattern(&self) -> Option<Pattern> {
        if !self.count.is_multiple_of(8) {
            return None;
        }
        let (lane, by) = (self.width / 8, self.count / 8);
        let mut pattern = Pattern::default();
        for (place, byte) in (0..).zip(&mut pattern) {
            *byte = place / lane * lane + (place + lane - by) % lane;
        }
        Some(pattern)
    }
}

/// A vector whose lanes are shifted by a constant.
struct Shift {
    opcode: Opcode,
    operand: Value,
    width: u8,
    count: u8,
}

impl Shift {
    fn of(dfg: &DataFlowGraph, value: Value) -> Option<Self> {
        let shifted = without_lanes(dfg, value);
        let InstructionData::Binary { opcode, args: [operand, count] } =
            dfg.insts[dfg.value_def(shifted).inst()?]
        else {
            return None;
        };
        let width = u8::try_from(dfg.value_type(shifted).lane_bits()).ok()?;
        let count = integer(dfg, count)?.rem_euclid(width.into());
        Some(Self {
            opcode,
            operand: without_lanes(dfg, operand),
            width,
            count: u8::try_from(count).ok()?,
        })
    }
}
