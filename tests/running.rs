//! Running code through the loader's interface: calls, traps, host functions,
//! tables between instances, limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cwasm_compiler::{MemoryBounds, Settings};
use cwasm_loader::{
    Artifact, CacheDir, Caller, Config, Engine, Error, Exception, ExnRef, ExternRef, Func,
    FuncType, Global, GlobalType, Instance, Limits, LinkError, Linker, Memory, MemoryType, Ref,
    SharedMemory, Store, StoreMut, StoreRef, Table, TableType, Tag, TrapKind, Trust, TypedFunc,
    Val, ValType,
};
use cwasm_tests::{artifact, compile_with, load};

/// Instantiates without imports.
fn instantiate<'code>(store: &mut Store<'code, ()>, artifact: &'code Artifact) -> Instance<'code> {
    Linker::new(&Engine::default()).instantiate(store, artifact).unwrap()
}

fn store<'code>() -> Store<'code, ()> {
    Store::new(&Engine::default(), ())
}

#[test]
fn typed_and_dynamic_calls_agree() {
    let code = artifact(
        r#"(module
            (func (export "add") (param i32 i32) (result i32)
                local.get 0 local.get 1 i32.add)
            (func (export "mixed") (param i32 i64 f32 f64) (result f64 f32 i64 i32)
                local.get 3 local.get 2 local.get 1 local.get 0))"#,
    );
    let mut store = store();
    let instance = instantiate(&mut store, &code);
    let add = instance.typed_func::<(i32, i32), i32>(&store, "add").unwrap();
    assert_eq!(add.call(&mut store, (2, 3)).unwrap(), 5);
    let values = add.func().call(&mut store, &[Val::I32(-1), Val::I32(-2)]).unwrap();
    assert_eq!(values[0].i32(), Some(-3));
    let mixed = instance.typed_func::<(i32, i64, f32, f64), (f64, f32, i64, i32)>(&store, "mixed");
    let mixed = mixed.unwrap();
    assert_eq!(mixed.call(&mut store, (1, -2, 3.5, 4.5)).unwrap(), (4.5, 3.5, -2, 1));
}

#[test]
fn many_parameters_and_results_pass_through_the_stack() {
    let n = 40;
    let types = |word: &str| format!("({word} {})", "i64 ".repeat(n));
    let gets: String = (0..n).rev().map(|i| format!("local.get {i} ")).collect();
    let forward: String = (0..n).map(|i| format!("local.get {i} ")).collect();
    let code = artifact(&format!(
        r#"(module
            (func $reverse {p} {r} {gets})
            (func (export "twice") {p} {r} {forward} call $reverse call $reverse)
            (func (export "once") {p} {r} {forward} call $reverse))"#,
        p = types("param"),
        r = types("result"),
    ));
    let mut store = store();
    let instance = instantiate(&mut store, &code);
    let args: Vec<_> = (0..40).map(Val::I64).collect();
    for (name, wanted) in
        [("twice", (0..40).collect::<Vec<_>>()), ("once", (0..40).rev().collect())]
    {
        let func = instance.func(&store, name).unwrap();
        let results = func.call(&mut store, &args).unwrap();
        assert_eq!(results.iter().map(|v| v.i64().unwrap()).collect::<Vec<_>>(), wanted);
    }
}

#[test]
fn wrong_arguments_are_errors() {
    let code = artifact(r#"(module (func (export "f") (param i32)) (memory (export "m") 1))"#);
    let mut store = store();
    let instance = instantiate(&mut store, &code);
    let func = instance.func(&store, "f").unwrap();
    assert!(matches!(
        func.call(&mut store, &[]),
        Err(Error::ArgumentCount { wanted: 1, found: 0 })
    ));
    assert!(matches!(func.call(&mut store, &[Val::I64(0)]), Err(Error::ValueType { .. })));
    assert!(matches!(func.typed::<i64, ()>(&store), Err(Error::FuncType { .. })));
    assert!(matches!(instance.func(&store, "g"), Err(Error::NoExport { .. })));
    assert!(matches!(instance.func(&store, "m"), Err(Error::ExportKind { .. })));
}

#[test]
fn handles_of_another_store_are_errors() {
    let code = artifact(
        r#"(module (func (export "f")) (memory (export "m") 1)
            (table (export "t") 1 funcref) (global (export "g") (mut i32) (i32.const 1)))"#,
    );
    let mut one = store();
    let mut two = store();
    let instance = instantiate(&mut one, &code);
    let func = instance.func(&one, "f").unwrap();
    let memory = instance.memory(&one, "m").unwrap();
    let table = instance.table(&one, "t").unwrap();
    let global = instance.global(&one, "g").unwrap();
    let wrong = |error: Error| assert!(matches!(error, Error::WrongStore { .. }), "{error}");
    wrong(func.call(&mut two, &[]).unwrap_err());
    wrong(func.typed::<(), ()>(&one).unwrap().call(&mut two, ()).unwrap_err());
    wrong(memory.data(&two).unwrap_err());
    wrong(table.get(&two, 0).unwrap_err());
    wrong(global.get(&two).unwrap_err());
    wrong(instance.func(&two, "f").unwrap_err());
    let table = Table::new(
        &mut two,
        TableType::new(ValType::FuncRef, Limits { min: 1, max: None }),
        Ref::Func(None),
    );
    wrong(table.unwrap().set(&mut two, 0, Ref::Func(Some(func))).unwrap_err());
    let value = ExternRef::new(&mut one, 7_u32);
    wrong(value.get(&two).unwrap_err());
}

