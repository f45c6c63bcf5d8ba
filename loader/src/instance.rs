//! Handles of instances: access to exports by name.

use std::marker::PhantomData;

use cwasm_artifact::records::extern_kind;

use crate::error::Error;
use crate::external::Extern;
use crate::func::{Func, TypedFunc};
use crate::global::Global;
use crate::memory::Memory;
use crate::store::{AsStore, StoreCore, StoreId};
use crate::table::Table;
use crate::tag::Tag;
use crate::value::{Borrow, WasmTyList};

/// An instance of a module in a store.
///
/// A handle: small, `Copy`, used together with its store. The instance itself lives
/// as long as the store, since tables may hold its functions.
#[derive(Clone, Copy, Debug)]
pub struct Instance<'code> {
    store: StoreId,
    index: u32,
    borrow: Borrow<'code>,
}

impl<'code> Instance<'code> {
    pub(crate) fn from_index(index: u32, core: &StoreCore<'code>) -> Self {
        Self { store: core.id, index, borrow: PhantomData }
    }

    fn check(&self, core: &StoreCore<'_>) -> Result<(), Error> {
        if self.store == core.id { Ok(()) } else { Err(Error::WrongStore { what: "instance" }) }
    }

    /// The export with this name. `None` also if the instance belongs to
    /// another store.
    #[must_use]
    pub fn export<'c>(&self, store: &impl AsStore<'c>, name: &str) -> Option<Extern<'c>> {
        let core = store.as_store().core();
        self.check(core).ok()?;
        self.export_in(core, name)
    }

    pub(crate) fn export_in<'c>(&self, core: &StoreCore<'c>, name: &str) -> Option<Extern<'c>> {
        let instance = core.instances.get(self.index as usize)?;
        let export = instance.artifact.view().export(name)?;
        Self::resolve(core, self.index, export.kind.get(), export.index.get())
    }

    /// What stands at an index of an instance's index space.
    pub(crate) fn resolve<'c>(
        core: &StoreCore<'c>,
        instance: u32,
        kind: u32,
        index: u32,
    ) -> Option<Extern<'c>> {
        let instance = core.instances.get(instance as usize)?;
        let at = |all: &[u32]| all.get(index as usize).copied();
        Some(match kind {
            extern_kind::TABLE => Table::from_index(at(&instance.tables)?, core).into(),
            extern_kind::MEMORY => Memory::from_index(at(&instance.memories)?, core).into(),
            extern_kind::GLOBAL => Global::from_index(at(&instance.globals)?, core).into(),
            extern_kind::TAG => Tag::from_index(at(&instance.tags)?, core).into(),
            // SAFETY: the function references of an instance belong to its store.
            _ => unsafe { Func::from_raw(instance.function(index)?, core) }.into(),
        })
    }

    /// All exports, sorted by name.
    ///
    /// # Errors
    /// [`Error::WrongStore`].
    pub fn exports<'s, 'c: 's>(
        &self,
        store: &'s impl AsStore<'c>,
    ) -> Result<impl Iterator<Item = (&'s str, Extern<'c>)>, Error> {
        let core = store.as_store().core();
        self.check(core)?;
        let view = core.instances[self.index as usize].artifact.view();
        let index = self.index;
        Ok(view.exports().iter().filter_map(move |export| {
            let item = Self::resolve(core, index, export.kind.get(), export.index.get())?;
            Some((view.text(export.name), item))
        }))
    }

    fn get<'c, V>(
        &self,
        store: &impl AsStore<'c>,
        name: &str,
        wanted: &'static str,
        select: impl FnOnce(Extern<'c>) -> Option<V>,
    ) -> Result<V, Error> {
        let core = store.as_store().core();
        self.check(core)?;
        let item =
            self.export_in(core, name).ok_or_else(|| Error::NoExport { name: name.to_owned() })?;
        match select(item) {
            Some(found) => Ok(found),
            None => Err(Error::ExportKind {
                name: name.to_owned(),
                wanted,
                found: Box::new(item.ty_in(core)?),
            }),
        }
    }

    /// The exported function with this name.
    ///
    /// # Errors
    /// [`Error::NoExport`], [`Error::ExportKind`] and [`Error::WrongStore`],
    /// as for the other methods.
    pub fn func<'c>(&self, store: &impl AsStore<'c>, name: &str) -> Result<Func<'c>, Error> {
        self.get(store, name, "function", Extern::into_func)
    }

    /// The exported function with this name, with types that Rust knows.
    ///
    /// # Errors
    /// As for [`Instance::func`], and [`Error::FuncType`].
    pub fn typed_func<'c, Params: WasmTyList, Results: WasmTyList>(
        &self,
        store: &impl AsStore<'c>,
        name: &str,
    ) -> Result<TypedFunc<'c, Params, Results>, Error> {
        self.func(store, name)?.typed(store)
    }

    /// The exported memory with this name.
    ///
    /// # Errors
    /// As for [`Instance::func`].
    pub fn memory<'c>(&self, store: &impl AsStore<'c>, name: &str) -> Result<Memory<'c>, Error> {
        self.get(store, name, "memory", Extern::into_memory)
    }

    /// The exported table with this name.
    ///
    /// # Errors
    /// As for [`Instance::func`].
    pub fn table<'c>(&self, store: &impl AsStore<'c>, name: &str) -> Result<Table<'c>, Error> {
        self.get(store, name, "table", Extern::into_table)
    }

    /// The exported global with this name.
    ///
    /// # Errors
    /// As for [`Instance::func`].
    pub fn global<'c>(&self, store: &impl AsStore<'c>, name: &str) -> Result<Global<'c>, Error> {
        self.get(store, name, "global", Extern::into_global)
    }

    /// The exported tag with this name.
    ///
    /// # Errors
    /// As for [`Instance::func`].
    pub fn tag<'c>(&self, store: &impl AsStore<'c>, name: &str) -> Result<Tag<'c>, Error> {
        self.get(store, name, "tag", Extern::into_tag)
    }
}
