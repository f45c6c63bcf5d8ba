//! Descriptors as such: closing, moving, what they may do, preopened names.

use super::Call;
use crate::sys;
use crate::table::{Handle, OpenDir};
use crate::types::{Errno, FdFlags, Prestat, Rights};

impl Call<'_> {
    /// Closes a descriptor.
    pub fn fd_close(&mut self, fd: u32) -> Result<(), Errno> {
        match &self.ctx.table.remove(fd)?.handle {
            Handle::Output(output) => Ok(output.flush()?),
            _ => Ok(()),
        }
    }

    /// Moves a descriptor to the number of another, which is closed.
    pub fn fd_renumber(&mut self, from: u32, to: u32) -> Result<(), Errno> {
        self.ctx.table.renumber(from, to)
    }

    /// Writes what a descriptor is and may do.
    pub fn fd_fdstat_get(&mut self, fd: u32, stat: u32) -> Result<(), Errno> {
        let record = self.ctx.table.get(fd)?.fdstat().encode();
        self.memory.write(stat, &record)
    }

    /// Sets how reads and writes of a descriptor behave. Whether they are
    /// synchronised is decided when a file is opened.
    ///
    /// A standard stream may be shared with other processes of the host, so its
    /// flags there stay as they are. Calls that must not wait ask it first.
    pub fn fd_fdstat_set_flags(&mut self, fd: u32, flags: u32) -> Result<(), Errno> {
        let mut flags = FdFlags::from_guest(flags)?;
        let descriptor = self.ctx.table.get(fd)?;
        descriptor.require(Rights::FD_FDSTAT_SET_FLAGS)?;
        let changed = flags ^ descriptor.flags();
        if changed.intersects(FdFlags::DSYNC | FdFlags::RSYNC | FdFlags::SYNC) {
            return Err(Errno::NotSup);
        }
        match &descriptor.handle {
            Handle::File(file) => sys::set_flags(file, flags)?,
            Handle::Socket(socket) => sys::set_flags(&socket.fd, flags)?,
            // Outputs always append, whether the guest says so or not.
            Handle::Output(_) => flags |= FdFlags::APPEND,
            Handle::Input(_) | Handle::Dir(_) => {}
        }
        descriptor.set_flags(flags);
        Ok(())
    }

    /// Gives up rights of a descriptor. None can be gained.
    pub fn fd_fdstat_set_rights(
        &mut self,
        fd: u32,
        base: u64,
        inheriting: u64,
    ) -> Result<(), Errno> {
        let descriptor = self.ctx.table.get(fd)?;
        let (Some(base), Some(inheriting)) =
            (Rights::from_bits(base), Rights::from_bits(inheriting))
        else {
            return Err(Errno::NotCapable);
        };
        descriptor.restrict(base, inheriting)
    }

    /// Writes how long the name of a preopened directory is. A guest looks for
    /// its directories by calling this until it fails with `Errno::BadF`.
    pub fn fd_prestat_get(&mut self, fd: u32, prestat: u32) -> Result<(), Errno> {
        let descriptor = self.ctx.table.get(fd)?;
        let Handle::Dir(OpenDir { preopen: Some(name), .. }) = &descriptor.handle else {
            return Err(Errno::BadF);
        };
        let name_len = u32::try_from(name.len()).map_err(|_| Errno::Overflow)?;
        self.memory.write(prestat, &Prestat { name_len }.encode())
    }

    /// Writes the name of a preopened directory, without a terminator.
    pub fn fd_prestat_dir_name(&mut self, fd: u32, path: u32, len: u32) -> Result<(), Errno> {
        let descriptor = self.ctx.table.get(fd)?;
        let Handle::Dir(dir) = &descriptor.handle else {
            return Err(Errno::NotDir);
        };
        let name = dir.preopen.as_ref().ok_or(Errno::BadF)?;
        let len = usize::try_from(len).map_err(|_| Errno::Fault)?;
        self.memory.check(path, len)?;
        if len < name.len() {
            return Err(Errno::NameTooLong);
        }
        self.memory.write(path, name.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use crate::calls::testing::{DATA, Guest, OUT, ROOT};
    use crate::types::{Errno, FdFlags, OFlags, Rights};

    #[test]
    fn preopened_directories_are_found_by_name() {
        let mut guest = Guest::with(|builder, host| {
            builder.preopened_dir(host, "second");
        });
        assert_eq!(guest.call().fd_prestat_get(2, OUT), Err(Errno::BadF));
        guest.call().fd_prestat_get(ROOT + 1, OUT).unwrap();
        assert_eq!((guest.u32_at(OUT), guest.u32_at(OUT + 4)), (0, 6));
        assert_eq!(guest.call().fd_prestat_get(ROOT + 2, OUT), Err(Errno::BadF));

        let short = guest.call().fd_prestat_dir_name(ROOT + 1, DATA, 5);
        assert_eq!(short, Err(Errno::NameTooLong));
        guest.call().fd_prestat_dir_name(ROOT + 1, DATA, 6).unwrap();
        assert_eq!(guest.bytes(DATA, 6), b"second");
        let outside = guest.call().fd_prestat_dir_name(ROOT, u32::MAX, u32::MAX);
        assert_eq!(outside, Err(Errno::Fault));
        assert_eq!(guest.call().fd_prestat_dir_name(0, DATA, 6), Err(Errno::NotDir));
    }

    #[test]
    fn rights_can_only_be_lost() {
        let mut guest = Guest::new();
        let fd = guest.create("file");
        let all = Rights::FILE.bits();
        let less = (Rights::FILE - Rights::FD_WRITE).bits();
        assert_eq!(guest.call().fd_fdstat_set_rights(fd, less, 0), Ok(()));
        assert_eq!(guest.write(fd, "x"), Err(Errno::NotCapable));
        assert_eq!(guest.read(fd, 1), Ok(String::new()));
        assert_eq!(guest.call().fd_fdstat_set_rights(fd, all, 0), Err(Errno::NotCapable));
        assert_eq!(guest.call().fd_fdstat_set_rights(fd, u64::MAX, 0), Err(Errno::NotCapable));
        guest.call().fd_fdstat_get(fd, OUT).unwrap();
        assert_eq!(guest.u64_at(OUT + 8), less);
        assert_eq!(guest.bytes(OUT, 1), [4]);
    }

    #[test]
    fn a_renumbered_descriptor_reads_its_file_under_the_new_number() {
        let mut guest = Guest::new();
        let (one, two) = (guest.create("one"), guest.create("two"));
        guest.write(one, "1").unwrap();
        guest.call().fd_renumber(one, two).unwrap();
        assert_eq!(guest.write(one, "x"), Err(Errno::BadF));
        guest.write(two, "+").unwrap();
        assert_eq!(guest.host_file("one"), "1+");
        assert_eq!(guest.host_file("two"), "");
        assert_eq!(guest.call().fd_close(two), Ok(()));
        assert_eq!(guest.call().fd_close(two), Err(Errno::BadF));
        assert_eq!(guest.call().fd_close(u32::MAX), Err(Errno::BadF));
    }

    #[test]
    fn append_can_be_switched_and_synchronisation_cannot() {
        let mut guest = Guest::new();
        let flags = FdFlags::APPEND;
        let fd = guest.open("log", OFlags::CREAT, flags, true).unwrap();
        guest.write(fd, "ab").unwrap();
        guest.call().fd_seek(fd, 0, 0, OUT).unwrap();
        guest.write(fd, "cd").unwrap();
        assert_eq!(guest.host_file("log"), "abcd");
        guest.call().fd_fdstat_set_flags(fd, 0).unwrap();
        guest.call().fd_seek(fd, 0, 0, OUT).unwrap();
        guest.write(fd, "X").unwrap();
        assert_eq!(guest.host_file("log"), "Xbcd");
        let sync = u32::from(FdFlags::SYNC.bits());
        assert_eq!(guest.call().fd_fdstat_set_flags(fd, sync), Err(Errno::NotSup));
        assert_eq!(guest.call().fd_fdstat_set_flags(fd, 1 << 9), Err(Errno::Inval));
    }
}
