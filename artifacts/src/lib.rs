//! The `.cwasm` file format and the ABI that the cwasm compiler and loader share.
//!
//! This crate does no input or output and contains no `unsafe`. Its modules, in
//! the order in which data flows from a compiler to a loader:
//!
//! * [`abi`]: what compiled code and the loader agree on at run time;
//! * [`hex`]: digests as text.
#![forbid(unsafe_code)]

pub mod abi;
pub mod hex;
