//! Loading while hashing: for a large module whose hash is not known yet, a guess tells which
//! entry it is. The entry is loaded while another thread hashes the module. Only if
//! the hash then gives the key that was guessed is the entry used; so a guess can be
//! wrong, stale or damaged, and costs no more than the time it takes.
//!
//! A guess is a small file, `guesses/LIKENESS`, which holds a key. The likeness
//! is a hash of the module's length, beginning and end.

use std::fs;
use std::path::PathBuf;

use cwasm_artifact::hex::parse_digest;
use cwasm_loader::Artifact;

use crate::key::{Key, Profile, Wasm, likeness};
use crate::layer::{Durable, Found, GUESSES, Layer, publish};

/// Smaller modules are hashed faster than a thread is started.
const MIN_BYTES: usize = 256 << 10;

/// What may be known about a module that is not hashed yet.
pub(crate) struct Guess {
    path: PathBuf,
    key: Option<Key>,
}

impl Guess {
    /// Looks for a guess. `None` if it would not help.
    pub(crate) fn of(layer: &Layer, wasm: &Wasm<'_>, profile: &Profile) -> Option<Self> {
        if wasm.is_hashed() || wasm.bytes().len() < MIN_BYTES {
            return None;
        }
        let path = layer.entries.join(GUESSES).join(likeness(wasm.bytes(), profile));
        let text = fs::read_to_string(&path).unwrap_or_default();
        Some(Self { path, key: parse_digest(&text).map(Key) })
    }

    /// Loads what was guessed while the module is hashed. `None` if there is nothing, or it is not the module's.
    pub(crate) fn load(
        &self,
        layer: &Layer,
        wasm: &Wasm<'_>,
        profile: &Profile,
    ) -> Option<Artifact> {
        let guessed = self.key?;
        let found = std::thread::scope(|scope| {
            let hashing = std::thread::Builder::new().name("cwasm-hash".into());
            // Without a thread, the module is hashed below.
            let hashing = hashing.spawn_scoped(scope, || wasm.sha256());
            let found = layer.load_any(&guessed);
            drop(hashing);
            found
        });
        match found {
            Some(artifact)
                if Key::new(wasm, profile) == guessed
                    && artifact.source_sha256() == wasm.sha256() =>
            {
                Some(artifact)
            }
            _ => None,
        }
    }

    /// Writes the guess down, for the next time, if it was another.
    pub(crate) fn learn(&self, key: &Key) {
        if self.key != Some(*key) {
            // Without it, the next hit takes longer.
            let _ = publish(&self.path, key.to_string().as_bytes(), Durable::No);
        }
    }
}

impl Layer {
    /// An entry, whatever module it is of.
    fn load_any(&self, key: &Key) -> Option<Artifact> {
        match self.load(key, None) {
            Ok(Found::Artifact(artifact)) => Some(*artifact),
            // The usual way finds out what is wrong.
            _ => None,
        }
    }
}
