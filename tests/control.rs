//! Typed function references, tail calls and exceptions: what crosses instances, host functions and
//! the border to the host, and how long exceptions live.

use std::sync::Mutex;

use cwasm_compiler::Settings;
use cwasm_loader::{
    Caller, Engine, Error, Exception, Func, FuncType, Global, GlobalType, HeapType, HostError,
    Limits, LinkError, Linker, Ref, RefType, Store, Table, TableType, Tag, TagType, TrapKind, Val,
    ValType,
};
use cwasm_tests::calls::{call, instantiate, int, linker, store, trap};
use cwasm_tests::{artifact, compile_with, load};

fn thrown(result: Result<Vec<Val<'_>>, Error>) -> Exception {
    match result {
        Err(Error::Exception(exception)) => exception,
        other => panic!("{other:?}"),
    }
}

// Tail calls.

const PING: &str = r#"(module
    (type $step (func (param i32 i64 i64 i64 i64 i64 i64 i64) (result i64)))
    (import "pong" "table" (table 1 funcref))
    (func $ping (export "ping") (type $step)
        (if (i32.eqz (local.get 0)) (then (return (local.get 7))))
        (return_call_indirect (type $step)
            (i32.sub (local.get 0) (i32.const 1)) (local.get 1) (local.get 2) (local.get 3)
            (local.get 4) (local.get 5) (local.get 6) (i64.add (local.get 7) (i64.const 1))
            (i32.const 0))))"#;

const PONG: &str = r#"(module
    (type $step (func (param i32 i64 i64 i64 i64 i64 i64 i64) (result i64)))
    (type $wide (func (param i32 i64 i64 i64 i64 i64 i64 i64 (ref $step)) (result i64)))
    (table (export "table") 1 funcref)
    (global $ping (mut (ref null $step)) (ref.null $step))
    (func (export "meet") (param (ref $step)) (global.set $ping (local.get 0)))
    (elem (i32.const 0) $pong)
    (func $pong (type $step)
        (return_call $widen (local.get 0) (local.get 1) (local.get 2) (local.get 3)
            (local.get 4) (local.get 5) (local.get 6) (local.get 7)
            (ref.as_non_null (global.get $ping))))
    ;; More parameters than fit in registers, so that the stack of arguments changes its size.
    (func $widen (type $wide)
        (return_call_ref $step (local.get 0) (local.get 1) (local.get 2) (local.get 3)
            (local.get 4) (local.get 5) (local.get 6) (local.get 7) (local.get 8))))"#;

#[test]
fn tail_calls_between_instances_take_no_stack() {
    // Ten million, or with `CWASM_LONG=1` a billion. Three tail calls a turn.
    let long = std::env::var_os("CWASM_LONG").is_some();
    let turns = if long { 340_000_000 } else { 3_400_000 };

    let (ping, pong) = (artifact(PING), artifact(PONG));
    let mut store = store();
    let pong = instantiate(&mut store, &pong);
    let mut linker = linker();
    linker.instance(&store, "pong", pong).unwrap();
    let ping = linker.instantiate(&mut store, &ping).unwrap();
    let func = ping.func(&store, "ping").unwrap();
    call(&mut store, &pong, "meet", &[Val::FuncRef(Some(func))]).unwrap();
    let mut args = vec![Val::I64(0); 8];
    args[0] = Val::I32(turns);
    let result = func.call(&mut store, &args).unwrap();
    assert_eq!(result[0].i64(), Some(turns.into()));
}

#[test]
fn a_tail_call_of_a_host_function_returns_to_the_callers_caller() {
    let code = artifact(
        r#"(module
            (import "host" "add" (func $add (param i32 i32) (result i32)))
            (import "host" "fail" (func $fail))
            (func $tail (param i32) (result i32)
                (return_call $add (local.get 0) (i32.const 1)))
            (func (export "run") (param i32) (result i32)
                (i32.mul (call $tail (local.get 0)) (i32.const 10)))
            (func $failing (return_call $fail))
            (func (export "outer") (call $failing)))"#,
    );
    let mut store = store();
    let mut linker = linker();
    linker.func("host", "add", |_: Caller<'_, '_, ()>, a: i32, b: i32| a + b).unwrap();
    let fail = |_: Caller<'_, '_, ()>| -> Result<(), HostError> { Err("on purpose".into()) };
    linker.func("host", "fail", fail).unwrap();
    let instance = linker.instantiate(&mut store, &code).unwrap();
    assert_eq!(int(call(&mut store, &instance, "run", &[Val::I32(4)])), 50);
    let error = call(&mut store, &instance, "outer", &[]).unwrap_err();
    assert_eq!(error.to_string(), "on purpose");
}

#[test]
fn endless_tail_calls_run_out_of_fuel_and_time() {
    let text = r#"(module (func $f (export "f") (return_call $f)))"#;
    let code = load(&compile_with(text, &Settings { fuel: true, ..Settings::default() }));
    let mut one = store();
    let instance = instantiate(&mut one, &code);
    one.set_fuel(1_000_000);
    assert_eq!(trap(call(&mut one, &instance, "f", &[])), TrapKind::OutOfFuel);

    let code = load(&compile_with(text, &Settings { epoch: true, ..Settings::default() }));
    let engine = Engine::default();
    let mut two = Store::new(&engine, ());
    let instance = Linker::new(&engine).instantiate(&mut two, &code).unwrap();
    two.set_epoch_deadline(1);
    engine.increment_epoch();
    assert_eq!(trap(call(&mut two, &instance, "f", &[])), TrapKind::Interrupted);
}

