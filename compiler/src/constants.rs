//! Constants, computed in each block that uses them.
//!
//! A constant takes an instruction to make, and no register until then. The code generator's optimiser knows that, and copies
//! constants to the blocks that use them; but only those that it first meets in a block which every use comes after. The others it
//! keeps in a register, or on the stack, from one use to the next. Here, they are copied as well.

use cranelift_codegen::FxHashMap;
use cranelift_codegen::ir::function::FunctionStencil;
use cranelift_codegen::ir::{DataFlowGraph, Function, Inst, InstructionData, Opcode, Value};

/// Copies constants to where they are used. The function is optimised: before, the copies would become one again.
pub(crate) fn rematerialise(func: &mut Function) {
    let mut copies: FxHashMap<Value, Value> = FxHashMap::default();
    let mut elsewhere: Vec<(Value, Inst)> = Vec::new();
    let mut next_block = func.layout.entry_block();
    while let Some(block) = next_block {
        next_block = func.layout.next_block(block);
        copies.clear();
        let mut next_inst = func.layout.first_inst(block);
        while let Some(inst) = next_inst {
            next_inst = func.layout.next_inst(inst);
            let FunctionStencil { dfg, layout, .. } = &mut func.stencil;
            if !wants_register(dfg.insts[inst].opcode()) {
                continue;
            }
            elsewhere.clear();
            elsewhere.extend(dfg.inst_values(inst).filter_map(|value| {
                let definition = dfg.value_def(value).inst()?;
                let there = layout.inst_block(definition) != Some(block);
                (there && is_constant(dfg.insts[definition].opcode()))
                    .then_some((value, definition))
            }));
            if elsewhere.is_empty() {
                continue;
            }
            for (value, definition) in &elsewhere {
                copies.entry(*value).or_insert_with(|| {
                    let copy = dfg.clone_inst(*definition);
                    layout.insert_inst(copy, inst);
                    dfg.first_result(copy)
                });
            }
            dfg.map_inst_values(inst, |value| copies.get(&value).copied().unwrap_or(value));
        }
    }
}

/// The integer that a value is, if it is a constant. The upper half of a narrow one is clear.
pub(crate) fn integer(dfg: &DataFlowGraph, value: Value) -> Option<i64> {
    let definition = dfg.value_def(dfg.resolve_aliases(value)).inst()?;
    match dfg.insts[definition] {
        InstructionData::UnaryImm { opcode: Opcode::Iconst, imm } => Some(imm.bits()),
        _ => None,
    }
}

/// A value and a constant of which another is the sum.
pub(crate) fn addition(dfg: &DataFlowGraph, sum: Value) -> Option<(Value, i64)> {
    match dfg.insts[dfg.value_def(sum).inst()?] {
        InstructionData::Binary { opcode: Opcode::Iadd, args: [a, b] } => {
            let (value, _, constant) = with_constant(dfg, a, b)?;
            Some((value, constant))
        }
        _ => None,
    }
}

/// The lower 32 bits of a number.
pub(crate) fn low_half(number: i64) -> u32 {
    let [a, b, c, d, ..] = number.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// Of two values one that is no constant, and the other, which is this one.
pub(crate) fn with_constant(
    dfg: &DataFlowGraph,
    a: Value,
    b: Value,
) -> Option<(Value, Value, i64)> {
    let (a, b) = (dfg.resolve_aliases(a), dfg.resolve_aliases(b));
    match (integer(dfg, a), integer(dfg, b)) {
        (None, Some(number)) => Some((a, b, number)),
        (Some(number), None) => Some((b, a, number)),
        _ => None,
    }
}

/// Those whose operands are in registers even if they are constants. Most others have them in the instruction itself, and keep
/// nothing in a register until then.
fn wants_register(opcode: Opcode) -> bool {
    opcode.is_branch() || opcode.is_call() || opcode.is_return() || opcode == Opcode::Select
}

/// Those that take an instruction at most.
pub(crate) fn is_constant(opcode: Opcode) -> bool {
    matches!(opcode, Opcode::Iconst | Opcode::F32const | Opcode::F64const)
}

#[cfg(test)]
mod tests {
    use cranelift_codegen::ir::{InstBuilder as _, types};
    use cranelift_codegen::settings::{self, Flags};
    use cranelift_codegen::verify_function;
    use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

    use super::*;

    #[test]
    fn blocks_that_need_a_constant_in_a_register_make_it() {
        let mut func = Function::new();
        let mut memory = FunctionBuilderContext::new();
        let mut builder = FunctionBuilder::new(&mut func, &mut memory);
        let [entry, left, right, exit] = [0; 4].map(|_| builder.create_block());
        builder.append_block_param(exit, types::I32);
        builder.append_block_param(exit, types::F64);
        builder.switch_to_block(entry);
        let seven = builder.ins().iconst(types::I32, 7);
        let half = builder.ins().f64const(0.5);
        builder.ins().brif(seven, left, &[], right, &[]);
        builder.switch_to_block(left);
        // A constant in an operand of which the instruction has it itself.
        builder.ins().iadd(seven, seven);
        builder.ins().jump(exit, &[seven.into(), half.into()]);
        builder.switch_to_block(right);
        builder.ins().jump(exit, &[seven.into(), half.into()]);
        builder.switch_to_block(exit);
        builder.ins().return_(&[]);
        builder.seal_all_blocks();

        rematerialise(&mut func);
        verify_function(&func, &Flags::new(settings::builder())).unwrap();
        let opcodes = |block| {
            let insts = func.layout.block_insts(block);
            insts.map(|inst| func.dfg.insts[inst].opcode()).collect::<Vec<_>>()
        };
        use Opcode::{Brif, F64const, Iadd, Iconst, Jump};
        assert_eq!(opcodes(entry), [Iconst, F64const, Brif]);
        assert_eq!(opcodes(left), [Iadd, Iconst, F64const, Jump]);
        assert_eq!(opcodes(right), [Iconst, F64const, Jump]);
        // Both jumps pass what their own blocks make.
        for block in [left, right] {
            let jump = func.layout.last_inst(block).unwrap();
            for value in func.dfg.inst_values(jump) {
                let definition = func.dfg.value_def(value).inst().unwrap();
                assert_eq!(func.layout.inst_block(definition), Some(block));
            }
        }
    }
}
