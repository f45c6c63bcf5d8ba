//! SANDBOX-CRITICAL: indices that are scaled in 32 bits and cannot wrap around, scaled in 64 instead.
//!
//! A program computes the place of an element of a table as `base + (x << 2)` in 32 bits, and the address is that, made longer. Where
//! so much of `x` is known to be clear that no bit is lost, the longer one is `x`, made longer, shifted: an operand
//! of the access itself, which scales by 2, 4 or 8. That is so for what was masked, shifted to the right or loaded from a byte, as indices of
//! tables of a hash, of an automaton or of an interpreter are.
//!
//! It is the same number, whatever becomes of it: `x <= 2^(32 - scale) - 1`, which [`most`] finds out, therefore `x << scale < 2^32`,
//! and so the index stays below 2^32, as `translate/bounds.rs` relies on. Were that bound wrong, an access could leave the sandbox.

use cranelift_codegen::cursor::{Cursor as _, FuncCursor};
use cranelift_codegen::entity::EntityRef as _;
use cranelift_codegen::ir::{
    DataFlowGraph, Function, Inst, InstBuilder as _, InstructionData, Opcode, Value, types,
};

use crate::narrow::{constant, operation};

/// An access scales by 2 to the power of this at most.
const MAX_SCALE: u64 = 3;

/// How many operations are looked through to find out what a value can be.
pub(crate) const MAX_DEPTH: u32 = 3;

/// Scales such indices in 64 bits. The function is optimised: before, there would be more to look at.
pub(crate) fn scale(func: &mut Function) {
    for number in 0..func.dfg.num_insts() {
        let inst = Inst::new(number);
        let InstructionData::Unary { opcode: Opcode::Uextend, arg } = func.dfg.insts[inst] else {
            continue;
        };
        let Some((index, amount)) = scaled(&func.dfg, arg) else { continue };
        if func.dfg.value_type(func.dfg.first_result(inst)) != types::I64
            || func.layout.inst_block(inst).is_none()
        {
            continue;
        }
        let mut cursor = FuncCursor::new(func).at_inst(inst);
        let index = cursor.ins().uextend(types::I64, index);
        cursor.func.replace(inst).ishl(index, amount);
    }
}

/// If a value is an index of 32 bits, shifted by a scale such that no bit is lost: both.
fn scaled(dfg: &DataFlowGraph, value: Value) -> Option<(Value, Value)> {
    let (Opcode::Ishl, index, amount) = operation(dfg, value)? else { return None };
    let scale = constant(dfg, amount).filter(|it| (1..=MAX_SCALE).contains(it))?;
    let fits = dfg.value_type(value) == types::I32
        && most(dfg, index, MAX_DEPTH, &|_| None) << scale <= u64::from(u32::MAX);
    fits.then_some((index, amount))
}

/// The most that a value of 32 bits or less can be, as far as so many operations tell, and what is known of parameters of blocks.
pub(crate) fn most(
    dfg: &DataFlowGraph,
    value: Value,
    depth: u32,
    known: &dyn Fn(Value) -> Option<u32>,
) -> u64 {
    let ty = dfg.value_type(value);
    let all = u64::MAX >> (64 - ty.bits());
    let Some(inst) = dfg.value_def(value).inst() else {
        return known(dfg.resolve_aliases(value)).map_or(all, u64::from);
    };
    let Some(depth) = depth.checked_sub(1) else { return all };
    let most = |value| most(dfg, value, depth, known);
    // As many as the type has bits are none.
    let amount = |by| constant(dfg, by).map(|by| by & u64::from(ty.bits() - 1));
    match dfg.insts[inst] {
        InstructionData::UnaryImm { opcode: Opcode::Iconst, imm } => {
            imm.bits().cast_unsigned() & all
        }
        InstructionData::Load { opcode: Opcode::Uload8, .. } => u64::from(u8::MAX),
        InstructionData::Load { opcode: Opcode::Uload16, .. } => u64::from(u16::MAX),
        InstructionData::Unary { opcode: Opcode::Uextend, arg } => most(arg),
        InstructionData::Binary { opcode: Opcode::Band, args: [a, b] } => most(a).min(most(b)),
        InstructionData::Binary { opcode: Opcode::Ushr, args: [shifted, by] } => {
            most(shifted) >> amount(by).unwrap_or(0)
        }
        InstructionData::Binary { opcode: Opcode::Ishl, args: [shifted, by] } => {
            // Bits that are lost make it less.
            let shifted = amount(by).map(|by| u128::from(most(shifted)) << by);
            shifted.and_then(|it| u64::try_from(it).ok()).unwrap_or(all)
        }
        _ => all,
    }
}

#[cfg(test)]
mod tests {
    use cranelift_codegen::ir::{AbiParam, MemFlagsData};
    use cranelift_codegen::settings::{self, Flags};
    use cranelift_codegen::verify_function;
    use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

    use super::*;

