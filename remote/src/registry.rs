//! OCI registries.
//!
//! Manifests are put by tag or digest. A registry has no way to put one only if nobody else did meanwhile: two pushes to one
//! tag at the same moment may lose one of the two, which `push` looks for afterwards.
//!
//! Registries on this machine are spoken to without TLS, like other tools do it; all others with.

use std::net::IpAddr;

use futures_util::{StreamExt as _, TryStreamExt as _};
use oci_client::client::{BlobResponse, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::{Client, Reference as OciReference, RegistryOperation};

use crate::backend::Bytes;
use crate::credentials::{self, Credentials};
use crate::document::{BlobDigest, Descriptor, INDEX_TYPE, MANIFEST_TYPE, MAX_DOCUMENT, Sealed};
use crate::error::{Error, Failure, chain};
use crate::reference::Reference;
use crate::{Options, Version};

/// A repository of a registry.
pub(crate) struct Registry {
    client: Client,
    host: String,
    name: String,
    credentials: Credentials,
    /// What the registry was asked for a token for.
    authorized: tokio::sync::Mutex<Vec<RegistryOperation>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registry({}/{})", self.host, self.name)
    }
}

impl Registry {
    pub(crate) fn open(reference: &Reference, options: &Options) -> Result<Self, Error> {
        let protocol = if is_this_machine(&reference.host) {
            ClientProtocol::Http
        } else {
            ClientProtocol::Https
        };
        let config = ClientConfig {
            protocol,
            read_timeout: Some(options.timeout),
            connect_timeout: Some(options.timeout),
            user_agent: concat!("cwasm/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let client =
            Client::try_from(config).map_err(|error| Error::setup(reference, chain(&error)))?;
        Ok(Self {
            client,
            host: reference.host.clone(),
            name: reference.name.clone(),
            credentials: credentials::find(&reference.host),
            authorized: tokio::sync::Mutex::default(),
        })
    }

    pub(crate) fn looked(&self) -> &str {
        &self.credentials.looked
    }

    /// What is under a tag, or under a digest, which is written in the same place of an address.
    fn place(&self, tag: &str) -> OciReference {
        OciReference::with_tag(self.host.clone(), self.name.clone(), tag.to_owned())
    }

    /// Gets a token for what is about to be done, if the registry hands out some.
    async fn authorize(&self, operation: RegistryOperation) -> Result<(), Failure> {
        let mut authorized = self.authorized.lock().await;
        if !authorized.contains(&operation) {
            let place = self.place("latest");
            self.client.auth(&place, &self.credentials.auth, operation).await.map_err(failure)?;
            authorized.push(operation);
        }
        Ok(())
    }

    /// What a version means; nothing if a tag means nothing.
    pub(crate) async fn index(&self, version: &Version) -> Result<Option<Vec<u8>>, Failure> {
        let name = match version {
            Version::Tag(tag) => tag.clone(),
            Version::Digest(digest) => digest.to_string(),
        };
        match self.document(&name).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Failure::NotFound) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    pub(crate) async fn document(&self, name: &str) -> Result<Vec<u8>, Failure> {
        self.authorize(RegistryOperation::Pull).await?;
        let (bytes, _) = self
            .client
            .pull_manifest_raw(
                &self.place(name),
                &self.credentials.auth,
                &[INDEX_TYPE, MANIFEST_TYPE],
            )
            .await
            .map_err(failure)?;
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(Failure::TooLarge(bytes.len() as u64));
        }
        Ok(bytes.to_vec())
    }

    pub(crate) async fn blob(
        &self,
        descriptor: &Descriptor,
        offset: u64,
    ) -> Result<(u64, Bytes), Failure> {
        self.authorize(RegistryOperation::Pull).await?;
        let digest = descriptor.digest.to_string();
        let place = self.place("latest");
        let (start, stream) = if offset == 0 {
            (0, self.client.pull_blob_stream(&place, digest.as_str()).await.map_err(failure)?)
        } else {
            let response =
                self.client.pull_blob_stream_partial(&place, digest.as_str(), offset, None).await;
            match response.map_err(failure)? {
                BlobResponse::Partial(stream) => (offset, stream),
                BlobResponse::Full(stream) => (0, stream),
            }
        };
        let stream = stream.stream.map_ok(|bytes| bytes.to_vec()).map_err(|error| chain(&error));
        Ok((start, stream.boxed()))
    }

    pub(crate) async fn has_blob(&self, digest: BlobDigest) -> Result<bool, Failure> {
        self.authorize(RegistryOperation::Pull).await?;
        let place = self.place("latest");
        self.client.blob_exists(&place, &digest.to_string()).await.map_err(failure)
    }

    pub(crate) async fn put_blob(&self, digest: BlobDigest, bytes: &[u8]) -> Result<(), Failure> {
        self.authorize(RegistryOperation::Push).await?;
        let (place, digest) = (self.place("latest"), digest.to_string());
        self.client.push_blob(&place, bytes.to_vec(), &digest).await.map_err(failure)?;
        Ok(())
    }

    pub(crate) async fn put_document(&self, name: &str, document: &Sealed) -> Result<(), Failure> {
        self.authorize(RegistryOperation::Push).await?;
        let media_type = document.descriptor.media_type.parse().map_err(Failure::permanent)?;
        let place = self.place(name);
        self.client
            .push_manifest_raw(&place, document.bytes.clone(), media_type)
            .await
            .map_err(failure)?;
        Ok(())
    }
}

/// Whether a host, with or without a port, is this machine.
fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// What an error of the library means. Its text is used where it is no answer of a server.
fn failure(error: OciDistributionError) -> Failure {
    use OciDistributionError as E;
    match error {
        E::UnauthorizedError { .. } | E::AuthenticationFailure(_) => Failure::Unauthorized,
        E::ImageManifestNotFoundError(_) => Failure::NotFound,
        E::ServerError { code, .. } => of_status(code),
        E::RegistryError { envelope, .. } => {
            let code = |wanted: &[OciErrorCode]| {
                envelope.errors.iter().any(|error| wanted.contains(&error.code))
            };
            if code(&[OciErrorCode::Unauthorized, OciErrorCode::Denied]) {
                Failure::Unauthorized
            } else if code(&[
                OciErrorCode::ManifestUnknown,
                OciErrorCode::NameUnknown,
                OciErrorCode::BlobUnknown,
                OciErrorCode::NotFound,
            ]) {
                Failure::NotFound
            } else if code(&[OciErrorCode::Toomanyrequests]) {
                Failure::transient("it is asked too often")
            } else {
                Failure::permanent(envelope)
            }
        }
        E::RequestError(error) => match error.status() {
            Some(status) => of_status(status.as_u16()),
            None => Failure::transient(chain(&error.without_url())),
        },
        E::IoError(error) => Failure::transient(chain(&error)),
        error => Failure::permanent(chain(&error)),
    }
}

fn of_status(code: u16) -> Failure {
    match code {
        401 | 403 => Failure::Unauthorized,
        404 => Failure::NotFound,
        408 | 416 | 429 | 500.. => {
            Failure::transient(format_args!("it answered with status {code}"))
        }
        _ => Failure::permanent(format_args!("it answered with status {code}")),
    }
}

#[cfg(test)]
mod tests {
    use super::is_this_machine;

    #[test]
    fn only_this_machine_is_spoken_to_without_tls() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:1", "127.9.9.9", "[::1]:5000"] {
            assert!(is_this_machine(host), "{host}");
        }
        for host in ["registry.example", "localhost.example:5000", "10.0.0.1", "[::2]:5000"] {
            assert!(!is_this_machine(host), "{host}");
        }
    }
}
