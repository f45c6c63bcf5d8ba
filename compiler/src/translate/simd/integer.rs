//! Integer arithmetic on lanes.

use cranelift_codegen::ir::{InstBuilder as _, Type, Value, types};
use cranelift_frontend::FuncInstBuilder;
use wasmparser::Operator;

use super::Translator;

/// Which half of a vector, and how its lanes are widened.
#[derive(Clone, Copy)]
pub(super) enum Half {
    LowSigned,
    LowUnsigned,
    HighSigned,
    HighUnsigned,
}

impl Translator<'_, '_> {
    /// Translates the operator if it belongs to this family.
    pub(super) fn vector_integer(&mut self, operator: &Operator<'_>) -> bool {
        self.vector_sum(operator)
            || self.vector_extremum(operator)
            || self.vector_shift(operator)
            || self.vector_product(operator)
    }

    fn vector_sum(&mut self, operator: &Operator<'_>) -> bool {
        use types::{I8X16, I16X8, I32X4, I64X2};
        match operator {
            Operator::I8x16Add => self.map_vectors(I8X16, |ins, a, b| ins.iadd(a, b)),
            Operator::I16x8Add => self.map_vectors(I16X8, |ins, a, b| ins.iadd(a, b)),
            Operator::I32x4Add => self.map_vectors(I32X4, |ins, a, b| ins.iadd(a, b)),
            Operator::I64x2Add => self.map_vectors(I64X2, |ins, a, b| ins.iadd(a, b)),
            Operator::I8x16Sub => self.map_vectors(I8X16, |ins, a, b| ins.isub(a, b)),
            Operator::I16x8Sub => self.map_vectors(I16X8, |ins, a, b| ins.isub(a, b)),
            Operator::I32x4Sub => self.map_vectors(I32X4, |ins, a, b| ins.isub(a, b)),
            Operator::I64x2Sub => self.map_vectors(I64X2, |ins, a, b| ins.isub(a, b)),
            Operator::I8x16AddSatS => self.map_vectors(I8X16, |ins, a, b| ins.sadd_sat(a, b)),
            Operator::I16x8AddSatS => self.add_saturated(),
            Operator::I8x16AddSatU => self.map_vectors(I8X16, |ins, a, b| ins.uadd_sat(a, b)),
            Operator::I16x8AddSatU => self.map_vectors(I16X8, |ins, a, b| ins.uadd_sat(a, b)),
            Operator::I8x16SubSatS => self.map_vectors(I8X16, |ins, a, b| ins.ssub_sat(a, b)),
            Operator::I16x8SubSatS => self.map_vectors(I16X8, |ins, a, b| ins.ssub_sat(a, b)),
            Operator::I8x16SubSatU => self.map_vectors(I8X16, |ins, a, b| ins.usub_sat(a, b)),
            Operator::I16x8SubSatU => self.map_vectors(I16X8, |ins, a, b| ins.usub_sat(a, b)),
            Operator::I8x16AvgrU => self.map_vectors(I8X16, |ins, a, b| ins.avg_round(a, b)),
            Operator::I16x8AvgrU => self.map_vectors(I16X8, |ins, a, b| ins.avg_round(a, b)),
            Operator::I8x16Neg => self.map_vector(I8X16, |ins, a| ins.ineg(a)),
            Operator::I16x8Neg => self.map_vector(I16X8, |ins, a| ins.ineg(a)),
            Operator::I32x4Neg => self.map_vector(I32X4, |ins, a| ins.ineg(a)),
            Operator::I64x2Neg => self.map_vector(I64X2, |ins, a| ins.ineg(a)),
            Operator::I8x16Popcnt => self.map_vector(I8X16, |ins, a| ins.popcnt(a)),
            Operator::I16x8ExtAddPairwiseI8x16S => self.add_pairwise(I8X16, true),
            Operator::I16x8ExtAddPairwiseI8x16U => self.add_pairwise(I8X16, false),
            Operator::I32x4ExtAddPairwiseI16x8S => self.add_pairwise(I16X8, true),
            Operator::I32x4ExtAddPairwiseI16x8U => self.add_pairwise(I16X8, false),
            _ => return false,
        }
        true
    }