    /// The opcodes of `index << by`, made longer, from the last on, where `index` makes the index of a number of 32 bits and a pointer.
    fn opcodes(
        by: i64,
        index: impl Fn(&mut FunctionBuilder<'_>, Value, Value) -> Value,
    ) -> Vec<Opcode> {
        let mut func = Function::new();
        func.signature.params.extend([types::I32, types::I64].map(AbiParam::new));
        func.signature.returns.push(AbiParam::new(types::I64));
        let mut memory = FunctionBuilderContext::new();
        let mut builder = FunctionBuilder::new(&mut func, &mut memory);
        let entry = builder.create_block();
        builder.append_block_params_for_function_params(entry);
        builder.switch_to_block(entry);
        builder.seal_block(entry);
        let [number, pointer] = *builder.block_params(entry) else { unreachable!() };
        let index = index(&mut builder, number, pointer);
        let amount = builder.ins().iconst(types::I32, by);
        let scaled = builder.ins().ishl(index, amount);
        let long = builder.ins().uextend(types::I64, scaled);
        builder.ins().return_(&[long]);
        scale(&mut func);
        verify_function(&func, &Flags::new(settings::builder())).unwrap();
        let last = func.layout.last_inst(entry).unwrap();
        let mut value = func.dfg.inst_args(last)[0];
        let mut found = Vec::new();
        while let Some(inst) = func.dfg.value_def(value).inst() {
            found.push(func.dfg.insts[inst].opcode());
            value = func.dfg.inst_args(inst)[0];
        }
        found
    }

    use Opcode::{Band, Ishl, Uextend, Uload8, Uload16, Ushr};

    #[test]
    fn an_index_of_which_no_bit_is_lost_is_scaled_in_64_bits() {
        let masked = |mask: i64, scale| {
            opcodes(scale, |builder, number, _| builder.ins().band_imm_u(number, mask))
        };
        let (long, short) = ([Ishl, Uextend, Band], [Uextend, Ishl, Band]);
        assert_eq!(masked(0xff, 1), long);
        assert_eq!(masked(0xff, 3), long);
        assert_eq!(masked(0x3fff_ffff, 2), long);
        assert_eq!(masked(0x4000_0000, 2), short);
        assert_eq!(masked(0x1fff_ffff, 3), long);
        assert_eq!(masked(0x2000_0000, 3), short);
        // No access scales by that.
        assert_eq!(masked(0xff, 4), short);
        assert_eq!(masked(0xff, 0), short);
        let shifted =
            |by, scale| opcodes(scale, |builder, number, _| builder.ins().ushr_imm_u(number, by));
        assert_eq!(shifted(2, 2), [Ishl, Uextend, Ushr]);
        assert_eq!(shifted(1, 2), [Uextend, Ishl, Ushr]);
        // By one.
        assert_eq!(shifted(33, 2), [Uextend, Ishl, Ushr]);
        assert_eq!(shifted(33, 1), [Ishl, Uextend, Ushr]);
    }

    #[test]
    fn what_is_loaded_has_no_more_bits_than_were_loaded() {
        let flags = MemFlagsData::new();
        let byte =
            opcodes(3, |builder, _, pointer| builder.ins().uload8(types::I32, flags, pointer, 0));
        assert_eq!(byte, [Ishl, Uextend, Uload8]);
        let half =
            opcodes(3, |builder, _, pointer| builder.ins().uload16(types::I32, flags, pointer, 0));
        assert_eq!(half, [Ishl, Uextend, Uload16]);
        let signed =
            opcodes(3, |builder, _, pointer| builder.ins().sload8(types::I32, flags, pointer, 0));
        assert_eq!(signed, [Uextend, Ishl, Opcode::Sload8]);
    }

    #[test]
    fn what_was_scaled_before_is_known_unless_bits_are_lost() {
        let twice = |mask: i64, by: i64| {
            opcodes(1, |builder, number, _| {
                let masked = builder.ins().band_imm_u(number, mask);
                builder.ins().ishl_imm_u(masked, by)
            })
        };
        assert_eq!(twice(0xff, 2)[..2], [Ishl, Uextend]);
        assert_eq!(twice(0xff, 23)[..2], [Ishl, Uextend]);
        assert_eq!(twice(0xff, 24)[..2], [Uextend, Ishl]);
        assert_eq!(twice(0xff, 25)[..2], [Uextend, Ishl]);
        // By one.
        assert_eq!(twice(0xff, 33)[..2], [Ishl, Uextend]);
    }

    #[test]
    fn few_operations_are_looked_through() {
        let within = |shifts: u32| {
            opcodes(2, move |builder, number, _| {
                let masked = builder.ins().ushr_imm_u(number, 2);
                (0..shifts).fold(masked, |value, _| builder.ins().ushr_imm_u(value, 0))
            })
        };
        assert_eq!(within(2)[..2], [Ishl, Uextend]);
        assert_eq!(within(3)[..2], [Uextend, Ishl]);
    }
}
