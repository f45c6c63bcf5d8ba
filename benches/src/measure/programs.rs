//! Generated code: real programs, timed between their calls of `bench.start` and
//! `bench.end`, with their output compared to what is expected.

use cwasm_loader::{Artifact, Engine, Linker, Store};

use crate::clock::{Clock, Samples};
use crate::corpus::{self, Program};
use crate::engines::{Allocator, Cpu, load, settings, wasmtime};
use crate::report::{Report, Row};
use crate::wasi::{self, Exit, Guest};
use crate::{Options, Result};

/// Run in quick mode.
const FEW: [&str; 16] = [
    "bz2",
    "pulldown-cmark",
    "quicksort",
    "richards",
    "regex",
    "rust-json",
    "shootout-base64",
    "shootout-ctype",
    "shootout-ed25519",
    "shootout-fib2",
    "shootout-heapsort",
    "shootout-keccak",
    "shootout-minicsv",
    "shootout-random",
    "shootout-sieve",
    "shootout-switch",
];

/// An interpreter, of which the corpus has none. It is not a part of the mean.
const INTERPRETER: &str = include_str!("../../kernels/interpreter.wat");

/// How long all runs of a program may take, in seconds.
const BUDGET: f64 = 12.0;
const QUICK_BUDGET: f64 = 2.0;

pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let programs: Vec<Program> = corpus::programs()
        .into_iter()
        .filter(|program| !options.quick || FEW.contains(&program.name.as_str()))
        .filter(|program| options.program.as_ref().is_none_or(|part| program.name.contains(part)))
        .collect();
    if corpus::programs().is_empty() {
        report.note("programs: skipped, there are no sightglass programs; set CWASM_CORPORA");
        return interpreter(options, report);
    }
    level(options, report, &programs, Cpu::Native)?;
    interpreter(options, report)?;
    if !options.quick {
        level(options, report, &programs, Cpu::Baseline)?;
    }
    Ok(())
}

fn interpreter(options: &Options, report: &mut Report) -> Result<()> {
    let name = "interpreter";
    if options.program.as_ref().is_some_and(|part| !name.contains(part)) {
        return Ok(());
    }
    let (path, wasm) = (name.into(), wat::parse_str(INTERPRETER)?);
    let program = Program { name: name.into(), path, wasm };
    let (ours, theirs) = Pair::new(&program, Cpu::Native)?.measure(options)?;
    report.add(Row::seconds(format!("run {name}, a kernel"), &(ours, theirs)).bar(1.05));
    Ok(())
}

fn level(options: &Options, report: &mut Report, programs: &[Program], cpu: Cpu) -> Result<()> {
    let suffix = match cpu {
        Cpu::Native => "",
        Cpu::Baseline => ", baseline CPU",
    };
    let mut rows = Vec::new();
    for program in programs {
        match Pair::new(program, cpu).and_then(|pair| pair.measure(options)) {
            Ok((ours, theirs)) => {
                let row = Row::seconds(format!("run {}{suffix}", program.name), &(ours, theirs));
                report.add(row.clone().bar(1.05));
                rows.push(row);
            }
            Err(error) => report.note(format!("run {}{suffix}: skipped, {error}", program.name)),
        }
    }
    let count = rows.len();
    if count > 0 {
        report.add(Row::mean(format!("generated code{suffix}: {count} programs"), &rows).bar(0.9));
    }
    Ok(())
}

/// A program compiled by both.
struct Pair<'p> {
    program: &'p Program,
    artifact: Artifact,
    engine: wasmtime::Engine,
    module: wasmtime::Module,
}

impl<'p> Pair<'p> {
    fn new(program: &'p Program, cpu: Cpu) -> Result<Self> {
        let artifact = load(&cwasm_compiler::compile(&program.wasm, &settings(cpu))?)?;
        let engine = wasmtime(cpu, Allocator::OnDemand)?;
        let module = wasmtime::Module::new(&engine, &program.wasm)?;
        Ok(Self { program, artifact, engine, module })
    }

    fn measure(&self, options: &Options) -> Result<(Samples, Samples)> {
        // One each that does not count, but tells how many are affordable.
        let (whole, first) =
            Clock::Thread.time(|| -> Result<f64> { Ok(self.ours()? + self.theirs()?) });
        first?;
        let budget = if options.quick { QUICK_BUDGET } else { BUDGET };
        let rounds = ((budget / whole) as usize).clamp(3, options.rounds(31));
        let (mut a, mut b) = (Samples::default(), Samples::default());
        for _ in 0..rounds {
            a.0.push(self.ours()?);
            b.0.push(self.theirs()?);
        }
        Ok((a, b))
    }

    fn check(&self, side: &str, stdout: &[u8], stderr: &[u8]) -> Result<()> {
        for (stream, found) in [("stdout", stdout), ("stderr", stderr)] {
            if self.program.expected(stream).is_some_and(|wanted| wanted != found.trim_ascii_end())
            {
                return Err(format!("{side}: {stream} is not what is expected").into());
            }
        }
        Ok(())
    }

    fn ours(&self) -> Result<f64> {
        let engine = Engine::default();
        let mut linker = Linker::new(&engine);
        wasi::ours(&mut linker)?;
        let guest = Guest::new(self.program.folder().to_owned());
        let mut store = Store::new(&engine, guest);
        let instance = linker.instantiate(&mut store, &self.artifact)?;
        let start = instance.typed_func::<(), ()>(&store, "_start")?;
        if let Err(error) = start.call(&mut store, ()) {
            match error.downcast_host::<Exit>() {
                Some(Exit(0)) => {}
                _ => return Err(error.into()),
            }
        }
        let guest = store.into_data();
        self.check("cwasm", &guest.stdout, &guest.stderr)?;
        between(guest.start, guest.end)
    }

    fn theirs(&self) -> Result<f64> {
        let mut linker = wasmtime::Linker::new(&self.engine);
        wasi::theirs(&mut linker)?;
        let guest = Guest::new(self.program.folder().to_owned());
        let mut store = wasmtime::Store::new(&self.engine, guest);
        let instance = linker.instantiate(&mut store, &self.module)?;
        let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
        if let Err(error) = start.call(&mut store, ()) {
            match error.downcast_ref::<Exit>() {
                Some(Exit(0)) => {}
                _ => return Err(error.into()),
            }
        }
        let guest = store.into_data();
        self.check("wasmtime", &guest.stdout, &guest.stderr)?;
        between(guest.start, guest.end)
    }
}

fn between(start: f64, end: f64) -> Result<f64> {
    if start == 0.0 || end < start {
        return Err("it never called bench.start and bench.end".into());
    }
    Ok(end - start)
}
