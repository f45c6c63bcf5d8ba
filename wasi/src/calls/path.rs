//! Names in directories: making, linking, moving, removing, looking at them.

use super::Call;
use super::file::new_times;
use crate::sys::{self, NewTime};
use crate::types::{Errno, LookupFlags, Rights};
use cap_fs_ext::{DirExt, SystemTimeSpec};
use cap_std::fs::Dir;
use core::time::Duration;
use std::os::unix::ffi::OsStrExt;
use std::time::SystemTime;

impl Call<'_> {
    /// Makes a directory.
    pub fn path_create_directory(&mut self, fd: u32, path: u32, len: u32) -> Result<(), Errno> {
        let path = self.memory.path(path, len)?;
        let descriptor = self.ctx.table.get(fd)?;
        let dir = descriptor.as_writable_dir(Rights::PATH_CREATE_DIRECTORY)?;
        Ok(dir.create_dir(&*path)?)
    }

    /// Writes the attributes of what a path names.
    pub fn path_filestat_get(
        &mut self,
        fd: u32,
        lookup: u32,
        path: u32,
        len: u32,
        stat: u32,
    ) -> Result<(), Errno> {
        let lookup = LookupFlags::from_guest(lookup)?;
        let path = self.memory.path(path, len)?;
        let descriptor = self.ctx.table.get(fd)?;
        let dir = &descriptor.as_dir(Rights::PATH_FILESTAT_GET)?.dir;
        let metadata = if lookup.contains(LookupFlags::SYMLINK_FOLLOW) {
            dir.metadata(&*path)?
        } else {
            dir.symlink_metadata(&*path)?
        };
        self.write_filestat(stat, &sys::filestat(&metadata))
    }

    /// Sets the times of what a path names.
    #[expect(clippy::too_many_arguments, reason = "the signature is preview 1's")]
    pub fn path_filestat_set_times(
        &mut self,
        fd: u32,
        lookup: u32,
        path: u32,
        len: u32,
        accessed: u64,
        modified: u64,
        flags: u32,
    ) -> Result<(), Errno> {
        let lookup = LookupFlags::from_guest(lookup)?;
        let (accessed, modified) = new_times(accessed, modified, flags)?;
        let (accessed, modified) = (time_spec(accessed)?, time_spec(modified)?);
        let path = self.memory.path(path, len)?;
        let descriptor = self.ctx.table.get(fd)?;
        let dir = descriptor.as_writable_dir(Rights::PATH_FILESTAT_SET_TIMES)?;
        if lookup.contains(LookupFlags::SYMLINK_FOLLOW) {
            Ok(DirExt::set_times(dir, &*path, accessed, modified)?)
        } else {
            Ok(dir.set_symlink_times(&*path, accessed, modified)?)
        }
    }

    /// Gives a file another name. A symbolic link is linked itself; following
    /// it is not offered.
    #[expect(clippy::too_many_arguments, reason = "the signature is preview 1's")]
    pub fn path_link(
        &mut self,
        old_fd: u32,
        lookup: u32,
        old_path: u32,
        old_len: u32,
        new_fd: u32,
        new_path: u32,
        new_len: u32,
    ) -> Result<(), Errno> {
        let lookup = LookupFlags::from_guest(lookup)?;
        let old_path = self.memory.path(old_path, old_len)?;
        let new_path = self.memory.path(new_path, new_len)?;
        // A name in a writable directory would make a read-only file writable.
        let (old, new) = (self.ctx.table.get(old_fd)?, self.ctx.table.get(new_fd)?);
        let old = old.as_writable_dir(Rights::PATH_LINK_SOURCE)?;
        let new = new.as_writable_dir(Rights::PATH_LINK_TARGET)?;
        if lookup.contains(LookupFlags::SYMLINK_FOLLOW) {
            return Err(Errno::Inval);
        }
        Ok(old.hard_link(&*old_path, new, &*new_path)?)
    }

    /// Writes where a symbolic link points, cut off where the buffer ends, and
    /// how many bytes that are.
    pub fn path_readlink(
        &mut self,
        fd: u32,
        path: u32,
        len: u32,
        buf: u32,
        buf_len: u32,
        used: u32,
    ) -> Result<(), Errno> {
        let path = self.memory.path(path, len)?;
        let descriptor = self.ctx.table.get(fd)?;
        let dir = &descriptor.as_dir(Rights::PATH_READLINK)?.dir;
        // A link to an absolute path would tell of the host; cap-std refuses.
        let target = dir.read_link(&*path)?;
        let target = target.as_os_str().as_bytes();
        let room = usize::try_from(buf_len).map_err(|_| Errno::Fault)?;
        self.memory.check(buf, room)?;
        let copied = &target[..target.len().min(room)];
        self.memory.write(buf, copied)?;
        self.memory.write_size(used, copied.len())
    }

    /// Removes an empty directory.
    pub fn path_remove_directory(&mut self, fd: u32, path: u32, len: u32) -> Result<(), Errno> {
        let path = self.memory.path(path, len)?;
        let descriptor = self.ctx.table.get(fd)?;
        let dir = descriptor.as_writable_dir(Rights::PATH_REMOVE_DIRECTORY)?;
        Ok(dir.remove_dir(&*path)?)
    }

    /// Gives a file or directory another place.
    pub fn path_rename(
        &mut self,
        old_fd: u32,
        old_path: u32,
        old_len: u32,
        new_fd: u32,
        new_path: u32,
        new_len: u32,
    ) -> Result<(), Errno> {
        let old_path = self.memory.path(old_path, old_len)?;
        let new_path = self.memory.path(new_path, new_len)?;
        let (old, new) = (self.ctx.table.get(old_fd)?, self.ctx.table.get(new_fd)?);
        let old = old.as_writable_dir(Rights::PATH_RENAME_SOURCE)?;
        let new = new.as_writable_dir(Rights::PATH_RENAME_TARGET)?;
        // A slash at the end says that it is a directory, of either name. cap-std
        // forgets that one of the new name, and would replace a link.
        let of_directory = old_path.ends_with('/') || new_path.ends_with('/');
        if of_directory && !old.symlink_metadata(&*old_path)?.is_dir() {
            return Err(Errno::NotDir);
        }
        Ok(old.rename(&*old_path, new, &*new_path)?)
    }

    /// Makes a symbolic link. It must be relative.
    pub fn path_symlink(
        &mut self,
        target: u32,
        target_len: u32,
        fd: u32,
        path: u32,
        len: u32,
    ) -> Result<(), Errno> {
        let target = self.memory.path(target, target_len)?;
        let path = self.memory.path(path, len)?;
        let descriptor = self.ctx.table.get(fd)?;
        let dir = descriptor.as_writable_dir(Rights::PATH_SYMLINK)?;
        Ok(Dir::symlink(dir, &*target, &*path)?)
    }

    /// Removes a name that is not a directory's.
    pub fn path_unlink_file(&mut self, fd: u32, path: u32, len: u32) -> Result<(), Errno> {
        let path = self.memory.path(path, len)?;
        let descriptor = self.ctx.table.get(fd)?;
        let dir = descriptor.as_writable_dir(Rights::PATH_UNLINK_FILE)?;
        Ok(dir.remove_file(&*path)?)
    }
}

