//! Loops that count from one constant to another, that carry pointers, and that add up what they load: they access what their operators
//! say, also where counts and sums wrap around, and come to the same results. The compiler computes indices in 64 bits where it knows that none does,
//! and adds in another order.

use std::fmt::Write as _;

use cwasm_compiler::{CpuLevel, MemoryBounds, OptLevel, Settings};
use cwasm_loader::TrapKind;
use cwasm_tests::calls::{instantiate, store};
use cwasm_tests::{compile_with, load};
use proptest::prelude::*;
use proptest::sample::select;

const PAGES: u32 = 2;
const LENGTH: u32 = PAGES << 16;

/// After so many turns a loop is left, if it does not end before.
const BUDGET: u32 = 300;

/// How a loop asks whether to go on: an operator, and the same in Rust.
type Order = (&'static str, fn(u32, u32) -> bool);

const ORDERS: &[Order] = &[
    ("i32.ne", |a, b| a != b),
    ("i32.lt_u", |a, b| a < b),
    ("i32.le_u", |a, b| a <= b),
    ("i32.gt_u", |a, b| a > b),
    ("i32.ge_u", |a, b| a >= b),
    ("i32.lt_s", |a, b| a.cast_signed() < b.cast_signed()),
    ("i32.le_s", |a, b| a.cast_signed() <= b.cast_signed()),
    ("i32.gt_s", |a, b| a.cast_signed() > b.cast_signed()),
    ("i32.ge_s", |a, b| a.cast_signed() >= b.cast_signed()),
    ("i32.eq", |a, b| a == b),
];

/// What an index is made of: the count that is compared, another, or a pointer that begins with the operand.
const COUNTS: [&str; 3] = ["$i", "$j", "$p"];

#[derive(Clone, Debug)]
struct Loop {
    starts: [u32; 2],
    steps: [i32; 3],
    order: usize,
    end: u32,
    accesses: Vec<Access>,
    /// How the question is written.
    form: u32,
    may_be_left: bool,
    /// Whether the second count comes of the first, in each turn.
    is_crossed: bool,
}

/// Where, and what it does.
#[derive(Clone, Debug)]
struct Access {
    count: usize,
    constant: u32,
    offset: u32,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Store,
    Add,
    Subtract,
}

impl Loop {
    fn module(&self) -> String {
        let mut text = format!(
            r#"(module (memory (export "memory") {PAGES})
            (func (export "run") (param $p i32) (result i32)
                (local $i i32) (local $j i32) (local $sum i32) (local $turns i32)
                (local.set $i (i32.const {})) (local.set $j (i32.const {}))
                (block $out (loop $turn"#,
            self.starts[0], self.starts[1]
        );
        for Access { count, constant, offset, kind } in &self.accesses {
            let index = format!("(i32.add (local.get {}) (i32.const {constant}))", COUNTS[*count]);
            let loaded = format!("(i32.load offset={offset} {index})");
            let _ = match kind {
                Kind::Store => {
                    let value = "(i32.add (local.get $sum) (local.get $i))";
                    writeln!(text, "(i32.store offset={offset} {index} {value})")
                }
                Kind::Add => {
                    writeln!(text, "(local.set $sum (i32.add {loaded} (local.get $sum)))")
                }
                Kind::Subtract => {
                    writeln!(text, "(local.set $sum (i32.sub (local.get $sum) {loaded}))")
                }
            };
        }
        if self.may_be_left {
            let next = "(local.tee $turns (i32.add (local.get $turns) (i32.const 1)))";
            let _ = writeln!(text, "(br_if $out (i32.ge_u {next} (i32.const {BUDGET})))");
        }
        for (count, step) in COUNTS.iter().zip(&self.steps).skip(1) {
            let of = if self.is_crossed && *count == "$j" { "$i" } else { *count };
            let next = format!("(i32.add (local.get {of}) (i32.const {step}))");
            let _ = writeln!(text, "(local.set {count} {next})");
        }
        let next = format!("(local.tee $i (i32.add (local.get $i) (i32.const {})))", self.steps[0]);
        let asks = format!("({} {next} (i32.const {}))", ORDERS[self.order].0, self.end);
        let _ = match self.form {
            0 if ORDERS[self.order].0 == "i32.ne" && self.end == 0 => {
                writeln!(text, "(br_if $turn {next})")
            }
            1 => writeln!(text, "(br_if $out (i32.eqz {asks})) (br $turn)"),
            2 => writeln!(text, "(if {asks} (then (br $turn)) (else (br $out)))"),
            _ => writeln!(text, "(br_if $turn {asks})"),
        };
        text + "))
            (i32.xor (local.get $sum) (i32.xor (local.get $i)
                (i32.xor (local.get $j) (local.get $p))))))"
    }

    /// What the operators say: the result, or `None` for a trap, and how many turns there were. Gives up after some thousands.
    fn run(&self, operand: u32, memory: &mut [u8]) -> Option<(Option<u32>, u32)> {
        let mut counts = [self.starts[0], self.starts[1], operand];
        let mut sum = 0_u32;
        for turn in 1..4000 {
            for Access { count, constant, offset, kind } in &self.accesses {
                let index = counts[*count].wrapping_add(*constant);
                let place = usize::try_from(u64::from(index) + u64::from(*offset)).unwrap();
                let Some(bytes) = memory.get_mut(place..).and_then(|it| it.first_chunk_mut::<4>())
                else {
                    return Some((None, turn));
                };
                match kind {
                    Kind::Store => *bytes = sum.wrapping_add(counts[0]).to_le_bytes(),
                    Kind::Add => sum = sum.wrapping_add(u32::from_le_bytes(*bytes)),
                    Kind::Subtract => sum = sum.wrapping_sub(u32::from_le_bytes(*bytes)),
                }
            }
            let result = |counts: [u32; 3]| Some(sum ^ counts[0] ^ counts[1] ^ counts[2]);
            if self.may_be_left && turn >= BUDGET {
                return Some((result(counts), turn));
            }
            if self.is_crossed {
                counts[1] = counts[0];
            }
            for (count, step) in counts.iter_mut().zip(self.steps) {
                *count = count.wrapping_add_signed(step);
            }
            if !ORDERS[self.order].1(counts[0], self.end) {
                return Some((result(counts), turn));
            }
        }
        None
    }
}

/// Compares what the loop does with what its operators say. Returns how many turns there were.
fn follow(code: &Loop, operand: u32) -> u32 {
    let bytes: Vec<u8> =
        (0..LENGTH).map(|at| (at >> 8 ^ at.wrapping_mul(7)).to_le_bytes()[0]).collect();
    let mut expected = bytes.clone();
    // Where it takes too long, it is left.
    let (code, (result, turns)) = match code.run(operand, &mut expected) {
        Some(end) => (code.clone(), end),
        None => {
            expected.copy_from_slice(&bytes);
            let code = Loop { may_be_left: true, ..code.clone() };
            let end = code.run(operand, &mut expected).unwrap();
            (code, end)
        }
    };
    let text = code.module();
    for settings in [
        Settings::default(),
        Settings { cpu: CpuLevel::Native, ..Settings::default() },
        Settings { opt_level: OptLevel::SpeedAndSize, ..Settings::default() },
        Settings { memory_bounds: MemoryBounds::Explicit, ..Settings::default() },
    ] {
        let compiled = load(&compile_with(&text, &settings));
        let mut store = store();
        let instance = instantiate(&mut store, &compiled);
        let memory = instance.memory(&store, "memory").unwrap();
        memory.write(&mut store, 0, &bytes).unwrap();
        let run = instance.typed_func::<u32, u32>(&store, "run").unwrap();
        let found = match run.call(&mut store, operand) {
            Ok(found) => Some(found),
            Err(error) => {
                assert_eq!(error.trap().unwrap().kind(), TrapKind::MemoryOutOfBounds);
                None
            }
        };
        assert_eq!(found, result, "{operand:#x} {code:?} {text}");
        let mut after = vec![0; bytes.len()];
        memory.read(&store, 0, &mut after).unwrap();
        assert!(after == expected, "{operand:#x} {code:?} {text}");
    }
    turns
}

/// The loop that a compiler makes of an array of 1,024 numbers at `array`: it counts the bytes up to zero, below it.
fn array(array: u32) -> Loop {
    let access = |constant, kind| Access { count: 0, constant, offset: 0, kind };
    Loop {
        starts: [0xffff_f000, 0xffff_f800],
        steps: [4, 2, 4],
        order: 0,
        end: 0,
        accesses: vec![
            access(array + 0x1000, Kind::Add),
            access(array + 0x2000, Kind::Subtract),
            Access { count: 1, constant: array + 0x4000, offset: 8, kind: Kind::Add },
            access(array + 0x3000, Kind::Store),
        ],
        form: 0,
        may_be_left: false,
        is_crossed: false,
    }
}

#[test]
fn arrays_are_gone_through() {
    for form in 0..4 {
        assert_eq!(follow(&Loop { form, ..array(0x500) }, 0), 1024);
    }
    // The last element is outside.
    let mut outside = array(LENGTH - 0x2000 + 4);
    outside.accesses.truncate(2);
    assert_eq!(follow(&outside, 0), 1024);
}

#[test]
fn sums_that_wrap_around_do() {
    // The first elements are at the end of what 32 bits reach, and the others where memory begins.
    let mut wraps = array(0x500);
    wraps.accesses = vec![Access { count: 0, constant: 8, offset: 0, kind: Kind::Store }];
    assert_eq!(follow(&wraps, 0), 1);
    wraps.starts[0] = 0xffff_fff8;
    assert_eq!(follow(&wraps, 0), 2);
    // A count that goes through zero by itself.
    let through = Loop { starts: [0xffff_fff0, 0], end: 16, ..wraps.clone() };
    assert_eq!(follow(&through, 0), 1);
    let accesses = vec![Access { count: 0, constant: 0x10, offset: 0, kind: Kind::Store }];
    assert_eq!(follow(&Loop { accesses, ..through }, 0), 8);
    // One that is not compared wraps around before the other is done.
    let accesses = vec![Access { count: 1, constant: 0, offset: 4, kind: Kind::Add }];
    let other = Loop { starts: [0xffff_f000, 8], steps: [4, -4, 0], accesses, ..array(0) };
    assert_eq!(follow(&other, 0), 4);
    // It is what the other was before.
    let accesses = vec![Access { count: 1, constant: 0x2000, offset: 4, kind: Kind::Add }];
    let crossed = Loop { steps: [4, 0, 0], accesses, is_crossed: true, ..array(0) };
    assert_eq!(follow(&Loop { starts: [0xffff_f000, 0], ..crossed.clone() }, 0), 1024);
    assert_eq!(follow(&Loop { starts: [0xffff_d000, 0], ..crossed }, 0), 2);
    // So does a pointer.
    let accesses = vec![Access { count: 2, constant: 0, offset: 4, kind: Kind::Add }];
    let pointer = Loop { steps: [4, 0, -4], accesses, ..array(0) };
    assert_eq!(follow(&pointer, 8), 4);
    assert_eq!(follow(&pointer, 0x1800), 1024);
}

#[test]
fn loops_go_up_to_a_masked_bound() {
    let text = r#"(module (memory 1) (data (i32.const 0) "\01\02\03\04\05\06\07\08\09\0a\0b\0c")
        (func (export "run") (param $n i32) (result i32) (local $i i32) (local $sum i32)
            (block $out
                (br_if $out (i32.lt_u (local.get $n) (i32.const 4)))
                (loop $turn
                    (local.set $sum (i32.add (local.get $sum) (i32.load8_u (local.get $i))))
                    (local.set $sum (i32.add (local.get $sum) (i32.load8_u offset=3 (local.get $i))))
                    (br_if $turn (i32.ne (local.tee $i (i32.add (local.get $i) (i32.const 4)))
                        (i32.and (local.get $n) (i32.const -4))))))
            (i32.add (i32.shl (i32.and (local.get $n) (i32.const 3)) (i32.const 8)) (local.get $sum))))"#;
    for settings in [Settings::default(), Settings { cpu: CpuLevel::Native, ..Settings::default() }]
    {
        let code = load(&compile_with(text, &settings));
        let mut store = store();
        let instance = instantiate(&mut store, &code);
        let run = instance.typed_func::<u32, u32>(&store, "run").unwrap();
        for (n, sum) in [(0, 0), (3, 0), (4, 5), (7, 5), (8, 18), (11, 18), (12, 39)] {
            assert_eq!(run.call(&mut store, n).unwrap(), sum + ((n & 3) << 8), "{n}");
        }
    }
}

#[test]
fn pointers_may_begin_with_a_count() {
    // A count below zero, as the index of an inner loop, is at the end of what 32 bits reach; another is what it is.
    for (start, end, found) in [(-64_i32, 0, None), (64, 128, Some(16 * (5 + 4 + 3 + 2)))] {
        let text = format!(
            r#"(module (memory 1) (data (i32.const 0x1000) "\01")
            (func (export "run") (param $step i32) (result i32)
                (local $i i32) (local $p i32) (local $turns i32) (local $sum i32)
                (local.set $i (i32.const {start}))
                (loop $outer
                    (local.set $sum (i32.add (local.get $sum)
                        (i32.load8_u (i32.add (local.get $i) (i32.const 0x1040)))))
                    (local.set $p (local.get $i))
                    (local.set $turns (i32.const 4))
                    (loop $inner
                        (i32.store8 (local.get $p) (i32.add (local.get $turns) (i32.const 1)))
                        (local.set $sum (i32.add (local.get $sum) (i32.load8_u (local.get $p))))
                        (local.set $p (i32.add (local.get $p) (local.get $step)))
                        (br_if $inner (local.tee $turns (i32.sub (local.get $turns) (i32.const 1)))))
                    (br_if $outer (i32.ne (i32.const {end})
                        (local.tee $i (i32.add (local.get $i) (i32.const 4))))))
                (local.get $sum)))"#
        );
        for settings in
            [Settings::default(), Settings { cpu: CpuLevel::Native, ..Settings::default() }]
        {
            let code = load(&compile_with(&text, &settings));
            let mut store = store();
            let instance = instantiate(&mut store, &code);
            let run = instance.typed_func::<u32, u32>(&store, "run").unwrap();
            match run.call(&mut store, 4) {
                Ok(sum) => assert_eq!(Some(sum), found),
                Err(error) => {
                    assert_eq!(error.trap().unwrap().kind(), TrapKind::MemoryOutOfBounds);
                    assert_eq!(found, None);
                }
            }
        }
    }
}

