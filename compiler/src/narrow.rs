//! Operations of 64 bits of which only the lower half is wanted.
//!
//! A mask like `0xffff_ffff` takes a register, since an instruction can only hold one that fits into 31 bits or is all ones above. But instructions of
//! 32 bits clear the upper half of what they write to. So what is masked, or the mask itself, is computed in 32 bits.

use cranelift_codegen::cursor::{Cursor as _, FuncCursor};
use cranelift_codegen::entity::{EntityRef as _, SecondaryMap};
use cranelift_codegen::ir::{
    DataFlowGraph, Function, Inst, InstBuilder as _, InstructionData, Opcode, Value, types,
};

use crate::constants::integer;

/// The lower half.
const LOW: u64 = u32::MAX as u64;

/// Computes what is masked in 32 bits. The function is optimised: before, the optimiser would turn much of that around.
pub(crate) fn narrow(func: &mut Function) {
    let mut found = Vec::new();
    for number in 0..func.dfg.num_insts() {
        let inst = Inst::new(number);
        if let InstructionData::Binary { opcode: Opcode::Band, args: [value, mask] } =
            func.dfg.insts[inst]
            && let Some(mask @ 0x8000_0000..=LOW) = constant(&func.dfg, mask)
            && func.dfg.value_type(value) == types::I64
            && func.layout.inst_block(inst).is_some()
        {
            found.push((inst, value, mask));
        }
    }
    if found.is_empty() {
        return;
    }
    let mut uses: SecondaryMap<Value, u32> = SecondaryMap::new();
    uses.resize(func.dfg.num_values());
    for inst in func.layout.blocks().flat_map(|block| func.layout.block_insts(block)) {
        func.dfg.inst_values(inst).for_each(|value| uses[value] += 1);
    }
    for (inst, value, mask) in found {
        masked(func, inst, value, mask, uses[value] == 1);
    }
}

/// Computes `value & mask` in 32 bits; the value as well, if nobody else wants it.
fn masked(func: &mut Function, inst: Inst, value: Value, mask: u64, alone: bool) {
    let operation = operation(&func.dfg, value).filter(|_| alone);
    let mut cursor = FuncCursor::new(func).at_inst(inst);
    let low = match operation {
        // The bits below are clear in any case.
        Some((Opcode::Ishl, operand, by))
            if let Some(by @ 0..32) = constant(&cursor.func.dfg, by)
                && mask | ((1 << by) - 1) == LOW =>
        {
            let operand = cursor.ins().ireduce(types::I32, operand);
            cursor.ins().ishl_imm_u(operand, by.cast_signed())
        }
        Some((opcode @ (Opcode::Bor | Opcode::Bxor | Opcode::Iadd | Opcode::Isub), a, b))
            if mask == LOW =>
        {
            let [a, b] = [a, b].map(|operand| low_half(&mut cursor, operand));
            match opcode {
                Opcode::Bor => cursor.ins().bor(a, b),
                Opcode::Bxor => cursor.ins().bxor(a, b),
                Opcode::Iadd => cursor.ins().iadd(a, b),
                _ => cursor.ins().isub(a, b),
            }
        }
        _ => {
            let low = cursor.ins().ireduce(types::I32, value);
            match mask {
                LOW => low,
                _ => cursor.ins().band_imm_u(low, mask.cast_signed()),
            }
        }
    };
    cursor.func.replace(inst).uextend(types::I64, low);
}

/// The lower half of an operand.
fn low_half(cursor: &mut FuncCursor<'_>, operand: Value) -> Value {
    match operation(&cursor.func.dfg, operand) {
        Some((Opcode::Ishl, operand, by))
            if let Some(by @ 0..32) = constant(&cursor.func.dfg, by) =>
        {
            let operand = cursor.ins().ireduce(types::I32, operand);
            cursor.ins().ishl_imm_u(operand, by.cast_signed())
        }
        _ => cursor.ins().ireduce(types::I32, operand),
    }
}

/// What computes a value of two others, and these.
pub(crate) fn operation(dfg: &DataFlowGraph, value: Value) -> Option<(Opcode, Value, Value)> {
    match dfg.insts[dfg.value_def(value).inst()?] {
        InstructionData::Binary { opcode, args: [a, b] } => Some((opcode, a, b)),
        _ => None,
    }
}

