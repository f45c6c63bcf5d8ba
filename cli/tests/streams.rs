//! Output that nobody reads, programs that wait, and the rarer ways to run one.

mod command;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use command::Folder;

#[test]
fn a_reader_that_leaves_is_no_error_and_no_panic() {
    let folder = Folder::new();
    folder.write("many.wat", module_with_many_exports());
    folder.compile("many.wat");
    for arguments in [&["inspect", "many.cwasm"][..], &["inspect", "--json", "many.cwasm"]] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_cwasm"))
            .args(arguments)
            .current_dir(folder.path("."))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    }
}

/// Its description is longer than a pipe holds.
fn module_with_many_exports() -> String {
    let exports: String =
        (0..4000).map(|n| format!("(export \"function number {n}\" (func $f))")).collect();
    format!("(module (func $f) {exports})")
}

#[test]
fn a_time_limit_also_ends_a_program_that_waits_for_input() {
    let folder = Folder::new();
    folder.write(
        "wait.wat",
        r#"(module
            (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "\40\00\00\00\07\00\00\00")
            (func (export "_start")
                (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))))"#,
    );
    let start = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_cwasm"))
        .args(["run", "wait.wat", "--timeout", "50ms"])
        .current_dir(folder.path("."))
        .env("CWASM_CACHE_DIR", folder.cache.path())
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Held open and never written to, until it is clear that nothing happens.
    let input = child.stdin.take();
    while child.try_wait().unwrap().is_none() && start.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(input);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(134), "{stderr}");
    assert!(stderr.contains("waiting in a host function"), "{stderr}");
}

#[test]
fn a_program_that_returns_in_time_is_not_waited_for() {
    let folder = Folder::new();
    folder.write("quick.wat", r#"(module (func (export "_start")))"#);
    folder.cwasm("run quick.wat --timeout 1h --fuel 1000").printed("");
}

#[test]
fn a_library_is_initialised_before_one_of_its_functions_is_called() {
    let folder = Folder::new();
    folder.write(
        "library.wat",
        r#"(module
            (global $ready (mut i32) (i32.const 0))
            (func (export "_initialize") (global.set $ready (i32.const 7)))
            (func (export "ready") (result i32) (global.get $ready)))"#,
    );
    folder.cwasm("run library.wat --invoke ready").printed("7\n");
    // Also when it is preloaded.
    folder.write(
        "app.wat",
        r#"(module
            (import "library" "ready" (func $ready (result i32)))
            (func (export "both") (result i32 i64) (call $ready) (i64.const -1)))"#,
    );
    folder.cwasm("run app.wat --preload library=library.wat --invoke both").printed("7\n-1\n");
}

#[test]
fn every_artifact_that_is_run_needs_a_reason_to_be_trusted() {
    let folder = Folder::new();
    folder.write("library.wat", r#"(module (func (export "three") (result i32) (i32.const 3)))"#);
    folder.write(
        "app.wat",
        r#"(module
            (import "library" "three" (func $three (result i32)))
            (func (export "three") (result i32) (call $three)))"#,
    );
    let library = folder.compile("library.wat");
    let app = folder.compile("app.wat");
    let run = "run app.cwasm --preload library=library.cwasm --invoke three";
    folder.cwasm(&format!("{run} --digest {library} --digest {app}")).printed("3\n");
    folder.cwasm(&format!("{run} --trust-file")).printed("3\n");
    folder
        .cwasm(&format!("{run} --digest {app}"))
        .refused("cannot load library.cwasm: untrusted: its digest is ");
    // A digest that pins nothing is a mistake, not a decoration.
    folder
        .cwasm(&format!("run library.wat --invoke three --digest {library}"))
        .refused(&format!("no artifact that was given has the digest {library}"));
}

#[test]
fn a_failing_status_is_never_seen_as_success() {
    let folder = Folder::new();
    for (status, seen) in [(0, 0), (1, 1), (255, 255), (256, 1), (0x107, 7)] {
        let text = format!(
            r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
                (memory (export "memory") 1)
                (func (export "_start") (call $exit (i32.const {status}))))"#
        );
        folder.write("exit.wat", text);
        assert_eq!(folder.cwasm("run exit.wat").code, seen, "status {status}");
    }
}

