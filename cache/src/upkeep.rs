//! Looking through a directory: what is in it, is it intact, and what can go.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cwasm_artifact::check::check;

use crate::error::Error;
use crate::hashes;
use crate::layer::{ABOUT, CORRUPT, FUNCTIONS, Layer, SUFFIX};

/// Folders of other versions go when nothing in them was used for this long.
const FORGOTTEN: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// An entry of the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// Its file.
    pub path: PathBuf,
    /// Its key; empty if the file is not named as one.
    pub key: String,
    /// How many bytes it takes.
    pub bytes: u64,
    /// When it was last used, to the precision of an hour.
    pub used: SystemTime,
    /// Whether this version of cwasm could load it.
    pub current: bool,
    /// Whether it was set aside because it is corrupt.
    pub corrupt: bool,
    /// Whether it is an artifact, or else the code of functions.
    pub artifact: bool,
}

/// What [`crate::Cache::verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// How many entries are intact.
    pub intact: u64,
    /// Entries that are not, and were set aside.
    pub corrupt: Vec<PathBuf>,
    /// How many entries are of other versions, which only those can check.
    pub other: u64,
}

/// What [`crate::Cache::prune`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pruned {
    /// How many files were removed.
    pub removed: u64,
    /// How many bytes they had.
    pub removed_bytes: u64,
    /// How many files are left.
    pub kept: u64,
    /// How many bytes they have.
    pub kept_bytes: u64,
}

/// Which entries of other versions to remove.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Others {
    /// All.
    Remove,
    /// Those that nobody uses any more.
    Forgotten,
}

/// Every entry, those used last first.
pub(crate) fn list(layer: &Layer) -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::new();
    let root = fs::read_dir(&layer.root).map_err(Error::io("read", &layer.root))?;
    for folder in root.flatten() {
        let path = folder.path();
        if !folder.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let corrupt = folder.file_name() == CORRUPT;
        if !corrupt && !path.join(ABOUT).is_file() {
            // Not ours.
            continue;
        }
        let current = path == layer.entries;
        walk(&path, &mut |file, name| {
            let in_folder = file.parent().and_then(Path::file_name).unwrap_or_default();
            let Some((stem, suffix @ (SUFFIX | FUNCTIONS))) = name.rsplit_once('.') else { return };
            let Ok(metadata) = fs::symlink_metadata(file) else { return };
            let key = format!("{}{stem}", in_folder.to_string_lossy());
            let is_key = key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
            entries.push(Entry {
                key: if is_key { key } else { String::new() },
                bytes: metadata.len(),
                used: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                current,
                corrupt,
                artifact: suffix == SUFFIX,
                path: file.to_owned(),
            });
        });
    }
    entries.sort_by(|a, b| b.used.cmp(&a.used).then_with(|| a.path.cmp(&b.path)));
    Ok(entries)
}

/// Calls `visit` with each file at most two folders below `folder`, and its name.
fn walk(folder: &Path, visit: &mut dyn FnMut(&Path, &str)) {
    fn at(folder: &Path, depth: u32, visit: &mut dyn FnMut(&Path, &str)) {
        // Somebody else may be pruning too: what is gone is gone.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && depth > 0 => at(&entry.path(), depth - 1, visit),
                Ok(kind) if !kind.is_dir() => {
                    visit(&entry.path(), &entry.file_name().to_string_lossy());
                }
                _ => {}
            }
        }
    }
    at(folder, 1, visit);
}

/// Reads every entry, and sets aside what is not intact.
pub(crate) fn verify(layer: &Layer) -> Result<Verified, Error> {
    let mut verified = Verified::default();
    for entry in list(layer)?.into_iter().filter(|entry| !entry.corrupt) {
        if !entry.current {
            verified.other += 1;
            continue;
        }
        match fs::read(&entry.path) {
            // Whether the code of functions is intact is found out when it is used.
            Ok(_) if !entry.artifact => {}
            Ok(bytes) if check(&bytes, None).is_ok() => verified.intact += 1,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            _ => {
                layer.set_aside(&entry.path);
                verified.corrupt.push(entry.path);
            }
        }
    }
    Ok(verified)
}

