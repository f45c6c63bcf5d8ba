//! Branch tables lead where they say, whatever indices lead to the same place. The compiler compares indices where a table leads to few, and
//! makes a table of numbers of one that only chooses among numbers.

use std::fmt::Write as _;

use cwasm_compiler::{CpuLevel, OptLevel, Settings};
use cwasm_loader::{Engine, Linker, Store};
use cwasm_tests::{compile_with, load};
use proptest::prelude::*;

/// A table: where each index leads to, and all others. Blocks have numbers.
#[derive(Clone, Debug)]
struct Switch {
    entries: Vec<usize>,
    default: usize,
}

const BLOCKS: usize = 6;

fn switches() -> impl Strategy<Value = Switch> {
    // Some lead to two blocks only, and some to all; many are mostly the default.
    (1..=BLOCKS, 0_usize..100, 0..BLOCKS).prop_flat_map(|(blocks, most, default)| {
        let entry = (0..blocks, 0_usize..100);
        let entry =
            entry.prop_map(move |(block, chance)| if chance < most { default } else { block });
        prop::collection::vec(entry, 0..70).prop_map(move |entries| Switch { entries, default })
    })
}

impl Switch {
    fn leads_to(&self, index: u32) -> usize {
        self.entries.get(index as usize).copied().unwrap_or(self.default)
    }

    /// A block leads to its number and what the function was given, doubled for each block that is passed.
    fn result(&self, index: u32, given: u64) -> u64 {
        let block = self.leads_to(index);
        (block..BLOCKS).fold(given, |sum, block| sum.wrapping_mul(2).wrapping_add(block as u64))
    }

    fn text(&self) -> String {
        let mut body = String::from("(br_table");
        for block in self.entries.iter().chain([&self.default]) {
            write!(body, " {block}").unwrap();
        }
        body += " (local.get 0))";
        for block in 0..BLOCKS {
            body = format!(
                "(block {body}) (local.set 1
                   (i64.add (i64.mul (local.get 1) (i64.const 2)) (i64.const {block})))"
            );
        }
        format!(
            r#"(module (func (export "lead") (param i32 i64) (result i64) {body} (local.get 1)))"#
        )
    }
}

