//! Constant expressions: the initial values of globals, the elements of
//! tables, and the offsets of segments.
//!
//! They are folded as they are read: what is left of one that does not depend
//! on an import is a single constant.

use cranelift_codegen::entity::PrimaryMap;
use cwasm_artifact::types::{RefType, ValType};
use wasmparser::Operator;

use super::Global;
use super::index::{FuncIndex, GlobalIndex, TypeIndex};
use super::types::{Declared, heap_type};

/// An operation of a constant expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConstOp {
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
    /// `global.get` of an immutable global that comes before.
    GlobalGet(GlobalIndex),
    /// `i32.add`, `i32.sub` or `i32.mul`
    I32Arithmetic(Arithmetic),
    /// `i64.add`, `i64.sub` or `i64.mul`
    I64Arithmetic(Arithmetic),
    /// `struct.new`
    StructNew(TypeIndex),
    /// `struct.new_default`
    StructNewDefault(TypeIndex),
    /// `array.new`
    ArrayNew(TypeIndex),
    /// `array.new_default`
    ArrayNewDefault(TypeIndex),
    /// `array.new_fixed`, with so many elements.
    ArrayNewFixed(TypeIndex, u32),
    /// `ref.i31`
    RefI31,
    /// `any.convert_extern`
    AnyConvertExtern,
    /// `extern.convert_any`
    ExternConvertAny,
}

impl ConstOp {
    /// Whether it is the same wherever and whenever it is computed.
    const fn is_constant(self) -> bool {
        matches!(
            self,
            Self::I32(_)
                | Self::I64(_)
                | Self::F32(_)
                | Self::F64(_)
                | Self::V128(_)
                | Self::RefNull(_)
                | Self::RefFunc(_)
        )
    }
}

/// Arithmetic of constant expressions, which wraps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// Addition.
    Add,
    /// Subtraction.
    Sub,
    /// Multiplication.
    Mul,
}

/// A constant expression: operations of a stack machine, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConstExpr(Ops);

/// Nearly all expressions are one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ops {
    One(ConstOp),
    Many(Box<[ConstOp]>),
}

impl ConstExpr {
    /// Reads an expression that is valid, or returns `None` for operators that
    /// are not compiled. `globals` are those that it may read.
    pub(super) fn read(
        expr: &wasmparser::ConstExpr<'_>,
        globals: &PrimaryMap<GlobalIndex, Global>,
        declared: &impl Declared,
    ) -> wasmparser::Result<Option<Self>> {
        let mut operators = expr.get_operators_reader();
        let mut ops = Vec::new();
        loop {
            let op = match operators.read()? {
                Operator::End => break,
                Operator::I32Const { value } => ConstOp::I32(value),
                Operator::I64Const { value } => ConstOp::I64(value),
                Operator::F32Const { value } => ConstOp::F32(value.bits()),
                Operator::F64Const { value } => ConstOp::F64(value.bits()),
                Operator::V128Const { value } => ConstOp::V128(u128::from_le_bytes(*value.bytes())),
                Operator::RefNull { hty } => {
                    let Some(heap) = heap_type(hty, declared) else { return Ok(None) };
                    ConstOp::RefNull(RefType { nullable: true, heap }.into())
                }
                Operator::RefFunc { function_index } => {
                    ConstOp::RefFunc(FuncIndex::from_u32(function_index))
                }
                Operator::GlobalGet { global_index } => {
                    let index = GlobalIndex::from_u32(global_index);
                    let known = globals.get(index).and_then(Global::constant);
                    known.unwrap_or(ConstOp::GlobalGet(index))
                }
                Operator::I32Add => ConstOp::I32Arithmetic(Arithmetic::Add),
                Operator::I32Sub => ConstOp::I32Arithmetic(Arithmetic::Sub),
                Operator::I32Mul => ConstOp::I32Arithmetic(Arithmetic::Mul),
                Operator::I64Add => ConstOp::I64Arithmetic(Arithmetic::Add),
                Operator::I64Sub => ConstOp::I64Arithmetic(Arithmetic::Sub),
                Operator::I64Mul => ConstOp::I64Arithmetic(Arithmetic::Mul),
                Operator::StructNew { struct_type_index: ty } => {
                    ConstOp::StructNew(TypeIndex::from_u32(ty))
                }
                Operator::StructNewDefault { struct_type_index: ty } => {
                    ConstOp::StructNewDefault(TypeIndex::from_u32(ty))
                }
                Operator::ArrayNew { array_type_index: ty } => {
                    ConstOp::ArrayNew(TypeIndex::from_u32(ty))
                }
                Operator::ArrayNewDefault { array_type_index: ty } => {
                    ConstOp::ArrayNewDefault(TypeIndex::from_u32(ty))
                }
                Operator::ArrayNewFixed { array_type_index: ty, array_size } => {
                    ConstOp::ArrayNewFixed(TypeIndex::from_u32(ty), array_size)
                }
                Operator::RefI31 => ConstOp::RefI31,
                Operator::AnyConvertExtern => ConstOp::AnyConvertExtern,
                Operator::ExternConvertAny => ConstOp::ExternConvertAny,
                _ => return Ok(None),
            };
            push_folded(&mut ops, op);
        }
        Ok(Some(Self(match ops[..] {
            [op] => Ops::One(op),
            _ => Ops::Many(ops.into()),
        })))
    }

