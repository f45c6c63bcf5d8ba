//! 128-bit vectors, and whatever else the validator lets through and no family
//! of operators knows: refused by name.

use super::BodyError;
use crate::module::GC;
use wasmparser::Operator;

pub(super) const NAME: &str = "SIMD (128-bit vectors)";

/// The error for an operator that is not translated.
pub(super) fn refuse(operator: &Operator<'_>, offset: u64) -> BodyError {
    let name = format!("{operator:?}");
    let vector = ["V128", "I8x16", "I16x8", "I32x4", "I64x2", "F32x4", "F64x2"]
        .iter()
        .any(|prefix| name.starts_with(prefix));
    BodyError::Unsupported(if vector { NAME } else { GC }, offset)
}
