//! Address space for memories, and the reservations that wait to be used again.
//!
//! To map and unmap gigabytes of address space costs several microseconds, most of what it takes
//! to make a small instance. So reservations of the one size that almost every memory has are kept
//! when they are dropped: their contents are given back to the system, and what was
//! accessible stays accessible. The next memory of the same size finds zeros, and needs no system
//! call. They are kept per process, not per engine, since that is whose address space it is.

use std::io;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::{Mutex, MutexGuard, TryLockError};

use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};

use super::{ImageFile, page_size};

/// How many reservations wait at most.
const MAX_IDLE: usize = 128;

/// Only reservations at least this large wait: smaller ones are of many sizes.
const MIN_IDLE_LENGTH: usize = 1 << 32;

/// A memory that was larger is not kept, as few others will be.
const MAX_IDLE_ACCESSIBLE: usize = 64 << 20;

/// The reservations that wait: all bytes that are accessible are zero.
static IDLE: Mutex<Vec<Reservation>> = Mutex::new(Vec::new());

/// What waits, unless another thread is looking: nobody waits for that, since to do
/// without is only slower.
fn idle() -> Option<MutexGuard<'static, Vec<Reservation>>> {
    match IDLE.try_lock() {
        Ok(idle) => Some(idle),
        Err(TryLockError::Poisoned(idle)) => Some(idle.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Address space that is reserved, inaccessible until it is committed, and
/// released on drop.
#[derive(Debug)]
pub(crate) struct Reservation {
    start: NonNull<u8>,
    length: usize,
    /// How many bytes at the start are accessible; whole pages.
    accessible: usize,
    /// Whether a part of it is an image, and so not zero when it is forgotten.
    has_image: bool,
}

// SAFETY: a reservation is plain memory; nothing about it belongs to a thread.
unsafe impl Send for Reservation {}
// SAFETY: a shared reservation only tells its address and length.
unsafe impl Sync for Reservation {}

impl Reservation {
    /// Reserves `length` bytes, of which the first `accessible` can be read and
    /// written, and are zero. Both are rounded up to pages.
    pub(crate) fn new(length: usize, accessible: usize) -> io::Result<Self> {
        let pages = |bytes: usize| bytes.checked_next_multiple_of(page_size());
        let (length, accessible) =
            pages(length.max(1)).zip(pages(accessible)).ok_or(io::ErrorKind::OutOfMemory)?;
        let mut reservation = match Self::take_idle(length, accessible) {
            Some(idle) => idle,
            None => Self::map(length).or_else(|error| {
                // What waits may be what is lacking.
                if Self::release_idle() { Self::map(length) } else { Err(error) }
            })?,
        };
        if reservation.accessible > accessible {
            reservation.close(accessible)?;
        }
        reservation.commit(accessible)?;
        Ok(reservation)
    }

    /// Reserves memory for a stack: `length` bytes that can be read and written, above
    /// `guard` bytes that cannot. Both are whole pages.
    pub(crate) fn stack(guard: usize, length: usize) -> io::Result<Self> {
        let total = guard.checked_add(length).ok_or(io::ErrorKind::OutOfMemory)?;
        let mut stack = Self::map(total)?;
        stack.protect(guard..total, MprotectFlags::READ | MprotectFlags::WRITE)?;
        Ok(stack)
    }

    fn map(length: usize) -> io::Result<Self> {
        // SAFETY: a new anonymous mapping at an address of the kernel's choice
        // touches no existing memory.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                length,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, length, accessible: 0, has_image: false })
    }

    /// One that waits and has the right length; rather one that is as it is wanted.
    fn take_idle(length: usize, accessible: usize) -> Option<Self> {
        if length < MIN_IDLE_LENGTH {
            return None;
        }
        let mut idle = idle()?;
        // The last that came is the most likely to be in the caches.
        let same = |kept: &Self| kept.length == length && kept.accessible == accessible;
        let position = idle
            .iter()
            .rposition(same)
            .or_else(|| idle.iter().rposition(|kept| kept.length == length))?;
        Some(idle.swap_remove(position))
    }

    /// Unmaps what waits. Returns whether there was anything.
    fn release_idle() -> bool {
        let waiting = idle().map(|mut idle| std::mem::take(&mut *idle)).unwrap_or_default();
        // Not dropped, which would keep them.
        waiting.into_iter().map(Self::unmap).count() > 0
    }

    /// The first byte.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Makes the first `to` bytes, a multiple of the page size, readable and
    /// writable. New bytes are zero.
    pub(crate) fn commit(&mut self, to: usize) -> io::Result<()> {
        if to > self.length || !to.is_multiple_of(page_size()) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if to > self.accessible {
            let access = MprotectFlags::READ | MprotectFlags::WRITE;
            self.protect(self.accessible..to, access)?;
            self.accessible = to;
        }
        Ok(())
    }

    /// Makes everything behind the first `to` bytes inaccessible.
    fn close(&mut self, to: usize) -> io::Result<()> {
        self.protect(to..self.accessible, MprotectFlags::empty())?;
        self.accessible = to;
        Ok(())
    }

    fn protect(&mut self, range: Range<usize>, access: MprotectFlags) -> io::Result<()> {
        debug_assert!(range.start <= range.end && range.end <= self.length);
        // SAFETY: the range lies in this reservation, which is exclusively
        // borrowed, and which nobody else can change the protection of.
        unsafe {
            let start = self.start.as_ptr().add(range.start);
            rustix::mm::mprotect(start.cast(), range.len(), access)
        }?;
        Ok(())
    }

    /// Makes a part of an image appear at `at`, readable and writable. Pages
    /// are shared with the image until they are written to. All
    /// numbers are multiples of the page size.
    pub(crate) fn map_image(
        &mut self,
        at: usize,
        image: &ImageFile,
        range: Range<usize>,
    ) -> io::Result<()> {
        let pages = at | range.start | range.end;
        let end = at.checked_add(range.len());
        if range.is_empty()
            || !pages.is_multiple_of(page_size())
            || range.end > image.length
            || end.is_none_or(|end| end > self.accessible)
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: the target range lies in this reservation (checked above), which
        // is exclusively borrowed, so replacing what is mapped there
        // affects nobody else. The file cannot shrink (it is sealed).
        unsafe {
            rustix::mm::mmap(
                self.start.as_ptr().add(at).cast(),
                range.len(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::FIXED,
                &image.file,
                range.start as u64,
            )
        }?;
        self.has_image = true;
        Ok(())
    }

    /// Gives the contents back to the system, such that all bytes are zero again.
    fn forget_contents(&mut self) -> io::Result<()> {
        if self.accessible == 0 {
            return Ok(());
        }
        // SAFETY: the range lies in this reservation, which is exclusively borrowed
        // and private: its pages are dropped, and read as zero from then on.
        unsafe {
            let start = self.start.as_ptr().cast();
            rustix::mm::madvise(start, self.accessible, Advice::LinuxDontNeed)
        }?;
        Ok(())
    }

    fn is_worth_keeping(&self) -> bool {
        self.length >= MIN_IDLE_LENGTH && self.accessible <= MAX_IDLE_ACCESSIBLE && !self.has_image
    }

    fn unmap(self) {
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: the range was mapped by `map` and is unmapped once, here;
        // whoever holds addresses into it keeps the reservation alive.
        let result = unsafe { rustix::mm::munmap(this.start.as_ptr().cast(), this.length) };
        debug_assert!(result.is_ok(), "munmap of a whole mapping cannot fail");
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut this = Self { ..*self };
        if this.is_worth_keeping()
            && this.forget_contents().is_ok()
            && let Some(mut idle) = idle()
            && idle.len() < MAX_IDLE
        {
            idle.push(this);
            return;
        }
        this.unmap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: usize = MIN_IDLE_LENGTH + (1 << 20);

    fn bytes(reservation: &mut Reservation) -> &mut [u8] {
        let start = reservation.start().as_ptr();
        // SAFETY: the bytes are accessible, and used by this test alone.
        unsafe { std::slice::from_raw_parts_mut(start, reservation.accessible) }
    }

    #[test]
    fn whatever_was_in_a_reservation_it_begins_as_zeros() {
        for accessible in [65536, 65536, 131_072, 4096, 0, 65536] {
            for _ in 0..3 {
                let mut reservation = Reservation::new(LENGTH, accessible).unwrap();
                assert_eq!(reservation.accessible, accessible);
                assert!(bytes(&mut reservation).iter().all(|byte| *byte == 0));
                bytes(&mut reservation).fill(7);
            }
        }
    }
}
