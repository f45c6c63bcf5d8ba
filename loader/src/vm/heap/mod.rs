//! The heap of a store: objects of wasm, and how those that nothing leads to are found.
//!
//! A reference is an address. Objects never move, so compiled code keeps addresses wherever it likes, also
//! those of their insides. A collection happens while no wasm of the store runs, and marks what the roots lead to: exactly in tables, globals and
//! objects, and for the stack every word that happens to be an address in an object ([`mark`]).
//!
//! Memory is blocks of lines ([`blocks`], [`lines`]). Compiled code has a [`Window`] of it, in which it allocates by itself. So objects
//! follow each other in what was handed out, and headers tell where: nothing is noted when one is made. A collection notes
//! which lines have live objects. Those between them are the next windows. Only blocks have to be swept, not objects.
//!
//! When a window ends, the larger rest of two stays for smaller objects, and lines that nothing is in are handed out again. An object that does not fit
//! a block has blocks of its own.
//!
//! Before the first allocation there is no memory and no address space ([`memory`]). What is free far beyond the need is given back.
//!
//! The heap reads what compiled code wrote, and only where it has memory itself: wrong references, headers
//! and shapes may keep or lose objects, and do nothing else.

mod blocks;
mod lines;
mod mark;
mod memory;
#[cfg(test)]
mod model;
#[cfg(test)]
mod random;
mod set;
mod shape;
mod starts;
#[cfg(test)]
mod tests;

use std::ptr::NonNull;

use blocks::{Blocks, Kind, Run};
use memory::Memory;

pub(crate) use mark::Marker;
pub(crate) use shape::{HEADER, Header, Shape, Shapes, Traced};

/// The size of a block: large objects have whole ones. The bits of its lines are one number.
const BLOCK: usize = 16 << 10;

/// The size of a line: what is handed out again at least. Where a quarter of objects of 32 bytes live on, in any order, a heap with lines of 256 bytes
/// is 1.4 times as large, and not measurably faster.
const LINE: usize = 128;

/// Objects start at multiples of this.
const GRAIN: usize = 8;

/// How many bytes are handed out between two collections at least. A collection without roots takes some microseconds, and one with 1024 objects
/// 20, so that both are a small part of what it takes to allocate these; and they fit the caches of the last level. With a quarter of it, short-lived objects are no cheaper.
const MIN_THRESHOLD: usize = 4 << 20;

/// Memory in which compiled code allocates. All objects that it makes follow each other, up to `next`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Window {
    /// The address of the next object.
    pub(crate) next: usize,
    /// The first address that it must not reach beyond.
    pub(crate) end: usize,
}

/// Why there is no memory for an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// A collection is due. After it, there is memory or [`Refused::Full`].
    Collect,
    /// The limit is reached, or the system has no more, even after a collection.
    Full,
}

/// What an allocation came to. A heap is full only if the collection that was asked for has just been, as roots may have been dropped since any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Given,
    /// It asked for a collection.
    Asked,
    /// And that has been.
    Collected,
}

/// The heap of a store.
#[derive(Debug)]
pub(crate) struct Heap {
    memory: Memory,
    blocks: Blocks,
    /// What compiled code allocates in. Where the next object is, its window says.
    open: Run,
    /// What it allocates in when an object fits this and not the other.
    spare: Run,
    /// How many bytes were handed out since the last collection.
    handed_out: usize,
    /// At how many the next is due.
    threshold: usize,
    /// How many there are between two at least.
    interval: usize,
    /// How many bytes the objects had that were live then.
    live: usize,
    /// What the last allocation came to.
    answer: Answer,
    /// Whether one has begun that has not ended.
    is_marking: bool,
}

impl Heap {
    /// A heap without memory.
    pub(crate) const fn new() -> Self {
        Self {
            memory: Memory::new(),
            blocks: Blocks::new(),
            open: Run::NONE,
            spare: Run::NONE,
            handed_out: 0,
            threshold: MIN_THRESHOLD,
            interval: MIN_THRESHOLD,
            live: 0,
            answer: Answer::Given,
            is_marking: false,
        }
    }

    /// Sets how many bytes are handed out between two collections at least. With none, there is one before each object.
    pub(crate) fn set_interval(&mut self, bytes: usize) {
        self.interval = bytes;
        self.threshold = self.next_threshold();
    }

    fn next_threshold(&self) -> usize {
        if self.interval == 0 { 0 } else { self.live.max(self.interval) }
    }

    /// Memory for an object of `size` bytes, header included, while no more than `limit` bytes are in use: those of whole blocks. `window` is the one that
    /// the heap has filled in before, or an empty one at first. It is another afterwards.
    ///
    /// Before the next collection, the caller writes a header and references. Until then the bytes are anything.
    pub(crate) fn allocate(
        &mut self,
        window: &mut Window,
        size: usize,
        limit: usize,
    ) -> Result<NonNull<u8>, Refused> {
        self.read_window(window);
        let size = size.max(HEADER).checked_next_multiple_of(GRAIN).unwrap_or(usize::MAX);
        if self.open.left() < size && self.spare.left() >= size {
            std::mem::swap(&mut self.open, &mut self.spare);
        }
        let was_collected = self.answer == Answer::Collected;
        let place = if self.open.left() >= size {
            Some(self.advance(size))
        } else if self.is_due(size) {
            None
        } else {
            self.hand_out(size, limit)
        };
        self.write_window(window);
        let object = place.and_then(|place| self.memory.pointer(place));
        self.answer = match object {
            None if !was_collected => Answer::Asked,
            _ => Answer::Given,
        };
        object.ok_or(if was_collected { Refused::Full } else { Refused::Collect })
    }

