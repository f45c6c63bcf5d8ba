//! `path_open`: how the flags and rights of the guest become those of the host.

use super::Call;
use crate::sys;
use crate::table::{Descriptor, Handle};
use crate::types::{Errno, FdFlags, FileType, LookupFlags, OFlags, Rights};
use cap_fs_ext::{FollowSymlinks, OpenOptionsFollowExt, OpenOptionsSyncExt};
use cap_std::fs::{Dir, File, OpenOptions};

/// What a guest asks `path_open` for.
struct Request {
    follow: bool,
    oflags: OFlags,
    fdflags: FdFlags,
    /// The rights of the new descriptor, if they apply to what is opened.
    rights: Rights,
}

impl Call<'_> {
    /// Opens a file or directory and writes its descriptor.
    ///
    /// The new descriptor has those of the rights it asks for that the
    /// directory passes on and that apply to what was opened.
    #[expect(clippy::too_many_arguments, reason = "the signature is preview 1's")]
    pub fn path_open(
        &mut self,
        fd: u32,
        lookup: u32,
        path: u32,
        path_len: u32,
        oflags: u32,
        base: u64,
        inheriting: u64,
        fdflags: u32,
        opened: u32,
    ) -> Result<(), Errno> {
        let lookup = LookupFlags::from_guest(lookup)?;
        let oflags = OFlags::from_guest(oflags)?;
        let fdflags = FdFlags::from_guest(fdflags)?;
        self.memory.check(opened, 4)?;
        let path = self.memory.path(path, path_len)?;

        let parent = self.ctx.table.get(fd)?;
        let mut needed = Rights::PATH_OPEN;
        needed.set(Rights::PATH_CREATE_FILE, oflags.contains(OFlags::CREAT));
        needed.set(Rights::PATH_FILESTAT_SET_SIZE, oflags.contains(OFlags::TRUNC));
        let dir = &parent.as_dir(needed)?.dir;
        self.ctx.table.check_room()?;

        let request = Request {
            follow: lookup.contains(LookupFlags::SYMLINK_FOLLOW),
            oflags,
            fdflags,
            rights: Rights::from_bits_truncate(base) & parent.inheriting(),
        };
        let inheriting = Rights::from_bits_truncate(inheriting) & parent.inheriting();
        let descriptor = request.open(dir, &path, inheriting, parent.read_only)?;
        let new = self.ctx.table.insert(descriptor)?;
        self.memory.write_u32(opened, new)
    }
}

impl Request {
    fn open(
        &self,
        dir: &Dir,
        path: &str,
        inheriting: Rights,
        read_only: bool,
    ) -> Result<Descriptor, Errno> {
        let file =
            if read_only { self.open_read_only(dir, path)? } else { self.open_host(dir, path)? };
        let filetype = FileType::from(file.metadata()?.file_type());
        if filetype == FileType::Directory {
            let dir = Dir::from_std_file(file.into_std());
            let rights = (self.rights & Rights::DIRECTORY, inheriting);
            return Ok(Descriptor::dir(dir, None, rights, read_only));
        }
        if self.oflags.contains(OFlags::DIRECTORY) {
            return Err(Errno::NotDir);
        }
        if self.fdflags.contains(FdFlags::APPEND) {
            // Only now: cap-std refuses to truncate a file that it opens to
            // append.
            sys::set_flags(&file, self.fdflags)?;
        }
        let mut base = self.rights & Rights::FILE;
        if filetype == FileType::CharacterDevice && sys::is_terminal(&file) {
            base -= Rights::FD_SEEK | Rights::FD_TELL;
        }
        let handle = Handle::File(file);
        Ok(Descriptor::new(handle, filetype, self.fdflags, (base, inheriting), read_only))
    }

    /// Whether the host has to open for writing. Of a directory only
    /// `FD_WRITE` is taken seriously: it fails.
    fn writes(&self) -> bool {
        let needs = if self.oflags.contains(OFlags::DIRECTORY) {
            Rights::FD_WRITE
        } else {
            Rights::NEEDS_WRITING
        };
        self.oflags.contains(OFlags::TRUNC) || self.rights.intersects(needs)
    }

    fn options(&self) -> OpenOptions {
        let flags = self.fdflags;
        let mut options = OpenOptions::new();
        options.write(self.writes());
        options
            .read(!self.writes() || self.rights.intersects(Rights::FD_READ | Rights::FD_READDIR));
        options.follow(if self.follow { FollowSymlinks::Yes } else { FollowSymlinks::No });
        options.sync(flags.contains(FdFlags::SYNC));
        options.dsync(flags.contains(FdFlags::DSYNC));
        options.rsync(flags.contains(FdFlags::RSYNC));
        // Something else than a directory is closed again: opening a pipe must
        // not wait for its other end.
        let only_directory = self.oflags.contains(OFlags::DIRECTORY);
        options.nonblock(flags.contains(FdFlags::NONBLOCK) || only_directory);
        options
    }

