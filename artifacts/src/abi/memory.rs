//! How compiled code keeps its accesses inside a linear memory. It decides what
//! the loader must reserve around the memory, so both sides ask here.

use crate::types::{IndexType, MemoryType};

/// What an access to a memory relies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryStyle {
    /// [`super::vmctx::GUARDED_SPACE`] bytes from the base are either the memory or
    /// inaccessible, and the base never changes. A 32-bit index needs no check if the access ends
    /// at most [`super::vmctx::GUARD_SIZE`] bytes behind it.
    Reserved,
    /// The [`super::vmctx::GUARD_SIZE`] bytes behind the current end of the memory are
    /// inaccessible. Only the index is compared with the length if the access ends
    /// at most that many bytes behind it.
    Fenced,
    /// The end of every access is compared with the length.
    Checked,
}

impl MemoryStyle {
    /// The style of a memory in code that was compiled with explicit checks or
    /// without.
    #[must_use]
    pub fn of(ty: &MemoryType, explicit_checks: bool) -> Self {
        // A memory of small pages can end where no page of the host does.
        if explicit_checks || ty.page_size_log2 != MemoryType::PAGE_SIZE_LOG2 {
            return Self::Checked;
        }
        match ty.index {
            IndexType::I32 => Self::Reserved,
            IndexType::I64 => Self::Fenced,
        }
    }
}

/// Whether the base of a memory stays the same when it grows.
#[must_use]
pub fn base_is_constant(ty: &MemoryType, explicit_checks: bool) -> bool {
    ty.shared || MemoryStyle::of(ty, explicit_checks) == MemoryStyle::Reserved
}

/// What waiting in a shared memory results in.
pub mod wait_result {
    /// Notified.
    pub const WOKEN: u32 = 0;
    /// The memory does not hold the expected value.
    pub const NOT_EQUAL: u32 = 1;
    /// The time is over.
    pub const TIMED_OUT: u32 = 2;
    /// The address lies outside of the memory: the code traps.
    pub const OUT_OF_BOUNDS: u32 = 3;
    /// The store's deadline has passed: the code traps.
    pub const INTERRUPTED: u32 = 4;
}

/// Writes down which memories have which style.
pub(super) fn describe(text: &mut String) {
    use core::fmt::Write as _;
    for (name, value) in [
        ("woken", wait_result::WOKEN),
        ("not equal", wait_result::NOT_EQUAL),
        ("timed out", wait_result::TIMED_OUT),
        ("out of bounds", wait_result::OUT_OF_BOUNDS),
        ("interrupted", wait_result::INTERRUPTED),
    ] {
        let _ = writeln!(text, "wait {name} = {value}");
    }
    for index in [IndexType::I32, IndexType::I64] {
        for page_size_log2 in [0, MemoryType::PAGE_SIZE_LOG2] {
            for shared in [false, true] {
                for explicit in [false, true] {
                    let ty = MemoryType { index, page_size_log2, shared, ..Default::default() };
                    let _ = writeln!(
                        text,
                        "{ty} explicit {explicit}: {:?}, constant base {}",
                        MemoryStyle::of(&ty, explicit),
                        base_is_constant(&ty, explicit)
                    );
                }
            }
        }
    }
}
