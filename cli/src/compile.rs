//! `cwasm compile`: modules to artifacts.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use cwasm_compiler::{
    CpuLevel, MemoryBounds, OptLevel, RelaxedSimd, Settings, compile_with_progress, symbol_name,
    wrap_in_object,
};
use cwasm_loader::Digest;
use target_lexicon::Triple;

use crate::outcome::Outcome;
use crate::outputs::{self, Job};
use crate::progress::Bar;
use crate::{input, publish};

/// Compile WebAssembly modules to artifacts
#[derive(Debug, Args)]
#[command(after_help = "\
Prints the digest of each artifact and its path. The digest names these bytes and no
others: pin it where the artifact is loaded. The same module, settings and version of cwasm
give the same bytes on every machine. A file that holds these bytes already is left as it is, with
its time. For `ninja`, say `restat = 1` and `depfile`.

Examples:
  cwasm compile app.wasm                                 to app.cwasm
  cwasm compile a.wasm b.wat --out-dir build --depfile build/wasm.d
  cwasm compile app.wasm --emit object -o app.o          for `cc main.c app.o libcwasm.a`

Exit codes: 0 done, 1 a module is refused or cannot be read or written, 2 usage")]
pub(crate) struct Compile {
    /// The modules, binary or text; `-` for standard input
    #[arg(value_name = "IN.{wasm,wat}", required = true)]
    inputs: Vec<PathBuf>,
    /// Where to write the artifact, `-` for standard output [default: IN.cwasm, beside the module]
    #[arg(short, long, value_name = "OUT.cwasm", conflicts_with = "out_dir")]
    output: Option<PathBuf>,
    /// The directory to write the artifacts to
    #[arg(long, value_name = "DIR")]
    out_dir: Option<PathBuf>,
    /// Write what the artifacts depend on to a file, as rules for `make`
    #[arg(long, value_name = "FILE")]
    depfile: Option<PathBuf>,
    /// What to write: artifacts, or object files to link them from, as `cwasm_artifact_NAME`
    #[arg(long, value_name = "WHAT", value_enum, default_value_t)]
    emit: Emit,
    /// The machine to compile for [default: this one]
    #[arg(long, value_name = "TRIPLE", value_parser = parse_target)]
    target: Option<Triple>,
    /// The oldest CPU to run on: x86-64-v1 to x86-64-v4, or `native` for this one
    #[arg(long, value_name = "NAME", default_value = "x86-64-v1", value_parser = parse_cpu)]
    cpu: CpuLevel,
    /// How hard to optimise: 0, 1, 2, or s for small code
    #[arg(short = 'O', value_name = "LEVEL", default_value = "2", value_parser = parse_opt_level)]
    opt_level: OptLevel,
    /// How many threads compile; 0 for one per processor
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    jobs: usize,
    /// Let the code count fuel, so that a program can be given a limit
    #[arg(long)]
    fuel: bool,
    /// Let the code check the epoch, so that a program can be interrupted
    #[arg(long)]
    epoch: bool,
    /// What keeps memory accesses in bounds: guard pages, or explicit comparisons
    #[arg(long, value_name = "HOW", value_enum, default_value_t)]
    memory_checks: MemoryChecks,
    /// Give every computed NaN the same bits, whatever the CPU
    #[arg(long)]
    canonicalize_nans: bool,
    /// What relaxed SIMD computes: the fastest for the CPU level, or the same for every CPU
    #[arg(long, value_name = "HOW", value_enum, default_value_t)]
    relaxed_simd: RelaxedLowering,
}

/// What keeps memory accesses in bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum MemoryChecks {
    #[default]
    Guard,
    Explicit,
}

/// What relaxed vector operators compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum RelaxedLowering {
    #[default]
    Native,
    Deterministic,
}

/// What is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Emit {
    #[default]
    Artifact,
    Object,
}

impl Emit {
    fn suffix(self) -> &'static str {
        match self {
            Self::Artifact => "cwasm",
            Self::Object => "o",
        }
    }
}

