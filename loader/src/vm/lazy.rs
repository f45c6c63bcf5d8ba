//! Parts of an artifact that are loaded when they are needed.
//!
//! What is needed to instantiate is read and checked as ever, and so is the list of leaves. The chunks of
//! code, of metadata that only traps, exceptions and backtraces need, and of images of memories ([`super::pending`]) are not even read: their pages are inaccessible.
//!
//! The first instruction that is fetched from a chunk of code, or the first constant that another chunk's code reads there, faults, and the signal handler
//! loads the chunk. Metadata and images of memories are loaded before they are read, by [`crate::Artifact`], which
//! gives them out in no other way. To load is to read the chunk from the file into memory of its own, to compare its leaf, and to put it
//! in its place. So what runs is still what was checked, whatever happens to the file; and what is never
//! needed costs nothing.
//!
//! Everything here may run in a signal handler: it allocates nothing, takes no lock, and cannot panic.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use cwasm_artifact::check::{Deferred, Part, leaf_in};
use cwasm_artifact::digest;
use cwasm_artifact::header::{CHUNK_SIZE, Header};
use rustix::io::Errno;

use crate::sys::{self, Access};

/// What is loaded by those who use it in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Compiled code, which faults.
    Code,
    /// What Rust reads, after it was loaded. A chunk may hold several kinds of that.
    Data,
}

impl Kind {
    fn has(self, part: Part) -> bool {
        match self {
            Self::Code => part == Part::Code,
            Self::Data => matches!(part, Part::Late | Part::Image),
        }
    }
}

/// How many chunks are loaded at once, where more than one is wanted. Each time makes a mapping of its own.
const MAX_AT_ONCE: usize = 64;

/// The chunks of one artifact that are loaded when they are needed.
#[derive(Debug)]
pub(crate) struct LazyParts {
    file: File,
    /// What errors call it.
    name: PathBuf,
    /// Which they are.
    deferred: Deferred,
    /// Which of them are there. One per chunk of the file, if any is deferred.
    present: Box<[AtomicBool]>,
    /// How many chunks of images are not.
    absent_images: AtomicUsize,
}

/// A chunk that could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    chunk: u32,
    why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// The file has other bytes there, or ends.
    Changed,
    /// The system refused to read it or to make room for it.
    System(Errno),
}

impl From<Errno> for Why {
    fn from(error: Errno) -> Self {
        Self::System(error)
    }
}

impl Lost {
    /// The system refused something for the byte at `offset` of the file.
    pub(crate) fn refused(offset: usize, error: Errno) -> Self {
        Self { chunk: chunk_number(offset / CHUNK_SIZE), why: error.into() }
    }

    /// The bytes of the file that were needed.
    pub(crate) fn range(&self) -> Range<u64> {
        let start = u64::from(self.chunk) * CHUNK_SIZE as u64;
        start..start + CHUNK_SIZE as u64
    }

    /// What the system said, if that is what was wrong.
    pub(crate) fn system(&self) -> Option<&Errno> {
        match &self.why {
            Why::Changed => None,
            Why::System(error) => Some(error),
        }
    }
}

fn chunk_number(chunk: usize) -> u32 {
    u32::try_from(chunk).unwrap_or(u32::MAX)
}

impl LazyParts {
    pub(crate) fn new(file: File, name: PathBuf, deferred: Deferred) -> Self {
        let present = deferred.parts().iter().map(|_| AtomicBool::new(false)).collect();
        let images = deferred.parts().iter().filter(|part| **part == Part::Image).count();
        Self { file, name, deferred, present, absent_images: AtomicUsize::new(images) }
    }

    /// What errors call the file.
    pub(crate) fn name(&self) -> &Path {
        &self.name
    }

    /// Which chunks of the file are loaded when they are needed.
    pub(crate) fn deferred(&self) -> &Deferred {
        &self.deferred
    }

    /// How many chunks of a kind have been loaded, and how many there are.
    pub(crate) fn loaded(&self, part: Part) -> (usize, usize) {
        let chunks = || {
            let parts = self.deferred.parts().iter().zip(&self.present);
            parts.filter(|(found, _)| **found == part).map(|(_, present)| present)
        };
        (chunks().filter(|present| present.load(Ordering::Relaxed)).count(), chunks().count())
    }

    /// Whether there are chunks of images that were not loaded.
    pub(crate) fn lacks_images(&self) -> bool {
        self.absent_images.load(Ordering::Acquire) != 0
    }

    /// Loads what there is of one kind among the bytes at `range` of the file into `map`, which is the private
    /// copy of it, unless it is there. `text` is where the code is in the file.
    ///
    /// # Safety
    /// `map` is the whole of a private, read-only mapping in which the front of the file was checked and nothing was
    /// written to the chunks; it stays mapped while the code can run; and it is always the same for this `self`. `text` is as validation found it, or empty.
    pub(crate) unsafe fn load_all(
        &self,
        map: &[u8],
        range: Range<usize>,
        text: &Range<usize>,
        kind: Kind,
    ) -> Result<(), Lost> {
        let end = range.end.div_ceil(CHUNK_SIZE).min(self.present.len());
        let is_wanted = |chunk: usize| {
            kind.has(self.deferred.part(chunk))
                && self.present.get(chunk).is_some_and(|present| !present.load(Ordering::Acquire))
        };
        let mut first = range.start / CHUNK_SIZE;
        while first < end {
            let most = end.min(first.saturating_add(MAX_AT_ONCE));
            let chunks = first..(first..most).find(|chunk| !is_wanted(*chunk)).unwrap_or(most);
            first = chunks.end.max(first + 1);
            if !chunks.is_empty() {
                // SAFETY: the caller promises the same.
                unsafe { self.load(map, chunks, text) }?;
            }
        }
        Ok(())
    }

