//! Sets of blocks.

use std::ops::Range;

/// A set of numbers of blocks: a bit for each.
#[derive(Clone, Debug)]
pub(super) struct BlockSet {
    words: Vec<u64>,
    count: usize,
    /// No word before this has a block.
    from: usize,
}

impl BlockSet {
    pub(super) const fn new() -> Self {
        Self { words: Vec::new(), count: 0, from: 0 }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Makes room for numbers less than `length`. Whether there is enough memory.
    pub(super) fn reserve(&mut self, length: usize) -> bool {
        let words = length.div_ceil(64);
        let more = words.saturating_sub(self.words.len());
        let has_room = self.words.try_reserve(more).is_ok();
        if more > 0 && has_room {
            self.words.resize(words, 0);
        }
        has_room
    }

    pub(super) fn contains(&self, block: usize) -> bool {
        self.words.get(block / 64).is_some_and(|word| word >> (block % 64) & 1 != 0)
    }

    /// Adds a block, for which there is room.
    pub(super) fn insert(&mut self, block: usize) {
        let (word, bit) = (block / 64, 1 << (block % 64));
        self.count += usize::from(self.words[word] & bit == 0);
        self.words[word] |= bit;
        self.from = self.from.min(word);
    }

    pub(super) fn remove(&mut self, block: usize) {
        if self.contains(block) {
            self.words[block / 64] &= !(1 << (block % 64));
            self.count -= 1;
        }
    }

    /// The first block.
    pub(super) fn first(&mut self) -> Option<usize> {
        let words = self.words.get(self.from..)?;
        let skipped = words.iter().position(|word| *word != 0).unwrap_or(words.len());
        self.from += skipped;
        let word = self.words.get(self.from)?;
        Some(self.from * 64 + word.trailing_zeros() as usize)
    }

    /// The first of the first `count` blocks that follow each other.
    pub(super) fn first_run(&self, count: usize) -> Option<usize> {
        let mut at = self.from * 64;
        loop {
            let run = self.next_run(at)?;
            if run.len() >= count {
                return Some(run.start);
            }
            at = run.end;
        }
    }

    /// All blocks that follow each other from the first that is not before `at`.
    pub(super) fn next_run(&self, at: usize) -> Option<Range<usize>> {
        let start = self.next(at, 0)?;
        let end = self.next(start, u64::MAX).unwrap_or(self.words.len() * 64);
        Some(start..end)
    }

    /// The first number that is not before `at` and whose bit is not that of `flipped`.
    fn next(&self, at: usize, flipped: u64) -> Option<usize> {
        let mut mask = u64::MAX << (at % 64);
        for (index, word) in self.words.iter().enumerate().skip(at / 64) {
            let found = (word ^ flipped) & mask;
            if found != 0 {
                return Some(index * 64 + found.trailing_zeros() as usize);
            }
            mask = u64::MAX;
        }
        None
    }

    /// How many blocks follow each other right before `end`.
    pub(super) fn run_before(&self, end: usize) -> usize {
        (0..end).rev().take_while(|block| self.contains(*block)).count()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::random::Random;
    use super::*;

    #[test]
    fn a_set_of_blocks_is_one() {
        const LENGTH: usize = 300;
        let mut random = Random::new(3);
        let (mut set, mut model) = (BlockSet::new(), BTreeSet::new());
        assert_eq!((set.first(), set.first_run(1), set.next_run(7)), (None, None, None));
        assert!(set.reserve(LENGTH) && set.reserve(5));
        for round in 0..20_000 {
            let start = random.below(LENGTH);
            let end = (start + 1 + random.below(90)).min(LENGTH);
            if random.below(3) == 0 {
                for block in start..end {
                    set.insert(block);
                    model.insert(block);
                }
            } else {
                for block in start..end.min(start + 40) {
                    set.remove(block);
                    model.remove(&block);
                }
            }
            assert_eq!(set.count(), model.len());
            assert_eq!(set.first(), model.first().copied());
            let run_at = |start: usize| (start..).find(|block| !model.contains(block)).unwrap();
            let count = 1 + random.below(100);
            let fits = |block: &usize| run_at(*block) - block >= count;
            assert_eq!(set.first_run(count), model.iter().copied().find(fits), "{round}");
            let next = model.range(start..).next();
            assert_eq!(set.next_run(start), next.map(|first| *first..run_at(*first)));
            let before = (0..end).rev().take_while(|block| model.contains(block)).count();
            assert_eq!(set.run_before(end), before);
        }
    }
}
