//! Constant expressions: the initial values of globals, the elements of
//! tables, and the offsets of segments.

use cwasm_artifact::types::ValType;

use super::index::{FuncIndex, GlobalIndex};
use super::types::ref_type;
use wasmparser::Operator;

/// A constant expression of Wasm 2.0, which is a single operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConstExpr {
    /// `i32.const`
    I32(i32),
    /// `i64.const`
    I64(i64),
    /// `f32.const`, as its bits.
    F32(u32),
    /// `f64.const`, as its bits.
    F64(u64),
    /// `v128.const`, as its bits; the first byte is the lowest.
    V128(u128),
    /// `ref.null` of this type.
    RefNull(ValType),
    /// `ref.func`
    RefFunc(FuncIndex),
    /// `global.get` of an imported, immutable global.
    GlobalGet(GlobalIndex),
}

impl ConstExpr {
    /// Reads an expression that is valid, or returns `None` for operators that
    /// only later proposals allow.
    pub(super) fn read(expr: &wasmparser::ConstExpr<'_>) -> wasmparser::Result<Option<Self>> {
        let mut operators = expr.get_operators_reader();
        let value = match operators.read()? {
            Operator::I32Const { value } => Self::I32(value),
            Operator::I64Const { value } => Self::I64(value),
            Operator::F32Const { value } => Self::F32(value.bits()),
            Operator::F64Const { value } => Self::F64(value.bits()),
            Operator::V128Const { value } => Self::V128(u128::from_le_bytes(*value.bytes())),
            Operator::RefNull { hty } => {
                let ty = wasmparser::RefType::new(true, hty).and_then(ref_type);
                let Some(ty) = ty else { return Ok(None) };
                Self::RefNull(ty)
            }
            Operator::RefFunc { function_index } => {
                Self::RefFunc(FuncIndex::from_u32(function_index))
            }
            Operator::GlobalGet { global_index } => {
                Self::GlobalGet(GlobalIndex::from_u32(global_index))
            }
            _ => return Ok(None),
        };
        Ok(matches!(operators.read()?, Operator::End).then_some(value))
    }

    /// The function that the expression refers to.
    #[must_use]
    pub fn func(&self) -> Option<FuncIndex> {
        match *self {
            Self::RefFunc(index) => Some(index),
            _ => None,
        }
    }
}
