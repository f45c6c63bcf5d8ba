//! Calls through tables that the compiler knows do what calls through any table do.

use std::fmt::Write as _;

use cwasm_loader::{Artifact, Engine, Extern, Instance, Linker, Store, TrapKind};
use cwasm_tests::{artifact, compile_with, load};

/// What a call gave: the result, or why it trapped.
type Outcome = Result<i64, TrapKind>;

/// What a function `call` gives for each index.
fn outcomes(code: &Artifact, indices: &[i64]) -> Vec<Outcome> {
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let instance = Linker::new(&engine).instantiate(&mut store, code).unwrap();
    indices.iter().map(|index| call(&mut store, &instance, *index)).collect()
}

fn call<'code>(store: &mut Store<'code, ()>, instance: &Instance<'code>, index: i64) -> Outcome {
    let call = instance.typed_func::<i64, i64>(&*store, "call").unwrap();
    call.call(store, index).map_err(|error| {
        let trap = error.trap().unwrap_or_else(|| panic!("{error}"));
        assert!(!trap.frames().is_empty());
        trap.kind()
    })
}

const FUNCTIONS: &str = "
    (type $wanted (func (param i64) (result i64)))
    (type $same (func (param i64) (result i64)))
    (func $double (type $wanted) (i64.mul (local.get 0) (i64.const 2)))
    (func $square (type $same) (i64.mul (local.get 0) (local.get 0)))
    (func $recursive (type $wanted)
        (if (result i64) (i64.eqz (local.get 0))
            (then (i64.const 1))
            (else (i64.add (call $recursive (i64.sub (local.get 0) (i64.const 1))) (i64.const 3)))))
    (func $other (param i64 i64) (result i64) (local.get 1))
    (func $nothing)";

/// Tables of every kind: what is known of them decides how they are called through.
const TABLES: [&str; 12] = [
    "(table $t 6 funcref) (elem (i32.const 1) $double $square $recursive $other)",
    // One function of the type, at one place and at several.
    "(table $t 4 4 funcref) (elem (i32.const 2) $recursive $other)",
    "(table $t funcref (elem $double))",
    "(table $t funcref (elem $other $double $nothing $double))",
    // None of the type; nothing at all; no room.
    "(table $t 3 funcref) (elem (i32.const 0) $other $nothing)",
    "(table $t 3 funcref)",
    "(table $t 0 funcref)",
    // Segments over each other, and with null.
    "(table $t 5 funcref) (elem (i32.const 0) $square $square $square) (elem (i32.const 1) $double $nothing)",
    "(table $t 3 funcref) (elem (i32.const 0) $square $square $double)
     (elem (table $t) (i32.const 1) funcref (ref.null func) (ref.func $recursive))",
    // Indices of 64 bits.
    "(table $t i64 6 funcref) (elem (table $t) (i64.const 1) func $double $square)",
    // A segment that is there for other reasons.
    "(table $t 6 funcref) (elem (i32.const 1) $double) (elem declare func $nothing) (elem func $square)",
    // All of one type, without a gap.
    "(table $t funcref (elem $double $square $recursive $double))",
];

