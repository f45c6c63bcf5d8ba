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

use super::integer::Half;
use super::shuffle::EveryOther;
use super::{Translator, without_lanes};

impl Translator<'_, '_> {
    /// `i16x8.add_sat_s`
    pub(super) fn add_saturated(&mut self) {
        let (a, b) = self.pop2_vectors(types::I16X8);
        let products = match self.is_x86() {
            true => Products::added(&self.builder.func.dfg, a, b),
            false => None,
        };
        let value = match products {
            Some(products) if self.env.isa.has_x86_pmaddubsw_lowering() => {
                self.builder.ins().x86_pmaddubsw(products.signed, products.unsigned)
            }
            Some(products) => {
                let halves =
                    [(Half::LowSigned, Half::LowUnsigned), (Half::HighSigned, Half::HighUnsigned)];
                // In lanes that are wide enough for any sum.
                let [low, high] = halves.map(|(signed, unsigned)| {
                    let a = self.widen(products.signed, signed);
                    let b = self.widen(products.unsigned, unsigned);
                    self.dot_product(a, b)
                });
                self.builder.ins().snarrow(low, high)
            }
            None => self.builder.ins().sadd_sat(a, b),
        };
        self.push_vector(value);
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
        let (a, first) = EveryOther::of_value(dfg, a)?;
        let (b, second) = EveryOther::of_value(dfg, b)?;
        let are_words = [first, second].iter().all(|it| it.wide == types::I32X4);
        if a != b || !are_words || first == second {
            return None;
        }
        let low = Self::of(dfg, a[0], Opcode::SwidenLow, Opcode::UwidenLow)?;
        let high = Self::of(dfg, a[1], Opcode::SwidenHigh, Opcode::UwidenHigh)?;
        (low == high).then_some(low)
    }

    /// The halves of which these are products, such that both are widened in the way that is given.
    fn of(dfg: &DataFlowGraph, value: Value, signed: Opcode, unsigned: Opcode) -> Option<Self> {
        let InstructionData::Binary { opcode: Opcode::Imul, args: [a, b] } =
            dfg.insts[dfg.value_def(value).inst()?]
        else {
            return None;
        };
        match [widened(dfg, a)?, widened(dfg, b)?] {
            [(x, a), (y, b)] | [(y, b), (x, a)] if (x, y) == (signed, unsigned) => {
                Some(Self { signed: a, unsigned: b })
            }
            _ => None,
        }
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
