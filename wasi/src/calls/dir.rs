//! Listing directories.

use super::Call;
use crate::stdio::lock;
use crate::sys;
use crate::table::OpenDir;
use crate::types::{Dirent, Errno, Rights};
use cap_std::fs::{Dir, File, MetadataExt};

/// The most that is read of a directory at once, whatever the guest asks for.
const MAX_CHUNK: usize = 32 * 1024;

impl Call<'_> {
    /// Writes entries of a directory to a buffer, from the one that `cookie`
    /// stands for, and writes how many bytes it used. A full buffer means that
    /// there are more; its last entry may be cut off.
    ///
    /// A cookie is the host's own mark of a place in the directory. So nothing
    /// is kept for a guest that lists a large one, and a cookie stays good while
    /// entries come and go. A name is listed as the host has it, also one that is
    /// not UTF-8, which no path can name (`Errno::IlSeq`).
    pub fn fd_readdir(
        &mut self,
        fd: u32,
        buf: u32,
        buf_len: u32,
        cookie: u64,
        used: u32,
    ) -> Result<(), Errno> {
        self.memory.check(used, 4)?;
        let descriptor = self.ctx.table.get(fd)?;
        let dir = descriptor.as_dir(Rights::FD_READDIR)?;
        let size = usize::try_from(buf_len).map_err(|_| Errno::Fault)?;
        self.memory.check(buf, size)?;

        let mut listing = lock(&dir.listing);
        let listing = open_listing(dir, &mut listing)?;
        // The number of `..` is that of `.`: the parent may lie outside of what
        // the guest may know.
        let own_inode = dir.dir.dir_metadata()?.ino();
        // Records of the host are about as long as those of the guest, and even
        // the smallest chunk has to take one of them.
        let mut chunk = Vec::with_capacity(size.clamp(1024, MAX_CHUNK));
        let mut filled = 0;
        sys::list(listing, cookie, &mut chunk, |entry| {
            let head = Dirent {
                next: entry.next,
                inode: if entry.name == b".." { own_inode } else { entry.inode },
                name_len: u32::try_from(entry.name.len()).map_err(|_| Errno::Overflow)?,
                filetype: entry.filetype,
            };
            for part in [&head.encode()[..], entry.name] {
                let part = &part[..part.len().min(size - filled)];
                let offset = u32::try_from(filled).map_err(|_| Errno::Overflow)?;
                self.memory.write(buf.wrapping_add(offset), part)?;
                filled += part.len();
            }
            Ok(filled < size)
        })?;
        self.memory.write_size(used, filled)
    }
}

/// The directory opened for listing, which the first listing does.
fn open_listing<'a>(dir: &OpenDir, listing: &'a mut Option<File>) -> Result<&'a File, Errno> {
    match listing {
        Some(file) => Ok(file),
        empty => Ok(empty.insert(Dir::open(&dir.dir, ".")?)),
    }
}

#[cfg(test)]
mod tests {
    use crate::calls::testing::{DATA, Guest, OUT, PATH, ROOT};
    use crate::types::{Errno, FdFlags, OFlags};
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;

    /// The whole entries in `used` bytes, and the cookie after the last.
    fn entries(guest: &Guest, used: u32) -> (Vec<(String, u8)>, u64) {
        let (mut at, mut names, mut cookie) = (0, Vec::new(), 0);
        while used - at >= 24 {
            let len = guest.u32_at(DATA + at + 16);
            if used - at - 24 < len {
                break;
            }
            let name = guest.bytes(DATA + at + 24, len).to_vec();
            let kind = guest.bytes(DATA + at + 20, 1)[0];
            names.push((String::from_utf8(name).unwrap(), kind));
            cookie = guest.u64_at(DATA + at);
            at += 24 + len;
        }
        (names, cookie)
    }

    /// Reads a directory with a buffer of `size` bytes, as a guest does.
    fn list(guest: &mut Guest, fd: u32, size: u32) -> Vec<(String, u8)> {
        let (mut cookie, mut names) = (0, Vec::new());
        loop {
            guest.call().fd_readdir(fd, DATA, size, cookie, OUT).unwrap();
            let used = guest.u32_at(OUT);
            let (whole, next) = entries(guest, used);
            names.extend(whole);
            if used < size {
                return names;
            }
            cookie = next;
        }
    }

