//! What machine code refers to until it is linked: functions of the module, tables in its text, and what lies behind a function's own code.
//!
//! The intermediate form names them by two numbers, the first of which says what it is.

use cranelift_codegen::ir::{UserExternalName, UserFuncName};

use crate::module::{FuncIndex, TableIndex};

/// Something whose place in the text the linker decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reference {
    /// A function.
    Function(FuncIndex),
    /// The elements of a table that never change.
    Table(TableIndex),
    /// The function that refers to it: in intermediate form what lies behind its code, and the function itself in what was generated.
    Own,
}

const FUNCTIONS: u32 = 0;
const TABLES: u32 = 1;
const OWN: u32 = 2;

impl Reference {
    /// What a name stands for.
    pub(crate) fn of(name: &UserExternalName) -> Option<Self> {
        match name.namespace {
            FUNCTIONS => Some(Self::Function(FuncIndex::from_u32(name.index))),
            TABLES => Some(Self::Table(TableIndex::from_u32(name.index))),
            OWN if name.index == 0 => Some(Self::Own),
            _ => None,
        }
    }

    /// What a function is to itself. Trampolines have no name of their own, and refer to nothing.
    pub(crate) fn of_own(name: &UserFuncName) -> Option<Self> {
        match name {
            UserFuncName::User(name) => Self::of(name),
            UserFuncName::Testcase(_) => None,
        }
    }

    /// Its name.
    pub(crate) fn name(self) -> UserExternalName {
        match self {
            Self::Function(index) => UserExternalName::new(FUNCTIONS, index.as_u32()),
            Self::Table(index) => UserExternalName::new(TABLES, index.as_u32()),
            Self::Own => UserExternalName::new(OWN, 0),
        }
    }

    /// As eight bytes.
    pub(crate) fn to_bytes(self) -> [u8; 8] {
        let UserExternalName { namespace, index } = self.name();
        (u64::from(namespace) << 32 | u64::from(index)).to_le_bytes()
    }

    /// What [`Reference::to_bytes`] wrote.
    pub(crate) fn from_bytes(bytes: [u8; 8]) -> Option<Self> {
        let [a, b, c, d, namespace @ ..] = bytes;
        let [namespace, index] = [namespace, [a, b, c, d]].map(u32::from_le_bytes);
        Self::of(&UserExternalName::new(namespace, index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_round_trip() {
        for reference in [
            Reference::Function(FuncIndex::from_u32(0)),
            Reference::Function(FuncIndex::from_u32(1 << 30)),
            Reference::Table(TableIndex::from_u32(7)),
            Reference::Own,
        ] {
            assert_eq!(Reference::of(&reference.name()), Some(reference));
            assert_eq!(Reference::from_bytes(reference.to_bytes()), Some(reference));
        }
        assert_eq!(Reference::of(&UserExternalName::new(2, 1)), None);
        assert_eq!(Reference::of(&UserExternalName::new(3, 0)), None);
    }
}