#[test]
fn traps_say_why_and_where() {
    let code = artifact(
        r#"(module $calculator
            (memory 1)
            (table 3 funcref)
            (elem (i32.const 1) $other)
            (type $unary (func (param i32)))
            (func $other)
            (func $deep (param i32) (result i32) (i32.div_s (i32.const 1) (local.get 0)))
            (func $middle (param i32) (result i32) (call $deep (local.get 0)))
            (func (export "divide") (param i32) (result i32) (call $middle (local.get 0)))
            (func (export "overflow") (result i32)
                (i32.div_s (i32.const 0x80000000) (i32.const -1)))
            (func (export "load") (param i32) (result i32) (i32.load offset=4 (local.get 0)))
            (func (export "far") (param i32) (result i64) (i64.load offset=0xfffffff0 (local.get 0)))
            (func (export "unreachable") unreachable)
            (func (export "convert") (param f64) (result i32) (i32.trunc_f64_s (local.get 0)))
            (func (export "indirect") (param i32) (call_indirect (type $unary) (i32.const 0) (local.get 0)))
            (func (export "table") (param i32) (drop (table.get 0 (local.get 0)))))"#,
    );
    let mut store = store();
    let instance = instantiate(&mut store, &code);
    let mut trap = |name: &str, args: &[Val<'_>]| {
        let func = instance.func(&store, name).unwrap();
        match func.call(&mut store, args) {
            Err(Error::Trap(trap)) => *trap,
            other => panic!("{name}: {other:?}"),
        }
    };
    let divide = trap("divide", &[Val::I32(0)]);
    assert_eq!(divide.kind(), TrapKind::IntegerDivisionByZero);
    let names: Vec<_> =
        divide.frames().iter().map(|f| f.func_name.clone().unwrap_or_default()).collect();
    assert_eq!(names, ["deep", "middle", ""]);
    assert!(divide.frames().iter().all(|f| f.module.as_deref() == Some("calculator")));
    assert!(divide.frames().iter().all(|f| f.wasm_offset.is_some_and(|offset| offset > 8)));
    let text = divide.to_string();
    assert!(text.starts_with("wasm trap: integer divide by zero"), "{text}");
    assert!(text.contains("calculator!deep") && text.contains("calculator!<function 3>"), "{text}");

    for (name, args, wanted) in [
        ("overflow", &[][..], TrapKind::IntegerOverflow),
        ("load", &[Val::I32(65536)], TrapKind::MemoryOutOfBounds),
        ("load", &[Val::I32(-1)], TrapKind::MemoryOutOfBounds),
        ("far", &[Val::I32(0)], TrapKind::MemoryOutOfBounds),
        ("far", &[Val::I32(-1)], TrapKind::MemoryOutOfBounds),
        ("unreachable", &[], TrapKind::Unreachable),
        ("convert", &[Val::F64(f64::NAN.to_bits())], TrapKind::InvalidConversionToInteger),
        ("convert", &[Val::F64(1e10_f64.to_bits())], TrapKind::IntegerOverflow),
        ("indirect", &[Val::I32(3)], TrapKind::UndefinedElement),
        ("indirect", &[Val::I32(0)], TrapKind::UninitializedElement),
        ("indirect", &[Val::I32(1)], TrapKind::IndirectCallTypeMismatch),
        ("table", &[Val::I32(9)], TrapKind::TableOutOfBounds),
    ] {
        assert_eq!(trap(name, args).kind(), wanted, "{name}");
    }
    // The store is as good as new.
    let divide = instance.typed_func::<i32, i32>(&store, "divide").unwrap();
    assert_eq!(divide.call(&mut store, 1).unwrap(), 1);
}

