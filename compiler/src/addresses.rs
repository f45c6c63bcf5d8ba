//! SANDBOX-CRITICAL: addresses that are a constant away from an address that was accessed before.
//!
//! Programs add constants to addresses where the compiler that made them did not know whether the sum wraps around, as
//! for the elements of an array: `p + 4` is an `i32.add`, and an instruction of its own before the access, since
//! `base + (p + 4) mod 2^32` is no operand of a processor. But the program accessed what is at `p` before. That did not trap, so
//! `p` is in the memory, and a memory that stays short of all addresses has none within a page of the last
//! ([`stays_short`]). So `p + 4` does not wrap, and what is accessed is `base + p`, with four more in the constant that
//! the instruction has anyway.
//!
//! Where the program goes from higher constants to lower ones, as in `p[2] + p[1]`, what comes later says as much for loads before it, if nothing but
//! loads that can only trap for the same reason are in between: should its operand not be in the memory, the program ends with the same trap, which a backtrace then
//! finds at one of those loads, and nothing that can be seen was done in between.
//!
//! What keeps the access in the sandbox does not rest on that: `index < 2^32` and `offset + size <= GUARD_SIZE` hold
//! for the new index and offset as they did for the old, see `translate/bounds.rs`, whose names are used here.
//!
//! It is done before the optimiser, which then has fewer instructions to look at, and none of these to move out of loops: there each of
//! them took a register, or a place on the stack.

use cranelift_codegen::cursor::{Cursor as _, FuncCursor};
use cranelift_codegen::dominator_tree::DominatorTree;
use cranelift_codegen::entity::{EntityRef as _, EntitySet, SecondaryMap};
use cranelift_codegen::ir::{
    Block, DataFlowGraph, Function, Inst, InstBuilder as _, InstructionData, Opcode, Value, types,
};
use cwasm_artifact::abi::memory::{MemoryStyle, stays_short};
use cwasm_artifact::abi::vmctx::{GUARD_SIZE, memory_slot};
use cwasm_artifact::types::MemoryType;

use crate::constants::{addition, integer, low_half};
use crate::effects::has_effects;
use crate::module::Module;
use crate::settings::MemoryBounds;
use crate::translate::{MAX_ACCESS, vmctx_of};

/// So many additions of constants are taken for one.
const ADDITIONS: usize = 4;

/// So many accesses of one operand, none of which comes after another, are remembered.
const ANCHORS: usize = 16;

/// So many instructions are looked at for accesses that come later.
const AHEAD: usize = 48;

/// The memories that this is done for, by the offset in the vmctx of the field with their base: those of the module itself (one that is
/// imported may begin with all of its pages) which stay short.
pub(crate) fn short_memories(module: &Module<'_>, bounds: MemoryBounds) -> Vec<i32> {
    let explicit = bounds == MemoryBounds::Explicit;
    let own = module.memories.iter().skip(module.imported_memories as usize);
    let short = own.filter(|(_, ty)| {
        stays_short(ty) && MemoryStyle::of(ty, explicit) == MemoryStyle::Reserved
    });
    let field = |memory: u32| module.vmctx.memory(memory) + memory_slot::BASE;
    short.filter_map(|(memory, _)| i32::try_from(field(memory.as_u32())).ok()).collect()
}

/// An access to a memory at an operand, which is `root + constant`, modulo 2^32.
#[derive(Clone, Copy)]
struct Access {
    inst: Inst,
    block: Block,
    /// Which of the memories it is.
    memory: u32,
    base: Value,
    root: Value,
    constant: u32,
    /// `base + operand`, computed without wrapping.
    address: Value,
    offset: u32,
}

