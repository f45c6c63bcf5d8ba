//! SANDBOX-CRITICAL: what a count can be, in a loop that counts from one constant to another.
//!
//! Indices are computed in 64 bits where the count that they are made of cannot wrap around (`widened`). Were a range
//! of this file too small, such an index could leave the sandbox.

use std::ops::RangeInclusive;

use cranelift_codegen::ir::condcodes::IntCC;

/// How many numbers have 32 bits.
const ALL: i64 = 1 << 32;

/// How many turns a loop has at most, which begins to count with `start`, and where a turn is followed by another as long as the count
/// and `step` is in an order to `end`. `None` if that is not known.
pub(crate) fn turns(start: u32, step: i32, order: IntCC, end: u32) -> Option<i64> {
    let unsigned = |number: u32| i64::from(number);
    let signed = |number: u32| i64::from(number.cast_signed());
    let step = step.into();
    let unsigned_to = |last| in_order(unsigned(start), step, last, 0..=u32::MAX.into());
    let signed_to = |last| in_order(signed(start), step, last, i32::MIN.into()..=i32::MAX.into());
    let (up, turns) = match order {
        IntCC::Equal => return None,
        IntCC::NotEqual => {
            return whole_steps(unsigned(start), step, unsigned(end))
                .or_else(|| whole_steps(signed(start), step, signed(end)));
        }
        IntCC::UnsignedLessThan => (true, unsigned_to(unsigned(end) - 1)),
        IntCC::UnsignedLessThanOrEqual => (true, unsigned_to(unsigned(end))),
        IntCC::UnsignedGreaterThan => (false, unsigned_to(unsigned(end) + 1)),
        IntCC::UnsignedGreaterThanOrEqual => (false, unsigned_to(unsigned(end))),
        IntCC::SignedLessThan => (true, signed_to(signed(end) - 1)),
        IntCC::SignedLessThanOrEqual => (true, signed_to(signed(end))),
        IntCC::SignedGreaterThan => (false, signed_to(signed(end) + 1)),
        IntCC::SignedGreaterThanOrEqual => (false, signed_to(signed(end))),
    };
    turns.filter(|_| up == (step > 0))
}

/// How many turns arrive at `end`, in whole steps.
///
/// Numbers up to `end` are less than 2^32 apart, so of those before it none has its lower half, and the loop ends there.
fn whole_steps(start: i64, step: i64, end: i64) -> Option<i64> {
    let turns = (end - start).checked_div(step)?;
    (turns > 0 && start + turns * step == end).then_some(turns)
}

/// How many turns there are if they go on as long as the next number is not beyond `last`, where numbers are compared as what they
/// are: `all` are those that have 32 bits. The number that is beyond must be among them: then what is compared is that number, and none
/// that wrapped around.
fn in_order(start: i64, step: i64, last: i64, all: RangeInclusive<i64>) -> Option<i64> {
    let further = (last - start).checked_div(step)?.max(0);
    let turns = further + 1;
    all.contains(&(start + turns * step)).then_some(turns)
}

/// What a count of 32 bits is: the lower half of a number that is `start` in the first turn of its loop, and larger by `step` in
/// each after it. All of them are within bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) start: i64,
    pub(crate) step: i64,
    /// The number behind the last turn, if there are as many as there may be.
    pub(crate) end: i64,
    pub(crate) bounds: Bounds,
}

/// Numbers from one to another, both included, which are less than 2^32 apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    low: i64,
    high: i64,
}

impl Range {
    /// What a count is, in a loop that has so many turns at most. `None` if it may wrap around.
    pub(crate) fn of(start: u32, step: i32, turns: i64) -> Option<Self> {
        let (start, step) = (i64::from(start.cast_signed()), i64::from(step));
        let last = start.checked_add(step.checked_mul(turns.checked_sub(1)?)?)?;
        let (low, high) = (start.min(last), start.max(last));
        let range =
            Self { start, step, end: last.checked_add(step)?, bounds: Bounds { low, high } };
        (high.checked_sub(low)? < ALL).then_some(range)
    }
}

impl Bounds {
    /// The numbers up to one, from zero on.
    pub(crate) fn up_to(most: u32) -> Self {
        Self { low: 0, high: most.into() }
    }

    /// Whether all of them are what their lower halves are, made longer.
    pub(crate) fn are_unsigned(&self) -> bool {
        self.low >= 0 && self.high < ALL
    }

    /// The most that the lower half of such a number can be, as far as that is known.
    pub(crate) fn most(&self) -> u32 {
        let most = u32::try_from(self.high).ok().filter(|_| self.are_unsigned());
        most.unwrap_or(u32::MAX)
    }

