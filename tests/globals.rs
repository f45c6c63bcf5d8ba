//! Programs that read and write globals in loops, with calls of functions that write to them in between, compute what a model in Rust does. The compiler
//! leaves out reads of what it knows.

use std::fmt::Write as _;

use cwasm_loader::{Engine, Linker, Store};
use cwasm_tests::{compile, load};
use proptest::prelude::*;

/// How many globals there are; one more is imported.
const GLOBALS: usize = 3;

/// Loops turn so often.
const TURNS: u32 = 3;

#[derive(Clone, Debug)]
enum Step {
    /// Adds a global to the sum, and doubles it before.
    Read(usize),
    /// Sets a global to the sum.
    Write(usize),
    /// Calls a function that adds 1 to a global.
    Call(usize),
    /// Writes the sum to memory.
    Store,
    /// If the sum is odd, one; else the other.
    If(Vec<Step>, Vec<Step>),
    Loop(Vec<Step>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let leaf = prop_oneof![
        4 => (0..=GLOBALS).prop_map(Step::Read),
        1 => (0..=GLOBALS).prop_map(Step::Write),
        1 => (0..=GLOBALS).prop_map(Step::Call),
        1 => Just(Step::Store),
    ];
    let step = leaf.prop_recursive(4, 40, 6, |step| {
        let steps = prop::collection::vec(step, 0..6);
        prop_oneof![
            (steps.clone(), steps.clone()).prop_map(|(yes, no)| Step::If(yes, no)),
            steps.prop_map(Step::Loop),
        ]
    });
    prop::collection::vec(step, 1..8)
}

/// What the steps do to the sum and the globals.
fn run(steps: &[Step], sum: &mut u32, globals: &mut [u32; GLOBALS + 1]) {
    for step in steps {
        match step {
            Step::Read(global) => *sum = sum.wrapping_mul(2).wrapping_add(globals[*global]),
            Step::Write(global) => globals[*global] = *sum,
            Step::Call(global) => globals[*global] = globals[*global].wrapping_add(1),
            Step::Store => {}
            Step::If(yes, no) => run(if *sum & 1 == 1 { yes } else { no }, sum, globals),
            Step::Loop(steps) => (0..TURNS).for_each(|_| run(steps, sum, globals)),
        }
    }
}

/// The same as operators. Loops count in locals of their own, from 1 on.
fn write(steps: &[Step], locals: &mut usize, text: &mut String) -> std::fmt::Result {
    for step in steps {
        match step {
            Step::Read(global) => writeln!(
                text,
                "(local.set 0 (i32.add (i32.shl (local.get 0) (i32.const 1)) (global.get {global})))"
            )?,
            Step::Write(global) => writeln!(text, "(global.set {global} (local.get 0))")?,
            Step::Call(global) => writeln!(text, "(call $add{global})")?,
            Step::Store => writeln!(text, "(i32.store (i32.const 0) (local.get 0))")?,
            Step::If(yes, no) => {
                writeln!(text, "(if (i32.and (local.get 0) (i32.const 1)) (then")?;
                write(yes, locals, text)?;
                writeln!(text, ") (else")?;
                write(no, locals, text)?;
                writeln!(text, "))")?;
            }
            Step::Loop(steps) => {
                *locals += 1;
                let count = *locals;
                writeln!(text, "(local.set {count} (i32.const {TURNS})) (loop")?;
                write(steps, locals, text)?;
                writeln!(
                    text,
                    "(br_if 0 (local.tee {count} (i32.sub (local.get {count}) (i32.const 1)))))"
                )?;
            }
        }
    }
    Ok(())
}

fn module(steps: &[Step]) -> String {
    let (mut body, mut locals) = (String::new(), 0);
    write(steps, &mut locals, &mut body).unwrap();
    let mut text = String::from("(module (global (import \"\" \"global\") (mut i32)) (memory 1)");
    for global in 0..=GLOBALS {
        if global > 0 {
            write!(text, "(global (export \"{global}\") (mut i32) (i32.const {global}))").unwrap();
        }
        // With a loop, so that it is called, and not copied.
        write!(
            text,
            "(func $add{global} (loop (br_if 0 (i32.const 0)))
                (global.set {global} (i32.add (global.get {global}) (i32.const 1))))"
        )
        .unwrap();
    }
    let locals = "i32 ".repeat(locals);
    write!(
        text,
        "(func (export \"run\") (param i32) (result i32) (local {locals}) {body} (local.get 0)))"
    )
    .unwrap();
    text
}

/// A module with a mutable global, which the other imports.
const OTHER: &str = r#"(module (global (export "global") (mut i32) (i32.const 0)))"#;

fn check(steps: &[Step]) {
    let text = module(steps);
    let (other, artifact) = (load(&compile(OTHER)), load(&compile(&text)));
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let other = Linker::new(&engine).instantiate(&mut store, &other).unwrap();
    let mut linker = Linker::new(&engine);
    linker.instance(&store, "", other).unwrap();
    let instance = linker.instantiate(&mut store, &artifact).unwrap();
    let func = instance.typed_func::<u32, u32>(&store, "run").unwrap();
    let mut globals = std::array::from_fn(|number| u32::try_from(number).unwrap());
    for start in [0, 1, 0xdead_beef] {
        let mut sum = start;
        run(steps, &mut sum, &mut globals);
        assert_eq!(func.call(&mut store, start).unwrap(), sum, "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn globals_are_what_the_model_says(steps in steps()) {
        check(&steps);
    }
}

#[test]
fn what_is_written_in_one_turn_is_read_in_the_next() {
    use Step::{Call, If, Loop, Read, Store, Write};
    let read = || Read(1);
    check(&[Loop(vec![read(), If(vec![read()], vec![]), read(), Call(1), read()])]);
    check(&[Loop(vec![read(), If(vec![Write(1)], vec![read()]), read(), Store, read()])]);
    check(&[Loop(vec![read(), Loop(vec![read(), If(vec![Call(1)], vec![]), read()]), read()])]);
    check(&[
        read(),
        Loop(vec![If(vec![read()], vec![read(), Write(1)]), Read(0), Call(0), Read(0)]),
    ]);
}