/// Makes accesses refer to the address of an earlier one where they can. `memories` are those of [`short_memories`]. Of the function,
/// no value is an alias.
pub(crate) fn share(func: &mut Function, domtree: &DominatorTree, memories: &[i32]) {
    if memories.is_empty() {
        return;
    }
    let mut accesses = accesses(func, memories);
    if accesses.is_empty() {
        return;
    }
    // In this order, blocks come after those that are always passed before them.
    let mut order: SecondaryMap<Block, u32> = SecondaryMap::new();
    order.resize(func.dfg.num_blocks());
    for (place, block) in (0..).zip(domtree.cfg_rpo()) {
        order[*block] = place;
    }
    // Those of one operand together, each after those that come before it.
    let layout = &func.layout;
    accesses.sort_unstable_by(|a, b| {
        let [one, other] = [a, b].map(|access| (access.memory, access.root, order[access.block]));
        one.cmp(&other).then_with(|| layout.pp_cmp(a.inst, b.inst))
    });
    let mut anchors: Vec<Access> = Vec::new();
    for of_one in accesses.chunk_by(|a, b| (a.memory, a.root) == (b.memory, b.root)) {
        anchors.clear();
        for (number, access) in of_one.iter().enumerate() {
            // The first: what comes after it has the same address then, and the optimiser compares addresses.
            let comes_before =
                |anchor: &&Access| domtree.block_dominates(anchor.block, access.block);
            let near = anchors
                .iter()
                .filter(comes_before)
                .find_map(|anchor| Some((anchor.address, offset_from(anchor, access)?)));
            if let Some((address, offset)) = near {
                place(&mut func.dfg, access.inst, address, offset);
            } else if anchors.len() < ANCHORS {
                let lower = lowest_ahead(func, access, &of_one[number + 1..]);
                let anchor = match lower {
                    Some((lower, offset)) => {
                        let address = address(func, access.inst, &lower);
                        place(&mut func.dfg, access.inst, address, offset);
                        Access { address, ..lower }
                    }
                    None => *access,
                };
                anchors.push(anchor);
            }
        }
    }
}

/// The offset of an access from the operand of another that says that this does not wrap around.
fn offset_from(other: &Access, access: &Access) -> Option<u32> {
    let offset = distance(other, access)?.checked_add(access.offset)?;
    (u64::from(offset) <= GUARD_SIZE - u64::from(MAX_ACCESS)).then_some(offset)
}

/// Of those that come after a load in its block, with nothing but loads in between, the one with the lowest operand that the load can
/// be reached from, and the load's offset from there.
fn lowest_ahead(func: &Function, load: &Access, later: &[Access]) -> Option<(Access, u32)> {
    let (dfg, layout) = (&func.dfg, &func.layout);
    if !matches!(dfg.insts[load.inst], InstructionData::Load { .. }) {
        return None;
    }
    let trap = |inst: Inst| dfg.insts[inst].memflags_trap_code(dfg);
    // One that traps for another reason would be a trap of another kind.
    let is_like = |inst: Inst| {
        matches!(dfg.insts[inst], InstructionData::Load { .. })
            && trap(inst).is_none_or(|code| Some(code) == trap(load.inst))
    };
    let mut lowest: Option<(Access, u32)> = None;
    let mut later = later.iter().take_while(|access| access.block == load.block).peekable();
    let mut next = layout.next_inst(load.inst);
    for _ in 0..AHEAD {
        let (Some(inst), Some(_)) = (next, later.peek()) else { break };
        if let Some(access) = later.next_if(|access| access.inst == inst)
            && access.constant != load.constant
            && let Some(offset) = offset_from(access, load)
            && lowest.is_none_or(|(_, lowest)| offset > lowest)
        {
            lowest = Some((*access, offset));
        }
        if has_effects(dfg.insts[inst].opcode()) && !is_like(inst) {
            break;
        }
        next = layout.next_inst(inst);
    }
    lowest
}

/// Computes the address of an access before an instruction.
fn address(func: &mut Function, inst: Inst, access: &Access) -> Value {
    let place = func.srcloc(inst);
    let mut cursor = FuncCursor::new(func).at_inst(inst);
    cursor.set_srcloc(place);
    let operand = match access.constant {
        0 => access.root,
        constant => {
            let constant = cursor.ins().iconst(types::I32, i64::from(constant));
            cursor.ins().iadd(access.root, constant)
        }
    };
    let index = cursor.ins().uextend(types::I64, operand);
    cursor.ins().iadd(access.base, index)
}

/// How far the operand of an access is behind that of another, if no address of 32 bits is passed in between.
///
/// The other one does not trap. So `index + offset + 1 <= length <= 2^32 - PAGE_SIZE`, and `index + distance < 2^32` for all distances up
/// to `PAGE_SIZE + offset`.
fn distance(other: &Access, access: &Access) -> Option<u32> {
    let distance = access.constant.wrapping_sub(other.constant);
    (u64::from(distance) <= MemoryType::PAGE_SIZE + u64::from(other.offset)).then_some(distance)
}