    /// Whether there is to be a collection before so many bytes are handed out: not if there has just been one.
    fn is_due(&self, size: usize) -> bool {
        self.handed_out > 0 && self.handed_out.saturating_add(size) > self.threshold
    }

    /// Finds memory that is not open.
    fn hand_out(&mut self, size: usize, limit: usize) -> Option<usize> {
        if !self.memory.reserve(limit) {
            return None;
        }
        let most = limit / BLOCK;
        let open = |length| self.memory.open(length);
        if size > BLOCK {
            let place = self.blocks.take_large(size, most, open)?;
            self.handed_out += size.next_multiple_of(BLOCK);
            return Some(place);
        }
        let run = self.blocks.take_hole(size);
        let mut run = run.or_else(|| self.blocks.take_block(most, open))?;
        if self.interval == 0 {
            // Nothing is left for an object that compiled code would make by itself. What is not used is free after the next collection.
            run.end = run.start + size;
        }
        self.handed_out += run.left();
        if self.open.left() > self.spare.left() {
            std::mem::swap(&mut self.open, &mut self.spare);
        }
        let unused = self.blocks.close(std::mem::replace(&mut self.open, run));
        self.handed_out = self.handed_out.saturating_sub(unused);
        Some(self.advance(size))
    }

    fn advance(&mut self, size: usize) -> usize {
        let place = self.open.next;
        self.open.next += size;
        place
    }

    /// Finds out how far compiled code has come.
    fn read_window(&mut self, window: &Window) {
        let Window { next, end } = *window;
        let base = self.memory.base();
        let Run { start, end: known, .. } = self.open;
        let next = next.wrapping_sub(base);
        // What is not known to be unused is used.
        let is_ours = end.wrapping_sub(base) == known && (start..=known).contains(&next);
        debug_assert!(is_ours || start == known, "another window");
        self.open.next = if is_ours { next } else { known };
    }

    fn write_window(&self, window: &mut Window) {
        *window = match self.open {
            Run { start, end, .. } if start == end => Window::default(),
            Run { next, end, .. } => {
                let base = self.memory.base();
                Window { next: base + next, end: base + end }
            }
        };
    }

    /// Frees the objects that nothing leads to. `mark` tells the roots to a [`Marker`]. The window, which is the heap's, is empty afterwards.
    ///
    /// No wasm of the store runs, and the headers and references of all objects have been written.
    pub(crate) fn collect<S: Shapes + ?Sized>(
        &mut self,
        window: &mut Window,
        shapes: &S,
        mark: impl FnOnce(&mut Marker<'_, S>),
    ) {
        self.read_window(window);
        for run in [&mut self.open, &mut self.spare] {
            self.blocks.close(std::mem::replace(run, Run::NONE));
        }
        *window = Window::default();
        // It ended by a panic.
        if std::mem::replace(&mut self.is_marking, true) {
            self.blocks.forget_marks();
        }
        let words = self.memory.words();
        let mut marker = Marker::new(words, self.memory.base(), &mut self.blocks, shapes);
        mark(&mut marker);
        marker.trace();
        self.live = marker.live();
        self.blocks.sweep();
        self.is_marking = false;
        self.answer = match self.answer {
            Answer::Asked => Answer::Collected,
            _ => Answer::Given,
        };
        self.handed_out = 0;
        self.threshold = self.next_threshold();
        let keep = (self.live + self.threshold.max(MIN_THRESHOLD)).div_ceil(BLOCK);
        self.blocks.give_back(keep, |bytes| self.memory.give_back(bytes));
    }

    /// How many bytes the objects had that were live at the last collection.
    #[cfg(test)]
    pub(crate) fn live_bytes(&self) -> usize {
        self.live
    }

    /// How many bytes the blocks have that are in use. No more than the limit.
    pub(crate) fn used_bytes(&self) -> usize {
        self.blocks.used() * BLOCK
    }

    /// How many bytes the blocks have that are not in use and wait to be used again.
    #[cfg(test)]
    pub(crate) fn kept_bytes(&self) -> usize {
        self.blocks.kept() * BLOCK
    }

    /// Whether a reference is an address at which an object may start.
    pub(crate) fn contains(&self, raw: usize) -> bool {
        let at = raw.wrapping_sub(self.memory.base());
        let Some(block) = self.blocks.get(at / BLOCK) else { return false };
        match block.kind {
            Kind::Lines => at.is_multiple_of(GRAIN),
            Kind::Large { .. } => at.is_multiple_of(BLOCK),
            Kind::Free | Kind::Rest { .. } => false,
        }
    }

    /// The header of an object that lives, or has lived; something, if the reference is an address of the heap, but not of an object.
    pub(crate) fn header(&self, raw: usize) -> Option<Header> {
        let at = raw.wrapping_sub(self.memory.base());
        self.contains(raw).then(|| self.memory.words().header(at))
    }
}
