//! The address space of a linear memory: how much is reserved, how much of it is
//! accessible, and what is certain to be inaccessible behind that.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use cwasm_artifact::abi::memory::{MemoryStyle, base_is_constant};
use cwasm_artifact::abi::vmctx::{GUARD_SIZE, GUARDED_SPACE};
use cwasm_artifact::types::MemoryType;
use rustix::io::Errno;

use crate::error::Error;
use crate::sys::{self, Image, Reservation};

/// What is reserved at once for a memory with 64-bit addresses that need not end there.
const FIRST_RESERVATION: u64 = GUARDED_SPACE - GUARD_SIZE;

/// What a shared memory with 64-bit addresses can grow to at most, as it never moves: 64 GiB.
const LARGEST_SHARED: u64 = 64 << 30;

/// What a memory grows by from this size on is to be had in large pages. It begins without: how much it declares says little about how much
/// is used, and a small instance is to stay small.
const LARGE: usize = 4 << 20;

/// Address space for a memory.
#[derive(Debug)]
pub(crate) struct Space {
    reservation: Reservation,
    /// How many bytes may be made accessible. What is reserved behind them never is.
    capacity: usize,
    /// How many bytes are reserved behind the capacity.
    guard: usize,
    /// Whether the memory must stay where it is.
    fixed: bool,
}

impl Space {
    /// Reserves space for a memory, with `length` bytes that are accessible: zero, or as the image if
    /// [`Space::has_image`]. `guarded` if code may rely on the guard.
    pub(crate) fn new(
        ty: &MemoryType,
        length: usize,
        guarded: bool,
        image: Option<&Arc<Image>>,
    ) -> Result<Self, Error> {
        let style = MemoryStyle::of(ty, !guarded);
        let length = length as u64;
        let largest = ty.limits.max.and_then(|max| ty.bytes(max)).unwrap_or(u64::MAX);
        let capacity = match style {
            MemoryStyle::Reserved => GUARDED_SPACE - GUARD_SIZE,
            // It never moves.
            _ if ty.shared => largest.min(LARGEST_SHARED).max(length),
            MemoryStyle::Fenced => largest.min(FIRST_RESERVATION).max(length),
            MemoryStyle::Checked => length,
        };
        let guard = if style == MemoryStyle::Checked { 0 } else { GUARD_SIZE };
        let fixed = base_is_constant(ty, !guarded);
        Self::reserve(capacity, guard, fixed, length, image).map_err(|source| {
            Error::MemoryReservation { bytes: capacity.saturating_add(guard), source }
        })
    }

    fn reserve(
        capacity: u64,
        guard: u64,
        fixed: bool,
        accessible: u64,
        image: Option<&Arc<Image>>,
    ) -> io::Result<Self> {
        let pages = |bytes: u64| {
            usize::try_from(bytes)
                .ok()
                .and_then(|bytes| bytes.checked_next_multiple_of(sys::page_size()))
        };
        let sizes = pages(capacity).zip(pages(guard)).zip(pages(accessible));
        let ((capacity, guard), accessible) = sizes.ok_or(io::ErrorKind::OutOfMemory)?;
        let total = capacity.checked_add(guard).ok_or(io::ErrorKind::OutOfMemory)?;
        let reservation = Reservation::new(total, accessible, image)?;
        Ok(Self { reservation, capacity, guard, fixed })
    }

