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

/// `__multi3` of two languages: what the compiler knows as a product, and the same with its operators.
#[test]
fn products_are_what_their_functions_compute() {
    let halves = [0, 1, 2, 0xffff_ffff, 0x1_0000_0000, 0x1234_5678_9abc_def0, 1 << 63, u64::MAX];
    for body in [include_str!("products/llvm.wat"), include_str!("products/rust.wat")] {
        let text = format!(
            r#"(module $m (memory (export "memory") 1)
                (func $multiply (export "multiply") (param i32 i64 i64 i64 i64)
                    (local i64 i64 i64 i64 i64 i64) {body})
                (func (export "square") (param i64) (result i64)
                    (call $multiply (i32.const 16)
                        (local.get 0) (i64.const 0) (local.get 0) (i64.const 0))
                    (i64.load (i32.const 24)))
                (func (export "far") (param i32)
                    (call $multiply (local.get 0)
                        (i64.const -1) (i64.const 0) (i64.const -1) (i64.const 0))))"#
        );
        // Code that counts fuel is compiled operator by operator.
        let settings = [Settings::default(), Settings { fuel: true, ..Settings::default() }];
        let codes = settings.map(|settings| load(&compile_with(&text, &settings)));
        let engine = Engine::default();
        let traps = codes.each_ref().map(|code| {
            let mut store = Store::new(&engine, ());
            store.set_fuel(1_000_000);
            let instance = Linker::new(&engine).instantiate(&mut store, code).unwrap();
            let memory = instance.memory(&store, "memory").unwrap();
            let multiply =
                instance.typed_func::<(i32, i64, i64, i64, i64), ()>(&store, "multiply").unwrap();
            for a in halves.iter().flat_map(|low| halves.iter().map(move |high| (*low, *high))) {
                for b in [(a.1, a.0), (!a.0, a.1), (7, 0), (u64::MAX, u64::MAX)] {
                    let [al, ah, bl, bh] = [a.0, a.1, b.0, b.1].map(u64::cast_signed);
                    multiply.call(&mut store, (8, al, ah, bl, bh)).unwrap();
                    let wide = |half: (u64, u64)| u128::from(half.1) << 64 | u128::from(half.0);
                    let mut found = [0; 16];
                    memory.read(&store, 8, &mut found).unwrap();
                    assert_eq!(u128::from_le_bytes(found), wide(a).wrapping_mul(wide(b)));
                }
            }
            let square = instance.typed_func::<i64, i64>(&store, "square").unwrap();
            let high = (u128::from(u64::MAX) * u128::from(u64::MAX)) >> 64;
            assert_eq!(
                square.call(&mut store, -1).unwrap().cast_unsigned(),
                u64::try_from(high).unwrap()
            );
            // Where one half is outside of the memory, the same one was stored before as ever.
            let far = instance.typed_func::<i32, ()>(&store, "far").unwrap();
            [65536 - 8, 65536 - 4, 65536, -1, -16].map(|address| {
                memory.write(&mut store, 65536 - 8, &[0; 8]).unwrap();
                let error = far.call(&mut store, address).unwrap_err();
                let mut last = [0; 8];
                memory.read(&store, 65536 - 8, &mut last).unwrap();
                let trap = error.trap().unwrap();
                (trap.kind(), trap.frames().to_vec(), last)
            })
        });
        assert_eq!(traps[0], traps[1]);
    }
}
