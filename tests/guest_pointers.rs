//! Numbers of a guest that mean places in a memory of 4 GiB: every function of
//! WASI gets pointers, lengths and counts at the limits of 32 bits, from wasm. It
//! returns an error number, whatever they are, and the host keeps nothing.

use cwasm_loader::{Engine, Linker, Store, Val};
use cwasm_tests::artifact;
use cwasm_wasi::WasiCtx;

/// The functions, with their parameters: `n` a descriptor, flags or another small
/// number, `p` a pointer, `l` a length or count, `w` a wide number.
const FUNCTIONS: &[(&str, &str)] = &[
    ("args_get", "pp"),
    ("args_sizes_get", "pp"),
    ("environ_get", "pp"),
    ("environ_sizes_get", "pp"),
    ("clock_res_get", "np"),
    ("clock_time_get", "nwp"),
    ("fd_advise", "nwwn"),
    ("fd_allocate", "nww"),
    ("fd_datasync", "n"),
    ("fd_fdstat_get", "np"),
    ("fd_fdstat_set_flags", "nn"),
    ("fd_filestat_get", "np"),
    ("fd_filestat_set_size", "nw"),
    ("fd_filestat_set_times", "nwwn"),
    ("fd_pread", "nplwp"),
    ("fd_prestat_get", "np"),
    ("fd_prestat_dir_name", "npl"),
    ("fd_pwrite", "nplwp"),
    ("fd_read", "nplp"),
    ("fd_readdir", "nplwp"),
    ("fd_seek", "nwnp"),
    ("fd_sync", "n"),
    ("fd_tell", "np"),
    ("fd_write", "nplp"),
    ("path_create_directory", "npl"),
    ("path_filestat_get", "nnplp"),
    ("path_filestat_set_times", "nnplwwn"),
    ("path_link", "nnplnpl"),
    ("path_open", "nnplnwwnp"),
    ("path_readlink", "nplplp"),
    ("path_remove_directory", "npl"),
    ("path_rename", "nplnpl"),
    ("path_symlink", "plnpl"),
    ("path_unlink_file", "npl"),
    ("poll_oneoff", "pplp"),
    ("sock_accept", "nnp"),
    ("sock_recv", "nplnpp"),
    ("sock_send", "nplnp"),
    ("sock_shutdown", "nn"),
];

/// A module that exports a function of WASI, with a memory of 4 GiB.
fn module(snapshot: &str, name: &str, params: &str) -> String {
    let types: String =
        params.chars().map(|kind| if kind == 'w' { " i64" } else { " i32" }).collect();
    format!(
        r#"(module (import "{snapshot}" "{name}" (func $f (param{types}) (result i32)))
            (memory (export "memory") 65536) (export "f" (func $f)))"#
    )
}

/// The peak of memory that this process has used, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn every_function_bears_every_number() {
    const POINTERS: [u32; 8] =
        [0, 1, 7, 65_536, 0x7fff_ffff, 0xffff_fff8, 0xffff_fffd, 0xffff_ffff];
    const LENGTHS: [u32; 8] = [0, 1, 8, 3000, 0x1000_0000, 0x2000_0000, 0x8000_0001, 0xffff_ffff];
    const SMALL: [u32; 6] = [0, 1, 2, 3, 4, 0xffff_ffff];
    const WIDE: [u64; 5] = [0, 1, 1 << 32, (1 << 63) - 1, u64::MAX];
    let before = peak();
    let mut seed = 1_u64;
    // A generator of the Lehmer kind: the same numbers every time.
    let mut any = |count: usize| {
        seed = seed.wrapping_mul(48_271) % 2_147_483_647;
        usize::try_from(seed).unwrap() % count
    };
    let folder = tempfile::tempdir().unwrap();
    for (name, params) in FUNCTIONS {
        for snapshot in ["wasi_snapshot_preview1", "wasi_unstable"] {
            if (snapshot, *name) == ("wasi_unstable", "sock_accept") {
                continue;
            }
            let artifact = artifact(&module(snapshot, name, params));
            let engine = Engine::default();
            let mut linker = Linker::new(&engine);
            cwasm_wasi::add_to_linker(&mut linker, |wasi: &mut WasiCtx| wasi).unwrap();
            let mut wasi = WasiCtx::builder();
            wasi.args(["program", "argument"]).env("K", "V").stdin_bytes("input");
            wasi.preopened_dir_read_only(folder.path(), "/");
            let mut store = Store::new(&engine, wasi.build().unwrap());
            let instance = linker.instantiate(&mut store, &artifact).unwrap();
            let function = instance.func(&store, "f").unwrap();
            for _ in 0..150 {
                let args: Vec<Val<'_>> = params
                    .chars()
                    .map(|kind| match kind {
                        'n' => Val::I32(SMALL[any(SMALL.len())].cast_signed()),
                        'p' => Val::I32(POINTERS[any(POINTERS.len())].cast_signed()),
                        'l' => Val::I32(LENGTHS[any(LENGTHS.len())].cast_signed()),
                        _ => Val::I64(WIDE[any(WIDE.len())].cast_signed()),
                    })
                    .collect();
                let results = function.call(&mut store, &args).unwrap();
                let Val::I32(errno) = results[0] else { panic!("{name} {args:?} {results:?}") };
                assert!((0..=76).contains(&errno), "{name} {args:?} gave {errno}");
            }
        }
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    // Compiling takes some; a length of the guest would take gigabytes.
    let grown = peak() - before;
    assert!(grown < 300 << 10, "the host has taken {grown} KiB");
}

