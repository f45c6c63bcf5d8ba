//! A cache of compiled WebAssembly modules.
//!
//! ```no_run
//! # #[cfg(feature = "compiler")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use cwasm_cache::Cache;
//! use cwasm_compiler::Settings;
//!
//! let cache = Cache::open(Cache::default_dir()?)?;
//! let wasm = std::fs::read("app.wasm")?;
//! let artifact = cache.get_or_compile(&wasm, &Settings::default())?;
//! # Ok(()) }
//! # #[cfg(not(feature = "compiler"))]
//! # fn main() {}
//! ```
//!
//! An artifact is named by a SHA-256 of everything that decides its bytes: the module, the
//! compiler, the ABI, the format, the target, the CPU and the settings. There is no server:
//! any number of processes and threads share a directory. What they rely on:
//!
//! * Code is run from a directory only if nobody else can write to it. Others are refused, with the reason.
//! * Entries appear whole or not at all, and are checked against their digest when they are
//!   loaded. What is not intact is set aside, counted, and compiled again.
//! * One compiles, the others wait for it, at most for a time. The lock ends with its holder.
//! * That an artifact cannot be written is not an error: it runs from memory.
//! * Pruning unlinks files, and never writes to one. Who is loading an entry goes on reading it.
//!
//! Without the feature `compiler`, which is on by default, a cache can only be read: for
//! hosts that must not compile. The modules, in the order in which data flows:
//! `key` names an entry, `directory` finds and makes the directory, `layer` reads and writes entries, `hashes` knows modules
//! that were seen before, `level` asks another place,
//! `compiling` gets an artifact that may have to be compiled, `lock` lets one do that, `functions` keeps code for the next compilation, `statistics` counts, and `upkeep` looks through it all.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(feature = "compiler"),
    allow(dead_code, reason = "what is for writing is not left out piece by piece")
)]

#[cfg(feature = "compiler")]
mod compiling;
mod directory;
mod error;
#[cfg(feature = "compiler")]
mod functions;
mod hashes;
mod key;
mod layer;
mod level;
#[cfg(feature = "compiler")]
mod lock;
mod statistics;
mod upkeep;

pub use error::Error;
pub use key::{COMPILER, Key, Profile, Wasm};
pub use level::{Level, LevelError};
pub use statistics::Statistics;
pub use upkeep::{Entry, Pruned, Verified};

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use cwasm_artifact::signature::PublicKey;
use cwasm_loader::Artifact;
use hashes::Seen;
use layer::{Found, Layer};
use level::Behind;
use statistics::{Counters, count};
use upkeep::Others;

/// How a cache is used.
#[derive(Clone, Debug)]
pub struct Options {
    read_only: bool,
    shared: Option<PathBuf>,
    behind: Option<Behind>,
    max_bytes: u64,
    wait: Duration,
    grain: Duration,
    functions_from: usize,
}

impl Default for Options {
    /// Reading and writing, at most 2 GiB, and waiting for others for at most a minute.
    fn default() -> Self {
        Self {
            read_only: false,
            shared: None,
            behind: None,
            max_bytes: 2 << 30,
            wait: Duration::from_secs(60),
            grain: Duration::from_secs(60 * 60),
            functions_from: 256 << 10,
        }
    }
}

impl Options {
    /// Never write anything, and never compile: what is not there is [`Error::Miss`].
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Look into this directory too, which is never written to, when an artifact is not in the cache's own.
    #[must_use]
    pub fn shared(mut self, directory: impl Into<PathBuf>) -> Self {
        self.shared = Some(directory.into());
        self
    }

    /// Ask another place when an artifact is in no directory, and keep there what is compiled here, if it may be written to. Only artifacts that
    /// one of these keys signed are taken from it.
    #[must_use]
    pub fn level(
        mut self,
        level: Arc<dyn Level>,
        keys: impl IntoIterator<Item = PublicKey>,
    ) -> Self {
        self.behind = Some(Behind::new(level, keys.into_iter().collect()));
        self
    }

    /// How many bytes the entries may have together. When there are more, those used
    /// longest ago are removed until a tenth of it is free.
    #[must_use]
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// How long to wait for another process or thread that compiles the same module.
    #[must_use]
    pub fn wait(mut self, limit: Duration) -> Self {
        self.wait = limit;
        self
    }

    /// How precisely to remember when an entry was used: it is written down at most once
    /// in this time. An hour, unless a cache is so small that entries live shorter.
    #[must_use]
    pub fn used_precision(mut self, grain: Duration) -> Self {
        self.grain = grain;
        self
    }

