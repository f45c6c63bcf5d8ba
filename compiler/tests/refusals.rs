//! What is not compiled, and what is said about it.

use std::path::Path;

use cwasm_compiler::{CompileError, CpuLevel, Settings, compile, parse_text};

fn wasm(text: &str) -> Vec<u8> {
    parse_text(text.as_bytes(), Path::new("test.wat")).unwrap().into_owned()
}

fn refusal(wasm: &[u8]) -> CompileError {
    compile(wasm, &Settings::default()).unwrap_err()
}

#[test]
fn what_is_no_module_is_called_what_it_is() {
    for (bytes, words) in [
        (&b""[..], "but empty"),
        (b"\x7fELF\x02\x01\x01", "an ELF file"),
        (b"  (module)", "give it the ending .wat"),
        (b"hello", "but text"),
        (b"\xff\xfe\xfd", "something else"),
        (b"\x1f\x8b\x08", "a compressed file"),
        (b"#!/bin/sh", "a script"),
        (b"\0asm\x02\0\0\0", "a version other than 1"),
    ] {
        let message = refusal(bytes).to_string();
        assert!(message.contains(words), "{message}");
    }
    assert!(matches!(refusal(b"\0asm\x0d\0\x01\0"), CompileError::Component));
}

#[test]
fn every_truncation_is_an_error() {
    let whole = wasm(
        r#"(module (memory 1) (data (i32.const 0) "abc")
            (func (export "f") (param i32) (result i32) (i32.load (local.get 0))))"#,
    );
    assert!(compile(&whole, &Settings::default()).is_ok());
    let mut truncated = 0;
    for length in 0..whole.len() {
        // A cut between sections can leave a module that is valid.
        if let Err(error) = compile(&whole[..length], &Settings::default()) {
            truncated += u32::from(matches!(error, CompileError::Truncated { .. }));
        }
    }
    assert!(truncated > 20, "{truncated}");
}

#[test]
fn damaged_modules_are_refused_or_compiled_but_never_panic() {
    let whole = wasm(
        r#"(module (import "a" "b" (func $import (param i64))) (table 3 funcref) (memory 1 2)
            (global $g (mut i32) (i32.const 1)) (elem (i32.const 0) $f $import)
            (data "passive") (data (i32.const 4) "active")
            (func $f (export "f") (param i32) (result i32)
                (block (br_if 0 (local.get 0)) (call $import (i64.const 9)))
                (loop $l (br_if $l (i32.eqz (global.get $g))))
                (if (result i32) (local.get 0) (then (i32.load8_s offset=3 (local.get 0)))
                    (else (i32.div_s (local.get 0) (global.get $g))))))"#,
    );
    let settings = Settings { jobs: 1, ..Settings::default() };
    for position in 8..whole.len() {
        for value in [0x00, 0x01, 0x0b, 0x40, 0x7f, 0x80, 0xff] {
            let mut damaged = whole.clone();
            damaged[position] = value;
            let _ = compile(&damaged, &settings);
        }
    }
}

#[test]
fn features_of_later_versions_are_named() {
    for (text, feature) in [
        ("(module (type (func)) (type (cont 0)))", "stack switching"),
        ("(module (type (shared (struct))))", "shared-everything threads"),
        ("(module (func (param (ref null (shared any)))))", "shared-everything threads"),
    ] {
        match refusal(&wasm(text)) {
            CompileError::Unsupported { feature: found, .. } => {
                assert!(found.contains(feature), "{text}: {found}");
            }
            other => panic!("{text}: {other}"),
        }
    }
}

#[test]
fn the_legacy_encoding_of_exceptions_is_named_with_what_converts_it() {
    // One function: `try`, `catch_all`, `end`. The text format has no words for them any more.
    let body = [0x06, 0x00, 0x06, 0x40, 0x19, 0x0b, 0x0b];
    let mut module = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x0a\x08\x01".to_vec();
    module.extend(body);
    match refusal(&module) {
        CompileError::Unsupported { feature, .. } => {
            assert!(feature.contains("`wasm-opt --translate-to-exnref`"), "{feature}");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn errors_in_bodies_name_the_first_function_that_has_one() {
    let good = "(func)".repeat(20);
    let module = wasm(&format!(
        r#"(module (import "a" "b" (func)) {good} (func (drop)) {good} (func (i32.const 1)))"#
    ));
    for jobs in [1, 2, 4] {
        let error = compile(&module, &Settings { jobs, ..Settings::default() }).unwrap_err();
        match error {
            CompileError::Invalid { function: Some(21), offset, .. } => {
                assert!(offset > 0 && offset < module.len() as u64);
            }
            other => panic!("{other}"),
        }
    }
    let module = wasm("(module (func) (func (drop (ref.null (shared any)))))");
    assert!(matches!(refusal(&module), CompileError::Unsupported { function: Some(1), .. }));
}

#[test]
fn settings_that_contradict_the_target_are_refused() {
    let settings = Settings {
        target: "aarch64-unknown-linux-gnu".parse().unwrap(),
        cpu: CpuLevel::X86_64V3,
        ..Settings::default()
    };
    let message = compile(&wasm("(module)"), &settings).unwrap_err().to_string();
    assert!(message.contains("x86-64-v3") && message.contains("aarch64"), "{message}");
}

/// The compiler looks ahead at loops, before they are validated.
#[test]
fn loops_that_are_not_valid_are_refused_whatever_they_look_like() {
    let with = |loop_: &str| {
        wasm(&format!(
            "(module (memory 1) (func (param i32 i32 i64 i32 f32) (local i32)
               (loop {loop_} (local.set 0 (i32.add (local.get 0) (i32.const 1)))
                 (br_if 0 (local.tee 1 (i32.add (local.get 1) (i32.const -1)))))))"
        ))
    };
    let valid = "(i32.store8 (local.get 0) (local.get 3))";
    // A byte of a wider local is no less valid.
    for loop_ in [valid, "(i64.store8 (local.get 0) (local.get 2))"] {
        assert!(compile(&with(loop_), &Settings::default()).is_ok(), "{loop_}");
    }
    for (from, to) in [
        ("local.get 0", "local.get 2"),
        ("local.get 0", "local.get 4"),
        ("local.get 0", "local.get 99"),
        ("local.get 0", "i64.const 0"),
        ("local.get 3", "local.get 2"),
        ("local.get 3", "local.get 4"),
        ("local.get 3", "local.get 99"),
        ("local.get 3", "i64.const 0"),
        ("local.get 3", "i32.load (local.get 2)"),
        ("i32.store8", "i32.store8 1"),
        ("i32.store8", "i32.store8 offset=0x100000000"),
        ("i32.store8 (local.get 0)", "i64.store8 (local.get 0)"),
        ("(i32.store8", "(local.set 2 (local.get 0)) (i32.store8"),
        ("(i32.store8", "(local.set 99 (local.get 0)) (i32.store8"),
        (valid, "local.get 0 i32.store8"),
        (valid, "local.get 3"),
    ] {
        assert!(valid.contains(from), "{from}");
        let module = with(&valid.replace(from, to));
        assert!(compile(&module, &Settings::default()).is_err(), "{from} -> {to}");
    }
}
