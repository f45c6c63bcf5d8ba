//! What objects look like: their headers, and where in them references are.

use super::GRAIN;

/// The size of a header in bytes.
pub(crate) const HEADER: usize = 8;

/// What is at the start of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) type_id: u32,
    /// How many elements an array has; `u32::MAX` for a struct.
    pub(crate) length: u32,
}

/// What elements of an array lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traced {
    Nothing,
    Object,
    Exception,
}

/// What the objects of a type look like.
#[derive(Clone, Debug)]
pub(crate) enum Shape {
    /// `size` includes the header. References to objects and to exceptions are at these offsets from the start of the object.
    Struct { size: u32, objects: Box<[u32]>, exceptions: Box<[u32]> },
    /// The elements follow the header.
    Array { element_size: u32, elements: Traced },
}

impl Shape {
    /// The size of an object in bytes, as the heap counts it: with its header, and what rounds it up.
    #[inline]
    pub(crate) fn size(&self, length: u32) -> usize {
        let size = match self {
            Self::Struct { size, .. } => (*size as usize).max(HEADER),
            // No more than 2^64 - 2^33 + 9.
            Self::Array { element_size, .. } => HEADER + length as usize * *element_size as usize,
        };
        size.next_multiple_of(GRAIN)
    }
}

/// Knows the shapes of types.
pub(crate) trait Shapes {
    /// The shape of a type's objects, if there is such a type.
    fn shape(&self, type_id: u32) -> Option<&Shape>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_up_and_do_not_overflow() {
        let structure = |size| Shape::Struct { size, objects: [].into(), exceptions: [].into() };
        let array = |element_size| Shape::Array { element_size, elements: Traced::Nothing };
        for (shape, length, size) in [
            (structure(0), u32::MAX, 8),
            (structure(8), u32::MAX, 8),
            (structure(13), u32::MAX, 16),
            (structure(u32::MAX), u32::MAX, 1 << 32),
            (array(1), 0, 8),
            (array(1), 9, 24),
            (array(16), 3, 56),
            (array(u32::MAX), u32::MAX, usize::MAX - (1 << 33) + 17),
        ] {
            assert_eq!(shape.size(length), size, "{shape:?} {length}");
        }
    }
}
