//! The digest of a file: leaves for its chunks, branches for leaves, and a root over the branches and the
//! front of the file. Where they are, [`crate::tree`] says.
//!
//! `leaf = SHA-256(0x00, chunk)`, `branch = SHA-256(0x03, up to 64 leaves)`, and `root =
//! SHA-256(0x01, ELF header, header with its root zeroed, branches)`. The leading byte keeps the one from passing
//! for another. The signature area is not covered,
//! since signatures are made after the root is known; it has a checksum of its own.

use core::fmt;
use core::ops::Range;
use core::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest as _, Sha256};

use crate::header::{ELF_HEADER_SIZE, HEADER_OFFSET, HEADER_SIZE, Header, MAGIC};
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

/// The leaf of a chunk.
#[must_use]
pub fn leaf(chunk: &[u8]) -> [u8; 32] {
    Sha256::new_with_prefix([0]).chain_update(chunk).finalize().into()
}

/// The branch of leaves that lie in a row.
#[must_use]
pub fn branch(leaves: &[u8]) -> [u8; 32] {
    Sha256::new_with_prefix([3]).chain_update(leaves).finalize().into()
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
    let bytes = expected.iter().map(|expected| expected.chunk.len()).sum();
    let wrong = find_in_parallel(expected.len(), threads_for(bytes), |position| {
        let Expected { chunk, leaf: wanted } = &expected[position];
        leaf(&file[chunk.clone()]) != *wanted
    });
    wrong.into_iter().map(|position| expected[position].chunk.clone()).collect()
}

/// How many bytes a further thread is started for: hashing them takes ten times as long
/// as starting it.
const BYTES_PER_THREAD: usize = 768 << 10;

/// More threads than this wait for memory rather than compute.
const MAX_THREADS: usize = 8;

/// How many threads are worth it to hash so many bytes.
#[must_use]
pub fn threads_for(bytes: usize) -> usize {
    match bytes / BYTES_PER_THREAD {
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
fn find_in_parallel(
    count: usize,
    threads: usize,
    wanted: impl Fn(usize) -> bool + Sync,
) -> Vec<usize> {
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

/// The root of a file that begins with `front`, of its branches.
///
/// # Panics
/// If `front` is shorter than the front of a file.
#[must_use]
pub fn root(front: &[u8], branches: &[u8]) -> Digest {
    let header = &front[HEADER_OFFSET..HEADER_OFFSET + HEADER_SIZE];
    Digest(
        Sha256::new_with_prefix([1])
            .chain_update(&front[..ELF_HEADER_SIZE])
            .chain_update(&header[..HEADER_SIZE - 32])
            .chain_update([0; 32])
            .chain_update(branches)
            .finalize()
            .into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_in_parallel_is_complete_and_in_order() {
        for count in [0, 1, 11, 24, 1000] {
            for threads in [1, 2, 5] {
                let found = find_in_parallel(count, threads, |number| number % 3 == 0);
                assert!(found.into_iter().eq((0..count).step_by(3)));
            }
        }
    }

    #[test]
    fn a_leaf_is_neither_a_plain_hash_nor_a_branch() {
        assert_ne!(leaf(b"x"), <[u8; 32]>::from(Sha256::digest(b"x")));
        assert_ne!(leaf(b"x"), branch(b"x"));
    }
}
