//! Accesses at constants away from one operand do what a model in Rust does: in memories of all sizes, at their ends, where sums wrap
//! around, and whatever was accessed before. The compiler uses what it learns from an access for those after it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;

use cwasm_compiler::{MemoryBounds, Settings};
use cwasm_loader::{Artifact, Engine, Extern, Limits, Linker, Memory, MemoryType, Store, Val};
use cwasm_tests::{compile_with, load};
use proptest::prelude::*;

const PAGE: u64 = 65536;

/// A memory: how the module declares it, and how many pages it has. The last is imported, and has all of its pages although it is asked for with one.
const MEMORIES: &[(&str, u64)] = &[
    ("(memory 1)", 1),
    ("(memory 3 3)", 3),
    ("(memory 1 9 shared)", 1),
    ("(memory 65535)", 65535),
    ("(memory 65536)", 65536),
    (r#"(memory (import "host" "memory") 1)"#, 65536),
];

#[derive(Clone, Debug)]
enum Step {
    /// Reads or writes so many bytes at the operand with a constant added, and an offset. What is read becomes part of the sum, whose lowest bytes are
    /// what is written.
    Access { constant: i32, add: Add, offset: u32, size: u32, write: bool },
    /// Reads at several constants, with nothing but reads in between. The sum of all is added to the sum, or written at the last.
    Together { reads: Vec<(i32, u32, u32)>, write: Option<(i32, u32)> },
    /// If this bit of the flags is set, one; else the other.
    If(u32, Vec<Step>, Vec<Step>),
    /// Twice, with the operand moved on by this much after each.
    Loop(i32, Vec<Step>),
}

/// How the constant is added.
#[derive(Clone, Copy, Debug)]
enum Add {
    Once,
    ConstantFirst,
    Subtracted,
    InHalves,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let near = prop_oneof![
        4 => -16_i32..64,
        1 => Just(0),
        1 => 65_500_i32..65_600,
        1 => -65_600_i32..-65_500,
        1 => Just(i32::MIN),
        1 => any::<i32>(),
    ];
    let add = prop_oneof![
        Just(Add::Once),
        Just(Add::ConstantFirst),
        Just(Add::Subtracted),
        Just(Add::InHalves),
    ];
    // The guard behind a memory has 32 MiB.
    let offset = prop_oneof![
        6 => Just(0_u32),
        3 => 0_u32..64,
        1 => 65_500_u32..65_600,
        1 => (32 << 20) - 80..(32_u32 << 20) + 8,
        1 => any::<u32>(),
    ];
    let size = prop_oneof![Just(1_u32), Just(2), Just(4), Just(8)];
    let read = (near.clone(), offset.clone(), size.clone());
    let write = prop::option::of((near.clone(), offset.clone()));
    let together = (prop::collection::vec(read, 1..6), write)
        .prop_map(|(reads, write)| Step::Together { reads, write });
    let access = (near, add, offset, size, any::<bool>()).prop_map(
        |(constant, add, offset, size, write)| Step::Access { constant, add, offset, size, write },
    );
    let access = prop_oneof![2 => access, 1 => together];
    let step = access.prop_recursive(3, 24, 6, |step| {
        let steps = prop::collection::vec(step, 0..6);
        prop_oneof![
            (0_u32..8, steps.clone(), steps.clone())
                .prop_map(|(bit, yes, no)| Step::If(bit, yes, no)),
            (-8_i32..9, steps).prop_map(|(by, steps)| Step::Loop(by, steps)),
        ]
    });
    prop::collection::vec(step, 1..10)
}

/// Operands at which something may go wrong: at the ends of memories, and of all addresses.
fn operands() -> impl Strategy<Value = u32> {
    let edge = prop_oneof![
        Just(0_u32),
        Just(65536),
        Just(3 * 65536),
        Just(0_u32.wrapping_sub(65536)),
        Just(1 << 31),
        any::<u32>(),
    ];
    let distance = prop_oneof![4 => -80_i32..16, 1 => -65_700_i32..65_700];
    (edge, distance).prop_map(|(edge, distance)| edge.wrapping_add_signed(distance))
}

/// What is known of a run: the sum, and what was written.
#[derive(Default)]
struct Model {
    length: u64,
    bytes: BTreeMap<u64, u8>,
    sum: u64,
    operand: u32,
}

/// An access was outside of the memory.
struct Trapped;

impl Model {
    fn range(&self, constant: i32, offset: u32, size: u32) -> Result<Range<u64>, Trapped> {
        let index = self.operand.wrapping_add_signed(constant);
        let start = u64::from(index) + u64::from(offset);
        let range = start..start + u64::from(size);
        if range.end > self.length { Err(Trapped) } else { Ok(range) }
    }

    fn read(&self, constant: i32, offset: u32, size: u32) -> Result<u64, Trapped> {
        let bytes = self.range(constant, offset, size)?.rev();
        let bytes = bytes.map(|at| self.bytes.get(&at).copied().unwrap_or(0));
        Ok(bytes.fold(0, |read, byte| read << 8 | u64::from(byte)))
    }

    fn write(&mut self, constant: i32, offset: u32, size: u32, value: u64) -> Result<(), Trapped> {
        let range = self.range(constant, offset, size)?;
        self.bytes.extend(range.zip(value.to_le_bytes()));
        Ok(())
    }

    fn run(&mut self, steps: &[Step], flags: u32) -> Result<(), Trapped> {
        for step in steps {
            match step {
                Step::Access { constant, offset, size, write, .. } => {
                    if *write {
                        self.write(*constant, *offset, *size, self.sum)?;
                    } else {
                        let read = self.read(*constant, *offset, *size)?;
                        self.sum = self.sum.wrapping_mul(3).wrapping_add(read);
                    }
                }
                Step::Together { reads, write } => {
                    let mut sum = 0_u64;
                    for (constant, offset, size) in reads {
                        sum = sum.wrapping_add(self.read(*constant, *offset, *size)?);
                    }
                    match write {
                        Some((constant, offset)) => self.write(*constant, *offset, 8, sum)?,
                        None => self.sum = self.sum.wrapping_add(sum),
                    }
                }
                Step::If(bit, yes, no) => {
                    self.run(if flags >> bit & 1 == 1 { yes } else { no }, flags)?;
                }
                Step::Loop(by, steps) => {
                    for _ in 0..2 {
                        self.run(steps, flags)?;
                        self.operand = self.operand.wrapping_add_signed(*by);
                    }
                }
            }
        }
        Ok(())
    }
}

/// The steps as instructions. Local 0 is the operand, 1 the flags, and those from 2 on count turns.
fn instructions(steps: &[Step], depth: u32, text: &mut String) {
    for step in steps {
        match step {
            Step::Access { constant, add, offset, size, write } => {
                let index = match add {
                    Add::Once => format!("(i32.add (local.get 0) (i32.const {constant}))"),
                    Add::ConstantFirst => format!("(i32.add (i32.const {constant}) (local.get 0))"),
                    Add::Subtracted => {
                        format!("(i32.sub (local.get 0) (i32.const {}))", constant.wrapping_neg())
                    }
                    Add::InHalves => {
                        let half = constant / 2;
                        let rest = constant - half;
                        format!(
                            "(i32.add (i32.add (local.get 0) (i32.const {half})) (i32.const {rest}))"
                        )
                    }
                };
                let name = match (size, write) {
                    (8, true) => "store".to_owned(),
                    (8, false) => "load".to_owned(),
                    (size, true) => format!("store{}", 8 * size),
                    (size, false) => format!("load{}_u", 8 * size),
                };
                let sum = "(global.get $sum)";
                if *write {
                    writeln!(text, "(i64.{name} offset={offset} {index} {sum})").unwrap();
                } else {
                    let load = format!("(i64.{name} offset={offset} {index})");
                    let tripled = format!("(i64.mul {sum} (i64.const 3))");
                    writeln!(text, "(global.set $sum (i64.add {tripled} {load}))").unwrap();
                }
            }
            Step::Together { reads, write } => {
                let load = |(constant, offset, size): &(i32, u32, u32)| {
                    let index = format!("(i32.add (local.get 0) (i32.const {constant}))");
                    let name = match size {
                        8 => "load".to_owned(),
                        size => format!("load{}_u", 8 * size),
                    };
                    format!("(i64.{name} offset={offset} {index})")
                };
                let mut loads = reads.iter().map(load);
                let first = loads.next().expect("there is one at least");
                let sum = loads.fold(first, |sum, load| format!("(i64.add {sum} {load})"));
                match write {
                    Some((constant, offset)) => {
                        let index = format!("(i32.add (local.get 0) (i32.const {constant}))");
                        writeln!(text, "(i64.store offset={offset} {index} {sum})").unwrap();
                    }
                    None => writeln!(text, "(global.set $sum (i64.add (global.get $sum) {sum}))")
                        .unwrap(),
                }
            }
            Step::If(bit, yes, no) => {
                let set = format!("(i32.and (local.get 1) (i32.const {}))", 1 << bit);
                write!(text, "(if {set} (then ").unwrap();
                instructions(yes, depth, text);
                text.push_str(") (else ");
                instructions(no, depth, text);
                text.push_str("))\n");
            }
            Step::Loop(by, steps) => {
                let count = depth + 2;
                write!(text, "(local.set {count} (i32.const 2)) (loop ").unwrap();
                instructions(steps, depth + 1, text);
                let moved = format!("(i32.add (local.get 0) (i32.const {by}))");
                let left = format!("(i32.sub (local.get {count}) (i32.const 1))");
                let last = format!("(br_if 0 (local.tee {count} {left}))");
                writeln!(text, "(local.set 0 {moved}) {last})").unwrap();
            }
        }
    }
}

fn module(memory: &str, steps: &[Step]) -> String {
    let mut body = String::new();
    instructions(steps, 0, &mut body);
    format!(
        r#"(module
          {memory}
          (global $sum (export "sum") (mut i64) (i64.const 1))
          (func (export "peek") (param i32) (result i32) (i32.load8_u (local.get 0)))
          (func (export "run") (param i32 i32) (local i32 i32 i32 i32) {body}))"#
    )
}

