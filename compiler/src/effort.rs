//! How much effort goes into the code of a function, so that its cost grows with its size.
//!
//! Two steps of the code generator take more than linear time for functions of a shape that people
//! seldom write, and attackers easily do:
//!
//! * The optimiser asks for each operand which of the loops around it the operand belongs to. That
//!   costs the square of the depth of the loops.
//! * The allocator of registers looks for a block's parameters among all that are passed in the
//!   function. That may cost the number of parameters times the number of arguments.
//!
//! What they would cost is counted beforehand, and a function for which it is too much goes without
//! the optimiser, or gets its registers in a single pass, or both if it is the optimiser. The intermediate form alone decides, so
//! code does not depend on the machine that compiles, and code that is used again is what
//! would be generated.

use cranelift_codegen::Context;
use cranelift_codegen::entity::{EntitySet, SecondaryMap};
use cranelift_codegen::flowgraph::ControlFlowGraph;
use cranelift_codegen::ir::{Block, Function, Value};
use cranelift_codegen::loop_analysis::Loop;

/// Up to here, the optimiser's questions about loops take less than a second.
const LOOPS: u64 = 1_000_000_000;

/// Up to here, the searches for parameters take less than a second.
const SEARCHES: u64 = 400_000_000;

/// If they may be more than that, nobody looks whether they will. They take less than a minute.
const SEARCHES_AT_MOST: u64 = 20_000_000_000;

/// What is done for the code of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Effort {
    /// Whether it is optimised as the settings say, or not at all.
    pub(crate) optimise: bool,
    /// Whether the allocator of registers may revise what it did.
    pub(crate) revise: bool,
}

impl Effort {
    /// What nearly all functions get.
    pub(crate) const FULL: Self = Self { optimise: true, revise: true };

    /// What the function in the context gets.
    pub(crate) fn of(context: &mut Context) -> Self {
        let optimise = loops(context) <= LOOPS;
        // Of loops in thousands of loops, the allocator keeps tables whose keys collide, which nothing that is counted here tells.
        Self { optimise, revise: optimise && searches(context) <= SEARCHES }
    }
}

/// The instructions, each as often as the square of the number of loops around it.
fn loops(context: &mut Context) -> u64 {
    let dfg = &context.func.dfg;
    let (blocks, instructions) = (dfg.num_blocks() as u64, dfg.num_insts() as u64);
    let most = |loops: u64| loops.saturating_mul(loops).saturating_mul(instructions);
    // There are not more loops than blocks, or blocks that something leads back to. Nearly all functions need no closer look.
    if most(blocks) <= LOOPS {
        return most(blocks);
    }
    let headers = headers(&context.func);
    if most(headers) <= LOOPS {
        return most(headers);
    }
    context.flowgraph();
    context.compute_loop_analysis();
    let depths = depths(context);
    let layout = &context.func.layout;
    layout.blocks().fold(0, |sum: u64, block| {
        let Some(innermost) = context.loop_analysis.innermost_loop(block) else { return sum };
        let depth = depths[innermost];
        let here = layout.block_insts(block).count() as u64;
        sum.saturating_add(depth.saturating_mul(depth).saturating_mul(here))
    })
}

/// How many blocks a block leads to that is not before them. A loop has such a block, as the translator begins
/// with it, and with the rest after that.
fn headers(func: &Function) -> u64 {
    let (dfg, layout) = (&func.dfg, &func.layout);
    let mut seen = EntitySet::with_capacity(dfg.num_blocks());
    let mut headers = EntitySet::with_capacity(dfg.num_blocks());
    let mut count = 0;
    for block in layout.blocks() {
        seen.insert(block);
        let Some(last) = layout.last_inst(block) else { continue };
        for call in dfg.insts[last].branch_destination(&dfg.jump_tables, &dfg.exception_tables) {
            let target = call.block(&dfg.value_lists);
            if seen.contains(target) && headers.insert(target) {
                count += 1;
            }
        }
    }
    count
}

/// How many loops a loop is in, with itself.
fn depths(context: &Context) -> SecondaryMap<Loop, u64> {
    let analysis = &context.loop_analysis;
    let mut depths = SecondaryMap::new();
    let mut open = Vec::new();
    for each in analysis.loops() {
        let mut next = Some(each);
        while let Some(unknown) = next.filter(|next| depths[*next] == 0) {
            open.push(unknown);
            next = analysis.loop_parent(unknown);
        }
        let mut depth = next.map_or(0, |known| depths[known]);
        while let Some(inner) = open.pop() {
            depth += 1;
            depths[inner] = depth;
        }
    }
    depths
}