/// The accesses of a function whose operand has a root that constants are added to.
fn accesses(func: &Function, memories: &[i32]) -> Vec<Access> {
    let (dfg, layout) = (&func.dfg, &func.layout);
    let Some(vmctx) = vmctx_of(func) else { return Vec::new() };
    let mut accesses = Vec::new();
    // Roots that something is added to. For others, there is nothing to do.
    let mut added = EntitySet::with_capacity(dfg.num_values());
    // The base that was met last is nearly always that of the next access.
    let mut last = None;
    // In the order in which they lie, whatever their blocks are: this is asked for each function.
    for inst in (0..dfg.num_insts()).map(Inst::new) {
        let (address, offset) = match dfg.insts[inst] {
            InstructionData::Load { arg, offset, .. } => (arg, offset),
            InstructionData::Store { args: [_, arg], offset, .. } => (arg, offset),
            _ => continue,
        };
        let Some([base, index]) = sum(dfg, address) else { continue };
        let memory = match last {
            Some((value, memory)) if value == base => memory,
            _ => {
                let Some(memory) = memory(dfg, base, vmctx, memories) else { continue };
                last = Some((base, memory));
                memory
            }
        };
        let Some(operand) = extended(dfg, index) else { continue };
        let Ok(offset) = u32::try_from(i32::from(offset)) else { continue };
        let (root, constant) = parts(dfg, operand);
        if constant != 0 {
            added.insert(root);
        }
        if accesses.is_empty() {
            // About as many as there are.
            accesses.reserve(dfg.num_insts() / 8);
        }
        // What cannot be reached is in no block.
        let Some(block) = layout.inst_block(inst) else { continue };
        accesses.push(Access { inst, block, memory, base, root, constant, address, offset });
    }
    accesses.retain(|access| added.contains(access.root));
    accesses
}

/// The memory that has this base.
fn memory(dfg: &DataFlowGraph, base: Value, vmctx: Value, memories: &[i32]) -> Option<u32> {
    match dfg.insts[dfg.value_def(base).inst()?] {
        InstructionData::Load { opcode: Opcode::Load, arg, offset, .. } if arg == vmctx => (0..)
            .zip(memories)
            .find_map(|(memory, field)| (*field == i32::from(offset)).then_some(memory)),
        _ => None,
    }
}

/// What is added.
fn sum(dfg: &DataFlowGraph, value: Value) -> Option<[Value; 2]> {
    match dfg.insts[dfg.value_def(value).inst()?] {
        InstructionData::Binary { opcode: Opcode::Iadd, args } => Some(args),
        _ => None,
    }
}

/// What is extended to 64 bits.
fn extended(dfg: &DataFlowGraph, value: Value) -> Option<Value> {
    match dfg.insts[dfg.value_def(value).inst()?] {
        InstructionData::Unary { opcode: Opcode::Uextend, arg } => Some(arg),
        _ => None,
    }
}

/// A value of 32 bits as another one and a constant.
fn parts(dfg: &DataFlowGraph, value: Value) -> (Value, u32) {
    let (mut root, mut constant) = (value, 0_u32);
    for _ in 0..ADDITIONS {
        let next = addition(dfg, root).or_else(|| difference(dfg, root));
        let Some((next, more)) = next else { break };
        root = next;
        // The upper half of a constant of 32 bits says nothing.
        constant = constant.wrapping_add(low_half(more));
    }
    (root, constant)
}

fn difference(dfg: &DataFlowGraph, value: Value) -> Option<(Value, i64)> {
    match dfg.insts[dfg.value_def(value).inst()?] {
        InstructionData::Binary { opcode: Opcode::Isub, args: [left, right] } => {
            Some((left, integer(dfg, right)?.wrapping_neg()))
        }
        _ => None,
    }
}

