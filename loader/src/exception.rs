//! Handles of exceptions.

use std::fmt;
use std::ptr::NonNull;

use crate::error::{Error, Frame, write_frames};
use crate::store::{AsStore, AsStoreMut, StoreCore, StoreId};
use crate::tag::Tag;
use crate::value::Val;
use crate::vm::exception::{Origin, Root, VmException, pin, values};
use crate::vm::table::RawRef;

/// An exception of a store.
///
/// A call that ends with an exception which wasm did not catch returns it in [`Error::Exception`]. A host
/// function throws it, or any other, by returning it as its error: `Err(exception.into())`.
/// Wasm that calls the function can then catch it.
///
/// The exception lives as long as a handle of it, and as long as something in the store leads
/// to it. A handle does not keep the store, and is of no use without it.
#[derive(Clone)]
pub struct Exception {
    store: StoreId,
    raw: NonNull<VmException>,
    root: Root,
    origin: Origin,
}

// SAFETY: the pointer is followed only together with the store that it belongs
// to, which is checked by the store's identity, and what it leads to lives as long as the root.
unsafe impl Send for Exception {}
// SAFETY: as above.
unsafe impl Sync for Exception {}

impl Exception {
    /// Makes an exception for a host function to throw.
    ///
    /// # Errors
    /// If the values do not fit the tag's type, something belongs to another store, or there are as many
    /// exceptions as the store may hold.
    pub fn new<'code>(
        store: &mut impl AsStoreMut<'code>,
        tag: Tag<'code>,
        with: &[Val<'_>],
    ) -> Result<Self, Error> {
        let mut store = store.as_store_mut();
        let core = store.core_mut();
        let index = tag.index(core)?;
        let types = &tag.ty_in(core)?.params;
        if types.len() != with.len() {
            return Err(Error::ArgumentCount { wanted: types.len(), found: with.len() });
        }
        let raw_values: Vec<_> = with
            .iter()
            .zip(types)
            .map(|(value, ty)| value.to_raw(*ty, core))
            .collect::<Result<_, _>>()?;
        // SAFETY: the host is running.
        let raw = unsafe { core.add_exception(index, None) };
        let limit = core.limits.exceptions;
        let raw = raw.ok_or(Error::StoreLimit { what: "exceptions", limit })?;
        for (position, value) in raw_values.into_iter().enumerate() {
            // SAFETY: the exception was just made, with a slot for each value of its tag.
            unsafe { values(raw).add(position).write(value) };
        }
        let root = core.exceptions.root(raw).ok_or(Error::WrongStore { what: "exception" })?;
        Ok(Self { store: core.id, raw, root, origin: Origin::default() })
    }

    pub(crate) fn from_raw(
        raw: NonNull<VmException>,
        root: Root,
        origin: Origin,
        core: &StoreCore<'_>,
    ) -> Self {
        Self { store: core.id, raw, root, origin }
    }

    /// The exception and its root, if it belongs to the store.
    pub(crate) fn raw(&self, core: &StoreCore<'_>) -> Option<(NonNull<VmException>, Root)> {
        (self.store == core.id).then(|| (self.raw, Root::clone(&self.root)))
    }

    fn checked(&self, core: &StoreCore<'_>) -> Result<NonNull<VmException>, Error> {
        let raw = self.raw(core).map(|(raw, _)| raw);
        raw.ok_or(Error::WrongStore { what: "exception" })
    }

    /// The tag.
    ///
    /// # Errors
    /// [`Error::WrongStore`], as for the other methods.
    pub fn tag<'c>(&self, store: &impl AsStore<'c>) -> Result<Tag<'c>, Error> {
        let core = store.as_store().core();
        Ok(tag_of(self.checked(core)?, core))
    }

    /// The values.
    ///
    /// # Errors
    /// [`Error::WrongStore`].
    pub fn values<'c>(&self, store: &impl AsStore<'c>) -> Result<Vec<Val<'c>>, Error> {
        let core = store.as_store().core();
        Ok(values_of(self.checked(core)?, core))
    }

    /// A reference to the exception, for wasm. It keeps the exception as long as the store.
    ///
    /// # Errors
    /// [`Error::WrongStore`].
    pub fn to_ref<'c>(&self, store: &impl AsStore<'c>) -> Result<ExnRef, Error> {
        let raw = self.checked(store.as_store().core())?;
        pin(raw);
        Ok(ExnRef { store: self.store, raw })
    }

    /// Where it was thrown: the wasm functions that were running, innermost first. Empty until it has left
    /// wasm.
    #[must_use]
    pub fn frames(&self) -> &[Frame] {
        &self.origin.frames
    }

    /// How many more frames there were than [`Exception::frames`] holds. Functions that were copied into others count with them as one
    /// here.
    #[must_use]
    pub fn omitted_frames(&self) -> usize {
        self.origin.omitted
    }
}

