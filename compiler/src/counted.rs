//! Loops that count from one constant to another: what they count through ([`Counts`]), and how they ask whether they are
//! done ([`compare_next`]).
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
    ValueDef, types,
};

use crate::constants::{addition, integer, low_half, with_constant};
use crate::edges::{Edge, only_edge};
use crate::ranges::{Range, turns};

/// Lets counting loops compare the next count by order. What the function computes stays the same, and so does its graph.
pub(crate) fn compare_next(func: &mut Function, flow: &ControlFlowGraph) {
    let blocks: Vec<Block> = func.layout.blocks().collect();
    for block in blocks {
        let Some(question) = Question::at_end_of(func, block) else { continue };
        if let Some((order, last)) = question.by_order(func, flow) {
            let mut cursor = FuncCursor::new(func).at_inst(question.branch);
            // What comes from the same operator has the same place.
            let place = cursor.func.srcloc(question.branch);
            cursor.set_srcloc(place);
            let answer = cursor.ins().icmp(order, question.next, last);
            cursor.func.dfg.inst_args_mut(question.branch)[0] = answer;
        }
    }
}

/// The counts of a loop of which is known how many turns it has at most: those of 32 bits that begin with a constant. There is one way into it, and one
/// back, by which each turn passes on what it counted.
pub(crate) struct Counts {
    turns: i64,
    header: Block,
    /// How the first turn begins, and the others.
    entry: Edge,
    latch: Edge,
    /// The branch that goes on as long as a number is not zero, if it asks for that.
    zero: Option<(Inst, Value)>,
}

/// What is known of a count.
pub(crate) struct Counted {
    pub(crate) range: Range,
    /// What computes the next count.
    pub(crate) next: Inst,
    /// How that comes to the header.
    pub(crate) latch: Edge,
    /// The branch that goes on as long as the next number is not zero, if it asks for that, and for nothing else.
    pub(crate) asks_for_zero: Option<Inst>,
}

impl Counts {
    /// Those of the loop that a block begins, if that is one, and counts.
    pub(crate) fn of(func: &Function, flow: &ControlFlowGraph, header: Block) -> Option<Self> {
        flow.pred_iter(header).find_map(|way| {
            let question = Question::at_end_of(func, way.block).or_else(|| {
                let before = flow.pred_iter(way.block).next()?;
                Question::at_end_of(func, before.block)
            })?;
            if question.header != header || question.mask != u32::MAX.into() {
                return None;
            }
            let (order, latch) = question.goes_on(func, flow)?;
            let entry = question.entry(func, flow, latch)?;
            let start = low_half(integer(&func.dfg, entry.passed(&func.dfg, question.parameter)?)?);
            let step = i32::try_from(question.step).ok()?;
            let end = u32::try_from(question.end).ok()?;
            let is_zero = order == IntCC::NotEqual && question.last.is_none();
            Some(Self {
                turns: turns(start, step, order, end)?,
                header,
                entry,
                latch,
                zero: is_zero.then_some((question.branch, question.next)),
            })
        })
    }

    /// What is known of a parameter of the header.
    pub(crate) fn get(&self, func: &Function, parameter: usize) -> Option<Counted> {
        let dfg = &func.dfg;
        let next = dfg.resolve_aliases(self.latch.passed(dfg, parameter)?);
        let (count, step) = addition(dfg, next)?;
        if dfg.value_def(count) != ValueDef::Param(self.header, parameter)
            || dfg.value_type(next) != types::I32
        {
            return None;
        }
        let start = low_half(integer(dfg, self.entry.passed(dfg, parameter)?)?);
        let range = Range::of(start, low_half(step).cast_signed(), self.turns)?;
        let asks_for_zero = self.zero.filter(|(_, value)| *value == next && range.end == 0);
        Some(Counted {
            range,
            next: dfg.value_def(next).inst()?,
            latch: self.latch,
            asks_for_zero: asks_for_zero.map(|(branch, _)| branch),
        })
    }
}

/// The most that the value can be which an edge passes for a parameter of 32 bits: if the branch takes that edge only as long as the value is
/// below a constant.
pub(crate) fn most_passed(dfg: &DataFlowGraph, edge: Edge, parameter: usize) -> Option<u32> {
    let InstructionData::Brif { arg, .. } = dfg.insts[edge.branch] else { return None };
    let Compared { order, value, end, .. } = Compared::by(dfg, arg)?;
    // It takes the first if they are in that order, and the second if they are not.
    let order = match edge.number {
        0 => order,
        1 => order.complement(),
        _ => return None,
    };
    let passed = dfg.resolve_aliases(edge.passed(dfg, parameter)?);
    if passed != value || dfg.value_type(value) != types::I32 {
        return None;
    }
    match order {
        IntCC::UnsignedLessThan => low_half(end).checked_sub(1),
        IntCC::UnsignedLessThanOrEqual => Some(low_half(end)),
        _ => None,
    }
}

