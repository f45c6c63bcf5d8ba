//! The types of preview 1 and how they lie in guest memory.
//!
//! Sizes, offsets and numbers are those of
//! `phases/snapshot/witx/typenames.witx` of the WASI repository (tag
//! `snapshot-01`); everything is little-endian. `wasi_unstable` differs where
//! [`Snapshot`] says so.

mod errno;
mod flags;
mod record;
mod signal;

pub use errno::Errno;
pub use flags::{ClockId, Snapshot};
pub(crate) use flags::{FdFlags, FileType, FstFlags, LookupFlags, OFlags, Rights, Whence};
pub(crate) use record::{
    Dirent, Event, EventKind, FdStat, FileStat, Prestat, Subscription, SubscriptionKind,
};
pub use signal::Signal;
