//! Trap codes: why an instruction of compiled code stops a program.
//!
//! The codes are stored in the site table of an artifact, one byte each. Zero
//! is no trap (the site is the return address of a call).

/// The reason for a trap, as the site table of an artifact records it.
///
/// Messages are those of the WebAssembly specification's reference
/// interpreter where it has one, so that scripts which compare them work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[non_exhaustive]
pub enum Trap {
    /// `unreachable` was executed.
    Unreachable = 1,
    /// A load, store or bulk operation left its linear memory.
    MemoryOutOfBounds = 2,
    /// A table access left its table.
    TableOutOfBounds = 3,
    /// `call_indirect` with an index outside the table.
    UndefinedElement = 4,
    /// `call_indirect` through a null entry.
    UninitializedElement = 5,
    /// `call_indirect` to a function of another type.
    IndirectCallTypeMismatch = 6,
    /// An integer division by zero.
    IntegerDivisionByZero = 7,
    /// A signed division overflowed, or a float did not fit into an integer.
    IntegerOverflow = 8,
    /// A NaN was converted to an integer.
    InvalidConversionToInteger = 9,
    /// The stack limit of the store was reached.
    StackOverflow = 10,
    /// The fuel of the store was used up.
    OutOfFuel = 11,
    /// The deadline of the store passed.
    Interrupted = 12,
    /// A null reference was used where a value was needed.
    NullReference = 13,
    /// A host function returned an error or panicked; the store holds it.
    HostError = 14,
    /// An atomic access to an address that is not a multiple of its size.
    UnalignedAtomic = 15,
    /// A wait in a memory that is not shared, which nobody could end.
    UnsharedWait = 16,
    /// An exception was thrown, and wasm did not catch it; the store holds it.
    UncaughtException = 17,
    /// The store may not hold another exception.
    TooManyExceptions = 18,
    /// `call_ref` of null.
    NullFunctionReference = 19,
    /// A field of null.
    NullStructReference = 20,
    /// An element, or the length, of null.
    NullArrayReference = 21,
    /// The integer in null.
    NullI31Reference = 22,
    /// An element that an array does not have.
    ArrayOutOfBounds = 23,
    /// A reference was not of the type that it was cast to.
    CastFailure = 24,
    /// The store may not have more memory for objects.
    OutOfObjectMemory = 25,
}

impl Trap {
    /// Every trap, in the order of its codes.
    pub const ALL: [Self; 25] = [
        Self::Unreachable,
        Self::MemoryOutOfBounds,
        Self::TableOutOfBounds,
        Self::UndefinedElement,
        Self::UninitializedElement,
        Self::IndirectCallTypeMismatch,
        Self::IntegerDivisionByZero,
        Self::IntegerOverflow,
        Self::InvalidConversionToInteger,
        Self::StackOverflow,
        Self::OutOfFuel,
        Self::Interrupted,
        Self::NullReference,
        Self::HostError,
        Self::UnalignedAtomic,
        Self::UnsharedWait,
        Self::UncaughtException,
        Self::TooManyExceptions,
        Self::NullFunctionReference,
        Self::NullStructReference,
        Self::NullArrayReference,
        Self::NullI31Reference,
        Self::ArrayOutOfBounds,
        Self::CastFailure,
        Self::OutOfObjectMemory,
    ];

    /// The code in the site table.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The trap with this code, if there is one.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        if code == 0 || code as usize > Self::ALL.len() {
            return None;
        }
        Some(Self::ALL[code as usize - 1])
    }

    /// What happened, in the words of the specification's test suite.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::MemoryOutOfBounds => "out of bounds memory access",
            Self::TableOutOfBounds => "out of bounds table access",
            Self::UndefinedElement => "undefined element",
            Self::UninitializedElement => "uninitialized element",
            Self::IndirectCallTypeMismatch => "indirect call type mismatch",
            Self::IntegerDivisionByZero => "integer divide by zero",
            Self::IntegerOverflow => "integer overflow",
            Self::InvalidConversionToInteger => "invalid conversion to integer",
            Self::StackOverflow => "call stack exhausted",
            Self::OutOfFuel => "all fuel consumed",
            Self::Interrupted => "interrupted",
            Self::NullReference => "null reference",
            Self::HostError => "error in a host function",
            Self::UnalignedAtomic => "unaligned atomic",
            Self::UnsharedWait => "expected shared memory",
            Self::UncaughtException => "unhandled exception",
            Self::TooManyExceptions => "too many exceptions",
            Self::NullFunctionReference => "null function reference",
            Self::NullStructReference => "null structure reference",
            Self::NullArrayReference => "null array reference",
            Self::NullI31Reference => "null i31 reference",
            Self::ArrayOutOfBounds => "out of bounds array access",
            Self::CastFailure => "cast failure",
            Self::OutOfObjectMemory => "out of memory for objects",
        }
    }
}

impl core::fmt::Display for Trap {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.message())
    }
}

#[cfg(test)]
mod tests {
    use super::Trap;

    #[test]
    fn codes_are_dense_and_round_trip() {
        for (index, trap) in Trap::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(trap.code()), index + 1);
            assert_eq!(Trap::from_code(trap.code()), Some(trap));
        }
        assert_eq!(Trap::from_code(0), None);
        assert_eq!(Trap::from_code(26), None);
    }
}