#[test]
fn explicit_checks_trap_where_guards_do() {
    let text = r#"(module
        (memory (export "m") 1 3)
        (func (export "load") (param i32) (result i64) (i64.load offset=8 (local.get 0)))
        (func (export "store") (param i32) (i32.store8 (local.get 0) (i32.const 7)))
        (func (export "far") (param i32) (result i32) (i32.load8_u offset=0xffffffff (local.get 0)))
        (func (export "grow") (result i32) (memory.grow (i32.const 1))))"#;
    for bounds in [MemoryBounds::Guarded, MemoryBounds::Explicit] {
        let settings = Settings { memory_bounds: bounds, ..Settings::default() };
        let code = load(&compile_with(text, &settings));
        let mut store = store();
        let instance = instantiate(&mut store, &code);
        let load = instance.typed_func::<u32, i64>(&store, "load").unwrap();
        let save = instance.typed_func::<u32, ()>(&store, "store").unwrap();
        let far = instance.typed_func::<u32, i32>(&store, "far").unwrap();
        let grow = instance.typed_func::<(), i32>(&store, "grow").unwrap();
        save.call(&mut store, 65535).unwrap();
        assert!(load.call(&mut store, 65536 - 16).unwrap() != 0);
        for index in [65536 - 15, 65536, u32::MAX - 15, u32::MAX] {
            assert!(load.call(&mut store, index).is_err(), "{bounds:?} {index}");
        }
        assert!(save.call(&mut store, 65536).is_err());
        assert!(far.call(&mut store, 0).is_err() && far.call(&mut store, 1).is_err());
        assert_eq!(grow.call(&mut store, ()).unwrap(), 1);
        save.call(&mut store, 131_071).unwrap();
        assert!(save.call(&mut store, 131_072).is_err());
        assert!(load.call(&mut store, 65536 - 16).unwrap() != 0, "growing keeps the contents");
        assert_eq!(grow.call(&mut store, ()).unwrap(), 2);
        assert_eq!(grow.call(&mut store, ()).unwrap(), -1);
    }
}

#[test]
fn an_instruction_may_trap_where_a_call_returns_to() {
    let code = artifact(
        r#"(module
            (func $nothing)
            (func $inner (call $nothing) unreachable)
            (func (export "outer") (call $inner) unreachable))"#,
    );
    let mut store = store();
    let instance = instantiate(&mut store, &code);
    let outer = instance.typed_func::<(), ()>(&store, "outer").unwrap();
    let error = outer.call(&mut store, ()).unwrap_err();
    let trap = error.trap().unwrap();
    assert_eq!(trap.kind(), TrapKind::Unreachable);
    let offsets: Vec<_> = trap.frames().iter().map(|frame| frame.wasm_offset.unwrap()).collect();
    // `unreachable` in the one, the call in the other: bodies of seven bytes, at the same places.
    assert_eq!(trap.frames().len(), 2);
    let distance = offsets[1] - offsets[0];
    assert_eq!(distance, 6 - 2, "{offsets:?}");
}

#[test]
fn runaway_recursion_is_a_trap_and_its_backtrace_is_bounded() {
    let code = artifact(
        r#"(module (func $down (export "down") (param i64) (result i64)
            (i64.add (call $down (i64.add (local.get 0) (i64.const 1))) (i64.const 1))))"#,
    );
    let mut store = store();
    let instance = instantiate(&mut store, &code);
    let down = instance.typed_func::<i64, i64>(&store, "down").unwrap();
    for _ in 0..3 {
        let error = down.call(&mut store, 0).unwrap_err();
        let trap = error.trap().unwrap();
        assert_eq!(trap.kind(), TrapKind::StackOverflow);
        assert_eq!(trap.frames().len(), 100);
        assert!(trap.omitted_frames() > 1000);
        let message = trap.to_string();
        assert_eq!(message.lines().count(), 1 + 100 + 1, "{message}");
    }
    // Also on a thread with a stack that is smaller than what wasm may use.
    let thread = std::thread::Builder::new().stack_size(512 << 10);
    std::thread::scope(|scope| {
        let handle = thread.spawn_scoped(scope, || down.call(&mut store, 0)).unwrap();
        let error = handle.join().unwrap().unwrap_err();
        assert_eq!(error.trap().unwrap().kind(), TrapKind::StackOverflow);
    });
}

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("no luck today ({0})")]
struct NoLuck(i32);

const CALLS_HOST: &str = r#"(module
    (import "host" "f" (func $f (param i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "local") (param i32) (result i32) (i32.add (local.get 0) (i32.const 100)))
    (func $inner (param i32) (result i32) (i32.mul (call $f (local.get 0)) (i32.const 2)))
    (func (export "call") (param i32) (result i32) (call $inner (local.get 0))))"#;

#[test]
fn host_functions_see_their_caller_and_may_fail() {
    let code = artifact(CALLS_HOST);
    let engine = Engine::default();
    let mut linker = Linker::new(&engine);
    let func = |mut caller: Caller<'_, '_, Vec<i32>>, value: i32| -> Result<i32, NoLuck> {
        caller.data_mut().push(value);
        let (memory, data) = caller.memory_and_data_mut().expect("the instance exports its memory");
        memory[0] = u8::try_from(data.len()).unwrap();
        if value == 13 { Err(NoLuck(value)) } else { Ok(value + 1) }
    };
    linker.func("host", "f", func).unwrap();
    let mut store = Store::new(&engine, Vec::new());
    let instance = linker.instantiate(&mut store, &code).unwrap();
    let call = instance.typed_func::<i32, i32>(&store, "call").unwrap();
    assert_eq!(call.call(&mut store, 1).unwrap(), 4);
    let error = call.call(&mut store, 13).unwrap_err();
    assert_eq!(error.downcast_host::<NoLuck>(), Some(&NoLuck(13)));
    assert_eq!(call.call(&mut store, 2).unwrap(), 6);
    assert_eq!(store.data(), &[1, 13, 2]);
    assert_eq!(instance.memory(&store, "memory").unwrap().data(&store).unwrap()[0], 3);
}

