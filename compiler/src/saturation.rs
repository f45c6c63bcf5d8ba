//! Long computations, cut into pieces that the optimiser can compare.
//!
//! The optimiser knows several ways to compute a value, and takes the one of the least cost. The cost of an instruction is its own and
//! that of its operands: what two operands share counts twice. In a hash function, where each value depends on several of the step
//! before, costs grow by a factor with each step, until they are as large as numbers get. From there on all ways cost the same, and
//! nothing that was found is used.
//!
//! An operand that is the parameter of a block costs nothing. So where costs become too large, the block is cut in two, and what
//! the second part needs of the first is passed to it. When the optimiser is done, such parameters are taken out again: each has one argument.
//!
//! That is worth it where the ways differ: `a & !b` may as well be `(a & b) ^ a`, which takes more instructions. In other
//! functions, it is only in the way of a better order.

use cranelift_codegen::cursor::{Cursor as _, FuncCursor};
use cranelift_codegen::entity::{EntityRef as _, SecondaryMap};
use cranelift_codegen::ir::function::FunctionStencil;
use cranelift_codegen::ir::{
    DataFlowGraph, Function, Inst, InstBuilder as _, InstructionData, Opcode, Value,
};
use cranelift_codegen::isa::TargetIsa;
use cranelift_codegen::{CodegenResult, Context, FxHashMap};

use crate::constants::{integer, is_constant};
use crate::effects::has_effects;

/// Above this, costs are too large. The optimiser's numbers have 32 bits.
const LIMIT: u32 = 1 << 28;

/// The cost of an instruction without its operands, about as the optimiser has it.
const OWN: u32 = 4;

/// Cuts the blocks of the function in the context where costs become too large, if that is worth it. None of its values is an alias. Returns
/// whether it did: then [`join`] is to follow when the function is optimised.
pub(crate) fn cut(context: &mut Context) -> bool {
    if !has_complements(&context.func) || !Costs::default().exceed(&context.func) {
        return false;
    }
    cut_blocks(&mut context.func);
    context.compute_cfg();
    context.compute_domtree();
    true
}

/// Takes out the parameters that pieces were passed.
pub(crate) fn join(context: &mut Context, isa: &dyn TargetIsa) -> CodegenResult<()> {
    context.remove_constant_phis(isa)?;
    context.func.dfg.resolve_all_aliases();
    Ok(())
}

/// What the values of a block cost; nothing, if they are not computed but loaded, passed or the result of a call.
#[derive(Default)]
struct Costs {
    of: SecondaryMap<Value, u32>,
    /// Those that cost something.
    computed: Vec<Value>,
}

impl Costs {
    /// Whether any value of a function costs too much.
    fn exceed(&mut self, func: &Function) -> bool {
        let mut blocks = func.layout.blocks();
        blocks.any(|block| {
            self.forget();
            func.layout.block_insts(block).any(|inst| self.add(&func.dfg, inst) > LIMIT)
        })
    }

    /// Begins with another block.
    fn forget(&mut self) {
        for value in self.computed.drain(..) {
            self.of[value] = 0;
        }
    }

    /// The cost of what an instruction computes.
    fn cost(&self, dfg: &DataFlowGraph, inst: Inst) -> u32 {
        if !is_computed(dfg.insts[inst].opcode()) {
            return 0;
        }
        let operands = dfg.inst_values(inst).map(|operand| self.of[dfg.resolve_aliases(operand)]);
        operands.fold(OWN, u32::saturating_add)
    }

    /// Adds what an instruction computes, and returns its cost.
    fn add(&mut self, dfg: &DataFlowGraph, inst: Inst) -> u32 {
        let cost = self.cost(dfg, inst);
        if cost > 0
            && let &[result] = dfg.inst_results(inst)
        {
            self.of[result] = cost;
            self.computed.push(result);
        }
        cost
    }
}

