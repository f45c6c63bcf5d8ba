//! An artifact for the programs of this folder, which have no compiler.
//!
//! `fixture.cwasm` is `artifacts/golden/everything.wat`; `make bless` writes it
//! again when the ABI has changed.

use cwasm_loader::{Artifact, Caller, Digest, Engine, Linker, Trust};

/// The bytes of the artifact.
pub static FIXTURE: &[u8] = include_bytes!("fixture.cwasm");

/// Loads the artifact.
///
/// # Panics
/// If it is out of date.
#[must_use]
pub fn artifact() -> Artifact {
    // The digest of this very file, which is a part of the program.
    let digest = FIXTURE_DIGEST.trim().parse::<Digest>().expect("a digest");
    Artifact::from_bytes(FIXTURE, &Trust::digest(digest)).expect("run `make bless`")
}

const FIXTURE_DIGEST: &str = include_str!("fixture.digest");

/// A linker with what the artifact imports.
///
/// # Panics
/// Never: the one name is defined once.
#[must_use]
pub fn linker<'code, T: 'static>(engine: &Engine) -> Linker<'code, T> {
    let mut linker = Linker::new(engine);
    linker.func("host", "log", |_: Caller<'_, '_, T>, _: i32| {}).expect("a new name");
    linker
}