    /// From which size on, in bytes of wasm, the code of a module's functions is kept too, so that the
    /// module is compiled faster after a change. Smaller ones are compiled fast anyway.
    #[must_use]
    pub fn functions_from(mut self, bytes: usize) -> Self {
        self.functions_from = bytes;
        self
    }

    /// Opens a cache in a directory, which is made if it is not there.
    ///
    /// # Errors
    /// [`Error::Directory`] if others can write to one of the directories; [`Error::Io`] if it
    /// cannot be made.
    pub fn open(self, directory: impl AsRef<Path>) -> Result<Cache, Error> {
        let directory = directory.as_ref();
        let open = if self.read_only { directory::open } else { directory::create };
        let layer = Layer::new(&open(directory)?);
        let shared = match &self.shared {
            Some(path) => Some(Layer::new(&directory::open(path)?)),
            None => None,
        };
        if !self.read_only {
            layer.prepare();
        }
        Ok(Cache {
            layer,
            shared,
            options: self,
            counters: Counters::default(),
            loaded: Mutex::default(),
            seen: Seen::default(),
            noted: Mutex::default(),
        })
    }
}

/// A cache of artifacts in a directory. Can be shared between threads.
#[derive(Debug)]
pub struct Cache {
    layer: Layer,
    shared: Option<Layer>,
    options: Options,
    counters: Counters,
    /// What [`Cache::get_or_compile_shared`] gave out and somebody still has.
    loaded: Mutex<HashMap<Key, Weak<Artifact>>>,
    /// The modules that were asked for.
    seen: Seen,
    /// When this process last wrote down that an entry was used.
    noted: Mutex<HashMap<Key, Instant>>,
}

/// How many entries a process remembers to have used.
const MAX_NOTED: usize = 4096;

impl Cache {
    /// Opens a cache in a directory, which is made if it is not there, with [`Options::default`].
    ///
    /// # Errors
    /// As for [`Options::open`].
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, Error> {
        Options::default().open(directory)
    }

    /// The directory for this user's cache: `$XDG_CACHE_HOME/cwasm`, or `~/.cache/cwasm`.
    ///
    /// # Errors
    /// [`Error::NoDirectory`] if the environment does not say where that is.
    pub fn default_dir() -> Result<PathBuf, Error> {
        directory::default_dir()
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.layer.root
    }