/// Makes an access refer to an address and an offset.
fn place(dfg: &mut DataFlowGraph, inst: Inst, address: Value, offset: u32) {
    let Ok(offset) = i32::try_from(offset) else { return };
    match &mut dfg.insts[inst] {
        InstructionData::Load { arg, offset: place, .. } => {
            (*arg, *place) = (address, offset.into());
        }
        InstructionData::Store { args: [_, arg], offset: place, .. } => {
            (*arg, *place) = (address, offset.into());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use cranelift_codegen::flowgraph::ControlFlowGraph;
    use cranelift_codegen::ir::{AbiParam, ArgumentPurpose, MemFlagsData, TrapCode};
    use cranelift_codegen::settings::{self, Flags};
    use cranelift_codegen::verify_function;
    use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

    use super::*;

    const FIELD: i32 = 48;
    const PAGE: i32 = 65536;

    /// An access, by the block that it is in: at an operand and a constant, with an offset.
    type Planned = (usize, usize, i32, i32);

    /// What comes after each load.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Behind {
        Nothing,
        /// A store at the same place.
        Store,
        /// A load of something else, with this trap.
        Load(TrapCode),
    }

    /// The same with a store after each load.
    fn shared(accesses: &[Planned], memories: &[i32]) -> Vec<(usize, i32)> {
        shared_with(accesses, memories, Behind::Store)
    }

    /// The offsets of loads from the operand that each refers to now, which is that of the access with a number. Of four blocks, the first branches to the second and
    /// the third, and those lead to the last. There are two operands.
    fn shared_with(accesses: &[Planned], memories: &[i32], behind: Behind) -> Vec<(usize, i32)> {
        let mut func = Function::new();
        let mut memory = FunctionBuilderContext::new();
        let vmctx = AbiParam::special(types::I64, ArgumentPurpose::VMContext);
        func.signature.params = vec![vmctx, AbiParam::new(types::I32), AbiParam::new(types::I32)];
        let mut builder = FunctionBuilder::new(&mut func, &mut memory);
        let blocks = [0; 4].map(|_| builder.create_block());
        builder.append_block_params_for_function_params(blocks[0]);
        builder.switch_to_block(blocks[0]);
        let [vmctx, first, second] = *builder.block_params(blocks[0]) else { panic!() };
        let operands = [first, second];
        let base = builder.ins().load(types::I64, MemFlagsData::trusted(), vmctx, FIELD);
        let mut insts = Vec::new();
        for (number, block) in blocks.into_iter().enumerate() {
            if number > 0 {
                builder.switch_to_block(block);
            }
            for (_, operand, constant, offset) in
                accesses.iter().filter(|access| access.0 == number)
            {
                let mut index = operands[*operand];
                if *constant != 0 {
                    let constant = builder.ins().iconst(types::I32, i64::from(*constant));
                    index = builder.ins().iadd(index, constant);
                }
                let index = builder.ins().uextend(types::I64, index);
                let address = builder.ins().iadd(base, index);
                let flags = MemFlagsData::new();
                let loaded = builder.ins().load(types::I32, flags, address, *offset);
                match behind {
                    Behind::Nothing => {}
                    Behind::Store => {
                        builder.ins().store(flags, loaded, address, *offset);
                    }
                    Behind::Load(trap) => {
                        let flags = flags.with_trap_code(Some(trap));
                        builder.ins().load(types::I64, flags, vmctx, 0);
                    }
                }
                insts.push(builder.func.dfg.value_def(loaded).unwrap_inst());
            }
            match number {
                0 => builder.ins().brif(operands[0], blocks[1], &[], blocks[2], &[]),
                3 => builder.ins().return_(&[]),
                _ => builder.ins().jump(blocks[3], &[]),
            };
        }
        builder.seal_all_blocks();
        let flow = ControlFlowGraph::with_function(&func);
        let domtree = DominatorTree::with_function(&func, &flow);
        share(&mut func, &domtree, memories);
        verify_function(&func, &Flags::new(settings::builder())).unwrap();
        let parts = |address: Value| {
            let [_, index] = sum(&func.dfg, address).unwrap();
            parts(&func.dfg, extended(&func.dfg, index).unwrap())
        };
        let referred = |inst: Inst| {
            let InstructionData::Load { arg, offset, .. } = func.dfg.insts[inst] else { panic!() };
            let next = func.layout.next_inst(inst).unwrap();
            if let InstructionData::Store { args, offset: stored, .. } = func.dfg.insts[next] {
                assert_eq!((args[1], i32::from(stored)), (arg, offset.into()));
            }
            let (root, constant) = parts(arg);
            let is_there = |access: &Planned| {
                operands[access.1] == root && access.2.cast_unsigned() == constant
            };
            (accesses.iter().position(is_there).unwrap(), offset.into())
        };
        insts.into_iter().map(referred).collect()
    }

    #[test]
    fn what_lies_behind_an_access_is_reached_from_its_address() {
        let found =
            shared(&[(0, 0, 8, 4), (0, 0, 12, 0), (0, 0, 8 + PAGE, 0), (0, 0, 8, 2)], &[FIELD]);
        assert_eq!(found, [(0, 4), (0, 4), (0, PAGE), (0, 2)]);
        // The offset of the first is part of what is known to be inside, and not one byte more.
        let found = shared(&[(0, 0, 8, 4), (0, 0, 12 + PAGE, 0), (0, 0, 13 + PAGE, 0)], &[FIELD]);
        assert_eq!(found, [(0, 4), (0, PAGE + 4), (2, 0)]);
        // What lies before may be what wraps around; another operand may lie anywhere.
        let found = shared(&[(0, 0, 8, 4), (0, 0, 7, 0), (0, 1, 8, 0), (0, 0, 0, 0)], &[FIELD]);
        assert_eq!(found, [(0, 4), (1, 0), (2, 0), (3, 0)]);
        // Where a constant wraps around, so does the distance.
        let found = shared(&[(0, 0, -4, 0), (0, 0, 4, 1), (0, 0, 0, 1)], &[FIELD]);
        assert_eq!(found, [(0, 0), (0, 9), (0, 5)]);
    }

    #[test]
    fn what_comes_later_says_as_much_for_loads() {
        let accesses = [(0, 0, 12, 4), (0, 0, 8, 0), (0, 0, 4, 1), (0, 0, 16, 0)];
        let found = shared_with(&accesses, &[FIELD], Behind::Nothing);
        assert_eq!(found, [(2, 12), (2, 4), (2, 1), (2, 12)]);
        // With loads in between that trap for the same reason, but not for another.
        let of_memory = MemFlagsData::new().trap_code().unwrap();
        let found = shared_with(&accesses, &[FIELD], Behind::Load(of_memory));
        assert_eq!(found, [(2, 12), (2, 4), (2, 1), (2, 12)]);
        let other = TrapCode::unwrap_user(77);
        let found = shared_with(&accesses, &[FIELD], Behind::Load(other));
        assert_eq!(found, [(0, 4), (1, 0), (2, 1), (0, 4)]);
        // What is stored before says nothing of what comes after it.
        assert_eq!(shared(&accesses, &[FIELD]), [(0, 4), (1, 0), (2, 1), (0, 4)]);
        // Nor does what is farther away than a page and its offset, or in another block.
        let accesses = [(0, 0, 13 + PAGE, 4), (0, 0, 12, 0), (1, 0, 16, 0), (3, 0, 8, 0)];
        let found = shared_with(&accesses, &[FIELD], Behind::Nothing);
        assert_eq!(found, [(0, 4), (1, 0), (1, 4), (3, 0)]);
    }

    #[test]
    fn what_may_not_have_been_accessed_says_nothing() {
        let found = shared(&[(1, 0, 4, 0), (2, 0, 8, 0), (3, 0, 9, 0)], &[FIELD]);
        assert_eq!(found, [(0, 0), (1, 0), (2, 0)]);
        let found = shared(&[(0, 0, 4, 0), (1, 0, 8, 0), (2, 0, 5, 0), (3, 0, 6, 0)], &[FIELD]);
        assert_eq!(found, [(0, 0), (0, 4), (0, 1), (0, 2)]);
    }

    #[test]
    fn no_access_ends_behind_the_guard() {
        let guard = i32::try_from(GUARD_SIZE).unwrap();
        let most = guard - MAX_ACCESS.cast_signed();
        let found = shared(&[(0, 0, 4, 0), (0, 0, 14, most - 10), (0, 0, 15, most - 10)], &[FIELD]);
        assert_eq!(found, [(0, 0), (0, most), (2, most - 10)]);
    }

    #[test]
    fn other_memories_are_left_alone() {
        let accesses = [(0, 0, 4, 0), (0, 0, 8, 0)];
        assert_eq!(shared(&accesses, &[FIELD]), [(0, 0), (0, 4)]);
        assert_eq!(shared(&accesses, &[FIELD - 8, FIELD + 8]), [(0, 0), (1, 0)]);
        assert_eq!(shared(&accesses, &[]), [(0, 0), (1, 0)]);
    }
}
