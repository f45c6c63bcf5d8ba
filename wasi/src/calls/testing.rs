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
        Call::new(&self.ctx, &mut self.memory[..], self.snapshot)
    }

    /// Puts bytes into memory and returns their place.
    pub(crate) fn put(&mut self, ptr: u32, bytes: impl AsRef<[u8]>) -> (u32, u32) {
        let bytes = bytes.as_ref();
        let start = usize::try_from(ptr).unwrap();
        self.memory[start..start + bytes.len()].copy_from_slice(bytes);
        (ptr, u32::try_from(bytes.len()).unwrap())
    }

    pub(crate) fn bytes(&self, ptr: u32, len: u32) -> &[u8] {
        {
            let start = usize::try_from(ptr).unwrap();
            &self.memory[start..start + usize::try_from(len).unwrap()]
        }
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

/// Every call with numbers at random: what matters is that it returns.
#[test]
fn no_argument_panics() {
    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;

    // Lengths of files stay small or impossible, so that nothing is filled.
    let word = prop_oneof![0..8_u32, 0..2000_u32, 65500..65540_u32, any::<u32>()];
    let wide = prop_oneof![0..3000_u64, Just(u64::MAX), Just(u64::MAX >> 1)];
    let call = (0..45_usize, [(); 9].map(|()| word.clone()), [(); 2].map(|()| wide.clone()));
    let calls = proptest::collection::vec(call, 1..60);
    let text = proptest::collection::vec(prop_oneof![Just(b'.'), Just(b'/'), Just(b'a')], 2048);
    TestRunner::default()
        .run(&(calls, text), |(calls, text)| {
            let mut guest = Guest::new();
            guest.put(0, &text);
            for (number, n, w) in calls {
                any_call(&mut guest.call(), number, n, w);
            }
            Ok(())
        })
        .unwrap();
}

fn any_call(call: &mut Call<'_>, number: usize, n: [u32; 9], w: [u64; 2]) {
    let [a, b, c, d, e, f, g, h, i] = n;
    let [x, y] = w;
    // Most numbers are no flags: keep to those that are.
    let few = f % 32;
    let _ = match number {
        0 => call.args_get(a, b),
        1 => call.args_sizes_get(a, b),
        2 => call.clock_res_get(a, b),
        3 => call.clock_time_get(a, x, b),
        4 => call.environ_get(a, b),
        5 => call.environ_sizes_get(a, b),
        6 => call.fd_advise(a, x, y, b),
        7 => call.fd_allocate(a, x, y),
        8 => call.fd_close(a),
        9 => call.fd_datasync(a),
        10 => call.fd_fdstat_get(a, b),
        11 => call.fd_fdstat_set_flags(a, few),
        12 => call.fd_fdstat_set_rights(a, x, y),
        13 => call.fd_filestat_get(a, b),
        14 => call.fd_filestat_set_size(a, x),
        15 => call.fd_filestat_set_times(a, x, y, few),
        16 => call.fd_pread(a, b, c, x, d),
        17 => call.fd_prestat_dir_name(a, b, c),
        18 => call.fd_prestat_get(a, b),
        19 => call.fd_pwrite(a, b, c, x, d),
        20 => call.fd_read(a, b, c, d),
        21 => call.fd_readdir(a, b, c, x, d),
        22 => call.fd_renumber(a, b),
        23 => call.fd_seek(a, x.cast_signed(), b, c),
        24 => call.fd_sync(a),
        25 => call.fd_tell(a, b),
        26 => call.fd_write(a, b, c, d),
        27 => call.path_create_directory(a, b, c),
        28 => call.path_filestat_get(a, few % 2, b, c, d),
        29 => call.path_filestat_set_times(a, few % 2, b, c, x, y, g % 16),
        30 => call.path_link(a, few % 2, b, c, d, e, g),
        31 => call.path_open(a, few % 2, b, c, g % 16, x, y, h % 32, i),
        32 => call.path_readlink(a, b, c, d, e, f),
        33 => call.path_remove_directory(a, b, c),
        34 => call.path_rename(a, b, c, d, e, f),
        35 => call.path_symlink(a, b, c, d, e),
        36 => call.path_unlink_file(a, b, c),
        37 => {
            // With other bytes for subscriptions, a timer could run for years.
            call.memory.write(4096, &[0; 12288]).unwrap();
            call.poll_oneoff(4096, a, b.min(100), c)
        }
        38 => call.proc_raise(a),
        39 => call.random_get(a, b),
        40 => call.sched_yield(),
        41 => call.sock_accept(a, b, c),
        42 => call.sock_recv(a, b, c, d, e, f),
        43 => call.sock_send(a, b, c, d, e),
        _ => call.sock_shutdown(a, b),
    };
}
