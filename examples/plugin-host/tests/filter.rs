//! The application and its plugin, from the command line's point of view.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use cwasm_compiler::Settings;
use cwasm_loader::Digest;

#[test]
fn a_log_is_filtered_by_the_plugin_with_the_digest_and_by_no_other() {
    let wasm = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("plugin.wasm")).unwrap();
    let artifact = cwasm_compiler::compile(&wasm, &Settings::default()).unwrap();
    let digest = Digest::stated_in(&artifact).unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plugin.cwasm");
    fs::write(&path, &artifact).unwrap();

    let filter = |digest: &str, log: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_plugin-host"))
            .arg(&path)
            .arg(digest)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A host that refuses the plugin does not read its input.
        let _ = child.stdin.take().unwrap().write_all(log.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };

    let (code, stdout, stderr) =
        filter(&digest, "mail ann.b@example.org\ncall 555-123-4567\nfrom 10.0.0.1, a@b\n");
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(stdout, "mail <@>\ncall <num>\nfrom 10.0.0.1, a@b\n");
    assert_eq!(stderr, "1 e-mail addresses removed\n1 numbers removed\n");

    let (code, _, stderr) = filter(&digest, &"x".repeat(70_000));
    assert_eq!(
        (code, stderr.as_str()),
        (Some(1), "plugin-host: the line is too long for the plugin\n")
    );

    // Somebody replaces the plugin by another one.
    let other = wat::parse_str("(module (memory (export \"memory\") 1))").unwrap();
    fs::write(&path, cwasm_compiler::compile(&other, &Settings::default()).unwrap()).unwrap();
    let (code, _, stderr) = filter(&digest, "");
    assert_eq!(code, Some(1));
    assert!(stderr.starts_with("plugin-host: untrusted: its digest is "), "{stderr}");
}
