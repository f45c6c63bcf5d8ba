//! Recognises loops that fill memory, a few bytes in each turn.
//!
//! Compilers to wasm make `memory.fill` of such loops, unless a program says that its stores are volatile. Programs that clear secrets
//! do, so that no compiler leaves that out; and often the pointer is volatile as well, and is loaded again
//! for each byte. Wasm has no such word. What counts is what is in memory when the loop is left, or traps.
//!
//! One turn is followed symbolically, up to the only branch, which leads back. It may add constants to locals, and store one and
//! the same byte to addresses that lie next to each other, where the turn before has ended. Addresses may
//! depend on one cell of memory. Anything else, and nothing is known of the loop.
//!
//! As long as those addresses are inside the memory, do not wrap around, and are not the cell's, many turns are one fill.
//! [`crate::translate`] asks for that before the loop, and leaves the last turn to it: so what
//! locals are behind it, and how it ends, are the loop's own.

use wasmparser::{BinaryReader, BlockType, MemArg, MemArgTarget, Operator, OperatorsReader};

/// A loop with more operators is not looked at. With eight stores in a turn, each with a load, it has some 75.
const MOST_OPERATORS: usize = 120;

/// A sum of more is not followed.
const MOST_TERMS: usize = 4;

/// What a loop does in a turn, as far as another turn follows.
#[derive(Clone, Debug)]
pub(crate) struct Filling {
    /// The only memory that it accesses.
    pub(crate) memory: u32,
    /// The cell whose content addresses may depend on.
    pub(crate) cell: Option<Cell>,
    /// The operand of the store to the lowest address, and the constant of the instruction. In each turn it is `stride` more.
    pub(crate) first: Sum,
    pub(crate) offset: u32,
    /// How many bytes a turn stores, from there on.
    pub(crate) stride: u32,
    /// What it stores.
    pub(crate) byte: Byte,
    /// So many turns are followed by another: this, shifted to the right.
    pub(crate) turns: Sum,
    pub(crate) shift: u32,
    /// The locals that depend on the turn, and what each adds to them.
    pub(crate) steps: Vec<(u32, u32)>,
}

/// Four bytes that each turn loads, before it stores anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) index: Sum,
    pub(crate) memarg: MemArg,
    /// Where in the wasm it is loaded first.
    pub(crate) place: u64,
}

/// The low eight bits of something that is the same in all turns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Byte {
    Constant(u8),
    Sum(Sum),
}

/// Something that is added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Term {
    /// What a local is when a turn begins.
    Local(u32),
    /// What the cell holds.
    Cell,
}

/// A sum modulo 2^32, of terms with factors, none of which is zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) terms: Vec<(Term, u32)>,
    pub(crate) constant: u32,
}

impl Filling {
    /// The locals that anything here depends on. Bodies are valid up to the loop; of which type these are is not known.
    pub(crate) fn locals(&self) -> impl Iterator<Item = u32> {
        let byte = match &self.byte {
            Byte::Constant(_) => None,
            Byte::Sum(sum) => Some(sum),
        };
        let cell = self.cell.as_ref().map(|cell| &cell.index);
        let sums = [Some(&self.first), Some(&self.turns), byte, cell].into_iter().flatten();
        let of_sums = sums.flat_map(|sum| &sum.terms).filter_map(|(term, _)| match term {
            Term::Local(local) => Some(*local),
            Term::Cell => None,
        });
        of_sums.chain(self.steps.iter().map(|(local, _)| *local))
    }
}

/// What the loop does that a body has at this place, where the operator `loop` is. It need not be valid behind that.
pub(crate) fn recognise(body: BinaryReader<'_>) -> Option<Filling> {
    let mut operators = OperatorsReader::new(body);
    let Ok(Operator::Loop { blockty: BlockType::Empty }) = operators.read() else { return None };
    let mut turn = Turn::default();
    for _ in 0..MOST_OPERATORS {
        let (operator, place) = operators.read_with_offset().ok()?;
        if let Operator::BrIf { relative_depth: 0 } = operator {
            let last = operators.read().ok()?;
            return matches!(last, Operator::End).then(|| turn.filling())?;
        }
        turn.follow(&operator, place)?;
    }
    None
}

