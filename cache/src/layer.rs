//! One directory of entries.
//!
//! ```text
//! DIR/CACHEDIR.TAG               so that backups leave it out
//!     statistics                 counters, added up over all processes
//!     corrupt/NAME               entries that were set aside
//!     COMPATIBILITY/about        which cwasm wrote what is here, as text
//!                  /locks/NN     held by who compiles an entry whose key begins with NN
//!                  /NN/REST.cwasm
//!                  /NN/.REST.PID.N.tmp
//!                  /hashes/HASH               see `hashes`
//!                  /functions/LINEAGE.functions   see `functions`
//! ```
//!
//! An entry is written to a temporary file, which is renamed when it is whole and on the disk. So
//! entries appear whole or not at all, whenever a process ends. They are only ever
//! renamed or unlinked, never written to: who has opened one reads the whole of it,
//! even if it is pruned meanwhile. That is why loading takes no lock.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use cwasm_artifact::hex::Hex;
use cwasm_loader::{Artifact, CacheDir, LoadError, Trust};

use crate::directory;
use crate::error::Error;
use crate::key::{Key, compatibility, compatibility_id};

/// The folder of what was set aside.
pub(crate) const CORRUPT: &str = "corrupt";
/// The file that says which cwasm wrote the entries in its folder.
pub(crate) const ABOUT: &str = "about";
/// The suffix of entries.
pub(crate) const SUFFIX: &str = "cwasm";

/// The folder, and the suffix, of files with the code of functions.
pub(crate) const FUNCTIONS: &str = "functions";

/// What [`Layer::load`] found.
#[derive(Debug)]
pub(crate) enum Found {
    /// An intact artifact.
    Artifact(Box<Artifact>),
    /// Nothing that can be loaded here.
    Nothing,
    /// Something that is not what was put there.
    Corrupt,
}

/// One directory of entries.
#[derive(Debug)]
pub(crate) struct Layer {
    /// The directory.
    pub(crate) root: PathBuf,
    /// The folder in it of what this version and machine can read.
    pub(crate) entries: PathBuf,
    /// The directory, for reading what only this user can have written.
    pub(crate) directory: CacheDir,
    /// The reason to run what is in it.
    trust: Trust,
}

impl Layer {
    /// The layer in a directory.
    pub(crate) fn new(directory: &CacheDir) -> Self {
        let root = directory.path().to_owned();
        let entries = root.join(compatibility_id());
        Self { entries, root, directory: directory.clone(), trust: Trust::cache(directory) }
    }

    /// Makes what a layer has besides entries. That some of it cannot be made shows
    /// when an entry cannot be written, and is no error before.
    pub(crate) fn prepare(&self) {
        let _ = make(&self.entries.join("locks"));
        let _ = write_new(
            &self.root.join("CACHEDIR.TAG"),
            b"Signature: 8a477f597d28d172789f06886806bc55\n# Compiled WebAssembly of cwasm. May be deleted at any time.\n",
        );
        let _ = write_new(&self.entries.join(ABOUT), compatibility().as_bytes());
    }

    /// Where an entry is.
    pub(crate) fn path(&self, key: &Key) -> PathBuf {
        let (folder, rest) = key.0.split_at(1);
        self.entries.join(Hex(folder).to_string()).join(format!("{}.{SUFFIX}", Hex(rest)))
    }

    /// Opens an entry, whatever module it is of.
    pub(crate) fn open(&self, key: &Key) -> Result<Artifact, LoadError> {
        Artifact::load(self.path(key), &self.trust)
    }

    /// Loads an entry, which must be of the module with this SHA-256.
    ///
    /// # Errors
    /// If there is an intact entry, and no memory for it.
    pub(crate) fn load(&self, key: &Key, source_sha256: &[u8; 32]) -> Result<Found, Error> {
        match self.open(key) {
            // A file that was renamed by hand is intact, and is not this entry.
            Ok(artifact) if artifact.source_sha256() != *source_sha256 => Ok(Found::Corrupt),
            Ok(artifact) => Ok(Found::Artifact(Box::new(artifact))),
            Err(LoadError::Refused(report)) if report.is_miss() => Ok(Found::Nothing),
            Err(
                LoadError::Refused(_) | LoadError::NotAFile { .. } | LoadError::CacheEntry { .. },
            ) => Ok(Found::Corrupt),
            Err(error @ LoadError::Map { .. }) => Err(error.into()),
            // It is not there, or cannot be read: that costs a compilation.
            Err(_) => Ok(Found::Nothing),
        }
    }

    /// Remembers that an entry was used, to the precision of `grain`.
    pub(crate) fn touch(&self, key: &Key, grain: Duration) {
        let path = self.path(key);
        let used = fs::metadata(&path).and_then(|metadata| metadata.modified());
        let now = SystemTime::now();
        if used.is_ok_and(|used| now.duration_since(used).is_ok_and(|age| age >= grain)) {
            // If it fails, the entry looks older than it is, and goes earlier.
            let _ = File::open(path).and_then(|file| file.set_modified(now));
        }
    }

    /// Writes an entry.
    pub(crate) fn publish(&self, key: &Key, bytes: &[u8]) -> io::Result<()> {
        publish(&self.path(key), bytes, Durable::Yes)
    }

    /// Moves an entry to where nobody looks for it, for whoever wants to know what
    /// happened to it. If that cannot be done, it is removed.
    pub(crate) fn set_aside(&self, path: &Path) {
        let corrupt = self.root.join(CORRUPT);
        let name = path.file_name().unwrap_or(path.as_os_str());
        let moved = make(&corrupt).and_then(|()| fs::rename(path, corrupt.join(name)));
        if moved.is_err() {
            let _ = fs::remove_file(path).or_else(|_| fs::remove_dir_all(path));
        }
    }
}

/// Makes a directory for this user only, if it is not there.
fn make(path: &Path) -> io::Result<()> {
    directory::private(path)
}

/// Writes a small file, unless there is one.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    publish(path, bytes, Durable::No)
}

/// Whether a file must be on the disk before it gets its name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durable {
    /// It must.
    Yes,
    /// Losing it with the machine costs little, and is noticed.
    No,
}

/// Puts a file under a name when it is whole.
pub(crate) fn publish(path: &Path, bytes: &[u8], durable: Durable) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let folder = path.parent().unwrap_or(Path::new("."));
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => make(folder)?,
        _ => {}
    }
    let stem = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy();
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let temporary = folder.join(format!(".{stem}.{}.{number}.tmp", std::process::id()));
    let result = write_and_rename(&temporary, path, bytes, durable);
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result?;
    // The new name is on the disk when its directory is.
    if durable == Durable::Yes { File::open(folder)?.sync_all() } else { Ok(()) }
}

fn write_and_rename(
    temporary: &Path,
    path: &Path,
    bytes: &[u8],
    durable: Durable,
) -> io::Result<()> {
    // One that is left of a process that ended, whose number this one has now, is overwritten.
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(temporary)?;
    // Who prunes removes temporary files that nobody has locked.
    file.try_lock().map_err(io::Error::other)?;
    file.write_all(bytes)?;
    if durable == Durable::Yes {
        file.sync_all()?;
    }
    fs::rename(temporary, path)
}