impl fmt::Debug for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exception").field("frames", &self.frames()).finish_non_exhaustive()
    }
}

impl fmt::Display for Exception {
    /// That it was not caught, and a line per frame.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unhandled wasm exception")?;
        write_frames(f, self.frames(), self.omitted_frames())
    }
}

impl std::error::Error for Exception {}

/// A reference to an exception, as values, tables and globals hold it.
///
/// An exception that the host has seen by a reference lives as long as its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExnRef {
    store: StoreId,
    raw: NonNull<VmException>,
}

// SAFETY: the pointer is followed only together with the store that it belongs
// to, which is checked by the store's identity, and what it leads to lives as long as the store.
unsafe impl Send for ExnRef {}
// SAFETY: as above.
unsafe impl Sync for ExnRef {}

impl ExnRef {
    fn checked(&self, core: &StoreCore<'_>) -> Result<NonNull<VmException>, Error> {
        if self.store == core.id {
            Ok(self.raw)
        } else {
            Err(Error::WrongStore { what: "exception" })
        }
    }

    pub(crate) fn to_raw(self, core: &StoreCore<'_>) -> Result<RawRef, Error> {
        Ok(self.checked(core)?.as_ptr().cast())
    }

    /// # Safety
    /// `raw` is a reference to a live exception of the store, or null.
    pub(crate) unsafe fn from_raw(raw: RawRef, core: &StoreCore<'_>) -> Option<Self> {
        let raw = NonNull::new(raw.cast())?;
        pin(raw);
        Some(Self { store: core.id, raw })
    }

    /// The tag.
    ///
    /// # Errors
    /// [`Error::WrongStore`], as for the other methods.
    pub fn tag<'c>(&self, store: &impl AsStore<'c>) -> Result<Tag<'c>, Error> {
        let core = store.as_store().core();
        Ok(tag_of(self.checked(core)?, core))
    }

    /// The values.
    ///
    /// # Errors
    /// [`Error::WrongStore`].
    pub fn values<'c>(&self, store: &impl AsStore<'c>) -> Result<Vec<Val<'c>>, Error> {
        let core = store.as_store().core();
        Ok(values_of(self.checked(core)?, core))
    }

    /// The exception, for a host function to throw.
    ///
    /// # Errors
    /// [`Error::WrongStore`].
    pub fn exception<'c>(&self, store: &mut impl AsStoreMut<'c>) -> Result<Exception, Error> {
        let mut store = store.as_store_mut();
        let core = store.core_mut();
        let raw = self.checked(core)?;
        let root = core.exceptions.root(raw).ok_or(Error::WrongStore { what: "exception" })?;
        let origin = core.exceptions.originate(raw, || None);
        Ok(Exception { store: self.store, raw, root, origin })
    }
}

/// The tag of an exception of the store that lives.
fn tag_of<'c>(raw: NonNull<VmException>, core: &StoreCore<'c>) -> Tag<'c> {
    // SAFETY: callers have a handle that keeps the exception; its tag belongs to the store.
    let index = unsafe { (*raw.as_ref().tag).index };
    Tag::from_index(index, core)
}

/// The values of an exception of the store that lives.
fn values_of<'c>(raw: NonNull<VmException>, core: &StoreCore<'c>) -> Vec<Val<'c>> {
    // SAFETY: callers have a handle that keeps the exception; its tag belongs to the store. There is a slot for each
    // value, which whoever made the exception has written with a value of the type.
    unsafe {
        let types = &(*raw.as_ref().tag).ty.params;
        let slots = values(raw);
        let value =
            |(position, ty): (usize, &_)| Val::from_raw(slots.add(position).read(), *ty, core);
        types.iter().enumerate().map(value).collect()
    }
}