/// A value that a turn computes.
#[derive(Clone, Debug)]
enum Value {
    Sum(Sum),
    Wide(u64),
    /// Whether this is not zero.
    Other(Sum),
}

impl Sum {
    fn constant(constant: u32) -> Self {
        Self { terms: Vec::new(), constant }
    }

    fn term(term: Term) -> Self {
        Self { terms: vec![(term, 1)], constant: 0 }
    }

    /// The sum of this and so many times another.
    fn add(mut self, other: &Self, times: u32) -> Option<Self> {
        for (term, factor) in &other.terms {
            let factor = factor.wrapping_mul(times);
            match self.terms.iter_mut().find(|(known, _)| known == term) {
                Some((_, known)) => *known = known.wrapping_add(factor),
                None => self.terms.push((*term, factor)),
            }
        }
        self.terms.retain(|(_, factor)| *factor != 0);
        self.constant = self.constant.wrapping_add(other.constant.wrapping_mul(times));
        (self.terms.len() <= MOST_TERMS).then_some(self)
    }

    /// How much more this is than another, if that is known.
    fn beyond(&self, other: &Self) -> Option<u32> {
        let difference = self.clone().add(other, MINUS_ONE)?;
        difference.terms.is_empty().then_some(difference.constant)
    }

    fn has_cell(&self) -> bool {
        self.terms.iter().any(|(term, _)| *term == Term::Cell)
    }
}

/// As a factor.
pub(crate) const MINUS_ONE: u32 = u32::MAX;

/// A store of some bytes, all of which are the same.
#[derive(Debug)]
struct Store {
    index: Sum,
    memory: u32,
    offset: u32,
    size: u8,
    byte: Byte,
}

/// A turn of a loop up to one of its operators.
#[derive(Debug, Default)]
struct Turn {
    stack: Vec<Value>,
    /// The locals that it has assigned.
    assigned: Vec<(u32, Value)>,
    /// Those that it has read before.
    read: Vec<u32>,
    cell: Option<Cell>,
    stores: Vec<Store>,
}

impl Turn {
    /// Follows an operator; `None` if it is none that such a loop has.
    fn follow(&mut self, operator: &Operator<'_>, place: u64) -> Option<()> {
        let value = match *operator {
            Operator::LocalGet { local_index } => self.local(local_index),
            Operator::LocalSet { local_index } => {
                let value = self.stack.pop()?;
                self.assign(local_index, value);
                return Some(());
            }
            Operator::LocalTee { local_index } => {
                let value = self.stack.last()?.clone();
                self.assign(local_index, value);
                return Some(());
            }
            Operator::I32Const { value } => Value::Sum(Sum::constant(value.cast_unsigned())),
            Operator::I64Const { value } => Value::Wide(value.cast_unsigned()),
            Operator::I32Add => Value::Sum(self.added(1)?),
            Operator::I32Sub => Value::Sum(self.added(MINUS_ONE)?),
            Operator::I32Ne => Value::Other(self.added(MINUS_ONE)?),
            Operator::I32Load { memarg } => {
                self.load(memarg, place)?;
                Value::Sum(Sum::term(Term::Cell))
            }
            Operator::I32Store8 { memarg } | Operator::I64Store8 { memarg } => {
                return self.store(&memarg, 1);
            }
            Operator::I32Store16 { memarg } | Operator::I64Store16 { memarg } => {
                return self.store(&memarg, 2);
            }
            Operator::I32Store { memarg } | Operator::I64Store32 { memarg } => {
                return self.store(&memarg, 4);
            }
            Operator::I64Store { memarg } => return self.store(&memarg, 8),
            _ => return None,
        };
        self.stack.push(value);
        Some(())
    }

    fn local(&mut self, local: u32) -> Value {
        if let Some((_, value)) = self.assigned.iter().find(|(known, _)| *known == local) {
            return value.clone();
        }
        if !self.read.contains(&local) {
            self.read.push(local);
        }
        Value::Sum(Sum::term(Term::Local(local)))
    }

    fn assign(&mut self, local: u32, value: Value) {
        match self.assigned.iter_mut().find(|(known, _)| *known == local) {
            Some((_, known)) => *known = value,
            None => self.assigned.push((local, value)),
        }
    }

