//! Reference types: what a reference may point to, whether it may be null, and
//! which reference types are subtypes of which (specification, 2.3.3 and 3.3.4).
//!
//! A concrete type is one that a module declares. [`TypeRef`]
//! names it by a number: the index of the type in the module inside of an
//! artifact, the number of the type in the process inside of a loader. Two
//! references are comparable only if the same numbering made both, and equal
//! types have equal numbers there ([`canonical`] finds such a numbering for a module).
//! Which concrete types are subtypes of which is known to whoever numbers them.

use core::fmt;
use std::borrow::Cow;
use std::collections::HashMap;

use crate::composite::SubType;
use crate::types::{FuncType, ValType};

/// The name of a declared type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeRef {
    number: u32,
    /// Tells types apart that had the same number one after the other. Zero in a module.
    generation: u32,
}

impl TypeRef {
    /// Stands for the type at this position of a recursion group, in a type of the group.
    #[must_use]
    pub const fn within_group(position: u32) -> Self {
        Self { number: position, generation: u32::MAX }
    }

    /// The position in its own recursion group, if it stands for a type there.
    #[must_use]
    pub const fn position_in_group(self) -> Option<u32> {
        if self.generation == u32::MAX { Some(self.number) } else { None }
    }

    /// The type with this index in its module.
    #[must_use]
    pub const fn of_module(index: u32) -> Self {
        Self { number: index, generation: 0 }
    }

    /// The type with this number in a registry that uses numbers again.
    #[must_use]
    pub const fn new(number: u32, generation: u32) -> Self {
        Self { number, generation }
    }

    /// The number or index.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.number
    }

    /// How often the number was used for another type before.
    #[must_use]
    pub const fn generation(self) -> u32 {
        self.generation
    }
}

/// What a reference points to (specification, 2.3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HeapType {
    /// Any function.
    Func,
    /// No function.
    NoFunc,
    /// Any value of the host.
    Extern,
    /// No value of the host.
    NoExtern,
    /// Any exception.
    Exn,
    /// No exception.
    NoExn,
    /// Any value of wasm that is no function, or a value of the host that became one.
    Any,
    /// Any value that can be compared with others: a structure, an array or a small integer.
    Eq,
    /// An integer of 31 bits.
    I31,
    /// Any structure.
    Struct,
    /// Any array.
    Array,
    /// No value.
    None,
    /// A function of a declared type.
    Concrete(TypeRef),
    /// A structure of a declared type.
    ConcreteStruct(TypeRef),
    /// An array of a declared type.
    ConcreteArray(TypeRef),
}

impl HeapType {
    const ABSTRACT: [Self; 12] = [
        Self::Func,
        Self::NoFunc,
        Self::Extern,
        Self::NoExtern,
        Self::Exn,
        Self::NoExn,
        Self::Any,
        Self::Eq,
        Self::I31,
        Self::Struct,
        Self::Array,
        Self::None,
    ];

    /// The byte of an abstract type in a wasm module.
    const fn byte(self) -> Option<u32> {
        Some(match self {
            Self::Func => 0x70,
            Self::NoFunc => 0x73,
            Self::Extern => 0x6f,
            Self::NoExtern => 0x72,
            Self::Exn => 0x69,
            Self::NoExn => 0x74,
            Self::Any => 0x6e,
            Self::Eq => 0x6d,
            Self::I31 => 0x6c,
            Self::Struct => 0x6b,
            Self::Array => 0x6a,
            Self::None => 0x71,
            Self::Concrete(_) | Self::ConcreteStruct(_) | Self::ConcreteArray(_) => return None,
        })
    }

    const fn from_byte(byte: u32) -> Option<Self> {
        let mut position = 0;
        while position < Self::ABSTRACT.len() {
            let ty = Self::ABSTRACT[position];
            if matches!(ty.byte(), Some(known) if known == byte) {
                return Some(ty);
            }
            position += 1;
        }
        None
    }

    /// The declared type, if it is one.
    #[must_use]
    pub const fn concrete(self) -> Option<TypeRef> {
        match self {
            Self::Concrete(ty) | Self::ConcreteStruct(ty) | Self::ConcreteArray(ty) => Some(ty),
            _ => None,
        }
    }