#[test]
fn a_panic_of_a_host_function_crosses_wasm() {
    let code = artifact(CALLS_HOST);
    let engine = Engine::default();
    let mut linker = Linker::new(&engine);
    let func = |_: Caller<'_, '_, ()>, value: i32| -> i32 {
        assert!(value != 13, "thirteen");
        value
    };
    linker.func("host", "f", func).unwrap();
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &code).unwrap();
    let call = instance.typed_func::<i32, i32>(&store, "call").unwrap();
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = call.call(&mut store, 13);
    }));
    assert_eq!(panic.unwrap_err().downcast_ref::<&str>(), Some(&"thirteen"));
    assert_eq!(call.call(&mut store, 4).unwrap(), 8);
}

#[test]
fn host_functions_call_back_and_traps_keep_the_whole_backtrace() {
    let code = artifact(
        r#"(module
            (import "host" "again" (func $again (param i32)))
            (func $leaf (param i32) (if (i32.eqz (local.get 0)) (then unreachable)))
            (func $start (export "start") (param i32)
                (call $leaf (local.get 0))
                (call $again (i32.sub (local.get 0) (i32.const 1)))))"#,
    );
    let engine = Engine::default();
    let mut linker = Linker::new(&engine);
    let again = |mut caller: Caller<'_, '_, ()>, value: i32| -> Result<(), Error> {
        let start = caller.export("start").and_then(|item| item.into_func()).unwrap();
        start.call(&mut caller, &[Val::I32(value)])?;
        Ok(())
    };
    linker.func("host", "again", again).unwrap();
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &code).unwrap();
    let start = instance.typed_func::<i32, ()>(&store, "start").unwrap();
    let error = start.call(&mut store, 2).unwrap_err();
    let trap = error.trap().expect("a trap that passes through a host function stays a trap");
    assert_eq!(trap.kind(), TrapKind::Unreachable);
    let names: Vec<_> = trap.frames().iter().map(|f| f.func_name.as_deref().unwrap()).collect();
    assert_eq!(names, ["leaf", "start", "start", "start"]);
}

#[test]
fn host_functions_of_any_type_work_in_tables_and_globals() {
    let code = artifact(
        r#"(module
            (type $t (func (param i64 f32) (result f32 i64)))
            (table (export "t") 2 funcref)
            (func (export "call") (param i32 i64 f32) (result f32 i64)
                (call_indirect (type $t) (local.get 1) (local.get 2) (local.get 0))))"#,
    );
    let mut store = store();
    let ty = FuncType::new([ValType::I64, ValType::F32], [ValType::F32, ValType::I64]);
    let swap = |_: Caller<'_, '_, ()>, args: &[Val<'_>], results: &mut [Val<'_>]| {
        let (Val::I64(a), Val::F32(b)) = (args[0], args[1]) else { unreachable!() };
        results[0] = Val::F32(b);
        results[1] = Val::I64(a);
        Ok(())
    };
    // Made before any artifact has an exit trampoline for its type.
    let early = Func::new(&mut store, ty.clone(), swap);
    let instance = instantiate(&mut store, &code);
    let late = Func::new(&mut store, ty, swap);
    let table = instance.table(&store, "t").unwrap();
    table.set(&mut store, 0, Ref::Func(Some(early))).unwrap();
    table.set(&mut store, 1, Ref::Func(Some(late))).unwrap();
    let call = instance.typed_func::<(i32, i64, f32), (f32, i64)>(&store, "call").unwrap();
    for index in 0..2 {
        assert_eq!(call.call(&mut store, (index, -5, 1.5)).unwrap(), (1.5, -5));
    }
    let global = GlobalType { value: ValType::FuncRef, mutable: true };
    let global = Global::new(&mut store, global, Val::FuncRef(Some(early))).unwrap();
    let Val::FuncRef(Some(func)) = global.get(&store).unwrap() else { panic!("it was set") };
    assert_eq!(func.call(&mut store, &[Val::I64(9), Val::F32(0)]).unwrap()[1].i64(), Some(9));
}

