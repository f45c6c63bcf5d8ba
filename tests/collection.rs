//! Structures, arrays and small integers: what crosses instances and the border to the host, what keeps
//! objects, and that nothing else does.

use cwasm_compiler::{CpuLevel, MemoryBounds, OptLevel, Settings};
use cwasm_loader::{
    AnyRef, Artifact, Caller, Engine, Error, FuncType, HostError, Instance, Linker, Store,
    TrapKind, Val, ValType,
};
use cwasm_tests::calls::{call, instantiate, int, linker, store, trap};
use cwasm_tests::{artifact, compile_with, load};

fn any(values: Result<Vec<Val<'_>>, Error>) -> AnyRef {
    match values.unwrap()[..] {
        [Val::AnyRef(Some(reference))] => reference,
        ref other => panic!("{other:?}"),
    }
}

/// All that changes how code is made, one way or the other.
fn all_settings() -> [Settings; 4] {
    [
        Settings::default(),
        Settings { opt_level: OptLevel::None, ..Settings::default() },
        Settings { fuel: true, epoch: true, ..Settings::default() },
        Settings {
            memory_bounds: MemoryBounds::Explicit,
            cpu: CpuLevel::Native,
            ..Settings::default()
        },
    ]
}

/// A list of numbers; `churn` makes objects that nothing leads to any more, several megabytes for each thousand.
const LISTS: &str = r#"
    (type $node (struct (field $value i32) (field $next (mut (ref null $node)))))
    (type $bytes (array (mut i8)))
    (func $churn (export "churn") (param $count i32)
        (loop $again
            (drop (array.new $bytes (i32.const 85) (i32.const 4000)))
            (drop (struct.new $node (local.get $count) (ref.null $node)))
            (local.set $count (i32.sub (local.get $count) (i32.const 1)))
            (br_if $again (i32.gt_s (local.get $count) (i32.const 0)))))
    (func $list (export "list") (param $count i32) (result (ref null $node))
        (local $list (ref null $node))
        (loop $again
            (local.set $list (struct.new $node (local.get $count) (local.get $list)))
            (local.set $count (i32.sub (local.get $count) (i32.const 1)))
            (br_if $again (i32.gt_s (local.get $count) (i32.const 0))))
        (local.get $list))
    ;; The sum of all, or -1 if a number does not follow the one before.
    (func $sum (export "sum") (param $list (ref null $node)) (result i32)
        (local $sum i32) (local $last i32)
        (block $end
            (loop $again
                (br_if $end (ref.is_null (local.get $list)))
                (if (i32.ne (struct.get $node $value (local.get $list))
                        (i32.add (local.get $last) (i32.const 1)))
                    (then (return (i32.const -1))))
                (local.set $last (struct.get $node $value (local.get $list)))
                (local.set $sum (i32.add (local.get $sum) (local.get $last)))
                (local.set $list (struct.get $node $next (local.get $list)))
                (br $again)))
        (local.get $sum))"#;

/// A module with the lists.
fn lists(more: &str) -> String {
    format!("(module {LISTS} {more})")
}

#[test]
fn objects_that_nothing_leads_to_are_collected() {
    for settings in all_settings() {
        let artifact = load(&compile_with(&lists(""), &settings));
        let mut store = store();
        store.set_fuel(u64::MAX >> 2);
        store.set_epoch_deadline(1);
        let instance = instantiate(&mut store, &artifact);
        call(&mut store, &instance, "churn", &[Val::I32(30_000)]).unwrap();
        // 120 MB were made.
        assert!(store.object_bytes() < 32 << 20, "{}", store.object_bytes());
    }
}

