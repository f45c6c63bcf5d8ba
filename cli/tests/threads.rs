//! Programs with threads: the official tests of wasi-threads, and how a program
//! ends for all of its threads.
//!
//! The official tests lie beside the repository (`../shared/corpora/wasi-testsuite`)
//! or where `CWASM_CORPORA` says; where there are none, the test of them says so.

mod command;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use command::Folder;

#[test]
fn the_official_tests_pass() {
    let corpora = std::env::var_os("CWASM_CORPORA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpora"),
        PathBuf::from,
    );
    let folder = corpora.join("wasi-testsuite/wasi-threads");
    let files = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    let mut tests: Vec<PathBuf> = files
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wasm"))
        .collect();
    tests.sort();
    if tests.is_empty() {
        println!("skipped: no tests in {}; set CWASM_CORPORA", folder.display());
        return;
    }
    for test in &tests {
        let wanted = std::fs::read(test.with_extension("json")).map_or(0, |json| {
            let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
            json["exit_code"].as_i64().unwrap_or(0)
        });
        let mut child = Command::new(env!("CARGO_BIN_EXE_cwasm"))
            .arg("run")
            .arg(test)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Held open, so that reading from it waits.
        let input = child.stdin.take();
        let output = child.wait_with_output().unwrap();
        drop(input);
        let stderr = String::from_utf8_lossy(&output.stderr);
        let code = output.status.code().map(i64::from);
        assert_eq!(code, Some(wanted), "{}: {stderr}", test.display());
    }
    println!("{} passed", tests.len());
}

/// A program whose first thread makes another one, by `$spawn`, and whose others
/// do `thread`. The memory of all is `$memory`.
fn program(start: &str, thread: &str) -> String {
    format!(
        r#"(module
        (import "env" "memory" (memory $memory 1 4 shared))
        (import "wasi" "thread-spawn" (func $spawn (param i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (export "memory" (memory $memory))
        (func $forever (loop (br 0)))
        (func $wait (drop (memory.atomic.wait32 (i32.const 8192) (i32.const 0) (i64.const -1))))
        (func (export "wasi_thread_start") (param $id i32) (param $argument i32) {thread})
        (func (export "_start") (local $n i32) {start}))"#
    )
}

#[test]
fn whatever_thread_ends_the_program_ends_it_for_all() {
    let folder = Folder::new();
    let spawn = "(drop (call $spawn (i32.const 0)))";
    for (start, thread, code, stderr) in [
        ("(call $wait)", "(call $exit (i32.const 7))", 7, ""),
        ("(call $forever)", "(call $exit (i32.const 7))", 7, ""),
        ("(call $wait)", "unreachable", 134, "cwasm: wasm trap: unreachable"),
        ("(call $exit (i32.const 9))", "(call $forever)", 9, ""),
        ("", "(call $wait)", 0, ""),
        ("unreachable", "(call $forever)", 134, "cwasm: wasm trap: unreachable"),
    ] {
        folder.write("program.wat", program(&format!("{spawn}{start}"), thread));
        let ended = folder.cwasm("run program.wat");
        assert_eq!(ended.code, code, "{start} {thread}: {ended:?}");
        assert!(ended.stderr.starts_with(stderr), "{start} {thread}: {ended:?}");
        assert_eq!(ended.stderr.is_empty(), stderr.is_empty(), "{start} {thread}: {ended:?}");
    }
}

#[test]
fn threads_share_memory_and_streams() {
    let folder = Folder::new();
    // Eight threads count to 1000 each, and write a letter; the first waits for all.
    folder.write(
        "count.wat",
        program(
            "(loop $more
                (if (i32.lt_s (call $spawn (local.get $n)) (i32.const 1)) (then unreachable))
                (br_if $more (i32.lt_u
                    (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 8))))
            (loop $again (local.set $n (i32.atomic.load (i32.const 4)))
                (drop (memory.atomic.wait32 (i32.const 4) (local.get $n) (i64.const 1000000)))
                (br_if $again (i32.ne (i32.atomic.load (i32.const 4)) (i32.const 8))))
            (if (i32.ne (i32.atomic.load (i32.const 0)) (i32.const 8000)) (then unreachable))",
            r#"(local $n i32) (local $at i32)
            (local.set $at (i32.add (i32.const 1024) (i32.shl (local.get $argument) (i32.const 4))))
            (loop $more (drop (i32.atomic.rmw.add (i32.const 0) (i32.const 1)))
                (br_if $more (i32.lt_u
                    (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 1000))))
            (i32.store (local.get $at) (i32.add (local.get $at) (i32.const 12)))
            (i32.store offset=4 (local.get $at) (i32.const 1))
            (i32.store8 offset=12 (local.get $at) (i32.add (i32.const 97) (local.get $argument)))
            (drop (call $write (i32.const 1) (local.get $at) (i32.const 1)
                (i32.add (local.get $at) (i32.const 8))))
            (drop (i32.atomic.rmw.add (i32.const 4) (i32.const 1)))
            (drop (memory.atomic.notify (i32.const 4) (i32.const 1)))"#,
        ),
    );
    let ended = folder.cwasm("run count.wat");
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
    let mut letters: Vec<char> = ended.stdout.chars().collect();
    letters.sort_unstable();
    assert_eq!(letters, ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h']);
}

#[test]
fn more_threads_than_there_may_be_are_refused() {
    let folder = Folder::new();
    folder.write(
        "many.wat",
        program(
            "(loop $more (local.set $n (i32.add (local.get $n) (i32.const 1)))
                (br_if $more (i32.gt_s (call $spawn (i32.const 0)) (i32.const 0))))
            (call $exit (i32.gt_u (local.get $n) (i32.const 1001)))",
            "(call $wait)",
        ),
    );
    assert_eq!(folder.cwasm("run many.wat").code, 0);
    folder.write("lib.wat", "(module)");
    folder
        .cwasm("run many.wat --preload lib=lib.wat")
        .refused("cannot run many.wat: it uses threads");
    folder.write("time.wat", program("(call $wait)", ""));
    let ended = folder.cwasm("run --timeout 50ms time.wat");
    assert!(ended.code == 134 && ended.stderr.contains("interrupted"), "{ended:?}");
}
