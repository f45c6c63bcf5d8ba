//! Too little of something while the command works: room on the disk, threads, memory.
//!
//! A shell sets the limits, since they belong to a process.

mod command;

use std::process::{Command, Output};

use command::Folder;

const MODULE: &str = r#"(module (memory 1) (func (export "f") (result i32) (i32.const 7)))"#;

/// Runs a line of shell in a folder; `$CWASM` is the command.
fn shell(folder: &Folder, line: &str) -> Output {
    Command::new("sh")
        .args(["-c", line])
        .current_dir(folder.path(""))
        .env("CWASM", env!("CARGO_BIN_EXE_cwasm"))
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_disk_that_is_full_leaves_the_old_artifact_and_nothing_else() {
    let folder = Folder::new();
    folder.write("in.wat", MODULE).compile("in.wat");
    let old = folder.read("in.cwasm");
    folder.write("in.wat", MODULE.replace('7', "8"));
    // The limit on the size of files stands for a disk that fills up in the middle. Its signal,
    // which ends other programs, is the command's own affair.
    let output = shell(&folder, "ulimit -f 2; exec \"$CWASM\" compile in.wat");
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("in.cwasm: File too large"), "{text}");
    assert!(folder.read("in.cwasm") == old);
    assert_eq!(folder.names(), ["in.cwasm", "in.wat"]);
    // So for signing.
    folder.cwasm("keygen -o a.key");
    let line = "ulimit -f 2; exec \"$CWASM\" sign in.cwasm --key a.key";
    let text = stderr(&shell(&folder, line));
    assert!(text.contains("in.cwasm: File too large"), "{text}");
    assert!(folder.read("in.cwasm") == old);
    // No half of a key is left either.
    let line = "ulimit -f 0; exec \"$CWASM\" keygen -o b.key";
    let text = stderr(&shell(&folder, line));
    assert!(text.starts_with("cwasm: error: cannot write b.key: File too large"), "{text}");
    assert_eq!(folder.names(), ["a.key", "a.key.pub", "in.cwasm", "in.wat"]);
}

/// Writes 64 KiB to a file twice, and exits with the error of the second time.
const GUEST: &str = r#"(module
    (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 2)
    (data (i32.const 8) "\00\00\01\00\00\00\01\00")
    (data (i32.const 16) "big")
    (func $errno (result i32)
        (local $errno i32)
        ;; Creates it, with all rights that matter here.
        (local.set $errno (call $open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 3)
            (i32.const 1) (i64.const 0x40) (i64.const 0) (i32.const 0) (i32.const 24)))
        (if (local.get $errno) (then (return (local.get $errno))))
        ;; The first write may be a part; the next one is at the limit.
        (drop (call $write (i32.load (i32.const 24)) (i32.const 8) (i32.const 1) (i32.const 28)))
        (call $write (i32.load (i32.const 24)) (i32.const 8) (i32.const 1) (i32.const 28)))
    (func (export "_start") (call $exit (call $errno))))"#;

#[test]
fn a_guest_that_exceeds_the_limit_on_files_gets_an_error_of_its_own() {
    let folder = Folder::new();
    folder.write("in.wat", GUEST);
    // Too low for an entry of the cache too, without which the program runs all the same.
    let line =
        "export CWASM_CACHE_DIR=\"$PWD/cache\"; ulimit -f 1; exec \"$CWASM\" run --dir . in.wat";
    let output = shell(&folder, line);
    const FBIG: i32 = 22;
    assert_eq!(output.status.code(), Some(FBIG), "{}", stderr(&output));
    assert!(folder.read("big").len() <= 1024);
}

#[test]
fn a_file_system_without_room_is_an_error() {
    let folder = Folder::new();
    folder.write("in.wat", MODULE);
    std::fs::create_dir(folder.path("small")).unwrap();
    let line = "mount -t tmpfs -o size=4k none small && touch small/mounted &&
        { \"$CWASM\" compile in.wat -o small/out.cwasm; echo code $?; ls -A small; }";
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", line])
        .current_dir(folder.path(""))
        .env("CWASM", env!("CARGO_BIN_EXE_cwasm"))
        .output();
    let output = match output {
        Ok(output) if String::from_utf8_lossy(&output.stdout).contains("code") => output,
        other => {
            println!("not tested: a file system cannot be mounted here: {other:?}");
            return;
        }
    };
    let text = stderr(&output);
    assert!(text.contains("cannot write small/out.cwasm: No space left on device"), "{text}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "code 1\nmounted\n");
}

#[test]
fn without_memory_for_the_stacks_of_threads_compiling_is_an_error() {
    let folder = Folder::new();
    // There are no more threads than functions, and none is done before the others are started.
    let functions = "(func (param i32) (result i32) (i32.mul (local.get 0) (local.get 0)))";
    folder.write("in.wat", format!("(module {})", functions.repeat(3000)));
    let line = "ulimit -v 400000; exec \"$CWASM\" compile in.wat -j 500";
    let output = shell(&folder, line);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("cannot start the threads that compile: "), "{text}");
    assert!(text.contains("Resource temporarily unavailable"), "{text}");
    assert!(text.contains("use fewer (`-j`)"), "{text}");
    assert_eq!(folder.names(), ["in.wat"]);
    let output = shell(&folder, "ulimit -v 400000; exec \"$CWASM\" compile in.wat -j 1");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn without_memory_for_the_stack_that_is_wanted_running_is_an_error() {
    let folder = Folder::new();
    folder.write("in.wat", "(module (func (export \"f\") (result i32) (i32.const 7)))");
    let run = |stack| {
        let line = "ulimit -v 1000000; exec \"$CWASM\" run --no-cache in.wat --invoke f";
        shell(&folder, &format!("{line} --limit stack={stack}"))
    };
    let output = run("2G");
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("cannot make a thread with the stack that `--limit` asks for"), "{text}");
    assert!(text.contains("Resource temporarily unavailable"), "{text}");
    let output = run("2M");
    assert_eq!(output.stdout, b"7\n", "{}", stderr(&output));
}

/// Exits with how many threads it could make.
const THREADS: &str = r#"(module
    (import "env" "memory" (memory 1 1 shared))
    (import "wasi" "thread-spawn" (func $spawn (param i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (func (export "wasi_thread_start") (param i32 i32)
        (drop (memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const -1))))
    (func (export "_start") (local $made i32)
        (loop $more
            (if (i32.gt_s (call $spawn (i32.const 0)) (i32.const 0)) (then
                (local.set $made (i32.add (local.get $made) (i32.const 1)))
                (br_if $more (i32.lt_u (local.get $made) (i32.const 100))))))
        (call $exit (local.get $made))))"#;

#[test]
fn without_memory_for_the_stacks_of_a_guests_threads_the_guest_is_told() {
    let folder = Folder::new();
    folder.write("in.wat", THREADS);
    let run = |limits| {
        let line = "exec \"$CWASM\" run --no-cache in.wat --limit stack=1G";
        let output = shell(&folder, &format!("{limits}; {line}"));
        assert!(output.stderr.is_empty(), "{}", stderr(&output));
        output.status.code().unwrap()
    };
    // Room for the program and a few threads.
    let made = run("ulimit -v 9000000");
    assert!((1..9).contains(&made), "{made} threads");
    // Not even for the thread that starts them, the only one whose stack has the default size.
    assert_eq!(run("ulimit -v 9000000; export RUST_MIN_STACK=100000000000"), 0);
}