    /// Loads the chunk of code with the byte at `offset` of the file. `None` if there is none.
    ///
    /// # Safety
    /// As for [`LazyParts::load_all`].
    pub(crate) unsafe fn load_code(
        &self,
        map: &[u8],
        offset: usize,
        text: &Range<usize>,
    ) -> Option<Result<(), Lost>> {
        let chunk = offset / CHUNK_SIZE;
        if self.deferred.part(chunk) != Part::Code {
            return None;
        }
        // Another thread may have been faster.
        if self.present.get(chunk).is_some_and(|present| present.load(Ordering::Acquire)) {
            return Some(Ok(()));
        }
        // SAFETY: the caller promises the same.
        Some(unsafe { self.load(map, chunk..chunk + 1, text) })
    }

    /// Loads chunks that are deferred, all of one kind.
    ///
    /// # Safety
    /// As for [`LazyParts::load_all`].
    unsafe fn load(
        &self,
        map: &[u8],
        chunks: Range<usize>,
        text: &Range<usize>,
    ) -> Result<(), Lost> {
        // Which chunk it was about.
        let mut at = chunks.start;
        let impossible = Lost { chunk: chunk_number(at), why: Why::Changed };
        let (Some(present), Some(header)) = (self.present.get(chunks.clone()), Header::of(map))
        else {
            return Err(impossible);
        };
        let start = chunks.start.saturating_mul(CHUNK_SIZE);
        let end = chunks.end.saturating_mul(CHUNK_SIZE).min(map.len());
        let body = usize::try_from(header.body_offset()).unwrap_or(usize::MAX);
        let (kept, access) = match self.deferred.part(chunks.start) {
            // What else the chunks have is on other pages, and nobody reads it.
            Part::Code => {
                let end = text.end.next_multiple_of(sys::page_size()).min(end);
                (text.start.max(start)..end, Access::Execute)
            }
            _ => (start..end, Access::Read),
        };
        let Some(target) = map.get(kept.clone()).filter(|kept| !kept.is_empty()) else {
            return Err(impossible);
        };
        let fill = |bytes: &mut [u8]| {
            // Only the first chunk may have something of the front.
            let hashed = digest::chunk_range(chunks.start, body, map.len()).start..end;
            let inside = hashed.start.saturating_sub(start)..hashed.end.saturating_sub(start);
            self.read(bytes.get_mut(inside).ok_or(Why::Changed)?, hashed.start as u64)?;
            let hashed = |chunk| {
                let hashed = digest::chunk_range(chunk, body, map.len());
                bytes.get(hashed.start.saturating_sub(start)..hashed.end.saturating_sub(start))
            };
            let mut check = |chunk, found: [u8; 32]| {
                at = chunk;
                if leaf_in(map, chunk) == Some(&found) { Ok(()) } else { Err(Why::Changed) }
            };
            // Two leaves at a time take little longer than one.
            for first in chunks.clone().step_by(2) {
                let second = Some(first + 1).filter(|second| chunks.contains(second));
                match (hashed(first), second.map(hashed)) {
                    (Some(first_bytes), Some(Some(second_bytes))) => {
                        let [one, other] = sys::leaf_pair([first_bytes, second_bytes]);
                        check(first, one)?;
                        check(first + 1, other)?;
                    }
                    (Some(bytes), None) => check(first, digest::leaf(bytes))?,
                    _ => return Err(Why::Changed),
                }
            }
            Ok(())
        };
        let kept = kept.start - start..kept.end - start;
        // SAFETY: the target is the part of the map at `kept`, which consists of whole pages that nothing was written to. Code is used
        // by compiled code only, and not by Rust; metadata and images are read only after `present` says so, which is not yet. Where two threads do this at once, each puts the
        // same bytes there.
        let result =
            unsafe { sys::install(target.as_ptr().cast_mut(), kept, end - start, access, fill) };
        result.map_err(|why| Lost { chunk: chunk_number(at), why })?;
        for (chunk, present) in chunks.zip(present) {
            if !present.swap(true, Ordering::AcqRel) && self.deferred.part(chunk) == Part::Image {
                self.absent_images.fetch_sub(1, Ordering::AcqRel);
            }
        }
        Ok(())
    }

    fn read(&self, bytes: &mut [u8], mut offset: u64) -> Result<(), Why> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match rustix::io::pread(&self.file, &mut *rest, offset) {
                Ok(0) => return Err(Why::Changed),
                Ok(count) => {
                    rest = rest.get_mut(count..).unwrap_or_default();
                    offset += count as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
