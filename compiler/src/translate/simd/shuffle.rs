//! Moving bytes within and between vectors.
//!
//! Since SSSE3 (2006), x86-64 has one instruction for any permutation. The baseline
//! only has some with a fixed pattern. Others go through memory there: a vector is
//! stored, and its bytes are loaded from where the pattern finds them.
//!
//! Compilers for WebAssembly that know only the baseline write a permutation as several; where there is one instruction for all, it is one again.

use cranelift_codegen::ir::{
    DataFlowGraph, InstBuilder as _, InstructionData, MemFlagsData, Opcode, StackSlotData,
    StackSlotKind, Type, Value, types,
};
use target_lexicon::Architecture;

use super::{Translator, without_lanes};
use crate::constants::integer;

/// Which byte of the two operands, one after the other, each byte of the result is.
pub(super) type Pattern = [u8; 16];

/// Each byte of the first operand is where it was.
const STAYS: Pattern = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

impl Translator<'_, '_> {
    /// The bytes of `a` and `b` that a constant pattern chooses.
    pub(super) fn shuffle(&mut self, a: Value, b: Value, pattern: Pattern) -> Value {
        let (a, b, pattern) = self.with_earlier(a, b, pattern);
        if self.has_byte_permutation() || has_instruction(&pattern) {
            return self.shuffle_at_once(a, b, pattern);
        }
        if let Some([low, high]) = halves(&pattern) {
            let value = self.shuffle_at_once(a, a, low);
            return self.shuffle_at_once(value, value, high);
        }
        if let Some(every_other) = EveryOther::of(&pattern) {
            return self.narrow_every_other(a, b, every_other);
        }
        if let Some((ty, lane)) = splatted(&pattern) {
            let operand = self.with_lanes(ty, a);
            let value = self.builder.ins().extractlane(operand, lane);
            let value = self.builder.ins().splat(ty, value);
            return self.with_lanes(types::I8X16, value);
        }
        self.shuffle_in_memory(a, b, &pattern)
    }

    /// Whether the bytes of one vector are permuted in one or two instructions, none of which needs memory or another register for the pattern.
    pub(super) fn permutes_well(&self, pattern: &Pattern) -> bool {
        match self.env.isa.triple().architecture {
            Architecture::X86_64 => {
                self.has_byte_permutation() || has_instruction(pattern) || halves(pattern).is_some()
            }
            Architecture::Aarch64(_) => reverses(pattern),
            _ => false,
        }
    }

    fn shuffle_at_once(&mut self, a: Value, b: Value, pattern: Pattern) -> Value {
        let mask = self.builder.func.dfg.immediates.push(pattern.as_slice().into());
        self.builder.ins().shuffle(a, b, mask)
    }

    /// Lanes twice as wide, which saturate where they are narrowed, but nothing is there to saturate.
    fn narrow_every_other(&mut self, a: Value, b: Value, every_other: EveryOther) -> Value {
        let EveryOther { wide, begins_with } = every_other;
        let [a, b] = [a, b].map(|operand| {
            let operand = self.with_lanes(wide, operand);
            let half = i64::from(wide.lane_bits() / 2);
            match (wide, begins_with) {
                (types::I16X8, 0) => {
                    let low = self.vector_constant(
                        wide,
                        std::array::from_fn(|at| if at % 2 == 0 { 0xff } else { 0 }),
                    );
                    self.builder.ins().band(operand, low)
                }
                (types::I16X8, _) => self.builder.ins().ushr_imm_u(operand, half),
                (_, 0) => {
                    let high = self.builder.ins().ishl_imm_u(operand, half);
                    self.builder.ins().sshr_imm_u(high, half)
                }
                _ => self.builder.ins().sshr_imm_u(operand, half),
            }
        });
        let value = match wide {
            types::I16X8 => self.builder.ins().unarrow(a, b),
            _ => self.builder.ins().snarrow(a, b),
        };
        self.with_lanes(types::I8X16, value)
    }

    /// The same bytes, of the operand that they are all of, or of what that was permuted from, if it takes one instruction as well.
    fn with_earlier(&self, a: Value, b: Value, pattern: Pattern) -> (Value, Value, Pattern) {
        let dfg = &self.builder.func.dfg;
        let (a, b, pattern) = of_one(dfg.resolve_aliases(a), dfg.resolve_aliases(b), pattern);
        if a == b
            && self.is_x86()
            && let Some(inst) = dfg.value_def(a).inst()
            && let InstructionData::Shuffle { args: [first, second], imm, .. } = dfg.insts[inst]
            && let Ok(earlier) = Pattern::try_from(dfg.immediates[imm].as_slice())
        {
            let both = pattern.map(|byte| earlier[usize::from(byte % 16)]);
            let (first, second, both) = of_one(first, second, both);
            let is_one = first == second && self.has_byte_permutation();
            if is_one || has_instruction(&both) {
                return (first, second, both);
            }
        }
        (a, b, pattern)
    }

