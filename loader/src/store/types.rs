//! The types that a store uses.
//!
//! They are found in the artifacts and host functions of the store. Once code is there that may ask what a type is below, or make objects, there is also a table
//! of them by their numbers, which that code reads. It has the types of everything in the store, and whatever comes to
//! the store adds its own: so each reference in the store leads to something of a type that the table has.

use std::ptr::{self, NonNull};
use std::sync::Arc;

use cwasm_artifact::types::{FuncType, HeapType, TypeRef, ValType};

use super::StoreCore;
use crate::artifact::Artifact;
use crate::type_registry::{self, Registration, TypeInfo};
use crate::vm::heap::{Shape, Shapes};

/// Types by their numbers. Empty, if no code asks.
#[derive(Debug, Default)]
pub(super) struct TypeTable {
    /// What compiled code reads. Null where there is no type.
    for_code: Vec<*const u32>,
    /// The same types.
    infos: Vec<Option<NonNull<TypeInfo>>>,
}

impl TypeTable {
    /// Adds types.
    ///
    /// # Safety
    /// The registration outlives the table.
    unsafe fn add(&mut self, types: &Registration) {
        for ty in types.types() {
            let place = ty.id() as usize;
            if self.infos.len() <= place {
                self.infos.resize(place + 1, None);
                self.for_code.resize(place + 1, ptr::null());
            }
            self.infos[place] = Some(NonNull::from(&**ty));
            self.for_code[place] = ty.for_code();
        }
    }

    /// The type with this number.
    pub(super) fn get(&self, id: u32) -> Option<&TypeInfo> {
        let info = (*self.infos.get(id as usize)?)?;
        // SAFETY: a registration that outlives this has a share of it (see `add`).
        Some(unsafe { info.as_ref() })
    }
}

impl Shapes for TypeTable {
    #[inline]
    fn shape(&self, type_id: u32) -> Option<&Shape> {
        self.get(type_id)?.shape()
    }
}

impl<'code> StoreCore<'code> {
    /// Notes the types of an artifact that is one of the store's now.
    pub(super) fn add_types_of(&mut self, artifact: &'code Artifact) {
        // SAFETY: the store borrows its artifacts.
        unsafe { self.add_types(artifact.types()) };
    }

    /// Keeps types registered as long as the store.
    pub(crate) fn keep_types(&mut self, types: Arc<Registration>) {
        // SAFETY: the store never gives them up.
        unsafe { self.add_types(&types) };
        self.host_types.push(types);
    }

    /// Adds types to the table, if there is one, or is to be one now.
    ///
    /// # Safety
    /// The registration outlives the store.
    unsafe fn add_types(&mut self, types: &Registration) {
        if self.types.infos.is_empty() {
            if !types.is_of_interest() {
                return;
            }
            let known = self.artifacts.iter().map(|artifact| artifact.types());
            for types in known.chain(self.host_types.iter().map(|types| &**types)) {
                // SAFETY: the store borrows its artifacts, and never gives up the types of the host.
                unsafe { self.types.add(types) };
            }
        }
        // SAFETY: by the caller's promise.
        unsafe { self.types.add(types) };
        self.context.type_infos = self.types.for_code.as_ptr();
    }

    /// The type with this number, if the store uses it.
    pub(crate) fn find_type(&self, type_id: u32) -> Option<&TypeInfo> {
        if !self.types.infos.is_empty() {
            return self.types.get(type_id);
        }
        self.artifacts
            .iter()
            .map(|artifact| artifact.types())
            .chain(self.host_types.iter().map(|types| &**types))
            .find_map(|types| types.find(type_id))
    }

    /// The type with this name, if the store uses it.
    pub(crate) fn named_type(&self, name: TypeRef) -> Option<&TypeInfo> {
        self.find_type(name.number()).filter(|ty| ty.name() == name)
    }

    /// The type of a function of this store, by its number.
    pub(crate) fn func_type(&self, type_id: u32) -> Option<&FuncType> {
        self.find_type(type_id)?.func()
    }

    /// Whether a declared type is another or declared below it. Takes no lock if the store uses the first.
    pub(crate) fn is_subtype(&self, found: TypeRef, wanted: TypeRef) -> bool {
        found == wanted
            || match self.named_type(found) {
                Some(found) => found.is_below(wanted),
                None => type_registry::is_subtype(found, wanted),
            }
    }

    /// Whether a value type is a subtype of another.
    pub(crate) fn is_subtype_of(&self, found: ValType, wanted: ValType) -> bool {
        found.matches(wanted, |found, wanted| self.is_subtype(found, wanted))
    }

    /// The heap type of functions of a type.
    pub(crate) fn heap_type(&mut self, ty: FuncType) -> HeapType {
        let registration = Arc::new(Registration::new(ty));
        let heap = registration.types().first().map_or(HeapType::NoFunc, |ty| ty.heap_type());
        self.keep_types(registration);
        heap
    }
}
