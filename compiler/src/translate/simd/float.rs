//! Floating-point arithmetic on lanes.

use cranelift_codegen::ir::condcodes::FloatCC;
use cranelift_codegen::ir::{InstBuilder as _, Type, types};
use wasmparser::Operator;

use super::Translator;
use crate::translate::rounding::Direction;

impl Translator<'_, '_> {
    /// Translates the operator if it belongs to this family.
    pub(super) fn vector_float(&mut self, operator: &Operator<'_>) -> bool {
        self.vector_float_arithmetic(operator) || self.vector_rounding(operator)
    }

    fn vector_float_arithmetic(&mut self, operator: &Operator<'_>) -> bool {
        use types::{F32X4, F64X2};
        match operator {
            Operator::F32x4Add => self.map_vectors(F32X4, |ins, a, b| ins.fadd(a, b)),
            Operator::F64x2Add => self.map_vectors(F64X2, |ins, a, b| ins.fadd(a, b)),
            Operator::F32x4Sub => self.map_vectors(F32X4, |ins, a, b| ins.fsub(a, b)),
            Operator::F64x2Sub => self.map_vectors(F64X2, |ins, a, b| ins.fsub(a, b)),
            Operator::F32x4Mul => self.map_vectors(F32X4, |ins, a, b| ins.fmul(a, b)),
            Operator::F64x2Mul => self.map_vectors(F64X2, |ins, a, b| ins.fmul(a, b)),
            Operator::F32x4Div => self.map_vectors(F32X4, |ins, a, b| ins.fdiv(a, b)),
            Operator::F64x2Div => self.map_vectors(F64X2, |ins, a, b| ins.fdiv(a, b)),
            Operator::F32x4Min => self.map_vectors(F32X4, |ins, a, b| ins.fmin(a, b)),
            Operator::F64x2Min => self.map_vectors(F64X2, |ins, a, b| ins.fmin(a, b)),
            Operator::F32x4Max => self.map_vectors(F32X4, |ins, a, b| ins.fmax(a, b)),
            Operator::F64x2Max => self.map_vectors(F64X2, |ins, a, b| ins.fmax(a, b)),
            Operator::F32x4PMin => self.pseudo_extremum(F32X4, FloatCC::GreaterThan),
            Operator::F64x2PMin => self.pseudo_extremum(F64X2, FloatCC::GreaterThan),
            Operator::F32x4PMax => self.pseudo_extremum(F32X4, FloatCC::LessThan),
            Operator::F64x2PMax => self.pseudo_extremum(F64X2, FloatCC::LessThan),
            Operator::F32x4Abs => self.map_vector(F32X4, |ins, a| ins.fabs(a)),
            Operator::F64x2Abs => self.map_vector(F64X2, |ins, a| ins.fabs(a)),
            Operator::F32x4Neg => self.map_vector(F32X4, |ins, a| ins.fneg(a)),
            Operator::F64x2Neg => self.map_vector(F64X2, |ins, a| ins.fneg(a)),
            Operator::F32x4Sqrt => self.map_vector(F32X4, |ins, a| ins.sqrt(a)),
            Operator::F64x2Sqrt => self.map_vector(F64X2, |ins, a| ins.sqrt(a)),
            _ => return false,
        }
        true
    }

    fn vector_rounding(&mut self, operator: &Operator<'_>) -> bool {
        use types::{F32X4, F64X2};
        let (ty, direction) = match operator {
            Operator::F32x4Ceil => (F32X4, Direction::Up),
            Operator::F64x2Ceil => (F64X2, Direction::Up),
            Operator::F32x4Floor => (F32X4, Direction::Down),
            Operator::F64x2Floor => (F64X2, Direction::Down),
            Operator::F32x4Trunc => (F32X4, Direction::ToZero),
            Operator::F64x2Trunc => (F64X2, Direction::ToZero),
            Operator::F32x4Nearest => (F32X4, Direction::Nearest),
            Operator::F64x2Nearest => (F64X2, Direction::Nearest),
            _ => return false,
        };
        let x = self.pop_vector(ty);
        let value = self.round(x, direction);
        self.push_vector(value);
        true
    }

    /// `a condition b ? b : a`, lane by lane: the minimum or maximum as C
    /// programs write it, NaN and zeros included.
    fn pseudo_extremum(&mut self, ty: Type, condition: FloatCC) {
        let (a, b) = self.pop2_vectors(ty);
        // The code generator has one instruction for the form with "less than".
        let mask = match condition {
            FloatCC::GreaterThan => self.builder.ins().fcmp(FloatCC::LessThan, b, a),
            condition => self.builder.ins().fcmp(condition, a, b),
        };
        let mask = self.with_lanes(ty, mask);
        let value = self.builder.ins().bitselect(mask, b, a);
        self.push_vector(value);
    }
}
