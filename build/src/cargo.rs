//! What Cargo tells a build script.

use std::path::{Path, PathBuf};

use cwasm_compiler::{Settings, Triple};

use crate::Error;

/// What Cargo tells a build script.
#[derive(Clone, Debug)]
pub(crate) struct Cargo {
    /// Where the script may write to.
    pub(crate) out_dir: PathBuf,
    /// Where Cargo puts the application.
    pub(crate) beside: PathBuf,
    /// How many threads the script may use.
    pub(crate) jobs: usize,
    target: String,
}

impl Cargo {
    pub(crate) fn of_environment() -> Result<Self, Error> {
        let variable = |name| std::env::var(name).map_err(|_| Error::NotInBuildScript(name));
        let out_dir = PathBuf::from(variable("OUT_DIR")?);
        Ok(Self {
            beside: beside(&out_dir),
            jobs: variable("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(0),
            target: variable("TARGET")?,
            out_dir,
        })
    }

    /// The target as artifacts call it: by architecture, system and environment.
    pub(crate) fn triple(&self) -> Triple {
        let parts: Vec<&str> = self.target.split('-').collect();
        let text = match parts[..] {
            [arch, _, system, environment] => format!("{arch}-unknown-{system}-{environment}"),
            _ => self.target.clone(),
        };
        // A triple that cannot be parsed is refused by name when something is compiled.
        text.parse().unwrap_or_else(|_| Settings::default().target)
    }
}

/// Cargo puts executables three directories above: `target/debug` of `target/debug/build/NAME-HASH/out`.
fn beside(out_dir: &Path) -> PathBuf {
    out_dir.ancestors().nth(3).unwrap_or(out_dir).to_owned()
}
