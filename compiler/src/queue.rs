//! Work that is done by several threads, in an order: a thread that is done with a piece takes the first that none has taken.
//!
//! With the largest pieces first, all threads are done at nearly the same time. Where a list is cut
//! into halves for them instead, the last piece may be any.
//!
//! The thread that asks is one of them: it begins at once, with the largest piece, while the others start, which takes some 100 us, as it does
//! to wake threads that wait for work. For the same reason, nobody waits until threads have ended that have done their work.

use std::any::Any;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

/// The stack of a thread that is started: far more than anything that was tried has needed, for what a future code generator may
/// do. Only what is used of it takes memory.
const STACK: usize = 16 << 20;

/// The thread that asks does with its own stack if it has this much left. Neither translation nor the code generator goes down into expressions by
/// calls (`compiler/tests/stacks.rs`), and all shapes and programs that are tested are compiled with a quarter of this, without optimisation of the
/// compiler, too. To map another stack and to unmap it takes 100 us while other threads run.
const ENOUGH: usize = 1 << 20;

/// How many threads can run at once, as far as the system says. To ask it takes a dozen system calls.
fn processors() -> usize {
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    *PROCESSORS.get_or_init(|| thread::available_parallelism().map_or(1, usize::from))
}

/// Does the work for each piece, on at most so many threads, or as many as there are processors if that is 0. The results are in the order of the
/// pieces. Each thread but the one that asks calls `leave` when there are no more.
///
/// # Errors
/// If a thread cannot be started.
///
/// # Panics
/// If the work does, for a piece.
pub(crate) fn in_turn<P: Sync, R: Send>(
    threads: usize,
    pieces: &[P],
    work: impl Fn(&P) -> R + Sync,
    leave: impl Fn() + Sync,
) -> io::Result<Vec<R>> {
    let threads = match threads {
        0 => processors(),
        threads => threads,
    };
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, R)>> = Mutex::new(Vec::with_capacity(pieces.len()));
    let panicked: Mutex<Option<Box<dyn Any + Send>>> = Mutex::new(None);
    let take_turns = || {
        let mut mine = Vec::new();
        let ended = panic::catch_unwind(AssertUnwindSafe(|| {
            loop {
                let place = next.fetch_add(1, Ordering::Relaxed);
                let Some(piece) = pieces.get(place) else { break };
                mine.push((place, work(piece)));
            }
        }));
        if let Err(panic) = ended {
            // Nobody needs the rest.
            next.store(pieces.len(), Ordering::Relaxed);
            *panicked.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
        done.lock().unwrap_or_else(PoisonError::into_inner).append(&mut mine);
    };
    thread::scope(|scope| {
        let start = |number: usize| {
            thread::Builder::new()
                .name(format!("cwasm-compile-{number}"))
                .stack_size(STACK)
                .spawn_scoped(scope, || {
                    take_turns();
                    leave();
                })
                .map(drop)
        };
        let ready = (1..threads.min(pieces.len())).try_for_each(start).and_then(|()| has_stack());
        match ready {
            Ok(()) => stacker::maybe_grow(ENOUGH, STACK, take_turns),
            // Those that did start have nothing more to do.
            Err(_) => next.store(pieces.len(), Ordering::Relaxed),
        }
        ready
    })?;
    if let Some(panic) = panicked.into_inner().unwrap_or_else(PoisonError::into_inner) {
        panic::resume_unwind(panic);
    }
    let mut results = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_unstable_by_key(|(place, _)| *place);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

/// Whether this thread has so much stack, or can have it: whoever has asked may have less, and it is no error to `stacker` if there is none,
/// but a panic.
fn has_stack() -> io::Result<()> {
    if stacker::remaining_stack().is_some_and(|left| left >= ENOUGH) {
        return Ok(());
    }
    let mut room: Vec<u8> = Vec::new();
    let found = room.try_reserve_exact(STACK);
    // Otherwise, what is not used need not be asked for.
    std::hint::black_box(room.as_ptr());
    found.map_err(|_| io::ErrorKind::OutOfMemory.into())
}

#[cfg(test)]
mod tests {
    use super::in_turn;

    #[test]
    fn every_piece_is_done_once_and_results_are_in_order() {
        let pieces: Vec<usize> = (0..1000).collect();
        for threads in [0, 1, 2, 7] {
            let results = in_turn(threads, &pieces, |piece| piece * 2, || ()).unwrap();
            assert!(results.iter().copied().eq(pieces.iter().map(|piece| piece * 2)));
            assert_eq!(in_turn(threads, &[0; 0], |piece: &i32| *piece, || ()).unwrap(), []);
        }
    }

    #[test]
    fn a_panic_of_a_piece_is_the_callers() {
        let caught = std::panic::catch_unwind(|| {
            let fail = |piece: &i32| {
                if *piece == 2 {
                    std::panic::panic_any("two");
                }
            };
            in_turn(2, &[1, 2, 3], fail, || ())
        });
        assert_eq!(caught.unwrap_err().downcast_ref(), Some(&"two"));
    }
}
