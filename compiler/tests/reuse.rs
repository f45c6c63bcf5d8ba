//! Code that is used again gives the bytes of a full compilation, after every kind of change.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Mutex;

use cwasm_compiler::{FunctionCache, Name, Settings, Silent, compile, compile_incrementally};

/// A cache in memory, as it was left by the previous compilation, and what the current one adds.
#[derive(Default)]
struct Memory {
    kept: HashMap<Name, Vec<u8>>,
    new: Mutex<HashMap<Name, Vec<u8>>>,
    counts: Mutex<(u32, u32)>,
}

impl FunctionCache for Memory {
    fn begin(&self, _: &Name) {}

    fn get(&self, name: &Name) -> Option<Cow<'_, [u8]>> {
        self.kept.get(name).map(|bytes| Cow::Borrowed(&bytes[..]))
    }

    fn put(&self, name: &Name, bytes: Vec<u8>) {
        self.new.lock().unwrap().insert(*name, bytes);
    }

    fn count(&self, reused: bool) {
        let mut counts = self.counts.lock().unwrap();
        if reused { counts.0 += 1 } else { counts.1 += 1 }
    }
}

/// Compiles both ways, and compares. Returns how much code was used again, and how much was made.
#[track_caller]
fn both(cache: &mut Memory, wasm: &[u8], settings: &Settings) -> (u32, u32) {
    let full = compile(wasm, settings).unwrap();
    let incremental = compile_incrementally(wasm, settings, &Silent, cache).unwrap();
    assert!(full == incremental, "the bytes differ");
    let new = std::mem::take(cache.new.get_mut().unwrap());
    cache.kept.extend(new);
    std::mem::take(cache.counts.get_mut().unwrap())
}

/// A module in parts, to be changed.
#[derive(Clone)]
struct Parts {
    types: Vec<&'static str>,
    head: Vec<&'static str>,
    functions: Vec<String>,
    tail: Vec<&'static str>,
}

impl Parts {
    fn wasm(&self) -> Vec<u8> {
        let mut text = String::from("(module\n");
        for part in self.types.iter().chain(&self.head) {
            writeln!(text, "{part}").unwrap();
        }
        self.functions.iter().for_each(|function| writeln!(text, "{function}").unwrap());
        self.tail.iter().for_each(|part| writeln!(text, "{part}").unwrap());
        text.push(')');
        wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }
}

/// Functions that call each other, import, trap, and use memory, tables, globals and many constants.
fn module() -> Parts {
    let mut functions: Vec<String> = (0..12)
        .map(|number| {
            format!(
                "(func $f{number} (param i32) (result i32)
                   (if (i32.eqz (local.get 0)) (then (return (i32.const {number}))))
                   (i32.store offset={} (local.get 0) (i32.div_u (i32.const {}) (local.get 0)))
                   (global.set $g (i32.add (global.get $g) (local.get 0)))
                   (call $f{} (i32.sub (local.get 0) (i32.const 1))))",
                number * 8,
                number * 1000 + 7,
                (number + 5) % 12,
            )
        })
        .collect();
    functions.push(
        "(func $indirect (param i32) (result f64)
           (call $log (local.get 0))
           (f64.ceil (f64.convert_i32_s (call_indirect (type $unary) (local.get 0) (local.get 0)))))"
            .into(),
    );
    functions.push(
        "(func $twin_a (param i64) (result i64) (i64.rotl (local.get 0) (i64.const 7)))".into(),
    );
    functions.push(
        "(func $twin_b (param i64) (result i64) (i64.rotl (local.get 0) (i64.const 7)))".into(),
    );
    functions.push(
        "(func $only (param i32) (result i64)
           (call_indirect (param i64) (result i64) (i64.const 9) (local.get 0)))"
            .into(),
    );
    functions.push("(func $refer (result funcref) (ref.func $f3))".into());
    functions.push(
        "(func $count (param i32) (result i32)
           (if (result i32) (local.get 0)
             (then (i32.add (i32.const 5) (call $count (i32.sub (local.get 0) (i32.const 1)))))
             (else (i32.div_u (i32.const 6) (local.get 0)))))"
            .into(),
    );
    functions.push("(func $counts (result i32) (call $count (i32.const 4)))".into());
    functions.push(
        "(func $catch (result i32)
           (block $caught (result i32)
             (try_table (catch $failure $caught)
               (drop (call $f0 (i32.const 3))) (throw $failure (i32.const 4)))
             unreachable))"
            .into(),
    );
    Parts {
        types: vec!["(type $unary (func (param i32) (result i32)))"],
        head: vec![
            "(import \"env\" \"log\" (func $log (param i32)))",
            "(memory 1 10)",
            "(table $t 4 funcref)",
            "(tag $failure (param i32))",
            "(tag $other (param i32))",
            "(global $g (mut i32) (i32.const 0))",
        ],
        functions,
        tail: vec![
            "(export \"f0\" (func $f0))",
            "(elem (i32.const 0) func $f1 $twin_a $f3)",
            "(data (i32.const 16) \"some data\")",
        ],
    }
}

