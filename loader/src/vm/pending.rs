//! Images of memories of which a part is loaded when it is first touched.
//!
//! A memory of an artifact that was loaded lazily begins with the pages of its image inaccessible. The first access of compiled
//! code to one of them, be it a read or a write, faults, and the signal handler makes a piece present: it has the
//! artifact load it ([`super::lazy`]), which compares the leaves, makes the pages accessible, and copies the bytes.
//! Rust never faults: whoever in the loader touches bytes of a memory makes them present first, and system calls get
//! bytes that are present. A piece that cannot be had stays inaccessible, and whoever needs it ends with an error.
//!
//! The pages belong to one memory, which one store has, so whoever runs compiled code has them alone. Several threads
//! may read such a memory from the host at once; that is what the lock is for, which the signal handler does without.

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use cwasm_artifact::abi::memory::MemoryStyle;
use cwasm_artifact::tree::MAX_CHUNK_SIZE;
use cwasm_artifact::types::MemoryType;

use super::lazy::Lost;
use crate::artifact::Artifact;
use crate::sys::{self, ImageRun};

/// An image of more runs is not worth it: each is a mapping or two of the process.
const MAX_RUNS: usize = 256;

/// In how many pieces the images of an artifact are made present at most. In the worst case each is a mapping of its own, of
/// which a process may have some ten thousand.
const MAX_PIECES: usize = 4096;

/// The images of an artifact whose memories can begin without them.
#[derive(Debug)]
pub(crate) struct LateImages {
    /// By memory, and then by address. They have no page in common.
    runs: Box<[LateRun]>,
    /// How many bytes of the file are made present at once: a number of chunks, whatever their size.
    piece: usize,
}

/// A run of bytes that a memory begins with.
#[derive(Debug)]
struct LateRun {
    memory: u32,
    /// Where it begins in the memory.
    at: usize,
    /// Where it is in the file; begins as far into a page as in the memory.
    bytes: Range<usize>,
    /// The number of its first piece in its memory.
    first: usize,
}

impl LateRun {
    /// The pages of the memory that it is on.
    fn pages(&self) -> Range<usize> {
        let page = sys::page_size();
        self.at - self.at % page..(self.at + self.bytes.len()).next_multiple_of(page)
    }

    fn piece_count(&self, piece: usize) -> usize {
        self.bytes.end.div_ceil(piece) - self.bytes.start / piece
    }

    /// Where a piece of it is in the file.
    fn piece(&self, number: usize, piece: usize) -> Range<usize> {
        let start = (self.bytes.start / piece + number) * piece;
        start.max(self.bytes.start)..(start + piece).min(self.bytes.end)
    }

    /// Its pieces with bytes of the memory at `range`, by number.
    fn pieces_at(&self, range: &Range<usize>, piece: usize) -> Range<usize> {
        let pages = self.pages();
        let (start, end) = (range.start.max(pages.start), range.end.min(pages.end));
        if start >= end {
            return 0..0;
        }
        let number = |at: usize| {
            // The pages may begin before the first byte, and go on behind the last.
            let byte = (self.bytes.start + at.saturating_sub(self.at)).min(self.bytes.end - 1);
            byte / piece - self.bytes.start / piece
        };
        number(start)..number(end - 1) + 1
    }
}

