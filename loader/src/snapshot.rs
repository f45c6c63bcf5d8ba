//! The private copy of a file that is checked and then run; or, where the caller asks for
//! it and vouches that it never changes, the file itself.
//!
//! The bytes are read once, into memory that nobody else can write to. What is
//! hashed is what is executed, whatever happens to the file afterwards. The
//! copy is writable only until it is complete, then read-only; the pages
//! of code are made executable after that, so nothing is ever both.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cwasm_artifact::check::{
    Checked, Deferred, Host, Origin, Part, check_deferring, claimed_length,
};
use cwasm_artifact::header::{Header, TREE_OFFSET};
use cwasm_artifact::report::Report;
use memmap2::{Advice, Mmap, MmapMut, MmapOptions};

use crate::error::LoadError;
use crate::hashing;
use crate::source::{Handle, Opened};
use crate::spare::{self, HUGE_PAGE, Pages};
use crate::sys;
use crate::vm::lazy::LazyParts;

/// Larger artifacts are refused. Code alone ends at 2 GiB.
const MAX_LENGTH: u64 = 16 << 30;

/// How much of a file that is no artifact is read, in order to say what it is.
const MAX_UNKNOWN: u64 = 64 << 20;

/// How much of a file is read to find out how much there is to read. Has room for the header and the digests of most files.
const FRONT: usize = 4096;

const _: () = assert!(FRONT >= TREE_OFFSET);

/// A file of at most so many bytes is read before it is known what it is.
const AT_ONCE: u64 = 4 << 20;

/// From how many bytes on it is quicker to ask for their pages at once than to fault for each.
const POPULATED: usize = 12 << 10;

/// Read-only bytes of a source.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// Shared with threads that help to hash it, for as long as they do.
    map: Arc<Pages>,
    /// How many bytes of it are the source's.
    length: usize,
    /// How long the source is. Longer than the bytes if it goes on behind the
    /// end that its header states.
    source_length: u64,
}

impl Snapshot {
    /// Reads a source.
    pub(crate) fn of(source: &Opened<'_>) -> Result<Self, LoadError> {
        match source {
            Opened::File { file, name, length } => Self::of_file(file.get(), name, *length),
            Opened::Bytes(bytes) => Self::of_bytes(bytes),
        }
    }