    /// The same type by another numbering of declared types.
    #[must_use]
    pub fn renumber(self, number: impl FnOnce(TypeRef) -> TypeRef) -> Self {
        match self {
            Self::Concrete(ty) => Self::Concrete(number(ty)),
            Self::ConcreteStruct(ty) => Self::ConcreteStruct(number(ty)),
            Self::ConcreteArray(ty) => Self::ConcreteArray(number(ty)),
            other => other,
        }
    }

    /// The largest type that contains this one: function, value of the host, exception, or any other value.
    #[must_use]
    pub const fn top(self) -> Self {
        match self {
            Self::Func | Self::NoFunc | Self::Concrete(_) => Self::Func,
            Self::Extern | Self::NoExtern => Self::Extern,
            Self::Exn | Self::NoExn => Self::Exn,
            Self::Any
            | Self::Eq
            | Self::I31
            | Self::Struct
            | Self::Array
            | Self::None
            | Self::ConcreteStruct(_)
            | Self::ConcreteArray(_) => Self::Any,
        }
    }

    /// The smallest type that this one contains, which has no values.
    #[must_use]
    pub const fn bottom(self) -> Self {
        match self.top() {
            Self::Extern => Self::NoExtern,
            Self::Exn => Self::NoExn,
            Self::Any => Self::None,
            _ => Self::NoFunc,
        }
    }

    /// Whether values of the type may be objects that are collected, or integers and values of the host in their place.
    #[must_use]
    pub const fn is_collected(self) -> bool {
        matches!(self.top(), Self::Any | Self::Extern)
    }

    /// Whether the type is a subtype of another. `declared` says so of two declared types that differ.
    #[must_use]
    pub fn matches(self, wanted: Self, declared: impl FnOnce(TypeRef, TypeRef) -> bool) -> bool {
        if self == wanted || self == wanted.bottom() {
            return true;
        }
        match (self, wanted) {
            (Self::Concrete(found), Self::Concrete(wanted))
            | (Self::ConcreteStruct(found), Self::ConcreteStruct(wanted))
            | (Self::ConcreteArray(found), Self::ConcreteArray(wanted)) => declared(found, wanted),
            (Self::ConcreteStruct(_), Self::Struct)
            | (Self::ConcreteArray(_), Self::Array)
            | (
                Self::I31
                | Self::Struct
                | Self::Array
                | Self::ConcreteStruct(_)
                | Self::ConcreteArray(_),
                Self::Eq,
            ) => true,
            _ => wanted == self.top(),
        }
    }
}

impl fmt::Display for HeapType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Func => "func",
            Self::NoFunc => "nofunc",
            Self::Extern => "extern",
            Self::NoExtern => "noextern",
            Self::Exn => "exn",
            Self::NoExn => "noexn",
            Self::Any => "any",
            Self::Eq => "eq",
            Self::I31 => "i31",
            Self::Struct => "struct",
            Self::Array => "array",
            Self::None => "none",
            Self::Concrete(ty) | Self::ConcreteStruct(ty) | Self::ConcreteArray(ty) => {
                return write!(f, "{}", ty.number);
            }
        })
    }
}

/// The type of a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RefType {
    /// Whether it may be null.
    pub nullable: bool,
    /// What it points to.
    pub heap: HeapType,
}

/// Marks a reference type in a code that has a heap type above: an abstract type or a function's.
const NULLABLE: u32 = 0x63;
const NON_NULL: u32 = 0x64;
/// The same for types of structures and arrays.
const NULLABLE_STRUCT: u32 = 0x53;
const NON_NULL_STRUCT: u32 = 0x54;
const NULLABLE_ARRAY: u32 = 0x43;
const NON_NULL_ARRAY: u32 = 0x44;
/// Type indices in codes are below; abstract heap types are this plus their byte.
const FIRST_ABSTRACT: u32 = 0xff_ff00;