    fn pop(&mut self) -> Option<Sum> {
        match self.stack.pop()? {
            Value::Sum(sum) => Some(sum),
            Value::Wide(_) | Value::Other(_) => None,
        }
    }

    /// The lower operand, and so many times the upper one.
    fn added(&mut self, times: u32) -> Option<Sum> {
        let other = self.pop()?;
        self.pop()?.add(&other, times)
    }

    /// There is one cell. What the first load does, trap included, happens before anything else that can be seen.
    fn load(&mut self, memarg: MemArg, place: u64) -> Option<()> {
        let index = self.pop()?;
        match &self.cell {
            Some(known) => (known.index == index && known.memarg == memarg).then_some(()),
            None => {
                self.cell = Some(Cell { index, memarg, place });
                self.stores.is_empty().then_some(())
            }
        }
    }

    fn store(&mut self, memarg: &MemArg, size: u8) -> Option<()> {
        let byte = match self.stack.pop()? {
            Value::Sum(sum) if sum.terms.is_empty() => uniform(sum.constant.into(), size)?,
            Value::Sum(sum) if size == 1 => Byte::Sum(sum),
            Value::Wide(value) => uniform(value, size)?,
            Value::Sum(_) | Value::Other(_) => return None,
        };
        let index = self.pop()?;
        let (memory, offset) = (memory_of(memarg)?, u32::try_from(memarg.offset).ok()?);
        self.stores.push(Store { index, memory, offset, size, byte });
        Some(())
    }

    /// What the loop does, if the turn ends here with a branch that leads back if the top operand is not zero.
    fn filling(mut self) -> Option<Filling> {
        let (Value::Sum(asked) | Value::Other(asked)) = self.stack.pop()? else { return None };
        if !self.stack.is_empty() || asked.has_cell() {
            return None;
        }
        let steps = self.steps()?;
        let (turns, shift) = turns(asked, &steps)?;
        let (first, stride) = lowest(&self.stores)?;
        let is_same = |sum: &Sum| !sum.has_cell() && step(sum, &steps) == 0;
        let byte_is_same = match &first.byte {
            Byte::Constant(_) => true,
            Byte::Sum(sum) => is_same(sum),
        };
        let cell_is_same = self.cell.as_ref().is_none_or(|cell| {
            is_same(&cell.index) && memory_of(&cell.memarg) == Some(first.memory)
        });
        if !byte_is_same || !cell_is_same || step(&first.index, &steps) != stride {
            return None;
        }
        Some(Filling {
            memory: first.memory,
            cell: self.cell.clone(),
            first: first.index.clone(),
            offset: first.offset,
            stride,
            byte: first.byte.clone(),
            turns,
            shift,
            steps,
        })
    }

    /// What turns add to locals. One that is assigned before it is read is not among them: whatever it is when the last turn begins, it
    /// is assigned again.
    fn steps(&self) -> Option<Vec<(u32, u32)>> {
        let mut steps = Vec::new();
        for (local, value) in &self.assigned {
            if !self.read.contains(local) {
                continue;
            }
            let Value::Sum(sum) = value else { return None };
            match sum.beyond(&Sum::term(Term::Local(*local)))? {
                0 => {}
                step => steps.push((*local, step)),
            }
        }
        Some(steps)
    }
}

/// How much more a sum is in the next turn.
fn step(sum: &Sum, steps: &[(u32, u32)]) -> u32 {
    let of = |(term, factor): &(Term, u32)| {
        let step = steps.iter().find(|(local, _)| *term == Term::Local(*local));
        step.map_or(0, |(_, step)| step.wrapping_mul(*factor))
    };
    sum.terms.iter().map(of).fold(0, u32::wrapping_add)
}

/// For how many turns what is asked is not zero: a sum, and by how much it is shifted to the right.
///
/// If it gets less by `2^s` in each turn, it is not zero before `asked >> s` turns are over, and if it gets more, `-asked >> s`.
fn turns(asked: Sum, steps: &[(u32, u32)]) -> Option<(Sum, u32)> {
    let step = step(&asked, steps).cast_signed();
    let size = step.unsigned_abs();
    let turns = if step < 0 { asked } else { Sum::default().add(&asked, MINUS_ONE)? };
    size.is_power_of_two().then(|| (turns, size.trailing_zeros()))
}

