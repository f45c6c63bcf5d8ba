//! The SHA-256 of modules that were seen before, found by a hash that is several times as fast.
//!
//! An entry is named by a SHA-256 of the module. For bytes that a caller has in memory, to compute it takes a fifth of the time that
//! loading the artifact takes. BLAKE3 is as hard to find collisions for, and takes a third of that. So who knows the one hash finds the
//! other: in memory if this process has seen the module, and otherwise, if it is large, in a file that is named by the first and holds the second.
//! To compare a module with a copy of it is faster again, so there are copies of what was asked for last, as far as they are small.
//!
//! A file says which BLAKE3 hash it is for, and is read only if nobody else could have written it. One that is damaged, or does not lead to an intact entry, costs
//! the time that it would have saved: the module is hashed then.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::RwLock;

use cwasm_artifact::hex::{Hex, parse_digest};

use crate::key::{Key, Profile, Wasm};
use crate::layer::{Durable, Layer, publish};

/// The folder of these files.
const HASHES: &str = "hashes";

/// Smaller modules are hashed as fast by SHA-256.
const FROM: usize = 4 << 10;

/// For smaller modules, to read a file takes as long as it saves.
const FILE_FROM: usize = 64 << 10;

/// How many modules a process remembers.
const MAX_SEEN: usize = 4096;

/// A longer module is not copied.
const MAX_COPY: usize = 256 << 10;

/// How many bytes the copies have together.
const MAX_COPIES: usize = 4 << 20;

/// Longer files are none of these.
const MAX_LENGTH: usize = 512;

/// Modules that this process has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen(RwLock<Known>);

#[derive(Debug, Default)]
struct Known {
    /// By BLAKE3.
    sha256: HashMap<[u8; 32], [u8; 32]>,
    /// Modules and their SHA-256.
    copies: Vec<(Box<[u8]>, [u8; 32])>,
    /// How many bytes those have.
    copied: usize,
}

impl Known {
    /// The SHA-256 of a module of which there is a copy.
    fn by_comparison(&self, wasm: &[u8]) -> Option<[u8; 32]> {
        let found = self.copies.iter().find(|(copy, _)| **copy == *wasm)?;
        Some(found.1)
    }

    fn insert(&mut self, wasm: &Wasm<'_>, sha256: [u8; 32]) {
        if self.sha256.len() >= MAX_SEEN {
            self.sha256.clear();
        }
        self.sha256.insert(wasm.blake3(), sha256);
        let bytes = wasm.bytes();
        if bytes.len() > MAX_COPY || self.by_comparison(bytes).is_some() {
            return;
        }
        if self.copied + bytes.len() > MAX_COPIES {
            self.copies.clear();
            self.copied = 0;
        }
        self.copies.push((bytes.into(), sha256));
        self.copied += bytes.len();
    }
}

impl Seen {
    /// A module, with its SHA-256 if it was seen before; `None` if the hash is known anyway.
    pub(crate) fn recall<'a>(&self, layer: &Layer, wasm: &Wasm<'a>) -> Option<Wasm<'a>> {
        if wasm.bytes().len() < FROM || wasm.is_hashed() {
            return None;
        }
        let known = || self.0.read().ok();
        if let Some(sha256) = known()?.by_comparison(wasm.bytes()) {
            return Some(wasm.hashed_as(sha256));
        }
        let blake3 = wasm.blake3();
        let here = known()?.sha256.get(&blake3).copied();
        let is_small = wasm.bytes().len() <= MAX_COPY;
        let sha256 = here.or_else(|| read(layer, wasm))?;
        if here.is_none() || is_small {
            self.insert(wasm, sha256);
        }
        Some(wasm.hashed_as(sha256))
    }

    /// Remembers the SHA-256 of a module that has an entry; also for others, if the cache may be written to.
    pub(crate) fn remember(&self, layer: &Layer, wasm: &Wasm<'_>, profile: &Profile, write: bool) {
        if wasm.bytes().len() < FROM {
            return;
        }
        let (blake3, sha256) = (wasm.blake3(), wasm.sha256());
        self.insert(wasm, sha256);
        if write && wasm.bytes().len() >= FILE_FROM {
            let record = Record { blake3, sha256, entry: Key::new(wasm, profile) };
            // That it cannot be written costs time, and nothing else.
            let _ = publish(&path(layer, wasm), record.text().as_bytes(), Durable::No);
        }
    }

    fn insert(&self, wasm: &Wasm<'_>, sha256: [u8; 32]) {
        if let Ok(mut known) = self.0.write() {
            known.insert(wasm, sha256);
        }
    }
}

