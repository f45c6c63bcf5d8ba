//! The vmctx of an instance: one zeroed allocation, written once at
//! instantiation by offset, read and written by compiled code after that.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ffi::c_void;
use std::ops::Range;
use std::ptr::NonNull;

use cwasm_artifact::abi::vmctx::{VMCTX_MAGIC, VmctxLayout};
use cwasm_artifact::records::{ItemRecord, NONE};

use super::exception::VmTag;
use super::host_func::VmHostFunc;
use super::layout::{VmContext, VmFuncImport, VmFuncRef, VmMemorySlot, VmStoreContext, VmValue};
use super::memory::{StoreMemory, range_within};
use super::stable::Stable;
use super::table::{RawRef, VmTable};
use crate::artifact::Artifact;
use crate::error::Error;

/// An instance of a module.
#[derive(Debug)]
pub(crate) struct VmInstance<'code> {
    pub(crate) artifact: &'code Artifact,
    vmctx: NonNull<VmContext>,
    layout: VmctxLayout,
    /// Indices in the store, by the module's index spaces.
    pub(crate) memories: Box<[u32]>,
    pub(crate) tables: Box<[u32]>,
    pub(crate) globals: Box<[u32]>,
    pub(crate) tags: Box<[u32]>,
    /// Host functions that were imported for this instance.
    pub(crate) host_funcs: Vec<Stable<VmHostFunc>>,
    pub(crate) dropped_elements: Box<[bool]>,
    /// The references of element segments whose expressions make objects, until they are dropped. Empty, if there is no such segment.
    pub(crate) made_elements: Box<[Option<Box<[RawRef]>>]>,
    pub(crate) dropped_data: Box<[bool]>,
    /// The store index of the memory exported as `memory`.
    pub(crate) exported_memory: Option<u32>,
}

// SAFETY: the pointers of an instance lead to parts of its store and of
// artifacts, which move between threads together with it.
unsafe impl Send for VmInstance<'_> {}
// SAFETY: as above; sharing allows reading only.
unsafe impl Sync for VmInstance<'_> {}

fn allocation(layout: &VmctxLayout) -> Result<Layout, Error> {
    // The size is at least that of the head, so never zero.
    Layout::from_size_align(layout.size() as usize, 16).map_err(|_| Error::OutOfMemory)
}

impl<'code> VmInstance<'code> {
    /// Allocates the vmctx of an instance and fills in its head.
    pub(crate) fn new(
        artifact: &'code Artifact,
        index: u32,
        store_context: *mut VmStoreContext,
        builtins: *const usize,
    ) -> Result<Self, Error> {
        let module = artifact.view();
        let layout = *module.layout();
        // SAFETY: the layout has a size that is not zero.
        let vmctx = unsafe { alloc_zeroed(allocation(&layout)?) }.cast::<VmContext>();
        let vmctx = NonNull::new(vmctx).ok_or(Error::OutOfMemory)?;
        // SAFETY: the allocation is large enough for the head, and aligned.
        unsafe {
            vmctx.write(VmContext { magic: VMCTX_MAGIC, instance: index, store_context, builtins });
        }
        Ok(Self {
            artifact,
            vmctx,
            layout,
            memories: Box::default(),
            tables: Box::default(),
            globals: Box::default(),
            tags: Box::default(),
            host_funcs: Vec::new(),
            dropped_elements: vec![false; module.elements().len()].into(),
            made_elements: Box::default(),
            dropped_data: vec![false; module.data_segments().len()].into(),
            exported_memory: None,
        })
    }

    pub(crate) fn vmctx(&self) -> *mut VmContext {
        self.vmctx.as_ptr()
    }

    /// The context of the instance's store.
    pub(crate) fn store_context(&self) -> *mut VmStoreContext {
        // SAFETY: the head was written in `new` and does not change.
        unsafe { (*self.vmctx.as_ptr()).store_context }
    }

    /// The address at `offset` in the vmctx, for a value of type `V`.
    fn at<V>(&self, offset: u32) -> *mut V {
        debug_assert!(offset as usize + size_of::<V>() <= self.layout.size() as usize);
        // SAFETY: `VmctxLayout` only gives offsets of parts that lie within its
        // size, which is the size of the allocation.
        unsafe { self.vmctx.as_ptr().byte_add(offset as usize).cast() }
    }

    pub(crate) fn set_imported_function(&mut self, index: u32, import: VmFuncImport) {
        let place = self.at::<VmFuncImport>(self.layout.imported_function(index));
        // SAFETY: `at` gives a valid place; the layout aligns it to 8.
        unsafe { place.write(import) };
    }

    pub(crate) fn set_memory(&mut self, index: u32, memory: &StoreMemory) {
        let place = self.at::<VmMemorySlot>(self.layout.memory(index));
        let slot = VmMemorySlot { base: memory.base(), definition: memory.definition() };
        // SAFETY: `at` gives a valid place; the layout aligns it to 8.
        unsafe { place.write(slot) };
    }

