//! `cwasm pull`: an artifact from a store.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use cwasm_artifact::abi::fingerprint;
use cwasm_artifact::check::{Host, Origin};
use cwasm_artifact::cpu::{Arch, CpuFeatures};
use cwasm_compiler::CpuLevel;
use cwasm_loader::Digest;
use cwasm_remote::{Options, Reference, Remote, Version};
use target_lexicon::Triple;

use crate::compile::{parse_cpu, parse_target};
use crate::outcome::{Outcome, usage};
use crate::progress::Transfer;
use crate::{keys, publish, watchdog};

/// Get an artifact from a registry or an object store, if something vouches for it
#[derive(Debug, Args)]
#[command(after_help = "\
Of what is under the tag, the best for this machine is taken: same target and ABI, and most of
what its CPU has. It is checked before it gets its name: OUT is whole and trusted, or not there
(or what it was before). `cwasm push --help` says what REF is. Prints the digest and the file.

Examples:
  cwasm pull oci://registry.example/team/app:1.2 --key release.pub
  cwasm pull s3://bucket/app:1.2 --digest 3f2c... -o app.cwasm
  cwasm pull file:///srv/store/app --key release.pub --cpu x86-64-v3

Exit codes: 0 done, 1 refused, not there, or the store cannot be reached, 2 usage")]
pub(crate) struct Pull {
    /// Where from
    #[arg(value_name = "REF")]
    reference: Reference,
    /// Where to write the artifact [default: the last part of the name, in this directory]
    #[arg(short, long, value_name = "OUT.cwasm")]
    output: Option<PathBuf>,
    #[command(flatten)]
    reason: Reason,
    /// Get what is the best for this target [default: this machine]
    #[arg(long, value_name = "TRIPLE", value_parser = parse_target)]
    target: Option<Triple>,
    /// Get what is the best for this CPU: x86-64-v1 to x86-64-v4 [default: this one]
    #[arg(long, value_name = "NAME", value_parser = parse_cpu)]
    cpu: Option<CpuLevel>,
    /// Refuse larger artifacts: 1G
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = crate::cache::parse_size)]
    max_size: u64,
    /// Give up after a time: 500ms, 10s, 2m
    #[arg(long, value_name = "D", value_parser = watchdog::parse_duration)]
    timeout: Option<Duration>,
}

/// Why the artifact is trusted.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Reason {
    /// The digest that it must have
    #[arg(long, value_name = "HEX")]
    digest: Option<Digest>,
    /// A public key that must have signed it; repeated, at least one of them must have
    #[arg(long, value_name = "PUB")]
    key: Vec<PathBuf>,
    /// Take it without any such reason
    #[arg(long)]
    trust_file: bool,
}

impl Pull {
    pub(crate) fn execute(&self) -> anyhow::Result<Outcome> {
        let host = self.host()?;
        let keys = keys::public(&self.reason.key)?;
        let origin = match self.reason.digest {
            Some(digest) => Origin::Digest(digest),
            None if keys.is_empty() => Origin::Any,
            None => Origin::Keys(&keys),
        };
        let output = match &self.output {
            Some(path) => path.clone(),
            None => default_output(&self.reference).into(),
        };
        let target = publish::target(&output)?;
        let mut options = Options::default().max_bytes(self.max_size);
        if let Some(limit) = self.timeout {
            options = options.deadline(limit);
        }
        let remote = Remote::open(&self.reference, options)?;
        let pulled = remote.pull_with_progress(&host, origin, &Transfer::new("pulling"))?;
        publish::publish(&target, &pulled.bytes)?;
        writeln!(std::io::stdout(), "{} {}", pulled.digest, output.display())?;
        Ok(Outcome::Done)
    }

    /// The machine for which the best is taken.
    fn host(&self) -> anyhow::Result<Host> {
        let this = Host::this();
        let target = self.target.as_ref().map_or(this.target.clone(), ToString::to_string);
        let cpu_features = match self.cpu {
            None if target == this.target => this.cpu_features,
            None => CpuFeatures::NONE,
            Some(level) => Arch::of_triple(&target)
                .and_then(|arch| level.features(arch))
                .ok_or_else(|| usage(format!("{target} has no CPUs of the level {level}")))?,
        };
        Ok(Host { abi: fingerprint(), target, cpu_features })
    }
}

/// The name of a file for what a reference names.
fn default_output(reference: &Reference) -> String {
    let text = reference.to_string();
    let end = match reference.version() {
        Version::Tag(tag) => text.len() - tag.len() - 1,
        Version::Digest(digest) => text.len() - digest.to_string().len() - 1,
    };
    let name = text[..end].rsplit('/').next().unwrap_or("artifact");
    format!("{name}.cwasm")
}

#[cfg(test)]
mod tests {
    use super::default_output;

    #[test]
    fn the_file_has_the_last_part_of_the_name() {
        let name = |text: &str| default_output(&text.parse().unwrap());
        assert_eq!(name("oci://host:5000/team/app:1.2"), "app.cwasm");
        assert_eq!(name("file:///srv/app"), "app.cwasm");
        assert_eq!(name(&format!("s3://b/app@sha256:{}", "0".repeat(64))), "app.cwasm");
    }
}
