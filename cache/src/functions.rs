//! The code of functions, for modules that are compiled again after a change: one file for all
//! functions of a module.
//!
//! ```text
//! magic 8 | SHA-256 of what follows 32 | count 8 | count x (name 32, offset 8, length 8) | data
//! ```
//!
//! A file holds what the latest compilation used, found by the module's *lineage*: its
//! imports, exports and settings. It replaces the previous one in one step, and is whole
//! or found out by its digest, which is why it need not be on the disk before it is renamed.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::ops::Range;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

use cwasm_artifact::hex::Hex;
use cwasm_compiler::{FunctionCache, Name};
use sha2::{Digest as _, Sha256};

use crate::layer::{self, FUNCTIONS, Layer};
use crate::statistics::{Counters, count};

const MAGIC: [u8; 8] = *b"cwasmfn1";
const HEAD: usize = 8 + 32 + 8;
const RECORD: usize = 32 + 8 + 8;

/// Larger files are neither written nor read.
const MAX_BYTES: u64 = 1 << 30;

/// The functions of one module, while it is compiled.
pub(crate) struct Functions<'a> {
    layer: &'a Layer,
    counters: &'a Counters,
    old: OnceLock<(PathBuf, Pack)>,
    new: Mutex<HashMap<Name, Vec<u8>>>,
}

impl<'a> Functions<'a> {
    pub(crate) fn new(layer: &'a Layer, counters: &'a Counters) -> Self {
        Self { layer, counters, old: OnceLock::new(), new: Mutex::default() }
    }

    /// Keeps what the compilation used. Returns how many bytes were written.
    pub(crate) fn keep(self) -> io::Result<u64> {
        let Some((path, old)) = self.old.into_inner() else { return Ok(0) };
        let new = self.new.into_inner().unwrap_or_default();
        let used = |place: &&Place| place.used.load(Ordering::Relaxed);
        if new.is_empty() && old.places.values().all(|place| used(&place)) {
            return Ok(0);
        }
        let mut entries: Vec<(&Name, &[u8])> = old
            .places
            .iter()
            .filter(|(_, place)| used(place))
            .map(|(name, place)| (name, &old.bytes[place.range.clone()]))
            .collect();
        entries.extend(new.iter().map(|(name, bytes)| (name, &bytes[..])));
        entries.sort_by_key(|(name, _)| **name);
        entries.dedup_by_key(|(name, _)| **name);
        let bytes = write(&entries);
        if bytes.len() as u64 > MAX_BYTES {
            return Ok(0);
        }
        layer::publish(&path, &bytes, layer::Durable::No)?;
        Ok(bytes.len() as u64)
    }
}

impl FunctionCache for Functions<'_> {
    fn begin(&self, lineage: &Name) {
        self.old.get_or_init(|| {
            let name = format!("{}.{FUNCTIONS}", Hex(&lineage[..16]));
            let path = self.layer.entries.join(FUNCTIONS).join(name);
            let pack = match read(&path, self.layer) {
                Ok(bytes) => Pack::new(bytes).unwrap_or_else(|| {
                    count(&self.counters.corrupt);
                    self.layer.set_aside(&path);
                    Pack::default()
                }),
                // It is not there, or cannot be read: everything is compiled.
                Err(_) => Pack::default(),
            };
            (path, pack)
        });
    }

    fn get(&self, name: &Name) -> Option<Cow<'_, [u8]>> {
        let (_, pack) = self.old.get()?;
        if let Some(place) = pack.places.get(name) {
            place.used.store(true, Ordering::Relaxed);
            return Some(Cow::Borrowed(&pack.bytes[place.range.clone()]));
        }
        // Functions that are alike are compiled once.
        self.new.lock().ok()?.get(name).map(|bytes| Cow::Owned(bytes.clone()))
    }

    fn put(&self, name: &Name, bytes: Vec<u8>) {
        if let Ok(mut new) = self.new.lock() {
            new.insert(*name, bytes);
        }
    }

    fn count(&self, reused: bool) {
        let counters = self.counters;
        count(if reused { &counters.functions_reused } else { &counters.functions_compiled });
    }
}