    pub(crate) fn set_table(&mut self, index: u32, table: &Stable<VmTable>) {
        let place = self.at::<*mut VmTable>(self.layout.table(index));
        // SAFETY: `at` gives a valid place; the layout aligns it to 8.
        unsafe { place.write(table.as_ptr()) };
    }

    pub(crate) fn set_tag(&mut self, index: u32, tag: &Stable<VmTag>) {
        let place = self.at::<*mut VmTag>(self.layout.tag(index));
        // SAFETY: `at` gives a valid place; the layout aligns it to 8.
        unsafe { place.write(tag.as_ptr()) };
    }

    pub(crate) fn set_imported_global(&mut self, index: u32, storage: NonNull<VmValue>) {
        let place = self.at::<NonNull<VmValue>>(self.layout.imported_global(index));
        // SAFETY: `at` gives a valid place; the layout aligns it to 8.
        unsafe { place.write(storage) };
    }

    pub(crate) fn set_type_ids(&mut self, ids: &[u32]) {
        for (index, id) in (0..).zip(ids) {
            let place = self.at::<u32>(self.layout.type_id(index));
            // SAFETY: `at` gives a valid place; the layout aligns it to 4.
            unsafe { place.write(*id) };
        }
    }

    pub(crate) fn set_func_ref(&mut self, number: u32, func_ref: VmFuncRef) {
        // SAFETY: `func_ref` gives a valid place; the layout aligns it to 16.
        unsafe { self.func_ref(number).write(func_ref) };
    }

    /// The storage of a defined global.
    pub(crate) fn defined_global(&self, index: u32) -> NonNull<VmValue> {
        let place = self.at(self.layout.defined_global(index));
        // SAFETY: an address within an allocation is not null.
        unsafe { NonNull::new_unchecked(place) }
    }

    /// The place of a defined function's reference, by its number.
    pub(crate) fn func_ref(&self, number: u32) -> *mut VmFuncRef {
        self.at(self.layout.func_ref(number))
    }

    /// The reference of any function of the module that has one.
    pub(crate) fn function(&self, index: u32) -> Option<NonNull<VmFuncRef>> {
        let module = self.artifact.view();
        if index < module.counts().imported_functions {
            return self.imported_function(index);
        }
        NonNull::new(self.func_ref(module.func_ref(index)?))
    }

    /// The reference that an item of an element segment of functions stands for.
    pub(crate) fn item(&self, item: &ItemRecord) -> Option<NonNull<VmFuncRef>> {
        match item.count.get() {
            NONE => self.imported_function(item.first.get()),
            number if number < self.layout.counts().func_refs => {
                NonNull::new(self.func_ref(number))
            }
            _ => None,
        }
    }

    /// The places of a range of an element segment. `None` if it is out of bounds; a segment that was dropped has none.
    pub(crate) fn elements(&self, segment: u32, from: u64, length: u64) -> Option<Range<usize>> {
        let record = self.artifact.view().elements().get(segment as usize)?;
        let dropped = self.dropped_elements[segment as usize];
        let count = if dropped { 0 } else { record.items.count.get() as usize };
        range_within(from, length, count)
    }

    /// The bytes of a data segment, which has none any more if it was dropped.
    pub(crate) fn data(&self, segment: u32) -> &'code [u8] {
        let view = self.artifact.view();
        match view.data_segments().get(segment as usize) {
            Some(record) if !self.dropped_data[segment as usize] => view.data(record),
            _ => &[],
        }
    }

    /// `elem.drop`.
    pub(crate) fn drop_elements(&mut self, segment: u32) {
        self.dropped_elements[segment as usize] = true;
        if let Some(made) = self.made_elements.get_mut(segment as usize) {
            *made = None;
        }
    }

    fn imported_function(&self, index: u32) -> Option<NonNull<VmFuncRef>> {
        if index >= self.layout.counts().imported_functions {
            return None;
        }
        let import = self.at::<VmFuncImport>(self.layout.imported_function(index));
        // SAFETY: the place is valid and was written at instantiation
        // (it is zero, a null pointer, before).
        NonNull::new(unsafe { (*import).func_ref })
    }

    /// The address of compiled code at a text offset.
    pub(crate) fn code(&self, text_offset: u32) -> *const c_void {
        self.artifact.text()[text_offset as usize..].as_ptr().cast()
    }
}

impl Drop for VmInstance<'_> {
    fn drop(&mut self) {
        if let Ok(layout) = allocation(&self.layout) {
            // SAFETY: allocated in `new` with the same layout, freed once. The
            // store drops its instances together, after their last use.
            unsafe { dealloc(self.vmctx.as_ptr().cast(), layout) };
        }
    }
}
