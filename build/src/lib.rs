//! Compiles WebAssembly in a build script, for the target that Cargo builds for.
//!
//! ```no_run
//! // The whole `main` of a build.rs, with `cwasm-build` among the build-dependencies.
//! cwasm_build::embed("src/plugin.wat");
//! ```
//!
//! The application depends on `cwasm-loader` alone, and contains no compiler:
//!
//! ```text
//! const PLUGIN: cwasm_loader::Embedded = cwasm_loader::embedded!("plugin");
//! let artifact = PLUGIN.load()?;
//! ```
//!
//! An artifact is put into the application ([`embed`]), linked to it as an object file ([`link`]),
//! or installed beside it ([`install`]). In each case the application
//! knows its digest. The script runs again when an input changed, and only then.
//!
//! The functions of this name report errors as Cargo wants them, and end the script. Those of
//! [`Builder`] return them, and take settings.
#![forbid(unsafe_code)]

mod cargo;
mod generate;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cwasm_artifact::digest::Digest;
use cwasm_compiler::{CompileError, Settings};

use cargo::Cargo;

/// Why a module was not compiled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A variable that Cargo sets for build scripts is missing.
    #[error("{0} is not set: this is for build scripts, which Cargo runs")]
    NotInBuildScript(&'static str),
    /// The name of the module cannot be that of an artifact.
    #[error("{} has no name to derive that of the artifact from", path.display())]
    NoName {
        /// The module.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The module could not be compiled.
    #[error("cannot compile {}", path.display())]
    Compile {
        /// The module.
        path: PathBuf,
        /// Why.
        #[source]
        source: CompileError,
    },
}

/// A compiled module.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Output {
    /// The name for `embedded!` and `installed!`: that of the module's file, without suffix.
    pub name: String,
    /// The artifact.
    pub artifact: PathBuf,
    /// Its digest.
    pub digest: Digest,
}

/// Compiles modules with settings of your own.
#[derive(Clone, Debug)]
pub struct Builder {
    settings: Settings,
    cargo: Cargo,
}

impl Builder {
    /// For Cargo's target, with default settings.
    ///
    /// # Errors
    /// If this is not a build script.
    pub fn new() -> Result<Self, Error> {
        let cargo = Cargo::of_environment()?;
        let settings = Settings { target: cargo.triple(), jobs: cargo.jobs, ..Settings::default() };
        Ok(Self { settings, cargo })
    }

    /// Changes settings. The target is Cargo's already.
    #[must_use]
    pub fn settings(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    /// Compiles a module, for `embedded!` to put it into the application.
    ///
    /// # Errors
    /// If the module cannot be compiled, or the artifact cannot be written.
    pub fn embed(&self, module: impl AsRef<Path>) -> Result<Output, Error> {
        let (output, bytes) = self.compile(module.as_ref())?;
        let code = generate::embedded(&output, bytes.len(), self.settings.page_size());
        self.generated(&output, &code)?;
        Ok(output)
    }

    /// Compiles a module to a file beside the application, for `installed!` to find it there.
    ///
    /// # Errors
    /// If the module cannot be compiled, or the artifact cannot be written.
    pub fn install(&self, module: impl AsRef<Path>) -> Result<Output, Error> {
        let (mut output, bytes) = self.compile(module.as_ref())?;
        output.artifact = self.cargo.beside.join(format!("{}.cwasm", output.name));
        write(&output.artifact, &bytes)?;
        self.generated(&output, &generate::installed(&output))?;
        Ok(output)
    }

    /// Compiles a module to an object file that the linker puts into the application, for
    /// `embedded!` to find it there. The compiler of the application never reads the artifact, which
    /// makes this the better way for large ones; the code that `embedded!` stands for then contains `unsafe`.
    ///
    /// # Errors
    /// If the module cannot be compiled, or the artifact cannot be written.
    pub fn link(&self, module: impl AsRef<Path>) -> Result<Output, Error> {
        let module = module.as_ref();
        let (output, bytes) = self.compile(module)?;
        let failed = |source| Error::Compile { path: module.to_owned(), source };
        let symbol = cwasm_compiler::symbol_name(&output.name);
        let object = cwasm_compiler::wrap_in_object(&bytes, &symbol).map_err(failed)?;
        let path = self.cargo.out_dir.join(format!("{}.o", output.name));
        write(&path, &object)?;
        println!("cargo::rustc-link-arg={}", path.display());
        self.generated(&output, &generate::linked(&output, &symbol, bytes.len()))?;
        Ok(output)
    }

    fn compile(&self, module: &Path) -> Result<(Output, Vec<u8>), Error> {
        println!("cargo::rerun-if-changed={}", module.display());
        let source = fs::read(module).map_err(io_error("read", module))?;
        let name = module.file_stem().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| Error::NoName { path: module.to_owned() })?.to_owned();
        let failed = |error| Error::Compile {
            path: module.to_owned(),
            source: if source.starts_with(b"\0asm") {
                error
            } else {
                cwasm_compiler::explain(error, &source, module)
            },
        };
        let wasm = cwasm_compiler::parse_text(&source, module).map_err(failed)?;
        let bytes = cwasm_compiler::compile(&wasm, &self.settings).map_err(failed)?;
        let digest = Digest::stated_in(&bytes).unwrap_or(Digest([0; 32]));
        let artifact = self.cargo.out_dir.join(format!("{name}.cwasm"));
        write(&artifact, &bytes)?;
        Ok((Output { name, artifact, digest }, bytes))
    }

    fn generated(&self, output: &Output, code: &str) -> Result<(), Error> {
        write(&self.cargo.out_dir.join(format!("{}.cwasm.rs", output.name)), code.as_bytes())
    }
}

/// Does what [`Builder::embed`] does, with default settings. Ends the script on errors.
pub fn embed(module: impl AsRef<Path>) {
    or_exit(Builder::new().and_then(|builder| builder.embed(module)));
}

/// Does what [`Builder::install`] does, with default settings. Ends the script on errors.
pub fn install(module: impl AsRef<Path>) {
    or_exit(Builder::new().and_then(|builder| builder.install(module)));
}

/// Does what [`Builder::link`] does, with default settings. Ends the script on errors.
pub fn link(module: impl AsRef<Path>) {
    or_exit(Builder::new().and_then(|builder| builder.link(module)));
}

/// Reports an error as Cargo wants it, and ends the script.
pub fn or_exit<T>(result: Result<T, Error>) -> T {
    result.unwrap_or_else(|error| {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            text += &format!(": {error}");
            cause = error.source();
        }
        println!("cargo::error={}", text.replace('\n', " "));
        std::process::exit(1)
    })
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

/// Writes a file, unless it holds these bytes already: then nothing that depends on it
/// is built again. What is there is replaced in one step: it may be open.
fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&temporary, bytes).map_err(io_error("write", &temporary))?;
    fs::rename(&temporary, path).map_err(io_error("write", path))
}