/// A condition: a value and a constant are in an order.
struct Compared {
    order: IntCC,
    value: Value,
    constant: Value,
    end: i64,
}

impl Compared {
    fn by(dfg: &DataFlowGraph, condition: Value) -> Option<Self> {
        let mut asked = dfg.value_def(condition).inst()?;
        if dfg.insts[asked].opcode() == Opcode::Uextend {
            asked = dfg.value_def(dfg.inst_args(asked)[0]).inst()?;
        }
        let InstructionData::IntCompare { cond, args: [a, b], .. } = dfg.insts[asked] else {
            return None;
        };
        let (value, constant, end) = with_constant(dfg, a, b)?;
        let is_first = value == dfg.resolve_aliases(a);
        let order = if is_first { cond } else { cond.swap_args() };
        Some(Self { order, value, constant, end })
    }
}

/// A branch at the end of a block, where the next count is compared to the last.
struct Question {
    branch: Inst,
    /// The order that they are in if the branch goes to its first target.
    order: IntCC,
    next: Value,
    /// `None` if that is zero, and nothing but the next count is asked for.
    last: Option<Value>,
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
        let (order, next, last, end) = match Compared::by(dfg, arg) {
            Some(Compared { order, value, constant, end }) => (order, value, Some(constant), end),
            None => (IntCC::NotEqual, dfg.resolve_aliases(arg), None, 0),
        };
        let (count, step) = addition(dfg, next)?;
        let ValueDef::Param(header, parameter) = dfg.value_def(count) else { return None };
        let mask = match dfg.value_type(next).bits() {
            bits @ (32 | 64) => u64::MAX >> (64 - bits),
            _ => return None,
        };
        let narrow = 64 - mask.count_ones();
        let step = step << narrow >> narrow;
        let end = end.cast_unsigned() & mask;
        Some(Self { branch, order, next, last, header, parameter, step, end, mask })
    }

    /// The order of the next count and the last by which the branch goes to its first target, if that is as good a question; and the
    /// last count.
    ///
    /// The count is the first constant, or the next count of a turn that went on. By induction it is the first
    /// constant and a number of steps, and the next count is not beyond the last.
    fn by_order(&self, func: &Function, flow: &ControlFlowGraph) -> Option<(IntCC, Value)> {
        let dfg = &func.dfg;
        let (order, latch) = self.goes_on(func, flow)?;
        if order != IntCC::NotEqual {
            return None;
        }
        let entry = self.entry(func, flow, latch)?;
        let start = integer(dfg, entry.passed(dfg, self.parameter)?)?;
        let start = start.cast_unsigned() & self.mask;
        let (distance, order) = if self.step > 0 {
            (self.end.checked_sub(start)?, IntCC::UnsignedLessThan)
        } else {
            (start.checked_sub(self.end)?, IntCC::UnsignedGreaterThan)
        };
        let whole = distance > 0 && distance.checked_rem(self.step.unsigned_abs()) == Some(0);
        let goes_on_first = self.order == IntCC::NotEqual;
        let order = if goes_on_first { order } else { order.complement() };
        Some((order, self.last?)).filter(|_| whole)
    }

    /// The order of the next count and the last in which the branch leads back to the header with the next count, and not otherwise;
    /// and the edge by which it arrives there.
    fn goes_on(&self, func: &Function, flow: &ControlFlowGraph) -> Option<(IntCC, Edge)> {
        let [first, second] =
            [0, 1].map(|number| self.leads_back(func, flow, Edge { branch: self.branch, number }));
        match (first, second) {
            (Some(latch), None) => Some((self.order, latch)),
            (None, Some(latch)) => Some((self.order.complement(), latch)),
            _ => None,
        }
    }

    /// If an edge of the branch leads back to the header with the next count, and its last branch in no other way: the edge by which it
    /// arrives there.
    fn leads_back(&self, func: &Function, flow: &ControlFlowGraph, edge: Edge) -> Option<Edge> {
        let dfg = &func.dfg;
        let target = edge.target(dfg)?;
        let latch = if target == self.header {
            edge
        } else {
            // By way of a block of which nothing else is known, and nobody else comes to.
            let branch = func.layout.first_inst(target)?;
            let mut ways = flow.pred_iter(target).map(|way| way.inst);
            if dfg.insts[branch].opcode() != Opcode::Jump
                || ways.next() != Some(edge.branch)
                || ways.next().is_some()
            {
                return None;
            }
            Edge { branch, number: 0 }
        };
        let passes_next = latch
            .passed(dfg, self.parameter)
            .is_some_and(|value| dfg.resolve_aliases(value) == self.next);
        (passes_next && only_edge(dfg, latch.branch, self.header) == Some(latch)).then_some(latch)
    }

    /// The edge by which the loop begins, if that is the only one, and there is but one way back.
    fn entry(&self, func: &Function, flow: &ControlFlowGraph, latch: Edge) -> Option<Edge> {
        let mut ways = flow.pred_iter(self.header).map(|way| way.inst);
        let (Some(a), Some(b), None) = (ways.next(), ways.next(), ways.next()) else {
            return None;
        };
        let entry = match (a == latch.branch, b == latch.branch) {
            (true, false) => b,
            (false, true) => a,
            _ => return None,
        };
        only_edge(&func.dfg, entry, self.header)
    }
}

