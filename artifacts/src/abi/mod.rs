//! The ABI: what compiled code and the loader agree on, stated once.
//!
//! Compiled code reads and writes structures that the loader lays out, calls
//! functions that the loader provides, and is entered through trampolines that
//! the loader calls. Every offset, index and code that such an agreement needs
//! is a constant of this module, and both sides take it from here:
//!
//! * [`vmctx`]: the structures in memory ([`vmctx::VmctxLayout`] and friends);
//! * [`memory`]: how accesses to linear memories are kept inside them;
//! * [`object`]: references to what is collected, and the objects they lead to;
//! * [`builtins`]: the functions that compiled code may call in the loader;
//! * [`traps`]: the codes of the trap table;
//! * [`fingerprint`]: a digest of all of the above, which every artifact
//!   carries. A change to the ABI needs another one.
//!
//! # Functions
//!
//! *Wasm functions* use Cranelift's `tail` calling convention with the
//! signature `(vmctx, params...) -> results`. `vmctx` is the instance that owns
//! the function. An `i32` travels as 32 bits, a reference as a 64-bit pointer
//! (zero is null).
//!
//! *Entry trampolines* take the host into wasm, one per signature, with the C
//! calling convention of the target:
//! `(callee_vmctx, callee_code, values, store_context) -> u8`. `values` points
//! to [`vmctx::VALUE_SIZE`]-byte slots: parameters on entry, results on return. The
//! trampoline records its frame pointer, its stack pointer and the address of
//! its unwind handler in the store context before it calls. It returns 1 after
//! a normal return, and 0 if it was resumed at its handler, which is how a trap
//! leaves wasm.
//!
//! *Exit trampolines* take wasm to the host, one for each signature of which the artifact may call a host function. They are wasm
//! functions whose `vmctx` is a host context ([`vmctx::host_context`]). They
//! store the parameters in slots on their stack, record where they were called from in
//! the store context, and call the host function
//! `(host_context, values) -> u8` with the C calling convention. If it returns
//! 0 they trap with [`traps::Trap::HostError`]; if it returns 2 they throw the exception that
//! the store holds.
//!
//! A loader need not use them: what stands for a host function may be any code that is called as a wasm function
//! and records the same in the store context. Where the registers of the two calling conventions are the same, it is the host function
//! itself but for that.
//!
//! # Exceptions
//!
//! Code that throws makes an exception ([`builtins::Builtin::ExceptionNew`]), writes its values, and
//! calls [`builtins::Builtin::Throw`]. That builtin walks the frames from its caller outwards, to the
//! entry trampoline at most, and looks each return address up in the artifact's handlers. A handler
//! says where the function's vmctx is in the frame, which is where the tag that it names by an
//! index is found. The thread goes on there, with the stack pointer that the frame had during the call, and
//! the exception in the first register that the calling convention has for payloads.
//!
//! A reference to an exception or an object that is needed after a call of a wasm function (or of a builtin that is called like one)
//! is in the caller's frame during the call, and not only in a register: the loader finds out from the
//! stack which exceptions and objects are in use. An address inside of an object will do.
//!
//! All code keeps frame pointers, so that a stack of wasm frames is a linked
//! list from the innermost frame to the frame of the entry trampoline.

pub mod builtins;
mod fingerprint;
pub mod memory;
pub mod object;
pub mod traps;
pub mod vmctx;

pub use fingerprint::{Fingerprint, describe, fingerprint};

/// The calling convention of wasm functions, by the name and line of the code
/// generator that defines it. Artifacts of one store call each other, so a
/// compiler of another line must not produce artifacts with this ABI unless
/// its convention is the same.
pub const WASM_CALLING_CONVENTION: &str = "cranelift-0.135 tail";