#[test]
fn what_frames_hold_is_kept() {
    let text = lists(
        r#"
        ;; At each depth a list, which is needed again after the call.
        (func $deep (export "deep") (param $depth i32) (result i32)
            (local $list (ref null $node)) (local $sum i32)
            (local.set $list (call $list (local.get $depth)))
            (if (i32.gt_s (local.get $depth) (i32.const 1))
                (then (local.set $sum (call $deep (i32.sub (local.get $depth) (i32.const 1)))))
                (else (call $churn (i32.const 5000))))
            (i32.add (local.get $sum) (call $sum (local.get $list))))
        ;; Only the address of an element is needed again, and it may be all that there is.
        (func (export "inside") (param $index i32) (result i32)
            (local $array (ref $bytes)) (local $sum i32)
            (local.set $array (array.new $bytes (i32.const 7) (i32.const 3000)))
            (local.set $sum (array.get_u $bytes (local.get $array) (local.get $index)))
            (call $churn (i32.const 5000))
            (array.set $bytes (local.get $array) (local.get $index) (local.get $sum))
            (i32.add (local.get $sum) (array.get_u $bytes (local.get $array) (local.get $index))))
        ;; Operands that wait while another is made.
        (type $three (struct (field (ref null $node)) (field (ref null $node)) (field (ref null $node))))
        (func (export "operands") (result i32)
            (local $three (ref $three))
            (local.set $three (struct.new $three
                (call $list (i32.const 10))
                (block (result (ref null $node)) (call $churn (i32.const 5000)) (call $list (i32.const 20)))
                (block (result (ref null $node)) (call $churn (i32.const 5000)) (call $list (i32.const 30)))))
            (call $churn (i32.const 5000))
            (i32.add (call $sum (struct.get $three 0 (local.get $three)))
                (i32.add (call $sum (struct.get $three 1 (local.get $three)))
                    (call $sum (struct.get $three 2 (local.get $three))))))"#,
    );
    for settings in all_settings() {
        let artifact = load(&compile_with(&text, &settings));
        let mut store = store();
        store.set_fuel(u64::MAX >> 2);
        store.set_epoch_deadline(1);
        // Also with a collection before each object.
        for interval in [4 << 20, 0] {
            store.collect_after(interval);
            check_frames(&mut store, &artifact);
        }
    }
}

fn check_frames<'code>(store: &mut Store<'code, ()>, artifact: &'code Artifact) {
    let instance = instantiate(store, artifact);
    let sum = |count: i32| count * (count + 1) / 2;
    let deep = int(call(store, &instance, "deep", &[Val::I32(40)]));
    assert_eq!(deep, (1..=40).map(sum).sum::<i32>());
    assert_eq!(int(call(store, &instance, "inside", &[Val::I32(2999)])), 14);
    let operands = int(call(store, &instance, "operands", &[]));
    assert_eq!(operands, sum(10) + sum(20) + sum(30));
}

/// While a host function runs, its caller's references are where they are found, and not in registers that the host has saved somewhere.
#[test]
fn what_callers_of_host_functions_hold_is_kept() {
    let import = r#"(module (import "host" "churn" (func $host (param i32)))"#;
    let lists = (0..8).map(|n| format!("(local $l{n} (ref null $node))")).collect::<String>();
    let made = (0..8).map(|n| format!("(local.set $l{n} (call $list (i32.const {})))", n + 2));
    let made = made.collect::<String>();
    let sums = (0..8).map(|n| {
        format!("(local.set $sum (i32.add (local.get $sum) (call $sum (local.get $l{n}))))")
    });
    let sums = sums.collect::<String>();
    let more = format!(
        r#"(func (export "go") (result i32) (local $sum i32) {lists} {made}
            (call $host (i32.const 200))
            {sums} (local.get $sum))"#
    );
    let text = self::lists(&more).replacen("(module", import, 1);
    let churn = |mut caller: Caller<'_, '_, ()>, count: i32| -> Result<(), HostError> {
        let churn = caller.export("churn").and_then(|item| item.into_func()).ok_or("no export")?;
        churn.call(&mut caller, &[Val::I32(count)])?;
        Ok(())
    };
    let wanted = (2..10).map(|count| count * (count + 1) / 2).sum::<i32>();
    for settings in all_settings() {
        let artifact = load(&compile_with(&text, &settings));
        for typed in [true, false] {
            let mut store = store();
            store.collect_after(0);
            store.set_fuel(u64::MAX >> 2);
            store.set_epoch_deadline(1);
            let mut linker = linker();
            if typed {
                linker.func("host", "churn", churn).unwrap();
            } else {
                let ty = FuncType::new([ValType::I32], []);
                let dynamic =
                    move |caller: Caller<'_, '_, ()>, args: &[Val<'_>], _: &mut [Val<'_>]| {
                        churn(caller, args[0].i32().ok_or("no number")?)
                    };
                linker.func_dynamic("host", "churn", ty, dynamic).unwrap();
            }
            let instance = linker.instantiate(&mut store, &artifact).unwrap();
            assert_eq!(int(call(&mut store, &instance, "go", &[])), wanted, "{typed}");
        }
    }
}

