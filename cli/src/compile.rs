//! `cwasm compile`: a module to an artifact.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use cwasm_compiler::{
    CpuLevel, MemoryBounds, OptLevel, RelaxedSimd, Settings, compile_with_progress,
};
use cwasm_loader::Digest;
use target_lexicon::Triple;

use crate::outcome::Outcome;
use crate::progress::Bar;
use crate::{input, publish};

/// Compile a WebAssembly module to an artifact
#[derive(Debug, Args)]
#[command(after_help = "\
Prints the digest of the artifact and its path. The digest names these bytes and no
others: pin it where the artifact is loaded. The same module, settings and version of cwasm
give the same bytes on every machine.

Examples:
  cwasm compile app.wasm                                 to app.cwasm
  cwasm compile app.wasm -o build/app.cwasm --cpu x86-64-v3
  cwasm compile lib.wat --fuel --epoch --target aarch64-unknown-linux-gnu

Exit codes: 0 done, 1 the module is refused or cannot be read or written, 2 usage")]
pub(crate) struct Compile {
    /// The module, binary or text; `-` for standard input
    #[arg(value_name = "IN.{wasm,wat}")]
    input: PathBuf,
    /// Where to write the artifact [default: IN.cwasm, beside the module]
    #[arg(short, long, value_name = "OUT.cwasm")]
    output: Option<PathBuf>,
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

impl Compile {
    pub(crate) fn execute(&self) -> anyhow::Result<Outcome> {
        let output = self.output()?;
        let target = publish::target(&output)?;
        refuse_same_file(&self.input, &target)?;
        let bytes = input::read(&self.input)?;
        let artifact = compile_file(&self.input, &bytes, &self.settings())?;
        let digest = Digest::stated_in(&artifact)
            .context("the compiler wrote no digest, which is a bug in cwasm")?;
        publish::publish(&target, &artifact)?;
        writeln!(std::io::stdout(), "{digest}  {}", output.display())?;
        Ok(Outcome::Done)
    }

    fn output(&self) -> anyhow::Result<PathBuf> {
        match &self.output {
            Some(output) if output.as_os_str() == "-" => {
                bail!("an artifact is a file: name one with `-o`")
            }
            Some(output) => Ok(output.clone()),
            None if self.input.as_os_str() == "-" => {
                bail!("standard input has no name to derive that of the artifact from: use `-o`")
            }
            None => Ok(self.input.with_extension("cwasm")),
        }
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

fn parse_target(text: &str) -> Result<Triple, String> {
    text.parse().map_err(|error| format!("{error}"))
}

fn parse_cpu(text: &str) -> Result<CpuLevel, String> {
    CpuLevel::by_name(text).ok_or_else(|| {
        let names = CpuLevel::ALL.map(CpuLevel::name);
        format!("the CPU levels are {}", names.join(", "))
    })
}

fn parse_opt_level(text: &str) -> Result<OptLevel, String> {
    OptLevel::by_name(text).ok_or_else(|| "the levels are 0, 1, 2 and s".to_owned())
}
