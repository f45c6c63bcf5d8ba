//! `cwasm compile` in the hands of `make` and `ninja`.

mod command;

use std::fs;
use std::process::Command;
use std::time::{Duration, SystemTime};

use command::Folder;

const SEVEN: &str = "(module (func (export \"f\") (result i32) (i32.const 7)))";

/// Runs a build tool, or says that it is not there.
fn tool(folder: &Folder, name: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(name);
    command.args(arguments).current_dir(folder.path("."));
    // A `make` that runs these tests must not be joined.
    command.env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
    match command.env("CWASM", env!("CARGO_BIN_EXE_cwasm")).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: {name} is not installed");
            None
        }
        result => {
            let output = result.unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{text}{errors}");
            Some(text)
        }
    }
}

fn modified(folder: &Folder, name: &str) -> SystemTime {
    fs::metadata(folder.path(name)).unwrap().modified().unwrap()
}

/// Changes the time of a file; negative seconds lie in the past.
fn set_age(folder: &Folder, name: &str, seconds: u64) {
    let file = fs::File::options().write(true).open(folder.path(name)).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
}

#[test]
fn make_follows_the_depfile() {
    let folder = Folder::new();
    let odd = "in $x #1: 50%.wat";
    folder.write(odd, SEVEN);
    set_age(&folder, odd, 100);
    folder.cwasm_with(&["compile", odd, "-o", "out.cwasm", "--depfile", "out.d"], "");
    folder.write(
        "Makefile",
        "out.cwasm:\n\t@\"$(CWASM)\" compile 'in $$x #1: 50%.wat' -o $@ --depfile out.d && echo rebuilt\ninclude out.d\n",
    );
    let Some(text) = tool(&folder, "make", &["out.cwasm"]) else { return };
    assert!(text.contains("up to date"), "{text}");
    folder.write(odd, SEVEN.replace('7', "8"));
    set_age(&folder, "out.cwasm", 50);
    let text = tool(&folder, "make", &["out.cwasm"]).unwrap();
    assert!(text.contains("rebuilt"), "{text}");
    let text = tool(&folder, "make", &["out.cwasm"]).unwrap();
    assert!(text.contains("up to date"), "{text}");
    folder.cwasm_with(&["verify", "out.cwasm", "--against", odd], "").printed(&format!(
        "ok {}\n",
        cwasm_artifact::digest::Digest::stated_in(&folder.read("out.cwasm")).unwrap()
    ));
}

#[test]
fn ninja_stops_where_nothing_changed() {
    let folder = Folder::new();
    folder.write("a.wat", SEVEN);
    folder.write(
        "build.ninja",
        format!(
            "rule cwasm\n  command = {} compile $in -o $out --depfile $out.d\n  depfile = $out.d\n  restat = 1\n\
             rule copy\n  command = cp $in $out\n\
             build a.cwasm: cwasm a.wat\nbuild copy.cwasm: copy a.cwasm\n",
            env!("CARGO_BIN_EXE_cwasm")
        ),
    );
    let Some(text) = tool(&folder, "ninja", &["-v"]) else { return };
    assert!(text.contains("[2/2]"), "{text}");
    let idle = |folder: &Folder| {
        let text = tool(folder, "ninja", &[]).unwrap();
        assert!(text.contains("no work to do"), "{text}");
    };
    idle(&folder);
    let before = (modified(&folder, "a.cwasm"), modified(&folder, "copy.cwasm"));
    // Written again with the same contents: compiled, and nothing more.
    folder.write("a.wat", SEVEN);
    let text = tool(&folder, "ninja", &["-v"]).unwrap();
    assert!(text.contains(" compile ") && !text.contains("cp a.cwasm"), "{text}");
    assert_eq!((modified(&folder, "a.cwasm"), modified(&folder, "copy.cwasm")), before);
    idle(&folder);
    folder.write("a.wat", SEVEN.replace('7', "8"));
    let text = tool(&folder, "ninja", &["-v"]).unwrap();
    assert!(text.contains("cp a.cwasm"), "{text}");
    assert!(folder.read("copy.cwasm") == folder.read("a.cwasm"));
}

