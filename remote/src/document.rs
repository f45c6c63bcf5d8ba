//! The documents of a store: image indexes, manifests, and descriptors, as the OCI image specification has
//! them, with annotations that say what an artifact needs.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use cwasm_artifact::abi::Fingerprint;
use cwasm_artifact::check::Checked;
use cwasm_artifact::choice::Needs;
use cwasm_artifact::cpu::CpuFeatures;
use cwasm_artifact::digest::Digest;
use cwasm_artifact::header::padded_text;
use cwasm_artifact::hex::{self, Hex, parse_digest};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The media type of an artifact, and the type of manifests and indexes of artifacts.
pub const ARTIFACT_TYPE: &str = "application/vnd.cwasm.artifact.v2";
pub(crate) const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
/// The blob that manifests without a configuration point to.
pub(crate) const EMPTY: &[u8] = b"{}";
/// The annotation of an image layout for tags.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Larger documents are refused; registries refuse them too.
pub(crate) const MAX_DOCUMENT: u64 = 4 << 20;

const FORMAT: &str = "vnd.cwasm.format";
const ABI: &str = "vnd.cwasm.abi";
const TARGET: &str = "vnd.cwasm.target";
const CPU_FEATURES: &str = "vnd.cwasm.cpu-features";
const CPU: &str = "vnd.cwasm.cpu";
const DIGEST: &str = "vnd.cwasm.digest";
const SOURCE: &str = "vnd.cwasm.source-sha256";
const COMPILER: &str = "vnd.cwasm.compiler";

/// The SHA-256 that names a blob: `sha256:HEX`.
///
/// Not to be taken for the [`Digest`] of an artifact, which its signatures do not change.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobDigest(pub [u8; 32]);

impl BlobDigest {
    /// That of some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    pub(crate) fn hex(&self) -> String {
        Hex(&self.0).to_string()
    }
}

impl fmt::Display for BlobDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", Hex(&self.0))
    }
}

impl fmt::Debug for BlobDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for BlobDigest {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("sha256:").and_then(parse_digest);
        digits.map(Self).ok_or("a digest is `sha256:` and 64 hexadecimal digits")
    }
}

impl Serialize for BlobDigest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BlobDigest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

type Annotations = BTreeMap<String, String>;

/// What points to a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: BlobDigest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: Annotations,
}

/// What other tools know of targets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Platform {
    architecture: String,
    os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
}

/// An image index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
    pub(crate) manifests: Vec<Descriptor>,
}

/// An image manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
    config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: Annotations,
}

/// Bytes with the descriptor that points to them.
#[derive(Clone, Debug)]
pub(crate) struct Sealed {
    pub(crate) descriptor: Descriptor,
    pub(crate) bytes: Vec<u8>,
}

/// What an index says about one artifact. It is what a store claims, until the artifact was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it asks of its host.
    pub needs: Needs,
    /// Its root digest.
    pub digest: Digest,
    /// Where its manifest is.
    pub(crate) manifest: Descriptor,
}

impl Entry {
    /// What a descriptor says; `None` if it is none of an artifact.
    fn of(descriptor: &Descriptor) -> Option<Self> {
        let text = |name| descriptor.annotations.get(name);
        let needs = Needs {
            format: text(FORMAT)?.parse().ok()?,
            abi: Fingerprint(hex::parse(text(ABI)?)?),
            target: text(TARGET)?.clone(),
            cpu_features: CpuFeatures::from_bits(
                u64::from_str_radix(text(CPU_FEATURES)?, 16).ok()?,
            ),
            cpu_level: text(CPU)?.clone(),
        };
        let digest = text(DIGEST)?.parse().ok()?;
        Some(Self { needs, digest, manifest: descriptor.clone() })
    }
}

impl Index {
    pub(crate) fn new() -> Self {
        Self {
            schema_version: 2,
            media_type: Some(INDEX_TYPE.to_owned()),
            artifact_type: Some(ARTIFACT_TYPE.to_owned()),
            manifests: Vec::new(),
        }
    }

