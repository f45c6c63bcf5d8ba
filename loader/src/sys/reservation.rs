//! Address space for memories, and the reservations that wait to be used again.
//!
//! To map and unmap gigabytes of address space costs several microseconds, most of what it takes
//! to make a small instance. So reservations of the one size that almost every memory has are kept
//! when they are dropped. What was accessible stays accessible, and what was written is given back to the system. So what
//! waits is as it was when it was made: zeros, or the image of a memory over zeros, since pages of a private
//! mapping of a file become those of the file again. The next memory of the same size and with the same image needs no
//! system call. They are kept per process, not per engine, since that is whose address space it is.
//!
//! Therefore it is always known exactly how much is accessible. [`Reservation::commit`] alone makes it more, also through a shared
//! reference: a memory's pages may become accessible only when somebody needs them (`vm/growth`). All that takes access away has an exclusive one.
//!
//! An image is known by a number that no other image ever has, so what waits can never be taken for
//! another's. When the artifact of an image is dropped, what waits for it is unmapped.

use std::io;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};

use super::image::{Image, ImageKey, ImageRun};
use super::page_size;

/// How many reservations wait at most.
const MAX_IDLE: usize = 128;

/// Only reservations at least this large wait: smaller ones are of many sizes.
const MIN_IDLE_LENGTH: usize = 1 << 32;

/// A memory that was larger is not kept, as few others will be.
const MAX_IDLE_ACCESSIBLE: usize = 64 << 20;

/// The reservations that wait, the one that came last at the end. What is accessible of each is
/// exactly what its `contents` say.
static IDLE: Mutex<Vec<Reservation>> = Mutex::new(Vec::new());

/// An image file that was closed while another thread had the lock, so that what waits for it must still be
/// unmapped: its number, or 0 for none, or [`ALL_IMAGES`] for several.
static CLOSED: AtomicU64 = AtomicU64::new(0);

const ALL_IMAGES: u64 = u64::MAX;

/// How often a thread that closes an image file looks whether it can have the lock.
const ATTEMPTS: usize = 16;

/// Lets `body` look at what waits, unless another thread is looking: nobody waits for that, since to do
/// without is only slower. Nothing is mapped or unmapped while the lock is held.
fn with_idle<R>(body: impl FnOnce(&mut Vec<Reservation>) -> R) -> Option<R> {
    let mut idle = match IDLE.try_lock() {
        Ok(idle) => idle,
        Err(TryLockError::Poisoned(idle)) => idle.into_inner(),
        Err(TryLockError::WouldBlock) => return None,
    };
    if CLOSED.load(Ordering::Relaxed) != 0 {
        idle = release_closed(idle)?;
    }
    Some(body(&mut idle))
}

/// Unmaps what waits for files that were closed while the lock was taken. Gives up the lock meanwhile, and may
/// not get it again.
#[cold]
fn release_closed(
    mut idle: MutexGuard<'static, Vec<Reservation>>,
) -> Option<MutexGuard<'static, Vec<Reservation>>> {
    let closed = CLOSED.swap(0, Ordering::Relaxed);
    let gone = extract(&mut idle, closed);
    drop(idle);
    gone.into_iter().for_each(Reservation::unmap);
    IDLE.try_lock().ok()
}

/// Takes out what waits for images of a file, or of all.
fn extract(idle: &mut Vec<Reservation>, file: u64) -> Vec<Reservation> {
    let is_of = |contents| match contents {
        Contents::Image(key) => file == ALL_IMAGES || key.file == file,
        _ => false,
    };
    idle.extract_if(.., |waiting| is_of(waiting.contents)).collect()
}

/// What the accessible bytes of a reservation are before anybody writes to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contents {
    Zeros,
    /// An image where that has bytes, zeros elsewhere.
    Image(ImageKey),
    /// Something else: not to be used again.
    Other,
}

/// Address space that is reserved, inaccessible until it is committed, and
/// released on drop.
#[derive(Debug)]
pub(crate) struct Reservation {
    start: NonNull<u8>,
    length: usize,
    /// How many bytes at the start are accessible; whole pages. Whoever has read that may access them: it becomes less only
    /// through `&mut self`.
    accessible: AtomicUsize,
    contents: Contents,
    /// Whether it is certain that nobody wrote to it.
    untouched: bool,
    /// From where on the system was asked for large pages; the length if nowhere. What a memory begins with ends before that.
    large_from: AtomicUsize,
}

// SAFETY: a reservation is plain memory; nothing about it belongs to a thread.
unsafe impl Send for Reservation {}
// SAFETY: a shared reservation only tells its address and length.
unsafe impl Sync for Reservation {}