/// The byte that a number is made of, in so many of its low bytes.
fn uniform(value: u64, size: u8) -> Option<Byte> {
    let bytes = value.to_le_bytes();
    let (first, rest) = bytes.get(..size.into())?.split_first()?;
    rest.iter().all(|byte| byte == first).then_some(Byte::Constant(*first))
}

/// Before validation, a memory may be anything.
fn memory_of(memarg: &MemArg) -> Option<u32> {
    match memarg.target {
        MemArgTarget::Memory(index) => Some(index),
        MemArgTarget::Array(_) => None,
    }
}

/// The store to the lowest address, and how many bytes a turn stores, if these lie together and are the same.
///
/// Operands of instructions wrap around at 2^32, and what is added to them by an instruction does not. Of the lowest store, let `i` be the operand and `o` the constant,
/// and `i + d` and `p` those of another one, where its first byte is `e` bytes further: `e = d + p - o`. If all `stride` bytes are inside the
/// memory, `i + o + stride <= 2^32`, and so `i + d <= i + d + p = i + o + e < 2^32`. With `d >= 0`, its operand does not wrap.
fn lowest(stores: &[Store]) -> Option<(&Store, u32)> {
    let any = stores.first()?;
    let mut placed = Vec::with_capacity(stores.len());
    for store in stores {
        let index = i64::from(store.index.beyond(&any.index)?.cast_signed());
        placed.push((index + i64::from(store.offset), index, store));
    }
    placed.sort_unstable_by_key(|(place, ..)| *place);
    let (start, least, first) = *placed.first()?;
    let mut end = start;
    for (place, index, store) in placed {
        let same = store.memory == first.memory && store.byte == first.byte;
        if place != end || index < least || !same {
            return None;
        }
        end += i64::from(store.size);
    }
    Some((first, u32::try_from(end - start).ok()?))
}

#[cfg(test)]
mod tests {
    use wasmparser::{Parser, Payload};

    use super::*;

    /// A loop of `sodium_memzero`, as clang compiles it: the pointer is in the frame, and four bytes are stored in a turn.
    const VOLATILE: &str = "
        local.get 2 i32.load offset=12 local.get 0 i32.add i32.const 0 i32.store8
        local.get 2 i32.load offset=12 local.get 0 i32.add i32.const 1 i32.add i32.const 0 i32.store8
        local.get 2 i32.load offset=12 local.get 0 i32.add i32.const 2 i32.add i32.const 0 i32.store8
        local.get 2 i32.load offset=12 local.get 0 i32.add i32.const 3 i32.add i32.const 0 i32.store8
        local.get 1 local.get 0 i32.const 4 i32.add local.tee 0 i32.ne br_if 0";

    /// Another one, with the pointer in a local. It counts down.
    const COUNTED: &str = "
        local.get 0 local.get 4 i32.store8 offset=8
        local.get 0 local.get 4 i32.store8 offset=9
        local.get 0 i32.const 2 i32.add local.set 0
        local.get 1 i32.const -1 i32.add local.tee 1 br_if 0";

    fn recognised(turn: &str) -> Option<Filling> {
        let wasm = wat::parse_str(format!(
            "(module (memory 1) (memory 1) (func (param i32 i32 i32 i32 i32 i64 i64) loop {turn} end))"
        ));
        let wasm = wasm.unwrap();
        let body = Parser::new(0).parse_all(&wasm).find_map(|payload| match payload.unwrap() {
            Payload::CodeSectionEntry(body) => Some(body),
            _ => None,
        });
        recognise(body?.get_binary_reader_for_operators().unwrap())
    }

    fn local(local: u32) -> (Term, u32) {
        (Term::Local(local), 1)
    }

