//! Getting an artifact that may have to be compiled first.

use std::sync::Arc;

use cwasm_artifact::cpu::host_triple;
use cwasm_artifact::digest::Digest;
use cwasm_compiler::{
    CompileError, Progress, Settings, Silent, compile_incrementally, compile_with_progress,
};
use cwasm_loader::{Artifact, Trust};

use crate::Cache;
use crate::error::Error;
use crate::functions::Functions;
use crate::key::{Key, Profile, Wasm};
use crate::lock::{self, Waited};
use crate::statistics::count;

impl Cache {
    /// The artifact of a module: from the cache, or else compiled, kept, and loaded.
    ///
    /// # Errors
    /// If the module cannot be compiled or its code cannot run here; [`Error::Miss`] if it is not
    /// in a cache that is read-only. Never because of the cache.
    pub fn get_or_compile<'a>(
        &self,
        wasm: impl Into<Wasm<'a>>,
        settings: &Settings,
    ) -> Result<Artifact, Error> {
        self.get_or_compile_with_progress(wasm, settings, &Silent)
    }

    /// Does what [`Cache::get_or_compile`] does, and says how far a compilation is.
    ///
    /// # Errors
    /// As for [`Cache::get_or_compile`].
    pub fn get_or_compile_with_progress<'a>(
        &self,
        wasm: impl Into<Wasm<'a>>,
        settings: &Settings,
        progress: &dyn Progress,
    ) -> Result<Artifact, Error> {
        self.provide(&wasm.into(), settings, progress)
    }

    /// Does what [`Cache::get_or_compile`] does, and loads an artifact once for everybody in this
    /// process who has it at the same time.
    ///
    /// # Errors
    /// As for [`Cache::get_or_compile`].
    pub fn get_or_compile_shared<'a>(
        &self,
        wasm: impl Into<Wasm<'a>>,
        settings: &Settings,
    ) -> Result<Arc<Artifact>, Error> {
        let wasm = wasm.into();
        let key = Key::new(&wasm, &Profile::from(settings));
        if let Some(artifact) = self.loaded(&key) {
            count(&self.counters.hits);
            count(&self.counters.shared_hits);
            return Ok(artifact);
        }
        let artifact = Arc::new(self.provide(&wasm, settings, &Silent)?);
        if let Ok(mut loaded) = self.loaded.lock() {
            loaded.retain(|_, artifact| artifact.strong_count() > 0);
            loaded.insert(key, Arc::downgrade(&artifact));
        }
        Ok(artifact)
    }

    fn loaded(&self, key: &Key) -> Option<Arc<Artifact>> {
        self.loaded.lock().ok()?.get(key)?.upgrade()
    }

    fn provide(
        &self,
        wasm: &Wasm<'_>,
        settings: &Settings,
        progress: &dyn Progress,
    ) -> Result<Artifact, Error> {
        let (target, host) = (settings.target.to_string(), host_triple());
        if target != host {
            return Err(Error::OtherTarget { target, host });
        }
        let profile = Profile::from(settings);
        let (key, found) = self.find(wasm, &profile)?;
        if let Some(artifact) = found {
            count(&self.counters.hits);
            return Ok(artifact);
        }
        count(&self.counters.misses);
        if self.options.read_only {
            return self.find_behind(&key, wasm).ok_or(Error::Miss { key });
        }
        // Held, if it could be had, until the entry is written.
        let look = || self.find_own(&key, wasm);
        let held = lock::wait(&self.layer, &key, self.options.wait, look)?;
        if let Waited::Appeared(artifact) = held {
            count(&self.counters.hits);
            count(&self.counters.waited);
            return Ok(artifact);
        }
        if let Some(artifact) = self.find_behind(&key, wasm) {
            return Ok(artifact);
        }
        let bytes = self.compile(wasm.bytes(), settings, progress)?;
        count(&self.counters.compiled);
        if self.keep(&key, &bytes) {
            self.seen.remember(&self.layer, wasm, &profile, true);
        }
        drop(held);
        // Nobody here waits for that: they have the entry.
        if let Some(behind) = &self.options.behind {
            behind.put(&key, &bytes, &self.counters);
        }
        // What was just compiled, and not what the disk makes of it.
        let digest = Digest::stated_in(&bytes).unwrap_or(Digest([0; 32]));
        Ok(Artifact::from_bytes(&bytes, &Trust::digest(digest))?)
    }

    /// Compiles a module, a large one with the code of functions that did not change.
    fn compile(
        &self,
        wasm: &[u8],
        settings: &Settings,
        progress: &dyn Progress,
    ) -> Result<Vec<u8>, CompileError> {
        if wasm.len() < self.options.functions_from {
            return compile_with_progress(wasm, settings, progress);
        }
        let functions = Functions::new(&self.layer, &self.counters);
        let bytes = compile_incrementally(wasm, settings, progress, &functions)?;
        match functions.keep() {
            Ok(written) => self.make_room(written),
            Err(_) => count(&self.counters.unwritten),
        }
        Ok(bytes)
    }
}
