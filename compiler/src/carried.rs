//! Sums that a loop passes to its next turn, computed once.
//!
//! A loop that counts, or walks through bytes, passes `i + 1` to its next turn. What comes after the loop often wants the same
//! sum, and the code generator's optimiser computes it there again: an addition costs little, and where `i` is kept anyway, the sum need not be. But
//! mostly `i` is wanted behind the loop for nothing else. Then both are kept at the end of each turn, in two
//! registers, and the turn ends with a move from one to the other, and a jump behind that. For `while (*p) p++;` these are two instructions of six.
//!
//! The optimiser does the same with what a turn asks at its end: `i + 1 == 8` becomes `i == 7`. Here it becomes `i + 1 == 8` again. And if
//! what it asks is whether the sum is zero, that is computed last of all: then the branch needs no comparison.
//!
//! This is done once the function is optimised. What is taken from elsewhere comes from a block that is always passed before, so
//! a sum is never computed where it was not.

use cranelift_codegen::cursor::{Cursor as _, FuncCursor};
use cranelift_codegen::dominator_tree::DominatorTree;
use cranelift_codegen::entity::EntityRef as _;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{
    Block, Function, Inst, InstBuilder as _, InstructionData, Opcode, Value,
};
use cranelift_codegen::{FxHashMap, FxHashSet};

use crate::constants::{addition, with_constant};
use crate::edges::{PassedBack, passed_back};

/// So many instructions are looked at behind a sum.
const BEHIND: usize = 100;

/// Computes what loops carry once. The graph is that of the function.
pub(crate) fn compute_once(func: &mut Function, domtree: &DominatorTree) {
    let mut counts = counts(func, domtree);
    if counts.is_empty() {
        return;
    }
    let again = again(func, domtree, &mut counts);
    for count in &counts {
        let is_asked = compare_next(func, count);
        if is_asked || count.is_computed_again {
            compute_late(func, count);
        }
        if let Some(question) = asks_for_zero(func, count) {
            compute_last(func, count, question);
        }
    }
    use_instead(func, &again);
}

/// The sum of a loop's parameter and a constant, which becomes the parameter in the next turn.
struct Count {
    parameter: Value,
    step: i64,
    sum: Inst,
    /// Where the sum is computed, and at whose end the turn may end.
    latch: Block,
    is_computed_again: bool,
}

/// The counts of all loops, in the order of the blocks in which turns end.
fn counts(func: &Function, domtree: &DominatorTree) -> Vec<Count> {
    let (dfg, layout) = (&func.dfg, &func.layout);
    let count = |PassedBack { latch, parameter, value }| {
        let (of, step) = addition(dfg, value)?;
        let sum = dfg.value_def(value).inst()?;
        let is_its = of == parameter && layout.inst_block(sum) == Some(latch);
        is_its.then_some(Count { parameter, step, sum, latch, is_computed_again: false })
    };
    passed_back(func, domtree).into_iter().filter_map(count).collect()
}

/// A value that is the sum of a count, computed again behind it.
struct Again {
    value: Value,
    block: Block,
    sum: Value,
}

fn again(func: &Function, domtree: &DominatorTree, counts: &mut [Count]) -> Vec<Again> {
    let (dfg, layout) = (&func.dfg, &func.layout);
    // Where turns end in several blocks, the sum of one of them is enough.
    let numbers: FxHashMap<Value, usize> =
        (0..).zip(&*counts).map(|(number, count)| (count.parameter, number)).collect();
    let mut found = Vec::new();
    for inst in (0..dfg.num_insts()).map(Inst::new) {
        if let InstructionData::Binary { opcode: Opcode::Iadd, args } = &dfg.insts[inst]
            && let Some(number) = args.iter().find_map(|operand| numbers.get(operand))
            && let Some(count) = counts.get_mut(*number)
            && addition(dfg, dfg.first_result(inst)) == Some((count.parameter, count.step))
            && let Some(block) = layout.inst_block(inst)
            && block != count.latch
            && domtree.block_dominates(count.latch, block)
        {
            count.is_computed_again = true;
            let [value, sum] = [inst, count.sum].map(|inst| dfg.first_result(inst));
            found.push(Again { value, block, sum });
        }
    }
    found
}

/// Lets blocks that compute a sum again use the one that there is. The optimiser has a copy of it in each block that uses it; if
/// another block does use one of these, that one stays.
fn use_instead(func: &mut Function, again: &[Again]) {
    let sums: FxHashMap<Value, Value> = again.iter().map(|it| (it.value, it.sum)).collect();
    let blocks: FxHashSet<Block> = again.iter().map(|it| it.block).collect();
    for block in blocks {
        let mut next = func.layout.first_inst(block);
        while let Some(inst) = next {
            next = func.layout.next_inst(inst);
            if func.dfg.inst_values(inst).any(|operand| sums.contains_key(&operand)) {
                func.dfg.map_inst_values(inst, |operand| {
                    sums.get(&operand).copied().unwrap_or(operand)
                });
            }
        }
    }
}

