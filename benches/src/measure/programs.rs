//! Generated code: real programs, timed between their calls of `bench.start` and
//! `bench.end`, with their output compared to what is expected. Several processes run
//! each, and say what the medians of both sides were.

use cwasm_loader::{Artifact, Engine, Linker, Store};
use serde::{Deserialize, Serialize};

use crate::child;
use crate::clock::{Clock, Samples, paired};
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
const INTERPRETER: &str = "interpreter";
const INTERPRETER_TEXT: &str = include_str!("../../kernels/interpreter.wat");

/// What no program's ratio should be above.
const BAR: f64 = 1.05;

/// How many processes run a program at least. How long some take differs from process to process more than
/// within one, on both sides: `seqhash` by a third, with quartiles in one process at most 7% apart.
const PROCESSES: usize = 5;
const QUICK_PROCESSES: usize = 3;

/// More of them run it until the ratio is this many standard errors away from its bar, on either side.
const CLEAR: f64 = 3.0;

/// How long all processes of a program may take, and all runs in one of them, in seconds.
const BUDGET: (f64, f64) = (300.0, 0.8);
const QUICK_BUDGET: (f64, f64) = (4.0, 0.4);

/// How often a process runs a program at most.
const ROUNDS: usize = 11;

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
    if options.program.as_ref().is_some_and(|part| !INTERPRETER.contains(part)) {
        return Ok(());
    }
    let samples = measure(options, INTERPRETER, Cpu::Native)?;
    report.add(Row::seconds(format!("run {INTERPRETER}, a kernel"), &samples).bar(BAR));
    Ok(())
}

fn level(options: &Options, report: &mut Report, programs: &[Program], cpu: Cpu) -> Result<()> {
    let suffix = match cpu {
        Cpu::Native => "",
        Cpu::Baseline => ", baseline CPU",
    };
    let mut rows = Vec::new();
    for program in programs {
        match measure(options, &program.name, cpu) {
            Ok(samples) => {
                let row = Row::seconds(format!("run {}{suffix}", program.name), &samples);
                report.add(row.clone().bar(BAR));
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

/// The medians of each process, of both sides.
fn measure(options: &Options, name: &str, cpu: Cpu) -> Result<(Samples, Samples)> {
    let (processes, (whole, budget)) = match options.quick {
        true => (QUICK_PROCESSES, QUICK_BUDGET),
        false => (PROCESSES, BUDGET),
    };
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    let start = Clock::Wall.now();
    while ours.0.len() < processes || !clear(&ours, &theirs) && Clock::Wall.now() - start < whole {
        let theirs_first = ours.0.len() % 2 == 1;
        let asked = Asked { name: name.to_owned(), cpu, budget, theirs_first };
        let medians: Medians = child::ask(&["program", &serde_json::to_string(&asked)?])?;
        ours.0.push(medians.ours);
        theirs.0.push(medians.theirs);
    }
    Ok((ours, theirs))
}

/// Whether it is clear on which side of its bar the ratio is.
fn clear(ours: &Samples, theirs: &Samples) -> bool {
    let ratios = paired(ours, theirs);
    (ratios.median() - BAR).abs() > CLEAR * ratios.error()
}

/// What a process is to run.
#[derive(Debug, Deserialize, Serialize)]
pub struct Asked {
    name: String,
    cpu: Cpu,
    budget: f64,
    /// Whose turn comes first.
    theirs_first: bool,
}

/// What a process says: the medians of both sides, in seconds.
#[derive(Debug, Deserialize, Serialize)]
pub struct Medians {
    ours: f64,
    theirs: f64,
}

/// Runs a program in this process.
pub fn medians(asked: &Asked) -> Result<Medians> {
    let program = if asked.name == INTERPRETER {
        let (path, wasm) = (INTERPRETER.into(), wat::parse_str(INTERPRETER_TEXT)?);
        Program { name: INTERPRETER.into(), path, wasm }
    } else {
        corpus::program(&asked.name).ok_or("no such program")?
    };
    Pair::new(&program, asked.cpu)?.medians(asked)
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

    fn medians(&self, asked: &Asked) -> Result<Medians> {
        let both = || -> Result<(f64, f64)> {
            Ok(match asked.theirs_first {
                false => (self.ours()?, self.theirs()?),
                true => {
                    let theirs = self.theirs()?;
                    (self.ours()?, theirs)
                }
            })
        };
        // What the first run has to do besides is little where a run takes long, and else does not count. It tells how many are affordable.
        let (whole, first) = Clock::Thread.time(both);
        let (a, b) = first?;
        let (mut ours, mut theirs) = (Samples(vec![a]), Samples(vec![b]));
        let rounds = (asked.budget / whole) as usize;
        if rounds > 0 {
            ours.0.clear();
            theirs.0.clear();
        }
        for _ in 0..rounds.min(ROUNDS) {
            let (a, b) = both()?;
            ours.0.push(a);
            theirs.0.push(b);
        }
        Ok(Medians { ours: ours.median(), theirs: theirs.median() })
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
