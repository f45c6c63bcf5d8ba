//! The structures that compiled code reads and writes: the vmctx of an
//! instance, the context of a store, host contexts, function references,
//! memories and tables.
//!
//! All offsets are in bytes from the start of the structure. Pointers have 8
//! bytes, integers have the least significant byte first, on every target (the loader is for targets whose
//! own order that is). The loader declares the same structures as `repr(C)` types
//! and asserts at compile time that the offsets are these.

/// Size of a slot that holds one wasm value at the border to the host, and of
/// the storage of a global. Wide enough for `v128`, and aligned to it.
pub const VALUE_SIZE: u32 = 16;

/// The number in the first four bytes of an instance's vmctx: `cwvm`.
pub const VMCTX_MAGIC: u32 = u32::from_le_bytes(*b"cwvm");
/// The number in the first four bytes of a host context: `cwhc`.
pub const HOST_CONTEXT_MAGIC: u32 = u32::from_le_bytes(*b"cwhc");

// The head of every vmctx. A host context begins with the same three fields.

/// `u32`: [`VMCTX_MAGIC`] or [`HOST_CONTEXT_MAGIC`].
pub const MAGIC: u32 = 0;
/// Pointer to the [`store_context`].
pub const STORE_CONTEXT: u32 = 8;
/// Pointer to the array of builtins.
pub const BUILTINS: u32 = 16;
/// Where the parts of a vmctx that depend on the module begin.
pub const VMCTX_HEAD_SIZE: u32 = 32;

/// State of a store that compiled code uses.
pub mod store_context {
    /// `u64`: the lowest address that the stack pointer may have where a function begins that calls others, once it
    /// has saved its caller's frame pointer.
    pub const STACK_LIMIT: u32 = 0;
    /// How many bytes below the limit compiled code may use nevertheless, until it calls the host: a frame of at most half of that need not be
    /// compared with what is left, and neither need the stack be compared in a function that calls none.
    pub const BELOW_LIMIT: u32 = 2048;
    /// `u64`: code compiled with epochs calls `new_epoch` once the epoch is
    /// at least this.
    pub const EPOCH_DEADLINE: u32 = 8;
    /// Pointer to the `u64` epoch counter of the engine (read atomically).
    pub const EPOCH_COUNTER: u32 = 16;
    /// `i64`: fuel used so far, counted up from a negative number; code
    /// compiled with fuel traps when it is above zero.
    pub const FUEL: u32 = 24;
    /// Frame pointer of the innermost entry trampoline.
    pub const ENTRY_FP: u32 = 32;
    /// Stack pointer of the innermost entry trampoline.
    pub const ENTRY_SP: u32 = 40;
    /// Address of the innermost entry trampoline's unwind handler.
    pub const ENTRY_HANDLER: u32 = 48;
    /// Frame pointer of the function from which wasm was last left for the host.
    pub const EXIT_FP: u32 = 56;
    /// Address of the word on the stack that holds the address in that function which the host returns to. The frame
    /// of the function lies above.
    pub const EXIT_RETURN: u32 = 64;
    /// Address at which the next object begins, if it ends no later than [`OBJECTS_END`].
    pub const OBJECTS_NEXT: u32 = 72;
    /// Where the memory for the next objects ends.
    pub const OBJECTS_END: u32 = 80;
    /// Pointer to an array of pointers to what is known of each type, by its identity: see [`super::super::object::type_info`]. There is one for
    /// each type of structures, arrays and functions that a reference in the store may lead to.
    pub const TYPE_INFOS: u32 = 88;
    /// Size of the structure.
    pub const SIZE: u32 = 96;
}

/// A host function as wasm sees it: what an exit trampoline gets as its vmctx.
pub mod host_context {
    /// Address of the host function, `(host_context, values) -> u8`.
    pub const CALL: u32 = 24;
    /// Size of the part that compiled code knows. The loader's data follow.
    pub const SIZE: u32 = 32;

    /// What a host function returns when its caller traps.
    pub const FAILED: u8 = 0;
    /// What it returns when it returned its results in the slots.
    pub const RETURNED: u8 = 1;
    /// What it returns when an exception goes on from its call. The store holds the exception.
    pub const THREW: u8 = 2;
}

/// An exception: what an `exnref` that is not null points to.
pub mod exception {
    /// Pointer to the tag. Tags are equal if their addresses are.
    pub const TAG: u32 = 0;
    /// `u32`: not zero if wasm or the host may hold a reference to the exception. Code that catches
    /// a reference writes 1.
    pub const SHARED: u32 = 8;
    /// The values, in slots of [`super::VALUE_SIZE`] bytes. Code writes them when it throws.
    pub const VALUES: u32 = 16;
}

