//! Vectors in linear memory: whole ones, halves that are widened, and single
//! lanes. Addresses come from [`bounds`](super::super::bounds), like all others.

use cranelift_codegen::ir::{InstBuilder as _, MemFlagsData, Type, Value, types};
use cranelift_frontend::FuncInstBuilder;
use wasmparser::{MemArg, Operator};

use super::Translator;
use crate::translate::bounds::Address;

impl Translator<'_, '_> {
    /// Translates the operator if it belongs to this family.
    pub(super) fn vector_memory(&mut self, operator: &Operator<'_>) -> bool {
        use types::{I8X16, I16X8, I32X4, I64X2};
        match operator {
            Operator::V128Load { memarg } => {
                self.load_vector(memarg, 16, |ins, flags, base, offset| {
                    ins.load(I8X16, flags, base, offset)
                });
            }
            Operator::V128Load8x8S { memarg } => {
                self.load_vector(memarg, 8, |ins, flags, base, offset| {
                    ins.sload8x8(flags, base, offset)
                });
            }
            Operator::V128Load8x8U { memarg } => {
                self.load_vector(memarg, 8, |ins, flags, base, offset| {
                    ins.uload8x8(flags, base, offset)
                });
            }
            Operator::V128Load16x4S { memarg } => {
                self.load_vector(memarg, 8, |ins, flags, base, offset| {
                    ins.sload16x4(flags, base, offset)
                });
            }
            Operator::V128Load16x4U { memarg } => {
                self.load_vector(memarg, 8, |ins, flags, base, offset| {
                    ins.uload16x4(flags, base, offset)
                });
            }
            Operator::V128Load32x2S { memarg } => {
                self.load_vector(memarg, 8, |ins, flags, base, offset| {
                    ins.sload32x2(flags, base, offset)
                });
            }
            Operator::V128Load32x2U { memarg } => {
                self.load_vector(memarg, 8, |ins, flags, base, offset| {
                    ins.uload32x2(flags, base, offset)
                });
            }
            Operator::V128Load8Splat { memarg } => self.load_splat(memarg, I8X16),
            Operator::V128Load16Splat { memarg } => self.load_splat(memarg, I16X8),
            Operator::V128Load32Splat { memarg } => self.load_splat(memarg, I32X4),
            Operator::V128Load64Splat { memarg } => self.load_splat(memarg, I64X2),
            Operator::V128Load32Zero { memarg } => self.load_zero(memarg, I32X4),
            Operator::V128Load64Zero { memarg } => self.load_zero(memarg, I64X2),
            Operator::V128Load8Lane { memarg, lane } => self.load_lane(memarg, I8X16, *lane),
            Operator::V128Load16Lane { memarg, lane } => self.load_lane(memarg, I16X8, *lane),
            Operator::V128Load32Lane { memarg, lane } => self.load_lane(memarg, I32X4, *lane),
            Operator::V128Load64Lane { memarg, lane } => self.load_lane(memarg, I64X2, *lane),
            Operator::V128Store { memarg } => {
                let value = self.stack.pop();
                self.store_value(memarg, value);
            }
            Operator::V128Store8Lane { memarg, lane } => self.store_lane(memarg, I8X16, *lane),
            Operator::V128Store16Lane { memarg, lane } => self.store_lane(memarg, I16X8, *lane),
            Operator::V128Store32Lane { memarg, lane } => self.store_lane(memarg, I32X4, *lane),
            Operator::V128Store64Lane { memarg, lane } => self.store_lane(memarg, I64X2, *lane),
            _ => return false,
        }
        true
    }

    /// Loads `size` bytes with the instruction that `emit` makes of flags,
    /// base and offset.
    fn load_vector(
        &mut self,
        memarg: &MemArg,
        size: u32,
        emit: impl FnOnce(FuncInstBuilder<'_, '_>, MemFlagsData, Value, i32) -> Value,
    ) {
        let (Address { base, offset }, flags) = self.access(memarg, size);
        let value = emit(self.builder.ins(), flags, base, offset);
        self.push_vector(value);
    }

    /// Loads one lane.
    fn load_scalar(&mut self, memarg: &MemArg, lane: Type) -> Value {
        let (Address { base, offset }, flags) = self.access(memarg, lane.bytes());
        self.builder.ins().load(lane, flags, base, offset)
    }

    fn load_splat(&mut self, memarg: &MemArg, ty: Type) {
        let value = self.load_scalar(memarg, ty.lane_type());
        let value = self.builder.ins().splat(ty, value);
        self.push_vector(value);
    }

    /// Loads lane 0; the others are zero.
    fn load_zero(&mut self, memarg: &MemArg, ty: Type) {
        let value = self.load_scalar(memarg, ty.lane_type());
        let value = self.builder.ins().scalar_to_vector(ty, value);
        self.push_vector(value);
    }

    fn load_lane(&mut self, memarg: &MemArg, ty: Type, lane: u8) {
        let vector = self.pop_vector(ty);
        let value = self.load_scalar(memarg, ty.lane_type());
        let value = self.builder.ins().insertlane(vector, value, lane);
        self.push_vector(value);
    }

    fn store_lane(&mut self, memarg: &MemArg, ty: Type, lane: u8) {
        let vector = self.pop_vector(ty);
        let value = self.builder.ins().extractlane(vector, lane);
        self.store_value(memarg, value);
    }

    fn store_value(&mut self, memarg: &MemArg, value: Value) {
        let size = self.builder.func.dfg.value_type(value).bytes();
        let (Address { base, offset }, flags) = self.access(memarg, size);
        self.builder.ins().store(flags, value, base, offset);
    }
}
