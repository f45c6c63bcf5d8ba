//! Code that is loaded when it is needed.
//!
//! The parts of an artifact that are not code are read and checked as ever, and so is the list of leaves. The chunks of
//! code are not even read: their pages are inaccessible, so the first instruction that is fetched from one, or the first
//! constant that another chunk's code reads there, faults. The signal handler then reads the chunk from the file into memory of its own, compares its leaf, and puts it
//! in its place. So what runs is still what was checked, whatever happens to the file; and what is never
//! called costs nothing.
//!
//! Everything here may run in a signal handler: it allocates nothing, takes no lock, and cannot panic.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use cwasm_artifact::check::leaf_in;
use cwasm_artifact::digest;
use cwasm_artifact::header::CHUNK_SIZE;
use rustix::io::Errno;

use crate::sys;

/// The chunks of code of one artifact.
#[derive(Debug)]
pub(crate) struct LazyCode {
    file: File,
    /// What errors call it.
    name: PathBuf,
    /// Their numbers in the file.
    chunks: Range<usize>,
    /// Which of them are there.
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

impl LazyCode {
    pub(crate) fn new(file: File, name: PathBuf, chunks: Range<usize>) -> Self {
        let present = chunks.clone().map(|_| AtomicBool::new(false)).collect();
        Self { file, name, chunks, present }
    }

    /// What errors call the file.
    pub(crate) fn name(&self) -> &Path {
        &self.name
    }

    /// The bytes of the file that are loaded when they are needed.
    pub(crate) fn range(&self) -> Range<usize> {
        self.chunks.start * CHUNK_SIZE..self.chunks.end * CHUNK_SIZE
    }

    /// How many chunks have been loaded, and how many there are.
    pub(crate) fn loaded(&self) -> (usize, usize) {
        let present = self.present.iter().filter(|present| present.load(Ordering::Relaxed));
        (present.count(), self.present.len())
    }

    /// Loads the chunk with the byte at `offset` of the file into `map`, which is the private
    /// copy of it, unless it is there. `None` if no chunk of code is at the offset.
    ///
    /// # Safety
    /// `map` is the whole of a private, read-only mapping in which the front of the file was checked and nothing was
    /// written to the chunks; it stays mapped while the code can run; and it is always the same for this `self`.
    pub(crate) unsafe fn load(&self, map: &[u8], offset: usize) -> Option<Result<(), Lost>> {
        let chunk = offset / CHUNK_SIZE;
        let present = self.present.get(chunk.checked_sub(self.chunks.start)?)?;
        // Another thread may have been faster.
        if present.load(Ordering::Acquire) {
            return Some(Ok(()));
        }
        let start = chunk * CHUNK_SIZE;
        let wanted = leaf_in(map, chunk)?;
        let target = map.get(start..start + CHUNK_SIZE)?.as_ptr().cast_mut();
        let fill = |bytes: &mut [u8]| {
            self.read(bytes, start as u64)?;
            if digest::leaf(bytes) == *wanted { Ok(()) } else { Err(Why::Changed) }
        };
        // SAFETY: the target is a chunk of the map, which consists of whole inaccessible pages: code is used
        // by compiled code only, and not by Rust. Where two threads do this at once, each puts the
        // same bytes there.
        let result = unsafe { sys::install_code(target, CHUNK_SIZE, fill) };
        let chunk = u32::try_from(chunk).unwrap_or(u32::MAX);
        Some(match result {
            Ok(()) => {
                present.store(true, Ordering::Release);
                Ok(())
            }
            Err(why) => Err(Lost { chunk, why }),
        })
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