/// A module that has a type and calls nothing by a reference has no way to host functions of the type. Others that share its table have.
#[test]
fn host_functions_are_called_from_the_tables_of_modules_that_cannot() {
    let owner = artifact(
        r#"(module
            (type $t (func (param i64 f32) (result f32 i64)))
            (table (export "t") 2 funcref)
            (func (export "get") (param i32) (result funcref) (table.get (local.get 0)))
            (func (type $t) (local.get 1) (local.get 0)))"#,
    );
    let caller = artifact(
        r#"(module
            (type $t (func (param i64 f32) (result f32 i64)))
            (import "owner" "t" (table 2 funcref))
            (func (export "call") (param i32 i64 f32) (result f32 i64)
                (call_indirect (type $t) (local.get 1) (local.get 2) (local.get 0))))"#,
    );
    let ty = FuncType::new([ValType::I64, ValType::F32], [ValType::F32, ValType::I64]);
    let swap = |_: Caller<'_, '_, ()>, args: &[Val<'_>], results: &mut [Val<'_>]| {
        let (Val::I64(a), Val::F32(b)) = (args[0], args[1]) else { unreachable!() };
        (results[0], results[1]) = (Val::F32(b), Val::I64(a));
        Ok(())
    };
    let mut store = store();
    let mut linker = Linker::new(&Engine::default());
    let owner = linker.instantiate(&mut store, &owner).unwrap();
    linker.instance(&store, "owner", owner).unwrap();
    let table = owner.table(&store, "t").unwrap();
    let early = Func::new(&mut store, ty.clone(), swap);
    table.set(&mut store, 0, Ref::Func(Some(early))).unwrap();
    // The host gets it back, and calls it.
    let get = owner.func(&store, "get").unwrap();
    let [Val::FuncRef(Some(func))] = get.call(&mut store, &[Val::I32(0)]).unwrap()[..] else {
        panic!("it is there")
    };
    assert_eq!(func.call(&mut store, &[Val::I64(9), Val::F32(0)]).unwrap()[1].i64(), Some(9));
    let caller = linker.instantiate(&mut store, &caller).unwrap();
    let late = Func::new(&mut store, ty, swap);
    table.set(&mut store, 1, Ref::Func(Some(late))).unwrap();
    let call = caller.typed_func::<(i32, i64, f32), (f32, i64)>(&store, "call").unwrap();
    for index in 0..2 {
        assert_eq!(call.call(&mut store, (index, -5, 1.5)).unwrap(), (1.5, -5));
    }
}

#[test]
fn functions_in_a_table_outlive_a_failed_instantiation() {
    // The second module writes its function into the first one's table, and
    // then fails. The function stays callable as long as the store lives.
    let first = artifact(
        r#"(module (table (export "t") 4 funcref) (type $t (func (result i32)))
            (func (export "call") (param i32) (result i32)
                (call_indirect (type $t) (local.get 0))))"#,
    );
    let second = artifact(
        r#"(module (import "first" "t" (table 4 funcref)) (memory 1)
            (global $count (mut i32) (i32.const 40))
            (func $f (result i32)
                (global.set $count (i32.add (global.get $count) (i32.const 1)))
                (global.get $count))
            (elem (i32.const 0) $f)
            (data (i32.const 65536) "x"))"#,
    );
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let mut linker = Linker::new(&engine);
    let one = linker.instantiate(&mut store, &first).unwrap();
    linker.instance(&store, "first", one).unwrap();
    let error = linker.instantiate(&mut store, &second).unwrap_err();
    assert_eq!(error.trap().unwrap().kind(), TrapKind::MemoryOutOfBounds);
    let call = one.typed_func::<i32, i32>(&store, "call").unwrap();
    assert_eq!(call.call(&mut store, 0).unwrap(), 41);
    assert_eq!(call.call(&mut store, 0).unwrap(), 42);
}

#[test]
fn links_are_checked() {
    let code = artifact(CALLS_HOST);
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let mut linker = Linker::new(&engine);
    let error = linker.instantiate(&mut store, &code).unwrap_err();
    assert!(matches!(error, Error::Link(LinkError::UnknownImport { .. })));
    assert_eq!(linker.missing(&code).count(), 1);
    linker.func("host", "f", |_: Caller<'_, '_, ()>, _: i64| 1_i32).unwrap();
    let error = linker.instantiate(&mut store, &code).unwrap_err().to_string();
    assert_eq!(
        error,
        "incompatible import type: the module imports `host` `f` as (func (param i32) (result i32)), and it is (func (param i64) (result i32))"
    );
    let again = linker.func("host", "f", |_: Caller<'_, '_, ()>| {});
    assert!(matches!(again, Err(LinkError::Duplicate { .. })));
    linker.allow_shadowing(true);
    linker.func("host", "f", |_: Caller<'_, '_, ()>, value: i32| value).unwrap();
    linker.instantiate(&mut store, &code).unwrap();
}