fn check(switch: &Switch) {
    for (opt_level, cpu) in [
        (OptLevel::Speed, CpuLevel::Native),
        (OptLevel::Speed, CpuLevel::default()),
        (OptLevel::None, CpuLevel::default()),
    ] {
        let settings = Settings { opt_level, cpu, ..Settings::default() };
        let artifact = load(&compile_with(&switch.text(), &settings));
        let engine = Engine::default();
        let mut store = Store::new(&engine, ());
        let instance = Linker::new(&engine).instantiate(&mut store, &artifact).unwrap();
        let func = instance.typed_func::<(u32, u64), u64>(&store, "lead").unwrap();
        for index in (0..140).chain([1 << 31, u32::MAX - 63, u32::MAX]) {
            let found = func.call(&mut store, (index, 5)).unwrap();
            assert_eq!(found, switch.result(index, 5), "{opt_level:?} {index} {switch:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn tables_lead_where_they_say(switch in switches()) {
        check(&switch);
    }
}

#[test]
fn indices_beyond_the_bits_of_a_word_lead_to_the_default() {
    for length in [31, 32, 33, 63, 64, 65] {
        for last in [1, 2] {
            let mut entries = vec![1; length];
            entries[length - 1] = last;
            entries[0] = 2;
            check(&Switch { entries: entries.clone(), default: 0 });
            // With gaps.
            entries[3] = 0;
            entries[length / 2] = 0;
            check(&Switch { entries, default: 0 });
        }
    }
}

/// What a target does with the two variables that the function has.
#[derive(Clone, Copy, Debug)]
enum Target {
    /// Sets the first to a number.
    One(u64),
    /// Sets both.
    Both(u64, u32),
    /// Nothing.
    Nothing,
    /// Adds to the second, which is no choice among numbers.
    Add,
}

/// A table that chooses among numbers, for the most part.
#[derive(Clone, Debug)]
struct Choice {
    /// The type of the first variable. The second is an `i32`.
    ty: &'static str,
    entries: Vec<usize>,
    default: usize,
    targets: Vec<Target>,
}

fn choices() -> impl Strategy<Value = Choice> {
    // All fit into one byte, two, four, or eight, with a sign or without.
    let number = |class: u32| {
        let (bits, signed) = (8 << (class / 2), class % 2 == 1);
        any::<u64>().prop_map(move |it| match signed {
            true => (it.cast_signed() << (64 - bits) >> (64 - bits)).cast_unsigned(),
            false => it >> (64 - bits),
        })
    };
    // Few kinds of targets at once, or none of the tables would be one of numbers.
    let numbers = (0_u32..8, 0_u32..8, 0..4).prop_flat_map(move |(one, other, kind)| {
        let second = number(other).prop_map(|it| u32::try_from(it % (1 << 32)).unwrap());
        let target = (number(one), second).prop_map(move |(one, other)| match kind {
            0 => Target::One(one),
            1 => Target::Both(one, other),
            2 => Target::Both(one, 3),
            _ => Target::Both(3, other),
        });
        prop::collection::vec(target, 7..40)
    });
    let others = prop::collection::vec(
        prop_oneof![Just(Target::Nothing), Just(Target::Add), Just(Target::One(7))],
        0..4,
    );
    let ty = prop_oneof![Just("i32"), Just("i64"), Just("f32"), Just("f64")];
    (ty, numbers, others, any::<prop::sample::Index>()).prop_flat_map(
        |(ty, mut targets, others, place)| {
            let common = targets.len();
            for (number, other) in others.into_iter().enumerate() {
                targets.insert((place.index(common) + 3 * number) % targets.len(), other);
            }
            let count = targets.len();
            let repeated = prop::collection::vec(0..count, 0..60);
            (repeated, 0..count).prop_map(move |(repeated, default)| Choice {
                ty,
                entries: (0..count).chain(repeated).collect(),
                default,
                targets: targets.clone(),
            })
        },
    )
}

impl Choice {
    /// The number in the bits of the type of the first variable.
    fn narrow(&self, number: u64) -> u64 {
        if self.ty.ends_with("32") { number & u64::from(u32::MAX) } else { number }
    }

    fn result(&self, index: u32) -> (u64, u32) {
        let target = self.entries.get(index as usize).copied().unwrap_or(self.default);
        let (mut first, mut second) = (self.narrow(41), 42_u32);
        match self.targets[target] {
            Target::One(number) => first = self.narrow(number),
            Target::Both(one, other) => (first, second) = (self.narrow(one), other),
            Target::Nothing => {}
            Target::Add => second += 1000,
        }
        (first, second)
    }

    fn text(&self) -> String {
        let Self { ty, .. } = self;
        let constant = |number: u64| {
            let number = self.narrow(number);
            match *ty {
                "f32" => format!("(f32.const {})", single(number)),
                "f64" => format!("(f64.const {})", double(number)),
                ty => format!("({ty}.const {number})"),
            }
        };
        let mut body = String::from("(br_table");
        for target in self.entries.iter().chain([&self.default]) {
            write!(body, " {target}").unwrap();
        }
        body += " (local.get 0))";
        for target in &self.targets {
            let set = match *target {
                Target::One(number) => format!("(local.set 1 {})", constant(number)),
                Target::Both(one, other) => {
                    format!("(local.set 1 {}) (local.set 2 (i32.const {other}))", constant(one))
                }
                Target::Nothing => String::new(),
                Target::Add => "(local.set 2 (i32.add (local.get 2) (i32.const 1000)))".to_owned(),
            };
            body = format!("(block {body}) {set} (br $join)");
        }
        let bits = match *ty {
            "i32" => "(i64.extend_i32_u (local.get 1))",
            "f32" => "(i64.extend_i32_u (i32.reinterpret_f32 (local.get 1)))",
            "f64" => "(i64.reinterpret_f64 (local.get 1))",
            _ => "(local.get 1)",
        };
        format!(
            r#"(module (func (export "choose") (param i32) (result i64 i32) (local {ty} i32)
                 (local.set 1 {}) (local.set 2 (i32.const 42))
                 (block $join {body})
                 {bits} (local.get 2)))"#,
            constant(41)
        )
    }
}

/// The float with these bits as text, also if it is not a number.
fn double(bits: u64) -> String {
    let value = f64::from_bits(bits);
    let sign = if value.is_sign_negative() { "-" } else { "" };
    match value {
        _ if value.is_nan() => format!("{sign}nan:0x{:x}", bits % (1 << 52)),
        _ if value.is_infinite() => format!("{sign}inf"),
        _ => format!("{value:e}"),
    }
}

/// The same of 32 bits.
fn single(bits: u64) -> String {
    let value = f32::from_bits(u32::try_from(bits).unwrap());
    let sign = if value.is_sign_negative() { "-" } else { "" };
    match value {
        _ if value.is_nan() => format!("{sign}nan:0x{:x}", bits % (1 << 23)),
        _ => double(f64::from(value).to_bits()),
    }
}

fn check_choice(choice: &Choice) {
    for (opt_level, cpu) in [
        (OptLevel::Speed, CpuLevel::Native),
        (OptLevel::SpeedAndSize, CpuLevel::default()),
        (OptLevel::None, CpuLevel::default()),
    ] {
        let settings = Settings { opt_level, cpu, ..Settings::default() };
        let artifact = load(&compile_with(&choice.text(), &settings));
        let engine = Engine::default();
        let mut store = Store::new(&engine, ());
        let instance = Linker::new(&engine).instantiate(&mut store, &artifact).unwrap();
        let func = instance.typed_func::<u32, (u64, u32)>(&store, "choose").unwrap();
        for index in (0..140).chain([1 << 31, u32::MAX - 63, u32::MAX]) {
            let found = func.call(&mut store, index).unwrap();
            assert_eq!(found, choice.result(index), "{opt_level:?} {index} {choice:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn tables_choose_the_numbers_that_they_say(choice in choices()) {
        check_choice(&choice);
    }
}
