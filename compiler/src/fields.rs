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

use cranelift_codegen::dominator_tree::DominatorTree;
use cranelift_codegen::entity::{EntityRef as _, SecondaryMap};
use cranelift_codegen::flowgraph::ControlFlowGraph;
use cranelift_codegen::ir::{
    AliasRegion, Block, Function, Inst, InstructionData, Opcode, Type, Value,
};
use cranelift_codegen::{FxHashMap, FxHashSet};

use crate::translate::{accesses_globals, vmctx_of};

/// If it is not known after so many rounds what each block begins with, nothing is left out. As many are needed as loops are nested, and two.
const ROUNDS: usize = 12;

/// Nor is anything in a function with more blocks times regions, for which memory is needed. Binaryen's largest have some thousands.
const MOST: usize = 1 << 18;

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
    let Some(vmctx) = vmctx_of(func) else { return };
    let regions = loaded_twice(func, vmctx);
    if regions.is_empty() {
        return;
    }
    let order: Vec<Block> = domtree.cfg_rpo().copied().collect();
    if order.len().saturating_mul(regions.len()) > MOST || !has_loops(&order, cfg) {
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

/// The regions with a field that is loaded more than once, each with a number.
fn loaded_twice(func: &Function, vmctx: Value) -> FxHashMap<AliasRegion, usize> {
    let mut regions = FxHashMap::default();
    let mut seen: FxHashSet<Field> = FxHashSet::default();
    for inst in func.layout.blocks().flat_map(|block| func.layout.block_insts(block)) {
        // Most instructions are none.
        if func.dfg.insts[inst].opcode() == Opcode::Load
            && let Access::Load(field) = access(func, vmctx, inst)
            && !seen.insert(field)
        {
            let next = regions.len();
            regions.entry(field.region).or_insert(next);
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
    let mut meet: SecondaryMap<Block, Vec<bool>> =
        SecondaryMap::with_default(vec![false; regions.len()]);
    for _ in 0..ROUNDS {
        let mut is_changed = false;
        for block in order {
            let mut now = Vec::with_capacity(regions.len());
            for region in 0..regions.len() {
                // Blocks that were not looked at yet do not matter yet.
                let mut ways =
                    cfg.pred_iter(*block).filter_map(|way| after[way.block].get(region).copied());
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

#[cfg(test)]
mod tests {
    use cranelift_codegen::Context;
    use cranelift_codegen::ir::{
        AbiParam, AliasRegionData, ArgumentPurpose, InstBuilder as _, MemFlagsData, Signature,
        types,
    };
    use cranelift_codegen::isa::CallConv;
    use cranelift_codegen::settings::{self, Flags};
    use cranelift_codegen::verify_function;
    use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

    use super::*;

    /// What a block does, in a loop of which ways meet in the last: `a` and `b` load a global, `A` and `B` store in it, `M` stores in memory, `C` calls.
    struct Loop<'a> {
        before: &'a str,
        first: &'a str,
        left: &'a str,
        right: &'a str,
        last: &'a str,
    }

    /// What is left of the loads of each block.
    fn left(does: &Loop<'_>) -> String {
        let mut context = Context::new();
        let func = &mut context.func;
        func.signature.params = vec![
            AbiParam::special(types::I64, ArgumentPurpose::VMContext),
            AbiParam::new(types::I32),
        ];
        let mut region = |number| {
            let description = "a region".into();
            func.dfg.alias_regions.insert(AliasRegionData { user_id: number, description })
        };
        let regions = [region(1), region(0x100), region(0x101)];
        let mut memory = FunctionBuilderContext::new();
        let mut builder = FunctionBuilder::new(func, &mut memory);
        let blocks @ [entry, first, left, right, last] = [0; 5].map(|_| builder.create_block());
        builder.append_block_params_for_function_params(entry);
        let [vmctx, number] = *builder.block_params(entry) else { panic!() };
        let callee = builder.import_signature(Signature::new(CallConv::SystemV));
        let texts = [does.before, does.first, does.left, does.right, does.last];
        for (block, text) in blocks.into_iter().zip(texts) {
            builder.switch_to_block(block);
            for step in text.chars() {
                let global = usize::from(step.eq_ignore_ascii_case(&'b'));
                let place = i32::try_from(64 + 16 * global).unwrap();
                let flags = MemFlagsData::trusted().with_alias_region(Some(regions[1 + global]));
                match step {
                    'a' | 'b' => {
                        builder.ins().load(types::I32, flags, vmctx, place);
                    }
                    'A' | 'B' => {
                        builder.ins().store(flags, number, vmctx, place);
                    }
                    'M' => {
                        let flags = MemFlagsData::new().with_alias_region(Some(regions[0]));
                        builder.ins().store(flags, number, vmctx, 1000);
                    }
                    'C' => {
                        builder.ins().call_indirect(callee, vmctx, &[]);
                    }
                    _ => panic!("{step}"),
                }
            }
            if block == entry {
                builder.ins().jump(first, &[]);
            } else if block == first {
                builder.ins().brif(number, left, &[], right, &[]);
            } else if block == last {
                let exit = builder.create_block();
                builder.ins().brif(number, first, &[], exit, &[]);
                builder.switch_to_block(exit);
                builder.ins().return_(&[]);
            } else {
                builder.ins().jump(last, &[]);
            }
        }
        builder.seal_all_blocks();
        context.compute_cfg();
        context.compute_domtree();
        let Context { func, cfg, domtree, .. } = &mut context;
        leave_out(func, cfg, domtree);
        verify_function(func, &Flags::new(settings::builder())).unwrap();
        let loads = |block| {
            let insts = func.layout.block_insts(block);
            let places = insts.filter_map(|inst| match func.dfg.insts[inst] {
                InstructionData::Load { offset, .. } => Some(i32::from(offset)),
                _ => None,
            });
            places.map(|place| if place == 64 { 'a' } else { 'b' }).collect::<String>()
        };
        blocks.map(loads).join(" ")
    }

    #[test]
    fn what_is_known_is_not_loaded() {
        let usual = Loop { before: "", first: "a", left: "a", right: "M", last: "a" };
        // Nothing stores in it.
        assert_eq!(left(&usual), " a   ");
        assert_eq!(left(&Loop { before: "a", ..usual }), "a    ");
        // The call at the end is before the next turn, and not between.
        assert_eq!(left(&Loop { last: "aC", before: "a", ..usual }), "a a   ");
        // One way calls, so it is not known where they meet, but from there on.
        assert_eq!(left(&Loop { right: "C", last: "aaa", ..usual }), " a   a");
        assert_eq!(left(&Loop { right: "aCa", last: "aba", ..usual }), " a  a ab");
        // What is stored is known, and as what, only where that comes before.
        assert_eq!(left(&Loop { first: "A", last: "aB", ..usual }), "    ");
        assert_eq!(left(&Loop { right: "Aa", last: "a", ..usual }), " a   a");
        // Another global.
        assert_eq!(left(&Loop { before: "ab", left: "B", last: "ab", ..usual }), "ab    b");
    }
}
