//! Address space for memories, and the reservations that wait to be used again.
//!
//! To map and unmap gigabytes of address space costs several microseconds, most of what it takes
//! to make a small instance. So reservations of the one size that almost every memory has are kept
//! when they are dropped. What was accessible stays accessible, and what was written is made what it was: zeros, or the image of a memory
//! over zeros. The next memory of the same size and with the same image needs no
//! system call. They are kept per process, not per engine, since that is whose address space it is.
//!
//! The first pages that were written to stay, and are overwritten ([`KEPT`]). A page that is touched for the first time costs a microsecond
//! or more, and some programs touch few others. The rest is given back to the system, since pages of a private
//! mapping are zeros then, or those of the file again. If the system does not tell which pages those are, all is given back.
//!
//! Therefore it is always known exactly how much is accessible. [`Reservation::commit`] alone makes it more, also through a shared
//! reference: a memory's pages may become accessible only when somebody needs them (`vm/growth`). All that takes access away has an exclusive one.
//!
//! An image is known by a number that no other image ever has, so what waits can never be taken for
//! another's. When the artifact of an image is dropped, what waits for it is unmapped.

use std::io;
use std::mem;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};

use super::image::{Image, ImageRun};
use super::page_size;
use super::written::written_pages;

/// How many reservations wait at most.
const MAX_IDLE: usize = 128;

/// Only reservations at least this large wait: smaller ones are of many sizes.
const MIN_IDLE_LENGTH: usize = 1 << 32;

/// A memory that was larger is not kept, as few others will be.
const MAX_IDLE_ACCESSIBLE: usize = 64 << 20;

/// How many bytes of pages that were written to stay with a reservation that waits: 32 MiB of all at most.
const KEPT: usize = 256 << 10;

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
    let is_of = |contents: &Contents| match contents {
        Contents::Image(image) => file == ALL_IMAGES || image.is_of(file),
        _ => false,
    };
    idle.extract_if(.., |waiting| is_of(&waiting.contents)).collect()
}

/// What the accessible bytes of a reservation are before anybody writes to them.
#[derive(Debug)]
enum Contents {
    Zeros,
    /// An image where that has bytes, zeros elsewhere.
    Image(Arc<Image>),
    /// Something else: not to be used again.
    Other,
}

impl Contents {
    /// Whether they are this image, or zeros for none.
    fn are(&self, image: Option<&Arc<Image>>) -> bool {
        match (self, image) {
            (Self::Zeros, None) => true,
            (Self::Image(own), Some(image)) => own == image,
            _ => false,
        }
    }

