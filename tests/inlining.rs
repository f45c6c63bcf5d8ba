//! Small functions are copied to their calls, and nobody can tell from outside.

use cwasm_compiler::Settings;
use cwasm_loader::{Engine, Linker, Store, TrapKind};
use cwasm_tests::calls::{instantiate, store};
use cwasm_tests::{artifact, compile_with, load};
use proptest::prelude::*;

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

/// Functions that call nothing but themselves: along a list, along a tree, in a loop, with two results, and never to an end.
const RECURSIVE: &str = r#"(module $m
    (func $chain (export "chain") (param i32 i32) (result i32)
        (if (result i32) (i32.eqz (local.get 0))
            (then (i32.div_u (i32.const 100) (local.get 1)))
            (else (i32.mul (i32.const 3)
                (call $chain (i32.sub (local.get 0) (i32.const 1)) (local.get 1))))))
    (func $tree (export "tree") (param i32) (result i32)
        (if (i32.lt_u (local.get 0) (i32.const 2)) (then (return (i32.const 1))))
        (i32.add (call $tree (i32.sub (local.get 0) (i32.const 1)))
            (i32.xor (local.get 0) (call $tree (i32.sub (local.get 0) (i32.const 2))))))
    (func $loop (export "loop") (param i32 i32) (result i32)
        (block
            (loop
                (br_if 1 (i32.eqz (local.get 0)))
                (local.set 1 (if (result i32) (local.get 1)
                    (then (call $loop (local.get 0) (i32.sub (local.get 1) (i32.const 1))))
                    (else (i32.const 1))))
                (local.set 0 (i32.sub (local.get 0) (i32.const 1)))
                (br 0)))
        (i32.add (local.get 1) (i32.const 1)))
    (func $two (export "two") (param i32) (result i32 i64)
        (if (result i32 i64) (local.get 0)
            (then (call $two (i32.sub (local.get 0) (i32.const 1)))
                (i64.add (i64.extend_i32_u (local.get 0)))
                (return))
            (else (i32.const 7) (i64.const 0))))
    (func $many (export "many") (param i32) (result i32)
        (if (i32.eqz (local.get 0)) (then (return (i32.const 1))))
        (local.set 0 (i32.sub (local.get 0) (i32.const 1)))
        (call $many (local.get 0)) (i32.add (call $many (local.get 0)))
        (i32.add (call $many (local.get 0))) (i32.add (call $many (local.get 0)))
        (i32.add (call $many (local.get 0))) (i32.add (call $many (local.get 0))))
    (memory 1) (data (i32.const 8) "\10\00\00\00") (data (i32.const 16) "\ff\ff\ff\ff")
    (func $follow (export "follow") (param i32 i32) (result i32)
        (if (result i32) (local.get 0)
            (then (i32.load (call $follow (i32.sub (local.get 0) (i32.const 1)) (local.get 1))))
            (else (local.get 1))))
    (func $behind (export "behind") (param i32 i32) (result i32)
        (if (local.get 0) (then
            (drop (call $behind (i32.const 0) (local.get 1)))
            (unreachable)))
        (if (local.get 1) (then
            (return (call $behind (i32.const 0) (i32.sub (local.get 1) (i32.const 1))))))
        (i32.const 0))
    (func $endless (export "endless") (param i32) (result i32)
        (i32.add (call $endless (i32.add (local.get 0) (i32.const 1))) (i32.const 1)))
    (func (export "from outside") (param i32) (result i32)
        (i32.add (call $tree (local.get 0)) (call $chain (local.get 0) (i32.const 9)))))"#;

fn tree(n: i32) -> i32 {
    if n < 2 { 1 } else { tree(n - 1).wrapping_add(n ^ tree(n - 2)) }
}

fn ackermann(m: i32, n: i32) -> i32 {
    match (m, n) {
        (0, n) => n + 1,
        (m, 0) => ackermann(m - 1, 1),
        (m, n) => ackermann(m - 1, ackermann(m, n - 1)),
    }
}

#[test]
fn functions_with_copies_of_themselves_compute_what_they_did() {
    let code = artifact(RECURSIVE);
    let mut store = store();
    let instance = instantiate(&mut store, &code);
    let one = |name| instance.typed_func::<i32, i32>(&store, name).unwrap();
    let (of_tree, many, outside) = (one("tree"), one("many"), one("from outside"));
    let chain = instance.typed_func::<(i32, i32), i32>(&store, "chain").unwrap();
    let of_loop = instance.typed_func::<(i32, i32), i32>(&store, "loop").unwrap();
    let two = instance.typed_func::<i32, (i32, i64)>(&store, "two").unwrap();
    for n in 0..12_i32 {
        let thirds = 3_i32.pow(n.cast_unsigned());
        assert_eq!(chain.call(&mut store, (n, 9)).unwrap(), 11 * thirds);
        assert_eq!(of_tree.call(&mut store, n).unwrap(), tree(n), "{n}");
        assert_eq!(outside.call(&mut store, n).unwrap(), tree(n) + 11 * thirds);
        assert_eq!(two.call(&mut store, n).unwrap(), (7, i64::from(n * (n + 1) / 2)));
    }
    for (m, n) in [(0, 0), (0, 5), (1, 0), (1, 4), (2, 0), (2, 3), (3, 0), (3, 4)] {
        assert_eq!(of_loop.call(&mut store, (m, n)).unwrap(), ackermann(m, n), "{m} {n}");
    }
    for n in 0..5_i32 {
        assert_eq!(many.call(&mut store, n).unwrap(), 6_i32.pow(n.cast_unsigned()));
    }
}

