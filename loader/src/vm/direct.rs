//! Calls of host functions by compiled code without an exit trampoline.
//!
//! Where the C calling convention and that of wasm pass parameters and the result in the same registers, compiled code
//! calls the host function itself, by way of a few instructions that note where wasm was left and jump. A host function that returns goes
//! straight back to wasm. One that fails cannot say so to its caller, who would have to ask after every call: it ends by [`leave`],
//! which goes on in the entry trampoline, or where an exception is caught.
//!
//! That skips frames of Rust: those of the function that calls [`leave`], and of what that calls. They are plain: there is nothing
//! in them to drop. Whatever the application's closure had was dropped when it returned or unwound into `catch_unwind`.
//!
//! For x86-64. On other targets every host function has an exit trampoline.

use crate::value::sealed::Register;
#[cfg(target_arch = "x86_64")]
use {
    super::activation::{self, HostFailure},
    super::layout::VmHostContext,
    super::throw,
    std::ptr::NonNull,
};

/// Registers of each kind that both calling conventions pass parameters in, but for the vmctx.
const GENERAL: usize = 5;
const VECTOR: usize = 8;

/// Whether parameters in these registers, and a result in whatever register, can be passed as they are. `None` stands for a value that
/// is in no register, or not in the same.
pub(crate) const fn fits(params: &[Option<Register>], result: bool) -> bool {
    let (mut general, mut vector, mut index) = (0, 0, 0);
    while index < params.len() {
        match params[index] {
            Some(Register::General) => general += 1,
            Some(Register::Vector) => vector += 1,
            None => return false,
        }
        index += 1;
    }
    cfg!(target_arch = "x86_64") && result && general <= GENERAL && vector <= VECTOR
}

/// The body of a naked function that compiled code calls as a wasm function whose vmctx is a [`VmHostContext`]. It notes where wasm
/// was left, as an exit trampoline does, and goes on in `$body`, a function with the C calling convention that takes the context first.
#[cfg(target_arch = "x86_64")]
macro_rules! enter_host {
    ($body:path) => {
        std::arch::naked_asm!(
            "mov rax, [rdi + {store}]",
            "mov [rax + {fp}], rbp",
            "mov [rax + {return_at}], rsp",
            "jmp {body}",
            // Every such function has a section of its own, which this aligns, so that all of it is fetched at once.
            ".p2align 5",
            store = const cwasm_artifact::abi::vmctx::STORE_CONTEXT,
            fp = const cwasm_artifact::abi::vmctx::store_context::EXIT_FP,
            return_at = const cwasm_artifact::abi::vmctx::store_context::EXIT_RETURN,
            body = sym $body,
        )
    };
}
#[cfg(target_arch = "x86_64")]
pub(crate) use enter_host;

/// Ends a host function that compiled code called without a trampoline, and that cannot return.
///
/// # Safety
/// * Called by that function in the last place, with its context: neither it nor anything between has a value that is to be dropped.
/// * The store holds why it fails, and is not otherwise used.
#[cfg(target_arch = "x86_64")]
#[cold]
pub(crate) unsafe fn leave(context: *mut VmHostContext, failed: HostFailure) -> ! {
    // SAFETY: the context is alive, and its store context is the first field of its store. The host function has not returned, and nobody
    // else uses the store. The place to go on is in a frame of compiled code, which was left by a call that counts as changing every register.
    unsafe {
        let store = NonNull::new_unchecked((*context).store_context.cast());
        throw::go_on(activation::land(store, failed).as_ptr())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::func::{Caller, IntoHostFunc};

    #[test]
    #[cfg_attr(not(target_arch = "x86_64"), ignore = "nothing is passed as it is")]
    fn registers_that_both_conventions_have() {
        let (general, vector) = (Some(Register::General), Some(Register::Vector));
        assert!(fits(&[], true));
        assert!(fits(&[general; 5], true));
        assert!(!fits(&[general; 6], true));
        assert!(fits(&[vector; 8], true));
        assert!(!fits(&[vector; 9], true));
        assert!(fits(&[general, vector, general, vector, general, general, general, vector], true));
        assert!(!fits(&[general, None], true));
        assert!(!fits(&[general], false));
    }

    #[test]
    #[cfg_attr(not(target_arch = "x86_64"), ignore = "every function has a trampoline")]
    fn typed_functions_need_no_trampoline_where_they_fit() {
        fn is_direct<P, R>(func: impl IntoHostFunc<(), P, R>) -> bool {
            func.into_host_func().host_code().direct.is_some()
        }
        assert!(is_direct(|_: Caller<'_, '_, ()>| {}));
        assert!(is_direct(|_: Caller<'_, '_, ()>, a: i32, b: f64| f64::from(a) + b));
        assert!(is_direct(|_: Caller<'_, '_, ()>, a: u64| -> Result<u64, Error> { Ok(a) }));
        assert!(!is_direct(|_: Caller<'_, '_, ()>, _: u128| {}));
        assert!(!is_direct(|_: Caller<'_, '_, ()>, a: i32| (a, a)));
    }
}
