//! Handles of globals.

use std::marker::PhantomData;

use cwasm_artifact::types::GlobalType;

use crate::error::Error;
use crate::store::{AsStore, AsStoreMut, StoreCore, StoreId};
use crate::value::{Borrow, Val};

/// A global of a store.
///
/// A handle: small, `Copy`, used together with its store.
#[derive(Clone, Copy, Debug)]
pub struct Global<'code> {
    store: StoreId,
    index: u32,
    borrow: Borrow<'code>,
}

impl<'code> Global<'code> {
    /// Makes a global.
    ///
    /// # Errors
    /// If the value has another type or belongs to another store.
    pub fn new(
        store: &mut impl AsStoreMut<'code>,
        ty: GlobalType,
        value: Val<'code>,
    ) -> Result<Self, Error> {
        let mut store = store.as_store_mut();
        let core = store.core_mut();
        let value = value.to_raw(ty.value, core)?;
        let index = core.add_host_global(ty, value);
        Ok(Self::from_index(index, core))
    }

    pub(crate) fn from_index(index: u32, core: &StoreCore<'code>) -> Self {
        Self { store: core.id, index, borrow: PhantomData }
    }

    pub(crate) fn index(&self, core: &StoreCore<'_>) -> Result<u32, Error> {
        if self.store == core.id {
            Ok(self.index)
        } else {
            Err(Error::WrongStore { what: "global" })
        }
    }

    /// The type.
    ///
    /// # Errors
    /// [`Error::WrongStore`], as for the other methods.
    pub fn ty<'c>(&self, store: &impl AsStore<'c>) -> Result<GlobalType, Error> {
        self.ty_in(store.as_store().core())
    }

    pub(crate) fn ty_in(&self, core: &StoreCore<'_>) -> Result<GlobalType, Error> {
        Ok(core.globals[self.index(core)? as usize].ty)
    }

    /// The value.
    ///
    /// # Errors
    /// [`Error::WrongStore`].
    pub fn get<'c>(&self, store: &impl AsStore<'c>) -> Result<Val<'c>, Error> {
        let core = store.as_store().core();
        let ty = self.ty_in(core)?.value;
        // SAFETY: a global of the store holds a value of its type, and a
        // reference in it belongs to the store.
        Ok(unsafe { Val::from_raw(core.global_value(self.index), ty, core) })
    }

    /// Replaces the value.
    ///
    /// # Errors
    /// [`Error::WrongStore`], [`Error::ImmutableGlobal`],
    /// [`Error::ValueType`].
    pub fn set(&self, store: &mut impl AsStoreMut<'code>, value: Val<'code>) -> Result<(), Error> {
        let mut store = store.as_store_mut();
        let core = store.core_mut();
        let ty = self.ty_in(core)?;
        if !ty.mutable {
            return Err(Error::ImmutableGlobal);
        }
        let value = value.to_raw(ty.value, core)?;
        core.set_global_value(self.index, value);
        Ok(())
    }
}