#[test]
fn several_modules_go_to_a_directory_and_each_error_is_reported() {
    let folder = Folder::new();
    folder.write("a.wat", SEVEN).write("b.wat", SEVEN.replace('7', "8"));
    folder.write("bad.wat", "(module (func i32.bogus))").write("worse.wat", "(module");
    fs::create_dir(folder.path("out")).unwrap();
    let ended = folder.cwasm("compile a.wat b.wat --out-dir out --depfile out/d");
    assert_eq!(ended.code, 0, "{ended:?}");
    let lines: Vec<_> = ended.stdout.lines().map(|line| &line[64..]).collect();
    assert_eq!(lines, ["  out/a.cwasm", "  out/b.cwasm"]);
    assert_eq!(folder.read("out/d"), b"out/a.cwasm: a.wat\nout/b.cwasm: b.wat\n");

    fs::remove_file(folder.path("out/d")).unwrap();
    fs::remove_file(folder.path("out/b.cwasm")).unwrap();
    let ended = folder.cwasm("compile bad.wat worse.wat b.wat --out-dir out --depfile out/d");
    assert_eq!(ended.code, 1);
    assert_eq!(ended.stderr.matches("cwasm: error: ").count(), 2, "{ended:?}");
    assert!(ended.stderr.contains("bad.wat:1:") && ended.stderr.contains("worse.wat:1:"));
    assert!(folder.path("out/b.cwasm").is_file() && !folder.path("out/d").exists());

    folder.cwasm("compile a.wat b.wat -o c.cwasm").refused("`-o` names one file");
    folder
        .cwasm("compile a.wat a.wasm --out-dir out")
        .refused("a.wat and a.wasm would both become");
    folder.cwasm("compile a.wat --out-dir none").refused("cannot write none/a.cwasm: No such file");
    assert_eq!(folder.cwasm("compile").code, 2);
}

#[test]
fn an_artifact_goes_to_standard_output() {
    let folder = Folder::new();
    folder.write("a.wat", SEVEN);
    folder.compile("a.wat -o a.cwasm");
    let output = Command::new(env!("CARGO_BIN_EXE_cwasm"))
        .args(["compile", "a.wat", "-o", "-"])
        .current_dir(folder.path("."))
        .output()
        .unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert!(output.stdout == folder.read("a.cwasm"));
    folder
        .cwasm("compile a.wat -o - --depfile d")
        .refused("`--depfile` needs an artifact in a file");
}

#[test]
fn what_did_not_change_is_not_written() {
    let folder = Folder::new();
    folder.write("a.wat", SEVEN);
    for arguments in ["a.wat", "a.wat --emit object"] {
        let name = if arguments.ends_with("object") { "a.o" } else { "a.cwasm" };
        folder.compile(arguments);
        set_age(&folder, name, 100);
        let before = modified(&folder, name);
        folder.compile(arguments);
        assert_eq!(modified(&folder, name), before);
        folder.write("a.wat", SEVEN.replace('7', "9"));
        folder.compile(arguments);
        assert!(modified(&folder, name) > before);
        folder.write("a.wat", SEVEN);
    }
}

#[test]
fn an_object_file_holds_the_artifact_under_its_name() {
    let folder = Folder::new();
    folder.write("a.wat", SEVEN);
    folder.compile("a.wat --emit object -o my-app.o");
    let Some(text) = tool(&folder, "nm", &["my-app.o"]) else { return };
    for symbol in [
        "R cwasm_artifact_my_app\n",
        "R cwasm_artifact_my_app_digest",
        "R cwasm_artifact_my_app_size",
    ] {
        assert!(text.contains(symbol), "{text}");
    }
}
