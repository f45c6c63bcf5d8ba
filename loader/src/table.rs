//! Handles of tables.

use std::marker::PhantomData;

use cwasm_artifact::types::{Limits, TableType};

use crate::error::Error;
use crate::store::{AsStore, AsStoreMut, StoreCore, StoreId};
use crate::value::{Borrow, Ref};
use crate::vm::table::VmTable;

/// A table of a store.
///
/// A handle: small, `Copy`, used together with its store.
#[derive(Clone, Copy, Debug)]
pub struct Table<'code> {
    store: StoreId,
    index: u32,
    borrow: Borrow<'code>,
}

impl<'code> Table<'code> {
    /// Makes a table of a type's minimum size, filled with `init`.
    ///
    /// # Errors
    /// If `init` has another type or belongs to another store, or a limit
    /// forbids the size.
    pub fn new(
        store: &mut impl AsStoreMut<'code>,
        ty: TableType,
        init: Ref<'code>,
    ) -> Result<Self, Error> {
        let mut store = store.as_store_mut();
        let core = store.core_mut();
        let init = init.to_raw(ty.element, core)?;
        let index = core.add_table(ty, init)?;
        Ok(Self::from_index(index, core))
    }

    pub(crate) fn from_index(index: u32, core: &StoreCore<'code>) -> Self {
        Self { store: core.id, index, borrow: PhantomData }
    }

    pub(crate) fn index(&self, core: &StoreCore<'_>) -> Result<u32, Error> {
        if self.store == core.id {
            Ok(self.index)
        } else {
            Err(Error::WrongStore { what: "table" })
        }
    }

    fn vm<'s>(&self, core: &'s StoreCore<'_>) -> Result<&'s VmTable, Error> {
        Ok(&core.tables[self.index(core)? as usize])
    }

    /// The type; its minimum is the current size.
    ///
    /// # Errors
    /// [`Error::WrongStore`], as for the other methods.
    pub fn ty<'c>(&self, store: &impl AsStore<'c>) -> Result<TableType, Error> {
        self.ty_in(store.as_store().core())
    }

    pub(crate) fn ty_in(&self, core: &StoreCore<'_>) -> Result<TableType, Error> {
        let table = self.vm(core)?;
        let max = table.ty().limits.max;
        Ok(TableType { limits: Limits { min: table.size(), max }, ..*table.ty() })
    }

    /// The current number of elements.
    ///
    /// # Errors
    /// [`Error::WrongStore`].
    pub fn size<'c>(&self, store: &impl AsStore<'c>) -> Result<u64, Error> {
        Ok(self.vm(store.as_store().core())?.size())
    }

    /// An element.
    ///
    /// # Errors
    /// [`Error::WrongStore`], [`Error::TableAccess`].
    pub fn get<'c>(&self, store: &impl AsStore<'c>, index: u64) -> Result<Ref<'c>, Error> {
        let core = store.as_store().core();
        let table = self.vm(core)?;
        let raw = table.get(index).ok_or(Error::TableAccess { index, size: table.size() })?;
        // SAFETY: a table of the store holds references of its element type
        // that belong to the store.
        Ok(unsafe { Ref::from_raw(raw, table.ty().element, core) })
    }

    /// Replaces an element.
    ///
    /// # Errors
    /// [`Error::WrongStore`], [`Error::TableAccess`], [`Error::ValueType`].
    pub fn set(
        &self,
        store: &mut impl AsStoreMut<'code>,
        index: u64,
        value: Ref<'code>,
    ) -> Result<(), Error> {
        let mut store = store.as_store_mut();
        let core = store.core_mut();
        let raw = value.to_raw(self.vm(core)?.ty().element, core)?;
        let table = self.index(core)?;
        let table = &mut core.tables[table as usize];
        let size = table.size();
        table.set(index, raw).ok_or(Error::TableAccess { index, size })
    }

    /// Grows the table by `delta` elements with the value `init`; returns the
    /// old size.
    ///
    /// # Errors
    /// [`Error::WrongStore`], [`Error::ValueType`]; [`Error::TableLimit`]
    /// if the table's maximum or a limit of the store forbids it.
    pub fn grow(
        &self,
        store: &mut impl AsStoreMut<'code>,
        delta: u64,
        init: Ref<'code>,
    ) -> Result<u64, Error> {
        let mut store = store.as_store_mut();
        let core = store.core_mut();
        let table = self.vm(core)?;
        let elements = table.size().saturating_add(delta);
        let init = init.to_raw(table.ty().element, core)?;
        let index = self.index(core)?;
        core.grow_table(index, delta, init).ok_or(Error::TableLimit { elements })
    }
}
