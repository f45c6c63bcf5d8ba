//! Relaxed vector operators. The specification lists what each may compute; the
//! first alternative is that of its deterministic profile. A setting chooses
//! between this one, which is the same for every CPU, and whatever takes
//! the fewest instructions on the CPU that is compiled for.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{InstBuilder as _, Type, Value, types};
use wasmparser::Operator;

use super::Translator;
use super::integer::Half;
use crate::settings::RelaxedSimd;

impl Translator<'_, '_> {
    /// Translates the operator if it belongs to this family.
    pub(super) fn vector_relaxed(&mut self, operator: &Operator<'_>) -> bool {
        use types::{F32X4, F64X2, I8X16, I16X8, I32X4, I64X2};
        match operator {
            Operator::I8x16RelaxedSwizzle => self.relaxed_swizzle(),
            Operator::I32x4RelaxedTruncF32x4S => self.relaxed_truncate(),
            Operator::I32x4RelaxedTruncF64x2SZero => self.relaxed_truncate_zero(),
            // The instructions of today's CPUs for these saturate, or there are none.
            Operator::I32x4RelaxedTruncF32x4U => {
                self.map_vector(F32X4, |ins, a| ins.fcvt_to_uint_sat(I32X4, a));
            }
            Operator::I32x4RelaxedTruncF64x2UZero => self.truncate_zero(false),
            Operator::F32x4RelaxedMadd => self.multiply_add(F32X4, false),
            Operator::F32x4RelaxedNmadd => self.multiply_add(F32X4, true),
            Operator::F64x2RelaxedMadd => self.multiply_add(F64X2, false),
            Operator::F64x2RelaxedNmadd => self.multiply_add(F64X2, true),
            Operator::I8x16RelaxedLaneselect => self.relaxed_select(I8X16),
            Operator::I16x8RelaxedLaneselect => self.relaxed_select(I16X8),
            Operator::I32x4RelaxedLaneselect => self.relaxed_select(I32X4),
            Operator::I64x2RelaxedLaneselect => self.relaxed_select(I64X2),
            Operator::F32x4RelaxedMin => self.relaxed_min(F32X4),
            Operator::F32x4RelaxedMax => self.relaxed_max(F32X4),
            Operator::F64x2RelaxedMin => self.relaxed_min(F64X2),
            Operator::F64x2RelaxedMax => self.relaxed_max(F64X2),
            Operator::I16x8RelaxedQ15mulrS => self.relaxed_fixed_point_product(),
            Operator::I16x8RelaxedDotI8x16I7x16S => {
                let (a, b) = self.pop2_vectors(I8X16);
                let value = self.relaxed_dot(a, b);
                self.push_vector(value);
            }
            Operator::I32x4RelaxedDotI8x16I7x16AddS => self.relaxed_dot_add(),
            _ => return false,
        }
        true
    }

    fn native(&self) -> bool {
        self.env.relaxed_simd == RelaxedSimd::Native
    }

    /// Indices from 16 to 127: zero, or modulo 16.
    fn relaxed_swizzle(&mut self) {
        let (a, indices) = self.pop2_vectors(types::I8X16);
        let value = if self.native() && self.env.isa.has_x86_pshufb_lowering() {
            self.builder.ins().x86_pshufb(a, indices)
        } else {
            self.swizzle(a, indices)
        };
        self.push_vector(value);
    }

    /// What is out of range: saturated, or the smallest integer.
    fn relaxed_truncate(&mut self) {
        let a = self.pop_vector(types::F32X4);
        let value = if self.native() && self.is_x86() {
            self.builder.ins().x86_cvtt2dq(types::I32X4, a)
        } else {
            self.builder.ins().fcvt_to_sint_sat(types::I32X4, a)
        };
        self.push_vector(value);
    }

    fn relaxed_truncate_zero(&mut self) {
        if !(self.native() && self.is_x86()) {
            self.truncate_zero(true);
            return;
        }
        let a = self.pop_vector(types::F64X2);
        let zero = self.vector_constant(types::I64X2, [0; 16]);
        let wide = self.builder.ins().x86_cvtt2dq(types::I64X2, a);
        let value = self.builder.ins().snarrow(wide, zero);
        self.push_vector(value);
    }