impl RefType {
    /// `funcref`
    pub const FUNC: Self = Self { nullable: true, heap: HeapType::Func };
    /// `externref`
    pub const EXTERN: Self = Self { nullable: true, heap: HeapType::Extern };
    /// `exnref`
    pub const EXN: Self = Self { nullable: true, heap: HeapType::Exn };
    /// `anyref`
    pub const ANY: Self = Self { nullable: true, heap: HeapType::Any };

    /// The type of null among references like these.
    #[must_use]
    pub const fn null(self) -> Self {
        Self { nullable: true, heap: self.heap.bottom() }
    }

    /// The number of the type in an artifact.
    ///
    /// Abstract types that may be null have one byte, that of a wasm module. Others have a heap
    /// type above the byte that says whether they may be null.
    #[must_use]
    pub const fn code(self) -> u32 {
        let (mark, number) = match (self.heap, self.heap.byte()) {
            (_, Some(byte)) if self.nullable => return byte,
            (_, Some(byte)) => (NON_NULL, FIRST_ABSTRACT | byte),
            (HeapType::ConcreteStruct(ty), None) if self.nullable => (NULLABLE_STRUCT, ty.number),
            (HeapType::ConcreteStruct(ty), None) => (NON_NULL_STRUCT, ty.number),
            (HeapType::ConcreteArray(ty), None) if self.nullable => (NULLABLE_ARRAY, ty.number),
            (HeapType::ConcreteArray(ty), None) => (NON_NULL_ARRAY, ty.number),
            (HeapType::Concrete(ty), None) if self.nullable => (NULLABLE, ty.number),
            (HeapType::Concrete(ty), None) => (NON_NULL, ty.number),
            // Every other type has a byte.
            (_, None) => return 0,
        };
        mark | number << 8
    }

    /// The type with this number.
    #[must_use]
    pub const fn from_code(code: u32) -> Option<Self> {
        let number = code >> 8;
        let concrete = TypeRef::of_module(number);
        let (nullable, heap) = match code & 0xff {
            NULLABLE => (true, HeapType::Concrete(concrete)),
            NON_NULL => (false, HeapType::Concrete(concrete)),
            NULLABLE_STRUCT => (true, HeapType::ConcreteStruct(concrete)),
            NON_NULL_STRUCT => (false, HeapType::ConcreteStruct(concrete)),
            NULLABLE_ARRAY => (true, HeapType::ConcreteArray(concrete)),
            NON_NULL_ARRAY => (false, HeapType::ConcreteArray(concrete)),
            byte if number == 0 => {
                return match HeapType::from_byte(byte) {
                    Some(heap) => Some(Self { nullable: true, heap }),
                    None => None,
                };
            }
            _ => return None,
        };
        if number < FIRST_ABSTRACT {
            return Some(Self { nullable, heap });
        }
        // Of an abstract type that may be null, the code is one byte.
        if code & 0xff != NON_NULL {
            return None;
        }
        match HeapType::from_byte(number - FIRST_ABSTRACT) {
            Some(heap) => Some(Self { nullable, heap }),
            None => None,
        }
    }

    /// How many types of a module references can name.
    pub const MAX_TYPES: u32 = FIRST_ABSTRACT;

    /// Whether the type is a subtype of another. `declared` says so of two declared types that differ.
    #[must_use]
    pub fn matches(self, wanted: Self, declared: impl FnOnce(TypeRef, TypeRef) -> bool) -> bool {
        (wanted.nullable || !self.nullable) && self.heap.matches(wanted.heap, declared)
    }
}

impl fmt::Display for RefType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let null = match self.heap {
            HeapType::Concrete(_) | HeapType::ConcreteStruct(_) | HeapType::ConcreteArray(_) => {
                None
            }
            HeapType::NoFunc => Some("nullfuncref"),
            HeapType::NoExtern => Some("nullexternref"),
            HeapType::NoExn => Some("nullexnref"),
            HeapType::Func => Some("funcref"),
            HeapType::Extern => Some("externref"),
            HeapType::Exn => Some("exnref"),
            HeapType::Any => Some("anyref"),
            HeapType::Eq => Some("eqref"),
            HeapType::I31 => Some("i31ref"),
            HeapType::Struct => Some("structref"),
            HeapType::Array => Some("arrayref"),
            HeapType::None => Some("nullref"),
        };
        match (self.nullable, null) {
            (true, Some(short)) => f.write_str(short),
            (true, None) => write!(f, "(ref null {})", self.heap),
            (false, _) => write!(f, "(ref {})", self.heap),
        }
    }
}

