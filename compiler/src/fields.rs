//! Loads of globals whose value is known already, in functions with loops.
//!
//! The optimiser leaves out loads of what was loaded or stored before, unless something may have been stored there since. Where several ways lead to a
//! block, it asks whether all of them have the same last store. In a loop it begins with what is so before the loop, and does not
//! forget that when it finds that the loop stores or calls something: then it takes each block of the loop where ways meet for one that may
//! come after another store. Code that was made for coroutines by Binaryen's `asyncify`, as TinyGo has it, asks for a global between any
//! two steps, and ways meet after each.
//!
//! Here, what is known of a block follows from the blocks before it alone. This is done once the function is optimised, for globals only: other loads
//! were left out by whoever made the wasm.

use cranelift_codegen::FxHashMap;
use cranelift_codegen::dominator_tree::DominatorTree;
use cranelift_codegen::entity::{EntityRef as _, SecondaryMap};
use cranelift_codegen::flowgraph::ControlFlowGraph;
use cranelift_codegen::ir::{
    AliasRegion, ArgumentPurpose, Block, Function, Inst, InstructionData, Opcode, Type, Value,
};

use crate::translate::accesses_globals;

/// If it is not known after so many rounds what each block begins with, nothing is left out. As many are needed as loops are nested, and two.
const ROUNDS: usize = 12;

/// What was stored last in a region: an instruction, or the block where ways with different ones meet. 0 is what the function began with.
type Version = u32;

/// A field of the vmctx, as it is read, and its region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Field {
    region: AliasRegion,
    offset: i32,
    ty: Type,
}

/// What an instruction does to fields.
enum Access {
    Load(Field),
    /// It stores in a region, and if all of a field, that value.
    Store(AliasRegion, Option<(Field, Value)>),
    /// It may store anywhere.
    Any,
    None,
}

/// Leaves loads out whose result is known. The graphs are those of the function, which is optimised.
pub(crate) fn leave_out(func: &mut Function, cfg: &ControlFlowGraph, domtree: &DominatorTree) {
    if !accesses_globals(func) {
        return;
    }
    let Some(vmctx) = vmctx(func) else { return };
    let regions = loaded_twice(func, vmctx);
    if regions.is_empty() {
        return;
    }
    let order: Vec<Block> = domtree.cfg_rpo().copied().collect();
    if !has_loops(&order, cfg) {
        return;
    }
    let Some(before) = versions(func, vmctx, &order, cfg, &regions) else { return };
    let mut known: FxHashMap<(Field, Version), (Block, Value)> = FxHashMap::default();
    let mut is_changed = false;
    for block in order {
        let mut versions = before[block].clone();
        let mut next = func.layout.first_inst(block);
        while let Some(inst) = next {
            next = func.layout.next_inst(inst);
            let does = access(func, vmctx, inst);
            store(&does, inst, &regions, &mut versions);
            let (field, value) = match does {
                Access::Load(field) => (field, None),
                Access::Store(_, Some((field, value))) => (field, Some(value)),
                Access::Store(_, None) | Access::Any | Access::None => continue,
            };
            let Some(version) = regions.get(&field.region).map(|region| versions[*region]) else {
                continue;
            };
            let here = match value {
                Some(value) => value,
                None => {
                    let result = func.dfg.first_result(inst);
                    if let Some((there, value)) = known.get(&(field, version))
                        && domtree.block_dominates(*there, block)
                    {
                        func.dfg.clear_results(inst);
                        func.dfg.change_to_alias(result, *value);
                        func.layout.remove_inst(inst);
                        is_changed = true;
                        continue;
                    }
                    result
                }
            };
            known.insert((field, version), (block, here));
        }
    }
    if is_changed {
        func.dfg.resolve_all_aliases();
    }
}

fn vmctx(func: &Function) -> Option<Value> {
    let position = func.signature.special_param_index(ArgumentPurpose::VMContext)?;
    func.dfg.block_params(func.layout.entry_block()?).get(position).copied()
}

/// The regions with a field that is loaded more than once, each with a number.
fn loaded_twice(func: &Function, vmctx: Value) -> FxHashMap<AliasRegion, usize> {
    let mut regions = FxHashMap::default();
    // Few functions load many globals.
    let mut seen: Vec<Field> = Vec::new();
    for inst in func.layout.blocks().flat_map(|block| func.layout.block_insts(block)) {
        // Most instructions are none.
        if func.dfg.insts[inst].opcode() == Opcode::Load
            && let Access::Load(field) = access(func, vmctx, inst)
        {
            if seen.contains(&field) {
                let next = regions.len();
                regions.entry(field.region).or_insert(next);
            } else {
                seen.push(field);
            }
        }
    }
    regions
}