    /// The bytes of `a` that the bytes of `indices` choose; zero for those above 15.
    pub(super) fn swizzle(&mut self, a: Value, indices: Value) -> Value {
        if self.has_byte_permutation() {
            self.builder.ins().swizzle(a, indices)
        } else {
            self.swizzle_in_memory(a, indices)
        }
    }

    fn has_byte_permutation(&self) -> bool {
        !self.is_x86() || self.env.isa.has_x86_pshufb_lowering()
    }

    fn shuffle_in_memory(&mut self, a: Value, b: Value, pattern: &Pattern) -> Value {
        if let Some(mask) = blend(pattern) {
            let mask = self.vector_constant(types::I8X16, mask);
            return self.builder.ins().bitselect(mask, b, a);
        }
        let source = self.scratch(32);
        self.builder.ins().store(scratch_flags(), a, source, 0);
        self.builder.ins().store(scratch_flags(), b, source, 16);
        let pieces = pieces(pattern);
        if let [Piece { from, len: 16, .. }] = pieces[..] {
            let from = i32::from(from);
            return self.builder.ins().load(types::I8X16, scratch_flags(), source, from);
        }
        let result = self.scratch(16);
        for Piece { from, to, len } in pieces {
            let ty = match len {
                8 => types::I64,
                4 => types::I32,
                2 => types::I16,
                _ => types::I8,
            };
            let bytes = self.builder.ins().load(ty, scratch_flags(), source, i32::from(from));
            self.builder.ins().store(scratch_flags(), bytes, result, i32::from(to));
        }
        self.builder.ins().load(types::I8X16, scratch_flags(), result, 0)
    }

    fn swizzle_in_memory(&mut self, a: Value, indices: Value) -> Value {
        // Byte 16 of the source is zero, and what is beyond becomes 16.
        let source = self.scratch(32);
        let zero = self.vector_constant(types::I8X16, [0; 16]);
        self.builder.ins().store(scratch_flags(), a, source, 0);
        self.builder.ins().store(scratch_flags(), zero, source, 16);
        let sixteen = self.vector_constant(types::I8X16, [16; 16]);
        let indices = self.builder.ins().umin(indices, sixteen);
        let result = self.scratch(16);
        self.builder.ins().store(scratch_flags(), indices, result, 0);
        for place in 0..16 {
            let flags = scratch_flags();
            let index = self.builder.ins().uload8(types::I64, flags, result, place);
            let address = self.builder.ins().iadd(source, index);
            let byte = self.builder.ins().load(types::I8, flags, address, 0);
            self.builder.ins().store(flags, byte, result, place);
        }
        self.builder.ins().load(types::I8X16, scratch_flags(), result, 0)
    }

    /// The address of some bytes on the stack that nothing else uses.
    fn scratch(&mut self, size: u32) -> Value {
        let slot = StackSlotData::new(StackSlotKind::ExplicitSlot, size, 4);
        let slot = self.builder.create_sized_stack_slot(slot);
        self.builder.ins().stack_addr(types::I64, slot, 0)
    }
}

/// The operands of a pattern: twice the same, if it leaves the other one out.
fn of_one(a: Value, b: Value, pattern: Pattern) -> (Value, Value, Pattern) {
    if pattern.iter().all(|byte| *byte < 16) {
        (a, a, pattern)
    } else if pattern.iter().all(|byte| *byte >= 16) {
        (b, b, pattern.map(|byte| byte - 16))
    } else {
        (a, b, pattern)
    }
}

/// Flags of accesses to the stack, not all of which are aligned.
fn scratch_flags() -> MemFlagsData {
    MemFlagsData::new().with_notrap()
}

/// A mask of the bytes that are of the second operand, if no byte moves.
fn blend(pattern: &Pattern) -> Option<[u8; 16]> {
    let stays = (0..).zip(pattern).all(|(place, byte)| byte % 16 == place);
    stays.then(|| pattern.map(|byte| if byte < 16 { 0 } else { 0xff }))
}

/// Bytes that lie side by side before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    from: u8,
    to: u8,
    len: u8,
}

