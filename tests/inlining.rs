//! Small functions are copied to their calls, and nobody can tell from outside.

use cwasm_compiler::Settings;
use cwasm_loader::{Engine, Linker, Store, TrapKind};
use cwasm_tests::{artifact, compile_with, load};

/// Calls of functions that divide, load, branch, write a global, and have no result.
const MODULE: &str = r#"(module $m
    (memory 1) (global $count (export "count") (mut i32) (i32.const 0))
    (func $divide (param i32 i32) (result i32) (i32.div_s (local.get 0) (local.get 1)))
    (func $peek (param i32) (result i32)
        (if (result i32) (i32.eqz (local.get 0))
            (then (i32.const 7))
            (else (i32.load (i32.sub (local.get 0) (i32.const 8))))))
    (func $tick (global.set $count (i32.add (global.get $count) (i32.const 1))))
    (func $two (param i64) (result i64 i64)
        (return (local.get 0) (i64.add (local.get 0) (local.get 0))))
    (func $work (export "work") (param i32 i32) (result i32)
        (call $tick)
        (i32.add (call $divide (local.get 0) (local.get 1)) (call $peek (local.get 1))))
    (func (export "run") (param i32 i32) (result i32)
        (i32.add (call $work (local.get 0) (local.get 1)) (i32.const 1)))
    (func (export "three") (param i64) (result i64)
        (i64.sub (call $two (i64.add (call $two (local.get 0))))))
    (func (export "hypot") (param f64 f64) (result f64)
        (f64.sqrt (f64.add (call $square (local.get 0)) (call $square (local.get 1)))))
    (func $square (param f64) (result f64) (f64.mul (local.get 0) (local.get 0))))"#;

#[test]
fn backtraces_show_functions_that_have_no_frame() {
    // Code that counts fuel keeps its calls, and so says what is right.
    let backtraces =
        [Settings::default(), Settings { fuel: true, ..Settings::default() }].map(|settings| {
            let code = load(&compile_with(MODULE, &settings));
            let engine = Engine::default();
            let mut store = Store::new(&engine, ());
            store.set_fuel(10_000);
            let instance = Linker::new(&engine).instantiate(&mut store, &code).unwrap();
            let run = instance.typed_func::<(i32, i32), i32>(&store, "run").unwrap();
            [(6, 0), (6, 3)].map(|arguments| {
                let error = run.call(&mut store, arguments).unwrap_err();
                let trap = error.trap().unwrap();
                let names: Vec<_> =
                    trap.frames().iter().map(|frame| frame.func_name.clone()).collect();
                (trap.kind(), names, trap.frames().to_vec())
            })
        });
    let [inlined, called] = backtraces;
    assert_eq!(inlined, called);
    let [(division, names, _), (load, others, _)] = inlined;
    assert_eq!(division, TrapKind::IntegerDivisionByZero);
    assert_eq!(names, [Some("divide".into()), Some("work".into()), None]);
    assert_eq!(load, TrapKind::MemoryOutOfBounds);
    assert_eq!(others, [Some("peek".into()), Some("work".into()), None]);
}

#[test]
fn copies_compute_what_calls_do() {
    let code = artifact(MODULE);
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let instance = Linker::new(&engine).instantiate(&mut store, &code).unwrap();
    let work = instance.typed_func::<(i32, i32), i32>(&store, "work").unwrap();
    assert_eq!(work.call(&mut store, (90, 9)).unwrap(), 10);
    assert_eq!(work.call(&mut store, (-7, -1)).unwrap_err().trap().unwrap().frames().len(), 2);
    assert_eq!(work.call(&mut store, (24, 8)).unwrap(), 3);
    let count = instance.global(&store, "count").unwrap();
    assert_eq!(count.get(&store).unwrap().i32(), Some(3));
    let three = instance.typed_func::<i64, i64>(&store, "three").unwrap();
    assert_eq!(three.call(&mut store, 5).unwrap(), -15);
    let hypot = instance.typed_func::<(f64, f64), f64>(&store, "hypot").unwrap();
    assert_eq!(hypot.call(&mut store, (3.0, 4.0)).unwrap(), 5.0);
}

#[test]
fn a_function_with_very_many_calls_of_small_ones_does_not_explode() {
    let calls = "(local.set 0 (call $step (local.get 0)))".repeat(20_000);
    let text = format!(
        r#"(module
            (func $step (param i64) (result i64)
                (i64.add (i64.mul (local.get 0) (i64.const 3)) (i64.const 1)))
            (func (export "run") (param i64) (result i64) {calls} (local.get 0)))"#
    );
    let bytes = compile_with(&text, &Settings::default());
    // A call takes some 20 bytes; copies without a bound would take as much again.
    assert!(bytes.len() < 2 << 20, "{} bytes", bytes.len());
    let code = load(&bytes);
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let instance = Linker::new(&engine).instantiate(&mut store, &code).unwrap();
    let run = instance.typed_func::<i64, i64>(&store, "run").unwrap();
    let expected = (0..20_000).fold(1_i64, |n, _| n.wrapping_mul(3).wrapping_add(1));
    assert_eq!(run.call(&mut store, 1).unwrap(), expected);
}
