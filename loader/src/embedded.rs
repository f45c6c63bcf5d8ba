//! Artifacts that a build put into an application, or beside it. `cwasm-build` makes them.
//!
//! The application knows their digests, so it loads them by a safe call and without
//! keys. An embedded artifact is copied like any other before it runs: the executable that it
//! is a part of is a file too, which may be written to while it runs, and code needs pages of its own.

use std::path::PathBuf;

use cwasm_artifact::digest::Digest;

use crate::artifact::Artifact;
use crate::error::LoadError;
use crate::trust::Trust;

/// An artifact in the data of the application. See [`crate::embedded!`].
#[derive(Clone, Copy, Debug)]
pub struct Embedded {
    bytes: &'static [u8],
    digest: Digest,
}

impl Embedded {
    /// An artifact and its digest, as the build knows it.
    #[must_use]
    pub const fn new(bytes: &'static [u8], digest: Digest) -> Self {
        Self { bytes, digest }
    }

    /// The bytes of the artifact.
    #[must_use]
    pub const fn bytes(&self) -> &'static [u8] {
        self.bytes
    }

    /// Its digest.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// Loads it.
    ///
    /// # Errors
    /// If this host cannot run it, or there is no memory for it.
    pub fn load(&self) -> Result<Artifact, LoadError> {
        Artifact::from_bytes(self.bytes, &Trust::digest(self.digest))
    }
}

/// An artifact in a file beside the application. See [`crate::installed!`].
#[derive(Clone, Copy, Debug)]
pub struct Installed {
    file_name: &'static str,
    digest: Digest,
}

impl Installed {
    /// The name of a file and the digest of what must be in it.
    #[must_use]
    pub const fn new(file_name: &'static str, digest: Digest) -> Self {
        Self { file_name, digest }
    }

    /// The name of the file.
    #[must_use]
    pub const fn file_name(&self) -> &'static str {
        self.file_name
    }

    /// Its digest.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// Where the file is: beside this executable. Tests and examples that Cargo built are one
    /// directory further down.
    ///
    /// # Errors
    /// If the system does not say where this executable is.
    pub fn path(&self) -> std::io::Result<PathBuf> {
        let executable = std::env::current_exe()?;
        let beside = executable.with_file_name(self.file_name);
        if beside.is_file() {
            return Ok(beside);
        }
        let built_by_cargo = executable
            .parent()
            .filter(|directory| directory.ends_with("deps") || directory.ends_with("examples"))
            .and_then(|directory| directory.parent())
            .map(|directory| directory.join(self.file_name));
        Ok(built_by_cargo.filter(|path| path.is_file()).unwrap_or(beside))
    }

    /// Loads it.
    ///
    /// # Errors
    /// If the file is not there or is another, or this host cannot run it.
    pub fn load(&self) -> Result<Artifact, LoadError> {
        let path = self
            .path()
            .map_err(|source| LoadError::Read { path: PathBuf::from(self.file_name), source })?;
        Artifact::load(path, &Trust::digest(self.digest))
    }
}

/// The [`Embedded`] artifact that `cwasm_build` made of a module under this name.
///
/// ```text
/// // build.rs: fn main() { cwasm_build::embed("plugin.wasm"); }
/// const PLUGIN: cwasm_loader::Embedded = cwasm_loader::embedded!("plugin");
/// ```
#[macro_export]
macro_rules! embedded {
    ($name:literal) => {
        include!(concat!(env!("OUT_DIR"), "/", $name, ".cwasm.rs"))
    };
}

/// The [`Installed`] artifact that `cwasm_build` made of a module under this name.
///
/// ```text
/// // build.rs: fn main() { cwasm_build::install("plugin.wasm"); }
/// const PLUGIN: cwasm_loader::Installed = cwasm_loader::installed!("plugin");
/// ```
#[macro_export]
macro_rules! installed {
    ($name:literal) => {
        include!(concat!(env!("OUT_DIR"), "/", $name, ".cwasm.rs"))
    };
}