impl Reservation {
    /// Reserves `length` bytes, of which the first `accessible` can be read and
    /// written, and are zero. Both are rounded up to pages.
    ///
    /// Or they are an image over zeros, if [`Reservation::has_image`]: it is mapped copy-on-write if that is possible and
    /// quicker than to copy it.
    pub(crate) fn new(
        length: usize,
        accessible: usize,
        image: Option<Image<'_>>,
    ) -> io::Result<Self> {
        let pages = |bytes: usize| bytes.checked_next_multiple_of(page_size());
        let (length, accessible) =
            pages(length.max(1)).zip(pages(accessible)).ok_or(io::ErrorKind::OutOfMemory)?;
        let wanted = image.map_or(Contents::Zeros, |image| Contents::Image(image.key()));
        let (mut reservation, has_waited) = match Self::take_idle(length, accessible, wanted) {
            Some(idle) => (idle, true),
            None => (Self::map_anew(length)?, false),
        };
        let is_other = reservation.contents != wanted && reservation.contents != Contents::Zeros;
        if is_other || *reservation.large_from.get_mut() < accessible {
            reservation.clear()?;
        }
        if reservation.accessible() > accessible {
            reservation.close(accessible)?;
        }
        reservation.commit(accessible)?;
        if let Some(image) = image
            && reservation.contents != wanted
            // To map a small image is slower than to copy it, the first time.
            && (has_waited || image.is_large())
            && reservation.map_image(image).is_err()
        {
            reservation.clear()?;
            reservation.commit(accessible)?;
        }
        Ok(reservation)
    }

    fn map_anew(length: usize) -> io::Result<Self> {
        Self::map(length).or_else(|error| {
            // What waits may be what is lacking.
            if Self::release_idle() { Self::map(length) } else { Err(error) }
        })
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
        Ok(Self {
            start,
            length,
            accessible: AtomicUsize::new(0),
            contents: Contents::Zeros,
            untouched: false,
            large_from: AtomicUsize::new(length),
        })
    }

    /// One that waits and has the right length: rather one that is as it is wanted, or one that has the right
    /// contents, or zeros. Any other, only if no more could wait.
    fn take_idle(length: usize, accessible: usize, wanted: Contents) -> Option<Self> {
        if length < MIN_IDLE_LENGTH {
            return None;
        }
        let taken = with_idle(|idle| {
            // The best so far: how good it is, and where.
            let mut best = None;
            let is_full = idle.len() >= MAX_IDLE;
            // The last that came is the most likely to be in the caches.
            for (position, kept) in idle.iter().enumerate().rev() {
                let is_small = accessible <= kept.large_from.load(Ordering::Relaxed);
                let good = match kept.contents {
                    _ if kept.length != length => continue,
                    _ if !is_small && is_full => 0,
                    _ if !is_small => continue,
                    contents if contents == wanted => 2 + u8::from(kept.accessible() == accessible),
                    Contents::Zeros => 1,
                    _ if is_full => 0,
                    _ => continue,
                };
                // Of those that are of no use, the one that came first.
                if best.is_none_or(|(other, _)| good > other || good == 0 && other == 0) {
                    best = Some((good, position));
                }
                if good == 3 {
                    break;
                }
            }
            best.map(|(_, position)| idle.remove(position))
        });
        let mut taken = taken.flatten()?;
        taken.untouched = false;
        Some(taken)
    }

    /// Unmaps what waits. Returns whether there was anything.
    fn release_idle() -> bool {
        let waiting = with_idle(std::mem::take).unwrap_or_default();
        // Not dropped, which would keep them.
        waiting.into_iter().map(Self::unmap).count() > 0
    }

    /// Unmaps what waits for images of a file: at once, unless other threads make and drop memories meanwhile, of
    /// which the next does it then.
    pub(super) fn release_image(file: u64) {
        for _ in 0..ATTEMPTS {
            if let Some(gone) = with_idle(|idle| extract(idle, file)) {
                return gone.into_iter().for_each(Self::unmap);
            }
            std::hint::spin_loop();
        }
        if CLOSED.compare_exchange(0, file, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            CLOSED.store(ALL_IMAGES, Ordering::Relaxed);
        }
        // It may be free by now.
        with_idle(|_| ());
    }

    /// The first byte.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// How many bytes at the start are accessible; whole pages.
    #[inline]
    pub(crate) fn accessible(&self) -> usize {
        self.accessible.load(Ordering::Acquire)
    }

