//! Directories and files as descriptors: what was examined is what is used, whatever
//! happens to the names that led to it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// The user that this process acts as.
pub(crate) fn effective_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// What a descriptor leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File,
    Link,
    Other,
}

/// What the system says about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) kind: Kind,
    /// The user that it belongs to.
    pub(crate) owner: u32,
    /// Its permission bits, with the sticky bit.
    pub(crate) mode: u32,
}

impl Facts {
    fn of(stat: &Stat) -> Self {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Kind::Directory,
            FileType::RegularFile => Kind::File,
            FileType::Symlink => Kind::Link,
            _ => Kind::Other,
        };
        Self { kind, owner: stat.st_uid, mode: stat.st_mode & 0o7777 }
    }
}

/// A directory, or what may turn out to be one, by descriptor.
#[derive(Debug)]
pub(crate) struct Dir(OwnedFd);

impl Dir {
    /// The root of the file system.
    pub(crate) fn root() -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open("/", flags, Mode::empty())?))
    }

    /// What has this name in it. A link is not followed, and nothing is opened for reading.
    pub(crate) fn look(&self, name: &OsStr) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::openat(&self.0, name, flags, Mode::empty())?))
    }

    /// The same directory, opened for reading.
    pub(crate) fn reopen(&self) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::openat(&self.0, ".", flags, Mode::empty())?))
    }

    /// Opens a file in it for reading. A link is not followed: `None` says that it is one.
    /// No writer of a pipe is waited for.
    pub(crate) fn open_file(&self, name: &OsStr) -> io::Result<Option<(File, Facts)>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.0, name, flags, Mode::empty()) {
            Err(Errno::LOOP) => Ok(None),
            Err(error) => Err(error.into()),
            Ok(file) => {
                let facts = Facts::of(&rustix::fs::fstat(&file)?);
                Ok(Some((file.into(), facts)))
            }
        }
    }

    /// What it is, whose, and who may write to it.
    pub(crate) fn facts(&self) -> io::Result<Facts> {
        Ok(Facts::of(&rustix::fs::fstat(&self.0)?))
    }

    /// Where it leads, if it is a link.
    pub(crate) fn link_target(&self) -> io::Result<OsString> {
        let target = rustix::fs::readlinkat(&self.0, "", Vec::new())?;
        Ok(OsString::from_vec(target.into_bytes()))
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