    fn open_host(&self, dir: &Dir, path: &str) -> Result<File, Errno> {
        if !self.oflags.contains(OFlags::CREAT) {
            let mut options = self.options();
            options.truncate(self.oflags.contains(OFlags::TRUNC));
            return Ok(dir.open_with(path, &options)?);
        }
        if self.oflags.contains(OFlags::DIRECTORY) {
            return Err(Errno::Inval);
        }
        // cap-std creates only what it opens for writing. Rights the guest has
        // not asked for stay unused: its descriptor does not have them.
        let mut options = self.options();
        options.write(true).create(true);
        options.truncate(self.oflags.contains(OFlags::TRUNC));
        options.create_new(self.oflags.contains(OFlags::EXCL));
        match dir.open_with(path, &options).map_err(Errno::from) {
            // A file that exists and may only be read is good enough for a
            // guest that only reads.
            Err(Errno::Acces | Errno::Perm | Errno::RoFs | Errno::TxtBsy)
                if !self.writes() && !self.oflags.contains(OFlags::EXCL) =>
            {
                Ok(dir.open_with(path, &self.options())?)
            }
            result => result,
        }
    }

    /// Opens as on a read-only file system: what exists can be read.
    fn open_read_only(&self, dir: &Dir, path: &str) -> Result<File, Errno> {
        if self.oflags.contains(OFlags::CREAT | OFlags::EXCL) {
            dir.symlink_metadata(path).map_err(|error| match error.into() {
                Errno::NoEnt => Errno::RoFs,
                errno => errno,
            })?;
            return Err(Errno::Exist);
        }
        if self.writes() {
            return Err(Errno::RoFs);
        }
        match dir.open_with(path, &self.options()).map_err(Errno::from) {
            Err(Errno::NoEnt) if self.oflags.contains(OFlags::CREAT) => Err(Errno::RoFs),
            result => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::calls::testing::{Guest, OUT, PATH, ROOT};
    use crate::types::{Errno, FdFlags, OFlags, Rights};
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    const NONE: OFlags = OFlags::empty();

    fn open(guest: &mut Guest, path: &str, oflags: OFlags) -> Result<u32, Errno> {
        guest.open(path, oflags, FdFlags::empty(), false)
    }

    #[test]
    fn nothing_outside_can_be_opened() {
        let mut guest = Guest::new();
        let host = guest.host.path().to_path_buf();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "secret").unwrap();
        fs::create_dir(host.join("dir")).unwrap();
        symlink(outside.path(), host.join("absolute")).unwrap();
        symlink(outside.path().join("secret"), host.join("file")).unwrap();
        let name = outside.path().file_name().unwrap().to_str().unwrap();
        symlink(format!("../{name}"), host.join("relative")).unwrap();
        symlink("../..", host.join("dir/up")).unwrap();
        symlink("relative", host.join("chain")).unwrap();

        let secret = outside.path().join("secret");
        let up = format!("../{name}/secret");
        let deep = format!("dir/../../{name}/secret");
        let paths = [
            "..",
            "../",
            "../.",
            "dir/../..",
            "/",
            "//",
            "/etc/passwd",
            "absolute",
            "absolute/secret",
            "file",
            "relative/secret",
            "relative",
            "chain/secret",
            "dir/up",
            "dir/up/etc",
            "dir/up/..",
            secret.to_str().unwrap(),
            &up,
            &deep,
        ];
        for path in paths {
            for oflags in [NONE, OFlags::DIRECTORY, OFlags::CREAT, OFlags::TRUNC] {
                let result = open(&mut guest, path, oflags);
                let create_dir = oflags == OFlags::CREAT && result == Err(Errno::IsDir);
                assert!(result == Err(Errno::Perm) || create_dir, "{path} {oflags:?} {result:?}");
            }
        }
        assert_eq!(fs::read_to_string(secret).unwrap(), "secret");
        // A link that stays inside is followed, and so is `..`.
        symlink("../dir/.", host.join("dir/inside")).unwrap();
        open(&mut guest, "dir/inside/../dir/inside", OFlags::DIRECTORY).unwrap();
    }

    #[test]
    fn symbolic_links_are_followed_on_request_only() {
        let mut guest = Guest::new();
        fs::write(guest.host.path().join("file"), "x").unwrap();
        symlink("file", guest.host.path().join("link")).unwrap();
        symlink("loop", guest.host.path().join("loop")).unwrap();
        let (ptr, len) = guest.put(PATH, "link");
        let rights = Rights::FD_READ.bits();
        let mut open =
            |lookup| guest.call().path_open(ROOT, lookup, ptr, len, 0, rights, 0, 0, OUT);
        assert_eq!(open(0), Err(Errno::Loop));
        assert_eq!(open(1), Ok(()));
        assert_eq!(open(2), Err(Errno::Inval));
        assert_eq!(super::tests::open(&mut guest, "loop", NONE), Err(Errno::Loop));
    }

    #[test]
    fn creating_excluding_and_truncating() {
        let mut guest = Guest::new();
        assert_eq!(open(&mut guest, "file", NONE), Err(Errno::NoEnt));
        assert_eq!(open(&mut guest, "", OFlags::CREAT), Err(Errno::NoEnt));
        let fd = guest.create("file");
        guest.write(fd, "content").unwrap();
        assert_eq!(open(&mut guest, "file", OFlags::CREAT | OFlags::EXCL), Err(Errno::Exist));
        open(&mut guest, "file", OFlags::CREAT).unwrap();
        assert_eq!(guest.host_file("file"), "content");
        assert_eq!(open(&mut guest, "file", OFlags::DIRECTORY), Err(Errno::NotDir));
        assert_eq!(open(&mut guest, "file/", NONE), Err(Errno::NotDir));
        assert_eq!(open(&mut guest, ".", OFlags::CREAT), Err(Errno::IsDir));
        let both = OFlags::CREAT | OFlags::DIRECTORY;
        assert_eq!(open(&mut guest, "new", both), Err(Errno::Inval));
        let fd = guest.open("file", OFlags::TRUNC, FdFlags::APPEND, true).unwrap();
        assert_eq!(guest.host_file("file"), "");
        guest.write(fd, "ab").unwrap();
        guest.call().fd_seek(fd, 0, 0, OUT).unwrap();
        guest.write(fd, "cd").unwrap();
        assert_eq!(guest.host_file("file"), "abcd");
    }

    #[test]
    fn a_descriptor_has_the_rights_that_were_asked_for_and_apply() {
        let mut guest = Guest::new();
        let rights = Rights::FD_READ | Rights::PATH_OPEN;
        let flags = FdFlags::empty();
        let fd = guest.open_with_rights("file", OFlags::CREAT, flags, rights).unwrap();
        guest.call().fd_fdstat_get(fd, OUT).unwrap();
        assert_eq!(guest.u64_at(OUT + 8), Rights::FD_READ.bits());
        assert_eq!(guest.write(fd, "x"), Err(Errno::NotCapable));

        // What a directory does not pass on cannot be asked for.
        let passed = (Rights::DIRECTORY | Rights::FILE) - Rights::FD_WRITE;
        let base = Rights::DIRECTORY - Rights::PATH_CREATE_FILE;
        guest.call().fd_fdstat_set_rights(ROOT, base.bits(), passed.bits()).unwrap();
        let fd = guest.open("file", NONE, flags, true).unwrap();
        assert_eq!(guest.write(fd, "x"), Err(Errno::NotCapable));
        assert_eq!(open(&mut guest, "other", OFlags::CREAT), Err(Errno::NotCapable));
    }

    #[test]
    fn what_may_only_be_read_can_be_opened_to_read() {
        let mut guest = Guest::new();
        let path = guest.host.path().join("file");
        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
        let fd = open(&mut guest, "file", OFlags::CREAT).unwrap();
        assert_eq!(guest.read(fd, 9), Ok("x".into()));
    }

    #[test]
    fn a_read_only_directory_looks_like_a_read_only_file_system() {
        let mut guest = Guest::with(|builder, host| {
            fs::write(host.join("file"), "x").unwrap();
            fs::create_dir(host.join("dir")).unwrap();
            builder.preopened_dir_read_only(host, "/ro");
        });
        guest.call().fd_renumber(ROOT + 1, ROOT).unwrap();
        let flags = FdFlags::empty();
        let fd = open(&mut guest, "file", OFlags::CREAT).unwrap();
        assert_eq!(guest.read(fd, 1), Ok("x".into()));
        assert_eq!(guest.write(fd, "y"), Err(Errno::NotCapable));
        assert_eq!(guest.call().fd_filestat_set_times(fd, 0, 0, 2), Err(Errno::RoFs));
        assert_eq!(guest.open("file", NONE, flags, true), Err(Errno::RoFs));
        // What Go asks for to read.
        let rights = Rights::FILE - Rights::NEEDS_WRITING;
        let fd = guest.open_with_rights("file", NONE, flags, rights).unwrap();
        assert_eq!(guest.read(fd, 1), Ok("x".into()));
        assert_eq!(guest.call().fd_filestat_set_size(fd, 0), Err(Errno::RoFs));
        assert_eq!(open(&mut guest, "file", OFlags::TRUNC), Err(Errno::RoFs));
        assert_eq!(open(&mut guest, "new", OFlags::CREAT), Err(Errno::RoFs));
        let new = OFlags::CREAT | OFlags::EXCL;
        assert_eq!(open(&mut guest, "new", new), Err(Errno::RoFs));
        assert_eq!(open(&mut guest, "file", new), Err(Errno::Exist));
        // What is opened in it is read-only, too.
        let dir = open(&mut guest, "dir", OFlags::DIRECTORY).unwrap();
        let (ptr, len) = guest.put(PATH, "sub");
        assert_eq!(guest.call().path_create_directory(dir, ptr, len), Err(Errno::RoFs));
        assert_eq!(guest.host_file("file"), "x");
    }
}
