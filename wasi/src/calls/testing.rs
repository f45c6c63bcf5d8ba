//! A guest for the tests of the calls: a context over a new directory and a
//! memory to pass arguments in.

use super::Call;
use crate::ctx::{WasiCtx, WasiCtxBuilder};
use crate::types::{Errno, FdFlags, OFlags, Rights, Snapshot};
use std::path::Path;
use tempfile::TempDir;

/// Where tests put results, paths and other data.
pub(crate) const OUT: u32 = 0;
pub(crate) const PATH: u32 = 1024;
pub(crate) const PATH2: u32 = 8192;
pub(crate) const DATA: u32 = 16384;
pub(crate) const IOV: u32 = 512;

/// The descriptor of the preopened directory.
pub(crate) const ROOT: u32 = 3;

pub(crate) struct Guest {
    pub(crate) ctx: WasiCtx,
    pub(crate) memory: Vec<u8>,
    pub(crate) snapshot: Snapshot,
    pub(crate) host: TempDir,
}

impl Guest {
    /// A guest with a new directory as `/`.
    pub(crate) fn new() -> Self {
        Self::with(|_, _| {})
    }

    /// A guest with a new directory as `/` and what `more` adds.
    pub(crate) fn with(more: impl FnOnce(&mut WasiCtxBuilder, &Path)) -> Self {
        let host = tempfile::tempdir().unwrap();
        let mut builder = WasiCtx::builder();
        builder.preopened_dir(host.path(), "/");
        more(&mut builder, host.path());
        let ctx = builder.build().unwrap();
        Self { ctx, memory: vec![0; 65536], snapshot: Snapshot::Preview1, host }
    }

    pub(crate) fn call(&mut self) -> Call<'_> {
        Call::new(&mut self.ctx, &mut self.memory, self.snapshot)
    }

    /// Puts bytes into memory and returns their place.
    pub(crate) fn put(&mut self, ptr: u32, bytes: impl AsRef<[u8]>) -> (u32, u32) {
        let bytes = bytes.as_ref();
        let start = usize::try_from(ptr).unwrap();
        self.memory[start..start + bytes.len()].copy_from_slice(bytes);
        (ptr, u32::try_from(bytes.len()).unwrap())
    }

    pub(crate) fn bytes(&self, ptr: u32, len: u32) -> &[u8] {
        crate::guest::bytes(&self.memory, ptr, len).unwrap()
    }

    pub(crate) fn u32_at(&self, ptr: u32) -> u32 {
        u32::from_le_bytes(self.bytes(ptr, 4).try_into().unwrap())
    }

    pub(crate) fn u64_at(&self, ptr: u32) -> u64 {
        u64::from_le_bytes(self.bytes(ptr, 8).try_into().unwrap())
    }

    /// Opens with all rights of a file or directory, but to write only if the
    /// flags or `write` say so.
    pub(crate) fn open(
        &mut self,
        path: &str,
        oflags: OFlags,
        fdflags: FdFlags,
        write: bool,
    ) -> Result<u32, Errno> {
        let mut rights = Rights::all() - Rights::NEEDS_WRITING;
        if write {
            rights |= Rights::NEEDS_WRITING;
        }
        self.open_with_rights(path, oflags, fdflags, rights)
    }

    pub(crate) fn open_with_rights(
        &mut self,
        path: &str,
        oflags: OFlags,
        fdflags: FdFlags,
        rights: Rights,
    ) -> Result<u32, Errno> {
        let (ptr, len) = self.put(PATH, path);
        let (oflags, fdflags) = (u32::from(oflags.bits()), u32::from(fdflags.bits()));
        let (base, inheriting) = (rights.bits(), u64::MAX);
        self.call().path_open(ROOT, 1, ptr, len, oflags, base, inheriting, fdflags, OUT)?;
        Ok(self.u32_at(OUT))
    }

    /// Opens a file to read and write, which is made if need be.
    pub(crate) fn create(&mut self, path: &str) -> u32 {
        self.open(path, OFlags::CREAT, FdFlags::empty(), true).unwrap()
    }

    /// Puts the record of one buffer into memory.
    pub(crate) fn iov(&mut self, ptr: u32, len: u32) -> (u32, u32) {
        self.put(IOV, [ptr.to_le_bytes(), len.to_le_bytes()].concat());
        (IOV, 1)
    }

    pub(crate) fn write(&mut self, fd: u32, bytes: &str) -> Result<u32, Errno> {
        let (ptr, len) = self.put(DATA, bytes);
        let (iov, count) = self.iov(ptr, len);
        self.call().fd_write(fd, iov, count, OUT)?;
        Ok(self.u32_at(OUT))
    }

    pub(crate) fn read(&mut self, fd: u32, len: u32) -> Result<String, Errno> {
        let (iov, count) = self.iov(DATA, len);
        self.call().fd_read(fd, iov, count, OUT)?;
        let read = self.bytes(DATA, self.u32_at(OUT)).to_vec();
        Ok(String::from_utf8(read).unwrap())
    }

    pub(crate) fn host_file(&self, name: &str) -> String {
        std::fs::read_to_string(self.host.path().join(name)).unwrap()
    }
}
