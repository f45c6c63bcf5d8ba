//! What the tests share: from text to an artifact that is loaded. The fuzz targets use it too, without
//! the compiler.

pub mod accesses;
pub mod calls;
pub mod fault;
pub mod pattern;
pub mod program_file;
#[cfg(feature = "servers")]
pub mod servers;
pub mod shapes;
pub mod signing;

#[cfg(feature = "compiler")]
use cwasm_compiler::Settings;
use cwasm_loader::{Artifact, Digest, Trust};

/// Compiles a module in the text format.
///
/// # Panics
/// If it does not compile; so for the other functions.
#[cfg(feature = "compiler")]
#[must_use]
pub fn compile(text: &str) -> Vec<u8> {
    compile_with(text, &Settings::default())
}

/// Compiles a module in the text format with settings.
#[cfg(feature = "compiler")]
#[must_use]
pub fn compile_with(text: &str, settings: &Settings) -> Vec<u8> {
    let wasm = wat::parse_str(text).expect("the text of a test is well-formed");
    cwasm_compiler::compile(&wasm, settings).expect("the module of a test compiles")
}

/// Loads what was just compiled.
#[must_use]
pub fn load(bytes: &[u8]) -> Artifact {
    let digest = Digest::stated_in(bytes).expect("the compiler writes artifacts");
    Artifact::from_bytes(bytes, &Trust::digest(digest)).expect("what was compiled here loads here")
}

/// Compiles and loads a module in the text format.
#[cfg(feature = "compiler")]
#[must_use]
pub fn artifact(text: &str) -> Artifact {
    load(&compile(text))
}
