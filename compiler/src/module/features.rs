//! Which proposals this version compiles, and what the others are called when
//! a module needs one of them.

use crate::error::CompileError;
use wasmparser::{Validator, WasmFeatures};

/// Wasm 3.0, these proposals, and nothing else: what the specification declares
/// invalid must be refused.
pub(super) const SUPPORTED: WasmFeatures = WasmFeatures::WASM2
    .union(WasmFeatures::RELAXED_SIMD)
    .union(WasmFeatures::WIDE_ARITHMETIC)
    .union(WasmFeatures::MULTI_MEMORY)
    .union(WasmFeatures::EXTENDED_CONST)
    .union(WasmFeatures::MEMORY64)
    .union(WasmFeatures::CUSTOM_PAGE_SIZES)
    .union(WasmFeatures::THREADS)
    .union(WasmFeatures::FUNCTION_REFERENCES)
    .union(WasmFeatures::TAIL_CALL)
    .union(WasmFeatures::EXCEPTIONS)
    .union(WasmFeatures::GC);

/// Proposals by the names that people know them by. Where a proposal builds on
/// another, the other comes first.
const PROPOSALS: &[(WasmFeatures, &str)] = &[
    (WasmFeatures::SHARED_EVERYTHING_THREADS, "shared-everything threads"),
    (
        WasmFeatures::LEGACY_EXCEPTIONS,
        "the legacy encoding of exceptions (convert it with `wasm-opt --translate-to-exnref`)",
    ),
    (WasmFeatures::MEMORY_CONTROL, "memory control"),
    (WasmFeatures::STACK_SWITCHING, "stack switching"),
];

/// What the types and instructions are called that none of the proposals allows which are compiled.
pub(crate) const TYPES: &str = "types of another proposal";

/// Refuses a module with vectors, for targets whose registers have none.
pub(crate) fn refuse_vectors(wasm: &[u8]) -> Result<(), CompileError> {
    let without = SUPPORTED.difference(WasmFeatures::SIMD | WasmFeatures::RELAXED_SIMD);
    let Err(error) = Validator::new_with_features(without).validate_all(wasm) else {
        return Ok(());
    };
    match Validator::new_with_features(SUPPORTED).validate_all(wasm) {
        Ok(_) => Err(CompileError::Unsupported {
            feature: "vectors (on this target)",
            offset: error.offset(),
            function: None,
        }),
        // Whoever translates it says what is wrong.
        Err(_) => Ok(()),
    }
}

/// Tells a module that breaks the rules from one that is valid with proposals
/// which this version does not compile.
pub(super) fn explain(wasm: &[u8], error: &wasmparser::Error) -> CompileError {
    let offset = error.offset();
    let valid_with =
        |features: WasmFeatures| Validator::new_with_features(features).validate_all(wasm).is_ok();
    let unsupported = |feature| CompileError::Unsupported { feature, offset, function: None };
    if offset >= wasm.len() as u64 && error.message().starts_with("unexpected end") {
        return CompileError::Truncated { offset: wasm.len() as u64 };
    }
    let all = WasmFeatures::all().difference(WasmFeatures::COMPONENT_MODEL);
    if valid_with(all) {
        if let Some(missing) = error.missing_wasm_feature()
            && let Some((_, name)) = PROPOSALS.iter().find(|(flag, _)| missing.contains(*flag))
        {
            return unsupported(name);
        }
        let mut features = SUPPORTED;
        for (flag, name) in PROPOSALS {
            // Alone, or as the last of several that are needed together.
            if valid_with(SUPPORTED | *flag) {
                return unsupported(name);
            }
            features |= *flag;
            if valid_with(features) {
                return unsupported(name);
            }
        }
        return unsupported("a proposal");
    }
    CompileError::Invalid { offset, function: None, message: error.message().to_owned() }
}
