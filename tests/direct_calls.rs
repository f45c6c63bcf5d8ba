//! Host functions that compiled code calls without a trampoline in between: what goes in and comes out, and every way to end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cwasm_loader::{
    Caller, Engine, Error, Exception, ExternRef, Func, HostError, Linker, Ref, Store, TrapKind,
    Val, WasmTyList,
};
use cwasm_tests::artifact;

/// Calls a host function with constants through an import, through a table, and in the last place, and compares what
/// comes back. `$args` are as WAT has them.
macro_rules! travels {
    ($params:literal, $result:literal, $args:literal, $func:expr, $wanted:expr) => {{
        let code = artifact(&format!(
            r#"(module
                (type $t (func {params} {result}))
                (import "host" "f" (func $f (type $t)))
                (table (export "t") 1 funcref)
                (func (export "import") {result} (call $f {args}))
                (func (export "table") {result} (call_indirect (type $t) {args} (i32.const 0)))
                (func (export "last") {result} (return_call $f {args})))"#,
            params = $params,
            result = $result,
            args = $args
        ));
        let mut store = Store::new(&Engine::default(), 7_u32);
        let mut linker = Linker::new(&Engine::default());
        linker.func("host", "f", $func).unwrap();
        let instance = linker.instantiate(&mut store, &code).unwrap();
        let func = Func::wrap(&mut store, $func);
        let table = instance.table(&store, "t").unwrap();
        table.set(&mut store, 0, Ref::Func(Some(func))).unwrap();
        for name in ["import", "table", "last"] {
            let func = instance.func(&store, name).unwrap();
            returns(&mut store, func, $wanted);
        }
    }};
}

/// Calls a function twice.
fn returns<'code, R: WasmTyList + PartialEq + std::fmt::Debug>(
    store: &mut Store<'code, u32>,
    func: Func<'code>,
    wanted: R,
) {
    let func = func.typed::<(), R>(store).unwrap();
    for _ in 0..2 {
        assert_eq!(func.call(store, ()).unwrap(), wanted);
    }
}

type In<'a, 'c> = Caller<'a, 'c, u32>;

#[test]
fn values_of_every_type_go_in_and_come_out() {
    travels!("", "", "", |caller: In<'_, '_>| assert_eq!(*caller.data(), 7), ());
    travels!("(param i32)", "(result i32)", "(i32.const -5)", |_: In<'_, '_>, a: i32| a - 1, -6);
    travels!("(param i32)", "(result i32)", "(i32.const -1)", |_: In<'_, '_>, a: u32| a, u32::MAX);
    travels!(
        "(param i64)",
        "(result i64)",
        "(i64.const 0x123456789abcdef0)",
        |_: In<'_, '_>, a: u64| a,
        0x1234_5678_9abc_def0_u64
    );
    travels!(
        "(param f32)",
        "(result f32)",
        "(f32.const 1.5)",
        |_: In<'_, '_>, a: f32| -a,
        -1.5_f32
    );
    travels!("(param f64)", "(result f64)", "(f64.const 2.5)", |_: In<'_, '_>, a: f64| -a, -2.5);
    // The bits of a NaN stay, also of one that signals.
    travels!(
        "(param f32)",
        "(result i32)",
        "(f32.const nan:0x200001)",
        |_: In<'_, '_>, a: f32| a.to_bits(),
        0x7fa0_0001_u32
    );
    travels!(
        "(param v128 i32)",
        "(result v128)",
        "(v128.const i64x2 1 2) (i32.const 3)",
        |_: In<'_, '_>, a: u128, b: u32| a + u128::from(b),
        (2_u128 << 64) + 4
    );
    travels!(
        "(param i32 f64)",
        "(result f64 i32)",
        "(i32.const 3) (f64.const 4)",
        |_: In<'_, '_>, a: i32, b: f64| (b, a),
        (4.0, 3)
    );
}

#[test]
fn the_bits_of_a_nan_come_out() {
    let code = artifact(
        r#"(module
            (import "host" "f" (func $f (result f64)))
            (func (export "bits") (result i64) (i64.reinterpret_f64 (call $f))))"#,
    );
    let signaling = 0x7ff4_0000_0000_0003;
    let mut linker = Linker::new(&Engine::default());
    linker.func("host", "f", move |_: In<'_, '_>| f64::from_bits(signaling)).unwrap();
    let mut store = Store::new(&Engine::default(), 0);
    let instance = linker.instantiate(&mut store, &code).unwrap();
    let bits = instance.typed_func::<(), u64>(&store, "bits").unwrap();
    assert_eq!(bits.call(&mut store, ()).unwrap(), signaling);
}

