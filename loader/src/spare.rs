//! The pages of a snapshot, and what becomes of them when the last share of it ends.
//!
//! Fresh pages are most of what it costs to load a small artifact. So the memory of a few small ones waits for the next. It is
//! writable then, and not executable: whoever had an address of its code would fault, as if it were unmapped. Nobody waits for the
//! list's lock.

use std::ops::Deref;
use std::sync::Mutex;

use memmap2::{Mmap, MmapMut};

/// The size of a large page. To have one is much cheaper than to have as much memory in small ones.
pub(crate) const HUGE_PAGE: usize = 2 << 20;

/// How many wait.
const COUNT: usize = 4;

/// How many bytes wait, in all of them. It is the process that pays for what waits.
const ROOM: usize = 4 << 20;

static WAITING: Mutex<Waiting> = Mutex::new(Waiting(Vec::new()));

/// What waits, the oldest first.
struct Waiting(Vec<MmapMut>);

impl Waiting {
    fn keep(&mut self, map: MmapMut) {
        if map.len() > ROOM {
            return;
        }
        // If there is no room, the oldest have none any more.
        while self.0.len() == COUNT || self.bytes() + map.len() > ROOM {
            self.0.remove(0);
        }
        self.0.push(map);
    }

    fn take(&mut self, length: usize) -> Option<MmapMut> {
        let place = self.0.iter().position(|map| wastes_little(length, map.len()))?;
        Some(self.0.remove(place))
    }

    fn bytes(&self) -> usize {
        self.0.iter().map(|map| map.len()).sum()
    }
}

/// Whether so many bytes may have as much room as that. What ends with a large page may have more: that is cheaper than small ones.
pub(crate) fn wastes_little(bytes: usize, room: usize) -> bool {
    let most = match room.is_multiple_of(HUGE_PAGE) {
        true => (room / 8).max(HUGE_PAGE / 4),
        false => room / 8,
    };
    room.checked_sub(bytes).is_some_and(|rest| rest <= most)
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
        let Some(map) = self.map.take().filter(|map| self.may_wait && map.len() <= ROOM) else {
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
        let mut waiting = Waiting(Vec::new());
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
    fn what_waits_is_bounded_in_bytes() {
        let map = |bytes| MmapMut::map_anon(bytes).unwrap();
        let waiting = |lengths: &[usize]| {
            let mut waiting = Waiting(Vec::new());
            lengths.iter().for_each(|bytes| waiting.keep(map(*bytes)));
            waiting.0.iter().map(|map| map.len()).collect::<Vec<_>>()
        };
        let half = ROOM / 2;
        assert_eq!(waiting(&[half, half]), [half, half]);
        assert_eq!(waiting(&[1, half, 2, half]), [2, half]);
        assert_eq!(waiting(&[half, 1, 2, half - 3, 3]), [1, 2, half - 3, 3]);
        assert_eq!(waiting(&[1, 2, 3, ROOM]), [ROOM]);
        assert_eq!(waiting(&[1, 2, ROOM + 1]), [1, 2]);
        assert_eq!(waiting(&[1, 2, 3, 4, 5]), [2, 3, 4, 5]);
    }

    #[test]
    fn an_eighth_may_be_wasted_and_more_of_a_large_page() {
        assert!(wastes_little(7000, 8000) && !wastes_little(6999, 8000));
        assert!(!wastes_little(8001, 8000));
        assert!(wastes_little(HUGE_PAGE * 3 / 4, HUGE_PAGE));
        assert!(!wastes_little(HUGE_PAGE * 3 / 4 - 1, HUGE_PAGE));
        assert!(wastes_little(HUGE_PAGE * 14, HUGE_PAGE * 16));
        assert!(!wastes_little(HUGE_PAGE * 14 - 1, HUGE_PAGE * 16));
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps memory")]
    fn what_is_longer_than_one_of_the_others_waits_as_well() {
        let length = ROOM - (64 << 10);
        for _ in 0..100 {
            let map = MmapMut::map_anon(length).unwrap();
            drop(Pages::again(map.make_read_only().unwrap()));
            if take(length).is_some() {
                return;
            }
        }
        panic!("nothing waits");
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
