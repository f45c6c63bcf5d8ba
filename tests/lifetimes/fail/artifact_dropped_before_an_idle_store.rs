//! Dropping the store still looks at its artifacts.

use cwasm_lifetimes::{artifact, linker};
use cwasm_loader::{Engine, Store};

fn main() {
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let code = artifact();
    linker(&engine).instantiate(&mut store, &code).unwrap();
}
