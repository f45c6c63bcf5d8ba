//! Globals. Those that a module defines are inside its vmctx, imported ones
//! are reached through a pointer, and constants are constants.

use cranelift_codegen::ir::{InstBuilder as _, MemFlagsData, Value, immediates, types};
use wasmparser::Operator;

use super::reference::is_traced;
use super::runtime::{field, offset32};
use super::{Translator, clif_type};
use crate::module::{ConstOp, GlobalIndex};

impl Translator<'_, '_> {
    /// Translates the operator if it belongs to this family.
    pub(super) fn global(&mut self, operator: &Operator<'_>) -> bool {
        match *operator {
            Operator::GlobalGet { global_index } => {
                let index = GlobalIndex::from_u32(global_index);
                self.holds_traced |= is_traced(self.env.module.globals[index].ty.value);
                let value = self.global_constant(index).unwrap_or_else(|| {
                    let ty = clif_type(self.env.module.globals[index].ty.value);
                    let (base, offset, flags) = self.global_storage(index);
                    self.builder.ins().load(ty, flags, base, offset)
                });
                self.stack.push(value);
            }
            Operator::GlobalSet { global_index } => {
                let value = self.stack.pop();
                let (base, offset, flags) =
                    self.global_storage(GlobalIndex::from_u32(global_index));
                self.builder.ins().store(flags, value, base, offset);
            }
            _ => return false,
        }
        true
    }

    /// The value of an immutable global whose initial value is a constant.
    fn global_constant(&mut self, index: GlobalIndex) -> Option<Value> {
        let value = self.env.module.globals[index].constant()?;
        let ins = self.builder.ins();
        Some(match value {
            ConstOp::I32(value) => ins.iconst(types::I32, i64::from(value.cast_unsigned())),
            ConstOp::I64(value) => ins.iconst(types::I64, value),
            ConstOp::F32(bits) => ins.f32const(immediates::Ieee32::with_bits(bits)),
            ConstOp::F64(bits) => ins.f64const(immediates::Ieee64::with_bits(bits)),
            ConstOp::V128(bits) => self.vector_constant(types::I8X16, bits.to_le_bytes()),
            ConstOp::RefNull(_) => ins.iconst(types::I64, 0),
            ConstOp::RefFunc(function) => self.func_ref(function),
            // Those are computed when an instance is made.
            _ => return None,
        })
    }

    fn global_storage(&mut self, index: GlobalIndex) -> (Value, i32, MemFlagsData) {
        let module = self.env.module;
        // Only a variable may change; a constant is initialised before any code runs.
        let flags =
            if module.globals[index].ty.mutable { field() } else { field().with_readonly() };
        match module.defined_global(index) {
            Some(defined) => {
                let offset = module.vmctx.defined_global(defined.as_u32());
                let region = self.regions.defined_global(self.builder.func, defined.as_u32());
                (self.vmctx, offset32(offset), flags.with_alias_region(Some(region)))
            }
            None => {
                let slot = module.vmctx.imported_global(index.as_u32());
                let pointer = self.vmctx_field(types::I64, slot);
                (pointer, 0, flags.with_alias_region(Some(self.regions.globals)))
            }
        }
    }
}
