//! Linear memories that several stores use at the same time.

use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use cwasm_artifact::types::{Limits, MemoryType};

use crate::error::Error;
use crate::vm::memory::too_large;
use crate::vm::shared::VmSharedMemory;

/// A linear memory that several stores, on several threads, use at the same time.
///
/// Cheap to clone; the memory is released with the last clone, and the last store that
/// has it. Define it in linkers with [`crate::Linker::shared_memory`], or get that of a store from
/// [`crate::Memory::shared`].
///
/// Other threads may write to it at any time, so there is no slice of its bytes: they are
/// copied, or accessed as atomics. Where it is larger than the system's address space allows,
/// growing fails earlier than its maximum: with 64-bit addresses, at 64 GiB.
#[derive(Clone, Debug)]
pub struct SharedMemory(Arc<VmSharedMemory>);

impl SharedMemory {
    /// Makes a memory of a type's minimum size, zeroed. All that it may grow to is
    /// reserved at once.
    ///
    /// # Errors
    /// [`Error::MemoryType`] if the type is not shared or impossible;
    /// [`Error::MemoryReservation`] if the system has too little address space.
    pub fn new(ty: MemoryType) -> Result<Self, Error> {
        Ok(Self::from_vm(VmSharedMemory::new(&ty, true)?))
    }

    pub(crate) fn from_vm(memory: VmSharedMemory) -> Self {
        Self(Arc::new(memory))
    }

    pub(crate) fn vm(&self) -> &VmSharedMemory {
        &self.0
    }

    /// Whether both are the same memory.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The type; its minimum is the current size.
    #[must_use]
    pub fn ty(&self) -> MemoryType {
        let ty = *self.0.ty();
        MemoryType { limits: Limits { min: self.size_pages(), max: ty.limits.max }, ..ty }
    }

    /// The current size in pages of the memory.
    #[must_use]
    pub fn size_pages(&self) -> u64 {
        self.size_bytes() / self.0.ty().page_size()
    }

    /// The current size in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.0.span().1 as u64
    }

    /// The bytes that there are now. What other threads write is seen in no
    /// particular order, unless it is synchronised otherwise.
    #[must_use]
    pub fn atomics(&self) -> &[AtomicU8] {
        self.0.atomics()
    }

    /// Copies bytes out of the memory.
    ///
    /// # Errors
    /// [`Error::MemoryAccess`].
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let length = buffer.len();
        self.0.read(offset, buffer).ok_or_else(|| self.outside(offset, length))
    }

    /// Copies bytes into the memory.
    ///
    /// # Errors
    /// [`Error::MemoryAccess`].
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.0.write(offset, bytes).ok_or_else(|| self.outside(offset, bytes.len()))
    }

    /// Grows the memory by `delta` pages; returns the old size in pages. The limits
    /// of stores do not apply.
    ///
    /// # Errors
    /// [`Error::MemoryLimit`] if the memory's maximum or the system forbids it.
    pub fn grow(&self, delta: u64) -> Result<u64, Error> {
        let pages = self.size_pages().saturating_add(delta);
        self.0.grow(delta, u64::MAX).ok_or_else(|| too_large(self.0.ty(), pages))
    }

    /// Wakes up to `count` threads that wait at an address, as `memory.atomic.notify`
    /// does; returns how many.
    ///
    /// # Errors
    /// [`Error::MemoryAccess`].
    pub fn notify(&self, address: u64, count: u32) -> Result<u32, Error> {
        self.0.notify(address, count).ok_or_else(|| self.outside(address, 4))
    }

    fn outside(&self, offset: u64, length: usize) -> Error {
        Error::MemoryAccess { offset, length: length as u64, size: self.size_bytes() }
    }
}
