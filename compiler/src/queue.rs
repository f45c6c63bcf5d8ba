//! Work that is done by several threads, in an order: a thread that is done with a piece takes the first that none has taken.
//!
//! With the largest pieces first, all threads are done at nearly the same time. Where a list is cut
//! into halves for them instead, the last piece may be any.
//!
//! The threads are there for one list of pieces. To start them takes no longer than to wake those that wait for work.

use std::io;
use std::panic;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// The stack of a thread. Translation does not recurse with the depth of the
/// wasm, but parts of the code generator recurse with that of expressions.
const STACK: usize = 16 << 20;

/// Does the work for each piece, on at most so many threads, or as many as there are processors if that is 0. The results are in the order of the
/// pieces.
///
/// # Errors
/// If a thread cannot be started.
pub(crate) fn in_turn<P: Sync, R: Send>(
    threads: usize,
    pieces: &[P],
    work: impl Fn(&P) -> R + Sync,
) -> io::Result<Vec<R>> {
    let threads = match threads {
        0 => thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let next = AtomicUsize::new(0);
    let take_turns = || {
        let mut done = Vec::new();
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some(piece) = pieces.get(place) else { return done };
            done.push((place, work(piece)));
        }
    };
    let done = thread::scope(|scope| {
        let start = |number: usize| {
            thread::Builder::new()
                .name(format!("cwasm-compile-{number}"))
                .stack_size(STACK)
                .spawn_scoped(scope, take_turns)
        };
        let started: io::Result<Vec<_>> = (0..threads.min(pieces.len())).map(start).collect();
        if started.is_err() {
            // Those that did start have nothing more to do.
            next.store(pieces.len(), Ordering::Relaxed);
        }
        started.map(|threads| threads.into_iter().map(|it| it.join()).collect::<Vec<_>>())
    })?;
    let mut results: Vec<(usize, R)> = Vec::with_capacity(pieces.len());
    for done in done {
        results.extend(done.unwrap_or_else(|panic| panic::resume_unwind(panic)));
    }
    results.sort_unstable_by_key(|(place, _)| *place);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    use super::in_turn;

    #[test]
    fn every_piece_is_done_once_and_results_are_in_order() {
        let pieces: Vec<usize> = (0..1000).collect();
        for threads in [0, 1, 2, 7] {
            let results = in_turn(threads, &pieces, |piece| piece * 2).unwrap();
            assert!(results.iter().copied().eq(pieces.iter().map(|piece| piece * 2)));
            assert_eq!(in_turn(threads, &[0; 0], |piece: &i32| *piece).unwrap(), []);
        }
    }

    #[test]
    fn a_panic_of_a_piece_is_the_callers() {
        let caught = std::panic::catch_unwind(|| {
            in_turn(2, &[1, 2, 3], |piece| {
                if *piece == 2 {
                    std::panic::panic_any("two");
                }
            })
        });
        assert_eq!(caught.unwrap_err().downcast_ref(), Some(&"two"));
    }
}