#[test]
fn backtraces_show_each_level_of_a_recursion() {
    // Code that counts fuel keeps its calls, and so says what is right.
    let settings = [Settings::default(), Settings { fuel: true, ..Settings::default() }];
    let [copied, called] = settings.map(|settings| {
        let code = load(&compile_with(RECURSIVE, &settings));
        let mut store = store();
        store.set_fuel(10_000);
        let instance = instantiate(&mut store, &code);
        let mut frames = |name, depth, argument, kind| {
            let func = instance.typed_func::<(i32, i32), i32>(&store, name).unwrap();
            let error = func.call(&mut store, (depth, argument)).unwrap_err();
            let trap = error.trap().unwrap();
            assert_eq!(trap.kind(), kind);
            (trap.frames().to_vec(), trap.omitted_frames())
        };
        // Of the last, not all have room, and there are fewer frames than there is room for if half of the levels have none.
        let chains = [0, 1, 2, 3, 8, 150].map(|depth| {
            let (frames, omitted) = frames("chain", depth, 0, TrapKind::IntegerDivisionByZero);
            assert_eq!(frames.len() + omitted, 1 + usize::try_from(depth).unwrap());
            assert!(frames.len() <= 100);
            (frames, omitted)
        });
        // Behind a call that returned, at each distance from the end.
        let loads = [-1, 16, 8].map(|first| {
            [3, 4, 7].map(|depth| frames("follow", depth, first, TrapKind::MemoryOutOfBounds))
        });
        // Where a call returns to that was copied, and the trap was not.
        let traps = [0, 1, 2].map(|n| frames("behind", 1, n, TrapKind::Unreachable));
        (chains, loads, traps)
    });
    assert_eq!(copied, called);
}

#[test]
fn a_recursion_without_an_end_exhausts_the_stack() {
    let code = artifact(RECURSIVE);
    let mut store = store();
    let instance = instantiate(&mut store, &code);
    let endless = instance.typed_func::<i32, i32>(&store, "endless").unwrap();
    for _ in 0..2 {
        let error = endless.call(&mut store, 0).unwrap_err();
        assert_eq!(error.trap().unwrap().kind(), TrapKind::StackOverflow);
    }
}

/// What a recursion computes where it goes on: in text, with locals that count down, that are arguments, and that change.
fn step() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        (0..3_u8).prop_map(|local| format!("(local.get {local})")),
        (-2..20_i8).prop_map(|number| format!("(i32.const {number})")),
        Just("(i32.load (local.get 1))".to_owned()),
    ];
    leaf.prop_recursive(4, 10, 3, |inner| {
        let two = (inner.clone(), inner.clone());
        prop_oneof![
            3 => (1..4_u8, inner.clone()).prop_map(|(less, argument)| format!(
                "(call $f (i32.sub (local.get 0) (i32.const {less})) {argument})"
            )),
            1 => (prop::sample::select(&["add", "sub", "xor", "mul", "div_u", "shl"][..]), two.clone())
                .prop_map(|(operator, (a, b))| format!("(i32.{operator} {a} {b})")),
            1 => inner.clone().prop_map(|value| format!("(local.tee 2 {value})")),
            1 => inner.clone().prop_map(|address| format!("(i32.load {address})")),
            1 => (inner.clone(), two).prop_map(|(condition, (a, b))| format!(
                "(if (result i32) {condition} (then {a}) (else {b}))"
            )),
            1 => inner.prop_map(|value| format!(
                "(block (result i32) (loop (drop (br_if 1 {value} (local.get 3)))
                    (local.set 3 (i32.const 1)) (br 0)) (unreachable))"
            )),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn recursions_do_what_they_do_without_copies(step in step()) {
        let text = format!(
            r#"(module $m (memory 1)
                (func $f (export "f") (param i32 i32) (result i32) (local i32 i32)
                    (if (i32.le_s (local.get 0) (i32.const 0)) (then (return (local.get 1))))
                    {step}))"#
        );
        // Code that counts fuel keeps its calls.
        let settings = [Settings::default(), Settings { fuel: true, ..Settings::default() }];
        let [copied, called] = settings.map(|settings| {
            let code = load(&compile_with(&text, &settings));
            let mut store = store();
            store.set_fuel(u64::MAX);
            let instance = instantiate(&mut store, &code);
            let f = instance.typed_func::<(i32, i32), i32>(&store, "f").unwrap();
            [(0, 7), (1, 0), (2, -1), (3, 65_536), (4, 5), (5, 1)].map(|arguments| {
                f.call(&mut store, arguments).map_err(|error| {
                    let trap = error.trap().unwrap();
                    let mut frames = trap.frames().to_vec();
                    // That of a load may be the operator that uses what was loaded, if one instruction does both.
                    frames[0].wasm_offset = None;
                    (trap.kind(), frames, trap.omitted_frames())
                })
            })
        });
        prop_assert_eq!(copied, called);
    }
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
