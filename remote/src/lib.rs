//! Artifacts in stores that exist already: OCI registries, object stores, web servers, directories.
//!
//! ```no_run
//! use cwasm_artifact::check::{Host, Origin};
//! use cwasm_remote::{Options, Reference, Remote};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let key: cwasm_artifact::signature::PublicKey = "".parse()?;
//! let reference: Reference = "oci://registry.example/app:1.2".parse()?;
//! let remote = Remote::open(&reference, Options::default())?;
//! let pulled = remote.pull(&Host::this(), Origin::Keys(&[key]))?;
//! # Ok(()) }
//! ```
//!
//! A name and a tag lead to an *image index* with an entry for every target and CPU; each entry leads to a manifest with
//! one layer, which is the artifact. Both kinds of stores have the same documents:
//! `docs/shipping.md` describes them. What is pulled is checked twice before anybody gets it: are the
//! bytes those that the index asked for, and is there the reason to trust them that the caller named.
//!
//! Functions here block. They may be called anywhere, also inside of an asynchronous runtime,
//! whose thread they then hold up.
//!
//! In the order in which data flows: `reference` says where, `document` what is kept there,
//! `objects` and `registry` are the two kinds of stores behind `backend`, `credentials` and `retry` what they need,
//! `download` brings a blob, `push` and `pull` do the work, and `level` puts a
//! store behind the local cache.
#![forbid(unsafe_code)]

mod backend;
mod credentials;
mod document;
mod download;
mod error;
mod level;
mod objects;
mod pull;
mod push;
mod reference;
mod registry;
mod retry;

pub use document::{ARTIFACT_TYPE, BlobDigest, Entry};
pub use error::{Cause, Error};
pub use level::{Access, RemoteLevel, Signer};
pub use pull::Pulled;
pub use push::Pushed;
pub use reference::{Reference, ReferenceError, Version};

use std::time::Duration;

use backend::Backend;

/// How a store is used.
#[derive(Clone, Debug)]
pub struct Options {
    attempts: u32,
    backoff: Duration,
    timeout: Duration,
    deadline: Option<Duration>,
    max_bytes: u64,
}

impl Default for Options {
    /// Five attempts, the first repetition after about 200 ms; 30 seconds of silence end an
    /// attempt; no deadline for the whole; artifacts of at most 1 GiB.
    fn default() -> Self {
        Self {
            attempts: 5,
            backoff: Duration::from_millis(200),
            timeout: Duration::from_secs(30),
            deadline: None,
            max_bytes: 1 << 30,
        }
    }
}

impl Options {
    /// How often to try what may succeed later, at least once. A download that made progress since the last
    /// attempt starts to count again.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// How long to wait before the second attempt. It doubles from attempt to attempt, up to ten seconds;
    /// each time, chance takes away up to half of it.
    #[must_use]
    pub fn backoff(mut self, backoff: Duration) -> Self {
        self.backoff = backoff;
        self
    }

    /// How long to wait for an answer, or for more of one.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long one call may take, with everything that it repeats.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Larger artifacts are refused before they are read. Also bounds the memory that a pull takes.
    #[must_use]
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }
}

/// Is told how far a transfer is.
pub trait Progress: Sync {
    /// There are so many bytes to move.
    fn start(&self, total: u64);
    /// So many more were moved.
    fn advance(&self, bytes: u64);
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _: u64) {}
    fn advance(&self, _: u64) {}
}

/// A name and a version in a store.
#[derive(Debug)]
pub struct Remote {
    reference: Reference,
    options: Options,
    backend: Backend,
    /// There until it is dropped.
    runtime: Option<tokio::runtime::Runtime>,
}

impl Remote {
    /// Prepares for a store. Nothing is asked of it yet; credentials are looked for.
    ///
    /// # Errors
    /// [`Error::Setup`] if what the environment says about the store cannot be used.
    pub fn open(reference: &Reference, options: Options) -> Result<Self, Error> {
        // If the application has chosen another provider, that one is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| Error::setup(reference, source))?;
        let backend = block_on(&runtime, async || Backend::open(reference, &options))?;
        Ok(Self { reference: reference.clone(), options, backend, runtime: Some(runtime) })
    }

    /// What it was opened for.
    #[must_use]
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// Runs something to its end, or to the deadline.
    fn run<T: Send>(
        &self,
        work: impl AsyncFnOnce() -> Result<T, Error> + Send,
    ) -> Result<T, Error> {
        let limit = self.options.deadline;
        let runtime =
            self.runtime.as_ref().ok_or_else(|| Error::setup(&self.reference, "it was closed"))?;
        block_on(runtime, async || match limit {
            None => work().await,
            Some(limit) => tokio::time::timeout(limit, work()).await.unwrap_or_else(|_| {
                Err(Error::Timeout { what: self.reference.to_string(), limit })
            }),
        })
    }
}

/// Waits for something. Inside of a runtime, a thread of its own does, since runtimes do not nest.
fn block_on<T: Send>(runtime: &tokio::runtime::Runtime, work: impl AsyncFnOnce() -> T + Send) -> T {
    if tokio::runtime::Handle::try_current().is_err() {
        return runtime.block_on(work());
    }
    std::thread::scope(|scope| match scope.spawn(|| runtime.block_on(work())).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

impl Drop for Remote {
    fn drop(&mut self) {
        // Dropped inside of another runtime, it would panic.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