/// The SHA-256 that is on file.
fn read(layer: &Layer, wasm: &Wasm<'_>) -> Option<[u8; 32]> {
    if wasm.bytes().len() < FILE_FROM {
        return None;
    }
    let text = layer.directory.read(path(layer, wasm), MAX_LENGTH).ok()?;
    let record = Record::parse(str::from_utf8(&text).ok()?)?;
    (record.blake3 == wasm.blake3()).then_some(record.sha256)
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
    fn what_was_seen_is_known_again() {
        let folder = tempfile::tempdir().unwrap();
        let layer = Layer::new(&directory::create(&folder.path().join("cache")).unwrap());
        let bytes = vec![1; FROM];
        let seen = Seen::default();
        assert!(seen.recall(&layer, &Wasm::new(&bytes)).is_none());
        seen.remember(&layer, &Wasm::new(&bytes), &Profile::default(), true);
        let known = seen.recall(&layer, &Wasm::new(&bytes)).unwrap();
        assert!(known.is_hashed());
        assert_eq!(known.sha256(), Wasm::new(&bytes).sha256());
        // Others are not, nor are small ones, nor is anything looked for whose hash is known.
        assert!(seen.recall(&layer, &Wasm::new(&vec![2; FROM])).is_none());
        seen.remember(&layer, &Wasm::new(&bytes[1..]), &Profile::default(), true);
        assert!(seen.recall(&layer, &Wasm::new(&bytes[1..])).is_none());
        assert!(seen.recall(&layer, &known).is_none());
        // What is remembered is bounded, and right for those that are not copied, too.
        for number in 0..2 * MAX_SEEN {
            let mut bytes = vec![3; FROM];
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            seen.remember(&layer, &Wasm::new(&bytes), &Profile::default(), false);
            assert!(seen.recall(&layer, &Wasm::new(&bytes)).is_some());
        }
        let known = seen.0.read().unwrap();
        assert!(known.sha256.len() <= MAX_SEEN && known.copied <= MAX_COPIES);
        assert_eq!(known.copied, known.copies.iter().map(|(copy, _)| copy.len()).sum::<usize>());
        drop(known);
        for length in [MAX_COPY, MAX_COPY + 1] {
            let (bytes, other) = (vec![4; length], vec![5; length]);
            seen.remember(&layer, &Wasm::new(&bytes), &Profile::default(), false);
            let known = seen.recall(&layer, &Wasm::new(&bytes)).unwrap();
            assert_eq!(known.sha256(), Wasm::new(&bytes).sha256());
            assert!(seen.recall(&layer, &Wasm::new(&other)).is_none());
        }
    }

    #[test]
    fn only_what_this_user_wrote_is_believed() {
        let folder = tempfile::tempdir().unwrap();
        let layer = Layer::new(&directory::create(&folder.path().join("cache")).unwrap());
        let (bytes, other) = (vec![1; FILE_FROM], vec![2; FILE_FROM]);
        let profile = Profile::default();
        // Each time another process.
        let recalled = |bytes: &[u8]| {
            let known = Seen::default().recall(&layer, &Wasm::new(bytes))?;
            Some(known.sha256() == Wasm::new(bytes).sha256())
        };
        let remember = |bytes: &[u8], write| {
            Seen::default().remember(&layer, &Wasm::new(bytes), &profile, write);
        };
        remember(&bytes, false);
        assert_eq!(recalled(&bytes), None);
        remember(&bytes, true);
        assert_eq!(recalled(&bytes), Some(true));
        assert_eq!(recalled(&other), None);
        remember(&bytes[1..], true);
        assert_eq!(recalled(&bytes[1..]), None);

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
