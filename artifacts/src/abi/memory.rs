//! How compiled code keeps its accesses inside a linear memory. It decides what
//! the loader must reserve around the memory, so both sides ask here.

use crate::types::{IndexType, Limits, MemoryType};

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

/// Whether a memory never has the last of its pages: then no address inside of it is followed by one that wraps around within a page.
/// Programs access what is a constant away from an address without saying that the sum does not wrap; with this, one access says
/// so for others.
///
/// That is so for memories with 32-bit addresses and pages of 64 KiB, unless they begin with all of their pages.
#[must_use]
pub const fn stays_short(ty: &MemoryType) -> bool {
    matches!(ty.index, IndexType::I32)
        && ty.page_size_log2 == MemoryType::PAGE_SIZE_LOG2
        && ty.limits.min < MemoryType::MAX_PAGES
}

/// How many pages a memory has at most, whatever the maximum of its type is.
#[must_use]
pub const fn most_pages(ty: &MemoryType) -> u64 {
    if stays_short(ty) { MemoryType::MAX_PAGES - 1 } else { ty.max_pages() }
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
    for index in [IndexType::I32, IndexType::I64] {
        for page_size_log2 in [0, MemoryType::PAGE_SIZE_LOG2] {
            for min in [0, MemoryType::MAX_PAGES - 1, MemoryType::MAX_PAGES] {
                let limits = Limits { min, max: None };
                let ty = MemoryType { index, page_size_log2, limits, ..Default::default() };
                let _ = writeln!(text, "{ty}: at most {} pages", most_pages(&ty));
            }
        }
    }
}