#[test]
fn what_the_store_holds_is_kept() {
    let text = lists(
        r#"
        (tag $tag (param (ref null $node)))
        (global $global (mut (ref null $node)) (ref.null $node))
        (global $external (mut externref) (ref.null extern))
        (global $exception (mut exnref) (ref.null exn))
        (table $table 2 (ref null $node))
        (table $externals 2 externref)
        (elem $segment (ref null $node) (item (struct.new $node (i32.const 1) (ref.null $node))))
        (func (export "fill")
            (global.set $global (call $list (i32.const 10)))
            (global.set $external (extern.convert_any (call $list (i32.const 20))))
            (table.set $table (i32.const 1) (call $list (i32.const 30)))
            (table.set $externals (i32.const 0) (extern.convert_any (call $list (i32.const 40))))
            ;; An object leads to an exception, and that to an object.
            (global.set $exception
                (block $caught (result exnref)
                    (try_table (catch_all_ref $caught) (throw $tag (call $list (i32.const 50))))
                    (unreachable))))
        (func $node (param $reference externref) (result (ref null $node))
            (ref.cast (ref null $node) (any.convert_extern (local.get $reference))))
        (func (export "check") (result i32) (local $sum i32)
            (local.set $sum (call $sum (global.get $global)))
            (local.set $sum (i32.add (local.get $sum) (call $sum (call $node (global.get $external)))))
            (local.set $sum (i32.add (local.get $sum) (call $sum (table.get $table (i32.const 1)))))
            (local.set $sum (i32.add (local.get $sum)
                (call $sum (call $node (table.get $externals (i32.const 0))))))
            (local.set $sum (i32.add (local.get $sum)
                (call $sum (block $caught (result (ref null $node))
                    (try_table (catch $tag $caught) (throw_ref (global.get $exception)))
                    (unreachable)))))
            (table.init $table $segment (i32.const 0) (i32.const 0) (i32.const 1))
            (i32.add (local.get $sum) (call $sum (table.get $table (i32.const 0)))))
        (func (export "clear")
            (global.set $global (ref.null $node))
            (global.set $external (ref.null extern))
            (global.set $exception (ref.null exn))
            (table.fill $table (i32.const 0) (ref.null $node) (i32.const 2))
            (table.fill $externals (i32.const 0) (ref.null extern) (i32.const 2))
            (elem.drop $segment))"#,
    );
    let artifact = artifact(&text);
    let mut store = store();
    // What is free is used again at once.
    store.collect_after(0);
    let instance = instantiate(&mut store, &artifact);
    call(&mut store, &instance, "fill", &[]).unwrap();
    for _ in 0..3 {
        call(&mut store, &instance, "churn", &[Val::I32(1000)]).unwrap();
        let sum: i32 = [10, 20, 30, 40, 50, 1].iter().map(|count| count * (count + 1) / 2).sum();
        assert_eq!(int(call(&mut store, &instance, "check", &[])), sum);
    }
    store.collect();
    assert!(store.object_bytes() > 0);
    call(&mut store, &instance, "clear", &[]).unwrap();
    store.collect();
    assert_eq!((store.object_bytes(), store.exceptions()), (0, 0));
}

