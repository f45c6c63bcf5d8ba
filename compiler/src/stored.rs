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

#[cfg(test)]
mod tests {
    use cranelift_codegen::ir::{AbiParam, MemFlagsData};
    use cranelift_codegen::settings::{self, Flags};
    use cranelift_codegen::verify_function;
    use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

    use super::*;

    /// What is stored then, if so many bytes of a number are: the bytes that are constants.
    fn stored(number: Option<i64>, count: i32) -> Vec<i64> {
        let mut func = Function::new();
        func.signature.params.extend([types::I64, types::I32].map(AbiParam::new));
        let mut memory = FunctionBuilderContext::new();
        let mut builder = FunctionBuilder::new(&mut func, &mut memory);
        let entry = builder.create_block();
        builder.append_block_params_for_function_params(entry);
        builder.switch_to_block(entry);
        builder.seal_block(entry);
        let [base, parameter] = *builder.block_params(entry) else { panic!() };
        let value = match number {
            Some(number) => builder.ins().iconst(types::I32, number),
            None => parameter,
        };
        for offset in 0..count {
            builder.ins().istore8(MemFlagsData::new(), value, base, offset);
        }
        builder.ins().return_(&[]);
        store_constants(&mut func);
        verify_function(&func, &Flags::new(settings::builder())).unwrap();
        let mut offsets = 0..;
        let mut stored = Vec::new();
        for inst in func.layout.block_insts(entry) {
            if let InstructionData::Store { opcode, args: [value, address], offset, .. } =
                func.dfg.insts[inst]
            {
                assert_eq!((address, Some(i32::from(offset))), (base, offsets.next()));
                if opcode == Opcode::Store {
                    assert_eq!(func.dfg.value_type(value), types::I8);
                    stored.push(integer(&func.dfg, value).unwrap());
                }
            }
        }
        assert_eq!(offsets.next(), Some(count));
        stored
    }

    #[test]
    fn few_bytes_of_a_constant_are_constants() {
        assert_eq!(stored(Some(0), 1), [0]);
        assert_eq!(stored(Some(0x1a5), 2), [0xa5, 0xa5]);
        assert_eq!(stored(Some(0), 3), []);
        assert_eq!(stored(None, 1), []);
    }
}
