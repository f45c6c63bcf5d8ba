//! References to what wasm makes: structures, arrays and small integers.

use std::ptr;

use cwasm_artifact::abi::object::{HOST, HOST_SHIFT, I31, TAG_MASK};
use cwasm_artifact::types::{FieldType, HeapType, StorageType, ValType};

use crate::error::Error;
use crate::store::{AsStore, AsStoreMut, Content, StoreCore, StoreId};
use crate::type_registry::TypeInfo;
use crate::value::{ExternRef, Val};
use crate::vm::layout::VmValue;
use crate::vm::roots::Handle;
use crate::vm::table::RawRef;

/// What a reference leads to whose type is below `any` or `extern`, and which is not null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Collected {
    /// An integer of 31 bits. Belongs to no store.
    I31(i32),
    /// A value of the host, by its number from 1.
    Host { store: StoreId, number: usize },
    /// An object, by the parts of its handle, which take less space than the whole.
    Object { store: StoreId, serial: u64, place: u32 },
}

impl Collected {
    /// An object of a store.
    fn object(core: &StoreCore<'_>, Handle { serial, place }: Handle) -> Self {
        Self::Object { store: core.id, serial, place }
    }

    /// The reference as wasm has it.
    pub(crate) fn to_raw(self, core: &StoreCore<'_>) -> Result<RawRef, Error> {
        match self {
            Self::I31(value) => {
                let bits = value.cast_unsigned() << 1;
                Ok(ptr::without_provenance_mut(bits as usize | TAG_I31))
            }
            Self::Host { store, number } if store == core.id => {
                Ok(ptr::without_provenance_mut(number << HOST_SHIFT | TAG_HOST))
            }
            Self::Object { store, serial, place } if store == core.id => {
                let raw = core.roots.get(Handle { serial, place }).ok_or(Error::StaleReference)?;
                Ok(ptr::with_exposed_provenance_mut(raw))
            }
            _ => Err(Error::WrongStore { what: "reference" }),
        }
    }

    /// A handle of what a reference leads to; `None` for null.
    #[inline]
    pub(crate) fn from_raw(raw: RawRef, core: &StoreCore<'_>) -> Option<Self> {
        let raw = raw.addr();
        if raw == 0 {
            None
        } else if raw & TAG_I31 != 0 {
            // The upper half is zero; the sign is the highest bit of the lower one.
            #[expect(clippy::cast_possible_truncation, reason = "the low bits are wanted")]
            Some(Self::I31((raw as u32).cast_signed() >> 1))
        } else if raw & TAG == TAG_HOST {
            Some(Self::Host { store: core.id, number: raw >> HOST_SHIFT })
        } else {
            Some(Self::object(core, core.roots.add(raw, core.is_called_by_wasm())))
        }
    }

    /// The most special type of what it leads to, below `any`.
    pub(crate) fn own_type(self, core: &StoreCore<'_>) -> Result<HeapType, Error> {
        Ok(core.type_of_reference(self.to_raw(core)?))
    }
}

// Addresses have as many bits as references.
#[expect(clippy::cast_possible_truncation, reason = "the tags have two bits")]
const TAG_I31: usize = I31 as usize;
#[expect(clippy::cast_possible_truncation, reason = "the tags have two bits")]
const TAG_HOST: usize = HOST as usize;
#[expect(clippy::cast_possible_truncation, reason = "the tags have two bits")]
const TAG: usize = TAG_MASK as usize;

/// A reference to a structure, an array, or an integer of 31 bits; or to a value of the host that became one of these
/// (specification, 2.3.4 and 4.2.1).
///
/// A handle: small, `Copy`, used together with its store. While a handle exists, what it leads to is not collected. It ends
/// * in a host function, with the call: for a handle that the function received or made. [`AnyRef::keep`] gives one that does not;
/// * elsewhere, with the store;
/// * by [`AnyRef::release`], in any case.
///
/// To use one that has ended is [`Error::StaleReference`]. A program that calls wasm again and again without being called by it
/// releases what it receives, one by one or by [`crate::Store::release_references`].
///
/// Integers and values of the host need no handle, and never end.
///
/// ```
/// use cwasm_loader::AnyRef;
///
/// assert_eq!(AnyRef::from_i31(-5).unwrap().as_i31(), Some(-5));
/// assert!(AnyRef::from_i31(1 << 30).is_none());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct AnyRef(pub(crate) Collected);

impl AnyRef {
    /// An integer of 31 bits (`ref.i31`; specification, 4.2.1). `None` if it has more.
    #[must_use]
    pub fn from_i31(value: i32) -> Option<Self> {
        (value << 1 >> 1 == value).then_some(Self(Collected::I31(value)))
    }

