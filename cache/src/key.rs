//! What names an entry: everything that decides the bytes of an artifact, hashed.

use std::fmt;
use std::sync::OnceLock;

use cwasm_artifact::abi::fingerprint;
use cwasm_artifact::cpu::{Arch, CpuFeatures, CpuLevel, host_triple};
use cwasm_artifact::header::FORMAT_VERSION;
use cwasm_artifact::hex::Hex;
use sha2::{Digest as _, Sha256};

/// The compiler that this version of the cache belongs to: its version, and in a
/// checkout also what it was built from.
pub const COMPILER: &str = env!("CWASM_COMPILER_IDENTITY");

/// A wasm binary and its SHA-256, which is computed when it is first needed.
///
/// Everything that takes one takes bytes too. Who asks for the
/// same module many times keeps a `Wasm`, and hashes once.
#[derive(Clone, Debug)]
pub struct Wasm<'a> {
    bytes: &'a [u8],
    sha256: OnceLock<[u8; 32]>,
    blake3: OnceLock<[u8; 32]>,
}

impl<'a> Wasm<'a> {
    /// A wasm binary.
    #[must_use]
    pub fn new(wasm: &'a [u8]) -> Self {
        Self { bytes: wasm, sha256: OnceLock::new(), blake3: OnceLock::new() }
    }

    /// The wasm binary.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether its SHA-256 has been computed.
    pub(crate) fn is_hashed(&self) -> bool {
        self.sha256.get().is_some()
    }

    /// The same, with this SHA-256.
    pub(crate) fn hashed_as(&self, sha256: [u8; 32]) -> Self {
        Self { sha256: sha256.into(), ..self.clone() }
    }

    /// Its BLAKE3 hash.
    pub(crate) fn blake3(&self) -> [u8; 32] {
        *self.blake3.get_or_init(|| blake3::hash(self.bytes).into())
    }

    /// Its SHA-256.
    pub fn sha256(&self) -> [u8; 32] {
        *self.sha256.get_or_init(|| Sha256::digest(self.bytes).into())
    }
}

impl<'a> From<&Wasm<'a>> for Wasm<'a> {
    fn from(wasm: &Wasm<'a>) -> Self {
        // In the one that is kept, so that it is hashed once.
        wasm.sha256();
        wasm.clone()
    }
}

impl<'a> From<&'a [u8]> for Wasm<'a> {
    fn from(wasm: &'a [u8]) -> Self {
        Self::new(wasm)
    }
}

impl<'a> From<&'a Vec<u8>> for Wasm<'a> {
    fn from(wasm: &'a Vec<u8>) -> Self {
        Self::new(wasm)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Wasm<'a> {
    fn from(wasm: &'a [u8; N]) -> Self {
        Self::new(wasm)
    }
}

/// How code was compiled: what a host says that has no compiler, and so no
/// `cwasm_compiler::Settings`. Those turn into a profile by `From`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The target triple.
    pub target: String,
    /// The CPU level that was asked for.
    pub cpu: CpuLevel,
    /// The optimisation level: `0`, `1`, `2` or `s`.
    pub opt_level: String,
    /// Bits of [`cwasm_artifact::header::settings`].
    pub settings: u64,
}

impl Default for Profile {
    /// The compiler's default settings, for this machine.
    fn default() -> Self {
        Self {
            target: host_triple(),
            cpu: CpuLevel::default(),
            opt_level: "2".to_owned(),
            settings: 0,
        }
    }
}

impl Profile {
    /// The features that the code may use: of `native`, those of this machine.
    fn features(&self) -> CpuFeatures {
        let arch = Arch::of_triple(&self.target);
        arch.and_then(|arch| self.cpu.features(arch)).unwrap_or(CpuFeatures::NONE)
    }

    /// Everything in it. Each part ends where the next begins: none contains a line break.
    pub(crate) fn text(&self) -> String {
        let Self { target, cpu, opt_level, settings } = self;
        let features = self.features().bits();
        format!("target {target}\ncpu {cpu} {features:x}\nopt {opt_level}\nsettings {settings:x}\n")
    }
}

#[cfg(feature = "compiler")]
impl From<&cwasm_compiler::Settings> for Profile {
    fn from(settings: &cwasm_compiler::Settings) -> Self {
        let recorded = settings.recorded();
        Self {
            target: recorded.target,
            cpu: settings.cpu,
            opt_level: recorded.opt_level.to_owned(),
            settings: recorded.bits,
        }
    }
}

/// The name of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub(crate) [u8; 32]);

impl Key {
    /// The name of what `wasm` compiles to.
    #[must_use]
    pub fn new(wasm: &Wasm<'_>, profile: &Profile) -> Self {
        let hash = Sha256::new_with_prefix("cwasm cache 1\n").chain_update(compatibility());
        Self(hash.chain_update(profile.text()).chain_update(wasm.sha256()).finalize().into())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

/// What entries in one folder have in common, as text: nobody else can read them.
pub(crate) fn compatibility() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        format!(
            "compiler {COMPILER}\nformat {FORMAT_VERSION}\nabi {}\ntarget {}\n",
            Hex(&fingerprint().0),
            host_triple()
        )
    })
}

/// The name of the folder of what this version and machine can read.
pub(crate) fn compatibility_id() -> String {
    let hash: [u8; 32] = Sha256::digest(compatibility()).into();
    Hex(&hash[..8]).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cwasm_artifact::header::settings;

    #[test]
    fn everything_that_changes_code_changes_the_key() {
        let key = |wasm: &[u8], profile: &Profile| Key::new(&wasm.into(), profile);
        let base = Profile::default();
        let others = [
            Profile { target: "aarch64-unknown-linux-gnu".into(), ..base.clone() },
            Profile { cpu: CpuLevel::X86_64V3, ..base.clone() },
            Profile { cpu: CpuLevel::Native, ..base.clone() },
            Profile { opt_level: "s".into(), ..base.clone() },
            Profile { settings: settings::FUEL, ..base.clone() },
            Profile { settings: settings::EPOCH, ..base.clone() },
        ];
        let mut keys: Vec<Key> = others.iter().map(|profile| key(b"a", profile)).collect();
        keys.extend([key(b"a", &base), key(b"b", &base)]);
        let count = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), count);
        assert_eq!(key(b"a", &base), key(b"a", &base));
    }

    #[cfg(feature = "compiler")]
    #[test]
    fn the_default_profile_is_that_of_the_default_settings() {
        let settings = cwasm_compiler::Settings::default();
        assert_eq!(Profile::from(&settings), Profile::default());
        let with_fuel = cwasm_compiler::Settings { fuel: true, ..settings.clone() };
        assert_ne!(Profile::from(&with_fuel), Profile::default());
        let with_jobs = cwasm_compiler::Settings { jobs: 7, ..settings };
        assert_eq!(Profile::from(&with_jobs), Profile::default());
    }
}
