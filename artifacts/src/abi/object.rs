//! References to values that are collected, and the objects that they lead to.
//!
//! A reference has 64 bits, and is one of four things, which its lowest two bits tell apart:
//!
//! * null: zero;
//! * an integer of 31 bits: twice the integer plus [`I31`], in the low 32 bits; the others are zero;
//! * a value of the host: four times a number that is not zero, plus [`HOST`];
//! * the address of an object, a multiple of [`ALIGNMENT`]. Objects never move.
//!
//! References of types below `any` and below `extern` are all of these, so to convert one into the other takes
//! nothing.
//!
//! An object is a header, and fields or elements behind it, each at a multiple of its size ([`MAX_ALIGNMENT`] at most) and
//! elements without gaps. A packed field or element has 8 or 16 bits; references have 64.
//!
//! Code allocates from a piece of memory whose bounds are in the store context, and asks the builtin `object_new` if that is too
//! small. It writes the header and everything in the object before anything else may run. Nothing is zero at first.
//!
//! # Subtypes
//!
//! The store context leads to what is known of each type by its number: the numbers of the types that it is below,
//! in order, the highest first, and its own behind them. So a type is below another, that has so many types above it,
//! if the other's number is at that position.

use crate::types::{CompositeType, FieldType, StorageType, ValType};

/// The lowest bit of a reference that is an integer.
pub const I31: u64 = 1;
/// The lowest two bits of a reference that is a value of the host.
pub const HOST: u64 = 2;
/// The bits that tell references apart.
pub const TAG_MASK: u64 = 3;
/// What the number in a reference to a value of the host is multiplied by.
pub const HOST_SHIFT: u32 = 2;

/// `u32` in the header: identity of the object's type in this process.
pub const TYPE_ID: u32 = 0;
/// `u32` in the header: how many elements an array has; of a structure, [`NO_ARRAY`].
pub const LENGTH: u32 = 4;
/// Where fields or elements begin.
pub const FIRST: u32 = 8;
/// What a structure has in place of a length.
pub const NO_ARRAY: u32 = u32::MAX;
/// Addresses and sizes of objects are multiples of this.
pub const ALIGNMENT: u32 = 8;
/// No field needs a higher alignment.
pub const MAX_ALIGNMENT: u32 = 8;
/// No object is larger, so that no array has as many elements as a structure seems to have.
pub const MAX_SIZE: u64 = u32::MAX as u64;

/// What is known of a type at run time, by its number: what an entry of the store context's array leads to.
pub mod type_info {
    /// `u32`: identities of the types that it is below, and its own, at the positions of their depths; behind
    /// them [`NO_TYPE`] up to [`POSITIONS`] in all.
    pub const ABOVE: u32 = 0;
    /// How many positions there are: a type is below at most one fewer.
    pub const POSITIONS: u32 = 64;
    /// Not the identity of any type.
    pub const NO_TYPE: u32 = u32::MAX;
}

/// Where the fields of a structure are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StructLayout {
    /// The offset of each field from the beginning of the object.
    pub offsets: Vec<u32>,
    /// The size of the object in bytes, with its header; a multiple of [`ALIGNMENT`].
    pub size: u32,
}

impl StructLayout {
    /// The layout of a structure with these fields. Fields that are added at the end leave the others where they are.
    #[must_use]
    pub fn new(fields: &[FieldType]) -> Self {
        let mut end = FIRST;
        // At most 10,000 fields of 16 bytes.
        let mut place = |field: &FieldType| {
            let size = field.storage.size();
            let offset = end.next_multiple_of(size.min(MAX_ALIGNMENT));
            end = offset + size;
            offset
        };
        let offsets = fields.iter().map(&mut place).collect();
        Self { offsets, size: end.next_multiple_of(ALIGNMENT) }
    }
}

/// Writes down where the parts of some structure are, whose fields have all sizes.
pub(super) fn describe(text: &mut String) {
    use core::fmt::Write as _;
    let types = [
        StorageType::I8,
        StorageType::I16,
        ValType::I32.into(),
        ValType::V128.into(),
        ValType::F64.into(),
        ValType::AnyRef.into(),
    ];
    let fields = types.map(|storage| FieldType { storage, mutable: false });
    let StructLayout { offsets, size } = StructLayout::new(&fields);
    let _ = writeln!(text, "structure: {offsets:?} of {size}");
    for (name, value) in [
        ("i31", I31),
        ("value of the host", HOST),
        ("mask of references", TAG_MASK),
        ("shift of values of the host", HOST_SHIFT.into()),
        ("object.type_id", TYPE_ID.into()),
        ("object.length", LENGTH.into()),
        ("object.first", FIRST.into()),
        ("no array", NO_ARRAY.into()),
        ("largest object", MAX_SIZE),
        ("type_info.above", type_info::ABOVE.into()),
        ("type_info.positions", type_info::POSITIONS.into()),
    ] {
        let _ = writeln!(text, "{name} = {value}");
    }
}

/// The layout of a declared type, if it is a structure.
#[must_use]
pub fn struct_layout(ty: &CompositeType) -> Option<StructLayout> {
    match ty {
        CompositeType::Struct(ty) => Some(StructLayout::new(&ty.fields)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_follow_each_other_at_multiples_of_their_sizes() {
        let field = |storage| FieldType { storage, mutable: true };
        let fields = [
            field(StorageType::I8),
            field(ValType::I64.into()),
            field(StorageType::I8),
            field(StorageType::I16),
            field(ValType::F32.into()),
            field(ValType::V128.into()),
        ];
        for count in 0..=fields.len() {
            let StructLayout { offsets, size } = StructLayout::new(&fields[..count]);
            assert_eq!(offsets, [8, 16, 24, 26, 28, 32][..count]);
            assert_eq!(size, [8, 16, 24, 32, 32, 32, 48][count]);
        }
    }
}
