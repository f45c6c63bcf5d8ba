//! The optimiser, and what is done before and after it, in order.

use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::isa::TargetIsa;
use cranelift_codegen::settings::OptLevel;
use cranelift_codegen::{CodegenResult, Context};
use target_lexicon::Architecture;

use crate::addresses;
use crate::branches;
use crate::carried;
use crate::conditions;
use crate::constants;
use crate::counted;
use crate::fields;
use crate::hoisted;
use crate::link;
use crate::lookup;
use crate::narrow;
use crate::order;
use crate::saturation;
use crate::scaled;
use crate::stored;
use crate::sums;
use crate::widened;

/// Optimises the function in the context, whose graphs are known then, as the target says. `memories` are those of
/// [`addresses::short_memories`]. Returns what has to lie behind its code.
pub(crate) fn optimise(
    context: &mut Context,
    isa: &dyn TargetIsa,
    control: &mut ControlPlane,
    memories: &[i32],
) -> CodegenResult<Vec<u8>> {
    let behind = if isa.flags().opt_level() == OptLevel::None {
        context.optimize(isa, control)?;
        Vec::new()
    } else {
        optimise_fully(context, isa, control, memories)?
    };
    let split = isa.flags().opt_level() != OptLevel::None && conditions::split(&mut context.func);
    if branches::compare(&mut context.func) || split {
        context.compute_cfg();
        context.compute_domtree();
    }
    context.verify_if(isa)?;
    Ok(behind)
}

fn optimise_fully(
    context: &mut Context,
    isa: &dyn TargetIsa,
    control: &mut ControlPlane,
    memories: &[i32],
) -> CodegenResult<Vec<u8>> {
    let behind = match link::reaches_tables(isa.triple()) {
        true => lookup::choose(&mut context.func),
        false => Vec::new(),
    };
    // As `Context::optimize` does, whose last step is the optimiser.
    context.compute_cfg();
    counted::compare_next(&mut context.func, &context.cfg);
    context.verify_if(isa)?;
    context.compute_domtree();
    context.eliminate_unreachable_code(isa)?;
    context.remove_constant_phis(isa)?;
    context.func.dfg.resolve_all_aliases();
    addresses::share(&mut context.func, &context.domtree, memories);
    let is_cut = saturation::cut(context);
    context.egraph_pass(isa, control)?;
    if is_cut {
        saturation::join(context, isa)?;
    }
    fields::leave_out(&mut context.func, &context.cfg, &context.domtree);
    narrow::narrow(&mut context.func);
    scaled::scale(&mut context.func);
    carried::compute_once(&mut context.func, &context.domtree);
    if matches!(isa.triple().architecture, Architecture::X86_64) {
        widened::widen(&mut context.func, &context.cfg, &context.domtree);
        stored::store_constants(&mut context.func);
    }
    hoisted::hoist(&mut context.func, &context.cfg);
    sums::add_last(&mut context.func, &context.domtree);
    constants::rematerialise(&mut context.func);
    order::keep_fewer(&mut context.func);
    Ok(behind)
}
