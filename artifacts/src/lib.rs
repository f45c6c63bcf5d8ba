//! The `.cwasm` file format and the ABI that the cwasm compiler and loader share.
//!
//! This crate does no input or output and contains no `unsafe`. `FORMAT.md`
//! beside it is the specification of the file format. The modules, in the
//! order in which data flows from a compiler to a loader:
//!
//! * [`abi`]: what compiled code and the loader agree on at run time;
//! * [`cpu`], [`types`]: CPU features, and the types of imports and exports, with what
//!   modules declare ([`composite`]) and references lead to ([`mod@reference`]);
//! * [`header`], [`tree`], [`records`], [`sites`]: the layout of the file;
//! * [`builder`]: writing an artifact;
//! * [`digest`], [`check`]: is a file an artifact, for this host, and intact;
//! * [`choice`]: which of several is the best for a host;
//! * [`signature`]: who signed it;
//! * [`report`]: if it is none of these, why;
//! * [`module`]: reading its metadata in place, after `validate` has seen it;
//! * [`bundle`]: several artifacts in one file;
//! * [`hex`], `pem`: digests and keys as text.
#![forbid(unsafe_code)]

pub mod abi;
pub mod builder;
pub mod bundle;
pub mod check;
pub mod choice;
pub mod composite;
pub mod cpu;
pub mod digest;
pub mod header;
pub mod hex;
pub mod module;
mod pem;
pub mod records;
pub mod reference;
pub mod report;
pub mod signature;
pub mod sites;
pub mod tree;
pub mod types;
mod validate;
