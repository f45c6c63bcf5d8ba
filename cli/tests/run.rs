//! The options of `cwasm run`.

mod command;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use command::Folder;

/// Writes its arguments (`args`) or environment (`environ`), each ended by NUL.
fn writes(what: &str) -> String {
    format!(
        r#"(module
        (import "wasi_snapshot_preview1" "{what}_sizes_get" (func $sizes (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "{what}_get" (func $get (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 4)
        (func (export "_start")
            (drop (call $sizes (i32.const 0) (i32.const 4)))
            (drop (call $get (i32.const 65536) (i32.const 131072)))
            (i32.store (i32.const 0) (i32.const 131072))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#
    )
}

#[test]
fn a_program_may_have_another_name() {
    let folder = Folder::new();
    folder.write("args.wat", writes("args"));
    folder.cwasm("run args.wat a -b").printed("args.wat\0a\0-b\0");
    folder.cwasm("run --argv0 /bin/tool args.wat -- -h").printed("/bin/tool\0-h\0");
    folder.cwasm("run --argv0= args.wat").printed("\0");
}

#[test]
fn variables_are_set_passed_on_or_inherited() {
    let folder = Folder::new();
    folder.write("env.wat", writes("environ"));
    let run = |arguments: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_cwasm"))
            .args(arguments.split(' '))
            .current_dir(folder.path("."))
            .env_clear()
            .envs([("ONE", "1"), ("TWO", "2=2")])
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let printed = |arguments, names: &[&str]| {
        let (code, stdout, stderr) = run(arguments);
        assert_eq!(code, Some(0), "{stderr}");
        let mut found: Vec<&str> = stdout.split_terminator('\0').collect();
        found.sort_unstable();
        assert_eq!(found, names, "{arguments}");
    };
    printed("run env.wat", &[]);
    printed("run --env TWO env.wat", &["TWO=2=2"]);
    printed("run --inherit-env env.wat", &["ONE=1", "TWO=2=2"]);
    printed("run --inherit-env --env TWO=x --env K= env.wat", &["K=", "ONE=1", "TWO=x"]);
    printed("run --env K=1 --env K=2 env.wat", &["K=2"]);
    let (code, _, stderr) = run("run --env NONE env.wat");
    assert_eq!(code, Some(1));
    assert!(stderr.contains("`--env NONE` gives the program a variable that cwasm does not have"));
}

#[test]
fn a_read_only_directory_cannot_be_changed() {
    let folder = Folder::new();
    // Makes a directory `d/new`; the exit status is the error number.
    folder.write(
        "make.wat",
        r#"(module
        (import "wasi_snapshot_preview1" "path_create_directory"
            (func $make (param i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "new")
        (func (export "_start")
            (call $exit (call $make (i32.const 3) (i32.const 0) (i32.const 3)))))"#,
    );
    std::fs::create_dir(folder.path("d")).unwrap();
    for dir in ["d:ro", "d::/data:ro"] {
        assert_eq!(folder.cwasm(&format!("run --dir {dir} make.wat")).code, 69, "{dir}");
    }
    assert!(!folder.path("d/new").exists());
    for dir in ["d", "d::/data", "d:rw"] {
        assert_eq!(folder.cwasm(&format!("run --dir {dir} make.wat")).code, 0, "{dir}");
        std::fs::remove_dir(folder.path("d/new")).unwrap();
    }
    folder.cwasm("run --dir none make.wat").refused("cannot open the directory none for the guest");
}

#[test]
fn every_kind_of_number_is_an_argument_and_a_result() {
    let folder = Folder::new();
    folder.write(
        "same.wat",
        r#"(module (func (export "same") (param i32 i64 f32 f64) (result i32 i64 f32 f64)
            (local.get 0) (local.get 1) (local.get 2) (local.get 3)))"#,
    );
    let same = |arguments: &str| folder.cwasm(&format!("run same.wat --invoke same {arguments}"));
    same("1 2 1.5 2.25").printed("1\n2\n1.5\n2.25\n");
    same("-1 0xffffffffffffffff -0.0 1e300")
        .printed(&format!("-1\n-1\n-0\n1{}\n", "0".repeat(300)));
    same("4294967295 -9223372036854775808 inf nan").printed("-1\n-9223372036854775808\ninf\nNaN\n");
    same("1 2 x 4")
        .refused("cannot run same.wat: `same` has the type (func (param i32 i64 f32 f64)");
    same("1 2 3").refused("cannot run same.wat: `same` has the type");
    folder.cwasm("run same.wat --invoke other").refused("cannot run same.wat: ");
}

#[test]
fn several_modules_are_preloaded_and_see_each_other() {
    let folder = Folder::new();
    folder.write("a.wat", r#"(module (func (export "f") (result i32) (i32.const 20)))"#);
    folder.write(
        "b.wat",
        r#"(module (import "a" "f" (func $f (result i32)))
            (func (export "g") (result i32) (i32.add (call $f) (i32.const 1))))"#,
    );
    folder.write(
        "c.wat",
        r#"(module (import "a" "f" (func $f (result i32))) (import "b" "g" (func $g (result i32)))
            (func (export "sum") (result i32) (i32.add (call $f) (call $g))))"#,
    );
    folder.cwasm("run c.wat --preload a=a.wat --preload b=b.wat --invoke sum").printed("41\n");
    let ended = folder.cwasm("run c.wat --preload a=a.wat --invoke sum");
    ended.refused("cannot run c.wat: it imports what nothing provides");
    // In this order, `b` does not find `a`.
    folder
        .cwasm("run c.wat --preload b=b.wat --preload a=a.wat --invoke sum")
        .refused("cannot run c.wat: cannot preload b.wat: it imports what nothing provides");
}

#[test]
fn limits_are_kept() {
    let folder = Folder::new();
    folder.write(
        "grow.wat",
        r#"(module (memory 1) (table 1 funcref)
            (func (export "memory") (param i32) (result i32) (memory.grow (local.get 0)))
            (func (export "table") (param i32) (result i32)
                (table.grow (ref.null func) (local.get 0)))
            (func $deep (export "deep") (param i32) (result i32)
                (if (result i32) (i32.eqz (local.get 0)) (then (i32.const 7))
                    (else (i32.add (i32.const 0)
                        (call $deep (i32.sub (local.get 0) (i32.const 1))))))))"#,
    );
    folder.cwasm("run grow.wat --limit memory=2M --invoke memory 31").printed("1\n");
    folder.cwasm("run grow.wat --limit memory=2M --invoke memory 32").printed("-1\n");
    folder.cwasm("run grow.wat --limit table=5,memory=64K --invoke table 4").printed("1\n");
    folder.cwasm("run grow.wat --limit table=5 --invoke table 5").printed("-1\n");
    folder
        .cwasm("run grow.wat --limit memory=1 --invoke memory 0")
        .refused("cannot run grow.wat: ");
    folder
        .cwasm("run grow.wat --limit instances=1 --preload m=grow.wat --invoke memory 0")
        .refused("cannot run grow.wat: ");
    let deep = folder.cwasm("run grow.wat --limit stack=16K --invoke deep 5000");
    assert!(deep.code == 134 && deep.stderr.contains("stack"), "{deep:?}");
    folder.cwasm("run grow.wat --invoke deep 5000").printed("7\n");
    folder.cwasm("run grow.wat --limit stack=256M --invoke deep 1000000").printed("7\n");
}

#[test]
fn what_does_not_go_together_is_a_usage_error() {
    let folder = Folder::new();
    folder.write("a.wat", r#"(module (func (export "_start")))"#);
    for arguments in [
        "--limit memory",
        "--limit heap=1",
        "--limit memory=1K,memory=2K",
        "--limit table=1 --limit table=2",
        "--dir ::/x",
        "--dir .::/x --dir /tmp::/x",
        "--env =1",
        "--preload a.wat",
        "--preload m=a.wat --preload m=a.wat",
        "--timeout 5",
        "--fuel -1",
        "--digest 12 --trust-file",
        "--trust-file --trust-file",
        "--argv0 a --argv0 b",
        "--no-such-option",
    ] {
        let ended = folder.cwasm(&format!("run {arguments} a.wat"));
        assert_eq!((ended.code, ended.stdout.as_str()), (2, ""), "{arguments}: {ended:?}");
        assert!(ended.stderr.starts_with("error: "), "{arguments}: {ended:?}");
    }
    assert_eq!(folder.cwasm("run").code, 2);
}

#[test]
fn help_fits_one_screen_and_names_every_option() {
    let folder = Folder::new();
    let help = folder.cwasm("run --help").stdout;
    assert!(help.lines().count() <= 25, "{help}");
    assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
    for option in [
        "dir",
        "listen",
        "env",
        "inherit-env",
        "argv0",
        "invoke",
        "preload",
        "limit",
        "module",
        "fuel",
        "timeout",
        "digest",
        "trust-file",
        "no-cache",
        "help",
    ] {
        assert!(help.contains(&format!("--{option}")), "{option} is not in\n{help}");
    }
    assert_eq!(folder.cwasm("run -h").stdout, help);
}

#[test]
fn a_program_accepts_connections() {
    let folder = Folder::new();
    // Accepts one connection and sends back what it receives, until it ends.
    folder.write(
        "echo.wat",
        r#"(module
        (import "wasi_snapshot_preview1" "sock_accept" (func $accept (param i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "sock_recv"
            (func $recv (param i32 i32 i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "sock_send"
            (func $send (param i32 i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "sock_shutdown" (func $shutdown (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (func $check (param i32) (if (local.get 0) (then (call $exit (local.get 0)))))
        (func (export "_start")
            (call $check (call $accept (i32.const 3) (i32.const 0) (i32.const 0)))
            (loop $again
                (i32.store (i32.const 8) (i32.const 64))
                (i32.store (i32.const 12) (i32.const 1000))
                (call $check (call $recv (i32.load (i32.const 0)) (i32.const 8) (i32.const 1)
                    (i32.const 0) (i32.const 16) (i32.const 20)))
                (i32.store (i32.const 12) (i32.load (i32.const 16)))
                (call $check (call $send (i32.load (i32.const 0)) (i32.const 8) (i32.const 1)
                    (i32.const 0) (i32.const 24)))
                (br_if $again (i32.load (i32.const 16))))
            (call $check (call $shutdown (i32.load (i32.const 0)) (i32.const 2)))))"#,
    );
    let mut child = Command::new(env!("CARGO_BIN_EXE_cwasm"))
        .args(["run", "--listen", "127.0.0.1:0", "echo.wat"])
        .current_dir(folder.path("."))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("cwasm: listening at ").unwrap().to_owned();
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.write_all(b"over the loopback").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut echo = String::new();
    stream.read_to_string(&mut echo).unwrap();
    assert_eq!(echo, "over the loopback");
    assert!(child.wait().unwrap().success());
    folder.write("start.wat", r#"(module (func (export "_start")))"#);
    folder.cwasm("run --listen nowhere start.wat").refused("cannot listen at nowhere");
}
