//! Files apart from their contents: attributes, size, offset, storage.

use super::Call;
use crate::sys::{self, NewTime};
use crate::table::Handle;
use crate::types::{Errno, FileStat, FstFlags, Rights, Whence};
use std::io::{Seek, SeekFrom};

impl Call<'_> {
    /// Says how a range of a file will be used.
    pub fn fd_advise(&mut self, fd: u32, offset: u64, len: u64, advice: u32) -> Result<(), Errno> {
        let descriptor = self.ctx.table.get(fd)?;
        sys::advise(descriptor.as_file(Rights::FD_ADVISE)?, offset, len, advice)
    }

    /// Makes sure that a range of a file has storage; the file grows to its end.
    pub fn fd_allocate(&mut self, fd: u32, offset: u64, len: u64) -> Result<(), Errno> {
        let descriptor = self.ctx.table.get(fd)?;
        let file = descriptor.as_file(Rights::FD_ALLOCATE)?;
        descriptor.require_writable()?;
        sys::allocate(file, offset, len)
    }

    /// Stores the contents of a file.
    pub fn fd_datasync(&mut self, fd: u32) -> Result<(), Errno> {
        let descriptor = self.ctx.table.get(fd)?;
        match &descriptor.handle {
            Handle::Output(output) => Ok(output.flush()?),
            Handle::File(file) if descriptor.base().contains(Rights::FD_DATASYNC) => {
                Ok(file.sync_data()?)
            }
            Handle::File(_) => Err(Errno::NotCapable),
            Handle::Dir(_) => Err(Errno::IsDir),
            Handle::Input(_) | Handle::Socket(_) => Err(Errno::Inval),
        }
    }

    /// Stores the contents and attributes of a file or directory.
    pub fn fd_sync(&mut self, fd: u32) -> Result<(), Errno> {
        let descriptor = self.ctx.table.get(fd)?;
        descriptor.require(Rights::FD_SYNC)?;
        match &descriptor.handle {
            Handle::Output(output) => Ok(output.flush()?),
            Handle::File(file) => sys::sync(file),
            Handle::Dir(dir) => sys::sync(&dir.dir),
            Handle::Input(_) | Handle::Socket(_) => Err(Errno::Inval),
        }
    }

    /// Writes the attributes of a file. A stream has only a kind: what stands
    /// behind it is the host's.
    pub fn fd_filestat_get(&mut self, fd: u32, stat: u32) -> Result<(), Errno> {
        let descriptor = self.ctx.table.get(fd)?;
        descriptor.require(Rights::FD_FILESTAT_GET)?;
        let filestat = match &descriptor.handle {
            Handle::File(file) => sys::filestat(&file.metadata()?),
            Handle::Dir(dir) => sys::filestat(&dir.dir.dir_metadata()?),
            Handle::Input(_) | Handle::Output(_) | Handle::Socket(_) => {
                FileStat { filetype: descriptor.filetype, ..FileStat::default() }
            }
        };
        self.write_filestat(stat, &filestat)
    }

    /// Cuts a file off, or makes it longer with zeros.
    pub fn fd_filestat_set_size(&mut self, fd: u32, size: u64) -> Result<(), Errno> {
        let descriptor = self.ctx.table.get(fd)?;
        let file = descriptor.as_file(Rights::FD_FILESTAT_SET_SIZE)?;
        descriptor.require_writable()?;
        // `File::set_len` reports a size beyond `i64` without a number.
        i64::try_from(size).map_err(|_| Errno::Inval)?;
        Ok(file.set_len(size)?)
    }

    /// Sets the times of a file.
    pub fn fd_filestat_set_times(
        &mut self,
        fd: u32,
        accessed: u64,
        modified: u64,
        flags: u32,
    ) -> Result<(), Errno> {
        let (accessed, modified) = new_times(accessed, modified, flags)?;
        let descriptor = self.ctx.table.get(fd)?;
        descriptor.require(Rights::FD_FILESTAT_SET_TIMES)?;
        descriptor.require_writable()?;
        match &descriptor.handle {
            Handle::File(file) => sys::set_times(file, accessed, modified),
            Handle::Dir(dir) => sys::set_times(&dir.dir, accessed, modified),
            Handle::Input(_) | Handle::Output(_) | Handle::Socket(_) => Err(Errno::Inval),
        }
    }

    /// Moves the offset of a file and writes the new one.
    pub fn fd_seek(
        &mut self,
        fd: u32,
        offset: i64,
        whence: u32,
        new_offset: u32,
    ) -> Result<(), Errno> {
        let whence = Whence::from_guest(self.snapshot, whence)?;
        if offset == 0 && whence == Whence::Cur {
            return self.fd_tell(fd, new_offset);
        }
        self.memory.check(new_offset, 8)?;
        let descriptor = self.ctx.table.get(fd)?;
        let mut file = descriptor.as_file(Rights::FD_SEEK)?;
        let position = match whence {
            Whence::Set => SeekFrom::Start(u64::try_from(offset).map_err(|_| Errno::Inval)?),
            Whence::Cur => SeekFrom::Current(offset),
            Whence::End => SeekFrom::End(offset),
        };
        let position = file.seek(position)?;
        self.memory.write_u64(new_offset, position)
    }

    /// Writes the offset of a file.
    pub fn fd_tell(&mut self, fd: u32, offset: u32) -> Result<(), Errno> {
        let descriptor = self.ctx.table.get(fd)?;
        let mut file = descriptor.as_file(Rights::empty())?;
        if !descriptor.base().intersects(Rights::FD_TELL | Rights::FD_SEEK) {
            return Err(Errno::NotCapable);
        }
        let position = file.stream_position()?;
        self.memory.write_u64(offset, position)
    }

    /// Writes the attributes of a file in the layout of the snapshot.
    pub(super) fn write_filestat(&mut self, ptr: u32, stat: &FileStat) -> Result<(), Errno> {
        let record = stat.encode(self.snapshot);
        self.memory.write(ptr, &record[..FileStat::size_in(self.snapshot)])
    }
}