/// Cuts a pattern into as few pieces of 16, 8, 4, 2 or 1 bytes as a greedy
/// walk finds.
fn pieces(pattern: &Pattern) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut rest = pattern.as_slice();
    while let Some(&from) = rest.first() {
        let run = (from..).zip(rest).take_while(|(wanted, found)| wanted == *found).count();
        let len: u8 = match run {
            16 => 16,
            8.. => 8,
            4.. => 4,
            2.. => 2,
            _ => 1,
        };
        // At most sixteen bytes were there.
        let to = 16 - u8::try_from(rest.len()).unwrap_or(16);
        pieces.push(Piece { from, to, len });
        rest = &rest[usize::from(len)..];
    }
    pieces
}

/// Whether the code generator has an instruction of x86-64's baseline for a
/// pattern. It is enough to know those that are common and certain.
fn has_instruction(pattern: &Pattern) -> bool {
    is_interleaving(pattern)
        || words(pattern).is_some_and(|words| is_word_shuffle(&words))
        || halves(pattern).is_some_and(|halves| halves.contains(&STAYS))
}

/// `pshuflw`, and then `pshufhw`, if 16-bit words of the first operand go nowhere else than in their half of it.
fn halves(pattern: &Pattern) -> Option<[Pattern; 2]> {
    let stays = |(place, word): (usize, &[u8])| {
        word[0] % 2 == 0 && word[1] == word[0] + 1 && usize::from(word[0] / 8) == place / 4
    };
    if !pattern.chunks_exact(2).enumerate().all(stays) {
        return None;
    }
    let (mut low, mut high) = (STAYS, STAYS);
    low[..8].copy_from_slice(&pattern[..8]);
    high[8..].copy_from_slice(&pattern[8..]);
    Some([low, high])
}

/// Every other lane of both operands: bytes of words of 16 bits, or those of words of 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EveryOther {
    pub(super) wide: Type,
    /// Lane 0 or 1.
    pub(super) begins_with: u8,
}

impl EveryOther {
    fn of(pattern: &Pattern) -> Option<Self> {
        [(types::I16X8, 1), (types::I32X4, 2)].into_iter().find_map(|(wide, size)| {
            // From lane 2 on, there would not be enough.
            let begins_with = pattern[0] / size;
            let wanted = |place: u8| (place / size * 2 + begins_with) * size + place % size;
            let is_so = (0..).zip(pattern).all(|(place, byte)| *byte == wanted(place));
            is_so.then_some(Self { wide, begins_with })
        })
    }

    /// The operands of which a value has every other lane, if that is known: of any, where there is an instruction for all patterns; of words of 32
    /// bits where not.
    pub(super) fn of_value(dfg: &DataFlowGraph, value: Value) -> Option<([Value; 2], Self)> {
        let (args, every_other) =
            match dfg.insts[dfg.value_def(without_lanes(dfg, value)).inst()?] {
                InstructionData::Shuffle { args, imm, .. } => {
                    let pattern = Pattern::try_from(dfg.immediates.get(imm)?.as_slice()).ok()?;
                    (args, Self::of(&pattern)?)
                }
                InstructionData::Binary { opcode: Opcode::Snarrow, args } => {
                    let [(a, begins_with), (b, other)] = [half(dfg, args[0])?, half(dfg, args[1])?];
                    let every_other = Self { wide: types::I32X4, begins_with };
                    ([a, b], (begins_with == other).then_some(every_other)?)
                }
                _ => return None,
            };
        Some((args.map(|arg| without_lanes(dfg, arg)), every_other))
    }
}

/// A vector of which a value has one half of each word of 32 bits, as a number with a sign, and which of both, as [`Translator::narrow_every_other`]
/// writes it.
fn half(dfg: &DataFlowGraph, value: Value) -> Option<(Value, u8)> {
    let by_half = |value: Value| {
        let definition = dfg.value_def(dfg.resolve_aliases(value)).inst()?;
        let InstructionData::Binary { opcode, args: [of, count] } = dfg.insts[definition] else {
            return None;
        };
        let is_half = dfg.value_type(value) == types::I32X4 && integer(dfg, count) == Some(16);
        is_half.then_some((opcode, of))
    };
    let (Opcode::Sshr, shifted) = by_half(value)? else { return None };
    match by_half(shifted) {
        Some((Opcode::Ishl, of)) => Some((of, 0)),
        _ => Some((shifted, 1)),
    }
}

