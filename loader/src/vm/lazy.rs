//! Parts of an artifact that are loaded when they are needed.
//!
//! What is needed to instantiate is read and checked as ever, and so is the list of leaves. The chunks of
//! code, and of metadata that only traps, exceptions and backtraces need, are not even read: their pages are inaccessible.
//!
//! The first instruction that is fetched from a chunk of code, or the first constant that another chunk's code reads there, faults, and the signal handler
//! loads the chunk. Metadata are loaded before they are read, by [`crate::Artifact`], which
//! gives them out in no other way. To load is to read the chunk from the file into memory of its own, to compare its leaf, and to put it
//! in its place. So what runs is still what was checked, whatever happens to the file; and what is never
//! needed costs nothing.
//!
//! Everything here may run in a signal handler: it allocates nothing, takes no lock, and cannot panic.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use cwasm_artifact::check::{Deferred, Part, leaf_in};
use cwasm_artifact::digest;
use cwasm_artifact::header::{CHUNK_SIZE, Header};
use rustix::io::Errno;

use crate::sys::{self, Access};

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

impl LazyParts {
    pub(crate) fn new(file: File, name: PathBuf, deferred: Deferred) -> Self {
        let present = deferred.parts().iter().map(|_| AtomicBool::new(false)).collect();
        Self { file, name, deferred, present }
    }

    /// What errors call the file.
    pub(crate) fn name(&self) -> &Path {
        &self.name
    }

    /// Which chunks of the file are loaded when they are needed.
    pub(crate) fn deferred(&self) -> &Deferred {
        &self.deferred
    }

    /// How many chunks of code have been loaded, and how many there are.
    pub(crate) fn loaded(&self) -> (usize, usize) {
        let code = || {
            let parts = self.deferred.parts().iter().zip(&self.present);
            parts.filter(|(part, _)| **part == Part::Code).map(|(_, present)| present)
        };
        (code().filter(|present| present.load(Ordering::Relaxed)).count(), code().count())
    }

    /// Loads what there is of one kind of `part` among the bytes at `range` of the file into `map`, which is the private
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
        part: Part,
    ) -> Result<(), Lost> {
        let chunks = range.start / CHUNK_SIZE..range.end.div_ceil(CHUNK_SIZE);
        for chunk in chunks.start..chunks.end.min(self.present.len()) {
            if self.deferred.part(chunk) == part {
                // SAFETY: the caller promises the same.
                unsafe { self.load(map, chunk, text) }?;
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
        // SAFETY: the caller promises the same.
        (self.deferred.part(chunk) == Part::Code).then(|| unsafe { self.load(map, chunk, text) })
    }

    /// Loads a chunk that is deferred, unless it is there.
    ///
    /// # Safety
    /// As for [`LazyParts::load_all`].
    unsafe fn load(&self, map: &[u8], chunk: usize, text: &Range<usize>) -> Result<(), Lost> {
        let number = u32::try_from(chunk).unwrap_or(u32::MAX);
        let lost = |why| Lost { chunk: number, why };
        let impossible = || lost(Why::Changed);
        let present = self.present.get(chunk).ok_or_else(impossible)?;
        // Another thread may have been faster.
        if present.load(Ordering::Acquire) {
            return Ok(());
        }
        let (Some(wanted), Some(header)) = (leaf_in(map, chunk), Header::of(map)) else {
            return Err(impossible());
        };
        let start = chunk.saturating_mul(CHUNK_SIZE);
        let end = start.saturating_add(CHUNK_SIZE).min(map.len());
        let body = usize::try_from(header.body_offset()).unwrap_or(usize::MAX);
        let hashed = digest::chunk_range(chunk, body, map.len());
        let (kept, access) = match self.deferred.part(chunk) {
            // What else the chunk has is on other pages, and nobody reads it.
            Part::Code => {
                let end = text.end.next_multiple_of(sys::page_size()).min(end);
                (text.start.max(start)..end, Access::Execute)
            }
            _ => (start..end, Access::Read),
        };
        let Some(target) = map.get(kept.clone()).filter(|kept| !kept.is_empty()) else {
            return Err(impossible());
        };
        let fill = |bytes: &mut [u8]| {
            let inside = hashed.start.saturating_sub(start)..hashed.end.saturating_sub(start);
            let bytes = bytes.get_mut(inside).ok_or(Why::Changed)?;
            self.read(bytes, hashed.start as u64)?;
            if digest::leaf(bytes) == *wanted { Ok(()) } else { Err(Why::Changed) }
        };
        let kept = kept.start - start..kept.end - start;
        // SAFETY: the target is the part of the map at `kept`, which consists of whole pages that nothing was written to. Code is used
        // by compiled code only, and not by Rust; metadata are read only after `present` says so, which is not yet. Where two threads do this at once, each puts the
        // same bytes there.
        let result =
            unsafe { sys::install(target.as_ptr().cast_mut(), kept, end - start, access, fill) };
        result.map_err(lost)?;
        present.store(true, Ordering::Release);
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
