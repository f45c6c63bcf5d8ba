//! The structures of the ABI (`cwasm_artifact::abi::vmctx`) as Rust types.
//!
//! Each type is followed by assertions, checked when the crate is compiled,
//! that its fields are where compiled code looks for them.

use std::ffi::c_void;
use std::mem::offset_of;
use std::ptr::with_exposed_provenance;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use cwasm_artifact::abi::vmctx;

use super::heap::Window;

/// The first bytes of a vmctx or a host context. What follows depends on the
/// module, and is accessed by offset.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct VmContext {
    /// [`vmctx::VMCTX_MAGIC`] or [`vmctx::HOST_CONTEXT_MAGIC`].
    pub(crate) magic: u32,
    /// Index of the instance in its store. Compiled code does not know it.
    pub(crate) instance: u32,
    pub(crate) store_context: *mut VmStoreContext,
    /// The array of builtins.
    pub(crate) builtins: *const usize,
}

const _: () = {
    assert!(offset_of!(VmContext, magic) == vmctx::MAGIC as usize);
    assert!(offset_of!(VmContext, store_context) == vmctx::STORE_CONTEXT as usize);
    assert!(offset_of!(VmContext, builtins) == vmctx::BUILTINS as usize);
    assert!(size_of::<VmContext>() <= vmctx::VMCTX_HEAD_SIZE as usize);
};

/// State of a store that compiled code uses.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct VmStoreContext {
    pub(crate) stack_limit: usize,
    pub(crate) epoch_deadline: u64,
    pub(crate) epoch_counter: *const AtomicU64,
    pub(crate) fuel: i64,
    pub(crate) entry_fp: usize,
    pub(crate) entry_sp: usize,
    pub(crate) entry_handler: usize,
    pub(crate) exit: VmExit,
    /// Where objects are made.
    pub(crate) objects: Window,
    /// What code may know of types, by their numbers; null if no code asks.
    pub(crate) type_infos: *const *const u32,
}

/// Where wasm was left for the host.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct VmExit {
    /// The frame pointer of the function that called.
    pub(crate) fp: usize,
    /// Where on the stack the return address of that call is.
    pub(crate) return_at: usize,
}

impl VmExit {
    /// Where the host returns to.
    ///
    /// # Safety
    /// It has not returned yet.
    pub(crate) unsafe fn return_address(self) -> usize {
        // SAFETY: the word is a part of the stack, below the frame of a function that waits for the host.
        unsafe { with_exposed_provenance::<usize>(self.return_at).read() }
    }
}

const _: () = {
    use vmctx::store_context as offset;
    assert!(offset_of!(VmStoreContext, stack_limit) == offset::STACK_LIMIT as usize);
    assert!(offset_of!(VmStoreContext, epoch_deadline) == offset::EPOCH_DEADLINE as usize);
    assert!(offset_of!(VmStoreContext, epoch_counter) == offset::EPOCH_COUNTER as usize);
    assert!(offset_of!(VmStoreContext, fuel) == offset::FUEL as usize);
    assert!(offset_of!(VmStoreContext, entry_fp) == offset::ENTRY_FP as usize);
    assert!(offset_of!(VmStoreContext, entry_sp) == offset::ENTRY_SP as usize);
    assert!(offset_of!(VmStoreContext, entry_handler) == offset::ENTRY_HANDLER as usize);
    assert!(offset_of!(VmStoreContext, exit.fp) == offset::EXIT_FP as usize);
    assert!(offset_of!(VmStoreContext, exit.return_at) == offset::EXIT_RETURN as usize);
    assert!(offset_of!(VmStoreContext, objects.next) == offset::OBJECTS_NEXT as usize);
    assert!(offset_of!(VmStoreContext, objects.end) == offset::OBJECTS_END as usize);
    assert!(offset_of!(VmStoreContext, type_infos) == offset::TYPE_INFOS as usize);
    assert!(size_of::<VmStoreContext>() == offset::SIZE as usize);
};

/// One value at the border between host and wasm. An `i32` is in the low 32
/// bits, a float is its bits, a reference is a pointer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(16))]
pub(crate) struct VmValue(pub(crate) u128);

const _: () = assert!(size_of::<VmValue>() == vmctx::VALUE_SIZE as usize);

/// The signature of entry trampolines.
pub(crate) type EntryTrampoline = unsafe extern "C" fn(
    callee_vmctx: *mut VmContext,
    callee_code: *const c_void,
    values: *mut VmValue,
    store_context: *mut VmStoreContext,
) -> u8;

