//! Parts of an artifact that are loaded when they are needed.
//!
//! What is needed to instantiate is read and checked as ever, and so are the branches of the digest, and the leaves of these parts. The chunks of
//! code, of metadata that only traps, exceptions and backtraces need, and of images of memories ([`super::pending`]) are not even read: their pages are inaccessible.
//!
//! The first instruction that is fetched from a chunk of code, or the first constant that another chunk's code reads there, faults, and the signal handler
//! loads the chunk. Metadata and images of memories are loaded before they are read, by [`crate::Artifact`], which
//! gives them out in no other way. To load is to read the chunk from the file into memory of its own, to compare its leaf, and to put it
//! in its place. Leaves that are not there yet are read for that, and compared with their branch. So what runs is still what was checked, whatever happens to the file; and what is never
//! needed costs nothing.
//!
//! Everything here may run in a signal handler: it allocates nothing, takes no lock, and cannot panic.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use cwasm_artifact::check::{Deferred, Part};
use cwasm_artifact::digest;
use cwasm_artifact::tree::{LEAVES_PER_BRANCH, Tree};
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
const MAX_AT_ONCE: usize = 256;

/// How many bytes of code are loaded by one fault at most. Up to that, a program that needs one chunk more gets as many at once as it
/// has: most run nearly all of their code, and fault for each chunk otherwise.
const MAX_CODE_AT_ONCE: usize = 256 << 10;

/// The chunks of one artifact that are loaded when they are needed.
#[derive(Debug)]
pub(crate) struct LazyParts {
    file: File,
    /// What errors call it.
    name: PathBuf,
    /// How it is divided.
    tree: Tree,
    /// Which chunks they are.
    deferred: Deferred,
    /// Which of them are there. One per chunk of the file, if any is deferred.
    present: Box<[AtomicBool]>,
    /// How many chunks of code were loaded by faults.
    faulted: AtomicUsize,
    /// How many chunks of images are not.
    absent_images: AtomicUsize,
}

/// A part of a file that could not be had, or pages that a memory has grown by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    start: u64,
    end: u64,
    why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// The file has other bytes there, or ends.
    Changed,
    /// The system refused to read it or to make room for it.
    System(Errno),
    /// It is of no file: the system refused late pages of a memory.
    NoRoom(Errno),
}

impl From<Errno> for Why {
    fn from(error: Errno) -> Self {
        Self::System(error)
    }
}

impl Lost {
    fn new(bytes: &Range<usize>, why: Why) -> Self {
        Self { start: bytes.start as u64, end: bytes.end as u64, why }
    }

    /// The system refused something for these bytes of the file.
    pub(crate) fn refused(bytes: &Range<usize>, error: Errno) -> Self {
        Self::new(bytes, error.into())
    }

    /// The system refused to make these bytes of a memory accessible, by which it has grown.
    pub(crate) fn no_room(bytes: &Range<usize>, error: Errno) -> Self {
        Self::new(bytes, Why::NoRoom(error))
    }

    /// Whether it is late pages of a memory, and not of the file.
    pub(crate) fn is_no_room(&self) -> bool {
        matches!(self.why, Why::NoRoom(_))
    }

    /// The bytes of the file, or of the memory, that were needed.
    pub(crate) fn range(&self) -> Range<u64> {
        self.start..self.end
    }

    /// What the system said, if that is what was wrong.
    pub(crate) fn system(&self) -> Option<&Errno> {
        match &self.why {
            Why::Changed => None,
            Why::System(error) | Why::NoRoom(error) => Some(error),
        }
    }
}

/// Whether chunks must not be read before they were loaded.
fn is_absent(part: Part) -> bool {
    matches!(part, Part::Code | Part::Late | Part::Image)
}

/// The leaves of a file. Those that are not in the copy of it are read when they are wanted.
struct Leaves<'a> {
    lazy: &'a LazyParts,
    map: &'a [u8],
    /// Of which branch leaves were read.
    branch: Option<usize>,
    read: [u8; LEAVES_PER_BRANCH * 32],
}

impl<'a> Leaves<'a> {
    fn new(lazy: &'a LazyParts, map: &'a [u8]) -> Self {
        Self { lazy, map, branch: None, read: [0; LEAVES_PER_BRANCH * 32] }
    }

    /// The leaf of a chunk, which is what the root stands for.
    fn of(&mut self, chunk: usize) -> Result<&[u8], Why> {
        let tree = self.lazy.tree;
        let leaf = tree.leaf(chunk);
        let branch = chunk / LEAVES_PER_BRANCH;
        if !self.lazy.deferred.has_branch(branch) {
            return self.map.get(leaf).ok_or(Why::Changed);
        }
        let leaves = tree.leaves_of(branch);
        if self.branch != Some(branch) {
            self.branch = None;
            let bytes = self.read.get_mut(..leaves.len()).ok_or(Why::Changed)?;
            self.lazy.read(bytes, leaves.start as u64)?;
            if self.map.get(tree.branch(branch)) != Some(&digest::branch(bytes)) {
                return Err(Why::Changed);
            }
            self.branch = Some(branch);
        }
        let inside = leaf.start.saturating_sub(leaves.start)..leaf.end.saturating_sub(leaves.start);
        self.read.get(inside).ok_or(Why::Changed)
    }
}

impl LazyParts {
    /// The parts of a file that is divided like this, and whose pages are not larger than its chunks.
    pub(crate) fn new(file: File, name: PathBuf, tree: Tree, deferred: Deferred) -> Self {
        let present = deferred.parts().iter().map(|_| AtomicBool::new(false)).collect();
        let images = deferred.parts().iter().filter(|part| **part == Part::Image).count();
        let absent_images = AtomicUsize::new(images);
        let faulted = AtomicUsize::new(0);
        Self { file, name, tree, deferred, present, faulted, absent_images }
    }

