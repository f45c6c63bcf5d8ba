//! Programs that read and assign locals, in blocks, branches, loops and behind exceptions, compute what a model in Rust does. The compiler does not ask
//! again for what it knows.

use std::fmt::Write as _;

use cwasm_compiler::{CpuLevel, OptLevel, Settings};
use cwasm_loader::{Engine, Linker, Store};
use cwasm_tests::{compile_with, load};
use proptest::prelude::*;

/// Local 0 is the sum, the next two are parameters, the others are zero at first.
const LOCALS: usize = 6;

/// Loops turn so often.
const TURNS: u32 = 3;

#[derive(Clone, Debug)]
enum Step {
    /// Adds a local to the sum, which is doubled before.
    Read(usize),
    /// Assigns the sum.
    Write(usize),
    /// Assigns the sum, and adds it to the sum.
    Tee(usize),
    /// Assigns one to another.
    Copy(usize, usize),
    /// If the sum is odd, one; else the other.
    If(Vec<Step>, Vec<Step>),
    /// Without an `else`.
    When(Vec<Step>),
    /// What [`Step::Exit`] leaves.
    Block(Vec<Step>),
    /// Goes on after the block with this number among those around it, from the innermost; if the sum is a multiple of 3, or in any case.
    Exit {
        block: usize,
        always: bool,
    },
    /// One block or another, by the sum.
    Choose(usize, usize),
    Loop(Vec<Step>),
    /// Some steps, and if one of them throws, the others.
    Try(Vec<Step>, Vec<Step>),
    /// If the sum is a multiple of 5.
    Throw,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let local = || 0..LOCALS;
    let leaf = prop_oneof![
        5 => local().prop_map(Step::Read),
        3 => local().prop_map(Step::Write),
        1 => local().prop_map(Step::Tee),
        1 => (local(), local()).prop_map(|(from, to)| Step::Copy(from, to)),
        1 => (0_usize..4, prop::bool::weighted(0.1))
            .prop_map(|(block, always)| Step::Exit { block, always }),
        1 => (0_usize..4, 0_usize..4).prop_map(|(one, other)| Step::Choose(one, other)),
        1 => Just(Step::Throw),
    ];
    let step = leaf.prop_recursive(5, 60, 6, |step| {
        let steps = prop::collection::vec(step, 0..6);
        prop_oneof![
            2 => (steps.clone(), steps.clone()).prop_map(|(yes, no)| Step::If(yes, no)),
            1 => steps.clone().prop_map(Step::When),
            2 => steps.clone().prop_map(Step::Block),
            3 => steps.clone().prop_map(Step::Loop),
            1 => (steps.clone(), steps).prop_map(|(steps, caught)| Step::Try(steps, caught)),
        ]
    });
    prop::collection::vec(step, 1..8)
}

/// Why steps end before the last.
enum Left {
    /// That many more blocks are left, after this one.
    Blocks(usize),
    Thrown,
}

/// Runs steps, with so many blocks around them.
fn run(steps: &[Step], blocks: usize, locals: &mut [u32; LOCALS]) -> Result<(), Left> {
    let exit = |block: usize| if blocks == 0 { Ok(()) } else { Err(Left::Blocks(block % blocks)) };
    for step in steps {
        match step {
            Step::Read(local) => locals[0] = locals[0].wrapping_mul(2).wrapping_add(locals[*local]),
            Step::Write(local) => locals[*local] = locals[0],
            Step::Tee(local) => {
                let sum = locals[0];
                locals[*local] = sum;
                locals[0] = locals[0].wrapping_add(sum);
            }
            Step::Copy(from, to) => locals[*to] = locals[*from],
            Step::If(yes, no) => run(if locals[0] & 1 == 1 { yes } else { no }, blocks, locals)?,
            Step::When(steps) if locals[0] & 1 == 1 => run(steps, blocks, locals)?,
            Step::When(_) => {}
            Step::Block(steps) => match run(steps, blocks + 1, locals) {
                Err(Left::Blocks(0)) | Ok(()) => {}
                Err(Left::Blocks(more)) => return Err(Left::Blocks(more - 1)),
                Err(Left::Thrown) => return Err(Left::Thrown),
            },
            Step::Exit { block, always } => {
                if *always || locals[0].is_multiple_of(3) {
                    exit(*block)?;
                }
            }
            Step::Choose(one, other) => exit(if locals[0] & 3 == 0 { *one } else { *other })?,
            Step::Loop(steps) => {
                for _ in 0..TURNS {
                    run(steps, blocks, locals)?;
                }
            }
            Step::Try(steps, caught) => match run(steps, blocks, locals) {
                Err(Left::Thrown) => run(caught, blocks, locals)?,
                result => result?,
            },
            Step::Throw => {
                if locals[0].is_multiple_of(5) {
                    return Err(Left::Thrown);
                }
            }
        }
    }
    Ok(())
}

