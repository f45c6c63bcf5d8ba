//! Index types: a number that counts functions cannot be used as one that
//! counts types, or as an offset in the code.

use cranelift_codegen::entity::entity_impl;

/// Declares an index type and its printed prefix.
macro_rules! index {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u32);
        entity_impl!($name, $prefix);
    )*};
}

index! {
    /// A function of the module, imported ones first.
    FuncIndex = "func";
    /// A function that the module defines, counted without the imports.
    DefinedFuncIndex = "code";
    /// An entry of the type section.
    TypeIndex = "type";
    /// A table of the module, imported ones first.
    TableIndex = "table";
    /// A memory of the module, imported ones first.
    MemoryIndex = "memory";
    /// A global of the module, imported ones first.
    GlobalIndex = "global";
    /// A tag of the module, imported ones first.
    TagIndex = "tag";
    /// A global that the module defines, counted without the imports.
    DefinedGlobalIndex = "storage";
    /// A defined function that needs a function reference in the vmctx.
    FuncRefIndex = "ref";
}
