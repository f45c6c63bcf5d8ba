//! Calls: direct ones within the module, through the vmctx for imports,
//! through a table with a check of the type, and through a reference whose type is known. Each
//! also as a tail call.

use cranelift_codegen::ir::{
    ExtFuncData, ExternalName, FuncRef, InstBuilder as _, SigRef, Value, condcodes::IntCC, types,
};
use cwasm_artifact::abi::traps::Trap;
use cwasm_artifact::abi::vmctx::{func_import, func_ref};
use wasmparser::Operator;

use super::reference::is_traced;
use super::runtime::{field, offset32};
use super::{Translator, trap_code, wasm_signature};
use crate::module::{FuncIndex, TableIndex, TypeIndex};
use crate::reference::Reference;

/// What is called.
#[derive(Clone, Copy)]
pub(super) enum Callee {
    /// A function of the module.
    Direct(FuncRef),
    /// Whatever is at this address.
    Pointer(Value),
}

impl Translator<'_, '_> {
    /// Translates the operator if it belongs to this family.
    pub(super) fn call(&mut self, operator: &Operator<'_>) -> bool {
        match *operator {
            Operator::Call { function_index } => {
                self.call_direct(FuncIndex::from_u32(function_index), false);
            }
            Operator::ReturnCall { function_index } => {
                self.call_direct(FuncIndex::from_u32(function_index), true);
            }
            Operator::CallIndirect { type_index, table_index } => {
                self.call_indirect(TypeIndex::from_u32(type_index), table_index, false);
            }
            Operator::ReturnCallIndirect { type_index, table_index } => {
                self.call_indirect(TypeIndex::from_u32(type_index), table_index, true);
            }
            Operator::CallRef { type_index } => {
                self.call_ref(TypeIndex::from_u32(type_index), false);
            }
            Operator::ReturnCallRef { type_index } => {
                self.call_ref(TypeIndex::from_u32(type_index), true);
            }
            _ => return false,
        }
        true
    }

    fn call_direct(&mut self, function: FuncIndex, tail: bool) {
        let module = self.env.module;
        let ty = module.functions[function].ty;
        if module.defined_func(function).is_some() {
            let callee = Callee::Direct(self.callee(function));
            self.emit_call(ty, callee, self.vmctx, tail);
            return;
        }
        let slot = module.vmctx.imported_function(function.as_u32());
        let code = self.vmctx_field(types::I64, slot + func_import::CODE);
        let vmctx = self.vmctx_field(types::I64, slot + func_import::VMCTX);
        self.emit_call(ty, Callee::Pointer(code), vmctx, tail);
    }

    /// SANDBOX-CRITICAL: the callee's type must be the one that the arguments
    /// have, or the callee would misread the registers and the stack.
    fn call_indirect(&mut self, ty: TypeIndex, table: u32, tail: bool) {
        let index = self.stack.pop();
        if self.env.dispatch.table(TableIndex::from_u32(table)).is_some() {
            let callee = self.constant_element(TableIndex::from_u32(table), index, ty);
            // All of its functions are of this module, and so of this instance.
            self.emit_call(ty, callee, self.vmctx, tail);
            return;
        }
        self.func_refs.called = true;
        let callee = self.table_element(table, index, Trap::UndefinedElement);
        // Null faults in the lowest page, which is never mapped.
        let flags =
            field().with_readonly().with_trap_code(Some(trap_code(Trap::UninitializedElement)));
        let found = self.builder.ins().load(types::I32, flags, callee, offset32(func_ref::TYPE_ID));
        let module = self.env.module;
        let slot = module.vmctx.type_id(module.canonical_types[ty].as_u32());
        let expected = self.vmctx_field(types::I32, slot);
        if module.types[ty].is_final {
            let differs = self.builder.ins().icmp(IntCC::NotEqual, found, expected);
            self.builder.ins().trapnz(differs, trap_code(Trap::IndirectCallTypeMismatch));
        } else {
            self.check_below(found, expected, ty);
        }

        let flags = field().with_readonly();
        let code = self.builder.ins().load(types::I64, flags, callee, offset32(func_ref::CODE));
        let vmctx = self.builder.ins().load(types::I64, flags, callee, offset32(func_ref::VMCTX));
        self.emit_call(ty, Callee::Pointer(code), vmctx, tail);
    }