/// Whether at least one in 32 instructions turns all bits around.
fn has_complements(func: &Function) -> bool {
    let dfg = &func.dfg;
    let is_ones = |value: &Value| matches!(integer(dfg, *value), Some(ones) if ones == -1 || ones == i64::from(u32::MAX));
    // In the order in which they lie, whatever their blocks are: this is asked for each function.
    let insts = (0..dfg.num_insts()).map(|number| &dfg.insts[Inst::new(number)]);
    let complements = insts.filter(|inst| match inst {
        InstructionData::Unary { opcode: Opcode::Bnot, .. } => true,
        InstructionData::Binary { opcode: Opcode::Bxor, args } => args.iter().any(is_ones),
        _ => false,
    });
    complements.count() * 32 >= dfg.num_insts()
}

/// Those that the optimiser has several ways for: without effects. Constants cost too little to count.
fn is_computed(opcode: Opcode) -> bool {
    !has_effects(opcode) && !is_constant(opcode)
}

/// Cuts blocks where costs become too large. No value is an alias.
fn cut_blocks(func: &mut Function) {
    let mut costs = Costs::default();
    let mut next_block = func.layout.entry_block();
    while let Some(block) = next_block {
        next_block = func.layout.next_block(block);
        costs.forget();
        let mut pieces = Pieces::default();
        let mut next_inst = func.layout.first_inst(block);
        while let Some(inst) = next_inst {
            pieces.rename(&mut func.dfg, inst);
            if costs.cost(&func.dfg, inst) > LIMIT {
                pieces.end_before(inst, func, &mut costs);
            }
            costs.add(&func.dfg, inst);
            next_inst = func.layout.next_inst(inst);
            pieces.place += 1;
        }
    }
}

/// What a block is cut into.
#[derive(Default)]
struct Pieces {
    /// The number of the current instruction in the block.
    place: usize,
    /// The parameters that values of earlier pieces are passed in.
    passed: FxHashMap<Value, Value>,
    /// Where values are used for the last time in the block. Known once it is cut.
    last_uses: FxHashMap<Value, usize>,
}

impl Pieces {
    /// Makes an instruction use what is passed.
    fn rename(&self, dfg: &mut DataFlowGraph, inst: Inst) {
        if !self.passed.is_empty() {
            dfg.map_inst_values(inst, |value| self.passed.get(&value).copied().unwrap_or(value));
        }
    }

    /// Ends a piece before an instruction. The next begins with that, in a block of its own, and is passed what has been computed in
    /// this one and is used in the rest.
    fn end_before(&mut self, inst: Inst, func: &mut Function, costs: &mut Costs) {
        let FunctionStencil { dfg, layout, .. } = &mut func.stencil;
        let Some(block) = layout.inst_block(inst) else { return };
        if self.last_uses.is_empty() {
            let users = std::iter::successors(Some(inst), |inst| layout.next_inst(*inst));
            for (place, user) in (self.place..).zip(users) {
                self.last_uses.extend(dfg.inst_values(user).map(|value| (value, place)));
            }
        }
        let rest = dfg.make_block();
        layout.split_block(rest, inst);
        let mut arguments = Vec::new();
        for value in &costs.computed {
            if self.last_uses.get(value).is_some_and(|last| *last >= self.place) {
                let parameter = dfg.append_block_param(rest, dfg.value_type(*value));
                self.passed.insert(*value, parameter);
                arguments.push((*value).into());
            }
        }
        costs.forget();
        FuncCursor::new(func).at_bottom(block).ins().jump(rest, &arguments);
        self.rename(&mut func.dfg, inst);
    }
}

#[cfg(test)]
mod tests {
    use cranelift_codegen::control::ControlPlane;
    use cranelift_codegen::ir::{self, types};
    use cranelift_codegen::settings::{self, Configurable as _, Flags};
    use cranelift_codegen::{isa, verify_function};
    use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

    use super::*;

