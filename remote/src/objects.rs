//! Object stores, web servers and directories. Each name is an OCI image layout:
//!
//! ```text
//! NAME/oci-layout            {"imageLayoutVersion":"1.0.0"}
//!      index.json            an entry for each tag, which points to an image index
//!      blobs/sha256/HEX      image indexes, manifests and artifacts, each under its SHA-256
//! ```
//!
//! Blobs are never changed. `index.json` is, last of all, and only if it is still what was read: object stores compare for us;
//! for directories a lock is held meanwhile. A WebDAV server can do neither.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    ClientOptions, GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions,
    PutPayload, RetryConfig, UpdateVersion,
};

use crate::backend::{self, Bytes};
use crate::document::{BlobDigest, Descriptor, Index, MAX_DOCUMENT, Sealed};
use crate::error::{Cause, Error, Failure, chain};
use crate::reference::{Reference, Scheme};
use crate::{Options, Version};

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// A name in an object store.
#[derive(Debug)]
pub(crate) struct Objects {
    store: Arc<dyn ObjectStore>,
    base: Path,
    compare: Compare,
    looked: &'static str,
}

/// How `index.json` is replaced only if it is still what was read.
#[derive(Debug)]
enum Compare {
    /// The store does it.
    Store,
    /// By a lock in this directory.
    Lock(PathBuf),
    /// Not at all.
    Never,
}

/// `index.json` as it was read.
#[derive(Debug)]
pub(crate) struct Seen {
    index: Option<(Index, UpdateVersion)>,
}

impl Objects {
    pub(crate) fn open(reference: &Reference, options: &Options) -> Result<Self, Error> {
        Self::connect(reference, options).map_err(|error| Error::setup(reference, error))
    }

    fn connect(reference: &Reference, options: &Options) -> Result<Self, Cause> {
        // Trying again is done one level above, for every kind of store alike.
        let once =
            RetryConfig { max_retries: 0, retry_timeout: Duration::ZERO, ..RetryConfig::default() };
        let client = ClientOptions::default()
            .with_timeout_disabled()
            .with_connect_timeout(options.timeout)
            .with_allow_http(true);
        let url = format!("{}://{}", reference.scheme.name(), reference.host);
        let base = Path::parse(&reference.name).map_err(|error| chain(&error))?;
        let said = |error: object_store::Error| chain(&error);
        // Their builders have no trait in common.
        macro_rules! connected {
            ($builder:expr) => {{
                let builder = $builder.with_url(url).with_retry(once).with_client_options(client);
                Arc::new(builder.build().map_err(said)?)
            }};
        }
        let (store, compare, looked): (Arc<dyn ObjectStore>, _, _) = match reference.scheme {
            Scheme::S3 => (
                connected!(AmazonS3Builder::from_env()),
                Compare::Store,
                "credentials were looked for in the variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and at the services that AWS gives its machines",
            ),
            Scheme::Gs => (
                connected!(GoogleCloudStorageBuilder::from_env()),
                Compare::Store,
                "credentials were looked for in the variables GOOGLE_SERVICE_ACCOUNT and GOOGLE_APPLICATION_CREDENTIALS, and in what `gcloud auth` keeps",
            ),
            Scheme::Az => (
                connected!(MicrosoftAzureBuilder::from_env()),
                Compare::Store,
                "credentials were looked for in the variables AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY and the others that begin so",
            ),
            Scheme::Http | Scheme::Https => (
                connected!(HttpBuilder::new()),
                Compare::Never,
                "credentials are not sent to web servers",
            ),
            Scheme::File | Scheme::Oci => (
                Arc::new(LocalFileSystem::new().with_fsync(true)),
                Compare::Lock(PathBuf::from(format!("/{}", reference.name))),
                "this user may not use the directory",
            ),
        };
        Ok(Self { store, base, compare, looked })
    }

    pub(crate) fn looked(&self) -> &str {
        self.looked
    }

    pub(crate) fn compares(&self) -> bool {
        !matches!(self.compare, Compare::Never)
    }

    fn index_path(&self) -> Path {
        self.base.clone().join("index.json")
    }

    fn blob_path(&self, digest: BlobDigest) -> Path {
        self.base.clone().join("blobs").join("sha256").join(digest.hex())
    }

    /// What a version means; nothing if a tag means nothing.
    pub(crate) async fn index(
        &self,
        version: &Version,
    ) -> Result<(Option<Vec<u8>>, backend::Seen), Failure> {
        let seen = |index| backend::Seen::Objects(Seen { index });
        let tag = match version {
            Version::Digest(digest) => {
                return Ok((Some(self.document(*digest).await?), seen(None)));
            }
            Version::Tag(tag) => tag,
        };
        let (index, update) = match self.read(&self.index_path()).await {
            Ok(found) => found,
            Err(Failure::NotFound) => return Ok((None, seen(None))),
            Err(failure) => return Err(failure),
        };
        let index: Index = serde_json::from_slice(&index)
            .map_err(|error| Failure::permanent(format_args!("its index.json is none: {error}")))?;
        let bytes = match index.tagged(tag) {
            Some(descriptor) => Some(self.document(descriptor.digest).await?),
            None => None,
        };
        Ok((bytes, seen(Some((index, update)))))
    }

    /// A document that is named by its digest.
    pub(crate) async fn document(&self, digest: BlobDigest) -> Result<Vec<u8>, Failure> {
        let (bytes, _) = self.read(&self.blob_path(digest)).await?;
        let found = BlobDigest::of(&bytes);
        if found == digest { Ok(bytes) } else { Err(Failure::Wrong { wanted: digest, found }) }
    }

