//! The application runs, contains no compiler, and refuses a file that is not the one it was built with.

use std::fs;
use std::process::{Command, Output};

fn run(program: impl AsRef<std::path::Path>) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = Command::new(program.as_ref()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn both_modules_run() {
    let (code, stdout, stderr) = run(env!("CARGO_BIN_EXE_embedded"));
    assert_eq!(
        (code, stdout.as_str()),
        (Some(0), "Hello from wasm\ngcd(1071, 462) = 21\n"),
        "{stderr}"
    );
}

#[test]
fn a_file_that_was_changed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("embedded");
    fs::copy(env!("CARGO_BIN_EXE_embedded"), &program).unwrap();
    let (code, _, stderr) = run(&program);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("numbers.cwasm"), "{stderr}");

    let installed =
        std::path::Path::new(env!("CARGO_BIN_EXE_embedded")).with_file_name("numbers.cwasm");
    let mut bytes = fs::read(installed).unwrap();
    let copy = folder.path().join("numbers.cwasm");
    fs::write(&copy, &bytes).unwrap();
    assert_eq!(run(&program).0, Some(0));
    bytes[4096] ^= 1;
    fs::write(&copy, &bytes).unwrap();
    let (code, stdout, stderr) = run(&program);
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
}

#[test]
fn no_compiler_is_among_the_dependencies() {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--locked",
            "--offline",
            "-p",
            "embedded",
            "-e",
            "normal",
            "--prefix",
            "none",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    assert!(tree.contains("cwasm-loader"), "{tree}");
    for name in
        ["cranelift", "regalloc2", "wasmparser", "wast", "object", "cwasm-compiler", "cwasm-build"]
    {
        assert!(!tree.lines().any(|line| line.starts_with(name)), "{name} is in\n{tree}");
    }
}
