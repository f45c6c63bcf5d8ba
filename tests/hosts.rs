//! Host functions that misbehave, and the store that must survive it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use cwasm_compiler::{MemoryBounds, Settings};
use cwasm_loader::{
    Artifact, Caller, Config, Engine, Error, Func, FuncType, Instance, Linker, Ref, Store,
    TrapKind, Val, ValType,
};
use cwasm_tests::fault::child;
use cwasm_tests::{artifact, compile_with, load};

/// Calls itself through the host, reads memory around a host call, and lets the
/// host call any element of a table.
const PROGRAM: &str = r#"(module
    (import "host" "f" (func $f (param i32) (result i32)))
    (import "host" "invoke" (func $invoke (param i32)))
    (memory (export "memory") 1 64)
    (table (export "table") 4 funcref)
    (global $depth (export "depth") (mut i32) (i32.const 0))
    (type $invoke (func (param i32)))
    (elem (i32.const 0) $invoke $mutual)
    (func (export "call") (param i32) (result i32) (call $f (local.get 0)))
    (func (export "after") (param i32) (result i32)
        (i32.store (i32.const 0) (i32.const 1))
        (drop (call $f (local.get 0)))
        (i32.store (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 4)) (i32.const 99))
        (i32.add
            (i32.load (i32.const 0))
            (i32.load (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 4)))))
    (func $mutual (export "mutual") (param i32)
        (global.set $depth (i32.add (global.get $depth) (i32.const 1)))
        (call $invoke (local.get 0)))
    (func (export "sound") (result i32) (i32.const 42))
    (func (export "trap") unreachable))"#;

fn linker<'code>(
    f: impl Fn(Caller<'_, '_, u32>, i32) -> Result<i32, Error> + Send + Sync + 'code,
) -> Linker<'code, u32> {
    let mut linker = Linker::new(&Engine::default());
    linker.func("host", "f", f).unwrap();
    // What a plugin system might offer: the guest names a function to call.
    let invoke = |mut caller: Caller<'_, '_, u32>, index: i32| -> Result<(), Error> {
        *caller.data_mut() += 1;
        let table = caller.export("table").and_then(|item| item.into_table()).unwrap();
        match table.get(&caller, u64::try_from(index).unwrap_or(0))? {
            Ref::Func(Some(func)) => func.call(&mut caller, &[Val::I32(index)]).map(drop),
            _ => Ok(()),
        }
    };
    linker.func("host", "invoke", invoke).unwrap();
    linker
}

fn store<'code>() -> Store<'code, u32> {
    Store::new(&Engine::default(), 0)
}

/// The store still runs code, traps, and counts the same.
fn is_sound<'code>(store: &mut Store<'code, u32>, instance: Instance<'code>) {
    let sound = instance.typed_func::<(), i32>(store, "sound").unwrap();
    assert_eq!(sound.call(store, ()).unwrap(), 42);
    let trap = instance.typed_func::<(), ()>(store, "trap").unwrap();
    let error = trap.call(store, ()).unwrap_err();
    let trap = error.trap().expect("a trap");
    assert_eq!((trap.kind(), trap.frames().len()), (TrapKind::Unreachable, 1));
}

#[test]
fn panics_and_errors_pass_through_many_layers_of_wasm_and_host() {
    let code = artifact(PROGRAM);
    let linker = linker(|mut caller, value| {
        match value {
            0 => std::panic::panic_any("at the bottom".to_owned()),
            100 => return Err(Error::ImmutableGlobal),
            _ => {}
        }
        let call = caller.export("call").and_then(|item| item.into_func()).unwrap();
        let results = call.call(&mut caller, &[Val::I32(value - 1)])?;
        Ok(results[0].i32().unwrap())
    });
    let mut store = store();
    let instance = linker.instantiate(&mut store, &code).unwrap();
    let call = instance.typed_func::<i32, i32>(&store, "call").unwrap();
    for _ in 0..50 {
        let panic = catch_unwind(AssertUnwindSafe(|| call.call(&mut store, 30))).unwrap_err();
        assert_eq!(panic.downcast_ref::<String>().unwrap(), "at the bottom");
        is_sound(&mut store, instance);
        let error = call.call(&mut store, 130).unwrap_err();
        assert!(matches!(error, Error::ImmutableGlobal), "{error}");
        is_sound(&mut store, instance);
    }
}

