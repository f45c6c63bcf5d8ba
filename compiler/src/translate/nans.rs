//! Canonical NaNs: a pass over a translated function.
//!
//! The specification lets a float operation choose among NaNs, and CPUs choose
//! differently. This pass makes every NaN that arithmetic computes the positive one
//! with only the highest bit of its fraction set, wherever someone could tell.
//!
//! Arithmetic cannot tell: whatever NaN goes in, one comes out, and that is made
//! canonical if it matters. Comparisons and conversions to integers cannot tell
//! either. So a value needs the correction only if its bits are *observed*: stored,
//! returned, passed to a function, or seen as an integer, or as floats of the other width, which a NaN is a
//! number among. Observation goes back through what only moves bits: block parameters, selections, casts, lanes.
//!
//! `abs`, `neg` and `copysign` change the sign bit and nothing else, of NaNs too,
//! so that their results are determined by their operands.

use cranelift_codegen::cursor::{Cursor as _, FuncCursor};
use cranelift_codegen::entity::SecondaryMap;
use cranelift_codegen::ir::condcodes::FloatCC;
use cranelift_codegen::ir::immediates::{Ieee32, Ieee64};
use cranelift_codegen::ir::{
    BlockArg, Function, Inst, InstBuilder as _, MemFlagsData, Opcode, Type, Value, ValueDef, types,
};

/// What an operation does with the bits of a NaN among its operands.
enum Effect {
    /// The result is a NaN of the processor's choice.
    Arithmetic,
    /// The result does not depend on which NaN it is.
    Indifferent,
    /// The bits of these operands go into the result, and of others are observed.
    Moves(&'static [usize]),
    /// They are observed.
    Observes,
}

fn effect(opcode: Opcode) -> Effect {
    match opcode {
        Opcode::Fadd
        | Opcode::Fsub
        | Opcode::Fmul
        | Opcode::Fdiv
        | Opcode::Fmin
        | Opcode::Fmax
        | Opcode::Fma
        | Opcode::Sqrt
        | Opcode::Ceil
        | Opcode::Floor
        | Opcode::Trunc
        | Opcode::Nearest
        | Opcode::Fpromote
        | Opcode::Fdemote
        | Opcode::FvpromoteLow
        | Opcode::Fvdemote => Effect::Arithmetic,
        Opcode::Fcmp
        | Opcode::FcvtToSint
        | Opcode::FcvtToUint
        | Opcode::FcvtToSintSat
        | Opcode::FcvtToUintSat
        | Opcode::X86Cvtt2dq => Effect::Indifferent,
        Opcode::Bitcast
        | Opcode::Splat
        | Opcode::Extractlane
        | Opcode::ScalarToVector
        | Opcode::Fabs
        | Opcode::Fneg => Effect::Moves(&[0]),
        // The sign of the second operand may end up in a number.
        Opcode::Fcopysign => Effect::Moves(&[0]),
        Opcode::Insertlane => Effect::Moves(&[0, 1]),
        // The condition, or mask, is the first operand.
        Opcode::Select | Opcode::Bitselect | Opcode::Blendv => Effect::Moves(&[1, 2]),
        _ => Effect::Observes,
    }
}

/// As what somebody sees a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen(u8);

impl Seen {
    /// As floats of 32 bits, in which nobody can tell one NaN from another.
    const NARROW: Self = Self(1);
    /// As floats of 64 bits.
    const WIDE: Self = Self(2);
    /// As bits.
    const BITS: Self = Self(4);

    /// As what arithmetic sees an operand of a type.
    fn by_arithmetic(ty: Type) -> Self {
        match ty.lane_type() {
            types::F32 => Self::NARROW,
            types::F64 => Self::WIDE,
            _ => Self::BITS,
        }
    }

    /// Whether this is, or goes with, anything but the other.
    fn is_more_than(self, other: Self) -> bool {
        self.0 & !other.0 != 0
    }

    fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Makes NaNs canonical wherever that can be told.
pub(super) fn canonicalize(func: &mut Function) {
    let sources = observed_sources(func);
    let mut cursor = FuncCursor::new(func);
    for inst in sources {
        cursor = cursor.after_inst(inst);
        cursor.set_srcloc(cursor.func.srcloc(inst));
        correct(&mut cursor, inst);
    }
}

/// The arithmetic whose results are observed, in the order of the code.
fn observed_sources(func: &Function) -> Vec<Inst> {
    let dfg = &func.dfg;
    let mut arithmetic = Vec::new();
    let mut pending = Vec::new();
    // Which arguments a block parameter is given.
    let mut given: SecondaryMap<Value, Vec<Value>> = SecondaryMap::new();
    for block in func.layout.blocks() {
        for inst in func.layout.block_insts(block) {
            let opcode = dfg.insts[inst].opcode();
            let args = dfg.inst_args(inst).iter().map(|arg| dfg.resolve_aliases(*arg));
            let by_arithmetic = |arg: Value| (arg, Seen::by_arithmetic(dfg.value_type(arg)));
            let as_bits = |arg| (arg, Seen::BITS);
            match effect(opcode) {
                Effect::Arithmetic => {
                    arithmetic.push(inst);
                    pending.extend(args.map(by_arithmetic));
                }
                Effect::Indifferent => pending.extend(args.map(by_arithmetic)),
                Effect::Moves(moved) => pending.extend(
                    args.enumerate()
                        .filter(|(position, _)| !moved.contains(position))
                        .map(|(_, arg)| as_bits(arg)),
                ),
                Effect::Observes => pending.extend(args.map(as_bits)),
            }
            if !opcode.is_branch() {
                continue;
            }
            let tables = &dfg.exception_tables;
            for call in dfg.insts[inst].branch_destination(&dfg.jump_tables, tables) {
                let params = dfg.block_params(call.block(&dfg.value_lists));
                for (param, arg) in params.iter().zip(call.args(&dfg.value_lists)) {
                    // What a callee returns is canonical, or not of this function's making.
                    if let BlockArg::Value(arg) = arg {
                        given[*param].push(dfg.resolve_aliases(arg));
                    }
                }
            }
        }
    }
    let seen = follow(func, pending, &given);
    arithmetic.retain(|inst| {
        let result = dfg.first_result(*inst);
        seen[result].is_more_than(Seen::by_arithmetic(dfg.value_type(result)))
    });
    arithmetic
}

/// As what all values are seen, from those that are seen directly.
fn follow(
    func: &Function,
    mut pending: Vec<(Value, Seen)>,
    given: &SecondaryMap<Value, Vec<Value>>,
) -> SecondaryMap<Value, Seen> {
    let dfg = &func.dfg;
    let mut seen = SecondaryMap::with_capacity(dfg.num_values());
    while let Some((value, more)) = pending.pop() {
        let known: Seen = seen[value];
        if !more.is_more_than(known) {
            continue;
        }
        seen[value] = known.and(more);
        match dfg.value_def(value) {
            ValueDef::Result(inst, _) => {
                if let Effect::Moves(moved) = effect(dfg.insts[inst].opcode()) {
                    let args = dfg.inst_args(inst);
                    let args = moved.iter().filter_map(|position| args.get(*position));
                    pending.extend(args.map(|arg| (dfg.resolve_aliases(*arg), more)));
                }
            }
            ValueDef::Param(..) => pending.extend(given[value].iter().map(|arg| (*arg, more))),
            ValueDef::Union(..) => {}
        }
    }
    seen
}

/// Puts the correction after an operation, in place of its result.
fn correct(cursor: &mut FuncCursor<'_>, inst: Inst) {
    let value = cursor.func.dfg.first_result(inst);
    let ty = cursor.func.dfg.value_type(value);
    let raw = cursor.func.dfg.replace_result(value, ty);
    let nan = canonical_nan(cursor, ty);
    let is_nan = cursor.ins().fcmp(FloatCC::Unordered, raw, raw);
    if ty.is_vector() {
        let mask = cursor.ins().bitcast(ty, MemFlagsData::new(), is_nan);
        cursor.ins().with_result(value).bitselect(mask, nan, raw);
    } else {
        cursor.ins().with_result(value).select(is_nan, nan, raw);
    }
}

fn canonical_nan(cursor: &mut FuncCursor<'_>, ty: Type) -> Value {
    let (narrow, wide) = (0x7fc0_0000_u32, 0x7ff8_0000_0000_0000_u64);
    let bytes: Vec<u8> = match ty {
        types::F32 => return cursor.ins().f32const(Ieee32::with_bits(narrow)),
        types::F64 => return cursor.ins().f64const(Ieee64::with_bits(wide)),
        types::F32X4 => narrow.to_le_bytes().repeat(4),
        _ => wide.to_le_bytes().repeat(2),
    };
    let constant = cursor.func.dfg.constants.insert(bytes.into());
    cursor.ins().vconst(ty, constant)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cranelift_codegen::ir::{AbiParam, Endianness, InstructionData, UserFuncName};
    use cranelift_codegen::isa::CallConv;
    use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

    /// The number of corrections in a function of two doubles that returns
    /// what `body` makes of them.
    fn corrections(
        body: impl FnOnce(&mut FunctionBuilder<'_>, Value, Value) -> Value,
        returns: Type,
    ) -> usize {
        let mut func = Function::with_name_signature(
            UserFuncName::default(),
            cranelift_codegen::ir::Signature::new(CallConv::Tail),
        );
        func.signature.params = vec![AbiParam::new(types::F64); 2];
        func.signature.returns = vec![AbiParam::new(returns)];
        let mut context = FunctionBuilderContext::new();
        let mut builder = FunctionBuilder::new(&mut func, &mut context);
        let entry = builder.create_block();
        builder.append_block_params_for_function_params(entry);
        builder.switch_to_block(entry);
        builder.seal_block(entry);
        let [a, b] = *builder.block_params(entry) else { unreachable!("two parameters") };
        let result = body(&mut builder, a, b);
        builder.ins().return_(&[result]);
        builder.finalize(cranelift_codegen::isa::TargetFrontendConfig {
            default_call_conv: CallConv::Tail,
            pointer_width: target_lexicon::PointerWidth::U64,
            page_size_align_log2: 12,
        });
        canonicalize(&mut func);
        let insts = func.layout.blocks().flat_map(|block| func.layout.block_insts(block));
        insts
            .filter(|inst| match func.dfg.insts[*inst] {
                InstructionData::FloatCompare { cond, .. } => cond == FloatCC::Unordered,
                _ => false,
            })
            .count()
    }

    #[test]
    fn only_the_end_of_a_computation_is_corrected() {
        let chain = |builder: &mut FunctionBuilder<'_>, a, b| {
            let sum = builder.ins().fadd(a, b);
            let product = builder.ins().fmul(sum, b);
            builder.ins().sqrt(product)
        };
        assert_eq!(corrections(chain, types::F64), 1);
    }

    #[test]
    fn what_nobody_sees_is_not_corrected() {
        let compare = |builder: &mut FunctionBuilder<'_>, a, b| {
            let sum = builder.ins().fadd(a, b);
            builder.ins().fcmp(FloatCC::LessThan, sum, b)
        };
        assert_eq!(corrections(compare, types::I8), 0);
        let nothing = |_: &mut FunctionBuilder<'_>, a, _| a;
        assert_eq!(corrections(nothing, types::F64), 0);
    }

