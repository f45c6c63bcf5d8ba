//! Conversions between lanes of different widths, and between integers and floats.

use cranelift_codegen::ir::{InstBuilder as _, Type, Value, types};
use wasmparser::Operator;

use super::Translator;
use super::integer::Half;

impl Translator<'_, '_> {
    /// Translates the operator if it belongs to this family.
    pub(super) fn vector_convert(&mut self, operator: &Operator<'_>) -> bool {
        self.vector_resize(operator) || self.vector_convert_floats(operator)
    }

    fn vector_resize(&mut self, operator: &Operator<'_>) -> bool {
        use Half::{HighSigned, HighUnsigned, LowSigned, LowUnsigned};
        use types::{I8X16, I16X8, I32X4};
        match operator {
            // Both read signed lanes, and saturate to signed or unsigned ones.
            Operator::I8x16NarrowI16x8S => self.map_vectors(I16X8, |ins, a, b| ins.snarrow(a, b)),
            Operator::I8x16NarrowI16x8U => self.map_vectors(I16X8, |ins, a, b| ins.unarrow(a, b)),
            Operator::I16x8NarrowI32x4S => self.map_vectors(I32X4, |ins, a, b| ins.snarrow(a, b)),
            Operator::I16x8NarrowI32x4U => self.map_vectors(I32X4, |ins, a, b| ins.unarrow(a, b)),
            Operator::I16x8ExtendLowI8x16S => self.extend_half(I8X16, LowSigned),
            Operator::I16x8ExtendHighI8x16S => self.extend_half(I8X16, HighSigned),
            Operator::I16x8ExtendLowI8x16U => self.extend_half(I8X16, LowUnsigned),
            Operator::I16x8ExtendHighI8x16U => self.extend_half(I8X16, HighUnsigned),
            Operator::I32x4ExtendLowI16x8S => self.extend_half(I16X8, LowSigned),
            Operator::I32x4ExtendHighI16x8S => self.extend_half(I16X8, HighSigned),
            Operator::I32x4ExtendLowI16x8U => self.extend_half(I16X8, LowUnsigned),
            Operator::I32x4ExtendHighI16x8U => self.extend_half(I16X8, HighUnsigned),
            Operator::I64x2ExtendLowI32x4S => self.extend_half(I32X4, LowSigned),
            Operator::I64x2ExtendHighI32x4S => self.extend_half(I32X4, HighSigned),
            Operator::I64x2ExtendLowI32x4U => self.extend_half(I32X4, LowUnsigned),
            Operator::I64x2ExtendHighI32x4U => self.extend_half(I32X4, HighUnsigned),
            _ => return false,
        }
        true
    }

    fn vector_convert_floats(&mut self, operator: &Operator<'_>) -> bool {
        use types::{F32X4, F64X2, I32X4};
        match operator {
            Operator::I32x4TruncSatF32x4S => {
                self.map_vector(F32X4, |ins, a| ins.fcvt_to_sint_sat(I32X4, a));
            }
            Operator::I32x4TruncSatF32x4U => {
                self.map_vector(F32X4, |ins, a| ins.fcvt_to_uint_sat(I32X4, a));
            }
            Operator::I32x4TruncSatF64x2SZero => self.truncate_zero(true),
            Operator::I32x4TruncSatF64x2UZero => self.truncate_zero(false),
            Operator::F32x4ConvertI32x4S => {
                self.map_vector(I32X4, |ins, a| ins.fcvt_from_sint(F32X4, a));
            }
            Operator::F32x4ConvertI32x4U => {
                self.map_vector(I32X4, |ins, a| ins.fcvt_from_uint(F32X4, a));
            }
            Operator::F64x2ConvertLowI32x4S => {
                let a = self.pop_vector(I32X4);
                let wide = self.widen(a, Half::LowSigned);
                let value = self.builder.ins().fcvt_from_sint(F64X2, wide);
                self.push_vector(value);
            }
            Operator::F64x2ConvertLowI32x4U => {
                let a = self.pop_vector(I32X4);
                let wide = self.widen(a, Half::LowUnsigned);
                let value = self.builder.ins().fcvt_from_uint(F64X2, wide);
                self.push_vector(value);
            }
            Operator::F32x4DemoteF64x2Zero => self.map_vector(F64X2, |ins, a| ins.fvdemote(a)),
            Operator::F64x2PromoteLowF32x4 => self.map_vector(F32X4, |ins, a| ins.fvpromote_low(a)),
            _ => return false,
        }
        true
    }

    fn extend_half(&mut self, ty: Type, half: Half) {
        let vector = self.pop_vector(ty);
        let value = self.widen(vector, half);
        self.push_vector(value);
    }

    /// Two doubles to 32-bit integers in the low lanes; the high lanes are zero.
    pub(super) fn truncate_zero(&mut self, signed: bool) {
        let a = self.pop_vector(types::F64X2);
        let zero = self.vector_constant(types::I64X2, [0; 16]);
        let value = if signed {
            let wide = self.builder.ins().fcvt_to_sint_sat(types::I64X2, a);
            self.builder.ins().snarrow(wide, zero)
        } else if self.env.isa.has_round() {
            let wide = self.builder.ins().fcvt_to_uint_sat(types::I64X2, a);
            self.builder.ins().uunarrow(wide, zero)
        } else {
            self.truncate_lanes_unsigned(a)
        };
        self.push_vector(value);
    }

    /// The same, one lane after the other: vectors would have to be rounded first,
    /// for which x86-64 before SSE4.1 has no instruction.
    fn truncate_lanes_unsigned(&mut self, a: Value) -> Value {
        let [low, high] = [0, 1].map(|lane: u8| {
            let float = self.builder.ins().extractlane(a, lane);
            let integer = self.builder.ins().fcvt_to_uint_sat(types::I32, float);
            self.builder.ins().uextend(types::I64, integer)
        });
        let high = self.builder.ins().ishl_imm_u(high, 32);
        let both = self.builder.ins().bor(low, high);
        self.builder.ins().scalar_to_vector(types::I64X2, both)
    }
}