/// How often the allocator of registers looks at an argument to find those of a parameter.
fn searches(context: &mut Context) -> u64 {
    let (dfg, layout) = (&context.func.dfg, &context.func.layout);
    let (mut parameters, mut arguments) = (0_u64, 0_u64);
    for block in layout.blocks() {
        parameters += dfg.num_block_params(block) as u64;
        let Some(last) = layout.last_inst(block) else { continue };
        let calls = dfg.insts[last].branch_destination(&dfg.jump_tables, &dfg.exception_tables);
        arguments += calls.iter().map(|call| call.len(&dfg.value_lists) as u64).sum::<u64>();
    }
    let most = parameters.saturating_mul(arguments);
    if most <= SEARCHES || most > SEARCHES_AT_MOST {
        return most;
    }
    context.compute_cfg();
    expected_searches(context)
}

/// The searches that a closer look at the function expects.
///
/// The allocator forgets the arguments in front of a value whenever the value lives in two places
/// with something between them, where it does not. Nearly all functions have many such values:
/// whatever is used by one arm of a conditional only.
fn expected_searches(context: &Context) -> u64 {
    let (func, cfg) = (&context.func, &context.cfg);
    let mut places: SecondaryMap<Block, usize> = SecondaryMap::new();
    let mut uses: SecondaryMap<Value, Vec<Block>> = SecondaryMap::new();
    for (place, block) in func.layout.blocks().enumerate() {
        places[block] = place;
        for inst in func.layout.block_insts(block) {
            for value in func.dfg.inst_values(inst) {
                let blocks = &mut uses[func.dfg.resolve_aliases(value)];
                if blocks.last() != Some(&block) {
                    blocks.push(block);
                }
            }
        }
    }
    let (mut searches, mut passed) = (0_u64, 0_u64);
    let mut live = Vec::new();
    for block in func.layout.blocks() {
        let parameters = func.dfg.block_params(block);
        let edges = cfg.pred_iter(block).count() as u64;
        let results = func.layout.block_insts(block).flat_map(|inst| func.dfg.inst_results(inst));
        for (number, value) in parameters.iter().chain(results).enumerate() {
            let is_parameter = number < parameters.len();
            passed += if is_parameter { edges } else { 0 };
            live.clear();
            let known = lives(block, &uses[*value], cfg, &mut live);
            let entries = live.len() as u64 + u64::from(is_parameter);
            searches = searches.saturating_add(passed.saturating_mul(entries));
            let mut there: Vec<usize> = live.iter().map(|block| places[*block]).collect();
            there.sort_unstable();
            let next = there.first() == Some(&(places[block] + 1));
            let parted = there.last().is_some_and(|last| last - places[block] != there.len());
            if known && parted && (is_parameter || next) {
                passed = 0;
            }
        }
    }
    searches
}

/// Finds the blocks that a value is live at the beginning of. `false` if these are many.
fn lives(defined: Block, uses: &[Block], cfg: &ControlFlowGraph, live: &mut Vec<Block>) -> bool {
    const MANY: usize = 24;
    let add = |live: &mut Vec<Block>, block: Block| {
        if block != defined && !live.contains(&block) {
            live.push(block);
        }
    };
    for block in uses.iter().take(MANY) {
        add(live, *block);
    }
    let mut looked = 0;
    while looked < live.len() && live.len() < MANY {
        for from in cfg.pred_iter(live[looked]).take(MANY) {
            add(live, from.block);
        }
        looked += 1;
    }
    looked == live.len()
}

