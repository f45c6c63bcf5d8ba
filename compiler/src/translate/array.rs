//! Arrays: made of values, zeros or segments, and their elements, one by one or many at once.
//!
//! SANDBOX-CRITICAL: whether elements are within their array is checked in [`Translator::element`] and
//! [`Translator::elements`], and nowhere else.

use cranelift_codegen::ir::{BlockArg, InstBuilder as _, Value, condcodes::IntCC, types};
use cwasm_artifact::abi::builtins::Builtin;
use cwasm_artifact::abi::object::{ALIGNMENT, FIRST, LENGTH};
use cwasm_artifact::abi::traps::Trap;
use cwasm_artifact::types::{CompositeType, StorageType, ValType};
use wasmparser::Operator;

use super::object::Place;
use super::{Translator, trap_code};
use crate::module::TypeIndex;

/// Elements of a known number are written one by one up to this.
const MAX_UNROLLED: u32 = 8;

impl Translator<'_, '_> {
    /// Translates the operator if it belongs to this family.
    pub(super) fn array(&mut self, operator: &Operator<'_>) -> bool {
        match *operator {
            Operator::ArrayNew { array_type_index } => {
                let ty = TypeIndex::from_u32(array_type_index);
                let (value, length) = self.stack.pop2();
                let object = self.new_array(ty, length);
                self.fill_array(object, self.storage(ty), value, length);
                self.stack.push(object);
            }
            Operator::ArrayNewDefault { array_type_index } => {
                let ty = TypeIndex::from_u32(array_type_index);
                let length = self.stack.pop();
                let object = self.new_array(ty, length);
                let storage = self.storage(ty);
                let zero = self.zero(storage);
                self.fill_array(object, storage, zero, length);
                self.stack.push(object);
            }
            Operator::ArrayNewFixed { array_type_index, array_size } => {
                self.new_fixed(TypeIndex::from_u32(array_type_index), array_size);
            }
            Operator::ArrayNewData { array_type_index, array_data_index } => {
                let segment = Segment::data(array_data_index);
                self.new_from_segment(TypeIndex::from_u32(array_type_index), segment);
            }
            Operator::ArrayNewElem { array_type_index, array_elem_index } => {
                let segment = Segment::elements(array_elem_index);
                self.new_from_segment(TypeIndex::from_u32(array_type_index), segment);
            }
            Operator::ArrayGet { array_type_index } | Operator::ArrayGetU { array_type_index } => {
                self.get_element(array_type_index, false)
            }
            Operator::ArrayGetS { array_type_index } => self.get_element(array_type_index, true),
            Operator::ArraySet { array_type_index } => {
                let (array, index, value) = self.stack.pop3();
                let place = self.element(array, TypeIndex::from_u32(array_type_index), index);
                self.write(place, value);
            }
            Operator::ArrayLen => {
                let array = self.stack.pop();
                let length = self.length(array);
                self.stack.push(length);
            }
            Operator::ArrayFill { array_type_index } => {
                let length = self.stack.pop();
                let (array, start, value) = self.stack.pop3();
                let ty = TypeIndex::from_u32(array_type_index);
                let first = self.elements(array, ty, start, length);
                self.fill_elements(first, self.storage(ty), value, length);
            }
            Operator::ArrayCopy { array_type_index_dst, array_type_index_src } => {
                let (source, from, length) = self.stack.pop3();
                let (target, to) = self.stack.pop2();
                let to =
                    self.elements(target, TypeIndex::from_u32(array_type_index_dst), to, length);
                let ty = TypeIndex::from_u32(array_type_index_src);
                let from = self.elements(source, ty, from, length);
                let bytes = self.bytes(length, self.storage(ty));
                let (to, from) = (self.first(to), self.first(from));
                self.builtin(Builtin::MemoryMove, &[to, from, bytes]);
            }
            Operator::ArrayInitData { array_type_index, array_data_index } => {
                let segment = Segment::data(array_data_index);
                self.init_from_segment(TypeIndex::from_u32(array_type_index), segment);
            }
            Operator::ArrayInitElem { array_type_index, array_elem_index } => {
                let segment = Segment::elements(array_elem_index);
                self.init_from_segment(TypeIndex::from_u32(array_type_index), segment);
            }
            _ => return false,
        }
        true
    }