/// If the turn ends with the question whether the count is a constant, asks it of the next count.
fn compare_next(func: &mut Function, count: &Count) -> bool {
    let (dfg, layout) = (&func.dfg, &func.layout);
    let question = || {
        let branch = layout.last_inst(count.latch)?;
        let InstructionData::Brif { arg, .. } = dfg.insts[branch] else { return None };
        let InstructionData::IntCompare {
            cond: cond @ (IntCC::Equal | IntCC::NotEqual),
            args: [a, b],
            ..
        } = dfg.insts[dfg.value_def(arg).inst()?]
        else {
            return None;
        };
        let (value, _, constant) = with_constant(dfg, a, b)?;
        (value == count.parameter).then_some((branch, cond, constant))
    };
    let Some((branch, order, constant)) = question() else { return false };
    let sum = dfg.first_result(count.sum);
    let ty = dfg.value_type(sum);
    let mut cursor = FuncCursor::new(func).at_inst(branch);
    cursor.use_srcloc(branch);
    // The builder takes as many bits of it as the type has.
    let next = cursor.ins().iconst(ty, constant.wrapping_add(count.step));
    let answer = cursor.ins().icmp(order, sum, next);
    cursor.func.dfg.inst_args_mut(branch)[0] = answer;
    true
}

/// If the turn ends with the question whether the next count is zero: what asks for that.
fn asks_for_zero(func: &Function, count: &Count) -> Option<Inst> {
    let dfg = &func.dfg;
    let branch = func.layout.last_inst(count.latch)?;
    let InstructionData::Brif { arg, .. } = dfg.insts[branch] else { return None };
    let sum = dfg.first_result(count.sum);
    if arg == sum {
        return Some(branch);
    }
    let compared = dfg.value_def(arg).inst()?;
    let InstructionData::IntCompare { cond: IntCC::Equal | IntCC::NotEqual, args: [a, b], .. } =
        dfg.insts[compared]
    else {
        return None;
    };
    let asks = with_constant(dfg, a, b).is_some_and(|(value, _, zero)| value == sum && zero == 0);
    (asks && func.layout.inst_block(compared) == Some(count.latch)).then_some(compared)
}

/// Computes a sum just before a question at the end of the turn, unless it is wanted before. What adds tells whether the sum is zero, as long as nothing
/// else adds behind it.
fn compute_last(func: &mut Function, count: &Count, question: Inst) {
    let sum = func.dfg.first_result(count.sum);
    let Some(branch) = func.layout.last_inst(count.latch) else { return };
    let mut next = func.layout.next_inst(count.sum);
    for _ in 0..BEHIND {
        let Some(inst) = next else { return };
        if inst == branch {
            for inst in [count.sum, question].into_iter().filter(|inst| *inst != branch) {
                func.layout.remove_inst(inst);
                func.layout.insert_inst(inst, branch);
            }
            return;
        }
        if inst != question && func.dfg.inst_values(inst).any(|operand| operand == sum) {
            return;
        }
        next = func.layout.next_inst(inst);
    }
}

/// Computes a sum after what uses the parameter in its block, unless the sum is wanted before: then the same register can hold both.
fn compute_late(func: &mut Function, count: &Count) {
    let sum = func.dfg.first_result(count.sum);
    let mut last_use = None;
    let mut next = func.layout.next_inst(count.sum);
    for _ in 0..BEHIND {
        let Some(inst) = next else { break };
        next = func.layout.next_inst(inst);
        // The branch, if nothing else.
        if func.dfg.inst_values(inst).any(|operand| operand == sum) {
            break;
        }
        if func.dfg.inst_values(inst).any(|operand| operand == count.parameter) {
            last_use = next;
        }
    }
    if let Some(next) = last_use {
        func.layout.remove_inst(count.sum);
        func.layout.insert_inst(count.sum, next);
    }
}

#[cfg(test)]
mod tests {
    use cranelift_codegen::flowgraph::ControlFlowGraph;
    use cranelift_codegen::ir::{AbiParam, MemFlagsData, types};
    use cranelift_codegen::settings::{self, Flags};
    use cranelift_codegen::verify_function;
    use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

    use super::*;

    /// How a turn ends, and what comes behind the loop.
    #[derive(Clone, Copy, PartialEq)]
    enum Loop {
        /// It asks for a byte at `p`, and `p + 1` is wanted behind.
        Walks,
        /// The same, and the sum is computed first.
        SumFirst,
        /// The same, and the sum is used before the byte is read.
        SumUsed,
        /// It asks whether `p` is this.
        Asks(u32),
        /// It asks whether `p + 1` is zero, and computes that first.
        AsksForZero,
        /// The same, and it is used before.
        AsksForZeroUsed,
        /// It asks whether `p` is below 7.
        AsksForOrder,
        /// What is wanted behind is `p + 2`.
        Other,
    }

