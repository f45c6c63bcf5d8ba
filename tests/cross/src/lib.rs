//! Runs artifacts for other targets than this machine.
//!
//! The loader cannot be built for a target without a standard library for it. But an artifact
//! can be linked into any program of its target, so a small host in C
//! (`host/host.c`) takes the loader's place: the C compiler of the target links it with artifacts, and an emulator
//! runs the result. That host knows the format and the ABI from their
//! descriptions alone, so it also holds those to be complete.
//!
//! * [`abi`]: the constants of format and ABI, for C;
//! * [`machine`]: the C compiler and the emulator of a target;
//! * [`script`]: a specification script, as modules, commands and what their answers must be.
#![forbid(unsafe_code)]

pub mod abi;
pub mod machine;
pub mod script;
