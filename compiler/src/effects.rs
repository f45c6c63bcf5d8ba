//! Which instructions have effects, so that their order counts.

use cranelift_codegen::ir::Opcode;

/// Whether an instruction does more than to compute its results from its operands: it may trap, goes elsewhere, or depends on what lies in memory, or
/// changes that.
pub(crate) fn has_effects(opcode: Opcode) -> bool {
    opcode.is_call()
        || opcode.is_terminator()
        || opcode.can_trap()
        || opcode.can_load()
        || opcode.can_store()
        || opcode.other_side_effects()
}
