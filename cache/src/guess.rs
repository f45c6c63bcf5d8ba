//! Which entry a large module probably has, told from a few of its bytes.
//!
//! An entry is named by a hash of the whole module. For a large module that takes half as long as loading its
//! artifact, and could only begin after it. So a link, named by a sample of the module's bytes, leads to the entry
//! that such a module had last. It is loaded while another thread hashes the module. The guess is right if
//! the hash says so; if not, nothing was lost but time, and the entry is looked up by its name.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;

use cwasm_artifact::hex::{Hex, parse_digest};
use cwasm_loader::Artifact;
use sha2::{Digest as _, Sha256};

use crate::key::{Key, Profile, Wasm};
use crate::layer::Layer;

/// The folder of links.
const GUESSES: &str = "guesses";

/// For smaller modules, starting a thread takes as long as it saves.
const FROM: usize = 192 << 10;

/// How many pieces of a module are sampled, and how long each is.
const PIECES: usize = 32;
const PIECE: usize = 64;

/// The entry of a module, loaded while the module is hashed; `None` if there is no guess, or a wrong one.
pub(crate) fn load(layer: &Layer, wasm: &Wasm<'_>, profile: &Profile) -> Option<(Key, Artifact)> {
    if !worthwhile(wasm) {
        return None;
    }
    let guess = key_of(&fs::read_link(link(layer, wasm, profile)).ok()?)?;
    let artifact = thread::scope(|scope| {
        let hashing = thread::Builder::new().spawn_scoped(scope, || {
            wasm.sha256();
        });
        // Without a thread, the module is hashed below.
        let artifact = hashing.is_ok().then(|| layer.open(&guess).ok()).flatten();
        artifact.filter(|artifact| artifact.source_sha256() == wasm.sha256())
    })?;
    (Key::new(wasm, profile) == guess).then_some((guess, artifact))
}

/// Remembers which entry a module has.
pub(crate) fn remember(layer: &Layer, wasm: &Wasm<'_>, profile: &Profile, key: &Key) {
    if !worthwhile(wasm) {
        return;
    }
    let link = link(layer, wasm, profile);
    let entry = layer.path(key);
    let Ok(inside) = entry.strip_prefix(&layer.entries) else { return };
    let target = Path::new("..").join(inside);
    if fs::read_link(&link).is_ok_and(|known| known == target) {
        return;
    }
    // That it cannot be remembered costs time, and nothing else.
    let _ = crate::directory::private(&layer.entries.join(GUESSES));
    let _ = fs::remove_file(&link);
    let _ = symlink(target, link);
}

/// Removes what leads to entries that are gone.
pub(crate) fn prune(layer: &Layer) {
    for link in fs::read_dir(layer.entries.join(GUESSES)).into_iter().flatten().flatten() {
        if fs::metadata(link.path()).is_err() {
            let _ = fs::remove_file(link.path());
        }
    }
}

fn worthwhile(wasm: &Wasm<'_>) -> bool {
    // To ask for the number of processors takes longer than to load a small artifact.
    static SEVERAL: OnceLock<bool> = OnceLock::new();
    let several = || thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
    wasm.bytes().len() >= FROM && *SEVERAL.get_or_init(several)
}

/// Where the guess for modules that look like this one is.
fn link(layer: &Layer, wasm: &Wasm<'_>, profile: &Profile) -> PathBuf {
    let bytes = wasm.bytes();
    let mut hash = Sha256::new_with_prefix(profile.text());
    hash.update(bytes.len().to_le_bytes());
    // Pieces at equal distances, the last of which ends with the module.
    let last = bytes.len().saturating_sub(PIECE);
    for piece in 0..PIECES {
        let start = last / (PIECES - 1) * piece;
        hash.update(&bytes[start..bytes.len().min(start + PIECE)]);
    }
    hash.update(&bytes[last..]);
    let sample: [u8; 32] = hash.finalize().into();
    layer.entries.join(GUESSES).join(Hex(&sample[..16]).to_string())
}

/// The key in the path of an entry.
fn key_of(entry: &Path) -> Option<Key> {
    let folder = entry.parent()?.file_name()?.to_str()?;
    let rest = entry.file_stem()?.to_str()?;
    parse_digest(&format!("{folder}{rest}")).map(Key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_in_the_path() {
        let key = Key([0xa7; 32]);
        let digits = key.to_string();
        let path = format!("../{}/{}.cwasm", &digits[..2], &digits[2..]);
        assert_eq!(key_of(Path::new(&path)), Some(key));
        for wrong in ["", "..", "../ab/cd.cwasm", "../zz/00.cwasm", &path[1..path.len() - 7]] {
            assert_eq!(key_of(Path::new(wrong)), None, "{wrong}");
        }
    }
}