    #[test]
    fn what_a_turn_does_is_known() {
        let filling = recognised(VOLATILE).unwrap();
        assert_eq!((filling.memory, filling.offset, filling.stride), (0, 0, 4));
        assert_eq!(filling.byte, Byte::Constant(0));
        let cell = filling.cell.as_ref().unwrap();
        assert_eq!((&cell.index.terms[..], cell.index.constant), (&[local(2)][..], 0));
        assert_eq!(cell.memarg.offset, 12);
        assert_eq!((filling.first.constant, filling.first.terms.len()), (0, 2));
        assert!(filling.first.terms.contains(&(Term::Cell, 1)));
        assert!(filling.first.terms.contains(&local(0)));
        // Of a number `n` of bytes in local 1, all but the last four: `n - 4 >> 2` turns.
        assert_eq!(filling.turns.constant, 4_u32.wrapping_neg());
        assert!(filling.turns.terms.contains(&local(1)));
        assert!(filling.turns.terms.contains(&(Term::Local(0), MINUS_ONE)));
        assert_eq!((filling.shift, &filling.steps[..]), (2, &[(0, 4)][..]));
        let mut locals: Vec<u32> = filling.locals().collect();
        locals.sort_unstable();
        locals.dedup();
        assert_eq!(locals, [0, 1, 2]);

        let filling = recognised(COUNTED).unwrap();
        assert!(filling.cell.is_none());
        assert_eq!((filling.offset, filling.stride), (8, 2));
        assert_eq!(filling.byte, Byte::Sum(Sum::term(Term::Local(4))));
        assert_eq!(
            filling.turns,
            Sum::term(Term::Local(1)).add(&Sum::constant(1), MINUS_ONE).unwrap()
        );
        assert_eq!((filling.shift, &filling.steps[..]), (0, &[(0, 2), (1, MINUS_ONE)][..]));
    }

    #[test]
    fn the_same_in_other_words_is_known() {
        for (from, to) in [
            ("i32.const 1 i32.add", "i32.const -1 i32.sub"),
            ("i32.const 3 i32.add", "local.tee 4 i32.const 3 i32.add"),
            ("i32.const 0 i32.store8", "i64.const 0 i64.store8"),
            ("i32.const 0 i32.store8", "i32.const 0x700 i32.store8"),
            ("local.get 2 i32.load", "local.get 2 local.get 3 i32.add i32.load"),
            // From behind, and of several sizes.
            ("i32.const 0 i32.store8", "i32.const 0 i32.store8 offset=100"),
            ("br_if 0", "local.tee 4 br_if 0"),
        ] {
            assert!(VOLATILE.contains(from), "{from}");
            assert!(recognised(&VOLATILE.replace(from, to)).is_some(), "{from} -> {to}");
        }
        let counting = "local.get 1 i32.const -1 i32.add local.tee 1 br_if 0";
        for stores in [
            "local.get 0 i32.const 4 i32.add i32.const 0 i32.store local.get 0 i32.const 0 i32.store",
            "local.get 0 i64.const -1 i64.store",
            "local.get 0 i32.const 0x7f7f i32.store16 local.get 0 i32.const 2 i32.add i64.const 0x17f7f7f7f i64.store32
             local.get 0 i64.const 127 i64.store8 offset=6  local.get 0 i32.const 127 i32.store8 offset=7",
        ] {
            let turn = format!("{stores} local.get 0 i32.const 8 i32.add local.set 0 {counting}");
            let filling = recognised(&turn).unwrap();
            assert_eq!((filling.first.constant, filling.offset, filling.stride), (0, 0, 8));
        }
    }

