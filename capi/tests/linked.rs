//! A program in C that an artifact is linked to by the ordinary linker.

use std::path::{Path, PathBuf};
use std::process::Command;

use cwasm_compiler::{Settings, compile, symbol_name, wrap_in_object};

#[test]
fn a_program_in_c_runs_an_artifact_that_was_linked_to_it() {
    if Command::new("cc").arg("--version").output().is_err() {
        println!("skipped: cc is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let wasm = wat::parse_file(root.join("examples/numbers.wat")).unwrap();
    let artifact = compile(&wasm, &Settings::default()).unwrap();
    let object = folder.path().join("numbers.o");
    std::fs::write(&object, wrap_in_object(&artifact, &symbol_name("numbers")).unwrap()).unwrap();

    let program = folder.path().join("gcd");
    let mut command = Command::new("cc");
    command
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .arg(root.join("examples/linked-c/gcd.c"))
        .arg("-I")
        .arg(root.join("capi/include"))
        .arg(&object)
        .arg(library())
        .args(["-lgcc_s", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));

    let run = |arguments: &[&str]| {
        let output = Command::new(&program).args(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    assert_eq!(run(&["1071", "462"]), (Some(0), "21\n".into(), String::new()));
    let (code, _, stderr) = run(&["--fail"]);
    assert_eq!(code, Some(0), "{stderr}");
    for expected in [
        "wrong digest: ",
        "null: a null pointer was passed for the artifact",
        "no function: ",
        "wrong type: ",
        "no room: `gcd` has 1 results, and there is room for 0",
        "wrong kind: there is no value of the kind 9",
    ] {
        assert!(stderr.contains(expected), "{expected} is not in\n{stderr}");
    }
}

/// The static library that Cargo built together with this test.
fn library() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let mut libraries: Vec<PathBuf> = std::fs::read_dir(test.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.starts_with("libcwasm") && !name.starts_with("libcwasm_") && name.ends_with(".a")
        })
        .collect();
    libraries.sort_by_key(|path| path.metadata().unwrap().modified().unwrap());
    libraries.pop().expect("cargo builds libcwasm.a for this test")
}
