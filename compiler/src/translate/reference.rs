//! References: null is zero, a function is the address of its `func_ref`. What may be collected is tagged
//! ([`cwasm_artifact::abi::object`]): a small integer is odd, an object is its address. References below `any` and below
//! `extern` look alike, so that to convert one into the other is nothing.

use cranelift_codegen::ir::{Block, InstBuilder as _, Value, condcodes::IntCC, types};
use cwasm_artifact::abi::object;
use cwasm_artifact::abi::traps::Trap;
use cwasm_artifact::abi::vmctx::func_import;
use cwasm_artifact::types::{HeapType, ValType};
use wasmparser::Operator;

use super::{Translator, trap_code};
use crate::module::FuncIndex;

impl Translator<'_, '_> {
    /// Translates the operator if it belongs to this family.
    pub(super) fn reference(&mut self, operator: &Operator<'_>) -> bool {
        match *operator {
            Operator::RefNull { .. } => {
                let null = self.builder.ins().iconst(types::I64, 0);
                self.stack.push(null);
            }
            Operator::RefIsNull => {
                let reference = self.stack.pop();
                let is_null = self.builder.ins().icmp_imm_u(IntCC::Equal, reference, 0);
                self.push_flag(is_null);
            }
            Operator::RefEq => {
                let (a, b) = self.stack.pop2();
                let equal = self.builder.ins().icmp(IntCC::Equal, a, b);
                self.push_flag(equal);
            }
            Operator::RefI31 => {
                let value = self.stack.pop();
                let twice = self.builder.ins().ishl_imm_u(value, 1);
                let tagged = self.builder.ins().bor_imm_u(twice, object::I31.cast_signed());
                let reference = self.builder.ins().uextend(types::I64, tagged);
                self.stack.push(reference);
            }
            Operator::I31GetS => self.small_integer(true),
            Operator::I31GetU => self.small_integer(false),
            Operator::AnyConvertExtern | Operator::ExternConvertAny => {}
            Operator::RefFunc { function_index } => {
                let reference = self.func_ref(FuncIndex::from_u32(function_index));
                self.stack.push(reference);
            }
            Operator::RefAsNonNull => {
                let reference = self.stack.top(1)[0];
                self.save_fuel();
                self.builder.ins().trapz(reference, trap_code(Trap::NullReference));
            }
            Operator::BrOnNull { relative_depth } => {
                let reference = self.stack.pop();
                self.flush_fuel();
                let (target, arity) = self.target(relative_depth);
                let arguments = self.arguments(arity);
                let next = self.builder.create_block();
                self.builder.ins().brif(reference, next, &[], target, &arguments);
                self.go_on_in(next);
                self.stack.push(reference);
            }
            Operator::BrOnNonNull { relative_depth } => {
                // The reference is the last operand of the branch.
                let reference = self.stack.top(1)[0];
                self.flush_fuel();
                let (target, arity) = self.target(relative_depth);
                let arguments = self.arguments(arity);
                let next = self.builder.create_block();
                self.builder.ins().brif(reference, target, &arguments, next, &[]);
                self.go_on_in(next);
                self.stack.pop();
            }
            _ => return false,
        }
        true
    }

    /// Takes the integer out of a reference, with its sign or without.
    fn small_integer(&mut self, signed: bool) {
        let reference = self.stack.pop();
        self.save_fuel();
        self.builder.ins().trapz(reference, trap_code(Trap::NullI31Reference));
        let tagged = self.builder.ins().ireduce(types::I32, reference);
        let value = match signed {
            true => self.builder.ins().sshr_imm_u(tagged, 1),
            false => self.builder.ins().ushr_imm_u(tagged, 1),
        };
        self.stack.push(value);
    }

    /// Continues in a block whose only predecessor was just finished.
    pub(super) fn go_on_in(&mut self, block: Block) {
        self.builder.switch_to_block(block);
        self.builder.seal_block(block);
    }

    /// A reference to a function of the module.
    pub(super) fn func_ref(&mut self, function: FuncIndex) -> Value {
        self.func_refs.taken = true;
        let module = self.env.module;
        match module.functions[function].func_ref {
            Some(number) => self.vmctx_address(module.vmctx.func_ref(number.as_u32())),
            None => {
                // Validation allows references only to functions that escape;
                // those without a number are imported.
                let slot = module.vmctx.imported_function(function.as_u32());
                self.vmctx_field(types::I64, slot + func_import::FUNC_REF)
            }
        }
    }
}

/// Whether values of a type can be references to exceptions or objects, which the loader looks for on the stack.
pub(super) fn is_traced(ty: ValType) -> bool {
    ty.is_collected() || matches!(ty, ValType::Ref(ty) if ty.heap.top() == HeapType::Exn)
}