/// The signature of host functions.
pub(crate) type HostCall =
    unsafe extern "C" fn(context: *mut VmHostContext, values: *mut VmValue) -> u8;

/// A host function that is called as a wasm function. Its real signature is that of the wasm function.
pub(crate) type DirectCall = unsafe extern "C" fn();

/// A function reference.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct VmFuncRef {
    /// The wasm function. Null for a host function that needs an exit trampoline, as long as no artifact
    /// of the store has one for its signature.
    pub(crate) code: *const c_void,
    pub(crate) vmctx: *mut VmContext,
    pub(crate) type_id: u32,
    /// Absent for host functions, which the host calls without a trampoline.
    pub(crate) entry: Option<EntryTrampoline>,
}

const _: () = {
    use vmctx::func_ref as offset;
    assert!(offset_of!(VmFuncRef, code) == offset::CODE as usize);
    assert!(offset_of!(VmFuncRef, vmctx) == offset::VMCTX as usize);
    assert!(offset_of!(VmFuncRef, type_id) == offset::TYPE_ID as usize);
    assert!(offset_of!(VmFuncRef, entry) == offset::ENTRY as usize);
    assert!(size_of::<VmFuncRef>() == offset::SIZE as usize);
};

/// An imported function in a vmctx.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct VmFuncImport {
    pub(crate) code: *const c_void,
    pub(crate) vmctx: *mut VmContext,
    pub(crate) func_ref: *mut VmFuncRef,
}

const _: () = {
    use vmctx::func_import as offset;
    assert!(offset_of!(VmFuncImport, code) == offset::CODE as usize);
    assert!(offset_of!(VmFuncImport, vmctx) == offset::VMCTX as usize);
    assert!(offset_of!(VmFuncImport, func_ref) == offset::FUNC_REF as usize);
    assert!(size_of::<VmFuncImport>() == offset::SIZE as usize);
};

/// A memory in a vmctx.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct VmMemorySlot {
    pub(crate) base: *mut u8,
    pub(crate) definition: *mut VmMemoryDefinition,
}

const _: () = {
    use vmctx::memory_slot as offset;
    assert!(offset_of!(VmMemorySlot, base) == offset::BASE as usize);
    assert!(offset_of!(VmMemorySlot, definition) == offset::DEFINITION as usize);
    assert!(size_of::<VmMemorySlot>() == offset::SIZE as usize);
};

/// A linear memory.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct VmMemoryDefinition {
    pub(crate) base: *mut u8,
    /// Changes at any time if the memory is shared.
    pub(crate) byte_length: AtomicUsize,
}

const _: () = {
    use vmctx::memory_definition as offset;
    assert!(offset_of!(VmMemoryDefinition, base) == offset::BASE as usize);
    assert!(offset_of!(VmMemoryDefinition, byte_length) == offset::BYTE_LENGTH as usize);
};

/// A table.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct VmTableDefinition {
    pub(crate) elements: *mut *mut c_void,
    pub(crate) length: usize,
}

const _: () = {
    use vmctx::table_definition as offset;
    assert!(offset_of!(VmTableDefinition, elements) == offset::ELEMENTS as usize);
    assert!(offset_of!(VmTableDefinition, length) == offset::LENGTH as usize);
};

/// A host function as wasm sees it: its vmctx.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct VmHostContext {
    /// [`vmctx::HOST_CONTEXT_MAGIC`].
    pub(crate) magic: u32,
    pub(crate) _padding: u32,
    pub(crate) store_context: *mut VmStoreContext,
    pub(crate) builtins: *const usize,
    pub(crate) call: HostCall,
    // Compiled code knows nothing of the following.
    /// What wasm calls instead of an exit trampoline, if there is such a function.
    pub(crate) direct: Option<DirectCall>,
    /// The closure that both expect.
    pub(crate) closure: *const c_void,
    /// The vmctx of the instance that imports the function, or null.
    pub(crate) importer: *mut VmContext,
}

const _: () = {
    assert!(offset_of!(VmHostContext, magic) == vmctx::MAGIC as usize);
    assert!(offset_of!(VmHostContext, store_context) == vmctx::STORE_CONTEXT as usize);
    assert!(offset_of!(VmHostContext, store_context) == vmctx::STORE_CONTEXT as usize);
    assert!(offset_of!(VmHostContext, builtins) == vmctx::BUILTINS as usize);
    assert!(offset_of!(VmHostContext, call) == vmctx::host_context::CALL as usize);
    assert!(offset_of!(VmHostContext, direct) == vmctx::host_context::SIZE as usize);
};
