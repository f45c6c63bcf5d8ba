//! Tells compilers apart that have the same version: in a checkout, by what they
//! were built from. So nobody who works on the compiler runs code of yesterday's.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let version = env!("CARGO_PKG_VERSION");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    // A package from a registry has a version that nobody else has.
    let in_checkout = root.join("compiler/src").is_dir() && root.join("Cargo.lock").is_file();
    let identity = if in_checkout {
        let mut files = vec![root.join("Cargo.lock")];
        for folder in ["artifacts/src", "compiler/src"] {
            println!("cargo::rerun-if-changed={}", root.join(folder).display());
            gather(&root.join(folder), &mut files);
        }
        println!("cargo::rerun-if-changed={}", root.join("Cargo.lock").display());
        files.sort();
        let mut hash = Sha256::new();
        for file in files {
            let bytes = fs::read(&file).unwrap_or_default();
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        }
        let hash: [u8; 32] = hash.finalize().into();
        let hash: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{version}+{hash}")
    } else {
        version.to_owned()
    };
    println!("cargo::rustc-env=CWASM_COMPILER_IDENTITY={identity}");
}

fn gather(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            gather(&path, files);
        } else {
            files.push(path);
        }
    }
}
