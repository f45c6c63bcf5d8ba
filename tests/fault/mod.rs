//! What tests of faults share: numbers that look random and are not, children to
//! crash in, artifacts to damage.

pub mod child;
pub mod mutants;
pub mod process;
pub mod random;
