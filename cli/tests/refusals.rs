//! Bad input: each kind has its own error, worded for the person who must
//! act, exit code 1, and leaves no output.

mod command;

use command::Folder;

const OK: &str =
    r#"(module (memory 1) (func (export "f") (param i32) (result i32) (i32.load (local.get 0))))"#;

/// A small binary module.
fn binary() -> Vec<u8> {
    wat::parse_str(OK).unwrap()
}

/// Compiles `in.wasm` with these bytes, which must be refused, and leave no
/// trace.
#[track_caller]
fn compile_refused(bytes: &[u8], message: &str) {
    let folder = Folder::new();
    folder.write("in.wasm", bytes);
    folder.cwasm("compile in.wasm").refused(message);
    assert_eq!(folder.names(), ["in.wasm"]);
}

#[test]
fn an_empty_file() {
    compile_refused(b"", "in.wasm is empty, not a WebAssembly module");
}

#[test]
fn a_text_file() {
    compile_refused(b"Dear reader,\n", "in.wasm:1:1: expected `(`");
}

#[test]
fn text_that_is_no_module() {
    let folder = Folder::new();
    folder.write("in.wat", "(module\n  (func (result i32)\n    i32.cost 1))\n");
    folder.cwasm("compile in.wat").refused("in.wat:3:5: ");
    folder.write("in.wat", "(module\n  (func (result i32)\n    i64.const 1))\n");
    let ended = folder.cwasm("compile in.wat");
    assert!(ended.stderr.contains("type mismatch"), "{ended:?}");
    ended.refused("in.wat:3:5: invalid module at byte 0x");
}

#[test]
fn a_binary_file_of_another_kind() {
    compile_refused(b"\x89PNG\r\n\x1a\n\0\0", "in.wasm is neither a WebAssembly binary nor text");
}

#[test]
fn a_module_cut_anywhere() {
    let wasm = binary();
    let folder = Folder::new();
    for length in 1..wasm.len() {
        // The names at the end may be cut without harm.
        if wasmparser::validate(&wasm[..length]).is_ok() {
            continue;
        }
        folder.write("in.wasm", &wasm[..length]);
        let ended = folder.cwasm("compile in.wasm");
        ended.refused("");
        let told = ended.stderr.contains("byte 0x") || ended.stderr.contains("in.wasm is ");
        assert!(told, "cut at {length}: {ended:?}");
    }
    assert_eq!(folder.names(), ["in.wasm"]);
}

#[test]
fn a_module_that_is_invalid() {
    let wasm = wat::parse_str("(module (func (result i32)))").unwrap();
    let folder = Folder::new();
    folder.write("in.wasm", wasm);
    let ended = folder.cwasm("compile in.wasm");
    ended.refused("cannot compile in.wasm: invalid module at byte 0x");
    assert!(ended.stderr.contains("(in function 0): type mismatch"), "{ended:?}");
}

#[test]
fn a_component() {
    compile_refused(
        b"\0asm\x0d\0\x01\0",
        "cannot compile in.wasm: this is a WebAssembly component; cwasm compiles core modules",
    );
}

#[test]
fn features_that_are_not_supported() {
    for (text, feature) in [
        ("(module (type (func)) (type (cont 0)))", "stack switching"),
        ("(module (type (shared (struct))))", "shared-everything threads"),
    ] {
        let folder = Folder::new();
        folder.write("in.wat", text);
        let ended = folder.cwasm("compile in.wat");
        ended.refused("in.wat:1:");
        assert!(ended.stderr.contains("which this version of cwasm does not support"), "{ended:?}");
        assert!(ended.stderr.contains(feature), "{ended:?}");
        assert_eq!(folder.names(), ["in.wat"]);
    }
}

#[test]
fn an_artifact_instead_of_a_module() {
    let folder = Folder::new();
    folder.write("in.wat", OK).compile("in.wat");
    folder.cwasm("compile in.cwasm -o out").refused("in.cwasm is a cwasm artifact already");
}

#[test]
fn an_artifact_of_wasmtime() {
    let folder = Folder::new();
    folder.write("in.cwasm", include_bytes!("fixtures/wasmtime.cwasm"));
    folder
        .cwasm("run --trust-file in.cwasm")
        .refused("cannot load in.cwasm: not a cwasm artifact: it is an artifact of Wasmtime: compile the wasm");
    folder
        .cwasm("verify in.cwasm")
        .refused("in.cwasm is refused: not a cwasm artifact: it is an artifact of Wasmtime");
    folder.cwasm("compile in.cwasm -o out").refused("in.cwasm is an artifact of Wasmtime");
    folder.cwasm("inspect in.cwasm").refused("");
}

/// Compiles a module, changes the artifact, and expects `run` and `verify` to
/// refuse it in the same words.
#[track_caller]
fn artifact_refused(options: &str, change: impl FnOnce(&mut Vec<u8>), message: &str) {
    let folder = Folder::new();
    folder.write("in.wat", OK).compile(&format!("in.wat {options}"));
    let mut file = folder.read("in.cwasm");
    change(&mut file);
    folder.write("in.cwasm", file);
    let run = folder.cwasm("run --trust-file in.cwasm --invoke f 0");
    run.refused(&format!("cannot load in.cwasm: {message}"));
    folder.cwasm("verify in.cwasm").refused(&format!("in.cwasm is refused: {message}"));
}

