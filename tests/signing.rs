//! Keys that are the same in every run, and signatures by them.

use cwasm_artifact::signature::{PublicKey, Signature, Signatures, message};
use ed25519_dalek::{Signer as _, SigningKey};
use sha2::{Digest as _, Sha256};

/// A pair of keys that its number determines.
pub struct Key(SigningKey);

impl Key {
    /// The pair with this number.
    #[must_use]
    pub fn new(number: u8) -> Self {
        Self(SigningKey::from_bytes(&[number; 32]))
    }

    /// Its public key.
    ///
    /// # Panics
    /// If it is weak, which one of a secret key never is; so for the other functions.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey::from_bytes(self.0.verifying_key().as_bytes()).expect("a made key is a good key")
    }

    /// Its signature of an artifact.
    #[must_use]
    pub fn signature(&self, file: &[u8]) -> Signature {
        self.signature_of(&message(file).expect("an artifact has a header"))
    }

    /// Its signature of the message of an artifact.
    #[must_use]
    pub fn signature_of(&self, message: &[u8]) -> Signature {
        Signature::new(self.public().id(), self.0.sign(message).to_bytes())
    }

    /// The artifact with this key's signature beside those that it has.
    #[must_use]
    pub fn sign(&self, file: &[u8]) -> Vec<u8> {
        let mut signatures = Signatures::of(file).expect("the artifact of a test is in order");
        signatures.insert(self.signature(file)).expect("tests sign with few keys");
        with_signatures(file, &signatures)
    }
}

/// The artifact with these signatures in the place of those that it has.
///
/// # Panics
/// If it is none.
#[must_use]
pub fn with_signatures(file: &[u8], signatures: &Signatures) -> Vec<u8> {
    let mut file = file.to_vec();
    signatures.write(&mut file).expect("an artifact has a signature area");
    file
}

/// SHA-256 of bytes.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// The checksum of a signature area, of which `records` is all but the checksum.
#[must_use]
pub fn checksum(records: &[u8]) -> [u8; 32] {
    sha256(&[&[2], records].concat())
}
