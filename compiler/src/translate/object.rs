//! Objects: how they are made, and how their fields and elements are read and written.
//!
//! Memory for a new one is the next piece of what the store context offers, if there is enough; otherwise the loader finds some,
//! and may free what nothing leads to. Nothing may do that before the header and everything in the object is written.
//!
//! An access through null faults in the lowest page, which is never mapped, or is checked if it would be behind that.

use cranelift_codegen::ir::{
    BlockArg, InstBuilder as _, MemFlagsData, Value, condcodes::IntCC, types,
};
use cwasm_artifact::abi::builtins::Builtin;
use cwasm_artifact::abi::object::{LENGTH, TYPE_ID};
use cwasm_artifact::abi::traps::Trap;
use cwasm_artifact::abi::vmctx::store_context;
use cwasm_artifact::types::StorageType;

use super::call::Callee;
use super::reference::is_traced;
use super::runtime::{field, offset32};
use super::{Translator, clif_type, trap_code};
use crate::module::TypeIndex;

/// No page is smaller, and the lowest one is never mapped.
const LOWEST_PAGE: u32 = 4096;

/// Where a field or element is.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) storage: StorageType,
    /// The object, or a place in it.
    pub(super) address: Value,
    pub(super) offset: u32,
    /// What happens if the address is null. Without that, it is not.
    pub(super) null: Option<Trap>,
}

impl Translator<'_, '_> {
    /// Memory for an object of so many bytes, a multiple of eight in 64 bits.
    pub(super) fn allocate(&mut self, size: Value) -> Value {
        self.holds_traced = true;
        let store = self.store_context();
        let flags = self.store_field();
        let next = offset32(store_context::OBJECTS_NEXT);
        let address = self.builder.ins().load(types::I64, flags, store, next);
        let end = offset32(store_context::OBJECTS_END);
        let end = self.builder.ins().load(types::I64, flags, store, end);
        // No size reaches 2^37, and no address 2^63.
        let behind = self.builder.ins().iadd(address, size);
        let fits = self.builder.ins().icmp(IntCC::UnsignedLessThanOrEqual, behind, end);
        let (enough, more, done) =
            (self.new_block(), self.builder.create_block(), self.new_block());
        self.builder.set_cold_block(more);
        let object = self.builder.append_block_param(done, types::I64);
        self.builder.ins().brif(fits, enough, &[], more, &[]);

        self.go_on_in(more);
        self.save_fuel();
        let (signature, code) = self.builtin_code(Builtin::ObjectNew);
        let arguments = [self.vmctx, size];
        let found =
            self.call_and_keep_nothing(signature, Callee::Pointer(code), &arguments, &[])[0];
        self.builder.ins().trapz(found, trap_code(Trap::OutOfObjectMemory));
        self.builder.ins().jump(done, &[BlockArg::from(found)]);

        self.go_on_in(enough);
        self.builder.ins().store(flags, behind, store, next);
        self.builder.ins().jump(done, &[BlockArg::from(address)]);
        self.go_on_in(done);
        object
    }

    /// Writes the header of a new object: its type, and how many elements it has.
    pub(super) fn write_header(&mut self, object: Value, ty: TypeIndex, length: Value) {
        let id = self.type_id(ty);
        let flags = self.object_flags();
        self.builder.ins().store(flags, id, object, offset32(TYPE_ID));
        self.builder.ins().store(flags, length, object, offset32(LENGTH));
    }

    /// The identity of a type in the process.
    pub(super) fn type_id(&mut self, ty: TypeIndex) -> Value {
        let module = self.env.module;
        self.vmctx_field(types::I32, module.vmctx.type_id(module.canonical_types[ty].as_u32()))
    }

    /// Reads a field or element; a packed one with its sign, or without.
    pub(super) fn read(&mut self, place: Place, signed: bool) -> Value {
        self.holds_traced |= is_traced(place.storage.value());
        let flags = self.flags_of(place);
        let (address, offset) = (place.address, offset32(place.offset));
        let ins = self.builder.ins();
        match (place.storage, signed) {
            (StorageType::I8, true) => ins.sload8(types::I32, flags, address, offset),
            (StorageType::I8, false) => ins.uload8(types::I32, flags, address, offset),
            (StorageType::I16, true) => ins.sload16(types::I32, flags, address, offset),
            (StorageType::I16, false) => ins.uload16(types::I32, flags, address, offset),
            (StorageType::Val(ty), _) => ins.load(clif_type(ty), flags, address, offset),
        }
    }

    /// Writes a field or element.
    pub(super) fn write(&mut self, place: Place, value: Value) {
        let flags = self.flags_of(place);
        let (address, offset) = (place.address, offset32(place.offset));
        match place.storage {
            StorageType::I8 => self.builder.ins().istore8(flags, value, address, offset),
            StorageType::I16 => self.builder.ins().istore16(flags, value, address, offset),
            StorageType::Val(_) => self.builder.ins().store(flags, value, address, offset),
        };
    }

    /// Zero, or null.
    pub(super) fn zero(&mut self, storage: StorageType) -> Value {
        match clif_type(storage.value()) {
            types::F32 => self.builder.ins().f32const(0.0),
            types::F64 => self.builder.ins().f64const(0.0),
            ty if ty.is_vector() => self.vector_constant(ty, [0; 16]),
            ty => self.constant(ty, 0),
        }
    }

    /// The flags of an access, after a check for null if a fault would not be one.
    fn flags_of(&mut self, place: Place) -> MemFlagsData {
        let Some(trap) = place.null else { return self.object_flags() };
        self.save_fuel();
        if place.offset + place.storage.size() > LOWEST_PAGE {
            self.builder.ins().trapz(place.address, trap_code(trap));
            return self.object_flags();
        }
        self.object_flags().with_trap_code(Some(trap_code(trap)))
    }

    /// Flags of accesses to objects that are certain to be there. Fields of vectors have half of their alignment.
    pub(super) fn object_flags(&self) -> MemFlagsData {
        MemFlagsData::new()
            .with_notrap()
            .with_endianness(field().endianness(cranelift_codegen::ir::Endianness::Little))
            .with_alias_region(Some(self.regions.objects))
    }
}
