//! A fixed set of generated modules, the same in every run; or, for as long as
//! `CWASM_FUZZ_SECONDS` says, modules that nobody has seen before.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use cwasm_differential::{Covered, check};

/// How many modules. `CWASM_SEEDS` asks for more.
const MODULES: u64 = 2000;

/// Room for the recursion of the generator and of the interpreter.
const STACK: usize = 256 << 20;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn generated_modules_do_the_same_in_both_engines() {
    let end = number("CWASM_FUZZ_SECONDS").map(|time| Instant::now() + Duration::from_secs(time));
    let first = match end {
        Some(_) => SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs() << 24),
        None => 0,
    };
    let last = match end {
        Some(_) => u64::MAX,
        None => number("CWASM_SEEDS").unwrap_or(MODULES),
    };
    let next = AtomicU64::new(first);
    let result = Mutex::new((Covered::default(), Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let thread = std::thread::Builder::new().stack_size(STACK);
            let work = || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= last || end.is_some_and(|end| Instant::now() >= end) {
                        break;
                    }
                    let outcome = check(seed);
                    let mut result = result.lock().unwrap();
                    match outcome {
                        Ok(covered) => result.0.add(covered),
                        Err(difference) => result.1.push(difference),
                    }
                }
            };
            thread.spawn_scoped(scope, work).unwrap();
        }
    });
    let (covered, differences) = result.into_inner().unwrap();
    println!("{covered:?}");
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
    // Most of what is generated must be worth comparing.
    assert!(covered.modules > 20 * covered.inconclusive, "{covered:?}");
    assert!(covered.calls > 2 * covered.modules, "{covered:?}");
    let traps: usize = covered.traps.values().sum();
    assert!(covered.calls > 2 * traps, "{covered:?}");
}