    /// Makes an array, whose elements must be written at once.
    fn new_array(&mut self, ty: TypeIndex, length: Value) -> Value {
        let bytes = self.bytes(length, self.storage(ty));
        let around = i64::from(FIRST + ALIGNMENT - 1);
        let size = self.builder.ins().iadd_imm_u(bytes, around);
        let size = self.builder.ins().band_imm_s(size, -i64::from(ALIGNMENT));
        let object = self.allocate(size);
        self.write_header(object, ty, length);
        object
    }

    fn new_fixed(&mut self, ty: TypeIndex, count: u32) {
        let storage = self.storage(ty);
        let length = self.u32_constant(count);
        let address = self.new_array(ty, length);
        let values = self.stack.top(count as usize).to_vec();
        for (position, value) in (0..).zip(values) {
            // At most 10,000 of 16 bytes.
            let offset = FIRST + position * storage.size();
            self.write(Place { storage, address, offset, null: None }, value);
        }
        self.stack.drop(count as usize);
        self.stack.push(address);
    }

    fn new_from_segment(&mut self, ty: TypeIndex, segment: Segment) {
        let (start, length) = self.stack.pop2();
        // Whether there are so many comes first: an object must be complete before anything can go wrong.
        let nowhere = self.constant(types::I64, 0);
        self.init(segment, nowhere, self.storage(ty), start, length);
        let object = self.new_array(ty, length);
        let first = self.first(object);
        self.init(segment, first, self.storage(ty), start, length);
        self.stack.push(object);
    }

    fn init_from_segment(&mut self, ty: TypeIndex, segment: Segment) {
        let (to, start, length) = self.stack.pop3();
        let array = self.stack.pop();
        let place = self.elements(array, ty, to, length);
        let first = self.first(place);
        self.init(segment, first, self.storage(ty), start, length);
    }

    /// Copies from a segment, or traps if it has not so much.
    fn init(
        &mut self,
        segment: Segment,
        to: Value,
        storage: StorageType,
        start: Value,
        length: Value,
    ) {
        self.func_refs.taken |= segment.builtin == Builtin::ArrayInitElem;
        let length = match segment.builtin {
            Builtin::ArrayInitData => self.bytes(length, storage),
            _ => self.builder.ins().uextend(types::I64, length),
        };
        let start = self.builder.ins().uextend(types::I64, start);
        let number = self.u32_constant(segment.number);
        self.builtin_or_trap(segment.builtin, &[number, to, start, length], segment.outside);
    }

    fn get_element(&mut self, ty: u32, signed: bool) {
        let (array, index) = self.stack.pop2();
        let place = self.element(array, TypeIndex::from_u32(ty), index);
        let value = self.read(place, signed);
        self.stack.push(value);
    }

    /// Where an element is, or a trap if the array has none with this index. Speculation past the check gets the first.
    fn element(&mut self, array: Value, ty: TypeIndex, index: Value) -> Place {
        let storage = self.storage(ty);
        let length = self.length(array);
        let outside = self.builder.ins().icmp(IntCC::UnsignedGreaterThanOrEqual, index, length);
        self.save_fuel();
        self.builder.ins().trapnz(outside, trap_code(Trap::ArrayOutOfBounds));
        let first = self.constant(types::I32, 0);
        let index = self.builder.ins().select_spectre_guard(outside, first, index);
        let bytes = self.bytes(index, storage);
        let address = self.builder.ins().iadd(array, bytes);
        Place { storage, address, offset: FIRST, null: None }
    }

