//! Writes the module of a seed to a file, for a closer look, and says which
//! settings make cwasm differ from the other engine.

use cwasm_compiler::{CpuLevel, OptLevel, Settings};
use cwasm_differential::generate::Case;
use cwasm_differential::outcome::Outcome;
use cwasm_differential::{ours, settings, theirs};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [seed, path] = &arguments[..] else {
        eprintln!("usage: dump SEED OUT.wasm");
        std::process::exit(2);
    };
    let seed = seed.parse().expect("the seed is a number");
    let case = Case::generate(seed);
    std::fs::write(path, &case.wasm).expect("the file can be written");
    let wanted = theirs::run(&case).expect("the other engine runs it");
    for cpu in [CpuLevel::Baseline, CpuLevel::Native] {
        for opt_level in [OptLevel::None, OptLevel::Speed] {
            let settings = Settings { cpu, opt_level, ..settings(seed) };
            let found = ours::run(&case, &settings).expect("cwasm runs it");
            let difference = Outcome::difference(&found, &wanted);
            println!("{cpu} -O{}: {}", opt_level.name(), difference.as_deref().unwrap_or("same"));
        }
    }
}