/// A function reference: what a `funcref` that is not null points to.
pub mod func_ref {
    /// Address of the wasm function.
    pub const CODE: u32 = 0;
    /// The vmctx to call it with.
    pub const VMCTX: u32 = 8;
    /// `u32`: identity of the function's type in this process.
    pub const TYPE_ID: u32 = 16;
    /// Address of the entry trampoline for its signature, or zero.
    pub const ENTRY: u32 = 24;
    /// Size of the structure.
    pub const SIZE: u32 = 32;
}

/// An imported function in a vmctx.
pub mod func_import {
    /// Address of the wasm function.
    pub const CODE: u32 = 0;
    /// The vmctx to call it with.
    pub const VMCTX: u32 = 8;
    /// Pointer to the function's [`super::func_ref`].
    pub const FUNC_REF: u32 = 16;
    /// Size of the structure.
    pub const SIZE: u32 = 24;
}

/// A memory in a vmctx. Imported and defined memories look the same.
pub mod memory_slot {
    /// Address of byte 0 of the linear memory. Constant while the instance
    /// lives if [`super::super::memory::base_is_constant`], unused otherwise.
    pub const BASE: u32 = 0;
    /// Pointer to the [`super::memory_definition`]. Constant.
    pub const DEFINITION: u32 = 8;
    /// Size of the structure.
    pub const SIZE: u32 = 16;
}

/// A linear memory.
pub mod memory_definition {
    /// Address of byte 0. Changes when a memory grows whose base is not constant.
    pub const BASE: u32 = 0;
    /// `u64`: current size in bytes. Of a shared memory, other threads change it.
    pub const BYTE_LENGTH: u32 = 8;
    /// Size of the part that compiled code knows.
    pub const SIZE: u32 = 16;
}

/// A table. Its elements are 8-byte references.
pub mod table_definition {
    /// Address of element 0. Changes when the table grows.
    pub const ELEMENTS: u32 = 0;
    /// `u64`: current number of elements.
    pub const LENGTH: u32 = 8;
    /// Size of the part that compiled code knows.
    pub const SIZE: u32 = 16;
}

/// How many bytes of address space behind a guarded memory are inaccessible:
/// beyond the 4 GiB that a 32-bit index reaches, or behind the end of a memory with
/// 64-bit indices. A load or store at
/// `index + offset` may leave its check to the guard if the constant `offset` plus the access
/// size is at most this.
pub const GUARD_SIZE: u64 = 32 << 20;

/// Address space from the base of a guarded 32-bit memory that is either the
/// memory or inaccessible.
pub const GUARDED_SPACE: u64 = (4 << 30) + GUARD_SIZE;

/// How many of each thing a module has; all that the layout depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VmctxCounts {
    /// Imported functions.
    pub imported_functions: u32,
    /// Imported and defined memories.
    pub memories: u32,
    /// Imported and defined tables.
    pub tables: u32,
    /// Imported globals.
    pub imported_globals: u32,
    /// Defined globals.
    pub defined_globals: u32,
    /// Entries of the type section.
    pub types: u32,
    /// Defined functions that need a function reference.
    pub func_refs: u32,
    /// Imported and defined tags.
    pub tags: u32,
}

/// Where each part of a module's vmctx is.
///
/// The order is: head, memories, defined globals, tables, imported globals, tags, imported functions,
/// type identities, function references. What code refers to most comes first: on x86-64, an instruction has a byte for the first 128, and four for
/// the others. Offsets are `u32`, which [`VmctxLayout::new`] guarantees by refusing larger modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmctxLayout {
    counts: VmctxCounts,
    memories: u32,
    imported_functions: u32,
    tables: u32,
    imported_globals: u32,
    tags: u32,
    type_ids: u32,
    defined_globals: u32,
    func_refs: u32,
    size: u32,
}

