//! The memory of a heap: address space, of which as much is accessible as was needed so far.
//!
//! Places are offsets from its start. Whatever an object's header, its type or a reference says, nothing is read that is not
//! accessible: what is not there reads as zero.

use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;

use super::Header;
use crate::sys::Region;

/// What becomes accessible at once, and what the start is aligned to: the size of a large page where pages have 4 KiB.
const STEP: usize = 2 << 20;

/// The largest heap: 64 GiB.
const LARGEST: usize = 64 << 30;

/// From here on a heap is to be had in large pages. The first step is not, so that a small heap stays small.
const LARGE_PAGES_FROM: usize = STEP;

/// The memory of a heap.
#[derive(Debug)]
pub(super) struct Memory {
    /// Nothing before the first allocation.
    region: Option<Region>,
}

impl Memory {
    pub(super) const fn new() -> Self {
        Self { region: None }
    }

    /// Reserves address space for a heap of so many bytes, or less if the system refuses, unless there is some. Whether there is some then.
    pub(super) fn reserve(&mut self, limit: usize) -> bool {
        if self.region.is_some() {
            return true;
        }
        let mut length = limit.clamp(1, LARGEST).next_multiple_of(STEP);
        loop {
            match Region::reserve(length, STEP) {
                Ok(region) => {
                    self.region = Some(region);
                    return true;
                }
                Err(_) if length == STEP => return false,
                Err(_) => length = (length / 2).next_multiple_of(STEP),
            }
        }
    }

    /// Makes at least the first `length` bytes accessible. Whether they are.
    pub(super) fn open(&mut self, length: usize) -> bool {
        let Some(region) = &mut self.region else { return length == 0 };
        let wanted = length.checked_next_multiple_of(STEP).unwrap_or(usize::MAX);
        if wanted > LARGE_PAGES_FROM && region.accessible() <= LARGE_PAGES_FROM {
            // Only what comes: the heap may begin with more.
            if region.accessible() < LARGE_PAGES_FROM && region.open(LARGE_PAGES_FROM).is_err() {
                return false;
            }
            region.prefer_large_pages();
        }
        wanted <= region.accessible() || region.open(wanted).is_ok()
    }

    /// Gives bytes back that nobody needs. They are zero, or what they were.
    pub(super) fn give_back(&mut self, bytes: Range<usize>) {
        if let Some(region) = &mut self.region {
            region.give_back(bytes);
        }
    }

    /// The address of the first byte; zero if there is none.
    #[inline]
    pub(super) fn base(&self) -> usize {
        self.region.as_ref().map_or(0, |region| region.start().addr().get())
    }

    /// A pointer to an accessible byte.
    pub(super) fn pointer(&self, at: usize) -> Option<NonNull<u8>> {
        let region = self.region.as_ref().filter(|region| at < region.accessible())?;
        // SAFETY: the byte lies in the region.
        Some(unsafe { region.start().add(at) })
    }

    /// What reads the memory while nobody writes to it.
    pub(super) fn words(&self) -> Words<'_> {
        let (start, length) = match &self.region {
            Some(region) => (region.start(), region.accessible()),
            None => (NonNull::dangling(), 0),
        };
        Words { start, length, memory: PhantomData }
    }
}

/// The accessible memory of a heap, to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words<'a> {
    start: NonNull<u8>,
    length: usize,
    memory: PhantomData<&'a Memory>,
}

impl Words<'_> {
    /// Where eight accessible bytes are. They are initialised. Nobody writes to them while this is borrowed: compiled code, which does, runs only while
    /// whoever entered it borrows the store, and so the heap, exclusively, and it waits while a builtin that it called has the heap.
    #[inline(always)]
    fn eight(self, at: usize) -> Option<NonNull<u8>> {
        // SAFETY: the place lies in the region.
        (at < self.length.saturating_sub(7)).then(|| unsafe { self.start.add(at) })
    }

    /// A reference in an object.
    #[inline(always)]
    pub(super) fn reference(self, at: usize) -> usize {
        // SAFETY: eight bytes can be read, as `eight` says, and every value is an address.
        self.eight(at).map_or(0, |place| unsafe { place.cast().read_unaligned() })
    }

    /// The header of an object.
    #[inline(always)]
    pub(super) fn header(self, at: usize) -> Header {
        // SAFETY: eight bytes can be read, as `eight` says, and every value is two numbers.
        let halves = self.eight(at).map(|place| unsafe { place.cast().read_unaligned() });
        let [type_id, length] = halves.unwrap_or_default();
        Header { type_id, length }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_memory_there_is_nothing_to_read() {
        let memory = Memory::new();
        assert_eq!((memory.base(), memory.pointer(0)), (0, None));
        assert_eq!(memory.words().reference(0), 0);
        assert_eq!(memory.words().header(usize::MAX), Header { type_id: 0, length: 0 });
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps memory")]
    fn what_is_not_accessible_reads_as_zero() {
        let mut memory = Memory::new();
        assert!(!memory.open(1) && memory.open(0));
        assert!(memory.reserve(5 << 20) && memory.reserve(1 << 40));
        assert!(memory.base().is_multiple_of(STEP));
        assert_eq!(memory.words().reference(0), 0);
        assert!(memory.open(1));
        let last = memory.pointer(STEP - 8).unwrap();
        // SAFETY: the bytes are accessible.
        unsafe { last.cast::<[u32; 2]>().write([7, 8]) };
        assert_eq!(memory.words().header(STEP - 8), Header { type_id: 7, length: 8 });
        for at in [STEP - 7, STEP, STEP + 8, usize::MAX - 7, usize::MAX] {
            assert_eq!(memory.words().reference(at), 0, "{at:#x}");
        }
        assert_eq!(memory.pointer(STEP), None);
        assert!(memory.open(5 << 20) && memory.open(6 << 20));
        assert!(!memory.open((6 << 20) + 1) && !memory.open(usize::MAX));
        memory.give_back(0..6 << 20);
        assert_eq!(memory.words().reference(STEP - 8), 0);
    }
}
