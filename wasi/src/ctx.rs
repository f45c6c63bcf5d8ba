//! What a guest is given: arguments, environment, streams, directories, clocks
//! and random bytes. A builder collects it; calls read it.

use crate::stdio::{Bytes, Capture, Host, InputStream, Locked, Null, OutputStream};
use crate::sys;
use crate::table::{Descriptor, FdTable};
use crate::types::{ClockId, Errno};
use cap_std::fs::Dir;
use std::io::{self, Cursor, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// The state of a guest that uses preview 1.
///
/// It belongs into the data of a store. A new one knows nothing of the host:
/// no arguments, no environment, empty streams, no directory and no socket.
///
/// A clone is the same state once more, for another thread of the same guest.
#[derive(Clone)]
pub struct WasiCtx {
    pub(crate) shared: Arc<Shared>,
}

/// What the threads of a guest share.
pub(crate) struct Shared {
    pub(crate) args: StringList,
    pub(crate) environment: StringList,
    pub(crate) table: FdTable,
    pub(crate) clocks: Mutex<Box<dyn Clocks>>,
    pub(crate) random: Mutex<Box<dyn Random>>,
}

impl WasiCtx {
    /// Collects what to give to a guest.
    #[must_use]
    pub fn builder() -> WasiCtxBuilder {
        WasiCtxBuilder::default()
    }
}

impl core::fmt::Debug for WasiCtx {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("WasiCtx").finish_non_exhaustive()
    }
}

/// The clocks that a guest reads. [`HostClocks`] are those of the host.
pub trait Clocks: Send {
    /// The time in nanoseconds.
    fn time(&mut self, id: ClockId) -> Result<u64, Errno>;
    /// The smallest step in nanoseconds.
    fn resolution(&mut self, id: ClockId) -> Result<u64, Errno>;
}

/// The clocks of the host.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostClocks;

impl Clocks for HostClocks {
    fn time(&mut self, id: ClockId) -> Result<u64, Errno> {
        Ok(sys::clock_time(id))
    }

    fn resolution(&mut self, id: ClockId) -> Result<u64, Errno> {
        Ok(sys::clock_resolution(id))
    }
}

/// A source of random bytes. [`HostRandom`] is that of the host.
pub trait Random: Send {
    /// Fills `bytes`.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Errno>;
}

/// The random bytes of the host, fit for keys.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostRandom;

impl Random for HostRandom {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Errno> {
        getrandom::fill(bytes).map_err(|_| Errno::Io)
    }
}

/// Strings as the guest sees them: one after the other, each ended by a NUL.
#[derive(Default)]
pub(crate) struct StringList {
    pub(crate) bytes: Vec<u8>,
    pub(crate) offsets: Vec<u32>,
}

impl StringList {
    fn push(&mut self, parts: &[&[u8]]) -> Result<(), BuildError> {
        let offset = u32::try_from(self.bytes.len()).map_err(|_| BuildError::TooLong)?;
        self.offsets.push(offset);
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        self.bytes.push(0);
        u32::try_from(self.bytes.len()).map_err(|_| BuildError::TooLong)?;
        Ok(())
    }
}

