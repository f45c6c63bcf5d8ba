//! The edges of a function's graph, and what they pass for the parameters of blocks: above all those that lead back, from one turn of a loop to the next.

use cranelift_codegen::dominator_tree::DominatorTree;
use cranelift_codegen::flowgraph::ControlFlowGraph;
use cranelift_codegen::ir::{Block, BlockArg, DataFlowGraph, Function, Inst, Value, ValueDef};

/// One of the destinations of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edge {
    pub(crate) branch: Inst,
    pub(crate) number: usize,
}

impl Edge {
    /// The block that it leads to.
    pub(crate) fn target(self, dfg: &DataFlowGraph) -> Option<Block> {
        let destinations =
            dfg.insts[self.branch].branch_destination(&dfg.jump_tables, &dfg.exception_tables);
        Some(destinations.get(self.number)?.block(&dfg.value_lists))
    }

    /// The value that it passes for a parameter of its target, if that is not what a call returns.
    pub(crate) fn passed(self, dfg: &DataFlowGraph, parameter: usize) -> Option<Value> {
        let destinations =
            dfg.insts[self.branch].branch_destination(&dfg.jump_tables, &dfg.exception_tables);
        destinations.get(self.number)?.args(&dfg.value_lists).nth(parameter)?.as_value()
    }

    /// Passes another value.
    pub(crate) fn pass(self, dfg: &mut DataFlowGraph, parameter: usize, value: Value) {
        let destinations = dfg.insts[self.branch]
            .branch_destination_mut(&mut dfg.jump_tables, &mut dfg.exception_tables);
        let Some(destination) = destinations.get_mut(self.number) else { return };
        let mut numbers = 0..;
        destination.update_args(&mut dfg.value_lists, |other| {
            match numbers.next() == Some(parameter) {
                true => BlockArg::Value(value),
                false => other,
            }
        });
    }
}

/// The edges of a branch that lead to a block.
pub(crate) fn edges_from(
    dfg: &DataFlowGraph,
    branch: Inst,
    to: Block,
) -> impl Iterator<Item = Edge> {
    let destinations =
        dfg.insts[branch].branch_destination(&dfg.jump_tables, &dfg.exception_tables);
    let leads = move |number: &usize| destinations[*number].block(&dfg.value_lists) == to;
    (0..destinations.len()).filter(leads).map(move |number| Edge { branch, number })
}

/// The edge of a branch that leads to a block, if only one does.
pub(crate) fn only_edge(dfg: &DataFlowGraph, branch: Inst, to: Block) -> Option<Edge> {
    let mut edges = edges_from(dfg, branch, to);
    edges.next().filter(|_| edges.next().is_none())
}

/// All edges that lead to a block, each with the block that it comes from.
pub(crate) fn edges_to(func: &Function, flow: &ControlFlowGraph, to: Block) -> Vec<(Block, Edge)> {
    flow.pred_iter(to)
        .flat_map(|way| edges_from(&func.dfg, way.inst, to).map(move |edge| (way.block, edge)))
        .collect()
}

/// A value that a loop passes on from turn to turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PassedBack {
    /// The block at whose end the turn may end.
    pub(crate) latch: Block,
    pub(crate) parameter: Value,
    pub(crate) value: Value,
}

/// All of them, in the order of the blocks in which turns end.
pub(crate) fn passed_back(func: &Function, domtree: &DominatorTree) -> Vec<PassedBack> {
    let (dfg, layout) = (&func.dfg, &func.layout);
    let mut all = Vec::new();
    for latch in layout.blocks() {
        let Some(branch) = layout.last_inst(latch) else { continue };
        let targets = dfg.insts[branch].branch_destination(&dfg.jump_tables, &dfg.exception_tables);
        for call in targets {
            let header = call.block(&dfg.value_lists);
            let parameters = dfg.block_params(header);
            if parameters.is_empty() || !domtree.block_dominates(header, latch) {
                continue;
            }
            let values = call.args(&dfg.value_lists).map(|argument| argument.as_value());
            all.extend(parameters.iter().zip(values).filter_map(|(parameter, value)| {
                Some(PassedBack { latch, parameter: *parameter, value: value? })
            }));
        }
    }
    all
}

/// A loop of more instructions has more to do in a turn than what a pass could save.
const SMALL: usize = 64;

/// Whether a block is a small loop by itself.
pub(crate) fn is_small_loop(func: &Function, flow: &ControlFlowGraph, block: Block) -> bool {
    flow.succ_iter(block).any(|next| next == block)
        && func.layout.block_insts(block).nth(SMALL).is_none()
}

/// Whether a value comes from a block: from an instruction, or as a parameter.
pub(crate) fn is_from(func: &Function, value: Value, block: Block) -> bool {
    match func.dfg.value_def(value) {
        ValueDef::Result(inst, _) => func.layout.inst_block(inst) == Some(block),
        ValueDef::Param(of, _) => of == block,
        ValueDef::Union(..) => false,
    }
}