/// What the arguments of `fd_filestat_set_times` and its sibling ask for.
pub(super) fn new_times(
    accessed: u64,
    modified: u64,
    flags: u32,
) -> Result<(NewTime, NewTime), Errno> {
    let flags = FstFlags::from_guest(flags)?;
    let choose = |at: FstFlags, now: FstFlags, time| match (flags.contains(at), flags.contains(now))
    {
        (true, true) => Err(Errno::Inval),
        (true, false) => Ok(NewTime::At(time)),
        (false, true) => Ok(NewTime::Now),
        (false, false) => Ok(NewTime::Keep),
    };
    Ok((
        choose(FstFlags::ATIM, FstFlags::ATIM_NOW, accessed)?,
        choose(FstFlags::MTIM, FstFlags::MTIM_NOW, modified)?,
    ))
}

#[cfg(test)]
mod tests {
    use crate::calls::testing::{Guest, OUT, ROOT};
    use crate::types::{Errno, Snapshot};

    #[test]
    fn seeking_counts_from_start_offset_and_end() {
        let mut guest = Guest::new();
        let fd = guest.create("file");
        guest.write(fd, "0123456789").unwrap();
        for (offset, whence, expected) in [(2, 0, 2), (3, 1, 5), (-1, 1, 4), (-3, 2, 7), (5, 2, 15)]
        {
            guest.call().fd_seek(fd, offset, whence, OUT).unwrap();
            assert_eq!(guest.u64_at(OUT), expected);
        }
        guest.call().fd_tell(fd, OUT).unwrap();
        assert_eq!(guest.u64_at(OUT), 15);
        assert_eq!(guest.call().fd_seek(fd, -1, 0, OUT), Err(Errno::Inval));
        assert_eq!(guest.call().fd_seek(fd, -16, 1, OUT), Err(Errno::Inval));
        assert_eq!(guest.call().fd_seek(fd, i64::MIN, 2, OUT), Err(Errno::Inval));
        assert_eq!(guest.call().fd_seek(fd, 0, 3, OUT), Err(Errno::Inval));
        assert_eq!(guest.call().fd_seek(0, 0, 0, OUT), Err(Errno::SPipe));
        assert_eq!(guest.call().fd_seek(ROOT, 0, 0, OUT), Err(Errno::IsDir));
        // A result that does not fit leaves the offset alone.
        assert_eq!(guest.call().fd_seek(fd, 1, 0, 65536 - 4), Err(Errno::Fault));
        guest.call().fd_tell(fd, OUT).unwrap();
        assert_eq!(guest.u64_at(OUT), 15);

        guest.snapshot = Snapshot::Preview0;
        guest.call().fd_seek(fd, 4, 2, OUT).unwrap();
        assert_eq!(guest.u64_at(OUT), 4);
        guest.call().fd_seek(fd, -4, 1, OUT).unwrap();
        assert_eq!(guest.u64_at(OUT), 6);
    }

    #[test]
    fn sizes_grow_and_shrink() {
        let mut guest = Guest::new();
        let fd = guest.create("file");
        guest.call().fd_filestat_set_size(fd, 1 << 33).unwrap();
        guest.call().fd_filestat_get(fd, OUT).unwrap();
        assert_eq!(guest.u64_at(OUT + 32), 1 << 33);
        guest.call().fd_filestat_set_size(fd, 0).unwrap();
        guest.call().fd_allocate(fd, 10, 10).unwrap();
        guest.call().fd_filestat_get(fd, OUT).unwrap();
        assert_eq!(guest.u64_at(OUT + 32), 20);
        assert_eq!(guest.call().fd_filestat_set_size(fd, u64::MAX), Err(Errno::Inval));
        assert_eq!(guest.call().fd_allocate(fd, u64::MAX, 1), Err(Errno::Inval));
        assert_eq!(guest.call().fd_allocate(fd, 0, 0), Err(Errno::Inval));
        assert_eq!(guest.call().fd_advise(fd, 0, 0, 6), Err(Errno::Inval));
        assert_eq!(guest.call().fd_advise(fd, u64::MAX, 1, 0), Err(Errno::Inval));
        assert_eq!(guest.call().fd_advise(fd, 0, 20, 3), Ok(()));
        assert_eq!(guest.call().fd_sync(fd), Ok(()));
        assert_eq!(guest.call().fd_datasync(fd), Ok(()));
        assert_eq!(guest.call().fd_sync(ROOT), Ok(()));
    }

    #[test]
    fn times_are_set_to_the_nanosecond() {
        let mut guest = Guest::new();
        let fd = guest.create("file");
        let (accessed, modified) = (1_500_000_000_123_456_789, 1_600_000_000_987_654_321);
        guest.call().fd_filestat_set_times(fd, accessed, modified, 0b0101).unwrap();
        guest.call().fd_filestat_get(fd, OUT).unwrap();
        assert_eq!((guest.u64_at(OUT + 40), guest.u64_at(OUT + 48)), (accessed, modified));
        guest.call().fd_filestat_set_times(fd, 0, 0, 0b1000).unwrap();
        guest.call().fd_filestat_get(fd, OUT).unwrap();
        assert_eq!(guest.u64_at(OUT + 40), accessed);
        assert!(guest.u64_at(OUT + 48) > modified);
        for flags in [0b0011, 0b1100, 0b1_0000] {
            let result = guest.call().fd_filestat_set_times(fd, 0, 0, flags);
            assert_eq!(result, Err(Errno::Inval));
        }
    }
}
