//! Structures: made of values or zeros, and their fields.

use cranelift_codegen::ir::{InstBuilder as _, Value, types};
use cwasm_artifact::abi::object::{NO_ARRAY, StructLayout};
use cwasm_artifact::abi::traps::Trap;
use cwasm_artifact::types::{CompositeType, FieldType};
use wasmparser::Operator;

use super::Translator;
use super::object::Place;
use crate::module::TypeIndex;

impl<'a> Translator<'a, '_> {
    /// Translates the operator if it belongs to this family.
    pub(super) fn structure(&mut self, operator: &Operator<'_>) -> bool {
        match *operator {
            Operator::StructNew { struct_type_index } => {
                let ty = TypeIndex::from_u32(struct_type_index);
                let count = self.fields(ty).len();
                let values = self.stack.top(count).to_vec();
                let object = self.new_structure(ty, |_, position, _| values[position]);
                self.stack.drop(count);
                self.stack.push(object);
            }
            Operator::StructNewDefault { struct_type_index } => {
                let ty = TypeIndex::from_u32(struct_type_index);
                let object = self.new_structure(ty, |this, _, field| this.zero(field.storage));
                self.stack.push(object);
            }
            Operator::StructGet { struct_type_index, field_index }
            | Operator::StructGetU { struct_type_index, field_index } => {
                self.get_field(struct_type_index, field_index, false);
            }
            Operator::StructGetS { struct_type_index, field_index } => {
                self.get_field(struct_type_index, field_index, true);
            }
            Operator::StructSet { struct_type_index, field_index } => {
                let (object, value) = self.stack.pop2();
                let place = self.field(object, struct_type_index, field_index);
                self.write(place, value);
            }
            _ => return false,
        }
        true
    }

    /// Makes a structure whose fields are what `value` says of each, by its position.
    fn new_structure(
        &mut self,
        ty: TypeIndex,
        mut value: impl FnMut(&mut Self, usize, FieldType) -> Value,
    ) -> Value {
        let fields = self.fields(ty);
        let layout = StructLayout::new(fields);
        let size = self.builder.ins().iconst(types::I64, i64::from(layout.size));
        let address = self.allocate(size);
        let no_array = self.u32_constant(NO_ARRAY);
        self.write_header(address, ty, no_array);
        for (position, (field, offset)) in fields.iter().zip(layout.offsets).enumerate() {
            let value = value(self, position, *field);
            self.write(Place { storage: field.storage, address, offset, null: None }, value);
        }
        address
    }

    fn get_field(&mut self, ty: u32, field: u32, signed: bool) {
        let object = self.stack.pop();
        let place = self.field(object, ty, field);
        let value = self.read(place, signed);
        self.stack.push(value);
    }

    /// Where a field of a structure is, which may be null.
    fn field(&self, address: Value, ty: u32, field: u32) -> Place {
        let fields = self.fields(TypeIndex::from_u32(ty));
        // Fields behind it do not matter.
        let known = &fields[..=field as usize];
        let offset = StructLayout::new(known).offsets[field as usize];
        let storage = known[field as usize].storage;
        Place { storage, address, offset, null: Some(Trap::NullStructReference) }
    }

    fn fields(&self, ty: TypeIndex) -> &'a [FieldType] {
        match &self.env.module.types[ty].composite {
            CompositeType::Struct(ty) => &ty.fields,
            // Validation makes sure that it is a structure.
            _ => &[],
        }
    }
}