impl VmctxLayout {
    /// The layout for a module with these counts, or `None` if its vmctx would
    /// exceed 1 GiB.
    #[must_use]
    pub fn new(counts: VmctxCounts) -> Option<Self> {
        let mut end = u64::from(VMCTX_HEAD_SIZE);
        let mut place = |count: u32, size: u32, align: u64| -> Option<u32> {
            let start = end.next_multiple_of(align);
            end = start.checked_add(u64::from(count).checked_mul(u64::from(size))?)?;
            (end <= 1 << 30).then_some(u32::try_from(start).ok()?)
        };
        let memories = place(counts.memories, memory_slot::SIZE, 8)?;
        let defined_globals = place(counts.defined_globals, VALUE_SIZE, 16)?;
        let tables = place(counts.tables, 8, 8)?;
        let imported_globals = place(counts.imported_globals, 8, 8)?;
        let tags = place(counts.tags, 8, 8)?;
        let imported_functions = place(counts.imported_functions, func_import::SIZE, 8)?;
        let type_ids = place(counts.types, 4, 8)?;
        let func_refs = place(counts.func_refs, func_ref::SIZE, 16)?;
        let size = u32::try_from(end.next_multiple_of(16)).ok()?;
        Some(Self {
            counts,
            memories,
            imported_functions,
            tables,
            imported_globals,
            tags,
            type_ids,
            defined_globals,
            func_refs,
            size,
        })
    }

    /// The counts that this layout is for.
    #[must_use]
    pub fn counts(&self) -> &VmctxCounts {
        &self.counts
    }

    /// Size of the vmctx in bytes; a multiple of 16, as is its alignment.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.size
    }

    /// The [`memory_slot`] of a memory, by its index in the module.
    ///
    /// # Panics
    /// If the module has no such memory; so for the other methods.
    #[must_use]
    pub fn memory(&self, index: u32) -> u32 {
        assert!(index < self.counts.memories);
        self.memories + index * memory_slot::SIZE
    }

    /// The [`func_import`] of an imported function.
    #[must_use]
    pub fn imported_function(&self, index: u32) -> u32 {
        assert!(index < self.counts.imported_functions);
        self.imported_functions + index * func_import::SIZE
    }

    /// The pointer to the [`table_definition`] of a table, by its index in the module. Constant
    /// while the instance lives.
    #[must_use]
    pub fn table(&self, index: u32) -> u32 {
        assert!(index < self.counts.tables);
        self.tables + index * 8
    }

    /// The pointer to the storage of an imported global. Constant while the
    /// instance lives.
    #[must_use]
    pub fn imported_global(&self, index: u32) -> u32 {
        assert!(index < self.counts.imported_globals);
        self.imported_globals + index * 8
    }

    /// The pointer to a tag, by its index in the module. Constant while the instance lives.
    #[must_use]
    pub fn tag(&self, index: u32) -> u32 {
        assert!(index < self.counts.tags);
        self.tags + index * 8
    }

    /// The storage of a defined global, by its index among the defined ones.
    #[must_use]
    pub fn defined_global(&self, index: u32) -> u32 {
        assert!(index < self.counts.defined_globals);
        self.defined_globals + index * VALUE_SIZE
    }

    /// The `u32` identity of a type of the module. Constant.
    #[must_use]
    pub fn type_id(&self, index: u32) -> u32 {
        assert!(index < self.counts.types);
        self.type_ids + index * 4
    }

    /// The [`func_ref`] with this number (the function table of the artifact
    /// numbers the defined functions that need one).
    #[must_use]
    pub fn func_ref(&self, index: u32) -> u32 {
        assert!(index < self.counts.func_refs);
        self.func_refs + index * func_ref::SIZE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_each_other_without_overlap() {
        let counts = VmctxCounts {
            imported_functions: 3,
            memories: 2,
            tables: 1,
            imported_globals: 5,
            defined_globals: 2,
            types: 7,
            func_refs: 4,
            tags: 2,
        };
        let layout = VmctxLayout::new(counts).unwrap();
        let ends = [
            (layout.memory(0), layout.memory(1) + memory_slot::SIZE),
            (layout.defined_global(0), layout.defined_global(1) + VALUE_SIZE),
            (layout.table(0), layout.table(0) + 8),
            (layout.imported_global(0), layout.imported_global(4) + 8),
            (layout.tag(0), layout.tag(1) + 8),
            (layout.imported_function(0), layout.imported_function(2) + func_import::SIZE),
            (layout.type_id(0), layout.type_id(6) + 4),
            (layout.func_ref(0), layout.func_ref(3) + func_ref::SIZE),
        ];
        let mut last = VMCTX_HEAD_SIZE;
        for (start, end) in ends {
            assert!(start >= last && end > start);
            last = end;
        }
        assert_eq!(layout.size(), last.next_multiple_of(16));
        assert_eq!(layout.defined_global(0) % 16, 0);
    }

    #[test]
    fn a_vmctx_beyond_one_gibibyte_is_refused() {
        let counts = VmctxCounts { defined_globals: u32::MAX, ..VmctxCounts::default() };
        assert_eq!(VmctxLayout::new(counts), None);
    }
}
