//! Loops that count from one constant to another take as many turns as a model in Rust says, whatever the constants are. The
//! compiler asks some of them another question than the program does. Loops that walk through a memory end where a model says, and what is computed
//! from there is what the model says: the compiler takes some of it from the loop.

use std::fmt::Write as _;

use cwasm_loader::{Engine, Linker, Store};
use cwasm_tests::{compile, load};
use proptest::prelude::*;

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

/// A loop over a place in memory.
#[derive(Clone, Debug)]
struct Walk {
    start: u32,
    step: i32,
    /// What happens in a turn.
    turn: Vec<Turn>,
    /// What is added to the place and goes into the result, once the loop is left.
    behind: Vec<i32>,
}

/// Something that happens in a turn.
#[derive(Clone, Copy, Debug)]
enum Turn {
    /// The place, with something added to it, goes into the result.
    Use(i32),
    /// The byte there does.
    Read,
    /// The place becomes the next one.
    Step,
    /// Out if the byte there is zero.
    Byte,
    /// Out if the place is, or is not, this one; or is below it.
    Is(u32),
    IsNot(u32),
    IsBelow(u32),
}

/// What lies in the memory, at the first places, and again at all others.
const BYTES: &[u8; 16] = b"ab\0cdefgh\0ijklmn";

fn walks() -> impl Strategy<Value = Walk> {
    let near = || -4..5_i32;
    let place = || prop_oneof![0..40_u32, Just(u32::MAX), Just(u32::MAX - 1)];
    let turn = prop_oneof![
        2 => near().prop_map(Turn::Use),
        1 => Just(Turn::Read),
        3 => Just(Turn::Step),
        2 => Just(Turn::Byte),
        1 => place().prop_map(Turn::Is),
        1 => place().prop_map(Turn::IsNot),
        1 => place().prop_map(Turn::IsBelow),
    ];
    let turns = prop::collection::vec(turn, 1..7);
    // Often by the same number as in the loop.
    let behind = (near(), prop::collection::vec(prop::option::of(near()), 0..4));
    (place(), behind, turns).prop_map(|(start, (step, behind), turn)| {
        let behind = behind.into_iter().map(|it| it.unwrap_or(step)).collect();
        Walk { start, step, turn, behind }
    })
}

/// Puts something into the result.
fn mixed(result: u32, what: u32) -> u32 {
    result.wrapping_mul(31).wrapping_add(what)
}

impl Walk {
    fn model(&self) -> u32 {
        let (mut place, mut result) = (self.start, 0);
        let byte = |place: u32| u32::from(BYTES[place as usize % BYTES.len()]);
        'turns: for _ in 0..MOST {
            for step in &self.turn {
                let is_left = match *step {
                    Turn::Use(by) => {
                        result = mixed(result, place.wrapping_add_signed(by));
                        false
                    }
                    Turn::Read => {
                        result = mixed(result, byte(place));
                        false
                    }
                    Turn::Step => {
                        place = place.wrapping_add_signed(self.step);
                        false
                    }
                    Turn::Byte => byte(place) == 0,
                    Turn::Is(other) => place == other,
                    Turn::IsNot(other) => place != other,
                    Turn::IsBelow(other) => place < other,
                };
                if is_left {
                    break 'turns;
                }
            }
        }
        self.behind.iter().fold(result, |result, by| mixed(result, place.wrapping_add_signed(*by)))
    }

    /// The place is local 0, the result local 1, and local 2 counts turns.
    fn text(&self) -> String {
        let mix = |what: &str| {
            format!("(local.set 1 (i32.add (i32.mul (local.get 1) (i32.const 31)) {what}))")
        };
        let sum = |by: i32| format!("(i32.add (local.get 0) (i32.const {by}))");
        let byte = "(i32.load8_u (i32.and (local.get 0) (i32.const 15)))";
        let mut body = String::new();
        for step in &self.turn {
            body += &match *step {
                Turn::Use(by) => mix(&sum(by)),
                Turn::Read => mix(byte),
                Turn::Step => format!("(local.set 0 {})", sum(self.step)),
                Turn::Byte => format!("(br_if $out (i32.eqz {byte}))"),
                Turn::Is(other) => {
                    format!("(br_if $out (i32.eq (local.get 0) (i32.const {other})))")
                }
                Turn::IsNot(other) => {
                    format!("(br_if $out (i32.ne (local.get 0) (i32.const {other})))")
                }
                Turn::IsBelow(other) => {
                    format!("(br_if $out (i32.lt_u (local.get 0) (i32.const {other})))")
                }
            };
        }
        let behind: String = self.behind.iter().map(|by| mix(&sum(*by))).collect();
        let bytes: String = BYTES.iter().map(|byte| format!("\\{byte:02x}")).collect();
        format!(
            r#"(module (memory 1) (data (i32.const 0) "{bytes}")
              (func (export "walk") (param i32) (result i32) (local i32 i32)
                (block $out (loop $l {body}
                  (br_if $l (i32.ne (i32.const {MOST})
                    (local.tee 2 (i32.add (local.get 2) (i32.const 1)))))))
                {behind} (local.get 1)))"#
        )
    }
}

fn check_walk(walk: &Walk) {
    let code = load(&compile(&walk.text()));
    let mut store = Store::new(&Engine::default(), ());
    let instance = Linker::new(&Engine::default()).instantiate(&mut store, &code).unwrap();
    let func = instance.typed_func::<u32, u32>(&store, "walk").unwrap();
    assert_eq!(func.call(&mut store, walk.start).unwrap(), walk.model(), "{walk:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn walks_end_where_the_model_says(walk in walks()) {
        check_walk(&walk);
    }
}

#[test]
fn what_a_walk_passes_on_is_what_is_wanted_behind_it() {
    for turn in [
        &[Turn::Byte, Turn::Step][..],
        &[Turn::Step, Turn::Byte],
        &[Turn::Use(3), Turn::Is(9), Turn::Step],
        &[Turn::Step, Turn::IsNot(3)],
        &[Turn::IsNot(3), Turn::Step, Turn::Read],
        &[Turn::Is(0), Turn::Step],
    ] {
        for start in [0, 3, 4, u32::MAX] {
            for (step, behind) in [(1, vec![1]), (1, vec![0, 1]), (-1, vec![-1, -1]), (3, vec![2])]
            {
                check_walk(&Walk { start, step, turn: turn.to_vec(), behind });
            }
        }
    }
}
