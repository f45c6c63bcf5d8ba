//! Arithmetic, comparisons and conversions.
//!
//! Cranelift's instructions have the semantics of wasm's, traps included, so
//! that each operator is one instruction or two.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{InstBuilder as _, MemFlagsData, Type, Value, types};
use cranelift_frontend::FuncInstBuilder;
use wasmparser::Operator;

use super::Translator;

/// The result of a comparison.
#[derive(Clone, Copy)]
pub(super) struct Flag {
    /// As the code generator has it.
    flag: Value,
    /// As wasm has it.
    value: Value,
}

impl Translator<'_, '_> {
    /// Translates the operator if it belongs to this family.
    pub(super) fn numeric(&mut self, operator: &Operator<'_>) -> bool {
        self.integer_compare(operator)
            || self.integer(operator)
            || self.float(operator)
            || self.convert(operator)
    }

    fn unary(&mut self, emit: impl FnOnce(FuncInstBuilder<'_, '_>, Value) -> Value) {
        let a = self.stack.pop();
        let value = emit(self.builder.ins(), a);
        self.stack.push(value);
    }

    fn binary(&mut self, emit: impl FnOnce(FuncInstBuilder<'_, '_>, Value, Value) -> Value) {
        let (a, b) = self.stack.pop2();
        let value = emit(self.builder.ins(), a, b);
        self.stack.push(value);
    }

    fn integer_compare(&mut self, operator: &Operator<'_>) -> bool {
        let condition = match operator {
            Operator::I32Eqz | Operator::I64Eqz => {
                let a = self.stack.pop();
                let zero = self.constant(self.builder.func.dfg.value_type(a), 0);
                let equal = self.builder.ins().icmp(IntCC::Equal, a, zero);
                self.push_flag(equal);
                return true;
            }
            Operator::I32Eq | Operator::I64Eq => IntCC::Equal,
            Operator::I32Ne | Operator::I64Ne => IntCC::NotEqual,
            Operator::I32LtS | Operator::I64LtS => IntCC::SignedLessThan,
            Operator::I32LtU | Operator::I64LtU => IntCC::UnsignedLessThan,
            Operator::I32GtS | Operator::I64GtS => IntCC::SignedGreaterThan,
            Operator::I32GtU | Operator::I64GtU => IntCC::UnsignedGreaterThan,
            Operator::I32LeS | Operator::I64LeS => IntCC::SignedLessThanOrEqual,
            Operator::I32LeU | Operator::I64LeU => IntCC::UnsignedLessThanOrEqual,
            Operator::I32GeS | Operator::I64GeS => IntCC::SignedGreaterThanOrEqual,
            Operator::I32GeU | Operator::I64GeU => IntCC::UnsignedGreaterThanOrEqual,
            _ => return false,
        };
        let (a, b) = self.stack.pop2();
        let flag = self.builder.ins().icmp(condition, a, b);
        self.push_flag(flag);
        true
    }

    /// Pushes the result of a comparison as the `i32` that wasm has for it.
    pub(super) fn push_flag(&mut self, flag: Value) {
        let value = self.builder.ins().uextend(types::I32, flag);
        self.stack.push(value);
        self.pushed_flag = Some(Flag { flag, value });
    }

    /// Takes an operand of which only matters whether it is zero. Where it is what the operator before has pushed, it is that flag, and
    /// the `i32` is not computed: nobody else has seen it. Not for `eqz`, which the optimiser turns around better in the `i32`.
    pub(super) fn pop_condition(&mut self) -> Value {
        let operand = self.stack.pop();
        let Some(Flag { flag, value }) = self.flag.take() else { return operand };
        let func = &mut *self.builder.func;
        match func.dfg.value_def(value).inst() {
            Some(extension) if value == operand => {
                func.layout.remove_inst(extension);
                flag
            }
            _ => operand,
        }
    }

