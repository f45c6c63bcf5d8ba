//! Measures cwasm and wasmtime 48 side by side: `make bench` in the folder above.
//!
//! Both compile with the same version of Cranelift, optimised for speed, for the same
//! CPU. What is measured in-process is measured by turns, ABAB, in one
//! process, or in several where a process has its luck; what is a process, by turns too. The table has medians, the spread between
//! quartiles, and the median of the paired ratios.

mod chart;
mod child;
mod clock;
mod corpus;
mod engines;
mod measure;
mod report;
mod wasi;

use std::path::PathBuf;

use report::Report;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<V> = std::result::Result<V, Error>;

const USAGE: &str = "\
usage: cwasm-benches [OPTION]... [SUBJECT]...
subjects: calls memory instantiate load process compile programs others (all but the last by default)
  --quick          fewer programs and samples: about two minutes
  --detail         a row for every program that is compiled
  --program PART   of the programs, run those whose name has this part
  --out FOLDER     where bench.json and bench.svg go (benches/target)";

/// What the command line says.
pub struct Options {
    quick: bool,
    detail: bool,
    program: Option<String>,
    out: PathBuf,
    subjects: Vec<String>,
}

impl Options {
    fn parse(args: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            quick: false,
            detail: false,
            program: None,
            out: PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target")),
            subjects: Vec::new(),
        };
        let mut args = args;
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--quick" => options.quick = true,
                "--detail" => options.detail = true,
                "--program" => options.program = Some(args.next().ok_or(USAGE)?),
                "--out" => options.out = args.next().ok_or(USAGE)?.into(),
                option if option.starts_with('-') => return Err(USAGE.into()),
                subject => options.subjects.push(subject.to_owned()),
            }
        }
        Ok(options)
    }

    /// How many samples to take where the full run takes `full`.
    fn rounds(&self, full: usize) -> usize {
        if self.quick { (full / 3).max(3) } else { full }
    }
}

/// A subject and what measures it.
type Subject = (&'static str, fn(&Options, &mut Report) -> Result<()>);

const SUBJECTS: [Subject; 8] = [
    ("calls", measure::calls::run),
    ("memory", measure::memory::run),
    ("instantiate", measure::instantiate::run),
    ("load", measure::load::run),
    ("process", measure::process::run),
    ("compile", measure::compile::run),
    ("programs", measure::programs::run),
    ("others", measure::others::run),
];

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1).peekable();
    if args.next_if(|arg| arg == "child").is_some() {
        return child::main(&args.collect::<Vec<_>>());
    }
    let options = Options::parse(args)?;
    let known = |name: &String| SUBJECTS.iter().any(|(known, _)| known == name);
    if !options.subjects.iter().all(known) {
        return Err(USAGE.into());
    }
    let mut report = Report::default();
    for (name, run) in SUBJECTS {
        let wanted = match options.subjects.is_empty() {
            true => name != "others",
            false => options.subjects.iter().any(|subject| subject == name),
        };
        if wanted {
            run(&options, &mut report).map_err(|error| format!("{name}: {error}"))?;
        }
    }
    std::fs::create_dir_all(&options.out)?;
    std::fs::write(options.out.join("bench.json"), serde_json::to_vec_pretty(&report)?)?;
    std::fs::write(options.out.join("bench.svg"), chart::svg(&report))?;
    Ok(())
}
