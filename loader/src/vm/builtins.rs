//! The builtins: what compiled code calls for everything that is more than a
//! few instructions.
//!
//! Each gets the vmctx of its caller, finds the store, and says by its result
//! whether it succeeded; the compiled code traps. None panics, none calls
//! back into the application.

use std::ffi::c_void;
use std::ptr;
use std::ptr::NonNull;

use cwasm_artifact::abi::builtins::Builtin;

use super::layout::VmContext;
use super::memory::{self, NoAccess, range_within};
use super::shared::Expected;
use super::table::RawRef;
use super::throw;
use crate::store::StoreCore;

/// The array of builtins, in the order of the ABI.
#[repr(transparent)]
pub(crate) struct BuiltinArray([*const c_void; Builtin::ALL.len()]);

// SAFETY: the pointers are to functions, which every thread may call.
unsafe impl Sync for BuiltinArray {}

/// The addresses that compiled code finds through its vmctx.
static BUILTINS: BuiltinArray = BuiltinArray({
    let mut array = [ptr::null(); Builtin::ALL.len()];
    array[Builtin::MemoryGrow as usize] = memory_grow as *const c_void;
    array[Builtin::MemoryCopy as usize] = memory_copy as *const c_void;
    array[Builtin::MemoryFill as usize] = memory_fill as *const c_void;
    array[Builtin::MemoryMove as usize] = memory_move as *const c_void;
    array[Builtin::MemorySet as usize] = memory_set as *const c_void;
    array[Builtin::MemoryInit as usize] = memory_init as *const c_void;
    array[Builtin::DataDrop as usize] = data_drop as *const c_void;
    array[Builtin::TableGrow as usize] = table_grow as *const c_void;
    array[Builtin::TableCopy as usize] = table_copy as *const c_void;
    array[Builtin::TableFill as usize] = table_fill as *const c_void;
    array[Builtin::TableInit as usize] = table_init as *const c_void;
    array[Builtin::ElemDrop as usize] = elem_drop as *const c_void;
    array[Builtin::MemoryWait32 as usize] = memory_wait32 as *const c_void;
    array[Builtin::MemoryWait64 as usize] = memory_wait64 as *const c_void;
    array[Builtin::MemoryNotify as usize] = memory_notify as *const c_void;
    array[Builtin::NewEpoch as usize] = new_epoch as *const c_void;
    array[Builtin::ExceptionNew as usize] = throw::exception_new as *const c_void;
    array[Builtin::ExceptionDrop as usize] = exception_drop as *const c_void;
    array[Builtin::Throw as usize] = throw::throw as *const c_void;
    array[Builtin::ObjectNew as usize] = throw::object_new as *const c_void;
    array[Builtin::ArrayInitData as usize] = array_init_data as *const c_void;
    array[Builtin::ArrayInitElem as usize] = array_init_elem as *const c_void;
    array
});

/// Where the array is.
pub(crate) fn address() -> *const usize {
    (&raw const BUILTINS).cast()
}

/// The store of a calling instance, and the instance's index in it.
///
/// # Safety
/// `vmctx` must be the vmctx of a live instance whose code is running, and the
/// result must not outlive the builtin.
pub(super) unsafe fn caller<'a>(vmctx: *mut VmContext) -> (&'a mut StoreCore<'a>, usize) {
    // SAFETY: the vmctx is alive. The store context is the first field of its
    // store, which whoever entered wasm has borrowed exclusively and does not
    // use meanwhile, so that this is the only reference.
    unsafe {
        let store = NonNull::new_unchecked((*vmctx).store_context.cast::<StoreCore<'a>>());
        (&mut *store.as_ptr(), (*vmctx).instance as usize)
    }
}

/// A truth value as compiled code expects it.
fn success(result: Option<()>) -> u32 {
    u32::from(result.is_some())
}

/// A truth value, after it was noted if the trap that follows is for something that is lost.
fn accessed(store: &mut StoreCore<'_>, result: Result<(), NoAccess>) -> u32 {
    if let Err(NoAccess::Lost(lost)) = result {
        store.note_lost(lost);
    }
    u32::from(result.is_ok())
}

#[expect(clippy::cast_possible_wrap, reason = "sizes are far below the sign bit; -1 is failure")]
fn old_size(result: Option<u64>) -> i64 {
    result.map_or(-1, |size| size as i64)
}