/// The steps as operators.
struct Text {
    body: String,
    /// How many locals there are: loops count in their own.
    locals: usize,
    /// What is open around a step: whether it is one of the blocks that are left.
    open: Vec<bool>,
}

impl Text {
    fn line(&mut self, line: &str) {
        writeln!(self.body, "{line}").unwrap();
    }

    fn inside(&mut self, is_block: bool, steps: &[Step]) {
        self.open.push(is_block);
        self.steps(steps);
        self.open.pop();
    }

    /// The label of a block, if there is any around.
    fn label(&self, block: usize) -> Option<usize> {
        let labels: Vec<usize> = (0..)
            .zip(self.open.iter().rev())
            .filter(|(_, it)| **it)
            .map(|(label, _)| label)
            .collect();
        (!labels.is_empty()).then(|| labels[block % labels.len()])
    }

    fn steps(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Read(local) => self.line(&format!(
                    "(local.set 0 (i32.add (i32.shl (local.get 0) (i32.const 1)) (local.get {local})))"
                )),
                Step::Write(local) => self.line(&format!("(local.set {local} (local.get 0))")),
                Step::Tee(local) => self.line(&format!(
                    "(local.get 0) (local.tee {local} (local.get 0)) (local.set 0 (i32.add))"
                )),
                Step::Copy(from, to) => self.line(&format!("(local.set {to} (local.get {from}))")),
                Step::If(yes, no) => {
                    self.line("(if (i32.and (local.get 0) (i32.const 1)) (then");
                    self.inside(false, yes);
                    self.line(") (else");
                    self.inside(false, no);
                    self.line("))");
                }
                Step::When(steps) => {
                    self.line("(if (i32.and (local.get 0) (i32.const 1)) (then");
                    self.inside(false, steps);
                    self.line("))");
                }
                Step::Block(steps) => {
                    self.line("(block");
                    self.inside(true, steps);
                    self.line(")");
                }
                Step::Exit { block, always } => {
                    if let Some(label) = self.label(*block) {
                        self.line(&if *always {
                            format!("(br {label})")
                        } else {
                            format!("(br_if {label} (i32.eqz (i32.rem_u (local.get 0) (i32.const 3))))")
                        });
                    }
                }
                Step::Choose(one, other) => {
                    if let (Some(one), Some(other)) = (self.label(*one), self.label(*other)) {
                        let index = "(i32.and (local.get 0) (i32.const 3))";
                        self.line(&format!("(br_table {one} {other} {index})"));
                    }
                }
                Step::Loop(steps) => {
                    let count = self.locals;
                    self.locals += 1;
                    self.line(&format!("(local.set {count} (i32.const {TURNS})) (loop"));
                    self.inside(false, steps);
                    let next = format!("(i32.sub (local.get {count}) (i32.const 1))");
                    self.line(&format!("(br_if 0 (local.tee {count} {next})))"));
                }
                Step::Try(steps, caught) => {
                    self.line("(block (block (try_table (catch $thrown 0)");
                    self.open.extend([false; 2]);
                    self.inside(false, steps);
                    self.line(") (br 1))");
                    self.open.pop();
                    self.steps(caught);
                    self.open.pop();
                    self.line(")");
                }
                Step::Throw => self.line(
                    "(if (i32.eqz (i32.rem_u (local.get 0) (i32.const 5))) (then (throw $thrown)))",
                ),
            }
        }
    }
}

