//! A store behind the local cache, so that a fleet compiles once.
//!
//! Whoever can write to the store must not be able to make others run what they like: what comes from
//! it is checked by the cache against public keys, and what goes into it is signed. The store itself is not trusted.

use std::sync::Arc;

use cwasm_artifact::check::{Host, Origin};
use cwasm_artifact::signature::{Signature, Signatures, message};
use cwasm_cache::{Key, Level, LevelError};

use crate::{Error, Options, Reference, Remote};

/// Signs for who has the secret key: gets the message, gives the signature.
pub type Signer = Arc<dyn Fn(&[u8]) -> Signature + Send + Sync>;

/// Whether a level is written to.
#[derive(Clone)]
pub enum Access {
    /// Never.
    ReadOnly,
    /// What is compiled here is signed and put there.
    ReadWrite(Signer),
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ReadOnly => "ReadOnly",
            Self::ReadWrite(_) => "ReadWrite",
        })
    }
}

/// A store as a level behind a cache: give it to `cwasm_cache::Options::level`.
///
/// Each entry has a name of its own below the reference, or in a registry a tag.
#[derive(Debug)]
pub struct RemoteLevel {
    base: Reference,
    options: Options,
    access: Access,
}

impl RemoteLevel {
    /// The level that keeps its entries below a reference. Give options a deadline: for that long, a
    /// store that does not answer holds up a program that could have been compiled meanwhile.
    #[must_use]
    pub fn new(base: &Reference, options: Options, access: Access) -> Self {
        Self { base: base.clone(), options, access }
    }

    fn entry(&self, key: &Key) -> Result<Remote, Error> {
        Remote::open(&self.base.below(&key.to_string()), self.options.clone())
    }
}

impl Level for RemoteLevel {
    fn get(&self, key: &Key) -> Result<Option<Vec<u8>>, LevelError> {
        // The cache looks for the reason to trust it.
        match self.entry(key)?.pull(&Host::this(), Origin::Any) {
            Ok(pulled) => Ok(Some(pulled.bytes)),
            Err(Error::NotFound { .. } | Error::NothingForHost { .. }) => Ok(None),
            Err(error) => {
                tracing::warn!(store = %self.base, %key, error = %crate::error::chain(&error), "a cache behind the local one failed");
                Err(error.into())
            }
        }
    }

    fn put(&self, key: &Key, artifact: &[u8]) -> Result<bool, LevelError> {
        let Access::ReadWrite(signer) = &self.access else { return Ok(false) };
        let put = || -> Result<(), LevelError> {
            let mut signed = artifact.to_vec();
            let mut signatures = Signatures::of(&signed)?;
            let message = message(&signed).ok_or("what was compiled is no artifact")?;
            signatures.insert(signer(&message))?;
            signatures.write(&mut signed)?;
            self.entry(key)?.push(&[&signed])?;
            Ok(())
        };
        match put() {
            Ok(()) => Ok(true),
            Err(error) => {
                tracing::warn!(store = %self.base, %key, error = %crate::error::chain(error.as_ref()), "a cache behind the local one cannot be written to");
                Err(error)
            }
        }
    }

    fn refused(&self, key: &Key, why: &str) {
        tracing::warn!(store = %self.base, %key, why, "a cache behind the local one gave what is not trusted");
    }
}
