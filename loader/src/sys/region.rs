//! Address space that is used from its start on, and of which parts are given back: that of a heap.
//!
//! Unlike a [`super::Reservation`] it never waits to be used again: what a heap wrote to is most of it.

use std::io;
use std::ops::Range;
use std::ptr::{self, NonNull};

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};

use super::page_size;

/// Address space that is reserved, inaccessible until it is opened, and unmapped on drop.
#[derive(Debug)]
pub(crate) struct Region {
    /// The first byte that is aligned as it was asked for.
    start: NonNull<u8>,
    length: usize,
    /// How many bytes at the start are accessible; whole pages.
    accessible: usize,
    /// All that is mapped.
    mapping: NonNull<u8>,
    mapped: usize,
}

// SAFETY: a region is plain memory; nothing about it belongs to a thread.
unsafe impl Send for Region {}
// SAFETY: a shared region only tells its address and lengths.
unsafe impl Sync for Region {}

impl Region {
    /// Reserves `length` bytes, rounded up to pages, whose start is a multiple of `alignment`, a power of two.
    pub(crate) fn reserve(length: usize, alignment: usize) -> io::Result<Self> {
        let length = length.max(1).checked_next_multiple_of(page_size());
        let sizes = length.and_then(|length| Some((length, length.checked_add(alignment)?)));
        let (length, mapped) = sizes.ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice
        // touches no existing memory.
        let mapping = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                mapped,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let mapping = NonNull::new(mapping.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        // Compiled code has addresses, no pointers.
        let skipped = mapping.as_ptr().expose_provenance().wrapping_neg() & (alignment - 1);
        // SAFETY: less than `alignment` is skipped, and so much more is mapped.
        let start = unsafe { mapping.add(skipped) };
        Ok(Self { start, length, accessible: 0, mapping, mapped })
    }

    /// The first byte.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// How many bytes at the start can be read and written. They stay so, and are initialised: with zeros, until somebody writes.
    #[inline]
    pub(crate) fn accessible(&self) -> usize {
        self.accessible
    }

    /// Makes the first `to` bytes, a multiple of the page size, readable and writable. New bytes are zero.
    pub(crate) fn open(&mut self, to: usize) -> Result<(), Errno> {
        if to > self.length || !to.is_multiple_of(page_size()) {
            return Err(Errno::INVAL);
        }
        if to > self.accessible {
            // SAFETY: the range lies in this region (checked above), and its pages only gain access.
            unsafe {
                let start = self.start.as_ptr().add(self.accessible);
                let access = MprotectFlags::READ | MprotectFlags::WRITE;
                rustix::mm::mprotect(start.cast(), to - self.accessible, access)
            }?;
            self.accessible = to;
        }
        Ok(())
    }

    /// Asks the system for large pages in all that is not accessible yet. It may have none to give.
    pub(crate) fn prefer_large_pages(&mut self) {
        // Where pages have 16 or 64 KiB, large ones have 32 or 512 MiB.
        if page_size() != 4096 {
            return;
        }
        // SAFETY: the range lies in this region, which is mapped. What it asks for changes neither bytes nor access.
        let _ = unsafe {
            let start = self.start.as_ptr().add(self.accessible);
            rustix::mm::madvise(start.cast(), self.length - self.accessible, Advice::LinuxHugepage)
        };
    }

    /// Gives the memory of accessible bytes back to the system, of those pages that lie in the range as a whole. They stay accessible,
    /// and are zero, or what they were if the system refuses.
    pub(crate) fn give_back(&mut self, bytes: Range<usize>) {
        let page = page_size();
        let start = bytes.start.next_multiple_of(page);
        let end = bytes.end.min(self.accessible) / page * page;
        if start < end {
            // SAFETY: the range lies in this region, whose owner has it exclusively and wants none of these bytes. They
            // stay readable and writable.
            let _ = unsafe {
                let start_of_pages = self.start.as_ptr().add(start).cast();
                rustix::mm::madvise(start_of_pages, end - start, Advice::LinuxDontNeed)
            };
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `reserve` and is unmapped once, here;
        // whoever holds addresses into it keeps the region alive.
        let result = unsafe { rustix::mm::munmap(self.mapping.as_ptr().cast(), self.mapped) };
        debug_assert!(result.is_ok(), "munmap of a whole mapping cannot fail");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(region: &mut Region) -> &mut [u8] {
        // SAFETY: the bytes are accessible, and used by this test alone.
        unsafe { std::slice::from_raw_parts_mut(region.start().as_ptr(), region.accessible()) }
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps memory")]
    fn a_region_is_aligned_opened_and_given_back() {
        let page = page_size();
        let mut region = Region::reserve(16 << 20, 2 << 20).unwrap();
        assert!(region.start().addr().get().is_multiple_of(2 << 20));
        assert_eq!((region.length, region.accessible()), (16 << 20, 0));
        region.open(4 * page).unwrap();
        region.prefer_large_pages();
        region.open(16 << 20).unwrap();
        region.open(page).unwrap();
        assert_eq!(region.accessible(), 16 << 20);
        bytes(&mut region).fill(7);
        // Whole pages only.
        region.give_back(page - 1..3 * page + 1);
        region.give_back(5 * page + 1..6 * page - 1);
        let bytes = bytes(&mut region);
        assert!(bytes[..page].iter().chain(&bytes[3 * page..]).all(|byte| *byte == 7));
        assert!(bytes[page..3 * page].iter().all(|byte| *byte == 0));
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps memory")]
    fn what_a_region_does_not_have_is_refused() {
        let mut region = Region::reserve(1, 4096).unwrap();
        assert!(region.open(page_size() + 1).is_err() && region.open(2 * page_size()).is_err());
        region.open(page_size()).unwrap();
        for length in [usize::MAX, usize::MAX - 4096, 1 << 60] {
            assert!(Region::reserve(length, 2 << 20).is_err());
        }
    }
}
