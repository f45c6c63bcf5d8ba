//! Branch tables that lead elsewhere than to their default for few indices, as comparisons.
//!
//! LLVM makes such tables for wasm, and for no processor. A processor foresees a comparison at least as well as where a jump through a table
//! goes, and is back sooner when it was wrong.
//!
//! This is done once the function is optimised. What several targets need is computed before the table then; were there comparisons
//! from the beginning, each target would compute it for itself, and what comes after them all once more.

use cranelift_codegen::cursor::{Cursor as _, FuncCursor};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{
    Block, BlockArg, BlockCall, Function, Inst, InstBuilder as _, InstructionData, JumpTable, Value,
};

/// So many indices are few.
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
            && let Some((elsewhere, default)) = few(func, table)
        {
            chain(func, inst, arg, &elsewhere, default);
            changed = true;
        }
    }
    changed
}

/// Where a branch leads to, and with which arguments.
type Target = (Block, Vec<BlockArg>);

/// The indices for which a table leads elsewhere than to its default, if they are few, and the default.
fn few(func: &Function, table: JumpTable) -> Option<(Vec<(i64, Target)>, Target)> {
    let pool = &func.dfg.value_lists;
    let table = &func.dfg.jump_tables[table];
    let default = table.default_block();
    let is_default = |call: &BlockCall| {
        call.block(pool) == default.block(pool) && call.args(pool).eq(default.args(pool))
    };
    let target = |call: &BlockCall| (call.block(pool), call.args(pool).collect());
    let mut elsewhere = Vec::new();
    for (index, call) in (0..).zip(table.as_slice()) {
        if is_default(call) {
            continue;
        }
        if elsewhere.len() == FEW {
            return None;
        }
        elsewhere.push((index, target(call)));
    }
    Some((elsewhere, target(&default)))
}

/// Replaces a branch by comparisons of its index.
fn chain(
    func: &mut Function,
    branch: Inst,
    index: Value,
    elsewhere: &[(i64, Target)],
    default: Target,
) {
    let Some(mut block) = func.layout.inst_block(branch) else { return };
    let mut pos = FuncCursor::new(func).at_inst(branch);
    pos.use_srcloc(branch);
    pos.remove_inst();
    let Some((last, others)) = elsewhere.split_last() else {
        pos.ins().jump(default.0, &default.1);
        return;
    };
    for (number, (target, args)) in others {
        let here = pos.ins().icmp_imm_u(IntCC::Equal, index, *number);
        let next = pos.func.dfg.make_block();
        pos.ins().brif(here, *target, args, next, &[]);
        pos.func.layout.insert_block_after(next, block);
        block = next;
        pos.goto_bottom(block);
    }
    let (number, (target, args)) = last;
    let here = pos.ins().icmp_imm_u(IntCC::Equal, index, *number);
    pos.ins().brif(here, *target, args, default.0, &default.1);
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

    /// Where a function leads to for an index, and with which argument.
    fn led_to(func: &Function, index: i64) -> (u32, i64) {
        let number = |arg: Value| {
            let inst = func.dfg.value_def(arg).inst().unwrap();
            let InstructionData::UnaryImm { imm, .. } = func.dfg.insts[inst] else { panic!() };
            imm.bits()
        };
        let pool = &func.dfg.value_lists;
        let mut block = func.layout.entry_block().unwrap();
        loop {
            let insts: Vec<Inst> = func.layout.block_insts(block).collect();
            let last = *insts.last().unwrap();
            let call = match func.dfg.insts[last] {
                InstructionData::Brif { arg, blocks, .. } => {
                    let comparison = func.dfg.value_def(arg).inst().unwrap();
                    let [_, constant] = *func.dfg.inst_args(comparison) else { panic!() };
                    blocks[usize::from(number(constant) != index)]
                }
                InstructionData::Jump { destination, .. } => destination,
                _ => panic!("{}", func.dfg.display_inst(last)),
            };
            let mut args = call.args(pool);
            block = call.block(pool);
            if let Some(arg) = args.next() {
                return (block.as_u32(), number(arg.as_value().unwrap()));
            }
        }
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
        ] {
            let (func, changed) = compared(entries);
            assert!(changed);
            for index in 0..10 {
                let (block, arg) = *entries.get(index).unwrap_or(entries.last().unwrap());
                let expected = (u32::try_from(block).unwrap() + 1, i64::try_from(arg).unwrap());
                assert_eq!(
                    led_to(&func, index.try_into().unwrap()),
                    expected,
                    "{entries:?} {index}"
                );
            }
        }
    }

    #[test]
    fn many_stay_a_table() {
        let (func, changed) = compared(&[(0, 1), (1, 1), (4, 9), (2, 1), (3, 1), (4, 9)]);
        assert!(!changed);
        let entry = func.layout.entry_block().unwrap();
        let last = func.layout.last_inst(entry).unwrap();
        assert_eq!(func.dfg.insts[last].opcode(), Opcode::BrTable);
    }
}
