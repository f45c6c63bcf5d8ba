//! The order in which a block computes, so that fewer values are kept at a time.
//!
//! The optimiser computes each value just before it is first needed by something that has an effect. A hash function computes for long, and
//! has an effect, which is to store what came out, at the end: all of it is put off until then, and far more values
//! are kept at a time than registers hold. Here, what makes an end of as many values as it makes is computed as soon as it can be.
//! The rest, and what has effects, stays in its order.
//!
//! This costs moves, since an operation of the processor overwrites an operand, and lets fewer of them run at the same time. So it is done where values have to
//! be kept on the stack, and a good part of them fewer.

use std::ops::Range;

use cranelift_codegen::FxHashMap;
use cranelift_codegen::ir::function::FunctionStencil;
use cranelift_codegen::ir::{Block, DataFlowGraph, Function, Inst, Opcode, Value};

use crate::constants::is_constant;
use crate::effects::has_effects;

/// Blocks with fewer instructions that may be moved keep few values.
const LARGE: usize = 64;

/// How many values of either class the registers hold, about.
const REGISTERS: u32 = 13;

/// Orders the large blocks of a function. It is optimised: before, the order of what has no effect means nothing.
pub(crate) fn keep_fewer(func: &mut Function) {
    let mut next_block = func.layout.entry_block();
    while let Some(block) = next_block {
        next_block = func.layout.next_block(block);
        if func.layout.block_insts(block).nth(LARGE - 1).is_none() {
            continue;
        }
        let free = |inst: &Inst| !has_effects(func.dfg.insts[*inst].opcode());
        if func.layout.block_insts(block).filter(free).count() < LARGE {
            continue;
        }
        let computation = Computation::of(func, block);
        let before = computation.excess(0..computation.steps.len());
        if before == 0 {
            continue;
        }
        let order = computation.eager();
        // At least a sixth less.
        if computation.excess(order.iter().copied()) <= before / 6 * 5 {
            let FunctionStencil { layout, .. } = &mut func.stencil;
            for step in order {
                let inst = computation.steps[step].inst;
                layout.remove_inst(inst);
                layout.insert_inst(inst, computation.last);
            }
        }
    }
}

/// What a block computes. Values and steps have numbers, values only if they are made in the block.
struct Computation {
    steps: Vec<Step>,
    /// How the block ends.
    last: Inst,
    /// The operands of all steps.
    operands: Vec<usize>,
    values: Vec<Made>,
    /// How many of the values are parameters: those come first.
    parameters: usize,
    /// The values that the last instruction uses.
    kept: Vec<usize>,
    /// The users of all values, once for each use.
    users: Vec<usize>,
}

struct Step {
    inst: Inst,
    /// What is computed without an effect may be computed at another time.
    is_free: bool,
    operands: Range<usize>,
    results: Range<usize>,
}

/// A value that the block makes.
struct Made {
    class: Class,
    /// How often the block uses it. Whether other blocks do, too, is not asked; if only they do, or nobody, it does not count.
    uses: usize,
    /// The step that makes it, if it is no parameter.
    maker: Option<usize>,
    users: Range<usize>,
}

/// What registers a value is kept in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Integer,
    Vector,
    /// None, as it is made where it is needed.
    Constant,
}

impl Made {
    fn new(class: Class, maker: Option<usize>) -> Self {
        Self { class, uses: 0, maker, users: 0..0 }
    }
}

