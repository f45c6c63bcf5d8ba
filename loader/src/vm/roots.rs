//! The references to objects that the host holds.
//!
//! A handle names an entry of a table by its place and by a number that no other handle of the store has, so a handle whose entry is
//! gone or was used again is noticed. What the entries lead to is kept by collections.
//!
//! A handle that a host function receives or makes ends with its call: each call remembers how many entries there were, and takes away what was added. Without
//! entries, that is two loads and a comparison. Handles that are kept, and those that were made while no host function
//! runs, are there until they are released.
//!
//! Whoever borrows the store receives handles, also if the borrow is shared. So the table has a lock, which nothing but handles of objects takes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Marks the place of a handle that is kept.
const KEPT: u32 = 1 << 31;

/// Names an entry. Means something in its store only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handle {
    pub(crate) serial: u64,
    pub(crate) place: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    raw: usize,
    /// Zero, if there is none.
    serial: u64,
    /// Whether it ends with a call of wasm to the host.
    in_call: bool,
}

/// The references of a store's handles.
#[derive(Debug, Default)]
pub(crate) struct Roots {
    /// How many entries are scoped. Each call of a host function reads it twice, without the lock.
    scoped: AtomicUsize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// Those that end with calls, in the order of the calls.
    scoped: Vec<Entry>,
    /// Places among `scoped` that were released, of entries that end with no call.
    free: Vec<u32>,
    kept: Vec<Entry>,
    free_kept: Vec<u32>,
    /// How many handles there were.
    serials: u64,
}

/// Where the entries of a host function's call begin.
#[derive(Clone, Copy, Debug)]
#[must_use = "the entries of a call are to end with it"]
pub(crate) struct Scope(usize);

impl Roots {
    fn lock(&self) -> MutexGuard<'_, Table> {
        // Every change is complete before anything can panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&mut self) -> &mut Table {
        self.table.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// A handle of an object, for as long as the host function runs that runs now. `in_call` says whether one does that wasm has called.
    pub(crate) fn add(&self, raw: usize, in_call: bool) -> Handle {
        let mut table = self.lock();
        let handle = table.add(raw, in_call);
        self.scoped.store(table.scoped.len(), Ordering::Relaxed);
        handle
    }

    /// The object of a handle that has not ended.
    pub(crate) fn get(&self, handle: Handle) -> Option<usize> {
        self.lock().entry(handle).map(|entry| entry.raw)
    }

    /// Another handle of the same object, until it is released.
    pub(crate) fn keep(&mut self, handle: Handle) -> Option<Handle> {
        let table = self.table();
        let raw = table.entry(handle)?.raw;
        let entry = Entry { raw, serial: table.serial(), in_call: false };
        let place = match table.free_kept.pop() {
            Some(place) => {
                table.kept[place as usize] = entry;
                place
            }
            None => {
                table.kept.push(entry);
                index(table.kept.len() - 1)
            }
        };
        Some(Handle { serial: entry.serial, place: place | KEPT })
    }

    /// Ends a handle. Whether it had not ended.
    pub(crate) fn release(&mut self, handle: Handle) -> bool {
        let table = self.table();
        let Some(entry) = table.entry(handle) else { return false };
        let in_call = entry.in_call;
        *entry = Entry { in_call, ..Entry::default() };
        let place = handle.place & !KEPT;
        if handle.place & KEPT != 0 {
            table.free_kept.push(place);
        } else if !in_call {
            table.free.push(place);
        }
        while table.scoped.pop_if(|last| last.in_call && last.serial == 0).is_some() {}
        *self.scoped.get_mut() = self.table().scoped.len();
        true
    }

    /// Ends all handles that are not kept. No host function runs.
    pub(crate) fn release_all(&mut self) {
        let table = self.table();
        table.scoped.clear();
        table.free.clear();
        *self.scoped.get_mut() = 0;
    }

    /// A host function begins.
    #[inline(always)]
    pub(crate) fn begin(&mut self) -> Scope {
        Scope(*self.scoped.get_mut())
    }

    /// It has ended. Calls end in the reverse order of their beginnings.
    #[inline(always)]
    pub(crate) fn end(&mut self, scope: Scope) {
        if *self.scoped.get_mut() != scope.0 {
            self.end_at(scope.0);
        }
    }

    #[cold]
    fn end_at(&mut self, base: usize) {
        let table = self.table();
        table.scoped.truncate(base);
        let length = table.scoped.len();
        table.free.retain(|place| (*place as usize) < length);
        *self.scoped.get_mut() = length;
    }

