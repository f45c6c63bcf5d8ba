//! `cwasm push`: artifacts to a store.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use cwasm_remote::{Options, Reference, Remote};

use crate::input;
use crate::outcome::Outcome;
use crate::progress::Transfer;

/// Put artifacts into a registry or an object store, with their signatures
#[derive(Debug, Args)]
#[command(after_help = "\
REF is oci://HOST/NAME, s3://BUCKET/NAME, gs://, az://, http(s):// or file:///DIR/NAME, and
:TAG, which is `latest` if there is none. An artifact replaces the one for the same target, CPU
and ABI, and stands beside others: push one for each kind of machine. Credentials come from where
other tools keep them: the docker config for registries, AWS_... and the like for object stores.
Prints the digest of the index, and what there is under the tag then.

Examples:
  cwasm push oci://registry.example/team/app:1.2 app.cwasm
  cwasm push s3://bucket/app:1.2 app-v1.cwasm app-v3.cwasm

Exit codes: 0 done, 1 an artifact or the store refuses, or cannot be reached, 2 usage")]
pub(crate) struct Push {
    /// Where to
    #[arg(value_name = "REF")]
    reference: Reference,
    /// The artifacts
    #[arg(value_name = "FILE.cwasm", required = true)]
    files: Vec<PathBuf>,
}

impl Push {
    pub(crate) fn execute(&self) -> anyhow::Result<Outcome> {
        let artifacts = self
            .files
            .iter()
            .map(|path| {
                let bytes = input::artifact(path)?;
                cwasm_artifact::check::check(&bytes, None)
                    .with_context(|| format!("{} is refused", path.display()))?;
                Ok(bytes)
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let artifacts: Vec<&[u8]> = artifacts.iter().map(Vec::as_slice).collect();
        let remote = Remote::open(&self.reference, Options::default())?;
        let pushed = remote.push_with_progress(&artifacts, &Transfer::new("pushing"))?;
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{} {}", pushed.index, self.reference)?;
        for needs in pushed.there {
            writeln!(stdout, "  {needs}")?;
        }
        stdout.flush()?;
        Ok(Outcome::Done)
    }
}