/// A program of the first snapshot, which numbers `whence` otherwise, has shorter
/// attributes of files, and longer subscriptions. It traps if something is not so.
const OLD_PROGRAM: &str = r#"(module
    (import "wasi_unstable" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_unstable" "fd_seek" (func $seek (param i32 i64 i32 i32) (result i32)))
    (import "wasi_unstable" "fd_filestat_get" (func $stat (param i32 i32) (result i32)))
    (import "wasi_unstable" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (import "wasi_unstable" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "file")
    (data (i32.const 1000) "\00\08\00\00\06\00\00\00")
    (data (i32.const 2048) "is old")
    (func $must (param i32) (if (local.get 0) (then unreachable)))
    (func $is (param i64 i64) (if (i64.ne (local.get 0) (local.get 1)) (then unreachable)))
    (func (export "_start") (local $fd i32)
        (call $must (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 0)
            (i64.const 0x200026) (i64.const 0) (i32.const 0) (i32.const 16)))
        (local.set $fd (i32.load (i32.const 16)))
        ;; 2 is from the start, 0 from here, 1 from the end.
        (call $must (call $seek (local.get $fd) (i64.const 3) (i32.const 2) (i32.const 24)))
        (call $is (i64.load (i32.const 24)) (i64.const 3))
        (call $must (call $seek (local.get $fd) (i64.const 2) (i32.const 0) (i32.const 24)))
        (call $is (i64.load (i32.const 24)) (i64.const 5))
        (call $must (call $seek (local.get $fd) (i64.const -1) (i32.const 1) (i32.const 24)))
        (call $is (i64.load (i32.const 24)) (i64.const 9))
        ;; The size is at 24, after 32 bits for the links; 56 bytes are written.
        (i64.store (i32.const 120) (i64.const -1))
        (call $must (call $stat (local.get $fd) (i32.const 64)))
        (call $is (i64.load32_u (i32.const 84)) (i64.const 1))
        (call $is (i64.load (i32.const 88)) (i64.const 10))
        (call $is (i64.load (i32.const 120)) (i64.const -1))
        ;; A timer, with its clock at 24 and its time at 32.
        (i64.store (i32.const 200) (i64.const 77))
        (i32.store (i32.const 224) (i32.const 1))
        (i64.store (i32.const 232) (i64.const 1000))
        (call $must (call $poll (i32.const 200) (i32.const 400) (i32.const 1) (i32.const 500)))
        (call $is (i64.load (i32.const 400)) (i64.const 77))
        (call $must (call $write (i32.const 1) (i32.const 1000) (i32.const 1) (i32.const 500)))))"#;

#[test]
fn a_program_of_the_first_snapshot_runs() {
    let artifact = artifact(OLD_PROGRAM);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "0123456789").unwrap();
    let engine = Engine::default();
    let mut linker = Linker::new(&engine);
    cwasm_wasi::add_to_linker(&mut linker, |wasi: &mut WasiCtx| wasi).unwrap();
    let output = std::sync::Arc::default();
    let mut wasi = WasiCtx::builder();
    wasi.capture_stdout(std::sync::Arc::clone(&output)).preopened_dir(folder.path(), "/");
    let mut store = Store::new(&engine, wasi.build().unwrap());
    let instance = linker.instantiate(&mut store, &artifact).unwrap();
    instance.typed_func::<(), ()>(&store, "_start").unwrap().call(&mut store, ()).unwrap();
    assert_eq!(*output.lock().unwrap(), b"is old");
}

#[test]
fn a_linker_may_have_only_what_programs_import() {
    let import = |module: &str, name: &str| {
        artifact(&format!(
            r#"(module (import "{module}" "{name}" (func (param i32) (result i32))))"#
        ))
    };
    let programs =
        [import("wasi_snapshot_preview1", "fd_sync"), import("wasi_unstable", "fd_close")];
    let mut linker = Linker::<WasiCtx>::new(&Engine::default());
    cwasm_wasi::add_imports_to_linker(&mut linker, |wasi| wasi, &programs).unwrap();
    for (module, name, defined) in [
        ("wasi_snapshot_preview1", "fd_sync", true),
        ("wasi_unstable", "fd_close", true),
        ("wasi_snapshot_preview1", "fd_close", false),
        ("wasi_unstable", "fd_sync", false),
        ("wasi_snapshot_preview1", "proc_exit", false),
    ] {
        let missing = import(module, name);
        assert_eq!(linker.missing(&missing).count() == 0, defined, "{module} {name}");
    }
}
