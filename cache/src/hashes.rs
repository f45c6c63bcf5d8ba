//! The SHA-256 of modules that were seen before, found by a hash that is several times as fast.
//!
//! An entry is named by a SHA-256 of the module. For bytes that a caller has in memory, to compute it takes a fifth of the time that
//! loading the artifact takes. BLAKE3 is as hard to find collisions for, and takes a quarter of that. So a file that is named by the one holds the other.
//!
//! A file says which BLAKE3 hash it is for, and is read only if nobody else could have written it. One that is damaged, or does not lead to an intact entry, costs
//! the time that it would have saved: the module is hashed then.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use cwasm_artifact::hex::{Hex, parse_digest};

use crate::key::{Key, Profile, Wasm};
use crate::layer::{Durable, Layer, publish};

/// The folder of these files.
const HASHES: &str = "hashes";

/// For smaller modules, to read a file takes as long as it saves.
const FROM: usize = 16 << 10;

/// Longer files are none of these.
const MAX_LENGTH: usize = 512;

/// A module, with its SHA-256 if it was seen before; `None` if the hash is known anyway.
pub(crate) fn recall<'a>(layer: &Layer, wasm: &Wasm<'a>) -> Option<Wasm<'a>> {
    if wasm.bytes().len() < FROM || wasm.is_hashed() {
        return None;
    }
    let text = layer.directory.read(path(layer, wasm), MAX_LENGTH).ok()?;
    let record = Record::parse(str::from_utf8(&text).ok()?)?;
    (record.blake3 == wasm.blake3()).then(|| wasm.hashed_as(record.sha256))
}

/// Remembers the SHA-256 of a module that has an entry.
pub(crate) fn remember(layer: &Layer, wasm: &Wasm<'_>, profile: &Profile) {
    if wasm.bytes().len() < FROM {
        return;
    }
    let (blake3, sha256) = (wasm.blake3(), wasm.sha256());
    let record = Record { blake3, sha256, entry: Key::new(wasm, profile) };
    // That it cannot be remembered costs time, and nothing else.
    let _ = publish(&path(layer, wasm), record.text().as_bytes(), Durable::No);
}

/// Removes what leads to entries that are gone.
pub(crate) fn prune(layer: &Layer) {
    for file in fs::read_dir(layer.entries.join(HASHES)).into_iter().flatten().flatten() {
        let text = fs::read_to_string(file.path()).unwrap_or_default();
        if Record::parse(&text).is_none_or(|record| !layer.path(&record.entry).exists()) {
            let _ = fs::remove_file(file.path());
        }
    }
}

fn path(layer: &Layer, wasm: &Wasm<'_>) -> PathBuf {
    layer.entries.join(HASHES).join(Hex(&wasm.blake3()[..16]).to_string())
}

/// What a file says.
#[derive(Debug, PartialEq, Eq)]
struct Record {
    blake3: [u8; 32],
    sha256: [u8; 32],
    /// An entry of the module: as long as it is there, the file is of use.
    entry: Key,
}

impl Record {
    fn text(&self) -> String {
        let mut text = String::new();
        let Self { blake3, sha256, entry: Key(entry) } = self;
        for (name, hash) in [("blake3", blake3), ("sha256", sha256), ("entry", entry)] {
            let _ = writeln!(text, "{name} {}", Hex(hash));
        }
        text
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let mut hash = |name| parse_digest(lines.next()?.strip_prefix(name)?.strip_prefix(' ')?);
        let record =
            Self { blake3: hash("blake3")?, sha256: hash("sha256")?, entry: Key(hash("entry")?) };
        lines.next().is_none().then_some(record)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::*;
    use crate::directory;

    #[test]
    fn only_what_this_user_wrote_is_believed() {
        let folder = tempfile::tempdir().unwrap();
        let layer = Layer::new(&directory::create(&folder.path().join("cache")).unwrap());
        let (bytes, other) = (vec![1; FROM], vec![2; FROM]);
        let profile = Profile::default();
        let recalled = |bytes: &[u8]| {
            let seen = recall(&layer, &Wasm::new(bytes))?;
            assert!(seen.is_hashed());
            Some(seen.sha256() == Wasm::new(bytes).sha256())
        };
        assert_eq!(recalled(&bytes), None);
        remember(&layer, &Wasm::new(&bytes), &profile);
        assert_eq!(recalled(&bytes), Some(true));
        assert_eq!(recalled(&other), None);
        // Small ones, and those whose hash is known, are not looked for.
        remember(&layer, &Wasm::new(&bytes[1..]), &profile);
        assert_eq!(recalled(&bytes[1..]), None);
        let known = Wasm::new(&bytes);
        known.sha256();
        assert!(recall(&layer, &known).is_none());

        let file = path(&layer, &Wasm::new(&bytes));
        fs::copy(&file, path(&layer, &Wasm::new(&other))).unwrap();
        assert_eq!(recalled(&other), None);
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        for path in [&file, file.parent().unwrap()] {
            mode(path, 0o777);
            assert_eq!(recalled(&bytes), None);
            mode(path, 0o700);
            assert_eq!(recalled(&bytes), Some(true));
        }
        let moved = file.with_extension("moved");
        fs::rename(&file, &moved).unwrap();
        std::os::unix::fs::symlink(&moved, &file).unwrap();
        assert_eq!(recalled(&bytes), None);
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let record = Record { blake3: [1; 32], sha256: [2; 32], entry: Key([3; 32]) };
        let text = record.text();
        assert!(text.len() < MAX_LENGTH);
        assert_eq!(Record::parse(&text), Some(record));
        for wrong in ["", "blake3", &text[1..], &text[..text.len() - 2], &format!("{text}\n")] {
            assert_eq!(Record::parse(wrong), None, "{wrong}");
        }
    }
}
