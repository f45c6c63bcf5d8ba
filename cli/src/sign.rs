//! `cwasm sign`: adds signatures to an artifact, and removes them.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;
use cwasm_artifact::check::check;
use cwasm_artifact::module::Module;
use cwasm_artifact::signature::{KeyId, Signature, Signatures, message};
use ed25519_dalek::Signer as _;

use crate::outcome::Outcome;
use crate::{input, keys, publish};

/// Sign an artifact, or take signatures away
#[derive(Debug, Args)]
#[command(after_help = "\
The file is replaced in one step; its digest stays the same. An artifact may have up to five
signatures. To replace a key, sign with the new one too, and remove the old signature when
nobody relies on it any more. Only intact artifacts are signed.
Prints the digest, and the ids of the keys of all signatures that the artifact has now.

Examples:
  cwasm sign app.cwasm --key cwasm.key
  cwasm sign app.cwasm --key new.key --remove 21fe31dfa154a261626bf854046fd227
  vault read release-key | cwasm sign app.cwasm --key -

Exit codes: 0 done, 1 the artifact or a key is refused or cannot be written, 2 usage")]
pub(crate) struct Sign {
    /// The artifact
    #[arg(value_name = "FILE.cwasm")]
    file: PathBuf,
    /// Sign with this secret key; `-` for standard input
    #[arg(long, value_name = "SECRET", required_unless_present = "remove")]
    key: Vec<PathBuf>,
    /// Take away the signature of the key with this id
    #[arg(long, value_name = "KEYID")]
    remove: Vec<KeyId>,
}

impl Sign {
    pub(crate) fn execute(&self) -> anyhow::Result<Outcome> {
        let file = self.file.display();
        let target = publish::target(&self.file)?;
        let bytes = input::artifact(&self.file)?;
        let refused = || format!("cannot sign {file}");
        let checked = check(&bytes, None).with_context(refused)?;
        Module::new(&checked).with_context(refused)?;
        let mut signatures = Signatures::of(&bytes).with_context(refused)?;

        for key in &self.remove {
            if !signatures.remove(*key) {
                let keys = names(&signatures);
                bail!("{file} is not signed by the key {key}; it is signed by {keys}");
            }
        }
        let message = message(&bytes).context("an intact artifact has a header")?;
        for path in &self.key {
            let secret = keys::secret(path)?;
            let id = keys::public_of(&secret)?.id();
            let signature = Signature::new(id, secret.sign(&message).to_bytes());
            signatures.insert(signature).with_context(refused)?;
        }

        let mut signed = bytes.clone();
        signatures.write(&mut signed).with_context(refused)?;
        if signed != bytes {
            publish::replace(&target, &signed)?;
        }
        writeln!(std::io::stdout(), "{} signed by {}", checked.digest(), names(&signatures))?;
        Ok(Outcome::Done)
    }
}

/// The keys of signatures, for a message.
fn names(signatures: &Signatures) -> String {
    let keys: Vec<String> = signatures.keys().map(|key| key.to_string()).collect();
    if keys.is_empty() { "nobody".to_owned() } else { keys.join(", ") }
}
