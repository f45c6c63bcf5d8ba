//! The values of constant expressions (specification, 3.3.13).

use std::ptr;

use cwasm_artifact::records::{ConstOpRecord, Span, const_op};

use crate::store::StoreCore;
use crate::vm::layout::VmValue;

/// Evaluates an expression of an instance.
///
/// Validation of the artifact made sure that it leaves one value, that operations have
/// their operands, and that what they refer to exists.
pub(crate) fn evaluate(core: &StoreCore<'_>, position: usize, expression: Span) -> VmValue {
    let ops = core.instances[position].artifact.view().const_ops(expression);
    if let [op] = ops {
        return value(core, position, op);
    }
    let mut stack = Vec::new();
    for op in ops {
        let result = match arithmetic(op.op.get()) {
            Some(compute) => {
                let b = stack.pop().unwrap_or_default();
                let a = stack.pop().unwrap_or_default();
                compute(a, b)
            }
            None => value(core, position, op),
        };
        stack.push(result);
    }
    stack.pop().unwrap_or_default()
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