#[test]
fn a_host_function_may_handle_what_the_wasm_that_it_calls_fails_with() {
    let code = artifact(PROGRAM);
    let linker = linker(|mut caller, value| {
        if value == 0 {
            panic!("handled");
        }
        let trap = caller.export("trap").and_then(|item| item.into_func()).unwrap();
        assert!(trap.call(&mut caller, &[]).unwrap_err().trap().is_some());
        let call = caller.export("call").and_then(|item| item.into_func()).unwrap();
        let again = AssertUnwindSafe(|| call.call(&mut caller, &[Val::I32(0)]));
        assert!(catch_unwind(again).is_err());
        Ok(value + 1)
    });
    let mut store = store();
    let instance = linker.instantiate(&mut store, &code).unwrap();
    let call = instance.typed_func::<i32, i32>(&store, "call").unwrap();
    for _ in 0..50 {
        assert_eq!(call.call(&mut store, 5).unwrap(), 6);
        is_sound(&mut store, instance);
    }
}

#[test]
fn wasm_uses_the_memory_that_a_host_function_grew() {
    for bounds in [MemoryBounds::Guarded, MemoryBounds::Explicit] {
        let settings = Settings { memory_bounds: bounds, ..Settings::default() };
        let code = load(&compile_with(PROGRAM, &settings));
        let linker = linker(|mut caller, pages| {
            let memory = caller.memory().unwrap();
            let old = memory.grow(&mut caller, u64::try_from(pages).unwrap())?;
            memory.write(&mut caller, 0, &7_i32.to_le_bytes())?;
            Ok(i32::try_from(old).unwrap())
        });
        let mut store = store();
        let instance = linker.instantiate(&mut store, &code).unwrap();
        let after = instance.typed_func::<i32, i32>(&store, "after").unwrap();
        for pages in [1, 2, 30] {
            assert_eq!(after.call(&mut store, pages).unwrap(), 7 + 99, "{bounds:?}");
        }
        let memory = instance.memory(&store, "memory").unwrap();
        assert_eq!(memory.size_pages(&store).unwrap(), 34);
        // Beyond its maximum, the host function fails, and so does the call.
        let error = after.call(&mut store, 31).unwrap_err();
        assert!(matches!(error, Error::MemoryLimit { pages: 65, .. }), "{error}");
        is_sound(&mut store, instance);
    }
}

#[test]
fn wasm_uses_the_memory_that_grew_in_a_call_back() {
    let text = r#"(module
        (import "host" "f" (func $f (param i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "grow") (result i32) (memory.grow (i32.const 100)))
        (func (export "outer") (result i32)
            (i32.store (i32.const 8) (i32.const 5))
            (drop (call $f (i32.const 0)))
            (i32.store (i32.const 6000000) (i32.const 6))
            (i32.add (i32.load (i32.const 8)) (i32.load (i32.const 6000000)))))"#;
    for bounds in [MemoryBounds::Guarded, MemoryBounds::Explicit] {
        let settings = Settings { memory_bounds: bounds, ..Settings::default() };
        let code = load(&compile_with(text, &settings));
        let linker = linker(|mut caller, _| {
            let grow = caller.export("grow").and_then(|item| item.into_func()).unwrap();
            Ok(grow.call(&mut caller, &[])?[0].i32().unwrap())
        });
        let mut store = store();
        let instance = linker.instantiate(&mut store, &code).unwrap();
        let outer = instance.typed_func::<(), i32>(&store, "outer").unwrap();
        assert_eq!(outer.call(&mut store, ()).unwrap(), 11, "{bounds:?}");
    }
}