    /// The integer, if it is one (`i31.get_s`).
    #[must_use]
    pub fn as_i31(&self) -> Option<i32> {
        if let Collected::I31(value) = self.0 { Some(value) } else { None }
    }

    /// The same reference as one to a value of the host (`extern.convert_any`).
    #[must_use]
    pub fn to_extern(self) -> ExternRef {
        ExternRef(self.0)
    }

    /// The most special type of what it leads to: a declared type of a structure or array, `i31`, or `any` for a value of the host.
    ///
    /// # Errors
    /// [`Error::WrongStore`] and [`Error::StaleReference`], as for the other methods.
    pub fn ty<'c>(&self, store: &impl AsStore<'c>) -> Result<HeapType, Error> {
        self.0.own_type(store.as_store().core())
    }

    /// Whether it is a structure.
    ///
    /// # Errors
    /// [`Error::WrongStore`] and [`Error::StaleReference`].
    pub fn is_struct<'c>(&self, store: &impl AsStore<'c>) -> Result<bool, Error> {
        Ok(matches!(self.ty(store)?, HeapType::ConcreteStruct(_)))
    }

    /// Whether it is an array.
    ///
    /// # Errors
    /// [`Error::WrongStore`] and [`Error::StaleReference`].
    pub fn is_array<'c>(&self, store: &impl AsStore<'c>) -> Result<bool, Error> {
        Ok(matches!(self.ty(store)?, HeapType::ConcreteArray(_)))
    }

    /// Whether both are the same reference (`ref.eq`): one object, equal integers, or one value of the host.
    ///
    /// # Errors
    /// [`Error::WrongStore`] and [`Error::StaleReference`].
    pub fn same<'c>(&self, store: &impl AsStore<'c>, other: Self) -> Result<bool, Error> {
        let core = store.as_store().core();
        Ok(self.0.to_raw(core)?.addr() == other.0.to_raw(core)?.addr())
    }

    /// How many fields or elements there are.
    ///
    /// # Errors
    /// [`Error::NotAnObject`], [`Error::WrongStore`] and [`Error::StaleReference`], as for the following methods.
    pub fn len<'c>(&self, store: &impl AsStore<'c>) -> Result<u32, Error> {
        Ok(self.object(store.as_store().core())?.length)
    }

    fn object<'s>(&self, core: &'s StoreCore<'_>) -> Result<Object<'s>, Error> {
        let raw = self.0.to_raw(core)?;
        let found = core.find_object(raw);
        let (ty, length) =
            found.ok_or_else(|| Error::NotAnObject { found: core.type_of_reference(raw) })?;
        Ok(Object { raw, ty, length })
    }

    /// A field or an element (`struct.get`, `array.get`).
    ///
    /// What is packed is an `i32` below 256 or 65536, as if it had no sign (`struct.get_u`). For the sign, convert the value: `value as i8`.
    ///
    /// # Errors
    /// As for [`AnyRef::len`], and [`Error::ObjectAccess`].
    pub fn get<'c>(&self, store: &impl AsStore<'c>, index: u32) -> Result<Val<'c>, Error> {
        let core = store.as_store().core();
        let object = self.object(core)?;
        let (field, offset) = object.field(index)?;
        // SAFETY: the handle keeps the object, which has the field there.
        let value = unsafe { VmValue::read_field(object.at(offset), field.storage) };
        // SAFETY: a field of an object of the store has a value of its type, and a reference in it belongs to the store.
        Ok(unsafe { Val::from_raw(value, field.storage.value(), core) })
    }

    /// Replaces a field or an element (`struct.set`, `array.set`). Of what is packed, the low bits of an `i32` count.
    ///
    /// # Errors
    /// As for [`AnyRef::get`]; [`Error::ImmutableField`]; [`Error::ValueType`].
    pub fn set<'c>(
        &self,
        store: &mut impl AsStoreMut<'c>,
        index: u32,
        value: Val<'_>,
    ) -> Result<(), Error> {
        let mut store = store.as_store_mut();
        let core = store.core_mut();
        let object = self.object(core)?;
        let (field, offset) = object.field(index)?;
        if !field.mutable {
            return Err(Error::ImmutableField { index });
        }
        let value = value.to_raw(field.storage.value(), core)?;
        // SAFETY: the handle keeps the object, which has the field there. The store is borrowed exclusively.
        unsafe { value.write_field(object.at(offset), field.storage) };
        Ok(())
    }

    /// Makes a structure with these fields (`struct.new`). `ty` is a type of a module in the store, as types of globals, tables and functions
    /// name it, or [`AnyRef::ty`].
    ///
    /// # Errors
    /// [`Error::ObjectType`] if it is none; [`Error::FieldCount`] and [`Error::ValueType`] if the values are not those of its fields;
    /// [`Error::StoreLimit`].
    pub fn new_struct<'c>(
        store: &mut impl AsStoreMut<'c>,
        ty: HeapType,
        fields: &[Val<'_>],
    ) -> Result<Self, Error> {
        let mut store = store.as_store_mut();
        let core = store.core_mut();
        let info = match ty {
            HeapType::ConcreteStruct(_) => core.object_type(ty)?,
            _ => return Err(Error::ObjectType { wanted: "structure", found: ty }),
        };
        if info.fields().len() != fields.len() {
            return Err(Error::FieldCount { wanted: info.fields().len(), found: fields.len() });
        }
        let values = fields.iter().zip(info.fields());
        let values = values.map(|(value, field)| value.to_raw(field.storage.value(), core));
        let values = values.collect::<Result<Vec<_>, _>>()?;
        let id = info.id();
        Self::make(core, id, Content::Fields(&values))
    }

    /// Makes an array with these elements (`array.new_fixed`). `ty` is as for [`AnyRef::new_struct`].
    ///
    /// # Errors
    /// [`Error::ObjectType`]; [`Error::ValueType`]; [`Error::StoreLimit`].
    pub fn new_array<'c>(
        store: &mut impl AsStoreMut<'c>,
        ty: HeapType,
        elements: &[Val<'_>],
    ) -> Result<Self, Error> {
        let mut store = store.as_store_mut();
        let core = store.core_mut();
        let (id, element) = Self::array_type(core, ty)?;
        let values = elements.iter().map(|value| value.to_raw(element, core));
        let values = values.collect::<Result<Vec<_>, _>>()?;
        Self::make(core, id, Content::Elements(&values))
    }

    /// Makes an array with `length` equal elements (`array.new`). `ty` is as for [`AnyRef::new_struct`].
    ///
    /// # Errors
    /// As for [`AnyRef::new_array`].
    pub fn new_array_of<'c>(
        store: &mut impl AsStoreMut<'c>,
        ty: HeapType,
        element: Val<'_>,
        length: u32,
    ) -> Result<Self, Error> {
        let mut store = store.as_store_mut();
        let core = store.core_mut();
        let (id, wanted) = Self::array_type(core, ty)?;
        let value = element.to_raw(wanted, core)?;
        Self::make(core, id, Content::Repeated(value, length))
    }

    fn array_type(core: &StoreCore<'_>, ty: HeapType) -> Result<(u32, ValType), Error> {
        match ty {
            HeapType::ConcreteArray(_) => {
                let info = core.object_type(ty)?;
                let element = info.fields().first();
                let element = element.ok_or(Error::ObjectType { wanted: "array", found: ty })?;
                Ok((info.id(), element.storage.value()))
            }
            _ => Err(Error::ObjectType { wanted: "array", found: ty }),
        }
    }

    /// Makes an object of a type that has such content. The references in it are those of handles, which keep them.
    fn make(core: &mut StoreCore<'_>, id: u32, content: Content<'_>) -> Result<Self, Error> {
        // SAFETY: the host is running. The values were checked against the type.
        let made = unsafe { core.make_object(id, content, None) };
        let limit = core.limits.objects;
        let raw = made.ok_or(Error::StoreLimit { what: "bytes for objects", limit })?;
        let handle = core.roots.add(raw.addr().get(), core.is_called_by_wasm());
        Ok(Self(Collected::object(core, handle)))
    }

    /// Another handle of the same reference, which does not end with the call of a host function. It
    /// keeps what it leads to until [`AnyRef::release`], or as long as the store.
    ///
    /// # Errors
    /// [`Error::WrongStore`] and [`Error::StaleReference`].
    pub fn keep<'c>(&self, store: &mut impl AsStoreMut<'c>) -> Result<Self, Error> {
        let mut store = store.as_store_mut();
        let core = store.core_mut();
        // The same for those that need no handle.
        self.0.to_raw(core)?;
        Ok(match self.0 {
            Collected::Object { serial, place, .. } => {
                let kept = core.roots.keep(Handle { serial, place });
                Self(Collected::object(core, kept.ok_or(Error::StaleReference)?))
            }
            _ => *self,
        })
    }

    /// Ends the handle, and all copies of it.
    ///
    /// # Errors
    /// [`Error::WrongStore`] and [`Error::StaleReference`].
    pub fn release<'c>(self, store: &mut impl AsStoreMut<'c>) -> Result<(), Error> {
        let mut store = store.as_store_mut();
        let core = store.core_mut();
        self.0.to_raw(core)?;
        if let Collected::Object { serial, place, .. } = self.0 {
            core.roots.release(Handle { serial, place });
        }
        Ok(())
    }
}