    /// Reads a file from its beginning.
    fn of_file(file: &File, name: &Path, length: u64) -> Result<Self, LoadError> {
        let read = |source| LoadError::Read { path: name.to_owned(), source };
        let changed = || LoadError::Changed { path: name.to_owned() };
        if length <= AT_ONCE
            && let Some(snapshot) = Self::of_file_at_once(file, length).map_err(read)?
        {
            return Ok(snapshot);
        }
        let (front, wanted) = measure(file, name, length)?;
        let mut map = Self::allocate(wanted)?;
        // It has room for them.
        let bytes = usize::try_from(wanted).unwrap_or(usize::MAX).min(map.len());
        map[..front.len()].copy_from_slice(&front);
        match file.read_exact_at(&mut map[front.len()..bytes], front.len() as u64) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(changed()),
            result => result.map_err(read)?,
        }
        if wanted >= length && file.read_at(&mut [0], wanted).map_err(read)? != 0 {
            return Err(changed());
        }
        Self::freeze(map, bytes, length.max(wanted), Pages::again)
    }

    /// Reads a file by one system call. `None` if it is anything but an artifact of this length, which is then to be read with
    /// more care.
    fn of_file_at_once(file: &File, length: u64) -> io::Result<Option<Self>> {
        let Ok(bytes) = usize::try_from(length) else { return Ok(None) };
        // Another byte tells whether the file has more by now.
        let Ok(mut map) = Self::allocate(length + 1) else { return Ok(None) };
        let count = match file.read_at(&mut map[..=bytes], 0) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(None),
            count => count?,
        };
        if count != bytes || claimed_length(&map[..bytes]) != Ok(length) {
            return Ok(None);
        }
        // Pages that were used before still have what was there. Behind the file are zeros, also where its code ends.
        map[bytes] = 0;
        Ok(Self::freeze(map, bytes, length, Pages::again).ok())
    }

    /// Reads the parts of a file that are needed to instantiate. What else a loader uses is loaded when it is needed. Reads all of
    /// bytes in memory, and of a file whose chunks cannot be loaded one by one.
    pub(crate) fn lazily_of(source: Opened<'_>) -> Result<(Self, Option<LazyParts>), LoadError> {
        match source {
            Opened::File { file, name, length } => Self::lazily_of_file(file, name, length),
            Opened::Bytes(bytes) => Ok((Self::of_bytes(bytes)?, None)),
        }
    }

    fn lazily_of_file(
        file: Handle<'_>,
        name: PathBuf,
        length: u64,
    ) -> Result<(Self, Option<LazyParts>), LoadError> {
        let read = |source| LoadError::Read { path: name.clone(), source };
        let changed = || LoadError::Changed { path: name.clone() };
        let (front, wanted) = measure(file.get(), &name, length)?;
        let failed = |source| LoadError::Map { bytes: wanted, source };
        let bytes =
            usize::try_from(wanted).map_err(|_| failed(io::ErrorKind::OutOfMemory.into()))?;
        // The header is not checked yet. If it lies, it is refused, and nothing was read outside of the file.
        let header = Header::of(&front).filter(|_| claimed_length(&front) == Ok(length));
        let divided = header.and_then(|header| Some((header.tree()?, Deferred::of(header))));
        // A chunk is put in its place by pages.
        let divided = divided.filter(|(tree, _)| {
            tree.chunk_size() >= sys::page_size() && tree.body_offset() <= bytes
        });
        let Some((tree, deferred)) = divided else {
            return Ok((Self::of_file(file.get(), &name, length)?, None));
        };
        let file = file.into_owned().map_err(read)?;
        let lazy = LazyParts::new(file, name.clone(), tree, deferred);
        // Pages that nobody touches take no memory.
        let mut map = MmapOptions::new().len(bytes).map_anon().map_err(failed)?;
        map[..front.len()].copy_from_slice(&front);
        let mut fill = |part: Range<usize>| {
            if part.len() > POPULATED {
                populate(&map, part.clone());
            }
            match lazy.file().read_exact_at(&mut map[part.clone()], part.start as u64) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(changed()),
                result => result.map_err(read),
            }
        };
        for range in lazy.front(front.len()) {
            fill(range)?;
        }
        let body = tree.body_offset();
        let mut absent = Vec::new();
        for (part, chunks) in lazy.runs(bytes) {
            if part == Part::Unused {
                // Nobody reads the zeros that are there.
            } else if part == Part::Now {
                fill(chunks.start.max(body).min(chunks.end)..chunks.end)?;
            } else {
                // The front is there, whatever else its last page has.
                let start = chunks.start.max(body.next_multiple_of(sys::page_size()));
                absent.push(start.min(chunks.end)..chunks.end);
            }
        }
        let snapshot = Self::freeze(map, bytes, length.max(wanted), Pages::once)?;
        for range in absent {
            // SAFETY: the map is private and belongs to the snapshot, the range is whole pages, and only compiled code, which
            // faults, and whoever has made sure that they are there reads them.
            unsafe { sys::protect_absent(&snapshot.map, range) }.map_err(failed)?;
        }
        Ok((snapshot, Some(lazy)))
    }

    /// Maps a file itself, instead of a copy.
    ///
    /// # Safety
    /// Nobody may change the file, or make it shorter, until the mapping is dropped.
    pub(crate) unsafe fn map(source: &Opened<'_>) -> Result<Self, LoadError> {
        let Opened::File { file, name, length } = source else {
            return Err(LoadError::NotAFile { path: "the source".into(), found: "memory" });
        };
        let (length, (_, wanted)) = (*length, measure(file.get(), name, *length)?);
        let failed = |source| LoadError::Map { bytes: wanted, source };
        let bytes =
            usize::try_from(wanted).map_err(|_| failed(io::ErrorKind::OutOfMemory.into()))?;
        let mut options = MmapOptions::new();
        // SAFETY: the mapping is private and read-only, so it writes to nobody's memory; that what it
        // shows does not change is the caller's promise.
        let map = unsafe { options.len(bytes).map_copy_read_only(file.get()) }.map_err(failed)?;
        let map = Arc::new(Pages::once(map));
        Ok(Self { map, length: bytes, source_length: length.max(wanted) })
    }

    /// Copies bytes.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Result<Self, LoadError> {
        let mut map = Self::allocate(bytes.len() as u64)?;
        map[..bytes.len()].copy_from_slice(bytes);
        Self::freeze(map, bytes.len(), bytes.len() as u64, Pages::again)
    }

    /// Memory for so many bytes, all of which are about to be written: to ask for every page at once is several times as
    /// fast as to fault for each. There may be more than was asked for.
    fn allocate(length: u64) -> Result<MmapMut, LoadError> {
        let failed = |source| LoadError::Map { bytes: length, source };
        let bytes =
            usize::try_from(length).map_err(|_| failed(io::ErrorKind::OutOfMemory.into()))?;
        if let Some(map) = spare::take(bytes) {
            return Ok(map);
        }
        let whole = bytes.next_multiple_of(HUGE_PAGE);
        // What the last large page has too much is not used by anybody.
        let room = if spare::wastes_little(bytes, whole) { whole } else { bytes };
        if room < HUGE_PAGE {
            return MmapOptions::new().len(room).populate().map_anon().map_err(failed);
        }
        // Address space may be too short for the rest of the last large page.
        let map = MmapOptions::new().len(room).map_anon();
        let map = map.or_else(|_| MmapOptions::new().len(bytes).map_anon()).map_err(failed)?;
        populate(&map, 0..map.len());
        Ok(map)
    }

    fn freeze(
        map: MmapMut,
        length: usize,
        source_length: u64,
        pages: fn(Mmap) -> Pages,
    ) -> Result<Self, LoadError> {
        let bytes = length as u64;
        let map = map.make_read_only().map_err(|source| LoadError::Map { bytes, source })?;
        Ok(Self { map: Arc::new(pages(map)), length, source_length })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map[..self.length]
    }

    /// Checks the bytes for this host, but for the leaves of what is deferred.
    pub(crate) fn check(
        &self,
        origin: Origin<'_>,
        deferred: &Deferred,
    ) -> Result<Checked<'_>, Report> {
        let wrong = |expected| hashing::wrong_chunks(&self.map, expected);
        check_deferring(self.bytes(), Some(&Host::for_file(self.bytes())), origin, deferred, wrong)
    }

    /// How long the source is, if it goes on behind these bytes.
    pub(crate) fn longer_source(&self) -> Option<u64> {
        (self.source_length > self.length as u64).then_some(self.source_length)
    }

    /// Makes the code at `text` executable. It begins at a page boundary; the
    /// rest of its last page holds nothing that is used otherwise.
    pub(crate) fn make_executable(&self, text: Range<usize>) -> Result<(), LoadError> {
        // The kernel rounds the end up to a page by itself.
        //
        // SAFETY: the map is private and read-only, belongs to `self`, and stays
        // mapped until `self` is dropped. A text that does not start at a
        // page boundary is refused by the kernel.
        unsafe { sys::protect_code(&self.map, text) }
            .map_err(|source| LoadError::Map { bytes: self.map.len() as u64, source })
    }
}