impl ValType {
    /// The declared type that values of the type refer to.
    #[must_use]
    pub const fn concrete(self) -> Option<TypeRef> {
        match self {
            Self::Ref(ty) => ty.heap.concrete(),
            _ => None,
        }
    }

    /// The same type by another numbering of declared types.
    #[must_use]
    pub fn renumber(self, number: impl FnOnce(TypeRef) -> TypeRef) -> Self {
        match self {
            Self::Ref(RefType { nullable, heap }) => {
                Self::Ref(RefType { nullable, heap: heap.renumber(number) })
            }
            other => other,
        }
    }

    /// Whether values of the type may be objects that are collected, or integers and values of the host in their place.
    #[must_use]
    pub const fn is_collected(self) -> bool {
        matches!(self, Self::Ref(ty) if ty.heap.is_collected())
    }
}

impl FuncType {
    /// Parameters, then results.
    pub fn values(&self) -> impl Iterator<Item = ValType> + '_ {
        self.params.iter().chain(&self.results).copied()
    }

    /// The same type by another numbering of declared types.
    #[must_use]
    pub fn renumber(&self, mut number: impl FnMut(TypeRef) -> TypeRef) -> Self {
        let mut all = |types: &[ValType]| -> Vec<ValType> {
            types.iter().map(|ty| ty.renumber(&mut number)).collect()
        };
        Self { params: all(&self.params), results: all(&self.results) }
    }
}

/// For each type of a module, the index of the first type that is equal to it. `group_of` says of
/// each type which is the first of its recursion group.
///
/// Types refer to those before them, and to those of their own group. Two groups are equal if they are equal after
/// every reference is replaced: one to a type of the group itself by its position there, another by the first type
/// that is equal to its target. The types of equal groups are equal, one by one (specification, 3.1.3).
#[must_use]
pub fn canonical(types: &[SubType], group_of: &[u32]) -> Vec<u32> {
    let mut first: HashMap<Cow<'_, [SubType]>, u32> = HashMap::new();
    let mut canonical: Vec<u32> = Vec::with_capacity(types.len());
    while let Some(start) = group_of.get(canonical.len()).map(|_| canonical.len()) {
        let end = end_of_group(group_of, start);
        let Some(group) = types.get(start..end) else { break };
        let key = if group.iter().any(|ty| ty.referred().next().is_some()) {
            let number = |target: TypeRef| {
                let index = target.number() as usize;
                match canonical.get(index) {
                    Some(first) => TypeRef::of_module(*first),
                    // Of this group. Validation refuses others.
                    None => TypeRef::within_group(wrap(index.wrapping_sub(start))),
                }
            };
            Cow::Owned(group.iter().map(|ty| ty.renumber(number)).collect())
        } else {
            Cow::Borrowed(group)
        };
        let equal = *first.entry(key).or_insert(wrap(start));
        canonical.extend((equal..).take(group.len()));
    }
    canonical
}

/// Where the recursion group ends that begins with this type.
#[must_use]
pub fn end_of_group(group_of: &[u32], start: usize) -> usize {
    let rest = group_of.get(start..).unwrap_or_default();
    start + rest.iter().take_while(|group| **group as usize == start).count().max(1)
}

