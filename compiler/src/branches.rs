//! Branch tables that lead elsewhere than to their default for few indices, or to few blocks, as comparisons.
//!
//! LLVM makes such tables for wasm, and for no processor. A processor foresees a comparison at least as well as where a jump through a table
//! goes, and is back sooner when it was wrong. And values are moved to where a block expects them once for the block, not once for
//! each index.
//!
//! Indices that lead to one block are a set, of which each index is a bit: one test tells whether an index is in it.
//!
//! This is done once the function is optimised. What several targets need is computed before the table then; were there comparisons
//! from the beginning, each target would compute it for itself, and what comes after them all once more.

use cranelift_codegen::cursor::{Cursor as _, FuncCursor};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{
    Block, BlockArg, BlockCall, Function, Inst, InstBuilder as _, InstructionData, JumpTable, Type,
    Value, types,
};

/// So many indices are few. So are as many targets.
const FEW: usize = 3;

/// Puts comparisons in the place of tables. Returns whether there were any: then blocks were added, and what was known of
/// the order of blocks does not hold any more.
pub(crate) fn compare(func: &mut Function) -> bool {
    let mut changed = false;
    let mut next = func.layout.entry_block();
    while let Some(block) = next {
        next = func.layout.next_block(block);
        let Some(inst) = func.layout.last_inst(block) else { continue };
        if let InstructionData::BranchTable { arg, table, .. } = func.dfg.insts[inst]
            && let Some(elsewhere) = Elsewhere::of(func, table)
        {
            chain(func, inst, arg, &elsewhere);
            changed = true;
        }
    }
    changed
}

/// Where a branch leads to, and with which arguments.
pub(crate) type Target = (Block, Vec<BlockArg>);

/// Where a branch leads to, apart from the function.
pub(crate) fn target(func: &Function, call: &BlockCall) -> Target {
    let pool = &func.dfg.value_lists;
    (call.block(pool), call.args(pool).collect())
}

/// Where a table leads to other than to its default.
struct Elsewhere {
    /// The indices, in order, each with the number of its target.
    indices: Vec<(u64, usize)>,
    targets: Vec<Target>,
    default: Target,
}

impl Elsewhere {
    /// `None` if a table is better.
    fn of(func: &Function, table: JumpTable) -> Option<Self> {
        let pool = &func.dfg.value_lists;
        let table = &func.dfg.jump_tables[table];
        let leads_there = |call: &BlockCall, (block, args): &Target| {
            call.block(pool) == *block && call.args(pool).eq(args.iter().copied())
        };
        let default = target(func, &table.default_block());
        let mut found = Self { indices: Vec::new(), targets: Vec::new(), default };
        for (index, call) in (0..).zip(table.as_slice()) {
            if leads_there(call, &found.default) {
                continue;
            }
            let known = found.targets.iter().position(|target| leads_there(call, target));
            if known.is_none() {
                if found.targets.len() > FEW {
                    return None;
                }
                found.targets.push(target(func, call));
            }
            found.indices.push((index, known.unwrap_or(found.targets.len() - 1)));
            if found.indices.len() > FEW && index >= u64::from(u64::BITS) {
                return None;
            }
        }
        // With one target more, most indices should need no comparisons but the first.
        let is_rare = 2 * found.indices.len() < table.as_slice().len();
        (found.targets.len() <= FEW || is_rare).then_some(found)
    }

    /// The comparisons, and where the branch leads to if they do not tell.
    fn comparisons(&self) -> (Vec<Comparison<'_>>, &Target) {
        if self.indices.len() <= FEW {
            let is = |(index, target): &(u64, usize)| {
                Comparison::leads_to(Question::Is(*index), &self.targets[*target])
            };
            return (self.indices.iter().map(is).collect(), &self.default);
        }
        let set = |wanted: usize| {
            let bits = self.indices.iter().filter(|(_, target)| *target == wanted);
            bits.fold(0, |set, (index, _)| set | 1 << index)
        };
        let sets: Vec<u64> = (0..self.targets.len()).map(set).collect();
        let all = sets.iter().fold(0, |all, set| all | set);
        let length = u64::BITS - all.leading_zeros();
        let ty = if length <= u32::BITS { types::I32 } else { types::I64 };
        let mut comparisons = vec![Comparison::goes_on(Question::IsBelow(length), &self.default)];
        if all.count_ones() < length {
            comparisons.push(Comparison::goes_on(Question::IsIn(all, ty), &self.default));
        }
        let last = self.targets.len() - 1;
        for (set, target) in sets.iter().zip(&self.targets[..last]) {
            comparisons.push(Comparison::leads_to(Question::IsIn(*set, ty), target));
        }
        (comparisons, &self.targets[last])
    }
}

/// A question, and where its answers lead to: `None` is the next question.
struct Comparison<'a> {
    question: Question,
    yes: Option<&'a Target>,
    no: Option<&'a Target>,
}

