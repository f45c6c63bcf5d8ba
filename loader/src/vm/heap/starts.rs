//! Where in a block objects start.

use super::{BLOCK, GRAIN};

/// How many words the bits of a block are.
const WORDS: usize = BLOCK / GRAIN / 64;

/// A set of places in a block: a bit for every eight bytes. Places are in bytes from the start of the block.
#[derive(Clone, Debug)]
pub(super) struct Starts([u64; WORDS]);

impl Starts {
    pub(super) const NONE: Self = Self([0; WORDS]);

    fn position(at: usize) -> (usize, u64) {
        let bit = at / GRAIN;
        (bit / 64 % WORDS, 1 << (bit % 64))
    }

    /// Adds a place. Whether it was not in the set.
    #[inline]
    pub(super) fn insert(&mut self, at: usize) -> bool {
        let (word, bit) = Self::position(at);
        let is_new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        is_new
    }

    pub(super) fn remove(&mut self, at: usize) {
        let (word, bit) = Self::position(at);
        self.0[word] &= !bit;
    }

    pub(super) fn contains(&self, at: usize) -> bool {
        let (word, bit) = Self::position(at);
        self.0[word] & bit != 0
    }

    /// The last place that is not behind this one.
    pub(super) fn last_up_to(&self, at: usize) -> Option<usize> {
        let (word, bit) = Self::position(at);
        let found = |word: usize, bits: u64| {
            let bit = bits.checked_ilog2()?;
            Some((word * 64 + bit as usize) * GRAIN)
        };
        found(word, self.0[word] & (bit | (bit - 1)))
            .or_else(|| (0..word).rev().find_map(|word| found(word, self.0[word])))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::random::Random;
    use super::*;

    #[test]
    fn places_are_those_of_a_set() {
        let mut random = Random::new(2);
        let (mut starts, mut model) = (Starts::NONE, BTreeSet::new());
        for _ in 0..3000 {
            let at = random.below(BLOCK / GRAIN) * GRAIN;
            match random.below(3) {
                0 => assert_eq!(starts.insert(at), model.insert(at)),
                1 => {
                    starts.remove(at);
                    model.remove(&at);
                }
                _ => {
                    assert_eq!(starts.contains(at), model.contains(&at));
                    let inside = at + random.below(GRAIN);
                    assert_eq!(starts.last_up_to(inside), model.range(..=inside).last().copied());
                }
            }
        }
        let mut starts = Starts::NONE;
        assert_eq!(starts.last_up_to(BLOCK - 1), None);
        starts.insert(0);
        assert_eq!(starts.last_up_to(BLOCK - 1), Some(0));
        starts.insert(BLOCK - GRAIN);
        assert_eq!(starts.last_up_to(BLOCK - 1), Some(BLOCK - GRAIN));
    }
}