/// Removes what is left of processes that ended, what other versions wrote, and then the
/// entries used longest ago, until at most `limit` bytes are left.
///
/// Whoever is loading an entry has opened its file, and goes on reading it.
pub(crate) fn prune(layer: &Layer, limit: u64, others: Others) -> Result<Pruned, Error> {
    let mut pruned = Pruned::default();
    remove_temporary_files(&layer.root);
    let mut entries = list(layer)?;
    let now = SystemTime::now();
    let is_old = |entry: &Entry| now.duration_since(entry.used).is_ok_and(|age| age > FORGOTTEN);
    let folder = |entry: &Entry| entry.path.parent().and_then(Path::parent).map(Path::to_owned);
    let alive: Vec<_> = entries.iter().filter(|entry| !is_old(entry)).filter_map(folder).collect();
    let mut remove = |entry: &Entry| {
        if fs::remove_file(&entry.path).is_ok() {
            pruned.removed += 1;
            pruned.removed_bytes += entry.bytes;
        }
    };
    entries.retain(|entry| {
        let goes = !entry.current
            && !entry.corrupt
            && (others == Others::Remove || folder(entry).is_none_or(|it| !alive.contains(&it)));
        if goes {
            remove(entry);
        }
        !goes
    });
    // What was set aside goes before anything that can be used.
    entries.sort_by_key(|entry| entry.corrupt);
    let (mut kept, mut kept_bytes) = (0, 0_u64);
    for entry in &entries {
        if kept_bytes.saturating_add(entry.bytes) > limit {
            remove(entry);
        } else {
            kept += 1;
            kept_bytes += entry.bytes;
        }
    }
    hashes::prune(layer);
    let kept_paths = entries.iter().filter_map(folder).collect();
    remove_empty_folders(layer, &kept_paths, others);
    Ok(Pruned { kept, kept_bytes, ..pruned })
}

/// Removes folders of other versions that have no entries.
fn remove_empty_folders(layer: &Layer, kept: &HashSet<PathBuf>, others: Others) {
    let now = SystemTime::now();
    for folder in fs::read_dir(&layer.root).into_iter().flatten().flatten() {
        let path = folder.path();
        let Ok(about) = fs::metadata(path.join(ABOUT)).and_then(|about| about.modified()) else {
            continue;
        };
        // One that is new may get its first entry at this moment.
        let is_old = now.duration_since(about).is_ok_and(|age| age > FORGOTTEN);
        if path != layer.entries && !kept.contains(&path) && (others == Others::Remove || is_old) {
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// Removes the temporary files that no process has locked: theirs have ended.
fn remove_temporary_files(root: &Path) {
    for folder in fs::read_dir(root).into_iter().flatten().flatten() {
        if !folder.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        walk(&folder.path(), &mut |path, name| remove_if_left(path, name));
    }
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        remove_if_left(&entry.path(), &entry.file_name().to_string_lossy());
    }
}

fn remove_if_left(path: &Path, name: &str) {
    if !(name.starts_with('.') && name.ends_with(".tmp")) {
        return;
    }
    // One that was renamed meanwhile is another file by now.
    let unlocked = File::open(path).is_ok_and(|file| {
        let same = || {
            let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
            let opened = file.metadata().map(identity).ok();
            opened.is_some() && fs::symlink_metadata(path).map(identity).ok() == opened
        };
        file.try_lock_shared().is_ok() && same()
    });
    if unlocked {
        let _ = fs::remove_file(path);
    }
}

/// Removes everything that is the cache's own. Returns how many entries there were.
pub(crate) fn clear(layer: &Layer) -> Result<Pruned, Error> {
    let pruned = prune(layer, 0, Others::Remove)?;
    for folder in fs::read_dir(&layer.root).into_iter().flatten().flatten() {
        let path = folder.path();
        let ours = folder.file_name() == CORRUPT || path.join(ABOUT).is_file();
        // Locks stay: one that is held and removed would not be seen by others.
        if ours && path != layer.entries {
            let _ = fs::remove_dir_all(path);
        }
    }
    Ok(pruned)
}
