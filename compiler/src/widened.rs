//! SANDBOX-CRITICAL: indices that loops carry from turn to turn, in 64 bits.
//!
//! An index has 32 bits, and an address is computed from it, made longer. Of what was just computed, the processor cleared the upper
//! half already, and that costs nothing; but of what a loop passes to its next turn the code generator does not know it, and writes
//! a move for each. So here the longer one is passed on, for which nothing has to be known: it is made longer before, in either case.
//!
//! A count and a constant are no operand of an access, as their sum could wrap around in 32 bits. Where the loop counts from one constant to another, and the
//! sum does not, what is passed on is the number that the count is the lower half of ([`Range`](crate::ranges::Range)), and the sum is computed in 64
//! bits: an operand of the access. So it is where every way into a turn compared what it passes on with a constant, or computed it from little enough. It is the same number, as [`Bounds::distance`] says, and so the index stays below 2^32, as
//! `translate/bounds.rs` relies on. Were it another, an access could leave the sandbox.

use cranelift_codegen::cursor::{Cursor as _, FuncCursor};
use cranelift_codegen::dominator_tree::DominatorTree;
use cranelift_codegen::entity::EntityRef as _;
use cranelift_codegen::flowgraph::ControlFlowGraph;
use cranelift_codegen::ir::{
    Block, DataFlowGraph, Function, Inst, InstBuilder as _, InstructionData, Opcode, Value,
    ValueDef, types,
};
use cranelift_codegen::{FxHashMap, FxHashSet};

use crate::constants::{addition, integer, low_half};
use crate::counted::{Counted, Counts, most_passed};
use crate::edges::{edges_to, is_small_loop};
use crate::ranges::Bounds;
use crate::scaled::{MAX_DEPTH, most};

/// Passes such indices on in 64 bits. The function is optimised: before, there would be more to look at.
pub(crate) fn widen(func: &mut Function, flow: &ControlFlowGraph, domtree: &DominatorTree) {
    let indices = indices(func);
    if indices.is_empty() {
        return;
    }
    let mut found = parameters(func, flow, domtree, &indices);
    retain_free(&func.dfg, &mut found);
    if found.is_empty() {
        return;
    }
    let longs: Vec<Value> =
        found.iter().map(|it| func.dfg.replace_block_param(it.value, types::I64)).collect();
    // Of a count below zero, the number is another than that of the index.
    let of_others: FxHashMap<Value, Value> = found
        .iter()
        .zip(&longs)
        .filter(|(parameter, _)| parameter.ways.bounds().are_unsigned())
        .map(|(parameter, long)| (parameter.value, *long))
        .collect();
    let mut sums = FxHashMap::default();
    for (parameter, long) in found.iter().zip(longs) {
        let indices = indices.get(&parameter.value).map_or(&[][..], Vec::as_slice);
        parameter.widen(func, flow, long, &of_others, indices, &mut sums);
    }
    add_in_accesses(func, &sums);
    func.dfg.resolve_all_aliases();
}

/// A value that is made of a parameter by adding a constant, and making it longer.
#[derive(Clone, Copy)]
struct Index {
    inst: Inst,
    added: u32,
}

/// All of them, by their parameters.
fn indices(func: &Function) -> FxHashMap<Value, Vec<Index>> {
    let dfg = &func.dfg;
    let mut indices: FxHashMap<Value, Vec<Index>> = FxHashMap::default();
    for inst in (0..dfg.num_insts()).map(Inst::new) {
        let InstructionData::Unary { opcode: Opcode::Uextend, arg } = dfg.insts[inst] else {
            continue;
        };
        if func.layout.inst_block(inst).is_none()
            || dfg.value_type(dfg.first_result(inst)) != types::I64
            || dfg.value_type(arg) != types::I32
        {
            continue;
        }
        let arg = dfg.resolve_aliases(arg);
        let (of, added) = addition(dfg, arg).unwrap_or((arg, 0));
        let added = low_half(added);
        if matches!(dfg.value_def(of), ValueDef::Param(..)) {
            indices.entry(of).or_default().push(Index { inst, added });
        }
    }
    indices
}

/// A parameter that is passed on in 64 bits.
struct Parameter {
    value: Value,
    header: Block,
    number: usize,
    ways: Ways,
}

/// How a parameter gets its values.
enum Ways {
    /// From wherever, within bounds, and by the ways back, these.
    Any(Vec<Value>, Bounds),
    /// By counting.
    Counted(Counted),
}