    fn vector_extremum(&mut self, operator: &Operator<'_>) -> bool {
        use types::{I8X16, I16X8, I32X4, I64X2};
        match operator {
            Operator::I8x16Abs => self.map_vector(I8X16, |ins, a| ins.iabs(a)),
            Operator::I16x8Abs => self.map_vector(I16X8, |ins, a| ins.iabs(a)),
            Operator::I32x4Abs => self.map_vector(I32X4, |ins, a| ins.iabs(a)),
            Operator::I64x2Abs => self.map_vector(I64X2, |ins, a| ins.iabs(a)),
            Operator::I8x16MinS => self.map_vectors(I8X16, |ins, a, b| ins.smin(a, b)),
            Operator::I16x8MinS => self.map_vectors(I16X8, |ins, a, b| ins.smin(a, b)),
            Operator::I32x4MinS => self.map_vectors(I32X4, |ins, a, b| ins.smin(a, b)),
            Operator::I8x16MinU => self.map_vectors(I8X16, |ins, a, b| ins.umin(a, b)),
            Operator::I16x8MinU => self.map_vectors(I16X8, |ins, a, b| ins.umin(a, b)),
            Operator::I32x4MinU => self.map_vectors(I32X4, |ins, a, b| ins.umin(a, b)),
            Operator::I8x16MaxS => self.map_vectors(I8X16, |ins, a, b| ins.smax(a, b)),
            Operator::I16x8MaxS => self.map_vectors(I16X8, |ins, a, b| ins.smax(a, b)),
            Operator::I32x4MaxS => self.map_vectors(I32X4, |ins, a, b| ins.smax(a, b)),
            Operator::I8x16MaxU => self.map_vectors(I8X16, |ins, a, b| ins.umax(a, b)),
            Operator::I16x8MaxU => self.map_vectors(I16X8, |ins, a, b| ins.umax(a, b)),
            Operator::I32x4MaxU => self.map_vectors(I32X4, |ins, a, b| ins.umax(a, b)),
            _ => return false,
        }
        true
    }

    fn vector_shift(&mut self, operator: &Operator<'_>) -> bool {
        use types::{I8X16, I16X8, I32X4, I64X2};
        // The count is taken modulo the width of a lane in wasm and here.
        match operator {
            Operator::I8x16Shl => self.shift(I8X16, |ins, a, count| ins.ishl(a, count)),
            Operator::I16x8Shl => self.shift(I16X8, |ins, a, count| ins.ishl(a, count)),
            Operator::I32x4Shl => self.shift(I32X4, |ins, a, count| ins.ishl(a, count)),
            Operator::I64x2Shl => self.shift(I64X2, |ins, a, count| ins.ishl(a, count)),
            Operator::I8x16ShrS => self.shift(I8X16, |ins, a, count| ins.sshr(a, count)),
            Operator::I16x8ShrS => self.shift(I16X8, |ins, a, count| ins.sshr(a, count)),
            Operator::I32x4ShrS => self.shift(I32X4, |ins, a, count| ins.sshr(a, count)),
            Operator::I64x2ShrS => self.shift(I64X2, |ins, a, count| ins.sshr(a, count)),
            Operator::I8x16ShrU => self.shift(I8X16, |ins, a, count| ins.ushr(a, count)),
            Operator::I16x8ShrU => self.shift(I16X8, |ins, a, count| ins.ushr(a, count)),
            Operator::I32x4ShrU => self.shift(I32X4, |ins, a, count| ins.ushr(a, count)),
            Operator::I64x2ShrU => self.shift(I64X2, |ins, a, count| ins.ushr(a, count)),
            _ => return false,
        }
        true
    }