impl Computation {
    fn of(func: &Function, block: Block) -> Self {
        let (dfg, layout) = (&func.dfg, &func.layout);
        let mut insts: Vec<Inst> = layout.block_insts(block).collect();
        let last = insts.pop().expect("a large block");
        let parameters = dfg.block_params(block);
        let count = parameters.len() + insts.len();
        let mut numbers: FxHashMap<Value, usize> = FxHashMap::default();
        numbers.reserve(count);
        let mut values: Vec<Made> = Vec::with_capacity(count);
        for (number, parameter) in (0..).zip(parameters) {
            numbers.insert(*parameter, number);
            values.push(Made::new(Class::of(dfg, *parameter), None));
        }
        let mut steps = Vec::with_capacity(insts.len());
        let mut operands = Vec::with_capacity(2 * insts.len());
        let number = |value: Value, numbers: &FxHashMap<Value, usize>| {
            numbers.get(&dfg.resolve_aliases(value)).copied()
        };
        for (step, inst) in insts.into_iter().enumerate() {
            let opcode = dfg.insts[inst].opcode();
            let first = operands.len();
            operands.extend(dfg.inst_values(inst).filter_map(|value| number(value, &numbers)));
            let results = values.len();
            for (number, result) in (values.len()..).zip(dfg.inst_results(inst)) {
                let class = match opcode {
                    opcode if is_constant(opcode) => Class::Constant,
                    Opcode::Vconst => Class::Constant,
                    _ => Class::of(dfg, *result),
                };
                numbers.insert(*result, number);
                values.push(Made::new(class, Some(step)));
            }
            steps.push(Step {
                inst,
                is_free: !has_effects(opcode),
                operands: first..operands.len(),
                results: results..values.len(),
            });
        }
        let kept = dfg.inst_values(last).filter_map(|value| number(value, &numbers)).collect();
        let mut this = Self {
            steps,
            last,
            operands,
            values,
            kept,
            parameters: parameters.len(),
            users: Vec::new(),
        };
        this.find_users();
        this
    }

    fn find_users(&mut self) {
        for operand in &self.operands {
            self.values[*operand].uses += 1;
        }
        let mut end = 0;
        for made in &mut self.values {
            made.users = end..end;
            end += made.uses;
        }
        self.users = vec![0; end];
        for (number, step) in self.steps.iter().enumerate() {
            for operand in &self.operands[step.operands.clone()] {
                let users = &mut self.values[*operand].users;
                self.users[users.end] = number;
                users.end += 1;
            }
        }
        for operand in &self.kept {
            self.values[*operand].uses += 1;
        }
    }

    fn operands(&self, step: usize) -> &[usize] {
        &self.operands[self.steps[step].operands.clone()]
    }

    /// How many values are kept that registers do not hold, summed over all steps in an order. Values that were made before the block are
    /// not known.
    fn excess(&self, order: impl IntoIterator<Item = usize>) -> u64 {
        let mut left: Vec<usize> = self.values.iter().map(|made| made.uses).collect();
        let mut kept = [0_u32; 2];
        let mut sum = 0;
        let register = |made: &Made| match made.class {
            Class::Integer => Some(0),
            Class::Vector => Some(1),
            Class::Constant => None,
        };
        let begins = |values: &[Made], kept: &mut [u32; 2]| {
            for made in values.iter().filter(|made| made.uses > 0) {
                register(made).into_iter().for_each(|class: usize| kept[class] += 1);
            }
        };
        begins(&self.values[..self.parameters], &mut kept);
        for step in order {
            for operand in self.operands(step) {
                let left = &mut left[*operand];
                *left -= 1;
                if *left == 0
                    && let Some(class) = register(&self.values[*operand])
                {
                    kept[class] -= 1;
                }
            }
            begins(&self.values[self.steps[step].results.clone()], &mut kept);
            sum += kept.iter().map(|kept| u64::from(kept.saturating_sub(REGISTERS))).sum::<u64>();
        }
        sum
    }

