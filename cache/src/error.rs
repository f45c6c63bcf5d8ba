//! Why the cache has no artifact to give. That it cannot keep one is no error:
//! see [`crate::Statistics::unwritten`].

use std::path::PathBuf;

use cwasm_loader::{CacheDirError, LoadError};

use crate::key::Key;

/// Why the cache has no artifact to give.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Neither `XDG_CACHE_HOME` nor `HOME` says where this user's caches are.
    #[error(
        "there is no directory for caches: neither XDG_CACHE_HOME nor HOME is set to an absolute path"
    )]
    NoDirectory,
    /// Somebody else could put code into the directory, or it cannot be examined.
    #[error("the cache directory cannot be used: {0}")]
    Directory(#[from] CacheDirError),
    /// The directory cannot be made or read.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The artifact is not there, and this cache must not compile.
    #[error(
        "the cache has no artifact {key} for this module with these settings and cwasm {}, and must not compile one",
        crate::key::COMPILER
    )]
    Miss {
        /// The name that the artifact would have.
        key: Key,
    },
    /// The settings are for another machine, whose code cannot be loaded here.
    #[error(
        "a cache gives artifacts for this machine, which is {host}, and not for {target}: use `cwasm compile` for those"
    )]
    OtherTarget {
        /// What was asked for.
        target: String,
        /// What this machine is.
        host: String,
    },
    /// The module cannot be compiled.
    #[cfg(feature = "compiler")]
    #[error(transparent)]
    Compile(#[from] cwasm_compiler::CompileError),
    /// The artifact is there, or was compiled, and cannot be loaded on this machine.
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl Error {
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