#[test]
fn an_artifact_for_another_machine() {
    artifact_refused(
        "--target aarch64-unknown-linux-gnu",
        |_| {},
        "built for aarch64-unknown-linux-gnu, and this host is x86_64-unknown-linux-gnu; \
         recompile with `cwasm compile --target` for this host",
    );
}

#[test]
fn an_artifact_of_another_version() {
    artifact_refused(
        "",
        |file| file[64 + 8] = 1,
        "built by cwasm 0.1.0 in format 1, and this loader reads format 2; recompile with",
    );
}

#[test]
fn an_artifact_that_is_cut() {
    artifact_refused("", |file| file.truncate(8000), "truncated: it has 8000 of ");
}

#[test]
fn an_artifact_that_goes_on() {
    artifact_refused("", |file| file.push(0), "it has ");
}

#[test]
fn an_artifact_with_one_bit_changed() {
    artifact_refused("", |file| file[4200] ^= 16, "corrupt: bytes 0x");
}

#[test]
fn an_artifact_that_nobody_vouches_for() {
    let folder = Folder::new();
    let digest = folder.write("in.wat", OK).compile("in.wat");
    folder
        .cwasm("run in.cwasm --invoke f 0")
        .refused("in.cwasm is native code, and nothing vouches for it: name the digest");
    let other = "0".repeat(64);
    let ended = folder.cwasm(&format!("run in.cwasm --digest {other} --invoke f 0"));
    ended.refused("cannot load in.cwasm: untrusted: its digest is ");
    assert!(ended.stderr.contains(&digest), "{ended:?}");
    folder.cwasm(&format!("run in.cwasm --digest {digest} --invoke f 0")).printed("0\n");
}

#[test]
fn missing_imports_are_listed_all_at_once() {
    let folder = Folder::new();
    folder.write(
        "in.wat",
        r#"(module (import "env" "log" (func (param i32))) (import "env" "m" (memory 1)) (func (export "_start")))"#,
    );
    let ended = folder.cwasm("run in.wat");
    ended.refused("cannot run in.wat: it imports what nothing provides");
    assert!(ended.stderr.contains("`env` `log` (func (param i32))"), "{ended:?}");
    assert!(ended.stderr.contains("`env` `m` (memory 1)"), "{ended:?}");
}

#[test]
fn an_import_of_a_wrong_type() {
    let folder = Folder::new();
    folder.write(
        "in.wat",
        r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i64))) (func (export "_start")))"#,
    );
    folder.cwasm("run in.wat").refused(
        "cannot run in.wat: incompatible import type: the module imports `wasi_snapshot_preview1` \
         `proc_exit` as (func (param i64)), and it is (func (param i32))",
    );
}

#[test]
fn a_missing_file() {
    let folder = Folder::new();
    for command in ["compile", "run", "inspect", "verify", "wast"] {
        let ended = folder.cwasm(&format!("{command} nowhere.wasm"));
        ended.refused("cannot read nowhere.wasm: No such file or directory");
    }
}

#[test]
fn a_directory_or_a_pipe_instead_of_a_file() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("in.wasm")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        folder.path("pipe.wasm"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    for command in ["compile", "run", "inspect", "verify"] {
        let ended = folder.cwasm(&format!("{command} in.wasm"));
        ended.refused("in.wasm is a directory, not a file");
        let ended = folder.cwasm(&format!("{command} pipe.wasm"));
        ended.refused("pipe.wasm is a named pipe, not a file");
    }
}

#[test]
fn an_output_that_cannot_be_written() {
    let folder = Folder::new();
    folder.write("in.wat", OK);
    folder.cwasm("compile in.wat -o no/such/out").refused("cannot write no/such/out: No such file");
    std::fs::create_dir(folder.path("taken")).unwrap();
    folder.cwasm("compile in.wat -o taken").refused("cannot write taken: it is a directory");
    folder
        .cwasm("compile in.wat -o in.wat")
        .refused("the artifact would replace the module in.wat");
    folder
        .cwasm("compile in.wat -o /dev/full")
        .refused("cannot write /dev/full: it is not a regular");
    assert_eq!(folder.names(), ["in.wat", "taken"]);
}

#[test]
fn a_failed_compilation_keeps_the_old_output() {
    let folder = Folder::new();
    folder.write("in.wat", OK).compile("in.wat");
    let old = folder.read("in.cwasm");
    folder.write("in.wat", "(module (func (result i32)))");
    assert_eq!(folder.cwasm("compile in.wat").code, 1);
    assert_eq!(folder.read("in.cwasm"), old);
    assert_eq!(folder.names(), ["in.cwasm", "in.wat"]);
}

#[test]
fn a_memory_that_nobody_could_have() {
    compile_refused(
        &wat::parse_str("(module)")
            .unwrap()
            .into_iter()
            .chain([5, 5, 1, 0, 0x81, 0x80, 4])
            .collect::<Vec<_>>(),
        "cannot compile in.wasm: invalid module at byte 0x",
    );
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let folder = Folder::new();
    for arguments in ["", "compile", "run --digest 12 x", "compile x --cpu pentium", "fly"] {
        let arguments: Vec<_> = arguments.split_whitespace().collect();
        let ended = folder.cwasm_with(&arguments, "");
        assert_eq!(ended.code, 2, "{ended:?}");
    }
}