#[test]
fn a_backtrace_has_no_functions_that_were_replaced() {
    let code = artifact(
        r#"(module
            (func $last unreachable)
            (func $middle (return_call $last))
            (func $first (call $middle))
            (func (export "run") (call $first)))"#,
    );
    let mut store = store();
    let instance = instantiate(&mut store, &code);
    let error = call(&mut store, &instance, "run", &[]).unwrap_err();
    let frames = error.trap().unwrap().frames();
    let names: Vec<_> = frames.iter().map(|f| f.func_name.as_deref().unwrap_or("")).collect();
    assert_eq!(names, ["last", "first", ""]);
}

// Typed references.

const TYPED: &str = r#"(module
    (type $unary (func (param i32) (result i32)))
    (type $other (func (param i64)))
    ;; A type that refers to itself and one that refers to another.
    (type $chain (func (param (ref null $chain)) (result i32)))
    (type $of_unary (func (param (ref $unary)) (result i32)))
    (table $nullable (export "nullable") 2 (ref null $unary))
    (table $filled (export "filled") 2 4 (ref $unary) (ref.func $double))
    (global (export "global") (mut (ref $unary)) (ref.func $double))
    (global (export "other") (mut (ref null $other)) (ref.null $other))
    (func $double (export "double") (type $unary) (i32.mul (local.get 0) (i32.const 2)))
    (func (export "longer") (type $other))
    (func (export "chain") (type $chain)
        (block $last
            (return (i32.add (i32.const 1) (call_ref $chain (ref.null $chain)
                (br_on_null $last (local.get 0))))))
        (i32.const 1))
    (func (export "apply") (type $of_unary) (call_ref $unary (i32.const 21) (local.get 0)))
    (func (export "apply or null") (param (ref null $unary)) (result i32)
        (call_ref $unary (i32.const 21) (local.get 0)))
    (func (export "non null") (param (ref null $unary)) (result (ref $unary))
        (block $there (result (ref $unary))
            (br_on_non_null $there (local.get 0))
            (ref.func $double)))
    (func (export "as non null") (param (ref null $unary)) (result (ref $unary))
        (ref.as_non_null (local.get 0)))
    (func (export "local") (param i32) (result i32)
        (local $f (ref $unary))
        (local.set $f (ref.func $double))
        (if (local.get 0) (then (local.set $f (ref.func $double))))
        (call_ref $unary (local.get 0) (local.get $f)))
    (func (export "grow") (result i32)
        (table.grow $filled (ref.func $double) (i32.const 1))))"#;

#[test]
fn typed_references_work_and_null_traps() {
    let code = artifact(TYPED);
    let mut store = store();
    let instance = instantiate(&mut store, &code);
    let double = Val::FuncRef(Some(instance.func(&store, "double").unwrap()));
    let chain = Val::FuncRef(Some(instance.func(&store, "chain").unwrap()));
    assert_eq!(int(call(&mut store, &instance, "apply", &[double])), 42);
    assert_eq!(int(call(&mut store, &instance, "chain", &[chain])), 2);
    assert_eq!(int(call(&mut store, &instance, "chain", &[Val::FuncRef(None)])), 1);
    assert_eq!(int(call(&mut store, &instance, "local", &[Val::I32(4)])), 8);
    assert_eq!(int(call(&mut store, &instance, "grow", &[])), 2);
    let null = [Val::FuncRef(None)];
    let kind = trap(call(&mut store, &instance, "apply or null", &null));
    assert_eq!(kind, TrapKind::NullFunctionReference);
    let kind = trap(call(&mut store, &instance, "as non null", &null));
    assert_eq!(kind, TrapKind::NullReference);
    let found = call(&mut store, &instance, "non null", &null).unwrap();
    assert!(matches!(found[0], Val::FuncRef(Some(_))));
}

