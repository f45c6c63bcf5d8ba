//! Long rows of operations on a few words, as in hash functions, compute what a model in Rust does: with complements and masks, for which the compiler has
//! ways of its own.

use std::fmt::Write as _;

use cwasm_compiler::{CpuLevel, OptLevel, Settings};
use cwasm_loader::{Engine, Linker, Store};
use cwasm_tests::{compile_with, load};
use proptest::prelude::*;

/// How many words there are: more than registers.
const WORDS: usize = 20;

const LOW: u64 = u32::MAX as u64;

/// What becomes of a word: something of the word itself, and of another.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Xor,
    Or,
    Add,
    Sub,
    /// The other, where this has no bits.
    Choose,
    /// Only these bits of it.
    Mask(u64),
    /// Shifted to the left, and then only these bits.
    ShiftMask(u32, u64),
    Shift(u32),
    Rotate(u32),
    /// The lower half of this and the other, shifted together.
    Together(u32),
}

#[derive(Clone, Copy, Debug)]
struct Step {
    word: usize,
    other: usize,
    operation: Operation,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let mask = prop_oneof![
        4 => Just(LOW),
        1 => (0_u32..32).prop_map(|bits| LOW & !((1 << bits) - 1)),
        1 => Just(0x8000_0000),
        1 => any::<u32>().prop_map(u64::from),
        1 => any::<u64>(),
    ];
    let operation = prop_oneof![
        1 => Just(Operation::Xor),
        1 => Just(Operation::Or),
        1 => Just(Operation::Add),
        1 => Just(Operation::Sub),
        3 => Just(Operation::Choose),
        1 => mask.clone().prop_map(Operation::Mask),
        1 => (0_u32..40, mask).prop_map(|(by, mask)| Operation::ShiftMask(by, mask)),
        1 => (0_u32..64).prop_map(Operation::Shift),
        1 => (0_u32..64).prop_map(Operation::Rotate),
        1 => (1_u32..40).prop_map(Operation::Together),
    ];
    let step = (0..WORDS, 1..WORDS, operation).prop_map(|(word, distance, operation)| Step {
        word,
        other: (word + distance) % WORDS,
        operation,
    });
    prop::collection::vec(step, 1..40)
}

fn run(steps: &[Step], words: &mut [u64; WORDS]) {
    for Step { word, other, operation } in steps {
        let (a, b) = (words[*word], words[*other]);
        words[*word] = match *operation {
            Operation::Xor => a ^ b,
            Operation::Or => a | b,
            Operation::Add => a.wrapping_add(b),
            Operation::Sub => a.wrapping_sub(b),
            Operation::Choose => b & !a,
            Operation::Mask(mask) => a & mask,
            Operation::ShiftMask(by, mask) => (a << by) & mask,
            Operation::Shift(by) => a >> by,
            Operation::Rotate(by) => a.rotate_left(by),
            Operation::Together(by) => (a << by | b >> (64 - by)) & LOW,
        };
    }
}

/// The steps so many times in a row, without a loop. The words are in memory before and after.
fn module(steps: &[Step], times: usize) -> String {
    let mut body = String::new();
    let mut write = |line: String| writeln!(body, "{line}").unwrap();
    for word in 0..WORDS {
        write(format!("(local.set {word} (i64.load offset={} (i32.const 0)))", 8 * word));
    }
    for Step { word, other, operation } in std::iter::repeat_n(steps, times).flatten() {
        let [a, b] = [word, other].map(|word| format!("(local.get {word})"));
        let shifted = |by: u32| format!("(i64.shl {a} (i64.const {by}))");
        let value = match *operation {
            Operation::Xor => format!("(i64.xor {a} {b})"),
            Operation::Or => format!("(i64.or {a} {b})"),
            Operation::Add => format!("(i64.add {a} {b})"),
            Operation::Sub => format!("(i64.sub {a} {b})"),
            Operation::Choose => format!("(i64.and (i64.xor {a} (i64.const -1)) {b})"),
            Operation::Mask(mask) => format!("(i64.and {a} (i64.const {mask}))"),
            Operation::ShiftMask(by, mask) => {
                format!("(i64.and {} (i64.const {mask}))", shifted(by))
            }
            Operation::Shift(by) => format!("(i64.shr_u {a} (i64.const {by}))"),
            Operation::Rotate(by) => format!("(i64.rotl {a} (i64.const {by}))"),
            Operation::Together(by) => {
                let low = format!("(i64.shr_u {b} (i64.const {}))", 64 - by);
                format!("(i64.and (i64.or {} {low}) (i64.const {LOW}))", shifted(by))
            }
        };
        write(format!("(local.set {word} {value})"));
    }
    for word in 0..WORDS {
        write(format!("(i64.store offset={} (i32.const 0) (local.get {word}))", 8 * word));
    }
    let locals = "i64 ".repeat(WORDS);
    format!(
        r#"(module (memory (export "memory") 1) (func (export "run") (local {locals}) {body}))"#
    )
}

fn check(steps: &[Step], times: usize, start: [u64; WORDS]) {
    let text = module(steps, times);
    let mut expected = start;
    (0..times).for_each(|_| run(steps, &mut expected));
    for (cpu, opt_level) in
        [(CpuLevel::default(), OptLevel::Speed), (CpuLevel::Native, OptLevel::SpeedAndSize)]
    {
        let settings = Settings { cpu, opt_level, ..Settings::default() };
        let artifact = load(&compile_with(&text, &settings));
        let engine = Engine::default();
        let mut store = Store::new(&engine, ());
        let instance = Linker::new(&engine).instantiate(&mut store, &artifact).unwrap();
        let memory = instance.memory(&store, "memory").unwrap();
        let bytes: Vec<u8> = start.iter().flat_map(|word| word.to_le_bytes()).collect();
        memory.write(&mut store, 0, &bytes).unwrap();
        let func = instance.typed_func::<(), ()>(&store, "run").unwrap();
        func.call(&mut store, ()).unwrap();
        let mut found = [0; 8 * WORDS];
        memory.read(&store, 0, &mut found).unwrap();
        let found = found.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
        assert!(found.eq(expected), "{steps:?} {times} times, {settings:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn words_are_what_the_model_says(
        steps in steps(),
        times in 1_usize..30,
        start in any::<[u64; WORDS]>(),
    ) {
        check(&steps, times, start);
    }
}

/// The step of SHA-3 that mixes rows, on words of 32 bits in 64.
#[test]
fn rows_are_mixed_with_complements() {
    let steps: Vec<_> = (0..WORDS)
        .flat_map(|word| {
            let [next, over] = [(word + 1) % WORDS, (word + 2) % WORDS];
            let step = |word, other, operation| Step { word, other, operation };
            [
                step(next, over, Operation::Choose),
                step(word, next, Operation::Xor),
                step(next, over, Operation::Together(7)),
                step(over, word, Operation::ShiftMask(3, LOW - 7)),
                step(over, word, Operation::Add),
            ]
        })
        .collect();
    let word = |word: usize| [1, u64::MAX, LOW, 1 << 63, 0x0123_4567_89ab_cdef][word % 5];
    check(&steps, 15, std::array::from_fn(word));
}
