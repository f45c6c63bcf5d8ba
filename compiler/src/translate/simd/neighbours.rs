//! Unsigned bytes times signed ones, and the sums of each two of the products, saturated: what
//! x86-64 has one instruction for since SSSE3, and WebAssembly ten. The baseline has one for words of
//! 16 bits, whose sums have 32, and one that narrows them.
//!
//! ```text
//! low  = i16x8.mul(extend_low_s(signed), extend_low_u(unsigned)), and high alike
//! i16x8.add_sat_s(the even lanes of low and high, the odd lanes of low and high)
//! ```
//!
//! Neural networks whose weights have 8 bits do little else, and this is how compilers for WebAssembly write it.

use cranelift_codegen::ir::{
    DataFlowGraph, InstBuilder as _, InstructionData, Opcode, Value, types,
};

use super::Translator;
use super::integer::Half;
use super::shuffle::{Pattern, without_lanes};
use crate::constants::integer;

/// The even ones of the lanes of 16 bits of two operands.
const EVEN: Pattern = [0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29];

/// The odd ones.
const ODD: Pattern = [2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31];

impl Translator<'_, '_> {
    /// `i16x8.add_sat_s`
    pub(super) fn add_saturated(&mut self) {
        let (a, b) = self.pop2_vectors(types::I16X8);
        let products = Products::added(&self.builder.func.dfg, a, b).filter(|_| self.is_x86());
        let value = match products {
            Some(products) if self.env.isa.has_x86_pmaddubsw_lowering() => {
                self.builder.ins().x86_pmaddubsw(products.signed, products.unsigned)
            }
            Some(products) => {
                let [low, high] =
                    [Half::LowSigned, Half::HighSigned].map(|half| self.sums(products, half));
                self.builder.ins().snarrow(low, high)
            }
            None => self.builder.ins().sadd_sat(a, b),
        };
        self.push_vector(value);
    }

    /// The sums of the products of a half, in lanes that are wide enough for any.
    fn sums(&mut self, products: Products, signed: Half) -> Value {
        let unsigned = match signed {
            Half::LowSigned | Half::LowUnsigned => Half::LowUnsigned,
            Half::HighSigned | Half::HighUnsigned => Half::HighUnsigned,
        };
        let (a, b) = (self.widen(products.signed, signed), self.widen(products.unsigned, unsigned));
        self.dot_product(a, b)
    }
}

/// Two vectors of bytes, each lane of which is multiplied by that of the other.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Products {
    signed: Value,
    unsigned: Value,
}

impl Products {
    /// Those of which each two neighbours are added, if these are the summands.
    fn added(dfg: &DataFlowGraph, a: Value, b: Value) -> Option<Self> {
        let (a, first) = every_other(dfg, a)?;
        let (b, second) = every_other(dfg, b)?;
        if a != b || first == second {
            return None;
        }
        let low = Self::of(dfg, a[0], Opcode::SwidenLow, Opcode::UwidenLow)?;
        let high = Self::of(dfg, a[1], Opcode::SwidenHigh, Opcode::UwidenHigh)?;
        (low == high).then_some(low)
    }

    /// The halves of which these are products, such that both are widened in the way that is given.
    fn of(dfg: &DataFlowGraph, value: Value, signed: Opcode, unsigned: Opcode) -> Option<Self> {
        let (Opcode::Imul, [a, b]) = binary(dfg, value)? else { return None };
        let (a, b) = (widened(dfg, a)?, widened(dfg, b)?);
        let ((_, a), (_, b)) =
            match (a.0 == signed && b.0 == unsigned, a.0 == unsigned && b.0 == signed) {
                (true, _) => (a, b),
                (_, true) => (b, a),
                _ => return None,
            };
        Some(Self { signed: a, unsigned: b })
    }
}

/// Whether a lane is the first or the second of two neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Even,
    Odd,
}

/// The vectors of which a value has every other lane of 16 bits, as [`Translator::shuffle`] writes that.
fn every_other(dfg: &DataFlowGraph, value: Value) -> Option<([Value; 2], Lane)> {
    let (args, lane) = match dfg.insts[dfg.value_def(without_lanes(dfg, value)).inst()?] {
        InstructionData::Shuffle { args, imm, .. } => {
            let pattern = Pattern::try_from(dfg.immediates.get(imm)?.as_slice()).ok()?;
            let lane = match pattern {
                EVEN => Lane::Even,
                ODD => Lane::Odd,
                _ => return None,
            };
            (args, lane)
        }
        InstructionData::Binary { opcode: Opcode::Snarrow, args } => {
            let [(a, lane), (b, other)] = [half(dfg, args[0])?, half(dfg, args[1])?];
            ([a, b], (lane == other).then_some(lane)?)
        }
        _ => return None,
    };
    Some((args.map(|arg| without_lanes(dfg, arg)), lane))
}

/// A vector of which a value has the lower or the upper half of each lane of 32 bits, as a number with a sign.
fn half(dfg: &DataFlowGraph, value: Value) -> Option<(Value, Lane)> {
    let by_half = |value: Value| {
        let (opcode, [of, count]) = binary(dfg, value)?;
        let is_half = dfg.value_type(value) == types::I32X4 && integer(dfg, count) == Some(16);
        is_half.then_some((opcode, of))
    };
    let (Opcode::Sshr, shifted) = by_half(value)? else { return None };
    match by_half(shifted) {
        Some((Opcode::Ishl, of)) => Some((of, Lane::Even)),
        _ => Some((shifted, Lane::Odd)),
    }
}

fn binary(dfg: &DataFlowGraph, value: Value) -> Option<(Opcode, [Value; 2])> {
    match dfg.insts[dfg.value_def(dfg.resolve_aliases(value)).inst()?] {
        InstructionData::Binary { opcode, args } => Some((opcode, args)),
        _ => None,
    }
}

/// A half of which vector of bytes was widened, and how.
fn widened(dfg: &DataFlowGraph, value: Value) -> Option<(Opcode, Value)> {
    match dfg.insts[dfg.value_def(without_lanes(dfg, value)).inst()?] {
        InstructionData::Unary { opcode, arg } if dfg.value_type(arg) == types::I8X16 => {
            Some((opcode, dfg.resolve_aliases(arg)))
        }
        _ => None,
    }
}
