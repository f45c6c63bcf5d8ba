//! Modules from text, and artifacts read back.

use std::path::Path;

use cwasm_artifact::check::check;
use cwasm_artifact::module::{Module, View};
use cwasm_compiler::{Settings, parse_text};

pub(crate) fn wasm(text: &str) -> Vec<u8> {
    parse_text(text.as_bytes(), Path::new("test.wat")).unwrap().into_owned()
}

pub(crate) fn x86() -> Settings {
    Settings { target: "x86_64-unknown-linux-gnu".parse().unwrap(), ..Settings::default() }
}

pub(crate) fn read<R>(artifact: &[u8], with: impl FnOnce(View<'_>, &Module) -> R) -> R {
    let module = Module::new(&check(artifact, None).unwrap()).unwrap();
    with(module.view(artifact), &module)
}
