//! Signatures: who says that an artifact is good.
//!
//! The signature area holds up to [`MAX_SIGNATURES`] ed25519 signatures, each with the
//! id of its key. What is signed is [`message`]: the front of the file with the root
//! digest, which stands for the rest. The area itself is outside of the root, so that
//! a signature can be added or removed without making another artifact.
//!
//! `FORMAT.md`, "Signatures", is the specification. This module reads, writes and
//! verifies; a private key never enters this crate.

use core::fmt;
use core::str::FromStr;

use ed25519_dalek::VerifyingKey;
use sha2::{Digest as _, Sha256};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::header::{ELF_HEADER_SIZE, HEADER_SIZE, SIGNATURES_OFFSET, SIGNATURES_SIZE, pad_text};
use crate::hex::{self, Hex};
use crate::pem;
use crate::report::Problem;

/// How many signatures an artifact has room for.
pub const MAX_SIGNATURES: usize = 5;

/// The kind of signature that this version knows, padded with zeros.
const ED25519: &str = "ed25519";

/// What every signed message begins with, so that nothing else that a key signs can
/// pass for the signature of an artifact.
const DOMAIN: [u8; 32] = *b"cwasm artifact signature ed25519";

/// Length of what is signed.
const MESSAGE_SIZE: usize = DOMAIN.len() + ELF_HEADER_SIZE + HEADER_SIZE;

/// One place for a signature; zero if it is empty.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
struct Record {
    kind: [u8; 16],
    key: [u8; 16],
    signature: [u8; 64],
}

/// The signature area.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Area {
    records: [Record; MAX_SIGNATURES],
    checksum: [u8; 32],
}

const _: () = assert!(size_of::<Area>() == SIGNATURES_SIZE);

impl Area {
    /// Finds accidents, and only those.
    fn checksum(&self) -> [u8; 32] {
        Sha256::new_with_prefix([2]).chain_update(self.records.as_bytes()).finalize().into()
    }
}

/// The name of a public key: the first 16 bytes of its SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 16]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

/// A text that is not the id of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the id of a key has 32 hexadecimal digits")]
pub struct ParseKeyIdError;

impl FromStr for KeyId {
    type Err = ParseKeyIdError;

    fn from_str(text: &str) -> Result<Self, ParseKeyIdError> {
        hex::parse(text).map(Self).ok_or(ParseKeyIdError)
    }
}

/// An ed25519 public key whose signatures can be relied on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

/// Why something is not a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublicKeyError {
    /// The text has another form.
    #[error(
        "a public key is a PEM file that begins with `-----BEGIN PUBLIC KEY-----`, or 64 hexadecimal digits"
    )]
    Form,
    /// The text is a secret key.
    #[error("this is a secret key: keep it to yourself, and give the public key")]
    Secret,
    /// The key is one of another algorithm.
    #[error("this is a public key of another algorithm; ed25519 is needed")]
    Algorithm,
    /// The bytes are no key, or one with which anybody can sign.
    #[error("this is no ed25519 public key that is safe to use")]
    Weak,
}

impl PublicKey {
    /// The key with this encoding (RFC 8032).
    ///
    /// # Errors
    /// If it is no point of the curve, or one of the few for which signatures prove nothing.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, PublicKeyError> {
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| PublicKeyError::Weak)?;
        if key.is_weak() { Err(PublicKeyError::Weak) } else { Ok(Self(key)) }
    }

    /// Its encoding (RFC 8032).
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// It as a PEM file (RFC 8410), which other tools read too.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem::write_public(&self.to_bytes())
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> KeyId {
        let hash: [u8; 32] = Sha256::digest(self.0.as_bytes()).into();
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        KeyId(id)
    }

    /// Whether this key made the signature of this artifact.
    ///
    /// Says nothing about the file behind its front: that is what the root is for.
    #[must_use]
    pub fn verifies(&self, file: &[u8], signature: &Signature) -> bool {
        let bytes = ed25519_dalek::Signature::from_bytes(&signature.bytes);
        signature.key == self.id()
            && message(file).is_some_and(|message| self.0.verify_strict(&message, &bytes).is_ok())
    }
}

impl FromStr for PublicKey {
    type Err = PublicKeyError;

    /// A PEM file, or 64 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, PublicKeyError> {
        match hex::parse(text.trim()) {
            Some(bytes) => Self::from_bytes(&bytes),
            None => Self::from_bytes(&pem::read_public(text)?),
        }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(self.0.as_bytes()).fmt(f)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// What a key signs: a constant, the ELF header and the header, with the root
/// digest in it. `None` if the file is too short to have them.
#[must_use]
pub fn message(file: &[u8]) -> Option<[u8; MESSAGE_SIZE]> {
    let front = file.get(..ELF_HEADER_SIZE + HEADER_SIZE)?;
    let mut message = [0; MESSAGE_SIZE];
    message[..DOMAIN.len()].copy_from_slice(&DOMAIN);
    message[DOMAIN.len()..].copy_from_slice(front);
    Some(message)
}

/// A signature, as yet unverified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    key: KeyId,
    bytes: [u8; 64],
}

impl Signature {
    /// The signature that the key with this id made of [`message`].
    #[must_use]
    pub fn new(key: KeyId, bytes: [u8; 64]) -> Self {
        Self { key, bytes }
    }

    /// The id of the key that is said to have made it.
    #[must_use]
    pub fn key(&self) -> KeyId {
        self.key
    }
}

/// There is no room for another signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an artifact has room for {MAX_SIGNATURES} signatures, and it has as many: remove one first"
)]
pub struct TooManySignatures;

