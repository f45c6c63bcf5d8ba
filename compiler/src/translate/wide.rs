//! 128-bit integers, of which wasm sees the two halves: the wide-arithmetic
//! proposal. The low half is below the high one on the stack.

use cranelift_codegen::ir::{InstBuilder as _, Value, types};
use cranelift_frontend::FuncInstBuilder;
use wasmparser::Operator;

use super::{BodyError, Translator};
use crate::product::Product;

impl Translator<'_, '_> {
    /// Translates the operator if it belongs to this family.
    pub(super) fn wide(&mut self, operator: &Operator<'_>) -> bool {
        match operator {
            Operator::I64Add128 => self.wide_binary(|ins, a, b| ins.iadd(a, b)),
            Operator::I64Sub128 => self.wide_binary(|ins, a, b| ins.isub(a, b)),
            Operator::I64MulWideS => self.wide_multiply(|ins, a| ins.sextend(types::I128, a)),
            Operator::I64MulWideU => self.wide_multiply(|ins, a| ins.uextend(types::I128, a)),
            _ => return false,
        }
        true
    }

    fn wide_binary(&mut self, emit: impl FnOnce(FuncInstBuilder<'_, '_>, Value, Value) -> Value) {
        let b = self.pop_wide();
        let a = self.pop_wide();
        let value = emit(self.builder.ins(), a, b);
        self.push_wide(value);
    }

    fn wide_multiply(&mut self, extend: impl Fn(FuncInstBuilder<'_, '_>, Value) -> Value) {
        let (a, b) = self.stack.pop2();
        let a = extend(self.builder.ins(), a);
        let b = extend(self.builder.ins(), b);
        // The code generator knows products of extended operands.
        let value = self.builder.ins().imul(a, b);
        self.push_wide(value);
    }

    /// Translates the body of a function that was recognised as one that stores the product of its parameters.
    pub(super) fn store_product(&mut self, product: &Product) -> Result<(), BodyError> {
        let [address, a, a_high, b, b_high] =
            [0, 1, 2, 3, 4].map(|number| self.local_value(number));
        let [x, y] = [a, b].map(|half| self.builder.ins().uextend(types::I128, half));
        let whole = self.builder.ins().imul(x, y);
        let (low, high) = self.builder.ins().isplit(whole);
        let crosswise = [(a, b_high), (a_high, b)].map(|(a, b)| self.builder.ins().imul(a, b));
        let high = crosswise.into_iter().fold(high, |sum, it| self.builder.ins().iadd(sum, it));
        for half in &product.stores {
            self.stack.push(address);
            self.stack.push(if half.is_high { high } else { low });
            self.operator(&Operator::I64Store { memarg: half.memarg }, half.offset)?;
        }
        self.operator(&Operator::End, product.end)
    }

    fn pop_wide(&mut self) -> Value {
        let (low, high) = self.stack.pop2();
        self.builder.ins().iconcat(low, high)
    }

    fn push_wide(&mut self, value: Value) {
        let (low, high) = self.builder.ins().isplit(value);
        self.stack.push(low);
        self.stack.push(high);
    }
}