fn module(steps: &[Step]) -> String {
    let mut text = Text { body: String::new(), locals: LOCALS, open: Vec::new() };
    text.steps(steps);
    let results = "i32 ".repeat(LOCALS);
    let gets: String = (0..LOCALS).map(|local| format!("(local.get {local})")).collect();
    let locals = "i32 ".repeat(text.locals - 3);
    // What is thrown and not caught ends the program as it is then.
    format!(
        r#"(module (tag $thrown)
          (func (export "run") (param i32 i32 i32) (result {results}) (local {locals})
            (block (try_table (catch $thrown 0) {} )) {gets}))"#,
        text.body
    )
}

fn check(steps: &[Step]) {
    let text = module(steps);
    for (cpu, opt_level) in
        [(CpuLevel::default(), OptLevel::Speed), (CpuLevel::default(), OptLevel::None)]
    {
        let settings = Settings { cpu, opt_level, ..Settings::default() };
        let artifact = load(&compile_with(&text, &settings));
        let engine = Engine::default();
        let mut store = Store::new(&engine, ());
        let instance = Linker::new(&engine).instantiate(&mut store, &artifact).unwrap();
        type Results = (u32, u32, u32, u32, u32, u32);
        let func = instance.typed_func::<(u32, u32, u32), Results>(&store, "run").unwrap();
        for start in [[0, 1, 2], [1, 5, 9], [0xdead_beef, 3, 0x8000_0000]] {
            let mut locals = [0; LOCALS];
            locals[..3].copy_from_slice(&start);
            let _ = run(steps, 0, &mut locals);
            let [a, b, c] = start;
            let (r0, r1, r2, r3, r4, r5) = func.call(&mut store, (a, b, c)).unwrap();
            assert_eq!([r0, r1, r2, r3, r4, r5], locals, "{opt_level:?} {text}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn locals_are_what_the_model_says(steps in steps()) {
        check(&steps);
    }
}

#[test]
fn what_a_loop_assigns_is_not_known_where_it_begins() {
    use Step::{Block, Copy, Exit, If, Loop, Read, When, Write};
    let read = || Read(1);
    check(&[read(), Loop(vec![read(), Write(1)]), read()]);
    check(&[read(), Loop(vec![read(), Loop(vec![read(), When(vec![Write(1)])]), read()]), read()]);
    // Assigned in one arm, and read in the other, and after both.
    check(&[Loop(vec![read(), If(vec![Write(1)], vec![read()]), read()])]);
    check(&[read(), If(vec![read(), Write(1)], vec![read(), Copy(2, 1)]), read()]);
    // Where an exit leads, both are possible.
    let exit = || Exit { block: 0, always: false };
    check(&[Loop(vec![Block(vec![read(), exit(), Write(1), read()]), read()])]);
    check(&[Block(vec![Loop(vec![Write(1), exit(), Copy(2, 1)])]), read()]);
}

/// More than the compiler notes.
#[test]
fn loops_in_many_loops_may_assign_all_locals() {
    const DEPTH: usize = 1200;
    const MANY: usize = 1000;
    let mut body = String::new();
    let read = "(local.set 0 (i32.add (i32.shl (local.get 0) (i32.const 1)) (local.get 3)))";
    for _ in 0..DEPTH {
        body += "(loop ";
    }
    body += read;
    for local in 3..3 + MANY {
        body += &format!("(local.set {local} (local.get 0))");
    }
    // The outermost turns three times, and reads what is assigned in the innermost.
    body += &")".repeat(DEPTH - 1);
    body += read;
    body += "(br_if 0 (local.tee 1 (i32.sub (local.get 1) (i32.const 1)))))";
    let locals = "i32 ".repeat(MANY);
    let text = format!(
        r#"(module (func (export "run") (param i32 i32 i32) (result i32) (local {locals})
            (local.set 3 (local.get 2)) {body} {read} (local.get 0)))"#
    );
    let artifact = load(&compile_with(&text, &Settings::default()));
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let instance = Linker::new(&engine).instantiate(&mut store, &artifact).unwrap();
    let func = instance.typed_func::<(u32, u32, u32), u32>(&store, "run").unwrap();
    let (mut sum, mut local) = (7_u32, 11_u32);
    for _ in 0..3 {
        sum = 2 * sum + local;
        local = sum;
        sum = 2 * sum + local;
    }
    assert_eq!(func.call(&mut store, (7, 3, 11)).unwrap(), 2 * sum + local);
}
