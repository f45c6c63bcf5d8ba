//! The blocks of a heap: what each is used for, what may be handed out, and what a collection leaves.
//!
//! Nothing here touches the memory. Places are offsets from its start.

use std::ops::Range;

use super::lines::{LINES, Lines};
use super::set::BlockSet;
use super::starts::Starts;
use super::{BLOCK, GRAIN, LINE};

/// How many blocks are searched for a hole of more than a line. Each costs some nanoseconds.
const SEARCHED: usize = 8;

/// How many logarithms of numbers of lines there are.
const SIZES: usize = LINES.ilog2() as usize + 1;

/// What a block is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Free,
    /// Objects, in lines that are taken.
    Lines,
    /// A large object starts where the block does, and has so many blocks.
    Large {
        blocks: u32,
    },
    /// The large object goes on that starts in this block.
    Rest {
        start: u32,
    },
}

#[derive(Debug)]
pub(super) struct Block {
    pub(super) kind: Kind,
    /// The last of its runs that was handed out since the last collection.
    last_run: Option<u32>,
    /// The lines that were live at the last collection, or were handed out since.
    taken: Lines,
    /// The lines of marked objects.
    pub(super) live: Lines,
    /// Where objects start: those that were live at the last collection, and those of runs that were parsed since.
    pub(super) starts: Starts,
    /// Where objects start that are marked.
    pub(super) marks: Starts,
}

impl Block {
    const FREE: Self = Self {
        kind: Kind::Free,
        last_run: None,
        taken: Lines::NONE,
        live: Lines::NONE,
        starts: Starts::NONE,
        marks: Starts::NONE,
    };
}

/// Memory of one block that was handed out at once. Up to `next` there are objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) start: usize,
    pub(super) next: usize,
    pub(super) end: usize,
}

impl Run {
    pub(super) const NONE: Self = Self { start: 0, next: 0, end: 0 };

    fn new(bytes: Range<usize>) -> Self {
        Self { start: bytes.start, next: bytes.start, end: bytes.end }
    }

    /// How many bytes are left for objects.
    pub(super) fn left(&self) -> usize {
        self.end - self.next
    }
}

/// A run of objects that were allocated since the last collection.
#[derive(Clone, Copy, Debug)]
struct Recent {
    /// In [`GRAIN`]s from the start of the block. Nothing, if its objects are among the starts.
    start: u16,
    end: u16,
    /// The one of the same block before it.
    previous: Option<u32>,
}

const _: () = assert!(BLOCK / GRAIN <= u16::MAX as usize);

/// The blocks of a heap, in the order of their addresses.
#[derive(Debug)]
pub(super) struct Blocks {
    all: Vec<Block>,
    free: BlockSet,
    /// Those of the free ones whose memory the system has.
    given_back: BlockSet,
    /// No run of so many blocks is free, until the next collection.
    lacking: usize,
    /// Blocks that may have holes, the next at the end.
    recyclable: Vec<u32>,
    /// So many of them were not yet searched for a hole, by the logarithm of its lines.
    unsearched: [usize; SIZES],
    recent: Vec<Recent>,
}