#[test]
fn memories_and_globals_are_shared_between_instances_and_the_host() {
    let code = artifact(
        r#"(module
            (import "env" "m" (memory 1 4))
            (import "env" "g" (global $g (mut i64)))
            (func (export "run") (result i32)
                (i32.store (i32.const 4) (i32.const 77))
                (global.set $g (i64.add (global.get $g) (i64.const 1)))
                (memory.grow (i32.const 1))))"#,
    );
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let mut linker = Linker::new(&engine);
    let limits = Limits { min: 1, max: Some(3) };
    let memory = Memory::new(&mut store, MemoryType::new(limits)).unwrap();
    let global = GlobalType { value: ValType::I64, mutable: true };
    let global = Global::new(&mut store, global, Val::I64(41)).unwrap();
    linker.define(&store, "env", "m", memory).unwrap();
    linker.define(&store, "env", "g", global).unwrap();
    let instance = linker.instantiate(&mut store, &code).unwrap();
    let run = instance.typed_func::<(), i32>(&store, "run").unwrap();
    assert_eq!(run.call(&mut store, ()).unwrap(), 1);
    assert_eq!(memory.data(&store).unwrap()[4], 77);
    assert_eq!(memory.size_pages(&store).unwrap(), 2);
    assert_eq!(global.get(&store).unwrap().i64(), Some(42));
    assert_eq!(memory.grow(&mut store, 1).unwrap(), 2);
    assert_eq!(run.call(&mut store, ()).unwrap(), -1);
    assert!(matches!(memory.grow(&mut store, 1), Err(Error::MemoryLimit { pages: 4, .. })));
    let mut buffer = [0; 4];
    assert!(memory.read(&store, 3 * 65536 - 3, &mut buffer).is_err());
    memory.write(&mut store, 8, &[1, 2, 3]).unwrap();
    memory.read(&store, 8, &mut buffer).unwrap();
    assert_eq!(buffer, [1, 2, 3, 0]);
}

#[test]
fn limits_of_a_store_hold() {
    let code = artifact(
        r#"(module (memory 1) (table $t 1 funcref)
            (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
            (func (export "grow_table") (param i32) (result i32)
                (table.grow $t (ref.null func) (local.get 0))))"#,
    );
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    store.limits_mut().memory_pages = 2;
    store.limits_mut().table_elements = 5;
    store.limits_mut().instances = 1;
    let linker = Linker::new(&engine);
    let instance = linker.instantiate(&mut store, &code).unwrap();
    let grow = instance.typed_func::<i32, i32>(&store, "grow").unwrap();
    assert_eq!(grow.call(&mut store, 1).unwrap(), 1);
    assert_eq!(grow.call(&mut store, 1).unwrap(), -1);
    let grow = instance.typed_func::<i32, i32>(&store, "grow_table").unwrap();
    assert_eq!(grow.call(&mut store, 4).unwrap(), 1);
    assert_eq!(grow.call(&mut store, 1).unwrap(), -1);
    let error = linker.instantiate(&mut store, &code).unwrap_err();
    assert!(matches!(error, Error::StoreLimit { what: "instances", limit: 1 }));
}

#[test]
fn fuel_and_epochs_stop_an_endless_loop() {
    let text = r#"(module (func (export "spin") (loop (br 0))) (func (export "quick")))"#;
    let settings = Settings { fuel: true, epoch: true, ..Settings::default() };
    let code = load(&compile_with(text, &settings));
    assert!(code.uses_fuel() && code.uses_epoch());
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    store.set_fuel(10_000);
    store.set_epoch_deadline(1_000_000);
    let instance = Linker::new(&engine).instantiate(&mut store, &code).unwrap();
    let spin = instance.typed_func::<(), ()>(&store, "spin").unwrap();
    let quick = instance.typed_func::<(), ()>(&store, "quick").unwrap();
    let trap = spin.call(&mut store, ()).unwrap_err();
    assert_eq!(trap.trap().unwrap().kind(), TrapKind::OutOfFuel);
    assert_eq!(store.fuel(), 0);
    store.set_fuel(u64::MAX);
    quick.call(&mut store, ()).unwrap();
    store.set_epoch_deadline(1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            engine.increment_epoch();
        });
        let trap = spin.call(&mut store, ()).unwrap_err();
        assert_eq!(trap.trap().unwrap().kind(), TrapKind::Interrupted);
    });
}

