//! The three standard streams of the guest and what may stand behind them.

use crate::sys;
use crate::types::{Errno, FileType};
use std::io::{self, Cursor, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

/// Where a standard input comes from.
pub(crate) enum Input {
    /// Always at its end.
    Null,
    /// The standard input of the host, without a buffer in between.
    Inherit,
    /// Bytes in memory.
    Bytes(Cursor<Vec<u8>>),
    /// Something of the embedder.
    Reader(Box<dyn Read + Send>),
}

impl Input {
    /// Reads what there is, at most as much as fits.
    pub(crate) fn read(&mut self, buffers: &mut [IoSliceMut<'_>]) -> Result<usize, Errno> {
        match self {
            Self::Null => Ok(0),
            Self::Inherit => sys::read(io::stdin(), buffers),
            Self::Bytes(bytes) => Ok(bytes.read_vectored(buffers)?),
            Self::Reader(reader) => retry(|| reader.read_vectored(buffers)),
        }
    }

    /// How many bytes can be read without waiting, unless only the host knows.
    pub(crate) fn readable(&self) -> Option<u64> {
        match self {
            Self::Null => Some(0),
            Self::Inherit => None,
            Self::Bytes(bytes) => {
                let len = u64::try_from(bytes.get_ref().len()).unwrap_or(u64::MAX);
                Some(len.saturating_sub(bytes.position()))
            }
            Self::Reader(_) => Some(1),
        }
    }

    /// What the guest takes it for.
    pub(crate) fn filetype(&self) -> FileType {
        match self {
            Self::Inherit if sys::is_terminal(io::stdin()) => FileType::CharacterDevice,
            _ => FileType::Unknown,
        }
    }
}

/// Where a standard output goes.
pub(crate) enum Output {
    /// Nowhere.
    Null,
    /// The standard output of the host, without a buffer in between.
    Stdout,
    /// The standard error of the host.
    Stderr,
    /// A buffer that the embedder reads.
    Capture(Arc<Mutex<Vec<u8>>>),
    /// Something of the embedder.
    Writer(Box<dyn Write + Send>),
}

impl Output {
    /// Writes some of what is there.
    pub(crate) fn write(&mut self, buffers: &[IoSlice<'_>]) -> Result<usize, Errno> {
        match self {
            Self::Null => Ok(buffers.iter().map(|buffer| buffer.len()).sum()),
            Self::Stdout => sys::write(io::stdout(), buffers),
            Self::Stderr => sys::write(io::stderr(), buffers),
            Self::Capture(bytes) => {
                let mut bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(bytes.write_vectored(buffers)?)
            }
            Self::Writer(writer) => retry(|| writer.write_vectored(buffers)),
        }
    }

    /// Passes on what an embedder's writer holds back.
    pub(crate) fn flush(&mut self) -> Result<(), Errno> {
        match self {
            Self::Writer(writer) => Ok(writer.flush()?),
            _ => Ok(()),
        }
    }

    /// What the guest takes it for.
    pub(crate) fn filetype(&self) -> FileType {
        let terminal = match self {
            Self::Stdout => sys::is_terminal(io::stdout()),
            Self::Stderr => sys::is_terminal(io::stderr()),
            _ => false,
        };
        if terminal { FileType::CharacterDevice } else { FileType::Unknown }
    }
}

/// The descriptors of the host, which live as long as the process.
pub(crate) struct HostStreams {
    stdin: io::Stdin,
    stdout: io::Stdout,
    stderr: io::Stderr,
}

impl HostStreams {
    pub(crate) fn new() -> Self {
        Self { stdin: io::stdin(), stdout: io::stdout(), stderr: io::stderr() }
    }

    /// The descriptor on which to wait for input, if the host has one.
    pub(crate) fn of_input(&self, input: &Input) -> Option<BorrowedFd<'_>> {
        matches!(input, Input::Inherit).then(|| self.stdin.as_fd())
    }

    /// The descriptor on which to wait for output, if the host has one.
    pub(crate) fn of_output(&self, output: &Output) -> Option<BorrowedFd<'_>> {
        match output {
            Output::Stdout => Some(self.stdout.as_fd()),
            Output::Stderr => Some(self.stderr.as_fd()),
            _ => None,
        }
    }
}

/// Repeats a call that a signal interrupted.
fn retry(mut call: impl FnMut() -> io::Result<usize>) -> Result<usize, Errno> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return Ok(result?),
        }
    }
}
