//! Constants, splats and single lanes, and what treats a vector as 128 bits.

use cranelift_codegen::ir::{InstBuilder as _, Type, Value, types};
use wasmparser::Operator;

use super::Translator;

impl Translator<'_, '_> {
    /// Translates the operator if it belongs to this family.
    pub(super) fn vector_lane(&mut self, operator: &Operator<'_>) -> bool {
        use types::{F32X4, F64X2, I8X16, I16X8, I32X4, I64X2};
        match *operator {
            Operator::V128Const { value } => {
                let value = self.vector_constant(I8X16, *value.bytes());
                self.stack.push(value);
            }
            Operator::I8x16Splat => self.splat(I8X16),
            Operator::I16x8Splat => self.splat(I16X8),
            Operator::I32x4Splat => self.splat(I32X4),
            Operator::I64x2Splat => self.splat(I64X2),
            Operator::F32x4Splat => self.splat(F32X4),
            Operator::F64x2Splat => self.splat(F64X2),
            Operator::I8x16ExtractLaneS { lane } => self.extract_narrow(I8X16, lane, true),
            Operator::I8x16ExtractLaneU { lane } => self.extract_narrow(I8X16, lane, false),
            Operator::I16x8ExtractLaneS { lane } => self.extract_narrow(I16X8, lane, true),
            Operator::I16x8ExtractLaneU { lane } => self.extract_narrow(I16X8, lane, false),
            Operator::I32x4ExtractLane { lane } => self.extract(I32X4, lane),
            Operator::I64x2ExtractLane { lane } => self.extract(I64X2, lane),
            Operator::F32x4ExtractLane { lane } => self.extract(F32X4, lane),
            Operator::F64x2ExtractLane { lane } => self.extract(F64X2, lane),
            Operator::I8x16ReplaceLane { lane } => self.replace(I8X16, lane),
            Operator::I16x8ReplaceLane { lane } => self.replace(I16X8, lane),
            Operator::I32x4ReplaceLane { lane } => self.replace(I32X4, lane),
            Operator::I64x2ReplaceLane { lane } => self.replace(I64X2, lane),
            Operator::F32x4ReplaceLane { lane } => self.replace(F32X4, lane),
            Operator::F64x2ReplaceLane { lane } => self.replace(F64X2, lane),
            Operator::I8x16Shuffle { lanes } => {
                let (a, b) = self.pop2_vectors(I8X16);
                let value = self.shuffle(a, b, lanes);
                self.push_vector(value);
            }
            Operator::I8x16Swizzle => {
                let (a, indices) = self.pop2_vectors(I8X16);
                let value = self.swizzle(a, indices);
                self.push_vector(value);
            }
            Operator::V128Not => self.map_vector(I8X16, |ins, a| ins.bnot(a)),
            Operator::V128And => self.map_vectors(I8X16, |ins, a, b| ins.band(a, b)),
            Operator::V128AndNot => self.map_vectors(I8X16, |ins, a, b| ins.band_not(a, b)),
            Operator::V128Or => self.join_vectors(|ins, a, b| ins.bor(a, b)),
            Operator::V128Xor => self.join_vectors(|ins, a, b| ins.bxor(a, b)),
            Operator::V128Bitselect => {
                let (a, b, mask) = self.pop3_vectors(I8X16);
                let value = self.builder.ins().bitselect(mask, a, b);
                self.push_vector(value);
            }
            Operator::V128AnyTrue => {
                let a = self.pop_vector(I8X16);
                let flag = self.builder.ins().vany_true(a);
                self.push_flag(flag);
            }
            Operator::I8x16AllTrue => self.all_true(I8X16),
            Operator::I16x8AllTrue => self.all_true(I16X8),
            Operator::I32x4AllTrue => self.all_true(I32X4),
            Operator::I64x2AllTrue => self.all_true(I64X2),
            Operator::I8x16Bitmask => self.bitmask(I8X16),
            Operator::I16x8Bitmask => self.bitmask(I16X8),
            Operator::I32x4Bitmask => self.bitmask(I32X4),
            Operator::I64x2Bitmask => self.bitmask(I64X2),
            _ => return false,
        }
        true
    }

    /// An `i32` operand as a lane: narrow lanes are its low bits.
    fn pop_lane(&mut self, ty: Type) -> Value {
        let value = self.stack.pop();
        match ty.lane_type() {
            lane @ (types::I8 | types::I16) => self.builder.ins().ireduce(lane, value),
            _ => value,
        }
    }

    fn splat(&mut self, ty: Type) {
        let value = self.pop_lane(ty);
        let value = self.builder.ins().splat(ty, value);
        self.push_vector(value);
    }

    fn extract(&mut self, ty: Type, lane: u8) {
        let vector = self.pop_vector(ty);
        let value = self.builder.ins().extractlane(vector, lane);
        self.stack.push(value);
    }

    fn extract_narrow(&mut self, ty: Type, lane: u8, signed: bool) {
        let vector = self.pop_vector(ty);
        let value = self.builder.ins().extractlane(vector, lane);
        let ins = self.builder.ins();
        let value =
            if signed { ins.sextend(types::I32, value) } else { ins.uextend(types::I32, value) };
        self.stack.push(value);
    }

    fn replace(&mut self, ty: Type, lane: u8) {
        let value = self.pop_lane(ty);
        let vector = self.pop_vector(ty);
        let value = self.builder.ins().insertlane(vector, value, lane);
        self.push_vector(value);
    }

    fn all_true(&mut self, ty: Type) {
        let vector = self.pop_vector(ty);
        let flag = self.builder.ins().vall_true(vector);
        self.push_flag(flag);
    }

    /// The highest bit of each lane.
    fn bitmask(&mut self, ty: Type) {
        let vector = self.pop_vector(ty);
        let value = self.builder.ins().vhigh_bits(types::I32, vector);
        self.stack.push(value);
    }
}
