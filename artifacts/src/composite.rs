//! Declared types: functions, structures and arrays, and what is declared about them
//! (specification, 2.3.6 to 2.3.8).

use core::fmt;

use crate::types::{FuncType, TypeRef, ValType};

/// What a field of a structure or an element of an array holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StorageType {
    /// The low 8 bits of an `i32`.
    I8,
    /// The low 16 bits of an `i32`.
    I16,
    /// A value.
    Val(ValType),
}

impl StorageType {
    /// The number of the type in an artifact; of most types, their byte in a wasm module.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::I8 => 0x78,
            Self::I16 => 0x77,
            Self::Val(ty) => ty.code(),
        }
    }

    /// The type with this number.
    #[must_use]
    pub const fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            0x78 => Self::I8,
            0x77 => Self::I16,
            code => match ValType::from_code(code) {
                Some(ty) => Self::Val(ty),
                None => return None,
            },
        })
    }

    /// The type of values that are read and written.
    #[must_use]
    pub const fn value(self) -> ValType {
        match self {
            Self::I8 | Self::I16 => ValType::I32,
            Self::Val(ty) => ty,
        }
    }

    /// How many bytes it takes. A power of two.
    #[must_use]
    pub const fn size(self) -> u32 {
        match self {
            Self::I8 => 1,
            Self::I16 => 2,
            Self::Val(ValType::I32 | ValType::F32) => 4,
            Self::Val(ValType::V128) => 16,
            Self::Val(_) => 8,
        }
    }
}

impl From<ValType> for StorageType {
    fn from(ty: ValType) -> Self {
        Self::Val(ty)
    }
}

impl fmt::Display for StorageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::I8 => f.write_str("i8"),
            Self::I16 => f.write_str("i16"),
            Self::Val(ty) => ty.fmt(f),
        }
    }
}

/// A field of a structure, or the elements of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FieldType {
    /// What it holds.
    pub storage: StorageType,
    /// Whether it can change.
    pub mutable: bool,
}

impl FieldType {
    /// Whether a field of this type may stand where one of another is expected (specification, 3.3.10).
    #[must_use]
    pub fn matches(self, wanted: Self, declared: impl FnOnce(TypeRef, TypeRef) -> bool) -> bool {
        if self.mutable != wanted.mutable {
            return false;
        }
        match (self.storage, wanted.storage) {
            // What can change must be able to hold all of the type, and nothing else.
            (StorageType::Val(found), StorageType::Val(wanted)) if !self.mutable => {
                found.matches(wanted, declared)
            }
            (found, wanted) => found == wanted,
        }
    }
}

impl fmt::Display for FieldType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.mutable { write!(f, "(mut {})", self.storage) } else { self.storage.fmt(f) }
    }
}

/// The type of a structure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct StructType {
    /// Its fields, in order.
    pub fields: Vec<FieldType>,
}

/// What a declared type is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CompositeType {
    /// A function.
    Func(FuncType),
    /// A structure.
    Struct(StructType),
    /// An array, by its elements.
    Array(FieldType),
}

impl CompositeType {
    /// The values in it: parameters and results, fields, or elements.
    pub fn values(&self) -> impl Iterator<Item = ValType> + '_ {
        let (func, fields): (_, &[FieldType]) = match self {
            Self::Func(ty) => (Some(ty), &[]),
            Self::Struct(ty) => (None, &ty.fields),
            Self::Array(element) => (None, std::slice::from_ref(element)),
        };
        let fields = fields.iter().map(|field| field.storage.value());
        func.into_iter().flat_map(FuncType::values).chain(fields)
    }

    /// The same type by another numbering of declared types.
    #[must_use]
    pub fn renumber(&self, mut number: impl FnMut(TypeRef) -> TypeRef) -> Self {
        let mut field = |field: &FieldType| FieldType {
            storage: match field.storage {
                StorageType::Val(ty) => ty.renumber(&mut number).into(),
                packed => packed,
            },
            mutable: field.mutable,
        };
        match self {
            Self::Struct(ty) => {
                Self::Struct(StructType { fields: ty.fields.iter().map(field).collect() })
            }
            Self::Array(element) => Self::Array(field(element)),
            Self::Func(ty) => Self::Func(ty.renumber(number)),
        }
    }

    /// Whether a type of this make may be declared as a subtype of one of another (specification, 3.3.10).
    #[must_use]
    pub fn matches(&self, wanted: &Self, declared: impl Fn(TypeRef, TypeRef) -> bool) -> bool {
        let all = |found: &[ValType], wanted: &[ValType]| {
            let mut pairs = found.iter().zip(wanted);
            found.len() == wanted.len()
                && pairs.all(|(found, wanted)| found.matches(*wanted, &declared))
        };
        match (self, wanted) {
            (Self::Func(found), Self::Func(wanted)) => {
                all(&wanted.params, &found.params) && all(&found.results, &wanted.results)
            }
            (Self::Struct(found), Self::Struct(wanted)) => {
                let mut pairs = found.fields.iter().zip(&wanted.fields);
                found.fields.len() >= wanted.fields.len()
                    && pairs.all(|(found, wanted)| found.matches(*wanted, &declared))
            }
            (Self::Array(found), Self::Array(wanted)) => found.matches(*wanted, declared),
            _ => false,
        }
    }
}

