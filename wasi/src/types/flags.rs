//! Flag words and small enumerations that the guest passes by value.
//!
//! A bit or a number that preview 1 does not define is `Errno::Inval`.

use super::Errno;
use bitflags::bitflags;

bitflags! {
    /// What may be done with a descriptor (`rights`, witx `u64`).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Rights: u64 {
        /// `fd_datasync`; with `PATH_OPEN`, `path_open` with `DSYNC`.
        const FD_DATASYNC = 1 << 0;
        /// `fd_read`; with `FD_SEEK`, `fd_pread`.
        const FD_READ = 1 << 1;
        /// `fd_seek`. Implies `FD_TELL`.
        const FD_SEEK = 1 << 2;
        /// `fd_fdstat_set_flags`.
        const FD_FDSTAT_SET_FLAGS = 1 << 3;
        /// `fd_sync`.
        const FD_SYNC = 1 << 4;
        /// `fd_tell`, and an `fd_seek` that does not move.
        const FD_TELL = 1 << 5;
        /// `fd_write`; with `FD_SEEK`, `fd_pwrite`.
        const FD_WRITE = 1 << 6;
        /// `fd_advise`.
        const FD_ADVISE = 1 << 7;
        /// `fd_allocate`.
        const FD_ALLOCATE = 1 << 8;
        /// `path_create_directory`.
        const PATH_CREATE_DIRECTORY = 1 << 9;
        /// `path_open` with `CREAT`.
        const PATH_CREATE_FILE = 1 << 10;
        /// `path_link` from this directory.
        const PATH_LINK_SOURCE = 1 << 11;
        /// `path_link` to this directory.
        const PATH_LINK_TARGET = 1 << 12;
        /// `path_open`.
        const PATH_OPEN = 1 << 13;
        /// `fd_readdir`.
        const FD_READDIR = 1 << 14;
        /// `path_readlink`.
        const PATH_READLINK = 1 << 15;
        /// `path_rename` from this directory.
        const PATH_RENAME_SOURCE = 1 << 16;
        /// `path_rename` to this directory.
        const PATH_RENAME_TARGET = 1 << 17;
        /// `path_filestat_get`.
        const PATH_FILESTAT_GET = 1 << 18;
        /// `path_open` with `TRUNC`.
        const PATH_FILESTAT_SET_SIZE = 1 << 19;
        /// `path_filestat_set_times`.
        const PATH_FILESTAT_SET_TIMES = 1 << 20;
        /// `fd_filestat_get`.
        const FD_FILESTAT_GET = 1 << 21;
        /// `fd_filestat_set_size`.
        const FD_FILESTAT_SET_SIZE = 1 << 22;
        /// `fd_filestat_set_times`.
        const FD_FILESTAT_SET_TIMES = 1 << 23;
        /// `path_symlink`.
        const PATH_SYMLINK = 1 << 24;
        /// `path_remove_directory`.
        const PATH_REMOVE_DIRECTORY = 1 << 25;
        /// `path_unlink_file`.
        const PATH_UNLINK_FILE = 1 << 26;
        /// `poll_oneoff` on this descriptor.
        const POLL_FD_READWRITE = 1 << 27;
        /// `sock_shutdown`.
        const SOCK_SHUTDOWN = 1 << 28;
        /// `sock_accept`.
        const SOCK_ACCEPT = 1 << 29;
    }

    /// How reads and writes of a descriptor behave (`fdflags`, witx `u16`).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct FdFlags: u16 {
        /// Every write goes to the end of the file.
        const APPEND = 1 << 0;
        /// A write returns when its data is stored.
        const DSYNC = 1 << 1;
        /// A call that would wait fails with `Errno::Again`.
        const NONBLOCK = 1 << 2;
        /// A read is as well synchronised as a write.
        const RSYNC = 1 << 3;
        /// A write returns when its data and the file's attributes are stored.
        const SYNC = 1 << 4;
    }

    /// How `path_open` opens (`oflags`, witx `u16`).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct OFlags: u16 {
        /// Create the file if it does not exist.
        const CREAT = 1 << 0;
        /// Fail if it is not a directory.
        const DIRECTORY = 1 << 1;
        /// Fail if it exists.
        const EXCL = 1 << 2;
        /// Cut the file to nothing.
        const TRUNC = 1 << 3;
    }

    /// How a path is looked up (`lookupflags`, witx `u32`).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct LookupFlags: u32 {
        /// A symbolic link in the last place stands for what it points to.
        const SYMLINK_FOLLOW = 1 << 0;
    }

    /// Which times to set, and to what (`fstflags`, witx `u16`).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct FstFlags: u16 {
        /// Set the time of the last access to the argument.
        const ATIM = 1 << 0;
        /// Set the time of the last access to now.
        const ATIM_NOW = 1 << 1;
        /// Set the time of the last change to the argument.
        const MTIM = 1 << 2;
        /// Set the time of the last change to now.
        const MTIM_NOW = 1 << 3;
    }
}

