//! What names something in a store: `oci://host/name:tag`, `s3://bucket/name@sha256:...`.

use std::fmt;
use std::str::FromStr;

use crate::document::BlobDigest;

/// The kind of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    /// An OCI registry.
    Oci,
    /// S3, or what speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure.
    Az,
    /// A web server, which is written to by WebDAV.
    Http,
    /// The same with TLS.
    Https,
    /// A directory.
    File,
}

impl Scheme {
    const ALL: [Self; 7] =
        [Self::Oci, Self::S3, Self::Gs, Self::Az, Self::Http, Self::Https, Self::File];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Oci => "oci",
            Self::S3 => "s3",
            Self::Gs => "gs",
            Self::Az => "az",
            Self::Http => "http",
            Self::Https => "https",
            Self::File => "file",
        }
    }
}

/// Which version of a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// What the tag means now.
    Tag(String),
    /// The index or manifest with this digest, and no other.
    Digest(BlobDigest),
}

/// What names something in a store.
///
/// `SCHEME://PLACE[:TAG]` or `SCHEME://PLACE@sha256:HEX`, with one of the schemes `oci`, `s3`, `gs`, `az`, `http`,
/// `https` and `file`. The tag is `latest` if there is none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    pub(crate) scheme: Scheme,
    /// Host, bucket or container; empty for a directory.
    pub(crate) host: String,
    /// The name in it, without a slash at either end.
    pub(crate) name: String,
    pub(crate) version: Version,
}

/// A text that is not a reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a reference to a store: {problem}")]
pub struct ReferenceError {
    /// The text, or as much of it as is no secret.
    pub text: String,
    /// What is wrong.
    pub problem: &'static str,
}

impl Reference {
    /// The version.
    #[must_use]
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// The same place with a tag.
    pub(crate) fn with_tag(&self, tag: &str) -> Self {
        Self { version: Version::Tag(tag.to_owned()), ..self.clone() }
    }

    /// The place of one of many things that are kept below this one.
    pub(crate) fn below(&self, name: &str) -> Self {
        match self.scheme {
            // A registry has tags for that.
            Scheme::Oci => self.with_tag(name),
            _ => Self {
                name: format!("{}/{name}", self.name),
                version: Version::Tag("latest".to_owned()),
                ..self.clone()
            },
        }
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let schemes =
            "it must begin with oci://, s3://, gs://, az://, http://, https:// or file://";
        let (scheme, rest) = text.split_once("://").ok_or(schemes)?;
        let scheme = Scheme::ALL.into_iter().find(|known| known.name() == scheme).ok_or(schemes)?;
        if rest.contains(['?', '#']) {
            return Err("it has a query or a fragment, which stores do not know");
        }
        if rest.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err("it has white space");
        }
        let (rest, digest) = match rest.rsplit_once('@') {
            Some((rest, digest)) if digest.starts_with("sha256:") => {
                let digest =
                    digest.parse().map_err(|_| "the digest has not 64 hexadecimal digits")?;
                (rest, Some(digest))
            }
            _ => (rest, None),
        };
        let (host, path) = match scheme {
            Scheme::File => (
                "",
                rest.strip_prefix('/')
                    .ok_or("the path of a directory is absolute: file:///path/name")?,
            ),
            _ => rest.split_once('/').ok_or("after the host or bucket, a name must follow")?,
        };
        if host.contains('@') {
            return Err("it has a user or password: credentials come from the environment");
        }
        if host.is_empty() && scheme != Scheme::File {
            return Err("the host or bucket is missing");
        }
        // A colon in the last part only: others belong to ports, and to directories.
        let last = path.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match path[last..].split_once(':') {
            Some((name, tag)) => (&path[..last + name.len()], Some(tag)),
            None => (path, None),
        };
        let name = name.trim_end_matches('/');
        if name.is_empty() || name.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err("the name is missing, or has empty parts or dots for parts");
        }
        if scheme == Scheme::Oci && !name.split('/').all(is_repository_part) {
            return Err("names in a registry are of a-z, 0-9, and single . _ - between them");
        }
        let version = match (digest, tag) {
            (Some(digest), _) => Version::Digest(digest),
            (None, None) => Version::Tag("latest".to_owned()),
            (None, Some(tag)) if is_tag(tag) => Version::Tag(tag.to_owned()),
            _ => {
                return Err(
                    "a tag has up to 128 of A-Z a-z 0-9 _ . - and does not begin with . or -",
                );
            }
        };
        Ok(Self { scheme, host: host.to_owned(), name: name.to_owned(), version })
    }
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=128).contains(&tag.len())
        && tag.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
        && word(tag.as_bytes()[0])
}

fn is_repository_part(part: &str) -> bool {
    let word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = part.as_bytes();
    bytes.first().is_some_and(word)
        && bytes.last().is_some_and(word)
        && bytes.iter().all(|byte| word(byte) || matches!(byte, b'.' | b'_' | b'-'))
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text).map_err(|problem| {
            // What is before an @ may be a password.
            let shown = match text.split_once("://") {
                Some((scheme, rest)) if rest.contains('@') && !rest.contains("@sha256:") => {
                    format!("{scheme}://...@{}", rest.rsplit('@').next().unwrap_or_default())
                }
                _ => text.split('?').next().unwrap_or_default().to_owned(),
            };
            ReferenceError { text: shown, problem }
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}/{}", self.scheme.name(), self.host, self.name)?;
        match &self.version {
            Version::Tag(tag) => write!(f, ":{tag}"),
            Version::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match text.parse::<Reference>() {
            Ok(reference) => reference.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn references_are_read_and_written() {
        let hex = "ab".repeat(32);
        for (text, wanted) in [
            ("oci://localhost:5000/app", "oci://localhost:5000/app:latest"),
            ("oci://r.example/team/app:1.2", "oci://r.example/team/app:1.2"),
            ("s3://bucket/a/b:v1", "s3://bucket/a/b:v1"),
            ("file:///srv/store/app/", "file:///srv/store/app:latest"),
            ("file:///srv/a:b/app", "file:///srv/a:b/app:latest"),
            ("https://host:8443/x", "https://host:8443/x:latest"),
        ] {
            assert_eq!(shown(text), wanted);
            assert_eq!(shown(wanted), wanted);
        }
        let digest = format!("gs://bucket/app@sha256:{hex}");
        assert_eq!(shown(&digest), digest);
        assert_eq!(shown(&format!("gs://bucket/app:1@sha256:{hex}")), digest);
    }

    #[test]
    fn what_is_no_reference_is_refused_with_the_reason() {
        for (text, problem) in [
            ("app", "it must begin with oci://"),
            ("ftp://a/b", "it must begin with oci://"),
            ("oci://host", "a name must follow"),
            ("oci:///app", "host or bucket is missing"),
            ("oci://host/App", "names in a registry"),
            ("oci://host/app:-x", "a tag has up to 128"),
            ("oci://host/app@sha256:12", "the digest has not 64"),
            ("file://srv/app", "absolute"),
            ("s3://b/../c", "dots for parts"),
            ("s3://b/c d", "white space"),
            ("s3://b/c?x=secret", "query"),
        ] {
            assert!(shown(text).contains(problem), "{text}: {}", shown(text));
            assert!(!shown(text).contains("secret"));
        }
    }

    #[test]
    fn a_password_is_refused_and_not_repeated() {
        let refusal = shown("https://me:hunter2@host/app");
        assert!(refusal.contains("credentials come from the environment"), "{refusal}");
        assert!(!refusal.contains("hunter2"), "{refusal}");
    }
}