/// Reads a file, if it belongs to the owner of the cache alone, as do the directories that lead to it.
fn read(path: &Path, layer: &Layer) -> io::Result<Vec<u8>> {
    let owner = fs::metadata(&layer.root)?.uid();
    let ours = |metadata: &fs::Metadata| metadata.uid() == owner && metadata.mode() & 0o022 == 0;
    let refused = || io::Error::from(io::ErrorKind::PermissionDenied);
    for directory in path.ancestors().skip(1).take_while(|directory| **directory != *layer.root) {
        let metadata = fs::symlink_metadata(directory)?;
        if !metadata.is_dir() || !ours(&metadata) {
            return Err(refused());
        }
    }
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || !ours(&metadata) || metadata.len() > MAX_BYTES {
        return Err(refused());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What follows the digest, if it matches.
fn payload(bytes: &[u8]) -> Option<&[u8]> {
    let rest = bytes.strip_prefix(&MAGIC)?;
    let (digest, payload) = rest.split_first_chunk::<32>()?;
    (*digest == <[u8; 32]>::from(Sha256::digest(payload))).then_some(payload)
}

fn write(entries: &[(&Name, &[u8])]) -> Vec<u8> {
    let data: usize = entries.iter().map(|(_, bytes)| bytes.len()).sum();
    let mut out = Vec::with_capacity(HEAD + entries.len() * RECORD + data);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[0; 32]);
    out.extend_from_slice(&(entries.len() as u64).to_le_bytes());
    let mut offset = (HEAD + entries.len() * RECORD) as u64;
    for (name, bytes) in entries {
        out.extend_from_slice(*name);
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        offset += bytes.len() as u64;
    }
    for (_, bytes) in entries {
        // Memory cannot fail to be written to.
        let _ = out.write_all(bytes);
    }
    let digest: [u8; 32] = Sha256::digest(&out[40..]).into();
    out[8..40].copy_from_slice(&digest);
    out
}

/// A file in memory.
#[derive(Debug, Default)]
struct Pack {
    bytes: Vec<u8>,
    places: HashMap<Name, Place>,
}

#[derive(Debug)]
struct Place {
    range: Range<usize>,
    used: AtomicBool,
}

impl Pack {
    /// `None` if the bytes are not what was written.
    fn new(bytes: Vec<u8>) -> Option<Self> {
        let (count, rest) = payload(&bytes)?.split_first_chunk::<8>()?;
        let count = usize::try_from(u64::from_le_bytes(*count)).ok()?;
        let records = rest.get(..count.checked_mul(RECORD)?)?;
        let mut places = HashMap::with_capacity(count);
        for record in records.chunks_exact(RECORD) {
            let (name, numbers) = record.split_first_chunk::<32>()?;
            let (offset, length) = numbers.split_first_chunk::<8>()?;
            let offset = usize::try_from(u64::from_le_bytes(*offset)).ok()?;
            let length = u64::from_le_bytes(length.try_into().ok()?);
            let end = offset.checked_add(usize::try_from(length).ok()?)?;
            bytes.get(offset..end)?;
            places.insert(*name, Place { range: offset..end, used: AtomicBool::new(false) });
        }
        Some(Self { bytes, places })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_comes_back_and_damage_is_found() {
        let (a, b) = ([1; 32], [2; 32]);
        let bytes = write(&[(&a, b"first"), (&b, b"")]);
        let pack = Pack::new(bytes.clone()).unwrap();
        assert_eq!(&pack.bytes[pack.places[&a].range.clone()], b"first");
        assert!(pack.places[&b].range.is_empty());
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(Pack::new(damaged).is_none(), "{at}");
            assert!(Pack::new(bytes[..at].to_vec()).is_none(), "{at}");
        }
        // A digest that fits does not make wrong offsets right.
        for (at, value) in [(40, 9_u8), (40 + 8 + 32, 0xff), (40 + 8 + 40, 0xff), (47, 0xff)] {
            let mut wrong = bytes.clone();
            wrong[at] = value;
            let digest: [u8; 32] = Sha256::digest(&wrong[40..]).into();
            wrong[8..40].copy_from_slice(&digest);
            assert!(Pack::new(wrong).is_none(), "{at}");
        }
    }
}
