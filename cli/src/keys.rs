//! Reading and writing keys. They are PEM files, as other tools for ed25519 write and read
//! them: PKCS#8 for secret keys, SPKI for public ones.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use cwasm_artifact::signature::{PublicKey, PublicKeyError};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, KeypairBytes};
use zeroize::Zeroizing;

use crate::input;

/// Files with more bytes are no keys.
const MAX_LENGTH: usize = 16 << 10;

/// The public keys in some files.
pub(crate) fn public(paths: &[impl AsRef<Path>]) -> anyhow::Result<Vec<PublicKey>> {
    paths.iter().map(|path| read_public(path.as_ref())).collect()
}

fn read_public(path: &Path) -> anyhow::Result<PublicKey> {
    let text = read(path)?;
    text.parse().map_err(|error: PublicKeyError| anyhow!("{}: {error}", path.display()))
}

/// The secret key in a file, or in standard input for `-`.
pub(crate) fn secret(path: &Path) -> anyhow::Result<SigningKey> {
    let text = read(path)?;
    let place = path.display();
    if text.contains("-----BEGIN PUBLIC KEY-----") {
        bail!("{place} is a public key, which cannot sign: give the secret key that belongs to it");
    }
    if text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") {
        bail!(
            "{place} is encrypted: decrypt it with `openssl pkey -in {place}`, for example into \
             `cwasm sign --key -`"
        );
    }
    if !text.trim_start().starts_with("-----BEGIN PRIVATE KEY-----") {
        bail!("{place} is not a secret key, which is a PEM file that `cwasm keygen` writes");
    }
    let key = SigningKey::from_pkcs8_pem(text.trim())
        .map_err(|_| anyhow!("{place} is damaged, or not a secret key for ed25519"))?;
    warn_if_readable(path);
    Ok(key)
}

/// The public key that belongs to a secret key.
pub(crate) fn public_of(secret: &SigningKey) -> anyhow::Result<PublicKey> {
    Ok(PublicKey::from_bytes(secret.verifying_key().as_bytes())?)
}

/// Makes a key, and writes it and its public key into files that do not exist yet.
pub(crate) fn generate(secret: &Path, public: &Path) -> anyhow::Result<PublicKey> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut_slice())
        .map_err(|error| anyhow!("cannot get random numbers from the system: {error}"))?;
    let key = SigningKey::from_bytes(&seed);
    let public_key = public_of(&key)?;
    // Without the public key in it, so that every version of openssl reads it.
    let pair = KeypairBytes { secret_key: *seed, public_key: None };
    let pem = pair.to_pkcs8_pem(LineEnding::LF)?;
    let secret_file = New::create(secret, 0o600, "secret")?;
    let public_file = New::create(public, 0o644, "public")?;
    secret_file.write(pem.as_bytes())?;
    public_file.write(public_key.to_pem().as_bytes())?;
    Ok(public_key)
}

/// A file that did not exist, and is removed again if it is not written to the end.
struct New<'a> {
    path: &'a Path,
    file: File,
    complete: bool,
}

impl<'a> New<'a> {
    fn create(path: &'a Path, mode: u32, what: &str) -> anyhow::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
        let file = file.map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => anyhow!(
                "{} exists already, and keys are never overwritten: name another file for the \
                 {what} key with `-o`",
                path.display()
            ),
            _ => anyhow::Error::new(error).context(format!("cannot write {}", path.display())),
        })?;
        Ok(Self { path, file, complete: false })
    }

    fn write(mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let result = self.file.write_all(bytes).and_then(|()| self.file.sync_all());
        result.with_context(|| format!("cannot write {}", self.path.display()))?;
        self.complete = true;
        Ok(())
    }
}

impl Drop for New<'_> {
    fn drop(&mut self) {
        if !self.complete {
            // The first error is the one to tell.
            let _ = std::fs::remove_file(self.path);
        }
    }
}

/// The text of a key. It is wiped from memory, as far as this process can do that.
fn read(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let bytes = Zeroizing::new(input::read_at_most(path, MAX_LENGTH)?);
    match std::str::from_utf8(&bytes) {
        Ok(text) if bytes.len() < MAX_LENGTH => Ok(Zeroizing::new(text.to_owned())),
        _ => bail!("{} is not a key, which is a short PEM file", path.display()),
    }
}

/// Tells the user if others can read a secret.
fn warn_if_readable(path: &Path) {
    let Ok(metadata) = std::fs::metadata(path) else { return };
    let mode = metadata.permissions().mode() & 0o777;
    if path.as_os_str() != "-" && mode & 0o077 != 0 {
        // If stderr is closed, nobody wants to know.
        let _ = writeln!(
            std::io::stderr(),
            "cwasm: warning: others can use the secret key {} (mode {mode:04o}): `chmod 600` it",
            path.display()
        );
    }
}
