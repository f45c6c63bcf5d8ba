//! Bytes of constants, stored as constants.
//!
//! An instruction that stores can have the constant in itself. The code generator writes it so for whole values; of a byte of a number of 32
//! bits, as `i32.store8` stores it, it does not know it, and makes the number in a register before. In a loop, that is in each turn.

use cranelift_codegen::FxHashMap;
use cranelift_codegen::cursor::{Cursor as _, FuncCursor};
use cranelift_codegen::entity::EntityRef as _;
use cranelift_codegen::ir::{
    Block, Function, Inst, InstBuilder as _, InstructionData, Opcode, Value, types,
};

use crate::constants::integer;

/// More stores in a block share a register, since each takes a byte for the constant.
const SHARED: usize = 3;

/// Stores such bytes as constants. The function is optimised: before, fewer constants would be known.
pub(crate) fn store_constants(func: &mut Function) {
    let mut stores: FxHashMap<(Block, Value), Vec<(Inst, i64)>> = FxHashMap::default();
    for inst in (0..func.dfg.num_insts()).map(Inst::new) {
        let InstructionData::Store { opcode: Opcode::Istore8, args: [value, _], .. } =
            func.dfg.insts[inst]
        else {
            continue;
        };
        if let Some(number) = integer(&func.dfg, value)
            && let Some(block) = func.layout.inst_block(inst)
        {
            stores.entry((block, value)).or_default().push((inst, number));
        }
    }
    let mut few: Vec<(Inst, i64)> =
        stores.into_values().filter(|stores| stores.len() < SHARED).flatten().collect();
    few.sort_unstable_by_key(|(inst, _)| inst.as_u32());
    for (inst, number) in few {
        let InstructionData::Store { args: [_, address], flags, offset, .. } = func.dfg.insts[inst]
        else {
            continue;
        };
        let mut cursor = FuncCursor::new(func).at_inst(inst);
        let byte = cursor.ins().iconst(types::I8, number & 0xff);
        cursor.func.replace(inst).Store(Opcode::Store, types::I8, flags, offset, byte, address);
    }
}