/// Whether a block leads to one that is not behind it in an order of all blocks where others come first.
fn has_loops(order: &[Block], cfg: &ControlFlowGraph) -> bool {
    let mut seen: SecondaryMap<Block, bool> = SecondaryMap::new();
    order.iter().any(|block| {
        seen[*block] = true;
        cfg.succ_iter(*block).any(|next| seen[next])
    })
}

/// The version of each region where each block begins; `None` if that takes too long to find out.
fn versions(
    func: &Function,
    vmctx: Value,
    order: &[Block],
    cfg: &ControlFlowGraph,
    regions: &FxHashMap<AliasRegion, usize>,
) -> Option<SecondaryMap<Block, Vec<Version>>> {
    // What each block stores last; 0 if nothing.
    let mut stored: SecondaryMap<Block, Vec<Version>> = SecondaryMap::new();
    for block in order {
        let mut last = vec![0; regions.len()];
        for inst in func.layout.block_insts(*block) {
            store(&access(func, vmctx, inst), inst, regions, &mut last);
        }
        stored[*block] = last;
    }
    let mut before: SecondaryMap<Block, Vec<Version>> = SecondaryMap::new();
    let mut after: SecondaryMap<Block, Vec<Version>> = SecondaryMap::new();
    // Once ways with different versions meet in a block, they do for good: so this ends.
    let mut meet: SecondaryMap<Block, Vec<bool>> = SecondaryMap::with_default(vec![false; regions.len()]);
    for _ in 0..ROUNDS {
        let mut is_changed = false;
        for block in order {
            let mut now = Vec::with_capacity(regions.len());
            for region in 0..regions.len() {
                // Blocks that were not looked at yet do not matter yet.
                let mut ways = cfg
                    .pred_iter(*block)
                    .filter_map(|way| after[way.block].get(region).copied());
                let first = ways.next().unwrap_or(0);
                let is_entry = func.layout.entry_block() == Some(*block);
                if ways.any(|other| other != first) || is_entry && first != 0 {
                    meet[*block][region] = true;
                }
                now.push(if meet[*block][region] { met(*block) } else { first });
            }
            if after[*block].is_empty() || now != before[*block] {
                is_changed = true;
                let pass = |(now, stored): (&Version, &Version)| match *stored {
                    0 => *now,
                    stored => stored,
                };
                after[*block] = now.iter().zip(&stored[*block]).map(pass).collect();
                before[*block] = now;
            }
        }
        if !is_changed {
            return Some(before);
        }
    }
    None
}

/// Notes what an instruction stores.
fn store(
    does: &Access,
    inst: Inst,
    regions: &FxHashMap<AliasRegion, usize>,
    versions: &mut [Version],
) {
    match does {
        Access::Store(region, _) => {
            if let Some(region) = regions.get(region) {
                versions[*region] = by(inst);
            }
        }
        Access::Any => versions.fill(by(inst)),
        Access::Load(_) | Access::None => {}
    }
}

/// The version that an instruction makes.
fn by(inst: Inst) -> Version {
    number(inst.index(), 1)
}

/// The version that a block begins with where ways meet.
fn met(block: Block) -> Version {
    number(block.index(), 2)
}

fn number(index: usize, kind: Version) -> Version {
    // There are less than 2^30 of them in a function: its wasm has no more bytes.
    Version::try_from(index).unwrap_or(Version::MAX >> 2).wrapping_mul(2).wrapping_add(kind)
}

fn access(func: &Function, vmctx: Value, inst: Inst) -> Access {
    let field = |address, flags, offset: i32, ty| {
        let flags = func.dfg.mem_flags[flags];
        let region = flags.alias_region().filter(|_| address == vmctx && !flags.readonly())?;
        Some(Field { region, offset, ty })
    };
    match func.dfg.insts[inst] {
        InstructionData::Load { opcode: Opcode::Load, arg, flags, offset } => {
            let ty = func.dfg.value_type(func.dfg.first_result(inst));
            field(arg, flags, offset.into(), ty).map_or(Access::None, Access::Load)
        }
        InstructionData::Store { opcode, args: [value, address], flags, offset } => {
            let Some(region) = func.dfg.mem_flags[flags].alias_region() else { return Access::Any };
            let ty = func.dfg.value_type(value);
            let field = field(address, flags, offset.into(), ty);
            Access::Store(region, field.filter(|_| opcode == Opcode::Store).zip(Some(value)))
        }
        ref other => {
            let opcode = other.opcode();
            match opcode.is_call() || opcode.can_store() || opcode == Opcode::Fence {
                true => Access::Any,
                false => Access::None,
            }
        }
    }
}
