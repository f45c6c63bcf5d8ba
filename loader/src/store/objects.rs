//! Objects of a store: how they are made, found, and collected together with exceptions.

use std::ptr::NonNull;

use cwasm_artifact::abi::object::{
    FIRST, HOST, I31, LENGTH, MAX_SIZE, NO_ARRAY, TAG_MASK, TYPE_ID,
};
use cwasm_artifact::types::{HeapType, RefType, ValType};

use super::StoreCore;
use crate::error::Error;
use crate::type_registry::TypeInfo;
use crate::vm::exception::holds_exceptions;
use crate::vm::heap::Refused;
use crate::vm::layout::VmValue;
use crate::vm::table::RawRef;

/// What is in a new object.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Content<'a> {
    /// The fields of a structure.
    Fields(&'a [VmValue]),
    /// The elements of an array.
    Elements(&'a [VmValue]),
    /// So many equal elements.
    Repeated(VmValue, u32),
}

impl StoreCore<'_> {
    /// Memory for an object, whose bytes are anything. `None` if the store may not have more, even without the objects that nothing leads to. Whoever asks
    /// writes the object before anything else uses the store.
    ///
    /// # Safety
    /// As for [`StoreCore::add_exception`].
    pub(crate) unsafe fn allocate(
        &mut self,
        size: usize,
        stack: Option<usize>,
    ) -> Option<NonNull<u8>> {
        if size as u64 > MAX_SIZE {
            return None;
        }
        let limit = self.limits.objects;
        match self.heap.allocate(&mut self.context.objects, size, limit) {
            Ok(place) => return Some(place),
            Err(Refused::Full) => return None,
            Err(Refused::Collect) => {}
        }
        // SAFETY: the caller's promise is the same.
        unsafe { self.collect(stack) };
        self.heap.allocate(&mut self.context.objects, size, limit).ok()
    }

    /// Makes an object of the type with this number. `None` if there is no memory for it, or the type has no such content.
    ///
    /// References in the content are kept by something else, as making an object may free others.
    ///
    /// # Safety
    /// As for [`StoreCore::add_exception`]. The values are of the types of the fields, and belong to the store.
    pub(crate) unsafe fn make_object(
        &mut self,
        type_id: u32,
        content: Content<'_>,
        stack: Option<usize>,
    ) -> Option<NonNull<u8>> {
        let shape = self.types.get(type_id)?.shape()?;
        let length = match content {
            Content::Fields(_) => NO_ARRAY,
            Content::Elements(values) => u32::try_from(values.len()).ok()?,
            Content::Repeated(_, length) => length,
        };
        let size = shape.size(length);
        // SAFETY: the caller's promise is the same.
        let place = unsafe { self.allocate(size, stack) }?;
        let ty = self.types.get(type_id)?;
        let write = |index: u32, value: VmValue| {
            let Some((field, offset)) = ty.field(index) else { return };
            // SAFETY: the object was just made, as large as its type and length say, so it has the field.
            unsafe { value.write_field(place.as_ptr().add(offset), field.storage) };
        };
        // SAFETY: the header is a part of every object, which is aligned to it.
        unsafe {
            place.add(TYPE_ID as usize).cast::<u32>().write(type_id);
            place.add(LENGTH as usize).cast::<u32>().write(length);
        }
        match content {
            Content::Fields(values) | Content::Elements(values) => {
                (0..).zip(values).for_each(|(index, value)| write(index, *value));
            }
            Content::Repeated(value, length) => (0..length).for_each(|index| write(index, value)),
        }
        Some(place)
    }

    /// A type that objects of the store have.
    pub(crate) fn object_type(&self, heap: HeapType) -> Result<&TypeInfo, Error> {
        let info = heap.concrete().and_then(|name| self.named_type(name));
        let wanted = "type of a module in the store";
        info.filter(|info| info.heap_type() == heap)
            .ok_or(Error::ObjectType { wanted, found: heap })
    }

    /// The type of an object, and how many fields or elements it has. `None` if the reference, which is live, is not one to an object.
    pub(crate) fn find_object(&self, raw: RawRef) -> Option<(&TypeInfo, u32)> {
        if raw.addr() as u64 & TAG_MASK != 0 {
            return None;
        }
        let header = self.heap.header(raw.addr())?;
        let ty = self.types.get(header.type_id)?;
        let length = match header.length {
            NO_ARRAY => u32::try_from(ty.fields().len()).unwrap_or(u32::MAX),
            length => length,
        };
        Some((ty, length))
    }

    /// The most special type of a live reference that is not null, below `any`.
    pub(crate) fn type_of_reference(&self, raw: RawRef) -> HeapType {
        match raw.addr() as u64 {
            bits if bits & I31 != 0 => HeapType::I31,
            bits if bits & TAG_MASK == HOST => HeapType::Any,
            _ => self.find_object(raw).map_or(HeapType::Any, |(ty, _)| ty.heap_type()),
        }
    }

    /// Refuses a live reference that is not of a type, where both are below `any` or below `extern`.
    pub(crate) fn check_reference(&self, raw: RawRef, wanted: RefType) -> Result<(), Error> {
        let found = match wanted.heap.top() {
            _ if raw.is_null() => wanted.null(),
            HeapType::Any => RefType { nullable: false, heap: self.type_of_reference(raw) },
            heap => RefType { nullable: false, heap },
        };
        let (found, wanted) = (ValType::Ref(found), ValType::Ref(wanted));
        if self.is_subtype_of(found, wanted) {
            return Ok(());
        }
        Err(Error::ValueType { wanted, found })
    }

    /// How many bytes the objects take, with what is kept free between them.
    pub(crate) fn object_bytes(&self) -> usize {
        self.heap.used_bytes()
    }

    /// Frees objects and exceptions that nothing leads to.
    ///
    /// What leads to them: handles of the host, and the exception that is being thrown; tables and globals; what constant expressions have
    /// made so far, and element segments that were made of it; the stack of wasm; and the objects and exceptions that those lead to.
    ///
    /// # Safety
    /// As for [`StoreCore::add_exception`].
    pub(crate) unsafe fn collect(&mut self, stack: Option<usize>) {
        let ranges = self.wasm_stack(stack);
        let has_objects = self.heap.used_bytes() > 0;
        let Self {
            context,
            heap,
            types,
            roots,
            exceptions,
            tables,
            globals,
            instances,
            constants,
            ..
        } = self;
        let mut looked_at = 0;
        heap.collect(&mut context.objects, &*types, |marker| {
            // Of exceptions that were marked.
            let mut found = Vec::new();
            exceptions.mark_what_the_host_holds(&mut found);
            roots.all().for_each(|raw| marker.reference(raw));
            for table in tables.iter() {
                let element = table.ty().element;
                if holds_exceptions(element) {
                    for raw in table.range(0, table.size()).unwrap_or_default() {
                        looked_at += 1;
                        exceptions.mark(raw.addr(), &mut found);
                    }
                } else if has_objects && element.is_collected() {
                    let all = table.range(0, table.size()).unwrap_or_default();
                    all.iter().for_each(|raw| marker.reference(raw.addr()));
                }
            }
            for global in globals.iter() {
                let ty = global.ty.value;
                if holds_exceptions(ty) {
                    exceptions.mark(global.value().to_ref().addr(), &mut found);
                } else if has_objects && ty.is_collected() {
                    marker.reference(global.value().to_ref().addr());
                }
            }
            for instance in instances.iter() {
                let made = instance.made_elements.iter().flatten().flatten();
                made.for_each(|raw| marker.reference(raw.addr()));
            }
            for value in constants.iter() {
                marker.word(value.to_ref().addr());
                exceptions.mark(value.to_ref().addr(), &mut found);
            }
            for (from, to) in ranges {
                let mut at = from.next_multiple_of(size_of::<usize>());
                while at < to {
                    looked_at += 1;
                    // SAFETY: the range is a part of this thread's stack, or of that of a thread which waits for this
                    // one, between frames of compiled code that are not finished.
                    let word = unsafe { std::ptr::with_exposed_provenance::<usize>(at).read() };
                    exceptions.mark(word, &mut found);
                    marker.word(word);
                    at += size_of::<usize>();
                }
            }
            // Objects lead to exceptions, and those to objects.
            loop {
                found.drain(..).for_each(|raw| marker.reference(raw));
                marker.trace();
                for address in marker.take_exceptions() {
                    exceptions.mark(address, &mut found);
                }
                if found.is_empty() {
                    break;
                }
            }
        });
        exceptions.sweep(looked_at);
    }
}

const _: () = assert!(FIRST as usize == crate::vm::heap::HEADER);
