//! Recognises functions that multiply integers of 128 bits.
//!
//! Wasm without wide arithmetic has no product of two `i64` that is wider than they are, so programs that need one, such as
//! cryptography, hashes and printing of numbers, call a function of their language's runtime that puts it together from
//! products of halves: `__multi3(result: i32, a_low, a_high, b_low, b_high: i64)`. Processors have an instruction for that.
//!
//! A function is known by what it computes, not by its name: its operators are followed symbolically, and what it
//! stores must be one of the ways in which runtimes are known to write the product down. Those are
//! compared with the product itself in the tests. Anything else in a function, and it is compiled as it is.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use wasmparser::{FunctionBody, MemArg, Operator};

/// How long the bodies are that such functions have, in bytes of wasm.
const LENGTH: RangeInclusive<u64> = 60..=200;

/// The low half of a half.
const MASK: u64 = 0xffff_ffff;

/// Which parameters the halves of the factors are.
const LOW: [u32; 2] = [1, 3];
const HIGH: [u32; 2] = [2, 4];

/// A function that stores the product of its parameters at the address in the first one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product {
    /// The stores, in the order in which they are made.
    pub(crate) stores: [Half; 2],
    /// Where in the wasm its `end` is.
    pub(crate) end: u64,
}

/// A store of a half of the product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Half {
    /// Whether it is the high half.
    pub(crate) is_high: bool,
    pub(crate) memarg: MemArg,
    /// Where in the wasm the store is.
    pub(crate) offset: u64,
}

/// Whether a body is that of such a function. It may be of any type, and need not be valid: if it is, it has the parameters
/// that it uses, of the types that it uses them as.
pub(crate) fn recognise(body: &FunctionBody<'_>) -> Option<Product> {
    let range = body.range();
    if !LENGTH.contains(&(range.end - range.start)) {
        return None;
    }
    let mut function = Function::default();
    let mut operators = body.get_operators_reader().ok()?;
    while !operators.eof() {
        let (operator, offset) = operators.read_with_offset().ok()?;
        match operator {
            Operator::End => return operators.eof().then(|| function.product(offset))?,
            operator => function.follow(&operator, offset)?,
        }
    }
    None
}

/// A value that a function computes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Value {
    Parameter(u32),
    Constant(u64),
    /// Of any number of values, ordered, none of which is a sum.
    Sum(Vec<Id>),
    /// The operands of these are ordered.
    Product([Id; 2]),
    And([Id; 2]),
    Or([Id; 2]),
    ShiftLeft(Id, Id),
    ShiftRight(Id, Id),
    /// Whether the first is less, both without a sign, as `i64`.
    Less(Id, Id),
}

/// The number of a value. Equal values have one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Id(u32);

#[derive(Default)]
struct Values {
    numbers: HashMap<Value, Id>,
    values: Vec<Value>,
}

impl Values {
    fn id(&mut self, value: Value) -> Id {
        if let Some(id) = self.numbers.get(&value) {
            return *id;
        }
        // A body has few operators.
        let id = Id(u32::try_from(self.values.len()).unwrap_or(u32::MAX));
        self.values.push(value.clone());
        self.numbers.insert(value, id);
        id
    }

    fn constant(&mut self, constant: u64) -> Id {
        self.id(Value::Constant(constant))
    }

    fn sum(&mut self, parts: &[Id]) -> Id {
        let mut terms = Vec::new();
        for part in parts {
            match self.values.get(part.0 as usize) {
                Some(Value::Sum(more)) => terms.extend_from_slice(more),
                _ => terms.push(*part),
            }
        }
        terms.sort_unstable();
        self.id(Value::Sum(terms))
    }

    fn product(&mut self, a: Id, b: Id) -> Id {
        self.id(Value::Product(ordered(a, b)))
    }

    fn and(&mut self, a: Id, b: Id) -> Id {
        self.id(Value::And(ordered(a, b)))
    }

    fn or(&mut self, a: Id, b: Id) -> Id {
        self.id(Value::Or(ordered(a, b)))
    }

    fn low(&mut self, a: Id) -> Id {
        let mask = self.constant(MASK);
        self.and(a, mask)
    }

    fn high(&mut self, a: Id) -> Id {
        let by = self.constant(32);
        self.id(Value::ShiftRight(a, by))
    }

    fn raised(&mut self, a: Id) -> Id {
        let by = self.constant(32);
        self.id(Value::ShiftLeft(a, by))
    }

    /// The high half of the product, as far as the high halves of the factors decide it.
    fn crosswise(&mut self) -> [Id; 2] {
        let [a, b] = LOW.map(|number| self.id(Value::Parameter(number)));
        let [a_high, b_high] = HIGH.map(|number| self.id(Value::Parameter(number)));
        [self.product(a, b_high), self.product(a_high, b)]
    }

