//! The standard streams of a guest and what may stand behind them: a stream of
//! the host, memory, or whatever an application makes of the two traits here.

use crate::sys;
use crate::types::{Errno, FileType};
use std::io::{self, Cursor, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

/// What a guest reads from: its standard input.
///
/// The threads of a guest share it, and one may ask whether there is something
/// to read while another one reads.
pub trait InputStream: Send + Sync {
    /// Reads what there is, at most as much as fits. It may wait for the first
    /// byte. At the end of the stream it returns 0.
    fn read(&self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize>;

    /// How many bytes can be read without waiting, 0 at the end of the stream.
    /// `None` means that only the descriptor of [`fd`](Self::fd) can tell.
    fn available(&self) -> Option<u64> {
        Some(1)
    }

    /// A descriptor of the host that is readable when a read would not wait.
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Whether the guest shall take it for a terminal.
    fn is_terminal(&self) -> bool {
        false
    }
}

/// What a guest writes to: its standard output and standard error.
pub trait OutputStream: Send + Sync {
    /// Writes some of what is there, and returns how much. It may wait.
    fn write(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Passes on what the stream holds back. The guest asks for it by `fd_sync`,
    /// by closing the stream, and by ending.
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    /// A descriptor of the host that is writable when a write would not wait.
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Whether the guest shall take it for a terminal.
    fn is_terminal(&self) -> bool {
        false
    }

    /// Whether a write that fails with [`io::ErrorKind::BrokenPipe`] ends the
    /// guest by [`Signal::PIPE`](crate::Signal::PIPE), as it ends a program of
    /// the host, instead of failing with an error number.
    fn ends_guest_when_broken(&self) -> bool {
        false
    }
}

/// A stream that is always at its end, or that takes everything.
pub(crate) struct Null;

impl InputStream for Null {
    fn read(&self, _: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        Ok(0)
    }

    fn available(&self) -> Option<u64> {
        Some(0)
    }
}

impl OutputStream for Null {
    fn write(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(buffers.iter().map(|buffer| buffer.len()).sum())
    }
}

/// A standard stream of the host, without the buffer that Rust puts before it.
pub(crate) struct Host<S>(pub(crate) S);

impl InputStream for Host<io::Stdin> {
    fn read(&self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        Ok(sys::read(&self.0, buffers)?)
    }

    fn available(&self) -> Option<u64> {
        None
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }

    fn is_terminal(&self) -> bool {
        sys::is_terminal(&self.0)
    }
}

impl<S: AsFd + Send + Sync> OutputStream for Host<S> {
    fn write(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(sys::write(&self.0, buffers)?)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }

    fn is_terminal(&self) -> bool {
        sys::is_terminal(&self.0)
    }

    fn ends_guest_when_broken(&self) -> bool {
        true
    }
}

/// Bytes in memory to read.
pub(crate) struct Bytes(pub(crate) Mutex<Cursor<Vec<u8>>>);

impl InputStream for Bytes {
    fn read(&self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        lock(&self.0).read_vectored(buffers)
    }

    fn available(&self) -> Option<u64> {
        let bytes = lock(&self.0);
        let len = u64::try_from(bytes.get_ref().len()).unwrap_or(u64::MAX);
        Some(len.saturating_sub(bytes.position()))
    }
}

/// A buffer that the application reads.
pub(crate) struct Capture(pub(crate) Arc<Mutex<Vec<u8>>>);

impl OutputStream for Capture {
    fn write(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        lock(&self.0).write_vectored(buffers)
    }
}

/// A reader or writer of the application, which one thread uses at a time.
pub(crate) struct Locked<S>(pub(crate) Mutex<S>);

impl<R: Read + Send> InputStream for Locked<R> {
    fn read(&self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        lock(&self.0).read_vectored(buffers)
    }
}

impl<W: Write + Send> OutputStream for Locked<W> {
    fn write(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        lock(&self.0).write_vectored(buffers)
    }

    fn flush(&self) -> io::Result<()> {
        lock(&self.0).flush()
    }
}

/// What the guest takes a stream for.
pub(crate) fn filetype(is_terminal: bool) -> FileType {
    if is_terminal { FileType::CharacterDevice } else { FileType::Unknown }
}

/// Reads from a stream. With `wait` unset, fails rather than waits, as far as
/// the stream can tell.
///
/// The streams of the host may be shared with other processes, so that they
/// cannot be switched to non-blocking. They are asked first instead.
pub(crate) fn read(
    stream: &dyn InputStream,
    buffers: &mut [IoSliceMut<'_>],
    wait: bool,
) -> Result<usize, Errno> {
    if !wait
        && stream.available().is_none()
        && let Some(fd) = stream.fd()
        && !sys::is_ready(fd, false)?
    {
        return Err(Errno::Again);
    }
    retry(|| stream.read(buffers))
}

/// Writes to a stream. With `wait` unset, writes no more than surely fits.
pub(crate) fn write(
    stream: &dyn OutputStream,
    buffers: &[IoSlice<'_>],
    wait: bool,
) -> Result<usize, Errno> {
    /// What a pipe takes at once if it takes anything (`PIPE_BUF`).
    const AT_ONCE: usize = 4096;
    if !wait && let Some(fd) = stream.fd() {
        if !sys::is_ready(fd, true)? {
            return Err(Errno::Again);
        }
        let Some(first) = buffers.first() else { return Ok(0) };
        let piece = &first[..first.len().min(AT_ONCE)];
        return retry(|| stream.write(&[IoSlice::new(piece)]));
    }
    retry(|| stream.write(buffers))
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

/// Locks what a thread that panicked may have held: streams have no invariant
/// that a panic could break.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