/// An object that a handle keeps.
struct Object<'s> {
    raw: RawRef,
    ty: &'s TypeInfo,
    length: u32,
}

impl Object<'_> {
    /// A field or element, and where it is.
    fn field(&self, index: u32) -> Result<(FieldType, usize), Error> {
        let field = if index < self.length { self.ty.field(index) } else { None };
        field.ok_or(Error::ObjectAccess { index, length: self.length })
    }

    fn at(&self, offset: usize) -> *mut u8 {
        self.raw.cast::<u8>().wrapping_add(offset)
    }
}

impl VmValue {
    /// The value of a field, without a sign if it is packed.
    ///
    /// # Safety
    /// There is such a field, and nobody writes to it meanwhile.
    pub(crate) unsafe fn read_field(at: *const u8, storage: StorageType) -> Self {
        // SAFETY: by the caller's promise.
        unsafe {
            match storage.size() {
                1 => Self(at.read().into()),
                2 => Self(at.cast::<u16>().read_unaligned().into()),
                4 => Self(at.cast::<u32>().read_unaligned().into()),
                8 => Self(at.cast::<u64>().read_unaligned().into()),
                _ => Self(at.cast::<u128>().read_unaligned()),
            }
        }
    }

    /// Writes the value of a field, of which the low bits count if it is packed.
    ///
    /// # Safety
    /// There is such a field, and nobody uses it meanwhile.
    #[expect(clippy::cast_possible_truncation, reason = "the low bits are wanted")]
    pub(crate) unsafe fn write_field(self, at: *mut u8, storage: StorageType) {
        // SAFETY: by the caller's promise.
        unsafe {
            match storage.size() {
                1 => at.write(self.0 as u8),
                2 => at.cast::<u16>().write_unaligned(self.0 as u16),
                4 => at.cast::<u32>().write_unaligned(self.low32()),
                8 => at.cast::<u64>().write_unaligned(self.low64()),
                _ => at.cast::<u128>().write_unaligned(self.0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Engine;
    use crate::store::Store;

    #[test]
    fn references_are_as_the_abi_says() {
        let mut store = Store::new(&Engine::default(), ());
        let other = Store::new(&Engine::default(), ());
        for (value, raw) in [
            (0, 1),
            (1, 3),
            (-1, 0xffff_ffff),
            (5, 11),
            ((1 << 30) - 1, 0x7fff_ffff),
            (-(1 << 30), 0x8000_0001),
        ] {
            let integer = AnyRef::from_i31(value).unwrap();
            let core = store.as_store().core();
            assert_eq!(integer.0.to_raw(core).unwrap().addr(), raw);
            let back = Collected::from_raw(ptr::without_provenance_mut(raw), core);
            assert_eq!(back, Some(Collected::I31(value)));
            assert_eq!(integer.as_i31(), Some(value));
            assert_eq!(integer.ty(&other).unwrap(), HeapType::I31);
            assert!(integer.keep(&mut store).unwrap().same(&store, integer).unwrap());
        }
        assert!(AnyRef::from_i31(i32::MAX).is_none() && AnyRef::from_i31(i32::MIN).is_none());
        let values = [1, 2, 3].map(|value: u8| ExternRef::new(&mut store, value));
        for (number, value) in (1..).zip(values) {
            let any = value.to_any();
            let core = store.as_store().core();
            let raw = any.0.to_raw(core).unwrap();
            assert_eq!(raw.addr(), number * 4 + 2);
            assert_eq!(Collected::from_raw(raw, core), Some(any.0));
            assert_eq!(any.ty(&store).unwrap(), HeapType::Any);
            assert_eq!(any.to_extern(), value);
            assert!(matches!(any.ty(&other), Err(Error::WrongStore { .. })));
            assert!(matches!(any.len(&store), Err(Error::NotAnObject { .. })));
        }
        let integer = AnyRef::from_i31(7).unwrap().to_extern();
        assert!(matches!(integer.get(&store), Err(Error::NotOfTheHost)));
        assert_eq!(integer.to_any().as_i31(), Some(7));
        assert!(Collected::from_raw(ptr::null_mut(), store.as_store().core()).is_none());
    }

    #[test]
    fn values_are_no_larger_for_them() {
        assert_eq!(size_of::<Val<'_>>(), 32);
    }
}