/// Numbers about where something changes.
fn near() -> impl Strategy<Value = u32> {
    (select(vec![0, 0x100, 0x8000, LENGTH, 1 << 31, u32::MAX]), -20_i32..20)
        .prop_map(|(near, distance)| near.wrapping_add_signed(distance))
}

fn steps() -> impl Strategy<Value = i32> {
    prop_oneof![-16_i32..16, select(vec![4, 8, -4, 1000, -1000, 1 << 30, i32::MIN, i32::MAX])]
}

prop_compose! {
    fn loops()(
        starts in [near(), near()],
        steps in [steps(), steps(), steps()],
        order in 0..ORDERS.len(),
        // In whole steps, mostly.
        turns in 1_i32..200,
        beyond in select(vec![0, 0, 0, 1, -1]),
        end in prop::option::weighted(0.3, near()),
        accesses in prop::collection::vec(
            (
                0_usize..3,
                prop::option::weighted(0.8, (select(vec![0, 0x10, 0x2000, LENGTH - 0x400]), 0_u32..2000)),
                select(vec![0, 4, 2000]),
                select(vec![Kind::Store, Kind::Add, Kind::Add, Kind::Subtract]),
            ),
            1..6,
        ),
        form in 0_u32..4,
        may_be_left in any::<bool>(),
        is_crossed in prop::bool::weighted(0.2),
    ) -> Loop {
        let exact = starts[0].wrapping_add_signed(steps[0].wrapping_mul(turns));
        let accesses = accesses.into_iter().map(|(count, place, offset, kind)| {
            // Where the count begins is in that area, mostly, or the count is the index.
            let start = starts.get(count).copied().unwrap_or_default();
            let constant = place.map(|(area, in_area): (u32, u32)| (area + in_area).wrapping_sub(start));
            Access { count, constant: constant.unwrap_or_default(), offset, kind }
        });
        Loop {
            starts,
            steps,
            order,
            end: end.unwrap_or(exact.wrapping_add_signed(beyond)),
            accesses: accesses.collect(),
            form,
            may_be_left,
            is_crossed,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn loops_do_what_their_operators_say(code in loops(), operand in near()) {
        follow(&code, operand);
    }
}

/// Where a walk begins, given the operand: in text, and the same in Rust.
type Start = (&'static str, fn(u32) -> u32);

const STARTS: &[Start] = &[
    ("(local.get $x)", |x| x),
    ("(i32.const 0)", |_| 0),
    ("(i32.const 0xfffffff0)", |_| 0xffff_fff0),
    ("(i32.and (local.get $x) (i32.const 0xffff))", |x| x & 0xffff),
    ("(i32.shl (i32.and (local.get $x) (i32.const 0xff)) (i32.const 2))", |x| (x & 0xff) << 2),
    ("(i32.shl (i32.and (local.get $x) (i32.const 0xff)) (i32.const 24))", |x| (x & 0xff) << 24),
    ("(i32.shr_u (local.get $x) (i32.const 16))", |x| x >> 16),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// Steps that are not constant, up to a bound that is.
    #[test]
    fn walks_do_what_their_operators_say(
        start in select(STARTS),
        operand in prop_oneof![near(), any::<u32>()],
        step in prop_oneof![near(), 1_u32..3000],
        order in 0..ORDERS.len(),
        end in prop_oneof![near(), select(vec![1, 0x1_0000, 0x2_0000, 0xffff_0000])],
        constant in prop_oneof![near(), Just(0), select(vec![0x0ea0, 0x1_0000, 0xffff_0000])],
        turns_over in any::<bool>(),
    ) {
        let (asks, holds) = ORDERS[order];
        let question = match turns_over {
            true => format!("(br_if $out (i32.eqz ({asks} (local.get $p) (i32.const {end})))) (br $turn)"),
            false => format!("(br_if $turn ({asks} (local.get $p) (i32.const {end})))"),
        };
        let text = format!(
            r#"(module (memory (export "memory") {PAGES})
            (func (export "run") (param $x i32) (param $step i32) (result i32) (local $p i32)
                (local.set $p {})
                (block $out (loop $turn
                    (i32.store8 (i32.add (local.get $p) (i32.const {constant})) (i32.const 0x1a5))
                    (local.set $p (i32.add (local.get $p) (local.get $step)))
                    {question}))
                (local.get $p)))"#,
            start.0
        );
        // What it should do, if it ends.
        let mut expected = vec![0_u8; LENGTH as usize];
        let mut p = start.1(operand);
        let mut result = None;
        let mut ends = false;
        for _ in 0..200_000 {
            let Some(byte) = expected.get_mut(p.wrapping_add(constant) as usize) else {
                ends = true;
                break;
            };
            *byte = 0xa5;
            p = p.wrapping_add(step);
            if !holds(p, end) {
                ends = true;
                result = Some(p);
                break;
            }
        }
        prop_assume!(ends);
        for settings in [Settings::default(), Settings { cpu: CpuLevel::Native, ..Settings::default() }] {
            let code = load(&compile_with(&text, &settings));
            let mut store = store();
            let instance = instantiate(&mut store, &code);
            let run = instance.typed_func::<(u32, u32), u32>(&store, "run").unwrap();
            let found = run.call(&mut store, (operand, step));
            if let Err(error) = &found {
                assert_eq!(error.trap().unwrap().kind(), TrapKind::MemoryOutOfBounds);
            }
            assert_eq!(found.ok(), result, "{operand:#x} {step:#x} {text}");
            let mut after = vec![0; expected.len()];
            instance.memory(&store, "memory").unwrap().read(&store, 0, &mut after).unwrap();
            assert!(after == expected, "{operand:#x} {step:#x} {text}");
        }
    }
}
