//! The types of WebAssembly's imports, exports and functions, as plain data.
//!
//! Section "Types" of the specification. The compiler writes them into an
//! artifact, the loader reads them back and shows them to applications.

use core::fmt;

pub use crate::composite::{CompositeType, FieldType, StorageType, StructType, SubType};
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
    /// A reference to any other value, or null.
    pub const AnyRef: Self = Self::Ref(RefType::ANY);
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

    /// Whether the type is a subtype of another. `declared` says so of two declared types that differ.
    #[must_use]
    pub fn matches(self, wanted: Self, declared: impl FnOnce(TypeRef, TypeRef) -> bool) -> bool {
        match (self, wanted) {
            (Self::Ref(found), Self::Ref(wanted)) => found.matches(wanted, declared),
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

impl Limits {
    /// Whether neither size exceeds `largest`.
    #[must_use]
    pub fn within(&self, largest: u64) -> bool {
        self.min <= largest && self.max.is_none_or(|max| max <= largest)
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.min)?;
        self.max.map_or(Ok(()), |max| write!(f, " {max}"))
    }
}

/// The type of the addresses of a memory, or of the indices of a table
/// (specification, 2.3.9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum IndexType {
    /// 32 bits.
    #[default]
    I32,
    /// 64 bits.
    I64,
}

impl IndexType {
    /// The type of an operand that is such an index.
    #[must_use]
    pub const fn value(self) -> ValType {
        match self {
            Self::I32 => ValType::I32,
            Self::I64 => ValType::I64,
        }
    }

    /// The largest number of the type.
    #[must_use]
    pub const fn max(self) -> u64 {
        match self {
            Self::I32 => u32::MAX as u64,
            Self::I64 => u64::MAX,
        }
    }

    /// What the text format writes before limits.
    const fn prefix(self) -> &'static str {
        match self {
            Self::I32 => "",
            Self::I64 => "i64 ",
        }
    }
}

/// The type of a linear memory. Sizes are in pages of the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemoryType {
    /// Size bounds in pages.
    pub limits: Limits,
    /// The type of its addresses.
    pub index: IndexType,
    /// The size of a page is two to the power of this. 16, or 0 in a memory with a custom page size.
    pub page_size_log2: u8,
    /// Whether several threads may use it at the same time. It has a maximum then.
    pub shared: bool,
}

impl Default for MemoryType {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl MemoryType {
    /// The usual size of a page in bytes.
    pub const PAGE_SIZE: u64 = 65536;
    /// The usual size of a page as a power of two.
    pub const PAGE_SIZE_LOG2: u8 = 16;
    /// The largest number of pages that an ordinary memory with 32-bit addresses has.
    pub const MAX_PAGES: u64 = 65536;

    /// An ordinary memory: 32-bit addresses, pages of 64 KiB, not shared.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self { limits, index: IndexType::I32, page_size_log2: Self::PAGE_SIZE_LOG2, shared: false }
    }

    /// The size of a page in bytes. A size that no memory has counts as 64 KiB.
    #[must_use]
    pub const fn page_size(&self) -> u64 {
        1 << if self.page_size_log2 == 0 { 0 } else { Self::PAGE_SIZE_LOG2 }
    }

    /// The largest number of pages that any memory of such addresses and pages has. Its
    /// size is itself an address, unless pages are larger than a byte.
    #[must_use]
    pub const fn max_pages(&self) -> u64 {
        if self.page_size_log2 == 0 {
            self.index.max()
        } else {
            (self.index.max() >> Self::PAGE_SIZE_LOG2) + 1
        }
    }

    /// The size of so many pages in bytes, or `None` if it exceeds 64 bits.
    #[must_use]
    pub const fn bytes(&self, pages: u64) -> Option<u64> {
        pages.checked_mul(self.page_size())
    }

    /// What is wrong with the type, if no memory can have it.
    #[must_use]
    pub fn problem(&self) -> Option<&'static str> {
        if self.page_size_log2 != 0 && self.page_size_log2 != Self::PAGE_SIZE_LOG2 {
            return Some("the size of its pages is unknown");
        }
        if self.limits.max.is_some_and(|max| max < self.limits.min) {
            return Some("the minimum exceeds the maximum");
        }
        if !self.limits.within(self.max_pages()) {
            return Some("the memory is larger than its addresses reach");
        }
        if self.shared && self.limits.max.is_none() {
            return Some("the memory is shared and has no maximum");
        }
        None
    }

    /// Whether a memory of this type may be imported as `wanted`, apart from its limits.
    #[must_use]
    pub fn is_like(&self, wanted: &Self) -> bool {
        let Self { limits: _, index, page_size_log2, shared } = *self;
        (index, page_size_log2, shared) == (wanted.index, wanted.page_size_log2, wanted.shared)
    }
}

impl fmt::Display for MemoryType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "(memory {}{}", self.index.prefix(), self.limits)?;
        if self.shared {
            f.write_str(" shared")?;
        }
        if self.page_size_log2 != Self::PAGE_SIZE_LOG2 {
            write!(f, " (pagesize {})", self.page_size())?;
        }
        f.write_str(")")
    }
}

/// The type of a table. Sizes are in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TableType {
    /// The type of the elements, a reference type.
    pub element: ValType,
    /// Size bounds in elements.
    pub limits: Limits,
    /// The type of its indices.
    pub index: IndexType,
}

impl TableType {
    /// A table with 32-bit indices.
    #[must_use]
    pub const fn new(element: ValType, limits: Limits) -> Self {
        Self { element, limits, index: IndexType::I32 }
    }
}

impl fmt::Display for TableType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "(table {}{} {})", self.index.prefix(), self.limits, self.element)
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
        let memory = MemoryType::new(limits);
        assert_eq!(memory.to_string(), "(memory 1 2)");
        let memory = MemoryType { shared: true, index: IndexType::I64, ..memory };
        assert_eq!(memory.to_string(), "(memory i64 1 2 shared)");
        let memory = MemoryType { page_size_log2: 0, ..MemoryType::new(limits) };
        assert_eq!(memory.to_string(), "(memory 1 2 (pagesize 1))");
        let table = TableType::new(ValType::FuncRef, limits);
        assert_eq!(table.to_string(), "(table 1 2 funcref)");
        let table = TableType { index: IndexType::I64, ..table };
        assert_eq!(table.to_string(), "(table i64 1 2 funcref)");
        let global = GlobalType { value: ValType::I32, mutable: true };
        assert_eq!(global.to_string(), "(global (mut i32))");
    }

    #[test]
    fn the_largest_memory_is_as_large_as_its_addresses_allow() {
        let memory =
            |index, page_size_log2| MemoryType { index, page_size_log2, ..MemoryType::default() };
        assert_eq!(memory(IndexType::I32, 16).max_pages(), 1 << 16);
        assert_eq!(memory(IndexType::I64, 16).max_pages(), 1 << 48);
        assert_eq!(memory(IndexType::I32, 0).max_pages(), u64::from(u32::MAX));
        assert_eq!(memory(IndexType::I64, 0).max_pages(), u64::MAX);
        assert_eq!(memory(IndexType::I64, 16).bytes(1 << 48), None);
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