    /// Reads an index, or makes one around a manifest that stands where an index is expected.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let index = match serde_json::from_slice::<Manifest>(bytes) {
            Err(_) => return serde_json::from_slice(bytes),
            Ok(manifest) => manifest,
        };
        let descriptor = Descriptor {
            media_type: MANIFEST_TYPE.to_owned(),
            digest: BlobDigest::of(bytes),
            size: bytes.len() as u64,
            artifact_type: index.artifact_type,
            platform: None,
            annotations: index.annotations,
        };
        Ok(Self { manifests: vec![descriptor], ..Self::new() })
    }

    /// The artifacts in it; what else it has is left alone.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        self.manifests.iter().filter_map(Entry::of)
    }

    /// Puts a manifest in, instead of what it has for the same target, CPU and ABI.
    pub(crate) fn insert(&mut self, manifest: Descriptor) {
        let needs = Entry::of(&manifest).map(|entry| entry.needs);
        self.manifests.retain(|other| {
            other.digest != manifest.digest
                && (needs.is_none() || Entry::of(other).map(|entry| entry.needs) != needs)
        });
        self.manifests.push(manifest);
        // The order of pushes does not matter then.
        self.manifests
            .sort_by(|a, b| a.annotations.cmp(&b.annotations).then(a.digest.cmp(&b.digest)));
    }

    /// What a tag of an image layout points to.
    pub(crate) fn tagged(&self, tag: &str) -> Option<&Descriptor> {
        self.manifests
            .iter()
            .find(|entry| entry.annotations.get(REF_NAME).is_some_and(|name| name == tag))
    }

    /// Points a tag of an image layout to an index.
    pub(crate) fn set_tag(&mut self, tag: &str, mut descriptor: Descriptor) {
        self.manifests
            .retain(|entry| entry.annotations.get(REF_NAME).is_none_or(|name| name != tag));
        descriptor.annotations.insert(REF_NAME.to_owned(), tag.to_owned());
        self.manifests.push(descriptor);
        self.artifact_type = None;
    }

    pub(crate) fn seal(&self) -> Result<Sealed, serde_json::Error> {
        seal(self, INDEX_TYPE, Some(ARTIFACT_TYPE.to_owned()), None, Annotations::new())
    }
}

/// The manifest of an artifact.
pub(crate) fn manifest(checked: &Checked<'_>) -> Result<(Sealed, Descriptor), serde_json::Error> {
    let header = checked.header();
    let target = padded_text(&header.prefix.target);
    let features = header.cpu_features.get();
    let cpu = padded_text(&header.cpu_level);
    let facts = [
        (FORMAT, header.prefix.format_version.to_string()),
        (ABI, Hex(&header.prefix.abi).to_string()),
        (TARGET, target.clone()),
        (CPU_FEATURES, format!("{features:x}")),
        (CPU, cpu.clone()),
        (DIGEST, checked.digest().to_string()),
        (SOURCE, Hex(&header.source_sha256).to_string()),
        (COMPILER, padded_text(&header.prefix.compiler)),
    ];
    let annotations: Annotations =
        facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let blob = |media_type: &str, bytes: &[u8]| Descriptor {
        media_type: media_type.to_owned(),
        digest: BlobDigest::of(bytes),
        size: bytes.len() as u64,
        artifact_type: None,
        platform: None,
        annotations: Annotations::new(),
    };
    let layer = blob(ARTIFACT_TYPE, checked.file());
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MANIFEST_TYPE.to_owned()),
        artifact_type: Some(ARTIFACT_TYPE.to_owned()),
        config: blob(EMPTY_TYPE, EMPTY),
        layers: vec![layer.clone()],
        annotations: annotations.clone(),
    };
    let platform = platform(&target, &cpu);
    let sealed =
        seal(&manifest, MANIFEST_TYPE, Some(ARTIFACT_TYPE.to_owned()), platform, annotations)?;
    Ok((sealed, layer))
}

/// A target in the words of the image specification, which are Go's.
fn platform(target: &str, cpu: &str) -> Option<Platform> {
    let mut parts = target.split('-');
    let architecture = match parts.next()? {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "riscv64gc" | "riscv64" => "riscv64",
        other => other,
    };
    let os = ["linux", "darwin", "windows"].into_iter().find(|os| target.contains(os))?;
    let variant = cpu.strip_prefix("x86-64-").map(str::to_owned);
    Some(Platform { architecture: architecture.to_owned(), os: os.to_owned(), variant })
}

fn seal(
    document: &impl Serialize,
    media_type: &str,
    artifact_type: Option<String>,
    platform: Option<Platform>,
    annotations: Annotations,
) -> Result<Sealed, serde_json::Error> {
    let bytes = serde_json::to_vec(document)?;
    let descriptor = Descriptor {
        media_type: media_type.to_owned(),
        digest: BlobDigest::of(&bytes),
        size: bytes.len() as u64,
        artifact_type,
        platform,
        annotations,
    };
    Ok(Sealed { descriptor, bytes })
}
