//! The linker: names for what modules import.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use cwasm_artifact::types::{ExternType, FuncType};

use crate::artifact::Artifact;
use crate::engine::Engine;
use crate::error::{Error, HostError, LinkError};
use crate::external::Extern;
use crate::func::{Caller, HostFunc, IntoHostFunc, KeepAlive};
use crate::instance::Instance;
use crate::instantiate::{Import, instantiate};
use crate::shared_memory::SharedMemory;
use crate::store::{AsStore, AsStoreMut};
use crate::value::Val;

enum Definition<'code> {
    Host(Arc<dyn KeepAlive + 'code>),
    Shared(SharedMemory),
    Extern(Extern<'code>),
}

/// Names for what modules import, and the way to instantiate them.
///
/// A linker that only defines host functions and shared memories belongs to no store: make it once,
/// share it between threads, and instantiate in as many stores as you like. One that
/// defines items of a store instantiates in that store only.
pub struct Linker<'code, T> {
    definitions: HashMap<String, HashMap<String, Definition<'code>>>,
    allow_shadowing: bool,
    /// Host functions take a `T`.
    marker: PhantomData<fn(T)>,
}

impl<T> fmt::Debug for Linker<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.definitions.iter().map(|(module, names)| (module, names.keys())))
            .finish()
    }
}