impl Ways {
    /// What to add to the longer value so that it is an index.
    fn distance(&self, index: Index) -> Option<i64> {
        // An access takes 32 bits.
        self.bounds().distance(index.added).filter(|distance| i32::try_from(*distance).is_ok())
    }

    fn bounds(&self) -> Bounds {
        match self {
            Self::Any(_, bounds) => *bounds,
            Self::Counted(it) => it.range.bounds,
        }
    }
}

/// The parameters of all loops by which an access would save something; for which nothing has to be known, only of small ones. Where many values are
/// kept, the move was a chance to have the longer one in another register, for a while: without it, a function of 16 KB got 8% longer.
fn parameters(
    func: &Function,
    flow: &ControlFlowGraph,
    domtree: &DominatorTree,
    indices: &FxHashMap<Value, Vec<Index>>,
) -> Vec<Parameter> {
    let mut found = Vec::new();
    // The most that parameters can be.
    let mut known: FxHashMap<Value, u32> = FxHashMap::default();
    for header in func.layout.blocks() {
        let goes_back = |from| domtree.block_dominates(header, from);
        let parameters = func.dfg.block_params(header);
        if !parameters.iter().any(|value| indices.contains_key(value))
            || !flow.pred_iter(header).any(|way| goes_back(way.block))
        {
            continue;
        }
        let counts = Counts::of(func, flow, header);
        let is_small = is_small_loop(func, flow, header);
        for (number, value) in parameters.iter().enumerate() {
            let Some(indices) = indices.get(value) else { continue };
            let is_used = |ways: &Ways| indices.iter().any(|it| ways.distance(*it).is_some());
            let most_computed = |value| {
                let most = most(&func.dfg, value, MAX_DEPTH, &|it| known.get(&it).copied());
                u32::try_from(most).unwrap_or(u32::MAX)
            };
            let by_counting = || counts.as_ref()?.get(func, number).map(Ways::Counted);
            let by_any = || {
                if !is_small {
                    return None;
                }
                let mut back = Vec::new();
                let mut most = 0;
                for (from, edge) in edges_to(func, flow, header) {
                    let passed = edge.passed(&func.dfg, number)?;
                    let by_comparison = most_passed(&func.dfg, edge, number).unwrap_or(u32::MAX);
                    most = most.max(by_comparison.min(most_computed(passed)));
                    if goes_back(from) {
                        back.push(passed);
                    }
                }
                Some(Ways::Any(back, Bounds::up_to(most)))
            };
            let ways = by_counting().filter(is_used).or_else(|| by_any().filter(is_used));
            if let Some(ways) = ways {
                known.insert(*value, ways.bounds().most());
                found.push(Parameter { value: *value, header, number, ways });
            }
        }
    }
    found
}

/// After so many rounds, the rest is given up. What takes more passes a value on from one loop to the next, over and over.
const ROUNDS: usize = 8;

/// Retains the parameters that cost nothing on a way back, as they are made longer already.
fn retain_free(dfg: &DataFlowGraph, found: &mut Vec<Parameter>) {
    for round in 0.. {
        let before = found.len();
        let others: FxHashSet<Value> = match round < ROUNDS {
            true => {
                let unsigned = found.iter().filter(|it| it.ways.bounds().are_unsigned());
                unsigned.map(|it| it.value).collect()
            }
            false => FxHashSet::default(),
        };
        found.retain(|parameter| match &parameter.ways {
            Ways::Any(back, _) => {
                back.iter().all(|value| others.contains(value) || is_long(dfg, *value))
            }
            Ways::Counted(_) => true,
        });
        if found.len() == before || round == ROUNDS {
            return;
        }
    }
}

/// Whether what computes a value clears the upper half of the register that it is in, as the code generator knows.
fn is_long(dfg: &DataFlowGraph, value: Value) -> bool {
    use Opcode::{Band, Bor, Bxor, Iadd, Iconst, Imul, Ishl, Isub, Ushr};
    dfg.value_def(value).inst().is_some_and(|inst| {
        matches!(
            dfg.insts[inst].opcode(),
            Band | Bor | Bxor | Iadd | Iconst | Imul | Ishl | Isub | Ushr
        )
    })
}

