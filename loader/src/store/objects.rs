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
        if size > limit {
            return None;
        }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cwasm_artifact::types::{
        CompositeType, FieldType, FuncType, GlobalType, Limits, StorageType, StructType, SubType,
        TableType, TagType, TypeRef,
    };

    use super::*;
    use crate::engine::Engine;
    use crate::store::{AsStore as _, AsStoreMut as _, Store};
    use crate::type_registry::Registration;
    use crate::{AnyRef, Exception, Func, Global, Ref, Table, Tag, Val};

    fn field(storage: impl Into<StorageType>, mutable: bool) -> FieldType {
        FieldType { storage: storage.into(), mutable }
    }

    /// A store with some types: a pair of any references, one of everything below it, bytes, and references to exceptions.
    fn store() -> (Store<'static, ()>, [HeapType; 4]) {
        let any = ValType::AnyRef;
        let pair = vec![field(any, true), field(any, true)];
        let all = [
            field(StorageType::I8, true),
            field(StorageType::I16, true),
            field(ValType::I32, true),
            field(ValType::I64, true),
            field(ValType::F64, false),
            field(ValType::V128, true),
            field(ValType::FuncRef, true),
            field(ValType::ExternRef, true),
        ];
        let wide = [pair.as_slice(), &all].concat();
        let open = |fields, supertype| SubType {
            composite: CompositeType::Struct(StructType { fields }),
            is_final: false,
            supertype,
        };
        let array = |element| SubType::alone(CompositeType::Array(element));
        let types = [
            open(pair, None),
            open(wide, Some(TypeRef::of_module(0))),
            array(field(StorageType::I8, true)),
            array(field(ValType::ExnRef, true)),
        ];
        let types = Arc::new(Registration::of_module(&types, &[0, 1, 2, 3]));
        let heap = [0, 1, 2, 3].map(|index: usize| types.types()[index].heap_type());
        let mut store = Store::new(&Engine::default(), ());
        store.as_store_mut().core_mut().keep_types(types);
        (store, heap)
    }

    fn bytes(store: &mut Store<'_, ()>, ty: HeapType) -> AnyRef {
        AnyRef::new_array_of(store, ty, Val::I32(7), 40_000).unwrap()
    }

    /// How many bytes the objects take that live.
    fn live(store: &mut Store<'_, ()>) -> usize {
        store.collect();
        store.as_store().core().heap.live_bytes()
    }

    #[test]
    fn fields_and_elements_hold_what_is_written() {
        let (mut store, [pair, wide, array, _]) = store();
        let func = Func::wrap(&mut store, |_: crate::Caller<'_, '_, ()>| {});
        let value = crate::ExternRef::new(&mut store, "value");
        let integer = AnyRef::from_i31(9);
        let fields = [
            Val::AnyRef(integer),
            Val::AnyRef(None),
            Val::I32(-1),
            Val::I32(0x1_8001),
            Val::I32(-2),
            Val::I64(i64::MIN),
            Val::from(1.5_f64),
            Val::V128(u128::MAX - 3),
            Val::FuncRef(Some(func)),
            Val::ExternRef(Some(value)),
        ];
        let object = AnyRef::new_struct(&mut store, wide, &fields).unwrap();
        assert_eq!((object.len(&store).unwrap(), object.ty(&store).unwrap()), (10, wide));
        assert!(store.is_subtype(wide, pair) && !store.is_subtype(pair, wide));
        let shown: Vec<_> = (0..10).map(|index| object.get(&store, index).unwrap()).collect();
        assert_eq!(shown[0].as_any().and_then(|value| value.as_i31()), Some(9));
        assert!(matches!(shown[1], Val::AnyRef(None)));
        assert_eq!(shown[2].i32(), Some(0xff));
        assert_eq!(shown[3].i32(), Some(0x8001));
        assert_eq!((shown[4].i32(), shown[5].i64()), (Some(-2), Some(i64::MIN)));
        assert_eq!((shown[6].f64(), shown[7].v128()), (Some(1.5), Some(u128::MAX - 3)));
        assert!(matches!(shown[8], Val::FuncRef(Some(_))));
        assert!(matches!(shown[9], Val::ExternRef(Some(found)) if found == value));
        for (index, value) in (0..).zip(&fields) {
            let result = object.set(&mut store, index, *value);
            assert_eq!(result.is_err(), index == 6, "{result:?}");
        }
        assert!(matches!(object.set(&mut store, 2, Val::I64(1)), Err(Error::ValueType { .. })));
        assert!(matches!(
            object.get(&store, 10),
            Err(Error::ObjectAccess { index: 10, length: 10 })
        ));
        assert!(matches!(
            AnyRef::new_struct(&mut store, wide, &fields[1..]),
            Err(Error::FieldCount { wanted: 10, found: 9 })
        ));
        for wrong in [HeapType::Struct, array, pair] {
            let result = AnyRef::new_array(&mut store, wrong, &[Val::I32(300)]);
            assert_eq!(result.is_ok(), wrong == array);
        }
        let elements = AnyRef::new_array(&mut store, array, &[Val::I32(300), Val::I32(4)]).unwrap();
        elements.set(&mut store, 1, Val::I32(-1)).unwrap();
        let found = [0, 1].map(|index| elements.get(&store, index).unwrap().i32());
        assert_eq!((found, elements.len(&store).unwrap()), ([Some(44), Some(255)], 2));
        assert!(elements.is_array(&store).unwrap() && !elements.is_struct(&store).unwrap());
        let other = AnyRef::from_i31(1).unwrap();
        assert!(matches!(other.get(&store, 0), Err(Error::NotAnObject { .. })));
        let empty = AnyRef::new_array(&mut store, array, &[]).unwrap();
        assert!(empty.get(&store, 0).is_err());
    }

    #[test]
    fn types_are_checked_where_they_are_wanted() {
        let (mut store, [pair, wide, array, _]) = store();
        let two = [Val::AnyRef(None); 2];
        let object = AnyRef::new_struct(&mut store, pair, &two).unwrap();
        let to = |heap, nullable| ValType::Ref(RefType { nullable, heap });
        let core = store.as_store().core();
        let takes = |wanted| Val::AnyRef(Some(object)).to_raw(wanted, core).is_ok();
        assert!(takes(to(pair, false)) && takes(to(HeapType::Struct, true)));
        assert!(takes(to(HeapType::Eq, false)) && takes(ValType::AnyRef));
        assert!(!takes(to(wide, true)) && !takes(to(array, true)));
        assert!(!takes(to(HeapType::I31, true)) && !takes(ValType::ExternRef));
        let null = Val::AnyRef(None);
        assert!(null.to_raw(to(wide, true), core).is_ok());
        assert!(null.to_raw(to(wide, false), core).is_err());
        let value = Val::ExternRef(Some(object.to_extern()));
        let raw = value.to_raw(to(HeapType::Extern, false), core).unwrap().to_ref();
        let check = |heap, nullable| core.check_reference(raw, RefType { heap, nullable }).is_ok();
        assert!(check(pair, false) && check(HeapType::Extern, true) && !check(wide, true));
        let ty = FuncType::new([to(wide, true)], []);
        let body = |_: crate::Caller<'_, '_, ()>, _: &[Val<'_>], _: &mut [Val<'_>]| Ok(());
        let func = Func::new(&mut store, ty, body);
        let typed = func.typed::<Option<AnyRef>, ()>(&store).unwrap();
        typed.call(&mut store, None).unwrap();
        let error = typed.call(&mut store, Some(object)).unwrap_err();
        assert!(matches!(error, Error::ValueType { .. }), "{error}");
        assert!(func.typed::<Option<crate::ExternRef>, ()>(&store).is_err());
        assert!(func.typed::<(), ()>(&store).is_err());
    }

    #[test]
    fn an_object_lives_as_long_as_something_leads_to_it() {
        let (mut store, [pair, _, array, exceptions]) = store();
        assert_eq!(live(&mut store), 0);
        let object = bytes(&mut store, array);
        let one = live(&mut store);
        assert!(one >= 40_000);
        // By handles.
        let kept = object.keep(&mut store).unwrap();
        object.release(&mut store).unwrap();
        assert!(matches!(object.get(&store, 0), Err(Error::StaleReference)));
        assert_eq!(live(&mut store), one);
        assert_eq!(kept.get(&store, 39_999).unwrap().i32(), Some(7));
        // By a global, a table, and an object.
        let ty = GlobalType { value: ValType::AnyRef, mutable: true };
        let global = Global::new(&mut store, ty, Val::AnyRef(Some(kept))).unwrap();
        kept.release(&mut store).unwrap();
        assert_eq!(live(&mut store), one);
        let limits = Limits { min: 2, max: None };
        let ty = TableType::new(ValType::ExternRef, limits);
        let table = Table::new(&mut store, ty, Ref::Extern(None)).unwrap();
        let Val::AnyRef(Some(object)) = global.get(&store).unwrap() else { panic!("null") };
        table.set(&mut store, 1, Ref::Extern(Some(object.to_extern()))).unwrap();
        global.set(&mut store, Val::AnyRef(None)).unwrap();
        store.release_references();
        assert_eq!(live(&mut store), one);
        let Ref::Extern(Some(object)) = table.get(&store, 1).unwrap() else { panic!("null") };
        let fields = [Val::AnyRef(None), Val::AnyRef(Some(object.to_any()))];
        let holder = AnyRef::new_struct(&mut store, pair, &fields).unwrap();
        holder.set(&mut store, 0, Val::AnyRef(Some(holder))).unwrap();
        global.set(&mut store, Val::AnyRef(Some(holder))).unwrap();
        table.set(&mut store, 1, Ref::Extern(None)).unwrap();
        store.release_references();
        assert!(live(&mut store) > one);
        // By an exception, which an object leads to.
        let tag = Tag::new(&mut store, TagType::new([ValType::AnyRef])).unwrap();
        let value = global.get(&store).unwrap();
        let exception = Exception::new(&mut store, tag, &[value]).unwrap();
        let Val::AnyRef(Some(holder)) = global.get(&store).unwrap() else { panic!("null") };
        let list = AnyRef::new_array(&mut store, exceptions, &[Val::ExnRef(None)]).unwrap();
        holder.set(&mut store, 0, Val::AnyRef(Some(list))).unwrap();
        // Not by the handle, which the host would hold as long as the store.
        let raw = exception.raw(store.as_store().core()).unwrap().0;
        let raw_list = list.0.to_raw(store.as_store().core()).unwrap();
        // SAFETY: the array lives, and has the element.
        unsafe {
            let element = raw_list.cast::<u8>().add(FIRST as usize);
            VmValue::from_ref(raw.as_ptr().cast()).write_field(element, ValType::ExnRef.into());
        }
        drop(exception);
        assert!(live(&mut store) > one);
        assert_eq!(store.exceptions(), 1);
        // Each leads to the other, and the global to one of them.
        global.set(&mut store, Val::AnyRef(None)).unwrap();
        store.release_references();
        assert_eq!((live(&mut store), store.exceptions()), (0, 0));
    }

    #[test]
    fn constants_that_are_being_evaluated_are_roots() {
        let (mut store, [_, _, array, _]) = store();
        let object = bytes(&mut store, array);
        let raw = object.0.to_raw(store.as_store().core()).unwrap();
        store.as_store_mut().core_mut().constants.push(VmValue::from_ref(raw));
        store.release_references();
        assert!(live(&mut store) > 0);
        store.as_store_mut().core_mut().constants.clear();
        assert_eq!(live(&mut store), 0);
    }

    #[test]
    fn handles_end_with_the_host_function() {
        let (mut store, [_, _, array, _]) = store();
        let ty = FuncType::new([ValType::AnyRef], [ValType::AnyRef, ValType::AnyRef]);
        let (send, receive) = std::sync::mpsc::channel();
        let send = std::sync::Mutex::new(send);
        let func = Func::new(
            &mut store,
            ty,
            move |mut caller: crate::Caller<'_, '_, ()>,
                  args: &[Val<'_>],
                  results: &mut [Val<'_>]| {
                let Val::AnyRef(Some(given)) = args[0] else { return Err("null".into()) };
                let made = AnyRef::new_array_of(&mut caller, array, Val::I32(1), 3)?;
                let kept = made.keep(&mut caller)?;
                // Handles of the caller are valid inside.
                results[0] = Val::AnyRef(Some(given));
                results[1] = Val::AnyRef(Some(made));
                send.lock().unwrap().send([given, made, kept]).unwrap();
                Ok(())
            },
        );
        let outer = bytes(&mut store, array);
        for _ in 0..3 {
            let results = func.call(&mut store, &[Val::AnyRef(Some(outer))]).unwrap();
            let [Val::AnyRef(Some(same)), Val::AnyRef(Some(made))] = results[..] else {
                panic!("{results:?}")
            };
            assert!(same.same(&store, outer).unwrap() && !made.same(&store, outer).unwrap());
            let [given, inner, kept] = receive.recv().unwrap();
            assert!(matches!(given.get(&store, 0), Err(Error::StaleReference)));
            assert!(matches!(inner.keep(&mut store), Err(Error::StaleReference)));
            assert!(kept.same(&store, made).unwrap());
            kept.release(&mut store).unwrap();
        }
        assert_eq!(outer.get(&store, 0).unwrap().i32(), Some(7));
        assert!(func.call(&mut store, &[Val::AnyRef(None)]).is_err());
    }

    #[test]
    fn a_store_holds_no_more_objects_than_it_may() {
        let (mut store, [_, _, array, _]) = store();
        store.limits_mut().objects = 8 << 20;
        let mut all = Vec::new();
        let error = loop {
            match AnyRef::new_array_of(&mut store, array, Val::I32(1), 40_000) {
                Ok(object) => all.push(object),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::StoreLimit { limit: 0x80_0000, .. }), "{error}");
        assert!((100..250).contains(&all.len()), "{}", all.len());
        assert!(store.object_bytes() <= 8 << 20);
        store.release_references();
        // What nothing leads to is not in the way.
        for _ in 0..1000 {
            let object = bytes(&mut store, array);
            object.release(&mut store).unwrap();
        }
        assert!(AnyRef::new_array_of(&mut store, array, Val::I32(1), u32::MAX).is_err());
        assert!(AnyRef::new_array_of(&mut store, array, Val::I32(1), 9 << 20).is_err());
    }
}