    /// The operations.
    #[must_use]
    pub fn ops(&self) -> &[ConstOp] {
        match &self.0 {
            Ops::One(op) => std::slice::from_ref(op),
            Ops::Many(ops) => ops,
        }
    }

    /// The value, if it does not depend on an import.
    #[must_use]
    pub fn constant(&self) -> Option<ConstOp> {
        match self.0 {
            Ops::One(op) if op.is_constant() => Some(op),
            _ => None,
        }
    }

    /// The functions that the expression refers to.
    pub fn funcs(&self) -> impl Iterator<Item = FuncIndex> + '_ {
        self.ops().iter().filter_map(|op| match *op {
            ConstOp::RefFunc(index) => Some(index),
            _ => None,
        })
    }
}

/// Appends an operation, or computes it if its operands are the constants before it.
fn push_folded(ops: &mut Vec<ConstOp>, op: ConstOp) {
    let folded = match (op, &ops[..]) {
        (ConstOp::I32Arithmetic(op), [.., ConstOp::I32(a), ConstOp::I32(b)]) => {
            Some(ConstOp::I32(match op {
                Arithmetic::Add => a.wrapping_add(*b),
                Arithmetic::Sub => a.wrapping_sub(*b),
                Arithmetic::Mul => a.wrapping_mul(*b),
            }))
        }
        (ConstOp::I64Arithmetic(op), [.., ConstOp::I64(a), ConstOp::I64(b)]) => {
            Some(ConstOp::I64(match op {
                Arithmetic::Add => a.wrapping_add(*b),
                Arithmetic::Sub => a.wrapping_sub(*b),
                Arithmetic::Mul => a.wrapping_mul(*b),
            }))
        }
        _ => None,
    };
    match folded {
        Some(value) => {
            ops.truncate(ops.len() - 2);
            ops.push(value);
        }
        None => ops.push(op),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_depend_on_an_import_is_folded() {
        let wasm = wat::parse_str(
            r#"(module
                (import "m" "g" (global $imported i32))
                (global $a i64 (i64.sub (i64.const 3) (i64.mul (i64.const 5) (i64.const 7))))
                (global $b i64 (i64.add (global.get $a) (i64.const 1)))
                (global $c i32 (i32.add (global.get $imported) (i32.add (i32.const 1) (i32.const -3)))))"#,
        )
        .unwrap();
        let (module, _) = crate::module::parse(&wasm).unwrap();
        let init = |index| module.globals[GlobalIndex::from_u32(index)].init.clone().unwrap();
        assert_eq!(init(1).constant(), Some(ConstOp::I64(-32)));
        assert_eq!(init(2).constant(), Some(ConstOp::I64(-31)));
        assert_eq!(init(3).constant(), None);
        let imported = ConstOp::GlobalGet(GlobalIndex::from_u32(0));
        let add = ConstOp::I32Arithmetic(Arithmetic::Add);
        assert_eq!(init(3).ops(), [imported, ConstOp::I32(-2), add]);
    }
}
