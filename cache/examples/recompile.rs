//! How much faster is a module compiled again after a change in one function?
//!
//!     cargo run --release -p cwasm-cache --example recompile -- MODULE.wasm
//!
//! Prints the times, and the ratio to a full compilation.

use std::time::{Duration, Instant};

use cwasm_cache::{Cache, Options};
use cwasm_compiler::{Settings, compile};

#[path = "../tests/support/edit.rs"]
mod edit;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("name a module")?;
    let wasm = std::fs::read(path)?;
    let settings = Settings::default();
    let folder = tempfile::tempdir()?;
    let mut full = Duration::MAX;
    let mut again = Duration::MAX;
    let mut changed = wasm.clone();
    let cache: Cache = Options::default().open(folder.path().join("cache"))?;
    cache.get_or_compile(&wasm, &settings)?;
    let first = cache.statistics();
    for round in 0..5 {
        // Every round changes it to something that the cache has not seen.
        changed = edit::change_one_function(&changed);
        if round % 2 == 1 {
            changed.extend_from_slice(&[0, 2, 1, b'0' + round]);
        }
        let start = Instant::now();
        let bytes = compile(&changed, &settings)?;
        full = full.min(start.elapsed());
        let start = Instant::now();
        let artifact = cache.get_or_compile(&changed, &settings)?;
        again = again.min(start.elapsed());
        assert_eq!(Some(artifact.digest()), cwasm_loader::Digest::stated_in(&bytes));
    }
    let all = cache.statistics();
    println!("wasm          {:>10} bytes", wasm.len());
    println!("functions     {:>10}", first.functions_compiled);
    println!(
        "compiled      {:>10} of them in 5 changes",
        all.functions_compiled - first.functions_compiled
    );
    println!("full          {:>10.1} ms (compiled, not written or loaded)", ms(full));
    println!("after change  {:>10.1} ms (compiled, written and loaded)", ms(again));
    println!("ratio         {:>10.3}", again.as_secs_f64() / full.as_secs_f64());
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
