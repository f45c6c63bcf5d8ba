//! Branch tables lead where they say, whatever indices lead to the same place. The compiler compares indices where a table leads to few.

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
