//! Reference types: what a reference may point to, whether it may be null, and
//! which reference types are subtypes of which (specification, 2.3.3 and 3.3.4).
//!
//! A concrete type is a function type that a module declares. [`TypeRef`]
//! names it by a number: the index of the type in the module inside of an
//! artifact, the number of the type in the process inside of a loader. Two
//! references are comparable only if the same numbering made both, and equal
//! types have equal numbers there ([`canonical`] finds such a numbering for a module).

use core::fmt;
use std::borrow::Cow;
use std::collections::HashMap;

use crate::types::{FuncType, ValType};

/// The name of a declared type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeRef {
    number: u32,
    /// Tells types apart that had the same number one after the other. Zero in a module.
    generation: u32,
}

impl TypeRef {
    /// Stands for the type itself in a type that refers to itself.
    pub const SELF: Self = Self { number: u32::MAX, generation: u32::MAX };

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

/// What a reference points to.
///
/// The types of the garbage collection proposal (`any`, `eq`, `i31`, `struct`, `array`, `none`) have
/// their place here, in `HeapType::byte` and in [`HeapType::matches`].
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
    /// A function of a declared type.
    Concrete(TypeRef),
}

impl HeapType {
    const ABSTRACT: [Self; 6] =
        [Self::Func, Self::NoFunc, Self::Extern, Self::NoExtern, Self::Exn, Self::NoExn];

