//! The pages of a snapshot, and what becomes of them when the last share of it ends.
//!
//! Fresh pages are most of what it costs to load a small artifact. So the memory of a few small ones waits for the next. It is
//! writable then, and not executable: whoever had an address of its code would fault, as if it were unmapped. Nobody waits for the
//! list's lock.

use std::ops::Deref;
use std::sync::Mutex;

use memmap2::{Mmap, MmapMut};

/// How many wait.
const COUNT: usize = 4;

/// What has more bytes does not wait. Large pages are cheaper, and it is the process that pays for what waits.
const MAX_LENGTH: usize = 1 << 20;

static WAITING: Mutex<Waiting> = Mutex::new(Waiting([const { None }; COUNT]));

/// What waits, the oldest first.
struct Waiting([Option<MmapMut>; COUNT]);

impl Waiting {
    fn keep(&mut self, map: MmapMut) {
        // If there is no room, the oldest has none any more.
        let place = self.0.iter().position(Option::is_none).unwrap_or(0);
        self.0[place..].rotate_left(1);
        self.0[COUNT - 1] = Some(map);
    }

    fn take(&mut self, length: usize) -> Option<MmapMut> {
        let is_right = |map: &mut MmapMut| map.len() >= length && map.len() - length <= length / 8;
        self.0.iter_mut().find_map(|place| place.take_if(is_right))
    }
}

/// Read-only pages of memory.
#[derive(Debug)]
pub(crate) struct Pages {
    /// Not there any more when it is dropped.
    map: Option<Mmap>,
    may_wait: bool,
}

impl Pages {
    /// Pages that are unmapped in the end: of a file, or in pieces.
    pub(crate) fn once(map: Mmap) -> Self {
        Self { map: Some(map), may_wait: false }
    }

    /// Anonymous pages, all of which are there.
    pub(crate) fn again(map: Mmap) -> Self {
        Self { map: Some(map), may_wait: true }
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let Some(map) = self.map.take().filter(|map| self.may_wait && map.len() <= MAX_LENGTH)
        else {
            return;
        };
        let Ok(map) = map.make_mut() else { return };
        if let Ok(mut waiting) = WAITING.try_lock() {
            waiting.keep(map);
        }
    }
}

/// Memory for so many bytes, if some waits of which not much more than that is wasted. Has what it had, but for what is behind
/// those bytes, which is zero.
pub(crate) fn take(length: usize) -> Option<MmapMut> {
    let mut map = WAITING.try_lock().ok()?.take(length)?;
    map[length..].fill(0);
    Some(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: usize = 777_000;

    fn filled(byte: u8) -> MmapMut {
        let mut map = MmapMut::map_anon(LENGTH).unwrap();
        map.fill(byte);
        map
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps memory")]
    fn what_waits_is_had_by_who_needs_about_as_much() {
        let mut waiting = Waiting([const { None }; COUNT]);
        assert!(waiting.take(LENGTH).is_none());
        waiting.keep(filled(7));
        assert!(waiting.take(LENGTH + 1).is_none());
        assert!(waiting.take(LENGTH / 2).is_none());
        assert_eq!(waiting.take(LENGTH - 5000).map(|map| (map[0], map.len())), Some((7, LENGTH)));
        assert!(waiting.take(LENGTH).is_none());
        // There is room for no more than a few, and those are the latest.
        (0..10).for_each(|byte| waiting.keep(filled(byte)));
        let found: Vec<u8> =
            std::iter::from_fn(|| waiting.take(LENGTH)).map(|map| map[0]).collect();
        assert_eq!(found, [6, 7, 8, 9]);
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps memory")]
    fn what_lies_behind_what_is_wanted_is_zero() {
        // Another test may have the lock, or the memory.
        for _ in 0..100 {
            drop(Pages::again(filled(7).make_read_only().unwrap()));
            if let Some(map) = take(LENGTH - 5000) {
                assert!(map[..LENGTH - 5000].iter().all(|byte| *byte == 7));
                assert!(map[LENGTH - 5000..].iter().all(|byte| *byte == 0));
                return;
            }
        }
        panic!("nothing waits");
    }
}