fn time_spec(time: NewTime) -> Result<Option<SystemTimeSpec>, Errno> {
    Ok(match time {
        NewTime::Keep => None,
        NewTime::Now => Some(SystemTimeSpec::SymbolicNow),
        NewTime::At(nanos) => {
            let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(nanos));
            let time = time.ok_or(Errno::Overflow)?;
            Some(SystemTimeSpec::Absolute(cap_std::time::SystemTime::from_std(time)))
        }
    })
}

#[cfg(test)]
mod tests {
    use crate::calls::testing::{DATA, Guest, OUT, PATH, PATH2, ROOT};
    use crate::types::{Errno, Snapshot};
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn nothing_outside_can_be_named() {
        let mut guest = Guest::new();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("file"), "x").unwrap();
        fs::create_dir(outside.path().join("dir")).unwrap();
        symlink(outside.path(), guest.host.path().join("link")).unwrap();
        fs::write(guest.host.path().join("mine"), "x").unwrap();
        let name = outside.path().file_name().unwrap().to_str().unwrap();
        let absolute = outside.path().to_str().unwrap();
        let (mine, mine_len) = guest.put(PATH2, "mine");
        for base in [format!("../{name}"), absolute.to_owned(), "link".to_owned()] {
            let (new, new_len) = guest.put(PATH, format!("{base}/new"));
            let mut call = guest.call();
            let results = [
                call.path_create_directory(ROOT, new, new_len),
                call.path_symlink(mine, mine_len, ROOT, new, new_len),
                call.path_link(ROOT, 0, mine, mine_len, ROOT, new, new_len),
                call.path_rename(ROOT, mine, mine_len, ROOT, new, new_len),
            ];
            assert_eq!(results, [Err(Errno::Perm); 4]);
            let (old, old_len) = guest.put(PATH, format!("{base}/file"));
            let (there, there_len) = guest.put(PATH2 + 8, "there");
            let mut call = guest.call();
            let results = [
                call.path_unlink_file(ROOT, old, old_len),
                call.path_filestat_get(ROOT, 1, old, old_len, OUT),
                call.path_filestat_set_times(ROOT, 1, old, old_len, 0, 0, 0b1010),
                call.path_filestat_set_times(ROOT, 0, old, old_len, 0, 0, 0b1010),
                call.path_link(ROOT, 0, old, old_len, ROOT, there, there_len),
                call.path_rename(ROOT, old, old_len, ROOT, there, there_len),
                call.path_readlink(ROOT, old, old_len, DATA, 100, OUT),
            ];
            assert_eq!(results, [Err(Errno::Perm); 7]);
            let (old, old_len) = guest.put(PATH, format!("{base}/dir"));
            let removed = guest.call().path_remove_directory(ROOT, old, old_len);
            assert_eq!(removed, Err(Errno::Perm));
        }
        let mut names: Vec<_> =
            fs::read_dir(outside.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["dir", "file"]);
        // Links cannot point out, and one that does is not read out.
        let (out, out_len) = guest.put(PATH, "/etc/passwd");
        let made = guest.call().path_symlink(out, out_len, ROOT, mine, mine_len);
        assert_eq!(made, Err(Errno::Perm));
        let (link, link_len) = guest.put(PATH, "link");
        let read = guest.call().path_readlink(ROOT, link, link_len, DATA, 100, OUT);
        assert_eq!(read, Err(Errno::Perm));
    }

    #[test]
    fn names_are_made_moved_and_removed() {
        let mut guest = Guest::new();
        let (dir, dir_len) = guest.put(PATH, "dir");
        let (file, file_len) = guest.put(PATH2, "dir/file");
        let (inner, inner_len) = (file + 4, 4);
        assert_eq!(guest.call().path_create_directory(ROOT, dir, dir_len), Ok(()));
        assert_eq!(guest.call().path_create_directory(ROOT, dir, dir_len), Err(Errno::Exist));
        fs::write(guest.host.path().join("file"), "x").unwrap();

        let mut call = guest.call();
        assert_eq!(call.path_rename(ROOT, inner, inner_len, ROOT, file, file_len), Ok(()));
        assert_eq!(call.path_link(ROOT, 0, file, file_len, ROOT, inner, inner_len), Ok(()));
        let follow = call.path_link(ROOT, 1, file, file_len, ROOT, inner, inner_len);
        assert_eq!(follow, Err(Errno::Inval));
        assert_eq!(call.path_filestat_get(ROOT, 0, file, file_len, OUT), Ok(()));
        assert_eq!((guest.u64_at(OUT + 24), guest.u64_at(OUT + 32)), (2, 1));
        guest.snapshot = Snapshot::Preview0;
        guest.memory[56] = 0xaa;
        guest.call().path_filestat_get(ROOT, 0, file, file_len, OUT).unwrap();
        assert_eq!(
            (guest.u32_at(OUT + 20), guest.u64_at(OUT + 24), guest.memory[56]),
            (2, 1, 0xaa)
        );

        let mut call = guest.call();
        assert_eq!(call.path_unlink_file(ROOT, dir, dir_len), Err(Errno::IsDir));
        assert_eq!(call.path_remove_directory(ROOT, dir, dir_len), Err(Errno::NotEmpty));
        assert_eq!(call.path_remove_directory(ROOT, file, file_len), Err(Errno::NotDir));
        assert_eq!(call.path_unlink_file(ROOT, file, file_len), Ok(()));
        assert_eq!(call.path_remove_directory(ROOT, dir, dir_len), Ok(()));
        assert_eq!(call.path_remove_directory(0, dir, dir_len), Err(Errno::NotDir));
        assert_eq!(call.path_remove_directory(99, dir, dir_len), Err(Errno::BadF));
    }

    #[test]
    fn links_are_read_as_far_as_the_buffer_goes() {
        let mut guest = Guest::new();
        let (target, target_len) = guest.put(PATH, "some/target");
        let (link, link_len) = guest.put(PATH2, "link");
        guest.call().path_symlink(target, target_len, ROOT, link, link_len).unwrap();
        guest.call().path_readlink(ROOT, link, link_len, DATA, 100, OUT).unwrap();
        assert_eq!((guest.u32_at(OUT), guest.bytes(DATA, 12)), (11, &b"some/target\0"[..]));
        guest.call().path_readlink(ROOT, link, link_len, DATA + 100, 4, OUT).unwrap();
        assert_eq!((guest.u32_at(OUT), guest.bytes(DATA + 100, 5)), (4, &b"some\0"[..]));
        // The link itself can have its times set although it points nowhere.
        guest.call().path_filestat_set_times(ROOT, 0, link, link_len, 0, 7, 0b0100).unwrap();
        guest.call().path_filestat_get(ROOT, 0, link, link_len, OUT).unwrap();
        assert_eq!((guest.bytes(OUT + 16, 1), guest.u64_at(OUT + 48)), (&[7][..], 7));
        let followed = guest.call().path_filestat_set_times(ROOT, 1, link, link_len, 0, 7, 4);
        assert_eq!(followed, Err(Errno::NoEnt));
    }

    #[test]
    fn a_read_only_directory_keeps_its_names() {
        let mut guest = Guest::with(|builder, host| {
            fs::write(host.join("file"), "x").unwrap();
            builder.preopened_dir_read_only(host, "/ro");
        });
        let read_only = ROOT + 1;
        let (file, len) = guest.put(PATH, "file");
        let (new, new_len) = guest.put(PATH2, "new");
        let mut call = guest.call();
        let results = [
            call.path_create_directory(read_only, new, new_len),
            call.path_filestat_set_times(read_only, 1, file, len, 0, 0, 0b1010),
            call.path_link(read_only, 0, file, len, ROOT, new, new_len),
            call.path_link(ROOT, 0, file, len, read_only, new, new_len),
            call.path_rename(read_only, file, len, ROOT, new, new_len),
            call.path_rename(ROOT, file, len, read_only, new, new_len),
            call.path_symlink(file, len, read_only, new, new_len),
            call.path_unlink_file(read_only, file, len),
            call.path_remove_directory(read_only, file, len),
        ];
        assert_eq!(results, [Err(Errno::RoFs); 9]);
        assert_eq!(call.path_filestat_get(read_only, 0, file, len, OUT), Ok(()));
    }
}
