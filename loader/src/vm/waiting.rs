//! Threads that wait in a shared memory until they are notified.
//!
//! One lock per memory orders waiting and notifying: whoever waits compares the value
//! and joins the queue of its address under it, so that no notification falls between
//! the two. Each thread sleeps on a condition of its own, and is woken in the order of
//! its arrival (threads proposal, "wait" and "notify").

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a thread looks whether it is to be interrupted, if it can be.
const PATIENCE: Duration = Duration::from_millis(5);

/// A thread that waits. `notified` changes under the lock of the queues.
#[derive(Debug, Default)]
struct Waiter {
    wake: Condvar,
    notified: std::sync::atomic::AtomicBool,
}

type Queues = HashMap<u64, VecDeque<Arc<Waiter>>>;

/// The threads that wait in a memory, by address.
#[derive(Debug, Default)]
pub(crate) struct Waiters(Mutex<Queues>);

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Woken,
    NotEqual,
    TimedOut,
    Interrupted,
}

impl Waiters {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        // Nothing that runs under the lock panics between two changes of the queues.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits at an address while `is_expected` holds for what is there, until
    /// notified, or until the time is over. `interrupted` is asked now and then.
    pub(crate) fn wait(
        &self,
        address: u64,
        is_expected: impl FnOnce() -> bool,
        timeout: Option<Duration>,
        interrupted: Option<&dyn Fn() -> bool>,
    ) -> Outcome {
        use std::sync::atomic::Ordering::Relaxed;
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut queues = self.lock();
        if !is_expected() {
            return Outcome::NotEqual;
        }
        let waiter = Arc::new(Waiter::default());
        queues.entry(address).or_default().push_back(Arc::clone(&waiter));
        let outcome = loop {
            if waiter.notified.load(Relaxed) {
                // Whoever notified has taken the waiter off the queue.
                return Outcome::Woken;
            }
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                break Outcome::TimedOut;
            }
            if interrupted.is_some_and(|interrupted| interrupted()) {
                break Outcome::Interrupted;
            }
            let sleep = match interrupted {
                Some(_) => Some(left.unwrap_or(PATIENCE).min(PATIENCE)),
                None => left,
            };
            queues = match sleep {
                Some(sleep) => {
                    let slept = waiter.wake.wait_timeout(queues, sleep);
                    slept.unwrap_or_else(PoisonError::into_inner).0
                }
                None => waiter.wake.wait(queues).unwrap_or_else(PoisonError::into_inner),
            };
        };
        if let Some(queue) = queues.get_mut(&address) {
            queue.retain(|other| !Arc::ptr_eq(other, &waiter));
            if queue.is_empty() {
                queues.remove(&address);
            }
        }
        outcome
    }

    /// Wakes up to `count` threads that wait at an address; returns how many.
    pub(crate) fn notify(&self, address: u64, count: u32) -> u32 {
        let mut queues = self.lock();
        let Some(queue) = queues.get_mut(&address) else { return 0 };
        let mut woken = 0;
        while woken < count
            && let Some(waiter) = queue.pop_front()
        {
            waiter.notified.store(true, std::sync::atomic::Ordering::Relaxed);
            waiter.wake.notify_one();
            woken += 1;
        }
        if queue.is_empty() {
            queues.remove(&address);
        }
        woken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_by_what_happens_first() {
        let waiters = Waiters::default();
        let brief = Some(Duration::from_millis(1));
        assert_eq!(waiters.wait(0, || false, None, None), Outcome::NotEqual);
        assert_eq!(waiters.wait(0, || true, brief, None), Outcome::TimedOut);
        assert_eq!(waiters.wait(0, || true, Some(Duration::ZERO), None), Outcome::TimedOut);
        assert_eq!(waiters.wait(0, || true, None, Some(&|| true)), Outcome::Interrupted);
        assert!(waiters.lock().is_empty(), "nobody waits any more");
        assert_eq!(waiters.notify(0, u32::MAX), 0);
    }

    #[test]
    fn threads_are_woken_in_the_order_of_their_arrival() {
        let waiters = Waiters::default();
        let order = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for number in 0..3 {
                let (waiters, order) = (&waiters, &order);
                scope.spawn(move || {
                    assert_eq!(waiters.wait(8, || true, None, None), Outcome::Woken);
                    order.lock().unwrap().push(number);
                });
                while waiters.lock().get(&8).map_or(0, VecDeque::len) <= number {
                    std::thread::yield_now();
                }
            }
            assert_eq!(waiters.notify(16, 1), 0);
            for number in 0..3 {
                assert_eq!(waiters.notify(8, 1), 1);
                while order.lock().unwrap().len() <= number {
                    std::thread::yield_now();
                }
            }
        });
        assert_eq!(order.into_inner().unwrap(), [0, 1, 2]);
        assert!(waiters.lock().is_empty());
    }
}
