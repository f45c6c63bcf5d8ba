//! What a push or a pull needs of a store, whichever kind it is. Each function is one attempt.

use futures_util::stream::BoxStream;

use crate::document::{BlobDigest, Descriptor, Sealed};
use crate::error::{Error, Failure};
use crate::objects::{self, Objects};
use crate::reference::{Reference, Scheme};
use crate::registry::Registry;
use crate::{Options, Version};

/// Bytes that arrive.
pub(crate) type Bytes = BoxStream<'static, Result<Vec<u8>, String>>;

/// What a tag meant when it was read, so that it is only replaced if it still means that.
#[derive(Debug)]
pub(crate) enum Seen {
    /// The store cannot compare.
    Registry,
    /// The index of a layout.
    Objects(objects::Seen),
}

/// A store.
#[derive(Debug)]
pub(crate) enum Backend {
    Objects(Objects),
    Registry(Registry),
}

impl Backend {
    pub(crate) fn open(reference: &Reference, options: &Options) -> Result<Self, Error> {
        Ok(match reference.scheme {
            Scheme::Oci => Self::Registry(Registry::open(reference, options)?),
            _ => Self::Objects(Objects::open(reference, options)?),
        })
    }

    /// Where credentials were looked for.
    pub(crate) fn looked(&self) -> &str {
        match self {
            Self::Objects(store) => store.looked(),
            Self::Registry(store) => store.looked(),
        }
    }

    /// Whether a tag is only replaced if it still means what was seen.
    pub(crate) fn compares(&self) -> bool {
        match self {
            Self::Objects(store) => store.compares(),
            Self::Registry(_) => false,
        }
    }

    /// The index or manifest that a version means, and what to replace it by.
    pub(crate) async fn index(
        &self,
        version: &Version,
    ) -> Result<(Option<Vec<u8>>, Seen), Failure> {
        match self {
            Self::Objects(store) => store.index(version).await,
            Self::Registry(store) => Ok((store.index(version).await?, Seen::Registry)),
        }
    }

    /// A document that an index points to.
    pub(crate) async fn manifest(&self, digest: BlobDigest) -> Result<Vec<u8>, Failure> {
        match self {
            Self::Objects(store) => store.document(digest).await,
            Self::Registry(store) => store.document(&digest.to_string()).await,
        }
    }

    /// A blob from an offset on, if the store can begin there; else from its beginning. Says where it begins.
    pub(crate) async fn blob(
        &self,
        descriptor: &Descriptor,
        offset: u64,
    ) -> Result<(u64, Bytes), Failure> {
        match self {
            Self::Objects(store) => store.blob(descriptor, offset).await,
            Self::Registry(store) => store.blob(descriptor, offset).await,
        }
    }

    pub(crate) async fn has_blob(&self, digest: BlobDigest) -> Result<bool, Failure> {
        match self {
            Self::Objects(store) => store.has_blob(digest).await,
            Self::Registry(store) => store.has_blob(digest).await,
        }
    }

    pub(crate) async fn put_blob(&self, digest: BlobDigest, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            Self::Objects(store) => store.put_blob(digest, bytes).await,
            Self::Registry(store) => store.put_blob(digest, bytes).await,
        }
    }

    /// Writes a manifest, whose blobs are there.
    pub(crate) async fn put_manifest(&self, manifest: &Sealed) -> Result<(), Failure> {
        match self {
            Self::Objects(store) => {
                store.put_blob(manifest.descriptor.digest, &manifest.bytes).await
            }
            Self::Registry(store) => {
                store.put_document(&manifest.descriptor.digest.to_string(), manifest).await
            }
        }
    }

    /// Makes a tag mean an index, whose manifests are there; [`Failure::Conflict`] if it does not mean any more what was seen.
    pub(crate) async fn put_index(
        &self,
        tag: &str,
        index: &Sealed,
        seen: Seen,
    ) -> Result<(), Failure> {
        match (self, seen) {
            (Self::Objects(store), Seen::Objects(seen)) => store.put_index(tag, index, seen).await,
            (Self::Objects(_), Seen::Registry) => Err(Failure::Conflict),
            (Self::Registry(store), _) => store.put_document(tag, index).await,
        }
    }
}
