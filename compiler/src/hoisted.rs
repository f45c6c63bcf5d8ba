//! The bound of a small loop, computed once before it.
//!
//! A loop that takes several steps in a turn goes on to `n & -4`. That costs little to compute, so the code generator's optimiser
//! computes it in each block that asks for it, to have one value less to keep; but a loop asks in each turn, for which it takes a move and an operation of a
//! dozen. Where a loop is a block that keeps few values, the bound has a register of its own.

use cranelift_codegen::flowgraph::ControlFlowGraph;
use cranelift_codegen::ir::{Block, Function, Inst, InstructionData, Opcode, Value};
use cranelift_codegen::{FxHashSet, ir::function::FunctionStencil};

use crate::constants::{integer, with_constant};
use crate::edges::{is_from, is_small_loop};

/// So many values are kept from one turn to the next, at most. That is half of the registers; in the others it is computed.
const KEPT: usize = 7;

/// Computes bounds before their loops. The graph is that of the function, which is optimised: before, there would be nothing to move.
pub(crate) fn hoist(func: &mut Function, flow: &ControlFlowGraph) {
    let blocks: Vec<Block> = func.layout.blocks().collect();
    for block in blocks {
        let Some((bound, before)) = bound(func, flow, block) else { continue };
        let FunctionStencil { dfg, layout, .. } = &mut func.stencil;
        let constants: Vec<Value> =
            dfg.inst_args(bound).iter().copied().filter(|it| integer(dfg, *it).is_some()).collect();
        layout.remove_inst(bound);
        layout.insert_inst(bound, before);
        for constant in constants {
            let Some(definition) = dfg.value_def(constant).inst() else { continue };
            let copy = dfg.clone_inst(definition);
            layout.insert_inst(copy, bound);
            let copied = dfg.first_result(copy);
            dfg.map_inst_values(bound, |value| if value == constant { copied } else { value });
        }
    }
}

/// If a block is such a loop: what computes the bound, and the end of the block before it.
fn bound(func: &Function, flow: &ControlFlowGraph, block: Block) -> Option<(Inst, Inst)> {
    let (dfg, layout) = (&func.dfg, &func.layout);
    let mut ways = flow.pred_iter(block).filter(|way| way.block != block);
    let (Some(entry), None) = (ways.next(), ways.next()) else { return None };
    if !is_small_loop(func, flow, block) {
        return None;
    }
    let InstructionData::Brif { arg, .. } = dfg.insts[layout.last_inst(block)?] else {
        return None;
    };
    let InstructionData::IntCompare { args, .. } = dfg.insts[dfg.value_def(arg).inst()?] else {
        return None;
    };
    let bound = args.iter().find_map(|value| {
        let inst = dfg.value_def(*value).inst()?;
        let InstructionData::Binary { opcode: Opcode::Band, args: [a, b] } = dfg.insts[inst] else {
            return None;
        };
        let (masked, ..) = with_constant(dfg, a, b)?;
        (!is_from(func, masked, block) && is_from(func, *value, block)).then_some(inst)
    })?;
    (kept(func, block) < KEPT).then_some((bound, layout.last_inst(entry.block)?))
}

/// How many values a loop keeps from one turn to the next, as far as it uses them.
fn kept(func: &Function, block: Block) -> usize {
    let dfg = &func.dfg;
    let mut kept: FxHashSet<Value> = dfg.block_params(block).iter().copied().collect();
    for inst in func.layout.block_insts(block) {
        let values = dfg.inst_values(inst).filter(|value| integer(dfg, *value).is_none());
        kept.extend(values.filter(|value| !is_from(func, *value, block)));
    }
    kept.len()
}

#[cfg(test)]
mod tests {
    use cranelift_codegen::ir::condcodes::IntCC;
    use cranelift_codegen::ir::{AbiParam, InstBuilder as _, types};
    use cranelift_codegen::settings::{self, Flags};
    use cranelift_codegen::verify_function;
    use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

    use super::*;

    /// Whether the bound is computed before the loop then. The loop counts by `step` up to a bound that `bound` makes of a parameter of
    /// the function and the count, and does more: so many operations, each with another parameter.
    fn is_hoisted(
        more: usize,
        others: usize,
        bound: impl Fn(&mut FunctionBuilder<'_>, [Value; 2]) -> Value,
    ) -> bool {
        let mut func = Function::new();
        func.signature.params.extend(vec![AbiParam::new(types::I32); others + 1]);
        let mut memory = FunctionBuilderContext::new();
        let mut builder = FunctionBuilder::new(&mut func, &mut memory);
        let [entry, header, exit] = [0; 3].map(|_| builder.create_block());
        builder.append_block_params_for_function_params(entry);
        let parameters = builder.block_params(entry).to_vec();
        let count = builder.append_block_param(header, types::I32);
        builder.switch_to_block(entry);
        let four = builder.ins().iconst(types::I32, 4);
        builder.ins().jump(header, &[four.into()]);
        builder.switch_to_block(header);
        let mut next = count;
        for number in 0..more {
            next = builder.ins().iadd(next, parameters[1 + number % others]);
        }
        let bound = bound(&mut builder, [parameters[0], count]);
        let computed = builder.func.dfg.value_def(bound).inst().unwrap();
        let asked = builder.ins().icmp(IntCC::NotEqual, next, bound);
        builder.ins().brif(asked, header, &[next.into()], exit, &[]);
        builder.switch_to_block(exit);
        builder.ins().return_(&[]);
        builder.seal_all_blocks();
        let flow = ControlFlowGraph::with_function(&func);
        hoist(&mut func, &flow);
        verify_function(&func, &Flags::new(settings::builder())).unwrap();
        func.layout.inst_block(computed) == Some(entry)
    }

    #[test]
    fn the_bound_of_a_small_loop_is_computed_once() {
        let masked =
            |builder: &mut FunctionBuilder<'_>, [n, _]: [Value; 2]| builder.ins().band_imm_s(n, -4);
        assert!(is_hoisted(1, 1, masked));
        // The count, the bound, and what is added.
        assert!(is_hoisted(10, KEPT - 3, masked));
        assert!(!is_hoisted(10, KEPT - 2, masked));
        assert!(!is_hoisted(64, 1, masked));
        // It changes in each turn; it is no mask.
        assert!(!is_hoisted(1, 1, |builder, [_, count]| builder.ins().band_imm_s(count, -4)));
        assert!(!is_hoisted(1, 1, |builder, [n, count]| builder.ins().band(n, count)));
        assert!(!is_hoisted(1, 1, |builder, [n, _]| builder.ins().iadd_imm_s(n, -4)));
    }
}