    /// Optimises in pieces.
    fn optimise(context: &mut Context, isa: &dyn TargetIsa) {
        let mut control = ControlPlane::default();
        context.compute_cfg();
        context.compute_domtree();
        let is_cut = cut(context);
        context.egraph_pass(isa, &mut control).unwrap();
        if is_cut {
            join(context, isa).unwrap();
        }
    }

    /// Steps in a row that each mix words with the complement of one.
    fn mixing(steps: usize) -> Context {
        let mut context = Context::new();
        let mut memory = FunctionBuilderContext::new();
        let signature = &mut context.func.signature;
        signature.params = vec![ir::AbiParam::new(types::I64); 5];
        signature.returns = vec![ir::AbiParam::new(types::I64)];
        let mut builder = FunctionBuilder::new(&mut context.func, &mut memory);
        let entry = builder.create_block();
        builder.append_block_params_for_function_params(entry);
        builder.switch_to_block(entry);
        builder.seal_block(entry);
        let mut words = builder.block_params(entry).to_vec();
        for step in 0..steps {
            let [a, b, c, d] = [0, 1, 2, 3].map(|distance| words[(step + distance) % 5]);
            let ones = builder.ins().iconst(types::I64, -1);
            let complement = builder.ins().bxor(b, ones);
            let chosen = builder.ins().band(complement, c);
            let mixed = builder.ins().bxor(chosen, a);
            let mixed = builder.ins().bxor(mixed, d);
            words[step % 5] = builder.ins().rotl_imm_u(mixed, 13);
        }
        builder.ins().return_(&[words[0]]);
        context
    }

    fn isa() -> isa::OwnedTargetIsa {
        let mut flags = settings::builder();
        flags.set("opt_level", "speed").unwrap();
        let target = "x86_64-unknown-linux-gnu".parse().unwrap();
        isa::lookup(target).unwrap().finish(Flags::new(flags)).unwrap()
    }

    fn count(func: &Function, opcode: Opcode) -> usize {
        let insts = func.layout.blocks().flat_map(|block| func.layout.block_insts(block));
        insts.filter(|inst| func.dfg.insts[*inst].opcode() == opcode).count()
    }

    #[test]
    fn the_optimiser_takes_the_cheapest_way_however_long_the_row_is() {
        let isa = isa();
        let operations = |optimise: fn(&mut Context, &dyn TargetIsa)| {
            let mut context = mixing(400);
            optimise(&mut context, &*isa);
            verify_function(&context.func, &*isa).unwrap();
            let count = |opcode| count(&context.func, opcode);
            (count(Opcode::Bnot), count(Opcode::Band) + count(Opcode::Bxor), context)
        };
        let (complements, others, context) = operations(optimise);
        // But for a few at the ends of pieces.
        assert!(complements > 360 && others < 1230, "{complements} {others}");
        // Nothing is left of how it was cut: each value comes from where it is computed.
        for block in context.func.layout.blocks().skip(1) {
            assert_eq!(context.func.dfg.block_params(block), []);
        }
        // Should this fail, the optimiser has learnt to count, and all of this file can go.
        let (complements, others, _) = operations(|context, isa| {
            context.optimize(isa, &mut ControlPlane::default()).unwrap();
        });
        assert!(complements < 200 && others > 1300, "{complements} {others}");
    }

    #[test]
    fn short_rows_and_rows_without_a_choice_stay_in_one_piece() {
        let isa = isa();
        let blocks = |mut context: Context| {
            optimise(&mut context, &*isa);
            context.func.layout.blocks().count()
        };
        assert_eq!(blocks(mixing(10)), 1);
        let mut context = mixing(400);
        assert!(has_complements(&context.func));
        for inst in (0..context.func.dfg.num_insts()).map(Inst::new) {
            if let InstructionData::UnaryImm { imm, .. } = &mut context.func.dfg.insts[inst] {
                *imm = 5.into();
            }
        }
        assert!(!has_complements(&context.func));
        assert_eq!(blocks(context), 1);
        assert!(blocks(mixing(400)) > 10);
    }
}
