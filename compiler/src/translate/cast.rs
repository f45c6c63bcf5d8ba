//! Tests and casts of references.
//!
//! A reference is tested step by step, each of which leads to a block: null, then the tag, then the header of the object. What
//! is known of the operand's type leaves out steps. A type without subtypes is one comparison; of another, the
//! loader has a list of the types that each type is below, at whose depth the wanted one has its place.

use cranelift_codegen::ir::{Block, InstBuilder as _, Value, condcodes::IntCC, types};
use cwasm_artifact::abi::object::{HOST, I31, LENGTH, NO_ARRAY, TAG_MASK, TYPE_ID, type_info};
use cwasm_artifact::abi::traps::Trap;
use cwasm_artifact::abi::vmctx::{func_ref, store_context};
use cwasm_artifact::types::{HeapType, RefType, TypeRef};
use wasmparser::{AbstractHeapType, Operator};

use super::runtime::{field, offset32};
use super::{Translator, trap_code};
use crate::module::{TypeIndex, heap_type, ref_type};

/// What is known of an operand before it is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// Whether it may be null.
    nullable: bool,
    /// Whether it may be something else than an object or a function.
    tagged: bool,
}

impl Known {
    /// What the validator knows of the operand of a test or cast, which it has not seen yet.
    pub(super) fn of(operand: Option<Option<wasmparser::ValType>>) -> Self {
        let Some(Some(wasmparser::ValType::Ref(ty))) = operand else {
            return Self { nullable: true, tagged: true };
        };
        let tagged = match ty.heap_type() {
            wasmparser::HeapType::Abstract { ty, .. } => {
                !matches!(ty, AbstractHeapType::Struct | AbstractHeapType::Array)
            }
            _ => false,
        };
        Self { nullable: ty.is_nullable(), tagged }
    }
}

/// Whether an operator tests its operand, of whose type it says nothing.
pub(super) fn tests_operand(operator: &Operator<'_>) -> bool {
    matches!(
        operator,
        Operator::RefTestNonNull { .. }
            | Operator::RefTestNullable { .. }
            | Operator::RefCastNonNull { .. }
            | Operator::RefCastNullable { .. }
    )
}

impl Translator<'_, '_> {
    /// Translates the operator if it belongs to this family.
    pub(super) fn cast(&mut self, operator: &Operator<'_>) -> bool {
        let operand = self.operand;
        let wanted = |this: &Self, nullable, ty| {
            let heap = heap_type(ty, &this.env.module.types);
            RefType { nullable, heap: heap.unwrap_or(HeapType::None) }
        };
        match *operator {
            Operator::RefTestNonNull { hty } => self.test(wanted(self, false, hty), operand),
            Operator::RefTestNullable { hty } => self.test(wanted(self, true, hty), operand),
            Operator::RefCastNonNull { hty } => self.cast_to(wanted(self, false, hty), operand),
            Operator::RefCastNullable { hty } => self.cast_to(wanted(self, true, hty), operand),
            Operator::BrOnCast { relative_depth, from_ref_type, to_ref_type } => {
                self.branch_on(relative_depth, from_ref_type, to_ref_type, true);
            }
            Operator::BrOnCastFail { relative_depth, from_ref_type, to_ref_type } => {
                self.branch_on(relative_depth, from_ref_type, to_ref_type, false);
            }
            _ => return false,
        }
        true
    }

    fn test(&mut self, wanted: RefType, operand: Known) {
        let reference = self.stack.pop();
        let (yes, no, done) = (self.new_block(), self.new_block(), self.new_block());
        let result = self.builder.append_block_param(done, types::I32);
        self.decide(reference, wanted, operand, yes, no);
        for (block, value) in [(yes, 1), (no, 0)] {
            self.go_on_in(block);
            let value = self.u32_constant(value);
            self.builder.ins().jump(done, &[value.into()]);
        }
        self.go_on_in(done);
        self.stack.push(result);
    }

    fn cast_to(&mut self, wanted: RefType, operand: Known) {
        let reference = self.stack.top(1)[0];
        let (yes, no) = (self.new_block(), self.builder.create_block());
        self.builder.set_cold_block(no);
        self.save_fuel();
        self.decide(reference, wanted, operand, yes, no);
        self.go_on_in(no);
        self.builder.ins().trap(trap_code(Trap::CastFailure));
        self.go_on_in(yes);
    }

    /// Branches if the operand is of a type, or if it is not. It is the last operand of the branch, and stays.
    fn branch_on(
        &mut self,
        depth: u32,
        from: wasmparser::RefType,
        to: wasmparser::RefType,
        if_it_is: bool,
    ) {
        let operand = Known::of(Some(Some(wasmparser::ValType::Ref(from))));
        let wanted = ref_type(to, &self.env.module.types);
        let wanted = wanted.unwrap_or(RefType { nullable: false, heap: HeapType::None });
        let reference = self.stack.top(1)[0];
        self.flush_fuel();
        let (target, arity) = self.target(depth);
        let arguments = self.arguments(arity);
        let (branch, next) = (self.new_block(), self.new_block());
        let (yes, no) = if if_it_is { (branch, next) } else { (next, branch) };
        self.decide(reference, wanted, operand, yes, no);
        self.go_on_in(branch);
        self.builder.ins().jump(target, &arguments);
        self.go_on_in(next);
    }

