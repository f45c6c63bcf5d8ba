//! Locals, constants, and operators that only move operands.

use cranelift_codegen::cursor::{Cursor as _, FuncCursor};
use cranelift_codegen::ir::{self, InstBuilder as _, Value, immediates, types};
use wasmparser::Operator;

use super::Translator;

impl Translator<'_, '_> {
    /// Translates the operator if it belongs to this family.
    pub(super) fn local(&mut self, operator: &Operator<'_>) -> bool {
        match *operator {
            Operator::LocalGet { local_index } => {
                let value = self.builder.use_var(self.locals[local_index as usize]);
                self.stack.push(value);
            }
            Operator::LocalSet { local_index } => {
                let value = self.stack.pop();
                self.builder.def_var(self.locals[local_index as usize], value);
            }
            Operator::LocalTee { local_index } => {
                let value = self.stack.top(1)[0];
                self.builder.def_var(self.locals[local_index as usize], value);
            }
            Operator::I32Const { value } => {
                // The upper half of a narrow constant must be clear.
                let bits = i64::from(value.cast_unsigned());
                let value = self.constant(types::I32, bits);
                self.stack.push(value);
            }
            Operator::I64Const { value } => {
                let value = self.constant(types::I64, value);
                self.stack.push(value);
            }
            Operator::F32Const { value } => {
                let bits = immediates::Ieee32::with_bits(value.bits());
                let value = self.builder.ins().f32const(bits);
                self.stack.push(value);
            }
            Operator::F64Const { value } => {
                let bits = immediates::Ieee64::with_bits(value.bits());
                let value = self.builder.ins().f64const(bits);
                self.stack.push(value);
            }
            Operator::Drop => {
                self.stack.pop();
            }
            Operator::Select | Operator::TypedSelect { .. } => {
                let condition = self.pop_condition();
                let (a, b) = self.stack.pop2();
                let value = self.builder.ins().select(condition, a, b);
                self.stack.push(value);
            }
            Operator::Nop => {}
            _ => return false,
        }
        true
    }

    /// An integer. The upper half of a narrow one is clear.
    ///
    /// Each is made once, at the beginning of the function. The optimiser copies it to the blocks that use it; of one for each use, it would
    /// make one first, after looking at them all.
    pub(super) fn constant(&mut self, ty: ir::Type, value: i64) -> Value {
        let builder = &mut self.builder;
        *self.constants.entry((ty, value)).or_insert_with(|| {
            let layout = &builder.func.layout;
            match layout.entry_block().and_then(|entry| layout.first_inst(entry)) {
                Some(first) => FuncCursor::new(builder.func).at_inst(first).ins().iconst(ty, value),
                None => builder.ins().iconst(ty, value),
            }
        })
    }
}
