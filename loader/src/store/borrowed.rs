//! Borrows of a store, and what a store can be borrowed from.

use std::marker::PhantomData;
use std::ptr::NonNull;

use cwasm_artifact::types::{CompositeType, HeapType};

use super::{Store, StoreCore, StoreInner};

/// A shared borrow of a store.
#[derive(Debug)]
pub struct StoreRef<'a, 'code, T> {
    inner: NonNull<StoreInner<'code, T>>,
    marker: PhantomData<&'a Store<'code, T>>,
}

impl<T> Clone for StoreRef<'_, '_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for StoreRef<'_, '_, T> {}

// SAFETY: this is a shared reference to a store.
unsafe impl<T: Sync> Send for StoreRef<'_, '_, T> {}
// SAFETY: this is a shared reference to a store.
unsafe impl<T: Sync> Sync for StoreRef<'_, '_, T> {}

impl<'a, 'code, T> StoreRef<'a, 'code, T> {
    /// What a type is made of. See [`Store::composite_type`].
    #[must_use]
    pub fn composite_type(self, heap: HeapType) -> Option<&'a CompositeType> {
        let info = self.core().named_type(heap.concrete()?)?;
        (info.heap_type() == heap).then(|| &info.ty().composite)
    }

    /// Whether a type is a subtype of another. See [`Store::is_subtype`].
    #[must_use]
    pub fn is_subtype(self, found: HeapType, wanted: HeapType) -> bool {
        found.matches(wanted, |found, wanted| self.core().is_subtype(found, wanted))
    }

    pub(crate) fn core(self) -> &'a StoreCore<'code> {
        // SAFETY: the store is borrowed for `'a`.
        unsafe { &(*self.inner.as_ptr()).core }
    }

    pub(crate) fn into_data(self) -> &'a T {
        // SAFETY: the store is borrowed for `'a`.
        unsafe { &(*self.inner.as_ptr()).data }
    }
}

/// An exclusive borrow of a store.
///
/// Not a `&mut Store`, which could be swapped with another store while wasm of
/// this one is running.
#[derive(Debug)]
pub struct StoreMut<'a, 'code, T> {
    inner: NonNull<StoreInner<'code, T>>,
    marker: PhantomData<&'a mut Store<'code, T>>,
}

// SAFETY: this is an exclusive reference to a store.
unsafe impl<T: Send> Send for StoreMut<'_, '_, T> {}
// SAFETY: this is an exclusive reference to a store.
unsafe impl<T: Sync> Sync for StoreMut<'_, '_, T> {}

impl<'a, 'code, T> StoreMut<'a, 'code, T> {
    /// The store behind a core that host functions are called with.
    ///
    /// # Safety
    /// `core` must be the first field of a `StoreInner<'code, T>` that is borrowed
    /// exclusively, and not otherwise used, for `'a`.
    pub(crate) unsafe fn from_core(core: NonNull<StoreCore<'code>>) -> Self {
        Self { inner: core.cast(), marker: PhantomData }
    }

    /// The core, as a pointer for calls.
    pub(crate) fn core_ptr(&mut self) -> NonNull<StoreCore<'code>> {
        self.inner.cast()
    }

    pub(crate) fn core_mut(&mut self) -> &mut StoreCore<'code> {
        // SAFETY: the store is borrowed exclusively.
        unsafe { &mut (*self.inner.as_ptr()).core }
    }

    pub(crate) fn into_core_mut(self) -> &'a mut StoreCore<'code> {
        // SAFETY: the store is borrowed exclusively for `'a`.
        unsafe { &mut (*self.inner.as_ptr()).core }
    }

    pub(crate) fn into_data_mut(self) -> &'a mut T {
        // SAFETY: the store is borrowed exclusively for `'a`.
        unsafe { &mut (*self.inner.as_ptr()).data }
    }

    /// The core and the data, which are apart.
    pub(crate) fn into_parts(self) -> (&'a mut StoreCore<'code>, &'a mut T) {
        // SAFETY: the store is borrowed exclusively for `'a`, and the two fields
        // do not overlap.
        unsafe { (&mut (*self.inner.as_ptr()).core, &mut (*self.inner.as_ptr()).data) }
    }

    pub(crate) fn reborrow(&mut self) -> StoreMut<'_, 'code, T> {
        StoreMut { inner: self.inner, marker: PhantomData }
    }

    pub(crate) fn shared(&self) -> StoreRef<'_, 'code, T> {
        StoreRef { inner: self.inner, marker: PhantomData }
    }
}

/// Whatever a store can be read through: a [`Store`], a [`crate::Caller`], or a
/// reference to one.
pub trait AsStore<'code> {
    /// The application's data in the store.
    type Data;

    /// The store.
    fn as_store(&self) -> StoreRef<'_, 'code, Self::Data>;
}

/// Whatever a store can be changed through: a [`Store`], a [`crate::Caller`], or
/// an exclusive reference to one.
pub trait AsStoreMut<'code>: AsStore<'code> {
    /// The store.
    fn as_store_mut(&mut self) -> StoreMut<'_, 'code, Self::Data>;
}

impl<'code, T> AsStore<'code> for Store<'code, T> {
    type Data = T;

    fn as_store(&self) -> StoreRef<'_, 'code, T> {
        StoreRef { inner: self.inner, marker: PhantomData }
    }
}

impl<'code, T> AsStoreMut<'code> for Store<'code, T> {
    fn as_store_mut(&mut self) -> StoreMut<'_, 'code, T> {
        StoreMut { inner: self.inner, marker: PhantomData }
    }
}

impl<'code, T> AsStore<'code> for StoreRef<'_, 'code, T> {
    type Data = T;

    fn as_store(&self) -> StoreRef<'_, 'code, T> {
        *self
    }
}

impl<'code, T> AsStore<'code> for StoreMut<'_, 'code, T> {
    type Data = T;

    fn as_store(&self) -> StoreRef<'_, 'code, T> {
        self.shared()
    }
}

impl<'code, T> AsStoreMut<'code> for StoreMut<'_, 'code, T> {
    fn as_store_mut(&mut self) -> StoreMut<'_, 'code, T> {
        self.reborrow()
    }
}

impl<'code, S: AsStore<'code> + ?Sized> AsStore<'code> for &S {
    type Data = S::Data;

    fn as_store(&self) -> StoreRef<'_, 'code, S::Data> {
        (**self).as_store()
    }
}

impl<'code, S: AsStore<'code> + ?Sized> AsStore<'code> for &mut S {
    type Data = S::Data;

    fn as_store(&self) -> StoreRef<'_, 'code, S::Data> {
        (**self).as_store()
    }
}

impl<'code, S: AsStoreMut<'code> + ?Sized> AsStoreMut<'code> for &mut S {
    fn as_store_mut(&mut self) -> StoreMut<'_, 'code, S::Data> {
        (**self).as_store_mut()
    }
}