#[test]
fn a_table_that_is_known_is_called_through_like_one_that_is_not() {
    let indices = [0, 1, 2, 3, 4, 5, 6, 7, 100, (1 << 32) - 1, 1 << 32, (1 << 32) + 1, 1 << 61, -1];
    for tables in TABLES {
        let wide = tables.contains("i64 6");
        let index = if wide { "(local.get 0)" } else { "(i32.wrap_i64 (local.get 0))" };
        let calls = [
            format!("(call_indirect $t (type $wanted) (i64.const 5) {index})"),
            format!("(return_call_indirect $t (type $same) (i64.const 5) {index})"),
        ];
        // What makes a table one that anything may be in.
        let unknown =
            ["(export \"t\" (table $t))", "(func (table.set $t (INDEX.const 0) (ref.null func)))"]
                .map(|it| it.replace("INDEX", if wide { "i64" } else { "i32" }));
        for call in &calls {
            let code = |more: &str| {
                artifact(&format!(
                    "(module {FUNCTIONS} {tables} {more}
                        (func (export \"call\") (param i64) (result i64) {call}))"
                ))
            };
            let known = outcomes(&code(""), &indices);
            for more in &unknown {
                assert_eq!(known, outcomes(&code(more), &indices), "{tables} {call} {more}");
            }
        }
    }
}

#[test]
fn what_is_known_is_called_directly() {
    // The machine code tells: a table that nobody refers to is not in the text.
    let code = |tables: &str, call: &str| {
        compile_with(
            &format!(
                "(module {FUNCTIONS} {tables}
                    (func (export \"call\") (param i64) (result i64) {call}))"
            ),
            &cwasm_compiler::Settings::default(),
        )
    };
    let has_table = |artifact: &[u8]| artifact.windows(9).any(|bytes| bytes == b"\0table[0]");
    let call = "(call_indirect $t (type $wanted) (i64.const 5) (i32.wrap_i64 (local.get 0)))";
    assert!(has_table(&code(TABLES[0], call)));
    assert!(!has_table(&code(TABLES[0], "(local.get 0)")));
    for changed in [
        "(export \"t\" (table $t))",
        "(func (table.set $t (i32.const 0) (ref.null func)))",
        "(func (drop (table.grow $t (ref.null func) (i32.const 1))))",
        "(func (table.fill $t (i32.const 0) (ref.null func) (i32.const 0)))",
        "(func (table.copy $t $t (i32.const 0) (i32.const 0) (i32.const 0)))",
        "(elem $e func $double) (func (table.init $t $e (i32.const 0) (i32.const 0) (i32.const 0)))",
    ] {
        assert!(!has_table(&code(&format!("{} {changed}", TABLES[0]), call)), "{changed}");
    }
    // A constant index leaves nothing to look up.
    let call = "(call_indirect $t (type $wanted) (local.get 0) (i32.const 1))";
    let constant = code(TABLES[0], call);
    assert!(!has_table(&constant));
    assert_eq!(outcomes(&load(&constant), &[21]), [Ok(42)]);
}

#[test]
fn a_constant_index_is_checked_like_any_other() {
    for tables in TABLES {
        for index in [0, 1, 2, 3, 4, 5, 6, -1] {
            let ty = if tables.contains("i64 6") { "i64" } else { "i32" };
            let code = |more: &str| {
                artifact(&format!(
                    "(module {FUNCTIONS} {tables} {more}
                        (func (export \"call\") (param i64) (result i64)
                            (call_indirect $t (type $same) (local.get 0) ({ty}.const {index}))))"
                ))
            };
            let [known, unknown] =
                ["", "(export \"t\" (table $t))"].map(|more| outcomes(&code(more), &[6]));
            assert_eq!(known, unknown, "{tables} {index}");
        }
    }
}

/// An instance whose last segment does not fit is not made. What it put into the table of another
/// module is called all the same, and finds its own tables as far as they were filled.
#[test]
fn segments_behind_one_that_fails_were_not_applied() {
    let owner = artifact("(module (table (export \"t\") 4 funcref))");
    let caller = artifact(
        "(module (type $f (func (param i64) (result i64))) (import \"owner\" \"t\" (table 4 funcref))
            (func (export \"call\") (param i64) (result i64)
                (call_indirect (type $f) (local.get 0) (i32.const 0))))",
    );
    for (order, expected) in [
        (
            ["(elem $theirs (i32.const 0) func $go)", OUTSIDE, MINE],
            Err(TrapKind::UninitializedElement),
        ),
        (["(elem $theirs (i32.const 0) func $go)", MINE, OUTSIDE], Ok(14)),
        ([MINE, "(elem $theirs (i32.const 0) func $go)", OUTSIDE], Ok(14)),
    ] {
        let mut segments = String::new();
        for segment in order {
            let segment = segment.replace("(elem $theirs", "(elem (table $theirs)");
            writeln!(segments, "{segment}").unwrap();
        }
        let failing = artifact(&format!(
            "(module (import \"owner\" \"t\" (table $theirs 4 funcref)) (table $mine 2 funcref)
                {FUNCTIONS} {segments}
                (func $go (type $wanted)
                    (call_indirect $mine (type $wanted) (local.get 0) (i32.const 1))))"
        ));
        let engine = Engine::default();
        let mut store = Store::new(&engine, ());
        let mut linker = Linker::new(&engine);
        let owner = linker.instantiate(&mut store, &owner).unwrap();
        let table = owner.table(&store, "t").unwrap();
        linker.define(&store, "owner", "t", Extern::Table(table)).unwrap();
        linker.instantiate(&mut store, &failing).unwrap_err();
        let caller = linker.instantiate(&mut store, &caller).unwrap();
        assert_eq!(call(&mut store, &caller, 7), expected, "{order:?}");
    }
}

const OUTSIDE: &str = "(elem (table $theirs) (i32.const 4) func $go)";
const MINE: &str = "(elem (table $mine) (i32.const 1) func $double)";

#[test]
fn functions_of_other_modules_are_called_with_their_own_instance() {
    let counter = artifact(
        "(module (global $n (mut i64) (i64.const 0))
            (func (export \"count\") (param i64) (result i64)
                (global.set $n (i64.add (global.get $n) (local.get 0))) (global.get $n)))",
    );
    let code = artifact(
        "(module (import \"counter\" \"count\" (func $count (param i64) (result i64)))
            (table funcref (elem $count $mine))
            (type $f (func (param i64) (result i64)))
            (func $mine (type $f) (i64.const 1))
            (func (export \"call\") (param i64) (result i64)
                (call_indirect (type $f) (i64.const 5) (i32.wrap_i64 (local.get 0)))))",
    );
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let mut linker = Linker::new(&engine);
    let counter = linker.instantiate(&mut store, &counter).unwrap();
    linker.instance(&store, "counter", counter).unwrap();
    let instance = linker.instantiate(&mut store, &code).unwrap();
    let found = [0, 0, 1, 0, 2].map(|index| call(&mut store, &instance, index));
    assert_eq!(found, [Ok(5), Ok(10), Ok(1), Ok(15), Err(TrapKind::UndefinedElement)]);
}

/// Thousands of functions of many types, and an index that is computed.
#[test]
fn every_element_of_a_large_table_is_its_own_function() {
    const COUNT: i64 = 3000;
    let mut text = String::from("(module (type $wanted (func (param i64) (result i64)))");
    for number in 0..COUNT {
        let parameters = "i64 ".repeat(1 + usize::try_from(number % 7).unwrap());
        write!(text, "(func $f{number} (param {parameters}) (result i64) (i64.add (local.get 0) (i64.const {number})))").unwrap();
    }
    text.push_str("(table funcref (elem");
    (0..COUNT).for_each(|number| write!(text, " $f{number}").unwrap());
    text.push_str(
        "))(func (export \"call\") (param i64) (result i64)
            (call_indirect (type $wanted) (local.get 0) (i32.wrap_i64 (local.get 0)))))",
    );
    let indices: Vec<i64> = (0..COUNT + 2).collect();
    for (index, found) in (0..).zip(outcomes(&artifact(&text), &indices)) {
        let expected = match index {
            _ if index >= COUNT => Err(TrapKind::UndefinedElement),
            _ if index % 7 == 0 => Ok(2 * index),
            _ => Err(TrapKind::IndirectCallTypeMismatch),
        };
        assert_eq!(found, expected, "{index}");
    }
}
