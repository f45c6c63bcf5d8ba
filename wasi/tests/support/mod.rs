//! A guest that calls without wasm, and a host around it: a directory that the
//! guest was given, and one beside it that it must never reach.

#![allow(dead_code, unreachable_pub, reason = "shared by test binaries that each use a part")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use cwasm_wasi::calls::Call;
use cwasm_wasi::{Errno, Snapshot, WasiCtx};
use tempfile::TempDir;

/// The descriptor of the preopened directory.
pub const ROOT: u32 = 3;

/// What must stay inside of the file outside.
pub const SECRET: &str = "secret of the host";

/// Every right of preview 1.
const ALL_RIGHTS: u64 = (1 << 30) - 1;

// Where a call's arguments lie in memory.
const OUT: u32 = 0;
const IOV: u32 = 512;
const PATH: u32 = 1024;
const PATH2: u32 = 8192;
const DATA: u32 = 16384;

/// A host with `inside`, which belongs to the guest, and `outside`, which does not.
pub struct Host {
    folder: TempDir,
}

impl Host {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host = Self { folder };
        fs::create_dir(host.inside()).unwrap();
        fs::create_dir_all(host.outside().join("dir/empty")).unwrap();
        fs::write(host.outside().join("file"), SECRET).unwrap();
        fs::write(host.outside().join("dir/file"), SECRET).unwrap();
        symlink("file", host.outside().join("link")).unwrap();
        host
    }

    pub fn inside(&self) -> PathBuf {
        self.folder.path().join("inside")
    }

    pub fn outside(&self) -> PathBuf {
        self.folder.path().join("outside")
    }

    /// Everything about what is outside: names, kinds, sizes, times, contents.
    /// Only times of access are left out, since this test reads, too.
    pub fn state_outside(&self) -> BTreeMap<PathBuf, String> {
        let mut state = BTreeMap::new();
        describe(&self.outside(), &mut state);
        state
    }

    pub fn guest(&self) -> Guest {
        let ctx = WasiCtx::builder().preopened_dir(self.inside(), "/").build().unwrap();
        Guest::new(ctx)
    }
}

fn describe(path: &Path, state: &mut BTreeMap<PathBuf, String>) {
    let stat = fs::symlink_metadata(path).unwrap();
    let contents = if stat.is_file() { fs::read_to_string(path).unwrap() } else { String::new() };
    let times = (stat.mtime(), stat.mtime_nsec(), stat.ctime(), stat.ctime_nsec());
    let numbers = (stat.ino(), stat.mode(), stat.nlink(), stat.len());
    state.insert(path.to_owned(), format!("{numbers:?} {times:?} {contents}"));
    if stat.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            describe(&entry.unwrap().path(), state);
        }
    }
}

/// A guest, as far as its calls go.
pub struct Guest {
    ctx: WasiCtx,
    memory: Vec<u8>,
}

impl Guest {
    pub fn new(ctx: WasiCtx) -> Self {
        Self { ctx, memory: vec![0; 65536] }
    }

    /// Another thread of the same guest.
    pub fn thread(&self) -> Self {
        Self::new(self.ctx.clone())
    }

