//! Pages that a memory has grown by, and that become accessible when they are first touched.
//!
//! To make pages accessible is a system call, and nearly all of what `memory.grow` takes. A program that grows again and again
//! before it touches anything needs one for all of it. So a growth may be left *late*: it sets the memory's length, and the new pages stay
//! inaccessible. The first access of compiled code to one of them, be it a read or a write, faults, and the signal handler makes all
//! late pages of that memory accessible, by one system call. An access behind the length is a trap, as ever. Rust and the
//! kernel never fault: whoever in the loader touches bytes of a memory opens it first ([`super::memory`], [`super::bytes`]). How much is
//! accessible is kept in one place (`sys::Reservation`), which makes more accessible through a shared reference, too: several threads may read
//! a memory from the host at once.
//!
//! A fault costs more than the system call that it saves: 2 us against 0.5 to 0.8. Most programs touch at once what they grow by, and
//! [`Growth`] finds out which do. A memory's first growths are done at once. Of the next, one is left late, and
//! so are all after it until they are touched. If they are touched, [`AT_ONCE`] growths are done at once before another is left late. So a
//! program that touches what it has grown by pays for a fault in 16 growths, which is a tenth of a microsecond for each (each costs two or three, with the
//! faults of the kernel for the pages themselves), and one that does not pays for no more than the first growths.
//!
//! Only memories of one store that are guarded and never move have late pages: others have nobody who alone uses them, or
//! code that does not expect faults. And only if faults arrive where they should ([`sys::catches_faults`]), and if the system
//! will not refuse the pages later ([`sys::promises_pages`]): `memory.grow` has to say so, and a touch has no way to. If it
//! does all the same, the call ends with an error.

use crate::sys;

/// How many growths of a memory are done at once before one is left late. Most programs grow a few times and touch all of it: they
/// are to have no fault at all.
const FIRST: u8 = 3;

/// How many are done at once after late pages were touched.
const AT_ONCE: u8 = 15;

/// How a memory grows.
#[derive(Debug)]
pub(super) struct Growth {
    /// How many growths are done at once before one is left late.
    at_once: u8,
    /// Whether the last one was left late.
    was_left: bool,
}

impl Growth {
    pub(super) fn new() -> Self {
        Self { at_once: FIRST, was_left: false }
    }

    /// Whether to leave the growth late that is about to happen to a memory, which has late pages or has not.
    #[inline]
    pub(super) fn leave(&mut self, is_late: bool) -> bool {
        // Nobody has touched anything since the last.
        is_late || self.begin(|| sys::promises_pages() && sys::catches_faults())
    }

    /// The same where nothing is late.
    fn begin(&mut self, is_possible: impl FnOnce() -> bool) -> bool {
        if std::mem::take(&mut self.was_left) {
            self.at_once = AT_ONCE;
        }
        if let Some(left) = self.at_once.checked_sub(1) {
            self.at_once = left;
            return false;
        }
        self.was_left = is_possible();
        if !self.was_left {
            // To ask costs something, too.
            self.at_once = AT_ONCE;
        }
        self.was_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_growth_in_sixteen_is_left_late_if_that_is_touched() {
        let mut growth = Growth::new();
        let mut left =
            |count| -> Vec<usize> { (0..count).filter(|_| growth.begin(|| true)).collect() };
        assert_eq!(left(40), [3, 19, 35]);
    }

    #[test]
    fn all_growths_are_left_late_until_they_are_touched() {
        let mut growth = Growth::new();
        assert_eq!((0..4).filter(|_| growth.begin(|| true)).count(), 1);
        assert!((0..1000).all(|_| growth.leave(true)));
        assert_eq!((0..16).filter(|_| growth.begin(|| true)).count(), 1);
        assert!(growth.leave(true));
    }

    #[test]
    fn what_is_not_possible_is_asked_for_again_much_later() {
        let mut growth = Growth::new();
        let mut asked = Vec::new();
        for number in 0..40 {
            let left = growth.begin(|| {
                asked.push(number);
                false
            });
            assert!(!left);
        }
        assert_eq!(asked, [3, 19, 35]);
    }
}
