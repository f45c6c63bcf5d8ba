//! Images of memories: bytes that memories can begin as, without a copy.
//!
//! They are in an anonymous file that nobody can change any more, of which memories map
//! private copies. A reservation that waits to be used again may still map an image. It is known by the
//! number of the file, which no other file ever gets; and it is released when nobody can ask for the images any more.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use rustix::fs::{MemfdFlags, SealFlags};

use super::{Reservation, file_size_limit, page_size};

/// From this size on, to map an image is quicker than to copy it, also if it must be mapped each time.
const LARGE: usize = 128 << 10;

/// An image of more runs of pages is not kept mapped, as each is a mapping of its own, of which
/// a process may have some ten thousand.
const MAX_KEPT_RUNS: usize = 8;

/// How many files of small images there are at most: each is an open file of the process.
const MAX_SMALL_FILES: usize = 128;

static SMALL_FILES: AtomicUsize = AtomicUsize::new(0);

/// A run of bytes that a memory begins with.
#[derive(Clone, Debug)]
pub(crate) struct ImageRun {
    pub(crate) memory: u32,
    /// Where it begins in the memory.
    pub(crate) at: usize,
    /// Where it is in the file.
    pub(crate) bytes: Range<usize>,
}

/// The images of the memories of a module.
#[derive(Debug)]
pub(crate) struct ImageFile {
    id: u64,
    /// By memory.
    images: Box<[Arc<Image>]>,
}

impl ImageFile {
    /// Whether images of this many bytes are better mapped than copied even if that is for one memory only.
    pub(crate) fn is_large(length: usize) -> bool {
        length >= LARGE
    }

    /// Whether there could be a file for images of this many bytes in so many runs.
    pub(crate) fn is_possible(length: usize, runs: usize) -> bool {
        Self::is_large(length) || runs > 0 && runs <= MAX_KEPT_RUNS
    }

    /// A file with the runs that these bytes have, each on pages of its own, which are zero around it.
    ///
    /// No file, if two of a memory have bytes of the same page of it, or if they are not in order.
    pub(crate) fn new(bytes: &[u8], mut runs: Vec<ImageRun>) -> io::Result<Self> {
        let small = match Self::is_large(bytes.len()) {
            true => None,
            false => Some(SmallFile::new().ok_or(io::ErrorKind::QuotaExceeded)?),
        };
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(rustix::fs::memfd_create(c"cwasm-images", flags)?);
        runs.retain(|run| !run.bytes.is_empty());
        runs.sort_by_key(|run| run.memory);
        let (placed, length) = place(&runs).ok_or(io::ErrorKind::InvalidInput)?;
        // To exceed the limit is a signal that ends the process, and no error.
        if length as u64 > file_size_limit() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        rustix::fs::ftruncate(&file, length as u64)?;
        for (run, place) in runs.iter().zip(&placed) {
            let bytes = bytes.get(run.bytes.clone()).ok_or(io::ErrorKind::InvalidInput)?;
            file.write_all_at(bytes, (place.bytes.end - bytes.len()) as u64)?;
        }
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals)?;
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let pages = Arc::new(ImagePages { id, file, length, _small: small });
        let images = placed.chunk_by(|run, next| run.memory == next.memory).map(|runs| {
            let pages = Arc::clone(&pages);
            Arc::new(Image { pages, memory: runs[0].memory, runs: runs.into() })
        });
        Ok(Self { id, images: images.collect() })
    }

    /// The image of a memory, if it has one.
    pub(crate) fn image(&self, memory: u32) -> Option<&Arc<Image>> {
        let found = self.images.binary_search_by_key(&memory, |image| image.memory);
        Some(&self.images[found.ok()?])
    }
}

/// The file that images are in.
#[derive(Debug)]
struct ImagePages {
    /// No other file of this process has it, also none that is closed.
    id: u64,
    file: File,
    /// In bytes; whole pages.
    length: usize,
    /// What makes it one of few, if it is small.
    _small: Option<SmallFile>,
}

/// The pages of memories that runs are on, one run after the other in a file, and the length of that. A run ends where its bytes do.
fn place(runs: &[ImageRun]) -> Option<(Vec<ImageRun>, usize)> {
    let page = page_size();
    let mut placed: Vec<ImageRun> = Vec::with_capacity(runs.len());
    let mut start = 0_usize;
    for ImageRun { memory, at, bytes } in runs {
        let before = at % page;
        let end = start.checked_add(before)?.checked_add(bytes.len())?;
        let first = at - before;
        if let Some(last) = placed.last().filter(|last| last.memory == *memory)
            && last.at.checked_add(last.bytes.len())?.checked_next_multiple_of(page)? > first
        {
            return None;
        }
        placed.push(ImageRun { memory: *memory, at: first, bytes: start..end });
        start = end.checked_next_multiple_of(page)?;
    }
    Some((placed, start))
}

impl Drop for ImageFile {
    fn drop(&mut self) {
        // What is in use is unmapped with its memory: none of this image will be wanted any more.
        Reservation::release_image(self.id);
    }
}

/// The image of one memory. Whoever has it can read it.
#[derive(Debug)]
pub(crate) struct Image {
    pages: Arc<ImagePages>,
    memory: u32,
    /// In the order in which they are in the memory, each on pages of its own.
    runs: Box<[ImageRun]>,
}

impl PartialEq for Image {
    fn eq(&self, other: &Self) -> bool {
        (self.pages.id, self.memory) == (other.pages.id, other.memory)
    }
}

impl Eq for Image {}

impl Image {
    /// Whether it is one of this file's.
    pub(super) fn is_of(&self, file: u64) -> bool {
        self.pages.id == file
    }

    pub(super) fn runs(&self) -> &[ImageRun] {
        &self.runs
    }

    /// The file, and its length in bytes.
    pub(super) fn file(&self) -> (&File, usize) {
        (&self.pages.file, self.pages.length)
    }

    /// What a memory with this image has at an address: zeros where no run is.
    pub(super) fn read(&self, at: usize, bytes: &mut [u8]) -> io::Result<()> {
        let end = at.checked_add(bytes.len()).ok_or(io::ErrorKind::InvalidInput)?;
        let mut rest = at;
        for run in &self.runs {
            let both = run.at.max(rest)..(run.at + run.bytes.len()).min(end);
            if both.is_empty() {
                continue;
            }
            bytes[rest - at..both.start - at].fill(0);
            let place = run.bytes.start + (both.start - run.at);
            let bytes = &mut bytes[both.start - at..both.end - at];
            self.pages.file.read_exact_at(bytes, place as u64)?;
            rest = both.end;
        }
        bytes[rest - at..].fill(0);
        Ok(())
    }

    /// Whether address space that maps it may wait to be used again.
    pub(super) fn may_wait(&self) -> bool {
        self.runs.len() <= MAX_KEPT_RUNS
    }

    /// Whether to map it is worth it even if that must be done each time.
    pub(super) fn is_large(&self) -> bool {
        ImageFile::is_large(self.pages.length)
    }
}

/// The right to one of the few files of small images.
#[derive(Debug)]
struct SmallFile;

impl SmallFile {
    fn new() -> Option<Self> {
        let more = |count| (count < MAX_SMALL_FILES).then_some(count + 1);
        SMALL_FILES.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Self)
    }
}

impl Drop for SmallFile {
    fn drop(&mut self) {
        SMALL_FILES.fetch_sub(1, Ordering::Relaxed);
    }
}