/// Calls `mutual` with an index of the table until the stack is used up.
fn overflows(code: &Artifact, index: i32) -> (u32, usize) {
    let linker = linker(|_, value| Ok(value));
    let mut store = store();
    let instance = linker.instantiate(&mut store, code).unwrap();
    let mutual = instance.typed_func::<i32, ()>(&store, "mutual").unwrap();
    let mut frames = 0;
    for _ in 0..3 {
        let error = mutual.call(&mut store, index).unwrap_err();
        let trap = error.trap().unwrap_or_else(|| panic!("{error}"));
        assert_eq!(trap.kind(), TrapKind::StackOverflow);
        frames = trap.frames().len();
        is_sound(&mut store, instance);
    }
    (*store.data(), frames)
}

/// On stacks of several sizes.
fn on_threads(body: &(dyn Fn() + Sync)) {
    for size in [256 << 10, 2 << 20, 16 << 20] {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(size);
            thread.spawn_scoped(scope, body).unwrap().join().unwrap();
        });
    }
}

#[test]
fn mutual_recursion_of_wasm_and_host_is_a_trap() {
    child::run("mutual_recursion_of_wasm_and_host_is_a_trap", || {
        let code = artifact(PROGRAM);
        on_threads(&|| {
            let (calls, frames) = overflows(&code, 1);
            assert!(calls > 30 && frames > 5, "{calls} calls, {frames} frames");
        });
    })
    .well();
}

#[test]
fn a_guest_that_lets_a_host_function_call_itself_is_a_trap() {
    // No wasm runs between the calls: element 0 is the host function itself.
    child::run("a_guest_that_lets_a_host_function_call_itself_is_a_trap", || {
        let code = artifact(PROGRAM);
        on_threads(&|| {
            let (calls, frames) = overflows(&code, 0);
            assert!(calls > 30, "{calls} calls");
            assert_eq!(frames, 1, "the wasm that began it");
        });
    })
    .well();
}

/// Counts those that are alive.
struct Alive<'a>(&'a AtomicUsize);

impl<'a> Alive<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Recurses without wasm, until there is no more stack than it asks for. Counts its levels.
fn recurse(caller: &mut Caller<'_, '_, u32>, alive: &AtomicUsize) -> Result<u64, Error> {
    let _alive = Alive::new(alive);
    caller.check_stack(48 << 10)?;
    *caller.data_mut() += 1;
    let frame = std::hint::black_box([1_u64; 64]);
    Ok(recurse(caller, alive)? + frame[0])
}

#[test]
fn a_host_function_that_asks_for_stack_turns_its_end_into_a_trap() {
    child::run("a_host_function_that_asks_for_stack_turns_its_end_into_a_trap", || {
        let code = artifact(PROGRAM);
        on_threads(&|| {
            let alive = AtomicUsize::new(0);
            let linker = linker(|mut caller, value| match value {
                0 => Ok(7),
                _ => recurse(&mut caller, &alive).map(|_| 0),
            });
            let mut store = store();
            let instance = linker.instantiate(&mut store, &code).unwrap();
            let call = instance.typed_func::<i32, i32>(&store, "call").unwrap();
            for _ in 0..3 {
                *store.data_mut() = 0;
                let error = call.call(&mut store, 1).unwrap_err();
                let trap = error.trap().unwrap_or_else(|| panic!("{error}"));
                assert_eq!(trap.kind(), TrapKind::StackOverflow);
                assert_eq!(trap.frames().len(), 1, "the wasm that called it");
                assert!(*store.data() > 30, "{} levels", store.data());
                assert_eq!(alive.load(Ordering::Relaxed), 0, "destructors ran");
                assert_eq!(call.call(&mut store, 0).unwrap(), 7);
                is_sound(&mut store, instance);
            }
        });
    })
    .well();
}

#[test]
fn a_host_function_that_recurses_through_wasm_runs_its_destructors() {
    child::run("a_host_function_that_recurses_through_wasm_runs_its_destructors", || {
        let code = artifact(PROGRAM);
        on_threads(&|| {
            let alive = AtomicUsize::new(0);
            // A little on its own at each level, then back into wasm.
            let linker = linker(|mut caller, value| {
                let _alive = Alive::new(&alive);
                caller.check_stack(48 << 10)?;
                *caller.data_mut() += 1;
                let call = caller.export("call").and_then(|item| item.into_func()).unwrap();
                let results = call.call(&mut caller, &[Val::I32(value)])?;
                Ok(results[0].i32().unwrap())
            });
            let mut store = store();
            let instance = linker.instantiate(&mut store, &code).unwrap();
            let call = instance.typed_func::<i32, i32>(&store, "call").unwrap();
            for _ in 0..3 {
                let error = call.call(&mut store, 1).unwrap_err();
                assert_eq!(error.trap().unwrap().kind(), TrapKind::StackOverflow);
                assert!(*store.data() > 10, "{} levels", store.data());
                assert_eq!(alive.load(Ordering::Relaxed), 0, "destructors ran");
                is_sound(&mut store, instance);
            }
        });
    })
    .well();
}