fn check(artifact: &Artifact, pages: u64, steps: &[Step], operand: u32, flags: u32) {
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let mut linker = Linker::new(&engine);
    if artifact.imports().next().is_some() {
        let ty = MemoryType::new(Limits { min: pages, max: None });
        let memory = Memory::new(&mut store, ty).unwrap();
        linker.define(&store, "host", "memory", Extern::Memory(memory)).unwrap();
    }
    let instance = linker.instantiate(&mut store, artifact).unwrap();
    let run = instance.typed_func::<(i32, i32), ()>(&store, "run").unwrap();
    let result = run.call(&mut store, (operand.cast_signed(), flags.cast_signed()));
    let mut model = Model { length: pages * PAGE, sum: 1, operand, ..Model::default() };
    let expected = model.run(steps, flags);
    let described = format!("{steps:?} at {operand:#x} with {flags:#b} in {pages} pages");
    assert_eq!(result.is_err(), expected.is_err(), "{described}: {result:?}");
    let sum = instance.global(&store, "sum").unwrap().get(&store).unwrap();
    assert!(matches!(sum, Val::I64(sum) if sum == model.sum.cast_signed()), "{described}: {sum:?}");
    let peek = instance.typed_func::<i32, i32>(&store, "peek").unwrap();
    for (at, byte) in model.bytes {
        let address = u32::try_from(at).unwrap().cast_signed();
        assert_eq!(peek.call(&mut store, address).unwrap(), byte.into(), "{described}: {at:#x}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn accesses_near_an_operand_are_what_the_model_says(
        steps in steps(),
        runs in prop::collection::vec((operands(), any::<u32>()), 1..12),
    ) {
        for (memory, pages) in MEMORIES {
            let text = module(memory, &steps);
            for memory_bounds in [MemoryBounds::Guarded, MemoryBounds::Explicit] {
                let settings = Settings { memory_bounds, ..Settings::default() };
                let artifact = load(&compile_with(&text, &settings));
                for (operand, flags) in &runs {
                    check(&artifact, *pages, &steps, *operand, *flags);
                }
            }
        }
    }
}