#[test]
fn the_host_cannot_put_a_function_where_its_type_does_not_belong() {
    let code = artifact(TYPED);
    let mut store = store();
    let instance = instantiate(&mut store, &code);
    let double = instance.func(&store, "double").unwrap();
    let longer = instance.func(&store, "longer").unwrap();
    let table = instance.table(&store, "nullable").unwrap();
    let filled = instance.table(&store, "filled").unwrap();
    let global = instance.global(&store, "global").unwrap();
    let wrong = |result: Result<(), Error>| match result {
        Err(Error::ValueType { wanted, found }) => (wanted, found),
        other => panic!("{other:?}"),
    };
    table.set(&mut store, 0, Ref::Func(Some(double))).unwrap();
    table.set(&mut store, 0, Ref::Func(None)).unwrap();
    let (wanted, found) = wrong(table.set(&mut store, 0, Ref::Func(Some(longer))));
    assert_eq!(wanted, table.ty(&store).unwrap().element);
    let heap = longer.heap_type(&store).unwrap();
    assert_eq!(found, ValType::Ref(RefType { nullable: false, heap }));
    wrong(table.set(&mut store, 0, Ref::Extern(None)));
    wrong(filled.set(&mut store, 0, Ref::Func(None)));
    wrong(filled.grow(&mut store, 1, Ref::Func(None)).map(|_| ()));
    wrong(filled.grow(&mut store, 1, Ref::Func(Some(longer))).map(|_| ()));
    global.set(&mut store, Val::FuncRef(Some(double))).unwrap();
    wrong(global.set(&mut store, Val::FuncRef(Some(longer))));
    wrong(global.set(&mut store, Val::FuncRef(None)));
    for value in [Val::FuncRef(Some(longer)), Val::FuncRef(None), Val::I32(0)] {
        wrong(call(&mut store, &instance, "apply", &[value]).map(|_| ()));
    }
    let ty = TableType::new(wanted, Limits { min: 1, max: None });
    wrong(Table::new(&mut store, ty, Ref::Func(Some(longer))).map(|_| ()));
    Table::new(&mut store, ty, Ref::Func(Some(double))).unwrap();
}

#[test]
fn results_of_host_functions_have_their_types() {
    let code = artifact(
        r#"(module (type $unary (func (param i32) (result i32)))
            (import "host" "give" (func $give (param i32) (result (ref $unary))))
            (table (export "functions") 4 funcref)
            (func (export "run") (param i32) (result i32)
                (call_ref $unary (i32.const 3) (call $give (local.get 0)))))"#,
    );
    let mut store = store();
    let unary = FuncType::new([ValType::I32], [ValType::I32]);
    let heap = store.heap_type(unary.clone());
    assert_eq!(store.func_type(heap), Some(&unary));
    let triple = Func::wrap(&mut store, |_: Caller<'_, '_, ()>, a: i32| a * 3);
    let longer = Func::wrap(&mut store, |_: Caller<'_, '_, ()>, a: i64| a);
    assert_eq!(triple.heap_type(&store).unwrap(), heap);
    let ty = FuncType::new([ValType::I32], [ValType::Ref(RefType { nullable: false, heap })]);
    let mut linker = linker();
    linker
        .func_dynamic("host", "give", ty, move |caller, params, results| {
            let table = caller.export("functions").and_then(|item| item.into_table());
            let which = u64::try_from(params[0].i32().unwrap_or(0))?;
            if which < 3 {
                results[0] = table.ok_or("no table")?.get(&caller, which)?.into();
            }
            Ok(())
        })
        .unwrap();
    let instance = linker.instantiate(&mut store, &code).unwrap();
    let functions = instance.table(&store, "functions").unwrap();
    functions.set(&mut store, 0, Ref::Func(Some(triple))).unwrap();
    functions.set(&mut store, 1, Ref::Func(Some(longer))).unwrap();
    assert_eq!(int(call(&mut store, &instance, "run", &[Val::I32(0)])), 9);
    // A wrong function, null, and what the results hold at first.
    for which in 1..4 {
        let error = call(&mut store, &instance, "run", &[Val::I32(which)]).unwrap_err();
        assert!(matches!(error, Error::ValueType { .. }), "{error}");
    }
}

#[test]
fn equal_types_are_equal_between_modules_and_others_do_not_link() {
    let exporter = artifact(TYPED);
    let wider = artifact(r#"(module (import "g" "g" (global funcref)))"#);
    // The same types at other indices.
    let good = artifact(
        r#"(module
            (type (func)) (type $other (func (param i64)))
            (type $chain (func (param (ref null $chain)) (result i32)))
            (type $unary (func (param i32) (result i32)))
            (type $of_unary (func (param (ref $unary)) (result i32)))
            (import "m" "chain" (func (type $chain)))
            (import "m" "apply" (func (type $of_unary)))
            (import "m" "nullable" (table 1 (ref null $unary)))
            (import "m" "global" (global (mut (ref $unary)))))"#,
    );
    let mut store = store();
    let instance = instantiate(&mut store, &exporter);
    let mut linker = linker();
    linker.instance(&store, "m", instance).unwrap();
    linker.instantiate(&mut store, &good).unwrap();
    for bad in [
        // Not recursive: another type than the one that it refers to.
        r#"(type $c (func (param (ref null $c)) (result i32)))
           (type $chain (func (param (ref null $c)) (result i32)))
           (import "m" "chain" (func (type $chain)))"#,
        r#"(type $u (func (param i32) (result i32)))
           (import "m" "apply" (func (param (ref null $u)) (result i32)))"#,
        r#"(import "m" "nullable" (table 1 funcref))"#,
        r#"(type $u (func (param i32) (result i32)))
           (import "m" "nullable" (table 1 (ref $u)))"#,
        r#"(type $u (func (param i32) (result i32)))
           (import "m" "global" (global (mut (ref null $u))))"#,
        r#"(import "m" "global" (global funcref))"#,
    ] {
        let bad = load(&compile_with(&format!("(module {bad})"), &Settings::default()));
        let mut linker = Linker::new(&Engine::default());
        let mut store = Store::new(&Engine::default(), ());
        let instance = linker.instantiate(&mut store, &exporter).unwrap();
        linker.instance(&store, "m", instance).unwrap();
        let error = linker.instantiate(&mut store, &bad).unwrap_err();
        assert!(matches!(error, Error::Link(LinkError::IncompatibleImport { .. })), "{error}");
    }
    // What cannot change may be more special than what is wanted.
    let double = instance.func(&store, "double").unwrap();
    let heap = double.heap_type(&store).unwrap();
    let ty = GlobalType { value: ValType::Ref(RefType { nullable: false, heap }), mutable: false };
    let global = Global::new(&mut store, ty, Val::FuncRef(Some(double))).unwrap();
    linker.define(&store, "g", "g", global).unwrap();
    linker.instantiate(&mut store, &wider).unwrap();
}