    /// Makes the first `to` bytes, a multiple of the page size, readable and
    /// writable. New bytes are zero.
    ///
    /// Several threads may do this at once. A signal handler may, too.
    pub(crate) fn commit(&self, to: usize) -> Result<(), Errno> {
        if to > self.length || !to.is_multiple_of(page_size()) {
            return Err(Errno::INVAL);
        }
        let accessible = self.accessible();
        if to > accessible {
            // SAFETY: the range lies in this reservation (checked above). Its pages only gain access. Those that another thread has made accessible
            // meanwhile, which may be in use, lose none by this; and nobody takes any away, since that needs `&mut self`.
            unsafe {
                let start = self.start.as_ptr().add(accessible);
                let access = MprotectFlags::READ | MprotectFlags::WRITE;
                rustix::mm::mprotect(start.cast(), to - accessible, access)
            }?;
            // What is before these pages was accessible, so all is up to the largest.
            self.accessible.fetch_max(to, Ordering::Release);
        }
        Ok(())
    }

    /// Asks the system for large pages in what is not accessible yet, if it was not asked before. It may have none to give. Pages that
    /// are not accessible never are part of one.
    ///
    /// Several threads may do this at once. A signal handler may, too.
    pub(crate) fn prefer_large_pages(&self) {
        let from = self.accessible();
        // Where pages have 16 or 64 KiB, large ones have 32 or 512 MiB.
        if page_size() != 4096 || self.large_from.fetch_min(from, Ordering::Relaxed) <= from {
            return;
        }
        // SAFETY: the range lies in this reservation, which is mapped. What it asks for changes neither bytes nor access.
        let _ = unsafe {
            let start = self.start.as_ptr().add(from);
            rustix::mm::madvise(start.cast(), self.length - from, Advice::LinuxHugepage)
        };
    }

