//! Host functions as compiled code sees them.
//!
//! Each import of a host function by an instance gets a host context of its
//! own, so that the function knows which instance it serves without every call in the
//! program having to say so. The context also stands behind the function's
//! reference, which tables may hold.

use std::ffi::c_void;
use std::ptr;

use cwasm_artifact::abi::vmctx::HOST_CONTEXT_MAGIC;

use super::layout::{DirectCall, HostCall, VmContext, VmFuncRef, VmHostContext, VmStoreContext};
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
    /// What wasm calls, if it needs no exit trampoline.
    pub(crate) direct: Option<DirectCall>,
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
        let code = host.direct.map_or(exit, |direct| direct as *const c_void);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::layout::VmValue;

    unsafe extern "C" fn call(_: *mut VmHostContext, _: *mut VmValue) -> u8 {
        0
    }

    unsafe extern "C" fn direct() {}

    #[test]
    fn wasm_calls_the_function_itself_if_it_can() {
        let code = |direct: Option<DirectCall>, exit| {
            let host = HostCode { call, direct, closure: ptr::null(), type_id: 3 };
            let mut func = VmHostFunc::new(ptr::null_mut(), host, ptr::null(), ptr::null_mut());
            let lacked = func.lacks_code();
            func.fill_code(3, exit);
            (lacked, VmHostFunc::code(&func))
        };
        let exit = ptr::without_provenance(16);
        assert_eq!(code(None, exit), (true, exit));
        assert_eq!(code(Some(direct), exit), (false, direct as *const c_void));
    }
}