#[test]
fn closures_and_data_are_dropped_with_their_store() {
    struct Counted(Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let drops = Arc::new(AtomicUsize::new(0));
    let code = artifact(CALLS_HOST);
    let engine = Engine::default();
    {
        let mut store = Store::new(&engine, Counted(Arc::clone(&drops)));
        let mut linker = Linker::new(&engine);
        let counted = Counted(Arc::clone(&drops));
        let func = move |_: Caller<'_, '_, Counted>, value: i32| {
            let _ = &counted;
            value
        };
        linker.func("host", "f", func).unwrap();
        let instance = linker.instantiate(&mut store, &code).unwrap();
        drop(linker);
        assert_eq!(drops.load(Ordering::Relaxed), 0, "the store keeps the closure");
        let call = instance.typed_func::<i32, i32>(&store, "call").unwrap();
        assert_eq!(call.call(&mut store, 3).unwrap(), 6);
        ExternRef::new(&mut store, Counted(Arc::clone(&drops)));
    }
    assert_eq!(drops.load(Ordering::Relaxed), 3);
}

#[test]
fn threads_run_their_own_stores_on_one_artifact() {
    let code = artifact(
        r#"(module (memory 1)
            (func $fib (export "fib") (param i32) (result i32)
                (if (result i32) (i32.lt_s (local.get 0) (i32.const 2))
                    (then (local.get 0))
                    (else (i32.add
                        (call $fib (i32.sub (local.get 0) (i32.const 1)))
                        (call $fib (i32.sub (local.get 0) (i32.const 2)))))))
            (func (export "trap") (result i32) (i32.load (i32.const -1))))"#,
    );
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let mut store = store();
                    let instance = instantiate(&mut store, &code);
                    let fib = instance.typed_func::<i32, i32>(&store, "fib").unwrap();
                    assert_eq!(fib.call(&mut store, 15).unwrap(), 610);
                    let trap = instance.typed_func::<(), i32>(&store, "trap").unwrap();
                    assert!(trap.call(&mut store, ()).unwrap_err().trap().is_some());
                }
            });
        }
    });
}

#[test]
fn the_stack_for_wasm_is_what_the_engine_allows() {
    let code = artifact(
        r#"(module (func $down (export "down") (param i32)
            (if (local.get 0) (then (call $down (i32.sub (local.get 0) (i32.const 1)))))))"#,
    );
    let depth_of = |stack: usize| {
        let mut config = Config::default();
        config.max_wasm_stack = stack;
        let mut store = Store::new(&Engine::new(config), ());
        let instance = instantiate(&mut store, &code);
        let down = instance.typed_func::<i32, ()>(&store, "down").unwrap();
        (0..).map(|n| 1 << n).find(|n| down.call(&mut store, *n).is_err()).unwrap()
    };
    assert!(depth_of(64 << 10) < depth_of(1 << 20));
}

#[test]
fn a_store_may_allow_less_stack_than_its_engine() {
    let code = artifact(
        r#"(module (func $down (export "down") (param i32)
            (if (local.get 0) (then (call $down (i32.sub (local.get 0) (i32.const 1)))))))"#,
    );
    let mut store = store();
    let instance = instantiate(&mut store, &code);
    let down = instance.typed_func::<i32, ()>(&store, "down").unwrap();
    down.call(&mut store, 4096).unwrap();
    store.limits_mut().stack = 16 << 10;
    let error = down.call(&mut store, 4096).unwrap_err();
    assert_eq!(error.trap().unwrap().kind(), TrapKind::StackOverflow);
    // Never more than the engine allows.
    store.limits_mut().stack = usize::MAX;
    down.call(&mut store, 4096).unwrap();
    assert!(down.call(&mut store, 1 << 24).is_err());
}

#[test]
fn large_images_are_private_to_each_instance() {
    // More than is copied, with an end that is not at a page boundary.
    let bytes = "ab".repeat(150_001);
    let code = artifact(&format!(
        r#"(module (memory (export "m") 6) (data (i32.const 8192) "{bytes}")
            (func (export "poke") (i32.store8 (i32.const 8192) (i32.const 120))))"#
    ));
    let mut one = store();
    let mut two = store();
    let first = instantiate(&mut one, &code);
    let second = instantiate(&mut two, &code);
    first.typed_func::<(), ()>(&one, "poke").unwrap().call(&mut one, ()).unwrap();
    let memory = |instance: Instance<'_>, store: &Store<'_, ()>| {
        instance.memory(store, "m").unwrap().data(store).unwrap()[8190..8196].to_vec()
    };
    assert_eq!(memory(first, &one), b"\0\0xbab");
    assert_eq!(memory(second, &two), b"\0\0abab");
    let third = instantiate(&mut two, &code);
    assert_eq!(memory(third, &two), b"\0\0abab");
    let all = third.memory(&two, "m").unwrap().data(&two).unwrap();
    assert_eq!(all.iter().filter(|byte| **byte != 0).count(), bytes.len());
    assert!(all[8192 + bytes.len()..].iter().all(|byte| *byte == 0));
}

/// Whether a thing can be sent to other threads, and used by several at once.
fn assert_send_and_sync<T: Send + Sync>() {}