/// The lane of 8 or 16 bits of the first operand that all of the result are.
fn splatted(pattern: &Pattern) -> Option<(Type, u8)> {
    let [first, second, ..] = *pattern;
    if pattern.iter().all(|byte| *byte == first) {
        return Some((types::I8X16, first));
    }
    let is_lane = first % 2 == 0 && second == first + 1;
    let same = pattern.chunks_exact(2).all(|word| word == [first, second]);
    (is_lane && same).then_some((types::I16X8, first / 2))
}

/// AArch64's `rev16`, `rev32` and `rev64`, of the two halves of each lane.
fn reverses(pattern: &Pattern) -> bool {
    [1, 2, 4].into_iter().any(|half| (0..).zip(pattern).all(|(place, byte)| *byte == place ^ half))
}

/// `punpckl` and `punpckh`: the low or high halves of both operands, their
/// pieces of 1, 2, 4 or 8 bytes in turns.
fn is_interleaving(pattern: &Pattern) -> bool {
    [1, 2, 4, 8].into_iter().any(|size: u8| {
        [0, 8].into_iter().any(|half| {
            (0..).zip(pattern).all(|(place, byte)| {
                let (piece, inside) = (place / size, place % size);
                let operand = piece % 2 * 16;
                *byte == operand + half + piece / 2 * size + inside
            })
        })
    })
}

/// The pattern in terms of 32-bit words, if it keeps those together.
fn words(pattern: &Pattern) -> Option<[u8; 4]> {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(pattern.chunks_exact(4)) {
        let first = bytes[0];
        let together = (first..).zip(bytes).all(|(wanted, found)| wanted == *found);
        if first % 4 != 0 || !together {
            return None;
        }
        *word = first / 4;
    }
    Some(words)
}

/// `pshufd`: all from one operand; `shufps`: two from each.
fn is_word_shuffle(words: &[u8; 4]) -> bool {
    let [a, b, c, d] = words.map(|word| word / 4);
    a == b && c == d
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(pattern: &Pattern) -> Pattern {
        let mut result = [0xff; 16];
        for Piece { from, to, len } in pieces(pattern) {
            for inside in 0..len {
                result[usize::from(to + inside)] = from + inside;
            }
        }
        result
    }

    #[test]
    fn pieces_make_the_pattern() {
        let rotation: Pattern = std::array::from_fn(|place| u8::try_from(place + 5).unwrap());
        assert_eq!(pieces(&rotation), [Piece { from: 5, to: 0, len: 16 }]);
        let reversed: Pattern = std::array::from_fn(|place| u8::try_from(15 - place).unwrap());
        assert_eq!(pieces(&reversed).len(), 16);
        let mixed = [0, 1, 2, 3, 4, 5, 6, 7, 31, 31, 30, 31, 8, 9, 10, 7];
        assert_eq!(pieces(&mixed).len(), 7);
        for pattern in [rotation, reversed, mixed] {
            assert_eq!(apply(&pattern), pattern);
        }
    }

    #[test]
    fn what_is_left_out_is_no_operand() {
        let (a, b) = (Value::from_u32(1), Value::from_u32(2));
        assert_eq!(of_one(a, b, [7; 16]), (a, a, [7; 16]));
        assert_eq!(of_one(a, b, [23; 16]), (b, b, [7; 16]));
        let both = [0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23];
        assert_eq!(of_one(a, b, both), (a, b, both));
    }

    #[test]
    fn halves_of_lanes_that_change_places() {
        assert!(reverses(&[1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14]));
        assert!(reverses(&[4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11]));
        assert!(!reverses(&[8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7]));
        assert!(!reverses(&[3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14]));
    }

    #[test]
    fn patterns_of_the_baseline() {
        assert!(has_instruction(&[0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23]));
        assert!(has_instruction(&[8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31]));
        assert!(has_instruction(&[4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11]));
        assert!(has_instruction(&[0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27]));
        assert!(!has_instruction(&[0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 24, 25, 26, 27]));
        assert!(!has_instruction(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]));
        assert!(!has_instruction(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
        assert!(has_instruction(&[2, 3, 0, 1, 6, 7, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15]));
        assert!(has_instruction(&[0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 8, 9, 8, 9, 8, 9]));
        assert!(!has_instruction(&[2, 3, 0, 1, 6, 7, 8, 9, 8, 9, 10, 11, 12, 13, 14, 15]));
        assert!(!has_instruction(&[3, 2, 0, 1, 6, 7, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15]));
        let rotated = [2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13];
        assert!(!has_instruction(&rotated) && halves(&rotated).is_some());
    }
}
