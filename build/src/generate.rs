//! The code that `embedded!` and `installed!` stand for: one expression each.

use std::fmt::Write as _;

use cwasm_artifact::digest::Digest;

use crate::Output;

fn digest(digest: Digest) -> String {
    let mut text = String::from("::cwasm_loader::Digest([");
    for byte in digest.0 {
        // Writing to a `String` does not fail.
        let _ = write!(text, "{byte}, ");
    }
    text + "])"
}

/// The artifact as a static, aligned to the pages of its target.
pub(crate) fn embedded(output: &Output, length: usize, page: u32) -> String {
    format!(
        "{{\n    #[repr(C, align({page}))]\n    struct Aligned([u8; {length}]);\n    \
         static ARTIFACT: Aligned = Aligned(*include_bytes!({:?}));\n    \
         ::cwasm_loader::Embedded::new(&ARTIFACT.0, {})\n}}\n",
        output.artifact,
        digest(output.digest)
    )
}

/// The artifact as a symbol that the linker defines.
pub(crate) fn linked(output: &Output, symbol: &str, length: usize) -> String {
    format!(
        "{{\n    unsafe extern \"C\" {{\n        static {symbol}: [u8; {length}];\n    }}\n    \
         // SAFETY: the build script links an object that defines the symbol as this many\n    \
         // bytes, which are read-only.\n    \
         ::cwasm_loader::Embedded::new(unsafe {{ &{symbol} }}, {})\n}}\n",
        digest(output.digest)
    )
}

/// The name of the file.
pub(crate) fn installed(output: &Output) -> String {
    let file_name = format!("{}.cwasm", output.name);
    format!("::cwasm_loader::Installed::new({file_name:?}, {})\n", digest(output.digest))
}