#[test]
fn a_type_name_that_is_kept_too_long_names_nothing() {
    let unusual = FuncType::new(vec![ValType::F64; 13], vec![ValType::I64; 7]);
    let old = store().heap_type(unusual.clone());
    let mut store = store();
    assert_eq!(store.func_type(old), None);
    let ty = TableType::new(
        ValType::Ref(RefType { nullable: true, heap: old }),
        Limits { min: 1, max: None },
    );
    let table = Table::new(&mut store, ty, Ref::Func(None)).unwrap();
    let func = Func::new(&mut store, unusual, |_, _, _| Ok(()));
    assert!(matches!(func.heap_type(&store).unwrap(), HeapType::Concrete(_)));
    let error = table.set(&mut store, 0, Ref::Func(Some(func))).unwrap_err();
    assert!(matches!(error, Error::ValueType { .. }), "{error}");
}

// Exceptions.

const THROWER: &str = r#"(module $thrower
    (tag $e (export "e") (param i32 i64 f64))
    (tag $never (export "never"))
    (func $deep (param i32)
        (if (i32.eqz (local.get 0))
            (then (throw $e (i32.const 7) (i64.const -8) (f64.const 1.5))))
        (call $deep (i32.sub (local.get 0) (i32.const 1))))
    (func (export "throw") (param i32) (call $deep (local.get 0)))
    (func (export "trap") unreachable))"#;

const CATCHER: &str = r#"(module $catcher
    (import "thrower" "e" (tag $e (param i32 i64 f64)))
    (import "thrower" "never" (tag $never))
    (import "thrower" "throw" (func $throw (param i32)))
    (import "thrower" "trap" (func $trap))
    (tag $own (param i32 i64 f64))
    (func (export "catch") (param $depth i32) (result i32 i64 f64 i64 f32)
        (local $a i64) (local $b f32)
        (local.set $a (i64.const 123456789012))
        (local.set $b (f32.const 0.25))
        (block $h (result i32 i64 f64)
            (try_table (catch $own $h) (catch $e $h)
                (local.set $a (i64.add (local.get $a) (i64.const 1)))
                (call $throw (local.get $depth))
                (local.set $a (i64.const 0)))
            unreachable)
        (local.get $a) (local.get $b))
    (func (export "own tag only") (param $depth i32) (result i32)
        (block $h (result i32 i64 f64)
            (try_table (catch $own $h) (call $throw (local.get $depth)))
            (return (i32.const 0)))
        drop drop)
    (func (export "catch trap") (result i32)
        (block $h (try_table (catch_all $h) (call $trap)) (return (i32.const 0)))
        (i32.const 1)))"#;

#[test]
fn exceptions_cross_instances_and_locals_have_their_values() {
    let thrower = artifact(THROWER);
    let catcher = artifact(CATCHER);
    let mut store = store();
    let thrower = instantiate(&mut store, &thrower);
    let mut linker = linker();
    linker.instance(&store, "thrower", thrower).unwrap();
    let catcher = linker.instantiate(&mut store, &catcher).unwrap();
    for depth in [0, 1, 3000] {
        let found = call(&mut store, &catcher, "catch", &[Val::I32(depth)]).unwrap();
        assert_eq!(found[0].i32(), Some(7));
        assert_eq!(found[1].i64(), Some(-8));
        assert_eq!(found[2].f64(), Some(1.5));
        assert_eq!(found[3].i64(), Some(123_456_789_013));
        assert_eq!(found[4].f32(), Some(0.25));
    }
    assert_eq!(store.exceptions(), 0, "nobody asked for the references");
    // A tag with the same type is another tag.
    let exception = thrown(call(&mut store, &catcher, "own tag only", &[Val::I32(1)]));
    assert_eq!(exception.tag(&store).unwrap(), thrower.tag(&store, "e").unwrap());
    let values = exception.values(&store).unwrap();
    assert_eq!((values[0].i32(), values[1].i64()), (Some(7), Some(-8)));
    let names: Vec<_> =
        exception.frames().iter().map(|f| f.func_name.as_deref().unwrap_or("")).collect();
    assert_eq!(names, ["deep", "deep", "", ""]);
    assert_eq!(exception.frames()[3].module.as_deref(), Some("catcher"));
    assert!(exception.to_string().starts_with("unhandled wasm exception\n"), "{exception}");
    // Traps are not exceptions.
    assert_eq!(trap(call(&mut store, &catcher, "catch trap", &[])), TrapKind::Unreachable);
}