#[cfg(test)]
mod tests {
    use cranelift_codegen::ir::{AbiParam, InstBuilder as _, types};
    use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext, Variable};

    use super::*;

    /// A function of one parameter, which is also a variable.
    fn function(build: impl FnOnce(&mut FunctionBuilder<'_>, Variable)) -> Context {
        let mut context = Context::new();
        let mut memory = FunctionBuilderContext::new();
        context.func.signature.params.push(AbiParam::new(types::I32));
        let mut builder = FunctionBuilder::new(&mut context.func, &mut memory);
        let entry = builder.create_block();
        builder.append_block_params_for_function_params(entry);
        builder.switch_to_block(entry);
        let variable = builder.declare_var(types::I32);
        let parameter = builder.block_params(entry)[0];
        builder.def_var(variable, parameter);
        build(&mut builder, variable);
        builder.ins().return_(&[]);
        builder.seal_all_blocks();
        let target = "x86_64-unknown-linux-gnu".parse().unwrap();
        let isa = cranelift_codegen::isa::lookup(target).unwrap();
        let flags = cranelift_codegen::settings::builder();
        let isa = isa.finish(cranelift_codegen::settings::Flags::new(flags)).unwrap();
        builder.finalize(isa.frontend_config());
        context
    }

    /// Loops in each other, which each add one to the variable.
    fn nest(depth: usize) -> Context {
        function(|builder, variable| {
            let headers: Vec<_> = (0..depth).map(|_| builder.create_block()).collect();
            for header in &headers {
                builder.ins().jump(*header, &[]);
                builder.switch_to_block(*header);
                let value = builder.use_var(variable);
                let value = builder.ins().iadd_imm_s(value, 1);
                builder.def_var(variable, value);
            }
            for header in headers.into_iter().rev() {
                let value = builder.use_var(variable);
                let next = builder.create_block();
                builder.ins().brif(value, header, &[], next, &[]);
                builder.switch_to_block(next);
            }
        })
    }

    /// Conditionals after each other, which each set the variable.
    fn branches(count: usize) -> Context {
        function(|builder, variable| {
            for _ in 0..count {
                let [then, next] = [builder.create_block(), builder.create_block()];
                let value = builder.use_var(variable);
                builder.ins().brif(value, then, &[], next, &[]);
                builder.switch_to_block(then);
                let value = builder.ins().iadd_imm_s(value, 1);
                builder.def_var(variable, value);
                builder.ins().jump(next, &[]);
                builder.switch_to_block(next);
            }
            builder.use_var(variable);
        })
    }

    #[test]
    fn what_people_write_gets_all() {
        for mut context in [nest(30), branches(2000)] {
            assert_eq!(Effort::of(&mut context), Effort::FULL);
        }
    }

    #[test]
    fn loops_in_thousands_of_loops_are_not_optimised() {
        assert_eq!(Effort::of(&mut nest(4000)), Effort { optimise: false, revise: false });
        // As many loops after each other are.
        let mut context = function(|builder, variable| {
            for _ in 0..4000 {
                let [header, next] = [builder.create_block(), builder.create_block()];
                builder.ins().jump(header, &[]);
                builder.switch_to_block(header);
                let value = builder.use_var(variable);
                builder.ins().brif(value, header, &[], next, &[]);
                builder.switch_to_block(next);
            }
        });
        assert!(Effort::of(&mut context).optimise);
    }

    #[test]
    fn loops_count_with_the_square_of_their_depth() {
        let mut context = nest(3000);
        context.flowgraph();
        context.compute_loop_analysis();
        let depths = depths(&context);
        let mut found: Vec<u64> = context.loop_analysis.loops().map(|each| depths[each]).collect();
        found.sort_unstable();
        assert_eq!(found, (1..=3000).collect::<Vec<_>>());
    }

    /// Arms that use a value which the other arm does not: what makes the allocator forget.
    #[test]
    fn registers_are_chosen_with_care_where_the_allocator_forgets() {
        let mut context = function(|builder, variable| {
            for _ in 0..20_000 {
                let [then, otherwise, next] = [0; 3].map(|_| builder.create_block());
                let value = builder.use_var(variable);
                builder.ins().brif(value, then, &[], otherwise, &[]);
                builder.switch_to_block(then);
                let zero = builder.ins().iconst(types::I32, 7);
                builder.def_var(variable, zero);
                builder.ins().jump(next, &[]);
                builder.switch_to_block(otherwise);
                let value = builder.ins().iadd_imm_s(value, 1);
                builder.def_var(variable, value);
                builder.ins().jump(next, &[]);
                builder.switch_to_block(next);
            }
            builder.use_var(variable);
        });
        assert_eq!(Effort::of(&mut context), Effort::FULL);
    }

    #[test]
    fn registers_of_many_parameters_are_chosen_once() {
        // The function has a parameter of its own.
        assert_eq!(searches(&mut branches(100)), 101 * 200);
        assert_eq!(Effort::of(&mut branches(20_000)), Effort { optimise: true, revise: false });
    }
}