/// Asks for pages that are about to be written, large ones where they fit. What the system does not grant is had by faults.
fn populate(map: &MmapMut, range: Range<usize>) {
    if range.len() >= HUGE_PAGE {
        let _ = map.advise_range(Advice::HugePage, range.start, range.len());
    }
    let _ = map.advise_range(Advice::PopulateWrite, range.start, range.len());
}

/// The front of a file of this length, and how much of it is of interest: the front
/// says how much there is to read, so that a huge file of any other kind costs nothing.
fn measure(file: &File, name: &Path, length: u64) -> Result<(Vec<u8>, u64), LoadError> {
    let read = |source| LoadError::Read { path: name.to_owned(), source };
    let mut front = vec![0; FRONT];
    let mut filled = 0;
    while filled < front.len() {
        match file.read_at(&mut front[filled..], filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(read(error)),
        }
    }
    front.truncate(filled);
    let wanted = match claimed_length(&front) {
        Ok(claimed) if claimed.min(length) > MAX_LENGTH => {
            return Err(LoadError::TooLarge { bytes: claimed.min(length), limit: MAX_LENGTH });
        }
        Ok(claimed) => claimed.min(length),
        Err(_) => length.min(MAX_UNKNOWN),
    };
    let wanted = wanted.max(front.len() as u64);
    Ok((front, wanted))
}