/// The least that a host function found, at any depth of wasm, on a thread of this size.
fn least_stack(code: &Artifact, engine: &Engine, size: usize) -> usize {
    let least = AtomicUsize::new(usize::MAX);
    let mut linker = Linker::new(engine);
    let f = |caller: Caller<'_, '_, ()>| {
        least.fetch_min(caller.stack_left(), Ordering::Relaxed);
    };
    linker.func("host", "f", f).unwrap();
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(size);
        let run = || {
            let mut store = Store::new(engine, ());
            let instance = linker.instantiate(&mut store, code).unwrap();
            let down = instance.typed_func::<(), ()>(&store, "down").unwrap();
            let error = down.call(&mut store, ()).unwrap_err();
            assert_eq!(error.trap().unwrap().kind(), TrapKind::StackOverflow);
        };
        thread.spawn_scoped(scope, run).unwrap().join().unwrap();
    });
    least.load(Ordering::Relaxed)
}

#[test]
fn a_host_function_begins_with_the_stack_that_is_kept_for_it() {
    // A host call at every depth, down to the last.
    let code = artifact(
        r#"(module (import "host" "f" (func $f)) (func $down (export "down") call $f call $down))"#,
    );
    for reserve in [0, 64 << 10, 128 << 10, 700 << 10] {
        let mut config = Config::default();
        config.host_stack = reserve;
        config.max_wasm_stack = usize::MAX;
        let least = least_stack(&code, &Engine::new(config), 2 << 20);
        let wanted = reserve.max(32 << 10);
        assert!(
            (wanted..wanted + (8 << 10)).contains(&least),
            "{least} bytes were left, of {wanted}"
        );
    }
    // On a small stack, half of it.
    let least = least_stack(&code, &Engine::default(), 128 << 10);
    assert!((56 << 10..68 << 10).contains(&least), "{least} bytes were left");
}

#[test]
fn recursion_through_new_stores_is_a_trap() {
    // Every level has a store of its own, hence no earlier stack limit to go by.
    child::run("recursion_through_new_stores_is_a_trap", || {
        fn deeper(code: &Artifact) -> Result<(), Error> {
            let engine = Engine::default();
            let mut linker = Linker::new(&engine);
            let next = |_: Caller<'_, '_, ()>| deeper(code);
            linker.func("host", "deeper", next)?;
            linker.instantiate(&mut Store::new(&engine, ()), code)?;
            Ok(())
        }
        let code = artifact(
            r#"(module (import "host" "deeper" (func $deeper)) (func $s call $deeper) (start $s))"#,
        );
        on_threads(&|| {
            let error = deeper(&code).unwrap_err();
            assert_eq!(error.trap().unwrap().kind(), TrapKind::StackOverflow);
        });
    })
    .well();
}