    fn vector_product(&mut self, operator: &Operator<'_>) -> bool {
        use Half::{HighSigned, HighUnsigned, LowSigned, LowUnsigned};
        use types::{I8X16, I16X8, I32X4, I64X2};
        match operator {
            Operator::I16x8Mul => self.map_vectors(I16X8, |ins, a, b| ins.imul(a, b)),
            Operator::I32x4Mul => self.map_vectors(I32X4, |ins, a, b| ins.imul(a, b)),
            Operator::I64x2Mul => self.map_vectors(I64X2, |ins, a, b| ins.imul(a, b)),
            Operator::I16x8ExtMulLowI8x16S => self.wide_product(I8X16, LowSigned),
            Operator::I16x8ExtMulHighI8x16S => self.wide_product(I8X16, HighSigned),
            Operator::I16x8ExtMulLowI8x16U => self.wide_product(I8X16, LowUnsigned),
            Operator::I16x8ExtMulHighI8x16U => self.wide_product(I8X16, HighUnsigned),
            Operator::I32x4ExtMulLowI16x8S => self.wide_product(I16X8, LowSigned),
            Operator::I32x4ExtMulHighI16x8S => self.wide_product(I16X8, HighSigned),
            Operator::I32x4ExtMulLowI16x8U => self.wide_product(I16X8, LowUnsigned),
            Operator::I32x4ExtMulHighI16x8U => self.wide_product(I16X8, HighUnsigned),
            Operator::I64x2ExtMulLowI32x4S => self.wide_product(I32X4, LowSigned),
            Operator::I64x2ExtMulHighI32x4S => self.wide_product(I32X4, HighSigned),
            Operator::I64x2ExtMulLowI32x4U => self.wide_product(I32X4, LowUnsigned),
            Operator::I64x2ExtMulHighI32x4U => self.wide_product(I32X4, HighUnsigned),
            Operator::I16x8Q15MulrSatS => {
                self.map_vectors(I16X8, |ins, a, b| ins.sqmul_round_sat(a, b));
            }
            Operator::I32x4DotI16x8S => {
                let (a, b) = self.pop2_vectors(I16X8);
                let value = self.dot_product(a, b);
                self.push_vector(value);
            }
            _ => return false,
        }
        true
    }

    fn shift(
        &mut self,
        ty: Type,
        emit: impl FnOnce(FuncInstBuilder<'_, '_>, Value, Value) -> Value,
    ) {
        let count = self.stack.pop();
        let vector = self.pop_vector(ty);
        let value = emit(self.builder.ins(), vector, count);
        self.push_vector(value);
    }

    /// Half of the lanes, twice as wide.
    pub(super) fn widen(&mut self, vector: Value, half: Half) -> Value {
        let ins = self.builder.ins();
        match half {
            Half::LowSigned => ins.swiden_low(vector),
            Half::LowUnsigned => ins.uwiden_low(vector),
            Half::HighSigned => ins.swiden_high(vector),
            Half::HighUnsigned => ins.uwiden_high(vector),
        }
    }

    fn wide_product(&mut self, ty: Type, half: Half) {
        let (a, b) = self.pop2_vectors(ty);
        let (a, b) = (self.widen(a, half), self.widen(b, half));
        let value = self.builder.ins().imul(a, b);
        self.push_vector(value);
    }

    /// Sums of neighbours, as wide as both together.
    fn add_pairwise(&mut self, ty: Type, signed: bool) {
        let vector = self.pop_vector(ty);
        let (low, high) = if signed {
            (self.widen(vector, Half::LowSigned), self.widen(vector, Half::HighSigned))
        } else {
            (self.widen(vector, Half::LowUnsigned), self.widen(vector, Half::HighUnsigned))
        };
        let value = self.builder.ins().iadd_pairwise(low, high);
        self.push_vector(value);
    }

    /// Signed products in lanes of twice the width, neighbours added.
    pub(super) fn dot_product(&mut self, a: Value, b: Value) -> Value {
        let (a_low, b_low) = (self.widen(a, Half::LowSigned), self.widen(b, Half::LowSigned));
        let low = self.builder.ins().imul(a_low, b_low);
        let (a_high, b_high) = (self.widen(a, Half::HighSigned), self.widen(b, Half::HighSigned));
        let high = self.builder.ins().imul(a_high, b_high);
        self.builder.ins().iadd_pairwise(low, high)
    }
}