    #[test]
    fn every_buffer_size_sees_every_entry_once() {
        let mut guest = Guest::new();
        for index in 0..50 {
            let fd = guest.create(&format!("file-{index}"));
            guest.call().fd_close(fd).unwrap();
        }
        fs::create_dir(guest.host.path().join("sub")).unwrap();
        for size in [40, 41, 100, 1000, 30000] {
            let mut names = list(&mut guest, ROOT, size);
            names.sort();
            assert_eq!(names[..2], [(".".into(), 3), ("..".into(), 3)]);
            names.dedup();
            assert_eq!(names.len(), 53);
            assert!(names.contains(&("sub".into(), 3)));
            assert!(names.contains(&("file-7".into(), 4)));
        }
    }

    #[test]
    fn a_cookie_outlives_changes_and_zero_begins_again() {
        let mut guest = Guest::new();
        let names: Vec<String> = (0..40).map(|index| format!("{index:02}")).collect();
        for name in &names {
            fs::write(guest.host.path().join(name), "").unwrap();
        }
        // The first few entries, and where the next one is.
        guest.call().fd_readdir(ROOT, DATA, 300, 0, OUT).unwrap();
        let (seen, cookie) = entries(&guest, 300);
        assert!(seen.len() > 5);
        // What is gone is not listed, what is still there is listed once.
        let gone: Vec<&String> = names.iter().filter(|name| name.ends_with('7')).collect();
        for name in &gone {
            fs::remove_file(guest.host.path().join(name)).unwrap();
        }
        guest.call().fd_readdir(ROOT, DATA, 30000, cookie, OUT).unwrap();
        let (rest, last) = entries(&guest, guest.u32_at(OUT));
        for name in &names {
            let times = seen.iter().chain(&rest).filter(|(listed, _)| listed == name).count();
            let before = seen.iter().any(|(listed, _)| listed == name);
            assert_eq!(times, usize::from(before || !gone.contains(&name)), "{name}");
        }
        guest.call().fd_readdir(ROOT, DATA, 1000, last, OUT).unwrap();
        assert_eq!(guest.u32_at(OUT), 0);
        // A cookie that nobody gave out leads nowhere, or to some entry.
        let _ = guest.call().fd_readdir(ROOT, DATA, 1000, u64::MAX, OUT);
        let _ = guest.call().fd_readdir(ROOT, DATA, 1000, 12345, OUT);
        assert_eq!(list(&mut guest, ROOT, 1000).len(), 42 - gone.len());
    }

    #[test]
    fn names_that_are_not_text_are_listed_and_cannot_be_opened() {
        let mut guest = Guest::new();
        let name = OsStr::from_bytes(b"caf\xe9");
        fs::write(guest.host.path().join(name), "x").unwrap();
        guest.call().fd_readdir(ROOT, DATA, 1000, 0, OUT).unwrap();
        let used = guest.u32_at(OUT);
        assert!(guest.bytes(DATA, used).windows(4).any(|part| part == name.as_bytes()));
        let (ptr, len) = guest.put(PATH, name.as_bytes());
        let mut call = guest.call();
        assert_eq!(call.path_filestat_get(ROOT, 0, ptr, len, OUT), Err(Errno::IlSeq));
        assert_eq!(call.path_open(ROOT, 0, ptr, len, 0, 0, 0, 0, OUT), Err(Errno::IlSeq));
        assert_eq!(call.path_unlink_file(ROOT, ptr, len), Err(Errno::IlSeq));
    }

    #[test]
    fn the_parent_of_the_directory_stays_unknown() {
        let mut guest = Guest::new();
        guest.call().fd_readdir(ROOT, DATA, 1000, 0, OUT).unwrap();
        let own = fs::metadata(guest.host.path()).unwrap().ino();
        let mut at = DATA;
        for _ in 0..2 {
            assert_eq!(guest.u64_at(at + 8), own);
            at += 24 + guest.u32_at(at + 16);
        }
    }

    #[test]
    fn only_directories_are_listed() {
        let mut guest = Guest::new();
        let file = guest.create("file");
        let listed = guest.call().fd_readdir(file, DATA, 100, 0, OUT);
        assert_eq!(listed, Err(Errno::NotDir));
        let fd = guest.open(".", OFlags::DIRECTORY, FdFlags::empty(), false).unwrap();
        assert_eq!(list(&mut guest, fd, 1000).len(), 3);
        let outside = guest.call().fd_readdir(fd, DATA, u32::MAX, 0, OUT);
        assert_eq!(outside, Err(Errno::Fault));
    }
}