impl Blocks {
    pub(super) const fn new() -> Self {
        Self {
            all: Vec::new(),
            free: BlockSet::new(),
            given_back: BlockSet::new(),
            lacking: usize::MAX,
            recyclable: Vec::new(),
            unsearched: [0; SIZES],
            recent: Vec::new(),
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// How many of them are in use.
    pub(super) fn used(&self) -> usize {
        self.all.len() - self.free.count()
    }

    /// How many are free and take memory.
    pub(super) fn kept(&self) -> usize {
        self.free.count() - self.given_back.count()
    }

    #[inline]
    pub(super) fn get(&self, block: usize) -> Option<&Block> {
        self.all.get(block)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, block: usize) -> Option<&mut Block> {
        self.all.get_mut(block)
    }

    /// Takes a hole for an object of so many bytes, no more than a block's.
    pub(super) fn take_hole(&mut self, size: usize) -> Option<Run> {
        let lines = size.div_ceil(LINE);
        if lines <= 1 {
            while let Some(block) = self.recyclable.last() {
                if let Some(run) = self.take_hole_of(*block as usize, 1) {
                    return Some(run);
                }
                self.recyclable.pop();
            }
            return None;
        }
        let size = lines.ilog2() as usize % SIZES;
        let unsearched = self.unsearched[size].min(self.recyclable.len());
        let searched = unsearched.saturating_sub(SEARCHED);
        let found = (searched..unsearched).rev().find_map(|at| {
            let run = self.take_hole_of(self.recyclable[at] as usize, lines)?;
            Some((at, run))
        });
        // There may be another where there was one.
        self.unsearched[size] = found.map_or(searched, |(at, _)| at + 1);
        found.map(|(_, run)| run)
    }

    fn take_hole_of(&mut self, block: usize, lines: usize) -> Option<Run> {
        let taken = &mut self.all[block].taken;
        let hole = taken.hole(lines)?;
        taken.insert(Lines::touched(hole.clone()));
        Some(Run::new(block * BLOCK + hole.start..block * BLOCK + hole.end))
    }

    /// Takes a free block, or a new one.
    pub(super) fn take_block(
        &mut self,
        most: usize,
        open: impl FnOnce(usize) -> bool,
    ) -> Option<Run> {
        let first = self.take(1, most, open)?;
        let block = &mut self.all[first];
        (block.kind, block.taken) = (Kind::Lines, Lines::ALL);
        Some(Run::new(first * BLOCK..(first + 1) * BLOCK))
    }

    /// Takes blocks for a large object of so many bytes. Where it starts.
    pub(super) fn take_large(
        &mut self,
        size: usize,
        most: usize,
        open: impl FnOnce(usize) -> bool,
    ) -> Option<usize> {
        let count = size.div_ceil(BLOCK);
        let first = self.take(count, most, open)?;
        let start = u32::try_from(first).ok()?;
        self.all[first].kind = Kind::Large { blocks: u32::try_from(count).ok()? };
        self.all[first].starts.insert(0);
        self.all[first + 1..first + count].iter_mut().for_each(|it| it.kind = Kind::Rest { start });
        Some(first * BLOCK)
    }

    /// Takes blocks that follow each other, if no more than `most` are in use then. `open` makes so many bytes accessible,
    /// if that is possible.
    fn take(
        &mut self,
        count: usize,
        most: usize,
        open: impl FnOnce(usize) -> bool,
    ) -> Option<usize> {
        if count > most.saturating_sub(self.used()) {
            return None;
        }
        let found = match count {
            1 => self.free.first(),
            _ if count >= self.lacking => None,
            _ => self.free.first_run(count),
        };
        let first = match found {
            Some(first) => first,
            None => {
                self.lacking = self.lacking.min(count);
                self.append(count, open)?
            }
        };
        for block in first..first + count {
            self.free.remove(block);
            self.given_back.remove(block);
        }
        Some(first)
    }

    /// Adds blocks, so that the last `count` are free.
    fn append(&mut self, count: usize, open: impl FnOnce(usize) -> bool) -> Option<usize> {
        let length = self.all.len();
        let first = length - self.free.run_before(length).min(count);
        let end = first + count;
        u32::try_from(end).ok()?;
        self.all.try_reserve(end - length).ok()?;
        if !self.free.reserve(end) || !self.given_back.reserve(end) || !open(end * BLOCK) {
            return None;
        }
        self.all.resize_with(end, || Block::FREE);
        (length..end).for_each(|block| self.free.insert(block));
        Some(first)
    }

    /// Notes where the objects of a run are that is no longer handed out. Lines that nothing is in can be taken again. How many bytes these are.
    pub(super) fn close(&mut self, run: Run) -> usize {
        let index = run.start / BLOCK;
        let within = |place: usize| place - index * BLOCK;
        let Some(block) = self.all.get_mut(index).filter(|_| run.start < run.end) else { return 0 };
        let unused = Lines::within(within(run.next)..within(run.end));
        if unused != Lines::NONE {
            block.taken.remove(unused);
            self.recyclable.extend(u32::try_from(index));
        }
        let grains = |place| u16::try_from(within(place) / GRAIN).unwrap_or(u16::MAX);
        if let Ok(number) = u32::try_from(self.recent.len())
            && run.start < run.next
        {
            let (start, end) = (grains(run.start), grains(run.next));
            self.recent.push(Recent { start, end, previous: block.last_run.replace(number) });
        }
        unused.count() * LINE
    }

    /// The objects that were allocated at a place of a block since the last collection, if their starts are not known. They are from now on.
    pub(super) fn take_recent(&mut self, block: usize, at: usize) -> Option<Range<usize>> {
        let grain = at / GRAIN;
        let mut next = self.all.get(block)?.last_run;
        while let Some(run) = self.recent.get_mut(next? as usize) {
            let grains = usize::from(run.start)..usize::from(run.end);
            if grains.contains(&grain) {
                run.end = run.start;
                return Some(grains.start * GRAIN..grains.end * GRAIN);
            }
            next = run.previous;
        }
        None
    }

    /// Forgets what was marked in a collection that did not end.
    pub(super) fn forget_marks(&mut self) {
        for block in &mut self.all {
            (block.live, block.marks) = (Lines::NONE, Starts::NONE);
        }
    }

    /// Frees what is not marked, and all marks.
    pub(super) fn sweep(&mut self) {
        self.recyclable.clear();
        self.recent.clear();
        self.lacking = usize::MAX;
        // So that the lowest come first later, and large objects after their rest.
        for index in (0..self.all.len()).rev() {
            let block = &mut self.all[index];
            let is_live = match block.kind {
                Kind::Free | Kind::Rest { .. } => continue,
                Kind::Lines => block.live != Lines::NONE,
                Kind::Large { .. } => block.marks.contains(0),
            };
            if is_live {
                block.taken = std::mem::take(&mut block.live);
                block.starts = std::mem::replace(&mut block.marks, Starts::NONE);
                block.last_run = None;
                if block.kind == Kind::Lines && block.taken != Lines::ALL {
                    self.recyclable.extend(u32::try_from(index));
                }
                continue;
            }
            let count = match block.kind {
                Kind::Large { blocks } => blocks as usize,
                _ => 1,
            };
            (block.last_run, block.taken, block.starts) = (None, Lines::NONE, Starts::NONE);
            for freed in index..index + count {
                self.all[freed].kind = Kind::Free;
                self.free.insert(freed);
            }
        }
        self.unsearched = [self.recyclable.len(); SIZES];
    }

    /// Gives the memory of free blocks back but for so many, the last first.
    pub(super) fn give_back(&mut self, keep: usize, mut give_back: impl FnMut(Range<usize>)) {
        let mut excess = self.kept().saturating_sub(keep);
        let mut end = self.all.len();
        while excess > 0 && end > 0 {
            let is_kept =
                |block: &usize| self.free.contains(*block) && !self.given_back.contains(*block);
            let run = (0..end).rev().take_while(is_kept).take(excess).count();
            let start = end - run;
            if run > 0 {
                (start..end).for_each(|block| self.given_back.insert(block));
                give_back(start * BLOCK..end * BLOCK);
            }
            excess -= run;
            end = start.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_block(blocks: &mut Blocks) -> usize {
        blocks.take_block(usize::MAX, |_| true).unwrap().start / BLOCK
    }

    fn take_large(blocks: &mut Blocks, count: usize) -> usize {
        blocks.take_large(count * BLOCK, usize::MAX, |_| true).unwrap() / BLOCK
    }

    /// Marks bytes of a block as those of an object.
    fn mark(blocks: &mut Blocks, block: usize, bytes: Range<usize>) {
        let block = blocks.get_mut(block).unwrap();
        block.marks.insert(bytes.start);
        block.live.insert(Lines::touched(bytes));
    }

    #[test]
    fn large_objects_are_where_enough_blocks_are_free() {
        let mut blocks = Blocks::new();
        assert_eq!([take_large(&mut blocks, 3), take_block(&mut blocks)], [0, 3]);
        assert_eq!(blocks.get(2).unwrap().kind, Kind::Rest { start: 0 });
        mark(&mut blocks, 3, 0..8);
        blocks.sweep();
        assert_eq!((blocks.count(), blocks.used(), blocks.kept()), (4, 1, 3));
        // What is not there for four is there for three.
        assert_eq!([take_large(&mut blocks, 4), take_large(&mut blocks, 3)], [4, 0]);
        blocks.sweep();
        assert_eq!(blocks.used(), 0);
        assert_eq!(take_large(&mut blocks, 8), 0);
        // Neither what may be used is exceeded nor what can be had.
        assert!(blocks.take_block(8, |_| true).is_none());
        assert!(blocks.take_block(9, |_| false).is_none());
        assert_eq!((blocks.count(), blocks.used()), (8, 8));
    }

    #[test]
    fn holes_of_many_lines_are_found_behind_many_blocks_without_any() {
        let mut blocks = Blocks::new();
        let count = 3 * SEARCHED;
        for block in 0..count {
            assert_eq!(take_block(&mut blocks), block);
            // All but two lines.
            mark(&mut blocks, block, 0..BLOCK - 2 * LINE);
        }
        let last = take_block(&mut blocks);
        mark(&mut blocks, last, 0..BLOCK - 4 * LINE);
        blocks.sweep();
        // Some are searched each time.
        let found: Vec<_> = (0..5).map(|_| blocks.take_hole(3 * LINE)).collect();
        let start = (last + 1) * BLOCK - 4 * LINE;
        let hole = Run { start, next: start, end: start + 4 * LINE };
        assert_eq!(found, [None, None, None, Some(hole), None]);
        // The others are there for others.
        assert_eq!(blocks.take_hole(LINE).map(|run| run.start), Some(BLOCK - 2 * LINE));
    }

    #[test]
    fn lines_that_nothing_is_in_are_taken_again() {
        let mut blocks = Blocks::new();
        let mut run = blocks.take_block(1, |_| true).unwrap();
        assert_eq!(blocks.take_hole(LINE), None);
        run.next += 5 * LINE + 8;
        assert_eq!(blocks.close(run), BLOCK - 6 * LINE);
        let hole = Run { start: 6 * LINE, next: 6 * LINE, end: BLOCK };
        assert_eq!(blocks.take_hole(LINE), Some(hole));
        assert_eq!(blocks.take_hole(LINE), None);
        // Of what has objects, each place is told once.
        assert_eq!(blocks.take_recent(0, 5 * LINE + 8), None);
        assert_eq!(blocks.take_recent(0, 5 * LINE + 7), Some(0..5 * LINE + 8));
        assert_eq!(blocks.take_recent(0, 0), None);
        // Nothing at all, and what is full.
        assert_eq!(blocks.close(Run::NONE), 0);
        assert_eq!(blocks.close(Run { next: BLOCK, ..hole }), 0);
        assert_eq!(blocks.take_recent(0, BLOCK - 1), Some(6 * LINE..BLOCK));
    }

    #[test]
    fn the_last_free_blocks_are_given_back_first_and_once() {
        let mut blocks = Blocks::new();
        for block in 0..10 {
            take_block(&mut blocks);
            if block == 2 || block == 7 {
                mark(&mut blocks, block, 0..8);
            }
        }
        blocks.sweep();
        let mut given = Vec::new();
        let mut give_back = |blocks: &mut Blocks, keep| {
            given.clear();
            blocks.give_back(keep, |bytes| given.push(bytes.start / BLOCK..bytes.end / BLOCK));
            given.clone()
        };
        assert_eq!(give_back(&mut blocks, 8), []);
        assert_eq!(give_back(&mut blocks, 5), [8..10, 6..7]);
        assert_eq!((blocks.kept(), blocks.used()), (5, 2));
        assert_eq!(give_back(&mut blocks, 5), []);
        assert_eq!(give_back(&mut blocks, 1), [3..6, 1..2]);
        assert_eq!(give_back(&mut blocks, 0), [Range { start: 0, end: 1 }]);
        assert_eq!(take_block(&mut blocks), 0);
        blocks.sweep();
        assert_eq!(give_back(&mut blocks, 1), [7..8, 2..3]);
    }
}