unsafe extern "C" fn memory_grow(vmctx: *mut VmContext, memory: u32, delta: u64) -> i64 {
    // SAFETY: compiled code passes its own vmctx.
    let (store, instance) = unsafe { caller(vmctx) };
    let memory = store.instances[instance].memories[memory as usize];
    old_size(store.grow_memory(memory, delta))
}

unsafe extern "C" fn memory_copy(
    vmctx: *mut VmContext,
    to_memory: u32,
    from_memory: u32,
    to: u64,
    from: u64,
    length: u64,
) -> u32 {
    // SAFETY: compiled code passes its own vmctx.
    let (store, instance) = unsafe { caller(vmctx) };
    let memories = &store.instances[instance].memories;
    let (target, source) = (memories[to_memory as usize], memories[from_memory as usize]);
    let result = memory::copy(&mut store.memories, (target, to), (source, from), length);
    accessed(store, result)
}

unsafe extern "C" fn memory_fill(
    vmctx: *mut VmContext,
    memory: u32,
    to: u64,
    value: u32,
    length: u64,
) -> u32 {
    // SAFETY: compiled code passes its own vmctx.
    let (store, instance) = unsafe { caller(vmctx) };
    let memory = store.instances[instance].memories[memory as usize] as usize;
    let result = store.memories[memory].fill(to, value.to_le_bytes()[0], length);
    accessed(store, result)
}

/// The length of a range of memory that compiled code has checked.
#[expect(clippy::cast_possible_truncation, reason = "it lies in the address space")]
fn checked_length(length: u64) -> usize {
    length as usize
}

/// Whether a memory of the store may have bytes that are not loaded yet, or are late.
///
/// # Safety
/// `vmctx` is that of a live instance whose code is running.
#[inline]
unsafe fn has_late_memory(vmctx: *mut VmContext) -> bool {
    // SAFETY: the store of a live instance is alive, and no reference to it exists while its code runs.
    unsafe { StoreCore::has_late_memory((*vmctx).store_context.cast()) }
}

/// Makes a range that compiled code has checked present. If that fails, the trap that follows is for what is lost.
///
/// # Safety
/// As for [`has_late_memory`]; the range lies in a memory of the store, or in an object, which is always present.
unsafe fn make_present(vmctx: *mut VmContext, start: *const u8, length: usize) -> bool {
    // SAFETY: compiled code passes its own vmctx.
    let (store, _) = unsafe { caller(vmctx) };
    let mut memories = store.memories.iter();
    let result = memories.try_for_each(|memory| memory.load_addresses(start.addr(), length));
    // Perhaps that was the last of it.
    store.look_for_late_memory();
    accessed(store, result.map_err(NoAccess::Lost)) != 0
}

// In the next two, everything is in the last place and returns what the C function returns: in the common case, they are a jump to that.

unsafe extern "C" fn memory_move(
    vmctx: *mut VmContext,
    to: *mut u8,
    from: *const u8,
    length: u64,
) -> *mut u8 {
    // SAFETY: compiled code passes its own vmctx, and has checked that both ranges lie in memories or objects of its store, which no
    // other thread has. Whoever entered wasm has borrowed the store exclusively, so nobody has a reference to their bytes,
    // which are present.
    unsafe {
        if has_late_memory(vmctx) {
            return memory_move_late(vmctx, to, from, length);
        }
        ptr::copy(from, to, checked_length(length));
    }
    to
}

/// # Safety
/// As for [`memory_move`].
#[cold]
#[inline(never)]
unsafe extern "C" fn memory_move_late(
    vmctx: *mut VmContext,
    to: *mut u8,
    from: *const u8,
    length: u64,
) -> *mut u8 {
    let length = checked_length(length);
    // SAFETY: as above; and now they are present.
    unsafe {
        if !make_present(vmctx, to, length) || !make_present(vmctx, from, length) {
            return ptr::null_mut();
        }
        ptr::copy(from, to, length);
    }
    to
}

unsafe extern "C" fn memory_set(
    vmctx: *mut VmContext,
    to: *mut u8,
    value: u32,
    length: u64,
) -> *mut u8 {
    // SAFETY: as above.
    unsafe {
        if has_late_memory(vmctx) {
            return memory_set_late(vmctx, to, value, length);
        }
        ptr::write_bytes(to, value.to_le_bytes()[0], checked_length(length));
    }
    to
}

