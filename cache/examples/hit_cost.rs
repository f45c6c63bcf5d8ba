//! What does a hit cost, compared with loading the artifact?
//!
//!     cargo run --release -p cwasm-cache --example hit_cost -- MODULE.wasm...
//!
//! Prints ratios to `Artifact::load` of the same entry: of a hit for a module whose hash is known (`Wasm`), of a hit for
//! bytes, of the first such hit of a cache that was just opened, and of a hit in this process (`get_or_compile_shared`).

use std::time::{Duration, Instant};

use cwasm_cache::{Cache, Wasm};
use cwasm_compiler::Settings;
use cwasm_loader::{Artifact, CacheDir, Trust};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let settings = Settings::default();
    println!(
        "{:>10} {:>10} {:>9} {:>6} {:>6} {:>6} {:>6}  module",
        "wasm", "artifact", "load us", "hit", "bytes", "first", "shared"
    );
    for path in std::env::args().skip(1) {
        let wasm = std::fs::read(&path)?;
        let folder = tempfile::tempdir()?;
        let cache = Cache::open(folder.path().join("cache"))?;
        cache.get_or_compile(&wasm, &settings)?;
        let entry = cache.list()?.into_iter().find(|entry| entry.artifact).ok_or("no entry")?;
        let trust = Trust::cache(&CacheDir::open(cache.directory())?);
        let source = Wasm::new(&wasm);
        source.sha256();
        let shared = cache.get_or_compile_shared(&source, &settings)?;
        // All in turn, so that what disturbs one disturbs the others.
        let mut times = [Duration::MAX; 5];
        for _ in 0..200 {
            let [load, hit, bytes, first, again] = &mut times;
            best(load, || drop(Artifact::load(&entry.path, &trust)));
            best(hit, || drop(cache.get_or_compile(&source, &settings)));
            best(bytes, || drop(cache.get_or_compile(&wasm, &settings)));
            let opened = Cache::open(cache.directory())?;
            best(first, || drop(opened.get_or_compile(&wasm, &settings)));
            best(again, || drop(cache.get_or_compile_shared(&source, &settings)));
        }
        drop(shared);
        let [load, hit, bytes, first, again] = times.map(|time| time.as_secs_f64());
        println!(
            "{:>10} {:>10} {:>9.1} {:>6.3} {:>6.3} {:>6.3} {:>6.3}  {path}",
            wasm.len(),
            entry.bytes,
            load * 1e6,
            hit / load,
            bytes / load,
            first / load,
            again / load,
        );
    }
    Ok(())
}

fn best(best: &mut Duration, run: impl FnOnce()) {
    let start = Instant::now();
    run();
    *best = (*best).min(start.elapsed());
}