#[test]
fn a_host_function_may_call_back_from_another_thread() {
    // A store may be lent to another thread during a host call. The stack there
    // is another one: the limit of the first thread's stack means nothing.
    child::run("a_host_function_may_call_back_from_another_thread", || {
        const RECURSES: &str = r#"(module
            (import "host" "f" (func $f (param i32) (result i32)))
            (func $down (export "down") (param i32) (result i32)
                (if (result i32) (local.get 0)
                    (then (i32.add (i32.const 1) (call $down (i32.sub (local.get 0) (i32.const 1)))))
                    (else (i32.const 0))))
            (func $middle (export "call") (param i32) (result i32) (call $f (local.get 0))))"#;
        let code = artifact(RECURSES);
        for stack in [192 << 10, 256 << 10, 8 << 20] {
            let linker = linker(move |mut caller, depth| {
                std::thread::scope(|scope| {
                    let thread = std::thread::Builder::new().stack_size(stack);
                    let body = || -> Result<i32, Error> {
                        let down = caller.export("down").and_then(|item| item.into_func());
                        let results = down.unwrap().call(&mut caller, &[Val::I32(depth)])?;
                        Ok(results[0].i32().unwrap())
                    };
                    thread.spawn_scoped(scope, body).unwrap().join().unwrap()
                })
            });
            let mut store = store();
            let instance = linker.instantiate(&mut store, &code).unwrap();
            let call = instance.typed_func::<i32, i32>(&store, "call").unwrap();
            let down = instance.typed_func::<i32, i32>(&store, "down").unwrap();
            for _ in 0..3 {
                assert_eq!(call.call(&mut store, 100).unwrap(), 100);
                let error = call.call(&mut store, i32::MAX).unwrap_err();
                let trap = error.trap().unwrap_or_else(|| panic!("{error}"));
                assert_eq!(trap.kind(), TrapKind::StackOverflow);
                // And the first thread has its own limit again.
                assert_eq!(down.call(&mut store, 5000).unwrap(), 5000);
                assert!(down.call(&mut store, i32::MAX).unwrap_err().trap().is_some());
            }
        }
    })
    .well();
}

#[test]
fn the_backtrace_of_a_call_back_from_another_thread_has_both_threads() {
    let code = artifact(PROGRAM);
    let linker = linker(|mut caller, _| {
        std::thread::scope(|scope| {
            let body = || {
                let trap = caller.export("trap").and_then(|item| item.into_func());
                trap.unwrap().call(&mut caller, &[]).map(|_| 0)
            };
            scope.spawn(body).join().unwrap()
        })
    });
    let mut store = store();
    let instance = linker.instantiate(&mut store, &code).unwrap();
    let call = instance.typed_func::<i32, i32>(&store, "call").unwrap();
    let error = call.call(&mut store, 0).unwrap_err();
    assert_eq!(error.trap().unwrap().frames().len(), 2, "{error}");
    is_sound(&mut store, instance);
}

#[test]
fn a_host_function_with_wrong_results_is_an_error() {
    let code = artifact(
        r#"(module (import "host" "f" (func $f (result i64)))
        (func (export "run") (result i64) call $f) (func (export "sound") (result i32) (i32.const 42))
        (func (export "trap") unreachable))"#,
    );
    let mut linker = Linker::new(&Engine::default());
    let ty = FuncType::new([], [ValType::I64]);
    let wrong = |_: Caller<'_, '_, u32>, _: &[Val<'_>], results: &mut [Val<'_>]| {
        results[0] = Val::I32(1);
        Ok(())
    };
    linker.func_dynamic("host", "f", ty, wrong).unwrap();
    let mut store = store();
    let instance = linker.instantiate(&mut store, &code).unwrap();
    let run = instance.typed_func::<(), i64>(&store, "run").unwrap();
    let error = run.call(&mut store, ()).unwrap_err();
    assert!(matches!(error, Error::ValueType { .. }), "{error}");
    is_sound(&mut store, instance);
}

#[test]
fn a_host_function_may_instantiate_and_make_functions_while_wasm_runs() {
    // Both make lists of the store longer, to which running code holds addresses.
    let code = artifact(PROGRAM);
    let small = artifact("(module (memory 1) (table 1 funcref) (global i32 (i32.const 1)))");
    let linker = linker(|mut caller, value| {
        for _ in 0..20 {
            let func = Func::wrap(&mut caller, |_: Caller<'_, '_, u32>| 1_i32);
            assert_eq!(func.call(&mut caller, &[])?[0].i32(), Some(1));
        }
        Ok(value)
    });
    let mut store = store();
    let instance = linker.instantiate(&mut store, &code).unwrap();
    let call = instance.typed_func::<i32, i32>(&store, "call").unwrap();
    for round in 0..100 {
        assert_eq!(call.call(&mut store, round).unwrap(), round);
        Linker::new(&Engine::default()).instantiate(&mut store, &small).unwrap();
    }
    is_sound(&mut store, instance);
}
