//! Where the digests below the root are in a file, and which bytes each of them covers.
//!
//! ```text
//!                        b0 b1 ..   l0 l1 ... l63 l64 ...
//! file | fixed front  | branches | leaves               | body ........................... |
//!        \__ root _______________/                       chunk 0 (a part) | chunk 1 | ...
//! ```
//!
//! A leaf covers a chunk, a branch 64 leaves, and the root all branches and the header. So to check one chunk of a large file takes
//! the branches, 2 KiB of leaves, and the chunk. `FORMAT.md`, "The digest", is the specification.

use std::ops::Range;

use crate::header::TREE_OFFSET;

/// How many leaves a branch covers.
pub const LEAVES_PER_BRANCH: usize = 64;

/// The smallest chunk that a file may have.
pub const MIN_CHUNK_SIZE: usize = 4096;

/// The largest.
pub const MAX_CHUNK_SIZE: usize = 65536;

/// The chunks that this crate writes, unless pages of the target are larger. The time until a first call returns is mostly that of
/// reading and hashing the chunks that it needs, so that small ones pay (`docs/decisions/speed.md`). Ones of a page have more leaves, and are no quicker.
const USUAL_CHUNK_SIZE: usize = 8192;

/// The size of a digest.
const DIGEST: usize = 32;

/// How a file is divided. What is not in the file, it says as well as what is: compare with the file's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tree {
    chunk_size: usize,
    leaf_capacity: usize,
}

impl Tree {
    /// With chunks of so many bytes, and room for so many leaves. `None` if no file may have such chunks.
    #[must_use]
    pub fn new(chunk_size: u32, leaf_capacity: u32) -> Option<Self> {
        let chunk_size = usize::try_from(chunk_size).ok()?;
        let may_be =
            chunk_size.is_power_of_two() && (MIN_CHUNK_SIZE..=MAX_CHUNK_SIZE).contains(&chunk_size);
        let leaf_capacity = usize::try_from(leaf_capacity).ok()?;
        may_be.then_some(Self { chunk_size, leaf_capacity })
    }

    /// For a file whose length is not known yet, but is at most `estimate` bytes without branches and leaves, for a target with pages of
    /// at most so many bytes. A chunk is never smaller than a page, so that a loader can map it alone.
    #[must_use]
    pub fn for_at_most(estimate: usize, page: usize) -> Self {
        let chunk_size = page.clamp(USUAL_CHUNK_SIZE, MAX_CHUNK_SIZE);
        let mut tree = Self { chunk_size, leaf_capacity: 0 };
        loop {
            // The leaves themselves make the file longer.
            let length = estimate.saturating_add(tree.body_offset());
            match tree.chunk_count(length) {
                count if count <= tree.leaf_capacity => return tree,
                count => tree.leaf_capacity = count,
            }
        }
    }

    /// How many bytes of the file a chunk has, but for the last.
    #[must_use]
    pub fn chunk_size(self) -> usize {
        self.chunk_size
    }

    /// How many leaves there is room for.
    #[must_use]
    pub fn leaf_capacity(self) -> usize {
        self.leaf_capacity
    }

    /// How many branches there are.
    #[must_use]
    pub fn branch_count(self) -> usize {
        self.leaf_capacity.div_ceil(LEAVES_PER_BRANCH)
    }

    /// The file offsets of all branches.
    #[must_use]
    pub fn branches(self) -> Range<usize> {
        digests(TREE_OFFSET, 0..self.branch_count())
    }

    /// The file offsets of one branch.
    #[must_use]
    pub fn branch(self, number: usize) -> Range<usize> {
        digests(TREE_OFFSET, number..number.saturating_add(1))
    }

    /// The file offsets of the leaves that a branch covers.
    #[must_use]
    pub fn leaves_of(self, branch: usize) -> Range<usize> {
        let first = branch.saturating_mul(LEAVES_PER_BRANCH).min(self.leaf_capacity);
        let end = first.saturating_add(LEAVES_PER_BRANCH).min(self.leaf_capacity);
        digests(self.branches().end, first..end)
    }

    /// The file offsets of a chunk's leaf.
    #[must_use]
    pub fn leaf(self, chunk: usize) -> Range<usize> {
        digests(self.branches().end, chunk..chunk.saturating_add(1))
    }

    /// Where the leaves end and what they cover begins.
    #[must_use]
    pub fn body_offset(self) -> usize {
        digests(self.branches().end, 0..self.leaf_capacity).end
    }

    /// How many chunks a file of this length has.
    #[must_use]
    pub fn chunk_count(self, file_length: usize) -> usize {
        file_length.div_ceil(self.chunk_size)
    }

    /// The file offsets that a leaf covers. May be empty.
    #[must_use]
    pub fn chunk(self, number: usize, file_length: usize) -> Range<usize> {
        let start = number.saturating_mul(self.chunk_size);
        let end = start.saturating_add(self.chunk_size).min(file_length);
        let start = start.max(self.body_offset()).min(end);
        start..end
    }
}

/// The file offsets of digests that lie in a row from `start` on.
fn digests(start: usize, numbers: Range<usize>) -> Range<usize> {
    let at = |number: usize| start.saturating_add(number.saturating_mul(DIGEST));
    at(numbers.start)..at(numbers.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_the_body_once_and_branches_the_leaves() {
        for (chunk_size, capacity, length) in [
            (4096, 49, 200_001),
            (16384, 13, 200_001),
            (65536, 4, 200_001),
            (4096, 2500, 10_000_000),
        ] {
            let tree = Tree::new(chunk_size, capacity).unwrap();
            let mut next = tree.body_offset();
            for number in 0..tree.chunk_count(length) {
                let range = tree.chunk(number, length);
                if !range.is_empty() {
                    assert_eq!(range.start, next);
                    next = range.end;
                }
            }
            assert_eq!(next, length);
            let mut next = tree.branches().end;
            for branch in 0..tree.branch_count() {
                let leaves = tree.leaves_of(branch);
                assert_eq!(leaves.start, next);
                assert_eq!(leaves.start, tree.leaf(branch * LEAVES_PER_BRANCH).start);
                assert!(!leaves.is_empty());
                next = leaves.end;
            }
            assert_eq!(next, tree.body_offset());
            assert!(tree.leaves_of(tree.branch_count()).is_empty());
        }
    }

    #[test]
    fn there_is_room_for_the_leaves_of_what_is_as_long_as_estimated() {
        for estimate in [0, 1, 7000, 8191, 8192, 60_000, 65_536, 10_000_000, 500_000_000] {
            for page in [4096, 16384, 65536] {
                let tree = Tree::for_at_most(estimate, page);
                let count = tree.chunk_count(tree.body_offset() + estimate);
                assert!(count <= tree.leaf_capacity(), "{estimate}");
                assert!(tree.chunk_size() >= page);
                // Not for many more.
                assert!(tree.leaf_capacity() <= count + 1, "{estimate}");
            }
        }
    }

    #[test]
    fn chunks_of_other_sizes_are_none() {
        for size in [0, 1, 2048, 4095, 12288, 131_072, u32::MAX] {
            assert_eq!(Tree::new(size, 1), None);
        }
        let far = Tree::new(65536, u32::MAX).unwrap();
        assert!(far.leaf(usize::MAX).is_empty());
        assert!(far.chunk(usize::MAX, usize::MAX).is_empty());
    }
}
