//! Linear memories.
//!
//! A *guarded* memory reserves the whole range that a 32-bit index and a
//! small constant offset can reach, so that its base never changes and its
//! accesses need no checks. Where that much address space cannot be had, code that was
//! compiled with explicit checks uses an *unguarded* memory, which reserves
//! what it may grow to if that is little, and moves otherwise.

use std::ops::Range;

use cwasm_artifact::abi::vmctx::GUARDED_SPACE;
use cwasm_artifact::types::{Limits, MemoryType};

use super::layout::VmMemoryDefinition;
use crate::error::Error;
use crate::sys::{self, ImageFile, Reservation};

const PAGE: u64 = MemoryType::PAGE_SIZE;

/// A linear memory. Always in a `Stable`, since `definition` is pointed to.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct VmMemory {
    definition: VmMemoryDefinition,
    reservation: Reservation,
    /// How many bytes at the start of the reservation are accessible; whole
    /// pages of the host.
    committed: usize,
    reserved: usize,
    guarded: bool,
    limits: Limits,
}

// SAFETY: the pointer in `definition` is to the memory that `reservation` owns.
unsafe impl Send for VmMemory {}
// SAFETY: as above; sharing allows reading only.
unsafe impl Sync for VmMemory {}

fn bytes_of(pages: u64) -> Option<usize> {
    pages.checked_mul(PAGE).and_then(|bytes| usize::try_from(bytes).ok())
}

impl VmMemory {
    /// Creates a memory of the type's minimum size, zeroed.
    pub(crate) fn new(ty: &MemoryType, guarded: bool) -> Result<Self, Error> {
        let length = bytes_of(ty.limits.min).filter(|_| ty.limits.min <= MemoryType::MAX_PAGES);
        let length = length.ok_or(Error::MemoryLimit { pages: ty.limits.min })?;
        let reserved = if guarded {
            usize::try_from(GUARDED_SPACE).unwrap_or(usize::MAX).next_multiple_of(sys::page_size())
        } else {
            length
        };
        let reservation = Reservation::new(reserved, length)
            .map_err(|source| Error::MemoryReservation { bytes: reserved as u64, source })?;
        let base = reservation.start().as_ptr();
        Ok(Self {
            definition: VmMemoryDefinition { base, byte_length: length },
            reservation,
            committed: length.next_multiple_of(sys::page_size()),
            reserved,
            guarded,
            limits: ty.limits,
        })
    }

    /// Makes `length` bytes accessible.
    fn resize(&mut self, length: usize) -> Result<(), Error> {
        let committed = length.next_multiple_of(sys::page_size());
        let failed = |source| Error::MemoryReservation { bytes: length as u64, source };
        if committed > self.reserved {
            self.relocate(committed).map_err(failed)?;
        }
        if committed > self.committed {
            self.reservation.commit(committed).map_err(failed)?;
            self.committed = committed;
        }
        self.definition.byte_length = length;
        Ok(())
    }