    /// The objects of all handles.
    pub(crate) fn all(&mut self) -> impl Iterator<Item = usize> {
        let table = self.table();
        table.scoped.iter().chain(&table.kept).map(|entry| entry.raw)
    }
}

impl Table {
    fn serial(&mut self) -> u64 {
        self.serials += 1;
        self.serials
    }

    fn add(&mut self, raw: usize, in_call: bool) -> Handle {
        let entry = Entry { raw, serial: self.serial(), in_call };
        // What ends with a call is not put among the entries of outer ones.
        let place = if in_call { None } else { self.free.pop() };
        let place = match place {
            Some(place) => {
                self.scoped[place as usize] = entry;
                place
            }
            None => {
                self.scoped.push(entry);
                index(self.scoped.len() - 1)
            }
        };
        Handle { serial: entry.serial, place }
    }

    fn entry(&mut self, handle: Handle) -> Option<&mut Entry> {
        let all = if handle.place & KEPT == 0 { &mut self.scoped } else { &mut self.kept };
        let entry = all.get_mut((handle.place & !KEPT) as usize)?;
        (entry.serial == handle.serial).then_some(entry)
    }
}

/// A place. Of so many entries that it has too many bits, the last are nobody's.
fn index(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX) & !KEPT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(roots: &mut Roots) -> Vec<usize> {
        roots.all().filter(|raw| *raw != 0).collect()
    }

    #[test]
    fn handles_end_with_the_call_that_made_them() {
        let mut roots = Roots::default();
        let outer = roots.begin();
        let (a, b) = (roots.add(8, true), roots.add(16, true));
        let inner = roots.begin();
        let c = roots.add(24, true);
        assert_eq!([a, b, c].map(|handle| roots.get(handle)), [Some(8), Some(16), Some(24)]);
        roots.end(inner);
        assert_eq!([a, b, c].map(|handle| roots.get(handle)), [Some(8), Some(16), None]);
        let again = roots.begin();
        let d = roots.add(32, true);
        assert_eq!((c.place, roots.get(c), roots.get(d)), (d.place, None, Some(32)));
        roots.end(again);
        assert_eq!(all(&mut roots), [8, 16]);
        roots.end(outer);
        assert_eq!(all(&mut roots), [0; 0]);
        assert!([a, b, c, d].iter().all(|handle| roots.get(*handle).is_none()));
    }

    #[test]
    fn what_is_kept_lives_until_it_is_released() {
        let mut roots = Roots::default();
        let scope = roots.begin();
        let one = roots.add(8, true);
        let kept = roots.keep(one).unwrap();
        roots.end(scope);
        assert_eq!((roots.get(one), roots.get(kept)), (None, Some(8)));
        assert_eq!(roots.keep(one), None);
        let twice = roots.keep(kept).unwrap();
        assert!(roots.release(kept) && !roots.release(kept) && !roots.release(one));
        assert_eq!((roots.get(kept), roots.get(twice)), (None, Some(8)));
        let other = roots.add(16, false);
        let other = roots.keep(other).unwrap();
        assert_eq!((other.place, roots.get(kept)), (kept.place, None));
        roots.release_all();
        assert_eq!(all(&mut roots), [16, 8]);
    }

    #[test]
    fn places_outside_of_calls_are_used_again() {
        let mut roots = Roots::default();
        let mut last = roots.add(8, false);
        for raw in 1..100 {
            let next = roots.add(raw * 8, false);
            // A host function receives one meanwhile.
            let scope = roots.begin();
            let inner = roots.add(4000, true);
            assert!(roots.release(last));
            roots.end(scope);
            assert_eq!(roots.get(inner), None);
            // This time, without.
            assert!(!roots.release(last));
            last = next;
        }
        assert_eq!(roots.table().scoped.len(), 2);
        assert_eq!(roots.get(last), Some(99 * 8));
    }

    #[test]
    fn a_call_that_begins_without_entries_takes_away_all() {
        let mut roots = Roots::default();
        let outer = roots.begin();
        let inner = roots.begin();
        let one = roots.add(8, true);
        let two = roots.add(16, true);
        assert!(roots.release(one));
        let nested = roots.begin();
        let three = roots.add(24, true);
        assert!(roots.release(three));
        let four = roots.add(32, true);
        assert_eq!(four.place, three.place);
        roots.end(nested);
        assert_eq!(roots.get(two), Some(16));
        roots.end(inner);
        roots.end(outer);
        assert_eq!(all(&mut roots), [0; 0]);
        assert!(roots.table().scoped.is_empty() && roots.table().free.is_empty());
    }
}
