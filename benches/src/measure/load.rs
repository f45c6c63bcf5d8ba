//! Loading: checked, and against one pass of SHA-256 and against wasmtime's
//! unchecked mapping of a file; up to the first call; on many threads.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use cwasm_loader::{Artifact, Digest, Engine, Linker, Store, Trust};
use sha2::{Digest as _, Sha256};

use crate::clock::{Clock, Samples, alternate};
use crate::corpus;
use crate::engines::{Allocator, Cpu, settings, wasmtime};
use crate::report::{Report, Row, Unit};
use crate::{Options, Result};

/// A module in the formats of both sides, as files.
struct Files {
    ours: std::path::PathBuf,
    theirs: std::path::PathBuf,
    trust: Trust,
    length: usize,
}

impl Files {
    fn new(folder: &Path, wasm: &[u8], engine: &wasmtime::Engine) -> Result<Self> {
        let artifact = cwasm_compiler::compile(wasm, &settings(Cpu::Native))?;
        let (ours, theirs) = (folder.join("ours.cwasm"), folder.join("theirs.cwasm"));
        fs::write(&ours, &artifact)?;
        fs::write(&theirs, engine.precompile_module(wasm)?)?;
        let digest = Digest::stated_in(&artifact).ok_or("the compiler wrote no artifact")?;
        Ok(Self { ours, theirs, trust: Trust::digest(digest), length: artifact.len() })
    }

    fn load(&self) -> Result<Artifact> {
        Ok(Artifact::load(&self.ours, &self.trust)?)
    }

    fn load_lazily(&self) -> Result<Artifact> {
        Ok(Artifact::load_lazily(&self.ours, &self.trust)?)
    }

    fn load_theirs(&self, engine: &wasmtime::Engine) -> Result<wasmtime::Module> {
        // SAFETY: wasmtime wrote the file, and nobody else knows of it.
        Ok(unsafe { wasmtime::Module::deserialize_file(engine, &self.theirs) }?)
    }
}

pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let engine = wasmtime(Cpu::Native, Allocator::OnDemand)?;
    let folder = tempfile::tempdir()?;
    let sizes: &[(&str, usize, usize)] = if options.quick {
        &[("0.2 MB", 600, 0), ("2 MB", 6000, 0)]
    } else {
        // The largest is mostly data: to compile as much code takes minutes.
        &[("0.2 MB", 600, 0), ("2 MB", 6000, 0), ("150 MB", 6000, 148 << 20)]
    };
    for (name, functions, data) in sizes {
        let files = Files::new(folder.path(), &corpus::synthetic(*functions, *data)?, &engine)?;
        rows(options, report, name, &files, &engine)?;
    }
    let files = Files::new(folder.path(), &corpus::synthetic(600, 0)?, &engine)?;
    threads(options, report, &files, &engine)
}

fn rows(
    options: &Options,
    report: &mut Report,
    name: &str,
    files: &Files,
    engine: &wasmtime::Engine,
) -> Result<()> {
    let rounds = if files.length > 50 << 20 { options.rounds(5) } else { options.rounds(31) };
    let bytes = fs::read(&files.ours)?;

    // CPU time of the process is what other programs disturb least; but large artifacts
    // are hashed on several threads, which only wall time shows.
    for (clock, suffix) in [(Clock::Process, "CPU"), (Clock::Wall, "wall")] {
        let time = |load: &dyn Fn() -> Result<()>| {
            let (time, result) = clock.time(load);
            result.map(|()| time)
        };
        let pass = alternate(
            rounds,
            || time(&|| files.load().map(drop)),
            || {
                time(&|| {
                    std::hint::black_box(Sha256::digest(&bytes));
                    Ok(())
                })
            },
        )?;
        let what = format!("load {name}, checked, {suffix}");
        report.add(Row::seconds(&what, &pass).against("SHA-256").bar(1.1));
        let loads = alternate(
            rounds,
            || time(&|| files.load().map(drop)),
            || time(&|| files.load_theirs(engine).map(drop)),
        )?;
        report.add(Row::seconds(&what, &loads));
        let unchecked = alternate(
            rounds,
            || {
                time(&|| {
                    // SAFETY: the compiler wrote the file, and nobody else knows of it.
                    unsafe { Artifact::map_shared_unchecked(&*files.ours) }?;
                    Ok(())
                })
            },
            || time(&|| files.load_theirs(engine).map(drop)),
        )?;
        let what = format!("load {name}, unchecked, {suffix}");
        report.add(Row::seconds(what, &unchecked).bar(1.0));
    }

    let our_engine = Engine::default();
    let linker = Linker::new(&our_engine);
    for (what, export, lazily, bar) in [
        ("lazily, until first call returns", "first", true, Some(1.0)),
        ("lazily, until every function ran", "all", true, None),
        ("until first call returns", "first", false, None),
        ("until every function ran", "all", false, None),
    ] {
        let calls = alternate(
            rounds,
            || {
                let (time, result) = Clock::Process.time(|| -> Result<()> {
                    let artifact = if lazily { files.load_lazily()? } else { files.load()? };
                    let mut store = Store::new(&our_engine, ());
                    let instance = linker.instantiate(&mut store, &artifact)?;
                    Ok(instance.typed_func::<(), ()>(&store, export)?.call(&mut store, ())?)
                });
                result.map(|()| time)
            },
            || {
                let (time, result) = Clock::Process.time(|| -> Result<()> {
                    let module = files.load_theirs(engine)?;
                    let mut store = wasmtime::Store::new(engine, ());
                    let instance = wasmtime::Instance::new(&mut store, &module, &[])?;
                    let func = instance.get_typed_func::<(), ()>(&mut store, export)?;
                    Ok(func.call(&mut store, ())?)
                });
                result.map(|()| time)
            },
        )?;
        let row = Row::seconds(format!("load {name} {what}"), &calls);
        report.add(match bar {
            Some(bar) => row.bar(bar),
            None => row,
        });
    }
    Ok(())
}