const CALLBACK: &str = r#"(module
    (import "host" "call" (func $call (param i32)))
    (import "host" "e" (tag $e (param i32)))
    (func (export "throws") (param i32) (throw $e (local.get 0)))
    (func $calls (call $call (i32.const 40)))
    (func (export "catches") (result i32)
        (local $before i32)
        (local.set $before (i32.const 2))
        (block $h (result i32)
            (try_table (catch $e $h) (call $calls))
            unreachable)
        (i32.add (local.get $before)))
    (func (export "catches all") (result i32)
        (block $h (try_table (catch_all $h) (call $calls)) (return (i32.const 0)))
        (i32.const 1))
    (func (export "does not catch") (call $calls)))"#;

/// What the host function of a test does with the exception that its callback throws.
#[derive(Clone, Copy)]
enum Policy {
    PassOn,
    Swallow,
    Replace,
    OwnError,
    Panic,
}

#[test]
fn exceptions_go_through_host_functions_as_the_host_decides() {
    let code = artifact(CALLBACK);
    let engine = Engine::default();
    let mut store = Store::new(&engine, Policy::PassOn);
    let tag = Tag::new(&mut store, TagType::new([ValType::I32])).unwrap();
    let mut linker = Linker::new(&engine);
    linker.define(&store, "host", "e", tag).unwrap();
    let host = move |mut caller: Caller<'_, '_, Policy>, value: i32| -> Result<(), HostError> {
        let func = caller.export("throws").and_then(|item| item.into_func()).ok_or("no export")?;
        let error = func.call(&mut caller, &[Val::I32(value)]).unwrap_err();
        let exception = error.exception().ok_or("no exception")?;
        assert_eq!(exception.values(&caller)?[0].i32(), Some(value));
        match *caller.data() {
            Policy::PassOn => Err(error.into()),
            Policy::Swallow => Ok(()),
            Policy::Replace => {
                let tag = exception.tag(&caller)?;
                Err(Exception::new(&mut caller, tag, &[Val::I32(value * 2)])?.into())
            }
            Policy::OwnError => Err("not an exception".into()),
            Policy::Panic => panic!("on purpose"),
        }
    };
    linker.func("host", "call", host).unwrap();
    let instance = linker.instantiate(&mut store, &code).unwrap();
    let run = |store: &mut Store<'_, Policy>, policy, name: &str| {
        *store.data_mut() = policy;
        let func = instance.func(&*store, name).unwrap();
        func.call(store, &[]).map(|values| values.first().and_then(Val::i32))
    };
    assert_eq!(run(&mut store, Policy::PassOn, "catches").unwrap(), Some(42));
    assert_eq!(run(&mut store, Policy::Replace, "catches").unwrap(), Some(82));
    assert_eq!(run(&mut store, Policy::PassOn, "catches all").unwrap(), Some(1));
    assert_eq!(run(&mut store, Policy::Swallow, "catches all").unwrap(), Some(0));
    // Errors and panics of the host are not for wasm to catch.
    let error = run(&mut store, Policy::OwnError, "catches all").unwrap_err();
    assert_eq!(error.to_string(), "not an exception");
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        run(&mut store, Policy::Panic, "catches all")
    }));
    assert!(panicked.is_err());
    // The first throw is the one that the backtrace tells of.
    let error = run(&mut store, Policy::PassOn, "does not catch").unwrap_err();
    let exception = error.exception().unwrap();
    assert_eq!(exception.frames().len(), 3, "{exception}");
    let error = run(&mut store, Policy::Replace, "does not catch").unwrap_err();
    assert_eq!(error.exception().unwrap().frames().len(), 2, "{error}");
    assert_eq!(error.exception().unwrap().values(&store).unwrap()[0].i32(), Some(80));
    drop(error);
    assert!(store.exceptions() < 20);
}

#[test]
fn a_host_function_that_the_host_calls_throws_too() {
    let mut store = store();
    let tag = Tag::new(&mut store, TagType::new([])).unwrap();
    let exception = Exception::new(&mut store, tag, &[]).unwrap();
    let exception = Mutex::new(Some(exception));
    let func = Func::wrap(&mut store, move |_: Caller<'_, '_, ()>| -> Result<(), HostError> {
        let exception = exception.lock().unwrap().take().ok_or("called twice")?;
        Err(exception.into())
    });
    let exception = thrown(func.call(&mut store, &[]));
    assert_eq!(exception.tag(&store).unwrap(), tag);
    assert!(exception.frames().is_empty());
    assert_eq!(func.call(&mut store, &[]).unwrap_err().to_string(), "called twice");
}

