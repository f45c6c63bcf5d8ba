//! The leaves of a snapshot, computed on several threads that nobody waits for.
//!
//! Further threads help if there is much to hash. On a machine whose processors are busy, they may begin late, or stop in the middle
//! of a chunk for as long as another program runs. So whoever loads takes chunks until there are no more, does again what others
//! have begun and not finished, and goes on. A thread that comes late finds nothing to do. It has a share of the bytes
//! meanwhile, which are unmapped when the last share ends.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::thread;

use cwasm_artifact::digest::{self, Expected};

use crate::spare::Pages;
use crate::sys;

/// What is known about a chunk. The number is all that threads tell each other.
const UNKNOWN: u8 = 0;
const RIGHT: u8 = 1;
const WRONG: u8 = 2;

/// For less, two leaves at a time save no more than it takes to ask what the processor can: a process does that once, but a virtual
/// machine's processor takes some 40 us to answer, and what runs a small program often does nothing else.
const WORTH_ASKING: usize = 64 << 10;

/// Chunks that several threads hash, two at a time.
#[derive(Debug)]
struct Work {
    map: Arc<Pages>,
    expected: Vec<Expected>,
    /// The first that nobody has begun.
    next: AtomicUsize,
    /// One for each chunk.
    known: Vec<AtomicU8>,
}

/// Which of these chunks of a map have other leaves than they must, in order.
pub(crate) fn wrong_chunks(map: &Arc<Pages>, expected: Vec<Expected>) -> Vec<Range<usize>> {
    let bytes = expected.iter().map(|expected| expected.chunk.len()).sum();
    if bytes < WORTH_ASKING {
        return digest::wrong_chunks(map, &expected);
    }
    let threads = digest::threads_for(bytes);
    let work = Arc::new(Work::new(Arc::clone(map), expected));
    for _ in 1..threads {
        let work = Arc::clone(&work);
        // Without it, this one does all.
        if thread::Builder::new().spawn(move || work.take()).is_err() {
            break;
        }
    }
    work.take();
    work.finish()
}

impl Work {
    fn new(map: Arc<Pages>, expected: Vec<Expected>) -> Self {
        let known = expected.iter().map(|_| AtomicU8::new(UNKNOWN)).collect();
        Self { map, expected, next: AtomicUsize::new(0), known }
    }

    /// Hashes what nobody has begun.
    fn take(&self) {
        loop {
            let first = self.next.fetch_add(2, Ordering::Relaxed);
            if first >= self.expected.len() {
                return;
            }
            self.hash(first);
        }
    }

    /// Hashes what is not finished. What is wrong.
    fn finish(&self) -> Vec<Range<usize>> {
        for first in (0..self.expected.len()).step_by(2) {
            if self.is_unknown(first) || self.is_unknown(first + 1) {
                self.hash(first);
            }
        }
        self.expected
            .iter()
            .zip(&self.known)
            .filter(|(_, known)| known.load(Ordering::Relaxed) != RIGHT)
            .map(|(expected, _)| expected.chunk.clone())
            .collect()
    }

    fn is_unknown(&self, number: usize) -> bool {
        self.known.get(number).is_some_and(|known| known.load(Ordering::Relaxed) == UNKNOWN)
    }

    /// Hashes a chunk and the next, if there is one.
    fn hash(&self, first: usize) {
        let bytes = |expected: &Expected| self.map.get(expected.chunk.clone()).unwrap_or_default();
        match &self.expected[first..] {
            [one, other, ..] => {
                let [one_leaf, other_leaf] = sys::leaf_pair([bytes(one), bytes(other)]);
                self.note(first, one_leaf == one.leaf);
                self.note(first + 1, other_leaf == other.leaf);
            }
            [only] => self.note(first, digest::leaf(bytes(only)) == only.leaf),
            [] => {}
        }
    }

    fn note(&self, number: usize, is_right: bool) {
        self.known[number].store(if is_right { RIGHT } else { WRONG }, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memmap2::MmapMut;
    use std::collections::BTreeSet;

    // As many as threads are started for in the end.
    const SIZE: usize = 6000;

    fn chunk(number: usize) -> Range<usize> {
        number * SIZE..(number + 1) * SIZE
    }

    /// So many chunks, of which these have other leaves than they must.
    fn work(count: usize, wrong: &[usize]) -> (Arc<Pages>, Vec<Expected>) {
        let mut map = MmapMut::map_anon((count * SIZE).max(1)).unwrap();
        for (byte, value) in map.iter_mut().zip((0..=250_u8).cycle()) {
            *byte = value;
        }
        let map = map.make_read_only().unwrap();
        let expected = (0..count).map(|number| {
            let chunk = chunk(number);
            let mut leaf = digest::leaf(&map[chunk.clone()]);
            leaf[31] ^= u8::from(wrong.contains(&number));
            Expected { chunk, leaf }
        });
        let expected = expected.collect();
        (Arc::new(Pages::once(map)), expected)
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps memory")]
    fn what_is_wrong_is_found_on_any_number_of_threads() {
        for count in [0_usize, 1, 2, 11, 24, 60, 301] {
            for wrong in
                [vec![], vec![0], vec![count / 2], vec![0, count / 3, count.saturating_sub(1)]]
            {
                let wrong: BTreeSet<_> =
                    wrong.into_iter().filter(|number| *number < count).collect();
                let wrong: Vec<_> = wrong.into_iter().collect();
                let (map, expected) = work(count, &wrong);
                let found = wrong_chunks(&map, expected);
                assert!(found.into_iter().eq(wrong.into_iter().map(chunk)), "{count}");
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps memory")]
    fn what_another_thread_began_and_never_finishes_is_done_again() {
        let (map, expected) = work(30, &[3, 17, 29]);
        let work = Work::new(map, expected);
        // Others have the first twenty, and finished some.
        work.next.store(20, Ordering::Relaxed);
        work.hash(4);
        work.hash(16);
        work.take();
        assert!(work.is_unknown(0) && !work.is_unknown(4) && !work.is_unknown(29));
        assert_eq!(work.finish(), [3, 17, 29].map(chunk));
    }
}
