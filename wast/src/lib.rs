//! Runs WebAssembly specification scripts (`.wast`) on the compiler and the
//! loader: the whole way, from text to a sealed artifact to a call.
//!
//! * `script`: the directives of a script, one after the other;
//! * [`expect`]: comparing what came out with what was asserted;
//! * `spectest`: the host module that scripts import from.
#![forbid(unsafe_code)]

pub mod expect;
mod script;
mod spectest;

pub use script::{Failure, Summary, run_script, run_script_collecting, run_script_with};
