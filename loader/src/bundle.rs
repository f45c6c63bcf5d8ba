//! Bundles: files with several artifacts, of which the best for this host is loaded.

use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use cwasm_artifact::bundle::{BundleEntry, BundleError, BundleIndex, HEAD_SIZE, front_length};
use cwasm_artifact::check::Host;
use cwasm_artifact::choice::Needs;
use cwasm_artifact::digest::Digest;
use cwasm_artifact::header::TREE_OFFSET;

use crate::artifact::Artifact;
use crate::error::LoadError;
use crate::source::{Opened, Source};
use crate::trust::Trust;

/// A file with several artifacts: several modules, or one module for several targets and CPUs. `cwasm bundle` writes it.
///
/// A bundle needs no reason to be trusted: what is picked from it does, as if it had a file of its own.
///
/// ```no_run
/// use cwasm_loader::{Bundle, Trust};
/// # fn f(trust: &Trust) -> Result<(), cwasm_loader::LoadError> {
/// let artifact = Bundle::open("app.bundle")?.pick("app")?.load(trust)?;
/// # Ok(()) }
/// ```
pub struct Bundle<'a> {
    source: Opened<'a>,
    index: BundleIndex,
}

/// An artifact from a bundle: bytes that nobody has a reason to trust yet.
#[derive(Clone, Debug)]
pub struct Picked {
    bytes: Vec<u8>,
}

impl<'a> Bundle<'a> {
    /// Opens a bundle, and reads what is in it. Its artifacts are read when they are picked.
    ///
    /// # Errors
    /// If it cannot be read, or is no intact bundle.
    pub fn open(source: impl Into<Source<'a>>) -> Result<Self, LoadError> {
        let source = source.into().open()?;
        let length = length(&source);
        let head = read(&source, 0, length.min(HEAD_SIZE as u64))?;
        let front = front_length(&head, length).map_err(|error| refused(&source, error))?;
        let front = read(&source, 0, front)?;
        let index = BundleIndex::read(&front, length).map_err(|error| refused(&source, error))?;
        Ok(Self { source, index })
    }

    /// The names of the modules in it, each once.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        self.index.names()
    }

    /// Everything that is in it, for whatever machine.
    #[must_use]
    pub fn entries(&self) -> &[BundleEntry] {
        self.index.entries()
    }

    /// Reads the artifact of a module that is the best for this host: of those that it can load, the one
    /// that uses most of its CPU.
    ///
    /// # Errors
    /// If there is none, or if it cannot be read.
    pub fn pick(&self, name: &str) -> Result<Picked, LoadError> {
        let mut failed = None;
        let entry = self.index.pick(name, &Host::this(), |entry| match self.front(entry) {
            Ok(front) => Needs::stated_in(&front),
            Err(error) => {
                failed = Some(error);
                None
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        self.read_entry(entry.map_err(|error| refused(&self.source, error))?)
    }

    /// Reads one of [`Bundle::entries`], whatever machine it is for.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read_entry(&self, entry: &BundleEntry) -> Result<Picked, LoadError> {
        Ok(Picked { bytes: self.read_pieces(entry, entry.length)? })
    }

    /// As much of an artifact as says what it needs.
    fn front(&self, entry: &BundleEntry) -> Result<Vec<u8>, LoadError> {
        self.read_pieces(entry, TREE_OFFSET as u64)
    }

    /// The first bytes of an artifact.
    fn read_pieces(&self, entry: &BundleEntry, limit: u64) -> Result<Vec<u8>, LoadError> {
        let mut bytes = Vec::new();
        for piece in entry.pieces() {
            let left = limit.saturating_sub(bytes.len() as u64);
            if left == 0 {
                break;
            }
            bytes.append(&mut read(&self.source, piece.start, left.min(piece.end - piece.start))?);
        }
        Ok(bytes)
    }
}

impl std::fmt::Debug for Bundle<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bundle({:?})", self.names())
    }
}

impl Picked {
    /// Loads it, if there is a reason to trust it.
    ///
    /// # Errors
    /// As for [`Artifact::load`].
    pub fn load(&self, trust: &Trust) -> Result<Artifact, LoadError> {
        Artifact::load(&self.bytes, trust)
    }

    /// Its bytes: those of a file that `cwasm compile` or `cwasm sign` wrote.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The digest that it states, which is not checked.
    #[must_use]
    pub fn stated_digest(&self) -> Option<Digest> {
        Digest::stated_in(&self.bytes)
    }
}

fn name(source: &Opened<'_>) -> PathBuf {
    match source {
        Opened::File { name, .. } => name.clone(),
        Opened::Bytes(_) => PathBuf::from("the bundle in memory"),
    }
}

fn refused(source: &Opened<'_>, error: BundleError) -> LoadError {
    LoadError::Bundle { path: name(source), source: error }
}

fn length(source: &Opened<'_>) -> u64 {
    match source {
        Opened::File { length, .. } => *length,
        Opened::Bytes(bytes) => bytes.len() as u64,
    }
}

/// Reads a range that lies in the source, as far as its length was looked at.
fn read(source: &Opened<'_>, offset: u64, length: u64) -> Result<Vec<u8>, LoadError> {
    let changed = || LoadError::Changed { path: name(source) };
    let count = usize::try_from(length).map_err(|_| changed())?;
    match source {
        Opened::Bytes(bytes) => {
            let start = usize::try_from(offset).map_err(|_| changed())?;
            let range = start..start.checked_add(count).ok_or_else(changed)?;
            Ok(bytes.get(range).ok_or_else(changed)?.to_vec())
        }
        Opened::File { file, name, .. } => {
            let mut bytes = vec![0; count];
            match file.get().read_exact_at(&mut bytes, offset) {
                Ok(()) => Ok(bytes),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(changed()),
                Err(source) => Err(LoadError::Read { path: name.clone(), source }),
            }
        }
    }
}
