//! The values of constant expressions (specification, 3.3.13).
//!
//! Most leave the store as it is. Those that make an object may have others collected: their values are on a stack in the store,
//! which is a root, until the expression has its value. An operation takes its operands from there when it has its result.

use std::ptr;

use cwasm_artifact::abi::object::I31;
use cwasm_artifact::abi::traps::Trap as TrapKind;
use cwasm_artifact::records::{ConstOpRecord, Span, const_op};

use crate::error::Error;
use crate::store::{Content, StoreCore};
use crate::vm::layout::VmValue;

/// Evaluates an expression of an instance.
///
/// Validation of the artifact made sure that it leaves one value, that operations have
/// their operands, and that what they refer to exists.
///
/// # Errors
/// A trap, if the store may not have more objects.
pub(crate) fn evaluate(
    core: &mut StoreCore<'_>,
    position: usize,
    expression: Span,
) -> Result<VmValue, Error> {
    let ops = core.instances[position].artifact.view().const_ops(expression);
    if !ops.iter().any(makes_object) {
        return Ok(evaluate_ops(core, position, ops));
    }
    let base = core.constants.len();
    let mut result = Ok(());
    for op in ops {
        result = push(core, position, op);
        if result.is_err() {
            break;
        }
    }
    let value = core.constants.last().copied().unwrap_or_default();
    core.constants.truncate(base);
    result.map(|()| value)
}

/// Evaluates an expression that makes no object.
pub(crate) fn evaluate_plain(core: &StoreCore<'_>, position: usize, expression: Span) -> VmValue {
    evaluate_ops(core, position, core.instances[position].artifact.view().const_ops(expression))
}

/// Whether an expression of an instance makes an object: to evaluate it again would give another one.
pub(crate) fn is_generative(core: &StoreCore<'_>, position: usize, expression: Span) -> bool {
    let view = core.instances[position].artifact.view();
    view.const_ops(expression).iter().any(makes_object)
}

fn makes_object(op: &ConstOpRecord) -> bool {
    (const_op::STRUCT_NEW..=const_op::ARRAY_NEW_FIXED).contains(&op.op.get())
}

fn evaluate_ops(core: &StoreCore<'_>, position: usize, ops: &[ConstOpRecord]) -> VmValue {
    if let [op] = ops {
        return value(core, position, op);
    }
    let mut stack = Vec::new();
    ops.iter().for_each(|op| apply(core, position, &mut stack, op));
    stack.pop().unwrap_or_default()
}

/// What an operation does with a stack that makes no object.
fn apply(core: &StoreCore<'_>, position: usize, stack: &mut Vec<VmValue>, op: &ConstOpRecord) {
    let result = match (arithmetic(op.op.get()), op.op.get()) {
        (Some(compute), _) => {
            let b = stack.pop().unwrap_or_default();
            let a = stack.pop().unwrap_or_default();
            compute(a, b)
        }
        (None, const_op::REF_I31) => i31(stack.pop().unwrap_or_default()),
        // The reference is the same.
        (None, const_op::ANY_CONVERT_EXTERN | const_op::EXTERN_CONVERT_ANY) => return,
        (None, _) => value(core, position, op),
    };
    stack.push(result);
}

/// What an operation does with the stack in the store.
fn push(core: &mut StoreCore<'_>, position: usize, op: &ConstOpRecord) -> Result<(), Error> {
    if !makes_object(op) {
        let mut stack = std::mem::take(&mut core.constants);
        apply(core, position, &mut stack, op);
        core.constants = stack;
        return Ok(());
    }
    let no_memory = || Error::trapped(TrapKind::OutOfObjectMemory, Vec::new(), 0);
    let types = core.instances[position].artifact.types();
    let ty = types.types().get(op.index.get() as usize).ok_or_else(no_memory)?;
    let (type_id, fields) = (ty.id(), ty.fields().len());
    let stack = core.constants.as_slice();
    let top = || stack.last().copied().unwrap_or_default();
    // Zero is the default of every type that has one.
    let (taken, kept, content) = match op.op.get() {
        const_op::STRUCT_NEW => (fields, fields, None),
        const_op::STRUCT_NEW_DEFAULT => (0, fields, None),
        const_op::ARRAY_NEW => {
            let value = stack.len().checked_sub(2).map(|place| stack[place]);
            let content = Content::Repeated(value.unwrap_or_default(), top().low32());
            (2, 0, Some(content))
        }
        const_op::ARRAY_NEW_DEFAULT => (1, 0, Some(Content::Repeated(VmValue(0), top().low32()))),
        // As many as there are on the stack.
        _ => {
            let count = usize::try_from(op.low.get()).unwrap_or(usize::MAX);
            (count, count, None)
        }
    };
    let rest = stack.len().saturating_sub(taken);
    let mut values = stack[rest..].to_vec();
    let content = content.unwrap_or_else(|| {
        values.resize(kept, VmValue(0));
        match op.op.get() {
            const_op::ARRAY_NEW_FIXED => Content::Elements(&values),
            _ => Content::Fields(&values),
        }
    });
    // SAFETY: the host is running. Validation gave the operands the types of the fields. They are still on the stack, which is a root.
    let made = unsafe { core.make_object(type_id, content, None) }.ok_or_else(no_memory)?;
    core.constants.truncate(rest);
    core.constants.push(VmValue::from_ref(made.as_ptr().cast()));
    Ok(())
}

/// What an operation pushes that takes nothing.
fn value(core: &StoreCore<'_>, position: usize, op: &ConstOpRecord) -> VmValue {
    let instance = &core.instances[position];
    let index = op.index.get();
    match op.op.get() {
        const_op::GLOBAL_GET => core.global_value(instance.globals[index as usize]),
        const_op::REF_FUNC => VmValue::from_ref(
            instance.function(index).map_or(ptr::null_mut(), |func| func.as_ptr().cast()),
        ),
        const_op::REF_NULL => VmValue(0),
        const_op::I32 | const_op::F32 => VmValue((op.low.get() & 0xffff_ffff).into()),
        _ => VmValue(u128::from(op.high.get()) << 64 | u128::from(op.low.get())),
    }
}

/// `ref.i31`: the low 31 bits of an integer.
fn i31(value: VmValue) -> VmValue {
    VmValue((u64::from(value.low32() << 1) | I31).into())
}

/// What an operation does with two values, if it is one of arithmetic.
fn arithmetic(op: u32) -> Option<fn(VmValue, VmValue) -> VmValue> {
    Some(match op {
        const_op::I32_ADD => |a, b| VmValue(a.low32().wrapping_add(b.low32()).into()),
        const_op::I32_SUB => |a, b| VmValue(a.low32().wrapping_sub(b.low32()).into()),
        const_op::I32_MUL => |a, b| VmValue(a.low32().wrapping_mul(b.low32()).into()),
        const_op::I64_ADD => |a, b| VmValue(a.low64().wrapping_add(b.low64()).into()),
        const_op::I64_SUB => |a, b| VmValue(a.low64().wrapping_sub(b.low64()).into()),
        const_op::I64_MUL => |a, b| VmValue(a.low64().wrapping_mul(b.low64()).into()),
        _ => return None,
    })
}
