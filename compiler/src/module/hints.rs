//! Branch hints: the custom section `metadata.code.branch_hint`, in which a
//! compiler says which way a branch usually goes. It is advice: what is malformed is
//! ignored.

use std::collections::BTreeMap;

use wasmparser::{BinaryReader, BranchHint, BranchHintFunction, CustomSectionReader};

use super::index::FuncIndex;

/// The section's name.
const SECTION: &str = "metadata.code.branch_hint";

/// Hints of all functions.
#[derive(Debug, Default)]
pub struct BranchHints(BTreeMap<FuncIndex, Vec<(u32, bool)>>);

impl BranchHints {
    /// Reads a custom section, if it is one of branch hints.
    pub(super) fn read(&mut self, section: &CustomSectionReader<'_>) {
        if section.name() != SECTION {
            return;
        }
        let reader = BinaryReader::new(section.data(), section.data_offset());
        let Ok(functions) = wasmparser::SectionLimited::<BranchHintFunction<'_>>::new(reader)
        else {
            return;
        };
        for function in functions {
            let Ok(function) = function else { return };
            let mut hints: Vec<(u32, bool)> = function
                .hints
                .into_iter()
                .map_while(Result::ok)
                .map(|BranchHint { func_offset, taken }| (func_offset, taken))
                .collect();
            hints.sort_by_key(|(offset, _)| *offset);
            self.0.insert(FuncIndex::from_u32(function.func), hints);
        }
    }

    /// The hints of a function, by the offset in its body, ascending.
    #[must_use]
    pub fn of(&self, function: FuncIndex) -> &[(u32, bool)] {
        self.0.get(&function).map_or(&[], Vec::as_slice)
    }
}
