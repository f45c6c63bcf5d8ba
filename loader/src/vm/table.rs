//! Tables: vectors of references, which compiled code reads in place.

use std::ffi::c_void;
use std::ptr;

use cwasm_artifact::types::TableType;

use super::layout::VmTableDefinition;
use super::memory::range_within;
use crate::error::Error;

/// A reference: a pointer to a `VmFuncRef`, or an opaque number for the host.
/// Null is null.
pub(crate) type RawRef = *mut c_void;

/// A table. Always in a `Stable`, since `definition` is pointed to.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct VmTable {
    definition: VmTableDefinition,
    elements: Vec<RawRef>,
    ty: TableType,
}

// SAFETY: the pointers are to function references that the table's store
// owns, and are followed only with the store.
unsafe impl Send for VmTable {}
// SAFETY: as above; sharing allows reading only.
unsafe impl Sync for VmTable {}

impl VmTable {
    /// Creates a table of the type's minimum size, filled with `init`.
    pub(crate) fn new(ty: TableType, init: RawRef, limit: u64) -> Result<Self, Error> {
        let mut table = Self {
            definition: VmTableDefinition { elements: ptr::null_mut(), length: 0 },
            elements: Vec::new(),
            ty,
        };
        let too_large = Error::TableLimit { elements: ty.limits.min };
        table.grow(ty.limits.min, init, limit).ok_or(too_large)?;
        Ok(table)
    }

    /// Grows by `delta` elements; returns the old size, or `None` if the
    /// table's maximum, `limit` or the system forbids it.
    pub(crate) fn grow(&mut self, delta: u64, init: RawRef, limit: u64) -> Option<u64> {
        let old = self.elements.len() as u64;
        let new = old.checked_add(delta)?;
        let max = self.ty.limits.max.unwrap_or(u64::MAX).min(self.ty.index.max());
        if delta > 0 {
            if new > max.min(limit) {
                return None;
            }
            self.elements.try_reserve(usize::try_from(delta).ok()?).ok()?;
            self.elements.resize(usize::try_from(new).ok()?, init);
            self.definition = VmTableDefinition {
                elements: self.elements.as_mut_ptr(),
                length: self.elements.len(),
            };
        }
        Some(old)
    }

    pub(crate) fn ty(&self) -> &TableType {
        &self.ty
    }

    pub(crate) fn size(&self) -> u64 {
        // Compiled code writes elements, but never the length.
        self.elements.len() as u64
    }

    /// The elements. Compiled code writes to them through the definition.
    fn elements(&self) -> &[RawRef] {
        if self.definition.length == 0 {
            return &[];
        }
        // SAFETY: `elements` points to the vector's `length` initialised
        // elements (see `grow`); compiled code writes to them only while the
        // store is borrowed exclusively.
        unsafe { std::slice::from_raw_parts(self.definition.elements, self.definition.length) }
    }

    fn elements_mut(&mut self) -> &mut [RawRef] {
        if self.definition.length == 0 {
            return &mut [];
        }
        // SAFETY: as in `elements`, and `&mut self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.definition.elements, self.definition.length) }
    }

    pub(crate) fn get(&self, index: u64) -> Option<RawRef> {
        self.elements().get(usize::try_from(index).ok()?).copied()
    }

    pub(crate) fn set(&mut self, index: u64, value: RawRef) -> Option<()> {
        *self.elements_mut().get_mut(usize::try_from(index).ok()?)? = value;
        Some(())
    }

    /// `table.fill`. `None` if it is out of bounds.
    pub(crate) fn fill(&mut self, start: u64, value: RawRef, length: u64) -> Option<()> {
        let range = range_within(start, length, self.elements.len())?;
        self.elements_mut()[range].fill(value);
        Some(())
    }

    /// The elements in a range, or `None` if it is out of bounds.
    pub(crate) fn range(&self, start: u64, length: u64) -> Option<&[RawRef]> {
        self.elements().get(range_within(start, length, self.elements.len())?)
    }

    /// The elements in a range, or `None` if it is out of bounds.
    pub(crate) fn range_mut(&mut self, start: u64, length: u64) -> Option<&mut [RawRef]> {
        let range = range_within(start, length, self.elements.len())?;
        self.elements_mut().get_mut(range)
    }

    /// `table.copy` within this table. `None` if it is out of bounds.
    pub(crate) fn copy_within(&mut self, to: u64, from: u64, length: u64) -> Option<()> {
        let source = range_within(from, length, self.elements.len())?;
        let target = range_within(to, length, self.elements.len())?;
        self.elements_mut().copy_within(source, target.start);
        Some(())
    }
}
