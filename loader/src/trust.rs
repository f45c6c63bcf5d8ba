//! Reasons to run a file's machine code.

use cwasm_artifact::digest::Digest;
use cwasm_artifact::report::Report;

/// A reason to trust an artifact.
///
/// Checking a file against the digest that it carries itself only finds
/// accidents: whoever can write the file can write the digest. A `Trust` is
/// what an application knows from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    digest: Digest,
}

impl Trust {
    /// The artifact with this root digest, and no other. `cwasm compile` and
    /// `cwasm inspect` print it; a build embeds it into the application.
    #[must_use]
    pub fn digest(digest: Digest) -> Self {
        Self { digest }
    }

    /// Whether this is a reason to trust the artifact with the digest `found`.
    pub(crate) fn check(&self, found: Digest) -> Result<(), Report> {
        if found == self.digest { Ok(()) } else { Err(Report::untrusted(found, self.digest)) }
    }
}