/// Loads per second, by several threads at once.
fn threads(
    options: &Options,
    report: &mut Report,
    files: &Files,
    engine: &wasmtime::Engine,
) -> Result<()> {
    for count in [1, 2, 4] {
        let loads: u32 = if options.quick { 100 } else { 400 };
        let rate = |load: &(dyn Fn() -> bool + Sync)| {
            let left = AtomicU32::new(loads);
            let take = || {
                left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                    .is_ok()
            };
            let (time, ()) = Clock::Wall.time(|| {
                thread::scope(|scope| {
                    for _ in 0..count {
                        scope.spawn(|| {
                            while take() {
                                assert!(load());
                            }
                        });
                    }
                });
            });
            f64::from(loads) / time
        };
        let (mut a, mut b) = (Samples::default(), Samples::default());
        for _ in 0..options.rounds(7) {
            a.0.push(rate(&|| files.load().is_ok()));
            b.0.push(rate(&|| files.load_theirs(engine).is_ok()));
        }
        report.add(Row::new(format!("loads of 0.2 MB, {count} threads"), Unit::Rate, &a, &b));
    }
    Ok(())
}

/// Loads again and again, for a profiler to watch.
pub fn churn(functions: usize) -> Result<crate::child::Figures> {
    const TIMES: u32 = 5000;
    let engine = wasmtime(Cpu::Native, Allocator::OnDemand)?;
    let folder = tempfile::tempdir()?;
    let files = Files::new(folder.path(), &corpus::synthetic(functions, 0)?, &engine)?;
    let start = Clock::Thread.now();
    for _ in 0..TIMES {
        files.load()?;
    }
    let cpu = (Clock::Thread.now() - start) / f64::from(TIMES);
    Ok(crate::child::Figures { wall: 0.0, cpu, memory: files.length as f64 })
}

/// Loads lazily up to the first call again and again, for a profiler to watch. The files stay in `folder`.
pub fn churn_lazily(functions: usize, data: usize, folder: &Path) -> Result<crate::child::Figures> {
    const TIMES: u32 = 10_000;
    let engine = wasmtime(Cpu::Native, Allocator::OnDemand)?;
    let files = Files::new(folder, &corpus::synthetic(functions, data)?, &engine)?;
    let engine = Engine::default();
    let linker = Linker::new(&engine);
    let start = Clock::Thread.now();
    for _ in 0..TIMES {
        let artifact = files.load_lazily()?;
        let mut store = Store::new(&engine, ());
        let instance = linker.instantiate(&mut store, &artifact)?;
        instance.typed_func::<(), ()>(&store, "first")?.call(&mut store, ())?;
    }
    let cpu = (Clock::Thread.now() - start) / f64::from(TIMES);
    Ok(crate::child::Figures { wall: 0.0, cpu, memory: files.length as f64 })
}