    /// The file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// What errors call the file.
    pub(crate) fn name(&self) -> &Path {
        &self.name
    }

    /// Which chunks of the file are loaded when they are needed.
    pub(crate) fn deferred(&self) -> &Deferred {
        &self.deferred
    }

    /// The parts of the file before its body that are needed at first, but for those before `known`, which are there.
    pub(crate) fn front(&self, known: usize) -> Vec<Range<usize>> {
        let branches = (0..self.tree.branch_count()).filter(|it| !self.deferred.has_branch(*it));
        let mut ranges = vec![self.tree.branches()];
        for leaves in branches.map(|branch| self.tree.leaves_of(branch)) {
            match ranges.last_mut() {
                Some(last) if last.end == leaves.start => last.end = leaves.end,
                _ => ranges.push(leaves),
            }
        }
        ranges.iter_mut().for_each(|range| range.start = range.start.max(known).min(range.end));
        ranges
    }

    /// The bytes of the file, as many as there are, in runs of chunks of one kind. Kinds that must not be read before they were loaded
    /// count as one.
    pub(crate) fn runs(&self, length: usize) -> Vec<(Part, Range<usize>)> {
        let mut runs: Vec<(Part, Range<usize>)> = Vec::new();
        let is_one = |one: &Part, next: &Part| one == next || is_absent(*one) && is_absent(*next);
        let mut number: usize = 0;
        let mut at = |chunks: usize| {
            number += chunks;
            number.saturating_mul(self.tree.chunk_size()).min(length)
        };
        for run in self.deferred.parts().chunk_by(is_one) {
            runs.push((run[0], at(0)..at(run.len())));
        }
        let known = runs.last().map_or(0, |(_, run)| run.end);
        if known < length {
            runs.push((Part::Now, known..length));
        }
        runs
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
        let end = range.end.div_ceil(self.tree.chunk_size()).min(self.present.len());
        let is_wanted = |chunk: usize| kind.has(self.deferred.part(chunk)) && self.lacks(chunk);
        let mut first = range.start / self.tree.chunk_size();
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

    fn lacks(&self, chunk: usize) -> bool {
        self.present.get(chunk).is_some_and(|present| !present.load(Ordering::Acquire))
    }

    /// Loads the chunk of code with the byte at `offset` of the file, and perhaps some around it. `None` if there is none.
    ///
    /// # Safety
    /// As for [`LazyParts::load_all`].
    pub(crate) unsafe fn load_code(
        &self,
        map: &[u8],
        offset: usize,
        text: &Range<usize>,
    ) -> Option<Result<(), Lost>> {
        let chunk = offset / self.tree.chunk_size();
        if self.deferred.part(chunk) != Part::Code {
            return None;
        }
        let is_wanted =
            |chunk: &usize| self.deferred.part(*chunk) == Part::Code && self.lacks(*chunk);
        // Another thread may have been faster.
        if !is_wanted(&chunk) {
            return Some(Ok(()));
        }
        let before = self.faulted.load(Ordering::Relaxed);
        let most = (MAX_CODE_AT_ONCE / self.tree.chunk_size()).max(1);
        let piece = before.saturating_add(1).min(most);
        let first = chunk - chunk % piece;
        let start = (first..chunk).rev().take_while(is_wanted).last().unwrap_or(chunk);
        let end = (chunk..first.saturating_add(piece)).take_while(is_wanted).last();
        let chunks = start..end.unwrap_or(chunk).saturating_add(1);
        // However threads count at once, it is a number that is right for one of them.
        self.faulted.store(before.saturating_add(chunks.len()), Ordering::Relaxed);
        // SAFETY: the caller promises the same.
        Some(unsafe { self.load(map, chunks, text) })
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
        let bytes_of = |chunks: &Range<usize>| {
            let at = |chunk: usize| chunk.saturating_mul(self.tree.chunk_size()).min(map.len());
            at(chunks.start)..at(chunks.end)
        };
        // Which chunk it was about.
        let mut at = chunks.start;
        let lost = |chunk: usize, why| Lost::new(&bytes_of(&(chunk..chunk.saturating_add(1))), why);
        let Some(present) = self.present.get(chunks.clone()) else {
            return Err(lost(at, Why::Changed));
        };
        let Range { start, end } = bytes_of(&chunks);
        let (kept, access) = match self.deferred.part(chunks.start) {
            // What else the chunks have is on other pages, and nobody reads it.
            Part::Code => {
                let end = text.end.next_multiple_of(sys::page_size()).min(end);
                (text.start.max(start)..end, Access::Execute)
            }
            _ => (start..end, Access::Read),
        };
        let Some(target) = map.get(kept.clone()).filter(|kept| !kept.is_empty()) else {
            return Err(lost(at, Why::Changed));
        };
        let fill = |bytes: &mut [u8]| {
            // Only the first chunk may have something of the front.
            let hashed = self.tree.chunk(chunks.start, map.len()).start..end;
            let inside = hashed.start.saturating_sub(start)..hashed.end.saturating_sub(start);
            self.read(bytes.get_mut(inside).ok_or(Why::Changed)?, hashed.start as u64)?;
            let hashed = |chunk| {
                let hashed = self.tree.chunk(chunk, map.len());
                bytes.get(hashed.start.saturating_sub(start)..hashed.end.saturating_sub(start))
            };
            let mut leaves = Leaves::new(self, map);
            let mut check = |chunk, found: [u8; 32]| {
                at = chunk;
                if leaves.of(chunk)? == found { Ok(()) } else { Err(Why::Changed) }
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
        result.map_err(|why| lost(at, why))?;
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
