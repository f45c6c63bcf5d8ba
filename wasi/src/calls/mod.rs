//! The calls of preview 1, one method of [`Call`] each.
//!
//! A method takes the arguments of the guest as they are: numbers, pointers
//! and lengths. It writes its results to the memory of the guest. Whatever the
//! arguments, it returns; what cannot be done is an [`Errno`](crate::Errno).

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

use crate::ctx::WasiCtx;
use crate::types::Snapshot;

pub use process::ProcExit;

/// A call in progress: the state of the guest, its memory, and the snapshot
/// whose layouts it expects.
pub struct Call<'a> {
    ctx: &'a mut WasiCtx,
    memory: &'a mut [u8],
    snapshot: Snapshot,
}

impl<'a> Call<'a> {
    /// Begins a call.
    pub fn new(ctx: &'a mut WasiCtx, memory: &'a mut [u8], snapshot: Snapshot) -> Self {
        Self { ctx, memory, snapshot }
    }
}