/// # Safety
/// As for [`memory_set`].
#[cold]
#[inline(never)]
unsafe extern "C" fn memory_set_late(
    vmctx: *mut VmContext,
    to: *mut u8,
    value: u32,
    length: u64,
) -> *mut u8 {
    let length = checked_length(length);
    // SAFETY: as above.
    unsafe {
        if !make_present(vmctx, to, length) {
            return ptr::null_mut();
        }
        ptr::write_bytes(to, value.to_le_bytes()[0], length);
    }
    to
}

unsafe extern "C" fn memory_init(
    vmctx: *mut VmContext,
    memory: u32,
    segment: u32,
    to: u64,
    from: u32,
    length: u32,
) -> u32 {
    // SAFETY: compiled code passes its own vmctx.
    let (store, instance) = unsafe { caller(vmctx) };
    let memory = store.instances[instance].memories[memory as usize];
    let result = store.init_memory(instance, memory, segment, to, from.into(), length.into());
    accessed(store, result)
}

unsafe extern "C" fn data_drop(vmctx: *mut VmContext, segment: u32) {
    // SAFETY: compiled code passes its own vmctx.
    let (store, instance) = unsafe { caller(vmctx) };
    store.instances[instance].dropped_data[segment as usize] = true;
}

unsafe extern "C" fn table_grow(
    vmctx: *mut VmContext,
    table: u32,
    delta: u64,
    init: RawRef,
) -> i64 {
    // SAFETY: compiled code passes its own vmctx.
    let (store, instance) = unsafe { caller(vmctx) };
    let table = store.instances[instance].tables[table as usize];
    old_size(store.grow_table(table, delta, init))
}

unsafe extern "C" fn table_copy(
    vmctx: *mut VmContext,
    to_table: u32,
    from_table: u32,
    to: u64,
    from: u64,
    length: u64,
) -> u32 {
    // SAFETY: compiled code passes its own vmctx.
    let (store, instance) = unsafe { caller(vmctx) };
    let tables = &store.instances[instance].tables;
    let (target, source) =
        (tables[to_table as usize] as usize, tables[from_table as usize] as usize);
    if target == source {
        return success(store.tables[target].copy_within(to, from, length));
    }
    let Ok([target, source]) = store.tables.get_disjoint_mut([target, source]) else {
        return 0;
    };
    let copied = source
        .range(from, length)
        .zip(target.range_mut(to, length))
        .map(|(source, target)| target.copy_from_slice(source));
    success(copied)
}

unsafe extern "C" fn table_fill(
    vmctx: *mut VmContext,
    table: u32,
    to: u64,
    value: RawRef,
    length: u64,
) -> u32 {
    // SAFETY: compiled code passes its own vmctx.
    let (store, instance) = unsafe { caller(vmctx) };
    let table = store.instances[instance].tables[table as usize] as usize;
    success(store.tables[table].fill(to, value, length))
}

unsafe extern "C" fn table_init(
    vmctx: *mut VmContext,
    table: u32,
    segment: u32,
    to: u64,
    from: u32,
    length: u32,
) -> u32 {
    // SAFETY: compiled code passes its own vmctx.
    let (store, instance) = unsafe { caller(vmctx) };
    let table = store.instances[instance].tables[table as usize];
    success(store.init_table(instance, table, segment, to, from.into(), length.into()))
}

unsafe extern "C" fn elem_drop(vmctx: *mut VmContext, segment: u32) {
    // SAFETY: compiled code passes its own vmctx.
    let (store, instance) = unsafe { caller(vmctx) };
    store.instances[instance].drop_elements(segment);
}

unsafe extern "C" fn exception_drop(vmctx: *mut VmContext, exception: RawRef) {
    // SAFETY: compiled code passes its own vmctx.
    let (store, _) = unsafe { caller(vmctx) };
    store.exceptions.caught(exception);
}