#[test]
fn as_many_values_go_in_as_there_are_registers_and_more() {
    let digits = |digits: &[u32]| digits.iter().fold(0, |sum, digit| sum * 10 + digit);
    travels!(
        "(param i32 i32 i32 i32 i32)",
        "(result i32)",
        "(i32.const 1) (i32.const 2) (i32.const 3) (i32.const 4) (i32.const 5)",
        move |_: In<'_, '_>, a: u32, b: u32, c: u32, d: u32, e: u32| digits(&[a, b, c, d, e]),
        12345_u32
    );
    travels!(
        "(param i32 i32 i32 i32 i32 i32)",
        "(result i32)",
        "(i32.const 1) (i32.const 2) (i32.const 3) (i32.const 4) (i32.const 5) (i32.const 6)",
        move |_: In<'_, '_>, a: u32, b: u32, c: u32, d: u32, e: u32, f: u32| {
            digits(&[a, b, c, d, e, f])
        },
        123_456_u32
    );
    travels!(
        "(param f64 f64 f64 f64 f64 f64 f64 f64)",
        "(result f64)",
        "(f64.const 1) (f64.const 2) (f64.const 3) (f64.const 4)
         (f64.const 5) (f64.const 6) (f64.const 7) (f64.const 8)",
        |_: In<'_, '_>, a: f64, b: f64, c: f64, d: f64, e: f64, f: f64, g: f64, h: f64| {
            [a, b, c, d, e, f, g, h].iter().fold(0.0, |sum, digit| sum * 10.0 + digit)
        },
        12_345_678.0
    );
    travels!(
        "(param f64 f64 f64 f64 f64 f64 f64 f64 f64)",
        "(result f64)",
        "(f64.const 1) (f64.const 2) (f64.const 3) (f64.const 4)
         (f64.const 5) (f64.const 6) (f64.const 7) (f64.const 8) (f64.const 9)",
        |_: In<'_, '_>, a: f64, b: f64, c: f64, d: f64, e: f64, f: f64, g: f64, h: f64, i: f64| {
            [a, b, c, d, e, f, g, h, i].iter().fold(0.0, |sum, digit| sum * 10.0 + digit)
        },
        123_456_789.0
    );
    // Registers of the two kinds are counted apart.
    travels!(
        "(param i32 f32 i64 f64 i32 f32 i64 f64 i32)",
        "(result i64)",
        "(i32.const 1) (f32.const 2) (i64.const 3) (f64.const 4) (i32.const 5)
         (f32.const 6) (i64.const 7) (f64.const 8) (i32.const 9)",
        |_: In<'_, '_>, a: u32, b: f32, c: u64, d: f64, e: u32, f: f32, g: u64, h: f64, i: u32| {
            // As decimals, whole numbers look alike in all types.
            format!("{a}{b}{c}{d}{e}{f}{g}{h}{i}").parse::<u64>().unwrap()
        },
        123_456_789_u64
    );
}

#[test]
fn references_go_in_and_come_out_and_must_belong_to_the_store() {
    let code = artifact(
        r#"(module
            (import "host" "f" (func $f (param externref i32) (result externref)))
            (func (export "call") (param externref i32) (result externref)
                (call $f (local.get 0) (local.get 1))))"#,
    );
    let mut elsewhere = Store::new(&Engine::default(), ());
    let foreign = ExternRef::new(&mut elsewhere, "foreign");
    let mut store = Store::new(&Engine::default(), ());
    let own = ExternRef::new(&mut store, "own");
    let mut linker = Linker::new(&Engine::default());
    let choose = move |_: Caller<'_, '_, ()>, given: Option<ExternRef>, choice: i32| match choice {
        0 => None,
        1 => given,
        _ => Some(foreign),
    };
    linker.func("host", "f", choose).unwrap();
    let instance = linker.instantiate(&mut store, &code).unwrap();
    let call =
        instance.typed_func::<(Option<ExternRef>, i32), Option<ExternRef>>(&store, "call").unwrap();
    assert_eq!(call.call(&mut store, (Some(own), 0)).unwrap(), None);
    assert_eq!(call.call(&mut store, (Some(own), 1)).unwrap(), Some(own));
    assert_eq!(call.call(&mut store, (None, 1)).unwrap(), None);
    let error = call.call(&mut store, (Some(own), 2)).unwrap_err();
    assert!(matches!(error, Error::WrongStore { .. }), "{error}");
    assert_eq!(call.call(&mut store, (Some(own), 1)).unwrap(), Some(own));
}

/// A host function that ends as it is told, and wasm that has values of its own across the call.
const ENDING: &str = r#"(module
    (import "host" "end" (func $end (param i32) (result i32)))
    (tag $tag (export "tag") (param i32))
    (func $middle (param i32 i32) (result i32)
        (i32.add (call $end (local.get 0)) (local.get 1)))
    (func $call (export "call") (param i32) (result i32)
        (i32.add (call $middle (local.get 0) (i32.const 1000)) (i32.const 1)))
    (func (export "last") (param i32) (result i32) (return_call $end (local.get 0)))
    (func (export "catch") (param i32) (result i32) (local $own i32)
        (local.set $own (i32.mul (local.get 0) (i32.const 3)))
        (i32.add (local.get $own)
            (block $thrown (result i32)
                (try_table (result i32) (catch $tag $thrown)
                    (call $middle (local.get 0) (local.get $own))))))
    (func (export "catch at once") (param i32) (result i32)
        (block $thrown (result i32)
            (try_table (result i32) (catch $tag $thrown) (call $end (local.get 0)))))
    (func $never (param i32) (result i32) (drop (call $end (local.get 0))) (unreachable))
    (func $outer (export "never") (param i32) (result i32) (call $never (local.get 0))))"#;

