//! Handles of tags.

use std::marker::PhantomData;
use std::sync::Arc;

use cwasm_artifact::types::{FuncType, TagType};

use crate::error::Error;
use crate::store::{AsStore, AsStoreMut, StoreCore, StoreId};
use crate::type_registry::Registration;
use crate::value::Borrow;

/// A tag of a store: what kind an exception is of, and which values it carries.
///
/// Two tags are different also if they carry the same types.
///
/// A handle: small, `Copy`, used together with its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag<'code> {
    store: StoreId,
    index: u32,
    borrow: Borrow<'code>,
}

impl<'code> Tag<'code> {
    /// Makes a tag.
    ///
    /// # Errors
    /// [`Error::StoreLimit`].
    pub fn new(store: &mut impl AsStoreMut<'code>, ty: TagType) -> Result<Self, Error> {
        let mut store = store.as_store_mut();
        let core = store.core_mut();
        let func_type = FuncType { params: ty.params.clone(), results: Vec::new() };
        let registration = Arc::new(Registration::new(func_type));
        let index = core.add_tag(registration.ids()[0], ty)?;
        core.keep_types(registration);
        Ok(Self::from_index(index, core))
    }

    pub(crate) fn from_index(index: u32, core: &StoreCore<'code>) -> Self {
        Self { store: core.id, index, borrow: PhantomData }
    }

    pub(crate) fn index(&self, core: &StoreCore<'_>) -> Result<u32, Error> {
        if self.store == core.id { Ok(self.index) } else { Err(Error::WrongStore { what: "tag" }) }
    }

    /// The type.
    ///
    /// # Errors
    /// [`Error::WrongStore`].
    pub fn ty<'c>(&self, store: &impl AsStore<'c>) -> Result<TagType, Error> {
        self.ty_in(store.as_store().core()).cloned()
    }

    pub(crate) fn ty_in<'s>(&self, core: &'s StoreCore<'_>) -> Result<&'s TagType, Error> {
        Ok(&core.tags[self.index(core)? as usize].ty)
    }
}
