//! Bringing an artifact from a store: the best one for a host, checked before anybody gets it.

use cwasm_artifact::check::{Host, Origin, check_from};
use cwasm_artifact::choice::best;
use cwasm_artifact::cpu::CpuFeatures;
use cwasm_artifact::digest::Digest;
use cwasm_artifact::module::Module;

use crate::document::{
    ARTIFACT_TYPE, BlobDigest, Descriptor, Entry, Index, MAX_DOCUMENT, Manifest,
};
use crate::error::Error;
use crate::retry::retry;
use crate::{Progress, Remote, Silent, Version, download};

/// An artifact that was checked.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its root digest.
    pub digest: Digest,
    /// What it asks of its host.
    pub needs: cwasm_artifact::choice::Needs,
}

impl Remote {
    /// Brings the artifact that is the best for a host, if it comes from where it should.
    ///
    /// The bytes are those that the store's index asks for, intact, for this host, and from `origin`. Of several that
    /// the host can load, it is the one that uses most of its CPU; with [`Origin::Digest`], the one
    /// with that digest.
    ///
    /// # Errors
    /// [`Error`] says what is wrong, and whose turn it is.
    pub fn pull(&self, host: &Host, origin: Origin<'_>) -> Result<Pulled, Error> {
        self.pull_with_progress(host, origin, &Silent)
    }

    /// Does what [`Remote::pull`] does, and says how far it is.
    ///
    /// # Errors
    /// As for [`Remote::pull`].
    pub fn pull_with_progress(
        &self,
        host: &Host,
        origin: Origin<'_>,
        progress: &dyn Progress,
    ) -> Result<Pulled, Error> {
        self.run(async || {
            let what = self.reference.to_string();
            let entries = self.read_entries().await?;
            let entry = choose(&what, &entries, host, origin)?;
            let bytes = self.bring(&what, &entry, progress).await?;
            let refused = |source| Error::Refused { what: what.clone(), source };
            let checked = check_from(&bytes, Some(host), origin).map_err(refused)?;
            Module::new(&checked).map_err(refused)?;
            let digest = checked.digest();
            Ok(Pulled { digest, needs: entry.needs, bytes })
        })
    }

    /// What the store says that it has.
    ///
    /// # Errors
    /// As for [`Remote::pull`].
    pub fn entries(&self) -> Result<Vec<Entry>, Error> {
        self.run(async || self.read_entries().await)
    }

    async fn read_entries(&self) -> Result<Vec<Entry>, Error> {
        let what = self.reference.to_string();
        let index = self.read_index(&what).await?.0.ok_or(Error::NotFound { what })?;
        Ok(index.entries().collect())
    }

    /// The index that the reference means, if there is one.
    pub(crate) async fn read_index(
        &self,
        what: &str,
    ) -> Result<(Option<Index>, crate::backend::Seen), Error> {
        let version = &self.reference.version;
        let looked = self.backend.looked();
        let attempt = async || self.backend.index(version).await;
        let (bytes, seen) =
            retry(&self.options, self.options.timeout, what, looked, attempt).await?;
        let Some(bytes) = bytes else { return Ok((None, seen)) };
        if let Version::Digest(wanted) = version {
            same(what, *wanted, &bytes)?;
        }
        let index = Index::read(&bytes).map_err(|error| malformed(what, error))?;
        Ok((Some(index), seen))
    }

    /// The bytes that an entry points to.
    async fn bring(
        &self,
        what: &str,
        entry: &Entry,
        progress: &dyn Progress,
    ) -> Result<Vec<u8>, Error> {
        let descriptor = &entry.manifest;
        if descriptor.size > MAX_DOCUMENT {
            let (what, bytes) = (what.to_owned(), descriptor.size);
            return Err(Error::TooLarge { what, bytes, limit: MAX_DOCUMENT });
        }
        let attempt = async || self.backend.manifest(descriptor.digest).await;
        let looked = self.backend.looked();
        let bytes = retry(&self.options, self.options.timeout, what, looked, attempt).await?;
        same(what, descriptor.digest, &bytes)?;
        let manifest: Manifest =
            serde_json::from_slice(&bytes).map_err(|error| malformed(what, error))?;
        let layer = manifest.layers.iter().find(|layer| is_artifact(layer));
        let layer = layer.ok_or_else(|| {
            malformed(what, format_args!("the manifest has no layer of the type {ARTIFACT_TYPE}"))
        })?;
        download::blob(&self.backend, what, layer, &self.options, progress).await
    }
}

fn is_artifact(layer: &Descriptor) -> bool {
    layer.media_type == ARTIFACT_TYPE
}

/// The best of some entries.
fn choose(what: &str, entries: &[Entry], host: &Host, origin: Origin<'_>) -> Result<Entry, Error> {
    let pinned = match origin {
        Origin::Digest(digest) => Some(digest),
        _ => None,
    };
    let candidates = entries
        .iter()
        .filter(|entry| pinned.is_none_or(|digest| entry.digest == digest))
        .map(|entry| (entry.clone(), entry.needs.clone()));
    best(host, candidates).ok_or_else(|| {
        let there = entries.iter().map(|entry| {
            let other =
                if entry.needs.abi == host.abi { "" } else { " of another version of cwasm" };
            format!("{}{other}", entry.needs)
        });
        let cpu = |features: CpuFeatures| {
            if features.is_empty() {
                "a baseline CPU".to_owned()
            } else {
                format!("a CPU with {features}")
            }
        };
        let host = format!("{} with {}", host.target, cpu(host.cpu_features));
        let wanted = match pinned {
            Some(digest) => format!("the digest {digest} on {host}"),
            None => host,
        };
        Error::NothingForHost { what: what.to_owned(), wanted, there: there.collect() }
    })
}

/// Refuses what is not what was asked for.
fn same(what: &str, wanted: BlobDigest, bytes: &[u8]) -> Result<(), Error> {
    let found = BlobDigest::of(bytes);
    if found == wanted {
        return Ok(());
    }
    let problem = format!("their digest is {found}");
    Err(Error::WrongBytes { what: what.to_owned(), wanted, problem })
}

fn malformed(what: &str, problem: impl std::fmt::Display) -> Error {
    let problem = crate::error::without_queries(&problem.to_string());
    Error::Malformed { what: what.to_owned(), problem }
}
