//! The types of WebAssembly's imports, exports and functions, as plain data.
//!
//! Section "Types" of the specification. The compiler writes them into an
//! artifact, the loader reads them back and shows them to applications.

use core::fmt;

pub use crate::reference::{HeapType, RefType, TypeRef};

/// The type of a value (specification, 2.3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ValType {
    /// A 32-bit integer.
    I32,
    /// A 64-bit integer.
    I64,
    /// A 32-bit IEEE 754 number.
    F32,
    /// A 64-bit IEEE 754 number.
    F64,
    /// A 128-bit vector.
    V128,
    /// A reference.
    Ref(RefType),
}

#[expect(non_upper_case_globals, reason = "they are named like the variants beside them")]
impl ValType {
    /// A reference to a function, or null.
    pub const FuncRef: Self = Self::Ref(RefType::FUNC);
    /// A reference to a value of the host, or null.
    pub const ExternRef: Self = Self::Ref(RefType::EXTERN);
    /// A reference to an exception, or null.
    pub const ExnRef: Self = Self::Ref(RefType::EXN);
}

impl ValType {
    /// The number of the type in an artifact; of most types, their byte in a wasm module.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::I32 => 0x7f,
            Self::I64 => 0x7e,
            Self::F32 => 0x7d,
            Self::F64 => 0x7c,
            Self::V128 => 0x7b,
            Self::Ref(ty) => ty.code(),
        }
    }

    /// The type with this number.
    #[must_use]
    pub const fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            0x7f => Self::I32,
            0x7e => Self::I64,
            0x7d => Self::F32,
            0x7c => Self::F64,
            0x7b => Self::V128,
            code => match RefType::from_code(code) {
                Some(ty) => Self::Ref(ty),
                None => return None,
            },
        })
    }

    /// Whether values of the type are references.
    #[must_use]
    pub const fn is_ref(self) -> bool {
        matches!(self, Self::Ref(_))
    }

    /// Whether there is a value that variables of the type begin with: zero, or null.
    #[must_use]
    pub const fn has_default(self) -> bool {
        !matches!(self, Self::Ref(RefType { nullable: false, .. }))
    }

    /// Whether the type is a subtype of another.
    #[must_use]
    pub fn matches(self, wanted: Self) -> bool {
        match (self, wanted) {
            (Self::Ref(found), Self::Ref(wanted)) => found.matches(wanted),
            _ => self == wanted,
        }
    }
}

impl From<RefType> for ValType {
    fn from(ty: RefType) -> Self {
        Self::Ref(ty)
    }
}

impl fmt::Display for ValType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::V128 => "v128",
            Self::Ref(ty) => return ty.fmt(f),
        })
    }
}

/// The type of a function (specification, 2.3.6).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FuncType {
    /// Types of the parameters.
    pub params: Vec<ValType>,
    /// Types of the results.
    pub results: Vec<ValType>,
}

impl FuncType {
    /// A type from its parameters and results.
    pub fn new(
        params: impl IntoIterator<Item = ValType>,
        results: impl IntoIterator<Item = ValType>,
    ) -> Self {
        Self { params: params.into_iter().collect(), results: results.into_iter().collect() }
    }
}

impl fmt::Display for FuncType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, "func")
    }
}

impl FuncType {
    fn write(&self, f: &mut fmt::Formatter<'_>, kind: &str) -> fmt::Result {
        write!(f, "({kind}")?;
        for (word, types) in [("param", &self.params), ("result", &self.results)] {
            if !types.is_empty() {
                write!(f, " ({word}")?;
                for ty in types {
                    write!(f, " {ty}")?;
                }
                f.write_str(")")?;
            }
        }
        f.write_str(")")
    }
}

/// Size bounds of a memory (in pages) or a table (in elements).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Limits {
    /// The initial size.
    pub min: u64,
    /// The size that is never exceeded, if there is one.
    pub max: Option<u64>,
}