#[test]
fn thread_claims_hold() {
    assert_send_and_sync::<Artifact>();
    assert_send_and_sync::<Trust>();
    assert_send_and_sync::<CacheDir>();
    assert_send_and_sync::<Engine>();
    assert_send_and_sync::<Store<'_, Vec<String>>>();
    assert_send_and_sync::<Linker<'_, std::rc::Rc<()>>>();
    assert_send_and_sync::<Instance<'_>>();
    assert_send_and_sync::<Func<'_>>();
    assert_send_and_sync::<Memory<'_>>();
    assert_send_and_sync::<Table<'_>>();
    assert_send_and_sync::<Global<'_>>();
    assert_send_and_sync::<Tag<'_>>();
    assert_send_and_sync::<TypedFunc<'_, (i32, f64), u128>>();
    assert_send_and_sync::<ExternRef>();
    assert_send_and_sync::<ExnRef>();
    assert_send_and_sync::<Exception>();
    assert_send_and_sync::<SharedMemory>();
    assert_send_and_sync::<StoreRef<'_, '_, Vec<String>>>();
    assert_send_and_sync::<StoreMut<'_, '_, Vec<String>>>();
    assert_send_and_sync::<Caller<'_, '_, Vec<String>>>();
    assert_send_and_sync::<Error>();
}

/// Compiles only if the lifetimes of what borrows artifacts can be shortened: `docs/soundness.md`.
#[test]
fn lifetimes_can_be_shortened() {
    macro_rules! shortens {
        ($($function:ident: $what:ident$(<$($data:ty),*>)?,)*) => {$(
            fn $function<'short, 'long: 'short>(
                long: $what<'long$(, $($data),*)?>,
            ) -> $what<'short$(, $($data),*)?> {
                long
            }
            let _ = $function;
        )*};
    }
    shortens! {
        store: Store<Vec<u8>>,
        linker: Linker<Vec<u8>>,
        instance: Instance,
        func: Func,
        typed_func: TypedFunc<i32, (i64, f32)>,
        memory: Memory,
        table: Table,
        global: Global,
        tag: Tag,
    }
    // And so one linker serves stores that live for different times.
    let engine = Engine::default();
    let mut linker = Linker::new(&engine);
    linker.func("host", "f", |_: Caller<'_, '_, ()>| 7).unwrap();
    let text = r#"(module (import "host" "f" (func $f (result i32))) (export "f" (func $f)))"#;
    for _ in 0..2 {
        let code = artifact(text);
        let mut store = Store::new(&engine, ());
        let instance = linker.instantiate(&mut store, &code).unwrap();
        let f = instance.typed_func::<(), i32>(&store, "f").unwrap();
        assert_eq!(f.call(&mut store, ()).unwrap(), 7);
    }
}

#[test]
fn a_store_keeps_shared_artifacts_until_it_is_dropped() {
    let code = Arc::new(artifact(r#"(module (func (export "f") (result i32) (i32.const 7)))"#));
    let engine = Engine::default();
    let linker = Linker::<'static, ()>::new(&engine);
    let mut store: Store<'static, ()> = Store::new(&engine, ());
    let instance = linker.instantiate_shared(&mut store, &code).unwrap();
    linker.instantiate_shared(&mut store, &code).unwrap();
    assert_eq!(Arc::strong_count(&code), 2, "one share, however many instances");
    let shares = Arc::downgrade(&code);
    drop(code);
    let f = instance.typed_func::<(), i32>(&store, "f").unwrap();
    assert_eq!(f.call(&mut store, ()).unwrap(), 7);
    assert_eq!(shares.strong_count(), 1, "a call touches no reference count");
    drop(store);
    assert_eq!(shares.strong_count(), 0);
    assert!(matches!(f.call(&mut Store::new(&engine, ()), ()), Err(Error::WrongStore { .. })));
}

#[test]
fn a_table_that_is_too_large_compiles_and_fails_to_instantiate() {
    let code = artifact("(module (table 4000000000 funcref))");
    let mut store = store();
    let result = Linker::new(&Engine::default()).instantiate(&mut store, &code);
    assert!(matches!(result, Err(Error::TableLimit { elements: 4_000_000_000 })));
}

/// Tables that are so large that they are made of several.
#[test]
fn large_branch_tables_lead_where_they_say() {
    for size in [8191_u32, 8192, 8193, 20_000] {
        let entries: Vec<String> = (0..size).map(|n| (n / 3 % 5).to_string()).collect();
        // Each block that a value leaves adds its own power of two to it.
        let code = artifact(&format!(
            r#"(module (func (export "f") (param $n i32) (result i32)
                (block (result i32) (block (result i32) (block (result i32) (block (result i32) (block (result i32)
                    (br_table {} 4 (i32.const 1000) (local.get $n)))
                    (i32.add (i32.const 1))) (i32.add (i32.const 2))) (i32.add (i32.const 4))) (i32.add (i32.const 8)))))"#,
            entries.join(" ")
        ));
        let mut store = store();
        let instance = instantiate(&mut store, &code);
        let f = instance.typed_func::<i32, i32>(&store, "f").unwrap();
        let last = [u32::MAX, 1 << 31, 1 << 13, 1 << 26];
        for n in (0..size + 100).chain(last) {
            let left = if n < size { n / 3 % 5 } else { 4 };
            let added = [15, 14, 12, 8, 0][left as usize];
            assert_eq!(f.call(&mut store, n.cast_signed()).unwrap(), 1000 + added, "{n} of {size}");
        }
    }
}
