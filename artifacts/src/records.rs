//! The records of the sections: fixed layout, little-endian, no alignment, read
//! in place.
//!
//! `FORMAT.md` has a chapter for each. Fields that are called `..._start`
//! and `..._count` are a range of another section's records; `name` fields are
//! byte ranges of the string section.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// "There is none", in every field that may be absent.
pub const NONE: u32 = u32::MAX;

macro_rules! records {
    ($( $(#[$doc:meta])* $name:ident { $( $(#[$field_doc:meta])* $field:ident: $ty:ty, )* } )*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
        #[repr(C)]
        pub struct $name { $( $(#[$field_doc])* pub $field: $ty, )* }
    )*

        /// Writes down where each field of each record is, a line per record.
        pub(crate) fn describe(text: &mut String) {
            use core::fmt::Write as _;
            $(
                let _ = write!(text, "{} has {} bytes:", stringify!($name), size_of::<$name>());
                $( let _ = write!(text, " {} {}", core::mem::offset_of!($name, $field), stringify!($field)); )*
                text.push('\n');
            )*
        }
    };
}

records! {
    /// A byte range of the string section; UTF-8.
    Text {
        /// Offset in the string section.
        offset: U32,
        /// Length in bytes.
        length: U32,
    }

    /// A range of records of another section.
    Span {
        /// Index of the first record.
        start: U32,
        /// Number of records.
        count: U32,
    }

    /// Singular facts about a module.
    ModuleRecord {
        /// The module's name from its name section; empty if it has none.
        name: Text,
        /// Function index of the start function, or [`NONE`].
        start: U32,
    }

    /// A declared type, and the trampolines of a function type.
    TypeRecord {
        /// Range of the value types: parameters, then results; or for each field two, the type and 1 if it can change, else 0.
        types: Span,
        /// How many of them are parameters.
        params: U32,
        /// Text offset of the entry trampoline, or [`NONE`].
        entry: U32,
        /// Text offset of the exit trampoline, or [`NONE`].
        exit: U32,
        /// One of the constants of [`type_kind`].
        kind: U32,
        /// 1 if types may be declared below it, else 0.
        open: U32,
        /// Index of the type that it is declared below, or [`NONE`].
        supertype: U32,
        /// Index of the first type of its recursion group.
        group: U32,
    }

    /// The type of an import, or of a table, memory or global that is defined.
    ExternRecord {
        /// One of the constants of [`extern_kind`].
        kind: U32,
        /// Function, tag: type index. Table: element type. Global: value type. Memory: size of a
        /// page, as a power of two.
        ty: U32,
        /// Bits of [`extern_flags`].
        flags: U32,
        /// Zero.
        reserved: U32,
        /// Memory (pages) or table (elements): initial size.
        min: U64,
        /// Memory or table: maximum, if [`extern_flags::HAS_MAX`].
        max: U64,
    }

    /// An import.
    ImportRecord {
        /// First name.
        module: Text,
        /// Second name.
        name: Text,
        /// Type.
        ty: ExternRecord,
    }

    /// A defined function, in the order of function indices.
    FunctionRecord {
        /// Text offset.
        text: U32,
        /// Length of its code in bytes.
        length: U32,
        /// Name from the name section; empty if it has none.
        name: Text,
    }

    /// A defined function that something may refer to. The vmctx has a reference for each, in this order, which is
    /// that of function indices.
    FuncRefRecord {
        /// Function index.
        function: U32,
        /// Text offset of its code.
        text: U32,
        /// Type index.
        ty: U32,
    }

    /// A defined table, memory, global or tag.
    DefinedRecord {
        /// Type.
        ty: ExternRecord,
        /// Constant expression of the initial value; empty for memories and tags, and
        /// for tables that begin as null.
        init: Span,
    }

    /// An export.
    ExportRecord {
        /// Name.
        name: Text,
        /// One of the constants of [`extern_kind`].
        kind: U32,
        /// Index in the index space of that kind.
        index: U32,
    }

    /// An operation of a constant expression.
    ConstOpRecord {
        /// One of the constants of [`const_op`].
        op: U32,
        /// Index of a function, global or declared type, or a value type.
        index: U32,
        /// The low 64 bits of a constant, or how many elements an array has.
        low: U64,
        /// The high 64 bits of a constant.
        high: U64,
    }

    /// An element segment.
    ElementRecord {
        /// One of the constants of [`segment_mode`].
        mode: U32,
        /// Active: table index.
        table: U32,
        /// Active: constant expression of the offset.
        offset: Span,
        /// Element type.
        ty: U32,
        /// One of the constants of [`item_kind`].
        item_kind: U32,
        /// Items: range of the item section.
        items: Span,
    }

    /// An item of an element segment.
    ItemRecord {
        /// [`item_kind::FUNCTIONS`]: function index. Else: first const op.
        first: U32,
        /// [`item_kind::FUNCTIONS`]: number of the function's reference; [`NONE`] if it is imported. Else: number of const ops.
        count: U32,
    }

    /// A data segment.
    DataSegmentRecord {
        /// One of the constants of [`segment_mode`].
        mode: U32,
        /// Active: memory index.
        memory: U32,
        /// Active: constant expression of the offset.
        offset: Span,
        /// Offset of its bytes in the data section. Zero length for a segment
        /// that an image contains.
        data: U64,
        /// Number of its bytes.
        length: U64,
        /// 1 if the segment is part of the images, else 0.
        in_image: U32,
        /// Zero.
        reserved: U32,
    }

    /// A run of initial bytes of a defined memory.
    ImageRecord {
        /// Memory index.
        memory: U32,
        /// Zero.
        reserved: U32,
        /// Address in the linear memory; a multiple of the page alignment.
        address: U64,
        /// Offset in the image byte section; a multiple of the page alignment.
        bytes: U64,
        /// Length in bytes.
        length: U64,
    }

    /// A run of places where compiled code can stop or be seen; `sites` packs them.
    /// Sorted by `text`.
    SiteBlockRecord {
        /// Text offset of the first.
        text: U32,
        /// Byte offset in the wasm module of the first one's operator.
        wasm: U32,
        /// Where its entries begin, from the end of the records.
        entries: U32,
    }

    /// Where an exception goes on that leaves a call. Sorted by `call`; those of one call
    /// are tried in order.
    HandlerRecord {
        /// Text offset: the return address of the call.
        call: U32,
        /// Text offset of the handler.
        handler: U32,
        /// Index of the tag that it handles, or [`NONE`] if it handles all.
        tag: U32,
        /// How many bytes the stack pointer is below the frame pointer during the call.
        frame: U32,
        /// Where the vmctx of the function is, in bytes above the stack pointer.
        vmctx: U32,
    }

    /// A site whose operator belongs to a function that was copied into its
    /// caller. Sorted by `text`.
    InlinedRecord {
        /// Text offset: of an instruction that traps, as in the site; of a call, the last byte, since an instruction that traps
        /// may be where the call returns to.
        text: U32,
        /// Index of the function that was copied.
        function: U32,
        /// Byte offset in the wasm module of the call that the copy stands for.
        call: U32,
    }
}

/// Kinds of declared types.
pub mod type_kind {
    /// A function.
    pub const FUNC: u32 = 0;
    /// A structure.
    pub const STRUCT: u32 = 1;
    /// An array.
    pub const ARRAY: u32 = 2;
}

/// Kinds of imports and exports, as in a wasm module.
pub mod extern_kind {
    /// A function.
    pub const FUNC: u32 = 0;
    /// A table.
    pub const TABLE: u32 = 1;
    /// A memory.
    pub const MEMORY: u32 = 2;
    /// A global.
    pub const GLOBAL: u32 = 3;
    /// A tag.
    pub const TAG: u32 = 4;
    /// How many kinds there are.
    pub const COUNT: usize = 5;
}

/// Flags of an [`ExternRecord`].
pub mod extern_flags {
    /// Memory or table: `max` counts.
    pub const HAS_MAX: u32 = 1;
    /// Global: the value can change.
    pub const MUTABLE: u32 = 2;
    /// Memory or table: its indices have 64 bits.
    pub const INDEX_64: u32 = 4;
    /// Memory: several threads may use it at the same time.
    pub const SHARED: u32 = 8;
    /// All flags that have a meaning.
    pub const KNOWN: u32 = HAS_MAX | MUTABLE | INDEX_64 | SHARED;
}

/// Operations of constant expressions. Those of arithmetic take two values from the
/// stack and push one; those that make or convert references say what they take; each other pushes one.
pub mod const_op {
    /// `i32.const`; the value is the low 32 bits of `low`.
    pub const I32: u32 = 1;
    /// `i64.const`.
    pub const I64: u32 = 2;
    /// `f32.const`, as bits.
    pub const F32: u32 = 3;
    /// `f64.const`, as bits.
    pub const F64: u32 = 4;
    /// `v128.const`.
    pub const V128: u32 = 5;
    /// `global.get index`.
    pub const GLOBAL_GET: u32 = 6;
    /// `ref.func index`.
    pub const REF_FUNC: u32 = 7;
    /// `ref.null`; `index` is the value type.
    pub const REF_NULL: u32 = 8;
    /// `i32.add`.
    pub const I32_ADD: u32 = 9;
    /// `i32.sub`.
    pub const I32_SUB: u32 = 10;
    /// `i32.mul`.
    pub const I32_MUL: u32 = 11;
    /// `i64.add`.
    pub const I64_ADD: u32 = 12;
    /// `i64.sub`.
    pub const I64_SUB: u32 = 13;
    /// `i64.mul`.
    pub const I64_MUL: u32 = 14;
    /// `struct.new index`; takes a value for each field.
    pub const STRUCT_NEW: u32 = 15;
    /// `struct.new_default index`.
    pub const STRUCT_NEW_DEFAULT: u32 = 16;
    /// `array.new index`; takes a value and a length.
    pub const ARRAY_NEW: u32 = 17;
    /// `array.new_default index`; takes a length.
    pub const ARRAY_NEW_DEFAULT: u32 = 18;
    /// `array.new_fixed index low`; takes `low` values.
    pub const ARRAY_NEW_FIXED: u32 = 19;
    /// `ref.i31`; takes an `i32`.
    pub const REF_I31: u32 = 20;
    /// `any.convert_extern`; takes a reference.
    pub const ANY_CONVERT_EXTERN: u32 = 21;
    /// `extern.convert_any`; takes a reference.
    pub const EXTERN_CONVERT_ANY: u32 = 22;
}

/// Modes of element and data segments.
pub mod segment_mode {
    /// Applied at instantiation.
    pub const ACTIVE: u32 = 0;
    /// Applied by an instruction.
    pub const PASSIVE: u32 = 1;
    /// Declares functions; elements only.
    pub const DECLARED: u32 = 2;
}

/// Kinds of items of an element segment.
pub mod item_kind {
    /// Function indices.
    pub const FUNCTIONS: u32 = 0;
    /// Constant expressions.
    pub const EXPRESSIONS: u32 = 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_the_sizes_that_are_written_down() {
        let sizes = [
            size_of::<ModuleRecord>(),
            size_of::<TypeRecord>(),
            size_of::<ImportRecord>(),
            size_of::<FunctionRecord>(),
            size_of::<FuncRefRecord>(),
            size_of::<DefinedRecord>(),
            size_of::<ExportRecord>(),
            size_of::<ConstOpRecord>(),
            size_of::<ElementRecord>(),
            size_of::<ItemRecord>(),
            size_of::<DataSegmentRecord>(),
            size_of::<ImageRecord>(),
            size_of::<SiteBlockRecord>(),
            size_of::<HandlerRecord>(),
            size_of::<InlinedRecord>(),
        ];
        assert_eq!(sizes, [12, 36, 48, 16, 12, 40, 16, 24, 32, 8, 40, 32, 12, 20, 12]);
    }
}