/// Indices of types have 32 bits.
fn wrap(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(index: u32) -> ValType {
        ValType::Ref(RefType {
            nullable: true,
            heap: HeapType::Concrete(TypeRef::of_module(index)),
        })
    }

    #[test]
    fn every_reference_type_has_one_code() {
        let mut types: Vec<_> = HeapType::ABSTRACT.into();
        for kind in [HeapType::Concrete, HeapType::ConcreteStruct, HeapType::ConcreteArray] {
            types.extend([0, 1, RefType::MAX_TYPES - 1].map(|i| kind(TypeRef::of_module(i))));
        }
        for heap in types {
            for nullable in [true, false] {
                let ty = RefType { nullable, heap };
                assert_eq!(RefType::from_code(ty.code()), Some(ty), "{ty}");
            }
        }
        for code in (0..0x10000).chain(0xffff_0000..=0xffff_ffff) {
            if let Some(ty) = RefType::from_code(code) {
                assert_eq!(ty.code(), code);
            }
        }
    }

    #[test]
    fn subtypes_are_those_of_the_specification() {
        let matches = |found: HeapType, wanted| found.matches(wanted, |_, _| false);
        let concrete = HeapType::Concrete(TypeRef::of_module(1));
        let other = HeapType::Concrete(TypeRef::of_module(2));
        assert!(matches(concrete, HeapType::Func) && matches(HeapType::NoFunc, concrete));
        assert!(!matches(concrete, other) && !matches(HeapType::Func, concrete));
        assert!(
            concrete.matches(other, |found, wanted| (found.number(), wanted.number()) == (1, 2))
        );
        assert!(!matches(HeapType::NoExtern, HeapType::Func));
        let non_null = RefType { nullable: false, ..RefType::FUNC };
        assert!(non_null.matches(RefType::FUNC, |_, _| false));
        assert!(!RefType::FUNC.matches(non_null, |_, _| false));
    }

    #[test]
    fn collected_types_are_below_any() {
        use HeapType::{Any, Array, ConcreteArray, ConcreteStruct, Eq, I31, None, Struct};
        let ty = TypeRef::of_module(0);
        // Each row: a type, and all that contain it.
        let rows: [(HeapType, &[HeapType]); 8] = [
            (Any, &[Any]),
            (Eq, &[Any, Eq]),
            (I31, &[Any, Eq, I31]),
            (Struct, &[Any, Eq, Struct]),
            (Array, &[Any, Eq, Array]),
            (ConcreteStruct(ty), &[Any, Eq, Struct, ConcreteStruct(ty)]),
            (ConcreteArray(ty), &[Any, Eq, Array, ConcreteArray(ty)]),
            (None, &[Any, Eq, I31, Struct, Array, ConcreteStruct(ty), ConcreteArray(ty), None]),
        ];
        let all = rows.iter().map(|(ty, _)| *ty).chain(HeapType::ABSTRACT);
        for wanted in all {
            for (found, containing) in rows {
                let expected = containing.contains(&wanted);
                assert_eq!(found.matches(wanted, |_, _| false), expected, "{found} {wanted}");
            }
        }
    }

    fn alone(types: &[FuncType]) -> Vec<u32> {
        let types: Vec<_> = types.iter().cloned().map(SubType::from).collect();
        let groups: Vec<_> = (0..).take(types.len()).collect();
        canonical(&types, &groups)
    }

    #[test]
    fn equal_types_have_one_number_also_if_they_refer_to_themselves() {
        let types = [
            FuncType::new([to(0)], []),
            FuncType::new([to(1)], []),
            // Not recursive, so not equal to what it refers to.
            FuncType::new([to(0)], []),
            FuncType::new([to(1)], []),
            FuncType::new([], [to(3)]),
            FuncType::new([], [to(2)]),
        ];
        assert_eq!(alone(&types), [0, 0, 2, 2, 4, 4]);
    }

    #[test]
    fn groups_are_equal_as_a_whole() {
        let func = |target| SubType::from(FuncType::new([to(target)], []));
        let types = [func(1), func(0), func(3), func(2), func(5), func(4), func(6), func(0)];
        // Two equal groups, one of three types that begins alike, and a type alone.
        assert_eq!(canonical(&types, &[0, 0, 2, 2, 4, 4, 4, 7]), [0, 1, 0, 1, 4, 5, 6, 7]);
        let open = SubType { is_final: false, ..func(0) };
        let below = SubType { supertype: Some(TypeRef::of_module(0)), ..func(0) };
        let types = [func(0), open, below.clone(), below];
        assert_eq!(canonical(&types, &[0, 1, 2, 3]), [0, 1, 2, 2]);
    }
}