    /// Reads something small.
    async fn read(&self, path: &Path) -> Result<(Vec<u8>, UpdateVersion), Failure> {
        let result = self.store.get(path).await.map_err(failure)?;
        if result.meta.size > MAX_DOCUMENT {
            return Err(Failure::TooLarge(result.meta.size));
        }
        let update = UpdateVersion {
            e_tag: result.meta.e_tag.clone(),
            version: result.meta.version.clone(),
        };
        let mut bytes = Vec::new();
        let mut stream = result.into_stream();
        while let Some(part) = stream.next().await {
            bytes.extend_from_slice(&part.map_err(failure)?);
            if bytes.len() as u64 > MAX_DOCUMENT {
                return Err(Failure::TooLarge(bytes.len() as u64));
            }
        }
        Ok((bytes, update))
    }

    pub(crate) async fn blob(
        &self,
        descriptor: &Descriptor,
        offset: u64,
    ) -> Result<(u64, Bytes), Failure> {
        let range = (offset > 0).then_some(GetRange::Offset(offset));
        let options = GetOptions { range, ..GetOptions::default() };
        let path = self.blob_path(descriptor.digest);
        let result = self.store.get_opts(&path, options).await.map_err(failure)?;
        let start = result.range.start;
        let stream = result.into_stream().map_ok(|bytes| bytes.to_vec());
        Ok((start, stream.map_err(|error| chain(&error)).boxed()))
    }

    pub(crate) async fn has_blob(&self, digest: BlobDigest) -> Result<bool, Failure> {
        match self.store.head(&self.blob_path(digest)).await.map_err(failure) {
            Ok(_) => Ok(true),
            Err(Failure::NotFound) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    pub(crate) async fn put_blob(&self, digest: BlobDigest, bytes: &[u8]) -> Result<(), Failure> {
        let payload = PutPayload::from(bytes.to_vec());
        self.store.put(&self.blob_path(digest), payload).await.map_err(failure)?;
        Ok(())
    }

    /// Points a tag to an index.
    pub(crate) async fn put_index(
        &self,
        tag: &str,
        index: &Sealed,
        seen: Seen,
    ) -> Result<(), Failure> {
        self.put_blob(index.descriptor.digest, &index.bytes).await?;
        let layout = self.base.clone().join("oci-layout");
        self.store.put(&layout, PutPayload::from_static(LAYOUT)).await.map_err(failure)?;
        let _lock = match &self.compare {
            Compare::Lock(directory) => Some(self.lock(directory).await?),
            _ => None,
        };
        let (mut tags, before) = match seen.index {
            Some((tags, before)) => (tags, Some(before)),
            None => (Index::new(), None),
        };
        if matches!(self.compare, Compare::Lock(_)) {
            self.unchanged(before.as_ref()).await?;
        }
        tags.set_tag(tag, index.descriptor.clone());
        let bytes = serde_json::to_vec(&tags).map_err(Failure::permanent)?;
        let mode = match (&self.compare, before) {
            (Compare::Store, Some(before)) => PutMode::Update(before),
            (Compare::Store, None) => PutMode::Create,
            _ => PutMode::Overwrite,
        };
        let options = PutOptions { mode, ..PutOptions::default() };
        self.store.put_opts(&self.index_path(), bytes.into(), options).await.map_err(failure)?;
        Ok(())
    }

    /// Is `index.json` still what was read? Asked under the lock.
    async fn unchanged(&self, before: Option<&UpdateVersion>) -> Result<(), Failure> {
        let now = match self.store.head(&self.index_path()).await.map_err(failure) {
            Ok(meta) => Some(meta.e_tag),
            Err(Failure::NotFound) => None,
            Err(failure) => return Err(failure),
        };
        if now == before.map(|before| before.e_tag.clone()) {
            Ok(())
        } else {
            Err(Failure::Conflict)
        }
    }

    /// Waits for the lock of a directory; the time that an attempt has limits that. It ends with its holder.
    async fn lock(&self, directory: &std::path::Path) -> Result<File, Failure> {
        let path = directory.join(".lock");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        let file = options.open(&path).map_err(Failure::permanent)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(TryLockError::Error(error)) => return Err(Failure::permanent(error)),
            }
        }
    }
}

/// What an error of the library means.
fn failure(error: object_store::Error) -> Failure {
    use object_store::Error as E;
    match &error {
        E::NotFound { .. } => Failure::NotFound,
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => Failure::Unauthorized,
        E::AlreadyExists { .. } | E::Precondition { .. } | E::NotModified { .. } => {
            Failure::Conflict
        }
        E::Generic { source, .. } if of_system(source.as_ref()).is_some() => {
            match of_system(source.as_ref()) {
                Some(std::io::ErrorKind::PermissionDenied) => Failure::Unauthorized,
                _ => Failure::permanent(chain(&error)),
            }
        }
        // It ignores ranges: the next attempt does without.
        E::NotSupported { .. } | E::Generic { .. } | E::JoinError { .. } => {
            Failure::transient(chain(&error))
        }
        _ => Failure::permanent(chain(&error)),
    }
}

/// What the system said, if it is about a file: no connection is made better by asking again for one.
fn of_system(error: &(dyn std::error::Error + 'static)) -> Option<std::io::ErrorKind> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            use std::io::ErrorKind as K;
            let kind = error.kind();
            let of_file = matches!(
                kind,
                K::PermissionDenied
                    | K::NotADirectory
                    | K::IsADirectory
                    | K::StorageFull
                    | K::ReadOnlyFilesystem
                    | K::QuotaExceeded
            );
            return of_file.then_some(kind);
        }
        next = error.source();
    }
    None
}