#[test]
fn the_fields_of_inspect_are_an_interface() {
    let folder = Folder::new();
    folder.write("in.wat", "(module (func (export \"f\")))");
    folder.compile("in.wat");
    let json: serde_json::Value =
        serde_json::from_str(&folder.cwasm("inspect --json in.cwasm").stdout).unwrap();
    let mut names: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    for name in [
        "abi",
        "bytes",
        "compiler",
        "cpu",
        "digest",
        "exports",
        "file",
        "format",
        "functions",
        "imports",
        "name",
        "opt_level",
        "sections",
        "settings",
        "source",
        "target",
    ] {
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
    assert_eq!(json["exports"][0]["kind"], "func");
    assert_eq!(json["exports"][0]["type"], "(func)");
    assert_eq!(json["settings"]["memory_checks"], "guard");
    assert_eq!(json["functions"]["defined"], 1);
}

#[test]
fn a_module_is_read_from_standard_input() {
    let folder = Folder::new();
    let text = "(module (func (export \"f\")))";
    let ended = folder.cwasm_with(&["compile", "-", "-o", "out.cwasm"], text);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(folder.names(), ["out.cwasm"]);
    folder.cwasm_with(&["compile", "-"], text).refused("standard input has no name");
    folder.write("in.wat", text);
    folder
        .cwasm("compile in.wat -o ./in.wat")
        .refused("the artifact would replace the module in.wat");
    assert_eq!(folder.read("in.wat"), text.as_bytes());
}

/// A program that writes `y` until that fails.
const YES: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\40\00\00\00\02\00\00\00")
    (data (i32.const 64) "y\n")
    (func (export "_start") (local $errno i32)
        (loop $again
            (local.set $errno (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
            (br_if $again (i32.eqz (local.get $errno))))
        (call $exit (local.get $errno))))"#;

#[test]
fn a_broken_pipe_ends_a_program_as_it_does_natively() {
    let folder = Folder::new();
    folder.write("yes.wat", YES);
    let run = |command: &mut Command| {
        let mut child = command
            .current_dir(folder.path("."))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = [0; 4];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
        assert_eq!(&first, b"y\ny\n");
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        (output.status, String::from_utf8(output.stderr).unwrap())
    };
    let (status, stderr) = run(Command::new(env!("CARGO_BIN_EXE_cwasm")).args(["run", "yes.wat"]));
    assert_eq!((status.code(), stderr.as_str()), (Some(141), ""));
    // A shell says the same of the native program.
    let (native, _) = run(Command::new("bash").args(["-c", "yes; exit $?"]));
    let signal = std::os::unix::process::ExitStatusExt::signal(&native);
    assert!(native.code() == Some(141) || native.code() == Some(1) || signal == Some(13));
}

/// The next files that are opened would be taken for the closed streams. Here, that would be the directory.
#[test]
fn closed_streams_are_not_taken_by_files() {
    let folder = Folder::new();
    folder.write(
        "write.wat",
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "\40\00\00\00\02\00\00\00")
            (func (export "_start") (local $errno i32)
                (local.set $errno (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
                (call $exit (local.get $errno))))"#,
    );
    for closed in ["<&- >&- 2>&-", ">&-", "<&- >&-", "2>&-"] {
        let status = Command::new("sh")
            .args(["-c", &format!("exec \"$0\" run --dir . write.wat {closed}")])
            .arg(env!("CARGO_BIN_EXE_cwasm"))
            .current_dir(folder.path("."))
            .env("CWASM_CACHE_DIR", folder.cache.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(0), "{closed}");
    }
}

#[test]
fn a_terminal_is_a_terminal_and_a_pipe_is_none() {
    // Writes what `fd_fdstat_get` says of the three streams: the kind, and
    // whether the right to seek is among the rights.
    const STREAMS: &str = r#"(module
        (import "wasi_snapshot_preview1" "fd_fdstat_get" (func $stat (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "\40\00\00\00\06\00\00\00")
        (func $one (param $fd i32) (local $at i32)
            (drop (call $stat (local.get $fd) (i32.const 128)))
            (local.set $at (i32.add (i32.const 64) (i32.shl (local.get $fd) (i32.const 1))))
            (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.load8_u (i32.const 128))))
            (i32.store8 offset=1 (local.get $at)
                (i32.add (i32.const 48) (i32.and (i32.load (i32.const 136)) (i32.const 36)))))
        (func (export "_start")
            (call $one (i32.const 0)) (call $one (i32.const 1)) (call $one (i32.const 2))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;
    let folder = Folder::new();
    folder.write("streams.wat", STREAMS);
    folder.cwasm("run streams.wat").printed("000000");

    let (controller, terminal) = terminal();
    let mut child = Command::new(env!("CARGO_BIN_EXE_cwasm"))
        .args(["run", "streams.wat"])
        .current_dir(folder.path("."))
        .stdin(terminal.try_clone().unwrap())
        .stdout(terminal)
        // Progress would be shown on a terminal.
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    assert!(child.wait().unwrap().success());
    let mut text = [0; 6];
    std::io::Read::read_exact(&mut std::fs::File::from(controller), &mut text).unwrap();
    // Character devices that cannot seek: what a C library takes for a terminal.
    assert_eq!(&text, b"202000");
}

/// Both ends of a new terminal.
fn terminal() -> (std::os::fd::OwnedFd, std::fs::File) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let name = ptsname(&controller, Vec::new()).unwrap().into_string().unwrap();
    let terminal = std::fs::File::options().read(true).write(true).open(name).unwrap();
    (controller, terminal)
}

#[test]
fn a_signal_that_a_program_raises_ends_it() {
    let folder = Folder::new();
    for (signal, seen) in [(0, 0), (6, 134), (9, 137), (15, 143), (16, 0), (30, 159), (18, 58)] {
        folder.write(
            "raise.wat",
            format!(
                r#"(module
                (import "wasi_snapshot_preview1" "proc_raise" (func $raise (param i32) (result i32)))
                (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
                (memory (export "memory") 1)
                (func (export "_start") (call $exit (call $raise (i32.const {signal})))))"#
            ),
        );
        let ended = folder.cwasm("run raise.wat");
        assert_eq!((ended.code, ended.stderr.as_str()), (seen, ""), "signal {signal}");
    }
}