#[test]
fn tags_and_exceptions_of_another_store_are_errors() {
    let code = artifact(CALLBACK);
    let (mut one, mut two) = (store(), store());
    let tag = Tag::new(&mut one, TagType::new([ValType::I32])).unwrap();
    let exception = Exception::new(&mut one, tag, &[Val::I32(1)]).unwrap();
    let wrong = |error: Error| assert!(matches!(error, Error::WrongStore { .. }), "{error}");
    wrong(tag.ty(&two).unwrap_err());
    wrong(Exception::new(&mut two, tag, &[Val::I32(1)]).unwrap_err());
    wrong(exception.values(&two).unwrap_err());
    wrong(exception.tag(&two).unwrap_err());
    wrong(exception.to_ref(&two).unwrap_err());
    let reference = exception.to_ref(&one).unwrap();
    wrong(reference.values(&two).unwrap_err());
    let ty = GlobalType { value: ValType::ExnRef, mutable: true };
    wrong(Global::new(&mut two, ty, Val::ExnRef(Some(reference))).unwrap_err());
    let mut linker_of_two = linker();
    wrong(linker_of_two.define(&two, "host", "e", tag).unwrap_err());
    assert!(matches!(
        Exception::new(&mut one, tag, &[]),
        Err(Error::ArgumentCount { wanted: 1, found: 0 })
    ));
    assert!(matches!(Exception::new(&mut one, tag, &[Val::I64(1)]), Err(Error::ValueType { .. })));
    // Thrown into wasm of another store, it is an error like any other.
    let tag = Tag::new(&mut two, TagType::new([ValType::I32])).unwrap();
    linker_of_two.define(&two, "host", "e", tag).unwrap();
    let host = move |_: Caller<'_, '_, ()>, _: i32| -> Result<(), HostError> {
        Err(exception.clone().into())
    };
    linker_of_two.func("host", "call", host).unwrap();
    let instance = linker_of_two.instantiate(&mut two, &code).unwrap();
    let exception = thrown(call(&mut two, &instance, "catches all", &[]));
    assert_eq!(exception.values(&one).unwrap()[0].i32(), Some(1));
}

#[test]
fn tags_of_another_type_do_not_link() {
    let code = artifact(CALLBACK);
    let mut store = store();
    let tag = Tag::new(&mut store, TagType::new([ValType::I64])).unwrap();
    let mut linker = linker();
    linker.func("host", "call", |_: Caller<'_, '_, ()>, _: i32| {}).unwrap();
    linker.define(&store, "host", "e", tag).unwrap();
    let error = linker.instantiate(&mut store, &code).unwrap_err();
    assert!(
        error.to_string().contains("as (tag (param i32)), and it is (tag (param i64))"),
        "{error}"
    );
}

const KEEPER: &str = r#"(module
    (import "host" "churn" (func $churn (param i32)))
    (tag $e (export "e") (param i32))
    (tag $nested (param exnref i32))
    (table $kept (export "kept") 20000 exnref)
    (global $one (export "one") (mut exnref) (ref.null exn))
    (func $make (export "make") (param i32) (result exnref)
        (block $h (result i32 exnref)
            (try_table (catch_ref $e $h) (throw $e (local.get 0)))
            unreachable)
        (return))
    (func $value (export "value") (param exnref) (result i32)
        (block $h (result i32)
            (try_table (catch $e $h) (throw_ref (local.get 0)))
            unreachable))
    ;; Makes exceptions that nobody keeps.
    (func $waste (export "waste") (param i32)
        (loop $next
            (drop (call $make (i32.const -1)))
            (br_if $next (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))))
    (func (export "keep") (param i32)
        (table.set $kept (local.get 0) (call $make (local.get 0))))
    (func (export "kept value") (param i32) (result i32)
        (call $value (table.get $kept (local.get 0))))
    (func (export "keep one") (param i32) (global.set $one (call $make (local.get 0))))
    (func (export "one value") (result i32) (call $value (global.get $one)))
    (func (export "keep many") (param i32)
        (loop $next
            (local.set 0 (i32.sub (local.get 0) (i32.const 1)))
            (table.set $kept (local.get 0) (call $make (local.get 0)))
            (br_if $next (local.get 0))))
    ;; Only a local of a frame that waits knows the exception.
    (func (export "hold over a callback") (param i32) (result i32)
        (local $held exnref)
        (local.set $held (call $make (local.get 0)))
        (call $waste (i32.const 3000))
        (call $churn (i32.const 3000))
        (call $value (local.get $held)))
    ;; Only another exception knows the exception.
    (func (export "hold in another") (param i32) (result i32)
        (local $held exnref)
        (block $h (result exnref i32 exnref)
            (try_table (catch_ref $nested $h)
                (throw $nested (call $make (local.get 0)) (i32.const 0)))
            unreachable)
        (local.set $held) drop drop
        (call $waste (i32.const 3000))
        (block $h2 (result exnref i32)
            (try_table (catch $nested $h2) (throw_ref (local.get $held)))
            unreachable)
        drop
        (return (call $value)))
    (func (export "null") (throw_ref (ref.null exn))))"#;