impl Limits {
    /// Whether something that is now `size` large and has these limits may be
    /// imported where `wanted` is asked for (specification, 4.5.4).
    #[must_use]
    pub fn matches(&self, size: u64, wanted: &Self) -> bool {
        size >= wanted.min
            && match (self.max, wanted.max) {
                (_, None) => true,
                (Some(have), Some(want)) => have <= want,
                (None, Some(_)) => false,
            }
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.min)?;
        self.max.map_or(Ok(()), |max| write!(f, " {max}"))
    }
}

/// The type of a linear memory. Sizes are in pages of 64 KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MemoryType {
    /// Size bounds in pages.
    pub limits: Limits,
}

impl MemoryType {
    /// The size of a page in bytes.
    pub const PAGE_SIZE: u64 = 65536;
    /// The largest number of pages that a memory with 32-bit addresses has.
    pub const MAX_PAGES: u64 = 65536;
}

impl fmt::Display for MemoryType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "(memory {})", self.limits)
    }
}

/// The type of a table. Sizes are in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TableType {
    /// The type of the elements, a reference type.
    pub element: ValType,
    /// Size bounds in elements.
    pub limits: Limits,
}

impl fmt::Display for TableType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "(table {} {})", self.limits, self.element)
    }
}

/// The type of a global.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GlobalType {
    /// The type of the value.
    pub value: ValType,
    /// Whether the value can change.
    pub mutable: bool,
}

impl fmt::Display for GlobalType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.mutable {
            write!(f, "(global (mut {}))", self.value)
        } else {
            write!(f, "(global {})", self.value)
        }
    }
}

/// The type of a tag: what exceptions with the tag carry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TagType {
    /// The types of the values.
    pub params: Vec<ValType>,
}

impl TagType {
    /// A type from the types of the values.
    pub fn new(params: impl IntoIterator<Item = ValType>) -> Self {
        Self { params: params.into_iter().collect() }
    }
}

impl fmt::Display for TagType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        FuncType { params: self.params.clone(), results: Vec::new() }.write(f, "tag")
    }
}

/// The type of an import or export.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExternType {
    /// A function.
    Func(FuncType),
    /// A table.
    Table(TableType),
    /// A linear memory.
    Memory(MemoryType),
    /// A global.
    Global(GlobalType),
    /// A tag of exceptions.
    Tag(TagType),
}

impl fmt::Display for ExternType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Func(ty) => ty.fmt(f),
            Self::Table(ty) => ty.fmt(f),
            Self::Memory(ty) => ty.fmt(f),
            Self::Global(ty) => ty.fmt(f),
            Self::Tag(ty) => ty.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_read_like_wat() {
        let ty = FuncType::new([ValType::I32, ValType::I64], [ValType::F32]);
        assert_eq!(ty.to_string(), "(func (param i32 i64) (result f32))");
        let limits = Limits { min: 1, max: Some(2) };
        assert_eq!(MemoryType { limits }.to_string(), "(memory 1 2)");
        assert_eq!(
            TableType { element: ValType::FuncRef, limits }.to_string(),
            "(table 1 2 funcref)"
        );
        let global = GlobalType { value: ValType::I32, mutable: true };
        assert_eq!(global.to_string(), "(global (mut i32))");
    }

    #[test]
    fn limits_match_as_the_specification_says() {
        let have = Limits { min: 1, max: Some(3) };
        assert!(have.matches(2, &Limits { min: 2, max: None }));
        assert!(!have.matches(1, &Limits { min: 2, max: None }));
        assert!(have.matches(1, &Limits { min: 1, max: Some(3) }));
        assert!(!have.matches(1, &Limits { min: 1, max: Some(2) }));
        assert!(!Limits { min: 1, max: None }.matches(1, &Limits { min: 1, max: Some(9) }));
    }

    #[test]
    fn codes_round_trip() {
        for code in 0..=0xff {
            if let Some(ty) = ValType::from_code(code) {
                assert_eq!(ty.code(), code);
            }
        }
    }
}
