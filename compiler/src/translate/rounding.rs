//! Rounding of floats to whole numbers.
//!
//! Where the target has no instruction for it (x86-64 before SSE4.1), it is
//! computed from additions: for `|x| < 2^52`, `(|x| + 2^52) - 2^52` is `|x|`
//! rounded to the nearest even whole number, since a double has no bits for a
//! fraction there; every larger number is whole. A comparison with the operand
//! then corrects the direction. For floats the constant is `2^23`.

use cranelift_codegen::ir::{InstBuilder as _, Type, Value, condcodes::FloatCC, types};
use wasmparser::Operator;

use super::Translator;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Up,
    Down,
    ToZero,
    Nearest,
}

impl Translator<'_, '_> {
    /// Translates the operator if it belongs to this family.
    pub(super) fn rounding(&mut self, operator: &Operator<'_>) -> bool {
        let direction = match operator {
            Operator::F32Ceil | Operator::F64Ceil => Direction::Up,
            Operator::F32Floor | Operator::F64Floor => Direction::Down,
            Operator::F32Trunc | Operator::F64Trunc => Direction::ToZero,
            Operator::F32Nearest | Operator::F64Nearest => Direction::Nearest,
            _ => return false,
        };
        let x = self.stack.pop();
        let rounded = self.round(x, direction);
        self.stack.push(rounded);
        true
    }

    /// Rounds a float, or each lane of a vector of floats.
    pub(super) fn round(&mut self, x: Value, direction: Direction) -> Value {
        if !self.env.isa.has_round() {
            return self.round_by_adding(x, direction);
        }
        let ins = self.builder.ins();
        match direction {
            Direction::Up => ins.ceil(x),
            Direction::Down => ins.floor(x),
            Direction::ToZero => ins.trunc(x),
            Direction::Nearest => ins.nearest(x),
        }
    }

    fn round_by_adding(&mut self, x: Value, direction: Direction) -> Value {
        let ty = self.builder.func.dfg.value_type(x);
        let narrow = ty.lane_type() == types::F32;
        let whole = if narrow { 8_388_608.0 } else { 4_503_599_627_370_496.0 };
        let whole = self.float_constant(ty, whole);

        let magnitude = self.builder.ins().fabs(x);
        let sum = self.builder.ins().fadd(magnitude, whole);
        let nearest = self.builder.ins().fsub(sum, whole);
        let rounded = match direction {
            Direction::Nearest => nearest,
            Direction::ToZero => {
                let step = self.one_if(FloatCC::GreaterThan, nearest, magnitude);
                self.builder.ins().fsub(nearest, step)
            }
            Direction::Up => {
                let nearest = self.copy_sign(nearest, x);
                let step = self.one_if(FloatCC::LessThan, nearest, x);
                self.builder.ins().fadd(nearest, step)
            }
            Direction::Down => {
                let nearest = self.copy_sign(nearest, x);
                let step = self.one_if(FloatCC::GreaterThan, nearest, x);
                self.builder.ins().fsub(nearest, step)
            }
        };
        // Rounding keeps the sign, also that of a result that became zero.
        let rounded = self.copy_sign(rounded, x);
        // Large numbers and infinities are whole; adding zero makes a NaN quiet.
        let zero = self.float_constant(ty, 0.0);
        let itself = self.builder.ins().fadd(x, zero);
        let has_fraction = self.builder.ins().fcmp(FloatCC::LessThan, magnitude, whole);
        if ty.is_vector() {
            let has_fraction = self.with_lanes(ty, has_fraction);
            self.builder.ins().bitselect(has_fraction, rounded, itself)
        } else {
            self.builder.ins().select(has_fraction, rounded, itself)
        }
    }

    /// A float constant of this type, in each lane. Only small powers of two are passed.
    fn float_constant(&mut self, ty: Type, value: f64) -> Value {
        #[expect(clippy::cast_possible_truncation)]
        let narrow = value as f32;
        match ty {
            types::F32 => self.builder.ins().f32const(narrow),
            types::F64 => self.builder.ins().f64const(value),
            types::F32X4 => self.repeated_constant(ty, narrow.to_le_bytes()),
            _ => self.repeated_constant(ty, value.to_le_bytes()),
        }
    }

    /// A vector whose lanes all have these bytes.
    fn repeated_constant<const N: usize>(&mut self, ty: Type, lane: [u8; N]) -> Value {
        let bytes = std::array::from_fn(|index| lane[index % N]);
        self.vector_constant(ty, bytes)
    }

    /// One where the comparison holds, zero elsewhere.
    fn one_if(&mut self, condition: FloatCC, a: Value, b: Value) -> Value {
        let ty = self.builder.func.dfg.value_type(a);
        let one = self.float_constant(ty, 1.0);
        let holds = self.builder.ins().fcmp(condition, a, b);
        if ty.is_vector() {
            // All bits of a lane are set where it holds, and those of zero are clear.
            let holds = self.with_lanes(ty, holds);
            self.builder.ins().band(holds, one)
        } else {
            let zero = self.float_constant(ty, 0.0);
            self.builder.ins().select(holds, one, zero)
        }
    }

    fn copy_sign(&mut self, magnitude: Value, sign: Value) -> Value {
        let ty = self.builder.func.dfg.value_type(magnitude);
        if !ty.is_vector() {
            return self.builder.ins().fcopysign(magnitude, sign);
        }
        let mask = self.float_constant(ty, -0.0);
        self.builder.ins().bitselect(mask, sign, magnitude)
    }
}

#[cfg(test)]
mod tests {
    /// The same computation on the host's floats, against the standard library.
    #[test]
    fn additions_round_in_every_direction() {
        let values = [
            0.0,
            0.3,
            0.5,
            0.7,
            1.0,
            1.5,
            2.5,
            3.49,
            8_388_607.5,
            8_388_608.0,
            1e30,
            4_503_599_627_370_495.5,
            0.499_999_999_999_999_94,
            f64::INFINITY,
            f64::MIN_POSITIVE,
        ];
        let whole = 4_503_599_627_370_496.0_f64;
        for x in values.into_iter().flat_map(|x| [x, -x]) {
            let nearest = (x.abs() + whole) - whole;
            let signed = nearest.copysign(x);
            let finish = |rounded: f64| {
                if x.abs() < whole { rounded.copysign(x) } else { x + 0.0 }
            };
            let step = |condition: bool| if condition { 1.0 } else { 0.0 };
            let cases = [
                (finish(nearest), x.round_ties_even()),
                (finish(nearest - step(nearest > x.abs())), x.trunc()),
                (finish(signed + step(signed < x)), x.ceil()),
                (finish(signed - step(signed > x)), x.floor()),
            ];
            for (found, expected) in cases {
                assert_eq!(found.to_bits(), expected.to_bits(), "{x}: {found} {expected}");
            }
        }
    }
}
