//! The descriptors of a guest: what each stands for and what it may do.
//!
//! Threads of a guest share them. A call takes hold of a descriptor and lets go
//! of the table, so that one that waits keeps no other from working, and closing
//! a descriptor ends nothing that is under way.

use crate::stdio::{self, InputStream, OutputStream, lock};
use crate::types::{Errno, FdFlags, FdStat, FileType, Rights};
use cap_std::fs::{Dir, File};
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

/// What a descriptor stands for.
pub(crate) enum Handle {
    Input(Box<dyn InputStream>),
    Output(Box<dyn OutputStream>),
    File(File),
    Dir(OpenDir),
    Socket(Socket),
}

/// An open directory.
pub(crate) struct OpenDir {
    pub(crate) dir: Dir,
    /// The name under which the guest knows it, if it was there from the start.
    pub(crate) preopen: Option<String>,
    /// The directory again, opened by the first `fd_readdir` to list it.
    pub(crate) listing: Mutex<Option<File>>,
}

/// An open socket.
pub(crate) struct Socket {
    pub(crate) fd: OwnedFd,
    /// Whether it accepts connections rather than being one.
    pub(crate) listens: bool,
}

/// A descriptor.
pub(crate) struct Descriptor {
    pub(crate) handle: Handle,
    pub(crate) filetype: FileType,
    /// Whether it was opened in a directory that the embedder gave for reading
    /// only. Unlike a missing right, this shows as a read-only file system.
    pub(crate) read_only: bool,
    flags: AtomicU16,
    base: AtomicU64,
    inheriting: AtomicU64,
}

impl Descriptor {
    /// A descriptor with rights, for itself and for what is opened through it.
    pub(crate) fn new(
        handle: Handle,
        filetype: FileType,
        flags: FdFlags,
        (base, inheriting): (Rights, Rights),
        read_only: bool,
    ) -> Self {
        Self {
            handle,
            filetype,
            read_only,
            flags: AtomicU16::new(flags.bits()),
            base: AtomicU64::new(base.bits()),
            inheriting: AtomicU64::new(inheriting.bits()),
        }
    }

    /// A standard input.
    pub(crate) fn input(input: Box<dyn InputStream>) -> Self {
        let filetype = stdio::filetype(input.is_terminal());
        let rights = (Rights::INPUT, Rights::empty());
        Self::new(Handle::Input(input), filetype, FdFlags::empty(), rights, false)
    }

    /// A standard output. What reaches it is always appended.
    pub(crate) fn output(output: Box<dyn OutputStream>) -> Self {
        let filetype = stdio::filetype(output.is_terminal());
        let rights = (Rights::OUTPUT, Rights::empty());
        Self::new(Handle::Output(output), filetype, FdFlags::APPEND, rights, false)
    }

    /// A directory.
    pub(crate) fn dir(
        dir: Dir,
        preopen: Option<String>,
        rights: (Rights, Rights),
        read_only: bool,
    ) -> Self {
        let handle = Handle::Dir(OpenDir { dir, preopen, listing: Mutex::default() });
        // Nothing is read from or written to a directory: it has no flags.
        Self::new(handle, FileType::Directory, FdFlags::empty(), rights, read_only)
    }

    /// A preopened directory.
    pub(crate) fn preopen(dir: Dir, name: String, read_only: bool) -> Self {
        let rights = (Rights::DIRECTORY, Rights::DIRECTORY | Rights::FILE);
        Self::dir(dir, Some(name), rights, read_only)
    }

    /// A socket. One that listens passes the rights of a connection on.
    pub(crate) fn socket(fd: OwnedFd, listens: bool, flags: FdFlags) -> Self {
        let rights = if listens {
            (Rights::LISTENER, Rights::CONNECTION)
        } else {
            (Rights::CONNECTION, Rights::empty())
        };
        let handle = Handle::Socket(Socket { fd, listens });
        Self::new(handle, FileType::SocketStream, flags, rights, false)
    }

    /// How it reads and writes.
    pub(crate) fn flags(&self) -> FdFlags {
        FdFlags::from_bits_truncate(self.flags.load(Ordering::Relaxed))
    }

