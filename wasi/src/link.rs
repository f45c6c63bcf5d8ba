//! The calls as host functions of a linker.

use crate::calls::Call;
use crate::ctx::WasiCtx;
use crate::types::Snapshot;
use cwasm_loader::{Caller, HostError, LinkError, Linker};

/// A module that uses preview 1 has to export the memory that its pointers
/// mean. Calls of one that does not end with this error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a module that calls WASI must export its memory as `memory`")]
pub struct NoMemory;

/// Defines the functions of `wasi_snapshot_preview1` and of `wasi_unstable`.
///
/// `get` finds the context in the data of a store. `proc_exit` ends the call
/// into the guest with the error [`ProcExit`](crate::ProcExit).
pub fn add_to_linker<'code, T: 'static>(
    linker: &mut Linker<'code, T>,
    get: impl Fn(&mut T) -> &mut WasiCtx + Copy + Send + Sync + 'static,
) -> Result<(), LinkError> {
    add_snapshot(linker, get, Snapshot::Preview1)?;
    add_snapshot(linker, get, Snapshot::Preview0)
}

/// Defines a function for each call: it takes the arguments of the method of
/// the same name and returns an error number.
macro_rules! define {
    ($linker:ident, $get:ident, $snapshot:ident; $($name:ident($($arg:ident: $ty:ty),*);)*) => {$(
        $linker.func(
            $snapshot.module(),
            stringify!($name),
            move |mut caller: Caller<'_, '_, T>, $($arg: $ty),*| -> Result<i32, HostError> {
                if let Some((memory, data)) = caller.memory_bytes_and_data_mut() {
                    let mut call = Call::new($get(data), memory, $snapshot);
                    let result = call.$name($($arg),*);
                    return call.finish(result);
                }
                let memory = caller.memory().ok_or(NoMemory)?.shared(&caller)?.ok_or(NoMemory)?;
                let mut call = Call::new($get(caller.data_mut()), &memory, $snapshot);
                let result = call.$name($($arg),*);
                call.finish(result)
            },
        )?;
    )*};
}

fn add_snapshot<'code, T: 'static>(
    linker: &mut Linker<'code, T>,
    get: impl Fn(&mut T) -> &mut WasiCtx + Copy + Send + Sync + 'static,
    snapshot: Snapshot,
) -> Result<(), LinkError> {
    define! { linker, get, snapshot;
        args_get(argv: u32, argv_buf: u32);
        args_sizes_get(argc: u32, argv_buf_size: u32);
        clock_res_get(id: u32, resolution: u32);
        clock_time_get(id: u32, precision: u64, time: u32);
        environ_get(environ: u32, environ_buf: u32);
        environ_sizes_get(count: u32, buf_size: u32);
        fd_advise(fd: u32, offset: u64, len: u64, advice: u32);
        fd_allocate(fd: u32, offset: u64, len: u64);
        fd_close(fd: u32);
        fd_datasync(fd: u32);
        fd_fdstat_get(fd: u32, stat: u32);
        fd_fdstat_set_flags(fd: u32, flags: u32);
        fd_fdstat_set_rights(fd: u32, base: u64, inheriting: u64);
        fd_filestat_get(fd: u32, stat: u32);
        fd_filestat_set_size(fd: u32, size: u64);
        fd_filestat_set_times(fd: u32, accessed: u64, modified: u64, flags: u32);
        fd_pread(fd: u32, iovs: u32, count: u32, offset: u64, read: u32);
        fd_prestat_dir_name(fd: u32, path: u32, len: u32);
        fd_prestat_get(fd: u32, prestat: u32);
        fd_pwrite(fd: u32, iovs: u32, count: u32, offset: u64, written: u32);
        fd_read(fd: u32, iovs: u32, count: u32, read: u32);
        fd_readdir(fd: u32, buf: u32, buf_len: u32, cookie: u64, used: u32);
        fd_renumber(from: u32, to: u32);
        fd_seek(fd: u32, offset: i64, whence: u32, new_offset: u32);
        fd_sync(fd: u32);
        fd_tell(fd: u32, offset: u32);
        fd_write(fd: u32, iovs: u32, count: u32, written: u32);
        path_create_directory(fd: u32, path: u32, len: u32);
        path_filestat_get(fd: u32, lookup: u32, path: u32, len: u32, stat: u32);
        path_filestat_set_times(
            fd: u32, lookup: u32, path: u32, len: u32, accessed: u64, modified: u64, flags: u32
        );
        path_link(
            old_fd: u32, lookup: u32, old_path: u32, old_len: u32,
            new_fd: u32, new_path: u32, new_len: u32
        );
        path_open(
            fd: u32, lookup: u32, path: u32, len: u32, oflags: u32,
            base: u64, inheriting: u64, fdflags: u32, opened: u32
        );
        path_readlink(fd: u32, path: u32, len: u32, buf: u32, buf_len: u32, used: u32);
        path_remove_directory(fd: u32, path: u32, len: u32);
        path_rename(
            old_fd: u32, old_path: u32, old_len: u32, new_fd: u32, new_path: u32, new_len: u32
        );
        path_symlink(target: u32, target_len: u32, fd: u32, path: u32, len: u32);
        path_unlink_file(fd: u32, path: u32, len: u32);
        poll_oneoff(subscriptions: u32, events: u32, count: u32, happened: u32);
        proc_raise(signal: u32);
        random_get(buf: u32, len: u32);
        sched_yield();
        sock_recv(fd: u32, buffers: u32, count: u32, flags: u32, received: u32, message: u32);
        sock_send(fd: u32, buffers: u32, count: u32, flags: u32, sent: u32);
        sock_shutdown(fd: u32, how: u32);
    }
    if snapshot == Snapshot::Preview1 {
        define! { linker, get, snapshot;
            sock_accept(fd: u32, flags: u32, accepted: u32);
        }
    }
    linker.func(
        snapshot.module(),
        "proc_exit",
        move |mut caller: Caller<'_, '_, T>, status: u32| -> Result<(), crate::ProcExit> {
            Err(Call::new(get(caller.data_mut()), &mut [][..], snapshot).proc_exit(status))
        },
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cwasm_loader::Engine;

    struct Data {
        wasi: WasiCtx,
    }

    #[test]
    fn every_name_is_defined_once() {
        let mut linker = Linker::<Data>::new(&Engine::default());
        add_to_linker(&mut linker, |data| &mut data.wasi).unwrap();
        // The one call that the first snapshot lacks is still free there.
        let free = |_: Caller<'_, '_, Data>| {};
        assert!(linker.func("wasi_unstable", "sock_accept", free).is_ok());
        for name in ["fd_write", "proc_exit"] {
            for module in ["wasi_unstable", "wasi_snapshot_preview1"] {
                assert!(linker.func(module, name, free).is_err());
            }
        }
        assert!(add_to_linker(&mut linker, |data| &mut data.wasi).is_err());
    }
}
