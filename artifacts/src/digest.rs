//! The two-level digest: a leaf for each 64 KiB of the file and a root over
//! the leaves and the front of the file.
//!
//! ```text
//! file   | ELF header | header | signatures | leaf table | body ............. |
//!          \__ root ___________/             \__ root ___/ \__ leaf 0, 1, 2 __/
//! ```
//!
//! Chunk `i` is the file bytes `i * 64 KiB .. (i + 1) * 64 KiB`, without what
//! lies before the body. `leaf = SHA-256(0x00, chunk)` and `root =
//! SHA-256(0x01, ELF header, header with its root zeroed, leaf table)`. The leading byte keeps a
//! chunk from passing for a root. The signature area is covered by neither,
//! since signatures are made after the root is known; it has a checksum of its own.

use core::fmt;
use core::ops::Range;
use core::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest as _, Sha256};

use crate::header::{CHUNK_SIZE, ELF_HEADER_SIZE, HEADER_OFFSET, HEADER_SIZE, Header, MAGIC};
use crate::hex::{Hex, parse_digest};

/// The root digest of an artifact: its name, whatever its file is called.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The root that an artifact's header states; `None` if it is no artifact.
    ///
    /// Only as good as the file: use it for artifacts that you have just made.
    #[must_use]
    pub fn stated_in(file: &[u8]) -> Option<Self> {
        let header = Header::of(file)?;
        (header.prefix.magic == MAGIC).then_some(Self(header.root))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

/// A text that is not a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a digest has 64 hexadecimal digits")]
pub struct ParseDigestError;

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, ParseDigestError> {
        parse_digest(text).map(Self).ok_or(ParseDigestError)
    }
}

/// How many chunks a file of this length has.
#[must_use]
pub fn chunk_count(file_length: usize) -> usize {
    file_length.div_ceil(CHUNK_SIZE)
}

/// The file offsets that leaf `index` covers. May be empty.
#[must_use]
pub fn chunk_range(index: usize, body_offset: usize, file_length: usize) -> Range<usize> {
    let start = index.saturating_mul(CHUNK_SIZE);
    let end = start.saturating_add(CHUNK_SIZE).min(file_length);
    let start = start.max(body_offset).min(end);
    start..end
}

/// The leaf of a chunk.
#[must_use]
pub fn leaf(chunk: &[u8]) -> [u8; 32] {
    Sha256::new_with_prefix([0]).chain_update(chunk).finalize().into()
}

/// A chunk of a file, and the leaf that it must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Where in the file it is.
    pub chunk: Range<usize>,
    /// What its bytes must hash to.
    pub leaf: [u8; 32],
}

/// Which of these chunks of a file have other leaves than they must, in order. Asks on several threads if
/// there are many; on this one alone if none can be had.
#[must_use]
pub fn wrong_chunks(file: &[u8], expected: &[Expected]) -> Vec<Range<usize>> {
    let wrong = find_in_parallel(expected.len(), |position| {
        let Expected { chunk, leaf: wanted } = &expected[position];
        leaf(&file[chunk.clone()]) != *wanted
    });
    wrong.into_iter().map(|position| expected[position].chunk.clone()).collect()
}

/// How many chunks a further thread is started for: hashing them takes ten times as long
/// as starting it.
const CHUNKS_PER_THREAD: usize = 12;

/// More threads than this wait for memory rather than compute.
const MAX_THREADS: usize = 8;

/// How many threads are worth it to hash so many chunks.
#[must_use]
pub fn threads_for(chunks: usize) -> usize {
    match chunks / CHUNKS_PER_THREAD {
        0 | 1 => 1,
        more => processors().min(more).min(MAX_THREADS),
    }
}

/// How many processors there are. To ask takes a while, so it is done once.
fn processors() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// The numbers below `count` for which `wanted` holds, in order.
fn find_in_parallel(count: usize, wanted: impl Fn(usize) -> bool + Sync) -> Vec<usize> {
    let threads = threads_for(count);
    // A scope of threads takes a while, too.
    if threads == 1 {
        return (0..count).filter(|number| wanted(*number)).collect();
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let numbers = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
        numbers.take_while(|number| *number < count).filter(|number| wanted(*number)).collect()
    };
    let mut found = std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads)
            .map_while(|_| std::thread::Builder::new().spawn_scoped(scope, work).ok())
            .collect();
        let mut found: Vec<usize> = work();
        for helper in helpers {
            match helper.join() {
                Ok(more) => found.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        found
    });
    found.sort_unstable();
    found
}

/// The root of a file, from the bytes before the body.
///
/// # Panics
/// If `front` is shorter than the front of a file.
#[must_use]
pub fn root(front: &[u8], leaf_table: &[u8]) -> Digest {
    let header = &front[HEADER_OFFSET..HEADER_OFFSET + HEADER_SIZE];
    Digest(
        Sha256::new_with_prefix([1])
            .chain_update(&front[..ELF_HEADER_SIZE])
            .chain_update(&header[..HEADER_SIZE - 32])
            .chain_update([0; 32])
            .chain_update(leaf_table)
            .finalize()
            .into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_the_body_once() {
        let (body, length) = (70_000, 200_001);
        let mut next = body;
        for index in 0..chunk_count(length) {
            let range = chunk_range(index, body, length);
            if !range.is_empty() {
                assert_eq!(range.start, next);
                next = range.end;
            }
        }
        assert_eq!(next, length);
        assert!(chunk_range(0, body, length).is_empty());
    }

    #[test]
    fn what_is_found_in_parallel_is_complete_and_in_order() {
        for count in [0, 1, 11, 24, 1000] {
            let found = find_in_parallel(count, |number| number % 3 == 0);
            assert!(found.into_iter().eq((0..count).step_by(3)));
        }
    }

    #[test]
    fn a_leaf_is_not_a_plain_hash() {
        assert_ne!(leaf(b"x"), <[u8; 32]>::from(Sha256::digest(b"x")));
    }
}