    fn are_zeros(&self) -> bool {
        matches!(self, Self::Zeros)
    }
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
        image: Option<&Arc<Image>>,
    ) -> io::Result<Self> {
        let pages = |bytes: usize| bytes.checked_next_multiple_of(page_size());
        let (length, accessible) =
            pages(length.max(1)).zip(pages(accessible)).ok_or(io::ErrorKind::OutOfMemory)?;
        let (mut reservation, has_waited) = match Self::take_idle(length, accessible, image) {
            Some(idle) => (idle, true),
            None => (Self::map_anew(length)?, false),
        };
        let is_other = !reservation.contents.are(image) && !reservation.contents.are_zeros();
        if is_other || *reservation.large_from.get_mut() < accessible {
            reservation.clear()?;
        }
        if reservation.accessible() > accessible {
            reservation.close(accessible)?;
        }
        reservation.commit(accessible)?;
        if let Some(image) = image
            && reservation.contents.are_zeros()
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
    fn take_idle(length: usize, accessible: usize, image: Option<&Arc<Image>>) -> Option<Self> {
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
                let good = match &kept.contents {
                    _ if kept.length != length => continue,
                    _ if !is_small && is_full => 0,
                    _ if !is_small => continue,
                    contents if contents.are(image) => {
                        2 + u8::from(kept.accessible() == accessible)
                    }
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
        debug_assert!(taken.is_as_it_was_made(), "what waits was written to");
        taken.untouched = false;
        Some(taken)
    }

    /// Unmaps what waits. Returns whether there was anything.
    fn release_idle() -> bool {
        let waiting = with_idle(mem::take).unwrap_or_default();
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
    fn map_image(&mut self, image: &Arc<Image>) -> io::Result<()> {
        // Until all of it is there, and for good if it has too many parts to wait.
        self.contents = Contents::Other;
        for run in image.runs() {
            self.map_run(image, run)?;
        }
        if image.may_wait() {
            self.contents = Contents::Image(Arc::clone(image));
        }
        Ok(())
    }

    fn map_run(&mut self, image: &Image, run: &ImageRun) -> io::Result<()> {
        let (file, file_length) = image.file();
        let pages = |bytes: usize| bytes.checked_next_multiple_of(page_size());
        let length = pages(run.bytes.len()).unwrap_or(usize::MAX);
        let is_within =
            |start: usize, size| start.checked_add(length).is_some_and(|end| end <= size);
        if length == 0
            || !(run.at | run.bytes.start).is_multiple_of(page_size())
            || !is_within(run.bytes.start, file_length)
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
                file,
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
        !self.contents.are_zeros()
    }

    /// Says that nobody wrote to it, by whatever way, since it was made: then nothing is to be done
    /// before it waits, and the next memory finds it as it is.
    pub(crate) fn vouch_untouched(&mut self) {
        self.untouched = true;
    }

    /// Makes all bytes again what `contents` says.
    fn restore(&mut self) -> io::Result<()> {
        let accessible = *self.accessible.get_mut();
        if accessible == 0 || self.untouched {
            return Ok(());
        }
        let restored = self.restore_in_place();
        if restored < accessible {
            // SAFETY: the range lies in this reservation, which is exclusively borrowed
            // and private: its pages are dropped, and read as zero, or as the file that is mapped, from then on.
            unsafe {
                let start = self.start.as_ptr().add(restored).cast();
                rustix::mm::madvise(start, accessible - restored, Advice::LinuxDontNeed)
            }?;
        }
        Ok(())
    }

    /// Makes the bytes of few pages again what `contents` says, by writing to them. Returns up to where all bytes are that then; whole pages.
    fn restore_in_place(&mut self) -> usize {
        // Large pages are given back.
        let end = (*self.accessible.get_mut()).min(*self.large_from.get_mut());
        let Some(written) = written_pages(self.start, end, KEPT) else { return 0 };
        for pages in written.pages {
            let at = pages.start;
            // SAFETY: the pages are accessible, and lie in this reservation, which is exclusively borrowed.
            let bytes =
                unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(at), pages.len()) };
            match &self.contents {
                Contents::Image(image) if image.read(at, bytes).is_err() => return at,
                Contents::Image(_) => {}
                Contents::Zeros | Contents::Other => bytes.fill(0),
            }
        }
        written.until
    }

    /// Whether the pages that stayed are what `contents` says.
    fn is_as_it_was_made(&mut self) -> bool {
        let written = written_pages(self.start, self.accessible(), KEPT);
        written.is_none_or(|written| written.pages.into_iter().all(|pages| self.are_as_made(pages)))
    }

    /// Whether accessible pages are what `contents` says.
    fn are_as_made(&mut self, pages: Range<usize>) -> bool {
        let mut wanted = vec![0; pages.len()];
        if let Contents::Image(image) = &self.contents {
            image.read(pages.start, &mut wanted).expect("an image can be read");
        }
        // SAFETY: the pages are accessible, and lie in this reservation, which is exclusively borrowed.
        let found = unsafe {
            std::slice::from_raw_parts(self.start.as_ptr().add(pages.start), pages.len())
        };
        found == wanted
    }

    fn is_worth_keeping(&self) -> bool {
        self.length >= MIN_IDLE_LENGTH
            && self.accessible() <= MAX_IDLE_ACCESSIBLE
            && !matches!(self.contents, Contents::Other)
    }

    fn unmap(mut self) {
        self.contents = Contents::Other;
        let this = mem::ManuallyDrop::new(self);
        // SAFETY: the range was mapped by `map` and is unmapped once, here;
        // whoever holds addresses into it keeps the reservation alive.
        let result = unsafe { rustix::mm::munmap(this.start.as_ptr().cast(), this.length) };
        debug_assert!(result.is_ok(), "munmap of a whole mapping cannot fail");
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut this = Self {
            accessible: AtomicUsize::new(*self.accessible.get_mut()),
            contents: mem::replace(&mut self.contents, Contents::Other),
            large_from: AtomicUsize::new(*self.large_from.get_mut()),
            ..*self
        };
        if !this.is_worth_keeping() || this.restore().is_err() {
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
        loop {
            let count = |idle: &mut Vec<Reservation>| {
                idle.iter().filter(|waiting| waiting.contents.are(file.image(0))).count()
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

    /// Which pages are there that are not as they were mapped.
    fn written(reservation: &mut Reservation) -> Option<usize> {
        let start = reservation.start();
        let written = written_pages(start, reservation.accessible(), usize::MAX)?;
        Some(written.pages.iter().map(|pages| pages.len() / page_size()).sum())
    }

    #[test]
    fn pages_that_were_written_to_stay_with_what_waits_up_to_a_limit() {
        let page = page_size();
        let most = KEPT / page;
        let source: Vec<u8> = (1..=200).cycle().take(9 * page).collect();
        let run = |at, bytes| ImageRun { memory: 0, at, bytes };
        let runs = vec![run(2 * page + 100, 0..3 * page), run(8 * page, 3 * page..9 * page - 7)];
        let file = ImageFile::new(&source, runs).unwrap();
        let mut stayed = 0;
        for round in 0..60 {
            let accessible = 250 * page;
            let image = (round % 3 > 0).then(|| file.image(0)).flatten();
            let mut reservation = Reservation::new(LENGTH, accessible, image).unwrap();
            if let Some(written) = written(&mut reservation) {
                assert!(written <= most, "{written} of {most} pages");
                stayed += written;
            }
            assert!(reservation.are_as_made(0..accessible));
            // Some pages, some only read, in a different order each time; sometimes more than stay.
            let count = if round % 4 == 3 { 3 * most } else { 20 };
            let found = bytes(&mut reservation);
            for index in 0..count {
                let at = (index * index * 7 + index * (round + 1)) % (accessible / page) * page;
                match index % 3 {
                    0 => drop(std::hint::black_box(found[at + 9])),
                    _ => found[at + round..at + page].fill(7),
                }
            }
        }
        let is_told = written_pages(NonNull::from(&stayed).cast(), 0, 1).is_some();
        assert!(stayed > 0 || !is_told, "no page ever stayed");
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
        let images: Vec<_> = files.iter().map(|file| Arc::clone(file.image(0).unwrap())).collect();
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
        let is_gone =
            |waiting: &Reservation| images.iter().all(|image| !waiting.contents.are(Some(image)));
        while with_idle(|idle| assert!(idle.iter().all(is_gone))).is_none() {}
    }

    #[test]
    fn images_that_are_closed_while_the_lock_is_held_are_released_later() {
        for count in [1, 2, 5] {
            close_under_the_lock(count);
        }
    }
}
