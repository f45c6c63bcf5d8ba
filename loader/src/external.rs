//! What instances import and export.

use cwasm_artifact::types::ExternType;

use crate::error::Error;
use crate::func::Func;
use crate::global::Global;
use crate::memory::Memory;
use crate::store::{AsStore, StoreCore};
use crate::table::Table;
use crate::tag::Tag;

/// An import or export of an instance.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Extern<'code> {
    /// A function.
    Func(Func<'code>),
    /// A table.
    Table(Table<'code>),
    /// A linear memory.
    Memory(Memory<'code>),
    /// A global.
    Global(Global<'code>),
    /// A tag of exceptions.
    Tag(Tag<'code>),
}

impl<'code> Extern<'code> {
    /// The type.
    ///
    /// # Errors
    /// [`Error::WrongStore`].
    pub fn ty<'c>(&self, store: &impl AsStore<'c>) -> Result<ExternType, Error> {
        self.ty_in(store.as_store().core())
    }

    pub(crate) fn ty_in(&self, core: &StoreCore<'_>) -> Result<ExternType, Error> {
        Ok(match self {
            Self::Func(func) => ExternType::Func(func.ty_in(core)?.clone()),
            Self::Table(table) => ExternType::Table(table.ty_in(core)?),
            Self::Memory(memory) => ExternType::Memory(memory.ty_in(core)?),
            Self::Global(global) => ExternType::Global(global.ty_in(core)?),
            Self::Tag(tag) => ExternType::Tag(tag.ty_in(core)?.clone()),
        })
    }

    /// The function, if this is one.
    #[must_use]
    pub fn into_func(self) -> Option<Func<'code>> {
        if let Self::Func(func) = self { Some(func) } else { None }
    }

    /// The table, if this is one.
    #[must_use]
    pub fn into_table(self) -> Option<Table<'code>> {
        if let Self::Table(table) = self { Some(table) } else { None }
    }

    /// The memory, if this is one.
    #[must_use]
    pub fn into_memory(self) -> Option<Memory<'code>> {
        if let Self::Memory(memory) = self { Some(memory) } else { None }
    }

    /// The global, if this is one.
    #[must_use]
    pub fn into_global(self) -> Option<Global<'code>> {
        if let Self::Global(global) = self { Some(global) } else { None }
    }

    /// The tag, if this is one.
    #[must_use]
    pub fn into_tag(self) -> Option<Tag<'code>> {
        if let Self::Tag(tag) = self { Some(tag) } else { None }
    }
}

macro_rules! from {
    ($($ty:ident)*) => { $(
        impl<'code> From<$ty<'code>> for Extern<'code> {
            fn from(item: $ty<'code>) -> Self {
                Self::$ty(item)
            }
        }
    )* };
}

from! { Func Table Memory Global Tag }