    /// The byte of an abstract type in a wasm module.
    const fn byte(self) -> Option<u32> {
        Some(match self {
            Self::Func => 0x70,
            Self::NoFunc => 0x73,
            Self::Extern => 0x6f,
            Self::NoExtern => 0x72,
            Self::Exn => 0x69,
            Self::NoExn => 0x74,
            Self::Concrete(_) => return None,
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

    /// The largest type that contains this one: function, value of the host, or exception.
    #[must_use]
    pub const fn top(self) -> Self {
        match self {
            Self::Func | Self::NoFunc | Self::Concrete(_) => Self::Func,
            Self::Extern | Self::NoExtern => Self::Extern,
            Self::Exn | Self::NoExn => Self::Exn,
        }
    }

    /// Whether the type is a subtype of another.
    #[must_use]
    pub fn matches(self, wanted: Self) -> bool {
        self == wanted
            || matches!(
                (self, wanted),
                (Self::Concrete(_) | Self::NoFunc, Self::Func)
                    | (Self::NoFunc, Self::Concrete(_))
                    | (Self::NoExtern, Self::Extern)
                    | (Self::NoExn, Self::Exn)
            )
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
            Self::Concrete(ty) => return write!(f, "{}", ty.number),
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

/// Marks a reference type in a code that has a heap type above.
const NULLABLE: u32 = 0x63;
const NON_NULL: u32 = 0x64;
/// Type indices in codes are below; abstract heap types are this plus their byte.
const FIRST_ABSTRACT: u32 = 0xff_ff00;

impl RefType {
    /// `funcref`
    pub const FUNC: Self = Self { nullable: true, heap: HeapType::Func };
    /// `externref`
    pub const EXTERN: Self = Self { nullable: true, heap: HeapType::Extern };
    /// `exnref`
    pub const EXN: Self = Self { nullable: true, heap: HeapType::Exn };

    /// The type of null among references like these.
    #[must_use]
    pub const fn null(self) -> Self {
        let heap = match self.heap.top() {
            HeapType::Extern => HeapType::NoExtern,
            HeapType::Exn => HeapType::NoExn,
            _ => HeapType::NoFunc,
        };
        Self { nullable: true, heap }
    }

    /// The number of the type in an artifact.
    ///
    /// Abstract types that may be null have one byte, that of a wasm module. Others have a heap
    /// type above the byte that says whether they may be null.
    #[must_use]
    pub const fn code(self) -> u32 {
        match (self.nullable, self.heap.byte(), self.heap) {
            (true, Some(byte), _) => byte,
            (false, Some(byte), _) => NON_NULL | (FIRST_ABSTRACT | byte) << 8,
            (true, None, HeapType::Concrete(ty)) => NULLABLE | ty.number << 8,
            (false, None, HeapType::Concrete(ty)) => NON_NULL | ty.number << 8,
            // Every other type has a byte.
            (_, None, _) => 0,
        }
    }

    /// The type with this number.
    #[must_use]
    pub const fn from_code(code: u32) -> Option<Self> {
        let heap = code >> 8;
        let nullable = match code & 0xff {
            byte if heap == 0 && byte != NULLABLE && byte != NON_NULL => {
                return match HeapType::from_byte(byte) {
                    Some(heap) => Some(Self { nullable: true, heap }),
                    None => None,
                };
            }
            NULLABLE => true,
            NON_NULL => false,
            _ => return None,
        };
        let heap = if heap < FIRST_ABSTRACT {
            HeapType::Concrete(TypeRef::of_module(heap))
        } else if nullable {
            return None; // has a code of one byte
        } else {
            match HeapType::from_byte(heap - FIRST_ABSTRACT) {
                Some(heap) => heap,
                None => return None,
            }
        };
        Some(Self { nullable, heap })
    }

    /// How many types of a module references can name.
    pub const MAX_TYPES: u32 = FIRST_ABSTRACT;

    /// Whether the type is a subtype of another.
    #[must_use]
    pub fn matches(self, wanted: Self) -> bool {
        (wanted.nullable || !self.nullable) && self.heap.matches(wanted.heap)
    }
}

impl fmt::Display for RefType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let null = match self.heap {
            HeapType::Concrete(_) => None,
            HeapType::NoFunc => Some("nullfuncref"),
            HeapType::NoExtern => Some("nullexternref"),
            HeapType::NoExn => Some("nullexnref"),
            HeapType::Func => Some("funcref"),
            HeapType::Extern => Some("externref"),
            HeapType::Exn => Some("exnref"),
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
            Self::Ref(RefType { heap: HeapType::Concrete(ty), .. }) => Some(ty),
            _ => None,
        }
    }

    /// The same type by another numbering of declared types.
    #[must_use]
    pub fn renumber(self, number: impl FnOnce(TypeRef) -> TypeRef) -> Self {
        match self {
            Self::Ref(RefType { nullable, heap: HeapType::Concrete(ty) }) => {
                Self::Ref(RefType { nullable, heap: HeapType::Concrete(number(ty)) })
            }
            other => other,
        }
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

/// For each type of a module, the index of the first type that is equal to it.
///
/// Types refer to themselves and to those before them. Each is a recursion group of
/// its own, so two types are equal if they are equal after every reference is replaced: one to
/// the type itself by [`TypeRef::SELF`], another by the first that is equal to its target
/// (specification, 3.1.3). Groups of several types, of the garbage collection proposal, would be
/// keys of several types here.
#[must_use]
pub fn canonical<'a>(types: impl IntoIterator<Item = &'a FuncType>) -> Vec<u32> {
    let mut first: HashMap<Cow<'a, FuncType>, u32> = HashMap::new();
    let mut canonical: Vec<u32> = Vec::new();
    for (index, ty) in (0..).zip(types) {
        let key = if ty.values().any(|value| value.concrete().is_some()) {
            Cow::Owned(ty.renumber(|target| match target.number() {
                number if number == index => TypeRef::SELF,
                number => {
                    TypeRef::of_module(canonical.get(number as usize).copied().unwrap_or(number))
                }
            }))
        } else {
            Cow::Borrowed(ty)
        };
        canonical.push(*first.entry(key).or_insert(index));
    }
    canonical
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
        types.extend(
            [0, 1, RefType::MAX_TYPES - 1].map(|i| HeapType::Concrete(TypeRef::of_module(i))),
        );
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
        let concrete = HeapType::Concrete(TypeRef::of_module(1));
        let other = HeapType::Concrete(TypeRef::of_module(2));
        assert!(concrete.matches(HeapType::Func) && HeapType::NoFunc.matches(concrete));
        assert!(!concrete.matches(other) && !HeapType::Func.matches(concrete));
        assert!(!HeapType::NoExtern.matches(HeapType::Func));
        let non_null = RefType { nullable: false, ..RefType::FUNC };
        assert!(non_null.matches(RefType::FUNC) && !RefType::FUNC.matches(non_null));
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
        assert_eq!(canonical(&types), [0, 0, 2, 2, 4, 4]);
    }
}