impl<'a> Comparison<'a> {
    fn leads_to(question: Question, target: &'a Target) -> Self {
        Self { question, yes: Some(target), no: None }
    }

    fn goes_on(question: Question, otherwise: &'a Target) -> Self {
        Self { question, yes: None, no: Some(otherwise) }
    }
}

/// What is asked of an index.
#[derive(Clone, Copy)]
enum Question {
    Is(u64),
    IsBelow(u32),
    /// Whether it is one of these bits. The type has a bit for every index that this is asked of.
    IsIn(u64, Type),
}

impl Question {
    /// What is not zero if the answer is yes.
    fn ask(self, pos: &mut FuncCursor<'_>, index: Value) -> Value {
        match self {
            Self::Is(number) => pos.ins().icmp_imm_u(IntCC::Equal, index, number.cast_signed()),
            Self::IsBelow(length) => {
                pos.ins().icmp_imm_u(IntCC::UnsignedLessThan, index, i64::from(length))
            }
            Self::IsIn(set, _) if set.is_power_of_two() => {
                Self::Is(set.trailing_zeros().into()).ask(pos, index)
            }
            Self::IsIn(set, ty) => {
                let set = pos.ins().iconst(ty, set.cast_signed());
                let one = pos.ins().iconst(ty, 1);
                let bit = pos.ins().ishl(one, index);
                pos.ins().band(set, bit)
            }
        }
    }
}

/// Replaces a branch by comparisons of its index.
fn chain(func: &mut Function, branch: Inst, index: Value, elsewhere: &Elsewhere) {
    let Some(mut block) = func.layout.inst_block(branch) else { return };
    let mut pos = FuncCursor::new(func).at_inst(branch);
    pos.use_srcloc(branch);
    pos.remove_inst();
    let (comparisons, otherwise) = elsewhere.comparisons();
    let Some((last, others)) = comparisons.split_last() else {
        pos.ins().jump(otherwise.0, &otherwise.1);
        return;
    };
    for Comparison { question, yes, no } in others {
        let answer = question.ask(&mut pos, index);
        let next = (pos.func.dfg.make_block(), Vec::new());
        let (yes, no) = (yes.unwrap_or(&next), no.unwrap_or(&next));
        pos.ins().brif(answer, yes.0, &yes.1, no.0, &no.1);
        pos.func.layout.insert_block_after(next.0, block);
        block = next.0;
        pos.goto_bottom(block);
    }
    let answer = last.question.ask(&mut pos, index);
    let (yes, no) = (last.yes.unwrap_or(otherwise), last.no.unwrap_or(otherwise));
    pos.ins().brif(answer, yes.0, &yes.1, no.0, &no.1);
}

#[cfg(test)]
mod tests {
    use cranelift_codegen::ir::{AbiParam, JumpTableData, Opcode, types};
    use cranelift_codegen::settings::{self, Flags};
    use cranelift_codegen::verify_function;
    use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

    use super::*;

    /// A function that branches by its parameter: to the block with the first number of the entry, with the other for an argument. The last
    /// is the default. And whether there are comparisons in it now.
    fn compared(entries: &[(usize, usize)]) -> (Function, bool) {
        let mut func = Function::new();
        func.signature.params.push(AbiParam::new(types::I32));
        let mut memory = FunctionBuilderContext::new();
        let mut builder = FunctionBuilder::new(&mut func, &mut memory);
        let entry = builder.create_block();
        builder.append_block_params_for_function_params(entry);
        let blocks = [0; 5].map(|_| builder.create_block());
        for block in blocks {
            builder.append_block_param(block, types::I64);
        }
        builder.switch_to_block(entry);
        let index = builder.block_params(entry)[0];
        let args: Vec<Value> = (0..10).map(|it| builder.ins().iconst(types::I64, it)).collect();
        let mut call = |(block, arg): &(usize, usize)| {
            builder.func.dfg.block_call(blocks[*block], &[args[*arg].into()])
        };
        let calls: Vec<_> = entries.iter().map(&mut call).collect();
        let (default, calls) = calls.split_last().unwrap();
        let table = builder.create_jump_table(JumpTableData::new(*default, calls));
        builder.ins().br_table(index, table);
        for block in blocks {
            builder.switch_to_block(block);
            builder.ins().return_(&[]);
        }
        builder.seal_all_blocks();
        let changed = compare(&mut func);
        verify_function(&func, &Flags::new(settings::builder())).unwrap();
        (func, changed)
    }