#[cfg(test)]
mod tests {
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
        let mut asked = dfg.value_def(dfg.inst_args(branch)[0]).inst().unwrap();
        if dfg.insts[asked].opcode() == Opcode::Uextend {
            asked = dfg.value_def(dfg.inst_args(asked)[0]).inst().unwrap();
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

    /// A loop with two counts, of which the first is asked for.
    struct Two {
        starts: [i64; 2],
        steps: [i64; 2],
        order: IntCC,
        end: i64,
        /// Whether the constant is compared to the count, and whether the branch that goes on is the second.
        constant_first: bool,
        goes_on_second: bool,
        /// What the second count is a sum of.
        of: usize,
    }

    impl Two {
        /// What is known of either, with whether zero is all that is asked for.
        fn known(&self) -> [Option<(Range, bool)>; 2] {
            let mut func = Function::new();
            let mut memory = FunctionBuilderContext::new();
            let mut builder = FunctionBuilder::new(&mut func, &mut memory);
            let [entry, header, exit] = [0; 3].map(|_| builder.create_block());
            let counts = [0; 2].map(|_| builder.append_block_param(header, types::I32));
            let number = |builder: &mut FunctionBuilder<'_>, number: i64| {
                builder.ins().iconst(types::I32, number & 0xffff_ffff)
            };
            builder.switch_to_block(entry);
            let starts = self.starts.map(|start| number(&mut builder, start).into());
            builder.ins().jump(header, &starts);
            builder.switch_to_block(header);
            let [one, other] = self.steps.map(|step| number(&mut builder, step));
            let next = builder.ins().iadd(counts[0], one);
            let other = builder.ins().iadd(counts[self.of], other);
            let end = number(&mut builder, self.end);
            let order = if self.goes_on_second { self.order.complement() } else { self.order };
            let asked = match (self.end, self.constant_first) {
                (0, _) if order == IntCC::NotEqual => next,
                (_, true) => builder.ins().icmp(order.swap_args(), end, next),
                (_, false) => builder.ins().icmp(order, next, end),
            };
            let back = [next.into(), other.into()];
            if self.goes_on_second {
                builder.ins().brif(asked, exit, &[], header, &back);
            } else {
                builder.ins().brif(asked, header, &back, exit, &[]);
            }
            builder.switch_to_block(exit);
            builder.ins().return_(&[]);
            builder.seal_all_blocks();
            let flow = ControlFlowGraph::with_function(builder.func);
            let Some(counts) = Counts::of(builder.func, &flow, header) else { return [None; 2] };
            [0, 1].map(|number| {
                let known = counts.get(builder.func, number)?;
                Some((known.range, known.asks_for_zero.is_some()))
            })
        }
    }