    /// The artifact of a module, if it is in the cache.
    ///
    /// # Errors
    /// [`Error::Miss`] if it is not; [`Error::Load`] if it is, and there is no memory for it.
    pub fn get<'a>(
        &self,
        wasm: impl Into<Wasm<'a>>,
        profile: impl Into<Profile>,
    ) -> Result<Artifact, Error> {
        let (wasm, profile) = (wasm.into(), profile.into());
        let (key, found) = self.find(&wasm, &profile)?;
        let found = found.or_else(|| self.find_behind(&key, &wasm));
        count(if found.is_some() { &self.counters.hits } else { &self.counters.misses });
        found.ok_or(Error::Miss { key })
    }

    /// The key of a module, and its artifact if it is in one of the directories.
    fn find(&self, wasm: &Wasm<'_>, profile: &Profile) -> Result<(Key, Option<Artifact>), Error> {
        let seen = self.seen.recall(&self.layer, wasm);
        let hashing = seen.is_none() && !wasm.is_hashed();
        // What was remembered is only a way to find something.
        for wasm in seen.iter().chain([wasm]) {
            let key = Key::new(wasm, profile);
            let own = self.find_own(&key, wasm)?;
            let found = match own {
                None => self.find_shared(&key, wasm)?,
                own => own,
            };
            if found.is_some() {
                if hashing {
                    self.seen.remember(&self.layer, wasm, profile, !self.options.read_only);
                }
                return Ok((key, found));
            }
        }
        Ok((Key::new(wasm, profile), None))
    }

    /// Looks into the layer that is never written to.
    fn find_shared(&self, key: &Key, wasm: &Wasm<'_>) -> Result<Option<Artifact>, Error> {
        let Some(shared) = &self.shared else { return Ok(None) };
        match shared.load(key, &wasm.sha256())? {
            Found::Artifact(artifact) => Ok(Some(*artifact)),
            Found::Corrupt => {
                count(&self.counters.corrupt);
                Ok(None)
            }
            Found::Nothing => Ok(None),
        }
    }

    /// Asks the level behind the directories, and keeps what it gives.
    fn find_behind(&self, key: &Key, wasm: &Wasm<'_>) -> Option<Artifact> {
        let behind = self.options.behind.as_ref()?;
        let (artifact, bytes) = behind.get(key, wasm, &self.counters)?;
        if !self.options.read_only {
            self.keep(key, &bytes);
        }
        Some(artifact)
    }

    /// Writes an entry, if that can be done. Returns whether it could.
    fn keep(&self, key: &Key, bytes: &[u8]) -> bool {
        let written = self.layer.publish(key, bytes);
        match &written {
            Ok(()) => self.make_room(bytes.len() as u64),
            Err(_) => count(&self.counters.unwritten),
        }
        written.is_ok()
    }

    /// Counts what was written, and prunes when it is too much.
    fn make_room(&self, written: u64) {
        let sums = statistics::change(&self.statistics_file(), |sums| Statistics {
            bytes: sums.bytes.saturating_add(written),
            ..sums
        });
        let limit = self.options.max_bytes;
        if sums.is_some_and(|sums| sums.bytes > limit)
            && let Ok(pruned) = upkeep::prune(&self.layer, limit - limit / 10, Others::Forgotten)
        {
            self.account(&pruned);
        }
    }

    /// Looks into the layer that is written to.
    fn find_own(&self, key: &Key, wasm: &Wasm<'_>) -> Result<Option<Artifact>, Error> {
        match self.layer.load(key, &wasm.sha256())? {
            Found::Artifact(artifact) => {
                self.used(key);
                Ok(Some(*artifact))
            }
            Found::Corrupt => {
                count(&self.counters.corrupt);
                if !self.options.read_only {
                    self.layer.set_aside(&self.layer.path(key));
                }
                Ok(None)
            }
            Found::Nothing => Ok(None),
        }
    }

    /// Remembers that an entry was used.
    fn used(&self, key: &Key) {
        if self.options.read_only {
            return;
        }
        let Ok(mut noted) = self.noted.lock() else { return };
        let now = Instant::now();
        let recent = |at: &Instant| now.duration_since(*at) < self.options.grain;
        if noted.get(key).is_some_and(recent) {
            return;
        }
        if noted.len() >= MAX_NOTED {
            noted.clear();
        }
        noted.insert(*key, now);
        drop(noted);
        self.layer.touch(key, self.options.grain);
    }

    /// What this process did with this cache.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.counters.get()
    }

    /// What all processes did that have dropped their caches, and this one.
    #[must_use]
    pub fn all_statistics(&self) -> Statistics {
        statistics::read(&self.statistics_file()) + self.statistics()
    }

    fn statistics_file(&self) -> PathBuf {
        self.layer.root.join("statistics")
    }

    /// Every entry, also of other versions; those used last first.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn list(&self) -> Result<Vec<Entry>, Error> {
        upkeep::list(&self.layer)
    }

    /// Reads every entry of this version, and sets aside what is not intact.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn verify(&self) -> Result<Verified, Error> {
        let verified = upkeep::verify(&self.layer)?;
        let corrupt = verified.corrupt.len() as u64;
        self.counters.corrupt.fetch_add(corrupt, std::sync::atomic::Ordering::Relaxed);
        Ok(verified)
    }

    /// Removes what other versions wrote, what processes left that were killed, and the entries used longest ago
    /// until at most `max_bytes` are left, or as many as the cache may have.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn prune(&self, max_bytes: Option<u64>) -> Result<Pruned, Error> {
        let limit = max_bytes.unwrap_or(self.options.max_bytes);
        let pruned = upkeep::prune(&self.layer, limit, Others::Remove)?;
        self.account(&pruned);
        Ok(pruned)
    }

    /// Removes every entry, and the statistics.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn clear(&self) -> Result<Pruned, Error> {
        let pruned = upkeep::clear(&self.layer)?;
        statistics::change(&self.statistics_file(), |_| Statistics::default());
        Ok(pruned)
    }

    /// Writes down how much is in the directory after it was looked through.
    fn account(&self, pruned: &Pruned) {
        let counters = &self.counters;
        counters.pruned.fetch_add(pruned.removed, std::sync::atomic::Ordering::Relaxed);
        statistics::change(&self.statistics_file(), |sums| Statistics {
            bytes: pruned.kept_bytes,
            ..sums
        });
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        let counted = self.statistics();
        if !self.options.read_only && counted != Statistics::default() {
            statistics::change(&self.statistics_file(), |sums| sums + counted);
        }
    }
}