/// Why a [`WasiCtx`] cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A NUL ends a string of the guest, so that none can lie inside one.
    #[error("the argument {0:?} contains a NUL byte")]
    ArgumentWithNul(String),
    /// A variable that the guest could not read back.
    #[error("the environment variable {0:?} is empty, or contains a NUL byte or `=` in its name")]
    BadVariable(String),
    /// More than a guest can address.
    #[error("the arguments or the environment are longer than 4 GiB")]
    TooLong,
    /// A directory that does not exist, is none, or may not be read.
    #[error("cannot open the directory {} for the guest", path.display())]
    Directory {
        /// The directory on the host.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A descriptor that is no socket.
    #[error("what was given as a socket is none")]
    Socket(#[source] io::Error),
    /// A name that the guest could not find.
    #[error("the directory {} needs a name in the guest, without a NUL byte", path.display())]
    DirectoryName {
        /// The directory on the host.
        path: PathBuf,
    },
}

/// Collects what to give to a guest. [`build`](Self::build) leaves it empty.
pub struct WasiCtxBuilder {
    args: Vec<Vec<u8>>,
    environment: Vec<(Vec<u8>, Vec<u8>)>,
    stdin: Box<dyn InputStream>,
    stdout: Box<dyn OutputStream>,
    stderr: Box<dyn OutputStream>,
    inherits_stdout: bool,
    sockets: Vec<(OwnedFd, bool)>,
    directories: Vec<Directory>,
    clocks: Box<dyn Clocks>,
    random: Box<dyn Random>,
    max_descriptors: u32,
}

struct Directory {
    host: PathBuf,
    guest: String,
    read_only: bool,
}

impl Default for WasiCtxBuilder {
    fn default() -> Self {
        Self {
            args: Vec::new(),
            environment: Vec::new(),
            stdin: Box::new(Null),
            stdout: Box::new(Null),
            stderr: Box::new(Null),
            inherits_stdout: false,
            sockets: Vec::new(),
            directories: Vec::new(),
            clocks: Box::new(HostClocks),
            random: Box::new(HostRandom),
            max_descriptors: 4096,
        }
    }
}

impl WasiCtxBuilder {
    /// Adds an argument. The first is the name of the program.
    pub fn arg(&mut self, arg: impl AsRef<[u8]>) -> &mut Self {
        self.args.push(arg.as_ref().to_vec());
        self
    }

    /// Adds arguments.
    pub fn args(&mut self, args: impl IntoIterator<Item: AsRef<[u8]>>) -> &mut Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_vec()));
        self
    }

    /// Adds an environment variable.
    pub fn env(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &mut Self {
        self.environment.push((name.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    /// Lets the guest read the standard input of the host.
    pub fn inherit_stdin(&mut self) -> &mut Self {
        self.stdin_stream(Host(io::stdin()))
    }

    /// Lets the guest read these bytes from its standard input.
    pub fn stdin_bytes(&mut self, bytes: impl Into<Vec<u8>>) -> &mut Self {
        self.stdin_stream(Bytes(Mutex::new(Cursor::new(bytes.into()))))
    }

    /// Lets the guest read from `reader`. Reading may wait.
    pub fn stdin(&mut self, reader: impl Read + Send + 'static) -> &mut Self {
        self.stdin_stream(Locked(Mutex::new(reader)))
    }

    /// Lets the guest read from a stream that the application implements.
    pub fn stdin_stream(&mut self, stream: impl InputStream + 'static) -> &mut Self {
        self.stdin = Box::new(stream);
        self
    }

    /// Lets the guest write to the standard output of the host, at once and
    /// without the buffer of [`std::io::Stdout`]. If nobody reads it any more,
    /// the guest ends by [`Signal::PIPE`](crate::Signal::PIPE).
    pub fn inherit_stdout(&mut self) -> &mut Self {
        self.stdout_stream(Host(io::stdout()));
        self.inherits_stdout = true;
        self
    }

    /// Collects what the guest writes to its standard output.
    pub fn capture_stdout(&mut self, buffer: Arc<Mutex<Vec<u8>>>) -> &mut Self {
        self.stdout_stream(Capture(buffer))
    }

    /// Lets the guest write to `writer`, which is flushed when the guest asks
    /// for it (`fd_sync`), closes the stream, or ends.
    pub fn stdout(&mut self, writer: impl Write + Send + 'static) -> &mut Self {
        self.stdout_stream(Locked(Mutex::new(writer)))
    }

    /// Lets the guest write to a stream that the application implements.
    pub fn stdout_stream(&mut self, stream: impl OutputStream + 'static) -> &mut Self {
        self.inherits_stdout = false;
        self.stdout = Box::new(stream);
        self
    }

    /// Lets the guest write to the standard error of the host; see
    /// [`inherit_stdout`](Self::inherit_stdout).
    pub fn inherit_stderr(&mut self) -> &mut Self {
        self.stderr_stream(Host(io::stderr()))
    }

    /// Collects what the guest writes to its standard error.
    pub fn capture_stderr(&mut self, buffer: Arc<Mutex<Vec<u8>>>) -> &mut Self {
        self.stderr_stream(Capture(buffer))
    }

    /// Lets the guest write its errors to `writer`; see [`stdout`](Self::stdout).
    pub fn stderr(&mut self, writer: impl Write + Send + 'static) -> &mut Self {
        self.stderr_stream(Locked(Mutex::new(writer)))
    }

    /// Lets the guest write its errors to a stream that the application implements.
    pub fn stderr_stream(&mut self, stream: impl OutputStream + 'static) -> &mut Self {
        self.stderr = Box::new(stream);
        self
    }

    /// Lets the guest use all three standard streams of the host.
    pub fn inherit_stdio(&mut self) -> &mut Self {
        self.inherit_stdin().inherit_stdout().inherit_stderr()
    }

    /// Gives the guest the directory `host` under the name `guest`, with
    /// everything below it. Nothing outside can be reached through it.
    pub fn preopened_dir(&mut self, host: impl AsRef<Path>, guest: impl Into<String>) -> &mut Self {
        self.directory(host.as_ref(), guest.into(), false)
    }

    /// Gives the guest a directory in which it can change nothing; it looks
    /// like a read-only file system.
    pub fn preopened_dir_read_only(
        &mut self,
        host: impl AsRef<Path>,
        guest: impl Into<String>,
    ) -> &mut Self {
        self.directory(host.as_ref(), guest.into(), true)
    }

    fn directory(&mut self, host: &Path, guest: String, read_only: bool) -> &mut Self {
        self.directories.push(Directory { host: host.to_path_buf(), guest, read_only });
        self
    }

    /// Gives the guest a socket that listens, a
    /// [`TcpListener`](std::net::TcpListener) or a
    /// [`UnixListener`](std::os::unix::net::UnixListener). Sockets get the
    /// numbers after the streams and the directories, in the order in which they
    /// are given: the first is 3 if there is no directory.
    pub fn listener(&mut self, listener: impl Into<OwnedFd>) -> &mut Self {
        self.sockets.push((listener.into(), true));
        self
    }

    /// Gives the guest a connection, such as a
    /// [`TcpStream`](std::net::TcpStream). It is numbered like a
    /// [`listener`](Self::listener).
    pub fn connection(&mut self, connection: impl Into<OwnedFd>) -> &mut Self {
        self.sockets.push((connection.into(), false));
        self
    }

    /// Replaces the clocks of the host.
    pub fn clocks(&mut self, clocks: impl Clocks + 'static) -> &mut Self {
        self.clocks = Box::new(clocks);
        self
    }

    /// Replaces the random bytes of the host.
    pub fn random(&mut self, random: impl Random + 'static) -> &mut Self {
        self.random = Box::new(random);
        self
    }

    /// Limits how many descriptors the guest may have open, streams and
    /// directories included. The default is 4096.
    pub fn max_descriptors(&mut self, limit: u32) -> &mut Self {
        self.max_descriptors = limit;
        self
    }

    /// Opens the directories and puts everything together.
    pub fn build(&mut self) -> Result<WasiCtx, BuildError> {
        let this = core::mem::take(self);
        let mut args = StringList::default();
        for arg in &this.args {
            if arg.contains(&0) {
                return Err(BuildError::ArgumentWithNul(lossy(arg)));
            }
            args.push(&[arg])?;
        }
        let mut environment = StringList::default();
        for (name, value) in &this.environment {
            let bad = name.is_empty() || name.contains(&b'=') || name.contains(&0);
            if bad || value.contains(&0) {
                return Err(BuildError::BadVariable(lossy(name)));
            }
            environment.push(&[name, b"=", value])?;
        }
        if this.inherits_stdout {
            // What the host printed before comes before what the guest prints.
            // If that fails, so will the guest's own write, and it is told.
            let _ = io::stdout().flush();
        }
        let streams = [
            Descriptor::input(this.stdin),
            Descriptor::output(this.stdout),
            Descriptor::output(this.stderr),
        ];
        let mut descriptors = Vec::from(streams);
        for directory in this.directories {
            descriptors.push(directory.open()?);
        }
        for (socket, listens) in this.sockets {
            let flags = sys::socket_flags(&socket).map_err(BuildError::Socket)?;
            descriptors.push(Descriptor::socket(socket, listens, flags));
        }
        // What the embedder gives is not subject to the guest's limit.
        let given = u32::try_from(descriptors.len()).unwrap_or(u32::MAX);
        let table = FdTable::new(this.max_descriptors.max(given));
        for descriptor in descriptors {
            table.insert(descriptor).map_err(|_| BuildError::TooLong)?;
        }
        let (clocks, random) = (Mutex::new(this.clocks), Mutex::new(this.random));
        Ok(WasiCtx { shared: Arc::new(Shared { args, environment, table, clocks, random }) })
    }
}

impl Directory {
    fn open(self) -> Result<Descriptor, BuildError> {
        let Self { host, guest, read_only } = self;
        if guest.is_empty() || guest.contains('\0') {
            return Err(BuildError::DirectoryName { path: host });
        }
        match Dir::open_ambient_dir(&host, cap_std::ambient_authority()) {
            Ok(dir) => {
                // `dir` can only be searched; `fd_sync` and the like need a
                // directory that can be read, if the host allows that.
                let readable = dir.open(".").map(|file| Dir::from_std_file(file.into_std()));
                Ok(Descriptor::preopen(readable.unwrap_or(dir), guest, read_only))
            }
            Err(source) => Err(BuildError::Directory { path: host, source }),
        }
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_shared_by_threads() {
        fn is_send_and_sync<T: Send + Sync>() {}
        is_send_and_sync::<WasiCtx>();
    }

    #[test]
    fn strings_are_laid_out_for_the_guest() {
        let ctx = WasiCtx::builder().arg("a").args(["bc", ""]).env("K", "v=w").build().unwrap();
        assert_eq!(ctx.shared.args.bytes, b"a\0bc\0\0");
        assert_eq!(ctx.shared.args.offsets, [0, 2, 5]);
        assert_eq!(ctx.shared.environment.bytes, b"K=v=w\0");
    }

    #[test]
    fn what_the_guest_could_not_read_is_refused() {
        let error = |builder: &mut WasiCtxBuilder| builder.build().unwrap_err().to_string();
        assert_eq!(
            error(WasiCtx::builder().arg("a\0b")),
            "the argument \"a\\0b\" contains a NUL byte"
        );
        assert!(error(WasiCtx::builder().env("A=B", "")).contains("\"A=B\""));
        assert!(error(WasiCtx::builder().env("", "x")).contains("empty"));
        assert!(error(WasiCtx::builder().preopened_dir("/", "")).contains("needs a name"));
        let missing = error(WasiCtx::builder().preopened_dir("/no such directory", "/"));
        assert_eq!(missing, "cannot open the directory /no such directory for the guest");
        assert!(WasiCtx::builder().preopened_dir("/dev/null", "/").build().is_err());
    }
}