    #[test]
    fn counts_are_known_however_the_loop_asks() {
        let range = |start: u32, step, turns| Range::of(start, step, turns).unwrap();
        for constant_first in [false, true] {
            for goes_on_second in [false, true] {
                let known = |order, end| {
                    let (starts, steps) = ([-16, 100], [4, -2]);
                    Two { starts, steps, order, end, constant_first, goes_on_second, of: 1 }.known()
                };
                let all = [range(0xffff_fff0, 4, 4), range(100, -2, 4)];
                let zero = known(IntCC::NotEqual, 0);
                assert_eq!(zero.map(|it| it.map(|(range, _)| range)), all.map(Some));
                // Then, it is compared with zero.
                assert_eq!(zero.map(|it| it.unwrap().1), [!goes_on_second, false]);
                assert_eq!(known(IntCC::SignedLessThan, -3), all.map(|range| Some((range, false))));
                assert_eq!(known(IntCC::SignedGreaterThan, -3), [None; 2]);
                assert_eq!(known(IntCC::NotEqual, 1), [None; 2]);
            }
        }
    }

    #[test]
    fn a_loop_that_begins_again_at_its_end_does_not_count() {
        let mut func = Function::new();
        let mut memory = FunctionBuilderContext::new();
        let mut builder = FunctionBuilder::new(&mut func, &mut memory);
        let [entry, header] = [0; 2].map(|_| builder.create_block());
        let count = builder.append_block_param(header, types::I32);
        builder.switch_to_block(entry);
        let start = builder.ins().iconst(types::I32, 0);
        builder.ins().jump(header, &[start.into()]);
        builder.switch_to_block(header);
        let [two, end, again] = [2, 8, 3].map(|it| builder.ins().iconst(types::I32, it));
        let next = builder.ins().iadd(count, two);
        let asked = builder.ins().icmp(IntCC::NotEqual, next, end);
        let branch = builder.ins().brif(asked, header, &[next.into()], header, &[again.into()]);
        builder.seal_all_blocks();
        let flow = ControlFlowGraph::with_function(builder.func);
        assert!(Counts::of(builder.func, &flow, header).is_none());
        // From 3 on, it never arrives at 8.
        compare_next(builder.func, &flow);
        assert_eq!(builder.func.dfg.inst_args(branch), [asked]);
    }

    #[test]
    fn what_is_no_count_is_not_known() {
        let two = Two {
            starts: [0x8000_0000, 100],
            steps: [-(1 << 20), 4],
            order: IntCC::NotEqual,
            end: 0,
            constant_first: false,
            goes_on_second: false,
            of: 0,
        };
        // The number behind the last is another with the same lower half, so that must be asked for.
        let [counted, crossed] = two.known();
        let (range, asks_for_zero) = counted.unwrap();
        assert_eq!((range.end, asks_for_zero), (-1 << 32, false));
        assert_eq!(crossed, None);
    }

    #[test]
    fn what_is_passed_is_below_what_it_was_compared_with() {
        use IntCC::{
            Equal, SignedLessThan, UnsignedGreaterThan, UnsignedGreaterThanOrEqual,
            UnsignedLessThan, UnsignedLessThanOrEqual,
        };
        let most = |order: IntCC, end: i64, swaps: bool| {
            let mut func = Function::new();
            let mut memory = FunctionBuilderContext::new();
            let mut builder = FunctionBuilder::new(&mut func, &mut memory);
            let [entry, one, other] = [0; 3].map(|_| builder.create_block());
            for block in [entry, one, other] {
                builder.append_block_param(block, types::I32);
                builder.append_block_param(block, types::I32);
            }
            builder.switch_to_block(entry);
            let [value, another] = *builder.block_params(entry) else { panic!() };
            let end = builder.ins().iconst(types::I32, end);
            let asked = match swaps {
                true => builder.ins().icmp(order.swap_args(), end, value),
                false => builder.ins().icmp(order, value, end),
            };
            let both = [value.into(), another.into()];
            let branch = builder.ins().brif(asked, one, &both, other, &both);
            let dfg = &builder.func.dfg;
            let most = |parameter| {
                [0, 1].map(|number| most_passed(dfg, Edge { branch, number }, parameter))
            };
            assert_eq!(most(1), [None; 2]);
            most(0)
        };
        for swaps in [false, true] {
            assert_eq!(most(UnsignedLessThan, 9, swaps), [Some(8), None]);
            assert_eq!(most(UnsignedLessThan, 0, swaps), [None; 2]);
            assert_eq!(most(UnsignedLessThanOrEqual, 9, swaps), [Some(9), None]);
            assert_eq!(most(UnsignedGreaterThan, 9, swaps), [None, Some(9)]);
            assert_eq!(most(UnsignedGreaterThanOrEqual, 9, swaps), [None, Some(8)]);
            assert_eq!(most(SignedLessThan, 9, swaps), [None; 2]);
            assert_eq!(most(Equal, 9, swaps), [None; 2]);
        }
    }
}