const RETURN: i32 = 1;
const FAIL: i32 = 2;
const PANIC: i32 = 3;
const THROW: i32 = 4;
const STACK: i32 = 5;
/// Through wasm once more, and then as what remains says.
const AGAIN: i32 = 10;

/// Has a share of `held` while it runs.
fn end(held: Arc<()>) -> impl Fn(Caller<'_, '_, ()>, i32) -> Result<i32, HostError> + Send + Sync {
    move |mut caller, how| {
        let _share = Arc::clone(&held);
        match how {
            RETURN => Ok(5),
            FAIL => Err(Box::new(Error::ImmutableGlobal)),
            PANIC => panic!("as told"),
            THROW => {
                let tag = caller.export("tag").and_then(|item| item.into_tag()).ok_or("no tag")?;
                Err(Exception::new(&mut caller, tag, &[Val::I32(77)])?.into())
            }
            STACK => caller.check_stack(usize::MAX).map(|()| 0).map_err(Into::into),
            _ => {
                let call = caller.export("call").and_then(|item| item.into_func()).ok_or("none")?;
                let inner = call.call(&mut caller, &[Val::I32(how - AGAIN)])?;
                inner[0].i32().ok_or_else(|| "another type".into())
            }
        }
    }
}

#[test]
fn every_way_to_end_leaves_a_store_that_goes_on() {
    let code = artifact(ENDING);
    let mut store = Store::new(&Engine::default(), ());
    let mut linker = Linker::new(&Engine::default());
    let held = Arc::new(());
    linker.func("host", "end", end(Arc::clone(&held))).unwrap();
    let instance = linker.instantiate(&mut store, &code).unwrap();
    let mut run = |name: &str, how: i32| {
        let func = instance.typed_func::<i32, i32>(&store, name).unwrap();
        let result = catch_unwind(AssertUnwindSafe(|| func.call(&mut store, how)));
        // What the host function had was dropped, however it ended. One share is here, and one the function's own.
        assert_eq!(Arc::strong_count(&held), 2, "{name} {how}");
        result
    };
    for _ in 0..3 {
        for again in (0..40).step_by(10) {
            // Each time that it goes through wasm adds 1001.
            let layers = again / AGAIN + 1;
            for (name, own) in [("call", 0), ("last", -1001), ("catch at once", -1001)] {
                let found = run(name, RETURN + again).unwrap().unwrap();
                assert_eq!(found, 5 + 1001 * layers + own, "{name}");
            }
            for name in ["call", "last", "catch", "catch at once", "never"] {
                let error = run(name, FAIL + again).unwrap().unwrap_err();
                assert!(matches!(error, Error::ImmutableGlobal), "{name}: {error}");
                let panic = run(name, PANIC + again).unwrap_err();
                assert_eq!(panic.downcast_ref::<&str>(), Some(&"as told"), "{name}");
                let error = run(name, STACK + again).unwrap().unwrap_err();
                assert_eq!(error.trap().unwrap().kind(), TrapKind::StackOverflow, "{name}");
            }
            for name in ["call", "last", "never"] {
                let error = run(name, THROW + again).unwrap().unwrap_err();
                assert!(error.exception().is_some(), "{name}: {error}");
            }
            // Values that the frame has across the call are still there where it is caught.
            let found = run("catch", THROW + again).unwrap().unwrap();
            assert_eq!(found, 77 + 3 * (THROW + again));
            assert_eq!(run("catch at once", THROW + again).unwrap().unwrap(), 77);
        }
    }
}

#[test]
fn backtraces_name_the_calls_that_led_to_the_host() {
    let code = artifact(ENDING);
    let mut store = Store::new(&Engine::default(), ());
    let mut linker = Linker::new(&Engine::default());
    linker.func("host", "end", end(Arc::new(()))).unwrap();
    let instance = linker.instantiate(&mut store, &code).unwrap();
    let module = wat::parse_str(ENDING).unwrap();
    for how in [THROW, STACK] {
        for (name, functions) in
            [("call", &["middle", "call"][..]), ("never", &["never", "outer"]), ("last", &[])]
        {
            let func = instance.typed_func::<i32, i32>(&store, name).unwrap();
            let error = func.call(&mut store, how).unwrap_err();
            let frames = match error.exception() {
                Some(exception) => exception.frames(),
                None => error.trap().unwrap().frames(),
            };
            assert_eq!(frames.len(), functions.len(), "{name} {how}: {error}");
            for (frame, function) in frames.iter().zip(functions) {
                assert_eq!(frame.func_name.as_deref(), Some(*function), "{name} {how}");
                // At a call, and not at what follows it, which may trap.
                let offset = frame.wasm_offset.unwrap() as usize;
                assert_eq!(module[offset], 0x10, "{name} {how}: {error}");
            }
        }
    }
}
