//! Loops that count from one constant to another: how they ask whether they are done.
//!
//! Such a loop ends when its next count is equal to the last. The code generator's optimiser would rather compare
//! the present count: it turns `i + 2 == 2048` into `i == 2046`. Then both counts are alive at the end
//! of the loop, need a register each, and the loop ends with a move and a second branch. For `i + 2 < 2048` it does no such
//! thing; and where the count begins at a constant below, and 2048 is reached in whole steps, that is the same question.

use cranelift_codegen::cursor::{Cursor as _, FuncCursor};
use cranelift_codegen::flowgraph::ControlFlowGraph;
use cranelift_codegen::ir::condcodes::{CondCode as _, IntCC};
use cranelift_codegen::ir::{
    Block, DataFlowGraph, Function, Inst, InstBuilder as _, InstructionData, Opcode, Value,
    ValueDef,
};

use crate::constants::{integer, with_constant};

/// Lets counting loops compare the next count by order. What the function computes stays the same, and so does its graph.
pub(crate) fn compare_next(func: &mut Function, flow: &ControlFlowGraph) {
    let blocks: Vec<Block> = func.layout.blocks().collect();
    for block in blocks {
        let Some(question) = Question::at_end_of(func, block) else { continue };
        if let Some(order) = question.by_order(func, flow) {
            let mut cursor = FuncCursor::new(func).at_inst(question.branch);
            // What comes from the same operator has the same place.
            let place = cursor.func.srcloc(question.branch);
            cursor.set_srcloc(place);
            let answer = cursor.ins().icmp(order, question.next, question.last);
            cursor.func.dfg.inst_args_mut(question.branch)[0] = answer;
        }
    }
}

/// A branch at the end of a block, where the next count is compared to the last.
struct Question {
    branch: Inst,
    /// Whether the branch goes to its first target if they are equal.
    equal: bool,
    next: Value,
    last: Value,
    /// The parameter that the next count comes from by adding a constant: its block, and which one it is.
    header: Block,
    parameter: usize,
    step: i64,
    /// The last count, and a mask for the bits that counts have.
    end: u64,
    mask: u64,
}

impl Question {
    fn at_end_of(func: &Function, block: Block) -> Option<Self> {
        let dfg = &func.dfg;
        let branch = func.layout.last_inst(block)?;
        let InstructionData::Brif { arg, .. } = dfg.insts[branch] else { return None };
        let mut asked = defined_by(dfg, arg)?;
        if dfg.insts[asked].opcode() == Opcode::Uextend {
            asked = defined_by(dfg, dfg.inst_args(asked)[0])?;
        }
        let InstructionData::IntCompare { cond, args: [a, b], .. } = dfg.insts[asked] else {
            return None;
        };
        let equal = match cond {
            IntCC::Equal => true,
            IntCC::NotEqual => false,
            _ => return None,
        };
        let (next, last, end) = with_constant(dfg, a, b)?;
        let added = defined_by(dfg, next)?;
        if dfg.insts[added].opcode() != Opcode::Iadd {
            return None;
        }
        let [a, b] = *dfg.inst_args(added) else { return None };
        let (count, _, step) = with_constant(dfg, a, b)?;
        let ValueDef::Param(header, parameter) = dfg.value_def(count) else { return None };
        let mask = match dfg.value_type(next).bits() {
            bits @ (32 | 64) => u64::MAX >> (64 - bits),
            _ => return None,
        };
        let narrow = 64 - mask.count_ones();
        let step = step << narrow >> narrow;
        let end = end.cast_unsigned() & mask;
        Some(Self { branch, equal, next, last, header, parameter, step, end, mask })
    }

    /// The order of the next count and the last by which the branch goes to its first target, if that is as good a question.
    ///
    /// The count is the first constant, or the next count of a turn that went on. By induction it is the first
    /// constant and a number of steps, and the next count is not beyond the last.
    fn by_order(&self, func: &Function, flow: &ControlFlowGraph) -> Option<IntCC> {
        let dfg = &func.dfg;
        let destinations =
            dfg.insts[self.branch].branch_destination(&dfg.jump_tables, &dfg.exception_tables);
        let [first, second] = [0, 1].map(|edge| {
            let target = destinations.get(edge)?.block(&dfg.value_lists);
            self.goes_on(func, flow, target, edge)
        });
        let (goes_on_first, latch) = match (first, second) {
            (Some(latch), None) => (true, latch),
            (None, Some(latch)) => (false, latch),
            _ => return None,
        };
        // It goes on as long as they are different.
        if goes_on_first == self.equal {
            return None;
        }
        let start = self.start(func, flow, latch)?;
        let (distance, order) = if self.step > 0 {
            (self.end.checked_sub(start)?, IntCC::UnsignedLessThan)
        } else {
            (start.checked_sub(self.end)?, IntCC::UnsignedGreaterThan)
        };
        let whole = distance > 0 && distance.checked_rem(self.step.unsigned_abs()) == Some(0);
        whole.then_some(if goes_on_first { order } else { order.complement() })
    }

