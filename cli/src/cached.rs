//! Modules that are run: through the user's cache, or compiled in memory when there
//! is none. A cache is never the reason that a program does not run.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use cwasm_artifact::signature::Signature;
use cwasm_cache::{Cache, Error, Key, Level, LevelError, Options};
use cwasm_compiler::{Progress, Settings};
use cwasm_loader::{Artifact, Digest, LoadError, PublicKey, Trust};
use cwasm_remote::{Access, Reference, RemoteLevel};
use ed25519_dalek::Signer as _;

use crate::compile::compile_file;
use crate::progress::Bar;
use crate::{input, keys};

/// The variable that names another directory.
const DIRECTORY: &str = "CWASM_CACHE_DIR";
/// The variable that names a directory to read from, below the other.
const SHARED: &str = "CWASM_CACHE_SHARED";

/// The variable that names a store to ask when an artifact is in no directory.
const REMOTE: &str = "CWASM_CACHE_REMOTE";
/// The variable that names files with public keys, separated like a path's directories: what comes from the store must be signed by one of them.
const REMOTE_KEY: &str = "CWASM_CACHE_REMOTE_KEY";
/// The variable that names a file with a secret key, to put what is compiled here into the store.
const REMOTE_SIGN: &str = "CWASM_CACHE_REMOTE_SIGN";
/// How long a store may hold up a program.
const REMOTE_DEADLINE: Duration = Duration::from_secs(20);

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
    if let Some((level, keys)) = remote() {
        options = options.level(Arc::new(level), keys);
    }
    options.open(directory()?)
}

/// The store behind the directory, if the user named one. One that cannot be used is told, and is none.
fn remote() -> Option<(Told, Vec<PublicKey>)> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let reference = variable(REMOTE)?;
    let open = || -> anyhow::Result<_> {
        let reference: Reference = reference.to_string_lossy().parse()?;
        let keys = variable(REMOTE_KEY).with_context(|| {
            format!("{REMOTE_KEY} must name the public keys that artifacts from it are signed by")
        })?;
        let keys = keys::public(&std::env::split_paths(&keys).collect::<Vec<_>>())?;
        let access = match variable(REMOTE_SIGN) {
            None => Access::ReadOnly,
            Some(path) => {
                let secret = keys::secret(Path::new(&path))?;
                let id = keys::public_of(&secret)?.id();
                Access::ReadWrite(Arc::new(move |message| {
                    Signature::new(id, secret.sign(message).to_bytes())
                }))
            }
        };
        let options = cwasm_remote::Options::default()
            .attempts(3)
            .timeout(REMOTE_DEADLINE / 4)
            .deadline(REMOTE_DEADLINE);
        Ok((Told(RemoteLevel::new(&reference, options, access)), keys))
    };
    open().map_err(|error| warn(format_args!("{REMOTE} is not used: {error:#}"))).ok()
}

/// Says on stderr what the program does not stop for.
fn warn(what: impl std::fmt::Display) {
    // If stderr is closed, nobody wants to know.
    let _ = writeln!(std::io::stderr(), "cwasm: warning: {what}");
}

/// A level that tells the user what is wrong with it.
#[derive(Debug)]
struct Told(RemoteLevel);

impl Level for Told {
    fn get(&self, key: &Key) -> Result<Option<Vec<u8>>, LevelError> {
        self.0.get(key).inspect_err(|error| tell(error.as_ref()))
    }

    fn put(&self, key: &Key, artifact: &[u8]) -> Result<bool, LevelError> {
        self.0.put(key, artifact).inspect_err(|error| tell(error.as_ref()))
    }

    fn refused(&self, key: &Key, why: &str) {
        self.0.refused(key, why);
        warn(format_args!("what {REMOTE} has is not used: {why}"));
    }
}

fn tell(error: &(dyn std::error::Error + Send + Sync + 'static)) {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    warn(format_args!("going on without {REMOTE}: {text}"));
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
