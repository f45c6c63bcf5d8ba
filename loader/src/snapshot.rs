//! The private copy of a file that is checked and then run.
//!
//! The bytes are read once, into memory that nobody else can write to. What is
//! hashed is what is executed, whatever happens to the file afterwards. The
//! copy is writable only until it is complete, then read-only; the pages
//! of code are made executable after that, so nothing is ever both.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use cwasm_artifact::check::claimed_length;
use cwasm_artifact::header::LEAVES_OFFSET;
use memmap2::{Mmap, MmapMut, MmapOptions};

use crate::error::LoadError;
use crate::sys;

/// Larger artifacts are refused. Code alone ends at 2 GiB.
const MAX_LENGTH: u64 = 16 << 30;

/// How much of a file that is no artifact is read, in order to say what it is.
const MAX_UNKNOWN: u64 = 64 << 20;

/// Read-only bytes of a file.
#[derive(Debug)]
pub(crate) struct Snapshot {
    map: Mmap,
    /// How long the source is. Longer than the bytes if it goes on behind the
    /// end that its header states.
    source_length: u64,
}

impl Snapshot {
    /// Reads a file.
    pub(crate) fn of_file(path: &Path) -> Result<Self, LoadError> {
        let read = |source| LoadError::Read { path: path.to_owned(), source };
        // Opening a FIFO would wait for a writer: look before.
        let kind = std::fs::metadata(path).map_err(read)?.file_type();
        not_special(path, kind)?;
        // Nor wait for one that has taken the file's place meanwhile.
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NONBLOCK);
        let mut file = options.open(path).map_err(read)?;
        let metadata = file.metadata().map_err(read)?;
        not_special(path, metadata.file_type())?;
        let length = metadata.len();

        // The front says how much there is to read, so that a huge file of any
        // other kind costs nothing.
        let mut front = Vec::with_capacity(LEAVES_OFFSET);
        (&mut file).take(LEAVES_OFFSET as u64).read_to_end(&mut front).map_err(read)?;
        let wanted = match claimed_length(&front) {
            Ok(claimed) if claimed.min(length) > MAX_LENGTH => {
                return Err(LoadError::TooLarge { bytes: claimed.min(length), limit: MAX_LENGTH });
            }
            Ok(claimed) => claimed.min(length),
            Err(_) => length.min(MAX_UNKNOWN),
        };
        let wanted = wanted.max(front.len() as u64);
        let mut map = Self::allocate(wanted)?;
        map[..front.len()].copy_from_slice(&front);
        let changed = || LoadError::Changed { path: path.to_owned() };
        match file.read_exact(&mut map[front.len()..]) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(changed()),
            result => result.map_err(read)?,
        }
        if wanted >= length && file.read(&mut [0]).map_err(read)? != 0 {
            return Err(changed());
        }
        Self::freeze(map, length.max(wanted))
    }

    /// Copies bytes.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Result<Self, LoadError> {
        let mut map = Self::allocate(bytes.len() as u64)?;
        map.copy_from_slice(bytes);
        Self::freeze(map, bytes.len() as u64)
    }

    fn allocate(length: u64) -> Result<MmapMut, LoadError> {
        let failed = |source| LoadError::Map { bytes: length, source };
        let bytes =
            usize::try_from(length).map_err(|_| failed(io::ErrorKind::OutOfMemory.into()))?;
        MmapOptions::new().len(bytes).map_anon().map_err(failed)
    }

    fn freeze(map: MmapMut, source_length: u64) -> Result<Self, LoadError> {
        let bytes = map.len() as u64;
        let map = map.make_read_only().map_err(|source| LoadError::Map { bytes, source })?;
        Ok(Self { map, source_length })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// How long the source is, if it goes on behind these bytes.
    pub(crate) fn longer_source(&self) -> Option<u64> {
        (self.source_length > self.map.len() as u64).then_some(self.source_length)
    }

    /// Makes the code at `text` executable. It begins at a page boundary; the
    /// rest of its last page holds nothing that is used otherwise.
    pub(crate) fn make_executable(&self, text: Range<usize>) -> Result<(), LoadError> {
        // The kernel rounds the end up to a page by itself.
        //
        // SAFETY: the map is private and read-only, belongs to `self`, and stays
        // mapped until `self` is dropped. A text that does not start at a
        // page boundary is refused by the kernel.
        unsafe { sys::protect_code(&self.map, text) }
            .map_err(|source| LoadError::Map { bytes: self.map.len() as u64, source })
    }
}

/// Refuses what only looks like a file.
fn not_special(path: &Path, kind: std::fs::FileType) -> Result<(), LoadError> {
    use std::os::unix::fs::FileTypeExt as _;
    if kind.is_file() {
        return Ok(());
    }
    let found = if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(LoadError::NotAFile { path: path.to_owned(), found })
}
