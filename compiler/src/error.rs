//! Why a module was not compiled, worded for the person who must act.
//!
//! Offsets are byte offsets in the wasm that was given to the compiler.

use std::path::PathBuf;

/// A module that was not compiled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// The input is neither a wasm binary nor wasm text.
    #[error("this is not a WebAssembly module but {found}")]
    NotWasm {
        /// What the input looks like.
        found: &'static str,
    },
    /// The input is a component, which this compiler does not take.
    #[error(
        "this is a WebAssembly component; cwasm compiles core modules: extract one with \
         `wasm-tools component unbundle`, or build for a core target such as wasm32-wasip1"
    )]
    Component,
    /// The input ends in the middle of something.
    #[error("the module is truncated: it ends at byte {offset:#x}, where more was expected")]
    Truncated {
        /// Where the input ends.
        offset: u64,
    },
    /// The module breaks a rule of the WebAssembly specification.
    #[error("invalid module at byte {offset:#x}{}: {message}", in_function(*.function))]
    Invalid {
        /// Where the rule is broken.
        offset: u64,
        /// The function that contains the offset, if it is in a function body.
        function: Option<u32>,
        /// What is wrong.
        message: String,
    },
    /// The module is valid, but uses a feature that this version lacks.
    #[error(
        "the module uses {feature} at byte {offset:#x}{}, which this version of cwasm does not support",
        in_function(*.function)
    )]
    Unsupported {
        /// The feature's usual name.
        feature: &'static str,
        /// Where it is used first.
        offset: u64,
        /// The function that contains the offset, if it is in a function body.
        function: Option<u32>,
    },
    /// The module is too large for this compiler.
    #[error("the module has {found} {what}, and this compiler allows {limit}")]
    Limit {
        /// What there is too much of, in the plural.
        what: &'static str,
        /// How much is allowed.
        limit: u64,
        /// How much the module has.
        found: u64,
    },
    /// Wasm text that is not well-formed.
    #[error("{}:{line}:{column}: {message}", .file.display())]
    Text {
        /// The file name that the caller gave.
        file: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The column, counted from 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// The settings ask for something that cannot be done.
    #[error("{message}")]
    Settings {
        /// What cannot be done, and what can.
        message: String,
    },
    /// A function is too large or too complex for the code generator.
    #[error("function {function}{} is too large for the code generator; split it", named(.name))]
    FunctionTooLarge {
        /// The function's index in the module.
        function: u32,
        /// The function's name, if the module has one for it.
        name: Option<String>,
    },
    /// The code generator failed. Always a mistake in cwasm or in Cranelift.
    #[error("the code generator failed in {place}, which is a bug in cwasm: {message}")]
    Codegen {
        /// What was being compiled.
        place: String,
        /// The code generator's own words.
        message: String,
    },
    /// The finished artifact could not be written. Always a mistake in cwasm.
    #[error("the artifact could not be assembled, which is a bug in cwasm: {message}")]
    Assembly {
        /// Which step failed, and why.
        message: String,
    },
}

fn in_function(function: Option<u32>) -> String {
    function.map_or_else(String::new, |index| format!(" (in function {index})"))
}

fn named(name: &Option<String>) -> String {
    name.as_ref().map_or_else(String::new, |name| format!(" ({name})"))
}

impl CompileError {
    /// Adds the function to an error that was found in its body.
    pub(crate) fn within(mut self, index: u32) -> Self {
        if let Self::Invalid { function, .. } | Self::Unsupported { function, .. } = &mut self {
            *function = Some(index);
        }
        self
    }

    pub(crate) fn limit(what: &'static str, limit: u64, found: u64) -> Self {
        Self::Limit { what, limit, found }
    }
}

#[cfg(test)]
mod tests {
    use super::CompileError;

    #[test]
    fn messages_are_one_sentence_with_the_place() {
        let error = CompileError::Invalid { offset: 31, function: None, message: "bad".into() };
        assert_eq!(error.to_string(), "invalid module at byte 0x1f: bad");
        assert_eq!(error.within(3).to_string(), "invalid module at byte 0x1f (in function 3): bad");
        let error = CompileError::limit("bytes of code", 10, 11);
        assert_eq!(
            error.to_string(),
            "the module has 11 bytes of code, and this compiler allows 10"
        );
    }
}