/// A change, and the most code that may have to be made again.
type Change = (&'static str, u32, Box<dyn Fn(&mut Parts)>);

fn changes() -> Vec<Change> {
    fn change(name: &'static str, most: u32, how: impl Fn(&mut Parts) + 'static) -> Change {
        (name, most, Box::new(how))
    }
    vec![
        change("nothing", 0, |_| {}),
        change("a constant", 1, |parts| {
            parts.functions[4] = parts.functions[4].replace("4007", "4008");
        }),
        change("a longer body", 1, |parts| {
            parts.functions[0] = parts.functions[0].replacen("(if ", "(nop) (nop) (if ", 1);
        }),
        change("nothing that is compiled", 3, |parts| {
            parts.functions[5] = parts.functions[5].replacen("(if ", "(nop) (if ", 1);
            parts.functions[13] = parts.functions[13].replacen("(i64.rotl ", "(nop) (i64.rotl ", 1);
        }),
        change("a function with copies of itself, and not those that call it", 1, |parts| {
            for function in &mut parts.functions {
                *function =
                    function.replace("(i32.const 5) (call $count", "(i32.const 9) (call $count");
            }
        }),
        change("another callee", 1, |parts| {
            parts.functions[6] = parts.functions[6].replace("(call $f11 ", "(call $f10 ");
        }),
        change("a function in front", 2, |parts| {
            parts.functions.insert(0, "(func $new (result i32) (i32.const 99))".into());
        }),
        change("a function at the end", 2, |parts| {
            parts.functions.push("(func $new (result i32) (i32.const 98))".into());
        }),
        change("one function less", 0, |parts| {
            parts.functions.retain(|function| !function.contains("$refer"));
        }),
        // Function references are numbered in the order of the functions.
        change("another order", 1, |parts| parts.functions[..12].reverse()),
        change("a type in front", u32::MAX, |parts| {
            parts.types.insert(0, "(type $more (func (param f32 f32)))");
        }),
        // Types come before other things in the vmctx.
        change("another type of a function", u32::MAX, |parts| {
            parts.functions[13] = "(func $twin_a (param i32) (result i64) (i64.const 1))".into();
        }),
        change("the limits of the memory", u32::MAX, |parts| parts.head[1] = "(memory 3)"),
        change("a fixed memory", u32::MAX, |parts| parts.head[1] = "(memory 2 2)"),
        change("the limits of the table", u32::MAX, |parts| {
            parts.head[2] = "(table $t 4 9 funcref)"
        }),
        change("a fixed table", u32::MAX, |parts| parts.head[2] = "(table $t 4 4 funcref)"),
        change("a global in front", u32::MAX, |parts| {
            parts.head.insert(3, "(global $h (mut i64) (i64.const 0))");
        }),
        change("a tag in front", u32::MAX, |parts| {
            parts.head.insert(0, "(import \"env\" \"tag\" (tag $more))");
        }),
        change("another handler", 1, |parts| {
            let catch = parts.functions.last_mut().unwrap();
            *catch = catch.replace("(catch $failure $caught)", "(catch $other $caught)");
        }),
        change("an import more", u32::MAX, |parts| {
            parts.head.insert(0, "(import \"env\" \"more\" (func $more (param i64)))");
        }),
        change("an immutable global", u32::MAX, |parts| {
            parts.head.push("(global $c i32 (i32.const 5))");
            parts.functions[2] = parts.functions[2].replace("i32.const 2007", "global.get $c");
        }),
        change("another value of it", u32::MAX, |parts| {
            parts.head.push("(global $c i32 (i32.const 6))");
            parts.functions[2] = parts.functions[2].replace("i32.const 2007", "global.get $c");
        }),
        change("an export more", u32::MAX, |parts| parts.tail.push("(export \"f9\" (func $f9))")),
        change("other elements", u32::MAX, |parts| {
            parts.tail[1] = "(elem (i32.const 0) func $f7 $twin_a $f3)";
        }),
        change("a write to the table", u32::MAX, |parts| {
            parts.functions.push("(func (table.set $t (i32.const 1) (ref.func $f3)))".into());
        }),
        // The same functions.
        change("other places in the table", 1, |parts| {
            parts.tail[1] = "(elem (i32.const 0) func $f1 $f3 $twin_a)";
        }),
        change("another function of a type in the table", u32::MAX, |parts| {
            parts.tail[1] = "(elem (i32.const 0) func $f1 $twin_b $f3)";
        }),
        change("two of them", u32::MAX, |parts| {
            parts.tail[1] = "(elem (i32.const 0) func $f1 $twin_a $f3 $twin_a)";
        }),
        change("other data", 0, |parts| parts.tail[2] = "(data (i32.const 32) \"other data\")"),
        change("a start function", u32::MAX, |parts| {
            parts.functions.push("(func $start)".into());
            parts.tail.push("(start $start)");
        }),
        change("names", 0, |parts| {
            for function in &mut parts.functions {
                *function = function.replace("$f3", "$renamed");
            }
            parts.tail[1] = "(elem (i32.const 0) func $f1 $twin_a $renamed)";
        }),
    ]
}

#[test]
fn after_every_change_the_bytes_are_those_of_a_full_compilation() {
    let settings = Settings::default();
    for (name, most, change) in changes() {
        let mut cache = Memory::default();
        let (reused, made) = both(&mut cache, &module().wasm(), &settings);
        assert!(made > 16, "{reused} {made}");
        let mut changed = module();
        change(&mut changed);
        assert!(name == "nothing" || changed.wasm() != module().wasm(), "{name} changes nothing");
        let (reused, made) = both(&mut cache, &changed.wasm(), &settings);
        println!("{name}: {reused} used again, {made} made");
        assert!(made <= most, "{name}: {made} were made again");
        assert!(reused + made > 16, "{name}");
        // And back again, where everything is known.
        let (_, made) = both(&mut cache, &module().wasm(), &settings);
        assert_eq!(made, 0, "{name}");
    }
}

#[test]
fn changes_that_follow_each_other_share_a_cache() {
    let mut cache = Memory::default();
    for settings in [
        Settings::default(),
        Settings { fuel: true, ..Settings::default() },
        Settings { epoch: true, jobs: 1, ..Settings::default() },
        Settings { cpu: cwasm_compiler::CpuLevel::X86_64V3, ..Settings::default() },
        Settings { target: "aarch64-unknown-linux-gnu".parse().unwrap(), ..Settings::default() },
    ] {
        let (_, made) = both(&mut cache, &module().wasm(), &settings);
        assert!(made > 16, "code for other settings was used");
        for (_, _, change) in changes() {
            let mut changed = module();
            change(&mut changed);
            both(&mut cache, &changed.wasm(), &settings);
        }
    }
}

#[test]
fn a_body_that_is_known_is_still_validated() {
    // What a `ref.func` may refer to is declared elsewhere; imports need no function reference.
    let with = "(module (import \"a\" \"b\" (func $i)) (func (result funcref) (ref.func 0)) (elem declare func $i))";
    let without = wat::parse_str(
        "(module (import \"a\" \"b\" (func $i)) (func (result funcref) (ref.func 0)))",
    )
    .unwrap();
    let mut cache = Memory::default();
    both(&mut cache, &wat::parse_str(with).unwrap(), &Settings::default());
    let full = compile(&without, &Settings::default()).unwrap_err();
    let incremental =
        compile_incrementally(&without, &Settings::default(), &Silent, &cache).unwrap_err();
    assert_eq!(incremental.to_string(), full.to_string());
    assert!(full.to_string().contains("undeclared"), "{full}");
}

#[test]
fn damaged_code_is_not_used() {
    let settings = Settings::default();
    let wasm = module().wasm();
    let mut cache = Memory::default();
    both(&mut cache, &wasm, &settings);
    for bytes in cache.kept.values_mut() {
        bytes.truncate(3);
    }
    let (reused, made) = both(&mut cache, &wasm, &settings);
    assert!(reused == 0 && made > 16);
}

/// A function that is too large for all that others get: the intermediate form alone decides.
#[test]
fn functions_that_get_less_effort_are_used_again_too() {
    let mut text = String::from("(module (func (export \"f\") (param i32) (result i32)\n");
    for number in 0..16_000 {
        writeln!(
            text,
            "(if (i32.lt_u (local.get 0) (i32.const {number}))
               (then (local.set 0 (i32.add (local.get 0) (i32.const 1)))))"
        )
        .unwrap();
    }
    text.push_str("(local.get 0)))");
    let wasm = wat::parse_str(&text).unwrap();
    let mut cache = Memory::default();
    let (reused, made) = both(&mut cache, &wasm, &Settings::default());
    assert_eq!((reused, made > 0), (0, true));
    assert_eq!(both(&mut cache, &wasm, &Settings::default()), (made, 0));
}

#[test]
fn what_addresses_of_a_memory_are_known_to_be_is_part_of_a_name() {
    let with = |memory: &str| {
        wat::parse_str(format!(
            r#"(module {memory} (func (export "f") (param i32) (result i32)
                (i32.add (i32.load (local.get 0)) (i32.load (i32.add (local.get 0) (i32.const 4))))))"#
        ))
        .unwrap()
    };
    let mut cache = Memory::default();
    let imported = r#"(import "host" "memory" (memory 1))"#;
    for memory in ["(memory 1)", "(memory 65536)", imported, "(memory 7)", "(memory 65536)"] {
        both(&mut cache, &with(memory), &Settings::default());
    }
}
