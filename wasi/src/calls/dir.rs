//! Listing directories.

use super::Call;
use crate::guest;
use crate::table::{Entry, Handle, Listing};
use crate::types::{Dirent, Errno, FileType, Rights};
use cap_std::fs::{Dir, MetadataExt};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::DirEntryExt;

impl Call<'_> {
    /// Writes entries of a directory to a buffer, from the one that `cookie`
    /// stands for, and writes how many bytes it used. A full buffer means that
    /// there are more; its last entry may be cut off.
    ///
    /// A cookie is the number of an entry in the list that was made when the
    /// guest last began with cookie 0. So it stays good while the directory
    /// changes, and going on from it does not read the directory again.
    pub fn fd_readdir(
        &mut self,
        fd: u32,
        buf: u32,
        buf_len: u32,
        cookie: u64,
        used: u32,
    ) -> Result<(), Errno> {
        guest::check(self.memory, used, 4)?;
        let descriptor = self.ctx.table.get_mut(fd)?;
        descriptor.dir(Rights::FD_READDIR)?;
        let Handle::Dir(dir) = &mut descriptor.handle else {
            return Err(Errno::NotDir);
        };
        let buffer = guest::bytes_mut(self.memory, buf, buf_len)?;
        if cookie == 0 {
            dir.listing = None;
        }
        let listing = match &mut dir.listing {
            Some(listing) => listing,
            empty => empty.insert(Listing { entries: entries(&dir.dir)? }),
        };
        let size = buffer.len();
        let mut rest = buffer;
        let first = usize::try_from(cookie).unwrap_or(usize::MAX);
        for (index, entry) in listing.entries.iter().enumerate().skip(first) {
            let head = Dirent {
                next: u64::try_from(index).map_err(|_| Errno::Overflow)? + 1,
                inode: entry.inode,
                name_len: u32::try_from(entry.name.len()).map_err(|_| Errno::Overflow)?,
                filetype: entry.filetype,
            };
            rest = append(append(rest, &head.encode()), &entry.name);
            if rest.is_empty() {
                break;
            }
        }
        let left = rest.len();
        guest::write_size(self.memory, used, size - left)
    }
}

/// Copies as much as fits and returns what is left of the buffer.
fn append<'a>(buffer: &'a mut [u8], bytes: &[u8]) -> &'a mut [u8] {
    let len = usize::min(buffer.len(), bytes.len());
    let (place, rest) = buffer.split_at_mut(len);
    place.copy_from_slice(&bytes[..len]);
    rest
}

/// The entries of a directory, `.` and `..` first. The number of `..` is that
/// of `.`: the parent may lie outside of what the guest may know.
fn entries(dir: &Dir) -> Result<Vec<Entry>, Errno> {
    let inode = dir.dir_metadata()?.ino();
    let dots = [&b"."[..], b".."];
    let mut entries: Vec<Entry> =
        dots.map(|name| Entry { inode, filetype: FileType::Directory, name: name.into() }).into();
    for entry in dir.entries()? {
        let entry = entry?;
        entries.push(Entry {
            inode: entry.ino(),
            filetype: entry.file_type()?.into(),
            name: entry.file_name().into_vec().into_boxed_slice(),
        });
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use crate::calls::testing::{DATA, Guest, OUT, ROOT};
    use crate::types::{Errno, FdFlags, OFlags};

    /// Reads a directory with a buffer of `size` bytes, as a guest does.
    fn list(guest: &mut Guest, fd: u32, size: u32) -> Vec<(String, u8)> {
        let (mut cookie, mut names) = (0, Vec::new());
        loop {
            guest.call().fd_readdir(fd, DATA, size, cookie, OUT).unwrap();
            let used = guest.u32_at(OUT);
            let mut at = 0;
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
            if used < size {
                return names;
            }
        }
    }

    #[test]
    fn every_buffer_size_sees_every_entry_once() {
        let mut guest = Guest::new();
        for index in 0..50 {
            let fd = guest.create(&format!("file-{index}"));
            guest.call().fd_close(fd).unwrap();
        }
        std::fs::create_dir(guest.host.path().join("sub")).unwrap();
        for size in [40, 41, 100, 1000, 30000] {
            let mut names = list(&mut guest, ROOT, size);
            assert_eq!(names[0], (".".into(), 3));
            assert_eq!(names[1], ("..".into(), 3));
            names.sort();
            names.dedup();
            assert_eq!(names.len(), 53);
            assert!(names.contains(&("sub".into(), 3)));
            assert!(names.contains(&("file-7".into(), 4)));
        }
    }

    #[test]
    fn a_cookie_outlives_changes_and_zero_begins_again() {
        let mut guest = Guest::new();
        for name in ["a", "b", "c"] {
            guest.create(name);
        }
        guest.call().fd_readdir(ROOT, DATA, 25, 0, OUT).unwrap();
        assert_eq!(guest.u32_at(OUT), 25);
        for name in ["a", "b", "c"] {
            std::fs::remove_file(guest.host.path().join(name)).unwrap();
        }
        guest.call().fd_readdir(ROOT, DATA, 1000, 1, OUT).unwrap();
        assert_eq!(guest.u32_at(OUT), 26 + 3 * 25);
        guest.call().fd_readdir(ROOT, DATA, 1000, 5, OUT).unwrap();
        assert_eq!(guest.u32_at(OUT), 0);
        guest.call().fd_readdir(ROOT, DATA, 1000, u64::MAX, OUT).unwrap();
        assert_eq!(guest.u32_at(OUT), 0);
        assert_eq!(list(&mut guest, ROOT, 1000).len(), 2);
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
