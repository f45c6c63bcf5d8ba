//! What a loop adds to what it carries from turn to turn, added up before.
//!
//! A loop that adds up an array, four elements in a turn, computes `s + a + b + c + d`, from left to right. Each sum waits for the one before
//! it, and the first for the last turn, so a turn takes as long as four additions, whatever the processor could do at the same time.
//! Sums of integers wrap around, and so `s + (a + b + c + d)` is the same. Of that, only one addition waits for the last turn, and the others are computed ahead.
//!
//! This is done once the function is optimised: the optimiser has no order of its own for sums.

use cranelift_codegen::cursor::{Cursor as _, FuncCursor};
use cranelift_codegen::dominator_tree::DominatorTree;
use cranelift_codegen::entity::SecondaryMap;
use cranelift_codegen::ir::{
    Block, DataFlowGraph, Function, Inst, InstBuilder as _, InstructionData, Opcode, Value,
};

use crate::constants::integer;
use crate::edges::{PassedBack, passed_back};
use crate::uses;

/// So many sums are looked at to find what the last turn passed.
const MOST: usize = 64;

/// Adds what the last turn passed at the end. The graph is that of the function.
pub(crate) fn add_last(func: &mut Function, domtree: &DominatorTree) {
    let carried = carried(func, domtree);
    if carried.is_empty() {
        return;
    }
    let uses = uses::count(func);
    for (parameter, sum) in carried {
        let search = Search { func, uses: &uses, parameter };
        if let Some(chain) = search.chain(sum) {
            chain.rewrite(func, parameter);
        }
    }
}

/// The parameters of loops that are passed a sum of sums at the end of a turn, each with that.
fn carried(func: &Function, domtree: &DominatorTree) -> Vec<(Value, Inst)> {
    let dfg = &func.dfg;
    // Of one sum alone, nothing is to be gained.
    let is_sum =
        |value: &Value| dfg.value_def(*value).inst().is_some_and(|it| operands(dfg, it).is_some());
    let sum = |PassedBack { parameter, value, .. }| {
        let sum = dfg.value_def(value).inst()?;
        let (_, operands) = operands(dfg, sum)?;
        operands.iter().any(is_sum).then_some((parameter, sum))
    };
    passed_back(func, domtree).into_iter().filter_map(sum).collect()
}

/// Whether the second operand is added to the first, and both; if that is what an instruction does.
fn operands(dfg: &DataFlowGraph, inst: Inst) -> Option<(bool, [Value; 2])> {
    match dfg.insts[inst] {
        InstructionData::Binary { opcode: Opcode::Iadd, args } => Some((true, args)),
        InstructionData::Binary { opcode: Opcode::Isub, args } => Some((false, args)),
        _ => None,
    }
}

/// A sum of sums: what is added to the parameter in the first, and what is added to that in the others.
#[derive(Debug)]
struct Chain {
    links: Vec<Link>,
}

/// A sum, or a difference.
#[derive(Clone, Copy, Debug)]
struct Link {
    inst: Inst,
    operand: Value,
    adds: bool,
}

struct Search<'a> {
    func: &'a Function,
    uses: &'a SecondaryMap<Value, u32>,
    parameter: Value,
}

impl Search<'_> {
    /// The sums that lead from the parameter to this one, if there are some that nobody else wants, of several values that are no constants.
    fn chain(&self, sum: Inst) -> Option<Chain> {
        let block = self.func.layout.inst_block(sum)?;
        let mut left = MOST;
        let mut links = Vec::new();
        self.find(sum, block, &mut left, &mut links)?;
        let is_value = |link: &&Link| integer(&self.func.dfg, link.operand).is_none();
        (links.iter().filter(is_value).count() > 1).then_some(Chain { links })
    }

    /// Looks for the parameter in what a sum is made of, and adds the way from there.
    fn find(&self, sum: Inst, block: Block, left: &mut usize, links: &mut Vec<Link>) -> Option<()> {
        let dfg = &self.func.dfg;
        *left = left.checked_sub(1)?;
        let (adds, [a, b]) = operands(dfg, sum)?;
        // A difference is no sum of its second operand.
        for (from, operand) in [(a, b), (b, a)].into_iter().take(if adds { 2 } else { 1 }) {
            let mut leads_there = || {
                let inner = dfg.value_def(from).inst()?;
                let is_its =
                    self.uses[from] == 1 && self.func.layout.inst_block(inner) == Some(block);
                is_its.then(|| self.find(inner, block, left, links))?
            };
            if from == self.parameter || leads_there().is_some() {
                links.push(Link { inst: sum, operand, adds });
                return Some(());
            }
        }
        None
    }
}

