//! `cwasm keygen`: a key to sign artifacts with.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::keys;
use crate::outcome::Outcome;

/// Make a key to sign artifacts with
#[derive(Debug, Args)]
#[command(after_help = "\
Writes the secret key, which only you can read, and beside it the public key with the suffix
`.pub`. Prints the id of the key and the path of the public key. Both are PEM files (PKCS#8
and SPKI), which `openssl pkey` reads too. Existing files are never overwritten.

Examples:
  cwasm keygen                                   cwasm.key and cwasm.key.pub
  cwasm keygen -o keys/release.pem               and keys/release.pem.pub
  cwasm sign app.cwasm --key cwasm.key
  cwasm run app.cwasm --key cwasm.key.pub

Exit codes: 0 done, 1 a file exists or cannot be written, 2 usage")]
pub(crate) struct Keygen {
    /// Where to write the secret key
    #[arg(short, long, value_name = "FILE", default_value = "cwasm.key")]
    output: PathBuf,
}

impl Keygen {
    pub(crate) fn execute(&self) -> anyhow::Result<Outcome> {
        let public = beside(&self.output);
        let key = keys::generate(&self.output, &public)?;
        writeln!(std::io::stdout(), "{}  {}", key.id(), public.display())?;
        Ok(Outcome::Done)
    }
}

/// Where the public key of a secret key is.
fn beside(secret: &Path) -> PathBuf {
    let mut path = OsString::from(secret);
    path.push(".pub");
    path.into()
}
