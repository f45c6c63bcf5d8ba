//! The calls of preview 1, one method of [`Call`] each.
//!
//! A method takes the arguments of the guest as they are: numbers, pointers
//! and lengths. It writes its results to the memory of the guest. Whatever the
//! arguments, it returns; what cannot be done is an [`Errno`].

mod args;
mod clock;
mod dir;
mod fd;
mod file;
mod io;
mod open;
mod path;
mod poll;
mod process;
mod sock;
#[cfg(test)]
mod testing;

use crate::ctx::{Shared, WasiCtx};
use crate::guest::GuestMemory;
use crate::types::{Errno, Signal, Snapshot};
use cwasm_loader::HostError;

pub use process::{ProcExit, Signaled};

/// A call in progress: the state of the guest, its memory, and the snapshot
/// whose layouts it expects.
pub struct Call<'a> {
    ctx: &'a Shared,
    memory: GuestMemory<'a>,
    snapshot: Snapshot,
    signal: Option<Signal>,
}

impl<'a> Call<'a> {
    /// Begins a call.
    pub fn new(ctx: &'a WasiCtx, memory: impl Into<GuestMemory<'a>>, snapshot: Snapshot) -> Self {
        Self { ctx: &ctx.shared, memory: memory.into(), snapshot, signal: None }
    }

    /// What the guest goes on with after a call that returned `result`: the
    /// number for it, or nothing, if a signal ended the guest ([`Signaled`]), or if bytes of its memory could
    /// not be had ([`cwasm_loader::Error`]).
    pub fn finish(self, result: Result<(), Errno>) -> Result<i32, HostError> {
        if let Some(lost) = self.memory.into_lost() {
            return Err(lost.into());
        }
        match self.signal {
            Some(signal) => Err(Signaled(signal).into()),
            None => Ok(Errno::of(result)),
        }
    }
}