/// The signatures of an artifact, at most one for each key, sorted by its id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signatures(Vec<Signature>);

impl Signatures {
    /// Those of a file. Empty if its signature area is all zero.
    ///
    /// # Errors
    /// If the area is damaged, or holds what this version does not know.
    pub fn of(file: &[u8]) -> Result<Self, Problem> {
        let bytes = file.get(SIGNATURES_OFFSET..SIGNATURES_OFFSET + SIGNATURES_SIZE);
        let area = bytes.and_then(|bytes| Area::ref_from_bytes(bytes).ok());
        let Some(area) = area else { return Err(Problem::CorruptSignatures) };
        if area.as_bytes().iter().all(|byte| *byte == 0) {
            return Ok(Self::default());
        }
        if area.checksum() != area.checksum {
            return Err(Problem::CorruptSignatures);
        }
        let mut signatures: Vec<Signature> = Vec::new();
        let mut records = area.records.iter();
        for record in records.by_ref() {
            if record.kind == [0; 16] {
                if record.as_bytes().iter().chain(records.as_slice().as_bytes()).any(|b| *b != 0) {
                    return Err(Problem::InvalidSignatures { what: "bytes follow the last one" });
                }
                break;
            }
            if pad_text(ED25519) != Some(record.kind) {
                return Err(Problem::InvalidSignatures { what: "one is of an unknown kind" });
            }
            let signature = Signature { key: KeyId(record.key), bytes: record.signature };
            if signatures.last().is_some_and(|last| last.key >= signature.key) {
                return Err(Problem::InvalidSignatures { what: "they are not sorted by key" });
            }
            signatures.push(signature);
        }
        if signatures.is_empty() {
            return Err(Problem::InvalidSignatures { what: "there are none" });
        }
        Ok(Self(signatures))
    }

    /// Writes them into a file, in the place of those that it has.
    ///
    /// # Errors
    /// If the file is too short to have a signature area.
    pub fn write(&self, file: &mut [u8]) -> Result<(), Problem> {
        let (length, wanted) = (file.len() as u64, (SIGNATURES_OFFSET + SIGNATURES_SIZE) as u64);
        let place = file
            .get_mut(SIGNATURES_OFFSET..SIGNATURES_OFFSET + SIGNATURES_SIZE)
            .ok_or(Problem::Truncated { length, wanted })?;
        place.fill(0);
        let Ok(area) = Area::mut_from_bytes(place) else {
            return Err(Problem::Truncated { length, wanted });
        };
        for (record, signature) in area.records.iter_mut().zip(&self.0) {
            *record = Record {
                kind: pad_text(ED25519).unwrap_or_default(),
                key: signature.key.0,
                signature: signature.bytes,
            };
        }
        if !self.0.is_empty() {
            area.checksum = area.checksum();
        }
        Ok(())
    }

    /// Each of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Signature> {
        self.0.iter()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ids of the keys that are said to have made them.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = KeyId> + '_ {
        self.0.iter().map(Signature::key)
    }

    /// Adds one, in the place of one by the same key.
    ///
    /// # Errors
    /// If there is no room.
    pub fn insert(&mut self, signature: Signature) -> Result<(), TooManySignatures> {
        match self.0.binary_search_by_key(&signature.key, Signature::key) {
            Ok(place) => self.0[place] = signature,
            Err(_) if self.0.len() == MAX_SIGNATURES => return Err(TooManySignatures),
            Err(place) => self.0.insert(place, signature),
        }
        Ok(())
    }

    /// Removes that of a key. Returns whether there was one.
    pub fn remove(&mut self, key: KeyId) -> bool {
        let place = self.0.iter().position(|signature| signature.key == key);
        place.map(|place| self.0.remove(place)).is_some()
    }

    /// Checks that one of them is a signature of `file` by one of `trusted`; if not, adds why.
    /// `front_intact` says whether what is signed is as it was sealed: if not, it cannot
    /// match its signatures, and they are not to blame.
    pub(crate) fn check(
        &self,
        file: &[u8],
        trusted: &[PublicKey],
        front_intact: bool,
        problems: &mut Vec<Problem>,
    ) {
        let wanted = || trusted.iter().map(PublicKey::id).collect();
        if self.is_empty() {
            return problems.push(Problem::Unsigned { wanted: wanted() });
        }
        let mut known = self.0.iter().filter_map(|signature| {
            Some((signature, trusted.iter().find(|key| key.id() == signature.key)?))
        });
        if known.clone().next().is_none() {
            let found = self.keys().collect();
            return problems.push(Problem::UntrustedSigners { found, wanted: wanted() });
        }
        if front_intact && !known.any(|(signature, key)| key.verifies(file, signature)) {
            let known = self.keys().filter(|id| trusted.iter().any(|key| key.id() == *id));
            problems.extend(known.map(|key| Problem::BadSignature { key }));
        }
    }
}

/// Adds the layout of the area to the description of the format.
pub(crate) fn describe(text: &mut String) {
    use core::fmt::Write as _;
    let facts = [
        ("places", MAX_SIGNATURES),
        ("record size", size_of::<Record>()),
        ("record.key", core::mem::offset_of!(Record, key)),
        ("record.signature", core::mem::offset_of!(Record, signature)),
        ("checksum", core::mem::offset_of!(Area, checksum)),
        ("message size", MESSAGE_SIZE),
    ];
    for (name, value) in facts {
        // Writing to a `String` does not fail.
        let _ = writeln!(text, "signatures {name} = {value}");
    }
    let _ = writeln!(text, "signatures kind {ED25519}, domain {}", DOMAIN.escape_ascii());
}
