//! Which lines of a block are taken, and the holes between them.

use std::ops::Range;

use super::{BLOCK, LINE};

/// How many lines a block has.
pub(super) const LINES: usize = BLOCK / LINE;

const _: () = assert!(LINES == u128::BITS as usize);

/// A set of lines of a block: a bit for each, the first in the lowest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lines(u128);

impl Lines {
    pub(super) const NONE: Self = Self(0);
    pub(super) const ALL: Self = Self(u128::MAX);

    /// Those lines.
    fn range(lines: Range<usize>) -> Self {
        debug_assert!(lines.end <= LINES);
        match lines.len() {
            0 => Self::NONE,
            count => Self(u128::MAX >> (LINES - count) << lines.start),
        }
    }

    /// The lines that have some of these bytes of the block.
    #[inline]
    pub(super) fn touched(bytes: Range<usize>) -> Self {
        Self::range(bytes.start / LINE..bytes.end.div_ceil(LINE))
    }

    /// The lines all of whose bytes are among these of the block.
    pub(super) fn within(bytes: Range<usize>) -> Self {
        Self::range(bytes.start.div_ceil(LINE)..bytes.end / LINE)
    }

    #[inline]
    pub(super) fn insert(&mut self, lines: Self) {
        self.0 |= lines.0;
    }

    pub(super) fn remove(&mut self, lines: Self) {
        self.0 &= !lines.0;
    }

    pub(super) fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    /// The bytes of the first run of lines not in the set that has at least `count` of them, at least one.
    pub(super) fn hole(self, count: usize) -> Option<Range<usize>> {
        if count > LINES {
            return None;
        }
        // A bit stays where so many lines not in the set begin.
        let mut starts = !self.0;
        let mut known = 1;
        while known < count {
            let more = known.min(count - known);
            starts &= starts >> more;
            known += more;
        }
        if starts == 0 {
            return None;
        }
        let start = starts.trailing_zeros() as usize;
        let length = (self.0 >> start).trailing_zeros() as usize;
        Some(start * LINE..(start + length).min(LINES) * LINE)
    }
}

#[cfg(test)]
mod tests {
    use super::super::random::Random;
    use super::*;

    #[test]
    fn bytes_touch_lines_and_have_lines_within() {
        let set = |lines: &[usize]| Lines(lines.iter().fold(0, |set, line| set | 1 << line));
        for (bytes, touched, within) in [
            (0..8, set(&[0]), set(&[])),
            (0..LINE, set(&[0]), set(&[0])),
            (8..LINE, set(&[0]), set(&[])),
            (LINE - 8..LINE + 8, set(&[0, 1]), set(&[])),
            (8..3 * LINE + 8, set(&[0, 1, 2, 3]), set(&[1, 2])),
            (LINE..2 * LINE, set(&[1]), set(&[1])),
            (BLOCK - 8..BLOCK, set(&[127]), set(&[])),
            (2 * LINE..2 * LINE, set(&[]), set(&[])),
            (0..BLOCK, Lines::ALL, Lines::ALL),
        ] {
            assert_eq!(Lines::touched(bytes.clone()), touched, "{bytes:?}");
            assert_eq!(Lines::within(bytes.clone()), within, "{bytes:?}");
        }
    }

    #[test]
    fn holes_are_those_that_a_search_line_by_line_finds() {
        let mut random = Random::new(1);
        for round in 0..2000 {
            let mut lines = Lines::NONE;
            for _ in 0..round % 40 {
                let start = random.below(LINES);
                lines.insert(Lines::range(start..(start + 1 + random.below(9)).min(LINES)));
            }
            let is_free = |line: &usize| lines.0 >> line & 1 == 0;
            for count in [1, 2, 3, 5, 8, 31, 64, 127, 128, 129] {
                let wanted = (0..LINES).find_map(|start| {
                    let end = (start..LINES).find(|line| !is_free(line)).unwrap_or(LINES);
                    (end - start >= count).then_some(start * LINE..end * LINE)
                });
                assert_eq!(lines.hole(count), wanted, "{lines:?} {count}");
            }
            if let Some(hole) = lines.hole(1) {
                let before = lines.count();
                lines.insert(Lines::touched(hole.clone()));
                assert_eq!(lines.count(), before + hole.len() / LINE);
                lines.remove(Lines::within(hole.clone()));
                assert_eq!(lines.hole(1), Some(hole));
            }
        }
    }
}
