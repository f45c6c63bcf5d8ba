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
    // The limit on the size of files stands for a disk that fills up in the middle. Its signal
    // must be ignored, or it ends the process.
    let output = shell(&folder, "trap '' XFSZ; ulimit -f 2; exec \"$CWASM\" compile in.wat");
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("in.cwasm: File too large"), "{text}");
    assert!(folder.read("in.cwasm") == old);
    assert_eq!(folder.names(), ["in.cwasm", "in.wat"]);
    // So for signing.
    folder.cwasm("keygen -o a.key");
    let line = "trap '' XFSZ; ulimit -f 2; exec \"$CWASM\" sign in.cwasm --key a.key";
    let text = stderr(&shell(&folder, line));
    assert!(text.contains("in.cwasm: File too large"), "{text}");
    assert!(folder.read("in.cwasm") == old);
    // No half of a key is left either.
    let line = "trap '' XFSZ; ulimit -f 0; exec \"$CWASM\" keygen -o b.key";
    let text = stderr(&shell(&folder, line));
    assert!(text.starts_with("cwasm: error: cannot write b.key: File too large"), "{text}");
    assert_eq!(folder.names(), ["a.key", "a.key.pub", "in.cwasm", "in.wat"]);
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
    folder.write("in.wat", MODULE);
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
