//! Modules that are run: through the user's cache, or compiled in memory when there
//! is none. A cache is never the reason that a program does not run.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::Context as _;
use cwasm_cache::{Cache, Error, Options};
use cwasm_compiler::{Progress, Settings};
use cwasm_loader::{Artifact, Digest, LoadError, Trust};

use crate::compile::compile_file;
use crate::input;
use crate::progress::Bar;

/// The variable that names another directory.
const DIRECTORY: &str = "CWASM_CACHE_DIR";
/// The variable that names a directory to read from, below the other.
const SHARED: &str = "CWASM_CACHE_SHARED";

/// The directory that the user named, or the default one.
pub(crate) fn directory() -> Result<PathBuf, Error> {
    match std::env::var_os(DIRECTORY).filter(|name| !name.is_empty()) {
        Some(directory) => Ok(directory.into()),
        None => Cache::default_dir(),
    }
}

/// Opens the user's cache.
pub(crate) fn open() -> Result<Cache, Error> {
    let mut options = Options::default();
    if let Some(shared) = std::env::var_os(SHARED).filter(|name| !name.is_empty()) {
        options = options.shared(PathBuf::from(shared));
    }
    options.open(directory()?)
}

/// Loads a module: from the cache, or else compiled.
pub(crate) fn load(
    path: &Path,
    bytes: &[u8],
    settings: &Settings,
    use_cache: bool,
) -> anyhow::Result<Result<Artifact, LoadError>> {
    let cache = use_cache.then(open).transpose().unwrap_or_else(|error| {
        // Where no directory can be had there is no cache, and nothing to be done about it.
        if matches!(error, Error::Directory(_)) || std::env::var_os(DIRECTORY).is_some() {
            let error = anyhow::Error::new(error);
            let _ =
                writeln!(std::io::stderr(), "cwasm: warning: running without a cache: {error:#}");
        }
        None
    });
    let Some(cache) = cache else { return compile_and_load(path, bytes, settings) };
    let wasm = input::module(path, bytes)?;
    match cache.get_or_compile_with_progress(wasm.as_ref(), settings, &Late::default()) {
        Ok(artifact) => Ok(Ok(artifact)),
        Err(Error::Load(error)) => Ok(Err(error)),
        Err(Error::Compile(error)) => Err(input::cannot_compile(path, bytes, error)),
        Err(_) => compile_and_load(path, bytes, settings),
    }
}

fn compile_and_load(
    path: &Path,
    bytes: &[u8],
    settings: &Settings,
) -> anyhow::Result<Result<Artifact, LoadError>> {
    let artifact = compile_file(path, bytes, settings)?;
    let digest = Digest::stated_in(&artifact)
        .context("the compiler wrote no digest, which is a bug in cwasm")?;
    Ok(Artifact::from_bytes(&artifact, &Trust::digest(digest)))
}

/// A progress bar that is made when there is progress to show.
#[derive(Default)]
struct Late(OnceLock<Bar>);

impl Progress for Late {
    fn start(&self, total: u64) {
        self.0.get_or_init(Bar::new).start(total);
    }

    fn advance(&self, bytes: u64) {
        if let Some(bar) = self.0.get() {
            bar.advance(bytes);
        }
    }
}
