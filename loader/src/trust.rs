//! Reasons to run a file's machine code.

use std::sync::Arc;

use cwasm_artifact::check::Origin;
use cwasm_artifact::digest::Digest;
use cwasm_artifact::signature::PublicKey;

use crate::cache_dir::CacheDir;
use crate::error::LoadError;
use crate::source::{Opened, Source};

/// A reason to trust an artifact.
///
/// Checking a file against the digest that it carries itself only finds
/// accidents: whoever can write the file can write the digest. A `Trust` is
/// what an application knows from elsewhere.
///
/// | reason | the artifact may come from | who can make this process run other code |
/// |---|---|---|
/// | [`Trust::digest`] | anywhere | nobody |
/// | [`Trust::keys`] | anywhere | who has one of the secret keys |
/// | [`Trust::cache`] | this user's own directory | who can act as this user, or as root |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    reason: Reason,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Reason {
    Digest(Digest),
    Keys(Arc<[PublicKey]>),
    Cache(CacheDir),
}

impl Trust {
    /// The artifact with this root digest, and no other. `cwasm compile` and
    /// `cwasm inspect` print it; a build embeds it into the application.
    ///
    /// Who signed the artifact does not matter then, nor whether the signatures are right.
    #[must_use]
    pub fn digest(digest: Digest) -> Self {
        Self { reason: Reason::Digest(digest) }
    }

    /// Any artifact that has a valid signature by at least one of these keys. Other
    /// signatures in it do not matter.
    ///
    /// Keys are replaced without a moment at which nothing loads: trust the new one beside the old one, let artifacts be
    /// signed by both, then remove the old one. An old artifact that was signed stays signed:
    /// to take one back, pin digests or replace the key.
    #[must_use]
    pub fn keys(keys: impl IntoIterator<Item = PublicKey>) -> Self {
        Self { reason: Reason::Keys(keys.into_iter().collect()) }
    }

    /// Any artifact in this directory, to which nobody but this user can write.
    ///
    /// The artifact is then named by a path in the directory, like `v1/app.cwasm`, or by the directory's absolute
    /// path followed by that. It is opened relative to the directory that was examined, through no link, and must belong to
    /// this user alone itself; open files and bytes are refused.
    #[must_use]
    pub fn cache(directory: &CacheDir) -> Self {
        Self { reason: Reason::Cache(directory.clone()) }
    }

    /// Opens a source, in the way that this reason asks for.
    pub(crate) fn open<'a>(&self, source: Source<'a>) -> Result<Opened<'a>, LoadError> {
        match &self.reason {
            Reason::Digest(_) | Reason::Keys(_) => source.open(),
            Reason::Cache(directory) => directory.open_entry(source),
        }
    }

    /// Where an artifact must come from, as far as its bytes can tell.
    pub(crate) fn origin(&self) -> Origin<'_> {
        match &self.reason {
            Reason::Digest(digest) => Origin::Digest(*digest),
            Reason::Keys(keys) => Origin::Keys(keys),
            Reason::Cache(_) => Origin::Any,
        }
    }
}