    /// Goes to one block if a reference is of a type, and to another if it is not. Neither is sealed.
    fn decide(&mut self, reference: Value, wanted: RefType, known: Known, yes: Block, no: Block) {
        if known.nullable {
            let not_null = self.new_block();
            let if_null = if wanted.nullable { yes } else { no };
            self.builder.ins().brif(reference, not_null, &[], if_null, &[]);
            self.go_on_in(not_null);
        }
        let jump = |this: &mut Self, to| {
            this.builder.ins().jump(to, &[]);
        };
        match wanted.heap {
            HeapType::NoFunc | HeapType::NoExtern | HeapType::NoExn | HeapType::None => {
                jump(self, no);
            }
            HeapType::Func | HeapType::Extern | HeapType::Exn | HeapType::Any => jump(self, yes),
            HeapType::Eq if known.tagged => {
                let tag = self.builder.ins().band_imm_u(reference, TAG_MASK.cast_signed());
                let is_host = self.builder.ins().icmp_imm_u(IntCC::Equal, tag, HOST.cast_signed());
                self.builder.ins().brif(is_host, no, &[], yes, &[]);
            }
            HeapType::Eq => jump(self, yes),
            HeapType::I31 if known.tagged => {
                let bit = self.builder.ins().band_imm_u(reference, I31.cast_signed());
                self.builder.ins().brif(bit, yes, &[], no, &[]);
            }
            HeapType::I31 => jump(self, no),
            HeapType::Struct | HeapType::Array => {
                self.decide_tag(reference, known, no);
                let length = self.header(reference, LENGTH);
                let no_array = i64::from(NO_ARRAY);
                let is_struct = self.builder.ins().icmp_imm_u(IntCC::Equal, length, no_array);
                let (of_struct, of_array) =
                    if wanted.heap == HeapType::Struct { (yes, no) } else { (no, yes) };
                self.builder.ins().brif(is_struct, of_struct, &[], of_array, &[]);
            }
            HeapType::ConcreteStruct(ty) | HeapType::ConcreteArray(ty) => {
                self.decide_tag(reference, known, no);
                let found = self.header(reference, TYPE_ID);
                self.decide_type(found, ty, yes, no);
            }
            HeapType::Concrete(ty) => {
                let flags = field().with_readonly();
                let offset = offset32(func_ref::TYPE_ID);
                let found = self.builder.ins().load(types::I32, flags, reference, offset);
                self.decide_type(found, ty, yes, no);
            }
            _ => jump(self, no),
        }
    }

    /// Goes to a block if a reference is none to an object.
    fn decide_tag(&mut self, reference: Value, known: Known, no: Block) {
        if !known.tagged {
            return;
        }
        let object = self.new_block();
        let tag = self.builder.ins().band_imm_u(reference, TAG_MASK.cast_signed());
        self.builder.ins().brif(tag, no, &[], object, &[]);
        self.go_on_in(object);
    }

    fn decide_type(&mut self, found: Value, wanted: TypeRef, yes: Block, no: Block) {
        let wanted = TypeIndex::from_u32(wanted.number());
        let expected = self.type_id(wanted);
        let equal = self.builder.ins().icmp(IntCC::Equal, found, expected);
        if self.env.module.types[wanted].is_final {
            self.builder.ins().brif(equal, yes, &[], no, &[]);
            return;
        }
        let other = self.new_block();
        self.builder.ins().brif(equal, yes, &[], other, &[]);
        self.go_on_in(other);
        self.decide_below(found, wanted, yes, no);
    }

    /// Goes to one block if the type with an identity is below another, and to another if it is not.
    pub(super) fn decide_below(&mut self, found: Value, wanted: TypeIndex, yes: Block, no: Block) {
        let depth = self.env.module.depth(wanted);
        let store = self.store_context();
        let flags = self.store_field();
        let infos = offset32(store_context::TYPE_INFOS);
        let infos = self.builder.ins().load(types::I64, flags, store, infos);
        let wide = self.builder.ins().uextend(types::I64, found);
        let offset = self.builder.ins().ishl_imm_u(wide, 3);
        let entry = self.builder.ins().iadd(infos, offset);
        let info = self.builder.ins().load(types::I64, field(), entry, 0);
        // There is a position for each depth that a type may have.
        let offset = offset32(type_info::ABOVE + 4 * depth);
        // What is there depends on the type, which was just looked at.
        let above = self.builder.ins().load(types::I32, field(), info, offset);
        let expected = self.type_id(wanted);
        let is_below = self.builder.ins().icmp(IntCC::Equal, above, expected);
        self.builder.ins().brif(is_below, yes, &[], no, &[]);
    }

    /// A part of the header of an object that is not null.
    fn header(&mut self, object: Value, offset: u32) -> Value {
        let flags = self.object_flags();
        self.builder.ins().load(types::I32, flags, object, offset32(offset))
    }
}