    /// The steps in their order, but for those that make an end of as many values as they make: they come as early as they can.
    fn eager(&self) -> Vec<usize> {
        let count = self.steps.len();
        let mut progress = Progress {
            order: Vec::with_capacity(count),
            is_done: vec![false; count],
            waits: (0..count).map(|step| self.waits(step)).collect(),
            left: self.values.iter().map(|made| made.uses).collect(),
        };
        // What ends parameters can be computed at once.
        let mut next: Vec<usize> = (0..count)
            .rev()
            .filter(|step| !self.is_constant(*step) && self.is_eager(*step, &progress))
            .collect();
        for step in 0..count {
            // A constant comes before its first user.
            if !self.is_constant(step) {
                next.push(step);
            }
            while let Some(step) = next.pop() {
                if !progress.is_done[step] {
                    self.step(step, &mut progress, &mut next);
                }
            }
        }
        // Constants that only other blocks use.
        progress.order.extend((0..count).filter(|step| !progress.is_done[*step]));
        progress.order
    }

    /// Takes a step, and adds those that can be taken at once to `next`.
    fn step(&self, step: usize, progress: &mut Progress, next: &mut Vec<usize>) {
        for operand in self.operands(step) {
            let made = &self.values[*operand];
            if let Some(maker) = made.maker
                && made.class == Class::Constant
                && !progress.is_done[maker]
            {
                progress.is_done[maker] = true;
                progress.order.push(maker);
            }
        }
        progress.is_done[step] = true;
        progress.order.push(step);
        for made in &self.values[self.steps[step].results.clone()] {
            for user in &self.users[made.users.clone()] {
                progress.waits[*user] -= 1;
            }
        }
        let mut consider = |made: &Made, progress: &Progress| {
            let users = self.users[made.users.clone()].iter();
            next.extend(users.filter(|user| self.is_eager(**user, progress)));
        };
        for operand in self.operands(step) {
            let left = &mut progress.left[*operand];
            *left -= 1;
            // Few are left that may use it for the last time.
            if *left <= 2 {
                consider(&self.values[*operand], progress);
            }
        }
        for made in &self.values[self.steps[step].results.clone()] {
            consider(made, progress);
        }
    }

    /// Whether a step that was not taken yet can be, and is better taken early.
    fn is_eager(&self, step: usize, progress: &Progress) -> bool {
        !progress.is_done[step]
            && progress.waits[step] == 0
            && self.steps[step].is_free
            && !self.keeps_more(step, &progress.left)
    }

    /// How many operands have to be made before a step can be taken.
    fn waits(&self, step: usize) -> usize {
        let waits = |operand: &&usize| {
            let made = &self.values[**operand];
            made.maker.is_some() && made.class != Class::Constant
        };
        self.operands(step).iter().filter(waits).count()
    }

    fn is_constant(&self, step: usize) -> bool {
        let results = &self.values[self.steps[step].results.clone()];
        results.first().is_some_and(|made| made.class == Class::Constant)
    }

    /// Whether a step makes more values than it is the last to use.
    fn keeps_more(&self, step: usize, left: &[usize]) -> bool {
        let results = &self.values[self.steps[step].results.clone()];
        let made = results.iter().filter(|made| made.uses > 0).count();
        let operands = self.operands(step);
        let ended = operands.iter().enumerate().filter(|(place, operand)| {
            let number = **operand;
            let times = operands.iter().filter(|other| other == operand).count();
            self.values[number].class != Class::Constant
                && left[number] == times
                && !operands[..*place].contains(operand)
        });
        made > ended.count()
    }
}

/// How far an order is.
struct Progress {
    order: Vec<usize>,
    is_done: Vec<bool>,
    /// How many operands have to be made before each step.
    waits: Vec<usize>,
    /// How many uses of each value are left.
    left: Vec<usize>,
}

impl Class {
    fn of(dfg: &DataFlowGraph, value: Value) -> Self {
        let ty = dfg.value_type(value);
        if ty.is_vector() || ty.is_float() { Self::Vector } else { Self::Integer }
    }
}

#[cfg(test)]
mod tests {
    use cranelift_codegen::ir::{AbiParam, InstBuilder as _, MemFlagsData, types};
    use cranelift_codegen::settings::{self, Flags};
    use cranelift_codegen::verify_function;
    use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

