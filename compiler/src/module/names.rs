//! The `name` custom section. It is advice: a malformed one is ignored.

use super::index::FuncIndex;
use cranelift_codegen::entity::SecondaryMap;
use wasmparser::{KnownCustom, Name};

/// Names from the module's `name` section.
#[derive(Debug, Default)]
pub struct Names<'wasm> {
    /// The module's own name.
    pub module: Option<&'wasm str>,
    functions: SecondaryMap<FuncIndex, Option<&'wasm str>>,
}

impl<'wasm> Names<'wasm> {
    /// Reads a custom section, if it is a `name` section. Names for functions
    /// from `function_count` on are ignored, since there are none.
    pub(super) fn read(
        &mut self,
        section: &wasmparser::CustomSectionReader<'wasm>,
        function_count: usize,
    ) {
        let KnownCustom::Name(subsections) = section.as_known() else { return };
        for subsection in subsections {
            match subsection {
                Ok(Name::Module { name, .. }) => self.module = Some(name),
                Ok(Name::Function(map)) => {
                    for naming in map {
                        let Ok(naming) = naming else { return };
                        if (naming.index as usize) < function_count {
                            self.functions[FuncIndex::from_u32(naming.index)] = Some(naming.name);
                        }
                    }
                }
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }

    /// The name of a function.
    #[must_use]
    pub fn function(&self, index: FuncIndex) -> Option<&'wasm str> {
        self.functions[index]
    }
}
