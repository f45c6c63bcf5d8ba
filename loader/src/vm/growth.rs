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
//! A fault with what it does takes as long as some five such system calls. Most programs touch at once what they grow by, and [`Growth`] finds out which do.
//! A memory's first growths are done at once. The next is left late, and so are all after it until late pages are touched. If those were
//! enough to be worth the fault, it goes on like that. If not, growths are done at once, and after a number of them, which doubles each
//! time, one is left late again. So a program that touches whatever it grows by has a fault in 16 growths at first, and in
//! 256 later, and one that does not touch it pays for no more than its first growths.
//!
//! Only memories of one store that are guarded and never move have late pages: others have nobody who alone uses them, or
//! code that does not expect faults. And only if faults arrive where they should ([`sys::catches_faults`]), and if the system
//! will not refuse the pages later ([`sys::promises_pages`]): `memory.grow` has to say so, and a touch has no way to. If it
//! does all the same, the call ends with an error.

use crate::sys;

/// How many growths of a memory are done at once before one is left late. Most programs grow a few times and touch all of it: they
/// are to have no fault at all.
const FIRST: u8 = 3;

/// How many are done at once after late pages were touched too soon, the first time. With 7, to grow by a page and to write to it takes
/// 1.12 of what it did, with 15 1.06, with 31 1.03 if it is always the same number, and less than 1.01 as it doubles.
const PAUSE: u8 = 15;

/// How many growths that are left late are worth a fault. It takes 3.2 us altogether, and a growth at once 0.66.
const WORTH: u8 = 5;

/// How a memory grows.
#[derive(Debug)]
pub(super) struct Growth {
    /// How many growths are done at once before one is left late.
    at_once: u8,
    /// How many are if late pages are touched too soon.
    pause: u8,
    /// How many were left late without a touch in between, at most [`WORTH`].
    left: u8,
}

impl Growth {
    pub(super) fn new() -> Self {
        Self { at_once: FIRST, pause: PAUSE, left: 0 }
    }

    /// Whether to leave the growth late that is about to happen to a memory, which has late pages or has not.
    #[inline]
    pub(super) fn leave(&mut self, is_late: bool) -> bool {
        self.decide(is_late, || sys::promises_pages() && sys::catches_faults())
    }

    #[inline]
    fn decide(&mut self, is_late: bool, is_possible: impl FnOnce() -> bool) -> bool {
        // Nobody has touched anything since the last.
        let leave = is_late || self.begin(is_possible);
        if leave {
            self.left = WORTH.min(self.left + 1);
        }
        leave
    }

    /// Whether to leave a growth late where nothing is.
    fn begin(&mut self, is_possible: impl FnOnce() -> bool) -> bool {
        match std::mem::take(&mut self.left) {
            0 => {}
            WORTH.. => self.pause = PAUSE,
            _ => {
                self.at_once = self.pause;
                self.pause = self.pause.saturating_mul(2).saturating_add(1);
            }
        }
        if let Some(rest) = self.at_once.checked_sub(1) {
            self.at_once = rest;
            return false;
        }
        let is_possible = is_possible();
        if !is_possible {
            // To ask costs something, too.
            self.at_once = PAUSE;
        }
        is_possible
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of so many growths are left late, if each is touched before the next.
    fn left_if_touched(growth: &mut Growth, count: usize) -> Vec<usize> {
        (0..count).filter(|_| growth.decide(false, || true)).collect()
    }

    #[test]
    fn few_growths_are_left_late_if_all_are_touched() {
        let left = left_if_touched(&mut Growth::new(), 1100);
        assert_eq!(left, [3, 19, 51, 115, 243, 499, 755, 1011]);
    }

    #[test]
    fn all_growths_are_left_late_until_they_are_touched() {
        for more in [0, 1, 3, 4, 100, 1000] {
            let mut growth = Growth::new();
            assert_eq!(left_if_touched(&mut growth, 4), [3]);
            assert!((0..more).all(|_| growth.decide(true, || false)));
            // Touched now: it was worth it, or it was not.
            let pause = if more < 4 { 15 } else { 0 };
            assert_eq!(left_if_touched(&mut growth, pause + 1), [pause], "{more}");
            let pause = if more < 4 { 31 } else { 15 };
            assert_eq!(left_if_touched(&mut growth, pause + 1), [pause], "{more}");
        }
    }

    #[test]
    fn what_was_worth_it_makes_pauses_short_again() {
        let mut growth = Growth::new();
        assert_eq!(left_if_touched(&mut growth, 500).last(), Some(&499));
        assert!((0..4).all(|_| growth.decide(true, || true)));
        assert_eq!(left_if_touched(&mut growth, 20), [0, 16]);
    }

    #[test]
    fn what_is_not_possible_is_asked_for_again_much_later() {
        let mut growth = Growth::new();
        let mut asked = Vec::new();
        for number in 0..40 {
            let left = growth.decide(false, || {
                asked.push(number);
                false
            });
            assert!(!left);
        }
        assert_eq!(asked, [3, 19, 35]);
    }
}
