//! Ways to stop code that runs too long: fuel, which is counted, and epochs,
//! which are compared. Both are checked at the start of a function and of each
//! turn of a loop, so that no code runs for long between two checks.
//!
//! The store keeps fuel as a number that counts up from minus what was given;
//! above zero, there is none. A function counts in a variable, and writes it
//! back before anything that may read it: calls, returns and traps.

use cranelift_codegen::ir::{InstBuilder as _, Value, condcodes::IntCC, types};
use cranelift_frontend::Variable;
use cwasm_artifact::abi::builtins::Builtin;
use cwasm_artifact::abi::traps::Trap;
use cwasm_artifact::abi::vmctx::store_context;
use wasmparser::Operator;

use super::runtime::{field, offset32};
use super::{Translator, trap_code};

/// The fuel of a function while it is translated.
#[derive(Default)]
pub(super) struct Fuel {
    /// Holds the store's fuel while the function runs.
    variable: Option<Variable>,
    /// Used since the variable was changed last.
    pending: i64,
}

impl Translator<'_, '_> {
    /// Counts an operator that is about to be translated.
    pub(super) fn count_operator(&mut self, operator: &Operator<'_>) {
        let free = matches!(
            operator,
            Operator::Nop
                | Operator::Drop
                | Operator::Block { .. }
                | Operator::Loop { .. }
                | Operator::Else
                | Operator::End
        );
        self.fuel.pending += i64::from(!free);
    }

    /// Adds what is pending to the variable. Needed before control splits or joins.
    pub(super) fn flush_fuel(&mut self) {
        let Some(variable) = self.fuel.variable else { return };
        if self.fuel.pending == 0 {
            return;
        }
        let fuel = self.builder.use_var(variable);
        let fuel = self.builder.ins().iadd_imm_s(fuel, self.fuel.pending);
        self.builder.def_var(variable, fuel);
        self.fuel.pending = 0;
    }

    /// Writes the variable to the store.
    pub(super) fn save_fuel(&mut self) {
        let Some(variable) = self.fuel.variable else { return };
        self.flush_fuel();
        let fuel = self.builder.use_var(variable);
        let (store, flags) = (self.store_context(), self.store_field());
        self.builder.ins().store(flags, fuel, store, offset32(store_context::FUEL));
    }

    /// Reads the variable from the store, after a call.
    pub(super) fn restore_fuel(&mut self) {
        let Some(variable) = self.fuel.variable else { return };
        let (store, flags) = (self.store_context(), self.store_field());
        let fuel = self.builder.ins().load(types::I64, flags, store, offset32(store_context::FUEL));
        self.builder.def_var(variable, fuel);
    }

    /// Begins to count, at the start of a function. Being called costs one.
    pub(super) fn load_fuel(&mut self) {
        if self.env.fuel {
            self.fuel.variable = Some(self.builder.declare_var(types::I64));
            self.restore_fuel();
            self.fuel.pending = 1;
            self.flush_fuel();
        }
    }

    /// Stops here if the fuel is used up, or the deadline has passed.
    pub(super) fn check_interrupts(&mut self) {
        if self.fuel.variable.is_some() {
            self.check_fuel();
        }
        if self.env.epoch {
            self.check_epoch();
        }
    }

    fn check_fuel(&mut self) {
        let Some(variable) = self.fuel.variable else { return };
        let fuel = self.builder.use_var(variable);
        let empty = self.builder.ins().icmp_imm_s(IntCC::SignedGreaterThan, fuel, 0);
        let go_on = self.rarely(empty);
        self.save_fuel();
        self.builder.ins().trap(trap_code(Trap::OutOfFuel));
        self.builder.switch_to_block(go_on);
        self.builder.seal_block(go_on);
    }

    fn check_epoch(&mut self) {
        let (store, flags) = (self.store_context(), self.store_field());
        let counter = self.builder.ins().load(
            types::I64,
            super::runtime::constant_field(),
            store,
            offset32(store_context::EPOCH_COUNTER),
        );
        // Other threads write the counter, so no earlier load will do. An
        // aligned load of eight bytes is atomic on every target.
        let now = self.builder.ins().atomic_load(types::I64, field(), counter);
        let deadline = self.builder.ins().load(
            types::I64,
            flags,
            store,
            offset32(store_context::EPOCH_DEADLINE),
        );
        let passed = self.builder.ins().icmp(IntCC::UnsignedGreaterThanOrEqual, now, deadline);
        let go_on = self.rarely(passed);
        // The fuel is saved and restored around the call. Both arms must agree
        // on the variable, which the callee leaves as it is.
        let moved = self.builtin_value(Builtin::NewEpoch, &[]);
        self.builder.ins().trapz(moved, trap_code(Trap::Interrupted));
        self.builder.ins().jump(go_on, &[]);
        self.builder.seal_block(go_on);
        self.builder.switch_to_block(go_on);
    }

    /// Branches to a cold block if the condition holds, and continues there.
    /// Returns the block for when it does not hold, which is not sealed.
    pub(super) fn rarely(&mut self, condition: Value) -> cranelift_codegen::ir::Block {
        let cold = self.builder.create_block();
        let go_on = self.builder.create_block();
        self.builder.set_cold_block(cold);
        self.builder.ins().brif(condition, cold, &[], go_on, &[]);
        self.builder.seal_block(cold);
        self.builder.switch_to_block(cold);
        go_on
    }
}