    /// The value of what a function computes from an index.
    fn computed(func: &Function, index: i64, value: Value) -> i64 {
        let Some(inst) = func.dfg.value_def(value).inst() else { return index };
        let of = |value| computed(func, index, value);
        match func.dfg.insts[inst] {
            InstructionData::UnaryImm { imm, .. } => imm.bits(),
            InstructionData::IntCompare { cond: IntCC::Equal, args: [a, b], .. } => {
                i64::from(of(a) == of(b))
            }
            InstructionData::IntCompare { cond: IntCC::UnsignedLessThan, args: [a, b], .. } => {
                i64::from(of(a).cast_unsigned() < of(b).cast_unsigned())
            }
            InstructionData::Binary { opcode: Opcode::Band, args: [a, b] } => of(a) & of(b),
            InstructionData::Binary { opcode: Opcode::Ishl, args: [a, b] } => {
                let bits = i64::from(func.dfg.value_type(a).bits());
                assert!(
                    of(b).cast_unsigned() < bits.cast_unsigned(),
                    "only lower bits would count"
                );
                of(a) << of(b)
            }
            _ => panic!("{}", func.dfg.display_inst(inst)),
        }
    }

    /// Where a function leads to for an index, and with which argument.
    fn led_to(func: &Function, index: i64) -> (u32, i64) {
        let pool = &func.dfg.value_lists;
        let mut block = func.layout.entry_block().unwrap();
        loop {
            let last = func.layout.last_inst(block).unwrap();
            let call = match func.dfg.insts[last] {
                InstructionData::Brif { arg, blocks, .. } => {
                    blocks[usize::from(computed(func, index, arg) == 0)]
                }
                InstructionData::Jump { destination, .. } => destination,
                _ => panic!("{}", func.dfg.display_inst(last)),
            };
            let mut args = call.args(pool);
            block = call.block(pool);
            if let Some(arg) = args.next() {
                return (block.as_u32(), computed(func, index, arg.as_value().unwrap()));
            }
        }
    }

    /// Whether a function that branches so has comparisons now, which lead to where the table did.
    fn is_compared(entries: &[(usize, usize)]) -> bool {
        let (func, changed) = compared(entries);
        if changed {
            let indices = (0..100).chain([1 << 31, u32::MAX.into()]);
            for index in indices {
                let entry = usize::try_from(index).ok().and_then(|index| entries.get(index));
                let (block, arg) = *entry.unwrap_or(entries.last().unwrap());
                let expected = (u32::try_from(block).unwrap() + 1, i64::try_from(arg).unwrap());
                assert_eq!(led_to(&func, index), expected, "{entries:?} {index}");
            }
        } else {
            let entry = func.layout.entry_block().unwrap();
            let last = func.layout.last_inst(entry).unwrap();
            assert_eq!(func.dfg.insts[last].opcode(), Opcode::BrTable);
        }
        changed
    }

    /// A table with these entries, whose others are its default.
    fn table(length: usize, entries: &[(usize, (usize, usize))]) -> Vec<(usize, usize)> {
        let mut table = vec![(4, 9); length + 1];
        for (index, entry) in entries {
            table[*index] = *entry;
        }
        table
    }

    #[test]
    fn few_indices_are_compared() {
        for entries in [
            &[(4, 9)][..],
            &[(4, 9), (4, 9)],
            &[(0, 1), (4, 9)],
            &[(4, 9), (0, 1), (4, 9), (4, 9), (0, 1), (1, 2), (4, 9)],
            // The same block, with another argument.
            &[(4, 9), (4, 8), (4, 9)],
            &[(0, 1), (1, 1), (2, 1), (3, 1)],
            // Far away from each other.
            &table(80, &[(0, (0, 1)), (70, (1, 1)), (79, (0, 2))]),
        ] {
            assert!(is_compared(entries), "{entries:?}");
        }
    }

    #[test]
    fn few_targets_are_compared() {
        let (a, b, c, d) = ((0, 1), (1, 2), (2, 3), (0, 4));
        for entries in [
            // One, without gaps and with some.
            table(5, &[(0, a), (1, a), (2, a), (3, a), (4, a)]),
            table(64, &[(3, a), (31, a), (32, a), (63, a)]),
            // More.
            table(6, &[(0, a), (1, b), (2, c), (3, b), (4, a)]),
            table(40, &[(0, b), (1, a), (2, a), (33, b), (34, c)]),
            table(5, &[(0, a), (1, b), (2, c), (3, a), (4, c)]),
            // Four, and most indices lead nowhere else.
            table(9, &[(0, a), (2, b), (5, c), (7, d)]),
            table(64, &[(0, a), (1, a), (34, b), (35, d), (63, c)]),
        ] {
            assert!(is_compared(&entries), "{entries:?}");
        }
    }

    #[test]
    fn many_stay_a_table() {
        let (a, b, c, d) = ((0, 1), (1, 2), (2, 3), (3, 4));
        for entries in [
            table(5, &[(0, a), (1, b), (2, c), (4, d)]),
            table(8, &[(0, a), (1, b), (2, c), (4, d)]),
            table(20, &[(0, a), (1, b), (2, c), (4, d), (5, (0, 5))]),
            // A bit tells nothing about these.
            table(65, &[(0, a), (1, a), (2, a), (64, a)]),
        ] {
            assert!(!is_compared(&entries), "{entries:?}");
        }
    }
}