impl Parameter {
    /// Passes the longer one on, which is in the place of the parameter already, and lets the indices that are made of it use it. Of others, the longer ones
    /// are given that are no more than made longer.
    fn widen(
        &self,
        func: &mut Function,
        flow: &ControlFlowGraph,
        long: Value,
        of_others: &FxHashMap<Value, Value>,
        indices: &[Index],
        sums: &mut FxHashMap<Value, Sum>,
    ) {
        let mut cursor = FuncCursor::new(func).at_first_inst(self.header);
        let short = cursor.ins().ireduce(types::I32, long);
        cursor.func.dfg.change_to_alias(self.value, short);
        let next = match &self.ways {
            Ways::Any(..) => None,
            Ways::Counted(counted) => Some((counted, count_long(func, counted, long))),
        };
        for (_, edge) in edges_to(func, flow, self.header) {
            let Some(passed) = edge.passed(&func.dfg, self.number) else { continue };
            let mut cursor = FuncCursor::new(func).at_inst(edge.branch);
            let passed = match next {
                Some((counted, next)) if counted.latch == edge => next,
                Some((counted, _)) => cursor.ins().iconst(types::I64, counted.range.start),
                None => match (of_others.get(&passed), integer(&cursor.func.dfg, passed)) {
                    (Some(long), _) => *long,
                    (None, Some(number)) => {
                        cursor.ins().iconst(types::I64, i64::from(low_half(number)))
                    }
                    (None, None) => cursor.ins().uextend(types::I64, passed),
                },
            };
            edge.pass(&mut func.dfg, self.number, passed);
        }
        for index in indices {
            let Some(distance) = self.ways.distance(*index) else { continue };
            if distance == 0 {
                let dfg = &mut func.dfg;
                let result = dfg.first_result(index.inst);
                dfg.detach_inst_results(index.inst);
                dfg.change_to_alias(result, long);
                func.layout.remove_inst(index.inst);
            } else {
                let mut cursor = FuncCursor::new(func).at_inst(index.inst);
                let constant = cursor.ins().iconst(types::I64, distance);
                let sum = cursor.func.replace(index.inst).iadd(long, constant);
                sums.insert(sum, Sum { long, distance });
            }
        }
    }
}

/// Computes the next count in 64 bits, and asks whether it is zero there as well, where that is asked: only the last one is, of those
/// with a lower half of zero. Returns it.
fn count_long(func: &mut Function, counted: &Counted, long: Value) -> Value {
    let mut cursor = FuncCursor::new(func).at_inst(counted.next);
    let step = cursor.ins().iconst(types::I64, counted.range.step);
    let next = cursor.ins().iadd(long, step);
    cursor.func.replace(counted.next).ireduce(types::I32, next);
    if let Some(branch) = counted.asks_for_zero {
        func.dfg.inst_args_mut(branch)[0] = next;
    }
    next
}

/// An index in 64 bits that is a sum.
#[derive(Clone, Copy)]
struct Sum {
    long: Value,
    distance: i64,
}

/// Lets accesses to the sum of something and such an index have its constant as part of their offset: the address stays the same number. Where a load is
/// part of another instruction, the code generator takes no constant from elsewhere.
fn add_in_accesses(func: &mut Function, sums: &FxHashMap<Value, Sum>) {
    if sums.is_empty() {
        return;
    }
    let mut addresses: FxHashMap<Value, Value> = FxHashMap::default();
    for inst in (0..func.dfg.num_insts()).map(Inst::new) {
        let (address, offset) = match func.dfg.insts[inst] {
            InstructionData::Load { arg, offset, .. } => (arg, offset),
            InstructionData::Store { args: [_, address], offset, .. } => (address, offset),
            _ => continue,
        };
        let Some(added) = func.dfg.value_def(address).inst() else { continue };
        let InstructionData::Binary { opcode: Opcode::Iadd, args: [a, b] } = func.dfg.insts[added]
        else {
            continue;
        };
        let (sum, other) = match (sums.get(&a), sums.get(&b)) {
            (Some(sum), _) => (*sum, b),
            (None, Some(sum)) => (*sum, a),
            (None, None) => continue,
        };
        let all = i64::from(offset).checked_add(sum.distance);
        let Some(all) = all.and_then(|all| i32::try_from(all).ok()) else { continue };
        if func.layout.inst_block(inst).is_none() {
            continue;
        }
        let new = *addresses
            .entry(address)
            .or_insert_with(|| FuncCursor::new(func).at_inst(added).ins().iadd(other, sum.long));
        match &mut func.dfg.insts[inst] {
            InstructionData::Load { arg, offset, .. } => {
                (*arg, *offset) = (new, all.into());
            }
            InstructionData::Store { args: [_, address], offset, .. } => {
                (*address, *offset) = (new, all.into());
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
