//! Artifacts in files, for tests of what happens when the file changes.

use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use cwasm_artifact::check::{Deferred, Part};
use cwasm_artifact::header::Header;
use cwasm_artifact::tree::MAX_CHUNK_SIZE;
use cwasm_loader::{Artifact, Digest, Trust};

/// An artifact in a file of its own. All methods panic if the system or the loader refuses.
#[derive(Debug)]
pub struct ProgramFile {
    folder: tempfile::TempDir,
    /// What was written there.
    pub bytes: Vec<u8>,
}

#[expect(clippy::missing_panics_doc, reason = "said of the type")]
impl ProgramFile {
    /// Writes an artifact to a new file.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = Self { folder, bytes: bytes.to_owned() };
        fs::write(file.path(), bytes).unwrap();
        file
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("program.cwasm")
    }

    /// Trust in what was written.
    #[must_use]
    pub fn trust(&self) -> Trust {
        Trust::digest(Digest::stated_in(&self.bytes).unwrap())
    }

    /// Loads what is needed when it is needed.
    #[must_use]
    pub fn lazy(&self) -> Artifact {
        Artifact::load_lazily(self.path(), &self.trust()).unwrap()
    }

    /// Loads all of it.
    #[must_use]
    pub fn eager(&self) -> Artifact {
        Artifact::load(self.path(), &self.trust()).unwrap()
    }

    /// The chunks of one kind, by number.
    #[must_use]
    pub fn chunks(&self, kind: Part) -> Vec<usize> {
        let deferred = Deferred::of(Header::of(&self.bytes).unwrap());
        let is_one = |(_, part): &(usize, &Part)| **part == kind;
        deferred.parts().iter().enumerate().filter(is_one).map(|(chunk, _)| chunk).collect()
    }

    /// How many chunks of images are made present at once, except at their ends.
    #[must_use]
    pub fn image_piece(&self) -> usize {
        MAX_CHUNK_SIZE / chunk_size(&self.bytes)
    }

    /// Changes a byte of every chunk of one kind.
    pub fn damage(&self, kind: Part) {
        for chunk in self.chunks(kind) {
            let at = (chunk * chunk_size(&self.bytes) + 777).min(self.bytes.len() - 1);
            overwrite(&self.path(), at, self.bytes[at] ^ 1);
        }
    }

    /// Cuts the file before the first chunk of one kind.
    pub fn cut(&self, kind: Part) {
        let file = File::options().write(true).open(self.path()).unwrap();
        file.set_len((self.chunks(kind)[0] * chunk_size(&self.bytes)) as u64).unwrap();
    }

    /// Makes the same file what it was.
    pub fn repair(&self) {
        let mut file = File::options().write(true).open(self.path()).unwrap();
        file.write_all(&self.bytes).unwrap();
    }
}

/// The size of the chunks of an artifact.
///
/// # Panics
/// If it is none.
#[must_use]
pub fn chunk_size(artifact: &[u8]) -> usize {
    Header::of(artifact).and_then(Header::tree).unwrap().chunk_size()
}

/// Writes one byte into a file.
///
/// # Panics
/// If that is not possible.
pub fn overwrite(path: &Path, at: usize, byte: u8) {
    let mut file = File::options().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at as u64)).unwrap();
    file.write_all(&[byte]).unwrap();
}
