//! What a store may hold.

use cwasm_artifact::types::MemoryType;

use crate::error::Error;

/// Limits of a store. An operation that would exceed one fails, and
/// `memory.grow` and `table.grow` return -1.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreLimits {
    /// The largest size of each memory, in pages of 64 KiB, whatever the pages of the
    /// memory are. 65536 by default, which is 4 GiB, also for memories with 64-bit addresses.
    /// A memory with 32-bit addresses and pages of 64 KiB does not grow to more than 65535, whatever the limit.
    pub memory_pages: u64,
    /// The largest size of each table, in elements. 10 million by default.
    pub table_elements: u64,
    /// How many instances there may be. 10,000 by default, as for the other counts.
    pub instances: usize,
    /// How many memories there may be.
    pub memories: usize,
    /// How many tables there may be.
    pub tables: usize,
    /// How many tags there may be.
    pub tags: usize,
    /// How many exceptions there may be at a time that something leads to. Wasm that throws
    /// another traps.
    pub exceptions: usize,
    /// How many bytes of memory there may be for objects, counted in blocks. 1 GiB by default, which is address space until it is needed, and 64 GiB
    /// at most. Wasm that needs more, also without the objects that nothing leads to, traps. Whatever it is set to later, there
    /// is address space only for what it was when the first object was made.
    pub objects: usize,
    /// How many bytes of stack wasm may use, counted from where the host calls into it; at most 2 KiB more are used by small functions, which compare less often. No more
    /// than what the engine allows ([`crate::Config::max_wasm_stack`]) in any case, which is the default. Applies to
    /// calls that begin after it was set.
    pub stack: usize,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self {
            memory_pages: MemoryType::MAX_PAGES,
            table_elements: 10_000_000,
            instances: 10_000,
            memories: 10_000,
            tables: 10_000,
            tags: 10_000,
            exceptions: 10_000,
            objects: 1 << 30,
            stack: usize::MAX,
        }
    }
}

impl StoreLimits {
    /// The largest size of each memory in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory_pages.saturating_mul(MemoryType::PAGE_SIZE)
    }

    pub(crate) fn check_count(
        &self,
        what: &'static str,
        count: usize,
        limit: usize,
    ) -> Result<(), Error> {
        if count < limit { Ok(()) } else { Err(Error::StoreLimit { what, limit }) }
    }
}