    /// A loop over `p`, which starts with the parameter of the function, and goes on with `p + 1`.
    fn walk(kind: Loop) -> (Function, [Block; 3]) {
        let mut func = Function::new();
        func.signature.params.extend([AbiParam::new(types::I64), AbiParam::new(types::I32)]);
        func.signature.returns.push(AbiParam::new(types::I32));
        let mut memory = FunctionBuilderContext::new();
        let mut builder = FunctionBuilder::new(&mut func, &mut memory);
        let [entry, header, exit] = [0; 3].map(|_| builder.create_block());
        builder.append_block_params_for_function_params(entry);
        let [base, start] = *builder.block_params(entry) else { panic!() };
        let p = builder.append_block_param(header, types::I32);
        builder.switch_to_block(entry);
        builder.ins().jump(header, &[start.into()]);
        builder.switch_to_block(header);
        let one = builder.ins().iconst(types::I32, 1);
        let used = matches!(kind, Loop::SumUsed | Loop::AsksForZeroUsed);
        let early = used || matches!(kind, Loop::SumFirst | Loop::AsksForZero);
        let mut sum = early.then(|| builder.ins().iadd(p, one));
        if used {
            builder.ins().store(MemFlagsData::new(), sum.unwrap(), base, 0);
        }
        let index = builder.ins().uextend(types::I64, p);
        let address = builder.ins().iadd(base, index);
        let byte = builder.ins().load(types::I8, MemFlagsData::new(), address, 0);
        let next = *sum.get_or_insert_with(|| builder.ins().iadd(p, one));
        let seven = builder.ins().iconst(types::I32, 7);
        let answer = match kind {
            Loop::Asks(asked) => builder.ins().icmp_imm_u(IntCC::Equal, p, i64::from(asked)),
            Loop::AsksForZero | Loop::AsksForZeroUsed => next,
            Loop::AsksForOrder => builder.ins().icmp(IntCC::UnsignedLessThan, p, seven),
            _ => byte,
        };
        builder.ins().brif(answer, header, &[next.into()], exit, &[]);
        builder.switch_to_block(exit);
        let step = builder.ins().iconst(types::I32, if kind == Loop::Other { 2 } else { 1 });
        let again = builder.ins().iadd(step, p);
        builder.ins().return_(&[again]);
        builder.seal_all_blocks();
        let cfg = ControlFlowGraph::with_function(&func);
        let domtree = DominatorTree::with_function(&func, &cfg);
        compute_once(&mut func, &domtree);
        verify_function(&func, &Flags::new(settings::builder())).unwrap();
        (func, [entry, header, exit])
    }

    /// The operators of a block, without constants.
    fn opcodes(func: &Function, block: Block) -> Vec<Opcode> {
        let opcodes = func.layout.block_insts(block).map(|inst| func.dfg.insts[inst].opcode());
        opcodes.filter(|opcode| *opcode != Opcode::Iconst).collect()
    }

    /// What the function returns, and what the next turn begins with.
    fn results(func: &Function, [_, header, exit]: [Block; 3]) -> [Value; 2] {
        let [branch, leave] = [header, exit].map(|block| func.layout.last_inst(block).unwrap());
        [func.dfg.inst_args(leave)[0], func.dfg.inst_values(branch).nth(1).unwrap()]
    }

    #[test]
    fn sums_are_not_computed_again_behind_a_loop() {
        use Opcode::{Brif, Iadd, Icmp, Load, Store, Uextend};
        for (kind, turn) in [
            (Loop::Walks, &[Uextend, Iadd, Load, Iadd, Brif][..]),
            (Loop::SumFirst, &[Uextend, Iadd, Iadd, Load, Brif]),
            (Loop::SumUsed, &[Iadd, Store, Uextend, Iadd, Load, Brif]),
            (Loop::AsksForZero, &[Uextend, Iadd, Load, Iadd, Brif]),
            (Loop::AsksForZeroUsed, &[Iadd, Store, Uextend, Iadd, Load, Brif]),
            (Loop::AsksForOrder, &[Uextend, Iadd, Load, Icmp, Iadd, Brif]),
        ] {
            let (func, blocks) = walk(kind);
            assert_eq!(opcodes(&func, blocks[1]), turn);
            let [returned, next] = results(&func, blocks);
            assert_eq!(returned, next);
        }
    }

    #[test]
    fn other_sums_are_computed() {
        let (func, blocks) = walk(Loop::Other);
        let [returned, next] = results(&func, blocks);
        assert_ne!(returned, next);
    }

    #[test]
    fn the_next_count_is_compared() {
        for (asked, next) in [(7, 8), (u32::MAX, 0)] {
            let (func, blocks) = walk(Loop::Asks(asked));
            let branch = func.layout.last_inst(blocks[1]).unwrap();
            let question = func.dfg.value_def(func.dfg.inst_args(branch)[0]).inst().unwrap();
            let InstructionData::IntCompare { cond, args: [a, b], .. } = func.dfg.insts[question]
            else {
                panic!()
            };
            let (value, _, constant) = with_constant(&func.dfg, a, b).unwrap();
            assert_eq!((cond, constant), (IntCC::Equal, next));
            assert_eq!([value; 2], results(&func, blocks));
        }
    }
}