    /// What to add to such a number so that it is its lower half and a constant, computed in 32 bits and made longer: if that is the same for
    /// all of them.
    ///
    /// For `low` that is `sum`, and for `low + n` it is `sum + n`, as that has no more than 32 bits.
    pub(crate) fn distance(&self, constant: u32) -> Option<i64> {
        let sum = (self.low + i64::from(constant)).rem_euclid(ALL);
        (sum + (self.high - self.low) < ALL).then_some(sum - self.low)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ORDERS: [IntCC; 10] = [
        IntCC::Equal,
        IntCC::NotEqual,
        IntCC::UnsignedLessThan,
        IntCC::UnsignedLessThanOrEqual,
        IntCC::UnsignedGreaterThan,
        IntCC::UnsignedGreaterThanOrEqual,
        IntCC::SignedLessThan,
        IntCC::SignedLessThanOrEqual,
        IntCC::SignedGreaterThan,
        IntCC::SignedGreaterThanOrEqual,
    ];

    fn holds(order: IntCC, a: u32, b: u32) -> bool {
        let (signed_a, signed_b) = (a.cast_signed(), b.cast_signed());
        match order {
            IntCC::Equal => a == b,
            IntCC::NotEqual => a != b,
            IntCC::UnsignedLessThan => a < b,
            IntCC::UnsignedLessThanOrEqual => a <= b,
            IntCC::UnsignedGreaterThan => a > b,
            IntCC::UnsignedGreaterThanOrEqual => a >= b,
            IntCC::SignedLessThan => signed_a < signed_b,
            IntCC::SignedLessThanOrEqual => signed_a <= signed_b,
            IntCC::SignedGreaterThan => signed_a > signed_b,
            IntCC::SignedGreaterThanOrEqual => signed_a >= signed_b,
        }
    }

    /// Runs such a loop, or its first turns, and looks at two counts in each: that which is asked for, and another.
    fn run(start: u32, step: i32, order: IntCC, end: u32, other: (u32, i32), constants: &[u32]) {
        let Some(turns) = turns(start, step, order, end) else { return };
        let ranges = [Range::of(start, step, turns), Range::of(other.0, other.1, turns)];
        let about = format!("{start:#x} by {step} while {order} {end:#x}: {turns}, {ranges:x?}");
        let mut counts = [(start, step), other];
        for turn in 0..2000 {
            assert!(turn < turns, "{about}");
            for (range, (count, step)) in ranges.iter().zip(&mut counts) {
                if let Some(range) = range {
                    let number = range.start + turn * range.step;
                    assert!(range.bounds.high - range.bounds.low < ALL, "{about}");
                    assert_eq!(number.rem_euclid(ALL), i64::from(*count), "{about}");
                    let Bounds { low, high } = range.bounds;
                    assert!(low <= number && number <= high, "{about}: {number:x}");
                    assert!(*count <= range.bounds.most(), "{about}: {number:x}");
                    assert!(!range.bounds.are_unsigned() || number == i64::from(*count), "{about}");
                    for constant in constants {
                        if let Some(distance) = range.bounds.distance(*constant) {
                            let sum = i64::from(count.wrapping_add(*constant));
                            assert_eq!(number + distance, sum, "{about} and {constant:#x}");
                        }
                    }
                }
                *count = count.wrapping_add_signed(*step);
            }
            if !holds(order, counts[0].0, end) {
                if order == IntCC::NotEqual {
                    assert_eq!(turn + 1, turns, "{about}");
                }
                break;
            }
        }
    }

    fn near() -> impl Strategy<Value = u32> {
        (prop::sample::select(vec![0, 1 << 31, 1 << 16, 0xffff_f000, u32::MAX]), -40_i32..40)
            .prop_map(|(near, distance)| near.wrapping_add_signed(distance))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn counts_are_in_their_range(
            start in near(),
            step in -40_i32..40,
            large in -40_i32..40,
            times in prop::sample::select(vec![0, 1, 1 << 20, 1 << 26]),
            order in prop::sample::select(ORDERS.to_vec()),
            end in near(),
            other in (near(), -40_i32..40),
            constants in prop::collection::vec(near(), 4),
        ) {
            let long = step.wrapping_add(large.wrapping_mul(times));
            run(start, long, order, end, other, &constants);
            // In whole steps.
            let end = start.wrapping_add_signed(step.wrapping_mul(large));
            run(start, step, order, end, other, &constants);
        }
    }

    #[test]
    fn whole_steps_are_counted_up_to_the_end() {
        let counts = |start, step, end| turns(start, step, IntCC::NotEqual, end);
        assert_eq!(counts(0, 2, 2048), Some(1024));
        assert_eq!(counts(10, -5, 0), Some(2));
        assert_eq!(counts(0xffff_f000, 4, 0), Some(1024));
        assert_eq!(counts(0xffff_fff0, 4, 0xffff_fffc), Some(3));
        assert_eq!(counts(0x7fff_fff0, 8, 0x8000_0010), Some(4));
        for (start, step, end) in [(0, 2, 2047), (0, 0, 8), (8, 8, 8), (8, -8, 16), (0, 4, 0)] {
            assert_eq!(counts(start, step, end), None, "{start} {step} {end}");
        }
    }

    #[test]
    fn counts_that_are_compared_by_order_must_not_wrap_around() {
        use IntCC::{
            SignedGreaterThanOrEqual, SignedLessThan, UnsignedGreaterThan, UnsignedLessThan,
            UnsignedLessThanOrEqual,
        };
        assert_eq!(turns(0, 3, UnsignedLessThan, 2048), Some(683));
        assert_eq!(turns(0, 3, UnsignedLessThan, 2049), Some(683));
        assert_eq!(turns(0, 3, UnsignedLessThanOrEqual, 2049), Some(684));
        assert_eq!(turns(9, 3, UnsignedLessThan, 4), Some(1));
        assert_eq!(turns(9, -1, UnsignedGreaterThan, 0), Some(9));
        assert_eq!(turns(u32::MAX, 1, SignedLessThan, 8), Some(9));
        assert_eq!(turns(9, -1, SignedGreaterThanOrEqual, 0), Some(10));
        assert_eq!(turns(0, 1, UnsignedLessThan, u32::MAX), Some(0xffff_ffff));
        for (start, step, order, end) in [
            (0, 1, UnsignedLessThanOrEqual, u32::MAX),
            (0, 2, UnsignedLessThan, u32::MAX),
            (9, -2, UnsignedGreaterThan, 0),
            (0, 1, UnsignedGreaterThan, 9),
            (9, -1, UnsignedLessThan, 20),
            (0, 0, UnsignedLessThan, 20),
            (0, 2, SignedLessThan, 0x7fff_ffff),
            (0, 1, IntCC::Equal, 1),
        ] {
            assert_eq!(turns(start, step, order, end), None, "{start} {step} {order} {end}");
        }
    }

    #[test]
    fn other_counts_go_as_far_as_there_are_turns() {
        let range = |start, step, end, low, high| {
            Some(Range { start, step, end, bounds: Bounds { low, high } })
        };
        assert_eq!(Range::of(8, 4, 3), range(8, 4, 20, 8, 16));
        assert_eq!(Range::of(0xffff_f000, 4, 1024), range(-0x1000, 4, 0, -0x1000, -4));
        assert_eq!(Range::of(8, -4, 4), range(8, -4, -8, -4, 8));
        assert_eq!(Range::of(8, 0, 4), range(8, 0, 8, 8, 8));
        assert!(Range::of(8, 1 << 20, 1 << 12).is_some());
        assert_eq!(Range::of(8, 1 << 20, (1 << 12) + 1), None);
        assert_eq!(Range::of(8, i32::MIN, i64::MAX), None);
    }

    #[test]
    fn a_constant_is_added_where_all_sums_are_on_one_side() {
        let range = Range::of(0xffff_f000, 4, 1024).unwrap().bounds;
        assert_eq!(range.distance(0xecf0), Some(0xecf0));
        assert_eq!(range.distance(0x1000), Some(0x1000));
        assert_eq!(range.distance(0xfff), None);
        assert_eq!(range.distance(4), None);
        // All of them are at the upper end.
        assert_eq!(range.distance(3), Some(ALL + 3));
        assert_eq!(range.distance(0), Some(ALL));
        let range = Range::of(8, 1, 8).unwrap().bounds;
        assert_eq!(range.distance(0), Some(0));
        assert_eq!(range.distance(0xffff_fff8), Some(-8));
        assert_eq!(range.distance(0xffff_fff7), None);
        assert_eq!(range.distance(0xffff_fff0), Some(0xffff_fff0));
        assert_eq!(range.distance(0xffff_fff1), None);
        let range = Bounds::up_to(100);
        assert_eq!(range.distance(0xea0), Some(0xea0));
        assert_eq!(range.distance(0xffff_ff9b), Some(0xffff_ff9b));
        assert_eq!(range.distance(0xffff_ff9c), None);
        // Of any number, nothing is known.
        assert_eq!(Bounds::up_to(u32::MAX).distance(0), Some(0));
        assert_eq!(Bounds::up_to(u32::MAX).distance(1), None);
    }
}