impl Chain {
    /// Adds up what is added to the parameter, and then that to it.
    fn rewrite(&self, func: &mut Function, parameter: Value) {
        let Some((first, rest)) = self.links.split_first() else { return };
        let Some((last, _)) = rest.split_last() else { return };
        // If the first is taken away, so is all, and what is added is taken away from that.
        let mut all = first.operand;
        for link in rest {
            let mut cursor = FuncCursor::new(func).at_inst(link.inst);
            cursor.use_srcloc(link.inst);
            all = match link.adds == first.adds {
                true => cursor.ins().iadd(all, link.operand),
                false => cursor.ins().isub(all, link.operand),
            };
        }
        match first.adds {
            true => func.replace(last.inst).iadd(parameter, all),
            false => func.replace(last.inst).isub(parameter, all),
        };
        for link in &self.links {
            if link.inst != last.inst {
                func.layout.remove_inst(link.inst);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cranelift_codegen::flowgraph::ControlFlowGraph;
    use cranelift_codegen::ir::{AbiParam, types};
    use cranelift_codegen::settings::{self, Flags};
    use cranelift_codegen::verify_function;
    use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

    use super::*;

    /// What a loop passes to its next turn then, in text. `next` computes that from what the last turn passed, `s`, and three
    /// numbers, `a`, `b` and `c`.
    fn passed(next: impl Fn(&mut FunctionBuilder<'_>, [Value; 4]) -> Value) -> String {
        let mut func = Function::new();
        func.signature.params.extend([AbiParam::new(types::I32); 3]);
        let mut memory = FunctionBuilderContext::new();
        let mut builder = FunctionBuilder::new(&mut func, &mut memory);
        let [entry, header, exit] = [0; 3].map(|_| builder.create_block());
        builder.append_block_params_for_function_params(entry);
        let [a, b, c] = *builder.block_params(entry) else { panic!() };
        let s = builder.append_block_param(header, types::I32);
        builder.switch_to_block(entry);
        builder.ins().jump(header, &[a.into()]);
        builder.switch_to_block(header);
        let next = next(&mut builder, [s, a, b, c]);
        builder.ins().brif(a, header, &[next.into()], exit, &[]);
        builder.switch_to_block(exit);
        builder.ins().return_(&[]);
        builder.seal_all_blocks();
        let cfg = ControlFlowGraph::with_function(&func);
        let domtree = DominatorTree::with_function(&func, &cfg);
        add_last(&mut func, &domtree);
        verify_function(&func, &Flags::new(settings::builder())).unwrap();
        let branch = func.layout.last_inst(header).unwrap();
        let next = func.dfg.inst_values(branch).nth(1).unwrap();
        text(&func.dfg, &[(s, "s"), (a, "a"), (b, "b"), (c, "c")], next)
    }

    fn text(dfg: &DataFlowGraph, names: &[(Value, &str)], value: Value) -> String {
        if let Some((_, name)) = names.iter().find(|(named, _)| *named == value) {
            return (*name).to_owned();
        }
        if let Some(number) = integer(dfg, value) {
            return number.to_string();
        }
        let inst = dfg.value_def(value).inst().unwrap();
        let operands = dfg.inst_args(inst).iter().map(|it| text(dfg, names, *it));
        let operator = match dfg.insts[inst].opcode() {
            Opcode::Iadd => " + ",
            Opcode::Isub => " - ",
            Opcode::Bxor => " ^ ",
            other => panic!("{other}"),
        };
        format!("({})", operands.collect::<Vec<_>>().join(operator))
    }

    #[test]
    fn what_the_last_turn_passed_is_added_last() {
        let sums = passed(|builder, [s, a, b, c]| {
            let sum = builder.ins().iadd(s, a);
            let sum = builder.ins().iadd(b, sum);
            builder.ins().iadd(sum, c)
        });
        assert_eq!(sums, "(s + ((a + b) + c))");
        let differences = passed(|builder, [s, a, b, c]| {
            let sum = builder.ins().isub(s, a);
            let sum = builder.ins().iadd(sum, b);
            builder.ins().isub(sum, c)
        });
        assert_eq!(differences, "(s - ((a - b) + c))");
        let difference = passed(|builder, [s, a, b, _]| {
            let sum = builder.ins().iadd(a, s);
            builder.ins().isub(sum, b)
        });
        assert_eq!(difference, "(s + (a - b))");
        // On the other side of a sum that does not lead there.
        let other = passed(|builder, [s, a, b, c]| {
            let other = builder.ins().iadd(a, b);
            let sum = builder.ins().iadd(s, c);
            builder.ins().iadd(other, sum)
        });
        assert_eq!(other, "(s + (c + (a + b)))");
    }

    #[test]
    fn what_is_something_else_stays() {
        let one = passed(|builder, [s, a, _, _]| builder.ins().iadd(s, a));
        assert_eq!(one, "(s + a)");
        let constant = passed(|builder, [s, a, _, _]| {
            let sum = builder.ins().iadd(s, a);
            builder.ins().iadd_imm_s(sum, 5)
        });
        assert_eq!(constant, "((s + a) + 5)");
        // Taken away from something.
        let away = passed(|builder, [s, a, b, _]| {
            let sum = builder.ins().iadd(s, a);
            builder.ins().isub(b, sum)
        });
        assert_eq!(away, "(b - (s + a))");
        // The sum in between is wanted by somebody else.
        let wanted = passed(|builder, [s, a, b, _]| {
            let sum = builder.ins().iadd(s, a);
            let next = builder.ins().iadd(sum, b);
            builder.ins().bxor(sum, next)
        });
        assert_eq!(wanted, "((s + a) ^ ((s + a) + b))");
        let wanted = passed(|builder, [s, a, b, _]| {
            let sum = builder.ins().iadd(s, a);
            builder.ins().trapz(sum, cranelift_codegen::ir::TrapCode::unwrap_user(1));
            builder.ins().iadd(sum, b)
        });
        assert_eq!(wanted, "((s + a) + b)");
    }

    #[test]
    fn only_so_many_sums_are_looked_at() {
        let many = |count: usize| {
            passed(move |builder, [s, a, b, _]| {
                let first = builder.ins().iadd(s, a);
                (1..count).fold(first, |sum, _| builder.ins().iadd(sum, b))
            })
        };
        assert!(many(MOST).starts_with("(s + "));
        assert!(many(MOST + 1).starts_with("((("));
    }
}
