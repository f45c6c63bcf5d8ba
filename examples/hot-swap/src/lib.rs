//! Modules by name, replaced under load.
//!
//! A long-lived server cannot hold a borrow of an artifact that may be replaced
//! at any time. It holds shares instead: the [`Modules`] hold one of the
//! present version, and the store of each request one of the version that it
//! began with. Old requests finish on the old code, new ones start on the
//! new, and the old code is unmapped when its last request ends. A request
//! counts one reference when it begins and one when it ends, and none in between.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use cwasm_loader::{Artifact, Engine, Error, Linker, Store, Val};

/// Modules that can be called by name and replaced while they run.
#[derive(Debug)]
pub struct Modules {
    engine: Engine,
    linker: Linker<'static, ()>,
    present: RwLock<HashMap<String, Arc<Artifact>>>,
}

/// Why a request failed.
#[derive(Debug)]
pub enum RequestError {
    /// There is no module with the name.
    Unknown(String),
    /// The module failed.
    Failed(Error),
}

impl std::fmt::Display for RequestError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown(name) => write!(f, "there is no module `{name}`"),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RequestError {}

impl Default for Modules {
    fn default() -> Self {
        Self::new(Linker::new(&Engine::default()))
    }
}

impl Modules {
    /// No modules; what they may import is in the linker.
    #[must_use]
    pub fn new(linker: Linker<'static, ()>) -> Self {
        Self { engine: Engine::default(), linker, present: RwLock::default() }
    }

    /// Adds a module, or replaces the one with the name. Requests that are
    /// running go on with the old one.
    pub fn replace(&self, name: &str, artifact: Artifact) {
        let artifact = Arc::new(artifact);
        // What is replaced is dropped after the lock: unmapping takes time.
        let old = self
            .present
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned(), artifact);
        drop(old);
    }

    /// Removes a module. Requests that are running go on.
    pub fn remove(&self, name: &str) -> bool {
        let old = self.present.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        old.is_some()
    }

    /// Calls a function of the present version of a module, in a store of its
    /// own.
    ///
    /// # Errors
    /// If there is no such module or function, or it fails.
    pub fn request(
        &self,
        name: &str,
        function: &str,
        args: &[Val<'_>],
    ) -> Result<Vec<Val<'static>>, RequestError> {
        let artifact = {
            let present = self.present.read().unwrap_or_else(PoisonError::into_inner);
            present.get(name).cloned()
        };
        let artifact = artifact.ok_or_else(|| RequestError::Unknown(name.to_owned()))?;
        let mut store: Store<'static, ()> = Store::new(&self.engine, ());
        let instance =
            self.linker.instantiate_shared(&mut store, &artifact).map_err(RequestError::Failed)?;
        // The store has its own share from here on.
        drop(artifact);
        let func = instance.func(&store, function).map_err(RequestError::Failed)?;
        func.call(&mut store, args).map_err(RequestError::Failed)
    }
}
