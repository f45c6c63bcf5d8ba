//! What a build script writes and says. Run in a process of its own, as Cargo runs scripts.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const MODULE: &str = "(module (func (export \"f\") (result i32) i32.const 7))";

/// Runs `child` as Cargo would run a script for a target.
fn script(folder: &Path, target: &str, action: &str) -> Output {
    let out_dir = folder.join("target/debug/build/app-0123/out");
    fs::create_dir_all(&out_dir).unwrap();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env("CWASM_TEST_ACTION", action)
        .env("OUT_DIR", &out_dir)
        .env("TARGET", target)
        .env("NUM_JOBS", "1")
        .current_dir(folder)
        .output()
        .unwrap()
}

#[test]
fn child() {
    // Without the variable, nobody asks for it.
    let Ok(action) = std::env::var("CWASM_TEST_ACTION") else { return };
    match action.as_str() {
        "embed" => cwasm_build::embed("src/app.wat"),
        "install" => cwasm_build::install("src/app.wat"),
        "link" => cwasm_build::link("src/app.wat"),
        other => panic!("{other}"),
    }
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("src")).unwrap();
    fs::write(folder.path().join("src/app.wat"), MODULE).unwrap();
    folder
}

/// The instructions to Cargo in an output.
fn instructions(output: &Output) -> Vec<String> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    // The test runner's own words may come before, on the same line.
    let lines =
        text.lines().filter_map(|line| line.find("cargo::").map(|at| line[at..].to_owned()));
    lines.collect()
}

#[test]
fn cargo_is_told_exactly_the_inputs() {
    let folder = folder();
    for action in ["embed", "install"] {
        let output = script(folder.path(), "x86_64-unknown-linux-gnu", action);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(instructions(&output), ["cargo::rerun-if-changed=src/app.wat"]);
    }
    let out = folder.path().join("target/debug/build/app-0123/out");
    let artifact = fs::read(out.join("app.cwasm")).unwrap();
    assert!(artifact == fs::read(folder.path().join("target/debug/app.cwasm")).unwrap());
    assert!(fs::read_to_string(out.join("app.cwasm.rs")).unwrap().contains("Installed::new"));
}

#[test]
fn nothing_is_rewritten_when_nothing_changed() {
    let folder = folder();
    let modified = || {
        ["app.cwasm", "app.cwasm.rs", "app.o"].map(|name| {
            let path = folder.path().join("target/debug/build/app-0123/out").join(name);
            fs::metadata(path).unwrap().modified().unwrap()
        })
    };
    assert!(script(folder.path(), "x86_64-unknown-linux-gnu", "link").status.success());
    let before = modified();
    assert!(script(folder.path(), "x86_64-unknown-linux-gnu", "link").status.success());
    assert_eq!(modified(), before);
    fs::write(folder.path().join("src/app.wat"), MODULE.replace('7', "8")).unwrap();
    assert!(script(folder.path(), "x86_64-unknown-linux-gnu", "link").status.success());
    assert!(modified().iter().zip(before).all(|(new, old)| *new > old));
}

#[test]
fn the_target_is_that_of_cargo() {
    let folder = folder();
    let artifact = folder.path().join("target/debug/build/app-0123/out/app.cwasm");
    for (target, expected) in [
        ("aarch64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"),
        ("x86_64-alpine-linux-musl", "x86_64-unknown-linux-musl"),
    ] {
        assert!(script(folder.path(), target, "embed").status.success());
        let bytes = fs::read(&artifact).unwrap();
        let checked = cwasm_artifact::check::check(&bytes, None).unwrap();
        let found = cwasm_artifact::header::padded_text(&checked.header().prefix.target);
        assert_eq!(found, expected);
    }
    let output = script(folder.path(), "powerpc64-unknown-linux-gnu", "embed");
    assert!(!output.status.success());
    let errors = instructions(&output);
    assert!(
        errors[1]
            .starts_with("cargo::error=cannot compile src/app.wat: cannot compile for powerpc64"),
        "{errors:?}"
    );
}

#[test]
fn errors_name_the_place_in_one_line() {
    let folder = folder();
    fs::write(folder.path().join("src/app.wat"), "(module\n (func i32.bogus))").unwrap();
    let output = script(folder.path(), "x86_64-unknown-linux-gnu", "embed");
    assert_eq!(output.status.code(), Some(1));
    let errors = instructions(&output);
    assert!(errors[1].contains("src/app.wat:2:8: "), "{errors:?}");
    fs::remove_file(folder.path().join("src/app.wat")).unwrap();
    let output = script(folder.path(), "x86_64-unknown-linux-gnu", "embed");
    let errors = instructions(&output);
    assert!(
        errors[1].starts_with("cargo::error=cannot read src/app.wat: No such file"),
        "{errors:?}"
    );
}

#[test]
fn outside_of_a_build_script_nothing_is_done() {
    assert!(matches!(cwasm_build::Builder::new(), Err(cwasm_build::Error::NotInBuildScript(_))));
}