unsafe extern "C" fn array_init_data(
    vmctx: *mut VmContext,
    segment: u32,
    to: *mut u8,
    from: u64,
    length: u64,
) -> u32 {
    // SAFETY: compiled code passes its own vmctx.
    let (store, instance) = unsafe { caller(vmctx) };
    let bytes = store.instances[instance].data(segment);
    let bytes = range_within(from, length, bytes.len()).and_then(|range| bytes.get(range));
    if let Some(bytes) = bytes
        && !to.is_null()
    {
        // SAFETY: compiled code passes the address of elements of an array that have as many bytes. No reference to an object exists.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }
    u32::from(bytes.is_some())
}

unsafe extern "C" fn array_init_elem(
    vmctx: *mut VmContext,
    segment: u32,
    to: *mut RawRef,
    from: u64,
    length: u64,
) -> u32 {
    // SAFETY: compiled code passes its own vmctx.
    let (store, instance) = unsafe { caller(vmctx) };
    let places = store.instances[instance].elements(segment, from, length);
    if let Some(places) = places.clone()
        && !to.is_null()
    {
        for (index, place) in places.enumerate() {
            let value = store.element(instance, segment, place);
            // SAFETY: compiled code passes the address of as many elements, which are references, of an array.
            unsafe { to.add(index).write(value) };
        }
    }
    success(places.map(|_| ()))
}

unsafe extern "C" fn memory_wait32(
    vmctx: *mut VmContext,
    memory: u32,
    address: u64,
    expected: u32,
    timeout: i64,
) -> u32 {
    // SAFETY: compiled code passes its own vmctx.
    let (store, instance) = unsafe { caller(vmctx) };
    let memory = store.instances[instance].memories[memory as usize];
    store.wait_in_memory(memory, address, Expected::Four(expected), timeout)
}

unsafe extern "C" fn memory_wait64(
    vmctx: *mut VmContext,
    memory: u32,
    address: u64,
    expected: u64,
    timeout: i64,
) -> u32 {
    // SAFETY: compiled code passes its own vmctx.
    let (store, instance) = unsafe { caller(vmctx) };
    let memory = store.instances[instance].memories[memory as usize];
    store.wait_in_memory(memory, address, Expected::Eight(expected), timeout)
}

unsafe extern "C" fn memory_notify(
    vmctx: *mut VmContext,
    memory: u32,
    address: u64,
    count: u32,
) -> i64 {
    // SAFETY: compiled code passes its own vmctx.
    let (store, instance) = unsafe { caller(vmctx) };
    let memory = store.instances[instance].memories[memory as usize] as usize;
    let memory = &store.memories[memory];
    let woken = match memory.shared() {
        Some(memory) => memory.vm().notify(address, count),
        // Nobody can wait there.
        None => range_within(address, 4, memory.byte_length()).map(|_| 0),
    };
    woken.map_or(-1, i64::from)
}

/// The deadline is the store's word; a store without a way to move it stops.
unsafe extern "C" fn new_epoch(_vmctx: *mut VmContext) -> u32 {
    0
}

#[cfg(test)]
mod tests {
    use cwasm_artifact::types::{Limits, MemoryType};

    use super::*;
    use crate::engine::Engine;
    use crate::store::{AsStoreMut as _, Store};
    use crate::vm::activation;

    #[test]
    fn every_builtin_has_an_address() {
        assert!(BUILTINS.0.iter().all(|address| !address.is_null()));
    }

    #[test]
    fn bulk_operations_notice_that_nothing_is_late_any_more() {
        const PAGE: usize = 65536;
        activation::prepare().unwrap();
        // From where, to where, how many bytes, and whether that touches late pages.
        for (from, to, length, opens) in [
            (None, 0, 4 * PAGE, false),
            (None, 4 * PAGE, 9, true),
            (Some(0), 4 * PAGE - 9, 9, false),
            (Some(5 * PAGE - 9), 0, 9, true),
            (Some(0), 5 * PAGE - 9, 9, true),
        ] {
            let mut store = Store::new(&Engine::default(), ());
            let mut store = store.as_store_mut();
            let ty = MemoryType::new(Limits { min: 1, max: None });
            for index in 0..2 {
                let core = store.core_mut();
                core.add_memory(&ty, true, None).unwrap();
                (1..=4).for_each(|size| assert_eq!(core.grow_memory(index, 1), Some(size)));
            }
            for memory in 0..2 {
                let base = store.core_mut().memories[memory].base();
                let store_context = StoreCore::context(store.core_ptr());
                let builtins = ptr::null();
                let mut vmctx = VmContext { magic: 0, instance: 0, store_context, builtins };
                // SAFETY: the ranges lie in the memory of the store, which nobody else uses. No more is used of the vmctx.
                let done = unsafe {
                    let (to, length) = (base.add(to), length as u64);
                    match from {
                        Some(from) => memory_move(&mut vmctx, to, base.add(from), length),
                        None => memory_set(&mut vmctx, to, 7, length),
                    }
                };
                assert!(!done.is_null());
                assert_eq!(store.core_mut().late_memory, !opens || memory == 0);
            }
        }
    }
}