    /// Whatever is changed, it does something else, or nobody has said what it does.
    #[test]
    fn nothing_else_is_taken_for_it() {
        let first = "local.get 2 i32.load offset=12 local.get 0 i32.add i32.const 0 i32.store8";
        for (from, to) in [
            // A gap, an overlap, and stores to elsewhere.
            ("i32.const 3 i32.add", "i32.const 4 i32.add"),
            ("i32.const 3 i32.add", "i32.const 2 i32.add"),
            ("i32.const 3 i32.add", "local.get 3 i32.add"),
            ("i32.const 3 i32.add", "i32.const 3 i32.add local.get 0 i32.add"),
            (
                "i32.const 3 i32.add i32.const 0 i32.store8",
                "i32.const 3 i32.add i32.const 0 i32.store16",
            ),
            (
                "i32.const 3 i32.add i32.const 0 i32.store8",
                "i32.const 3 i32.add i32.const 0 i32.store8 1",
            ),
            // Another step, and the other way.
            ("i32.const 4 i32.add", "i32.const 3 i32.add"),
            ("i32.const 4 i32.add", "i32.const 8 i32.add"),
            ("i32.const 4 i32.add", "i32.const -4 i32.add"),
            ("i32.const 4 i32.add", "local.get 3 i32.add"),
            ("i32.const 4 i32.add", "local.get 2 i32.load offset=12 i32.add"),
            // Other bytes.
            ("i32.const 3 i32.add i32.const 0", "i32.const 3 i32.add i32.const 1"),
            ("i32.const 0 i32.store8", "local.get 0 i32.store8"),
            ("i32.const 0 i32.store8", "local.get 2 i32.load offset=12 i32.store8"),
            // Other cells, one that moves, one of another memory, and one that is found by another.
            (
                "i32.load offset=12 local.get 0 i32.add i32.const 3",
                "i32.load offset=8 local.get 0 i32.add i32.const 3",
            ),
            ("i32.load offset=12", "i32.const 4 i32.add local.tee 2 i32.load offset=12"),
            ("local.get 2 i32.load offset=12", "local.get 0 i32.load offset=12"),
            ("i32.load offset=12", "i32.load 1 offset=12"),
            ("local.get 2 i32.load offset=12", "local.get 2 i32.load offset=12 i32.load offset=12"),
            // A cell that is loaded behind a store.
            (first, "local.get 0 i32.const 0 i32.store8"),
            // More that happens, or that is left.
            (first, "local.get 0 i32.const 0 i32.store8 0 offset=5000"),
            ("br_if 0", "br_if 0 local.get 0 br_if 0"),
            ("br_if 0", "br_if 0 nop"),
            ("br_if 0", "br_if 1"),
            ("br_if 0", "br_if 1 br 0"),
            (
                "local.get 1 local.get 0 i32.const 4",
                "local.get 3 local.get 1 local.get 0 i32.const 4",
            ),
            ("i32.ne br_if 0", "i32.eq br_if 0"),
            ("i32.ne br_if 0", "i32.lt_u br_if 0"),
            ("local.get 1 local.get 0 i32.const 4", "local.get 0 local.get 0 i32.const 4"),
            (
                "local.get 1 local.get 0 i32.const 4",
                "local.get 2 i32.load offset=12 local.get 0 i32.const 4",
            ),
            (
                "local.get 1 local.get 0 i32.const 4",
                "local.get 0 local.set 3 local.get 3 local.get 0 i32.const 4",
            ),
            // What one turn leaves for the next.
            (
                "local.get 1 local.get 0 i32.const 4",
                "local.get 3 drop local.get 0 local.set 3 local.get 1 local.get 0 i32.const 4",
            ),
        ] {
            assert!(VOLATILE.contains(from), "{from}");
            assert!(recognised(&VOLATILE.replace(from, to)).is_none(), "{from} -> {to}");
        }
        for (from, to) in [
            ("i32.const -1", "i32.const -3"),
            ("i32.const -1", "i32.const 0"),
            ("i32.const 2", "i32.const 1"),
            ("local.get 4 i32.store8 offset=9", "local.get 3 i32.store8 offset=9"),
            ("local.get 4 i32.store8", "local.get 4 i32.store16"),
            // The operand of the lower one is the larger one, and may wrap where the other does not.
            (
                "local.get 0 local.get 4 i32.store8 offset=8",
                "local.get 0 i32.const 1 i32.add local.get 4 i32.store8 offset=7",
            ),
            ("local.get 4 i32.store8", "local.get 4 i32.const 1 local.set 4 i32.store8"),
        ] {
            assert!(COUNTED.contains(from), "{from}");
            assert!(recognised(&COUNTED.replace(from, to)).is_none(), "{from} -> {to}");
        }
        for turn in
            ["", "local.get 1 br_if 0", "local.get 1 i32.const -1 i32.add local.tee 1 br_if 0"]
        {
            assert!(recognised(turn).is_none(), "{turn}");
        }
        let long = format!("{} {COUNTED}", "local.get 0 local.set 3 ".repeat(MOST_OPERATORS / 2));
        assert!(recognised(&long).is_none());
    }
}