    use super::*;

    /// Loads so many words, adds each to its neighbour, rotated, and those sums to one another in a tree; then stores the sum. Nothing is computed
    /// before all is loaded. After the load of the word with a number in `between`, the sum of the first two is stored as well.
    fn sums(words: usize, between: Option<usize>) -> Function {
        let mut func = Function::new();
        let mut memory = FunctionBuilderContext::new();
        func.signature.params = vec![AbiParam::new(types::I64)];
        let mut builder = FunctionBuilder::new(&mut func, &mut memory);
        let block = builder.create_block();
        builder.append_block_params_for_function_params(block);
        builder.switch_to_block(block);
        builder.seal_block(block);
        let address = builder.block_params(block)[0];
        let flags = MemFlagsData::new();
        let mut loaded = Vec::new();
        for (word, offset) in (0..words).zip((0..).step_by(8)) {
            loaded.push(builder.ins().load(types::I64, flags, address, offset));
            if between == Some(word) {
                let sum = builder.ins().iadd(loaded[0], loaded[1]);
                builder.ins().store(flags, sum, address, 8);
            }
        }
        let by = builder.ins().iconst(types::I64, 5);
        let mut sums = loaded;
        while sums.len() > 1 {
            sums = sums
                .chunks(2)
                .map(|pair| match *pair {
                    [a, b] => {
                        let rotated = builder.ins().rotl(a, by);
                        builder.ins().iadd(rotated, b)
                    }
                    _ => pair[0],
                })
                .collect();
        }
        builder.ins().store(flags, sums[0], address, 0);
        builder.ins().return_(&[]);
        func
    }

    fn only_block(func: &Function) -> Block {
        func.layout.entry_block().unwrap()
    }

    fn insts(func: &Function) -> Vec<Inst> {
        func.layout.block_insts(only_block(func)).collect()
    }

    fn excess(func: &Function) -> u64 {
        let computation = Computation::of(func, only_block(func));
        computation.excess(0..computation.steps.len())
    }

    #[test]
    fn sums_are_computed_once_both_operands_are_there() {
        for between in [None, Some(40)] {
            let mut func = sums(64, between);
            let before = insts(&func);
            assert!(excess(&func) > 64 * 40);
            keep_fewer(&mut func);
            verify_function(&func, &Flags::new(settings::builder())).unwrap();
            assert_eq!(excess(&func), 0);
            let after = insts(&func);
            // Nothing is lost, and what has effects is in its order.
            let effects = |insts: &[Inst]| {
                let is_fixed = |inst: &&Inst| has_effects(func.dfg.insts[**inst].opcode());
                insts.iter().filter(is_fixed).copied().collect::<Vec<_>>()
            };
            assert_eq!(effects(&before), effects(&after));
            let sorted = |mut insts: Vec<Inst>| {
                insts.sort_unstable();
                insts
            };
            assert_eq!(sorted(before), sorted(after));
        }
    }

    #[test]
    fn an_order_that_keeps_few_values_stays() {
        for words in [5, 13, 14] {
            let mut func = sums(words, None);
            let before = insts(&func);
            keep_fewer(&mut func);
            assert_eq!(insts(&func), before);
        }
        // Once it is better, there is nothing more to do.
        let mut func = sums(64, None);
        keep_fewer(&mut func);
        let once = insts(&func);
        keep_fewer(&mut func);
        assert_eq!(insts(&func), once);
    }

    #[test]
    fn values_are_kept_from_where_they_are_made_to_their_last_use() {
        // One after another, up to all of them; from there on, each pair makes one.
        let kept = |words: u64| (1..=words).map(|kept| kept.saturating_sub(13)).sum::<u64>();
        let func = sums(14, None);
        let computation = Computation::of(&func, only_block(&func));
        // With the address, which is used to the end.
        let loads = computation.excess(0..14);
        assert_eq!(loads, kept(15));
    }
}
