//! Host functions as compiled code sees them.
//!
//! Each import of a host function by an instance gets a host context of its
//! own, so that the function knows which instance it serves without every call in the
//! program having to say so. The context also stands behind the function's
//! reference, which tables may hold.

use std::ffi::c_void;
use std::ptr;

use cwasm_artifact::abi::vmctx::HOST_CONTEXT_MAGIC;

use super::layout::{HostCall, VmContext, VmFuncRef, VmHostContext, VmStoreContext};
use super::stable::Stable;

/// A host context and the function reference that leads to it.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct VmHostFunc {
    context: VmHostContext,
    func_ref: VmFuncRef,
}

/// What a host function does, apart from who calls it.
#[derive(Clone, Copy, Debug)]
pub struct HostCode {
    pub(crate) call: HostCall,
    /// What wasm calls, if it needs no exit trampoline, or null.
    pub(crate) direct: *const c_void,
    pub(crate) closure: *const c_void,
    pub(crate) type_id: u32,
}

impl VmHostFunc {
    /// `exit` is the exit trampoline for the function's signature, or null if
    /// there is none yet. `importer` is the vmctx of the importing instance, or null.
    pub(crate) fn new(
        store_context: *mut VmStoreContext,
        host: HostCode,
        exit: *const c_void,
        importer: *mut VmContext,
    ) -> Stable<Self> {
        let code = if host.direct.is_null() { exit } else { host.direct };
        let func = Stable::new(Self {
            context: VmHostContext {
                magic: HOST_CONTEXT_MAGIC,
                _padding: 0,
                store_context,
                builtins: super::builtins::address(),
                call: host.call,
                direct: host.direct,
                closure: host.closure,
                importer,
            },
            func_ref: VmFuncRef {
                code,
                vmctx: ptr::null_mut(),
                type_id: host.type_id,
                entry: None,
            },
        });
        // SAFETY: the value is alive and not shared yet.
        unsafe { (*func.as_ptr()).func_ref.vmctx = func.as_ptr().cast() };
        func
    }

    /// The address of the function reference.
    pub(crate) fn func_ref(this: &Stable<Self>) -> *mut VmFuncRef {
        // SAFETY: only computes the address of a field of a live value.
        unsafe { &raw mut (*this.as_ptr()).func_ref }
    }

    /// What wasm calls, or null.
    pub(crate) fn code(this: &Stable<Self>) -> *const c_void {
        // SAFETY: the value lives. Its code changes only through a reference that is exclusive.
        unsafe { (*this.as_ptr()).func_ref.code }
    }

    /// Provides the exit trampoline if it was missing.
    pub(crate) fn fill_code(&mut self, type_id: u32, code: *const c_void) {
        if self.func_ref.code.is_null() && self.func_ref.type_id == type_id {
            self.func_ref.code = code;
        }
    }

    /// Whether it still lacks an exit trampoline.
    pub(crate) fn lacks_code(&self) -> bool {
        self.func_ref.code.is_null()
    }
}
