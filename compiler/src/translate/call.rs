//! Calls: direct ones within the module, through the vmctx for imports, and
//! through a table with a check of the type.

use cranelift_codegen::ir::{
    ExtFuncData, ExternalName, FuncRef, InstBuilder as _, SigRef, UserExternalName, Value,
    condcodes::IntCC, types,
};
use cwasm_artifact::abi::traps::Trap;
use cwasm_artifact::abi::vmctx::{func_import, func_ref};
use wasmparser::Operator;

use super::runtime::{field, offset32};
use super::{Translator, trap_code, wasm_signature};
use crate::module::{FuncIndex, TypeIndex};

impl Translator<'_, '_> {
    /// Translates the operator if it belongs to this family.
    pub(super) fn call(&mut self, operator: &Operator<'_>) -> bool {
        match *operator {
            Operator::Call { function_index } => {
                self.call_direct(FuncIndex::from_u32(function_index));
            }
            Operator::CallIndirect { type_index, table_index } => {
                self.call_indirect(TypeIndex::from_u32(type_index), table_index);
            }
            _ => return false,
        }
        true
    }

    fn call_direct(&mut self, function: FuncIndex) {
        let module = self.env.module;
        let ty = module.functions[function].ty;
        if module.defined_func(function).is_some() {
            let callee = self.callee(function);
            let arguments = self.call_arguments(ty, self.vmctx);
            self.save_fuel();
            let call = self.builder.ins().call(callee, &arguments);
            self.finish_call(call);
            return;
        }
        let slot = module.vmctx.imported_function(function.as_u32());
        let code = self.vmctx_field(types::I64, slot + func_import::CODE);
        let vmctx = self.vmctx_field(types::I64, slot + func_import::VMCTX);
        self.call_pointer(ty, code, vmctx);
    }

    /// SANDBOX-CRITICAL: the callee's type must be the one that the arguments
    /// have, or the callee would misread the registers and the stack.
    fn call_indirect(&mut self, ty: TypeIndex, table: u32) {
        let index = self.stack.pop();
        let callee = self.table_element(table, index, Trap::UndefinedElement);
        // Null faults in the lowest page, which is never mapped.
        let flags =
            field().with_readonly().with_trap_code(Some(trap_code(Trap::UninitializedElement)));
        let found = self.builder.ins().load(types::I32, flags, callee, offset32(func_ref::TYPE_ID));
        let module = self.env.module;
        let slot = module.vmctx.type_id(module.canonical_types[ty].as_u32());
        let expected = self.vmctx_field(types::I32, slot);
        let differs = self.builder.ins().icmp(IntCC::NotEqual, found, expected);
        self.builder.ins().trapnz(differs, trap_code(Trap::IndirectCallTypeMismatch));

        let flags = field().with_readonly();
        let code = self.builder.ins().load(types::I64, flags, callee, offset32(func_ref::CODE));
        let vmctx = self.builder.ins().load(types::I64, flags, callee, offset32(func_ref::VMCTX));
        self.call_pointer(ty, code, vmctx);
    }

    fn call_pointer(&mut self, ty: TypeIndex, code: Value, vmctx: Value) {
        let signature = self.signature(ty);
        let arguments = self.call_arguments(ty, vmctx);
        self.save_fuel();
        let call = self.builder.ins().call_indirect(signature, code, &arguments);
        self.finish_call(call);
    }

    /// Takes the arguments of a call from the stack, and puts the vmctx before them.
    fn call_arguments(&mut self, ty: TypeIndex, vmctx: Value) -> Vec<Value> {
        let count = self.env.module.types[ty].params.len();
        let mut arguments = Vec::with_capacity(count + 1);
        arguments.push(vmctx);
        arguments.extend_from_slice(self.stack.top(count));
        self.stack.drop(count);
        arguments
    }

    fn finish_call(&mut self, call: cranelift_codegen::ir::Inst) {
        self.stack.values.extend_from_slice(self.builder.inst_results(call));
        self.restore_fuel();
    }

    /// The signature of a type, declared once in each function.
    fn signature(&mut self, ty: TypeIndex) -> SigRef {
        let ty = self.env.module.canonical_types[ty];
        if let Some(signature) = self.signatures.get(&ty) {
            return *signature;
        }
        let signature = self.builder.import_signature(wasm_signature(&self.env.module.types[ty]));
        self.signatures.insert(ty, signature);
        signature
    }

    /// A defined function as a callee, declared once in each function.
    fn callee(&mut self, function: FuncIndex) -> FuncRef {
        if let Some(callee) = self.callees.get(&function) {
            return *callee;
        }
        let signature = self.signature(self.env.module.functions[function].ty);
        let name = self
            .builder
            .func
            .declare_imported_user_function(UserExternalName::new(0, function.as_u32()));
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
