//! Value types, function types and the types of what is imported or exported,
//! free of everything that this version does not compile.

use super::index::TypeIndex;

/// The type of a wasm value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ValueType {
    /// A 32-bit integer.
    I32,
    /// A 64-bit integer.
    I64,
    /// A 32-bit float.
    F32,
    /// A 64-bit float.
    F64,
    /// A reference to a function, or null.
    FuncRef,
    /// A reference to something of the host, or null.
    ExternRef,
}

impl ValueType {
    /// The type, or `None` for one that only later proposals have.
    pub(crate) fn of(ty: wasmparser::ValType) -> Option<Self> {
        use wasmparser::ValType;
        Some(match ty {
            ValType::I32 => Self::I32,
            ValType::I64 => Self::I64,
            ValType::F32 => Self::F32,
            ValType::F64 => Self::F64,
            ValType::V128 => return None,
            ValType::Ref(reference) => return Self::of_reference(reference),
        })
    }

    pub(crate) fn of_reference(ty: wasmparser::RefType) -> Option<Self> {
        match ty {
            wasmparser::RefType::FUNCREF => Some(Self::FuncRef),
            wasmparser::RefType::EXTERNREF => Some(Self::ExternRef),
            _ => None,
        }
    }

    /// Whether values of the type are references.
    #[must_use]
    pub fn is_reference(self) -> bool {
        matches!(self, Self::FuncRef | Self::ExternRef)
    }
}

/// Parameters and results of a function.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FuncType {
    /// The types of the parameters.
    pub params: Box<[ValueType]>,
    /// The types of the results.
    pub results: Box<[ValueType]>,
}

/// A table's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableType {
    /// The type of its elements, a reference.
    pub element: ValueType,
    /// How many elements it has at first.
    pub minimum: u32,
    /// How many elements it may have.
    pub maximum: Option<u32>,
}

impl TableType {
    /// The number of elements, if it can never change. A table that is
    /// imported as such a type has exactly this many elements too.
    #[must_use]
    pub fn fixed_length(&self) -> Option<u32> {
        (self.maximum == Some(self.minimum)).then_some(self.minimum)
    }
}

/// A memory's type, in pages of 64 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryType {
    /// How many pages it has at first.
    pub minimum: u64,
    /// How many pages it may have.
    pub maximum: Option<u64>,
}

/// A global's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GlobalType {
    /// The type of its value.
    pub value: ValueType,
    /// Whether it can be assigned to.
    pub mutable: bool,
}

/// The type of something imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExternType {
    /// A function of this type.
    Func(TypeIndex),
    /// A table.
    Table(TableType),
    /// A memory.
    Memory(MemoryType),
    /// A global.
    Global(GlobalType),
}