#[test]
fn operands_of_constant_expressions_are_kept() {
    let node = |value: i32, next: &str| format!("(struct.new $node (i32.const {value}) {next})");
    let null = "(ref.null $node)";
    let list = node(1, &node(2, &node(3, null)));
    // Each is complete before the next is made.
    let array = format!("{} {} {}", node(1, null), node(2, null), node(3, null));
    let text = lists(&format!(
        r#"(type $nodes (array (ref $node)))
        (global $list (ref $node) {list})
        (global $array (ref $nodes) (array.new_fixed $nodes 3 {array}))
        (elem $segment (ref $node) (item {list}) (item {}))
        (func (export "list") (result i32) (call $sum (global.get $list)))
        (func (export "element") (param i32) (result i32)
            (struct.get $node $value (array.get $nodes (global.get $array) (local.get 0))))
        (func (export "segment") (param i32) (result i32)
            (struct.get $node $value (array.get $nodes
                (array.new_elem $nodes $segment (i32.const 0) (i32.const 2)) (local.get 0))))"#,
        node(4, null)
    ));
    let text = text.replace(r#"(func $list (export "list")"#, "(func $list");
    let artifact = artifact(&text);
    let mut store = store();
    store.collect_after(0);
    let instance = instantiate(&mut store, &artifact);
    assert_eq!(int(call(&mut store, &instance, "list", &[])), 6);
    let mut value = |name, index| int(call(&mut store, &instance, name, &[Val::I32(index)]));
    assert_eq!([0, 1, 2].map(|index| value("element", index)), [1, 2, 3]);
    assert_eq!([0, 1].map(|index| value("segment", index)), [1, 4]);
}

#[test]
fn objects_and_exceptions_that_lead_to_each_other_are_collected_together() {
    let text = r#"(module
        (type $bytes (array i8))
        (type $box (struct (field $exception (mut exnref)) (field $bytes (ref $bytes))))
        (tag $tag (param (ref $box)))
        (func (export "cycles") (param $count i32) (local $box (ref null $box))
            (loop $again
                (local.set $box (struct.new $box (ref.null exn)
                    (array.new $bytes (i32.const 1) (i32.const 10000))))
                (struct.set $box $exception (local.get $box)
                    (block $caught (result exnref)
                        (try_table (catch_all_ref $caught)
                            (throw $tag (ref.as_non_null (local.get $box))))
                        (unreachable)))
                (local.set $count (i32.sub (local.get $count) (i32.const 1)))
                (br_if $again (i32.gt_s (local.get $count) (i32.const 0))))
            ;; The last is whole.
            (drop (block $caught (result (ref $box))
                (try_table (catch $tag $caught)
                    (throw_ref (struct.get $box $exception (local.get $box))))
                (unreachable)))))"#;
    let artifact = artifact(text);
    let mut store = store();
    let instance = instantiate(&mut store, &artifact);
    call(&mut store, &instance, "cycles", &[Val::I32(20_000)]).unwrap();
    assert!(store.object_bytes() < 32 << 20, "{}", store.object_bytes());
    assert!(store.exceptions() < 10_000, "{}", store.exceptions());
}

#[test]
fn a_store_has_no_more_memory_for_objects_than_it_may_have() {
    let text = lists(
        r#"
        (global $keep (mut (ref null $node)) (ref.null $node))
        (func (export "keep") (param i32) (global.set $keep (call $list (local.get 0))))
        (func (export "array") (param i32) (result i32)
            (array.len (array.new_default $bytes (local.get 0))))
        (type $vectors (array (mut v128)))
        (func (export "vectors") (param i32) (result i32)
            (array.len (array.new_default $vectors (local.get 0))))"#,
    );
    let artifact = artifact(&text);
    let mut store = store();
    store.limits_mut().objects = 4 << 20;
    let instance = instantiate(&mut store, &artifact);
    let out = TrapKind::OutOfObjectMemory;
    for name in ["array", "vectors"] {
        for length in [5_000_000, i32::MAX, -1, -8, -9] {
            assert_eq!(
                trap(call(&mut store, &instance, name, &[Val::I32(length)])),
                out,
                "{length}"
            );
        }
        assert_eq!(int(call(&mut store, &instance, name, &[Val::I32(100_000)])), 100_000);
    }
    assert_eq!(trap(call(&mut store, &instance, "keep", &[Val::I32(1_000_000)])), out);
    // What was not kept is free again.
    for _ in 0..10 {
        call(&mut store, &instance, "keep", &[Val::I32(50_000)]).unwrap();
    }
    call(&mut store, &instance, "churn", &[Val::I32(5000)]).unwrap();
}

#[test]
fn handles_keep_objects_until_they_end() {
    let artifact = artifact(&lists(""));
    let mut store = store();
    let instance = instantiate(&mut store, &artifact);
    let list = any(call(&mut store, &instance, "list", &[Val::I32(100)]));
    let other = any(call(&mut store, &instance, "list", &[Val::I32(50)]));
    call(&mut store, &instance, "churn", &[Val::I32(5000)]).unwrap();
    assert_eq!(int(sum(&mut store, &instance, list)), 5050);
    assert_eq!(int(sum(&mut store, &instance, other)), 1275);
    list.release(&mut store).unwrap();
    assert!(matches!(sum(&mut store, &instance, list), Err(Error::StaleReference)));
    assert!(matches!(list.ty(&store), Err(Error::StaleReference)));
    call(&mut store, &instance, "churn", &[Val::I32(5000)]).unwrap();
    assert_eq!(int(sum(&mut store, &instance, other)), 1275);
    // Another store has none of it.
    let mut second = self::store();
    let theirs = instantiate(&mut second, &artifact);
    let result = sum(&mut second, &theirs, other);
    assert!(matches!(result, Err(Error::WrongStore { .. })), "{result:?}");
}