    /// The first byte.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.reservation.start()
    }

    /// How many bytes at the start are accessible; whole pages of the host. Only what has the memory exclusively makes it less.
    #[inline]
    pub(super) fn accessible(&self) -> usize {
        self.reservation.accessible()
    }

    /// Makes at least `length` bytes accessible, new ones as zeros. The start
    /// changes if they do not fit, and the memory may move.
    pub(crate) fn commit(&mut self, length: usize) -> io::Result<()> {
        if length > self.capacity {
            let wanted = length.checked_next_multiple_of(sys::page_size());
            self.relocate(wanted.ok_or(io::ErrorKind::OutOfMemory)?)?;
        }
        Ok(self.open(length)?)
    }

    /// Whether [`Space::open`] can make so many bytes accessible at any time: there is room, and the memory never moves.
    pub(super) fn can_open(&self, length: usize) -> bool {
        self.fixed && length <= self.capacity
    }

    /// Makes at least `length` bytes accessible, new ones as zeros, which must be no more than there is room for. Nothing moves.
    ///
    /// Several threads may do this at once. A signal handler may, too.
    pub(super) fn open(&self, length: usize) -> Result<(), Errno> {
        let wanted = length.checked_next_multiple_of(sys::page_size());
        match wanted {
            Some(wanted) if wanted <= self.capacity => {
                if wanted >= LARGE {
                    self.reservation.prefer_large_pages();
                }
                self.reservation.commit(wanted)
            }
            _ => Err(Errno::NOMEM),
        }
    }

    /// Moves what is accessible to a larger reservation.
    fn relocate(&mut self, capacity: usize) -> io::Result<()> {
        if self.fixed {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        // Room to grow, so that growing page by page costs linear time.
        let capacity = capacity.max(self.capacity.saturating_mul(2));
        let accessible = self.accessible();
        let larger =
            Self::reserve(capacity as u64, self.guard as u64, false, accessible as u64, None)?;
        // SAFETY: both ranges are accessible, and belong to different mappings. Only
        // memories of one store move, and `&mut self` shows that nobody uses it.
        let (old, new) = unsafe {
            (
                std::slice::from_raw_parts(self.start().as_ptr(), accessible),
                std::slice::from_raw_parts_mut(larger.start().as_ptr(), accessible),
            )
        };
        // Pages that were never written to take no memory, and are to take none.
        let page = sys::page_size();
        for (old, new) in old.chunks(page).zip(new.chunks_mut(page)) {
            if old.iter().any(|byte| *byte != 0) {
                new.copy_from_slice(old);
            }
        }
        *self = larger;
        Ok(())
    }

    /// Takes the access to pages away that are accessible, and zero, until [`sys::open_pages`] gives it back. Refused where the memory
    /// may move.
    pub(crate) fn hide(&mut self, pages: impl Iterator<Item = Range<usize>>) -> io::Result<()> {
        if !self.fixed {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for pages in pages {
            self.reservation.hide(pages)?;
        }
        Ok(())
    }

    /// Undoes [`Space::hide`], if nobody opened, or wrote to, a page since.
    pub(crate) fn unhide(&mut self) -> io::Result<()> {
        self.reservation.unhide()
    }

    /// Whether it began as an image, which need not be copied then.
    pub(crate) fn has_image(&self) -> bool {
        self.reservation.has_image()
    }

    /// See [`Reservation::vouch_untouched`].
    pub(crate) fn vouch_untouched(&mut self) {
        self.reservation.vouch_untouched();
    }
}

#[cfg(test)]
mod tests {
    use cwasm_artifact::types::Limits;

    use super::*;

    /// Whether the system was asked for large pages at an address.
    fn prefers_large_pages(address: usize) -> bool {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut is_there = false;
        for line in maps.lines() {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            if let Some((start, end)) = range
                && let [Ok(start), Ok(end)] = [start, end].map(|it| usize::from_str_radix(it, 16))
            {
                is_there = (start..end).contains(&address);
            } else if is_there && let Some(flags) = line.strip_prefix("VmFlags:") {
                return flags.split_whitespace().any(|flag| flag == "hg");
            }
        }
        panic!("nothing is mapped at {address:#x}");
    }

    #[test]
    fn what_a_large_memory_grows_by_is_in_large_pages() {
        let has_some = std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists();
        if !has_some || sys::page_size() != 4096 {
            return eprintln!("skipped: this system has no large pages");
        }
        let ty = MemoryType::new(Limits { min: 1, max: None });
        let new = |length| Space::new(&ty, length, true, None).unwrap();
        let at = |space: &Space, offset| prefers_large_pages(space.start().addr().get() + offset);
        // What waits may have been a large memory before.
        let mut others = Vec::new();
        let mut space = loop {
            let space = new(1 << 20);
            if !at(&space, LARGE) {
                break space;
            }
            others.push(space);
        };
        space.commit(LARGE - 4096).unwrap();
        assert!(!at(&space, 0) && !at(&space, LARGE - 8192) && !at(&space, LARGE));
        space.commit(LARGE).unwrap();
        assert!(!at(&space, LARGE - 8192) && at(&space, LARGE - 4096));
        // And what comes later.
        space.commit(10 * LARGE).unwrap();
        assert!(at(&space, 10 * LARGE - 1) && at(&space, 20 * LARGE));
        // What is as large from the beginning has none, wherever it is.
        drop(space);
        let mut others: Vec<Space> = (0..200).map(|_| new(3 * LARGE)).collect();
        assert!(others.iter().all(|space| !at(space, 2 * LARGE)));
        // All that waits has been such a memory then. One that begins with more has none either, and one with less grows as the first did.
        others.iter_mut().for_each(|space| space.commit(4 * LARGE).unwrap());
        drop(others);
        let large = new(5 * LARGE);
        assert!(!at(&large, 4 * LARGE));
        let mut space = new(1 << 20);
        space.commit(LARGE).unwrap();
        assert!(at(&space, LARGE - 4096));
    }
}
