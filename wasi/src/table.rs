//! The descriptors of a guest: what each stands for and what it may do.

use crate::stdio::{Input, Output};
use crate::types::{Errno, FdFlags, FdStat, FileType, Rights};
use cap_std::fs::{Dir, File};
use std::collections::BTreeSet;

/// What a descriptor stands for.
pub(crate) enum Handle {
    Input(Input),
    Output(Output),
    File(File),
    Dir(OpenDir),
}

/// An open directory.
pub(crate) struct OpenDir {
    pub(crate) dir: Dir,
    /// The name under which the guest knows it, if it was there from the start.
    pub(crate) preopen: Option<String>,
    /// What `fd_readdir` is reading.
    pub(crate) listing: Option<Listing>,
}

/// The entries of a directory at the time that `fd_readdir` began to read it.
pub(crate) struct Listing {
    pub(crate) entries: Vec<Entry>,
}

/// An entry of a [`Listing`].
pub(crate) struct Entry {
    pub(crate) inode: u64,
    pub(crate) filetype: FileType,
    pub(crate) name: Box<[u8]>,
}

/// A descriptor.
pub(crate) struct Descriptor {
    pub(crate) handle: Handle,
    pub(crate) filetype: FileType,
    pub(crate) flags: FdFlags,
    pub(crate) base: Rights,
    pub(crate) inheriting: Rights,
    /// Whether it was opened in a directory that the embedder gave for reading
    /// only. Unlike a missing right, this shows as a read-only file system.
    pub(crate) read_only: bool,
}

impl Descriptor {
    /// A standard input.
    pub(crate) fn input(input: Input) -> Self {
        let filetype = input.filetype();
        Self::stream(Handle::Input(input), filetype, Rights::INPUT)
    }

    /// A standard output. What reaches it is always appended.
    pub(crate) fn output(output: Output) -> Self {
        let filetype = output.filetype();
        let this = Self::stream(Handle::Output(output), filetype, Rights::OUTPUT);
        Self { flags: FdFlags::APPEND, ..this }
    }

    fn stream(handle: Handle, filetype: FileType, base: Rights) -> Self {
        Self {
            handle,
            filetype,
            flags: FdFlags::empty(),
            base,
            inheriting: Rights::empty(),
            read_only: false,
        }
    }

    /// A preopened directory.
    pub(crate) fn preopen(dir: Dir, name: String, read_only: bool) -> Self {
        Self {
            handle: Handle::Dir(OpenDir { dir, preopen: Some(name), listing: None }),
            filetype: FileType::Directory,
            flags: FdFlags::empty(),
            base: Rights::DIRECTORY,
            inheriting: Rights::DIRECTORY | Rights::FILE,
            read_only,
        }
    }

    /// What `fd_fdstat_get` tells of it.
    pub(crate) fn fdstat(&self) -> FdStat {
        FdStat {
            filetype: self.filetype,
            flags: self.flags,
            base: self.base,
            inheriting: self.inheriting,
        }
    }

    /// Checks that the descriptor has all of `rights`.
    pub(crate) fn require(&self, rights: Rights) -> Result<(), Errno> {
        if self.base.contains(rights) { Ok(()) } else { Err(Errno::NotCapable) }
    }

    /// Checks that the embedder lets the guest change what lies behind it.
    pub(crate) fn require_writable(&self) -> Result<(), Errno> {
        if self.read_only { Err(Errno::RoFs) } else { Ok(()) }
    }

    /// The file it stands for. A stream is no file: it cannot seek.
    pub(crate) fn file(&self, rights: Rights) -> Result<&File, Errno> {
        match &self.handle {
            Handle::File(file) => {
                self.require(rights)?;
                Ok(file)
            }
            Handle::Dir(_) => Err(Errno::IsDir),
            Handle::Input(_) | Handle::Output(_) => Err(Errno::SPipe),
        }
    }

    /// The directory it stands for.
    pub(crate) fn dir(&self, rights: Rights) -> Result<&OpenDir, Errno> {
        match &self.handle {
            Handle::Dir(dir) => {
                self.require(rights)?;
                Ok(dir)
            }
            _ => Err(Errno::NotDir),
        }
    }
}

/// The descriptors of a guest by number.
pub(crate) struct FdTable {
    slots: Vec<Option<Descriptor>>,
    /// The numbers below the end of `slots` that are free.
    free: BTreeSet<u32>,
    limit: u32,
}

impl FdTable {
    /// An empty table for at most `limit` descriptors.
    pub(crate) fn new(limit: u32) -> Self {
        Self { slots: Vec::new(), free: BTreeSet::new(), limit }
    }

    /// Checks that one more descriptor fits.
    pub(crate) fn check_room(&self) -> Result<(), Errno> {
        let used = self.slots.len() - self.free.len();
        if u32::try_from(used).is_ok_and(|used| used < self.limit) {
            Ok(())
        } else {
            Err(Errno::MFile)
        }
    }

    /// Gives a descriptor the lowest free number.
    pub(crate) fn insert(&mut self, descriptor: Descriptor) -> Result<u32, Errno> {
        self.check_room()?;
        if let Some(fd) = self.free.pop_first() {
            *self.slot(fd)? = Some(descriptor);
            return Ok(fd);
        }
        let fd = u32::try_from(self.slots.len()).map_err(|_| Errno::MFile)?;
        self.slots.push(Some(descriptor));
        Ok(fd)
    }

    /// The descriptor of a number.
    pub(crate) fn get(&self, fd: u32) -> Result<&Descriptor, Errno> {
        let index = usize::try_from(fd).map_err(|_| Errno::BadF)?;
        self.slots.get(index).and_then(Option::as_ref).ok_or(Errno::BadF)
    }

    /// The descriptor of a number, to be changed.
    pub(crate) fn get_mut(&mut self, fd: u32) -> Result<&mut Descriptor, Errno> {
        self.slot(fd)?.as_mut().ok_or(Errno::BadF)
    }

    /// Takes a descriptor out. Its number is free for the next one.
    pub(crate) fn remove(&mut self, fd: u32) -> Result<Descriptor, Errno> {
        let descriptor = self.slot(fd)?.take().ok_or(Errno::BadF)?;
        self.free.insert(fd);
        Ok(descriptor)
    }

    /// Moves a descriptor to the number of another, which is closed.
    pub(crate) fn renumber(&mut self, from: u32, to: u32) -> Result<(), Errno> {
        self.get(from)?;
        self.get(to)?;
        if from != to {
            let moved = self.remove(from)?;
            *self.get_mut(to)? = moved;
        }
        Ok(())
    }

    fn slot(&mut self, fd: u32) -> Result<&mut Option<Descriptor>, Errno> {
        let index = usize::try_from(fd).map_err(|_| Errno::BadF)?;
        self.slots.get_mut(index).ok_or(Errno::BadF)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn null() -> Descriptor {
        Descriptor::output(Output::Null)
    }

    #[test]
    fn the_lowest_free_number_is_next() {
        let mut table = FdTable::new(8);
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
        let mut table = FdTable::new(2);
        assert_eq!(table.insert(null()), Ok(0));
        assert_eq!(table.insert(null()), Ok(1));
        assert_eq!(table.insert(null()), Err(Errno::MFile));
        table.remove(0).map(|_| ()).unwrap();
        assert_eq!(table.insert(null()), Ok(0));
    }

    #[test]
    fn renumbering_moves_and_wants_both() {
        let mut table = FdTable::new(8);
        table.insert(Descriptor::input(Input::Null)).unwrap();
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
