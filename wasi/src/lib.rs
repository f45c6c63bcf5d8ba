//! WASI preview 1 for modules that the cwasm loader runs.
//!
//! A [`WasiCtx`] says what a guest is given: arguments, environment, streams,
//! directories. It lives in the data of a store. A module that imports from
//! `wasi_snapshot_preview1`, or from its predecessor `wasi_unstable`, then
//! calls the functions in [`calls`], which work on that context and on the
//! memory of the guest and on nothing else.
//!
//! Files are reached through cap-std only: whatever `..`, absolute paths and
//! symbolic links a guest names, it stays in the directories it was given.
//!
//! The modules, from the guest inwards:
//!
//! * `link`: the calls as host functions of a linker;
//! * `types`: numbers and records as they lie in guest memory;
//! * `guest`: checked access to that memory;
//! * [`calls`]: the calls;
//! * `table`: the descriptors of the guest;
//! * `stdio`: what stands behind its streams;
//! * `ctx`: everything it is given;
//! * `threads`: a guest on several threads;
//! * `sys`: the operating system.
#![forbid(unsafe_code)]

pub mod calls;
mod ctx;
mod guest;
mod link;
mod stdio;
mod sys;
mod table;
mod threads;
mod types;

pub use calls::{ProcExit, Signaled};
pub use ctx::{BuildError, Clocks, HostClocks, HostRandom, Random, WasiCtx, WasiCtxBuilder};
pub use guest::GuestMemory;
pub use link::{NoMemory, add_imports_to_linker, add_to_linker};
pub use stdio::{InputStream, OutputStream};
pub use threads::Threads;
pub use types::{ClockId, Errno, Signal, Snapshot};