impl Compile {
    pub(crate) fn execute(&self) -> anyhow::Result<Outcome> {
        let (output, out_dir) = (self.output.as_deref(), self.out_dir.as_deref());
        let jobs = outputs::jobs(&self.inputs, output, out_dir, self.emit.suffix())?;
        // Everything that can be refused at once is, before time is spent.
        let targets = jobs.iter().map(|job| job.output.as_deref().map(publish::target).transpose());
        let targets = targets.collect::<anyhow::Result<Vec<_>>>()?;
        for (target, job) in targets.iter().flatten().zip(&jobs) {
            refuse_same_file(&job.input, target)?;
        }
        let depfile = self.depfile.as_deref().map(publish::target).transpose()?;
        let rules = depfile.map(|path| Ok::<_, anyhow::Error>((path, outputs::rules(&jobs)?)));
        let rules = rules.transpose()?;
        let mut outcome = Outcome::Done;
        for (job, target) in jobs.iter().zip(&targets) {
            match self.compile(job, target.as_deref()) {
                Err(error) if jobs.len() == 1 => return Err(error),
                // One module that is refused does not keep the others from being compiled.
                Err(error) => {
                    writeln!(std::io::stderr(), "cwasm: error: {error:#}")?;
                    outcome = Outcome::Failed;
                }
                Ok(()) => {}
            }
        }
        if let (Outcome::Done, Some((path, rules))) = (outcome, rules) {
            publish::publish(&path, rules.as_bytes())?;
        }
        Ok(outcome)
    }

    fn compile(&self, job: &Job, target: Option<&Path>) -> anyhow::Result<()> {
        let bytes = input::read(&job.input)?;
        let artifact = compile_file(&job.input, &bytes, &self.settings())?;
        let digest = Digest::stated_in(&artifact)
            .context("the compiler wrote no digest, which is a bug in cwasm")?;
        let written = match self.emit {
            Emit::Artifact => artifact,
            Emit::Object => {
                let named = job.output.as_ref().unwrap_or(&job.input);
                let name = named.file_stem().unwrap_or_default().to_string_lossy();
                wrap_in_object(&artifact, &symbol_name(&name))?
            }
        };
        let mut stdout = std::io::stdout().lock();
        match (target, &job.output) {
            (Some(target), Some(output)) => {
                publish::publish(target, &written)?;
                writeln!(stdout, "{digest}  {}", output.display())?;
            }
            _ => stdout.write_all(&written)?,
        }
        stdout.flush()?;
        Ok(())
    }

    fn settings(&self) -> Settings {
        let defaults = Settings::default();
        Settings {
            target: self.target.clone().unwrap_or(defaults.target),
            cpu: self.cpu,
            opt_level: self.opt_level,
            jobs: self.jobs,
            fuel: self.fuel,
            epoch: self.epoch,
            memory_bounds: match self.memory_checks {
                MemoryChecks::Guard => MemoryBounds::Guarded,
                MemoryChecks::Explicit => MemoryBounds::Explicit,
            },
            canonicalize_nans: self.canonicalize_nans,
            relaxed_simd: match self.relaxed_simd {
                RelaxedLowering::Native => RelaxedSimd::Native,
                RelaxedLowering::Deterministic => RelaxedSimd::Deterministic,
            },
        }
    }
}

/// Compiles the bytes of a file, showing progress on a terminal.
pub(crate) fn compile_file(
    path: &Path,
    bytes: &[u8],
    settings: &Settings,
) -> anyhow::Result<Vec<u8>> {
    let wasm = input::module(path, bytes)?;
    compile_with_progress(&wasm, settings, &Bar::new())
        .map_err(|error| input::cannot_compile(path, bytes, error))
}

/// Refuses to write the artifact over its own source.
fn refuse_same_file(input: &Path, output: &Path) -> anyhow::Result<()> {
    let identity = |path| std::fs::metadata(path).map(|file| (file.dev(), file.ino()));
    if let (Ok(from), Ok(to)) = (identity(input), identity(output))
        && from == to
    {
        bail!(
            "the artifact would replace the module {}: name another file with `-o`",
            input.display()
        );
    }
    Ok(())
}

pub(crate) fn parse_target(text: &str) -> Result<Triple, String> {
    text.parse().map_err(|error| format!("{error}"))
}

pub(crate) fn parse_cpu(text: &str) -> Result<CpuLevel, String> {
    CpuLevel::by_name(text).ok_or_else(|| {
        let names = CpuLevel::ALL.map(CpuLevel::name);
        format!("the CPU levels are {}", names.join(", "))
    })
}

fn parse_opt_level(text: &str) -> Result<OptLevel, String> {
    OptLevel::by_name(text).ok_or_else(|| "the levels are 0, 1, 2 and s".to_owned())
}