impl LateImages {
    /// The images with these runs, whose bytes are in the section at `section` of the file. `None` if there are none, or if one of the
    /// memories, which `ty` knows, cannot begin without its image.
    pub(crate) fn of(
        mut runs: Vec<ImageRun>,
        section: &Range<usize>,
        ty: impl Fn(u32) -> Option<MemoryType>,
    ) -> Option<Self> {
        let page = sys::page_size();
        runs.retain(|run| !run.bytes.is_empty());
        runs.sort_by_key(|run| (run.memory, run.at));
        // A memory that moves would have to have all of it, and so would one that other threads use meanwhile.
        let may_wait =
            |ty: MemoryType| !ty.shared && MemoryStyle::of(&ty, false) == MemoryStyle::Reserved;
        let most = section.len().div_ceil(MAX_CHUNK_SIZE);
        let piece = MAX_CHUNK_SIZE * most.div_ceil(MAX_PIECES).next_power_of_two();
        let mut late: Vec<LateRun> = Vec::with_capacity(runs.len());
        for run in runs {
            let bytes = section.start.checked_add(run.bytes.start)?
                ..section.start.checked_add(run.bytes.end)?;
            let before = late.last().filter(|last| last.memory == run.memory);
            let first = before.map_or(0, |last| last.first + last.piece_count(piece));
            let is_apart = before.is_none_or(|last| last.pages().end <= run.at - run.at % page);
            if bytes.start % page != run.at % page
                || bytes.end > section.end
                || !is_apart
                || !ty(run.memory).is_some_and(may_wait)
            {
                return None;
            }
            late.push(LateRun { memory: run.memory, at: run.at, bytes, first });
        }
        (!late.is_empty() && late.len() <= MAX_RUNS).then(|| Self { runs: late.into(), piece })
    }

    fn runs_of(&self, memory: u32) -> &[LateRun] {
        let start = self.runs.partition_point(|run| run.memory < memory);
        let end = self.runs.partition_point(|run| run.memory <= memory);
        &self.runs[start..end]
    }

    /// The pages of a memory that are to be inaccessible at first.
    pub(crate) fn pages_of(&self, memory: u32) -> impl Iterator<Item = Range<usize>> {
        self.runs_of(memory).iter().map(LateRun::pages)
    }
}

/// The image of one memory of a store, as far as it is not present.
#[derive(Debug)]
pub(crate) struct PendingImage {
    place: Place,
    /// Whether all of it is present.
    is_done: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct Place {
    /// The first byte of the memory, which never moves.
    base: NonNull<u8>,
    artifact: NonNull<Artifact>,
    /// The memory's number in the artifact.
    memory: u32,
}

#[derive(Debug)]
struct State {
    /// Which pieces are present.
    present: Box<[bool]>,
    /// How many are not.
    left: usize,
    /// Whether all of it is zero now, and not as the image any more.
    withdrawn: bool,
}

// SAFETY: the pointers are to the artifact, which is `Sync`, and to the memory that owns this.
unsafe impl Send for PendingImage {}
// SAFETY: as above; through a shared reference, pages are changed under the lock only, and before anybody reads them.
unsafe impl Sync for PendingImage {}

impl PendingImage {
    /// The image of the memory with this number in an artifact, none of which is present. `None` if it has none.
    ///
    /// # Safety
    /// * The artifact outlives `self`, and the memory that begins at `base`.
    /// * The memory is at least as large as the artifact says, and its pages at [`LateImages::pages_of`] are inaccessible, of
    ///   anonymous private memory, zero, and change only by what `self` does.
    /// * `self` belongs to the memory: through `&mut self` nobody else uses its bytes.
    pub(crate) unsafe fn new(artifact: &Artifact, memory: u32, base: NonNull<u8>) -> Option<Self> {
        let images = artifact.late_images()?;
        let last = images.runs_of(memory).last()?;
        let count = last.first + last.piece_count(images.piece);
        let present = vec![false; count].into();
        let state = State { present, left: count, withdrawn: false };
        let place = Place { base, artifact: NonNull::from(artifact), memory };
        Some(Self { place, is_done: AtomicBool::new(false), state: Mutex::new(state) })
    }

    /// Makes bytes of the memory present, unless they are.
    #[cold]
    pub(crate) fn load(&self, range: &Range<usize>) -> Result<(), Lost> {
        if self.is_done.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = self.place.load(&mut state, range);
        self.is_done.store(state.left == 0, Ordering::Release);
        result.map(|_| ())
    }

