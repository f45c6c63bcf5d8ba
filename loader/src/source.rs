//! Where the bytes of an artifact come from: a path, an open file, or memory.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::error::LoadError;

/// Where the bytes of an artifact come from. Paths, open files and bytes convert to it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Source<'a> {
    /// The file at a path.
    Path(Cow<'a, Path>),
    /// An open file. It is read from its beginning, wherever its position is, and its
    /// position stays.
    File(&'a File),
    /// Bytes in memory. They are copied.
    Bytes(&'a [u8]),
}

macro_rules! paths {
    ($($borrowed:ty, $owned:ty;)*) => {$(
        impl<'a> From<&'a $borrowed> for Source<'a> {
            fn from(path: &'a $borrowed) -> Self {
                Self::Path(Cow::Borrowed(path.as_ref()))
            }
        }

        impl<'a> From<&&'a $borrowed> for Source<'a> {
            fn from(path: &&'a $borrowed) -> Self {
                Self::from(*path)
            }
        }

        impl<'a> From<&&'a $owned> for Source<'a> {
            fn from(path: &&'a $owned) -> Self {
                Self::from(*path)
            }
        }

        impl<'a> From<&'a $owned> for Source<'a> {
            fn from(path: &'a $owned) -> Self {
                Self::Path(Cow::Borrowed(path.as_ref()))
            }
        }

        impl From<$owned> for Source<'_> {
            fn from(path: $owned) -> Self {
                Self::Path(Cow::Owned(path.into()))
            }
        }
    )*};
}

paths! {
    Path, PathBuf;
    str, String;
    OsStr, OsString;
}

impl<'a> From<Cow<'a, Path>> for Source<'a> {
    fn from(path: Cow<'a, Path>) -> Self {
        Self::Path(path)
    }
}

impl<'a> From<&'a File> for Source<'a> {
    fn from(file: &'a File) -> Self {
        Self::File(file)
    }
}

impl<'a> From<&'a [u8]> for Source<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Source<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Self::Bytes(bytes)
    }
}

impl<'a> From<&'a Vec<u8>> for Source<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

/// What is left of a source when it can be read.
pub(crate) enum Opened<'a> {
    /// A regular file.
    File {
        /// The file; closed by us if we opened it.
        file: Handle<'a>,
        /// What errors call it.
        name: PathBuf,
        /// How many bytes it had when it was opened.
        length: u64,
    },
    /// Bytes.
    Bytes(&'a [u8]),
}

/// A file that is ours or somebody else's.
pub(crate) enum Handle<'a> {
    Ours(File),
    Theirs(&'a File),
}

impl Handle<'_> {
    pub(crate) fn get(&self) -> &File {
        match self {
            Self::Ours(file) => file,
            Self::Theirs(file) => file,
        }
    }

    /// The file, or another handle of it.
    pub(crate) fn into_owned(self) -> std::io::Result<File> {
        match self {
            Self::Ours(file) => Ok(file),
            Self::Theirs(file) => file.try_clone(),
        }
    }
}

impl<'a> Source<'a> {
    /// Opens it. What is no regular file is refused, and nobody is waited for.
    pub(crate) fn open(self) -> Result<Opened<'a>, LoadError> {
        match self {
            Self::Path(path) => {
                let (file, length) = open_path(&path)?;
                Ok(Opened::File { file: Handle::Ours(file), name: path.into_owned(), length })
            }
            Self::File(file) => {
                let name = PathBuf::from("the open file");
                let metadata = file.metadata();
                let metadata = metadata.map_err(|source| read_error(&name, source))?;
                not_special(&name, metadata.file_type())?;
                Ok(Opened::File { file: Handle::Theirs(file), name, length: metadata.len() })
            }
            Self::Bytes(bytes) => Ok(Opened::Bytes(bytes)),
        }
    }
}

fn read_error(path: &Path, source: std::io::Error) -> LoadError {
    LoadError::Read { path: path.to_owned(), source }
}

fn open_path(path: &Path) -> Result<(File, u64), LoadError> {
    let read = |source| read_error(path, source);
    // Opening a FIFO would wait for a writer: look before.
    not_special(path, std::fs::metadata(path).map_err(read)?.file_type())?;
    // Nor wait for one that has taken the file's place meanwhile.
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    let file = options.open(path).map_err(read)?;
    let metadata = file.metadata().map_err(read)?;
    not_special(path, metadata.file_type())?;
    Ok((file, metadata.len()))
}

/// Refuses what only looks like a file.
pub(crate) fn not_special(path: &Path, kind: std::fs::FileType) -> Result<(), LoadError> {
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
