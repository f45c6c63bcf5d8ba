//! The builtins that are called as wasm functions. They look at the frame of their caller, and one
//! of them goes on in another. Rust can do neither; these are a few instructions in front of Rust
//! functions, which return before anything is skipped.
//!
//! On x86-64, wasm functions take the vmctx in `rdi` and an argument in `rsi`, as C functions do. On AArch64, they
//! take them in `x2` and `x3`. On both, no register but the stack and frame pointers must
//! be preserved for the caller. A handler takes the exception in `rax` or `x0`.

use std::arch::naked_asm;
#[cfg(target_arch = "x86_64")]
use std::mem::offset_of;
use std::ptr::{self, NonNull};

use super::exception::{Landing, find_handler};
use super::layout::VmContext;
use super::table::RawRef;
use crate::store::StoreCore;

/// `(vmctx, exception)`. See [`cwasm_artifact::abi::builtins::Builtin::Throw`].
///
/// # Safety
/// For compiled code only.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn throw() {
    naked_asm!(
        "mov rdx, [rsp]", // the return address
        "mov rcx, rbp",   // the caller's frame
        "push rbp",
        "mov rbp, rsp",
        "call {landing}",
        "pop rbp",
        "test rax, rax",
        "jz 2f",
        "mov rdi, rax",
        "jmp {go_on}",
        "2:",
        "ret",
        landing = sym landing,
        go_on = sym go_on,
    )
}

/// Goes on at the landing, in a frame of compiled code. All frames below that are left behind.
///
/// # Safety
/// The frame is of a function that waits, by a call that counts as changing every register; what is below it has nothing to drop.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
pub(super) unsafe extern "C" fn go_on(landing: *const Landing) -> ! {
    naked_asm!(
        "mov rcx, [rdi + {pc}]",
        "mov rsp, [rdi + {sp}]",
        "mov rbp, [rdi + {fp}]",
        "mov rax, [rdi + {payload}]",
        "jmp rcx",
        pc = const offset_of!(Landing, pc),
        sp = const offset_of!(Landing, sp),
        fp = const offset_of!(Landing, fp),
        payload = const offset_of!(Landing, payload),
    )
}

/// `(vmctx, exception)`. See [`cwasm_artifact::abi::builtins::Builtin::Throw`].
///
/// # Safety
/// For compiled code only.
#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn throw() {
    naked_asm!(
        "mov x0, x2",
        "mov x1, x3",
        "mov x2, x30", // the return address
        "mov x3, x29", // the caller's frame
        "stp x29, x30, [sp, #-16]!",
        "mov x29, sp",
        "bl {landing}",
        "ldp x29, x30, [sp], #16",
        "cbz x0, 2f",
        "ldp x1, x2, [x0]",
        "mov sp, x2",
        "ldp x29, x0, [x0, #16]",
        "br x1",
        "2:",
        "ret",
        landing = sym landing,
    )
}

/// A builtin that a Rust function is, which gets the caller's stack pointer behind the arguments of the builtin.
macro_rules! with_stack_pointer {
    ($(#[$doc:meta])* $name:ident calls $function:ident) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// For compiled code only.
        #[cfg(target_arch = "x86_64")]
        #[unsafe(naked)]
        pub(crate) unsafe extern "C" fn $name() {
            naked_asm!(
                "lea rdx, [rsp + 8]", // the caller's stack pointer
                "push rbp",
                "mov rbp, rsp",
                "call {function}",
                "pop rbp",
                "ret",
                function = sym $function,
            )
        }

        $(#[$doc])*
        ///
        /// # Safety
        /// For compiled code only.
        #[cfg(target_arch = "aarch64")]
        #[unsafe(naked)]
        pub(crate) unsafe extern "C" fn $name() {
            naked_asm!(
                "mov x0, x2",
                "mov x1, x3",
                "mov x2, sp", // the caller's stack pointer
                "stp x29, x30, [sp, #-16]!",
                "mov x29, sp",
                "bl {function}",
                "ldp x29, x30, [sp], #16",
                "ret",
                function = sym $function,
            )
        }
    };
}

with_stack_pointer! {
    /// `(vmctx, tag) -> exception`. See [`cwasm_artifact::abi::builtins::Builtin::ExceptionNew`].
    exception_new calls new
}

with_stack_pointer! {
    /// `(vmctx, size) -> address`. See [`cwasm_artifact::abi::builtins::Builtin::ObjectNew`].
    object_new calls new_object
}

/// Where the thread goes on, or null.
///
/// # Safety
/// Called by [`throw`] only, with the arguments of compiled code, the return address of its call and its
/// frame pointer.
unsafe extern "C" fn landing(
    vmctx: *mut VmContext,
    exception: RawRef,
    pc: usize,
    fp: usize,
) -> *const Landing {
    // SAFETY: compiled code passes its own vmctx, or its host context, which begins alike. The store
    // context is the first field of the store, which whoever entered wasm has borrowed exclusively.
    let landing = unsafe {
        let store = NonNull::new_unchecked((*vmctx).store_context.cast::<StoreCore<'static>>());
        find_handler(store, exception, pc, fp)
    };
    landing.map_or(ptr::null(), |landing| landing.as_ptr())
}

/// A new exception, or null.
///
/// # Safety
/// Called by [`exception_new`] only, with the arguments of compiled code and its stack pointer.
unsafe extern "C" fn new(vmctx: *mut VmContext, tag: u32, stack: usize) -> RawRef {
    // SAFETY: compiled code passes its own vmctx; the stack pointer is that of the innermost activation.
    unsafe {
        let (store, instance) = super::builtins::caller(vmctx);
        let tag = store.instances[instance].tags[tag as usize];
        store.add_exception(tag, Some(stack)).map_or(ptr::null_mut(), |new| new.as_ptr().cast())
    }
}

/// Memory for an object, or null.
///
/// # Safety
/// Called by [`object_new`] only, with the arguments of compiled code and its stack pointer.
unsafe extern "C" fn new_object(vmctx: *mut VmContext, size: u64, stack: usize) -> *mut u8 {
    // SAFETY: compiled code passes its own vmctx; the stack pointer is that of the innermost activation.
    let place = unsafe {
        let (store, _) = super::builtins::caller(vmctx);
        usize::try_from(size).ok().and_then(|size| store.allocate(size, Some(stack)))
    };
    place.map_or(ptr::null_mut(), NonNull::as_ptr)
}