    /// Sets how it reads and writes.
    pub(crate) fn set_flags(&self, flags: FdFlags) {
        self.flags.store(flags.bits(), Ordering::Relaxed);
    }

    /// Whether a call may wait for data or room.
    pub(crate) fn waits(&self) -> bool {
        !self.flags().contains(FdFlags::NONBLOCK)
    }

    /// What may be done with it.
    pub(crate) fn base(&self) -> Rights {
        Rights::from_bits_truncate(self.base.load(Ordering::Relaxed))
    }

    /// What may be done with what is opened through it.
    pub(crate) fn inheriting(&self) -> Rights {
        Rights::from_bits_truncate(self.inheriting.load(Ordering::Relaxed))
    }

    /// Gives up the rights that are not among these. Fails if one of these is
    /// not there; none is ever gained, also if two threads do this at once.
    pub(crate) fn restrict(&self, base: Rights, inheriting: Rights) -> Result<(), Errno> {
        if !self.base().contains(base) || !self.inheriting().contains(inheriting) {
            return Err(Errno::NotCapable);
        }
        self.base.fetch_and(base.bits(), Ordering::Relaxed);
        self.inheriting.fetch_and(inheriting.bits(), Ordering::Relaxed);
        Ok(())
    }

    /// What `fd_fdstat_get` tells of it.
    pub(crate) fn fdstat(&self) -> FdStat {
        FdStat {
            filetype: self.filetype,
            flags: self.flags(),
            base: self.base(),
            inheriting: self.inheriting(),
        }
    }

    /// Checks that the descriptor has all of `rights`.
    pub(crate) fn require(&self, rights: Rights) -> Result<(), Errno> {
        if self.base().contains(rights) { Ok(()) } else { Err(Errno::NotCapable) }
    }

    /// Checks that the embedder lets the guest change what lies behind it.
    pub(crate) fn require_writable(&self) -> Result<(), Errno> {
        if self.read_only { Err(Errno::RoFs) } else { Ok(()) }
    }

    /// The file it stands for. A stream or a socket is no file: it cannot seek.
    pub(crate) fn as_file(&self, rights: Rights) -> Result<&File, Errno> {
        match &self.handle {
            Handle::File(file) => {
                self.require(rights)?;
                Ok(file)
            }
            Handle::Dir(_) => Err(Errno::IsDir),
            Handle::Input(_) | Handle::Output(_) | Handle::Socket(_) => Err(Errno::SPipe),
        }
    }

    /// The directory it stands for.
    pub(crate) fn as_dir(&self, rights: Rights) -> Result<&OpenDir, Errno> {
        match &self.handle {
            Handle::Dir(dir) => {
                self.require(rights)?;
                Ok(dir)
            }
            _ => Err(Errno::NotDir),
        }
    }

    /// The directory it stands for, in which the guest may change something.
    pub(crate) fn as_writable_dir(&self, rights: Rights) -> Result<&Dir, Errno> {
        let dir = self.as_dir(rights)?;
        self.require_writable()?;
        Ok(&dir.dir)
    }

    /// The socket it stands for.
    pub(crate) fn as_socket(&self, rights: Rights) -> Result<&Socket, Errno> {
        match &self.handle {
            Handle::Socket(socket) => {
                self.require(rights)?;
                Ok(socket)
            }
            _ => Err(Errno::NotSock),
        }
    }
}

/// The descriptors of a guest by number.
pub(crate) struct FdTable {
    slots: Mutex<Slots>,
    limit: u32,
}

#[derive(Default)]
struct Slots {
    all: Vec<Option<Arc<Descriptor>>>,
    /// The numbers below the end of `all` that are free.
    free: BTreeSet<u32>,
}

impl FdTable {
    /// An empty table for at most `limit` descriptors.
    pub(crate) fn new(limit: u32) -> Self {
        Self { slots: Mutex::default(), limit }
    }

    /// Checks that one more descriptor fits.
    pub(crate) fn check_room(&self) -> Result<(), Errno> {
        lock(&self.slots).check_room(self.limit)
    }

