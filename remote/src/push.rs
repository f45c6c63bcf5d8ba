//! Putting artifacts into a store. What points to something is written after it, so that nobody finds half of it,
//! and the tag last of all.

use std::time::Duration;

use cwasm_artifact::check::check;
use cwasm_artifact::choice::Needs;
use cwasm_artifact::module::Module;

use crate::document::{self, BlobDigest, Descriptor, EMPTY, Index, Sealed};
use crate::error::{Error, Failure};
use crate::retry::{pause, retry, within};
use crate::{Progress, Remote, Silent, Version};

/// A slower network than this, in bytes per second, counts as one that does not answer.
const SLOWEST: u64 = 64 << 10;

/// What a push came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The digest of the index that the tag means now.
    pub index: BlobDigest,
    /// For what there are artifacts under the tag now.
    pub there: Vec<Needs>,
}

struct Item<'a> {
    bytes: &'a [u8],
    layer: Descriptor,
    manifest: Sealed,
}

impl Remote {
    /// Puts artifacts under the tag of the reference, with their signatures.
    ///
    /// An artifact replaces the one for the same target, CPU and ABI, and stands beside the others. What is
    /// not intact is not pushed.
    ///
    /// # Errors
    /// [`Error`] says what is wrong, and whose turn it is. The tag means what it meant, then.
    pub fn push(&self, artifacts: &[&[u8]]) -> Result<Pushed, Error> {
        self.push_with_progress(artifacts, &Silent)
    }

    /// Does what [`Remote::push`] does, and says how far it is.
    ///
    /// # Errors
    /// As for [`Remote::push`].
    pub fn push_with_progress(
        &self,
        artifacts: &[&[u8]],
        progress: &dyn Progress,
    ) -> Result<Pushed, Error> {
        let what = self.reference.to_string();
        let Version::Tag(tag) = &self.reference.version else { return Err(Error::Fixed { what }) };
        let items = prepare(&what, artifacts)?;
        self.run(async || {
            progress.start(items.iter().map(|item| item.layer.size).sum());
            for item in &items {
                self.put_blob(&what, item.layer.digest, item.bytes).await?;
                progress.advance(item.layer.size);
            }
            self.put_blob(&what, BlobDigest::of(EMPTY), EMPTY).await?;
            for item in &items {
                let attempt = async || self.backend.put_manifest(&item.manifest).await;
                let looked = self.backend.looked();
                retry(&self.options, self.options.timeout, &what, looked, attempt).await?;
            }
            self.put_index(&what, tag, &items).await
        })
    }

    async fn put_blob(&self, what: &str, digest: BlobDigest, bytes: &[u8]) -> Result<(), Error> {
        let limit = self.options.timeout + Duration::from_secs(bytes.len() as u64 / SLOWEST);
        let attempt = async || {
            if self.backend.has_blob(digest).await? {
                return Ok(());
            }
            self.backend.put_blob(digest, bytes).await
        };
        retry(&self.options, limit, what, self.backend.looked(), attempt).await
    }

    /// Adds to what the tag means, and again if somebody else did that meanwhile.
    async fn put_index(&self, what: &str, tag: &str, items: &[Item<'_>]) -> Result<Pushed, Error> {
        let mut failed = 0;
        // Others make progress when this one does not: more attempts than for a network.
        let attempts = self.options.attempts.saturating_mul(8);
        loop {
            let (index, seen) = self.read_index(what).await?;
            let mut index = index.unwrap_or_else(Index::new);
            for item in items {
                index.insert(item.manifest.descriptor.clone());
            }
            let sealed = index
                .seal()
                .map_err(|source| Error::Store { what: what.to_owned(), source: source.into() })?;
            let put = self.backend.put_index(tag, &sealed, seen);
            match within(self.options.timeout, put).await {
                Ok(()) if self.has_all(what, items).await? => {
                    let there = index.entries().map(|entry| entry.needs).collect();
                    return Ok(Pushed { index: sealed.descriptor.digest, there });
                }
                Ok(()) | Err(Failure::Conflict | Failure::Transient(_))
                    if failed + 1 < attempts =>
                {
                    failed += 1;
                    pause(&self.options, (failed / 4).max(1)).await;
                }
                Ok(()) => return Err(Error::Changed { what: what.to_owned(), attempts }),
                Err(failure) => {
                    let looked = self.backend.looked();
                    return Err(crate::retry::conclude(what, looked, failed + 1, failure));
                }
            }
        }
    }

    /// Whether the tag means what was just written, or more. A store that compares need not be asked.
    async fn has_all(&self, what: &str, items: &[Item<'_>]) -> Result<bool, Error> {
        if self.backend.compares() {
            return Ok(true);
        }
        let (index, _) = self.read_index(what).await?;
        let manifests = index.map(|index| index.manifests).unwrap_or_default();
        Ok(items.iter().all(|item| {
            manifests.iter().any(|there| there.digest == item.manifest.descriptor.digest)
        }))
    }
}

/// Checks artifacts, and writes their manifests.
fn prepare<'a>(what: &str, artifacts: &[&'a [u8]]) -> Result<Vec<Item<'a>>, Error> {
    let mut items: Vec<Item<'a>> = Vec::new();
    let mut needs: Vec<Needs> = Vec::new();
    for bytes in artifacts {
        let refused = |source| Error::Refused { what: what.to_owned(), source };
        // For another machine, perhaps; but intact.
        let checked = check(bytes, None).map_err(refused)?;
        Module::new(&checked).map_err(refused)?;
        if let Some(needed) = Needs::stated_in(bytes) {
            if needs.contains(&needed) {
                return Err(Error::Twice { needs: needed.to_string() });
            }
            needs.push(needed);
        }
        let (manifest, layer) = document::manifest(&checked)
            .map_err(|source| Error::Store { what: what.to_owned(), source: source.into() })?;
        items.push(Item { bytes, layer, manifest });
    }
    Ok(items)
}