    fn integer(&mut self, operator: &Operator<'_>) -> bool {
        match operator {
            Operator::I32Add | Operator::I64Add => self.binary(|ins, a, b| ins.iadd(a, b)),
            Operator::I32Sub | Operator::I64Sub => self.binary(|ins, a, b| ins.isub(a, b)),
            Operator::I32Mul | Operator::I64Mul => self.binary(|ins, a, b| ins.imul(a, b)),
            Operator::I32DivS | Operator::I64DivS => self.binary(|ins, a, b| ins.sdiv(a, b)),
            Operator::I32DivU | Operator::I64DivU => self.binary(|ins, a, b| ins.udiv(a, b)),
            Operator::I32RemS | Operator::I64RemS => self.binary(|ins, a, b| ins.srem(a, b)),
            Operator::I32RemU | Operator::I64RemU => self.binary(|ins, a, b| ins.urem(a, b)),
            Operator::I32And | Operator::I64And => self.binary(|ins, a, b| ins.band(a, b)),
            Operator::I32Or | Operator::I64Or => self.binary(|ins, a, b| ins.bor(a, b)),
            Operator::I32Xor | Operator::I64Xor => self.binary(|ins, a, b| ins.bxor(a, b)),
            // Shifts and rotations count modulo the width in both.
            Operator::I32Shl | Operator::I64Shl => self.binary(|ins, a, b| ins.ishl(a, b)),
            Operator::I32ShrS | Operator::I64ShrS => self.binary(|ins, a, b| ins.sshr(a, b)),
            Operator::I32ShrU | Operator::I64ShrU => self.binary(|ins, a, b| ins.ushr(a, b)),
            Operator::I32Rotl | Operator::I64Rotl => self.binary(|ins, a, b| ins.rotl(a, b)),
            Operator::I32Rotr | Operator::I64Rotr => self.binary(|ins, a, b| ins.rotr(a, b)),
            Operator::I32Clz | Operator::I64Clz => self.unary(|ins, a| ins.clz(a)),
            Operator::I32Ctz | Operator::I64Ctz => self.unary(|ins, a| ins.ctz(a)),
            Operator::I32Popcnt | Operator::I64Popcnt => self.unary(|ins, a| ins.popcnt(a)),
            Operator::I32Extend8S => self.extend_low(types::I8, types::I32),
            Operator::I32Extend16S => self.extend_low(types::I16, types::I32),
            Operator::I64Extend8S => self.extend_low(types::I8, types::I64),
            Operator::I64Extend16S => self.extend_low(types::I16, types::I64),
            Operator::I64Extend32S => self.extend_low(types::I32, types::I64),
            _ => return false,
        }
        true
    }

    /// Sign-extends the low bits of an operand.
    fn extend_low(&mut self, low: Type, ty: Type) {
        let a = self.stack.pop();
        let bits = self.builder.ins().ireduce(low, a);
        let value = self.builder.ins().sextend(ty, bits);
        self.stack.push(value);
    }

    fn float(&mut self, operator: &Operator<'_>) -> bool {
        match operator {
            Operator::F32Eq | Operator::F64Eq => self.float_compare(FloatCC::Equal),
            Operator::F32Ne | Operator::F64Ne => self.float_compare(FloatCC::NotEqual),
            Operator::F32Lt | Operator::F64Lt => self.float_compare(FloatCC::LessThan),
            Operator::F32Gt | Operator::F64Gt => self.float_compare(FloatCC::GreaterThan),
            Operator::F32Le | Operator::F64Le => self.float_compare(FloatCC::LessThanOrEqual),
            Operator::F32Ge | Operator::F64Ge => self.float_compare(FloatCC::GreaterThanOrEqual),
            Operator::F32Add | Operator::F64Add => self.binary(|ins, a, b| ins.fadd(a, b)),
            Operator::F32Sub | Operator::F64Sub => self.binary(|ins, a, b| ins.fsub(a, b)),
            Operator::F32Mul | Operator::F64Mul => self.binary(|ins, a, b| ins.fmul(a, b)),
            Operator::F32Div | Operator::F64Div => self.binary(|ins, a, b| ins.fdiv(a, b)),
            Operator::F32Min | Operator::F64Min => self.binary(|ins, a, b| ins.fmin(a, b)),
            Operator::F32Max | Operator::F64Max => self.binary(|ins, a, b| ins.fmax(a, b)),
            Operator::F32Copysign | Operator::F64Copysign => {
                self.binary(|ins, a, b| ins.fcopysign(a, b));
            }
            Operator::F32Abs | Operator::F64Abs => self.unary(|ins, a| ins.fabs(a)),
            Operator::F32Neg | Operator::F64Neg => self.unary(|ins, a| ins.fneg(a)),
            Operator::F32Sqrt | Operator::F64Sqrt => self.unary(|ins, a| ins.sqrt(a)),
            _ => return false,
        }
        true
    }