    /// Makes the byte at an address present. `None` if it is not in the image, or is present.
    ///
    /// May be called by a signal handler.
    pub(crate) fn load_address(&mut self, address: usize) -> Option<Result<(), Lost>> {
        let at = address.checked_sub(self.place.base.addr().get())?;
        // Nobody has the lock, and to look needs none.
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let result = self.place.load(state, &(at..at.checked_add(1)?));
        *self.is_done.get_mut() = state.left == 0;
        match result {
            Ok(0) => None,
            Ok(_) => Some(Ok(())),
            Err(lost) => Some(Err(lost)),
        }
    }

    /// Lets everything, none of which is present, begin as zeros.
    pub(crate) fn withdraw(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        debug_assert!(!state.present.contains(&true));
        state.withdrawn = true;
    }
}

impl Place {
    /// Makes the pieces with these bytes of the memory present. Returns how many were not.
    fn load(&self, state: &mut State, range: &Range<usize>) -> Result<usize, Lost> {
        // SAFETY: the artifact outlives `self`, see `PendingImage::new`.
        let artifact = unsafe { self.artifact.as_ref() };
        let Some(images) = artifact.late_images() else { return Ok(0) };
        let runs = images.runs_of(self.memory);
        let mut loaded = 0;
        for run in &runs[runs.partition_point(|run| run.pages().end <= range.start)..] {
            if run.pages().start >= range.end {
                break;
            }
            let wanted = run.pieces_at(range, images.piece);
            let mut first = wanted.start;
            while first < wanted.end {
                let is_absent =
                    |number: &usize| state.present.get(run.first + number) == Some(&false);
                // As many as lie together at once: fewer system calls, and fewer mappings of the artifact.
                let end =
                    (first..wanted.end).find(|number| !is_absent(number)).unwrap_or(wanted.end);
                let absent = run.first + first..run.first + end;
                if !absent.is_empty() {
                    let start = run.piece(first, images.piece).start;
                    let bytes = start..run.piece(end - 1, images.piece).end;
                    let at = run.at + (start - run.bytes.start);
                    self.fill(artifact, at, bytes, state.withdrawn)?;
                    state.left -= absent.len();
                    loaded += absent.len();
                    state.present.get_mut(absent).unwrap_or_default().fill(true);
                }
                first = end.max(first + 1);
            }
        }
        Ok(loaded)
    }

