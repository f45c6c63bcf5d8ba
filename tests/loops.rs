//! Loops that count from one constant to another take as many turns as a model in Rust says, whatever the constants are. The
//! compiler asks some of them another question than the program does.

use std::fmt::Write as _;

use cwasm_loader::{Engine, Linker, Store};
use cwasm_tests::{compile, load};

/// More turns than this end every loop.
const MOST: u32 = 40;

/// How a loop asks whether to go on, given its next count in local 1 and the turns in local 0.
const SHAPES: [&str; 5] = [
    // Back if they are different.
    "(loop $l BODY (br_if $l (TY.ne NEXT (TY.const END))))",
    // Out if they are equal, or back.
    "(block $out (loop $l BODY (br_if $out (TY.eq NEXT (TY.const END))) (br $l)))",
    // The other way around: back if they are equal.
    "(loop $l BODY (br_if $l (TY.eq NEXT (TY.const END))))",
    // Back also from elsewhere.
    "(loop $l BODY (br_if $l (TY.ne NEXT (TY.const END))) (br_if $l (i32.eq (local.get 0) (i32.const 3))))",
    // In the middle of another loop that sets the count back.
    "(loop $outer (local.set 1 (TY.const START)) (loop $l BODY (br_if $l (TY.ne NEXT (TY.const END))))
       (br_if $outer (i32.lt_u (local.get 0) (i32.const 20))))",
];

fn function(ty: &str, shape: &str, [start, step, end]: [i64; 3], from_parameter: bool) -> String {
    let body = format!(
        "(local.set 0 (i32.add (local.get 0) (i32.const 1)))
         (br_if $end (i32.gt_u (local.get 0) (i32.const {MOST})))
         (local.set 1 ({ty}.add (local.get 1) ({ty}.const {step})))"
    );
    let first = if from_parameter { "" } else { "(local.set 1 (TY.const START))" };
    format!("{first} (block $end {shape})")
        .replace("BODY", &body)
        .replace("NEXT", "(local.get 1)")
        .replace("START", &start.to_string())
        .replace("END", &end.to_string())
        .replace("TY", ty)
}

/// The turns that it takes.
fn turns(ty: &str, shape: usize, [start, step, end]: [i64; 3]) -> u32 {
    let mask = if ty == "i32" { u64::from(u32::MAX) } else { u64::MAX };
    let differs = |count: i64| (count ^ end).cast_unsigned() & mask != 0;
    let (mut turns, mut count) = (0, start);
    loop {
        turns += 1;
        if turns > MOST {
            return turns;
        }
        count = count.wrapping_add(step);
        let again = match shape {
            0 | 1 => differs(count),
            2 => !differs(count),
            3 => differs(count) || turns == 3,
            _ if differs(count) => true,
            _ => {
                count = start;
                turns < 20
            }
        };
        if !again {
            return turns;
        }
    }
}

fn numbers(ty: &str) -> Vec<i64> {
    let (least, most) = match ty {
        "i32" => (i64::from(i32::MIN), i64::from(i32::MAX)),
        _ => (i64::MIN, i64::MAX),
    };
    let near = [least, most, 0, 16].into_iter();
    let mut numbers: Vec<i64> =
        near.flat_map(|it: i64| (-2..=1).filter_map(move |by| it.checked_add(by))).collect();
    numbers.retain(|number| (least..=most).contains(number));
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

#[test]
fn loops_take_the_turns_that_they_should() {
    for ty in ["i32", "i64"] {
        let numbers = numbers(ty);
        let steps = [1, -1, 2, -2, 3, -3, 0, numbers[0], numbers[0] + 1, *numbers.last().unwrap()];
        for (number, shape) in SHAPES.into_iter().enumerate() {
            for from_parameter in [false, true] {
                let mut text = String::from("(module");
                let mut wanted = Vec::new();
                for start in &numbers {
                    for end in &numbers {
                        for step in steps {
                            let counts = [*start, step, *end];
                            let body = function(ty, shape, counts, from_parameter);
                            let (parameter, local) = match from_parameter {
                                true => (format!("(param i32 {ty})"), String::new()),
                                false => ("(param i32)".to_owned(), format!("(local {ty})")),
                            };
                            let name = wanted.len();
                            write!(
                                text,
                                "(func (export \"{name}\") {parameter} (result i32) {local} {body} (local.get 0))"
                            )
                            .unwrap();
                            wanted.push((counts, turns(ty, number, counts)));
                        }
                    }
                }
                check(&(text + ")"), ty, &wanted, from_parameter);
            }
        }
    }
}

fn check(text: &str, ty: &str, wanted: &[([i64; 3], u32)], from_parameter: bool) {
    let code = load(&compile(text));
    let mut store = Store::new(&Engine::default(), ());
    let instance = Linker::new(&Engine::default()).instantiate(&mut store, &code).unwrap();
    for (number, (counts, turns)) in wanted.iter().enumerate() {
        let name = number.to_string();
        let found = match (from_parameter, ty) {
            (false, _) => {
                let func = instance.typed_func::<i32, i32>(&store, &name).unwrap();
                func.call(&mut store, 0).unwrap()
            }
            (true, "i32") => {
                let func = instance.typed_func::<(i32, i32), i32>(&store, &name).unwrap();
                func.call(&mut store, (0, i32::try_from(counts[0]).unwrap())).unwrap()
            }
            (true, _) => {
                let func = instance.typed_func::<(i32, i64), i32>(&store, &name).unwrap();
                func.call(&mut store, (0, counts[0])).unwrap()
            }
        };
        assert_eq!(found.cast_unsigned(), *turns, "{ty} {counts:?} {from_parameter}");
    }
}
