//! `cwasm wast`: runs specification scripts.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use crate::input;
use crate::outcome::Outcome;

/// Run WebAssembly specification scripts
#[derive(Debug, Args)]
#[command(after_help = "\
Prints what does not hold to stderr, and `N passed, N failed` to stdout.

Examples:
  cwasm wast i32.wast f32.wast

Exit codes: 0 everything holds, 1 something does not or cannot be read, 2 usage")]
pub(crate) struct Wast {
    /// The scripts
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl Wast {
    pub(crate) fn execute(&self) -> anyhow::Result<Outcome> {
        let (mut passed, mut failed) = (0, 0);
        for path in &self.files {
            let source = String::from_utf8(input::read(path)?)
                .with_context(|| format!("{} is not UTF-8 text", path.display()))?;
            let summary = cwasm_wast::run_script(&path.display().to_string(), &source);
            passed += summary.passed;
            failed += summary.failures.len();
            for failure in summary.failures {
                // The count on stdout is the result.
                let _ = writeln!(std::io::stderr(), "{failure}");
            }
        }
        writeln!(std::io::stdout(), "{passed} passed, {failed} failed")?;
        Ok(if failed == 0 { Outcome::Done } else { Outcome::Failed })
    }
}