fn sum<'code>(
    store: &mut Store<'code, ()>,
    instance: &Instance<'code>,
    list: AnyRef,
) -> Result<Vec<Val<'code>>, Error> {
    call(store, instance, "sum", &[Val::AnyRef(Some(list))])
}

/// Keeps a handle, and hands out the one that ends with its call.
fn see(
    mut caller: Caller<'_, '_, Vec<AnyRef>>,
    seen: Option<AnyRef>,
) -> Result<Option<AnyRef>, HostError> {
    let seen = seen.ok_or("null")?;
    let kept = seen.keep(&mut caller)?;
    let churn = caller.export("churn").and_then(|item| item.into_func()).ok_or("no export")?;
    churn.call(&mut caller, &[Val::I32(5000)])?;
    assert!(seen.is_struct(&caller)?);
    assert_eq!(seen.get(&caller, 0)?.i32(), Some(1));
    caller.data_mut().extend([seen, kept]);
    Ok(Some(seen))
}

#[test]
fn a_host_function_has_handles_for_the_time_of_its_call() {
    let import = r#"(module (import "host" "see" (func $see (param anyref) (result anyref)))"#;
    let text = lists(
        r#"(func (export "go") (result i32)
            (call $sum (ref.cast (ref null $node) (call $see (call $list (i32.const 9))))))"#,
    );
    // Imports come first.
    let text = text.replacen("(module", import, 1);
    let artifact = artifact(&text);
    let mut store: Store<'_, Vec<AnyRef>> = Store::new(&Engine::default(), Vec::new());
    let mut linker = Linker::new(&Engine::default());
    linker.func("host", "see", see).unwrap();
    let instance = linker.instantiate(&mut store, &artifact).unwrap();
    let go = instance.typed_func::<(), i32>(&store, "go").unwrap();
    assert_eq!(go.call(&mut store, ()).unwrap(), 45);
    let [seen, kept] = store.data()[..] else { panic!() };
    assert!(matches!(seen.get(&store, 0), Err(Error::StaleReference)));
    assert_eq!(kept.get(&store, 0).unwrap().i32(), Some(1));
    kept.release(&mut store).unwrap();
    assert!(matches!(kept.get(&store, 0), Err(Error::StaleReference)));
}

#[test]
fn functions_in_tables_are_called_as_what_they_are_below() {
    let text = |what: &str| {
        format!(
            r#"(module
        (type $base (sub (func (result i32))))
        (type $below (sub $base (func (result i32))))
        (type $last (sub final $below (func (result i32))))
        (type $plain (func (result i32))) {what})"#
        )
    };
    let provider = artifact(&text(
        r#"
        (table (export "table") 5 funcref)
        (elem (i32.const 0) func $base $below $last $plain)
        (func $base (type $base) (i32.const 1))
        (func $below (type $below) (i32.const 2))
        (func $last (type $last) (i32.const 3))
        (func $plain (type $plain) (i32.const 4))"#,
    ));
    let user = artifact(&text(
        r#"
        (import "p" "table" (table 5 funcref))
        (func (export "base") (param i32) (result i32) (call_indirect (type $base) (local.get 0)))
        (func (export "below") (param i32) (result i32) (call_indirect (type $below) (local.get 0)))
        (func (export "last") (param i32) (result i32) (call_indirect (type $last) (local.get 0)))
        (func (export "test") (param i32) (result i32)
            (ref.test (ref $below) (table.get 0 (local.get 0))))"#,
    ));
    let mut store = store();
    let mut linker = linker();
    let provider = linker.instantiate(&mut store, &provider).unwrap();
    linker.instance(&store, "p", provider).unwrap();
    let user = linker.instantiate(&mut store, &user).unwrap();
    let mut results = |name: &str| -> Vec<Option<i32>> {
        let call = |index| call(&mut store, &user, name, &[Val::I32(index)]);
        let results = (0..5).map(call).map(|result| match result {
            Ok(values) => values[0].i32(),
            Err(Error::Trap(trap)) => {
                let null = TrapKind::UninitializedElement;
                assert!(trap.kind() == TrapKind::IndirectCallTypeMismatch || trap.kind() == null);
                None
            }
            Err(other) => panic!("{other}"),
        });
        results.collect()
    };
    assert_eq!(results("base"), [Some(1), Some(2), Some(3), None, None]);
    assert_eq!(results("below"), [None, Some(2), Some(3), None, None]);
    assert_eq!(results("last"), [None, None, Some(3), None, None]);
    assert_eq!(results("test"), [0, 1, 1, 0, 0].map(Some));
}

