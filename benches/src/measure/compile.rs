//! Compilation: time, memory, growth with the size of a module; size of what comes out.

use std::fs;

use crate::child;
use crate::clock::{Clock, Samples, alternate};
use crate::corpus::{self, Program};
use crate::engines::{Allocator, Cpu, settings, wasmtime};
use crate::report::{Report, Row, Unit};
use crate::{Options, Result};

/// Compiled in quick mode, in place of the whole corpus.
const FEW: [&str; 5] = ["bz2", "pulldown-cmark", "shootout-ed25519", "shootout-fib2", "quicksort"];

pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let programs: Vec<Program> = corpus::programs()
        .into_iter()
        .filter(|program| !options.quick || FEW.contains(&program.name.as_str()))
        .collect();
    if programs.is_empty() {
        report.note("compile: skipped, there are no sightglass programs; set CWASM_CORPORA");
    } else {
        corpus_rows(options, report, &programs)?;
    }
    growth(options, report)
}

fn corpus_rows(options: &Options, report: &mut Report, programs: &[Program]) -> Result<()> {
    let engine = wasmtime(Cpu::Native, Allocator::OnDemand)?;
    let ours = settings(Cpu::Native);
    let (mut walls, mut cpus, mut sizes, mut memory) = (vec![], vec![], vec![], vec![]);
    for Program { name, path, wasm } in programs {
        let artifact = match cwasm_compiler::compile(wasm, &ours) {
            Ok(artifact) => artifact,
            Err(error) => {
                report.note(format!("compile {name}: skipped, {error}"));
                continue;
            }
        };
        let module = engine.precompile_module(wasm)?;
        sizes.push(Row::bytes(format!("size {name}"), artifact.len() as f64, module.len() as f64));
        let rounds = if wasm.len() > 1 << 20 { options.rounds(5) } else { options.rounds(9) };
        let (mut a, mut b) = (Samples::default(), Samples::default());
        let wall = alternate(
            rounds,
            || {
                let cpu = Clock::Process.now();
                let (time, result) = Clock::Wall.time(|| cwasm_compiler::compile(wasm, &ours));
                result?;
                a.0.push(Clock::Process.now() - cpu);
                Ok(time)
            },
            || {
                let cpu = Clock::Process.now();
                let (time, result) = Clock::Wall.time(|| engine.precompile_module(wasm));
                result?;
                b.0.push(Clock::Process.now() - cpu);
                Ok(time)
            },
        )?;
        walls.push(Row::seconds(format!("compile {name}, wall"), &wall));
        cpus.push(Row::seconds(format!("compile {name}, CPU"), &(a, b)));
        let path = path.to_string_lossy();
        let peak = |side: &str| -> Result<Samples> {
            let one = || Ok(child::run(&[side, &path])?.memory);
            Ok(Samples((0..options.rounds(3).min(3)).map(|_| one()).collect::<Result<_>>()?))
        };
        memory.push(Row::new(
            format!("compile {name}, peak memory"),
            Unit::Bytes,
            &peak("compile-ours")?,
            &peak("compile-theirs")?,
        ));
    }
    let count = walls.len();
    for (rows, what, bar) in [
        (walls, "compile, wall", Some(0.8)),
        (cpus, "compile, CPU", None),
        (memory, "compile, peak memory", Some(0.9)),
        (sizes, "artifact size", Some(0.8)),
    ] {
        let mean = Row::mean(format!("{what}: {count} programs"), &rows);
        // The mean does not show what is far worse than the others.
        let worst = rows.iter().map(|row| row.ratio).fold(0.0, f64::max);
        let worth_naming = |row: &Row| {
            let is_known = FEW[..3].iter().any(|name| row.what.contains(name));
            options.detail || is_known || row.ratio >= worst
        };
        rows.iter().filter(|row| worth_naming(row)).for_each(|row| report.add(row.clone()));
        report.add(match bar {
            Some(bar) => mean.bar(bar),
            None => mean,
        });
    }
    Ok(())
}

/// How CPU time and memory grow with the number of functions.
fn growth(options: &Options, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let counts: &[usize] = if options.quick { &[500, 4000] } else { &[500, 4000, 32_000] };
    for count in counts {
        let path = folder.path().join(format!("{count}.wasm"));
        fs::write(&path, corpus::synthetic(*count, 0)?)?;
        let path = path.to_string_lossy();
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for _ in 0..options.rounds(3).min(3) {
            a.push(child::run(&["compile-ours", &path])?);
            b.push(child::run(&["compile-theirs", &path])?);
        }
        let pick = |get: fn(&child::Figures) -> f64| {
            (Samples(a.iter().map(get).collect()), Samples(b.iter().map(get).collect()))
        };
        report.add(Row::seconds(format!("compile {count} functions, CPU"), &pick(|f| f.cpu)));
        let (ours, theirs) = pick(|f| f.memory);
        let what = format!("compile {count} functions, peak memory");
        report.add(Row::new(what, Unit::Bytes, &ours, &theirs));
    }
    Ok(())
}