fn keeper_linker<'code>() -> Linker<'code, ()> {
    let mut linker = linker();
    let churn = |mut caller: Caller<'_, '_, ()>, count: i32| -> Result<(), HostError> {
        let waste = caller.export("waste").and_then(|item| item.into_func()).ok_or("no export")?;
        waste.call(&mut caller, &[Val::I32(count)])?;
        let tag = caller.export("e").and_then(|item| item.into_tag()).ok_or("no tag")?;
        for _ in 0..count {
            Exception::new(&mut caller, tag, &[Val::I32(-2)])?;
        }
        Ok(())
    };
    linker.func("host", "churn", churn).unwrap();
    linker
}

#[test]
fn references_to_exceptions_stay_good_and_others_are_freed() {
    let code = artifact(KEEPER);
    let mut store = store();
    let instance = keeper_linker().instantiate(&mut store, &code).unwrap();
    call(&mut store, &instance, "keep", &[Val::I32(5)]).unwrap();
    call(&mut store, &instance, "keep one", &[Val::I32(6)]).unwrap();
    for _ in 0..50 {
        call(&mut store, &instance, "waste", &[Val::I32(2000)]).unwrap();
        assert!(store.exceptions() < 2000, "{}", store.exceptions());
    }
    assert_eq!(int(call(&mut store, &instance, "kept value", &[Val::I32(5)])), 5);
    assert_eq!(int(call(&mut store, &instance, "one value", &[])), 6);
    for _ in 0..3 {
        let held = call(&mut store, &instance, "hold over a callback", &[Val::I32(7)]);
        assert_eq!(int(held), 7);
        assert_eq!(int(call(&mut store, &instance, "hold in another", &[Val::I32(8)])), 8);
    }
    assert!(store.exceptions() < 2000, "{}", store.exceptions());
    assert_eq!(trap(call(&mut store, &instance, "null", &[])), TrapKind::NullReference);
}

#[test]
fn exceptions_are_found_on_the_stack_of_another_thread() {
    let code = artifact(KEEPER);
    let mut store = store();
    let mut linker = linker();
    // The host function lends the store to a thread, which has a stack of its own.
    let churn = |mut caller: Caller<'_, '_, ()>, count: i32| -> Result<(), HostError> {
        let waste = caller.export("waste").and_then(|item| item.into_func()).ok_or("no export")?;
        let caller = &mut caller;
        std::thread::scope(|scope| {
            let run = move || waste.call(caller, &[Val::I32(count)]).map(|_| ());
            scope.spawn(run).join().map_err(|_| "it panicked")
        })??;
        Ok(())
    };
    linker.func("host", "churn", churn).unwrap();
    let instance = linker.instantiate(&mut store, &code).unwrap();
    for _ in 0..3 {
        let held = call(&mut store, &instance, "hold over a callback", &[Val::I32(7)]);
        assert_eq!(int(held), 7);
    }
    assert!(store.exceptions() < 2000, "{}", store.exceptions());
}

#[test]
fn what_the_host_holds_is_kept() {
    let code = artifact(KEEPER);
    let mut store = store();
    let instance = keeper_linker().instantiate(&mut store, &code).unwrap();
    let tag = instance.tag(&store, "e").unwrap();
    let held = Exception::new(&mut store, tag, &[Val::I32(1)]).unwrap();
    let made = call(&mut store, &instance, "make", &[Val::I32(2)]).unwrap()[0];
    let one = instance.global(&store, "one").unwrap();
    let reference = held.to_ref(&store).unwrap();
    one.set(&mut store, Val::ExnRef(Some(reference))).unwrap();
    drop(held);
    call(&mut store, &instance, "waste", &[Val::I32(5000)]).unwrap();
    assert_eq!(int(call(&mut store, &instance, "value", &[made])), 2);
    assert_eq!(int(call(&mut store, &instance, "one value", &[])), 1);
    let Val::ExnRef(Some(reference)) = made else { panic!("{made:?}") };
    assert_eq!(reference.tag(&store).unwrap(), tag);
    // It can be thrown again, and a handle may end anywhere.
    let other = reference.exception(&mut store).unwrap();
    std::thread::spawn(move || drop(other)).join().unwrap();
    let exception = reference.exception(&mut store).unwrap();
    assert_eq!(exception.values(&store).unwrap()[0].i32(), Some(2));
    let kept = instance.table(&store, "kept").unwrap();
    kept.set(&mut store, 3, Ref::Exn(Some(reference))).unwrap();
    let Ref::Exn(Some(found)) = kept.get(&store, 3).unwrap() else { panic!("null") };
    assert_eq!(found, reference);
    assert!(matches!(
        kept.set(&mut store, 3, Ref::Func(None)).unwrap_err(),
        Error::ValueType { .. }
    ));
}

#[test]
fn too_many_exceptions_are_a_trap() {
    let code = artifact(KEEPER);
    let mut store = store();
    let instance = keeper_linker().instantiate(&mut store, &code).unwrap();
    store.limits_mut().exceptions = 1000;
    call(&mut store, &instance, "keep many", &[Val::I32(900)]).unwrap();
    call(&mut store, &instance, "waste", &[Val::I32(5000)]).unwrap();
    let kind = trap(call(&mut store, &instance, "keep many", &[Val::I32(2000)]));
    assert_eq!(kind, TrapKind::TooManyExceptions);
    let tag = instance.tag(&store, "e").unwrap();
    let held: Result<Vec<_>, _> =
        (0..1000).map(|_| Exception::new(&mut store, tag, &[Val::I32(0)])).collect();
    assert!(matches!(held, Err(Error::StoreLimit { what: "exceptions", limit: 1000 })));
    // Where there is room again, so there is for exceptions.
    let kept = instance.table(&store, "kept").unwrap();
    for index in 0..2000 {
        kept.set(&mut store, index, Ref::Exn(None)).unwrap();
    }
    call(&mut store, &instance, "keep many", &[Val::I32(900)]).unwrap();
}

