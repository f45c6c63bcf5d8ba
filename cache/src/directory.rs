//! Where the cache is. That nobody else can put code there is for [`CacheDir`] to say.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use cwasm_loader::CacheDir;

use crate::error::Error;

/// `$XDG_CACHE_HOME/cwasm`, or `~/.cache/cwasm`.
pub(crate) fn default_dir() -> Result<PathBuf, Error> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    variable("XDG_CACHE_HOME")
        .or_else(|| Some(variable("HOME")?.join(".cache")))
        .map(|caches| caches.join("cwasm"))
        .ok_or(Error::NoDirectory)
}

/// Makes the directory if it is not there, for this user only, and examines it.
pub(crate) fn create(path: &Path) -> Result<CacheDir, Error> {
    // One that is there may be one that this user cannot make.
    if !path.is_dir() {
        private(path).map_err(Error::io("make the cache directory", path))?;
    }
    open(path)
}

/// Examines a directory.
pub(crate) fn open(path: &Path) -> Result<CacheDir, Error> {
    let absolute = std::path::absolute(path).map_err(Error::io("find", path))?;
    Ok(CacheDir::open(absolute)?)
}

/// Makes a directory and what is missing above it, for this user only.
pub(crate) fn private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}