    /// Makes pieces that lie together, none of which is present, accessible, with their bytes, which are at `bytes` of the file. The
    /// first byte of the memory that they have is at `at`, before which there may be zeros of its page.
    fn fill(
        &self,
        artifact: &Artifact,
        at: usize,
        bytes: Range<usize>,
        withdrawn: bool,
    ) -> Result<(), Lost> {
        let before = at % sys::page_size();
        let pages = (before + bytes.len()).next_multiple_of(sys::page_size());
        let refused = |error| Lost::refused(&bytes, error);
        let bytes = if withdrawn { &[] } else { artifact.image_at(bytes.clone())? };
        // SAFETY: the pages are of the memory, by `PendingImage::new`, and not present, so nobody has a reference to them: they
        // are ours alone, by `&mut PendingImage` or by the lock. They are zero; and their bytes do not overlap with those of the artifact.
        unsafe {
            let target = self.base.as_ptr().add(at);
            sys::open_pages(target.sub(before), pages).map_err(refused)?;
            target.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use cwasm_artifact::types::{IndexType, Limits};

    use super::*;

    fn ty() -> MemoryType {
        MemoryType::new(Limits { min: 100, max: None })
    }

    fn run(memory: u32, at: usize, bytes: Range<usize>) -> ImageRun {
        ImageRun { memory, at, bytes }
    }

    #[test]
    fn every_byte_of_a_run_is_in_one_piece() {
        let page = sys::page_size();
        let section = 3 * page..3 * page + 40 * MAX_CHUNK_SIZE;
        let runs = vec![
            run(1, 0, 9 * MAX_CHUNK_SIZE..20 * MAX_CHUNK_SIZE),
            run(0, 7 * MAX_CHUNK_SIZE, 2 * page..5 * MAX_CHUNK_SIZE + 10),
            run(0, 0, 0..1),
            // Neither at pages.
            run(2, page + 100, 25 * MAX_CHUNK_SIZE + 100..27 * MAX_CHUNK_SIZE + 50),
            run(
                2,
                5 * MAX_CHUNK_SIZE + 7,
                30 * MAX_CHUNK_SIZE + page + 7..30 * MAX_CHUNK_SIZE + page + 8,
            ),
        ];
        let images = LateImages::of(runs, &section, |_| Some(ty())).unwrap();
        assert_eq!((images.runs_of(0).len(), images.runs_of(1).len()), (2, 1));
        assert_eq!(images.runs_of(0)[1].first, 1);
        for run in &images.runs {
            let count = run.piece_count(images.piece);
            let mut end = run.bytes.start;
            for number in 0..count {
                let piece = run.piece(number, images.piece);
                assert_eq!((piece.start, piece.is_empty()), (end, false));
                end = piece.end;
                let at = run.at + (piece.start - run.bytes.start);
                assert_eq!(run.pieces_at(&(at..at + 1), images.piece), number..number + 1);
                let last = at + piece.len() - 1;
                assert_eq!(run.pieces_at(&(last..last + 1), images.piece), number..number + 1);
            }
            assert_eq!(end, run.bytes.end);
            let pages = run.pages();
            assert_eq!(pages.start % page, 0);
            assert_eq!(run.pieces_at(&(0..usize::MAX), images.piece), 0..count);
            assert_eq!(run.pieces_at(&(pages.start..pages.start + 1), images.piece), 0..1);
            assert_eq!(run.pieces_at(&(pages.end - 1..pages.end), images.piece), count - 1..count);
            assert!(run.pieces_at(&(pages.end..pages.end + 9), images.piece).is_empty());
        }
    }

    #[test]
    fn large_images_are_made_present_in_few_pieces() {
        for (chunks, wanted) in [(1, 1), (4096, 1), (4097, 2), (65536, 16), (65537, 32)] {
            let section = 0..chunks * MAX_CHUNK_SIZE;
            let images =
                LateImages::of(vec![run(0, 0, section.clone())], &section, |_| Some(ty())).unwrap();
            assert_eq!(images.piece, wanted * MAX_CHUNK_SIZE);
        }
    }

    #[test]
    fn memories_that_cannot_wait_do_not() {
        let page = sys::page_size();
        let section = 0..64 * page;
        let one = || vec![run(0, 0, 0..page)];
        let of = |runs, ty: MemoryType| LateImages::of(runs, &section, |_| Some(ty)).is_some();
        assert!(of(one(), ty()));
        assert!(!of(one(), MemoryType { shared: true, ..ty() }));
        assert!(!of(one(), MemoryType { index: IndexType::I64, ..ty() }));
        assert!(!of(one(), MemoryType { page_size_log2: 0, ..ty() }));
        assert!(!of(vec![], ty()));
        assert!(!of(vec![run(0, 0, 0..page + 1), run(0, page, 2 * page..3 * page)], ty()));
        assert!(of(vec![run(0, 0, 0..page + 1), run(1, page, 2 * page..3 * page)], ty()));
        assert!(!of(vec![run(0, 1, 0..page)], ty()));
        assert!(of(vec![run(0, 1, 1..page)], ty()));
        // Two in one page, from behind and from before.
        assert!(!of(vec![run(0, 1, 1..9), run(0, 20, page + 20..page + 21)], ty()));
        assert!(of(vec![run(0, 1, 1..9), run(0, page + 20, page + 20..page + 21)], ty()));
        assert!(!of(vec![run(0, 0, 64 * page..65 * page)], ty()));
        assert!(!of((0..=MAX_RUNS).map(|n| run(0, n * page, 0..page)).collect(), ty()));
        assert!(LateImages::of(one(), &(1..2 * page), |_| Some(ty())).is_none());
    }
}