#[test]
fn uncaught_exceptions_of_many_calls_are_freed() {
    let code = artifact(THROWER);
    let mut store = store();
    let instance = instantiate(&mut store, &code);
    for _ in 0..5000 {
        let exception = thrown(call(&mut store, &instance, "throw", &[Val::I32(0)]));
        assert_eq!(exception.values(&store).unwrap()[0].i32(), Some(7));
    }
    assert!(store.exceptions() < 1000, "{}", store.exceptions());
}

#[test]
fn fuel_is_counted_over_exceptions() {
    let text = r#"(module (tag $e)
        (func $throw (throw $e))
        (func (export "run") (param i32)
            (loop $next
                (block $h (try_table (catch_all $h) (call $throw)))
                (br_if $next (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))))"#;
    for fuel in [false, true] {
        let code = load(&compile_with(text, &Settings { fuel, ..Settings::default() }));
        let mut store = store();
        let instance = instantiate(&mut store, &code);
        store.set_fuel(1_000_000);
        call(&mut store, &instance, "run", &[Val::I32(100)]).unwrap();
        let used = 1_000_000 - store.fuel();
        assert!(!fuel && used == 0 || fuel && (500..2000).contains(&used), "{used}");
        if fuel {
            store.set_fuel(300);
            let result = call(&mut store, &instance, "run", &[Val::I32(100)]);
            assert_eq!(trap(result), TrapKind::OutOfFuel);
        }
    }
}

#[test]
fn clauses_are_tried_in_order_from_the_inside() {
    let code = artifact(
        r#"(module
            (tag $a (param i32)) (tag $b (param i32)) (tag $c)
            (func $throw (param i32)
                (block $two (block $one (block $zero
                    (br_table $zero $one $two (local.get 0)))
                    (throw $a (i32.const 10)))
                    (throw $b (i32.const 20)))
                (throw $c))
            (func (export "run") (param i32) (result i32)
                (block $all
                    (block $outer (result i32)
                        (try_table (catch $a $outer) (catch $b $outer) (catch_all $all)
                            (block $inner (result i32)
                                (try_table (catch $a $inner)
                                    (call $throw (local.get 0)))
                                unreachable)
                            (return (i32.add (i32.const 1))))
                        unreachable)
                    (return (i32.add (i32.const 2))))
                (i32.const 3))
            ;; A handler is outside of its own block.
            (func (export "again") (result i32)
                (block $outer (result i32)
                    (try_table (catch $b $outer)
                        (block $inner (result i32)
                            (try_table (catch $a $inner) (throw $a (i32.const 1)))
                            unreachable)
                        (throw $b))
                    unreachable)))"#,
    );
    let mut store = store();
    let instance = instantiate(&mut store, &code);
    for (which, wanted) in [(0, 11), (1, 22), (2, 3)] {
        assert_eq!(int(call(&mut store, &instance, "run", &[Val::I32(which)])), wanted);
    }
    assert_eq!(int(call(&mut store, &instance, "again", &[])), 1);
}

#[test]
fn a_tail_call_leaves_the_handlers_of_its_function() {
    let code = artifact(
        r#"(module (tag $e)
            (func $throw (throw $e))
            (func $inner (block $h (try_table (catch_all $h) (return_call $throw))))
            (func (export "run") (result i32)
                (block $h (try_table (catch_all $h) (call $inner)) (return (i32.const 0)))
                (i32.const 1)))"#,
    );
    let mut store = store();
    let instance = instantiate(&mut store, &code);
    assert_eq!(int(call(&mut store, &instance, "run", &[])), 1);
}

#[test]
fn a_stack_overflow_is_not_an_exception() {
    let code = artifact(
        r#"(module (tag $e)
            (func $f (export "run") (block $h (try_table (catch_all $h) (call $f)))))"#,
    );
    let mut store = store();
    let instance = instantiate(&mut store, &code);
    assert_eq!(trap(call(&mut store, &instance, "run", &[])), TrapKind::StackOverflow);
}

#[test]
fn handlers_that_multiply_are_refused() {
    let tags: String = (0..1200).map(|n| format!("(tag $t{n})")).collect();
    let clauses: String = (0..1200).map(|n| format!("(catch $t{n} $h)")).collect();
    let calls = "(call $f)".repeat(1000);
    let text = format!("(module {tags} (func $f (block $h (try_table {clauses} {calls}))))");
    let wasm = wat::parse_str(text).unwrap();
    let error = cwasm_compiler::compile(&wasm, &Settings::default()).unwrap_err();
    assert!(error.to_string().contains("pairs of calls and handlers"), "{error}");
}
