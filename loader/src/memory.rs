//! Handles of linear memories.

use std::marker::PhantomData;

use cwasm_artifact::types::{Limits, MemoryType};

use crate::error::Error;
use crate::shared_memory::SharedMemory;
use crate::store::{AsStore, AsStoreMut, StoreCore, StoreId};
use crate::value::Borrow;
use crate::vm::memory::{NoAccess, StoreMemory, too_large};

/// A linear memory of a store.
///
/// A handle: small, `Copy`, used together with its store. Its bytes are borrowed from
/// the store, so that nothing can grow or free the memory meanwhile. Those of a memory that
/// threads share can be copied, and not borrowed.
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
        let index = core.add_memory(&ty, true, None)?;
        Ok(Self::from_index(index, core))
    }

    /// The handle in this store of a memory that other stores may have too.
    ///
    /// # Errors
    /// If a limit of the store forbids it.
    pub fn from_shared(
        store: &mut impl AsStoreMut<'code>,
        memory: &SharedMemory,
    ) -> Result<Self, Error> {
        let mut store = store.as_store_mut();
        let core = store.core_mut();
        let index = core.add_shared_memory(memory)?;
        Ok(Self::from_index(index, core))
    }

    /// The memory for use without this store, if it is one that threads can share.
    ///
    /// # Errors
    /// [`Error::WrongStore`].
    pub fn shared<'c>(&self, store: &impl AsStore<'c>) -> Result<Option<SharedMemory>, Error> {
        Ok(self.vm(store.as_store().core())?.shared().cloned())
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

    fn vm<'s>(&self, core: &'s StoreCore<'_>) -> Result<&'s StoreMemory, Error> {
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
        let ty = *memory.ty();
        Ok(MemoryType { limits: Limits { min: memory.pages(), max: ty.limits.max }, ..ty })
    }

    /// The current size in pages, which have 64 KiB unless the memory's type says otherwise.
    ///
    /// # Errors
    /// [`Error::WrongStore`].
    pub fn size_pages<'c>(&self, store: &impl AsStore<'c>) -> Result<u64, Error> {
        Ok(self.vm(store.as_store().core())?.pages())
    }

    /// The current size in bytes.
    ///
    /// # Errors
    /// [`Error::WrongStore`].
    pub fn size_bytes<'c>(&self, store: &impl AsStore<'c>) -> Result<u64, Error> {
        Ok(self.vm(store.as_store().core())?.byte_length() as u64)
    }

    /// The bytes.
    ///
    /// # Errors
    /// [`Error::WrongStore`]; [`Error::SharedMemory`] if threads share the memory; [`Error::CodeLost`] if some of them were to be loaded
    /// when they are needed, and are not in the file any more; [`Error::NoRoom`] if the memory has grown by some of them, and the system has none.
    pub fn data<'s, 'c: 's>(&self, store: &'s impl AsStore<'c>) -> Result<&'s [u8], Error> {
        let bytes = self.vm(store.as_store().core())?.bytes().ok_or(Error::SharedMemory)?;
        bytes.map_err(StoreCore::lost_to_host)
    }

    /// The bytes.
    ///
    /// # Errors
    /// As for [`Memory::data`].
    pub fn data_mut<'s, 'c: 's>(
        &self,
        store: &'s mut impl AsStoreMut<'c>,
    ) -> Result<&'s mut [u8], Error> {
        let core = store.as_store_mut().into_core_mut();
        let index = self.index(core)?;
        let bytes = core.memories[index as usize].bytes_mut().ok_or(Error::SharedMemory)?;
        bytes.map_err(StoreCore::lost_to_host)
    }

    /// Copies bytes out of the memory.
    ///
    /// # Errors
    /// [`Error::WrongStore`], [`Error::MemoryAccess`]; [`Error::CodeLost`] and [`Error::NoRoom`] as for [`Memory::data`].
    pub fn read<'c>(
        &self,
        store: &impl AsStore<'c>,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), Error> {
        let memory = self.vm(store.as_store().core())?;
        let length = buffer.len();
        memory.read(offset, buffer).map_err(|why| inaccessible(why, memory, offset, length))
    }

    /// Copies bytes into the memory.
    ///
    /// # Errors
    /// As for [`Memory::read`].
    pub fn write<'c>(
        &self,
        store: &mut impl AsStoreMut<'c>,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), Error> {
        let mut store = store.as_store_mut();
        let core = store.core_mut();
        let index = self.index(core)?;
        let memory = &mut core.memories[index as usize];
        let length = bytes.len();
        let result = memory.init(offset, bytes, 0, length as u64);
        result.map_err(|why| inaccessible(why, memory, offset, length))
    }

    /// Grows the memory by `delta` pages; returns the old size in pages. The new pages may become accessible only when they are first touched;
    /// they are the memory's all the same, and zero.
    ///
    /// # Errors
    /// [`Error::WrongStore`]; [`Error::MemoryLimit`] if the memory's
    /// maximum, a limit of the store or the system forbids it.
    pub fn grow<'c>(&self, store: &mut impl AsStoreMut<'c>, delta: u64) -> Result<u64, Error> {
        let mut store = store.as_store_mut();
        let core = store.core_mut();
        let index = self.index(core)?;
        let memory = &core.memories[index as usize];
        let error = too_large(memory.ty(), memory.pages().saturating_add(delta));
        core.grow_memory(index, delta).ok_or(error)
    }
}

#[cold]
fn inaccessible(why: NoAccess, memory: &StoreMemory, offset: u64, length: usize) -> Error {
    match why {
        NoAccess::Outside => {
            let size = memory.byte_length() as u64;
            Error::MemoryAccess { offset, length: length as u64, size }
        }
        NoAccess::Lost(lost) => StoreCore::lost_to_host(lost),
    }
}