impl Rights {
    /// What applies to a directory.
    pub(crate) const DIRECTORY: Self = Self::FD_FDSTAT_SET_FLAGS
        .union(Self::FD_SYNC)
        .union(Self::PATH_CREATE_DIRECTORY)
        .union(Self::PATH_CREATE_FILE)
        .union(Self::PATH_LINK_SOURCE)
        .union(Self::PATH_LINK_TARGET)
        .union(Self::PATH_OPEN)
        .union(Self::FD_READDIR)
        .union(Self::PATH_READLINK)
        .union(Self::PATH_RENAME_SOURCE)
        .union(Self::PATH_RENAME_TARGET)
        .union(Self::PATH_FILESTAT_GET)
        .union(Self::PATH_FILESTAT_SET_SIZE)
        .union(Self::PATH_FILESTAT_SET_TIMES)
        .union(Self::FD_FILESTAT_GET)
        .union(Self::FD_FILESTAT_SET_TIMES)
        .union(Self::PATH_SYMLINK)
        .union(Self::PATH_REMOVE_DIRECTORY)
        .union(Self::PATH_UNLINK_FILE)
        .union(Self::POLL_FD_READWRITE);

    /// What applies to a file.
    pub(crate) const FILE: Self = Self::FD_DATASYNC
        .union(Self::FD_READ)
        .union(Self::FD_SEEK)
        .union(Self::FD_FDSTAT_SET_FLAGS)
        .union(Self::FD_SYNC)
        .union(Self::FD_TELL)
        .union(Self::FD_WRITE)
        .union(Self::FD_ADVISE)
        .union(Self::FD_ALLOCATE)
        .union(Self::FD_FILESTAT_GET)
        .union(Self::FD_FILESTAT_SET_SIZE)
        .union(Self::FD_FILESTAT_SET_TIMES)
        .union(Self::POLL_FD_READWRITE);

    /// What applies to a standard input. Without `FD_SEEK` and `FD_TELL`:
    /// by their absence a C library recognises a terminal.
    pub(crate) const INPUT: Self = Self::FD_READ
        .union(Self::FD_FDSTAT_SET_FLAGS)
        .union(Self::FD_FILESTAT_GET)
        .union(Self::POLL_FD_READWRITE);

    /// What applies to a standard output.
    pub(crate) const OUTPUT: Self = Self::FD_WRITE
        .union(Self::FD_FDSTAT_SET_FLAGS)
        .union(Self::FD_FILESTAT_GET)
        .union(Self::FD_SYNC)
        .union(Self::FD_DATASYNC)
        .union(Self::POLL_FD_READWRITE);

    /// What applies to a socket that accepts connections.
    pub(crate) const LISTENER: Self = Self::SOCK_ACCEPT
        .union(Self::FD_FDSTAT_SET_FLAGS)
        .union(Self::FD_FILESTAT_GET)
        .union(Self::POLL_FD_READWRITE);

    /// What applies to a connection.
    pub(crate) const CONNECTION: Self = Self::FD_READ
        .union(Self::FD_WRITE)
        .union(Self::SOCK_SHUTDOWN)
        .union(Self::FD_FDSTAT_SET_FLAGS)
        .union(Self::FD_FILESTAT_GET)
        .union(Self::POLL_FD_READWRITE);

    /// The rights without which nothing needs a file to be open for writing.
    /// `FD_FILESTAT_SET_SIZE` is not one: Go asks for it also to read only.
    pub(crate) const NEEDS_WRITING: Self = Self::FD_WRITE.union(Self::FD_ALLOCATE);
}

/// The kind of a file (`filetype`, witx `u8`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum FileType {
    /// Something else, or not known.
    #[default]
    Unknown = 0,
    /// A block device.
    BlockDevice = 1,
    /// A character device, such as a terminal.
    CharacterDevice = 2,
    /// A directory.
    Directory = 3,
    /// A regular file.
    RegularFile = 4,
    /// A socket. Whether one of datagrams, number 5, the host does not tell.
    SocketStream = 6,
    /// A symbolic link.
    SymbolicLink = 7,
}