    /// An address that is as far into the array as an element, or a trap if there are not so many from there on.
    fn elements(&mut self, array: Value, ty: TypeIndex, start: Value, length: Value) -> Value {
        let available = self.length(array);
        let ins = |this: &mut Self, value| this.builder.ins().uextend(types::I64, value);
        let (wide, available) = (ins(self, start), ins(self, available));
        let length = ins(self, length);
        let end = self.builder.ins().iadd(wide, length);
        let outside = self.builder.ins().icmp(IntCC::UnsignedGreaterThan, end, available);
        self.save_fuel();
        self.builder.ins().trapnz(outside, trap_code(Trap::ArrayOutOfBounds));
        let bytes = self.bytes(start, self.storage(ty));
        self.builder.ins().iadd(array, bytes)
    }

    /// Where the elements begin of what begins here.
    fn first(&mut self, object: Value) -> Value {
        self.builder.ins().iadd_imm_u(object, i64::from(FIRST))
    }

    /// How many elements an array has, which may be null.
    fn length(&mut self, array: Value) -> Value {
        let place = Place {
            storage: ValType::I32.into(),
            address: array,
            offset: LENGTH,
            null: Some(Trap::NullArrayReference),
        };
        self.read(place, false)
    }

    /// How many bytes so many elements are, in 64 bits.
    fn bytes(&mut self, count: Value, storage: StorageType) -> Value {
        let wide = self.builder.ins().uextend(types::I64, count);
        self.builder.ins().ishl_imm_u(wide, i64::from(storage.size().ilog2()))
    }

    /// Fills a new array.
    fn fill_array(&mut self, object: Value, storage: StorageType, value: Value, length: Value) {
        match self.constant_of(length).and_then(|count| u32::try_from(count).ok()) {
            Some(count @ 0..=MAX_UNROLLED) => {
                for position in 0..count {
                    let offset = FIRST + position * storage.size();
                    self.write(Place { storage, address: object, offset, null: None }, value);
                }
            }
            _ => self.fill_elements(object, storage, value, length),
        }
    }

    /// Writes the same to elements, which begin behind a header at this address.
    fn fill_elements(&mut self, place: Value, storage: StorageType, value: Value, length: Value) {
        let bytes = self.bytes(length, storage);
        let byte = match storage {
            StorageType::I8 => Some(value),
            _ if self.constant_of(value) == Some(0) => Some(self.constant(types::I32, 0)),
            _ => None,
        };
        if let Some(byte) = byte {
            let first = self.first(place);
            self.builtin(Builtin::MemorySet, &[first, byte, bytes]);
            return;
        }
        let end = self.builder.ins().iadd(place, bytes);
        let (header, body, done) = (self.new_block(), self.new_block(), self.new_block());
        let address = self.builder.append_block_param(header, types::I64);
        self.builder.ins().jump(header, &[BlockArg::from(place)]);
        self.builder.switch_to_block(header);
        let is_end = self.builder.ins().icmp(IntCC::Equal, address, end);
        self.builder.ins().brif(is_end, done, &[], body, &[]);
        self.go_on_in(body);
        self.write(Place { storage, address, offset: FIRST, null: None }, value);
        let next = self.builder.ins().iadd_imm_u(address, i64::from(storage.size()));
        self.builder.ins().jump(header, &[BlockArg::from(next)]);
        self.builder.seal_block(header);
        self.go_on_in(done);
    }

    fn storage(&self, ty: TypeIndex) -> StorageType {
        match &self.env.module.types[ty].composite {
            CompositeType::Array(element) => element.storage,
            // Validation makes sure that it is an array.
            _ => ValType::I32.into(),
        }
    }
}

/// What elements are copied from.
#[derive(Clone, Copy)]
struct Segment {
    number: u32,
    builtin: Builtin,
    /// Why a copy of more than there is traps.
    outside: Trap,
}

impl Segment {
    fn data(number: u32) -> Self {
        Self { number, builtin: Builtin::ArrayInitData, outside: Trap::MemoryOutOfBounds }
    }

    fn elements(number: u32) -> Self {
        Self { number, builtin: Builtin::ArrayInitElem, outside: Trap::TableOutOfBounds }
    }
}