    fn float_compare(&mut self, condition: FloatCC) {
        let (a, b) = self.stack.pop2();
        let flag = self.builder.ins().fcmp(condition, a, b);
        self.push_flag(flag);
    }

    fn convert(&mut self, operator: &Operator<'_>) -> bool {
        use types::{F32, F64, I32, I64};
        match operator {
            Operator::I32WrapI64 => self.unary(|ins, a| ins.ireduce(I32, a)),
            Operator::I64ExtendI32S => self.unary(|ins, a| ins.sextend(I64, a)),
            Operator::I64ExtendI32U => self.unary(|ins, a| ins.uextend(I64, a)),
            Operator::I32TruncF32S | Operator::I32TruncF64S => {
                self.unary(|ins, a| ins.fcvt_to_sint(I32, a));
            }
            Operator::I32TruncF32U | Operator::I32TruncF64U => {
                self.unary(|ins, a| ins.fcvt_to_uint(I32, a));
            }
            Operator::I64TruncF32S | Operator::I64TruncF64S => {
                self.unary(|ins, a| ins.fcvt_to_sint(I64, a));
            }
            Operator::I64TruncF32U | Operator::I64TruncF64U => {
                self.unary(|ins, a| ins.fcvt_to_uint(I64, a));
            }
            Operator::I32TruncSatF32S | Operator::I32TruncSatF64S => {
                self.unary(|ins, a| ins.fcvt_to_sint_sat(I32, a));
            }
            Operator::I32TruncSatF32U | Operator::I32TruncSatF64U => {
                self.unary(|ins, a| ins.fcvt_to_uint_sat(I32, a));
            }
            Operator::I64TruncSatF32S | Operator::I64TruncSatF64S => {
                self.unary(|ins, a| ins.fcvt_to_sint_sat(I64, a));
            }
            Operator::I64TruncSatF32U | Operator::I64TruncSatF64U => {
                self.unary(|ins, a| ins.fcvt_to_uint_sat(I64, a));
            }
            Operator::F32ConvertI32S | Operator::F32ConvertI64S => {
                self.unary(|ins, a| ins.fcvt_from_sint(F32, a));
            }
            Operator::F32ConvertI32U | Operator::F32ConvertI64U => {
                self.unary(|ins, a| ins.fcvt_from_uint(F32, a));
            }
            Operator::F64ConvertI32S | Operator::F64ConvertI64S => {
                self.unary(|ins, a| ins.fcvt_from_sint(F64, a));
            }
            Operator::F64ConvertI32U | Operator::F64ConvertI64U => {
                self.unary(|ins, a| ins.fcvt_from_uint(F64, a));
            }
            Operator::F32DemoteF64 => self.unary(|ins, a| ins.fdemote(F32, a)),
            Operator::F64PromoteF32 => self.unary(|ins, a| ins.fpromote(F64, a)),
            Operator::I32ReinterpretF32 => self.reinterpret(I32),
            Operator::I64ReinterpretF64 => self.reinterpret(I64),
            Operator::F32ReinterpretI32 => self.reinterpret(F32),
            Operator::F64ReinterpretI64 => self.reinterpret(F64),
            _ => return false,
        }
        true
    }

    fn reinterpret(&mut self, ty: Type) {
        self.unary(|ins, a| ins.bitcast(ty, MemFlagsData::new(), a));
    }
}
