//! Expressions of any depth are compiled on a stack of any thread: nothing goes down into them by calls.

use std::thread;

use cwasm_compiler::{Settings, TARGETS, compile};

/// How deep expressions are.
const DEPTH: usize = 8_000;

/// What the thread that asks has, and is used without asking for more: somewhat more than a megabyte.
const STACK: usize = 1300 << 10;

/// Functions whose body is an expression of this depth.
fn expressions(depth: usize) -> String {
    let mut module = String::from("(module (memory 1)");
    let mut function = |ty: &str, first: &str, rest: &str, last: &str| {
        let (first, rest) = (first.repeat(depth), rest.repeat(depth));
        module.push_str(&format!(
            "(func (export \"{rest:.20} {last}\") (param {ty} {ty}) (result {ty}) local.get 0 {first} {rest} {last})"
        ));
    };
    // Each takes what the one before has left.
    for step in [
        "i32.eqz ",
        "i32.clz ",
        "i32.extend8_s ",
        "i32.load ",
        "i64.extend_i32_u i32.wrap_i64 ",
        "i32.const -1 i32.xor ",
        "local.get 1 i32.add ",
        "local.get 1 i32.and i32.eqz ",
        "i32.const 1 i32.shl local.get 1 i32.or ",
        "local.get 1 local.get 1 select ",
        "local.get 1 i32.lt_s ",
    ] {
        function("i32", "", step, "");
        function("i32", "", step, "(if (result i32) (then i32.const 1) (else i32.const 2))");
    }
    for step in ["f64.neg ", "f32.demote_f64 f64.promote_f32 ", "local.get 1 f64.mul "] {
        function("f64", "", step, "");
    }
    // All operands come first.
    for step in ["i32.sub ", "i32.or ", "i32.ne ", "i32.shr_u ", "i32.eqz i32.and "] {
        function("i32", "local.get 1 ", step, "");
    }
    module.push(')');
    module
}

#[test]
fn no_depth_of_expressions_needs_a_larger_stack() {
    let wasm = wat::parse_str(expressions(DEPTH)).unwrap();
    for target in &TARGETS[..4] {
        // All on the thread that asks.
        let settings = Settings { target: target.parse().unwrap(), jobs: 1, ..Settings::default() };
        thread::scope(|scope| {
            let compile = || compile(&wasm, &settings).map(|artifact| artifact.len());
            let thread = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, compile);
            assert!(thread.unwrap().join().unwrap().unwrap() > 0, "{target}");
        });
    }
}