    /// Moves an unguarded memory to a larger reservation.
    fn relocate(&mut self, reserved: usize) -> std::io::Result<()> {
        if self.guarded {
            return Err(std::io::ErrorKind::OutOfMemory.into());
        }
        // Room to grow, so that growing page by page costs linear time.
        let reserved = reserved.max(self.reserved.saturating_mul(2));
        let reservation = Reservation::new(reserved, self.committed)?;
        // SAFETY: both ranges are committed for `byte_length` bytes, and belong
        // to different mappings.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.definition.base,
                reservation.start().as_ptr(),
                self.definition.byte_length,
            );
        }
        self.definition.base = reservation.start().as_ptr();
        self.reservation = reservation;
        self.reserved = reserved;
        Ok(())
    }

    /// Grows by `delta` pages; returns the old size in pages, or `None` if the
    /// memory's maximum, `limit` (in pages) or the system forbids it.
    pub(crate) fn grow(&mut self, delta: u64, limit: u64) -> Option<u64> {
        let old = self.pages();
        let new = old.checked_add(delta)?;
        let max = self.limits.max.unwrap_or(MemoryType::MAX_PAGES).min(MemoryType::MAX_PAGES);
        if delta > 0 {
            if new > max.min(limit) {
                return None;
            }
            self.resize(bytes_of(new)?).ok()?;
        }
        Some(old)
    }

    /// Current size in pages.
    pub(crate) fn pages(&self) -> u64 {
        self.definition.byte_length as u64 / PAGE
    }

    /// Whether accesses may leave their checks to the guard.
    pub(crate) fn is_guarded(&self) -> bool {
        self.guarded
    }

    /// The limits that the memory was created with.
    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// The address of byte 0.
    pub(crate) fn base(&self) -> *mut u8 {
        self.definition.base
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `byte_length` bytes from `base` are committed. Compiled code
        // writes to them only while the store is borrowed exclusively, and
        // the slice borrows the memory, which the store owns.
        unsafe { std::slice::from_raw_parts(self.definition.base, self.definition.byte_length) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.definition.base, self.definition.byte_length) }
    }

    /// `memory.fill`. `None` if it is out of bounds.
    pub(crate) fn fill(&mut self, start: u64, value: u8, length: u64) -> Option<()> {
        let range = range_within(start, length, self.bytes().len())?;
        self.bytes_mut()[range].fill(value);
        Some(())
    }

    /// `memory.init` from a segment's bytes. `None` if it is out of bounds.
    pub(crate) fn init(&mut self, start: u64, data: &[u8], from: u64, length: u64) -> Option<()> {
        let source = range_within(from, length, data.len())?;
        let target = range_within(start, length, self.bytes().len())?;
        self.bytes_mut()[target].copy_from_slice(&data[source]);
        Some(())
    }

    /// Lets the memory begin as a part of an image at `start`, copy-on-write.
    /// `None` if that is impossible, and the bytes must be copied.
    ///
    /// Only for a memory that nothing was written to yet: what is in the last
    /// page behind the image becomes zero.
    pub(crate) fn map_image(
        &mut self,
        start: u64,
        image: &ImageFile,
        range: Range<usize>,
    ) -> Option<()> {
        let start = usize::try_from(start).ok()?;
        let pages = range.start..range.end.next_multiple_of(sys::page_size());
        if start.checked_add(pages.len())? > self.committed {
            return None;
        }
        self.reservation.map_image(start, image, pages).ok()
    }

    /// `memory.copy` within this memory. `None` if it is out of bounds.
    pub(crate) fn copy_within(&mut self, to: u64, from: u64, length: u64) -> Option<()> {
        let size = self.bytes().len();
        let source = range_within(from, length, size)?;
        let target = range_within(to, length, size)?;
        self.bytes_mut().copy_within(source, target.start);
        Some(())
    }
}

/// `start .. start + length` if it ends within `size`.
pub(crate) fn range_within(start: u64, length: u64, size: usize) -> Option<Range<usize>> {
    let end = start.checked_add(length)?;
    if end > size as u64 {
        return None;
    }
    // Both are at most `size`, which is a `usize`.
    Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(min: u64, max: Option<u64>, guarded: bool) -> VmMemory {
        VmMemory::new(&MemoryType { limits: Limits { min, max } }, guarded).unwrap()
    }

    #[test]
    fn a_memory_keeps_its_bytes_when_it_grows() {
        for guarded in [true, false] {
            let mut memory = memory(1, Some(5), guarded);
            memory.bytes_mut()[65535] = 7;
            assert_eq!(memory.grow(2, u64::MAX), Some(1));
            assert_eq!(memory.grow(3, u64::MAX), None);
            assert_eq!(memory.grow(0, 0), Some(3));
            assert_eq!(memory.bytes()[65535], 7);
            assert!(memory.bytes()[65536..].iter().all(|byte| *byte == 0));
            assert_eq!(memory.grow(1, 3), None);
        }
    }

    #[test]
    fn the_base_of_a_guarded_memory_never_changes() {
        let mut memory = memory(0, None, true);
        let base = memory.base();
        assert_eq!(memory.grow(100, u64::MAX), Some(0));
        assert_eq!(memory.base(), base);
    }

    #[test]
    fn ranges_do_not_wrap() {
        assert_eq!(range_within(u64::MAX, 1, 10), None);
        assert_eq!(range_within(10, 0, 10), Some(10..10));
        assert_eq!(range_within(11, 0, 10), None);
    }
}