    /// If an edge of the branch leads back to the header with the next count: the branch by which it arrives there.
    fn goes_on(
        &self,
        func: &Function,
        flow: &ControlFlowGraph,
        target: Block,
        edge: usize,
    ) -> Option<Inst> {
        let dfg = &func.dfg;
        if target == self.header {
            return self.passes_next(dfg, self.branch, edge).then_some(self.branch);
        }
        // By way of a block of which nothing else is known, and nobody else comes to.
        let jump = func.layout.first_inst(target)?;
        let alone = || {
            let mut ways = flow.pred_iter(target);
            ways.next().is_some_and(|way| way.inst == self.branch) && ways.next().is_none()
        };
        (dfg.insts[jump].opcode() == Opcode::Jump
            && dfg.insts[jump]
                .branch_destination(&dfg.jump_tables, &dfg.exception_tables)
                .iter()
                .all(|call| call.block(&dfg.value_lists) == self.header)
            && self.passes_next(dfg, jump, 0)
            && alone())
        .then_some(jump)
    }

    /// Whether an edge passes the next count for the count.
    fn passes_next(&self, dfg: &DataFlowGraph, branch: Inst, edge: usize) -> bool {
        passed(dfg, branch, edge, self.parameter)
            .is_some_and(|value| dfg.resolve_aliases(value) == self.next)
    }

    /// The constant that the count begins with, if there is but one way into the loop, and one back.
    fn start(&self, func: &Function, flow: &ControlFlowGraph, latch: Inst) -> Option<u64> {
        let dfg = &func.dfg;
        let ways: Vec<_> = flow.pred_iter(self.header).map(|way| way.inst).collect();
        let [a, b] = ways[..] else { return None };
        let entry = match (a == latch, b == latch) {
            (true, false) => b,
            (false, true) => a,
            _ => return None,
        };
        let destinations =
            dfg.insts[entry].branch_destination(&dfg.jump_tables, &dfg.exception_tables);
        let mut edges = (0..).zip(destinations);
        let to_header = edges.by_ref().find(|(_, to)| to.block(&dfg.value_lists) == self.header);
        if edges.any(|(_, to)| to.block(&dfg.value_lists) == self.header) {
            return None;
        }
        let value = passed(dfg, entry, to_header?.0, self.parameter)?;
        let start = integer(dfg, value)?;
        Some(start.cast_unsigned() & self.mask)
    }
}

/// The value that an edge of a branch passes for a parameter of its target.
fn passed(dfg: &DataFlowGraph, branch: Inst, edge: usize, parameter: usize) -> Option<Value> {
    let destinations =
        dfg.insts[branch].branch_destination(&dfg.jump_tables, &dfg.exception_tables);
    let mut arguments = destinations.get(edge)?.args(&dfg.value_lists);
    arguments.nth(parameter)?.as_value()
}

/// The instruction that computes a value.
fn defined_by(dfg: &DataFlowGraph, value: Value) -> Option<Inst> {
    match dfg.value_def(value) {
        ValueDef::Result(inst, _) => Some(inst),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use cranelift_codegen::ir::types;
    use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

    use super::*;

    /// The order that the branch of a loop asks for: it counts from `start` by `step`, and goes on while the next count and `end`
    /// are `compared` so.
    fn asked(start: i64, step: i64, end: i64, compared: IntCC) -> IntCC {
        let mut func = Function::new();
        let mut memory = FunctionBuilderContext::new();
        let mut builder = FunctionBuilder::new(&mut func, &mut memory);
        let [entry, header, exit] = [0; 3].map(|_| builder.create_block());
        let count = builder.append_block_param(header, types::I32);
        let number = |builder: &mut FunctionBuilder<'_>, number: i64| {
            builder.ins().iconst(types::I32, number & 0xffff_ffff)
        };
        builder.switch_to_block(entry);
        let first = number(&mut builder, start);
        builder.ins().jump(header, &[first.into()]);
        builder.switch_to_block(header);
        let step = number(&mut builder, step);
        let next = builder.ins().iadd(count, step);
        let last = number(&mut builder, end);
        let asked = builder.ins().icmp(compared, next, last);
        let asked = builder.ins().uextend(types::I32, asked);
        let branch = builder.ins().brif(asked, header, &[next.into()], exit, &[]);
        builder.switch_to_block(exit);
        builder.ins().return_(&[]);
        builder.seal_all_blocks();
        let flow = ControlFlowGraph::with_function(builder.func);
        compare_next(builder.func, &flow);
        let dfg = &builder.func.dfg;
        let mut asked = defined_by(dfg, dfg.inst_args(branch)[0]).unwrap();
        if dfg.insts[asked].opcode() == Opcode::Uextend {
            asked = defined_by(dfg, dfg.inst_args(asked)[0]).unwrap();
        }
        assert_eq!(dfg.inst_args(asked), [next, last]);
        dfg.insts[asked].cond_code().unwrap()
    }

    #[test]
    fn counts_that_arrive_in_whole_steps_are_compared_by_order() {
        use IntCC::{Equal, NotEqual, UnsignedGreaterThan, UnsignedLessThan};
        assert_eq!(asked(0, 2, 2048, NotEqual), UnsignedLessThan);
        assert_eq!(asked(100, -5, 10, NotEqual), UnsignedGreaterThan);
        assert_eq!(asked(-8, 1, -1, NotEqual), UnsignedLessThan);
        for (start, step, end, compared) in [
            // Not in whole steps, or by going around, or not at all.
            (0, 2, 2047, NotEqual),
            (-8, 1, 8, NotEqual),
            (7, 1, 7, NotEqual),
            (7, 0, 9, NotEqual),
            (7, -1, 9, NotEqual),
            (0, 1, 9, Equal),
        ] {
            assert_eq!(asked(start, step, end, compared), compared, "{start} {step} {end}");
        }
    }
}
