//! Handles of linear memories.

use std::marker::PhantomData;

use cwasm_artifact::types::{Limits, MemoryType};

use crate::error::Error;
use crate::store::{AsStore, AsStoreMut, StoreCore, StoreId};
use crate::value::Borrow;
use crate::vm::memory::{VmMemory, range_within};

/// A linear memory of a store.
///
/// A handle: small, `Copy`, used together with its store. Its bytes are borrowed from
/// the store, so that nothing can grow or free the memory meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Memory<'code> {
    store: StoreId,
    index: u32,
    borrow: Borrow<'code>,
}

impl<'code> Memory<'code> {
    /// Makes a memory of a type's minimum size, zeroed.
    ///
    /// # Errors
    /// If a limit of the store or of the system forbids it.
    pub fn new(store: &mut impl AsStoreMut<'code>, ty: MemoryType) -> Result<Self, Error> {
        let mut store = store.as_store_mut();
        let core = store.core_mut();
        let index = core.add_memory(&ty, true)?;
        Ok(Self::from_index(index, core))
    }

    pub(crate) fn from_index(index: u32, core: &StoreCore<'code>) -> Self {
        Self { store: core.id, index, borrow: PhantomData }
    }

    pub(crate) fn index(&self, core: &StoreCore<'_>) -> Result<u32, Error> {
        if self.store == core.id {
            Ok(self.index)
        } else {
            Err(Error::WrongStore { what: "memory" })
        }
    }

    fn vm<'s>(&self, core: &'s StoreCore<'_>) -> Result<&'s VmMemory, Error> {
        Ok(&core.memories[self.index(core)? as usize])
    }

    /// The type; its minimum is the current size.
    ///
    /// # Errors
    /// [`Error::WrongStore`], as for the other methods.
    pub fn ty<'c>(&self, store: &impl AsStore<'c>) -> Result<MemoryType, Error> {
        self.ty_in(store.as_store().core())
    }

    pub(crate) fn ty_in(&self, core: &StoreCore<'_>) -> Result<MemoryType, Error> {
        let memory = self.vm(core)?;
        Ok(MemoryType { limits: Limits { min: memory.pages(), max: memory.limits().max } })
    }

    /// The current size in pages of 64 KiB.
    ///
    /// # Errors
    /// [`Error::WrongStore`].
    pub fn size_pages<'c>(&self, store: &impl AsStore<'c>) -> Result<u64, Error> {
        Ok(self.vm(store.as_store().core())?.pages())
    }

    /// The bytes.
    ///
    /// # Errors
    /// [`Error::WrongStore`].
    pub fn data<'s, 'c: 's>(&self, store: &'s impl AsStore<'c>) -> Result<&'s [u8], Error> {
        Ok(self.vm(store.as_store().core())?.bytes())
    }

    /// The bytes.
    ///
    /// # Errors
    /// [`Error::WrongStore`].
    pub fn data_mut<'s, 'c: 's>(
        &self,
        store: &'s mut impl AsStoreMut<'c>,
    ) -> Result<&'s mut [u8], Error> {
        let core = store.as_store_mut().into_core_mut();
        let index = self.index(core)?;
        Ok(core.memories[index as usize].bytes_mut())
    }

    /// Copies bytes out of the memory.
    ///
    /// # Errors
    /// [`Error::WrongStore`], [`Error::MemoryAccess`].
    pub fn read<'c>(
        &self,
        store: &impl AsStore<'c>,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), Error> {
        let data = self.vm(store.as_store().core())?.bytes();
        let range = access(offset, buffer.len(), data.len())?;
        buffer.copy_from_slice(&data[range]);
        Ok(())
    }

    /// Copies bytes into the memory.
    ///
    /// # Errors
    /// [`Error::WrongStore`], [`Error::MemoryAccess`].
    pub fn write<'c>(
        &self,
        store: &mut impl AsStoreMut<'c>,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), Error> {
        let mut store = store.as_store_mut();
        let core = store.core_mut();
        let index = self.index(core)?;
        let data = core.memories[index as usize].bytes_mut();
        let range = access(offset, bytes.len(), data.len())?;
        data[range].copy_from_slice(bytes);
        Ok(())
    }

    /// Grows the memory by `delta` pages; returns the old size in pages.
    ///
    /// # Errors
    /// [`Error::WrongStore`]; [`Error::MemoryLimit`] if the memory's
    /// maximum, a limit of the store or the system forbids it.
    pub fn grow<'c>(&self, store: &mut impl AsStoreMut<'c>, delta: u64) -> Result<u64, Error> {
        let mut store = store.as_store_mut();
        let core = store.core_mut();
        let index = self.index(core)?;
        let pages = core.memories[index as usize].pages().saturating_add(delta);
        core.grow_memory(index, delta).ok_or(Error::MemoryLimit { pages })
    }
}

fn access(offset: u64, length: usize, size: usize) -> Result<std::ops::Range<usize>, Error> {
    let length = length as u64;
    range_within(offset, length, size).ok_or(Error::MemoryAccess {
        offset,
        length,
        size: size as u64,
    })
}
