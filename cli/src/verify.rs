//! `cwasm verify`: is an artifact intact, the one that is meant, or the one
//! that a module compiles to?

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use cwasm_artifact::bundle::MAGIC;
use cwasm_artifact::check::{Checked, Host, Origin, check, check_from};
use cwasm_artifact::choice::Needs;
use cwasm_artifact::header::{Section, padded_text};
use cwasm_artifact::hex::Hex;
use cwasm_artifact::module::Module;
use cwasm_artifact::report::Report;
use cwasm_artifact::signature::{PublicKey, Signatures};
use cwasm_compiler::Settings;
use cwasm_loader::{Bundle, Digest};
use sha2::{Digest as _, Sha256};

use crate::compile::compile_file;
use crate::outcome::Outcome;
use crate::{input, keys};

/// Check that an artifact is intact, and is what it should be
#[derive(Debug, Args)]
#[command(after_help = "\
Prints `ok` and the digest, or everything that is wrong with what to do about it. Without
options: is the file intact, and could this machine load it? That does not say who made it:
whoever can write the file can write the digest in it. `--digest`, `--key` and `--against` do.
With `--key`, the ids of the given keys that signed it are printed too.

Examples:
  cwasm verify app.cwasm
  cwasm verify app.cwasm --digest 3f2c...        is it the one that I know?
  cwasm verify app.cwasm --key release.pub       did this key sign it? (or this one: repeat it)
  cwasm verify app.cwasm --against app.wasm      does this module compile to it?

Exit codes: 0 it is, 1 it is not or cannot be read, 2 usage")]
pub(crate) struct Verify {
    /// The artifact, or the bundle, of which every artifact is checked
    #[arg(value_name = "FILE.cwasm")]
    file: PathBuf,
    /// The digest that it must have
    #[arg(long, value_name = "HEX")]
    digest: Option<Digest>,
    /// A public key that must have signed it; repeated, at least one of them must have
    #[arg(long, value_name = "PUB", conflicts_with = "digest")]
    key: Vec<PathBuf>,
    /// The module that must compile to the same bytes, for any machine
    #[arg(long, value_name = "IN.wasm", conflicts_with = "digest")]
    against: Option<PathBuf>,
}

impl Verify {
    pub(crate) fn execute(&self) -> anyhow::Result<Outcome> {
        let keys = keys::public(&self.key)?;
        if input::front(&self.file)?.starts_with(&MAGIC) {
            return self.verify_bundle(&keys);
        }
        let bytes = input::artifact(&self.file)?;
        // Compiling again needs no machine that could run the result.
        let host = self.against.is_none().then(Host::this);
        let digest = self
            .check(&bytes, host.as_ref(), &keys)
            .with_context(|| format!("{} is refused", self.file.display()))?;
        if let Some(module) = &self.against {
            self.compare(&bytes, module)?;
        }
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "ok {digest}")?;
        let signatures = Signatures::of(&bytes)?;
        for key in keys.iter().filter(|key| signatures.iter().any(|s| key.verifies(&bytes, s))) {
            writeln!(stdout, "signed by {}", key.id())?;
        }
        stdout.flush()?;
        Ok(Outcome::Done)
    }

    /// Checks every artifact of a bundle, for whatever machine; with a digest, that one is in it.
    fn verify_bundle(&self, keys: &[PublicKey]) -> anyhow::Result<Outcome> {
        let file = self.file.display();
        if self.against.is_some() {
            bail!("{file} is a bundle: `--against` is for one artifact");
        }
        let bundle = Bundle::open(&self.file)?;
        let mut lines = String::new();
        let mut found = false;
        for entry in bundle.entries() {
            let picked = bundle.read_entry(entry)?;
            let origin = if keys.is_empty() { Origin::Any } else { Origin::Keys(keys) };
            let digest = check_from(picked.bytes(), None, origin)
                .and_then(|checked| Module::new(&checked).map(|_| checked.digest()))
                .with_context(|| format!("{} in {file} is refused", entry.name))?;
            if self.digest.is_some_and(|wanted| wanted != digest) {
                continue;
            }
            found = true;
            let needs =
                Needs::stated_in(picked.bytes()).context("an intact artifact has a header")?;
            lines += &format!("ok {digest} {} {needs}\n", entry.name);
        }
        if let (Some(digest), false) = (self.digest, found) {
            bail!("{file} has no artifact with the digest {digest}");
        }
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(lines.as_bytes())?;
        stdout.flush()?;
        Ok(Outcome::Done)
    }

    /// Everything that is wrong with the file.
    fn check(
        &self,
        bytes: &[u8],
        host: Option<&Host>,
        keys: &[PublicKey],
    ) -> Result<Digest, Report> {
        let origin = match self.digest {
            Some(digest) => Origin::Digest(digest),
            None if keys.is_empty() => Origin::Any,
            None => Origin::Keys(keys),
        };
        let checked = check_from(bytes, host, origin)?;
        Module::new(&checked)?;
        Ok(checked.digest())
    }

    /// Compiles `module` as the artifact was compiled, and compares.
    fn compare(&self, bytes: &[u8], module: &Path) -> anyhow::Result<()> {
        let checked = check(bytes, None)?;
        let (file, source) = (self.file.display(), module.display());
        let compiler = padded_text(&checked.header().prefix.compiler);
        if compiler != env!("CARGO_PKG_VERSION") {
            bail!(
                "{file} was compiled by cwasm {compiler}, and this is cwasm {}: only the same \
                 version gives the same bytes",
                env!("CARGO_PKG_VERSION")
            );
        }
        let input = input::read(module)?;
        let wasm = input::module(module, &input)?;
        let found: [u8; 32] = Sha256::digest(&wasm).into();
        if found != checked.header().source_sha256 {
            bail!(
                "{file} was compiled from another module: from one with the SHA-256 {}, and {source} has {}",
                Hex(&checked.header().source_sha256),
                Hex(&found)
            );
        }
        let settings = Settings::of_header(checked.header())
            .with_context(|| format!("{file} records settings that cannot be used"))?;
        let mut compiled = compile_file(module, &wasm, &settings)?;
        // Who signed it is no property of the module.
        Signatures::of(bytes)?.write(&mut compiled)?;
        if compiled == bytes {
            return Ok(());
        }
        let place = first_difference(&checked, &compiled);
        bail!(
            "{file} is not what {source} compiles to: they differ from byte {place:#x} on{}; \
             do not run it before you know why",
            section_at(&checked, place)
        );
    }
}

/// The first byte of the body that differs: what is before the body differs whenever
/// the body does. If it does not, the first byte that differs at all.
fn first_difference(checked: &Checked<'_>, compiled: &[u8]) -> usize {
    let file = checked.file();
    let body = checked.header().body_offset();
    let from = |start: usize| {
        let pairs = file.iter().zip(compiled).enumerate().skip(start);
        pairs.into_iter().find(|(_, (a, b))| a != b).map(|(at, _)| at)
    };
    from(body).or_else(|| from(0)).unwrap_or(file.len().min(compiled.len()))
}

fn section_at(checked: &Checked<'_>, place: usize) -> String {
    let place = place as u64;
    Section::ALL
        .into_iter()
        .find(|section| {
            let range = checked.header().section(*section);
            let start = range.offset.get();
            (start..start.saturating_add(range.length.get())).contains(&place)
        })
        .map_or_else(String::new, |section| format!(" (in {})", section.name()))
}