    /// Gives a descriptor the lowest free number.
    pub(crate) fn insert(&self, descriptor: Descriptor) -> Result<u32, Errno> {
        let mut slots = lock(&self.slots);
        slots.check_room(self.limit)?;
        let descriptor = Some(Arc::new(descriptor));
        if let Some(fd) = slots.free.pop_first() {
            *slots.slot(fd)? = descriptor;
            return Ok(fd);
        }
        let fd = u32::try_from(slots.all.len()).map_err(|_| Errno::MFile)?;
        slots.all.push(descriptor);
        Ok(fd)
    }

    /// The descriptor of a number.
    pub(crate) fn get(&self, fd: u32) -> Result<Arc<Descriptor>, Errno> {
        lock(&self.slots).slot(fd)?.clone().ok_or(Errno::BadF)
    }

    /// Takes a descriptor out. Its number is free for the next one.
    pub(crate) fn remove(&self, fd: u32) -> Result<Arc<Descriptor>, Errno> {
        lock(&self.slots).remove(fd)
    }

    /// Moves a descriptor to the number of another, which is closed.
    pub(crate) fn renumber(&self, from: u32, to: u32) -> Result<(), Errno> {
        let mut slots = lock(&self.slots);
        for fd in [from, to] {
            slots.slot(fd)?.as_ref().ok_or(Errno::BadF)?;
        }
        if from != to {
            let moved = slots.remove(from)?;
            let closed = slots.slot(to)?.replace(moved);
            // Closing may take long: do it without the lock.
            drop(slots);
            drop(closed);
        }
        Ok(())
    }
}

impl Slots {
    fn check_room(&self, limit: u32) -> Result<(), Errno> {
        let used = self.all.len() - self.free.len();
        if u32::try_from(used).is_ok_and(|used| used < limit) { Ok(()) } else { Err(Errno::MFile) }
    }

    fn remove(&mut self, fd: u32) -> Result<Arc<Descriptor>, Errno> {
        let descriptor = self.slot(fd)?.take().ok_or(Errno::BadF)?;
        self.free.insert(fd);
        Ok(descriptor)
    }

    fn slot(&mut self, fd: u32) -> Result<&mut Option<Arc<Descriptor>>, Errno> {
        let index = usize::try_from(fd).map_err(|_| Errno::BadF)?;
        self.all.get_mut(index).ok_or(Errno::BadF)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdio::Null;

    fn null() -> Descriptor {
        Descriptor::output(Box::new(Null))
    }

    #[test]
    fn the_lowest_free_number_is_next() {
        let table = FdTable::new(8);
        for fd in 0..5 {
            assert_eq!(table.insert(null()), Ok(fd));
        }
        table.remove(3).map(|_| ()).unwrap();
        table.remove(1).map(|_| ()).unwrap();
        assert_eq!(table.remove(1).map(|_| ()), Err(Errno::BadF));
        assert_eq!([0; 3].map(|_| table.insert(null())), [Ok(1), Ok(3), Ok(5)]);
    }

    #[test]
    fn the_table_has_a_limit_and_closing_makes_room() {
        let table = FdTable::new(2);
        assert_eq!(table.insert(null()), Ok(0));
        assert_eq!(table.insert(null()), Ok(1));
        assert_eq!(table.insert(null()), Err(Errno::MFile));
        table.remove(0).map(|_| ()).unwrap();
        assert_eq!(table.insert(null()), Ok(0));
    }

    #[test]
    fn renumbering_moves_and_wants_both() {
        let table = FdTable::new(8);
        table.insert(Descriptor::input(Box::new(Null))).unwrap();
        table.insert(null()).unwrap();
        assert_eq!(table.renumber(0, 2), Err(Errno::BadF));
        assert_eq!(table.renumber(u32::MAX, 0), Err(Errno::BadF));
        assert_eq!(table.renumber(1, 1), Ok(()));
        assert_eq!(table.renumber(0, 1), Ok(()));
        assert!(matches!(table.get(1).unwrap().handle, Handle::Input(_)));
        assert_eq!(table.get(0).map(|_| ()), Err(Errno::BadF));
        assert_eq!(table.insert(null()), Ok(0));
    }
}