#[test]
fn deep_hierarchies_are_told_apart() {
    let types: String = (0..60)
        .map(|depth| match depth {
            0 => "(type $t0 (sub (struct)))".to_owned(),
            depth => format!("(type $t{depth} (sub $t{} (struct)))", depth - 1),
        })
        .collect();
    let tests: String = [0, 1, 6, 7, 8, 9, 30, 59]
        .map(|depth| {
            format!(
                r#"(func (export "is{depth}") (param anyref) (result i32)
                (ref.test (ref $t{depth}) (local.get 0)))
            (func (export "new{depth}") (result anyref) (struct.new $t{depth}))"#
            )
        })
        .concat();
    let artifact = artifact(&format!("(module {types} {tests})"));
    let mut store = store();
    let instance = instantiate(&mut store, &artifact);
    for depth in [0, 1, 6, 7, 8, 9, 30, 59] {
        let object = any(call(&mut store, &instance, &format!("new{depth}"), &[]));
        for above in [0, 1, 6, 7, 8, 9, 30, 59] {
            let is =
                call(&mut store, &instance, &format!("is{above}"), &[Val::AnyRef(Some(object))]);
            assert_eq!(int(is), i32::from(above <= depth), "{depth} {above}");
        }
    }
}

/// Null faults where a field is in the lowest page, and is checked where one is behind that.
#[test]
fn null_traps_however_far_a_field_is() {
    let fields = "(field (mut i64))".repeat(1000);
    let far = [0, 1, 510, 511, 512, 999];
    let access: String = far
        .map(|field| {
            format!(
                r#"(func (export "get{field}") (param (ref null $s)) (result i64)
                    (struct.get $s {field} (local.get 0)))
                (func (export "set{field}") (param (ref null $s))
                    (struct.set $s {field} (local.get 0) (i64.const {field})))"#
            )
        })
        .concat();
    let text = format!(
        r#"(module (type $s (struct {fields})) {access}
            (func (export "new") (result anyref) (struct.new_default $s)))"#
    );
    for settings in all_settings() {
        let artifact = load(&compile_with(&text, &settings));
        let mut store = store();
        store.set_fuel(u64::MAX >> 2);
        store.set_epoch_deadline(1);
        let instance = instantiate(&mut store, &artifact);
        let object = any(call(&mut store, &instance, "new", &[]));
        for field in far {
            for name in [format!("get{field}"), format!("set{field}")] {
                let null = call(&mut store, &instance, &name, &[Val::AnyRef(None)]);
                assert_eq!(trap(null), TrapKind::NullStructReference, "{name}");
            }
            let object = [Val::AnyRef(Some(object))];
            call(&mut store, &instance, &format!("set{field}"), &object).unwrap();
            let value = call(&mut store, &instance, &format!("get{field}"), &object).unwrap();
            assert_eq!(value[0].i64(), Some(field));
        }
    }
}

/// No page that is mapped at a low address is taken for a field of null.
#[test]
#[cfg(target_os = "linux")]
fn null_traps_where_memory_is_mapped() {
    const PLACE: usize = 128 << 10;
    // SAFETY: a new mapping, at an address where nothing is.
    let page = unsafe {
        libc::mmap(
            std::ptr::without_provenance_mut(PLACE),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
            -1,
            0,
        )
    };
    assert_eq!(page.addr(), PLACE, "the system maps nothing so low");
    let field = PLACE / 16 + 8;
    let fields = "(field (mut v128))".repeat(field + 1);
    let artifact = artifact(&format!(
        r#"(module (type $s (struct {fields}))
            (func (export "get") (param (ref null $s)) (result v128)
                (struct.get $s {field} (local.get 0))))"#
    ));
    let mut store = store();
    let instance = instantiate(&mut store, &artifact);
    let null = call(&mut store, &instance, "get", &[Val::AnyRef(None)]);
    assert_eq!(trap(null), TrapKind::NullStructReference);
    // SAFETY: it was mapped here, and nobody uses it.
    assert_eq!(unsafe { libc::munmap(page, 4096) }, 0);
}