    pub fn call(&mut self) -> Call<'_> {
        Call::new(&self.ctx, &mut self.memory[..], Snapshot::Preview1)
    }

    fn put(&mut self, ptr: u32, text: &str) -> (u32, u32) {
        let start = ptr as usize;
        self.memory[start..start + text.len()].copy_from_slice(text.as_bytes());
        (ptr, u32::try_from(text.len()).unwrap())
    }

    fn u32_at(&self, ptr: u32) -> u32 {
        let start = ptr as usize;
        u32::from_le_bytes(self.memory[start..start + 4].try_into().unwrap())
    }

    pub fn u64_at(&self, ptr: u32) -> u64 {
        u64::from(self.u32_at(ptr)) | u64::from(self.u32_at(ptr + 4)) << 32
    }

    pub fn open(&mut self, path: &str, lookup: u32, oflags: u32) -> Result<u32, Errno> {
        /// `fd_write`, which no directory has.
        const FD_WRITE: u64 = 1 << 6;
        let rights = if oflags & 2 == 0 { ALL_RIGHTS } else { ALL_RIGHTS & !FD_WRITE };
        self.open_at(ROOT, path, lookup, oflags, rights)
    }

    pub fn open_at(
        &mut self,
        dir: u32,
        path: &str,
        lookup: u32,
        oflags: u32,
        rights: u64,
    ) -> Result<u32, Errno> {
        let (ptr, len) = self.put(PATH, path);
        self.call().path_open(dir, lookup, ptr, len, oflags, rights, u64::MAX, 0, OUT)?;
        Ok(self.u32_at(OUT))
    }

    /// Opens to read, and reads the beginning.
    pub fn read(&mut self, path: &str, lookup: u32) -> Result<String, Errno> {
        /// `fd_read` and `fd_filestat_get`.
        const TO_READ: u64 = 1 << 1 | 1 << 21;
        let fd = self.open_at(ROOT, path, lookup, 0, TO_READ)?;
        let result = self.read_fd(fd);
        self.call().fd_close(fd).unwrap();
        result
    }

    pub fn read_fd(&mut self, fd: u32) -> Result<String, Errno> {
        let iov = [DATA.to_le_bytes(), 1000_u32.to_le_bytes()].concat();
        self.memory[IOV as usize..IOV as usize + 8].copy_from_slice(&iov);
        self.call().fd_read(fd, IOV, 1, OUT)?;
        let (start, len) = (DATA as usize, self.u32_at(OUT) as usize);
        Ok(String::from_utf8_lossy(&self.memory[start..start + len]).into_owned())
    }

    pub fn close(&mut self, fd: u32) {
        self.call().fd_close(fd).unwrap();
    }

    /// The number of the file, which identifies it.
    pub fn inode(&mut self, path: &str, lookup: u32) -> Result<u64, Errno> {
        let (ptr, len) = self.put(PATH, path);
        self.call().path_filestat_get(ROOT, lookup, ptr, len, OUT)?;
        Ok(self.u64_at(OUT + 8))
    }

    pub fn set_times(&mut self, path: &str, lookup: u32) -> Result<(), Errno> {
        let (ptr, len) = self.put(PATH, path);
        self.call().path_filestat_set_times(ROOT, lookup, ptr, len, 1, 1, 0b0101)
    }

    pub fn create_directory(&mut self, path: &str) -> Result<(), Errno> {
        let (ptr, len) = self.put(PATH, path);
        self.call().path_create_directory(ROOT, ptr, len)
    }

    pub fn remove_directory(&mut self, path: &str) -> Result<(), Errno> {
        let (ptr, len) = self.put(PATH, path);
        self.call().path_remove_directory(ROOT, ptr, len)
    }

    pub fn unlink(&mut self, path: &str) -> Result<(), Errno> {
        let (ptr, len) = self.put(PATH, path);
        self.call().path_unlink_file(ROOT, ptr, len)
    }

    pub fn readlink(&mut self, path: &str) -> Result<String, Errno> {
        let (ptr, len) = self.put(PATH, path);
        self.call().path_readlink(ROOT, ptr, len, DATA, 4096, OUT)?;
        let (start, len) = (DATA as usize, self.u32_at(OUT) as usize);
        Ok(String::from_utf8_lossy(&self.memory[start..start + len]).into_owned())
    }

    pub fn symlink(&mut self, target: &str, path: &str) -> Result<(), Errno> {
        let (target, target_len) = self.put(PATH2, target);
        let (ptr, len) = self.put(PATH, path);
        self.call().path_symlink(target, target_len, ROOT, ptr, len)
    }

    pub fn link(&mut self, old: &str, new: &str) -> Result<(), Errno> {
        let (old, old_len) = self.put(PATH2, old);
        let (new, new_len) = self.put(PATH, new);
        self.call().path_link(ROOT, 0, old, old_len, ROOT, new, new_len)
    }

    pub fn rename(&mut self, old: &str, new: &str) -> Result<(), Errno> {
        let (old, old_len) = self.put(PATH2, old);
        let (new, new_len) = self.put(PATH, new);
        self.call().path_rename(ROOT, old, old_len, ROOT, new, new_len)
    }
}
