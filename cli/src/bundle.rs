//! `cwasm bundle`: several artifacts in one file.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use cwasm_artifact::bundle::build;

use crate::outcome::Outcome;
use crate::{input, publish};

/// Put several modules, or one for several targets and CPUs, into one file
#[derive(Debug, Args)]
#[command(after_help = "\
A loader picks what is the best for its machine. Bytes that artifacts share are stored once. Each
keeps its digest and its signatures, and needs a reason to be trusted like a file of its own.
NAME is that of the module, the same for all its targets and CPUs; without it, it is the file's name
up to the first dot. Prints the size of the bundle and of what went in.

Examples:
  cwasm bundle -o app.bundle app.v1.cwasm app.v3.cwasm
  cwasm bundle -o all.bundle app=a.cwasm filter=b.cwasm
  cwasm run all.bundle --module filter --key release.pub

Exit codes: 0 done, 1 an artifact is refused or cannot be read or written, 2 usage")]
pub(crate) struct Bundle {
    /// Where to write the bundle
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// The artifacts
    #[arg(value_name = "[NAME=]FILE.cwasm", required = true, value_parser = parse_input)]
    inputs: Vec<(String, PathBuf)>,
}

impl Bundle {
    pub(crate) fn execute(&self) -> anyhow::Result<Outcome> {
        let target = publish::target(&self.output)?;
        let mut artifacts = Vec::new();
        for (name, path) in &self.inputs {
            if name.is_empty() {
                bail!("{} has no name: give it one with NAME={0}", path.display());
            }
            artifacts.push((name.as_str(), input::artifact(path)?));
        }
        let artifacts: Vec<(&str, &[u8])> =
            artifacts.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
        let output = self.output.display();
        let bundle = build(&artifacts).with_context(|| format!("cannot write {output}"))?;
        publish::publish(&target, &bundle)?;
        let total: usize = artifacts.iter().map(|(_, bytes)| bytes.len()).sum();
        writeln!(std::io::stdout(), "{output}: {} bytes of {total}", bundle.len())?;
        Ok(Outcome::Done)
    }
}

fn parse_input(text: &str) -> Result<(String, PathBuf), String> {
    Ok(match text.split_once('=') {
        Some((name, path)) if !name.contains('/') && !path.is_empty() => {
            (name.to_owned(), path.into())
        }
        _ => {
            let file = Path::new(text).file_name().unwrap_or_default().to_string_lossy();
            (file.split('.').next().unwrap_or_default().to_owned(), text.into())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_given_or_those_of_files() {
        let parse = |text| parse_input(text).unwrap();
        assert_eq!(parse("dir/app.v3.cwasm"), ("app".into(), "dir/app.v3.cwasm".into()));
        assert_eq!(parse("x=dir/a=b.cwasm"), ("x".into(), "dir/a=b.cwasm".into()));
        assert_eq!(parse("dir/a=b.cwasm"), ("a=b".into(), "dir/a=b.cwasm".into()));
    }
}