    /// Makes everything behind the first `to` bytes inaccessible.
    fn close(&mut self, to: usize) -> io::Result<()> {
        let accessible = *self.accessible.get_mut();
        self.protect(to..accessible, MprotectFlags::empty())?;
        *self.accessible.get_mut() = to;
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

    /// Makes an image appear, readable and writable. Nothing was written before.
    fn map_image(&mut self, image: Image<'_>) -> io::Result<()> {
        // Until all of it is there, and for good if it has too many parts to wait.
        self.contents = Contents::Other;
        for run in image.runs {
            self.map_run(image, run)?;
        }
        if image.may_wait() {
            self.contents = Contents::Image(image.key());
        }
        Ok(())
    }

    fn map_run(&mut self, image: Image<'_>, run: &ImageRun) -> io::Result<()> {
        let file = image.file;
        let pages = |bytes: usize| bytes.checked_next_multiple_of(page_size());
        let length = pages(run.bytes.len()).unwrap_or(usize::MAX);
        let is_within =
            |start: usize, size| start.checked_add(length).is_some_and(|end| end <= size);
        if length == 0
            || !(run.at | run.bytes.start).is_multiple_of(page_size())
            || !is_within(run.bytes.start, file.length)
            || !is_within(run.at, self.accessible())
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: the target range lies in this reservation (checked above), which
        // is exclusively borrowed, so replacing what is mapped there
        // affects nobody else. The file cannot shrink (it is sealed).
        unsafe {
            rustix::mm::mmap(
                self.start.as_ptr().add(run.at).cast(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::FIXED,
                &file.file,
                run.bytes.start as u64,
            )
        }?;
        Ok(())
    }

    /// Makes all of it inaccessible, and zero, whatever it was.
    fn clear(&mut self) -> io::Result<()> {
        let length = self.length;
        // What was asked for, too.
        let changed = match *self.large_from.get_mut() {
            from if from < length => length,
            _ => *self.accessible.get_mut(),
        };
        if changed > 0 {
            // For good, if the system refuses.
            self.contents = Contents::Other;
            // SAFETY: the range lies in this reservation, which is exclusively borrowed, so replacing what
            // is mapped there affects nobody else.
            unsafe {
                rustix::mm::mmap_anonymous(
                    self.start.as_ptr().cast(),
                    changed,
                    ProtFlags::empty(),
                    MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED,
                )
            }?;
        }
        *self.accessible.get_mut() = 0;
        *self.large_from.get_mut() = length;
        self.contents = Contents::Zeros;
        Ok(())
    }

    /// Takes all access to pages that are accessible, and zero, away, for [`open_pages`] to give it back. Address space like that
    /// does not wait to be used again.
    pub(crate) fn hide(&mut self, pages: Range<usize>) -> io::Result<()> {
        if pages.start > pages.end
            || pages.end > self.accessible()
            || !(pages.start | pages.end).is_multiple_of(page_size())
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.contents = Contents::Other;
        self.protect(pages, MprotectFlags::empty())
    }

    /// Makes everything accessible again that [`Reservation::hide`] took away, if nobody opened, or wrote to, any of it.
    pub(crate) fn unhide(&mut self) -> io::Result<()> {
        self.protect(0..self.accessible(), MprotectFlags::READ | MprotectFlags::WRITE)?;
        self.contents = Contents::Zeros;
        Ok(())
    }

    /// Whether it is, or was until somebody wrote to it, an image.
    pub(crate) fn has_image(&self) -> bool {
        self.contents != Contents::Zeros
    }

    /// Says that nobody wrote to it, by whatever way, since it was made: only then it is not given back to the
    /// system before it waits, and the next memory finds it as it is.
    pub(crate) fn vouch_untouched(&mut self) {
        self.untouched = true;
    }

    /// Gives what was written back to the system, such that all bytes are again what `contents` says.
    fn forget_contents(&mut self) -> io::Result<()> {
        let accessible = *self.accessible.get_mut();
        if accessible == 0 || self.untouched {
            return Ok(());
        }
        // SAFETY: the range lies in this reservation, which is exclusively borrowed
        // and private: its pages are dropped, and read as zero, or as the file that is mapped, from then on.
        unsafe {
            let start = self.start.as_ptr().cast();
            rustix::mm::madvise(start, accessible, Advice::LinuxDontNeed)
        }?;
        Ok(())
    }

    fn is_worth_keeping(&self) -> bool {
        self.length >= MIN_IDLE_LENGTH
            && self.accessible() <= MAX_IDLE_ACCESSIBLE
            && self.contents != Contents::Other
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
        let accessible = AtomicUsize::new(*self.accessible.get_mut());
        let large_from = AtomicUsize::new(*self.large_from.get_mut());
        let mut this = Self { accessible, large_from, ..*self };
        if !this.is_worth_keeping() || this.forget_contents().is_err() {
            return this.unmap();
        }
        let mut this = Some(this);
        with_idle(|idle| {
            if idle.len() < MAX_IDLE {
                idle.extend(this.take());
            }
        });
        this.into_iter().for_each(Self::unmap);
    }
}

/// Gives access to pages of a reservation back that [`Reservation::hide`] took away: all that are about to be written. Makes only system calls that a
/// signal handler may make.
///
/// # Safety
/// `start` is the first of so many bytes of pages of a live reservation, which were accessible before they were hidden, and nobody else changes the protection of these.
pub(crate) unsafe fn open_pages(start: *mut u8, length: usize) -> Result<(), Errno> {
    let access = MprotectFlags::READ | MprotectFlags::WRITE;
    // SAFETY: the range is mapped, by the caller's promise, and only gains permissions that it had before. To populate
    // pages changes nothing that can be seen; if the system does not, they are had by faults.
    unsafe {
        rustix::mm::mprotect(start.cast(), length, access)?;
        let _ = rustix::mm::madvise(start.cast(), length, Advice::LinuxPopulateWrite);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{ImageFile, ImageRun};
    use super::*;

    const LENGTH: usize = MIN_IDLE_LENGTH + (1 << 20);

    fn bytes(reservation: &mut Reservation) -> &mut [u8] {
        let start = reservation.start().as_ptr();
        // SAFETY: the bytes are accessible, and used by this test alone.
        unsafe { std::slice::from_raw_parts_mut(start, reservation.accessible()) }
    }

    /// An image of one page, at the second page of memory 0.
    fn image_file(byte: u8) -> ImageFile {
        let page = page_size();
        ImageFile::new(&vec![byte; page], vec![ImageRun { memory: 0, at: page, bytes: 0..page }])
            .unwrap()
    }

    fn waiting_for(file: &ImageFile) -> usize {
        let key = file.image(0).unwrap().key();
        loop {
            let count = |idle: &mut Vec<Reservation>| {
                idle.iter().filter(|waiting| waiting.contents == Contents::Image(key)).count()
            };
            if let Some(count) = with_idle(count) {
                return count;
            }
        }
    }

    #[test]
    fn whatever_was_in_a_reservation_it_begins_as_zeros() {
        for accessible in [65536, 65536, 131_072, 4096, 0, 65536] {
            for _ in 0..3 {
                let mut reservation = Reservation::new(LENGTH, accessible, None).unwrap();
                assert_eq!(reservation.accessible(), accessible);
                assert!(bytes(&mut reservation).iter().all(|byte| *byte == 0));
                bytes(&mut reservation).fill(7);
            }
        }
    }

    #[test]
    fn whatever_was_in_a_reservation_it_begins_as_its_image_or_as_zeros() {
        let (first, second) = (image_file(1), image_file(2));
        let page = page_size();
        for round in 0..30 {
            for (file, wanted) in [(Some(&first), 1), (None, 0), (Some(&second), 2)] {
                let image = file.and_then(|file| file.image(0));
                let mut reservation = Reservation::new(LENGTH, 4 * page, image).unwrap();
                let wanted = if reservation.has_image() { wanted } else { 0 };
                let found = bytes(&mut reservation);
                assert_eq!(found.len(), 4 * page);
                assert!(found[page..2 * page].iter().all(|byte| *byte == wanted));
                assert!(found[..page].iter().chain(&found[2 * page..]).all(|byte| *byte == 0));
                match round % 3 {
                    0 => reservation.vouch_untouched(),
                    1 => found.fill(9),
                    _ => {
                        reservation.commit(8 * page).unwrap();
                        bytes(&mut reservation).fill(9);
                    }
                }
            }
        }
    }

    #[test]
    fn images_begin_and_end_anywhere_with_zeros_around_them() {
        let page = page_size();
        // So many that they are mapped the first time.
        let source: Vec<u8> = (1..=200).cycle().take(40 * page).collect();
        let run = |at, bytes| ImageRun { memory: 0, at, bytes };
        let runs = vec![run(page + 10, 0..page + 5), run(3 * page + 7, page + 2..40 * page)];
        let file = ImageFile::new(&source, runs.clone()).unwrap();
        let mut reservation = Reservation::new(LENGTH, 48 * page, file.image(0)).unwrap();
        assert!(reservation.has_image());
        let mut wanted = vec![0; 48 * page];
        for ImageRun { at, bytes: from, .. } in runs {
            wanted[at..at + from.len()].copy_from_slice(&source[from]);
        }
        assert!(bytes(&mut reservation) == wanted);
        // Not where one would be mapped over another.
        for (first, second) in [(0, 10), (page - 1, page + 1), (page, 0)] {
            let runs = vec![run(first, 0..5), run(second, 9..10)];
            assert!(ImageFile::new(&source, runs).is_err(), "{first} {second}");
        }
        assert!(ImageFile::new(&source, vec![run(0, 0..source.len() + 1)]).is_err());
    }

    #[test]
    fn what_is_hidden_is_accessible_again_when_it_is_opened() {
        let page = page_size();
        let mut reservation = Reservation::new(LENGTH, 4 * page, None).unwrap();
        for pages in [3 * page..5 * page, 0..1, 1..page, 4 * page..5 * page] {
            assert!(reservation.hide(pages).is_err());
        }
        reservation.hide(page..3 * page).unwrap();
        // Some of it is not there, so it must not wait.
        assert!(reservation.has_image() && !reservation.is_worth_keeping());
        reservation.unhide().unwrap();
        assert!(!reservation.has_image() && reservation.is_worth_keeping());
        bytes(&mut reservation).fill(7);
        let mut reservation = Reservation::new(LENGTH, 4 * page, None).unwrap();
        reservation.hide(page..3 * page).unwrap();
        let start = reservation.start().as_ptr();
        // SAFETY: the pages were hidden, and nobody else knows of them.
        unsafe { open_pages(start.add(page), 2 * page) }.unwrap();
        assert!(bytes(&mut reservation).iter().all(|byte| *byte == 0));
        bytes(&mut reservation).fill(7);
        assert!(!reservation.is_worth_keeping());
    }

    /// Closes these many images while the lock is held, so that the closing threads cannot have it.
    fn close_under_the_lock(count: u8) {
        let files: Vec<_> = (0..count).map(image_file).collect();
        let keys: Vec<_> =
            files.iter().map(|file| Contents::Image(file.image(0).unwrap().key())).collect();
        // Until one waits for each: others test here, too.
        while files.iter().any(|file| waiting_for(file) == 0) {
            for file in &files {
                drop(Reservation::new(LENGTH, 4 * page_size(), file.image(0)).unwrap());
            }
        }
        let held = loop {
            if let Ok(held) = IDLE.try_lock() {
                break held;
            }
        };
        drop(files);
        drop(held);
        let is_gone = |waiting: &Reservation| !keys.contains(&waiting.contents);
        while with_idle(|idle| assert!(idle.iter().all(is_gone))).is_none() {}
    }

    #[test]
    fn images_that_are_closed_while_the_lock_is_held_are_released_later() {
        for count in [1, 2, 5] {
            close_under_the_lock(count);
        }
    }
}
