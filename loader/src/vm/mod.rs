//! The machine's side: the structures that compiled code reads and writes, and
//! the code that enters and leaves it. All of the crate's `unsafe` that is
//! about compiled code is below this module.
//!
//! * [`layout`]: the structures of the ABI as `repr(C)` types;
//! * [`stable`]: owners of values that raw pointers lead to;
//! * [`memory`], [`table`]: linear memories and tables;
//! * [`bytes`]: those of a memory as a host function has them;
//! * [`space`]: the address space of a memory; [`growth`]: when what it grows by becomes accessible; [`shared`]: memories that stores share, with
//!   [`racy`] accesses from Rust, and threads [`waiting`] in them;
//! * [`instance`]: the vmctx of an instance;
//! * [`builtins`]: the functions that compiled code calls;
//! * [`host_func`]: host functions as compiled code sees them; [`direct`]: calls of them without a trampoline;
//! * [`exception`], [`throw`]: exceptions, and how one reaches its handler;
//! * [`heap`]: the objects of a store, and how those that nothing leads to are found; [`roots`]: those that the host holds;
//! * [`lazy`]: parts of an artifact that are loaded when they are needed; [`pending`]: memories that begin without their image;
//! * [`activation`]: entering wasm, and leaving it by a trap;
//! * [`backtrace`]: walking the frames of wasm.

pub(crate) mod activation;
pub(crate) mod backtrace;
pub(crate) mod builtins;
pub(crate) mod bytes;
pub(crate) mod direct;
pub(crate) mod exception;
pub(crate) mod growth;
pub(crate) mod heap;
pub(crate) mod host_func;
pub(crate) mod instance;
pub(crate) mod layout;
pub(crate) mod lazy;
pub(crate) mod memory;
pub(crate) mod pending;
pub(crate) mod racy;
pub(crate) mod roots;
pub(crate) mod shared;
pub(crate) mod space;
pub(crate) mod stable;
pub(crate) mod table;
pub(crate) mod throw;
pub(crate) mod waiting;