    /// The low and the high half of the product, as the runtime library of LLVM writes it.
    fn of_llvm(&mut self) -> [Id; 2] {
        let [a, b] = LOW.map(|number| self.id(Value::Parameter(number)));
        let [a0, b0, a1, b1] = [self.low(a), self.low(b), self.high(a), self.high(b)];
        let lowest = self.product(a0, b0);
        let (carry, middle) = (self.high(lowest), self.product(a1, b0));
        let first = self.sum(&[carry, middle]);
        let (carry, middle) = (self.low(first), self.product(a0, b1));
        let second = self.sum(&[carry, middle]);
        let (raised, lowest) = (self.raised(second), self.low(lowest));
        let low = self.or(raised, lowest);
        let [x, y] = self.crosswise();
        let parts = [x, y, self.product(a1, b1), self.high(first), self.high(second)];
        [low, self.sum(&parts)]
    }

    /// The same as that of Rust does.
    fn of_rust(&mut self) -> [Id; 2] {
        let [a, b] = LOW.map(|number| self.id(Value::Parameter(number)));
        let [a0, b0, a1, b1] = [self.low(a), self.low(b), self.high(a), self.high(b)];
        let lowest = self.product(a0, b0);
        let (one, other) = (self.product(b1, a0), self.product(b0, a1));
        let middle = self.sum(&[one, other]);
        let raised = self.raised(middle);
        let low = self.sum(&[lowest, raised]);
        let overflow = self.id(Value::Less(middle, one));
        let (overflow, middle) = (self.raised(overflow), self.high(middle));
        let middle = self.or(overflow, middle);
        let carry = self.id(Value::Less(low, lowest));
        let [x, y] = self.crosswise();
        let parts = [x, y, self.product(a1, b1), middle, carry];
        [low, self.sum(&parts)]
    }
}

fn ordered(a: Id, b: Id) -> [Id; 2] {
    [a.min(b), a.max(b)]
}

/// What is known of a function up to one of its operators.
#[derive(Default)]
struct Function {
    values: Values,
    stack: Vec<Id>,
    locals: HashMap<u32, Id>,
    stores: Vec<(Id, Half)>,
}

impl Function {
    /// Follows an operator; `None` if it is none that such a function has.
    fn follow(&mut self, operator: &Operator<'_>, offset: u64) -> Option<()> {
        match *operator {
            Operator::LocalGet { local_index } => {
                let known = self.locals.get(&local_index).copied();
                // Locals beyond the parameters are zero, which no product is made of.
                let value = known.unwrap_or_else(|| self.values.id(Value::Parameter(local_index)));
                self.stack.push(value);
            }
            Operator::LocalSet { local_index } => {
                let value = self.stack.pop()?;
                self.locals.insert(local_index, value);
            }
            Operator::LocalTee { local_index } => {
                self.locals.insert(local_index, *self.stack.last()?);
            }
            Operator::I64Const { value } => {
                let value = self.values.constant(value.cast_unsigned());
                self.stack.push(value);
            }
            Operator::I64Add => self.binary(|values, a, b| values.sum(&[a, b]))?,
            Operator::I64Mul => self.binary(Values::product)?,
            Operator::I64And => self.binary(Values::and)?,
            Operator::I64Or => self.binary(Values::or)?,
            Operator::I64Shl => self.binary(|values, a, by| values.id(Value::ShiftLeft(a, by)))?,
            Operator::I64ShrU => {
                self.binary(|values, a, by| values.id(Value::ShiftRight(a, by)))?
            }
            Operator::I64LtU => self.binary(|values, a, b| values.id(Value::Less(a, b)))?,
            // A comparison is of 32 bits, and is valid nowhere but here.
            Operator::I64ExtendI32U => {
                let Value::Less(..) = self.values.values.get(self.stack.last()?.0 as usize)? else {
                    return None;
                };
            }
            Operator::I64Store { memarg } => {
                let (value, address) = (self.stack.pop()?, self.stack.pop()?);
                if self.values.values.get(address.0 as usize)? != &Value::Parameter(0) {
                    return None;
                }
                self.stores.push((value, Half { is_high: false, memarg, offset }));
            }
            _ => return None,
        }
        Some(())
    }

    fn binary(&mut self, with: impl FnOnce(&mut Values, Id, Id) -> Id) -> Option<()> {
        let (b, a) = (self.stack.pop()?, self.stack.pop()?);
        let value = with(&mut self.values, a, b);
        self.stack.push(value);
        Some(())
    }

    /// The product, if the function stored one, and nothing else.
    fn product(mut self, end: u64) -> Option<Product> {
        let [one, other] = self.stores[..] else { return None };
        if !self.stack.is_empty() {
            return None;
        }
        let known = [self.values.of_llvm(), self.values.of_rust()];
        let halves = |low: (Id, Half), high: (Id, Half)| known.contains(&[low.0, high.0]);
        let is_high = if halves(one, other) {
            [false, true]
        } else if halves(other, one) {
            [true, false]
        } else {
            return None;
        };
        let stores =
            [Half { is_high: is_high[0], ..one.1 }, Half { is_high: is_high[1], ..other.1 }];
        Some(Product { stores, end })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wasmparser::{Parser, Payload};

    use super::*;

    const LLVM: &str = include_str!("../../tests/products/llvm.wat");

    const RUST: &str = include_str!("../../tests/products/rust.wat");

    fn recognised(body: &str) -> Option<Product> {
        let wasm = wat::parse_str(format!(
            "(module (memory 1)
                (func (param i32 i64 i64 i64 i64) (local i64 i64 i64 i64 i64 i64) {body}))"
        ))
        .ok()?;
        let body = Parser::new(0).parse_all(&wasm).find_map(|payload| match payload.unwrap() {
            Payload::CodeSectionEntry(body) => Some(body),
            _ => None,
        });
        recognise(&body.unwrap())
    }