    /// Traps unless a function's type is the expected one, or below it.
    fn check_below(&mut self, found: Value, expected: Value, ty: TypeIndex) {
        let (yes, other, no) =
            (self.new_block(), self.builder.create_block(), self.builder.create_block());
        self.builder.set_cold_block(other);
        self.builder.set_cold_block(no);
        let equal = self.builder.ins().icmp(IntCC::Equal, found, expected);
        self.builder.ins().brif(equal, yes, &[], other, &[]);
        self.go_on_in(other);
        self.decide_below(found, ty, yes, no);
        self.go_on_in(no);
        self.builder.ins().trap(trap_code(Trap::IndirectCallTypeMismatch));
        self.go_on_in(yes);
    }

    /// Validation has shown that a reference which is not null leads to a function of the type.
    fn call_ref(&mut self, ty: TypeIndex, tail: bool) {
        self.func_refs.called = true;
        let callee = self.stack.pop();
        // Null faults in the lowest page, which is never mapped.
        let trap = trap_code(Trap::NullFunctionReference);
        let flags = field().with_readonly().with_trap_code(Some(trap));
        let code = self.builder.ins().load(types::I64, flags, callee, offset32(func_ref::CODE));
        let flags = field().with_readonly();
        let vmctx = self.builder.ins().load(types::I64, flags, callee, offset32(func_ref::VMCTX));
        self.emit_call(ty, Callee::Pointer(code), vmctx, tail);
    }

    /// Calls a function of a type with the arguments on the stack, and leaves its results there; or, if it is
    /// a tail call, lets it take the place of this function, in the same room of the stack.
    fn emit_call(&mut self, ty: TypeIndex, callee: Callee, vmctx: Value, tail: bool) {
        let arguments = self.call_arguments(ty, vmctx);
        // The callee counts on from there.
        self.save_fuel();
        let signature = self.signature(ty);
        let results = &self.env.module.signature(ty).results;
        self.holds_traced |= results.iter().copied().any(is_traced);
        if tail {
            let ins = self.builder.ins();
            match callee {
                Callee::Direct(callee) => ins.return_call(callee, &arguments),
                Callee::Pointer(code) => ins.return_call_indirect(signature, code, &arguments),
            };
            self.reachable = false;
            return;
        }
        let results = self.call_with_handlers(signature, callee, &arguments);
        self.stack.values.extend(results);
        self.restore_fuel();
    }

    /// Takes the arguments of a call from the stack, and puts the vmctx before them.
    fn call_arguments(&mut self, ty: TypeIndex, vmctx: Value) -> Vec<Value> {
        let count = self.env.module.signature(ty).params.len();
        let mut arguments = Vec::with_capacity(count + 1);
        arguments.push(vmctx);
        arguments.extend_from_slice(self.stack.top(count));
        self.stack.drop(count);
        arguments
    }

    /// The signature of a type, declared once in each function.
    fn signature(&mut self, ty: TypeIndex) -> SigRef {
        let ty = self.env.module.canonical_types[ty];
        if let Some(signature) = self.signatures.get(&ty) {
            return *signature;
        }
        let signature =
            self.builder.import_signature(wasm_signature(self.env.module.signature(ty)));
        self.signatures.insert(ty, signature);
        signature
    }

    /// A defined function as a callee, declared once in each function.
    pub(super) fn callee(&mut self, function: FuncIndex) -> FuncRef {
        if let Some(callee) = self.callees.get(&function) {
            return *callee;
        }
        let signature = self.signature(self.env.module.functions[function].ty);
        let name =
            self.builder.func.declare_imported_user_function(Reference::Function(function).name());
        let callee = self.builder.import_function(ExtFuncData {
            name: ExternalName::user(name),
            signature,
            colocated: true,
            patchable: false,
        });
        self.callees.insert(function, callee);
        callee
    }
}