    #[test]
    fn observation_goes_back_through_what_moves_bits() {
        let moved = |builder: &mut FunctionBuilder<'_>, a, b| {
            let sum = builder.ins().fadd(a, b);
            let next = builder.create_block();
            let param = builder.append_block_param(next, types::F64);
            builder.ins().jump(next, &[sum.into()]);
            builder.switch_to_block(next);
            builder.seal_block(next);
            let negated = builder.ins().fneg(param);
            builder.ins().bitcast(types::I64, MemFlagsData::new(), negated)
        };
        assert_eq!(corrections(moved, types::I64), 1);
    }

    #[test]
    fn floats_of_the_other_width_see_bits() {
        // The sum of two vectors of doubles, as `ty`, which is operated on and compared.
        let seen_as = |ty: Type| {
            move |builder: &mut FunctionBuilder<'_>, a, b| {
                let (a, b) =
                    (builder.ins().splat(types::F64X2, a), builder.ins().splat(types::F64X2, b));
                let sum = builder.ins().fadd(a, b);
                let flags = MemFlagsData::new().with_endianness(Endianness::Little);
                let bytes = builder.ins().bitcast(types::I8X16, flags, sum);
                let floats = builder.ins().bitcast(ty, flags, bytes);
                let root = builder.ins().sqrt(floats);
                let equal = builder.ins().fcmp(FloatCC::Equal, root, floats);
                builder.ins().vany_true(equal)
            }
        };
        assert_eq!(corrections(seen_as(types::F64X2), types::I8), 0);
        assert_eq!(corrections(seen_as(types::F32X4), types::I8), 1);
    }

    #[test]
    fn a_sign_that_is_copied_is_observed() {
        let signed = |builder: &mut FunctionBuilder<'_>, a, b| {
            let sum = builder.ins().fadd(a, b);
            let signed = builder.ins().fcopysign(a, sum);
            builder.ins().fcmp(FloatCC::LessThan, signed, b)
        };
        assert_eq!(corrections(signed, types::I8), 1);
    }
}