impl From<cap_std::fs::FileType> for FileType {
    fn from(host: cap_std::fs::FileType) -> Self {
        use cap_fs_ext::FileTypeExt;
        if host.is_file() {
            Self::RegularFile
        } else if host.is_dir() {
            Self::Directory
        } else if host.is_symlink() {
            Self::SymbolicLink
        } else if host.is_char_device() {
            Self::CharacterDevice
        } else if host.is_block_device() {
            Self::BlockDevice
        } else if host.is_socket() {
            Self::SocketStream
        } else {
            Self::Unknown
        }
    }
}

/// From where `fd_seek` counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whence {
    /// From the start of the file.
    Set,
    /// From the current offset.
    Cur,
    /// From the end of the file.
    End,
}

impl Whence {
    /// The meaning of a `whence` argument. The first snapshot counted otherwise.
    pub(crate) fn from_guest(snapshot: Snapshot, whence: u32) -> Result<Self, Errno> {
        match (snapshot, whence) {
            (Snapshot::Preview1, 0) | (Snapshot::Preview0, 2) => Ok(Self::Set),
            (Snapshot::Preview1, 1) | (Snapshot::Preview0, 0) => Ok(Self::Cur),
            (Snapshot::Preview1, 2) | (Snapshot::Preview0, 1) => Ok(Self::End),
            _ => Err(Errno::Inval),
        }
    }
}

/// A clock (`clockid`, witx `u32`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClockId {
    /// The time of day, in nanoseconds since 1970.
    Realtime,
    /// A clock that is never set back.
    Monotonic,
    /// The processor time of the process.
    ProcessCpuTime,
    /// The processor time of the thread.
    ThreadCpuTime,
}

impl ClockId {
    /// The meaning of a `clockid` argument.
    pub(crate) fn from_guest(id: u32) -> Result<Self, Errno> {
        match id {
            0 => Ok(Self::Realtime),
            1 => Ok(Self::Monotonic),
            2 => Ok(Self::ProcessCpuTime),
            3 => Ok(Self::ThreadCpuTime),
            _ => Err(Errno::Inval),
        }
    }
}

/// Which of the two snapshots of preview 1 a module was written for.
///
/// They share their names and signatures and differ in the numbers of
/// `whence` and in the layouts of `filestat` and `subscription`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Snapshot {
    /// Imports from `wasi_unstable`.
    Preview0,
    /// Imports from `wasi_snapshot_preview1`.
    #[default]
    Preview1,
}

impl Snapshot {
    /// The module name from which the guest imports.
    #[must_use]
    pub const fn module(self) -> &'static str {
        match self {
            Self::Preview0 => "wasi_unstable",
            Self::Preview1 => "wasi_snapshot_preview1",
        }
    }
}

macro_rules! checked {
    ($($flags:ty: $bits:ty),*) => {$(
        impl $flags {
            /// The flags of an argument, which must all be known.
            pub(crate) fn from_guest(bits: u32) -> Result<Self, Errno> {
                <$bits>::try_from(bits).ok().and_then(Self::from_bits).ok_or(Errno::Inval)
            }
        }
    )*};
}

checked!(FdFlags: u16, OFlags: u16, FstFlags: u16, LookupFlags: u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_bits_are_refused() {
        assert_eq!(FdFlags::from_guest(0b1_1111), Ok(FdFlags::all()));
        assert_eq!(FdFlags::from_guest(1 << 5), Err(Errno::Inval));
        assert_eq!(OFlags::from_guest(1 << 16), Err(Errno::Inval));
        assert_eq!(FstFlags::from_guest(16), Err(Errno::Inval));
        assert_eq!(LookupFlags::from_guest(2), Err(Errno::Inval));
        assert_eq!(ClockId::from_guest(4), Err(Errno::Inval));
    }

    #[test]
    fn the_snapshots_number_whence_differently() {
        let all = |snapshot| [0, 1, 2, 3].map(|n| Whence::from_guest(snapshot, n).ok());
        use Whence::{Cur, End, Set};
        assert_eq!(all(Snapshot::Preview1), [Some(Set), Some(Cur), Some(End), None]);
        assert_eq!(all(Snapshot::Preview0), [Some(Cur), Some(End), Some(Set), None]);
    }

    #[test]
    fn rights_have_the_bits_of_the_witx() {
        assert_eq!(Rights::all().bits(), (1 << 30) - 1);
        assert!(!Rights::DIRECTORY.intersects(Rights::FD_SEEK | Rights::FD_WRITE));
        assert!(!Rights::INPUT.contains(Rights::FD_TELL));
    }
}