pub(crate) fn constant(dfg: &DataFlowGraph, value: Value) -> Option<u64> {
    integer(dfg, value).map(i64::cast_unsigned)
}

#[cfg(test)]
mod tests {
    use cranelift_codegen::settings::{self, Flags};
    use cranelift_codegen::{ir, verify_function};
    use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

    use super::*;

    /// The opcodes of what is returned after `build` has made it from two parameters, and of what leads to it, from the last on.
    fn narrowed(
        build: impl Fn(&mut FunctionBuilder<'_>, Value, Value) -> Vec<Value>,
    ) -> Vec<Opcode> {
        let mut func = Function::new();
        let mut memory = FunctionBuilderContext::new();
        let mut builder = FunctionBuilder::new(&mut func, &mut memory);
        let entry = builder.create_block();
        let [a, b] = [0; 2].map(|_| builder.append_block_param(entry, types::I64));
        builder.switch_to_block(entry);
        builder.seal_block(entry);
        let results = build(&mut builder, a, b);
        builder.ins().return_(&results);
        for value in [a, b].iter().chain(&results) {
            let ty = ir::AbiParam::new(builder.func.dfg.value_type(*value));
            match builder.func.dfg.value_def(*value).inst() {
                None => builder.func.signature.params.push(ty),
                Some(_) => builder.func.signature.returns.push(ty),
            }
        }
        narrow(&mut func);
        verify_function(&func, &Flags::new(settings::builder())).unwrap();
        let mut found = Vec::new();
        let mut open = results;
        while let Some(value) = open.pop() {
            let Some(inst) = func.dfg.value_def(value).inst() else { continue };
            if func.dfg.insts[inst].opcode() != Opcode::Iconst {
                found.push(func.dfg.insts[inst].opcode());
                open.extend(func.dfg.inst_values(inst));
            }
        }
        found
    }

    fn mask(builder: &mut FunctionBuilder<'_>, value: Value, mask: u64) -> Value {
        builder.ins().band_imm_u(value, mask.cast_signed())
    }

    use Opcode::{Band, Bor, Iadd, Ireduce, Ishl, Uextend, Ushr};

    #[test]
    fn what_is_masked_is_computed_in_32_bits() {
        let sum = narrowed(|builder, a, b| {
            let sum = builder.ins().iadd(a, b);
            vec![mask(builder, sum, LOW)]
        });
        assert_eq!(sum, [Uextend, Iadd, Ireduce, Ireduce]);
        let shifted = |by, low| {
            narrowed(move |builder, a, _| {
                let shifted = builder.ins().ishl_imm_u(a, by);
                vec![mask(builder, shifted, low)]
            })
        };
        assert_eq!(shifted(3, LOW), [Uextend, Ishl, Ireduce]);
        assert_eq!(shifted(3, LOW - 7), [Uextend, Ishl, Ireduce]);
        // A bit that is not clear in any case; and too far for 32 bits.
        assert_eq!(shifted(3, LOW - 15), [Uextend, Band, Ireduce, Ishl]);
        assert_eq!(shifted(32, LOW), [Uextend, Ireduce, Ishl]);
        let rotated = narrowed(|builder, a, b| {
            let high = builder.ins().ishl_imm_u(a, 5);
            let low = builder.ins().ushr_imm_u(b, 59);
            let both = builder.ins().bor(high, low);
            vec![mask(builder, both, LOW)]
        });
        assert_eq!(rotated, [Uextend, Bor, Ireduce, Ushr, Ishl, Ireduce]);
    }

    #[test]
    fn what_somebody_else_wants_is_computed_once() {
        let both = narrowed(|builder, a, b| {
            let sum = builder.ins().iadd(a, b);
            let low = mask(builder, sum, LOW);
            vec![sum, low]
        });
        assert_eq!(both, [Uextend, Ireduce, Iadd, Iadd]);
    }

    #[test]
    fn other_masks_stay() {
        // Instructions can hold the first; the others need more than 32 bits.
        for low in [0x7fff_ffff, 0x1_0000_0000, 0x1_ffff_ffff, u64::MAX - LOW] {
            assert_eq!(narrowed(|builder, a, _| vec![mask(builder, a, low)]), [Band], "{low:x}");
        }
        assert_eq!(
            narrowed(|builder, a, _| vec![mask(builder, a, 0x8000_0000)]),
            [Uextend, Band, Ireduce]
        );
    }
}
