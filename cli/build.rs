//! Lets the command start sooner, where the machine that builds has what that takes.
//!
//! - The unwinder of GCC is linked statically, where the C compiler has it. The standard library asks for the shared one (`libgcc_s`). To open, map
//!   and relocate it takes a tenth of the time of a short program. Both are built from the same sources.
//! - Relative relocations are packed, where the C library can read that: 15,000 of them take a page instead of 90.
//!
//! An executable then needs as new a C library as there was: 2.35 for the one, 2.36 for the other. With `CWASM_PORTABLE` set, it needs no more than the
//! standard library does.

use std::path::PathBuf;
use std::process::Command;

/// The variable that asks for an executable which also starts with older C libraries.
const PORTABLE: &str = "CWASM_PORTABLE";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed={PORTABLE}");
    if std::env::var_os(PORTABLE).is_some_and(|value| !value.is_empty()) || !is_known() {
        return;
    }
    if let Some(folder) = archive().as_deref().and_then(|file| file.parent()?.to_str()) {
        println!("cargo:rustc-link-search=native={folder}");
        println!("cargo:rustc-link-lib=static=gcc_eh");
        println!("cargo:rustc-env=CWASM_UNWINDER=static");
    }
    if c_library().is_some_and(|version| version >= (2, 36)) {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The version of the C library of this machine.
fn c_library() -> Option<(u32, u32)> {
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
}

/// Whether this is a build for the machine that builds, of the kind that was tried. Other C compilers' archives
/// may need more of their own libraries.
fn is_known() -> bool {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let is_static = variable("CARGO_CFG_TARGET_FEATURE").split(',').any(|f| f == "crt-static");
    variable("TARGET") == "x86_64-unknown-linux-gnu"
        && variable("HOST") == variable("TARGET")
        && variable("CARGO_CFG_PANIC") == "unwind"
        && !is_static
}

/// Where the C compiler that links has its unwinder.
fn archive() -> Option<PathBuf> {
    let linker = std::env::var_os("RUSTC_LINKER").unwrap_or_else(|| "cc".into());
    let output = Command::new(linker).arg("-print-file-name=libgcc_eh.a").output().ok()?;
    let file = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    // What it does not have, it names without a directory.
    (output.status.success() && file.is_absolute() && file.is_file()).then_some(file)
}