impl fmt::Display for CompositeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Func(ty) => ty.fmt(f),
            Self::Struct(ty) => {
                f.write_str("(struct")?;
                ty.fields.iter().try_for_each(|field| write!(f, " (field {field})"))?;
                f.write_str(")")
            }
            Self::Array(element) => write!(f, "(array {element})"),
        }
    }
}

/// A declared type (specification, 2.3.8).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SubType {
    /// What it is made of.
    pub composite: CompositeType,
    /// Whether no type may be declared below it.
    pub is_final: bool,
    /// The type that it is declared below.
    pub supertype: Option<TypeRef>,
}

impl SubType {
    /// A type that is not a part of any hierarchy.
    #[must_use]
    pub const fn alone(composite: CompositeType) -> Self {
        Self { composite, is_final: true, supertype: None }
    }

    /// The declared types that it refers to, with its supertype.
    pub fn referred(&self) -> impl Iterator<Item = TypeRef> + '_ {
        self.composite.values().filter_map(ValType::concrete).chain(self.supertype)
    }

    /// The same type by another numbering of declared types.
    #[must_use]
    pub fn renumber(&self, mut number: impl FnMut(TypeRef) -> TypeRef) -> Self {
        Self {
            composite: self.composite.renumber(&mut number),
            is_final: self.is_final,
            supertype: self.supertype.map(number),
        }
    }

    /// The function type, if it is one.
    #[must_use]
    pub const fn func(&self) -> Option<&FuncType> {
        match &self.composite {
            CompositeType::Func(ty) => Some(ty),
            _ => None,
        }
    }

    /// The heap type that stands for the type, which has this name.
    #[must_use]
    pub const fn heap_type(&self, name: TypeRef) -> crate::types::HeapType {
        match self.composite {
            CompositeType::Func(_) => crate::types::HeapType::Concrete(name),
            CompositeType::Struct(_) => crate::types::HeapType::ConcreteStruct(name),
            CompositeType::Array(_) => crate::types::HeapType::ConcreteArray(name),
        }
    }
}

impl From<FuncType> for SubType {
    fn from(ty: FuncType) -> Self {
        Self::alone(CompositeType::Func(ty))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{HeapType, RefType};

    #[test]
    fn codes_round_trip() {
        for code in 0..=0xff {
            if let Some(ty) = StorageType::from_code(code) {
                assert_eq!(ty.code(), code);
            }
        }
    }

    fn field(storage: impl Into<StorageType>, mutable: bool) -> FieldType {
        FieldType { storage: storage.into(), mutable }
    }

    #[test]
    fn types_read_like_wat() {
        let fields = vec![field(StorageType::I8, true), field(ValType::F64, false)];
        let ty = CompositeType::Struct(StructType { fields });
        assert_eq!(ty.to_string(), "(struct (field (mut i8)) (field f64))");
        assert_eq!(
            CompositeType::Array(field(ValType::I32, true)).to_string(),
            "(array (mut i32))"
        );
    }

    fn matches(found: &CompositeType, wanted: &CompositeType) -> bool {
        found.matches(wanted, |_, _| false)
    }

    #[test]
    fn subtypes_may_be_longer_and_more_special() {
        let any = ValType::Ref(RefType::ANY);
        let i31 = ValType::Ref(RefType { nullable: false, heap: HeapType::I31 });
        let structure =
            |fields: &[FieldType]| CompositeType::Struct(StructType { fields: fields.to_vec() });
        let short = structure(&[field(any, false)]);
        let long = structure(&[field(i31, false), field(ValType::I32, true)]);
        assert!(matches(&long, &short) && !matches(&short, &long));
        // What can change is the same.
        let (short, long) = (structure(&[field(any, true)]), structure(&[field(i31, true)]));
        assert!(!matches(&long, &short) && matches(&long, &long));
        assert!(!matches(&structure(&[field(any, true)]), &structure(&[field(any, false)])));
        let func = |param, result| CompositeType::Func(FuncType::new([param], [result]));
        assert!(matches(&func(any, i31), &func(i31, any)));
        assert!(!matches(&func(i31, i31), &func(any, any)));
        let array = |element| CompositeType::Array(field(element, false));
        assert!(matches(&array(i31), &array(any)) && !matches(&array(any), &array(i31)));
        assert!(!matches(&array(any), &short));
    }
}
