//! Differences that were found, and whose fault they were. Each is reduced by hand and
//! judged by the specification.

use cwasm_compiler::{CpuLevel, OptLevel, RelaxedSimd, Settings};
use cwasm_differential::generate::Case;
use cwasm_differential::outcome::{Outcome, Value};
use cwasm_differential::{check, ours, theirs};

fn case(text: &str) -> Case {
    let wasm = wat::parse_str(text).expect("the text of a test is well-formed");
    Case { seed: 0, wasm, canonical_nans: true, makes_objects: false, instructions: 0 }
}

/// Results of calls that return one value each, in the first round.
fn results(outcome: &Outcome) -> Vec<Value> {
    let calls = outcome.calls.iter().take(outcome.calls.len() / 3);
    calls.map(|(_, result)| result.as_ref().expect("nothing traps")[0]).collect()
}

fn all_settings() -> impl Iterator<Item = Settings> {
    [CpuLevel::Baseline, CpuLevel::Native].into_iter().flat_map(|cpu| {
        [OptLevel::None, OptLevel::Speed].map(|opt_level| Settings {
            cpu,
            opt_level,
            ..Settings::default()
        })
    })
}

/// Seeds 172, 422, 800, 832, 846, 876, 1488, 1716 and 1762. The generator replaces a divisor that
/// is zero in this way; wasmi took 0 or 1 as it happened.
#[test]
fn a_local_compared_with_zero_selects_by_its_value() {
    let case = case(
        r#"(module
            (func $pick (param i32) (result i32)
                (select (i32.const 1) (local.get 0) (i32.eqz (local.get 0))))
            (func $not (param i32) (result i32)
                (select (i32.const 1) (local.get 0) (i32.ne (local.get 0) (i32.const 0))))
            (func (export "eqz of 0") (result i32) (call $pick (i32.const 0)))
            (func (export "eqz of 2") (result i32) (call $pick (i32.const 2)))
            (func (export "ne of 0") (result i32) (call $not (i32.const 0)))
            (func (export "ne of 2") (result i32) (call $not (i32.const 2))))"#,
    );
    let wanted = [1, 2, 0, 1].map(Value::I32);
    for settings in all_settings() {
        assert_eq!(results(&ours::run(&case, &settings).unwrap()), wanted);
    }
    // What is run there has the comparison kept apart. If this fails after an update of wasmi,
    // see whether `avoid_fused_select` is still of use.
    assert_eq!(results(&theirs::run(&case).unwrap()), wanted);
}

/// Seeds 30127545156400683 and 30127545156447691: cwasm left NaNs alone that it took for operands of arithmetic only, though that was on floats
/// of the other width, for which they are numbers.
#[test]
fn canonical_nans_are_canonical_as_floats_of_the_other_width() {
    let nan = "0x7fa00001 0xffffffff 0xff800001 0x7fc12345";
    let case = case(&format!(
        r#"(module
            (func (export "as f64") (result i64)
                (i64x2.extract_lane 0
                    (f64x2.add
                        (f32x4.add (v128.const i32x4 {nan}) (v128.const i32x4 0 0 0 0))
                        (v128.const i64x2 0 0))))
            (func (export "compared") (result i32)
                (i64x2.all_true
                    (f64x2.eq
                        (f32x4.add (v128.const i32x4 {nan}) (v128.const i32x4 0 0 0 0))
                        (v128.const i32x4 0x7fc00000 0x7fc00000 0x7fc00000 0x7fc00000))))
            (func (export "as f32") (result i64)
                (i64x2.extract_lane 0
                    (f32x4.add
                        (f64x2.add
                            (v128.const i64x2 0x7ff0123412341234 -1)
                            (v128.const i64x2 0 0))
                        (v128.const i32x4 0 0 0 0)))))"#
    ));
    let wanted =
        [Value::I64(0x7fc0_0000_0000_0000), Value::I64(0x7fc0_0000_7fc0_0000), Value::I32(1)];
    for settings in all_settings() {
        let settings = Settings { canonicalize_nans: true, ..settings };
        assert_eq!(results(&ours::run(&case, &settings).unwrap()), wanted);
    }
}

/// Seeds 58, 720 and 1849, when cwasm made NaNs canonical too. The generator leaves conversions
/// between floats alone, and a NaN that is not canonical may become any arithmetic one by them.
#[test]
fn a_conversion_between_floats_may_keep_a_payload() {
    let case = case(
        r#"(module
            (func (export "demoted") (result i32)
                (i32.reinterpret_f32 (f32.demote_f64
                    (f64.reinterpret_i64 (i64.const 0xfff8_0000_4000_0000)))))
            (func (export "promoted") (result i64)
                (i64.reinterpret_f64 (f64.promote_f32
                    (f32.reinterpret_i32 (i32.const 0xffc0_0001))))))"#,
    );
    let payloads = [Value::I32(0xffc0_0002), Value::I64(0xfff8_0000_2000_0000)];
    let canonical = [Value::I32(0x7fc0_0000), Value::I64(0x7ff8_0000_0000_0000)];
    assert_eq!(results(&theirs::run(&case).unwrap()), payloads);
    for settings in all_settings() {
        assert_eq!(results(&ours::run(&case, &settings).unwrap()), payloads);
        let settings = Settings { canonicalize_nans: true, ..settings };
        assert_eq!(results(&ours::run(&case, &settings).unwrap()), canonical);
    }
}

/// Seed 30127985625427393. The generator makes no NaN canonical that relaxed arithmetic makes, which may be any arithmetic one. So such modules
/// are compared with cwasm itself.
#[test]
fn relaxed_arithmetic_may_keep_a_payload() {
    let case = case(
        r#"(module (func (export "f") (result i64)
            (i64x2.extract_lane 0
                (f64x2.relaxed_min (v128.const i64x2 -1 -1) (v128.const i64x2 1 1)))))"#,
    );
    const QUIET: u64 = 0x7ff8_0000_0000_0000;
    let is_quiet =
        |results: &[Value]| matches!(results, [Value::I64(bits)] if bits & QUIET == QUIET);
    assert!(is_quiet(&results(&theirs::run(&case).unwrap())));
    for settings in all_settings() {
        // Otherwise it may be the other operand.
        let settings = Settings { relaxed_simd: RelaxedSimd::Deterministic, ..settings };
        assert!(is_quiet(&results(&ours::run(&case, &settings).unwrap())));
        let settings = Settings { canonicalize_nans: true, ..settings };
        assert_eq!(results(&ours::run(&case, &settings).unwrap()), [Value::I64(QUIET)]);
    }
    check(30_127_985_625_427_393).unwrap();
}
