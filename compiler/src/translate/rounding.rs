//! Rounding of floats to whole numbers.
//!
//! Where the target has no instruction for it (x86-64 before SSE4.1), it is
//! computed from additions: for `|x| < 2^52`, `(|x| + 2^52) - 2^52` is `|x|`
//! rounded to the nearest even whole number, since a double has no bits for a
//! fraction there; every larger number is whole. A comparison with the operand
//! then corrects the direction. For floats the constant is `2^23`.

use cranelift_codegen::ir::{InstBuilder as _, Value, condcodes::FloatCC, types};
use wasmparser::Operator;

use super::Translator;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
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
        let rounded = if self.env.isa.has_round() {
            let ins = self.builder.ins();
            match direction {
                Direction::Up => ins.ceil(x),
                Direction::Down => ins.floor(x),
                Direction::ToZero => ins.trunc(x),
                Direction::Nearest => ins.nearest(x),
            }
        } else {
            self.round_by_adding(x, direction)
        };
        self.stack.push(rounded);
        true
    }

    fn round_by_adding(&mut self, x: Value, direction: Direction) -> Value {
        let narrow = self.builder.func.dfg.value_type(x) == types::F32;
        let mut constant = |value: f64| {
            if narrow {
                // Only small powers of two are passed.
                #[expect(clippy::cast_possible_truncation)]
                self.builder.ins().f32const(value as f32)
            } else {
                self.builder.ins().f64const(value)
            }
        };
        let whole = constant(if narrow { 8_388_608.0 } else { 4_503_599_627_370_496.0 });
        let (one, zero) = (constant(1.0), constant(0.0));

        let magnitude = self.builder.ins().fabs(x);
        let sum = self.builder.ins().fadd(magnitude, whole);
        let nearest = self.builder.ins().fsub(sum, whole);
        let rounded = match direction {
            Direction::Nearest => nearest,
            Direction::ToZero => {
                let beyond = self.builder.ins().fcmp(FloatCC::GreaterThan, nearest, magnitude);
                let step = self.builder.ins().select(beyond, one, zero);
                self.builder.ins().fsub(nearest, step)
            }
            Direction::Up | Direction::Down => {
                let nearest = self.builder.ins().fcopysign(nearest, x);
                if direction == Direction::Up {
                    let short = self.builder.ins().fcmp(FloatCC::LessThan, nearest, x);
                    let step = self.builder.ins().select(short, one, zero);
                    self.builder.ins().fadd(nearest, step)
                } else {
                    let beyond = self.builder.ins().fcmp(FloatCC::GreaterThan, nearest, x);
                    let step = self.builder.ins().select(beyond, one, zero);
                    self.builder.ins().fsub(nearest, step)
                }
            }
        };
        // Rounding keeps the sign, also that of a result that became zero.
        let rounded = self.builder.ins().fcopysign(rounded, x);
        // Large numbers and infinities are whole; adding zero makes a NaN quiet.
        let itself = self.builder.ins().fadd(x, zero);
        let has_fraction = self.builder.ins().fcmp(FloatCC::LessThan, magnitude, whole);
        self.builder.ins().select(has_fraction, rounded, itself)
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