    /// `a * b + c`, or `-(a * b) + c`: rounded twice, or once.
    fn multiply_add(&mut self, ty: Type, negate: bool) {
        let (a, b, c) = self.pop3_vectors(ty);
        let a = if negate { self.builder.ins().fneg(a) } else { a };
        let value = if self.native() && self.env.isa.has_native_fma() {
            self.builder.ins().fma(a, b, c)
        } else {
            let product = self.builder.ins().fmul(a, b);
            self.builder.ins().fadd(product, c)
        };
        self.push_vector(value);
    }

    /// The mask of a lane: each bit for itself, or the highest bit for all.
    fn relaxed_select(&mut self, ty: Type) {
        let (a, b, mask) = self.pop3_vectors(ty);
        let blend = self.native() && self.env.isa.has_blendv_lowering(ty);
        let ins = self.builder.ins();
        let value = if blend { ins.blendv(mask, a, b) } else { ins.bitselect(mask, a, b) };
        self.push_vector(value);
    }

    /// With a NaN or zeros of both signs: as `min`, or the second operand.
    fn relaxed_min(&mut self, ty: Type) {
        let (a, b) = self.pop2_vectors(ty);
        let value = if self.native() && self.is_x86() {
            let mask = self.builder.ins().fcmp(FloatCC::LessThan, a, b);
            let mask = self.with_lanes(ty, mask);
            self.builder.ins().bitselect(mask, a, b)
        } else {
            self.builder.ins().fmin(a, b)
        };
        self.push_vector(value);
    }

    /// With a NaN or zeros of both signs: as `max`, or the second operand.
    fn relaxed_max(&mut self, ty: Type) {
        let (a, b) = self.pop2_vectors(ty);
        let value = if self.native() && self.is_x86() {
            let mask = self.builder.ins().fcmp(FloatCC::LessThan, b, a);
            let mask = self.with_lanes(ty, mask);
            self.builder.ins().bitselect(mask, a, b)
        } else {
            self.builder.ins().fmax(a, b)
        };
        self.push_vector(value);
    }

    /// The one product that overflows: saturated, or wrapped.
    fn relaxed_fixed_point_product(&mut self) {
        let (a, b) = self.pop2_vectors(types::I16X8);
        let pmulhrsw = self.native() && self.env.isa.has_x86_pmulhrsw_lowering();
        let ins = self.builder.ins();
        let value = if pmulhrsw { ins.x86_pmulhrsw(a, b) } else { ins.sqmul_round_sat(a, b) };
        self.push_vector(value);
    }

    /// Second operands with the highest bit set: signed, or unsigned. The sum of
    /// two products saturates in any case.
    fn relaxed_dot(&mut self, a: Value, b: Value) -> Value {
        if self.native() && self.env.isa.has_x86_pmaddubsw_lowering() {
            return self.builder.ins().x86_pmaddubsw(a, b);
        }
        let sums = self.dot_product(a, b);
        // Only one sum overflows, 2 * -128 * -128, and nothing else is -32768.
        let smallest = self.vector_constant(
            types::I16X8,
            std::array::from_fn(|place| if place % 2 == 0 { 0 } else { 0x80 }),
        );
        let overflow = self.builder.ins().icmp(IntCC::Equal, sums, smallest);
        self.builder.ins().bxor(sums, overflow)
    }

    fn relaxed_dot_add(&mut self) {
        let c = self.pop_vector(types::I32X4);
        let (a, b) = self.pop2_vectors(types::I8X16);
        let pairs = self.relaxed_dot(a, b);
        let low = self.widen(pairs, Half::LowSigned);
        let high = self.widen(pairs, Half::HighSigned);
        let value = self.builder.ins().iadd_pairwise(low, high);
        let value = self.builder.ins().iadd(value, c);
        self.push_vector(value);
    }
}
