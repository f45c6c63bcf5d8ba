//! Work that is done by several threads, in an order: a thread that is done with a piece takes the first that none has taken.
//!
//! With the largest pieces first, all threads are done at nearly the same time. Where a list is cut
//! into halves for them instead, the last piece may be any.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Does the work for each piece, on the threads of the current pool. The results are in the order of the pieces.
pub(crate) fn in_turn<P: Sync, R: Send>(pieces: &[P], work: impl Fn(&P) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let done = rayon::broadcast(|_| {
        let mut done = Vec::new();
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some(piece) = pieces.get(place) else { return done };
            done.push((place, work(piece)));
        }
    });
    let mut results: Vec<(usize, R)> = done.into_iter().flatten().collect();
    results.sort_unstable_by_key(|(place, _)| *place);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::in_turn;

    #[test]
    fn every_piece_is_done_once_and_results_are_in_order() {
        let pieces: Vec<usize> = (0..1000).collect();
        for threads in [1, 2, 7] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let results = pool.install(|| in_turn(&pieces, |piece| piece * 2));
            assert!(results.iter().copied().eq(pieces.iter().map(|piece| piece * 2)));
            assert_eq!(pool.install(|| in_turn(&[0; 0], |piece: &i32| *piece)), []);
        }
    }
}
