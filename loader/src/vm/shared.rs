//! Linear memories that several stores use at the same time.
//!
//! Such a memory is reserved once, as large as it may become, and never moves. Its
//! length only grows, under a lock, after the new bytes have become accessible; compiled code
//! and builtins read it atomically. So whoever has read a length can access that many bytes for as long as the
//! memory exists. No Rust reference to its bytes exists, except to atomics.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cwasm_artifact::abi::memory::{MemoryStyle, wait_result};
use cwasm_artifact::types::MemoryType;

use super::layout::VmMemoryDefinition;
use super::memory::{grown, minimum, range_within};
use super::racy;
use super::space::Space;
use super::waiting::{Outcome, Waiters};
use crate::error::Error;

/// A linear memory that stores share. In an `Arc`, since `definition` is pointed to.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct VmSharedMemory {
    /// The base never changes, the length only by `grow`.
    definition: VmMemoryDefinition,
    guarded: bool,
    ty: MemoryType,
    space: Mutex<Space>,
    waiters: Waiters,
}

// SAFETY: the pointer in `definition` is to the memory that `space` owns.
unsafe impl Send for VmSharedMemory {}
// SAFETY: the base does not change, the length is atomic, and the bytes are accessed
// by atomics and `racy` only.
unsafe impl Sync for VmSharedMemory {}

/// A value to wait for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expected {
    Four(u32),
    Eight(u64),
}

impl VmSharedMemory {
    /// Creates a memory of the type's minimum size, zeroed.
    pub(crate) fn new(ty: &MemoryType, guarded: bool) -> Result<Self, Error> {
        if !ty.shared {
            return Err(Error::MemoryType { problem: "the memory is not shared" });
        }
        let length = minimum(ty)?;
        // An image of it is copied, once for all stores.
        let space = Space::new(ty, length, guarded, None)?;
        let definition = VmMemoryDefinition {
            base: space.start().as_ptr(),
            byte_length: AtomicUsize::new(length),
        };
        let space = Mutex::new(space);
        Ok(Self { definition, guarded, ty: *ty, space, waiters: Waiters::default() })
    }

    /// The definition, for compiled code, which only reads it.
    pub(crate) fn definition(&self) -> *mut VmMemoryDefinition {
        (&raw const self.definition).cast_mut()
    }

    pub(crate) fn ty(&self) -> &MemoryType {
        &self.ty
    }

    /// Whether code may rely on a guard, where it would for a memory of this type.
    pub(crate) fn is_guarded(&self) -> bool {
        self.guarded || MemoryStyle::of(&self.ty, false) == MemoryStyle::Checked
    }

    /// The first byte, and how many there are now. They stay accessible.
    pub(crate) fn span(&self) -> (*mut u8, usize) {
        let VmMemoryDefinition { base, byte_length } = &self.definition;
        (*base, byte_length.load(Ordering::SeqCst))
    }

    /// The bytes that there are now.
    pub(crate) fn atomics(&self) -> &[AtomicU8] {
        let (base, length) = self.span();
        // SAFETY: so many bytes are accessible as long as `self` exists. Everybody
        // else's accesses are atomic or by `racy`, or are those of compiled code, which
        // stands for atomic accesses of some size.
        unsafe { std::slice::from_raw_parts(base.cast(), length) }
    }

    /// Grows by `delta` pages; returns the old size in pages, or `None` if the
    /// memory's maximum, `limit` (in bytes) or the system forbids it.
    pub(crate) fn grow(&self, delta: u64, limit: u64) -> Option<u64> {
        // Under the lock, the space and the length change together.
        let mut space = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.span().1 as u64 / self.ty.page_size();
        if delta > 0 {
            let length = grown(&self.ty, old, delta, limit)?;
            space.commit(length).ok()?;
            debug_assert_eq!(space.start().as_ptr(), self.definition.base);
            self.definition.byte_length.store(length, Ordering::SeqCst);
        }
        Some(old)
    }

    /// The address of a range, if it is within the memory.
    fn range(&self, start: u64, length: u64) -> Option<(*mut u8, usize)> {
        let (base, size) = self.span();
        let range = range_within(start, length, size)?;
        // SAFETY: the range lies within the memory.
        Some((unsafe { base.add(range.start) }, range.len()))
    }

    /// Sets bytes. `None` if they are out of bounds.
    pub(crate) fn fill(&self, start: u64, value: u8, length: u64) -> Option<()> {
        let (to, length) = self.range(start, length)?;
        // SAFETY: the range is accessible, and everybody's accesses are as `racy` allows.
        unsafe { racy::fill(to, value, length) };
        Some(())
    }

    /// Copies bytes into the memory. `None` if they are out of bounds.
    pub(crate) fn write(&self, start: u64, bytes: &[u8]) -> Option<()> {
        let (to, length) = self.range(start, bytes.len() as u64)?;
        // SAFETY: as in `fill`; the source has as many bytes, and nobody writes to it.
        unsafe { racy::copy(to, bytes.as_ptr(), length) };
        Some(())
    }

    /// Copies bytes out of the memory. `None` if they are out of bounds.
    pub(crate) fn read(&self, start: u64, buffer: &mut [u8]) -> Option<()> {
        let (from, length) = self.range(start, buffer.len() as u64)?;
        // SAFETY: as in `fill`; the target has as many bytes, and is ours.
        unsafe { racy::copy(buffer.as_mut_ptr(), from, length) };
        Some(())
    }

    /// `memory.atomic.wait`, with a timeout in nanoseconds unless it is negative; returns one
    /// of [`wait_result`]. The address must be a multiple of the value's size.
    pub(crate) fn wait(
        &self,
        address: u64,
        expected: Expected,
        timeout: i64,
        interrupted: Option<&dyn Fn() -> bool>,
    ) -> u32 {
        let size = if matches!(expected, Expected::Four(_)) { 4 } else { 8 };
        let Some((place, _)) = self.range(address, size).filter(|_| address.is_multiple_of(size))
        else {
            return wait_result::OUT_OF_BOUNDS;
        };
        let is_expected = || {
            // SAFETY: the place is accessible and aligned: the memory begins at
            // a page. Everybody else's accesses are as for `atomics`.
            unsafe {
                match expected {
                    Expected::Four(value) => {
                        (*place.cast::<AtomicU32>()).load(Ordering::SeqCst).to_le() == value
                    }
                    Expected::Eight(value) => {
                        (*place.cast::<AtomicU64>()).load(Ordering::SeqCst).to_le() == value
                    }
                }
            }
        };
        let timeout = u64::try_from(timeout).ok().map(Duration::from_nanos);
        match self.waiters.wait(address, is_expected, timeout, interrupted) {
            Outcome::Woken => wait_result::WOKEN,
            Outcome::NotEqual => wait_result::NOT_EQUAL,
            Outcome::TimedOut => wait_result::TIMED_OUT,
            Outcome::Interrupted => wait_result::INTERRUPTED,
        }
    }

    /// `memory.atomic.notify`: how many threads were woken, or `None` if the address is
    /// out of bounds.
    pub(crate) fn notify(&self, address: u64, count: u32) -> Option<u32> {
        self.range(address, 4)?;
        Some(self.waiters.notify(address, count))
    }
}
