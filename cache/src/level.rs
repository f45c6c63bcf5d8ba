//! Another place to look for artifacts, behind the directory: usually a store that a fleet shares.
//!
//! It is asked after the directory and before the compiler, while other processes that want the
//! same wait. What it gives is not trusted: somebody must have signed it whose key the cache knows, and it
//! must be what the key names. Then it goes into the directory like what was compiled here. When it
//! fails, that is counted, and it is as if nothing had been there.

use std::fmt;
use std::sync::Arc;

use cwasm_artifact::cpu::CpuLevel;
use cwasm_artifact::header::{Header, padded_text};
use cwasm_artifact::signature::PublicKey;
use cwasm_loader::{Artifact, Trust};

use crate::key::{Key, Profile, Wasm};
use crate::statistics::{Counters, count};

/// Why a level failed. It tells its user itself, as far as that is of use.
pub type LevelError = Box<dyn std::error::Error + Send + Sync>;

/// Another place to look for artifacts.
pub trait Level: fmt::Debug + Send + Sync {
    /// The bytes of an artifact, signed, if it is there.
    ///
    /// # Errors
    /// If that cannot be found out.
    fn get(&self, key: &Key) -> Result<Option<Vec<u8>>, LevelError>;

    /// Keeps an artifact that was compiled here; `false` if this level is not written to.
    ///
    /// # Errors
    /// If it cannot be kept.
    fn put(&self, key: &Key, artifact: &[u8]) -> Result<bool, LevelError>;

    /// Is told that what it gave is not used, and why.
    fn refused(&self, key: &Key, why: &str) {
        let _ = (key, why);
    }
}

/// A level, and whose artifacts are taken from it.
#[derive(Clone, Debug)]
pub(crate) struct Behind {
    level: Arc<dyn Level>,
    trust: Trust,
}

impl Behind {
    pub(crate) fn new(level: Arc<dyn Level>, keys: Vec<PublicKey>) -> Self {
        Self { level, trust: Trust::keys(keys) }
    }

    /// An artifact that may be used, and its bytes.
    pub(crate) fn get(
        &self,
        key: &Key,
        wasm: &Wasm<'_>,
        counters: &Counters,
    ) -> Option<(Artifact, Vec<u8>)> {
        let bytes = match self.level.get(key) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                count(&counters.level_misses);
                return None;
            }
            Err(_) => {
                count(&counters.level_failures);
                return None;
            }
        };
        let why = match Artifact::from_bytes(&bytes, &self.trust) {
            // Signed, but perhaps something else: compiled without the limits that were asked for, say.
            Ok(_) if named_by(&bytes, wasm) != Some(*key) => {
                "it is another artifact than its name says".to_owned()
            }
            Ok(artifact) => {
                count(&counters.level_hits);
                return Some((artifact, bytes));
            }
            Err(error) => error.to_string(),
        };
        count(&counters.level_refused);
        self.level.refused(key, &why);
        None
    }

    /// Keeps what was compiled here.
    #[cfg(feature = "compiler")]
    pub(crate) fn put(&self, key: &Key, bytes: &[u8], counters: &Counters) {
        match self.level.put(key, bytes) {
            Ok(true) => count(&counters.level_written),
            Ok(false) => {}
            Err(_) => count(&counters.level_failures),
        }
    }
}

/// The key of an artifact, from what it says about itself and the module that was asked for.
fn named_by(bytes: &[u8], wasm: &Wasm<'_>) -> Option<Key> {
    let header = Header::of(bytes)?;
    if header.source_sha256 != wasm.sha256() {
        return None;
    }
    let profile = Profile {
        target: padded_text(&header.prefix.target),
        cpu: CpuLevel::by_name(&padded_text(&header.cpu_level))?,
        opt_level: padded_text(&header.opt_level),
        settings: header.settings.get(),
    };
    Some(Key::new(wasm, &profile))
}
