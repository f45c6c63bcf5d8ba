//! Builtins: the functions of the loader that compiled code may call.
//!
//! Their addresses stand in an array that every vmctx points to
//! ([`super::vmctx::BUILTINS`]), in the order of [`Builtin::ALL`]. They use the
//! C calling convention of the target, take the caller's vmctx first, and never
//! unwind: an operation that can fail says so by its result, and the compiled
//! code traps. Three are different ([`Builtin::is_wasm_function`]): they have the calling convention of
//! wasm functions, since they look at the frame of their caller.

/// The type of a parameter or result of a builtin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuiltinType {
    /// A 32-bit integer.
    I32,
    /// A 64-bit integer.
    I64,
    /// A pointer of the target (a vmctx or a reference).
    Pointer,
}

macro_rules! builtins {
    ($( $(#[$doc:meta])* $name:ident = $text:literal ($($param:ident),*) $(-> $result:ident)?; )*) => {
        /// A function of the loader that compiled code may call.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Builtin { $( $(#[$doc])* $name, )* }

        impl Builtin {
            /// Every builtin, in the order of the array that a vmctx points to.
            pub const ALL: &'static [Self] = &[ $( Self::$name, )* ];

            /// The name in messages and in the ABI's description.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Self::$name => $text, )* }
            }

            /// Parameter types, the vmctx first.
            #[must_use]
            pub const fn params(self) -> &'static [BuiltinType] {
                match self { $( Self::$name => &[BuiltinType::Pointer, $( BuiltinType::$param, )*], )* }
            }

            /// The result type, if there is a result.
            #[must_use]
            pub const fn result(self) -> Option<BuiltinType> {
                match self { $( Self::$name => builtins!(@result $($result)?), )* }
            }
        }
    };
    (@result $result:ident) => { Some(BuiltinType::$result) };
    (@result) => { None };
}

builtins! {
    /// `(memory, delta pages) -> old pages, or -1`. `memory.grow`.
    MemoryGrow = "memory_grow" (I32, I64) -> I64;
    /// `(dst memory, src memory, dst, src, len) -> 1, or 0 if out of bounds`. `memory.copy`, if other
    /// threads may have one of them.
    MemoryCopy = "memory_copy" (I32, I32, I64, I64, I64) -> I32;
    /// `(memory, dst, byte, len) -> 1, or 0 if out of bounds`. `memory.fill`, if
    /// other threads may have it.
    MemoryFill = "memory_fill" (I32, I64, I32, I64) -> I32;
    /// `(dst address, src address, len) -> dst address, or null if bytes cannot be had`. `memory.copy` between memories that are not shared, and `array.copy`,
    /// of ranges that the caller has checked.
    MemoryMove = "memory_move" (Pointer, Pointer, I64) -> Pointer;
    /// `(dst address, byte, len) -> dst address, or null if bytes cannot be had`. `memory.fill`, and elements of arrays, in the same way.
    MemorySet = "memory_set" (Pointer, I32, I64) -> Pointer;
    /// `(memory, data segment, dst, src, len) -> 1, or 0 if out of bounds`. `memory.init`.
    MemoryInit = "memory_init" (I32, I32, I64, I32, I32) -> I32;
    /// `(data segment)`. `data.drop`.
    DataDrop = "data_drop" (I32);
    /// `(table, delta, initial reference) -> old size, or -1`. `table.grow`.
    TableGrow = "table_grow" (I32, I64, Pointer) -> I64;
    /// `(dst table, src table, dst, src, len) -> 1, or 0 if out of bounds`. `table.copy`.
    TableCopy = "table_copy" (I32, I32, I64, I64, I64) -> I32;
    /// `(table, dst, reference, len) -> 1, or 0 if out of bounds`. `table.fill`.
    TableFill = "table_fill" (I32, I64, Pointer, I64) -> I32;
    /// `(table, element segment, dst, src, len) -> 1, or 0 if out of bounds`. `table.init`.
    TableInit = "table_init" (I32, I32, I64, I32, I32) -> I32;
    /// `(element segment)`. `elem.drop`.
    ElemDrop = "elem_drop" (I32);
    /// `(memory, address, expected, timeout in nanoseconds) -> one of
    /// [`super::memory::wait_result`]`. `memory.atomic.wait32` on a shared memory. The address is
    /// aligned; less than zero is no timeout.
    MemoryWait32 = "memory_wait32" (I32, I64, I32, I64) -> I32;
    /// The same for `memory.atomic.wait64`.
    MemoryWait64 = "memory_wait64" (I32, I64, I64, I64) -> I32;
    /// `(memory, address, count) -> how many were woken, or -1 if out of bounds`.
    /// `memory.atomic.notify` on any memory. The address is aligned.
    MemoryNotify = "memory_notify" (I32, I64, I32) -> I64;
    /// `() -> 1 to go on (the deadline was moved), or 0 to trap`. Called when
    /// the epoch has reached the deadline.
    NewEpoch = "new_epoch" () -> I32;
    /// `(tag) -> exception, or null if the store may not hold another`. The exception has the tag;
    /// the caller writes its values and throws it.
    ExceptionNew = "exception_new" (I32) -> Pointer;
    /// `(exception)`. The exception was caught, and its reference was not asked for.
    ExceptionDrop = "exception_drop" (Pointer);
    /// `(exception, or null for the one that a host function left in the store)`. Goes on at the
    /// innermost handler for the exception. Returns if there is none within this stay in wasm; the
    /// caller then traps.
    Throw = "throw" (Pointer);
    /// `(size in bytes) -> address, or null if the store may not have more memory for objects`. Memory for an object, for the caller to write. Objects that
    /// nothing leads to may be freed before. The size is a multiple of 8.
    ObjectNew = "object_new" (I64) -> Pointer;
    /// `(data segment, address, src, len in bytes) -> 1, or 0 if out of bounds`. Writes bytes of a segment to elements of an array; to null, none.
    ArrayInitData = "array_init_data" (I32, Pointer, I64, I64) -> I32;
    /// `(element segment, address, src, len) -> 1, or 0 if out of bounds`. Writes references of a segment to elements of an array; to null, none.
    ArrayInitElem = "array_init_elem" (I32, Pointer, I64, I64) -> I32;
}

impl Builtin {
    /// Whether it has the calling convention of wasm functions instead of C's.
    #[must_use]
    pub const fn is_wasm_function(self) -> bool {
        matches!(self, Self::ExceptionNew | Self::Throw | Self::ObjectNew)
    }

    /// The offset of this builtin's address in the array of builtins, in bytes.
    #[must_use]
    pub const fn offset(self) -> u32 {
        self as u32 * 8
    }
}