    #[test]
    fn what_runtimes_have_is_known() {
        for (body, high_first) in [(LLVM, true), (RUST, false)] {
            let product = recognised(body).unwrap();
            assert_eq!(product.stores.map(|store| store.is_high), [high_first, !high_first]);
            assert_eq!(
                product.stores.map(|store| store.memarg.offset),
                if high_first { [8, 0] } else { [0, 8] }
            );
            assert!(product.stores[0].offset < product.stores[1].offset);
            assert!(product.stores[1].offset < product.end);
        }
        // In other words, and with parts the other way round.
        let same =
            LLVM.replace("local.get 4  local.get 1  i64.mul", "local.get 1  local.get 4  i64.mul");
        assert!(recognised(&same).is_some());
    }

    /// Whatever is changed, it is another function, unless the order of two operands is.
    #[test]
    fn nothing_else_is_taken_for_it() {
        for body in [LLVM, RUST] {
            let words: Vec<&str> = body.lines().skip(1).flat_map(str::split_whitespace).collect();
            let changes = [
                ("i64.add", "i64.sub"),
                ("i64.add", "i64.or"),
                ("i64.or", "i64.and"),
                ("i64.and", "i64.or"),
                ("i64.mul", "i64.add"),
                ("i64.shr_u", "i64.shr_s"),
                ("i64.shr_u", "i64.shl"),
                ("i64.shl", "i64.shr_u"),
                ("i64.lt_u", "i64.lt_s"),
                ("i64.lt_u", "i64.gt_u"),
                ("32", "31"),
                ("0xffffffff", "0x7fffffff"),
                ("1", "3"),
                ("2", "4"),
                ("4", "1"),
                ("5", "6"),
                ("offset=8", "offset=16"),
                ("i64.store", "i64.store32"),
            ];
            let mut tried = 0;
            for (place, word) in words.iter().enumerate() {
                for (_, to) in changes.iter().filter(|(from, _)| from == word) {
                    let mut changed = words.clone();
                    changed[place] = to;
                    // That of the high half is as good as any other place.
                    let expected = *to == "offset=16";
                    assert_eq!(
                        recognised(&changed.join(" ")).is_some(),
                        expected,
                        "{place}: {word} -> {to}"
                    );
                    tried += 1;
                }
            }
            assert!(tried > 50, "{tried}");
            for more in
                ["nop", "i32.const 0 i32.const 0 i32.store", "local.get 1 drop", "unreachable"]
            {
                assert!(recognised(&format!("{body} {more}")).is_none(), "{more}");
            }
        }
        assert!(recognised("").is_none());
    }

    fn value(values: &Values, id: Id, parameters: &[u64; 5]) -> u64 {
        let of = |id: &Id| value(values, *id, parameters);
        match &values.values[id.0 as usize] {
            Value::Parameter(number) => parameters[*number as usize],
            Value::Constant(constant) => *constant,
            Value::Sum(parts) => parts.iter().map(of).fold(0, u64::wrapping_add),
            Value::Product([a, b]) => of(a).wrapping_mul(of(b)),
            Value::And([a, b]) => of(a) & of(b),
            Value::Or([a, b]) => of(a) | of(b),
            Value::ShiftLeft(a, by) => of(a) << of(by),
            Value::ShiftRight(a, by) => of(a) >> of(by),
            Value::Less(a, b) => u64::from(of(a) < of(b)),
        }
    }

    fn check(a: u128, b: u128) {
        let half =
            |value: u128, shift: u32| u64::try_from(value >> shift & u128::from(u64::MAX)).unwrap();
        let parameters = [0, half(a, 0), half(a, 64), half(b, 0), half(b, 64)];
        let product = a.wrapping_mul(b);
        for written in [Values::of_llvm, Values::of_rust] {
            let mut values = Values::default();
            let halves = written(&mut values).map(|id| value(&values, id, &parameters));
            assert_eq!(halves, [half(product, 0), half(product, 64)], "{a:#x} * {b:#x}");
        }
    }

    proptest! {
        #[test]
        fn what_is_known_is_the_product(a: u128, b: u128) {
            check(a, b);
        }
    }

    #[test]
    fn and_so_it_is_at_the_edges() {
        let edges = [0, 1, 2, MASK - 1, MASK, MASK + 1, MASK << 32, u64::MAX - 1, u64::MAX];
        let wide = |low: u64, high: u64| u128::from(high) << 64 | u128::from(low);
        let triples = edges.iter().flat_map(|a| edges.iter().map(move |b| (*a, *b)));
        for ((a, b), c) in triples.flat_map(|pair| edges.map(|c| (pair, c))) {
            check(wide(a, b), wide(c, a ^ c));
        }
    }
}