impl<'code, T: 'static> Linker<'code, T> {
    /// A linker without definitions.
    #[must_use]
    pub fn new(_engine: &Engine) -> Self {
        Self { definitions: HashMap::new(), allow_shadowing: false, marker: PhantomData }
    }

    /// Whether a name may be defined again. Not by default.
    pub fn allow_shadowing(&mut self, allow: bool) -> &mut Self {
        self.allow_shadowing = allow;
        self
    }

    fn insert(
        &mut self,
        module: &str,
        name: &str,
        definition: Definition<'code>,
    ) -> Result<&mut Self, LinkError> {
        let names = match self.definitions.get_mut(module) {
            Some(names) => names,
            None => self.definitions.entry(module.to_owned()).or_default(),
        };
        match names.entry(name.to_owned()) {
            Entry::Occupied(_) if !self.allow_shadowing => {
                return Err(LinkError::Duplicate {
                    module: module.to_owned(),
                    name: name.to_owned(),
                });
            }
            Entry::Occupied(mut entry) => {
                entry.insert(definition);
            }
            Entry::Vacant(entry) => {
                entry.insert(definition);
            }
        }
        Ok(self)
    }

    /// Defines a host function from a closure. See [`crate::Func::wrap`].
    ///
    /// # Errors
    /// [`LinkError::Duplicate`].
    pub fn func<Params, Results>(
        &mut self,
        module: &str,
        name: &str,
        func: impl IntoHostFunc<T, Params, Results> + 'code,
    ) -> Result<&mut Self, LinkError> {
        self.insert(module, name, Definition::Host(func.into_host_func()))
    }

    /// Defines a host function from a closure over dynamic values. See
    /// [`crate::Func::new`].
    ///
    /// # Errors
    /// [`LinkError::Duplicate`].
    pub fn func_dynamic(
        &mut self,
        module: &str,
        name: &str,
        ty: FuncType,
        func: impl for<'a, 'c> Fn(
            Caller<'a, 'c, T>,
            &[Val<'c>],
            &mut [Val<'c>],
        ) -> Result<(), HostError>
        + Send
        + Sync
        + 'code,
    ) -> Result<&mut Self, LinkError> {
        self.insert(module, name, Definition::Host(HostFunc::dynamic(ty, func)))
    }

    /// Defines a memory that all stores which instantiate with this linker share.
    ///
    /// # Errors
    /// [`LinkError::Duplicate`].
    pub fn shared_memory(
        &mut self,
        module: &str,
        name: &str,
        memory: &SharedMemory,
    ) -> Result<&mut Self, LinkError> {
        self.insert(module, name, Definition::Shared(memory.clone()))
    }

    /// Defines an item of a store.
    ///
    /// # Errors
    /// [`LinkError::Duplicate`] and [`Error::WrongStore`].
    pub fn define(
        &mut self,
        store: &impl AsStore<'code, Data = T>,
        module: &str,
        name: &str,
        item: impl Into<Extern<'code>>,
    ) -> Result<&mut Self, Error> {
        let item = item.into();
        item.ty_in(store.as_store().core())?;
        Ok(self.insert(module, name, Definition::Extern(item))?)
    }

    /// Defines all exports of an instance under a module name.
    ///
    /// # Errors
    /// [`LinkError::Duplicate`] and [`Error::WrongStore`].
    pub fn instance(
        &mut self,
        store: &impl AsStore<'code, Data = T>,
        module: &str,
        instance: Instance<'code>,
    ) -> Result<&mut Self, Error> {
        for (name, item) in instance.exports(store)? {
            self.insert(module, name, Definition::Extern(item))?;
        }
        Ok(self)
    }

    /// Instantiates an artifact in a store, and runs its start function.
    ///
    /// # Errors
    /// [`Error::Link`] if an import is missing or does not fit; a trap if a
    /// segment is out of bounds or the start function traps. An instance that failed half-way may have
    /// changed what it imports, and stays in the store.
    pub fn instantiate(
        &self,
        store: &mut impl AsStoreMut<'code, Data = T>,
        artifact: &'code Artifact,
    ) -> Result<Instance<'code>, Error> {
        let imports = self.imports(artifact)?;
        instantiate(store.as_store_mut(), artifact, &imports)
    }

    /// Instantiates an artifact that the store keeps a share of, for
    /// applications that load and unload by name, where no scope can hold a borrow.
    ///
    /// The store may have any `'code`, also `'static`. The artifact is unmapped when
    /// its last share is dropped: those of the application, and those of stores
    /// that instantiated it, which each let go when they are dropped. The
    /// cost is one reference count up at the first instantiation of an artifact in a
    /// store, and one down when the store is dropped; calls cost the same as
    /// with [`Linker::instantiate`].
    ///
    /// # Errors
    /// As for [`Linker::instantiate`].
    pub fn instantiate_shared(
        &self,
        store: &mut impl AsStoreMut<'code, Data = T>,
        artifact: &Arc<Artifact>,
    ) -> Result<Instance<'code>, Error> {
        let imports = self.imports(artifact)?;
        let mut store = store.as_store_mut();
        // SAFETY: `instantiate` puts the reference into the store. The instance that
        // it returns is a handle, which reaches the artifact only through the
        // store; errors hold copies.
        let artifact = unsafe { store.core_mut().share(artifact) };
        instantiate(store, artifact, &imports)
    }

    /// What the imports of an artifact are resolved to, in their order.
    fn imports(&self, artifact: &Artifact) -> Result<Vec<Import<'_, 'code>>, Error> {
        // Types are looked at when all are found, and not made of all.
        let view = artifact.view();
        let mut imports = Vec::with_capacity(view.imports().len());
        for import in view.imports() {
            let (module, name) = (view.text(import.module), view.text(import.name));
            let found = self.definitions.get(module).and_then(|names| names.get(name));
            imports.push(match found {
                Some(Definition::Host(host)) => Import::Host(host),
                Some(Definition::Shared(memory)) => Import::Shared(memory),
                Some(Definition::Extern(item)) => Import::Extern(*item),
                None => {
                    return Err(Error::Link(LinkError::UnknownImport {
                        module: module.to_owned(),
                        name: name.to_owned(),
                        ty: Box::new(artifact.extern_type(&import.ty)),
                    }));
                }
            });
        }
        Ok(imports)
    }

    /// The imports of an artifact that nothing is defined for.
    pub fn missing<'a>(
        &'a self,
        artifact: &'a Artifact,
    ) -> impl Iterator<Item = (&'a str, &'a str, ExternType)> {
        artifact
            .imports()
            .filter(|import| {
                !self.definitions.get(import.module).is_some_and(|m| m.contains_key(import.name))
            })
            .map(|import| (import.module, import.name, import.ty))
    }
}
